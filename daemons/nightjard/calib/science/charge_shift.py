# SPDX-License-Identifier: BSD-3-Clause
"""Brighter-fatter: how far charge moves the boundaries of pixels, and images without that.

Method of Guyonnet et al. (2015, A&A 575, A41). A charge at the origin moves the boundaries of the
pixel at ``(row, column)``; what its four boundaries move together is the coefficient measured
from covariances, ``R = sum_X a^X``. Boundaries are shared by neighbours, so two sets are enough:
``west[row, column]`` for column >= 1, the boundary at ``(row, column - 1/2)``, and
``south[row, column]`` for row >= 1, at ``(row - 1/2, column)``; positive where the pixel further
out grows. With mirrors on the axes, ``R = west[c] - west[c+1] + south[r] - south[r+1]``.
That is one equation for two unknowns: the ratio of both boundaries of a pixel, and the outermost
ones, come from a smooth model, ``a = p0 f(r) cos(theta)`` with ``f = E1(r / length)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, optimize, special

from nightjard.calib.science.robust import Float64s

_LENGTHS = (0.15, 6.0)  # of the model, px
_FWHM = 2.0 * math.sqrt(2.0 * math.log(2.0))


@dataclass(frozen=True, eq=False)
class Boundaries:
    """Shifts of boundaries per unit of charge, in pixels.

    Attributes
    ----------
    west, south
        Shape (lags + 1, lags + 1); entries that do not exist are 0.
    strength, length_px
        p0 and the length of the smooth model.
    """

    west: Float64s
    south: Float64s
    strength: float
    length_px: float

    def in_units_of(self, charge: float) -> Boundaries:
        """Return them per unit of `charge` electrons: with the gain, per ADU."""
        return Boundaries(
            self.west * charge, self.south * charge, self.strength * charge, self.length_px
        )

    def areas(self) -> Float64s:
        """Return the coefficients R that they give, shape (lags, lags)."""
        lags = self.west.shape[0] - 1
        west, south = self.west[:lags, :lags].copy(), self.south[:lags, :lags].copy()
        # On the axes the inner boundary is the mirrored outer one.
        west[:, 0], south[0, :] = -self.west[:lags, 1], -self.south[1, :lags]
        result: Float64s = west - self.west[:lags, 1:] + south - self.south[1:, :lags]
        return result


def smooth_shapes(lags: int, length_px: float) -> tuple[Float64s, Float64s]:
    """Return west and south of the model for p0 = 1."""
    places = np.arange(lags + 1, dtype=np.float64)
    rows, columns = np.meshgrid(places, places, indexing="ij")

    def shape(across: Float64s, along: Float64s) -> Float64s:
        distance = np.hypot(across, along)
        value: Float64s = special.exp1(distance / length_px) * along / distance
        return value

    west, south = np.zeros_like(rows), np.zeros_like(rows)
    west[:, 1:] = shape(rows, columns - 0.5)[:, 1:]
    south[1:, :] = shape(columns, rows - 0.5)[1:, :]
    return west, south


def fit_model(coefficients: Float64s, errors: Float64s) -> tuple[float, float]:
    """Return p0 and length of the smooth model that is nearest to measured coefficients.

    The axes are left out (there the two directions of transfer differ, which the model does not
    know) unless there is nothing else to be seen.
    """
    lags = coefficients.shape[0]
    off_axis = np.zeros((lags, lags), bool)
    off_axis[1:, 1:] = True
    everything = np.ones((lags, lags), bool)
    everything[0, 0] = False
    for chosen in (off_axis, everything):
        weights = np.where(chosen, 1.0 / np.maximum(errors, 1e-300) ** 2, 0.0)

        def misfit(log_length: float, weights: Float64s = weights) -> float:
            return _best_strength(coefficients, weights, math.exp(log_length))[1]

        found = optimize.minimize_scalar(
            misfit, bounds=tuple(math.log(one) for one in _LENGTHS), method="bounded"
        )
        length = math.exp(float(found.x))
        strength, _ = _best_strength(coefficients, weights, length)
        if strength > 0:
            return strength, length
    return 0.0, 1.0


def _best_strength(
    coefficients: Float64s, weights: Float64s, length: float
) -> tuple[float, float]:
    lags = coefficients.shape[0]
    shape = Boundaries(*smooth_shapes(lags, length), 1.0, length).areas()
    power = float((weights * shape**2).sum())
    strength = float((weights * shape * coefficients).sum()) / power if power > 0 else 0.0
    return strength, float((weights * (coefficients - strength * shape) ** 2).sum())


def solve_boundaries(
    coefficients: Float64s, errors: Float64s, length_px: float | None = None
) -> Boundaries:
    """Return the boundaries that give measured coefficients exactly (all but [0, 0]).

    Unknown are the boundaries on the axes, ``west[0, c]`` and ``south[r, 0]``, and one number for
    each pixel off the axes: ``lags^2 - 1`` for as many equations.

    Parameters
    ----------
    length_px
        Of the smooth model, where it is known from better coefficients.
    """
    lags = coefficients.shape[0]
    if length_px is None:
        strength, length = fit_model(coefficients, errors)
    else:
        weights = 1.0 / np.maximum(errors, 1e-300) ** 2
        weights[0, :] = weights[:, 0] = 0.0
        strength, length = max(_best_strength(coefficients, weights, length_px)[0], 0.0), length_px
    shape_west, shape_south = smooth_shapes(lags, length)
    if strength == 0.0:  # nothing to model: both boundaries of a pixel move alike
        shape_west, shape_south = smooth_shapes(lags, 1.0)
    inner = [(r, c) for r in range(lags) for c in range(lags) if (r, c) != (0, 0)]
    number = {place: i for i, place in enumerate(inner)}
    matrix, right = np.zeros((len(inner), len(inner))), np.zeros(len(inner))

    def add(equation: int, sign: float, row: int, column: int, is_west: bool) -> None:
        """Add one boundary to an equation: unknown, its mirror, or the model's."""
        if is_west and column == 0:
            sign, column = -sign, 1
        if not is_west and row == 0:
            sign, row = -sign, 1
        if max(row, column) == lags:
            outer = shape_west if is_west else shape_south
            right[equation] -= sign * strength * outer[row, column]
        elif row == 0 or column == 0:
            matrix[equation, number[row, column]] += sign
        else:
            # Off the axes the unknown is the length of (west, south) along the model's.
            both = math.hypot(shape_west[row, column], shape_south[row, column])
            part = shape_west if is_west else shape_south
            matrix[equation, number[row, column]] += sign * part[row, column] / both

    for equation, (row, column) in enumerate(inner):
        right[equation] += coefficients[row, column]
        add(equation, 1.0, row, column, True)
        add(equation, -1.0, row, column + 1, True)
        add(equation, 1.0, row, column, False)
        add(equation, -1.0, row + 1, column, False)
    solution = np.linalg.solve(matrix, right)
    west, south = strength * shape_west, strength * shape_south
    for (row, column), i in number.items():
        both = math.hypot(shape_west[row, column], shape_south[row, column])
        if column:
            west[row, column] = solution[i] * (shape_west[row, column] / both if row else 1.0)
        if row:
            south[row, column] = solution[i] * (shape_south[row, column] / both if column else 1.0)
    return Boundaries(west, south, strength, length)


