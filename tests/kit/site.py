# SPDX-License-Identifier: BSD-3-Clause
"""A small site of real daemon processes below one folder, for system and fault tests."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kit.ports import free_ports as free_ports  # for programs outside pytest, too
from nightjar.access import AccessPolicy
from nightjar.api.commands import COMMON_COMMANDS, Command, Parameter
from nightjar.clock import SystemClock
from nightjar.errors import NightjarError
from nightjar.registry import Registry
from nightjar.rpc.client import Client
from nightjar.rpc.server import RpcServer

START_TIMEOUT_S = 20.0
SMALL = {"width": 320, "height": 240}


def eventually(check: Callable[[], Any], timeout_s: float = 15.0, what: str = "") -> Any:
    """Return the first true value of `check`, polled; fail after a deadline."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what or check}; last {value!r}")
        time.sleep(0.01)  # polling another process, with a deadline


class Daemon:
    """One running daemon process."""

    def __init__(self, program: str, config: Path, client: Client, log: Path) -> None:
        self.program = program
        self.client = client
        self.log_path = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", f"nightjard.{program}", str(config)],
                stdout=output, stderr=output, stdin=subprocess.DEVNULL,
            )  # fmt: skip

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def wait_ready(self) -> Daemon:
        def answers() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"{self.program} ended:\n{self.log}")
            try:
                self.client.call("status", timeout_s=2)
            except NightjarError:
                return False
            return True

        eventually(answers, START_TIMEOUT_S, f"{self.program} answers")
        return self

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.client.call("status", timeout_s=5)
        return status

    def call(self, command: str, **arguments: Any) -> Any:
        return self.client.call(command, arguments, timeout_s=10)

    def finish(self, reply: dict[str, str], timeout_s: float = 30.0) -> dict[str, Any]:
        """Return the last snapshot of an operation."""
        return finish(self.client, reply, timeout_s)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def stop(self, timeout_s: float = 30.0) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError(f"{self.program} did not stop:\n{self.log}") from None
        return self.process.returncode


def finish(client: Client, reply: dict[str, str], timeout_s: float = 30.0) -> dict[str, Any]:
    """Return the last snapshot of an operation, waiting for its end with a deadline."""
    deadline = time.monotonic() + timeout_s
    while True:
        snapshot: dict[str, Any] = client.call(
            "wait", {"operation": reply["operation"], "timeout": 1.0}, timeout_s=10
        )
        if snapshot["state"] != "running":
            return snapshot
        assert time.monotonic() < deadline, snapshot


