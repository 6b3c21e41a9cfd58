# SPDX-License-Identifier: BSD-3-Clause
"""DARK01: dark current, hot pixels, cosmic rays.

``meta`` stacks the frames of each CCD. Cosmic rays are what lies above the other frames; they are
counted and left out. The dark current is the mean of the pixels that are not hot, without the
structure of the bias where a master bias is given: at 1e-3 e-/s it is 0.2 ADU in ten minutes, less
than the bias varies over a quadrant. A master bias also takes away what pixels gather while they
wait to be read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from nightjar.calibration.detector import Detector
from nightjar.config.load import StrictModel
from nightjar.fits.cards import Card
from nightjard.calib.checks import checked, draw
from nightjard.calib.checks_judging import judge_fluence
from nightjard.calib.prepare import Recipe, bias_structure, clipped_mean
from nightjard.calib.preparing import PREPARE_WORKERS, is_dry, prep_subtask, recipes_of
from nightjard.calib.science.defects import Defects, dark_defects, events_in
from nightjard.calib.task import Subtask, Task
from nightjard.calib.tasks.stacking import STACK_WORKERS, Stacked, stack_ccds
from nightjard.calib.work import Work

if TYPE_CHECKING:
    from astropy.table import Table

#: Boltzmann's constant, eV / K.
_BOLTZMANN = 8.617333e-5
_REFERENCE_K = 153.0
_ZERO_C = 273.15
_COSMIC_SIGMA = 6.0
_TAIL_SIGMA = 1.5
_MOST_HOT = 20000
_FRAMES_TO_TELL = 3  # a cosmic ray from a hot pixel


class DarkOptions(StrictModel):
    """What a campaign may set."""

    low_adu: float = Field(-1000.0, description="Below the background by more: bad.")
    high_adu: float = Field(50.0, gt=0, description="Above the background by more: hot.")
    degree: int = Field(5, ge=0, le=9, description="Of the smooth background.")
    activation_ev: float = Field(0.65, gt=0, description="For dark current at other temperatures.")


@dataclass(frozen=True)
class Channel:
    """What a quadrant's stack tells; `frames`, of how many that are not lost."""

    ccd: int
    quadrant: str
    signal_adu: float
    error_adu: float
    defects: Defects
    frames: int
    cosmic_pixels: int
    cosmic_events: int


def check_dark(work: Work) -> None:
    """Check the data; judge the background."""
    table = checked(work)
    if table is not None:
        judge_fluence(work, table, "background")
    draw(work, table)


def meta(work: Work) -> None:
    """Measure dark current, hot pixels and cosmic rays."""
    if is_dry(work):
        return
    options = DarkOptions.model_validate(dict(work.options))
    recipes = recipes_of(work)
    frames = {ccd: work.dataset.of_ccd(ccd) for ccd in recipes}
    stacked = stack_ccds(work, frames, recipes, clip_sigma=_COSMIC_SIGMA)
    offset_errors = _offset_errors(work)
    channels: list[Channel] = []
    for ccd, one in stacked.items():
        for quadrant in work.detector.names:
            channels.append(_measure(work, ccd, quadrant, one, recipes[ccd], options,
                                     offset_errors.get((ccd, quadrant), 0.0)))  # fmt: skip
    _products(work, stacked, channels)
    _values(work, channels, recipes, options)
    _hot_table(work, channels)
    _draw(work, stacked, channels)


def _offset_errors(work: Work) -> dict[tuple[int, str], float]:
    """Return the error of the mean offset of each channel over the frames, ADU."""
    table = work.table("prep", "prep")
    found = {}
    for ccd, quadrant in set(zip(table["ccd"], table["quadrant"], strict=True)):
        own = table[np.asarray((table["ccd"] == ccd) & (table["quadrant"] == quadrant))]
        # A frame that is lost (all 0 or saturated) takes no part in the stack.
        kept = own[np.asarray(own["bad"]) < 0.5 * math.prod(work.detector.quadrant_shape)]
        errors = np.asarray((kept if len(kept) else own)["offset_error"], float)
        found[int(ccd), str(quadrant)] = float(np.sqrt((errors**2).sum())) / len(errors)
    return found


