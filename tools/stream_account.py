# SPDX-License-Identifier: BSD-3-Clause
"""The books of the streams' soak: what passed, what was saved, and what became of the rest.

    python tools/stream_account.py FOLDER STREAM...

As a program it watches streams and notes each frame: which file of shared memory, counter, stamp
and the words of truth in its pixels. The rest of the module reads cubes and compares.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nightjar.errors import NightjarError
from nightjar.fits.frame_table import read_table
from nightjar.fits.header import read_header
from nightjar.fits.verify import verify_image
from nightjar.streams.reader import StreamReader, Wake
from nightjard.camd.fast.pattern import TRUTH_WORDS, check_cube

NOTED = np.dtype(
    [("inode", "<u8"), ("created", "<i8"), ("cnt0", "<u8"), ("atime", "<i8"),
     ("words", "<u2", TRUTH_WORDS)]
)  # fmt: skip
S = 1_000_000_000

Key = tuple[int, int]
"""Counter and stamp of a frame: no two frames of a stream have the same."""


# ---------------------------------------------------------------- watching


def watch(folder: Path, stream: str) -> None:
    """Note every frame of a stream for ever, through whatever becomes of its file."""
    row = np.zeros(1, NOTED)
    with (folder / f"{stream}.noted").open("ab", buffering=1 << 16) as file:
        while True:
            try:
                reader = StreamReader(stream, start="oldest")
            except NightjarError:
                time.sleep(0.005)
                continue
            flushed = time.monotonic()
            while True:
                frame = reader.next_frame(copy=False)
                if frame is None:
                    file.flush()
                    # What the old file holds is read to its end before a new one is looked at.
                    if reader.wait(0.5) is Wake.REPLACED:
                        reader.relink()
                    continue
                row["words"][0] = frame.data[0, :TRUTH_WORDS]
                row["inode"], row["created"] = reader.identity
                row["cnt0"], row["atime"] = frame.counter, frame.atime_ns
                if reader.is_intact(frame):
                    file.write(row.tobytes())
                if time.monotonic() - flushed > 0.5:
                    flushed = time.monotonic()
                    file.flush()
                    if reader.unread < 2:
                        reader.relink()


class Watcher:
    """The program that watches, in a process of its own."""

    def __init__(self, folder: Path, streams: Sequence[str]) -> None:
        self._folder = folder
        self._process = subprocess.Popen([sys.executable, __file__, str(folder), *streams])

    def noted(self, stream: str) -> np.ndarray[Any, Any]:
        """Return what was noted so far, in the order in which it passed."""
        path = self._folder / f"{stream}.noted"
        data = path.read_bytes() if path.exists() else b""
        whole = len(data) // NOTED.itemsize * NOTED.itemsize
        return np.frombuffer(data[:whole], NOTED)

    def close(self) -> None:
        self._process.kill()
        self._process.wait(10)


# ---------------------------------------------------------------- cubes


@dataclass
class CubeLook:
    """What is left of a cube when it was looked at."""

    path: Path
    stream: str
    session: str = ""
    number: int = 0
    reason: str = ""
    missed: int = 0
    torn: int = 0
    problems: list[str] = field(default_factory=list)
    rows: np.ndarray[Any, Any] = field(default_factory=lambda: np.zeros(0))
    words: np.ndarray[Any, Any] = field(default_factory=lambda: np.zeros(0))


def look_at(path: Path, is_sampled: bool) -> CubeLook:
    """Read a cube: checksums, table, and the truth in its pixels."""
    look = CubeLook(path, path.parent.name)
    look.problems += verify_image(path).problems
    if look.problems:
        return look
    header, look.rows = read_header(path), read_table(path)
    look.session, look.reason = str(header["SESSION"]), str(header["CUBEEND"])
    look.number, look.missed, look.torn = (
        int(str(header[name])) for name in ("CUBE-NUM", "NMISSED", "NTORN")
    )
    shape = tuple(int(str(header[f"NAXIS{axis}"])) for axis in (3, 2, 1))
    stored = np.memmap(path, ">i2", "r", header.data_offset, shape)
    part = (stored[:, :, :TRUTH_WORDS].astype(np.int32) + 32768).astype(np.uint16)
    report = check_cube(part)
    look.words = part[:, 0, :]
    camera, crop = look.words[:, 10] & 0xFF, look.words[:, 14]
    if report.whole != report.frames or len(look.rows) != report.frames:
        look.problems.append(f"{len(look.rows)} rows; {report.text()}")
    if len(set(camera.tolist())) != 1 or f"vcam{camera[0]}" != look.stream.split("_")[0]:
        look.problems.append(f"frames of cameras {sorted(set(camera.tolist()))}")
    if len(set(crop.tolist())) != 1:
        look.problems.append(f"frames of crops {sorted(set(crop.tolist()))}")
    look.problems += _numbers_of(look)
    if is_sampled:
        done = subprocess.run(["fitsverify", "-q", str(path)], capture_output=True, text=True)
        if done.returncode:
            look.problems.append(f"fitsverify: {done.stdout[:300]}")
    return look


def _numbers_of(look: CubeLook) -> list[str]:
    """Compare the table with the pixels and with the header."""
    faults, rows = [], look.rows
    words = look.words.astype(np.int64)
    ids = words[:, 2] << 16 | words[:, 3]
    wrong = (rows["HWID"] != -1) & (rows["HWID"] != ids)
    if wrong.any():
        at = int(np.flatnonzero(wrong)[0])
        faults.append(f"{int(wrong.sum())} of {len(rows)} hardware ids are not those in the pixels,"
                      f" first in frame {at}: {rows['HWID'][at]} for {ids[at]}")  # fmt: skip
    start = words[:, 4] << 48 | words[:, 5] << 32 | words[:, 6] << 16 | words[:, 7]
    late = rows["ATIME"] - start
    if len(late) and not (0 < late.min() and late.max() < S // 10):
        faults.append(f"stamps {late.min() / S:.3f} to {late.max() / S:.3f} s after the exposure")
    steps = np.diff(rows["CNT0"].astype(np.int64))
    if (steps < 1).any():
        faults.append("counters do not rise")
    elif (rows["MISSED"][1:] != steps - 1).any():
        faults.append("MISSED of the table is not what the counters say")
    return faults


# ---------------------------------------------------------------- the account


@dataclass
class Session:
    """One session of a group: all frames acquired from `since` to `until` (ns UTC) belong to it.

    One that `fills` its last cube ends with the cube in which the logger is when it hears of it.
    """

    name: str
    streams: Sequence[str]
    since: int
    until: int = 0
    fills: bool = False


@dataclass
class Misfortune:
    """What happened, to what, from when to when (ns UTC)."""

    kind: str
    target: str
    began: int
    ended: int = 0

    def reaches(self, marks: Sequence[str], first: int, last: int, after: int) -> bool:
        """Tell whether it may be why frames between two moments are missing."""
        is_near = self.began - S < last and self.ended + after > first
        return is_near and not {self.target, *self.target.split()}.isdisjoint(marks)


@dataclass
class Account:
    """What became of a stream's frames."""

    stream: str
    passed: int = 0
    wanted: int = 0
    saved: int = 0
    cubes: int = 0
    torn: int = 0
    overrun: int = 0  # missing and counted in the table
    unmade: int = 0  # counted, but nobody saw them pass either
    gone: int = 0  # missing with the file that held them, while the logger was down
    link: int = 0
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Return one line of the final table."""
        return (f"{self.stream:11} {self.passed:8} {self.wanted:8} {self.saved:8} {self.cubes:6} "
                f"{self.overrun:8} {self.torn:6} {self.unmade:7} {self.gone:6} {self.link:6} "
                f"{len(self.faults):7}")  # fmt: skip

    TITLE = (f"{'stream':11} {'passed':>8} {'wanted':>8} {'saved':>8} {'cubes':>6} {'counted':>8} "
             f"{'torn':>6} {'unmade':>7} {'gone':>6} {'link':>6} {'faults':>7}")  # fmt: skip


class Judge:
    """Compares cubes with what passed.

    Parameters
    ----------
    misfortunes
        What happened.
    after
        How long a misfortune may tell, ns: the time until a process is up again.
    """

    def __init__(self, misfortunes: Sequence[Misfortune], after: int = 8 * S) -> None:
        self._misfortunes, self._after = misfortunes, after

    def _reason(self, marks: Sequence[str], first: int, last: int) -> str:
        found = [
            f"{each.kind} {each.target}" for each in self._misfortunes
            if each.reaches(marks, first, last, self._after)
        ]  # fmt: skip
        return ", ".join(found)

    def stream(
        self, stream: str, noted: np.ndarray[Any, Any], cubes: Sequence[CubeLook],
        sessions: Sequence[Session],
    ) -> Account:  # fmt: skip
        """Return the account of one stream."""
        account = Account(stream, passed=len(noted), cubes=len(cubes))
        place: dict[Key, int] = {
            (int(row["cnt0"]), int(row["atime"])): index for index, row in enumerate(noted)
        }
        if len(place) != len(noted):
            account.faults.append(f"{len(noted) - len(place)} frames passed twice")
        seen: dict[Key, Path] = {}
        for cube in cubes:
            account.faults += [f"{cube.path.name}: {text}" for text in cube.problems]
            self._find(account, cube, noted, place, seen)
        for session in sessions:
            if stream in session.streams:
                own = [cube for cube in cubes if cube.session == session.name and len(cube.rows)]
                own.sort(key=lambda cube: cube.number)
                self._session(account, session, own, noted, place)
        known = {session.name for session in sessions}
        strays = {cube.session for cube in cubes if len(cube.rows)} - known
        if strays:
            account.notes.append(f"cubes of sessions that were told to have failed: {strays}")
        return account

    def _find(
        self, account: Account, cube: CubeLook, noted: np.ndarray[Any, Any],
        place: dict[Key, int], seen: dict[Key, Path],
    ) -> None:  # fmt: skip
        """Look for each frame of a cube among those that passed."""
        account.saved += len(cube.rows)
        account.torn += cube.torn
        twice, altered = 0, 0
        for row, words in zip(cube.rows, cube.words, strict=True):
            key = (int(row["CNT0"]), int(row["ATIME"]))
            twice += key in seen
            seen[key] = cube.path
            at = place.get(key)
            altered += at is not None and not np.array_equal(noted[at]["words"], words)
        if twice:
            account.faults.append(f"{cube.path.name}: {twice} frames are in another cube, too")
        if altered:
            account.faults.append(f"{cube.path.name}: {altered} frames are not those that passed")

    def _session(
        self, account: Account, session: Session, cubes: Sequence[CubeLook],
        noted: np.ndarray[Any, Any], place: dict[Key, int],
    ) -> None:  # fmt: skip
        stamps = noted["atime"]
        wanted = np.flatnonzero((stamps >= session.since) & (stamps < session.until))
        account.wanted += len(wanted)
        numbers = [cube.number for cube in cubes]
        if numbers != list(range(1, len(numbers) + 1)):
            account.faults.append(f"session {session.name}: cubes are numbered {numbers}")
        told = sum(cube.missed + cube.torn for cube in cubes)
        in_table = sum(int(cube.rows["MISSED"].sum()) for cube in cubes)
        # A frame that was torn as the last of a file is in no gap of counters.
        if not in_table <= told <= in_table + sum(cube.torn for cube in cubes):
            account.faults.append(f"session {session.name}: NMISSED and NTORN are {told}, the "
                                  f"tables have {in_table}")  # fmt: skip
        before: tuple[Key, int] | None = None
        first = int(wanted[0]) if len(wanted) else 0
        for cube in cubes:
            for row in cube.rows:
                key = (int(row["CNT0"]), int(row["ATIME"]))
                at = place.get(key, -1)
                if at < 0:  # the watcher missed it, which nobody can blame on the logger
                    before = (key, -1)
                    continue
                if before is None:
                    if at > first:
                        self._edge(account, session, "start", noted[first:at])
                elif row["MISSED"] or (before[1] >= 0 and at != before[1] + 1):
                    self._gap(account, session, before, (key, at), int(row["MISSED"]), noted)
                before = (key, at)
        if not len(wanted):
            return
        if before is None:
            self._edge(account, session, "whole", noted[wanted])
        elif 0 <= before[1] < wanted[-1] and not session.fills:
            end = f"end ({cubes[-1].reason})"
            self._edge(account, session, end, noted[before[1] + 1 : wanted[-1] + 1])

    def _gap(
        self, account: Account, session: Session, before: tuple[Key, int], after: tuple[Key, int],
        counted: int, noted: np.ndarray[Any, Any],
    ) -> None:  # fmt: skip
        """Judge frames missing between two that were saved."""
        between = noted[before[1] + 1 : after[1]] if before[1] >= 0 else noted[:0]
        is_same = before[1] < 0 or noted[before[1]]["inode"] == noted[after[1]]["inode"]
        first, last = before[0][1], after[0][1]
        why = self._reason((f"logger {account.stream}", "fitslogd"), first, last)
        what = f"{account.stream} {session.name}: {len(between)} frames in {(last - first) / S:.2f}"
        what += f" s missing, {counted} counted"
        account.overrun += min(counted, len(between))
        account.unmade += max(0, counted - len(between))
        rest = len(between) - counted
        if rest > 0:
            account.gone += rest
            text = f"{what} ({'same' if is_same else 'another'} file): {why or 'no reason'}"
            (account.notes if why and not is_same else account.faults).append(text)
        elif len(between):
            account.notes.append(f"{what}: {why or 'no reason: machine too slow'}")

    def _edge(
        self, account: Account, session: Session, where: str, missing: np.ndarray[Any, Any]
    ) -> None:
        """Judge frames missing at the start or the end of a session."""
        first, last = int(missing["atime"].min()), int(missing["atime"].max())
        why = self._reason((f"logger {account.stream}", "fitslogd"), first, last)
        account.gone += len(missing)
        text = (f"{account.stream} {session.name}: {len(missing)} frames in "
                f"{(last - first) / S:.2f} s missing at its {where}: {why or 'no reason'}")
        (account.notes if why else account.faults).append(text)

    def link(
        self, account: Account, near: np.ndarray[Any, Any], far: np.ndarray[Any, Any],
        cubes: Sequence[CubeLook], marks: Sequence[str],
    ) -> None:  # fmt: skip
        """Judge which frames of a stream did not come over its link."""
        came = {(int(row["cnt0"]), int(row["atime"])) for row in far}
        came |= {
            (int(row["CNT0"]), int(row["ATIME"])) for cube in cubes for row in cube.rows
        }  # fmt: skip
        passed = [(int(row["cnt0"]), int(row["atime"])) for row in near]
        there = [index for index, key in enumerate(passed) if key in came]
        strange = came - set(passed)
        if strange:
            account.notes.append(f"{len(strange)} frames came that were not seen to go")
        if not there:
            account.faults.append("nothing came over the link")
            return
        for before, after in itertools.pairwise(there):
            if after == before + 1:
                continue
            count = after - before - 1
            account.link += count
            first, last = passed[before][1], passed[after][1]
            why = self._reason(marks, first, last)
            files = "same" if near["inode"][before] == near["inode"][after] else "another"
            text = (f"{account.stream}: {count} frames in {(last - first) / S:.2f} s did not come "
                    f"over the link ({files} file): {why or 'no reason'}")
            # Within one file the counters tell it, whatever the reason.
            is_told = files == "same"
            (account.notes if why or is_told else account.faults).append(text)


def main(arguments: Sequence[str]) -> int:
    """Watch streams until killed."""
    folder, *streams = arguments
    for stream in streams:
        threading.Thread(target=watch, args=(Path(folder), stream)).start()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
