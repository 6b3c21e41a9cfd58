# SPDX-License-Identifier: BSD-3-Clause
"""Covariances of the noise of neighbouring pixels in flat fields, and what they say of them.

Arrays are ``[row lag, column lag]``: rows are along the parallel transfer, columns along the
serial one. Pixels are clipped before the products are made, not the products: of two normal
variables cut at +-k sigma with a small correlation the mean product is the correlation times the
square of the share of variance that is left (:func:`nightjard.calib.science.robust.clipped_share`),
up to the third power of the correlation. Clipped products have no such correction.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nightjard.calib.science.robust import (
    Float64s,
    clipped_moments,
    clipped_share,
    weighted_least_squares,
)
from nightjard.calib.science.trailing import GRID

_BLOCK = 64  # rows whose products are added up in float32, while they are in the cache


@dataclass(frozen=True)
class Covariances:
    """Covariances of one frame of a pair.

    Attributes
    ----------
    values
        ADU^2, shape (lags, lags); [0, 0] is the variance.
    errors
        1 sigma of counting.
    masked
        Share of pixels that did not count.
    """

    values: Float64s
    errors: Float64s
    masked: float


def pair_covariances(
    first: NDArray[np.float32], second: NDArray[np.float32], bad: NDArray[np.bool_],
    lags: int = 5, clip_sigma: float = 4.5,
) -> Covariances:
    """Return the covariances of the noise of one of two like frames.

    Of the difference a low polynomial is taken away: light and offsets that drift.

    Parameters
    ----------
    first, second
        Image areas above offset, ADU ``[row, column]``.
    bad
        Pixels of either that do not count.
    """
    difference = np.subtract(first, second, dtype=np.float32)
    surface, taken = low_surface(difference, bad)
    difference -= surface
    moments = clipped_moments(difference[~bad] if bad.any() else difference, clip_sigma)
    difference -= np.float32(moments.mean)
    good = ~bad & (np.abs(difference) <= clip_sigma * np.sqrt(moments.variance))
    products, counts = lag_products(difference, good, lags)
    share = clipped_share(clip_sigma)
    corrections = np.full((lags, lags), share**2)
    corrections[0, 0] = share
    values = products / np.maximum(counts, 1.0) / corrections / 2.0
    # A surface of so many coefficients takes as many degrees of freedom, at every small lag alike.
    values += values[0, 0] * taken / max(int(good.sum()), 1)
    errors = values[0, 0] / np.sqrt(np.maximum(counts, 1.0))
    errors[0, 0] *= np.sqrt(2.0)
    return Covariances(values, errors, 1.0 - float(good.mean()))


def lag_products(
    values: NDArray[np.float32], good: NDArray[np.bool_], lags: int
) -> tuple[Float64s, Float64s]:
    """Return sums of products of pixels and their shifted neighbours, and how many there were.

    Lags up and to either side are taken together: both have the same covariance. Rows are put
    behind each other with zeros between, so that every lag is one product of two long vectors.
    """
    rows, columns = values.shape
    width = columns + lags
    padded = np.zeros((rows + lags, width), np.float32)
    padded[:rows, :columns] = np.where(good, values, 0)
    present = np.zeros((rows + lags, width), np.float32)
    present[:rows, :columns] = good
    products, counts = np.zeros((lags, lags)), np.zeros((lags, lags))
    shifts = [
        (row, abs(column), row * width + column)
        for row in range(lags) for column in range(1 - lags if row else 0, lags)
    ]  # fmt: skip
    for array, sums in ((padded.ravel(), products), (present.ravel(), counts)):
        for start in range(0, rows * width, _BLOCK * width):
            stop = min(start + _BLOCK * width, rows * width)
            here = array[start:stop]
            for row, column, shift in shifts:
                sums[row, column] += np.dot(here, array[start + shift : stop + shift])
    return products, counts


def low_surface(
    values: NDArray[np.float32], bad: NDArray[np.bool_], degree: int = 3, boxes: int = 12
) -> tuple[NDArray[np.float32], int]:
    """Return a polynomial surface through the clipped means of boxes, and how many coefficients.

    Zero, and none, where too few boxes have good pixels.
    """
    rows, columns = values.shape
    across = 2.0 * (np.arange(columns) + 0.5) / columns - 1.0
    along = 2.0 * (np.arange(rows) + 0.5) / rows - 1.0
    powers = [(i, j) for i in range(degree + 1) for j in range(degree + 1 - i)]
    # Means of powers over a box, not powers of its middle.
    row_boxes = np.array_split(np.arange(rows), min(boxes, rows))
    column_boxes = np.array_split(np.arange(columns), min(boxes, columns))
    of_rows = [[(along[box] ** j).mean() for j in range(degree + 1)] for box in row_boxes]
    of_columns = [[(across[box] ** i).mean() for i in range(degree + 1)] for box in column_boxes]
    design, means = [], []
    for y, box_rows in zip(of_rows, row_boxes, strict=True):
        for x, box_columns in zip(of_columns, column_boxes, strict=True):
            area = (_span(box_rows), _span(box_columns))
            good = ~bad[area]
            if good.sum() < 0.3 * good.size:
                continue
            design.append([x[i] * y[j] for i, j in powers])
            means.append(clipped_moments(values[area][good], 4.5, rounds=1).mean)
    if len(means) < 2 * len(powers):
        return np.zeros_like(values), 0
    solution, _ = weighted_least_squares(
        np.array(design), np.array(means), np.ones(len(means))
    )
    matrix = np.zeros((degree + 1, degree + 1))
    for (i, j), coefficient in zip(powers, solution, strict=True):
        matrix[i, j] = coefficient
    vander = np.polynomial.polynomial.polyvander
    surface = vander(along, degree) @ matrix.T @ vander(across, degree).T
    return surface.astype(np.float32), len(powers)


def _span(places: NDArray[np.int64]) -> slice:
    return slice(int(places[0]), int(places[-1]) + 1)


# --- coefficients ---


@dataclass(frozen=True)
class Coefficients:
    """Relative change of the area of a pixel with the charge of another, per electron.

    Attributes
    ----------
    values, errors
        Shape (lags, lags).
    linear
        Covariance that grows with the first power of the signal (trailing charge), as a share of
        it; [0, 0] is how much the slope of the variance differs from that of the gain given.
    reduced_chi2
        Of each lag.
    """

    values: Float64s
    errors: Float64s
    linear: Float64s
    reduced_chi2: Float64s


def weights_of(lags: int) -> Float64s:
    """Return on how many places of the plane each coefficient stands: 1, 2 on the axes, 4."""
    weights = np.full((lags, lags), 4.0)
    weights[0, :] = weights[:, 0] = 2.0
    weights[0, 0] = 1.0
    return weights


def balance_of(found: Coefficients) -> tuple[float, float]:
    """Return the sum of the coefficients over the plane, and its error; 0 where charge is kept."""
    weights = weights_of(found.values.shape[0])
    error = float(np.sqrt((weights**2 * found.errors**2).sum()))
    return float((weights * found.values).sum()), error


def balanced(found: Coefficients) -> Float64s:
    """Return the coefficients nearest to those found whose sum over the plane is 0.

    What a pixel loses others gain. Its own coefficient is known far better than the sum of those
    of all neighbours, so this is what tells how much an image must be corrected in all.
    """
    weights = weights_of(found.values.shape[0])
    total, error = balance_of(found)
    result: Float64s = found.values - total / error**2 * weights * found.errors**2
    return result


def covariance_curve(
    coefficients: Float64s, signal_e: float, smoothed: Float64s | float = 1.0
) -> Float64s:
    """Return the covariances at a signal, e-^2, without noise of the read-out.

    Solution of ``dC/dmu = 1 + 2 K * C`` (Astier et al. 2019, eq. 15) by Fourier transform:
    ``C = (exp(2 K mu) - 1) / (2 K)``.

    Parameters
    ----------
    smoothed
        Factor of the power at every frequency (see ``trailing``).
    """
    lags = coefficients.shape[0]
    spectrum = 2.0 * signal_e * spectrum_of(coefficients)
    small = np.abs(spectrum) < 1e-9
    grown = np.where(small, 1.0, np.expm1(spectrum) / np.where(small, 1.0, spectrum))
    waves = _waves(lags)
    curve: Float64s = waves.T @ (grown * signal_e * smoothed) @ waves / GRID**2
    return curve


def curve_slope(
    coefficients: Float64s, signal_e: float, smoothed: Float64s | float = 1.0
) -> float:
    """Return by how much a covariance grows with its own coefficient, e-^3.

    ``mu^2`` for small signals; less as they grow: the mean over frequencies of the derivative of
    :func:`covariance_curve`, ``2 mu^2 (u exp(u) - exp(u) + 1) / u^2`` with ``u = 2 K mu``.
    """
    spectrum = 2.0 * signal_e * spectrum_of(coefficients)
    small = np.abs(spectrum) < 1e-4
    safe = np.where(small, 1.0, spectrum)
    slope = np.where(
        small, 0.5 + spectrum / 3.0, (safe * np.exp(safe) - np.expm1(safe)) / safe**2
    )
    return float(2.0 * signal_e**2 * (slope * smoothed).mean())


def spectrum_of(coefficients: Float64s) -> Float64s:
    """Return the Fourier transform of the coefficients on the whole plane."""
    lags = coefficients.shape[0]
    # Both are even: sums of cosines, of which each lag but 0 stands twice.
    waves = _waves(lags) * np.where(np.arange(lags), 2.0, 1.0)
    spectrum: Float64s = waves @ coefficients @ waves.T
    return spectrum


def _waves(lags: int) -> Float64s:
    """Return the cosines of all frequencies at lags, shape (GRID, lags)."""
    places = np.outer(np.arange(GRID), np.arange(lags))
    waves: Float64s = np.cos(2.0 * np.pi / GRID * places)
    return waves


def fit_coefficients(
    signal_e: Float64s, covariances_e: Float64s, errors_e: Float64s, *, has_linear: bool = True,
    smoothed: Float64s | float = 1.0, rounds: int = 12,
) -> Coefficients:
    """Fit the coefficients to covariances at several signals.

    To first order ``C_n = K_n mu^2``; at a hundred thousand electrons the next orders take a
    sixth of it. So the curve of the coefficients of the round before is taken away, and what is
    left is fitted with the slope of that curve.

    Parameters
    ----------
    signal_e
        Mean signals, e-, shape (levels,).
    covariances_e, errors_e
        e-^2, shape (levels, lags, lags).
    has_linear
        Lets every lag have a part that grows with the first power of the signal too: costs half
        of what is known of the coefficients.
    smoothed
        What trailing charge makes of the power of the noise, where it is known.

    Raises
    ------
    ValueError
        Fewer than three levels.
    """
    levels, lags = covariances_e.shape[:2]
    if levels < 3:
        raise ValueError(f"{levels} levels are too few for coefficients of covariances")
    values = np.zeros((lags, lags))
    for _ in range(rounds):
        slope = np.array([curve_slope(values, mu, smoothed) for mu in signal_e])
        curve = np.stack([covariance_curve(values, mu, smoothed) for mu in signal_e])
        rest = covariances_e - curve + values * slope[:, None, None]
        before = values
        values, errors, linear, chi2 = _fit_lags(
            signal_e, slope, rest, errors_e, has_linear
        )
        if np.all(np.abs(values - before) <= 0.003 * errors):
            break
    return Coefficients(values, errors, linear, chi2)


def _fit_lags(
    signal: Float64s, slope: Float64s, rest: Float64s, errors: Float64s, has_linear: bool
) -> tuple[Float64s, Float64s, Float64s, Float64s]:
    lags = rest.shape[1]
    shape = (lags, lags)
    values, sigma, linear, chi2 = (np.zeros(shape) for _ in range(4))
    for row in range(lags):
        for column in range(lags):
            powers = [slope]
            if has_linear or row == column == 0:
                powers.append(signal)
            if row == column == 0:
                powers.append(np.ones_like(signal))  # noise of the read-out
            design = np.stack(powers[: max(signal.size - 1, 1)], axis=1)
            y, weights = rest[:, row, column], 1.0 / errors[:, row, column] ** 2
            solution, covariance = weighted_least_squares(design, y, weights)
            residual = y - design @ solution
            freedom = max(signal.size - design.shape[1], 1)
            reduced = float(residual @ (residual * weights)) / freedom
            values[row, column] = solution[0]
            sigma[row, column] = np.sqrt(covariance[0, 0] * max(reduced, 1.0))
            linear[row, column] = solution[1] if design.shape[1] > 1 else 0.0
            chi2[row, column] = reduced
    return values, sigma, linear, chi2
