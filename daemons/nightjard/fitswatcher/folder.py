# SPDX-License-Identifier: BSD-3-Clause
"""One watched folder: what is in it, what its newest files hold, how fast it fills."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nightjar.clock import Clock
from nightjar.files import free_bytes
from nightjar.times import NS_PER_S
from nightjard.fitswatcher.facts import Facts, read_facts
from nightjard.fitswatcher.listing import Entry, Listing
from nightjard.fitswatcher.rates import Growth, Rate, RateMeter

# Other programs write a file under its final name: so long after its last change it may go on.
_SETTLED_NS = 5 * NS_PER_S
_GONE = (errno.ENOENT, errno.ENOTDIR)


@dataclass(frozen=True, slots=True)
class Row:
    """One of the newest finished files."""

    entry: Entry
    facts: Facts
    has_text: bool


@dataclass(frozen=True, slots=True)
class Writing:
    """A file in progress."""

    entry: Entry
    bytes_per_s: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """What one look at a folder found.

    Attributes
    ----------
    path
        The folder.
    looked_ns
        When it was looked at, UTC.
    state
        ``ok``, ``gone``, ``unreadable``; a problem says why.
    files, bytes, texts
        Finished FITS files, their bytes, and how many text files stand beside them.
    free_bytes, device
        Of the file system.
    last_ns
        When the newest file was changed last.
    """

    path: Path
    looked_ns: int
    state: str = "ok"
    problem: str | None = None
    files: int = 0
    bytes: int = 0
    texts: int = 0
    free_bytes: int | None = None
    device: int = 0
    last_ns: int | None = None
    rate: Rate = field(default_factory=Rate)
    newest: tuple[Row, ...] = ()
    writing: tuple[Writing, ...] = ()

    @property
    def is_empty(self) -> bool:
        """True where there is no FITS file, finished or not."""
        return not self.files and not self.writing


class Folder:
    """One watched folder.

    Parameters
    ----------
    path
        Need not exist.
    count
        The headers of so many files, the newest ones, are read.
    clock
        For ages and rates.
    """

    def __init__(self, path: Path, count: int, clock: Clock) -> None:
        self.path = path
        self._count = count
        self._clock = clock
        self._listing = Listing(path)
        self._growth = Growth()
        self._meter = RateMeter()
        self._facts: dict[Entry, Facts] = {}
        self._sizes: dict[str, int] = {}

    def look(self) -> Report:
        """Return what is in the folder now; no failure of the folder is an exception."""
        now_ns = self._clock.now_ns()
        listing = self._listing
        try:
            listing.refresh(now_ns)
            free: int | None = free_bytes(self.path)
        except OSError as error:
            state = "gone" if error.errno in _GONE else "unreadable"
            return Report(self.path, now_ns, state, error.strerror or str(error))
        unfinished = sorted(listing.unfinished.values(), key=lambda e: (-e.modified_ns, e.name))
        self._growth.note(unfinished, self._clock.monotonic_ns())
        self._meter.note(listing.finished.values(), now_ns)
        writing = tuple(Writing(each, self._growth.bytes_per_s(each)) for each in unfinished)
        latest = listing.newest(1)
        return Report(
            self.path, now_ns,
            files=len(listing.finished), bytes=listing.total_bytes, texts=len(listing.texts),
            free_bytes=free, device=listing.device,
            last_ns=latest[0].modified_ns if latest else None,
            rate=self._meter.rate(sum(e.size for e in unfinished), _sum(writing), now_ns),
            newest=tuple(self._rows(now_ns)), writing=writing,
        )  # fmt: skip

    def _rows(self, now_ns: int) -> list[Row]:
        facts: dict[Entry, Facts] = {}
        rows = []
        for entry in self._listing.newest(self._count):
            known = self._facts.get(entry)
            if known is None:
                try:
                    known = read_facts(self.path / entry.name)
                except FileNotFoundError:
                    continue  # moved away since it was listed
            if known.state != "unreadable":  # rights may change, which leaves its times alone
                facts[entry] = known
            if known.state in ("bad", "cut short") and self._may_grow(entry, now_ns):
                known = Facts("growing", "not complete yet")
            has_text = f"{entry.name.partition('.fits')[0]}.txt" in self._listing.texts
            rows.append(Row(entry, known, has_text))
        self._facts = facts
        self._sizes = {row.entry.name: row.entry.size for row in rows}
        return rows

    def _may_grow(self, entry: Entry, now_ns: int) -> bool:
        has_grown = entry.size > self._sizes.get(entry.name, entry.size)
        return has_grown or abs(now_ns - entry.modified_ns) < _SETTLED_NS


def _sum(writing: tuple[Writing, ...]) -> float | None:
    known = [each.bytes_per_s for each in writing if each.bytes_per_s is not None]
    return sum(known) if known else None


def entry_fields(entry: Entry, now_ns: int) -> dict[str, Any]:
    """Return name, size and age of a file as JSON has them."""
    from nightjar.times import iso

    return {
        "name": entry.target,
        "bytes": entry.size,
        "modified": iso(entry.modified_ns, 3),
        "age_s": age_s(entry.modified_ns, now_ns),
    }


def age_s(moment_ns: int, now_ns: int) -> float:
    """Return seconds since a moment; 0 for one in the future (the server's clock is ahead)."""
    return round(max(0, now_ns - moment_ns) / NS_PER_S, 3)
