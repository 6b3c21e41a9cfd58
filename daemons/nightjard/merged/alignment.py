# SPDX-License-Identifier: BSD-3-Clause
"""How far the DAS's clock is from the telescope's, by the edges of the lines both have recorded.

The difference D(t) = DAS minus telescope is near a straight line for hours (a quartz runs some
1e-5 too fast) and steps where a clock is set. Edges of the same line and direction are paired by
the difference that most of them agree on; pairs are cut into pieces where D steps; and to the
pairs of a window about each minute a line is fitted. A pair does not measure D with a Gaussian
error: it says that D lies in an interval of 15 ms half width, evenly. So the fit is the mean of the
posterior of offset and drift under that likelihood (softened by what the lines' transport delays
differ), which is several times better than least squares and not fooled by scans whose period is a
multiple of the sample's. A false edge costs a constant.

The log's records are taken as the state at their tick: an edge lies between two of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.das.naming import MINUTE_NS
from nightjard.merged.config import AlignmentConfig, LevelsConfig
from nightjard.merged.pairing import Pairs, pairs_of

Floats = NDArray[np.float64]

SOFT_S = 0.001
"""Softness of a pair's interval: delays of the lines that nobody knows."""
FALSE_EDGE = 0.02
"""Chance that a pair is none, spread over FALSE_S."""
FALSE_S = 0.2
DRIFT_SIGMA_PPM = 50.0
"""What is known of a quartz before."""
GRID = 15
HOLD_NS = 12 * 60 * MINUTE_NS
"""How long the last fit is carried on where there are no edges."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A straight line for D from a time on.

    Attributes
    ----------
    from_ns
        From when it holds, ns by the DAS's clock.
    ref_ns
        Where `offset_s` is meant.
    offset_s
        DAS minus telescope, s.
    drift_ppm
        Its change, 1e-6.
    n_edges
        Pairs in the fit; 0 where it is carried on from another minute's.
    sigma_s
        Standard error of the offset in the minute.
    residual_s
        Root mean square of the pairs about the line.
    """

    from_ns: int
    ref_ns: int
    offset_s: float
    drift_ppm: float
    n_edges: int
    sigma_s: float
    residual_s: float

    def offset_at(self, das_ns: int) -> float:
        """Return D at a time of the DAS's clock, s."""
        return self.offset_s + self.drift_ppm * 1e-15 * (das_ns - self.ref_ns)

    @classmethod
    def unknown(cls, start_ns: int) -> Piece:
        """Return the piece of a minute that nothing is known of: NaN."""
        return cls(start_ns, start_ns, math.nan, math.nan, 0, math.nan, math.nan)

    def row(self) -> list[float]:
        """Return it as plain numbers, for JSON."""
        return [
            self.from_ns, self.ref_ns, self.offset_s, self.drift_ppm, self.n_edges, self.sigma_s,
            self.residual_s,
        ]  # fmt: skip


Alignment = dict[int, list[Piece]]
"""Start of a minute, ns -> its pieces in order: one, or more where D steps in it."""


def as_json(alignment: Alignment) -> dict[str, Any]:
    """Return an alignment as plain JSON values: the argument of tasks."""
    return {str(minute): [piece.row() for piece in alignment[minute]] for minute in alignment}


def pieces_of(value: dict[str, Any] | None) -> Alignment:
    """Return what :func:`as_json` made."""
    found: Alignment = {}
    for minute, rows in (value or {}).items():
        found[int(minute)] = [
            Piece(int(row[0]), int(row[1]), row[2], row[3], int(row[4]), row[5], row[6])
            for row in rows
        ]
    return found


def offsets_at(pieces: list[Piece], start_ns: int, das_t_s: Floats, zero_ns: int) -> Floats | float:
    """Return D at samples of a minute, s; 0 where nothing is known.

    Parameters
    ----------
    pieces
        Of the minute.
    start_ns
        Its start.
    das_t_s
        Times by the DAS's clock, s from `zero_ns`.
    zero_ns
        Zero point of the times, ns UTC.
    """
    if not pieces:
        return 0.0
    found = np.empty(das_t_s.size)
    for index, piece in enumerate(pieces):
        since = das_t_s - (piece.ref_ns - zero_ns) / 1e9
        line = piece.offset_s + piece.drift_ppm * 1e-6 * since
        if index == 0:
            found[:] = line
        else:
            later = das_t_s >= (piece.from_ns - zero_ns) / 1e9
            found[later] = line[later]
    return found


def fit(
    edges: Iterable[dict[str, Any]], minutes: Iterable[int], config: AlignmentConfig,
    levels: LevelsConfig,
) -> Alignment:  # fmt: skip
    """Fit D for minutes from all edges that are known.

    Live, that are the edges up to now; offline those of the night: the same function, whose window
    lies about a minute as far as there are edges on both sides of it.

    Parameters
    ----------
    edges
        Results of :func:`.edges.find_edges`, any order; a minute given twice counts once.
    minutes
        Starts of the minutes to fit for, ns UTC.
    config, levels
        Keys ``alignment`` and ``levels`` of the configuration.

    Returns
    -------
    dict
        Only of minutes for which something is known.
    """
    if config.align == "off":
        return {}
    by_minute = {int(one["minute_ns"]): one for one in edges}
    if not by_minute:
        return {}
    zero_ns = min(by_minute)
    pairs = pairs_of(by_minute, zero_ns, config, levels)
    if not pairs.t_s.size:
        return {}
    fitter = _Fitter(pairs, zero_ns, config)
    found = {}
    for minute in minutes:
        pieces = fitter.minute(minute)
        if pieces:
            found[minute] = pieces
    return found


