# SPDX-License-Identifier: BSD-3-Clause
"""Best focus of spots from their widths over a sweep of the mirror.

A defocused spot is as wide as ``FWHM^2 = f0^2 + (k (z - z0))^2``: a parabola in FWHM squared, which
is fitted linearly and exactly. (A parabola in FWHM itself is wrong by 0.1 px and 0.05 mm.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjard.calib.science.robust import robust_sigma

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

LEAST_POINTS = 4
_CLIP = 4.0
#: Least error of a width, px: shapes are no perfect Gaussians.
_FLOOR_PX = 0.003


@dataclass(frozen=True)
class FocusCurve:
    """The focus of one spot. Errors are 1 sigma; NaN where there is no minimum.

    Attributes
    ----------
    z0_mm, f0_px
        Mirror position and FWHM at the minimum.
    slope_px_mm
        k, how fast it widens.
    parameters
        Of ``FWHM^2 = a + b u + c u^2`` with u = z - `centre_mm`.
    used
        Which points were kept.
    """

    z0_mm: float
    z0_error_mm: float
    f0_px: float
    f0_error_px: float
    slope_px_mm: float
    slope_error_px_mm: float
    chi2: float
    parameters: tuple[float, float, float]
    centre_mm: float
    used: tuple[bool, ...]

    @property
    def is_good(self) -> bool:
        """There is a minimum."""
        return bool(np.isfinite(self.z0_mm))

    def fwhm_px(self, z_mm: Any) -> Floats:
        """Return the width at mirror positions."""
        u = np.asarray(z_mm, float) - self.centre_mm
        a, b, c = self.parameters
        return np.asarray(np.sqrt(np.maximum(a + b * u + c * u * u, 0.0)))


def fit_focus(z_mm: Any, fwhm_px: Any, error_px: Any) -> FocusCurve:
    """Return the focus of a spot: weighted fit, points outside of 4 sigma are rejected.

    Parameters
    ----------
    z_mm, fwhm_px, error_px : arrays (n,)
        Mirror positions, widths, errors of the widths; what is not finite is left out.
    """
    z, fwhm, error = (np.asarray(one, float) for one in (z_mm, fwhm_px, error_px))
    used = np.isfinite(z) & np.isfinite(fwhm) & np.isfinite(error) & (fwhm > 0)
    centre = float(np.mean(z[used])) if used.any() else 0.0
    error = np.hypot(error, _FLOOR_PX)
    u, square = z - centre, fwhm**2
    weight = np.where(used, 1.0 / np.where(used, 2 * fwhm * error, 1.0) ** 2, 0.0)
    parameters, covariance, chi2 = _no_fit()
    for _round in range(len(z)):
        if np.unique(z[used]).size < LEAST_POINTS:
            return _none(centre, used)
        parameters, covariance, chi2 = _parabola(u, square, np.where(used, weight, 0.0))
        miss = np.abs(square - _value(parameters, u)) * np.sqrt(weight)
        spread = max(1.0, robust_sigma(np.r_[miss[used], -miss[used]]))
        worst = int(np.argmax(np.where(used, miss, -1.0)))
        if miss[worst] <= _CLIP * spread or used.sum() <= LEAST_POINTS + 1:
            break
        used = used.copy()
        used[worst] = False
    return _curve(parameters, covariance, chi2, centre, used)


def _no_fit() -> tuple[Floats, Floats, float]:
    return np.full(3, np.nan), np.full((3, 3), np.nan), float("nan")


def _value(parameters: Floats, u: Floats) -> Floats:
    return np.asarray(parameters[0] + parameters[1] * u + parameters[2] * u * u)


def _parabola(u: Floats, square: Floats, weight: Floats) -> tuple[Floats, Floats, float]:
    design = np.stack([np.ones_like(u), u, u * u], axis=1)
    normal = design.T @ (weight[:, None] * design)
    covariance = np.linalg.pinv(normal, hermitian=True)
    parameters = covariance @ (design.T @ (weight * np.where(weight > 0, square, 0.0)))
    miss = np.where(weight > 0, square - design @ parameters, 0.0)
    freedom = int((weight > 0).sum()) - 3
    chi2 = float((weight * miss**2).sum() / freedom) if freedom > 0 else 1.0
    # Where the widths scatter more than their errors say, the errors are larger.
    return parameters, np.asarray(covariance * max(chi2, 1.0), float), chi2


def _curve(
    parameters: Floats, covariance: Floats, chi2: float, centre: float, used: Bools
) -> FocusCurve:
    a, b, c = (float(one) for one in parameters)
    bottom = a - b * b / (4 * c) if c > 0 else -1.0
    # A minimum that is not clearly one is none: half of such would be maxima.
    if c <= 2 * float(np.sqrt(covariance[2, 2])) or bottom <= 0:
        return _none(centre, used, (a, b, c), chi2)
    f0, k = float(np.sqrt(bottom)), float(np.sqrt(c))
    of_z = np.array([0.0, -1 / (2 * c), b / (2 * c * c)])
    of_f = np.array([1.0, -b / (2 * c), b * b / (4 * c * c)]) / (2 * f0)
    of_k = np.array([0.0, 0.0, 1 / (2 * k)])
    errors = [float(np.sqrt(one @ covariance @ one)) for one in (of_z, of_f, of_k)]
    return FocusCurve(
        centre - b / (2 * c), errors[0], f0, errors[1], k, errors[2], chi2, (a, b, c), centre,
        tuple(bool(one) for one in used),
    )  # fmt: skip


def _none(
    centre: float, used: Bools, parameters: tuple[float, float, float] | None = None,
    chi2: float = float("nan"),
) -> FocusCurve:  # fmt: skip
    nan = float("nan")
    return FocusCurve(
        nan, nan, nan, nan, nan, nan, chi2, parameters or (nan, nan, nan), centre,
        tuple(bool(one) for one in used),
    )


def pushing_light(peak_adu: Any, fwhm_px: Any) -> Floats:
    """Return the light of spots as far as it widens them (brighter-fatter), ADU.

    Charge is pushed over the edge of a pixel by what the pixel holds more than the next one: of
    spots with the same peak the wider ones are widened more. peak exp(-1 / (2 s^2)), s^2 with the
    pixel's own 1/12, is in proportion to the growth of FWHM squared within 5 % for widths of 2.1
    to 3.5 px (as fitted to spots of a Gaussian profile whose charge was pushed step by step).
    """
    variance = np.asarray(fwhm_px, float) ** 2 / (8.0 * np.log(2.0)) + 1.0 / 12.0
    return np.asarray(np.asarray(peak_adu, float) * np.exp(-0.5 / variance))


def growth_with_light(
    curves: list[FocusCurve], z_mm: list[Any], fwhm_px: list[Any], error_px: list[Any],
    light_adu: list[Any],
) -> tuple[float, float]:  # fmt: skip
    """Return by how much FWHM squared grows with the light, px^2 per ADU, and its error.

    Spots are brightest where they are narrowest, and charge in a pixel pushes the next away
    (brighter-fatter): FWHM^2 = a + b u + c u^2 + g light, with one g for all spots; the light is
    that of :func:`pushing_light`. What the parabola of each spot can explain is taken off light
    and widths before g is fitted. NaN where the sweep cannot tell.
    """
    above = below = chi2 = 0.0
    freedom = -1
    for curve, z, fwhm, error, peak in zip(
        curves, z_mm, fwhm_px, error_px, light_adu, strict=True
    ):  # fmt: skip
        used = np.array(curve.used, bool)
        if not curve.is_good or used.sum() < LEAST_POINTS + 1:
            continue
        u, width, sigma, light = (
            np.asarray(one, float)[used] for one in (z, fwhm, error, peak)
        )  # fmt: skip
        u = u - curve.centre_mm
        root = 1.0 / (2 * width * np.hypot(sigma, _FLOOR_PX))
        basis, _ = np.linalg.qr(root[:, None] * np.stack([np.ones_like(u), u, u * u], axis=1))
        x, y = root * light, root * width**2
        x, y = x - basis @ (basis.T @ x), y - basis @ (basis.T @ y)
        above += float(x @ y)
        below += float(x @ x)
        chi2 += float(y @ y)
        freedom += len(u) - 3
    if below <= 0 or freedom < 1:
        return float("nan"), float("nan")
    growth = above / below
    spread = max((chi2 - growth * above) / freedom, 0.0)
    return growth, float(np.sqrt(max(spread, 0.05) / below))


@dataclass(frozen=True)
class FocusPlane:
    """Best focus over the field: ``z = centre + tilt_x u / 2 + tilt_y v / 2``, u, v from -1 to 1.

    A tilt is the difference from edge to edge of the silicon. Errors are 1 sigma.
    """

    centre_mm: float
    centre_error_mm: float
    tilt_x_mm: float
    tilt_x_error_mm: float
    tilt_y_mm: float
    tilt_y_error_mm: float
    used: tuple[bool, ...]
    rms_mm: float

    def at(self, u: Any, v: Any) -> Floats:
        """Return the best focus at places of the field."""
        return np.asarray(
            self.centre_mm + self.tilt_x_mm * np.asarray(u) / 2
            + self.tilt_y_mm * np.asarray(v) / 2
        )  # fmt: skip


def fit_plane(u: Any, v: Any, z_mm: Any, error_mm: Any) -> FocusPlane | None:
    """Return the plane of best focus over spots; None with fewer than four of them.

    Parameters
    ----------
    u, v : arrays (n,)
        Place in the field, -1 to 1 from edge to edge.
    z_mm, error_mm : arrays (n,)
        Best focus of spots; those outside of 4 sigma are rejected, the farthest first.
    """
    u, v, z, error = (np.asarray(one, float) for one in (u, v, z_mm, error_mm))
    used = np.isfinite(z) & np.isfinite(error) & (error > 0)
    design = np.stack([np.ones_like(u), u / 2, v / 2], axis=1)
    while used.sum() >= LEAST_POINTS:
        typical = float(np.median(error[used]))
        # No spot outweighs the others by more than an error half the usual one allows.
        weight = np.where(used, 1.0 / np.maximum(np.where(used, error, 1), typical / 2) ** 2, 0.0)
        normal = design.T @ (weight[:, None] * design)
        covariance = np.linalg.pinv(normal, hermitian=True)
        parameters = covariance @ (design.T @ (weight * np.where(used, z, 0.0)))
        miss = np.where(used, z - design @ parameters, 0.0)
        freedom = int(used.sum()) - 3
        chi2 = float((weight * miss**2).sum() / freedom)
        spread = np.maximum(np.where(used, error, 1), robust_sigma(miss[used]))
        far = np.where(used, np.abs(miss) / spread, 0.0)
        worst = int(np.argmax(far))
        if far[worst] <= _CLIP or used.sum() <= LEAST_POINTS + 1:
            scaled = np.sqrt(np.diag(covariance) * max(chi2, 1.0))
            return FocusPlane(
                float(parameters[0]), float(scaled[0]), float(parameters[1]), float(scaled[1]),
                float(parameters[2]), float(scaled[2]), tuple(bool(one) for one in used),
                float(np.sqrt(np.mean(miss[used] ** 2))),
            )  # fmt: skip
        used = used.copy()
        used[worst] = False
    return None


def sweep_problem(z_mm: Any, best_mm: float) -> str:
    """Return why a best focus is not covered by its sweep; empty where it is.

    It must lie inside the sweep, farther from its ends than a step.
    """
    steps = np.unique(np.round(np.asarray(z_mm, float), 6))
    if len(steps) < 2 or not np.isfinite(best_mm):
        return "the sweep has no minimum"
    step = float(np.median(np.diff(steps)))
    low, high = float(steps[0]), float(steps[-1])
    where = f"best focus {best_mm:.3f} mm, sweep {low:.3f} to {high:.3f} mm"
    if best_mm < low or best_mm > high:
        return f"{where}: outside of the sweep"
    if best_mm < low + step or best_mm > high - step:
        return f"{where}: within a step of its end"
    return ""
