# SPDX-License-Identifier: BSD-3-Clause
"""Frames out of cubes that another program compressed, with ``fpack`` say, one at a time.

The tiles of such a cube may be rows, parts of frames, frames, several frames or the whole cube.
What is expanded at once is bounded; see :data:`MOST_BYTES`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from nightjar.errors import Refused
from nightjar.fits import rice
from nightjar.fits.hdus import Hdu, Reader, walk
from nightjar.fits.header import NotFits
from nightjar.fits.tile_reader import Tiles
from nightjard.archived.nights.writing.packed import expanded, tiling_of
from nightjard.archived.nights.writing.rice_stream import RiceStream

#: Most bytes of frames that are expanded together because they share tiles. A Rice tile of more
#: is expanded piece by piece.
MOST_BYTES = 16 << 20
_GAP_BYTES = 1 << 16
_Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Shapes:
    """The tiles of `depth` frames: rows and columns of each, its pixels, the most bytes it has."""

    depth: int
    corners: list[tuple[slice, slice]]
    counts: list[int]
    room: _Ints


def open_tiles(read: Reader, name: str) -> Tiles | ForeignTiles:
    """Return the tiles of a compressed cube: of this suite, a tile a frame, or of another program.

    Parameters
    ----------
    read, name
        From :func:`~nightjar.fits.hdus.opened`.

    Raises
    ------
    NotFits
        No such cube, or it was compressed in a way that is not read here.
    """
    try:
        return Tiles(read, name)
    except NotFits:
        return ForeignTiles(read, name)


class ForeignTiles:
    """The tiles of a cube, or of one frame, whatever their shape.

    Parameters
    ----------
    read, name
        As of :func:`open_tiles`.

    Attributes
    ----------
    hdu : Hdu
        The unit that holds them.
    bytes_read : int
        Of tiles.

    Raises
    ------
    NotFits
        As :func:`open_tiles`.
    """

    def __init__(self, read: Reader, name: str) -> None:
        self._read, self._name = read, name
        self.hdu = _compressed(read, name)
        try:
            self._tiling, self._algorithm = tiling_of(self.hdu, name)
        except Refused as error:
            raise NotFits(error.message, path=name) from None
        if len(self._tiling.axes) not in (2, 3):
            raise NotFits(f"{name}: it holds no image of two or three axes", path=name)
        self._axes = (*self._tiling.axes, 1)[:3]
        shape = zip((*self._tiling.tile, 1)[:3], self._axes, strict=True)
        self._tile = tuple(min(length, axis) for length, axis in shape)
        if min(self._tile[:2]) < 1 or (self._axes[2] and self._tile[2] < 1):
            raise NotFits(f"{name}: impossible tiles {self._tiling.tile}", path=name)
        self._across = -(-self._axes[0] // self._tile[0])
        self._in_group = self._across * -(-self._axes[1] // self._tile[1])
        groups = -(-self._axes[2] // self._tile[2]) if self._axes[2] else 0
        self._require_table(groups * self._in_group)
        self._size = self._tiling.pixel_bytes
        self._frame_pixels = prod(self._axes[:2])
        self._is_streamed = (
            self._tile[2] > 1 and self._tile[2] * self._frame_pixels * self._size > MOST_BYTES
        )
        if self._is_streamed and (self._in_group > 1 or not self._algorithm.startswith("RICE")):
            raise NotFits(
                f"{name}: tiles of {self._tile[2]} frames are too large to be read here; use "
                "funpack",
                path=name,
            )
        self._held = -1  # group of tiles that is expanded, or being so
        self._frames: npt.NDArray[Any] = np.empty(0, self._native)
        self._stream: RiceStream | None = None
        self._known: _Shapes | None = None
        self.bytes_read = 0

    def _require_table(self, tiles: int) -> None:
        header = self.hdu.header
        self._width, self._wide = (8, ">i4") if "P" in str(header["TFORM1"]) else (16, ">i8")
        if header.get("NAXIS1") != self._width or header.get("NAXIS2") != tiles:
            raise NotFits(
                f"{self._name}: {header.get('NAXIS2')} tiles, not {tiles}", path=self._name
            )
        heap = int(str(header.get("THEAP", self._width * tiles)))
        self._heap = self.hdu.data_offset + heap

    @property
    def _native(self) -> np.dtype[Any]:
        return np.dtype(f"i{self._size}")  # of floats, too: nothing is done but moving bytes

    def fill(self, index: int, out: memoryview) -> None:
        """Put a frame into `out`, as its bytes in an uncompressed file.

        Raises
        ------
        ValueError
            Its tiles are damaged or not in the file.
        """
        group, place = divmod(index, self._tile[2])
        target = np.frombuffer(out, f">i{self._size}")
        if self._is_streamed:
            frame = np.empty(self._frame_pixels, self._native)
            self._take(group, place, frame)
            np.copyto(target, frame)
            return
        if self._held != group:
            self._held = -1
            self._expand(group)
            self._held = group
        np.copyto(target, self._frames[place].reshape(-1))

    def _depth(self, group: int) -> int:
        return min(self._tile[2], self._axes[2] - group * self._tile[2])

    def _take(self, group: int, place: int, frame: npt.NDArray[Any]) -> None:
        """Take a frame out of a tile of many; what stands before it is expanded, too."""
        wanted = place * self._frame_pixels
        stream = self._stream
        if stream is None or self._held != group or stream.place > wanted:
            pixels = self._depth(group) * self._frame_pixels
            room = np.array([rice.room(pixels, self._size)])
            (start,), (length,) = (each.tolist() for each in self._places(group, room))
            stream = RiceStream(self._read, self._heap + start, length, pixels, self._size)
            self._stream, self._held = stream, group
        before = stream.bytes_read
        try:
            stream.take(wanted - stream.place)
            stream.take(self._frame_pixels, frame)
        except ValueError:
            self._stream = None
            raise
        self.bytes_read += stream.bytes_read - before

    def _shapes(self, depth: int) -> _Shapes:
        """Return the tiles of a group of so many frames."""
        if self._known is None or self._known.depth != depth:
            width, height = self._axes[:2]
            corners = [
                (slice(top, min(top + self._tile[1], height)),
                 slice(left, min(left + self._tile[0], width)))
                for top in range(0, height, self._tile[1])
                for left in range(0, width, self._tile[0])
            ]  # fmt: skip
            counts = [depth * (ys.stop - ys.start) * (xs.stop - xs.start) for ys, xs in corners]
            room = np.array([rice.room(count, self._size) for count in counts])
            self._known = _Shapes(depth, corners, counts, room)
        return self._known

    def _expand(self, group: int) -> None:
        """Expand the tiles that some frames share."""
        depth = self._depth(group)
        shapes = self._shapes(depth)
        self._frames = np.empty((depth, *self._axes[1::-1]), self._native)
        data, starts, lengths = self._tiles(*self._places(group, shapes.room))
        parts = zip(starts.tolist(), lengths.tolist(), shapes.counts, strict=True)
        is_rice = self._algorithm.startswith("RICE")
        if is_rice and self._across == 1 and (depth == 1 or self._in_group == 1):
            rice.decode_parts(data, parts, self._frames.reshape(-1))
            return
        for (start, length, count), (ys, xs) in zip(parts, shapes.corners, strict=True):
            tile = data[start : start + length]
            part = np.empty(count, self._native)
            if is_rice:
                rice.decode(tile, part)
            else:
                pixels = expanded(tile, count, self._tiling, self._algorithm)
                np.copyto(part, np.frombuffer(pixels, f">i{self._size}"))
            self._frames[:, ys, xs] = part.reshape(depth, ys.stop - ys.start, -1)

    def _places(self, group: int, room: npt.NDArray[Any]) -> tuple[_Ints, _Ints]:
        """Return places (in the heap) and lengths of the tiles of a group."""
        at = self.hdu.data_offset + group * self._in_group * self._width
        table = self._read(at, self._in_group * self._width)
        if len(table) < self._in_group * self._width:
            raise ValueError("the table of its tiles is cut short")
        lengths, places = np.frombuffer(table, self._wide).reshape(-1, 2).T.astype(np.int64)
        is_in = (lengths > 0) & (lengths <= room) & (places >= 0)
        is_in &= places <= self.hdu.end - self._heap - lengths
        if not is_in.all():
            number = group * self._in_group + int(np.argmin(is_in))
            raise ValueError(f"tile {number} is not in the file")
        return places, lengths

    def _tiles(self, places: _Ints, lengths: _Ints) -> tuple[bytes, _Ints, _Ints]:
        """Return the bytes of tiles, and where in them each is; read at once if near each other."""
        first, last, total = places.min(), (places + lengths).max(), lengths.sum()
        if last - first <= total + _GAP_BYTES:
            data = self._read(self._heap + int(first), int(last - first))
            starts = places - first
        else:
            pairs = zip(places.tolist(), lengths.tolist(), strict=True)
            data = b"".join(self._read(self._heap + at, length) for at, length in pairs)
            starts = np.cumsum(lengths) - lengths
        self.bytes_read += int(total)
        if len(data) < (starts + lengths).max():
            raise ValueError("its tiles are not whole")
        return data, starts, lengths


def _compressed(read: Reader, name: str) -> Hdu:
    for hdu in walk(read, name, is_lenient=True):
        if hdu.header.get("ZIMAGE") is True:
            return hdu
    raise NotFits(f"{name}: not a compressed cube", path=name)
