# SPDX-License-Identifier: BSD-3-Clause
"""Names of products, as the reduction programs downstream expect them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from nightjar.times import NS_PER_DAY, NS_PER_S, iso, parse_iso

_MJD_EPOCH = 40_587  # MJD of 1970-01-01
_HOUR_NS = 3600 * NS_PER_S

_CLOCK = re.compile(r"_(?:(\d{8})T)?(\d\d):?(\d\d):?(\d\d)(?:\.(\d{1,9}))?\Z", re.ASCII)


def clock(utc_ns: int) -> str:
    """Return ``HH:MM:SS.ffffff``."""
    return iso(utc_ns, 6)[11:]


def title(prefix: str, time_ns: int) -> str:
    """Return what siblings have in common: ``vsync_HH:MM:SS.ffffff``, ``vcam1_HH:MM:SS.ffffff``."""
    return f"{prefix}_{clock(time_ns)}"


def member(title: str, camera: int, state: str) -> str:
    """Return ``TITLE.cam1.A``; camera 0 and an empty state are left out."""
    return ".".join(part for part in (title, f"cam{camera}" if camera else "", state) if part)


def bad_name(path: str) -> str:
    """Return the name of the product of a cube whose times or exposure are not known."""
    return f"{stem(path)}.bad"


def stem(path: str) -> str:
    """Return the name of a raw file without its folders and endings."""
    return PurePosixPath(path).name.removesuffix(".fz").removesuffix(".fits")


def name_time(night: str, path: str) -> int:
    """Return the UTC (ns) that a raw file's name tells of; 0 where it tells of none.

    Parameters
    ----------
    night
        ``YYYYMMDD``: names like ``vcam1_HH:MM:SS.nnnnnnnnn`` have no date.
    """
    match = _CLOCK.search(stem(path))
    if match is None:
        return 0
    date, hour, minute, second, fraction = match.groups()
    day = date or night
    text = f"{day[:4]}-{day[4:6]}-{day[6:]}T{hour}:{minute}:{second}.{fraction or '0'}"
    try:
        return parse_iso(text)
    except ValueError:
        return 0


def told_times(night: str, path: str, header: Mapping[str, Any]) -> tuple[int, int]:
    """Return UTC (ns) of the first and the last frame of a cube by its name and header; 0: unknown.

    A name has no date, and half of a night lies after midnight: the header says which day. Where
    it contradicts the name by hours (a name in local time) it is believed alone.
    """
    begin, end = (_mjd_ns(header.get(keyword)) for keyword in ("MJD-STR", "MJD-END"))
    named = name_time(night, path)
    if named and begin:
        named += round((begin - named) / NS_PER_DAY) * NS_PER_DAY
        if abs(begin - named) < _HOUR_NS:
            begin = named
    begin = begin or named
    return begin, max(begin, end)


def _mjd_ns(value: object) -> int:
    if not isinstance(value, (int, float)) or not _MJD_EPOCH < value < 100_000:
        return 0
    days = int(value)
    return (days - _MJD_EPOCH) * NS_PER_DAY + round((value - days) * NS_PER_DAY)
