# SPDX-License-Identifier: BSD-3-Clause
"""A run solved: which frames of all cameras belong together, and the modulator's states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from nightjard.archived.nights.records import Reason
from nightjard.archived.nights.sync.alignment import NEAR, Alignment, Side, align
from nightjard.archived.nights.sync.cadence import (
    Cadence,
    Train,
    base_of,
    late_frames,
    measure,
    prepare,
)
from nightjard.archived.nights.sync.lag import Choice, choose
from nightjard.archived.nights.sync.model import (
    US,
    Bools,
    CameraFrames,
    Floats,
    Ints,
    Physics,
    RunSolution,
)
from nightjard.archived.nights.sync.modulator import CLEAR, Decoded
from nightjard.archived.nights.sync.offsets import OffsetPath, refine, seed, track
from nightjard.archived.nights.sync.parts import (
    Cuts,
    Linking,
    bounds,
    changes,
    joined,
    rests,
    section,
    steps,
)
from nightjard.archived.nights.sync.reporting import Found, report
from nightjard.archived.nights.sync.states import decode_states
from nightjard.archived.nights.sync.triggers import Triggers

_ROUNDS = 2
_MAD = 1.4826


@dataclass(frozen=True)
class Linked:
    """A camera laid beside the triggers of those before it."""

    triggers: Triggers
    alignment: Alignment
    path: OffsetPath
    sigma_us: float
    choice: Choice


def solve_run(cameras: Sequence[CameraFrames], physics: Physics) -> RunSolution:
    """Solve a run.

    Parameters
    ----------
    cameras
        One or more cameras on one trigger; offsets are given against the first.
    physics
        What their headers say.
    """
    base_ns = base_of(cameras)
    trains = tuple(prepare(camera, base_ns, physics) for camera in cameras)
    cadence = measure(trains, physics)
    cuts = _changes(trains, cadence)
    if not len(cuts.time_us):
        return _solve(cameras, trains, cadence, physics)
    # From the first frame of a part to the first of the next, second records included.
    solutions: list[RunSolution] = []
    places = [bounds(train, cuts.time_us) for train in trains]
    for number in range(len(cuts.time_us) + 1):
        mine, own = [], []
        for camera, train, place in zip(cameras, trains, places, strict=True):
            start, stop = int(place[number]), int(place[number + 1])
            edges = np.concatenate([train.kept, [len(camera.counter)]])
            first, last = int(edges[start]) if start else 0, int(edges[stop])
            part = section(train, start, stop)
            own.append(replace(part, kept=part.kept - first))
            mine.append(
                CameraFrames(
                    camera.stream, camera.acquired_ns[first:last], camera.counter[first:last]
                )
            )
        solutions.append(_solve(mine, tuple(own), cadence, physics, cuts.ends(number)))
    between = [
        {camera.stream: int(train.lost[place[number]]) if place[number] < train.count else 0
         for camera, train, place in zip(cameras, trains, places, strict=True)}
        for number in range(1, len(cuts.time_us) + 1)
    ]  # fmt: skip
    return joined(solutions, between)


def _changes(trains: tuple[Train, ...], cadence: Cadence) -> Cuts:
    """Return where the offset of a camera changed, at rests of all cameras and between them."""
    active = [train for train in trains if train.count]
    if len(active) < 2:
        return Cuts(np.zeros(0), np.zeros(0, np.bool_))
    cuts = rests(active, cadence)
    for other in active[1:]:
        cuts = cuts.with_steps(steps(active[0], other, cuts, cadence))
    if not len(cuts.time_us):
        return cuts

    def link(reference: Train, other: Train, is_cut: tuple[bool, bool]) -> Linking:
        main = Triggers.of(reference, cadence)
        linked = _link(main, (reference, other), [0], 1, cadence, is_cut)
        pairs = int((linked.alignment.partner >= 0).sum())
        return Linking(linked.path, linked.choice, pairs, linked.sigma_us)

    return cuts.only(
        {index for other in active[1:] for index in changes(active[0], other, cuts, cadence, link)}
    )


def _solve(
    cameras: Sequence[CameraFrames], trains: tuple[Train, ...], cadence: Cadence, physics: Physics,
    is_cut: tuple[bool, bool] = (False, False),
) -> RunSolution:  # fmt: skip
    """Solve a run in which nothing was started anew."""
    active = [index for index, train in enumerate(trains) if train.count]
    if not active:
        return _assemble(cameras, trains, cadence, [], {}, {}, physics)
    # Cameras of which it cannot be told how they belong to the others stand by themselves.
    groups: list[tuple[list[int], Triggers]] = []
    links: dict[int, Linked] = {}
    main = Triggers.of(trains[active[0]], cadence)
    members = [active[0]]
    for index in active[1:]:
        linked = _link(main, trains, members, index, cadence, is_cut)
        links[index] = linked
        if linked.choice.is_clear:
            main = linked.triggers
            members.append(index)
        else:
            groups.append(([index], Triggers.of(trains[index], cadence)))
    groups.insert(0, (members, main))
    decoded = {
        number: decode_states(group, tuple(trains[index] for index in who), cadence, physics)
        for number, (who, group) in enumerate(groups)
    }
    return _assemble(cameras, trains, cadence, groups, links, decoded, physics)


def _link(
    main: Triggers, trains: tuple[Train, ...], members: list[int], index: int, cadence: Cadence,
    is_cut: tuple[bool, bool],
) -> Linked:  # fmt: skip
    train = trains[index]
    lost = trains[members[0]].lost if len(members) == 1 else np.zeros(len(main.time_us), np.int64)
    reference = Side(main.time_us, main.is_late, lost)
    is_late = late_frames(train.time_us, cadence)
    start = None
    if train.count and len(reference.time_us):
        start = seed(reference.time_us, train.time_us, cadence)
    if start is None:
        path = OffsetPath(np.zeros(1), np.zeros(1))
        side = Side(train.time_us, is_late, train.lost)
        blank = Alignment.blank(reference, side)
        return Linked(
            main.joined(side, blank, cadence), blank, path, 0.0, Choice.nothing_in_common()
        )
    path = track(reference.time_us, train.time_us, *start, cadence)
    path, side, found = _aligned(reference, train, is_late, path, cadence)
    choice = choose(reference, side, found, path, cadence, _loss(reference, found), is_cut)
    if choice.lag and choice.is_clear:
        path = path.shifted(choice.shift_us)
        path, side, found = _aligned(reference, train, is_late, path, cadence)
    residual = _pairs(reference, side, found)[1]
    sigma_us = _MAD * float(np.median(np.abs(residual))) if len(residual) else 0.0
    return Linked(main.joined(side, found, cadence), found, path, sigma_us, choice)


def _aligned(
    reference: Side, train: Train, is_late: Bools, path: OffsetPath, cadence: Cadence
) -> tuple[OffsetPath, Side, Alignment]:
    """Align, and draw the path through the pairs; again, so that the pairs are of that path."""
    loss = 1e-3
    for turn in range(_ROUNDS):
        time_us = train.time_us - path.at(train.time_us)
        # A step of the offset must not turn the order round.
        side = Side(np.maximum.accumulate(time_us), is_late, train.lost)
        near_us = NEAR * cadence.period_us
        if turn:  # the path is good now: what is off it by more is not on time
            near_us = min(near_us, 6.0 * np.sqrt(2.0) * cadence.sigma_us + 10.0)
        found = align(reference, side, cadence, loss, near_us)
        if turn == _ROUNDS - 1:
            break
        when, residual = _pairs(reference, side, found)
        path = refine(when, residual, path, np.sqrt(2.0) * cadence.sigma_us)
        loss = _loss(reference, found)
    return path, side, found


def _pairs(reference: Side, side: Side, found: Alignment) -> tuple[Floats, Floats]:
    paired = np.flatnonzero((found.partner >= 0) & ~side.is_late)
    partner = found.partner[paired]
    paired = paired[~reference.is_late[partner]]
    when = reference.time_us[found.partner[paired]]
    return when, side.time_us[paired] - when


def _loss(reference: Side, found: Alignment) -> float:
    """Return the fraction of frames without partner, as far as both cameras were running."""
    paired = np.flatnonzero(found.partner >= 0)
    if len(paired) < 2:
        return 1e-2
    span = found.partner[paired[-1]] - found.partner[paired[0]] + 1
    other = paired[-1] - paired[0] + 1
    lost = (span - len(paired)) + (other - len(paired))
    return float(np.clip((lost + 1.0) / (span + other), 1e-4, 0.2))


def _assemble(
    cameras: Sequence[CameraFrames], trains: tuple[Train, ...], cadence: Cadence,
    groups: list[tuple[list[int], Triggers]], links: dict[int, Linked],
    decoded: dict[int, tuple[Decoded, Cadence]], physics: Physics,
) -> RunSolution:  # fmt: skip
    """Put the answers into arrays of the cameras' own frames."""
    out = _Arrays(cameras)
    found = Found(cameras, trains, cadence, physics)
    for number, (who, triggers) in enumerate(groups):
        states, own = decoded[number]
        found.groups.append((who, triggers, states, own))
        running = [recorded(trains[index], triggers, place) for place, index in enumerate(who)]
        numbers = np.concatenate([[0], np.cumsum(states.steps)]).astype(np.int64)
        for place, index in enumerate(who):
            out.fill(index, trains[index], triggers, place, running, numbers, states, physics)
        found.running.append(running)
    for index, linked in links.items():
        out.link(index, trains, linked)
        found.links[index] = (linked.path, linked.sigma_us, linked.choice)
    out.repeat(trains)
    return out.solution(report(found, out.reason, out.state))


