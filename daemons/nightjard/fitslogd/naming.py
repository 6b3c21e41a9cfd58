# SPDX-License-Identifier: BSD-3-Clause
"""Names of cubes and of the folders that they lie in; and the settings of a logging session."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nightjar.errors import InvalidArgument
from nightjar.times import NS_PER_DAY, iso, observing_night

Card = tuple[str | int | float | bool, str]
LONGEST_PATH = 4000  # of PATH_MAX, with room for what is added to a temporary name
LONGEST_NAME = 220  # of NAME_MAX, likewise


@dataclass(frozen=True)
class LogSettings:
    """How a stream is logged.

    Attributes
    ----------
    root
        Folder below which the days lie.
    cube_frames
        Frames of a full cube.
    names
        "dated": ``vcam1_20260611T031500.123456789.fits``; "clock":
        ``vcam1_03:15:00.123456789.fits``, as milk-streamFITSlog names them.
    folders
        "ut": ``root/YYYYMMDD/stream`` by UTC day; "night": by observing night; "flat": `root`.
    noon_utc_hours
        UTC hour at which an observing night begins.
    compress
        Rice tiles, one a frame.
    text
        Write the seven-column text beside each cube.
    fsync
        Have each cube on the disk before it gets its name.
    data_type
        Overrides the stream's keyword DATA-TYP; None leaves it.
    cards
        Static cards: keyword to (value, comment).
    session_seconds
        For the space check when the session has no other end.
    max_cube_seconds
        Longest time from a cube's first frame to its close; None for none.
    minimum_free_bytes
        Space below which no cube is begun.
    local_name, local_offset_hours
        The local time of the header's UT-like cards: ``HST`` is UTC - 10 h.
    """

    root: str
    cube_frames: int
    names: Literal["dated", "clock"] = "dated"
    folders: Literal["ut", "night", "flat"] = "ut"
    noon_utc_hours: float = 12.0
    compress: bool = False
    text: bool = True
    fsync: bool = True
    data_type: str | None = None
    cards: dict[str, Card] = field(default_factory=dict)
    session_seconds: float | None = None
    max_cube_seconds: float | None = None
    minimum_free_bytes: int = 1_000_000_000
    local_name: str = "HST"
    local_offset_hours: float = -10.0

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> LogSettings:
        """Return the settings of a JSON object.

        Raises
        ------
        InvalidArgument
            A key that is not known, or a value that cannot be.
        """
        known = {each.name for each in dataclasses.fields(cls)}
        unknown = sorted(set(value) - known)
        if unknown:
            raise InvalidArgument(f"no such setting: {', '.join(unknown)}")
        try:
            settings = cls(**value)
        except TypeError as error:
            raise InvalidArgument(f"settings of the logger: {error}") from None
        if settings.cube_frames < 1:
            raise InvalidArgument(f"cube_frames: {settings.cube_frames}: must be at least 1")
        if not settings.root.startswith("/"):
            raise InvalidArgument(f"root: {settings.root!r}: must be an absolute path")
        return settings


def cube_folder(settings: LogSettings, stream: str, utc_ns: int) -> Path:
    """Return the folder of a cube whose first frame was taken then."""
    root = Path(settings.root)
    if settings.folders == "flat":
        return root
    if settings.folders == "night":
        day = observing_night(utc_ns, settings.noon_utc_hours)
    else:
        day = iso(utc_ns, 0)[:10].replace("-", "")
    return root / day / stream


def cube_name(settings: LogSettings, stream: str, utc_ns: int) -> str:
    """Return the name of a cube whose first frame was taken then."""
    stamp = iso(utc_ns, 9)
    if settings.names == "clock":
        text = stamp[11:]
    else:
        text = stamp.replace("-", "").replace(":", "")
    return f"{stream}_{text}.fits{'.fz' if settings.compress else ''}"


def other_name(path: Path, number: int) -> Path:
    """Return another name for a cube whose own is taken: nothing is ever overwritten."""
    stem, dot, rest = path.name.partition(".fits")
    return path.with_name(f"{stem}-{number}{dot}{rest}")


def clock_text(utc_ns: int, offset_hours: float = 0.0) -> str:
    """Return ``HH:MM:SS.SS`` of a time of day, rounded to a hundredth (never 60.00)."""
    shifted = utc_ns + round(offset_hours * 3600e9)
    hundredths = ((shifted + 5_000_000) // 10_000_000) % (NS_PER_DAY // 10_000_000)
    seconds, hundredths = divmod(hundredths, 100)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}.{hundredths:02d}"
