# SPDX-License-Identifier: BSD-3-Clause
"""What befalls a rotator: each fault is injected into the mechanics or the line, and must be told.

Whatever happens: the operation ends, the motor is at rest, the line ROTATING falls.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kit.depth import soaked
from kit.rotator import Rig
from nightjar.errors import Refused
from nightjard.simulators.rotator import protocol_simulated
from nightjard.simulators.rotator.mechanics import Mechanics


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path).ready()


def befall(
    rig: Rig, what: Callable[[Mechanics], Any], after_s: float = 2.0, target: float = -30.0
) -> dict[str, Any]:
    """Go a long way, let something happen on it; return how the move ended."""
    rig.goto(20.0)
    reply = rig.rotator.goto(target)
    rig.tick(after_s)
    what(rig.mechanics)
    ended = rig.finish(reply)
    settle(rig)
    return ended


def settle(rig: Rig) -> None:
    """See that nothing goes on and nobody waits."""
    rig.tick(5.0)
    assert not rig.mechanics.is_moving
    assert not rig.status["rotating_line"]
    assert rig.status["job"] is None
    assert not rig.operations.running()


def recover(rig: Rig) -> None:
    """Reset, home, and prove by truth that all is well again."""
    assert rig.finish(rig.rotator.reset())["state"] == "done"
    assert rig.status["state"] == "UNHOMED"
    assert rig.finish(rig.rotator.home(True))["state"] == "done"
    assert rig.goto(-3.0)["state"] == "done"
    assert abs(rig.load_deg + 3.0) <= 0.05
    assert rig.status["state"] == "READY"


# --- belt and encoder ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_a_slip_of_more_than_a_degree_is_always_found(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    degrees = chance.choice((-1, 1)) * chance.uniform(1.35, 4.0)  # play takes up to 0.27 of it
    rig = Rig(tmp_path, seed=seed).ready()
    ended = befall(rig, lambda it: it.slip(degrees), chance.uniform(0.2, 8.0), -20.0)
    assert ended["state"] == "failed"
    assert rig.status["state"] == "FAULT"
    assert "slipped" in rig.status["reason"]
    assert not rig.status["is_homed"]
    with pytest.raises(Refused, match="rot reset"):
        rig.rotator.goto(0.0)
    recover(rig)


def test_a_slip_at_rest_is_found(rig: Rig) -> None:
    rig.mechanics.slip(-2.0)
    rig.tick(1.0)
    assert rig.status["state"] == "FAULT"
    recover(rig)


def test_a_small_slip_costs_nothing_but_a_correction(rig: Rig) -> None:
    ended = befall(rig, lambda it: it.slip(0.4))
    assert ended["state"] == "done"
    assert abs(rig.load_deg + 30.0) <= 0.05


def test_a_stuck_encoder_stops_the_move(rig: Rig) -> None:
    ended = befall(rig, lambda it: it.stick_encoder(True))
    assert ended["state"] == "failed"
    assert rig.status["state"] == "FAULT"
    assert abs(rig.load_deg - 20.0) < 20.0  # not on and on
    rig.mechanics.stick_encoder(False)
    recover(rig)


def test_a_jumping_encoder_stops_the_move(rig: Rig) -> None:
    def jump(it: Mechanics) -> None:
        it.encoder_jump_counts = 700

    ended = befall(rig, jump)
    assert ended["state"] == "failed"
    assert "jumped" in rig.status["reason"] or "went apart" in rig.status["reason"]
    recover(rig)


def test_homing_with_a_stuck_encoder_fails(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.tick(0.5)
    rig.mechanics.stick_encoder(True)
    ended = rig.finish(rig.rotator.home(False))
    assert ended["state"] == "failed"
    assert not rig.status["is_homed"]
    settle(rig)


def test_motion_that_nobody_asked_for_is_told(rig: Rig) -> None:
    rig.mechanics.slip(0.5)
    rig.tick(1.0)
    assert any("without a command" in text for text in rig.told.all("warning"))
    assert rig.rotator.log(5)["entries"][-1]["what"] == "uncommanded"
    assert rig.status["state"] == "READY"


def test_a_motor_that_turns_by_itself_is_stopped(rig: Rig) -> None:
    rig.mechanics.move_to(rig.mechanics.motor_counts - 20000, 3000, 5000)
    rig.tick(2.0)
    assert not rig.mechanics.is_moving
    assert any("nobody has told it to" in text for text in rig.told.all("error"))


# --- power and limits ---------------------------------------------------------------------------


def test_power_lost_in_mid_move(rig: Rig) -> None:
    ended = befall(rig, lambda it: it.cut_power())
    assert ended["state"] == "failed"
    assert "power" in ended["message"]
    assert rig.status["state"] in ("UNPOWERED", "OFFLINE", "FAULT")
    assert not rig.status["is_homed"]
    recover(rig)


@pytest.mark.parametrize("kind", ["smartmotor", "galil", "zaber"])
def test_power_lost_in_mid_move_on_the_wire(tmp_path: Path, kind: str) -> None:
    rig = Rig(tmp_path, kind).ready()
    ended = befall(rig, lambda it: it.cut_power())
    assert ended["state"] == "failed"
    with pytest.raises(Refused):
        rig.rotator.goto(0.0)
    recover(rig)


@pytest.mark.parametrize("kind", ["simulated", "smartmotor", "galil", "zaber"])
@pytest.mark.parametrize("end", ["high", "low"])
def test_a_limit_hit_is_latched_and_recovered_from(tmp_path: Path, kind: str, end: str) -> None:
    # The switch sits where moves go: nobody hits one else.
    at = {"high": 24.6, "low": -36.1}[end]
    rig = Rig(tmp_path, kind, config={"geometry": {"motor_counts_per_deg": 1000.0,
                                                   f"{end}_switch_deg": at}}).ready()  # fmt: skip
    rig.goto(0.0)
    setattr(rig.mechanics.parameters, f"limit_{end}_deg", at - 0.1 if end == "high" else at + 0.6)
    ended = rig.finish(rig.rotator.goto(24.0 if end == "high" else -36.0))
    assert ended["state"] == "failed"
    assert "limit switch" in ended["message"]
    rig.tick(10.0)  # the dewar swings
    assert rig.mechanics.limit_hits == 1
    assert rig.status["state"] == "LIMIT", rig.status
    for command in (lambda: rig.rotator.home(True), lambda: rig.rotator.goto(0.0)):
        with pytest.raises(Refused, match="rot reset"):
            command()
    assert not rig.status["is_homed"]
    rig.mechanics.parameters.limit_low_deg = -75.0
    rig.mechanics.parameters.limit_high_deg = 26.0
    recover(rig)
    assert rig.mechanics.limit_hits == 1


def test_reset_says_so_while_the_switch_is_still_hit(rig: Rig) -> None:
    rig.mechanics.parameters.limit_high_deg = -70.0
    rig.mechanics.cut_power()
    rig.tick(1.0)
    ended = rig.finish(rig.rotator.reset())
    assert ended["state"] == "failed"
    assert "still hit" in ended["message"]
    settle(rig)


def test_a_move_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    slow = {"motion": {"speed_deg_s": 0.2, "move_timeout_s": 5.0}}
    rig = Rig(tmp_path, config=slow, start_deg=3.0).ready()
    ended = rig.goto(-30.0)
    assert (ended["state"], ended["code"]) == ("failed", "TIMED_OUT")
    settle(rig)
    assert rig.load_deg > -10


def test_power_switched_off_by_command(rig: Rig) -> None:
    rig.rotator.power(False)
    rig.tick(1.0)
    assert rig.status["state"] in ("UNPOWERED", "OFFLINE")
    rig.rotator.power(True)
    rig.tick(3.0)
    assert rig.status["state"] == "UNHOMED"


# --- the line -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["smartmotor", "galil", "zaber"])
@pytest.mark.parametrize("chance", [1e-3, soaked(1e-4)])
def test_lost_and_changed_bytes_cost_time_and_nothing_else(
    tmp_path: Path, kind: str, chance: float
) -> None:
    rig = Rig(tmp_path, kind).ready()
    assert rig.motor_wire is not None and rig.encoder_wire is not None  # noqa: PT018
    for wire in (rig.motor_wire, rig.encoder_wire):
        wire.lose = wire.garble = chance
    numbers, failed = random.Random(7), 0
    for _ in range(20):
        target = round(numbers.uniform(-36, 24), 2)
        ended = rig.goto(target)
        if ended["state"] == "done":
            assert abs(rig.load_deg - target) <= 0.05
        else:
            failed += 1
            assert "answered" in ended["message"]
    assert failed <= 1
    assert rig.mechanics.limit_hits == 0
    assert rig.status["is_homed"]


@pytest.mark.parametrize("kind", ["smartmotor", "galil", "zaber"])
def test_a_line_that_is_hardly_one_moves_nothing_wrongly(tmp_path: Path, kind: str) -> None:
    rig = Rig(tmp_path, kind).ready()
    assert rig.motor_wire is not None and rig.encoder_wire is not None  # noqa: PT018
    for wire in (rig.motor_wire, rig.encoder_wire):
        wire.lose = wire.garble = 0.01
    numbers = random.Random(8)
    for _ in range(15):
        target = round(numbers.uniform(-36, 24), 2)
        try:
            ended = rig.goto(target)
        except Refused:
            rig.tick(2.0)
            continue
        if ended["state"] == "done":
            assert abs(rig.load_deg - target) <= 0.05
    for wire in (rig.motor_wire, rig.encoder_wire):
        wire.lose = wire.garble = 0.0
    assert rig.mechanics.limit_hits == 0
    rig.until(lambda: rig.status["state"] not in ("OFFLINE", "STOPPING"), 60)
    settle(rig)
    if rig.status["state"] == "FAULT":
        rig.finish(rig.rotator.reset())
    if not rig.status["is_homed"]:
        rig.finish(rig.rotator.home(True))
    assert rig.goto(1.0)["state"] == "done"
    assert abs(rig.load_deg - 1.0) <= 0.05


@pytest.mark.parametrize("part", ["motor", "encoder"])
@pytest.mark.parametrize("how", ["silent", "garbage", "cut"])
def test_a_part_that_stops_answering_in_mid_move(tmp_path: Path, part: str, how: str) -> None:
    rig = Rig(tmp_path, "smartmotor").ready()
    wire = rig.motor_wire if part == "motor" else rig.encoder_wire
    assert wire is not None

    def spoil(_it: Mechanics) -> None:
        wire.is_silent = how == "silent"
        wire.garble = 1.0 if how == "garbage" else 0.0
        wire.cut_answers = 10**6 if how == "cut" else 0

    rig.goto(20.0)
    reply = rig.rotator.goto(-30.0)
    rig.tick(2.0)
    spoil(rig.mechanics)
    ended = rig.finish(reply)
    rig.tick(15.0)
    assert ended["state"] == "failed"
    assert part in ended["message"]
    # Garbage may look like an encoder that jumps.
    assert rig.status["state"] == "OFFLINE" or how == "garbage"
    assert part in rig.status["reason"]
    assert rig.health.snapshot()["level"] != "OK"
    with pytest.raises(Refused):
        rig.rotator.goto(0.0)
    if part == "encoder":
        assert not rig.mechanics.is_moving  # the motor could be told
    wire.is_silent, wire.garble, wire.cut_answers = False, 0.0, 0
    rig.until(lambda: rig.status["state"] != "OFFLINE", 60)
    settle(rig)
    if rig.status["state"] != "READY":
        recover(rig)
    assert rig.health.snapshot()["level"] == "OK"
    assert rig.goto(5.0)["state"] == "done"
    assert abs(rig.load_deg - 5.0) <= 0.05


@pytest.mark.parametrize("part", ["motor", "encoder"])
def test_a_cable_that_is_pulled_and_put_back(tmp_path: Path, part: str) -> None:
    rig = Rig(tmp_path, "smartmotor").ready()
    wire = rig.motor_wire if part == "motor" else rig.encoder_wire
    assert wire is not None
    device: Any = rig.motor if part == "motor" else rig.encoder
    name = device._options.port.removeprefix("simulated://")
    rig.goto(10.0)
    protocol_simulated.disconnect(name)
    rig.tick(4.0)
    assert rig.status["state"] == "OFFLINE"
    assert part in rig.status["reason"]
    protocol_simulated.connect(name, wire, rig.clock)
    rig.until(lambda: rig.status["state"] == "READY", 60)
    assert rig.status["angle_deg"] == pytest.approx(rig.load_deg, abs=0.05)
    assert rig.goto(-10.0)["state"] == "done"
    assert abs(rig.load_deg + 10.0) <= 0.05


def test_late_answers_are_waited_for_or_asked_again(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "smartmotor", timeout_s=0.5).ready()
    assert rig.motor_wire is not None
    rig.motor_wire.stall_s = 0.1
    assert rig.goto(-10.0)["state"] == "done"
    assert abs(rig.load_deg + 10.0) <= 0.05


def test_devices_that_are_not_there_are_looked_for_again(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "galil")
    assert rig.motor_wire is not None
    rig.motor_wire.is_silent = True
    rig.tick(30.0)
    assert rig.status["state"] == "OFFLINE"
    assert "no Galil controller" in rig.status["reason"]
    rig.motor_wire.is_silent = False
    rig.until(lambda: rig.status["state"] == "UNHOMED", 30)
