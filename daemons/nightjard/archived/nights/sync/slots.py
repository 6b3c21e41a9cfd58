# SPDX-License-Identifier: BSD-3-Clause
"""Frames of one camera laid on triggers whose times are known: probabilities of every order.

A frame is on time, or late by a spike, or kept back by a stall; never early. Triggers without a
frame are losses, for nothing where the counter proves them. All ways of laying the frames in order
are summed up (forward and backward), so that each placing has its probability.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nightjard.archived.nights.sync.cadence import Cadence
from nightjard.archived.nights.sync.model import Bools, Floats, Ints, Places

MOST_SLOTS = 200
_SPIKE, _SPIKE_US = 1e-3, 800.0
_STALL, _STALL_US = 1e-4, 50e3
_QUEUED = 0.3  # of frames on either side of too short an interval
_AGAINST_COUNTER = 1e-6
_CLEAR = 0.98
_POSSIBLE = 0.02


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
    """

    grid_us: Floats
    cadence: Cadence
    loss: float
    is_open_head: bool = False
    is_open_tail: bool = False


def place(
    slots: Slots, time_us: Floats, is_late: Bools, lost: Ints
) -> tuple[Places, Floats, Bools]:
    """Lay frames on the slots.

    Parameters
    ----------
    time_us, is_late : (n,)
        Of the frames, n <= k.
    lost : (n + 1,)
        Frames proven missing before each, and before the anchor that follows.

    Returns
    -------
    slot : (n,)
        -1 where not clear.
    sure : (n,)
        Probability of that slot.
    maybe : (k + 1,)
        Slots that a frame without a clear slot may belong to; the last is always False.
    """
    count, size = len(time_us), len(slots.grid_us)
    maybe = np.zeros(size + 1, np.bool_)
    if not count:
        return np.zeros(0, np.intp), np.zeros(0), maybe
    weight = _weights(slots, time_us, is_late)
    skips = np.arange(size)[None, :] - np.arange(size)[:, None] - 1  # from row to column
    forward = np.zeros((count, size))
    backward = np.zeros((count, size))
    begin = _gap(np.arange(size), 0 if slots.is_open_head else int(lost[0]), slots.loss)
    end = _gap(size - 1 - np.arange(size), 0 if slots.is_open_tail else int(lost[-1]), slots.loss)
    if slots.is_open_head:
        begin = np.ones(size)
    if slots.is_open_tail:
        end = np.ones(size)
    steps = [_gap(skips, int(number), slots.loss) for number in lost[1:-1]]
    forward[0] = _normal(begin * weight[0])
    for index in range(1, count):
        forward[index] = _normal((forward[index - 1] @ steps[index - 1]) * weight[index])
    backward[-1] = _normal(end)
    for index in range(count - 2, -1, -1):
        backward[index] = _normal(steps[index] @ (backward[index + 1] * weight[index + 1]))
    chance = forward * backward
    total = chance.sum(axis=1, keepdims=True)
    chance = np.where(total > 0, chance / np.where(total > 0, total, 1.0), 1.0 / size)
    slot = chance.argmax(axis=1)
    sure = chance.max(axis=1)
    unclear = sure < _CLEAR
    maybe[:size] = (chance[unclear] > _POSSIBLE).any(axis=0)
    return np.where(unclear, -1, slot), sure, maybe


def _normal(values: Floats) -> Floats:
    total = float(values.sum())
    return values / total if total > 0 else values


def _weights(slots: Slots, time_us: Floats, is_late: Bools) -> Floats:
    """Return the density of each frame's time for each slot, (n, k), up to a factor per frame."""
    late = time_us[:, None] - slots.grid_us[None, :]
    sigma = 1.5 * slots.cadence.sigma_us + 3.0
    # The modulator moves every other trigger by its half width against an even grid.
    off = np.maximum(np.abs(late) - 1.0 * slots.cadence.half_us, 0.0) / sigma
    density = np.exp(-np.minimum(off, 600.0)) / (2.0 * (sigma + slots.cadence.half_us))
    after = late > -slots.cadence.half_us - sigma
    lateness = np.maximum(late, 0.0)
    density += after * _SPIKE * np.exp(-np.minimum(lateness / _SPIKE_US, 600.0)) / _SPIKE_US
    stall = np.where(is_late, _QUEUED, _STALL)[:, None] / _STALL_US
    density += after * (lateness < 1.2 * _STALL_US) * stall
    return np.asarray(density + 1e-30)


def _gap(skipped: Ints, proven: int, loss: float) -> Floats:
    """Return the chance of losing `skipped` frames, `proven` of them by the counter."""
    unseen = skipped - proven
    chance = np.where(unseen >= 0, loss ** np.maximum(unseen, 0), _AGAINST_COUNTER)
    return np.where(skipped >= 0, chance, 0.0)
