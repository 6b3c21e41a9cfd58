# SPDX-License-Identifier: BSD-3-Clause
"""Telescope logs for tests: records with truth, a ring, services that misbehave, a daemon."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from kit.site import Daemon, eventually
from nightjar.access import AccessPolicy
from nightjar.api.commands import COMMON_COMMANDS, Command
from nightjar.clock import ManualClock, SystemClock
from nightjar.config.load import parse
from nightjar.das import telinfo
from nightjar.das.naming import MINUTE_NS, minute_of
from nightjar.das.pointing import LOCK_SUFFIX, RATE_HZ, RECORDS, TICK_NS, Pointing, encode
from nightjar.registry import Registry
from nightjar.rpc.client import Client
from nightjar.rpc.server import RpcServer
from nightjard.telogd.config import TelogdConfig
from nightjard.telogd.minutes import MinuteFile

MINUTE0_NS = 1_750_000_020_000_000_000 // MINUTE_NS * MINUTE_NS
"""A UT minute, not the last of an hour."""
S = 1_000_000_000


def records(start_ns: int, count: int = RECORDS, first: int = 0) -> bytes:
    """Return records from a minute's slot on; the azimuth tells the tick, so all differ."""
    times = start_ns + (first + np.arange(count, dtype=np.int64)) * TICK_NS
    ticks = times // TICK_NS % (86400 * RATE_HZ)
    zero = np.zeros(count)
    return encode(Pointing(
        times, np.full(count, 1, np.uint32), ticks / 360000 % 24, zero + 10, zero + 20, zero + 30,
        zero, zero, ticks / 36000 % 360, zero + 45, zero, zero,
    ))  # fmt: skip


class Ring:
    """The telescope's folder, written by hand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, start_ns: int) -> Path:
        return self.folder / f"{minute_of(start_ns):04d}"

    def put(self, start_ns: int, data: bytes | None = None) -> Path:
        """Put a minute's file there: whole, or these bytes."""
        self.path(start_ns).write_bytes(records(start_ns) if data is None else data)
        return self.path(start_ns)

    def lock(self, start_ns: int, is_locked: bool = True) -> None:
        lock = self.path(start_ns).with_name(self.path(start_ns).name + LOCK_SUFFIX)
        lock.touch() if is_locked else lock.unlink()


class Told(list[MinuteFile]):
    """What the ledger would be told."""

    def states(self) -> dict[str, str]:
        return {file.name: file.state.value for file in self}


