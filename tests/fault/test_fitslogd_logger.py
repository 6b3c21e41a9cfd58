# SPDX-License-Identifier: BSD-3-Clause
"""Loggers that are killed, stopped, robbed of their folder, short of room: counted, not mixed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.depth import counts
from kit.logging_bench import (
    PERIOD_NS,
    SHAPE,
    T0,
    Bench,
    Camera,
    Process,
    Source,
    cube_paths,
    fitsverify,
    hidden,
    memory_bytes,
    numbers,
    open_files,
    read_cubes,
)
from kit.site import eventually
from kit.small_disk import prove
from kit.soon import assert_soon
from nightjar.clock import ManualClock
from nightjar.fits.cube import CubeLayout, CubeWriter
from nightjar.fits.frame_table import ROW
from nightjar.fits.sink import DiskQueue
from nightjar.streams.inspect import describe
from nightjard.camd.fast.pattern import Pattern, Truth
from nightjard.fitslogd.journal import Journal, journal_name
from nightjard.fitslogd.naming import LogSettings
from nightjard.fitslogd.progress import Position, Progress
from nightjard.fitslogd.recorder import Totals

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture
def source() -> Iterator[Source]:
    source = Source(depth=256)
    yield source
    source.close()


def check_session(root: Path, status: dict[str, Any]) -> list[int]:
    """Prove all cubes of a session: each frame once, every gap counted. Return the numbers."""
    cubes = sorted(read_cubes(root), key=lambda c: c.counters[0])
    found = numbers(cubes)
    assert found == sorted(set(found)), "a frame twice, or out of order"
    gaps = found[-1] - found[0] + 1 - len(found)
    assert (status["frames_saved"], status["missed"] + status["torn"]) == (len(found), gaps)
    ends = [c.header["CUBE-NUM"] for c in cubes]
    assert ends == sorted(set(ends))
    assert hidden(root) == []
    return found


# --- killed --------------------------------------------------------------------------------------


@pytest.mark.parametrize("lives", counts(2, 8))
@pytest.mark.parametrize("fsync", [False, True])
def test_killed_again_and_again_not_a_frame_is_lost_or_doubled(
    tmp_path: Path, fsync: bool, lives: int
) -> None:
    """The ring holds 10 s: each new logger goes on where the one before it stopped."""
    rng = random.Random(3)
    root = tmp_path / "disk" if fsync else Path(os.environ["MILK_SHM_DIR"]) / "data"
    root.mkdir()
    with Camera("cam", (64, 100), 400.0, 4000) as camera:
        with Process(tmp_path, root=root) as logger:
            logger.prepare(60, fsync=fsync)
            logger.start("s1", time.time_ns())
            for _ in range(lives):
                logger.saved(logger.status()["frames_saved"] + 1)  # it is at work
                time.sleep(rng.uniform(0.05, 0.4))  # when it dies is what is tried
                logger.kill()
                logger.begin()
                logger.prepare(60, fsync=fsync)
                logger.start("s1", resume=True)
            logger.until(
                "caught up", lambda s: s["ring_unread"] < 20 and s["frames_saved"] > 200
            )
            logger.ask("pause", not_after_ns=time.time_ns())
            status = logger.over()
            recovered = [cube for cube in logger.cubes if cube["reason"] == "killed"]
        camera.stop()
    found = check_session(root, status)
    assert status["missed"] == 0
    assert len(found) > 200
    assert recovered or fsync  # a chunk of 4 MB goes to a disk at once: none was full
    if shutil.which("fitsverify"):
        assert fitsverify(*cube_paths(root)) == ""


def test_what_a_killed_logger_left_is_a_whole_cube(source: Source, tmp_path: Path) -> None:
    root = Path(os.environ["MILK_SHM_DIR"]) / "data"
    with Process(tmp_path, root=root) as logger:
        logger.prepare(10, cards={"OBSERVER": ["nobody", "who"]})
        logger.start(not_before_ns=T0)
        source.publish(17)
        logger.saved(17)
        logger.until("the first is closed", lambda s: not s["closing"])
        logger.kill()
        assert len(hidden(root)) == 2
        logger.begin()
        first, last = read_cubes(root, source.pattern)
        assert (first.ids, last.ids) == (list(range(1, 11)), list(range(11, 18)))
        assert (last.header["CUBEEND"], last.header["TRUNCATE"]) == ("killed", True)
        assert (last.header["SESSION"], last.header["CUBE-NUM"]) == ("s1", 2)
        assert last.header["OBSERVER"] == "nobody"
        assert [(c["frames"], c["reason"]) for c in logger.cubes[-1:]] == [(7, "killed")]
        assert hidden(root) == []


def test_a_session_that_was_over_when_its_logger_died_is_not_gone_on_with(
    source: Source, tmp_path: Path
) -> None:
    with Process(tmp_path) as logger:
        logger.prepare(10)
        logger.start("s1", T0, frames=15)
        source.publish(30)
        logger.over()
        logger.kill()
        logger.begin()
        logger.prepare(10)
        answer = logger.start("s1", T0, frames=15, resume=True)
        assert (answer["state"], answer["last_session"]) == ("armed", "s1")
        assert answer["frames_saved"] == 15
        source.publish(5)
        logger.start("s2", T0 + 36 * PERIOD_NS, frames=1)
        source.publish(1)
        logger.over()
    assert numbers(c for c in read_cubes(tmp_path) if c.header["SESSION"] == "s1") == list(
        range(1, 16)
    )


def test_limits_hold_over_a_kill(source: Source, tmp_path: Path) -> None:
    root = Path(os.environ["MILK_SHM_DIR"]) / "data"
    with Process(tmp_path, root=root) as logger:
        logger.prepare(10)
        logger.start("s1", T0, frames=23)
        source.publish(14)
        logger.saved(14)
        logger.kill()
        source.publish(20)
        logger.begin()
        logger.prepare(10)
        logger.start("s1", T0, frames=23, resume=True)
        status = logger.over()
    assert check_session(root, status) == list(range(1, 24))


class Leftovers:
    """What a dead logger leaves, made by hand: journals, unfinished files, a position."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "data"
        self.cubes = self.root / "20250615" / "cam"
        self.state = folder / "state"
        for each in (self.cubes, self.state):
            each.mkdir(parents=True)
        self.settings = LogSettings.parse({"root": str(self.root), "cube_frames": 10})

    def cube(self, number: int, counters: list[int], whole: int, *, stream: str = "cam",
             session: str = "s1") -> Path:  # fmt: skip
        """A cube whose journal tells of `counters`, `whole` of which are in its file."""
        pattern = Pattern(SHAPE)
        layout = CubeLayout.make(SHAPE, "u2", 200)
        final = self.cubes / f"{stream}_{number}.fits"
        pid = 2**22 + 1  # nobody's
        head = {
            "final": str(final), "pid": pid, "stream": stream, "session": session,
            "number": number, "expected": 10, "compress": False, "shape": list(SHAPE),
            "dtype": "<u2", "header_bytes": layout.header_bytes, "keywords": {},
            "settings": {**vars(self.settings)}, "identity": [7, 8],
        }  # fmt: skip
        journal = Journal(final, head)
        disk = DiskQueue(1, 1 << 16)
        path = final.with_name(f".{final.name}.{pid}.tmp")
        writer = CubeWriter(path, layout, disk)
        before = counters[0] - 1 if counters else 0
        for index, counter in enumerate(counters):
            frame = pattern.image(counter).copy()
            pattern.stamp(frame, Truth(counter, T0))
            row = np.zeros(1, ROW)
            row["CNT0"], row["ATIME"], row["LTIME"] = counter, T0 + counter, T0 + counter
            row["MISSED"] = counter - before - 1
            before = counter
            if index < whole:
                row["DATASUM"] = writer.append(frame)
            else:
                row["DATASUM"] = 5
            journal.write(row.tobytes())
        writer._sink.flush()
        writer.close()
        disk.stop()
        journal.close()
        target = journal_name(final, pid)
        journal.path.rename(target)
        return target

    def position(self, number: int, saved: int, counter: int, missed: int = 0) -> None:
        totals = Totals(saved=saved, missed=missed)
        self.progress().save("s1", Position(number, totals, counter, [7, 8]))

    def progress(self) -> Progress:
        progress = Progress(self.state, "cam", ManualClock(T0))
        progress.load()
        return progress


