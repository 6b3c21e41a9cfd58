# SPDX-License-Identifier: BSD-3-Clause
"""A thread for each thing that may hang: a look at a folder on a dead mount never comes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Looker(Generic[Result]):
    """Does one thing again and again in a thread of its own, whenever it is asked.

    Parameters
    ----------
    name
        Of the thread.
    look
        Must not raise; may take for ever.

    Attributes
    ----------
    result
        Of the last look that came back; None before.
    """

    def __init__(self, name: str, look: Callable[[], Result]) -> None:
        self.result: Result | None = None
        self._look = look
        self._changed = threading.Condition()
        self._asked_s: float | None = None
        self._is_stopped = False
        # A daemon: one that hangs must not keep the program from ending.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def ask(self) -> None:
        """Begin a look, unless one is under way."""
        with self._changed:
            if self._asked_s is None:
                self._asked_s = time.monotonic()
                self._changed.notify_all()

    def wait(self, deadline_s: float) -> bool:
        """Return whether the look under way came back before a monotonic time."""
        with self._changed:
            while self._asked_s is not None:
                left = deadline_s - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
            return True

    @property
    def silence_s(self) -> float:
        """Seconds since the look under way began; 0 where there is none."""
        asked_s = self._asked_s
        return 0.0 if asked_s is None else time.monotonic() - asked_s

    def stop(self) -> None:
        """End the thread when its look comes back."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()

    def join(self, deadline_s: float) -> None:
        """Wait for the end of the thread until a monotonic time."""
        self._thread.join(max(0.0, deadline_s - time.monotonic()))

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._asked_s is None and not self._is_stopped:
                    self._changed.wait()
                if self._is_stopped:
                    return
            result = self._look()
            with self._changed:
                self.result = result
                self._asked_s = None
                self._changed.notify_all()
