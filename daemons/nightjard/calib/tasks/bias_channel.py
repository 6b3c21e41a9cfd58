# SPDX-License-Identifier: BSD-3-Clause
"""All that is measured of one quadrant over the frames of a bias test; a worker's task."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.calibration.detector import Detector, load_detector
from nightjard.calib.frames import Frame, open_frame
from nightjard.calib.prepare import (
    MOST_PX,
    Recipe,
    clipped_mean_of_counts,
    offset_of,
    parts_of,
    prepared,
)
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
_MOST_BYTES = 450_000_000
_BYTES_OF_PIXEL = 60  # of a strip, beside four of every frame
#: Charge in a pixel has a noise of its own. Found in the mean of frames, which tells nothing of
#: the differences that the noise is measured in, so that the choice makes no noise smaller.
_CHARGED_SIGMA = 5.0
_MOST_CHARGED = 0.2
_MOST_LOST = 0.5  # share of bad pixels from which on a frame is lost


def channel_strips(detector: Detector, frames: int) -> list[slice]:
    """Return rows of a quadrant that are analysed at a time: all that memory allows.

    For ten frames that is the whole quadrant of ccd273.
    """
    rows, columns = detector.quadrant_shape
    # What must be cut anyway leaves room for what all strips hold together.
    most = _MOST_BYTES if rows * columns <= MOST_PX else 2 * _MOST_BYTES // 3
    return parts_of(detector, most // (4 * frames + _BYTES_OF_PIXEL))


def channel_bytes(detector: Detector, frames: int) -> int:
    """Return the memory of :func:`analyse_channel`."""
    strip = channel_strips(detector, frames)[0]
    pixels: int = (strip.stop - strip.start) * detector.quadrant_shape[1]
    return pixels * (4 * frames + _BYTES_OF_PIXEL)


def analyse_channel(
    paths: list[str], detector: str, ccd: int, quadrant: str, recipe: dict[str, Any],
    line_s: float, degree: int, box_px: int, spectrum_frames: int, most_lines: int, out: str,
) -> dict[str, Any]:  # fmt: skip
    """Measure a quadrant over all frames.

    A large quadrant is analysed in strips of rows: each has its smooth model; the spectrum is that
    of the first, which is read first.

    Returns
    -------
    dict
        ``levels`` of the sectors of each frame; ``ron`` of sectors from differences, ``ron_model``
        about a smooth model, [value, error], ADU; ``charged``, pixels of the image that hold charge
        and do not count in its noise; ``lines``, ``converter``; ``used``, numbers of the frames
        that are not lost: the others take no part. Arrays are in `out`: ``mean_hor``, ``std_hor``,
        ``mean_ver``, ``std_ver``, ``hertz``, ``power``, ``highest``, ``stream`` (of the first used
        frames, one each).

    Raises
    ------
    StorageError
        A frame or a product cannot be read.
    """
    geometry = load_detector(detector)
    wanted = Recipe.from_json(recipe)
    opened = [open_frame(path, geometry) for path in paths]
    levels = [_Levels(geometry) for _ in opened]
    strips: list[_Strip] = []
    arrays: dict[str, Any] = {}
    lines: list[dict[str, float]] = []
    used: list[int] = []
    for rows in channel_strips(geometry, len(opened)):
        frames, bad, used = _read(opened, levels, quadrant, wanted, rows, used)
        strips.append(_measured(geometry, frames, bad, rows, degree, box_px))
        if not arrays:
            arrays, lines = _noise_of_order(frames, line_s, spectrum_frames, most_lines)
    np.savez(out, **arrays, **_profiles(strips, len(used)))
    models = [joined([strip.models[n] for strip in strips]) for n in range(len(used))]
    of_frame = dict(zip(used, models, strict=True))
    hints = converter_hints(np.sum([one.converter for one in levels], axis=0))
    return {
        "ccd": ccd, "quadrant": quadrant,
        "levels": _levels_of(geometry, levels, opened, quadrant, used), "used": used,
        "ron": {name: _plain(joined([strip.ron[name] for strip in strips])) for name in _SECTORS},
        "charged": sum(strip.charged for strip in strips),
        "ron_model": _plain(_averaged(models)),
        "ron_models": [
            _plain(of_frame[n])[0] if n in of_frame else None for n in range(len(opened))
        ],
        "lines": lines, "converter": hints._asdict(), "out": out,
    }  # fmt: skip


def _read(
    frames: list[Frame], levels: list[_Levels], quadrant: str, recipe: Recipe, rows: slice,
    used: list[int],
) -> tuple[list[Floats], Bad, list[int]]:
    """Return a strip of the used frames, which of its pixels are bad in any, the frames' numbers.

    A frame that is lost (most of it 0 or saturated) would make every pixel bad, and its offset is
    a jump: the first strip tells. Where all are lost, the first stands for them.
    """
    taken: dict[int, Floats] = {}
    bad: Bad | None = None
    lost: tuple[int, Floats, Bad] | None = None
    for number, (frame, own_levels) in enumerate(zip(frames, levels, strict=True)):
        pixels, own = prepared(frame, quadrant, recipe, rows)
        own_levels.add(frame, quadrant, own, rows)
        frame.forget()
        if number in used if used else own.mean() < _MOST_LOST:
            taken[number] = pixels
            bad = own if bad is None else bad | own
        elif lost is None:
            lost = number, pixels, own
    if bad is None:
        assert lost is not None, "there is a frame"
        number, pixels, bad = lost
        taken = {number: pixels}
    return list(taken.values()), bad, list(taken)


def joined(parts: list[Measured]) -> Measured:
    """Return the noise of several parts together: mean of their variances, by their errors."""
    known = [one for one in parts if math.isfinite(one.value) and one.error > 0]
    if len(known) < 2 or len(parts) == 1:
        return (known or parts)[0]
    values, errors = np.array(known).T
    weights = 1.0 / errors**2
    return Measured(math.sqrt(float(np.average(values**2, weights=weights))),
                    1.0 / math.sqrt(float(weights.sum())))  # fmt: skip


class _Levels:
    """How often each value occurs in the sectors of a frame, strip by strip."""

    def __init__(self, detector: Detector) -> None:
        self._columns = _scan_columns(detector)
        self.sectors = {name: np.zeros(65536, np.int64) for name in _SECTORS}
        self.converter = np.zeros(65536, np.int64)

    def add(self, frame: Frame, quadrant: str, bad: Bad, rows: slice) -> None:
        """Count the rows of a strip that were read."""
        detector = frame.detector
        raw = frame.band(quadrant, rows.start, rows.stop)
        first = max(frame.vstart - rows.start, 0)
        whole = slice(first, max(frame.vend - rows.start, 0))
        self.converter += _counts(raw[whole, self._columns])
        inner = slice(first, max(min(frame.vend, detector.image_rows) - rows.start, 0))
        for name, sector in _SECTORS.items():
            columns = detector.columns_of(sector, is_trimmed=True)  # type: ignore[arg-type]
            good = raw[inner, columns][~bad[inner, columns]]
            self.sectors[name] += _counts(good)


def _counts(values: NDArray[np.uint16]) -> NDArray[np.int64]:
    """Return how often each value occurs; numpy would make 8 bytes of each value at once."""
    flat = values.ravel()
    counts = np.zeros(65536, np.int64)
    for first in range(0, flat.size, 1 << 18):
        counts += np.bincount(flat[first : first + (1 << 18)], minlength=65536)
    return counts


def _levels_of(
    detector: Detector, levels: list[_Levels], frames: list[Frame], quadrant: str, used: list[int]
) -> dict[str, list[float | None]]:
    """Return the levels of the sectors of each frame, and what its offset was taken from."""
    found: dict[str, list[float | None]] = {
        name: [
            clipped_mean_of_counts(one.sectors[name]) if one.sectors[name].any() else None
            for one in levels
        ]
        for name in _SECTORS
    }
    found["reference"] = found["img"]
    if detector.offset_sector != "none":
        found["reference"] = []
        for number, one in enumerate(frames):
            level = float(offset_of(one, quadrant, "median")[one.vstart])
            found["reference"].append(level if number in used else None)
            one.forget()
    return found


@dataclass(frozen=True)
class _Strip:
    """What is measured of the rows of a strip: of its pixels nothing is kept."""

    ron: dict[str, Measured]
    models: list[Measured]
    charged: int
    mean_row: NDArray[np.float64]
    mean_column: NDArray[np.float64]
    squares_row: NDArray[np.float64]
    squares_column: NDArray[np.float64]


def _cut(detector: Detector, array: NDArray[Any], sector: str, rows: slice) -> NDArray[Any]:
    """Return the view of a trimmed sector of a strip, without the parallel overscan."""
    columns = detector.columns_of(sector, is_trimmed=True)  # type: ignore[arg-type]
    return array[: max(min(rows.stop, detector.image_rows) - rows.start, 0), columns]


def _measured(
    detector: Detector, frames: list[Floats], bad: Bad, rows: slice, degree: int, box_px: int
) -> _Strip:
    """Measure a strip; the frames are left without their mean."""
    inside = slice(0, max(min(rows.stop, detector.image_rows) - rows.start, 0))
    area = (inside, detector.columns_of("image"))
    models = [_about_model(one[area], bad[area], degree, box_px) for one in frames]
    mean = np.zeros_like(frames[0])
    for one in frames:
        mean += one
    mean /= np.float32(len(frames))
    charged = _charged(mean[area], bad[area], degree, box_px) if len(frames) > 1 else None
    ron = {}
    for name, sector in _SECTORS.items():
        unused = bad
        if name == "img" and charged is not None:
            unused = bad.copy()
            unused[area] |= charged
        cut = [_cut(detector, one, sector, rows) for one in frames]
        mask = _cut(detector, unused, sector, rows)
        ron[name] = (
            noise_of_differences(cut, ~mask if mask.any() else None) if cut[0].size
            else Measured(math.nan, math.nan)
        )  # fmt: skip
    mean[bad] = 0.0
    squares_row, squares_column = _without_mean(frames, mean, bad)
    count = 0 if charged is None else int(charged.sum())
    means = [mean.mean(axis=axis, dtype=np.float64) for axis in (1, 0)]
    return _Strip(ron, models, count, means[0], means[1], squares_row, squares_column)


def _charged(mean: Floats, bad: Bad, degree: int, box_px: int) -> Bad | None:
    """Return which pixels hold charge, hot ones and hot columns; None where most would."""
    if mean.size < 2:
        return None
    gaps = mean - smooth_model(mean, bad, box_px, degree, clip_sigma=6.0)
    charged: Bad = (gaps > _CHARGED_SIGMA * clipped_std(gaps).value) & ~bad
    return charged if charged.mean() < _MOST_CHARGED else None


def _plain(one: Measured) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in one]


def _scan_columns(detector: Detector) -> NDArray[np.int64]:
    """Return the columns of the trimmed scans; those of the image where there is none."""
    columns = np.arange(detector.quadrant_shape[1])
    scans = [columns[detector.columns_of(one, is_trimmed=True)] for one in ("prescan", "overscan")]
    chosen = np.concatenate(scans)
    return chosen if len(chosen) else columns


def _about_model(image: Floats, mask: Bad, degree: int, box_px: int) -> Measured:
    if not image.size:
        return Measured(math.nan, math.nan)
    gaps = image - smooth_model(image, mask, box_px, degree, clip_sigma=6.0)
    return clipped_std(gaps[~mask] if mask.any() else gaps)


def _averaged(models: list[Measured]) -> Measured:
    """Return the median over frames, and its error from theirs."""
    values = np.array([one.value for one in models])
    errors = np.array([one.error for one in models])
    factor = math.sqrt(math.pi / 2) if len(models) > 2 else 1.0
    return Measured(float(np.median(values)),
                    factor * float(np.mean(errors)) / math.sqrt(len(models)))  # fmt: skip


def _without_mean(
    frames: list[Floats], mean: Floats, bad: Bad
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Take the mean from the frames, in place; return the mean squares of rows and columns."""
    squares_row = np.zeros(mean.shape[0])
    squares_column = np.zeros(mean.shape[1])
    for gaps in frames:
        gaps -= mean if len(frames) > 1 else smooth_model(gaps, bad, 42)
        gaps -= np.float32(gaps.mean(dtype=np.float64))  # its offset would be a line at 0 Hz
        gaps[bad] = 0.0
        limit = np.float32(8.0 * clipped_std(gaps).value)
        gaps[np.abs(gaps) > limit] = 0.0  # cosmic rays would fill the whole spectrum
        squares = gaps * gaps
        squares_row += squares.mean(axis=1, dtype=np.float64)
        squares_column += squares.mean(axis=0, dtype=np.float64)
    return squares_row, squares_column