class PlogServer:
    """A pointing service of one client at a time that sends what the test says."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._connection: socket.socket | None = None

    def accept(self, timeout_s: float = 5.0) -> None:
        """Wait for a client; the one before is hung up."""
        self.hang_up()
        self._listener.settimeout(timeout_s)
        self._connection, _ = self._listener.accept()

    def send(self, data: bytes) -> None:
        assert self._connection is not None
        self._connection.sendall(data)

    def hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def close(self) -> None:
        self.hang_up()
        self._listener.close()


class RawServer:
    """A TCP service that answers each message by what `answer` returns; None: nothing."""

    def __init__(self, answer: Callable[[bytes], bytes | None]) -> None:
        self.answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._connections: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, name="raw-server", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            with connection:
                try:
                    while data := connection.recv(65536):
                        reply = self.answer(data)
                        if reply is not None:
                            connection.sendall(reply)
                except OSError:
                    continue

    def close(self) -> None:
        if self._listener.fileno() >= 0:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        for one in self._connections:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        self._thread.join(5.0)


def xid_of(call: bytes) -> int:
    return int(struct.unpack_from(">I", call, 4)[0])


def reply(xid: int, body: bytes, *, status: int = 0, fragments: int = 1) -> bytes:
    """Return an accepted reply with record marks, in one or several fragments (RFC 5531)."""
    message = struct.pack(">6I", xid, 1, 0, 0, 0, status) + body
    step = -(-len(message) // fragments)
    parts = [message[k : k + step] for k in range(0, len(message), step)]
    marks = [0x80000000 if part is parts[-1] else 0 for part in parts]
    return b"".join(
        struct.pack(">I", mark | len(part)) + part for mark, part in zip(marks, parts, strict=True)
    )


def record_bytes(utc_ns: int, **values: Any) -> bytes:
    """Return a record of housekeeping of a time."""
    return telinfo.pack({"utc_ns": utc_ns, "source_name": "uranus", "el_deg": 51.5} | values)


class FakeRotator:
    """Answers the query `rotator`, counting up."""

    def __init__(self) -> None:
        self.calls = 0

    def told(self) -> dict[str, Any]:
        self.calls += 1
        return {
            "time_ns": time.time_ns(), "angle_deg": float(self.calls), "raw_counts": self.calls,
            "motor_counts": 7, "motor_angle_deg": 1.5, "state": "READY", "is_homed": True,
            "is_limit": False, "is_busy": False, "target_deg": None, "error_deg": None,
            "age_s": 0.01,
        }  # fmt: skip

    @contextmanager
    def served(self, registry: Registry) -> Iterator[None]:
        command = Command("rotator", "The newest reading.", access="query", is_safe=True)
        server = RpcServer(
            registry.daemon("rotator"),
            {
                "rotator": (command, self.told),
                "status": (COMMON_COMMANDS[0], lambda: {"summary": "READY"}),
            },
            AccessPolicy(registry, ["LocalHost"]), SystemClock(),
        )  # fmt: skip
        server.start()
        try:
            yield
        finally:
            server.stop()


def config_value(folder: Path, **changes: Any) -> dict[str, Any]:
    """Return a configuration below a folder; what is logged is up to the changes."""
    return {
        "daemon": "telog", "log_name": "telogd@test", "control_machines": ["LocalHost"],
        "pointing_root": str(folder / "pointing"), "raw_root": str(folder / "raw"),
        "housekeeping_root": str(folder / "housekeeping"), "auto_mkdir": True,
        "space": {"low_bytes": 0, "stop_bytes": 0}, **changes,
    }  # fmt: skip


def telog_config(folder: Path, **changes: Any) -> TelogdConfig:
    return parse(config_value(folder, **changes), TelogdConfig, "test")


class TelogSite:
    """A folder with a registry of `telog`, `rotator` and `das`, and real daemons."""

    def __init__(self, folder: Path, ports: list[int]) -> None:
        self.folder, self.etc = folder, folder / "etc"
        (self.etc / "nightjar").mkdir(parents=True)
        (self.etc / "telogd").mkdir()
        value = {
            "machines": {"LocalHost": ["127.0.0.1"]},
            "daemons": {
                name: {"machine": "LocalHost", "port": port}
                for name, port in zip(("telog", "rotator", "das"), ports, strict=False)
            },
        }
        (self.etc / "nightjar/registry.json").write_text(json.dumps(value))
        self.daemons: list[Daemon] = []

    @property
    def registry(self) -> Registry:
        return Registry.load(self.etc / "nightjar/registry.json")

    def start(self, **changes: Any) -> Daemon:
        path = self.etc / "telogd/bolotel.json"
        path.write_text(json.dumps(config_value(self.folder, **changes)))
        client = Client(self.registry.daemon("telog"))
        daemon = Daemon("telogd", path, client, self.folder / "telogd.log")
        self.daemons.append(daemon)
        return daemon.wait_ready()

    def lines(self) -> list[dict[str, Any]]:
        """Return all lines of housekeeping on disk, hidden ones too, file by file."""
        root = self.folder / "housekeeping"
        found = []
        for path in sorted(root.glob("*/*enc_*"), key=lambda p: p.name.lstrip(".")):
            try:
                text = path.read_text()
            except FileNotFoundError:  # its minute is over: it has its name now
                text = path.with_name(path.name.lstrip(".")).read_text()
            if path.name.startswith("."):  # the last line may be in the middle of being written
                text = text[: text.rfind("\n") + 1]
            found += [json.loads(line) for line in text.splitlines()]
        return found

    def close(self) -> None:
        for daemon in self.daemons:
            if daemon.process.poll() is None:
                daemon.stop()
            daemon.client.close()


def freeze(pid: int) -> None:
    """Stop a process, all its threads, as a hard mount without its server does."""
    os.kill(pid, signal.SIGSTOP)

    def is_stopped() -> bool:
        tasks = Path(f"/proc/{pid}/task").glob("*/stat")
        return all(one.read_text().rpartition(")")[2].split()[0] == "T" for one in tasks)

    eventually(is_stopped, 5, f"process {pid} is stopped")


def manual(start_ns: int = MINUTE0_NS) -> ManualClock:
    return ManualClock(start_ns)
