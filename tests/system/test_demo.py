# SPDX-License-Identifier: BSD-3-Clause
"""The demonstrations, made small: they must work on any machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"


def _demo(*arguments: str, program: str = "demo.py") -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "MILK_SHM_DIR"}
    return subprocess.run(
        [sys.executable, str(TOOLS / program), *arguments], env=environment,
        capture_output=True, text=True, timeout=100, check=False,
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
