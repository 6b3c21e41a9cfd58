# SPDX-License-Identifier: BSD-3-Clause
"""Logs of keywords by time: what a keyword was at a moment.

Two forms are read. ``keywords_log*.tsv``: tab-separated, a row every ten seconds or so, first
column WRITTIME ``YYYYMMDD-HH:MM:SS``; the file is renamed when its columns change, so that a day
has several. ``*.HWP.csv`` and ``*.QWP.csv``: the wave-plate log with the columns t_hst, t_utc,
stage, position, target, mode; they give RET-POSn (position), RET-ANGn (target) and RET-MODn (mode),
n = 1 for the half-wave plate and 2 for the quarter-wave plate.
"""

from __future__ import annotations

import bisect
import csv
import datetime as dt
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nightjar.errors import StorageError
from nightjar.times import NS_PER_S

How = Literal["previous", "nearest", "linear"]

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
TIME_COLUMN = "WRITTIME"
_PLATES = {".HWP.csv": "1", ".QWP.csv": "2"}
_PLATE_COLUMNS = ("t_hst", "t_utc", "stage", "position", "target", "mode")
_PLATE_KEYS = {"RET-POS": "position", "RET-ANG": "target", "RET-MOD": "mode"}
_NOTHING = frozenset(("", "NONE", "NAN", "NULL", "N/A", "--", "##NODATA##", "##ERROR##"))
#: Angles that begin anew at 360 degrees: the shorter way round is taken between two rows.
_ROUND = frozenset(("AZIMUTH", "INST-PA", "D_IMRPAD", "D_IMRANG", "D_IMRPAP"))


@dataclass(frozen=True, slots=True)
class Reading:
    """What a log says.

    Attributes
    ----------
    value
        Text of the cell; a float where it was interpolated.
    time_ns
        Of the row; of the nearer one where it was interpolated.
    age_ns
        How far that is from the time asked for; positive.
    """

    value: str | float
    time_ns: int
    age_ns: int


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    columns: dict[str, int]
    delimiter: str
    rows: list[str]


class TelemetryLog:
    """Rows of several files, by time.

    Attributes
    ----------
    keys : frozenset of str
        Keywords that any of them has.
    paths : tuple of Path
        Of the files.
    skipped : int
        Rows that were cut or damaged, and left out.
    """

    def __init__(self, files: Iterable[_File], times: list[tuple[int, int, int]], skipped: int):
        self._files = list(files)
        self._times = sorted(times)
        self.skipped = skipped
        self.paths = tuple(file.path for file in self._files)
        self.keys = frozenset(key for file in self._files for key in file.columns)

    def __len__(self) -> int:
        return len(self._times)

    @classmethod
    def read(cls, paths: Iterable[Path]) -> TelemetryLog:
        """Read logs; a row that was cut off is left out.

        Raises
        ------
        StorageError
            A file cannot be read, or its first line does not name the columns.
        """
        files: list[_File] = []
        times: list[tuple[int, int, int]] = []
        skipped = 0
        for number, path in enumerate(sorted(paths)):
            file, found, bad = _read(path)
            files.append(file)
            times += [(time_ns, number, row) for time_ns, row in found]
            skipped += bad
        return cls(files, times, skipped)

    def at(
        self, key: str, time_ns: int, how: How = "previous", *, limit_s: float = math.inf
    ) -> Reading | None:
        """Return what a keyword was at a time; None where no row within the limit has it.

        Parameters
        ----------
        key
            Keyword.
        time_ns
            UTC.
        how
            ``previous``: the last row at or before the time. ``nearest``: before or behind.
            ``linear``: between the two, where both can be read as numbers and are near enough, else
            nearest; for keywords that are numbers.
        limit_s
            Rows further away are not used.
        """
        most_ns = math.inf if math.isinf(limit_s) else round(limit_s * NS_PER_S)
        at = bisect.bisect_right(self._times, (time_ns, len(self._files), 0))
        before = self._find(key, time_ns, range(at - 1, -1, -1), most_ns)
        if how == "previous" or (before is not None and before.age_ns == 0):
            return before
        behind = self._find(key, time_ns, range(at, len(self._times)), most_ns)
        if before is None or behind is None:
            return before or behind
        nearer = before if before.age_ns <= behind.age_ns else behind
        if how == "nearest":
            return nearer
        between = _between(key, before, behind)
        return nearer if between is None else Reading(between, nearer.time_ns, nearer.age_ns)

    def _find(self, key: str, time_ns: int, order: range, most_ns: float) -> Reading | None:
        for index in order:
            row_ns, number, row = self._times[index]
            age_ns = abs(time_ns - row_ns)
            if age_ns > most_ns:
                return None
            file = self._files[number]
            column = file.columns.get(key)
            if column is None:
                continue
            cell = _cells(file.rows[row], file.delimiter)[column].strip()
            if cell.upper() not in _NOTHING:
                return Reading(cell, row_ns, age_ns)
        return None


