# SPDX-License-Identifier: BSD-3-Clause
"""What the common check measures of the spots of a frame, and how that is judged."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nightjar.calibration.detector import Detector
from nightjard.calib.limits import Limit, Limits
from nightjard.calib.science.sources import FWHM_PER_SIGMA
from nightjard.calib.science.spots import Photometry, Stamps, cut, photometry
from nightjard.calib.tasks.locking import mirror_mm
from nightjard.calib.work import Work

if TYPE_CHECKING:
    from astropy.table import Table

    from nightjard.calib.frames import Frame

#: Width of a star at which saturation times of point sources hold, px.
ANCHOR_FWHM_PX = 2.5
#: Spots that lie this much farther from the common shift than others are searched for again.
_STRAY_PX = 5.0

_UNITS = {
    "x": "pix", "y": "pix", "x_error": "pix", "y_error": "pix", "background": "adu",
    "background_sigma": "adu", "peak": "adu", "flux": "adu", "flux_error": "adu",
    "fwhm_x_moments": "pix", "fwhm_y_moments": "pix", "fwhm_x": "pix", "fwhm_y": "pix",
    "fwhm_x_error": "pix", "fwhm_y_error": "pix", "fit_flux": "adu", "fit_peak": "adu",
    "exptime": "s", "open_s": "s", "mirr_pos": "mm", "wave_nm": "nm",
}  # fmt: skip


# --- in a worker ---


def measure_spots(frame: Frame, arguments: dict[str, Any]) -> dict[str, Any]:
    """Measure all spots of a frame: the ``frame_check`` of tests with point sources.

    Parameters
    ----------
    arguments
        ``spots``: column label -> list of [id, quadrant, name, x, y] (canonical); ``label``;
        ``gains``: quadrant -> electrons per ADU; ``search_px``.

    Returns
    -------
    dict
        ``spots``: one row of measures for each. Backgrounds are above the quadrant's offset.
    """
    by_label: dict[str, list[list[Any]]] = arguments.get("spots", {})
    spots = by_label.get(arguments.get("label", "")) or next(iter(by_label.values()), [])
    if not spots:
        return {"spots": []}
    stamps = _stamps(frame, spots)
    gains = np.array([float(arguments["gains"][spot[1]]) for spot in spots])
    search = float(arguments.get("search_px", 25.0))
    found = together(frame.detector, spots, stamps, gains, search)
    saturated = saturated_near(frame, spots, found)
    rows = []
    columns = found.columns()
    offsets = {quadrant: _offset(frame, quadrant) for quadrant in {spot[1] for spot in spots}}
    for i, (name, quadrant, spot, *_place) in enumerate(spots):
        row = {"id": name, "quadrant": quadrant, "spot": spot}
        row |= {key: _plain(values[i]) for key, values in columns.items()}
        level = row["background"]
        row["background"] = None if level is None else level - offsets[quadrant]
        row["saturated_px"] = int(saturated[i])
        rows.append(row)
    return {"spots": rows}


def _stamps(frame: Frame, spots: list[list[Any]]) -> Stamps:
    """Cut stamps of the image area; their places are canonical."""
    detector = frame.detector
    parts: list[tuple[list[int], Stamps]] = []
    for quadrant in dict.fromkeys(spot[1] for spot in spots):
        which = [i for i, spot in enumerate(spots) if spot[1] == quadrant]
        raw = frame.raw(quadrant)[: detector.image_rows, detector.columns_of("image")]
        stamps = cut(
            raw, np.array([spots[i][3] for i in which]) - detector.prescan,
            np.array([spots[i][4] for i in which]),
        )  # fmt: skip
        bad = stamps.bad | (stamps.pixels == 0) | (stamps.pixels >= detector.saturation_adu)
        stamps = Stamps(stamps.pixels, bad, stamps.x0 + detector.prescan, stamps.y0)
        parts.append((which, stamps))
    order = np.argsort(np.concatenate([which for which, _ in parts]), kind="stable")
    return Stamps(
        *(np.concatenate([getattr(part, name) for _, part in parts])[order]
          for name in ("pixels", "bad", "x0", "y0"))
    )  # fmt: skip


def together(
    detector: Detector, spots: list[list[Any]], stamps: Stamps, gains: NDArray[Any],
    search_px: float,
) -> Photometry:  # fmt: skip
    """Measure the spots of a CCD, which move together: strays are searched for a second time."""
    x, y = (np.array([spot[i] for spot in spots], float) for i in (3, 4))
    found = photometry(stamps, gain_e_adu=gains, expected=(x, y), search_px=search_px)
    flips = [detector.quadrants[spot[1]] for spot in spots]
    sign_x = np.array([-1.0 if place.reads_from_right else 1.0 for place in flips])
    sign_y = np.array([-1.0 if place.reads_from_top else 1.0 for place in flips])
    good = found.is_good
    if good.sum() < 4:
        return found
    shift_x = float(np.median((sign_x * (found.x - x))[good]))
    shift_y = float(np.median((sign_y * (found.y - y))[good]))
    expected = (x + sign_x * shift_x, y + sign_y * shift_y)
    far = np.hypot(found.x - expected[0], found.y - expected[1]) > _STRAY_PX
    stray = far | ~good
    if not stray.any():
        return found
    again = photometry(
        Stamps(stamps.pixels[stray], stamps.bad[stray], stamps.x0[stray], stamps.y0[stray]),
        gain_e_adu=gains[stray], expected=(expected[0][stray], expected[1][stray]),
        search_px=_STRAY_PX,
    )  # fmt: skip
    merged = {name: np.array(values) for name, values in found.columns().items()}
    for name, values in again.columns().items():
        merged[name][stray] = values
    off = np.hypot(merged["x"] - expected[0], merged["y"] - expected[1]) > _STRAY_PX
    merged["is_good"] &= ~off
    return Photometry(**merged)


def saturated_near(frame: Frame, spots: list[list[Any]], found: Photometry) -> NDArray[np.intp]:
    """Count the pixels at the top of the converter within 6 px of each spot."""
    counts = np.zeros(len(spots), np.intp)
    for i, spot in enumerate(spots):
        if np.isfinite(found.x[i]) and np.isfinite(found.y[i]):
            x, y = round(float(found.x[i])), round(float(found.y[i]))
            part = frame.raw(spot[1])[max(y - 6, 0) : y + 7, max(x - 6, 0) : x + 7]
            counts[i] = int((part >= frame.detector.saturation_adu).sum())
    return counts


def _offset(frame: Frame, quadrant: str) -> float:
    detector = frame.detector
    if detector.offset_sector == "none":
        return 0.0
    scan = frame.raw(quadrant)[
        frame.vstart : frame.vend, detector.columns_of(detector.offset_sector, is_trimmed=True)
    ]
    values = scan[: detector.image_rows : max(detector.image_rows // 500, 1)].astype(float)
    middle = np.median(values)
    # A median of whole numbers is coarse: the mean of what is near it is not.
    return float(values[np.abs(values - middle) <= 8].mean())


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


# --- judged ---


def photometry_table(work: Work, found: dict[tuple[int, int], dict[str, Any]]) -> Table:
    """Return what was measured of all spots of all frames, one row each.

    Beside the measures: ``obsid ccd column id quadrant spot exptime open_s mirr_pos wave_nm``;
    open_s is how long the shutter really was open.
    """
    from astropy.table import Table

    profile = work.dataset.profile
    frames = {(frame.obsid, frame.ccd): frame for frame in work.dataset.frames}
    rows = []
    for key in sorted(found):
        frame = frames[key]
        mirror = mirror_mm(frame)
        head = {
            "obsid": frame.obsid, "ccd": frame.ccd, "column": frame.label,
            "exptime": frame.exposure_s, "open_s": profile.actual_exposure_s(frame.exposure_s),
            "mirr_pos": math.nan if mirror is None else mirror,
            "wave_nm": work.dataset.wave_nm(frame),
        }  # fmt: skip
        for spot in found[key].get("spots", ()):
            row = {name: math.nan if value is None else value for name, value in spot.items()}
            rows.append(head | row)
    return with_units(Table(rows=rows) if rows else Table())


def with_units(table: Table, units: dict[str, str] | None = None) -> Table:
    """Return a table whose columns have their units."""
    for name in table.colnames:
        unit = (units or {}).get(name, _UNITS.get(name))
        if unit:
            table[name].unit = unit
    return table


def saturation_times(work: Work, table: Table) -> Table:
    """Return how long a star takes to saturate, for every spot, s, with its error.

    Its flux must reach that of a star of 2.5 px FWHM and the peak that counts as saturated. The
    rate is fitted over all exposures through zero at no exposure; those with saturated pixels do
    not count.
    """
    from astropy.table import Table

    full = work.detector.point_saturation_adu
    needed = 2.0 * math.pi * (ANCHOR_FWHM_PX / FWHM_PER_SIGMA) ** 2 * full
    rows = []
    for key in sorted({(int(row["ccd"]), str(row["id"])) for row in table}):
        one = table[(table["ccd"] == key[0]) & (table["id"] == key[1])]
        used = np.asarray(one["is_good"], bool) & (np.asarray(one["saturated_px"]) == 0)
        used &= (np.asarray(one["peak"], float) < full) & (np.asarray(one["open_s"], float) > 0)
        if not used.any():
            continue
        seconds = np.asarray(one["open_s"], float)[used]
        flux = np.asarray(one["flux"], float)[used]
        error = np.maximum(np.asarray(one["flux_error"], float)[used], 0.002 * flux)
        weight = 1.0 / error**2
        rate = float((weight * seconds * flux).sum() / (weight * seconds**2).sum())
        chi2 = float((weight * (flux - rate * seconds) ** 2).sum()) / max(len(flux) - 1, 1)
        rate_error = math.sqrt(max(chi2, 1.0) / float((weight * seconds**2).sum()))
        if rate <= 0:
            continue
        seconds_needed = needed / rate
        rows.append(
            {"ccd": key[0], "id": key[1], "quadrant": str(one["quadrant"][0]),
             "rate": rate, "saturation_time": seconds_needed,
             "saturation_time_error": seconds_needed * rate_error / rate,
             "exposures": int(used.sum())}
        )  # fmt: skip
    table = Table(rows=rows) if rows else Table()
    return with_units(
        table, {"rate": "adu / s", "saturation_time": "s", "saturation_time_error": "s"}
    )


def judge_saturation(work: Work, table: Table, wave_nm: int, source: str, part: float) -> None:
    """Record saturation times and judge them by the chamber's profile.

    Values: ``saturation_time`` of the block (what a new profile would say) and of every quadrant.

    Parameters
    ----------
    table
        Rows of measures: ccd, quadrant, saturation_time, saturation_time_error.
    part
        How far they may be from the profile where the limits of the test do not say.
    """
    if not len(table):
        work.results.flag(
            "FLUX_OOL", cause=f"no {source} exposure tells how long until saturation"
        )
        return
    nominal = work.dataset.profile.saturation_s(source, wave_nm)
    limit = Limits(work.limits).of("saturation_s") or Limit(
        (1 - part) * nominal, (1 + part) * nominal, "s"
    )
    quadrants = []
    for ccd, quadrant in sorted({(int(r["ccd"]), str(r["quadrant"])) for r in table}):
        one = table[(table["ccd"] == ccd) & (table["quadrant"] == quadrant)]
        value, error = middle(one["saturation_time"], one["saturation_time_error"])
        quadrants.append((value, error))
        where: dict[str, Any] = {"ccd": ccd, "quadrant": quadrant, "wave": wave_nm}
        work.results.value("saturation_time", value, error=error, unit="s", **where)
        work.results.compliance(
            "saturation_time", value, limit.low, limit.high, unit="s", flag="FLUX_OOL", **where
        )
    value, error = middle([one[0] for one in quadrants], [one[1] for one in quadrants])
    work.results.value(
        "saturation_time", value, error=error, unit="s", wave=wave_nm, source=source,
        note=f"profile: {nominal:g} s",
    )  # fmt: skip
    work.results.value(
        "saturation_time_ratio", value / nominal, error=error / nominal, wave=wave_nm,
        source=source,
    )  # fmt: skip


def middle(values: Iterable[Any], errors: Iterable[Any]) -> tuple[float, float]:
    """Return the median of measures of different things alike, and its error.

    The error is the larger of what the scatter and what the errors say.
    """
    one = np.asarray(list(values), float)
    error = np.asarray(list(errors), float)
    good = np.isfinite(one)
    one, error = one[good], error[good]
    if not len(one):
        return math.nan, math.nan
    centre = float(np.median(one))
    scatter = float(np.std(one, ddof=1)) if len(one) > 1 else 0.0
    formal = float(np.sqrt(np.nanmean(error**2))) if len(error) else 0.0
    # A median of normal values scatters 1.25 times as much as their mean.
    return centre, 1.2533 * max(scatter, formal) / math.sqrt(len(one))


def judge_spots(work: Work, table: Table, measures: dict[str, tuple[Any, str, str, Limit]]) -> None:
    """Judge measures of spots by the limits of each column.

    The worst spot of a quadrant counts; of backgrounds their median.

    Parameters
    ----------
    measures
        Name of the limit -> (values for the rows of the table, unit, flag, limit where the test
        has none).
    """
    limits = Limits(work.limits)
    channels = sorted(
        {(int(r["ccd"]), str(r["quadrant"]), str(r["column"])) for r in table}
    )  # fmt: skip
    good = np.asarray(table["is_good"], bool)
    for ccd, quadrant, label in channels:
        here = np.asarray(
            (table["ccd"] == ccd) & (table["quadrant"] == quadrant) & (table["column"] == label)
        )
        where: dict[str, Any] = {"ccd": ccd, "quadrant": quadrant, "column": label}
        if not (here & good).any():
            work.results.flag(
                "STARS_MISSING", cause=f"CCD{ccd} {quadrant} {label}: no spot can be measured",
                severity="warning", **where,
            )  # fmt: skip
            continue
        for name, (values, unit, flag, fallback) in measures.items():
            limit = limits.of(name, label) or fallback
            one = np.asarray(values, float)[here & good]
            value = float(np.median(one)) if name == "background" else _worst(one, limit)
            work.results.compliance(
                name, value, limit.low, limit.high, unit=unit, flag=flag, **where
            )


def _worst(values: NDArray[Any], limit: Limit) -> float:
    """Return the value that is farthest outside of a limit, or nearest to its end."""
    low = -math.inf if limit.low is None else limit.low
    high = math.inf if limit.high is None else limit.high
    room = np.minimum(values - low, high - values)
    return float(values[int(np.argmin(np.nan_to_num(room, nan=-math.inf, posinf=1e300)))])


def mean_fwhm(table: Table) -> NDArray[Any]:
    """Return the width of spots: the root mean square of both axes, px."""
    return np.asarray(
        np.sqrt((np.asarray(table["fwhm_x"]) ** 2 + np.asarray(table["fwhm_y"]) ** 2) / 2)
    )


def mean_fwhm_error(table: Table) -> NDArray[Any]:
    """Return the error of :func:`mean_fwhm`, px."""
    x, y = np.asarray(table["fwhm_x"], float), np.asarray(table["fwhm_y"], float)
    ex, ey = np.asarray(table["fwhm_x_error"], float), np.asarray(table["fwhm_y_error"], float)
    return np.asarray(np.hypot(x * ex, y * ey) / np.sqrt(2 * (x**2 + y**2)))


def wave_of(work: Work) -> int:
    """Return the wavelength of a test with point sources, nm."""
    for frame in work.dataset.frames:
        if frame.is_usable:
            return work.dataset.wave_nm(frame)
    return work.dataset.wave_nm(work.dataset.frames[0])
