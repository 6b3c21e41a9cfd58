# SPDX-License-Identifier: BSD-3-Clause
"""The simulated detector's cooler: the thermal model driven by the clock, and its sensor.

A camera does not warm up because a driver's process died, so the state can be kept in a file.
"""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nightjar.files import write_json_durably
from nightjard.camd.drivers.thermal import ThermalModel

if TYPE_CHECKING:
    from nightjar.clock import Clock
    from nightjard.camd.drivers.options import SimulatedOptions

_LOG = logging.getLogger(__name__)


class SimulatedCooler:
    """Sensor temperature, cooler and heat sink of one simulated detector."""

    def __init__(self, options: SimulatedOptions, clock: Clock) -> None:
        self._options = options
        self._clock = clock
        self._path = Path(options.state_path) if options.state_path else None
        self._model = ThermalModel.at_rest(
            options.ambient, options.cooling_depth, options.cooling_time
        )
        self._rng = np.random.default_rng([options.seed, 0x5445])
        self._then_ns = clock.monotonic_ns()
        self._stuck_at: float | None = None

    def connect(self) -> None:
        """Continue from the state file, where there is one."""
        self._stuck_at = None
        if self._path is None:
            return
        try:
            state = json.loads(self._path.read_text())
            temperature, heatsink, power = (
                float(state[key]) for key in ("temperature_c", "heatsink_c", "power")
            )
            target = None if state["target_c"] is None else float(state["target_c"])
            away_s = (self._clock.now_ns() - int(state["utc_ns"])) / 1e9
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError) as error:
            _LOG.warning("state file %s is not usable: %s", self._path, error)
            return
        model = self._model
        model.temperature_c, model.heatsink_c = temperature, heatsink
        model.power, model.target_c = power, target
        self._then_ns = self._clock.monotonic_ns()
        model.step(max(0.0, away_s) * self._options.speed)

    def save(self) -> None:
        """Keep the state for the next process."""
        if self._path is None:
            return
        model = self._now()
        write_json_durably(self._path, {
            "temperature_c": model.temperature_c, "heatsink_c": model.heatsink_c,
            "power": model.power, "target_c": model.target_c, "utc_ns": self._clock.now_ns(),
        })  # fmt: skip

    def temperature_c(self) -> float:
        """Return the true temperature."""
        return self._now().temperature_c

    def heatsink_c(self) -> float:
        """Return the heat sink's temperature."""
        return self._now().heatsink_c

    def power(self) -> float:
        """Return the power that is applied, fraction of full."""
        model = self._now()
        return 0.0 if model.is_dead else model.power

    def reading_c(self, is_stuck: bool) -> float:
        """Return what the sensor reports."""
        if is_stuck and self._stuck_at is not None:
            return self._stuck_at
        noise = self._options.temperature_noise * float(self._rng.standard_normal())
        reading = round(self.temperature_c() + noise, 3)
        self._stuck_at = reading if is_stuck else None
        return reading

    def set_power(self, fraction: float) -> None:
        """Set the power."""
        self._now().power = fraction
        self.save()

    def set_target(self, celsius: float | None) -> None:
        """Set the regulator's set point; None switches off."""
        model = self._now()
        model.target_c = celsius
        if celsius is None:
            model.power = 0.0
        self.save()

    def set_dead(self, is_dead: bool) -> str | None:
        """Break or mend the cooler; return the fault it reports."""
        self._now().is_dead = is_dead
        return "UVLO" if is_dead else None

    def _now(self) -> ThermalModel:
        now = self._clock.monotonic_ns()
        elapsed_s = (now - self._then_ns) / 1e9
        self._then_ns = now
        if math.isfinite(elapsed_s):
            self._model.step(elapsed_s * self._options.speed)
        return self._model
