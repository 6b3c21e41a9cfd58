# SPDX-License-Identifier: BSD-3-Clause
"""The archive when its disk is full, gone or read-only, and when its database does not answer."""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kit.archive_frames import NIGHT, Bench, quick_folder
from kit.small_disk import prove
from nightjar import files
from nightjar.errors import Code, NightjarError, StorageError
from nightjar.fits.verify import verify_image
from nightjard.archived.layout import IDENTITY_NAME
from nightjard.archived.store import Store

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench(quick_folder())
    yield made
    made.close()


def is_intact(bench: Bench, key: str) -> bool:
    frame = bench.archive.catalog.show(key)
    return frame["state"] == "archived" and verify_image(Path(frame["path"])).is_good


@pytest.mark.needs("unshare")
def test_a_real_disk_that_is_full_then_read_only(tmp_path: Path) -> None:
    disk, base = tmp_path / "disk", tmp_path / "base"
    disk.mkdir()
    base.mkdir()
    prove("archive_full_disk", disk, base)


def test_no_space_for_the_copy_leaves_everything_as_it_was(tmp_path: Path) -> None:
    incoming = Path(os.environ["MILK_SHM_DIR"]) / "incoming"
    bench = Bench(tmp_path, incoming_data_path=str(incoming))
    if incoming.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("both folders are on one file system here")
    announced = bench.frame(1, shape=(1500, 1000))
    bench.archive.notify(announced)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, hard))  # the database is smaller
    try:
        bench.work()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert bench.files() == []
    assert bench.archive.status()["state"] == "BLOCKED"
    bench.clock.advance(2)
    bench.work()
    assert is_intact(bench, announced.key)
    bench.close()


def test_a_root_that_vanishes_is_waited_for(bench: Bench) -> None:
    first = bench.take(1)
    away = bench.root.rename(bench.base / "away")
    accepted = [bench.frame(number) for number in (2, 3)]
    for announced in accepted:
        assert bench.archive.notify(announced)["state"] == "accepted"
    bench.archive.probe()
    pauses = []
    for _ in range(6):
        assert bench.work() == 1  # one frame finds out for all
        pauses.append(0)
        while not bench.archive._backlog.take():
            bench.clock.advance(1)
            pauses[-1] += 1
        bench.archive._backlog._waiting[2].is_taken = False
        bench.archive._backlog._blocked_until_ns = 0
    assert pauses == [1, 2, 4, 8, 16, 32]
    status = bench.archive.status()
    assert (status["state"], status["summary"], status["free_bytes"]) == ("BLOCKED", "FAULT", None)
    assert status["health"]["level"] == "DEGRADED"
    assert "is gone" in status["health"]["reason"]
    assert not bench.root.exists()  # it is never made again somewhere else
    assert sorted(os.listdir(bench.incoming)) == sorted(a.filename for a in accepted)
    late = bench.frame(4)
    assert bench.archive.notify(late)["state"] == "accepted"
    away.rename(bench.root)
    bench.archive.probe()
    assert bench.work() == 3
    assert all(is_intact(bench, a.key) for a in (*accepted, late))
    assert Path(first["path"]).exists()
    assert bench.archive.status()["health"]["level"] == "OK"
    assert bench.archive.status()["state"] == "IDLE"


def test_a_disk_that_is_not_mounted_is_not_written_to(bench: Bench) -> None:
    away = bench.root.rename(bench.base / "away")
    bench.root.mkdir()  # the empty mount point
    announced = bench.frame(1)
    bench.archive.notify(announced)
    bench.work()
    bench.archive.probe()
    assert os.listdir(bench.root) == []
    assert "no identity file (is its disk mounted?)" in bench.health.snapshot()["reason"]
    # A restart changes nothing: the database knows what the root must be.
    again = Bench(bench.base)
    again.work()
    assert os.listdir(bench.root) == []
    again.close()
    bench.root.rmdir()
    away.rename(bench.root)
    bench.archive.probe()
    bench.work()
    assert is_intact(bench, announced.key)


def test_a_root_that_was_emptied_on_purpose_is_adopted(bench: Bench) -> None:
    shutil.rmtree(bench.root)
    announced = bench.frame(1)
    bench.archive.notify(announced)
    bench.work()
    assert bench.archive.status()["state"] == "BLOCKED"
    bench.archive.adopt_root("ctrl")
    bench.work()
    assert is_intact(bench, announced.key)
    (bench.root / IDENTITY_NAME).write_text('{"archive": "another"}')
    bench.archive.probe()
    assert "is another archive" in bench.health.snapshot()["reason"]


def test_a_root_whose_parent_is_missing_is_not_made(tmp_path: Path) -> None:
    root = tmp_path / "mnt" / "archive"
    bench = Bench(tmp_path, root=str(root))
    assert bench.health.snapshot()["level"] == "DEGRADED"
    announced = bench.frame(1)
    bench.archive.notify(announced)
    bench.work()
    assert not root.parent.exists()
    root.parent.mkdir()
    bench.archive.probe()
    bench.work()
    assert is_intact(bench, announced.key)
    bench.close()


def test_an_incoming_folder_that_vanishes_loses_nothing(bench: Bench) -> None:
    announced = bench.frame(1)
    bench.archive.notify(announced)
    away = bench.incoming.rename(bench.base / "away")
    bench.work()
    bench.archive.probe()
    assert bench.archive.catalog.show(announced.key)["state"] == "accepted"
    assert "does not exist" in bench.health.snapshot()["reason"] or bench.health.snapshot()["parts"]
    away.rename(bench.incoming)
    bench.clock.advance(2)
    bench.archive.probe()
    assert bench.work() == 1
    assert is_intact(bench, announced.key)
    assert bench.health.snapshot()["level"] == "OK"


