# SPDX-License-Identifier: BSD-3-Clause
"""The frames of one session into cubes: what goes in, when a cube ends, and its close.

One thread feeds frames. A cube is closed by a thread of its own (header, table, fsync, rename), so
that the next cube takes frames meanwhile.
"""

from __future__ import annotations

import errno
import logging
import os
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.clock import Clock, clock_health
from nightjar.errors import Code, StorageError
from nightjar.files import temporary_name
from nightjar.fits.cards import CARD_BYTES
from nightjar.fits.frame_table import ROW, Rows, table_bytes
from nightjar.fits.timing_text import text_path
from nightjar.streams.keywords import Keyword
from nightjar.streams.reader import Frame, Frames, StreamReader
from nightjard.fitslogd.cube_header import CubeFacts, card_count, cube_cards
from nightjard.fitslogd.formats import CubeFormat, Formats, Writer, append_run
from nightjard.fitslogd.hardware import HardwareNumbers
from nightjard.fitslogd.journal import Journal, give_name, recover, write_text
from nightjard.fitslogd.naming import LogSettings, cube_folder, cube_name, other_name

log = logging.getLogger(__name__)

_ROW = struct.Struct("<QQqqqqII")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_HARDWARE_PERIOD_S = 0.1
_NAMES_TRIED = 100
_TEXT_ROW_BYTES = 120
_NO_END = 1 << 30  # frames: more than any cube has

Keywords = Mapping[str, Keyword]


@dataclass
class Totals:
    """Counts of a session."""

    saved: int = 0
    missed: int = 0
    torn: int = 0
    duplicated: int = 0
    cubes: int = 0
    bytes: int = 0


@dataclass
class _Cube:
    """One cube in progress or on its way to its name."""

    writer: Writer
    format: CubeFormat
    room: int  # cards
    journal: Journal
    temporary: Path
    final: Path
    number: int
    expected: int
    generation: int
    settings: LogSettings
    session: str
    keywords: Keywords
    began_s: float
    rows: bytearray = field(default_factory=bytearray)
    missed: int = 0
    torn: int = 0
    at_end: Keywords = field(default_factory=dict)
    hardware: HardwareNumbers = field(default_factory=HardwareNumbers)
    reason: str = ""
    truncated: bool = False
    seconds: float = 0.0

    def table(self) -> Rows:
        """Return the rows, with the camera's frame numbers where they are known."""
        rows = np.frombuffer(bytes(self.rows), ROW).copy()
        self.hardware.fill(rows)
        return rows


