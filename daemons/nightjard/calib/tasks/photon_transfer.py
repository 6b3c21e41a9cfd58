# SPDX-License-Identifier: BSD-3-Clause
"""PTC01, PTC02: gain, read noise, brighter-fatter term, full well, transfer inefficiency.

Tables that are left: ``PTC`` (a tile of a pair a row), ``PTC_NOISE`` (the prescan of a pair),
``PTC_LAGS`` (covariances with the next pixels), ``PTC_TRAILS`` (what trails behind the image),
``GAIN_TB``, ``HER`` and ``HER_profiles``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjard.calib.checks import check
from nightjard.calib.preparing import PREPARE_WORKERS, is_dry, prep_subtask
from nightjard.calib.science.covariance import Coefficients, fit_coefficients
from nightjard.calib.science.edge_response import inefficiency
from nightjard.calib.science.full_well import FullWell, find_knee
from nightjard.calib.science.photon_transfer import (
    PLAIN,
    Points,
    Transfer,
    bootstrap,
    fit_transfer,
    moments_like,
    moments_of,
    trailing_factors,
)
from nightjard.calib.task import Subtask, Task
from nightjard.calib.tasks import flux
from nightjard.calib.tasks.trails import (
    extract_edges,
    measure_edges,
    smoothing_of,
    trails_of,
    transfers_of,
)
from nightjard.calib.tasks.transfer_figures import draw_curves, leave_maps, well_map
from nightjard.calib.tasks.transfer_options import (
    Channel,
    TransferOptions,
    channels_of,
    optional_table,
    options_of,
    rows_of,
    with_units,
)
from nightjard.calib.tasks.transfer_pairs import extract_transfer, measure_pair
from nightjard.calib.work import Work

_MOST_CHI2 = 2.0
_MOST_NEIGHBOURS = 1.6  # sum of squares of all coefficients by that of the own one


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
    points: Points, options: TransferOptions, full_scale: float, moments: tuple[float, ...]
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
        fit = fit_transfer(points.chosen(inside), model=options.model, moments=moments)
        well = find_knee(points, fit, from_adu=min(options.full_well_from * full_scale, high))
        if math.isnan(well.onset) or 0.93 * well.onset >= high:
            break
        high = 0.93 * well.onset
    return fit, well


def shape_of(
    lags: Any, channel: Channel, gain: float, options: TransferOptions, full_scale: float,
    smoothed: NDArray[np.float64] | None = None,
) -> tuple[float, ...]:
    """Return the moments of the coefficients (the shape of the curve) from covariances.

    Those without neighbours where there are too few levels.
    """
    if options.neighbours is not None:
        return moments_like(options.neighbours)
    fitted = None if lags is None else lag_coefficients(
        rows_of(lags, channel), gain, options.fit_from * full_scale, options.fit_to * full_scale,
        smoothed,
    )  # fmt: skip
    if fitted is None or fitted.values[0, 0] >= 0:
        return PLAIN
    moments = moments_of(fitted.values)
    # A coefficient that is not seen makes noise of its neighbours' shares.
    return moments if moments[2] < _MOST_NEIGHBOURS else PLAIN


def lag_coefficients(
    rows: Any, gain: float, low: float, high: float, smoothed: NDArray[np.float64] | None = None
) -> Coefficients | None:
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
        np.array(levels) * gain, np.array(values) * gain**2, np.array(errors) * gain**2,
        has_linear=smoothed is None, smoothed=1.0 if smoothed is None else smoothed,
    )  # fmt: skip


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
            smoothed = smoothing_of(work, trails, channel)
            fitted = _fit_channel(work, channel, points, lags, number, smoothed)
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
    leave_maps(work, maps)
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
    work: Work, channel: Channel, points: Points, lags: Any, seed: int,
    smoothed: NDArray[np.float64] | None,
) -> tuple[dict[str, Any], Transfer, FullWell]:
    options, full = options_of(work), float(work.detector.adc_full_scale)
    fit, well = fit_points(points, options, full, PLAIN)
    moments = shape_of(lags, channel, fit.gain, options, full, smoothed)
    if moments != PLAIN:
        fit, well = fit_points(points, options, full, moments)
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
        "neighbours": fit.moments[2], "reduced_chi2": fit.reduced_chi2, "points": fit.points,
        "bloom": well.level, "bloom_error": well.error, "bloom_e": well.level * gain,
        "is_lower_limit": not well.is_reached, "quality": quality,
    }  # fmt: skip


# --- maps and figures ---


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
