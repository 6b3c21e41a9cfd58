# SPDX-License-Identifier: BSD-3-Clause
"""A mounted folder, touched by a process of its own that is killed when the mount hangs."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

from nightjar.child import Child
from nightjar.errors import StorageError, TimedOut, Unreachable
from nightjard.telogd.drivers.base import Facts

log = logging.getLogger(__name__)

SLOWEST_BYTES_S = 1_000_000
_START_S = 20.0
_STOP_S = 1.0


class MountReader:
    """Asks the reading process; starts it when needed.

    Parameters
    ----------
    name
        For the log.
    limit_s
        Longest wait for the mount.
    """

    def __init__(self, name: str, limit_s: float) -> None:
        self.name, self.limit_s = name, limit_s
        self._child: Child | None = None
        self._is_closed = False
        self._lock = threading.Lock()
        self.kills = 0

    @property
    def pid(self) -> int | None:
        """Of the reading process; None where it does not run."""
        return None if self._child is None else self._child.pid

    def ask(self, command: str, expected_bytes: int = 0, **arguments: Any) -> Any:
        """Return the answer to a command of :mod:`nightjard.telogd.reader`.

        Raises
        ------
        StorageError
            What the command met; or the mount does not answer: the process was ended.
        """
        limit_s = self.limit_s + expected_bytes / SLOWEST_BYTES_S
        child = self._running()
        try:
            return child.ask(command, arguments, limit_s)
        except TimedOut:
            self.kills += 1
            self._end(at_once=True)
            path = arguments.get("folder") or arguments.get("source") or arguments.get("path")
            raise StorageError(
                f"{path} did not answer within {limit_s:g} s: does the mount hang? The process "
                "that read it was ended; it is tried again", path=str(path),
            ) from None  # fmt: skip
        except Unreachable as error:
            self._end(at_once=True)
            raise StorageError(f"the process that reads mounts ended: {error.message}") from None

    def _running(self) -> Child:
        with self._lock:
            if self._is_closed:
                raise StorageError(f"{self.name} is closed")
            if self._child is not None and self._child.is_alive:
                return self._child
            self._child = Child(self.name, "nightjard.telogd.reader")
            self._child.start()
            child = self._child
        child.ask("ping", timeout_s=_START_S)  # Python's start is not the mount's fault
        return child

    def _end(self, *, at_once: bool) -> None:
        with self._lock:
            child, self._child = self._child, None
        if child is None:
            return
        if at_once:
            child.kill()
        child.stop(_STOP_S)
        child.wait_over(_STOP_S)

    def close(self) -> None:
        """End the process."""
        self._is_closed = True
        self._end(at_once=False)


def facts_of(rows: dict[str, list[int]]) -> dict[str, Facts]:
    """Return the reader's answer to ``look`` as facts."""
    return {name: Facts(name, size, mtime) for name, (size, mtime) in rows.items()}


def scan_all(reader: MountReader, folder: Path) -> list[Facts]:
    """Return all regular files of a folder that are not hidden, by name."""
    found: list[Facts] = []
    offset = 0
    while True:
        page = reader.ask("scan", folder=str(folder), offset=offset)
        found += [Facts(*row) for row in page["files"]]
        if not page["more"]:
            return found
        offset += 5000
