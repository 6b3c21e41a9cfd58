# SPDX-License-Identifier: BSD-3-Clause
"""Frames of a photon transfer test with the brighter-fatter effect taken out, as its proof."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from nightjar.calibration.detector import load_detector
from nightjard.calib.dataset import CcdFrame
from nightjard.calib.preparing import is_dry, recipes_of
from nightjard.calib.science.charge_shift import Boundaries, corrected
from nightjard.calib.science.photon_transfer import (
    Points,
    fit_transfer,
    matched,
    moments_like,
    tile_pairs,
)
from nightjard.calib.science.robust import fit_polynomial
from nightjard.calib.tasks.brighter_fatter_product import boundaries_of
from nightjard.calib.tasks.transfer_options import (
    Channel,
    TransferOptions,
    channels_of,
    optional_table,
    rows_of,
    with_units,
)
from nightjard.calib.tasks.transfer_pairs import (
    band_bytes,
    curve_arguments,
    curves_of,
    middles_of,
    pair_bands,
    pairs_of,
)
from nightjard.calib.work import Work


class BrighterFatterOptions(TransferOptions):
    """What a campaign may set for brighter-fatter."""

    lags: int = Field(5, ge=2, le=12, description="Pixels, the own one included, to either side.")
    level_from: float = Field(0.03, gt=0, lt=1, description="Lowest level used, full scale 1.")
    level_to: float = Field(0.75, gt=0, lt=1.2, description="Highest level used: at 80 % the "
                            "wells at the edges begin to flow over.")  # fmt: skip
    has_linear: bool | None = Field(
        None, description="Covariances may have a part that grows with the first power of the "
        "signal, as trailing charge makes; null: only where no overscan shows what trails.",
    )  # fmt: skip
    is_balanced: bool = Field(
        True, description="Images are corrected by coefficients that add up to 0: charge is kept."
    )
    corrected_pairs: int = Field(2, ge=1, le=100, description="Pairs of a level that are corrected "
                                 "to prove it.")  # fmt: skip
    most_masked: float = Field(0.2, gt=0, lt=1, description="Pairs with more pixels left out do "
                               "not count.")  # fmt: skip


def bf_options(work: Work) -> BrighterFatterOptions:
    """Return the options of the task."""
    return BrighterFatterOptions.model_validate(dict(work.options))


# --- correct_BFE_G15 ---


def correct_pair(
    first: str, second: str, detector: str, recipe: dict[str, Any], curves: dict[str, Any],
    shifts: dict[str, Any], clip_sigma: float,
) -> dict[str, Any]:
    """Return means and variances of the tiles of a pair before and after; a worker's.

    Parameters
    ----------
    shifts
        Quadrant -> west and south, per ADU.

    Raises
    ------
    StorageError
        A frame or a product cannot be read.
    """
    geometry = load_detector(detector)
    columns = geometry.columns_of("image")
    known = {
        quadrant: Boundaries(np.array(one["west"]), np.array(one["south"]), 0.0, 1.0)
        for quadrant, one in shifts.items()
    }
    halo = 2 * max((one.west.shape[0] for one in known.values()), default=0)
    found: dict[str, Any] = {}
    for band in pair_bands((first, second), geometry, recipe, curves, halo):
        if band.quadrant not in known:
            continue
        is_bad = band.bad[:, columns]
        pixels = [band.first[:, columns], band.second[:, columns]]
        after = [corrected(filled(image, is_bad), known[band.quadrant]) for image in pixels]
        tiles = [(y, slice(x.start - columns.start, x.stop - columns.start))
                 for y, x in band.tiles]  # fmt: skip
        entry = found.setdefault(band.quadrant, {})
        for name, images in (("before", pixels), ("after", after)):
            a, b, factor = matched(images[0], images[1], *middles_of(images, is_bad))
            measured = tile_pairs(a, b, is_bad, tiles, clip_sigma=clip_sigma)
            table = entry.setdefault(name, {"mean": [], "variance": [], "count": []})
            table["mean"] += measured.mean.tolist()
            table["variance"] += (measured.variance / factor).tolist()
            table["count"] += measured.count.tolist()
    return found


def filled(image: NDArray[np.float32], bad: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return an image whose bad pixels have its median: what they hold must not move others."""
    if not bad.any() or bad.all():
        return image
    whole = image.copy()
    whole[bad] = np.median(image[~bad][::16])
    return whole


