# SPDX-License-Identifier: BSD-3-Clause
"""Whatever writer and reader do, every frame is delivered whole once, or counted as missed."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nightjar.streams.keywords import decode_keyword, encode_keyword
from nightjar.streams.layout import StreamGeometry
from nightjar.streams.reader import StreamReader
from nightjar.streams.writer import StreamWriter

SHAPE = (4, 6)

STEP = st.sampled_from(["write", "begin", "publish", "abandon", "leave out 1", "leave out 7"])
ACTION = st.one_of(
    STEP.map(lambda step: (step, ())),
    # A read, and what the writer does when half of the pixels are copied.
    st.lists(STEP, max_size=8).map(lambda steps: ("read", tuple(steps))),
    st.just(("remake", ())),
)


class Source:
    """A writer that does single steps, and the truth: the stamp of every published frame."""

    def __init__(self, depth):
        self.depth = depth
        self.stamp = 0
        self.left_out = 0  # numbers that the next frame passes over, as behind a thinning link
        self.truth = []  # per file: {counter: stamp}
        self.writer = None
        self.remake()

    def remake(self):
        if self.writer is not None:
            self.writer.close()
        self.writer = StreamWriter.create("s", SHAPE, "u2", depth=self.depth)
        self.truth.append({})

    def step(self, step):
        writer = self.writer
        if step == "begin" and writer.begun_slot is None:
            slot = writer.next_slot
            writer.begin(slot)
            self.stamp += 1
            writer.slot(slot)[:2] = self.stamp  # the first half: a mixture until published
        elif step == "publish" and writer.begun_slot is not None:
            slot = writer.begun_slot
            writer.slot(slot)[:] = self.stamp
            number = writer.counter + 1 + self.left_out
            self.left_out = 0
            self.truth[-1][writer.publish(slot, self.stamp, counter=number)] = self.stamp
        elif step.startswith("leave out"):
            self.left_out += int(step[-1])
        elif step == "abandon" and writer.begun_slot is not None and self.depth is not None:
            writer.abandon(writer.begun_slot)
        elif step == "write" and writer.begun_slot is None:
            self.step("begin")
            self.step("publish")


@settings(max_examples=150)
@given(st.sampled_from([None, 2, 3, 5]), st.lists(ACTION, max_size=40))
def test_every_frame_is_delivered_whole_or_counted(depth, actions):
    source = Source(depth)
    during = []

    class SlowReader(StreamReader):
        @staticmethod
        def _copy(pixels):
            copied = pixels.copy()
            while during:
                source.step(during.pop(0))
            copied[2:] = pixels[2:]
            return copied

    delivered, finished = [], 0
    with SlowReader("s") as reader:
        for action, steps in [*actions, ("read", ()), *[("read", ())] * 60]:
            if action == "remake":
                source.remake()
            elif action != "read":
                source.step(action)
            else:
                during[:] = steps
                frame = reader.next_frame()
                during.clear()
                if frame is not None:
                    assert (frame.data == frame.data[0, 0]).all(), "a torn frame was delivered"
                    stamp = int(frame.data[0, 0])
                    (truth,) = (known for known in source.truth if stamp in known.values())
                    assert truth[frame.counter] == stamp
                    assert frame.atime_ns == stamp
                    delivered.append(stamp)
                elif reader.is_replaced():
                    finished += reader.counter  # the counter of the old file: all accounted for
                    assert reader.relink()
        assert delivered == sorted(set(delivered)), "order or a duplicate"
        assert reader.unread == 0
        assert reader.delivered == len(delivered)
        total = finished + reader.counter
        assert reader.delivered + reader.lost + reader.torn == total
    source.writer.close(unlink=True)


@settings(max_examples=60)
@given(
    st.text(st.characters(codec="ascii", exclude_characters="\0"), min_size=1, max_size=16),
    st.one_of(
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False),
        st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=16),
    ),
    st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=80),
)
def test_keywords_round_trip(name, value, comment):
    assert decode_keyword(encode_keyword(name, value, comment, 3)) == (name, (value, comment))


@given(
    st.integers(1, 300), st.integers(1, 300), st.sampled_from(["u1", "u2", "f4", "c16"]),
    st.none() | st.integers(2, 50), st.integers(0, 200),
)  # fmt: skip
def test_blocks_follow_each_other_on_8_byte_borders(rows, columns, dtype, depth, keywords):
    geometry = StreamGeometry.make((rows, columns), dtype, depth=depth, keyword_count=keywords)
    offsets = geometry.offsets()
    assert list(offsets) == sorted(offsets)
    assert all(offset % 8 == 0 for offset in offsets)
    end_of_pixels = geometry.slot_offset(geometry.depth - 1) + geometry.frame_bytes
    assert 0 <= offsets.keywords - end_of_pixels < 8
    assert end_of_pixels == 384 + (depth or 1) * rows * columns * np.dtype(dtype).itemsize
