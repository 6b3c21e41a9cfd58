# SPDX-License-Identifier: BSD-3-Clause
"""NL01, NL02: how far the response is from a straight line, and lines to make it one.

Frames of one exposure that are taken again and again (STAB) tell the brightness of the lamp over
time. NL02 has low levels behind the neutral density filter and high ones at another wavelength;
levels that both have tie them together.

Tables that are left: ``NL_LEVELS`` (a tile of a frame a row), ``NL_LAMP``, ``NL_TB``, ``NL_POINTS``
(a level a row), ``NL_FULL_FIT`` (the curves), ``SATCTE``; the product ``NL_MODEL`` corrects frames
of other tests.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from nightjar.calibration.detector import load_detector
from nightjard.calib.checks import check
from nightjard.calib.frames import open_frame
from nightjard.calib.prepare import Recipe, prepared
from nightjard.calib.preparing import is_dry, prep_subtask, recipes_of
from nightjard.calib.science.linearity import (
    Exposures,
    Linearity,
    Range,
    measure_linearity,
)
from nightjard.calib.science.robust import clipped_moments
from nightjard.calib.task import Subtask, Task
from nightjard.calib.tasks import flux, photon_transfer, spot_judging
from nightjard.calib.tasks.exposure_plan import Plan, plan_of
from nightjard.calib.tasks.linearity_lamp import Cubes, follow_lamp, take_out_fading
from nightjard.calib.tasks.trail_growth import measure_trails
from nightjard.calib.tasks.transfer_options import (
    Channel,
    TransferOptions,
    channels_of,
    rows_of,
    with_units,
)
from nightjard.calib.tasks.transfer_pairs import extract_transfer
from nightjard.calib.work import Work

_FLAT_PART = 0.1


class LinearityOptions(TransferOptions):
    """What a campaign may set for linearity."""

    reference: Literal["origin", "segment"] = Field(
        "origin", description="Where the curve is zero: on a line through zero light that meets "
        "15 to 25 % of full scale, or on the straight line through these.",
    )  # fmt: skip
    curve_from: float = Field(0.0038, gt=0, lt=1, description="Lowest level of the curve.")
    curve_to: float = Field(0.847, gt=0, le=1, description="Highest level, full scale 1.")
    curve_draws: int = Field(24, ge=2, le=10000, description="Repetitions of the bootstrap.")
    is_shutter_fitted: bool = Field(
        False, description="The curve is made with exposure times corrected by the offset found."
    )
    latent_from: float = Field(
        0.82, gt=0, le=2, description="Frames above leave charge in those that follow, in parts "
        "of full scale.",
    )
    latent_tau_s: float = Field(900.0, gt=1, description="How fast that goes.")
    largest_shutter_s: float = Field(
        0.01, gt=0, description="Offset of the exposure times that is tolerated, s."
    )


def linearity_options(work: Work) -> LinearityOptions:
    """Return the options of the task."""
    return LinearityOptions.model_validate(dict(work.options))


# --- check ---


def judge(work: Work, found: dict[tuple[int, int], dict[str, Any]]) -> None:
    """Leave the fluences; judge the saturation time at every wavelength of the test."""
    table = flux.flat_table(work, found)
    if not len(table):
        work.results.flag("BADDATA", cause="no flat field was measured")
        return
    work.results.table("fluence", table, caption="Fluence of every frame and quadrant", show=False)
    waves = {frame.obsid: work.dataset.wave_nm(frame) for frame in work.dataset.frames}
    wave_of_row = np.array([waves[int(obsid)] for obsid in table["obsid"]])
    lit = np.asarray(table["exptime"], float) > 0
    for wave in sorted(set(wave_of_row[lit].tolist())):
        mine = table[lit & (wave_of_row == wave)]
        times = flux.flat_saturation(mine, float(work.detector.adc_full_scale))
        spot_judging.judge_saturation(work, times, int(wave), "flat", _FLAT_PART)


# --- extract ---


def measure_levels(path: str, detector: str, recipe: dict[str, Any]) -> dict[str, Any]:
    """Return mean levels of the tiles of a frame, ADU, and their errors, by quadrant; a worker's.

    Raises
    ------
    StorageError
        The frame or a product cannot be read.
    """
    geometry = load_detector(detector)
    frame = open_frame(path, geometry)
    found: dict[str, Any] = {}
    for quadrant in geometry.names:
        pixels, bad = prepared(frame, quadrant, Recipe.from_json(recipe))
        frame.forget()
        levels: list[float | None] = []
        errors: list[float | None] = []
        for tile in geometry.tiles():
            good = ~bad[tile]
            if good.mean() < 0.8:
                levels.append(None)
                errors.append(None)
                continue
            moments = clipped_moments(pixels[tile][good], 4.0)
            levels.append(moments.mean)
            errors.append(math.sqrt(moments.variance / moments.count))
        found[quadrant] = {"level": levels, "error": errors}
    return found


def extract(work: Work) -> None:
    """Measure the tiles of all frames; leave the table NL_LEVELS."""
    if is_dry(work):
        return
    recipes = recipes_of(work)
    frames = [frame for ccd in work.dataset.ccds for frame in work.dataset.of_ccd(ccd)]
    rows, columns = work.detector.quadrant_shape
    found = work.map(
        measure_levels,
        [{"path": str(frame.path), "detector": work.detector_name,
          "recipe": recipes[frame.ccd].as_json()} for frame in frames],
        stage="levels measured", memory_bytes=16 * rows * columns,
    )  # fmt: skip
    table = [
        {"obsid": frame.obsid, "ccd": frame.ccd, "quadrant": quadrant, "column": frame.label,
         "tile": tile, "level": level, "error": error}
        for frame, quadrants in zip(frames, found, strict=True)
        for quadrant, one in quadrants.items()
        for tile, (level, error) in enumerate(zip(one["level"], one["error"], strict=True))
        if level is not None
    ]  # fmt: skip
    if not table:
        work.results.flag("BADDATAPROD", cause="no tile of any frame can be used")
        return
    units = {"level": "adu", "error": "adu"}
    work.results.table("NL_LEVELS", with_units(table, units), show=False,
                       caption="Levels of the tiles of all frames")  # fmt: skip


# --- NL ---


def cube_of(rows: Any, plan: Plan, tiles: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return level and error of a quadrant, shape (frames of the plan, tiles); NaN where none."""
    level = np.full((plan.obsids.size, tiles), np.nan)
    error = np.full_like(level, np.nan)
    place = np.searchsorted(plan.obsids, np.asarray(rows["obsid"], np.int64))
    tile = np.asarray(rows["tile"], np.int64)
    level[place, tile], error[place, tile] = rows["level"], rows["error"]
    return level, error


