# SPDX-License-Identifier: BSD-3-Clause
"""UTC as integer nanoseconds, and the texts that FITS, people and folders use for it."""

from __future__ import annotations

import datetime as dt
import re

NS_PER_S = 1_000_000_000
NS_PER_DAY = 86_400 * NS_PER_S
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MJD_EPOCH = 40_587  # MJD of 1970-01-01
_ISO = re.compile(
    r"(\d{4})-(\d{2})-(\d{2})(?:[T ](\d{2}):(\d{2}):(\d{2})(?:\.(\d{1,9}))?)?Z?\Z", re.ASCII
)


def iso(utc_ns: int, digits: int = 6) -> str:
    """Return FITS-standard text, ``YYYY-MM-DDThh:mm:ss.ffffff``, truncated to `digits` (0..9)."""
    seconds, fraction = divmod(utc_ns, NS_PER_S)
    # Not strftime: it writes the year 999 with three digits.
    text = (_EPOCH + dt.timedelta(seconds=seconds)).replace(tzinfo=None).isoformat()
    return f"{text}.{fraction:09d}"[: 20 + digits] if digits else text


def parse_iso(text: str) -> int:
    """Return nanoseconds UTC of a FITS date or date-time text.

    Raises
    ------
    ValueError
        Not of the form ``YYYY-MM-DD[Thh:mm:ss[.fraction]]``, or no such day or time.
    """
    match = _ISO.match(text.strip())
    if match is None:
        raise ValueError(f"not a UTC time of the form YYYY-MM-DDThh:mm:ss.sss: {text!r}")
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
    # A leap second is the instant after 23:59:59, as POSIX counts it.
    leap = (hour, minute, second) == (23, 59, 60)
    moment = dt.datetime(year, month, day, hour, minute, 59 if leap else second, tzinfo=dt.UTC)
    fraction = int((match.group(7) or "").ljust(9, "0"))
    whole = (moment - _EPOCH) // dt.timedelta(seconds=1) + (1 if leap else 0)
    return whole * NS_PER_S + fraction


def mjd(utc_ns: int) -> float:
    """Return the modified Julian date (UTC); a float64 resolves about 0.6 us of it."""
    days, rest = divmod(utc_ns, NS_PER_DAY)
    return _MJD_EPOCH + days + rest / NS_PER_DAY


def mjd_text(utc_ns: int) -> str:
    """Return the modified Julian date with 11 decimals (0.9 us), by integer arithmetic."""
    scaled = _MJD_EPOCH * 10**11 + utc_ns * 10**11 // NS_PER_DAY
    days, fraction = divmod(abs(scaled), 10**11)
    return f"{'-' if scaled < 0 else ''}{days}.{fraction:011d}"


def observing_night(utc_ns: int, noon_utc_hours: float = 12.0) -> str:
    """Return the label ``YYYYMMDD`` of the night: the UTC date at its beginning.

    Parameters
    ----------
    utc_ns
        Time of the observation.
    noon_utc_hours
        The UTC hour at which one night ends and the next begins: local noon (12 at Greenwich).
    """
    shifted = utc_ns - round(noon_utc_hours * 3600 * NS_PER_S)
    date = (_EPOCH + dt.timedelta(days=shifted // NS_PER_DAY)).date()
    return date.isoformat().replace("-", "")


def file_stamp(utc_ns: int) -> str:
    """Return ``YYYYMMDDTHHMMSS.mmm``: sorts by time, has no colon."""
    return iso(utc_ns, 3).replace("-", "").replace(":", "")


def duration_text(seconds: float) -> str:
    """Return a span as people say it: ``3.2 s``, ``4 min 05 s``, ``2 h 13 min``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
