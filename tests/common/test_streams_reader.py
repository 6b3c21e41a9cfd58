# SPDX-License-Identifier: BSD-3-Clause
"""The reading end: every frame once or counted, wake-ups, foreign writers, re-creation, stops."""

import mmap
import os
import struct
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from nightjar.clock import ManualClock
from nightjar.errors import Code, InvalidArgument, Refused, StorageError
from nightjar.streams import attachment, semaphores
from nightjar.streams import reader as reading
from nightjar.streams.process import try_lock
from nightjar.streams.reader import StreamReader, Wake
from nightjar.streams.semaphores import Semaphore
from nightjar.streams.writer import StreamWriter

SHAPE = (4, 5)


def image(value, shape=SHAPE):
    return np.full(shape, value, "u2")


def ring(depth=4, name="ring", shape=SHAPE, **options):
    return StreamWriter.create(name, shape, "u2", depth=depth, **options)


def counters(reader):
    found = []
    while (frame := reader.next_frame()) is not None:
        found.append(frame.counter)
        assert frame.data.min() == frame.data.max() == frame.counter
    return found


class ForeignWriter:
    """Stores to a stream file in another program's order, byte by byte."""

    def __init__(self, path):
        with open(path, "r+b") as file:
            self.map = mmap.mmap(file.fileno(), 0)

    def put(self, offset, form, *values):
        struct.pack_into(form, self.map, offset, *values)

    def get(self, offset, form="<Q"):
        return struct.unpack_from(form, self.map, offset)[0]

    def post(self, offset, index=0):
        Semaphore(self.map, offset + 32 * index).post(10)


