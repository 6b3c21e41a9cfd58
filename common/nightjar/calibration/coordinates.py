# SPDX-License-Identifier: BSD-3-Clause
"""Coordinates of a detector: of the frame, of a quadrant, in order of reading, of the silicon.

Four systems, all 0-based; a whole number is the centre of a pixel.

``ccd``
    Columns and rows of the frame.
``qrel``
    Within a quadrant, turned as the frame is.
``qcan``
    Within a quadrant, in order of reading: ``(0, 0)`` is read first, whichever corner it is in.
    The same place in all quadrants is read at the same time.
``phys``
    Of the silicon alone: without scans, with the rows for charge injection between the halves.
    What is not silicon has none: NaN.

All functions take numbers or arrays that broadcast and return float64 arrays ``x, y``.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nightjar.calibration.detector import Detector
from nightjar.errors import InvalidArgument

System = Literal["ccd", "qrel", "qcan", "phys"]
Floats = NDArray[np.float64]
Pair = tuple[Floats, Floats]
_SYSTEMS = ("ccd", "qrel", "qcan", "phys")


def convert(
    detector: Detector, x: ArrayLike, y: ArrayLike, source: System, target: System,
    quadrant: ArrayLike | None = None,
) -> Pair:  # fmt: skip
    """Return places in another system.

    Parameters
    ----------
    x, y
        Places in `source`; any shapes that broadcast.
    quadrant
        Name or array of names: needed where `source` is ``qrel`` or ``qcan``; else found from the
        place where it is not given.

    Returns
    -------
    x, y : float64 arrays
        NaN where the place is in no quadrant, or where ``phys`` is concerned and it is no silicon.

    Raises
    ------
    InvalidArgument
        There is no such system or quadrant, or the quadrant is missing.
    """
    for system in (source, target):
        if system not in _SYSTEMS:
            raise InvalidArgument(f"coordinates {system!r}: must be one of {', '.join(_SYSTEMS)}")
    x, y = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(y, np.float64))
    place = _Places(detector)
    if quadrant is not None:
        index = _index_of(detector, quadrant)
        x, y, index = np.broadcast_arrays(x, y, index)
    elif source in ("ccd", "phys"):
        index = place.index_at(x, y, source)
    else:
        raise InvalidArgument(f"from {source} coordinates: name the quadrant")
    found_x, found_y = place.to_canonical(x, y, index, source)
    return place.from_canonical(found_x, found_y, index, target)


def quadrant_at(
    detector: Detector, x: ArrayLike, y: ArrayLike, system: System = "ccd"
) -> NDArray[np.str_]:
    """Return the names of the quadrants of places in ``ccd`` or ``phys``; "" where there is none.

    Rows of charge injection belong to none.
    """
    if system not in ("ccd", "phys"):
        raise InvalidArgument(f"coordinates {system!r} do not tell the quadrant")
    x, y = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(y, np.float64))
    index = _Places(detector).index_at(x, y, system)
    names = np.array([*detector.names, ""])
    return names[index]


def is_silicon(detector: Detector, x: ArrayLike, y: ArrayLike) -> NDArray[np.bool_]:
    """Tell which places of the frame, ``ccd``, are in the image area."""
    found_x, _ = convert(detector, x, y, "ccd", "phys")
    return np.isfinite(found_x)


class _Places:
    """Corners and directions of the quadrants of a detector as arrays ``[quadrant]``.

    One more entry, the last, is of places that are in none: all NaN.
    """

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        rows, columns = detector.quadrant_shape
        self.width, self.height = columns, rows
        places = list(detector.quadrants.values())
        gap = 2 * detector.injection_rows

        def table(values: list[float]) -> Floats:
            return np.array([*values, np.nan])

        self.x0 = table([float(place.column * columns) for place in places])
        self.y0 = table([float(place.row * rows) for place in places])
        self.phys_x0 = table([float(place.column * detector.image_columns) for place in places])
        self.phys_y0 = table([float(place.row * (detector.image_rows + gap)) for place in places])
        self.flip_x = np.array([place.reads_from_right for place in places] + [False])
        self.flip_y = np.array([place.reads_from_top for place in places] + [False])

    def index_at(self, x: Floats, y: Floats, source: System) -> NDArray[np.intp]:
        """Return which quadrant a place is in: -1, the last entry, where in none."""
        detector = self.detector
        if source == "ccd":
            x0, y0, width, height = self.x0, self.y0, self.width, self.height
        else:
            x0, y0 = self.phys_x0, self.phys_y0
            width, height = detector.image_columns, detector.image_rows
        index = np.full(np.shape(x), -1, np.intp)
        for number in range(len(detector.quadrants)):
            inside = _within(x - x0[number], width) & _within(y - y0[number], height)
            index[inside] = number
        return index

    def to_canonical(
        self, x: Floats, y: Floats, index: NDArray[np.intp], source: System
    ) -> tuple[Floats, Floats]:
        detector = self.detector
        flip_x, flip_y = self.flip_x[index], self.flip_y[index]
        nowhere = np.where(index < 0, np.nan, 0.0)
        if source == "qcan":
            return _only(x, y, self.width, self.height, nowhere)
        if source == "phys":
            x, y = x - self.phys_x0[index], y - self.phys_y0[index]
            x, y = _only(x, y, detector.image_columns, detector.image_rows, nowhere)
            x = np.where(flip_x, detector.image_columns - 1 - x, x) + detector.prescan
            return x, np.where(flip_y, detector.image_rows - 1 - y, y)
        if source == "ccd":
            x, y = x - self.x0[index], y - self.y0[index]
        x, y = _only(x, y, self.width, self.height, nowhere)
        x = np.where(flip_x, self.width - 1 - x, x)
        return x, np.where(flip_y, self.height - 1 - y, y)

    def from_canonical(
        self, x: Floats, y: Floats, index: NDArray[np.intp], target: System
    ) -> tuple[Floats, Floats]:
        detector = self.detector
        flip_x, flip_y = self.flip_x[index], self.flip_y[index]
        if target == "qcan":
            return x, y
        if target == "phys":
            columns, rows = detector.image_columns, detector.image_rows
            x, y = _only(x - detector.prescan, y, columns, rows, np.zeros(np.shape(x)))
            x = np.where(flip_x, columns - 1 - x, x) + self.phys_x0[index]
            return x, np.where(flip_y, rows - 1 - y, y) + self.phys_y0[index]
        x = np.where(flip_x, self.width - 1 - x, x)
        y = np.where(flip_y, self.height - 1 - y, y)
        if target == "qrel":
            return x, y
        return x + self.x0[index], y + self.y0[index]


def _within(offset: Floats, size: int) -> NDArray[np.bool_]:
    # A pixel reaches half a pixel to both sides of its centre; its upper edge is its neighbour's.
    inside: NDArray[np.bool_] = (offset >= -0.5) & (offset < size - 0.5)
    return inside


def _only(x: Floats, y: Floats, width: int, height: int, nowhere: Floats) -> Pair:
    """Return places with NaN for those outside a rectangle."""
    lost = np.where(_within(x, width) & _within(y, height), 0.0, np.nan) + nowhere
    return x + lost, y + lost


def _index_of(detector: Detector, quadrant: Any) -> NDArray[np.intp]:
    names = np.asarray(quadrant)
    index = np.full(names.shape, -2, np.intp)
    for number, name in enumerate(detector.names):
        index[names == name] = number
    index[names == ""] = -1
    if (index == -2).any():
        unknown = sorted({str(name) for name in np.atleast_1d(names)[np.atleast_1d(index) == -2]})
        raise InvalidArgument(
            f"detector {detector.name} has no quadrant {', '.join(unknown)}; it has "
            f"{', '.join(detector.names)}"
        )
    return index
