# SPDX-License-Identifier: BSD-3-Clause
"""Moves, homing, stops and scans of the rotator, scored by where its load really is."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from kit.rotator import Rig
from nightjar.errors import Busy, Code, InvalidArgument, Refused

GEAR_PLAY_DEG = 0.1


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path).ready()


@pytest.mark.parametrize("kind", ["simulated", "smartmotor", "galil", "zaber"])
def test_random_moves_end_within_the_tolerance_and_from_one_side(
    tmp_path: Path, kind: str
) -> None:
    rig, chance = Rig(tmp_path, kind).ready(), random.Random(11)
    for _ in range(15):
        target = round(chance.uniform(-36, 24), 2)
        ended = rig.goto(target)
        assert ended["state"] == "done", ended
        assert abs(rig.load_deg - target) <= 0.05
        assert rig.approach_deg() >= GEAR_PLAY_DEG, f"to {target}"
        assert ended["result"]["error_deg"] == pytest.approx(target - rig.load_deg, abs=0.03)
    assert rig.mechanics.limit_hits == 0
    assert not rig.told.all("warning", "error")


@pytest.mark.parametrize("step", [0.0, 0.01, 0.1, -0.1, 0.29, -0.31, 1.0, -1.0])
def test_small_moves_come_from_the_same_side_too(rig: Rig, step: float) -> None:
    rig.goto(5.0)
    ended = rig.finish(rig.rotator.offset(step))
    assert ended["state"] == "done"
    assert abs(rig.load_deg - 5.0 - step) <= 0.05
    assert rig.goto(5.0)["state"] == "done"
    assert rig.approach_deg() >= GEAR_PLAY_DEG or not rig.history


def test_a_sequence_of_offsets_does_not_add_errors(rig: Rig) -> None:
    rig.goto(-20.0)
    for _ in range(20):
        rig.finish(rig.rotator.offset(0.5))
    assert rig.load_deg == pytest.approx(-10.0, abs=0.05)


@pytest.mark.parametrize("target", [-36.0, 24.0])
def test_the_ends_of_the_range_are_reached_without_a_switch(rig: Rig, target: float) -> None:
    assert rig.goto(target)["state"] == "done"
    assert rig.load_deg == pytest.approx(target, abs=0.05)
    assert max(angle for _, angle in rig.history) < 25.5
    assert rig.mechanics.limit_hits == 0


@pytest.mark.parametrize("target", [-36.01, 24.01, 60.0, -360.0])
def test_outside_the_range_is_refused(rig: Rig, target: float) -> None:
    with pytest.raises(Refused, match="outside -36 to 24") as caught:
        rig.rotator.goto(target)
    assert caught.value.code is Code.OUT_OF_RANGE
    with pytest.raises(Refused):
        rig.rotator.offset(target * 3)


@pytest.mark.parametrize("after_s", [0.3, 2.5])
@pytest.mark.parametrize("kind", ["simulated", "smartmotor", "galil"])
def test_stop_is_at_rest_within_half_a_second(tmp_path: Path, kind: str, after_s: float) -> None:
    rig = Rig(tmp_path, kind).ready()
    rig.goto(24.0)
    operation = rig.operations.get(rig.rotator.goto(-30.0)["operation"])
    rig.tick(after_s)
    assert rig.mechanics.is_moving
    began = rig.now_s
    rig.rotator.stop()
    rig.tick()  # the command wakes the thread
    while rig.mechanics.is_moving:
        rig.clock.advance(0.005)
        assert rig.now_s - began < 1
    assert rig.now_s - began <= 0.5
    rig.tick(0.5)
    assert operation.snapshot()["state"] == "cancelled"
    assert rig.status["state"] == "READY"
    assert rig.goto(0.0)["state"] == "done"
    assert abs(rig.load_deg) <= 0.05


def test_cancelling_the_operation_stops_the_motor(rig: Rig) -> None:
    operation = rig.operations.get(rig.rotator.goto(-30.0)["operation"])
    rig.tick(1.0)
    operation.cancel()
    rig.tick(1.0)
    assert operation.snapshot()["state"] == "cancelled"
    assert not rig.mechanics.is_moving


def test_stop_before_the_first_look_cancels_what_was_asked(rig: Rig) -> None:
    operation = rig.operations.get(rig.rotator.goto(-30.0)["operation"])
    rig.rotator.stop()
    rig.tick(1.0)
    assert operation.snapshot()["state"] == "cancelled"
    assert abs(rig.load_deg) < 0.2


def test_one_thing_at_a_time(rig: Rig) -> None:
    rig.rotator.goto(-30.0)
    for command in (
        lambda: rig.rotator.goto(1.0), lambda: rig.rotator.home(True), rig.rotator.reset,
        lambda: rig.rotator.calibrate(None, None, 5.0), lambda: rig.rotator.power(False),
    ):  # fmt: skip
        with pytest.raises(Busy, match="going to -30"):
            command()
        rig.tick(0.1)


# --- homing -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "start", [-60.0, -45.0, -36.0, -5.0, -0.4, -0.2, 0.0, 0.04, 1.0, 25.0]
)
def test_homing_finds_the_edge_from_anywhere(tmp_path: Path, start: float) -> None:
    if start < -46:  # nobody knows there on which side the tab is: the near switch tells
        rig = Rig(tmp_path, start_deg=start, limit_low_deg=-100.0)
    else:
        rig = Rig(tmp_path, start_deg=start)
    rig.tick(0.5)
    assert rig.status["state"] == "UNHOMED"
    began = rig.now_s
    ended = rig.finish(rig.rotator.home(False))
    assert ended["state"] == "done", ended
    assert rig.now_s - began < 95
    assert rig.status["angle_deg"] == pytest.approx(rig.load_deg, abs=0.03)
    assert ended["result"]["spread_deg"] <= 0.05
    assert rig.mechanics.limit_hits == 0


@pytest.mark.parametrize("width", [0.15, 0.3, 3.0, 8.0])
@pytest.mark.parametrize("start", [10.0, -0.1, -7.0])
def test_narrow_tabs_and_long_vanes(tmp_path: Path, width: float, start: float) -> None:
    rig = Rig(tmp_path, start_deg=start, tab_width_deg=width)
    rig.tick(0.5)
    ended = rig.finish(rig.rotator.home(False))
    assert ended["state"] == "done", ended
    assert rig.status["angle_deg"] == pytest.approx(rig.load_deg, abs=0.03)


def test_homing_is_repeatable(tmp_path: Path) -> None:
    zeros = []
    for number, start in enumerate((20.0, 3.3, -0.2, -11.0, -30.0)):
        rig = Rig(tmp_path / str(number), "smartmotor", start_deg=start, seed=number).ready()
        rig.goto(10.0)
        zeros.append(rig.load_deg - rig.status["angle_deg"])
    assert max(zeros) - min(zeros) <= 0.03


def test_homing_again_is_quick_and_only_by_force(rig: Rig) -> None:
    rig.goto(-36.0)
    with pytest.raises(Refused, match="--force"):
        rig.rotator.home(False)
    began = rig.now_s
    assert rig.finish(rig.rotator.home(True))["state"] == "done"
    assert rig.now_s - began < 60
    assert not rig.told.all("warning", "error")


def test_a_tab_that_was_moved_is_told(rig: Rig) -> None:
    rig.goto(5.0)
    rig.mechanics.encoder_jump_counts = 30  # a third of a degree, as if the tab were elsewhere
    assert rig.finish(rig.rotator.home(True))["state"] == "done"
    assert any("from where it was at the last homing" in text for text in rig.told.all("warning"))


def test_a_hidden_tab_is_an_error_and_not_a_crash(tmp_path: Path) -> None:
    rig = Rig(tmp_path, start_deg=-45.0)
    rig.mechanics.is_tab_hidden = True
    rig.tick(0.5)
    ended = rig.finish(rig.rotator.home(False))
    assert ended["state"] == "failed"
    assert "limit switch" in ended["message"] or "was not found" in ended["message"]
    rig.tick(15.0)
    assert rig.status["state"] in ("LIMIT", "UNHOMED")
    with pytest.raises(Refused):
        rig.rotator.goto(0.0)


def test_without_homing_nothing_moves(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.tick(0.5)
    with pytest.raises(Refused, match="rot home") as caught:
        rig.rotator.goto(0.0)
    assert caught.value.code is Code.NOT_INITIALIZED
    with pytest.raises(Refused):
        rig.rotator.offset(1.0)
    with pytest.raises(Refused):
        rig.rotator.calibrate(None, None, 5.0)


# --- sweep --------------------------------------------------------------------------------------


def test_the_sweep_measures_the_play_that_is_there(tmp_path: Path) -> None:
    results = []
    for play in (0.05, 0.15, 0.4):
        rig = Rig(tmp_path / str(play), belt_play_deg=play).ready()
        ended = rig.finish(rig.rotator.calibrate(-30.0, 20.0, 5.0), 1000)
        assert ended["state"] == "done"
        results.append(ended["result"]["play_deg"] - play)
        assert ended["result"]["scale"] == pytest.approx(1.0, abs=0.002)
        assert (tmp_path / str(play) / Path(ended["result"]["file"]).name).exists()
    # Beside the belt's there is the gear's play and friction, the same for all.
    assert max(results) - min(results) < 0.05
    assert all(0.0 < rest < 0.15 for rest in results)


def test_a_sweep_that_makes_no_sense_is_refused(rig: Rig) -> None:
    with pytest.raises(InvalidArgument):
        rig.rotator.calibrate(0.0, 1.0, 5.0)
    with pytest.raises(Refused):
        rig.rotator.calibrate(-40.0, None, 5.0)


# --- memory -------------------------------------------------------------------------------------


def test_a_restart_keeps_the_zero_points(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "a").ready()
    rig.goto(-17.5)
    rig.rotator.close()
    again = Rig(tmp_path / "a", mechanics=rig.mechanics, clock=rig.clock)
    again.tick(0.5)
    assert again.status["state"] == "READY"
    assert again.status["angle_deg"] == pytest.approx(rig.load_deg, abs=0.03)
    assert again.goto(20.0)["state"] == "done"
    assert abs(rig.load_deg - 20.0) <= 0.05


def test_without_its_memory_it_must_be_homed(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "a").ready()
    rig.rotator.close()
    again = Rig(tmp_path / "b", mechanics=rig.mechanics, clock=rig.clock)
    again.tick(0.5)
    assert again.status["state"] == "UNHOMED"


@pytest.mark.parametrize(
    ("change", "why"),
    [("power", "without power"), ("slip", "disagree"), ("garbage", "not homed before")],
)
def test_a_memory_that_is_not_borne_out_is_not_believed(
    tmp_path: Path, change: str, why: str
) -> None:
    rig = Rig(tmp_path / "a").ready()
    rig.goto(5.0)
    rig.rotator.close()
    if change == "power":
        rig.mechanics.cut_power()
        rig.clock.advance(3.0)
        rig.mechanics.set_power(True)
        rig.clock.advance(1.0)
    elif change == "slip":
        rig.mechanics.slip(1.5)
    else:
        (tmp_path / "a" / "rotator.json").write_text('{"cut')
    again = Rig(tmp_path / "a", mechanics=rig.mechanics, clock=rig.clock)
    again.tick(0.5)
    assert again.status["state"] == "UNHOMED"
    assert why in again.status["reason"]
    again.finish(again.rotator.home(False))
    assert again.status["angle_deg"] == pytest.approx(rig.load_deg, abs=0.03)


def test_a_daemon_that_died_in_mid_move_stops_the_motor_when_it_returns(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "a").ready()
    rig.goto(20.0)
    rig.rotator.goto(-30.0)
    rig.tick(2.0)
    again = Rig(tmp_path / "a", mechanics=rig.mechanics, clock=rig.clock)  # nothing was closed
    assert rig.mechanics.is_moving
    again.tick(3.0)
    assert not rig.mechanics.is_moving
    assert any("was stopped" in text for text in again.told.all("warning"))
    assert again.status["state"] == "READY"
    assert again.status["angle_deg"] == pytest.approx(rig.load_deg, abs=0.06)
