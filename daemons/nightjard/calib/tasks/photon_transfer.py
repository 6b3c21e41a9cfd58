# SPDX-License-Identifier: BSD-3-Clause
"""PTC01, PTC02: gain, read noise, brighter-fatter term, full well, transfer inefficiency.

Tables that are left: ``PTC`` (a tile of a pair a row), ``PTC_NOISE`` (the prescan of a pair),
``PTC_LAGS`` (covariances with the next pixels), ``GAIN_TB``, ``HER`` and ``HER_profiles``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from nightjar.calibration.detector import Detector, load_detector
from nightjar.config.load import StrictModel
from nightjar.errors import ConfigError
from nightjard.calib.checks import check
from nightjard.calib.dataset import CcdFrame
from nightjard.calib.frames import open_frame
from nightjard.calib.prepare import Recipe, prepared
from nightjard.calib.preparing import PREPARE_WORKERS, is_dry, prep_subtask, recipes_of
from nightjard.calib.science.covariance import Coefficients, fit_coefficients, pair_covariances
from nightjard.calib.science.edge_response import (
    Edge,
    inefficiency,
    merged,
    parallel_edge,
    serial_edge,
)
from nightjard.calib.science.full_well import FullWell, find_knee
from nightjard.calib.science.linearity_curve import Curve
from nightjard.calib.science.photon_transfer import (
    Points,
    Transfer,
    bootstrap,
    fit_transfer,
    tile_pairs,
    trailing_factors,
)
from nightjard.calib.science.robust import clipped_moments
from nightjard.calib.task import Subtask, Task
from nightjard.calib.tasks import flux
from nightjard.calib.work import Work

if TYPE_CHECKING:
    from astropy.table import Table

Channel = tuple[int, str]

_LAGS = 2  # of the neighbours that the shape of the curve needs
_MOST_CHI2 = 2.0


class TransferOptions(StrictModel):
    """What a campaign may set for photon transfer."""

    model: Literal["exponential", "quadratic"] = Field(
        "exponential", description="Shape of the curve: with the brighter-fatter effect, or a "
        "parabola.",
    )  # fmt: skip
    fit_from: float = Field(0.015, gt=0, lt=1, description="Lowest level of the fit, full scale 1.")
    fit_to: float = Field(0.75, gt=0, le=1.2, description="Highest level of the fit.")
    full_well_from: float = Field(
        0.45, gt=0, lt=1, description="The knee of the full well is looked for above."
    )
    neighbours: float | None = Field(
        None, ge=1, le=3, description="Sum of the squares of all brighter-fatter coefficients by "
        "that of the pixel's own; null: from the covariances of the same frames.",
    )  # fmt: skip
    clip_sigma: float = Field(4.5, ge=3, le=20, description="Pixels of a difference further out "
                              "do not count.")  # fmt: skip
    draws: int = Field(100, ge=0, le=10000, description="Repetitions of the bootstrap.")
    pair_difference: float = Field(
        0.1, gt=0, le=1, description="Pairs whose levels differ by more are left out."
    )
    linearity: str | None = Field(
        None, description="Product NL_MODEL of a linearity test; the frames are corrected by it."
    )
    is_transfer_corrected: bool = Field(
        True, description="Gives the curves the variance back that trailing charge smooths away."
    )
    edge_from: float = Field(0.15, gt=0, lt=1, description="Lowest level of rows and columns whose "
                             "trail is measured, full scale 1.")  # fmt: skip
    edge_to: float = Field(0.77, gt=0, lt=1.2, description="Highest level.")


def options_of(work: Work) -> TransferOptions:
    """Return the options for photon transfer, whatever else the task's own model has."""
    known = {key: value for key, value in work.options.items()
             if key in TransferOptions.model_fields}  # fmt: skip
    return TransferOptions.model_validate(known)


# --- pairs ---


