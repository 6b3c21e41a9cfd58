# SPDX-License-Identifier: BSD-3-Clause
"""Everything that the common check measures of a frame, in one pass over its pixels.

The pass counts how often each value occurs in prescan, overscan and image; medians, means,
standard deviations, lost and saturated pixels and the bits of the converter follow from the counts
exactly.
"""

from __future__ import annotations

import importlib
import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from nightjar.calibration.detector import Detector, load_detector
from nightjar.errors import StorageError
from nightjard.calib.frames import Frame, open_frame

Counts = NDArray[np.int64]

SECTORS = ("pre", "ove", "img")
_NAMES = {"pre": "prescan", "ove": "overscan", "img": "image"}
_REST = len(SECTORS)

#: A bit is called stuck where one side of a carry holds less than this part of what lies around it.
_STUCK_PART = 0.002
_STUCK_LEAST = 500
#: Pairs of rows from which the noise of the image is measured.
_IMAGE_PAIRS = 200


@numba.njit(cache=True, nogil=True)
def _count(
    pixels: NDArray[np.uint16], edges: Counts, kinds: Counts, image_rows: int,
    counts: NDArray[np.uint32],
) -> None:  # pragma: no cover  (compiled)
    """Count values by sector: columns between edges are of a kind; other rows are the rest.

    Neighbours count in two tables: one table would wait for its own last write where all pixels
    are alike.
    """
    rows = pixels.shape[0]
    rest = counts.shape[0] - 1
    for row in range(rows):
        for part in range(len(kinds)):
            kind = kinds[part] if row < image_rows else rest
            start, stop = edges[part], edges[part + 1]
            even = stop - (stop - start) % 2
            for column in range(start, even, 2):
                counts[kind, 0, pixels[row, column]] += np.uint32(1)
                counts[kind, 1, pixels[row, column + 1]] += np.uint32(1)
            if even < stop:
                counts[kind, 0, pixels[row, even]] += np.uint32(1)


def count_values(frame: Frame, quadrant: str) -> Counts:
    """Return how often each value occurs: shape (4, 65536), for prescan, overscan, image, rest.

    Sectors are trimmed as for statistics; the rest is what the trims leave out and the parallel
    overscan. Only rows that were read count.

    Raises
    ------
    StorageError
        The frame cannot be read.
    """
    detector = frame.detector
    pixels = frame.raw(quadrant)[frame.vstart : frame.vend]
    edges, kinds = _parts(detector)
    counts = np.zeros((_REST + 1, 2, 65536), np.uint32)
    _count(pixels, edges, kinds, max(detector.image_rows - frame.vstart, 0), counts)
    whole: Counts = counts.sum(axis=1, dtype=np.int64)
    return whole


def _parts(detector: Detector) -> tuple[Counts, Counts]:
    """Return the column edges of a quadrant's parts, and which sector each part is of."""
    spans = sorted(
        (columns.start, columns.stop, index)
        for index, sector in enumerate(SECTORS)
        if (columns := detector.columns_of(_NAMES[sector], is_trimmed=True)).stop > columns.start  # type: ignore[arg-type]
    )
    edges, kinds = [0], []
    for start, stop, index in spans:
        if start > edges[-1]:
            edges.append(start)
            kinds.append(_REST)
        edges.append(stop)
        kinds.append(index)
    if edges[-1] < detector.quadrant_shape[1]:
        edges.append(detector.quadrant_shape[1])
        kinds.append(_REST)
    return np.asarray(edges, np.int64), np.asarray(kinds, np.int64)


def median_of(counts: Counts) -> float:
    """Return the median of whole numbers from their counts, interpolated within its value.

    The value v stands for all from v - 0.5 to v + 0.5: an offset is known to far less than 1 ADU.
    Not a number where nothing was counted.
    """
    total = int(counts.sum())
    if not total:
        return math.nan
    cumulated = np.cumsum(counts)
    value = int(np.searchsorted(cumulated, total / 2.0))
    below = int(cumulated[value]) - int(counts[value])
    return value - 0.5 + (total / 2.0 - below) / int(counts[value])


def moments_of(counts: Counts) -> tuple[float, float]:
    """Return mean and standard deviation from counts; not a number where nothing was counted."""
    values = np.flatnonzero(counts)
    if not len(values):
        return math.nan, math.nan
    weights = counts[values]
    total = int(weights.sum())
    # Whole numbers about the first value: no digit is lost, however many pixels.
    first = int(values[0])
    shifted = values - first
    ones = int((weights * shifted).sum())
    squares = int((weights * shifted * shifted).sum())
    variance = (squares * total - ones * ones) / (total * max(total - 1, 1))
    return first + ones / total, math.sqrt(variance)


