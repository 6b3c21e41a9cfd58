# SPDX-License-Identifier: BSD-3-Clause
"""Names of cubes and of the folders that they lie in; and the settings of a logging session."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nightjar.errors import InvalidArgument
from nightjar.fits.cards import Card as FitsCard
from nightjar.fits.writer import STRUCTURAL
from nightjar.times import NS_PER_DAY, iso, observing_night

Card = tuple[str | int | float | bool, str]
LONGEST_PATH = 4000  # of PATH_MAX, with room for what is added to a temporary name
LONGEST_NAME = 220  # of NAME_MAX, likewise
_LOCAL_NAME = re.compile(r"[A-Z0-9_]{0,4}\Z")


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
    stamps
        What the stream's times are: "utc"; or "tai", as milk stamps where the kernel knows the
        offset: they are converted.
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
    stamps: Literal["utc", "tai"] = "utc"
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
        _check(settings)
        return settings


def _check(settings: LogSettings) -> None:
    """Raise InvalidArgument for what would fail, or mean nothing, when the first cube ends."""
    cube_frames, root = settings.cube_frames, settings.root
    if type(cube_frames) is not int or cube_frames < 1:
        raise InvalidArgument(f"cube_frames: {cube_frames!r}: must be a whole number from 1")
    if not isinstance(root, str) or not root.startswith("/") or "\0" in root:
        raise InvalidArgument(f"root: {root!r}: must be an absolute path")
    for key, allowed in (("names", ("dated", "clock")), ("folders", ("ut", "night", "flat")),
                         ("stamps", ("utc", "tai"))):  # fmt: skip
        if getattr(settings, key) not in allowed:
            raise InvalidArgument(f"{key}: {getattr(settings, key)!r}: is one of {allowed}")
    for key in ("noon_utc_hours", "local_offset_hours", "minimum_free_bytes",
                "session_seconds", "max_cube_seconds"):  # fmt: skip
        value = getattr(settings, key)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is None and key in ("session_seconds", "max_cube_seconds"):
            continue
        if not is_number or not math.isfinite(value):
            raise InvalidArgument(f"{key}: {value!r}: must be a number")
    if settings.max_cube_seconds is not None and settings.max_cube_seconds <= 0:
        raise InvalidArgument(f"max_cube_seconds: {settings.max_cube_seconds}: must be above 0")
    if not _LOCAL_NAME.match(str(settings.local_name)):
        raise InvalidArgument(
            f"local_name: {settings.local_name!r}: at most 4 of A-Z, 0-9 and '_', as in HST"
        )
    if settings.data_type is not None and not isinstance(settings.data_type, str):
        raise InvalidArgument(f"data_type: {settings.data_type!r}: must be a text")
    for name, card in settings.cards.items():
        try:
            value, comment = card
            FitsCard(name, value, comment).to_bytes()
        except (TypeError, ValueError, AttributeError) as error:
            raise InvalidArgument(f"cards: {name!r}: {error}") from None
        if name in STRUCTURAL or name.startswith("NAXIS") or name in ("", "COMMENT", "HISTORY"):
            raise InvalidArgument(f"cards: {name!r} is not for a configuration to set")


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