@pytest.fixture
def left(tmp_path: Path) -> Leftovers:
    return Leftovers(tmp_path)


def told(position: Position | None) -> tuple[int, int, int, int | None]:
    assert position is not None
    return position.number, position.totals.saved, position.totals.missed, position.counter


def test_position_behind_a_cube_that_was_open(left: Leftovers) -> None:
    left.position(2, 20, 20)
    left.cube(3, [21, 22, 25, 26, 27], 4)
    progress = left.progress()
    (cube,) = progress.recover(left.root)
    assert (cube["frames"], cube["missed"], cube["last_counter"]) == (4, 2, 26)
    assert told(progress.position("s1")) == (3, 24, 2, 26)
    assert progress.position("s2") is None
    assert told(left.progress().position("s1")) == (3, 24, 2, 26)  # the next one knows it, too
    assert hidden(left.root) == []


def test_position_behind_a_cube_whose_end_did_not_reach_the_disk(left: Leftovers) -> None:
    """It was counted already; the cube after it has no frame on the disk: both are read again."""
    left.position(3, 30, 30)
    left.cube(3, list(range(21, 31)), 6)
    left.cube(4, [31, 32], 0)
    progress = left.progress()
    progress.recover(left.root)
    assert told(progress.position("s1")) == (3, 26, 0, 26)


