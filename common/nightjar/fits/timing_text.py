# SPDX-License-Identifier: BSD-3-Clause
"""The text file of frame times beside a cube: seven columns that existing programs read.

Eleven comment lines, then a row a frame with fixed widths: index in the cube, main index, seconds
since the cube's origin by logging time, absolute logging time, absolute acquisition time (0 where
not known), stream counters ``cnt0`` and ``cnt1``. Older files have six columns: no acquisition
time. Writers before this one printed doubles, whose ninth decimal of the absolute time is noise
(0.24 us); here every digit comes from the integer nanoseconds, digits beyond the last are cut off.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nightjar.errors import StorageError
from nightjar.fits.cards import printable
from nightjar.fits.frame_table import ROW, Rows
from nightjar.times import NS_PER_S

#: A row of a text file: times are integer ns, the first one since the cube's origin.
TIMING = np.dtype(
    [("FRAME", "<i8"), ("MAIN", "<u8"), ("SINCE", "<i8"), ("LTIME", "<i8"), ("ATIME", "<i8"),
     ("CNT0", "<u8"), ("CNT1", "<u8")]
)  # fmt: skip

_COLUMNS = (
    "col1 : datacube frame index",
    "col2 : Main index",
    "col3 : Time since cube origin (logging) [s]",
    "col4 : Absolute time (logging) [s]",
    "col5 : Absolute time (acquisition) [s], 0 if not known",
    "col6 : stream cnt0 index",
    "col7 : stream cnt1 index",
)
_SUFFIX = ".txt"
# Of each column: blanks before it, digits of whole numbers, decimals after a point.
_LAYOUT = (
    (0, 10, 0), (2, 10, 0), (2, 5, 9), (3, 10, 9), (2, 10, 6), (3, 10, 0), (3, 10, 0),
)  # fmt: skip
_LINE_BYTES = sum(gap + width + digits + (digits > 0) for gap, width, digits in _LAYOUT) + 1
_FOUR_DIGITS = np.stack(
    [np.arange(10_000) // power % 10 + ord("0") for power in (1000, 100, 10, 1)], 1
).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class TimingText:
    """What was read from a text file.

    Attributes
    ----------
    rows : (n,)
        Of :data:`TIMING`; ATIME is 0 in files of six columns.
    columns
        6 or 7; 0 where there is no row.
    is_cut
        The last line was not complete and is not among the rows.
    """

    rows: npt.NDArray[np.void]
    columns: int
    is_cut: bool


def text_path(cube: Path) -> Path:
    """Return the name of the text file of a cube: ``x.fits`` or ``x.fits.fz`` to ``x.txt``."""
    name = cube.name.removesuffix(".fz")
    return cube.with_name(name.removesuffix(".fits") + _SUFFIX)


def timing_text(
    rows: Rows, *, program: str, cube: str = "", origin_ns: int | None = None
) -> bytes:
    """Return the whole text file.

    Parameters
    ----------
    rows : (n,)
        Of :data:`~nightjar.fits.frame_table.ROW`.
    program
        Who writes: name and version.
    cube
        Name of the cube's file.
    origin_ns
        Where the third column is zero, ns UTC; by default the first row's logging time.

    Raises
    ------
    ValueError
        Rows of another type or shape.
    """
    if rows.dtype != ROW or rows.ndim != 1:
        raise ValueError(f"rows of type {rows.dtype} and shape {rows.shape} are no frame table")
    origin = origin_ns if origin_ns is not None else int(rows["LTIME"][0]) if len(rows) else 0
    usual = _usual_lines(rows, origin)
    if usual is not None:
        return _heading(program, cube) + usual
    counters = rows["CNT0"].tolist()
    values: list[Iterable[Any]] = [range(len(rows)), counters]
    formats = ["%10d", "%10d"]
    for times, width, digits in (
        (rows["LTIME"] - origin, 15, 9), (rows["LTIME"], 20, 9), (rows["ATIME"], 17, 6),
    ):  # fmt: skip
        whole, fraction, code = _seconds(times, digits)
        values += [whole, fraction]
        formats.append(f"%{width - 1 - digits}{code}.%0{digits}d")
    values += [counters, rows["CNT1"].tolist()]
    # As printf does, a number wider than its column pushes the rest of its line to the right.
    line = "{}  {}  {}   {}  {}   {}   {}\n".format(*formats, "%10d", "%10d")
    flat = tuple(value for row in zip(*values, strict=True) for value in row)
    return _heading(program, cube) + ((line * len(rows)) % flat).encode("ascii")


def _usual_lines(rows: Rows, origin: int) -> bytes | None:
    """Return the lines of rows without a negative time or a number wider than its column.

    Digits of all rows at once: ten times as fast as to format them. None for other rows.
    """
    times = np.stack([rows["LTIME"] - origin, rows["LTIME"], rows["ATIME"]])
    counts = np.stack([np.arange(len(rows), dtype=np.uint64), rows["CNT0"], rows["CNT1"]])
    if not len(rows) or times.min() < 0 or times[0].max() >= 10**5 * NS_PER_S \
            or counts.max() >= 10**10:  # fmt: skip
        return None
    seconds = times // NS_PER_S
    rest = times - seconds * NS_PER_S
    text = np.full((len(rows), _LINE_BYTES), ord(" "), np.uint8)
    text[:, -1] = ord("\n")
    values = (counts[0], counts[1], *seconds, counts[1], counts[2])
    decimals = (None, None, rest[0], rest[1], rest[2] // 1000, None, None)
    at = 0
    for (gap, width, digits), whole, fraction in zip(_LAYOUT, values, decimals, strict=True):
        at += gap + width
        _put_digits(text[:, at - width : at], whole)
        _blank_leading(text[:, at - width : at], whole)
        if fraction is not None:
            text[:, at] = ord(".")
            _put_digits(text[:, at + 1 : at + 1 + digits], fraction)
            at += 1 + digits
    return text.tobytes()


def _put_digits(field: npt.NDArray[np.uint8], values: npt.NDArray[Any]) -> None:
    """Write numbers that are not negative and fit, with leading zeros, (n, digits)."""
    end = field.shape[1]
    if values.max() < 1 << 32:
        values = values.astype(np.uint32)
    while end > 0:
        size = min(4, end)
        values, group = np.divmod(values, values.dtype.type(10_000))
        field[:, end - size : end] = _FOUR_DIGITS[group, 4 - size :]
        end -= size


def _blank_leading(field: npt.NDArray[np.uint8], values: npt.NDArray[Any]) -> None:
    """Make leading zeros spaces; the last digit stays."""
    least, width = int(values.min()), field.shape[1]
    for digits in range(1, width):
        if least < 10**digits:
            field[values < 10**digits, width - 1 - digits] = ord(" ")


def _heading(program: str, cube: str) -> bytes:
    for_cube = f" for {cube}" if cube else ""
    lines = ("Telemetry stream timing data", f"File written by {program}{for_cube}", "")
    text = "".join(f"# {printable(line)}\n" for line in (*lines, *_COLUMNS, ""))
    return text.encode("ascii")


def _seconds(times: npt.NDArray[np.int64], digits: int) -> tuple[list[Any], list[int], str]:
    """Return whole seconds, decimals, and the letter of the format of the seconds."""
    scale = 10 ** (9 - digits)
    if (times >= 0).all():
        whole = times // NS_PER_S
        fraction = times - whole * NS_PER_S
        return whole.tolist(), (fraction // scale).tolist(), "d"
    # -0.5 s has no whole seconds to carry the sign; a text has.
    values = times.tolist()
    signs = ["-" if value < 0 else "" for value in values]
    pairs = [divmod(abs(value) // scale, 10**digits) for value in values]
    texts = [f"{sign}{whole}" for sign, (whole, _) in zip(signs, pairs, strict=True)]
    return texts, [fraction for _, fraction in pairs], "s"


def read_timing_text(path: Path) -> TimingText:
    """Return the rows of a text file, this module's or an older one.

    A last line without its line end is left out: nobody can tell what is missing from it.

    Raises
    ------
    StorageError
        The file cannot be read, or a line before the last is not of six or seven numbers.
    """
    try:
        text = path.read_bytes().decode("latin-1")
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}", path=str(path)) from error
    body, _, rest = text.rpartition("\n")
    quick = None if rest.strip() else _aligned(body)
    if quick is not None:
        return quick
    lines = body.split("\n")
    # After a crash a file may end in zeros that were never written: cut there, too.
    cut_at = next((i for i, line in enumerate(lines) if "\0" in line), len(lines))
    is_cut = bool(rest.strip()) or cut_at < len(lines)
    try:
        rows = list(_parse(lines[:cut_at]))
        array = np.array([row for _, row in rows], TIMING)
    except (ValueError, ArithmeticError) as error:
        raise StorageError(f"{path}: not a timing file: {error}", path=str(path)) from None
    counts = {count for count, _ in rows}
    if len(counts) > 1:
        raise StorageError(
            f"{path}: not a timing file: lines of six and of seven columns", path=str(path)
        )
    return TimingText(array, counts.pop() if counts else 0, is_cut)


def _aligned(body: str) -> TimingText | None:
    """Return the rows of a file whose lines are all of one width, as writers make them.

    All rows at once, a few hundred thousand a second and more; None where anything is out of
    column, and the lines must be read one by one.
    """
    first = 0
    while body.startswith("#", first):
        end = body.find("\n", first)
        if end < 0:
            return None
        first = end + 1
    data = np.frombuffer(body.encode("latin-1") + b"\n", np.uint8)[first:]
    width = body.find("\n", first) + 1 - first
    if width < 8 or len(data) % width:
        return None
    table = data.reshape(-1, width)
    fields = list(re.finditer(r" *\S+", body[first : first + width - 1]))
    if len(fields) not in (6, 7) or (table[:, -1] != ord("\n")).any():
        return None
    columns = [_numbers(table[:, slice(*field.span())]) for field in fields]
    if len(columns) == 6:
        columns.insert(4, np.zeros(len(table), np.int64))
    rows = np.empty(len(table), TIMING)
    for name, column in zip(TIMING.names or (), columns, strict=True):
        is_time = name in ("SINCE", "LTIME", "ATIME")
        value, decimals = column if isinstance(column, tuple) else (column, 0)
        if value is None or decimals > (9 if is_time else 0):
            return None
        rows[name] = value * 10 ** (9 - decimals) if is_time else value
    return TimingText(rows, len(fields), False)


def _numbers(texts: npt.NDArray[np.uint8]) -> Any:
    """Return integers of right-aligned texts (n, width), with the decimals where there is a point.

    None where one is not of blanks, digits and a point in the same place as in the others.
    """
    points = np.flatnonzero(texts[0] == ord("."))
    if len(points) > 1 or (len(points) and (texts[:, points[0]] != ord(".")).any()):
        return None
    decimals = texts.shape[1] - 1 - int(points[0]) if len(points) else 0
    kept = np.delete(texts, points, axis=1) if len(points) else texts
    if kept.shape[1] - int((kept == ord(" ")).all(axis=0).sum()) > 18 + (decimals > 0):
        return None  # more digits than 64 bits hold
    digits = kept - np.uint8(ord("0"))
    blank = kept == ord(" ")
    if ((digits > 9) & ~blank).any() or (blank[:, 1:] & ~blank[:, :-1]).any():
        return None
    value = np.zeros(len(kept), np.int64)
    for index in range(kept.shape[1]):
        value *= 10
        value += np.where(blank[:, index], 0, digits[:, index])
    return (value, decimals) if len(points) else value


def _parse(lines: list[str]) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Yield the columns and the values of every line; ValueError names a line that is wrong."""
    for number, line in enumerate(lines, start=1):
        fields = line.partition("#")[0].split()
        if not fields:
            continue
        count = len(fields)
        if count == 6:
            fields.insert(4, "0")
        try:
            frame, main, since, logged, acquired, cnt0, cnt1 = fields
            times = tuple(int(Decimal(text).scaleb(9)) for text in (since, logged, acquired))
            yield count, (int(frame), int(main), *times, int(cnt0), int(cnt1))
        except (ValueError, ArithmeticError):
            raise ValueError(f"line {number}: {line[:80]!r}") from None
