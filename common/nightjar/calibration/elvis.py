# SPDX-License-Identifier: BSD-3-Clause
"""Versions of the acquisition software ELVIS: the columns of its logs and housekeeping, as data.

One file a version in ``etc/calib/elvis``. Software of other sites describes itself the same way.
"""

from __future__ import annotations

import datetime as dt
import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from nightjar.calibration.detector import described, described_names
from nightjar.config.load import StrictModel, load
from nightjar.errors import ConfigError
from nightjar.times import NS_PER_S

LATEST = "7.5.X"
PIVOT = 70
"""Two-digit years below are 20yy, others 19yy: logs of 2020 and later are dated right, and so are
those of computers whose clock had started at 1980."""

Kind = Literal["int", "float", "str"]
Value = int | float | str | None
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_STAMP = re.compile(r"(\d{2})(\d{2})(\d{2})D(\d{2})(\d{2})(\d{2})T\Z", re.ASCII)


class ElvisVersion(StrictModel):
    """What one version writes."""

    version: str = Field(min_length=1, max_length=20)
    log: dict[str, Kind] = Field(min_length=1, description="Columns of the log in order, and type.")
    housekeeping: tuple[str, ...] = Field(
        (), strict=False, description="Columns of housekeeping in order; empty where not known."
    )
    script_keys: dict[str, str] = Field(
        default_factory=dict,
        description="Column of the log -> key of the script, where they differ.",
    )

    @model_validator(mode="after")
    def _check(self) -> ElvisVersion:
        if len(set(self.housekeeping)) != len(self.housekeeping):
            raise ValueError("a housekeeping column comes twice")
        if self.housekeeping and self.housekeeping[0] != "TimeStamp":
            raise ValueError("the first housekeeping column is TimeStamp")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the log, in order."""
        return tuple(self.log)


def known_versions() -> tuple[str, ...]:
    """Return the versions that are described, sorted."""
    return tuple(described_names("elvis"))


def load_elvis(version: str = LATEST) -> ElvisVersion:
    """Return the description of a version.

    Raises
    ------
    ConfigError
        It is not described, or its description is not valid.
    """
    path = described("elvis", version)
    if path is not None:
        return _load(path, path.stat().st_mtime_ns)
    raise ConfigError(
        f"no ELVIS version {version!r}; described are: {', '.join(known_versions()) or 'none'}"
    )


@functools.cache
def _load(path: Path, _changed_ns: int) -> ElvisVersion:
    return load(path, ElvisVersion)


def versions_of_log(columns: Sequence[str]) -> tuple[str, ...]:
    """Return the versions whose log has exactly these columns."""
    wanted = [plain(name) for name in columns]
    return tuple(
        version
        for version in known_versions()
        if [plain(name) for name in load_elvis(version).columns] == wanted
    )


def versions_of_housekeeping(columns: Sequence[str]) -> tuple[str, ...]:
    """Return the versions whose housekeeping has exactly these columns, in any order."""
    return tuple(
        version
        for version in known_versions()
        if load_elvis(version).housekeeping
        and set(load_elvis(version).housekeeping) == set(columns)
    )


def plain(name: str) -> str:
    """Return a column name as it is compared: no blanks, small letters."""
    return "".join(name.split()).lower()


# --- times as ELVIS writes them ---


def full_year(two_digits: int) -> int:
    """Return the year of its last two digits; see :data:`PIVOT`."""
    return two_digits + (2000 if two_digits < PIVOT else 1900)


def utc(utc_ns: int) -> dt.datetime:
    """Return the date and time, cut to whole seconds."""
    return _EPOCH + dt.timedelta(seconds=utc_ns // NS_PER_S)


def stamp(utc_ns: int) -> str:
    """Return ``ddmmyyDhhmmssT``."""
    return utc(utc_ns).strftime("%d%m%yD%H%M%ST")


def parse_stamp(text: str) -> int:
    """Return nanoseconds UTC of ``ddmmyyDhhmmssT``.

    Raises
    ------
    ValueError
        Not of that form, or no such day or time.
    """
    match = _STAMP.match(text.strip())
    if match is None:
        raise ValueError(f"not a time of the form ddmmyyDhhmmssT: {text!r}")
    day, month, year, hour, minute, second = (int(part) for part in match.groups())
    return as_ns(dt.datetime(full_year(year), month, day, hour, minute, second, tzinfo=dt.UTC))


def as_ns(moment: dt.datetime) -> int:
    """Return nanoseconds UTC of a time."""
    return (moment - _EPOCH) // dt.timedelta(microseconds=1) * 1000


# --- values of a script as the log names them ---


def phases(values: Mapping[str, object]) -> str:
    """Return the integration phases of a script as the log writes them: ``I1I2I3``."""
    return "".join(
        f"I{n}" for n in range(1, 5) if str(values.get(f"IPHI{n}", 0)) not in ("0", "0.0")
    )


def log_values(values: Mapping[str, int | float | str], version: ElvisVersion) -> dict[str, Value]:
    """Return the columns of the log that a script commands, typed as the log types them.

    Parameters
    ----------
    values
        Keys of the script, resolved.
    version
        Gives names and types.
    """
    found: dict[str, Value] = {}
    for column, kind in version.log.items():
        key = version.script_keys.get(column, column)
        if column == "IPHI":
            found[column] = phases(values)
        elif key in values:
            found[column] = typed(values[key], kind)
    return found


def typed(value: object, kind: Kind) -> Value:
    """Return a value as a column types it; None for an empty text.

    Raises
    ------
    ValueError
        It is no number where the column holds numbers.
    """
    text = str(value).strip()
    if kind == "str":
        return text
    if text == "":
        return None
    if kind == "float":
        return float(text)
    try:
        return int(text)
    except ValueError:
        number = float(text)
        if number != int(number):
            raise ValueError(f"{text!r} is not a whole number") from None
        return int(number)
