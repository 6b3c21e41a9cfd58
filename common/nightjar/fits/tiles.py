# SPDX-License-Identifier: BSD-3-Clause
"""Lossless tile compression of a cube, one frame a tile (FITS 4.0 section 10).

Integers of 8, 16 and 32 bits are Rice coded (RICE_1, blocks of 32 pixels); floats, for which Rice
would have to round, go through gzip with their bytes sorted by significance (GZIP_2, nothing
quantised). The cards are in the order in which fpack writes them, and funpack makes of the file
what the uncompressed writer would have written.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nightjar.errors import Code, Refused
from nightjar.fits import rice
from nightjar.fits.binning import BLOCK_PIXELS, Pixels
from nightjar.fits.cards import CARD_BYTES, CARDS_PER_BLOCK, Card
from nightjar.fits.checksum import (
    CHECKSUM_PLACEHOLDER,
    datasum,
    fold,
    native_word_sum,
    rotate_right,
)
from nightjar.fits.header import Header, header_bytes
from nightjar.fits.pixels import ImageFormat, image_format
from nightjar.fits.writer import card_images, set_checksums

DESCRIPTOR_BYTES = 16  # of a row of the table: length and place of a tile, 64 bits each
EXTNAME = "COMPRESSED_IMAGE"
_GZIP_WBITS = 31  # zlib: with the header and trailer of a gzip file
_GZIP_LEVEL = 1
_MAX_TILE_BYTES = (1 << 31) - (1 << 28)  # the library counts in 32 bits

# Cards of the image that stand under another name in the table (FITS 4.0 section 10.1.1).
_RENAMED = {
    keyword.ljust(8).encode("ascii"): renamed.ljust(8).encode("ascii")
    for keyword, renamed in (
        ("SIMPLE", "ZSIMPLE"), ("BITPIX", "ZBITPIX"), ("NAXIS", "ZNAXIS"), ("EXTEND", "ZEXTEND"),
        ("CHECKSUM", "ZHECKSUM"), ("DATASUM", "ZDATASUM"),
        *((f"NAXIS{number}", f"ZNAXIS{number}") for number in range(1, 10)),
    )
}  # fmt: skip
#: Keywords that describe the table or the compression and cannot be cards of an image.
OF_THE_TABLE = re.compile(
    r"TFIELDS|THEAP|T(?:TYPE|FORM|UNIT|NULL|SCAL|ZERO|DISP|DIM)\d+"
    r"|Z(?:IMAGE|CMPTYPE|SIMPLE|EXTEND|BITPIX|NAXIS\d*|TILE\d+|NAME\d+|VAL\d+|PCOUNT|GCOUNT"
    r"|TENSION|BLOCKED|MASKCMP|QUANTIZ|DITHER0|SCALE|ZERO|BLANK|HECKSUM|DATASUM)"
)


def algorithm_for(dtype: npt.DTypeLike) -> str:
    """Return ``RICE_1`` or ``GZIP_2``, whichever keeps every bit of such pixels.

    Raises
    ------
    Refused
        There is none that other programs read (64-bit integers), or its library is missing; the
        message says what to install.
    """
    native = np.dtype(dtype).newbyteorder("=")
    if native.kind == "f" and native.itemsize in (4, 8):
        return "GZIP_2"
    if native.str[1:] not in ("u1", "u2", "u4", "i2", "i4"):
        raise Refused(
            f"pixels of type {native} cannot be tile compressed without loss; "
            "switch compression off for this stream",
            code=Code.UNSUPPORTED,
        )
    rice.require()
    return "RICE_1"


class TileCompressor:
    """Compresses frames, one at a time; as many of them as there are threads.

    Parameters
    ----------
    dtype, frame_shape
        Of the frames.

    Attributes
    ----------
    algorithm : str
        ``RICE_1`` or ``GZIP_2``.

    Raises
    ------
    Refused
        As :func:`algorithm_for`, and for frames of about 2 GB and more.
    """

    def __init__(self, dtype: npt.DTypeLike, frame_shape: tuple[int, ...]) -> None:
        self.algorithm = algorithm_for(dtype)
        self.frame_shape = tuple(frame_shape)
        self._image = image_format(dtype)
        self._pixels = int(np.prod(frame_shape))
        self._size = self._image.dtype.itemsize
        if not 0 < self._pixels * self._size < _MAX_TILE_BYTES:
            raise Refused(
                f"a frame of {' x '.join(map(str, frame_shape[::-1]))} pixels of {self._size} "
                "bytes cannot be one tile; switch compression off for this stream",
                code=Code.UNSUPPORTED,
            )
        self._words = np.zeros(-(-self._pixels * self._size // 8), np.uint64)
        self._native = self._words.view(self._image.dtype)[: self._pixels]
        self._sign = self._image.dtype.type(self._image.bzero) if self._image.bzero else None
        self._scratch = np.empty(-(-BLOCK_PIXELS * self._size // 8), np.uint64)
        room = rice.room(self._pixels, self._size) if self.algorithm == "RICE_1" else 0
        self._buffer = bytearray(room)
        self._out = np.frombuffer(self._buffer, np.uint8)

    def load(self, frame: Pixels) -> int:
        """Copy a frame; afterwards the source may change.

        Returns
        -------
        int
            DATASUM of its bytes as they would stand uncompressed, as if they began at a multiple
            of four.
        """
        if frame.shape != self.frame_shape or frame.dtype != self._image.dtype:
            raise ValueError(
                f"a frame of {frame.shape} {frame.dtype} where {self.frame_shape} "
                f"{self._image.dtype} was expected"
            )
        source = np.ascontiguousarray(frame).reshape(-1)
        total = 0
        for start in range(0, self._pixels, BLOCK_PIXELS):
            block = source[start : start + BLOCK_PIXELS]
            target = self._native[start : start + len(block)]
            if self._sign is None:
                np.copyto(target, block)
            else:
                # Subtracting the offset of an unsigned type is flipping its highest bit.
                np.bitwise_xor(block, self._sign, out=target)
            if self._size > 1:  # summed while the block is in cache
                first = start * self._size // 8
                words = self._words[first : first + len(self._scratch)]
                total += native_word_sum(words, self._scratch)
        return self._sum_of_loaded(total)

    @property
    def _stored_native(self) -> Pixels:
        """The pixels that are loaded, as the file has them but in the machine's byte order."""
        return self._native.view(self._image.stored.newbyteorder("="))

    def _sum_of_loaded(self, total: int) -> int:
        if self._size == 1:
            return datasum(self._native)
        # Of 16-bit pixels the halves of every word are the other way round in the file.
        return rotate_right(fold(total), 16) if self._size == 2 else fold(total)

    def load_stored(self, data: Any) -> int:
        """Copy a frame given as its bytes in an uncompressed file; see :meth:`load`.

        Raises
        ------
        ValueError
            Not as many bytes as a frame has.
        """
        stored = np.frombuffer(data, self._image.stored)
        native = self._stored_native
        if len(stored) != self._pixels:
            raise ValueError(f"{len(stored)} pixels are no frame of {self._pixels}")
        total = 0
        for start in range(0, self._pixels, BLOCK_PIXELS):
            block = stored[start : start + BLOCK_PIXELS]
            np.copyto(native[start : start + len(block)], block)
            if self._size > 1:
                first = start * self._size // 8
                words = self._words[first : first + len(self._scratch)]
                total += native_word_sum(words, self._scratch)
        return self._sum_of_loaded(total)

    def compress_loaded(self) -> memoryview:
        """Return the tile of the frame loaded last; valid until the next call.

        The interpreter is free for other threads meanwhile.
        """
        if self.algorithm == "RICE_1":
            used = rice.encode(self._native, self._out)
            return memoryview(self._buffer)[:used]
        big_endian = self._stored_native.astype(self._image.stored)
        shuffled = big_endian.view(np.uint8).reshape(-1, self._size).T.tobytes()
        return memoryview(zlib.compress(shuffled, _GZIP_LEVEL, _GZIP_WBITS))

    def compress(self, frame: Pixels) -> memoryview:
        """Return the tile of a frame; valid until the next call."""
        self.load(frame)
        return self.compress_loaded()

    def expand_stored(self, tile: Any, out: Any) -> int:
        """Put the frame of a tile into `out` as its bytes in an uncompressed file.

        Returns
        -------
        int
            As :meth:`load`. The frame is loaded, too.

        Raises
        ------
        ValueError
            The bytes are not such a tile, or `out` is not as long as a frame.
        """
        stored = np.frombuffer(out, self._image.stored)
        if len(stored) != self._pixels:
            raise ValueError(f"{len(stored)} pixels are no frame of {self._pixels}")
        if self.algorithm == "RICE_1":
            native = self._stored_native
            rice.decode(tile, native)
            for start in range(0, self._pixels, BLOCK_PIXELS):
                block = native[start : start + BLOCK_PIXELS]
                np.copyto(stored[start : start + len(block)], block)
        else:
            np.copyto(stored, self._unzipped(tile))
            return self.load_stored(stored)
        total = 0
        for first in range(0, len(self._words), len(self._scratch)):
            total += native_word_sum(self._words[first : first + len(self._scratch)], self._scratch)
        return self._sum_of_loaded(total)

    def expand(self, tile: Any) -> Pixels:
        """Return the frame of a tile, a new array.

        Raises
        ------
        ValueError
            The bytes are not such a tile.
        """
        if self.algorithm == "RICE_1":
            native = np.empty(self._pixels, self._image.dtype)
            rice.decode(tile, native)
            if self._sign is not None:
                native ^= self._sign
            return native.reshape(self.frame_shape)
        return self._unzipped(tile).astype(self._image.dtype).reshape(self.frame_shape)

    def _unzipped(self, tile: Any) -> Pixels:
        """Return the stored pixels of a tile of GZIP_2."""
        try:
            shuffled = zlib.decompress(tile, _GZIP_WBITS)
        except zlib.error as error:
            raise ValueError(f"not a tile: {error}") from None
        if len(shuffled) != self._pixels * self._size:
            raise ValueError(f"{len(shuffled)} bytes are not {self._pixels} pixels")
        sorted_bytes = np.frombuffer(shuffled, np.uint8).reshape(self._size, -1)
        return np.ascontiguousarray(sorted_bytes.T).view(self._image.stored).reshape(-1)


