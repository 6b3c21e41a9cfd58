# SPDX-License-Identifier: BSD-3-Clause
"""What the common check measures of the spots of a frame, and the tables made of it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nightjar.calibration.detector import Detector
from nightjard.calib.prepare import bias_structure, mask_plane
from nightjard.calib.science.sources import FWHM_PER_SIGMA
from nightjard.calib.science.spots import STAMP_PX, Photometry, Stamps, cut, photometry
from nightjard.calib.tasks.locking import mirror_mm
from nightjard.calib.work import Work

if TYPE_CHECKING:
    from astropy.table import Table

    from nightjard.calib.frames import Frame

#: Width of a star at which saturation times of point sources hold, px.
ANCHOR_FWHM_PX = 2.5
#: Flux of such a star beside its peak.
FLUX_PER_PEAK_PX2 = 2.0 * math.pi * (ANCHOR_FWHM_PX / FWHM_PER_SIGMA) ** 2
#: Spots that lie this much farther from the common shift than others are searched for again.
_STRAY_PX = 5.0
#: By how much the offset of the image may differ from that of its scans, where no master bias says:
#: this, and half of what one scan differs from the other.
_STRUCTURE_ADU = 1.0

_UNITS = {
    "x": "pix", "y": "pix", "x_error": "pix", "y_error": "pix", "background": "adu",
    "background_sigma": "adu", "peak": "adu", "flux": "adu", "flux_error": "adu",
    "fwhm_x_moments": "pix", "fwhm_y_moments": "pix", "fwhm_x": "pix", "fwhm_y": "pix",
    "fwhm_x_error": "pix", "fwhm_y_error": "pix", "fit_flux": "adu", "fit_peak": "adu",
    "structure": "adu", "exptime": "s", "open_s": "s", "mirr_pos": "mm", "wave_nm": "nm",
}  # fmt: skip


# --- in a worker ---


def measure_spots(frame: Frame, arguments: dict[str, Any]) -> dict[str, Any]:
    """Measure all spots of a frame: the ``frame_check`` of tests with point sources.

    Parameters
    ----------
    arguments
        ``spots``: column label -> list of [id, quadrant, name, x, y] (canonical); ``label``;
        ``gains``: quadrant -> electrons per ADU; ``search_px``; ``mask``, ``bias``: paths of a
        cosmetics mask and a master bias.

    Returns
    -------
    dict
        ``spots``: one row of measures for each. Backgrounds are above the quadrant's offset, and
        the structure of the bias where there is one; ``structure`` is how far that is known, ADU.
    """
    by_label: dict[str, list[list[Any]]] = arguments.get("spots", {})
    spots = by_label.get(arguments.get("label", "")) or next(iter(by_label.values()), [])
    if not spots:
        return {"spots": []}
    stamps = _stamps(frame, spots, arguments.get("mask"))
    gains = np.array([float(arguments["gains"][spot[1]]) for spot in spots])
    search = float(arguments.get("search_px", 25.0))
    found = together(frame.detector, spots, stamps, gains, search)
    saturated = saturated_near(frame, spots, found)
    rows = []
    columns = found.columns()
    bias = arguments.get("bias")
    names = {spot[1] for spot in spots}
    offsets = {quadrant: _offset(frame, quadrant) for quadrant in names}
    structures = {quadrant: 0.0 if bias else _structure(frame, quadrant) for quadrant in names}
    for i, (name, quadrant, spot, x, y) in enumerate(spots):
        row = {"id": name, "quadrant": quadrant, "spot": spot}
        row |= {key: _plain(values[i]) for key, values in columns.items()}
        if row["background"] is not None:
            row["background"] -= offsets[quadrant] + _of_bias(frame, quadrant, bias, x, y)
        row["structure"] = structures[quadrant]
        row["saturated_px"] = int(saturated[i])
        rows.append(row)
    return {"spots": rows}


def _stamps(frame: Frame, spots: list[list[Any]], mask: str | None = None) -> Stamps:
    """Cut stamps of the image area; their places are canonical."""
    detector = frame.detector
    parts: list[tuple[list[int], Stamps]] = []
    for quadrant in dict.fromkeys(spot[1] for spot in spots):
        which = [i for i, spot in enumerate(spots) if spot[1] == quadrant]
        area = (slice(0, detector.image_rows), detector.columns_of("image"))
        stamps = cut(
            frame.raw(quadrant)[area], np.array([spots[i][3] for i in which]) - detector.prescan,
            np.array([spots[i][4] for i in which]),
            bad=None if mask is None else mask_plane(detector, mask, quadrant)[area],
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


def _structure(frame: Frame, quadrant: str) -> float:
    """Return how far the offset of the image may be from that of the scan, ADU."""
    overscan = frame.detector.columns_of("overscan", is_trimmed=True)
    if frame.detector.offset_sector != "prescan" or overscan.stop <= overscan.start:
        return _STRUCTURE_ADU
    gradient = _level(frame, quadrant, overscan) - _offset(frame, quadrant)
    return _STRUCTURE_ADU + 0.5 * abs(gradient)


def _of_bias(frame: Frame, quadrant: str, path: str | None, x: float, y: float) -> float:
    """Return the structure of a master bias about a place, ADU."""
    if path is None:
        return 0.0
    half, detector = STAMP_PX // 2, frame.detector
    area = bias_structure(detector, path, quadrant, "median")[
        max(round(y) - half, 0) : round(y) + half + 1, max(round(x) - half, 0) : round(x) + half + 1
    ]
    return float(np.median(area)) if area.size else 0.0


def _offset(frame: Frame, quadrant: str) -> float:
    detector = frame.detector
    if detector.offset_sector == "none":
        return 0.0
    columns = detector.columns_of(detector.offset_sector, is_trimmed=True)
    return _level(frame, quadrant, columns)


def _level(frame: Frame, quadrant: str, columns: slice) -> float:
    detector = frame.detector
    scan = frame.raw(quadrant)[frame.vstart : frame.vend, columns]
    values = scan[: detector.image_rows : max(detector.image_rows // 500, 1)].astype(float)
    middle = np.median(values)
    # A median of whole numbers is coarse: the mean of what is near it is not.
    return float(values[np.abs(values - middle) <= 8].mean())


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


# --- tables ---


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
    needed = full * FLUX_PER_PEAK_PX2
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