def _between(key: str, before: Reading, behind: Reading) -> float | None:
    """Return the value between two readings; None where they hold no numbers."""
    try:
        first, last = float(before.value), float(behind.value)
    except ValueError:
        return None
    if not (math.isfinite(first) and math.isfinite(last)):
        return None
    step = last - first
    if key in _ROUND:
        step = (step + 180.0) % 360.0 - 180.0
    whole = before.age_ns + behind.age_ns
    value = first + step * (before.age_ns / whole)
    if key in _ROUND and min(first, last) >= 0:
        value %= 360.0
    return value


def _read(path: Path) -> tuple[_File, list[tuple[int, int]], int]:
    """Return a file, (time, row) of its good rows, and the number of bad ones."""
    try:
        text = path.read_bytes().decode("utf-8", errors="replace")
    except OSError as error:
        raise StorageError(
            f"cannot read the telemetry log {path}: {error.strerror}", path=str(path)
        ) from error
    # Behind the last line feed stands a row that is still being written, or was cut.
    lines = text.split("\n")
    bad = 1 if lines.pop() else 0
    plate = next((number for end, number in _PLATES.items() if path.name.endswith(end)), None)
    delimiter = "," if plate else "\t"
    rows = [line.rstrip("\r") for line in lines]
    names = [name.strip() for name in _cells(rows[0], delimiter)] if rows else []
    columns, time_at = _columns(path, names, plate)
    found = []
    for index, row in enumerate(rows[1:], start=1):
        cells = _cells(row, delimiter)
        time_ns = _time(cells[time_at].strip()) if len(cells) == len(names) else None
        if time_ns is not None and "\0" not in row:
            found.append((time_ns, index))
        elif row.strip():
            bad += 1
    return _File(path, columns, delimiter, rows), found, bad


def _columns(path: Path, names: list[str], plate: str | None) -> tuple[dict[str, int], int]:
    """Return keyword -> column, and the column of the time."""
    if plate is None:
        if not names or names[0] != TIME_COLUMN:
            raise StorageError(
                f"{path} is no telemetry log: its first column is {names[0] if names else ''!r}, "
                f"not {TIME_COLUMN}",
                path=str(path),
            )
        return {name: index for index, name in enumerate(names) if index and name}, 0
    missing = [name for name in _PLATE_COLUMNS if name not in names]
    if missing:
        raise StorageError(
            f"{path} is no wave-plate log: no column {', '.join(missing)}", path=str(path)
        )
    keys = {f"{key}{plate}": names.index(column) for key, column in _PLATE_KEYS.items()}
    return keys, names.index("t_utc")


def _cells(row: str, delimiter: str) -> list[str]:
    """Return the cells of a row; those with a quotation mark in them are quoted."""
    if '"' in row:
        return next(csv.reader([row], delimiter=delimiter), [])
    return row.split(delimiter)


def _time(text: str) -> int | None:
    """Return ns UTC of ``YYYYMMDD-HH:MM:SS`` or of an ISO time, by its zone if it has one."""
    try:
        if len(text) == 17 and text[8] == "-":
            moment = dt.datetime.strptime(text, "%Y%m%d-%H:%M:%S")
        else:
            moment = dt.datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    return (moment - _EPOCH) // dt.timedelta(microseconds=1) * 1000
