# SPDX-License-Identifier: BSD-3-Clause
"""Non-linearity of the response from flat fields of many exposure times, lamp drift taken away.

The curve is ``NL(F) = 100 (F / F_lin - 1)`` in percent, F the signal as measured. It is fitted
with ``A exp(-x/s) + c0 + c1 x ... + c4 x^4``, ``x = F / full scale``, to all tiles of all frames
at once. Its zero is free and then set by a rule (see ``linearity_curve``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from nightjard.calib.science.latent import Track, follow
from nightjard.calib.science.linearity_curve import Curve, Reference, referenced
from nightjard.calib.science.robust import (
    Float64s,
    Polynomial,
    robust_sigma,
    weighted_least_squares,
)

DEGREE = 4
_SCALES = (0.005, 1.0)  # of the exponential, in parts of full scale
_FLOOR_PC = 0.003  # error that no count of photons makes smaller


@dataclass(frozen=True)
class Exposures:
    """Flat fields of one quadrant, one element a frame.

    Attributes
    ----------
    time_s
        Since the first.
    exposure_s
        As the shutter was really open.
    group
        0, 1 ...: frames of one filter; the lamp's brightness differs between groups.
    level, error
        Of the tiles, ADU above dark, shape (frames, tiles); NaN where one does not count.
    """

    time_s: Float64s
    exposure_s: Float64s
    group: NDArray[np.int64]
    level: Float64s
    error: Float64s

    def chosen(self, where: NDArray[Any]) -> Exposures:
        """Return some of the frames."""
        return Exposures(self.time_s[where], self.exposure_s[where], self.group[where],
                         self.level[where], self.error[where])  # fmt: skip

    def of_tiles(self, where: NDArray[Any]) -> Exposures:
        """Return some of the tiles; one may be taken several times."""
        return replace(self, level=self.level[:, where], error=self.error[:, where])


def lamp_track(time_s: Float64s, level: Float64s, error: Float64s) -> Polynomial:
    """Return the brightness of the lamp over time where nothing was left by bright frames."""
    return lamp_and_latent(time_s, level, error).lamp


def lamp_and_latent(
    time_s: Float64s, level: Float64s, error: Float64s, latent: Float64s | None = None
) -> Track:
    """Return the brightness of the lamp over time, 1 on average, from frames of one exposure.

    Parameters
    ----------
    level, error
        Of as many places as there are (tiles of all quadrants of all CCDs), shape (frames,
        places), ADU. One lamp lights them all.
    latent
        See :func:`latent.follow`.

    Raises
    ------
    ValueError
        Fewer frames than the polynomial has coefficients.
    """
    relative = level / np.nanmedian(level, axis=0)
    weights = 1.0 / (error / np.abs(level)) ** 2
    weights = np.where(np.isfinite(relative * weights), weights, 0.0)
    sums = np.maximum(weights.sum(axis=1), 1e-300)
    mean = np.where(weights > 0, relative * weights, 0.0).sum(axis=1) / sums
    track, part = follow(time_s, mean, latent)
    scale = float(track(time_s[track.kept]).mean())
    lamp = Polynomial(track.coefficients / scale, track.covariance / scale**2, track.kept,
                      track.rms / scale)  # fmt: skip
    return Track(lamp, part / scale)


@dataclass(frozen=True)
class Linearity:
    """What a fit to the frames of a quadrant gave.

    Attributes
    ----------
    curve
        On its reference.
    maximum_pc, maximum_error_pc, maximum_at
        Largest deviation (with its sign) within the range, 1 sigma, ADU where.
    residual_pc
        Largest mean residual of a level after linearisation, percent.
    tie_pc
        By how much the brightness of the groups differs from what their exposure times tell, after
        the mean of their common levels was made equal; one number a group but the last.
    shutter_s, shutter_error_s
        What must be added to all exposure times for the levels of all groups to lie on one curve.
    levels
        Mean signal, mean deviation, its error [percent], exposure, group, of each exposure level.
    dropped
        Frames that were left out.
    """

    curve: Curve
    maximum_pc: float
    maximum_error_pc: float
    maximum_at: float
    residual_pc: float
    tie_pc: tuple[float, ...]
    shutter_s: float
    shutter_error_s: float
    levels: dict[str, list[float]]
    dropped: tuple[int, ...]


@dataclass(frozen=True)
class Range:
    """Signals that are fitted, ADU, and within which the maximum is looked for."""

    low: float = 250.0
    high: float = 55536.0
    full_scale: float = 65536.0


def measure_linearity(
    data: Exposures, track: Polynomial, *, span: Range = Range(), reference: Reference = "origin",
    draws: int = 24, seed: int = 0, is_shutter_fitted: bool = False,
) -> Linearity:
    """Fit the curve of a quadrant.

    Parameters
    ----------
    data
        All lit frames; without frames of no exposure.
    track
        Brightness of the lamp.
    is_shutter_fitted
        The curve is made with the exposure times corrected by `shutter_s`; otherwise that is only
        told.

    Raises
    ------
    ValueError
        Too few levels for the model.
    """
    rates = _rates(data, track, span)
    shutter = _fit(rates, span, has_shutter=True)
    fit = shutter if is_shutter_fitted else _fit(rates, span, has_shutter=False)
    fit, kept = _without_outliers(rates, fit, span, is_shutter_fitted)
    curve = referenced(fit.curve, reference)
    maximum, at = _maximum(curve, span)
    generator = np.random.default_rng(seed)
    tiles = data.level.shape[1]
    drawn = []
    for _ in range(draws):
        some = np.asarray(generator.integers(0, tiles, tiles))
        chosen = rates.of_tiles(some).chosen(kept)
        one = _fit(chosen, span, has_shutter=is_shutter_fitted, scale=fit.curve.scale)
        drawn.append(float(referenced(one.curve, reference)(at)))
    levels, residual = _levels(rates.chosen(kept), fit, curve, span)
    return Linearity(
        curve, maximum, float(np.std(drawn, ddof=1)) if draws > 1 else math.nan, at, residual,
        fit.tie, shutter.shutter_s, shutter.shutter_error_s, levels,
        tuple(int(i) for i in np.nonzero(~kept)[0]),
    )  # fmt: skip


@dataclass(frozen=True)
class _Rates:
    """Signal, percent deviation from a common rate, its error: (frames, tiles)."""

    signal: Float64s
    deviation: Float64s
    error: Float64s
    exposure_s: Float64s
    group: NDArray[np.int64]

    def chosen(self, where: NDArray[Any]) -> _Rates:
        return _Rates(self.signal[where], self.deviation[where], self.error[where],
                      self.exposure_s[where], self.group[where])  # fmt: skip

    def of_tiles(self, where: NDArray[Any]) -> _Rates:
        return _Rates(self.signal[:, where], self.deviation[:, where], self.error[:, where],
                      self.exposure_s, self.group)  # fmt: skip


@dataclass(frozen=True)
class _Fit:
    curve: Curve
    tie: tuple[float, ...]
    shutter_s: float
    shutter_error_s: float
    chi2: float


def _rates(data: Exposures, track: Polynomial, span: Range) -> _Rates:
    """Divide by exposure and lamp; normalise every group by the same range of signals."""
    rate = data.level / (data.exposure_s * track(data.time_s))[:, None]
    error_pc = np.hypot(100.0 * data.error / np.abs(data.level), _FLOOR_PC)
    deviation = np.full_like(rate, np.nan)
    for group in np.unique(data.group):
        members = np.nonzero(data.group == group)[0]
        common = _common_levels(data.level[members], span)
        norm = np.nanmean(rate[members][common], axis=0)
        deviation[members] = 100.0 * (rate[members] / norm - 1.0)
    return _Rates(data.level, deviation, error_pc, data.exposure_s, data.group)


def _common_levels(level: Float64s, span: Range) -> NDArray[np.bool_]:
    """Return which frames of a group set its brightness: 14 to 27 % of full scale, or nearest."""
    part = np.nanmedian(level, axis=1) / span.full_scale
    common = (part > 0.14) & (part < 0.27)
    if not common.any():
        common = np.abs(part - 0.2) <= np.nanmin(np.abs(part - 0.2)) + 0.02
    return np.asarray(common, bool)


def _fit(
    rates: _Rates, span: Range, *, has_shutter: bool, scale: float | None = None
) -> _Fit:
    """Fit the model: linear but for the scale of the exponential, which is searched for."""
    used = (rates.signal > span.low) & (rates.signal < span.high) & np.isfinite(rates.deviation)
    if len(set(np.round(rates.exposure_s[used.any(axis=1)], 6).tolist())) < DEGREE + 3:
        raise ValueError("too few levels of exposure for a curve of non-linearity")
    x = rates.signal[used] / span.full_scale
    y, weights = rates.deviation[used], 1.0 / rates.error[used] ** 2
    groups = np.broadcast_to(rates.group[:, None], rates.signal.shape)[used]
    exposure = np.broadcast_to(rates.exposure_s[:, None], rates.signal.shape)[used]
    columns = [x**power for power in range(DEGREE + 1)]
    names = np.unique(groups)
    columns += [(groups == name).astype(np.float64) for name in names[:-1]]
    if has_shutter:
        columns.append(100.0 / exposure)
    fixed = np.stack(columns, axis=1)

    def solved(log_scale: float) -> tuple[float, Float64s, Float64s]:
        design = np.column_stack([np.exp(-x / math.exp(log_scale)), fixed])
        solution, covariance = weighted_least_squares(design, y, weights)
        residual = y - design @ solution
        return float(residual @ (residual * weights)), solution, covariance

    if scale is None:
        limits = (math.log(_SCALES[0]), math.log(_SCALES[1]))
        grid = np.linspace(*limits, 13)
        costs = [solved(one)[0] for one in grid]
        best = int(np.argmin(costs))
        bounds = (grid[max(best - 1, 0)], grid[min(best + 1, grid.size - 1)])
        found = optimize.minimize_scalar(
            lambda one: solved(one)[0], bounds=bounds, method="bounded", options={"xatol": 1e-3}
        )
        scale = math.exp(float(found.x))
    chi2, solution, covariance = solved(math.log(scale))
    chi2 /= max(y.size - solution.size, 1)
    after = 2 + DEGREE
    curve = Curve(span.full_scale, float(solution[0]), scale,
                  tuple(float(one) for one in solution[1:after]))  # fmt: skip
    tie = tuple(float(one) for one in solution[after : after + names.size - 1])
    error = math.sqrt(covariance[-1, -1] * max(chi2, 1.0))
    return _Fit(curve, tie, float(solution[-1]) if has_shutter else 0.0,
                error if has_shutter else 0.0, chi2)  # fmt: skip


def _frame_residuals(rates: _Rates, fit: _Fit, span: Range) -> Float64s:
    """Return the median residual of every frame over its tiles, percent; NaN outside the range."""
    model = fit.curve.raw(rates.signal) + 100.0 * fit.shutter_s / rates.exposure_s[:, None]
    for name, tie in zip(np.unique(rates.group), fit.tie, strict=False):
        model[rates.group == name] += tie
    used = (rates.signal > span.low) & (rates.signal < span.high)
    residual = np.where(used, rates.deviation - model, np.nan)
    lit = np.isfinite(residual).any(axis=1)
    result = np.full(residual.shape[0], np.nan)
    result[lit] = np.nanmedian(residual[lit], axis=1)
    return result


def _typical(error: Float64s) -> Float64s:
    """Return the median error of the tiles of each frame, percent."""
    result: Float64s = np.nanmedian(np.where(np.isfinite(error), error, 1e9), axis=1)
    return result


def _without_outliers(
    rates: _Rates, fit: _Fit, span: Range, has_shutter: bool
) -> tuple[_Fit, NDArray[np.bool_]]:
    """Leave out frames that lie off the curve as a whole, and fit again."""
    kept = np.ones(rates.signal.shape[0], bool)
    for _ in range(3):
        residual = _frame_residuals(rates, fit, span)
        tiles = np.maximum(np.isfinite(rates.error).sum(axis=1), 1)
        # The error of a median; faint frames scatter more.
        pull = residual / np.hypot(1.2533 * _typical(rates.error) / np.sqrt(tiles), _FLOOR_PC)
        seen = np.isfinite(pull) & kept
        best = ~(np.isfinite(pull) & (np.abs(pull) > 5.0 * max(robust_sigma(pull[seen]), 1.0)))
        # A whole level that lies off is no outlier but a curve that does not fit.
        for exposure in np.unique(rates.exposure_s):
            same = rates.exposure_s == exposure
            if not best[same].any():
                best[same] = True
        if bool(np.all(best == kept)):
            break
        kept = best
        fit = _fit(rates.chosen(kept), span, has_shutter=has_shutter)
    return fit, kept


def _maximum(curve: Curve, span: Range) -> tuple[float, float]:
    signal = np.linspace(span.low, span.high, 400)
    value = curve(signal)
    place = int(np.argmax(np.abs(value)))
    return float(value[place]), float(signal[place])


def _levels(
    rates: _Rates, fit: _Fit, curve: Curve, span: Range
) -> tuple[dict[str, list[float]], float]:
    """Return the levels of exposure with their deviation, and the largest residual within range."""
    offset = np.zeros(rates.signal.shape[0])
    for name, tie in zip(np.unique(rates.group), fit.tie, strict=False):
        offset[rates.group == name] = tie
    shift = 100.0 * fit.shutter_s / rates.exposure_s
    ratio = (1.0 + (rates.deviation - (offset + shift)[:, None]) / 100.0) / (
        1.0 + curve.zero / 100.0
    )
    if curve.intercept:
        ratio = ratio * (1.0 - curve.intercept / rates.signal)
    deviation = 100.0 * (ratio - 1.0)
    table: dict[str, list[float]] = {
        key: [] for key in ("signal", "deviation", "error", "residual", "exposure", "group")
    }
    largest = 0.0
    for group, exposure in sorted(
        set(zip(rates.group.tolist(), rates.exposure_s.tolist(), strict=True))
    ):
        same = (rates.group == group) & (rates.exposure_s == exposure)
        signal = float(np.nanmean(rates.signal[same]))
        good = np.isfinite(deviation[same])
        if not good.any():
            continue
        error = float(np.nanstd(deviation[same]) / math.sqrt(max(int(good.sum()), 1)))
        residual = float(np.nanmean(deviation[same] - curve(rates.signal[same])))
        for key, value in zip(
            table, (signal, float(np.nanmean(deviation[same])), error, residual, exposure, group),
            strict=True,
        ):  # fmt: skip
            table[key].append(value)
        if span.low * 2 < signal < span.high:
            largest = max(largest, abs(residual))
    return table, largest