def _measure(
    work: Work, ccd: int, quadrant: str, stack: Stacked, recipe: Recipe, options: DarkOptions,
    offset_error: float,
) -> Channel:  # fmt: skip
    detector = work.detector
    mean, counts = (
        detector.canonical(plane, quadrant).copy() for plane in (stack.mean, stack.counts)
    )
    defects = dark_defects(detector, mean, counts, low_adu=options.low_adu,
                           high_adu=options.high_adu, degree=options.degree)  # fmt: skip
    if recipe.bias is not None:
        mean -= bias_structure(detector, recipe.bias, quadrant, recipe.offset)
    image = detector.sector(mean, "image")
    good = (detector.sector(counts, "image") > 0) & ~detector.sector(defects.bad, "image")
    lost = detector.sector(counts, "image")
    frames = int(lost.max())
    if not good.any():
        return Channel(ccd, quadrant, math.nan, math.nan, defects, frames, 0, 0)
    near = _without_tail(image[good])
    signal = float(near.mean(dtype=np.float64))
    statistical = float(near.std(dtype=np.float64)) / math.sqrt(near.size)
    offsets = offset_error
    if recipe.bias is not None:
        # The master bias has an offset error of its own, about that of these frames.
        left, part = _left_in_overscan(detector, mean, counts)
        signal -= left
        offsets *= math.sqrt(2.0 * part)
    hits = (lost < frames) & (lost > 0) & ~detector.sector(defects.bad, "image")
    rejected = int((frames - lost[hits]).sum())
    return Channel(ccd, quadrant, signal, math.hypot(statistical, offsets), defects, frames,
                   rejected, events_in(hits))  # fmt: skip


def _left_in_overscan(
    detector: Detector, mean: NDArray[np.float32], counts: NDArray[Any]
) -> tuple[float, float]:
    """Return what the prescan's offset is wrong by, ADU, and to which part its variance falls.

    Without the structure of the bias the overscan holds nothing: with the prescan it knows the
    offset better. (The rows behind the image do not: each has an offset of its own prescan.)
    """
    area = detector.sector(counts, "prescan", is_trimmed=True)
    values = detector.sector(mean, "overscan", is_trimmed=True)[
        detector.sector(counts, "overscan", is_trimmed=True) > 0
    ]
    if detector.offset_sector != "prescan" or not area.size or not values.size:
        return 0.0, 1.0
    part = area.size / (area.size + values.size)
    return (1.0 - part) * clipped_mean(values), part


