# SPDX-License-Identifier: BSD-3-Clause
"""Smooth surfaces under images: means of boxes, and a polynomial through them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

Image = NDArray[Any]
Floats = NDArray[np.float32]
Bad = NDArray[np.bool_]


@dataclass(frozen=True)
class Boxes:
    """An image averaged in boxes.

    Attributes
    ----------
    x, y
        Edges of the boxes' columns and rows, pixels; shapes (n + 1,) and (m + 1,).
    values
        Means, shape (m, n); NaN where no pixel of a box counts.
    counts
        Pixels that they are of.
    """

    x: NDArray[np.int64]
    y: NDArray[np.int64]
    values: NDArray[np.float64]
    counts: NDArray[np.int64]


def edges_of(size: int, box: int) -> NDArray[np.int64]:
    """Return edges of about equal boxes near a size: all pixels lie in one."""
    count = max(round(size / box), 1)
    return np.linspace(0, size, count + 1).round().astype(np.int64)


def boxed(image: Image, bad: Bad | None, box: int) -> Boxes:
    """Return the means of boxes of about `box` pixels a side; bad pixels do not count."""
    rows, columns = edges_of(image.shape[0], box), edges_of(image.shape[1], box)
    good = None if bad is None or not bad.any() else ~bad
    values = image if good is None else np.where(good, image, 0)
    sums = _reduced(values, rows, columns)
    if good is None:
        counts = np.outer(np.diff(rows), np.diff(columns)).astype(np.int64)
    else:
        counts = _reduced(good, rows, columns).astype(np.int64)
    means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    return Boxes(columns, rows, means, counts)


def _reduced(image: Image, rows: NDArray[Any], columns: NDArray[Any]) -> NDArray[np.float64]:
    # First along the rows of memory, in single precision in short sums, then in double.
    narrow = np.add.reduceat(image, columns[:-1], axis=1, dtype=np.float32)
    sums: NDArray[np.float64] = np.add.reduceat(narrow, rows[:-1], axis=0, dtype=np.float64)
    return sums


def fit_surface(
    boxes: Boxes, shape: tuple[int, int], degree: int = 5
) -> NDArray[np.float64]:
    """Return Chebyshev coefficients (y, x) of a polynomial through the values of boxes.

    Terms up to `degree` in total; fewer where there are few boxes. Weights are the pixels of a box.

    Parameters
    ----------
    shape
        Of the image: what -1 to 1 stands for.
    """
    degree = min(degree, len(boxes.x) - 2, len(boxes.y) - 2)
    columns = _averaged(shape[1], boxes.x, degree)
    rows = _averaged(shape[0], boxes.y, degree)
    terms = [(i, j) for i in range(degree + 1) for j in range(degree + 1 - i)]
    values, weights = boxes.values.ravel(), np.sqrt(boxes.counts.ravel().astype(float))
    use = np.isfinite(values) & (weights > 0)
    result = np.zeros((degree + 1, degree + 1))
    if use.sum() < len(terms):
        terms = [(0, 0)]  # a level is all that so few boxes tell
    design = np.stack([np.outer(rows[:, i], columns[:, j]).ravel() for i, j in terms], axis=1)
    if use.any():
        found = np.linalg.lstsq(
            design[use] * weights[use, None], values[use] * weights[use], rcond=None
        )[0]
        for term, one in zip(terms, found, strict=True):
            result[term] = one
    return result


def _averaged(size: int, edges: NDArray[np.int64], degree: int) -> NDArray[np.float64]:
    """Return the means of the polynomials over the pixels of boxes: a box is no point."""
    values = chebyshev.chebvander(np.linspace(-1, 1, size), degree)
    sums: NDArray[np.float64] = np.add.reduceat(values, edges[:-1], axis=0)
    return sums / np.diff(edges)[:, None]


def surface(coefficients: NDArray[np.float64], shape: tuple[int, int]) -> Floats:
    """Return the polynomial of :func:`fit_surface` as an image."""
    degree = coefficients.shape[0] - 1
    rows = chebyshev.chebvander(np.linspace(-1, 1, shape[0]), degree)
    columns = chebyshev.chebvander(np.linspace(-1, 1, shape[1]), degree)
    narrow = (rows @ coefficients).astype(np.float32)
    image: Floats = narrow @ columns.T.astype(np.float32)
    return image


def smooth_model(
    image: Image, bad: Bad | None, box: int, degree: int = 5, clip_sigma: float = 0.0
) -> Floats:
    """Return the smooth surface under an image: see :func:`boxed` and :func:`fit_surface`.

    Parameters
    ----------
    clip_sigma
        Pixels farther than this from a first model, through the medians of boxes, do not count
        (defects, cosmic rays); 0: all do.
    """
    shape = (image.shape[0], image.shape[1])
    if clip_sigma:
        first = surface(fit_surface(boxed_medians(image, bad, box), shape, degree), shape)
        gaps = np.abs(image - first)
        scale = 1.4826 * float(np.median(gaps.ravel()[:: max(gaps.size // 100_000, 1)]))
        far = gaps > clip_sigma * max(scale, 1e-6)
        bad = far if bad is None else far | bad
    return surface(fit_surface(boxed(image, bad, box), shape, degree), shape)


def boxed_medians(image: Image, bad: Bad | None, box: int) -> Boxes:
    """Return the medians of boxes of about `box` pixels a side; bad pixels do not count."""
    rows, columns = edges_of(image.shape[0], box), edges_of(image.shape[1], box)
    values = np.full((len(rows) - 1, len(columns) - 1), np.nan)
    counts = np.zeros(values.shape, np.int64)
    for i in range(len(rows) - 1):
        for j in range(len(columns) - 1):
            place = (slice(rows[i], rows[i + 1]), slice(columns[j], columns[j + 1]))
            pixels = image[place] if bad is None else image[place][~bad[place]]
            counts[i, j] = pixels.size
            if pixels.size:
                values[i, j] = np.median(pixels)
    return Boxes(columns, rows, values, counts)
