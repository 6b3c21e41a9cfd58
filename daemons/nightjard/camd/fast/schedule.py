# SPDX-License-Identifier: BSD-3-Clause
"""When the frames of the simulated fast camera begin and can be fetched: pure arithmetic.

A free-running camera counts from its start on the monotonic clock; a triggered one follows the
trigger box in UTC. Nothing is added up, so nothing drifts.
"""

from __future__ import annotations

import random
from typing import NamedTuple, Protocol

from nightjard.camd.fast.trigger import TriggerBox

_TABLE = 8192
_PS = 1000


class Planned(NamedTuple):
    """A frame to come. Times are in the schedule's own clock, see :class:`Schedule`.

    Attributes
    ----------
    pulse
        Number of its trigger pulse; 0 when free running.
    flc
        A, B or "".
    missed
        Pulses before it that came too early.
    """

    start_ns: int
    ready_ns: int
    pulse: int = 0
    flc: str = ""
    missed: int = 0


class Schedule(Protocol):
    """The frames of a camera in order.

    Attributes
    ----------
    is_utc
        Whether its times are UTC; else monotonic.
    period_ns
        Mean distance of two frames.
    """

    is_utc: bool
    period_ns: int

    def next(self) -> Planned:
        """Return the next frame."""
        ...

    def skip_to(self, ready_ns: int) -> int:
        """Pass over frames that are ready before a time, most of them; return how many."""
        ...


class FreeRunning:
    """One frame each period, from `start_ns` on."""

    is_utc = False

    def __init__(self, start_ns: int, period_s: float, exposure_s: float, readout_s: float) -> None:
        self._start_ns = start_ns
        self._period_ps = round(period_s * 1e12)
        self._latency_ns = round((exposure_s + readout_s) * 1e9)
        self._index = 0
        self.period_ns = self._period_ps // _PS

    def next(self) -> Planned:
        """Return the next frame."""
        start_ns = self._start_ns + self._index * self._period_ps // _PS
        self._index += 1
        return Planned(start_ns, start_ns + self._latency_ns)

    def skip_to(self, ready_ns: int) -> int:
        """Pass over frames that are ready before a time; return how many."""
        wanted = (ready_ns - self._latency_ns - self._start_ns) * _PS // self._period_ps
        skipped = max(0, wanted - self._index)
        self._index += skipped
        return skipped


class Triggered:
    """One frame for each pulse that comes when the one before is read out.

    Parameters
    ----------
    box
        The pulses.
    now_ns
        UTC: pulses before are not seen.
    exposure_s, readout_s, line_s
        Timing; the exposure begins up to one line time after the pulse.
    seed
        Of that jitter: each camera's own.
    """

    is_utc = True

    def __init__(
        self, box: TriggerBox, now_ns: int, exposure_s: float, readout_s: float, line_s: float,
        seed: str,
    ) -> None:  # fmt: skip
        self._box = box
        self._pulse = box.first_after(now_ns)
        self._busy_ns = round((exposure_s + readout_s) * 1e9)
        draws = random.Random(seed)
        self._jitter = [draws.randint(0, round(line_s * 1e9)) for _ in range(_TABLE)]
        self._free_ns = now_ns
        self._takes_all = box.shortest_ns >= self._busy_ns + round(line_s * 1e9)
        self.period_ns = box.period_ns

    def next(self) -> Planned:
        """Return the next frame."""
        box, missed = self._box, 0
        while (at_ns := box.time_ns(self._pulse)) < self._free_ns:
            missed += 1
            self._pulse += 1
        pulse = self._pulse
        start_ns = at_ns + self._jitter[pulse % _TABLE]
        self._free_ns = start_ns + self._busy_ns
        self._pulse += 1
        return Planned(start_ns, self._free_ns, pulse, box.flc_state(pulse), missed)

    def skip_to(self, ready_ns: int) -> int:
        """Pass over frames that are ready before a time; none where pulses are missed."""
        if not self._takes_all:
            return 0  # which pulses count is known only one by one
        wanted = self._box.first_after(ready_ns - self._busy_ns) - 2
        skipped = max(0, wanted - self._pulse)
        self._pulse += skipped
        return skipped
