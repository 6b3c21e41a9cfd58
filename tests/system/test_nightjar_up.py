# SPDX-License-Identifier: BSD-3-Clause
"""nightjar up and down with the real daemons: order, restart, and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kit.site import eventually, is_alive
from nightjar.registry import Registry
from nightjar.rpc.client import Client
from nightjard.site import simulate

LIMIT_S = 60.0
SIZE = (400, 300)
CAMERAS = [("test", "TEST", SIZE), ("guide", "GUIDE", SIZE)]


class Site:
    """A small simulated site and the commands to use it by."""

    def __init__(self, root: Path, ports: list[int]) -> None:
        self.root = root
        simulate.write_site(root, CAMERAS, ports=ports)
        self.environment = {**os.environ, **simulate.environment(root)}
        self.shm = Path(self.environment["MILK_SHM_DIR"])
        self.registry = Registry.load(root / "etc" / "nightjar" / "registry.json")

    def program(self, name: str) -> list[str]:
        module = {"nightjar": "nightjard.site.__main__"}.get(name, f"nightjarctl.{name}")
        return [sys.executable, "-c", f"import sys; from {module} import main; sys.exit(main())"]

    def run(self, *command: str, code: int = 0) -> str:
        done = subprocess.run(
            [*self.program(command[0]), *command[1:]], env=self.environment, timeout=LIMIT_S,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, (command, done.stdout, done.stderr)
        return done.stdout + done.stderr

    def status(self, daemon: str) -> dict[str, Any]:
        client = Client(self.registry.daemon(daemon), 15)
        try:
            value: dict[str, Any] = client.call("status")
            return value
        finally:
            client.close()

    @contextmanager
    def up(self, *arguments: str) -> Iterator[Running]:
        with subprocess.Popen(
            [*self.program("nightjar"), "up", "--json", *arguments], env=self.environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            running = Running(process)
            try:
                yield running
            finally:
                if process.poll() is None:
                    process.terminate()
                    process.wait(LIMIT_S)


class Running:
    """A `nightjar up` in the foreground, event by event."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.events: list[dict[str, Any]] = []

    def until(self, daemon: str, event: str) -> dict[str, Any]:
        """Read events up to one."""
        assert self.process.stdout is not None
        timer = threading.Timer(LIMIT_S, self.process.kill)  # ends the loop below
        timer.start()
        try:
            for line in self.process.stdout:
                self.events.append(json.loads(line))
                if (self.events[-1]["daemon"], self.events[-1]["event"]) == (daemon, event):
                    return self.events[-1]
        finally:
            timer.cancel()
            timer.join()
        raise AssertionError(f"no {event} of {daemon} in {self.events}")

    def pid(self, daemon: str) -> int:
        """Return the process of a daemon."""
        return int([e["pid"] for e in self.events
                    if (e["daemon"], e["event"]) == (daemon, "starting")][-1])  # fmt: skip

    def words(self, event: str) -> list[str]:
        return [each["daemon"] for each in self.events if each["event"] == event]


@pytest.fixture
def site(tmp_path: Path, free_ports: Callable[[int], list[int]]) -> Site:
    """Write a small site."""
    return Site(tmp_path / "site", free_ports(4))


