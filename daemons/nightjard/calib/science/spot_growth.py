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
    """``value = at_pivot + slope * (peak - 2^15) / 1e4``; errors are 1 sigma.

    ``at_zero`` is the value at no light. Its error cannot be told from those of the other two,
    which are correlated wherever the points do not lie evenly about the pivot.
    """

    at_pivot: float
    at_pivot_error: float
    slope: float
    slope_error: float
    points: int
    at_zero: float
    at_zero_error: float

    @property
    def is_good(self) -> bool:
        """There is a line."""
        return bool(np.isfinite(self.slope))

    def at(self, peak_adu: Any) -> Floats:
        """Return the value at peaks in ADU."""
        return np.asarray(
            self.at_pivot + self.slope * (np.asarray(peak_adu, float) - PIVOT_ADU) / UNIT_ADU
        )


_NAN = float("nan")
NO_LINE = Line(_NAN, _NAN, _NAN, _NAN, 0, _NAN, _NAN)


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
    covariance = covariance * max(chi2, 1.0)
    scaled = np.sqrt(np.diag(covariance))
    to_zero = np.array([1.0, -PIVOT_ADU / UNIT_ADU])
    return Line(
        float(parameters[0]), float(scaled[0]), float(parameters[1]), float(scaled[1]),
        int(kept.sum()), float(to_zero @ parameters),
        float(np.sqrt(max(to_zero @ covariance @ to_zero, 0.0))),
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
    zero = weighted_mean([one.at_zero for one in good], [one.at_zero_error for one in good])
    return Line(*pivot, *slope, sum(one.points for one in good), *zero)


def without_transfer(
    values: Any, errors: Any, rows: Any, columns: Any
) -> tuple[float, float]:  # fmt: skip
    """Return a measure of spots as it would be read without transfers, and its error.

    Charge that is left behind grows with the number of transfers, along columns and along rows:
    ``value = v0 + a rows + b columns`` over all spots gives v0. NaN with fewer than six spots.

    Parameters
    ----------
    rows, columns : arrays (n,)
        Transfers of each spot: its canonical place.
    """
    value, error, down, across = (
        np.asarray(one, float) for one in (values, errors, rows, columns)
    )
    used = np.isfinite(value) & np.isfinite(error) & (error > 0)
    if used.sum() < 6 or np.ptp(down[used]) == 0 or np.ptp(across[used]) == 0:
        return _NAN, _NAN
    value, error = value[used], np.maximum(error[used], 0.3 * np.median(error[used]))
    design = np.stack([np.ones_like(value), down[used] / np.ptp(down[used]),
                       across[used] / np.ptp(across[used])], axis=1)  # fmt: skip
    kept = np.ones(len(value), bool)
    for _round in range(len(value)):
        weight = kept / error**2
        covariance = np.linalg.pinv(design.T @ (weight[:, None] * design), hermitian=True)
        miss = (value - design @ (covariance @ (design.T @ (weight * value)))) / error
        far = np.where(kept, np.abs(miss), 0.0)
        worst = int(np.argmax(far))
        if far[worst] <= _CLIP * max(robust_sigma(miss[kept]), 1.0) or kept.sum() <= 6:
            break
        kept[worst] = False
    parameters = covariance @ (design.T @ (weight * value))
    chi2 = float((miss[kept] ** 2).sum()) / (int(kept.sum()) - 3)
    return float(parameters[0]), float(np.sqrt(covariance[0, 0] * max(chi2, 1.0)))
