# SPDX-License-Identifier: BSD-3-Clause
"""Pixels out of a Rice tile that is too large to be expanded at once.

The decoder of cfitsio begins at the start of a tile and does not say how far it came. But its
stream can be entered at any block of 32 pixels whose first bit and preceding pixel are known: the
decoder is given that pixel, and the bits from there on moved to the start of a byte. Where the
next piece begins follows from the pixels: each block has a code of a few bits and then as many as
the code and the differences of its pixels say (Rice coder of cfitsio, ``ricecomp.c``). The codes
that are expected are compared with those in the stream, so that an error cannot pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nightjar.fits import rice
from nightjar.fits.hdus import Reader

_PIECE_PIXELS = 1 << 19
_BLOCK = rice.BLOCK_PIXELS


@dataclass(frozen=True)
class _Form:
    """Of pixels of one size: bits of a code, the code of blocks as they are, bits of a pixel."""

    code_bits: int
    most: int
    pixel_bits: int


_FORMS = {1: _Form(3, 6, 8), 2: _Form(4, 14, 16), 4: _Form(5, 25, 32)}


class RiceStream:
    """The pixels of one tile, from the first to the last.

    Parameters
    ----------
    read
        Gives bytes (offset, count) of the tile's file.
    offset, length
        Of the tile in it.
    pixels, size
        How many the tile has, and bytes of one.

    Attributes
    ----------
    place : int
        Pixels taken so far.
    bytes_read : int
        Of the tile.
    """

    def __init__(self, read: Reader, offset: int, length: int, pixels: int, size: int) -> None:
        self._read, self._offset, self._length = read, offset, length
        self._pixels, self._size = pixels, size
        self._form = _FORMS[size]
        self._piece: npt.NDArray[Any] = np.empty(0, f"i{size}")
        self._done = self._used = 0  # pixels expanded, and taken out of the piece
        self.bytes_read = 0
        self._last = read(offset, size)
        self._bit = 8 * size

    @property
    def place(self) -> int:
        """Pixels taken so far."""
        return self._done - len(self._piece) + self._used

    def take(self, count: int, out: npt.NDArray[Any] | None = None) -> None:
        """Take the next pixels, into `out` (native integers) where it is given.

        Raises
        ------
        ValueError
            The bytes are not those of such a tile.
        """
        at = 0
        while at < count:
            if self._used == len(self._piece):
                self._expand()
            step = min(count - at, len(self._piece) - self._used)
            if out is not None:
                out[at : at + step] = self._piece[self._used : self._used + step]
            self._used += step
            at += step

    def _expand(self) -> None:
        """Expand the next piece."""
        count = min(_PIECE_PIXELS, self._pixels - self._done)
        start, shift = divmod(self._bit, 8)
        most = min(rice.room(count, self._size), self._length - start)
        if count <= 0 or most <= 0:
            raise ValueError("the tile ends before its last pixel")
        raw = np.frombuffer(self._read(self._offset + start, most), np.uint8)
        body = raw
        if shift:
            body = raw << np.uint8(shift)
            body[:-1] |= raw[1:] >> np.uint8(8 - shift)
        piece = np.empty(count, f"i{self._size}")
        rice.decode(self._last + body.tobytes(), piece)
        bits = self._bits(piece, body)
        self.bytes_read += bits // 8
        self._bit += bits
        self._last = piece[-1:].astype(f">i{self._size}").tobytes()
        self._piece, self._used = piece, 0
        self._done += count

    def _bits(self, piece: npt.NDArray[Any], body: npt.NDArray[np.uint8]) -> int:
        """Return the bits that the blocks of a piece have in the stream."""
        form = self._form
        before = np.empty_like(piece)
        before[0] = int.from_bytes(self._last, "big", signed=True)
        before[1:] = piece[:-1]
        steps = piece - before  # as the coder's, these wrap
        folded = (steps << 1 ^ steps >> (form.pixel_bits - 1)).view(f"u{self._size}")
        blocks = np.zeros(-(-len(piece) // _BLOCK) * _BLOCK, folded.dtype)
        blocks[: len(folded)] = folded
        blocks = blocks.reshape(-1, _BLOCK)
        sizes = np.full(len(blocks), _BLOCK, np.int64)
        sizes[-1] = len(piece) - _BLOCK * (len(blocks) - 1)
        sums = blocks.sum(axis=1, dtype=np.float64)
        means = np.maximum((sums - sizes // 2 - 1) / sizes, 0).astype(np.int64) >> 1
        split = np.frexp(means.astype(np.float64))[1].astype(np.int64)  # bits of the mean
        is_raw, is_flat = split >= form.most, sums == 0
        codes = np.where(is_raw, form.most + 1, np.where(is_flat, 0, split + 1))
        shifts = np.where(is_raw, 0, split).astype(folded.dtype)
        unary = (blocks >> shifts[:, None]).sum(axis=1, dtype=np.int64)
        lengths = form.code_bits + np.where(
            is_raw, sizes * form.pixel_bits, np.where(is_flat, 0, sizes * (split + 1) + unary)
        )
        ends = np.cumsum(lengths)
        starts = ends - lengths
        if ends[-1] > 8 * len(body):
            raise ValueError("the tile ends before its last pixel")
        wide = np.append(body, np.uint8(0)).astype(np.int64)
        window = wide[starts >> 3] << 8 | wide[(starts >> 3) + 1]
        found = window >> (16 - form.code_bits - (starts & 7)) & ((1 << form.code_bits) - 1)
        if not np.array_equal(found, codes):
            raise ValueError("it was not made by the coder of fpack")
        return int(ends[-1])
