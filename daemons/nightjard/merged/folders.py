# SPDX-License-Identifier: BSD-3-Clause
"""Which minute files there are, and whether they have changed: cheap enough for once a second."""

from __future__ import annotations

import hashlib
import os
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
from nightjard.merged.config import MergedConfig

DAY_NS = 1440 * MINUTE_NS
Mark = tuple[int, int]
"""Size and time of the last change, ns."""


@dataclass(slots=True)
class _Listing:
    changed_ns: int
    looked_ns: int
    marks: dict[int, Mark]


class Folder:
    """One stream's minute files, day by day; a day is listed anew when its folder has changed.

    Parameters
    ----------
    root
        Folder of the days.
    start_ns
        Knows the start of a file's minute by its name.
    """

    _FRESH_NS = 3_000_000_000  # a folder that changed so lately may change again in the same tick

    def __init__(self, root: Path, start_ns: Callable[[Path], int | None]) -> None:
        self._root = root
        self._start_ns = start_ns
        self._days: dict[str, _Listing] = {}

    def marks(self, day: str, now_ns: int) -> dict[int, Mark]:
        """Return the files of a day: start of the minute, ns UTC -> size and time of change."""
        folder = self._root / day
        try:
            changed_ns = folder.stat().st_mtime_ns
        except OSError:
            return {}
        known = self._days.get(day)
        if (
            known is not None
            and known.changed_ns == changed_ns
            and (known.looked_ns - changed_ns > self._FRESH_NS)
        ):
            return known.marks
        marks: dict[int, Mark] = {}
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    start = self._start_ns(Path(entry.path))
                    if start is not None and entry.is_file():
                        stat = entry.stat()
                        marks[start] = (stat.st_size, stat.st_mtime_ns)
        except OSError:
            return {} if known is None else known.marks
        self._days[day] = _Listing(changed_ns, now_ns, marks)
        return marks


def _housekeeping_start(path: Path) -> int | None:
    start = housekeeping_start_ns(path)
    return rpc_start_ns(path) if start is None else start


class Inputs:
    """The three streams' files, as the merge of a minute needs them.

    Parameters
    ----------
    config
        Roots; streams without one are not needed.
    """

    def __init__(self, config: MergedConfig) -> None:
        self._raw = Folder(config.raw_root, raw_start_ns)
        self._index = Folder(config.raw_root, lambda path: raw_start_ns(path.with_suffix(".bin"))
                             if path.suffix == ".idx" else None)  # fmt: skip
        self._others: dict[str, Folder] = {}
        if config.pointing_root is not None:
            self._others["pointing"] = Folder(config.pointing_root, pointing_start_ns)
        if config.housekeeping_root is not None:
            self._others["housekeeping"] = Folder(config.housekeeping_root, _housekeeping_start)

    def raw_minutes(self, first_ns: int, last_ns: int, now_ns: int) -> list[int]:
        """Return the minutes that have a raw file, from `first_ns` to `last_ns` inclusive."""
        found: list[int] = []
        for day in days(first_ns, last_ns):
            found += self._raw.marks(day, now_ns)
        return sorted(start for start in found if first_ns <= start <= last_ns)

    def missing(self, start_ns: int, now_ns: int) -> list[str]:
        """Return the streams that have no file of a minute."""
        day = day_of(start_ns)
        return [
            name for name, folder in self._others.items()
            if start_ns not in folder.marks(day, now_ns)
        ]  # fmt: skip

    def settled_ns(self, start_ns: int, now_ns: int) -> int:
        """Return when a minute's files changed last, ns."""
        day = day_of(start_ns)
        folders = [self._raw, *self._others.values()]
        return max(folder.marks(day, now_ns).get(start_ns, (0, 0))[1] for folder in folders)

    def signature(self, start_ns: int, now_ns: int) -> str:
        """Return a digest of the files that a minute is merged from, its neighbours' included."""
        parts: list[str] = []
        for offset in (-MINUTE_NS, 0, MINUTE_NS):
            day = day_of(start_ns + offset)
            for folder in self._others.values():
                parts.append(str(folder.marks(day, now_ns).get(start_ns + offset)))
        day = day_of(start_ns)
        parts += [str(f.marks(day, now_ns).get(start_ns)) for f in (self._raw, self._index)]
        return hashlib.blake2s("|".join(parts).encode(), digest_size=8).hexdigest()

    def is_whole(self, start_ns: int, now_ns: int) -> bool:
        """Tell whether no file that a minute is merged from can still be to come."""
        return not any(
            self.missing(start_ns + offset, now_ns) for offset in (-MINUTE_NS, 0, MINUTE_NS)
        )


def days(first_ns: int, last_ns: int) -> list[str]:
    """Return the UT days from one time to another."""
    start = minute_start_ns(day_of(first_ns), 0)
    return [day_of(ns) for ns in range(start, max(last_ns, first_ns) + 1, DAY_NS)]
