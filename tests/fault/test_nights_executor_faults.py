# SPDX-License-Identifier: BSD-3-Clause
"""The pool when workers are killed, hang, cannot start, or lose their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from kit import executor_tasks as kit
from kit.executor_tasks import Gathered, task, until
from nightjar.errors import Cancelled, NightjarError
from nightjar.executor import pool as pool_module
from nightjar.executor.pool import PoolExecutor

MEMORY = 1_000_000


@pytest.fixture
def make(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Callable[..., PoolExecutor]:
    monkeypatch.setenv("PYTHONPATH", kit.PYTHONPATH)

    def made(workers: int = 2, **options: float) -> PoolExecutor:
        executor = PoolExecutor(workers, MEMORY, allowed=kit.ALLOWED, **options)  # type: ignore[arg-type]
        request.addfinalizer(executor.close)
        return executor

    return made


def test_a_killed_worker_costs_one_attempt_of_its_task(
    make: Callable[..., PoolExecutor], tmp_path: Path
) -> None:
    tasks = [task(f"n{n}", kit.square, number=n) for n in range(20)]
    tasks.insert(5, task("once", kit.die, marker=str(tmp_path / "once"), times=1))
    tasks.insert(9, task("twice", kit.die, marker=str(tmp_path / "twice"), times=2))
    tasks.insert(12, task("always", kit.die, marker=str(tmp_path / "always"), times=99))
    got = Gathered().run(make(), tasks)
    assert {name for name in got.results if name.startswith("n")} == {f"n{n}" for n in range(20)}
    assert got.results["once"] == "lived after 1"
    assert got.results["twice"] == "lived after 2"
    assert set(got.failures) == {"always"}
    assert "died 3 times, the last one ended by SIGKILL" in got.failures["always"].message
    assert got.kinds("once").count("again") == 1
    assert got.kinds("always").count("started") == 3
    assert all(got.kinds(f"n{n}") == ["started"] for n in range(20))  # nobody else was disturbed


def test_killed_from_outside_in_mid_task(make: Callable[..., PoolExecutor], tmp_path: Path) -> None:
    started, gate = tmp_path / "pid", tmp_path / "gate"
    killed: list[int] = []

    def kill_first(event: kit.Event) -> None:
        if event.kind == "progress" and not killed:
            killed.append(kit.read_pid(started))
            os.kill(killed[0], signal.SIGKILL)
        elif event.kind == "again":
            gate.touch()

    got = Gathered()
    got.on_event = kill_first
    got.run(make(1), [task("t", kit.wait_for, started=str(started), gate=str(gate))])
    assert got.results["t"] not in (*killed, os.getpid())


def test_workers_killed_between_runs_are_replaced(make: Callable[..., PoolExecutor]) -> None:
    executor = make()
    tasks = [task(f"n{n}", kit.square, number=n) for n in range(4)]
    Gathered().run(executor, tasks)
    for pid in executor.pids():
        os.kill(pid, signal.SIGKILL)
    got = Gathered().run(executor, tasks)
    assert len(got.results) == 4


def test_a_silent_task_is_taken_for_stuck(
    make: Callable[..., PoolExecutor], tmp_path: Path
) -> None:
    got = Gathered().run(
        make(2, stall_s=0.3, tries=2),
        [task("deaf", kit.be_deaf, started=str(tmp_path / "pid")), task("n", kit.square, number=2)],
    )
    assert got.results["n"]["square"] == 4
    assert "died 2 times" in got.failures["deaf"].message


def test_cancel_ends_what_runs_and_begins_nothing(
    make: Callable[..., PoolExecutor], tmp_path: Path
) -> None:
    """One task hears of it at its next report, one never listens and is killed."""
    willing, deaf, gate = tmp_path / "willing", tmp_path / "deaf", tmp_path / "gate"
    executor = make(2, cancel_s=3.0)  # the willing one may be held up for a while
    got = Gathered()
    with pytest.raises(Cancelled):
        got.run(
            executor,
            [task("willing", kit.wait_for, started=str(willing), gate=str(gate)),
             task("deaf", kit.be_deaf, started=str(deaf)),
             *(task(f"n{n}", kit.square, number=n) for n in range(5))],
            cancelled=lambda: willing.exists() and deaf.exists(),
        )  # fmt: skip
    assert (got.results, got.failures) == ({}, {})
    assert not Path(f"/proc/{kit.read_pid(deaf)}").exists()
    assert kit.read_pid(willing) in executor.pids()  # it ended in order and is kept
    assert Gathered().run(executor, [task("t", kit.square, number=3)]).results["t"]["square"] == 9


def test_close_from_another_thread_cancels_the_run(
    make: Callable[..., PoolExecutor], tmp_path: Path
) -> None:
    started = tmp_path / "pid"
    executor = make(1)
    raised: list[BaseException] = []

    def work() -> None:
        try:
            Gathered().run(executor, [task("deaf", kit.be_deaf, started=str(started))])
        except Cancelled as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    pid = kit.read_pid(started)
    executor.close()
    thread.join(kit.LIMIT_S)
    assert len(raised) == 1
    assert not Path(f"/proc/{pid}").exists()


def test_workers_that_cannot_start_are_not_started_for_ever(
    make: Callable[..., PoolExecutor],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(pool_module, "_MODULE", "nightjard.no_such_module")
    with pytest.raises(NightjarError, match="end before they can work"):
        Gathered().run(make(1), [task("t", kit.square, number=1)])
    assert capfd.readouterr().err.count("No module named") == 3


PARENT = """
import sys
from kit import executor_tasks as kit
from nightjar.executor.pool import PoolExecutor
if __name__ == "__main__":
    tasks = [kit.task("t", kit.be_deaf, started=sys.argv[1])]
    kit.Gathered().run(PoolExecutor(2, 1, allowed=kit.ALLOWED), tasks)
"""


def test_workers_end_with_their_parent_however_it_ends(tmp_path: Path) -> None:
    started = tmp_path / "pid"
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(started)],
        env=os.environ | {"PYTHONPATH": kit.PYTHONPATH},
    )
    try:
        pid = kit.read_pid(started)
    finally:
        parent.kill()
        parent.wait()
    until(lambda: not _is_alive(pid), "the end of the worker")


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
