# SPDX-License-Identifier: BSD-3-Clause
"""Frames of one camera laid on triggers whose times are known: probabilities of every order.

A frame is on time, or late by a spike, or kept back by a stall; never early. Triggers without a
frame are losses, for nothing where the counter proves them. All ways of laying the frames in order
are summed up (forward and backward), so that each placing has its probability.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from nightjard.archived.nights.sync.cadence import Cadence
from nightjard.archived.nights.sync.model import Bools, Floats, Ints, Places

MOST_SLOTS = 200
_SPIKE, _SPIKE_US = 1e-3, 800.0
_STALL, _STALL_US = 1e-4, 50e3
_CHAINED_US = 10e3
_STEPPED, _STEP_US = 2e-6, 800.0
_PAUSED, _PAUSE_US = 1e-6, 3e3
_QUEUED = 0.3  # of frames on either side of too short an interval
_AGAINST_COUNTER = 1e-6
_CLEAR = 0.995
_POSSIBLE = 0.005
_PHASE_CLEAR = 6.0  # natural logarithm


@dataclass(frozen=True)
class Slots:
    """Triggers between two anchors.

    Attributes
    ----------
    grid_us : (k,)
        When frames that are on time come.
    loss
        Fraction of frames that are lost unseen.
    is_open_head, is_open_tail
        The camera may have begun after the first, ended before the last of them.
    fuzz_us
        How far a trigger may be off the grid: the modulator moves every other one.
    """

    grid_us: Floats
    cadence: Cadence
    loss: float
    is_open_head: bool = False
    is_open_tail: bool = False
    fuzz_us: float = 0.0


@dataclass(frozen=True)
class Frames:
    """Frames of one camera between two anchors.

    Attributes
    ----------
    time_us, is_late, wait_us : (n,)
        When they came, whether they are known to be late, and the time since the frame before.
    lost : (n + 1,)
        Frames proven missing before each, and before the anchor that follows.
    """

    time_us: Floats
    is_late: Bools
    wait_us: Floats
    lost: Ints


@dataclass(frozen=True)
class Placed:
    """Where the frames belong.

    Attributes
    ----------
    slot : (n,)
        -1 where not clear.
    sure : (n,)
        Probability of that slot.
    maybe : (k + 1,)
        Slots that a frame without a clear slot may belong to; the last is always False.
    likelihood
        Natural logarithm, up to a constant of the frames.
    """

    slot: Places
    sure: Floats
    maybe: Bools
    likelihood: float


def grids(cadence: Cadence, number: Ints, end_us: float | None = None) -> list[Floats]:
    """Return when the triggers come after (before, for negative numbers) an anchor at time 0.

    Parameters
    ----------
    number : (k,)
        Of the triggers, counted from the anchor.
    end_us
        Time of the anchor that follows the last, if there is one: the grid is stretched to it.

    Returns
    -------
    list
        One grid, or one for each phase of the modulator.
    """
    found: list[Floats] = []
    for half_us in (cadence.half_us, -cadence.half_us) if cadence.half_us > 0 else (0.0,):
        turned = np.where(number % 2 == 1, np.sign(number) * half_us, 0.0)
        grid: Floats = np.asarray(number * cadence.mean_us + turned, np.float64)
        if end_us is not None:
            last = len(number) + 1
            whole_us = last * cadence.mean_us + (half_us if last % 2 == 1 else 0.0)
            grid = grid + (end_us - whole_us) * number / last
        found.append(grid)
    return found


def place_both(
    slots: Slots, candidates: list[Floats], first: Frames, second: Frames
) -> tuple[Slots, Placed, Placed]:
    """Lay two cameras' frames on the slots, in the modulator's phase if they show it."""
    tried = []
    for grid in candidates:
        task = replace(slots, grid_us=grid)
        tried.append((task, place(task, first), place(task, second)))
    tried.sort(key=lambda item: -(item[1].likelihood + item[2].likelihood))
    if len(tried) == 1:
        return tried[0]
    better, worse = (item[1].likelihood + item[2].likelihood for item in tried)
    if better - worse > _PHASE_CLEAR:
        return tried[0]
    middle = (candidates[0] + candidates[1]) / 2
    blurred = replace(slots, grid_us=middle, fuzz_us=slots.cadence.half_us)
    return blurred, place(blurred, first), place(blurred, second)


def place(slots: Slots, frames: Frames) -> Placed:
    """Lay one camera's frames, no more than there are slots, on the slots."""
    count, size = len(frames.time_us), len(slots.grid_us)
    maybe = np.zeros(size + 1, np.bool_)
    lost = frames.lost
    if not count:
        return Placed(np.zeros(0, np.intp), np.zeros(0), maybe, 0.0)
    weight = _weights(slots, frames)
    skips = np.arange(size)[None, :] - np.arange(size)[:, None] - 1  # from row to column
    begin = _gap(np.arange(size), int(lost[0]), slots.loss)
    end = _gap(size - 1 - np.arange(size), int(lost[-1]), slots.loss)
    if slots.is_open_head:
        begin = np.ones(size)
    if slots.is_open_tail:
        end = np.ones(size)
    steps = [_gap(skips, int(number), slots.loss) for number in lost[1:-1]]
    forward = np.zeros((count, size))
    backward = np.zeros((count, size))
    forward[0], likelihood = _normal(begin * weight[0])
    for index in range(1, count):
        forward[index], gain = _normal((forward[index - 1] @ steps[index - 1]) * weight[index])
        likelihood += gain
    backward[-1], gain = _normal(end)
    likelihood += float(np.log(max(float((forward[-1] * end).sum()), 1e-300)))
    for index in range(count - 2, -1, -1):
        backward[index], _ = _normal(steps[index] @ (backward[index + 1] * weight[index + 1]))
    chance = forward * backward
    total = chance.sum(axis=1, keepdims=True)
    chance = np.where(total > 0, chance / np.where(total > 0, total, 1.0), 1.0 / size)
    slot = chance.argmax(axis=1)
    sure = chance.max(axis=1)
    unclear = sure < _CLEAR
    maybe[:size] = (chance[unclear] > _POSSIBLE).any(axis=0)
    return Placed(np.where(unclear, -1, slot), sure, maybe, likelihood)


