# SPDX-License-Identifier: BSD-3-Clause
"""Scripts as workbooks: the layout that the acquisition software reads, and back again.

One sheet without header: column A has the keys, each further column is a column of the script, the
last one has ``End`` in the first row. The row ``frames`` counts on through the columns. The bytes
of a workbook depend on its contents and the time given alone: nothing says when it was written.
"""

from __future__ import annotations

import datetime as dt
import io
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nightjar.calibration.script import KEY_TABLE, KEYS, Column, Script, Value
from nightjar.errors import ConfigError, InvalidArgument, NightjarError, StorageError

_MODIFIED = re.compile(rb"(<dcterms:modified[^>]*>)[^<]*")
_MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
_FILE_NAME = re.compile(
    r"vis_CalCamp_(?P<test>[A-Za-z0-9_.]+)_(?P<date>\d\d[A-Z][a-z]{2}\d\d)_v(?P<elvis>.+)\.xlsx\Z"
)
_DATE = re.compile(r"(\d\d)([A-Z][a-z]{2})(\d\d)\Z")
_EPOCH = dt.datetime(1970, 1, 1)  # UTC throughout, without zone as workbooks want it
Cell = str | int | float | None


# --- names --------------------------------------------------------------------------------------


def date_stamp(utc_ns: int) -> str:
    """Return the day as file names have it: ``01Apr19``."""
    day = _moment(utc_ns)
    return f"{day.day:02d}{_MONTHS[day.month - 1]}{day.year % 100:02d}"


def time_stamp(utc_ns: int) -> str:
    """Return day and time as inventories have it: ``01Apr19 12:56:31``, UTC."""
    return f"{date_stamp(utc_ns)} {_moment(utc_ns):%H:%M:%S}"


def parse_date_stamp(text: str) -> int:
    """Return the beginning of a day such as ``01Apr19``, ns UTC; years are 2000 to 2099."""
    match = _DATE.match(text)
    if match is None or match[2] not in _MONTHS:
        raise InvalidArgument(f"{text!r} is not a day such as 01Apr19")
    try:
        day = dt.datetime(2000 + int(match[3]), _MONTHS.index(match[2]) + 1, int(match[1]))
    except ValueError as error:
        raise InvalidArgument(f"{text!r}: {error}") from error
    return (day - _EPOCH) // dt.timedelta(seconds=1) * 10**9


def script_name(test: str, utc_ns: int, elvis: str) -> str:
    """Return the file name of a script."""
    return f"vis_CalCamp_{test}_{date_stamp(utc_ns)}_v{elvis}.xlsx"


def parse_script_name(name: str) -> tuple[str, str, str] | None:
    """Return test, day and version of the acquisition software; None for another file."""
    match = _FILE_NAME.match(name)
    return (match["test"], match["date"], match["elvis"]) if match else None


