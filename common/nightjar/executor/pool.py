# SPDX-License-Identifier: BSD-3-Clause
"""Tasks in processes of this host: bounded memory, and a death costs one task one attempt."""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from nightjar.errors import Busy, Cancelled, Code, NightjarError
from nightjar.executor.channel import Channel, Message
from nightjar.executor.probes import LOOK
from nightjar.executor.tasks import (
    Event,
    OnEvent,
    OnFailure,
    OnResult,
    Task,
    check,
    error_of,
)

log = logging.getLogger(__name__)

_MODULE = "nightjar.executor.worker"
_LOOK_S = 0.1  # between two looks at `cancelled`
_END_S = 5.0
_SEND_S = 60.0
_START_S = 120.0  # imports from a network disk on a busy machine
_STILLBORN = 3


@dataclass
class _Order:
    """A task on its way."""

    task: Task
    data: bytes
    attempts: int = 0


class _Process:
    """A worker process as its parent sees it."""

    def __init__(self, idle: bool) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", _MODULE, str(theirs.fileno())]
        one_thread = dict.fromkeys(
            ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
        )
        try:
            # A new interpreter, never a fork: the daemon has threads, which may hold locks.
            self.process = subprocess.Popen(
                command + ["idle"] * idle, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),),
                env=os.environ | one_thread,
            )  # fmt: skip
        except OSError as error:
            ours.close()
            raise NightjarError(f"cannot start a worker process: {error.strerror}") from error
        finally:
            theirs.close()
        ours.settimeout(_SEND_S)  # a stopped process takes no large task
        self.channel = Channel(ours)
        self.name = f"pid {self.process.pid}"
        self.is_ready = False
        self.order: _Order | None = None
        self.heard_s = time.monotonic()

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(OSError):
            self.process.kill()

    def bury(self) -> str:
        """Wait for its end and return how it came."""
        self.channel.close()
        try:
            status = self.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        return f"ended by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


