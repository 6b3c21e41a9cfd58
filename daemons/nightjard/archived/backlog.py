# SPDX-License-Identifier: BSD-3-Clause
"""The frames that wait for a worker: which is next, which pauses, whether all of them do."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from nightjar.clock import NS_PER_S, Clock
from nightjard.archived.tables import Frame

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0


@dataclass
class _Waiting:
    frame: Frame
    due_ns: int = 0
    failures: int = 0
    is_taken: bool = False


class Backlog:
    """Thread-safe; held in memory, made anew from the database at start."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: dict[int, _Waiting] = {}  # ids grow, so it is in order of acceptance
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._blocked_until_ns: int | None = None
        self._blocks = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def is_blocked(self) -> bool:
        """Whether the storage takes no frame."""
        return self._blocks > 0

    @property
    def is_working(self) -> bool:
        """Whether a frame is due or in hand."""
        with self._lock:
            return any(waiting.failures == 0 for waiting in self._waiting.values())

    def add(self, frame: Frame) -> None:
        """Add a frame, due now; one that is there already stays as it is."""
        with self._lock:
            self._waiting.setdefault(frame.id, _Waiting(frame))
        self._wake.set()

    def take(self) -> Frame | None:
        """Return the oldest frame that is due and that nobody has; None where there is none."""
        now_ns = self._clock.monotonic_ns()
        with self._lock:
            if self._blocked_until_ns is not None:
                if now_ns < self._blocked_until_ns:
                    return None
                # One frame finds out; the others wait a little longer.
                self._blocked_until_ns = now_ns + int(FIRST_PAUSE_S * NS_PER_S)
            for waiting in self._waiting.values():
                if not waiting.is_taken and waiting.due_ns <= now_ns:
                    waiting.is_taken = True
                    return waiting.frame
        return None

    def done(self, identity: int) -> None:
        """Forget a frame that came to its end; the storage works."""
        with self._lock:
            self._waiting.pop(identity, None)
            self._open()

    def put_back(self, frame: Frame) -> float:
        """Return a frame after a failure of its own; return its pause, seconds."""
        with self._lock:
            waiting = self._waiting[frame.id]
            waiting.frame = frame
            waiting.failures += 1
            pause_s = _pause_s(waiting.failures)
            waiting.due_ns = self._clock.monotonic_ns() + int(pause_s * NS_PER_S)
            waiting.is_taken = False
            self._open()
        return pause_s

    def block(self, identity: int) -> float:
        """Return a frame after a failure of the storage; return the pause of all, seconds."""
        with self._lock:
            self._waiting[identity].is_taken = False
            self._blocks += 1
            pause_s = _pause_s(self._blocks)
            self._blocked_until_ns = self._clock.monotonic_ns() + int(pause_s * NS_PER_S)
        return pause_s

    def unblock(self) -> None:
        """Let every frame be due now."""
        with self._lock:
            self._open()
            for waiting in self._waiting.values():
                waiting.due_ns = 0
        self._wake.set()

    def wake(self) -> None:
        """End a wait."""
        self._wake.set()

    def wait(self, timeout_s: float) -> None:
        """Return when there is something new, a pause ends, or after `timeout_s`."""
        now_ns = self._clock.monotonic_ns()
        with self._lock:
            due = [w.due_ns for w in self._waiting.values() if not w.is_taken]
            if self._blocked_until_ns is not None:
                due = [max(moment, self._blocked_until_ns) for moment in due]
        if due:
            timeout_s = min(timeout_s, max(0.0, (min(due) - now_ns) / NS_PER_S))
        if timeout_s > 0 and self._clock.wait(self._wake, timeout_s):
            self._wake.clear()

    def bytes(self) -> int:
        """Return the bytes of all waiting frames."""
        with self._lock:
            return sum(waiting.frame.size for waiting in self._waiting.values())

    def names(self) -> set[str]:
        """Return the file names of all waiting frames."""
        with self._lock:
            return {waiting.frame.name for waiting in self._waiting.values()}

    def holder_of(self, name: str) -> str | None:
        """Return the key of the waiting frame that has a file name."""
        with self._lock:
            for waiting in self._waiting.values():
                if waiting.frame.name == name and waiting.frame.path is None:
                    return waiting.frame.key
        return None

    def failing(self) -> list[Frame]:
        """Return the frames that failed and wait."""
        with self._lock:
            return [w.frame for w in self._waiting.values() if w.failures]

    def _open(self) -> None:
        self._blocked_until_ns = None
        self._blocks = 0


def _pause_s(failures: int) -> float:
    return float(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(failures - 1, 10)))
