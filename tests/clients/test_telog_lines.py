# SPDX-License-Identifier: BSD-3-Clause
"""The telescope logs' answers as a person reads them."""

from __future__ import annotations

from typing import Any

from nightjarctl.telog_lines import minute_lines, status_lines


def row(hour: int, whole: int = 0, missing: list[int] | None = None, minutes: int = 60) -> Any:
    stream = {"whole": whole, "partial": [], "missing": missing or []}
    return {
        "hour": hour, "minutes": minutes, "is_complete": False, "raw": stream,
        "pointing": stream, "housekeeping": stream,
    }  # fmt: skip


def test_hours_before_anything_are_one_line() -> None:
    hours = [row(0), row(1), row(2), row(3, 60), row(4), row(5, 20, [301], 21)]
    lines = minute_lines({"day": "20261121", "hours": hours})
    assert lines[2] == "00 to 02: nothing"
    assert [line.split()[0] for line in lines[3:6]] == ["03", "04", "05"]
    assert sum("missing" in line for line in lines) == 3
    assert len(minute_lines({"day": "20261121", "hours": hours}, everything=True)) > 8
    assert "00: nothing" in minute_lines({"day": "20261121", "hours": [row(0), row(1, 1)]})
    empty = minute_lines({"day": "20261121", "hours": [row(0), row(1)]})
    assert len(empty) == 4, "a day without anything is shown as it is"


def test_what_was_before_these_logs_began_is_no_loss() -> None:
    ring: dict[str, Any] = {
        "folder": "/plog", "copied": 2, "completed": 0, "stale": 0, "damaged": 0,
        "missing": ["2026-11-21T18:21:00", "2026-11-21T18:31:00"], "behind": [],
    }  # fmt: skip
    status: dict[str, Any] = {
        "state": "RUNNING", "reason": "", "pointing": {"age_s": 0.1, "source": "tcp"},
        "ring": ring, "housekeeping": None, "raw": None, "lag": {}, "helpers": [],
        "free_bytes": {}, "quarantined": 0, "health": {"level": "OK", "reason": "", "parts": {}},
    }  # fmt: skip
    assert not any("18:21" in line or "not whole" in line for line in status_lines(status))
    ring["behind"] = ring["missing"][1:]
    (line,) = [line for line in status_lines(status) if "ring" in line]
    assert "1 not whole since 2026-11-21 18:31" in line
