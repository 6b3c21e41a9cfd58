# SPDX-License-Identifier: BSD-3-Clause
"""Frames out of compressed cubes, finished ones and what a killed writer left behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from nightjar.files import write_at
from nightjar.fits.binning import Pixels
from nightjar.fits.cards import BLOCK_BYTES
from nightjar.fits.checksum import datasum
from nightjar.fits.frame_table import Rows
from nightjar.fits.hdus import Hdu, Reader, opened, walk
from nightjar.fits.header import NotFits
from nightjar.fits.pixels import image_format
from nightjar.fits.tile_file import TileFile, TileLayout
from nightjar.fits.tiles import DESCRIPTOR_BYTES, TileCompressor

_MAX_PLACE = 1 << 62


def salvage_tiles(path: Path, rows: Rows) -> tuple[TileFile, Rows]:
    """Open what a killed writer left behind; complete it with the rows that are returned.

    Every tile is expanded and its frame summed: after a power cut rows and tiles may not have
    reached the disk. What is whole is moved together.

    Parameters
    ----------
    path
        The unfinished file.
    rows
        What the writer had noted, in order; rows without a frame are left out of the answer.

    Raises
    ------
    NotFits
        There is no header of such a file.
    OSError
        The file cannot be read or written.
    """
    with opened(path) as (read, name):
        hdu = _table(read, name)
        layout = _layout(hdu, name)
    tiles = TileFile(path, layout, descriptor=os.open(path, os.O_RDWR | os.O_CLOEXEC))
    try:
        compressor = TileCompressor(layout.dtype, layout.frame_shape)
        kept, expected = [], 0
        for index in range(min(len(rows), layout.capacity)):
            at = layout.rows_offset + index * DESCRIPTOR_BYTES
            length, place = _row(os.pread(tiles.descriptor, DESCRIPTOR_BYTES, at))
            if not 0 < length <= 2 * layout.frame_bytes + 4096:
                continue
            # Tiles stand in line: so one is found even where the rows, but not the header, were
            # finished before the end, and count from another place.
            for start in dict.fromkeys((place, expected)):
                tile = _tile(tiles, start, length)
                if _is_frame(tile, compressor, int(rows["DATASUM"][index])):
                    tiles.append(tile, datasum(tile))
                    kept.append(index)
                    break
            expected += length
        # What stood behind the last row, if anything, is no frame.
        room = (layout.capacity - tiles.frames) * DESCRIPTOR_BYTES
        write_at(tiles.descriptor, bytes(room), layout.heap_offset - room)
    except BaseException:
        tiles.close()
        raise
    return tiles, rows[kept]


def _row(data: bytes) -> tuple[int, int]:
    """Return length and place of a tile."""
    return int.from_bytes(data[:8], "big"), int.from_bytes(data[8:], "big")


def _tile(tiles: TileFile, place: int, length: int) -> bytes:
    # What begins before the end of the last tile that was kept is garbage, or overwritten by now.
    if not tiles.heap_bytes <= place < _MAX_PLACE:
        return b""
    return os.pread(tiles.descriptor, length, tiles.layout.heap_offset + place)


def _is_frame(tile: bytes, compressor: TileCompressor, frame_sum: int) -> bool:
    try:
        return compressor.load(compressor.expand(tile)) == frame_sum
    except ValueError:
        return False


def read_frames(path: Path, start: int = 0, stop: int | None = None) -> Iterator[Pixels]:
    """Yield frames of a finished compressed cube of this module, each a new array.

    Raises
    ------
    NotFits
        No such file, or it is damaged.
    StorageError
        The file cannot be read.
    """
    with opened(path) as (read, name):
        tiles = Tiles(read, name)
        compressor = TileCompressor(tiles.layout.dtype, tiles.layout.frame_shape)
        for index in range(*slice(start, stop).indices(tiles.frames)):
            try:
                yield compressor.expand(tiles.tile(index))
            except ValueError as error:
                raise NotFits(f"{name}: frame {index}: {error}", path=name) from None


class Tiles:
    """The tiles of a finished compressed cube of this module, as they are.

    Parameters
    ----------
    read, name
        From :func:`~nightjar.fits.hdus.opened`.

    Attributes
    ----------
    layout : TileLayout
        Where they lie.
    frames : int
        How many the header promises.
    hdu : Hdu
        The unit that holds them.

    Raises
    ------
    NotFits
        No such file, or it is damaged.
    """

    def __init__(self, read: Reader, name: str) -> None:
        self._read, self._name = read, name
        self.hdu = _table(read, name)
        self.layout = _layout(self.hdu, name)
        self.frames = int(str(self.hdu.header["NAXIS2"]))
        self._most = 2 * self.layout.frame_bytes + 4096

    def tile(self, index: int) -> bytes:
        """Return the bytes of a frame's tile.

        Raises
        ------
        NotFits
            The file does not hold it whole.
        """
        length, place = self.row(index)
        data = b""
        if 0 < length <= self._most and place < _MAX_PLACE:
            data = self._read(self.layout.heap_offset + place, length)
        if not data or len(data) < length:
            raise NotFits(f"{self._name}: frame {index}: no whole tile", path=self._name)
        return data

    def row(self, index: int) -> tuple[int, int]:
        """Return the bytes of a frame's tile, and its place behind `layout.heap_offset`."""
        at = self.layout.rows_offset + index * DESCRIPTOR_BYTES
        return _row(self._read(at, DESCRIPTOR_BYTES))


def _table(read: Reader, name: str) -> Hdu:
    for hdu in walk(read, name):
        if hdu.number == 1 and hdu.header.get("ZIMAGE") is True:
            return hdu
    raise NotFits(f"{name}: not a compressed cube", path=name)


def _layout(hdu: Hdu, name: str) -> TileLayout:
    header = hdu.header
    try:
        bitpix, offset = int(str(header["ZBITPIX"])), header.get("BZERO", 0)
        axes = [int(str(header[f"ZNAXIS{n}"])) for n in range(1, int(str(header["ZNAXIS"])) + 1)]
        tile = [int(str(header[f"ZTILE{n}"])) for n in range(1, len(axes) + 1)]
        kind = "f" if bitpix < 0 else "u" if offset or bitpix == 8 else "i"
        dtype = np.dtype(f"{kind}{abs(bitpix) // 8}")
        width = int(str(header["NAXIS1"])) * int(str(header["NAXIS2"]))
        capacity = int(str(header.get("THEAP", width))) // DESCRIPTOR_BYTES
        fits = (tile == [*axes[:-1], 1], image_format(dtype).bzero == offset,
                str(header["TFORM1"]).startswith("1QB"), header["NAXIS1"] == DESCRIPTOR_BYTES,
                header["ZCMPTYPE"] in ("RICE_1", "GZIP_2"), hdu.start == BLOCK_BYTES)  # fmt: skip
    except (KeyError, ValueError, TypeError) as error:
        raise NotFits(f"{name}: not a compressed cube of this program: {error}") from None
    if not all(fits):
        raise NotFits(f"{name}: compressed by another program; use funpack", path=name)
    shape = tuple(reversed(axes[:-1]))
    return TileLayout(shape, dtype, capacity, hdu.data_offset - hdu.start)
