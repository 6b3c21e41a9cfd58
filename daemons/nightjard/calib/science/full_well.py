# SPDX-License-Identifier: BSD-3-Clause
"""Full well from the knee of a photon transfer curve.

Where pixels are full, charge flows on and the level of a pixel no longer varies from frame to
frame: the variance falls to that of the read-out while the mean stops to grow. The knee is where
it has fallen to half of what the curve foretells; of simulated blooming with wells that differ by
2 % this is the mean well to 0.3 %. Frames beyond it show the wells themselves: then the level they
stop at counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nightjard.calib.science.photon_transfer import Points, Transfer
from nightjard.calib.science.robust import Float64s, robust_sigma

_PLATEAU = 0.03  # levels beyond the knee that differ by less stand still
_FULL = 0.5  # share of the expected variance below which a tile is full


@dataclass(frozen=True)
class FullWell:
    """Full well of a quadrant or a tile.

    Attributes
    ----------
    level
        ADU above offset; where it was not reached, the highest level that was seen.
    error
        1 sigma; NaN for a lower limit.
    is_reached
        The knee was seen; otherwise `level` is a lower limit.
    onset
        Lowest level from which `run` points in a row lie far below the curve; NaN without.
    """

    level: float
    error: float
    is_reached: bool
    onset: float


_UNKNOWN = FullWell(math.nan, math.nan, False, math.nan)


def find_knee(
    points: Points, fit: Transfer, *, from_adu: float, run: int = 5, sigmas: float = 10.0
) -> FullWell:
    """Find the knee of the points of a quadrant or a tile.

    Parameters
    ----------
    from_adu
        The knee is looked for above; the scatter around the curve is measured below.
    run, sigmas
        That many points in a row, by mean, more than so many sigma below the curve begin it.
    """
    points = points.chosen(
        (points.tile >= 0) & (points.count > 0) & np.isfinite(points.mean + points.variance)
    ).sorted()
    if points.mean.size == 0:
        return _UNKNOWN
    ratio = points.variance / np.maximum(fit(points.mean), 1e-3)
    sigma = _scatter(points, ratio, from_adu)
    is_low = (points.mean > from_adu) & (ratio < 1.0 - sigmas * sigma)
    run = min(run, max(int((points.mean > from_adu).sum()), 1))
    begin = _first_run(is_low, run)
    if begin is None:
        return FullWell(float(points.mean[-1]), math.nan, False, math.nan)
    onset = float(points.mean[begin])
    above = np.arange(points.mean.size) >= begin
    is_full = above & (ratio < _FULL)
    if not is_full.any():
        # It has begun to fall, but half is not reached: the well is a little above the highest.
        highest = float(points.mean[-1])
        return FullWell(highest, max(highest - onset, 0.01 * highest), True, onset)
    level, error = _half_way(points, ratio, is_full)
    return FullWell(level, error, True, onset)


def _half_way(
    points: Points, ratio: Float64s, is_full: NDArray[np.bool_]
) -> tuple[float, float]:
    full = points.mean[is_full]
    middle = float(np.median(full))
    spread = float(np.ptp(np.percentile(full, (5, 95))))
    if full.size >= 2 and spread <= _PLATEAU * middle:
        # More light still fills wells a little more: which of these levels is the full well is not
        # told by how well their median is known.
        return middle, max(0.5 * spread, 1e-3 * middle)
    upper = float(full.min())
    below = points.mean[(ratio >= _FULL) & (points.mean <= upper)]
    lower = float(below.max()) if below.size else upper
    high = float(ratio[is_full][np.argmin(full)])
    low = float(ratio[points.mean == lower][0]) if below.size else high
    share = (low - _FULL) / (low - high) if low > high else 0.5
    level = lower + min(max(share, 0.0), 1.0) * (upper - lower)
    return level, max((upper - lower) / math.sqrt(12.0), 1e-3 * level)


def _scatter(points: Points, ratio: Float64s, from_adu: float) -> float:
    """Return the scatter around the curve below the knee, not less than counting gives."""
    calm = (points.mean > 0.05 * from_adu) & (points.mean <= from_adu)
    counting = math.sqrt(2.0 / float(np.median(points.count)))
    if calm.sum() < 5:
        return counting
    return max(robust_sigma(ratio[calm]), counting)


def _first_run(is_low: NDArray[np.bool_], run: int) -> int | None:
    """Return where the first row of `run` true values begins."""
    length = 0
    for place, low in enumerate(is_low.tolist()):
        length = length + 1 if low else 0
        if length == run:
            return place - run + 1
    return None
