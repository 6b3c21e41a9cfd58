# SPDX-License-Identifier: BSD-3-Clause
"""Parts of a run between which the offset of its cameras changed: each is solved by itself.

Where all cameras rest together they may have been started anew, and with that their latencies.
Such recordings are compared: as long as the offset stays what it was they are one part, and their
evidence counts together. Where it is seen to be another one, what is known on one side of the rest
says nothing about the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nightjard.archived.nights.sync.cadence import Cadence, Train
from nightjard.archived.nights.sync.lag import Choice
from nightjard.archived.nights.sync.model import US, Bools, Floats, Places, RunSolution
from nightjard.archived.nights.sync.offsets import OffsetPath, nearest, seed

#: A rest of all cameras is at least so long, in s and in mean intervals.
_REST_S, _REST_INTERVALS = 0.2, 6.0
_LEAST_PAIRS = 3  # of fewer no offset is known
_SAME = 0.15  # of the shorter interval: offsets nearer than that are those of one trigger
_SMALL = 0.3
_STEP = 0.12  # between blocks: what is looked at
_DRIFT = 5e-6
_BLOCK = 256
_BESIDE_US = 10e3
_TOLD = 6
_NOT_SAME = 0.01  # probability


@dataclass(frozen=True)
class Linking:
    """How a camera's frames of one recording lie beside the reference's.

    Attributes
    ----------
    path, choice
        Offset, and which trigger it is counted to.
    pairs, sigma_us
        How many frames it is known from, and the noise of one.
    """

    path: OffsetPath
    choice: Choice
    pairs: int
    sigma_us: float

    def candidates(self, offset_us: float) -> list[tuple[float, float]]:
        """Return the offsets that may be, with their probabilities."""
        return [(offset_us + shift, chance) for shift, chance in self.choice.candidates]


#: Of two recordings; whether the first, the last of them is cut off.
Linker = Callable[[Train, Train, tuple[bool, bool]], Linking]


@dataclass(frozen=True)
class Cuts:
    """Where a run may be, or is, cut.

    Attributes
    ----------
    time_us : (k,)
        In order.
    is_rest : (k,)
        All cameras rest there; else the offset is seen to step while they go on.
    """

    time_us: Floats
    is_rest: Bools

    def ends(self, number: int) -> tuple[bool, bool]:
        """Return whether the beginning, the end of a part is cut off while the cameras went on."""
        begin = number > 0 and not self.is_rest[number - 1]
        return begin, number < len(self.is_rest) and not bool(self.is_rest[number])

    def only(self, wanted: Iterable[int]) -> Cuts:
        """Return some of the cuts."""
        index = np.array(sorted(wanted), np.intp)
        return Cuts(self.time_us[index], self.is_rest[index])

    def with_steps(self, time_us: Floats) -> Cuts:
        """Return the cuts with those where an offset steps."""
        time = np.concatenate([self.time_us, time_us])
        order = np.argsort(time, kind="stable")
        is_rest = np.concatenate([self.is_rest, np.zeros(len(time_us), np.bool_)])
        return Cuts(time[order], is_rest[order])


def rests(trains: Sequence[Train], cadence: Cadence) -> Cuts:
    """Return the middles of the times at which no camera gives anything."""
    together = np.sort(np.concatenate([train.time_us for train in trains]))
    least_us = max(_REST_S * 1e9 / US, _REST_INTERVALS * (cadence.mean_us + cadence.half_us))
    at = np.flatnonzero(np.diff(together) > least_us)
    return Cuts((together[at] + together[at + 1]) / 2, np.ones(len(at), np.bool_))


def steps(reference: Train, other: Train, found: Cuts, cadence: Cadence) -> Floats:
    """Return when the offset steps while the cameras go on, seen by blocks of frames, us.

    A step by a whole number of triggers cannot be seen so.
    """
    places = bounds(reference, found.time_us)
    where: list[float] = []
    for start, stop in zip(places[:-1].tolist(), places[1:].tolist(), strict=True):
        before: tuple[int, float] | None = None
        for first in range(start, stop - _BLOCK // 2 + 1, _BLOCK):
            block = reference.time_us[first : min(first + _BLOCK, stop)]
            low, high = np.searchsorted(other.time_us, block[[0, -1]] + [-_BESIDE_US, _BESIDE_US])
            span = other.time_us[low:high]
            got = seed(block, span, cadence) if len(span) > len(block) // 2 else None
            if got is None:
                continue
            if before is not None:
                apart = (got[1] - before[1]) / cadence.mean_us
                if abs(apart - round(apart)) * cadence.mean_us > _STEP * cadence.period_us:
                    part = reference.time_us[before[0] : first + len(block)]
                    where.append(_place_of_step(part, other.time_us, before[1], got[1]))
            before = first, got[1]
    return np.unique(np.array(where))


def _place_of_step(part: Floats, other_us: Floats, before_us: float, after_us: float) -> float:
    """Return when between two blocks the one offset begins to fit better than the other."""
    low, high = np.searchsorted(other_us, part[[0, -1]] + [-_BESIDE_US, _BESIDE_US])
    span = other_us[low:high]
    left, right = (
        np.abs(span[nearest(span, part + offset_us)] - offset_us - part)
        for offset_us in (before_us, after_us)
    )
    last = int(np.argmin(np.cumsum(left - right)[:-1]))
    return float(part[last] + part[last + 1]) / 2


def bounds(train: Train, cuts_us: Floats) -> Places:
    """Return where a camera's recordings begin, and the end of the last."""
    inner = np.searchsorted(train.time_us, cuts_us)
    return np.concatenate([[0], inner, [train.count]]).astype(np.intp)