@dataclass(slots=True, eq=False)
class _Line:
    """A fit: D = offset + slope (t - t0), slope in s/s."""

    t0: float
    offset: float
    slope: float
    var_offset: float
    var_slope: float
    count: int
    residual: float

    def at(self, t_s: float) -> tuple[float, float]:
        """Return D and its standard error at a time."""
        since = t_s - self.t0
        return (
            self.offset + self.slope * since,
            math.sqrt(self.var_offset + self.var_slope * since * since),
        )


class _Fitter:
    """Fits windows of pairs; windows with the same pairs are fitted once."""

    def __init__(self, pairs: Pairs, zero_ns: int, config: AlignmentConfig) -> None:
        self._pairs = pairs
        self._zero_ns = zero_ns
        self._config = config
        self._known: dict[tuple[int, int], _Line | None] = {}
        self._density: dict[tuple[float, float], tuple[float, Floats]] = {}

    def minute(self, minute_ns: int) -> list[Piece]:
        """Return the pieces of a minute."""
        begin = (minute_ns - self._zero_ns) / 1e9
        steps = self._pairs.steps_s
        inside = [one for one in steps if begin < one < begin + 60]
        bounds = [begin, *inside]
        found = []
        for index, start in enumerate(bounds):
            end = bounds[index + 1] if index + 1 < len(bounds) else begin + 60
            piece = self._piece(start, end, first=index == 0, minute_ns=minute_ns)
            if piece is not None:
                found.append(piece)
        return found

    def _piece(self, start: float, end: float, *, first: bool, minute_ns: int) -> Piece | None:
        middle = (start + end) / 2
        low, high = self._segment(middle)
        line = self._window(middle, low, high)
        if line is None:
            return None
        value, sigma = line.at(middle)
        is_held = not self._pairs.near(middle, self._config.window_s, low, high)
        from_ns = minute_ns if first else self._zero_ns + round(start * 1e9)
        return Piece(
            from_ns, self._zero_ns + round(middle * 1e9), value, line.slope * 1e6,
            0 if is_held else line.count, sigma, line.residual,
        )  # fmt: skip

    def _segment(self, t_s: float) -> tuple[int, int]:
        """Return which pairs lie between the same steps as a time."""
        steps = self._pairs.steps_s
        number = int(np.searchsorted(steps, t_s, "right")) if steps else 0
        t = self._pairs.t_s
        low = int(np.searchsorted(t, steps[number - 1])) if number else 0
        high = int(np.searchsorted(t, steps[number])) if number < len(steps) else t.size
        return low, high

    def _window(self, middle: float, low: int, high: int) -> _Line | None:
        """Fit the pairs about a time; a window with few of them is made wider, to four times."""
        t = self._pairs.t_s
        if high - low < self._config.least_edges:
            return None
        if not t[low] - HOLD_NS / 1e9 <= middle <= t[high - 1] + HOLD_NS / 1e9:
            return None
        for wider in (1, 2, 4, 1000):
            length = self._config.window_s * wider
            begin = min(max(middle - length / 2, t[low]), max(t[high - 1] - length, t[low]))
            first = max(low, int(np.searchsorted(t, begin)))
            last = min(high, int(np.searchsorted(t, begin + length, "right")))
            if last - first >= max(self._config.least_edges, 12 if wider < 4 else 0):
                break
        key = (first, last)
        if key not in self._known:
            self._known[key] = self._fit(first, last)
        return self._known[key]

    def _fit(self, first: int, last: int) -> _Line | None:
        pairs = self._pairs
        t, d = pairs.t_s[first:last], pairs.d_s[first:last]
        das, tel = pairs.das_half_s[first:last], pairs.tel_half_s[first:last]
        t0 = float(t.mean())
        tau = t - t0
        offset, slope, sigma_a, sigma_b = _robust(tau, d)
        line = _Line(t0, offset, slope, sigma_a**2, sigma_b**2, t.size, 0.0)
        for _ in range(4):
            a = np.linspace(-3.5, 3.5, GRID) * sigma_a
            b = np.linspace(-3.5, 3.5, GRID) * sigma_b
            residual = (d - offset - slope * tau)[None, None, :] - a[:, None, None]
            residual = residual - b[None, :, None] * tau[None, None, :]
            weight = self._log_likelihood(residual, das, tel)
            weight -= ((slope + b) * 1e6 / DRIFT_SIGMA_PPM)[None, :] ** 2 / 2
            weight = np.exp(weight - weight.max())
            weight /= weight.sum()
            in_a, in_b = weight.sum(axis=1), weight.sum(axis=0)
            shift_a, shift_b = float(in_a @ a), float(in_b @ b)
            spread_a = math.sqrt(max(float(in_a @ (a - shift_a) ** 2), 0.0))
            spread_b = math.sqrt(max(float(in_b @ (b - shift_b) ** 2), 0.0))
            offset, slope = offset + shift_a, slope + shift_b
            # Half a cell is the least that a grid can tell of its width.
            spread_a, spread_b = max(spread_a, sigma_a / 4), max(spread_b, sigma_b / 4)
            is_settled = spread_a > 0.6 * sigma_a and spread_b > 0.6 * sigma_b
            sigma_a, sigma_b = spread_a, spread_b
            if is_settled:
                break
        rest = d - offset - slope * tau
        is_near = np.abs(rest) < 0.05
        line.offset, line.slope = offset, slope
        line.var_offset, line.var_slope = sigma_a**2, sigma_b**2
        line.count = int(is_near.sum())
        line.residual = float(np.sqrt(np.mean(rest[is_near] ** 2))) if is_near.any() else math.inf
        too_fast = abs(slope) * 1e6 > self._config.drift_limit_ppm
        if line.count < self._config.least_edges or too_fast:
            return None
        return None if line.residual > self._config.alarm_s else line

    def _log_likelihood(self, residual: Floats, das: Floats, tel: Floats) -> Floats:
        """Return the sum over pairs of log p(residual); residual (i, j, n) -> (i, j)."""
        total = np.zeros(residual.shape[:2])
        kinds = np.unique(np.round(np.stack((das, tel), 1), 4), axis=0)
        for das_half, tel_half in kinds.tolist():
            chosen = (np.abs(das - das_half) < 6e-5) & (np.abs(tel - tel_half) < 6e-5)
            step, table = self._table(das_half, tel_half)
            index = np.abs(residual[:, :, chosen]) * (1 / step)
            np.minimum(index, table.size - 1, out=index)
            total += table[index.astype(np.int32)].sum(axis=2)
        return total

    def _table(self, das_half: float, tel_half: float) -> tuple[float, Floats]:
        """Return log density of a residual's size, and its step: made once per kind of pair."""
        key = (das_half, tel_half)
        if key not in self._density:
            step = 2e-5
            r = np.arange(0, das_half + tel_half + 8 * SOFT_S, step)
            p = trapezoid(r, max(das_half, 1e-4), max(tel_half, 1e-4))
            p = (1 - FALSE_EDGE) * p + FALSE_EDGE / FALSE_S
            self._density[key] = (step, np.log(p))
        return self._density[key]


