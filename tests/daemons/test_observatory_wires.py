# SPDX-License-Identifier: BSD-3-Clause
"""Wires of the simulated observatory: levels, angle and pointing, shared by processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nightjar.das.lines import Line
from nightjar.errors import StorageError
from nightjard.simulators.wires import EDGES, ROWS, Wires

T0 = 1_700_000_000_000_000_000


@pytest.fixture
def wires(tmp_path: Path) -> Wires:
    return Wires.create(tmp_path / "wires")


def test_levels_follow_edges(wires: Wires) -> None:
    assert not wires.level(Line.ROTATE)
    assert not wires.levels_at(Line.ROTATE, [T0]).any()
    wires.set_line(Line.ROTATE, False, T0)
    assert wires.edges(Line.ROTATE) == []
    wires.set_line(Line.ROTATE, True, T0 + 100)
    wires.set_line(Line.ROTATE, False, T0 + 300)
    wires.set_line(Line.ROTATE, False, T0 + 400)
    times = [T0 + 99, T0 + 100, T0 + 299, T0 + 300, T0 + 10**9]
    assert wires.levels_at(Line.ROTATE, times).tolist() == [False, True, True, False, False]
    assert not wires.level(Line.ROTATE)
    assert not wires.level(Line.ROTATING)
    wires.set_line(Line.ROTATE, True, T0)
    assert wires.edges(Line.ROTATE)[-1] == (T0 + 300, True)


def test_only_the_last_edges_are_kept(wires: Wires) -> None:
    for number in range(EDGES + 11):
        wires.set_line(Line.TRACKING, number % 2 == 0, T0 + number)
    kept = wires.edges(Line.TRACKING)
    assert kept[-1] == (T0 + EDGES + 10, True)
    assert len(kept) == EDGES - 1
    assert wires.levels_at(Line.TRACKING, [kept[0][0] - 1])[0] == (not kept[0][1])


def test_angle_is_interpolated_and_held(wires: Wires) -> None:
    assert np.isnan(wires.angles_at([T0])).all()
    wires.put_angle(T0, -10.0)
    wires.put_angle([T0 + 100, T0 + 200], [0.0, 5.0])
    found = wires.angles_at([T0, T0 + 50, T0 + 150, T0 + 10**12])
    np.testing.assert_allclose(found, [-10, -5, 2.5, 5.0])


def test_pointing_goes_over_the_wraps(wires: Wires) -> None:
    assert wires.last_pointing_ns() is None
    wires.put_pointing([T0, T0 + 10], [359.9, 0.1], [45, 46], [0.2, 359.8], [-5, -5], [179, -179])
    row = wires.pointing_at([T0 + 5])[0]
    assert row[0] == pytest.approx(0.0, abs=1e-9) or row[0] == pytest.approx(360.0, abs=1e-9)
    assert row[1] == pytest.approx(45.5)
    assert min(row[2], 360 - row[2]) < 1e-9
    assert abs(row[4]) == pytest.approx(180)
    assert wires.last_pointing_ns() == T0 + 10


def test_the_ring_of_pointing_goes_round(wires: Wires) -> None:
    block = 6000
    for first in range(0, ROWS + 3 * block, block):
        k = first + np.arange(block)
        wires.put_pointing(T0 + k * 10_000_000, k * 1e-3, k * 0 + 50, k * 1e-3, k * 0, k * 0)
    last = ROWS + 3 * block - ROWS % block
    k = np.arange(last - ROWS // 2, last - 10, 997)
    np.testing.assert_allclose(wires.pointing_at(T0 + k * 10_000_000)[:, 0], k * 1e-3, atol=1e-9)


def test_another_process_sees_it_whole_while_it_is_written(tmp_path: Path) -> None:
    wires = Wires.create(tmp_path / "wires")
    # All values of a row are made from its time: a torn row would not fit together.
    writer = subprocess.Popen(
        [
            sys.executable, "-c",
            "import sys, numpy as np\n"
            "from pathlib import Path\n"
            "from nightjard.simulators.wires import Wires\n"
            "w = Wires.open(Path(sys.argv[1]))\n"
            "for n in range(600):\n"
            "    k = n * 500 + np.arange(500)\n"
            f"    x = k * 1e-4\n"
            f"    w.put_pointing({T0} + k * 10, x, x, x, x, x)\n"
            "w.set_line(__import__('nightjar.das.lines', fromlist=['Line']).Line.ROTATE, True)\n",
            str(wires.path),
        ],
    )  # fmt: skip
    looks = 0
    while writer.poll() is None or not looks:
        newest = wires.last_pointing_ns()
        if newest is None:
            continue
        found = wires.pointing_at(newest - np.arange(0, 20_000, 70))
        for column in (0, 2, 3, 4):
            np.testing.assert_allclose(found[:, column], found[:, 1], atol=1e-9)
        assert found[0, 1] * 1e4 >= (newest - T0) / 10 - 1e-6
        looks += 1
    assert writer.returncode == 0
    assert wires.level(Line.ROTATE)
    wires.close()


def test_what_is_no_wires_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be opened"):
        Wires.open(tmp_path / "none")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(StorageError, match="no file of simulated wires"):
        Wires.open(tmp_path / "text")
    Wires.create(tmp_path / "wires").close()
    with pytest.raises(StorageError, match="exist"):
        Wires.create(tmp_path / "wires")
    Wires.ensure(tmp_path / "wires").set_line(Line.ACQUIRED, True)
    assert Wires.ensure(tmp_path / "wires").level(Line.ACQUIRED)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
