# SPDX-License-Identifier: BSD-3-Clause
"""Loops over pixels, compiled by numba. Import this inside functions: numba takes its time.

Random numbers are a function of (key, index of the pixel): SplitMix64 gives the bits, a table of
the inverse normal distribution the deviate. No state, no order, the same in every process; nothing
here may reorder sums (no fastmath), so that frames are equal bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from scipy.special import ndtri

F = TypeVar("F", bound=Callable[..., Any])

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31 = np.uint64(30), np.uint64(27), np.uint64(31)
_S52, _S28, _S11 = np.uint64(52), np.uint64(28), np.uint64(11)
_LOW24 = np.uint64(0xFFFFFF)
_CELLS = 4096
_EDGE = 16  # Cells at either end where a straight line is too coarse: done exactly.
_NODES = ndtri(np.clip(np.arange(_CELLS + 1) / _CELLS, 1e-9, 1 - 1e-9)).astype(np.float32)
# Above it a Poisson deviate is a normal one with the skewness of Poisson (Cornish and Fisher).
_NORMAL_FROM = np.float32(30.0)

# Rational approximations of the normal quantile in the tails (P. J. Acklam, |error| < 1.2e-9).
_C = (-7.784894002430293e-03, -3.223964580411365e-01, -2.400758277161838, -2.549732539343734,
      4.374664141464968, 2.938163982698783)  # fmt: skip
_D = (7.784695709041462e-03, 3.224671290700398e-01, 2.445134137142996, 3.754408661907416)


def _compiled(function: F) -> F:
    """Compile, and keep the result on disk where there is a folder that can be written."""
    try:
        compiled = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # numba: no place for a cache
        compiled = numba.njit(nogil=True, error_model="numpy")(function)
    return cast(F, compiled)


@_compiled
def bits_of(key: np.uint64, index: np.uint64) -> np.uint64:
    """Return 64 well mixed bits."""
    x = key + index * _GOLDEN
    x = (x ^ (x >> _S30)) * _MIX1
    x = (x ^ (x >> _S27)) * _MIX2
    return x ^ (x >> _S31)


@_compiled
def _tail(bits: np.uint64) -> np.float32:
    u = (np.float64(bits >> _S11) + 0.5) * 1.1102230246251565e-16
    p = min(u, 1.0 - u)
    q = math.sqrt(-2.0 * math.log(p))
    above = ((((_C[0] * q + _C[1]) * q + _C[2]) * q + _C[3]) * q + _C[4]) * q + _C[5]
    below = (((_D[0] * q + _D[1]) * q + _D[2]) * q + _D[3]) * q + 1.0
    z = above / below
    return np.float32(z if u < 0.5 else -z)


@_compiled
def normal_of(bits: np.uint64) -> np.float32:
    """Return a normal deviate of 64 random bits."""
    cell = np.int64(bits >> _S52)
    if cell < _EDGE or cell >= _CELLS - _EDGE:
        return _tail(bits)
    low: np.float32 = _NODES[cell]
    fraction = np.float32((bits >> _S28) & _LOW24) * np.float32(5.9604644775390625e-08)
    return np.float32(low + fraction * (_NODES[cell + 1] - low))


@_compiled
def poisson_of(bits: np.uint64, mean: np.float32) -> np.float32:
    """Return a Poisson deviate: by inversion where small, else normal with Poisson's skewness."""
    if mean <= np.float32(0.0):
        return np.float32(0.0)
    if mean >= _NORMAL_FROM:
        z = normal_of(bits)
        value = mean + math.sqrt(mean) * z + (z * z - np.float32(1.0)) * np.float32(1.0 / 6.0)
        return max(np.float32(value), np.float32(0.0))
    u = np.float64(bits >> _S11) * 1.1102230246251565e-16
    if u < 1.0 - mean:  # exp(-m) >= 1 - m: nothing without an exponential
        return np.float32(0.0)
    term = math.exp(-float(mean))
    total = term
    count = 0
    while u > total and count < 400:
        count += 1
        term *= float(mean) / count
        total += term
    return np.float32(count)


@_compiled
def draw_counts(mean: Any, key: np.uint64, out: Any) -> None:
    """Draw Poisson counts of an expected image (rows, columns), float32, into ``out``."""
    rows, columns = mean.shape
    for y in range(rows):
        for x in range(columns):
            index = np.uint64(y * columns + x)
            out[y, x] = poisson_of(bits_of(key, index), mean[y, x])