def test_position_where_frames_are_saved_behind_a_gap(left: Leftovers) -> None:
    left.position(3, 30, 30)
    left.cube(3, list(range(21, 31)), 6)
    left.cube(4, [31, 32], 2)
    progress = left.progress()
    progress.recover(left.root)
    assert told(progress.position("s1")) == (4, 28, 4, 32)


def test_position_of_a_cube_that_failed_long_before(left: Leftovers) -> None:
    left.position(5, 50, 50)
    left.cube(3, list(range(21, 31)), 6)
    progress = left.progress()
    progress.recover(left.root)
    assert told(progress.position("s1")) == (5, 46, 4, 50)


def test_a_recovery_that_is_killed_is_done_again_and_counts_once(left: Leftovers) -> None:
    left.position(2, 20, 20)
    journal = left.cube(3, [21, 22, 23], 2)
    copy = journal.read_bytes()
    progress = left.progress()
    progress.recover(left.root)
    journal.write_bytes(copy)  # killed before it was removed
    again = left.progress()
    again.recover(left.root)
    assert told(again.position("s1")) == told(progress.position("s1")) == (3, 22, 0, 22)
    assert len(cube_paths(left.root)) == 1


def test_leftovers_of_a_stream_whose_name_begins_alike(left: Leftovers) -> None:
    left.position(2, 20, 20)
    journal = left.cube(3, [21, 22], 2, stream="cam_raw")
    progress = left.progress()
    assert progress.recover(left.root) == []
    assert told(progress.position("s1")) == (2, 20, 0, 20)
    assert journal.exists()


