# SPDX-License-Identifier: BSD-3-Clause
"""What a warm frame tells of electronics: bits of the converter, linearity, trailing edge.

Warm, the dark current of a row grows with the time until the row is read: a ramp along rows that
passes through the range of the converter without any light.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_STUCK_PART = 0.002
_LEAST_OVERSCAN = 6  # the first pixel, and three at the end that it does not reach


def bit_means(counts: NDArray[np.int64], bits: int = 16) -> Floats:
    """Return the mean of each bit from how often each value occurs, least significant first."""
    values = np.arange(len(counts))
    total = int(counts.sum())
    if not total:
        return np.full(bits, np.nan)
    return np.array([float(counts[(values >> bit) & 1 == 1].sum()) / total for bit in range(bits)])


def stuck_bits(counts: NDArray[np.int64], bits: int = 16) -> list[int]:
    """Return the bits that do not change over a ramp, though its values pass their carries.

    Parameters
    ----------
    counts
        How often each value occurs in the ramp itself: scans are left out, they hold one value.
    """
    total = np.cumsum(counts)
    if not total[-1]:
        return []
    low, high = np.searchsorted(total, (0.05 * total[-1], 0.95 * total[-1]))
    means = bit_means(counts, bits)
    return [
        bit for bit in range(bits)
        if min(means[bit], 1 - means[bit]) < _STUCK_PART and high - low > 4 << bit
    ]  # fmt: skip


@dataclass(frozen=True)
class Ramp:
    """The ramp of a warm frame.

    Attributes
    ----------
    profile, error
        Median of each row above offset and its error, ADU.
    slope_adu_row, slope_error
        Of the straight line through the lower part of the range.
    intercept_adu
        Of it at row 0.
    deviation_pc
        Of each row from the line, per cent of the signal; NaN below `start_adu`.
    largest_pc, largest_error_pc, at_adu
        The largest departure (its smooth course, not the noise of a row) and where it is.
    """

    profile: Floats
    error: Floats
    slope_adu_row: float
    slope_error: float
    intercept_adu: float
    deviation_pc: Floats
    largest_pc: float
    largest_error_pc: float
    at_adu: float


def row_profile(pixels: NDArray[Any], bad: NDArray[np.bool_] | None) -> tuple[Floats, Floats]:
    """Return medians of rows and their errors."""
    values = np.asarray(pixels, np.float64)
    if bad is not None and bad.any():
        values = np.where(bad, np.nan, values)
    good = np.isfinite(values).any(axis=1)
    profile, error = np.full(len(values), np.nan), np.full(len(values), np.nan)
    if good.any():
        profile[good] = np.nanmedian(values[good], axis=1)
        low, high = np.nanpercentile(values[good], [25, 75], axis=1)
        count = np.isfinite(values[good]).sum(axis=1)
        error[good] = 1.2533 * np.maximum((high - low) / 1.349, 0.3) / np.sqrt(count)
    return profile, error


def measure_ramp(
    pixels: NDArray[Any], bad: NDArray[np.bool_] | None, *, low_part: float = 0.1,
    high_part: float = 0.3, start_adu: float = 200.0,
) -> Ramp:
    """Measure the ramp along the rows of an image area and its departure from a straight line.

    Parameters
    ----------
    low_part, high_part
        Of the range that the ramp covers: rows between give the line.
    """
    profile, error = row_profile(pixels, bad)
    row = np.arange(len(profile), dtype=np.float64)
    good = np.isfinite(profile) & np.isfinite(error)
    nothing = np.full(len(profile), np.nan)
    nan = math.nan
    if good.sum() < 20:
        return Ramp(profile, error, nan, nan, nan, nothing, nan, nan, nan)
    top = float(np.percentile(profile[good], 99))
    chosen = good & (profile > low_part * top) & (profile < high_part * top)
    if chosen.sum() < 8 or top < start_adu:
        chosen = good
    slope, intercept, slope_error = _line(row[chosen], profile[chosen], error[chosen])
    line = intercept + slope * row
    with np.errstate(divide="ignore", invalid="ignore"):
        deviation = 100 * (profile - line) / (line - min(intercept, 0.0))
        relative = 100 * error / np.abs(line)
    deviation = np.where(good & (profile > start_adu), deviation, np.nan)
    largest, largest_error, where = _largest(row, profile, deviation, relative)
    return Ramp(profile, error, slope, slope_error, intercept, deviation, largest, largest_error,
                where)  # fmt: skip


def _line(x: Floats, y: Floats, s: Floats) -> tuple[float, float, float]:
    weight = 1 / s**2
    total = weight.sum()
    mean = (weight * x).sum() / total
    spread = (weight * (x - mean) ** 2).sum()
    slope = (weight * (x - mean) * y).sum() / spread
    start = (weight * y).sum() / total - slope * mean
    rest = y - start - slope * x
    # Rows differ by shot noise that their own spread does not tell: scatter counts.
    scale = max(float((weight * rest**2).sum()) / max(len(x) - 2, 1), 1.0)
    return float(slope), float(start), float(math.sqrt(scale / spread))


def _largest(
    row: Floats, profile: Floats, deviation: Floats, relative: Floats
) -> tuple[float, float, float]:
    good = np.isfinite(deviation)
    if good.sum() < 12:
        return math.nan, math.nan, math.nan
    x = 2 * (row[good] - row[good].min()) / max(float(np.ptp(row[good])), 1.0) - 1
    weight = 1 / np.maximum(relative[good], 1e-3)
    smooth = np.polynomial.chebyshev.Chebyshev.fit(x, deviation[good], 4, w=weight)(x)
    at = int(np.argmax(np.abs(smooth)))
    scatter = float(np.std(deviation[good] - smooth)) * math.sqrt(5 / good.sum())
    return float(smooth[at]), scatter, float(profile[good][at])


def edge_response(
    pixels: NDArray[Any], image: slice, overscan: slice, *, low_adu: float = 1e3,
    high_adu: float = 4e4, bad: NDArray[np.bool_] | None = None,
) -> tuple[float, float, Floats]:
    """Return the response at the hard edge between image and overscan.

    Rows whose last image pixels hold between `low_adu` and `high_adu` are summed: their first
    overscan pixel, above the last ones of the overscan, over the last ten image pixels.

    Returns
    -------
    response, error, profile
        Fractions; profile of the last 10 image and first 15 overscan pixels. NaN without rows, or
        where the overscan is too short to have an end: then there is no profile.
    """
    if overscan.stop - overscan.start < _LEAST_OVERSCAN:
        return math.nan, math.nan, np.full(0, np.nan)
    values = np.asarray(pixels, np.float64)
    if bad is not None:
        values = np.where(bad, np.nan, values)
    last = values[:, image.stop - 10 : image.stop]
    trail = values[:, overscan.start : min(overscan.start + 15, overscan.stop)]
    base = values[:, overscan.stop - 3 : overscan.stop]
    with np.errstate(invalid="ignore"):
        level = last.mean(axis=1)
    rows = (level > low_adu) & (level < high_adu) & np.isfinite(trail).all(axis=1)
    rows &= np.isfinite(base).all(axis=1)
    width = 10 + trail.shape[1]
    if rows.sum() < 5:
        return math.nan, math.nan, np.full(width, np.nan)
    zero = base[rows].mean(axis=1)
    height = float((level[rows] - zero).sum())
    first = trail[rows, 0] - zero
    # A trap or a hot pixel in one row is not the amplifier: far outliers are left out.
    middle = float(np.median(first))
    spread = 1.4826 * float(np.median(np.abs(first - middle))) + 1e-9
    kept = np.abs(first - middle) <= 6 * spread
    heights = (level[rows] - zero)[kept]
    total = float(heights.sum())
    response = float(first[kept].sum()) / total
    profile = (np.hstack((last, trail))[rows] - zero[:, None]).sum(axis=0) / height
    # About the line: rows differ in what they hold.
    scatter = float((first[kept] - response * heights).std())
    return response, scatter * math.sqrt(len(heights)) / total, profile
