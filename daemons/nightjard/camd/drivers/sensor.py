# SPDX-License-Identifier: BSD-3-Clause
"""The simulated sensor in numbers: its regions, and what its settings and temperature do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightjard.camd.geometry import Region

if TYPE_CHECKING:
    from nightjard.camd.drivers.options import SimulatedOptions

_APX60 = (9600, 6422)


@dataclass(frozen=True, slots=True)
class Geometry:
    """Regions of the read-out; image is what light falls on."""

    readout: Region
    image: Region
    bias: Region | None
    dark: Region | None

    @classmethod
    def of(cls, options: SimulatedOptions) -> Geometry:
        """Return the configured regions, deriving those that are not given."""
        texts = (options.image_region, options.bias_region, options.dark_region)
        image, bias, dark = (Region.parse(text) if text else None for text in texts)
        readout = Region.full(options.width, options.height)
        if (options.width, options.height) == _APX60 and not any((image, bias, dark)):
            return cls(
                readout, Region(25, 9600, 1, 6388), Region(1, 9600, 6391, 6422),
                Region(1, 22, 1, 6388),
            )  # fmt: skip
        if image is None:
            # Beside the dark columns, before the overscan rows (or the other way round).
            x1, x2, y1, y2 = 1, options.width, 1, options.height
            if bias is not None:
                y1, y2 = (y1, bias.y1 - 1) if bias.y1 > 1 else (bias.y2 + 1, y2)
            if dark is not None:
                x1, x2 = (x1, dark.x1 - 1) if dark.x1 > 1 else (dark.x2 + 1, x2)
            image = Region(x1, x2, y1, y2)
        return cls(readout, image, bias, dark)


@dataclass(frozen=True, slots=True)
class Exposure:
    """All that decides the pixels of one frame, beside the options.

    Attributes
    ----------
    slot
        Place in the filter wheel, from 1; None without a wheel or while it moves.
    """

    frame_id: int
    start_ns: int
    exposure_ns: int
    temperature_c: float
    gain: int
    offset: int
    window: Region
    binning: int = 1
    lost: int = 0
    controls: tuple[tuple[str, str | int | float], ...] = ()
    slot: int | None = None

    @property
    def exposure_s(self) -> float:
        """Exposure in seconds."""
        return self.exposure_ns / 1e9


def conversion(options: SimulatedOptions, gain: int) -> float:
    """Return electrons per ADU at a gain setting."""
    return float(options.e_per_adu * 10.0 ** (-gain / options.gain_decade))


def bias_adu(options: SimulatedOptions, offset: int) -> float:
    """Return the bias at an offset setting."""
    return options.bias_level + options.bias_per_offset * offset


def dark_factor(options: SimulatedOptions, temperature_c: float) -> float:
    """Return the dark current relative to the reference temperature."""
    return float(2.0 ** ((temperature_c - options.dark_reference) / options.dark_doubling))
