# SPDX-License-Identifier: BSD-3-Clause
"""PSF01 and PSF02: the shape of stars against signal, and cross-talk; stamps cut of all spots.

Sub-tasks ``prep`` and ``corrBFE_G15`` leave one product a CCD with the stamps of all spots: planes
STAMPS [frame, spot, row, column] in ADU (not a number where a pixel is bad), X0 and Y0 [frame,
spot] (canonical place of each stamp's first pixel), OBSID [frame], IDS and
QUADRANTS [spot, letter].
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from nightjar.calibration.detector import load_detector
from nightjar.errors import Refused, StorageError
from nightjar.fits.cards import Card
from nightjard.calib.checks import check
from nightjard.calib.frames import open_frame
from nightjard.calib.limits import Limit
from nightjard.calib.prepare import Recipe, prepared, recipe_for
from nightjard.calib.science.moments import WEIGHT_SIGMA_PX
from nightjard.calib.science.spots import STAMP_PX, cut
from nightjard.calib.task import Subtask, Task
from nightjard.calib.tasks import (
    cross_talk,
    locking,
    psf_bayes,
    psf_correction,
    psf_shapes,
    spot_check,
    spot_judging,
)
from nightjard.calib.tasks.psf_stamps import leave_stamps
from nightjard.calib.tasks.spot_judging import Measure
from nightjard.calib.work import Work

if TYPE_CHECKING:
    from nightjard.calib.dataset import CcdFrame


class PsfOptions(locking.SpotOptions):
    """What a campaign may set for PSF01 and PSF02."""

    weight_sigma_px: float = Field(
        WEIGHT_SIGMA_PX, gt=1, le=20, description="Of the weight of quadrupole moments."
    )
    bayes_frames: int = Field(
        4, ge=1, le=1000, description="Frames of a column whose stamps bayes looks at."
    )


# --- check ---


def judge(work: Work, found: dict[tuple[int, int], dict[str, Any]]) -> None:
    """Leave the table ``photometry``; judge background, width, peak, saturation time."""
    table = spot_check.photometry_table(work, found)
    if not len(table):
        work.results.flag("STARS_MISSING", cause="no spot was measured on any frame")
        return
    work.results.table("photometry", table, caption="Measures of all spots", show=False)
    # Time to saturation is that of a star of 2.5 px: so is the peak that is judged.
    peak = np.asarray(table["flux"], float) / spot_check.FLUX_PER_PEAK_PX2
    spot_judging.judge_spots(
        work, table,
        {
            "background": Measure(table["background"], "ADU", "BGD_OOL", Limit(-1.0, 5.0)),
            "fwhm": Measure(spot_check.mean_fwhm(table), "px", "FOCUS_OOL", Limit(1.2, 3.0)),
            "spot_peak_at_2.5px": Measure(peak, "ADU", "FLUENCE_OOL", is_light=True),
        },
    )  # fmt: skip
    times = spot_check.saturation_times(work, table)
    if len(times):
        work.results.table("saturation", times, caption="Time to saturation of every spot")
    spot_judging.judge_saturation(work, times, spot_check.wave_of(work), "point", 0.2)


# --- prep ---


def cut_stamps(
    path: str, detector: str, obsid: int, ccd: int, recipe: dict[str, Any],
    spots: list[list[Any]], target: str,
) -> str:  # fmt: skip
    """Cut the stamps of a frame; return the path of the array [spot, row, column], float32.

    Parameters
    ----------
    spots
        [id, quadrant, name, x, y] of each; canonical.
    target
        Where to write.

    Raises
    ------
    StorageError
        The frame cannot be read, or the array not be written.
    """
    del obsid, ccd
    kind = load_detector(detector)
    frame = open_frame(path, kind)
    stamps = np.full((len(spots), STAMP_PX, STAMP_PX), np.nan, np.float32)
    area = (slice(0, kind.image_rows), kind.columns_of("image"))
    for quadrant in dict.fromkeys(spot[1] for spot in spots):
        image, bad = prepared(frame, quadrant, Recipe.from_json(recipe))
        which = [i for i, spot in enumerate(spots) if spot[1] == quadrant]
        found = cut(
            image[area], np.array([spots[i][3] for i in which]) - kind.prescan,
            np.array([spots[i][4] for i in which]), bad=bad[area],
        )  # fmt: skip
        stamps[which] = np.where(found.bad, np.nan, found.pixels)
        frame.forget()
    try:
        np.save(target, stamps)
    except OSError as error:
        raise StorageError(f"cannot write {target}: {error.strerror}", path=target) from error
    return target


def prep(work: Work) -> None:
    """Prepare all frames and leave the stamps of all spots as a product.

    Raises
    ------
    Refused
        There is no usable frame, or the stars were not located.
    """
    if work.is_drill:
        return
    if not work.dataset.ccds:
        raise Refused(f"{work.dataset.test}: prep has no usable frame")
    folder = work.intermediate / "stamps"
    folder.mkdir(exist_ok=True)
    wave = spot_check.wave_of(work)
    for ccd in work.dataset.ccds:
        frames = [frame for frame in work.dataset.of_ccd(ccd) if frame.column is not None]
        recipe = recipe_for(work, ccd, wave_nm=wave).as_json()
        spots = locking.spot_arguments(work, ccd)["spots"]
        names = sorted({spot[0] for one in spots.values() for spot in one})
        frames = [frame for frame in frames if frame.label in spots]
        if not frames:
            continue
        items = [
            {"path": str(frame.path), "detector": work.detector_name, "obsid": frame.obsid,
             "ccd": ccd, "recipe": recipe, "spots": spots[frame.label],
             "target": str(folder / f"{frame.obsid}_{ccd}.npy")}
            for frame in frames
        ]  # fmt: skip
        rows, columns = work.detector.frame_shape
        paths = work.map(cut_stamps, items, stage=f"stamps of CCD{ccd}",
                         memory_bytes=4 * rows * columns)  # fmt: skip
        _leave(work, ccd, frames, names, spots, paths, recipe)


def _leave(
    work: Work, ccd: int, frames: list[CcdFrame], names: list[str],
    spots: dict[str, list[list[Any]]], paths: list[str], recipe: dict[str, Any],
) -> None:  # fmt: skip
    shape = (len(frames), len(names))
    stamps = np.full((*shape, STAMP_PX, STAMP_PX), np.nan, np.float32)
    x0, y0 = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    place = {name: index for index, name in enumerate(names)}
    quadrants = {spot[0]: spot[1] for one in spots.values() for spot in one}
    half, prescan = STAMP_PX // 2, work.detector.prescan
    for number, (frame, path) in enumerate(zip(frames, paths, strict=True)):
        array = np.load(path)
        for i, spot in enumerate(spots[frame.label]):
            index = place[spot[0]]
            stamps[number, index] = array[i]
            x0[number, index] = round(spot[3] - prescan) + prescan - half
            y0[number, index] = round(spot[4]) - half
        Path(path).unlink()
    cards = [
        Card("OFFSET", str(recipe["offset"]), "how the offset was taken off"),
        Card("HASMASK", recipe["mask"] is not None, "cosmetics mask applied"),
        Card("HASFLAT", recipe["flat"] is not None, "divided by a flat field"),
    ]
    leave_stamps(work, ccd, "Spots", stamps, x0, y0, [one.obsid for one in frames], names,
                 [quadrants[name] for name in names], cards)  # fmt: skip


PSF = Task(
    title="Shape of stars and cross-talk",
    subtasks=(
        Subtask("lock", locking.lock, "Star lock"),
        Subtask("relock", locking.relock, "Star lock applied"),
        Subtask("check", check, "Data validation"),
        Subtask("prep", prep, "Stamps of all spots"),
        Subtask("corrBFE_G15", psf_correction.correct, "Stamps without brighter-fatter"),
        Subtask("basic", psf_shapes.basic, "Shapes of spots"),
        Subtask("basic_nobfe", psf_shapes.basic_nobfe, "Shapes without brighter-fatter"),
        Subtask("bayes", psf_bayes.bayes, "Shapes by a forward model"),
        Subtask("meta", psf_shapes.meta, "Shape against signal"),
        Subtask("xtalk_sex", cross_talk.find_sources, "Sources of cross-talk"),
        Subtask("xtalk_build", cross_talk.build, "Cross-talk summed up"),
        Subtask("xtalk_meta", cross_talk.meta, "Cross-talk matrix"),
    ),
    frame_check=spot_check.measure_spots,
    frame_check_arguments=locking.spot_arguments,
    judge=judge,
    workers=(
        locking.find_stars, cut_stamps, psf_correction.correct_stamps, psf_shapes.measure_stamps,
        psf_bayes.posterior_stamps, *cross_talk.WORKERS,
    ),
    options=PsfOptions,
)  # fmt: skip
