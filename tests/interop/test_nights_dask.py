# SPDX-License-Identifier: BSD-3-Clause
"""The same tasks on a real Dask cluster: one scheduler, two worker processes."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kit import executor_tasks as kit
from kit.executor_tasks import Gathered, task, until
from nightjar.errors import Cancelled, Code, ConfigError, Refused, Unreachable
from nightjar.executor import cluster as cluster_module
from nightjar.executor.choosing import ExecutorConfig, executor_of
from nightjar.executor.cluster import DaskExecutor
from nightjar.executor.pool import PoolExecutor
from nightjar.executor.probes import LOOK
from nightjar.executor.remote import census

pytest.importorskip("distributed", reason="the extra dask is not installed")
_LISTENS = re.compile(r"Scheduler at:\s+(tcp://\S+)\s")  # a whole line


class Cluster:
    """A scheduler and its workers, processes each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[subprocess.Popen[bytes]] = []
        self.workers: list[subprocess.Popen[bytes]] = []
        self._start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        log = folder / "scheduler-1.log"
        self.address = until(
            lambda: (found := _LISTENS.search(log.read_text())) and found[1], "the scheduler"
        )

    @property
    def scheduler(self) -> subprocess.Popen[bytes]:
        return self._started[0]

    def add_worker(self, *options: str) -> subprocess.Popen[bytes]:
        worker = self._start(
            "worker", self.address, "--no-nanny", "--nthreads", "1", "--no-dashboard",
            "--host", "127.0.0.1", "--local-directory", str(self.folder / "spill"),
            "--memory-limit", "0", "--death-timeout", "20", *options,
        )  # fmt: skip
        self.workers.append(worker)
        return worker

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        log = self.folder / f"{arguments[0]}-{len(self._started) + 1}.log"
        with open(log, "wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", *arguments], stdout=out, stderr=out,
                env=os.environ | {
                    "PYTHONPATH": kit.PYTHONPATH,
                    "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1",
                    "DASK_DISTRIBUTED__DIAGNOSTICS__NVML": "False",
                },
            )  # fmt: skip
        self._started.append(process)
        return process

    def stop(self) -> None:
        for process in reversed(self._started):
            process.kill()
            process.wait(kit.LIMIT_S)


