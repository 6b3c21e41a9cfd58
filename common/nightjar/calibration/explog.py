# SPDX-License-Identifier: BSD-3-Clause
"""The exposure log: a line for each CCD of each exposure, tab separated, below a line of names.

The names are compared with those of the ELVIS version that is expected: a log of another version
is refused with the version that fits, never read by position. A last line without its end is
still being written or copied; it is left for the next read.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from nightjar.calibration.elvis import (
    LATEST,
    ElvisVersion,
    Value,
    load_elvis,
    parse_stamp,
    plain,
    typed,
    versions_of_log,
)
from nightjar.errors import ConfigError, StorageError

log = logging.getLogger(__name__)

_CCD = re.compile(r"CCD(\d{1,2})\Z", re.ASCII)


class NotExpLog(StorageError):
    """A file is there and readable, but it is not the log it should be."""


class LogRow(Mapping[str, Value]):
    """A line of the log: a mapping of its columns, typed; None for an empty number.

    Attributes
    ----------
    explog_number
        Which log of those read together it is from, 0-based.
    datapath
        Folder of that log, where its files are.
    line
        Line of the file, 1-based, the names counted.
    """

    __slots__ = ("_values", "ccd", "datapath", "explog_number", "line", "obsid", "utc_ns")

    def __init__(
        self, values: Mapping[str, Value], datapath: Path, explog_number: int = 0, line: int = 0
    ) -> None:
        self._values = dict(values)
        self.datapath = datapath
        self.explog_number = explog_number
        self.line = line
        obsid = self._values["ObsID"]
        if not isinstance(obsid, int):
            raise ValueError("ObsID is empty")
        self.obsid = obsid
        ccd = _CCD.match(str(self._values.get("CCD", "CCD0")))
        if ccd is None:
            raise ValueError(f"CCD is {self._values['CCD']!r}, not CCD1, CCD2 ...")
        self.ccd = int(ccd[1])
        self.utc_ns = parse_stamp(str(self._first("date", "DATE")))

    def __getitem__(self, column: str) -> Value:
        return self._values[column]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"LogRow(obsid={self.obsid}, ccd={self.ccd}, test={self.test!r})"

    def _first(self, *columns: str) -> Value:
        return next((self._values[name] for name in columns if name in self._values), None)

    @property
    def test(self) -> str:
        """Specific name of the test."""
        return str(self._first("test", "TEST") or "")

    @property
    def file_name(self) -> str:
        """Name of the image without extension."""
        return str(self._values.get("File_name", ""))


class ExpLogReader:
    """Reads a log that grows.

    Parameters
    ----------
    path
        Of the log; it need not be there yet.
    elvis
        Version that is expected.
    number
        Of this log among those read together.

    Attributes
    ----------
    problems
        Lines that are no rows, each told once: ``path:line: what``.
    restarts
        How often the lines read before had changed: the log was replaced, and all is read anew.
    """

    def __init__(self, path: Path, elvis: str = LATEST, number: int = 0) -> None:
        self.path = path
        self.number = number
        self.problems: list[str] = []
        self.restarts = 0
        self._version = load_elvis(elvis)
        self._seen: tuple[int, int, int] | None = None
        self._digest = b""
        self._rest = b""
        self._reset()

    def _reset(self) -> None:
        self.offset = 0
        self._line = 0

    def poll(self) -> list[LogRow]:
        """Return the rows that came since the last call; empty while there is no log.

        Raises
        ------
        ConfigError
            The log is of another version of ELVIS.
        NotExpLog
            It is no exposure log.
        StorageError
            It cannot be read.
        """
        try:
            state = os.stat(self.path)
            seen = (state.st_ino, state.st_size, state.st_mtime_ns)
            if seen == self._seen:
                return []
            data = self.path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _unreadable(self.path, error) from error
        # Copies (rsync) replace the file: what counts is whether it begins as it did.
        if self.offset and _digest(data[: self.offset]) != self._digest:
            self.restarts += 1
            self.problems.append(f"{self.path}: lines that were read before have changed")
            self._reset()
        rows = self._take(data)
        self._digest = _digest(data[: self.offset])
        self._seen = seen
        return rows

    def finish(self) -> list[LogRow]:
        """Return the row of a last line that has no end, where it is whole all the same."""
        if not self._rest.strip():
            return []
        row = self._row(self._rest, self._line + 1)
        return [] if row is None else [row]

    @property
    def is_cut(self) -> bool:
        """Whether the last line has no end."""
        return bool(self._rest.strip())

    def _take(self, data: bytes) -> list[LogRow]:
        end = data.rfind(b"\n") + 1
        self._rest = data[max(end, self.offset) :]
        rows = []
        if not self.offset:  # also where the line of names was refused before
            self._line = 0
        for line in data[self.offset : end].split(b"\n")[:-1]:
            self._line += 1
            if self._line == 1:
                check_columns(column_names(line), self._version, f"{self.path}:1")
            elif line.strip():
                row = self._row(line, self._line)
                if row is not None:
                    rows.append(row)
        self.offset = max(end, self.offset)
        return rows

    def _row(self, line: bytes, number: int) -> LogRow | None:
        try:
            return _parse(line, self._version, self.path.parent, self.number, number)
        except ValueError as error:
            self.problems.append(f"{self.path}:{number}: {error}")
            return None


def check_columns(names: Sequence[str], version: ElvisVersion, where: str) -> None:
    """Raise unless a log's line of names is that of a version.

    Raises
    ------
    ConfigError
        The names are those of another version; the message tells which.
    NotExpLog
        They are those of none.
    """
    if list(map(plain, names)) == list(_plain_columns(version.columns)):
        return
    fitting = versions_of_log(names)
    if fitting:
        raise ConfigError(
            f"{where}: the columns are those of ELVIS {' or '.join(fitting)}, not of "
            f"{version.version}; give --elvis {fitting[-1]}",
            path=where, fitting=list(fitting),
        )  # fmt: skip
    raise NotExpLog(f"{where}: {_difference(names, version)}", path=where)


def _difference(names: Sequence[str], version: ElvisVersion) -> str:
    wanted = version.columns
    have = {plain(name) for name in names}
    known = {plain(name) for name in wanted}
    missing = [name for name in wanted if plain(name) not in have]
    strange = [name for name in names if plain(name) not in known]
    parts = [f"not the columns of ELVIS {version.version} ({len(names)} of {len(wanted)})"]
    if missing:
        parts.append(f"missing: {some_of(missing)}")
    if strange:
        parts.append(f"unknown: {some_of(strange)}")
    if not missing and not strange:
        at = next(
            (
                i
                for i, (a, b) in enumerate(zip(names, wanted, strict=False))
                if plain(a) != plain(b)
            ),
            min(len(names), len(wanted)),
        )
        parts.append(f"they stand in another order from column {at + 1} on")
    return "; ".join(parts)


def some_of(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    shown = [name if len(name) <= 20 else name[:17] + "..." for name in names[:5]]
    return ", ".join(shown) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


@functools.cache
def _plain_columns(columns: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(plain(name) for name in columns)


def column_names(line: bytes) -> list[str]:
    """Return the names in a line; a tab at its end begins none."""
    fields = [field.strip() for field in line.decode("utf-8", "replace").rstrip("\r").split("\t")]
    while fields and not fields[-1]:
        fields.pop()
    return fields


def _parse(
    line: bytes, version: ElvisVersion, folder: Path, log_number: int, line_number: int
) -> LogRow:
    fields = [field.strip() for field in line.decode("utf-8", "replace").rstrip("\r").split("\t")]
    wanted = len(version.log)
    if len(fields) == wanted + 1 and not fields[-1]:
        fields.pop()
    if len(fields) != wanted:
        raise ValueError(f"{len(fields)} columns of {wanted}")
    values: dict[str, Value] = {}
    for (column, kind), text in zip(version.log.items(), fields, strict=True):
        try:
            values[column] = typed(text, kind)
        except (ValueError, OverflowError):
            raise ValueError(f"{column} is {text[:40]!r}, not {_KINDS[kind]}") from None
    return LogRow(values, folder, log_number, line_number)


_KINDS = {"int": "a whole number", "float": "a number", "str": "a text"}


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _unreadable(path: Path, error: OSError) -> StorageError:
    return StorageError(f"cannot read the exposure log {path}: {error.strerror}", path=str(path))


def read_explog(
    path: Path, elvis: str = LATEST, *, number: int = 0, problems: list[str] | None = None
) -> list[LogRow]:
    """Return the rows of a log, as they stand in it.

    Parameters
    ----------
    path
        Of the log.
    elvis
        Version that is expected.
    number
        Of this log among those read together.
    problems
        Takes the lines that are no rows; None: the first is an error. A last line that was cut
        short is no error in either case; it is told in the log of the program.

    Raises
    ------
    ConfigError
        The log is of another version of ELVIS.
    NotExpLog
        It is no exposure log, or a line of it is no row.
    StorageError
        It cannot be read.
    """
    reader = ExpLogReader(path, elvis, number)
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise _unreadable(path, error) from error
    rows = reader.poll()
    if reader.offset == 0:
        raise NotExpLog(f"{path}: has no line of names; it is empty or cut short", path=str(path))
    if reader.is_cut:
        log.warning("%s: the last line is cut short and left out", path)
    if problems is not None:
        problems += reader.problems
    elif reader.problems:
        raise NotExpLog(reader.problems[0], path=str(path))
    return rows


def read_explogs(
    paths: Iterable[Path], elvis: str = LATEST, *, problems: list[str] | None = None
) -> list[LogRow]:
    """Return the rows of several logs, in the order of `paths`, each row once.

    A copy of a row (OBSID, CCD and file) in a later log is left out.

    Raises
    ------
    ConfigError, NotExpLog, StorageError
        As :func:`read_explog`.
    """
    rows: dict[tuple[int, int, str], LogRow] = {}
    for number, path in enumerate(paths):
        for row in read_explog(path, elvis, number=number, problems=problems):
            rows.setdefault((row.obsid, row.ccd, row.file_name), row)
    return list(rows.values())
