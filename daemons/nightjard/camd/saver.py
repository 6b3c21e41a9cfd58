# SPDX-License-Identifier: BSD-3-Clause
"""The supervised pool of saving processes.

A frame stays in its slot until its file is in place. A worker that dies or hangs is replaced and
its frame given to another; a folder that cannot be written is tried again until it can.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import queue
import selectors
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nightjar.clock import NS_PER_S, Clock
from nightjar.errors import Code, NightjarError, StorageError
from nightjar.files import temporary_name

log = logging.getLogger(__name__)

START_TIMEOUT_S = 20.0
# How long a worker may take for a frame before it counts as hung, beside a time for its bytes.
JOB_TIMEOUT_S = float(os.environ.get("NIGHTJAR_SAVE_TIMEOUT", "20"))
SLOWEST_BYTES_PER_S = 5e6
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 5.0
TROUBLE_AFTER = 3  # as many processes lost over one frame is no accident
_EVENTS = ("saved", "failed")
WORKER_COMMAND = (sys.executable, "-m", "nightjard.camd.worker")

Job = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Saved:
    """A frame that is in its file."""

    job: Job
    size: int
    datasum: str
    seconds: float
    bytes_read: int = 0
    bytes_written: int = 0


def wait_for_old_workers(lock: Path, clock: Clock, timeout_s: float) -> bool:
    """Wait until no saving process of an earlier daemon is at work; False at the deadline.

    Parameters
    ----------
    lock
        The file that they hold a shared lock on.
    """
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
    deadline = clock.monotonic_ns() + round(timeout_s * NS_PER_S)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                if clock.monotonic_ns() >= deadline:
                    return False
                clock.sleep(0.02)
            else:
                return True
    finally:
        os.close(descriptor)


class WorkerProcess:
    """One saving process: started when needed, asked one job at a time, ended and replaced.

    Parameters
    ----------
    command
        The program; see :mod:`nightjard.camd.worker` for what it speaks.
    clock
        Source of deadlines.
    """

    def __init__(self, command: Sequence[str], clock: Clock) -> None:
        self._command = tuple(command)
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = b""

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        process = self._process
        return process is not None and process.poll() is None

    @property
    def pid(self) -> int | None:
        """Its process id; None before the first start."""
        process = self._process
        return process.pid if process is not None else None

    def start(self) -> None:
        """Start it and wait until it is ready.

        Raises
        ------
        NightjarError
            It ended at once or did not get ready in time.
        """
        self._buffer = b""
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self._read(START_TIMEOUT_S, "start")

    def ask(self, job: Job) -> dict[str, Any]:
        """Return the process's answer to a job.

        Raises
        ------
        NightjarError
            It died or did not answer in time; :meth:`end` it.
        """
        if self._process is None or self._process.stdin is None:
            raise NightjarError("saving process is not running")
        try:
            self._process.stdin.write(json.dumps(job).encode() + b"\n")
        except OSError as error:
            raise NightjarError(f"saving process died: {error}") from error
        rows, columns = job["shape"]
        answer = self._read(JOB_TIMEOUT_S + rows * columns * 2 / SLOWEST_BYTES_PER_S, "save")
        if answer.get("number") != job["number"] or answer.get("event") not in _EVENTS:
            raise NightjarError(f"saving process answered {str(answer)[:100]!r}")
        return answer

    def _read(self, timeout_s: float, what: str) -> dict[str, Any]:
        """Return the process's next line."""
        assert self._process is not None
        assert self._process.stdout is not None
        deadline = self._clock.monotonic_ns() + round(timeout_s * NS_PER_S)
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                left_s = (deadline - self._clock.monotonic_ns()) / NS_PER_S
                if left_s <= 0:
                    raise NightjarError(f"saving process did not {what} within {timeout_s:.0f} s")
                if not selector.select(min(left_s, 1.0)):
                    continue
                part = self._process.stdout.read(65536)
                if not part:
                    code = self._process.wait()
                    raise NightjarError(f"saving process ended (exit status {code})")
                self._buffer += part
        line, self._buffer = self._buffer.split(b"\n", 1)
        answer = json.loads(line)
        if not isinstance(answer, dict):
            raise NightjarError(f"saving process answered {line[:100]!r}")
        return answer

    def end(self, *, kill: bool = False) -> None:
        """End the process: by the end of its input, or at once."""
        process = self._process
        if process is None:
            return
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
        try:
            if kill:
                process.kill()
            process.wait(JOB_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
        self._process = None


class Saver:
    """Worker processes and the threads that feed them, one each.

    Parameters
    ----------
    workers
        How many processes.
    on_saved
        Called from a feeding thread when a frame is in place.
    on_trouble
        Called with (job, error) each time a frame could not be saved, or cost several processes;
        it stays in line and is tried again.
    clock
        Paces retries.
    command
        What a worker is; tests replace it.
    """

    def __init__(
        self,
        workers: int,
        on_saved: Callable[[Saved], None],
        on_trouble: Callable[[Job, NightjarError], None],
        clock: Clock,
        command: Sequence[str] = WORKER_COMMAND,
    ) -> None:
        self._on_saved = on_saved
        self._on_trouble = on_trouble
        self._clock = clock
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._count_lock = threading.Lock()
        self.pending = 0
        self.restarts = 0
        self._workers = [WorkerProcess(command, clock) for _ in range(workers)]
        self._threads = [
            threading.Thread(target=self._feed, args=(worker,), name=f"saver-{number}", daemon=True)
            for number, worker in enumerate(self._workers)
        ]

    def start(self) -> None:
        """Start the processes."""
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> int:
        """Processes that are running."""
        return sum(worker.is_alive for worker in self._workers)

    def pids(self) -> list[int]:
        """Return the process ids, for diagnosis."""
        return [pid for worker in self._workers if (pid := worker.pid) is not None]

    def submit(self, job: Job) -> None:
        """Give a frame to the next idle worker."""
        with self._count_lock:
            self.pending += 1
        self._queue.put(job)

    def stop(self, timeout_s: float) -> bool:
        """Finish what is in line within `timeout_s`, then end the processes.

        Returns
        -------
        bool
            True when every frame was saved. Those that were not stay in the frame buffer.
        """
        deadline = self._clock.monotonic_ns() + round(timeout_s * NS_PER_S)
        for _ in self._threads:
            self._queue.put(None)
        running = [thread for thread in self._threads if thread.is_alive()]
        for thread in running:
            thread.join(max(0.0, (deadline - self._clock.monotonic_ns()) / NS_PER_S))
        self._stopping.set()
        for thread in running:
            thread.join(JOB_TIMEOUT_S)
        return self.pending == 0

    def _feed(self, worker: WorkerProcess) -> None:
        try:
            self._try_start(worker)
            while not self._stopping.is_set():
                try:
                    job = self._queue.get(timeout=1.0)
                except queue.Empty:
                    if not worker.is_alive:
                        self._replace(worker, "ended while idle")
                    continue
                if job is None:
                    break
                self._save(worker, job)
        finally:
            worker.end()

    def _save(self, worker: WorkerProcess, job: Job) -> None:
        """Try a job until its file is in place or the daemon is stopping."""
        pause_s = FIRST_PAUSE_S
        deaths = 0
        while not self._stopping.is_set():
            if not worker.is_alive:
                self._replace(worker, "had ended")
            try:
                answer = worker.ask(job)
                saved = _saved(job, answer) if answer["event"] == "saved" else None
            except Exception as error:  # noqa: BLE001 - whatever it was, the frame stays in line
                log.error("frame %d: %s; it is tried again", job["number"], error)
                half_written = temporary_name(Path(job["path"]), worker.pid)
                self._replace(worker, "is replaced")
                with contextlib.suppress(OSError):
                    half_written.unlink(missing_ok=True)
                deaths += 1
                if deaths >= TROUBLE_AFTER:
                    self._report(job, NightjarError(f"{deaths} saving processes failed: {error}"))
            else:
                if saved is not None:
                    self._done(saved)
                    return
                code = Code.from_name(str(answer.get("code")))
                self._report(job, StorageError(str(answer.get("message", "")), code=code))
            self._clock.wait(self._stopping, pause_s)
            pause_s = min(LONGEST_PAUSE_S, pause_s * 2)

    def _report(self, job: Job, error: NightjarError) -> None:
        try:
            self._on_trouble(job, error)
        except Exception:
            log.exception("frame %d: its trouble could not be reported", job["number"])

    def _done(self, saved: Saved) -> None:
        try:
            self._on_saved(saved)
        except Exception:
            # The file is in place: a bug in what is told of it must not end the saving.
            log.exception("frame %d: saved, but what follows failed", saved.job["number"])
        finally:
            with self._count_lock:
                self.pending -= 1

    def _replace(self, worker: WorkerProcess, why: str) -> None:
        log.warning("saving process %s %s", worker.pid, why)
        self.restarts += 1
        worker.end(kill=True)
        self._try_start(worker)

    def _try_start(self, worker: WorkerProcess) -> None:
        try:
            worker.start()
        except (NightjarError, OSError, ValueError) as error:
            log.error("saving process cannot be started: %s", error)
            worker.end(kill=True)  # one that hangs would only make the next frame wait
            self._clock.wait(self._stopping, FIRST_PAUSE_S)


def _saved(job: Job, answer: dict[str, Any]) -> Saved:
    return Saved(
        job, int(answer["size"]), str(answer["datasum"]), float(answer["seconds"]),
        int(answer.get("bytes_read", 0)), int(answer.get("bytes_written", 0)),
    )  # fmt: skip