def clipped_std_of(counts: Counts, clip_sigma: float = 6.0) -> float:
    """Return the standard deviation from counts of what is not far out: without hot pixels.

    Far is more than `clip_sigma` half-widths of the inner 68 %, at least of 1 ADU, from the median.
    """
    total = int(counts.sum())
    if not total:
        return math.nan
    cumulated = np.cumsum(counts)
    low, middle, high = (
        int(np.searchsorted(cumulated, part * total)) for part in (0.15865, 0.5, 0.84135)
    )
    reach = math.ceil(clip_sigma * max((high - low) / 2.0, 1.0))
    near = np.zeros_like(counts)
    window = slice(max(middle - reach, 0), middle + reach + 1)
    near[window] = counts[window]
    return moments_of(near)[1]


def stuck_bits(counts: Counts, bits: int = 16) -> list[int]:
    """Return the bits of the converter that do not change although the values say they should.

    Where values run smoothly over a multiple of 2^(k+1), bit k is 1 just below and 0 just above.
    A bit that is stuck leaves one of the two empty, and what belongs there shows 2^k beside it.

    Parameters
    ----------
    counts
        How often each value occurs, shape (65536,).
    """
    total = int(counts.sum())
    values = np.flatnonzero(counts)
    if total < _STUCK_LEAST:
        return []
    weights = counts[values]
    stuck = []
    for bit in range(bits):
        ones = int(weights[(values >> bit) & 1 == 1].sum())
        if min(ones, total - ones) > _STUCK_PART * total:
            continue
        if _has_gap_at_carry(counts, values, bit, bool(ones > total - ones)):
            stuck.append(bit)
    return stuck


def moving_bits(counts: Counts, bits: int = 16) -> list[int]:
    """Return the bits that are often 0 and often 1: they are not stuck; `counts` as above."""
    total = int(counts.sum())
    values = np.flatnonzero(counts)
    weights = counts[values]
    ones = [int(weights[(values >> bit) & 1 == 1].sum()) for bit in range(bits)]
    return [bit for bit, one in enumerate(ones) if min(one, total - one) > _STUCK_PART * total]


