# SPDX-License-Identifier: BSD-3-Clause
"""Rows of the validation matrix at 1/8 scale, through the engine as ``calib run`` goes.

What each analysis does with its own effect alone is proven beside it; here the effects of a block
are on at once, products of one test go into the next, and every number is compared with its truth.
The longest are tried by ``make soak``, all of them by ``benchmarks/calib_validation.py``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.depth import soaked
from nightjard.calib.science.latent import follow, latent_shape
from nightjard.calib.science.pixel_response import response_at_no_light

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import calib_validation as matrix
from calib_compare import Judge, table_of

# --- the matrix ---


def test_every_row_has_a_case() -> None:
    assert set(matrix.ROWS) == {
        "structure check", "offset, RON", "master bias", "dark", "cosmetics", "focus", "star lock",
        "FLUX", "gain (PTC)", "BF alpha", "full well", "NL", "PRNU", "CHINJ", "trap pumping",
        "BF kernel", "PSF", "cross-talk", "persistence", "EPER/HER", "wait mode", "clear space",
    }  # fmt: skip


#: Cases that take longest; what each analysis of theirs recovers is proven beside it always.
LONG = ("transfer", "chain", "shapes", "pulls", "structure", "saturation")


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "name", [soaked(name, name=name) if name in LONG else name for name in matrix.CASES]
)
def test_what_was_injected_is_recovered(name: str, tmp_path: Path) -> None:
    case = matrix.CASES[name]
    judge = Judge("8th", case.rows[0])
    case.run(judge, tmp_path / name)
    assert {line.row for line in judge.lines} == set(case.rows)
    assert all(line.is_good for line in judge.lines), "\n".join(table_of(judge.lines))


# --- how it judges ---


def test_a_comparison_fails_beyond_its_tolerance_and_says_which_channel() -> None:
    judge = Judge("full", "row")
    true = {(1, "E"): 100.0, (1, "F"): 100.0}
    judge.channels("level", true, {(1, "E"): (100.2, 5.0), (1, "F"): (99.0, 5.0)}, 0.005,
                   is_relative=True)  # fmt: skip
    judge.channels("level", true, {(1, "E"): (100.2, 5.0), (1, "F"): (99.6, 5.0)}, 0.005,
                   is_relative=True)  # fmt: skip
    judge.channels("level", true, {(1, "E"): (100.2, 5.0)}, 0.005, is_relative=True)
    judge.channels("level", {}, {}, 0.005)
    assert [line.is_good for line in judge.lines] == [False, True, False, False]
    assert judge.lines[0].error == "-1 %"
    assert judge.lines[0].note == "worst of 2: 1F"


def test_few_pixels_are_judged_by_their_noise_and_the_table_says_so() -> None:
    judge = Judge("8th", "row")
    judge.close("number", 1.0, 1.03, 0.01, sigma=0.01)
    judge.close("number", 1.0, 1.03, 0.01, sigma=0.001)
    judge.close("number", 1.0, float("nan"), 0.01, sigma=0.01)
    assert [line.is_good for line in judge.lines] == [True, False, False]
    assert judge.lines[0].note == "4 sigma"
    full = Judge("full", "row")
    full.close("number", 1.0, 1.03, 0.01, sigma=0.01)
    assert not full.lines[0].is_good


@pytest.mark.parametrize(("scale", "shift", "good"), [(1.0, 0.0, True), (1.6, 0.0, False),
                                                      (1.0, 0.5, False), (0.6, 0.0, False)])
def test_errors_that_are_not_those_of_the_scatter_are_seen(
    scale: float, shift: float, good: bool
) -> None:
    judge = Judge("8th", "row")
    pulls = np.random.default_rng(4).standard_normal(400) * scale + shift
    judge.pulls("pulls", pulls.tolist())
    assert all(line.is_good for line in judge.lines) is good


def test_a_case_that_breaks_is_a_row_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(judge: Any, folder: Path) -> None:
        folder.mkdir()
        (folder / "frame").write_bytes(b"x" * 10000)
        raise ValueError("no frames")

    monkeypatch.setitem(matrix.CASES, "dark", matrix.Case(("dark",), broken, 1))
    found = matrix.run_case("dark", "8th", str(tmp_path))
    assert [line["is_good"] for line in found["lines"]] == [False]
    assert "no frames" in found["lines"][0]["recovered"]
    assert not list(tmp_path.iterdir())


# --- what validation brought to light ---


def lamp(count: int = 26) -> tuple[Any, Any, Any]:
    """Times, a lamp that drifts by half a per cent, and which frames saturate."""
    time_s = 400.0 * np.arange(count)
    phase = time_s / time_s[-1]
    bright = np.zeros(2 * count, bool)
    bright[2 * count - 9 :: 2] = True  # between the last five
    return time_s, 1 + 0.005 * np.sin(2.5 * phase + 0.4), bright


def test_latent_charge_is_told_from_the_drift_of_the_lamp() -> None:
    time_s, truth, bright = lamp()
    every = np.sort(np.concatenate([time_s, time_s + 200.0]))
    shape = latent_shape(every, bright)
    stable = np.isin(every, time_s)
    noise = np.random.default_rng(1).normal(0.0, 5e-6, time_s.size)
    seen = truth + 5e-4 * shape[stable] + noise
    found = follow(time_s, seen, shape[stable])
    plain = follow(time_s, seen)
    assert found.latent == pytest.approx(5e-4, rel=0.05)
    assert np.ptp(found.lamp(time_s) / truth) < 5e-5
    assert np.ptp(plain.lamp(time_s) / truth) > 2e-4  # what it costs not to know
    assert plain.latent == 0.0


def test_a_lamp_without_latent_charge_has_none_and_a_stray_is_left_out() -> None:
    time_s, truth, bright = lamp()
    every = np.sort(np.concatenate([time_s, time_s + 200.0]))
    shape = latent_shape(every, bright)[np.isin(every, time_s)]
    seen = truth + np.random.default_rng(2).normal(0.0, 5e-6, time_s.size)
    seen[7] += 0.02
    found = follow(time_s, seen, shape)
    assert found.latent == 0.0
    assert not found.lamp.kept[7]
    assert np.ptp(found.lamp(time_s) / truth) < 5e-5


def test_before_the_first_bright_frame_nothing_is_left() -> None:
    shape = latent_shape(np.array([0.0, 100.0, 200.0, 1100.0]), np.array([0, 1, 0, 0], bool), 900.0)
    assert shape[:2].tolist() == [0.0, 0.0]
    assert shape[2:] == pytest.approx([np.exp(-1 / 9), np.exp(-10 / 9)])
    assert not latent_shape(np.arange(3.0), np.zeros(3, bool)).any()


def test_the_response_at_no_light_is_that_of_the_line_through_fluences() -> None:
    found = response_at_no_light([15000.0, 45000.0], [0.963, 0.905], [0.002, 0.002])
    assert found.value == pytest.approx(0.992, abs=1e-6)
    assert 0.002 < found.error < 0.004
    assert np.isnan(response_at_no_light([15000.0], [0.96], [0.002]).value)
    assert np.isnan(response_at_no_light([15000.0, 15100.0], [0.96, 0.95], [0.1, 0.1]).value)
