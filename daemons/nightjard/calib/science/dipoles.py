# SPDX-License-Identifier: BSD-3-Clause
"""Dipoles of trap pumping: maps in which they stand out, finding them, measuring them anywhere.

A dipole is two neighbours along the transfer, the one as much above the level as the other below.
Arrays are canonical quadrants ``[row, column]``; dipoles lie along axis 0. Serial maps are one
line: they are handed over as one column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter, uniform_filter1d

from nightjard.calib.science import blank, traps

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
BACKGROUND_PX = 21
_SIGMA_OF_MAD = 1.4826
_MOST_SHIFT = 3  # columns by which serial pumping may leave a line late


@dataclass(frozen=True)
class DipoleMap:
    """A pumped quadrant, its even part taken off.

    Attributes
    ----------
    residual
        (rows, columns), relative to the level of the column; 0 where the pixel is bad.
    level
        (columns,): median of the column, unit of the pixels; NaN where there is nothing.
    noise
        Of a pixel of `residual`, 1 sigma.
    """

    residual: Floats
    level: NDArray[np.float64]
    noise: float

    @property
    def amplitude_noise(self) -> float:
        """Noise of the amplitude of a dipole, 1 sigma: a mean of two pixels."""
        return float(self.noise / np.sqrt(2))


def flatten(
    pixels: NDArray[np.float32], bad: Mask | None, *, minimum_level: float = 50.0,
    background_px: int = BACKGROUND_PX,
) -> DipoleMap:
    """Divide columns by their medians and take a moving mean off: dipoles remain.

    Parameters
    ----------
    pixels
        (rows, columns) above the offset.
    minimum_level
        Columns below it hold no charge to pump: they are bad throughout.
    """
    values = np.asarray(pixels, np.float32)
    # Rows are strided for the median of columns: a good sample of them is as good.
    step = max(values.shape[0] // 700, 1)
    if bad is not None and bad.any():
        sample = np.where(bad[::step], np.float32(np.nan), values[::step])
        full = np.isfinite(sample).any(axis=0)
        level = np.full(values.shape[1], np.nan)
        level[full] = blank.median(sample[:, full], axis=0)
    else:
        level = np.median(values[::step], axis=0).astype(np.float64)
    has_charge = np.isfinite(level) & (level > minimum_level)
    scale = np.where(has_charge, level, np.inf).astype(np.float32)
    residual = values / scale
    residual -= has_charge.astype(np.float32)
    if bad is not None:
        residual[bad] = 0
    # The wings of one dipole, of a spike or of a blemish must not move what is around them.
    noise = _noise(residual[:, has_charge])
    clipped = np.clip(residual, -8 * noise, 8 * noise)
    residual -= _moving_mean(clipped, background_px)
    if bad is not None:
        residual[bad] = 0
    residual[:, ~has_charge] = 0
    level = np.where(has_charge, level, np.nan)
    return DipoleMap(residual, level, _noise(residual[:, has_charge]))


def serial_ratio(
    line: NDArray[np.float64], reference: NDArray[np.float64]
) -> tuple[Floats, NDArray[np.float64]]:
    """Divide a pumped line by the reference, moved by the columns that pumping left it late.

    The shift is the one at which the pattern of the columns agrees best.

    Returns
    -------
    ratio, level
        The reference as it was moved is the level, ADU.
    """
    best, ratio, level = np.inf, np.ones_like(line), reference
    inner = slice(_MOST_SHIFT, len(line) - _MOST_SHIFT)
    for shift in range(-_MOST_SHIFT, _MOST_SHIFT + 1):
        moved = np.roll(reference, shift)
        one = line / np.where(moved > 1, moved, np.nan)
        rest = np.abs(one[inner] - blank.median(one[inner]))
        width = float(blank.median(rest))
        if width < best:
            best, ratio, level = width, one, moved
    ratio[: inner.start] = ratio[inner.stop :] = np.nan
    filled = np.where(np.isfinite(ratio), ratio, blank.median(ratio))
    return filled.astype(np.float32), level


def _moving_mean(values: Floats, size: int) -> Floats:
    if values.shape[1] == 1:
        out = uniform_filter1d(values, min(size, values.shape[0]), axis=0, mode="nearest")
    else:
        out = uniform_filter(values, size, mode="nearest")
    return np.asarray(out, np.float32)


def _noise(values: Floats) -> float:
    """Return the noise of pixels from differences two apart: no slope and no dipole enters much."""
    if values.size < 8 or values.shape[0] < 3:
        return float("nan")
    step = max(values.size // 400_000, 1)
    difference = (values[2:] - values[:-2]).ravel()[::step]
    return float(_SIGMA_OF_MAD * np.median(np.abs(difference)) / np.sqrt(2))


def blemishes(dipoles: DipoleMap, *, threshold: float = 6.0) -> Mask:
    """Return pixels that depart in a map that was not pumped: no traps but hot and dark pixels."""
    return np.asarray(np.abs(dipoles.residual) > threshold * dipoles.noise)


@dataclass(frozen=True)
class Dipoles:
    """Dipoles that were found.

    Attributes
    ----------
    row, column
        Of the first pixel of the pair.
    polarity
        1: the first pixel is the brighter one (S, serial W); 0: the second is (N, serial E).
    amplitude
        Mean of the two departures, relative to the level, positive.
    """

    row: NDArray[np.int64]
    column: NDArray[np.int64]
    polarity: NDArray[np.int64]
    amplitude: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.row)


def signed(residual: Floats) -> Floats:
    """Return half the difference of each pixel and the next one: the amplitude of a pair, signed.

    Returns
    -------
    array
        (rows - 1, columns); positive where the first pixel is the brighter.
    """
    return np.asarray((residual[:-1] - residual[1:]) * np.float32(0.5))


def find(
    dipoles: DipoleMap, *, threshold: float = 5.5, bad: Mask | None = None, noise: float = 0.0
) -> Dipoles:
    """Find dipoles whose amplitude is above the noise.

    Parameters
    ----------
    threshold
        In standard deviations of an amplitude.
    noise
        Of a pixel; that of the map where it is larger.

    Notes
    -----
    A candidate's amplitude is above the threshold and above those of the pairs that share a pixel
    with it; both pixels depart, each by half of the amplitude at the least (a hot pixel is not a
    dipole); the neighbours beyond do not carry on in the same sense (nor is the edge of a
    blemish). All is done for whole maps at once.
    """
    residual = dipoles.residual
    sigma = max(dipoles.noise, noise) / np.sqrt(2)
    empty = np.zeros(0, np.int64)
    if not np.isfinite(sigma) or sigma <= 0 or residual.shape[0] < 4:
        return Dipoles(empty, empty, empty, np.zeros(0))
    pairs = signed(residual)
    height = np.abs(pairs)
    row, column = np.nonzero(height > threshold * sigma)
    amplitude = height[row, column]
    # What follows looks at candidates only: some hundreds of four million pixels.
    inside = (row > 0) & (row < pairs.shape[0] - 1)
    row, column, amplitude = row[inside], column[inside], amplitude[inside]
    sign = np.sign(pairs[row, column])
    before, after = height[row - 1, column], height[row + 1, column]
    first, second = residual[row, column] * sign, -residual[row + 1, column] * sign
    outer = residual[row - 1, column] * sign
    beyond = -residual[row + 2, column] * sign
    keep = (amplitude >= before) & (amplitude > after)
    keep &= np.minimum(first, second) > 0.5 * amplitude
    keep &= ~((outer > 0.6 * amplitude) & (beyond > 0.6 * amplitude))
    if bad is not None:
        keep &= ~(bad[row, column] | bad[row + 1, column])
    row, column, sign = row[keep], column[keep], sign[keep]
    return Dipoles(
        row.astype(np.int64), column.astype(np.int64), (sign > 0).astype(np.int64),
        amplitude[keep].astype(np.float64),
    )  # fmt: skip


def measure(
    dipoles: DipoleMap, row: NDArray[np.int64], column: NDArray[np.int64],
    polarity: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return amplitudes at given places, whether found there or not; negative: the other sense.

    Outside the map NaN.
    """
    rows, columns = dipoles.residual.shape
    inside = (row >= 0) & (row < rows - 1) & (column >= 0) & (column < columns)
    out = np.full(len(row), np.nan)
    y, x = row[inside], column[inside]
    pair = dipoles.residual[y, x].astype(np.float64) - dipoles.residual[y + 1, x]
    out[inside] = 0.5 * pair * np.where(polarity[inside] > 0, 1, -1)
    return out