def recorded(train: Train, triggers: Triggers, place: int) -> Bools:
    """Return at which triggers a camera was recorded: not before, after, or in long silence."""
    where = triggers.where[place]
    used = where[where >= 0]
    running = np.zeros(len(triggers.time_us), np.bool_)
    if not len(used):
        return running
    running[used[0] : used[-1] + 1] = True
    wait = np.diff(train.time_us)
    mean = float(np.median(wait)) if len(wait) else 0.0
    silent = (wait > max(3e6, 20.0 * mean)) & (train.lost[1:] < 0.5 * wait / max(mean, 1.0))
    for index in np.flatnonzero(silent).tolist():
        if where[index] >= 0 and where[index + 1] >= 0:
            running[where[index] + 1 : where[index + 1]] = False
    return running


class _Arrays:
    """The arrays of a solution while they are filled."""

    def __init__(self, cameras: Sequence[CameraFrames]) -> None:
        sizes = [len(camera.acquired_ns) for camera in cameras]
        self.trigger: list[Ints] = [np.full(size, -1, np.int64) for size in sizes]
        self.reason = [np.full(size, Reason.UNMATCHED, np.uint8) for size in sizes]
        self.confidence = [np.ones(size, np.float32) for size in sizes]
        self.offset: list[Ints] = [np.zeros(size, np.int64) for size in sizes]
        self.state = [np.zeros(size, np.int8) for size in sizes]
        self.sure = [np.zeros(size, np.float32) for size in sizes]

    def fill(
        self, index: int, train: Train, triggers: Triggers, place: int, running: list[Bools],
        numbers: Ints, states: Decoded, physics: Physics,
    ) -> None:  # fmt: skip
        """Fill in one camera from its group."""
        where = triggers.where[place]
        known = where >= 0
        at = where[known]
        kept = train.kept[known]
        self.trigger[index][kept] = numbers[at]
        recording = np.sum(running, axis=0)[at]
        seen = triggers.seen[at]
        reason = np.where(seen >= np.maximum(recording, 2), Reason.PAIRED, Reason.UNMATCHED)
        reason = np.where(recording <= 1, np.where(seen > 1, reason, Reason.ALONE), reason)
        self.reason[index][kept] = reason.astype(np.uint8)
        self.reason[index][train.kept[~known]] = Reason.AMBIGUOUS
        self.confidence[index][train.kept[~known]] = 0.5
        if physics.half_width_ns is not None:
            low = states.low[at]
            sure = np.maximum(low, 1.0 - low)
            state = np.where(low > 0.5, -1, 1).astype(np.int8)
            self.state[index][kept] = np.where(sure >= CLEAR, state, 0).astype(np.int8)
            self.sure[index][kept] = sure
            self.sure[index][train.kept[~known]] = 0.5

    def link(self, index: int, trains: tuple[Train, ...], linked: Linked) -> None:
        """Fill in what is known of one camera against those before it."""
        train = trains[index]
        self.offset[index][train.kept] = np.round(linked.path.at(train.time_us) * US).astype(
            np.int64
        )
        chance = linked.choice.probability
        if linked.choice.is_clear:
            self.confidence[index][train.kept] = linked.alignment.confidence * chance
            if index == 1 and len(linked.alignment.reference_confidence) == trains[0].count:
                self.confidence[0][trains[0].kept] = linked.alignment.reference_confidence * chance
            return
        first_us, last_us = linked.choice.common_us
        for camera in (index, 0):
            times = trains[camera].time_us
            kept = trains[camera].kept[(times >= first_us) & (times <= last_us)]
            if camera == 0 and np.any(self.reason[0][kept] == Reason.PAIRED):
                continue  # with a third camera it is clear
            self.reason[camera][kept] = Reason.AMBIGUOUS
            self.confidence[camera][kept] = chance
            self.trigger[camera][kept] = -1
        if self.trigger[index].size:
            self.trigger[index][:] = -1

    def repeat(self, trains: tuple[Train, ...]) -> None:
        """Give second records of a frame the state of the first; they have no partner."""
        for index, train in enumerate(trains):
            size = len(self.state[index])
            if len(train.kept) == size or not len(train.kept):
                continue
            again = np.setdiff1d(np.arange(size), train.kept)
            first = train.kept[np.maximum(np.searchsorted(train.kept, again) - 1, 0)]
            self.state[index][again] = self.state[index][first]
            self.sure[index][again] = self.sure[index][first]
            self.offset[index][again] = self.offset[index][first]

    def solution(self, found: dict[str, object]) -> RunSolution:
        """Return the solution."""
        confidence: tuple[npt.NDArray[np.float32], ...] = tuple(self.confidence)
        return RunSolution(
            tuple(self.trigger), tuple(self.reason), confidence, tuple(self.offset),
            tuple(self.state), tuple(self.sure), found,
        )  # fmt: skip
