# SPDX-License-Identifier: BSD-3-Clause
"""How far a logger had come, for the one that takes its place after it was killed.

The position is written each time a cube ends, before the cube is handed to the closing thread:
what the file tells of is either in a named cube or in one whose journal is still there. What such
a journal tells, and how much of it proved whole, is added to it or taken from it.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nightjar.clock import Clock
from nightjar.errors import NightjarError
from nightjard.fitslogd.journal import Recovered, folders_of, leftovers, missed_in, recover
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
    is_over
        Whether the session has ended.
    """

    number: int
    totals: Totals
    counter: int | None
    identity: list[int]
    is_over: bool = False


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
        self._session, self._position = "", Position(0, Totals(), None, [])
        self._done: set[str] = set()

    def load(self) -> None:
        """Read the file: when no other logger writes it any more."""
        try:
            value = json.loads(self._path.read_text())
            position = Position(
                value["number"], Totals(**value["totals"]), value["counter"], value["identity"],
                value["is_over"],
            )  # fmt: skip
            self._session, self._position = value["session"], position
            self._done = set(value["done"])
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.error("the position in %s is lost: %s", self._path, error)

    def save(self, session: str, position: Position, done: Iterable[str] = ()) -> None:
        """Keep the position: it must outlive the process, not the machine.

        Parameters
        ----------
        done
            Names of journals whose cubes are in it already, though the journals may still be there.
        """
        self._session, self._position = session, position
        value = {
            "session": session, "number": position.number, "counter": position.counter,
            "identity": position.identity, "totals": dataclasses.asdict(position.totals),
            "is_over": position.is_over, "done": sorted(done),
        }  # fmt: skip
        temporary = self._path.with_suffix(".tmp")
        try:
            temporary.write_text(json.dumps(value))
            os.replace(temporary, self._path)
        except OSError as error:
            log.error("cannot keep the position in %s: %s", self._path, error)

    def recover(self, root: Path) -> list[dict[str, Any]]:
        """Make whole cubes of what dead loggers left below a folder; return what to tell."""
        found = []
        for folder in folders_of(root, self._stream):
            for journal in leftovers(folder, self._stream):
                try:
                    one = recover(journal, self._stream, self._clock)
                except (OSError, NightjarError) as error:
                    log.error("%s cannot be recovered: %s", journal, error)
                except Exception:  # whatever is in that file: it must not keep a logger down
                    log.exception("%s cannot be recovered", journal)
                else:
                    found += [one] if one is not None else []
        found.sort(key=lambda each: each.number)
        self._add(found)
        for each in found:  # not before: a kill in between must not lose what they tell
            each.journal.unlink(missing_ok=True)
        return [each.told() for each in found if each.path is not None]

    def _add(self, found: list[Recovered]) -> None:
        """Add what journals tell to the position, once each."""
        mine = [each for each in found if each.head["session"] == self._session]
        new = [each for each in mine if each.journal.name not in self._done]
        position = self._position
        empty = {each.number for each in mine if not len(each.rows)}
        newest = max([position.number, *(each.number for each in mine)])
        for each in new:
            is_last = empty.issuperset(range(each.number + 1, newest + 1))
            position = _with(
                position, each, is_counted=each.number <= self._position.number,
                is_last=is_last and not position.is_over,
            )  # fmt: skip
        if new:
            self._done |= {each.journal.name for each in new}
            self.save(self._session, position, self._done)

    def position(self, session: str) -> Position | None:
        """Return where a session of a logger that died stands; None where nothing is known."""
        return self._position if session == self._session else None


def _with(
    position: Position, cube: Recovered, *, is_counted: bool, is_last: bool
) -> Position:
    """Return a position with what a recovered cube tells.

    Frames that its writer had noted and that did not reach the disk are taken back: of the last
    cube that holds any they are read once more from the ring, gaps among them with them; of an
    earlier one, behind which frames are saved, they are lost.

    Parameters
    ----------
    is_counted
        Its frames are in the position already.
    is_last
        No frame behind its own is saved.
    """
    totals = dataclasses.replace(position.totals)
    number, kept, noted = cube.number, cube.rows, cube.noted
    counter = position.counter
    gone = len(noted) - len(kept)
    if is_last:
        if is_counted:
            totals.saved -= gone
            totals.missed -= missed_in(noted) - missed_in(kept)
        else:
            totals.saved += len(kept)
            totals.missed += missed_in(kept)
        if len(kept):
            counter = int(kept["CNT0"][-1])
        elif is_counted and len(noted) and counter is not None:
            counter = min(counter, int(noted["CNT0"][0]) - 1 - int(noted["MISSED"][0]))
    else:
        if is_counted:
            totals.saved -= gone
        else:
            totals.saved += len(kept)
            totals.missed += missed_in(noted)
            counter = int(noted["CNT0"][-1]) if len(noted) else counter
        totals.missed += gone
    totals.cubes += 1 if cube.path is not None else 0
    identity = cube.head["identity"] if counter != position.counter else position.identity
    number = max(number, position.number) if len(kept) else min(position.number, number - 1)
    return Position(number, totals, counter, identity, position.is_over)
