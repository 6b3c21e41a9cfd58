# SPDX-License-Identifier: BSD-3-Clause
"""The writing end: protocol of a frame, take-over, permissions, refusals."""

import errno
import os
import resource
import struct
import subprocess
import sys

import numpy as np
import pytest

from nightjar.clock import ManualClock
from nightjar.errors import Code, ConfigError, InvalidArgument, Refused, StorageError
from nightjar.streams import allocate
from nightjar.streams.layout import NO_FRAME
from nightjar.streams.reader import StreamReader
from nightjar.streams.writer import StreamWriter


def ring(name="ring", depth=3, shape=(4, 5), **options):
    return StreamWriter.create(name, shape, "u2", depth=depth, **options)


def field(writer, offset, form):
    (value,) = struct.unpack_from(form, writer.path.read_bytes(), offset)
    return value


def image(value, shape=(4, 5)):
    return np.full(shape, value, "u2")


def test_slots_go_round_and_the_counters_follow():
    with ring() as writer:
        assert (writer.next_slot, writer.counter, field(writer, 272, "<Q")) == (0, 0, 2)
        slots = []
        for number in range(1, 8):
            slots.append(writer.next_slot)
            assert writer.write(image(number), number) == number
        assert slots == [0, 1, 2, 0, 1, 2, 0]
        assert [writer.slot_counter(i) for i in range(3)] == [7, 5, 6]
        assert [int(writer.slot(i)[0, 0]) for i in range(3)] == [7, 5, 6]
        assert (field(writer, 264, "<Q"), field(writer, 272, "<Q")) == (7, 0)


def test_write_flag_is_up_from_begin_to_publish():
    with ring() as writer:
        writer.begin(0)
        assert field(writer, 288, "<B") == 1
        assert writer.begun_slot == 0
        writer.publish(0, 1)
        assert field(writer, 288, "<B") == 0
        assert writer.begun_slot is None


def test_begin_invalidates_the_frame_that_was_in_the_slot():
    with ring() as writer:
        for number in range(3):
            writer.write(image(number), 1)
        assert writer.slot_counter(0) == 1
        writer.begin(0)
        assert writer.slot_counter(0) == 0
        assert writer.slot_counter(1) == 2


def test_abandoned_frame_is_not_counted_and_its_slot_comes_next():
    with ring() as writer:
        writer.write(image(1), 1)
        writer.begin(1)
        writer.slot(1)[:] = 99
        writer.abandon(1)
        assert (writer.counter, writer.next_slot, field(writer, 288, "<B")) == (1, 1, 0)
        assert writer.write(image(2), 2) == 2
        assert writer.slot_counter(1) == 2


def test_frame_protocol_misuse_is_refused():
    with ring() as writer:
        with pytest.raises(Refused, match="not the next"):
            writer.begin(1)
        with pytest.raises(Refused, match="not begun"):
            writer.publish(0, 1)
        with pytest.raises(Refused, match="not begun"):
            writer.abandon(0)
        writer.begin(0)
        with pytest.raises(Refused, match="is begun"):
            writer.begin(0)
        with pytest.raises(Refused, match="is begun"):
            writer.write(image(1), 1)
        with pytest.raises(Refused, match="is begun"):
            writer.blank()
        with pytest.raises(InvalidArgument, match="slots 0 to 2"):
            writer.slot(3)
        with pytest.raises(InvalidArgument, match="slots 0 to 2"):
            writer.slot_offset(-1)
    with pytest.raises(Refused, match="closed"):
        writer.begin(0)
    with pytest.raises(Refused, match="closed"):
        writer.set_keyword("A", 1)


@pytest.mark.parametrize(
    "wrong", [np.zeros((5, 4), "u2"), np.zeros((4, 5), "i2"), np.zeros((4, 5)), np.zeros(20, "u2")]
)
def test_wrong_frame_is_refused_before_anything_is_touched(wrong):
    with ring() as writer:
        writer.write(image(7), 1)
        before = writer.path.read_bytes()
        with pytest.raises(InvalidArgument, match="takes"):
            writer.write(wrong, 2)
        assert writer.path.read_bytes() == before


def test_plain_stream_holds_one_frame():
    with StreamWriter.create("plain", (4, 5), "f4") as writer:
        for number in (1, 2):
            assert writer.write(np.full((4, 5), number, "f4"), 10**9 + number) == number
        assert field(writer, 112, "<B") == 2
        assert field(writer, 144, "<Q") == 2
        assert field(writer, 192, "<q") == 2  # nanoseconds of atime
        writer.begin(0)
        with pytest.raises(Refused, match="one frame"):
            writer.abandon(0)


