# SPDX-License-Identifier: BSD-3-Clause
"""Nights whose processes die: at every step, with all of their workers, in the middle of a file."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kit.archive_frames import empty_database
from kit.depth import soaked
from kit.nights import files_of, product_tags, products_of
from kit.tiny_nights import DATE, RAW, bench_of, make_tiny
from nightjar.errors import StorageError
from nightjar.executor import pool as pool_module
from nightjar.executor.pool import PoolExecutor
from nightjard.archived.nights import engine
from nightjard.archived.nights.functions import ALLOWED
from nightjard.simulators.night.truth import NightTruth

TESTS = Path(__file__).resolve().parents[1]
STEPS = ("sync", "headers", "ids", "consolidate", "manifest")


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> NightTruth:
    """Frames of some size, so that there is time to be killed."""
    return make_tiny(tmp_path_factory.mktemp("raw"), frame_shape=(192, 256))


def database(folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "archive.db").write_bytes(empty_database())
    return f"sqlite:///{folder / 'archive.db'}"


def until(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def start(root: Path, url: str, *products: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "kit.night_runner", root, url, "2", *products],
        cwd=TESTS, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def killed(share: int, *scenarios: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "kit.night_crash", os.environ["MILK_SHM_DIR"], str(share),
         *scenarios],
        cwd=TESTS, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert [report["scenario"] for report in reports] == list(scenarios)
    assert [report["problems"] for report in reports] == [[]] * len(scenarios)
    return reports


@pytest.mark.parametrize("share", [101, soaked(31)])
def test_killed_at_instants_of_every_step_then_run_to_the_end(share: int) -> None:
    (report,) = killed(share, "fresh")
    assert report["instants"] > 250
    for step in STEPS:
        assert report["kills"][step] >= 1, report["kills"]
    assert sum(report["kills"].values()) > 250 // share + len(STEPS)


@pytest.mark.parametrize("share", [103, soaked(41)])
def test_killed_while_a_night_is_made_anew(share: int) -> None:
    for report in killed(share, "late", "restore", "repair"):
        assert sum(report["kills"].values()) > 250 // share - 1


def test_workers_end_with_their_parent_and_the_night_goes_on(
    truth: NightTruth, tmp_path: Path
) -> None:
    shutil.copytree(truth.folder, tmp_path / "one" / DATE)
    shutil.copytree(truth.folder, tmp_path / "two" / DATE)
    undisturbed = bench_of(tmp_path / "one", database(tmp_path / "first"))
    undisturbed.run(tmp_path / "one" / DATE)
    undisturbed.close()
    night, url = tmp_path / "two" / DATE, database(tmp_path / "second")
    raw = {name: files_of(night / name) for name in RAW}
    workers: list[int] = []
    for wanted in (1, 4):  # files that have their names when the parent dies
        process = start(night.parent, url, str(wanted))
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("worker"):
                workers.append(int(line.split()[1]))
            if line == "held\n":
                break
        assert len(products_of(night)) >= wanted
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        until(
            lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers),
            "workers outlive their parent",
        )
        assert {name: files_of(night / name) for name in RAW} == raw
    assert len(products_of(night)) < len(products_of(tmp_path / "one" / DATE))
    process = start(night.parent, url)
    said, _ = process.communicate(timeout=60)
    assert said.endswith("done\n"), said
    first, second = (str(tmp_path / name).encode() for name in ("one", "two"))
    wanted, found = files_of(tmp_path / "one" / DATE), files_of(night)
    assert wanted.keys() == found.keys()
    for name, data in found.items():
        # Manifests name the folder, a letter has one in base64.
        assert data.replace(second, first) == wanted[name] or name.endswith(".eml"), name


def test_a_worker_that_dies_for_good_fails_the_night_and_loses_nothing(
    truth: NightTruth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference ignores it, deletes raw and calls the night processed."""
    night = tmp_path / "raw" / DATE
    shutil.copytree(truth.folder, night)
    raw = {name: files_of(night / name) for name in RAW}
    bench = bench_of(tmp_path / "raw", database(tmp_path / "state"))
    steps: list[str] = []
    killed: list[int] = []
    give = pool_module._Run._start

    def kill(run: Any, process: Any, order: Any) -> None:
        """Kill the worker with its task in hand: stopped before, it cannot have done it."""
        pid = process.process.pid if steps[-1:] == ["consolidate"] and len(killed) < 2 else None
        if pid is not None:
            os.kill(pid, signal.SIGSTOP)
        give(run, process, order)
        if pid is not None:
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)

    def pool() -> PoolExecutor:
        return PoolExecutor(1, 10**9, allowed=ALLOWED, tries=1)

    monkeypatch.setattr(pool_module._Run, "_start", kill)
    bench.tools = engine.Tools(**{**vars(bench.tools), "executor": pool})
    bench.engine = engine.Engine(bench.tools)
    with pytest.raises(StorageError, match=r"of \d+ products could not be written; .*SIGKILL"):
        bench.run(night, progress=lambda each: steps.append(each.step))
    assert len(killed) == 2
    row = bench.night(night)
    assert (row["state"], row["processed_ns"]) == ("failed", None)
    assert "SIGKILL" in row["error"]
    assert {name: files_of(night / name) for name in RAW} == raw
    told = [each["error"] for each in bench.store.attempts(row["id"]) if each["task"]]
    assert len(told) == len(killed)
    bench.run(night)
    assert truth.conservation(product_tags(path) for path in products_of(night)).is_exact
    assert bench.night(night)["state"] == "verified"
    bench.close()
