# SPDX-License-Identifier: BSD-3-Clause
"""State of the modulator at every trigger, decoded from the intervals.

The state turns at every trigger, and the interval after a low one is longer by twice the half
width. So along triggers that are all seen one bit is unknown, and every interval is evidence for
it. The bit may only change where triggers are missing, or where the controller begins anew. This
is a hidden chain of two states; probabilities of all states are found by one pass forward and one
backward, in blocks that are worked on side by side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nightjard.archived.nights.sync.cadence import Cadence
from nightjard.archived.nights.sync.model import Bools, Floats, Ints, Places

# Odds of what may happen between two triggers, before the time is looked at.
_LOSS = 3e-3
_PAUSE, _PAUSE_US = 1e-3, 5e3  # serial commands: up to 3 ms
_RESTART, _GAP_US = 1e-3, 10e6
_MOST_UNSEEN = 25  # longer losses that no counter shows are gaps of the trigger
_RESTART_LOW = 0.9  # the rest: its first triggers are missing
_FLOOR = 1e-4  # what is nothing of all this says nothing
_SPIKE = 1e-6  # per us: one frame of 1000 is late by up to 1 ms
_LONG_US = 50e3
# Noise of neighbouring intervals is opposite: an interval is worth half of what it seems.
_TEMPER = 0.5
CLEAR = 0.998
LOW, HIGH = 0, 1


@dataclass(frozen=True)
class Decoded:
    """States of triggers.

    Attributes
    ----------
    low : (n,)
        Probability that the modulator is low.
    steps : (n - 1,)
        Triggers from each to the next; more than one: some are missing.
    """

    low: Floats
    steps: Ints


def count_steps(span_us: Floats, at_least: Ints, cadence: Cadence) -> Ints:
    """Return how many triggers there are from each to the next.

    A time that is no whole number of intervals holds a pause, and no trigger more than is proven.
    """
    steps = at_least.copy()
    long = np.flatnonzero(span_us > 1.4 * cadence.mean_us * at_least + cadence.half_us)
    if not len(long):
        return steps
    span = span_us[long]
    likely = np.maximum(np.round(span / cadence.mean_us), at_least[long]).astype(np.int64)
    slack = np.abs(span - likely * cadence.mean_us)
    slack = np.where(likely % 2 == 1, np.abs(slack - cadence.half_us), slack)
    noise = 4.0 * cadence.interval_sigma_us + 4.0 * cadence.line_us * np.sqrt(likely)
    # A gap so long that any time would fit is a pause.
    fits = (
        (slack < noise)
        & (noise < 0.25 * cadence.mean_us)
        & (likely - at_least[long] <= _MOST_UNSEEN)
    )
    steps[long] = np.where(fits, likely, at_least[long])
    return steps


def decode(
    time_us: Floats, is_bad: Bools, at_least: Ints, cadence: Cadence, sigma_us: float
) -> Decoded:
    """Decode the states of triggers.

    Parameters
    ----------
    time_us, is_bad : (n,)
        When each trigger's frame came, and which of these times mean nothing.
    at_least : (n - 1,)
        Triggers from each to the next that are proven: 1, more where counters say so.
    sigma_us
        Noise of an interval.
    """
    count = len(time_us)
    number = np.concatenate([[0], np.cumsum(at_least)])
    good = np.flatnonzero(~is_bad)
    if len(good) < 2 or cadence.half_us <= 0:
        return Decoded(np.full(count, 0.5), at_least)
    proven = np.diff(number[good])
    span = np.diff(time_us[good])
    matrices, exact = _matrices(span, proven, cadence, sigma_us)
    low_good = _smooth(matrices)
    low = np.full(count, 0.5)
    low[good] = low_good
    _label_between(low, good, number, exact)
    steps = at_least.copy()
    direct = np.flatnonzero(np.diff(good) == 1)
    steps[good[direct]] = count_steps(span[direct], proven[direct], cadence)
    return Decoded(low, steps)


def log_evidence(
    time_us: Floats, is_bad: Bools, at_least: Ints, cadence: Cadence, sigma_us: float
) -> float:
    """Return how likely the times of a short run are with a cadence; arguments as for `decode`."""
    number = np.concatenate([[0], np.cumsum(at_least)])
    good = np.flatnonzero(~is_bad)
    if len(good) < 2:
        return 0.0
    matrices, _ = _matrices(np.diff(time_us[good]), np.diff(number[good]), cadence, sigma_us)
    low, high, total = 0.5, 0.5, 0.0
    for from_low, from_high in zip(matrices[LOW].T.tolist(), matrices[HIGH].T.tolist(),
                                   strict=True):  # fmt: skip
        low, high = (
            low * from_low[LOW] + high * from_high[LOW],
            low * from_low[HIGH] + high * from_high[HIGH],
        )
        size = max(low + high, 1e-300)
        low, high, total = low / size, high / size, total + float(np.log(size))
    return total


def _label_between(low: Floats, good: Places, number: Ints, exact: Floats) -> None:
    """Count the triggers between two good ones from the one before them.

    `exact` is the probability that no trigger is missing among them.
    """
    if not len(good):
        return
    bad = np.ones(len(low), np.bool_)
    bad[good] = False
    where = np.flatnonzero(bad)
    if not len(where):
        return
    after = np.searchsorted(good, where)
    before = np.clip(after - 1, 0, len(good) - 1)
    turned = (number[where] - number[good[before]]) % 2 == 1
    chance = np.where(turned, 1.0 - low[good[before]], low[good[before]])
    inside = (after > 0) & (after < len(good))
    sure = np.where(inside, exact[np.clip(after - 1, 0, len(exact) - 1)], 0.98)
    turned_first = (number[good[0]] - number[where]) % 2 == 1
    first = np.where(turned_first, 1.0 - low[good[0]], low[good[0]])
    chance = np.where(after == 0, first, chance)
    low[where] = 0.5 + (chance - 0.5) * sure


def _matrices(
    span: Floats, proven: Ints, cadence: Cadence, sigma_us: float
) -> tuple[Floats, Floats]:
    """Return the odds of each transition, (2, 2, n), and the chance that none is missing.

    First index: state before, second: state after; low is 0.
    """
    matrices = np.empty((2, 2, len(span)))
    exact = np.ones(len(span))
    long_us = cadence.period_us + 2.0 * cadence.half_us
    margin = 8.0 * sigma_us
    plain = (proven == 1) & (span > cadence.period_us - margin) & (span < long_us + margin)
    plain &= span < 1.6 * cadence.period_us + 2.0 * cadence.half_us
    _plain(matrices, np.flatnonzero(plain), span, cadence, sigma_us)
    rest = np.flatnonzero(~plain)
    if len(rest):
        _unusual(matrices, exact, rest, span[rest], proven[rest], cadence, sigma_us)
    return matrices, exact


def _density(off_us: Floats, sigma_us: Floats | float) -> Floats:
    """Return the density of a deviation: normal with tails that fall off slowly; 1/us."""
    ratio = np.abs(off_us) / sigma_us
    return np.asarray(np.exp(-np.minimum(_TEMPER * ratio**2 / 2, 1.5 * ratio)) / (2.5 * sigma_us))


def _plain(
    matrices: Floats, where: Places, span: Floats, cadence: Cadence, sigma_us: float
) -> None:
    """One interval, of an ordinary length: the state turns."""
    away = span[where] - cadence.period_us
    floor = max(_FLOOR / cadence.mean_us, _SPIKE)
    same = _LOSS**2 * floor
    matrices[LOW, HIGH, where] = _density(away - 2.0 * cadence.half_us, sigma_us) + floor
    matrices[HIGH, LOW, where] = _density(away, sigma_us) + floor
    matrices[LOW, LOW, where] = same
    matrices[HIGH, HIGH, where] = same


def _unusual(
    matrices: Floats, exact: Floats, where: Places, span: Floats, proven: Ints, cadence: Cadence,
    sigma_us: float,
) -> None:  # fmt: skip
    """Some triggers missing, a pause, a new beginning: all that may have happened, summed up."""
    found = np.zeros((2, 2, len(span)))
    nearest = np.round(span / cadence.mean_us).astype(np.int64)
    just = np.zeros(len(span))
    for steps in [proven] + [nearest + shift for shift in (-1, 0, 1)]:
        fresh = (steps > proven) if steps is not proven else np.ones(len(span), np.bool_)
        extra = np.maximum(steps - proven, 0)
        # Losses come in bursts: many are not much rarer than a few.
        prior = np.where(extra > 0, _LOSS / np.maximum(extra, 1) ** 1.5, 1.0) * fresh
        prior = np.where(extra > _MOST_UNSEEN, 1e-12, prior)
        sigma = np.sqrt(sigma_us**2 + steps * cadence.line_us**2 + (1e-5 * span) ** 2)
        for begin in (LOW, HIGH):
            longer = (steps + 1) // 2 if begin == LOW else steps // 2
            expected = steps * cadence.period_us + 2.0 * cadence.half_us * longer
            chance = prior * _density(span - expected, sigma)
            if steps is proven:
                paused = span - expected
                chance += (
                    (_PAUSE / _PAUSE_US)
                    * np.exp(-np.maximum(paused, 0) / _PAUSE_US)
                    * (paused > -3.0 * sigma)
                )
                just += chance
            odd = steps % 2 == 1
            end = np.where(odd, 1 - begin, begin)
            found[begin, LOW] += chance * (end == LOW)
            found[begin, HIGH] += chance * (end == HIGH)
    restart = np.where(span > _LONG_US + 2.0 * cadence.mean_us, _RESTART / _GAP_US, 0.0)
    found[:, LOW] += restart * _RESTART_LOW
    found[:, HIGH] += restart * (1.0 - _RESTART_LOW)
    just = just / np.maximum(found.sum(axis=(0, 1)), 1e-300)
    found += (_FLOOR / 100) / np.maximum(span, cadence.mean_us)
    matrices[:, :, where] = found
    exact[where] = np.clip(just, 0.0, 1.0)


def _smooth(matrices: Floats) -> Floats:
    """Return the probability of the low state at each of n + 1 triggers."""
    count = matrices.shape[2]
    length = max(1, round(np.sqrt(count)))
    blocks = -(-count // length)
    padded = np.zeros((2, 2, blocks * length))
    padded[:, :, :count] = matrices / np.maximum(matrices.max(axis=(0, 1)), 1e-300)
    padded[0, 0, count:] = padded[1, 1, count:] = 1.0
    # Steps run along the first axis, so that each works on one stretch of memory.
    chain = np.ascontiguousarray(padded.reshape(2, 2, blocks, length).transpose(3, 0, 1, 2))
    forward = _run(chain)
    backward = _run(chain.transpose(0, 2, 1, 3)[::-1, :, :, ::-1])
    # backward[i] belongs to the trigger i steps before the end of the padded chain.
    low, high = (
        np.concatenate([[0.5], forward[:, state, :].T.ravel()[:count]]) for state in (LOW, HIGH)
    )
    ahead = backward[::-1, :, ::-1]
    ahead_low, ahead_high = (
        np.concatenate([ahead[:, state, :].T.ravel(), [0.5]])[: count + 1] for state in (LOW, HIGH)
    )
    one, two = low * ahead_low, high * ahead_high
    return np.asarray(one / np.maximum(one + two, 1e-300))


def _run(chain: Floats) -> Floats:
    """Return the state odds after each step, (length, 2, blocks), from even odds at the start."""
    length, _, _, blocks = chain.shape
    # What each block does to both states, then what reaches each block.
    whole = np.zeros((2, 2, blocks))
    whole[0, 0] = whole[1, 1] = 1.0
    for step in chain:
        whole = _times(whole, step)
    start = np.empty((2, blocks))
    odds = np.array([0.5, 0.5])
    for block in range(blocks):
        start[:, block] = odds
        odds = odds @ whole[:, :, block]
        odds = odds / max(float(odds.sum()), 1e-300)
    found = np.empty((length, 2, blocks))
    low, high = start
    for index, step in enumerate(chain):
        new_low = low * step[0, 0] + high * step[1, 0]
        new_high = low * step[0, 1] + high * step[1, 1]
        total = np.maximum(new_low + new_high, 1e-300)
        low, high = new_low / total, new_high / total
        found[index, 0] = low
        found[index, 1] = high
    return found


def _times(left: Floats, right: Floats) -> Floats:
    product = np.empty_like(left)
    product[0, 0] = left[0, 0] * right[0, 0] + left[0, 1] * right[1, 0]
    product[0, 1] = left[0, 0] * right[0, 1] + left[0, 1] * right[1, 1]
    product[1, 0] = left[1, 0] * right[0, 0] + left[1, 1] * right[1, 0]
    product[1, 1] = left[1, 0] * right[0, 1] + left[1, 1] * right[1, 1]
    return np.asarray(product / np.maximum(product.max(axis=(0, 1)), 1e-300))
