# SPDX-License-Identifier: BSD-3-Clause
"""Which nights there are, whether one is still being recorded, and what a person means by one."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nightjar.api.nights import DEFAULT_FAMILY
from nightjar.clock import Clock
from nightjar.errors import Code, InvalidArgument, Refused, StorageError
from nightjar.files import is_temporary
from nightjar.times import NS_PER_S, iso
from nightjard.archived.nights.config import NightsConfig
from nightjard.archived.nights.store import NightStore, Row

_DATE = re.compile(r"(\d{4})-?(\d{2})-?(\d{2})\Z", re.ASCII)
_DEAD_NS = 600 * NS_PER_S  # a recorder that lives writes more often
_FOLDER = re.compile(r"\d{8}\Z", re.ASCII)
#: Stream, name, bytes, time of change in ns, of each file.
Listing = list[tuple[str, str, int, int]]


@dataclass(frozen=True)
class Activity:
    """Whether a night may be worked on.

    Attributes
    ----------
    files, newest_ns
        Raw files, and when the last of them was written.
    writing
        A file that a recorder is writing at the moment, by its name; "" for none.
    is_recording
        Files came within the settling time, or one is being written.
    is_whole
        The recorder said so, or nothing has come for hours.
    text
        Says it to a person; "" where it may be worked on.
    """

    files: int
    newest_ns: int
    writing: str
    is_recording: bool
    is_whole: bool
    text: str


class Finder:
    """Nights on disk and in the database.

    Parameters
    ----------
    config, store, clock
        Of the archive.
    """

    def __init__(self, config: NightsConfig, store: NightStore, clock: Clock) -> None:
        self._config = config
        self._store = store
        self._clock = clock

    def discover(self, family: str | None = None) -> list[Row]:
        """Note every night's folder; return the rows of nights, oldest first.

        Raises
        ------
        StorageError
            A family's root cannot be read.
        """
        known = {(row["family"], row["date"]) for row in self._store.nights()}
        for name, each in self._config.families.items():
            if family is not None and name != family:
                continue
            for date, folder in self._folders(each.root):
                if (name, date) not in known:
                    self._store.see(name, date, str(folder), self._clock.now_ns())
        return self._store.nights(family)

    def _folders(self, root: Path) -> list[tuple[str, Path]]:
        try:
            entries = sorted(root.iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageError(f"cannot read {root}: {error.strerror}", path=str(root)) from error
        streams = self._config.streams
        return [
            (path.name, path) for path in entries
            if _FOLDER.match(path.name) and any((path / stream).is_dir() for stream in streams)
        ]  # fmt: skip

    def resolve(self, text: str, family: str) -> Row:
        """Return the night that a person means.

        Parameters
        ----------
        text
            ``20260611``, ``2026-06-11`` or the path of a night's folder.
        family
            Where the text is a date.

        Raises
        ------
        InvalidArgument
            Neither a date nor an absolute path.
        Refused
            UNKNOWN_ITEM: no such night; the nearest ones are named.
        """
        match = _DATE.match(text.strip())
        if match is not None:
            if family not in self._config.families:
                known = ", ".join(self._config.families)
                raise Refused(
                    f"no family {family!r}; there are: {known}", code=Code.UNKNOWN_ITEM
                )
            date = "".join(match.groups())
            folder = self._config.families[family].root / date
        elif text.startswith("/"):
            folder = Path(os.path.normpath(text))
            names = [
                name for name, each in self._config.families.items()
                if folder.parent == Path(os.path.normpath(each.root))
            ]  # fmt: skip
            if not names or not _FOLDER.match(folder.name):
                roots = ", ".join(str(each.root) for each in self._config.families.values())
                raise Refused(
                    f"{text} is no night: the nights are YYYYMMDD in {roots}",
                    code=Code.UNKNOWN_ITEM,
                )
            family, date = names[0], folder.name
        else:
            raise InvalidArgument(
                f"{text!r} is no night: give YYYYMMDD, YYYY-MM-DD or the path of its folder"
            )
        found = self._store.find(family, date)
        if found is not None:
            return found
        if not folder.is_dir():
            near = [row["date"] for row in self.discover(family)][-3:]
            known = f"; the last ones are {', '.join(near)}" if near else ""
            raise Refused(f"no {family} night {date} in {folder.parent}{known}",
                          code=Code.UNKNOWN_ITEM)  # fmt: skip
        return self._store.see(family, date, str(folder), self._clock.now_ns())

    def has_news(self, night: Row) -> bool:
        """Tell whether raw files may have come or gone since a night was processed; a glance."""
        return self._has_changed(night, night["processed_ns"] or 0)

    def _has_changed(self, night: Row, since_ns: int) -> bool:
        for stream in self._config.streams:
            with contextlib.suppress(OSError):
                if (Path(night["folder"]) / stream).stat().st_mtime_ns > since_ns:
                    return True
        return False

    def late(self, night: Row) -> list[str]:
        """Return the raw cubes that came after those of a night were released.

        They are in no product, and cannot be planned without the others.
        """
        if night["released_ns"] is None or not self._has_changed(night, night["released_ns"]):
            return []
        known = {row["path"] for row in self._store.cubes(night["id"]) if row["released_ns"]}
        found = [
            f"{stream}/{name}" for stream, name, _, _ in self.listing(night)
            if name[0] != "." and name.endswith((".fits", ".fits.fz"))
        ]  # fmt: skip
        return sorted(set(found) - known)

    def require_raw(self, night: Row) -> None:
        """Refuse a night whose raw was released: no step can be done with it."""
        if night["released_ns"] is not None:
            raise Refused(f"night {night['date']}: {released_text(night, self.late(night))}")

    def listing(self, night: Row) -> Listing:
        """Return what lies in the folders of a night's streams; errors as :func:`list_raw`."""
        return list_raw(Path(night["folder"]), tuple(self._config.streams))

    def activity(self, night: Row, listing: Listing | None = None) -> Activity:
        """Return whether a night is still being recorded, from the times of its files.

        Parameters
        ----------
        listing
            What was just seen, where somebody looked already.
        """
        now_ns = self._clock.now_ns()
        files, newest, writing = _look(
            self.listing(night) if listing is None else listing, now_ns - _DEAD_NS
        )
        newest = max(newest, night["changed_ns"] or 0)
        age_s = (now_ns - newest) / NS_PER_S if newest else float("inf")
        settle = self._config.settle_seconds
        is_sealed = night["sealed_ns"] is not None and night["sealed_ns"] >= newest
        # A clock that was set back must not hold up a night for ever: sealing helps.
        is_recording = not is_sealed and (bool(writing) or age_s < settle)
        is_whole = is_sealed or age_s > self._config.seal_hours * 3600
        text = ""
        if writing and is_recording:
            text = f"it is still being recorded: {writing} is being written"
        elif is_recording:
            text = (
                f"it is still being recorded: the last file is of {iso(newest, 0)}, "
                f"{settle:g} s must pass"
            )
        return Activity(files, newest, writing, is_recording, is_whole, text)


