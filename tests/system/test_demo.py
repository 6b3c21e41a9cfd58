# SPDX-License-Identifier: BSD-3-Clause
"""The demonstrations, made small: they must work on any machine."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kit.depth import counts
from kit.site import eventually
from kit.sshd import PROGRAMS

TOOLS = Path(__file__).resolve().parents[2] / "tools"


def _demo(
    *arguments: str, program: str = "demo.py", limit_s: float = 100, **changes: str
) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "MILK_SHM_DIR"}
    environment |= changes
    return subprocess.run(
        [sys.executable, str(TOOLS / program), *arguments], env=environment,
        capture_output=True, text=True, timeout=limit_s, check=False,
    )  # fmt: skip


@pytest.mark.timeout(110)
def test_demonstration(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    done = _demo("--small", "--frames", "2", "--folder", str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((folder / "archive").rglob("*.fits"))) == 7
    assert done.stdout.count("CAMERA=TEST") == 2
    assert "CHECKSUM=" in done.stdout
    assert "all daemons are stopped" in done.stdout
    assert str(folder) in done.stdout.splitlines()[-2]
    for line in (folder / "env").read_text().splitlines():
        if "MILK_SHM_DIR" in line:
            assert not Path(line.partition("=")[2]).exists()


def test_demonstration_spares_what_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("keep")
    done = _demo("--folder", str(tmp_path))
    assert done.returncode == 2
    assert "holds something else" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


@pytest.mark.timeout(110)
def test_demonstration_of_streams(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    done = _demo("--seconds", "1.5", "--folder", str(folder), program="demo_streams.py")
    assert done.returncode == 0, done.stdout + done.stderr
    cubes = list((folder / "fits").rglob("*.fits"))
    assert {path.parent.name for path in cubes} == {"vcam1_far", "vcam2_far"}
    assert done.stdout.count("closed: geometry") == 2
    assert "frames proven, none lost" in done.stdout
    assert (folder / "vcam1.png").read_bytes().startswith(b"\x89PNG")
    assert "all daemons are stopped" in done.stdout


def _night_demo(folder: Path, **changes: str) -> str:
    done = _demo("--frames", "600", "--folder", str(folder), program="demo_night.py", **changes)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 missing, 0 doubled, 0 altered, 0 that nobody recorded" in done.stdout
    assert "all daemons are stopped" in done.stdout
    assert str(folder) in done.stdout.splitlines()[-2]
    return done.stdout


def _processes_in(folder: Path) -> list[str]:
    """Return the command lines that name a folder, of every process of this machine."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in found if str(folder) in line]


@pytest.mark.needs(*PROGRAMS)
@pytest.mark.parametrize("nights", counts(1, 2))
@pytest.mark.timeout(200)
def test_demonstration_of_a_night(tmp_path: Path, nights: int) -> None:
    folder = tmp_path / "demo"
    text = _night_demo(folder)
    (row,) = (line for line in text.splitlines() if line.startswith(f"{folder}/nights/20260611 "))
    assert row.split()[2] == row.split()[4] == row.split()[6] == "True"
    assert "on the far host" in text
    assert "Night 20260611 is safe." in text
    copies = folder / "far" / "copies" / "archival"
    products = {path.name for path in (folder / "nights/20260611/vgen2").glob("*.fits.fz")}
    assert products
    assert {path.name for path in copies.glob("20260611/vgen2/*.fits.fz")} == products
    assert list(copies.glob("20260611.receipts/*.json.sig"))
    eventually(lambda: _processes_in(folder) == [])
    if nights == 1:
        return
    # Once more: another night; the first one's copy is proven again, for the host has a new port.
    text = _night_demo(folder)
    assert "Night 20260612 is safe." in text
    assert len(list(copies.glob("2026061[12]"))) == 2
    eventually(lambda: _processes_in(folder) == [])


