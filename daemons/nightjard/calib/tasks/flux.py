# SPDX-License-Identifier: BSD-3-Clause
"""FLATFLUX00 and PSFLUX00: how long until saturation, beside what the chamber's profile says."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from nightjard.calib.checks import check
from nightjard.calib.limits import Limit, Limits
from nightjard.calib.plotting import curves
from nightjard.calib.task import Subtask, Task
from nightjard.calib.tasks import locking, spot_check, spot_judging
from nightjard.calib.tasks.spot_judging import Measure
from nightjard.calib.work import Work

if TYPE_CHECKING:
    from astropy.table import Table

    from nightjard.calib.frames import Frame

#: A flat above this part of the converter's range is not used: there it is not linear.
_LINEAR_PART = 0.8
_POINT_PART = 0.2
_FLAT_PART = 0.1


# --- point sources ---


def judge_points(work: Work, found: dict[tuple[int, int], dict[str, Any]]) -> None:
    """Leave the table ``photometry``; judge background, width and saturation time."""
    table = spot_check.photometry_table(work, found)
    if not len(table):
        work.results.flag("STARS_MISSING", cause="no spot was measured on any frame")
        return
    work.results.table("photometry", table, caption="Measures of all spots", show=False)
    spot_judging.judge_spots(
        work, table,
        {
            "background": Measure(table["background"], "ADU", "BGD_OOL", Limit(-1.0, 5.0)),
            "fwhm": Measure(spot_check.mean_fwhm(table), "px", "FOCUS_OOL", Limit(0.5, 10.0)),
        },
    )  # fmt: skip
    times = spot_check.saturation_times(work, table)
    if len(times):
        work.results.table("saturation", times, caption="Time to saturation of every spot")
    spot_judging.judge_saturation(work, times, spot_check.wave_of(work), "point", _POINT_PART)
    _draw(work, table, "flux", "Flux of spots / ADU")


def _draw(work: Work, table: Table, name: str, label: str) -> None:
    lines: dict[tuple[int, str], list[tuple[Any, Any, str]]] = {}
    key = "id" if "id" in table.colnames else "quadrant"
    for ccd, quadrant, one in sorted(
        {(int(r["ccd"]), str(r["quadrant"]), str(r[key])) for r in table}
    ):
        rows = table[(table["ccd"] == ccd) & (table[key] == one) & (table["quadrant"] == quadrant)]
        rows.sort("open_s")
        lines.setdefault((ccd, quadrant), []).append((rows["open_s"], rows[name], one[1:] or one))
    figure = curves(
        work.detector,
        lines,
        title=f"{work.dataset.test}: {label.split(' /')[0].lower()}",
        x_label="time the shutter was open / s",
        y_label=label,
    )
    work.results.figure(f"{name}_vs_time_open", figure, caption=label)


# --- flat fields ---


def measure_flat(frame: Frame, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the fluence of each quadrant, ADU above offset: the ``frame_check`` of FLATFLUX00."""
    del arguments
    detector = frame.detector
    found: dict[str, Any] = {}
    for quadrant in detector.names:
        raw = frame.raw(quadrant)[frame.vstart : frame.vend]
        image = raw[: detector.image_rows, detector.columns_of("image", is_trimmed=True)]
        # A sixteenth of the pixels tells the median to a hundredth of an ADU.
        step = 4 if image.size > 1_000_000 else 1
        part = image[::step, ::step].astype(np.float32)
        offset = 0.0
        if detector.offset_sector != "none":
            scan = raw[
                : detector.image_rows,
                detector.columns_of(detector.offset_sector, is_trimmed=True),
            ]
            middle = float(np.median(scan))
            offset = float(scan[np.abs(scan - middle) <= 8].mean())
        level = float(np.median(part)) - offset
        spread = 1.2533 * 1.4826 * float(np.median(np.abs(part - np.median(part))))
        found[quadrant] = {
            "fluence": level,
            "fluence_error": spread / math.sqrt(part.size),
            "saturated": float((part >= detector.saturation_adu).mean()),
        }
    return {"quadrants": found}