class PoolExecutor:
    """Runs tasks in processes of this host; they are started when needed and kept for the next run.

    Parameters
    ----------
    workers
        Processes.
    memory_bytes
        What all tasks that run at a time may hold together, by their own word.
    tries
        How often a task is run whose worker dies.
    idle
        Take processor and disk only where nobody else wants them.
    stall_s
        A task that has neither ended nor reported for so long is taken for stuck and its worker
        killed.
    cancel_s
        After a cancel, tasks that do not end by themselves within this time are killed.
    allowed
        ``module:name`` of every function that a task may call.

    Attributes
    ----------
    is_closed
        It cannot be used any more.
    """

    def __init__(
        self,
        workers: int,
        memory_bytes: int,
        *,
        allowed: frozenset[str],
        tries: int = 3,
        idle: bool = False,
        stall_s: float = 3600.0,
        cancel_s: float = 5.0,
    ) -> None:
        self._size = workers
        self._memory = memory_bytes
        self._tries = tries
        self._idle = idle
        self._stall_s = stall_s
        self._cancel_s = cancel_s
        self._allowed = allowed
        self._processes: list[_Process] = []
        self._stillborn = 0
        self._turn = threading.Lock()
        self.is_closed = False

    def __enter__(self) -> PoolExecutor:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def pids(self) -> list[int]:
        """Return the process ids of the workers."""
        return [process.process.pid for process in self._processes]

    def close(self) -> None:
        """End the workers; a run that another thread is in is cancelled."""
        self.is_closed = True
        for process in self.processes:
            process.kill()
        with self._turn:
            for process in self._processes:
                process.bury()
            self._processes.clear()

    def run(
        self,
        tasks: Iterable[Task],
        on_result: OnResult,
        on_failure: OnFailure,
        cancelled: Callable[[], bool],
        on_event: OnEvent | None = None,
    ) -> None:
        """Run tasks; see :class:`~nightjar.executor.tasks.Executor`."""
        if not self._turn.acquire(blocking=False):
            raise Busy("the worker processes are at work for another step")
        try:
            run = _Run(self, iter(tasks), on_result, on_failure, on_event or (lambda _event: None))
            try:
                run.until_done(cancelled)
            finally:
                self._drop_busy()
        finally:
            self._turn.release()

    def survey(self, folders: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return what a worker sees; all of them see the same."""
        seen: dict[str, dict[str, Any]] = {}

        def fail(_task: Task, error: NightjarError) -> None:
            raise error

        self.run(
            [Task("survey", LOOK, {"folders": list(folders)})],
            lambda _task, found: seen.update({f"pid {found['pid']}": found}), fail, lambda: False,
        )  # fmt: skip
        return seen

    # --- processes ---

    def _drop_busy(self) -> None:
        """Kill workers that a run which ended early has left at work."""
        for process in [each for each in self._processes if each.order is not None]:
            process.kill()
            self.bury(process)

    def bury(self, process: _Process) -> str:
        """Take a dead worker out; return how it ended."""
        self._processes.remove(process)
        how = process.bury()
        if not process.is_ready:
            self._stillborn += 1
            if self._stillborn >= _STILLBORN:
                self._stillborn = 0
                raise NightjarError(
                    f"worker processes end before they can work ({how}); the daemon's log says why"
                )
        return how

    def staff(self, wanted: int) -> None:
        """Have as many workers as are wanted, at most the configured number."""
        while len(self._processes) < min(wanted, self._size):
            self._processes.append(_Process(self._idle))

    @property
    def processes(self) -> list[_Process]:
        """All workers, busy or not."""
        return list(self._processes)

    def note_ready(self, process: _Process) -> None:
        """Remember that a worker has come up."""
        process.is_ready = True
        self._stillborn = 0

    def limits(self) -> tuple[int, int, float, float]:
        """Return memory, tries, stall_s, cancel_s."""
        return self._memory, self._tries, self._stall_s, self._cancel_s

    def checked(self, task: Task) -> bytes:
        """Return the task as JSON, or raise what is wrong with it."""
        if task.memory_bytes > self._memory:
            raise NightjarError(
                f"task {task.id} needs {task.memory_bytes / 1e6:.0f} MB and all tasks together may "
                f"hold {self._memory / 1e6:.0f} MB: raise executor.memory in the "
                "configuration or make the parts smaller",
                code=Code.OUT_OF_RANGE, needed=task.memory_bytes, limit=self._memory,
            )  # fmt: skip
        return check(task, self._allowed)


class _Run:
    """One call of :meth:`PoolExecutor.run`."""

    def __init__(
        self, pool: PoolExecutor, tasks: Iterator[Task], on_result: OnResult,
        on_failure: OnFailure, on_event: OnEvent,
    ) -> None:  # fmt: skip
        self._pool = pool
        self._tasks = tasks
        self._on_result, self._on_failure, self._on_event = on_result, on_failure, on_event
        self._memory, self._tries, self._stall_s, self._cancel_s = pool.limits()
        self._again: collections.deque[_Order] = collections.deque()
        self._next: _Order | None = None

    def until_done(self, cancelled: Callable[[], bool]) -> None:
        """Run all tasks."""
        while True:
            if self._pool.is_closed or cancelled():
                self._cancel()
                raise Cancelled("the step was cancelled")
            self._give_out()
            if not self._busy() and self._peek() is None:
                return
            self._listen()
            self._kill_stuck()

    # --- giving out ---

    def _busy(self) -> list[_Process]:
        return [process for process in self._pool.processes if process.order is not None]

    def _peek(self) -> _Order | None:
        """Return the next order; those that lost their worker come first."""
        if self._again:
            return self._again[0]
        while self._next is None:
            task = next(self._tasks, None)
            if task is None:
                return None
            try:
                self._next = _Order(task, self._pool.checked(task))
            except NightjarError as error:
                self._on_failure(task, error)
        return self._next

    def _take(self) -> None:
        if self._again:
            self._again.popleft()
        else:
            self._next = None

    def _give_out(self) -> None:
        while True:
            order = self._peek()
            if order is None:
                return
            busy = self._busy()
            held = sum(each.order.task.memory_bytes for each in busy if each.order is not None)
            # In order, without letting small ones by: a large one would wait for ever.
            if held + order.task.memory_bytes > self._memory:
                return
            self._pool.staff(len(busy) + 1)
            free = [p for p in self._pool.processes if p.is_ready and p.order is None]
            if not free:
                return
            self._take()
            self._start(free[0], order)

    def _start(self, process: _Process, order: _Order) -> None:
        process.order = order
        process.heard_s = time.monotonic()
        order.attempts += 1
        self._on_event(Event("started", order.task, process.name))
        try:
            process.channel.send_bytes(order.data)
        except OSError:
            self._bury(process)

    # --- hearing from them ---

    def _listen(self) -> None:
        with selectors.DefaultSelector() as selector:
            for process in self._pool.processes:
                selector.register(process.channel, selectors.EVENT_READ, process)
            ready = [key.data for key, _ in selector.select(_LOOK_S)]
        for process in ready:
            messages = process.channel.receive()
            for message in messages or ():
                process.heard_s = time.monotonic()
                self._hear(process, message)
            if messages is None:
                self._bury(process)

    def _hear(self, process: _Process, message: Message) -> None:
        order = process.order
        if "ready" in message:
            self._pool.note_ready(process)
        elif order is None:
            log.warning("%s: unasked message %.80r", process.name, message)
        elif "progress" in message:
            frames, size, stage = message["progress"]
            self._on_event(Event("progress", order.task, process.name, frames, size, stage))
        else:
            process.order = None
            if "error" in message:
                self._on_failure(order.task, error_of(message["error"]))
            else:
                self._on_result(order.task, message["result"])

    def _bury(self, process: _Process) -> None:
        order, process.order = process.order, None
        how = self._pool.bury(process)
        if order is None:
            return
        if not self._pool.is_closed:  # else it was we who ended it
            log.warning("%s %s in task %s", process.name, how, order.task.id)
        if order.attempts < self._tries:
            self._again.append(order)
            self._on_event(Event("again", order.task, process.name, text=how))
            return
        self._on_failure(order.task, NightjarError(
            f"task {order.task.id}: its worker process died {order.attempts} times, the last one "
            f"{how}; SIGKILL without anybody's doing means that memory ran out (journalctl -k)",
            attempts=order.attempts, how=how,
        ))  # fmt: skip

    def _kill_stuck(self) -> None:
        now_s = time.monotonic()
        for process in self._pool.processes:
            limit_s = self._stall_s if process.is_ready else _START_S
            is_waited_for = process.order is not None or not process.is_ready
            if is_waited_for and now_s - process.heard_s > limit_s:
                log.error("%s is silent for %.0f s and is killed", process.name, limit_s)
                process.kill()

    def _cancel(self) -> None:
        """Ask the running tasks to end; what has its result by then is told, the rest killed."""
        self._tries = 0
        for process in self._busy():
            with contextlib.suppress(OSError):
                process.channel.send({"cancel": True})
        deadline = time.monotonic() + self._cancel_s
        on_failure, self._on_failure = self._on_failure, lambda _task, _error: None
        while self._busy() and time.monotonic() < deadline:
            self._listen()
        self._on_failure = on_failure
