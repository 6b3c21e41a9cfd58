# SPDX-License-Identifier: BSD-3-Clause
"""Binned pixels: ``b`` x ``b`` sums and means, a block of rows at a time.

Sums are exact: 16-bit pixels give 32-bit sums, 32-bit ones 64-bit sums. Means keep the type of the
pixels; integer means are rounded half up, ``floor(sum / n + 1/2)``, in integer arithmetic, so that
they do not depend on the floating point of a machine and a constant frame stays that constant.
Floats are summed in double precision.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from nightjar.errors import Code, Refused

Pixels = npt.NDArray[Any]
Method = Literal["sum", "mean"]

BLOCK_PIXELS = 1 << 17
MAX_BINNING = 256  # 65535 x 256 x 256 still fits into 32 bits
_LOW = np.uint32(0xFFFF)
_SIXTEEN = np.uint32(16)

# Type of a pixel, type of its sums, type in which they are accumulated.
_SUMS = {
    "u1": ("u4", "u4"),
    "u2": ("u4", "u4"),
    "u4": ("u8", "u8"),
    "i2": ("i4", "i4"),
    "i4": ("i8", "i8"),
    "f4": ("f4", "f8"),
    "f8": ("f8", "f8"),
}


def binned_dtype(dtype: npt.DTypeLike, binning: int, method: Method) -> np.dtype[Any]:
    """Return the (native) type of binned pixels.

    Raises
    ------
    ValueError
        `method` is neither ``sum`` nor ``mean``, or pixels of that type cannot be binned.
    """
    native = np.dtype(dtype).newbyteorder("=")
    if method not in ("sum", "mean"):
        raise ValueError(f"binning method {method!r} is neither 'sum' nor 'mean'")
    if binning == 1:
        return native
    if native.str[1:] not in _SUMS:
        raise ValueError(f"pixels of type {native} cannot be binned")
    return np.dtype(_SUMS[native.str[1:]][0]) if method == "sum" else native


def binned_shape(shape: tuple[int, ...], binning: int) -> tuple[int, ...]:
    """Return the shape after binning.

    Raises
    ------
    Refused
        The binning is no factor of the image (code BINNING_MISMATCH).
    """
    if binning == 1:
        return shape
    if not 1 <= binning <= MAX_BINNING:
        raise Refused(
            f"binning {binning} is outside 1 to {MAX_BINNING}", code=Code.OUT_OF_RANGE
        )
    if len(shape) != 2 or any(n % binning for n in shape):
        raise Refused(
            f"binning {binning} does not divide an image of {' x '.join(map(str, shape[::-1]))}",
            code=Code.BINNING_MISMATCH,
        )
    return tuple(n // binning for n in shape)


class BlockBinner:
    """Bins blocks of rows of one image; its temporaries are made once and stay in cache.

    Parameters
    ----------
    dtype, width
        Of the pixels.
    binning
        2 and up; divides the width.
    method
        ``sum`` or ``mean``.
    """

    def __init__(self, dtype: npt.DTypeLike, width: int, binning: int, method: Method) -> None:
        self.binning = binning
        self.method = method
        self.out_dtype = binned_dtype(dtype, binning, method)
        self._native = np.dtype(dtype).newbyteorder("=")
        self._accumulator = np.dtype(_SUMS[self._native.str[1:]][1])
        # Rows of a block: whole bins, about BLOCK_PIXELS pixels.
        self.rows = max(1, BLOCK_PIXELS // (width * binning)) * binning
        self._by_pairs = self._native == np.uint16 and binning % 2 == 0
        if self._by_pairs:
            self._aligned = np.empty((self.rows, width), np.uint16)
            self._pairs = np.empty((self.rows, width // 2), np.uint32)
            self._high = np.empty((self.rows, width // 2), np.uint32)

    def bin(self, block: Pixels) -> Pixels:
        """Return binned pixels.

        Parameters
        ----------
        block : (k * binning, width)
            At most :attr:`rows` rows, any strides.

        Returns
        -------
        (k, width // binning)
            May be overwritten by the next call.
        """
        if self._by_pairs:
            sums = self._sum_pairs(block)
        else:
            sums = self._sum_columns(self._sum_rows(block, self.binning), self.binning)
        if self.method == "sum":
            return sums.astype(self.out_dtype, copy=False)
        count = self.binning * self.binning
        if self.out_dtype.kind == "f":
            return (sums / count).astype(self.out_dtype, copy=False)
        # floor((2 sum + n) / 2n) rounds half up, negative sums too.
        return ((2 * sums + count) // (2 * count)).astype(self.out_dtype)

    def _sum_rows(self, block: Pixels, count: int) -> Pixels:
        stacked = block.reshape(len(block) // count, count, block.shape[1])
        sums: Pixels = np.add.reduce(stacked, axis=1, dtype=self._accumulator)
        return sums

    def _sum_columns(self, rows: Pixels, count: int) -> Pixels:
        if count == 1:
            return rows
        sums = rows[:, 0::count] + rows[:, 1::count]
        for offset in range(2, count):
            sums += rows[:, offset::count]
        return sums

    def _sum_pairs(self, block: Pixels) -> Pixels:
        """Sum 16-bit pixels two at a time, as the halves of 32-bit words: eight times as fast."""
        count = len(block)
        if (
            block.dtype != self._native
            or block.strides[1] != 2
            or block.strides[0] % 4
            or block.ctypes.data % 4
        ):
            # A window that begins at an odd column: words need aligned rows.
            aligned = self._aligned[:count]
            np.copyto(aligned, block)
            block = aligned
        words = block.view(np.uint32)
        pairs, high = self._pairs[:count], self._high[:count]
        np.bitwise_and(words, _LOW, out=pairs)
        np.right_shift(words, _SIXTEEN, out=high)
        np.add(pairs, high, out=pairs)
        if self.binning == 2:
            return np.add(pairs[0::2], pairs[1::2], out=high[: count // 2])
        return self._sum_columns(self._sum_rows(pairs, self.binning), self.binning // 2)


def bin_image(pixels: Pixels, binning: int, method: Method = "sum") -> Pixels:
    """Return a binned image.

    Parameters
    ----------
    pixels : (rows, columns)
        Any strides and byte order.
    binning
        Pixels on a side; 1 gives a copy.
    method
        ``sum`` or ``mean``; see the first lines of the module.

    Raises
    ------
    Refused
        The binning does not divide the image.
    ValueError
        Pixels that cannot be binned.
    """
    out = np.empty(
        binned_shape(pixels.shape, binning), binned_dtype(pixels.dtype, binning, method)
    )
    if binning == 1:
        np.copyto(out, pixels)
        return out
    binner = BlockBinner(pixels.dtype, pixels.shape[1], binning, method)
    for row in range(0, len(pixels), binner.rows):
        block = binner.bin(pixels[row : row + binner.rows])
        out[row // binning : row // binning + len(block)] = block
    return out