def _normal(values: Floats) -> tuple[Floats, float]:
    total = max(float(values.sum()), 1e-300)
    return values / total, float(np.log(total))


def _weights(slots: Slots, frames: Frames) -> Floats:
    """Return the density of each frame's time for each slot, (n, k), up to a factor per frame."""
    late = frames.time_us[:, None] - slots.grid_us[None, :]
    sigma = slots.cadence.sigma_us + slots.cadence.line_us + 3.0
    early = np.maximum(-late - slots.fuzz_us, 0.0) / sigma
    # Latency only adds: its tail is long on one side only.
    off = np.maximum(late - slots.fuzz_us, 0.0) / (1.5 * sigma)
    density = np.exp(-np.minimum(early**2 / 2, 600.0) - np.minimum(off, 600.0))
    density /= 2.5 * sigma + 2.0 * slots.fuzz_us
    after = late > -slots.fuzz_us - sigma
    lateness = np.maximum(late, 0.0)
    density += after * _SPIKE * np.exp(-np.minimum(lateness / _SPIKE_US, 600.0)) / _SPIKE_US
    # The first frame after a stall comes at any time, those that queued right behind it.
    is_queued = frames.wait_us < 0.3 * slots.cadence.period_us
    stall = np.where(frames.is_late, _QUEUED, _STALL) / _STALL_US
    stall = np.where(is_queued, _QUEUED / np.maximum(frames.wait_us, 10.0), stall)[:, None]
    # One stall may follow another; what has queued is as late as what it has queued behind.
    too_late = np.where(is_queued[:, None], 0.0, np.maximum(lateness - 1.2 * _STALL_US, 0.0))
    density += after * stall * np.exp(-np.minimum(too_late / _CHAINED_US, 600.0))
    # The offset may have stepped where nothing shows it yet.
    density += _STEPPED * (np.abs(late) < _STEP_US) / _STEP_US
    # A pause of the trigger puts the grid off.
    density += _PAUSED * np.exp(-np.minimum(np.abs(late) / _PAUSE_US, 600.0)) / _PAUSE_US
    return np.asarray(density + 1e-30)


def _gap(skipped: Ints, proven: int, loss: float) -> Floats:
    """Return the chance of losing `skipped` frames, `proven` of them by the counter."""
    unseen = skipped - proven
    chance = np.where(unseen >= 0, loss ** np.maximum(unseen, 0), _AGAINST_COUNTER)
    return np.where(skipped >= 0, chance, 0.0)
