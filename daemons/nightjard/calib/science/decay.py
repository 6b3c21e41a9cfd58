# SPDX-License-Identifier: BSD-3-Clause
"""Persistence: which pixels saturated, what they give to later frames, how it decays.

The charge is what pixels that saturated hold more than pixels beside them that did not, in the
same frame: offset and dark current cancel. Model: q(t) = q0 exp(-t/tau) since the exposure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


def saturated(
    pixels: NDArray[Any], bad: Mask, *, full_well_adu: float, part: float, top_adu: float
) -> Mask:
    """Return which pixels of an exposure are saturated and are no blemishes.

    Parameters
    ----------
    pixels
        Above the offset, ADU.
    bad
        Blemishes; pixels at the top of the converter are not.
    full_well_adu, part
        A pixel that holds this part of a full well is saturated, though the converter is not.
    top_adu
        Top of the converter above the offset.
    """
    return np.asarray((pixels >= min(part * full_well_adu, top_adu)) & ~bad)


def beside(mask: Mask, lit: Mask, bad: Mask, *, near_px: int = 2, far_px: int = 10) -> Mask:
    """Return pixels beside saturated ones, to compare with: a ring about them.

    Parameters
    ----------
    lit
        Pixels that got so much light that they may be latent as well; they are left out.
    """
    box = np.ones((3, 3), bool)
    inner = binary_dilation(mask | lit, box, iterations=max(near_px, 1))
    outer = binary_dilation(inner, box, iterations=max(far_px - near_px, 1))
    return np.asarray(outer & ~inner & ~bad)


def statistics(values: NDArray[Any]) -> dict[str, float]:
    """Return mean (outliers beyond 5 sigma left out), percentiles, deviation and number."""
    if not values.size:
        names = ("mean", "p25", "p50", "p75", "std")
        return {**dict.fromkeys(names, math.nan), "count": 0}
    data = np.asarray(values, np.float64)
    p25, p50, p75 = np.percentile(data, [25, 50, 75])
    width = max((p75 - p25) / 1.349, 1e-6)
    kept = data[np.abs(data - p50) <= 5 * width]
    return {
        "mean": float(kept.mean()), "p25": float(p25), "p50": float(p50), "p75": float(p75),
        "std": float(kept.std(ddof=1)) if kept.size > 1 else math.nan, "count": int(kept.size),
    }  # fmt: skip


def excess(inside: dict[str, float], outside: dict[str, float]) -> tuple[float, float]:
    """Return what the mean inside is above that beside, and its error."""
    if not inside["count"] or not outside["count"]:
        return math.nan, math.nan
    error = math.hypot(
        inside["std"] / math.sqrt(inside["count"]), outside["std"] / math.sqrt(outside["count"])
    )
    return inside["mean"] - outside["mean"], error


@dataclass(frozen=True)
class Decay:
    """A decay that was fitted.

    Attributes
    ----------
    charge, charge_error
        q0, in the unit of the data.
    tau_s, tau_error_s
        NaN where there is too little charge to tell.
    is_detected
        The charge is beyond 3 sigma.
    """

    charge: float
    charge_error: float
    tau_s: float
    tau_error_s: float
    chi2: float
    degrees: int
    is_detected: bool


def fit_decay(
    time_s: Floats, charge: Floats, error: Floats, *, common_error: float = 0.0,
    assumed_tau_s: float = 900.0, tau_range_s: tuple[float, float] = (10.0, 1e6),
) -> Decay:
    """Fit q0 and tau; q0 is solved for exactly at every tau of a logarithmic grid, then refined.

    Where all charge together is within 3 sigma of none, only q0 is fitted, tau held at
    `assumed_tau_s`: with an error that says how little is known.

    Parameters
    ----------
    error, common_error
        1 sigma of each charge of its own, and of what was subtracted from all of them alike.
    """
    good = np.isfinite(charge) & np.isfinite(error) & (error > 0)
    t, y, s = (np.asarray(one, np.float64)[good] for one in (time_s, charge, error))
    if not len(t):
        return Decay(math.nan, math.nan, math.nan, math.nan, math.nan, 0, False)
    weight: Floats = np.linalg.inv(np.diag(s**2) + common_error**2).astype(np.float64)
    pull = float((weight @ y).sum()) / math.sqrt(float(weight.sum()))
    is_detected = pull > 3
    if not is_detected or len(t) < 2:
        form = np.exp(-t / assumed_tau_s)
        power = float(form @ weight @ form)
        q0 = float(form @ weight @ y) / power
        chi2 = _chi2(y - q0 * form, weight)
        return Decay(q0, 1 / math.sqrt(power), math.nan, math.nan, chi2, len(t) - 1, is_detected)
    log_tau = _best_tau(t, y, weight, tau_range_s)
    tau = math.exp(log_tau)
    form = np.exp(-t / tau)
    q0 = float(form @ weight @ y) / float(form @ weight @ form)
    slope = q0 * form * t / tau  # by the logarithm of tau
    design = np.stack([form, slope], axis=1)
    covariance = np.linalg.pinv(design.T @ weight @ design)
    chi2 = _chi2(y - q0 * form, weight)
    return Decay(
        q0, math.sqrt(max(float(covariance[0, 0]), 0)), tau,
        tau * math.sqrt(max(float(covariance[1, 1]), 0)), chi2, len(t) - 2, True,
    )  # fmt: skip


def _chi2(rest: Floats, weight: Floats) -> float:
    return float(rest @ weight @ rest)


def _best_tau(t: Floats, y: Floats, weight: Floats, span: tuple[float, float]) -> float:
    grid = np.linspace(math.log(span[0]), math.log(span[1]), 400)
    for _ in range(4):
        form = np.exp(-t[None, :] / np.exp(grid)[:, None])
        ag, gg = form @ weight @ y, np.einsum("ij,jk,ik->i", form, weight, form)
        won = np.where((ag > 0) & (gg > 0), ag**2 / np.where(gg > 0, gg, 1), 0)
        best, step = float(grid[int(np.argmax(won))]), float(grid[1] - grid[0])
        grid = np.linspace(best - step, best + step, 41)
    return best
