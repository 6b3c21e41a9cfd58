# SPDX-License-Identifier: BSD-3-Clause
"""The cooler of an open detector: measures, regulates, raises alarms. Used by the owner thread."""

from __future__ import annotations

from dataclasses import dataclass

from nightjar.api.states import CoolerMode, Level
from nightjar.clock import NS_PER_S, Clock
from nightjar.errors import DeviceError, DeviceLost, DeviceWedged
from nightjar.health import Health
from nightjar.units import clamp
from nightjard.camd.config import CameraConfig
from nightjard.camd.cooling import CoolerControl, CoolerOutput
from nightjard.camd.drivers.base import Capabilities, Detector, Telemetry

PART = "cooler"


@dataclass(frozen=True, slots=True)
class CoolerReading:
    """One consistent sample: measured, commanded and judged at one time."""

    telemetry: Telemetry
    mode: CoolerMode
    setpoint_c: float | None
    time_ns: int
    monotonic_ns: int

    @property
    def is_locked(self) -> bool:
        """Whether the set point is held."""
        return self.mode is CoolerMode.LOCKED


NO_READING = CoolerReading(Telemetry(), CoolerMode.UNKNOWN, None, 0, 0)


class Cooler:
    """Regulates the temperature of one open detector.

    Parameters
    ----------
    config
        Steps, rates, tolerances and the default set point.
    detector, capabilities
        The device, open.
    clock, health
        Time source and where alarms go.
    """

    def __init__(
        self,
        config: CameraConfig,
        detector: Detector,
        capabilities: Capabilities,
        clock: Clock,
        health: Health,
    ) -> None:
        self._detector = detector
        self._kind = capabilities.cooler
        self._limits = capabilities.setpoint_c
        self._clock = clock
        self._health = health
        self._period_ns = round(config.cooler_update_delay * NS_PER_S)
        self._alarm_ns = round(config.lock_alarm_delay * NS_PER_S)
        self._control = CoolerControl(
            capabilities.cooler, capabilities.pwm_max, config.cooler_pwm_step,
            config.cooler_update_delay, config.cooler_rate, config.lock_tolerance,
            config.cooler_response,
        )  # fmt: skip
        self._setpoint_c: float | None = None
        self._last_ns: int | None = None
        self._tried_ns: int | None = None
        self._was_locked = False
        self._missed_since_ns: int | None = None
        self._sent: tuple[float | None] | None = None
        self._is_at_rest = False
        self.reading = NO_READING

    @property
    def setpoint_c(self) -> float | None:
        """The temperature to hold; None for warm."""
        return self._setpoint_c

    @property
    def is_warm(self) -> bool:
        """Whether the ramp to warm has ended (or there is nothing to warm)."""
        return self._setpoint_c is None and self._is_at_rest

    @property
    def power(self) -> float | None:
        """Fraction of full power, as measured or else as commanded."""
        if self.reading.telemetry.cooler_power is not None:
            return self.reading.telemetry.cooler_power
        if self._kind == "pwm" and self._control.pwm_max:
            return self._control.pwm / self._control.pwm_max
        return None

    def set_setpoint(self, celsius: float | None) -> None:
        """Set what is to be held. Takes effect with the next step; asking often steps no faster."""
        if celsius != self._setpoint_c:
            self._was_locked = False
            self._missed_since_ns = None
            self._health.ok(PART)
        self._setpoint_c = celsius

    def due_in_s(self) -> float:
        """Return the seconds until the next :meth:`tick` is wanted."""
        if self._tried_ns is None:
            return 0.0
        passed = self._clock.monotonic_ns() - self._tried_ns
        return max(0.0, (self._period_ns - passed) / NS_PER_S)

    def tick(self) -> None:
        """Measure, and regulate by the time that has passed.

        A cooler that cannot be read or set does not end an exposure: it is told by the health,
        and tried again when the next tick is due.

        Raises
        ------
        DeviceLost, DeviceWedged
            The whole detector is gone.
        """
        self._tried_ns = self._clock.monotonic_ns()
        try:
            self._regulate(self._tried_ns)
        except (DeviceLost, DeviceWedged):
            raise
        except DeviceError as error:
            self._is_at_rest = False
            self.reading = CoolerReading(
                Telemetry(), CoolerMode.FAULT, self._setpoint_c, self._clock.now_ns(),
                self._tried_ns,
            )  # fmt: skip
            self._health.set(PART, Level.FAILED, error.message)

    def _regulate(self, now_ns: int) -> None:
        telemetry = self._detector.telemetry()
        if self._last_ns is None:
            dt_s = 0.0
            self._control.adopt(telemetry.cooler_power, telemetry.temperature_c)
        else:
            dt_s = (now_ns - self._last_ns) / NS_PER_S
        self._last_ns = now_ns
        output = self._control.step(dt_s, telemetry.temperature_c, self._setpoint_c)
        self._send(output)
        self._is_at_rest = output.mode in (CoolerMode.WARM, CoolerMode.NONE)
        mode = CoolerMode.FAULT if telemetry.fault else output.mode
        self.reading = CoolerReading(
            telemetry, mode, self._setpoint_c, self._clock.now_ns(), now_ns
        )
        self._judge(now_ns)

    def _send(self, output: CoolerOutput) -> None:
        """Command what has changed since it was last taken by the device."""
        wanted: float | None
        if self._kind == "pwm":
            wanted = round(output.pwm or 0.0)
            if (wanted,) != self._sent:
                self._detector.set_cooler_power(wanted)
        elif self._kind == "setpoint":
            wanted = output.target_c
            if wanted is not None and self._limits is not None:
                # The way to the set point may begin above what the device takes: warm air.
                wanted = clamp(wanted, *self._limits)
            if (wanted,) != self._sent:
                self._detector.set_cooler_target(wanted)
        else:
            return
        self._sent = (wanted,)

    def refresh(self) -> None:
        """Measure again without regulating (a filter is moving, an exposure ended)."""
        self.reading = CoolerReading(
            self._detector.telemetry(), self.reading.mode, self._setpoint_c,
            self._clock.now_ns(), self._clock.monotonic_ns(),
        )  # fmt: skip

    def _judge(self, now_ns: int) -> None:
        reading = self.reading
        temperature = reading.telemetry.temperature_c
        if reading.telemetry.fault:
            self._health.set(PART, Level.FAILED, f"the camera reports {reading.telemetry.fault}")
        elif reading.mode is CoolerMode.FAULT:
            self._health.set(PART, Level.DEGRADED, "the temperature cannot be measured")
        elif reading.is_locked:
            self._was_locked = True
            self._missed_since_ns = None
            self._health.ok(PART)
        elif self._was_locked and reading.setpoint_c is not None:
            if self._missed_since_ns is None:
                self._missed_since_ns = now_ns
            if now_ns - self._missed_since_ns >= self._alarm_ns and temperature is not None:
                self._health.set(
                    PART, Level.DEGRADED,
                    f"temperature lock lost: {temperature:.1f} deg C instead of "
                    f"{reading.setpoint_c:g}",
                )  # fmt: skip
        else:
            self._health.ok(PART)