def _has_gap_at_carry(counts: Counts, values: Counts, bit: int, is_one: bool) -> bool:
    """Tell whether values run on beyond some carry over bit `bit`, but moved by the bit.

    They must be as dense on both sides of what is empty, close to it: levels of their own (lines
    of injected charge beside the dark) that happen to share a bit are not.
    """
    step = 1 << bit
    first = (int(values[0]) // (2 * step)) * 2 * step
    for carry in range(first, min(int(values[-1]) + 2 * step, 65536), 2 * step):
        if not 2 * step <= carry <= 65536 - 2 * step:
            continue
        # Stuck at 1: what lies above the carry shows `step` higher. At 0: what lies below, lower.
        below = carry if is_one else carry - step
        above = carry + step if is_one else carry
        near = _reach(counts[below - step : below][::-1], counts[above : above + step])
        here = int(counts[below - near : below].sum())
        there = int(counts[above : above + near].sum())
        gap = int(counts[below:above].sum())
        least = min(here, there)
        if least >= _STUCK_LEAST and max(here, there) <= 4 * least and gap <= _STUCK_PART * least:
            return True
    return False


def _reach(below: Counts, above: Counts) -> int:
    """Return how far from a gap to look: half of the narrower of the two distributions beside it.

    Both are counted from the gap.
    """
    widths = []
    for side in (below, above):
        cumulated = np.cumsum(side)
        if not cumulated[-1]:
            return 1
        low, high = np.searchsorted(cumulated, np.array([0.16, 0.84]) * cumulated[-1])
        widths.append((int(high) - int(low)) // 2)
    return max(min(widths) // 2, 1)


@numba.njit(cache=True, nogil=True)
def _count_steps(
    pixels: NDArray[np.uint16], start: int, stop: int, stride: int, counts: NDArray[np.uint32]
) -> None:  # pragma: no cover  (compiled)
    """Count the steps from a row to the next, of every `stride`-th row; a step of 0 is 65535."""
    for row in range(0, pixels.shape[0] - 1, stride):
        for column in range(start, stop):
            step = np.int64(pixels[row + 1, column]) - np.int64(pixels[row, column])
            counts[step + 65535] += np.uint32(1)


@numba.njit(cache=True, nogil=True)
def _variance_of_steps(
    pixels: NDArray[np.uint16], start: int, stop: int
) -> float:  # pragma: no cover  (compiled)
    """Return the variance of the steps from a row to the next, ADU^2."""
    ones = squares = np.int64(0)
    for row in range(pixels.shape[0] - 1):
        for column in range(start, stop):
            step = np.int64(pixels[row + 1, column]) - np.int64(pixels[row, column])
            ones += step
            squares += step * step
    number = (pixels.shape[0] - 1) * (stop - start)
    return float((squares - ones * (ones / number)) / max(number - 1, 1))


def noise_std(frame: Frame, quadrant: str, sector: str) -> float:
    """Return the noise of a sector from the steps between neighbours in a column, ADU.

    The standard deviation of the steps over sqrt(2). The slow course of the offset over rows and
    columns (0.4 ADU and more in either) is no noise, nor is the charge that flats leave behind in
    the first columns of the overscan (1 to 2 ADU): neither differs from one row to the next. In
    the image without what is far out (hot pixels), from some pairs of rows: enough for 0.2 %.

    Not a number where there are less than two rows, or no columns.
    """
    detector = frame.detector
    columns = detector.columns_of(_NAMES[sector], is_trimmed=True)  # type: ignore[arg-type]
    rows = frame.raw(quadrant)[frame.vstart : min(frame.vend, detector.image_rows)]
    if rows.shape[0] < 2 or columns.stop <= columns.start:
        return math.nan
    if sector != "img":
        return math.sqrt(float(_variance_of_steps(rows, columns.start, columns.stop)) / 2.0)
    stride = max(rows.shape[0] // _IMAGE_PAIRS, 1)
    counts = np.zeros(2 * 65535 + 1, np.uint32)
    _count_steps(rows, columns.start, columns.stop, stride, counts)
    found = np.flatnonzero(counts)
    steps = counts[found[0] : found[-1] + 1].astype(np.int64)
    return clipped_std_of(steps) / math.sqrt(2.0)


def measure_quadrant(frame: Frame, quadrant: str) -> dict[str, Any]:
    """Return the metrics of a quadrant, ADU and pixels.

    Returns
    -------
    dict
        ``offset_pre``, ``offset_ove``, ``offset_img`` (medians), ``mean_*``, ``std_*`` (see
        :func:`noise_std`), ``npix_zero`` and ``npix_sat`` of all that were read, ``npix`` read,
        ``stuck_bits`` and ``moving_bits``. None for sectors that the detector does not have.
    """
    counts = count_values(frame, quadrant)
    found: dict[str, Any] = {}
    for index, sector in enumerate(SECTORS):
        mean, _ = moments_of(counts[index])
        found[f"offset_{sector}"] = _number(median_of(counts[index]))
        found[f"mean_{sector}"] = _number(mean)
        found[f"std_{sector}"] = _number(noise_std(frame, quadrant, sector))
    whole = counts.sum(axis=0)
    found["npix"] = int(whole.sum())
    found["npix_zero"] = int(whole[0])
    found["npix_sat"] = int(whole[frame.detector.saturation_adu])
    inner = counts[:_REST].sum(axis=0)
    inner[0] = inner[frame.detector.saturation_adu] = 0
    found["stuck_bits"] = stuck_bits(inner, frame.detector.adc_bits)
    found["moving_bits"] = moving_bits(inner, frame.detector.adc_bits)
    return found


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def measure_frame(
    path: str, detector: str, obsid: int, ccd: int, handle: str = "",
    arguments: dict[str, Any] | None = None, is_hashed: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Return all that the check of a test measures of a frame; a worker's task.

    Parameters
    ----------
    detector
        Name or path of its description.
    obsid, ccd
        What the exposure log says it is.
    handle
        Of the test whose own measure is wanted as well; empty for none.
    arguments
        Of that.
    is_hashed
        The digest of the file is wanted, too.

    Returns
    -------
    dict
        ``obsid``, ``ccd``, ``quadrants`` (see :func:`measure_quadrant`), ``found`` of the test's
        own measure, ``blake3``; or ``problem`` where the file cannot be read.
    """
    found: dict[str, Any] = {"obsid": obsid, "ccd": ccd}
    own = None
    if handle:
        # By name: this module stands below the analyses.
        own = importlib.import_module("nightjard.calib.task").load_task(handle).frame_check
    try:
        frame = open_frame(path, load_detector(detector))
        if is_hashed:
            found["blake3"] = frame.blake3()
        found["quadrants"] = {}
        for quadrant in frame.detector.names:
            found["quadrants"][quadrant] = measure_quadrant(frame, quadrant)
            if own is None:
                # The next quadrant takes its memory: new pages cost as much as reading them.
                frame.drop(quadrant)
    except StorageError as error:
        return {**found, "problem": error.message}
    if own is not None:
        found["found"] = own(frame, arguments or {})
    return found
