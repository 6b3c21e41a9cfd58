# SPDX-License-Identifier: BSD-3-Clause
"""A camera that records nothing for a while is off and has lost nothing; losses are counted."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.tiny_nights import DARK, DATE, SCIENCE, make_tiny, site
from nightjar.api.night_results import MINUTE_KEYS, RUN_REPORT_KEYS, SUMMARY_KEYS
from nightjard.simulators.night.parameters import Segment
from nightjard.simulators.night.triggers import CameraTiming
from nightjard.simulators.night.truth import Fate

pytestmark = pytest.mark.usefixtures("kept_workers")

SLOWLY = 0.5  # s of exposure: few frames in some minutes
LOSSY = (
    CameraTiming(lost=((20, "after"),)),
    CameraTiming(offset_us=150.0, lost=((40, "after"), (350, "after"), (351, "after"))),
)


def looked_at(base: Path, *segments: Segment, **changes: Any) -> tuple[Any, dict[str, Any], Any]:
    """Return truth, summary and status of a night of these segments."""
    truth = make_tiny(base / "raw", segments=segments)
    with site(base / "raw", base / "state", **changes) as here:
        here.run(step="sync")
        asked = {"night": DATE, "family": "archival"}
        return truth, here.call("summary", **asked), here.call("night_status", **asked)


@pytest.mark.parametrize("setup", [SCIENCE, DARK], ids=["triggered", "untriggered"])
def test_a_camera_that_was_off_has_lost_nothing(tmp_path: Path, setup: Any) -> None:
    setup = dataclasses.replace(setup, exposure_s=SLOWLY)
    segment = Segment(
        setup, frames=400, cube_frames=((20,), (35,)), off=(2, 0.25, 0.8), timings=LOSSY
    )
    truth, found, status = looked_at(tmp_path, segment)
    assert set(found) == set(SUMMARY_KEYS)
    is_lost = truth.frames["fate"] == Fate.LOST_AFTER_MEMORY
    cameras = truth.frames["camera"]
    wanted = {f"vcam{camera}": int((is_lost & (cameras == camera)).sum()) for camera in (1, 2)}
    assert wanted["vcam2"] > wanted["vcam1"] > 0
    assert found["lost"] == wanted
    assert found["lost_fraction"] == pytest.approx(
        is_lost.sum() / (is_lost.sum() + found["raw_frames"])
    )
    assert status["lost_frames"] == is_lost.sum()

    (off,) = found["off"]
    gone = truth.frames[truth.frames["fate"] == Fate.NOT_LOGGED]
    assert set(gone["camera"]) == {2}
    assert (off["stream"], off["frames"]) == ("vcam2", len(gone))
    seconds = np.ptp(gone["acquired_ns"]) / 1e9
    assert seconds < off["seconds"] < seconds + 3 * SLOWLY
    (run,) = status["runs"]
    assert set(run) == set(RUN_REPORT_KEYS)
    assert {stream: sum(each.values()) for stream, each in run["lost"].items()} == wanted
    assert "vcam2 was off for 1 min 5" in run["text"]

    assert all(set(minute) == set(MINUTE_KEYS) for minute in found["minutes"])
    minutes = truth.frames["acquired_ns"] // 60_000_000_000
    logged = truth.frames["fate"] == Fate.LOGGED
    wanted_off = [
        [] if (logged & (cameras == 2) & (minutes == minute)).any() else ["vcam2"]
        for minute in np.unique(minutes[logged])
    ]
    assert [minute["off"] for minute in found["minutes"]] == wanted_off
    assert ["vcam2"] in wanted_off


def test_how_long_a_silence_is_no_loss_can_be_set(tmp_path: Path) -> None:
    setup = dataclasses.replace(SCIENCE, exposure_s=SLOWLY)
    segment = Segment(setup, frames=120, cube_frames=((20,), (35,)), off=(2, 0.4, 0.7))
    truth, found, _ = looked_at(tmp_path, segment, thresholds={"off_seconds": 60.0})
    assert found["off"] == []
    assert found["lost"]["vcam2"] == (truth.frames["fate"] == Fate.NOT_LOGGED).sum() > 30
    assert not found["is_good"]


def test_a_camera_that_missed_a_run_or_its_end_was_off(tmp_path: Path) -> None:
    setup = dataclasses.replace(SCIENCE, exposure_s=SLOWLY)
    other = dataclasses.replace(setup, exposure_s=2 * SLOWLY)
    truth, found, _ = looked_at(
        tmp_path,
        Segment(setup, frames=60, cube_frames=((20,), (35,)), off=(1, 0.5, 1.0)),
        Segment(other, frames=40, cube_frames=((20,), (35,)), off=(2, 0.0, 1.0)),
    )
    assert not (truth.frames["fate"] == Fate.LOST_AFTER_MEMORY).any()
    assert [(each["stream"], each["run"]) for each in found["off"]] == [("vcam1", 0), ("vcam2", 1)]
    assert [round(each["seconds"] / 10) for each in found["off"]] == [
        round(30 * SLOWLY / 10), round(40 * 2 * SLOWLY / 10)
    ]  # fmt: skip
    assert found["lost_fraction"] == 0
    assert found["is_good"]
