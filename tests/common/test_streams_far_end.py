# SPDX-License-Identifier: BSD-3-Clause
"""A stream that repeats another one: its counters, its keywords."""

from __future__ import annotations

import numpy as np
import pytest

from nightjar.errors import InvalidArgument, Refused
from nightjar.streams.reader import StreamReader
from nightjar.streams.writer import StreamWriter


def publish(writer, counter, value=0):
    slot = writer.next_slot
    writer.begin(slot)
    writer.slot(slot)[:] = value
    return writer.publish(slot, 1, 2, counter=counter)


@pytest.fixture
def writer():
    return StreamWriter.create("far", (2, 2), "u2", depth=4, nkw=6)


def test_counters_of_another_stream_with_gaps(writer):
    with StreamReader("far", start="oldest") as reader:
        assert publish(writer, 7) == 7
        assert publish(writer, 8) == 8
        assert [reader.next_frame().counter for _ in range(2)] == [7, 8]
        publish(writer, 11)
        frame = reader.next_frame()
        assert (frame.counter, frame.missed) == (11, 2)
        assert reader.next_frame() is None


@pytest.mark.parametrize("counter", [0, 6, 7, -1, 2**64 - 1])
def test_counter_that_does_not_grow_is_refused_and_the_slot_stays(writer, counter):
    publish(writer, 7)
    slot = writer.next_slot
    writer.begin(slot)
    with pytest.raises(InvalidArgument):
        writer.publish(slot, 1, counter=counter)
    assert writer.publish(slot, 1, counter=9) == 9


def test_half_published_frame_behind_a_gap_is_completed(writer):
    publish(writer, 7)
    slot = writer.next_slot
    writer.begin(slot)
    writer._slice_counts[slot] = 12  # the slice is committed, then the process dies
    writer._bytes[220:224] = (0).to_bytes(4, "little")
    taken = StreamWriter.attach("far")
    assert taken.counter == 12
    assert taken.next_slot == (slot + 1) % 4


def test_keyword_slots_are_taken_over_byte_by_byte(writer):
    source = StreamWriter.create("near", (2, 2), "u2", nkw=3, keywords={"A": 1, "B": (2.5, "b")})
    writer.set_keyword("OWN", "here", "stays")
    writer.set_keyword("OLD", 3, "goes")
    reader = StreamReader("near")
    writer.load_keywords(reader.keyword_block(), ("OWN",))
    assert list(writer.keywords()) == ["A", "B", "OWN"]
    assert StreamReader("far").keyword_block()[:256] == reader.keyword_block()[:256]
    source.set_keyword("B", "text now", "other")
    source.set_keyword("C", 7)
    writer.load_keywords(reader.keyword_block(), ("OWN",))
    assert writer.keywords() == {**source.keywords(), "OWN": ("here", "stays")}
    writer.set_keyword("OWN", "new")
    writer.set_keyword("MORE", 1)
    assert writer.keywords()["OWN"] == ("new", "stays")
    writer.load_keywords(b"", ())
    assert writer.keywords() == {}


def test_more_keywords_than_slots_are_refused_and_nothing_changes(writer):
    StreamWriter.create("near", (2, 2), "u2", nkw=9, keywords={f"K{i}": i for i in range(7)})
    writer.set_keyword("OWN", 1)
    with pytest.raises(Refused, match="6 slots"):
        writer.load_keywords(StreamReader("near").keyword_block(), ())
    assert list(writer.keywords()) == ["OWN"]


def test_identity_changes_with_the_file(writer):
    with StreamReader("far") as reader:
        before = reader.identity
        np.testing.assert_allclose(before[1] / 1e9, reader.identity[1] / 1e9)
        StreamWriter.create("far", (2, 2), "u2", depth=4)
        assert reader.identity == before
        assert reader.relink()
        assert reader.identity != before