# --- images ---


def _outward(near: Float64s, lags: int) -> Float64s:
    """Return the kernel of the far boundary of pixels, ``[across, along]``, from near ones.

    Of the pixel at `along` >= 0 the far boundary is the near one of the next pixel, which grows by
    what this one loses; on the other side of the charge it is the mirrored near boundary.
    """
    kernel = np.zeros((2 * lags + 1, 2 * lags + 1))
    for across in range(-lags, lags + 1):
        for along in range(-lags, lags):
            step = -near[abs(across), along + 1] if along >= 0 else near[abs(across), -along]
            kernel[across + lags, along + lags] = step
    return kernel


def moved_charge(image: NDArray[np.floating[Any]], boundaries: Boundaries) -> NDArray[np.float32]:
    """Return what each pixel gains by the shifts, in the unit of the image.

    ``1/4 sum_X (Q + Q_X) sum_kl a_kl^X Q_kl``: half for the charge that gathers while the exposure
    goes on, half for the mean of both pixels at their boundary. What a pixel gains its neighbour
    loses. Beyond the edges the image is mirrored.

    Parameters
    ----------
    image
        ``[row, column]``; finite everywhere. Its unit is that of which `boundaries` are per unit.
    """
    lags = boundaries.west.shape[0] - 1
    edge = lags + 1
    padded = np.pad(np.asarray(image, np.float32), edge, mode="symmetric")
    shape = tuple(fft.next_fast_len(side, real=True) for side in padded.shape)
    spectrum = fft.rfft2(padded, s=shape)
    gained = np.zeros_like(padded)
    kernels = (
        (_outward(boundaries.west, lags), 1),
        (_outward(boundaries.south.T, lags).T, 0),
    )
    for kernel, axis in kernels:
        shift = fft.irfft2(spectrum * _transform(kernel, shape), s=shape)
        shift = shift[: padded.shape[0], : padded.shape[1]].astype(np.float32)
        here = [slice(None), slice(None)]
        after = [slice(None), slice(None)]
        here[axis], after[axis] = slice(None, -1), slice(1, None)
        first, second = tuple(here), tuple(after)
        flow = 0.25 * (padded[first] + padded[second]) * shift[first]
        gained[first] += flow
        gained[second] -= flow
    return gained[edge:-edge, edge:-edge]


