# SPDX-License-Identifier: BSD-3-Clause
"""Housekeeping of a simulated block: what was commanded, with noise; temperatures; supplies; flags.

Excursions and faults are scripted and written down: see `faults`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nightjar.calibration.elvis import load_elvis
from nightjar.calibration.housekeeping import HkLimits, HkTable
from nightjar.errors import ConfigError
from nightjar.times import NS_PER_S
from nightjard.simulators.detector.seeds import generator, key_of

VOLTAGE_NOISE_V = 0.02
_CYCLE_S = 900.0
"""Period of the temperature control, s."""
_CYCLE_C = 0.3
_TEMPERATURE_NOISE_C = 0.02


@dataclass(frozen=True)
class HkSimulator:
    """Makes the rows of exposures.

    Attributes
    ----------
    elvis
        Version whose parameters are made.
    seed
        Of the noise.
    period_s
        Between rows.
    """

    elvis: str
    seed: int
    period_s: float = 1.0
    limits: HkLimits = field(init=False)
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        names = load_elvis(self.elvis).housekeeping[1:]
        if not names:
            raise ConfigError(f"nobody knows the housekeeping of ELVIS {self.elvis}")
        object.__setattr__(self, "limits", HkLimits.load(self.elvis))
        object.__setattr__(self, "names", names)

    def rows(
        self,
        obsid: int,
        start_ns: int,
        end_ns: int,
        commanded: Mapping[str, float],
        temperature_c: float = -120.0,
    ) -> HkTable:
        """Return the rows of an exposure.

        Parameters
        ----------
        obsid
            Makes the noise together with the seed.
        start_ns, end_ns
            First row, and the time that none is at or after; at least one row.
        commanded
            Columns of the log: voltages.
        temperature_c
            Of the CCDs, mean of the control's cycle.
        """
        step_ns = round(self.period_s * NS_PER_S)
        # Times are written in whole seconds.
        first_ns = -(-start_ns // NS_PER_S) * NS_PER_S
        count = max(1, -(-(end_ns - first_ns) // step_ns))
        times: NDArray[np.int64] = first_ns + step_ns * np.arange(count).astype(np.int64)
        rng = generator(key_of("housekeeping", self.seed, obsid))
        values = np.empty((len(times), len(self.names)))
        for column, name in enumerate(self.names):
            values[:, column] = self._parameter(name, times, commanded, temperature_c, rng)
        return HkTable(self.names, times, np.round(values, 3))

    def _parameter(
        self, name: str, times: NDArray[np.int64], commanded: Mapping[str, float],
        temperature_c: float, rng: np.random.Generator,
    ) -> NDArray[np.float64]:  # fmt: skip
        parameter = self.limits.parameters[name]
        if parameter.is_equality("P"):
            return np.full(len(times), parameter.window("P", {})[0])  # type: ignore[index]
        noise = rng.standard_normal(len(times))
        if parameter.commanded is not None:
            return commanded.get(parameter.commanded, 0.0) + VOLTAGE_NOISE_V * noise
        if "_TEMP_" in name and name.startswith("CCD"):
            phase = 2 * math.pi * (times / NS_PER_S / _CYCLE_S) + 0.5 * int(name[3])
            return temperature_c + _CYCLE_C * np.sin(phase) + _TEMPERATURE_NOISE_C * noise
        if parameter.unit == "Celsius":
            return 22.0 + 0.1 * noise
        if name in ("FPGA_BIAS_ID_T", "FPGA_BIAS_ID_B"):
            return commanded.get("IDL", 13.0) + VOLTAGE_NOISE_V * noise
        low, high = parameter.window("P", {}) or (0.0, 0.0)
        return (low + high) / 2 + (high - low) / 40 * noise
