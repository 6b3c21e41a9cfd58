# SPDX-License-Identifier: BSD-3-Clause
"""Shapes of spots by Gaussian-weighted quadrupole moments: ellipticity and size.

With weighted moments Q of a spot, ``e1 = (Qxx - Qyy) / (Qxx + Qyy)``, ``e2 = 2 Qxy / (Qxx + Qyy)``
and ``R2 = Qxx + Qyy``. The weight makes a spot look rounder and smaller: for a Gaussian spot under
a Gaussian weight ``Q^-1 = Qseen^-1 - W^-1`` gives back the unweighted moments exactly, and a pixel
adds 1/12 to Qxx and Qyy. Both corrections are made; for other profiles they leave a remainder that
a wide weight keeps small (a Moffat profile of beta 3.5 has no shorter cut than its weight: its R2
depends on the weight, its e1 and e2 hardly).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

#: 0.75 arcsec at 120 um/arcsec on pixels of 12 um.
WEIGHT_SIGMA_PX = 7.5
ROUNDS = 4
_PIXEL = 1.0 / 12.0


@dataclass(frozen=True)
class Shapes:
    """Shapes of spots; arrays (n,); NaN where they cannot be measured. Errors are 1 sigma.

    Attributes
    ----------
    e1, e2
        Ellipticity along the axes and along their diagonals.
    r2
        Qxx + Qyy, pixels squared.
    a, b
        Widths along the axes of the ellipse (1 sigma), pixels.
    """

    e1: Floats
    e2: Floats
    r2: Floats
    a: Floats
    b: Floats
    e1_error: Floats
    e2_error: Floats
    r2_error: Floats

    def columns(self) -> dict[str, Any]:
        """Return the measures by name."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def shapes(
    rest: Floats, bad: Bools, x: Floats, y: Floats, *, noise: Floats, gain_e_adu: Any = 3.5,
    weight_sigma_px: float = WEIGHT_SIGMA_PX, reach_px: float | None = None,
) -> Shapes:  # fmt: skip
    """Return the shapes of spots about given centres.

    Parameters
    ----------
    rest : array (n, side, side)
        Stamps without background, ADU.
    x, y : arrays (n,)
        Centres, pixels of the stamp.
    noise : array (n,)
        Noise of a pixel of the background, ADU.
    weight_sigma_px
        Of the weight; pixels beyond `reach_px` (three of it) do not count.
    """
    side = rest.shape[1]
    reach = 3.0 * weight_sigma_px if reach_px is None else reach_px
    axis = np.arange(side, dtype=float)
    # Bad pixels get what the spot has on the other side: no hole that would turn it.
    light = _mended(rest, bad, x, y)
    dx = (axis[None, :] - x[:, None])[:, None, :]
    dy = (axis[None, :] - y[:, None])[:, :, None]
    radius2 = dx**2 + dy**2
    weight = np.exp(-0.5 * radius2 / weight_sigma_px**2) * (radius2 <= reach**2)
    weighted = weight * light
    total = weighted.sum(axis=(1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):  # stamps without light
        seen = [(weighted * a * b).sum(axis=(1, 2)) / total
                for a, b in ((dx, dx), (dy, dy), (dx, dy))]  # fmt: skip
    gain = np.broadcast_to(np.asarray(gain_e_adu, float), x.shape)[:, None, None]
    variance = noise[:, None, None] ** 2 + np.maximum(light, 0) / gain
    with np.errstate(invalid="ignore", divide="ignore"):
        errors = _errors(weight, dx, dy, total, seen, variance)
        qxx, qyy, qxy, stretch = _freed(seen[0], seen[1], seen[2], weight_sigma_px)
        r2 = qxx + qyy
        e1, e2 = (qxx - qyy) / r2, 2 * qxy / r2
        half = np.sqrt(np.maximum((qxx - qyy) ** 2 / 4 + qxy**2, 0))
        # The corrections stretch moments, and their errors with them.
        e1_error, e2_error = (one * stretch / r2 for one in errors[:2])
        r2_error = errors[2] * stretch
        fine = (total > 0) & (qxx > 0) & (qyy > 0)
        axes = np.sqrt(r2 / 2 + half), np.sqrt(np.maximum(r2 / 2 - half, 0))
    found = (e1, e2, r2, *axes, e1_error, e2_error, r2_error)
    return Shapes(*(np.where(fine, one, np.nan) for one in found))


def _mended(rest: Floats, bad: Bools, x: Floats, y: Floats) -> Floats:
    if not bad.any():
        return rest
    light = np.where(bad, 0.0, rest)
    side = rest.shape[1]
    spot, row, column = np.nonzero(bad)
    other_row = np.rint(2 * y[spot] - row).astype(int)
    other_column = np.rint(2 * x[spot] - column).astype(int)
    inside = (
        (other_row >= 0) & (other_row < side) & (other_column >= 0) & (other_column < side)
    )  # fmt: skip
    spot, row, column = spot[inside], row[inside], column[inside]
    light[spot, row, column] = light[spot, other_row[inside], other_column[inside]]
    return light


def _freed(xx: Floats, yy: Floats, xy: Floats, sigma: float) -> tuple[Floats, ...]:
    """Moments without weight and pixel, and by how much they were stretched."""
    determinant = xx * yy - xy**2
    ixx, iyy, ixy = yy / determinant, xx / determinant, -xy / determinant
    ixx, iyy = ixx - sigma**-2, iyy - sigma**-2
    determinant = ixx * iyy - ixy**2
    qxx, qyy, qxy = iyy / determinant, ixx / determinant, -ixy / determinant
    stretch = ((qxx + qyy) / (xx + yy)) ** 2
    return qxx - _PIXEL, qyy - _PIXEL, qxy, stretch


def _errors(
    weight: Floats, dx: Floats, dy: Floats, total: Floats, seen: list[Floats], variance: Floats
) -> tuple[Floats, Floats, Floats]:
    """Errors of Qxx - Qyy, 2 Qxy and Qxx + Qyy before corrections."""
    found = []
    for lever, mean in (
        (dx**2 - dy**2, seen[0] - seen[1]), (2 * dx * dy, 2 * seen[2]),
        (dx**2 + dy**2, seen[0] + seen[1]),
    ):  # fmt: skip
        slope = weight * (lever - mean[:, None, None])
        found.append(np.sqrt((slope**2 * variance).sum(axis=(1, 2))) / np.abs(total))
    return found[0], found[1], found[2]


def residual_skewness(
    residual: Floats, bad: Bools, x: Floats, y: Floats, flux: Floats, variance: Floats, *,
    half_px: int = 5,
) -> tuple[Floats, Floats, Floats]:  # fmt: skip
    """Return how lopsided what a symmetric fit leaves is, along x and along y, and the error.

    The sum of residuals ahead of the centre minus that behind it, in parts of the flux, over the
    pixels within `half_px`. Charge that is left behind in transfer lies behind (canonical
    coordinates: at larger x or y), so the number is positive for it.

    Parameters
    ----------
    residual : array (n, side, side)
        Stamps without their fitted Gaussians.
    variance : array (n, side, side)
        Of each pixel. What the fit takes of the noise is not taken off the error, which is so a
        little large for bright spots.
    """
    side = residual.shape[1]
    axis = np.arange(side, dtype=float)
    dx = (axis[None, :] - x[:, None])[:, None, :]
    dy = (axis[None, :] - y[:, None])[:, :, None]
    # Pixels that the box cuts count by the part inside: a centre moves by less than a pixel.
    inside = [np.clip(half_px + 0.5 - np.abs(one), 0.0, 1.0) for one in (dx, dy)]
    near = np.where(bad, 0.0, inside[0] * inside[1])
    # The third power of the distance, in units of the box, tells a tail from a shifted centre.
    lever_x, lever_y = (near * (one / half_px) ** 3 for one in (dx, dy))
    with np.errstate(invalid="ignore", divide="ignore"):
        along_x, along_y = (
            (residual * lever).sum(axis=(1, 2)) / flux for lever in (lever_x, lever_y)
        )
        spread = (variance * (lever_x**2 + lever_y**2) / 2).sum(axis=(1, 2))
        return along_x, along_y, np.sqrt(spread) / np.abs(flux)
