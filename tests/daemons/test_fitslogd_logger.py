# SPDX-License-Identifier: BSD-3-Clause
"""A logger inside the test: when cubes and sessions begin and end, what it answers and counts."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.logging_bench import (
    PERIOD_NS,
    SHAPE,
    T0,
    Bench,
    Cube,
    Source,
    cube_paths,
    fitsverify,
    hidden,
    numbers,
    read_cubes,
    refused,
)
from nightjar.clock import ManualClock
from nightjar.errors import Busy, Code, InvalidArgument, Refused, StorageError
from nightjar.fits.frame_table import read_table
from nightjar.streams.layout import WRITE_FLAG_OFFSET, Word
from nightjar.streams.writer import StreamWriter
from nightjar.times import NS_PER_DAY
from nightjard.fitslogd.recorder import Recorder


@pytest.fixture
def source() -> Iterator[Source]:
    source = Source()
    yield source
    source.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path) as bench:
        yield bench


def stamp(number: int) -> int:
    return T0 + number * PERIOD_NS


class NoTimes:
    """In the place of what puts the times of a slice into the memory."""

    def pack_into(self, *_: object) -> None:
        return None


def reasons(cubes: list[Cube]) -> list[tuple[int, str, bool]]:
    """Return frames, reason, truncated of cubes."""
    return [
        (len(c.ids), str(c.header["CUBEEND"]), bool(c.header["TRUNCATE"])) for c in cubes
    ]


# --- ends of sessions and cubes ------------------------------------------------------------------


def test_exactly_the_frames_asked_for(source: Source, bench: Bench) -> None:
    bench.prepare(10)
    bench.start(frames=23)
    source.publish(60)
    status = bench.over()
    assert (status["frames_saved"], status["missed"], status["state"]) == (23, 0, "armed")
    cubes = read_cubes(bench.root, source.pattern)
    assert numbers(cubes) == list(range(1, 24))
    assert reasons(cubes) == [(10, "full", False), (10, "full", False), (3, "frames taken", False)]
    assert hidden(bench.root) == []


def test_exactly_the_cubes_asked_for(source: Source, bench: Bench) -> None:
    bench.prepare(7)
    bench.start(cubes=3)
    source.publish(60)
    assert bench.over()["cube_count"] == 3
    cubes = read_cubes(bench.root, source.pattern)
    assert numbers(cubes) == list(range(1, 22))
    assert reasons(cubes) == [(7, "full", False)] * 3


def test_until_a_time(source: Source, bench: Bench) -> None:
    bench.prepare(10)
    bench.start(until_ns=stamp(18))
    source.publish(30)
    bench.over()
    cubes = read_cubes(bench.root)
    assert numbers(cubes) == list(range(1, 18))  # the frame of that very time is not in it
    assert reasons(cubes)[-1] == (7, "end time", True)


def test_off_cuts_the_cube_and_says_so(source: Source, bench: Bench) -> None:
    bench.prepare(10)
    bench.start()
    source.publish(14)
    bench.saved(14)
    bench.ask("pause", not_after_ns=stamp(13))
    source.publish(1)
    bench.over()
    last = read_cubes(bench.root)[1]
    assert last.ids == [11, 12, 13, 14]  # already saved when the command came
    assert (last.header["CUBEEND"], last.header["TRUNCATE"]) == ("paused", True)
    assert last.header["FRMEXP"] == 10


def test_off_at_a_time_to_come(source: Source, bench: Bench) -> None:
    bench.prepare(10)
    bench.start()
    source.publish(4)
    bench.saved(4)
    answer = bench.ask("pause", not_after_ns=stamp(9))
    assert answer["state"] == "finishing"
    source.publish(20)
    bench.over()
    assert numbers(read_cubes(bench.root)) == list(range(1, 9))


def test_finish_fills_the_last_cube(source: Source, bench: Bench) -> None:
    bench.prepare(10)
    bench.start()
    source.publish(14)
    bench.saved(14)
    assert bench.ask("pause", finish=True)["state"] == "finishing"
    source.publish(30)
    bench.over()
    assert reasons(read_cubes(bench.root)) == [(10, "full", False)] * 2


def test_finish_between_two_cubes_ends_at_once(source: Source, bench: Bench) -> None:
    bench.prepare(10)
    bench.start()
    source.publish(10)
    bench.until("the cube is full", lambda s: s["cube_count"] == 1 and s["cube_index"] == 0)
    bench.ask("pause", finish=True)
    source.publish(1)
    bench.over()
    assert reasons(read_cubes(bench.root)) == [(10, "full", False)]


def test_off_after_finish_does_not_wait_for_the_cube(source: Source, bench: Bench) -> None:
    bench.prepare(10)
    bench.start()
    source.publish(4)
    bench.saved(4)
    bench.ask("pause", finish=True)
    bench.ask("pause", not_after_ns=stamp(5))
    source.publish(1)
    bench.over()
    assert reasons(read_cubes(bench.root)) == [(4, "paused", True)]


def test_paused_twice_the_earlier_end_holds(source: Source, bench: Bench) -> None:
    bench.prepare(10)
    bench.start()
    source.publish(3)
    bench.saved(3)
    bench.ask("pause", not_after_ns=stamp(6))
    bench.ask("pause", not_after_ns=stamp(9))
    source.publish(20)
    bench.over()
    assert numbers(read_cubes(bench.root)) == [1, 2, 3, 4, 5]
    assert bench.ask("pause")["state"] == "armed"  # a third time: nothing to do


def test_frames_lost_right_before_the_end_are_counted(source: Source, bench: Bench) -> None:
    bench.prepare(10)
    bench.start()
    source.publish(3)
    bench.saved(3)
    bench.ask("pause", not_after_ns=stamp(6))
    slot = source.writer.next_slot
    source.writer.begin(slot)
    source.writer.publish(slot, stamp(10), counter=10)  # 4 to 9 went by; 4 and 5 were wanted
    assert bench.over()["missed"] == 2
    (cube,) = read_cubes(bench.root)
    assert cube.header["NMISSED"] == 2


def test_a_pause_without_further_frames_ends_by_itself(source: Source, bench: Bench) -> None:
    bench.prepare(10)
    bench.start()
    source.publish(3)
    bench.saved(3)
    assert bench.ask("pause")["state"] == "finishing"
    bench.clock.advance(60)
    bench.over()
    assert reasons(read_cubes(bench.root)) == [(3, "paused", True)]


def test_a_pause_waits_for_frames_that_a_slow_link_brings_late(
    source: Source, bench: Bench
) -> None:
    bench.prepare(10)
    bench.start()
    source.publish(3)
    bench.saved(3)
    bench.ask("pause", not_after_ns=stamp(8))
    for number in range(4, 8):
        bench.clock.advance(1.5)
        for _ in range(2):  # between the two it looks for the end
            assert bench.ask("set", cube_frames=10)["state"] == "finishing"
        source.publish(1)
        bench.saved(number)
    source.publish(1)
    bench.over()
    assert numbers(read_cubes(bench.root)) == list(range(1, 8))


def test_the_length_changes_in_the_midst_of_a_cube(source: Source, bench: Bench) -> None:
    bench.prepare(10)
    bench.start()
    source.publish(4)
    bench.saved(4)
    bench.ask("set", cube_frames=6)
    source.publish(4)
    bench.saved(8)
    bench.ask("set", cube_frames=12)
    source.publish(12)
    bench.saved(20)
    bench.ask("set", cube_frames=1)  # fewer than it holds: it is closed as it is
    source.publish(1)
    bench.saved(21)
    bench.ask("release")
    bench.over()
    cubes = read_cubes(bench.root)
    assert numbers(cubes) == list(range(1, 22))
    assert [len(c.ids) for c in cubes] == [6, 12, 2, 1]
    assert [c.header["FRMEXP"] for c in cubes] == [6, 12, 1, 1]
    assert not any(c.header["TRUNCATE"] for c in cubes)


def test_a_shorter_length_ends_a_session_that_waits_for_its_last_cube(
    source: Source, bench: Bench
) -> None:
    bench.prepare(10)
    bench.start()
    source.publish(5)
    bench.saved(5)
    bench.ask("pause", finish=True)
    bench.ask("set", cube_frames=5)
    source.publish(5)
    bench.over()
    assert numbers(read_cubes(bench.root)) == [1, 2, 3, 4, 5]


def test_next_cube(source: Source, bench: Bench) -> None:
    bench.prepare(10)
    bench.start()
    bench.ask("set", next_cube=True)  # none is open
    source.publish(4)
    bench.saved(4)
    bench.ask("set", next_cube=True)
    source.publish(10)
    bench.saved(14)
    bench.ask("release")
    bench.over()
    cubes = read_cubes(bench.root)
    assert reasons(cubes) == [(4, "next cube", True), (10, "full", False)]
    assert [c.header["CUBE-NUM"] for c in cubes] == [1, 2]


def test_a_cube_that_is_old_enough_is_closed_even_when_no_frame_comes(
    source: Source, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_all, real = threading.Event(), Recorder.age_s.fget
    assert real is not None
    # It is not looked at how old a cube is that lacks frames: we may be held up among them.
    monkeypatch.setattr(
        Recorder, "age_s", property(lambda self: real(self) if has_all.is_set() else 0.0)
    )
    bench.prepare(10, max_cube_seconds=0.1)
    bench.start(cubes=2)
    source.publish(3)
    bench.saved(3)
    has_all.set()
    bench.until("closed", lambda s: s["cube_count"] == 1 and s["cube_index"] == 0)
    has_all.clear()
    source.publish(3)
    bench.saved(6)
    has_all.set()
    bench.over()  # and it counts as one of those asked for
    assert reasons(read_cubes(bench.root)) == [(3, "max time", True)] * 2


def test_the_next_data_type_is_that_of_the_next_cube(source: Source, bench: Bench) -> None:
    bench.prepare(2, data_type="OBJECT")
    bench.start()
    source.publish(3)
    bench.saved(3)
    bench.ask("set", data_type="DARK")
    source.publish(3)
    bench.saved(6)
    bench.ask("release")
    bench.over()
    assert [c.header["DATA-TYP"] for c in read_cubes(bench.root)] == ["OBJECT", "OBJECT", "DARK"]


# --- the start -----------------------------------------------------------------------------------


def test_two_loggers_with_a_common_start_and_end(tmp_path: Path) -> None:
    """Frames before, frames that came before the command, and frames to come: the stamps decide."""
    sources = [Source("cam1"), Source("cam2")]
    with Bench(tmp_path / "1", "cam1") as one, Bench(tmp_path / "2", "cam2") as two:
        for each in (one, two):
            each.prepare(10)
        for each in sources:
            each.publish(5)
        one.start(not_before_ns=stamp(4))
        sources[0].publish(7)
        sources[1].publish(7)  # the second camera is told later than its frame 4 came
        two.start(not_before_ns=stamp(4))
        for each in (one, two):
            each.saved(9)
            each.ask("pause", not_after_ns=stamp(15))
        for source in sources:
            source.publish(9)
        for each in (one, two):
            each.over()
        assert numbers(read_cubes(one.root)) == numbers(read_cubes(two.root)) == list(range(4, 15))
        sessions = {c.header["SESSION"] for b in (one, two) for c in read_cubes(b.root)}
        assert sessions == {"s1"}
        assert one.status()["missed"] == two.status()["missed"] == 0
    for each in sources:
        each.close()


def test_frames_in_the_ring_before_the_start_do_not_count(source: Source, bench: Bench) -> None:
    bench.prepare(10)
    source.publish(200)  # three times round the ring
    bench.start(not_before_ns=stamp(203))
    source.publish(10)
    status = bench.saved(8)
    assert status["missed"] == 0
    bench.ask("release")
    bench.over()
    assert numbers(read_cubes(bench.root)) == list(range(203, 211))


def test_start_twice_is_one_session(source: Source, bench: Bench) -> None:
    bench.prepare(10)
    bench.start(frames=10)
    source.publish(4)
    bench.saved(4)
    assert bench.start(frames=10)["state"] == "saving"
    source.publish(20)
    bench.over()
    assert bench.start(frames=10)["state"] == "armed"  # it is over: the same command, late
    source.publish(5)
    assert numbers(read_cubes(bench.root)) == list(range(1, 11))
    bench.start("s2", stamp(30), frames=2)
    source.publish(10)
    bench.over()
    assert [c.header["SESSION"] for c in read_cubes(bench.root)].count("s2") == 1


def test_commands_in_states_that_have_no_use_for_them(source: Source, bench: Bench) -> None:
    assert bench.status()["state"] == "idle"
    assert refused(bench.start).code is Code.NOT_PERMITTED
    assert isinstance(refused(lambda: bench.ask("set", cube_frames=5)), Refused)
    assert bench.ask("pause")["state"] == "idle"
    assert bench.ask("release")["state"] == "idle"
    bench.prepare(10)
    bench.prepare(10)
    bench.start()
    assert isinstance(refused(lambda: bench.prepare(10)), Busy)
    assert isinstance(refused(lambda: bench.start("s2")), Busy)
    for wrong in (0, -1, 2.5, "5", True):
        assert isinstance(
            refused(lambda wrong=wrong: bench.ask("set", cube_frames=wrong)), InvalidArgument
        )
    assert bench.ask("release")["state"] == "idle"
    assert refused(bench.start).code is Code.NOT_PERMITTED
    assert bench.cubes == []


def test_prepare_is_refused_with_the_reason(
    tmp_path: Path, source: Source, bench: Bench
) -> None:
    nowhere = tmp_path / "nowhere"
    error = refused(lambda: bench.prepare(root=str(nowhere)))
    assert isinstance(error, StorageError)
    assert str(nowhere) in error.message
    assert not nowhere.exists()
    file = tmp_path / "file"
    file.touch()
    assert isinstance(refused(lambda: bench.prepare(root=str(file))), StorageError)
    error = refused(lambda: bench.prepare(cube_frames=10**12))
    assert error.code is Code.NO_SPACE
    assert isinstance(refused(lambda: bench.prepare(root="data")), InvalidArgument)
    assert bench.status()["state"] == "idle"
    deep = tmp_path / "/".join(["d" * 60] * 4)
    deep.mkdir(parents=True)
    assert len(str(deep)) > 200
    bench.prepare(3, root=str(deep))
    bench.start(frames=3)
    source.publish(3)
    bench.over()
    assert len(read_cubes(deep)) == 1
    bench.ask("release")
    source.close()
    assert refused(bench.prepare).code is Code.UNKNOWN_ITEM


# --- streams that change -------------------------------------------------------------------------


def test_another_crop_closes_the_cube_and_goes_on(source: Source, bench: Bench) -> None:
    bench.prepare(10)
    bench.start()
    source.publish(14)
    bench.saved(14)
    source.close()
    other = Source(shape=(20, 30))
    other.publish(12)
    bench.saved(26)
    bench.ask("release")
    bench.over()
    cubes = read_cubes(bench.root)
    assert reasons(cubes)[1] == (4, "geometry", True)
    assert [c.pixels.shape[1:] for c in cubes] == [SHAPE, SHAPE, (20, 30), (20, 30)]
    assert numbers(cubes) == [*range(1, 15), *range(1, 13)]
    assert any("20x30" in note for note in bench.notes)
    other.close()


def test_frames_that_were_unread_when_the_crop_changed_are_saved(
    source: Source, bench: Bench
) -> None:
    bench.prepare(50)
    bench.start()
    source.publish(2)
    bench.saved(2)
    source.publish(30)
    source.close()
    other = Source(shape=(20, 30))
    other.publish(3)
    status = bench.saved(35)
    assert status["missed"] == 0
    bench.ask("release")
    bench.over()
    assert numbers(read_cubes(bench.root)) == [*range(1, 33), 1, 2, 3]
    other.close()


def test_another_type_of_pixels(source: Source, bench: Bench) -> None:
    bench.prepare(10)
    bench.start()
    source.publish(4)
    bench.saved(4)
    source.close()
    with StreamWriter.create("cam", SHAPE, "f4", depth=8) as writer:
        for number in range(3):
            writer.write(np.full(SHAPE, number + 0.5, "f4"), stamp(number))
        bench.saved(7)
    bench.ask("release")
    bench.over()
    paths = cube_paths(bench.root)
    assert len(paths) == 2
    pixels = [Cube(path).pixels for path in paths]
    floats = next(p for p in pixels if p.dtype.kind == "f")
    assert floats[:, 0, 0].tolist() == [0.5, 1.5, 2.5]


def test_a_stream_made_anew_with_the_same_shape(source: Source, bench: Bench) -> None:
    bench.prepare(10)
    bench.start()
    source.publish(4)
    bench.saved(4)
    again = Source()  # while the first one is still there
    again.publish(5)
    bench.saved(9)
    bench.ask("release")
    bench.over()
    cubes = read_cubes(bench.root)
    assert reasons(cubes)[0] == (4, "stream made anew", True)
    assert numbers(cubes) == [1, 2, 3, 4, 1, 2, 3, 4, 5]
    assert [c.header["NMISSED"] for c in cubes] == [0, 0]
    again.close()


def test_the_last_cube_ends_with_its_geometry(source: Source, bench: Bench) -> None:
    """There is nothing more to fill: a new crop does not begin another cube."""
    bench.prepare(10)
    bench.start()
    source.publish(4)
    bench.saved(4)
    bench.ask("pause", finish=True)
    source.close()
    other = Source(shape=(20, 30))
    other.publish(30)
    bench.over()
    assert reasons(read_cubes(bench.root)) == [(4, "geometry", True)]
    other.close()


def test_pixels_that_cannot_be_logged_are_waited_out(source: Source, bench: Bench) -> None:
    bench.prepare(10)
    bench.start()
    source.publish(4)
    bench.saved(4)
    source.close()
    strange = StreamWriter.create("cam", SHAPE, "c8", depth=8)
    strange.write(np.zeros(SHAPE, "c8"), stamp(1))
    bench.until("refused", lambda s: "complex64" in (s["warning"] or ""))
    strange.close(unlink=True)
    again = Source()
    again.publish(3)
    status = bench.saved(7)
    assert status["state"] == "saving"
    bench.until("no warning", lambda s: "complex64" not in (s["warning"] or ""))
    bench.ask("release")
    bench.over()
    assert numbers(read_cubes(bench.root)) == [1, 2, 3, 4, 1, 2, 3]
    assert sum("complex64 have no place" in note for note in bench.notes) == 1
    again.close()


def test_a_stream_that_goes_and_comes_back(source: Source, bench: Bench) -> None:
    bench.prepare(10)
    bench.start()
    source.publish(4)
    bench.saved(4)
    source.close()
    bench.until("noticed", lambda s: "removed" in (s["warning"] or ""))
    again = Source()
    again.publish(3)
    bench.saved(7)
    bench.until("gone", lambda s: "removed" not in (s["warning"] or ""))
    bench.ask("release")
    bench.over()
    again.close()


def test_a_stream_that_is_missing_at_the_start(source: Source, bench: Bench) -> None:
    bench.prepare(10)
    source.close()
    answer = bench.start()
    assert answer["state"] == "saving"
    bench.until("missed", lambda s: "no stream" in (s["warning"] or ""))
    for _ in range(12):  # the news come five times a second: told once all the same
        bench.until("more news", lambda s: True)
        time.sleep(0.05)  # lets the thread of the news have its turns
    assert ["no stream" in note for note in bench.notes] == [False, True], bench.notes
    again = Source()
    again.publish(3)
    bench.saved(3)
    bench.ask("release")
    bench.over()
    assert numbers(read_cubes(bench.root)) == [1, 2, 3]
    again.close()


# --- stamps and other writers --------------------------------------------------------------------


def test_frames_without_times_have_those_of_logging(bench: Bench) -> None:
    """Frames that lay there already may be from yesterday: they are not in the session."""
    with StreamWriter.create("cam", SHAPE, "u2", depth=16, clock=bench.clock) as writer:

        def publish(number: int) -> None:
            slot = writer.next_slot
            writer.begin(slot)
            writer.slot(slot)[:] = number
            writer.publish(slot, 0, 0)

        for number in range(1, 4):
            publish(number)
        bench.prepare(10)
        bench.start(not_before_ns=T0)
        for number in range(4, 7):
            publish(number)
        bench.saved(3)
        bench.ask("release")
        bench.over()
    (path,) = cube_paths(bench.root)
    cube = Cube(path)
    assert cube.counters == [4, 5, 6]
    assert cube.header["TIME-SRC"] == "logging"
    assert cube.header["NDUP"] == 0
    assert (cube.rows["ATIME"] == 0).all()
    assert fitsverify(path) == ""


def test_stamps_that_stand_still_are_counted_and_their_cubes_get_other_names(
    source: Source, bench: Bench
) -> None:
    """One frame a cube, all with one stamp: the same name again and again."""
    bench.prepare(1)
    bench.start(frames=12)
    source.publish(12, atime_ns=stamp(1))
    status = bench.over()
    assert (status["frames_saved"], status["duplicated"]) == (12, 11)
    assert status["error"] is None
    assert sorted(numbers(read_cubes(bench.root))) == list(range(1, 13))
    assert hidden(bench.root) == []


def test_stamps_that_are_none(source: Source, bench: Bench) -> None:
    """Words of a foreign writer that nobody set: far beyond every date."""
    bench.prepare(2)
    bench.start(not_before_ns=T0, frames=2)
    for atime_s in (2**62, 2**33):
        at = source.writer.next_slot
        source.writer._slice_atimes[2 * at] = atime_s
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("nightjar.streams.writer._TIME", NoTimes())
            source.publish(1)
    assert bench.over()["frames_saved"] == 2
    (cube,) = read_cubes(bench.root)
    assert cube.rows["ATIME"].tolist() == [0, 0]
    assert cube.header["TIME-SRC"] != "acquisition"


def test_stamps_37_seconds_ahead_are_warned_of_and_kept(bench: Bench) -> None:
    """Unless it is said that they are TAI."""
    source = Source()
    ahead = T0 + 37 * 10**9
    source.publish(1, atime_ns=ahead)
    bench.prepare(2)
    bench.until("warned", lambda s: "ahead of this machine's clock" in (s["warning"] or ""))
    bench.start(frames=2)
    source.publish(1, atime_ns=ahead + PERIOD_NS)
    bench.over()
    (cube,) = read_cubes(bench.root)
    assert int(cube.rows["ATIME"][0]) == ahead
    assert cube.header["DATE-BEG"] == "2025-06-15T15:07:17.000000000"
    assert sum("ahead" in note for note in bench.notes) == 1
    bench.prepare(2, stamps="tai")
    bench.start("s2", T0 + 20_000_000, frames=2)
    bench.until("no warning", lambda s: "ahead" not in (s["warning"] or ""))
    source.publish(1, atime_ns=ahead + 2 * PERIOD_NS)
    source.publish(1, atime_ns=ahead + 3 * PERIOD_NS)
    bench.over()
    cube = next(c for c in map(Cube, cube_paths(bench.root)) if c.header["SESSION"] == "s2")
    assert cube.rows["ATIME"].tolist() == [T0 + 2 * PERIOD_NS, T0 + 3 * PERIOD_NS]
    assert "20250615T150640.02" in cube.path.name
    source.close()


def test_stamps_behind_the_start_are_warned_of(bench: Bench) -> None:
    """Else a session would save nothing and look well."""
    source, start_ns = Source(), T0 + 3600 * 10**9
    pixels = np.zeros_like(source.writer.slot(0))
    bench.clock.advance(3610.0)
    source.writer.write(pixels, T0, bench.clock.now_ns())
    bench.prepare(2)
    bench.start(not_before_ns=start_ns, frames=1)

    def warned(state: dict[str, Any]) -> bool:
        source.writer.write(pixels, T0, bench.clock.now_ns())
        return "behind this machine's clock" in (state["warning"] or "")

    bench.until("warned", warned)
    source.writer.write(pixels, start_ns, bench.clock.now_ns())
    state = bench.over()
    assert (state["frames_saved"], state["warning"]) == (1, None)
    assert sum("behind" in note for note in bench.notes) == 1
    source.close()


def test_a_plain_stream_of_one_frame(bench: Bench) -> None:
    with StreamWriter.create("cam", SHAPE, "u2") as writer:
        bench.prepare(3)
        bench.start(not_before_ns=stamp(1))
        for number in range(1, 7):
            writer.write(np.full(SHAPE, number, "u2"), stamp(number))
            bench.saved(number)
        bench.ask("release")
        bench.over()
    paths = cube_paths(bench.root)
    assert [Cube(p).pixels[:, 0, 0].tolist() for p in paths] == [[1, 2, 3], [4, 5, 6]]
    assert [Cube(p).header["NMISSED"] for p in paths] == [0, 0]


def test_frames_that_passed_in_a_plain_stream_are_counted(bench: Bench) -> None:
    with StreamWriter.create("cam", SHAPE, "u2") as writer:
        bench.prepare(10)
        bench.start(not_before_ns=stamp(1))
        writer.write(np.full(SHAPE, 1, "u2"), stamp(1))
        bench.saved(1)
        bench.logger._requests.put(
            lambda: [writer.write(np.full(SHAPE, n, "u2"), stamp(n)) for n in range(2, 8)]
        )  # while it does something else
        bench.saved(2)
        bench.ask("release")
        bench.over()
    (path,) = cube_paths(bench.root)
    cube = Cube(path)
    assert cube.counters == [1, 7]
    assert cube.header["NMISSED"] == bench.status()["missed"] == 5
    assert cube.rows["MISSED"].tolist() == [0, 5]


def test_a_true_cube_that_is_updated_as_a_whole(bench: Bench) -> None:
    with StreamWriter.create("cam", (3, 8, 10), "i2") as writer:
        bench.prepare(2)
        bench.start(not_before_ns=stamp(1))
        for number in range(1, 5):
            writer.write(np.full((3, 8, 10), number, "i2"), stamp(number))
            bench.saved(number)
        bench.ask("release")
        bench.over()
    pixels = [Cube(p).pixels for p in cube_paths(bench.root)]
    assert [p.shape for p in pixels] == [(2, 3, 8, 10)] * 2
    assert [int(p[1, 2, 7, 9]) for p in pixels] == [2, 4]


# --- torn frames, lost frames --------------------------------------------------------------------


def test_a_frame_that_is_overwritten_while_it_is_copied_is_thrown_away(bench: Bench) -> None:
    """The writer comes round while the recorder copies: torn, counted, and not in the cube."""
    source = Source(depth=4)
    bench.prepare(10)
    bench.start()
    source.publish(3)
    bench.saved(3)
    recorder = bench.logger._recorder
    writer = recorder._cube.writer  # type: ignore[union-attr]
    append, torn = writer.append, []

    def slow(frame: Any) -> int:
        if len(torn) < 2:
            torn.append(source.publish(4))  # all round the ring
        return append(frame)

    writer.append = slow  # type: ignore[method-assign]
    source.publish(1)
    bench.until("torn", lambda s: s["torn"] >= 2)
    source.publish(1)
    last = source.publish(2)
    bench.until("all seen", lambda s: s["ring_unread"] == 0 and s["frames_saved"] > 3)
    status = bench.until("the last", lambda s: recorder.last_counter == last)
    bench.ask("release")
    bench.over()
    cubes = read_cubes(bench.root, source.pattern)
    kept = numbers(cubes)
    assert kept[:3] == [1, 2, 3]
    assert kept[-1] == last
    assert status["frames_saved"] == len(kept)
    assert status["frames_saved"] + status["missed"] + status["torn"] == last
    assert status["torn"] == 2
    assert sum(c.header["NTORN"] for c in cubes) == 2
    assert sum(c.header["NMISSED"] for c in cubes) == status["missed"]
    assert sum(int(c.rows["MISSED"].sum()) for c in cubes) == status["missed"] + status["torn"]
    source.close()


def test_what_a_full_ring_lost_is_counted_exactly(source: Source, bench: Bench) -> None:
    bench.prepare(100)
    bench.start()
    source.publish(10)
    bench.saved(10)
    bench.logger._requests.put(lambda: [source.publish(200)])  # 3 times round the ring of 64
    status = bench.until("the last", lambda s: bench.logger._recorder.last_counter == 210)
    assert status["missed"] == 200 - 64
    bench.ask("release")
    bench.over()
    (cube,) = read_cubes(bench.root)
    assert cube.header["NMISSED"] == 136
    assert cube.ids == [*range(1, 11), *range(147, 211)]


# --- keywords ------------------------------------------------------------------------------------


def test_keywords_at_both_ends_and_camera_numbers(tmp_path: Path) -> None:
    source = Source(
        keywords={"EXPTIME": (0.01, "s"), "HW-OFF": 1000, "X_FILT": "750-50", "LOOP": 1}
    )
    with Bench(tmp_path) as bench:
        bench.prepare(4)
        bench.start()
        source.publish(3)
        bench.saved(3)
        source.writer.set_keywords({"EXPTIME": 0.02, "X_FILT": "abcdefghijklmnop", "NEW": 5})
        source.publish(1)
        bench.saved(4)
        bench.ask("release")
        bench.over()
    (cube,) = read_cubes(bench.root)
    header = cube.header
    assert (header["EXPTIME"], header["EXPTIM_E"]) == (0.01, 0.02)
    assert (header["X_FILT"], header["X_FILT_E"]) == ("750-50", "abcdefghijklmnop")
    assert header["NEW_E"] == 5
    assert "LOOP_E" not in header
    assert cube.rows["HWID"].tolist() == [1001, 1002, 1003, 1004]
    assert (header["HWID-STR"], header["HWID-END"], header["NLOSTCAM"]) == (1001, 1004, 0)
    assert fitsverify(cube.path) == ""
    source.close()


@pytest.mark.parametrize("odd", [{"HW-OFF": "none"}, {"HW-OFF": float("nan")}, {"HW-OFF": 1.5}])
def test_camera_numbers_that_are_none(odd: dict[str, Any], tmp_path: Path) -> None:
    source = Source(keywords=odd)
    with Bench(tmp_path) as bench:
        bench.prepare(2)
        bench.start(frames=2)
        source.publish(2)
        bench.over()
        assert (read_table(cube_paths(bench.root)[0])["HWID"] == -1).all()
    source.close()


# --- midnight ------------------------------------------------------------------------------------


def test_the_folder_rolls_at_midnight(tmp_path: Path) -> None:
    """A cube lies in the folder of its first frame's day."""
    midnight = (T0 // NS_PER_DAY + 1) * NS_PER_DAY
    source = Source()
    clock = ManualClock(midnight - 10**9)
    with Bench(tmp_path, clock=clock) as bench:
        bench.prepare(3)
        bench.start(frames=9)
        for number in range(9):
            source.publish(1, atime_ns=midnight + (number - 5) * PERIOD_NS)
        bench.over()
        paths = sorted(path.relative_to(bench.root) for path in cube_paths(bench.root))
    assert [path.parts[0] for path in paths] == ["20250615", "20250615", "20250616"]
    assert {path.parts[1] for path in paths} == {"cam"}
    assert paths[2].name == "cam_20250616T000000.010000000.fits"
    source.close()


# --- threads and descriptors ---------------------------------------------------------------------


def test_a_logger_that_ends_closes_its_cube(source: Source, tmp_path: Path) -> None:
    with Bench(tmp_path) as bench:
        bench.prepare(10)
        bench.start()
        source.publish(4)
        bench.saved(4)
    assert reasons(read_cubes(bench.root)) == [(4, "daemon stopped", True)]
    assert bench.parent.said[-1]["event"] == "status"


def test_text_and_table_tell_the_same(source: Source, bench: Bench) -> None:
    bench.prepare(10)
    bench.start(frames=10)
    source.publish(10)
    bench.over()
    (cube,) = read_cubes(bench.root)
    text = cube.text
    assert text[:, 0].tolist() == list(range(10))
    assert np.allclose(text[:, 4] * 1e9, cube.rows["ATIME"], atol=1000, rtol=0)
    assert np.allclose(text[:, 3] * 1e9, cube.rows["LTIME"], atol=1000, rtol=0)
    assert (text[:, 5] == cube.rows["CNT0"]).all()
    assert (text[:, 6] == cube.rows["CNT1"]).all()
    # As programs for the old files read them: comments away, fixed seven columns.
    lines = cube.path.with_suffix(".txt").read_text().splitlines()
    assert sum(line.startswith("#") for line in lines) == 11
    first = lines[11]
    assert len(first.split()) == 7
    assert first.startswith("         0  ")


# --- pyMilk --------------------------------------------------------------------------------------


class MilkWriter:
    """Writes a plain stream in the order of pyMilk: it posts first, and counts last of all."""

    def __init__(self, name: str = "cam") -> None:
        self.writer = StreamWriter.create(name, SHAPE, "u2")
        self.words = self.writer._words

    def fill(self, number: int) -> None:
        """Everything but the count."""
        writer = self.writer
        writer._bytes[WRITE_FLAG_OFFSET] = 1
        writer.slot(0)[:] = number
        writer.wake()
        seconds, fraction = divmod(stamp(number), 10**9)
        self.words[Word.ACCESS_S], self.words[Word.ACCESS_NS] = seconds, fraction
        writer._bytes[WRITE_FLAG_OFFSET] = 0

    def count(self) -> None:
        self.words[Word.CNT0] += 1
        self.words[Word.CNT1] += 1


def test_a_writer_that_posts_before_it_counts(bench: Bench) -> None:
    milk = MilkWriter()
    bench.prepare(4)
    bench.start(not_before_ns=T0)
    for number in range(1, 9):
        milk.fill(number)
        milk.count()
        bench.saved(number)
    bench.ask("release")
    bench.over()
    cubes = sorted(map(Cube, cube_paths(bench.root)), key=lambda c: c.header["CUBE-NUM"])
    assert [c.pixels[:, 3, 4].tolist() for c in cubes] == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert [c.counters for c in cubes] == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert {c.header["TIME-SRC"] for c in cubes} == {"logging"}
    milk.writer.close(unlink=True)


def test_a_frame_overwritten_by_one_that_is_not_counted_yet(bench: Bench) -> None:
    """The flag is down, the count is that of the frame before, the pixels are of the next."""
    milk = MilkWriter()
    bench.prepare(10)
    bench.start(not_before_ns=T0)
    milk.fill(1)
    milk.count()
    bench.saved(1)
    writer = bench.logger._recorder._cube.writer  # type: ignore[union-attr]
    append, done = writer.append, []

    def slow(frame: Any) -> int:
        if not done:
            done.append(milk.fill(3))
        return append(frame)

    writer.append = slow  # type: ignore[method-assign]
    milk.fill(2)
    milk.count()
    bench.until("torn", lambda s: s["torn"] == 1)
    milk.count()
    bench.saved(2)
    bench.ask("release")
    bench.over()
    (path,) = cube_paths(bench.root)
    assert Cube(path).pixels[:, 0, 0].tolist() == [1, 3]
    assert Cube(path).counters == [1, 3]
    milk.writer.close(unlink=True)


# --- long exposures ------------------------------------------------------------------------------


def test_exposures_longer_than_any_patience_are_no_cubes_of_one_frame(
    source: Source, bench: Bench
) -> None:
    bench.prepare(4)
    bench.start(not_before_ns=T0)
    for number in range(1, 5):
        source.publish(1, atime_ns=bench.clock.now_ns())
        bench.saved(number)
        bench.clock.advance(100)
        if number < 4:
            bench.until("warned", lambda s: "stands still" in (s["warning"] or ""))
            assert bench.status()["cube_index"] == number
    bench.until("closed", lambda s: s["last_file"])
    (path,) = cube_paths(bench.root)
    assert (Cube(path).counters, Cube(path).header["CUBEEND"]) == ([1, 2, 3, 4], "full")
    # One trouble, told once; or not again, where it was not yet over that no frame had come.
    assert sum("stands still" in note for note in bench.notes) <= 1
