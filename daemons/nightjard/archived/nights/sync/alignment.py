# SPDX-License-Identifier: BSD-3-Clause
"""Which frames of two cameras belong to one trigger, their offset being known.

Frames that are on time and near each other are anchors. What lies between two anchors is laid on
the triggers that must have been there: in order, never before its trigger, counters obeyed. Where
that leaves a choice its probability is found, and what is not clear is left in doubt.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nightjard.archived.nights.sync.cadence import Cadence
from nightjard.archived.nights.sync.model import Bools, Floats, Ints, Places
from nightjard.archived.nights.sync.offsets import nearest
from nightjard.archived.nights.sync.slots import MOST_SLOTS, Frames, Slots, grids, place_both

NEAR = 0.4  # of the shorter interval: an anchor's largest residual
_SURE = 1.0 - 1e-6
_DOUBT = 0.5
_BESIDE = 1.0 - 1e-4
_ON_TIME = 1.5  # sigma


@dataclass(frozen=True)
class Side:
    """One of two frame trains that are compared; times in us, late frames marked.

    ``lost`` frames are proven missing just before each.
    """

    time_us: Floats
    is_late: Bools
    lost: Ints


@dataclass
class Alignment:
    """Result, by frame of the other side and of the reference.

    Attributes
    ----------
    partner : (n_other,)
        Index of the reference's frame, -1 for none.
    confidence, reference_confidence
        Of the decision on each frame.
    is_doubtful, reference_is_doubtful
        The decision is not clear enough to be taken.
    trigger_us, reference_trigger_us
        When the trigger's frame should have come, for frames that came late.
    """

    partner: Places
    confidence: Floats
    reference_confidence: Floats
    is_doubtful: Bools
    reference_is_doubtful: Bools
    trigger_us: Floats
    reference_trigger_us: Floats

    @classmethod
    def blank(cls, reference: Side, other: Side) -> Alignment:
        """Return an alignment without any pair."""
        first, second = len(reference.time_us), len(other.time_us)
        return cls(
            np.full(second, -1, np.intp), np.full(second, _SURE), np.full(first, _SURE),
            np.zeros(second, np.bool_), np.zeros(first, np.bool_),
            other.time_us.copy(), reference.time_us.copy(),
        )  # fmt: skip

    def pair(self, first: Places, second: Places, confidence: Floats | float) -> None:
        """Take pairs."""
        self.partner[second] = first
        self.confidence[second] = confidence
        self.reference_confidence[first] = confidence

    def doubt(self, first: Places, second: Places) -> None:
        """Leave frames in doubt."""
        self.is_doubtful[second] = True
        self.confidence[second] = _DOUBT
        self.reference_is_doubtful[first] = True
        self.reference_confidence[first] = _DOUBT


def align(reference: Side, other: Side, cadence: Cadence, loss: float, near_us: float) -> Alignment:
    """Align two trains whose offset was taken off.

    Parameters
    ----------
    near_us
        Largest residual of an anchor.
    loss
        Fraction of frames that a camera loses unseen.
    """
    result = Alignment.blank(reference, other)
    if not len(reference.time_us) or not len(other.time_us):
        return result
    first, second = _anchors(reference, other, near_us)
    first, second = _obeying_counters(reference, other, first, second, cadence)
    first, second = _beyond_suspicion(reference, other, first, second, cadence)
    residual = other.time_us[second] - reference.time_us[first]
    result.pair(first, second, _anchor_confidence(residual, cadence, loss))
    # Beside a missing frame an anchor may be the missing one, late by a whole interval.
    beside = np.flatnonzero((np.diff(first) > 1) | (np.diff(second) > 1)) + 1
    result.confidence[second[beside]] = np.minimum(result.confidence[second[beside]], _BESIDE)
    result.reference_confidence[first[beside]] = result.confidence[second[beside]]
    # Regions between anchors, with one before the first and one after the last.
    left_1 = np.concatenate([[-1], first])
    left_2 = np.concatenate([[-1], second])
    right_1 = np.concatenate([first, [len(reference.time_us)]])
    right_2 = np.concatenate([second, [len(other.time_us)]])
    count_1, count_2 = right_1 - left_1 - 1, right_2 - left_2 - 1
    mixed = np.flatnonzero((count_1 > 0) & (count_2 > 0))
    inner = mixed[(mixed > 0) & (mixed < len(first))]
    rest = set(mixed.tolist()) - set(inner.tolist())
    steps, fits = _steps(reference, other, left_1, left_2, right_1, right_2, inner, cadence)
    whole = (steps - 1 == count_1[inner]) & (steps - 1 == count_2[inner]) & fits
    # A pause among late frames: with as many frames on both sides the order decides.
    paused = np.flatnonzero(~fits & (count_1[inner] == count_2[inner]))
    for index in paused.tolist():
        region = inner[index]
        one = np.arange(left_1[region] + 1, right_1[region])
        two = np.arange(left_2[region] + 1, right_2[region])
        whole[index] = _is_plausible(reference, other, one, two, cadence)
    _pair_in_order(result, left_1[inner[whole]], left_2[inner[whole]], count_1[inner[whole]])
    for region, step, fit in zip(
        inner[~whole].tolist(), steps[~whole].tolist(), fits[~whole].tolist(), strict=True
    ):
        spans = (left_1[region], right_1[region]), (left_2[region], right_2[region])
        _resolve(result, reference, other, spans, step if fit else 0, cadence, loss)
    for region in sorted(rest):
        spans = (left_1[region], right_1[region]), (left_2[region], right_2[region])
        _resolve_end(result, reference, other, spans, cadence, loss)
    return result


def _anchors(reference: Side, other: Side, near_us: float) -> tuple[Places, Places]:
    if len(other.time_us) == 1:
        there = np.zeros(len(reference.time_us), np.intp)
    else:
        there = nearest(other.time_us, reference.time_us)
    back = nearest(reference.time_us, other.time_us)
    index = np.arange(len(reference.time_us))
    residual = np.abs(other.time_us[there] - reference.time_us)
    ok = (back[there] == index) & (residual < near_us)
    ok &= ~reference.is_late & ~other.is_late[there]
    first = np.flatnonzero(ok)
    return first, there[first]


def _obeying_counters(
    reference: Side, other: Side, first: Places, second: Places, cadence: Cadence
) -> tuple[Places, Places]:
    """Leave out anchors between which there is no room for the frames that a counter proves lost.

    A frame that is late by a whole interval stands where the next one should be.
    """
    if len(first) < 2:
        return first, second
    steps = _most_steps(np.diff(reference.time_us[first]), cadence)
    wrong = np.zeros(len(first), np.bool_)
    for side, index in ((reference, first), (other, second)):
        total = np.cumsum(side.lost + 1)
        crowded = np.flatnonzero((np.diff(total[index]) > steps) & (np.diff(total[index]) > 1))
        wrong[crowded] = True
        wrong[crowded + 1] = True
    return first[~wrong], second[~wrong]


def _most_steps(span_us: Floats, cadence: Cadence) -> Floats:
    """Return how many triggers a time has room for, its ends being off by what is usual."""
    room = span_us + min(5.0 * np.sqrt(2.0) * cadence.sigma_us + 10.0, 0.4 * cadence.period_us)
    even = 2.0 * np.floor(room / (2.0 * cadence.mean_us))
    # The odd one out may be the shorter interval.
    odd = 2.0 * np.floor((room + cadence.half_us + cadence.mean_us) / (2.0 * cadence.mean_us)) - 1.0
    return np.asarray(np.maximum(np.maximum(even, odd), 1.0))


def _beyond_suspicion(
    reference: Side, other: Side, first: Places, second: Places, cadence: Cadence
) -> tuple[Places, Places]:
    """Leave out anchors beside missing frames that are not well on time.

    One of the two may be late, and belong to the trigger before: its neighbours have to tell.
    """
    away = np.abs(other.time_us[second] - reference.time_us[first])
    gap = (np.diff(first) > 1) | (np.diff(second) > 1)
    beside = np.concatenate([[False], gap]) | np.concatenate([gap, [False]])
    usual_us = max(_ON_TIME * np.sqrt(2.0) * cadence.sigma_us + 5.0, 0.1 * cadence.period_us)
    kept = ~beside[: len(first)] | (away < usual_us)
    return first[kept], second[kept]


def _anchor_confidence(residual: Floats, cadence: Cadence, loss: float) -> Floats:
    """Return the odds against both cameras having lost neighbours, as a probability."""
    width = 1.5 * cadence.sigma_us + 5.0  # of an exponential tail: more generous than a normal one
    away = cadence.period_us - np.abs(residual)
    odds = 2.0 * loss**2 * np.exp(np.clip((np.abs(residual) - away) / width, -700, 0))
    return np.minimum(1.0 / (1.0 + odds), _SURE)


def _steps(
    reference: Side, other: Side, left_1: Places, left_2: Places, right_1: Places,
    right_2: Places, regions: Places, cadence: Cadence,
) -> tuple[Ints, Bools]:  # fmt: skip
    """Return the triggers from anchor to anchor, and whether the time is a whole number of them."""
    start = (reference.time_us[left_1[regions]] + other.time_us[left_2[regions]]) / 2
    stop = (reference.time_us[right_1[regions]] + other.time_us[right_2[regions]]) / 2
    return fit_steps(stop - start, cadence)


def fit_steps(span_us: Floats, cadence: Cadence) -> tuple[Ints, Bools]:
    """Return how many triggers make up a time, and whether they do so within the noise."""
    steps = np.maximum(np.round(span_us / cadence.mean_us), 1).astype(np.int64)
    slack = np.abs(span_us - steps * cadence.mean_us)
    slack = np.where(steps % 2 == 1, np.abs(slack - cadence.half_us), slack)
    noise = 6.0 * cadence.interval_sigma_us + 4.0 * cadence.line_us * np.sqrt(steps)
    return steps, slack < np.minimum(noise + 1e-4 * span_us, 0.4 * cadence.period_us)


def _is_plausible(
    reference: Side, other: Side, first: Places, second: Places, cadence: Cadence
) -> bool:
    """Return whether frames may be pairs in their order: apart only where one came late."""
    apart = np.abs(other.time_us[second] - reference.time_us[first])
    late = reference.is_late[first] | other.is_late[second]
    return bool(np.all(late | (apart < NEAR * cadence.period_us)))


def _pair_in_order(result: Alignment, left_1: Places, left_2: Places, count: Places) -> None:
    if not len(count):
        return
    total = int(count.sum())
    within = np.arange(total) - np.repeat(np.cumsum(count) - count, count) + 1
    first = np.repeat(left_1, count) + within
    second = np.repeat(left_2, count) + within
    result.pair(first, second, 1.0 - 1e-4)
    # Latency only ever adds: the earlier of the two is nearer to the trigger.
    early = np.minimum(result.trigger_us[second], result.reference_trigger_us[first])
    result.trigger_us[second] = early
    result.reference_trigger_us[first] = early


Span = tuple[int, int]


def _resolve(
    result: Alignment, reference: Side, other: Side, spans: tuple[Span, Span], steps: int,
    cadence: Cadence, loss: float,
) -> None:  # fmt: skip
    """Decide a region between two anchors; `steps` 0: a pause makes its triggers unknown."""
    (left_1, right_1), (left_2, right_2) = spans
    first, second = np.arange(left_1 + 1, right_1), np.arange(left_2 + 1, right_2)
    start = (reference.time_us[left_1] + other.time_us[left_2]) / 2
    stop = (reference.time_us[right_1] + other.time_us[right_2]) / 2
    triggers = steps - 1
    if not 0 < triggers <= MOST_SLOTS or max(len(first), len(second)) > triggers:
        _pair_nearest(result, reference, other, first, second, cadence)
        return
    grid = [start + each for each in grids(cadence, np.arange(1, steps), stop - start)]
    _place_both(
        result, reference, other, (first, second), grid,
        (reference.lost[left_1 + 1 : right_1 + 1], other.lost[left_2 + 1 : right_2 + 1]),
        cadence, loss,
    )  # fmt: skip


def _resolve_end(
    result: Alignment, reference: Side, other: Side, spans: tuple[Span, Span], cadence: Cadence,
    loss: float,
) -> None:  # fmt: skip
    """Decide what stands before the first anchor or after the last."""
    (left_1, right_1), (left_2, right_2) = spans
    is_head = left_1 < 0
    anchored = not (is_head and right_1 >= len(reference.time_us))
    first, second = np.arange(left_1 + 1, right_1), np.arange(left_2 + 1, right_2)
    if not anchored or (left_1 < 0 and right_1 >= len(reference.time_us)):
        _pair_nearest(result, reference, other, first, second, cadence)
        return
    # Only where both cameras were running: the rest has no partner to be in doubt about.
    if is_head:
        anchor = (reference.time_us[right_1] + other.time_us[right_2]) / 2
        limit = max(reference.time_us[first[0]], other.time_us[second[0]])
        limit -= cadence.mean_us * 0.6
        first = first[reference.time_us[first] > limit]
        second = second[other.time_us[second] > limit]
        if not len(first) or not len(second):
            return
        earliest = min(reference.time_us[first[0]], other.time_us[second[0]])
        steps = round((anchor - earliest) / cadence.mean_us)
        grid = [anchor + each for each in grids(cadence, np.arange(-steps, 0))]
    else:
        anchor = (reference.time_us[left_1] + other.time_us[left_2]) / 2
        limit = min(reference.time_us[first[-1]], other.time_us[second[-1]])
        limit += cadence.mean_us * 0.6
        first = first[reference.time_us[first] < limit]
        second = second[other.time_us[second] < limit]
        if not len(first) or not len(second):
            return
        latest = max(reference.time_us[first[-1]], other.time_us[second[-1]])
        steps = round((latest - anchor) / cadence.mean_us)
        grid = [anchor + each for each in grids(cadence, np.arange(1, steps + 1))]
    if not 0 < steps <= MOST_SLOTS or max(len(first), len(second)) > steps:
        _pair_nearest(result, reference, other, first, second, cadence)
        return
    lost_1 = np.append(reference.lost[first], 0 if not is_head else reference.lost[right_1])
    lost_2 = np.append(other.lost[second], 0 if not is_head else other.lost[right_2])
    if is_head:
        lost_1[0] = lost_2[0] = 0
    _place_both(
        result, reference, other, (first, second), grid, (lost_1, lost_2), cadence, loss,
        is_open_head=is_head, is_open_tail=not is_head,
    )  # fmt: skip


def _place_both(
    result: Alignment, reference: Side, other: Side, frames: tuple[Places, Places],
    grid: list[Floats],
    lost: tuple[Ints, Ints], cadence: Cadence, loss: float, *, is_open_head: bool = False,
    is_open_tail: bool = False,
) -> None:  # fmt: skip
    """Lay both cameras' frames on the triggers of a region."""
    first, second = frames
    task = Slots(grid[0], cadence, loss, is_open_head, is_open_tail)
    frames_1 = Frames(reference.time_us[first], *_waits(reference, first), lost[0])
    frames_2 = Frames(other.time_us[second], *_waits(other, second), lost[1])
    task, placed_1, placed_2 = place_both(task, grid, frames_1, frames_2)
    slot_us = task.grid_us
    slot_1, sure_1, maybe_1 = placed_1.slot, placed_1.sure, placed_1.maybe
    slot_2, sure_2, maybe_2 = placed_2.slot, placed_2.sure, placed_2.maybe
    # A frame in doubt takes the frames of the other camera with it that it may belong to.
    doubt_1 = (slot_1 < 0) | maybe_2[slot_1]
    doubt_2 = (slot_2 < 0) | maybe_1[slot_2]
    result.doubt(first[doubt_1], second[doubt_2])
    ok_1, ok_2 = np.flatnonzero(~doubt_1), np.flatnonzero(~doubt_2)
    result.reference_trigger_us[first[ok_1]] = slot_us[slot_1[ok_1]]
    result.trigger_us[second[ok_2]] = slot_us[slot_2[ok_2]]
    result.reference_confidence[first[ok_1]] = np.minimum(sure_1[ok_1], _SURE)
    result.confidence[second[ok_2]] = np.minimum(sure_2[ok_2], _SURE)
    _, one, two = np.intersect1d(slot_1[ok_1], slot_2[ok_2], return_indices=True)
    one, two = ok_1[one], ok_2[two]
    result.pair(first[one], second[two], np.minimum(sure_1[one] * sure_2[two], _SURE))


