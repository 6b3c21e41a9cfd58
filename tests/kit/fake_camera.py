# SPDX-License-Identifier: BSD-3-Clause
"""A camera daemon without a camera: the real RPC server and table, answers that a test sets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nightjar.access import AccessPolicy
from nightjar.api.camera import COMMANDS
from nightjar.clock import SystemClock
from nightjar.daemon import _all_commands
from nightjar.errors import NightjarError
from nightjar.operations import Operation, Operations
from nightjar.registry import Registry
from nightjar.rpc.server import RpcServer

IDLE: dict[str, Any] = {
    "time": "2025-06-15T12:00:00.000000", "daemon": "localhost_test", "camera_id": "TEST",
    "summary": "READY", "state": "IDLE", "state_since": "2025-06-15T11:59:00.000000",
    "health": {"level": "OK", "reason": "", "parts": {}},
    "model": "Simulated APX60", "serial": "12345",
    "temperature": -5.02, "cooler_mode": "LOCKED", "cooler_power": 0.453,
    "cooler_setpoint": -5.0, "temperature_locked": True, "humidity": None, "pressure": None,
    "exposure_time": 1.0, "exposure_progress": None, "delay": 0.0,
    "window": [1, 9600, 1, 6422], "binning": 1, "binning_method": "sum", "gain": 26, "offset": 30,
    "filter": "R", "filters": ["B", "R", "V"],
    "windows": ["sky", "star"], "stream": True, "housekeeping": {}, "controls": {},
    "sequence_frame_limit": 0, "sequence_frame_count": 0, "operation": None,
    "frame_number": 12, "frames_taken": 12, "frames_saved": 12, "frames_handed_over": 11,
    "frames_lost": 0, "frames_invalid": 0, "frames_waiting": 1,
    "buffer_used": 0, "buffer_slots": 5, "buffer_waits": 0, "frames_unsaved": 0, "workers": 3,
    "worker_restarts": 0, "pid": 4242,
    "last_file": "/data/test-00000012.fits", "last_error": None, "last_stop": "5 of 5 frames taken",
    "free_bytes": 12_345_678_901,
    "pipeline": {"daemon": "localhost_test2", "is_reachable": True, "message": ""},
}  # fmt: skip


class FakeCamera:
    """Answers every command of the camera's table and remembers what it was asked.

    Attributes
    ----------
    snapshot
        What ``status`` returns; a test changes it.
    calls
        ``(command, arguments)`` in order, ``status`` left out.
    errors
        Command -> the error it answers with.
    on_operation
        Called with each operation that a command begins; by default they stay running.
    """

    commands = COMMANDS

    def __init__(self) -> None:
        self.snapshot = dict(IDLE)
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.errors: dict[str, NightjarError] = {}
        self.values: dict[str, Any] = {"last": []}
        self.operations = Operations(SystemClock())
        self.begun: list[Operation] = []
        self.cancelled: list[str] = []
        self.on_operation: Callable[[Operation], None] = lambda _operation: None

    def status(self) -> dict[str, Any]:
        return dict(self.snapshot)

    def handlers(self) -> dict[str, Callable[..., Any]]:
        return {command.name: self._handler(command.name, command.is_operation)
                for command in COMMANDS}  # fmt: skip

    def _handler(self, name: str, is_operation: bool) -> Callable[..., Any]:
        def handle(**arguments: Any) -> Any:
            self.calls.append((name, arguments))
            if name in self.errors:
                raise self.errors[name]
            if not is_operation:
                return self.values.get(name)
            operation = self.operations.begin(name, lambda: self.cancelled.append(name))
            self.begun.append(operation)
            self.on_operation(operation)
            return {"operation": operation.id}

        return handle

    # The runtime's part of the Service protocol, not used here.
    def start(self) -> None: ...

    def stop(self, report: Callable[[str], None]) -> None: ...

    def heartbeat_age_s(self) -> float:
        return 0.0


def write_site(root: Path, ports: dict[str, int], cameras: dict[str, str]) -> None:
    """Write a registry of loopback daemons and one camd configuration per camera id."""
    (root / "nightjar").mkdir(parents=True, exist_ok=True)
    (root / "camd").mkdir(exist_ok=True)
    registry = {
        "machines": {"LocalHost": ["127.0.0.1", "::1"], "Elsewhere": ["192.0.2.7"]},
        "daemons": {name: {"machine": "LocalHost", "port": port} for name, port in ports.items()},
    }
    (root / "nightjar" / "registry.json").write_text(json.dumps(registry))
    for identity, daemon in cameras.items():
        config = {"daemon": daemon, "log_name": f"camd@{identity}"}
        (root / "camd" / f"{identity}.json").write_text(json.dumps(config))


@contextmanager
def served(
    service: Any, name: str, registry: Registry, control: tuple[str, ...] = ("LocalHost",)
) -> Iterator[RpcServer]:
    """Serve a fake service at its registered address."""
    access = AccessPolicy(registry, control)
    table = _all_commands(service, service.operations)
    server = RpcServer(registry.daemon(name), table, access, SystemClock())
    server.start()
    try:
        yield server
    finally:
        server.stop()