def wait_for(condition, what, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {timeout_s} s"
        time.sleep(0.001)


# ------------------------------------------------------------------------------- accounting


def test_reads_each_frame_once_with_its_times():
    with ring() as writer, StreamReader("ring") as reader:
        assert reader.next_frame() is None
        assert reader.latest() is None
        assert reader.age_s is None
        for number in range(1, 5):
            writer.write(image(number), 10**18 + number, 10**18 + 100 + number)
        frames = [reader.next_frame() for _ in range(4)]
        assert [frame.counter for frame in frames] == [1, 2, 3, 4]
        assert [frame.slot for frame in frames] == [0, 1, 2, 3]
        assert [frame.atime_ns - 10**18 for frame in frames] == [1, 2, 3, 4]
        assert [frame.writetime_ns - 10**18 for frame in frames] == [101, 102, 103, 104]
        assert [int(frame.data[2, 2]) for frame in frames] == [1, 2, 3, 4]
        assert reader.next_frame() is None
        assert (reader.delivered, reader.lost, reader.torn) == (4, 0, 0)


def test_copies_stay_what_they_were_and_views_do_not():
    with ring(depth=2) as writer, StreamReader("ring") as reader:
        writer.write(image(1), 1)
        copy, view = reader.latest(), reader.latest(copy=False)
        assert not view.data.flags.writeable
        assert not reader.view(0).flags.writeable
        assert reader.is_intact(view)
        writer.write(image(2), 1)
        assert reader.is_intact(view)  # one slot is left before its turn comes
        writer.begin(0)
        assert not reader.is_intact(view)
        writer.slot(0)[:] = 3
        assert int(view.data[0, 0]) == 3
        assert int(copy.data[0, 0]) == 1


def test_frames_that_the_ring_overwrote_are_counted():
    with ring() as writer, StreamReader("ring") as reader:
        for number in range(1, 11):
            writer.write(image(number), number)
        frame = reader.next_frame()
        assert (frame.counter, frame.missed) == (7, 6)
        assert reader.next_frame().missed == 0
        assert counters(reader) == [9, 10]
        assert (reader.delivered, reader.lost, reader.torn) == (4, 6, 0)


def test_oldest_frame_is_lost_once_its_slot_is_begun():
    with ring() as writer, StreamReader("ring") as reader:
        for number in range(1, 5):
            writer.write(image(number), number)
        writer.begin(0)
        writer.slot(0)[:] = 99
        assert counters(reader) == [2, 3, 4]
        assert (reader.lost, reader.torn) == (1, 0)
        writer.abandon(0)
        assert reader.next_frame() is None
        writer.write(image(5), 5)
        assert counters(reader) == [5]
        assert reader.delivered + reader.lost == writer.counter


def test_frame_overwritten_during_the_copy_is_torn(monkeypatch):
    with ring() as writer, StreamReader("ring") as reader:
        for number in range(1, 5):
            writer.write(image(number), number)
        real_copy = StreamReader._copy

        def copy_with_writer(pixels):
            copied = real_copy(pixels)
            if writer.begun_slot is None:
                writer.begin(writer.next_slot)
            return copied

        monkeypatch.setattr(StreamReader, "_copy", staticmethod(copy_with_writer))
        assert counters(reader) == [2, 3, 4]
        assert (reader.delivered, reader.lost, reader.torn) == (3, 0, 1)


class WordsThatMove:
    """The words of a stream; a frame is published right after cnt1 was read for the n-th time."""

    def __init__(self, words, publish, reads):
        self._words, self._publish, self._reads = words, publish, reads

    def __getitem__(self, at):
        value = self._words[at]
        if at == attachment._CNT1:
            self._reads -= 1
            if self._reads == 0:
                self._publish()
        return value


@pytest.mark.parametrize("reads", [1, 2, 3])
def test_frame_published_between_two_looks_at_the_counters_tears_nothing(reads):
    with ring() as writer, StreamReader("ring") as reader:
        writer.write(image(1), 1)
        at = reader._at
        at._words = WordsThatMove(at._words, lambda: writer.write(image(2), 2), reads)
        frame = reader.next_frame(copy=False)
        assert frame is not None
        assert reader.is_intact(frame)
        assert counters(reader) == [2]
        assert (reader.torn, reader.lost) == (0, 0)


def test_whole_turn_of_the_ring_during_the_copy_is_torn(monkeypatch):
    with ring() as writer, StreamReader("ring") as reader:
        writer.write(image(1), 1)
        real_copy = StreamReader._copy

        def copy_with_writer(pixels):
            copied = real_copy(pixels)
            if writer.counter < 5:
                for number in range(2, 6):
                    writer.write(image(number), number)
            return copied

        monkeypatch.setattr(StreamReader, "_copy", staticmethod(copy_with_writer))
        assert counters(reader) == [2, 3, 4, 5]
        assert (reader.lost, reader.torn) == (0, 1)


def test_reader_slower_than_the_writer_moves_away_from_the_oldest(monkeypatch):
    """Each copy lasts three frames of the writer: the oldest of 8 can never be copied in time."""
    with ring(depth=8) as writer, StreamReader("ring") as reader:
        for number in range(1, 30):
            writer.write(image(number), number)
        real_copy = StreamReader._copy

        def copy_with_writer(pixels):
            copied = real_copy(pixels)
            if writer.counter < 300:
                for number in range(writer.counter + 1, writer.counter + 4):
                    writer.write(image(number), number)
            return copied

        monkeypatch.setattr(StreamReader, "_copy", staticmethod(copy_with_writer))
        counters(reader)
        assert reader.delivered + reader.lost + reader.torn == writer.counter
        assert reader.delivered > 0.3 * (reader.delivered + reader.torn)
        assert reader.delivered > 25


def test_start_oldest_reads_what_is_in_the_ring():
    with ring() as writer:
        for number in range(1, 7):
            writer.write(image(number), number)
        with StreamReader("ring") as late, StreamReader("ring", start="oldest") as full:
            assert counters(late) == []
            assert counters(full) == [3, 4, 5, 6]
            assert full.lost == 0


def test_start_at_a_counter_reads_from_it_and_counts_what_is_gone():
    with ring() as writer:
        for number in range(1, 7):
            writer.write(image(number), number)
        with StreamReader("ring", start=5) as there, StreamReader("ring", start=2) as gone:
            assert counters(there) == [5, 6]
            assert there.lost == 0
            frame = gone.next_frame()
            assert (frame.counter, frame.missed, gone.lost) == (3, 1, 1)
            assert counters(gone) == [4, 5, 6]


@pytest.mark.parametrize("use_semaphore", [True, False])
def test_start_at_a_counter_to_come_passes_over_those_before_it(use_semaphore):
    with ring() as writer:
        writer.write(image(1), 1)
        with StreamReader("ring", start=4, use_semaphore=use_semaphore) as reader:
            for number in (2, 3):
                assert reader.wait(0.0) is Wake.TIMEOUT
                assert (reader.next_frame(), reader.unread) == (None, 0)
                writer.write(image(number), number)
            assert reader.wait(0.01) is Wake.TIMEOUT
            writer.write(image(4), 4)
            assert reader.wait(10.0) is Wake.FRAME
            assert counters(reader) == [4]
            assert (reader.delivered, reader.lost) == (1, 0)


def test_numbers_that_the_writer_left_out_are_lost_and_the_others_all_read():
    """The receiving end of a link that thins out: counters of the source, with gaps."""
    with ring() as writer, StreamReader("ring") as reader:

        def put(number):
            slot = writer.next_slot
            writer.begin(slot)
            writer.slot(slot)[:] = number
            assert writer.publish(slot, number, counter=number) == number

        put(25)
        view = reader.next_frame(copy=False)
        assert (view.counter, view.missed, reader.lost) == (25, 24, 24)
        for number in (50, 75, 76):
            put(number)
        assert reader.is_intact(view)  # three later frames of a ring of four
        assert counters(reader) == [50, 75, 76]
        assert (reader.delivered, reader.lost) == (4, 72)
        for number in (100, 200, 300, 400, 500):
            put(number)
        assert not reader.is_intact(view)
        assert counters(reader) == [200, 300, 400, 500]
        assert reader.delivered + reader.lost + reader.torn == 500
        with pytest.raises(InvalidArgument, match="500"):
            put(500)
        writer.publish(writer.begun_slot, 1)
        assert reader.next_frame().counter == 501


def test_counter_that_goes_back_below_the_wanted_start_is_followed():
    with ring() as writer:
        for number in range(1, 4):
            writer.write(image(number), number)
        with StreamReader("ring", start=100) as reader:
            assert reader.next_frame() is None
            foreign = ForeignWriter(writer.path)
            foreign.put(264, "<Q", 0)
            foreign.put(writer.geometry.offsets().slice_counts, "<4Q", 0, 0, 0, 0)
            foreign.put(272, "<Q", 3)
            assert reader.wait(0.0) is Wake.FRAME
            assert reader.next_frame() is None
            writer.write(image(1), 1)
            assert counters(reader) == [1]


def test_counter_that_goes_back_is_followed():
    with ring() as writer, StreamReader("ring") as reader:
        for number in range(1, 4):
            writer.write(image(number), number)
        assert counters(reader) == [1, 2, 3]
        foreign = ForeignWriter(writer.path)
        foreign.put(264, "<Q", 0)
        assert reader.next_frame() is None
        offsets = writer.geometry.offsets()
        foreign.put(offsets.slice_counts, "<4Q", 0, 0, 0, 0)
        foreign.put(272, "<Q", 3)
        writer.write(image(1), 1)
        assert counters(reader) == [1]


def test_plain_stream_is_read_and_overwritten_frames_counted():
    with StreamWriter.create("plain", SHAPE, "u2") as writer, StreamReader("plain") as reader:
        writer.write(image(1), 10**18)
        frame = reader.next_frame()
        assert (frame.counter, frame.atime_ns) == (1, 10**18)
        writer.write(image(2), 1)
        writer.write(image(3), 1)
        assert counters(reader) == [3]
        writer.begin(0)
        writer.slot(0)[:] = 77
        assert reader.latest() is None  # half a frame is no frame
        writer.publish(0, 5)
        assert reader.latest().atime_ns == 5
        assert (reader.delivered, reader.lost, reader.torn) == (2, 1, 0)


def test_true_cube_is_one_frame():
    cube = np.arange(24, dtype="f4").reshape(2, 3, 4)
    with StreamWriter.create("cube", (2, 3, 4), "f4") as writer, StreamReader("cube") as reader:
        writer.write(cube, 1)
        assert np.array_equal(reader.next_frame().data, cube)


# ------------------------------------------------------------------------------- foreign writers


def test_writer_without_slice_counts_is_read_by_cnt1():
    with ring() as writer, StreamReader("ring") as reader:
        foreign, frame_bytes = ForeignWriter(writer.path), writer.geometry.frame_bytes
        for number in range(1, 4):
            foreign.put(384 + (number - 1) * frame_bytes, "<20H", *[number] * 20)
            foreign.put(184, "<qq", number, 0)
            foreign.put(272, "<Q", number - 1)
            foreign.put(264, "<Q", number)
        frames = [reader.next_frame() for _ in range(3)]
        assert [int(frame.data[0, 0]) for frame in frames] == [1, 2, 3]
        # Only the newest frame's time is known.
        assert [frame.atime_ns for frame in frames] == [0, 0, 3 * 10**9]


def test_writer_that_raises_only_the_flag_tears_the_oldest_frame():
    """MagAO-X does not clear the slice count before it overwrites a slot."""
    with ring() as writer, StreamReader("ring") as reader:
        for number in range(1, 5):
            writer.write(image(number), number)
        ForeignWriter(writer.path).put(288, "<B", 1)
        assert counters(reader) == [2, 3, 4]
        assert reader.lost == 1


def test_writer_that_posts_before_it_counts_is_read_at_once(monkeypatch):
    """pyMilk posts first, then counts; the frame must not wait for the next tick or slice."""
    with StreamWriter.create("plain", SHAPE, "u2") as writer, StreamReader("plain") as reader:
        foreign, waits, real_wait = ForeignWriter(writer.path), [], reader._at.lease.wait
        monkeypatch.setattr(
            reader._at.lease, "wait", lambda slice_s: waits.append(slice_s) or real_wait(slice_s)
        )
        # The writer counts only while the awakened reader gives it time.
        patient = SimpleNamespace(
            monotonic=time.monotonic, sleep=lambda _: foreign.put(264, "<Q", 1)
        )
        monkeypatch.setattr(attachment, "time", patient)
        foreign.put(288, "<B", 1)
        foreign.post(writer.geometry.offsets().semaphores, reader.semaphore_index)
        assert reader.wait(30.0) is Wake.FRAME
        assert len(waits) == 1


def test_ticks_of_frames_that_were_seen_before_are_slept_over(monkeypatch):
    """A frame may be read by its count before its tick: then the tick must not start a poll."""

    def never(_):
        raise AssertionError("polled")

    for depth in (4, None):
        with StreamWriter.create("s", SHAPE, "u2", depth=depth) as writer:
            with StreamReader("s") as reader:
                monkeypatch.setattr(
                    attachment, "time", SimpleNamespace(monotonic=time.monotonic, sleep=never)
                )
                writer.write(image(1), 1)
                assert counters(reader) == [1]  # without a wait: the tick is left
                assert reader.wait(0.02) is Wake.TIMEOUT
                writer.write(image(2), 2)
                assert reader.wait(10.0) is Wake.FRAME


def test_access_time_change_alone_is_no_torn_frame(monkeypatch):
    """A C program that opens a plain stream during our copy changes its time of access."""
    with StreamWriter.create("plain", SHAPE, "u2") as writer, StreamReader("plain") as reader:
        writer.write(image(1), 1)
        foreign, real_copy, copies = ForeignWriter(writer.path), StreamReader._copy, []

        def copy(pixels):
            copies.append(real_copy(pixels))
            if len(copies) == 1:
                foreign.put(168, "<q", 12345)
            return copies[-1]

        monkeypatch.setattr(StreamReader, "_copy", staticmethod(copy))
        assert counters(reader) == [1]
        assert (len(copies), reader.torn) == (2, 0)


# ------------------------------------------------------------------------------- waiting


@pytest.mark.parametrize("use_semaphore", [True, False])
def test_wait_ends_with_the_frame(use_semaphore):
    with ring() as writer, StreamReader("ring", use_semaphore=use_semaphore) as reader:
        assert (reader.semaphore_index is not None) == use_semaphore
        result = []
        thread = threading.Thread(target=lambda: result.append(reader.wait(30.0)))
        thread.start()
        writer.write(image(1), 1)
        thread.join(30.0)
        assert result == [Wake.FRAME]
        assert reader.unread == 1
        assert reader.wait(0.0) is Wake.FRAME
        reader.next_frame()
        assert reader.wait(0.0) is Wake.TIMEOUT


@pytest.mark.parametrize("use_semaphore", [True, False])
def test_wait_times_out_by_the_monotonic_clock(use_semaphore):
    with ring(), StreamReader("ring", use_semaphore=use_semaphore) as reader:
        begin = time.monotonic()
        assert reader.wait(0.25) is Wake.TIMEOUT
        assert 0.25 <= time.monotonic() - begin < 10.0


@pytest.mark.parametrize("use_semaphore", [True, False])
@pytest.mark.parametrize("how", ["event", "close"])
def test_wait_is_stopped_within_a_slice(use_semaphore, how):
    with ring(), StreamReader("ring", use_semaphore=use_semaphore) as reader:
        stop, result = threading.Event(), []
        thread = threading.Thread(target=lambda: result.append(reader.wait(60.0, stop)))
        thread.start()
        begin = time.monotonic()
        if how == "event":
            stop.set()
        else:
            reader.close()
        thread.join(30.0)
        assert result == [Wake.STOPPED]
        # Slices of 0.1 s give 0.2 s with room on an idle machine; a wait to the end takes 60 s.
        assert time.monotonic() - begin < 5.0


def test_slices_are_short_enough_to_stop_in_200_ms(monkeypatch):
    with ring(), StreamReader("ring") as reader:
        asked = []
        monkeypatch.setattr(reader._at.lease, "wait", asked.append)
        monkeypatch.setattr(reading, "time", SimpleNamespace(monotonic=lambda: sum(asked)))
        assert reader.wait(0.3) is Wake.TIMEOUT
        assert len(asked) >= 3
        assert max(asked) <= 0.2


def test_another_thread_works_while_a_reader_waits():
    """The GIL must be free in the wait: this thread counts while the other is in sem_*wait."""
    with ring() as writer, StreamReader("ring") as reader:
        thread = threading.Thread(target=reader.wait, args=(60.0,))
        waiters = writer.geometry.offsets().semaphores + 32 * reader.semaphore_index + 4
        foreign, seen = ForeignWriter(writer.path), []
        thread.start()
        # With the GIL held this thread would run only between the waits, and see no waiter.
        wait_for(lambda: seen.append(foreign.get(waiters, "<I")) or sum(seen) >= 20, "waiting")
        writer.write(image(1), 1)
        thread.join(30.0)
        assert not thread.is_alive()


def test_wait_without_clockwait_uses_the_system_time(monkeypatch):
    """The way of older C libraries."""
    monkeypatch.setattr(semaphores, "_clockwait", None)
    with ring() as writer:
        semaphore = Semaphore(writer._mapping, writer.geometry.offsets().semaphores)
        begin = time.monotonic()
        assert not semaphore.wait(0.05)
        assert 0.045 <= time.monotonic() - begin < 10.0
        semaphore.post(10)
        assert semaphore.wait(10.0)


def test_iterator_delivers_until_the_timeout():
    with ring(depth=64) as writer, StreamReader("ring") as reader:
        for number in range(1, 21):
            writer.write(image(number), number)
        assert [frame.counter for frame in reader.frames(0.05)] == list(range(1, 21))
        stop = threading.Event()
        for number in range(21, 31):
            writer.write(image(number), number)
        seen = []
        for frame in reader.frames(30.0, stop):
            seen.append(frame.counter)
            if len(seen) == 3:
                stop.set()  # also in a stream that never pauses
        assert seen == [21, 22, 23]


def test_age_and_owner():
    clock = ManualClock()
    with ring(clock=clock) as writer, StreamReader("ring", clock=clock) as reader:
        writer.write(image(1), 1)
        clock.advance(2.5)
        assert reader.age_s == 2.5
        assert reader.is_writer_alive is True
        writer.close()
        assert reader.is_writer_alive is None


# ------------------------------------------------------------------------------- several readers


def test_readers_of_one_process_have_semaphores_of_their_own():
    with ring(depth=32) as writer:
        readers = [StreamReader("ring") for _ in range(12)]
        indices = [reader.semaphore_index for reader in readers]
        assert indices == [*range(10), None, None]  # the last two poll
        for number in range(1, 21):
            writer.write(image(number), number)
        assert all(reader.wait(10.0) is Wake.FRAME for reader in readers)
        assert all(counters(reader) == list(range(1, 21)) for reader in readers)
        readers[3].close()
        with StreamReader("ring") as again:
            assert again.semaphore_index == 3
        for reader in readers:
            reader.close()
            reader.close()
        entry = writer.geometry.offsets().reader_pids
        assert ForeignWriter(writer.path).map[entry : entry + 40] == b"\xff" * 40


def test_reader_that_was_only_forgotten_frees_its_semaphore():
    with ring() as writer:
        reader = StreamReader("ring")
        assert reader.semaphore_index == 0
        del reader
        entry = writer.geometry.offsets().reader_pids
        assert ForeignWriter(writer.path).get(entry, "<i") == -1


def test_locked_entries_are_respected_whatever_their_process_id_says():
    """A reader of ours in another container: its lock is seen, its process is not."""
    with ring() as writer:
        foreign, entry = ForeignWriter(writer.path), writer.geometry.offsets().reader_pids
        with open(writer.path, "r+b") as other:
            for index in range(9):
                foreign.put(entry + 4 * index, "<i", 2**30 + index)  # no process has these ids
                assert try_lock(other.fileno(), entry + 4 * index)
            with StreamReader("ring") as ninth, StreamReader("ring") as tenth:
                assert ninth.semaphore_index == 9
                assert tenth.semaphore_index is None
        with StreamReader("ring") as after:
            assert after.semaphore_index == 9


def test_foreign_entries_are_respected_while_their_process_maps_the_file():
    with ring() as writer:
        foreign = ForeignWriter(writer.path)
        entry = writer.geometry.offsets().reader_pids
        foreign.put(entry, "<i", os.getpid())  # alive, maps the file, holds no lock
        foreign.put(entry + 4, "<i", os.getppid())  # alive, does not map the file: a reused id
        with StreamReader("ring") as first:
            assert first.semaphore_index == 2  # free entries go first
            for index in range(3, 10):
                foreign.put(entry + 4 * index, "<i", os.getpid())
            with StreamReader("ring") as second, StreamReader("ring") as third:
                assert second.semaphore_index == 1
                assert third.semaphore_index is None


# ------------------------------------------------------------------------------- re-creation


def test_stream_made_anew_with_another_shape_is_followed():
    stop, frames = threading.Event(), []
    old = ring()
    with StreamReader("ring") as reader:

        def follow():
            for frame in reader.frames(60.0, stop):
                frames.append((frame.generation, frame.counter, frame.data.shape))

        thread = threading.Thread(target=follow)
        thread.start()
        for number in range(1, 3):
            old.write(image(number), number)
        wait_for(lambda: len(frames) == 2, "reading of the first file")
        old.close()
        new = ring(shape=(8, 3))
        for number in range(1, 4):
            new.write(image(number, (8, 3)), number)
        wait_for(lambda: len(frames) == 5, "reading of the second file")
        stop.set()
        thread.join(30.0)
        assert frames == [
            (0, 1, (4, 5)), (0, 2, (4, 5)), (1, 1, (8, 3)), (1, 2, (8, 3)), (1, 3, (8, 3)),
        ]  # fmt: skip
        assert (reader.delivered, reader.lost, reader.torn) == (5, 0, 0)
        assert reader.geometry.frame_shape == (8, 3)
        assert reader.semaphore_index == 0
        new.close()


def test_unread_frames_of_the_old_file_come_before_the_new_ones():
    old = ring()
    with StreamReader("ring") as reader:
        old.write(image(1), 1)
        old.write(image(2), 2)
        view = reader.latest(copy=False)
        with ring() as new:
            new.write(image(1), 1)
            assert reader.wait(1.0) is Wake.FRAME
            assert counters(reader) == [1, 2]
            assert reader.is_intact(view)
            assert reader.wait(1.0) is Wake.REPLACED
            assert reader.relink()
            assert not reader.relink()
            assert not reader.is_intact(view)
            assert int(view.data[0, 0]) == 2  # still mapped
            assert counters(reader) == [1]


def test_removed_stream_is_told_and_its_successor_found():
    writer = ring()
    with StreamReader("ring") as reader:
        writer.close(unlink=True)
        assert reader.is_removed()
        assert not reader.is_replaced()
        assert reader.wait(0.0) is Wake.TIMEOUT
        assert not reader.relink()
        writer.path.write_bytes(b"")  # a C library that has only just begun
        assert not reader.relink()
        with ring() as new:
            new.write(image(1), 1)
            assert reader.relink()
            assert counters(reader) == [1]


# ------------------------------------------------------------------------------- refusals


def test_missing_stream_names_those_that_are_there():
    with ring(name="one"), ring(name="two"):
        with pytest.raises(Refused, match=r"no stream 'three' .* one, two") as caught:
            StreamReader("three")
        assert caught.value.code is Code.UNKNOWN_ITEM


def test_file_that_is_no_stream_is_refused(tmp_path):
    path = tmp_path / "x.im.shm"
    path.write_bytes(b"")
    with pytest.raises(StorageError, match="not a stream"):
        StreamReader(path)
    with ring() as writer:
        path.write_bytes(writer.path.read_bytes()[:-8])
    with pytest.raises(StorageError, match="damaged"):
        StreamReader(path)


def test_the_age_is_known_when_a_frame_comes_while_one_looks(monkeypatch):
    with StreamWriter.create("fast", (4, 20), "u2", depth=4) as writer:
        frame = np.zeros((4, 20), "u2")
        writer.write(frame, 5)
        counted = attachment.Attachment.counter.fget

        def counted_late(self):
            counter = counted(self)
            writer.write(frame, 5)
            return counter

        with StreamReader("fast") as reader:
            monkeypatch.setattr(attachment.Attachment, "counter", property(counted_late))
            assert reader.age_s is not None
            monkeypatch.undo()


# --- several at a time ---------------------------------------------------------------------------


def runs(reader, most=100):
    """Read all there is; return (first counter, count) of each run, each frame looked at."""
    found = []
    while (frames := reader.next_frames(most)) is not None:
        times = frames.times_ns().tolist()
        for index, frame in enumerate(frames.each()):
            assert frame.counter == frames.first.counter + index
            assert frame.data.min() == frame.data.max() == frame.counter
            assert np.array_equal(frame.data, frames.data[index])
            assert (frame.atime_ns, frame.writetime_ns) == (times[0][index], times[1][index])
            assert (frame.atime_ns, frame.writetime_ns) == (
                10**18 + frame.counter, 10**18 + 7 * frame.counter,
            )  # fmt: skip
        assert reader.torn_of(frames) == 0
        found.append((frames.first.counter, frames.count))
    return found


def publish(writer, count):
    for _ in range(count):
        number = writer.counter + 1
        writer.write(image(number), 10**18 + number, 10**18 + 7 * number)


def test_several_frames_at_a_time_are_those_that_one_by_one_would_give():
    with ring(64) as writer, StreamReader("ring") as reader:
        publish(writer, 20)
        assert runs(reader) == [(1, 8), (9, 8), (17, 4)]  # an eighth of the ring at most
        publish(writer, 50)
        assert runs(reader, 3)[0] == (21, 3)
        publish(writer, 10)
        assert runs(reader) == [(71, 8), (79, 2)]
        assert reader.next_frames(8) is None
        assert (reader.delivered, reader.lost, reader.torn) == (80, 0, 0)
        publish(writer, 45)
        assert runs(reader) == [(81, 8), (89, 8), (97, 8), (105, 8), (113, 8), (121, 5)]
        publish(writer, 12)  # round the end of the ring
        assert runs(reader) == [(126, 3), (129, 8), (137, 1)]
        publish(writer, 100)
        found = runs(reader)
        assert found[0][0] == 237 - 64 + 1
        assert found[0][1] == 1  # the writer is near
        assert reader.delivered + reader.lost == 237


def test_frames_behind_a_gap_of_counters_are_another_run():
    with ring(64) as writer, StreamReader("ring") as reader:
        publish(writer, 3)
        writer.begin(writer.next_slot)
        writer.slot(writer.begun_slot)[:] = 9
        writer.publish(writer.begun_slot, 10**18 + 9, 10**18 + 63, counter=9)
        publish(writer, 2)
        assert runs(reader) == [(1, 3), (9, 3)]
        assert reader.lost == 5


def test_those_of_several_that_were_overwritten_are_told():
    with ring(64) as writer, StreamReader("ring") as reader:
        publish(writer, 20)
        first, second = reader.next_frames(8), reader.next_frames(8)
        assert (first.count, second.count) == (8, 8)
        publish(writer, 47)  # 4 to 67 are there
        assert (reader.torn_of(first), reader.torn_of(second)) == (3, 0)
        writer.begin(writer.next_slot)
        assert reader.torn_of(first) == 4
        writer.abandon(writer.begun_slot)
        publish(writer, 7)
        assert (reader.torn_of(first), reader.torn_of(second)) == (8, 2)


def test_frames_that_are_given_back_come_again():
    with ring(64) as writer, StreamReader("ring") as reader:
        publish(writer, 20)
        frames = reader.next_frames(8)
        reader.give_back(frames, 3)
        assert (reader.delivered, reader.unread) == (5, 15)
        assert runs(reader)[0] == (6, 8)
        reader.give_back(frames, 3)  # not the last ones any more
        assert reader.next_frame() is None
        assert (reader.delivered, reader.lost) == (20, 0)


def test_times_that_nobody_has_set_are_none():
    with ring(64) as writer, StreamReader("ring") as reader:
        for atime in (10**18, 0, 4 * 10**18 + 10**17 * 3):
            writer.write(image(1), atime, 10**18)
        writer._slice_atimes[1] = 2**63 - 1  # ns of the first
        assert reader.next_frames(3).times_ns().tolist() == [[0, 0, 0], [10**18] * 3]


def test_plain_streams_and_writers_without_counts_give_one_at_a_time():
    with StreamWriter.create("plain", SHAPE, "u2") as writer, StreamReader("plain") as reader:
        publish(writer, 1)
        assert runs(reader) == [(1, 1)]
    with ring(64) as writer, StreamReader("ring") as reader:
        publish(writer, 5)
        writer._all_counts[:] = 0
        found = []
        while (frames := reader.next_frames(8)) is not None:
            found.append((frames.first.counter, frames.count))
        assert found == [(number, 1) for number in range(1, 6)]