def test_semaphores_hold_ten_pending_ticks_at_most():
    with ring() as writer:
        values = []
        for number in range(12):
            writer.write(image(number), 1)
            start = writer.geometry.offsets().semaphores
            data = writer.path.read_bytes()
            values.append({data[start + 32 * index] for index in range(10)})
        assert values == [{n} for n in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 10)]


def test_another_process_fills_the_slot():
    script = """if True:
        import mmap, sys
        path, offset, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
        with open(path, "r+b") as file:
            mapping = mmap.mmap(file.fileno(), 0)
        mapping[offset:offset + count] = bytes(range(count))
    """
    with ring() as writer, StreamReader(writer.path) as reader:
        writer.write(image(1), 1)
        slot = writer.next_slot
        writer.begin(slot)
        arguments = [str(writer.path), str(writer.slot_offset(slot)), "40"]
        subprocess.run([sys.executable, "-c", script, *arguments], check=True, timeout=60)
        writer.publish(slot, 5)
        assert reader.next_frame().data[0, 0] == 1
        frame = reader.next_frame()
        assert frame.data.tobytes() == bytes(range(40))
        assert not writer.slot(0)[0, 0] != 1  # the neighbour was not touched


def test_blank_forgets_frames_but_not_counters():
    with ring() as writer, StreamReader(writer.path) as reader:
        for number in range(1, 4):
            writer.write(image(number), 1)
        writer.blank()
        assert writer.counter == 3
        assert [writer.slot_counter(i) for i in range(3)] == [0, 0, 0]
        assert not writer.slot(0).any()
        assert reader.latest() is None
        assert writer.write(image(4), 1) == 4
        frame = reader.next_frame()
        assert (frame.counter, reader.lost) == (4, 3)


def test_keywords_keep_order_type_and_comment():
    with ring(nkw=3, keywords={"A": (1, "first"), "B": 2.5}) as writer:
        writer.set_keyword("C", "text")
        writer.set_keyword("A", 2)
        assert list(writer.keywords().items()) == [
            ("A", (2, "first")), ("B", (2.5, "")), ("C", ("text", "")),
        ]  # fmt: skip
        with pytest.raises(Refused, match="all 3 keyword slots"):
            writer.set_keyword("D", 1)
        with pytest.raises(InvalidArgument):
            writer.set_keywords({"A": "x" * 17})
        assert writer.keywords()["A"].value == 2
        writer.set_keywords({"A": True})
        with pytest.raises(InvalidArgument, match="neither number nor text"):
            writer.set_keywords({"A": None})


@pytest.mark.parametrize("name", ["../x", "a/../../b", ".hidden", "", "x" * 80, "a b", "a\0b"])
def test_names_that_are_no_streams_are_refused(name):
    with pytest.raises((InvalidArgument, StorageError)):
        StreamWriter.create(name, (4, 5), "u2")


def test_permissions_are_as_asked_whatever_the_umask():
    old = os.umask(0o077)
    try:
        with ring() as writer:
            assert writer.path.stat().st_mode & 0o777 == 0o660
        with ring("other", mode=0o664) as writer:
            assert writer.path.stat().st_mode & 0o777 == 0o664
    finally:
        os.umask(old)


def test_unknown_group_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(ConfigError, match="no group"):
        ring(folder=tmp_path, group="no-such-group-here")
    assert list(tmp_path.iterdir()) == []


def test_missing_folder_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match="cannot make stream"):
        ring(folder=tmp_path / "nowhere")


def test_making_it_anew_gives_a_new_inode_and_leaves_old_views_valid():
    old = ring()
    old.write(image(7), 1)
    view = old.slot(0)
    inode = old.path.stat().st_ino
    assert old.is_current()
    new = ring(shape=(8, 8))
    assert new.path.stat().st_ino != inode
    assert not old.is_current()
    old.close(unlink=True)  # must not remove what is not its own any more
    assert new.is_current()
    assert int(view[3, 4]) == 7
    new.close(unlink=True)
    assert not new.path.exists()


def test_no_room_is_an_error_with_code_and_leaves_nothing(tmp_path, monkeypatch):
    def full(descriptor, offset, length):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageError, match="no room for stream") as caught:
        ring(folder=tmp_path)
    assert caught.value.code is Code.NO_SPACE
    assert caught.value.detail["needed_bytes"] == 1536 + 120 + 50 * 128 + 3 * 40
    assert list(tmp_path.iterdir()) == []


