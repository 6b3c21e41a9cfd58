# SPDX-License-Identifier: BSD-3-Clause
"""Housekeeping files: a line about every second, tab separated, below a line of names.

Columns are found by name, in any order. A last line without its end is still being written or
copied; it is left for the next read. Numbers that are written in hexadecimal (a status register)
are understood.
"""

from __future__ import annotations

import datetime as dt
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.calibration.dayfolder import day_start_ns, parse_hk_master_name, parse_hk_name
from nightjar.calibration.elvis import (
    LATEST,
    as_ns,
    full_year,
    load_elvis,
    utc,
    versions_of_housekeeping,
)
from nightjar.errors import ConfigError, StorageError, storage_code
from nightjar.times import NS_PER_DAY, NS_PER_S

TIME = "TimeStamp"
_STAMP = re.compile(r"(\d{2})-(\d{2})-(\d{2})_(\d{2}):(\d{2}):(\d{2})\Z", re.ASCII)
_CLOCK = re.compile(r"(\d{2}):(\d{2}):(\d{2})\Z", re.ASCII)


class NotHousekeeping(StorageError):
    """A file is there and readable, but it is not the housekeeping it should be."""


@dataclass(frozen=True)
class HkTable:
    """Housekeeping as it stands in a file, or in several.

    Attributes
    ----------
    names
        Parameters, without the time.
    times_ns
        UTC of the rows, int64.
    values
        float64 [row, parameter]; NaN where there is no number.
    missing
        Parameters of the version that no file has.
    problems
        Lines that could not be read: ``path:line: what``.
    """

    names: tuple[str, ...]
    times_ns: NDArray[np.int64]
    values: NDArray[np.float64]
    missing: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.times_ns)

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        """Return a parameter of all rows; KeyError where there is none of that name."""
        try:
            return self.values[:, self.names.index(name)]
        except ValueError:
            raise KeyError(name) from None


@dataclass(frozen=True, slots=True)
class HkStat:
    """A parameter over an exposure; NaN where it has no value."""

    mean: float
    std: float
    min: float
    max: float
    count: int


def hk_statistics(table: HkTable) -> dict[str, HkStat]:
    """Return the statistics of every parameter, rows without a number left out."""
    found = {}
    for index, name in enumerate(table.names):
        values = table.values[:, index]
        values = values[np.isfinite(values)]
        if values.size:
            found[name] = HkStat(
                float(values.mean()), float(values.std()), float(values.min()),
                float(values.max()), int(values.size),
            )  # fmt: skip
        else:
            found[name] = HkStat(np.nan, np.nan, np.nan, np.nan, 0)
    return found


# --- reading ---


def stamp_text(utc_ns: int) -> str:
    """Return a time as housekeeping has it: ``dd-mm-yy_hh:mm:ss``."""
    return utc(utc_ns).strftime("%d-%m-%y_%H:%M:%S")


def read_hk(path: Path, elvis: str = LATEST) -> HkTable:
    """Return the rows of a file, of one OBSID or a master.

    Raises
    ------
    ConfigError
        Its columns are those of another version of ELVIS; the message tells which.
    NotHousekeeping
        It is no housekeeping.
    StorageError
        It cannot be read.
    """
    reader = HkReader(path, elvis)
    table = reader.poll()
    if not reader.names:
        raise NotHousekeeping(f"{path}: has no line of names; it is empty or cut short")
    return table


def read_hks(paths: Iterable[Path], elvis: str = LATEST) -> HkTable:
    """Return the rows of several files, sorted by time, each time once.

    Raises
    ------
    ConfigError, NotHousekeeping, StorageError
        As :func:`read_hk`.
    """
    tables = [read_hk(path, elvis) for path in paths]
    if not tables:
        return HkTable((), np.empty(0, np.int64), np.empty((0, 0)))
    names = tuple(dict.fromkeys(name for table in tables for name in table.names))
    total = sum(len(table) for table in tables)
    times = np.concatenate([table.times_ns for table in tables])
    values = np.full((total, len(names)), np.nan)
    start = 0
    for table in tables:
        columns = [names.index(name) for name in table.names]
        values[start : start + len(table), columns] = table.values
        start += len(table)
    _, order = np.unique(times, return_index=True)
    missing = tuple(name for name in tables[0].missing if name not in names)
    problems = tuple(problem for table in tables for problem in table.problems)
    return HkTable(names, times[order], values[order], missing, problems)


