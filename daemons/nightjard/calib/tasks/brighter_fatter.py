# SPDX-License-Identifier: BSD-3-Clause
"""BF01: brighter-fatter coefficients from the flat fields of a photon transfer test.

Tables that are left: ``BF_COVARIANCES`` (a lag of a pair a row), ``COVTABLE`` (a level a row),
``KERNEL`` (a lag a row), ``G15TABLE`` (boundary shifts; what corrects images), ``WIDTHS``,
``PTC_BEFORE`` and ``PTC_AFTER``, ``BF_TB``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.calibration.detector import load_detector
from nightjard.calib.checks import check
from nightjard.calib.preparing import PREPARE_WORKERS, is_dry, prep_subtask, recipes_of
from nightjard.calib.science.charge_shift import Widths, solve_boundaries, widths
from nightjard.calib.science.covariance import (
    Coefficients,
    balance_of,
    balanced,
    covariance_curve,
    fit_coefficients,
    pair_covariances,
)
from nightjard.calib.science.photon_transfer import Points, fit_transfer
from nightjard.calib.science.robust import clipped_moments, fit_polynomial
from nightjard.calib.task import Subtask, Task
from nightjard.calib.tasks import flux
from nightjard.calib.tasks.brighter_fatter_correction import (
    BrighterFatterOptions,
    bf_options,
    correct,
    correct_pair,
    corrected_curves,
)
from nightjard.calib.tasks.brighter_fatter_product import boundary_rows
from nightjard.calib.tasks.transfer_options import (
    Channel,
    channels_of,
    optional_table,
    rows_of,
    with_units,
)
from nightjard.calib.tasks.transfer_pairs import (
    curve_arguments,
    load_curves,
    pair_pixels,
    pairs_of,
)
from nightjard.calib.work import Work

_MOST_UNBALANCED = 4.0  # sigma
_DRAWS = 16  # of the error of a width


# --- extract_COV ---


def measure_covariances(
    first: str, second: str, detector: str, recipe: dict[str, Any], curves: dict[str, Any],
    lags: int, clip_sigma: float,
) -> dict[str, Any]:
    """Return the covariances of a pair by quadrant, ADU^2; a worker's.

    Raises
    ------
    StorageError
        A frame or a product cannot be read.
    """
    geometry = load_detector(detector)
    area = (slice(0, geometry.image_rows), geometry.columns_of("image", is_trimmed=True))
    found: dict[str, Any] = {}
    for quadrant, one, two, bad in pair_pixels((first, second), geometry, recipe, curves):
        a, b, is_bad = one[area], two[area], bad[area]
        if is_bad.mean() > 0.5:
            continue
        total = a + b
        level = clipped_moments(total[~is_bad] if is_bad.any() else total, 6.0, rounds=1)
        # A pixel that sees no light does not stand out in the difference.
        is_bad = is_bad | (np.abs(total - level.mean) > 8.0 * math.sqrt(level.variance))
        measured = pair_covariances(a, b, is_bad, lags, clip_sigma)
        found[quadrant] = {
            "mean": level.mean / 2.0, "masked": measured.masked,
            "values": measured.values.tolist(), "errors": measured.errors.tolist(),
        }  # fmt: skip
    return found


def extract_covariances(work: Work) -> None:
    """Measure all pairs; leave BF_COVARIANCES and COVTABLE."""
    if is_dry(work):
        return
    options, recipes = bf_options(work), recipes_of(work)
    curves = load_curves(options.linearity)
    full = work.detector.adc_full_scale
    jobs = [(ccd, *pair) for ccd in work.dataset.ccds for pair in pairs_of(work, ccd)]
    rows, columns = work.detector.quadrant_shape
    found = work.map(
        measure_covariances,
        [{"first": str(first.path), "second": str(second.path), "detector": work.detector_name,
          "recipe": recipes[ccd].as_json(), "curves": curve_arguments(curves, ccd),
          "lags": options.lags, "clip_sigma": options.clip_sigma}
         for ccd, _, first, second in jobs],
        stage="covariances measured", memory_bytes=40 * rows * columns,
    )  # fmt: skip
    table: list[dict[str, Any]] = []
    for (ccd, _, first, second), quadrants in zip(jobs, found, strict=True):
        for quadrant, one in quadrants.items():
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
    if not table:
        work.results.flag("BADDATAPROD", cause="there is no pair of like flat fields")
        return
    whole = with_units(table)
    work.results.table("BF_COVARIANCES", whole, caption="Covariances of all pairs", show=False)
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
    units = {"av_mu": "adu", "av_var": "adu2"}
    work.results.table("COVTABLE", with_units(summary, units),
                       caption="Correlations with the next pixels (column, row)")  # fmt: skip


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


# --- extract_BF ---


def extract_kernel(work: Work) -> None:
    """Fit the coefficients of every quadrant and solve for its boundaries."""
    if is_dry(work):
        return
    table = optional_table(work, "extract_COV", "BF_COVARIANCES")
    if table is None:
        work.results.flag("BADDATAPROD", cause="there are no covariances, hence no coefficients")
        return
    kernels, shifts, width_rows = [], [], []
    lines: dict[Channel, list[tuple[Any, Any, str]]] = {}
    for number, channel in enumerate(channels_of(table)):
        try:
            found = _fit_channel(work, channel, rows_of(table, channel))
        except (ValueError, np.linalg.LinAlgError) as error:
            work.results.flag("BADFIT", cause=f"CCD{channel[0]} {channel[1]}: {error}",
                              ccd=channel[0], quadrant=channel[1])  # fmt: skip
            continue
        gain, coefficients, levels = found
        boundaries = solve_boundaries(_kept(work, channel, coefficients), coefficients.errors)
        kernels += _record_kernel(work, channel, coefficients, gain)
        shifts += boundary_rows(channel, boundaries, gain)
        width_rows += _width_rows(work, channel, coefficients, levels, gain, number,
                                  boundaries.length_px)  # fmt: skip
        lags = np.arange(coefficients.values.shape[0])
        lines[channel] = [(lags[1:], 1e7 * coefficients.values[0, 1:], "along rows"),
                          (lags[1:], 1e7 * coefficients.values[1:, 0],
                           "along columns")]  # fmt: skip
    if not kernels:
        return
    units = {"k": "1 / electron", "k_error": "1 / electron", "k_adu": "1 / adu",
             "west": "pix / electron", "south": "pix / electron", "mean": "adu",
             "fwhm_x": "um", "fwhm_x_error": "um",
             "fwhm_y": "um", "fwhm_y_error": "um", "gain": "electron / adu"}  # fmt: skip
    work.results.table("KERNEL", with_units(kernels, units), caption="Coefficients")
    work.results.table("G15TABLE", with_units(shifts, units), caption="Shifts of boundaries",
                       show=False)  # fmt: skip
    work.results.table("WIDTHS", with_units(width_rows, units), caption="Widths by level")
    from nightjard.calib import plotting

    figure = plotting.curves(
        work.detector, lines, title=f"{work.dataset.test}: brighter-fatter coefficients",
        x_label="lag / px", y_label="K / 1e-7 per electron",
    )  # fmt: skip
    work.results.figure("kernel", figure, caption="Coefficients along rows and columns")


_Levels = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


def _fit_channel(
    work: Work, channel: Channel, rows: Any
) -> tuple[float, Coefficients, _Levels]:
    """Return gain, coefficients and the levels used: mean [e-], covariances, errors [e-^2]."""
    options, full = bf_options(work), work.detector.adc_full_scale
    _, mean, values, errors = levels_of(rows)
    used = (mean > options.level_from * full) & (mean < options.level_to * full)
    gain = work.inputs.gains.get(channel)
    if gain is None:
        gain = _own_gain(mean[used], values[used, 0, 0], errors[used, 0, 0])
    levels = (mean[used] * gain, values[used] * gain**2, errors[used] * gain**2)
    return gain, fit_coefficients(*levels, has_linear=options.has_linear), levels


def _kept(work: Work, channel: Channel, found: Coefficients) -> NDArray[np.float64]:
    """Return the coefficients as images are corrected with them: charge is kept."""
    balance, error = balance_of(found)
    if not bf_options(work).is_balanced:
        return found.values
    if abs(balance) > _MOST_UNBALANCED * error:
        work.results.note(
            f"CCD{channel[0]} {channel[1]}: the coefficients do not add up to 0 by "
            f"{abs(balance) / error:.1f} times the error: used as they are; more lags, or a "
            "linearity correction, may be wanted"
        )
        return found.values
    return balanced(found)


def _own_gain(
    mean: NDArray[np.float64], variance: NDArray[np.float64], error: NDArray[np.float64]
) -> float:
    """Return the gain of the levels' own variances."""
    count = 2.0 * (variance / error) ** 2
    points = Points(mean, variance, count, np.zeros(mean.size, np.int64))
    return fit_transfer(points, neighbours=1.15).gain


