# SPDX-License-Identifier: BSD-3-Clause
"""Folders of cubes as loggers leave them, for what watches and reads them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from nightjar.files import temporary_name
from nightjar.fits.cards import Card
from nightjar.fits.frame_table import empty_rows, table_hdu
from nightjar.fits.writer import write_image
from nightjar.times import NS_PER_S

NOW_NS = 1_769_903_998 * NS_PER_S  # 2026-01-31T23:59:58
FULL: dict[str, Any] = {
    "OBJECT": "HD 1", "DATA-TYP": "DARK", "FRMEXP": 5, "NSAVED": 5, "NMISSED": 0, "NTORN": 0,
    "NDUP": 0, "CUBEEND": "full", "TRUNCATE": False, "FRATE": 60.0, "MFRATE": 57.03,
    "CUBE-NUM": 7, "SESSION": "S1", "DATE-BEG": "2026-01-31T23:00:00.000000",
    "MJD-STR": 61071.0, "MJD-END": 61071.0001,
}  # fmt: skip


def cube(
    folder: Path, name: str, *, age_s: float = 0.0, frames: int = 5, has_table: bool = True,
    **cards: Any,
) -> Path:  # fmt: skip
    """Write a cube (frames, 4, 6) of uint16 that was finished `age_s` before :data:`NOW_NS`."""
    path = folder / name
    values = {**FULL, "NSAVED": frames, **{key.replace("_", "-"): v for key, v in cards.items()}}
    header = [Card(key, value) for key, value in values.items() if value is not None]
    write_image(path, np.zeros((frames, 4, 6), np.uint16), header, fsync=False)
    if has_table:
        with path.open("ab") as file:
            file.write(table_hdu(empty_rows(frames)))
    made_at(path, age_s)
    return path


def made_at(path: Path, age_s: float) -> None:
    """Set the time of a file's last change."""
    moment_ns = NOW_NS - round(age_s * NS_PER_S)
    os.utime(path, ns=(moment_ns, moment_ns))


def changed(folder: Path, now_ns: int) -> None:
    """Give a folder the time of a change just made at a test's own time.

    The kernel's clock ticks every few milliseconds: two changes of a quick test may have one time.
    """
    os.utime(folder, ns=(now_ns, now_ns))


def unfinished(folder: Path, name: str, size: int, *, age_s: float = 0.0) -> Path:
    """Write the first bytes of a file under the name that a logger gives it."""
    path = temporary_name(folder / name, 4242)
    path.write_bytes(bytes(size))
    made_at(path, age_s)
    return path
