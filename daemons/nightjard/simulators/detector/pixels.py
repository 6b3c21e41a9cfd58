# SPDX-License-Identifier: BSD-3-Clause
"""Pixels that differ: response to light, defects, dark current, capacity."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from nightjar.calibration.detector import Detector
from nightjard.simulators.detector.scene import Image
from nightjard.simulators.detector.seeds import generator, key_of
from nightjard.simulators.detector.truth import Defects, Truth

_BOLTZMANN_EV_K = 8.617333262e-5
_MODES = 8


def static_key(truth: Truth, channel: str, effect: str) -> int:
    """Return the key of what is the same in every frame of a block."""
    return key_of(truth.block, truth.seed, channel, effect)


def apply_response(
    image: Image, detector: Detector, truth: Truth, channel: str, wave_nm: int
) -> None:
    """Multiply light by the response of a channel's pixels, defects included."""
    from nightjard.simulators.detector import kernels

    factor = truth.prnu.wavelength_factor.get(str(wave_nm), 1.0)
    sigma = np.float32(truth.prnu.sigma[channel] * factor)
    along, across = _smooth_modes(detector, truth, channel)
    if sigma > 0 or along.size:
        key = np.uint64(static_key(truth, channel, "prnu"))
        kernels.respond(image, key, sigma, along, across)
    _darken(image, truth.defects[channel])


def response(detector: Detector, truth: Truth, channel: str, wave_nm: int) -> Image:
    """Return the response map of a channel's image area: the truth of a flat field."""
    image = np.ones((detector.image_rows, detector.image_columns), np.float32)
    apply_response(image, detector, truth, channel, wave_nm)
    return image


