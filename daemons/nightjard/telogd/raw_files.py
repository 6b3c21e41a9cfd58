# SPDX-License-Identifier: BSD-3-Clause
"""Raw files as the ledger sees them: which belong together, what they are, which are new."""

from __future__ import annotations

import dataclasses
import logging
import zlib
from collections.abc import Callable
from pathlib import Path

from nightjar.api.telog import FileState
from nightjar.clock import NS_PER_S, Clock
from nightjar.das.naming import day_of, minutes_in, raw_start_ns
from nightjar.das.raw import read_raw
from nightjar.errors import NightjarError
from nightjard.telogd.drivers.base import Facts
from nightjard.telogd.minutes import MinuteFile

log = logging.getLogger(__name__)

BATCH = 20
"""Minutes that are judged or copied in one go."""


def judge(path: Path, day: str, source: str) -> MinuteFile:
    """Return what a raw file is, by its header, its size and its sidecar's CRC.

    Raises
    ------
    RawDamaged
        It is not what it must be.
    StorageError
        It cannot be read.
    """
    raw = read_raw(path)
    slots = raw.samples.shape[0]
    state, reason, valid = FileState.WHOLE, "", slots
    if raw.index is None:
        state, reason = FileState.PARTIAL, "it has no sidecar: nothing proves it"
    elif (valid := int(raw.index["valid"])) != slots:
        state, reason = FileState.PARTIAL, f"{valid} of {slots} samples"
    facts = path.stat()
    return MinuteFile(
        "raw", day, path.name, raw_start_ns(Path(day) / path.name), state, facts.st_size,
        zlib.crc32(path.read_bytes()), valid, source, reason, facts.st_mtime_ns,
    )  # fmt: skip


class Day:
    """What is known of a day's files.

    Attributes
    ----------
    known
        Files that were judged: name -> size and second of change at the source.
    aside
        Those of them that are in quarantine only.
    seen
        Files of which the ledger knows that they were seen.
    tries
        Files whose copy was damaged once.
    """

    def __init__(self, day: str, rows: dict[str, tuple[str, int | None, int | None]]) -> None:
        self.day = day
        self.known: dict[str, tuple[int, int]] = {}
        self.aside: set[str] = set()
        self.seen: set[str] = set()
        self.tries: dict[str, Facts] = {}
        for name, (state, size, mtime) in rows.items():
            if state == FileState.SEEN.value:
                self.seen.add(name)
            elif size is not None and mtime is not None:
                plain = name.removesuffix(".damaged")
                if state == FileState.DAMAGED.value:
                    self.aside.add(plain)
                if plain == name or plain not in rows:
                    self.known[plain] = (size, mtime // NS_PER_S)

    def has(self, facts: Facts, local: set[str]) -> bool:
        """Tell whether a file of the source needs no copy."""
        is_kept = facts.name in local or facts.name in self.aside
        return is_kept and self.known.get(facts.name) == key_of(facts)


@dataclasses.dataclass(frozen=True, slots=True)
class Group:
    """Files that belong together: a sidecar and its raw file, in the order of publishing."""

    names: list[str]
    start_ns: int | None


Rows = dict[str, tuple[str, int | None, int | None]]


def load(known: Callable[[str], Rows], day: str) -> Rows:
    """Return what the ledger knows of a day; nothing where it cannot be read.

    Then files that are here are judged anew: a database that is away holds up no copy.
    """
    try:
        return known(day)
    except NightjarError as error:
        log.error("%s; files of %s are looked at anew", error.message, day)
        return {}


def key_of(facts: Facts) -> tuple[int, int]:
    """Return size and second of change: what tells a file from its next version."""
    return facts.size, facts.mtime_ns // NS_PER_S


def groups_of(day: str, facts: dict[str, Facts]) -> list[Group]:
    """Return the files of a day's folder in groups, by name."""
    groups = []
    for name in sorted(facts):
        start = raw_start_ns(Path(day) / name)
        index = f"{name.removesuffix('.bin')}.idx"
        if start is not None:
            groups.append(Group([index, name] if index in facts else [name], start))
        elif not (name.endswith(".idx") and f"{name.removesuffix('.idx')}.bin" in facts):
            groups.append(Group([name], None))
    return groups


class RawWatcher:
    """Proves the raw files that a DAS on this machine writes. One thread uses it.

    Parameters
    ----------
    root
        Where it writes.
    clock, on_file, known
        As :class:`RawCopier`.
    """

    def __init__(
        self, root: Path, clock: Clock, on_file: Callable[[MinuteFile], None],
        known: Callable[[str], dict[str, tuple[str, int | None, int | None]]],
    ) -> None:  # fmt: skip
        self.root, self._clock, self._on_file, self._load = root, clock, on_file, known
        self._days: dict[str, Day] = {}

    def tick(self) -> float:
        """Prove new files of today and yesterday, some at a time; return the pause, s."""
        now = self._clock.now_ns()
        count = 0
        for day in (day_of(now), day_of(now - 86400 * NS_PER_S)):
            if day not in self._days:
                self._days[day] = Day(day, load(self._load, day))
            here = self._days[day]
            for start, path in minutes_in(self.root / day, raw_start_ns).items():
                facts = path.stat()
                key = (facts.st_size, facts.st_mtime_ns // NS_PER_S)
                if here.known.get(path.name) == key:
                    continue
                if count == BATCH:
                    return 0.1
                count += 1
                here.known[path.name] = key
                try:
                    self._on_file(judge(path, day, "written here"))
                except NightjarError as error:
                    log.error("%s", error.message)
                    self._on_file(MinuteFile(
                        "raw", day, path.name, start, FileState.DAMAGED, facts.st_size,
                        source="written here", reason=error.message, mtime_ns=facts.st_mtime_ns,
                    ))  # fmt: skip
        return 2.0
