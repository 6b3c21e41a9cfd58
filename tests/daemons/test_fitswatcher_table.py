# SPDX-License-Identifier: BSD-3-Clause
"""The list as people see it: what stands in it, and that it fits whatever the width."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kit.fits_folder import NOW_NS, cube, unfinished
from nightjar.clock import ManualClock
from nightjard.fitswatcher.screen import news
from nightjard.fitswatcher.table import age_text, clean, cut_middle, size_text, snapshot_lines
from nightjard.fitswatcher.watcher import Watcher

LONG = "vcam1_20260131T235958.123456789.fits"


@pytest.fixture
def snapshot(tmp_path: Path) -> dict[str, Any]:
    for name in ("vcam1", "vcam2"):
        (tmp_path / name).mkdir()
    first = tmp_path / "vcam1"
    cube(first, LONG, age_s=4)
    cube(first, "b.fits", age_s=5, frames=2, TRUNCATE=True, CUBEEND="paused", NMISSED=3)
    unfinished(first, "next.fits", 2_500_000)
    cube(tmp_path / "vcam2", "quiet.fits", age_s=7200, NMISSED=None, NTORN=None, NDUP=None)
    watcher = Watcher([f"{tmp_path}/*", "/nowhere"], 3, ManualClock(NOW_NS))
    try:
        return watcher.snapshot(5)
    finally:
        watcher.close(5)


def test_the_whole_list(snapshot: dict[str, Any], tmp_path: Path) -> None:
    lines = snapshot_lines(snapshot)
    assert lines[0].split() == [
        "file", "shape", "size", "type", "object", "age", "rate", "missed/torn/dup", "note",
    ]  # fmt: skip
    assert lines[1] == f"{tmp_path}/vcam1 - 2 FITS files (28.8 kB)"
    assert "free" in lines[2]
    assert "last file 4 s ago" in lines[2]
    assert lines[3].split() == ["next.fits", "writing", "2.50", "MB", "0", "s"]
    columns = [text.strip() for text in lines[4].split("  ") if text]
    assert columns == [
        LONG, "(5, 4, 6)", "0.014 MB", "uint16", "DARK HD 1", "4 s", "57.03 Hz", "0/0/0",
    ]  # fmt: skip
    assert lines[5].rstrip().endswith("3/0/0  truncated: paused, 2 of 5 frames")
    assert lines[6].startswith(f"{tmp_path}/vcam2 - 1 FITS file (")
    assert "2 h 00 min" in lines[8]
    assert lines[-1] == "no folder matches '/nowhere'"


@pytest.mark.parametrize("width", [*range(4, 200, 7), 80, 120])
def test_no_line_is_longer_than_the_terminal_is_wide(
    snapshot: dict[str, Any], width: int
) -> None:
    lines = snapshot_lines(snapshot, width=width, ellipsis="…")
    assert [line for line in lines if len(line) > width] == []
    if width >= 40:
        text = "\n".join(lines)
        assert "truncated: paused" in text
        assert "56789.fits" in text  # the end of a long name stays


def test_what_was_lost_is_told_without_its_column(snapshot: dict[str, Any]) -> None:
    lines = snapshot_lines(snapshot, width=60)
    assert "missed/torn/dup" not in lines[0]
    assert any("3/0/0 missed/torn/dup" in line for line in lines)


def test_a_low_terminal_shows_where_something_happens(snapshot: dict[str, Any]) -> None:
    lines = snapshot_lines(snapshot, width=120, height=9)
    assert len(lines) <= 9
    text = "\n".join(lines)
    assert "vcam1 - " in text
    assert "quiet.fits" not in text
    assert "1 quieter folder is not shown" in text
    whole = snapshot_lines(snapshot, width=120)
    assert snapshot_lines(snapshot, width=120, height=len(whole)) == whole
    assert snapshot_lines(snapshot, width=120, height=3) == whole[:3]


def test_states_of_folders_and_files(snapshot: dict[str, Any]) -> None:
    first, second = snapshot["folders"]
    first.update(state="no answer", problem="no answer for 7 s: is a network mount dead?")
    second.update(state="gone", problem="No such file or directory")
    first["newest"][0].update(state="bad", problem="no END card")
    first["newest"][1].update(has_txt=False, lost_by_camera=4, state="ok", problem=None)
    first["writing"][0].update(bytes_per_s=0.0, age_s=300)
    text = "\n".join(snapshot_lines(snapshot))
    for part in (
        "  no answer for 7 s", "  gone: No such file", "bad: no END card",
        "4 lost by the camera; no .txt",
        "not growing for 5 min",
    ):  # fmt: skip
        assert part in text


def test_colours_change_nothing_else(snapshot: dict[str, Any]) -> None:
    def paint(text: str, color: str | None = None, *, bold: bool = False) -> str:
        return f"\x1b[1m{text}\x1b[0m" if color or bold else text

    painted = snapshot_lines(snapshot, paint, width=90)
    plain = [line.replace("\x1b[1m", "").replace("\x1b[0m", "") for line in painted]
    assert plain == snapshot_lines(snapshot, width=90)
    assert painted != plain


def test_arguments_that_are_files_are_explained(tmp_path: Path) -> None:
    names = [str(cube(tmp_path, f"{n}.fits")) for n in range(3)]
    for patterns, text in (
        (names[:1], f"{names[0]!r} is a file: give the folder instead"),
        (names, f"3 arguments are files ({names[0]!r} ...): give the folder instead"),
        ([f"{tmp_path}/*.fits"], f"3 files match '{tmp_path}/*.fits': give the folder instead"),
    ):
        watcher = Watcher(patterns, 1, ManualClock(NOW_NS))
        assert snapshot_lines(watcher.snapshot(5)) == [text]
        watcher.close(5)


def test_each_file_is_news_once_and_oldest_first(snapshot: dict[str, Any]) -> None:
    first = list(news(snapshot))
    lines = [line for _, _, line in first]
    assert lines[0].endswith("no folder matches '/nowhere'")
    assert "b.fits" in lines[1]
    assert LONG in lines[2]
    assert lines[1].startswith("2026-01-31T23:59:58  ")
    snapshot["folders"][0]["newest"][0]["state"] = "bad"
    again = {key for key, _, _ in news(snapshot)}
    assert len(again.difference(key for key, _, _ in first)) == 1


def test_texts() -> None:
    assert [size_text(n) for n in (5, 615_000, 2_450_000, 24_500_000, 4_919_000_000)] == [
        "5 B", "0.615 MB", "2.45 MB", "24.5 MB", "4919 MB",
    ]  # fmt: skip
    assert [age_text(n) for n in (0, 99.4, 100, 5999, 6000, 1e6)] == [
        "0 s", "99 s", "2 min", "100 min", "1 h 40 min", "12 d",
    ]  # fmt: skip
    assert clean("a\x1b[31mb\nc\udcff") == "a?[31mb?c?"
    assert cut_middle("abcdefghij", 7, "…") == "ab…ghij"
    assert [cut_middle("abcdefghij", n, "...") for n in (0, 3, 4, 10)] == [
        "", "abc", "abcd", "abcdefghij",
    ]  # fmt: skip
