# SPDX-License-Identifier: BSD-3-Clause
"""``nightjar simulate rotator`` as a process: ports, faults, supply, truth."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.rotator import make_motor, motor_options
from kit.site import eventually
from nightjar.errors import Busy, DeviceLost, InvalidArgument
from nightjard.simulators.rotator.live import COMMANDS, KINDS, Station, ask

NIGHTJAR = [sys.executable, "-m", "nightjard.site", "simulate"]


@pytest.fixture
def station(tmp_path: Path) -> Iterator[Station]:
    station = Station(tmp_path / "r")
    yield station
    station.close()


def test_as_a_process(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    process = subprocess.Popen(
        [*NIGHTJAR, "rotator", str(folder), "--start", "3"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert "smartmotor rotator" in process.stdout.readline()
        off = subprocess.run(
            [*NIGHTJAR, "rotator-power", str(folder), "off"], check=True, capture_output=True,
            text=True, timeout=60,
        )  # fmt: skip
        assert "motor power off" in off.stdout
        wrong = subprocess.run(
            [*NIGHTJAR, "rotator-fault", str(folder), "explode"], check=False, capture_output=True,
            text=True, timeout=60,
        )  # fmt: skip
        assert wrong.returncode == 2
        assert "slip DEG" in wrong.stderr
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()
    assert not (folder / "motor").is_symlink()
    rows = [json.loads(line) for line in (folder / "truth.jsonl").read_text().splitlines()]
    assert rows[0]["angle_deg"] == 3.0
    assert "power off" in [row.get("event") for row in rows]
    with pytest.raises(DeviceLost, match="nightjar simulate rotator"):
        ask(folder, "status")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "pyxis"])
def test_each_motor_answers_its_driver(tmp_path: Path, kind: str) -> None:
    station = Station(tmp_path / "r", kind)
    try:
        motor = make_motor(motor_options(kind, str(tmp_path / "r" / "motor"), timeout_s=1.5))
        motor.open()
        assert motor.state().counts == 0
        motor.close()
    finally:
        station.close()


def test_one_rotator_a_folder(station: Station) -> None:
    with pytest.raises(Busy, match="another folder"):
        Station(station.folder)
    station.close()
    Station(station.folder).close()


def test_faults_reach_the_mechanics(station: Station) -> None:
    before = ask(station.folder, "status")["angle_deg"]
    assert ask(station.folder, "slip -2")["angle_deg"] == pytest.approx(before - 2)
    assert ask(station.folder, "tab hide")["is_tab_hidden"]
    ask(station.folder, "lose 0.25")
    assert station.ports["motor"].lose == station.ports["encoder"].lose == 0.25
    ask(station.folder, "unplug encoder")
    assert not (station.folder / "encoder").exists()
    ask(station.folder, "plug encoder")
    assert (station.folder / "encoder").exists()
    ask(station.folder, "cut")
    eventually(lambda: ask(station.folder, "status")["angle_deg"] < before - 3, 10)
    for words in ("slip", "slip much", "lose 2", "stall -1", "nosuch", ""):
        with pytest.raises(InvalidArgument):
            ask(station.folder, words)
    assert len(COMMANDS) > 10
