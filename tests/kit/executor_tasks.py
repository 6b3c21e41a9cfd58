# SPDX-License-Identifier: BSD-3-Clause
"""Functions that tests have executors run, and a way to gather what comes of them."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from nightjar.errors import Code, NightjarError, Refused
from nightjar.executor.progress import report
from nightjar.executor.tasks import Event, Executor, Task

LIMIT_S = 30.0
_MODULE = __name__ if __name__.startswith("kit.") else "kit.executor_tasks"


def square(number: int) -> dict[str, Any]:
    return {"square": number * number, "as_tuple": (1, 2)}


def write(folder: str, name: str, seed: int, size: int) -> str:
    """Make a file whose bytes depend on the seed only; report on the way."""
    block, data = str(seed).encode(), b""
    while len(data) < size:
        block = hashlib.blake2b(block).digest()
        data += block
        report(frames=1, bytes=len(block), stage="writing")
    temporary = Path(folder) / f".{name}.{os.getpid()}"
    temporary.write_bytes(data[:size])
    os.replace(temporary, Path(folder) / name)
    return hashlib.blake2b(data[:size]).hexdigest()


def refuse(text: str) -> None:
    raise Refused(text, code=Code.OUT_OF_RANGE, limit=7)


def fill_disk(path: str) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", path)


def blunder() -> None:
    raise ZeroDivisionError("by zero")


def no_json() -> object:
    return object()


def large(size: int, text: str) -> str:
    return text * (size // len(text))


def meet(folder: str, name: str, others: int) -> int:
    """Return when that many tasks are in here at the same time; tells this process."""
    (Path(folder) / name).touch()
    deadline = time.monotonic() + LIMIT_S
    while len(list(Path(folder).iterdir())) < others:
        if time.monotonic() > deadline:
            raise TimeoutError("the others did not come")
        time.sleep(0.005)
    return os.getpid()


def hold(folder: str, name: str, memory: int) -> int:
    """Return the bytes that all tasks held while this one was in."""
    mine = Path(folder) / f"{name}.{memory}"
    mine.touch()
    most = 0
    for _ in range(20):
        most = max(most, sum(int(each.suffix[1:]) for each in Path(folder).iterdir()))
        time.sleep(0.002)
    mine.unlink()
    return most


def die(marker: str, times: int) -> str:
    """Be killed in mid-task that often, counting in a file; then return."""
    path = Path(marker)
    count = len(path.read_bytes()) if path.exists() else 0
    if count < times:
        path.write_bytes(b"x" * (count + 1))
        report(frames=5)
        os.kill(os.getpid(), signal.SIGKILL)
    return f"lived after {count}"


def wait_for(started: str, gate: str) -> int:
    """Tell the own pid in a file, then wait until the gate is there."""
    temporary = Path(f"{started}.{os.getpid()}.tmp")
    temporary.write_text(str(os.getpid()))
    os.replace(temporary, started)
    deadline = time.monotonic() + LIMIT_S
    while not Path(gate).exists():
        if time.monotonic() > deadline:
            raise TimeoutError("nobody opened the gate")
        report(frames=1)
        time.sleep(0.01)
    return os.getpid()


def be_deaf(started: str) -> None:
    """Work without ever reporting, until killed."""
    Path(started).write_text(str(os.getpid()))
    time.sleep(LIMIT_S)


def from_thread() -> None:
    """Report from a thread of the task's own."""
    thread = threading.Thread(target=lambda: report(frames=3, bytes=30, stage="in a thread"))
    thread.start()
    thread.join()


def priority() -> dict[str, Any]:
    told = subprocess.run(["ionice", "-p", str(os.getpid())], capture_output=True, text=True)
    return {"policy": os.sched_getscheduler(0), "io": told.stdout.strip()}


def threads_of_libraries() -> str:
    return os.environ.get("OPENBLAS_NUM_THREADS", "")


ALLOWED = frozenset(
    f"{_MODULE}:{each.__name__}"
    for each in (square, write, refuse, fill_disk, blunder, no_json, large, meet, hold, die,
                 wait_for, be_deaf, from_thread, priority, threads_of_libraries)
)  # fmt: skip


def task(identity: str, function: Callable[..., Any], memory: int = 0, **arguments: Any) -> Task:
    return Task(identity, f"kit.executor_tasks:{function.__name__}", arguments, memory)


class Gathered:
    """Runs tasks and keeps what comes of them.

    Attributes
    ----------
    results, failures
        By task id; a second one for the same task is an error.
    """

    def __init__(self) -> None:
        self.results: dict[str, Any] = {}
        self.failures: dict[str, NightjarError] = {}
        self.events: list[Event] = []
        self.on_event: Callable[[Event], None] = lambda _event: None
        self.thread = threading.get_ident()

    def run(
        self, executor: Executor, tasks: Iterable[Task],
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Gathered:  # fmt: skip
        executor.run(tasks, self._result, self._failure, cancelled, self._event)
        return self

    def kinds(self, identity: str) -> list[str]:
        return [event.kind for event in self.events if event.task.id == identity]

    def _once(self, one: Task) -> None:
        assert threading.get_ident() == self.thread
        assert one.id not in self.results.keys() | self.failures.keys(), f"{one.id} ended twice"

    def _result(self, one: Task, result: Any) -> None:
        self._once(one)
        self.results[one.id] = result

    def _failure(self, one: Task, error: NightjarError) -> None:
        self._once(one)
        self.failures[one.id] = error

    def _event(self, event: Event) -> None:
        assert threading.get_ident() == self.thread
        self.events.append(event)
        self.on_event(event)


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for something; return it."""
    deadline = time.monotonic() + LIMIT_S
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not come"
        time.sleep(0.01)
    return value


def read_pid(path: Path) -> int:
    """Wait for the file in which a task tells its pid."""
    return int(until(lambda: path.exists() and path.read_text(), f"{path.name}"))


PYTHONPATH = str(Path(__file__).resolve().parent.parent)
