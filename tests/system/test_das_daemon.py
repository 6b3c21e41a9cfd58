# SPDX-License-Identifier: BSD-3-Clause
"""A real daemon, the real command, and a real SIGKILL."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.das import DasSite, FakeTelescope, config_value
from kit.site import eventually
from nightjar.api.das import COMMANDS, LEVELS_KEYS, RECORDING_KEYS, STATUS_KEYS
from nightjar.das.raw import RawMinute, read_raw
from nightjar.das.raw_journal import KILLED
from nightjarctl.das import das as das_program
from nightjarctl.das import main


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def value(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def site(
    free_ports: Callable[[int], list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[DasSite]:
    site = DasSite(tmp_path, free_ports(2))
    monkeypatch.setenv("NIGHTJAR_CONFIG_ROOT", str(site.etc))
    monkeypatch.setenv("NIGHTJAR_STATE_ROOT", str(tmp_path / "state"))
    try:
        yield site
    finally:
        site.close()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    def run(*arguments: str) -> Done:
        capsys.readouterr()
        code = main(arguments)
        said = capsys.readouterr()
        return Done(code, said.out, said.err)

    return run


def files(site: DasSite) -> list[RawMinute]:
    return [read_raw(path) for path in sorted(site.raw.glob("*/raw_*.bin"))]


def test_the_command_from_start_to_stop(
    site: DasSite, run: Callable[..., Done], tmp_path: Path
) -> None:
    telescope = FakeTelescope()
    with telescope.served(site.registry):
        daemon = site.start(telescope_daemon="telescope", levels={"seconds": 1.0})
        eventually(lambda: daemon.status()["adc"]["samples"] > 60, 10, "samples")
        status = run("status", "--json").value
        assert set(status) == set(STATUS_KEYS)
        assert status["state"] == "IDLE"
        telescope.age_s = 60.0
        refused = run("start")
        assert refused.code == 3
        assert "housekeeping of telescope is 60.0 s old (limit 5 s)" in refused.err
        telescope.age_s = 0.2
        assert run("start").out.startswith("recording in ")
        assert run("start").code == 3
        eventually(lambda: daemon.status()["recording"]["samples"] > 50, 10, "recorded")
        status = run("status", "--json").value
        assert set(status["recording"]) == set(RECORDING_KEYS)
        assert (status["summary"], status["state"]) == ("BUSY", "RECORDING")
        shown = run("status").out
        assert "DAS is RECORDING" in shown
        assert "pointing 0.5 s, housekeeping 0.2 s old" in shown
        watched = run("watch", "--interval", "0.1", "--timeout", "0.3", "ac_bolos", "--json")
        row = json.loads(watched.out.splitlines()[0])
        assert set(row) == {*LEVELS_KEYS, "chosen"}
        assert [one["channel"] for one in row["chosen"]] == [0, 1, 2, 3]
        line = run("watch", "--interval", "0.1", "--timeout", "0.2").out.splitlines()[0]
        assert "rot_lim=-1" in line
        assert "V/rtHz" in line
        done = run("stop")
        assert "not recording; " in done.out
    assert sum(file.index["valid"] for file in files(site) if file.index) > 50
    assert run("check").code == 1  # the telescope is away now
    told = run("check", "--json")
    assert told.code == 1
    assert [row["what"] for row in told.value if row["level"] == "FAILED"] == ["telescope"]
    assert run("check", "--clock").code == 0


def test_looking_at_channels(site: DasSite, run: Callable[..., Done], tmp_path: Path) -> None:
    daemon = site.start()
    eventually(lambda: daemon.status()["adc"]["samples"] > 60, 10, "samples")
    rows = run("channels", "trck_das", "2-3", "--json").value
    assert [(row["channel"], row["kind"]) for row in rows] == [
        (2, "bolometers"), (3, "bolometers"), (4, "line"),
    ]  # fmt: skip
    assert "trck_das" in run("channels").out
    assert run("map", "--json").value["sha256"] == json.loads(run("map", "--json").out)["sha256"]
    assert "unplugged" in run("map").out
    assert run("plot", "nosuch").code == 2
    assert "there are 0 to 7" in run("plot", "7-8").err
    shown = run("plot", "0", "trck_das", "--seconds", "1").out
    assert "0 ac_bolos[0] hextant 1  " in shown
    assert "▁" in shown
    png = tmp_path / "plot.png"
    assert run("plot", "bolometers", "-o", str(png), "--kind", "spectrum").code == 0
    assert png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    again = run("plot", "0", "-o", str(png))
    assert again.code == 1
    assert "there already" in again.err
    assert run("fault", "unplug", "--seconds", "0").code == 0
    eventually(lambda: run("status", "--json").value["summary"] == "STANDBY", 10, "standby")
    away = run("start")
    assert away.code == 3
    assert "the ADC is away" in away.err
    assert run("fault", "clear").code == 0


def test_every_command_has_help_and_completion(
    site: DasSite, run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(das_program.commands) >= {
        "status", "start", "stop", "channels", "map", "watch", "plot", "check", "fault",
    }  # fmt: skip
    for name in das_program.commands:
        assert run(name, "--help").code == 0
    site.start()
    environment = {
        "COMP_WORDS": "das plot trck",
        "COMP_CWORD": "2",
        "_DAS_COMPLETE": "bash_complete",
    }
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    done = subprocess.run(
        [sys.executable, "-c", "from nightjarctl.das import das; das(prog_name='das')"],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["plain,trck_das"]
    described = {command.name for command in COMMANDS}
    assert described >= {"start", "stop", "levels", "trace", "plot", "plot_data", "check"}


def test_sigkill_loses_less_than_a_second_and_the_recording_goes_on(site: DasSite) -> None:
    daemon = site.start()
    eventually(lambda: daemon.status()["adc"]["samples"] > 30, 10, "samples")
    daemon.call("start", test=False, output=None)
    eventually(lambda: daemon.status()["recording"]["samples"] > 60, 10, "recorded")
    before = daemon.status()
    daemon.kill()
    daemon = site.start()
    eventually(lambda: (daemon.status()["recording"] or {}).get("samples", 0) > 60, 10, "goes on")
    daemon.call("stop")
    found = files(site)
    rows = np.concatenate([file.samples[file.is_valid()] for file in found])
    assert len(rows) > before["recording"]["samples"] - 50 + 60
    gaps = [gap for file in found for gap in (file.index or {})["gaps"]]
    assert [gap for gap in gaps if gap["reason"] == KILLED]
    assert any((file.index or {})["recovered"] for file in found)
    lives = {one["counter"] for file in found for one in (file.index or {})["seconds"]}
    assert len(lives) > 2
    # The last sample before the kill: within a second of the last that the status told.
    ends = [gap for gap in gaps if gap["reason"] == KILLED]
    last_slot = ends[0]["slot"]
    file = next(one for one in found if ends[0] in (one.index or {})["gaps"])
    last_ns = file.start_ns + last_slot * 20_000_000
    told = np.datetime64(before["recording"]["until"], "ns").astype(np.int64)
    assert last_ns > told - 1_000_000_000


def test_a_second_daemon_for_the_same_folder_is_refused(
    site: DasSite, free_ports: Callable[[int], list[int]], tmp_path: Path
) -> None:
    daemon = site.start()
    same = subprocess.run(
        [sys.executable, "-m", "nightjard.dasd", str(site.etc / "dasd/bolo.json")],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert same.returncode == 3
    assert "already running (pid" in same.stderr
    eventually(lambda: daemon.status()["adc"]["samples"] > 30, 10, "samples")
    daemon.call("start", test=False, output=None)
    # Another daemon by name, which writes the same folder.
    registry = json.loads((site.etc / "nightjar/registry.json").read_text())
    registry["daemons"]["other"] = {"machine": "LocalHost", "port": free_ports(1)[0]}
    (site.etc / "nightjar/registry.json").write_text(json.dumps(registry))
    other = site.launch_other("other", config_value(site.raw, daemon="other"))
    eventually(lambda: other.status()["adc"]["samples"] > 30, 10, "samples")
    with pytest.raises(Exception, match="already running"):
        other.call("start", test=False, output=None)
    before = daemon.status()["recording"]["samples"]
    eventually(lambda: daemon.status()["recording"]["samples"] > before, 10, "goes on")
    assert daemon.status()["recording"]["is_running"] is True


def test_the_daemon_stays_small_and_quick(site: DasSite) -> None:
    channels = {"count": 384, "groups": []}
    daemon = site.start(channels=channels)
    eventually(lambda: daemon.status()["adc"]["samples"] > 30, 10, "samples")
    daemon.call("start", test=False, output=None)
    eventually(lambda: daemon.status()["recording"]["samples"] > 20, 10, "recorded")
    pages = int(Path(f"/proc/{daemon.process.pid}/statm").read_text().split()[1])
    bare = subprocess.run(
        [sys.executable, "-c", "print(open('/proc/self/statm').read().split()[1])"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (pages - int(bare.stdout)) * 4096 / 1e6 < 60
