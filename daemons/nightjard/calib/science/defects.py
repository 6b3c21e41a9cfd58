# SPDX-License-Identifier: BSD-3-Clause
"""Pixels that are not as others: hot in the dark, dark in the light, whole columns of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.calibration.detector import Detector
from nightjard.calib.science.background import smooth_model

Floats = NDArray[np.float32]
Bad = NDArray[np.bool_]

#: Of a column of ccd273, 2066 rows: so many bad pixels make it bad as a whole.
COLUMN_LIMIT = 200
_COLUMN_ROWS = 2066
_CLIP_SIGMA = 6.0


@dataclass(frozen=True)
class Defects:
    """Defects of a canonical quadrant.

    Attributes
    ----------
    bad
        Which pixels; none in the scans.
    excess
        What was compared with the thresholds: ADU above the background, or relative response.
    columns
        Columns of the quadrant that are bad as a whole.
    """

    bad: Bad
    excess: Floats
    columns: list[int]


def column_limit(detector: Detector) -> int:
    """Return how many bad pixels make a column bad: 200 of 2066, in proportion for others."""
    return max(round(COLUMN_LIMIT * detector.image_rows / _COLUMN_ROWS), 2)


def dark_defects(
    detector: Detector, stack: Floats, counts: NDArray[Any], *,
    low_adu: float = -1000.0, high_adu: float = 50.0, box_px: int | None = None, degree: int = 5,
) -> Defects:  # fmt: skip
    """Return the defects of a stack of dark frames: what is far from a smooth background.

    Parameters
    ----------
    stack
        Canonical quadrant without offset, ADU.
    counts
        Frames that each pixel is of; a pixel without any is bad.
    low_adu, high_adu
        A pixel beyond either, above the background, is bad.
    """
    image = detector.sector(stack, "image")
    lost = detector.sector(counts, "image") == 0
    model = smooth_model(image, lost, box_px or detector.tile_px, degree, _CLIP_SIGMA)
    excess = image - model
    return _finished(detector, (excess < low_adu) | (excess > high_adu) | lost, excess)


def flat_defects(
    detector: Detector, stack: Floats, counts: NDArray[Any], *,
    low: float = 0.5, high: float = 1.5, box_px: int | None = None, degree: int = 5,
) -> Defects:  # fmt: skip
    """Return the defects of a stack of flats: relative response beyond limits.

    See :func:`dark_defects`. A pixel without a value in any frame is saturated or dead: bad.
    """
    image = detector.sector(stack, "image")
    lost = detector.sector(counts, "image") == 0
    model = smooth_model(image, lost, box_px or detector.tile_px, degree, _CLIP_SIGMA)
    with np.errstate(divide="ignore", invalid="ignore"):
        response = np.where(model > 0, image / model, 0).astype(np.float32)
    return _finished(detector, (response < low) | (response > high) | lost, response)


def _finished(detector: Detector, bad: Bad, excess: Floats) -> Defects:
    columns = np.flatnonzero(bad.sum(axis=0) >= column_limit(detector))
    bad[:, columns] = True
    whole = np.zeros(detector.quadrant_shape, bool)
    detector.sector(whole, "image")[...] = bad
    values = np.zeros(detector.quadrant_shape, np.float32)
    detector.sector(values, "image")[...] = excess
    return Defects(whole, values, [int(column) + detector.prescan for column in columns])


def merge_defects(detector: Detector, *parts: Bad) -> tuple[Bad, list[int]]:
    """Return the union of masks with the rule for columns, and the columns that are whole."""
    bad = np.logical_or.reduce(parts)
    image = detector.sector(bad, "image")
    columns = np.flatnonzero(image.sum(axis=0) >= column_limit(detector))
    image[:, columns] = True
    return bad, [int(column) + detector.prescan for column in columns]


def events_in(hits: Bad) -> int:
    """Return how many separate groups of pixels there are, corners touching."""
    from scipy import ndimage

    return int(ndimage.label(hits, structure=np.ones((3, 3)))[1])


def smoothed(mask: Bad, sigma_px: float = 10.0) -> Floats:
    """Return a mask blurred, for figures in which single pixels would not be seen."""
    from scipy import ndimage

    blurred: Floats = ndimage.gaussian_filter(mask.astype(np.float32), sigma_px, truncate=3.0)
    return blurred