def _without_tail(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the pixels about the middle of the ordinary ones.

    Some pixels have more dark current than others, none has less: what is taken about the middle
    is symmetric, and narrow, so that few of the others are in it.
    """
    low, middle, high = np.percentile(
        values[:: max(values.size // 200_000, 1)], (15.865, 50, 84.135)
    )
    reach = np.float32(_TAIL_SIGMA * max(float(high - low) / 2.0, 1e-3))
    near = values
    for _ in range(6):
        near = values[np.abs(values - np.float32(middle)) <= reach]
        middle = float(near.mean(dtype=np.float64))
    return near


# --- what is left ---


def _exposure_s(work: Work, ccd: int) -> float:
    return float(np.mean([frame.exposure_s for frame in work.dataset.of_ccd(ccd)]))


def _kelvin(work: Work, ccd: int) -> float | None:
    """Return the temperature of a CCD over the test, K; None without housekeeping."""
    values = [
        found[name][0]
        for found in work.dataset.hk.values()
        for name in (f"CCD{ccd}_TEMP_T", f"CCD{ccd}_TEMP_B")
        if name in found and math.isfinite(found[name][0])
    ]
    return float(np.mean(values)) + _ZERO_C if values else None


def _values(
    work: Work, channels: list[Channel], recipes: dict[int, Recipe], options: DarkOptions
) -> None:
    rows = []
    area_cm2 = work.detector.image_rows * work.detector.image_columns * (
        work.detector.pixel_um * 1e-4
    ) ** 2  # fmt: skip
    for one in channels:
        exposure_s, kelvin = _exposure_s(work, one.ccd), _kelvin(work, one.ccd)
        factor = work.gain_e_adu(one.ccd, one.quadrant) / (exposure_s or math.nan)
        rate, error = one.signal_adu * factor, one.error_adu * factor
        where: dict[str, Any] = {"ccd": one.ccd, "quadrant": one.quadrant}
        note = "" if recipes[one.ccd].bias else "with the structure of the bias"
        results = work.results
        results.value("dark_rate", rate, error=error, unit="e-/px/s", note=note, **where)
        results.value("dark_rate_h", rate * 3600, error=error * 3600, unit="e-/px/h", **where)
        if kelvin is not None:
            scale = math.exp(options.activation_ev / _BOLTZMANN * (1 / kelvin - 1 / _REFERENCE_K))
            results.value("dark_rate_153K", rate * scale, error=error * scale, unit="e-/px/s",
                          note=f"from {kelvin:.2f} K with {options.activation_ev:g} eV",
                          **where)  # fmt: skip
        # Of two frames that differ it is not known which one is right.
        is_told = one.frames >= _FRAMES_TO_TELL
        minutes = exposure_s * one.frames / 60.0 if is_told and exposure_s else math.nan
        density = one.cosmic_events / (area_cm2 * minutes)
        results.value("cosmic_events", one.cosmic_events if is_told else None, unit="", **where)
        density_error = math.sqrt(max(one.cosmic_events, 1)) / (area_cm2 * minutes)
        results.value("cosmic_rate", density, error=density_error, unit="1/cm2/min", **where)
        hot = int(work.detector.sector(one.defects.bad, "image").sum())
        results.value("hot_pixels", hot, **where)
        rows.append({
            **where, "AVSIGNAL": one.signal_adu, "AVSIGNAL_ERROR": one.error_adu,
            "RATE": rate, "RATE_ERROR": error, "RATE_H": rate * 3600,
            "RATE_H_ERROR": error * 3600, "N_HOT": hot, "N_COLUMNS": len(one.defects.columns),
            "COSMIC_PIXELS": one.cosmic_pixels, "COSMIC_EVENTS": one.cosmic_events,
            "TEMPERATURE": math.nan if kelvin is None else kelvin,
        })  # fmt: skip
    work.results.table("TB", _table(rows), caption="Dark current, hot pixels, cosmic rays")
    if any(0 < one.frames < _FRAMES_TO_TELL for one in channels):
        work.results.note("fewer than three frames: cosmic rays count as hot pixels")
    if any(recipe.bias is None for recipe in recipes.values()):
        work.results.note(
            "no master bias is configured: the dark current holds what the bias of the image "
            "differs from that of the prescan, often more than the dark current itself"
        )


def _table(rows: list[dict[str, Any]]) -> Table:
    from astropy.table import Table

    table = Table(rows=rows)
    units = {"AVSIGNAL": "adu", "RATE": "electron / (pix s)", "RATE_H": "electron / (pix h)"}
    for name, unit in units.items():
        table[name].unit = table[f"{name}_ERROR"].unit = unit
    table["TEMPERATURE"].unit = "K"
    return table


def _products(work: Work, stacked: dict[int, Stacked], channels: list[Channel]) -> None:
    detector = work.detector
    for ccd, one in stacked.items():
        own = [channel for channel in channels if channel.ccd == ccd]
        serial = work.dataset.serials.get(f"sn_ccd{ccd}", "UNKNOWN")
        kelvin = _kelvin(work, ccd)
        cards = [
            Card("BLOCK", work.dataset.block, "block of detectors"),
            Card("CCDSN", serial, "serial number of the CCD"),
            Card("CCD", ccd, "which CCD of the block"),
            Card("NCOMB", one.frames, "frames combined"),
            Card("EXPTIME", _exposure_s(work, ccd), "exposure of a frame, s"),
            Card("BUNIT", "adu", "per exposure"),
        ]
        if kelvin is not None:
            cards.append(Card("CCDTEMP", round(kelvin - _ZERO_C, 3), "mean temperature, C"))
        with np.errstate(invalid="ignore"):
            error: NDArray[Any] = one.std / np.sqrt(np.maximum(one.counts, 1))
        work.results.image(f"EUC_DK_ROE1_CCD{ccd}", {"DARK": one.mean, "EDARK": error},
                           [Card("PRODUCT", "DARK", "what this is"), *cards])  # fmt: skip
        mask = detector.assemble({one.quadrant: one.defects.bad for one in own})
        work.results.image(f"EUC_DKMSK_ROE1_CCD{ccd}", {"MASK": mask},
                           [Card("PRODUCT", "DKMASK", "what this is"), *cards])  # fmt: skip


def _hot_table(work: Work, channels: list[Channel]) -> None:
    from astropy.table import Table

    columns: dict[str, list[Any]] = {
        name: [] for name in ("ccd", "quadrant", "x", "y", "signal", "rate")
    }
    for one in channels:
        rows, places = np.nonzero(one.defects.bad)
        signals = one.defects.excess[rows, places]
        order = np.argsort(signals)[::-1][: _MOST_HOT // len(channels)]
        exposure_s = _exposure_s(work, one.ccd)
        factor = work.gain_e_adu(one.ccd, one.quadrant) / (exposure_s or math.nan)
        columns["ccd"] += [one.ccd] * len(order)
        columns["quadrant"] += [one.quadrant] * len(order)
        columns["x"] += places[order].tolist()
        columns["y"] += rows[order].tolist()
        columns["signal"] += signals[order].tolist()
        columns["rate"] += (signals[order] * factor).tolist()
    if columns["x"]:
        table = Table(columns)
        table["signal"].unit, table["rate"].unit = "adu", "electron / (pix s)"
        work.results.table("HOT", table, show=False, caption="Hot pixels, canonical coordinates, "
                           "brightest first")  # fmt: skip


def _draw(work: Work, stacked: dict[int, Stacked], channels: list[Channel]) -> None:
    from nightjard.calib import plotting

    figure = plotting.images({ccd: one.median for ccd, one in stacked.items()}, label="ADU",
                             title=f"{work.dataset.test}: master dark")  # fmt: skip
    work.results.figure("masterdark", figure, caption="Master dark, 5 to 95 %")
    lines = {}
    for one in channels:
        values = work.detector.sector(one.defects.excess, "image").ravel()
        counts, edges = np.histogram(values, bins=np.linspace(-10.0, 100.0, 221))
        lines[one.ccd, one.quadrant] = [
            ((edges[1:] + edges[:-1]) / 2, np.log10(np.maximum(counts, 0.5)), "")
        ]
    figure = plotting.curves(
        work.detector, lines, x_label="signal above the background / ADU",
        y_label="log10 of pixels", title=f"{work.dataset.test}: histogram of the dark signal",
    )  # fmt: skip
    work.results.figure("histogram", figure, caption="Signal of pixels above the background")


DARK = Task(
    "Dark current",
    (
        Subtask("check", check_dark, "Data validation"),
        prep_subtask(offset="row", is_masked=False, is_debiased=True),
        Subtask("meta", meta, "Dark current and hot pixels"),
    ),
    workers=(*PREPARE_WORKERS, *STACK_WORKERS),
    options=DarkOptions,
)