def _gone(pid: int, limit_s: float = 20.0) -> bool:
    deadline = time.monotonic() + limit_s
    while is_alive(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_a_night_in_small(site: Site) -> None:
    with site.up() as running:
        running.until("site", "up")
        assert running.words("ready")[:2] == ["obslogd log", "archived pipeline"]
        assert sorted(running.words("ready")[2:]) == ["camd guide", "camd test"]
        assert site.shm.is_dir()
        assert len(site.run("nightjar", "--timeout", "15", "status").splitlines()) == 5
        assert "is already running" in site.run("nightjar", "up", code=3)

        site.run("cam", "test", "init")
        site.run("cam", "test", "wait", "--cooler", "locked", "--timeout", "50")
        site.run("cam", "test", "exposure", "0.1")
        site.run("cam", "test", "start", "3", "--wait")
        deadline = time.monotonic() + 20
        while site.status("localhost_test2")["cameras"]["TEST"]["tonight"].get("archived") != 3:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert len(list((site.root / "archive").rglob("*.fits"))) == 3
        # The archive may have a frame before the camera has read its answer.
        eventually(lambda: site.run("cam", "test", "last", "-n", "3").count("handed over") == 3)

        # A daemon that dies comes back by itself.
        pid = running.pid("camd guide")
        os.kill(pid, signal.SIGKILL)
        assert "signal SIGKILL, again in 1 s" in running.until("camd guide", "ended")["message"]
        running.until("camd guide", "ready")
        assert site.status("localhost_test3")["pid"] != pid

        running.process.send_signal(signal.SIGINT)
        running.until("site", "down")
        assert running.process.wait(LIMIT_S) == 0
    stopped = running.words("stopped")
    assert sorted(stopped[:2]) == ["camd guide", "camd test"]
    assert stopped[2:] == ["archived pipeline", "obslogd log"]
    assert not site.shm.exists()
    assert "ended: all frames taken" in _log_text(site)


def _log_text(site: Site) -> str:
    import sqlite3

    (path,) = (site.root / "state").rglob("observatory-log.db")
    with sqlite3.connect(path) as database:
        found = database.execute("SELECT * FROM message").fetchall()
    database.close()
    return "\n".join(str(row) for row in found)


def test_detached_and_down(site: Site) -> None:
    told = site.run("nightjar", "up", "--detach", "--only", "obslogd")
    assert "1 daemon up" in told
    assert "runs in the background" in told
    match = re.search(r"obslogd log +starting \(pid (\d+)\)", told)
    assert match is not None
    table = site.run("nightjar", "--timeout", "15", "status", code=5)  # the others are not there
    assert table.count("OFFLINE") == 3
    assert "is already running" in site.run("nightjar", "up", "-d", code=3)
    told = site.run("nightjar", "down")
    assert "obslogd log" in told
    assert "all daemons are stopped\n" in told
    assert _gone(int(match[1]))
    assert "no nightjar up is running" in site.run("nightjar", "down", code=3)


def test_daemons_end_in_order_when_nightjar_up_is_killed(site: Site) -> None:
    with site.up("--only", "obslogd", "--only", "guide") as running:
        running.until("site", "up")
        pids = [running.pid(name) for name in ("obslogd log", "camd guide")]
        running.process.kill()
        running.process.wait(LIMIT_S)
        assert all(_gone(pid) for pid in pids)
    # In order, not just dead: the daemon wrote that it stopped.
    assert "camd" in (site.root / "state" / "log" / "camd-guide.log").read_text()
    site.shm.rmdir()  # empty: the stream was removed


def test_wrong_configuration_starts_nothing(site: Site) -> None:
    path = site.root / "etc" / "camd" / "test.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "gian": 26}))
    told = site.run("nightjar", "up", code=2)
    assert "test.json: gian: unknown key" in told
    assert not (site.root / "state" / "log").exists()


def test_daemon_without_its_port_is_not_tried_again(site: Site) -> None:
    entry = site.registry.daemon("localhost_test3")
    with socket.create_server((entry.address, entry.port)), site.up(
        "--only", "obslogd", "--only", "guide"
    ) as running:
        told = running.until("camd guide", "refused")["message"]
        assert "exit code 2, not started again" in told
        assert "is already in use" in told
        assert site.status("observatory_log")["summary"] == "READY"
        running.process.terminate()
        running.until("site", "down")
        assert running.process.wait(LIMIT_S) == 0


def test_watch_piped_tells_changes(site: Site) -> None:
    with subprocess.Popen(
        [*site.program("nightjar"), "watch", "--interval", "0.1"], env=site.environment,
        stdout=subprocess.PIPE, text=True,
    ) as watch:  # fmt: skip
        assert watch.stdout is not None
        seen = [watch.stdout.readline() for _ in range(4)]
        assert all("OFFLINE" in line for line in seen)
        with site.up("--only", "obslogd") as running:
            running.until("site", "up")
            assert "observatory_log  READY  OPEN" in watch.stdout.readline()
        watch.send_signal(signal.SIGINT)
        assert watch.wait(LIMIT_S) == 130
