# SPDX-License-Identifier: BSD-3-Clause
"""How a flat is illuminated: medians of small boxes, a cubic spline through them.

The spline is linear in the medians, so that it is two products of matrices that are made once; of a
flat only the medians are kept (7000 numbers instead of four million), and its model is made again
in a hundredth of a second wherever it is wanted.
"""

from __future__ import annotations

import functools
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from nightjard.calib.science.background import edges_of
from nightjard.calib.science.stack import _median

Floats = NDArray[np.float32]
Bad = NDArray[np.bool_]

BOX_PX = 25


@numba.njit(cache=True, nogil=True)
def _box_medians(
    image: Floats, bad: Bad, rows: NDArray[np.int64], columns: NDArray[np.int64], out: Floats
) -> None:  # pragma: no cover  (compiled)
    values = np.empty((rows[1:] - rows[:-1]).max() * (columns[1:] - columns[:-1]).max(), np.float32)
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            count = 0
            for row in range(rows[i], rows[i + 1]):
                for column in range(columns[j], columns[j + 1]):
                    if not bad[row, column]:
                        values[count] = image[row, column]
                        count += 1
            out[i, j] = _median(values, count) if count else np.nan


def box_medians(image: Floats, bad: Bad, box_px: int = BOX_PX) -> Floats:
    """Return the medians of about square boxes; of boxes without a good pixel the neighbours'."""
    rows, columns = edges_of(image.shape[0], box_px), edges_of(image.shape[1], box_px)
    return filled(medians_between(image, bad, rows, columns))


def medians_between(
    image: Floats, bad: Bad, rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> Floats:
    """Return the medians of boxes with these edges; NaN of boxes without a good pixel."""
    grid = np.empty((len(rows) - 1, len(columns) - 1), np.float32)
    _box_medians(np.ascontiguousarray(image, np.float32), np.ascontiguousarray(bad), rows, columns,
                 grid)  # fmt: skip
    return grid


def filled(grid: Floats) -> Floats:
    """Return medians of boxes; where there is none that of the nearest box, 0 without any."""
    if np.isnan(grid).any():
        if np.isnan(grid).all():
            return np.zeros_like(grid)
        from scipy import ndimage

        nearest: Any = ndimage.distance_transform_edt(
            np.isnan(grid), return_distances=False, return_indices=True
        )
        return np.asarray(grid[tuple(nearest)], np.float32)
    return grid


def illumination(grid: Floats, shape: tuple[int, int], rows: slice | None = None) -> Floats:
    """Return the model of a flat from the medians of its boxes, or of some of its rows."""
    down = spline_matrix(shape[0], grid.shape[0])
    along = spline_matrix(shape[1], grid.shape[1])
    part = down if rows is None else down[rows]
    model: Any = (part @ grid) @ along.T
    return np.asarray(model, np.float32)


@functools.lru_cache(maxsize=8)
def spline_matrix(size: int, boxes: int) -> Floats:
    """Return the (size, boxes) matrix that makes a cubic spline of the values of boxes.

    Beyond the centres of the outer boxes the model goes on straight: half a box more is given to
    the spline as a straight line through the two outer values says.
    """
    from scipy.interpolate import make_interp_spline

    edges = np.linspace(0, size, boxes + 1).round()
    centres = (edges[:-1] + edges[1:] - 1) / 2
    if boxes == 1:
        return np.ones((size, 1), np.float32)
    unit = np.eye(boxes)
    ends = [
        unit[a] + (unit[b] - unit[a]) * (place - centres[a]) / (centres[b] - centres[a])
        for a, b, place in ((0, 1, 0.0), (boxes - 1, boxes - 2, size - 1.0))
    ]
    places = np.concatenate([[0.0], centres, [size - 1.0]])
    values = np.vstack([ends[0], unit, ends[1]])
    spline = make_interp_spline(places, values, k=min(3, boxes + 1))
    matrix: NDArray[Any] = spline(np.arange(size))
    return matrix.astype(np.float32)