def fit_linearity(work: Work) -> None:
    """Follow the lamp, fit the curve of every quadrant, look at the exposure times."""
    if is_dry(work):
        return
    table, plan = work.table("extract", "NL_LEVELS"), plan_of(work)
    tiles, options = len(work.detector.tiles()), linearity_options(work)
    cubes: Cubes = {}
    dark = plan.exposure_s <= 0
    for channel in channels_of(table):
        cubes[channel] = cube_of(rows_of(table, channel), plan, tiles)
    take_out_fading(work, plan, cubes)
    _take_out_dark(work, cubes, dark)
    track = follow_lamp(work, plan, cubes, options.latent_from, options.latent_tau_s)
    if track is None:
        return
    found: dict[Channel, Linearity] = {}
    full = float(work.detector.adc_full_scale)
    span = Range(options.curve_from * full, options.curve_to * full, full)
    lit = ~dark
    _, group = np.unique(plan.wave, return_inverse=True)
    for number, (channel, (level, error)) in enumerate(cubes.items()):
        seen = lit & np.isfinite(level).any(axis=1)
        data = Exposures(plan.time_s[seen], plan.exposure_s[seen], group[seen], level[seen],
                         error[seen])  # fmt: skip
        try:
            found[channel] = measure_linearity(
                data, track, span=span, reference=options.reference, draws=options.curve_draws,
                seed=number, is_shutter_fitted=options.is_shutter_fitted,
            )  # fmt: skip
        except (ValueError, np.linalg.LinAlgError) as error_of_fit:
            work.results.flag("BADFIT", cause=f"CCD{channel[0]} {channel[1]}: {error_of_fit}",
                              ccd=channel[0], quadrant=channel[1])  # fmt: skip
            continue
        for frame in found[channel].dropped:
            work.results.note(f"CCD{channel[0]} {channel[1]}: OBSID {plan.obsids[seen][frame]} "
                              "lies off its level and is left out")  # fmt: skip
    if found:
        _leave_curves(work, found, span)
        _judge_shutter(work, found, options)


def _take_out_dark(work: Work, cubes: Cubes, dark: NDArray[np.bool_]) -> None:
    """Take out of all levels what the image has above the prescan without light.

    Where no frame tells, it stays: some ADU, a percent of the faintest levels; that is flagged.
    Tiles of which alone it is not known do not count.
    """
    unknown = []
    for (ccd, quadrant), (level, _) in cubes.items():
        known = np.isfinite(level[dark]).sum(axis=0)
        total = np.where(np.isfinite(level[dark]), level[dark], 0.0).sum(axis=0)
        if known.any():
            level -= np.where(known > 0, total / np.maximum(known, 1), np.nan)
        else:
            unknown.append(f"CCD{ccd} {quadrant}")
    if unknown:
        work.results.flag(
            "POORQUALDATA", cause=f"{', '.join(unknown)}: no frame without light tells what the "
            "image has above its prescan: the curve of faint levels holds it",
        )  # fmt: skip


