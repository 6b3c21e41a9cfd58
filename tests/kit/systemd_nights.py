# SPDX-License-Identifier: BSD-3-Clause
"""A night in the hands of the units archived@ and archived-process-all@, inside the sandbox.

Prints the facts seen as one JSON object; the test asserts (test_systemd_sandbox.py).
"""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from kit.systemd_scenario import (
    LIMIT_S,
    active_again,
    ended,
    loopback_up,
    owners,
    process_facts,
    show,
    systemctl,
    wait_for,
)
from kit.tiny_nights import DATE, make_tiny

DAEMON, MORNING = "archived@pipeline", "archived-process-all@pipeline"
ROOT = Path("/var/tmp/nightjar-fits/ARCHIVED_DATA")


def archive(*arguments: str) -> Any:
    """Run `archive ...` as a person on this host would; return its answer."""
    command = [str(Path(sys.executable).with_name("archive")), *arguments, "--json"]
    environment = {"PATH": os.environ["PATH"], "HOME": "/mnt/home", "LANG": "C.UTF-8"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env=environment
    )
    return json.loads(done.stdout) if done.returncode == 0 else done.stdout + done.stderr


def workers() -> dict[str, dict[str, str]]:
    """Return what is known of the processes that the daemon has begun, by process id."""
    number, found = pwd.getpwnam("nightjar").pw_uid, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_text()
            if folder.stat().st_uid == number and "executor" in command:
                found[folder.name] = process_facts(folder.name)
        except (OSError, KeyError):
            continue  # ended meanwhile
    return found


def make_raw() -> int:
    """Make a night as a logger of the same user leaves it; return the count of its frames."""
    ROOT.mkdir(parents=True)
    truth = make_tiny(ROOT, frame_shape=(128, 128))
    user = pwd.getpwnam("nightjar")
    for path in (ROOT.parent, *ROOT.parent.rglob("*")):
        os.chown(path, user.pw_uid, user.pw_gid)
    return len(truth.logged)


def main() -> int:
    loopback_up()
    facts: dict[str, Any] = {"frames": make_raw()}
    facts["start"] = systemctl("start", DAEMON)
    facts["ready"] = wait_for(DAEMON, active_again(0))
    facts["begin"] = systemctl("--no-block", "start", MORNING)
    seen: dict[str, dict[str, str]] = {}
    deadline = time.monotonic() + 4 * LIMIT_S
    while not ended(show(MORNING)) or not seen:
        seen |= workers()
        if time.monotonic() > deadline:
            break
    facts["workers"] = list(seen.values())
    facts["morning"] = show(MORNING)
    facts["again"] = systemctl("start", MORNING)  # nothing is to be done, and that is no failure
    facts["morning_again"] = show(MORNING)
    facts["table"] = archive("table")
    facts["night"] = archive("status", DATE)
    facts["doctor"] = archive("doctor")
    facts["owners"] = owners(str(ROOT / DATE / "vgen2"), "*.fits.fz")
    facts["timer"] = systemctl("start", f"{MORNING}.timer")
    facts["timer_is"] = show(f"{MORNING}.timer")
    facts["next"] = systemctl("show", f"{MORNING}.timer", "-p", "NextElapseUSecRealtime")
    systemctl("stop", f"{MORNING}.timer")
    facts["stop"] = systemctl("stop", DAEMON)
    facts["stopped"] = wait_for(DAEMON, ended)
    facts["logs"] = {path.name: path.read_text() for path in Path("/var/tmp").glob("*.log")}
    print(json.dumps(facts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