def test_more_than_there_is_is_refused_before_any_of_it_is_taken(tmp_path, monkeypatch):
    def never(descriptor, offset, length):
        raise AssertionError("began to fill the file system")

    monkeypatch.setattr(os, "posix_fallocate", never)
    monkeypatch.setattr(allocate, "free_bytes", lambda folder: 10_000_000)
    with pytest.raises(StorageError, match=r"20\.0 MB needed, 10\.0 MB free") as caught:
        ring(folder=tmp_path, shape=(1000, 1000), depth=10)
    assert caught.value.code is Code.NO_SPACE
    assert list(tmp_path.iterdir()) == []


def test_file_size_limit_of_the_system_is_an_error_not_a_signal(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(StorageError, match="no room"):
            ring(folder=tmp_path, shape=(1000, 1000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_long_path_and_large_file_are_noted(tmp_path, caplog):
    folder = tmp_path / ("d" * 190)
    folder.mkdir()
    with ring(folder=folder):
        assert "199 bytes" in caplog.text


def test_take_over_continues_counters_and_keywords():
    first = ring(keywords={"A": 1})
    for number in range(1, 5):
        first.write(image(number), number)
    first.close()
    assert field(first, 220, "<i") == 0
    with StreamWriter.attach(first.path, clock=ManualClock()) as second:
        assert field(second, 220, "<i") == os.getpid()
        assert (second.counter, second.next_slot, second.geometry) == (4, 1, first.geometry)
        second.set_keyword("B", 2)
        assert list(second.keywords()) == ["A", "B"]
        assert second.write(image(5), 5) == 5
        assert [second.slot_counter(i) for i in range(3)] == [4, 5, 3]


def patch_file(path, *changes):
    with open(path, "r+b") as file:
        for offset, form, value in changes:
            file.seek(offset)
            file.write(struct.pack(form, value))


@pytest.mark.parametrize("stage", ["begun", "committed", "cnt1", "cnt0"])
def test_take_over_after_a_death_at_any_store_of_a_frame(stage):
    """The file as it is after a kill between two stores; take-over makes it whole."""
    first = ring()
    for number in range(1, 5):  # newest: frame 4 in slot 0; next slot 1 holds frame 2
        first.write(image(number), number)
    count_of_slot_1 = first.geometry.offsets().slice_counts + 8
    first.close()
    stores = [(288, "<B", 1), (count_of_slot_1, "<Q", NO_FRAME)]
    if stage != "begun":
        stores.append((count_of_slot_1, "<Q", 5))
    if stage in ("cnt1", "cnt0"):
        stores.append((272, "<Q", 1))
    if stage == "cnt0":
        stores.append((264, "<Q", 5))
    patch_file(first.path, *stores)
    expected = (4, 1, 0) if stage == "begun" else (5, 2, 5)
    with StreamWriter.attach(first.path) as second:
        assert (second.counter, second.next_slot, second.slot_counter(1)) == expected
        assert field(second, 288, "<B") == 0
        assert second.write(image(9), 9) == expected[0] + 1


def test_take_over_before_the_first_frame():
    first = ring()
    first.begin(0)
    patch_file(first.path, (220, "<i", 0))
    with StreamWriter.attach(first.path) as second:
        assert (second.counter, second.next_slot) == (0, 0)
        assert second.write(image(1), 1) == 1
    first.close()


def test_open_takes_over_the_same_geometry_and_makes_another_anew():
    with StreamWriter.open("s", (4, 5), "u2", depth=3) as writer:
        writer.write(image(1), 1)
        inode = writer.path.stat().st_ino
    with StreamWriter.open("s", (4, 5), "u2", depth=3, keywords={"A": 1}) as writer:
        assert (writer.counter, writer.path.stat().st_ino) == (1, inode)
        assert writer.keywords()["A"].value == 1
    with StreamWriter.open("s", (4, 6), "u2", depth=3) as writer:
        assert (writer.counter, writer.geometry.frame_shape) == (0, (4, 6))
        path = writer.path
    path.write_bytes(b"rubbish")
    with StreamWriter.open("s", (4, 5), "u2", depth=3) as writer:
        assert writer.counter == 0


def test_take_over_of_what_is_no_stream_is_refused(tmp_path):
    with pytest.raises(StorageError, match="cannot open"):
        StreamWriter.attach(tmp_path / "none.im.shm")
    (tmp_path / "bad.im.shm").write_bytes(b"x" * 100)
    with pytest.raises(StorageError, match="not a stream"):
        StreamWriter.attach(tmp_path / "bad.im.shm")
    with pytest.raises(InvalidArgument, match="end in"):
        StreamWriter.attach(tmp_path / "bad.fits")


def test_a_stream_of_more_slots_than_wanted_is_taken_over_where_that_will_do():
    for depth, shape, is_taken in ((8, (4, 20), True), (3, (4, 20), False), (8, (20, 4), False)):
        with ring("left", depth, (4, 20)) as old:
            old.write(image(1, (4, 20)), 5)
        inode = old.path.stat().st_ino
        writer = StreamWriter.open("left", shape, "u2", depth=5, least_depth=4)
        assert (writer.path.stat().st_ino == inode) == is_taken
        assert writer.geometry.depth == (depth if is_taken else 5)
        assert writer.counter == (1 if is_taken else 0)
        writer.close(unlink=True)


# --- several frames at once ----------------------------------------------------------------------


def stamps_of(first, count):
    stamps = [[(10**9 + late, n + late) for n in range(first, first + count)] for late in (0, 5)]
    return np.array(stamps, np.uint64).reshape(2, count, 2)


def test_run_of_frames_is_what_single_frames_would_be():
    with (
        StreamWriter.create("run", (2, 3), "u2", depth=8) as writer,
        StreamReader("run") as reader,
    ):
        found = []
        for first, count in ((1, 3), (4, 4), (8, 5), (20, 2)):  # the third goes round the end
            pieces = writer.begin_run(writer.next_slot, count)
            assert len(pieces) == (2 if first == 8 else 1)
            data = np.repeat(np.arange(first, first + count, dtype="u2"), 6).tobytes()
            for piece in pieces:
                piece[:], data = data[: len(piece)], data[len(piece) :]
            writer.publish_run(writer.begun_slot, stamps_of(first, count), first)
            assert writer.counter == first + count - 1
            while (frame := reader.next_frame()) is not None:
                assert frame.data.min() == frame.data.max() == frame.counter
                assert frame.atime_ns == 10**18 + frame.counter
                assert frame.writetime_ns == 10**18 + 5 * 10**9 + frame.counter + 5
                found.append(frame.counter)
        assert found == [*range(1, 13), 20, 21]
        assert (reader.lost, reader.torn) == (7, 0)
        assert reader.age_s is not None


def test_readers_of_the_slots_of_a_run_know_at_once_that_their_frames_go():
    with (
        StreamWriter.create("run", (2, 3), "u2", depth=8) as writer,
        StreamReader("run") as reader,
    ):
        for number in range(1, 9):
            writer.write(np.full((2, 3), number, "u2"), number)
        views = [reader.next_frame(copy=False) for _ in range(8)]
        writer.begin_run(writer.next_slot, 3)
        assert [reader.is_intact(view) for view in views] == [False] * 3 + [True] * 5
        writer.publish_run(writer.begun_slot, stamps_of(9, 1), 9)  # two of them were not kept
        assert reader.next_frame().counter == 9
        assert writer.next_slot == 1
        writer.write(np.full((2, 3), 10, "u2"), 10)
        assert reader.next_frame().counter == 10
        writer.begin_run(writer.next_slot, 2)
        writer.abandon(writer.begun_slot)
        writer.write(np.full((2, 3), 11, "u2"), 11)
        assert reader.next_frame().data.max() == 11


def test_runs_that_cannot_be_are_refused():
    with StreamWriter.create("plain", (2, 3), "u2") as plain, pytest.raises(Refused):
        plain.begin_run(0, 1)
    with StreamWriter.create("run", (2, 3), "u2", depth=8) as writer:
        for count in (0, 9):
            with pytest.raises(InvalidArgument):
                writer.begin_run(0, count)
        with pytest.raises(Refused):
            writer.publish_run(0, stamps_of(1, 1), 1)
        writer.write(np.zeros((2, 3), "u2"), 5)
        writer.begin_run(1, 2)
        for count, counter in ((3, 2), (2, 1), (0, 2)):
            with pytest.raises(InvalidArgument):
                writer.publish_run(1, stamps_of(1, count), counter)
        with pytest.raises(Refused):
            writer.begin_run(1, 2)
        assert writer.publish_run(1, stamps_of(2, 2), 2) == 3


def test_a_run_posts_a_tick_a_frame_as_single_frames_do():
    with StreamWriter.create("run", (2, 3), "u2", depth=64) as writer:
        at = writer.geometry.offsets().semaphores
        for number, expected in ((1, 4), (5, 8), (9, 10)):
            writer.begin_run(writer.next_slot, 4)
            writer.publish_run(writer.begun_slot, stamps_of(number, 4), number)
            assert field(writer, at, "<i") == expected
