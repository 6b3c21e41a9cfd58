# SPDX-License-Identifier: BSD-3-Clause
"""The shipped unit files, read by systemd's own checker; no manager runs here."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from nightjarctl.archive import archive

PROJECT = Path(__file__).resolve().parents[2]
UNITS = PROJECT / "systemd"
SERVICES = {
    "camd": "test", "obslogd": "log", "archived": "pipeline", "fitslogd": "vampires",
    "streamlinkd": "recv", "rotd": "bolorot", "telogd": "bolotel", "merged": "bolomerge",
    "dasd": "bolodas",
}  # fmt: skip
MORNING = "archived-process-all"
MOST_EXPOSURE = 3.0

pytestmark = pytest.mark.needs("systemd-analyze")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The units as enabled on a host, with programs that exist on this machine."""
    target = tmp_path / "units"
    shutil.copytree(UNITS, target)
    wants = target / "nightjar.target.wants"
    wants.mkdir()
    for daemon, instance in SERVICES.items():
        unit = target / f"{daemon}@.service"
        text = unit.read_text()
        assert text.count(f"ExecStart=/usr/bin/{daemon} ") == 1
        unit.write_text(text.replace(f"ExecStart=/usr/bin/{daemon} ", "ExecStart=/bin/true "))
        (wants / f"{daemon}@{instance}.service").symlink_to(unit)
    unit = target / f"{MORNING}@.service"
    unit.write_text(unit.read_text().replace("ExecStart=/usr/bin/archive ", "ExecStart=/bin/true "))
    return target


def verify(folder: Path, *units: str) -> tuple[int, str]:
    """Exit code and all that the checker said: an unknown key is only a line on stderr."""
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=yes", *units],
        env={"SYSTEMD_UNIT_PATH": f"{folder}:", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    "unit",
    ["nightjar.target", "nightjar-log.target", "nightjar-pipeline.target",
     *(f"{daemon}@{name}.service" for daemon, name in SERVICES.items()),
     f"{MORNING}@pipeline.service", f"{MORNING}@pipeline.timer"],
)  # fmt: skip
def test_systemd_has_nothing_to_say(folder: Path, unit: str) -> None:
    assert verify(folder, unit) == (0, "")


@pytest.mark.parametrize(
    ("name", "old", "new", "complaint"),
    [
        ("camd@.service", "Restart=on-failure", "Restart=sometimes", "sometimes"),
        ("camd@.service", "WatchdogSec=30", "WatchdogSecs=30", "WatchdogSecs"),
        ("camd@.service", "ExecStart=/bin/true", "ExecStart=/bin/no-such-camd", "no-such-camd"),
        ("nightjar-pipeline.target", "Before=nightjar.target", "", "cycle"),
        (f"{MORNING}@.timer", "OnCalendar=", "OnCalender=", "OnCalender"),
        (f"{MORNING}@.service", "Type=oneshot", "Type=onshot", "onshot"),
    ],
)
def test_the_check_finds_what_is_wrong(
    folder: Path, name: str, old: str, new: str, complaint: str
) -> None:
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new))
    units = ("nightjar.target", "camd@test.service", f"{MORNING}@pipeline.timer",
             f"{MORNING}@pipeline.service")  # fmt: skip
    assert complaint in verify(folder, *units)[1]


def exposure(unit: Path) -> float:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    match = re.search(r"Overall exposure level for \S+: (\d+\.\d+)", done.stdout)
    assert match is not None, done.stdout + done.stderr
    return float(match[1])


@pytest.mark.parametrize("daemon", [*SERVICES, MORNING])
def test_little_is_exposed(folder: Path, daemon: str) -> None:
    unit = folder / f"{daemon}@{SERVICES.get(daemon, 'pipeline')}.service"
    (folder / f"{daemon}@.service").rename(unit)
    assert exposure(unit) <= MOST_EXPOSURE
    unit.write_text(f"[Service]\nExecStart=/bin/{daemon}\n")
    assert exposure(unit) > MOST_EXPOSURE


def keys(path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        name, separator, value = line.partition("=")
        if separator and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def test_every_daemon_has_a_unit_that_runs_its_script() -> None:
    scripts = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["scripts"]
    daemons = {name for name in scripts if name.endswith("d") and name != "nightjard"}
    assert daemons == set(SERVICES)
    units = {path.name for path in UNITS.glob("*.service")}
    assert units == {f"{name}@.service" for name in (*daemons, MORNING)}
    for daemon in daemons:
        unit = keys(UNITS / f"{daemon}@.service")
        assert unit["ExecStart"] == [f"/usr/bin/{daemon} /etc/{daemon}/%i.json"]
        assert unit["Type"] == ["notify"]
        assert unit["User"] == ["nightjar"]


def test_each_morning_the_archive_is_asked_to_process_all_nights() -> None:
    unit, timer = (keys(UNITS / f"{MORNING}@.{kind}") for kind in ("service", "timer"))
    (line,) = unit["ExecStart"]
    program, name, *options = line.split()
    assert (program, options) == ("/usr/bin/archive", ["--id", "%i"])
    known = archive.commands[name].params
    assert "--id" in {each for parameter in known for each in parameter.opts}
    assert unit["User"] == ["nightjar"]
    assert unit["After"][0].split()[-1] == "archived@%i.service"
    done = subprocess.run(
        ["systemd-analyze", "calendar", "--base-time=2026-06-11 01:00", "--iterations=9",
         *timer["OnCalendar"]],
        capture_output=True, text=True, timeout=20, check=True,
    )  # fmt: skip
    times = re.findall(r"2026-06-1\d (\d\d:\d\d:\d\d) ", done.stdout)
    assert times[0] == "08:00:00"
    assert "17:00:00" not in times


@pytest.mark.parametrize("daemon", ["camd", "archived"])
def test_nothing_private_lies_between_camera_and_pipeline(daemon: str) -> None:
    """A private /var/tmp would be deleted at the stop, with the frames that wait in it."""
    unit = keys(UNITS / f"{daemon}@.service")
    assert unit["PrivateTmp"] == ["no"]
    assert "/var/tmp" in unit["ReadWritePaths"][0].split()


@pytest.mark.parametrize("daemon", [*SERVICES, MORNING])
def test_streams_outlive_every_daemon(daemon: str) -> None:
    """RemoveIPC= deletes what the user of the unit has in /dev/shm, whoever made it."""
    assert keys(UNITS / f"{daemon}@.service")["RemoveIPC"] == ["no"]
