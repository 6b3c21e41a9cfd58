# SPDX-License-Identifier: BSD-3-Clause
"""The FITS files of one folder, kept up to date at the least cost.

A folder is listed anew only where its modification time says that names came or went, and then
only new names are looked up. What may still grow (files being written, the newest ones) is looked
up each time. Every half minute everything is, because network file systems tell of changes late.
"""

from __future__ import annotations

import heapq
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from nightjar.times import NS_PER_S

_FITS = r"[^/]*\.(?:fits|fit|fts)(?:\.fz)?"
_FINISHED = re.compile(rf"(?!\.){_FITS}\Z", re.IGNORECASE)
# ".NAME.PID.tmp" is ours; milk's logger writes "NAME.PID.THREAD.tmp".
_UNFINISHED = re.compile(rf"\.?(?P<target>(?!\.){_FITS})\.\d+(?:\.\d+)?\.tmp\Z", re.IGNORECASE)
_LIST_ALL_NS = 30 * NS_PER_S
# A change within the clock tick of the listing leaves the folder's time as it was.
_RACE_NS = 2 * NS_PER_S
_YOUNG = 8
"""So many of the newest files are looked up each time: other programs write them in place."""


def is_fits_name(name: str) -> bool:
    """Tell whether a name is that of a FITS file, finished or not."""
    return _FINISHED.match(name) is not None or _UNFINISHED.match(name) is not None


@dataclass(frozen=True, slots=True)
class Entry:
    """A file as the folder shows it; equal entries have equal content.

    Attributes
    ----------
    name
        In the folder.
    inode, size, modified_ns
        Of the file; `modified_ns` in UTC.
    """

    name: str
    inode: int
    size: int
    modified_ns: int

    @property
    def target(self) -> str:
        """The name that an unfinished file will get; its own name for a finished one."""
        match = _UNFINISHED.match(self.name)
        return match["target"] if match else self.name


class Listing:
    """The FITS files of a folder.

    Parameters
    ----------
    folder
        Need not exist yet.

    Attributes
    ----------
    finished, unfinished : dict of str to Entry
        By name.
    texts : set of str
        Names that end in ``.txt``.
    device : int
        The file system's number.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.finished: dict[str, Entry] = {}
        self.unfinished: dict[str, Entry] = {}
        self.texts: set[str] = set()
        self.device = 0
        self._identity: tuple[int, int] | None = None
        self._changed_ns: int | None = None
        self._listed_ns = 0
        self._order: list[Entry] | None = None

    @property
    def total_bytes(self) -> int:
        """Bytes of the finished files."""
        return sum(entry.size for entry in self.finished.values())

    def newest(self, count: int) -> list[Entry]:
        """Return the files changed last, newest first."""
        if self._order is None or len(self._order) < min(count, len(self.finished)):
            self._order = heapq.nlargest(
                max(count, _YOUNG), self.finished.values(), key=lambda e: (e.modified_ns, e.name)
            )
        return self._order[:count]

    def refresh(self, now_ns: int) -> None:
        """Look at the folder again.

        Parameters
        ----------
        now_ns
            The present time, UTC.

        Raises
        ------
        OSError
            It is gone, no folder, or cannot be read; what was known stays.
        """
        found = os.stat(self.folder)
        self.device = found.st_dev
        identity = (found.st_dev, found.st_ino)
        is_other = identity != self._identity
        if is_other or not 0 <= now_ns - self._listed_ns < _LIST_ALL_NS:
            self._list(is_all=True)
            self._listed_ns = now_ns
        elif found.st_mtime_ns != self._changed_ns:
            self._list(is_all=False)
            self._look_again()
        else:
            self._look_again()
        self._identity = identity
        is_settled = abs(now_ns - found.st_mtime_ns) > _RACE_NS
        self._changed_ns = found.st_mtime_ns if is_settled else None

    def _list(self, *, is_all: bool) -> None:
        """Read the folder; look up only names that are new unless `is_all`."""
        finished: dict[str, Entry] = {}
        unfinished: dict[str, Entry] = {}
        texts: set[str] = set()
        known = {} if is_all else self.finished
        with os.scandir(self.folder) as items:
            for item in items:
                name = item.name
                entry = known.get(name)
                if entry is not None and entry.inode == item.inode():
                    finished[name] = entry
                elif name.endswith(".txt"):
                    texts.add(name)
                elif _FINISHED.match(name):
                    _put(finished, item)
                elif name.endswith(".tmp") and _UNFINISHED.match(name):
                    _put(unfinished, item)
        self.finished, self.unfinished, self.texts = finished, unfinished, texts
        self._order = None

    def _look_again(self) -> None:
        for held, names in (
            (self.unfinished, list(self.unfinished)),
            (self.finished, [entry.name for entry in self.newest(_YOUNG)]),
        ):
            for name in names:
                try:
                    found = os.stat(self.folder / name)
                except OSError:
                    continue  # it has just gone; the next listing says so
                known = held[name]
                if (found.st_size, found.st_mtime_ns) != (known.size, known.modified_ns):
                    held[name] = Entry(name, known.inode, found.st_size, found.st_mtime_ns)
                    self._order = None


def _put(entries: dict[str, Entry], item: os.DirEntry[str]) -> None:
    """Add a directory entry, unless it is no file or has just gone."""
    try:
        found = item.stat()
    except OSError:
        return
    if stat.S_ISREG(found.st_mode):
        entries[item.name] = Entry(item.name, item.inode(), found.st_size, found.st_mtime_ns)
