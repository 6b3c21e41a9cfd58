# SPDX-License-Identifier: BSD-3-Clause
"""Frames that were pumped: how, and as maps of what pumping moved.

With the option ``raw_maps`` each becomes a product
``<TEST>_rawmap_<OBSID>_IDDLY_<delay>_ROE1_CCD<n>.fits``: what a pixel holds over the level that was
pumped, less 1. A trap is a pair of pixels, one above and one below nothing. Vertical pumping: the
level is the median of the column; serial: the line that was injected but not pumped, moved by the
columns that pumping left it late.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.calibration.detector import Detector, load_detector
from nightjar.fits.cards import Card
from nightjard.calib.dataset import CcdFrame
from nightjard.calib.frames import open_frame
from nightjard.calib.prepare import Recipe, prepared
from nightjard.calib.science import blank, dipoles, traps
from nightjard.calib.tasks.injection import injected_frames, recipes_for
from nightjard.calib.work import Work


def is_pumped(values: Mapping[str, Any]) -> bool:
    """Charge was pumped in frames of this column."""
    return bool(int(values.get("v_tpump", 0)) or int(values.get("s_tpump", 0)))


def pumping_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return mode, time (us) and cycles of a column's pumping."""
    if int(values.get("v_tpump", 0)):
        return {"mode": str(values["v_tpmod"]), "time_us": float(values["toi_tp"]),
                "cycles": float(values["v_tp_cnt"]), "is_serial": False}  # fmt: skip
    return {
        "mode": str(values["s_tpmod"]),
        "time_us": float(values["dwell_s"]) + traps.SERIAL_STEP_US,
        "cycles": float(values["s_tp_cnt"]), "is_serial": True,
    }  # fmt: skip


def reference_of(frames: Sequence[CcdFrame]) -> str | None:
    """Return the path of the first frame that was injected but not pumped."""
    return next((str(one.path) for one in frames if not is_pumped(one.commanded)), None)


def image_of(
    path: str, kind: Detector, quadrant: str, recipe: Recipe
) -> tuple[NDArray[np.float32], NDArray[np.bool_], slice]:
    """Return the prepared image area of a quadrant, ADU, its bad pixels, and which rows it has."""
    frame = open_frame(path, kind)
    pixels, bad = prepared(frame, quadrant, recipe)
    rows = slice(frame.vstart, min(frame.vend, kind.image_rows))
    area = (rows, kind.columns_of("image"))
    return pixels[area], bad[area], rows


def line_of(path: str, kind: Detector, quadrant: str, recipe: Recipe) -> NDArray[np.float64]:
    """Return the mean of the rows of a quadrant's image area, bad pixels left out, ADU."""
    pixels, bad, _ = image_of(path, kind, quadrant, recipe)
    return _mean_line(np.where(bad, np.nan, pixels).astype(np.float64))


def _mean_line(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of rows without what is far out; `values` is spoilt."""
    middle = blank.median(values, axis=0)
    spread = 1.4826 * blank.median(np.abs(values - middle), axis=0) + 1e-3
    values[np.abs(values - middle) > 6 * spread] = np.nan
    return np.asarray(blank.mean(values, axis=0))


# --- raw maps ---


def map_frame(
    path: str, detector: str, quadrants: list[str], references: dict[str, str | None],
    recipe: dict[str, Any], is_serial: bool, out: str,
) -> None:  # fmt: skip
    """Write the map of a pumped frame as ``out`` (.npy), float32 [row, column]; a worker's task.

    Parameters
    ----------
    quadrants
        That were injected and pumped; the others, and scans, are not a number.
    references
        By quadrant: path of the frame that was injected but not pumped.
    """
    kind, how = load_detector(detector), Recipe.from_json(recipe)
    planes = {}
    for quadrant in kind.names:
        plane = np.full(kind.quadrant_shape, np.nan, np.float32)
        reference = references.get(quadrant)
        if quadrant in quadrants and not (is_serial and reference is None):
            pixels, bad, lines = image_of(path, kind, quadrant, how)
            values = np.where(bad, np.float32(np.nan), pixels)
            if is_serial and reference is not None:
                line = _mean_line(values.astype(np.float64))
                _, level = dipoles.serial_ratio(line, line_of(reference, kind, quadrant, how))
            else:
                level = blank.median(values, axis=0)
            scale = np.where(level > 1, level, np.nan).astype(np.float32)
            plane[lines, kind.columns_of("image")] = values / scale - 1
        planes[quadrant] = plane
    np.save(out, kind.assemble(planes))


def leave_maps(work: Work) -> None:
    """Leave a product for every pumped frame."""
    jobs: list[tuple[CcdFrame, dict[str, Any]]] = []
    for ccd, recipe in recipes_for(work).items():
        frames = {name: injected_frames(work, ccd, name) for name in work.detector.names}
        references = {name: reference_of(mine) for name, mine in frames.items()}
        pumped = {
            one.obsid: one for mine in frames.values() for one in mine if is_pumped(one.commanded)
        }
        for obsid, frame in sorted(pumped.items()):
            jobs.append((frame, {
                "path": str(frame.path), "detector": work.detector_name,
                "quadrants": [name for name, mine in frames.items() if frame in mine],
                "references": references, "recipe": recipe.as_json(),
                "is_serial": pumping_of(frame.commanded)["is_serial"],
                "out": str(work.intermediate / f"rawmap_{obsid}_ccd{ccd}.npy"),
            }))  # fmt: skip
    rows, columns = work.detector.frame_shape
    work.map(map_frame, [item for _, item in jobs], stage="maps drawn",
             memory_bytes=20 * rows * columns)  # fmt: skip
    for frame, item in jobs:
        how = pumping_of(frame.commanded)
        cards = [
            Card("OBSID", frame.obsid), Card("CCD", frame.ccd, "number of the CCD"),
            Card("TPMODE", how["mode"], "electrodes of pumping"),
            Card("TPTIME", how["time_us"], "time between two shuffles", unit="us"),
        ]  # fmt: skip
        delay = frame.commanded.get("id_dly", 0)
        work.results.image(
            f"{work.dataset.test}_rawmap_{frame.obsid}_IDDLY_{delay}_ROE1_CCD{frame.ccd}",
            {"MAP": np.load(item["out"], mmap_mode="r")}, cards,
            caption=f"OBSID {frame.obsid}, CCD{frame.ccd}: what pumping moved",
        )  # fmt: skip
        Path(item["out"]).unlink()  # it is the product now: a test has hundreds
