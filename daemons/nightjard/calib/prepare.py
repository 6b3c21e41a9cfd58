# SPDX-License-Identifier: BSD-3-Clause
"""Frames made ready for measuring: bad pixels, offset, bias structure, flat field; on the fly.

Preparing a quadrant from its raw pixels takes less time than reading it back as floats would, so
nothing is stored; :mod:`nightjard.calib.preparing` records how it is done. Order: pixels at either
end of the converter and those of the cosmetics mask are bad; offset; structure of the bias;
division by the flat field.
"""

from __future__ import annotations

import functools
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nightjar.calibration.detector import Detector
from nightjar.errors import StorageError
from nightjard.calib.frames import Frame, Raw
from nightjard.calib.work import Work

Floats = NDArray[np.float32]
Bad = NDArray[np.bool_]
Offset = Literal["row", "median", "none"]

_CLIP_SIGMA = 5.0
#: Pixels that are worked on at a time: a quadrant of ccd273.
MOST_PX = 4_500_000


@dataclass(frozen=True)
class Recipe:
    """What is done to a raw quadrant.

    Attributes
    ----------
    offset
        ``row``: of every row its own, from the scan that the detector names; ``median``: one of
        the whole quadrant; ``none``. A detector without such a scan gets none.
    mask, bias, flat
        Paths of products of a CCD, in the frame's orientation; None without.
    """

    offset: Offset = "row"
    mask: str | None = None
    bias: str | None = None
    flat: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values, for arguments of workers."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Recipe:
        """Return the recipe of :meth:`as_json`."""
        return cls(**document)


def recipe_for(
    work: Work, ccd: int, *, offset: Offset = "row", is_masked: bool = True,
    is_debiased: bool = False, wave_nm: int | None = None,
) -> Recipe:
    """Return the recipe of a CCD with the products that the work has for it.

    Parameters
    ----------
    is_masked, is_debiased, wave_nm
        Wants the cosmetics mask, the master bias, the flat of a wavelength; where one is not
        there, it is left out and noted. A detector without a scan that tells the offset wants the
        master bias always (but for biases): without one it is flagged that levels hold the offset.
    """
    inputs = work.inputs
    if work.detector.offset_sector == "none" and not work.dataset.handle.startswith("BIAS"):
        is_debiased = True
        if ccd not in inputs.biases:
            work.results.flag(
                "BADDATAPROD", severity="warning", ccd=ccd,
                cause=f"CCD{ccd}: no scan tells its offset, and there is no master bias: all "
                "levels hold the offset; configure a master bias",
            )  # fmt: skip
    mask = inputs.masks.get(ccd) if is_masked else None
    bias = inputs.biases.get(ccd) if is_debiased else None
    flat = inputs.flats.get((wave_nm, ccd)) if wave_nm is not None else None
    missing = [
        name for name, wanted, path in (
            ("cosmetics mask", is_masked, mask), ("master bias", is_debiased, bias),
            (f"flat of {wave_nm} nm", wave_nm is not None, flat),
        ) if wanted and path is None
    ]  # fmt: skip
    if missing:
        work.results.note(f"CCD {ccd}: prepared without {', '.join(missing)}: there is none")
    return Recipe(offset, *(None if path is None else str(path) for path in (mask, bias, flat)))


def prepared(
    frame: Frame, quadrant: str, recipe: Recipe, rows: slice | None = None
) -> tuple[Floats, Bad]:
    """Return a canonical quadrant ready for measuring, ADU, and which of its pixels are bad.

    Scans are kept; flat fields act on the image area only. Bad pixels have finite values: those
    at the top of the converter keep theirs above offset.

    Parameters
    ----------
    rows
        Only these are wanted, and read: see :func:`parts_of`.

    Raises
    ------
    StorageError
        The frame or a product of the recipe cannot be read.
    """
    detector = frame.detector
    if rows is None:
        raw, rows = frame.raw(quadrant), slice(0, detector.quadrant_shape[0])
    else:
        raw = frame.band(quadrant, rows.start, rows.stop)
    bad = (raw == 0) | (raw == detector.saturation_adu)
    if recipe.mask is not None:
        bad |= mask_plane(detector, recipe.mask, quadrant, rows)
    offsets = offset_of(frame, quadrant, recipe.offset)[rows]
    pixels = np.subtract(raw, offsets[:, None], dtype=np.float32)
    if recipe.bias is not None:
        pixels -= bias_structure(detector, recipe.bias, quadrant, recipe.offset, rows)
    if recipe.flat is not None:
        columns = detector.columns_of("image")
        area = (slice(0, max(min(rows.stop, detector.image_rows) - rows.start, 0)), columns)
        flat = _rows_of(_wanted(detector, recipe.flat, quadrant, "FLAT"), rows)[area]
        is_usable = np.isfinite(flat) & (flat > 0)
        bad[area] |= ~is_usable
        pixels[area] /= np.where(is_usable, flat, 1)
    return pixels, bad


