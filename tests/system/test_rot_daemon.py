# SPDX-License-Identifier: BSD-3-Clause
"""A real rotd on a live simulated rotator (pseudo-terminals), and the command ``rot``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kit.rotator import config_value
from kit.site import Daemon, eventually
from nightjar.api.rot import COMMANDS, STATUS_KEYS
from nightjar.clock import SystemClock
from nightjar.errors import DeviceNotFound
from nightjar.registry import Registry
from nightjar.rpc.client import Client
from nightjarctl.rot import main
from nightjarctl.rot import rot as rot_program
from nightjard.rotd.config import SmartMotor as Options
from nightjard.rotd.drivers.smartmotor import SmartMotor
from nightjard.simulators.rotator.live import Station, ask
from nightjard.simulators.rotator.mechanics import Parameters
from nightjard.simulators.wires import Wires

# Ten times as fast as a real one, and so ten times as rough: real time is dear.
MOTION = {"speed_deg_s": 40.0, "acceleration_deg_s2": 200.0, "stop_deceleration_deg_s2": 400.0,
          "fine_speed_deg_s": 4.0, "tolerance_deg": 0.1, "slip_deg": 8.0}  # fmt: skip
HOMING = {"speed_deg_s": 10.0, "approach_speed_deg_s": 5.0, "edge_speed_deg_s": 1.0,
          "spread_deg": 0.5, "moved_tab_deg": 2.0, "proofs": 1}  # fmt: skip
PATIENT = {"timeout_s": 0.6}  # tried four times: the rotator is in the test's own process


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def value(self) -> Any:
        return json.loads(self.out)


class RotSite:
    """A live rotator, a daemon that owns it, and their files."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.etc = folder / "etc"
        self.port = port
        self.wires_path = folder / "wires"
        self.station = Station(
            folder / "r", "smartmotor", Parameters(start_deg=3.0, tab_width_deg=6.0),
            wires=self.wires_path,
        )  # fmt: skip
        (self.etc / "nightjar").mkdir(parents=True)
        (self.etc / "rotd").mkdir()
        registry = {
            "machines": {"LocalHost": ["127.0.0.1"]},
            "daemons": {"rotator": {"machine": "LocalHost", "port": port}},
        }
        (self.etc / "nightjar" / "registry.json").write_text(json.dumps(registry))
        self.daemons: list[Daemon] = []

    @property
    def client(self) -> Client:
        registry = Registry.load(self.etc / "nightjar" / "registry.json")
        return Client(registry.daemon("rotator"))

    def start(self, **changes: Any) -> Daemon:
        power = [sys.executable, "-m", "nightjard.site", "simulate", "rotator-power",
                 str(self.station.folder)]  # fmt: skip
        value = config_value(
            motor={"kind": "smartmotor", "port": str(self.station.folder / "motor"), **PATIENT},
            encoder={"kind": "sei", "port": str(self.station.folder / "encoder"), **PATIENT},
            power={"kind": "program", "command": power, "timeout_s": 20.0},
            lines={"kind": "wires", "file": str(self.wires_path)},
            motion=MOTION, homing=HOMING, poll_s=0.05, **changes,
        )  # fmt: skip
        path = self.etc / "rotd" / "test.json"
        path.write_text(json.dumps(value))
        daemon = Daemon("rotd", path, self.client, self.folder / "rotd.log")
        self.daemons.append(daemon)
        return daemon.wait_ready()

    def close(self) -> None:
        for daemon in self.daemons:
            daemon.stop()
        self.station.close()


