# SPDX-License-Identifier: BSD-3-Clause
"""Pixels to the bytes of a FITS data unit, in one pass over the image.

An image goes through in pieces that stay in the processor's cache: binned where asked, moved to the
signed range, summed for DATASUM, swapped to big-endian. The source is read once and never copied
whole, whatever its strides: a window is a view of the frame buffer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nightjar.fits.binning import BLOCK_PIXELS, BlockBinner, Method, Pixels, binned_shape
from nightjar.fits.checksum import DataSum, fold, native_word_sum, rotate_right


@dataclass(frozen=True, slots=True)
class ImageFormat:
    """How pixels of one type stand in a file (FITS 4.0 sections 4.4.1.1, 5.2.5 and 7.1.3).

    Attributes
    ----------
    bitpix
        Bits; negative for floating point.
    bzero
        What a reader adds to the stored integers; 0 for types that FITS has.
    dtype
        The type in memory, native byte order.
    """

    bitpix: int
    bzero: int
    dtype: np.dtype[Any]

    @property
    def stored(self) -> np.dtype[Any]:
        """The type in the file, big-endian."""
        kind = "i" if self.bzero else self.dtype.kind
        return np.dtype(f">{kind}{self.dtype.itemsize}")


_FORMATS = {
    "u1": (8, 0),
    "i2": (16, 0),
    "u2": (16, 1 << 15),
    "i4": (32, 0),
    "u4": (32, 1 << 31),
    "i8": (64, 0),
    "u8": (64, 1 << 63),
    "f4": (-32, 0),
    "f8": (-64, 0),
}


def image_format(dtype: npt.DTypeLike) -> ImageFormat:
    """Return the format of pixels of a type; ValueError where FITS has none (bool, complex)."""
    native = np.dtype(dtype).newbyteorder("=")
    if native.str[1:] not in _FORMATS:
        raise ValueError(f"pixels of type {native} have no place in a FITS image")
    bitpix, bzero = _FORMATS[native.str[1:]]
    return ImageFormat(bitpix, bzero, native)


class BlockEncoder:
    """Turns blocks of native pixels into file order and keeps their sum.

    Parameters
    ----------
    image
        Format of the pixels.
    capacity
        The largest block, pixels.
    datasum
        Takes the sum of every block.
    """

    def __init__(self, image: ImageFormat, capacity: int, datasum: DataSum) -> None:
        self.datasum = datasum
        self._size = image.dtype.itemsize
        self._sign = image.dtype.type(image.bzero) if image.bzero else None
        words = -(-capacity * self._size // 8)
        self._words = np.zeros(words, np.uint64)
        self._scratch = np.empty(words, np.uint64)
        self._native = self._words.view(image.dtype)
        self._swapped = np.empty(capacity, image.dtype.newbyteorder(">"))
        self.big_endian = self._swapped.dtype  # of what `finish` returns or fills

    def load(self, block: Pixels) -> int:
        """Read a block of the source; afterwards the source may change. Return its pixels."""
        count = int(block.size)
        native = self._native[:count].reshape(block.shape)
        if self._sign is None:
            np.copyto(native, block)
        else:
            # Subtracting the offset of an unsigned type is flipping its highest bit.
            np.bitwise_xor(block, self._sign, out=native)
        return count

    def finish(self, count: int, out: Pixels | None = None) -> Pixels:
        """Sum and swap what was loaded; return it in file order, valid until the next block.

        With `out` (of the stored type, at least `count` pixels) it is put there.
        """
        native = self._native[:count]
        if self._size == 1:
            self.datasum.add(native)
            if out is None:
                return native
            out[:count] = native
            return out[:count]
        words = -(-count * self._size // 8)
        self._native[count : words * 8 // self._size] = 0
        total = native_word_sum(self._words[:words], self._scratch)
        if self._size == 2:
            # In a native word the first pixel is the low half; in the file it is the high half.
            total = rotate_right(fold(total), 16)
        self.datasum.add_sum(total, count * self._size)
        swapped = (self._swapped if out is None else out)[:count]
        np.copyto(swapped, native)
        return swapped


def encode(
    pixels: Pixels,
    datasum: DataSum,
    *,
    binning: int = 1,
    method: Method = "sum",
    on_consumed: Callable[[], None] | None = None,
) -> Iterator[Pixels]:
    """Yield the data unit of an image, without its fill, piece by piece.

    Parameters
    ----------
    pixels
        Any shape (binned: two axes), strides and byte order; not empty.
    datasum
        Holds the sum once the last piece has been taken.
    binning, method
        See :mod:`nightjar.fits.binning`.
    on_consumed
        Called once, when the last pixel of the source has been read and before the last piece is
        yielded: the frame buffer may be used again.

    Yields
    ------
    numpy.ndarray
        One axis, contiguous, in file order; overwritten when the next one is asked for.
    """
    if pixels.size == 0:
        raise ValueError(f"an image of shape {pixels.shape} has no pixels")
    binner = None
    if binning == 1:
        image, capacity = image_format(pixels.dtype), BLOCK_PIXELS
        blocks = _blocks(pixels)
    else:
        rows, columns = binned_shape(pixels.shape, binning)
        binner = BlockBinner(pixels.dtype, pixels.shape[1], binning, method)
        image, capacity = image_format(binner.out_dtype), binner.rows // binning * columns
        step = binner.rows
        blocks = (pixels[row : row + step] for row in range(0, rows * binning, step))
    encoder = BlockEncoder(image, min(capacity, int(pixels.size)), datasum)
    left = int(pixels.size)
    for block in blocks:
        count = encoder.load(block if binner is None else binner.bin(block))
        left -= int(block.size)
        if left == 0 and on_consumed is not None:
            on_consumed()
        yield encoder.finish(count)


def _blocks(pixels: Pixels) -> Iterator[Pixels]:
    """Yield views of at most BLOCK_PIXELS pixels, in order."""
    if pixels.flags.c_contiguous:
        pixels = pixels.reshape(-1)
    if pixels.ndim == 1:
        step = BLOCK_PIXELS
    else:
        step = BLOCK_PIXELS // int(pixels[0].size)
    if step == 0:
        for part in pixels:
            yield from _blocks(part)
        return
    for start in range(0, len(pixels), step):
        yield pixels[start : start + step]
