# SPDX-License-Identifier: BSD-3-Clause
"""Frames out of raw cubes: each byte read once, nothing written, no change unnoticed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from nightjar.errors import StorageError
from nightjar.fits.frame_table import read_table
from nightjar.fits.header import NotFits
from nightjar.fits.pixels import image_format
from nightjar.fits.tile_reader import Tiles
from nightjar.fits.tiles import TileCompressor
from nightjard.archived.nights.records import CubeRef, Rows
from nightjard.archived.nights.writing.foreign import ForeignTiles, open_tiles

BATCH_BYTES = 8 << 20  # frames that follow each other are read together, up to so much
_AHEAD = 16 << 20  # of the file, asked for before it is needed


@dataclass(frozen=True, slots=True)
class RawFrame:
    """A frame as it was read.

    Attributes
    ----------
    index
        In its cube.
    data
        Its bytes as they stand in an uncompressed file; overwritten when further frames are read.
    wanted_sum
        DATASUM that its logger noted; None without.
    tile, tile_frame_sum
        Of a compressed cube: its tile, and DATASUM of `data`.
    """

    index: int
    data: memoryview
    wanted_sum: int | None
    tile: bytes | None = None
    tile_frame_sum: int | None = None


class RawCube:
    """A raw cube, open for reading, as the plan knew it.

    Parameters
    ----------
    path, ref
        Where it is, and what the plan knows of it.

    Attributes
    ----------
    bytes_read : int
        Of frames so far.

    Raises
    ------
    StorageError
        It is gone, cannot be read, or is not what was planned.
    """

    def __init__(self, path: Path, ref: CubeRef) -> None:
        self.path, self.ref = path, ref
        self.bytes_read = 0
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise _unreadable(path, error) from error
        try:
            self.require_unchanged()
            self._require_head()
            self._sums = self._frame_sums()
            self._tiles = open_tiles(self._read, str(path)) if ref.compressed else None
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> RawCube:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; harmless twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _read(self, offset: int, count: int) -> bytes:
        try:
            return os.pread(self._descriptor, count, offset)
        except OSError as error:
            raise _unreadable(self.path, error) from error

    def require_unchanged(self) -> None:
        """Raise StorageError where the file is not the one that was planned any more."""
        try:
            mine, named = os.fstat(self._descriptor), self.path.stat()
        except OSError as error:
            raise _unreadable(self.path, error) from error
        ref = self.ref
        for status in (mine, named):
            if (status.st_size, status.st_mtime_ns) != (ref.size, ref.mtime_ns):
                raise StorageError(
                    f"raw cube {self.path} has changed since it was planned: {status.st_size} "
                    f"bytes, modified {status.st_mtime_ns} ns, not {ref.size} and {ref.mtime_ns}; "
                    "plan the night again",
                    path=str(self.path),
                )
        if (mine.st_dev, mine.st_ino) != (named.st_dev, named.st_ino):
            raise StorageError(
                f"raw cube {self.path} was replaced while it was read; plan the night again",
                path=str(self.path),
            )

    def _require_head(self) -> None:
        head = self._read(0, self.ref.data_offset)
        if self.ref.head_hash and blake3(head).hexdigest() != self.ref.head_hash:
            raise StorageError(
                f"the header of raw cube {self.path} is not the one that was planned, though its "
                "size and time are: it is damaged; restore it or plan the night again",
                path=str(self.path),
            )

    def _frame_sums(self) -> list[int] | None:
        """Return DATASUM of every frame, which loggers of this suite note; None without."""
        try:
            rows = read_table(self.path)
        except NotFits:
            return None
        return rows["DATASUM"].tolist() if len(rows) >= self.ref.present else None

    def batches(self, indices: Sequence[int]) -> Iterator[list[RawFrame]]:
        """Yield frames, several at a time; those that follow each other are read in one call.

        What was yielded is overwritten when more is asked for.

        Raises
        ------
        StorageError
            The file ends before, a tile is damaged, or the disk fails.
        """
        if indices and not 0 <= min(indices) <= max(indices) < self.ref.present:
            raise StorageError(
                f"raw cube {self.path} has {self.ref.present} frames, {min(indices)} to "
                f"{max(indices)} were wanted; plan the night again",
                path=str(self.path),
            )
        if self._tiles is None:
            yield from self._plain(indices)
        elif isinstance(self._tiles, ForeignTiles):
            yield from self._foreign(self._tiles, indices)
        else:
            yield from self._expanded(self._tiles, indices)

    def _plain(self, indices: Sequence[int]) -> Iterator[list[RawFrame]]:
        size = self.ref.frame_bytes
        batches = _batches(indices, max(1, BATCH_BYTES // size))
        buffer = memoryview(bytearray(max((count for _, count in batches), default=0) * size))
        for number, (first, count) in enumerate(batches):
            # The disk fetches the next ones while these are worked on.
            for later, ahead in batches[number + 1 : number + 1 + max(1, _AHEAD // (count * size))]:
                offset = self.ref.data_offset + later * size
                os.posix_fadvise(self._descriptor, offset, ahead * size, os.POSIX_FADV_WILLNEED)
            self._fill(buffer[: count * size], self.ref.data_offset + first * size)
            pieces = (buffer[place * size : (place + 1) * size] for place in range(count))
            yield [
                RawFrame(index, data, self._sum(index)) for index, data in enumerate(pieces, first)
            ]

    def _fill(self, buffer: memoryview, offset: int) -> None:
        while buffer:
            try:
                count = os.preadv(self._descriptor, [buffer], offset)
            except OSError as error:
                raise _unreadable(self.path, error) from error
            if count == 0:
                raise StorageError(
                    f"raw cube {self.path} ends at byte {offset}, in the middle of what was "
                    "planned; plan the night again",
                    path=str(self.path),
                )
            self.bytes_read += count
            buffer, offset = buffer[count:], offset + count

    def _expanded(self, tiles: Tiles, indices: Sequence[int]) -> Iterator[list[RawFrame]]:
        coder = TileCompressor(tiles.layout.dtype, tiles.layout.frame_shape)
        buffer = memoryview(bytearray(self.ref.frame_bytes))
        for index in indices:
            tile = tiles.tile(index)
            self.bytes_read += len(tile)
            try:
                frame_sum = coder.expand_stored(tile, buffer)
            except ValueError as error:
                raise self._damaged(index, error) from None
            yield [RawFrame(index, buffer, self._sum(index), tile, frame_sum)]

    def _foreign(self, tiles: ForeignTiles, indices: Sequence[int]) -> Iterator[list[RawFrame]]:
        buffer = memoryview(bytearray(self.ref.frame_bytes))
        before = self.bytes_read
        for index in indices:
            try:
                tiles.fill(index, buffer)
            except ValueError as error:
                raise self._damaged(index, error) from None
            self.bytes_read = before + tiles.bytes_read
            yield [RawFrame(index, buffer, self._sum(index))]

    def _damaged(self, index: int, error: ValueError) -> StorageError:
        return StorageError(
            f"frame {index} of raw cube {self.path} cannot be expanded: {error}; the file is "
            "damaged, restore it",
            path=str(self.path), frame=index,
        )  # fmt: skip

    def _sum(self, index: int) -> int | None:
        return None if self._sums is None else self._sums[index]


def _batches(indices: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Return (first, count) of the runs of consecutive indices, none longer than `most`."""
    found: list[tuple[int, int]] = []
    for index in indices:
        if found and index == sum(found[-1]) and found[-1][1] < most:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((index, 1))
    return found