def pairs_of(work: Work, ccd: int) -> Iterator[tuple[int, CcdFrame, CcdFrame]]:
    """Give the pairs of like frames of a CCD: column index, first, second.

    Frames of a column are taken two by two in the order of OBSID; a last one alone is left out.
    """
    for column, frames in work.dataset.by_column(ccd).items():
        lit = [frame for frame in frames if frame.exposure_s > 0]
        for first, second in zip(lit[::2], lit[1::2], strict=False):
            yield column, first, second


def load_curves(path: str | None) -> dict[Channel, Curve]:
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
            f"options.linearity: cannot read {path}: {error}; give a product NL_MODEL"
        ) from error


def curve_arguments(curves: Mapping[Channel, Curve], ccd: int) -> dict[str, Any]:
    """Return the curves of a CCD as arguments of a worker."""
    return {quadrant: curve.as_json() for (one, quadrant), curve in curves.items() if one == ccd}


def pair_pixels(
    paths: tuple[str, str], detector: Detector, recipe: Mapping[str, Any],
    curves: Mapping[str, Any],
) -> Iterator[tuple[str, NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]]:
    """Give the quadrants of two frames: name, both above offset (linearised), bad of either.

    Raises
    ------
    StorageError
        A frame or a product cannot be read.
    """
    frames = [open_frame(path, detector) for path in paths]
    how = Recipe.from_json(dict(recipe))
    for quadrant in detector.names:
        first, bad = prepared(frames[0], quadrant, how)
        second, bad_too = prepared(frames[1], quadrant, how)
        for frame in frames:
            frame.forget()
        if quadrant in curves:
            curve = Curve.from_json(curves[quadrant])
            first, second = linearised(first, curve), linearised(second, curve)
        yield quadrant, first, second, bad | bad_too


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
    found: dict[str, Any] = {}
    tiles = geometry.tiles()
    for quadrant, one, two, bad in pair_pixels((first, second), geometry, recipe, curves):
        measured = tile_pairs(one, two, bad, tiles, clip_sigma=clip_sigma)
        entry: dict[str, Any] = {
            "mean": measured.mean.tolist(), "variance": measured.variance.tolist(),
            "count": measured.count.tolist(), **_levels(geometry, one, two, bad),
        }  # fmt: skip
        scan = (slice(0, geometry.image_rows), geometry.columns_of("prescan", is_trimmed=True))
        good = ~bad[scan]
        if geometry.prescan and good.sum() > 100:
            noise = clipped_moments((one[scan] - two[scan])[good], clip_sigma)
            entry |= {"noise": noise.variance / 2.0, "noise_count": noise.count}
        if has_covariances:
            area = (slice(0, geometry.image_rows), geometry.columns_of("image", is_trimmed=True))
            lags = pair_covariances(one[area], two[area], bad[area], _LAGS, clip_sigma)
            entry |= {"lags": lags.values.tolist(), "lag_errors": lags.errors.tolist()}
        found[quadrant] = entry
    return found


def _levels(
    detector: Detector, one: NDArray[np.float32], two: NDArray[np.float32],
    bad: NDArray[np.bool_],
) -> dict[str, float]:
    """Return the median level of each frame of a pair, ADU, of a sixteenth of the pixels."""
    area = (slice(0, detector.image_rows, 4), detector.columns_of("image"))
    good = ~bad[area]
    good[:, 1::4] = good[:, 2::4] = good[:, 3::4] = False
    if not good.any():
        return {"first": math.nan, "second": math.nan}
    return {"first": float(np.median(one[area][good])), "second": float(np.median(two[area][good]))}


def extract_transfer(work: Work) -> None:
    """Measure all pairs; leave the tables PTC, PTC_NOISE, PTC_LAGS."""
    if is_dry(work):
        return
    options, recipes = options_of(work), recipes_of(work)
    curves = load_curves(options.linearity)
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
    rows, columns = work.detector.quadrant_shape
    found = work.map(measure_pair, items, stage="pairs measured", memory_bytes=30 * rows * columns)
    _leave_pairs(work, jobs, found, options)
    leave_trails(work, options)


