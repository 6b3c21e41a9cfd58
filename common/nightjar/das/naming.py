# SPDX-License-Identifier: BSD-3-Clause
"""Names of minute files: MMMM is the UT minute of the day, 0000 to 1439."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from nightjar.clock import NS_PER_S
from nightjar.errors import InvalidArgument

MINUTES_PER_DAY = 1440
MINUTE_NS = 60 * NS_PER_S
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RAW = re.compile(r"raw_(\d{6})_(\d{4})\.bin\Z")
_HOUSEKEEPING = re.compile(r"enc_(\d{6})_(\d{4})\.jsonl\Z")
_RPC = re.compile(r"(\d{8})_(\d{4})_rpc\.bin\Z")
_POINTING = re.compile(r"(\d{4})\Z")


def day_of(utc_ns: int) -> str:
    """Return the UT day as YYYYMMDD."""
    return f"{_EPOCH + timedelta(seconds=utc_ns // NS_PER_S):%Y%m%d}"


def minute_of(utc_ns: int) -> int:
    """Return the UT minute of the day, 0 to 1439."""
    return utc_ns // MINUTE_NS % MINUTES_PER_DAY


def minute_start_ns(day: str, minute: int) -> int:
    """Return when a minute of a day begins, ns UTC.

    Raises
    ------
    InvalidArgument
        No such day or minute.
    """
    try:
        midnight = datetime.strptime(day, "%Y%m%d").replace(tzinfo=UTC)
    except ValueError:
        raise InvalidArgument(f"day {day!r}: must be a UT day as YYYYMMDD") from None
    if len(day) != 8 or not 0 <= minute < MINUTES_PER_DAY:
        raise InvalidArgument(f"day {day!r}, minute {minute}: must be YYYYMMDD and 0 to 1439")
    return (midnight - _EPOCH) // timedelta(seconds=1) * NS_PER_S + minute * MINUTE_NS


def raw_path(root: Path, utc_ns: int) -> Path:
    """Return the raw file of the minute that holds a time."""
    day = day_of(utc_ns)
    return root / day / f"raw_{day[2:]}_{minute_of(utc_ns):04d}.bin"


def index_path(raw: Path) -> Path:
    """Return the sidecar of a raw file."""
    return raw.with_suffix(".idx")


def pointing_path(root: Path, utc_ns: int) -> Path:
    """Return the pointing log of the minute that holds a time."""
    return root / day_of(utc_ns) / f"{minute_of(utc_ns):04d}"


def housekeeping_path(root: Path, utc_ns: int) -> Path:
    """Return the housekeeping file of the minute that holds a time."""
    day = day_of(utc_ns)
    return root / day / f"enc_{day[2:]}_{minute_of(utc_ns):04d}.jsonl"


def raw_start_ns(path: Path) -> int | None:
    """Return the start of a raw file's minute by its name and folder; None for other names."""
    return _start_ns(path, _RAW)


def housekeeping_start_ns(path: Path) -> int | None:
    """Return the start of a housekeeping file's minute; None for other names."""
    return _start_ns(path, _HOUSEKEEPING)


def pointing_start_ns(path: Path) -> int | None:
    """Return the start of a pointing log's minute by its name and its folder's; None for others."""
    match = _POINTING.match(path.name)
    if match is None:
        return None
    try:
        return minute_start_ns(path.parent.name, int(match[1]))
    except InvalidArgument:
        return None


def rpc_start_ns(path: Path) -> int | None:
    """Return the start of the minute of an old file of telescope records; None for other names."""
    match = _RPC.match(path.name)
    if match is None:
        return None
    try:
        return minute_start_ns(match[1], int(match[2]))
    except InvalidArgument:
        return None


def _start_ns(path: Path, pattern: re.Pattern[str]) -> int | None:
    match = pattern.match(path.name)
    if match is None:
        return None
    # The name has two digits of the year only: the folder tells the century, or else it is ours.
    folder = path.parent.name
    day = folder if re.fullmatch(r"\d{8}", folder) and folder[2:] == match[1] else "20" + match[1]
    try:
        return minute_start_ns(day, int(match[2]))
    except InvalidArgument:
        return None


def minutes_in(folder: Path, start_ns: Callable[[Path], int | None]) -> dict[int, Path]:
    """Return the minute files of a day's folder: start of the minute, ns UTC -> file.

    Parameters
    ----------
    folder
        May be missing: then there are none.
    start_ns
        One of this module's that know a name.
    """
    try:
        paths = sorted(folder.iterdir())
    except FileNotFoundError:
        return {}
    found = {}
    for path in paths:
        start = start_ns(path)
        if start is not None:
            found[start] = path
    return found