def section(train: Train, start: int, stop: int) -> Train:
    """Return frames of a camera as a train of its own: what was lost before them is left out."""
    lost = train.lost[start:stop].copy()
    lost[:1] = 0
    return Train(train.kept[start:stop], train.time_us[start:stop], lost)


def changes(
    reference: Train, other: Train, cuts: Cuts, cadence: Cadence, link: Linker
) -> list[int]:
    """Return the cuts at which the offset of a camera changed.

    Parameters
    ----------
    reference, other
        The cameras.
    cuts
        Where it may have.
    link
        Lays one recording of the second camera beside the first's.

    Returns
    -------
    list of int
        Indices of `cuts`.
    """
    place_1, place_2 = bounds(reference, cuts.time_us), bounds(other, cuts.time_us)
    found: list[int] = []
    last: tuple[Linking, float] | None = None  # of the part: what is known best, and its end
    for number in range(len(cuts.time_us) + 1):
        one = section(reference, int(place_1[number]), int(place_1[number + 1]))
        two = section(other, int(place_2[number]), int(place_2[number + 1]))
        if min(one.count, two.count) < _LEAST_PAIRS:
            continue
        new = link(one, two, cuts.ends(number))
        if new.pairs < _LEAST_PAIRS:
            continue
        times = (last[1], float(one.time_us[0])) if last is not None else (0.0, 0.0)
        is_rest = number > 0 and bool(cuts.is_rest[number - 1])
        if last is not None and not _is_same(last[0], new, times, is_rest, cadence):
            found.append(number - 1)
            last = None
        end_us = float(one.time_us[-1])
        # One that is sure of its trigger stands for those after it that are not.
        if last is None or new.choice.is_clear or not last[0].choice.is_clear:
            last = new, end_us
    return found


def _is_same(
    before: Linking, after: Linking, times: tuple[float, float], is_rest: bool, cadence: Cadence
) -> bool:
    """Return whether nothing speaks against one offset before and after a rest.

    Where the cameras went on, a step that is small beside the period is taken for what it seems.
    """
    end_us, start_us = times
    was = float(before.path.at(np.array([end_us]))[0])
    now = float(after.path.at(np.array([start_us]))[0])
    if before.choice.is_clear and after.choice.is_clear:
        # While the cameras go on, the path of one part follows a step that is small.
        return abs(now - was) < (_SAME if is_rest else _SMALL) * cadence.period_us
    same_us = _SAME * cadence.period_us
    noise_us = float(np.hypot(*(each.sigma_us / np.sqrt(each.pairs) for each in (before, after))))
    near_us = _SMALL * cadence.period_us
    if is_rest:
        near_us = min(same_us, 20.0 + 6.0 * noise_us + _DRIFT * max(start_us - end_us, 0.0))
    # Offsets that are a whole number of triggers apart are one as long as neither is sure.
    apart = (now - was) / cadence.mean_us
    if abs(apart - round(apart)) * cadence.mean_us > near_us:
        return False
    return all(
        sum(chance for offset, chance in mine.candidates(here) if abs(offset - there) < same_us)
        > _NOT_SAME
        for mine, here, other, there in ((after, now, before, was), (before, was, after, now))
        if other.choice.is_clear
    )


def joined(parts: Sequence[RunSolution], between: Sequence[Mapping[str, int]]) -> RunSolution:
    """Return the solutions of a run's parts as one.

    Parameters
    ----------
    parts
        In order of time.
    between
        For each rest between two of them, by camera: frames that the counter proves missing there.
    """
    shift, first = [0], parts[0]
    for part, lost in zip(parts, between, strict=False):
        shift.append(shift[-1] + int(part.report["triggers"]) + max(lost.values(), default=0))
    triggers = tuple(
        np.concatenate(
            [np.where(part.trigger[index] >= 0, part.trigger[index] + by, -1)
             for part, by in zip(parts, shift, strict=False)]
        )
        for index in range(len(first.trigger))
    )  # fmt: skip
    values: dict[str, Any] = {
        name: tuple(
            np.concatenate(each) for each in zip(*(getattr(p, name) for p in parts), strict=True)
        )
        for name in ("reason", "confidence", "offset_ns", "state", "state_confidence")
    }
    report = _joined_report(parts, between)
    return RunSolution(trigger=triggers, report=report, **values)


def _joined_report(
    parts: Sequence[RunSolution], between: Sequence[Mapping[str, int]]
) -> dict[str, Any]:
    """Return one report: counts added up, figures of the largest part, the worst verdict."""
    reports = [part.report for part in parts]
    sizes = [sum(map(len, part.reason)) for part in parts]
    largest = reports[int(np.argmax(sizes))]
    verdicts = {str(each["verdict"]) for each in reports}
    lost: dict[str, dict[str, int]] = {}
    unseen = [{name: {"counter": count} for name, count in gap.items()} for gap in between]
    for each in [*(each["lost"] for each in reports), *unseen]:
        for name, counts in each.items():
            mine = lost.setdefault(name, {"counter": 0, "time": 0})
            for kind, count in counts.items():
                mine[kind] += count
    told = [f"part {number}: {each['text']}" for number, each in enumerate(reports[:_TOLD], 1)]
    more = [f"and {len(reports) - _TOLD} parts more"] if len(reports) > _TOLD else []
    return {
        **largest,
        "verdict": next((v for v in ("ambiguous", "ok") if v in verdicts), "alone"),
        "text": "; ".join(
            [f"the offset changed: {len(reports)} parts", *told, *more]
        ),
        "triggers": sum(int(each["triggers"]) for each in reports)
        + sum(max(gap.values(), default=0) for gap in between),
        "lost": lost,
        "dubious": sum(int(each["dubious"]) for each in reports),
    }