@pytest.mark.parametrize(
    "damage", [b"", b"NJ", b"nonsense" * 20, b"NJCUBE01" + (50).to_bytes(8, "little") + b"{}",
               b"NJCUBE01" + (2).to_bytes(8, "little") + b"{}"],
)  # fmt: skip
def test_a_damaged_journal_keeps_no_logger_down(left: Leftovers, damage: bytes) -> None:
    left.position(2, 20, 20)
    (left.cubes / ".cam_1.fits.rows.77.tmp").write_bytes(damage)
    left.cube(3, [21, 22], 2)
    (left.cubes / ".cam_1.fits.77.tmp").write_bytes(b"pixels")
    progress = left.progress()
    assert len(progress.recover(left.root)) == 1
    assert (left.cubes / ".cam_1.fits.77.tmp").exists()  # nothing is thrown away


def test_a_damaged_position_is_none(left: Leftovers) -> None:
    (left.state / "cam.progress.json").write_text('{"session": "s1", "number"')
    assert left.progress().position("s1") is None


def test_only_one_logger_of_a_stream_at_a_time(source: Source, tmp_path: Path) -> None:
    """The daemon died while a disk held its logger up: the next one waits for that one's end."""
    with Bench(tmp_path) as first:
        first.prepare(10)
        first.start()
        source.publish(4)
        first.saved(4)
        second = Bench.__new__(Bench)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("kit.logging_bench.READY_S", 0.3)
            with pytest.raises(AssertionError):
                second.__init__(tmp_path)  # type: ignore[misc]
        eventually(lambda: any("another" in note for note in second.notes), what="says why")
    assert second.parent.ready.wait(15)
    second.prepare(10)
    second.start(resume=True, frames=10)
    source.publish(6)
    status = second.over()
    second.close()
    assert check_session(first.root, status) == list(range(1, 11))


# --- stopped -------------------------------------------------------------------------------------


def test_a_logger_stopped_for_less_than_the_ring_loses_nothing(tmp_path: Path) -> None:
    with Camera("cam", (64, 100), 400.0, 4000) as camera, Process(tmp_path) as logger:
        stop_for(logger, 200)
        status = end(logger)
        camera.stop()
    assert len(check_session(tmp_path / "data", status)) > 200
    assert (status["missed"], status["torn"]) == (0, 0)


def test_a_logger_stopped_for_longer_than_the_ring_counts_what_it_lost(tmp_path: Path) -> None:
    with Camera("cam", (64, 100), 400.0, 600) as camera, Process(tmp_path) as logger:
        came = stop_for(logger, 720)
        status = end(logger)
        camera.stop()
    check_session(tmp_path / "data", status)
    assert 100 <= status["missed"] + status["torn"] <= came


def stop_for(logger: Process, frames: int) -> int:
    """Stop one that saves while so many frames come; return how many came till it caught up."""
    logger.prepare(50)
    logger.start("s1", time.time_ns())
    logger.saved(50)
    before = describe("cam").counter
    os.kill(logger.pid, signal.SIGSTOP)
    try:
        last = describe("cam").counter + frames
        eventually(lambda: describe("cam").counter >= last, what=f"{frames} frames come")
    finally:
        os.kill(logger.pid, signal.SIGCONT)
    logger.until("caught up", lambda s: s["ring_unread"] < 10)
    return describe("cam").counter - before


def end(logger: Process) -> dict[str, Any]:
    logger.ask("pause", not_after_ns=time.time_ns())
    return logger.over()


def test_commands_are_answered_while_the_disk_stands_still(
    source: Source, tmp_path: Path
) -> None:
    with Bench(tmp_path) as bench:
        bench.prepare(10)
        bench.start()
        source.publish(3)
        bench.saved(3)
        entered, gate = bench.stall()
        source.publish(4)
        assert entered.wait(10)
        before = len(bench.heard)
        for command in ("pause", "set", "release", "status"):

            def ask(command: str = command) -> tuple[float, str]:
                began = time.monotonic()
                answer = bench.ask(command)
                assert command == "status" or answer["pending"] is True
                return time.monotonic() - began, command

            assert_soon(ask, 1.0, tries=5)  # REPLY of 0.06 s, on a loaded machine
        with pytest.raises(AssertionError, match="not within"):
            bench.until("nothing", lambda s: s["state"] == "idle", 0.3)
        eventually(lambda: len(bench.heard) > before, what="news all the same")
        gate.set()
        bench.until("all done", lambda s: s["state"] == "idle" and not s["closing"])
    assert numbers(read_cubes(bench.root))[:3] == [1, 2, 3]


