# SPDX-License-Identifier: BSD-3-Clause
"""Stacks of many frames by CCD and quadrant, in bands of rows: memory does not grow with frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from nightjar.calibration.detector import load_detector
from nightjard.calib.dataset import CcdFrame
from nightjard.calib.frames import open_frame
from nightjard.calib.prepare import Offset, Recipe, offset_of
from nightjard.calib.science.stack import bands, stack_frames
from nightjard.calib.work import Work

BAND_BYTES = 120_000_000
#: Of a worker that stacks: bands of all frames twice (as they are read, as a cube), planes of one.
STACK_BYTES = 3 * BAND_BYTES


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
    found = work.map(stack_quadrant, items, stage="frames stacked", memory_bytes=STACK_BYTES)
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
    # The planes of a band need 28 bytes a pixel, however few frames there are.
    frames = max(len(opened), 8)
    with PlanesFile(out, 4, (rows, columns)) as file:
        for band in bands(rows, frames, columns, BAND_BYTES):
            cube = np.stack([one.band(quadrant, band.start, band.stop) for one in opened])
            part = stack_frames(
                cube, np.stack([one[band] for one in levels]), top=geometry.saturation_adu,
                clip_sigma=clip_sigma, noise=noise,
            )  # fmt: skip
            file.write(band, part.median, part.mean, part.std, part.counts)
            for frame in opened:
                frame.forget()
    return {"out": out}


class PlanesFile:
    """A file of planes ``[plane, row, column]``, float32, as numpy loads it; written in bands.

    Nothing of it stays in memory.
    """

    def __init__(self, path: str, planes: int, shape: tuple[int, int]) -> None:
        self._rows, self._columns = shape
        self._file: BinaryIO = Path(path).open("wb")
        header = {"descr": "<f4", "fortran_order": False, "shape": (planes, *shape)}
        np.lib.format.write_array_header_1_0(self._file, header)
        self._start = self._file.tell()
        self._file.truncate(self._start + 4 * planes * self._rows * self._columns)

    def __enter__(self) -> PlanesFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._file.close()

    def write(self, band: slice, *planes: NDArray[Any]) -> None:
        """Write rows of every plane."""
        for number, plane in enumerate(planes):
            place = (number * self._rows + band.start) * self._columns
            self._file.seek(self._start + 4 * place)
            self._file.write(np.ascontiguousarray(plane, "<f4").data)


def _assembled(work: Work, paths: Mapping[str, str], frames: int) -> Stacked:
    planes = [
        work.detector.assemble({q: np.load(path, mmap_mode="r")[plane]
                                for q, path in paths.items()})
        for plane in range(4)
    ]  # fmt: skip
    return Stacked(planes[0], planes[1], planes[2], planes[3].astype(np.int16), frames)


STACK_WORKERS = (stack_quadrant,)