def judge_flats(work: Work, found: dict[tuple[int, int], dict[str, Any]]) -> None:
    """Leave the tables ``fluence`` and ``saturation``; judge both."""
    table = flat_table(work, found)
    if not len(table):
        work.results.flag("BADDATA", cause="no flat field was measured")
        return
    work.results.table("fluence", table, caption="Fluence of every frame and quadrant", show=False)
    full = float(work.detector.adc_full_scale)
    limits = Limits(work.limits)
    nominal = work.dataset.profile.saturation_s("flat", spot_check.wave_of(work))
    groups = sorted({(int(r["ccd"]), str(r["quadrant"]), str(r["column"])) for r in table})
    for ccd, quadrant, label in groups:
        one = table[
            (table["ccd"] == ccd) & (table["quadrant"] == quadrant) & (table["column"] == label)
        ]
        expected = min(float(np.median(one["exptime"])) / nominal, 1.0) * full
        limit = limits.of("fluence", label) or Limit(0.9 * expected, 1.1 * expected)
        limit = spot_judging.as_open(limit, one)
        if limit.low is not None and limit.low > 0.9 * full:
            # A shutter that is slower than the light saturates: there is no more than full.
            limit = limit._replace(low=0.9 * full)
        work.results.compliance(
            "fluence",
            float(np.median(one["fluence"])),
            limit.low,
            limit.high,
            unit="ADU",
            flag="FLUENCE_OOL",
            ccd=ccd,
            quadrant=quadrant,
            column=label,
        )
    times = flat_saturation(table, full)
    if len(times):
        work.results.table("saturation", times, caption="Time to saturation of every quadrant")
    spot_judging.judge_saturation(work, times, spot_check.wave_of(work), "flat", _FLAT_PART)
    _draw(work, table, "fluence", "Fluence / ADU")


def flat_table(work: Work, found: dict[tuple[int, int], dict[str, Any]]) -> Table:
    """Return the fluences, one row a frame and quadrant."""
    from astropy.table import Table

    frames = {(frame.obsid, frame.ccd): frame for frame in work.dataset.frames}
    rows = []
    for key in sorted(found):
        frame = frames[key]
        seconds = frame.exposure_s
        for quadrant, values in found[key].get("quadrants", {}).items():
            rows.append(
                {
                    "obsid": frame.obsid,
                    "ccd": frame.ccd,
                    "quadrant": quadrant,
                    "column": frame.label,
                    "exptime": seconds,
                    "open_s": work.dataset.profile.actual_exposure_s(seconds),
                    **values,
                }
            )
    return spot_check.with_units(
        Table(rows=rows) if rows else Table(),
        {"fluence": "adu", "fluence_error": "adu"},
    )


def flat_saturation(table: Table, full_adu: float) -> Table:
    """Return how long each quadrant takes to the top of the converter, s, with its error.

    The rate is a weighted mean over exposures, with at least 0.2 % for the lamp's drift.
    """
    from astropy.table import Table

    rows = []
    for ccd, quadrant in sorted({(int(r["ccd"]), str(r["quadrant"])) for r in table}):
        one = table[(table["ccd"] == ccd) & (table["quadrant"] == quadrant)]
        fluence = np.asarray(one["fluence"], float)
        seconds = np.asarray(one["open_s"], float)
        used = (seconds > 0) & (fluence > 0) & (fluence < _LINEAR_PART * full_adu)
        used &= np.asarray(one["saturated"], float) < 0.01
        if not used.any():
            continue
        rate = fluence[used] / seconds[used]
        # Half an ADU of offset counts for short exposures.
        error = np.hypot(
            np.hypot(np.asarray(one["fluence_error"], float)[used], 0.5) / seconds[used],
            0.002 * rate,
        )
        weight = error**-2
        mean = float((weight * rate).sum() / weight.sum())
        chi2 = float((weight * (rate - mean) ** 2).sum()) / max(int(used.sum()) - 1, 1)
        part = math.sqrt(max(chi2, 1.0) / float(weight.sum())) / mean
        rows.append(
            {
                "ccd": ccd,
                "quadrant": quadrant,
                "rate": mean,
                "saturation_time": full_adu / mean,
                "saturation_time_error": part * full_adu / mean,
                "exposures": int(used.sum()),
            }
        )
    return spot_check.with_units(
        Table(rows=rows) if rows else Table(),
        {"rate": "adu / s", "saturation_time": "s", "saturation_time_error": "s"},
    )


POINT_FLUX = Task(
    title="Saturation times of point sources",
    subtasks=(
        Subtask("lock", locking.lock, "Star lock"),
        Subtask("relock", locking.relock, "Star lock applied"),
        Subtask("check", check, "Data validation"),
    ),
    frame_check=spot_check.measure_spots,
    frame_check_arguments=locking.spot_arguments,
    judge=judge_points,
    workers=(locking.find_stars,),
    options=locking.SpotOptions,
)

FLAT_FLUX = Task(
    title="Saturation times of flat fields",
    subtasks=(Subtask("check", check, "Data validation"),),
    frame_check=measure_flat,
    judge=judge_flats,
)
