# SPDX-License-Identifier: BSD-3-Clause
"""Pairs of edges of an observation taken together: D and how well they tell it.

A pair does not measure D with a Gaussian error. It says that the edge came evenly anywhere within
a DAS sample (20 ms) and within a record of the log (10 ms). And the errors of neighbours are not
independent: an observation whose times are whole hundredths of a second from its start has the same
error against the log's ticks at each of its edges, which averages to nothing by itself. So two
models stand for a cluster, and their likelihoods are added: all errors independent, or one common
error of the log. Which of them holds, the pairs say themselves. What is left is a mean and a
standard error of D for each cluster, and these are independent.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LONGEST_S = 600.0
SOFT_S = 0.001
"""Softness of the limits: the lines' transport delays differ by milliseconds that nobody knows."""
FALSE_EDGE = 0.02
"""Chance that a pair is none, spread evenly over FALSE_S."""
FALSE_S = 0.2
STEP_S = 0.0002
REACH_S = 0.04
LEAST_SIGMA_S = 0.0003


@dataclass(slots=True, eq=False)
class Clusters:
    """Means of D in order of time; all (n,).

    Attributes
    ----------
    t_s
        Middle of the pairs, s by the DAS's clock.
    d_s
        D there, s.
    sigma_s
        Its standard error.
    """

    t_s: Floats
    d_s: Floats
    sigma_s: Floats


def cluster(
    t: Floats, d: Floats, das_half: Floats, tel_half: Floats, begins: NDArray[np.bool_],
    is_alone: NDArray[np.bool_], slope: float,
) -> Clusters:  # fmt: skip
    """Return the clusters of pairs between two steps of D.

    Parameters
    ----------
    t, d, das_half, tel_half
        Pairs in order of time, (n,): see :class:`.pairing.Pairs`.
    begins
        Pairs with which an observation begins, (n,).
    is_alone
        Pairs of a line that the telescope does not drive: its edges have errors of their own.
    slope
        Change of D in a cluster, s/s.
    """
    rows = []
    for own in (False, True):
        mine = np.flatnonzero(is_alone == own)
        for part in _parts(t[mine], begins[mine]):
            chosen = mine[part]
            middle = float(t[chosen].mean())
            flat = d[chosen] - slope * (t[chosen] - middle)
            mean, sigma = estimate(flat, das_half[chosen], tel_half[chosen], can_share=not own)
            rows.append((middle, mean, sigma))
    table = np.array(sorted(rows), np.float64).reshape(-1, 3)
    return Clusters(table[:, 0], table[:, 1], table[:, 2])


def _parts(t: Floats, begins: NDArray[np.bool_]) -> list[slice]:
    """Return the parts of pairs: cut where an observation begins, and after LONGEST_S."""
    cuts = [0]
    for index in range(1, t.size):
        # TRACKING rises a moment before ACQUIRED: both belong to what begins.
        starts = begins[index] and t[index] - t[cuts[-1]] > 2.0
        if starts or t[index] - t[cuts[-1]] > LONGEST_S:
            first = index
            while starts and first - 1 > cuts[-1] and t[index] - t[first - 1] < 1.5:
                first -= 1
            cuts.append(first)
    bounds = [*cuts, t.size]
    return [slice(a, b) for a, b in itertools.pairwise(bounds) if b > a]


def estimate(
    d: Floats, das_half: Floats, tel_half: Floats, *, can_share: bool
) -> tuple[float, float]:
    """Return mean and standard error of D of one cluster, s.

    Parameters
    ----------
    d
        Differences of the pairs, (n,).
    das_half, tel_half
        Half widths of both times, (n,).
    can_share
        Whether the log's error may be common to all.
    """
    centre = float(np.median(d))
    grid = np.arange(-REACH_S, REACH_S + STEP_S / 2, STEP_S)
    both, only_das = np.zeros(grid.size), np.zeros(grid.size)
    kinds = np.unique(np.round(np.column_stack((das_half, tel_half)), 4), axis=0)
    for a, b in kinds.tolist():
        chosen = (np.abs(das_half - a) < 6e-5) & (np.abs(tel_half - b) < 6e-5)
        away = d[chosen][:, None] - centre - grid[None, :]
        both += _log_sum(away, a, b)
        if can_share:
            only_das += _log_sum(away, a, 0.0)
    top = max(both.max(), only_das.max() if can_share else -math.inf)
    weight = np.exp(both - top)
    if can_share:
        width = max(1, round(2 * float(np.median(tel_half)) / STEP_S))
        shared = np.convolve(np.exp(only_das - top), np.ones(width) / width, "same")
        weight = weight + shared
    weight /= weight.sum()
    mean = float(weight @ grid)
    sigma = math.sqrt(float(weight @ (grid - mean) ** 2))
    return centre + mean, max(sigma, LEAST_SIGMA_S)


_TABLES: dict[tuple[float, float], Floats] = {}
_TABLE_STEP_S = 2e-5


def _log_sum(away: Floats, half_a: float, half_b: float) -> Floats:
    """Return the sum over pairs of the log density of how far they are away, (n, m) -> (m,)."""
    key = (half_a, half_b)
    if key not in _TABLES:
        r = np.arange(0, half_a + half_b + 8 * SOFT_S, _TABLE_STEP_S)
        density = trapezoid(r, max(half_a, 1e-4), max(half_b, 1e-4))
        _TABLES[key] = np.log((1 - FALSE_EDGE) * density + FALSE_EDGE / FALSE_S)
    table = _TABLES[key]
    index = np.minimum(np.abs(away) * (1 / _TABLE_STEP_S), table.size - 1).astype(np.int32)
    return np.asarray(table[index].sum(axis=0))


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
        poly = -1.453152027 + s * 1.061405429
        poly = s * (0.254829592 + s * (-0.284496736 + s * (1.421413741 + s * poly)))
        upper = 0.5 * poly * np.exp(-z * z / 2)
        cdf = np.where(z >= 0, 1 - upper, upper)
        return np.asarray(x * cdf + soft * phi)

    far, near = half_a + half_b, abs(half_a - half_b)
    value = twice_integrated(r + far) - twice_integrated(r + near)
    value += twice_integrated(r - far) - twice_integrated(r - near)
    return np.asarray(np.maximum(value, 0) / (4 * half_a * half_b))
