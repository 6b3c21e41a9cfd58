# SPDX-License-Identifier: BSD-3-Clause
"""Status as lines of text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.fake_camera import IDLE
from nightjar.api.camera import STATUS_KEYS
from nightjar.api.states import CameraState, CoolerMode, Summary
from nightjarctl import render


def _lines(**changes: Any) -> list[str]:
    return [line.removeprefix("   ") for line in render.camera_lines({**IDLE, **changes})]


def test_the_fake_status_has_every_key() -> None:
    assert set(IDLE) == set(STATUS_KEYS)


def test_idle_camera() -> None:
    assert _lines() == [
        "Camera is IDLE",
        "Temperature is -5°C (45% power, LOCKED)",
        "Temperature set point is -5°C",
        "Frame streaming is ENABLED",
        "Exposure time is 1.000 s",
        "Output window is [1:9600,1:6422]",
        "Binning is 1x1 (sum)",
        "Filter is R",
        "Gain is 26, offset is 30",
        "Frames: 12 taken, 12 saved, 11 handed over, 1 waiting for the pipeline, 0 lost",
        "Frame buffer has 0 of 5 slots in use, 3 workers",
        "Last file is /data/test-00000012.fits",
        "Space left is 12.3 GB",
        "Last sequence ended: 5 of 5 frames taken",
    ]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"state": "EXPOSING", "exposure_progress": 3.21, "exposure_time": 10.0},
            "Camera is EXPOSING (3.2 / 10.0 s)",
        ),
        ({"state": "EXPOSING", "sequence_frame_limit": 5, "sequence_frame_count": 1},
         "Acquiring frame 2 / 5"),
        ({"state": "DRAINING", "sequence_frame_limit": 5, "sequence_frame_count": 5},
         "Acquiring frame 5 / 5"),
        ({"state": "READING", "sequence_frame_count": 7}, "Acquiring UNTIL STOPPED (7 done)"),
        ({"temperature": None, "cooler_mode": "UNKNOWN", "cooler_power": None},
         "Temperature is unknown°C (UNKNOWN)"),
        ({"humidity": 12.4}, "Inside: humidity 12%"),
        ({"filter": None}, "Filter is MOVING"),
        ({"delay": 2.5}, "Exposure time is 1.000 s, 2.5 s between exposures"),
        ({"exposure_time": 1e-5}, "Exposure time is 0.000010 s"),
        ({"offset": None}, "Gain is 26"),
        ({"worker_restarts": 2, "buffer_used": 5},
         "Frame buffer has 5 of 5 slots in use, 3 workers, 2 worker restarts"),
        (
            {"last_error": {"time": "2025-06-15T03:04:05.6", "name": "NO_SPACE",
                            "message": "full"}},
            "Last error at 2025-06-15 03:04:05: full (NO_SPACE)",
        ),
        (
            {"pipeline": {"daemon": "p", "is_reachable": False, "message": "refused"}},
            "Pipeline p is NOT REACHABLE: refused",
        ),
        ({"health": {"level": "DEGRADED", "reason": "log lost", "parts": {}}},
         "Health is DEGRADED: log lost"),
        ({"state": "OFFLINE", "summary": "STANDBY"}, "Camera is OFFLINE (not initialized)"),
        ({"state": "IDLE", "summary": "FAULT"}, "Camera is IDLE (FAULT)"),
    ],
)  # fmt: skip
def test_line(changes: dict[str, Any], expected: str) -> None:
    assert expected in _lines(**changes)


def test_what_is_not_there_is_not_shown() -> None:
    shown = "\n".join(_lines(
        cooler_mode="NONE", temperature=None, cooler_setpoint=None, filters=[], filter=None,
        gain=None, offset=None, last_file=None, last_stop=None, free_bytes=None,
    ))  # fmt: skip
    for word in ("Temperature", "Filter", "Gain", "offset", "Last", "Space", "Acquiring"):
        assert word not in shown
    assert "Binning" not in "\n".join(_lines(state="OFFLINE", summary="STANDBY"))


_nullable = {
    "temperature": st.floats(-100, 50), "cooler_power": st.floats(0, 1), "humidity": st.just(40.0),
    "exposure_progress": st.floats(0, 1e4), "gain": st.integers(0, 99), "last_stop": st.text(),
    "cooler_setpoint": st.floats(-100, 50), "filter": st.text(), "free_bytes": st.integers(0),
    "operation": st.text(), "window": st.just([1, 2, 3, 4]), "serial": st.text(),
}  # fmt: skip


@given(
    st.fixed_dictionaries({
        "state": st.sampled_from([each.value for each in CameraState]),
        "summary": st.sampled_from([each.value for each in Summary]),
        "cooler_mode": st.sampled_from([each.value for each in CoolerMode]),
        **{key: st.none() | values for key, values in _nullable.items()},
    })
)  # fmt: skip
def test_any_state_can_be_shown(changes: dict[str, Any]) -> None:
    lines = render.camera_lines({**IDLE, **changes})
    assert changes["state"] in lines[0]
    assert all(line.startswith("   ") for line in lines)


def test_frames_as_a_table() -> None:
    frame = {"number": 7, "run": "r", "start": "2025-06-15T03:04:05.678", "exposure": 0.5,
             "path": "/data/test-7.fits", "state": "saved", "size": 123_315_840}  # fmt: skip
    lines = render.frame_rows([frame, {**frame, "number": 6, "size": None}])
    assert lines[0].split() == ["frame", "start", "(UTC)", "exposure", "state", "size", "file"]
    cells = [cell.strip() for cell in lines[1].split("  ") if cell.strip()]
    assert cells == [
        "7", "2025-06-15 03:04:05", "0.5 s", "saved", "123.3 MB", "/data/test-7.fits",
    ]  # fmt: skip
    assert "  -         /data" in lines[2]
    assert render.frame_rows([]) == ["no frames since the daemon started"]


def test_colours_follow_the_state() -> None:
    def paint(text: str, color: str | None = None, *, bold: bool = False) -> str:
        return f"<{color}>{text}</>" if color else text

    shown = render.camera_lines({**IDLE, "state": "EXPOSING", "frames_lost": 2}, paint)
    assert "   Camera is <green>EXPOSING</>" in shown
    assert any("<green>LOCKED</>" in line for line in shown)
    assert any("<red>2 lost</>" in line for line in shown)


@given(st.lists(st.lists(st.text(max_size=9), min_size=3, max_size=3), max_size=5))
def test_table_keeps_every_cell_whole(rows: list[list[str]]) -> None:
    lines = render.table(["a", "b", "c"], rows, right=[1])
    assert len(lines) == len(rows) + 1
    for row, line in zip(rows, lines[1:], strict=True):
        for cell in row:
            assert cell.rstrip() in line


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (123_302_400, "123.3 MB"), (5e12, "5.0 TB")],
)
def test_size_text(size: float, text: str) -> None:
    assert render.size_text(size) == text
