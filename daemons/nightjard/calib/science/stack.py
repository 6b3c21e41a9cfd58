# SPDX-License-Identifier: BSD-3-Clause
"""Stacks of frames: median and deviation of every pixel, and means that leave outliers out."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Cube = NDArray[Any]

#: A median of N normal numbers is so much less sure than their mean, for large N.
MEDIAN_FACTOR = math.sqrt(math.pi / 2.0)


@numba.njit(cache=True, nogil=True)
def _nth(values: Floats, count: int, nth: int) -> Any:  # pragma: no cover  (compiled)
    """Return the nth smallest of values[:count] (quickselect); reorders them."""
    low, high = 0, count - 1
    while low < high:
        pivot = values[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if nth <= j:
            high = j
        elif nth >= i:
            low = i
        else:
            break
    return values[nth]


@numba.njit(cache=True, nogil=True)
def _median(values: Floats, count: int) -> Any:  # pragma: no cover  (compiled)
    if count <= 16:  # insertion sort: few, and usually near each other
        for i in range(1, count):
            one = values[i]
            j = i - 1
            while j >= 0 and values[j] > one:
                values[j + 1] = values[j]
                j -= 1
            values[j + 1] = one
        middle = count // 2
        if count % 2:
            return values[middle]
        return np.float32(0.5) * (values[middle - 1] + values[middle])
    upper = _nth(values, count, count // 2)
    if count % 2:
        return upper
    lower = values[0]  # the largest of those below
    for i in range(1, count // 2):
        lower = max(lower, values[i])
    return np.float32(0.5) * (lower + upper)


@numba.njit(cache=True, nogil=True)
def _stack(
    cube: Cube, levels: Floats, top: float, clip: float, noise: float, is_signed: bool,
    median: Floats, std: Floats, mean: Floats, counts: NDArray[np.int16],
) -> None:  # pragma: no cover  (compiled)
    frames, rows, columns = cube.shape
    work = np.empty(frames, np.float32)
    kept = np.empty(frames, np.float32)
    for row in range(rows):
        for column in range(columns):
            count = 0
            for frame in range(frames):
                value = cube[frame, row, column]
                if value < top and (value > 0 or (is_signed and value != 0)):
                    one = np.float32(value) - levels[frame, row]
                    work[count] = kept[count] = one
                    count += 1
            if count == 0:
                median[row, column] = mean[row, column] = np.float32(0.0)
                std[row, column] = np.float32(np.nan)
                counts[row, column] = 0
                continue
            middle = _median(work, count)
            total, squares, good = 0.0, 0.0, 0
            reach = clip * noise
            if not is_signed:
                reach = clip * math.sqrt(noise * noise + abs(middle))
            for i in range(count):
                gap = float(kept[i] - middle)
                if clip > 0.0 and abs(gap) > reach:
                    continue
                total += gap
                squares += gap * gap
                good += 1
            median[row, column] = middle
            counts[row, column] = good
            average = total / good if good else 0.0
            mean[row, column] = middle + average
            std[row, column] = (
                math.sqrt(max(squares - good * average * average, 0.0) / (good - 1))
                if good > 1 else np.nan
            )


class Stack:
    """What a stack of frames gives.

    Attributes
    ----------
    median, mean, std
        float32 ``[row, column]``. A pixel without a value in any frame is 0, its deviation NaN.
    counts
        Values that mean and std are of.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self.median = np.zeros(shape, np.float32)
        self.mean = np.zeros(shape, np.float32)
        self.std = np.zeros(shape, np.float32)
        self.counts = np.zeros(shape, np.int16)


def stack_frames(
    cube: Cube, levels: NDArray[Any], *, top: float = math.inf, clip_sigma: float = 0.0,
    noise: float = 0.0, is_signed: bool = False,
) -> Stack:  # fmt: skip
    """Return median, mean and deviation of every pixel over frames.

    Parameters
    ----------
    cube
        (frames, rows, columns), raw numbers: 0 and what reaches `top` is no value.
    levels
        (frames, rows): taken away from the rows of each frame.
    clip_sigma, noise
        Values farther from the median than this many times the noise count for the median only;
        0: all count. To the noise of a raw frame comes that of its signal, as many ADU^2 as there
        are ADU: an overestimate for gains above 1.
    is_signed
        Numbers that have been worked on: below 0 they count, too, and the noise is all there is.
    """
    _frames, rows, columns = cube.shape
    result = Stack((rows, columns))
    _stack(
        cube, np.ascontiguousarray(levels, np.float32), float(top), clip_sigma, noise, is_signed,
        result.median, result.std, result.mean, result.counts,
    )  # fmt: skip
    return result


def bands(rows: int, frames: int, columns: int, most_bytes: int = 200_000_000) -> list[slice]:
    """Return slices of rows so that a cube of float32 of each stays below `most_bytes`."""
    step = max(most_bytes // max(frames * columns * 4, 1), 1)
    return [slice(row, min(row + step, rows)) for row in range(0, rows, step)]
