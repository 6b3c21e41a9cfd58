# SPDX-License-Identifier: BSD-3-Clause
"""A camera that writes real files at once: for what happens around the frames of a session.

As a program, ``FOLDER WHERE``: acquires a session and kills itself at the second call of WHERE.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from nightjar.calibration.chamber import load_profile
from nightjar.calibration.detector import load_detector
from nightjar.calibration.script import DEFAULTS, Column, Script
from nightjar.clock import SystemClock
from nightjard.calib import day_writer
from nightjard.calib.acquire import Acquired, Taken, acquire

DETECTOR = load_detector("ccd273-8th")
START_NS = 1_554_076_800 * 10**9
DAY = "21_Feb_26"


def books(frames: int = 3, **values: Any) -> list[tuple[str, Script]]:
    """Return a session of one test."""
    content = {**DEFAULTS, "vend": 278, "test": "BIAS01", "shuttr": 0, "operator": "Ö", **values}
    content.pop("frames")
    column = Column("col001", frames, content)
    return [("vis_CalCamp_BIAS01.xlsx", Script("BIAS01", "BIAS01", "7.5.X", (column,)))]


class PaperCamera:
    """Writes frames into a spool folder; `altered` keywords are not what was commanded."""

    def __init__(self, spool: Path, **altered: Any) -> None:
        self.spool, self.altered = spool, altered
        self.taken: list[int] = []
        rows, columns = DETECTOR.frame_shape
        self.size = (rows, columns * DETECTOR.ccds)
        self.controls = frozenset({"obsid", "shuttr", "IDL", "source", "operator"})

    def connect(self) -> None:
        self.spool.mkdir(parents=True, exist_ok=True)

    def expose(
        self, values: Mapping[str, Any], obsid: int, _slot: int, _stop: threading.Event
    ) -> Taken:
        self.taken.append(obsid)
        unit = fits.PrimaryHDU(np.full(self.size, obsid, np.uint16))
        unit.header.update(
            {"OBSID": obsid, "SHUTTR": values["shuttr"], "IDL": values["IDL"],
             "SOURCE": values["source"], "OPERATOR": "?"} | self.altered
        )  # fmt: skip
        path = self.spool / f"frame-{obsid}.fits"
        unit.writeto(path, checksum=True, overwrite=True)
        return Taken(path, START_NS + obsid * 10**9, ((START_NS, {"CCD1_OD_T": 26.0}),))


def take(data: Path, camera: PaperCamera, **options: Any) -> Acquired:
    """Acquire the session of :func:`books`."""
    scripts = options.pop("scripts", None) or books()
    return acquire(
        camera, scripts, data, DETECTOR, load_profile("B_NOSTROMO"), SystemClock(),
        elvis="7.5.X", **{"day_folder": DAY, **options},
    )  # fmt: skip


def main(folder: Path, where: str) -> None:
    """Acquire, and die at the second call of a function of the writer."""
    calls = 0
    function = getattr(day_writer, where)

    def counted(*given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*given, **named)

    setattr(day_writer, where, counted)
    take(folder / "data", PaperCamera(folder / "spool"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
