# SPDX-License-Identifier: BSD-3-Clause
"""FOCUS00: the mirror position of best focus, the width there, the tilt of the detectors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from nightjar.calibration.chamber import physical_size
from nightjar.calibration.coordinates import convert
from nightjar.errors import Refused
from nightjard.calib.checks import check
from nightjard.calib.limits import Limit
from nightjard.calib.plotting import COLOURS, legend, new_figure, panels
from nightjard.calib.science.focus_fit import (
    FocusCurve,
    FocusPlane,
    fit_focus,
    fit_plane,
    growth_with_light,
    pushing_light,
    sweep_problem,
)
from nightjard.calib.science.spot_growth import weighted_mean
from nightjard.calib.task import Subtask, Task
from nightjard.calib.tasks import locking, spot_check, spot_judging
from nightjard.calib.tasks.spot_judging import Measure
from nightjard.calib.work import Work

if TYPE_CHECKING:
    from astropy.table import Table

#: A chamber's focus is trusted within this of its profile; farther is told.
_FAR_MM = 0.2
_FLUENCE_PART = (0.40, 0.75)
#: How well the law of growth by brighter-fatter is known, in parts of the growth.
_GROWTH_PART = 0.05


# --- check ---


def judge(work: Work, found: dict[tuple[int, int], dict[str, Any]]) -> None:
    """Leave the table ``photometry``; judge background, width, fluence, saturation time."""
    table = spot_check.photometry_table(work, found)
    if not len(table):
        work.results.flag("STARS_MISSING", cause="no spot was measured on any frame")
        return
    work.results.table("photometry", table, caption="Measures of all spots", show=False)
    low, high = fluence_limits(work.detector.point_saturation_adu)
    spot_judging.judge_spots(
        work, table,
        {
            "background": Measure(table["background"], "ADU", "BGD_OOL", Limit(-5.0, 10.0)),
            "fwhm": Measure(spot_check.mean_fwhm(table), "px", "FOCUS_OOL", Limit(0.5, 10.0)),
            "spot_fluence": Measure(
                table["flux"], "ADU", "FLUENCE_OOL", Limit(low, high), is_light=True
            ),
        },
    )  # fmt: skip
    times = spot_check.saturation_times(work, table)
    if len(times):
        work.results.table("saturation", times, caption="Time to saturation of every spot")
    spot_judging.judge_saturation(work, times, spot_check.wave_of(work), "point", 0.2)
    _draw_sweep(work, table, "flux", "Flux of spots / ADU")
    _draw_sweep(work, table, "fwhm_x", "FWHM along x / px")
    _draw_sweep(work, table, "fwhm_y", "FWHM along y / px")


def fluence_limits(peak_adu: float) -> tuple[float, float]:
    """Return the fluence that spots should have, ADU: 40 to 75 % of that of a saturated one.

    That is one of 2.5 px with this peak.
    """
    whole = spot_check.FLUX_PER_PEAK_PX2 * peak_adu
    return _FLUENCE_PART[0] * whole, _FLUENCE_PART[1] * whole


def _draw_sweep(
    work: Work, table: Table, name: str, label: str, curves: dict[Any, FocusCurve] | None = None
) -> None:
    """Draw a measure of all spots along the mirror, a panel a quadrant, with fitted curves."""
    ccds = sorted({int(ccd) for ccd in table["ccd"]})
    figure, axes = panels(
        work.detector, ccds, title=f"{work.dataset.test}: {label.split(' /')[0].lower()}",
        x="mirror / mm", y=label,
    )  # fmt: skip
    for (ccd, quadrant), one in axes.items():
        here = table[(table["ccd"] == ccd) & (table["quadrant"] == quadrant)]
        for colour, spot in zip(COLOURS, sorted({str(s) for s in here["id"]}), strict=False):
            rows = here[(here["id"] == spot) & np.asarray(here["is_good"], bool)]
            rows.sort("mirr_pos")
            if not len(rows):
                continue
            z = np.asarray(rows["mirr_pos"], float)
            fit = (curves or {}).get((ccd, spot))
            line = "o" if fit is not None else ".-"
            one.plot(z, rows[name], line, ms=3, lw=0.7, color=colour, label=rows["spot"][0])
            if fit is not None and fit.is_good:
                fine = np.linspace(z.min(), z.max(), 100)
                one.plot(fine, fit.fwhm_px(fine), lw=0.7, color=colour)
    legend(figure, axes)
    work.results.figure(f"{name}_vs_mirror", figure, caption=f"{label} along the mirror")


# --- basic ---


def basic(work: Work) -> None:
    """Leave the table ``curves``: width of every spot at every mirror position, with errors.

    Raises
    ------
    Refused
        No spot was measured by ``check``.
    """
    if work.is_drill:
        return
    table = work.table("check", "photometry")
    good = np.asarray(table["is_good"], bool) & np.isfinite(np.asarray(table["mirr_pos"], float))
    table = table[good & (np.asarray(table["saturated_px"]) == 0)]
    if not len(table):
        raise Refused(
            f"{work.dataset.test}: basic has no spot that is neither lost nor saturated; "
            "look at the check"
        )
    table["fwhm"] = spot_check.mean_fwhm(table)
    table["fwhm_error"] = spot_check.mean_fwhm_error(table)
    for name in ("fwhm", "fwhm_error"):
        table[name].unit = "pix"
    table.sort(["ccd", "id", "mirr_pos", "obsid"])
    names = ["obsid", "ccd", "column", "id", "quadrant", "spot", "x", "y", "mirr_pos", "fwhm",
             "fwhm_error", "fwhm_x", "fwhm_x_error", "fwhm_y", "fwhm_y_error", "fwhm_x_moments",
             "fwhm_y_moments", "peak", "fit_peak", "flux", "flux_error", "is_good"]  # fmt: skip
    kept = table[names]
    work.results.table("curves", kept, caption="Widths along the sweep", show=False)


# --- meta ---


def meta(work: Work) -> None:
    """Fit the focus: values ``best_focus``, ``best_fwhm``, ``focus_tilt_x`` ..., table ``focus``.

    Raises
    ------
    Refused
        ``basic`` was not done.
    """
    if work.is_drill:
        return
    table = work.table("basic", "curves")
    curves = fit_spots(table)
    rows = focus_rows(work, table, curves)
    planes = {
        ccd: fit_plane(*(np.array([row[name] for row in rows if row["ccd"] == ccd], float)
                         for name in ("u", "v", "focus", "focus_error")))
        for ccd in sorted({row["ccd"] for row in rows})
    }  # fmt: skip
    _mark(rows, planes)
    focus = spot_check.with_units(_focus_table(rows))
    work.results.table("focus", focus, caption="Best focus of every spot")
    _record(work, rows, planes, curves, np.asarray(table["mirr_pos"], float))
    _record_without_light(work, table, rows, curves)
    _draw_sweep(work, table, "fwhm", "FWHM / px", curves)
    _draw_map(work, rows, planes)


def fit_spots(table: Table) -> dict[tuple[int, str], FocusCurve]:
    """Return the focus curve of every spot of the table ``curves``: (CCD, id)."""
    curves = {}
    for key in sorted({(int(row["ccd"]), str(row["id"])) for row in table}):
        one = table[(table["ccd"] == key[0]) & (table["id"] == key[1])]
        curves[key] = fit_focus(one["mirr_pos"], one["fwhm"], one["fwhm_error"])
    return curves


def focus_rows(
    work: Work, table: Table, curves: dict[tuple[int, str], FocusCurve]
) -> list[dict[str, Any]]:
    """Return one row a spot: place, focus, widths; u and v are its place from -1 to 1."""
    width, height = physical_size(work.detector)
    rows = []
    for (ccd, name), curve in curves.items():
        one = table[(table["ccd"] == ccd) & (table["id"] == name)]
        x, y = float(np.median(one["x"])), float(np.median(one["y"]))
        quadrant = str(one["quadrant"][0])
        px, py = convert(work.detector, x, y, "qcan", "phys", quadrant)
        rows.append(
            {"ccd": ccd, "id": name, "quadrant": quadrant, "spot": str(one["spot"][0]), "x": x,
             "y": y, "phys_x": float(px), "phys_y": float(py),
             "u": 2 * (float(px) + 0.5) / width - 1, "v": 2 * (float(py) + 0.5) / height - 1,
             "focus": curve.z0_mm, "focus_error": curve.z0_error_mm, "f0": curve.f0_px,
             "f0_error": curve.f0_error_px, "slope": curve.slope_px_mm,
             "slope_error": curve.slope_error_px_mm, "chi2": curve.chi2,
             "points": sum(curve.used), "rejected_points": len(curve.used) - sum(curve.used),
             "problem": "" if curve.is_good else "no minimum", "is_used": False}
        )  # fmt: skip
    return rows


def _mark(rows: list[dict[str, Any]], planes: dict[int, FocusPlane | None]) -> None:
    """Tell which spots the planes used."""
    for ccd, plane in planes.items():
        here = [row for row in rows if row["ccd"] == ccd]
        used = plane.used if plane is not None else [row["problem"] == "" for row in here]
        for row, is_used in zip(here, used, strict=True):
            row["is_used"] = bool(is_used)
            if not is_used and not row["problem"]:
                row["problem"] = "far from the plane of the others"


def _focus_table(rows: list[dict[str, Any]]) -> Table:
    from astropy.table import Table

    units = {"focus": "mm", "focus_error": "mm", "f0": "pix", "f0_error": "pix",
             "slope": "pix / mm", "slope_error": "pix / mm", "phys_x": "pix",
             "phys_y": "pix"}  # fmt: skip
    return spot_check.with_units(Table(rows=rows), units)


def _record(
    work: Work, rows: list[dict[str, Any]], planes: dict[int, FocusPlane | None],
    curves: dict[tuple[int, str], FocusCurve], mirror: Any,
) -> None:  # fmt: skip
    wave = spot_check.wave_of(work)
    results = work.results
    for ccd, plane in planes.items():
        _record_ccd(work, ccd, plane, wave)
    best, error = best_focus(rows, planes)
    used = [row for row in rows if row["is_used"]]
    results.value("best_focus", best, error=error, unit="mm", wave=wave,
                  note="middle of the field, mean of the CCDs")  # fmt: skip
    if not math.isfinite(best):
        results.flag("BADFIT", cause="no spot has a focus within the sweep", wave=wave)
        results.flag("FOCUS_OOL", cause="no best focus was found", wave=wave)
        return
    widths = [float(curves[row["ccd"], row["id"]].fwhm_px(best)) for row in used]
    fwhm = weighted_mean(widths, [row["f0_error"] for row in used])
    results.value("best_fwhm", fwhm[0], error=fwhm[1], unit="px", wave=wave,
                  note="mean of the spots at best focus")  # fmt: skip
    least = weighted_mean([row["f0"] for row in used], [row["f0_error"] for row in used])
    results.value("f0", least[0], error=least[1], unit="px", wave=wave,
                  note="mean of each spot's own least width")  # fmt: skip
    slope = weighted_mean([r["slope"] for r in used], [r["slope_error"] for r in used])
    results.value("focus_slope", slope[0], error=slope[1], unit="px/mm", wave=wave)
    results.value("focus_spots", len(used), unit="", wave=wave)
    nominal = work.dataset.profile.mirror_mm(wave)
    results.value("focus_offset", best - nominal, error=error, unit="mm", wave=wave,
                  note=f"profile: {nominal:g} mm")  # fmt: skip
    if abs(best - nominal) > _FAR_MM:
        results.note(
            f"best focus {best:.3f} mm is {best - nominal:+.3f} mm from the profile's; "
            "propose a new profile"
        )
    problem = sweep_problem(mirror, best)
    if problem:
        results.flag("FOCUS_OOL", cause=problem, metric="best_focus", value=best, wave=wave)


def _record_without_light(
    work: Work, table: Table, rows: list[dict[str, Any]],
    curves: dict[tuple[int, str], FocusCurve],
) -> None:  # fmt: skip
    """Record the least width of faint spots: without what they grow by their own light."""
    keys = [(row["ccd"], row["id"]) for row in rows if row["is_used"]]
    spots = [table[(table["ccd"] == ccd) & (table["id"] == name)] for ccd, name in keys]
    z, fwhm, sigma, peak = (
        [np.asarray(one[name], float) for one in spots]
        for name in ("mirr_pos", "fwhm", "fwhm_error", "fit_peak")
    )
    light = [pushing_light(*one) for one in zip(peak, fwhm, strict=True)]
    growth, error = growth_with_light([curves[key] for key in keys], z, fwhm, sigma, light)
    if not math.isfinite(growth):
        return
    faint = [
        fit_focus(at, np.sqrt(np.maximum(width**2 - growth * one, 0.01)), width_error)
        for at, width, width_error, one in zip(z, fwhm, sigma, light, strict=True)
    ]
    least = weighted_mean([one.f0_px for one in faint], [one.f0_error_px for one in faint])
    if not math.isfinite(least[0]):
        return
    wave = spot_check.wave_of(work)
    top = float(np.median([one.max() for one in light]))
    # How a profile grows is known to some per cent only, whatever the sweep says.
    error = math.hypot(error, _GROWTH_PART * growth)
    total = math.hypot(least[1], error * top / (2 * least[0]))
    work.results.value("f0_faint", least[0], error=total, unit="px", wave=wave,
                       note="least width at no light, brighter-fatter taken off")  # fmt: skip
    per_peak = 1e4 * top / float(np.median([one.max() for one in peak]))
    work.results.value("fwhm_squared_growth", growth * per_peak, error=error * per_peak,
                       unit="px2/1e4 ADU", wave=wave, note="with the peak, in focus")  # fmt: skip


def _record_ccd(work: Work, ccd: int, plane: FocusPlane | None, wave: int) -> None:
    results = work.results
    if plane is None:
        results.flag("BADFIT", cause=f"CCD{ccd}: fewer than four spots have a focus", ccd=ccd)
        return
    where: dict[str, Any] = {"ccd": ccd, "wave": wave}
    results.value("focus", plane.centre_mm, error=plane.centre_error_mm, unit="mm", **where)
    results.value("focus_tilt_x", plane.tilt_x_mm, error=plane.tilt_x_error_mm, unit="mm",
                  note="from left to right edge", **where)  # fmt: skip
    results.value("focus_tilt_y", plane.tilt_y_mm, error=plane.tilt_y_error_mm, unit="mm",
                  note="from bottom to top edge", **where)  # fmt: skip
    results.value("focus_rms", plane.rms_mm, unit="mm", note="of spots about the plane", **where)


def best_focus(
    rows: list[dict[str, Any]], planes: dict[int, FocusPlane | None]
) -> tuple[float, float]:
    """Return the best focus of all CCDs and its error, mm.

    The mean over CCDs of the plane at the middle of the field: spots that are missing on one side
    do not pull it along the tilt. Without a plane, the mean of the spots.
    """
    fitted = [plane for plane in planes.values() if plane is not None]
    if fitted:
        values = [plane.centre_mm for plane in fitted]
        formal = float(np.sqrt(np.sum([p.centre_error_mm**2 for p in fitted]))) / len(fitted)
        return float(np.mean(values)), formal
    used = [row for row in rows if row["is_used"]]
    return weighted_mean([row["focus"] for row in used], [row["focus_error"] for row in used])


def _draw_map(
    work: Work, rows: list[dict[str, Any]], planes: dict[int, FocusPlane | None]
) -> None:
    """Draw the best focus of the spots over each CCD, and the plane through them."""
    values = [row["focus"] for row in rows if row["is_used"]]
    if not values:
        return
    figure = new_figure(3.6 * len(planes) + 0.8, 4.0)
    grid = figure.subplots(1, len(planes), squeeze=False)[0]
    figure.suptitle(f"{work.dataset.test}: best focus over the field", fontsize=11)
    figure.subplots_adjust(left=0.06, right=0.88, top=0.85, bottom=0.1, wspace=0.15)
    width, height = physical_size(work.detector)
    low, high = min(values), max(values)
    picture: Any = None
    for axes, (ccd, plane) in zip(grid, planes.items(), strict=True):
        if plane is not None:
            axis = np.linspace(-1, 1, 40)
            axes.imshow(plane.at(axis[None, :], axis[:, None]), origin="lower", vmin=low,
                        vmax=high, extent=(0, width, 0, height), cmap="viridis")  # fmt: skip
        here = [row for row in rows if row["ccd"] == ccd and row["is_used"]]
        picture = axes.scatter(
            [row["phys_x"] for row in here], [row["phys_y"] for row in here],
            c=[row["focus"] for row in here], vmin=low, vmax=high, cmap="viridis",
            edgecolors="black", linewidths=0.6, s=40,
        )  # fmt: skip
        axes.set_xlim(0, width)
        axes.set_ylim(0, height)
        axes.set_title(f"CCD{ccd}", fontsize=9)
        axes.tick_params(labelsize=7)
    bar = figure.add_axes((0.91, 0.15, 0.015, 0.65))
    figure.colorbar(picture, cax=bar)
    bar.set_title("mm", fontsize=8)
    bar.tick_params(labelsize=7)
    work.results.figure("focus_map", figure, caption="Best focus of every spot and the plane")


FOCUS = Task(
    title="Best focus",
    subtasks=(
        Subtask("lock", locking.lock, "Star lock"),
        Subtask("relock", locking.relock, "Star lock applied"),
        Subtask("check", check, "Data validation"),
        Subtask("basic", basic, "Widths along the sweep"),
        Subtask("meta", meta, "Best focus"),
    ),
    frame_check=spot_check.measure_spots,
    frame_check_arguments=locking.spot_arguments,
    judge=judge,
    workers=(locking.find_stars,),
    options=locking.SpotOptions,
)