@_compiled
def read_out(
    image: Any, rows: int, prescan: int, overscan: int, cti: Any, scale: np.float32, out: Any
) -> None:
    """Shift an image out: parallel, then serial, with deferred charge; and scale it.

    Parameters
    ----------
    image : (image rows, image columns) float32
        Electrons, canonical.
    rows
        Rows that are read, parallel overscan included.
    cti : (4,) float32
        Fraction lost per parallel transfer, its ratio from pixel to pixel of the tail, then both
        for serial transfers.
    out : (rows, prescan + columns + overscan) float32
    """
    image_rows, columns = image.shape
    one = np.float32(1.0)
    lost_p, keep_p, lost_s, keep_s = cti[0], cti[1], cti[2], cti[3]
    waiting, charges = np.zeros(columns, np.float32), np.zeros(columns, np.float32)
    for y in range(rows):
        part = np.float32(y + 1) * lost_p
        if y < image_rows:
            charges[:] = image[y]
        else:
            charges[:] = np.float32(0.0)
        shifted = out[y, prescan : prescan + columns]
        for x in range(columns):
            shifted[x] = charges[x] * (one - part) + waiting[x] * (one - keep_p)
            waiting[x] = waiting[x] * keep_p + charges[x] * part
        for x in range(prescan):
            out[y, x] = np.float32(0.0)
        late = np.float32(0.0)
        for x in range(prescan, prescan + columns):
            charge = out[y, x]
            part_s = np.float32(x + 1) * lost_s
            out[y, x] = (charge * (one - part_s) + late * (one - keep_s)) * scale
            late = late * keep_s + charge * part_s
        for x in range(prescan + columns, prescan + columns + overscan):
            out[y, x] = late * (one - keep_s) * scale
            late *= keep_s


@_compiled
def mix_channels(source: Any, matrix: Any, victims: Any, out: Any) -> None:
    """Add the cross-talk of all channels to some.

    Parameters
    ----------
    source : (channels, rows, columns) float32
    matrix : (channels, channels) float32
        Row: source, column: victim. The diagonal is not used.
    victims : (m,) int64
        Channels wanted.
    out : (m, rows, columns) float32
    """
    channels, rows, columns = source.shape
    for y in range(rows):
        for m in range(victims.size):
            victim = victims[m]
            for x in range(columns):
                out[m, y, x] = source[victim, y, x]
            for s in range(channels):
                c = matrix[s, victim]
                if s != victim and c != np.float32(0.0):
                    for x in range(columns):
                        out[m, y, x] += c * source[s, y, x]


@_compiled
def convert(
    signal: Any, curve: Any, curve_step: np.float32, base_x: Any, base_y: Any, cross: np.float32,
    waves: Any, flicker: Any, noise: np.float32, key: np.uint64, codes: Any, full: int, out: Any,
) -> None:  # fmt: skip
    """Turn signals into numbers: linearity, offset, noise, converter.

    Parameters
    ----------
    signal : (rows, columns) float32
        ADU above offset.
    curve : (n,) float32, curve_step
        Signal that is measured for true signals 0, step, 2 step ...; empty: linear.
    base_x : (columns,), base_y : (rows,), cross
        Offset in ADU = base_x + base_y + cross * u * v, u and v from -1 to 1 over the quadrant.
    waves : (n, 2, rows + columns) float32
        Pick-up lines: sine and cosine of the phase of rows, then of columns; see ``electronics``.
    flicker : (rows, columns) float32 or (0, 0)
    noise
        White noise, ADU.
    codes : (full + 1,) uint16 or (0,)
        What the converter says for each true level.
    full
        Highest level.
    out : (rows, columns) uint16
    """
    rows, columns = signal.shape
    last = curve.size - 2
    du, dv = np.float32(2.0 / max(columns - 1, 1)), np.float32(2.0 / max(rows - 1, 1))
    for y in range(rows):
        slope = cross * (np.float32(y) * dv - np.float32(1.0))
        for x in range(columns):
            value = signal[y, x]
            if last >= 0 and value > np.float32(0.0):
                place = value / curve_step
                cell = min(int(place), last)
                value = curve[cell] + (place - np.float32(cell)) * (curve[cell + 1] - curve[cell])
            value += base_x[x] + base_y[y] + slope * (np.float32(x) * du - np.float32(1.0))
            for w in range(waves.shape[0]):
                value += (
                    waves[w, 0, y] * waves[w, 1, rows + x] + waves[w, 1, y] * waves[w, 0, rows + x]
                )
            if flicker.size:
                value += flicker[y, x]
            if noise > np.float32(0.0):
                value += noise * normal_of(bits_of(key, np.uint64(y * columns + x)))
            level = min(max(math.floor(value + np.float32(0.5)), 0), full)
            out[y, x] = codes[level] if codes.size else np.uint16(level)


@_compiled
def respond(image: Any, key: np.uint64, sigma: np.float32, modes_y: Any, modes_x: Any) -> None:
    """Multiply an image by the response of its pixels.

    Parameters
    ----------
    image : (rows, columns) float32
    key, sigma
        White part of the response.
    modes_y : (m, rows) float32, modes_x : (m, columns) float32
        Smooth part: the sum of their products.
    """
    rows, columns = image.shape
    smooth = np.empty(columns, np.float32)
    for y in range(rows):
        for x in range(columns):
            smooth[x] = np.float32(1.0)
        for m in range(modes_y.shape[0]):
            factor = modes_y[m, y]
            for x in range(columns):
                smooth[x] += factor * modes_x[m, x]
        for x in range(columns):
            factor = smooth[x]
            if sigma > np.float32(0.0):
                factor += sigma * normal_of(bits_of(key, np.uint64(y * columns + x)))
            image[y, x] *= max(factor, np.float32(0.0))


