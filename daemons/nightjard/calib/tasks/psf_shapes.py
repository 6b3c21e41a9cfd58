# SPDX-License-Identifier: BSD-3-Clause
"""Sub-tasks ``basic``, ``basic_nobfe`` and ``meta`` of PSF01: shapes of spots against signal.

Ellipticities are along the axes of the silicon (x to the right, y up), whichever way a quadrant is
read; skewness is along the directions of transfer (canonical axes).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from nightjar.calibration.coordinates import convert
from nightjar.calibration.detector import load_detector
from nightjar.errors import Refused
from nightjard.calib.plotting import COLOURS, panels
from nightjard.calib.science.gaussian_fit import gaussian_pixels
from nightjard.calib.science.moments import WEIGHT_SIGMA_PX, residual_skewness, shapes
from nightjard.calib.science.sources import FWHM_PER_SIGMA
from nightjard.calib.science.spot_growth import (
    NO_LINE,
    PIVOT_ADU,
    Line,
    mean_line,
    robust_line,
    weighted_mean,
    without_transfer,
)
from nightjard.calib.science.spots import Stamps, outliers
from nightjard.calib.tasks import spot_check
from nightjard.calib.tasks.psf_stamps import StampFile, read_stamps, stamp_files
from nightjard.calib.work import Work

if TYPE_CHECKING:
    from astropy.table import Table

#: Bad pixels this near to the centre spoil a spot, px.
_CLEAN_PX = 4.5
_MEASURES = {
    "fwhm_x": ("fwhm_x", "fwhm_x_error", "px"), "fwhm_y": ("fwhm_y", "fwhm_y_error", "px"),
    "e1": ("e1", "e1_error", ""), "e2": ("e2", "e2_error", ""), "r2": ("r2", "r2_error", "px2"),
    "skew_x": ("skew_x", "skew_error", ""), "skew_y": ("skew_y", "skew_error", ""),
}  # fmt: skip
_UNITS = {"r2": "pix2", "r2_error": "pix2", "a": "pix", "b": "pix", "phys_x": "pix",
          "phys_y": "pix"}  # fmt: skip


# --- in workers ---


def measure_stamps(
    path: str, detector: str, ccd: int, first: int, stop: int, ids: list[str],
    quadrants: list[str], gains: dict[str, float], search_px: float,
    weight_sigma_px: float = WEIGHT_SIGMA_PX,
) -> list[list[dict[str, Any]]]:  # fmt: skip
    """Measure the stamps of a run of frames; return rows of measures, by frame.

    Raises
    ------
    StorageError
        The stamps cannot be read.
    """
    del ccd
    kind = load_detector(detector)
    stamps, x0, y0 = read_stamps(path, first, stop)
    half = stamps.shape[-1] // 2
    gain = np.array([gains[quadrant] for quadrant in quadrants])
    found: list[list[dict[str, Any]]] = []
    for pixels, xs, ys in zip(stamps, x0, y0, strict=True):
        bad = ~np.isfinite(pixels)
        spots = [
            [name, quadrant, "", float(x + half), float(y + half)]
            for name, quadrant, x, y in zip(ids, quadrants, xs, ys, strict=True)
        ]
        cut = Stamps(np.where(bad, 0.0, pixels), bad, xs, ys)
        seen = np.flatnonzero(~bad.all(axis=(1, 2)))
        if not len(seen):
            found.append([])
            continue
        cut = Stamps(cut.pixels[seen], bad[seen], xs[seen], ys[seen])
        spots = [spots[i] for i in seen]
        found.append(_measure_frame(kind, spots, cut, gain[seen], search_px, weight_sigma_px))
    return found


def _measure_frame(
    kind: Any, spots: list[list[Any]], cut: Stamps, gain: Any, search_px: float, weight_px: float
) -> list[dict[str, Any]]:
    light = spot_check.together(kind, spots, cut, gain, search_px)
    x, y = light.x - cut.x0, light.y - cut.y0
    rest = np.where(cut.bad, 0.0, cut.pixels - light.background[:, None, None])
    bad = cut.bad | outliers(rest, cut.bad, x, y, light.background_sigma)
    shape = shapes(rest, bad, x, y, noise=light.background_sigma, gain_e_adu=gain,
                   weight_sigma_px=weight_px)  # fmt: skip
    side = cut.pixels.shape[1]
    axis = np.tile(np.arange(side, dtype=float), (len(spots), 1))
    values = np.stack(
        [light.fit_flux, x, y, light.fwhm_x / FWHM_PER_SIGMA, light.fwhm_y / FWHM_PER_SIGMA,
         np.zeros_like(x)], axis=1,
    )  # fmt: skip
    model, _ = gaussian_pixels(values, axis, axis)
    variance = light.background_sigma[:, None, None] ** 2 + model / gain[:, None, None]
    skew_x, skew_y, skew_error = residual_skewness(
        rest - model, bad, x, y, light.fit_flux, variance
    )
    near = np.hypot(axis[:, None, :] - x[:, None, None], axis[:, :, None] - y[:, None, None])
    spoiled = (cut.bad & (near < _CLEAN_PX)).sum(axis=(1, 2))
    turned = np.array(
        [-1.0 if kind.quadrants[s[1]].reads_from_right != kind.quadrants[s[1]].reads_from_top
         else 1.0 for s in spots]
    )  # fmt: skip
    columns = light.columns() | shape.columns()
    columns["e2"] = columns["e2"] * turned
    columns |= {"skew_x": skew_x, "skew_y": skew_y, "skew_error": skew_error,
                "bad_px": spoiled}  # fmt: skip
    return [
        {"id": spot[0], "quadrant": spot[1]}
        | {name: _plain(column[i]) for name, column in columns.items()}
        for i, spot in enumerate(spots)
    ]


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


# --- basic ---


def basic(work: Work) -> None:
    """Leave the table ``spots``: photometry, fits, moments of every spot of every frame.

    Raises
    ------
    Refused
        ``prep`` was not done.
    """
    if work.is_drill:
        return
    _measure(work, stamp_files(work, "prep", "Spots"), "spots", "Shapes of all spots")


def basic_nobfe(work: Work) -> None:
    """Leave the table ``spots_nobfe``, of the stamps without brighter-fatter.

    Raises
    ------
    Refused
        ``corrBFE_G15`` was not done.
    """
    if work.is_drill:
        return
    found = stamp_files(work, "corrBFE_G15", "SpotsNoBFE")
    if not found:
        work.results.note("no corrected stamps: nothing was measured without brighter-fatter")
        return
    _measure(work, found, "spots_nobfe", "Shapes of all spots without brighter-fatter")


def _measure(work: Work, products: list[StampFile], name: str, caption: str) -> None:
    from astropy.table import Table

    if not products:
        raise Refused(f"{work.dataset.test}: {work.results.subtask} has no stamps; do prep again")
    search = float(work.options.get("search_px", 25.0))
    weight = float(work.options.get("weight_sigma_px", WEIGHT_SIGMA_PX))
    items, frames = [], []
    for one in products:
        gains = {quadrant: work.gain_e_adu(one.ccd, quadrant) for quadrant in work.detector.names}
        for first, stop in one.chunks():
            frames.append((one.ccd, one.obsids[first:stop]))
            items.append(
                {"path": str(one.path), "detector": work.detector_name, "ccd": one.ccd,
                 "first": first, "stop": stop, "ids": one.ids,
                 "quadrants": one.quadrants, "gains": gains,
                 "search_px": search, "weight_sigma_px": weight}
            )  # fmt: skip
    heads = _heads(work)
    rows = []
    for (ccd, obsids), found in zip(
        frames, work.map(measure_stamps, items, stage="shapes of spots"), strict=True
    ):
        for obsid, spots in zip(obsids, found, strict=True):
            rows += [
                heads[obsid, ccd]
                | {key: math.nan if value is None else value for key, value in spot.items()}
                for spot in spots
            ]
    table = Table(rows=rows)
    phys = [
        convert(work.detector, row["x"], row["y"], "qcan", "phys", str(row["quadrant"]))
        for row in rows
    ]
    table["phys_x"] = [float(x) for x, _ in phys]
    table["phys_y"] = [float(y) for _, y in phys]
    work.results.table(name, spot_check.with_units(table, _UNITS), caption=caption, show=False)


def _heads(work: Work) -> dict[tuple[int, int], dict[str, Any]]:
    profile = work.dataset.profile
    return {
        (frame.obsid, frame.ccd): {
            "obsid": frame.obsid, "ccd": frame.ccd, "column": frame.label,
            "exptime": frame.exposure_s, "open_s": profile.actual_exposure_s(frame.exposure_s),
        }
        for frame in work.dataset.frames
    }  # fmt: skip


# --- meta ---


def meta(work: Work) -> None:
    """Leave the table ``psf``: shape at 2^15 ADU, at no light, growth; of quadrants and all.

    Raises
    ------
    Refused
        ``basic`` was not done.
    """
    if work.is_drill:
        return
    kinds = {"measured": work.table("basic", "spots")}
    try:
        kinds["corrected"] = work.table("basic_nobfe", "spots_nobfe")
    except Refused:
        work.results.note("no stamps without brighter-fatter: shapes as measured only")
    rows: list[dict[str, Any]] = []
    lines: dict[str, dict[tuple[int, str], dict[str, list[Line]]]] = {}
    for kind, table in kinds.items():
        lines[kind] = spot_lines(table[usable(table, work.detector.point_saturation_adu)])
        rows += _quadrant_rows(work, kind, lines[kind])
        _record_all(work, kind, lines[kind])
        _record_untrailed(work, kind, table, lines[kind])
    if not rows:
        work.results.flag("BADDATAPROD", cause="no spot can be used for shapes")
        return
    from astropy.table import Table

    work.results.table("psf", Table(rows=rows), caption="Shape of stars: at 2^15 ADU, growth per "
                       "1e4 ADU, and at no light")  # fmt: skip
    for name in ("fwhm_x", "fwhm_y"):
        _draw_growth(work, kinds, lines, name)
    _draw_skewness(work, kinds["measured"])


def usable(table: Table, most_adu: float) -> Any:
    """Tell which rows can be used for shapes: good, clean, below what counts as saturated."""
    if not len(table):  # no stamp has a pixel that counts: such a table has no columns
        return np.zeros(0, bool)
    return (
        np.asarray(table["is_good"], bool) & (np.asarray(table["bad_px"]) == 0)
        & (np.asarray(table["peak"], float) < most_adu)
    )  # fmt: skip


def spot_lines(table: Table) -> dict[tuple[int, str], dict[str, list[Line]]]:
    """Return lines of measures against the peak, by CCD and quadrant; spots in order of name."""
    found: dict[tuple[int, str], dict[str, list[Line]]] = {}
    keys = sorted({(int(r["ccd"]), str(r["quadrant"]), str(r["id"])) for r in table})
    for ccd, quadrant, name in keys:
        one = table[(table["ccd"] == ccd) & (table["id"] == name)]
        for measure, (column, error, _unit) in _MEASURES.items():
            line = robust_line(one["fit_peak"], one[column], one[error])
            found.setdefault((ccd, quadrant), {}).setdefault(measure, []).append(line)
    return found


def _quadrant_rows(
    work: Work, kind: str, lines: dict[tuple[int, str], dict[str, list[Line]]]
) -> list[dict[str, Any]]:
    rows = []
    for (ccd, quadrant), measures in lines.items():
        row: dict[str, Any] = {"kind": kind, "ccd": ccd, "quadrant": quadrant}
        for name, of_spots in measures.items():
            line = mean_line(of_spots)
            row |= _line_columns(name, line)
            if name in ("fwhm_x", "fwhm_y", "e1", "e2", "r2") and line.is_good:
                _record(work, name, line, {"ccd": ccd, "quadrant": quadrant, "kind": kind})
            row["spots"] = max(row.get("spots", 0), sum(one.is_good for one in of_spots))
        rows.append(row)
    return rows


def _line_columns(name: str, line: Line) -> dict[str, float]:
    return {
        name: line.at_pivot, f"{name}_error": line.at_pivot_error,
        f"{name}_growth": line.slope, f"{name}_growth_error": line.slope_error,
        f"{name}_faint": line.at_zero, f"{name}_faint_error": line.at_zero_error,
    }  # fmt: skip


def _record(work: Work, name: str, line: Line, where: dict[str, Any]) -> None:
    unit = _MEASURES[name][2]
    work.results.value(name, line.at_pivot, error=line.at_pivot_error, unit=unit, **where)
    work.results.value(f"{name}_growth", line.slope, error=line.slope_error,
                       unit=f"{unit}/1e4 ADU" if unit else "1/1e4 ADU", **where)  # fmt: skip
    work.results.value(f"{name}_faint", line.at_zero, error=line.at_zero_error, unit=unit,
                       **where)  # fmt: skip


def _record_all(
    work: Work, kind: str, lines: dict[tuple[int, str], dict[str, list[Line]]]
) -> None:
    """Record the means of all spots."""
    for name in _MEASURES:
        line = mean_line([one for measures in lines.values() for one in measures[name]])
        if line.is_good:
            _record(work, name, line, {"kind": kind})


def _record_untrailed(
    work: Work, kind: str, table: Table, lines: dict[tuple[int, str], dict[str, list[Line]]]
) -> None:
    """Record shapes at no light and no transfer: what the optics make, without charge trailing.

    Moments reach far: charge left behind by some thousandths turns up in e1 and R2.
    """
    places: list[tuple[float, float]] = []
    good = table[usable(table, work.detector.point_saturation_adu)]
    for ccd, quadrant in lines:
        one = good[(good["ccd"] == ccd) & (good["quadrant"] == quadrant)]
        for name in sorted({str(spot) for spot in one["id"]}):
            spot = one[one["id"] == name]
            places.append((float(np.median(spot["y"])) + 1, float(np.median(spot["x"])) + 1))
    rows, columns = np.array(places).reshape(-1, 2).T
    for name in ("e1", "e2", "r2"):
        spots = [line for measures in lines.values() for line in measures[name]]
        value, error = without_transfer(
            [line.at_zero for line in spots], [line.at_zero_error for line in spots], rows, columns
        )
        if math.isfinite(value):
            work.results.value(f"{name}_untrailed", value, error=error, unit=_MEASURES[name][2],
                               kind=kind, note="at no light and no transfer")  # fmt: skip


def _draw_growth(
    work: Work, kinds: dict[str, Table],
    lines: dict[str, dict[tuple[int, str], dict[str, list[Line]]]], name: str,
) -> None:  # fmt: skip
    """Draw a width against the peak: spots, mean lines, and what no growth would look like."""
    ccds = sorted({int(ccd) for ccd in kinds["measured"]["ccd"]})
    axis = name[-1]
    figure, axes = panels(
        work.detector, ccds, title=f"{work.dataset.test}: FWHM along {axis} against the peak",
        x="peak / ADU", y="FWHM / px",
    )  # fmt: skip
    for colour, (kind, table) in zip(COLOURS, kinds.items(), strict=False):
        good = table[usable(table, work.detector.point_saturation_adu)]
        for channel, one in axes.items():
            here = good[(good["ccd"] == channel[0]) & (good["quadrant"] == channel[1])]
            one.plot(here["fit_peak"], here[name], ".", ms=2, color=colour, alpha=0.6)
            line = mean_line(lines[kind].get(channel, {}).get(name, [NO_LINE]))
            if line.is_good and len(here):
                ends = np.array([0.0, float(np.max(here["fit_peak"]))])
                one.plot(ends, line.at(ends), lw=1, color=colour, label=kind)
                if kind == "measured":
                    one.plot(ends, [float(line.at(0.0))] * 2, "--", lw=0.6, color="#888888")
    handles = [(h, label) for h, label in zip(*next(iter(axes.values()))
               .get_legend_handles_labels(), strict=True)]  # fmt: skip
    if handles:
        figure.legend([h for h, _ in handles], [label for _, label in handles], fontsize=8,
                      loc="upper right", frameon=False, ncols=len(handles))  # fmt: skip
    work.results.figure(
        f"{name}_vs_peak", figure,
        caption=f"FWHM along {axis} against the peak; broken: no growth; lines cross the pivot "
        f"{PIVOT_ADU:.0f} ADU",
    )  # fmt: skip


def _draw_skewness(work: Work, table: Table) -> None:
    """Draw how lopsided spots are against the transfers, and record the trend per 1000 px."""
    good = table[usable(table, work.detector.point_saturation_adu)]
    if not len(good):
        return
    ccds = sorted({int(ccd) for ccd in good["ccd"]})
    for direction, place in (("x", "x"), ("y", "y")):
        figure, axes = panels(
            work.detector, ccds, x=f"canonical {place} / px", y="skewness",
            title=f"{work.dataset.test}: skewness along {direction} against transfers",
        )  # fmt: skip
        for channel, one in axes.items():
            here = good[(good["ccd"] == channel[0]) & (good["quadrant"] == channel[1])]
            means = []
            for name in sorted({str(spot) for spot in here["id"]}):
                spot = here[here["id"] == name]
                value, error = weighted_mean(spot[f"skew_{direction}"], spot["skew_error"])
                means.append((float(np.median(spot[place])), value, error))
            if means:
                xs, ys, es = (np.array(column) for column in zip(*means, strict=True))
                one.errorbar(xs, ys, es, fmt="o", ms=3, lw=0.8, color=COLOURS[0])
            one.axhline(0.0, lw=0.6, ls="--", color="#888888")
        work.results.figure(
            f"skewness_{direction}", figure,
            caption=f"Light left along {direction} by a symmetric fit; positive: charge deferred "
            "in transfer",
        )  # fmt: skip