@pytest.mark.soak  # a whole night for one sentence
@pytest.mark.timeout(110)
def test_demonstration_of_a_night_without_rsync_says_what_to_install(tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    folder = tmp_path / "demo"
    text = _night_demo(folder, PATH=str(programs))
    assert "apt-get install " in text
    assert "rsync" in text
    assert "Night 20260611 is processed, and not safe" in text
    assert not (folder / "far").exists()
    eventually(lambda: _processes_in(folder) == [])


def test_demonstration_of_detector_tests_spares_what_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("keep")
    done = _demo("--folder", str(tmp_path), program="demo_calib.py")
    assert done.returncode == 2
    assert "holds something else" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


@pytest.mark.soak  # a minute of both cores; each of its commands has tests of its own
@pytest.mark.timeout(400)
@pytest.mark.parametrize("sessions", [2])
def test_demonstration_of_detector_tests(tmp_path: Path, sessions: int) -> None:
    folder = tmp_path / "demo"
    for number in range(sessions):
        done = _demo("--folder", str(folder), program="demo_calib.py", limit_s=180)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "WRONG" not in done.stdout
        results = folder / "NOSTROMO" / "CALDATA" / "results" / f"D{11 + number}"
        assert len(list(results.glob("*/*_report.pdf"))) == 4
    assert (folder / "calibration.png").stat().st_size > 10_000
    eventually(lambda: _processes_in(folder) == [])


def _found(folder: Path, **changed: Any) -> tuple[Path, Path]:
    """Write results of the demonstration as they should be, and the truth; return the folders."""
    channel = {"ccd": 1, "quadrant": "E"}
    found = {
        "BIAS01": {"offset": 2650.0, "ron": 1.2},
        "FOCUS00_800": {
            "best_focus": 47.21, "f0_faint": 2.1, "focus_tilt_x": 0.05, "lock_scale": 1.002,
            "lock_rotation_deg": 0.1,
        },
        "PTC02_730": {"gain": 3.5, "alpha": 1.2e-6, "cti_parallel": 5e-6},
        "CHINJ02": {"idl_threshold": 11.3},
    }  # fmt: skip
    for test, values in found.items():
        values.update({name: value for name, value in changed.items() if name in values})
        (folder / "results" / test).mkdir(parents=True)
        rows = [
            {"name": name, "value": value, "error": None, "unit": "", "where": channel}
            for name, value in values.items()
            if name not in changed or changed[name] != "gone"
        ]
        (folder / "results" / test / "results.json").write_text(json.dumps({"values": rows}))
    bench = {
        "electronics": {"read_noise_adu": {"1E": 1.2}, "gain_e_adu": {"1E": 3.5}},
        "stars": {"focus_mm": 47.21, "fwhm0_px": 2.1, "tilt_mm": [0.05, 0.0], "scale": 1.002,
                  "rotation_deg": 0.1},
        "transfer": {"parallel": {"1E": 5e-6}}, "injection": {"drain_v": {"1E": 11.3}},
        "brighter_fatter": {"kernel": [[0, 1, 3e-7], [1, 0, 1e-7], [1, 1, 1e-7]]},
    }  # fmt: skip
    frame = {"test": "BIAS01", "truth": {"channels": {"1E": {"offset_adu": 2650.0}}}}
    (folder / "truth").mkdir()
    (folder / "truth" / "7_bench.json").write_text(json.dumps(bench))
    (folder / "truth" / "7_session.json").write_text(json.dumps({"exposures": [frame]}))
    return folder / "results", folder / "truth"


@pytest.mark.parametrize(
    ("changed", "told"),
    [({}, ""), ({"gain": 3.6}, "gain "), ({"offset": 2651.0}, "offset "),
     ({"best_focus": 47.23}, "best focus "), ({"ron": None}, "read noise "),
     ({"idl_threshold": "gone"}, "threshold of the injection drain "),
     ({"gain": float("nan")}, "gain ")],
)  # fmt: skip
def test_demonstration_of_detector_tests_notices_a_wrong_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], told: str
) -> None:
    monkeypatch.syspath_prepend(TOOLS)
    compare = importlib.import_module("demo_calib_truth").compare
    lines, are_good = compare(*_found(tmp_path, **changed), 7)
    assert are_good is not bool(changed)
    wrong = [line for line in lines[1:] if "WRONG" in line or "not found" in line]
    assert [line.startswith(told) for line in wrong] == [True] * bool(changed)