def parts_of(detector: Detector, most_px: int = MOST_PX) -> list[slice]:
    """Return slices of the rows of a quadrant, in order, with about `most_px` pixels at most.

    What is done by parts needs no more memory for a detector of one large quadrant.
    """
    rows, columns = detector.quadrant_shape
    step = -(-rows // max(-(-rows * columns // most_px), 1))
    return [slice(row, min(row + step, rows)) for row in range(0, rows, step)]


# --- offset ---


def offset_of(frame: Frame, quadrant: str, method: Offset) -> Floats:
    """Return the offset of every row of a quadrant, ADU, shape (rows,).

    Raises
    ------
    StorageError
        The frame cannot be read.
    """
    detector = frame.detector
    rows = detector.quadrant_shape[0]
    if method == "none" or detector.offset_sector == "none":
        return np.zeros(rows, np.float32)
    scan = frame.band(quadrant, frame.vstart, frame.vend,
                      detector.columns_of(detector.offset_sector, is_trimmed=True))  # fmt: skip
    result = np.empty(rows, np.float32)
    result[:] = level = clipped_mean(scan[: max(detector.image_rows - frame.vstart, 1)])
    if method == "row":
        result[frame.vstart : frame.vend] = row_levels(scan, level)
    return result


def clipped_mean(values: Raw | NDArray[np.floating[Any]]) -> float:
    """Return the mean of the values near the median.

    A median of whole numbers is a whole number: with a noise of 1 ADU it would be off by up to
    0.5 ADU. The mean of what lies within 5 sigma of it is not, and hot columns or spots do not
    reach it.
    """
    if values.dtype == np.uint16:
        return clipped_mean_of_counts(np.bincount(values.ravel(), minlength=1))
    flat = values.ravel()
    middle = float(np.median(flat))
    low, high = np.percentile(flat, (15.865, 84.135))
    reach = _CLIP_SIGMA * max((high - low) / 2.0, 1.0)
    near = flat[np.abs(flat.astype(np.float64) - middle) <= reach]
    return float(near.mean(dtype=np.float64))


def clipped_mean_of_counts(counts: NDArray[np.int64]) -> float:
    """Do as :func:`clipped_mean` from how often each value occurs."""
    total = int(counts.sum())
    parts = np.array([0.15865, 0.5, 0.84135]) * total
    low, middle, high = np.searchsorted(np.cumsum(counts), parts)
    reach = int(_CLIP_SIGMA * max(float(high - low) / 2.0, 1.0))
    first = max(int(middle) - reach, 0)
    near = counts[first : int(middle) + reach + 1]
    return first + float((near * np.arange(len(near))).sum() / near.sum())


def row_levels(scan: Raw | Floats, level: float) -> Floats:
    """Return the level of every row of a scan: mean of what is near the row's median.

    Rows without a pixel that counts (all zero or saturated) get `level`.
    """
    values = scan.astype(np.float32)
    middle = np.median(values, axis=1, keepdims=True)
    spread = np.percentile(values - middle, (15.865, 84.135))
    reach = _CLIP_SIGMA * max(float(spread[1] - spread[0]) / 2.0, 1.0)
    is_near = (np.abs(values - middle) <= reach) & (values != 0) & (values != 65535)
    counts = is_near.sum(axis=1)
    sums = np.where(is_near, values, 0).sum(axis=1, dtype=np.float64)
    return np.where(counts > 0, sums / np.maximum(counts, 1), level).astype(np.float32)


# --- products that go in ---


def bias_structure(
    detector: Detector, path: str, quadrant: str, offset: Offset, rows: slice = slice(None)
) -> Floats:
    """Return the structure of a master bias, ADU: its own offset taken away as a frame's is.

    Raises
    ------
    StorageError
        It cannot be read.
    """
    wanted = _wanted(detector, path, quadrant, "STACK")
    if not _is_kept(detector):
        levels = _levels(wanted, offset)
        return _rows_of(wanted, rows) - levels[rows]
    return _structure(wanted, offset)[rows]


def mask_plane(
    detector: Detector, path: str, quadrant: str, rows: slice = slice(None)
) -> Bad:
    """Return the bad pixels of a mask, canonical.

    Raises
    ------
    StorageError
        It cannot be read.
    """
    mask: Bad = _rows_of(_wanted(detector, path, quadrant, "MASK"), rows)
    return mask


@dataclass(frozen=True)
class _Wanted:
    """A quadrant of a product: what keeps it in memory for the next frame."""

    path: str
    quadrant: str
    plane: str
    geometry: str
    stamp: tuple[int, int]
    detector: Detector = field(compare=False)


def _wanted(detector: Detector, path: str, quadrant: str, plane: str) -> _Wanted:
    return _Wanted(path, quadrant, plane, detector.name, _stamp(path), detector)


def _stamp(path: str) -> tuple[int, int]:
    """Return what tells that a file was replaced."""
    try:
        stat = os.stat(path)
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}", path=path) from error
    return (stat.st_mtime_ns, stat.st_size)