@dataclass
class HkReader:
    """Reads a file that grows.

    Attributes
    ----------
    path, elvis
        The file, which need not be there yet, and the version that is expected.
    names
        Parameters; empty until the line of names has been read.
    offset
        Bytes read.
    """

    path: Path
    elvis: str = LATEST
    names: tuple[str, ...] = ()
    offset: int = 0
    missing: tuple[str, ...] = ()
    _columns: list[str] = field(default_factory=list)
    _line: int = 0
    _last_ns: int = 0

    def poll(self) -> HkTable:
        """Return the rows that came since the last call.

        A file that has become shorter is read anew.

        Raises
        ------
        ConfigError, NotHousekeeping, StorageError
            As :func:`read_hk`; a file that is not there is a StorageError.
        """
        try:
            with open(self.path, "rb") as file:
                if os.fstat(file.fileno()).st_size < self.offset:
                    self.offset = self._line = self._last_ns = 0
                file.seek(self.offset)
                data = file.read()
        except OSError as error:
            raise StorageError(
                f"cannot read the housekeeping {self.path}: {error.strerror}", path=str(self.path)
            ) from error
        lines = data[: data.rfind(b"\n") + 1].decode("utf-8", "replace").split("\n")[:-1]
        self.offset += data.rfind(b"\n") + 1
        return self._table(lines)

    def _table(self, lines: list[str]) -> HkTable:
        times: list[int] = []
        values: list[list[float]] = []
        problems: list[str] = []
        for line in lines:
            self._line += 1
            texts = [text.strip() for text in line.rstrip("\r").split("\t")]
            if self._line == 1:
                self._begin(texts)
                continue
            if not any(texts):
                continue
            try:
                row = self._row(texts)
            except ValueError as error:
                problems.append(f"{self.path}:{self._line}: {error}")
                continue
            times.append(row[0])
            values.append(row[1])
        array = np.array(values) if values else np.empty((0, len(self.names)))
        return HkTable(self.names, np.array(times, np.int64), array, self.missing, tuple(problems))

    def _begin(self, texts: list[str]) -> None:
        while texts and not texts[-1]:
            texts.pop()
        if TIME not in texts or len(set(texts)) != len(texts):
            raise NotHousekeeping(
                f"{self.path}:1: not the names of housekeeping, which have {TIME} and each name "
                f"once: {' '.join(texts)[:80]!r}",
                path=str(self.path),
            )
        wanted = load_elvis(self.elvis).housekeeping
        fitting = versions_of_housekeeping(texts)
        if fitting and self.elvis not in fitting:
            raise ConfigError(
                f"{self.path}:1: the columns are those of ELVIS {' or '.join(fitting)}, not of "
                f"{self.elvis}; give --elvis {fitting[-1]}",
                path=str(self.path), fitting=list(fitting),
            )  # fmt: skip
        self._columns = texts
        self.names = tuple(name for name in texts if name != TIME)
        self.missing = tuple(name for name in wanted if name not in texts)

    def _row(self, texts: list[str]) -> tuple[int, list[float]]:
        while len(texts) > len(self._columns) and not texts[-1]:
            texts.pop()
        if len(texts) != len(self._columns):
            raise ValueError(f"{len(texts)} columns of {len(self._columns)}")
        time_at = self._columns.index(TIME)
        time_ns = self._time(texts[time_at])
        self._last_ns = time_ns
        try:
            numbers = list(map(float, texts[:time_at] + texts[time_at + 1 :]))
        except ValueError:
            numbers = [_number(text) for at, text in enumerate(texts) if at != time_at]
        return time_ns, numbers

    def _time(self, text: str) -> int:
        match = _STAMP.match(text)
        if match:
            day, month, year, hour, minute, second = (int(part) for part in match.groups())
            return as_ns(
                dt.datetime(full_year(year), month, day, hour, minute, second, tzinfo=dt.UTC)
            )
        match = _CLOCK.match(text)
        if match is None:
            raise ValueError(f"{TIME} is {text[:40]!r}, not a time like 21-02-80_10:15:30")
        hour, minute, second = (int(part) for part in match.groups())
        base = self._last_ns or _named_time(self.path)
        time_ns = base - base % NS_PER_DAY + (hour * 3600 + minute * 60 + second) * NS_PER_S
        # Only the time of day is written: over midnight it becomes smaller by nearly a day.
        return time_ns + NS_PER_DAY if time_ns < base - NS_PER_DAY // 2 else time_ns


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return float(int(text, 16))
    except ValueError:
        return float("nan")


def _named_time(path: Path) -> int:
    """Return the time, or the beginning of the day, that the name of a file tells."""
    try:
        return parse_hk_name(path.name)[1]
    except ValueError:
        return day_start_ns(parse_hk_master_name(path.name)[0])


# --- writing ---


class HkWriter:
    """Appends rows to a file, making it where it is missing.

    Parameters
    ----------
    path
        Of the file.
    names
        Parameters, without the time; must be those of a file that is there.

    Raises
    ------
    NotHousekeeping
        There is a file of that name with other columns.
    StorageError
        It cannot be written.
    """

    def __init__(self, path: Path, names: Iterable[str]) -> None:
        self.path = path
        self.names = tuple(names)
        head = "\t".join((TIME, *self.names)) + "\n"
        try:
            self._file = open(path, "a+b")
            self._file.seek(0)
            first = self._file.readline().decode("utf-8", "replace")
            if not first:
                self._file.write(head.encode())
                self._file.flush()
        except OSError as error:
            raise self._failed(error) from error
        if first and first != head:
            self._file.close()
            raise NotHousekeeping(f"{path} is there and has other columns", path=str(path))

    def append(self, utc_ns: int, values: Mapping[str, Any]) -> None:
        """Append a row; a parameter that is not given is left empty."""
        texts = [hk_text(values.get(name)) for name in self.names]
        try:
            self._file.write(("\t".join((stamp_text(utc_ns), *texts)) + "\n").encode())
        except OSError as error:
            raise self._failed(error) from error

    def flush(self) -> None:
        """Let readers see what was appended."""
        try:
            self._file.flush()
        except OSError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Make the file durable and close it."""
        self.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def __enter__(self) -> HkWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _failed(self, error: OSError) -> StorageError:
        return StorageError(
            f"cannot write the housekeeping {self.path}: {error.strerror}",
            code=storage_code(error), path=str(self.path),
        )  # fmt: skip


def hk_text(value: float | int | None) -> str:
    """Return a value as the files have it: whole numbers without a point, others with 3 digits."""
    if value is None or value != value:
        return ""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else f"{value:.3f}"
