# SPDX-License-Identifier: BSD-3-Clause
"""What workers do with flats: measure the illumination of one, stack many without it."""

from __future__ import annotations

from typing import Any

import numpy as np

from nightjar.calibration.detector import Detector, load_detector
from nightjard.calib.frames import Frame, open_frame
from nightjard.calib.prepare import (
    MOST_PX,
    Recipe,
    bias_structure,
    mask_plane,
    offset_of,
    prepared,
)
from nightjard.calib.science.background import edges_of
from nightjard.calib.science.illumination import filled, illumination, medians_between
from nightjard.calib.science.stack import Stack, bands, stack_frames
from nightjard.calib.tasks.stacking import PlanesFile

UNLIT_ADU = 0.5  # a model below is no illumination


def illuminate(
    path: str, detector: str, recipe: dict[str, Any], box_px: int, out: str
) -> dict[str, Any]:
    """Measure the illumination of the quadrants of a frame; the medians go to the file `out`.

    Returns
    -------
    dict
        Quadrant to ``fluence``, the mean of the illumination in ADU, and ``gradient``, from its
        5th to its 95th percentile, relative.

    Raises
    ------
    StorageError
        The frame or a product cannot be read.
    """
    frame = open_frame(path, load_detector(detector))
    wanted = Recipe.from_json(recipe)
    grids: dict[str, Any] = {}
    found: dict[str, Any] = {}
    for quadrant in frame.detector.names:
        grids[quadrant] = grid = _medians_of(frame, quadrant, wanted, box_px)
        mean = float(grid.mean(dtype=np.float64))
        low, high = np.percentile(grid, (5, 95))
        found[quadrant] = {
            "fluence": mean, "gradient": float(high - low) / mean if mean > 0 else 0.0,
        }  # fmt: skip
    np.savez(out, **grids)
    return found


def _medians_of(frame: Frame, quadrant: str, recipe: Recipe, box_px: int) -> Any:
    """Return the medians of the boxes of a quadrant; some rows of boxes at a time."""
    detector = frame.detector
    down, along = (edges_of(n, box_px) for n in (detector.image_rows, detector.image_columns))
    columns = detector.columns_of("image")
    step = max(MOST_PX // (box_px * detector.quadrant_shape[1]), 1)
    grids = []
    for first in range(0, len(down) - 1, step):
        edges = down[first : first + step + 1]
        pixels, bad = prepared(frame, quadrant, recipe, slice(int(edges[0]), int(edges[-1])))
        grids.append(
            medians_between(pixels[:, columns], bad[:, columns], edges - edges[0], along)
        )
    return filled(np.concatenate(grids))


def stack_flats(
    paths: list[str], detector: str, quadrant: str, recipe: dict[str, Any], grids: list[str],
    clip_sigma: float, band_bytes: int, out: str,
) -> dict[str, Any]:  # fmt: skip
    """Stack the flats of a quadrant, each divided by its illumination; planes go to `out`.

    Planes: mean without outliers, deviation of a frame, frames that count. Scans are 1.

    Raises
    ------
    StorageError
        A frame or a product cannot be read.
    """
    geometry = load_detector(detector)
    wanted = Recipe.from_json(recipe)
    frames = [open_frame(path, geometry) for path in paths]
    levels = []
    for frame in frames:
        levels.append(offset_of(frame, quadrant, wanted.offset))
        frame.forget()
    medians = []
    for path in grids:
        with np.load(path) as saved:
            medians.append(saved[quadrant])
    means = [float(one.mean(dtype=np.float64)) for one in medians]
    lit = [one for one in means if one >= UNLIT_ADU]
    fluence = float(np.mean(lit or means))
    noise = np.sqrt(max(fluence, 0.0) / geometry.gain_e_adu) / max(fluence, 1.0)
    shape = (geometry.image_rows, geometry.image_columns)
    with PlanesFile(out, 3, geometry.quadrant_shape) as file:
        # Planes and what is made of each frame need as much as 12 frames.
        for band in bands(shape[0], len(frames) + 12, shape[1], band_bytes):
            cube = _relative(frames, quadrant, wanted, band, levels, medians)
            # A pixel of no response has values about 0: those count, exact zeros do not.
            part = stack_frames(
                cube, np.zeros(cube.shape[:2], np.float32), clip_sigma=clip_sigma,
                noise=float(noise), is_signed=True,
            )  # fmt: skip
            file.write(band, *_with_scans(geometry, part))
        rest = slice(shape[0], geometry.quadrant_shape[0])
        empty = np.zeros((rest.stop - rest.start, geometry.quadrant_shape[1]), np.float32)
        file.write(rest, empty + 1.0, empty, empty)
    return {"out": out, "fluence": fluence}


def _relative(
    frames: list[Frame], quadrant: str, recipe: Recipe, band: slice, levels: list[Any],
    medians: list[Any],
) -> np.ndarray[Any, Any]:  # fmt: skip
    """Return rows of the image of every frame divided by its illumination; 0 is no value."""
    geometry = frames[0].detector
    shape = (geometry.image_rows, geometry.image_columns)
    columns = geometry.columns_of("image")
    cube = np.empty((len(frames), band.stop - band.start, shape[1]), np.float32)
    structure: Any = None
    if recipe.bias is not None:
        structure = bias_structure(geometry, recipe.bias, quadrant, recipe.offset, band)
    for number, frame in enumerate(frames):
        raw = frame.band(quadrant, band.start, band.stop, columns)
        pixels = np.subtract(raw, levels[number][band, None], dtype=np.float32)
        if structure is not None:
            pixels -= structure[:, columns]
        model = illumination(medians[number], shape, band)
        np.divide(pixels, model, out=cube[number], where=model > UNLIT_ADU)
        lost = (raw == 0) | (raw == geometry.saturation_adu) | (model <= UNLIT_ADU)
        cube[number][lost] = 0.0
        frame.forget()
    if recipe.mask is not None:
        cube[:, mask_plane(geometry, recipe.mask, quadrant, band)[:, columns]] = 0.0
    return cube


def _with_scans(detector: Detector, part: Stack) -> list[np.ndarray[Any, Any]]:
    """Return mean, deviation, counts of rows of the image with their scans."""
    columns = detector.columns_of("image")
    planes = []
    for plane, scans in ((part.mean, 1.0), (np.nan_to_num(part.std), 0.0), (part.counts, 0.0)):
        whole = np.full((plane.shape[0], detector.quadrant_shape[1]), scans, np.float32)
        whole[:, columns] = plane
        planes.append(whole)
    return planes


FLAT_WORKERS = (illuminate, stack_flats)
