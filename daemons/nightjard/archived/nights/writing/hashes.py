# SPDX-License-Identifier: BSD-3-Clause
"""What frames and raw cubes are hashed to, so that one can be proven to be in the other.

The hash of a frame is blake3 of its bytes as they stand in an uncompressed file (big-endian, the
signed integers of FITS): of a compressed cube, of the bytes that the uncompressed file would hold.
The content hash of a cube is blake3 of, one after the other, the 32 bytes each of

1. the head: everything before the data unit of the image;
2. every frame that the file holds whole, in order;
3. the tail: everything behind the last of them. Of a compressed cube, everything behind the data
   unit (places and coding of tiles are no content).

So it can be put together from the hashes of frames that were taken while products were written,
and the pixels need not be read for it again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from nightjar.fits.hdus import Reader, opened
from nightjard.archived.nights.records import CubeRef
from nightjard.archived.nights.writing.raw import RawCube
from nightjard.archived.nights.writing.raw_image import find_image

Hashes = npt.NDArray[np.uint8]

HASH_BYTES = 32
_CHUNK_BYTES = 4 << 20


def frame_hash(data: Any) -> bytes:
    """Return the hash of a frame's bytes as they stand in an uncompressed file."""
    return blake3(data).digest()


def payload_hash(hashes: Hashes) -> str:
    """Return the hash (hexadecimal) of all frames of a product, from those of its frames."""
    return blake3(hashes.tobytes()).hexdigest()


def raw_hash(head_hash: str, frame_hashes: Hashes, tail_hash: str) -> str:
    """Return the content hash of a raw cube; see the top of this module.

    Parameters
    ----------
    head_hash, tail_hash
        Hexadecimal, from :func:`cube_head`.
    frame_hashes : (n, 32)
        Of all frames that are present, in the order of the cube.
    """
    return blake3(
        bytes.fromhex(head_hash) + frame_hashes.tobytes() + bytes.fromhex(tail_hash)
    ).hexdigest()


@dataclass(frozen=True)
class CubeHead:
    """What there is around the frames of a raw cube.

    Attributes
    ----------
    size, mtime_ns
        Of the file.
    head_hash, tail_hash
        See the top of this module.
    data_offset, tail_offset
        Where the data unit begins, and where the tail does.
    frames, present
        That the header promises, and that the file holds whole.
    frame_shape, bitpix, bzero, compressed
        As in :class:`records.CubeRef`.
    """

    size: int
    mtime_ns: int
    head_hash: str
    tail_hash: str
    data_offset: int
    tail_offset: int
    frames: int
    present: int
    frame_shape: tuple[int, int]
    bitpix: int
    bzero: int
    compressed: bool

    def ref(self, number: int, path: str, stream: str = "") -> CubeRef:
        """Return the record of a plan."""
        return CubeRef(
            number, path, stream, self.size, self.mtime_ns, self.head_hash, self.data_offset,
            self.frame_shape, self.bitpix, self.bzero, self.frames, self.present, self.compressed,
        )  # fmt: skip


def cube_head(path: Path) -> CubeHead:
    """Look at a raw cube without reading its frames; the tail (tables) is read and hashed.

    Raises
    ------
    NotFits
        It holds no image.
    StorageError
        It cannot be read.
    """
    with opened(path) as (read, name):
        status = path.stat()
        image = find_image(read, name, status.st_size)
        offset = image.hdu.data_offset
        return CubeHead(
            status.st_size, status.st_mtime_ns, blake3(read(0, offset)).hexdigest(),
            _hash_of(read, image.tail_offset, status.st_size), offset, image.tail_offset,
            image.frames, image.present, image.frame_shape, image.bitpix, image.bzero,
            image.compressed,
        )  # fmt: skip


def _hash_of(read: Reader, start: int, end: int) -> str:
    hasher = blake3()
    for at in range(start, end, _CHUNK_BYTES):
        hasher.update(read(at, min(_CHUNK_BYTES, end - at)))
    return hasher.hexdigest()


def hash_cube(path: Path) -> tuple[CubeHead, Hashes, str]:
    """Read a whole raw cube; return what is around its frames, their hashes, its content hash.

    Raises
    ------
    NotFits
        It holds no image, or its tiles are damaged.
    StorageError
        It cannot be read.
    """
    head = cube_head(path)
    hashes = np.empty((head.present, HASH_BYTES), np.uint8)
    with RawCube(path, head.ref(0, path.name)) as cube:
        for frames in cube.batches(range(head.present)):
            for frame in frames:
                hashes[frame.index] = np.frombuffer(frame_hash(frame.data), np.uint8)
    return head, hashes, raw_hash(head.head_hash, hashes, head.tail_hash)