def leave_trails(work: Work, options: TransferOptions) -> None:
    """Leave the table PTC_TRAILS: profiles of the frames nearest to half of full scale."""
    frames = [frame for ccd in work.dataset.ccds for frame in half_scale(work, ccd)]
    gathered: dict[tuple[int, str, str], list[Edge]] = {}
    for frame, quadrants in zip(frames, edges_of(work, frames, options), strict=True):
        for quadrant, both in quadrants.items():
            for direction, document in both.items():
                key = (frame.ccd, quadrant, direction)
                gathered.setdefault(key, []).append(edge_of(document))
    rows = []
    for (ccd, quadrant, direction), edges in sorted(gathered.items()):
        edge = merged(edges)
        levels = np.concatenate([edge.image, edge.trail])
        errors = np.concatenate([np.full(edge.image.size, np.nan), edge.error])
        rows += [
            {"ccd": ccd, "quadrant": quadrant, "direction": direction,
             "pixel": pixel - edge.image.size, "level": float(levels[pixel]),
             "level_error": float(errors[pixel]), "lines": edge.lines}
            for pixel in range(levels.size)
        ]  # fmt: skip
    if rows:
        work.results.table("PTC_TRAILS", with_units(rows, _EDGE_UNITS), show=False,
                           caption="Last pixels of the image and those behind it")  # fmt: skip


def trails_of(table: Any, channel: Channel) -> dict[str, Edge]:
    """Return the profiles of a quadrant by direction; none without a table."""
    edges: dict[str, Edge] = {}
    if table is None:
        return edges
    rows = rows_of(table, channel)
    for direction in sorted(set(rows["direction"])):
        one = rows[np.asarray(rows["direction"] == direction)]
        level, behind = np.asarray(one["level"], float), np.asarray(one["pixel"]) >= 0
        error = np.asarray(one["level_error"], float)
        edges[str(direction)] = Edge(
            level[~behind], level[behind], error[behind], int(one["lines"][0])
        )
    return edges


def _note_alone(work: Work) -> None:
    for ccd in work.dataset.ccds:
        for frames in work.dataset.by_column(ccd).values():
            lit = [frame for frame in frames if frame.exposure_s > 0]
            if len(lit) % 2:
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


_UNITS = {
    "mean": "adu", "variance": "adu2", "covariance": "adu2", "error": "adu2",
    "gain": "electron / adu", "gain_error": "electron / adu", "gain_bootstrap": "electron / adu",
    "alpha": "1 / electron", "alpha_error": "1 / electron", "alpha_bootstrap": "1 / electron",
    "read_noise": "electron", "read_noise_error": "electron", "bloom": "adu",
    "bloom_error": "adu", "bloom_e": "electron",
}  # fmt: skip


_EDGE_UNITS = {"signal": "adu", "base": "adu", "level": "adu", "level_error": "adu", "tail": "pix"}


def with_units(rows: list[dict[str, Any]], units: Mapping[str, str] | None = None) -> Table:
    """Return rows as a table whose columns have units."""
    from astropy.table import Table

    table = Table(rows=rows)
    for name in table.colnames:
        if unit := (units or {}).get(name, _UNITS.get(name)):
            table[name].unit = unit
    return table


# --- meta ---


def channels_of(table: Table) -> list[Channel]:
    """Return the (CCD, quadrant) of a table, in order."""
    return sorted({(int(row["ccd"]), str(row["quadrant"])) for row in table})


def rows_of(table: Table, channel: Channel) -> Any:
    """Return the rows of a quadrant."""
    ccd, quadrant = channel
    return table[np.asarray((table["ccd"] == ccd) & (table["quadrant"] == quadrant))]


def optional_table(work: Work, subtask: str, name: str) -> Any:
    """Return a table of an earlier sub-task, None where it left none of that name."""
    names = {entry["name"] for entry in work.earlier(subtask)["tables"]}
    return work.table(subtask, name) if name in names else None


