# SPDX-License-Identifier: BSD-3-Clause
"""Photon transfer: variance of differences of like frames against their mean, and what it tells.

Model of the variance (all in ADU): ``V = a0 + m/g B(A m)``. Flux that pixels lose to their
neighbours as they fill (brighter-fatter, A < 0) makes the curve bend: exactly (Astier et al. 2019,
A&A 629, A36, eq. 15 and 16) ``B(u)`` is the mean over all frequencies of
``(exp(2 u s) - 1) / (2 u s)``, s the transform of the coefficients by the pixel's own, so
``B(u) = sum_j (2 u)^j <s^j> / (j + 1)!``. ``<s> = 1``; the other moments come of the neighbours and
are found from covariances. With all of them 1, ``(exp(2 u) - 1) / (2 u)``, the neighbours are taken
for small: the gain is then 0.07 % high and the bend 2 % low; with the second alone the gain is
0.03 % low. The number independent of the gain is ``alpha = -A / g``, per electron: to first order
``V = m/g - alpha m^2``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nightjard.calib.science.covariance import spectrum_of
from nightjard.calib.science.robust import Float64s, clipped_moments

Model = Literal["exponential", "quadratic"]
Tile = tuple[slice, slice]

_ORDERS = 12
_ALIKE = 0.002  # levels of a pair that differ by less: 3e-5 of the variance
PLAIN = (1.0,) * _ORDERS
"""Moments without neighbours to speak of."""


def moments_like(ratio: float) -> tuple[float, ...]:
    """Return the moments of a normal distribution of mean 1 and mean square `ratio`.

    For where no covariances tell them; `ratio` is the sum of the squares of all coefficients by
    that of the pixel's own.
    """
    moments = [1.0, 1.0]
    for order in range(2, _ORDERS):
        moments.append(moments[-1] + (order - 1) * (ratio - 1.0) * moments[-2])
    return tuple(moments)


def moments_of(coefficients: Float64s) -> tuple[float, ...]:
    """Return the moments of brighter-fatter coefficients, shape (lags, lags)."""
    share = spectrum_of(coefficients) / coefficients[0, 0]
    return tuple(float((share**order).mean()) for order in range(_ORDERS))


@dataclass(frozen=True)
class TilePairs:
    """Tiles of a pair of frames, arrays of one element a tile.

    Attributes
    ----------
    mean
        Of both frames, ADU.
    variance
        Of one frame: half that of the difference, ADU^2.
    count
        Pixels that it was made of; 0 where too few were good.
    """

    mean: Float64s
    variance: Float64s
    count: NDArray[np.int64]


def tile_pairs(
    first: NDArray[np.float32], second: NDArray[np.float32], bad: NDArray[np.bool_],
    tiles: Sequence[Tile], *, clip_sigma: float = 4.5, least_good: float = 0.8,
) -> TilePairs:
    """Measure mean and variance in the tiles of two frames of the same exposure.

    Parameters
    ----------
    first, second
        Above offset, ADU ``[row, column]``.
    bad
        Pixels of either that do not count.
    least_good
        Tiles with a smaller share of good pixels are left out.
    """
    means, variances, counts = [], [], []
    for tile in tiles:
        a, b, good = first[tile], second[tile], ~bad[tile]
        share = float(good.mean()) if good.size else 0.0
        if share < least_good or good.sum() < 30:
            means.append(math.nan)
            variances.append(math.nan)
            counts.append(0)
            continue
        total = (a + b)[good]
        # Fixed pattern is in the sum: clipped wider, so that only defects leave it. A dead pixel
        # does not stand out in the difference, where it would lower the variance.
        level = clipped_moments(total, 6.0, rounds=1)
        is_like = np.abs(total - level.mean) <= 6.0 * math.sqrt(max(level.variance, 1e-9))
        moments = clipped_moments((a - b)[good][is_like], clip_sigma)
        means.append(level.mean / 2.0)
        variances.append(moments.variance / 2.0)
        counts.append(moments.count)
    return TilePairs(np.array(means), np.array(variances), np.array(counts, np.int64))


def matched(
    first: NDArray[np.float32], second: NDArray[np.float32], level: float, other: float
) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
    """Return two flat fields brought to their mean level, and what became of the variance.

    Of two flats that differ by a share d (the lamp changed), a difference holds d times what pixels
    respond differently: 5 % of 50 000 ADU with 0.8 % of non-uniformity are 20 ADU beside a noise of
    120 ADU. Brought to one level it holds nothing of it; of frames at m (1 +- d/2), the shot noise
    then is that of m, but for a factor ``m^2 / (m1 m2)``.

    Parameters
    ----------
    level, other
        Of both, ADU; where they differ by too little to matter, or there is no light, the frames
        are returned as they are.
    """
    mean = 0.5 * (level + other)
    if not min(level, other) > 0.0 or not abs(level - other) > _ALIKE * mean:
        return first, second, 1.0
    one, two = np.float32(mean / level), np.float32(mean / other)
    return first * one, second * two, mean**2 / (level * other)


def trailing_factors(
    tiles: Sequence[Tile], serial: float, parallel: float
) -> Float64s:
    """Return by what charge that trails lowers the variance of each tile, a factor near 1.

    A pixel that leaves the share p to those behind it and gets the same from those before it has
    the mean of the others, but of independent noise only ``(1 - p)^2``.

    Parameters
    ----------
    serial, parallel
        Share left behind in one transfer; the tile's middle tells how many there are.
    """
    factors = []
    for rows, columns in tiles:
        across = 0.5 * (columns.start + columns.stop + 1) * serial
        along = 0.5 * (rows.start + rows.stop + 1) * parallel
        factors.append((1.0 - across) ** 2 * (1.0 - along) ** 2)
    return np.array(factors)


@dataclass(frozen=True)
class Points:
    """Points of a photon transfer curve, arrays of one length.

    Attributes
    ----------
    mean, variance, count
        As in :class:`TilePairs`.
    tile
        Number of the tile; below 0 for the noise in the dark (mean 0), which every draw keeps.
    """

    mean: Float64s
    variance: Float64s
    count: Float64s
    tile: NDArray[np.int64]

    def chosen(self, where: NDArray[Any]) -> Points:
        """Return some of the points."""
        return Points(self.mean[where], self.variance[where], self.count[where], self.tile[where])

    def restored(self, factors: Float64s) -> Points:
        """Return the points with the variance that trailing charge took (a factor a tile)."""
        seen = self.tile >= 0
        noise = float(np.median(self.variance[~seen])) if (~seen).any() else 0.0
        variance = self.variance.copy()
        variance[seen] = noise + (variance[seen] - noise) / factors[self.tile[seen]]
        return replace(self, variance=variance)

    def sorted(self) -> Points:
        """Return the points by their mean."""
        return self.chosen(np.argsort(self.mean, kind="stable"))


@dataclass(frozen=True)
class Transfer:
    """A photon transfer curve that was fitted.

    Attributes
    ----------
    moments
        Of the coefficients' transform by the own one, 0, 1, 2 ...
    parameters
        a0 [ADU^2], 1/g [ADU/e-], A [1/ADU].
    covariance
        Of these.
    reduced_chi2
        Of the points used, with the error that counting statistics gives them.
    points
        How many were used.
    """

    model: Model
    moments: tuple[float, ...]
    parameters: Float64s
    covariance: Float64s
    reduced_chi2: float
    points: int
    is_converged: bool

    @property
    def excess(self) -> float:
        """Factor on errors where points scatter more than counting tells; at least 1."""
        return math.sqrt(max(self.reduced_chi2, 1.0))

    @property
    def gain(self) -> float:
        """Electrons per ADU."""
        return float(1.0 / self.parameters[1])

    @property
    def gain_error(self) -> float:
        """1 sigma: that of the slope times the square of the gain."""
        return float(math.sqrt(self.covariance[1, 1]) * self.gain**2)

    @property
    def alpha(self) -> float:
        """-A/g, per electron: the quadratic term of the curve, positive where it bends down."""
        return float(-self.parameters[2] * self.parameters[1])

    @property
    def alpha_error(self) -> float:
        """1 sigma, with the correlation of A and g."""
        _, slope, bend = self.parameters
        gradient = np.array([0.0, -bend, -slope])
        return float(math.sqrt(max(gradient @ self.covariance @ gradient, 0.0)))

    @property
    def noise_adu(self) -> float:
        """Read noise, ADU, with the rounding of the converter; NaN where a0 is negative."""
        square = float(self.parameters[0])
        return math.sqrt(square) if square > 0 else math.nan

    @property
    def noise_error_adu(self) -> float:
        """1 sigma of the read noise."""
        return float(math.sqrt(self.covariance[0, 0]) / (2.0 * self.noise_adu))

    def __call__(self, mean: Any) -> Float64s:
        """Return the variance at means, ADU^2."""
        return _variance(np.asarray(mean, np.float64), self.parameters, self.model,
                         self.moments)  # fmt: skip


def fit_transfer(
    points: Points, *, model: Model = "exponential", moments: tuple[float, ...] = PLAIN,
    rounds: int = 60,
) -> Transfer:
    """Fit a photon transfer curve by maximum likelihood.

    A variance s^2 of n values of variance V has the likelihood ``-n/2 (ln V + s^2/V)``. Its
    maximum is found by weighted steps with ``n / (2 V^2)``, V of the model: weights from the
    measured variances would pull the curve down, since low ones would weigh more.

    Raises
    ------
    ValueError
        Fewer than four points.
    """
    mean, measured, count = points.mean, points.variance, points.count
    if mean.size < 4:
        raise ValueError(f"{mean.size} points are too few for a photon transfer curve")
    parameters = _start(points)
    is_converged = False
    for _ in range(rounds):
        expected = np.maximum(_variance(mean, parameters, model, moments), 1e-3)
        weights = count / (2.0 * expected**2)
        design = _derivatives(mean, parameters, model, moments)
        step, covariance = _solve(design, measured - expected, weights)
        parameters = parameters + step
        if np.all(np.abs(step) <= 1e-9 * np.abs(parameters) + 1e-15):
            is_converged = True
            break
    expected = np.maximum(_variance(mean, parameters, model, moments), 1e-3)
    pulls = (measured - expected) * np.sqrt(count / 2.0) / expected
    chi2 = float(pulls @ pulls) / max(mean.size - 3, 1)
    is_sound = is_converged and bool(np.all(np.isfinite(parameters))) and parameters[1] > 0
    return Transfer(model, moments, parameters, covariance, chi2, int(mean.size), is_sound)


def bootstrap(
    points: Points, fit: Transfer, draws: int, seed: int
) -> tuple[float, float, float]:
    """Return 1 sigma of gain, alpha, read noise [ADU] from fits to tiles drawn with repetition.

    A tile is drawn with all its levels: what is special to a place on the detector is in the
    error too. Counting statistics alone are in that of the fit.
    """
    generator = np.random.default_rng(seed)
    tiles = np.unique(points.tile[points.tile >= 0])
    members = {int(tile): np.nonzero(points.tile == tile)[0] for tile in tiles}
    always = np.nonzero(points.tile < 0)[0]
    found = []
    for _ in range(draws):
        drawn = generator.choice(tiles, tiles.size)
        where = np.concatenate([always, *(members[int(tile)] for tile in drawn)])
        try:
            one = fit_transfer(points.chosen(where), model=fit.model, moments=fit.moments)
        except (ValueError, np.linalg.LinAlgError):
            continue
        if one.is_converged:
            found.append((one.gain, one.alpha, one.noise_adu))
    if len(found) < 8:
        return (math.nan, math.nan, math.nan)
    sigma = np.nanstd(np.array(found), axis=0, ddof=1)
    return (float(sigma[0]), float(sigma[1]), float(sigma[2]))


def _bend(u: Float64s, model: Model, moments: tuple[float, ...]) -> tuple[Float64s, Float64s]:
    """Return B(u) and its derivative; B is V g/m without noise."""
    if model == "quadratic":
        return 1.0 + u, np.ones_like(u)
    terms = [2.0**j * one / math.factorial(j + 1) for j, one in enumerate(moments)]
    slopes = [j * one for j, one in enumerate(terms)][1:]
    horner = np.polynomial.polynomial.polyval
    return np.asarray(horner(u, terms), np.float64), np.asarray(horner(u, slopes), np.float64)


def _variance(
    mean: Float64s, parameters: Float64s, model: Model, moments: tuple[float, ...]
) -> Float64s:
    noise, slope, bend = parameters
    value, _ = _bend(bend * mean, model, moments)
    result: Float64s = noise + slope * mean * value
    return result


def _derivatives(
    mean: Float64s, parameters: Float64s, model: Model, moments: tuple[float, ...]
) -> Float64s:
    _, slope, bend = parameters
    value, derivative = _bend(bend * mean, model, moments)
    return np.stack(
        [np.ones_like(mean), mean * value, slope * mean**2 * derivative], axis=1
    )


def _start(points: Points) -> Float64s:
    """Return a first guess: a parabola with weights of the measured variances."""
    mean, measured = points.mean, points.variance
    design = np.stack([np.ones_like(mean), mean, mean**2], axis=1)
    weights = points.count / (2.0 * np.maximum(measured, 0.5) ** 2)
    solution, _ = _solve(design, measured, weights)
    noise, slope, curve = (float(one) for one in solution)
    slope = slope if slope > 0 else float(np.median(measured / np.maximum(mean, 1.0)))
    return np.array([max(noise, 0.1), slope, curve / slope])


def _solve(
    design: Float64s, right: Float64s, weights: Float64s
) -> tuple[Float64s, Float64s]:
    """Return solution and covariance of a small weighted fit."""
    scale = np.sqrt(np.einsum("ij,ij,i->j", design, design, weights))
    scale[scale == 0] = 1.0
    scaled = design / scale
    normal = scaled.T @ (scaled * weights[:, None])
    inverse = np.linalg.inv(normal)
    solution = inverse @ (scaled.T @ (weights * right))
    return solution / scale, inverse / np.outer(scale, scale)
