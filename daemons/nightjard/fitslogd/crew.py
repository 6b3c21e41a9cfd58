# SPDX-License-Identifier: BSD-3-Clause
"""All loggers of a daemon: asked side by side, one command at a time each, ended together."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from nightjar.clock import NS_PER_S, Clock
from nightjar.errors import Code, NightjarError
from nightjard.fitslogd.worker import MakeProcess, Message, Worker

log = logging.getLogger(__name__)

Spawn = Callable[[Callable[[], None], str], None]
"""Runs a function beside the caller, under a name."""

_REPORT_S = 1.0
_SETTLE_S = 0.02


def spawn_thread(function: Callable[[], None], name: str) -> None:
    """Run a function in a thread of its own."""
    threading.Thread(target=function, name=name, daemon=True).start()


class Crew:
    """The workers of all streams.

    Parameters
    ----------
    streams
        Their names.
    make, clock, on_message, on_end
        As for :class:`nightjard.fitslogd.worker.Worker`.
    spawn
        Runs what must not be waited for.
    """

    def __init__(
        self,
        streams: Iterable[str],
        make: MakeProcess,
        clock: Clock,
        on_message: Callable[[str, Message], None],
        on_end: Callable[[str, str], None],
        spawn: Spawn = spawn_thread,
    ) -> None:
        self.workers = {
            stream: Worker(stream, make, clock, on_message, on_end) for stream in streams
        }
        self._clock = clock
        self._spawn = spawn
        self._turns = {stream: threading.Lock() for stream in self.workers}

    def start(self) -> None:
        """Start all processes."""
        for worker in self.workers.values():
            worker.start()

    def revive(self) -> list[str]:
        """Start those again whose pause after their end is over; return their streams."""
        return [stream for stream, worker in self.workers.items() if worker.revive()]

    @contextlib.contextmanager
    def turn(self, streams: Iterable[str]) -> Iterator[None]:
        """Hold the streams for one command; another one waits for its turn."""
        with contextlib.ExitStack() as stack:
            for stream in sorted(set(streams)):  # in one order, or two commands could lock up
                stack.enter_context(self._turns[stream])
            yield

    def side_by_side(self, calls: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
        """Return what the functions return, or the NightjarError that they raise."""
        answers: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

        def run(name: str, call: Callable[[], Any]) -> None:
            try:
                answers.put((name, call()))
            except NightjarError as error:
                answers.put((name, error))
            except Exception as error:
                log.exception("%s", name)
                answers.put((name, NightjarError(f"internal error: {error}", code=Code.INTERNAL)))

        for name, call in calls.items():
            self._spawn(lambda name=name, call=call: run(name, call), f"ask-{name}")  # type: ignore[misc]
        came = dict(answers.get() for _ in calls)
        return {name: came[name] for name in calls}

    def ask(
        self, command: str, arguments: Mapping[str, Mapping[str, Any]], timeout_s: float
    ) -> dict[str, NightjarError | None]:
        """Give a command to several loggers at once.

        Parameters
        ----------
        command, arguments
            What is asked; its arguments by stream.
        timeout_s
            Longest wait for each.

        Returns
        -------
        dict
            By stream: None where it obeyed, else what it failed with.
        """

        def asking(stream: str) -> Callable[[], None]:
            return lambda: void(self.workers[stream].ask(command, arguments[stream], timeout_s))

        def void(_answer: Any) -> None:
            return None

        return self.side_by_side({stream: asking(stream) for stream in arguments})

    def settle(
        self, streams: Iterable[str], is_there: Callable[[Message], bool], timeout_s: float
    ) -> list[str]:
        """Wait until loggers that were busy have obeyed; return those that have not."""
        left = [s for s in streams if not is_there(self.workers[s].snapshot)]
        deadline = self._clock.monotonic_ns() + round(timeout_s * NS_PER_S)
        while left and self._clock.monotonic_ns() < deadline:
            self._clock.sleep(_SETTLE_S)
            left = [s for s in left if not is_there(self.workers[s].snapshot)]
        return left

    def recycle(self, streams: Iterable[str], timeout_s: float) -> None:
        """End the processes of streams and start new ones."""
        workers = [self.workers[stream] for stream in streams]
        self.side_by_side({w.stream: lambda w=w: w.recycle(timeout_s) for w in workers})  # type: ignore[misc]

    def stop(self, timeout_s: float, report: Callable[[str], None], hurry: threading.Event) -> None:
        """End all processes for good, closing their files; `report` what is still open."""
        left = dict(self.workers)
        over: queue.SimpleQueue[str] = queue.SimpleQueue()

        def end(worker: Worker) -> None:
            try:
                worker.stop(timeout_s)
            finally:
                over.put(worker.stream)

        for worker in self.workers.values():
            threading.Thread(target=end, args=(worker,), name=f"stop-{worker.stream}").start()
        next_report_ns = self._clock.monotonic_ns() + round(_REPORT_S * NS_PER_S)
        while left:
            with contextlib.suppress(queue.Empty):
                left.pop(over.get(timeout=0.1))
            if hurry.is_set():
                for worker in left.values():
                    worker.kill()
            if left and self._clock.monotonic_ns() >= next_report_ns:
                report(f"closing the files of {', '.join(left)}")
                next_report_ns += round(_REPORT_S * NS_PER_S)