def _moment(utc_ns: int) -> dt.datetime:
    return _EPOCH + dt.timedelta(seconds=utc_ns // 10**9)


# --- writing ------------------------------------------------------------------------------------


def workbook_bytes(
    sheets: Mapping[str, Sequence[Iterable[Cell]]], utc_ns: int, **properties: str
) -> bytes:
    """Return a workbook of plain cells that is the same whenever it is written.

    Parameters
    ----------
    sheets
        Name to rows; texts stay texts, also those that begin with ``=``.
    utc_ns
        Told as the time of its making.
    properties
        Of the document: title, subject, version ...
    """
    import openpyxl  # a quarter of a second that reading a catalogue need not pay

    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for number, row in enumerate(rows, 1):
            for position, value in enumerate(row, 1):
                if value is None:
                    continue
                cell = sheet.cell(number, position, value)
                if isinstance(value, str):
                    cell.data_type = "s"  # never a formula
    moment = _moment(utc_ns)
    book.properties.creator = "nightjar"
    book.properties.created = moment
    for key, value in properties.items():
        setattr(book.properties, key, value)
    buffer = io.BytesIO()
    book.save(buffer)
    return _with_fixed_times(buffer, moment)


def _with_fixed_times(buffer: io.BytesIO, moment: dt.datetime) -> bytes:
    """Write an archive again with one time for all members, not packed.

    Packed bytes differ between versions of zlib.
    """
    stamp = (max(moment.year, 1980), *moment.timetuple()[1:6])
    text = f"{moment:%Y-%m-%dT%H:%M:%SZ}".encode()
    result = io.BytesIO()
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(result, "w") as new:
        for member in old.infolist():
            data = old.read(member)
            if member.filename == "docProps/core.xml":
                data, count = _MODIFIED.subn(rb"\g<1>" + text, data)
                if count != 1:
                    raise StorageError("a workbook without time of change: another openpyxl?")
            info = zipfile.ZipInfo(member.filename, stamp)
            info.create_system = 3
            info.external_attr = 0o600 << 16
            new.writestr(info, data, zipfile.ZIP_STORED)
    return result.getvalue()


def script_rows(script: Script) -> list[list[Cell]]:
    """Return the cells of a script, row by row."""
    counts: list[Cell] = []
    total = 0
    for column in script.columns:
        total += column.frames
        counts.append(total)
    rows: list[list[Cell]] = [["frames", *counts, "End"]]
    rows += [
        [key, *(column.values[key] for column in script.columns)] for key in KEYS if key != "frames"
    ]
    return rows


def script_bytes(script: Script, utc_ns: int) -> bytes:
    """Return the workbook of a script."""
    return workbook_bytes(
        {"Sheet1": script_rows(script)}, utc_ns,
        title=script.test, subject=script.handle, version=script.elvis,
    )  # fmt: skip


# --- reading ------------------------------------------------------------------------------------


def read_script(path: Path, handle: str | None = None) -> Script:
    """Return the script of a workbook.

    Parameters
    ----------
    handle
        Its name in the catalogue; default what the workbook says, else what the full catalogue
        has for the test.

    Raises
    ------
    ConfigError
        It is no such workbook, or a key is missing, unknown, or has a value that is not allowed.
    """
    rows, properties = _read_sheet(path)
    named = parse_script_name(path.name)
    columns = _columns(rows, path)
    test = str(columns[0].values["test"])
    for column in columns:
        if column.values["test"] != test:
            raise ConfigError(f"{path}: {column.name} is of the test {column.values['test']!r}, "
                              f"the first one of {test!r}")  # fmt: skip
    if named and named[0] != test:
        raise ConfigError(f"{path}: the script in it is of the test {test!r}")
    elvis = properties.version or (named[2] if named else "")
    return Script(test, handle or properties.subject or _handle_of(test), elvis, columns)


def _handle_of(test: str) -> str:
    from nightjar.calibration.catalogue import load_catalogue

    return load_catalogue().handle_of(test)


def _read_sheet(path: Path) -> tuple[list[tuple[Any, ...]], Any]:
    import openpyxl

    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # whatever it finds in a broken archive
        raise ConfigError(f"{path}: not a workbook: {error}", path=str(path)) from error
    try:
        rows = list(book.worksheets[0].iter_rows(values_only=True)) if book.worksheets else []
    except Exception as error:  # sheets are parsed only now
        raise ConfigError(f"{path}: not a workbook: {error}", path=str(path)) from error
    finally:
        book.close()
    return rows, book.properties


def _columns(rows: list[tuple[Any, ...]], path: Path) -> tuple[Column, ...]:
    table = {str(row[0]): row[1:] for row in rows if row and row[0] is not None}
    faults = [f"{path}: the key {key!r} is missing" for key in KEYS if key not in table]
    faults += [f"{path}: unknown key {key!r}" for key in table if key not in KEY_TABLE]
    counts = table.get("frames", ())
    if "End" not in counts:
        faults.append(f"{path}: frames: no End behind the last column")
    if faults:
        raise ConfigError("\n".join(faults), path=str(path), faults=len(faults))
    width = counts.index("End")
    columns = []
    last = 0
    for index in range(width):
        values, bad = _values(table, index, f"{path}: col{index + 1:03d}")
        faults += bad
        total = counts[index]
        if not isinstance(total, int) or total <= last:
            faults.append(f"{path}: col{index + 1:03d}: frames {total!r}: must be above {last}")
        else:
            columns.append(Column(f"col{index + 1:03d}", total - last, values))
            last = total
    if faults or not columns:
        raise ConfigError("\n".join(faults) or f"{path}: has no columns", path=str(path))
    return tuple(columns)


def _values(
    table: Mapping[str, Sequence[Any]], index: int, where: str
) -> tuple[dict[str, Value], list[str]]:
    values: dict[str, Value] = {}
    faults = []
    for key in KEYS[1:]:
        row = table[key]
        value = row[index] if index < len(row) else None
        if value is None and KEY_TABLE[key].kind == "text":
            value = ""
        try:
            values[key] = KEY_TABLE[key].check(value, f"{where}: {key}")
        except NightjarError as error:
            faults.append(error.message)
    return values, faults
