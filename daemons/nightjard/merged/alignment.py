# SPDX-License-Identifier: BSD-3-Clause
"""How far the DAS's clock is from the telescope's, by the edges of the lines both have recorded.

The difference D(t) = DAS minus telescope is near a straight line for hours (a quartz runs some
1e-5 too fast) and steps where a clock is set. Edges of the same line and direction are paired by
the difference that most of them agree on; the pairs are cut where D steps; the pairs of each
observation give a mean and a standard error of D (:mod:`.clusters`); and to the means of a window
about each minute a straight line is fitted.

The log's records are taken as the state at their tick: an edge lies between two of them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.das.naming import MINUTE_NS
from nightjard.merged.clusters import Clusters, cluster
from nightjard.merged.config import AlignmentConfig, LevelsConfig, MergedConfig
from nightjard.merged.edges import Known, minutes_edges
from nightjard.merged.pairing import Pairs, pairs_of

Floats = NDArray[np.float64]

DRIFT_SIGMA_PPM = 50.0
"""What is known of a quartz before."""
FALSE_GATE_S = 0.03
"""A pair further from the line is none."""
AROUND_S = 1800.0
"""How far an hour that is merged alone looks for edges outside: more files would cost more than
the hour itself. A night (:func:`.hour.merge_hours`) has the edges of all its hours."""
HOLD_S = 12 * 3600.0
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


def align_minutes(
    config: MergedConfig, minutes: list[int], known: Known | None = None
) -> Alignment:
    """Return the alignment of minutes from their files and those of half an hour around them.

    Parameters
    ----------
    config
        The configuration.
    minutes
        Starts, ns UTC, one after the other.
    known
        What needs not be read from files.
    """
    if config.alignment.align == "off":
        return {}
    around = round(min(config.alignment.window_s / 2, AROUND_S) // 60) * MINUTE_NS
    span = range(minutes[0] - around, minutes[-1] + around + 1, MINUTE_NS)
    edges = minutes_edges(config, list(span), known)
    return fit(edges, minutes, config.alignment, config.levels)


@dataclass(slots=True, eq=False)
class _Segment:
    """Pairs between two steps of D, and what they say together.

    Attributes
    ----------
    t, d
        The pairs.
    clusters
        The same by observations.
    """

    t: Floats
    d: Floats
    clusters: Clusters


class _Fitter:
    """Fits the segments between steps; each segment's clusters are made once."""

    def __init__(self, pairs: Pairs, zero_ns: int, config: AlignmentConfig) -> None:
        self._pairs = pairs
        self._zero_ns = zero_ns
        self._config = config
        self._segments: dict[int, _Segment | None] = {}

    def minute(self, minute_ns: int) -> list[Piece]:
        """Return the pieces of a minute."""
        begin = (minute_ns - self._zero_ns) / 1e9
        inside = [one for one in self._pairs.steps_s if begin < one < begin + 60]
        bounds = [begin, *inside, begin + 60]
        found = []
        for start, end in itertools.pairwise(bounds):
            from_ns = minute_ns if start == begin else self._zero_ns + round(start * 1e9)
            piece = self._piece((start + end) / 2, from_ns)
            if piece is not None:
                found.append(piece)
        return found

    def _piece(self, middle: float, from_ns: int) -> Piece | None:
        segment = self._segment(middle)
        if segment is None:
            return None
        t = segment.t
        if not t[0] - HOLD_S <= middle <= t[-1] + HOLD_S:
            return None
        # A window about the time, moved to where there are edges.
        length = self._config.window_s
        begin = min(max(middle - length / 2, t[0]), max(t[-1] - length, t[0]))
        line = _weighted_line(segment.clusters, begin, begin + length)
        if line is None:
            return None
        t0, offset, slope, var_offset, var_slope = line
        since = middle - t0
        first, last = np.searchsorted(t, [begin, begin + length + 1e-6])
        rest = segment.d[first:last] - offset - slope * (t[first:last] - t0)
        rest = rest[np.abs(rest) < FALSE_GATE_S]
        if rest.size < self._config.least_edges or abs(slope) * 1e6 > self._config.drift_limit_ppm:
            return None
        residual = float(np.sqrt(np.mean(rest**2)))
        if residual > self._config.alarm_s:
            return None
        is_held = not t[0] - length <= middle <= t[-1] + length
        return Piece(
            from_ns, self._zero_ns + round(middle * 1e9), offset + slope * since, slope * 1e6,
            0 if is_held else int(rest.size),
            math.sqrt(var_offset + var_slope * since * since), residual,
        )  # fmt: skip

    def _segment(self, t_s: float) -> _Segment | None:
        """Return the pairs between the same steps as a time."""
        pairs, steps = self._pairs, self._pairs.steps_s
        number = int(np.searchsorted(steps, t_s, "right")) if steps else 0
        if number not in self._segments:
            low = int(np.searchsorted(pairs.t_s, steps[number - 1])) if number else 0
            high = pairs.t_s.size
            if number < len(steps):
                high = int(np.searchsorted(pairs.t_s, steps[number]))
            self._segments[number] = None
            if high - low >= self._config.least_edges:
                here = slice(low, high)
                t, d = pairs.t_s[here], pairs.d_s[here]
                clusters = cluster(
                    t, d, pairs.das_half_s[here], pairs.tel_half_s[here], pairs.begins[here],
                    pairs.is_alone[here], robust_slope(t, d),
                )  # fmt: skip
                self._segments[number] = _Segment(t, d, clusters)
        return self._segments[number]


def _weighted_line(
    clusters: Clusters, begin: float, end: float
) -> tuple[float, float, float, float, float] | None:
    """Return (t0, offset there, slope, variances of both) by weighted least squares.

    A cluster far off the others (its edges were paired wrongly) loses its weight. The slope has
    what is known of quartzes before as one more datum.
    """
    chosen = (clusters.t_s >= begin - 1) & (clusters.t_s <= end + 1)
    if not chosen.any():
        return None
    t, d = clusters.t_s[chosen], clusters.d_s[chosen]
    sigma = clusters.sigma_s[chosen]
    weight = 1 / sigma**2
    prior = 1 / (1e-6 * DRIFT_SIGMA_PPM) ** 2
    for _ in range(3):
        total = weight.sum()
        t0 = float(weight @ t / total)
        width = float(weight @ (t - t0) ** 2) + prior
        offset, slope = float(weight @ d / total), float(weight @ ((t - t0) * d)) / width
        pull = np.abs(d - offset - slope * (t - t0)) / np.maximum(sigma, 0.001)
        weight = np.where(pull > 5, 25 / np.maximum(pull, 5) ** 2, 1.0) / sigma**2
    return t0, offset, slope, 1 / total, 1 / width


def robust_slope(t: Floats, d: Floats) -> float:
    """Return the slope of pairs by the median over halves, then least squares of what fits."""
    half = t.size // 2
    runs = t[half : 2 * half] - t[:half]
    far = runs > 60
    if not far.any():
        return 0.0
    middle = float(t.mean())
    slope = float(np.median((d[half : 2 * half] - d[:half])[far] / runs[far]))
    for _ in range(2):
        offset = float(np.median(d - slope * (t - middle)))
        fits = np.abs(d - offset - slope * (t - middle)) < 0.03
        if fits.sum() < 8 or np.ptp(t[fits]) < 300:
            break
        slope = float(np.polyfit(t[fits] - middle, d[fits], 1)[0])
    return slope
