# SPDX-License-Identifier: BSD-3-Clause
"""Tasks on the hosts of a Dask cluster; the package ``distributed`` is the extra ``dask``.

Workers must see the folders of the nights at the same paths and have the same version of Nightjar.
Where all workers declare the resource ``MEMORY`` (``dask worker --resources MEMORY=2e9``), tasks
are admitted by what they hold; else by the threads of the workers.
"""

from __future__ import annotations

import collections
import contextlib
import queue
import socket
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from nightjar import __version__
from nightjar.errors import Busy, Cancelled, Code, ConfigError, NightjarError, Unreachable
from nightjar.executor.probes import look
from nightjar.executor.remote import RESOURCE, cancel_run, census, work
from nightjar.executor.tasks import (
    Event,
    Failure,
    OnEvent,
    OnFailure,
    OnResult,
    Task,
    check,
    error_of,
    failure_of,
)

_LOOK_S = 0.05
_REPLY_S = 5.0
_CENSUS_S = 1.0  # between two looks at who is there


class DaskExecutor:
    """Runs tasks on a Dask cluster.

    Parameters
    ----------
    scheduler
        ``tcp://HOST:PORT``.
    connect_s
        How long the scheduler may take to answer.
    away_s
        How long scheduler or all workers may be away in a run.
    cancel_s
        How long running tasks may take to end after a cancel.
    allowed
        ``module:name`` of every function that a task may call.

    Raises
    ------
    ConfigError
        ``distributed`` is not installed.
    """

    def __init__(
        self,
        scheduler: str,
        *,
        allowed: frozenset[str],
        connect_s: float = 10.0,
        away_s: float = 60.0,
        cancel_s: float = 30.0,
    ) -> None:
        try:
            import distributed  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                f"executor.scheduler is {scheduler}, and the package distributed is not "
                "installed: install nightjar[dask], or leave the key out"
            ) from error
        self._scheduler = scheduler
        self._connect_s = connect_s
        self._limits = (away_s, cancel_s)
        self._allowed = allowed
        self._client: Any = None
        self._turn = threading.Lock()

    def __enter__(self) -> DaskExecutor:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the cluster; scheduler and workers are others'."""
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(OSError, TimeoutError):
                client.close(timeout=5)

    def client(self) -> Any:
        """Return the connection to the scheduler, a new one where that is lost.

        Raises
        ------
        Unreachable
            Nobody answers there.
        """
        import distributed

        if self._client is not None and self._client.status == "running":
            return self._client
        self.close()
        try:
            # A Client that finds nobody leaves its thread behind.
            parts = urllib.parse.urlsplit(self._scheduler)
            if parts.hostname and parts.port:
                socket.create_connection((parts.hostname, parts.port), self._connect_s).close()
            connect: Any = distributed.Client
            self._client = connect(
                self._scheduler, timeout=self._connect_s, set_as_default=False, name="nightjar"
            )
        except (OSError, TimeoutError, ValueError) as error:
            raise Unreachable(
                f"no Dask scheduler answers at {self._scheduler} within {self._connect_s:g} s "
                f"({type(error).__name__}); start `dask scheduler` there, or correct "
                "nights.executor.scheduler"
            ) from error
        return self._client

    def run(
        self,
        tasks: Iterable[Task],
        on_result: OnResult,
        on_failure: OnFailure,
        cancelled: Callable[[], bool],
        on_event: OnEvent | None = None,
    ) -> None:
        """Run tasks; see :class:`~nightjar.executor.tasks.Executor`.

        A task whose worker dies goes to another one, as often as the scheduler's setting
        ``distributed.scheduler.allowed-failures`` (3) says, and as often again when all others
        have ended.

        Raises
        ------
        Unreachable
            The scheduler, or all workers, are away for too long.
        """
        if not self._turn.acquire(blocking=False):
            raise Busy("the Dask cluster is at work for another step")
        try:
            run = _Run(self.client(), self._limits, self._allowed, on_result, on_failure, on_event)
            with run:
                run.until_done(iter(tasks), cancelled)
        finally:
            self._turn.release()

    def survey(self, folders: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return what every worker sees; :class:`Unreachable` where there is none."""
        found = self.client().run(look, list(folders), on_error="return")
        if not found:
            raise Unreachable(f"Dask scheduler {self._scheduler} has no workers")
        for worker, seen in found.items():
            if isinstance(seen, BaseException):
                raise Unreachable(
                    f"Dask worker {worker} cannot answer: {type(seen).__name__}: {seen}"
                )
        return dict(found)


class _Run:
    """One call of :meth:`DaskExecutor.run`."""

    def __init__(
        self, client: Any, limits: tuple[float, float], allowed: frozenset[str],
        on_result: OnResult, on_failure: OnFailure, on_event: OnEvent | None,
    ) -> None:  # fmt: skip
        self._client = client
        self._away_s, self._cancel_s = limits
        self._allowed = allowed
        self._on_result, self._on_failure = on_result, on_failure
        self._on_event = on_event or (lambda _event: None)
        self._name = f"nightjar-{uuid.uuid4().hex}"
        self._given: dict[str, tuple[Task, Any]] = {}
        self._suspects: collections.deque[Task] = collections.deque()
        self._lost_s: dict[str, float] = {}
        self._alone = ""  # key of the suspect that runs now
        self._where: dict[str, str] = {}
        self._news: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()  # from Dask's thread
        self._workers: dict[str, tuple[int, float | None]] = {}
        self._census_s = float("-inf")
        self._well_s = time.monotonic()

    def __enter__(self) -> _Run:
        self._client.subscribe_topic(self._name, self._hear)
        return self

    def __exit__(self, *_error: object) -> None:
        """Have nothing left at the cluster that nobody waits for."""
        if self._client.status != "running":
            return
        futures = [future for _task, future in self._given.values()]
        with contextlib.suppress(OSError, TimeoutError):
            if futures:
                self._client.cancel(futures, force=True)
            self._client.unsubscribe_topic(self._name)

    def until_done(self, tasks: Iterator[Task], cancelled: Callable[[], bool]) -> None:
        """Run all tasks."""
        is_over = False
        while self._given or self._suspects or not is_over:
            if cancelled():
                self._cancel()
                raise Cancelled("the step was cancelled")
            self._look_round()
            # No more than can run: who waits behind a task that kills its worker is blamed too.
            while not is_over and len(self._given) < self._threads():
                task = next(tasks, None)
                if task is None:
                    is_over = True
                else:
                    self._submit(task)
            if self._suspects and is_over and not self._given and self._threads():
                self._alone = self._submit(self._suspects.popleft())
            self._take_news(_LOOK_S)

    # --- who is there ---

    def _threads(self) -> int:
        return sum(threads for threads, _memory in self._workers.values())

    def _look_round(self) -> None:
        now_s = time.monotonic()
        if now_s - self._census_s < (_CENSUS_S if self._workers else _LOOK_S):
            return
        self._census_s = now_s
        if self._client.status == "running":
            with contextlib.suppress(OSError, TimeoutError):
                self._workers = self._client.run_on_scheduler(census)
                if self._workers:
                    self._well_s = now_s
        if now_s - self._well_s > self._away_s:
            who = "it has no workers" if self._client.status == "running" else "it is away"
            raise Unreachable(
                f"Dask scheduler {self._client.scheduler.address}: {who} for {self._away_s:g} s; "
                "what was done is kept, run the step again"
            )

    # --- giving out ---

    def _submit(self, task: Task) -> str:
        try:
            check(task, self._allowed)
            resources = self._resources(task)
        except NightjarError as error:
            self._on_failure(task, error)
            return ""
        key = f"{self._name}-{len(self._where)}-{task.id}"
        self._where[key] = ""
        future = self._client.submit(
            work, __version__, self._name, key, task.function, task.arguments,
            key=key, pure=False, resources=resources,
        )  # fmt: skip
        self._given[key] = (task, future)
        return key

    def _resources(self, task: Task) -> dict[str, float] | None:
        declared = [memory for _threads, memory in self._workers.values()]
        sizes = [memory for memory in declared if memory is not None]
        if len(sizes) < len(declared):
            return None
        if task.memory_bytes > max(sizes):
            raise NightjarError(
                f"task {task.id} needs {task.memory_bytes / 1e6:.0f} MB and no Dask worker "
                f"declares more than {max(sizes) / 1e6:.0f} MB: start one with "
                f"--resources {RESOURCE}=BYTES",
                code=Code.OUT_OF_RANGE, needed=task.memory_bytes, limit=max(sizes),
            )  # fmt: skip
        return {RESOURCE: float(task.memory_bytes)}

    # --- hearing from them ---

    def _hear(self, event: tuple[float, Any]) -> None:
        self._news.put(event[1])

    def _take_news(self, wait_s: float) -> None:
        with contextlib.suppress(queue.Empty):
            self._tell(self._news.get(timeout=wait_s))
            while True:
                self._tell(self._news.get_nowait())
        # Asked for, not told by add_done_callback: that starts a thread which nobody ends.
        for key, (_task, future) in list(self._given.items()):
            if future.status not in ("pending", "lost") or self._is_given_up(key, future):
                self._end(key)

    def _is_given_up(self, key: str, future: Any) -> bool:
        """Tell whether a reply that died with its worker, and is made anew, takes too long."""
        if future.status != "lost":
            self._lost_s.pop(key, None)
            return False
        now_s = time.monotonic()
        return now_s - self._lost_s.setdefault(key, now_s) > self._away_s

    def _tell(self, news: dict[str, Any]) -> None:
        key = news["task"]
        if key not in self._given:
            return
        task = self._given[key][0]
        if "started" in news:
            self._note_start(key, task, news["started"])
        else:
            self._on_event(Event("progress", task, self._where[key], *news["told"]))

    def _note_start(self, key: str, task: Task, worker: str) -> None:
        if self._where[key]:
            self._on_event(Event("again", task, self._where[key], text="its worker is gone"))
        self._where[key] = worker
        self._on_event(Event("started", task, worker))

    def _end(self, key: str) -> None:
        task, future = self._given[key]
        try:
            reply = self._outcome(task, future)
        except TimeoutError:  # the worker that held the reply is gone: the task runs again
            return
        del self._given[key]
        future.release()
        if reply.get("killed") and key != self._alone:
            # Perhaps it only stood beside the one that did it: once more, with nobody near.
            self._suspects.append(task)
            text = "its worker died"
            self._on_event(Event("again", task, self._where[key], text=text))
            return
        # What was told on the way may come later than the reply.
        worker = reply.get("worker", "")
        if worker and worker != self._where[key]:
            self._note_start(key, task, worker)
        if "error" in reply:
            self._on_failure(task, error_of(reply["error"]))
            return
        if any(reply["told"]):
            self._on_event(Event("progress", task, self._where[key], *reply["told"]))
        self._on_result(task, reply["result"])

    def _outcome(self, task: Task, future: Any) -> Failure:
        """Return the reply of a task that ended; raises TimeoutError where it is out of reach."""
        if future.status == "finished":
            reply: Failure = future.result(timeout=_REPLY_S)
            return reply
        if future.status in ("cancelled", "lost"):
            text = f"task {task.id}: the Dask scheduler lost it; run the step again"
            return {"error": failure_of(Unreachable(text))}
        error = future.exception(timeout=_REPLY_S)
        if hasattr(error, "last_worker"):  # distributed.scheduler.KilledWorker
            text = (
                f"task {task.id}: every Dask worker that had it died, the last one "
                f"{error.last_worker.address}; its log says why, often memory ran out"
            )
            return {"error": failure_of(NightjarError(text)), "killed": True}
        return {"error": failure_of(error)}  # what Dask could not do: import us, for one

    def _cancel(self) -> None:
        """Have running tasks end at their next report; what has its result by then is told."""
        on_failure, self._on_failure = self._on_failure, lambda _task, _error: None
        with contextlib.suppress(OSError, TimeoutError):
            self._client.run(cancel_run, self._name, wait=False)
        deadline = time.monotonic() + self._cancel_s
        while self._given and self._client.status == "running" and time.monotonic() < deadline:
            self._take_news(_LOOK_S)
        self._on_failure = on_failure