def _is_kept(detector: Detector) -> bool:
    """Tell whether quadrants of products are small enough to stay in memory."""
    rows, columns = detector.quadrant_shape
    return rows * columns <= MOST_PX


def _rows_of(wanted: _Wanted, rows: slice) -> NDArray[Any]:
    """Return rows of a plane of a product, canonical."""
    if _is_kept(wanted.detector):
        return _plane(wanted)[rows]
    return _read(wanted, rows)


@functools.lru_cache(maxsize=12)
def _plane(wanted: _Wanted) -> NDArray[Any]:
    """Return a quadrant of a plane of a product, canonical; kept for the next frame."""
    return _read(wanted)


def _read(
    wanted: _Wanted, rows: slice = slice(None), columns: slice = slice(None)
) -> NDArray[Any]:
    from astropy.io import fits

    path, name, detector = wanted.path, wanted.plane, wanted.detector
    try:
        with fits.open(Path(path), memmap=True) as units:
            images = [unit for unit in units if unit.is_image and unit.shape]
            named = [unit for unit in images if unit.name == name]
            chosen = (named or images[:1])[0] if images else None
            if chosen is None or chosen.shape != detector.frame_shape:
                seen = None if chosen is None else chosen.shape
                raise StorageError(
                    f"{path}: no image {name} of shape {detector.frame_shape} but {seen}",
                    path=path,
                )
            view = detector.canonical(chosen.data, wanted.quadrant)[rows, columns]
            if name == "MASK":
                return np.ascontiguousarray(view != 0)
            return view.astype(np.float32, order="C")
    except (OSError, ValueError) as error:
        raise StorageError(f"cannot read {path}: {error}", path=path) from error


@functools.lru_cache(maxsize=4)
def _structure(wanted: _Wanted, offset: Offset) -> Floats:
    """Return the structure of a master bias: its own offset taken away as the frame's was."""
    bias: Floats = _read(wanted)
    return bias - _levels(wanted, offset)


@functools.lru_cache(maxsize=16)
def _levels(wanted: _Wanted, offset: Offset) -> Floats:
    """Return the offset of every row of a master bias, shape (rows, 1)."""
    detector = wanted.detector
    rows = detector.quadrant_shape[0]
    if offset == "none" or detector.offset_sector == "none":
        return np.zeros((rows, 1), np.float32)
    scan = _read(wanted, columns=detector.columns_of(detector.offset_sector, is_trimmed=True))
    level = clipped_mean(scan[: detector.image_rows])
    if offset == "median":
        return np.full((rows, 1), level, np.float32)
    return row_levels(scan, level)[:, None]
