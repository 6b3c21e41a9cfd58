# SPDX-License-Identifier: BSD-3-Clause
"""The sub-task ``prep``: how the frames of a test are prepared, and what their offsets are.

It leaves the value ``recipes`` and the table ``prep``: one row an OBSID, CCD and quadrant with
``offset`` (mean over rows, ADU), ``offset_error``, ``row_noise`` (of the row offsets about their
smooth course, ADU), ``bad`` (pixels that do not count).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nightjar.calibration.detector import load_detector
from nightjar.errors import Refused
from nightjard.calib.dataset import CcdFrame
from nightjard.calib.frames import open_frame
from nightjard.calib.prepare import (
    MOST_PX,
    Offset,
    Recipe,
    offset_of,
    parts_of,
    prepared,
    recipe_for,
)
from nightjard.calib.science.read_noise import clipped_std
from nightjard.calib.task import Subtask
from nightjard.calib.work import Work

if TYPE_CHECKING:
    from astropy.table import Table


def prep_subtask(
    *, offset: Offset = "row", is_masked: bool = True, is_debiased: bool = False,
    is_flattened: bool = False, title: str = "Preparation of frames",
) -> Subtask:  # fmt: skip
    """Return the sub-task ``prep`` of a test that prepares its frames so."""

    def prep(work: Work) -> None:
        if is_dry(work):
            return
        waves = {ccd: _only_wave(work, ccd) if is_flattened else None for ccd in work.dataset.ccds}
        record(work, {
            ccd: recipe_for(work, ccd, offset=offset, is_masked=is_masked,
                            is_debiased=is_debiased, wave_nm=waves[ccd])
            for ccd in work.dataset.ccds
        })  # fmt: skip

    return Subtask("prep", prep, title)


def is_dry(work: Work) -> bool:
    """Tell whether there is nothing to work on (a drill, or no usable frame), and note it."""
    if work.is_drill:
        work.results.note(f"drill: {work.results.subtask} was not done")
        return True
    if not work.dataset.ccds:
        work.results.flag("BADDATA", cause="no frame of the test can be used")
        return True
    return False


def record(work: Work, recipes: dict[int, Recipe]) -> None:
    """Record recipes, and the offsets of all frames as they are prepared by them."""
    frames = [one for ccd in recipes for one in work.dataset.of_ccd(ccd)]
    items = [
        {"path": str(one.path), "detector": work.detector_name,
         "recipe": recipes[one.ccd].as_json()}
        for one in frames
    ]  # fmt: skip
    found = work.map(measure_offsets, items, stage="frames prepared",
                     memory_bytes=prepared_bytes(work))  # fmt: skip
    work.results.values.append(
        {"name": "recipes", "value": {str(ccd): one.as_json() for ccd, one in recipes.items()},
         "error": None, "unit": "", "where": {}}
    )  # fmt: skip
    work.results.table(
        "prep", offset_table(frames, found), caption="Offsets of the frames", show=False
    )


def prepared_bytes(work: Work) -> int:
    """Return the memory of a worker that prepares frames by parts, with products that it keeps."""
    rows, columns = work.detector.quadrant_shape
    quadrants = len(work.detector.names)
    size = rows * columns
    return 20 * min(size, MOST_PX) + (5 * size * quadrants if size <= MOST_PX else 0)


def recipes_of(work: Work) -> dict[int, Recipe]:
    """Return what :func:`record` recorded.

    Raises
    ------
    Refused
        ``prep`` has not been done, or there was nothing to prepare.
    """
    for one in work.earlier("prep")["values"]:
        if one["name"] == "recipes":
            return {int(ccd): Recipe.from_json(value) for ccd, value in one["value"].items()}
    raise Refused(f"{work.dataset.test}: prep found no frame to prepare")


def offset_table(frames: Sequence[CcdFrame], found: Sequence[dict[str, Any]]) -> Table:
    """Return the table ``prep``."""
    from astropy.table import Table

    rows = [
        {"obsid": frame.obsid, "ccd": frame.ccd, "quadrant": quadrant, "column": frame.label,
         **{name: math.nan if value is None else value for name, value in one.items()}}
        for frame, quadrants in zip(frames, found, strict=True)
        for quadrant, one in quadrants.items()
    ]  # fmt: skip
    table = Table(rows=rows)
    for name in ("offset", "offset_error", "row_noise"):
        table[name].unit = "adu"
    table["bad"].unit = "pix"
    return table


def measure_offsets(path: str, detector: str, recipe: dict[str, Any]) -> dict[str, Any]:
    """Return offset, its error, row noise and number of bad pixels of every quadrant; a worker's.

    Raises
    ------
    StorageError
        The frame or a product cannot be read.
    """
    frame = open_frame(path, load_detector(detector))
    wanted = Recipe.from_json(recipe)
    found: dict[str, Any] = {}
    for quadrant in frame.detector.names:
        count = sum(
            int(prepared(frame, quadrant, wanted, rows)[1].sum())
            for rows in parts_of(frame.detector)
        )
        frame.forget()
        if frame.detector.offset_sector == "none" or wanted.offset == "none":
            found[quadrant] = {"offset": None, "offset_error": None, "row_noise": None,
                               "bad": count}  # fmt: skip
            continue
        levels = offset_of(frame, quadrant, "row")[frame.vstart : frame.vend].astype(np.float64)
        steps = np.diff(levels)
        # Of neighbours: what is smooth along the rows does not count.
        noise = clipped_std(steps).value / math.sqrt(2.0) if len(steps) > 1 else 0.0
        level = float(offset_of(frame, quadrant, "median")[frame.vstart])
        found[quadrant] = {
            "offset": level, "offset_error": noise / math.sqrt(max(len(levels), 1)),
            "row_noise": noise, "bad": count,
        }  # fmt: skip
    return found


def _only_wave(work: Work, ccd: int) -> int | None:
    """Return the wavelength of a CCD's frames; None where there are several."""
    waves = {work.dataset.wave_nm(frame) for frame in work.dataset.of_ccd(ccd)}
    return waves.pop() if len(waves) == 1 else None


PREPARE_WORKERS: tuple[Callable[..., Any], ...] = (measure_offsets,)
