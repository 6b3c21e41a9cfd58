# SPDX-License-Identifier: BSD-3-Clause
"""What workers do with flats: measure the illumination of one, stack many without it."""

from __future__ import annotations

from typing import Any

import numpy as np

from nightjar.calibration.detector import Detector, load_detector
from nightjard.calib.frames import open_frame
from nightjard.calib.prepare import Recipe, bias_structure, mask_plane, offset_of, prepared
from nightjard.calib.science.illumination import box_medians, illumination
from nightjard.calib.science.stack import Stack, bands, stack_frames

_EDGE = 0.5  # a model below so many ADU is no illumination


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
        pixels, bad = prepared(frame, quadrant, wanted)
        grid = box_medians(
            frame.detector.sector(pixels, "image"), frame.detector.sector(bad, "image"), box_px
        )
        grids[quadrant] = grid
        mean = float(grid.mean(dtype=np.float64))
        low, high = np.percentile(grid, (5, 95))
        found[quadrant] = {
            "fluence": mean, "gradient": float(high - low) / mean if mean > 0 else 0.0,
        }  # fmt: skip
    np.savez(out, **grids)
    return found


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
    fluence = float(np.mean([one.mean(dtype=np.float64) for one in medians]))
    noise = np.sqrt(fluence / geometry.gain_e_adu) / max(fluence, 1.0)
    shape = (geometry.image_rows, geometry.image_columns)
    columns = geometry.columns_of("image")
    structure = None
    if wanted.bias is not None:
        structure = bias_structure(geometry, wanted.bias, quadrant, wanted.offset)
    masked = None if wanted.mask is None else mask_plane(geometry, wanted.mask, quadrant)
    whole = Stack(shape)
    for band in bands(shape[0], len(frames), shape[1], band_bytes):
        cube = np.empty((len(frames), band.stop - band.start, shape[1]), np.float32)
        for number, frame in enumerate(frames):
            raw = frame.band(quadrant, band.start, band.stop)[:, columns]
            pixels = np.subtract(raw, levels[number][band, None], dtype=np.float32)
            if structure is not None:
                pixels -= structure[band, columns]
            model = illumination(medians[number], shape, band)
            np.divide(pixels, model, out=cube[number], where=model > _EDGE)
            lost = (raw == 0) | (raw == geometry.saturation_adu) | (model <= _EDGE)
            cube[number][lost] = 0.0
        if masked is not None:
            cube[:, masked[band, columns]] = 0.0
        # A pixel of no response has values about 0: those count, exact zeros do not.
        part = stack_frames(
            cube, np.zeros((len(frames), band.stop - band.start), np.float32),
            clip_sigma=clip_sigma, noise=float(noise), is_signed=True,
        )  # fmt: skip
        whole.mean[band], whole.std[band], whole.counts[band] = part.mean, part.std, part.counts
    np.save(out, _with_scans(geometry, whole))
    return {"out": out, "fluence": fluence}


def _with_scans(detector: Detector, stack: Stack) -> np.ndarray[Any, Any]:
    planes = np.zeros((3, *detector.quadrant_shape), np.float32)
    planes[0] = 1.0
    area = (slice(0, detector.image_rows), detector.columns_of("image"))
    planes[(0, *area)] = stack.mean
    planes[(1, *area)] = np.nan_to_num(stack.std, nan=0.0)
    planes[(2, *area)] = stack.counts
    return planes


FLAT_WORKERS = (illuminate, stack_flats)
