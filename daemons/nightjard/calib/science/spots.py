# SPDX-License-Identifier: BSD-3-Clause
"""Photometry of spots on stamps: background, centre, flux, widths; all stamps at once.

Stamps are arrays ``[spot, row, column]`` of odd side, with a mask of pixels to leave out. Places
are pixels from the centre of the stamp's first pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nightjard.calib.science.gaussian_fit import (
    FIT_RADIUS_PX,
    fit_gaussians,
    peak_pixel,
    radius,
)
from nightjard.calib.science.sources import FWHM_PER_SIGMA, MAD_TO_SIGMA

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

STAMP_PX = 75
BACKGROUND_RADIUS_PX = 15.0
APERTURE_RADIUS_PX = 10.0
WINDOW_SIGMA_PX = 2.5


@dataclass(frozen=True)
class Stamps:
    """Stamps cut from an image: pixels, pixels to leave out, place of each stamp's first pixel."""

    pixels: Floats
    bad: Bools
    x0: NDArray[np.intp]
    y0: NDArray[np.intp]


def cut(image: Any, x: Any, y: Any, *, bad: Bools | None = None, side: int = STAMP_PX) -> Stamps:
    """Return stamps about places of an image; what lies outside of it is bad and zero.

    Parameters
    ----------
    image : array (rows, columns)
    x, y : arrays (n,)
        Pixels; the stamp's middle pixel is the nearest one.
    """
    half = side // 2
    rows, columns = image.shape
    x0 = np.rint(np.asarray(x, float)).astype(int) - half
    y0 = np.rint(np.asarray(y, float)).astype(int) - half
    pixels = np.zeros((len(x0), side, side))
    masked = np.ones(pixels.shape, bool)
    for i, (a, b) in enumerate(zip(x0, y0, strict=True)):
        left, right = max(a, 0), min(a + side, columns)
        low, high = max(b, 0), min(b + side, rows)
        if left >= right or low >= high:
            continue
        inside = np.s_[low - b : high - b, left - a : right - a]
        pixels[i][inside] = image[low:high, left:right]
        masked[i][inside] = False if bad is None else bad[low:high, left:right]
    return Stamps(pixels, masked, x0, y0)


