# SPDX-License-Identifier: BSD-3-Clause
"""The thread that owns a device: it steps the model and carries out commands, one at a time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from nightjar.clock import Clock
from nightjar.errors import Busy, TimedOut

COMMAND_TIMEOUT_S = 4.0  # below the clients' default, so that they get our words, not a time-out

T = TypeVar("T")


class _Request:
    """A command for the owner thread."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._result: Any = None
        self._error: Exception | None = None
        self._is_dropped = False
        self._is_begun = False

    def run(self) -> None:
        with self._lock:
            if self._is_dropped:
                return  # nobody waits for it any more: expired requests are not carried out late
            self._is_begun = True
        try:
            self._result = self._work()
        except Exception as error:  # noqa: BLE001 - it is raised where the command was given
            self._error = error
        self._done.set()

    def wait(self, timeout_s: float, doing: str) -> Any:
        if not self._done.wait(timeout_s):
            with self._lock:
                self._is_dropped = not self._is_begun
            if self._is_dropped:
                raise Busy(f"the camera is busy ({doing}) and did not take the command; try again")
            if not self._done.is_set():
                raise TimedOut(
                    f"the camera is carrying the command out ({doing}), which takes longer than "
                    f"{timeout_s:g} s; see its status"
                )
        if self._error is not None:
            raise self._error
        return self._result


class Owner:
    """Runs `step` again and again, and between its turns what others ask for.

    Parameters
    ----------
    name
        Of the thread.
    step
        One turn; returns the seconds until the next is wanted. Never raises.
    clock
        Paces the turns.

    Attributes
    ----------
    beat_ns
        Monotonic time of the last turn: the heartbeat that the watchdog goes by.
    """

    def __init__(self, name: str, step: Callable[[], float], clock: Clock) -> None:
        self._step = step
        self._clock = clock
        self._requests: queue.SimpleQueue[_Request] = queue.SimpleQueue()
        self._wake = threading.Event()
        self._is_ending = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.beat_ns = clock.monotonic_ns()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def end(self, timeout_s: float = 10.0) -> None:
        """End the thread after its turn."""
        self._is_ending = True
        self._wake.set()
        self._thread.join(timeout_s)

    def wake(self) -> None:
        """Have the next turn begin now."""
        self._wake.set()

    def beat(self) -> None:
        """Show that the thread is alive, and carry out what was asked for."""
        self.beat_ns = self._clock.monotonic_ns()
        while not self._requests.empty():
            self._requests.get().run()

    def ask(
        self, work: Callable[[], T], doing: str, interrupt: threading.Event | None = None
    ) -> T:
        """Have the thread do something and return its result.

        Parameters
        ----------
        work
            What to do; what it raises is raised here.
        doing
            What the thread is busy with, for the message when it does not come to it.
        interrupt
            Set once the request is in line, so that a long read-out ends for it. It is given by
            the caller: the flag of the sequence that was there before, not of one begun since.

        Raises
        ------
        Busy, TimedOut
            The thread did not take the request in time (it never will), or is still at it.
        """
        if threading.current_thread() is self._thread or not self._thread.is_alive():
            return work()
        request = _Request(work)
        self._put(request, interrupt)
        result: T = request.wait(COMMAND_TIMEOUT_S, doing)
        return result

    def post(self, work: Callable[[], None], interrupt: threading.Event | None = None) -> None:
        """Have the thread do something later; `work` must not raise."""
        self._put(_Request(work), interrupt)

    def _put(self, request: _Request, interrupt: threading.Event | None) -> None:
        self._requests.put(request)
        self._wake.set()
        if interrupt is not None:
            interrupt.set()

    def _run(self) -> None:
        while not self._is_ending:
            pause_s = self._step()
            if pause_s > 0:
                self._clock.wait(self._wake, pause_s)
            self._wake.clear()
