# SPDX-License-Identifier: BSD-3-Clause
"""Takes the atmosphere, slow drifts and glitches off the bolometers, for a map to look at."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BASELINE_S = 10.0
_GLITCH_SIGMAS = 8.0
_LEAST_SHARE = 0.2  # of a stretch's samples, for its level
_LEAST_DETECTORS = 12  # for a plane over the array
Floats = NDArray[np.float64]
Samples = NDArray[np.float32]


def cleaned(
    bolos: Samples, near: NDArray[np.bool_], place: NDArray[np.complex128], rate_hz: float
) -> tuple[Samples, Floats]:
    """Return the bolometers without what they have in common, and the noise of each.

    Taken off are each detector's share of the common mode, a plane over the array in each sample
    (the atmosphere's gradient), and slow drifts. Samples of glitches become NaN.

    Parameters
    ----------
    bolos
        (n, detectors), NaN for none.
    near
        Where a detector may see the source: this is not used for what is taken off.
    place
        Of the detectors in the focal plane, x + iy, any unit, (detectors,).
    rate_hz
        Samples per second.

    Returns
    -------
    tuple
        (n, detectors) and the robust standard deviation of a sample, (detectors,).
    """
    signal: NDArray[Any] = bolos - _median(bolos, 0)
    for _ in range(2):  # the second time with the drifts of the first taken off
        common = np.nan_to_num(_median(np.where(near, np.nan, signal), 1))
        signal = signal - common[:, np.newaxis] * _shares(signal, near, common)
        signal = signal - _planes(signal, near, place)
        signal = signal - _drifts(np.where(near, np.nan, signal), rate_hz)
    noise = 1.4826 * _median(np.abs(np.where(near, np.nan, signal)), 0)
    noise = np.where(noise > 0, noise, np.nan)
    signal = np.where(glitches(signal, noise), np.nan, signal)
    return signal.astype(np.float32), np.asarray(noise, np.float64)


def _median(values: NDArray[Any], axis: int) -> NDArray[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # where there is nothing at all
        return np.asarray(np.nanmedian(values, axis=axis))


def _shares(
    signal: NDArray[Any], near: NDArray[np.bool_], common: NDArray[Any]
) -> NDArray[np.float32]:
    """Return how much of the common mode each detector has, by least squares."""
    used = ~near & np.isfinite(signal)
    power = (used * common[:, np.newaxis] ** 2).sum(axis=0)
    product = (np.where(used, signal, 0) * common[:, np.newaxis]).sum(axis=0)
    share = np.divide(product, power, out=np.ones_like(power), where=power > 0)
    return np.asarray(np.clip(share, 0, 3), np.float32)


def _planes(
    signal: NDArray[Any], near: NDArray[np.bool_], place: NDArray[np.complex128]
) -> NDArray[np.float32]:
    """Return a plane over the array for each sample."""
    scale = np.abs(place).max() or 1.0
    basis = np.stack([np.ones(place.size), place.real / scale, place.imag / scale])
    used = (~near & np.isfinite(signal)).astype(np.float32)
    products = np.einsum("id,jd->ijd", basis, basis).reshape(9, -1)
    normal = (used @ products.T.astype(np.float32)).reshape(-1, 3, 3).astype(np.float64)
    right = np.where(used > 0, signal, 0) @ basis.T
    few = used.sum(axis=1) < _LEAST_DETECTORS
    normal[few] = np.eye(3)
    right[few] = 0
    normal += 1e-6 * np.eye(3)
    weights = np.linalg.solve(normal, right[..., np.newaxis])[..., 0]
    return np.asarray(weights @ basis, np.float32)


def _drifts(bolos: NDArray[Any], rate_hz: float) -> NDArray[np.float32]:
    """Return the slow part of each detector: medians of stretches, lines between them."""
    stretch = max(1, round(_BASELINE_S * rate_hz))
    count = max(1, bolos.shape[0] // stretch)
    bounds = np.linspace(0, bolos.shape[0], count + 1).astype(int)
    pieces = [bolos[low:high] for low, high in itertools.pairwise(bounds)]
    medians = np.stack([_median(piece, 0) for piece in pieces])
    shares = np.stack([np.isfinite(piece).mean(axis=0) for piece in pieces])
    middles = (bounds[:-1] + bounds[1:]) / 2
    samples = np.arange(bolos.shape[0])
    found = np.zeros(bolos.shape, np.float32)
    for number in range(bolos.shape[1]):
        # A detector that stands on the source has no stretch of its own: those beside it tell.
        known = shares[:, number] > _LEAST_SHARE
        if known.any():
            found[:, number] = np.interp(samples, middles[known], medians[known, number])
    return found


def glitches(signal: NDArray[Any], noise: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which samples stand alone: far above what is three samples before and behind them.

    A source takes longer to cross: its middle is not far above what is beside it.
    """
    beside = np.zeros_like(signal)
    filled = np.nan_to_num(signal)
    beside[3:-3] = (filled[6:] + filled[:-6]) / 2
    return np.asarray(
        np.abs(filled - beside) > _GLITCH_SIGMAS * np.nan_to_num(noise) + 0.5 * np.abs(beside)
    )
