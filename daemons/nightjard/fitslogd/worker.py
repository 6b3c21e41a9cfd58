# SPDX-License-Identifier: BSD-3-Clause
"""The logger process of one stream, kept alive: what it last said, how to ask it, its restarts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from nightjar.child import Backoff
from nightjar.clock import NS_PER_S, Clock
from nightjar.errors import NightjarError, Unreachable

Message = dict[str, Any]


class Process(Protocol):
    """What is needed of :class:`nightjar.child.Child`."""

    @property
    def pid(self) -> int | None:
        """Its process id."""
        ...

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        ...

    @property
    def lived_s(self) -> float:
        """Seconds since its start."""
        ...

    def start(self) -> None:
        """Start it."""
        ...

    def ask(
        self, command: str, arguments: Mapping[str, Any] | None = None, timeout_s: float = 5.0
    ) -> Any:
        """Return its answer to a command."""
        ...

    def stop(self, timeout_s: float) -> None:
        """Have it end in order; kill it at the deadline."""
        ...

    def kill(self) -> None:
        """End it at once."""
        ...


MakeProcess = Callable[[str, Callable[[Message], None], Callable[[str], None]], Process]
"""Called with the stream, what takes its messages, and what is told how it ended."""


class Worker:
    """One stream's logger.

    Parameters
    ----------
    stream
        Name of the stream.
    make
        Makes its process.
    clock
        Paces the restarts.
    on_message
        Called with the stream and each message, from the process's reader thread.
    on_end
        Called with the stream and how the process ended, where nobody ended it.

    Attributes
    ----------
    snapshot
        What the process last said of itself; replaced as a whole.
    restarts
        Times that it died and was started again.
    """

    def __init__(
        self,
        stream: str,
        make: MakeProcess,
        clock: Clock,
        on_message: Callable[[str, Message], None],
        on_end: Callable[[str, str], None],
    ) -> None:
        self.stream = stream
        self.snapshot: Message = {}
        self.restarts = 0
        self.trouble = ""
        """Why there is no process, in words; empty where there is one."""
        self._make = make
        self._clock = clock
        self._on_message = on_message
        self._on_end = on_end
        self._process: Process | None = None
        self._lock = threading.Lock()
        self._news = threading.Lock()
        self._backoff = Backoff()
        self._restart_at_ns: int | None = None
        self._is_closing = False

    @property
    def pid(self) -> int | None:
        """Its process id; None while there is none."""
        process = self._process
        return process.pid if process is not None and process.is_alive else None

    @property
    def is_running(self) -> bool:
        """Whether there is a process."""
        process = self._process
        return process is not None and process.is_alive

    def start(self) -> None:
        """Start the process; one that cannot be started is tried again later."""
        with self._lock:
            self._begin()

    def _begin(self) -> None:
        self._restart_at_ns = None
        if self._is_closing:
            return
        process: Process | None = None

        def ended(how: str) -> None:
            self._ended(process, how)

        process = self._process = self._make(self.stream, self._heard, ended)
        self.snapshot = {}
        try:
            process.start()
        except NightjarError as error:
            self._later(0.0, error.message)
        else:
            self.trouble = ""

    def _heard(self, message: Message) -> None:
        if message.get("event") == "status":
            self._take({key: value for key, value in message.items() if key != "event"})
        self._on_message(self.stream, message)

    def _ended(self, process: Process | None, how: str) -> None:
        if self._is_closing or process is None or process is not self._process:
            return  # it was ended by stop() or recycle()
        if not how.startswith("ended"):
            how = f"ended with {how}"
        self._later(process.lived_s, how)
        self._on_end(self.stream, how)

    def _later(self, lived_s: float, reason: str) -> None:
        pause_s = self._backoff.next_pause_s(lived_s)
        self.trouble = f"its logger {reason}; it is restarted in {pause_s:.1f} s"
        self._restart_at_ns = self._clock.monotonic_ns() + round(pause_s * NS_PER_S)

    def revive(self) -> bool:
        """Start the process again where it died and its pause is over; tell whether it was."""
        due = self._restart_at_ns
        if due is None or self._clock.monotonic_ns() < due:
            return False
        with self._lock:
            if self._is_closing or self._restart_at_ns is None:
                return False
            self.restarts += 1
            self._begin()
            return self.is_running

    def ask(self, command: str, arguments: Mapping[str, Any], timeout_s: float) -> Message:
        """Return the logger's snapshot after a command; it becomes the present one.

        Raises
        ------
        NightjarError
            What the logger refused with, TimedOut, or Unreachable where there is no process.
        """
        process = self._process
        if process is None or not process.is_alive:
            raise Unreachable(f"the logger of {self.stream} is not running: {self.trouble}")
        answer = process.ask(command, arguments, timeout_s)
        if isinstance(answer, dict) and "state" in answer and process is self._process:
            self._take(answer)
        return self.snapshot

    def _take(self, snapshot: Message) -> None:
        """Make a snapshot the present one; news that an answer has overtaken are old."""
        with self._news:
            if snapshot.get("number", 0) >= self.snapshot.get("number", 0):
                self.snapshot = snapshot

    def recycle(self, timeout_s: float) -> None:
        """End the process, closing its files, and start a new one."""
        with self._lock:
            process, self._process = self._process, None
            self._restart_at_ns = None
            self._backoff = Backoff()  # a person wants it: now
        if process is not None:
            process.stop(timeout_s)
        with self._lock:
            if self._process is None:
                self._begin()

    def stop(self, timeout_s: float) -> None:
        """End the process for good, closing its files; it is killed at the deadline."""
        self._is_closing = True
        process = self._process
        if process is not None:
            process.stop(timeout_s)

    def kill(self) -> None:
        """End the process at once."""
        process = self._process
        if process is not None:
            process.kill()
