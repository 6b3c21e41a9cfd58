# SPDX-License-Identifier: BSD-3-Clause
"""Announcing frames: what is accepted, what is refused and why, and what a repetition does."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kit.archive_frames import NIGHT, RUN, Bench, quick_folder
from nightjar.clock import NS_PER_S
from nightjar.errors import Code, NightjarError, Refused
from nightjard.archived.intake import Announcement, Intake, Seen


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench(quick_folder())
    yield made
    made.close()


def refusal(bench: Bench, announced: Announcement) -> str:
    with pytest.raises(Refused) as caught:
        bench.archive.notify(announced)
    assert caught.value.code is Code.FRAME_REFUSED
    assert bench.archive.status()["last_error"]["message"].endswith(caught.value.message)
    return caught.value.message


def test_an_accepted_frame_is_in_the_database_before_the_reply(bench: Bench) -> None:
    announced = bench.frame(1)
    reply = bench.archive.notify(announced)
    assert reply == {"id": 1, "state": "accepted", "night": NIGHT, "path": None}
    (row,) = bench.store.accepted()
    assert (row.key, row.name, row.size) == (announced.key, announced.filename, announced.size)
    assert str(row.datasum) == announced.datasum
    assert (bench.incoming / announced.filename).exists()
    assert bench.archive.status()["cameras"]["TEST"]["waiting"] == 1


def test_repeating_is_harmless_at_every_stage(bench: Bench) -> None:
    announced = bench.frame(1)
    first = bench.archive.notify(announced)
    assert bench.archive.notify(announced) == first
    assert bench.archive.notify(replace(announced, datasum=None)) == first
    bench.work()
    late = bench.archive.notify(announced)
    assert (late["id"], late["state"]) == (first["id"], "archived")
    assert late["path"] == f"{NIGHT}/TEST/{announced.filename}"
    assert bench.work() == 0
    assert bench.files() == [late["path"]]


def test_many_announcements_of_one_frame_at_once_are_one_frame(bench: Bench) -> None:
    announced = bench.frame(1)
    replies: list[object] = []
    start = threading.Barrier(8)

    def announce() -> None:
        start.wait(10)
        replies.append(bench.archive.notify(announced)["id"])

    threads = [threading.Thread(target=announce) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert replies == [1] * 8
    assert bench.work() == 1
    assert bench.archive.status()["cameras"]["TEST"]["total"]["archived"] == 1


def test_a_repetition_that_finds_the_file_moved_meanwhile_is_no_refusal(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    announced = bench.frame(1)
    real = Intake.look

    def late(intake: Intake, frame: Announcement) -> Seen:
        with monkeypatch.context() as patch:
            patch.setattr(Intake, "look", real)
            bench.archive.notify(announced)  # on another connection
            bench.work()
        return real(intake, frame)

    monkeypatch.setattr(Intake, "look", late)
    assert bench.archive.notify(announced)["state"] == "archived"


@pytest.mark.parametrize(
    ("change", "what"),
    [({"size": 2880}, "size"), ({"datasum": "7"}, "DATASUM"), ({"filename": "other.fits"}, "name")],
)  # fmt: skip
@pytest.mark.parametrize("is_done", [False, True])
def test_the_same_key_with_another_content_is_refused(
    bench: Bench, change: dict[str, object], what: str, is_done: bool
) -> None:
    announced = bench.frame(1)
    bench.archive.notify(announced)
    if is_done:
        bench.work()
    before = bench.files()
    message = refusal(bench, replace(announced, **change))  # type: ignore[arg-type]
    assert what in message
    assert "nothing was changed" in message
    assert bench.files() == before
    bench.work()
    assert bench.archive.catalog.show(announced.key)["state"] == "archived"


def test_another_frame_under_the_name_of_one_that_waits_is_refused(bench: Bench) -> None:
    announced = bench.frame(1, name="a.fits")
    bench.archive.notify(announced)
    assert "still belongs to frame TEST/" in refusal(bench, replace(announced, frame_number=2))


def test_two_frames_of_one_name_one_after_the_other_are_both_kept(bench: Bench) -> None:
    first = bench.take(1, name="a.fits")
    second = bench.take(2, name="a.fits")
    assert Path(first["path"]).name == "a.fits"
    assert Path(second["path"]).name == "a-2.fits"
    assert bench.files() == [f"{NIGHT}/TEST/a-2.fits", f"{NIGHT}/TEST/a.fits"]
    with pytest.raises(Refused, match="2 frames are called"):
        bench.archive.catalog.show("a.fits")


@pytest.mark.parametrize(
    "name",
    ["../a.fits", "/etc/passwd", "x/../../a.fits", "a\0.fits", "", ".", "..", ".hidden.fits",
     "a b.fits", "a\n.fits", "-rf", "\u00e4.fits", "a" * 300, "a;rm -rf.fits"],
)  # fmt: skip
@pytest.mark.parametrize("field", ["filename", "run"])
def test_hostile_names_are_refused_before_anything_is_looked_up(
    bench: Bench, name: str, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    announced = bench.frame(1)
    (bench.base / "a.fits").write_bytes((bench.incoming / announced.filename).read_bytes())
    monkeypatch.setattr(os, "open", lambda *_a, **_k: pytest.fail("a file was opened"))
    message = refusal(bench, replace(announced, **{field: name}))  # type: ignore[arg-type]
    assert "cannot be used" in message


def test_an_unknown_camera_is_refused(bench: Bench) -> None:
    announced = bench.frame(1, "OTHER")
    assert refusal(bench, announced) == "unknown camera 'OTHER'; this archive takes TEST, GUIDE"


def test_a_missing_file_and_a_missing_folder_are_told_apart(bench: Bench) -> None:
    announced = bench.frame(1)
    path = bench.incoming / announced.filename
    path.unlink()
    assert refusal(bench, announced) == f"there is no file {path} on the archive's host"
    bench.incoming.rmdir()
    assert "does not exist on the archive's host" in refusal(bench, announced)


def test_what_is_no_plain_file_is_refused(bench: Bench) -> None:
    announced = bench.frame(1)
    path = bench.incoming / announced.filename
    real = path.rename(bench.base / "real.fits")
    path.symlink_to(real)
    assert "symbolic link" in refusal(bench, announced)
    path.unlink()
    os.mkfifo(path)
    assert "not a regular file" in refusal(bench, announced)
    path.unlink()
    path.mkdir()
    assert "not a regular file" in refusal(bench, announced)


def test_wrong_sizes_are_refused(bench: Bench) -> None:
    announced = bench.frame(1)
    path = bench.incoming / announced.filename
    assert "were announced" in refusal(bench, replace(announced, size=announced.size + 2880))
    whole = path.read_bytes()
    path.write_bytes(whole[:-2880])
    assert "were announced" in refusal(bench, announced)
    path.write_bytes(whole + b"x")
    assert "not whole FITS blocks" in refusal(bench, replace(announced, size=len(whole) + 1))


def test_a_file_that_is_no_frame_of_ours_is_refused(bench: Bench) -> None:
    path = bench.incoming / "a.fits"
    path.write_bytes(b"\x89PNG".ljust(2880, b"\0"))
    wrong = Announcement("TEST", RUN, 1, "a.fits", 2880)
    assert "not a FITS file" in refusal(bench, wrong)
    path.unlink()
    frame = bench.frame(1, name="a.fits")
    assert "EXPCNT says 1, not 2" in refusal(bench, replace(frame, frame_number=2))
    assert "CAMERA says 'TEST', not 'GUIDE'" in refusal(bench, replace(frame, camera="GUIDE"))
    assert "RUN-ID says" in refusal(bench, replace(frame, run="another"))
    assert "DATASUM is" in refusal(bench, replace(frame, datasum="12"))


@pytest.mark.parametrize(
    ("cards", "text"),
    [({"DATE-BEG": None, "DATE-OBS": None}, "no DATE-BEG or DATE-OBS"),
     ({"DATE-BEG": "yesterday"}, "DATE-BEG"), ({"TIMESYS": "TAI"}, "TIMESYS is TAI"),
     ({"EXPCNT": True}, "EXPCNT says True"), ({"EXPCNT": "1"}, "EXPCNT says '1'"),
     ({"CAMERA": None}, "CAMERA says None")],
)  # fmt: skip
def test_headers_without_identity_or_time_are_refused(
    bench: Bench, cards: dict[str, object], text: str
) -> None:
    assert text in refusal(bench, bench.frame(1, cards=cards))


def test_a_file_without_checksum_is_refused(bench: Bench) -> None:
    announced = bench.frame(1)
    path = bench.incoming / announced.filename
    path.write_bytes(path.read_bytes().replace(b"DATASUM =", b"DATASUX ="))
    assert "no valid DATASUM" in refusal(bench, announced)


def test_the_night_is_that_of_the_exposure_not_of_the_clock(tmp_path: Path) -> None:
    bench = Bench(tmp_path, noon_utc_hours=22.0)  # Hawaii: noon is 22 h UTC
    before = 1_769_896_799 * NS_PER_S  # 2026-01-31T21:59:59 UTC
    assert bench.take(1, begin_ns=before)["night"] == "20260130"
    assert bench.take(2, begin_ns=before + NS_PER_S)["night"] == "20260131"
    bench.close()


def test_a_full_archive_refuses_and_recovers_by_itself(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    low = Bench(tmp_path / "low", minimum_free_bytes=10**9)
    free = 5 * 10**8
    monkeypatch.setattr("nightjar.files.free_bytes", lambda _folder: free)
    low.archive.probe()
    with pytest.raises(NightjarError) as caught:
        low.archive.notify(low.frame(1))
    assert caught.value.code is Code.NO_SPACE
    assert "500.0 MB free" in caught.value.message
    assert low.health.snapshot()["level"] == "DEGRADED"
    assert low.archive.status()["free_bytes"] == free
    free = 2 * 10**9
    low.archive.probe()
    assert low.health.snapshot()["level"] == "OK"
    assert low.take(2)["state"] == "archived"
    low.close()


def test_a_stopping_archive_takes_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    announced = bench.frame(1)
    bench.close()
    with pytest.raises(Refused) as caught:
        bench.archive.notify(announced)
    assert caught.value.code is Code.STOPPING
