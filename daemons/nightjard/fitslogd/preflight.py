# SPDX-License-Identifier: BSD-3-Clause
"""What is looked at before a session, so that it does not fail in its first minute."""

from __future__ import annotations

import os
from pathlib import Path

from nightjar.errors import Code, Refused, StorageError
from nightjar.files import free_bytes, require_folder
from nightjar.fits.cube import CubeLayout
from nightjar.streams.layout import StreamGeometry
from nightjar.times import duration_text
from nightjar.units import bytes_text
from nightjard.fitslogd.naming import LONGEST_NAME, LONGEST_PATH, LogSettings, cube_name

_LEAST_SESSION_S = 60.0  # of frames, where nobody said how long it will be


def check_folder(settings: LogSettings, folder: Path) -> None:
    """Make the folder of the next cube and raise StorageError unless cubes can be made in it."""
    root = Path(settings.root)
    try:
        is_there = root.is_dir()
    except OSError as error:  # a folder on the way may not be entered
        raise StorageError(
            f"cannot look at {root}: {error.strerror}; give the daemon's user the right to",
            path=str(root),
        ) from error
    if not is_there:
        raise StorageError(
            f"the folder {root} does not exist; create it, or prepare with another", path=str(root)
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"cannot make {folder}: {error.strerror}; give the daemon's user the right to",
            path=str(folder),
        ) from error
    require_folder(folder, "logging")


def check_path(settings: LogSettings, folder: Path, stream: str) -> None:
    """Raise Refused where the names of cubes would be too long for a file system."""
    name = cube_name(settings, stream, 1_000_000_000_000_000_000)
    if len(os.fsencode(name)) > LONGEST_NAME or len(os.fsencode(folder)) > LONGEST_PATH:
        raise Refused(
            f"the names of cubes in {folder} would be too long for the file system; "
            f"choose a shorter folder",
            code=Code.OUT_OF_RANGE,
        )


def check_pixels(geometry: StreamGeometry, stream: str) -> None:
    """Raise Refused where FITS has no such pixels."""
    try:
        CubeLayout.make(geometry.frame_shape, geometry.dtype, 0)
    except ValueError as error:
        raise Refused(f"stream {stream} cannot be logged: {error}", code=Code.UNSUPPORTED) from None


def session_bytes(
    settings: LogSettings, frame_bytes: int, rate_hz: float | None, frames: int | None
) -> int:
    """Return the bytes that a session will at least need.

    Parameters
    ----------
    frames
        Asked for; None where it ends some other way: then what `session_seconds`, or a minute,
        brings at the present rate, and one cube at least.
    """
    if frames is None:
        span_s = settings.session_seconds or _LEAST_SESSION_S
        frames = max(settings.cube_frames, round((rate_hz or 0.0) * span_s))
    return frames * frame_bytes


def check_space(settings: LogSettings, folder: Path, needed: int) -> None:
    """Raise StorageError (NO_SPACE) where the session does not fit beside the reserve."""
    try:
        free = free_bytes(folder)
    except OSError as error:
        raise StorageError(
            f"cannot see how much room is left in {folder}: {error.strerror}", path=str(folder)
        ) from error
    if free - settings.minimum_free_bytes < needed:
        raise StorageError(
            f"not enough room in {folder}: {bytes_text(free)} free, the session needs "
            f"{bytes_text(needed)} beside the {bytes_text(settings.minimum_free_bytes)} kept free",
            code=Code.NO_SPACE, free_bytes=free, needed_bytes=needed, path=str(folder),
        )  # fmt: skip


def check_alive(stream: str, age_s: float | None, patience_s: float) -> str | None:
    """Return a warning where a stream does not move; None where it does."""
    if age_s is None:
        return f"stream {stream} has had no frame yet"
    if age_s > patience_s:
        return f"stream {stream} stands still: its last frame is {duration_text(age_s)} old"
    return None