def test_what_fails_after_its_caller_has_gone_is_told(source: Source, tmp_path: Path) -> None:
    with Bench(tmp_path) as bench:
        bench.prepare(10)
        gate = bench.stall_main()
        answer = bench.ask("start", session="s1", not_before_ns=0, frames=10**12)
        assert answer["pending"] is True
        gate.set()
        bench.until("told", lambda s: "not enough room" in (s["error"] or ""))
        eventually(
            lambda: any(note.startswith("error: a command failed") for note in bench.notes)
        )
        assert bench.status()["state"] == "armed"


# --- the disk ------------------------------------------------------------------------------------


@pytest.mark.needs("unshare")
def test_a_full_disk_and_a_read_only_one(tmp_path: Path) -> None:
    disk, base = tmp_path / "disk", tmp_path / "base"
    disk.mkdir()
    base.mkdir()
    prove("logging_full_disk", disk, base)


def wait_for_error(bench: Bench, text: str) -> None:
    """Wait until an error was told, and it saves again: soon, so that the state may be missed."""
    bench.until("error", lambda _: any(n.startswith("error") and text in n for n in bench.notes))
    bench.until("goes on", lambda _: any("is being logged again" in n for n in bench.notes))


def test_the_folder_is_removed_in_the_midst_of_a_cube(source: Source, tmp_path: Path) -> None:
    """Its frames are gone and counted as missed; the folder is made again, the session goes on."""
    with Bench(tmp_path) as bench:
        bench.prepare(10)
        bench.start()
        source.publish(14)
        bench.saved(14)
        bench.until("the first is closed", lambda s: not s["closing"])
        shutil.rmtree(bench.root / "20250615")
        source.publish(6)
        wait_for_error(bench, "gone")
        source.publish(3)
        status = bench.saved(13)
        bench.ask("release")
        status = bench.over()
    assert numbers(read_cubes(bench.root)) == [21, 22, 23]
    assert (status["frames_saved"], status["missed"]) == (13, 10)  # 1 to 10 were in their place


def test_the_root_is_removed_and_not_made_anew(source: Source, tmp_path: Path) -> None:
    """It may be where a disk was mounted: nothing is written into the folder below it."""
    with Bench(tmp_path) as bench:
        bench.prepare(10)
        bench.start()
        source.publish(10)
        bench.until("the first is closed", lambda s: s["last_file"] and not s["closing"])
        shutil.rmtree(bench.root)
        source.publish(3)
        status = bench.until("error", lambda s: s["state"] == "error")
        assert str(bench.root) in status["error"]
        assert not bench.root.exists()
        bench.ask("pause")
        bench.until("paused", lambda s: s["state"] == "armed")


