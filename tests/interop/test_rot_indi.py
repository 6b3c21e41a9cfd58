# SPDX-License-Identifier: BSD-3-Clause
"""A rotator behind a real INDI server: the whole model moves the INDI project's own simulator."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kit.indi import IndiServer
from kit.rotator import PlayedLines, Told, rot_config
from nightjar.clock import ManualClock, SystemClock
from nightjar.errors import DeviceLost, DeviceNotFound, Refused
from nightjar.health import Health
from nightjar.operations import Operations
from nightjard.rotd.config import IndiRotator, RotdConfig
from nightjard.rotd.drivers.indi import IndiEncoder, IndiMotor, counts_of
from nightjard.rotd.drivers.table import make_devices
from nightjard.rotd.model import Rotator

pytestmark = pytest.mark.needs("indiserver", "indi_simulator_rotator")
DEVICE = "Rotator Simulator"


@pytest.fixture
def server(tmp_path: Path, free_ports: Callable[[int], list[int]]) -> Iterator[IndiServer]:
    folder = tmp_path / "indi"
    folder.mkdir()
    server = IndiServer(folder, free_ports(1)[0], "indi_simulator_rotator")
    server.start()
    yield server
    server.stop()


def indi_config(server: IndiServer) -> RotdConfig:
    return rot_config(
        motor={"kind": "indi", "port": server.port, "device": DEVICE},
        encoder={"kind": "indi"},
        geometry={"motor_counts_per_deg": 1000.0, "large_teeth": 1, "small_teeth": 1},
    )


def wait_rest(motor: IndiMotor, limit_s: float = 30.0) -> int:
    end = time.monotonic() + limit_s
    while True:
        state = motor.state()
        if not state.is_moving:
            return state.counts
        assert time.monotonic() < end
        time.sleep(0.02)  # the simulator's time is real


def test_angles_wrap_at_half_a_turn() -> None:
    assert [counts_of(angle) for angle in (0.0, 24.0, 324.0, 179.999, 180.0)] == [
        0, 24000, -36000, 179999, -180000,
    ]  # fmt: skip


def test_a_move_ends_where_it_shall_and_can_be_stopped(server: IndiServer) -> None:
    clock = SystemClock()
    motor = IndiMotor(IndiRotator(port=server.port, device=DEVICE), clock)
    encoder = IndiEncoder(motor, clock)
    capabilities = motor.open()
    assert capabilities.model == DEVICE
    assert not capabilities.has_home_input
    motor.move_to(12_500, 0, 0)
    assert wait_rest(motor) == 12_500
    assert encoder.read().counts == 12_500
    motor.move_to(170_000, 0, 0)
    assert motor.state().is_moving
    while motor.state().counts < 20_000:
        time.sleep(0.02)
    motor.stop(0)
    at = wait_rest(motor)
    assert 20_000 <= at < 120_000
    server.stop()
    with pytest.raises(DeviceLost):
        wait_lost(motor)
    with pytest.raises(DeviceNotFound, match=str(server.port)):
        motor.open()
    motor.close()


def wait_lost(motor: IndiMotor) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        motor.state()
        time.sleep(0.01)


def test_no_such_device_is_told(server: IndiServer) -> None:
    motor = IndiMotor(IndiRotator(port=server.port, device="No such", timeout_s=0.5), SystemClock())
    with pytest.raises(DeviceNotFound, match="No such"):
        motor.open()


def test_the_model_goes_to_angles_without_homing(server: IndiServer, tmp_path: Path) -> None:
    config, clock = indi_config(server), SystemClock()
    motor, encoder = make_devices(config, clock)
    operations = Operations(clock)
    rotator = Rotator(
        config, motor, encoder, PlayedLines(ManualClock()), clock=clock,
        health=Health(clock.now_ns), operations=operations, log=Told(), folder=tmp_path,
    )  # fmt: skip
    rotator.tick()
    assert rotator.status()["state"] == "READY"
    with pytest.raises(Refused, match="no homing sensor"):
        rotator.home(False)
    operation = operations.get(rotator.goto(7.25)["operation"])
    end = time.monotonic() + 60
    while not operation.is_done:
        assert time.monotonic() < end, rotator.status()
        rotator.tick()
        time.sleep(0.05)
    assert operation.snapshot()["state"] == "done", operation.snapshot()
    assert rotator.status()["angle_deg"] == pytest.approx(7.25, abs=0.05)
    rotator.close()