def test_one_frame_that_cannot_be_read_does_not_hold_up_the_others(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = bench.frame(1), bench.frame(2)
    bench.archive.notify(bad)
    bench.archive.notify(good)
    real = os.open

    def broken(path: object, *arguments: int, **named: int) -> int:
        if str(path).endswith(bad.filename):
            raise OSError(5, "Input/output error")
        return real(path, *arguments, **named)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", broken)
        assert bench.work() == 2
    assert is_intact(bench, good.key)
    waiting = bench.archive.catalog.show(bad.key)
    assert (waiting["state"], waiting["attempts"]) == ("accepted", 1)
    assert "Input/output error" in waiting["last_error"]
    assert "1 frames cannot be moved" in bench.health.snapshot()["reason"]
    assert bench.work() == 0
    assert bench.archive.retry([])["waiting"] == 1  # a person need not wait for the pause
    assert bench.work() == 1
    assert is_intact(bench, bad.key)
    assert bench.health.snapshot()["level"] == "OK"


def test_a_bug_in_one_step_is_reported_and_the_frame_kept(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    announced = bench.frame(1)
    bench.archive.notify(announced)
    with monkeypatch.context() as patch:
        patch.setattr("nightjard.archived.steps.verify_image", lambda _path: 1 / 0)
        assert bench.work() == 1
    assert "division by zero" in bench.archive.catalog.show(announced.key)["last_error"]
    bench.clock.advance(2)
    assert bench.work() == 1
    assert is_intact(bench, announced.key)


def test_a_database_that_is_locked_accepts_nothing_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nightjard.archived.database.TIMEOUT_S", 0.1)
    bench = Bench(tmp_path)
    announced = bench.frame(1)
    with closing(sqlite3.connect(tmp_path / "archive.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match=r"database.*locked"):
            bench.archive.notify(announced)
        assert bench.store.accepted() == []
        assert bench.archive.status()["waiting"] == 0
        other.execute("ROLLBACK")
    assert bench.archive.notify(announced)["state"] == "accepted"
    bench.work()
    assert is_intact(bench, announced.key)
    bench.close()


def test_a_database_that_fails_after_the_move_is_made_up_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    announced = bench.frame(1)
    bench.archive.notify(announced)
    real = Store.update

    def failing(store: Store, identity: int, kind: str, *rest: object, **named: object) -> object:
        if kind in ("archived", "failed"):
            raise StorageError("database: disk I/O error")
        return real(store, identity, kind, *rest, **named)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Store, "update", failing)
        bench.work()
    assert bench.files() == [f"{NIGHT}/TEST/{announced.filename}"]
    assert os.listdir(bench.incoming) == []
    assert bench.archive.catalog.show(announced.key)["state"] == "accepted"
    bench.clock.advance(2)
    assert bench.work() == 1
    assert is_intact(bench, announced.key)


def test_a_disk_full_of_the_database_is_told_as_such(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", full)
        with pytest.raises(NightjarError, match="No space left") as caught:
            bench.archive.notify(bench.frame(1))
    assert caught.value.code in (Code.NO_SPACE, Code.STORAGE_FAILED)


def test_a_header_torn_by_a_crash_is_written_again(bench: Bench) -> None:
    bench.archive.set_settings({"object": "M 31"}, "test")
    announced = bench.frame(1)
    bench.archive.notify(announced)
    row = bench.store.accepted()[0]
    planned = bench.archive._steps._verify(row)
    assert planned.new_header is not None
    path = bench.incoming / announced.filename
    with open(path, "r+b") as file:  # a power cut in the middle of it
        file.write(planned.new_header[:1000] + bytes(1000))
    again = Bench(bench.base)
    again.work()
    assert is_intact(again, announced.key)
    again.close()


def test_pixels_that_change_between_plan_and_move_go_to_quarantine(bench: Bench) -> None:
    announced = bench.frame(1)
    bench.archive.notify(announced)
    bench.archive._steps._verify(bench.store.accepted()[0])
    path = bench.incoming / announced.filename
    content = bytearray(path.read_bytes())
    content[-3000] ^= 1
    path.write_bytes(content)
    again = Bench(bench.base)
    again.work()
    frame = again.archive.catalog.show(announced.key)
    assert frame["state"] == "quarantined"
    assert Path(frame["path"]).read_bytes() == bytes(content)
    again.close()




def test_a_disk_that_does_not_answer_is_said_and_status_still_answers(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    announced = bench.frame(1)
    hung, over = threading.Event(), threading.Event()
    real = files.free_bytes

    def hang(folder: Path) -> int:
        hung.set()
        over.wait(20)
        return real(folder)

    with monkeypatch.context() as patch:
        patch.setattr(files, "free_bytes", hang)
        thread = threading.Thread(target=bench.archive._probe_loop)
        thread.start()
        try:
            for _ in range(1000):
                bench.clock.advance(1)  # the loop begins its look when it waits already
                if hung.wait(0.01):
                    break
            assert hung.is_set()
            bench.clock.advance(11)
            bench.archive.check_probe()
            assert "has not answered for" in bench.archive.status()["health"]["reason"]
            assert bench.archive.notify(announced)["state"] == "accepted"
        finally:
            bench.archive._stopping.set()
            over.set()
            thread.join(10)
    bench.archive.check_probe()
    assert bench.health.snapshot()["level"] == "OK"
