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
_NEAR_BINS = 12
_MOST_RESTS = 5


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
    for frame in residuals:
        for start, row in zip(starts, frame, strict=True):
            stream[start : start + columns] = row
        found = scipy.fft.rfft(stream)
        for part in (found.real, found.imag):
            power += np.square(part, dtype=np.float64)
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
    residuals: Sequence[Floats], spectrum: Spectrum, timing: Timing, *,
    frames_in_mean: int = 0, false_alarm: float = 1e-3, most: int = 10,
) -> list[Line]:  # fmt: skip
    """Return the lines of pick-up in frames, strongest first.

    The rows have gaps between them: a line has satellites at multiples of the row frequency. So
    the strongest line is fitted at the times at which the pixels were really read and taken out of
    the frames, until nothing stands above the noise.

    Parameters
    ----------
    residuals
        As for :func:`spectrum_of`; changed: the lines are taken out.
    spectrum
        Of them.
    frames_in_mean
        Frames of the mean that was taken from each to be rid of structure; 0: none was. A line
        keeps its amplitude in no frame then, but the frames lie on a circle.
    false_alarm
        Chance that white noise gives any.
    """
    from scipy.stats import gamma

    frames = spectrum.frames
    mean_of_median = frames / float(gamma.median(frames))
    threshold = float(gamma.isf(false_alarm / len(spectrum.power), frames)) / frames
    found: list[Line] = []
    rests = 0
    while len(found) < most:
        floor = np.maximum(floor_of(spectrum.power) * mean_of_median, 1e-12)
        ratio = spectrum.power / floor
        ratio[:3] = 0.0
        index = int(np.argmax(ratio))
        if ratio[index] < threshold:
            break
        hertz = _refined(residuals, timing, index * spectrum.step_hz, spectrum.step_hz)
        parts = np.array([_take_out(one, timing, hertz) for one in residuals])
        noise = math.sqrt(2.0 * float(floor[index]) / spectrum.samples)  # of one amplitude
        adu = _amplitude(parts, noise, frames_in_mean)
        snr = adu * math.sqrt(frames) / noise
        # Of a sine in white noise over a time T: sqrt(6) / (pi T snr).
        error = math.sqrt(6.0) / math.pi * spectrum.step_hz / max(snr, 1.0)
        line = Line(hertz, error, adu, noise / math.sqrt(frames), snr)
        if any(_is_rest(line, one, spectrum.step_hz) for one in found):
            rests += 1
            if rests == _MOST_RESTS:
                break
        else:
            found.append(line)
        spectrum = spectrum_of(residuals, timing)
    return sorted(found, key=lambda one: -one.adu)


def _is_rest(line: Line, strong: Line, step_hz: float) -> bool:
    """Tell whether a line is what another, next to it, left behind when it was taken out."""
    return abs(line.hertz - strong.hertz) < _NEAR_BINS * step_hz and line.adu < 0.03 * strong.adu


def _amplitude(parts: NDArray[Any], noise: float, frames_in_mean: int) -> float:
    """Return the amplitude of a line from its complex amplitudes in frames.

    Phases differ from frame to frame, the amplitude does not. Without the mean of N frames, the
    points lie on a circle about that mean (fit of Kasa); of few or weak ones the mean square is
    taken, which is too small by 1 - 1 / N.
    """
    power = float(np.mean(np.abs(parts) ** 2)) - 2.0 * noise * noise
    if frames_in_mean > 1:
        power /= 1.0 - 1.0 / frames_in_mean
        if len(parts) >= 5 and power > (10.0 * noise) ** 2:
            design = np.stack([2.0 * parts.real, 2.0 * parts.imag, np.ones(len(parts))], axis=1)
            x, y, rest = np.linalg.lstsq(design, np.abs(parts) ** 2, rcond=None)[0]
            circle = float(rest + x * x + y * y)
            if 0.25 * power < circle < 4.0 * power:
                power = circle
    return math.sqrt(max(power, 0.0))


def _waves(shape: tuple[int, ...], timing: Timing, hertz: float) -> tuple[Floats, Floats]:
    """Return exp(2 pi i f t) of the starts of rows and of the pixels within a row."""
    rows = np.exp(2j * math.pi * hertz * timing.line_s * np.arange(shape[0]))
    columns = np.exp(2j * math.pi * hertz * timing.pixel_s * np.arange(shape[1]))
    return rows, columns


def _component(frame: Floats, timing: Timing, hertz: float) -> complex:
    """Return the complex amplitude of a line in a frame: half of it is at the frequency."""
    rows, columns = _waves(frame.shape, timing, hertz)
    real = frame @ columns.real.astype(np.float32)
    imaginary = frame @ columns.imag.astype(np.float32)
    return complex(2.0 * np.dot(rows.conj(), real - 1j * imaginary) / frame.size)


def _refined(residuals: Sequence[Floats], timing: Timing, hertz: float, step_hz: float) -> float:
    """Return the frequency near one of the grid at which the frames have the most power."""
    few = residuals[:2]
    width = step_hz
    for _ in range(3):
        grid = hertz + width * np.linspace(-1.0, 1.0, 5)
        powers = [sum(abs(_component(one, timing, f)) ** 2 for one in few) for f in grid]
        best = int(np.argmax(powers))
        hertz = float(grid[best])
        if 0 < best < len(grid) - 1:
            below, at, above = powers[best - 1 : best + 2]
            curvature = below - 2.0 * at + above
            if curvature < 0:
                hertz += float((grid[1] - grid[0]) * 0.5 * (below - above) / curvature)
        width /= 4.0
    return hertz


def _take_out(frame: Floats, timing: Timing, hertz: float) -> complex:
    """Subtract a line from a frame; return its complex amplitude."""
    one = _component(frame, timing, hertz)
    rows, columns = _waves(frame.shape, timing, hertz)
    start = one * rows
    frame -= np.outer(start.real, columns.real).astype(np.float32)
    frame += np.outer(start.imag, columns.imag).astype(np.float32)
    return one


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

    A channel that does not vary has none: NaN.

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
    with np.errstate(invalid="ignore", divide="ignore"):
        matrix = np.atleast_2d(np.corrcoef(values))  # of a single channel it is a plain number
    return matrix, 1.0 / math.sqrt(max(streams.shape[1], 1))
