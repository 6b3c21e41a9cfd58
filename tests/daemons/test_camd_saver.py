# SPDX-License-Identifier: BSD-3-Clause
"""The pool of saving processes, with workers that do as a script tells them."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nightjar.clock import SystemClock
from nightjar.errors import Code, NightjarError, StorageError
from nightjard.camd import saver as module
from nightjard.camd.saver import Job, Saved, Saver, WorkerProcess

# Each line of the script file is what one job, over all processes, is answered with.
WORKER = r'''
import fcntl, json, os, sys, time
folder = sys.argv[1]

def next_line(name):
    with open(os.path.join(folder, name), "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        lines = file.read().splitlines()
        file.seek(0)
        file.truncate()
        file.write("\n".join(lines[1:]))
        return lines[0] if lines else "ok"

start = next_line("starts")
if start == "die":
    sys.exit(3)
if start == "hang":
    time.sleep(60)
if start == "garbage":
    print("what?", flush=True)
print('{"event": "ready"}', flush=True)
for line in sys.stdin:
    job = json.loads(line)
    answer = {"event": "saved", "number": job["number"], "size": 1, "datasum": "0",
              "seconds": 0.0, "pid": os.getpid()}
    what = next_line("jobs")
    if what == "die":
        os._exit(4)
    elif what == "hang":
        time.sleep(60)
    elif what == "full":
        answer = {"event": "failed", "number": job["number"], "code": "NO_SPACE",
                  "message": "disk full"}
    elif what != "ok":
        print(what, flush=True)
        continue
    with open(os.path.join(folder, "saved"), "a") as file:
        if answer["event"] == "saved":
            file.write(f"{job['number']}\n")
    print(json.dumps(answer), flush=True)
'''


class Pool:
    """A saver, its script, and what it told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.saved: list[int] = []
        self.troubles: list[tuple[int, NightjarError]] = []
        self.changed = threading.Condition()
        self.on_saved: Callable[[Saved], None] = lambda saved: None
        (folder / "worker.py").write_text(WORKER)
        self.script([])
        self.script([], "starts")
        self.saver: Saver

    def script(self, lines: list[str], name: str = "jobs") -> None:
        (self.folder / name).write_text("\n".join(lines))

    def start(self, workers: int = 1) -> Pool:
        command = (sys.executable, "-S", str(self.folder / "worker.py"), str(self.folder))
        self.saver = Saver(workers, self._saved, self._trouble, SystemClock(), command)
        self.saver.start()
        return self

    def _saved(self, saved: Saved) -> None:
        with self.changed:
            self.saved.append(saved.job["number"])
            self.changed.notify_all()
        self.on_saved(saved)

    def _trouble(self, job: Job, error: NightjarError) -> None:
        with self.changed:
            self.troubles.append((job["number"], error))
            self.changed.notify_all()

    def submit(self, *numbers: int) -> None:
        for number in numbers:
            path = str(self.folder / f"test-{number}.fits")
            self.saver.submit({"number": number, "shape": [1, 1], "path": path})

    def until(self, check: Callable[[], bool], timeout_s: float = 10.0) -> None:
        with self.changed:
            assert self.changed.wait_for(check, timeout_s), (self.saved, self.troubles)

    @property
    def written(self) -> list[int]:
        return [int(line) for line in (self.folder / "saved").read_text().split()]


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(module, "LONGEST_PAUSE_S", 0.05)
    pool = Pool(tmp_path)
    yield pool
    pool.saver.stop(0.0)


def test_every_frame_is_saved_once(pool: Pool) -> None:
    pool.start(3).submit(*range(20))
    pool.until(lambda: len(pool.saved) == 20)
    assert sorted(pool.saved) == list(range(20)) == sorted(pool.written)
    assert pool.saver.stop(5)
    assert (pool.saver.pending, pool.saver.alive, pool.saver.restarts) == (0, 0, 0)


