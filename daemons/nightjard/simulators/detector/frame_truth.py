# SPDX-License-Identifier: BSD-3-Clause
"""What one simulated exposure was made of."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from nightjar.calibration.detector import Detector
from nightjard.simulators.detector.geometry import axes
from nightjard.simulators.detector.scene import StarImage
from nightjard.simulators.detector.truth import Truth

_FWHM2_PER_VARIANCE = 8.0 * math.log(2.0)


@dataclass(frozen=True)
class ChannelFrame:
    """One quadrant of one exposure.

    Attributes
    ----------
    light_e
        Mean expected electrons of light over the image area, response included.
    mean_e, peak_e
        Electrons before transfer, all effects included.
    gain_e_adu, offset_adu
        At this exposure.
    latent_e
        Mean expected electrons of persistence.
    """

    light_e: float
    mean_e: float
    peak_e: float
    gain_e_adu: float
    offset_adu: float
    latent_e: float


@dataclass(frozen=True)
class StarFrame:
    """One star of one exposure.

    Attributes
    ----------
    x, y
        Physical px. ``quadrant``, ``canonical_x`` and ``canonical_y`` are of the quadrant on which
        its centre falls; canonical columns count the prescan.
    electrons
        All its light, before the response of pixels.
    fwhm_px, fwhm_image_px
        Of the light, and as pixels make it (1/12 px^2 more of variance).
    """

    x: float
    y: float
    quadrant: str
    canonical_x: float
    canonical_y: float
    electrons: float
    fwhm_px: float
    fwhm_image_px: float

    @staticmethod
    def of(star: StarImage, truth: Truth, detector: Detector) -> StarFrame:
        """Return the record of a star; it has no quadrant where it falls on none."""
        where, column, row = "", math.nan, math.nan
        for name in detector.names:
            xs, ys = axes(detector, name)
            x_step, y_step = (1 if axis[-1] > axis[0] else -1 for axis in (xs, ys))
            x, y = (star.x - xs[0]) * x_step, (star.y - ys[0]) * y_step
            if -0.5 <= x < detector.image_columns - 0.5 and -0.5 <= y < detector.image_rows - 0.5:
                where, column, row = name, float(x + detector.prescan), float(y)
        return StarFrame(
            star.x, star.y, where, column, row, star.electrons, star.fwhm_px,
            math.sqrt(star.fwhm_px**2 + _FWHM2_PER_VARIANCE / 12.0),
        )  # fmt: skip


@dataclass(frozen=True)
class FrameTruth:
    """An exposure: what was open how long, and what came of it; channels as ``1E``."""

    obsid: int
    time_ns: int
    source: str
    wave_nm: int
    open_s: float
    lamp: float
    dark_s: float
    temperature_k: float | None
    channels: dict[str, ChannelFrame]
    stars: dict[str, StarFrame]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values; NaN as None."""
        value = asdict(self)
        for star in value["stars"].values():
            for key, number in star.items():
                if isinstance(number, float) and math.isnan(number):
                    star[key] = None
        return value