def _record_kernel(
    work: Work, channel: Channel, found: Coefficients, gain: float
) -> list[dict[str, Any]]:
    where: dict[str, Any] = {"ccd": channel[0], "quadrant": channel[1]}
    lags = found.values.shape[0]
    for row in range(min(lags, 3)):
        for column in range(min(lags, 3)):
            value, error = found.values[row, column], found.errors[row, column]
            work.results.value("bf_k", value, error=error, unit="1/e-", row_lag=row,
                               column_lag=column, **where)  # fmt: skip
            work.results.value("bf_k_adu", value * gain, error=error * gain, unit="1/ADU",
                               row_lag=row, column_lag=column, **where)  # fmt: skip
    own = abs(found.values[0, 0])
    balance, error = balance_of(found)
    work.results.value("bf_balance", balance / own, error=error / own, **where,
                       note="sum of all by the own one: 0 where charge is kept")  # fmt: skip
    return [
        {**where, "row_lag": row, "column_lag": column, "k": found.values[row, column],
         "k_error": found.errors[row, column], "k_adu": found.values[row, column] * gain,
         "linear": found.linear[row, column], "reduced_chi2": found.reduced_chi2[row, column]}
        for row in range(lags) for column in range(lags)
    ]  # fmt: skip


def _width_rows(
    work: Work, channel: Channel, found: Coefficients, levels: _Levels, gain: float, seed: int,
    length_px: float,
) -> list[dict[str, Any]]:
    """Return the widths of every level from its own covariances, with errors by drawing."""
    generator = np.random.default_rng(seed)
    rows = []
    for signal, values, errors in zip(*levels, strict=True):
        higher = covariance_curve(found.values, signal) - found.values * signal**2
        own = (values - higher - found.linear * signal) / signal**2
        error = errors / signal**2
        best = _width(work, own, error, signal, length_px)
        drawn = [
            _width(work, own + error * generator.standard_normal(own.shape), error, signal,
                   length_px)
            for _ in range(_DRAWS)
        ]  # fmt: skip
        with np.errstate(invalid="ignore"):
            spread = np.nanstd([(one.x_um, one.y_um, one.ellipticity) for one in drawn], axis=0)
        rows.append(
            {"ccd": channel[0], "quadrant": channel[1], "mean": signal / gain,
             "fwhm_x": best.x_um, "fwhm_x_error": float(spread[0]), "fwhm_y": best.y_um,
             "fwhm_y_error": float(spread[1]), "ellipticity": best.ellipticity,
             "ellipticity_error": float(spread[2])}
        )  # fmt: skip
    return rows


