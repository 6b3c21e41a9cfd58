# SPDX-License-Identifier: BSD-3-Clause
"""How a cooled sensor's temperature moves: a pure model without clock or noise.

First order, the form a thermoelectric cooler takes on a finned heat sink: at power p the sensor
settles at ``ambient - depth * p`` with one time constant, and the heat sink warms by up to
:data:`HEATSINK_RISE_C`, ten times slower.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

HEATSINK_RISE_C = 12.0
_HEATSINK_SLOWNESS = 10.0
_REGULATOR_GAIN = 8.0  # power per (degrees off / depth); with exact feed-forward, so no wind-up
_MOST_SUBSTEPS = 400  # 400 substeps are over 20 closed-loop time constants: settled


@dataclass(slots=True)
class ThermalModel:
    """A sensor with a cooler.

    Attributes
    ----------
    ambient_c, depth_c, time_constant_s
        Air temperature; degrees below it at full power; time constant of the sensor.
    temperature_c, heatsink_c
        Present temperatures.
    power
        Present power, fraction of full. Set it, or let `target_c` do so.
    target_c
        Set point of the cooler's own regulator; None: the power is set from outside.
    is_dead
        The cooler has failed: whatever the power, nothing is cooled.
    """

    ambient_c: float
    depth_c: float
    time_constant_s: float
    temperature_c: float
    heatsink_c: float
    power: float = 0.0
    target_c: float | None = None
    is_dead: bool = False

    @classmethod
    def at_rest(cls, ambient_c: float, depth_c: float, time_constant_s: float) -> ThermalModel:
        """Return a sensor at the temperature of the air with its cooler off."""
        return cls(ambient_c, depth_c, time_constant_s, ambient_c, ambient_c)

    def step(self, dt_s: float) -> None:
        """Let `dt_s` seconds pass (exact for constant power, however long)."""
        if dt_s <= 0:
            return
        if self.target_c is None:
            self._relax(dt_s)
            return
        longest = self.time_constant_s / (2.0 * (1.0 + _REGULATOR_GAIN))
        count = min(math.ceil(dt_s / longest), _MOST_SUBSTEPS)
        part = min(dt_s / count, longest)
        for _ in range(count):
            self.power = self._regulated_power(self.target_c)
            self._relax(part)

    def _regulated_power(self, target_c: float) -> float:
        forward = (self.ambient_c - target_c) / self.depth_c
        error = (self.temperature_c - target_c) / self.depth_c
        return min(1.0, max(0.0, forward + _REGULATOR_GAIN * error))

    def _relax(self, dt_s: float) -> None:
        power = 0.0 if self.is_dead else self.power
        goal = self.ambient_c - self.depth_c * power
        decay = math.exp(-dt_s / self.time_constant_s)
        self.temperature_c = goal + (self.temperature_c - goal) * decay
        sink = self.ambient_c + HEATSINK_RISE_C * power
        decay = math.exp(-dt_s / (self.time_constant_s * _HEATSINK_SLOWNESS))
        self.heatsink_c = sink + (self.heatsink_c - sink) * decay
