# SPDX-License-Identifier: BSD-3-Clause
"""Data that are not as they should be: analyses say what is wrong and do not fall over."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.calib_bench import flags_of, run, run_all, take, values_of
from kit.calibration import simulated_test
from nightjar.calibration.detector import load_detector
from nightjar.errors import Refused
from nightjard.calib.task import load_task
from nightjard.calib.tasks import locking
from nightjard.calib.work import Work
from nightjard.simulators.detector.truth import Truth

SMALL = load_detector("ccd273-8th")


def of_no_column(work: Work) -> Work:
    """The frames are there, but the log says nothing that the script knows."""
    frames = tuple(
        dataclasses.replace(one, column=None, commanded={}) for one in work.dataset.frames
    )
    return dataclasses.replace(work, dataset=dataclasses.replace(work.dataset, frames=frames))


@pytest.mark.parametrize(("test", "columns", "steps", "last"), [
    ("CHINJ01", [8], ("prep", "basic", "meta"), "meta"),
    ("CHINJ02", [2], ("prep", "basic", "meta"), "meta"),
    ("TP01", [0, 1], ("prep", "injection", "extract", "basic", "meta"), "basic"),
    ("TP02", [0, 1], ("prep", "injection", "extract", "basic", "meta"), "basic"),
    ("PERSIST01", [0], ("prep", "satur_masks", "basic", "meta"), "meta"),
])  # fmt: skip
def test_frames_of_no_column_are_told_by_every_step(
    tmp_path: Path, test: str, columns: list[int], steps: tuple[str, ...], last: str
) -> None:
    simulated = simulated_test(test, ccds=1, columns=columns, max_frames=1)
    found = run_all(of_no_column(simulated.work(tmp_path)), *steps)
    assert "BADDATAPROD" in flags_of(found[last])
    assert any("BADDATA" in flags_of(one) for one in found.values())


def test_stars_on_frames_of_no_column_are_not_looked_for(tmp_path: Path) -> None:
    simulated = simulated_test("FOCUS00_800", ccds=1, columns=[4])
    with pytest.raises(Refused, match="no frame of a column of the script"):
        run(of_no_column(simulated.work(tmp_path)), "lock", locking.lock)


@pytest.mark.parametrize("value", [0, 65535])
def test_stamps_without_a_pixel_that_counts_are_told(tmp_path: Path, value: int) -> None:
    def spoil(_obsid: int, _ccd: int, pixels: Any) -> None:
        pixels[...] = value

    truth = Truth.default(SMALL, effects="none")
    work = take(tmp_path, "PSF01_800", truth, frames={f"col00{i}": 1 for i in range(1, 6)},
                spoil=spoil)  # fmt: skip
    names = [one.name for one in load_task("PSF01").subtasks if one.name != "check"]
    found = run_all(work, *names)
    assert flags_of(found["lock"])["STARS_MISSING"]["severity"] == "error"
    for name in ("bayes", "meta", "xtalk_meta"):
        assert "BADDATAPROD" in flags_of(found[name])


def test_a_half_without_an_unpumped_frame_is_told(tmp_path: Path) -> None:
    simulated = simulated_test("TP01", ccds=1, columns=[0, 1, 26])
    found = run_all(simulated.work(tmp_path), "prep", "injection", "extract")
    flag = flags_of(found["injection"])["BADDATA"]
    assert flag["cause"].startswith("CCD1 G, H: no frame is injected without being pumped")
    assert flag["severity"] == "warning"
    assert set(values_of(found["injection"], "injection_level")) == {(1, "E"), (1, "F")}
    assert not flags_of(found["extract"])


def test_a_pumped_frame_of_zeros_leaves_the_others_their_traps(tmp_path: Path) -> None:
    def spoil(obsid: int, _ccd: int, pixels: Any) -> None:
        if obsid == 17215:
            pixels[...] = 0

    taken = []
    for name, one in (("good", None), ("spoilt", spoil)):
        truth = Truth.default(SMALL, seed=6, effects={"crosstalk": False})
        work = take(tmp_path / name, "TP02", truth, spoil=one)
        run_all(work, "prep", "injection", "extract", "basic", "meta")
        taken.append(work.table("meta", "MERGEDCAT"))
    places = [
        {(str(row["quadrant"]), int(row["x"])) for row in table if row["is_good"]}
        for table in taken
    ]
    assert len(places[0]) > 20
    assert len(places[0] & places[1]) > 0.9 * len(places[0])
    assert all(np.isfinite(table["tau_us"]).all() for table in taken)
