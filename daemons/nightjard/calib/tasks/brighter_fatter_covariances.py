# SPDX-License-Identifier: BSD-3-Clause
"""Covariances of all pairs of a brighter-fatter test (sub-task ``extract_COV``)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.calibration.detector import load_detector
from nightjard.calib.dataset import CcdFrame
from nightjard.calib.preparing import is_dry, recipes_of
from nightjard.calib.science.covariance import Covariances, pair_covariances
from nightjard.calib.science.photon_transfer import matched
from nightjard.calib.science.robust import clipped_moments
from nightjard.calib.tasks.brighter_fatter_correction import bf_options
from nightjard.calib.tasks.trails import half_scale, leave_trails
from nightjard.calib.tasks.transfer_options import channels_of, rows_of, with_units
from nightjard.calib.tasks.transfer_pairs import (
    band_bytes,
    curve_arguments,
    curves_of,
    mean_covariances,
    middles_of,
    pair_bands,
    pairs_of,
)
from nightjard.calib.work import Work


def measure_covariances(
    first: str, second: str, detector: str, recipe: dict[str, Any], curves: dict[str, Any],
    lags: int, clip_sigma: float, pair_difference: float = 0.1,
) -> dict[str, Any]:
    """Return the covariances of a pair by quadrant, ADU^2; a worker's.

    Of quadrants whose levels differ by a larger share than `pair_difference` only these are told.

    Raises
    ------
    StorageError
        A frame or a product cannot be read.
    """
    geometry = load_detector(detector)
    columns = geometry.columns_of("image", is_trimmed=True)
    found: dict[str, Any] = {}
    levels: dict[str, list[float]] = {}
    parts: dict[str, list[Covariances]] = {}
    for band in pair_bands((first, second), geometry, recipe, curves):
        a, b, is_bad = band.first[:, columns], band.second[:, columns], band.bad[:, columns]
        if is_bad.mean() > 0.5:
            continue
        one, two = middles_of((a, b), is_bad)
        if not abs(one - two) <= pair_difference * 0.5 * (one + two):
            found[band.quadrant] = {"first": one, "second": two}
            continue
        a, b, _ = matched(a, b, one, two)
        total = a + b
        level = clipped_moments(total[~is_bad] if is_bad.any() else total, 6.0, rounds=1)
        # A pixel that sees no light does not stand out in the difference.
        is_bad = is_bad | (np.abs(total - level.mean) > 8.0 * math.sqrt(level.variance))
        levels.setdefault(band.quadrant, []).append(level.mean / 2.0)
        parts.setdefault(band.quadrant, []).append(
            pair_covariances(a, b, is_bad, lags, clip_sigma)
        )
    for quadrant, some in parts.items():
        values, errors, masked = mean_covariances(some)
        found[quadrant] = {"mean": float(np.mean(levels[quadrant])), "masked": masked,
                           "values": values.tolist(), "errors": errors.tolist()}  # fmt: skip
    return found


def extract_covariances(work: Work) -> None:
    """Measure all pairs; leave BF_COVARIANCES and COVTABLE."""
    if is_dry(work):
        return
    options, recipes = bf_options(work), recipes_of(work)
    curves = curves_of(work, options)
    jobs = [(ccd, *pair) for ccd in work.dataset.ccds for pair in pairs_of(work, ccd)]
    found = work.map(
        measure_covariances,
        [{"first": str(first.path), "second": str(second.path), "detector": work.detector_name,
          "recipe": recipes[ccd].as_json(), "curves": curve_arguments(curves, ccd),
          "lags": options.lags, "clip_sigma": options.clip_sigma,
          "pair_difference": options.pair_difference}
         for ccd, _, first, second in jobs],
        stage="covariances measured", memory_bytes=band_bytes(work.detector, 40),
    )  # fmt: skip
    table = _lag_rows(work, jobs, found)
    if not table:
        work.results.flag("BADDATAPROD", cause="there is no pair of like flat fields")
        return
    levels = [[one["mean"] for one in quadrants.values() if "mean" in one] for quadrants in found]
    leave_trails(work, options, half_scale(work, jobs, levels))
    whole = with_units(table)
    work.results.table("BF_COVARIANCES", whole, caption="Covariances of all pairs", show=False)
    work.results.table("COVTABLE", _correlations(whole),
                       caption="Correlations with the next pixels (column, row)")  # fmt: skip


_Jobs = list[tuple[int, int, CcdFrame, CcdFrame]]


def _lag_rows(work: Work, jobs: _Jobs, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row a lag of a pair; note the pairs that do not count."""
    options, full = bf_options(work), work.detector.adc_full_scale
    table: list[dict[str, Any]] = []
    for (ccd, _, first, second), quadrants in zip(jobs, found, strict=True):
        for quadrant, one in quadrants.items():
            if "mean" not in one:
                work.results.note(
                    f"CCD{ccd} {quadrant}: OBSIDs {first.obsid} and {second.obsid} are no pair: "
                    f"{one['first']:.0f} and {one['second']:.0f} ADU"
                )
                continue
            if one["masked"] > options.most_masked or one["mean"] > 1.2 * full:
                work.results.note(
                    f"CCD{ccd} {quadrant}: OBSIDs {first.obsid}, {second.obsid} left out: "
                    f"{one['masked']:.0%} of the pixels do not count"
                )
                continue
            values, errors = np.array(one["values"]), np.array(one["errors"])
            table += [
                {"ccd": ccd, "quadrant": quadrant, "column": first.label, "first": first.obsid,
                 "second": second.obsid, "mean": one["mean"], "row_lag": row,
                 "column_lag": column, "covariance": values[row, column],
                 "error": errors[row, column]}
                for row in range(options.lags) for column in range(options.lags)
            ]  # fmt: skip
    return table


def _correlations(whole: Any) -> Any:
    """Return the table COVTABLE: a level of a quadrant a row."""
    summary = []
    for channel in channels_of(whole):
        labels, mean, values, errors = levels_of(rows_of(whole, channel))
        for number, label in enumerate(labels):
            variance = values[number, 0, 0]
            row = {"ccd": channel[0], "quadrant": channel[1], "column": label,
                   "av_mu": mean[number], "av_var": variance}  # fmt: skip
            for x, y in ((0, 0), (0, 1), (1, 0), (1, 1)):
                row[f"corr_{x}{y}"] = values[number, y, x] / variance
                row[f"corr_{x}{y}_error"] = errors[number, y, x] / variance
            summary.append(row)
    return with_units(summary, {"av_mu": "adu", "av_var": "adu2"})


def levels_of(
    rows: Any,
) -> tuple[list[str], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the levels of a quadrant: column, mean, covariances and errors, means over pairs."""
    lags = int(max(rows["row_lag"])) + 1
    labels = sorted({str(label) for label in rows["column"]})
    means, values, errors = [], [], []
    for label in labels:
        one = rows[np.asarray(rows["column"] == label)]
        pairs = len(one) // lags**2
        cube = np.zeros((2, lags, lags))
        place = (np.asarray(one["row_lag"], int), np.asarray(one["column_lag"], int))
        np.add.at(cube[0], place, np.asarray(one["covariance"], float) / pairs)
        np.add.at(cube[1], place, (np.asarray(one["error"], float) / pairs) ** 2)
        means.append(float(np.mean(one["mean"])))
        values.append(cube[0])
        errors.append(np.sqrt(cube[1]))
    return labels, np.array(means), np.array(values), np.array(errors)
