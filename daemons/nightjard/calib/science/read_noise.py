# SPDX-License-Identifier: BSD-3-Clause
"""Read noise of biases: from differences of frames, and from what a smooth model leaves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

Image = NDArray[Any]
Bad = NDArray[np.bool_]

_CLIP_SIGMA = 5.0
#: A normal distribution cut at 5 sigma has lost so little that no correction is needed.


class Measured(NamedTuple):
    """A number and its error, 1 sigma."""

    value: float
    error: float


@numba.njit(cache=True, nogil=True)
def _near(flat: Image, middle: float, reach: float) -> Any:  # pragma: no cover  (compiled)
    """Return number, mean and variance of the values within `reach` of `middle`."""
    count, total, squares = 0, 0.0, 0.0
    for value in flat:
        gap = value - middle
        if abs(gap) <= reach:
            count += 1
            total += gap
            squares += gap * gap
    mean = total / max(count, 1)
    return count, middle + mean, max(squares / max(count, 1) - mean * mean, 0.0)


def clipped_std(values: Image, clip_sigma: float = _CLIP_SIGMA) -> Measured:
    """Return the standard deviation of values without those that are far out, and its error."""
    flat = np.ascontiguousarray(values).ravel()
    if flat.size < 2:
        return Measured(math.nan, math.nan)
    sample = flat[:: max(flat.size // 50000, 1)].astype(np.float64)
    middle = float(np.median(sample))
    low, high = np.percentile(sample, (15.865, 84.135))
    scale = max(float(high - low) / 2.0, 1e-6)
    count = 0
    for _ in range(2):
        count, middle, variance = _near(flat, middle, clip_sigma * scale)
        if count < 2:
            return Measured(math.nan, math.nan)
        scale = math.sqrt(variance)
    return Measured(scale, scale / math.sqrt(2.0 * count))


def noise_of_differences(frames: Sequence[Image], good: Bad | None = None) -> Measured:
    """Return the read noise from the differences of each frame to the next: std / sqrt(2).

    What is the same in two frames (structure, fixed pattern) takes no part. Two differences share
    a frame: of N frames, the error of the variance is that of (N - 1) / 1.5 independent ones.

    Parameters
    ----------
    frames
        Without offset, all of one shape; at least two.
    good
        Pixels that count.
    """
    variances, errors = [], []
    for one, following in zip(frames, frames[1:], strict=False):  # noqa: RUF007 - not an iterable
        difference = one - following
        std, error = clipped_std(difference if good is None else difference[good])
        variances.append(std * std / 2.0)
        errors.append(error / math.sqrt(2.0))
    if not variances:
        return Measured(math.nan, math.nan)
    value = math.sqrt(float(np.mean(variances)))
    factor = math.sqrt(1.5 / len(variances)) if len(variances) > 1 else 1.0
    return Measured(value, float(np.mean(errors)) * factor)


def drift_of(hours: Image, offsets: Image) -> tuple[Measured, Measured, float]:
    """Return level at the mean time, slope per hour, and the scatter about the line, ADU.

    Offsets that are no numbers do not count. Errors follow from the scatter; NaN where there are
    fewer than three.
    """
    y = np.asarray(offsets, float)
    known = np.isfinite(y)
    if not known.any():
        nothing = Measured(math.nan, math.nan)
        return nothing, nothing, math.nan
    x, y = np.asarray(hours, float)[known], y[known]
    x = x - float(np.mean(x))
    if len(y) < 3 or not x.any():
        return Measured(float(y.mean()), math.nan), Measured(math.nan, math.nan), math.nan
    sxx = float((x * x).sum())
    slope = float((x * y).sum()) / sxx
    level = float(y.mean())
    scatter = math.sqrt(float(((y - level - slope * x) ** 2).sum()) / (len(y) - 2))
    return (
        Measured(level, scatter / math.sqrt(len(y))), Measured(slope, scatter / math.sqrt(sxx)),
        scatter,
    )  # fmt: skip


class Converter(NamedTuple):
    """What a histogram of codes tells of the converter.

    Attributes
    ----------
    odd_fraction, odd_error
        Of the codes that are odd; a half for noise above 0.8 ADU.
    missing
        Codes that never occur between ones that often do.
    """

    odd_fraction: float
    odd_error: float
    missing: list[int]


def converter_hints(counts: NDArray[np.int64]) -> Converter:
    """Return hints at differential non-linearity from how often each code occurs."""
    total = int(counts.sum())
    if not total:
        return Converter(math.nan, math.nan, [])
    odd = int(counts[1::2].sum()) / total
    often = counts > max(total * 1e-3, 50)
    inner = np.flatnonzero(often)
    missing = [
        code for code in range(int(inner[0]) + 1, int(inner[-1]))
        if counts[code] == 0 and often[code - 1] and often[code + 1]
    ] if len(inner) else []  # fmt: skip
    return Converter(odd, 0.5 / math.sqrt(total), missing[:64])
