# SPDX-License-Identifier: BSD-3-Clause
"""The host's clock beside the monotonic one: its steps, and on which side of them a stamp lies."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from nightjar.clock import NS_PER_S, Clock, together_ns

_STEP_NS = 50_000_000
_KEPT = 16  # steps that a frame may be older than


@dataclass(slots=True)
class _Epoch:
    """A time without steps, in which UTC = monotonic + offset."""

    offset_ns: int
    since_ns: int  # monotonic; the last look before it
    until_ns: int  # the first look after it, or the last one so far


class HostClock:
    """Places stamps of the host's clock on the monotonic one, although somebody may step it.

    A step is noticed when the next frame is looked at; until then frames carry stamps of either
    side of it. On the wrong side a stamp would lie in the future, before the step or before a
    frame that was taken earlier, and that tells them apart.

    Parameters
    ----------
    clock
        System clock, or a test's.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._epochs: deque[_Epoch] = deque(maxlen=_KEPT)
        offset_ns, now_ns = self._read()
        self._epochs.append(_Epoch(offset_ns, now_ns, now_ns))

    def _read(self) -> tuple[int, int]:
        """Return the offset and when that was."""
        utc_ns, now_ns = together_ns(self._clock)
        return utc_ns - now_ns, now_ns

    def look(self) -> float:
        """Return by how much it was stepped since the last look, in s; 0 where it was not.

        What the clock is slewed by is no step and is followed.
        """
        present = self._epochs[-1]
        offset_ns, now_ns = self._read()
        step_ns = offset_ns - present.offset_ns
        if abs(step_ns) <= _STEP_NS:
            present.offset_ns, present.until_ns = offset_ns, now_ns
            return 0.0
        self._epochs.append(_Epoch(offset_ns, present.until_ns, now_ns))
        present.until_ns = now_ns
        return step_ns / NS_PER_S

    def monotonic_ns(self, utc_ns: int, not_before_ns: int | None = None) -> int | None:
        """Return the monotonic time of a stamp taken before the last look.

        None where no side of the steps can have given it, or more than one. Without a step every
        stamp is placed: that of a camera with a clock of its own may lie somewhat in the future.

        Parameters
        ----------
        utc_ns
            The stamp.
        not_before_ns
            Monotonic time of something that was earlier.
        """
        if len(self._epochs) == 1:
            return utc_ns - self._epochs[0].offset_ns
        found = []
        for epoch in self._epochs:
            time_ns = utc_ns - epoch.offset_ns
            first_ns = max(epoch.since_ns, not_before_ns or epoch.since_ns)
            if first_ns - _STEP_NS <= time_ns <= epoch.until_ns + _STEP_NS:
                found.append(time_ns)
        return found[0] if len(found) == 1 else None
