# SPDX-License-Identifier: BSD-3-Clause
"""When samples were taken, and which slot of a minute is theirs.

The ADC counts samples by its own crystal; the host stamps the blocks as they come, each a little
late and never early. :class:`SampleClock` draws a smooth line through both. :class:`Slots` gives
each sample the slot whose nominal time is nearest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

NS_PER_S = 1_000_000_000
MINUTE_NS = 60 * NS_PER_S
LATE_S = 0.005
"""A stamp that is later than the line says by more than this, and by five sigma, says nothing."""
RESET_AFTER = 30
"""So many stamps off the line in a row are a new line: the counter and the clock disagree."""
SETTLED = 4
"""Stamps behind the first that a line needs."""
STEP_NS = 2_000_000
"""UTC against the monotonic clock moves by less unless somebody set the clock."""
BACK_LIMIT_NS = 2 * NS_PER_S
"""A clock that is set back by more is not followed while a recording runs."""
HYSTERESIS = 0.1
"""Part of a slot beyond the half that a sample may be off before slots move."""


class SampleClock:
    """The host's monotonic time of each sample: a line through (counter, stamp).

    A Kalman filter of two states, the time at the last counter and the period, with the noise of
    the stamps estimated from them. Stamps that come late by far are left out.

    Parameters
    ----------
    rate_hz
        Nominal; the real one is found within 500 ppm of it.
    """

    def __init__(self, rate_hz: float) -> None:
        self._nominal_ns = NS_PER_S / rate_hz
        self.late = 0
        """Stamps that were left out."""
        self.resets = 0
        """New lines because counter and clock disagreed."""
        self._epoch: int | None = None
        self._begin(0, 0)

    def _begin(self, counter: int, monotonic_ns: int) -> None:
        self._counter, self._base_ns = counter, monotonic_ns
        self._residual_ns = 0.0  # of the line at the counter, from the base
        self._period_ns = self._nominal_ns
        self._variance = 1e11  # of stamps, ns^2: 0.3 ms to begin with
        self._p00, self._p01 = 1e14, 0.0
        self._p11 = (self._nominal_ns * 5e-4) ** 2
        self._count = self._off = 0

    @property
    def period_ns(self) -> float:
        """Time from one sample to the next by the host's clock."""
        return self._period_ns

    @property
    def ppm(self) -> float:
        """How much slower the ADC's crystal is than the host's clock, parts per million."""
        return (self._period_ns / self._nominal_ns - 1) * 1e6

    @property
    def jitter_s(self) -> float:
        """Standard deviation of the stamps from the line."""
        return math.sqrt(self._variance) / NS_PER_S

    @property
    def error_s(self) -> float:
        """Standard error of the line, without what all stamps have in common."""
        return math.sqrt(self._p00) / NS_PER_S

    @property
    def is_settled(self) -> bool:
        """Whether enough stamps were seen to tell one sample from the next."""
        return self._count >= SETTLED

    def update(self, epoch: int, counter: int, monotonic_ns: int) -> bool:
        """Take the stamp of a sample; True where a new line was begun.

        Parameters
        ----------
        epoch
            Of the ADC; another one begins a new line.
        counter, monotonic_ns
            Of the last sample of a block.
        """
        if epoch != self._epoch:
            self._epoch = epoch
            self._begin(counter, monotonic_ns)
            return True
        steps = counter - self._counter
        # The crystal walks by about 1e-9 of itself in a second.
        walk = (1e-9 * self._period_ns) ** 2 * max(0.0, steps * self._period_ns / NS_PER_S)
        p00 = self._p00 + 2 * steps * self._p01 + steps * steps * self._p11
        p01 = self._p01 + steps * self._p11
        p11 = self._p11 + walk
        predicted = self._base_ns - monotonic_ns + self._residual_ns + steps * self._period_ns
        residual = -predicted  # of the stamp, ns
        limit = max(5 * math.sqrt(self._variance + p00), LATE_S * NS_PER_S)
        if abs(residual) > limit and self._count > 2:
            self.late += 1
            self._off += 1
            if self._off < RESET_AFTER:
                return False
            self.resets += 1
            self._begin(counter, monotonic_ns)
            return True
        self._off = 0
        self._count += 1
        if self._count > 3:
            weight = max(0.01, 1 / self._count)
            self._variance += weight * (residual * residual - self._variance)
        noise = self._variance + p00
        gain0, gain1 = p00 / noise, p01 / noise
        self._residual_ns = monotonic_ns - self._base_ns - residual + gain0 * residual
        self._base_ns, self._residual_ns = _moved(self._base_ns, self._residual_ns)
        self._period_ns += gain1 * residual
        self._counter = counter
        self._p00 = (1 - gain0) * p00
        self._p01 = (1 - gain0) * p01
        self._p11 = p11 - gain1 * p01
        return False

    def time_ns(self, counter: int) -> int:
        """Return the monotonic time of a sample, ns."""
        steps = counter - self._counter
        return self._base_ns + round(self._residual_ns + steps * self._period_ns)


