# SPDX-License-Identifier: BSD-3-Clause
"""Pairs of like flat fields: means and variances of their tiles, noise, covariances."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.calibration.detector import Detector, load_detector
from nightjar.errors import ConfigError
from nightjard.calib.dataset import CcdFrame
from nightjard.calib.frames import open_frame
from nightjard.calib.prepare import MOST_PX, Recipe, prepared
from nightjard.calib.preparing import is_dry, recipes_of
from nightjard.calib.science.covariance import Covariances, pair_covariances
from nightjard.calib.science.linearity_curve import Curve
from nightjard.calib.science.photon_transfer import matched, tile_pairs
from nightjard.calib.science.robust import clipped_moments
from nightjard.calib.tasks.trails import half_scale, leave_trails
from nightjard.calib.tasks.transfer_options import (
    Channel,
    TransferOptions,
    options_of,
    with_units,
)
from nightjard.calib.work import Work

_LAGS = 3  # of the neighbours that the shape of the curve needs


def pairs_of(work: Work, ccd: int) -> Iterator[tuple[int, CcdFrame, CcdFrame]]:
    """Give the pairs of like frames of a CCD: column index, first, second.

    Frames of a column are taken two by two in the order of OBSID; a last one alone is left out.
    """
    for column, frames in work.dataset.by_column(ccd).items():
        lit = [frame for frame in frames if frame.exposure_s > 0]
        for first, second in zip(lit[::2], lit[1::2], strict=False):
            yield column, first, second


def curves_of(work: Work, options: TransferOptions) -> dict[Channel, Curve]:
    """Return the curves that frames are corrected by: those of the options, or of the campaign.

    Raises
    ------
    ConfigError
        They cannot be read.
    """
    path = options.linearity if options.linearity is not None else work.inputs.linearity
    curves = load_curves(path)
    wanted = {(ccd, name) for ccd in work.dataset.ccds for name in work.detector.names}
    if lacking := sorted(wanted - set(curves)) if curves else []:
        work.results.note(
            f"{path} has no curve of {', '.join(f'CCD{ccd} {name}' for ccd, name in lacking)}: "
            "taken as linear"
        )
    return curves


def load_curves(path: Path | str | None) -> dict[Channel, Curve]:
    """Return the curves of a product NL_MODEL; none without a path.

    Raises
    ------
    ConfigError
        It cannot be read.
    """
    if path is None:
        return {}
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)["content"]
        return {
            (int(one["ccd"]), str(one["quadrant"])): Curve.from_json(one["curve"])
            for one in content
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"cannot read curves of non-linearity from {path}: {error!r}; give a product NL_MODEL"
        ) from error


def curve_arguments(curves: Mapping[Channel, Curve], ccd: int) -> dict[str, Any]:
    """Return the curves of a CCD as arguments of a worker."""
    return {quadrant: curve.as_json() for (one, quadrant), curve in curves.items() if one == ccd}


@dataclass(frozen=True)
class Band:
    """Rows of a pair of frames, with all columns.

    Attributes
    ----------
    rows
        Of the canonical quadrant that are here.
    own
        Which of them count; those beside are neighbours.
    tiles
        That lie in it; rows count from its first.
    first, second, bad
        Both above offset (linearised), and what is bad in either.
    """

    quadrant: str
    rows: slice
    own: slice
    tiles: list[tuple[slice, slice]]
    first: NDArray[np.float32]
    second: NDArray[np.float32]
    bad: NDArray[np.bool_]


def bands_of(detector: Detector, most_px: int = MOST_PX) -> list[slice]:
    """Return the rows of the image in order, in parts of whole tiles of `most_px` pixels or so."""
    side, rows = detector.tile_px, detector.image_rows
    if rows * detector.quadrant_shape[1] <= most_px or rows < 2 * side:
        return [slice(0, rows)]
    step = side * max(most_px // (side * detector.quadrant_shape[1]), 1)
    starts = list(range(0, rows - step + 1, step))
    return [slice(start, stop) for start, stop in zip(starts, [*starts[1:], rows], strict=True)]


def band_bytes(detector: Detector, bytes_of_pixel: int) -> int:
    """Return the memory for the largest part of a pair."""
    largest = max(rows.stop - rows.start for rows in bands_of(detector))
    return int(bytes_of_pixel * largest * detector.quadrant_shape[1])


def pair_bands(
    paths: tuple[str, str], detector: Detector, recipe: Mapping[str, Any],
    curves: Mapping[str, Any], halo: int = 0,
) -> Iterator[Band]:
    """Give the image rows of two frames by quadrant and part.

    Parameters
    ----------
    halo
        Rows on either side that are there too.

    Raises
    ------
    StorageError
        A frame or a product cannot be read.
    """
    frames = [open_frame(path, detector) for path in paths]
    how, columns = Recipe.from_json(dict(recipe)), detector.columns_of("image")
    for quadrant in detector.names:
        for own in bands_of(detector):
            rows = slice(max(own.start - halo, 0), min(own.stop + halo, detector.image_rows))
            first, bad = prepared(frames[0], quadrant, how, rows)
            second, bad_too = prepared(frames[1], quadrant, how, rows)
            for frame in frames:
                frame.forget()
            if quadrant in curves:
                curve = Curve.from_json(curves[quadrant])
                for pixels in (first, second):
                    # The scans hold noise of the read-out: no light to be linearised.
                    pixels[:, columns] = linearised(pixels[:, columns], curve)
            inside = slice(own.start - rows.start, own.stop - rows.start)
            tiles = [(slice(y.start - rows.start, y.stop - rows.start), x)
                     for y, x in detector.tiles() if own.start <= y.start < own.stop]  # fmt: skip
            yield Band(quadrant, rows, inside, tiles, first, second, bad | bad_too)


def linearised(pixels: NDArray[np.float32], curve: Curve) -> NDArray[np.float32]:
    """Return pixels as a linear detector would have given them, by a table of whole ADU."""
    top = int(1.1 * curve.full_scale)
    steps = np.arange(top + 1, dtype=np.float64)
    factor = curve.linearised(np.maximum(steps, 1.0)) / np.maximum(steps, 1.0)
    place = np.clip(pixels, 0, top - 1)
    low = place.astype(np.int32)
    table = factor.astype(np.float32)
    # Between whole numbers the factor is interpolated: steps would add noise of their own.
    return pixels * (table[low] + (place - low) * (table[low + 1] - table[low]))


def middles_of(
    images: Sequence[NDArray[np.float32]], bad: NDArray[np.bool_]
) -> tuple[float, ...]:
    """Return the median of a sixteenth of the good pixels of images; NaN where none is good."""
    good = ~bad[::4, ::4]
    return tuple(
        float(np.median(one[::4, ::4][good])) if good.any() else math.nan for one in images
    )


# --- extract_PTC ---


def measure_pair(
    first: str, second: str, detector: str, recipe: dict[str, Any], curves: dict[str, Any],
    clip_sigma: float, has_covariances: bool,
) -> dict[str, Any]:
    """Return means and variances of the tiles of a pair, by quadrant; a worker's.

    Raises
    ------
    StorageError
        A frame or a product cannot be read.
    """
    geometry = load_detector(detector)
    prescan = geometry.columns_of("prescan", is_trimmed=True)
    image = geometry.columns_of("image", is_trimmed=True)
    parts: dict[str, list[dict[str, Any]]] = {}
    for band in pair_bands((first, second), geometry, recipe, curves):
        one, two, bad = band.first, band.second, band.bad
        levels = _levels(geometry, one, two, bad)
        a, b, factor = matched(one, two, levels["first"], levels["second"])
        measured = tile_pairs(a, b, bad, band.tiles, clip_sigma=clip_sigma)
        part: dict[str, Any] = {
            "mean": measured.mean.tolist(), "variance": (measured.variance / factor).tolist(),
            "count": measured.count.tolist(), "rows": len(one), **levels,
        }  # fmt: skip
        good = ~bad[:, prescan]
        if geometry.prescan and good.sum() > 100:
            noise = clipped_moments((one - two)[:, prescan][good], clip_sigma)
            part |= {"noise": noise.variance / 2.0, "noise_count": noise.count}
        if has_covariances:
            lags = pair_covariances(a[:, image], b[:, image], bad[:, image], _LAGS, clip_sigma)
            part["lags"] = lags
        parts.setdefault(band.quadrant, []).append(part)
    return {quadrant: _joined(some) for quadrant, some in parts.items()}


def _joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what was measured in the parts of a quadrant as one."""
    rows = np.array([one["rows"] for one in parts], float)
    joined: dict[str, Any] = {
        name: [value for one in parts for value in one[name]]
        for name in ("mean", "variance", "count")
    }
    for name in ("first", "second"):
        level = np.array([one[name] for one in parts])
        seen = np.isfinite(level)
        joined[name] = float(np.average(level[seen], weights=rows[seen])) if seen.any() else None
    noises = [one for one in parts if "noise" in one]
    if noises:
        counts = [one["noise_count"] for one in noises]
        joined |= {"noise": float(np.average([one["noise"] for one in noises], weights=counts)),
                   "noise_count": sum(counts)}  # fmt: skip
    lags = [one["lags"] for one in parts if "lags" in one]
    if lags:
        values, errors, _ = mean_covariances(lags)
        joined |= {"lags": values.tolist(), "lag_errors": errors.tolist()}
    return joined