def points_of(table: Any, noise: Any, channel: Channel) -> Points:
    """Return the points of a quadrant: tiles of pairs, and the noise of the prescan at no light."""
    one = rows_of(table, channel)
    mean, variance, count = (
        np.asarray(one[name], np.float64) for name in ("mean", "variance", "count")
    )
    lit = Points(mean, variance, count, np.asarray(one["tile"], np.int64))
    if noise is None:
        return lit
    dark = rows_of(noise, channel)
    return Points(
        np.concatenate([lit.mean, np.zeros(len(dark))]),
        np.concatenate([lit.variance, np.asarray(dark["variance"], np.float64)]),
        np.concatenate([lit.count, np.asarray(dark["count"], np.float64)]),
        np.concatenate([lit.tile, np.full(len(dark), -1, np.int64)]),
    )


def fit_points(
    points: Points, options: TransferOptions, full_scale: float, neighbours: float
) -> tuple[Transfer, FullWell]:
    """Fit the curve of a quadrant and find its knee; the fit stays below it.

    Raises
    ------
    ValueError
        Too few points.
    """
    high = options.fit_to * full_scale
    for _ in range(4):
        inside = (points.tile < 0) | (
            (points.mean > options.fit_from * full_scale) & (points.mean < high)
        )
        fit = fit_transfer(points.chosen(inside), model=options.model, neighbours=neighbours)
        well = find_knee(points, fit, from_adu=min(options.full_well_from * full_scale, high))
        if math.isnan(well.onset) or 0.93 * well.onset >= high:
            break
        high = 0.93 * well.onset
    return fit, well


def neighbours_of(
    lags: Any, channel: Channel, gain: float, options: TransferOptions, full_scale: float
) -> float:
    """Return the sum of squares of all coefficients by that of the pixel's own, from covariances.

    1 (the plain closed form) where there are too few levels.
    """
    if options.neighbours is not None:
        return options.neighbours
    fitted = None if lags is None else lag_coefficients(
        rows_of(lags, channel), gain, options.fit_from * full_scale, options.fit_to * full_scale
    )  # fmt: skip
    if fitted is None or fitted.values[0, 0] >= 0:
        return 1.0
    squares = fitted.values**2
    total = squares[0, 0] + 2 * squares[0, 1:].sum() + 2 * squares[1:, 0].sum()
    total += 4 * squares[1:, 1:].sum()
    return float(np.clip(total / squares[0, 0], 1.0, 1.6))


def lag_coefficients(rows: Any, gain: float, low: float, high: float) -> Coefficients | None:
    """Return coefficients per electron from rows of covariances; None with too few levels."""
    rows = rows[np.asarray((rows["mean"] > low) & (rows["mean"] < high))]
    lags = int(max(rows["row_lag"])) + 1 if len(rows) else 0
    levels, values, errors = [], [], []
    for label in sorted(set(rows["column"])):
        one = rows[np.asarray(rows["column"] == label)]
        count = len(one) // lags**2
        levels.append(float(np.mean(one["mean"])))
        square = [np.zeros((lags, lags)), np.zeros((lags, lags))]
        for row in one:
            place = (int(row["row_lag"]), int(row["column_lag"]))
            square[0][place] += row["covariance"] / count
            square[1][place] += (row["error"] / count) ** 2
        values.append(square[0])
        errors.append(np.sqrt(square[1]))
    if len(levels) < 4:
        return None
    return fit_coefficients(
        np.array(levels) * gain, np.array(values) * gain**2, np.array(errors) * gain**2
    )