@contextlib.contextmanager
def two_workers(folder: Path) -> Iterator[Cluster]:
    made = Cluster(folder)
    try:
        made.add_worker()
        made.add_worker()
        yield made
    finally:
        made.stop()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster to kill."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    with two_workers(folder) as made:
        yield made


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, _session_folders: str) -> Iterator[Cluster]:
    """The cluster of the tests that leave it as it was."""
    with two_workers(tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.fixture
def dask(shared: Cluster) -> Iterator[DaskExecutor]:
    with DaskExecutor(shared.address, allowed=kit.ALLOWED, cancel_s=10) as executor:
        yield executor


def _tasks(folder: Path) -> list[kit.Task]:
    folder.mkdir()
    tasks = [task(f"w{n}", kit.write, folder=str(folder), name=f"f{n}", seed=n, size=20_000)
             for n in range(12)]  # fmt: skip
    return [
        *tasks, task("square", kit.square, number=12), task("refused", kit.refuse, text="no"),
        task("full", kit.fill_disk, path="/f"), task("blunder", kit.blunder),
        task("no json", kit.no_json), kit.Task("elsewhere", "os:system", {"command": "true"}),
    ]  # fmt: skip


def test_same_results_and_bytes_as_in_the_pool(
    dask: DaskExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", kit.PYTHONPATH)
    with PoolExecutor(2, 1, allowed=kit.ALLOWED) as pool:
        here = Gathered().run(pool, _tasks(tmp_path / "here"))
    there = Gathered().run(dask, _tasks(tmp_path / "there"))
    assert there.results == here.results
    assert len(there.results) == 13
    told = [
        {name: (type(error), error.code, error.message, error.detail)
         for name, error in got.failures.items()}
        for got in (here, there)
    ]  # fmt: skip
    assert told[0] == told[1]
    assert told[1]["refused"][:2] == (Refused, Code.OUT_OF_RANGE)
    for n in range(12):
        assert (tmp_path / f"there/f{n}").read_bytes() == (tmp_path / f"here/f{n}").read_bytes()
    last = [event for event in there.events if event.task.id == "w3"][-1]
    assert (last.kind, last.frames, last.bytes, last.text) == ("progress", 313, 20032, "writing")
    assert last.worker.startswith("tcp://127.0.0.1:")


def test_news_that_come_later_than_the_reply_are_known_from_it(
    dask: DaskExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nightjar.executor.cluster._Run._hear", lambda *_: None)
    there = Gathered().run(dask, _tasks(tmp_path / "there"))
    assert len(there.results) == 13
    for name in there.results:
        events = [event for event in there.events if event.task.id == name]
        assert [event.kind for event in events] == ["started", "progress"][: len(events)]
        assert events[0].worker.startswith("tcp://127.0.0.1:")
        assert {event.worker for event in events} == {events[0].worker}
    assert there.kinds("w3") == ["started", "progress"]
    assert there.kinds("refused") == ["started"]


def test_both_workers_work_and_one_killed_in_mid_task_costs_only_that_task(
    cluster: Cluster, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    starts = {name: tmp_path / name for name in ("one", "two")}
    killed: list[int] = []

    def kill_one(event: kit.Event) -> None:
        if not killed and all(path.exists() for path in starts.values()):
            killed.append(kit.read_pid(starts["one"]))
            os.kill(killed[0], signal.SIGKILL)
            cluster.add_worker()
        elif event.kind == "again":
            gate.touch()

    got = Gathered()
    got.on_event = kill_one
    with DaskExecutor(cluster.address, allowed=kit.ALLOWED, cancel_s=10) as dask:
        got.run(dask, [
            *(task(name, kit.wait_for, started=str(path), gate=str(gate))
              for name, path in starts.items()),
            *(task(f"n{n}", kit.square, number=n) for n in range(20)),
        ])  # fmt: skip
    assert got.failures == {}
    assert len(got.results) == 22
    assert got.results["one"] not in killed
    assert got.kinds("one").count("again") == 1
    assert got.results["two"] not in killed
    assert "again" not in got.kinds("two")  # the other went on undisturbed


def test_a_task_that_kills_every_worker_is_reported_and_no_other(
    cluster: Cluster, tmp_path: Path
) -> None:
    for _ in range(3):
        cluster.add_worker()
    marker = tmp_path / "deaths"
    with DaskExecutor(cluster.address, allowed=kit.ALLOWED) as dask:
        got = Gathered().run(dask, [
            task("always", kit.die, marker=str(marker), times=99),
            *(task(f"n{n}", kit.square, number=n) for n in range(20)),
        ])  # fmt: skip
    assert {name: error.message for name, error in got.failures.items() if name[0] == "n"} == {}
    assert len(got.results) == 20
    assert "every Dask worker that had it died" in got.failures["always"].message
    assert len(marker.read_bytes()) == 4  # as often as the scheduler allows, then so again alone


def test_cancel_reaches_the_tasks_on_the_workers(dask: DaskExecutor, tmp_path: Path) -> None:
    starts = [tmp_path / "a", tmp_path / "b"]
    got = Gathered()
    with pytest.raises(Cancelled):
        got.run(
            dask,
            [*(task(path.name, kit.wait_for, started=str(path), gate=str(tmp_path / "never"))
               for path in starts),
             *(task(f"n{n}", kit.square, number=n) for n in range(9))],
            cancelled=lambda: all(path.exists() for path in starts),
        )  # fmt: skip
    assert not {"a", "b"} & got.results.keys()
    after = Gathered().run(dask, [task("t", kit.square, number=5)])  # the workers are free again
    assert after.results["t"]["square"] == 25


def test_memory_that_workers_declare_admits_tasks(cluster: Cluster, tmp_path: Path) -> None:
    for worker in cluster.workers:
        worker.kill()
    cluster.add_worker("--nthreads", "4", "--resources", "MEMORY=1000000")
    sizes = [600_000, 300_000, 500_000, 1_000_000, 100_000, 700_000]
    (room := tmp_path / "room").mkdir()
    with DaskExecutor(cluster.address, allowed=kit.ALLOWED) as dask:
        until(lambda: _declared(dask) == [1e6], "the worker that declares memory")
        got = Gathered().run(dask, [
            *(kit.Task(f"{n}", "kit.executor_tasks:hold",
                       {"folder": str(room), "name": str(n), "memory": size}, size)
              for n, size in enumerate(sizes)),
            task("large", kit.square, memory=1_000_001, number=1),
        ])  # fmt: skip
    assert len(got.results) == len(sizes)
    assert 500_000 < max(got.results.values()) <= 1_000_000
    assert got.failures["large"].code is Code.OUT_OF_RANGE
    assert "--resources MEMORY" in got.failures["large"].message


def _declared(dask: DaskExecutor) -> list[float | None]:
    seen = dask.client().run_on_scheduler(census)
    return [memory for _threads, memory in seen.values()]


def test_workers_of_another_version_are_refused(
    dask: DaskExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_module, "__version__", "99.9")
    got = Gathered().run(dask, [task("t", kit.square, number=1)])
    assert isinstance(got.failures["t"], ConfigError)
    assert "not 99.9" in got.failures["t"].message


def test_a_scheduler_that_dies_in_mid_run_is_said(cluster: Cluster, tmp_path: Path) -> None:
    started = tmp_path / "pid"

    def kill_scheduler(event: kit.Event) -> None:
        if event.kind == "progress":
            cluster.scheduler.kill()

    got = Gathered()
    got.on_event = kill_scheduler
    with DaskExecutor(cluster.address, allowed=kit.ALLOWED, away_s=1) as dask:
        dask.client().wait_for_workers(1, timeout=kit.LIMIT_S)
        with contextlib.suppress(Unreachable):
            got.run(dask, [task("t", kit.wait_for, started=str(started),
                                gate=str(tmp_path / "never"))])  # fmt: skip
            assert isinstance(got.failures["t"], Unreachable)
        assert got.results == {}
    assert cluster.scheduler.poll() is not None, "it was killed while the task ran"


def test_no_scheduler_and_no_workers_are_said(free_ports: Callable[[int], list[int]]) -> None:
    (port,) = free_ports(1)
    with DaskExecutor(f"tcp://127.0.0.1:{port}", allowed=frozenset(), connect_s=1) as dask:
        with pytest.raises(Unreachable, match="no Dask scheduler answers at"):
            Gathered().run(dask, [task("t", kit.square, number=1)])


def test_a_scheduler_without_workers_is_said(tmp_path: Path) -> None:
    lonely = Cluster(tmp_path)
    try:
        with DaskExecutor(lonely.address, allowed=frozenset(), away_s=1) as dask:
            with pytest.raises(Unreachable, match="it has no workers"):
                Gathered().run(dask, [task("t", kit.square, number=1)])
    finally:
        lonely.stop()


def test_configuration_chooses_dask(shared: Cluster) -> None:
    executor = executor_of(ExecutorConfig(scheduler=shared.address), frozenset())
    pids = {worker.pid for worker in shared.workers}
    try:
        look = kit.Task("look", LOOK, {"folders": []})
        seen = Gathered().run(executor, [look]).results["look"]
        assert seen["pid"] in pids
        missing = str(shared.folder / "none")
        all_seen = until(
            lambda: len(found := executor.survey([missing])) == 2 and found, "both workers"
        )
    finally:
        executor.close()
    assert {one["pid"] for one in all_seen.values()} == pids
    assert all(one["folders"] == {missing: "missing"} for one in all_seen.values())
