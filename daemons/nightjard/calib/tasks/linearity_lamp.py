# SPDX-License-Identifier: BSD-3-Clause
"""The lamp along a linearity test, and the charge that bright frames leave in later ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjard.calib.science.latent import Fading, fading, latent_shape
from nightjard.calib.science.linearity import lamp_and_latent
from nightjard.calib.science.robust import Polynomial
from nightjard.calib.tasks.exposure_plan import Plan
from nightjard.calib.tasks.transfer_options import Channel, with_units
from nightjard.calib.work import Work

Cubes = dict[Channel, tuple[NDArray[Any], NDArray[Any]]]

_FAINT = 0.015  # of full scale: above, the lamp changes more than what fades
_OFFSET_ADU = 0.02  # error of the offset of a frame
_BRIGHT = (1.0, 1.04, 1.08, 1.12)  # times the level from which on frames leave charge
_LAMP = 2e-4  # by which the lamp may change between frames of one exposure


def take_out_fading(work: Work, plan: Plan, cubes: Cubes) -> None:
    """Take out of all levels what an earlier test left, where it is seen."""
    levels = np.stack([_mean(level) for level, _ in cubes.values()], axis=1)
    errors = np.stack([_error(error) for _, error in cubes.values()], axis=1)
    faint = np.isfinite(levels).all(axis=1) & (
        np.nanmax(np.where(np.isfinite(levels), levels, np.inf), axis=1)
        < _FAINT * work.detector.adc_full_scale
    )
    if int(faint.sum()) < 3:
        return
    lit = np.round(plan.exposure_s, 4) + 1e4 * plan.wave * (plan.exposure_s > 0)
    _, kind = np.unique(lit, return_inverse=True)
    error = np.hypot(np.hypot(errors, _OFFSET_ADU), _LAMP * levels)
    found: Fading = fading(plan.time_s[faint], levels[faint], error[faint], kind[faint])
    if not found.charge.any():
        return
    for (level, _), charge in zip(cubes.values(), found.at(plan.time_s), strict=True):
        level -= charge[:, None]
    work.results.value("faded_charge", float(np.median(found.charge)), unit="ADU",
                       note="left by an earlier test at the first frame; taken out")  # fmt: skip
    work.results.value("faded_tau", found.tau_s, unit="s")


def _mean(level: NDArray[Any]) -> NDArray[np.float64]:
    """Return the mean level of each frame; NaN where no tile counts."""
    count = np.isfinite(level).sum(axis=1)
    total = np.where(np.isfinite(level), level, 0.0).sum(axis=1)
    return np.asarray(np.where(count, total / np.maximum(count, 1), np.nan), np.float64)


def _error(error: NDArray[Any]) -> NDArray[np.float64]:
    count = np.maximum(np.isfinite(error).sum(axis=1), 1)
    square = np.where(np.isfinite(error), error**2, 0.0).sum(axis=1)
    return np.asarray(np.sqrt(square) / count, np.float64)


def follow_lamp(
    work: Work, plan: Plan, cubes: Cubes, latent_from: float, latent_tau_s: float
) -> Polynomial | None:
    """Return the lamp's track; take the latent charge of bright frames out of all levels."""
    stable = plan.is_stable
    if int(stable.sum()) < 3:
        work.results.flag("BADDATAPROD", cause=f"{int(stable.sum())} frames of one exposure do "
                          "not tell how the lamp drifts")  # fmt: skip
        return None
    level = np.concatenate([one[stable] for one, _ in cubes.values()], axis=1)
    error = np.concatenate([one[stable] for _, one in cubes.values()], axis=1)
    known = np.isfinite(level).any(axis=0)
    track, latent, shape = _followed(
        plan, level[:, known], error[:, known],
        _latent_shapes(work, plan, cubes, latent_from, latent_tau_s),
    )
    if latent:
        _take_out(work, cubes, shape, latent, stable)
        level = np.concatenate([one[stable] for one, _ in cubes.values()], axis=1)
    fine = np.linspace(float(plan.time_s[0]), float(plan.time_s[-1]), 200)
    drift = 100.0 * float(np.ptp(track(fine)))
    work.results.value("lamp_drift", drift, error=100.0 * track.rms, unit="%",
                       note="largest less smallest brightness along the test")  # fmt: skip
    work.results.value("lamp_stability", 100.0 * track.rms, unit="%", note="rms about the track")
    middle = np.nanmean(level / np.nanmedian(level, axis=0), axis=1)
    middle *= np.nanmedian(track(plan.time_s[stable]) / middle)
    rows = [
        {"obsid": int(obsid), "time": float(time), "brightness": float(value),
         "track": float(track(time)), "is_used": bool(kept)}
        for obsid, time, value, kept in zip(
            plan.obsids[stable], plan.time_s[stable], middle, track.kept, strict=True
        )
    ]  # fmt: skip
    work.results.table("NL_LAMP", with_units(rows, {"time": "s"}), show=False,
                       caption="Brightness of the lamp")  # fmt: skip
    _draw(work, plan.time_s[stable], middle, track, fine)
    return track


