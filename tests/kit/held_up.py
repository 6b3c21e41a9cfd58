# SPDX-License-Identifier: BSD-3-Clause
"""A process that is held up for a moment just where it has read the time."""

from __future__ import annotations

from nightjar.clock import ManualClock


class HeldUpClock(ManualClock):
    """A manual clock; who reads UTC from it goes on `held_up_s` later, every other time."""

    def __init__(self, held_up_s: float) -> None:
        super().__init__()
        self._held_up_s = held_up_s
        self._count = 0

    def now_ns(self) -> int:
        """Return the UTC before the process was held up."""
        now_ns = super().now_ns()
        self._count += 1
        if self._count % 2:
            self.advance(self._held_up_s)
        return now_ns
