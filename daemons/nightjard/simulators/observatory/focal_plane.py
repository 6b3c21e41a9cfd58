# SPDX-License-Identifier: BSD-3-Clause
"""The array: a hexagonal lattice in six sectors, and where its pixels look on the sky.

A pixel at radius r and angle b of the array looks, with A = b + fiducial + pa - theta, at RA +
r cos A / cos Dec and Dec - r sin A: the array is flipped against the sky.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from nightjard.simulators.observatory.sky import Floats

PITCH_ARCSEC = 38.5
FWHM_ARCSEC = 31.2
SIGMA_ARCSEC = FWHM_ARCSEC / math.sqrt(8 * math.log(2))


def hexagonal(count: int, pitch_arcsec: float = PITCH_ARCSEC) -> NDArray[np.complex128]:
    """Return places of pixels, r exp(i b) in arcsec, (count,): sector by sector, 60 degrees each.

    The lattice points nearest to the centre, which stays empty, as whole sixfold sets: 144 reach
    out to 6.245 pitches. A count that six does not divide is cut short.
    """
    sets = math.ceil(count / 6)
    size = math.ceil(math.sqrt(2 * sets)) + 2
    # In a sector: steps a >= 1 along one lattice vector, b >= 0 along the next.
    points = [
        (a * a + a * b + b * b, b / (a + b), complex(a + b / 2, b * math.sqrt(3) / 2))
        for a in range(1, 2 * size)
        for b in range(2 * size)
    ]
    sector = np.array([point for *_, point in sorted(points, key=lambda p: p[:2])[:sets]])
    turns = np.exp(1j * np.pi / 3 * np.arange(6))
    return np.asarray((turns[:, None] * sector).ravel()[:count] * pitch_arcsec)


def in_array(
    ra_deg: Floats,
    dec_deg: Floats,
    source_ra_deg: Floats,
    source_dec_deg: Floats,
    turn_deg: Floats,
) -> NDArray[np.complex128]:
    """Return where a source falls on the array, arcsec, as places of pixels; (n,).

    Parameters
    ----------
    ra_deg, dec_deg
        Where the boresight looks, apparent.
    source_ra_deg, source_dec_deg
        Where the source is, apparent.
    turn_deg
        fiducial + pa - theta.

    Returns
    -------
    NDArray
        NaN where it is on the other side of the sky.
    """
    dec, source = np.radians(dec_deg), np.radians(source_dec_deg)
    step = np.radians(source_ra_deg - ra_deg)
    depth = np.sin(dec) * np.sin(source) + np.cos(dec) * np.cos(source) * np.cos(step)
    east = np.cos(source) * np.sin(step)
    north = np.cos(dec) * np.sin(source) - np.sin(dec) * np.cos(source) * np.cos(step)
    with np.errstate(divide="ignore", invalid="ignore"):
        sky = np.where(depth > 0, (east - 1j * north) / depth, np.nan)
    return np.asarray(sky * np.exp(-1j * np.radians(turn_deg)) * np.degrees(1.0) * 3600)
