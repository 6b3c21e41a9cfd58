# SPDX-License-Identifier: BSD-3-Clause
"""What a logger notes beside a cube while it grows, and what the next one makes of it.

The journal lies in the cube's folder under its own hidden name: a head of JSON (layout, cards,
session), then one row of :data:`~nightjar.fits.frame_table.ROW` for each frame. Whoever writes it
holds a lock of the kernel on it, so that a journal without a lock is one whose writer has died.
With it the unfinished file becomes a whole cube of the frames that it really holds.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nightjar.clock import Clock, clock_health
from nightjar.errors import NightjarError
from nightjar.files import TEMPORARY_SUFFIX, fsync_folder, rename_new, temporary_name
from nightjar.fits.frame_table import ROW, Rows, read_table
from nightjar.fits.timing_text import text_path, timing_text
from nightjar.streams.keywords import Keyword
from nightjard.fitslogd.cube_header import CubeFacts, cube_cards
from nightjard.fitslogd.formats import format_of
from nightjard.fitslogd.naming import LogSettings, other_name

log = logging.getLogger(__name__)

_MAGIC = b"NJCUBE01"
_HEAD_BYTES = 16
_SUFFIX = ".rows"


def journal_name(cube: Path, pid: int | None = None) -> Path:
    """Return the hidden name of a cube's journal."""
    return temporary_name(cube.with_name(cube.name + _SUFFIX), pid)


