# SPDX-License-Identifier: BSD-3-Clause
"""Charge injection: what level is expected, what rows and columns show, fits to the gate voltages.

Levels are ADU above the offset. Arrays are canonical quadrants ``[row, column]``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.special import expit

from nightjard.calib.science import blank

Floats = NDArray[np.float64]
FULL_SCALE_ADU = 65536.0
MINIMUM_WIDTH_US = 10.0
#: A level is told where the drain lies lower than this above gate 1: charge flows at 7.3 V.
DRAIN_MARGIN_V = 7.25
#: Charge that stays in the notch, ADU; below how much under gate 2 the channel fills, V; by how
#: much, ADU/V. Of a CCD273; limits of the catalogue say the same.
NOTCH_ADU, NOTCH_BELOW_V, CHANNEL_ADU_V = 1300.0, 0.5, 3300.0


def injected_half(values: Mapping[str, Any]) -> str:
    """Return the half into which charge is injected: T, B or "" for neither.

    The delay of the drain's pulse in steps of the line transfer says it: 2 to 3 injects the half
    that is read at the top, 1 to 2 the other.
    """
    if not int(values.get("chinj", 0)) or float(values.get("id_wid", 0)) < MINIMUM_WIDTH_US:
        return ""
    if int(values.get("chinj_on", 1)) < 1:
        return ""
    ratio = float(values["id_dly"]) / max(float(values["toi_ch"]), 1e-9)
    return "T" if 2 < ratio < 3 else "B" if 1 < ratio < 2 else ""


def gate_v(values: Mapping[str, Any], ccd: int, half: str) -> float:
    """Return the commanded voltage of input gate 1 of a half of a CCD."""
    return float(values.get(f"IG1_{ccd}_{half}", values.get(f"IG1_1_{half}", math.nan)))


def expected_adu(values: Mapping[str, Any], ccd: int, half: str) -> float:
    """Return the level that is expected of a half of a CCD, ADU; NaN where none can be told.

    1300 + 3300 (IG2 - 0.5 - IG1) where the drain lies low enough below the gate; 0 for too short
    a pulse.
    """
    if not int(values.get("chinj", 0)) or injected_half(values) != half:
        too_short = float(values.get("id_wid", 0)) < MINIMUM_WIDTH_US
        return 0.0 if int(values.get("chinj", 0)) and too_short else math.nan
    ig1 = gate_v(values, ccd, half)
    ig2 = float(values.get(f"IG2_{half}", math.nan))
    if not float(values.get("IDL", math.inf)) < ig1 + DRAIN_MARGIN_V:
        return math.nan
    return NOTCH_ADU + max(0.0, ig2 - NOTCH_BELOW_V - ig1) * CHANNEL_ADU_V


@dataclass(frozen=True)
class Folded:
    """Injected cycles laid over each other.

    Attributes
    ----------
    pattern
        Mean of the cycles, (rows on + off, columns); NaN where there is no good pixel.
    start
        Row at which the first whole cycle begins, as found.
    cycles
        Cycles that went in, parts of cycles as fractions.
    """

    pattern: Floats
    start: int
    cycles: float


def fold(pixels: NDArray[Any], bad: NDArray[np.bool_] | None, on: int, off: int) -> Folded:
    """Lay the cycles of `on` injected and `off` other rows over each other.

    The start of the cycle is looked for: it is where the rows "on" differ most from the others;
    where they differ by nothing that is beyond the noise it is row 0.
    """
    rows, columns = pixels.shape
    period = on + off
    if period <= 0 or on <= 0:
        raise ValueError(f"{on} rows on and {off} off are no cycle")
    values = np.asarray(pixels, np.float64)
    weights = np.ones_like(values) if bad is None else (~bad).astype(np.float64)
    if bad is not None:
        values = np.where(bad, 0.0, values)
    period = min(period, rows)
    index = np.arange(rows) % period
    total, count = np.zeros((period, columns)), np.zeros((period, columns))
    for first in range(0, rows, period):
        block = slice(first, min(first + period, rows))
        size = block.stop - first
        total[:size] += values[block] * weights[block]
        count[:size] += weights[block]
    pattern = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    start = _cycle_start(pattern, on) if 0 < on < period else 0
    return Folded(np.roll(pattern, -start, axis=0), start, len(index) / period)


def _cycle_start(pattern: Floats, on: int) -> int:
    profile = blank.median(pattern, axis=1)
    profile = np.where(np.isfinite(profile), profile, blank.median(profile))
    doubled = np.concatenate((profile, profile))
    sums = np.concatenate(([0.0], np.cumsum(doubled)))
    means = (sums[on : on + len(profile)] - sums[: len(profile)]) / on
    best = int(np.argmax(means))
    outside = (sums[len(profile)] - means * on) / (len(profile) - on)
    noise = 1.4826 * float(np.median(np.abs(np.diff(profile)))) + 1e-9
    return best if means[best] - outside[best] > 10 * noise / math.sqrt(on) else 0


STATISTICS = ("mean", "std", "min", "max", "p5", "p25", "p50", "p75", "p95")


def measure(
    pixels: NDArray[Any], bad: NDArray[np.bool_] | None, folded: Folded, on: int, off: int
) -> dict[str, float]:
    """Return what the injected rows hold, ADU: statistics, level, background, evenness, spill.

    Parameters
    ----------
    pixels
        Image area of a canonical quadrant.

    Returns
    -------
    dict
        `STATISTICS` of the pixels on; ``level`` with ``level_error`` (median on); ``background``
        (median off); ``non_uniformity`` ((p95 - p5) / p50 of pixels) and ``column_non_uniformity``
        (of columns, without the noise of pixels); ``spill`` (first row off over the level, both
        above the background) with ``spill_error``; ``noise`` of a pixel.
    """
    rows = np.arange(pixels.shape[0])
    phase = (rows - folded.start) % max(on + off, 1)
    is_on = phase < on
    # A row that follows one of the other kind has its spill: it tells nothing of the level.
    edge = 1 if on > 4 else 0
    inner = is_on & (phase >= edge) & (phase < max(on - edge, 1))
    chosen = np.asarray(pixels[inner], np.float64)
    good = np.ones(chosen.shape, bool) if bad is None else ~bad[inner]
    values = chosen[good]
    if not values.size:
        return dict.fromkeys((*STATISTICS, "level", "level_error"), math.nan)
    p = np.percentile(values, [5, 25, 50, 75, 95])
    found = {
        "mean": values.mean(), "std": values.std(), "min": values.min(), "max": values.max(),
        "p5": p[0], "p25": p[1], "p50": p[2], "p75": p[3], "p95": p[4],
    }  # fmt: skip
    columns = blank.median(np.where(good, chosen, np.nan), axis=0)
    noise = _pixel_noise(chosen, good)
    off_rows = pixels[~is_on & (phase >= on + min(10, max(off // 2, 1)))]
    background = float(np.median(off_rows)) if off_rows.size else math.nan
    level = float(p[2])
    found |= {
        "level": level, "level_error": 1.2533 * noise / math.sqrt(values.size),
        "background": background, "noise": noise,
        "non_uniformity": (p[4] - p[0]) / level if level else math.nan,
        "column_non_uniformity": _spread(columns) / level if level else math.nan,
        **_spill(pixels, bad, phase == on, level, background, noise),
    }  # fmt: skip
    return {name: float(value) for name, value in found.items()}


def _pixel_noise(values: Floats, good: NDArray[np.bool_]) -> float:
    """Return the noise of a pixel from neighbours of one column: no pattern enters."""
    if values.shape[0] < 2:
        return float(np.std(values))
    difference = values[1:] - values[:-1]
    kept = difference[good[1:] & good[:-1]]
    return float(1.4826 * np.median(np.abs(kept)) / math.sqrt(2)) if kept.size else math.nan


def _spread(columns: Floats) -> float:
    low, high = np.nanpercentile(columns, [5, 95])
    return float(high - low)


def _spill(
    pixels: NDArray[Any], bad: NDArray[np.bool_] | None, first_off: NDArray[np.bool_],
    level: float, background: float, noise: float,
) -> dict[str, float]:
    chosen = pixels[first_off]
    kept = chosen if bad is None else chosen[~bad[first_off]]
    height = level - background
    if not kept.size or not height > 5 * noise / math.sqrt(kept.size):
        return {"spill": math.nan, "spill_error": math.nan}
    values = np.asarray(kept, np.float64)
    error = 1.2533 * 1.4826 * float(np.median(np.abs(values - np.median(values))))
    return {
        "spill": (float(np.median(values)) - background) / height,
        "spill_error": error / math.sqrt(values.size) / height,
    }


@dataclass(frozen=True)
class Fit:
    """A curve laid through levels: numbers with errors (1 sigma), and how well.

    Attributes
    ----------
    values, errors
        By name; errors scaled by the root of chi2 per degree where that is above 1.
    parameters
        Of the model function, in its order.
    problem
        Why it is not to be trusted; empty where it is.
    """

    values: dict[str, float]
    errors: dict[str, float]
    parameters: tuple[float, ...] = ()
    chi2: float = math.nan
    degrees: int = 0
    problem: str = ""
    at_bounds: tuple[str, ...] = field(default=())


def ig1_curve(parameters: Sequence[float], ig1_v: Floats) -> Floats:
    """Return levels, ADU, of background, k, xT, xN, a, N (fractions of the full scale; V; 1/V)."""
    b, k, x_t, x_n, a, n = parameters
    channel = a * np.clip(x_n - ig1_v, 0, None) + n
    return np.asarray(FULL_SCALE_ADU * (b + expit(k * (ig1_v - x_t)) * channel))


def idl_curve(parameters: Sequence[float], idl_v: Floats) -> Floats:
    """Return levels, ADU, of background, A (fractions of the full scale), k (1/V), xL (V)."""
    b, a, k, x_l = parameters
    return np.asarray(FULL_SCALE_ADU * (b + a * expit(-k * (idl_v - x_l))))


def fit_ig1(ig1_v: Floats, level_adu: Floats, error_adu: Floats) -> Fit:
    """Fit levels against input gate 1: threshold, notch, slope, charge of the notch.

    Of 4 to 6 points the background is held at 0 and the steepness at 15 / V.

    Returns
    -------
    Fit
        ``bgd_adu``, ``ig1_threshold``, ``ig1_notch`` (V), ``slope`` (ADU/V), ``n_adu``, and
        ``steepness`` (1/V).
    """
    v, y, s = _clean(ig1_v, level_adu, error_adu)
    if len(v) < 4:
        return Fit({}, {}, problem=f"{len(v)} levels: at least 4 are needed")
    signal = y / FULL_SCALE_ADU
    rise = float(v[np.argmax(signal > 0.5 * signal.max())])
    span = max(float(v[-1] - rise), 0.3)
    n0 = float(np.clip(np.median(signal[-2:]), 1e-4, 0.15))
    a0 = float(np.clip((signal.max() - n0) / span, 2e-3, 0.5))
    free = len(v) > 6
    low = np.array([-200 / FULL_SCALE_ADU, 2, 2, 2, 1e-3, 0])
    high = np.array([200 / FULL_SCALE_ADU, 100, 8, 10, 1, 0.2])
    starts = [
        (0.0, k, rise + shift, float(notch), a0, n0)
        for k in ((8.0, 15.0, 30.0) if free else (15.0,))
        for shift in (-0.25, -0.1)
        for notch in (v[-1] - 0.75 * span, v[-1] - 0.4 * span, v[-1] - 0.1 * span)
    ]
    held = () if free else (0, 1)
    best = _best_of(ig1_curve, v, y, s, starts, low, high, held)
    names = ("bgd_adu", "steepness", "ig1_threshold", "ig1_notch", "slope", "n_adu")
    scales = (FULL_SCALE_ADU, 1.0, 1.0, 1.0, FULL_SCALE_ADU, FULL_SCALE_ADU)
    return _told(best, names, scales, held, signal.max() * FULL_SCALE_ADU, float(np.median(s)))


def fit_idl(idl_v: Floats, level_adu: Floats, error_adu: Floats) -> Fit:
    """Fit levels against the injection drain.

    Returns
    -------
    Fit
        ``bgd_adu``, ``a_adu``, ``k`` (1/V), ``idl_threshold`` (V).
    """
    v, y, s = _clean(idl_v, level_adu, error_adu)
    if len(v) < 5:
        return Fit({}, {}, problem=f"{len(v)} levels: at least 5 are needed")
    signal = y / FULL_SCALE_ADU
    height = float(np.clip(signal.max() - signal.min(), 1e-4, 0.9))
    below = np.flatnonzero(signal < signal.min() + 0.5 * height)
    fall = float(v[below[0]]) if below.size else float(v[-1])
    low = np.array([-500 / FULL_SCALE_ADU, 0, 0.5, v[0] - 1])
    high = np.array([500 / FULL_SCALE_ADU, 1, 100, v[-1] + 1])
    starts = [
        (0.0, height, k, float(np.clip(fall + shift, v[0], v[-1])))
        for k in (3.0, 6.0, 15.0, 40.0)
        for shift in (-0.3, -0.1, 0.1)
    ]
    best = _best_of(idl_curve, v, y, s, starts, low, high, ())
    names = ("bgd_adu", "a_adu", "k", "idl_threshold")
    scales = (FULL_SCALE_ADU, FULL_SCALE_ADU, 1, 1)
    return _told(best, names, scales, (), signal.max() * FULL_SCALE_ADU, float(np.median(s)))


def _clean(v: Floats, y: Floats, s: Floats) -> tuple[Floats, Floats, Floats]:
    v, y, s = (np.asarray(one, np.float64) for one in (v, y, s))
    good = np.isfinite(v) & np.isfinite(y) & np.isfinite(s) & (s > 0)
    order = np.argsort(v[good], kind="stable")
    return v[good][order], y[good][order], s[good][order]


@dataclass(frozen=True)
class _Solution:
    parameters: Floats
    covariance: Floats
    chi2: float
    degrees: int
    at_bounds: tuple[int, ...]


def _best_of(
    curve: Callable[[Sequence[float], Floats], Floats], v: Floats, y: Floats, s: Floats,
    starts: Sequence[Sequence[float]], low: Floats, high: Floats, held: tuple[int, ...],
) -> _Solution:
    """Bounded least squares from several starts; the lowest chi2 wins."""
    free = np.array([i for i in range(len(low)) if i not in held])
    best: Any = None
    fixed = np.array(starts[0], np.float64)

    def whole(p: Floats) -> Floats:
        full = fixed.copy()
        full[free] = p
        return full

    for start in starts:
        begin = np.clip(np.array(start)[free], low[free] + 1e-9, high[free] - 1e-9)
        found = least_squares(
            lambda p: (curve(whole(p).tolist(), v) - y) / s, begin, bounds=(low[free], high[free]),
            x_scale=np.maximum(np.abs(begin), 1e-3), max_nfev=200,
        )  # fmt: skip
        if best is None or found.cost < best.cost:
            best = found
    degrees = max(len(v) - len(free), 0)
    chi2 = 2 * float(best.cost)
    covariance = np.linalg.pinv(best.jac.T @ best.jac, rcond=1e-14)
    covariance *= max(chi2 / degrees, 1.0) if degrees else 1.0
    total = np.full((len(low), len(low)), 0.0)
    total[np.ix_(free, free)] = covariance
    at = tuple(int(free[i]) for i in np.flatnonzero(best.active_mask))
    return _Solution(whole(best.x), total, chi2, degrees, at)


def _told(
    best: _Solution, names: Sequence[str], scales: Sequence[float], held: tuple[int, ...],
    height_adu: float, error_adu: float,
) -> Fit:
    errors = np.sqrt(np.diag(best.covariance))
    told = [i for i in range(len(names)) if i not in held]
    touching = tuple(names[i] for i in best.at_bounds)
    if not height_adu > 10 * error_adu + 20:  # a curve through nothing tells nothing of a voltage
        nothing = dict.fromkeys((names[i] for i in told), math.nan)
        problem = f"the highest level is {height_adu:.1f} ADU: nothing was injected"
        return Fit(nothing, nothing, (), best.chi2, best.degrees, problem, touching)
    problem = ""
    if [name for name in touching if name != "bgd_adu"]:
        problem = f"at the bound of {', '.join(touching)}"
    elif best.degrees and best.chi2 / best.degrees > 100:
        problem = f"chi2 is {best.chi2:.0f} for {best.degrees} degrees of freedom"
    return Fit(
        {names[i]: float(best.parameters[i] * scales[i]) for i in told},
        {names[i]: float(errors[i] * scales[i]) for i in told},
        tuple(float(one) for one in best.parameters), best.chi2, best.degrees, problem, touching,
    )  # fmt: skip