def _leave_curves(work: Work, found: dict[Channel, Linearity], span: Range) -> None:
    rows, points, curves, model = [], [], [], []
    lines: dict[Channel, list[tuple[Any, Any, str]]] = {}
    signal = np.linspace(span.low, span.high, 400)
    for (ccd, quadrant), one in found.items():
        where: dict[str, Any] = {"ccd": ccd, "quadrant": quadrant}
        results = work.results
        results.value("nl_max", one.maximum_pc, error=one.maximum_error_pc, unit="%", **where)
        results.value("nl_max_at", one.maximum_at, unit="ADU", **where)
        results.value("nl_residual", one.residual_pc, unit="%", **where,
                      note="largest of a level after linearisation")  # fmt: skip
        results.value("shutter_offset", one.shutter_s, error=one.shutter_error_s, unit="s", **where)
        for number, tie in enumerate(one.tie_pc):
            results.value("nl_tie", tie, unit="%", group=number, **where)
        rows.append({
            **where, "nl_max": one.maximum_pc, "nl_max_error": one.maximum_error_pc,
            "nl_max_at": one.maximum_at, "nl_residual": one.residual_pc,
            "shutter_offset": one.shutter_s, "shutter_offset_error": one.shutter_error_s,
            "amplitude": one.curve.amplitude, "scale": one.curve.scale, "zero": one.curve.zero,
            **{f"c{power}": value for power, value in enumerate(one.curve.coefficients)},
        })  # fmt: skip
        names = list(one.levels)
        points += [
            {**where, **dict(zip(names, values, strict=True))}
            for values in zip(*one.levels.values(), strict=True)
        ]
        curve = one.curve(signal)
        curves += [{**where, "signal": float(x), "nl": float(y)}
                   for x, y in zip(signal, curve, strict=True)]  # fmt: skip
        model.append({**where, "curve": one.curve.as_json()})
        levels = (one.levels["signal"], one.levels["deviation"], "levels")
        lines[ccd, quadrant] = [(signal, curve, "fit"), levels]
    units = {"nl_max": "percent", "nl_max_error": "percent", "nl_max_at": "adu",
             "nl_residual": "percent", "shutter_offset": "s", "shutter_offset_error": "s",
             "signal": "adu", "nl": "percent", "deviation": "percent", "error": "percent",
             "residual": "percent", "exposure": "s"}  # fmt: skip
    work.results.table("NL_TB", with_units(rows, units), caption="Non-linearity")
    work.results.table("NL_POINTS", with_units(points, units), show=False,
                       caption="Deviation of the levels")  # fmt: skip
    work.results.table("NL_FULL_FIT", with_units(curves, units), show=False,
                       caption="Curves of non-linearity")  # fmt: skip
    work.results.document("NL_MODEL", model, caption="Curves that correct frames")
    from nightjard.calib import plotting

    figure = plotting.curves(
        work.detector, lines, title=f"{work.dataset.test}: non-linearity", x_label="signal / ADU",
        y_label="deviation / %",
    )  # fmt: skip
    for axis in figure.axes:
        if axis.lines:  # saturated levels would hide all that is below them
            fit = np.asarray(axis.lines[0].get_ydata(), float)
            room = max(0.5 * float(np.ptp(fit)), 0.05)
            axis.set_ylim(float(fit.min()) - room, float(fit.max()) + room)
    work.results.figure("NL_curves", figure, caption="Deviation from a straight line; saturated "
                        "levels lie outside")  # fmt: skip


def _judge_shutter(
    work: Work, found: dict[Channel, Linearity], options: LinearityOptions
) -> None:
    """Judge the offset of the exposure times: the same for all quadrants, there is one shutter."""
    offsets = np.array([one.shutter_s for one in found.values()])
    own = math.sqrt(1.0 / float(sum(one.shutter_error_s**-2 for one in found.values())))
    scatter = float(np.std(offsets, ddof=1)) / math.sqrt(offsets.size) if offsets.size > 1 else 0.0
    offset = float(np.median(offsets))
    work.results.value("shutter_offset", offset, error=max(own, scatter), unit="s",
                       note="to be added to the exposure times of the chamber's table")  # fmt: skip
    most = options.largest_shutter_s
    is_good = work.results.compliance("shutter_offset", offset, -most, most, unit="s",
                                      flag="POORQUALDATA")  # fmt: skip
    if not is_good and not options.is_shutter_fitted:
        work.results.note(
            "the curves were made with exposure times that do not fit: correct the chamber's "
            "shutter table, or set is_shutter_fitted"
        )


WORKERS: tuple[Callable[..., Any], ...] = (measure_levels, *photon_transfer.WORKERS)

LINEARITY = Task(
    title="Linearity",
    subtasks=(
        Subtask("check", check, "Data validation"),
        prep_subtask(offset="median"),
        Subtask("extract", extract, "Levels of tiles"),
        Subtask("NL", fit_linearity, "Non-linearity"),
        Subtask("satCTE", measure_trails, "Transfer inefficiency by signal"),
        Subtask("extract_PTC", extract_transfer, "Means and variances"),
        Subtask("meta", photon_transfer.meta, "Gain, noise and full well"),
    ),
    frame_check=flux.measure_flat,
    judge=judge,
    workers=WORKERS,
    options=LinearityOptions,
)
