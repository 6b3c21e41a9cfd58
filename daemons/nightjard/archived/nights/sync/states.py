# SPDX-License-Identifier: BSD-3-Clause
"""States of the modulator along a run's triggers, and the period that they are decoded with."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from nightjard.archived.nights.sync.cadence import (
    MOST_FEW,
    Cadence,
    Train,
    crowds,
    is_nominal,
    late_frames,
    measure,
)
from nightjard.archived.nights.sync.model import Bools, Floats, Ints, Physics
from nightjard.archived.nights.sync.modulator import (
    CLEAR,
    Decoded,
    count_steps,
    decode,
    log_evidence,
)
from nightjard.archived.nights.sync.triggers import Triggers

_ROUNDS = 2
# Overhead of the controller that the header knows nothing of: mostly small.
_NEAR_SHARE, _NEAR_US, _FAR_US = 0.99, 50.0, 6000.0
_NOMINAL_US = 100.0
_USUAL = 0.7
_REACH = 14.0  # natural logarithm: less likely periods do not count


def decode_states(
    triggers: Triggers, trains: tuple[Train, ...], cadence: Cadence, physics: Physics
) -> tuple[Decoded, Cadence]:
    """Decode a group's states with the cadence that its triggers show.

    Parameters
    ----------
    triggers, trains
        The group's triggers, and the cameras they were seen by.
    cadence
        Of all cameras' frames.
    physics
        What the headers say.

    Returns
    -------
    Decoded, Cadence
        States, and the cadence that they were decoded with.
    """
    proven = triggers.proven_steps(trains)
    known = np.concatenate([[0], proven - 1])
    own = measure((Train(np.arange(len(triggers.time_us)), triggers.time_us, known),), physics)
    is_few = len(triggers.time_us) <= MOST_FEW
    if is_few:  # the noise that many frames show is known better than that of few triggers
        least_us = cadence.sigma_us / float(np.sqrt(len(trains)))
        own = replace(own, sigma_us=max(own.sigma_us, least_us))
    is_late = triggers.is_late | late_frames(triggers.time_us, own)
    if own.half_us <= 0:
        steps = count_steps(np.diff(triggers.time_us), proven, own)
        return Decoded(np.full(len(triggers.time_us), 0.5), steps), own
    # Of few intervals the noise is not well known.
    sigma_us = own.interval_sigma_us * min(1.0 + 6.0 / max(len(triggers.time_us), 1), 2.0)
    for _ in range(_ROUNDS + 1):
        found = decode(triggers.time_us, is_late, proven, own, sigma_us)
        fit = _fit(triggers.time_us, is_late, found, own)
        if fit is None:
            break
        moved = fit.mean_us - own.mean_us
        own = replace(own, fitted_half_us=fit.half_us)
        if abs(moved) < 4.0 * own.interval_sigma_us / np.sqrt(fit.count) + 5.0:
            break
        # A wrong period would have taken one state for the other.
        own = replace(own, period_us=max(own.period_us + moved, 0.5 * own.period_us))
    if is_few:
        found, own = _among_periods(triggers.time_us, is_late, proven, found, own, physics)
        is_late = late_frames(triggers.time_us, own)
    if _contradicts(triggers.time_us, is_late, found, own) or (
        is_few and _is_invented(triggers.time_us, own, physics)
    ):
        found = Decoded(np.full(len(triggers.time_us), 0.5), found.steps)
    return found, own


@dataclass(frozen=True)
class _Fit:
    """Intervals after low and after high states: half their difference, mean, number."""

    half_us: float
    mean_us: float
    count: int


def _plain(time_us: Floats, is_late: Bools, found: Decoded) -> Bools:
    """Return which intervals are from a frame that is on time to the very next."""
    return np.asarray(~is_late[1:] & ~is_late[:-1] & (found.steps == 1))


def _fit(time_us: Floats, is_late: Bools, found: Decoded, cadence: Cadence) -> _Fit | None:
    span = np.diff(time_us)
    plain = _plain(time_us, is_late, found)
    limit = cadence.half_us + 8.0 * cadence.interval_sigma_us + 0.1 * cadence.mean_us
    plain &= np.abs(span - cadence.mean_us) < limit
    low = span[plain & (found.low[:-1] > CLEAR)]
    high = span[plain & (found.low[:-1] < 1.0 - CLEAR)]
    count = min(len(low), len(high))
    if count < 4:
        return None
    one, two = float(np.median(low)), float(np.median(high))
    return _Fit((one - two) / 2, (one + two) / 2, count)


def _contradicts(time_us: Floats, is_late: Bools, found: Decoded, cadence: Cadence) -> bool:
    """Return whether most intervals are neither the shorter nor the longer: no label is safe."""
    off = np.abs(np.diff(time_us)[_plain(time_us, is_late, found)] - cadence.period_us)
    if not len(off):
        return False
    off = np.minimum(off, np.abs(off - 2.0 * cadence.half_us))
    return float(np.median(off)) > 3.0 * cadence.interval_sigma_us + 10.0


def _is_invented(time_us: Floats, cadence: Cadence, physics: Physics) -> bool:
    """Return whether a period that is not the header's explains too few of a short run's intervals.

    Pauses of the trigger that happen to be alike would give such a one.
    """
    if abs(cadence.period_us - physics.period_us) < _NOMINAL_US:
        return False
    off = np.diff(time_us) - cadence.period_us
    limit = 3.0 * cadence.interval_sigma_us + 10.0
    is_short, is_long = np.abs(off) < limit, np.abs(off - 2.0 * cadence.half_us) < limit
    usual = float((is_short | is_long).mean()) if len(off) else 0.0
    return bool(usual < _USUAL or min(is_short.sum(), is_long.sum()) < 2)


def _among_periods(
    time_us: Floats, is_late: Bools, proven: Ints, found: Decoded, own: Cadence, physics: Physics
) -> tuple[Decoded, Cadence]:
    """Weigh the states of a short run over the periods that it may have.

    Among few intervals pauses may be as many as intervals that are none. A period that is wrong
    by the width of the modulation takes one state for the other.
    """
    sigma_us = own.interval_sigma_us * min(1.0 + 6.0 / max(len(time_us), 1), 2.0)
    rivals = [own.period_us, physics.period_us]
    rivals += [own.period_us + shift * own.half_us for shift in (-2.0, -1.0, 1.0, 2.0)]
    rivals += crowds(
        np.diff(time_us) / proven, own.half_us, physics.period_us, physics.line_sigma_us
    )
    tried: list[tuple[float, Cadence]] = []
    nothing = np.zeros(len(time_us), np.bool_)
    for period_us in rivals:
        near = 0.3 * sigma_us
        if period_us < 0.3 * physics.period_us or any(
            abs(each.period_us - period_us) < near for _, each in tried
        ):
            continue
        rival = replace(own, period_us=period_us)
        # All are judged by the same intervals: which of them are late they do not agree upon.
        weight = log_evidence(time_us, nothing, proven, rival, sigma_us)
        tried.append((weight + _log_prior(period_us - physics.period_us), rival))
    tried.sort(key=lambda item: -item[0])
    likely = [item for item in tried if item[0] > tried[0][0] - _REACH]
    if len(likely) == 1 and likely[0][1].period_us == own.period_us:
        return found, own
    chance = np.exp([weight - tried[0][0] for weight, _ in likely])
    chance /= chance.sum()
    decoded = [
        found if rival.period_us == own.period_us
        else decode(time_us, late_frames(time_us, rival), proven, rival, sigma_us)
        for _, rival in likely
    ]  # fmt: skip
    low = np.sum([part * each.low for part, each in zip(chance, decoded, strict=True)], axis=0)
    best = likely[0][1]
    best = replace(best, is_nominal=is_nominal(best.mean_us, physics))
    return Decoded(np.asarray(low), decoded[0].steps), best


def _log_prior(overhead_us: float) -> float:
    near = _NEAR_SHARE / (2.0 * _NEAR_US) * np.exp(-abs(overhead_us) / _NEAR_US)
    return float(np.log(near + (1.0 - _NEAR_SHARE) / _FAR_US))
