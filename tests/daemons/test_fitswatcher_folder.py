# SPDX-License-Identifier: BSD-3-Clause
"""One watched folder: what is counted, what is looked at again, and how fast it fills."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from kit.fits_folder import NOW_NS, changed, cube, made_at, unfinished
from nightjar.clock import ManualClock
from nightjard.fitswatcher import folder as folder_module
from nightjard.fitswatcher.folder import Folder, Report
from nightjard.fitswatcher.listing import Listing
from nightjard.fitswatcher.patterns import expand


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW_NS)


def names(report: Report) -> list[str]:
    return [row.entry.name for row in report.newest]


# --- listing ---


def test_the_newest_come_first_and_all_are_counted(tmp_path: Path, clock: ManualClock) -> None:
    sizes = [cube(tmp_path, f"{n}.fits", age_s=10 * n).stat().st_size for n in range(1, 6)]
    report = Folder(tmp_path, 2, clock).look()
    assert names(report) == ["1.fits", "2.fits"]
    assert (report.files, report.bytes, report.last_ns) == (5, sum(sizes), NOW_NS - 10 * 10**9)
    assert report.free_bytes is not None
    assert names(Folder(tmp_path, 0, clock).look()) == []
    assert len(names(Folder(tmp_path, 50, clock).look())) == 5


@pytest.mark.parametrize("name", ["a.fits", "b.FITS", "c.fit", "d.fts", "e.fits.fz"])
def test_names_of_fits_files(tmp_path: Path, clock: ManualClock, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    (tmp_path / f"{name}.txt").write_bytes(b"")
    (tmp_path / f"x{name}.bak").write_bytes(b"")
    (tmp_path / f".{name}").write_bytes(b"")
    (tmp_path / f"folder-{name}").mkdir()
    (tmp_path / f"gone-{name}").symlink_to("nowhere")
    os.mkfifo(tmp_path / f"fifo-{name}")
    assert Folder(tmp_path, 5, clock).look().files == 1


def test_a_file_in_progress_is_followed_by_the_name_it_will_have(
    tmp_path: Path, clock: ManualClock
) -> None:
    path = unfinished(tmp_path, "a.fits", 1000)
    foreign = tmp_path / "stream_05:12:00.123456789.fits.31415.926.tmp"
    foreign.write_bytes(bytes(500))
    made_at(foreign, 3)
    (tmp_path / ".probe.77.tmp").write_bytes(b"")
    watched = Folder(tmp_path, 2, clock)
    first = watched.look()
    assert [each.entry.target for each in first.writing] == [
        "a.fits", "stream_05:12:00.123456789.fits",
    ]  # fmt: skip
    assert first.writing[0].bytes_per_s is None
    path.write_bytes(bytes(5000))
    clock.advance(2)
    report = watched.look()
    by_target = {each.entry.target: each for each in report.writing}
    assert by_target["a.fits"].entry.size == 5000
    assert by_target["a.fits"].bytes_per_s == 2000
    assert by_target["stream_05:12:00.123456789.fits"].bytes_per_s == 0
    assert report.rate.bytes_per_s == 2000
    path.rename(tmp_path / "a.fits")
    clock.advance(1)
    changed(tmp_path, clock.now_ns())
    report = watched.look()
    assert names(report) == ["a.fits"]
    assert len(report.writing) == 1


def test_what_changes_is_seen_at_the_next_look(tmp_path: Path, clock: ManualClock) -> None:
    old = cube(tmp_path, "old.fits", age_s=100)
    watched = Folder(tmp_path, 3, clock)
    watched.look()
    clock.advance(10)
    cube(tmp_path, "new.fits")
    changed(tmp_path, clock.now_ns())
    assert names(watched.look()) == ["new.fits", "old.fits"]
    (tmp_path / "newer.fits").write_bytes(b"")  # within the same tick: the folder's time stays
    changed(tmp_path, clock.now_ns())
    assert names(watched.look())[0] == "newer.fits"
    (tmp_path / "newer.fits").unlink()
    clock.advance(10)
    old.unlink()
    changed(tmp_path, clock.now_ns())
    report = watched.look()
    assert (names(report), report.files) == (["new.fits"], 1)


def test_a_file_that_grows_in_place_is_no_bad_one(tmp_path: Path, clock: ManualClock) -> None:
    whole = cube(tmp_path, "a.fits").read_bytes()
    path = tmp_path / "a.fits"
    path.write_bytes(whole[:100])
    made_at(path, 0)
    watched = Folder(tmp_path, 1, clock)
    assert watched.look().newest[0].facts.state == "growing"
    clock.advance(60)
    assert watched.look().newest[0].facts.state == "bad"
    path.write_bytes(whole[:-1])
    made_at(path, 0)  # 60 s ago by now, but it has grown
    assert watched.look().newest[0].facts.state == "growing"
    assert watched.look().newest[0].facts.state == "cut short"
    path.write_bytes(whole)
    assert watched.look().newest[0].facts.state == "ok"


def test_headers_are_read_once_and_only_of_the_newest(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        cube(tmp_path, f"{number:02d}.fits", age_s=100 - number, has_table=False)
    read: list[str] = []
    real = folder_module.read_facts
    monkeypatch.setattr(
        folder_module, "read_facts", lambda path: (read.append(path.name), real(path))[1]
    )
    watched = Folder(tmp_path, 2, clock)
    for _ in range(3):
        watched.look()
        clock.advance(60)
    assert read == ["19.fits", "18.fits"]
    made_at(tmp_path / "19.fits", 1)  # changed
    watched.look()
    assert read[2:] == ["19.fits"]


def test_ten_thousand_files_are_looked_up_once(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(os.environ["MILK_SHM_DIR"])
    for number in range(10_000):
        os.close(os.open(folder / f"{number:05d}.fits", os.O_CREAT | os.O_WRONLY))
    listing = Listing(folder)
    listing.refresh(NOW_NS)
    assert len(listing.finished) == 10_000
    assert len(listing.newest(3)) == 3
    asked = []
    real = os.stat
    monkeypatch.setattr(os, "stat", lambda *a, **k: (asked.append(a), real(*a, **k))[1])
    (folder / "more.fits").write_bytes(b"x")
    changed(folder, NOW_NS + 10**9)
    listing.refresh(NOW_NS + 10**9)
    assert (len(listing.finished), listing.total_bytes) == (10_001, 1)
    assert len(asked) < 20


def test_changes_that_a_server_hides_are_found_within_half_a_minute(
    tmp_path: Path, clock: ManualClock
) -> None:
    for number in range(12):
        (tmp_path / f"{number:02d}.fits").write_bytes(b"")
        made_at(tmp_path / f"{number:02d}.fits", 100 - number)
    listing = Listing(tmp_path)
    listing.refresh(NOW_NS)
    (tmp_path / "00.fits").write_bytes(b"longer")  # the oldest; the folder stays as it was
    made_at(tmp_path / "00.fits", 100)
    listing.refresh(NOW_NS + 10 * 10**9)
    assert listing.total_bytes == 0
    listing.refresh(NOW_NS + 31 * 10**9)
    assert listing.total_bytes == 6


def test_a_folder_that_is_gone_or_closed_says_so_and_comes_back(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    cube(folder, "a.fits")
    watched = Folder(folder, 2, clock)
    assert watched.look().state == "ok"
    folder.rename(tmp_path / "b")
    report = watched.look()
    assert (report.state, report.problem) == ("gone", "No such file or directory")
    (tmp_path / "b").rename(folder)
    clock.advance(60)

    def refuse(path: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refuse)
        report = watched.look()
        assert (report.state, report.problem) == ("unreadable", "Permission denied")
    assert names(watched.look()) == ["a.fits"]


def test_a_missing_text_is_told_where_others_have_one(tmp_path: Path, clock: ManualClock) -> None:
    cube(tmp_path, "a.fits", age_s=2)
    cube(tmp_path, "b.fits", age_s=1)
    (tmp_path / "a.txt").write_text("# times")
    rows = Folder(tmp_path, 2, clock).look().newest
    assert {row.entry.name: row.has_text for row in rows} == {"a.fits": True, "b.fits": False}


# --- rates ---


def steady(folder: Path, count: int, period_s: float, age_s: float = 0.0) -> int:
    """Write a file each period, the last one `age_s` ago; return its size."""
    for number in range(count):
        path = folder / f"{number:03d}.fits"
        path.write_bytes(bytes(3_000))
        made_at(path, age_s + period_s * (count - 1 - number))
    return 3_000


def test_the_rate_is_told_at_the_first_look(tmp_path: Path, clock: ManualClock) -> None:
    steady(tmp_path, 13, 10)
    rate = Folder(tmp_path, 2, clock).look().rate
    assert rate.files_per_min == pytest.approx(6)
    assert rate.bytes_per_s == pytest.approx(300)


def test_a_file_in_progress_counts_where_it_is_longer_than_those_before(
    tmp_path: Path, clock: ManualClock
) -> None:
    steady(tmp_path, 9, 10, age_s=20)
    watched = Folder(tmp_path, 2, clock)
    assert watched.look().rate.bytes_per_s == pytest.approx(240)
    unfinished(tmp_path, "next.fits", 6000)
    changed(tmp_path, clock.now_ns())
    assert watched.look().rate.bytes_per_s == pytest.approx(300)


def test_files_that_came_in_one_go_have_no_great_rate(tmp_path: Path, clock: ManualClock) -> None:
    steady(tmp_path, 3, 0.001, age_s=0.5)
    assert Folder(tmp_path, 2, clock).look().rate.files_per_min == pytest.approx(12)
    (tmp_path / "000.fits").unlink()
    for number in (1, 2):
        made_at(tmp_path / f"00{number}.fits", 0)  # at the very same time
    assert Folder(tmp_path, 2, clock).look().rate.files_per_min == pytest.approx(6)


def test_files_minutes_apart_have_a_rate_and_older_ones_do_not(
    tmp_path: Path, clock: ManualClock
) -> None:
    steady(tmp_path, 3, 240, age_s=100)
    rate = Folder(tmp_path, 2, clock).look().rate
    assert rate.files_per_min == pytest.approx(2 * 60 / 480)
    clock.advance(3600)
    assert Folder(tmp_path, 2, clock).look().rate.files_per_min == 0


def test_the_rate_ends_with_the_files(tmp_path: Path, clock: ManualClock) -> None:
    steady(tmp_path, 13, 2)
    watched = Folder(tmp_path, 2, clock)
    assert (watched.look().rate.files_per_min or 0) > 20
    clock.advance(17)
    rate = watched.look().rate
    assert (rate.files_per_min, rate.bytes_per_s) == (0, 0)


def test_files_that_are_taken_away_count(tmp_path: Path, clock: ManualClock) -> None:
    watched = Folder(tmp_path, 2, clock)
    for _ in range(10):
        clock.advance(5)
        path = tmp_path / f"{clock.now_ns()}.fits"
        path.write_bytes(bytes(1000))
        os.utime(path, ns=(clock.now_ns(), clock.now_ns()))
        changed(tmp_path, clock.now_ns())
        watched.look()
        path.unlink()
    assert watched.look().rate.files_per_min == pytest.approx(12)


# --- patterns ---


def tree(base: Path) -> Path:
    for name in ("20260131/vcam1", "20260131/vcam2", "20260201/vcam1", ".hidden/vcam1"):
        (base / name).mkdir(parents=True)
    (base / "20260131/readme").write_text("")
    (base / "20260131/vcam1/a.fits").write_text("")
    return base


def found(base: Path, pattern: str, **options: bool) -> tuple[list[str], list[str], int]:
    matches = expand(f"{base}/{pattern}", **options)
    folders = [os.path.relpath(path, base) for path in matches.folders]
    return folders, [os.path.relpath(path, base) for path in matches.below], matches.files


def test_patterns_mean_folders(tmp_path: Path) -> None:
    base = tree(tmp_path)
    assert found(base, "*") == (["20260131", "20260201"], [], 0)
    both = ["20260131/vcam1", "20260201/vcam1"]
    assert found(base, "*/vcam1") == (both, [], 0)
    assert found(base, "20260131/*") == (["20260131/vcam1", "20260131/vcam2"], [], 1)
    assert found(base, "2026013?/vcam[2-9]/") == (["20260131/vcam2"], [], 0)
    assert found(base, "20260131/vcam1") == (["20260131/vcam1"], [], 0)
    assert found(base, "20260131/**") == (["20260131", "20260131/vcam1", "20260131/vcam2"], [], 0)
    assert found(base, "none") == found(base, "none/*") == found(base, "*/none") == ([], [], 0)
    assert found(base, "*/*/a.fits") == ([], [], 1)


def test_folders_below_are_those_with_files(tmp_path: Path) -> None:
    base = tree(tmp_path)
    folders, below, _ = found(base, "20260131", is_recursive=True)
    assert (folders, below) == (["20260131"], ["20260131/vcam1"])
    unfinished(base / "20260131/vcam2", "a.fits", 10)
    (base / "20260131/loop").symlink_to(base)
    _, below, _ = found(base, "*", is_recursive=True)
    assert below == ["20260131/vcam1", "20260131/vcam2"]


def test_relative_paths_and_homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expand("20260201").folders == (str(tmp_path / "20260201"),)
    assert expand(".").folders == (str(tmp_path),)
    assert expand("~/20260201").folders == (str(tmp_path / "20260201"),)


def test_a_folder_that_cannot_be_listed_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    assert expand(f"{tmp_path}/*").problem == f"{tmp_path}: Permission denied"