def meta(work: Work) -> None:
    """Fit gain, brighter-fatter term, read noise and full well of every quadrant."""
    if is_dry(work):
        return
    table = optional_table(work, "extract_PTC", "PTC")
    if table is None:
        work.results.flag("BADDATAPROD", cause="there are no pairs, hence no gain")
        return
    noise = optional_table(work, "extract_PTC", "PTC_NOISE")
    lags = optional_table(work, "extract_PTC", "PTC_LAGS")
    trails = optional_table(work, "extract_PTC", "PTC_TRAILS")
    rows, lines, maps = [], {}, {}
    for number, channel in enumerate(channels_of(table)):
        points = points_of(table, noise, channel)
        if options_of(work).is_transfer_corrected:
            points = points.restored(_factors(work, trails, channel))
        try:
            fitted = _fit_channel(work, channel, points, lags, number)
        except (ValueError, np.linalg.LinAlgError) as error:
            work.results.flag("BADFIT", cause=f"CCD{channel[0]} {channel[1]}: {error}",
                              ccd=channel[0], quadrant=channel[1])  # fmt: skip
            continue
        row, fit, well = fitted
        rows.append(row)
        lines[channel] = (points, fit, well)
        maps[channel] = well_map(work, points, fit)
    if not rows:
        return
    work.results.table("GAIN_TB", with_units(rows), caption="Gain, noise, full well")
    _leave_maps(work, maps)
    draw_curves(work, lines)


def _factors(work: Work, trails: Any, channel: Channel) -> NDArray[np.float64]:
    """Return what trailing charge makes of the variance of each tile; 1 where it is not seen."""
    shares = {"serial": 0.0, "parallel": 0.0}
    for direction, edge in trails_of(trails, channel).items():
        found = inefficiency(edge, transfers_of(work.detector)[direction])
        if found.cti > 3.0 * found.error:
            shares[direction] = found.cti
    factors = trailing_factors(work.detector.tiles(), shares["serial"], shares["parallel"])
    work.results.value("variance_left", float(factors.mean()), ccd=channel[0],
                       quadrant=channel[1], note="by trailing charge; corrected")  # fmt: skip
    return factors


def _fit_channel(
    work: Work, channel: Channel, points: Points, lags: Any, seed: int
) -> tuple[dict[str, Any], Transfer, FullWell]:
    options, full = options_of(work), float(work.detector.adc_full_scale)
    fit, well = fit_points(points, options, full, 1.0)
    ratio = neighbours_of(lags, channel, fit.gain, options, full)
    if ratio != 1.0:
        fit, well = fit_points(points, options, full, ratio)
    high = 0.93 * well.onset if well.onset < options.fit_to * full else options.fit_to * full
    inside = points.chosen(
        (points.tile < 0) | ((points.mean > options.fit_from * full) & (points.mean < high))
    )
    drawn = bootstrap(inside, fit, options.draws, seed) if options.draws else (math.nan,) * 3
    return record_fit(work, channel, fit, well, drawn), fit, well


