# SPDX-License-Identifier: BSD-3-Clause
"""FLAT01, FLAT02, FLAT_STB: flat fields, response of pixels, stability of the lamp.

===============  =================================================================================
``indivflats``   illumination of every frame: medians of 25-px boxes, a spline through them; only
                 the medians are kept (``intermediate``), flats are made again where wanted
``masterflat``   for each column of the script: mean over frames of frame / illumination and its
                 error; non-uniformity of the response without the noise of the flats
``prmask``       pixels with an odd response, or one that changes with the fluence
===============  =================================================================================

A model of 25-px boxes takes structure with it that is larger: what is left is the response of
pixels, not that of the detector as a whole.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from nightjar.config.load import StrictModel
from nightjar.fits.cards import Card
from nightjard.calib.checks import checked, draw
from nightjard.calib.checks_judging import judge_fluence
from nightjard.calib.dataset import CcdFrame
from nightjard.calib.preparing import (
    PREPARE_WORKERS,
    is_dry,
    prep_subtask,
    prepared_bytes,
    recipes_of,
)
from nightjard.calib.science.defects import merge_defects
from nightjard.calib.science.illumination import BOX_PX
from nightjard.calib.science.pixel_response import (
    odd_pixels,
    response_at_no_light,
    response_of,
)
from nightjard.calib.science.read_noise import drift_of
from nightjard.calib.task import Subtask, Task
from nightjard.calib.tasks.flat_frames import (
    FLAT_WORKERS,
    UNLIT_ADU,
    illuminate,
    stack_flats,
)
from nightjard.calib.work import Work

if TYPE_CHECKING:
    from astropy.table import Table

Bad = NDArray[np.bool_]
Group = tuple[int, int]
_BAND_BYTES = 120_000_000
_MOST_LOST = 0.5  # share of pixels of a master flat without a value: it is lost


class FlatOptions(StrictModel):
    """What a campaign may set."""

    box_px: int = Field(BOX_PX, ge=4, le=500, description="Side of the boxes of the illumination.")
    clip_sigma: float = Field(5.0, gt=1, description="Of the mean over frames: cosmic rays.")
    response_low: float = Field(0.8, gt=0, lt=1, description="Response below is odd.")
    response_high: float = Field(1.2, gt=1, description="Response above is odd.")


def check_flat(work: Work) -> None:
    """Check the data; judge the fluences."""
    table = checked(work)
    if table is not None:
        judge_fluence(work, table)
    draw(work, table)


# --- individual flats ---


def indivflats(work: Work) -> None:
    """Measure how each frame is illuminated."""
    if is_dry(work):
        return
    options = FlatOptions.model_validate(dict(work.options))
    recipes = recipes_of(work)
    frames = [one for ccd in recipes for one in work.dataset.of_ccd(ccd)]
    items = [
        {"path": str(one.path), "detector": work.detector_name, "box_px": options.box_px,
         "recipe": recipes[one.ccd].as_json(), "out": _grid_path(work, one)}
        for one in frames
    ]  # fmt: skip
    found = work.map(illuminate, items, stage="flats illuminated",
                     memory_bytes=prepared_bytes(work))  # fmt: skip
    table = _fluence_table(work, frames, found)
    work.results.table("FLUENCE", table, show=False, caption="Fluence of every frame")
    _stability(work, table)


def _grid_path(work: Work, frame: CcdFrame) -> str:
    return str(work.intermediate / f"illumination_{frame.obsid}_ccd{frame.ccd}.npz")


def _fluence_table(work: Work, frames: list[CcdFrame], found: list[dict[str, Any]]) -> Table:
    from astropy.table import Table

    start = min(frame.utc_ns for frame in frames)
    rows = [
        {"obsid": frame.obsid, "ccd": frame.ccd, "quadrant": quadrant, "column": frame.label,
         "hours": (frame.utc_ns - start) / 3.6e12, "wave_nm": work.dataset.wave_nm(frame),
         "fluence": one["fluence"], "gradient": one["gradient"]}
        for frame, quadrants in zip(frames, found, strict=True)
        for quadrant, one in quadrants.items()
    ]  # fmt: skip
    table = Table(rows=rows)
    table["fluence"].unit, table["hours"].unit = "adu", "h"
    return table


def _stability(work: Work, table: Table) -> None:
    """Tell how the lamp drifts: relative fluence of the frames of each column along the test."""
    points = {}
    for ccd, quadrant in sorted(set(zip(table["ccd"], table["quadrant"], strict=True))):
        own = table[np.asarray((table["ccd"] == ccd) & (table["quadrant"] == quadrant))]
        relative = np.asarray(own["fluence"], float).copy()
        relative[relative < UNLIT_ADU] = math.nan  # a frame that is lost is no change of the lamp
        for label in dict.fromkeys(own["column"].tolist()):
            one = np.asarray(own["column"] == label)
            known = relative[one][np.isfinite(relative[one])]
            relative[one] /= known.mean() if known.size else math.nan
            _, slope, scatter = drift_of(np.asarray(own["hours"])[one], relative[one])
            work.results.value("lamp_drift", slope.value * 100, error=slope.error * 100,
                               unit="%/h", ccd=int(ccd), quadrant=str(quadrant),
                               column=str(label))  # fmt: skip
            work.results.value("lamp_scatter", scatter * 100, unit="%", ccd=int(ccd),
                               quadrant=str(quadrant), column=str(label))  # fmt: skip
        points[int(ccd), str(quadrant)] = {
            "hours": np.asarray(own["hours"], float), "fluence": 100.0 * (relative - 1.0),
        }  # fmt: skip
    from nightjard.calib import plotting

    figure = plotting.trend(
        work.detector, points, "hours", {"fluence": "fluence"}, y_label="fluence less mean / %",
        title=f"{work.dataset.test}: stability", x_label="hours since the first exposure",
    )  # fmt: skip
    work.results.figure("stability", figure, caption="Fluence of every frame, relative to the "
                        "mean of its column")  # fmt: skip


# --- master flats ---


def masterflat(work: Work) -> None:
    """Make the master flats of every CCD, wavelength and column; measure the response."""
    if is_dry(work):
        return
    options = FlatOptions.model_validate(dict(work.options))
    recipes = recipes_of(work)
    groups = _groups(work)
    if not groups:
        work.results.flag("BADDATA", cause="no frame is of a column of the script")
        return
    items = [
        {"paths": [str(one.path) for one in frames], "detector": work.detector_name,
         "grids": [_grid_path(work, one) for one in frames], "quadrant": quadrant,
         "recipe": recipes[ccd].as_json(), "clip_sigma": options.clip_sigma,
         "band_bytes": _BAND_BYTES, "out": str(work.intermediate / (
             f"flat_ccd{ccd}_col{column + 1:03d}_{quadrant}.npy"))}
        for (ccd, column), frames in groups.items() for quadrant in work.detector.names
    ]  # fmt: skip
    found = iter(work.map(stack_flats, items, stage="flats stacked",
                          memory_bytes=2 * _BAND_BYTES + prepared_bytes(work)))  # fmt: skip
    table_rows: list[dict[str, Any]] = []
    shown: dict[int, Any] = {}
    for (ccd, column), frames in groups.items():
        planes = {quadrant: next(found) for quadrant in work.detector.names}
        flat = _write_master(work, ccd, column, frames, planes, table_rows)
        shown.setdefault(ccd, flat)
    _tell(work, table_rows)
    from nightjard.calib import plotting

    figure = plotting.images(shown, label="relative", title=f"{work.dataset.test}: master flat")
    work.results.figure("masterflat", figure, caption="Master flat of the first column, "
                        "5 to 95 %")  # fmt: skip


def _groups(work: Work) -> dict[Group, list[CcdFrame]]:
    """Return the frames of every CCD and column that has any."""
    return {
        (ccd, column): frames
        for ccd in work.dataset.ccds
        for column, frames in work.dataset.by_column(ccd).items() if frames
    }  # fmt: skip


def _product(work: Work, ccd: int, column: int, frames: list[CcdFrame]) -> str:
    return f"EUC_FF_{work.dataset.wave_nm(frames[0])}nm_col{column + 1:03d}_ROE1_CCD{ccd}"


def _write_master(
    work: Work, ccd: int, column: int, frames: list[CcdFrame], planes: dict[str, dict[str, Any]],
    rows: list[dict[str, Any]],
) -> NDArray[np.float32]:  # fmt: skip
    detector = work.detector
    loaded = {quadrant: np.load(one["out"], mmap_mode="r") for quadrant, one in planes.items()}
    flat = detector.assemble({quadrant: one[0] for quadrant, one in loaded.items()})
    error = detector.assemble(
        {quadrant: one[1] / np.sqrt(np.maximum(one[2], 1)) for quadrant, one in loaded.items()}
    )
    serial = work.dataset.serials.get(f"sn_ccd{ccd}", "UNKNOWN")
    fluences = [one["fluence"] for one in planes.values()]
    wave_nm = work.dataset.wave_nm(frames[0])
    cards = [
        Card("PRODUCT", "MASTERFLAT", "what this is"),
        Card("BLOCK", work.dataset.block, "block of detectors"),
        Card("CCDSN", serial, "serial number of the CCD"),
        Card("CCD", ccd, "which CCD of the block"),
        Card("NCOMB", len(frames), "frames combined"),
        Card("WAVEL", wave_nm, "wavelength, nm"),
        Card("FLUENCE", round(float(np.mean(fluences)), 3), "of a frame, ADU"),
    ]
    work.results.image(_product(work, ccd, column, frames), {"FLAT": flat, "EFLAT": error}, cards)
    for quadrant, one in loaded.items():
        image, std, counts = (detector.sector(one[plane], "image") for plane in range(3))
        gain = work.gain_e_adu(ccd, quadrant)
        response = response_of(
            image, std, counts == 0, frames=_in_mean(counts), gain_e_adu=gain,
            fluence_adu=planes[quadrant]["fluence"],
            read_noise_adu=detector.read_noise_e / detector.gain_e_adu,
        )  # fmt: skip
        where: dict[str, Any] = {"ccd": ccd, "quadrant": quadrant, "column": f"col{column + 1:03d}"}
        work.results.value("prnu", response.prnu.value * 100, error=response.prnu.error * 100,
                           unit="%", **where)  # fmt: skip
        rows.append({
            **where, "wave_nm": wave_nm, "NCOMB": _in_mean(counts),
            "AVFLUENCE": planes[quadrant]["fluence"], "TOTAL_PC": response.total.value * 100,
            "NOISE_PC": response.noise_measured * 100, "NOISE_GAIN_PC": response.noise_expected
            * 100, "PRNU_PC": response.prnu.value * 100, "PRNU_PC_ERROR": response.prnu.error * 100,
        })  # fmt: skip
    return flat


def _in_mean(counts: NDArray[Any]) -> int:
    """Return of how many frames the mean of most pixels is; 0 where no pixel counts."""
    known = counts[counts > 0]
    return int(np.median(known)) if known.size else 0


def _tell(work: Work, rows: list[dict[str, Any]]) -> None:
    from astropy.table import Table

    from nightjard.calib import plotting

    if not rows:
        return
    table = Table(rows=rows)
    table["AVFLUENCE"].unit, table["wave_nm"].unit = "adu", "nm"
    for name in table.colnames:
        if "_PC" in name:
            table[name].unit = "percent"
    work.results.table("PRNU_TB", table, caption="Non-uniformity of the response of pixels: "
                       "deviation of the master flat, noise in it, what is left")  # fmt: skip
    lines: dict[tuple[int, str], list[tuple[Any, Any, str]]] = {}
    for row in rows:
        lines.setdefault((row["ccd"], row["quadrant"]), [])
    for ccd, quadrant in lines:
        own = [row for row in rows if (row["ccd"], row["quadrant"]) == (ccd, quadrant)]
        x = [row["AVFLUENCE"] for row in own]
        lines[ccd, quadrant] = [(x, [row["PRNU_PC"] for row in own], "response"),
                                (x, [row["NOISE_PC"] for row in own], "noise")]  # fmt: skip
        faint = response_at_no_light(
            x, [row["PRNU_PC"] for row in own], [row["PRNU_PC_ERROR"] for row in own]
        )
        if math.isfinite(faint.value):
            work.results.value(
                "prnu_faint", faint.value, error=faint.error, unit="%", ccd=ccd,
                quadrant=quadrant, note="at no light: without what charge pushes away",
            )  # fmt: skip
    figure, axes = plotting.panels(
        work.detector, sorted({ccd for ccd, _ in lines}), x="fluence / ADU", y="deviation / %",
        title=f"{work.dataset.test}: non-uniformity of the response",
    )  # fmt: skip
    for channel, some in lines.items():
        for colour, (x, y, _) in zip(plotting.COLOURS, some, strict=False):
            axes[channel].plot(x, y, "o-", ms=4, lw=0.7, color=colour)
    work.results.figure("prnu", figure, caption="Response of pixels (blue) and noise left in the "
                        "master flats (red)")  # fmt: skip


# --- odd pixels ---


def prmask(work: Work) -> None:
    """Find pixels whose response is odd, or changes with the fluence."""
    if is_dry(work):
        return
    from astropy.io import fits
    from astropy.table import Table

    options = FlatOptions.model_validate(dict(work.options))
    detector, rows = work.detector, []
    groups = _groups(work)
    for ccd in work.dataset.ccds:
        paths = [work.image_path("masterflat", _product(work, ccd, column, frames))
                 for (one, column), frames in groups.items() if one == ccd]  # fmt: skip
        if not paths:
            work.results.flag("BADDATAPROD", cause=f"CCD{ccd}: there is no master flat", ccd=ccd)
            continue
        mask = np.zeros(detector.frame_shape, bool)
        for quadrant in detector.names:
            both = [
                [detector.sector(detector.canonical(fits.getdata(path, name), quadrant), "image")
                 for name in ("FLAT", "EFLAT")] for path in paths
            ]  # fmt: skip
            # A column of which hardly a pixel is known (lost, saturated) says nothing of pixels.
            known = [pair for pair in both if (pair[0] == 0).mean() < _MOST_LOST] or both[:1]
            flats, errors = [pair[0] for pair in known], [pair[1] for pair in known]
            lost = np.logical_or.reduce([flat == 0 for flat in flats])
            beyond, changes = odd_pixels(flats, errors, lost, low=options.response_low,
                                         high=options.response_high)  # fmt: skip
            whole = np.zeros(detector.quadrant_shape, bool)
            detector.sector(whole, "image")[...] = beyond | changes | lost
            bad, columns = merge_defects(detector, whole)
            detector.canonical(mask, quadrant)[...] = bad
            numbers = {
                "N_RESPONSE": int(beyond.sum()), "N_CHANGES": int(changes.sum()),
                "N_LOST": int(lost.sum()), "NCOLS": len(columns), "N_BAD": int(bad.sum()),
            }  # fmt: skip
            rows.append({"ccd": ccd, "quadrant": quadrant, **numbers})
            work.results.value("odd_pixels", numbers["N_BAD"], unit="px", ccd=ccd,
                               quadrant=quadrant)  # fmt: skip
        serial = work.dataset.serials.get(f"sn_ccd{ccd}", "UNKNOWN")
        work.results.image(
            f"EUC_PRMASK_{work.dataset.block}_CCD{ccd}_SN_{serial}", {"MASK": mask},
            [Card("MASKTYPE", "response", "what the pixels are bad in"),
             Card("SN", serial, "serial of the CCD"), Card("CCD", ccd, "which CCD of the block"),
             Card("THRESH", f"{options.response_low:g} {options.response_high:g}",
                  "relative response")],
        )  # fmt: skip
    if rows:
        work.results.table("PRMASK", Table(rows=rows), caption="Pixels with an odd response, with "
                           "one that changes with the fluence, without any")  # fmt: skip


FLAT = Task(
    "Flat field",
    (
        Subtask("check", check_flat, "Data validation"),
        prep_subtask(offset="row"),
        Subtask("indivflats", indivflats, "Individual flats"),
        Subtask("masterflat", masterflat, "Master flats and response of pixels"),
        Subtask("prmask", prmask, "Pixels with an odd response"),
    ),
    workers=(*PREPARE_WORKERS, *FLAT_WORKERS),
    options=FlatOptions,
)

