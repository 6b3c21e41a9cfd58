# SPDX-License-Identifier: BSD-3-Clause
"""From charge at the output node to numbers: what the kernels want to know of the electronics."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from nightjar.calibration.detector import Detector
from nightjard.simulators.detector.seeds import generator
from nightjard.simulators.detector.truth import ElectronicsTruth

Value = str | int | float
Vector = NDArray[np.float32]

PIXEL_S = 14.3e-6  # of a serial transfer with its conversion
NOMINAL_RD_V = 16.0
_CURVE_STEP_ADU = 32.0


def line_s(detector: Detector, values: Mapping[str, Value]) -> float:
    """Return the time from row to row at read-out."""
    parallel = 4e-6 * float(values.get("toi_ro", 1000.0))
    return parallel + PIXEL_S * detector.quadrant_shape[1]


def rd_offset_v(detector: Detector, values: Mapping[str, Value], quadrant: str) -> float:
    """Return RD of a quadrant's half above nominal, V."""
    return float(values.get(f"RD_{detector.half_of(quadrant)}", NOMINAL_RD_V)) - NOMINAL_RD_V


def nonlinearity_percent(x: NDArray[np.float64], truth: ElectronicsTruth) -> NDArray[np.float64]:
    """Return the deviation in percent at signals x, in parts of the converter's range."""
    if truth.nonlinearity_scale == 0.0:
        return np.zeros_like(x)
    a, x0, s = truth.nonlinearity
    smooth = np.polyval(truth.nonlinearity_polynomial, x)
    return np.asarray(truth.nonlinearity_scale * (a * np.exp(-(x - x0) / s) + smooth))


def curve(detector: Detector, truth: ElectronicsTruth) -> tuple[Vector, np.float32]:
    """Return what is measured for signals 0, step, 2 step ... and the step; empty where linear."""
    step = np.float32(_CURVE_STEP_ADU)
    if truth.nonlinearity_scale == 0.0:
        return np.zeros(0, np.float32), step
    signal = np.arange(0.0, 1.6 * detector.adc_full_scale, _CURVE_STEP_ADU)
    percent = nonlinearity_percent(signal / detector.adc_full_scale, truth)
    return (signal * (1.0 + percent / 100.0)).astype(np.float32), step


def base(
    detector: Detector, truth: ElectronicsTruth, channel: str, offset_adu: float
) -> tuple[Vector, Vector, np.float32]:
    """Return the offset as columns + rows + cross term, ADU.

    The trimmed prescan of the image rows has ``offset_adu`` on average.
    """
    rows, columns = detector.quadrant_shape
    u, v = np.linspace(-1.0, 1.0, columns), np.linspace(-1.0, 1.0, rows)
    c0, c1, c2, c3, c4 = truth.structure_adu[channel]
    x = c0 * u + c2 * u * u
    if truth.settling_adu:
        x = x + truth.settling_adu * np.exp(-np.arange(columns) / truth.settling_px)
    y = c1 * v + c3 * v * v
    if detector.prescan:
        scan, image = detector.columns_of("prescan", is_trimmed=True), detector.rows_of("image")
        shift = x[scan].mean() + y[image].mean() + c4 * u[scan].mean() * v[image].mean()
        x = x - shift
    return (x + offset_adu).astype(np.float32), y.astype(np.float32), np.float32(c4)


def pickup_waves(
    detector: Detector, truth: ElectronicsTruth, values: Mapping[str, Value], key: int
) -> Vector:
    """Return sines and cosines of the phases of pick-up lines along rows and columns.

    The phase of a line is random for each frame and the same in all channels, as they are read at
    the same time.

    Returns
    -------
    numpy.ndarray
        (lines, 2, rows + columns), amplitude in the rows' part.
    """
    rows, columns = detector.quadrant_shape
    waves = np.zeros((len(truth.pickup), 2, rows + columns))
    starts = generator(key).uniform(0.0, 2.0 * math.pi, len(truth.pickup))
    for wave, (hertz, adu), start in zip(waves, truth.pickup, starts, strict=True):
        of_rows = 2.0 * math.pi * hertz * line_s(detector, values) * np.arange(rows) + start
        of_columns = 2.0 * math.pi * hertz * PIXEL_S * np.arange(columns)
        wave[0, :rows], wave[1, :rows] = adu * np.sin(of_rows), adu * np.cos(of_rows)
        wave[0, rows:], wave[1, rows:] = np.sin(of_columns), np.cos(of_columns)
    return waves.astype(np.float32)


def white_noise_adu(truth: ElectronicsTruth, channel: str) -> float:
    """Return the noise before the converter, whose rounding adds 1/12 ADU^2 to the read noise."""
    return math.sqrt(max(truth.read_noise_adu[channel] ** 2 - 1.0 / 12.0, 0.0))


def flicker(detector: Detector, truth: ElectronicsTruth, key: int) -> NDArray[np.float32]:
    """Return noise with a spectrum as 1/f in the order of reading, ADU; (0, 0) where there is none.

    Its standard deviation over a frame is ``flicker_adu``.
    """
    rows, columns = detector.quadrant_shape
    if not truth.flicker_adu:
        return np.zeros((0, 0), np.float32)
    count = rows * columns
    spectrum = np.fft.rfft(generator(key).standard_normal(count))
    spectrum[0] = 0.0
    spectrum[1:] /= np.sqrt(np.arange(1, spectrum.size))
    noise = np.fft.irfft(spectrum, count)
    noise *= truth.flicker_adu / noise.std()
    return noise.astype(np.float32).reshape(rows, columns)


def codes(detector: Detector, truth: ElectronicsTruth, channel: str) -> NDArray[np.uint16]:
    """Return what the converter says for each level; empty where it says the level itself."""
    stuck = truth.stuck_bits.get(channel)
    if stuck is None and not truth.missing_code_bits:
        return np.zeros(0, np.uint16)
    levels = np.arange(detector.adc_full_scale, dtype=np.int64)
    if truth.missing_code_bits:
        missing = levels % (1 << truth.missing_code_bits) == 0
        levels = np.where(missing & (levels > 0), levels - 1, levels)
    if stuck is not None:
        bit, is_set = stuck
        levels = levels | (1 << bit) if is_set else levels & ~(1 << bit)
    return levels.astype(np.uint16)
