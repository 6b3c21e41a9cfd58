# SPDX-License-Identifier: BSD-3-Clause
"""A manual clock that knows whether somebody sleeps: only then does moving it wake who is meant."""

from __future__ import annotations

import threading

from nightjar.clock import ManualClock

_LIMIT_S = 15.0


class _Noting(threading.Condition):
    """Says when somebody waits on it: by then he knows until when."""

    def __init__(self) -> None:
        super().__init__()
        self.has_sleeper = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.has_sleeper.set()
        return super().wait(timeout)


class SleepersClock(ManualClock):
    """For one thread that sleeps and one that moves the clock."""

    def __init__(self) -> None:
        super().__init__()
        self._moved: _Noting = _Noting()

    def is_slept_on(self) -> bool:
        """Tell whether somebody has slept since this was last asked."""
        has_slept = self._moved.has_sleeper.is_set()
        self._moved.has_sleeper.clear()
        return has_slept

    def until_asleep(self) -> None:
        """Return when somebody sleeps on this clock, now."""
        self._moved.has_sleeper.clear()
        assert self._moved.has_sleeper.wait(_LIMIT_S), "nobody sleeps"