def _waits(side: Side, frames: Places) -> tuple[Bools, Floats]:
    """Return which frames are late, and the time since the frame before each."""
    before = np.maximum(frames - 1, 0)
    wait = np.where(frames > 0, side.time_us[frames] - side.time_us[before], np.inf)
    return side.is_late[frames], wait


def _pair_nearest(
    result: Alignment, reference: Side, other: Side, first: Places, second: Places,
    cadence: Cadence,
) -> None:  # fmt: skip
    """Take what is on time and near; the rest, where both cameras have some, is in doubt."""
    if not len(first) or not len(second):
        return
    times_1, times_2 = reference.time_us[first], other.time_us[second]
    sides = (
        Side(times_1, reference.is_late[first], reference.lost[first]),
        Side(times_2, other.is_late[second], other.lost[second]),
    )
    one, two = _anchors(*sides, NEAR * cadence.period_us)
    result.pair(first[one], second[two], 0.999)
    rest_1, rest_2 = np.delete(first, one), np.delete(second, two)
    if len(rest_1) and len(rest_2):
        reach = 2.0 * cadence.mean_us + 50e3
        gap_1 = np.abs(other.time_us[rest_2][_near(other.time_us[rest_2],
                       reference.time_us[rest_1])] - reference.time_us[rest_1])  # fmt: skip
        gap_2 = np.abs(reference.time_us[rest_1][_near(reference.time_us[rest_1],
                       other.time_us[rest_2])] - other.time_us[rest_2])  # fmt: skip
        result.doubt(rest_1[gap_1 < reach], rest_2[gap_2 < reach])


def _near(sorted_us: Floats, at_us: Floats) -> Places:
    if len(sorted_us) == 1:
        return np.zeros(len(at_us), np.intp)
    return nearest(sorted_us, at_us)
