# SPDX-License-Identifier: BSD-3-Clause
"""Pairs of edges: the same change of the same line, as both clocks have it; and where D steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.das.lines import Line
from nightjard.merged.config import AlignmentConfig, LevelsConfig

Floats = NDArray[np.float64]

BIN_S = 0.05
GATE_S = 0.12
"""How far a pair may be from the difference that most agree on: drift within a block of time."""
STEP_S = 0.035
"""Steps below it are not told from pairs whose edges come in step with the samples."""
STEP_PAIRS = 5
SEARCH = 2.0
"""Differences up to this times the limit are looked at, so that one beyond is known as such."""
AGREE = 3
"""Pairs by which the best difference must lead others that are not its neighbour."""


@dataclass(slots=True, eq=False)
class Pairs:
    """Edges of both sides that belong together, in order of time; all (n,).

    Attributes
    ----------
    t_s
        Times by the DAS's clock, s from a zero point.
    d_s
        DAS minus telescope, s.
    das_half_s, tel_half_s
        Half widths of both times.
    begins
        Whether an observation begins with it: a rise of ACQUIRED or OBSERVATION.
    is_alone
        Whether its line is not driven by the telescope: ROTATING.
    steps_s
        Times at which D steps.
    """

    t_s: Floats
    d_s: Floats
    das_half_s: Floats
    tel_half_s: Floats
    begins: NDArray[np.bool_]
    is_alone: NDArray[np.bool_]
    steps_s: list[float] = field(default_factory=list)


def pairs_of(
    by_minute: dict[int, dict[str, Any]], zero_ns: int, config: AlignmentConfig,
    levels: LevelsConfig,
) -> Pairs:  # fmt: skip
    """Return the pairs of all edges.

    Parameters
    ----------
    by_minute
        Results of :func:`.edges.find_edges` by start of their minute.
    zero_ns
        Zero point of the times.
    config, levels
        Keys of the configuration.
    """
    das = _table(by_minute, "das", zero_ns, levels.glitch_s)
    tel = _table(by_minute, "tel", zero_ns, levels.glitch_s)
    if not das.size or not tel.size:
        found = np.zeros((0, 5))
    else:
        found = _paired(das, tel, config)
    t, d, das_half, tel_half, kind = found.T
    names = np.array([*config.lines, ""])[kind.astype(int) // 2]
    is_rise = kind.astype(int) % 2 == 1
    begins = is_rise & np.isin(names, [Line.ACQUIRED.variable, Line.OBSERVATION.variable])
    pairs = Pairs(t, d, das_half, tel_half, begins, names == Line.ROTATING.variable)
    if pairs.t_s.size:
        gaps = sorted(
            (minute - zero_ns) / 1e9 + gap
            for minute, one in by_minute.items() for gap in one.get("gaps", [])
        )  # fmt: skip
        pairs.steps_s = _steps(pairs, gaps)
    return pairs


def _table(
    by_minute: dict[int, dict[str, Any]], side: str, zero_ns: int, glitch_s: float
) -> Floats:
    """Return edges without glitches, (n, 4): line and direction as one number, time, half width."""
    rows = [
        (line, rise, (minute - zero_ns) / 1e9 + t_s, half)
        for minute in sorted(by_minute) for line, rise, t_s, half in by_minute[minute][side]
    ]  # fmt: skip
    if not rows:
        return np.zeros((0, 3))
    table = np.array(rows, np.float64)
    kept = np.ones(len(table), bool)
    for line in np.unique(table[:, 0]):
        mine = np.flatnonzero(table[:, 0] == line)
        mine = mine[np.argsort(table[mine, 2], kind="stable")]
        short = np.flatnonzero(np.diff(table[mine, 2]) < glitch_s)
        opposite = table[mine[short], 1] != table[mine[short + 1], 1] if short.size else short
        for index in short[np.asarray(opposite, bool)].tolist():
            if kept[mine[index]]:
                kept[mine[index : index + 2]] = False
    table = table[kept]
    table = table[np.argsort(table[:, 2], kind="stable")]
    return np.column_stack((table[:, 0] * 2 + table[:, 1], table[:, 2], table[:, 3]))


def _paired(das: Floats, tel: Floats, config: AlignmentConfig) -> Floats:
    """Return pairs (t, d, half, half, kind), block by block of time: D may drift over a night."""
    begin, end = das[0, 1], das[-1, 1]
    block = min(config.window_s, 1800.0)
    count = max(1, int(np.ceil((end - begin + 1e-6) / block)))
    found: list[Floats] = []
    before: float | None = None
    for number in range(count):
        low = begin + number * block
        chosen = das[(das[:, 1] >= low) & (das[:, 1] < low + block)]
        if number == count - 1:
            chosen = das[das[:, 1] >= low]
        reach = SEARCH * config.limit_s
        near = tel[(tel[:, 1] >= low - reach) & (tel[:, 1] < low + block + reach)]
        here: list[Floats] = []
        for _ in range(3):  # a block with steps has one difference after the other
            candidate = _agreed(chosen, near, config, before)
            if candidate is None:
                break
            pairs, used, taken = _pair(chosen, near, candidate)
            if here and (len(pairs) < config.least_edges or _is_mixed(pairs, here)):
                break
            here.append(pairs)
            found.append(pairs)
            before = float(np.median(pairs[:, 1]))
            chosen, near = chosen[~used], near[~taken]
    if not found:
        return np.zeros((0, 5))
    return _consistent(np.concatenate(found))


def _is_mixed(pairs: Floats, others: list[Floats]) -> bool:
    """Tell whether pairs lie among others in time: a clock that steps leaves its old difference."""
    low, high = np.quantile(pairs[:, 0], (0.1, 0.9))
    among = sum(int(((one[:, 0] > low) & (one[:, 0] < high)).sum()) for one in others)
    return among > 0.2 * len(pairs)


def _agreed(
    das: Floats, tel: Floats, config: AlignmentConfig, before: float | None
) -> float | None:
    """Return the difference that most edges agree on; None where nothing stands out."""
    differences, reach = [], SEARCH * config.limit_s
    for kind in np.unique(das[:, 0]):
        a, b = das[das[:, 0] == kind, 1], tel[tel[:, 0] == kind, 1]
        if not a.size or not b.size:
            continue
        all_of_them = (a[:, None] - b[None, :]).ravel()
        differences.append(all_of_them[np.abs(all_of_them) <= reach])
    if not differences:
        return None
    d = np.concatenate(differences)
    if d.size < 2:
        return None
    edges = np.arange(-reach - 4 * BIN_S, reach + 5 * BIN_S, BIN_S)
    votes, _ = np.histogram(d, edges)
    sums = np.convolve(votes, np.ones(3), "same")  # a difference near a bin's edge, or drifting
    middles = (edges[:-1] + edges[1:]) / 2
    best = int(np.argmax(sums))
    if before is not None:
        # Scans in equal steps agree with themselves a row later too: then the nearer one is it.
        close = np.abs(middles - before) < 4 * BIN_S
        if close.any() and sums[close].max() >= 0.8 * sums[best]:
            best = int(np.flatnonzero(close)[np.argmax(sums[close])])
            return _centre(d, middles[best])
    others = np.abs(middles - middles[best]) > 4 * BIN_S
    second = float(sums[others].max()) if others.any() else 0.0
    lead = float(sums[best]) - second
    if abs(middles[best]) > config.limit_s + GATE_S:
        return None  # the clocks are further apart than can be: what agrees within is a chance
    if sums[best] < 2 or lead < min(AGREE, max(1.0, 0.1 * sums[best])):
        return None
    return _centre(d, middles[best])


def _centre(d: Floats, near: float) -> float:
    return float(np.median(d[np.abs(d - near) <= 1.5 * BIN_S]))


def _pair(
    das: Floats, tel: Floats, difference: float
) -> tuple[Floats, NDArray[np.bool_], NDArray[np.bool_]]:
    """Return pairs near a difference, and which edges of both sides they use; each once."""
    rows = []
    used, taken = np.zeros(len(das), bool), np.zeros(len(tel), bool)
    for kind in np.unique(das[:, 0]):
        mine, theirs = np.flatnonzero(das[:, 0] == kind), np.flatnonzero(tel[:, 0] == kind)
        if not theirs.size:
            continue
        wanted = das[mine, 1] - difference
        at = np.clip(np.searchsorted(tel[theirs, 1], wanted), 1, max(1, theirs.size - 1))
        if theirs.size > 1:
            left, right = theirs[at - 1], theirs[at]
            is_left = np.abs(tel[left, 1] - wanted) <= np.abs(tel[right, 1] - wanted)
            nearest = np.where(is_left, left, right)
        else:
            nearest = np.full(mine.size, theirs[0])
        off = np.abs(tel[nearest, 1] - wanted)
        for index in np.argsort(off, kind="stable").tolist():
            if off[index] > GATE_S:
                break
            one, other = mine[index], nearest[index]
            if not taken[other]:
                used[one] = taken[other] = True
                d_s = das[one, 1] - tel[other, 1]
                rows.append((das[one, 1], d_s, das[one, 2], tel[other, 2], kind))
    return np.array(rows, np.float64).reshape(-1, 5), used, taken


def _consistent(pairs: Floats) -> Floats:
    """Return the pairs in order of time without those that no neighbour agrees with."""
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    d = pairs[:, 1]
    if d.size < 4:
        return pairs
    agree = np.zeros(d.size, int)
    for shift in range(1, min(6, d.size)):
        close = np.abs(d[shift:] - d[:-shift]) < STEP_S
        agree[shift:] += close
        agree[:-shift] += close
    return pairs[agree >= 2]


def _steps(pairs: Pairs, gaps: list[float]) -> list[float]:
    """Return when D steps: a gap of the raw data between the pairs before and after, or midway."""
    t, d = pairs.t_s, pairs.d_s
    found: list[float] = []
    size = STEP_PAIRS
    if d.size < 2 * size:
        return found
    windows = np.lib.stride_tricks.sliding_window_view(d, size)
    medians = np.median(windows, axis=1)
    # jump[i]: pairs i.. against those before them
    jump = np.abs(medians[size:] - medians[:-size])
    # A quartz drifts little over the minutes between them.
    slack = 1e-4 * np.minimum(t[size : size + jump.size] - t[: jump.size], 600.0)
    above = np.flatnonzero(jump > STEP_S + slack)
    for group in np.split(above, np.flatnonzero(np.diff(above) > 1) + 1):
        if not group.size:
            continue
        best = int(group[np.argmax(jump[group])]) + size
        # The one place of the group where the neighbours differ most.
        around = range(max(1, best - size + 1), min(d.size, best + size))
        cut = max(around, key=lambda one: abs(d[one] - d[one - 1]))
        between = [gap for gap in gaps if t[cut - 1] - 0.1 <= gap <= t[cut] + 0.1]
        found.append(between[0] if between else float(t[cut - 1] + t[cut]) / 2)
    return found