def _draw(
    work: Work, time_s: NDArray[Any], brightness: NDArray[Any], track: Polynomial,
    fine: NDArray[Any],
) -> None:  # fmt: skip
    from nightjard.calib import plotting

    figure = plotting.new_figure(7.0, 3.5)
    figure.subplots_adjust(left=0.12, right=0.97, top=0.9, bottom=0.15)
    figure.suptitle(f"{work.dataset.test}: lamp", fontsize=11)
    axis = figure.subplots()
    axis.plot(time_s / 3600.0, 100.0 * (brightness - 1.0), "o", ms=3, label="frames")
    axis.plot(fine / 3600.0, 100.0 * (track(fine) - 1.0), lw=0.8, label="track")
    axis.set_xlabel("hours since the first exposure", fontsize=9)
    axis.set_ylabel("brightness - 1 / %", fontsize=9)
    axis.tick_params(labelsize=7)
    axis.legend(fontsize=8, frameon=False, loc="upper right")
    work.results.figure("lamp", figure, caption="Lamp along the test; the track is divided out of "
                        "all frames")  # fmt: skip


def _followed(
    plan: Plan, level: NDArray[Any], error: NDArray[Any], shapes: list[NDArray[np.float64]]
) -> tuple[Polynomial, float, NDArray[np.float64]]:
    """Return the lamp and the latent charge of the shape that leaves the least scatter."""
    stable = plan.is_stable
    found = [
        (*lamp_and_latent(plan.time_s[stable], level, error, shape[stable]), shape)
        for shape in shapes
    ]
    told = [one for one in found if one[1] > 0]
    return min(told or found[:1], key=lambda one: one[0].rms)


def _latent_shapes(
    work: Work, plan: Plan, cubes: Cubes, latent_from: float, latent_tau_s: float
) -> list[NDArray[np.float64]]:
    """Return at each frame what is left of the charge that bright frames trap, 0 to 1.

    Wells differ between quadrants, and lamps light them unevenly, so the level from which on frames
    are bright is not known to some percent: several are tried.
    """
    middle = np.stack([_middle(level) for level, _ in cubes.values()]).max(axis=0)
    least = latent_from * work.detector.adc_full_scale
    shapes: dict[bytes, NDArray[np.float64]] = {}
    for factor in _BRIGHT:
        bright = middle > factor * least
        shapes.setdefault(bright.tobytes(), latent_shape(plan.time_s, bright, latent_tau_s))
    return list(shapes.values())


def _middle(level: NDArray[Any]) -> NDArray[np.float64]:
    """Return the median level of each frame; 0 where no tile counts."""
    filled = np.where(np.isfinite(level), level, 0.0)
    return np.asarray(np.median(filled, axis=1), np.float64)


def _take_out(
    work: Work, cubes: Cubes, shape: NDArray[np.float64], latent: float,
    stable: NDArray[np.bool_],
) -> None:  # fmt: skip
    levels = []
    for level, _ in cubes.values():
        charge = latent * float(np.nanmedian(level[stable]))
        level -= charge * shape[:, None]
        levels.append(charge)
    work.results.value("latent_charge", float(np.median(levels)), unit="ADU",
                       note="that bright frames left in the next; taken out")  # fmt: skip