def test_a_cube_that_cannot_be_closed_is_closed_later(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [1]

    def give_name(*arguments: Any) -> Any:
        if failures:
            failures.pop()
            raise OSError(5, "Input/output error")
        return real(*arguments)

    from nightjard.fitslogd import recorder

    real = recorder.give_name
    monkeypatch.setattr(recorder, "give_name", give_name)
    with Bench(tmp_path) as bench:
        bench.prepare(10)
        bench.start()
        source.publish(10)
        wait_for_error(bench, "Input/output error")
        source.publish(10)
        bench.until("both are closed", lambda s: len(bench.cubes) == 2)
        status = bench.status()
        assert (status["state"], status["error"]) == ("saving", None)
        bench.ask("release")
        status = bench.over()
    assert check_session(bench.root, status) == list(range(1, 21))
    assert sum(note.startswith("error") for note in bench.notes) == 1


def test_a_text_that_cannot_be_written_costs_no_cube(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nightjard.fitslogd import recorder

    def write_text(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(recorder, "write_text", write_text)
        with Bench(tmp_path) as bench:
            bench.prepare(10)
            bench.start(frames=10)
            source.publish(10)
            bench.over()
            assert [cube["frames"] for cube in bench.cubes] == [10]
            assert not list(bench.root.rglob("*.txt"))
    with Bench(tmp_path) as bench:
        assert check_session(bench.root, {"frames_saved": 10, "missed": 0, "torn": 0})


def test_a_journal_is_never_half_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path / "a.fits", {"final": "a.fits"})
    journal.write(b"x" * 56)
    size = journal.path.stat().st_size
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:20]))
    with pytest.raises(OSError, match="No space"):
        journal.write(b"y" * 56)
    assert journal.path.stat().st_size == size
    monkeypatch.undo()
    journal.write(b"z" * 56)
    assert journal.path.read_bytes().endswith(b"x" * 56 + b"z" * 56)
    journal.remove()


def test_little_space_ends_the_cube_before_the_disk_is_full(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nightjard.fitslogd import logger, preflight

    free = [10**9]
    for module in (logger, preflight):
        monkeypatch.setattr(module, "free_bytes", lambda _folder: free[0])
    with Bench(tmp_path) as bench:
        bench.prepare(10, minimum_free_bytes=10**6)
        bench.start()
        source.publish(4)
        bench.saved(4)
        free[0] = 10**5
        status = bench.until("error", lambda s: s["state"] == "error")
        assert "kept free" in status["error"]
        source.publish(4)
        free[0] = 10**9
        bench.saved(8)
        bench.ask("release")
        status = bench.over()
    assert check_session(bench.root, status) == list(range(1, 9))
    assert status["missed"] == 0  # they waited in the ring


# --- for a long time -----------------------------------------------------------------------------


def test_cubes_and_crops_without_end_leave_nothing_behind(tmp_path: Path) -> None:
    source = Source()
    with Process(tmp_path) as logger:
        logger.prepare(1)
        logger.start(not_before_ns=T0)

        def run(cubes: int) -> None:
            for _ in range(cubes // 20):
                begun = logger.status()["frames_saved"]
                source.publish(20)
                logger.saved(begun + 20)

        run(60)
        logger.until("closed", lambda s: not s["closing"])
        files, memory = open_files(logger.pid), memory_bytes(logger.pid)
        threads = len(os.listdir(f"/proc/{logger.pid}/task"))
        run(100)
        for number in range(10):
            source.close()
            source = Source(shape=(40 + number, 64), depth=256)
            begun = logger.status()["frames_saved"]
            source.publish(2)
            logger.saved(begun + 2)
        logger.until("closed", lambda s: not s["closing"])
        assert open_files(logger.pid) <= files + 1
        assert len(os.listdir(f"/proc/{logger.pid}/task")) <= threads
        assert memory_bytes(logger.pid) < memory + 8_000_000
        maps = Path(f"/proc/{logger.pid}/maps").read_text()
        assert maps.count("cam.im.shm (deleted)") <= 1
        logger.ask("release")
        logger.over()
    source.close()


def test_a_daemon_that_dies_has_its_cube_closed(source: Source, tmp_path: Path) -> None:
    """Only the end of its channel tells the logger."""
    logger = Process(tmp_path)
    logger.prepare(10)
    logger.start(not_before_ns=T0)
    source.publish(4)
    logger.saved(4)
    assert logger.child._lines is not None
    logger.child._lines.close()
    assert logger.ended.wait(20)
    (cube,) = read_cubes(logger.root, source.pattern)
    assert (cube.ids, cube.header["CUBEEND"]) == ([1, 2, 3, 4], "daemon stopped")
    assert json.loads((logger.state / "cam.progress.json").read_text())["is_over"] is False