def released_text(night: Row, late: Sequence[str]) -> str:
    """Say what follows for a night whose raw was released.

    Parameters
    ----------
    late
        See :meth:`Finder.late`.
    """
    back = f"archive release {night['date']} --back"
    if night["family"] != DEFAULT_FAMILY:
        back += f" --family {night['family']}"
    if not late:
        return f"its raw cubes were released; while they are in quarantine: {back}"
    return (
        f"{len(late)} raw cubes came after the others were released, first {late[0]}: they are in "
        f"no product; {back}, then run it again; what was deleted for ever cannot come back: then "
        "put them into the folder of another night"
    )


def list_raw(folder: Path, streams: Sequence[str]) -> Listing:
    """Return what lies in the folders of a night's streams; one look serves several questions.

    Raises
    ------
    StorageError
        A folder is there and cannot be read.
    """
    found: Listing = []
    for stream in streams:
        try:
            entries = list(os.scandir(folder / stream))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise StorageError(f"cannot read {folder / stream}: {error.strerror}") from error
        for entry in entries:
            try:
                status = entry.stat()
            except OSError:
                continue  # renamed a moment ago
            found.append((stream, entry.name, status.st_size, status.st_mtime_ns))
    return found


def _look(listing: Listing, alive_ns: int) -> tuple[int, int, str]:
    """Return the count of raw files, the newest time, and a file that is being written.

    One that was not written to since `alive_ns` was left by a recorder that died.
    """
    files, newest, writing = 0, 0, ""
    for _, name, _, mtime_ns in listing:
        if ".fits" not in name:
            continue
        newest = max(newest, mtime_ns)
        # milk writes NAME.fits.PID.THREAD.tmp, our logger a hidden name.
        if name.endswith(".tmp") or (name[0] == "." and is_temporary(Path(name))):
            writing = name if mtime_ns > alive_ns else writing
        elif name.endswith((".fits", ".fits.fz")):
            files += 1
    return files, newest, writing
