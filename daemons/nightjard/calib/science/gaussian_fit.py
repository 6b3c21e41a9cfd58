# SPDX-License-Identifier: BSD-3-Clause
"""Gaussians integrated over pixels, fitted to many stamps at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

FIT_RADIUS_PX = 8.5

_PARAMETERS = 6  # flux, x, y, sigma x, sigma y, background


@dataclass(frozen=True)
class GaussianFits:
    """Fitted Gaussians: ``values`` and ``errors`` (n, 6), reduced chi squared, whether usable.

    The six are flux, x, y, sigma along x, sigma along y, background.
    """

    values: Floats
    errors: Floats
    chi2: Floats
    is_good: Bools


def gaussian_pixels(values: Floats, axis_x: Floats, axis_y: Floats) -> tuple[Floats, Floats]:
    """Return Gaussians integrated over pixels and their derivatives.

    Parameters
    ----------
    values : array (n, 6)
    axis_x, axis_y : arrays (n, k), (n, m)
        Centres of the pixels' columns and rows.

    Returns
    -------
    model : array (n, m, k)
    slopes : array (n, 6, m, k)
    """
    flux, x, y, sx, sy, level = (values[:, i, None] for i in range(_PARAMETERS))
    gx, dx, dsx = _edges(axis_x, x, sx)
    gy, dy, dsy = _edges(axis_y, y, sy)
    shape = gy[:, :, None] * gx[:, None, :]
    f = flux[:, :, None]
    slopes = np.stack(
        [
            shape, f * gy[:, :, None] * dx[:, None, :], f * dy[:, :, None] * gx[:, None, :],
            f * gy[:, :, None] * dsx[:, None, :], f * dsy[:, :, None] * gx[:, None, :],
            np.ones_like(shape),
        ],
        axis=1,
    )  # fmt: skip
    return f * shape + level[:, :, None], slopes


def _edges(axis: Floats, centre: Floats, sigma: Floats) -> tuple[Floats, Floats, Floats]:
    """Gaussian of area 1 integrated from edge to edge; slopes by centre and sigma."""
    low, high = (axis - 0.5 - centre) / sigma, (axis + 0.5 - centre) / sigma
    bell_low, bell_high = (np.exp(-0.5 * one**2) / np.sqrt(2 * np.pi) for one in (low, high))
    area = 0.5 * (erf(high / np.sqrt(2)) - erf(low / np.sqrt(2)))
    return area, -(bell_high - bell_low) / sigma, -(high * bell_high - low * bell_low) / sigma


def peak_pixel(values: Floats) -> Floats:
    """Return what a pixel centred on each fitted Gaussian would hold above background."""
    half = 0.5 / np.sqrt(2.0)
    return np.asarray(values[:, 0] * erf(half / values[:, 3]) * erf(half / values[:, 4]))


def fit_gaussians(
    rest: Floats, bad: Bools, start: Floats, *, noise: Floats, gain_e_adu: Floats,
    radius_px: float = FIT_RADIUS_PX, rounds: int = 60,
) -> GaussianFits:  # fmt: skip
    """Fit a Gaussian integrated over pixels to each stamp, all at once (Levenberg-Marquardt).

    Equal weights inside of a circle about the start; errors from the variances of the pixels
    (read noise and photons) through the fit.
    """
    count, side, _ = rest.shape
    half = int(np.ceil(radius_px))
    cx, cy = (np.clip(np.rint(start[:, i]), half, side - 1 - half).astype(int) for i in (1, 2))
    reach = np.arange(-half, half + 1)
    spots = np.arange(count)[:, None, None]
    window = (spots, (cy[:, None] + reach)[:, :, None], (cx[:, None] + reach)[:, None, :])
    data = rest[window]
    used = ~bad[window] & (radius(2 * half + 1) <= radius_px)
    ax, ay = (cx[:, None] + reach).astype(float), (cy[:, None] + reach).astype(float)
    values = _levenberg(data, used, ax, ay, start, rounds)
    model, slopes = gaussian_pixels(values, ax, ay)
    photons = np.maximum(model - values[:, 5, None, None], 0) / gain_e_adu[:, None, None]
    variance = noise[:, None, None] ** 2 + photons
    covariance = _sandwich(slopes, used, variance)
    errors = np.sqrt(np.maximum(np.diagonal(covariance, axis1=1, axis2=2), 0))
    freedom = np.maximum(used.sum(axis=(1, 2)) - _PARAMETERS, 1)
    chi2 = np.where(used, (data - model) ** 2 / variance, 0).sum(axis=(1, 2)) / freedom
    good = (
        np.isfinite(values).all(axis=1)
        & np.isfinite(errors).all(axis=1)
        & (np.abs(values[:, 1] - cx) < half)
        & (np.abs(values[:, 2] - cy) < half)
        & (values[:, 0] > 0)
        & (values[:, 3] < 2 * radius_px)
        & (values[:, 4] < 2 * radius_px)
        & (used.sum(axis=(1, 2)) > 3 * _PARAMETERS)
    )
    return GaussianFits(values, errors, chi2, good)


def _levenberg(
    data: Floats, used: Bools, ax: Floats, ay: Floats, start: Floats, rounds: int
) -> Floats:
    values = start.astype(float).copy()
    values[:, 3:5] = np.clip(np.nan_to_num(values[:, 3:5], nan=1.2), 0.35, 8.0)
    values[:, 1], values[:, 2] = ax.mean(axis=1), ay.mean(axis=1)
    damping = np.full(len(values), 1e-3)
    model, slopes = gaussian_pixels(values, ax, ay)
    cost = np.where(used, (data - model) ** 2, 0).sum(axis=(1, 2))
    for _round in range(rounds):
        flat = np.where(used[:, None], slopes, 0).reshape(len(values), _PARAMETERS, -1)
        miss = np.where(used, data - model, 0).reshape(len(values), -1)
        normal = flat @ flat.transpose(0, 2, 1)
        slope = (flat @ miss[:, :, None])[:, :, 0]
        scale = np.maximum(np.diagonal(normal, axis1=1, axis2=2), 1e-30)
        damped = normal + damping[:, None, None] * scale[:, :, None] * np.eye(_PARAMETERS)
        step = _solve(damped, slope)
        step[:, 1:3] = np.clip(step[:, 1:3], -2.0, 2.0)
        trial = values + step
        trial[:, 3:5] = np.clip(trial[:, 3:5], values[:, 3:5] / 2, values[:, 3:5] * 2)
        trial[:, 3:5] = np.clip(trial[:, 3:5], 0.15, 30.0)
        new_model, new_slopes = gaussian_pixels(trial, ax, ay)
        new_cost = np.where(used, (data - new_model) ** 2, 0).sum(axis=(1, 2))
        better = new_cost <= cost
        is_still = np.abs(cost - new_cost) <= 1e-10 * np.maximum(cost, 1e-30)
        damping = np.clip(np.where(better, damping / 5, damping * 5), 1e-12, 1e8)
        values[better], model[better] = trial[better], new_model[better]
        slopes[better] = new_slopes[better]
        is_done = is_still | (damping >= 1e8)
        cost[better] = new_cost[better]
        if is_done.all():
            break
    return values


def _solve(matrix: Floats, vector: Floats) -> Floats:
    try:
        return np.asarray(np.linalg.solve(matrix, vector[:, :, None])[:, :, 0])
    except np.linalg.LinAlgError:  # a stamp without light: it gets no step, the others theirs
        return np.asarray((np.linalg.pinv(matrix) @ vector[:, :, None])[:, :, 0])


def _sandwich(slopes: Floats, used: Bools, variance: Floats) -> Floats:
    """Covariance of a fit with equal weights to pixels with these variances."""
    count = len(slopes)
    flat = np.where(used[:, None], slopes, 0).reshape(count, slopes.shape[1], -1)
    bread = np.linalg.pinv(flat @ flat.transpose(0, 2, 1), hermitian=True)
    filling = (flat * variance.reshape(count, 1, -1)) @ flat.transpose(0, 2, 1)
    return np.asarray(bread @ filling @ bread)


def radius(side: int) -> Floats:
    """Return the distance of each pixel of a stamp from its middle one."""
    axis = np.arange(side) - side // 2
    return np.asarray(np.hypot(axis[:, None], axis[None, :]), float)