class Journal:
    """The journal of a cube in progress.

    Parameters
    ----------
    cube
        Final name of the cube.
    head
        Plain JSON values.

    Raises
    ------
    OSError
        It cannot be made or written.
    """

    def __init__(self, cube: Path, head: dict[str, Any]) -> None:
        self.path = journal_name(cube)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(self.path, flags, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            text = json.dumps(head).encode()
            self.write(_MAGIC + len(text).to_bytes(8, "little") + text)
        except BaseException:
            self.remove()
            raise

    def write(self, row: bytes) -> None:
        """Note a frame that is in the file; on a full disk nothing of it, never a part."""
        count = os.write(self._descriptor, row)
        if count != len(row):
            os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - count)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def remove(self) -> None:
        """Forget it: the cube is whole."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Leave it to the next logger."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


@dataclass(frozen=True)
class Recovered:
    """What was made of a dead logger's cube.

    Attributes
    ----------
    journal
        Still there: whoever has taken note of what it told removes it.
    path
        The cube; None where no frame of it was whole.
    head
        Of the journal.
    noted, rows
        Frames that its writer had noted, and those of them that the cube holds.
    reason
        Why its writer did not close it.
    size
        Of the file.
    """

    journal: Path
    path: Path | None
    head: dict[str, Any]
    noted: Rows
    rows: Rows
    reason: str = "killed"
    size: int = 0

    @property
    def number(self) -> int:
        """Of the cube in its session."""
        return int(self.head["number"])

    def told(self) -> dict[str, Any]:
        """Return what is told of a cube; there must be one."""
        rows, expected = self.rows, int(self.head["expected"])
        return {
            "path": str(self.path), "session": self.head["session"],
            "number": self.head["number"], "frames": len(rows), "expected": expected,
            "missed": missed_in(rows), "torn": 0, "reason": self.reason,
            "truncated": len(rows) < expected, "size": self.size, "shape": self.head["shape"],
            "first_counter": int(rows["CNT0"][0]), "last_counter": int(rows["CNT0"][-1]),
            "first_ns": int(rows["ATIME"][0]), "last_ns": int(rows["ATIME"][-1]), "seconds": 0.0,
        }  # fmt: skip


def missed_in(rows: Rows) -> int:
    """Return the frames that passed and are not in a cube, the gap before its first included."""
    if not len(rows):
        return 0
    steps = np.diff(rows["CNT0"].astype(np.int64)) - 1
    return int(rows["MISSED"][0]) + int(steps.clip(0).sum())


def leftovers(folder: Path, stream: str) -> list[Path]:
    """Return the journals in a folder that dead loggers of a stream left."""
    found = []
    with contextlib.suppress(OSError):
        found = [
            item for item in folder.iterdir()
            if item.name.startswith(f".{stream}_")
            and item.name.endswith(TEMPORARY_SUFFIX) and f"{_SUFFIX}." in item.name
        ]  # fmt: skip
    return sorted(found)


def folders_of(root: Path, stream: str) -> Iterable[Path]:
    """Yield the folders below a root that may hold cubes of a stream."""
    yield root
    with contextlib.suppress(OSError):
        for day in sorted(root.iterdir()):
            if day.name.isdecimal() and len(day.name) == 8 and (day / stream).is_dir():
                yield day / stream


def recover(
    journal: Path, stream: str, clock: Clock, reason: str = "killed"
) -> Recovered | None:
    """Make a whole cube of what a dead logger left; harmless where that was done before.

    Parameters
    ----------
    journal
        Of the cube.
    stream
        Whose cubes these shall be.
    clock
        For the header.
    reason
        Why the cube was not closed by its writer.

    Returns
    -------
    Recovered or None
        None where its writer lives, or where it is of another stream.

    Raises
    ------
    OSError
        The files cannot be read or written.
    NightjarError
        The journal is damaged; its files stay as they are.
    """
    descriptor = os.open(journal, os.O_RDWR | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return None
        if os.fstat(descriptor).st_size == 0:  # killed before anything else was made
            journal.unlink(missing_ok=True)
            return None
        head, rows = _read(descriptor, journal)
        if head["stream"] != stream:
            return None
        # The file moved with its folder: what counts is where the journal lies.
        final = journal.parent / Path(head["final"]).name
        unfinished = temporary_name(final, int(head["pid"]))
        result = Recovered(journal, None, head, rows, rows[:0], reason)
        if unfinished.exists():
            result = _finish(unfinished, final, result, clock)
        elif final.exists() and len(rows):
            kept = _kept_in(final, rows)
            _write_text(final, head, kept)
            result = Recovered(journal, final, head, rows, kept, reason, final.stat().st_size)
        temporary_name(text_path(final), int(head["pid"])).unlink(missing_ok=True)
        return result
    finally:
        os.close(descriptor)


def _read(descriptor: int, journal: Path) -> tuple[dict[str, Any], Rows]:
    data = b""
    while part := os.read(descriptor, 1 << 20):
        data += part
    length = int.from_bytes(data[8:16], "little")
    try:
        if data[:8] != _MAGIC or len(data) < _HEAD_BYTES + length:
            raise ValueError("its head is not whole")
        head = json.loads(data[_HEAD_BYTES : _HEAD_BYTES + length])
    except ValueError as error:
        raise NightjarError(
            f"the journal {journal} is damaged ({error}); the cube beside it stays as it is"
        ) from None
    body = data[_HEAD_BYTES + length :]
    count = len(body) // ROW.itemsize
    return head, np.frombuffer(body[: count * ROW.itemsize], ROW).copy()


def _kept_in(cube: Path, noted: Rows) -> Rows:
    """Return the rows of a finished cube: fewer than were noted, where it was recovered before."""
    try:
        kept = read_table(cube)
    except NightjarError as error:
        log.error("%s", error)
        return noted
    is_it = len(kept) > 0 and kept["CNT0"][0] in noted["CNT0"]
    return kept if is_it else noted  # else a cube that had the name before


def _finish(unfinished: Path, final: Path, found: Recovered, clock: Clock) -> Recovered:
    head = found.head
    salvage = format_of(head).salvage(unfinished, found.noted)
    try:
        kept = salvage.rows
        if not len(kept):
            unfinished.unlink()
            return found
        size = salvage.complete(_salvaged_cards(found, kept, clock), kept)
    finally:
        salvage.close()
    path = give_name(unfinished, final)
    _write_text(path, head, kept)
    return Recovered(found.journal, path, head, found.noted, kept, found.reason, size)


def _salvaged_cards(found: Recovered, rows: Rows, clock: Clock) -> list[Any]:
    """Return the header of a cube that its writer did not close."""
    head = found.head
    keywords = {name: Keyword(*value) for name, value in head["keywords"].items()}
    facts = CubeFacts(
        stream=head["stream"], session=head["session"], number=int(head["number"]),
        expected=int(head["expected"]), reason=found.reason,
        truncated=len(rows) < head["expected"], missed=missed_in(rows), torn=0,
        host=socket.gethostname(),
    )  # fmt: skip
    settings = LogSettings.parse(head["settings"])
    return cube_cards(facts, rows, settings, keywords, {}, clock_health(), clock.now_ns())


def give_name(unfinished: Path, final: Path) -> Path:
    """Give a whole file its name, or another where that is taken; return the name it has.

    Raises
    ------
    OSError
        It cannot be renamed.
    """
    path = final
    for number in range(1, 1000):
        try:
            rename_new(unfinished, path)
        except FileExistsError:
            path = other_name(final, number)
            continue
        fsync_folder(path.parent)
        return path
    raise FileExistsError(f"{final} and 999 names beside it are taken")


def _write_text(cube: Path, head: dict[str, Any], rows: Rows) -> None:
    if LogSettings.parse(head["settings"]).text:
        write_text(cube, rows)


def write_text(cube: Path, rows: Rows) -> None:
    """Write the seven-column text beside a cube, where there is none yet.

    Raises
    ------
    OSError
        It cannot be written.
    """
    from nightjar import __version__
    from nightjar.files import write_durably

    with contextlib.suppress(FileExistsError):
        write_durably(
            text_path(cube),
            timing_text(rows, program=f"nightjar {__version__} fitslogd", cube=cube.name),
        )