def _moved(base_ns: int, residual_ns: float) -> tuple[int, float]:
    """Return the sum as whole nanoseconds and a small rest: floats lose them in a month."""
    whole = math.floor(residual_ns)
    return base_ns + whole, residual_ns - whole


@dataclass(frozen=True, slots=True)
class Step:
    """The host's clock was set."""

    utc_ns: int
    seconds: float
    is_followed: bool


class WallClock:
    """UTC minus monotonic time of the host, and when somebody set it.

    A clock that is set back by more than :data:`BACK_LIMIT_NS` is not followed: the samples until
    it has caught up would have no slot. The recording goes on by the time before, and says so.
    """

    def __init__(self) -> None:
        self.offset_ns: int | None = None
        self.held_ns = 0
        """By how much the host's clock is behind the one that is recorded by."""

    def update(self, utc_ns: int, monotonic_ns: int) -> Step | None:
        """Take both clocks of a moment; return the step between this and the last."""
        seen = utc_ns - monotonic_ns
        if self.offset_ns is None:
            self.offset_ns = seen
            return None
        change = seen + self.held_ns - self.offset_ns
        if abs(change) < STEP_NS:
            # Two readings are never of one moment: what is left is noise.
            self.offset_ns += change // 64
            return None
        total = seen - self.offset_ns
        is_followed = total > -BACK_LIMIT_NS
        if is_followed:
            self.offset_ns, self.held_ns = seen, 0
        else:
            self.held_ns = self.offset_ns - seen
        return Step(utc_ns, change / NS_PER_S, is_followed)

    def release(self) -> None:
        """Follow the host's clock again: no recording runs."""
        if self.held_ns:
            self.offset_ns, self.held_ns = None, 0


class Slots:
    """Which slot is a sample's: counted over all minutes since 1970.

    Slots follow the counter. They move by whole slots where a sample's time is off by more than
    half a slot and :data:`HYSTERESIS`: what is lost shifts nothing.

    Parameters
    ----------
    n_slots
        Of a minute.
    """

    def __init__(self, n_slots: int) -> None:
        self._n_slots = n_slots
        self._shift: int | None = None

    def number(self, counter: int, utc_ns: int) -> tuple[int, int]:
        """Return the slot of a sample, and by how many slots the counter's were moved for it.

        The first one, and one behind :meth:`forget`, moves nothing.
        """
        nearest = (utc_ns * self._n_slots + MINUTE_NS // 2) // MINUTE_NS
        if self._shift is None:
            self._shift = nearest - counter
            return nearest, 0
        slot = counter + self._shift
        nominal_ns = -(-slot * MINUTE_NS // self._n_slots)
        phase = (utc_ns - nominal_ns) * self._n_slots / MINUTE_NS
        if abs(phase) <= 0.5 + HYSTERESIS:
            return slot, 0
        moved = nearest - slot
        self._shift += moved
        return nearest, moved

    def forget(self) -> None:
        """Begin anew: the counter does."""
        self._shift = None
