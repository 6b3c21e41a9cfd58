# SPDX-License-Identifier: BSD-3-Clause
"""Shapes of spots by a forward model: an elliptical Moffat profile integrated over pixels.

``I ~ (1 + s r^2)^(-1/q)``, with ``q = 1/beta`` and ``s`` such that the profile has its FWHM; q = 0
is a Gaussian. The ellipse is ``r^2 = d' S^-1 d`` with ``S = [[1 + e1, e2], [e2, 1 - e1]]``. Eight
parameters of each stamp (flux, x, y, ln FWHM, e1, e2, q, background) have normal priors; the
posterior is taken as normal about its maximum (Laplace). Posteriors of several exposures of one
spot are multiplied, each prior counted once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

NAMES = ("flux", "x", "y", "ln_fwhm", "e1", "e2", "q", "background")
SHAPE = slice(3, 7)
_COUNT = len(NAMES)
#: Priors of ln FWHM, e1, e2, q: mean and sigma.
PRIOR_MEAN = np.array([np.log(2.3), 0.0, 0.0, 0.15])
PRIOR_SIGMA = np.array([0.5, 0.15, 0.15, 0.15])
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(3)
_STEPS = np.array([1.0, 1e-4, 1e-4, 1e-4, 1e-4, 1e-4, 1e-3, 1e-2])


def model(values: Floats, half: int) -> Floats:
    """Return spots on stamps of side ``2 half + 1``, integrated over pixels by 3 x 3 points.

    Parameters
    ----------
    values : array (n, 8)
        x and y from the stamp's middle pixel.
    """
    flux, x, y, ln_fwhm, e1, e2, q, level = values.T[:, :, None, None]
    axis = np.add.outer(np.arange(-half, half + 1, dtype=float), 0.5 * _NODES).ravel()
    dx, dy = axis[None, None, :] - x, axis[None, :, None] - y
    determinant = 1.0 - e1**2 - e2**2
    r2 = ((1 - e1) * dx**2 - 2 * e2 * dx * dy + (1 + e1) * dy**2) / determinant
    r2 = r2 / (0.25 * np.exp(2 * ln_fwhm))  # 1 at half of the height
    density = _profile(r2, q) / np.sqrt(determinant) * np.exp(-2 * ln_fwhm)
    side = 2 * half + 1
    folded = density.reshape(len(values), side, 3, side, 3)
    light = np.einsum("nipjq,p,q->nij", folded, 0.5 * _WEIGHTS, 0.5 * _WEIGHTS)
    return np.asarray(flux * light + level)


def _profile(r2: Floats, q: Floats) -> Floats:
    """Profile of area FWHM^2 / det... : half height at r2 = 1, normalised for FWHM 1."""
    safe = np.clip(q, 1e-4, 0.9)
    # (1 + (2^q - 1) r^2)^(-1/q): for q -> 0 this is 2^(-r^2).
    rise = np.expm1(safe * np.log(2.0))
    shape = np.exp(-np.log1p(rise * r2) / safe)
    # Its area over the plane, in units of FWHM^2: pi/4 q / ((1 - q) (2^q - 1)).
    area = 0.25 * np.pi * safe / ((1.0 - safe) * rise)
    return np.asarray(shape / area)


@dataclass(frozen=True)
class Posterior:
    """Normal posteriors of the shape (ln FWHM, e1, e2, q) of each stamp.

    Attributes
    ----------
    mean : array (n, 4)
    covariance : array (n, 4, 4)
        Marginal: flux, place and background are integrated out.
    chi2 : array (n,)
        Reduced.
    is_good : array (n,)
    """

    mean: Floats
    covariance: Floats
    chi2: Floats
    is_good: Bools


def posterior(
    rest: Floats, bad: Bools, x: Floats, y: Floats, *, flux: Floats, noise: Floats,
    gain_e_adu: Any, half: int = 9, rounds: int = 25,
) -> Posterior:  # fmt: skip
    """Return the posterior of the shape of each spot.

    Parameters
    ----------
    rest : array (n, side, side)
        Stamps without background, ADU.
    x, y, flux : arrays (n,)
        Where to begin, pixels of the stamp, ADU.
    noise : array (n,)
        Of a pixel of the background, ADU.
    """
    count, side, _ = rest.shape
    cx = np.clip(np.rint(np.nan_to_num(x)), half, side - 1 - half).astype(int)
    cy = np.clip(np.rint(np.nan_to_num(y)), half, side - 1 - half).astype(int)
    reach = np.arange(-half, half + 1)
    window = (
        np.arange(count)[:, None, None], (cy[:, None] + reach)[:, :, None],
        (cx[:, None] + reach)[:, None, :],
    )  # fmt: skip
    data, used = rest[window], ~bad[window]
    gain = np.broadcast_to(np.asarray(gain_e_adu, float), (count,))
    values = np.tile(np.r_[0.0, 0.0, 0.0, PRIOR_MEAN, 0.0], (count, 1))
    values[:, 0], values[:, 1], values[:, 2] = np.maximum(flux, 1.0), x - cx, y - cy
    values = np.nan_to_num(values)
    priors = np.zeros(_COUNT)
    priors[SHAPE] = PRIOR_SIGMA**-2.0
    values, normal, chi2 = _maximise(values, data, used, noise, gain, priors, half, rounds)
    covariance = np.asarray(np.linalg.pinv(normal, hermitian=True), float)[:, SHAPE, SHAPE]
    good = (
        np.isfinite(values).all(axis=1) & (values[:, 0] > 0) & (used.sum(axis=(1, 2)) > 60)
        & (np.hypot(values[:, 1], values[:, 2]) < 3)
    )  # fmt: skip
    return Posterior(values[:, SHAPE], covariance, chi2, good)


def _maximise(
    values: Floats, data: Floats, used: Bools, noise: Floats, gain: Floats, priors: Floats,
    half: int, rounds: int,
) -> tuple[Floats, Floats, Floats]:  # fmt: skip
    """Gauss-Newton with damping; variances follow the model, not the data."""
    mean = np.zeros(_COUNT)
    mean[SHAPE] = PRIOR_MEAN
    damping = np.full(len(values), 1e-2)
    image = model(values, half)
    for _round in range(rounds):
        weight = _weights(image, values, used, noise, gain)
        slopes = _slopes(values, image, half)
        flat = slopes.reshape(len(values), _COUNT, -1)
        weighted = flat * weight.reshape(len(values), 1, -1)
        normal = weighted @ flat.transpose(0, 2, 1) + np.diag(priors)
        miss = (data - image).reshape(len(values), -1)
        slope = (weighted @ miss[:, :, None])[:, :, 0] - priors * (values - mean)
        scale = np.diagonal(normal, axis1=1, axis2=2)
        damped = normal + damping[:, None, None] * scale[:, :, None] * np.eye(_COUNT)
        step = np.linalg.solve(damped, slope[:, :, None])[:, :, 0]
        trial = _kept(values + step)
        new = model(trial, half)
        better = _cost(new, trial, data, weight, priors, mean) <= _cost(
            image, values, data, weight, priors, mean
        )
        moved = np.abs(step / np.sqrt(1.0 / scale)).max(axis=1)
        values[better], image[better] = trial[better], new[better]
        damping = np.clip(np.where(better, damping / 8, damping * 8), 1e-9, 1e6)
        if (moved[better] < 1e-3).all() and better.any():
            break
    weight = _weights(image, values, used, noise, gain)
    flat = _slopes(values, image, half).reshape(len(values), _COUNT, -1)
    normal = (flat * weight.reshape(len(values), 1, -1)) @ flat.transpose(0, 2, 1)
    freedom = np.maximum(used.sum(axis=(1, 2)) - _COUNT, 1)
    chi2 = (weight * (data - image) ** 2).sum(axis=(1, 2)) / freedom
    return values, normal + np.diag(priors), chi2


def _weights(
    image: Floats, values: Floats, used: Bools, noise: Floats, gain: Floats
) -> Floats:
    light = np.maximum(image - values[:, 7, None, None], 0.0)
    return np.asarray(used / (noise[:, None, None] ** 2 + light / gain[:, None, None]))


def _cost(
    image: Floats, values: Floats, data: Floats, weight: Floats, priors: Floats, mean: Floats
) -> Floats:
    return np.asarray(
        (weight * (data - image) ** 2).sum(axis=(1, 2))
        + (priors * (values - mean) ** 2).sum(axis=1)
    )


def _slopes(values: Floats, image: Floats, half: int) -> Floats:
    slopes = np.empty((len(values), _COUNT, *image.shape[1:]))
    level = values[:, 7, None, None]
    slopes[:, 0] = (image - level) / values[:, 0, None, None]
    slopes[:, 7] = 1.0
    for index in range(1, 7):
        moved = values.copy()
        moved[:, index] += _STEPS[index]
        slopes[:, index] = (model(moved, half) - image) / _STEPS[index]
    return slopes


def _kept(values: Floats) -> Floats:
    """Keep parameters where the model is defined."""
    values[:, 0] = np.maximum(values[:, 0], 1.0)
    values[:, 1:3] = np.clip(values[:, 1:3], -4, 4)
    values[:, 3] = np.clip(values[:, 3], -0.7, 2.3)
    values[:, 4:6] = np.clip(values[:, 4:6], -0.6, 0.6)
    values[:, 6] = np.clip(values[:, 6], 1e-3, 0.85)
    return values


def combined(mean: Floats, covariance: Floats) -> tuple[Floats, Floats]:
    """Return mean and covariance of the product of posteriors, the prior counted once.

    Parameters
    ----------
    mean, covariance : arrays (n, 4), (n, 4, 4)
        Of exposures of one spot.
    """
    prior = np.diag(PRIOR_SIGMA**-2.0)
    inverse = np.linalg.inv(covariance)
    likelihood = inverse - prior
    total = likelihood.sum(axis=0) + prior
    pulled = np.einsum("nij,nj->ni", inverse, mean) - prior @ PRIOR_MEAN
    found = np.linalg.inv(total)
    return found @ (pulled.sum(axis=0) + prior @ PRIOR_MEAN), found


def ln_odds_of_wings(mean_q: float, sigma_q: float) -> float:
    """Return the natural logarithm of the odds of a profile with wings (q > 0) over a Gaussian.

    Savage-Dickey: density of q at 0 before over after the data, both cut at q = 0.
    """
    from scipy.stats import norm

    before = norm.logpdf(0.0, PRIOR_MEAN[3], PRIOR_SIGMA[3]) - norm.logsf(
        0.0, PRIOR_MEAN[3], PRIOR_SIGMA[3]
    )
    after = norm.logpdf(0.0, mean_q, sigma_q) - norm.logsf(0.0, mean_q, sigma_q)
    return float(before - after)
