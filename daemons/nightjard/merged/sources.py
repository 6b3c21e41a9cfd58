# SPDX-License-Identifier: BSD-3-Clause
"""The brightest source in a map: found by significance, measured by a Gaussian."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_FWHM_PER_SIGMA = math.sqrt(8 * math.log(2))
_LEAST_SNR = 5.0
_LEAST_WEIGHT = 0.2  # of the usual weight
_FIT_STEPS = 40
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Source:
    """A source; all NaN where nothing stands out.

    Attributes
    ----------
    snr
        Significance by the beam.
    peak
        Height, units of the map.
    x, y, fwhm
        Place and width, units of the pixels' size.
    """

    snr: float = math.nan
    peak: float = math.nan
    x: float = math.nan
    y: float = math.nan
    fwhm: float = math.nan


def significance(values: Floats, weight: Floats, sigma_pixels: float) -> Floats:
    """Return how far each pixel stands out if a beam is put there; NaN where too little was seen.

    Parameters
    ----------
    values
        The map, NaN for none.
    weight
        1 / variance of each pixel.
    sigma_pixels
        Of the beam.
    """
    known = np.isfinite(values)
    weight = np.where(known, weight, 0)
    beam, wide = (smoothing(values.shape, sigma_pixels * one) for one in (1.0, 4.0))
    filled = np.where(known, values, 0) * weight
    about = _both(wide, filled) / np.maximum(_both(wide, weight), 1e-300)
    filled = np.where(known, values - about, 0) * weight
    power = _both((beam[0] ** 2, beam[1] ** 2), weight)
    usual = np.median(power[known]) if known.any() else 0.0
    seen = known & (power > _LEAST_WEIGHT * usual)
    if not seen.any():
        return np.full(values.shape, np.nan)
    snr = np.where(seen, _both(beam, filled) / np.sqrt(np.where(seen, power, 1)), np.nan)
    # What the weights do not know (the atmosphere's rest) is in the map itself.
    spread = 1.4826 * float(np.nanmedian(np.abs(snr - np.nanmedian(snr))))
    return np.asarray(snr / max(spread, 1.0))


def smoothing(shape: tuple[int, ...], sigma: float) -> tuple[Floats, Floats]:
    """Return the matrices that put a Gaussian of height 1 on each row and each column."""
    rows, columns = (
        np.exp(-0.5 * ((np.arange(size)[:, np.newaxis] - np.arange(size)) / sigma) ** 2)
        for size in shape
    )
    return rows, columns


def _both(matrices: tuple[Floats, Floats], values: Floats) -> Floats:
    return np.asarray(matrices[0] @ values @ matrices[1].T)


def smoothed(values: Floats, weight: Floats, sigma_pixels: float) -> Floats:
    """Return a map averaged over a Gaussian; NaN where it was."""
    known = np.isfinite(values)
    matrices = smoothing(values.shape, max(sigma_pixels, 1e-3))
    weight = np.where(known, weight, 0)
    total = _both(matrices, np.where(known, values, 0) * weight)
    return np.where(known, total / np.maximum(_both(matrices, weight), 1e-300), np.nan)


def find(values: Floats, weight: Floats, middles: Floats, beam_fwhm: float) -> Source:
    """Return the brightest source of a map with square pixels.

    Parameters
    ----------
    values, weight
        The map and 1 / variance of its pixels, (n, n).
    middles
        Places of the pixels' middles on both axes, (n,).
    beam_fwhm
        What a point source is about as wide as, units of `middles`.
    """
    pixel = float(middles[1] - middles[0])
    snr = significance(values, weight, beam_fwhm / _FWHM_PER_SIGMA / pixel)
    if not np.isfinite(snr).any() or np.nanmax(snr) < _LEAST_SNR:
        return Source()
    row, column = np.unravel_index(int(np.nanargmax(snr)), snr.shape)
    x, y = np.meshgrid(middles, middles)
    start = (float(middles[column]), float(middles[row]))
    near = (np.hypot(x - start[0], y - start[1]) < 2 * beam_fwhm) & np.isfinite(values)
    best = float(snr[row, column])
    fitted = _gaussian(x[near], y[near], values[near], np.sqrt(weight[near]), start, beam_fwhm)
    if fitted is None:
        return Source(best, float(values[row, column]), *start)
    peak, cx, cy, sigma = fitted
    # A pixel smears what falls into it: the mean over it of a Gaussian is wider by its own width.
    sigma = math.sqrt(max(sigma**2 - pixel**2 / 12, 0.0))
    return Source(best, peak, cx, cy, sigma * _FWHM_PER_SIGMA)


def _gaussian(
    x: Floats, y: Floats, values: Floats, root: Floats, start: tuple[float, float], fwhm: float
) -> tuple[float, float, float, float] | None:
    """Return height, place and sigma of a round Gaussian on a level, by damped least squares."""
    if values.size < 8:
        return None
    level = float(np.median(values))
    at = np.array([float(values.max()) - level, *start, fwhm / _FWHM_PER_SIGMA, level])
    damping = 1e-3
    rest = root * (values - _model(at, x, y)[0])
    for _ in range(_FIT_STEPS):
        slopes = root[:, np.newaxis] * _model(at, x, y)[1]
        normal = slopes.T @ slopes
        with np.errstate(all="ignore"):
            try:
                step = np.linalg.solve(
                    normal + damping * np.diag(np.diag(normal) + 1e-300), slopes.T @ rest
                )
            except np.linalg.LinAlgError:
                return None
        tried = at + step
        tried_rest = root * (values - _model(tried, x, y)[0])
        if tried_rest @ tried_rest < rest @ rest:
            at, rest, damping = tried, tried_rest, damping / 5
            if np.abs(step[1:4]).max() < 1e-5 * fwhm:
                break
        else:
            damping *= 10
    is_far = math.hypot(at[1] - start[0], at[2] - start[1]) > fwhm
    if is_far or at[0] <= 0 or not 0.2 * fwhm < abs(at[3]) * _FWHM_PER_SIGMA < 4 * fwhm:
        return None
    return float(at[0]), float(at[1]), float(at[2]), abs(float(at[3]))


def _model(at: Floats, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Return the Gaussian and its slopes (n, 5)."""
    height, cx, cy, sigma, level = at
    dx, dy = (x - cx) / sigma, (y - cy) / sigma
    shape = np.exp(-0.5 * (dx**2 + dy**2))
    slopes = np.stack(
        [shape, height * shape * dx / sigma, height * shape * dy / sigma,
         height * shape * (dx**2 + dy**2) / sigma, np.ones_like(shape)], axis=1,
    )  # fmt: skip
    return height * shape + level, slopes