class RawFrames:
    """The frames of a product out of its raw cubes, in order, one cube open at a time.

    Parameters
    ----------
    night
        Folder of the night.
    refs
        The cubes.
    accepts_damage
        A frame whose own checksum is wrong is noted instead of refused.

    Attributes
    ----------
    bytes_read : int
        Of raw frames.
    damaged : list of str
        Frames that were noted: ``PATH[INDEX]``.
    """

    def __init__(self, night: Path, refs: list[CubeRef], *, accepts_damage: bool = False) -> None:
        self._night = night
        self._refs = {ref.number: ref for ref in refs}
        self._accepts_damage = accepts_damage
        self.bytes_read = 0
        self.damaged: list[str] = []

    def batches(self, rows: Rows) -> Iterator[tuple[CubeRef, list[RawFrame]]]:
        """Yield the frames of the rows of a plan; see :meth:`RawCube.batches`.

        A cube is compared with the plan before its first frame and after its last one.
        """
        numbers, indices = rows["cube"], rows["index"].tolist()
        bounds = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(rows)]
        for first, last in pairwise(bounds):
            ref = self._refs[int(numbers[first])]
            with RawCube(self._night / ref.path, ref) as cube:
                for frames in cube.batches(indices[first:last]):
                    yield ref, frames
                cube.require_unchanged()
                self.bytes_read += cube.bytes_read

    def check(self, ref: CubeRef, index: int, wanted: int | None, found: int) -> None:
        """Compare the DATASUM of a frame with the one that its logger noted.

        Raises
        ------
        StorageError
            They differ, and nobody said that this is accepted.
        """
        if wanted is None or wanted == found:
            return
        path = self._night / ref.path
        if not self._accepts_damage:
            raise StorageError(
                f"frame {index} of raw cube {path} is not what was logged: its DATASUM is {found}, "
                f"not {wanted} as table FRAMES says; the file is damaged, restore it or accept "
                "the damage",
                path=str(path), frame=index,
            )  # fmt: skip
        self.damaged.append(f"{ref.path}[{index}]")


def stored_dtype(ref: CubeRef) -> np.dtype[Any]:
    """Return the type in memory (native) of a cube's pixels.

    Raises
    ------
    StorageError
        Integers with an offset that no type in memory has.
    """
    for kind in "uif":
        with_bytes = f"{kind}{abs(ref.bitpix) // 8}"
        try:
            image = image_format(with_bytes)
        except (ValueError, TypeError):
            continue
        if (image.bitpix, image.bzero) == (ref.bitpix, ref.bzero):
            return image.dtype
    raise StorageError(
        f"raw cube {ref.path} has pixels with BITPIX {ref.bitpix} and BZERO {ref.bzero}, which no "
        "product can hold; it stays as it is",
        path=ref.path,
    )


def _unreadable(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"raw cube {path} cannot be read: {error.strerror or error}; restore it or plan the night "
        "again",
        path=str(path),
    )
