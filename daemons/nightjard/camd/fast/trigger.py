# SPDX-License-Identifier: BSD-3-Clause
"""The trigger box that two cameras share, and what the FLC makes of its intervals.

Pulse k comes at a time that is a function of rate, seed and k alone, counted from the year 2020, so
two camera processes see the same pulses with the same numbers without talking to each other.

With the FLC on, a loop is two exposures: low, then high. The box waits for the half width of its
jitter before it drives the FLC high and again before it drives it low, so the interval from a low
pulse to the high one after it is longer by twice the half width than that from high to low; nothing
else tells the state. At pulse 0, and every even one, the FLC is low (state B); it is driven high
(state A) at the odd ones.
"""

from __future__ import annotations

import random

EPOCH_NS = 1_577_836_800_000_000_000  # 2020-01-01T00:00:00 UTC
_TABLE = 8192


class TriggerBox:
    """A train of pulses without end.

    Attributes
    ----------
    period_ns, shortest_ns
        Mean and least interval.
    has_flc
        Whether the FLC is modulated.

    Parameters
    ----------
    rate_hz
        Mean rate; taken to 1 uHz.
    seed
        Of the jitter.
    jitter_ns
        Largest random delay of a pulse.
    half_width_ns
        Half width of the FLC's jitter; None without FLC.
    """

    def __init__(
        self, rate_hz: float, seed: int, jitter_ns: int, half_width_ns: int | None = None
    ) -> None:
        self._rate_uhz = max(1, round(rate_hz * 1e6))
        self._half_width_ns = half_width_ns or 0
        self.has_flc = half_width_ns is not None
        self.period_ns = 10**15 // self._rate_uhz
        self.shortest_ns = self.period_ns - self._half_width_ns - jitter_ns
        draws = random.Random(f"trigger {seed}")
        self._jitter = [draws.randint(0, jitter_ns) for _ in range(_TABLE)]

    def time_ns(self, pulse: int) -> int:
        """Return the UTC of a pulse."""
        # high comes half a width late, so that low to high - high to low = two half widths.
        late = self._half_width_ns if pulse & 1 else 0
        return (
            EPOCH_NS + pulse * 10**15 // self._rate_uhz + late + self._jitter[pulse % _TABLE]
        )

    def first_after(self, utc_ns: int) -> int:
        """Return the number of the first pulse at or after a time."""
        pulse = max(0, (utc_ns - EPOCH_NS) * self._rate_uhz // 10**15 - 2)
        while self.time_ns(pulse) < utc_ns:
            pulse += 1
        return pulse

    def flc_state(self, pulse: int) -> str:
        """Return A (driven high), B (low), or "" without FLC."""
        if not self.has_flc:
            return ""
        return "A" if pulse & 1 else "B"