def record_fit(
    work: Work, channel: Channel, fit: Transfer, well: FullWell, drawn: tuple[float, float, float]
) -> dict[str, Any]:
    """Record the values of a quadrant; return its row of the table."""
    results, gain, excess = work.results, fit.gain, fit.excess
    where: dict[str, Any] = {"ccd": channel[0], "quadrant": channel[1]}
    gain_error, alpha_error = fit.gain_error * excess, fit.alpha_error * excess
    noise_error = math.hypot(fit.noise_error_adu * gain, fit.noise_adu * gain_error)
    results.value("gain", gain, error=gain_error, unit="e-/ADU", **where)
    results.value("alpha", fit.alpha, error=alpha_error, unit="1/e-", **where)
    results.value("read_noise", fit.noise_adu * gain, error=noise_error, unit="e-", **where)
    results.value("read_noise_adu", fit.noise_adu, error=fit.noise_error_adu, unit="ADU", **where)
    note = "" if well.is_reached else "lower limit: the highest level shows no knee"
    error = well.error if well.is_reached else None
    results.value("bloom_full_well", well.level, error=error, unit="ADU", note=note, **where)
    error_e = None if error is None else math.hypot(well.error * gain, well.level * gain_error)
    results.value("bloom_full_well_e", well.level * gain, error=error_e, unit="e-", note=note,
                  **where)  # fmt: skip
    quality = ""
    if not fit.is_converged:
        quality = "the fit did not converge"
    elif fit.reduced_chi2 > _MOST_CHI2:
        quality = f"points scatter by {excess:.1f} times their errors"
    elif drawn[0] > 3.0 * gain_error or gain_error > 0.01 * gain:
        quality = f"gain known to {max(drawn[0], gain_error) / gain:.1%} only"
    if quality:
        results.flag("BADFIT", cause=f"photon transfer of CCD{channel[0]} {channel[1]}: {quality}",
                     metric="reduced_chi2", value=fit.reduced_chi2, **where)  # fmt: skip
    return {
        **where, "gain": gain, "gain_error": gain_error, "gain_bootstrap": drawn[0],
        "alpha": fit.alpha, "alpha_error": alpha_error, "alpha_bootstrap": drawn[1],
        "read_noise": fit.noise_adu * gain, "read_noise_error": noise_error,
        "neighbours": fit.neighbours, "reduced_chi2": fit.reduced_chi2, "points": fit.points,
        "bloom": well.level, "bloom_error": well.error, "bloom_e": well.level * gain,
        "is_lower_limit": not well.is_reached, "quality": quality,
    }  # fmt: skip


# --- maps and figures ---


def well_map(work: Work, points: Points, fit: Transfer) -> dict[int, FullWell]:
    """Return the full well of every tile of a quadrant."""
    full = float(work.detector.adc_full_scale)
    return {
        int(tile): find_knee(points.chosen(points.tile == tile), fit, run=3,
                             from_adu=options_of(work).full_well_from * full)
        for tile in np.unique(points.tile[points.tile >= 0])
    }  # fmt: skip