@dataclass(frozen=True, slots=True)
class TableShape:
    """What the header of a compressed cube must say of its table.

    Attributes
    ----------
    frames
        Frames, and rows of the table.
    capacity
        Rows that have room before the tiles. What is not used of it counts as the beginning of
        the heap: a gap before the heap (THEAP) is standard, but cfitsio's fitsverify trips on it.
    header_bytes
        Room kept for the header.
    heap_bytes, longest
        Bytes of all tiles, and of the largest.
    is_open
        The file still grows: THEAP tells its writer where the tiles begin.
    """

    frames: int
    capacity: int
    header_bytes: int
    heap_bytes: int = 0
    longest: int = 0
    is_open: bool = False


def compressed_header(
    dtype: npt.DTypeLike,
    frame_shape: tuple[int, ...],
    table: TableShape,
    cards: Header | Iterable[Card],
    image_sum: int,
) -> tuple[bytes, int]:
    """Return the card images of the extension (no END), and where CHECKSUM begins among them.

    Parameters
    ----------
    dtype, frame_shape
        Of the frames.
    table
        Frames, room, heap.
    cards
        Header of the image without the structural cards.
    image_sum
        DATASUM of the uncompressed image; goes into ZDATASUM.

    Raises
    ------
    ValueError
        A card that the writer sets itself, or one that means something else in a table.
    """
    cards = list(cards.cards if isinstance(cards, Header) else cards)
    for card in cards:
        if OF_THE_TABLE.fullmatch(card.keyword):
            raise ValueError(f"{card.keyword} cannot stand in the header of a compressed cube")
    image = image_format(dtype)
    header = _table_cards(image, frame_shape, table)
    if not any(card.keyword == "EXTNAME" for card in cards):
        header.add("EXTNAME", EXTNAME, "taken away by funpack")
    images = b"".join(card.to_bytes() for card in header.cards)
    of_image, checksum_at = card_images(image, (table.frames, *frame_shape), cards)
    spare = (table.header_bytes - len(images) - len(of_image)) // CARD_BYTES - 3
    images += _renamed(of_image, checksum_at, image_sum, spare)
    sums = Card("CHECKSUM", CHECKSUM_PLACEHOLDER, "checksum of the whole HDU").to_bytes()
    sums += Card("DATASUM", "0", "checksum of the data unit").to_bytes()
    return images + sums, len(images)


