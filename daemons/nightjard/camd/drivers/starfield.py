# SPDX-License-Identifier: BSD-3-Clause
"""The sparse part of a simulated image: a seeded star field and hot pixels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nightjard.camd.drivers.options import SimulatedOptions
    from nightjard.camd.drivers.sensor import Geometry
    from nightjard.camd.geometry import Region

_STAR_RADIUS_SIGMAS = 4.0
_STAR_DENSITY = 25e-6  # per pixel
_HOT_DENSITY = 30e-6


class Points(NamedTuple):
    """Pixels that get more electrons than their neighbours, in array coordinates."""

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    star_rate: NDArray[np.float32]  # e-/s
    dark_rate: NDArray[np.float32]  # e-/s at the reference temperature


def points_of(
    options: SimulatedOptions, geometry: Geometry, window: Region, binning: int
) -> Points:
    """Gather stars and hot pixels that fall into the array, each pixel once."""
    star_x, star_y, star_rate = star_pixels(options, geometry)
    hot_x, hot_y, hot_rate = hot_pixels(options, geometry)
    x = np.concatenate((star_x, hot_x)) - (window.x1 - 1)
    y = np.concatenate((star_y, hot_y)) - (window.y1 - 1)
    rates = np.zeros((2, x.size))
    rates[0, : star_x.size] = star_rate
    rates[1, star_x.size :] = hot_rate
    height, width = window.height // binning, window.width // binning
    inside = (x >= 0) & (y >= 0) & (x < width * binning) & (y < height * binning)
    flat = (y[inside] // binning) * width + x[inside] // binning
    cells, place = np.unique(flat, return_inverse=True)
    star, dark = (
        np.bincount(place, rates[kind][inside], minlength=cells.size).astype(np.float32)
        for kind in (0, 1)
    )
    return Points(cells // width, cells % width, star, dark)


def hot_pixels(
    options: SimulatedOptions, geometry: Geometry
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return 0-indexed columns and rows of hot pixels, and e-/s at the reference temperature."""
    rng = np.random.default_rng([options.seed, 0x484F])
    readout, bias = geometry.readout, geometry.bias
    count = options.hot_pixels
    if count is None:
        count = round(_HOT_DENSITY * readout.width * readout.height)
    x = rng.integers(0, readout.width, count)
    y = rng.integers(0, readout.height, count)
    rate = rng.exponential(options.hot_current, count)
    if bias is not None:  # overscan rows are read without pixels behind them
        rate[(y >= bias.y1 - 1) & (y < bias.y2) & (x >= bias.x1 - 1) & (x < bias.x2)] = 0
    return x, y, rate


def star_positions(
    options: SimulatedOptions, geometry: Geometry
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return 0-indexed columns and rows of the stars on the read-out, and fluxes in e-/s."""
    rng = np.random.default_rng([options.seed, 0x5354])
    image, count = geometry.image, options.stars
    if count is None:
        count = round(_STAR_DENSITY * image.width * image.height)
    x = rng.uniform(image.x1 - 1, image.x2 - 1, count)
    y = rng.uniform(image.y1 - 1, image.y2 - 1, count)
    # Counts grow as flux**-1: the slope of a field without extinction is -1.5, near a plane
    # it is flatter.
    flux = options.brightest_star / np.arange(1, count + 1)
    return x, y, flux


def star_pixels(
    options: SimulatedOptions, geometry: Geometry
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return the pixels of all stars (Gaussian PSF at pixel centres) and their e-/s."""
    x, y, flux = star_positions(options, geometry)
    sigma = options.fwhm / math.sqrt(8 * math.log(2))
    radius = math.ceil(_STAR_RADIUS_SIGMAS * sigma)
    span = np.arange(-radius, radius + 1)
    columns = np.rint(x).astype(np.int64)[:, None, None] + span[None, None, :]
    rows = np.rint(y).astype(np.int64)[:, None, None] + span[None, :, None]
    columns, rows = np.broadcast_arrays(columns, rows)
    square = (columns - x[:, None, None]) ** 2 + (rows - y[:, None, None]) ** 2
    shape = np.exp(-square / (2 * sigma**2))
    shape *= flux[:, None, None] / np.maximum(shape.sum(axis=(1, 2), keepdims=True), 1e-30)
    image = geometry.image
    lit = (columns >= image.x1 - 1) & (columns < image.x2)
    lit &= (rows >= image.y1 - 1) & (rows < image.y2)
    return columns[lit], rows[lit], shape[lit]
