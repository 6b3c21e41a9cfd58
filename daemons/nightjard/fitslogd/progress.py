# SPDX-License-Identifier: BSD-3-Clause
"""How far a logger had come, for the one that takes its place after it was killed."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nightjar.clock import Clock
from nightjar.errors import NightjarError
from nightjard.fitslogd.journal import Recovered, folders_of, leftovers, recover
from nightjard.fitslogd.recorder import Totals

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Position:
    """Where a session stands.

    Attributes
    ----------
    number
        Of the last cube.
    totals
        Counts up to its end.
    counter, identity
        Stream counter of the last frame kept, and which stream file counted it.
    """

    number: int
    totals: Totals
    counter: int | None
    identity: list[int]


class Progress:
    """The position of a logger in a small file, and what the cubes of a dead one add to it.

    Parameters
    ----------
    folder
        Where the file lies.
    stream
        Its name.
    clock
        For the headers of recovered cubes.
    """

    def __init__(self, folder: Path, stream: str, clock: Clock) -> None:
        self._path = folder / f"{stream}.progress.json"
        self._stream = stream
        self._clock = clock
        self._recovered: list[Recovered] = []

    def save(self, session: str, position: Position) -> None:
        """Keep the position: it must outlive the process, not the machine."""
        value = {
            "session": session, "number": position.number, "counter": position.counter,
            "identity": position.identity, "totals": dataclasses.asdict(position.totals),
        }  # fmt: skip
        temporary = self._path.with_suffix(".tmp")
        try:
            temporary.write_text(json.dumps(value))
            os.replace(temporary, self._path)
        except OSError as error:
            log.error("cannot keep the position in %s: %s", self._path, error)

    def recover(self, root: Path) -> list[dict[str, Any]]:
        """Make whole cubes of what dead loggers left below a folder; return what to tell."""
        told = []
        for folder in folders_of(root, self._stream):
            for journal in leftovers(folder, self._stream):
                try:
                    found = recover(journal, self._clock)
                except (OSError, NightjarError) as error:
                    log.error("%s cannot be recovered: %s", journal, error)
                    continue
                if found is None:
                    continue
                self._recovered.append(found)
                if found.path is not None:
                    told.append(_told(found))
        return told

    def position(self, session: str) -> Position | None:
        """Return where a session of a logger that died stands; None where nothing is known."""
        try:
            value = json.loads(self._path.read_text())
            known = value["session"] == session
            position = Position(
                value["number"], Totals(**value["totals"]), value["counter"], value["identity"]
            )
        except (OSError, ValueError, KeyError, TypeError):
            known = False
        if not known:
            position = Position(0, Totals(), None, [])
        mine = [each for each in self._recovered if each.head.get("session") == session]
        for each in sorted(mine, key=lambda found: int(found.head["number"])):
            if int(each.head["number"]) > position.number:
                position = _after(position, each)
        return position if known or mine else None


def _after(position: Position, cube: Recovered) -> Position:
    totals = dataclasses.replace(position.totals)
    totals.saved += cube.frames
    totals.cubes += 1 if cube.path is not None else 0
    return Position(
        int(cube.head["number"]), totals,
        cube.last_counter if cube.last_counter is not None else position.counter,
        cube.head.get("identity", position.identity),
    )  # fmt: skip


def _told(cube: Recovered) -> dict[str, Any]:
    return {
        "path": str(cube.path), "session": cube.head["session"], "number": cube.head["number"],
        "frames": cube.frames, "expected": cube.head["expected"], "missed": 0, "torn": 0,
        "reason": "killed", "truncated": cube.frames < int(cube.head["expected"]),
        "size": cube.size, "shape": cube.head["shape"], "first_counter": None,
        "last_counter": cube.last_counter, "first_ns": None, "last_ns": None, "seconds": 0.0,
    }  # fmt: skip
