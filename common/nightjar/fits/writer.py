# SPDX-License-Identifier: BSD-3-Clause
"""Image files: whole, checked and named, or not there.

The file grows under a hidden name in its folder: header first, with room for its checksums, then
the pixels in one pass that also sums them, then the two checksum cards in place. fsync, rename
without overwriting, fsync of the folder.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nightjar import files
from nightjar.errors import StorageError, storage_code
from nightjar.fits import checksum, spool
from nightjar.fits.binning import Method, Pixels, binned_dtype, binned_shape
from nightjar.fits.cards import BLOCK_BYTES, CARD_BYTES, Card, is_long
from nightjar.fits.header import Header, header_bytes
from nightjar.fits.pixels import ImageFormat, encode, image_format

#: Keywords that the writer sets itself.
STRUCTURAL = frozenset(
    ("SIMPLE", "BITPIX", "NAXIS", "XTENSION", "PCOUNT", "GCOUNT", "GROUPS",
     "BZERO", "BSCALE", "CHECKSUM", "DATASUM")
)  # fmt: skip
_WRITEBACK_BYTES = 8 << 20
_SYNC_FILE_RANGE_WRITE = 2
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class WrittenImage:
    """What a finished file holds and what it cost.

    Attributes
    ----------
    path, size
        Final name and bytes of the file.
    datasum
        32-bit sum of the data unit.
    shape
        Of the image in the file, slowest axis first.
    bytes_read, bytes_written
        Of the source image and to the file; the header's second writing counted.
    is_recycled
        The pages of a former file were used again.
    """

    path: Path
    size: int
    datasum: int
    shape: tuple[int, ...]
    bytes_read: int
    bytes_written: int
    is_recycled: bool


def write_image(
    path: Path,
    pixels: Pixels,
    header: Header | Iterable[Card] = (),
    *,
    capacity: int = 0,
    binning: int = 1,
    method: Method = "sum",
    fsync: bool = True,
    on_consumed: Callable[[], None] | None = None,
    recycle: bool = False,
) -> WrittenImage:
    """Write an image to a new file.

    Parameters
    ----------
    path
        Must not exist; its folder must.
    pixels
        Any shape (binned: two axes), strides and byte order: uint8, int16, uint16, int32, uint32,
        int64, uint64, float32, float64. Read once and not copied.
    header
        Cards without the structural ones, which the writer sets (:data:`STRUCTURAL`, NAXISn).
    capacity
        Card positions to keep before END; see :meth:`Header.to_bytes`.
    binning, method
        Bin while writing; see :mod:`nightjar.fits.binning`.
    fsync
        False leaves it to the caller to make the file and its name durable.
    on_consumed
        Called when the last pixel has been read, before the file is complete: the frame buffer may
        be used again. Not called where writing fails before.
    recycle
        Write into a file of the folder's pool (:mod:`nightjar.fits.spool`) where there is one.

    Raises
    ------
    FileExistsError
        `path` exists; it stays as it was.
    StorageError
        No space, folder gone or read-only, I/O error; nothing is left under `path` or beside it.
    Refused
        The binning does not divide the image.
    ValueError
        A card or a type of pixels that FITS does not have, an empty image.
    """
    image = image_format(binned_dtype(pixels.dtype, binning, method))
    shape = binned_shape(pixels.shape, binning)
    images, checksum_at = card_images(image, shape, header)
    head = bytearray(header_bytes(images, capacity))
    data_bytes = abs(image.bitpix) // 8
    for axis in shape:
        data_bytes *= axis
    size = len(head) + -(-data_bytes // BLOCK_BYTES) * BLOCK_BYTES
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    datasum = checksum.DataSum()
    try:
        with _Output(path, size, recycle=recycle) as output:
            output.write(head)
            for piece in encode(
                pixels, datasum, binning=binning, method=method, on_consumed=on_consumed
            ):
                output.write(piece)
            output.write(bytes(size - len(head) - data_bytes))
            set_checksums(head, checksum_at, datasum.value)
            output.rewrite_start(head)
            output.finish(fsync=fsync)
    except FileExistsError:
        raise
    except OSError as error:
        raise _storage_error(path, size, error) from error
    return WrittenImage(
        path, size, datasum.value, shape, int(pixels.nbytes), output.written, output.is_recycled
    )


def card_images(
    image: ImageFormat, shape: tuple[int, ...], header: Header | Iterable[Card]
) -> tuple[bytes, int]:
    """Return the card images of an image, and where CHECKSUM is among them (DATASUM follows it).

    Raises
    ------
    ValueError
        A card that the writer sets itself, or a keyword that comes twice.
    """
    whole = Header()
    whole.add("SIMPLE", True, "conforms to the FITS standard")
    whole.add("BITPIX", image.bitpix, "bits of a pixel, negative for floating point")
    whole.add("NAXIS", len(shape), "number of axes")
    for number, axis in enumerate(reversed(shape), start=1):
        whole.add(f"NAXIS{number}", axis, f"length of axis {number}")
    if image.bzero:
        whole.add("BZERO", image.bzero, "offset of unsigned integers")
        whole.add("BSCALE", 1, "no scaling")
    cards = list(header.cards if isinstance(header, Header) else header)
    if any(is_long(card) for card in cards) and not any(c.keyword == "LONGSTRN" for c in cards):
        whole.add("LONGSTRN", "OGIP 1.0", "long strings go on in CONTINUE cards")
    for card in cards:
        if card.keyword in STRUCTURAL or card.keyword.startswith("NAXIS"):
            raise ValueError(f"{card.keyword} is set by the writer and must not be given")
        whole.append(card)
    images = b"".join(card.to_bytes() for card in whole.cards)
    sums = Card("CHECKSUM", checksum.CHECKSUM_PLACEHOLDER, "checksum of the whole HDU").to_bytes()
    sums += Card("DATASUM", "0", "checksum of the data unit").to_bytes()
    return images + sums, len(images)


def set_checksums(head: bytearray, at: int, datasum: int) -> None:
    """Put the two sums into their cards, which begin at byte `at` of the header."""
    card = Card("DATASUM", str(datasum), "checksum of the data unit")
    head[at + CARD_BYTES : at + 2 * CARD_BYTES] = card.to_bytes()
    total = checksum.datasum(head) + datasum
    text = checksum.checksum_text(total)
    head[at + 11 : at + 27] = text.encode("ascii")


class _Output:
    """The file while it grows; leaving the block without :meth:`finish` removes it."""

    def __init__(self, path: Path, size: int, *, recycle: bool) -> None:
        self.path = path
        self.temporary = files.temporary_name(path)
        self.written = 0
        self._is_finished = False
        self._writeback_from = 0
        taken = spool.take(path.parent, self.temporary, size) if recycle else None
        self.is_recycled = taken is not None
        if taken is None:
            files.require_space(path.parent, size, f"cannot write {path}")
            taken = _create(self.temporary)
        self._descriptor = taken

    def __enter__(self) -> _Output:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            os.close(self._descriptor)
        finally:
            if not self._is_finished:
                self.temporary.unlink(missing_ok=True)

    def write(self, data: Any) -> None:
        """Append the bytes of a contiguous buffer."""
        view = memoryview(data).cast("B")
        while view:
            count = os.write(self._descriptor, view)
            self.written += count
            view = view[count:]
        if self.written - self._writeback_from >= _WRITEBACK_BYTES:
            self._start_writeback()

    def _start_writeback(self) -> None:
        """Let the disk work while the next pixels are computed, instead of all at the fsync.

        Saves a quarter of the time of a large file. Only a hint: what fails here fails again, and
        is reported, at the fsync.
        """
        offset, count = self._writeback_from, self.written - self._writeback_from
        _libc.sync_file_range(
            self._descriptor, ctypes.c_int64(offset), ctypes.c_int64(count), _SYNC_FILE_RANGE_WRITE
        )
        self._writeback_from = self.written

    def rewrite_start(self, data: bytes | bytearray) -> None:
        """Replace the first bytes."""
        if os.pwrite(self._descriptor, data, 0) != len(data):
            raise OSError(errno.EIO, "the header could not be rewritten")
        self.written += len(data)

    def finish(self, *, fsync: bool) -> None:
        """Make the content durable and give it its name."""
        if fsync:
            os.fsync(self._descriptor)
        if self.is_recycled:
            spool.release(self._descriptor)
        files.rename_new(self.temporary, self.path)
        self._is_finished = True
        if fsync:
            files.fsync_folder(self.path.parent)


def _create(temporary: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        return os.open(temporary, flags, 0o644)
    except FileExistsError:
        temporary.unlink()  # left by a process of the same number that was killed
        return os.open(temporary, flags, 0o644)


def _storage_error(path: Path, size: int, error: OSError) -> StorageError:
    what = error.strerror or str(error)
    if error.errno == errno.ENOENT:
        what = f"folder {path.parent} is gone"
    return StorageError(
        f"cannot write {path} ({size / 1e6:.1f} MB): {what}",
        code=storage_code(error), path=str(path),
    )  # fmt: skip
