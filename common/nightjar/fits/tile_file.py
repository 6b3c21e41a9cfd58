# SPDX-License-Identifier: BSD-3-Clause
"""The file of a compressed cube: laid out as fpack does it, growing tile by tile.

An empty primary unit, then a binary table whose header holds the cards of the cube, whose rows say
where each tile is, and whose heap holds the tiles; the table of frames follows. Room for the header
and for `capacity` rows is kept free at the start, tiles are appended, and a tile's row is written
right after it: what a killed process leaves behind needs no journal to be found again, only the
frame table to become a whole file. While the file grows, places of tiles count from where the
tiles begin; in the finished file from behind the last row, as the standard wants it.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nightjar.files import write_at
from nightjar.fits.cards import BLOCK_BYTES, CARD_BYTES, Card
from nightjar.fits.checksum import CHECKSUM_PLACEHOLDER, DataSum
from nightjar.fits.frame_table import Rows, table_hdu
from nightjar.fits.header import Header
from nightjar.fits.tiles import DESCRIPTOR_BYTES, TableShape, compressed_header
from nightjar.fits.writer import set_checksums

_OWN_CARDS = 40  # structural cards of the table and of the image
_WRITEBACK_BYTES = 8 << 20
_SYNC_FILE_RANGE_WRITE = 2
_libc = ctypes.CDLL(None, use_errno=True)


def empty_primary() -> bytes:
    """Return the empty unit before the table."""
    header = Header()
    header.add("SIMPLE", True, "conforms to the FITS standard")
    header.add("BITPIX", 8, "no pixels here")
    header.add("NAXIS", 0, "the image is in the extension")
    header.add("EXTEND", True, "there are extensions")
    at = CARD_BYTES * len(header.cards)
    header.add("CHECKSUM", CHECKSUM_PLACEHOLDER, "checksum of the whole HDU")
    header.add("DATASUM", "0", "checksum of the data unit")
    head = bytearray(header.to_bytes())
    set_checksums(head, at, 0)
    return bytes(head)


@dataclass(frozen=True)
class TileLayout:
    """Where things lie in the file of a compressed cube.

    Attributes
    ----------
    frame_shape, dtype
        Of the frames.
    capacity
        Frames that have room.
    header_bytes
        Room kept for the header of the extension.
    """

    frame_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    capacity: int
    header_bytes: int

    @classmethod
    def make(
        cls, frame_shape: tuple[int, ...], dtype: npt.DTypeLike, capacity: int, cards: int
    ) -> TileLayout:
        """Return the layout with room for frames, and for cards beside those of the standard."""
        needed = (cards + _OWN_CARDS) * CARD_BYTES
        header_bytes = -(-needed // BLOCK_BYTES) * BLOCK_BYTES
        return cls(tuple(frame_shape), np.dtype(dtype), capacity, header_bytes)

    @property
    def rows_offset(self) -> int:
        """Where the rows begin."""
        return BLOCK_BYTES + self.header_bytes

    @property
    def heap_offset(self) -> int:
        """Where the tiles begin."""
        return self.rows_offset + self.capacity * DESCRIPTOR_BYTES

    @cached_property
    def frame_bytes(self) -> int:
        """Bytes of one frame, uncompressed."""
        return math.prod(self.frame_shape) * self.dtype.itemsize


class TileFile:
    """The file of a compressed cube: takes tiles at its end.

    Parameters
    ----------
    path
        Must not exist.
    layout
        What goes in.

    Attributes
    ----------
    frames : int
        Tiles in the file.
    heap_bytes : int
        Their bytes.

    Raises
    ------
    OSError
        The file cannot be made or, in every method, written.
    """

    def __init__(self, path: Path, layout: TileLayout, *, descriptor: int = -1) -> None:
        self.path = path
        self.layout = layout
        self.heap_bytes = 0
        self._tiles: list[tuple[int, int, int]] = []  # bytes, place in the heap, sum
        self._writeback_from = layout.heap_offset
        if descriptor < 0:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            descriptor = os.open(path, flags, 0o644)
            try:
                write_at(descriptor, empty_primary() + self._header((), 0, b"", is_open=True), 0)
            except BaseException:
                os.close(descriptor)
                raise
        self.descriptor = descriptor

    @property
    def frames(self) -> int:
        """Tiles in the file."""
        return len(self._tiles)

    def append(self, tile: memoryview | bytes, tile_sum: int) -> None:
        """Put a tile at the end, then its row.

        Parameters
        ----------
        tile, tile_sum
            Its bytes, and their DATASUM as if they began at a multiple of four.
        """
        layout, place = self.layout, self.heap_bytes
        end = layout.heap_offset + place + len(tile)
        write_at(self.descriptor, tile, layout.heap_offset + place)
        self._write_row(len(tile), place)
        self._tiles.append((len(tile), place, tile_sum))
        self.heap_bytes += len(tile)
        if end - self._writeback_from >= _WRITEBACK_BYTES:
            # Lets the disk work now instead of all at the fsync; a failure is told there.
            start = self._writeback_from
            _libc.sync_file_range(
                self.descriptor, ctypes.c_int64(start), ctypes.c_int64(end - start),
                _SYNC_FILE_RANGE_WRITE,
            )  # fmt: skip
            self._writeback_from = end

    def _write_row(self, length: int, place: int) -> None:
        row = length.to_bytes(8, "big") + place.to_bytes(8, "big")
        write_at(self.descriptor, row, self.layout.rows_offset + self.frames * DESCRIPTOR_BYTES)

    def drop_last(self) -> None:
        """Take the last tile back."""
        length, _, _ = self._tiles.pop()
        self.heap_bytes -= length
        self._write_row(0, 0)

    def complete(self, cards: Iterable[Card], rows: Rows, *, fsync: bool = True) -> int:
        """Make it a FITS file, still under its present name, and close it; return its size.

        Parameters
        ----------
        cards
            Header of the cube without the structural cards.
        rows
            The table, one row a frame.

        Raises
        ------
        ValueError
            A card that is not allowed, or more than fit; not one row a frame.
        """
        if len(rows) != self.frames:
            raise ValueError(f"{len(rows)} rows for {self.frames} frames")
        image = DataSum()
        for frame_sum in rows["DATASUM"].tolist():
            image.add_sum(frame_sum, self.layout.frame_bytes)
        end = self.layout.heap_offset + self.heap_bytes
        fill = -(end - self.layout.rows_offset) % BLOCK_BYTES
        tail = bytes(fill) + table_hdu(rows)
        try:
            table = self._rows()
            head = self._header(cards, image.value, table)
            os.ftruncate(self.descriptor, end)
            write_at(self.descriptor, tail, end)
            # The header last: where it says that the file is complete, the rows are, too.
            write_at(self.descriptor, table, self.layout.rows_offset)
            write_at(self.descriptor, head, BLOCK_BYTES)
            if fsync:
                os.fsync(self.descriptor)
        finally:
            self.close()
        return end + len(tail)

    def _rows(self) -> bytes:
        """Return the rows of the finished table, whose heap begins right behind them."""
        room = self._unused
        places = [(length, place + room) for length, place, _ in self._tiles]
        return np.array(places, ">i8").tobytes()

    @property
    def _unused(self) -> int:
        """Bytes between the last row and the first tile."""
        return (self.layout.capacity - self.frames) * DESCRIPTOR_BYTES

    def _header(
        self, cards: Iterable[Card], image_sum: int, rows: bytes, *, is_open: bool = False
    ) -> bytes:
        layout = self.layout
        longest = max((length for length, _, _ in self._tiles), default=0)
        table = TableShape(
            self.frames, layout.capacity, layout.header_bytes, self.heap_bytes, longest, is_open
        )
        images, checksum_at = compressed_header(
            layout.dtype, layout.frame_shape, table, cards, image_sum
        )
        spare = layout.header_bytes - len(images) - CARD_BYTES
        if spare < 0:
            count = len(images) // CARD_BYTES
            raise ValueError(f"{count} cards do not fit the header of this cube")
        head = bytearray(images + b" " * spare + b"END".ljust(CARD_BYTES))
        set_checksums(head, checksum_at, self._data_sum(rows))
        return bytes(head)

    def _data_sum(self, rows: bytes) -> int:
        """Return the sum of the data unit."""
        running = DataSum()
        running.add(rows)
        running.add_sum(0, self._unused)
        for length, _, tile_sum in self._tiles:
            running.add_sum(tile_sum, length)
        return running.value

    def close(self) -> None:
        """Close the file as it is; harmless twice."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