@dataclass(frozen=True)
class Pumped:
    """A map with how it was pumped: mode (``123``), time an electrode holds or the dwell, us."""

    mode: str
    time_us: float
    map: DipoleMap


@dataclass(frozen=True)
class Catalogue:
    """All that maps of one quadrant tell of its traps.

    Attributes
    ----------
    found
        Dipoles of each map, in the order of the maps.
    places
        Traps: pixel (row along the transfer, column), electrode, strength.
    time_us
        Pumping times, in order.
    amplitude, error
        (traps, 2, times): relative to the level, at the place and in the sense in which the one or
        two modes that show this electrode would have it; NaN where there is no such map.
    """

    found: tuple[Dipoles, ...]
    places: traps.Places
    time_us: NDArray[np.float64]
    amplitude: NDArray[np.float64]
    error: NDArray[np.float64]

    def strengths(self) -> NDArray[np.float64]:
        """Return amplitude over error of each trap and mode, all times together, (traps, 2)."""
        good = np.isfinite(self.amplitude) & np.isfinite(self.error)
        ratio = np.where(good, self.amplitude / np.where(good, self.error, 1), 0).sum(axis=2)
        return np.asarray(ratio / np.sqrt(np.maximum(good.sum(axis=2), 1)))


def catalogue(
    maps: Sequence[Pumped], *, threshold: float = 5.5, bad: Mask | None = None,
    tolerance_px: int = 1, noise: float = 0.0,
) -> Catalogue:
    """Find the traps of a quadrant in all its maps, and measure each in all of them.

    Detections of all times and modes are the start, with those of the mean of each mode's maps,
    which show fainter traps. What is measured afterwards does not depend on what was detected
    where: no amplitude is left out because it is small.
    """
    found = [find(one.map, threshold=threshold, bad=bad, noise=noise) for one in maps]
    rows, columns, phases, strengths = [], [], [], []
    sources = [(one.mode, one.map, dipoles) for one, dipoles in zip(maps, found, strict=True)]
    for mode in dict.fromkeys(one.mode for one in maps):
        mean = _mean_map([one.map for one in maps if one.mode == mode])
        sources.append((mode, mean, find(mean, threshold=threshold, bad=bad)))
    for mode, one_map, dipoles in sources:
        for polarity in (1, 0):
            chosen = dipoles.polarity == polarity
            phase, offset = traps.electrode(mode, polarity)
            rows.append(dipoles.row[chosen] + offset)
            columns.append(dipoles.column[chosen])
            phases.append(np.full(int(chosen.sum()), phase, np.int64))
            strengths.append(dipoles.amplitude[chosen] / one_map.amplitude_noise)
    places = traps.merge(
        np.concatenate(rows), np.concatenate(columns), np.concatenate(phases),
        np.concatenate(strengths), tolerance_px=tolerance_px,
    )  # fmt: skip
    times = np.unique([one.time_us for one in maps])
    amplitude, error = _measured(maps, places, times)
    return Catalogue(tuple(found), places, times, amplitude, error)


def _mean_map(maps: Sequence[DipoleMap]) -> DipoleMap:
    residual = maps[0].residual.copy()
    for one in maps[1:]:
        residual += one.residual
    residual /= np.float32(len(maps))
    has_charge = np.isfinite(maps[0].level)
    return DipoleMap(residual, maps[0].level, _noise(residual[:, has_charge]))


def _measured(
    maps: Sequence[Pumped], places: traps.Places, times: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    amplitude = np.full((len(places), 2, len(times)), np.nan)
    error = np.full_like(amplitude, np.nan)
    modes = sorted({one.mode for one in maps})
    for phase in np.unique(places.phase):
        mine = np.flatnonzero(places.phase == phase)
        for view, (number, polarity, offset) in enumerate(traps.views(modes, int(phase))[:2]):
            for one in maps:
                if one.mode != modes[number]:
                    continue
                k = int(np.searchsorted(times, one.time_us))
                first = places.row[mine] - offset
                sense = np.full(len(mine), polarity)
                amplitude[mine, view, k] = measure(one.map, first, places.column[mine], sense)
                error[mine, view, k] = one.map.amplitude_noise
    return amplitude, error
