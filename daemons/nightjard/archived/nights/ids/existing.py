# SPDX-License-Identifier: BSD-3-Clause
"""Are the frame IDs of files on disk in order? Also of nights that other programs numbered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nightjar.errors import InvalidArgument, NightjarError
from nightjar.fits.cards import Value
from nightjar.times import NS_PER_DAY, NS_PER_S, iso, parse_iso
from nightjard.archived.nights.ids.header import read_main_header
from nightjard.archived.nights.ids.names import ending, exp_id, parse, parse_file_name

_KEYWORDS = ("FRAMEID", "EXP-ID", "MJD-STR", "MJD", "DATE-OBS", "UT-STR", "UT")
_UNREADABLE = "cannot be read"
_MJD_EPOCH = 40_587  # MJD of 1970-01-01


@dataclass(frozen=True, slots=True)
class Row:
    """A file and its IDs.

    Attributes
    ----------
    file
        Its path.
    time_ns
        Start, ns UTC, by its header; None where that says nothing of it.
    frame_id, exp_id
        In the header; "" where it has none.
    expected
        The ID that it should have: those of the folder dealt out in order of (time, ID); "" where
        that cannot be told.
    in_name
        The ID that its name consists of; "" where that is another one.
    problem
        What is wrong; "" where nothing is.
    """

    file: Path
    time_ns: int | None
    frame_id: str
    expected: str
    in_name: str
    exp_id: str
    problem: str

    @property
    def ut(self) -> str:
        """Start, ISO, to the nearest ms (what MJD holds is a us off); "" where it is not known."""
        return "" if self.time_ns is None else iso(self.time_ns + 500_000, 3)

    @property
    def is_right(self) -> bool:
        """Whether header and name say what they should; only where that is known."""
        wanted = (self.expected, self.expected, exp_id(self.expected) if self.expected else "")
        return (self.frame_id, self.in_name, self.exp_id) == wanted


def check(files: Iterable[Path]) -> list[Row]:
    """Return a row for each file, in order of folder and time.

    IDs are dealt out folder by folder and code by code. Nothing is changed.

    Parameters
    ----------
    files
        ``.fits`` and ``.fits.fz``; a folder stands for those in it.

    Raises
    ------
    InvalidArgument
        A file of another kind, or one named twice.
    """
    paths = [path for file in files for path in expanded(Path(file))]
    for path in paths:
        if not ending(path.name):
            raise InvalidArgument(f"{path}: frame IDs are checked in .fits and .fits.fz files")
    twice = [path for path, count in Counter(paths).items() if count > 1]
    if twice:
        raise InvalidArgument(f"{twice[0]} is named twice")
    rows = [_read(path) for path in paths]
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        code = (row.frame_id or row.in_name)[:4]
        groups.setdefault((str(row.file.parent), code), []).append(row)
    result = [row for _, group in sorted(groups.items()) for row in _deal(group)]
    return _across_folders([_judged(row) for row in result])


def expanded(path: Path) -> list[Path]:
    """Return a file as it is, and of a folder its FITS files, hidden ones left out."""
    if not path.is_dir():
        return [path]
    return sorted(
        one for one in path.iterdir() if ending(one.name) and not one.name.startswith(".")
    )


def _read(path: Path) -> Row:
    in_name = parse_file_name(path.name)
    try:
        header = read_main_header(path, _KEYWORDS)
    except NightjarError as error:
        return Row(path, None, "", "", in_name, "", f"{_UNREADABLE}: {error}")
    text = _text(header, "FRAMEID")
    problem = ""
    try:
        parse(text) if text else None
    except InvalidArgument:
        problem, text = f"FRAMEID is {text!r}, which is none", ""
    return Row(path, start_ns(header), text, "", in_name, _text(header, "EXP-ID"), problem)


def _text(header: Mapping[str, Value], keyword: str) -> str:
    value = header.get(keyword)
    return value.strip() if isinstance(value, str) else ""


def start_ns(header: Mapping[str, Value]) -> int | None:
    """Return the start of an image by its header, ns UTC; None where it does not say.

    MJD before the texts: DATE-OBS of older files is the day on which the night began.
    """
    for keyword in ("MJD-STR", "MJD"):
        value = header.get(keyword)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0:
            days = int(value)
            return (days - _MJD_EPOCH) * NS_PER_DAY + round((value - days) * 86_400 * NS_PER_S)
    date = _text(header, "DATE-OBS")
    for text in (date, f"{date}T{_text(header, 'UT-STR')}", f"{date}T{_text(header, 'UT')}"):
        if "T" in text.strip("T"):
            try:
                return parse_iso(text)
            except ValueError:
                continue
    return None


def _deal(group: Sequence[Row]) -> list[Row]:
    """Return the rows of one folder and code with the IDs that they should have, in order."""
    ordered = sorted(group, key=lambda row: (
        row.time_ns is None, row.time_ns or 0, row.frame_id or row.in_name, row.file.name
    ))  # fmt: skip
    has_id = [row for row in ordered if row.frame_id or row.in_name]
    pool = _pool(has_id)
    if pool is None:
        return [_doubled(row, has_id) for row in ordered]
    dated = [row for row in has_id if row.time_ns is not None]
    # A file without a time keeps what it has.
    ids = iter(sorted(pool[row.file] for row in dated))
    dealt = {row.file: next(ids) for row in dated}
    return [
        row if row.problem.startswith(_UNREADABLE)
        else replace(row, expected=dealt.get(row.file) or pool.get(row.file, ""))
        for row in ordered
    ]  # fmt: skip


def _pool(rows: Sequence[Row]) -> dict[Path, str] | None:
    """Return the ID of each file, all different: by header, or else by name; None if there is none.

    An interrupted renaming leaves the ID in the header only; a stale answer to a request for IDs
    two headers with the same.
    """
    by_name = {row.file: row.in_name for row in rows}
    for pool in ({row.file: row.frame_id or row.in_name for row in rows}, by_name):
        if len(set(pool.values())) == len(pool) and all(pool.values()):
            return pool
    return None


def _doubled(row: Row, rows: Sequence[Row]) -> Row:
    mine = row.frame_id or row.in_name
    others = [other.file.name for other in rows
              if other.file != row.file and mine and (other.frame_id or other.in_name) == mine]
    if not others or row.problem:
        return row
    return replace(row, problem=f"{mine} is also that of {others[0]}: one of them needs a new ID")


def _judged(row: Row) -> Row:
    """Return the row with what is wrong with it."""
    if row.problem:
        return row
    problems = []
    if not row.frame_id and not row.in_name:
        problems.append("no frame ID")
    elif not row.frame_id:
        problems.append("no FRAMEID in the header")
    elif row.in_name and row.in_name != row.frame_id:
        problems.append(f"the header has {row.frame_id}, the name {row.in_name}")
    elif not row.in_name:
        problems.append(f"the name is not {row.frame_id}")
    if row.frame_id and row.exp_id != exp_id(row.frame_id):
        problems.append(f"EXP-ID is {row.exp_id or 'missing'}, not {exp_id(row.frame_id)}")
    if row.expected and row.frame_id and row.expected != row.frame_id:
        problems.append(f"out of order: {row.expected} by time")
    if row.time_ns is None:
        problems.append("no time in the header: its place is not known")
    return replace(row, problem="; ".join(problems))


def _across_folders(rows: list[Row]) -> list[Row]:
    """Name IDs that stand in two folders; these cannot be dealt out here."""
    where: dict[str, list[Row]] = {}
    for row in rows:
        if row.frame_id or row.in_name:
            where.setdefault(row.frame_id or row.in_name, []).append(row)
    result = []
    for row in rows:
        others = [other for other in where.get(row.frame_id or row.in_name, [])
                  if other.file.parent != row.file.parent]  # fmt: skip
        if others:
            text = f"also in {others[0].file.parent}"
            row = replace(row, problem="; ".join(filter(None, (row.problem, text))))
        result.append(row)
    return result
