# SPDX-License-Identifier: BSD-3-Clause
"""The cooler of an open detector: pace, commands, alarms."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kit.camera_bench import ScriptedDetector, camera_config
from nightjar.api.states import CoolerMode, Level
from nightjar.clock import ManualClock
from nightjar.errors import DeviceError, DeviceLost
from nightjar.health import Health
from nightjard.camd.cooler import PART, Cooler
from nightjard.camd.drivers.simulated import SimulatedDetector

QUICK = {"cooling_time": 10.0, "temperature_noise": 0.0}


class Rig:
    def __init__(self, folder: Path, driver: dict[str, Any] | None = None, **changes: Any) -> None:
        values = {"cooler_response": 4.0, "lock_alarm_delay": 30, **changes}
        self.config = camera_config(folder, {**QUICK, **(driver or {})}, **values)
        self.clock = ManualClock()
        self.detector = ScriptedDetector(SimulatedDetector(self.config.driver, 12345, self.clock))
        self.health = Health(self.clock.now_ns)
        self.cooler = Cooler(
            self.config, self.detector, self.detector.open(), self.clock, self.health
        )

    def run(self, seconds: float, each_s: float = 0.1) -> None:
        """Ask every `each_s`, as the owner thread does: tick when it is due."""
        for _ in range(round(seconds / each_s)):
            if self.cooler.due_in_s() <= 0:
                self.cooler.tick()
            self.clock.advance(each_s)

    @property
    def mode(self) -> CoolerMode:
        return self.cooler.reading.mode


@pytest.mark.parametrize("kind", ["pwm", "setpoint"])
def test_it_locks_warms_and_rests(tmp_path: Path, kind: str) -> None:
    rig = Rig(tmp_path, {"cooler": kind}, cooler_pwm_step=10)
    rig.cooler.set_setpoint(-5.0)
    rig.run(200)
    assert rig.mode is CoolerMode.LOCKED
    assert rig.cooler.reading.is_locked
    assert rig.cooler.reading.telemetry.temperature_c == pytest.approx(-5.0, abs=0.5)
    assert not rig.cooler.is_warm
    rig.cooler.set_setpoint(None)
    rig.run(200)
    assert rig.mode is CoolerMode.WARM
    assert rig.cooler.is_warm
    assert rig.detector.inner._cooler.power() == 0


@pytest.mark.parametrize("each_s", [0.01, 0.3, 2.5])
def test_the_power_steps_by_time_however_often_it_is_asked(tmp_path: Path, each_s: float) -> None:
    rig = Rig(tmp_path, {"cooling_time": 1e6})
    rig.cooler.set_setpoint(-20.0)
    for _ in range(round(20 / each_s)):
        rig.cooler.tick()  # even when it is not due
        rig.cooler.set_setpoint(-20.0)
        rig.clock.advance(each_s)
    steps = rig.detector.pwm
    for (time0, pwm0), (time1, pwm1) in itertools.pairwise(steps):
        assert pwm1 - pwm0 <= 3 * (time1 - time0) / 1e9 + 1.01, "3 per second, 1 is rounding"
    assert steps[-1][1] == pytest.approx(60, abs=8)


def test_it_measures_at_its_pace(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.run(20, 0.05)
    assert rig.detector.calls["telemetry"] == pytest.approx(20, abs=1)
    rig.detector.always["telemetry"] = DeviceError("no answer")
    rig.run(20, 0.05)
    assert rig.detector.calls["telemetry"] == pytest.approx(40, abs=2), "also while it fails"


def test_nothing_is_sent_twice_and_a_failed_command_is_sent_again(tmp_path: Path) -> None:
    rig = Rig(tmp_path, cooler_pwm_step=255)
    rig.cooler.set_setpoint(-24.0)
    rig.run(3)
    sent = rig.detector.calls["set_cooler_power"]
    rig.run(3)
    assert rig.detector.calls["set_cooler_power"] == sent, "full power is full power"
    rig.cooler.set_setpoint(None)
    rig.detector.failures["set_cooler_power"] = [DeviceError("busy")]
    rig.run(1)
    assert rig.mode is CoolerMode.FAULT
    assert not rig.cooler.is_warm, "not before it has taken the last command"
    rig.run(2)
    assert rig.detector.pwm[-1][1] == 0
    assert rig.cooler.is_warm
    assert rig.health.level_of(PART) is Level.OK


def test_a_lost_detector_is_the_callers_business(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.detector.always["telemetry"] = DeviceLost("gone")
    with pytest.raises(DeviceLost):
        rig.cooler.tick()


@pytest.mark.parametrize("kind", ["pwm", "setpoint"])
def test_a_sensor_without_reading_commands_nothing(tmp_path: Path, kind: str) -> None:
    rig = Rig(tmp_path, {"cooler": kind}, cooler_pwm_step=10)
    rig.cooler.set_setpoint(-5.0)
    rig.run(200)
    sent = rig.detector.calls["set_cooler_power"] + rig.detector.calls["set_cooler_target"]
    other = "set_cooler_target" if kind == "pwm" else "set_cooler_power"
    real = rig.detector.inner.telemetry
    rig.detector.inner.telemetry = lambda: replace(real(), temperature_c=None)
    rig.run(20)
    assert rig.mode is CoolerMode.FAULT
    assert "cannot be measured" in rig.health.snapshot()["reason"]
    now = rig.detector.calls["set_cooler_power"] + rig.detector.calls["set_cooler_target"]
    assert now == sent
    assert rig.detector.calls[other] == 0, "each kind gets its own command only"
    rig.detector.inner.telemetry = real
    rig.run(5)
    assert rig.health.level_of(PART) is Level.OK


def test_the_lock_alarm_comes_after_its_delay_and_goes(tmp_path: Path) -> None:
    rig = Rig(tmp_path, cooler_pwm_step=10)
    rig.cooler.set_setpoint(-5.0)
    rig.run(20)
    assert rig.health.level_of(PART) is Level.OK, "not before it was ever locked"
    rig.run(200)
    assert rig.mode is CoolerMode.LOCKED
    rig.detector.inner._cooler._model.ambient_c += 60.0
    while rig.mode is CoolerMode.LOCKED:
        rig.run(1)
    rig.run(28)
    assert rig.health.level_of(PART) is Level.OK
    rig.run(3)
    assert rig.health.level_of(PART) is Level.DEGRADED
    assert "lock lost" in rig.health.snapshot()["reason"]
    rig.detector.inner._cooler._model.ambient_c -= 60.0
    rig.run(200)
    assert rig.health.level_of(PART) is Level.OK


def test_a_new_set_point_is_no_alarm(tmp_path: Path) -> None:
    rig = Rig(tmp_path, cooler_pwm_step=1, lock_alarm_delay=5)
    rig.cooler.set_setpoint(-5.0)
    rig.run(400)
    assert rig.mode is CoolerMode.LOCKED
    rig.cooler.set_setpoint(-20.0)
    rig.run(15)
    assert rig.mode is not CoolerMode.LOCKED
    assert rig.health.level_of(PART) is Level.OK


def test_steps_of_the_wall_clock_do_not_touch_the_regulation(tmp_path: Path) -> None:
    rig = Rig(tmp_path, cooler_pwm_step=10)
    rig.cooler.set_setpoint(-5.0)
    rig.run(200)
    for step in (3600.0, -7200.0):
        rig.clock.step_wall(step)
        rig.run(20)
        assert rig.mode is CoolerMode.LOCKED
        assert rig.health.level_of(PART) is Level.OK


def test_a_pause_of_the_computer_is_survived(tmp_path: Path) -> None:
    rig = Rig(tmp_path, cooler_pwm_step=10)
    rig.cooler.set_setpoint(-5.0)
    rig.run(200)
    rig.clock.advance(4 * 3600.0)
    rig.run(100)
    assert rig.mode is CoolerMode.LOCKED


@pytest.mark.parametrize("ambient_c", [38.0, -12.0])
def test_a_target_stays_within_what_the_device_takes(tmp_path: Path, ambient_c: float) -> None:
    """On a hot day the way down begins above the device's range; on a cold night it ends there."""
    rig = Rig(tmp_path, {"cooler": "setpoint", "ambient": ambient_c, "setpoint_range": [-40, 20]})
    rig.cooler.set_setpoint(max(-38.0, ambient_c - 30.0))
    rig.run(400)
    assert rig.mode is CoolerMode.LOCKED
    rig.cooler.set_setpoint(None)
    rig.run(600)
    assert rig.cooler.is_warm
    assert rig.detector.targets[-1] is None
    assert all(t is None or -40 <= t <= 20 for t in rig.detector.targets)
    assert rig.health.level_of(PART) is Level.OK


def test_a_camera_without_a_cooler(tmp_path: Path) -> None:
    rig = Rig(tmp_path, {"cooler": "none"})
    rig.run(5)
    assert rig.mode is CoolerMode.NONE
    assert rig.cooler.is_warm
    assert rig.cooler.power is None
