# SPDX-License-Identifier: BSD-3-Clause
"""What the rotator remembers over restarts: zero points, the last angle, its moves."""

from __future__ import annotations

import json
import logging
from collections import deque
from pathlib import Path
from typing import Any

from nightjar.files import write_durably

log = logging.getLogger(__name__)
_KEPT = 1000
_STATE = "rotator.json"
_MOVES = "moves.jsonl"


class Journal:
    """Small files of the daemon's state folder. A disk that fails costs memory, never a move.

    Parameters
    ----------
    folder
        The daemon's state folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lines: deque[dict[str, Any]] = deque(maxlen=_KEPT)
        self._told = ""
        try:
            with (folder / _MOVES).open() as file:
                for line in deque(file, maxlen=_KEPT):
                    self._take(line)
        except OSError:
            pass

    def _take(self, line: str) -> None:
        try:
            self._lines.append(json.loads(line))
        except ValueError:  # the last one, cut by a power failure
            log.warning("%s has a line that is cut short", self.folder / _MOVES)

    def recall(self) -> dict[str, Any]:
        """Return what was remembered last; empty for nothing."""
        try:
            found = json.loads((self.folder / _STATE).read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            log.warning("%s cannot be read: %s", self.folder / _STATE, error)
            return {}
        return found if isinstance(found, dict) else {}

    def remember(self, memory: dict[str, Any]) -> None:
        """Write down where everything is."""
        self._write(_STATE, memory)

    def keep(self, name: str, value: dict[str, Any]) -> Path:
        """Write a file of its own, a sweep for example; return its path."""
        self._write(name, value)
        return self.folder / name

    def _write(self, name: str, value: dict[str, Any]) -> None:
        try:
            write_durably(self.folder / name, (json.dumps(value) + "\n").encode(), replace=True)
            self._told = ""
        except OSError as error:
            text = f"{self.folder / name} cannot be written: {error.strerror}"
            if text != self._told:
                log.error("%s", text)
            self._told = text

    def note(self, entry: dict[str, Any]) -> None:
        """Add a move, a homing, a fault."""
        self._lines.append(entry)
        try:
            with (self.folder / _MOVES).open("a") as file:
                file.write(json.dumps(entry, separators=(",", ":")) + "\n")
        except OSError as error:
            log.error("%s cannot be written: %s", self.folder / _MOVES, error.strerror)

    def last(self, count: int) -> list[dict[str, Any]]:
        """Return the newest entries, newest last."""
        return list(self._lines)[-count:]
