# SPDX-License-Identifier: BSD-3-Clause
"""The shipped units under a real systemd, in namespaces of their own (kit/systemd_sandbox.sh).

The unit files are used as they are, with their user, sandbox and ordering; a drop-in, as the
installation page describes for a virtual environment, puts this clone's programs in and makes the
waits short. The manager is a `systemd --user` that runs as root: what it does not do that a system
manager does is to keep the state folder under /var/lib.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parents[2]
KIT = PROJECT / "tests" / "kit"
CANNOT = 77
DAEMONS = ("camd", "obslogd", "archived")

pytestmark = pytest.mark.needs("/lib/systemd/systemd", "systemctl", "unshare", "setpriv")

DROP_IN = """[Service]
ExecStart=
ExecStart={command} /etc/{daemon}/%i.json
# The clone and its Python may lie in a home or in /tmp, which the unit hides.
ProtectHome=tmpfs
BindReadOnlyPaths={paths}
StandardOutput=append:/var/tmp/{daemon}.log
StandardError=append:/var/tmp/{daemon}.log
RestartSec=100ms
WatchdogSec={watchdog}
TimeoutAbortSec=5s
TimeoutStopSec={stop}
"""


def units(folder: Path, commands: dict[str, str], watchdog: str, stop: str) -> Path:
    shutil.copytree(PROJECT / "systemd", folder)
    prefixes = {sys.prefix, sys.base_prefix, str(PROJECT)}
    for daemon, command in commands.items():
        drop_in = folder / f"{daemon}@.service.d" / "test.conf"
        drop_in.parent.mkdir()
        drop_in.write_text(
            DROP_IN.format(
                command=command, daemon=daemon, paths=" ".join(sorted(prefixes)),
                watchdog=watchdog, stop=stop,
            )
        )  # fmt: skip
    return folder


def cgroups_of_this_machine() -> tuple[str, list[str]]:
    top = Path("/sys/fs/cgroup")
    top = top if (top / "cgroup.controllers").exists() else top / "unified"
    folders = sorted(p.name for p in top.iterdir() if p.is_dir()) if top.is_dir() else []
    return Path("/proc/self/cgroup").read_text(), folders


def run_sandbox(unit_folder: Path, *command: str, timeout_s: float = 90) -> dict[str, Any]:
    # One at a time: each looks at what the machine has, and would see the other's.
    with (Path(tempfile.gettempdir()) / f"nightjar-sandbox-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = cgroups_of_this_machine()
        done = subprocess.run(
            [str(KIT / "systemd_sandbox.sh"), str(unit_folder), *command],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s,
            check=False,
        )  # fmt: skip
        after = cgroups_of_this_machine()
    if done.returncode == CANNOT:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stdout + done.stderr
    # The danger of the thing: our own processes and the tree of the machine stayed as they were.
    assert after == before
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return facts


def test_units_start_watch_restart_and_stop(tmp_path: Path) -> None:
    command = f"{sys.executable} {KIT / 'systemd_standin.py'}"
    daemons = dict.fromkeys(DAEMONS, command)
    folder = units(tmp_path / "units", daemons, watchdog="3s", stop="3s")
    facts = run_sandbox(folder, sys.executable, str(KIT / "systemd_scenario.py"), "standin")

    # Running is not ready: only READY=1 makes it active.
    assert facts["before_ready"]["ActiveState"] == "activating"
    assert facts["ready"]["ActiveState"] == "active"
    assert facts["ready"]["StatusText"] == "READY IDLE"
    # Unprivileged, with no way back.
    assert facts["process"]["Uid"] != "0"
    assert int(facts["process"]["CapEff"], 16) == int(facts["process"]["CapBnd"], 16) == 0
    assert facts["process"]["NoNewPrivs"] == "1"
    assert facts["process"]["Seccomp"] == "2"
    # A stopped process is found by the watchdog, a killed one at once.
    for moment, restarts in (("after_stall", "1"), ("after_kill", "2")):
        assert facts[moment]["ActiveState"] == "active"
        assert facts[moment]["NRestarts"] == restarts
    pids = {facts[name]["MainPID"] for name in ("ready", "after_stall", "after_kill")}
    assert len(pids) == 3
    # A wrong configuration is not tried again and again.
    assert facts["bad_config"]["ActiveState"] == "failed"
    assert facts["bad_config"]["NRestarts"] == "0"
    # A stop that takes longer than TimeoutStopSec but tells of its progress ends in order.
    assert facts["stop_took_s"] > 3.4
    assert (facts["stopped"]["ActiveState"], facts["stopped"]["Result"]) == ("inactive", "success")
    assert facts["others"] == ["inactive", "inactive"]
    # The log is there first and goes last; the pipeline comes before the camera and goes after it.
    order = [line for line in facts["events"] if line.endswith(("ready", "stopped"))]
    assert order[:2] == ["obslogd ready", "archived ready"]
    assert order[-3:] == ["camd stopped", "archived stopped", "obslogd stopped"]
    assert facts["events"].index("archived ready") < facts["events"].index("camd started")
    # sysusers and tmpfiles: a private state folder; waiting frames are never cleaned away.
    assert facts["state_folder"] == {"owner": "nightjar", "mode": "0o750"}
    assert facts["cleaning"]["left"] == ["test-000001.fits", "test-counter.json"]


def shipped_configuration(folder: Path) -> None:
    """The shipped /etc, with a detector small enough for a test."""
    shutil.copytree(PROJECT / "etc", folder)
    camera = folder / "camd" / "test.json"
    settings = json.loads(camera.read_text())
    settings |= {
        "driver": {"name": "simulated", "width": 600, "height": 400, "speed": 50},
        "framebuffer_bytes": 8 * 600 * 400 * 2, "exposure": 0.05, "worker_processes": 2,
        "minimum_free_bytes": 1_000_000, "warm_timeout": 10,
    }  # fmt: skip
    camera.write_text(json.dumps(settings))
    pipeline = folder / "archived" / "pipeline.json"
    pipeline.write_text(
        json.dumps(json.loads(pipeline.read_text()) | {"minimum_free_bytes": 1_000_000})
    )


def test_the_daemons_work_inside_the_units(tmp_path: Path) -> None:
    programs = {name: str(Path(sys.executable).with_name(name)) for name in DAEMONS}
    folder = units(tmp_path / "units", programs, watchdog="5s", stop="60s")
    shipped_configuration(folder / "etc")
    facts = run_sandbox(folder, sys.executable, str(KIT / "systemd_scenario.py"), "daemons")

    assert facts["ready"]["ActiveState"] == "active"
    assert facts["receivers"] == ["active", "active"]
    assert facts["process"]["Uid"] != "0"
    assert int(facts["process"]["CapBnd"], 16) == 0
    assert facts["process"]["Seccomp"] == "2"
    assert facts["status"]["code"] == 0
    assert str(facts["status"]["reply"]["pid"]) == facts["ready"]["MainPID"]
    assert "STANDBY" in facts["ready"]["StatusText"]
    # Frames go through the whole chain: stream, worker processes, spool, pipeline, archive.
    for moment in ("sequence", "sequence_after_stall", "sequence_after_kill"):
        assert [step["code"] for step in facts[moment]] == [0, 0], facts[moment]
    assert len(facts["frames"]) == 3
    assert facts["streams"] == ["nightjar 0o660"]
    assert facts["files"] == ["nightjar 0o640"]
    # After the watchdog and after kill -9: a new process, nothing lost, no number used twice.
    for moment, restarts in (("after_stall", "1"), ("after_kill", "2")):
        assert facts[moment]["ActiveState"] == "active"
        assert facts[moment]["NRestarts"] == restarts
    frames = facts["frames_after_kill"]
    assert set(facts["frames"]) < set(facts["frames_after_stall"]) < set(frames)
    numbers = [name.split("-")[1] for name in frames]
    assert len(set(numbers)) == len(frames) == 6
    assert facts["left_in_spool"] == []
    assert facts["left_running"] == []
    # What hung is in the journal: the stack of every thread, by PYTHONFAULTHANDLER.
    assert "most recent call first" in facts["logs"]["camd.log"]
    # The orderly stop, of the cooled camera too.
    for unit, seen in facts["stopped"].items():
        assert (seen["ActiveState"], seen["Result"]) == ("inactive", "success"), unit
    assert "SIGTERM received" in facts["logs"]["camd.log"]
    assert "camd stopped" in facts["logs"]["camd.log"]
    assert "camera disconnected warm" in facts["logs"]["camd.log"]


MORNING_DROP_IN = """[Service]
ExecStart=
ExecStart={command} process-all --id %i
ProtectHome=tmpfs
BindReadOnlyPaths={paths}
StandardOutput=append:/var/tmp/morning.log
StandardError=append:/var/tmp/morning.log
"""


def test_a_night_is_processed_inside_the_units(tmp_path: Path) -> None:
    """The daemon's worker processes have its sandbox; what the timer starts asks and waits."""
    program = Path(sys.executable).with_name
    folder = units(tmp_path / "units", {"archived": str(program("archived"))}, "10s", "60s")
    morning = folder / "archived-process-all@.service.d" / "test.conf"
    morning.parent.mkdir()
    paths = " ".join(sorted({sys.prefix, sys.base_prefix, str(PROJECT)}))
    morning.write_text(MORNING_DROP_IN.format(command=program("archive"), paths=paths))
    shipped_configuration(folder / "etc")
    facts = run_sandbox(folder, sys.executable, str(KIT / "systemd_nights.py"), timeout_s=120)

    assert facts["ready"]["ActiveState"] == "active"
    assert facts["workers"], facts["logs"]
    for each in facts["workers"]:
        assert each["Uid"] != "0"
        assert int(each["CapEff"], 16) == int(each["CapBnd"], 16) == 0
        assert (each["NoNewPrivs"], each["Seccomp"]) == ("1", "2")
    for moment in ("morning", "morning_again"):
        assert (facts[moment]["ActiveState"], facts[moment]["Result"]) == ("inactive", "success")
    (row,) = facts["table"]
    assert (row["processed"], row["state"]) == (True, "verified"), facts["night"]
    assert row["raw_frames"] == facts["frames"]
    assert set(facts["night"]["products"]) == {"verified"}
    assert facts["owners"] == ["nightjar 0o640"]
    assert {each["level"] for each in facts["doctor"]["checks"]} <= {"ok", "warning"}
    assert facts["timer_is"]["ActiveState"] == "active"
    assert facts["next"].partition("=")[2] not in ("", "0")
    assert (facts["stopped"]["ActiveState"], facts["stopped"]["Result"]) == ("inactive", "success")