@pytest.mark.parametrize(
    "accident",
    ["die", "hang", "not json", "[1, 2]", "17", "{}", '{"event": "saved"}',
     '{"event": "saved", "number": 1}', '{"event": "saved", "number": 99, "size": 1}',
     '{"event": "ready", "number": 1}'],
)  # fmt: skip
def test_a_frame_survives_what_a_worker_does_with_it(
    pool: Pool, accident: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient_s, replace = module.JOB_TIMEOUT_S, Saver._replace

    def impatient(_saved: Saved) -> None:  # with the next one only: others are not to hang
        if accident == "hang" and not pool.saver.restarts:
            module.JOB_TIMEOUT_S = 0.5

    def replaced(saver: Saver, worker: WorkerProcess, why: str) -> Any:
        module.JOB_TIMEOUT_S = patient_s
        return replace(saver, worker, why)

    monkeypatch.setattr(module, "JOB_TIMEOUT_S", patient_s)
    monkeypatch.setattr(Saver, "_replace", replaced)
    pool.on_saved = impatient
    pool.script(["ok", accident])
    pool.start().submit(0, 1, 2)
    pool.until(lambda: len(pool.saved) == 3)
    assert pool.saved == [0, 1, 2]
    assert pool.saver.restarts == 1
    assert not pool.troubles, "an accident of a process is not a trouble of the disk"


@pytest.mark.parametrize("accident", ["die", "hang", "garbage"])
def test_a_worker_that_does_not_start_is_tried_again(
    pool: Pool, accident: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "START_TIMEOUT_S", 2.0)
    pool.script([accident], "starts")
    pool.start().submit(1)
    pool.until(lambda: pool.saved == [1])


def test_a_full_disk_is_told_and_tried_until_it_has_room(pool: Pool) -> None:
    pool.script(["full"] * 4)
    pool.start().submit(1, 2)
    pool.until(lambda: len(pool.saved) == 2)
    assert pool.saved == [1, 2]
    assert [number for number, _ in pool.troubles] == [1] * 4
    error = pool.troubles[0][1]
    assert isinstance(error, StorageError)
    assert (error.code, error.message) == (Code.NO_SPACE, "disk full")
    assert pool.saver.restarts == 0, "the process is well"


def test_a_frame_that_ends_every_process_is_told(pool: Pool) -> None:
    pool.script(["die"] * 5)
    pool.start().submit(1)
    pool.until(lambda: pool.saved == [1], 20)
    assert 1 <= len(pool.troubles) <= 3
    assert "saving processes failed" in pool.troubles[0][1].message


def test_processes_that_cannot_be_started_at_all_are_told(pool: Pool) -> None:
    command = (str(pool.folder / "no-such-program"),)
    pool.saver = Saver(1, pool._saved, pool._trouble, SystemClock(), command)
    pool.saver.start()
    pool.submit(1)
    pool.until(lambda: bool(pool.troubles))
    assert not pool.saver.stop(0.0)
    assert pool.saver.pending == 1


def test_a_bug_in_a_callback_ends_no_thread(pool: Pool) -> None:
    def bug(saved: Saved) -> None:
        raise RuntimeError("bug")

    pool.on_saved = bug
    pool.start().submit(1, 2, 3)
    pool.until(lambda: len(pool.saved) == 3)
    assert pool.saver.stop(5)
    assert pool.saver.pending == 0


def test_an_idle_worker_that_dies_is_replaced(pool: Pool) -> None:
    pool.start().submit(1)
    pool.until(lambda: pool.saved == [1])
    (pid,) = pool.saver.pids()
    os.kill(pid, signal.SIGKILL)
    pool.submit(2)
    pool.until(lambda: pool.saved == [1, 2])
    assert pool.saver.pids() != [pid]


def test_a_stop_without_time_leaves_the_rest_unsaved(pool: Pool) -> None:
    pool.script(["full"] * 1000)
    pool.start().submit(1, 2, 3)
    pool.until(lambda: bool(pool.troubles))
    assert not pool.saver.stop(0.05)
    assert pool.saver.pending == 3
    assert pool.saver.alive == 0
    assert pool.saved == []


def test_a_saver_that_was_never_started_can_be_stopped(pool: Pool) -> None:
    pool.saver = Saver(2, pool._saved, pool._trouble, SystemClock(), ("true",))
    assert pool.saver.stop(0.0)


def test_the_real_worker_answers_garbage_by_its_error(tmp_path: Path) -> None:
    """A job for a stream that is gone is a failure with a message, not the end of the worker."""
    worker = WorkerProcess(module.WORKER_COMMAND, SystemClock())
    worker.start()
    job: dict[str, Any] = {
        "number": 7, "stream": str(tmp_path / "none.im.shm"), "offset": 0, "shape": [1, 1],
        "path": str(tmp_path / "a.fits"), "header": {}, "extra": {}, "capacity": 36,
        "crop": [0, 1, 0, 1], "binning": 1, "method": "sum",
    }  # fmt: skip
    try:
        for _ in range(2):
            answer = worker.ask(job)
            assert (answer["event"], answer["number"]) == ("failed", 7)
            assert json.dumps(answer["message"])
        assert worker.is_alive
    finally:
        worker.end()
    assert not worker.is_alive
    assert not list(tmp_path.iterdir())