def mean_covariances(
    parts: Sequence[Covariances],
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Return values, errors and masked share of parts of one image; those without a pixel left out.

    Pairs of pixels on two sides of an edge of parts are not counted.
    """
    known = [one for one in parts if one.masked < 1.0]
    masked = float(np.mean([one.masked for one in parts]))
    if not known:
        return parts[0].values, parts[0].errors, masked
    weights = np.array([1.0 - one.masked for one in known])
    weights /= weights.sum()
    values = sum(w * one.values for w, one in zip(weights, known, strict=True))
    square = sum((w * one.errors) ** 2 for w, one in zip(weights, known, strict=True))
    return np.asarray(values), np.sqrt(np.asarray(square)), masked


def _levels(
    detector: Detector, one: NDArray[np.float32], two: NDArray[np.float32],
    bad: NDArray[np.bool_],
) -> dict[str, float]:
    """Return the median level of the image of each frame of a pair, ADU."""
    columns = detector.columns_of("image")
    first, second = middles_of((one[:, columns], two[:, columns]), bad[:, columns])
    return {"first": first, "second": second}


def extract_transfer(work: Work) -> None:
    """Measure all pairs; leave the tables PTC, PTC_NOISE, PTC_LAGS."""
    if is_dry(work):
        return
    options, recipes = options_of(work), recipes_of(work)
    curves = curves_of(work, options)
    jobs = [(ccd, *pair) for ccd in work.dataset.ccds for pair in pairs_of(work, ccd)]
    _note_alone(work)
    seen: dict[tuple[int, int], int] = {}
    items = []
    for ccd, column, first, second in jobs:
        seen[ccd, column] = seen.get((ccd, column), 0) + 1
        items.append(
            {"first": str(first.path), "second": str(second.path),
             "detector": work.detector_name, "recipe": recipes[ccd].as_json(),
             "curves": curve_arguments(curves, ccd), "clip_sigma": options.clip_sigma,
             "has_covariances": seen[ccd, column] <= 2 and options.neighbours is None}
        )  # fmt: skip
    found = work.map(
        measure_pair, items, stage="pairs measured", memory_bytes=band_bytes(work.detector, 30)
    )
    _leave_pairs(work, jobs, found, options)
    levels = [
        [one["first"] for one in quadrants.values() if one["first"] is not None]
        for quadrants in found
    ]
    leave_trails(work, options, half_scale(work, jobs, levels))


def _note_alone(work: Work) -> None:
    for ccd in work.dataset.ccds:
        for frames in work.dataset.by_column(ccd).values():
            lit = [frame for frame in frames if frame.exposure_s > 0]
            if len(lit) % 2 and len(lit) > 1:
                work.results.note(
                    f"CCD{ccd}, {lit[-1].label}: OBSID {lit[-1].obsid} has no other to be paired "
                    f"with and is left out"
                )


def _leave_pairs(
    work: Work, jobs: list[tuple[int, int, CcdFrame, CcdFrame]], found: list[dict[str, Any]],
    options: TransferOptions,
) -> None:
    points: list[dict[str, Any]] = []
    noise: list[dict[str, Any]] = []
    lags: list[dict[str, Any]] = []
    for (ccd, _, first, second), quadrants in zip(jobs, found, strict=True):
        for quadrant, one in quadrants.items():
            where = {"ccd": ccd, "quadrant": quadrant, "column": first.label,
                     "first": first.obsid, "second": second.obsid}  # fmt: skip
            if one["first"] is None or one["second"] is None:
                continue  # not a good pixel
            middle = 0.5 * (one["first"] + one["second"])
            if not abs(one["first"] - one["second"]) <= options.pair_difference * middle:
                work.results.note(
                    f"CCD{ccd} {quadrant}: OBSIDs {first.obsid} and {second.obsid} are no pair: "
                    f"{one['first']:.0f} and {one['second']:.0f} ADU"
                )
                continue
            points += [
                {**where, "tile": tile, "mean": mean, "variance": variance, "count": count}
                for tile, (mean, variance, count) in enumerate(
                    zip(one["mean"], one["variance"], one["count"], strict=True)
                ) if count
            ]  # fmt: skip
            if "noise" in one:
                noise.append({**where, "variance": one["noise"], "count": one["noise_count"]})
            if "lags" in one:
                values, errors = np.array(one["lags"]), np.array(one["lag_errors"])
                lags += [
                    {**where, "mean": middle, "row_lag": row, "column_lag": column,
                     "covariance": values[row, column], "error": errors[row, column]}
                    for row in range(_LAGS) for column in range(_LAGS)
                ]  # fmt: skip
    captions = {
        "PTC": (points, "Mean and variance of the tiles of all pairs"),
        "PTC_NOISE": (noise, "Variance of the prescan of all pairs"),
        "PTC_LAGS": (lags, "Covariances with the next pixels"),
    }
    for name, (rows, caption) in captions.items():
        if rows:
            work.results.table(name, with_units(rows), caption=caption, show=False)
    if not points:
        work.results.flag("BADDATAPROD", cause="there is no pair of like flat fields")