def _width(
    work: Work, values: NDArray[np.float64], errors: NDArray[np.float64], signal: float,
    length_px: float,
) -> Widths:
    return widths(solve_boundaries(values, errors, length_px), signal, work.detector.pixel_um)


# --- meta ---


def meta(work: Work) -> None:
    """Tell widths at half of full scale and their growth; judge the curves after correction."""
    if is_dry(work):
        return
    table = optional_table(work, "extract_BF", "WIDTHS")
    if table is None:
        work.results.flag("BADDATAPROD", cause="there are no coefficients, hence no widths")
        return
    half = 0.5 * work.detector.adc_full_scale
    rows = []
    for channel in channels_of(table):
        mine = rows_of(table, channel)
        row: dict[str, Any] = {"ccd": channel[0], "quadrant": channel[1]}
        where = dict(row)
        for name, unit in (("fwhm_x", "um"), ("fwhm_y", "um"), ("ellipticity", "")):
            value, error = np.asarray(mine[name], float), np.asarray(mine[f"{name}_error"], float)
            good = np.isfinite(value) & (error > 0)
            if good.sum() < 3:
                continue
            mean = (np.asarray(mine["mean"], float)[good] - half) / 1e4
            line = fit_polynomial(mean, value[good], 1, error=error[good], clip_sigma=8.0)
            for key, place, per in ((f"{name}_hwc", 0, ""), (f"{name}_slope", 1, "/1e4 ADU")):
                one = float(line.coefficients[place])
                sigma = math.sqrt(float(line.covariance[place, place]))
                work.results.value(key, one, error=sigma, unit=f"{unit}{per}", **where)
                row[key], row[f"{key}_error"] = one, sigma
        rows.append(row)
    names = list(dict.fromkeys(name for row in rows for name in row))
    filled = [{name: row.get(name, math.nan) for name in names} for row in rows]
    work.results.table("BF_TB", with_units(filled), caption="Widths at half of full scale, and "
                       "their growth per 1e4 ADU")  # fmt: skip


WORKERS: tuple[Callable[..., Any], ...] = (measure_covariances, correct_pair, *PREPARE_WORKERS)

BRIGHTER_FATTER = Task(
    title="Brighter-fatter effect",
    subtasks=(
        Subtask("check", check, "Data validation"),
        prep_subtask(offset="median"),
        Subtask("extract_COV", extract_covariances, "Covariances"),
        Subtask("extract_BF", extract_kernel, "Coefficients"),
        Subtask("correct_BFE_G15", correct, "Correction of frames"),
        Subtask("extract_PTCs", corrected_curves, "Photon transfer before and after"),
        Subtask("meta", meta, "Widths"),
    ),
    frame_check=flux.measure_flat,
    judge=flux.judge_flats,
    workers=WORKERS,
    options=BrighterFatterOptions,
)
