# SPDX-License-Identifier: BSD-3-Clause
"""All that is measured of one quadrant over the frames of a bias test; a worker's task."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.calibration.detector import Detector, load_detector
from nightjard.calib.frames import Frame, open_frame
from nightjard.calib.prepare import Recipe, clipped_mean, offset_of, prepared
from nightjard.calib.science.background import smooth_model
from nightjard.calib.science.noise_power import (
    PIXEL_S,
    Timing,
    binned,
    find_lines,
    spectrum_of,
)
from nightjard.calib.science.read_noise import (
    Measured,
    clipped_std,
    converter_hints,
    noise_of_differences,
)

Floats = NDArray[np.float32]
Bad = NDArray[np.bool_]

_STREAM_ROWS, _STREAM_FRAMES = 256, 4  # enough for correlations of 0.001
_SECTORS = {"pre": "prescan", "ove": "overscan", "img": "image"}


def analyse_channel(
    paths: list[str], detector: str, ccd: int, quadrant: str, recipe: dict[str, Any],
    line_s: float, degree: int, box_px: int, spectrum_frames: int, most_lines: int, out: str,
) -> dict[str, Any]:  # fmt: skip
    """Measure a quadrant over all frames.

    Returns
    -------
    dict
        ``levels`` of the sectors of each frame; ``ron`` of sectors from differences, ``ron_model``
        about a smooth model, [value, error], ADU; ``lines``, ``converter``. Arrays are in `out`:
        ``mean_hor``, ``std_hor``, ``mean_ver``, ``std_ver``, ``hertz``, ``power``, ``highest``,
        ``stream``.

    Raises
    ------
    StorageError
        A frame or a product cannot be read.
    """
    geometry = load_detector(detector)
    wanted = Recipe.from_json(recipe)
    levels: dict[str, list[float | None]] = {"reference": [], "pre": [], "ove": [], "img": []}
    frames: list[Floats] = []
    counts = np.zeros(65536, np.int64)
    bad = np.zeros(geometry.quadrant_shape, bool)
    for path in paths:
        frame = open_frame(path, geometry)
        pixels, own = prepared(frame, quadrant, wanted)
        _add_levels(levels, frame, quadrant, own)
        scans = frame.raw(quadrant)[frame.vstart : frame.vend, _scan_columns(geometry)]
        counts += np.bincount(scans.ravel(), minlength=65536)
        bad |= own
        frames.append(pixels)
        frame.forget()
    models = [_about_model(geometry, one, bad, degree, box_px) for one in frames]
    ron = {
        name: _differences(geometry, frames, bad, sector) for name, sector in _SECTORS.items()
    }
    arrays, lines = _noise_of_order(frames, bad, line_s, spectrum_frames, most_lines)
    np.savez(out, **arrays)
    hints = converter_hints(counts)
    return {
        "ccd": ccd, "quadrant": quadrant, "levels": levels,
        "ron": {name: _plain(one) for name, one in ron.items()},
        "ron_model": _plain(_averaged(models)), "ron_models": [_plain(one)[0] for one in models],
        "lines": lines, "converter": hints._asdict(), "out": out,
    }  # fmt: skip


def _plain(one: Measured) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in one]


def _scan_columns(detector: Detector) -> NDArray[np.int64]:
    """Return the columns of the trimmed scans; those of the image where there is none."""
    columns = np.arange(detector.quadrant_shape[1])
    scans = [columns[detector.columns_of(one, is_trimmed=True)] for one in ("prescan", "overscan")]
    chosen = np.concatenate(scans)
    return chosen if len(chosen) else columns


def _add_levels(
    levels: dict[str, list[float | None]], frame: Frame, quadrant: str, bad: Bad
) -> None:
    detector = frame.detector
    raw, rows = frame.raw(quadrant), slice(frame.vstart, min(frame.vend, detector.image_rows))
    for name, sector in _SECTORS.items():
        columns = detector.columns_of(sector, is_trimmed=True)  # type: ignore[arg-type]
        good = raw[rows, columns][~bad[rows, columns]]
        levels[name].append(clipped_mean(good) if good.size else None)
    method_level = float(offset_of(frame, quadrant, "median")[frame.vstart])
    reference = levels["img"][-1] if detector.offset_sector == "none" else method_level
    levels["reference"].append(reference)


def _about_model(
    detector: Detector, pixels: Floats, bad: Bad, degree: int, box_px: int
) -> Measured:
    image, mask = detector.sector(pixels, "image"), detector.sector(bad, "image")
    gaps = image - smooth_model(image, mask, box_px, degree, clip_sigma=6.0)
    return clipped_std(gaps[~mask] if mask.any() else gaps)


def _averaged(models: list[Measured]) -> Measured:
    """Return the median over frames, and its error from theirs."""
    values = np.array([one.value for one in models])
    errors = np.array([one.error for one in models])
    factor = math.sqrt(math.pi / 2) if len(models) > 2 else 1.0
    return Measured(float(np.median(values)),
                    factor * float(np.mean(errors)) / math.sqrt(len(models)))  # fmt: skip


def _differences(
    detector: Detector, frames: list[Floats], bad: Bad, sector: str
) -> Measured:
    cut = [detector.sector(one, sector, is_trimmed=True) for one in frames]  # type: ignore[arg-type]
    if not cut[0].size:
        return Measured(math.nan, math.nan)
    mask = detector.sector(bad, sector, is_trimmed=True)  # type: ignore[arg-type]
    return noise_of_differences(cut, ~mask if mask.any() else None)


def _noise_of_order(
    frames: list[Floats], bad: Bad, line_s: float, spectrum_frames: int, most_lines: int
) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """Return profiles and spectrum of what is left of the frames without their mean."""
    count = len(frames)
    mean = np.zeros_like(frames[0])
    for one in frames:
        mean += one
    mean /= np.float32(count)
    mean[bad] = 0.0
    boost = count / (count - 1) if count > 1 else 1.0  # the mean holds a part of the noise
    squares_row = np.zeros(mean.shape[0])
    squares_column = np.zeros(mean.shape[1])
    residuals: list[Floats] = []
    for one in frames:
        gaps = one - mean if count > 1 else one - smooth_model(one, bad, 42)
        gaps -= np.float32(gaps.mean(dtype=np.float64))  # its offset would be a line at 0 Hz
        gaps[bad] = 0.0
        limit = np.float32(8.0 * clipped_std(gaps).value)
        gaps[np.abs(gaps) > limit] = 0.0  # cosmic rays would fill the whole spectrum
        squares = gaps * gaps
        squares_row += squares.mean(axis=1, dtype=np.float64)
        squares_column += squares.mean(axis=0, dtype=np.float64)
        if len(residuals) < spectrum_frames:
            residuals.append(gaps)
    timing = Timing(PIXEL_S, line_s)
    stream = np.concatenate([one[:_STREAM_ROWS].ravel() for one in residuals[:_STREAM_FRAMES]])
    spectrum = spectrum_of(residuals, timing)
    hertz, power, highest = binned(spectrum)
    lines = find_lines(
        residuals, spectrum, timing, frames_in_mean=count if count > 1 else 0, most=most_lines
    )
    arrays = {
        "mean_hor": mean.mean(axis=0, dtype=np.float64),
        "std_hor": np.sqrt(squares_column * boost / count),
        "mean_ver": mean.mean(axis=1, dtype=np.float64),
        "std_ver": np.sqrt(squares_row * boost / count),
        "hertz": hertz, "power": power * boost,
        "highest": highest * boost, "stream": stream,
    }  # fmt: skip
    return arrays, [asdict(one) for one in lines]
