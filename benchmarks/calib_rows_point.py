# SPDX-License-Identifier: BSD-3-Clause
"""Validation of point sources: focus, star lock, saturation times, shape of stars, cross-talk."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from calib_block import Block, Found
from calib_compare import Judge
from numpy.typing import NDArray

from nightjard.simulators.detector.truth import Truth, channel

_ALONE = {"crosstalk": False}
_WAVE = 800
#: A quarter of the stars beside quadrant G, which is blank.
_LOST = ("1EA", "1FC", "1FE", "1HB", "1HE", *(f"1G{one}" for one in "ABCDE"))
_FWHM = 2.0 * math.sqrt(2.0 * math.log(2.0))


# --- focus and lock ---


def focus(judge: Judge, folder: Path) -> None:
    """Best focus of a whole block, and of one that is 0.4 mm off the middle of the sweep."""
    test = f"FOCUS00_{_WAVE}"
    block = Block(folder / "middle", judge.scale)
    block.acquire(test)
    found = block.analyse(test)
    judge.row = "focus"
    judge_focus(judge, block, found, "")
    judge.row = "star lock"
    judge_lock(judge, block, found, "")
    judge.row = "focus"
    off = Block(folder / "off", judge.scale, ccds=1, effects=_ALONE,
                overrides={"stars.focus_mm": 47.6})  # fmt: skip
    off.acquire(test)
    judge_focus(judge, off, off.analyse(test), ", sweep 0.4 mm off")
    judge.row = "star lock"
    blank = Block(folder / "blank", judge.scale, ccds=1, effects=_ALONE,
                  overrides={"stars.missing": _LOST})  # fmt: skip
    blank.acquire(test)
    judge_lock(judge, blank, blank.analyse(test, todo=("lock",)), ", G blank, 30 % missing")


def judge_focus(judge: Judge, block: Block, found: Found, what: str) -> None:
    """Judge focus, width at no light, tilt."""
    stars = block.truth.stars
    best, error = found.value("best_focus")
    judge.close(f"z0{what}", stars.focus_mm, best, 0.01, sigma=error, unit="mm")
    width, error = found.value("f0_faint")
    judge.close(f"f0{what}", stars.fwhm0_px, width, 0.03, sigma=error, unit="px")
    for axis, true in zip("xy", stars.tilt_mm, strict=True):
        tilts = found.values(f"focus_tilt_{axis}")
        mean = float(np.mean([one["value"] for one in tilts]))
        spread = float(np.mean([one["error"] for one in tilts])) / math.sqrt(len(tilts))
        judge.close(f"tilt {axis}{what}", true, mean, 0.10, sigma=spread, unit="mm",
                    is_relative=True)  # fmt: skip


def judge_lock(judge: Judge, block: Block, found: Found, what: str) -> None:
    """Judge the transform of the pattern."""
    stars = block.truth.stars
    for name, true, tolerance, unit in (
        ("scale", stars.scale, 1e-4, ""), ("rotation_deg", stars.rotation_deg, 0.005, "deg"),
        ("shift_x", stars.shift_px[0], 0.1, "px"), ("shift_y", stars.shift_px[1], 0.1, "px"),
    ):  # fmt: skip
        values = {
            one["where"]["ccd"]: (one["value"], 0.0) for one in found.values(f"lock_{name}")
        }
        judge.channels(f"{name}{what}", dict.fromkeys(block.detector.ccd_numbers, true), values,
                       tolerance, unit=unit)  # fmt: skip


# --- saturation times ---


def saturation(judge: Judge, folder: Path) -> None:
    """Lamps that are brighter or fainter than the profile says, the same all over the field."""
    judge.row = "FLUX"
    effects = {**_ALONE, "illumination": False, "pattern": False}
    for source, test, limit in (("flat", "FLATFLUX00_800", 10), ("point", "PSFLUX00_800", 20)):
        for percent in (-12, -8, 8, 12) if source == "flat" else (-24, -16, 16, 24):
            factor = 1.0 / (1.0 + percent / 100.0)
            block = Block(folder / f"{source}{percent}", judge.scale, ccds=1, effects=effects,
                          overrides={f"light.{source}_rate_factor": factor})  # fmt: skip
            block.acquire(test)
            found = block.analyse(test)
            ratio, error = found.value("saturation_time_ratio")
            judge.close(f"{source}: {percent:+d} %", 1.0 / factor, ratio, 0.01, sigma=error)
            judge.fact(f"{source}: {percent:+d} % is flagged", abs(percent) > limit,
                       "FLUX_OOL" in found.flags)  # fmt: skip


# --- shapes and cross-talk ---


def shapes(judge: Judge, folder: Path) -> None:
    """Widths, ellipticities, growth with the signal; cross-talk of all channels.

    Without trailing charge, which makes stars longer along columns (e1 by -0.007 at 1/8): it is a
    property of the detector that PTC01 tells, not of the optics.
    """
    test = f"PSF01_{_WAVE}"
    block = Block(folder, judge.scale, effects={"transfer": False})
    block.acquire(test)
    found = block.analyse(test)
    judge.row = "PSF"
    judge_shapes(judge, block, found, test)
    judge.row = "cross-talk"
    tables = [found.table("crosstalk")]
    if judge.scale == "full":  # the stars of one test tell 2e-6 a pair
        for number in range(2, 8):
            again = f"{test}.{number}"
            block.acquire(again, columns=(2, 3, 4))
            todo = ("lock", "xtalk_sex", "xtalk_build", "xtalk_meta")
            tables.append(block.analyse(again, todo=todo).table("crosstalk"))
    judge_cross_talk(judge, block, tables)


def judge_shapes(judge: Judge, block: Block, found: Found, test: str) -> None:
    """Judge widths and ellipticities at no light, and how widths grow."""
    truth = block.truth
    lit = [star for one in block.frames_of(test) for star in one["stars"].values()]
    width = float(np.mean([star["fwhm_px"] for star in lit]))
    growth = growth_of(truth, width, block.detector.gain_e_adu)
    for axis, sign, true in (("x", 1, growth[0]), ("y", -1, growth[1])):
        value, error = _whole(found, f"fwhm_{axis}_faint")
        judge.close(f"FWHM along {axis} at no light", width * math.sqrt(1 + sign * truth.stars.e1),
                    value, 0.02, sigma=error, unit="px")  # fmt: skip
        value, error = _whole(found, f"fwhm_{axis}_growth")
        judge.close(f"growth along {axis} per 1e4 ADU", true, value, 0.10, sigma=error, unit="px",
                    is_relative=True)  # fmt: skip
    for name, true in (("e1", truth.stars.e1), ("e2", truth.stars.e2)):
        value, error = _whole(found, f"{name}_faint")
        judge.close(name, true, value, 0.003, sigma=error)


def _whole(found: Found, name: str) -> tuple[float, float]:
    """Return a value of all spots together."""
    one = next(one for one in found.values(name) if one["where"] == {"kind": "measured"})
    return float(one["value"]), float(one["error"])


def growth_of(truth: Truth, fwhm_px: float, gain: float) -> tuple[float, float]:
    """Return the growth of FWHM along x and y, px per 1e4 ADU of the peak.

    Charge is gathered in 200 steps; in each, what is there pushes light over the boundary of two
    pixels, in proportion to the mean light of both and the difference of their charges. A Gaussian
    integrated over pixels is fitted to a star of no light and to a bright one, at several places
    in the pixel.
    """
    lags = [
        (dy, dx, k)
        for column, row, k in truth.brighter_fatter.kernel
        for dx in {column, -column} for dy in {row, -row}
    ]  # fmt: skip
    found: dict[float, list[tuple[float, float, float]]] = {1e2: [], 4e5: []}
    for flux, fits in found.items():
        for x, y in ((10.0, 10.0), (10.3, 10.4), (10.5, 10.1), (10.2, 10.5)):
            sigma = fwhm_px / _FWHM
            light = flux * np.outer(_pixels(y, sigma), _pixels(x, sigma)) / 200.0
            charge = np.zeros_like(light)
            for _ in range(200):
                pushed = sum(
                    0.5 * k * (light + np.roll(light, lag, (0, 1)))
                    * (np.roll(charge, lag, (0, 1)) - charge)
                    for *lag, k in lags
                )  # fmt: skip
                charge = charge + light + pushed
            fits.append(_fitted(charge, (flux, x, y, sigma)))
    faint, bright = (np.array(fits) for fits in found.values())
    slope = (bright - faint)[:, :2].mean(axis=0) / (bright[:, 2].mean() / gain) * 1e4
    return float(slope[0]), float(slope[1])


def _pixels(centre: float, sigma: float) -> NDArray[Any]:
    from scipy.special import erf

    edges = (np.arange(22) - 0.5 - centre) / (sigma * math.sqrt(2.0))
    whole: NDArray[Any] = np.diff(erf(edges)) / 2.0
    return whole


def _fitted(image: NDArray[Any], start: tuple[float, ...]) -> tuple[float, float, float]:
    """Return FWHM along x and y, px, and the charge of a pixel at the centre of the Gaussian."""
    from scipy.optimize import curve_fit
    from scipy.special import erf

    def model(_: Any, flux: float, x: float, y: float, sx: float, sy: float) -> Any:
        return flux * np.outer(_pixels(y, sy), _pixels(x, sx)).ravel()

    flux, x, y, sigma = start
    best, _ = curve_fit(model, None, image.ravel(), [flux, x, y, sigma, sigma])
    half = [erf(0.5 / (abs(one) * math.sqrt(2.0))) for one in best[3:5]]
    peak = best[0] * half[0] * half[1]
    return abs(best[3]) * _FWHM, abs(best[4]) * _FWHM, float(peak)


def judge_cross_talk(judge: Judge, block: Block, tables: list[Any]) -> None:
    """Judge the matrix: mean over tests, weighted."""
    names = [channel(*one) for one in block.channels]
    place = {name: number for number, name in enumerate(names)}
    total, weight = np.zeros((2, len(names), len(names)))
    for table in tables:
        for row in table:
            i = place[f"{row['source_ccd']}{row['source']}"]
            j = place[f"{row['victim_ccd']}{row['victim']}"]
            ratio, error = float(row["ratio"]), float(row["ratio_error"])
            if math.isfinite(ratio) and error > 0:
                total[i, j] += ratio / error**2
                weight[i, j] += 1.0 / error**2
    injected = np.array(block.truth.electronics.crosstalk)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio, error = total / weight, weight**-0.5
    known = np.isfinite(ratio)
    if judge.scale != "full":
        # The pattern of a small detector puts stars of equal quadrants onto each other.
        known &= error < 6e-6
    pairs = len(names) * (len(names) - 1)
    judge.least("pairs that are told", int(known.sum()), pairs if judge.scale == "full" else 100,
                injected=f"{pairs}")  # fmt: skip
    off = (ratio - injected)[known]
    usual = float(np.median(error[known]))
    limit = 1e-6 if judge.scale == "full" else max(1e-6, 1.3 * usual)
    judge.most("rms of the pairs", float(np.sqrt(np.mean(off**2))), limit,
               note=f"their errors are {usual:.2g}")  # fmt: skip
    judge.close("mean of the pairs", 0.0, float(np.average(off, weights=weight[known])), 1e-6)
    for i, j in zip(*np.nonzero(np.abs(injected) > 1.5e-4), strict=True):
        if known[i, j]:
            judge.close(f"{names[i]} to {names[j]}", float(injected[i, j]), float(ratio[i, j]),
                        0.05, sigma=float(error[i, j]), is_relative=True)  # fmt: skip