def _boost(frames: int) -> float:
    """Return by how much a variance is too small because the mean holds a part of the noise."""
    return frames / (frames - 1) if frames > 1 else 1.0


def _profiles(strips: list[_Strip], frames: int) -> dict[str, Any]:
    """Return mean and noise of columns (``hor``) and rows (``ver``)."""
    factor = _boost(frames) / frames
    weights = [len(strip.mean_row) for strip in strips]
    along = [strip.mean_column for strip in strips]
    squares = np.average([strip.squares_column for strip in strips], axis=0, weights=weights)
    down = np.concatenate([strip.mean_row for strip in strips])
    return {
        "mean_hor": np.average(along, axis=0, weights=weights), "mean_ver": down,
        "std_hor": np.sqrt(squares * factor),
        "std_ver": np.sqrt(np.concatenate([strip.squares_row for strip in strips]) * factor),
    }  # fmt: skip


def _noise_of_order(
    residuals: list[Floats], line_s: float, spectrum_frames: int, most_lines: int
) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """Return spectrum and lines of what is left of the frames without their mean; changes them."""
    count = len(residuals)
    boost = _boost(count)
    timing = Timing(PIXEL_S, line_s)
    del residuals[spectrum_frames:]  # spectra want memory
    stream = np.stack([one[:_STREAM_ROWS].ravel() for one in residuals[:_STREAM_FRAMES]])
    spectrum = spectrum_of(residuals, timing)
    hertz, power, highest = binned(spectrum)
    lines = find_lines(
        residuals, spectrum, timing, frames_in_mean=count if count > 1 else 0, most=most_lines
    )
    arrays = {
        "hertz": hertz, "power": power * boost, "highest": highest * boost, "stream": stream,
    }  # fmt: skip
    return arrays, [asdict(one) for one in lines]
