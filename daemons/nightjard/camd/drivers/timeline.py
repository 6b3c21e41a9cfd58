# SPDX-License-Identifier: BSD-3-Clause
"""When a simulated exposure or stream is where: pure arithmetic of monotonic time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nightjard.camd.drivers.base import Settings


@dataclass(slots=True)
class Run:
    """A started exposure or stream.

    Attributes
    ----------
    mono0_ns
        Monotonic time of its first exposure's start.
    wall_ns
        UTC minus monotonic time.
    next_index
        Stream: the oldest frame not yet delivered or overwritten, from 0.
    slow_ns
        Extra read-out time of the frame in flight, by a fault.
    """

    settings: Settings
    readout_ns: int
    period_ns: int
    mono0_ns: int
    wall_ns: int
    temperature_c: float
    next_index: int = 0
    slow_ns: int = 0

    def ready_at(self, index: int) -> int:
        """Return the monotonic time at which a frame is in the camera's memory."""
        first = self.mono0_ns + self.settings.exposure_ns + self.readout_ns
        return first + index * self.period_ns

    def complete(self, now_ns: int) -> int:
        """Return how many frames have been read out."""
        first = self.ready_at(0)
        if now_ns < first:
            return 0
        return (now_ns - first) // self.period_ns + 1 if self.settings.stream else 1

    def is_ready(self, now_ns: int) -> bool:
        """Tell whether a frame waits to be fetched."""
        if self.complete(now_ns) <= self.next_index:
            return False
        return now_ns >= self.ready_at(self.next_index) + self.slow_ns

    def oldest(self, now_ns: int, memory_frames: int) -> int:
        """Return the index of the oldest frame that the camera's memory still holds."""
        return max(self.next_index, self.complete(now_ns) - memory_frames)

    def elapsed_ns(self, now_ns: int) -> int:
        """Return the time since the start of the exposure, in a stream of the present one."""
        elapsed = now_ns - self.mono0_ns
        if self.settings.stream and self.complete(now_ns) <= self.next_index:
            elapsed %= self.period_ns
        return elapsed
