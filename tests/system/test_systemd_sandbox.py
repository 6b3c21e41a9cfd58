# SPDX-License-Identifier: BSD-3-Clause
"""The shipped units under a real systemd, in namespaces of their own (kit/systemd_sandbox.sh).

The unit files are used as they are, with their user, sandbox and ordering; a drop-in, as the
installation page describes for a virtual environment, puts this clone's programs in and makes the
waits short. The manager is a `systemd --user` that runs as root: what it does not do that a system
manager does is to keep the state folder under /var/lib.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parents[2]
KIT = PROJECT / "tests" / "kit"
CANNOT = 77

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
TimeoutAbortSec=300ms
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
    before = cgroups_of_this_machine()
    done = subprocess.run(
        [str(KIT / "systemd_sandbox.sh"), str(unit_folder), *command],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False,
    )  # fmt: skip
    if done.returncode == CANNOT:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stdout + done.stderr
    # The danger of the thing: our own processes and the tree of the machine stayed as they were.
    assert cgroups_of_this_machine() == before
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return facts


def test_units_start_watch_restart_and_stop(tmp_path: Path) -> None:
    command = f"{sys.executable} {KIT / 'systemd_standin.py'}"
    daemons = dict.fromkeys(("camd", "obslogd", "archived"), command)
    folder = units(tmp_path / "units", daemons, watchdog="1s", stop="1s")
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
    assert facts["stop_took_s"] > 2.4
    assert (facts["stopped"]["ActiveState"], facts["stopped"]["Result"]) == ("inactive", "success")
    assert facts["others"] == ["inactive", "inactive"]
    # Log and pipeline are there before the camera starts, and until it has stopped.
    events = facts["events"]
    first_start = events.index("camd started")
    assert {"obslogd ready", "archived ready"} <= set(events[:first_start])
    assert set(events[events.index("camd stopped") :]) >= {"obslogd stopped", "archived stopped"}
    # sysusers and tmpfiles: a private state folder; waiting frames are never cleaned away.
    assert facts["state_folder"] == {"owner": "nightjar", "mode": "0o750"}
    assert facts["cleaning"]["left"] == ["test-000001.fits", "test-counter.json"]
