# SPDX-License-Identifier: BSD-3-Clause
"""Simulated benches with chosen effects, and what is seen in their frames."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nightjar.calibration.detector import load_detector
from nightjard.simulators.detector.bench import Bench
from nightjard.simulators.detector.profile import PlainProfile
from nightjard.simulators.detector.truth import Truth

DETECTOR = load_detector("ccd273-8th")
GAIN = DETECTOR.gain_e_adu
START = 1_700_000_000_000_000_000
SECOND = 1_000_000_000
BIAS = {"exptime": 0, "shuttr": 0}
DARK = {"exptime": 565, "shuttr": 0}
FLAT = {"exptime": 1.75, "source": "flat", "wave": 4}
STARS = {"exptime": 1.1, "source": "point", "wave": 4}
FOCUSED = {"mirr_on": 1, "mirr_pos": 47.21}
KERNEL = ((0, 1, 3.0e-7), (1, 0, 1.5e-7), (1, 1, 0.6e-7), (0, 2, 0.5e-7), (2, 0, 0.3e-7))


def bench(*on: str, overrides: dict[str, Any] | None = None) -> Bench:
    """A bench with nothing but some effects."""
    effects = {"only": True, **dict.fromkeys(on, True)}
    return Bench(DETECTOR, Truth.default(DETECTOR, "TEST", 1, effects, overrides), PlainProfile())


def signal(
    made: Bench, obsid: int, values: dict[str, Any], name: str = "1E", *,
    sector: Any = "image", time_ns: int = START,
) -> np.ndarray:  # fmt: skip
    """Return ADU above offset of a sector of a channel."""
    frame = made.expose(obsid, values, time_ns, [int(name[0])])[int(name[0])]
    pixels_ = DETECTOR.sector(DETECTOR.canonical(frame, name[1:]), sector).astype(float)
    return np.asarray(pixels_ - made.truth.electronics.offset_adu[name])


class Keeping(Bench):
    """A bench that keeps the signals before the converter, in electrons."""

    def _convert(self, exposure: Any, ccd: int, quadrant: str, image: Any) -> Any:
        if not hasattr(self, "last_image"):
            self.last_image: dict[str, np.ndarray] = {}
        self.last_image[f"{ccd}{quadrant}"] = image.astype(float) * GAIN
        return super()._convert(exposure, ccd, quadrant, image)


def keeping(*on: str, overrides: dict[str, Any] | None = None) -> Any:
    """A bench with nothing but some effects that keeps signals."""
    made = bench(*on, overrides=overrides)
    return Keeping(DETECTOR, made.truth, PlainProfile())


def measure(made: Keeping, name: str, half: int = 12) -> dict[str, float]:
    """Return light, place and width of a star of the last, noiseless exposure, by moments."""
    assert made.last is not None
    star = made.last.stars[name]
    channel = f"{name[0]}{star.quadrant}"
    image = made.last_image[channel]
    x0, y0 = round(star.canonical_x), round(star.canonical_y)
    box = image[y0 - half : y0 + half + 1, x0 - half : x0 + half + 1]
    y, x = np.mgrid[y0 - half : y0 + half + 1, x0 - half : x0 + half + 1]
    total = box.sum()
    cx, cy = (box * x).sum() / total, (box * y).sum() / total
    xx, yy = (box * (x - cx) ** 2).sum() / total, (box * (y - cy) ** 2).sum() / total
    xy = (box * (x - cx) * (y - cy)).sum() / total
    return {
        "light": total, "x": cx, "y": cy, "peak": box.max(),
        "fwhm": math.sqrt(8 * math.log(2) * 0.5 * (xx + yy)),
        "e1": (xx - yy) / (xx + yy - 1 / 6), "e2": 2 * xy / (xx + yy - 1 / 6),
    }  # fmt: skip
