# SPDX-License-Identifier: BSD-3-Clause
"""Tasks in the processes of the pool: results, failures, order, memory, progress, priority."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit import executor_tasks as kit
from kit.executor_tasks import Gathered, task
from nightjar import __version__
from nightjar.errors import Busy, Code, ConfigError, InvalidArgument, Refused, StorageError
from nightjar.executor.choosing import ExecutorConfig, executor_of
from nightjar.executor.pool import PoolExecutor
from nightjar.executor.progress import report
from nightjar.executor.tasks import Task
from nightjard.archived.nights.functions import ALLOWED

MEMORY = 1_000_000


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[PoolExecutor]:
    monkeypatch.setenv("PYTHONPATH", kit.PYTHONPATH)
    with PoolExecutor(2, MEMORY, allowed=kit.ALLOWED | ALLOWED) as executor:
        yield executor


def test_every_task_has_its_own_result_or_failure(pool: PoolExecutor, tmp_path: Path) -> None:
    tasks = [task(f"n{n}", kit.square, number=n) for n in range(40)]
    tasks += [
        task("refused", kit.refuse, text="seven at most"),
        task("full", kit.fill_disk, path="/some/file"), task("blunder", kit.blunder),
        task("no json", kit.no_json), Task("elsewhere", "os:system", {"command": "true"}),
        task("no such argument", kit.square, no_such=1),
        Task("bad arguments", "kit.executor_tasks:square", {"number": {1, 2}}),
    ]  # fmt: skip
    got = Gathered().run(pool, tasks)
    assert got.results == {f"n{n}": {"square": n * n, "as_tuple": [1, 2]} for n in range(40)}
    refused = got.failures.pop("refused")
    assert isinstance(refused, Refused)
    assert (refused.code, refused.message) == (Code.OUT_OF_RANGE, "seven at most")
    assert refused.detail == {"limit": 7}
    full = got.failures.pop("full")
    assert isinstance(full, StorageError)
    assert (full.code, full.message) == (Code.NO_SPACE, "/some/file: No space left on device")
    assert isinstance(got.failures.pop("elsewhere"), InvalidArgument)
    assert isinstance(got.failures.pop("bad arguments"), InvalidArgument)
    codes = {name: (error.code, error.message) for name, error in got.failures.items()}
    assert set(codes) == {"blunder", "no json", "no such argument"}
    assert {code for code, _ in codes.values()} == {Code.INTERNAL}
    assert "ZeroDivisionError: by zero" in codes["blunder"][1]
    assert "executor_tasks.py, line" in codes["blunder"][1]


def test_the_processes_work_at_the_same_time_and_are_kept(
    pool: PoolExecutor, tmp_path: Path
) -> None:
    def pair(folder: str) -> set[int]:
        place = tmp_path / folder
        place.mkdir()
        tasks = [task(n, kit.meet, folder=str(place), name=n, others=2) for n in ("a", "b")]
        return set(Gathered().run(pool, tasks).results.values())

    first = pair("first")
    assert len(first) == 2
    assert os.getpid() not in first
    assert first == set(pool.pids()) == pair("second")


def test_tasks_are_taken_only_as_workers_become_free(pool: PoolExecutor) -> None:
    taken = []

    def endless() -> Iterator[Task]:
        for n in range(1000):
            taken.append(n)
            yield task(f"n{n}", kit.square, number=n)

    got = Gathered()
    lead = []
    got.on_event = lambda _event: lead.append(len(taken) - len(got.results))
    got.run(pool, endless())
    assert len(got.results) == 1000
    assert max(lead) <= 3  # one at each worker and the next


def test_memory_of_all_running_tasks_stays_below_the_limit(
    pool: PoolExecutor, tmp_path: Path
) -> None:
    sizes = [600_000, 300_000, 500_000, 1_000_000, 100_000, 700_000, 400_000, 300_000] * 2
    tasks = [task(f"{n}", kit.hold, memory=size, folder=str(tmp_path), name=str(n))
             for n, size in enumerate(sizes)]  # fmt: skip
    tasks = [Task(t.id, t.function, t.arguments | {"memory": t.memory_bytes}, t.memory_bytes)
             for t in tasks]  # fmt: skip
    got = Gathered().run(pool, tasks)
    assert set(got.results) == {str(n) for n in range(len(sizes))}
    assert MEMORY // 2 < max(got.results.values()) <= MEMORY
    order = [event.task.id for event in got.events if event.kind == "started"]
    assert order == [str(n) for n in range(len(sizes))]


def test_a_task_beyond_the_limit_fails_by_itself(pool: PoolExecutor) -> None:
    got = Gathered().run(pool, [
        task("large", kit.square, memory=MEMORY + 1, number=1),
        task("small", kit.square, memory=MEMORY, number=2),
    ])  # fmt: skip
    assert got.results["small"]["square"] == 4
    assert got.failures["large"].code is Code.OUT_OF_RANGE
    assert "executor.memory" in got.failures["large"].message


def test_progress_arrives_while_the_task_runs_and_sums_up(
    pool: PoolExecutor, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    got = Gathered()

    def open_gate(event: kit.Event) -> None:
        if event.kind == "progress" and event.frames >= 2:
            gate.touch()  # the task ends only because its progress was heard before

    got.on_event = open_gate
    got.run(pool, [task("t", kit.wait_for, started=str(tmp_path / "pid"), gate=str(gate))])
    pid = got.results["t"]
    assert {event.worker for event in got.events} == {f"pid {pid}"}
    assert got.kinds("t")[0] == "started"
    frames = [event.frames for event in got.events if event.kind == "progress"]
    assert frames == sorted(frames)

    got = Gathered().run(pool, [task("w", kit.write, folder=str(tmp_path), name="f", seed=1,
                                     size=6400)])  # fmt: skip
    last = got.events[-1]
    assert (last.kind, last.frames, last.bytes, last.text) == ("progress", 100, 6400, "writing")

    got = Gathered().run(pool, [task("threads", kit.from_thread)])
    assert [(e.frames, e.bytes, e.text) for e in got.events if e.kind == "progress"][-1] == (
        3, 30, "in a thread",
    )  # fmt: skip


def test_outside_of_an_executor_progress_goes_nowhere() -> None:
    report(frames=1, bytes=2, stage="x")


def test_large_arguments_and_results_pass(pool: PoolExecutor) -> None:
    text = "ü" * 1_500_000
    got = Gathered().run(pool, [task("t", kit.large, size=len(text) * 2, text=text)])
    assert got.results["t"] == text * 2


def test_idle_workers_stand_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", kit.PYTHONPATH)
    with PoolExecutor(1, MEMORY, idle=True, allowed=kit.ALLOWED) as executor:
        told = Gathered().run(executor, [task("t", kit.priority)]).results["t"]
        threads = Gathered().run(executor, [task("t", kit.threads_of_libraries)]).results["t"]
    assert told["policy"] == os.SCHED_IDLE
    assert told["io"] in ("idle", "")  # "": there is no ionice
    assert threads == "1"


def test_a_second_run_at_the_same_time_is_busy(pool: PoolExecutor) -> None:
    refused = []

    def second(_event: kit.Event) -> None:
        thread = threading.Thread(target=lambda: refused.append(_tried(pool)))
        thread.start()
        thread.join()

    got = Gathered()
    got.on_event = second
    got.run(pool, [task("t", kit.square, number=1)])
    assert refused[0] is Busy


def _tried(pool: PoolExecutor) -> type[BaseException] | None:
    try:
        Gathered().run(pool, [])
    except Busy as error:
        return type(error)
    return None


def test_what_a_callback_raises_ends_the_run_and_the_pool_lives_on(
    pool: PoolExecutor, tmp_path: Path
) -> None:
    started, gate = tmp_path / "pid", tmp_path / "gate"

    def blow_up(event: kit.Event) -> None:
        if event.kind == "progress":
            raise LookupError("database gone")

    got = Gathered()
    got.on_event = blow_up
    with pytest.raises(LookupError, match="database gone"):
        got.run(pool, [task("t", kit.wait_for, started=str(started), gate=str(gate))])
    assert not Path(f"/proc/{kit.read_pid(started)}").exists()
    assert Gathered().run(pool, [task("t", kit.square, number=3)]).results["t"]["square"] == 9


def test_the_configured_executor_looks_around(tmp_path: Path) -> None:
    folders = [str(tmp_path), str(tmp_path / "none")]
    executor = executor_of(ExecutorConfig(workers=1, memory=100_000_000), frozenset())
    try:
        (seen,) = executor.survey(folders).values()
    finally:
        executor.close()
    assert seen["nightjar"] == __version__
    assert seen["folders"] == {folders[0]: "ok", folders[1]: "missing"}


def test_dask_is_imported_only_where_it_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)  # as if not installed
    with pytest.raises(ConfigError, match=r"install nightjar\[dask\]"):
        executor_of(ExecutorConfig(scheduler="tcp://127.0.0.1:1"), frozenset())


def test_every_function_of_the_table_exists() -> None:
    for name in ALLOWED:
        module, _, function = name.partition(":")
        assert callable(getattr(__import__(module, fromlist=["x"]), function)), name