def _leave_maps(work: Work, maps: Mapping[Channel, Mapping[int, FullWell]]) -> None:
    """Write the wells as images of one pixel a tile, in the frame's orientation."""
    detector = work.detector
    tiles = detector.tiles()
    across = len({columns.start for _, columns in tiles})
    for ccd in sorted({ccd for ccd, _ in maps}):
        shape = (len(tiles) // across, across)
        level, limit = {}, {}
        for quadrant in detector.names:
            wells = maps.get((ccd, quadrant), {})
            values = np.full(shape, np.nan, np.float32)
            is_limit = np.zeros(shape, bool)
            for tile, well in wells.items():
                values.flat[tile], is_limit.flat[tile] = well.level, not well.is_reached
            level[quadrant], limit[quadrant] = values, is_limit
        work.results.image(
            f"BloomMap_{work.dataset.test}_CCD{ccd}",
            {"BLOOM": mosaic(detector, level), "LIMIT": mosaic(detector, limit)},
            caption=f"Full well of the tiles of CCD{ccd}, ADU; LIMIT: not reached",
        )


def mosaic(detector: Detector, parts: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """Return small canonical maps of the quadrants put together as in the frame."""
    rows, columns = next(iter(parts.values())).shape
    across, above = detector.grid
    whole = np.zeros((rows * above, columns * across), next(iter(parts.values())).dtype)
    for name, part in parts.items():
        place = detector.quadrants[name]
        view = part[::-1] if place.reads_from_top else part
        view = view[:, ::-1] if place.reads_from_right else view
        y, x = place.row * rows, place.column * columns
        whole[y : y + rows, x : x + columns] = view
    return whole


def draw_curves(
    work: Work, lines: Mapping[Channel, tuple[Points, Transfer, FullWell]]
) -> None:
    """Draw the curves with their fits, and what is left."""
    from nightjard.calib import plotting

    ccds = sorted({ccd for ccd, _ in lines})
    test = work.dataset.test
    for name, title in (("PTC_curves", "photon transfer"), ("PTC_residuals", "residuals")):
        is_curve = name == "PTC_curves"
        figure, axes = plotting.panels(
            work.detector, ccds, title=f"{test}: {title}", x="mean / ADU",
            y="variance / ADU2" if is_curve else "variance / fit - 1",
        )  # fmt: skip
        for channel, (points, fit, well) in lines.items():
            axis = axes[channel]
            seen = points.tile >= 0
            mean, variance = points.mean[seen], points.variance[seen]
            fine = np.linspace(0, float(mean.max()), 200)
            y = variance if is_curve else variance / fit(mean) - 1.0
            axis.plot(mean, y, ",", color=plotting.COLOURS[0])
            axis.plot(fine, fit(fine) if is_curve else 0 * fine, lw=0.7, color=plotting.COLOURS[1])
            if well.is_reached:
                axis.axvline(well.level, lw=0.7, ls="--", color="#888888")
            if not is_curve:
                axis.set_ylim(-0.1, 0.1)
        caption = "Variance against mean, with fit and full well" if is_curve else "Residuals"
        work.results.figure(name, figure, caption=caption)


# --- extract_HER ---


def measure_edges(
    path: str, detector: str, recipe: dict[str, Any], low_adu: float, high_adu: float
) -> dict[str, Any]:
    """Return the profiles across the last column and row of every quadrant; a worker's.

    Raises
    ------
    StorageError
        The frame or a product cannot be read.
    """
    geometry = load_detector(detector)
    frame = open_frame(path, geometry)
    found: dict[str, Any] = {}
    for quadrant in geometry.names:
        pixels, bad = prepared(frame, quadrant, Recipe.from_json(recipe))
        frame.forget()
        edges = {"serial": serial_edge(pixels, bad, geometry, low_adu, high_adu),
                 "parallel": parallel_edge(pixels, bad, geometry, low_adu, high_adu)}  # fmt: skip
        found[quadrant] = {
            name: {"image": edge.image.tolist(), "trail": edge.trail.tolist(),
                   "error": edge.error.tolist(), "lines": edge.lines}
            for name, edge in edges.items() if edge is not None
        }  # fmt: skip
    return found


def edge_of(document: Mapping[str, Any]) -> Edge:
    """Return the profile that a worker measured."""
    image, trail, error = (np.array(document[key]) for key in ("image", "trail", "error"))
    return Edge(image, trail, error, int(document["lines"]))


def edges_of(
    work: Work, frames: list[CcdFrame], options: TransferOptions, *, is_any_level: bool = False
) -> list[dict[str, Any]]:
    """Return the profiles of frames, in order: quadrant -> direction -> plain values.

    Parameters
    ----------
    is_any_level
        Trails of all levels are wanted, not of middling ones alone.
    """
    recipes, full = recipes_of(work), float(work.detector.adc_full_scale)
    low = 0.01 if is_any_level else options.edge_from
    high = 1.1 if is_any_level else options.edge_to
    items = [
        {"path": str(frame.path), "detector": work.detector_name,
         "recipe": recipes[frame.ccd].as_json(), "low_adu": low * full, "high_adu": high * full}
        for frame in frames
    ]  # fmt: skip
    rows, columns = work.detector.quadrant_shape
    return work.map(measure_edges, items, stage="edges measured", memory_bytes=16 * rows * columns)


def transfers_of(detector: Detector) -> dict[str, int]:
    """Return how often the last column and the last row of a quadrant are moved."""
    return {"serial": detector.prescan + detector.image_columns, "parallel": detector.image_rows}


def extract_edges(work: Work) -> None:
    """Tell the transfer inefficiency from the trails; leave HER, HER_profiles."""
    if is_dry(work):
        return
    table = optional_table(work, "extract_PTC", "PTC_TRAILS")
    if table is None:
        options = options_of(work)
        work.results.flag("BADDATAPROD", cause="no frame has edges between "
                          f"{options.edge_from:.0%} and {options.edge_to:.0%} of full scale")
        return  # fmt: skip
    rows, profiles = [], []
    lines: dict[Channel, list[tuple[Any, Any, str]]] = {}
    for ccd, quadrant in channels_of(table):
        for direction, edge in trails_of(table, (ccd, quadrant)).items():
            row = record_edge(work, ccd, quadrant, direction, edge)
            relative = (edge.trail - float(row["base"])) / edge.signal
            rows.append(row)
            profiles += [
                {"ccd": ccd, "quadrant": quadrant, "direction": direction, "pixel": pixel,
                 "level": float(edge.trail[pixel]), "level_error": float(edge.error[pixel]),
                 "relative": float(relative[pixel])}
                for pixel in range(edge.trail.size)
            ]  # fmt: skip
            lines.setdefault((ccd, quadrant), []).append(
                (np.arange(edge.trail.size), relative, direction)
            )
    work.results.table("HER", with_units(rows, _EDGE_UNITS), caption="Hard-edge response and "
                       "transfer inefficiency")  # fmt: skip
    work.results.table("HER_profiles", with_units(profiles, _EDGE_UNITS), show=False,
                       caption="Pixels behind the last of the image")  # fmt: skip
    from nightjard.calib import plotting

    figure = plotting.curves(
        work.detector, lines, title=f"{work.dataset.test}: trails behind the image",
        x_label="pixels behind the image", y_label="share of the signal",
    )  # fmt: skip
    work.results.figure("HER", figure, caption="What trails behind the last column and row")


def half_scale(work: Work, ccd: int) -> list[CcdFrame]:
    """Return the frames of the column whose median level is nearest to half of full scale."""
    metrics = work.table("check", "metrics")
    half = 0.5 * work.detector.adc_full_scale
    best: tuple[float, list[CcdFrame]] = (math.inf, [])
    for frames in work.dataset.by_column(ccd).values():
        obsids = [frame.obsid for frame in frames if frame.exposure_s > 0]
        mine = np.asarray(metrics["ccd"] == ccd) & np.isin(np.asarray(metrics["obsid"]), obsids)
        if not mine.any():
            continue
        away = abs(float(np.nanmedian(np.asarray(metrics["fluence"], float)[mine])) - half)
        if away < best[0]:
            best = (away, frames)
    return best[1]


def record_edge(
    work: Work, ccd: int, quadrant: str, direction: str, edge: Edge
) -> dict[str, Any]:
    """Record the values of a trail; return its row of the table."""
    found = inefficiency(edge, transfers_of(work.detector)[direction])
    hard, hard_error = edge.hard_edge
    where: dict[str, Any] = {"ccd": ccd, "quadrant": quadrant}
    results = work.results
    results.value(f"cti_{direction}", found.cti, error=found.error, unit="1/transfer",
                  note="first pixel of the fitted trail", **where)  # fmt: skip
    results.value(f"eper_{direction}", found.deferred, error=found.deferred_error,
                  unit="1/transfer", note="sum of the fitted trail", **where)  # fmt: skip
    results.value(f"her_{direction}", hard, error=hard_error, **where)
    return {
        **where, "direction": direction, "signal": edge.signal, "her": hard,
        "her_error": hard_error, "cti": found.cti, "cti_error": found.error,
        "deferred": found.deferred, "tail": found.tail_px, "base": found.base,
        "lines": edge.lines,
    }  # fmt: skip


WORKERS: tuple[Callable[..., Any], ...] = (measure_pair, measure_edges, *PREPARE_WORKERS)

PHOTON_TRANSFER = Task(
    title="Photon transfer",
    subtasks=(
        Subtask("check", check, "Data validation"),
        prep_subtask(offset="median"),
        Subtask("extract_PTC", extract_transfer, "Means and variances"),
        Subtask("meta", meta, "Gain, noise and full well"),
        Subtask("extract_HER", extract_edges, "Edge response"),
    ),
    frame_check=flux.measure_flat,
    judge=flux.judge_flats,
    workers=WORKERS,
    options=TransferOptions,
)
