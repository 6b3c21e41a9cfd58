# SPDX-License-Identifier: BSD-3-Clause
"""The light: a lamp, a shutter, a flat field or stars. Expected electrons of each pixel."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nightjar.calibration.detector import Detector
from nightjar.errors import InvalidArgument
from nightjard.simulators.detector.geometry import axes, field, silicon_size
from nightjard.simulators.detector.profile import Profile
from nightjard.simulators.detector.truth import Truth

Value = str | int | float
Image = NDArray[np.float32]
Box = tuple[int, int, int, int]

#: Width of a star at which the profile's saturation times hold.
_ANCHOR_FWHM_PX = 2.5
_FWHM_PER_SIGMA = math.sqrt(8.0 * math.log(2.0))
#: Light of a star below this is left out, electrons per pixel.
_FAINTEST_E = 0.02
_WIDEST_MOFFAT_PX = 60


@dataclass(frozen=True)
class StarImage:
    """A star as it falls on a CCD: physical place, light, width before pixels."""

    name: str
    x: float
    y: float
    electrons: float
    fwhm_px: float


@dataclass(frozen=True)
class Light:
    """What shines during an exposure."""

    source: str
    wave_nm: int
    open_s: float
    lamp: float


def lamp_factor(truth: Truth, time_ns: int) -> float:
    """Return the lamp's light beside its mean."""
    turn = (time_ns % int(truth.light.lamp_period_s * 1e9)) / (truth.light.lamp_period_s * 1e9)
    return 1.0 + truth.light.lamp_amplitude * math.sin(
        2.0 * math.pi * turn + truth.light.lamp_phase
    )


def light_of(values: Mapping[str, Value], truth: Truth, profile: Profile, time_ns: int) -> Light:
    """Return the light of a commanded exposure.

    Raises
    ------
    InvalidArgument
        A source that the bench does not have.
    """
    source = str(values.get("source", "flat"))
    if source not in ("flat", "point"):
        raise InvalidArgument(f"source {source!r}; the bench has flat and point")
    commanded = float(values.get("exptime", 0.0))
    wave = profile.wave_of(int(values.get("wave", 4)))
    if commanded <= 0.0 or not int(values.get("shuttr", 1)):
        return Light(source, wave, 0.0, 1.0)
    open_s = profile.actual_exposure_s(commanded) + truth.light.shutter_error_s
    middle = time_ns + int(0.5e9 * open_s)
    return Light(source, wave, max(open_s, 0.0), lamp_factor(truth, middle))


def flat(
    detector: Detector, truth: Truth, profile: Profile, light: Light, ccd: int, quadrant: str
) -> Image:
    """Return the electrons that a flat field gives to pixels of even response.

    An exposure of the saturation time gives as many as the converter has levels, at the nominal
    gain.
    """
    rate = detector.adc_full_scale * detector.gain_e_adu / profile.saturation_s(
        "flat", light.wave_nm
    )  # fmt: skip
    level = rate * light.open_s * light.lamp * truth.light.flat_rate_factor
    c0, c1, c2, c3, c4 = truth.light.illumination[str(ccd)]
    u, v = field(detector, quadrant)
    across = level * (1.0 + c0 * u + c2 * (u * u - 1.0 / 3.0))
    along = level * (c1 * v + c3 * (v * v - 1.0 / 3.0))
    image = np.add.outer(along.astype(np.float32), across.astype(np.float32))
    if c4:
        image += np.multiply.outer((level * c4 * v).astype(np.float32), u.astype(np.float32))
    return image


def stars(
    detector: Detector, truth: Truth, profile: Profile, light: Light, ccd: int,
    values: Mapping[str, Value], obsid: int,
) -> list[StarImage]:  # fmt: skip
    """Return the stars of a CCD: places, light, widths."""
    t = truth.stars
    peak = detector.point_saturation_adu * detector.gain_e_adu
    total = peak * 2.0 * math.pi * (_ANCHOR_FWHM_PX / _FWHM_PER_SIGMA) ** 2
    rate = total / profile.saturation_s("point", light.wave_nm) * truth.light.point_rate_factor
    width, height = silicon_size(detector)
    angle = math.radians(t.rotation_deg)
    cosine, sine = t.scale * math.cos(angle), t.scale * math.sin(angle)
    if int(values.get("mirr_on", 0)):
        mirror = float(values.get("mirr_pos", 0.0))
    else:
        mirror = profile.mirror_mm(light.wave_nm)
    step = dither_px(detector, values, obsid)
    found = []
    for spot in profile.spots(ccd, detector):
        name = f"{ccd}{spot.id}"
        if name in t.missing:
            continue
        x = cosine * spot.x - sine * spot.y + t.shift_px[0] + step
        y = sine * spot.x + cosine * spot.y + t.shift_px[1]
        u, v = x / width - 0.5, y / height - 0.5
        focus = t.focus_mm + t.tilt_mm[0] * u + t.tilt_mm[1] * v
        fwhm = min(math.hypot(t.fwhm0_px, t.slope_px_mm * (mirror - focus)), t.largest_fwhm_px)
        electrons = rate * light.open_s * light.lamp * t.brightness.get(name, 1.0)
        found.append(StarImage(name, x, y, electrons, fwhm))
    return found


