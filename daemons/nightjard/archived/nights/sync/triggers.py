# SPDX-License-Identifier: BSD-3-Clause
"""The triggers that the cameras of a run saw together, built up camera by camera."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nightjard.archived.nights.sync.alignment import Alignment, Side
from nightjard.archived.nights.sync.cadence import Cadence, Train, late_frames
from nightjard.archived.nights.sync.model import Bools, Floats, Ints, Places

_APART = 4.0  # sigma: beyond it the later of two times is late, and only the earlier counts


@dataclass(frozen=True)
class Triggers:
    """Triggers that at least one camera saw, in order.

    Attributes
    ----------
    time_us : (k,)
        When their frames came, on the first camera's clock.
    is_late : (k,)
        No camera's frame was on time.
    seen : (k,)
        Number of cameras.
    where
        Per camera, for each of its frames, the trigger; -1: in doubt.
    """

    time_us: Floats
    is_late: Bools
    seen: Ints
    where: tuple[Places, ...]

    @classmethod
    def of(cls, train: Train, cadence: Cadence) -> Triggers:
        """Return the triggers of one camera."""
        return cls(
            train.time_us, late_frames(train.time_us, cadence),
            np.ones(train.count, np.int64), (np.arange(train.count),),
        )  # fmt: skip

    def joined(self, other: Side, found: Alignment, cadence: Cadence) -> Triggers:
        """Return the triggers with another camera's frames."""
        usual_us = _APART * cadence.sigma_us + 5.0
        is_late = self.is_late | (self.time_us - found.reference_trigger_us > usual_us)
        time_us = np.where(is_late, found.reference_trigger_us, self.time_us)
        # Where a frame stands on time its own time counts: the place it was given proves nothing.
        late_2 = other.is_late | (other.time_us - found.trigger_us > usual_us)
        time_2 = np.where(late_2, found.trigger_us, other.time_us)
        paired = np.flatnonzero(found.partner >= 0)
        partner = found.partner[paired]
        mine, theirs = self.time_us[partner], other.time_us[paired]
        late_1, late_2p = self.is_late[partner], other.is_late[paired]
        weight = self.seen[partner]
        mean = mine + (theirs - mine) / (weight + 1)
        apart = np.abs(theirs - mine) > _APART * np.sqrt(2.0) * cadence.sigma_us + 5.0
        best = np.where(apart, np.minimum(mine, theirs), mean)
        best = np.where(late_1 & ~late_2p, theirs, np.where(late_2p & ~late_1, mine, best))
        both = late_1 & late_2p
        early = np.minimum(found.trigger_us[paired], found.reference_trigger_us[partner])
        time_us[partner] = np.where(both, early, best)
        is_late[partner] = both
        fresh = np.flatnonzero((found.partner < 0) & ~found.is_doubtful)
        known = ~found.reference_is_doubtful
        return self._merged(found, (time_us, is_late, known), (time_2, late_2), paired, fresh)

    def _merged(
        self, found: Alignment, own: tuple[Floats, Bools, Bools], other: tuple[Floats, Bools],
        paired: Places, fresh: Places,
    ) -> Triggers:  # fmt: skip
        time_us, is_late, known = own
        time_2, late_2 = other
        kept = np.flatnonzero(known)
        all_time = np.concatenate([time_us[kept], time_2[fresh]])
        order = np.argsort(all_time, kind="stable")
        rank = np.empty(len(order), np.intp)
        rank[order] = np.arange(len(order))
        new = np.full(len(self.time_us) + 1, -1, np.intp)  # the last: of -1
        new[kept] = rank[: len(kept)]
        theirs = np.full(len(time_2), -1, np.intp)
        theirs[paired] = new[found.partner[paired]]
        theirs[fresh] = rank[len(kept) :]
        where = tuple(_rising(each) for each in (*(new[old] for old in self.where), theirs))
        counted = np.zeros(len(order), np.int64)
        for each in where:
            counted[each[each >= 0]] += 1
        return Triggers(
            all_time[order],
            np.concatenate([is_late[kept], late_2[fresh]])[order],
            counted,
            where,
        )

    def proven_steps(self, trains: tuple[Train, ...]) -> Ints:
        """Return how many triggers there are at least from each to the next: counters tell."""
        count = len(self.time_us)
        steps = np.ones(max(count - 1, 0), np.int64)
        longer: list[tuple[int, int, int]] = []
        for train, where in zip(trains, self.where, strict=True):
            used = np.flatnonzero(where >= 0)
            if len(used) < 2:
                continue
            # Counter steps from one used frame to the next, frames in doubt included.
            total = np.cumsum(train.lost + 1)
            need, start = np.diff(total[used]), where[used[:-1]]
            have = np.diff(where[used])
            next_one = have == 1
            np.maximum.at(steps, start[next_one], need[next_one])
            more = np.flatnonzero((have > 1) & (need > have))
            longer += zip(
                start[more].tolist(), (start + have)[more].tolist(), need[more].tolist(),
                strict=True,
            )  # fmt: skip
        # What one camera's counter proves is not proven once more by another's.
        for first, last, number in longer:
            missing = number - int(steps[first:last].sum())
            if missing > 0:
                widths = np.diff(self.time_us[first : last + 1]) / steps[first:last]
                steps[first + int(widths.argmax())] += missing
        return steps


def _rising(where: Places) -> Places:
    """Put in doubt what would turn a camera's order round: times that no camera can have."""
    known = np.flatnonzero(where >= 0)
    before = np.concatenate([[-1], np.maximum.accumulate(where[known])[:-1]])[: len(known)]
    found = where.copy()
    found[known[where[known] <= before]] = -1
    return found
