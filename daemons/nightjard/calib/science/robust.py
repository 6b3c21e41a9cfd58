# SPDX-License-Identifier: BSD-3-Clause
"""Moments and fits that outliers do not reach, corrected for what the clipping itself takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Float64s = NDArray[np.float64]

#: Half width of the normal quantiles 15.87 % and 84.13 % in sigma; 0.6745 for the quartiles.
_QUARTILE = 0.6744897501960817
_SAMPLE = 4096  # values that the first guess of centre and width is made of


@dataclass(frozen=True, slots=True)
class Moments:
    """Mean and variance of what is left after clipping.

    Attributes
    ----------
    variance
        Corrected for the clipped tails of a normal distribution.
    count
        Values that were kept.
    """

    mean: float
    variance: float
    count: int


def clipped_share(clip_sigma: float) -> float:
    """Return the variance of a standard normal distribution cut at +- `clip_sigma`.

    ``1 - 2 k phi(k) / (2 Phi(k) - 1)``: 0.9989 at 4, 0.9733 at 3.
    """
    if math.isinf(clip_sigma):
        return 1.0
    density = math.exp(-0.5 * clip_sigma**2) / math.sqrt(2.0 * math.pi)
    return 1.0 - 2.0 * clip_sigma * density / math.erf(clip_sigma / math.sqrt(2.0))


def first_guess(values: Floats) -> tuple[float, float]:
    """Return median and sigma (from the quartiles) of a sample of values, evenly taken."""
    sample = np.sort(values[:: max(values.size // _SAMPLE, 1)])
    size = sample.size
    # To half a place: the moments that follow do not depend on it.
    low, middle, high = sample[size // 4], sample[size // 2], sample[(3 * size) // 4]
    return float(middle), float(high - low) / (2.0 * _QUARTILE)


def clipped_moments(values: Floats, clip_sigma: float = 4.5, rounds: int = 3) -> Moments:
    """Return mean and variance without outliers.

    Centre and width start from the quartiles and are improved by the moments of what is kept;
    the variance is divided by :func:`clipped_share`, so that a normal distribution keeps its own.

    Parameters
    ----------
    values
        Any shape; all count.
    """
    flat = np.ascontiguousarray(values).ravel()
    if flat.size == 0:
        return Moments(math.nan, math.nan, 0)
    centre, sigma = first_guess(flat)
    share = clipped_share(clip_sigma)
    mean, variance, count = centre, sigma**2, int(flat.size)
    for _ in range(rounds):
        # Values all alike, or nearly: whole numbers have at least their rounding.
        reach = clip_sigma * max(sigma, 1e-6 * abs(centre), 1e-12)
        centred = flat - flat.dtype.type(centre)
        kept = centred[np.abs(centred) <= reach]
        if kept.size < 2:
            break
        count = int(kept.size)
        shift = float(kept.mean(dtype=np.float64))
        square = float(np.dot(kept, kept)) if kept.dtype == np.float64 else _square_sum(kept)
        variance = (square / count - shift**2) * count / (count - 1) / share
        mean = centre + shift
        centre, sigma = mean, math.sqrt(max(variance, 0.0))
    return Moments(mean, variance, count)


def _square_sum(values: Floats) -> float:
    """Return the sum of squares: float32 products, blocks added up in float64."""
    block = 1 << 14
    return math.fsum(
        float(np.dot(values[i : i + block], values[i : i + block]))
        for i in range(0, values.size, block)
    )


def robust_sigma(values: Floats) -> float:
    """Return the width from the median of the distances to the median, in sigma of a normal."""
    if values.size == 0:
        return math.nan
    return float(np.median(np.abs(values - np.median(values)))) / _QUARTILE


@dataclass(frozen=True)
class Polynomial:
    """A polynomial that was fitted.

    Attributes
    ----------
    coefficients
        Constant first.
    covariance
        Of the coefficients.
    kept
        Which points the last fit used.
    rms
        Of the residuals of these.
    """

    coefficients: Float64s
    covariance: Float64s
    kept: NDArray[np.bool_]
    rms: float

    def __call__(self, x: Any) -> Float64s:
        """Return its values."""
        x = np.asarray(x, np.float64)
        return np.asarray(np.polynomial.polynomial.polyval(x, self.coefficients), np.float64)


def fit_polynomial(
    x: Floats, y: Floats, degree: int, *, error: Floats | None = None, clip_sigma: float = 4.0,
    rounds: int = 10,
) -> Polynomial:
    """Fit a polynomial, points far from it left out.

    Parameters
    ----------
    error
        1 sigma of each y; without it all are equal, and the scatter tells their error.

    Raises
    ------
    ValueError
        There are fewer points than coefficients.
    """
    weights: Float64s = np.ones(np.shape(y))
    if error is not None:
        weights = 1.0 / np.asarray(error, np.float64) ** 2
    return _fit_clipped(
        np.asarray(x, np.float64), np.asarray(y, np.float64), degree, weights,
        error is not None, clip_sigma, rounds,
    )  # fmt: skip


def _fit_clipped(
    x: Float64s, y: Float64s, degree: int, weights: Float64s, is_weighted: bool,
    clip_sigma: float, rounds: int,
) -> Polynomial:
    design = np.vander(x, degree + 1, increasing=True)
    kept = np.isfinite(x) & np.isfinite(y) & np.isfinite(weights)
    if int(kept.sum()) < degree + 1:
        raise ValueError(f"{int(kept.sum())} points for {degree + 1} coefficients")
    allowed = kept.copy()
    for _ in range(rounds):
        solution, covariance = weighted_least_squares(design[kept], y[kept], weights[kept])
        residual = y - design @ solution
        pull = residual * np.sqrt(weights)
        # A fit through all points leaves residuals that are too small by the freedom it took.
        freedom = max(int(kept.sum()) - degree - 1, 1) / int(kept.sum())
        sigma = robust_sigma(pull[kept]) / math.sqrt(freedom)
        smallest = 1e-12 * float(np.max(np.abs(y[allowed] * np.sqrt(weights[allowed])))) + 1e-300
        best = allowed & (np.abs(pull) <= clip_sigma * max(sigma, smallest))
        if int(best.sum()) <= degree + 1 or bool(np.all(best == kept)):
            break
        kept = best
    spread = residual[kept]
    freedom_count = max(int(kept.sum()) - degree - 1, 1)
    if not is_weighted:
        covariance = covariance * float(spread @ spread) / freedom_count
    rms = math.sqrt(float(spread @ spread) / freedom_count)
    return Polynomial(solution, covariance, kept, rms)


def weighted_least_squares(
    design: Float64s, y: Float64s, weights: Float64s
) -> tuple[Float64s, Float64s]:
    """Return the solution of a linear fit and its covariance; columns are scaled first."""
    scale = np.sqrt(np.einsum("ij,ij,i->j", design, design, weights))
    scale[scale == 0] = 1.0
    scaled = design / scale
    root = np.sqrt(weights)
    inverse = np.linalg.pinv(scaled * root[:, None], rcond=1e-13)
    solution = inverse @ (y * root)
    covariance = inverse @ inverse.T
    return solution / scale, covariance / np.outer(scale, scale)