class Site:
    """Configuration files and daemon processes below one folder."""

    def __init__(self, folder: Path, ports: list[int], *, worker_processes: int = 2) -> None:
        self.folder = folder
        self._worker_processes = worker_processes
        self.etc = folder / "etc"
        self.spool = folder / "spool"
        self.spool.mkdir(parents=True)
        self.daemons: list[Daemon] = []
        (self.etc / "nightjar").mkdir(parents=True)
        names = ["camera", "pipeline", "camera2", "log"]
        self.registry_value: dict[str, Any] = {
            "machines": {
                "LocalHost": ["127.0.0.1"], "Reader": ["127.0.0.2"], "Elsewhere": ["192.0.2.7"],
            },
            "daemons": {
                name: {"machine": "LocalHost", "port": port}
                for name, port in zip(names, ports, strict=True)
            },
        }  # fmt: skip
        self.write_registry()

    def write_registry(self) -> None:
        path = self.etc / "nightjar" / "registry.json"
        path.write_text(json.dumps(self.registry_value))

    @property
    def registry(self) -> Registry:
        return Registry.load(self.etc / "nightjar" / "registry.json")

    def client(self, name: str) -> Client:
        return Client(self.registry.daemon(name))

    def write(self, program: str, name: str, config: dict[str, Any]) -> Path:
        folder = self.etc / program
        folder.mkdir(exist_ok=True)
        path = folder / f"{name}.json"
        path.write_text(json.dumps(config))
        return path

    def camera_config(self, driver: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
        """Return the configuration of a small, fast simulated camera."""
        simulated = {
            "name": "simulated", **SMALL, "speed": 50.0, "readout_time": 1.0, **(driver or {}),
        }  # fmt: skip
        if "name" in (driver or {}) and driver is not None and driver["name"] != "simulated":
            simulated = driver
        return {
            "daemon": "camera", "pipeline_daemon": None, "pipeline_handover_timeout": 15.0,
            "log_name": "camd@test", "control_machines": ["LocalHost"], "camera_serial": 12345,
            "cooler_setpoint": None, "cooler_update_delay": 0.05, "cooler_pwm_step": 20,
            "worker_processes": self._worker_processes,
            "framebuffer_bytes": 8 * 2 * SMALL["width"] * SMALL["height"],
            "gain": 26, "header_card_capacity": 144, "camera_id": "TEST",
            "output_path": str(self.spool), "output_prefix": "test",
            "expcount_path": str(self.folder / "counter.json"), "driver": simulated,
            "exposure": 0.01, "minimum_free_bytes": 1_000_000, **changes,
        }  # fmt: skip

    def start(self, program: str, name: str, config: dict[str, Any]) -> Daemon:
        """Start a daemon and wait until it answers."""
        return self.launch(program, name, config).wait_ready()

    def launch(self, program: str, name: str, config: dict[str, Any]) -> Daemon:
        path = self.write(program, name, config)
        daemon = Daemon(
            program, path, self.client(config["daemon"]), self.folder / f"{program}-{name}.log"
        )
        self.daemons.append(daemon)
        return daemon

    def camera(self, driver: dict[str, Any] | None = None, **changes: Any) -> Daemon:
        """Start a camera daemon and init its camera."""
        daemon = self.start("camd", "test", self.camera_config(driver, **changes))
        snapshot = daemon.finish(daemon.call("init"))
        assert snapshot["state"] == "done", snapshot
        return daemon

    def close(self) -> None:
        for daemon in reversed(self.daemons):
            if daemon.process.poll() is None:
                daemon.process.send_signal(signal.SIGCONT)
                daemon.process.terminate()
                daemon.process.terminate()  # the second one: do not wait for a ramp to warm
        for daemon in reversed(self.daemons):
            try:
                daemon.process.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
        for daemon in self.daemons:
            daemon.client.close()


_NOTIFY = Command(
    "notify_frame", "Take a frame over.",
    (
        Parameter("camera", "str", ""), Parameter("run", "str", ""),
        Parameter("frame_number", "int", ""), Parameter("filename", "str", ""),
        Parameter("size", "int", ""), Parameter("datasum", "str", "", default=""),
    ),
)  # fmt: skip


class FakePipeline:
    """A pipeline that does as it is told: accepts, refuses, is slow; records every offer."""

    def __init__(self) -> None:
        self.offers: list[dict[str, Any]] = []
        self.accepted: dict[tuple[str, str, int], dict[str, Any]] = {}
        self.refusal: NightjarError | None = None
        self.gate = threading.Event()
        self.gate.set()

    def notify(self, **frame: Any) -> dict[str, str]:
        self.offers.append(frame)
        self.gate.wait(30)
        if self.refusal is not None:
            raise self.refusal
        self.accepted[frame["camera"], frame["run"], frame["frame_number"]] = frame
        return {"state": "accepted"}

    @property
    def numbers(self) -> list[int]:
        return [frame["frame_number"] for frame in self.accepted.values()]

    @contextmanager
    def served(self, registry: Registry, name: str = "pipeline") -> Iterator[RpcServer]:
        server = RpcServer(
            registry.daemon(name),
            {
                "notify_frame": (_NOTIFY, self.notify),
                "status": (COMMON_COMMANDS[0], lambda: {"summary": "READY"}),
            },
            AccessPolicy(registry, ["LocalHost"]), SystemClock(),
        )  # fmt: skip
        server.start()
        try:
            yield server
        finally:
            self.gate.set()
            server.stop()


def descendants(pid: int) -> list[int]:
    """Return the living children of a process and theirs."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
        except OSError:
            continue
        state, parent = stat.rsplit(")", 1)[1].split()[:2]
        if int(parent) == pid and state != "Z":
            found.append(int(entry.name))
            found += descendants(int(entry.name))
    return found


def command_line(pid: int) -> str:
    """Return a process's command line; empty when it has gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def is_alive(pid: int) -> bool:
    """Tell whether a process runs."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:  # before it was opened, or between that and reading
        return False
    return state not in "ZX"
