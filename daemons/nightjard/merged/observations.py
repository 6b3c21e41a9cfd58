# SPDX-License-Identifier: BSD-3-Clause
"""Where an observation begins and ends: pairs the edges of the line OBSERVATION.

The line is high during an observation and low for a second or more between two. What lasts less
than a tenth of a second between two equal levels is a glitch. Where the DAS has no sample the
telescope's own record of the line stands in, and where there is neither, an observation goes on if
the line is high on both sides and its number is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nightjar.das.lines import Line, has_bit

GLITCH_S = 0.1
Levels = NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class Stretch:
    """Samples from the first of an observation to the one behind its last.

    Attributes
    ----------
    begin, end
        Indices.
    is_begin_cut, is_end_cut
        It was high at the first sample that is known, or at the last.
    """

    begin: int
    end: int
    is_begin_cut: bool
    is_end_cut: bool


def filled(das: Levels, flags: NDArray[np.int32] | None) -> Levels:
    """Return the level by the DAS, by the telescope's flag words where the DAS has none.

    Parameters
    ----------
    das
        0, 1, or -1 for unknown.
    flags
        Flag words at the same samples, -1 for none; None where there are none at all.
    """
    if flags is None:
        return das
    told = np.where(flags == -1, -1, has_bit(flags.view(np.uint32), Line.OBSERVATION.bit))
    return np.where(das < 0, told, das).astype(np.int8)


def pair(
    levels: Levels, rate_hz: int, is_same: Callable[[int, int], bool] = lambda _one, _other: False
) -> list[Stretch]:
    """Return the observations in a level without holes, in order.

    Parameters
    ----------
    levels
        0, 1, or -1 for unknown, (n,).
    rate_hz
        Samples per second.
    is_same
        Tells whether two samples, before and behind an unknown stretch, are of one observation.
    """
    runs = runs_of(without_glitches(levels, rate_hz))
    found: list[Stretch] = []
    before = -1
    for index, (begin, end, level) in enumerate(runs):
        if level == 1:
            is_last = index + 1 == len(runs)
            after = -1 if is_last else runs[index + 1][2]
            one = Stretch(begin, end, before != 0, after != 0)
            is_on = found and before == -1 and index >= 2 and runs[index - 2][2] == 1
            if is_on and is_same(found[-1].end - 1, begin):
                found[-1] = Stretch(found[-1].begin, end, found[-1].is_begin_cut, one.is_end_cut)
            else:
                found.append(one)
        before = level
    return found


def runs_of(levels: Levels) -> list[tuple[int, int, int]]:
    """Return (begin, end, level) of each run of equal levels."""
    if not levels.size:
        return []
    starts = np.concatenate([[0], np.flatnonzero(np.diff(levels)) + 1])
    ends = np.concatenate([starts[1:], [levels.size]])
    return [
        (begin, end, int(levels[begin]))
        for begin, end in zip(starts.tolist(), ends.tolist(), strict=True)
    ]


def without_glitches(levels: Levels, rate_hz: int) -> Levels:
    """Return a level without what lasts less than :data:`GLITCH_S` between two equal ones."""
    least = GLITCH_S * rate_hz
    kept = levels.copy()
    merged: list[list[int]] = []
    for begin, end, level in runs_of(levels):
        merged.append([begin, end, level])
        # A run that has ended settles whether the one before it was a glitch.
        while len(merged) >= 3:
            first, middle, last = merged[-3:]
            if middle[1] - middle[0] >= least or first[2] != last[2]:
                break
            kept[middle[0] : middle[1]] = first[2]
            merged[-3:] = [[first[0], last[1], first[2]]]
    return kept
