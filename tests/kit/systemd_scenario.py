# SPDX-License-Identifier: BSD-3-Clause
"""What is done to the units inside the sandbox; the facts seen are printed as one JSON object.

    systemd_scenario.py standin | daemons

It asserts nothing: the tests do, on the facts (test_systemd_sandbox.py).
"""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIMIT_S = 25.0
RECEIVERS = ("obslogd@log", "archived@pipeline")
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1


def loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        fcntl.ioctl(channel, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))


def systemctl(*arguments: str) -> str:
    done = subprocess.run(
        ["systemctl", "--user", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else f"{done.returncode}: {done.stderr}"


def show(unit: str) -> dict[str, str]:
    names = "ActiveState,SubState,StatusText,NRestarts,MainPID,Result,ExecMainStatus"
    lines = systemctl("show", unit, "-p", names).splitlines()
    return dict(line.split("=", 1) for line in lines)


def wait_for(unit: str, reached: Callable[[dict[str, str]], bool]) -> dict[str, str]:
    """Poll a unit until it is as wanted, or the limit is over; return what was seen last."""
    deadline = time.monotonic() + LIMIT_S
    while not reached(seen := show(unit)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return seen


def active_again(restarts: int) -> Callable[[dict[str, str]], bool]:
    return lambda s: s["ActiveState"] == "active" and int(s["NRestarts"]) >= restarts


def ended(seen: dict[str, str]) -> bool:
    return seen["ActiveState"] in ("inactive", "failed")


def process_facts(pid: str) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    wanted = ("Uid", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp")
    return {name: fields[name].split()[0] for name in wanted}


def events() -> list[str]:
    return Path("/dev/shm/events").read_text().split("\n")[:-1]


def wait_for_event(line: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while line not in events() and time.monotonic() < deadline:
        time.sleep(0.02)


def cleaning_facts() -> dict[str, Any]:
    """Let systemd-tmpfiles do what it does to /var/tmp each day, to files 60 days old."""
    folder = Path("/var/tmp")
    units = Path.home() / ".config/systemd/user"
    for name in ("test-000001.fits", "test-counter.json", "something-else"):
        (folder / name).touch()
        os.utime(folder / name, (time.time() - 60 * 86400,) * 2)
    # The rule of the distribution, by modification time only: the others cannot be set back.
    (folder / "distribution.conf").write_text("q /var/tmp 1777 root root m:30d\n")
    command = ["systemd-tmpfiles", "--clean", str(folder / "distribution.conf")]
    subprocess.run([*command, str(units / "nightjar-tmpfiles.conf")], check=True, timeout=30)
    return {"left": sorted(p.name for p in folder.iterdir() if p.name[:4] in ("test", "some"))}


def state_folder_facts() -> dict[str, Any]:
    stat = os.stat("/var/lib/nightjar")
    return {"owner": pwd.getpwuid(stat.st_uid).pw_name, "mode": oct(stat.st_mode & 0o7777)}


def standin() -> dict[str, Any]:
    Path("/dev/shm/events").touch()
    os.chmod("/dev/shm/events", 0o666)
    gate = "/var/tmp/gate"
    for daemon, name in (("obslogd", "log"), ("archived", "pipeline"), ("camd", "test")):
        folder = Path("/etc") / daemon
        folder.mkdir(exist_ok=True)
        own = {"name": daemon, "gate": gate if daemon == "camd" else None,
               "stop_s": 3.5 if daemon == "camd" else 0.0}  # fmt: skip
        (folder / f"{name}.json").write_text(json.dumps(own))
        systemctl("enable", f"{daemon}@{name}")
    camera = "camd@test"
    facts: dict[str, Any] = {"start": systemctl("--no-block", "start", "nightjar.target")}
    wait_for_event("camd started")
    facts["before_ready"] = show(camera)
    Path(gate).touch()
    facts["ready"] = wait_for(camera, lambda s: s["ActiveState"] == "active")
    facts["process"] = process_facts(facts["ready"]["MainPID"])
    os.kill(int(facts["ready"]["MainPID"]), signal.SIGSTOP)
    facts["after_stall"] = wait_for(camera, active_again(1))
    os.kill(int(facts["after_stall"]["MainPID"]), signal.SIGKILL)
    facts["after_kill"] = wait_for(camera, active_again(2))
    systemctl("start", "camd@nosuch")
    facts["bad_config"] = show("camd@nosuch")
    started = time.monotonic()
    facts["stop"] = systemctl("stop", "nightjar.target")
    facts["stopped"] = wait_for(camera, ended)
    facts["stop_took_s"] = time.monotonic() - started
    # systemctl waits for the target alone; log and pipeline stop after the camera.
    facts["others"] = [wait_for(unit, ended)["ActiveState"] for unit in RECEIVERS]
    facts["events"] = events()
    facts["cleaning"] = cleaning_facts()
    facts["state_folder"] = state_folder_facts()
    return facts


def client(*arguments: str) -> dict[str, Any]:
    """Run `cam test ...` as a person on this host would; return exit code and reply."""
    command = [str(Path(sys.executable).with_name("cam")), "test", *arguments, "--json"]
    environment = {"PATH": os.environ["PATH"], "HOME": "/mnt/home", "LANG": "C.UTF-8"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env=environment
    )
    reply = json.loads(done.stdout) if done.returncode == 0 else done.stdout
    return {"code": done.returncode, "reply": reply, "error": done.stderr}


def take(count: int) -> list[dict[str, Any]]:
    return [client("init", "--wait"), client("start", str(count), "--wait")]


def archived_frames() -> list[str]:
    return sorted(path.name for path in Path("/var/tmp/nightjar-archive").rglob("*.fits"))


def wait_for_frames(count: int) -> list[str]:
    deadline = time.monotonic() + LIMIT_S
    while len(found := archived_frames()) < count and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def owners(folder: str, pattern: str) -> list[str]:
    found = {(pwd.getpwuid(p.stat().st_uid).pw_name, oct(p.stat().st_mode & 0o777))
             for p in Path(folder).rglob(pattern)}  # fmt: skip
    return [f"{name} {mode}" for name, mode in sorted(found)]


def running_as(user: str) -> list[str]:
    """Return the command lines of the live processes of a user."""
    number, found = pwd.getpwnam(user).pw_uid, []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if folder.stat().st_uid == number:
                found.append((folder / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue  # ended meanwhile
    return found


def daemons() -> dict[str, Any]:
    camera = "camd@test"
    for unit in (camera, *RECEIVERS):
        systemctl("enable", unit)
    facts: dict[str, Any] = {"start": systemctl("start", "nightjar.target")}
    facts["ready"] = wait_for(camera, active_again(0))
    facts["receivers"] = [wait_for(unit, active_again(0))["ActiveState"] for unit in RECEIVERS]
    facts["process"] = process_facts(facts["ready"]["MainPID"])
    facts["status"] = client("status")
    facts["sequence"] = take(3)
    facts["frames"] = wait_for_frames(3)
    facts["streams"] = owners("/dev/shm", "*.im.shm")
    facts["files"] = owners("/var/tmp/nightjar-archive", "*.fits")
    os.kill(int(facts["ready"]["MainPID"]), signal.SIGSTOP)
    facts["after_stall"] = wait_for(camera, active_again(1))
    facts["sequence_after_stall"] = take(2)
    facts["frames_after_stall"] = wait_for_frames(5)
    os.kill(int(facts["after_stall"]["MainPID"]), signal.SIGKILL)
    facts["after_kill"] = wait_for(camera, active_again(2))
    facts["sequence_after_kill"] = take(1)
    facts["frames_after_kill"] = wait_for_frames(6)
    started = time.monotonic()
    facts["stop"] = systemctl("stop", "nightjar.target")
    facts["stopped"] = {unit: wait_for(unit, ended) for unit in (camera, *RECEIVERS)}
    facts["stop_took_s"] = time.monotonic() - started
    facts["left_running"] = running_as("nightjar")
    facts["logs"] = {path.name: path.read_text() for path in Path("/var/tmp").glob("*.log")}
    facts["left_in_spool"] = sorted(path.name for path in Path("/var/tmp").glob("*.fits"))
    return facts


def main() -> int:
    loopback_up()
    facts = {"standin": standin, "daemons": daemons}[sys.argv[1]]()
    print(json.dumps(facts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
