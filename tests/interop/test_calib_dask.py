# SPDX-License-Identifier: BSD-3-Clause
"""The pipeline on a real Dask cluster: a scheduler and a worker, processes each."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit import calib_engine as kit
from kit.calib_engine import FIRST, Site, basic, items_of, with_subtask
from kit.executor_tasks import PYTHONPATH, until
from nightjard.calib.work import Work

pytest.importorskip("distributed", reason="the extra dask is not installed")
_LISTENS = re.compile(r"Scheduler at:\s+(tcp://\S+)\s")  # a whole line


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[str]:
    """Give the address of a scheduler that has one worker."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> Path:
        log = tmp_path / f"{arguments[0]}.log"
        with open(log, "wb") as out:
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "dask", *arguments], stdout=out, stderr=out,
                    env=os.environ | {"PYTHONPATH": PYTHONPATH,
                                      "DASK_DISTRIBUTED__DIAGNOSTICS__NVML": "False"},
                )
            )  # fmt: skip
        return log

    try:
        log = start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        address = until(
            lambda: (found := _LISTENS.search(log.read_text())) and found[1], "the scheduler"
        )
        start("worker", address, "--no-nanny", "--nthreads", "1", "--no-dashboard", "--host",
              "127.0.0.1", "--local-directory", str(tmp_path / "spill"), "--memory-limit", "0",
              "--death-timeout", "20")  # fmt: skip
        yield address
    finally:
        for process in reversed(started):
            process.kill()
            process.wait(20)


def _divide(work: Work) -> None:
    work.map(kit.fail_at, items_of(work, at=FIRST + 1), stage="frames divided")
    basic(work)


def test_results_are_those_of_this_host_and_failures_name_their_frame(
    scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
    site = Site(tmp_path / "site")
    site.acquire("BIAS01")
    site.write_campaign(tests=[["BIAS01"]])
    site.run()
    here = site.read("D11", "BIAS01", "results.json")
    there = {"executor": {"workers": 2, "scheduler": scheduler}, "resroot": "there"}
    site.write_campaign(tests=[["BIAS01"]], **there)
    site.results = site.root / "there"
    assert site.run(task=with_subtask("basic", _divide))["failed"] == ["BIAS01"]
    reason = site.state("BIAS01")["reason"]
    for part in ("fail_at", f"obsid {FIRST + 1}", "ZeroDivisionError"):
        assert part in reason
    assert site.run()["failed"] == []
    found = site.read("D11", "BIAS01", "results.json")
    assert found["values"] == here["values"]
    assert found["provenance"]["inputs"] == here["provenance"]["inputs"]
