# SPDX-License-Identifier: BSD-3-Clause
"""Long commands at work: each in a thread, with an operation that tells how far it is."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from nightjar.clock import NS_PER_S, Clock
from nightjar.errors import Busy, Code, NightjarError, Refused
from nightjar.operations import Operation, Operations
from nightjar.times import iso
from nightjard.archived.nights.steps.context import Progress
from nightjard.archived.nights.store import Row

log = logging.getLogger(__name__)

_RATE_NS = 5 * NS_PER_S
_JOIN_S = 60.0


class Job:
    """One command at work.

    Attributes
    ----------
    operation
        What the client asks for.
    cancelled
        Set when somebody asked to stop, or the daemon does.
    """

    def __init__(self, command: str, operation: Operation, cancelled: threading.Event,
                 clock: Clock) -> None:  # fmt: skip
        self.command = command
        self.operation = operation
        self.cancelled = cancelled
        self.night: Row | None = None
        self._clock = clock
        self._progress = Progress("")
        self._started_ns = clock.now_ns()
        self._points: deque[tuple[int, int, int]] = deque(maxlen=64)
        self._lock = threading.Lock()
        self.step_seconds: dict[str, float] = {}
        self._step_began_ns = clock.monotonic_ns()

    @property
    def step(self) -> str | None:
        """The step in hand."""
        return self._progress.step or None

    def begin(self, night: Row) -> None:
        """Say which night is in hand."""
        self.night = night

    def tell(self, progress: Progress) -> None:
        """Take a step's progress."""
        now = self._clock.monotonic_ns()
        with self._lock:
            if progress.step != self._progress.step:
                self._end_step(now)
                self._points.clear()
                self._step_began_ns = now
            self._progress = progress
            self._points.append((now, progress.done, progress.bytes))
        where = f"{self.night['date']} " if self.night is not None else ""
        fraction = progress.done / progress.total if progress.total else None
        message = f"{progress.done} of {progress.total} {progress.unit}" if progress.total else ""
        frames_per_s, bytes_per_s = self._rates()
        if bytes_per_s:
            message += f", {frames_per_s:.0f} frames/s, {bytes_per_s / 1e6:.0f} MB/s"
        # Of the step, not of the whole command: nobody knows how long the steps to come will take.
        eta_s = (progress.total - progress.done) / frames_per_s if frames_per_s else None
        self.operation.update(
            fraction, f"{where}{progress.step}", message or progress.text, self._eta_s(eta_s)
        )

    def end_step(self) -> None:
        """Say that the step in hand has ended: what a step does last need not be told."""
        with self._lock:
            self._end_step(self._clock.monotonic_ns())

    def _end_step(self, now: int) -> None:
        if self._progress.step:
            self.step_seconds[self._progress.step] = (now - self._step_began_ns) / NS_PER_S

    def _eta_s(self, by_rate_s: float | None) -> float:
        """Return the seconds left in the step; 0 where that cannot be said yet."""
        if by_rate_s is not None:
            return by_rate_s
        progress = self._progress
        if not progress.done or not progress.total:
            return 0.0
        spent_s = (self._clock.monotonic_ns() - self._step_began_ns) / NS_PER_S
        return spent_s * (progress.total - progress.done) / progress.done

    def _rates(self) -> tuple[float, float]:
        with self._lock:
            points = [each for each in self._points if each[0] > self._points[-1][0] - _RATE_NS]
        if len(points) < 2 or points[-1][0] == points[0][0]:
            return 0.0, 0.0
        span_s = (points[-1][0] - points[0][0]) / NS_PER_S
        return (
            max(0.0, (points[-1][1] - points[0][1]) / span_s),
            max(0.0, (points[-1][2] - points[0][2]) / span_s),
        )

    def snapshot(self, workers: int) -> dict[str, Any]:
        """Return PROGRESS_KEYS."""
        progress = self._progress
        is_frames = progress.unit == "frames"
        frames_per_s, bytes_per_s = self._rates()
        told = self.operation.snapshot()
        return {
            "operation": self.operation.id, "command": self.command,
            "family": self.night["family"] if self.night is not None else None,
            "night": self.night["date"] if self.night is not None else None,
            "step": progress.step, "text": progress.text, "fraction": told["fraction"],
            "tasks_done": 0 if is_frames else progress.done,
            "tasks": 0 if is_frames else progress.total,
            "frames_done": progress.done if is_frames else 0,
            "frames": progress.total if is_frames and progress.total else None,
            "bytes_done": progress.bytes, "bytes": None,
            "frames_per_s": round(frames_per_s, 1) if is_frames else 0.0,
            "bytes_per_s": round(bytes_per_s), "eta_s": told["eta_s"], "workers": workers,
            "started": iso(self._started_ns, 0),
        }  # fmt: skip


