# SPDX-License-Identifier: BSD-3-Clause
"""Which minute files there are, and whether they have changed: cheap enough for once a second."""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nightjar.das.naming import (
    MINUTE_NS,
    day_of,
    housekeeping_start_ns,
    minute_start_ns,
    pointing_start_ns,
    raw_start_ns,
    rpc_start_ns,
)
from nightjar.das.pointing import LOCK_SUFFIX
from nightjard.merged.config import MergedConfig

DAY_NS = 1440 * MINUTE_NS
NO_FILE = "-"
UNDER_WAY = "*"
"""Before a signature: its merging was begun again."""
Mark = str
"""What tells a file from what it was before: a digest of size and time of change."""


@dataclass(slots=True)
class _Listing:
    changed_ns: int
    listed_s: float
    is_sure: bool
    look: int
    marks: dict[int, Mark]


class Folder:
    """One stream's minute files, day by day.

    A day is listed anew when its folder has changed, and now and then: a file that is written over
    in its place does not change the folder.

    Parameters
    ----------
    root
        Folder of the days.
    start_ns
        Knows the start of a file's minute by its name.

    Attributes
    ----------
    version
        Another one after each change that was seen.
    """

    _FRESH_NS = 3_000_000_000  # a folder that changed so lately may change again in the same tick
    _STALE_S = 30.0

    def __init__(self, root: Path, start_ns: Callable[[Path], int | None]) -> None:
        self._root = root
        self._start_ns = start_ns
        self._days: dict[str, _Listing] = {}
        self.version = 0

    def marks(self, day: str, look: int) -> dict[int, Mark]:
        """Return the files of a day: start of the minute, ns UTC -> mark.

        Parameters
        ----------
        day
            YYYYMMDD.
        look
            Number of the look; within one a day is asked for once.
        """
        known = self._days.get(day)
        if known is not None and known.look == look:
            return known.marks
        folder = self._root / day
        try:
            changed_ns = folder.stat().st_mtime_ns
        except OSError:
            changed_ns = 0
        now_s = time.monotonic()
        is_same = (
            known is not None and known.is_sure and known.changed_ns == changed_ns
            and now_s - known.listed_s < self._STALE_S
        )  # fmt: skip
        if known is not None and is_same:
            known.look = look
            return known.marks
        # Compared with what the disk says: the host's clock, not that of the daemon.
        is_sure = abs(time.time_ns() - changed_ns) > self._FRESH_NS
        marks = self._list(folder) if changed_ns else {}
        if known is None or marks != known.marks:
            self.version += 1
        self._days[day] = _Listing(changed_ns, now_s, is_sure, look, marks)
        return marks

    def _list(self, folder: Path) -> dict[int, Mark]:
        marks: dict[int, Mark] = {}
        locked: set[int] = set()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.endswith(LOCK_SUFFIX):
                        start = self._start_ns(Path(entry.path.removesuffix(LOCK_SUFFIX)))
                        locked |= {start} if start is not None else set()
                        continue
                    start = self._start_ns(Path(entry.path))
                    if start is not None and entry.is_file():
                        marks[start] = mark_of(entry.stat())
        except OSError:
            return marks  # it went, or a file of it: the next look knows more
        for start in locked:  # still being written
            marks.pop(start, None)
        return marks


def mark_of(stat: os.stat_result) -> Mark:
    """Return the mark of a file."""
    return f"{zlib.crc32(f'{stat.st_size} {stat.st_mtime_ns}'.encode()):08x}"


def _housekeeping_start(path: Path) -> int | None:
    start = housekeeping_start_ns(path)
    return rpc_start_ns(path) if start is None else start


def _index_start(path: Path) -> int | None:
    return raw_start_ns(path.with_suffix(".bin")) if path.suffix == ".idx" else None


class Inputs:
    """The three streams' files, as the merge of a minute needs them; for one thread.

    Parameters
    ----------
    config
        Roots; streams without one are not needed.
    """

    def __init__(self, config: MergedConfig) -> None:
        self._raw = Folder(config.raw_root, raw_start_ns)
        self._index = Folder(config.raw_root, _index_start)
        self._others: dict[str, Folder] = {}
        if config.pointing_root is not None:
            self._others["pointing"] = Folder(config.pointing_root, pointing_start_ns)
        if config.housekeeping_root is not None:
            self._others["housekeeping"] = Folder(config.housekeeping_root, _housekeeping_start)
        self._all = (self._raw, self._index, *self._others.values())
        self._look = 0
        self._looked: set[int] = set()
        self._signatures: dict[int, str] = {}
        self._versions: list[int] = []

    def look(self) -> None:
        """Begin a look: until the next one all is as it is now."""
        self._look += 1
        self._looked.clear()

    def raw_minutes(self, first_ns: int, last_ns: int) -> list[int]:
        """Return the minutes that have a raw file, from `first_ns` to `last_ns` inclusive."""
        found: list[int] = []
        for day in days(first_ns, last_ns):
            found += self._raw.marks(day, self._look)
        return sorted(start for start in found if first_ns <= start <= last_ns)

    def missing(self, start_ns: int) -> list[str]:
        """Return the streams that have no file of a minute."""
        day = day_of(start_ns)
        return [
            name for name, folder in self._others.items()
            if start_ns not in folder.marks(day, self._look)
        ]  # fmt: skip

    def signature(self, start_ns: int) -> str:
        """Return the marks of the files that a minute is merged from, its neighbours' included."""
        for day in {(start_ns - MINUTE_NS) // DAY_NS, (start_ns + MINUTE_NS) // DAY_NS}:
            if day not in self._looked:
                self._looked.add(day)
                for folder in self._all:
                    folder.marks(day_of(day * DAY_NS), self._look)
                versions = [one.version for one in self._all]
                if versions != self._versions:
                    self._signatures.clear()
                    self._versions = versions
        found = self._signatures.get(start_ns)
        if found is None:
            found = self._signatures[start_ns] = ".".join(self._marks(start_ns))
        return found

    def _marks(self, start_ns: int) -> list[Mark]:
        parts = []
        for offset in (-MINUTE_NS, 0, MINUTE_NS):
            at = start_ns + offset
            for name in ("pointing", "housekeeping"):  # a stream that is not wanted is not there
                folder = self._others.get(name)
                marks = {} if folder is None else folder.marks(day_of(at), self._look)
                parts.append(marks.get(at, NO_FILE))
        for folder in (self._raw, self._index):
            parts.append(folder.marks(day_of(start_ns), self._look).get(start_ns, NO_FILE))
        return parts

    def is_whole(self, start_ns: int) -> bool:
        """Tell whether no file that a minute is merged from can still be to come."""
        return not any(self.missing(start_ns + offset) for offset in (-MINUTE_NS, 0, MINUTE_NS))


def is_gone(before: str, now: str) -> bool:
    """Tell whether a file that a minute was merged from is not there any more.

    Then merging it again would take from the product what nothing can give back.
    """
    one, other = before.lstrip(UNDER_WAY).split("."), now.split(".")
    return len(one) == len(other) and any(
        old != NO_FILE and new == NO_FILE for old, new in zip(one, other, strict=True)
    )


def days(first_ns: int, last_ns: int) -> list[str]:
    """Return the UT days from one time to another."""
    start = minute_start_ns(day_of(first_ns), 0)
    return [day_of(ns) for ns in range(start, max(last_ns, first_ns) + 1, DAY_NS)]
