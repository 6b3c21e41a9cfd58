# SPDX-License-Identifier: BSD-3-Clause
"""The cooling law in closed loop with the thermal model."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import pytest

from nightjar.api.states import CoolerMode
from nightjard.camd.cooling import CoolerControl
from nightjard.camd.drivers.thermal import ThermalModel

AMBIENT_C, DEPTH_C, TIME_CONSTANT_S = 15.0, 40.0, 120.0


@dataclass
class Loop:
    """A regulator and what it regulates."""

    control: CoolerControl
    model: ThermalModel
    update_s: float = 1.0
    time_s: float = 0.0
    powers: list[float] = field(default_factory=list)
    temperatures: list[float] = field(default_factory=list)
    modes: list[CoolerMode] = field(default_factory=list)

    def run(self, seconds: float, setpoint_c: float | None, *, sensor: bool = True) -> CoolerMode:
        for _ in range(round(seconds / self.update_s)):
            self.step(setpoint_c, sensor=sensor)
        return self.modes[-1]

    def step(self, setpoint_c: float | None, *, sensor: bool = True) -> None:
        self.model.step(self.update_s)
        self.time_s += self.update_s
        measured = self.model.temperature_c if sensor else None
        output = self.control.step(self.update_s, measured, setpoint_c)
        if self.control.kind == "pwm":
            assert output.pwm is not None
            self.model.power = round(output.pwm) / 255
        else:
            self.model.target_c = output.target_c
            if output.target_c is None:
                self.model.power = 0.0
        self.powers.append(self.model.power)
        self.temperatures.append(self.model.temperature_c)
        self.modes.append(output.mode)

    def until(self, setpoint_c: float | None, mode: CoolerMode, limit_s: float) -> float:
        begun = self.time_s
        while not self.modes or self.modes[-1] is not mode or self.time_s == begun:
            self.step(setpoint_c)
            assert self.time_s - begun <= limit_s, self.temperatures[-1]
        return self.time_s - begun


def make(kind: Any = "pwm", step: float = 3, update_s: float = 1.0, **model: Any) -> Loop:
    control = CoolerControl(kind, 255, step, update_s, 10.0, 0.5, 40.0)
    thermal = ThermalModel.at_rest(AMBIENT_C, DEPTH_C, TIME_CONSTANT_S)
    for name, value in model.items():
        setattr(thermal, name, value)
    return Loop(control, thermal, update_s)


@pytest.mark.parametrize("kind", ["pwm", "setpoint"])
@pytest.mark.parametrize("setpoint_c", [5.0, -5.0, -15.0])
def test_it_locks_and_holds(kind: str, setpoint_c: float) -> None:
    loop = make(kind)
    loop.run(900, setpoint_c)
    unlocked = [index for index, mode in enumerate(loop.modes) if mode is not CoolerMode.LOCKED]
    assert max(unlocked) < 450, "locked for good within 7.5 minutes from room temperature"
    assert all(abs(temperature - setpoint_c) < 0.25 for temperature in loop.temperatures[-300:])
    assert min(loop.temperatures) > setpoint_c - 3.0, "the overshoot is bounded"


@pytest.mark.parametrize(("step", "update_s"), [(3, 1.0), (1, 2.0), (20, 0.5), (5, 20.0)])
def test_power_changes_no_faster_than_configured_and_as_fast(step: float, update_s: float) -> None:
    loop = make(step=step, update_s=update_s)
    loop.run(10 * update_s, -20.0)
    # Ten updates far from the set point: exactly ten steps.
    assert loop.control.pwm == pytest.approx(min(255, 10 * step))
    loop.run(600, -20.0)
    loop.run(600, None)
    changes = [abs(b - a) * 255 for a, b in zip(loop.powers, loop.powers[1:], strict=False)]
    assert max(changes) <= step + 0.51, "half a unit is rounding"


def test_warming_ends_at_no_power_and_says_so() -> None:
    loop = make()
    loop.until(-10.0, CoolerMode.LOCKED, 400)
    power = loop.powers[-1] * 255
    taken_s = loop.until(None, CoolerMode.WARM, 200)
    assert taken_s == pytest.approx(power / 3, abs=2)
    assert loop.powers[-1] == 0
    assert loop.run(60, None) is CoolerMode.WARM


def test_a_set_point_out_of_reach_does_not_wind_up() -> None:
    """An hour at full power is forgotten as soon as the set point can be reached again."""
    loop = make()
    loop.run(3600, -28.0)  # 3 degrees below what full power can do: within the regulator's range
    assert loop.powers[-1] == 1.0
    loop.run(600, -20.0)
    assert max(abs(t + 20.0) for t in loop.temperatures[-200:]) < 0.3
    assert max(abs(t + 20.0) for t in loop.temperatures[-500:]) < 1.5


def test_a_slow_slew_does_not_wind_up() -> None:
    fast, slow = make(step=50), make(step=0.5)
    for loop in (fast, slow):
        loop.run(3000, -10.0)
        loop.run(1500, -13.0)
    low = {id(loop): min(loop.temperatures[-1500:]) for loop in (fast, slow)}
    assert low[id(slow)] > -14.0
    assert abs(slow.temperatures[-1] + 13.0) < 0.2


def test_a_disturbance_is_regulated_away() -> None:
    loop = make()
    loop.run(1200, -5.0)
    loop.model.ambient_c += 4.0
    loop.run(900, -5.0)
    assert abs(loop.temperatures[-1] + 5.0) < 0.2


@pytest.mark.parametrize("kind", ["pwm", "setpoint"])
def test_a_failed_sensor_holds_everything_as_it_is(kind: str) -> None:
    loop = make(kind)
    loop.run(900, -5.0)
    before = (loop.control.pwm, loop.model.target_c)
    assert loop.run(100, -5.0, sensor=False) is CoolerMode.FAULT
    assert (loop.control.pwm, loop.model.target_c) == before
    assert abs(loop.temperatures[-1] + 5.0) < 0.5
    assert loop.run(60, -5.0) is CoolerMode.LOCKED
    loop.run(100, None, sensor=False)
    assert loop.modes[-1] in (CoolerMode.WARM, CoolerMode.WARMING), "it warms without a sensor"


def test_what_is_not_a_number_is_not_a_temperature() -> None:
    loop = make()
    loop.run(900, -5.0)
    pwm = loop.control.pwm
    output = loop.control.step(1.0, float("nan"), -5.0)
    assert (output.mode, output.pwm) == (CoolerMode.FAULT, pwm)


def test_a_pause_makes_no_big_step() -> None:
    loop = make()
    loop.run(10, -20.0)
    before = loop.control.pwm
    loop.control.step(3600.0, 10.0, -20.0)
    assert loop.control.pwm - before <= 30.0
    loop.control.step(-5.0, 10.0, -20.0)
    assert loop.control.pwm - before <= 30.0, "time does not run backwards"


def test_a_cooler_at_work_is_taken_over_without_a_jump() -> None:
    loop = make(temperature_c=-10.0, power=0.625)
    loop.control.adopt(0.625)
    loop.run(300, -10.0)
    assert max(abs(temperature + 10.0) for temperature in loop.temperatures) < 0.3


def test_a_regulating_cooler_at_work_is_warmed_slowly() -> None:
    loop = make("setpoint", temperature_c=-10.0, power=0.625)
    loop.control.adopt(0.625, -10.0)
    loop.run(30, None)
    assert loop.modes[-1] is CoolerMode.WARMING
    assert loop.temperatures[-1] < -3.0, "10 degrees a minute, not all at once"


def test_a_target_moves_no_faster_than_its_rate() -> None:
    loop = make("setpoint")
    targets = []
    for _ in range(120):
        loop.step(-15.0)
        targets.append(loop.model.target_c)
    changes = [abs(b - a) for a, b in itertools.pairwise(targets) if a and b]
    assert max(changes) <= 10 / 60 + 1e-9
    assert targets[0] is not None
    assert targets[0] > 14.0


@pytest.mark.parametrize("ambient_c", [25.0, 4.0, -12.0])
def test_warming_a_regulating_cooler_ends_in_any_weather(ambient_c: float) -> None:
    loop = make("setpoint", ambient_c=ambient_c, temperature_c=ambient_c)
    loop.until(ambient_c - 30.0, CoolerMode.LOCKED, 600)
    highest = []
    begun = loop.time_s
    while loop.modes[-1] is not CoolerMode.WARM:
        loop.step(None)
        highest.append(loop.model.target_c or -99)
        assert loop.time_s - begun < 600
    assert max(highest) < 30.0
    assert loop.model.target_c is None


def test_no_cooler() -> None:
    control = CoolerControl("none", 0, 3, 1.0, 10.0, 0.5, 40.0)
    output = control.step(1.0, 12.0, None)
    assert (output.mode, output.pwm, output.target_c) == (CoolerMode.NONE, None, None)