def _smooth_modes(
    detector: Detector, truth: Truth, channel: str
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return rows and columns whose products add up to the smooth part of the response.

    A few cosines with wavelengths from one to three times the scale.
    """
    rows, columns = detector.image_rows, detector.image_columns
    if not truth.prnu.low_sigma:
        return np.zeros((0, rows), np.float32), np.zeros((0, columns), np.float32)
    rng = generator(static_key(truth, channel, "prnu low"))
    length = truth.prnu.low_scale_px * rng.uniform(1.0, 3.0, (2, _MODES))
    phase = rng.uniform(0.0, 2.0 * math.pi, (2, _MODES))
    turn_y = np.multiply.outer(2.0 * math.pi / length[0], np.arange(rows)) + phase[0][:, None]
    turn_x = np.multiply.outer(2.0 * math.pi / length[1], np.arange(columns)) + phase[1][:, None]
    amplitude = truth.prnu.low_sigma * 2.0 / math.sqrt(_MODES)
    return (amplitude * np.cos(turn_y)).astype(np.float32), np.cos(turn_x).astype(np.float32)


def _darken(image: Image, defects: Defects) -> None:
    for x, y, factor in defects.dark_pixels:
        image[y, x] *= factor
    for x, factor in defects.dead_columns:
        image[:, x] *= factor
    for x, y, radius, factor in defects.clusters:
        rows, columns = np.ogrid[: image.shape[0], : image.shape[1]]
        image[(columns - x) ** 2 + (rows - y) ** 2 <= radius**2] *= factor


def dark_rate(truth: Truth, channel: str, temperature_k: float) -> float:
    """Return the dark current of ordinary pixels at a temperature, e-/s."""
    return truth.dark.rate_e_s[channel] * _arrhenius(truth, temperature_k)


def _arrhenius(truth: Truth, temperature_k: float) -> float:
    inverse = 1.0 / temperature_k - 1.0 / truth.dark.reference_k
    return math.exp(-truth.dark.activation_ev / _BOLTZMANN_EV_K * inverse)


def hot_tail(
    detector: Detector, truth: Truth, channel: str
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return flat indices of pixels with more dark current, and how much more, e-/s."""
    count = round(truth.dark.tail_fraction * detector.image_rows * detector.image_columns)
    rng = generator(static_key(truth, channel, "dark tail"))
    places = np.unique(rng.integers(0, detector.image_rows * detector.image_columns, count))
    rates = truth.dark.tail_median_e_s * np.exp(
        truth.dark.tail_sigma_ln * rng.standard_normal(places.size)
    )
    return places, rates.astype(np.float32)


def add_dark(
    image: Image, detector: Detector, truth: Truth, channel: str, *,
    exposure_s: float, line_s: float, temperature_k: float | None,
) -> None:  # fmt: skip
    """Add expected dark current: of the exposure, and of the rows that wait to be read.

    Rows of parallel overscan stay without: they would have as much as the last row of the image.

    Parameters
    ----------
    temperature_k
        None: a warm test.
    """
    rows = np.arange(1, detector.image_rows + 1)
    if temperature_k is None:
        rate, growth = truth.dark.warm_e_s, 1.0
    else:
        rate = dark_rate(truth, channel, temperature_k)
        growth = _arrhenius(truth, temperature_k)
    if rate > 0.0:
        image += (rate * (exposure_s + rows * line_s)).astype(np.float32)[:, None]
    if exposure_s > 0.0 and truth.dark.tail_fraction > 0.0:
        places, rates = hot_tail(detector, truth, channel)
        image.reshape(-1)[places] += rates * np.float32(growth * exposure_s)
    defects = truth.defects[channel]
    for x, y, electrons, per_s in defects.hot_pixels:
        image[y, x] += electrons + per_s * exposure_s
    for x, first, electrons in defects.hot_columns:
        image[first:, x] += electrons


def cap(image: Image, detector: Detector, truth: Truth, channel: str) -> None:
    """Hold charge to the full well of pixels and let the rest flow along columns."""
    from nightjard.simulators.detector import kernels

    well = truth.full_well
    capacity = well.electrons[channel]
    if float(image.max()) < capacity * (1.0 - well.edge_drop - 8.0 * well.spread):
        return
    rows, columns = image.shape
    kernels.bloom(
        image, np.uint64(static_key(truth, channel, "full well")), np.float32(capacity),
        np.float32(well.spread), _edge(rows, well.edge_drop, well.edge_px),
        _edge(columns, well.edge_drop, well.edge_px), np.float32(well.overfill),
        np.float32(well.overfill_scale),
    )  # fmt: skip


def _edge(count: int, drop: float, scale_px: float) -> NDArray[np.float32]:
    distance = np.minimum(np.arange(count), np.arange(count)[::-1])
    return (drop * np.exp(-distance / scale_px)).astype(np.float32)


def add_cosmics(image: Image, detector: Detector, truth: Truth, *, seconds: float, key: int) -> int:
    """Add the tracks of cosmic rays; return how many there are.

    Straight tracks of exponential length; a log-normal charge per pixel of a track.
    """
    t = truth.cosmics
    if t.rate_cm2_min <= 0.0 or seconds <= 0.0:
        return 0
    rng = generator(key)
    rows, columns = image.shape
    area_cm2 = rows * columns * (detector.pixel_um * 1e-4) ** 2
    count = int(rng.poisson(t.rate_cm2_min * area_cm2 * seconds / 60.0))
    for _ in range(count):
        length = rng.exponential(t.length_um / detector.pixel_um)
        angle, x, y = rng.uniform(0.0, 2.0 * math.pi), rng.uniform(0, columns), rng.uniform(0, rows)
        charge = t.charge_e_px * math.exp(t.charge_sigma_ln * rng.standard_normal())
        along = np.arange(0.0, max(length, 1.0), 0.5)
        xs = np.floor(x + along * math.cos(angle)).astype(int)
        ys = np.floor(y + along * math.sin(angle)).astype(int)
        inside = (xs >= 0) & (xs < columns) & (ys >= 0) & (ys < rows)
        np.add.at(image, (ys[inside], xs[inside]), np.float32(0.5 * charge))
    return count
