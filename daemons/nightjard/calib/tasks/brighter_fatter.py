# SPDX-License-Identifier: BSD-3-Clause
"""BF01: brighter-fatter coefficients from the flat fields of a photon transfer test.

Tables that are left: ``BF_COVARIANCES`` (a lag of a pair a row), ``PTC_TRAILS`` (what trails
behind the image, which makes neighbours alike too), ``COVTABLE`` (a level a row),
``KERNEL`` (a lag a row), ``G15TABLE`` (boundary shifts; what corrects images), ``WIDTHS``,
``PTC_BEFORE`` and ``PTC_AFTER``, ``BF_TB``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjard.calib.checks import check
from nightjard.calib.preparing import PREPARE_WORKERS, is_dry, prep_subtask
from nightjard.calib.science.charge_shift import Widths, solve_boundaries, widths
from nightjard.calib.science.covariance import (
    Coefficients,
    balance_of,
    balanced,
    covariance_curve,
    fit_coefficients,
)
from nightjard.calib.science.photon_transfer import Points, fit_transfer, moments_like
from nightjard.calib.science.robust import fit_polynomial
from nightjard.calib.task import Subtask, Task
from nightjard.calib.tasks import flux
from nightjard.calib.tasks.brighter_fatter_correction import (
    BrighterFatterOptions,
    bf_options,
    correct,
    correct_pair,
    corrected_curves,
)
from nightjard.calib.tasks.brighter_fatter_covariances import (
    extract_covariances,
    levels_of,
    measure_covariances,
)
from nightjard.calib.tasks.brighter_fatter_product import boundary_rows
from nightjard.calib.tasks.trails import measure_edges, smoothing_of
from nightjard.calib.tasks.transfer_options import (
    Channel,
    channels_of,
    optional_table,
    rows_of,
    with_units,
)
from nightjard.calib.work import Work

_MOST_UNBALANCED = 4.0  # sigma
_MOST_GAIN_OFF = 0.02
_DRAWS = 16  # of the error of a width


# --- extract_BF ---


def extract_kernel(work: Work) -> None:
    """Fit the coefficients of every quadrant and solve for its boundaries."""
    if is_dry(work):
        return
    table = optional_table(work, "extract_COV", "BF_COVARIANCES")
    if table is None:
        work.results.flag("BADDATAPROD", cause="there are no covariances, hence no coefficients")
        return
    trails = optional_table(work, "extract_COV", "PTC_TRAILS")
    kernels, shifts, width_rows = [], [], []
    lines: dict[Channel, list[tuple[Any, Any, str]]] = {}
    for number, channel in enumerate(channels_of(table)):
        try:
            smoothed = smoothing_of(work, trails, channel)
            found = _fit_channel(work, channel, rows_of(table, channel), smoothed)
        except (ValueError, np.linalg.LinAlgError) as error:
            work.results.flag("BADFIT", cause=f"CCD{channel[0]} {channel[1]}: {error}",
                              ccd=channel[0], quadrant=channel[1])  # fmt: skip
            continue
        gain, coefficients, levels = found
        boundaries = solve_boundaries(_kept(work, channel, coefficients), coefficients.errors)
        kernels += _record_kernel(work, channel, coefficients, gain)
        shifts += boundary_rows(channel, boundaries, gain)
        width_rows += _width_rows(work, channel, coefficients, levels, gain, number,
                                  boundaries.length_px, smoothed)  # fmt: skip
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
    work: Work, channel: Channel, rows: Any, smoothed: NDArray[np.float64] | None
) -> tuple[float, Coefficients, _Levels]:
    """Return gain, coefficients and the levels used: mean [e-], covariances, errors [e-^2]."""
    options, full = bf_options(work), work.detector.adc_full_scale
    _, mean, values, errors = levels_of(rows)
    used = (mean > options.level_from * full) & (mean < options.level_to * full)
    factor = 1.0 if smoothed is None else smoothed
    gain = work.inputs.gains.get(channel)
    if gain is None:
        left = float(np.mean(factor))
        gain = _own_gain(mean[used], values[used, 0, 0] / left, errors[used, 0, 0] / left)
    levels = (mean[used] * gain, values[used] * gain**2, errors[used] * gain**2)
    has_linear = smoothed is None if options.has_linear is None else options.has_linear
    found = fit_coefficients(*levels, has_linear=has_linear, smoothed=factor)
    if abs(found.linear[0, 0]) > _MOST_GAIN_OFF:
        work.results.note(
            f"CCD{channel[0]} {channel[1]}: the frames' own gain is "
            f"{-100 * found.linear[0, 0]:+.1f} % off the {gain:.3f} e-/ADU given: coefficients "
            "per electron are as far off"
        )
    return gain, found, levels


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
    return fit_transfer(points, moments=moments_like(1.15)).gain


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
    length_px: float, smoothed: NDArray[np.float64] | None,
) -> list[dict[str, Any]]:
    """Return the widths of every level from its own covariances, with errors by drawing."""
    generator = np.random.default_rng(seed)
    rows = []
    for signal, values, errors in zip(*levels, strict=True):
        curve = covariance_curve(found.values, signal, 1.0 if smoothed is None else smoothed)
        higher = curve - found.values * signal**2
        own = (values - higher - found.linear * signal) / signal**2
        error = errors / signal**2
        best = _width(work, own, error, signal, length_px)
        drawn = [
            _width(work, own + error * generator.standard_normal(own.shape), error, signal,
                   length_px)
            for _ in range(_DRAWS)
        ]  # fmt: skip
        table = np.array([(one.x_um, one.y_um, one.ellipticity) for one in drawn])
        seen = table[np.isfinite(table).all(axis=1)]
        # A width that most drawings have none of is not known.
        spread = seen.std(axis=0) if len(seen) > _DRAWS // 2 else np.full(3, math.nan)
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
            if good.sum() < 4:
                continue
            # Over the logarithm of the level: a width is that of a logarithm of it, and a straight
            # line over the level itself is 0.1 um off at its middle.
            place = np.log(np.asarray(mine["mean"], float)[good] / half)
            curve = fit_polynomial(place, value[good], 2, error=error[good], clip_sigma=8.0)
            for key, power, per in ((f"{name}_hwc", 0, ""), (f"{name}_slope", 1, "/1e4 ADU")):
                scale = 1e4 / half if power else 1.0
                one = scale * float(curve.coefficients[power])
                sigma = scale * math.sqrt(float(curve.covariance[power, power]))
                work.results.value(key, one, error=sigma, unit=f"{unit}{per}", **where)
                row[key], row[f"{key}_error"] = one, sigma
        rows.append(row)
    names = list(dict.fromkeys(name for row in rows for name in row))
    filled = [{name: row.get(name, math.nan) for name in names} for row in rows]
    work.results.table("BF_TB", with_units(filled), caption="Widths at half of full scale, and "
                       "their growth per 1e4 ADU")  # fmt: skip


WORKERS: tuple[Callable[..., Any], ...] = (
    measure_covariances, correct_pair, measure_edges, *PREPARE_WORKERS,
)  # fmt: skip

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