@pytest.fixture
def site(
    free_ports: Callable[[int], list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RotSite]:
    site = RotSite(tmp_path, free_ports(1)[0])
    monkeypatch.setenv("NIGHTJAR_CONFIG_ROOT", str(site.etc))
    monkeypatch.setenv("NIGHTJAR_STATE_ROOT", str(tmp_path / "state"))
    try:
        yield site
    finally:
        site.close()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    def run(*arguments: str) -> Done:
        capsys.readouterr()
        code = main(arguments)
        said = capsys.readouterr()
        return Done(code, said.out, said.err)

    return run


def test_a_night_with_the_rotator(site: RotSite, run: Callable[..., Done]) -> None:
    site.start()
    eventually(lambda: run("status", "--json").value["state"] == "UNHOMED")
    status = run("status", "--json").value
    assert set(status) == set(STATUS_KEYS)
    refused = run("goto", "5")
    assert refused.code == 3
    assert "rot home" in refused.err
    homed = run("home", "--yes", "--timeout", "120")
    assert homed.code == 0, homed.err
    assert "approaches agree" in homed.out
    went = run("goto", "10.5")
    assert went.code == 0, went.err
    assert site.station.mechanics.load_deg == pytest.approx(10.5, abs=0.25)
    wires = Wires.open(site.wires_path)
    truth = wires.angles_at([SystemClock().now_ns()])[0]
    wires.close()
    assert truth == pytest.approx(site.station.mechanics.load_deg, abs=0.01)
    assert run("offset", "--json", "--", "-3").value["result"]["to_deg"] == pytest.approx(7.5)
    shown = run("status").out
    assert "Rotator is READY" in shown
    assert "SmartMotor on" in shown
    chosen = run("test", "scan", "--az", "--explain")
    assert chosen.code == 0
    assert "parallactic angle does not matter" in chosen.out
    assert run("scan", "--dry-run", "--json").value["solutions"]
    scanned = run("scan", "--az", "--json")
    assert scanned.code == 0
    assert run("auto", "on", "--az").out.startswith("auto mode is on")
    eventually(lambda: run("status", "--json").value["is_auto"])
    assert run("auto", "off").code == 0
    log = run("log").out
    assert "home" in log
    assert "goto" in log
    watched = run("watch", "--interval", "0.1", "--timeout", "0.3", "--json")
    assert json.loads(watched.out.splitlines()[0])["state"] == "READY"
    assert run("power", "off").code == 0
    eventually(lambda: not ask(site.station.folder, "status")["is_powered"])
    eventually(lambda: run("goto", "0").code == 3)
    back = run("reset", "--timeout", "60")
    assert back.code == 0, back.err
    assert run("status", "--json").value["state"] == "UNHOMED"


def test_wrong_words_and_nobody_there(site: RotSite, run: Callable[..., Done]) -> None:
    site.start().stop()
    assert run("status").code == 5
    site.start()
    for words in (
        ("goto",), ("goto", "north"), ("goto", "1", "2"), ("auto",), ("auto", "maybe"),
        ("power", "half"), ("log", "-n", "0"), ("scan", "--az", "--pa", "3"),
        ("scan", "--ra", "--tilt", "3"), ("nosuch",), ("status", "--id", "other"),
    ):  # fmt: skip
        done = run(*words)
        assert done.code == 2, (words, done)
        assert done.err
    assert run("goto", "90").code == 3
    assert run("calibrate", "--step", "90").code in (2, 3)
    assert run("scan", "--ra").code == 3  # the telescope is not known


def test_every_command_has_help_and_completes() -> None:
    names = set(rot_program.commands)
    assert {"status", "home", "goto", "offset", "scan", "auto", "stop", "power", "reset",
            "calibrate", "watch", "log"} <= names  # fmt: skip
    assert {command.name for command in COMMANDS} - {"choose", "rotator"} <= names
    for name in sorted(names):
        assert main([name, "--help"]) == 0
    done = subprocess.run(
        [sys.executable, "-c", "from nightjarctl.rot import rot; rot(prog_name='rot')"],
        env={**os.environ, "_ROT_COMPLETE": "bash_complete", "COMP_WORDS": "rot s",
             "COMP_CWORD": "1"},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert {"scan", "status", "stop"} <= {line.partition(",")[2] for line in done.stdout.split()}


def test_sigkill_in_mid_move_and_a_restart(site: RotSite, run: Callable[..., Done]) -> None:
    daemon = site.start()
    eventually(lambda: daemon.status()["state"] == "UNHOMED")
    assert run("home", "--yes", "--timeout", "120").code == 0
    assert run("goto", "20").code == 0
    eventually(lambda: daemon.status()["job"] is None)
    daemon.call("goto", angle=-36.0)
    eventually(lambda: site.station.mechanics.load_deg < 15)
    os.kill(daemon.process.pid, signal.SIGKILL)
    daemon.process.wait(10)
    again = site.start()
    eventually(lambda: again.status()["state"] in ("READY", "UNHOMED"), 20)
    eventually(lambda: not site.station.mechanics.is_moving, 5)
    status = again.status()
    assert status["state"] == "READY", status
    assert status["angle_deg"] == pytest.approx(site.station.mechanics.load_deg, abs=0.3)
    assert run("goto", "1").code == 0
    assert site.station.mechanics.load_deg == pytest.approx(1.0, abs=0.25)
    # A slip is an alarm that the command shows, with its own exit code.
    ask(site.station.folder, "slip -12")
    eventually(lambda: again.status()["state"] == "FAULT", 10)
    refused = run("goto", "0")
    assert refused.code == 3
    assert "rot reset" in refused.err
    assert "slipped" in run("status").out
    assert again.stop() == 0


def test_another_program_cannot_have_the_ports(site: RotSite) -> None:
    daemon = site.start()
    eventually(lambda: daemon.status()["state"] == "UNHOMED")
    with pytest.raises(DeviceNotFound, match="another program has it open"):
        SmartMotor(Options(port=str(site.station.folder / "motor"))).open()
    assert daemon.status()["state"] == "UNHOMED"
