# SPDX-License-Identifier: BSD-3-Clause
"""All folders together: snapshots, folders that come and go, mounts that do not answer."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kit.fits_folder import NOW_NS, changed, cube, unfinished
from kit.site import eventually
from nightjar.clock import ManualClock
from nightjard.fitswatcher import watcher as watcher_module
from nightjard.fitswatcher.looking import Looker
from nightjard.fitswatcher.watcher import Watcher

Make = Callable[..., Watcher]


def soon() -> float:
    """A monotonic time that is not reached unless something hangs."""
    return time.monotonic() + 30


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW_NS)


@pytest.fixture
def make(clock: ManualClock) -> Iterator[Make]:
    made: list[Watcher] = []

    def watch(*patterns: Any, count: int = 2, **options: Any) -> Watcher:
        made.append(Watcher([str(pattern) for pattern in patterns], count, clock, **options))
        return made[-1]

    yield watch
    for watcher in made:
        watcher.close(5)


def paths(snapshot: dict[str, Any], base: Path) -> list[str]:
    return [os.path.relpath(folder["path"], base) for folder in snapshot["folders"]]


def test_a_snapshot_is_plain_and_complete(tmp_path: Path, make: Make) -> None:
    cube(tmp_path, "a.fits", age_s=20)
    cube(tmp_path, "b.fits", age_s=10, frames=2, TRUNCATE=True, CUBEEND="paused")
    unfinished(tmp_path, "c.fits", 700, age_s=1)
    snapshot = json.loads(json.dumps(make(tmp_path, "/nowhere/*").snapshot(5)))
    assert set(snapshot) == {"time", "folders", "folders_left_out", "patterns"}
    assert snapshot["time"] == "2026-01-31T23:59:58.000"
    assert snapshot["patterns"][1] == {
        "pattern": "/nowhere/*", "folders": 0, "files": 0, "problem": None,
    }  # fmt: skip
    (folder,) = snapshot["folders"]
    assert set(folder) == {
        "path", "state", "problem", "files", "bytes", "free_bytes", "time_left_s",
        "files_per_min", "bytes_per_s", "last_file_age_s", "writing", "newest",
    }  # fmt: skip
    assert (folder["path"], folder["state"], folder["files"]) == (str(tmp_path), "ok", 2)
    assert folder["last_file_age_s"] == 10
    (writing,) = folder["writing"]
    assert writing == {
        "name": "c.fits", "bytes": 700, "modified": "2026-01-31T23:59:57.000", "age_s": 1.0,
        "bytes_per_s": None,
    }  # fmt: skip
    newest = folder["newest"][0]
    assert set(newest) == {
        "name", "bytes", "modified", "age_s", "has_txt", "state", "problem", "shape", "dtype",
        "bitpix", "compression", "object", "data_type", "begin", "session", "frame_rate_hz",
        "expected", "saved", "missed", "torn", "duplicated", "lost_by_camera", "truncated",
        "cube_end", "cube_number",
    }  # fmt: skip
    assert (newest["name"], newest["state"], newest["shape"]) == ("b.fits", "truncated", [2, 4, 6])
    assert newest["age_s"] == 10


def test_the_time_left_counts_all_folders_of_a_file_system(tmp_path: Path, make: Make) -> None:
    for name in ("a", "b", "quiet"):
        (tmp_path / name).mkdir()
    for number in range(7):
        cube(tmp_path / "a", f"{number}.fits", age_s=10 * number)
        cube(tmp_path / "b", f"{number}.fits", age_s=10 * number)
    one = make(tmp_path / "a").snapshot(5)["folders"][0]
    a, b, quiet = make(tmp_path / "*").snapshot(5)["folders"]
    assert one["time_left_s"] == pytest.approx(one["free_bytes"] / one["bytes_per_s"], rel=1e-3)
    assert a["time_left_s"] == pytest.approx(one["time_left_s"] / 2, rel=0.2)
    assert a["time_left_s"] == pytest.approx(b["time_left_s"], rel=0.2)
    assert quiet["time_left_s"] == pytest.approx(b["time_left_s"], rel=0.2)
    assert quiet["bytes_per_s"] == 0


def test_folders_come_and_go(tmp_path: Path, make: Make, clock: ManualClock) -> None:
    watched = make(tmp_path / "2026*" / "vcam*")
    assert watched.snapshot(5)["folders"] == []
    for name in ("20260131/vcam1", "20260131/vcam2"):
        (tmp_path / name).mkdir(parents=True)
    assert paths(watched.snapshot(5), tmp_path) == ["20260131/vcam1", "20260131/vcam2"]
    shutil.rmtree(tmp_path / "20260131/vcam1")
    gone, other = watched.snapshot(5)["folders"]
    assert (gone["state"], gone["problem"]) == ("gone", "No such file or directory")
    assert other["state"] == "ok"
    clock.advance(70)
    assert paths(watched.snapshot(5), tmp_path) == ["20260131/vcam2"]
    (tmp_path / "20260131/vcam1").mkdir()
    assert len(watched.snapshot(5)["folders"]) == 2


def test_a_folder_named_twice_is_shown_once(tmp_path: Path, make: Make) -> None:
    (tmp_path / "a").mkdir()
    watched = make(tmp_path / "a", tmp_path / "*", f"{tmp_path}/a/", f"{tmp_path}/./a")
    assert paths(watched.snapshot(5), tmp_path) == ["a"]


def test_below_only_folders_with_files_are_shown(tmp_path: Path, make: Make) -> None:
    for name in ("a/full", "a/empty", "a/empty/deep"):
        (tmp_path / name).mkdir(parents=True)
    cube(tmp_path / "a/full", "1.fits")
    unfinished(tmp_path / "a/empty/deep", "1.fits", 5)
    shown = paths(make(tmp_path / "a", is_recursive=True).snapshot(5), tmp_path)
    assert shown == ["a", "a/empty/deep", "a/full"]


def test_too_many_folders_leave_the_first_ones_out(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher_module, "MOST_FOLDERS", 3)
    for number in range(5):
        (tmp_path / f"2026013{number}").mkdir()
    snapshot = make(tmp_path / "*").snapshot(5)
    assert paths(snapshot, tmp_path) == ["20260132", "20260133", "20260134"]
    assert snapshot["folders_left_out"] == 2


def test_a_dead_mount_holds_nothing_up(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("dead", "live"):
        (tmp_path / name).mkdir()
        cube(tmp_path / name, "a.fits")
    monkeypatch.setattr(watcher_module, "_SILENT_S", 0.0)
    watched = make(tmp_path / "*")
    assert [folder["state"] for folder in watched.snapshot(5)["folders"]] == ["ok", "ok"]
    release = threading.Event()
    real = os.stat

    def hang(path: Any, *arguments: Any, **options: Any) -> os.stat_result:
        if str(path).startswith(str(tmp_path / "dead")):
            assert release.wait(30)
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", hang)


    def look() -> tuple[Any, Any] | None:  # until the live one answers in time
        dead, live = watched.snapshot(0.2)["folders"]
        assert dead["state"] == "no answer"
        return (dead, live) if live["state"] == "ok" else None

    dead, live = eventually(look)
    assert "is a network mount dead?" in dead["problem"]
    assert dead["newest"][0]["name"] == "a.fits"  # what was known last
    cube(tmp_path / "live", "b.fits")
    changed(tmp_path / "live", NOW_NS)
    dead, live = watched.snapshot(30)["folders"]  # which does not wait for the dead one again
    assert dead["state"] == "no answer"
    assert live["files"] == 2
    release.set()
    dead_looker = watched._folders[str(tmp_path / "dead")]
    assert dead_looker.wait(soon())
    assert [folder["state"] for folder in watched.snapshot(5)["folders"]] == ["ok", "ok"]


def test_a_pattern_on_a_dead_mount_says_so(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    real = os.path.lexists

    def hang(path: Any) -> bool:
        if str(path) == str(tmp_path / "dead"):
            assert release.wait(30)
        return real(path)

    monkeypatch.setattr(os.path, "lexists", hang)
    (tmp_path / "live").mkdir()
    monkeypatch.setattr(watcher_module, "_SILENT_S", 0.0)
    watched = make(tmp_path / "dead", tmp_path / "live")


    def look() -> Any:  # until the live one answers in time
        snapshot = watched.snapshot(0.2)
        assert paths(snapshot, tmp_path) in ([], ["live"])
        return snapshot if paths(snapshot, tmp_path) else None

    assert "no answer" in eventually(look)["patterns"][0]["problem"]
    release.set()


def test_a_looker_looks_once_an_ask() -> None:
    looks: list[int] = []
    looker = Looker("test", lambda: looks.append(1))
    for _ in range(3):
        looker.ask()
        assert looker.wait(soon())
    looker.stop()
    looker.join(soon())
    assert len(looks) == 3
