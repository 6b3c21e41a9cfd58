# SPDX-License-Identifier: BSD-3-Clause
"""Response of pixels to light: non-uniformity without the noise of the flats, and odd pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nightjard.calib.science.read_noise import Measured, clipped_std

Floats = NDArray[np.float32]
Bad = NDArray[np.bool_]

_CLIP_SIGMA = 4.0
#: Standard deviation of a normal distribution cut at 4 sigma.
_CUT_AT_4 = 0.99946


class Response(NamedTuple):
    """Non-uniformity of the response of pixels, relative.

    Attributes
    ----------
    total
        Deviation of the master flat.
    noise_measured, noise_expected
        What noise of the flats is left in it: as the frames scatter; as the gain says.
    prnu
        Without the measured noise (the expected one of a single frame, which knows nothing of how
        the charge in pixels lowers it). NaN where no pixel counts.
    """

    total: Measured
    noise_measured: float
    noise_expected: float
    prnu: Measured


def response_of(
    flat: Floats, std: Floats, bad: Bad, *, frames: int, fluence_adu: float, gain_e_adu: float,
    read_noise_adu: float,
) -> Response:  # fmt: skip
    """Return the non-uniformity of a master flat.

    Parameters
    ----------
    flat, std
        Mean and deviation over frames of the image area, relative to the illumination.
    frames
        That are in the mean of most pixels: of what is lost there is no noise.
    fluence_adu
        Of one frame.
    """
    good = ~bad & np.isfinite(flat)
    value, error = clipped_std(flat[good], _CLIP_SIGMA)
    total = Measured(value / _CUT_AT_4, error / _CUT_AT_4)
    own = std[good & np.isfinite(std)]
    measured = math.nan
    if frames > 1 and own.size:
        # The mean of squares without the few pixels that scatter as no noise does.
        squares = np.square(own, dtype=np.float64)
        near = squares[squares < 20.0 * np.median(squares)]
        measured = math.sqrt(float(near.mean()) / frames)
    variance = max(fluence_adu, 0.0) / gain_e_adu + read_noise_adu**2
    is_lit = fluence_adu > 0 and frames > 0
    expected = math.sqrt(variance / frames) / fluence_adu if is_lit else math.nan
    noise = measured if math.isfinite(measured) else expected
    left = total.value**2 - noise**2
    prnu = math.nan if math.isnan(left) else math.sqrt(max(left, 0.0))
    return Response(
        total, measured, expected,
        Measured(prnu, total.error * total.value / prnu if prnu > 0 else total.error),
    )  # fmt: skip


def response_at_no_light(
    fluence: Sequence[float], prnu: Sequence[float], error: Sequence[float]
) -> Measured:
    """Return the non-uniformity that flats of several fluences tend to at no light.

    Pixels that respond more are pushed back by the charge they have (brighter-fatter): at a
    fluence F the non-uniformity is seen ``1 - a F / 2 + ...`` times, a the bend of photon
    transfer: a tenth at three quarters of a full well. A straight line leaves 0.3 %.

    Returns
    -------
    Measured
        NaN where all have one fluence.
    """
    x, y, sigma = (np.asarray(one, np.float64) for one in (fluence, prnu, error))
    good = np.isfinite(x + y + sigma) & (sigma > 0)
    if good.sum() < 2 or np.ptp(x[good]) < 0.2 * x[good].max():
        return Measured(math.nan, math.nan)
    design = np.stack([np.ones(int(good.sum())), x[good]], axis=1)
    weights = sigma[good] ** -2.0
    covariance = np.linalg.inv(design.T @ (design * weights[:, None]))
    line = covariance @ (design.T @ (weights * y[good]))
    return Measured(float(line[0]), math.sqrt(float(covariance[0, 0])))


def odd_pixels(
    flats: list[Floats], errors: list[Floats], bad: Bad, *, low: float, high: float,
    change_sigma: float = 6.0, least_change: float = 0.02,
) -> tuple[Bad, Bad]:  # fmt: skip
    """Return pixels whose response is beyond limits, and those whose response changes with light.

    Parameters
    ----------
    flats, errors
        Master flats of different fluences and their errors.
    change_sigma, least_change
        A change of more than both, from the lowest to the highest fluence, is one.
    """
    mean: NDArray[Any] = np.mean(flats, axis=0)
    beyond = ((mean < low) | (mean > high) | ~np.isfinite(mean)) & ~bad
    changes = np.zeros_like(bad)
    if len(flats) > 1:
        gap = np.abs(flats[-1] - flats[0])
        reach = np.maximum(change_sigma * np.hypot(errors[0], errors[-1]), least_change)
        changes = (gap > reach) & ~bad & ~beyond
    return beyond, changes
