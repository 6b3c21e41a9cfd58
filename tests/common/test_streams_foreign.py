# SPDX-License-Identifier: BSD-3-Clause
"""Streams of other programs: other orders of the stores, flags that stay up, TAI, half-set keys."""

import mmap
import struct
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from nightjar import clock as clocks
from nightjar.clock import TAI_UTC_S, ManualClock, tai_offset_s
from nightjar.errors import InvalidArgument, Refused
from nightjar.streams import attachment, inspect
from nightjar.streams import reader as reading
from nightjar.streams.editing import set_keyword
from nightjar.streams.inspect import describe
from nightjar.streams.keywords import KeywordBlock
from nightjar.streams.layout import KEYWORD_SEQUENCE_OFFSET
from nightjar.streams.reader import StreamReader
from nightjar.streams.semaphores import Semaphore
from nightjar.streams.writer import StreamWriter

SHAPE = (4, 5)
NOW_NS = 1_750_000_000_000_000_000


class Bytes:
    """A stream file as another program changes it."""

    def __init__(self, path):
        with open(path, "r+b") as file:
            self.map = mmap.mmap(file.fileno(), 0)

    def put(self, offset, form, *values):
        struct.pack_into(form, self.map, offset, *values)

    def get(self, offset, form="<Q"):
        return struct.unpack_from(form, self.map, offset)[0]


def image(value):
    return np.full(SHAPE, value, "u2")


# ------------------------------------------------------------------------------- orders


def test_pymilk_order_loses_and_doubles_nothing_that_is_not_counted():
    """Flag, pixels, posts, time of access, flag, and only then the counters; no times at all."""
    count = 400
    with StreamWriter.create("plain", (64, 64), "u2") as made, StreamReader("plain") as reader:
        foreign, offsets = Bytes(made.path), made.geometry.offsets()
        semaphores = [Semaphore(foreign.map, offsets.semaphores + 32 * n) for n in range(10)]

        def write():
            for number in range(1, count + 1):
                foreign.put(288, "<B", 1)
                foreign.map[384 : 384 + 8192] = struct.pack("<H", number) * 4096
                for semaphore in semaphores:
                    semaphore.post(10)
                foreign.put(168, "<qq", number, number)
                foreign.put(288, "<B", 0)
                foreign.put(264, "<QQ", number, number)
                deadline = time.monotonic() + 15.0
                while number % 8 == 0 and time.monotonic() < deadline:  # the reader has its turn
                    if reader.delivered + reader.lost + reader.torn >= number:
                        break
                    time.sleep(0.0002)

        thread = threading.Thread(target=write)
        thread.start()
        seen = []
        for frame in reader.frames(15.0):
            # The number in the pixels may be one ahead of the counter (it is counted last) ...
            assert frame.data.min() == frame.data.max()
            assert int(frame.data[0, 0]) - frame.counter in (0, 1)
            assert (frame.atime_ns, frame.writetime_ns) == (0, 0)
            seen.append(frame.counter)
            if frame.counter == count:
                break
        thread.join(30)
        # ... but no counter comes twice, and none is missing from the books.
        assert seen == sorted(set(seen))
        assert reader.delivered + reader.lost + reader.torn == count
        assert len(seen) > count // 20


def test_writer_that_never_lowers_its_flag_holds_nobody_up():
    """In a ring only the slot that is next is in doubt; a plain stream's frames are all."""
    with StreamWriter.create("ring", SHAPE, "u2", depth=4) as writer:
        with StreamReader("ring") as reader:
            foreign = Bytes(writer.path)
            for number in range(1, 9):
                writer.write(image(number), number)
                foreign.put(288, "<B", 1)
                frame = reader.next_frame()
                assert (frame.counter, int(frame.data[0, 0])) == (number, number)
            assert (reader.lost, reader.torn) == (0, 0)
    with StreamWriter.create("plain", SHAPE, "u2") as writer, StreamReader("plain") as reader:
        foreign = Bytes(writer.path)
        for number in range(1, 4):
            writer.write(image(number), number)
            foreign.put(288, "<B", 1)
            assert reader.next_frame() is None
        assert (reader.delivered, reader.lost, reader.unread) == (0, 3, 0)
        foreign.put(288, "<B", 0)
        writer.write(image(4), 4)
        assert reader.next_frame().counter == 4


def test_flag_that_stays_up_is_told():
    clock = ManualClock(NOW_NS)
    with StreamWriter.create("plain", SHAPE, "u2", clock=clock) as writer:
        writer.write(image(1), NOW_NS)
        Bytes(writer.path).put(288, "<B", 1)
        assert describe("plain", clock=clock).notes == ()
        clock.advance(6)
        assert "flag is up" in describe("plain", clock=clock).notes[0]


# ------------------------------------------------------------------------------- TAI


