# SPDX-License-Identifier: BSD-3-Clause
"""``nightjar simulate das``: its configuration is valid, its telescope obeys, its rotator homes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kit.rotator import Rig
from kit.site import eventually
from nightjard.simulators.rotator.mechanics import Parameters
from nightjard.site.__main__ import main
from nightjard.site.simulate_das import PORTS, write_das_site


@pytest.fixture
def site(free_ports: Callable[[int], list[int]], tmp_path: Path) -> Path:
    write_das_site(tmp_path / "site", ports=free_ports(PORTS))
    return tmp_path / "site"


@pytest.fixture
def nightjar(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(words)
        return code, *capsys.readouterr()

    return run


@contextmanager
def telescope(site: Path) -> Iterator[subprocess.Popen[bytes]]:
    words = json.loads((site / "telescope.json").read_text())["command"]
    process = subprocess.Popen(
        [sys.executable, "-m", "nightjard.site", *words[1:]], stdout=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(10)


def test_every_configuration_is_valid(
    site: Path, nightjar: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTJAR_CONFIG_ROOT", str(site / "etc"))
    code, out, err = nightjar("check-config")
    assert code == 0, out + err
    code, _, err = nightjar("simulate", "das", str(site))
    assert code == 3
    assert "--force" in err


@pytest.mark.parametrize("start", [7.0, -12.0, 20.0])
def test_the_rotator_of_the_site_is_homed_by_the_first_command(
    site: Path, tmp_path: Path, start: float
) -> None:
    config: dict[str, Any] = json.loads((site / "etc/rotd/bolorot.json").read_text())
    late_s = config["poll_s"] + 0.05  # a busy machine
    assert config["homing"]["speed_deg_s"] * late_s < Parameters().tab_width_deg
    rig = Rig(
        tmp_path / "rig", start_deg=start,
        config={"homing": config["homing"], "poll_s": config["poll_s"]},
    )  # fmt: skip
    rig.tick(0.5)
    assert rig.finish(rig.rotator.home(False))["state"] == "done"
    assert rig.mechanics.limit_hits == 0
    assert rig.status["angle_deg"] == pytest.approx(rig.load_deg, abs=0.05)


def test_its_telescope_is_commanded_and_has_no_second(
    site: Path, nightjar: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    def say(*words: str) -> tuple[int, str, str]:
        return nightjar("simulate", "telescope-say", str(site), *words)

    assert say("status")[0] == 5
    assert nightjar("simulate", "telescope-say", str(tmp_path / "none"), "status")[0] == 2
    with telescope(site):
        eventually(lambda: say("status")[0] == 0, 15, "the telescope answers")
        assert "state=idle" in say("status")[1]
        assert "observe NAME" in say()[1]
        code, _, err = say("observe", "moon", "raster", "10")
        assert code == 2
        assert "planet" in err
        code, out, _ = nightjar(
            "--json", "simulate", "telescope-say", str(site), "observe", "planet", "drift", "20"
        )
        assert code == 0
        assert json.loads(out)["answer"] == "observation=1"
        # Other ports and another log do not make it harmless: the wires are the same.
        second = subprocess.run(
            [sys.executable, "-m", "nightjard.site", "simulate", "telescope", "--wires",
             str(site / "wires"), "--plog", str(tmp_path / "other")],
            capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip
        assert second.returncode == 3
        assert "is already running" in second.stderr
    with telescope(site):  # after one that has ended
        eventually(lambda: say("status")[0] == 0, 15, "the next one answers")
