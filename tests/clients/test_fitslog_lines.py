# SPDX-License-Identifier: BSD-3-Clause
"""The loggers' answers as a person reads them."""

from __future__ import annotations

from typing import Any

import pytest

from nightjar.api.fitslog import STREAM_KEYS
from nightjarctl import fitslog_lines as lines
from nightjarctl.fitslog_groups import moment
from nightjarctl.render import no_paint


def view(**values: Any) -> dict[str, Any]:
    base: dict[str, Any] = dict.fromkeys(STREAM_KEYS)
    return base | {
        "state": "saving", "shape": [1096, 2236], "dtype": "uint16", "rate_hz": 57.0,
        "is_alive": True, "cube_frames": 250, "cube_index": 125, "cube_count": 3,
        "frames_saved": 625, "missed": 0, "torn": 0, "duplicated": 0, "ring_depth": 285,
        "ring_unread": 2, "ring_seconds": 5.0, "write_mb_s": 279.4, "folder": "/data/x",
        "free_bytes": 2e12, "seconds_left": 7157.0, "data_type": "OBJECT", **values,
    }  # fmt: skip


def text(**values: Any) -> str:
    return "\n".join(lines.stream_lines("vcam1", view(**values), no_paint))


def test_a_stream_that_is_saved() -> None:
    shown = text(frames_limit=1000, until_ns=1_750_000_000_000_000_000)
    assert shown.splitlines() == [
        "vcam1 is SAVING: 2236 x 1096 uint16, 57.0 Hz",
        "   cube 3 [##########..........] 125 / 250; 625 frames saved, 0 missed, 0 torn, "
        "0 duplicated",
        "   ends after 1000 frames or 15:06:40 UTC",
        "   ring [#...................] 2 / 285 frames wait, it bridges 5.0 s; 279.4 MB/s",
        "   into /data/x, 2.0 TB free (1 h 59 min at this rate)",
    ]


def test_every_state_and_every_gap_in_what_is_known() -> None:
    assert "prepared for 250 frames per cube, OBJECT" in text(state="armed", frames_saved=None)
    assert "last session: 625 frames" in text(state="armed")
    assert "no stream" in text(state="idle", shape=None, is_alive=False)
    assert "still for 1 min 30 s" in text(is_alive=False, age_s=90.0)
    assert "no frame yet" in text(is_alive=False)
    assert "disk full" in text(state="error", error="disk full")
    assert "died 2 times" in text(restarts=2)
    empty: dict[str, Any] = dict.fromkeys(STREAM_KEYS)
    for state in ("idle", "armed", "saving", "finishing", "error"):
        assert lines.stream_lines("s", empty | {"state": state}, no_paint)


def test_losses_are_red() -> None:
    painted: list[tuple[str, str | None]] = []

    def paint(said: str, color: str | None = None, *, bold: bool = False) -> str:
        painted.append((said, color))
        return said

    lines.losses_text(view(missed=3), paint)
    assert painted == [("3 missed", "red"), ("0 torn", None), ("0 duplicated", None)]


@pytest.mark.parametrize(("share", "shown"), [(0, "...."), (0.001, "#..."), (0.5, "##.."),
                                              (1, "####"), (7, "####")])  # fmt: skip
def test_bar(share: float, shown: str) -> None:
    assert lines.bar(share, 4) == f"[{shown}]"


def test_files_as_a_table() -> None:
    cube = {
        "time": "2026-06-11T03:15:00.123", "stream": "vcam1", "frames": 249, "missed": 1,
        "torn": 0, "size": 1_220_000_000, "truncated": True, "reason": "paused", "path": "/d/f",
    }  # fmt: skip
    head, row = lines.cube_rows([cube])
    assert row.split() == ["2026-06-11", "03:15:00", "vcam1", "249", "1", "1.2", "GB", "closed",
                           "early:", "paused", "/d/f"]  # fmt: skip
    assert head.startswith("time (UTC)")
    assert lines.cube_rows([]) == ["no cubes since the daemon started"]


def test_times_that_people_type() -> None:
    assert moment("2026-06-11T03:15:00") == "2026-06-11T03:15:00.000000"
    assert moment("23:59:59").endswith("T23:59:59")
    assert len(moment("0:05")) == len("2026-06-11T00:05:00")