class Recorder:
    """Cubes of one stream.

    Parameters
    ----------
    stream
        Its name, as cubes and headers tell it.
    clock
        Wall time of logging.
    on_cube
        Told of each cube that has its name, from the closing thread.
    on_failure
        Told of a cube that could not be closed, from the closing thread.

    Attributes
    ----------
    totals
        Of the session.
    closing
        Cubes on their way to their names.
    """

    def __init__(
        self,
        stream: str,
        clock: Clock,
        on_cube: Callable[[dict[str, Any]], None],
        on_failure: Callable[[StorageError], None],
    ) -> None:
        self.stream = stream
        self.totals = Totals()
        self.session = ""
        self.cube_index = 0
        self.last_file: str | None = None
        self._clock = clock
        self._on_cube = on_cube
        self._on_failure = on_failure
        self._formats = Formats()
        self._cube: _Cube | None = None
        self._host = socket.gethostname()
        self._torn = 0  # since the last frame that was kept
        self._last_counter: int | None = None
        self._last_stamp = 0
        self._hardware = HardwareNumbers()
        self._hardware_of: tuple[int, int] | None = None  # which file of the stream
        self._hardware_due_s = 0.0
        self._work: queue.SimpleQueue[_Cube | Path | None] = queue.SimpleQueue()
        self._left: queue.SimpleQueue[Path] = queue.SimpleQueue()  # journals of failed cubes
        self._gone: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
        self._closing = 0
        self._idle = threading.Condition()
        self._thread = threading.Thread(target=self._close_cubes, name="closer", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------ session

    def begin(
        self, session: str, *, number: int = 0, totals: Totals | None = None,
        last_counter: int | None = None,
    ) -> None:  # fmt: skip
        """Begin a session, or go on with one of a logger that died."""
        self.session = session
        self.totals = totals or Totals()
        self.cube_index = number
        self._torn = 0
        self._last_counter = last_counter
        self._last_stamp = 0

    @property
    def frames(self) -> int:
        """Frames in the open cube."""
        cube = self._cube
        return cube.writer.frames if cube is not None else 0

    @property
    def is_filled(self) -> bool:
        """Whether the open cube has no room for another frame."""
        cube = self._cube
        return (
            cube is not None
            and cube.format.capacity is not None
            and cube.writer.frames >= cube.format.capacity
        )

    @property
    def room(self) -> int:
        """Frames that the open cube still has room for; 0 without one."""
        cube = self._cube
        if cube is None or not cube.writer.frames:
            return 0
        capacity = cube.format.capacity
        return _NO_END if capacity is None else capacity - cube.writer.frames

    @property
    def file(self) -> Path | None:
        """The name that the open cube will get."""
        cube = self._cube
        return cube.final if cube is not None else None

    @property
    def closing(self) -> int:
        """Cubes that are being closed."""
        return self._closing

    @property
    def age_s(self) -> float:
        """Seconds since the open cube was begun; 0 without one."""
        cube = self._cube
        return time.monotonic() - cube.began_s if cube is not None else 0.0

    @property
    def last_counter(self) -> int | None:
        """Stream counter of the last frame kept."""
        return self._last_counter

    # ------------------------------------------------------------ frames

    def take(self, frame: Frame, reader: StreamReader, settings: LogSettings, now_ns: int) -> bool:
        """Put a frame into the open cube, or into a new one; False where it was torn.

        Raises
        ------
        StorageError
            It cannot be written; what the cube held before is closed by :meth:`end_cube`.
        """
        cube = self._cube
        if cube is not None and cube.generation != frame.generation:
            raise AssertionError("the cube of an earlier geometry must be closed first")
        if cube is None:
            cube = self._open(frame, reader, settings, now_ns)
        try:
            datasum = cube.writer.append(frame.data)
        except OSError as error:
            raise _storage_error(cube.final, error) from error
        if not reader.is_intact(frame):
            try:
                cube.writer.drop_last()
            except OSError as error:
                raise _storage_error(cube.final, error) from error
            cube.torn += 1
            self.totals.torn += 1
            self._torn += 1
            return False
        self._keep(cube, frame, datasum, now_ns)
        if time.monotonic() >= self._hardware_due_s:
            self._note_hardware(reader)
        return True

    def take_run(
        self, frames: Frames, times_ns: NDArray[np.int64], reader: StreamReader, now_ns: int
    ) -> bool:
        """Put several frames into the open cube; False where some were torn, and none was taken.

        Parameters
        ----------
        frames
            No more than :attr:`room`.
        times_ns
            Their times, (2, count).

        Raises
        ------
        StorageError
            As :meth:`take`; those before it are kept, the others are given back to the reader.
        """
        cube = self._cube
        assert cube is not None
        sums: list[int] = []
        failure = None
        try:
            append_run(cube.writer, frames.data, sums)
            if reader.torn_of(frames):
                for _ in sums:
                    cube.writer.drop_last()
                return False
        except OSError as error:
            failure = error
            if reader.torn_of(frames):
                sums.clear()
            reader.give_back(frames, frames.count - len(sums))
            if not sums:
                raise _storage_error(cube.final, error) from error
        self._keep_run(cube, frames, times_ns[:, : len(sums)], sums, now_ns)
        if failure is not None:
            raise _storage_error(cube.final, failure) from failure
        if time.monotonic() >= self._hardware_due_s:
            self._note_hardware(reader)
        return True

    def _keep_run(
        self, cube: _Cube, frames: Frames, times_ns: NDArray[np.int64], sums: list[int],
        now_ns: int,
    ) -> None:  # fmt: skip
        first, last, totals = frames.first, self._last_counter, self.totals
        before = first.counter - last - 1 if last is not None and first.counter > last else 0
        missed = max(0, before - self._torn)
        atimes_ns, count = times_ns[0], len(sums)
        rows = np.empty(count, ROW)
        rows["CNT0"] = np.arange(first.counter, first.counter + count)
        rows["CNT1"] = np.arange(first.slot, first.slot + count)
        rows["ATIME"], rows["WTIME"], rows["LTIME"] = atimes_ns, times_ns[1], now_ns
        rows["HWID"], rows["MISSED"], rows["DATASUM"] = -1, 0, sums
        rows["MISSED"][0] = min(before, 0xFFFF_FFFF)
        noted = rows.tobytes()
        is_given = atimes_ns != 0
        totals.duplicated += int(is_given[0]) and int(atimes_ns[0] == self._last_stamp)
        totals.duplicated += int(np.count_nonzero(is_given[1:] & (np.diff(atimes_ns) == 0)))
        cube.rows += noted
        cube.missed += missed
        totals.missed += missed
        totals.saved += count
        totals.bytes += count * cube.format.frame_bytes
        self._last_stamp, self._last_counter = int(atimes_ns[-1]), first.counter + count - 1
        self._torn = 0
        try:  # last: where it fails the frames are in the cube all the same
            cube.journal.write(noted)
        except OSError as error:
            raise _storage_error(cube.final, error) from error

    def _keep(self, cube: _Cube, frame: Frame, datasum: int, now_ns: int) -> None:
        last = self._last_counter
        before = frame.counter - last - 1 if last is not None and frame.counter > last else 0
        missed = max(0, before - self._torn)
        row = _ROW.pack(
            frame.counter, frame.slot, frame.atime_ns, frame.writetime_ns,
            now_ns, -1, min(before, 0xFFFF_FFFF), datasum,
        )  # fmt: skip
        cube.rows += row
        cube.missed += missed
        totals = self.totals
        totals.missed += missed
        totals.saved += 1
        totals.bytes += cube.format.frame_bytes
        if frame.atime_ns and frame.atime_ns == self._last_stamp:
            totals.duplicated += 1
        self._last_stamp = frame.atime_ns
        self._last_counter = frame.counter
        self._torn = 0
        try:  # last: where it fails the frame is in the cube all the same
            cube.journal.write(row)
        except OSError as error:
            raise _storage_error(cube.final, error) from error

    def count_gap(self, frame: Frame, end_ns: int) -> None:
        """Count the frames as missed that passed between the last one kept and the end.

        Parameters
        ----------
        frame
            The first one acquired at or after `end_ns`; those of the gap before it are taken to
            have come at even intervals.
        """
        last, since_ns = self._last_counter, self._last_stamp
        if last is None or not since_ns or frame.atime_ns <= since_ns:
            return
        gap = frame.counter - last - 1
        if gap <= 0:
            return
        due = -(-(end_ns - since_ns) * (gap + 1) // (frame.atime_ns - since_ns)) - 1
        missed = max(0, min(gap, due) - self._torn)
        self.totals.missed += missed
        if self._cube is not None:
            self._cube.missed += missed

    def skip(self, counter: int) -> None:
        """Note a frame that came before the session's start."""
        self._last_counter = counter

    def forget_position(self) -> None:
        """Count no gap before the next frame: the stream was made anew, its counters with it."""
        self._last_counter = None
        self._torn = 0

    def _note_hardware(self, reader: StreamReader) -> None:
        """Note which of the camera's frame numbers hold for the frames up to now."""
        self._hardware_due_s = time.monotonic() + _HARDWARE_PERIOD_S
        if reader.identity != self._hardware_of:
            self._hardware_of, self._hardware = reader.identity, HardwareNumbers()
        newest = reader.counter  # first: what holds for later frames is not in the keywords yet
        self._hardware.note(reader.keywords(), newest)

    def _open(
        self, frame: Frame, reader: StreamReader, settings: LogSettings, now_ns: int
    ) -> _Cube:
        stamp = frame.atime_ns or frame.writetime_ns or now_ns
        folder = cube_folder(settings, self.stream, stamp)
        final = folder / cube_name(settings, self.stream, stamp)
        keywords = reader.keywords()
        geometry = reader.geometry
        cards = card_count(settings, keywords, geometry.keyword_count)
        number = self.cube_index + 1
        kind = self._formats.make(
            geometry.frame_shape, geometry.dtype, settings.cube_frames, cards,
            compress=settings.compress,
        )  # fmt: skip
        head = {
            "pid": os.getpid(), "stream": self.stream,
            "session": self.session, "number": number, "expected": settings.cube_frames,
            **kind.head(),
            "keywords": {name: [item.value, item.comment] for name, item in keywords.items()},
            "settings": _plain(settings), "identity": list(reader.identity),
        }  # fmt: skip
        try:
            # Never make the root itself: it may be where a disk was mounted that is gone.
            for each in reversed((folder, *folder.parents)):
                if each.is_relative_to(settings.root) and each != Path(settings.root):
                    each.mkdir(exist_ok=True)
            final, journal, writer = _begin(kind, final, head)
        except OSError as error:
            raise _storage_error(final, error) from error
        self.cube_index = number
        self._cube = cube = _Cube(
            writer, kind, cards, journal, temporary_name(final), final, number,
            settings.cube_frames, frame.generation, settings, self.session, keywords,
            time.monotonic(),
        )  # fmt: skip
        self._note_hardware(reader)
        return cube

    # ------------------------------------------------------------ the end of a cube

    def end_cube(self, reason: str, at_end: Keywords, expected: int) -> None:
        """Give the open cube to the closing thread; nothing where none is open.

        Parameters
        ----------
        reason
            "full", or why it is shorter.
        at_end
            The stream's keywords at its last frame.
        expected
            The length that was asked for last.
        """
        cube, self._cube = self._cube, None
        if cube is None:
            return
        if not cube.writer.frames:  # its file goes, its number is the next one's
            self.cube_index = cube.number - 1
        cube.reason, cube.expected = reason, expected
        cube.truncated = cube.writer.frames < cube.expected
        cube.at_end = at_end
        last = int.from_bytes(cube.rows[-_ROW.size :][:8], "little")  # CNT0 of its last frame
        self._hardware.note(at_end, last)
        cube.hardware = self._hardware.taken(last)
        try:
            cube.writer.hand_over()
        except OSError as error:  # completing it fails the same way, and is told there
            log.warning("cube %s: %s", cube.final, error)
        with self._idle:
            self._closing += 1
        self._work.put(cube)

    def wait_closed(self, timeout_s: float) -> bool:
        """Wait until every cube that was ended has its name; False at the deadline."""
        with self._idle:
            return self._idle.wait_for(lambda: self._closing == 0, timeout_s)

    def stop(self, timeout_s: float) -> bool:
        """Close what is in line and end the threads."""
        self._work.put(None)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            return False
        self._formats.stop()
        return True

    def try_again(self) -> None:
        """Have the closing thread make whole what it could not close before, now that it may."""
        with suppress(queue.Empty):
            while True:
                journal = self._left.get_nowait()
                with self._idle:
                    self._closing += 1
                self._work.put(journal)

    def _close_cubes(self) -> None:
        while (cube := self._work.get()) is not None:
            if isinstance(cube, Path):
                self._close_late(cube)
                continue
            began = time.monotonic()
            try:
                told = self._close(cube)
            except OSError as error:
                self._fail(cube, _storage_error(cube.final, error))
            except Exception as error:
                log.exception("cube %s", cube.final)
                self._fail(cube, StorageError(f"cannot close {cube.final}: {error}"))
            else:
                if told is not None:
                    told["seconds"] = round(time.monotonic() - began, 3)
                    self.last_file = told["path"]
                    self.totals.cubes += 1
                    self._on_cube(told)
            finally:
                with self._idle:
                    self._closing -= 1
                    self._idle.notify_all()

    def _fail(self, cube: _Cube, error: StorageError) -> None:
        """Leave what there is under its hidden name, for :meth:`try_again` or the next start."""
        with suppress(OSError):
            cube.writer.close()
        cube.journal.close()
        if cube.temporary.exists() or cube.final.exists():
            self._left.put(cube.journal.path)
        else:  # the folder was removed, and every frame with it
            self._gone.put((cube.session, len(cube.rows) // _ROW.size))
        self._on_failure(error)

    def settle(self) -> None:
        """Count those frames as missed that were taken but did not reach their cube's file.

        Only the closing thread knows of them; only the thread that feeds frames counts.
        """
        with suppress(queue.Empty):
            while True:
                session, count = self._gone.get_nowait()
                if session == self.session:
                    self.totals.saved -= count
                    self.totals.missed += count

    def _close_late(self, journal: Path) -> None:
        try:
            found = recover(journal, self.stream, self._clock, "storage failed")
        except OSError as error:
            if journal.exists():
                self._left.put(journal)
            log.error("%s still cannot be made whole: %s", journal, error)
        except Exception:
            log.exception("%s", journal)
        else:
            if found is not None:
                journal.unlink(missing_ok=True)
                self._gone.put((found.head["session"], len(found.noted) - len(found.rows)))
                if found.path is not None:
                    self.last_file = str(found.path)
                    self.totals.cubes += 1
                    self._on_cube(found.told())
        finally:
            with self._idle:
                self._closing -= 1
                self._idle.notify_all()

    def _close(self, cube: _Cube) -> dict[str, Any] | None:
        rows = cube.table()
        if not len(rows):
            cube.writer.close()
            cube.temporary.unlink(missing_ok=True)
            cube.journal.remove()
            return None
        size, rows = self._complete(cube, rows)
        path = give_name(cube.temporary, cube.final)
        try:
            if cube.settings.text:
                write_text(path, rows)
        except OSError as error:  # the cube is in its place: the text comes with its journal later
            cube.journal.close()
            self._left.put(cube.journal.path)
            self._on_failure(_storage_error(text_path(path), error))
        else:
            cube.journal.remove()
        return {
            "path": str(path), "session": cube.session, "number": cube.number,
            "frames": len(rows), "expected": cube.expected, "missed": cube.missed,
            "torn": cube.torn, "reason": cube.reason, "truncated": cube.truncated, "size": size,
            "shape": cube.format.head()["shape"],
            "first_counter": int(rows["CNT0"][0]), "last_counter": int(rows["CNT0"][-1]),
            "first_ns": int(rows["ATIME"][0]), "last_ns": int(rows["ATIME"][-1]),
        }  # fmt: skip

    def _complete(self, cube: _Cube, rows: Rows) -> tuple[int, Rows]:
        """Make the file whole; after a failed write, of the frames that really reached it."""
        try:
            cards = self._cards(cube, rows)
            return cube.writer.complete(cards, rows, fsync=cube.settings.fsync), rows
        except OSError as error:
            log.error("%s: %s; what is in the file is made whole", cube.final, error)
            is_full = error.errno in _NO_ROOM
        cube.writer.close()
        salvage = cube.format.salvage(cube.temporary, rows)
        try:
            kept = salvage.rows
            if is_full:  # the table needs room: the last frames make it
                needed = 2 * table_bytes(len(kept)) + (cube.room + 36) * CARD_BYTES
                needed += _TEXT_ROW_BYTES * len(kept)
                given_up = 2 + needed // cube.format.frame_bytes
                kept = kept[: max(0, len(kept) - given_up)]
            if not len(kept):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            lost = len(rows) - len(kept)
            cube.missed += lost
            cube.truncated = len(kept) < cube.expected
            self._gone.put((cube.session, lost))
            size = salvage.complete(self._cards(cube, kept), kept)
        finally:
            salvage.close()
        return size, kept

    def _cards(self, cube: _Cube, rows: Rows) -> list[Any]:
        facts = CubeFacts(
            self.stream, cube.session, cube.number, cube.expected, cube.reason, cube.truncated,
            cube.missed, cube.torn, self._host,
        )  # fmt: skip
        cards = cube_cards(
            facts, rows, cube.settings, cube.keywords, cube.at_end, clock_health(),
            self._clock.now_ns(),
        )  # fmt: skip
        # A long text takes several cards.
        sizes = np.cumsum([len(card.to_bytes()) // CARD_BYTES for card in cards])
        fitting = int(np.searchsorted(sizes, cube.room, side="right"))
        if fitting < len(cards):
            log.error("%s: %d cards do not fit its header", cube.final, len(cards) - fitting)
        return cards[:fitting]


def _begin(kind: CubeFormat, final: Path, head: dict[str, Any]) -> tuple[Path, Journal, Writer]:
    """Begin the files of a cube; with another name where a cube of this one is still closing.

    A writer may give two frames the same stamp, and the name is made of it.
    """
    for number in range(_NAMES_TRIED):
        path = final if number == 0 else other_name(final, number)
        try:
            journal = Journal(path, {"final": str(path), **head})
        except FileExistsError:
            continue
        try:
            return path, journal, kind.open(temporary_name(path))
        except FileExistsError:
            journal.remove()
        except BaseException:
            journal.remove()
            raise
    raise FileExistsError(errno.EEXIST, f"it and {_NAMES_TRIED} names beside it are taken")


def _plain(settings: LogSettings) -> dict[str, Any]:
    value = dict(vars(settings))
    value["cards"] = {name: list(card) for name, card in settings.cards.items()}
    return value


def _storage_error(path: Path, error: OSError) -> StorageError:
    code = Code.NO_SPACE if error.errno in _NO_ROOM else Code.STORAGE_FAILED
    hint = {errno.ENOSPC: "make room there", errno.EACCES: "give the daemon's user the folder",
            errno.ENOENT: "the folder is gone; make it again"}  # fmt: skip
    advice = hint.get(error.errno or 0, "see the disk")
    return StorageError(
        f"cannot write {path}: {error.strerror or error}; {advice}", code=code, path=str(path)
    )