def _transform(kernel: Float64s, shape: tuple[int, ...]) -> NDArray[np.complex64]:
    """Return the Fourier transform of a small kernel about the origin of a large plane.

    As a sum over its few rows and columns: a fifth of the time of a transform of the plane.
    """
    places = np.arange(kernel.shape[0]) - kernel.shape[0] // 2
    rows = np.exp(-2j * np.pi * np.outer(np.arange(shape[0]), places) / shape[0])
    columns = np.exp(-2j * np.pi * np.outer(places, np.arange(shape[1] // 2 + 1)) / shape[1])
    result: NDArray[np.complex64] = (rows @ kernel).astype(np.complex64) @ columns.astype(
        np.complex64
    )
    return result


def degraded(image: NDArray[np.floating[Any]], boundaries: Boundaries) -> NDArray[np.float32]:
    """Return an image as the shifts would have made it."""
    return np.asarray(image, np.float32) + moved_charge(image, boundaries)


def corrected(image: NDArray[np.floating[Any]], boundaries: Boundaries) -> NDArray[np.float32]:
    """Return an image without the shifts; the sum of all charge stays.

    One step is enough: for flat fields the exact filter, ``sqrt(x / (exp(x) - 1))`` with x twice
    the relative shift, differs from ``1 - x/4`` by ``x^2 / 96``.
    """
    return np.asarray(image, np.float32) - moved_charge(image, boundaries)


# --- widths ---


@dataclass(frozen=True)
class Widths:
    """Width of a point of light that the shifts alone make.

    Attributes
    ----------
    x_um, y_um
        FWHM along rows and columns.
    ellipticity
        ``(x^2 - y^2) / (x^2 + y^2)`` of the widths.
    """

    x_um: float
    y_um: float
    ellipticity: float


def widths(boundaries: Boundaries, charge: float, pixel_um: float, side: int = 51) -> Widths:
    """Return the width of a charge in one pixel after it has moved its boundaries.

    The ratio I of the pixels beside it to its own is taken for that of a Gaussian one pixel off:
    ``sigma = sqrt(-pixel^2 / (2 ln I))``.
    """
    image = np.zeros((side, side), np.float32)
    middle = side // 2
    image[middle, middle] = charge
    result = degraded(image, boundaries)
    own = float(result[middle, middle])
    both = []
    for row, column in ((0, 1), (1, 0)):
        wing = 0.5 * float(
            result[middle + row, middle + column] + result[middle - row, middle - column]
        )
        ratio = wing / own if own > 0 else math.nan
        is_wing = 0.0 < ratio < 1.0
        both.append(_FWHM * math.sqrt(-(pixel_um**2) / (2.0 * math.log(ratio))) if is_wing
                    else math.nan)  # fmt: skip
    x, y = both
    return Widths(x, y, (x**2 - y**2) / (x**2 + y**2))