def correct(work: Work) -> None:
    """Correct pairs of every level; leave the tables PTC_BEFORE and PTC_AFTER."""
    if is_dry(work):
        return
    options, recipes = bf_options(work), recipes_of(work)
    table = optional_table(work, "extract_BF", "G15TABLE")
    if table is None:
        work.results.flag("BADDATAPROD", cause="there are no coefficients to correct frames with")
        return
    known = boundaries_of(table)
    curves = curves_of(work, options)
    jobs = _pairs_that_prove(work, options)
    found = work.map(
        correct_pair,
        [{"first": str(first.path), "second": str(second.path), "detector": work.detector_name,
          "recipe": recipes[ccd].as_json(), "curves": curve_arguments(curves, ccd),
          "shifts": {quadrant: {"west": one.west.tolist(), "south": one.south.tolist()}
                     for (number, quadrant), one in known.items() if number == ccd},
          "clip_sigma": options.clip_sigma}
         for ccd, first, second in jobs],
        stage="pairs corrected", memory_bytes=band_bytes(work.detector, 80),
    )  # fmt: skip
    for name in ("before", "after"):
        points = [
            {"ccd": ccd, "quadrant": quadrant, "column": first.label, "first": first.obsid,
             "second": second.obsid, "tile": tile, "mean": mean, "variance": variance,
             "count": count}
            for (ccd, first, second), quadrants in zip(jobs, found, strict=True)
            for quadrant, entry in quadrants.items()
            for tile, (mean, variance, count) in enumerate(zip(
                entry[name]["mean"], entry[name]["variance"], entry[name]["count"], strict=True
            )) if count
        ]  # fmt: skip
        if points:
            work.results.table(f"PTC_{name.upper()}", with_units(points), show=False,
                               caption=f"Mean and variance {name} the correction")  # fmt: skip


def _pairs_that_prove(
    work: Work, options: BrighterFatterOptions
) -> list[tuple[int, CcdFrame, CcdFrame]]:
    """Return the first pairs of every level that is used; those of others would prove nothing."""
    table, full = work.table("extract_COV", "BF_COVARIANCES"), work.detector.adc_full_scale
    level = np.asarray(table["mean"], float)
    used = (level > options.level_from * full) & (level < options.level_to * full)
    pairs = set(zip(table["ccd"][used].tolist(), table["first"][used].tolist(), strict=True))
    seen: dict[tuple[int, int], int] = {}
    jobs = []
    for ccd in work.dataset.ccds:
        for column, first, second in pairs_of(work, ccd):
            if (ccd, first.obsid) not in pairs:
                continue
            seen[ccd, column] = seen.get((ccd, column), 0) + 1
            if seen[ccd, column] <= options.corrected_pairs:
                jobs.append((ccd, first, second))
    return jobs


# --- extract_PTCs ---


def corrected_curves(work: Work) -> None:
    """Tell how straight the curves are before and after the correction."""
    if is_dry(work):
        return
    rows = []
    lines: dict[Channel, list[tuple[Any, Any, str]]] = {}
    for name in ("before", "after"):
        table = optional_table(work, "correct_BFE_G15", f"PTC_{name.upper()}")
        if table is None:
            work.results.flag("BADDATAPROD", cause=f"there are no pairs {name} the correction")
            continue
        for channel in channels_of(table):
            row = _straightness(work, channel, rows_of(table, channel), name, lines)
            if row is not None:
                rows.append(row)
    if not rows:
        return
    units = {"bend": "percent", "bend_error": "percent"}
    work.results.table("PTC_TB", with_units(rows, units), caption="Photon transfer before and "
                       "after the correction")  # fmt: skip
    from nightjard.calib import plotting

    figure = plotting.curves(
        work.detector, lines, title=f"{work.dataset.test}: variance by mean",
        x_label="mean / ADU", y_label="variance / mean, 1 on average",
    )  # fmt: skip
    work.results.figure("PTC_straight", figure, caption="Variance by mean before and after the "
                        "correction")  # fmt: skip


def _straightness(
    work: Work, channel: Channel, rows: Any, name: str,
    lines: dict[Channel, list[tuple[Any, Any, str]]],
) -> dict[str, Any] | None:
    """Record alpha and the largest deviation from a straight line of a quadrant."""
    options, full = bf_options(work), work.detector.adc_full_scale
    mean, variance, count = (
        np.asarray(rows[key], np.float64) for key in ("mean", "variance", "count")
    )
    used = (mean > options.level_from * full) & (mean < options.level_to * full)
    points = Points(mean[used], variance[used], count[used], np.asarray(rows["tile"])[used])
    labels = np.asarray(rows["column"])[used]
    levels = []
    for label in sorted(set(labels.tolist())):
        mine = points.chosen(labels == label)
        levels.append((mine.mean.mean(), mine.variance.mean(),
                       mine.variance.mean() * math.sqrt(2.0 / mine.count.sum())))  # fmt: skip
    if len(levels) < 4:
        return None
    x, y, error = (np.array(one) for one in zip(*levels, strict=True))
    line = fit_polynomial(x, y, 1, error=error, clip_sigma=100.0)
    away = 100.0 * (y / line(x) - 1.0)
    worst = int(np.argmax(np.abs(away)))
    fit = fit_transfer(points, moments=moments_like(1.15))
    where: dict[str, Any] = {"ccd": channel[0], "quadrant": channel[1]}
    bend_error = float(100.0 * error[worst] / y[worst])
    work.results.value(f"ptc_bend_{name}", abs(float(away[worst])), error=bend_error, unit="%",
                       note="largest of a level from a straight line", **where)  # fmt: skip
    work.results.value(f"alpha_{name}", fit.alpha, error=fit.alpha_error * fit.excess,
                       unit="1/e-", **where)  # fmt: skip
    ratio = y / x
    lines.setdefault(channel, []).append((x, ratio / ratio.mean(), name))
    return {**where, "curve": name, "bend": abs(float(away[worst])), "bend_error": bend_error,
            "alpha": fit.alpha, "alpha_error": fit.alpha_error}  # fmt: skip