class Jobs:
    """All long commands of the pipeline.

    Parameters
    ----------
    operations, clock
        Of the daemon.
    workers
        Processes that tasks may use.
    """

    def __init__(self, operations: Operations, clock: Clock, workers: int) -> None:
        self._operations = operations
        self._clock = clock
        self._workers = workers
        self._jobs: dict[str, tuple[Job, threading.Thread]] = {}
        self._lock = threading.Lock()
        self._is_stopping = False

    def start(self, command: str, work: Callable[[Job], Any], *, alone: str = "") -> dict[str, Any]:
        """Begin a command in a thread; return ``{"operation": id}``.

        Parameters
        ----------
        work
            Its result is that of the operation.
        alone
            Another job with this text is refused until this one has ended.

        Raises
        ------
        Busy
            Such a one runs.
        Refused
            The daemon is stopping.
        """
        cancelled = threading.Event()
        with self._lock:
            if self._is_stopping:
                raise Refused("the archive is stopping", code=Code.STOPPING)
            self._jobs = {key: each for key, each in self._jobs.items() if each[1].is_alive()}
            present = self._jobs.get(alone)
            if alone and present is not None:
                raise Busy(
                    f"{present[0].command} is at work on it (operation "
                    f"{present[0].operation.id}): wait for it, or cancel it"
                )
            job = Job(command, self._operations.begin(command, cancelled.set), cancelled,
                      self._clock)  # fmt: skip
            thread = threading.Thread(
                target=self._run, args=(job, work), name=f"nights-{command}", daemon=True
            )
            self._jobs[alone or job.operation.id] = (job, thread)
            thread.start()
        return {"operation": job.operation.id}

    def _run(self, job: Job, work: Callable[[Job], Any]) -> None:
        try:
            job.operation.finish(work(job))
        except NightjarError as error:
            job.operation.fail(error)
        except Exception as error:
            log.exception("%s", job.command)
            job.operation.fail(NightjarError(f"internal error: {type(error).__name__}: {error}"))

    def snapshot(self) -> list[dict[str, Any]]:
        """Return PROGRESS_KEYS of those that run."""
        with self._lock:
            jobs = [job for job, thread in self._jobs.values() if thread.is_alive()]
        return [job.snapshot(self._workers) for job in jobs if not job.operation.is_done]

    def of_night(self, identity: int) -> Job | None:
        """Return the job that works on a night."""
        with self._lock:
            for job, thread in self._jobs.values():
                if thread.is_alive() and job.night is not None and job.night["id"] == identity:
                    return job
        return None

    def stop(self, report: Callable[[str], None]) -> None:
        """Ask all to stop and wait; what they did is kept, the rest goes on in the next life."""
        with self._lock:
            self._is_stopping = True
            running = [each for each in self._jobs.values() if each[1].is_alive()]
        for job, _ in running:
            job.cancelled.set()
        for job, thread in running:
            report(f"waiting for {job.command} to stop")
            thread.join(_JOIN_S)
            if thread.is_alive():
                log.error("%s did not stop; its work goes on in the next life", job.command)
