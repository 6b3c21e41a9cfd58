# SPDX-License-Identifier: BSD-3-Clause
"""The Rice coder of cfitsio through ctypes: integers in, bytes out, the interpreter not held.

The three pairs of functions of ``ricecomp.c`` keep no state, so that any number of threads may be
in them. They do not check the end of their output: :func:`room` is what it may need. Debian has
the library in ``libcfitsio10``.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from nightjar.errors import Code, Refused

Integers = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]

BLOCK_PIXELS = 32  # pixels that share one code: the value that fpack uses
_LIBRARIES = ("libcfitsio.so.10", "libcfitsio.so.9", "libcfitsio.so")
_SUFFIXES = {1: "_byte", 2: "_short", 4: ""}
# The decoder looks at its end once a block: within a block it may read this far beyond.
_MARGIN_BYTES = 512
_Coder = Callable[[int, int, int, int, int], int]


@cache
def _library() -> ctypes.CDLL:
    names = [*_LIBRARIES]
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    found = ctypes.util.find_library("cfitsio")
    if found is None:
        raise Refused(
            "tile compression needs the library cfitsio, which is not installed; "
            "install it (apt install libcfitsio10) or switch compression off",
            code=Code.UNSUPPORTED,
        )
    return ctypes.CDLL(found)


@cache
def _coder(name: str) -> _Coder:
    try:
        function = getattr(_library(), name)
    except AttributeError:
        raise Refused(
            f"the installed library cfitsio has no {name}; install Debian's libcfitsio10 "
            "or switch compression off",
            code=Code.UNSUPPORTED,
        ) from None
    # int f(input, count, output, room, block): the order of the two pairs is the only difference
    # between coder and decoder.
    function.restype = ctypes.c_int
    function.argtypes = [
        ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_int
    ]  # fmt: skip
    coder: _Coder = function
    return coder


def require() -> None:
    """Raise Refused, saying what to install, where the library is missing."""
    for suffix in _SUFFIXES.values():
        _coder(f"fits_rcomp{suffix}")
        _coder(f"fits_rdecomp{suffix}")


def room(pixels: int, size: int) -> int:
    """Return the bytes of an output buffer for that many pixels of 1, 2 or 4 bytes.

    The worst that can come is every block as it is, a few bits of its code and the first pixel
    more; the documentation of cfitsio asks for 1 % more than the pixels. An eighth is given.
    """
    return pixels * size + pixels * size // 8 + 1024


def encode(pixels: Integers, out: Bytes) -> int:
    """Compress integers; return the bytes used of `out`.

    Parameters
    ----------
    pixels
        One axis, contiguous, native order, 1, 2 or 4 bytes each; signedness does not matter.
    out
        At least :func:`room` bytes.

    Raises
    ------
    ValueError
        Arrays that the library must not be given.
    """
    size = pixels.itemsize
    if not pixels.flags.c_contiguous or not pixels.dtype.isnative or size not in _SUFFIXES:
        raise ValueError(f"pixels of type {pixels.dtype} cannot be given to the Rice coder")
    if out.nbytes < room(pixels.size, size):
        raise ValueError(f"{out.nbytes} bytes are too few for {pixels.size} pixels")
    coder = _coder(f"fits_rcomp{_SUFFIXES[size]}")
    used = coder(pixels.ctypes.data, pixels.size, out.ctypes.data, out.nbytes, BLOCK_PIXELS)
    if used < 0:
        raise ValueError(f"the Rice coder failed on {pixels.size} pixels")
    return used


def decode(data: Any, pixels: Integers) -> None:
    """Expand compressed bytes into `pixels`.

    Parameters
    ----------
    data
        Anything with a contiguous buffer; garbage does no harm.
    pixels
        As in :func:`encode`, and to be filled.

    Raises
    ------
    ValueError
        The bytes are not those of so many pixels.
    """
    decode_parts(data, [(0, len(np.frombuffer(data, np.uint8)), pixels.size)], pixels)


def decode_parts(data: Any, parts: Iterable[tuple[int, int, int]], pixels: Integers) -> None:
    """Expand several stretches of compressed bytes, one after the other, into `pixels`.

    Parameters
    ----------
    data
        As of :func:`decode`.
    parts
        Where each begins in it, its bytes, and the pixels that it has.
    pixels
        As in :func:`encode`, and to be filled.

    Raises
    ------
    ValueError
        As :func:`decode`.
    """
    raw = np.frombuffer(data, np.uint8)
    # Ones behind the end stop the coder's search for the next one bit.
    padded = np.full(len(raw) + _MARGIN_BYTES, 0xFF, np.uint8)
    padded[: len(raw)] = raw
    size = pixels.itemsize
    if not pixels.flags.c_contiguous or not pixels.dtype.isnative or size not in _SUFFIXES:
        raise ValueError(f"pixels of type {pixels.dtype} cannot be had from the Rice coder")
    coder = _coder(f"fits_rdecomp{_SUFFIXES[size]}")
    source, target = padded.ctypes.data, pixels.ctypes.data
    end = target + pixels.nbytes
    for start, length, count in parts:
        is_in = 0 <= start <= len(raw) - length and 0 <= count * size <= end - target
        if not is_in or length < size or coder(source + start, length, target, count, BLOCK_PIXELS):
            raise ValueError(f"{length} bytes are not {count} pixels")
        target += count * size