@dataclass(frozen=True)
class Photometry:
    """What was measured of each spot; arrays (n,), NaN where it cannot be measured.

    Places are pixels of the image, fluxes in its units. ``*_moments`` are widths by windowed
    moments, freed of window and pixel as for a Gaussian; ``fwhm_x``, ``fwhm_y`` those of a
    Gaussian integrated over the pixels, fitted with equal weights so that they do not depend on
    the flux where the shape is not quite Gaussian. ``*_error`` are 1 sigma.
    """

    x: Floats
    y: Floats
    x_error: Floats
    y_error: Floats
    background: Floats
    background_sigma: Floats
    peak: Floats
    flux: Floats
    flux_error: Floats
    fwhm_x_moments: Floats
    fwhm_y_moments: Floats
    fwhm_x: Floats
    fwhm_y: Floats
    fwhm_x_error: Floats
    fwhm_y_error: Floats
    fit_flux: Floats
    fit_peak: Floats
    chi2: Floats
    is_good: Bools

    def columns(self) -> dict[str, Any]:
        """Return the measures by name."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def photometry(
    stamps: Stamps, *, gain_e_adu: Any = 3.5, search_px: float = 30.0,
    expected: tuple[Floats, Floats] | None = None, window_sigma_px: float = WINDOW_SIGMA_PX,
    fit_radius_px: float = FIT_RADIUS_PX,
) -> Photometry:  # fmt: skip
    """Return place, flux and widths of the spot on each stamp.

    Parameters
    ----------
    stamps
        In ADU; an offset may be left in them, it counts as background.
    gain_e_adu
        A number, or one for each stamp.
    expected
        Where in the image to search; the centres of the stamps where not given.
    search_px
        How far from there the spot may be.
    window_sigma_px
        Of the Gaussian window of centre and moments.
    """
    pixels, bad = stamps.pixels, stamps.bad
    side = pixels.shape[1]
    level, noise, known = local_background(pixels, bad)
    # A stamp without background says nothing, to the others neither.
    bad = bad | ~np.isfinite(level)[:, None, None]
    rest = np.where(bad, 0.0, pixels - np.nan_to_num(level)[:, None, None])
    gain = np.broadcast_to(np.asarray(gain_e_adu, float), level.shape)
    if expected is None:
        expected = (stamps.x0 + side // 2, stamps.y0 + side // 2)
    about = (expected[0] - stamps.x0, expected[1] - stamps.y0)
    start_x, start_y = brightest(rest, search_px, about)
    x, y, var_x, var_y = windowed_moments(rest, ~bad, start_x, start_y, window_sigma_px)
    bad = bad | outliers(rest, bad, x, y, noise)
    rest = np.where(bad, 0.0, rest)
    flux, flux_error = aperture(rest, bad, x, y, noise, known, gain)
    sigma_x, sigma_y = (np.sqrt(np.clip(one, 0.05, 100.0)) for one in (var_x, var_y))
    fit = fit_gaussians(
        rest, bad, np.stack([np.maximum(flux, 1.0), x, y, sigma_x, sigma_y, 0 * x], axis=1),
        noise=noise, gain_e_adu=gain, radius_px=fit_radius_px,
    )  # fmt: skip
    values, errors = fit.values, fit.errors
    moments = [
        FWHM_PER_SIGMA * np.sqrt(np.where(one > 0, one, np.nan)) for one in (var_x, var_y)
    ]
    centre = peak_pixel(values)
    in_reach = np.hypot(x - side // 2, y - side // 2) < side // 2
    good = fit.is_good & np.isfinite(flux) & (flux > 5 * flux_error) & in_reach
    return Photometry(
        values[:, 1] + stamps.x0, values[:, 2] + stamps.y0, errors[:, 1], errors[:, 2],
        level, noise, _highest(rest, x, y), flux, flux_error, moments[0], moments[1],
        FWHM_PER_SIGMA * values[:, 3], FWHM_PER_SIGMA * values[:, 4],
        FWHM_PER_SIGMA * errors[:, 3], FWHM_PER_SIGMA * errors[:, 4],
        values[:, 0], centre, fit.chi2, good,
    )  # fmt: skip


def local_background(pixels: Floats, bad: Bools) -> tuple[Floats, Floats, Floats]:
    """Return level, noise and number of pixels of the background about each stamp's centre.

    Pixels farther than 15 from the centre; those that stand out by 4 sigma of the noise (other
    sources) are left out before the level is the mean of the rest.
    """
    side = pixels.shape[1]
    ring = radius(side) >= BACKGROUND_RADIUS_PX
    values = np.where(bad, np.nan, pixels)[:, ring]
    empty = ~np.isfinite(values).any(axis=1)
    values[empty] = 0.0
    level = np.nanmedian(values, axis=1)
    noise = MAD_TO_SIGMA * np.nanmedian(np.abs(values - level[:, None]), axis=1)
    # Integer values with little noise have no honest MAD.
    noise = np.maximum(noise, 0.3)
    quiet = np.abs(values - level[:, None]) <= 4.0 * noise[:, None]
    known = quiet.sum(axis=1)
    kept = np.where(quiet, values, 0.0)
    level = kept.sum(axis=1) / known
    noise = np.sqrt(np.where(quiet, (values - level[:, None]) ** 2, 0.0).sum(axis=1) / known)
    level[empty] = np.nan
    return level, np.maximum(noise, 0.3), np.where(empty, np.nan, known)


def _sums(rest: Floats, size: int) -> Floats:
    """Sums over squares of an odd side about each pixel."""
    half = size // 2
    out = np.pad(rest, ((0, 0), (half, half), (half, half)))
    for axis in (1, 2):
        total = np.cumsum(out, axis=axis)
        total = np.concatenate([np.zeros_like(np.take(total, [0], axis)), total], axis=axis)
        length = total.shape[axis]
        high = np.take(total, range(size, length), axis)
        out = high - np.take(total, range(length - size), axis)
    return np.asarray(out)


def brightest(
    rest: Floats, search_px: float, about: tuple[Floats, Floats]
) -> tuple[Floats, Floats]:
    """Return the place of the highest 5x5 sum within a distance of a place of each stamp.

    The brightest pixel of each square does not count: it may be a cosmic ray or a hot pixel.
    """
    count, side, _ = rest.shape
    single = ndimage.maximum_filter(rest, size=(1, 5, 5), mode="constant")
    score = np.nan_to_num(_sums(rest, 5) - single, nan=-np.inf)
    axis = np.arange(side)
    dx, dy = axis - about[0][:, None], axis - about[1][:, None]
    score[np.hypot(dy[:, :, None], dx[:, None, :]) > search_px] = -np.inf
    index = score.reshape(count, -1).argmax(axis=1)
    return (index % side).astype(float), (index // side).astype(float)


def windowed_moments(
    rest: Floats, valid: Bools, x: Floats, y: Floats, window_sigma_px: float, *,
    rounds: int = 25, tolerance_px: float = 1e-4,
) -> tuple[Floats, Floats, Floats, Floats]:  # fmt: skip
    """Return centre and variances of spots under a Gaussian window that follows the centre.

    The step of the centre is twice the weighted mean: exact at the end for a symmetric spot.
    Variances are freed of the window (1/v = 1/observed - 1/window) and of the pixel (1/12), as
    is exact for a Gaussian.

    Returns
    -------
    x, y, variance along x, variance along y : arrays (n,)
        Pixels, pixels squared.
    """
    side = rest.shape[1]
    axis = np.arange(side, dtype=float)
    light = np.where(valid, rest, 0.0)
    x, y = x.copy(), y.copy()
    start_x, start_y = x.copy(), y.copy()
    for _round in range(rounds):
        weighted, total = _weighted(light, axis, x, y, window_sigma_px)
        with np.errstate(invalid="ignore", divide="ignore"):
            step_x = 2 * ((weighted.sum(axis=1) * (axis - x[:, None])).sum(axis=1) / total)
            step_y = 2 * ((weighted.sum(axis=2) * (axis - y[:, None])).sum(axis=1) / total)
        step_x, step_y = (np.clip(np.nan_to_num(one), -2.0, 2.0) for one in (step_x, step_y))
        x, y = x + step_x, y + step_y
        if max(np.abs(step_x).max(initial=0), np.abs(step_y).max(initial=0)) < tolerance_px:
            break
    lost = np.hypot(x - start_x, y - start_y) > 8.0
    x[lost], y[lost] = start_x[lost], start_y[lost]
    weighted, total = _weighted(light, axis, x, y, window_sigma_px)
    variances = []
    for across, centre in ((1, x), (2, y)):
        with np.errstate(invalid="ignore", divide="ignore"):
            offset = axis - centre[:, None]
            seen = (weighted.sum(axis=across) * offset**2).sum(axis=1) / total
            free = 1.0 / (1.0 / seen - 1.0 / window_sigma_px**2) - 1.0 / 12.0
        variances.append(np.where((seen > 0) & (seen < window_sigma_px**2), free, np.nan))
    return x, y, variances[0], variances[1]


def _weighted(
    light: Floats, axis: Floats, x: Floats, y: Floats, sigma: float
) -> tuple[Floats, Floats]:
    across = np.exp(-0.5 * ((axis - x[:, None]) / sigma) ** 2)
    down = np.exp(-0.5 * ((axis - y[:, None]) / sigma) ** 2)
    weighted = light * down[:, :, None] * across[:, None, :]
    return weighted, weighted.sum(axis=(1, 2))


def outliers(
    rest: Floats, bad: Bools, x: Floats, y: Floats, noise: Floats, *, beyond_px: float = 4.5,
    reach_px: int = 24, clip_sigma: float = 5.0,
) -> Bools:  # fmt: skip
    """Tell which pixels about spots are none of theirs: hot ones, cosmic rays, other sources.

    On rings of a pixel's width about the centre, values farther from the median of the ring than
    5 sigma of it: wings of the spot stay, whatever their shape. The core itself is not judged.
    """
    count, side, _ = rest.shape
    half = side // 2
    found = np.zeros(rest.shape, bool)
    reach = min(reach_px, half)
    span = np.arange(-reach, reach + 1)
    cx, cy = (np.clip(np.rint(np.nan_to_num(one, nan=half)), 0, side - 1).astype(int)
              for one in (x, y))  # fmt: skip
    rows, columns = cy[:, None] + span, cx[:, None] + span
    inside = ((rows >= 0) & (rows < side))[:, :, None] & (
        (columns >= 0) & (columns < side)
    )[:, None, :]  # fmt: skip
    window = (
        np.arange(count)[:, None, None], np.clip(rows, 0, side - 1)[:, :, None],
        np.clip(columns, 0, side - 1)[:, None, :],
    )  # fmt: skip
    values = np.where(inside & ~bad[window], rest[window], np.nan)
    distance = radius(2 * reach + 1)
    marks = np.zeros(values.shape, bool)
    for ring in range(int(np.ceil(beyond_px)), reach + 1):
        where = (distance >= ring - 0.5) & (distance < ring + 0.5)
        on_ring = values[:, where]
        seen = np.isfinite(on_ring).any(axis=1)
        if not seen.any():
            continue
        middle, spread = np.zeros(count), np.zeros(count)
        middle[seen] = np.nanmedian(on_ring[seen], axis=1)
        away = np.abs(on_ring - middle[:, None])
        spread[seen] = MAD_TO_SIGMA * np.nanmedian(away[seen], axis=1)
        marks[:, where] = away > clip_sigma * np.maximum(spread, noise)[:, None]
    spots, row, column = np.nonzero(marks & inside)
    found[spots, cy[spots] + row - reach, cx[spots] + column - reach] = True
    return found


def aperture(
    rest: Floats, bad: Bools, x: Floats, y: Floats, noise: Floats, known: Floats,
    gain_e_adu: Floats, *, radius_px: float = APERTURE_RADIUS_PX,
) -> tuple[Floats, Floats]:  # fmt: skip
    """Return the flux in a circle and its error, background taken off every pixel.

    error^2 = F/g + N s^2 + N^2 s^2 / M with N pixels in the circle and M of the background; s is
    the noise of a pixel, photons of the background included.
    """
    side = rest.shape[1]
    axis = np.arange(side, dtype=float)
    distance = np.hypot(
        axis[None, :, None] - y[:, None, None], axis[None, None, :] - x[:, None, None]
    )
    # Pixels that the circle cuts count by the part of them that lies inside.
    part = np.clip(radius_px + 0.5 - distance, 0.0, 1.0) * ~bad
    flux = (rest * part).sum(axis=(1, 2))
    pixels = part.sum(axis=(1, 2))
    variance = np.maximum(flux, 0) / gain_e_adu + noise**2 * (pixels + pixels**2 / known)
    return flux, np.sqrt(variance)


def _highest(rest: Floats, x: Floats, y: Floats) -> Floats:
    """Return the highest pixel among the nine about the centre."""
    count, side, _ = rest.shape
    cx = np.clip(np.rint(np.nan_to_num(x)), 1, side - 2).astype(int)
    cy = np.clip(np.rint(np.nan_to_num(y)), 1, side - 2).astype(int)
    spots = np.arange(count)
    around = [rest[spots, cy + j, cx + i] for j in (-1, 0, 1) for i in (-1, 0, 1)]
    return np.asarray(np.max(around, axis=0))
