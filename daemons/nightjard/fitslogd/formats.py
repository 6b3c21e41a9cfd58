# SPDX-License-Identifier: BSD-3-Clause
"""The two kinds of cube files behind one face: plain images, and Rice tiles.

A :class:`CubeFormat` makes the writers of a session and salvages what a dead one left.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nightjar.errors import Code, Refused
from nightjar.fits.binning import Pixels
from nightjar.fits.cards import Card
from nightjar.fits.compressed_cube import CompressedCube, TilePool
from nightjar.fits.cube import CubeLayout, CubeWriter, finish_cube, salvage_frames
from nightjar.fits.frame_table import Rows
from nightjar.fits.sink import DiskQueue
from nightjar.fits.tile_file import TileFile, TileLayout
from nightjar.fits.tile_reader import salvage_tiles
from nightjar.fits.tiles import algorithm_for

_SPARE_ROWS = 4  # tiled cubes have a fixed room: more than the length, which may be changed


class Writer(Protocol):
    """A cube that takes frames."""

    @property
    def frames(self) -> int:
        """Frames in it."""
        ...

    def append(self, frame: Pixels) -> int:
        """Put a frame at the end; return its DATASUM."""
        ...

    def drop_last(self) -> None:
        """Take the last frame back."""
        ...

    def hand_over(self) -> None:
        """Be done with taking frames; another thread completes it."""
        ...

    def complete(self, cards: Iterable[Card], rows: Rows, *, fsync: bool = True) -> int:
        """Make it a FITS file under its temporary name; return its size."""
        ...

    def close(self) -> None:
        """Close the file as it is."""
        ...


def append_run(writer: Writer, frames: Pixels, sums: list[int]) -> None:
    """Put several frames at the end of a cube.

    Parameters
    ----------
    frames
        (count, *shape of one frame).
    sums
        Takes the DATASUM of each frame that is in, also where one cannot be written.
    """
    if isinstance(writer, CubeWriter):
        writer.append_run(frames, sums)
        return
    for frame in frames:
        sums.append(writer.append(frame))


class Salvage(Protocol):
    """What is whole in the file of a dead writer."""

    rows: Rows

    def complete(self, cards: Iterable[Card], rows: Rows) -> int:
        """Make it a FITS file with the first ``len(rows)`` frames; return its size."""
        ...

    def close(self) -> None:
        """Close the file as it is."""
        ...


class CubeFormat(Protocol):
    """Makes cubes for frames of one geometry.

    Attributes
    ----------
    frame_bytes
        Of one frame, uncompressed.
    capacity
        Frames that a cube has room for; None where it has no end.
    """

    frame_bytes: int
    capacity: int | None

    def open(self, path: Path) -> Writer:
        """Begin a cube."""
        ...

    def salvage(self, path: Path, rows: Rows) -> Salvage:
        """Open what a writer left, and look which frames of `rows` are whole."""
        ...

    def head(self) -> dict[str, Any]:
        """Return plain values from which :func:`format_of` makes this format again."""
        ...


class PlainFormat:
    """Uncompressed images.

    Parameters
    ----------
    layout
        Of the file.
    disk
        Made where it is first needed.
    """

    capacity: int | None = None

    def __init__(self, layout: CubeLayout, disk: DiskQueue | None = None) -> None:
        self.layout = layout
        self.frame_bytes = layout.frame_bytes
        self._disk = disk

    def open(self, path: Path) -> Writer:
        """See :class:`CubeFormat`."""
        assert self._disk is not None
        return CubeWriter(path, self.layout, self._disk)

    def salvage(self, path: Path, rows: Rows) -> Salvage:
        """See :class:`CubeFormat`."""
        return _PlainSalvage(path, self.layout, rows)

    def head(self) -> dict[str, Any]:
        """See :class:`CubeFormat`."""
        layout = self.layout
        return {
            "compress": False, "shape": list(layout.frame_shape), "dtype": layout.dtype.str,
            "header_bytes": layout.header_bytes,
        }  # fmt: skip


class _PlainSalvage:
    def __init__(self, path: Path, layout: CubeLayout, rows: Rows) -> None:
        self._layout = layout
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self.rows = salvage_frames(self._descriptor, layout, rows)
        except BaseException:
            self.close()
            raise

    def complete(self, cards: Iterable[Card], rows: Rows) -> int:
        os.ftruncate(self._descriptor, self._layout.frame_offset(len(rows)))
        size = finish_cube(self._descriptor, self._layout, cards, rows)
        os.fsync(self._descriptor)
        return size

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class TiledFormat:
    """Rice tiles, one a frame; compressed in threads.

    Parameters
    ----------
    layout
        Of the file.
    pool
        Of frames of this geometry.
    """

    def __init__(self, layout: TileLayout, pool: TilePool | None = None) -> None:
        self.layout = layout
        self.frame_bytes = layout.frame_bytes
        self.capacity: int | None = layout.capacity
        self._pool = pool

    def open(self, path: Path) -> Writer:
        """See :class:`CubeFormat`."""
        assert self._pool is not None
        return CompressedCube(path, self.layout, self._pool)

    def salvage(self, path: Path, rows: Rows) -> Salvage:
        """See :class:`CubeFormat`."""
        return _TiledSalvage(*salvage_tiles(path, rows))

    def head(self) -> dict[str, Any]:
        """See :class:`CubeFormat`."""
        layout = self.layout
        return {
            "compress": True, "shape": list(layout.frame_shape), "dtype": layout.dtype.str,
            "header_bytes": layout.header_bytes, "capacity": layout.capacity,
        }  # fmt: skip


class _TiledSalvage:
    def __init__(self, tiles: TileFile, rows: Rows) -> None:
        self._tiles = tiles
        self.rows = rows

    def complete(self, cards: Iterable[Card], rows: Rows) -> int:
        while self._tiles.frames > len(rows):
            self._tiles.drop_last()
        return self._tiles.complete(cards, rows)

    def close(self) -> None:
        self._tiles.close()


class Formats:
    """The formats of one logger, with the threads and the memory that their writers share."""

    def __init__(self) -> None:
        self._disk: DiskQueue | None = None
        self._pool: TilePool | None = None

    def make(
        self, frame_shape: tuple[int, ...], dtype: Any, frames: int, cards: int, *, compress: bool
    ) -> CubeFormat:
        """Return the format of cubes of these frames.

        Parameters
        ----------
        frames
            Length of a cube.
        cards
            Room in the header.

        Raises
        ------
        Refused
            Such frames cannot be compressed, or the library for it is missing.
        """
        if not compress:
            if self._disk is None:
                self._disk = DiskQueue()
            return PlainFormat(CubeLayout.make(frame_shape, dtype, cards), self._disk)
        pool = self._pool
        if pool is None or (pool.frame_shape, pool.dtype) != (tuple(frame_shape), np.dtype(dtype)):
            if pool is not None:
                pool.stop()
            self._pool = pool = TilePool(frame_shape, dtype)
        return TiledFormat(TileLayout.make(frame_shape, dtype, _SPARE_ROWS * frames, cards), pool)

    def stop(self) -> None:
        """End the threads, after what is in line."""
        if self._disk is not None:
            self._disk.stop()
        if self._pool is not None:
            self._pool.stop()


def format_of(head: dict[str, Any]) -> CubeFormat:
    """Return the format that :meth:`CubeFormat.head` told of; it can only salvage."""
    shape, dtype = tuple(head["shape"]), np.dtype(head["dtype"])
    if head["compress"]:
        return TiledFormat(
            TileLayout(shape, dtype, int(head["capacity"]), int(head["header_bytes"]))
        )
    return PlainFormat(CubeLayout(shape, dtype, int(head["header_bytes"])))


def check_compression(dtype: Any) -> None:
    """Raise Refused unless such frames can be compressed here."""
    try:
        algorithm_for(dtype)
    except ValueError as error:
        raise Refused(f"such frames cannot be compressed: {error}", code=Code.UNSUPPORTED) from None