def trapezoid(r: Floats, half_a: float, half_b: float, soft: float = SOFT_S) -> Floats:
    """Return the density of the sum of two even errors and a Gaussian one.

    Parameters
    ----------
    r
        Where, s.
    half_a, half_b
        Half widths of the even errors, s.
    soft
        Standard deviation of the Gaussian one, s.
    """

    def twice_integrated(x: Floats) -> Floats:
        z = x / soft
        phi = np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
        # Abramowitz and Stegun 7.1.26 for the error function: 1.5e-7.
        s = 1 / (1 + 0.3275911 * np.abs(z) / math.sqrt(2))
        poly = s * (0.254829592 + s * (-0.284496736 + s * (
            1.421413741 + s * (-1.453152027 + s * 1.061405429))))  # fmt: skip
        upper = 0.5 * poly * np.exp(-z * z / 2)
        cdf = np.where(z >= 0, 1 - upper, upper)
        return np.asarray(x * cdf + soft * phi)

    far, near = half_a + half_b, abs(half_a - half_b)
    value = (
        twice_integrated(r + far) - twice_integrated(r + near) - twice_integrated(r - near)
        + twice_integrated(r - far)
    )  # fmt: skip
    return np.asarray(np.maximum(value, 0) / (4 * half_a * half_b))


def _robust(tau: Floats, d: Floats) -> tuple[float, float, float, float]:
    """Return a first (offset, slope, sigma of both) by medians, then least squares of what fits."""
    half = tau.size // 2
    runs = tau[half : 2 * half] - tau[:half]
    slope = 0.0
    far = runs > 60
    if far.any():
        slope = float(np.median((d[half : 2 * half] - d[:half])[far] / runs[far]))
    offset = float(np.median(d - slope * tau))
    width = float(tau.std())
    sigma_slope = min(1e-6 * DRIFT_SIGMA_PPM, 0.0065 / (max(width, 1e-3) * math.sqrt(tau.size)))
    for _ in range(2):
        fits = np.abs(d - offset - slope * tau) < 0.03
        if fits.sum() < 3 or width < 30:
            break
        slope, offset = (float(one) for one in np.polyfit(tau[fits], d[fits], 1))
    # Edges that come in step with the samples share their error: never narrower than this.
    return (
        offset,
        slope,
        max(0.0065 / math.sqrt(tau.size), 0.0015),
        max(sigma_slope, min(1e-6 * DRIFT_SIGMA_PPM, 0.003 / max(width, 1.0))),
    )
