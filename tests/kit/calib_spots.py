# SPDX-License-Identifier: BSD-3-Clause
"""Spots as they would fall on pixels: drawn from analytic profiles, integrated point by point."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

GAIN, NOISE, OFFSET = 3.5, 1.2, 2500.0
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(7)


def spot(
    side: int, x: float, y: float, *, flux: float, fwhm: float, e1: float = 0.0, e2: float = 0.0,
    beta: float | None = None,
) -> Any:  # fmt: skip
    """Return a spot of a flux in ADU, 7 x 7 points a pixel; a Moffat profile with a beta."""
    points = np.add.outer(np.arange(side), _NODES / 2).ravel()
    dx, dy = np.meshgrid(points - x, points - y)
    determinant = 1 - e1**2 - e2**2
    r2 = ((1 - e1) * dx**2 - 2 * e2 * dx * dy + (1 + e1) * dy**2) / determinant
    if beta is None:
        sigma2 = fwhm**2 / (8 * np.log(2))
        light = np.exp(-r2 / (2 * sigma2)) / (2 * np.pi * sigma2)
    else:
        alpha2 = fwhm**2 / 4 / (2 ** (1 / beta) - 1)
        light = (beta - 1) / (np.pi * alpha2) * (1 + r2 / alpha2) ** -beta
    light = light / np.sqrt(determinant)
    cells = light.reshape(side, len(_NODES), side, len(_NODES))
    return flux * np.einsum("ipjq,p,q->ij", cells, _WEIGHTS / 2, _WEIGHTS / 2)


def exposed(light: Any, rng: np.random.Generator, *, offset: float = OFFSET) -> Any:
    """Return light in ADU with photon noise, read noise, offset, as whole numbers."""
    electrons = rng.poisson(np.maximum(light, 0) * GAIN)
    return np.rint(electrons / GAIN + rng.normal(offset, NOISE, light.shape))


def stamps(
    count: int, rng: np.random.Generator, *, side: int = 75, spread: float = 6.0, **shape: Any
) -> tuple[Any, Any, Any]:
    """Return noisy stamps [spot, row, column] and the true x and y, anywhere about the middle."""
    x, y = (side // 2 + rng.uniform(-spread, spread, count) for _ in range(2))
    core = 31
    frames = np.zeros((count, side, side))
    for i in range(count):
        a, b = round(x[i]) - core // 2, round(y[i]) - core // 2
        frames[i, b : b + core, a : a + core] = spot(core, x[i] - a, y[i] - b, **shape)
    return exposed(frames, rng), x, y


def pushed_charge(
    light: Any, kernel: Iterable[tuple[int, int, float]], steps: int = 100
) -> Any:
    """Return images [..., row, column] in electrons as brighter-fatter makes them, no noise.

    Light is added in steps; what a pixel holds more than another pushes a part of the step there.

    Parameters
    ----------
    kernel
        (columns, rows, K per electron) of one quadrant; the others by symmetry.
    """
    charge = np.zeros_like(light)
    part = light / steps
    places = [
        (k, sx * column, sy * row) for column, row, k in kernel
        for sx in ((1, -1) if column else (1,)) for sy in ((1, -1) if row else (1,))
    ]  # fmt: skip
    for _ in range(steps):
        moved = np.zeros_like(light)
        for k, dx, dy in places:
            beside = [np.roll(one, (dy, dx), (-2, -1)) for one in (part, charge)]
            moved += k * (part + beside[0]) / 2 * (beside[1] - charge)
        charge = charge + part + moved
    return charge
