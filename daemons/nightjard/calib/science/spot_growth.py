# SPDX-License-Identifier: BSD-3-Clause
"""How spots widen with their peak: robust straight lines, combined over spots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjard.calib.science.robust import robust_sigma

Floats = NDArray[np.float64]

PIVOT_ADU = 2.0**15
UNIT_ADU = 1e4
_CLIP = 4.0


@dataclass(frozen=True)
class Line:
    """``value = at_pivot + slope * (peak - 2^15) / 1e4``; errors are 1 sigma."""

    at_pivot: float
    at_pivot_error: float
    slope: float
    slope_error: float
    points: int

    @property
    def is_good(self) -> bool:
        """There is a line."""
        return bool(np.isfinite(self.slope))

    def at(self, peak_adu: Any) -> Floats:
        """Return the value at peaks in ADU."""
        return np.asarray(
            self.at_pivot + self.slope * (np.asarray(peak_adu, float) - PIVOT_ADU) / UNIT_ADU
        )

    def zero_error(self) -> float:
        """Return the error of the value at no light, the two errors taken as independent."""
        return float(np.hypot(self.at_pivot_error, self.slope_error * PIVOT_ADU / UNIT_ADU))


NO_LINE = Line(float("nan"), float("nan"), float("nan"), float("nan"), 0)


def robust_line(peak_adu: Any, value: Any, error: Any) -> Line:
    """Return a weighted line, points outside of 4 sigma of the scatter rejected one by one.

    Parameters
    ----------
    peak_adu, value, error : arrays (n,)
        What is not finite is left out; at least three points over a range of peaks are needed.
    """
    u = (np.asarray(peak_adu, float) - PIVOT_ADU) / UNIT_ADU
    value, error = np.asarray(value, float), np.asarray(error, float)
    used = np.isfinite(u) & np.isfinite(value) & np.isfinite(error) & (error > 0)
    if used.sum() < 3 or np.ptp(u[used]) < 0.3:
        return NO_LINE
    u, value, error = u[used], value[used], error[used]
    error = np.maximum(error, 0.2 * np.median(error))
    kept = np.ones(len(u), bool)
    for _round in range(len(u)):
        weight = kept / error**2
        design = np.stack([np.ones_like(u), u], axis=1)
        covariance = np.linalg.pinv(design.T @ (weight[:, None] * design), hermitian=True)
        parameters = covariance @ (design.T @ (weight * value))
        miss = (value - design @ parameters) / error
        spread = max(robust_sigma(miss[kept]), 1.0)
        far = np.where(kept, np.abs(miss), 0.0)
        worst = int(np.argmax(far))
        if far[worst] <= _CLIP * spread or kept.sum() <= max(3, 0.6 * len(u)):
            break
        kept[worst] = False
    freedom = int(kept.sum()) - 2
    chi2 = float((miss[kept] ** 2).sum() / freedom) if freedom > 0 else 1.0
    scaled = np.sqrt(np.diag(covariance) * max(chi2, 1.0))
    return Line(
        float(parameters[0]), float(scaled[0]), float(parameters[1]), float(scaled[1]),
        int(kept.sum()),
    )  # fmt: skip


def weighted_mean(values: Any, errors: Any) -> tuple[float, float]:
    """Return a mean by inverse variances, far ones left out, and its error.

    The error is the larger of what the errors and what the scatter say; NaN of nothing.
    """
    values, errors = np.asarray(values, float), np.asarray(errors, float)
    good = np.isfinite(values) & np.isfinite(errors) & (errors > 0)
    if not good.any():
        return float("nan"), float("nan")
    values, errors = values[good], errors[good]
    if len(values) >= 5:
        middle = np.median(values)
        reach = _CLIP * np.maximum(errors, robust_sigma(values))
        near = np.abs(values - middle) <= reach
        values, errors = values[near], errors[near]
    weights = 1.0 / np.maximum(errors, 0.3 * np.median(errors)) ** 2
    mean = float((weights * values).sum() / weights.sum())
    formal = float(np.sqrt((weights**2 * errors**2).sum()) / weights.sum())
    if len(values) < 3:
        return mean, formal
    spread = float(np.sqrt((weights * (values - mean) ** 2).sum() / weights.sum()))
    return mean, max(formal, spread / np.sqrt(len(values) - 1))


def mean_line(lines: list[Line]) -> Line:
    """Return the mean of lines of several spots, weighted, with the error of the mean."""
    good = [line for line in lines if line.is_good]
    if not good:
        return NO_LINE
    pivot = weighted_mean([one.at_pivot for one in good], [one.at_pivot_error for one in good])
    slope = weighted_mean([one.slope for one in good], [one.slope_error for one in good])
    return Line(*pivot, *slope, sum(one.points for one in good))
