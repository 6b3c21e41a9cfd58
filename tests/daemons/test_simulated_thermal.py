# SPDX-License-Identifier: BSD-3-Clause
"""The thermal model against the physics it states, and the cooler that drives it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightjar.clock import ManualClock
from nightjard.camd.drivers.cooler import SimulatedCooler
from nightjard.camd.drivers.options import SimulatedOptions
from nightjard.camd.drivers.thermal import HEATSINK_RISE_C, ThermalModel


def model(**changes: float) -> ThermalModel:
    made = ThermalModel.at_rest(ambient_c=15.0, depth_c=40.0, time_constant_s=100.0)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_one_time_constant_covers_63_percent_of_the_way() -> None:
    sensor = model(power=0.5)
    sensor.step(100.0)
    assert sensor.temperature_c == pytest.approx(15 - 20 * (1 - math.exp(-1)))


def test_the_heat_sink_is_ten_times_slower() -> None:
    sensor = model(power=1.0)
    sensor.step(100.0)
    assert sensor.heatsink_c == pytest.approx(15 + HEATSINK_RISE_C * (1 - math.exp(-0.1)))


def test_settles_at_the_power_s_depth_and_warms_back() -> None:
    sensor = model(power=1.0)
    sensor.step(1e6)
    assert sensor.temperature_c == pytest.approx(-25.0)
    assert sensor.heatsink_c == pytest.approx(15.0 + HEATSINK_RISE_C)
    sensor.power = 0.0
    sensor.step(1e6)
    assert sensor.temperature_c == pytest.approx(15.0)
    assert sensor.heatsink_c == pytest.approx(15.0)


@given(
    st.floats(0, 1), st.floats(-60, 40), st.lists(st.floats(0.001, 500), min_size=1, max_size=20)
)
def test_steps_add_up(power: float, start: float, parts: list[float]) -> None:
    """However time is cut, the same time gives the same temperature."""
    whole, cut = (model(power=power, temperature_c=start) for _ in range(2))
    whole.step(math.fsum(parts))
    for part in parts:
        cut.step(part)
    assert cut.temperature_c == pytest.approx(whole.temperature_c, abs=1e-6)
    assert cut.heatsink_c == pytest.approx(whole.heatsink_c, abs=1e-6)


@pytest.mark.parametrize("step_s", [0.1, 5.0, 1000.0, 1e7])
def test_regulator_reaches_its_set_point_at_any_step(step_s: float) -> None:
    sensor = model(target_c=-10.0)
    for _ in range(max(1, round(1000 / step_s))):
        sensor.step(step_s)
        assert sensor.temperature_c > -10.5, "it swings through"
    assert sensor.temperature_c == pytest.approx(-10.0, abs=0.05)
    assert sensor.power == pytest.approx(25 / 40, abs=0.01)


def test_regulator_cannot_pass_the_cooler_s_depth() -> None:
    sensor = model(target_c=-40.0)
    sensor.step(1e5)
    assert sensor.temperature_c == pytest.approx(-25.0)
    assert sensor.power == 1.0


@pytest.mark.parametrize("changes", [{"power": 1.0}, {"target_c": -20.0}])
def test_a_dead_cooler_does_not_cool(changes: dict[str, float]) -> None:
    sensor = model(temperature_c=-20.0, is_dead=True, **changes)
    sensor.step(1e6)
    assert sensor.temperature_c == pytest.approx(15.0)


@pytest.mark.parametrize("step_s", [0.0, -5.0])
def test_no_time_changes_nothing(step_s: float) -> None:
    sensor = model(power=1.0, temperature_c=3.0)
    sensor.step(step_s)
    assert sensor.temperature_c == 3.0


# -- the cooler on a clock ----------------------------------------------------------------------


def cooler(clock: ManualClock, **options: Any) -> SimulatedCooler:
    made = SimulatedCooler(SimulatedOptions(width=32, height=8, **options), clock)
    made.connect()
    return made


def test_follows_the_clock_times_speed() -> None:
    clock = ManualClock()
    slow, fast = cooler(clock), cooler(clock, speed=10.0)
    for made in (slow, fast):
        made.set_power(1.0)
    clock.advance(12.0)
    assert slow.temperature_c() == pytest.approx(15 - 40 * (1 - math.exp(-0.1)))
    assert fast.temperature_c() == pytest.approx(15 - 40 * (1 - math.exp(-1.0)))


def test_reading_is_noisy_and_sticks() -> None:
    clock = ManualClock()
    sensor = cooler(clock, temperature_noise=0.05)
    readings = [sensor.reading_c(False) for _ in range(300)]
    mean = sum(readings) / 300
    spread = math.sqrt(sum((value - mean) ** 2 for value in readings) / 300)
    assert mean == pytest.approx(15.0, abs=0.02)
    assert spread == pytest.approx(0.05, rel=0.2)
    sensor.set_power(1.0)
    stuck = sensor.reading_c(True)
    clock.advance(600.0)
    assert sensor.reading_c(True) == stuck
    assert sensor.reading_c(False) < -20


def test_state_outlives_the_process(tmp_path: Path) -> None:
    clock = ManualClock()
    path = str(tmp_path / "cooler.json")
    first = cooler(clock, state_path=path)
    first.set_power(1.0)
    clock.advance(1e4)
    first.save()
    second = cooler(clock, state_path=path)
    assert second.temperature_c() == pytest.approx(-25.0, abs=0.01)
    assert second.power() == 1.0
    # Nobody was there for a while: the cooler went on meanwhile.
    first.set_power(0.0)
    clock.advance(120.0)
    third = cooler(clock, state_path=path)
    assert third.temperature_c() == pytest.approx(15 - 40 * math.exp(-1), abs=0.01)


@pytest.mark.parametrize("text", ["", "{}", "[1]", json.dumps({"temperature_c": "cold"})])
def test_a_damaged_state_file_is_told_and_ignored(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "cooler.json"
    path.write_text(text)
    assert cooler(ManualClock(), state_path=str(path)).temperature_c() == pytest.approx(15.0)
    assert str(path) in caplog.text