@pytest.mark.parametrize("kernel_s", [0, 37, 38])
def test_tai_stamps_are_told_and_converted(monkeypatch, kernel_s):
    for module in (reading, inspect):
        monkeypatch.setattr(module, "tai_offset_s", lambda: kernel_s)
    offset_ns = (kernel_s or TAI_UTC_S) * 10**9
    clock = ManualClock(NOW_NS)
    with StreamWriter.create("tai", SHAPE, "u2", depth=4, clock=clock) as writer:
        with (
            StreamReader("tai", stamps="tai", clock=clock) as right,
            StreamReader("tai", clock=clock) as plain,
        ):
            writer.write(image(1), NOW_NS + offset_ns - 5, NOW_NS + offset_ns)
            clock.advance(0.5)
            frame = right.next_frame()
            assert (frame.atime_ns, frame.writetime_ns) == (NOW_NS - 5, NOW_NS)
            assert right.age_s == pytest.approx(0.5)
            assert plain.next_frame().writetime_ns == NOW_NS + offset_ns
            (note,) = describe("tai", clock=clock).notes
            assert "TAI" in note
            writer.write(image(2), 0, 0)
            frame = right.next_frame()
            assert (frame.atime_ns, frame.writetime_ns) == (0, 0)  # none given stays none


def test_other_times_to_come_are_no_tai():
    clock = ManualClock(NOW_NS)
    with StreamWriter.create("ahead", SHAPE, "u2", clock=clock) as writer:
        writer.write(image(1), NOW_NS + 3600 * 10**9)
        (note,) = describe("ahead", clock=clock).notes
        assert "3600.0 s in the future" in note
        writer.write(image(1), NOW_NS)
        assert describe("ahead", clock=clock).notes == ()


def test_offset_of_the_kernel(monkeypatch):
    utc = clocks.time.CLOCK_REALTIME
    monkeypatch.setattr(
        clocks.time, "clock_gettime_ns", lambda kind: NOW_NS + (0 if kind == utc else 37 * 10**9)
    )
    assert tai_offset_s() == 37
    monkeypatch.setattr(clocks.time, "clock_gettime_ns", lambda kind: NOW_NS)
    assert tai_offset_s() == 0
    monkeypatch.delattr(clocks.time, "CLOCK_TAI", raising=False)
    assert tai_offset_s() == 0


# ------------------------------------------------------------------------------- keywords


def test_keywords_that_belong_together_are_seen_together(monkeypatch):
    """A reader that looks between two of three changes waits for the third."""
    monkeypatch.setattr(attachment, "_SETTLE_S", 30.0)
    looked, found = threading.Event(), []

    def monotonic():  # asked for after each look that did not settle
        looked.set()
        return time.monotonic()

    def set_and_look(block, name, *rest):
        real_set(block, name, *rest)
        if name == "B":
            monkeypatch.setattr(
                attachment, "time", SimpleNamespace(monotonic=monotonic, sleep=time.sleep)
            )
            thread.start()
            assert looked.wait(20)

    with StreamWriter.create("k", SHAPE, "u2", keywords={"A": 0, "B": 0, "C": "0"}) as writer:
        with StreamReader("k") as reader:
            thread = threading.Thread(target=lambda: found.append(reader.keywords()))
            real_set = KeywordBlock.set
            monkeypatch.setattr(KeywordBlock, "set", set_and_look)
            writer.set_keywords({"A": 1, "B": 1, "C": "1"})
            thread.join(20)
            assert [str(keyword.value) for keyword in found[0].values()] == ["1", "1", "1"]


def test_change_of_several_keywords_is_all_or_nothing():
    with StreamWriter.create("k", SHAPE, "u2", nkw=3, keywords={"A": 1, "B": 2}) as writer:
        with pytest.raises(InvalidArgument):
            writer.set_keywords({"A": 5, "B": "x" * 17})
        with pytest.raises(Refused, match="2 new keywords"):
            writer.set_keywords({"A": 5, "C": 3, "D": 4})
        assert writer.keywords() == {"A": (1, ""), "B": (2, "")}
        writer.set_keywords({"A": 5, "C": 3})
        assert writer.keywords() == {"A": (5, ""), "B": (2, ""), "C": (3, "")}


def test_writer_that_died_amid_keywords_holds_no_reader_up():
    writer = StreamWriter.create("k", SHAPE, "u2", keywords={"A": 1})
    writer.close()
    foreign = Bytes(writer.path)
    foreign.put(KEYWORD_SEQUENCE_OFFSET, "<I", 7)
    with StreamReader("k") as reader:
        assert reader.keywords() == {"A": (1, "")}
        with StreamWriter.attach("k") as taken:
            assert foreign.get(KEYWORD_SEQUENCE_OFFSET, "<I") == 8
            taken.set_keywords({"A": 2})
            assert foreign.get(KEYWORD_SEQUENCE_OFFSET, "<I") == 10
            assert reader.keywords() == {"A": (2, "")}


def test_keyword_set_from_outside_and_the_owners_own_live_together():
    with StreamWriter.create("k", SHAPE, "u2", nkw=4, keywords={"A": (1, "first")}) as writer:
        set_keyword("k", "A", 5)
        set_keyword("k", "OUTSIDE", "text", "set by hand")
        writer.set_keyword("B", 2.5)
        assert writer.keywords() == {
            "A": (5, "first"), "OUTSIDE": ("text", "set by hand"), "B": (2.5, ""),
        }  # fmt: skip
        set_keyword("k", "B", 3.5)
        writer.set_keyword("C", 1)
        with pytest.raises(Refused, match="all 4 keyword slots"):
            set_keyword("k", "D", 1)
        with pytest.raises(InvalidArgument):
            set_keyword("k", "A", "x" * 17)
        with pytest.raises(Refused, match="no stream 'none'"):
            set_keyword("none", "A", 1)