def dither_px(detector: Detector, values: Mapping[str, Value], obsid: int) -> float:
    """Return the source's step in x: it goes through ``motr_cnt`` places, one an exposure."""
    count = int(values.get("motr_cnt", 0))
    if not int(values.get("motr_on", 0)) or count < 2:
        return 0.0
    place = obsid % count - 0.5 * (count - 1)
    return place * float(values.get("motr_siz", 0.0)) / detector.pixel_um


def add_stars(
    image: Image, found: list[StarImage], detector: Detector, truth: Truth, quadrant: str
) -> list[Box]:
    """Add stars to a quadrant; return the boxes (row, end, column, end) in which they are."""
    xs, ys = axes(detector, quadrant)
    boxes = []
    for star in found:
        half = _reach(star, truth)
        inside_x = np.flatnonzero(np.abs(xs - star.x) <= half)
        inside_y = np.flatnonzero(np.abs(ys - star.y) <= half)
        if not inside_x.size or not inside_y.size or star.electrons <= 0.0:
            continue
        box = (int(inside_y[0]), int(inside_y[-1]) + 1, int(inside_x[0]), int(inside_x[-1]) + 1)
        light = _integrated(xs[box[2] : box[3]] - star.x, ys[box[0] : box[1]] - star.y, star, truth)
        image[box[0] : box[1], box[2] : box[3]] += light
        boxes.append(box)
    return boxes


def _reach(star: StarImage, truth: Truth) -> float:
    """Return the radius beyond which a star's light is not worth a sum."""
    sigma = star.fwhm_px / _FWHM_PER_SIGMA
    if truth.stars.profile == "moffat":
        return max(_WIDEST_MOFFAT_PX, 6.0 * sigma)
    peak = max(star.electrons / (2.0 * math.pi * sigma**2), _FAINTEST_E * 2.0)
    return 1.5 + sigma * 1.05 * math.sqrt(2.0 * math.log(peak / _FAINTEST_E))


def _integrated(
    dx: NDArray[np.float64], dy: NDArray[np.float64], star: StarImage, truth: Truth
) -> Image:
    """Return a star's electrons in pixels (dy, dx), by Gauss-Legendre sums over each pixel.

    Four points a side integrate a Gaussian of 2 px FWHM to 1e-6 of its peak.
    """
    t = truth.stars
    sigma = star.fwhm_px / _FWHM_PER_SIGMA
    points = 4 if sigma < 2.5 else 2 if sigma < 6.0 else 1
    nodes, weights = np.polynomial.legendre.leggauss(points)
    x = np.add.outer(dx, 0.5 * nodes).ravel()
    y = np.add.outer(dy, 0.5 * nodes).ravel()
    # The inverse of the matrix of second moments sigma^2 (1 + e1, e2; e2, 1 - e1).
    determinant = 1.0 - t.e1**2 - t.e2**2
    a, b, c = (1.0 - t.e1), -t.e2, (1.0 + t.e1)
    r2 = np.add.outer(c * y * y, a * x * x) + 2.0 * b * np.multiply.outer(y, x)
    r2 /= determinant * sigma**2
    if t.profile == "moffat":
        beta = t.moffat_beta
        alpha2 = (0.5 * _FWHM_PER_SIGMA) ** 2 / (2.0 ** (1.0 / beta) - 1.0)
        density = (beta - 1.0) / (math.pi * alpha2) * (1.0 + r2 / alpha2) ** -beta
    else:
        density = np.exp(-0.5 * r2) / (2.0 * math.pi)
    density *= star.electrons / (sigma**2 * math.sqrt(determinant))
    folded = density.reshape(dy.size, points, dx.size, points)
    light = np.einsum("ipjq,p,q->ij", folded, 0.5 * weights, 0.5 * weights)
    return np.asarray(light, np.float32)
