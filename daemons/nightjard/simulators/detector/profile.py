# SPDX-License-Identifier: BSD-3-Clause
"""What the bench needs to know of the chamber, and a plain chamber for tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from nightjar.calibration.detector import Detector
from nightjar.errors import InvalidArgument
from nightjard.simulators.detector.geometry import silicon_size


class Star(Protocol):
    """A star of the pattern."""

    @property
    def id(self) -> str:
        """Quadrant and letter: EA."""

    @property
    def x(self) -> float:
        """Physical column, 0-based."""

    @property
    def y(self) -> float:
        """Physical row, 0-based."""


class Profile(Protocol):
    """A chamber, as `nightjar.calibration.chamber` describes it."""

    def saturation_s(self, kind: str, wave: int, /) -> float:
        """Return the exposure that saturates; kind is flat or point, wave in nm."""

    def wave_of(self, slot: int, /) -> int:
        """Return the wavelength in nm of a slot of the filter wheel, 0 of the grey filter."""

    def actual_exposure_s(self, commanded: float, /) -> float:
        """Return how long the shutter is really open."""

    def mirror_mm(self, wave: int, /) -> float:
        """Return the mirror's place in focus."""

    def spots(self, ccd: int, detector: Detector, /) -> Sequence[Star]:
        """Return the stars that fall on a CCD."""


@dataclass(frozen=True)
class PlainSpot:
    """A star of the pattern of `PlainProfile`."""

    id: str
    x: float
    y: float


@dataclass(frozen=True)
class PlainProfile:
    """A chamber with the numbers of a training block; stars as on dice in every quadrant."""

    flat_s: dict[int, float] = field(
        default_factory=lambda: {590: 12.4, 2000: 0.1, 730: 3.6, 800: 3.5, 880: 7.2, 0: 73.4}
    )
    point_s: dict[int, float] = field(
        default_factory=lambda: {590: 12.0, 2000: 0.02, 730: 2.5, 800: 2.2, 880: 4.0, 0: 45.0}
    )
    slots: tuple[int, ...] = (590, 2000, 730, 800, 880, 0)
    shutter_delay_s: float = 0.0

    def saturation_s(self, kind: str, wave: int) -> float:
        """Return the exposure that saturates."""
        return {"flat": self.flat_s, "point": self.point_s}[kind][wave]

    def wave_of(self, slot: int) -> int:
        """Return the wavelength of a slot, 1 to 6."""
        if not 1 <= slot <= len(self.slots):
            raise InvalidArgument(f"filter wheel: slot {slot}; there are 1 to {len(self.slots)}")
        return self.slots[slot - 1]

    def actual_exposure_s(self, commanded: float) -> float:
        """Return how long the shutter is open."""
        return commanded + self.shutter_delay_s if commanded > 0 else 0.0

    def mirror_mm(self, wave: int) -> float:
        """Return the mirror's place in focus."""
        return 47.2

    def spots(self, ccd: int, detector: Detector) -> list[PlainSpot]:
        """Return five stars a quadrant, as on dice."""
        width, height = silicon_size(detector)
        across, above = detector.grid
        places = ((0.2, 0.8), (0.8, 0.8), (0.5, 0.5), (0.2, 0.2), (0.8, 0.2))
        spots = []
        for name, place in detector.quadrants.items():
            for letter, (x, y) in zip("ABCDE", places, strict=True):
                spots.append(
                    PlainSpot(
                        f"{name}{letter}",
                        (place.column + x) * width / across,
                        (place.row + y) * height / above,
                    )
                )
        return spots
