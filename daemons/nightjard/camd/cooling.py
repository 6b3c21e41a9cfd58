# SPDX-License-Identifier: BSD-3-Clause
"""The cooling controller: pure, stepped by time, for both kinds of cooler.

A "pwm" cooler is given a power that changes by at most ``pwm_step`` per ``update_delay`` of
elapsed time, however often it is asked. Far from the set point the power ramps; near it a
proportional-integral law holds it. A "setpoint" cooler regulates by itself; its target is moved at
``rate_c_per_min``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from nightjar.api.states import CoolerMode
from nightjar.units import clamp

CAPTURE_C = 5.0  # nearer than this to the set point, the regulator takes over from the ramp
PROPORTIONAL = 0.05  # fraction of full power per deg C
LOCK_SAMPLES = 5  # measurements in a row within the tolerance that count as held
MAX_GAP_S = 10.0  # a longer pause (suspend, hung driver) does not make one big step
WARM_C = 5.0  # a self-regulating cooler may be switched off above this


@dataclass(frozen=True, slots=True)
class CoolerOutput:
    """What to command and what to tell: exactly one of pwm and target_c is used by a device."""

    mode: CoolerMode
    pwm: float | None = None
    target_c: float | None = None


class CoolerControl:
    """State of one cooler's regulation.

    Parameters
    ----------
    kind
        "pwm", "setpoint" or "none", from the detector's capabilities.
    pwm_max
        Full power, PWM units.
    pwm_step, update_delay_s
        Largest change of power per time.
    rate_c_per_min
        Largest change of a self-regulating cooler's target.
    tolerance_c
        Distance within which the set point counts as held.
    response_s
        Integration time of the regulator near the set point.
    """

    def __init__(
        self,
        kind: Literal["none", "pwm", "setpoint"],
        pwm_max: int,
        pwm_step: float,
        update_delay_s: float,
        rate_c_per_min: float,
        tolerance_c: float,
        response_s: float,
    ) -> None:
        self.kind = kind
        self.pwm_max = pwm_max
        self.pwm = 0.0
        self._slew_per_s = pwm_step / update_delay_s
        self._longest_step_s = max(MAX_GAP_S, 2 * update_delay_s)
        self._rate_per_s = rate_c_per_min / 60.0
        self._tolerance_c = tolerance_c
        self._integral_per_s = PROPORTIONAL / response_s
        self._integral = 0.0
        self._is_regulating = False
        self._held = 0
        self._target_c: float | None = None

    def adopt(self, power: float | None, temperature_c: float | None = None) -> None:
        """Begin from the power (fraction) that the device reports: it may already be cold."""
        if power is None or not math.isfinite(power):
            return
        self.pwm = clamp(power, 0.0, 1.0) * self.pwm_max
        if self.kind == "setpoint" and power > 0:
            self._target_c = temperature_c

    def step(
        self, dt_s: float, temperature_c: float | None, setpoint_c: float | None
    ) -> CoolerOutput:
        """Return the next command.

        Parameters
        ----------
        dt_s
            Seconds since the last step.
        temperature_c
            Measured now; None where the measurement failed: the power stays, the mode is FAULT.
        setpoint_c
            Wanted; None for warm.
        """
        output = self._step(clamp(dt_s, 0.0, self._longest_step_s), temperature_c, setpoint_c)
        if output.mode not in (CoolerMode.LOCKING, CoolerMode.LOCKED):
            self._held = 0
        return output

    def _step(
        self, dt_s: float, temperature_c: float | None, setpoint_c: float | None
    ) -> CoolerOutput:
        if temperature_c is not None and not math.isfinite(temperature_c):
            temperature_c = None
        if self.kind == "none":
            return CoolerOutput(CoolerMode.NONE)
        if self.kind == "pwm":
            if temperature_c is None and setpoint_c is not None:
                return CoolerOutput(CoolerMode.FAULT, self.pwm)
            return self._step_pwm(dt_s, temperature_c, setpoint_c)
        if temperature_c is None and setpoint_c is not None:
            return CoolerOutput(CoolerMode.FAULT, target_c=self._target_c)
        return self._step_setpoint(dt_s, temperature_c, setpoint_c)

    def _step_pwm(
        self, dt_s: float, temperature_c: float | None, setpoint_c: float | None
    ) -> CoolerOutput:
        slew = self._slew_per_s * dt_s
        if setpoint_c is None or temperature_c is None:
            self._is_regulating = False
            self.pwm = max(0.0, self.pwm - slew)
            mode = CoolerMode.WARMING if self.pwm > 0 else CoolerMode.WARM
            return CoolerOutput(mode, self.pwm)
        error = temperature_c - setpoint_c
        if abs(error) > CAPTURE_C:
            self._is_regulating = False
            self.pwm = clamp(self.pwm + (slew if error > 0 else -slew), 0.0, self.pwm_max)
            return CoolerOutput(CoolerMode.COOLING if error > 0 else CoolerMode.WARMING, self.pwm)
        if not self._is_regulating:
            self._is_regulating = True
            self._integral = self.pwm / self.pwm_max - PROPORTIONAL * error
        wanted = (PROPORTIONAL * error + self._integral) * self.pwm_max
        highest = min(self.pwm + slew, float(self.pwm_max))
        lowest = max(self.pwm - slew, 0.0)
        # Integrate only while the output is free to move in that direction (no wind-up).
        if (wanted < highest or error < 0) and (wanted > lowest or error > 0):
            self._integral += self._integral_per_s * error * dt_s
        self.pwm = clamp(wanted, lowest, highest)
        return CoolerOutput(self._lock_mode(error), self.pwm)

    def _step_setpoint(
        self, dt_s: float, temperature_c: float | None, setpoint_c: float | None
    ) -> CoolerOutput:
        if setpoint_c is None:
            if self._target_c is None:
                return CoolerOutput(CoolerMode.WARM)
            self._target_c += self._rate_per_s * dt_s
            # A detector that stays behind a target so far above it is not being cooled any more:
            # it is as warm as the air (a cold night), and no target will make it warmer.
            if self._target_c > WARM_C and (
                temperature_c is None
                or temperature_c > WARM_C
                or temperature_c < self._target_c - CAPTURE_C
            ):
                self._target_c = None
                return CoolerOutput(CoolerMode.WARM)
            return CoolerOutput(CoolerMode.WARMING, target_c=self._target_c)
        assert temperature_c is not None
        if self._target_c is None:
            self._target_c = max(temperature_c, setpoint_c)
        change = self._rate_per_s * dt_s
        self._target_c = clamp(setpoint_c, self._target_c - change, self._target_c + change)
        error = temperature_c - setpoint_c
        if abs(error) > CAPTURE_C:
            mode = CoolerMode.COOLING if error > 0 else CoolerMode.WARMING
            return CoolerOutput(mode, target_c=self._target_c)
        return CoolerOutput(self._lock_mode(error), target_c=self._target_c)

    def _lock_mode(self, error: float) -> CoolerMode:
        """Return LOCKED once the set point has been held for some samples, not only passed."""
        self._held = self._held + 1 if abs(error) <= self._tolerance_c else 0
        return CoolerMode.LOCKED if self._held >= LOCK_SAMPLES else CoolerMode.LOCKING
