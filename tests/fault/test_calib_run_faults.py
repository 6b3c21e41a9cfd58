# SPDX-License-Identifier: BSD-3-Clause
"""The pipeline killed, interrupted, out of space: nothing is lost, nothing is done twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kit.calib_engine import FIRST, Site
from kit.calib_run import pipeline
from kit.executor_tasks import PYTHONPATH
from kit.small_disk import prove
from nightjard.calib.command import main

TESTS = Path(__file__).resolve().parents[1]


def until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("CALIB_ENGINE_CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
    site = Site(tmp_path)
    site.acquire("BIAS01")
    site.write_campaign(tests=[["BIAS01"]])
    return site


@contextmanager
def running(site: Site, mode: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "kit.calib_run", str(site.root), mode], cwd=TESTS,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def is_gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"  # one that nobody has waited for yet is gone, too


def calls(site: Site) -> list[str]:
    return (site.root / "calls").read_text().split("\n")[:-1]


def test_killed_in_the_middle_it_goes_on_with_what_was_done(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    def told() -> tuple[str, str]:
        capsys.readouterr()
        assert main(["status", str(site.path)]) == 0
        row, *more = capsys.readouterr().out.splitlines()[1:]
        return row.split()[2], " ".join(more)

    sign = site.root / "sign"
    with running(site, "hang") as process:
        until(lambda: sign.exists() and sign.read_text())
        assert told() == ("processing", "")
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    worker = int(sign.read_text())
    until(lambda: is_gone(worker))
    assert told() == (
        "interrupted", "D11: no process is at work on it; BIAS01 was interrupted; to go on: "
        f"calib run {site.path} -R D11",
    )  # fmt: skip
    assert main(["status", str(site.path), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["sessions"]
    assert (found["is_running"], found["interrupted"]) == (False, ["BIAS01"])
    assert site.state("BIAS01")["stage"] == "processing"
    assert calls(site) == ["BIAS01 check"]
    checked = site.results / "D11" / "BIAS01" / "attempt-01" / "subtasks" / "check.json"
    before = checked.read_bytes()
    result = pipeline(site.root).run()
    assert result["failed"] == []
    assert calls(site) == ["BIAS01 check", "BIAS01 basic", "BIAS01 meta"]
    assert checked.read_bytes() == before
    assert [path.name for path in (site.results / "D11" / "BIAS01").glob("attempt-*")] == [
        "attempt-01"
    ]
    assert not list(site.results.rglob("*.tmp"))
    assert site.state("BIAS01")["obsids"] == [FIRST, FIRST + 2]
    assert told() == ("processed", "")


def test_a_worker_that_is_killed_costs_nothing_but_its_time(site: Site) -> None:
    sign = site.root / "sign"
    with running(site, "hang") as process:
        until(lambda: sign.exists() and sign.read_text())
        os.kill(int(sign.read_text()), signal.SIGKILL)
        out, error = process.communicate(timeout=30)
    assert process.returncode == 0, error
    assert "Task BIAS01 exited with Errors: False" in out
    assert calls(site) == ["BIAS01 check", "BIAS01 basic", "BIAS01 meta"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_while_it_waits_it_ends_cleanly(site: Site, number: signal.Signals) -> None:
    site.write_campaign(tests=[["BIAS02"]])
    command = [sys.executable, "-m", "nightjard.calib", "run", str(site.path), "-R", "D11", "-W",
               "-k", "-l", "--log-folder", str(site.root)]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: any("sleeping" in path.read_text() for path in site.root.glob("*.log")))
        process.send_signal(number)
        out, error = process.communicate(timeout=20)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert process.returncode == 130, error
    assert "Traceback" not in error
    assert "interrupted: what is done stays done; the same command goes on" in error
    assert "Awaited: BIAS02 (3 frames)" in out
    log = next(site.root.glob("*.log")).read_text()
    assert "terminated by user" in log
    assert log.rstrip().endswith("#" * 70)
    assert site.state("BIAS02")["stage"] == "expected"


@pytest.mark.needs("unshare")
def test_a_disk_that_is_full_or_read_only(tmp_path: Path) -> None:
    disk, base = tmp_path / "disk", tmp_path / "base"
    disk.mkdir()
    base.mkdir()
    prove("calib_full_disk", disk, base)
