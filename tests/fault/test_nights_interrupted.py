# SPDX-License-Identifier: BSD-3-Clause
"""A step whose process was killed is shown as interrupted, and not as running for ever."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from kit.tiny_nights import DATE, make_tiny, site
from nightjar.errors import Refused
from nightjard.archived.nights import engine
from nightjard.archived.nights.engine import Engine

ASKED = {"night": DATE, "family": "archival"}


def states(status: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["state"] for each in status["steps"]}


def test_a_killed_step_is_told_of_and_goes_on(tmp_path: Path) -> None:
    make_tiny(tmp_path / "raw")
    with site(tmp_path / "raw", tmp_path / "state") as here:
        url = f"sqlite:///{tmp_path / 'state' / 'archive.db'}"
        process = subprocess.Popen(
            [sys.executable, "-m", "kit.night_runner", str(tmp_path / "raw"), url],
            stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        )  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            if line == "step consolidate\n":
                process.send_signal(signal.SIGSTOP)  # so that it cannot end before we look
                break
        # Somebody else works on it: that is no interruption, and start() leaves it alone.
        here.model.start()
        assert states(here.call("night_status", **ASKED))["consolidate"] == "running"
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        process.stdout.close()
        end = time.monotonic() + 10  # workers hold nothing, but the kernel ends them in its time
        while states(status := here.call("night_status", **ASKED))["consolidate"] == "running":
            assert time.monotonic() < end
        assert states(status)["consolidate"] == "interrupted"
        assert status["next"].startswith(f"consolidate was interrupted: archive run {DATE} goes on")
        (text,) = (each["text"] for each in status["steps"] if each["name"] == "consolidate")
        assert "killed" in text

        # The next daemon's start writes it down, once.
        here.model.start()
        here.model.start()
        status = here.call("night_status", **ASKED)
        assert states(status)["consolidate"] == "interrupted"
        told = [each for each in status["events"] if each["kind"] == "interrupted"]
        assert len(told) == 1
        assert [said for level, said in here.said.lines if level == "warning"] == [
            f"night {DATE} (archival): consolidate was interrupted; archive run {DATE} goes on "
            "from there, or the next process-all"
        ]
        (attempt,) = (row for row in here.store.attempts(here.row()["id"])
                      if row["step"] == "consolidate" and row["task"] is None)  # fmt: skip
        assert attempt["outcome"] == "killed"
        assert attempt["ended_ns"] is not None
        with pytest.raises(Refused, match="step consolidate was interrupted; first: archive run"):
            here.run(step="verify")

        here.run()
        status = here.call("night_status", **ASKED)
        assert states(status)["consolidate"] == "done"
        assert status["state"] == "verified"
        assert "interrupted" not in status["next"]


def test_looking_does_not_keep_anybody_from_a_night(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks for the status of a night holds its lock for an instant."""
    make_tiny(tmp_path / "raw")
    with site(tmp_path / "raw", tmp_path / "state") as here:
        here.run(step="sync")
        at_work = Engine(here.model._engine._tools)
        row = here.row()
        context = at_work.context(row)
        assert not at_work.is_held(row)
        with at_work.held(context):
            assert at_work.is_held(row)
        assert not at_work.is_held(row)
        look = os.open(tmp_path / "raw" / DATE / "record" / ".lock", os.O_RDONLY)
        fcntl.flock(look, fcntl.LOCK_SH | fcntl.LOCK_NB)
        waited: list[float] = []

        def wait(seconds: float) -> None:
            waited.append(seconds)
            os.close(look)

        monkeypatch.setattr(engine.time, "sleep", wait)  # type: ignore[attr-defined]
        with at_work.held(context):
            assert at_work.is_held(row)
        assert len(waited) == 1
