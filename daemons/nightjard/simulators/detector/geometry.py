# SPDX-License-Identifier: BSD-3-Clause
"""Where the pixels of a canonical quadrant lie on the silicon.

Physical coordinates count pixels of silicon from the lower left one of the CCD: no scans, but the
rows that inject charge between the halves. 0-based, whole numbers at the centres of pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nightjar.calibration.detector import Detector

Axis = NDArray[np.float64]


def silicon_size(detector: Detector) -> tuple[int, int]:
    """Return columns and rows of the silicon, rows for injection included."""
    across, above = detector.grid
    gaps = 2 * detector.injection_rows * (above - 1)
    return across * detector.image_columns, above * detector.image_rows + gaps


def axes(detector: Detector, quadrant: str) -> tuple[Axis, Axis]:
    """Return physical x of the image columns and y of the image rows of a canonical quadrant."""
    place = detector.quadrants[quadrant]
    x = np.arange(detector.image_columns, dtype=float)
    y = np.arange(detector.image_rows, dtype=float)
    if place.reads_from_right:
        x = x[::-1]
    if place.reads_from_top:
        y = y[::-1]
    gap = 2 * detector.injection_rows
    return (
        x + place.column * detector.image_columns,
        y + place.row * (detector.image_rows + gap),
    )


def field(detector: Detector, quadrant: str) -> tuple[Axis, Axis]:
    """Return u and v of the image columns and rows: -1 to 1 over the silicon."""
    width, height = silicon_size(detector)
    x, y = axes(detector, quadrant)
    return (2.0 * (x + 0.5) / width - 1.0, 2.0 * (y + 0.5) / height - 1.0)
