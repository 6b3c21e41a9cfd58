# SPDX-License-Identifier: BSD-3-Clause
"""sd_notify(3) over a real datagram socket."""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from nightjar.systemd import notify, watchdog_interval_s


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """Play the service manager; returns its end."""
    name = f"@nightjar-{uuid.uuid4().hex}" if request.param == "abstract" else str(tmp_path / "n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name[1:] if name.startswith("@") else name)
        listener.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield listener


def test_assignments_arrive_in_one_datagram(manager: socket.socket) -> None:
    assert notify("READY=1", "STATUS=READY IDLE ☾") is True
    assert manager.recv(4096).decode() == "READY=1\nSTATUS=READY IDLE ☾"
    notify("WATCHDOG=1")
    assert manager.recv(4096) == b"WATCHDOG=1"


def test_without_a_manager_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    assert notify("READY=1") is False
    monkeypatch.setenv("NOTIFY_SOCKET", "")
    assert notify("READY=1") is False


def test_a_manager_that_is_gone_or_deaf_costs_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "n"
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))
    assert notify("READY=1") is False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        started = time.monotonic()
        while notify("STATUS=" + "x" * 1000):  # until its queue is full
            assert time.monotonic() - started < 20
        assert time.monotonic() - started < 5
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        assert notify("READY=1") is False
    assert len(os.listdir("/proc/self/fd")) == descriptors


@pytest.mark.parametrize(
    ("usec", "pid", "interval"),
    [("30000000", None, 15.0), ("30000000", "own", 15.0), ("30000000", "1", None),
     (None, None, None), ("", None, None), ("soon", None, None), ("-5", None, None)],
)  # fmt: skip
def test_watchdog_interval(
    monkeypatch: pytest.MonkeyPatch, usec: str | None, pid: str | None, interval: float | None
) -> None:
    if usec is not None:
        monkeypatch.setenv("WATCHDOG_USEC", usec)
    if pid is not None:
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "own" else pid)
    assert watchdog_interval_s() == interval
