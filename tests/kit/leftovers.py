# SPDX-License-Identifier: BSD-3-Clause
"""Find and end what a test left running: processes (orphans too) and threads.

Every process that a test starts inherits the environment variable `TOKEN_NAME`, so a grandchild
whose parent was killed is found as well as a direct child.
"""

from __future__ import annotations

import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

TOKEN_NAME = "NIGHTJAR_TEST_TOKEN"
_POLL_S = 0.02
KEPT: list[Callable[[], list[int]]] = []
"""Ask these which processes outlive a test on purpose; whoever keeps them ends them."""


@dataclass(frozen=True)
class Leftover:
    """A live process: its id, start time in clock ticks (tells a reused id apart), command line."""

    pid: int
    started: int
    command: str

    def __str__(self) -> str:
        return f"{self.pid} ({self.command or 'no command line'})"


def all_pids() -> set[int]:
    """Return the ids of all processes of this machine that we can see."""
    return {int(name) for name in os.listdir("/proc") if name.isdigit()}


def _own_helpers() -> set[int]:
    """Return the helper processes of multiprocessing, and what is kept, which live on purpose."""
    tracker = getattr(multiprocessing.resource_tracker._resource_tracker, "_pid", None)
    server = getattr(multiprocessing.forkserver._forkserver, "_forkserver_pid", None)
    kept = {pid for ask in KEPT for pid in ask()}
    return kept | {pid for pid in (tracker, server) if pid}


def _look(pid: int, token: str) -> Leftover | None:
    """Return a process when it is alive and ours: a child of this process, or with our token."""
    folder = Path("/proc") / str(pid)
    try:
        stat = (folder / "stat").read_text().rpartition(")")[2].split()
        state, parent, started = stat[0], int(stat[1]), int(stat[19])
        if state in "ZX":
            return None
        environment = (folder / "environ").read_bytes().split(b"\0")
        for _ in range(20):
            words = (folder / "cmdline").read_bytes()
            command = words.replace(b"\0", b" ").decode(errors="replace")
            if command:
                break
            time.sleep(0.005)  # in the middle of exec it has none
    except OSError:
        return None  # ended meanwhile, or another user's
    if parent != os.getpid() and f"{TOKEN_NAME}={token}".encode() not in environment:
        return None
    return Leftover(pid, started, command.strip()[:200])


def live_processes(before: set[int], token: str) -> list[Leftover]:
    """Return our live processes that were not there `before`."""
    candidates = all_pids() - before - _own_helpers() - {os.getpid()}
    found = (_look(pid, token) for pid in sorted(candidates))
    return [process for process in found if process is not None]


def wait_for_processes(before: set[int], token: str, grace_s: float) -> list[Leftover]:
    """Give processes that are already ending a moment; return those that stay."""
    deadline = time.monotonic() + grace_s
    while (left := live_processes(before, token)) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return left


def end_processes(left: list[Leftover], token: str) -> None:
    """Kill leftovers, each only while its id still means the same process."""
    for process in left:
        if _look(process.pid, token) == process:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)


def wait_for_threads(before: set[threading.Thread], grace_s: float) -> list[threading.Thread]:
    """Give threads that are already ending a moment; return the new ones that stay alive."""
    deadline = time.monotonic() + grace_s
    while True:
        left = [thread for thread in threading.enumerate() if thread not in before]
        if not left or time.monotonic() >= deadline:
            return left
        left[0].join(_POLL_S)
