# SPDX-License-Identifier: BSD-3-Clause
"""Bright compact sources on a frame: what the star lock and the cross-talk begin with.

Pure functions of arrays ``[row, column]``; x is the column, y the row, 0 is the centre of the
first pixel.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nightjard.calib.science.robust import robust_sigma

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

MAD_TO_SIGMA = 1.4826
FWHM_PER_SIGMA = float(2.0 * np.sqrt(2.0 * np.log(2.0)))


@dataclass(frozen=True)
class Sources:
    """Sources of one image, brightest first.

    Attributes
    ----------
    x, y
        Flux-weighted centre, pixels.
    flux, peak
        Above background: sum over its pixels, highest pixel; units of the image.
    area
        Pixels above the threshold.
    major, minor
        Widths along its axes (1 sigma of the pixels above the threshold), pixels.
    """

    x: Floats
    y: Floats
    flux: Floats
    peak: Floats
    area: Floats
    major: Floats
    minor: Floats

    def __len__(self) -> int:
        return len(self.x)

    def taken(self, which: Any) -> Sources:
        """Return some of them, by index or truth."""
        return Sources(*(getattr(self, one.name)[which] for one in fields(self)))


def background(image: Any, bad: Bools | None = None, *, box: int = 128) -> tuple[Any, float]:
    """Return the smooth background of an image and the noise about it.

    Medians of boxes (of every other pixel each way), straight lines between their centres. A
    box that is mostly bad has the median of the others.

    Returns
    -------
    level : float32 array of the image's shape
    sigma : float
        Robust standard deviation of what is left.
    """
    rows, columns = image.shape
    down = np.array_split(np.arange(rows), max(1, round(rows / box)))
    across = np.array_split(np.arange(columns), max(1, round(columns / box)))
    medians = np.full((len(down), len(across)), np.nan)
    for i, line in enumerate(down):
        for j, column in enumerate(across):
            part = np.s_[line[0] : line[-1] + 1 : 2, column[0] : column[-1] + 1 : 2]
            pixels = image[part]
            if bad is not None:
                pixels = pixels[~bad[part]]
            if pixels.size * 4 >= len(line[::2]) * len(column[::2]):
                medians[i, j] = np.median(pixels)
    if not np.isfinite(medians).any():
        return np.zeros(image.shape, np.float32), float("nan")
    medians[~np.isfinite(medians)] = np.nanmedian(medians)
    by_row = _between([line.mean() for line in down], rows)
    by_column = _between([column.mean() for column in across], columns)
    level = (by_row @ medians.astype(np.float32) @ by_column.T).astype(np.float32)
    rest = image[::3, ::3] - level[::3, ::3]
    if bad is not None:
        rest = rest[~bad[::3, ::3]]
    return level, robust_sigma(rest)


def _between(centres: list[float], count: int) -> NDArray[np.float32]:
    """Matrix that interpolates values at centres to every pixel."""
    where = np.arange(count)
    return np.stack(
        [np.interp(where, centres, unit) for unit in np.eye(len(centres))], axis=1
    ).astype(np.float32)


def find_sources(
    image: Any, bad: Bools | None = None, *, threshold_sigma: float = 14.0, box: int = 128,
    minimum_px: int = 3,
) -> Sources:  # fmt: skip
    """Return groups of touching pixels above the background by so many sigma.

    Parameters
    ----------
    image : array (rows, columns)
    bad : bool array, optional
        Pixels to leave out.
    threshold_sigma
        Of the noise of the background; at least one unit of the image counts as noise.
    minimum_px
        Smallest group.
    """
    level, sigma = background(image, bad, box=box)
    if not np.isfinite(sigma):
        return _none()
    rest = image - level
    lit = rest > threshold_sigma * max(sigma, 1.0)
    if bad is not None:
        lit &= ~bad
    labels, count = ndimage.label(lit, np.ones((3, 3), bool))
    if count == 0:
        return _none()
    where = np.flatnonzero(lit)
    sources = measure_groups(
        labels.ravel()[where] - 1, count, where % image.shape[1], where // image.shape[1],
        rest.ravel()[where],
    )  # fmt: skip
    return sources.taken(sources.area >= minimum_px)


def measure_groups(labels: Any, count: int, x: Any, y: Any, value: Any) -> Sources:
    """Return the sources that pixels make up: label, place and value of each pixel are given."""
    def total(weight: Any = None) -> Floats:
        return np.bincount(labels, weight, count).astype(float)

    value = np.asarray(value, float)
    area, flux = total(), total(value)
    peak = np.full(count, -np.inf)
    np.maximum.at(peak, labels, value)
    mx, my = total(value * x) / flux, total(value * y) / flux
    dx, dy = x - mx[labels], y - my[labels]
    xx, yy, xy = (total(value * a * b) / flux for a, b in ((dx, dx), (dy, dy), (dx, dy)))
    middle, half = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    major, minor = np.sqrt(np.maximum(middle + half, 0)), np.sqrt(np.maximum(middle - half, 0))
    order = np.argsort(-flux, kind="stable")
    return Sources(mx, my, flux, peak, area, major, minor).taken(order)


def star_like(
    sources: Sources, *, minimum_flux: float = 5000.0, elongation: float = 2.0,
    widths_px: tuple[float, float] = (0.2, 5.0), areas_px: tuple[float, float] = (3, 400),
) -> Sources:  # fmt: skip
    """Return the sources that can be stars of the pattern: compact, round, bright."""
    good = (
        (sources.flux > minimum_flux)
        & (sources.minor > widths_px[0])
        & (sources.major < widths_px[1])
        & (sources.major < elongation * sources.minor)
        & (sources.area >= areas_px[0])
        & (sources.area <= areas_px[1])
    )
    return sources.taken(good)


def _none() -> Sources:
    return Sources(*(np.empty(0) for _ in range(7)))