def _table_cards(image: ImageFormat, frame_shape: tuple[int, ...], table: TableShape) -> Header:
    gap = (table.capacity - table.frames) * DESCRIPTOR_BYTES
    header = Header()
    header.add("XTENSION", "BINTABLE", "binary table extension")
    header.add("BITPIX", 8, "bytes")
    header.add("NAXIS", 2, "number of axes")
    header.add("NAXIS1", DESCRIPTOR_BYTES, "bytes of a row")
    header.add("NAXIS2", table.frames, "rows: a tile each, which is a frame")
    header.add("PCOUNT", gap + table.heap_bytes, "bytes of the heap")
    header.add("GCOUNT", 1, "one group")
    header.add("TFIELDS", 1, "columns")
    header.add("TTYPE1", "COMPRESSED_DATA", "tiles")
    header.add("TFORM1", f"1QB({table.longest})", "bytes, a variable number a row")
    if table.is_open:
        header.add("THEAP", table.capacity * DESCRIPTOR_BYTES, "where the heap begins")
    header.add("ZIMAGE", True, "this table holds a compressed image")
    for number, length in enumerate((*frame_shape[::-1], 1), start=1):
        header.add(f"ZTILE{number}", length, f"tile along axis {number}")
    if image.dtype.kind == "f":
        header.add("ZCMPTYPE", "GZIP_2", "compression algorithm")
        header.add("ZQUANTIZ", "NONE", "lossless, nothing quantised")
    else:
        header.add("ZCMPTYPE", "RICE_1", "compression algorithm, lossless")
        header.add("ZNAME1", "BLOCKSIZE", "pixels that share a code")
        header.add("ZVAL1", rice.BLOCK_PIXELS, "pixels")
        header.add("ZNAME2", "BYTEPIX", "bytes of a pixel")
        header.add("ZVAL2", image.dtype.itemsize, "bytes")
    return header


def _renamed(images: bytes, checksum_at: int, image_sum: int, spare: int) -> bytes:
    """Return the cards of the image with their sums, under their names in the table.

    The checksum is that of the header which funpack will write: with as many whole blocks of
    blank cards as the header of the table has in `spare`.
    """
    blanks = max(spare, 0) // CARDS_PER_BLOCK * CARDS_PER_BLOCK
    head = bytearray(header_bytes(images, len(images) // CARD_BYTES + blanks))
    set_checksums(head, checksum_at, image_sum)
    for at in range(0, len(images), CARD_BYTES):
        keyword = bytes(head[at : at + 8])
        head[at : at + 8] = _RENAMED.get(keyword, keyword)
    return bytes(head[: len(images)])
