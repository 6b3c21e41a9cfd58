# SPDX-License-Identifier: BSD-3-Clause
"""Power spectra of read noise in the order of reading, and lines of pick-up in them.

Pixels are numbers of a clock: those of a row follow each other, then the rows are moved for a time
in which nothing is converted. Rows are put where they belong on a grid of pixel times, with nothing
between them; the spectrum then covers everything from the length of a frame to two pixels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

Floats = NDArray[Any]

#: Of the conversion of a pixel, s.
PIXEL_S = 14.3e-6
_MEDIAN_BINS = 201


@dataclass(frozen=True)
class Timing:
    """When pixels were read.

    Attributes
    ----------
    pixel_s, line_s
        From pixel to pixel, from row to row.
    """

    pixel_s: float
    line_s: float


@dataclass(frozen=True)
class Spectrum:
    """Mean amplitude spectrum of some frames.

    Attributes
    ----------
    step_hz
        From one value to the next; the first is at 0 Hz.
    power
        |X|^2 / n: a white noise has its variance everywhere, ADU^2.
    samples
        Pixels of a frame, n.
    frames
        Averaged.
    """

    step_hz: float
    power: NDArray[np.float64]
    samples: int
    frames: int


@dataclass(frozen=True)
class Line:
    """A line of pick-up: frequency, amplitude of the sine (1 sigma errors), significance."""

    hertz: float
    hertz_error: float
    adu: float
    adu_error: float
    snr: float


def spectrum_of(residuals: Sequence[Floats], timing: Timing) -> Spectrum:
    """Return the mean spectrum of frames.

    Parameters
    ----------
    residuals
        Frames ``[row, column]`` without offset and structure, in the order of reading.
    """
    rows, columns = residuals[0].shape
    starts = np.rint(np.arange(rows) * timing.line_s / timing.pixel_s).astype(np.int64)
    length = scipy.fft.next_fast_len(int(starts[-1]) + columns, real=True)
    power = np.zeros(length // 2 + 1)
    stream = np.zeros(length, np.float32)
    places = starts[:, None] + np.arange(columns)
    for frame in residuals:
        stream[places] = frame
        found = scipy.fft.rfft(stream)
        power += found.real.astype(np.float64) ** 2 + found.imag.astype(np.float64) ** 2
    power /= len(residuals) * rows * columns
    return Spectrum(1.0 / (length * timing.pixel_s), power, rows * columns, len(residuals))


def floor_of(power: NDArray[np.float64], bins: int = _MEDIAN_BINS) -> NDArray[np.float64]:
    """Return the level under the lines: medians of blocks, straight lines between them.

    Blocks grow from low to high frequencies, as noise that falls with frequency wants it.
    """
    edges = [1]
    while edges[-1] < len(power):
        edges.append(edges[-1] + max(int(edges[-1] * 0.05), min(bins, 16 + edges[-1])))
    edges[-1] = len(power)
    centres = [(a + b - 1) / 2 for a, b in itertools.pairwise(edges)]
    levels = [np.median(power[a:b]) for a, b in itertools.pairwise(edges)]
    return np.interp(np.arange(len(power)), centres, levels)


def find_lines(
    spectrum: Spectrum, timing: Timing, *, false_alarm: float = 1e-3, most: int = 10
) -> list[Line]:
    """Return the lines of a spectrum, strongest first.

    A frame is read in rows with gaps between them: every line has satellites at multiples of the
    row frequency, on both sides of zero; these are no lines of their own.

    Parameters
    ----------
    false_alarm
        Chance that white noise gives any.
    """
    from scipy.stats import gamma

    floor = floor_of(spectrum.power)
    mean_of_median = spectrum.frames / gamma.median(spectrum.frames)
    floor = np.maximum(floor * mean_of_median, 1e-12)
    ratio = spectrum.power / floor
    ratio[:3] = 0.0
    threshold = float(gamma.isf(false_alarm / len(ratio), spectrum.frames)) / spectrum.frames
    row_hz = 1.0 / timing.line_s
    found: list[Line] = []
    for index in np.argsort(ratio)[::-1][:20000]:
        if ratio[index] < threshold or len(found) == most:
            break
        hertz = index * spectrum.step_hz
        if any(_is_satellite(hertz, one.hertz, row_hz, 3.0 * spectrum.step_hz) for one in found):
            continue
        found.append(_line(spectrum, int(index), float(floor[index]), float(ratio[index])))
    return found


def _is_satellite(hertz: float, line: float, row_hz: float, near_hz: float) -> bool:
    for mirrored in (line, -line):
        gap = (hertz - mirrored) / row_hz
        if abs(gap - round(gap)) * row_hz <= near_hz:
            return True
    return False


def _line(spectrum: Spectrum, index: int, floor: float, ratio: float) -> Line:
    """Return a line from its highest value and the neighbours."""
    power = spectrum.power
    amplitudes = np.sqrt(np.maximum(power[index - 1 : index + 2] - floor, 0.0))
    shift = 0.0
    if len(amplitudes) == 3 and amplitudes[1] > 0:
        # Of a sine without window: its place between two bins is that of their amplitudes' ratio.
        side = 1 if amplitudes[2] >= amplitudes[0] else -1
        part = amplitudes[1 + side] / (amplitudes[1] + amplitudes[1 + side])
        shift = side * float(part)
    peak = float(amplitudes[1]) / max(float(np.sinc(min(abs(shift), 0.5))), 0.6)
    scale = 2.0 / math.sqrt(spectrum.samples)
    noise = math.sqrt(floor / 2.0 / spectrum.frames) * scale
    snr = math.sqrt(max(ratio * spectrum.frames, 0.0))
    return Line(
        (index + shift) * spectrum.step_hz, spectrum.step_hz * 0.5 / max(snr, 1.0), peak * scale,
        noise, snr,
    )  # fmt: skip


def binned(spectrum: Spectrum, bins: int = 200) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return frequencies, mean and highest power in logarithmic bins: what a figure shows."""
    last = len(spectrum.power) - 1
    edges = np.unique(np.geomspace(1, last, bins + 1).astype(np.int64))
    starts = edges[:-1]
    sums = np.add.reduceat(spectrum.power[: last + 1], starts)
    highest = np.maximum.reduceat(spectrum.power[: last + 1], starts)
    counts = np.diff(np.append(starts, last + 1))
    centres = np.sqrt(edges[:-1] * edges[1:].astype(float)) * spectrum.step_hz
    return centres, sums / counts, highest


def correlations(streams: NDArray[Any]) -> tuple[NDArray[np.float64], float]:
    """Return the correlation of channels with each other, and the error of one that is 0.

    Parameters
    ----------
    streams
        (channels, pixels), read at the same times.
    """
    values = streams - streams.mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
    # What is far out (a hot pixel) would be all there is.
    for one in values:
        scale = 1.4826 * float(np.median(np.abs(one)))
        np.clip(one, -5.0 * scale, 5.0 * scale, out=one)
    return np.corrcoef(values), 1.0 / math.sqrt(max(streams.shape[1], 1))
