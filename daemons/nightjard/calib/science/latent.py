# SPDX-License-Identifier: BSD-3-Clause
"""Latent charge that bright flat fields leave in those that follow, beside the drift of the lamp.

A pixel that was nearly full gives a little charge to every later frame, less and less. Frames of
one exposure that are to follow the lamp are then too bright all at once: a smooth curve through
them bends. What was left jumps after the first bright frame; no lamp does, so both can be told.

Charge that an earlier test left fades all through this one: 15 ADU are 3 % of the faintest levels.
Frames of one exposure, taken one after the other, and those without light tell how it fades,
whatever the response (:func:`fading`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nightjard.calib.science.robust import (
    Float64s,
    Polynomial,
    fit_polynomial,
    robust_sigma,
    weighted_least_squares,
)

_MOST = 0.01  # of the level of the frames; more is no latent charge
_MOST_LOST = 0.12  # of the frames
_TAUS = np.geomspace(60.0, 4000.0, 43)
_LEAST_GAIN = 0.6  # of the scatter, for latent charge to be believed


class Track(NamedTuple):
    """Brightness of a lamp over time, and what bright frames left, as a part of the level."""

    lamp: Polynomial
    latent: float


def latent_shape(
    time_s: Float64s, is_bright: NDArray[np.bool_], tau_s: float = 900.0
) -> Float64s:
    """Return what is left at each frame of the charge that the last bright frame trapped, 0 to 1.

    A bright frame fills all traps; before the first there is nothing.
    """
    bright = time_s[is_bright]
    place = np.searchsorted(bright, time_s, side="left") - 1
    since = time_s - bright[np.maximum(place, 0)] if bright.size else np.zeros_like(time_s)
    shape: Float64s = np.where(place >= 0, np.exp(-since / tau_s), 0.0)
    return shape


def follow(
    time_s: Float64s, brightness: Float64s, latent: Float64s | None = None, most_degree: int = 4
) -> Track:
    """Return lamp and latent charge from the relative brightness of frames of one exposure.

    A parabola, or a polynomial of a higher degree where that lowers the scatter by more than
    chance would (a fifth for each coefficient). Latent charge must do so by much more.

    Parameters
    ----------
    latent
        Of :func:`latent_shape` at these frames.

    Raises
    ------
    ValueError
        Fewer frames than the polynomial has coefficients.
    """
    plain = _lamp(time_s, brightness, most_degree)
    seen = 0 if latent is None else int((latent > 0.1).sum())
    if latent is None or not 3 <= seen <= time_s.size - 3:
        return Track(plain, 0.0)
    part = _part(time_s, brightness, latent, most_degree)
    if not 0.0 < part < _MOST:
        return Track(plain, 0.0)
    lamp = _lamp(time_s, brightness - part * latent, most_degree)
    # The first bright frame may fill some traps only: the next one then lies off.
    lost = int(plain.kept.sum()) - int(lamp.kept.sum())
    if lamp.rms > _LEAST_GAIN * plain.rms or lost > _MOST_LOST * time_s.size:
        return Track(plain, 0.0)
    return Track(lamp, part)


class Fading(NamedTuple):
    """Charge that fades from before the first frame: ``charge exp(-time / tau)``, ADU a quadrant.

    Where it is not seen `charge` is 0.
    """

    tau_s: float
    charge: Float64s

    def at(self, time_s: Float64s) -> Float64s:
        """Return the charge at times, ADU, shape (quadrants, times)."""
        return np.outer(self.charge, np.exp(-time_s / self.tau_s))


def fading(
    time_s: Float64s, level: Float64s, error: Float64s, kind: NDArray[np.int64]
) -> Fading:
    """Return what fades in frames that should be alike.

    Parameters
    ----------
    level, error
        Of faint frames, ADU, shape (frames, quadrants).
    kind
        The same number where frames were exposed alike: only differences between these count, so
        that neither light nor response matter.
    """
    weights = 1.0 / error**2
    best = Fading(1.0, np.zeros(level.shape[1]))
    most, least = 0.0, level.shape[1] + 5.0 * np.sqrt(2.0 * level.shape[1]) + 10.0
    if np.unique(kind).size == kind.size:
        return best
    rest = _centred(level, weights, kind)
    for tau in _TAUS:
        shape = np.repeat(np.exp(-time_s / tau)[:, None], level.shape[1], axis=1)
        shape = _centred(shape, weights, kind)
        power = np.maximum((weights * shape**2).sum(axis=0), 1e-300)
        along = (weights * shape * rest).sum(axis=0)
        gain = float((along**2 / power).sum())  # of chi2
        if gain > max(most, least) and float(np.median(along)) > 0.0:
            most, best = gain, Fading(float(tau), along / power)
    return best


def _centred(values: Float64s, weights: Float64s, kind: NDArray[np.int64]) -> Float64s:
    """Return values less the weighted mean of their kind."""
    result = values.copy()
    for one in np.unique(kind):
        same = kind == one
        result[same] -= (weights[same] * values[same]).sum(axis=0) / weights[same].sum(axis=0)
    return result


def _part(
    time_s: Float64s, brightness: Float64s, latent: Float64s, most_degree: int
) -> float:
    """Return how much of the shape is in the brightness, fitted together with the lamp."""
    best, part = np.inf, 0.0
    for degree in range(2, most_degree + 1):
        if brightness.size < 3 * degree + 3:
            break
        rms, one = _together(time_s, brightness, latent, degree)
        if rms < 0.8 * best:
            best, part = rms, one
    return part


def _together(
    time_s: Float64s, brightness: Float64s, latent: Float64s, degree: int
) -> tuple[float, float]:
    """Return scatter and part of the shape beside a polynomial; strays left out."""
    span = max(float(np.ptp(time_s)), 1e-9)
    powers = np.vander((time_s - time_s[0]) / span, degree + 1, increasing=True)
    design = np.column_stack([powers, latent])
    kept = np.isfinite(brightness)
    rms, part = np.inf, 0.0
    for _ in range(10):
        if int(kept.sum()) < degree + 4:
            break
        solution, _covariance = weighted_least_squares(
            design[kept], brightness[kept], np.ones(int(kept.sum()))
        )
        gap = brightness - design @ solution
        part = float(solution[-1])
        freedom = int(kept.sum()) - degree - 2
        rms = float(np.sqrt(np.sum(gap[kept] ** 2) / max(freedom, 1)))
        best = np.isfinite(gap) & (np.abs(gap) <= 5.0 * max(robust_sigma(gap[kept]), 1e-9))
        if bool(np.all(best == kept)):
            break
        kept = best
    return rms, part


def _lamp(time_s: Float64s, brightness: Float64s, most_degree: int) -> Polynomial:
    track = fit_polynomial(time_s, brightness, min(2, brightness.size - 1))
    for degree in range(3, most_degree + 1):
        if brightness.size < 3 * degree:
            break
        other = fit_polynomial(time_s, brightness, degree)
        if int(track.kept.sum()) - int(other.kept.sum()) > _MOST_LOST * time_s.size:
            continue
        # A better track finds more strays: both are compared without them.
        same = fit_polynomial(time_s[other.kept], brightness[other.kept],
                              track.coefficients.size - 1, clip_sigma=np.inf)  # fmt: skip
        if other.rms < 0.8 * same.rms:
            track = other
    return track
