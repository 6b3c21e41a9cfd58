# SPDX-License-Identifier: BSD-3-Clause
"""Stacks of many frames by CCD and quadrant, in bands of rows: memory does not grow with frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.calibration.detector import load_detector
from nightjard.calib.dataset import CcdFrame
from nightjard.calib.frames import open_frame
from nightjard.calib.prepare import Offset, Recipe, offset_of
from nightjard.calib.science.stack import Stack, bands, stack_frames
from nightjard.calib.work import Work

BAND_BYTES = 120_000_000


@dataclass(frozen=True)
class Stacked:
    """The stack of a CCD: frames ``[row, column]`` as the detector's are."""

    median: NDArray[np.float32]
    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    counts: NDArray[np.int16]
    frames: int


def stack_ccds(
    work: Work, frames: Mapping[int, Sequence[CcdFrame]], recipes: Mapping[int, Recipe], *,
    clip_sigma: float = 0.0, name: str = "stack",
) -> dict[int, Stacked]:  # fmt: skip
    """Stack frames of CCDs without their offset, each quadrant by a worker.

    Parameters
    ----------
    recipes
        Their way of taking the offset counts; masks, bias and flats do not.
    clip_sigma
        See :func:`nightjard.calib.science.stack.stack_frames`; mean and std leave out what is
        farther from the median.
    name
        Of the intermediate files.
    """
    items = [
        {"paths": [str(one.path) for one in some], "detector": work.detector_name,
         "quadrant": quadrant, "offset": recipes[ccd].offset, "clip_sigma": clip_sigma,
         "out": str(work.intermediate / f"{name}_ccd{ccd}_{quadrant}.npy")}
        for ccd, some in frames.items() if some for quadrant in work.detector.names
    ]  # fmt: skip
    rows, columns = work.detector.quadrant_shape
    found = work.map(
        stack_quadrant, items, stage="frames stacked",
        memory_bytes=BAND_BYTES + 40 * rows * columns,
    )  # fmt: skip
    paths = iter(found)
    return {
        ccd: _assembled(work, {quadrant: next(paths)["out"] for quadrant in work.detector.names},
                        len(some))
        for ccd, some in frames.items() if some
    }  # fmt: skip


def stack_quadrant(
    paths: list[str], detector: str, quadrant: str, offset: Offset, clip_sigma: float, out: str
) -> dict[str, Any]:
    """Stack a quadrant; planes median, mean, std, counts go to the file `out`. A worker's task.

    Raises
    ------
    StorageError
        A frame cannot be read.
    """
    geometry = load_detector(detector)
    opened = [open_frame(path, geometry) for path in paths]
    levels = []
    for frame in opened:
        levels.append(offset_of(frame, quadrant, offset))
        frame.forget()
    rows, columns = geometry.quadrant_shape
    noise = geometry.read_noise_e / geometry.gain_e_adu if clip_sigma else 0.0
    whole = Stack((rows, columns))
    for band in bands(rows, len(opened), columns, BAND_BYTES):
        cube = np.stack([one.band(quadrant, band.start, band.stop) for one in opened])
        part = stack_frames(
            cube, np.stack([one[band] for one in levels]), top=geometry.saturation_adu,
            clip_sigma=clip_sigma, noise=noise,
        )  # fmt: skip
        for plane in ("median", "mean", "std", "counts"):
            getattr(whole, plane)[band] = getattr(part, plane)
    np.save(out, np.stack([whole.median, whole.mean, whole.std, whole.counts.astype(np.float32)]))
    return {"out": out}


def _assembled(work: Work, paths: Mapping[str, str], frames: int) -> Stacked:
    planes = [
        work.detector.assemble({q: np.load(path, mmap_mode="r")[plane]
                                for q, path in paths.items()})
        for plane in range(4)
    ]  # fmt: skip
    return Stacked(planes[0], planes[1], planes[2], planes[3].astype(np.int16), frames)


STACK_WORKERS = (stack_quadrant,)
