# SPDX-License-Identifier: BSD-3-Clause
"""The last stop of raw cubes: a folder beside the nights, with a note; from there back, or gone.

``ROOT/.quarantine/NIGHT/note.json`` is written before the first cube moves, and says from then on
what is being done, so a crash at any instruction is made up for by doing it again. Notes are never
removed: renamed, they are the record of what was deleted and why.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nightjar.errors import Refused, StorageError
from nightjar.files import fsync_folder, locked, rename_new, write_json_durably
from nightjar.times import file_stamp, iso
from nightjard.archived.nights.transfer.reading import is_inside

log = logging.getLogger(__name__)

FOLDER = ".quarantine"
NOTE = "note.json"
FORMAT = "nightjar-quarantine 1"
MOVING, HELD, PURGING = "moving", "held", "purging"
PURGED, RETURNED = "purged", "returned"


@dataclass(frozen=True)
class Held:
    """A raw cube in quarantine: enough to know it again."""

    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Note:
    """What the note of a night says.

    Attributes
    ----------
    night, folder
        Whose; where the cubes came from.
    state
        moving, held, purging.
    held_ns
        When quarantine began.
    by
        Who asked.
    files, proof
        What is held; why it may go.
    """

    night: str
    folder: str
    state: str
    held_ns: int
    by: str
    files: tuple[Held, ...]
    proof: tuple[str, ...]


class Quarantine:
    """The quarantine of one night.

    Parameters
    ----------
    folder
        Of the night.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.place = folder.parent / FOLDER / folder.name

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep others away; Refused if somebody is at it."""
        try:
            self.place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make {self.place}: {error.strerror}") from error
        with locked(self.place / ".lock", f"the quarantine of {self.folder.name}"):
            yield

    def note(self) -> Note | None:
        """Return what is held; None: nothing.

        Raises
        ------
        StorageError
            The note is damaged: nothing is done until a person has looked.
        """
        path = self.place / NOTE
        try:
            body = json.loads(path.read_text())
            if body["format"] != FORMAT:
                raise ValueError(f"format {body['format']!r}")
            files = tuple(
                Held(str(each["path"]), int(each["size"]), int(each["mtime_ns"]))
                for each in body["files"]
            )
            if not all(is_inside(each.path) for each in files):
                raise ValueError("a path leads out of the night")
            return Note(
                night=body["night"], folder=body["folder"], state=body["state"],
                held_ns=int(body["held_ns"]), by=body["by"], files=files,
                proof=tuple(body["proof"]),
            )  # fmt: skip
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StorageError(
                f"the note {path} cannot be read ({error}); nothing is done with what lies there"
            ) from error

    def begin(self, note: Note) -> None:
        """Write the note of cubes that are about to move; Refused where there is one already."""
        if self.note() is not None:
            raise Refused(f"{self.place} holds cubes already; bring them back or let them go first")
        self._write(note, note.state)

    def move_in(self) -> tuple[str, ...]:
        """Move the cubes of the note here, those that are not yet; return their paths.

        Raises
        ------
        StorageError
            One is not what the note says, or cannot be moved; the others stay where they are, and
            :meth:`move_back` brings everything home.
        """
        note = self.require()
        for each in note.files:
            self._move(each, self.folder, self.place)
        self._write(note, HELD)
        return tuple(each.path for each in note.files)

    def move_back(self) -> tuple[str, ...]:
        """Move all that is still here back to where it was; return the paths that lie there now.

        The note stays until :meth:`close_returned`: what is not written down elsewhere meanwhile
        is made up for by doing it again.

        Raises
        ------
        StorageError
            One cannot be moved: its name is taken by another file. Nothing is overwritten.
        """
        note = self.require()
        if note.state == PURGING:
            gone = [each.path for each in note.files if not (self.place / each.path).exists()]
            if gone:
                log.warning("%s: %d cubes were deleted already", self.place, len(gone))
        for each in note.files:
            if (self.place / each.path).exists():
                self._move(each, self.place, self.folder)
        return tuple(each.path for each in note.files if (self.folder / each.path).exists())

    def close_returned(self, now_ns: int) -> None:
        """Keep the note as the record of what was brought back."""
        self._close(RETURNED, now_ns)

    def delete(self, proof: Sequence[str], now_ns: int) -> tuple[str, ...]:
        """Delete the cubes for ever, in the log with their proof; return their paths.

        A cube that is not exactly what was put here stays.
        """
        note = self.require()
        if note.state == MOVING:
            raise Refused(f"{self.place}: the cubes are still being moved in")
        self._write(
            Note(note.night, note.folder, PURGING, note.held_ns, note.by, note.files,
                 tuple(proof)), PURGING, purged=iso(now_ns),
        )  # fmt: skip
        deleted = []
        for each in note.files:
            path = self.place / each.path
            try:
                found = _identity(path)
            except FileNotFoundError:
                continue  # by an earlier life
            if found != (each.size, each.mtime_ns):
                raise StorageError(
                    f"{path} is not the cube that was put there (size, time {found}); nothing "
                    "further was deleted: look at it"
                )
            path.unlink()
            log.warning("deleted %s (%d bytes), in quarantine since %s", path, each.size,
                        iso(note.held_ns, 0))  # fmt: skip
            deleted.append(each.path)
        for folder in {(self.place / each.path).parent for each in note.files}:
            with contextlib.suppress(OSError):
                fsync_folder(folder)
        self._close(PURGED, now_ns)
        return tuple(deleted)

    def put_aside(self, path: str, why: str, now_ns: int) -> Path | None:
        """Move a damaged file of the night here, with a note; None where there is no such file."""
        source = self.folder / path
        if not os.path.lexists(source):
            return None
        target = self.place / f"damaged-{file_stamp(now_ns)}" / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            about = {"path": path, "why": why, "time": iso(now_ns)}
            write_json_durably(target.with_name(target.name + ".why.json"), about)
            rename_new(source, target)
            fsync_folder(target.parent)
            fsync_folder(source.parent)
        except OSError as error:
            raise StorageError(
                f"cannot put {source} aside into {target}: {error.strerror}"
            ) from error
        return target

    def require(self) -> Note:
        """Return the note of what is held; Refused where nothing is."""
        note = self.note()
        if note is None:
            raise Refused(f"nothing of {self.folder.name} is in quarantine")
        if Path(note.folder) != self.folder:
            raise Refused(
                f"the note in {self.place} is of {note.folder}, not of {self.folder}; "
                "nothing is done with what lies there"
            )
        return note

    def _move(self, each: Held, source: Path, target: Path) -> None:
        old, new = source / each.path, target / each.path
        try:
            if not os.path.lexists(old) and os.path.lexists(new):
                return  # by an earlier life
            if _identity(old) != (each.size, each.mtime_ns):
                raise StorageError(f"{old} changed since its release was decided; it stays")
            new.parent.mkdir(parents=True, exist_ok=True)
            rename_new(old, new)
            fsync_folder(new.parent)
            fsync_folder(old.parent)
        except FileExistsError as error:
            raise StorageError(f"{new} exists: {old} stays; nothing is overwritten") from error
        except OSError as error:
            hint = "; they must be on one file system" if error.errno == errno.EXDEV else ""
            raise StorageError(f"cannot move {old} to {new}: {error.strerror}{hint}") from error

    def _write(self, note: Note, state: str, **more: Any) -> None:
        body = {
            "format": FORMAT, "night": note.night, "folder": note.folder, "state": state,
            "held_ns": note.held_ns, "held": iso(note.held_ns), "by": note.by,
            "files": [vars(each) for each in note.files], "proof": list(note.proof), **more,
        }  # fmt: skip
        try:
            write_json_durably(self.place / NOTE, body)
        except OSError as error:
            raise StorageError(f"cannot write a note in {self.place}: {error.strerror}") from error

    def _close(self, word: str, now_ns: int) -> None:
        rename_new(self.place / NOTE, self.place / f"{word}-{file_stamp(now_ns)}.json")
        fsync_folder(self.place)
        for folder, _, _ in os.walk(self.place, topdown=False):
            if Path(folder) != self.place:
                with contextlib.suppress(OSError):  # not empty: not ours to remove
                    Path(folder).rmdir()


def _identity(path: Path) -> tuple[int, int]:
    state = path.lstat()
    return state.st_size, state.st_mtime_ns