@_compiled
def bloom(
    image: Any, key: np.uint64, capacity: np.float32, spread: np.float32, edge_y: Any, edge_x: Any,
    overfill: np.float32, scale: np.float32,
) -> None:  # fmt: skip
    """Cap the charge of pixels; what is too much flows up and down the column, half each.

    Parameters
    ----------
    image : (rows, columns) float32
        Electrons, changed in place.
    capacity, spread
        Mean capacity and its relative spread from pixel to pixel.
    edge_y : (rows,), edge_x : (columns,) float32
        Parts of capacity missing near the edges.
    overfill, scale
        How much more a pixel holds on which much more falls.
    """
    rows, columns = image.shape
    limit = np.empty((rows, columns), np.float32)
    excess = np.empty((rows, columns), np.float32)
    one = np.float32(1.0)
    for y in range(rows):
        for x in range(columns):
            cap = capacity * (one - max(edge_y[y], edge_x[x]))
            cap *= one + spread * normal_of(bits_of(key, np.uint64(y * columns + x)))
            over = image[y, x] / cap - one
            excess[y, x] = np.float32(0.0)
            if over > np.float32(0.0):
                cap *= one + overfill * np.float32(one - math.exp(-over / scale))
                if image[y, x] > cap:
                    excess[y, x] = (image[y, x] - cap) * np.float32(0.5)
                    image[y, x] = cap
            limit[y, x] = cap
    for step in (1, -1):
        flow = np.zeros(columns, np.float32)
        y = 0 if step == 1 else rows - 1
        while 0 <= y < rows:
            for x in range(columns):
                taken = min(flow[x], max(limit[y, x] - image[y, x], np.float32(0.0)))
                image[y, x] += taken
                flow[x] += excess[y, x] - taken
            y += step


@_compiled
def exchange(charge: Any, light: Any, taps: Any, strengths: Any, y: int, out: Any) -> None:
    """Return one row of what brighter-fatter moves: see `brighter_fatter`.

    Parameters
    ----------
    charge, light : (rows, columns) float32
        Electrons that repel, electrons that arrive.
    taps : (n, 2) int64
        Row and column of every lag but (0, 0).
    strengths : (n,) float32
        Half of K at the lags, 1/e.
    y
        Row.
    out : (columns,) float32
    """
    rows, columns = charge.shape
    for x in range(columns):
        out[x] = np.float32(0.0)
    for n in range(strengths.size):
        other = y + taps[n, 0]
        if other < 0 or other >= rows:
            continue
        lag = taps[n, 1]
        half = strengths[n]
        low, high = max(0, -lag), min(columns, columns - lag)
        # Slices: an index that might be negative would keep the loop from being vectorised.
        here, there = charge[y, low:high], charge[other, low + lag : high + lag]
        light_here, light_there = light[y, low:high], light[other, low + lag : high + lag]
        moved = out[low:high]
        for x in range(high - low):
            moved[x] += half * (light_here[x] + light_there[x]) * (there[x] - here[x])


@_compiled
def accumulate(
    light: Any, steps: int, is_noisy: bool, key: np.uint64, taps: Any, strengths: Any,
    limit: np.float32, out: Any,
) -> None:  # fmt: skip
    """Fill pixels step by step while their charge repels what arrives; see `brighter_fatter`.

    Parameters
    ----------
    light : (rows, columns) float32
        Electrons expected of the whole exposure without repulsion.
    steps, is_noisy, key
        Equal parts of the exposure; whether electrons are counted; which random numbers.
    limit
        Electrons a pixel holds: those above it have left by the time they would repel.
    out : (rows, columns) float32
        Electrons collected.
    """
    rows, columns = light.shape
    part = light * np.float32(1.0 / steps)
    arrived = np.empty((rows, columns), np.float32)
    moved = np.empty(columns, np.float32)
    held = np.zeros((rows, columns), np.float32)
    fresh = np.empty((rows, columns), np.float32)
    pushed = np.empty((rows, columns), np.float32)
    out[:] = np.float32(0.0)
    half, third = np.float32(1.0 / 2.0), np.float32(5.0 / 24.0)
    for step in range(steps):
        now = bits_of(key, np.uint64(step))
        for y in range(rows):
            exchange(held, part, taps, strengths, y, moved)
            for x in range(columns):
                mean = part[y, x] + moved[x]
                if is_noisy:
                    mean = poisson_of(bits_of(now, np.uint64(y * columns + x)), mean)
                arrived[y, x] = mean
                fresh[y, x] = min(mean, limit - held[y, x])
        for y in range(rows):
            exchange(fresh, part, taps, strengths, y, pushed[y])
        for y in range(rows):
            exchange(pushed, part, taps, strengths, y, moved)
            for x in range(columns):
                out[y, x] += arrived[y, x] + half * pushed[y, x] + third * moved[x]
                held[y, x] = min(out[y, x], limit)
