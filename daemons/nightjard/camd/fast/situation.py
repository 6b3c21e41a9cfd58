# SPDX-License-Identifier: BSD-3-Clause
"""What the computed keywords follow from, before and after the camera has answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from nightjard.camd.fast.settings import Camera, Geometry, Wanted


@dataclass(frozen=True)
class Situation:
    """A camera's state as :func:`nightjard.camd.fast.keywords.computed_keywords` takes it."""

    crop: str
    window: tuple[int, int, int, int]
    is_cropped: bool
    readout_mode: str
    exposure_s: float
    rate_hz: float
    external_trigger: bool
    data_type: str
    telemetry: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def expected(
        cls, settings: Mapping[str, Any], wanted: Wanted, camera: Camera,
        telemetry: Mapping[str, Any],
    ) -> Situation:  # fmt: skip
        """Return what is expected of settings."""
        x1, x2, y1, y2 = settings["region"]
        sensor = camera.sensor
        is_whole = (x2 - x1 + 1, y2 - y1 + 1) == (sensor.width, sensor.height)
        return cls(
            crop=wanted.crop, window=(x1, x2, y1, y2), is_cropped=not is_whole,
            readout_mode=settings["readout_mode"], exposure_s=wanted.exposure,
            rate_hz=wanted.rate or 0.0, external_trigger=wanted.trigger,
            data_type=wanted.data_type, telemetry=telemetry,
        )  # fmt: skip

    def found(self, geometry: Geometry) -> Situation:
        """Return it with what the camera answered."""
        return replace(
            self, window=geometry.window, exposure_s=geometry.exposure_s,
            rate_hz=geometry.rate_hz,
        )  # fmt: skip
