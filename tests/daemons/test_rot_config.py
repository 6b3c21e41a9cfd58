# SPDX-License-Identifier: BSD-3-Clause
"""Configuration of the rotator, its choice of drivers, and the bytes of its protocols."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from kit.rotator import config_value, rot_config
from nightjar.clock import SystemClock
from nightjar.das.lines import Line
from nightjar.errors import ConfigError, DeviceError, DeviceNotFound
from nightjard.rotd.config import PowerProgram, RotdConfig
from nightjard.rotd.drivers.galil import GalilMotor
from nightjard.rotd.drivers.lines import WiredLines
from nightjard.rotd.drivers.power import ProgramSwitch
from nightjard.rotd.drivers.smartmotor import SmartMotor
from nightjard.rotd.drivers.table import make_devices, make_lines, make_power
from nightjard.rotd.drivers.zaber import ZaberMotor, checksum
from nightjard.simulators.wires import Wires

PROJECT = Path(__file__).resolve().parents[2]
SEI = {"kind": "sei", "port": "/dev/null"}


def test_the_example_is_valid() -> None:
    for path in (PROJECT / "etc/rotd").glob("*.json"):
        RotdConfig.model_validate_json(path.read_text())


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"motor": {"kind": "simulated"}, "encoder": SEI}, "simulated goes with simulated"),
        ({"motor": {"kind": "indi"}, "encoder": SEI}, "geometry"),
        ({"geometry": {"low_deg": 10.0, "high_deg": 5.0}}, "low_deg must be below"),
        ({"geometry": {"high_deg": 27.0}}, "between the switches"),
        ({"geometry": {"motor_counts_per_deg": 0.0}}, "greater than 0"),
        ({"motor": {"kind": "parker"}}, "parker"),
        ({"array": {"mountings": []}}, "at least 1"),
        ({"poll_s": 0.001}, "poll_s"),
        ({"nosuch": 1}, "nosuch"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        rot_config(**changes)


def test_the_newest_mounting_that_has_begun_is_in_force() -> None:
    mountings = [{"since": "2025-01-01", "fiducial_deg": 80.0},
                 {"since": "2025-06-01", "fiducial_deg": 95.0}]  # fmt: skip
    config = rot_config(array={"mountings": mountings})
    assert config.fiducial_deg(date(2025, 5, 31)) == 80.0
    assert config.fiducial_deg(date(2025, 6, 1)) == 95.0
    with pytest.raises(ConfigError, match="none has begun"):
        config.fiducial_deg(date(2024, 12, 31))


@pytest.mark.parametrize(
    ("kind", "made"), [("smartmotor", SmartMotor), ("galil", GalilMotor), ("zaber", ZaberMotor)]
)
def test_drivers_by_name_and_a_port_that_is_none(kind: str, made: type) -> None:
    value = config_value(motor=None, encoder=SEI)
    value["motor"] = {"kind": kind, "port": "/dev/does-not-exist"}
    config = RotdConfig.model_validate_json(json.dumps(value))
    motor, _ = make_devices(config, SystemClock())
    assert isinstance(motor, made)
    with pytest.raises(DeviceNotFound, match="/dev/does-not-exist"):
        motor.open()


def test_published_checksums_of_zaber_messages() -> None:
    """Examples of Zaber's protocol manual."""
    assert checksum(b"01 tools echo") == b"8F"
    assert checksum(b"1 tools echo") == b"BF"
    assert checksum(b"get maxspeed") == b"49"


def test_lines_of_the_simulated_observatory(tmp_path: Path) -> None:
    lines = WiredLines(tmp_path / "wires")
    with pytest.raises(DeviceNotFound, match="simulated telescope"):
        lines.open()
    wires = Wires.create(tmp_path / "wires")
    lines.open()
    assert not lines.is_rotate()
    wires.set_line(Line.ROTATE, True)
    wires.set_line(Line.TRACKING, True)
    assert (lines.is_rotate(), lines.is_tracking(), lines.is_acquired()) == (True, True, False)
    lines.set_rotating(True)
    assert wires.level(Line.ROTATING)
    lines.close()
    wires.close()


def test_no_lines_and_no_switch() -> None:
    config = rot_config()
    assert make_power(config.power) is None
    lines = make_lines(config.lines)
    lines.open()
    lines.set_rotating(True)
    assert not lines.is_rotate()
    assert lines.is_acquired() is None
    lines.close()


def test_a_power_program_that_fails_is_told(tmp_path: Path) -> None:
    script = tmp_path / "switch"
    script.write_text(
        '#!/bin/sh\necho "$1" >> "$0.log"\n[ "$1" = on ] || { echo no >&2; exit 3; }\n'
    )
    script.chmod(0o755)
    switch = ProgramSwitch(PowerProgram(kind="program", command=(str(script),)))
    switch.set_power(True)
    with pytest.raises(DeviceError, match="ended with 3: no"):
        switch.set_power(False)
    assert (tmp_path / "switch.log").read_text().split() == ["on", "off"]
    gone = ProgramSwitch(PowerProgram(kind="program", command=("/nowhere/switch",)))
    with pytest.raises(DeviceError, match="/nowhere/switch"):
        gone.set_power(True)
