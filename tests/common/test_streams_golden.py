# SPDX-License-Identifier: BSD-3-Clause
"""Whole stream files built from the format's tables alone, read by us and written by us.

The builder below knows nothing of nightjar: the order of the blocks, their sizes and every offset
are those that the compiled C library has (5 x 4 pixels of 16 bits, 7 keywords; 2472 bytes plain,
2672 as a rolling buffer of 3, 3344 with 4 copies of history beside it).
"""

import os
import struct

import numpy as np
import pytest

from nightjar.clock import ManualClock
from nightjar.streams.inspect import describe
from nightjar.streams.layout import DTYPE_CODES
from nightjar.streams.reader import StreamReader
from nightjar.streams.writer import StreamWriter

NOW_NS = 1_750_000_000_123_456_789
COLUMNS, ROWS = 5, 4
FRAME_BYTES = 2 * COLUMNS * ROWS
KEYWORDS = (
    struct.pack("<16sc7xq8xQ80s", b"FRAMEID", b"L", -2, 0, b"hardware number")
    + struct.pack("<16sc7xd8xQ80s", b"EXPOSURE", b"D", 0.5, 0, b"")
    + struct.pack("<16sc7x16sQ80s", b"SIXTEEN-BYTES-NA", b"S", b"abcdefghijklmno!", 0, b"c" * 80)
    + struct.pack("<16sc111x", b"", b"N") * 4
)
KEYWORD_VALUES = {
    "FRAMEID": (-2, "hardware number"), "EXPOSURE": (0.5, ""),
    "SIXTEEN-BYTES-NA": ("abcdefghijklmno!", "c" * 80),
}  # fmt: skip
TOTALS = {(None, 0): 2472, (3, 0): 2672, (3, 4): 3344}


def pixels(frame):
    return struct.pack("<20H", *(1000 * frame + n for n in range(20)))


def stamps(frame):
    return (1_700_000_000 + frame, 2 * frame), (1_700_000_100 + frame, 3 * frame)


def rounded(data):
    return data + bytes(-len(data) % 8)


def golden(depth, history, frames, *, inode, pid):
    """The file of a stream after a number of frames; without depth a plain one."""
    last = frames - 1 if frames else None
    atime, writetime = stamps(frames) if frames else ((0, 0), divmod(NOW_NS, 10**9))
    header = bytearray(384)

    def put(offset, form, *values):
        struct.pack_into(form, header, offset, *values)

    put(0, "<32s", b"2.00")
    put(32, "<80s", b"golden")
    put(112, "<B", 3 if depth else 2)
    put(116, "<3I", COLUMNS, ROWS, depth or 0)
    put(128, "<Q", 20 * (depth or 1))
    put(136, "<B", 3)
    put(144, "<Q", 131073 if depth else 2)
    put(152, "<qq", *divmod(NOW_NS, 10**9))
    put(168, "<qq", *writetime)
    put(184, "<qq", *atime)
    put(200, "<qq", *(writetime if frames else (0, 0)))
    put(216, "<ii", pid, pid)
    put(224, "<B", 1)
    put(232, "<Q", inode)
    put(240, "<b", -1)
    put(258, "<HH", 10, 10)
    put(264, "<QQ", frames, (last % depth if frames else depth - 1) if depth else 0)
    put(290, "<H", 7)
    put(292, "<I", history)
    put(296, "<I", frames % history if history else 0)
    put(304, "<Q", frames // history if history else 0)
    put(312, "<Q", FRAME_BYTES * (depth or 1))

    def ring(newest):
        if not depth:
            return pixels(newest) if newest else bytes(FRAME_BYTES)
        held = [bytes(FRAME_BYTES)] * depth
        for frame in range(1, newest + 1):
            held[(frame - 1) % depth] = pixels(frame)
        return b"".join(held)

    data = bytes(header) + rounded(ring(frames)) + KEYWORDS
    data += struct.pack("<IIi20x", min(frames, 10), 0, 0x80) * 10  # semaphores: value, waiters
    data += struct.pack("<IIi20x", 0, 0, 0x80)  # the one of the log
    data += struct.pack("<20i", *[-1] * 20) + bytes(80)  # users; control and status
    data += bytes(64 * 10)  # traces
    if depth:
        slices = [((0, 0), (0, 0), 0)] * depth
        for frame in range(1, frames + 1):
            slices[(frame - 1) % depth] = (*stamps(frame), frame)
        data += b"".join(struct.pack("<qq", *each[0]) for each in slices)
        data += b"".join(struct.pack("<qq", *each[1]) for each in slices)
        data += b"".join(struct.pack("<Q", each[2]) for each in slices)
    records, kept = bytearray(48 * history), [bytes(FRAME_BYTES * (depth or 1))] * history
    for frame in range(1, frames + 1 if history else 0):
        place = frame % history
        struct.pack_into("<QQ4q", records, 48 * place, frame, (frame - 1) % depth if depth else 0,
                         *stamps(frame)[0], *stamps(frame)[1])  # fmt: skip
        kept[place] = ring(frame)
    return data + bytes(records) + rounded(b"".join(kept))


@pytest.mark.parametrize(("depth", "history"), list(TOTALS))
@pytest.mark.parametrize("frames", [0, 1, 5])
def test_files_that_we_write_are_byte_by_byte_those_of_the_format(depth, history, frames):
    writer = StreamWriter.create(
        "golden", (ROWS, COLUMNS), "u2", depth=depth, history=history, nkw=7,
        keywords=KEYWORD_VALUES, clock=ManualClock(NOW_NS),
    )  # fmt: skip
    for frame in range(1, frames + 1):
        array = np.frombuffer(pixels(frame), "<u2").reshape(ROWS, COLUMNS)
        atime, writetime = ((s * 10**9 + ns) for s, ns in stamps(frame))
        assert writer.write(array, atime, writetime) == frame
    inode = writer.path.stat().st_ino
    written, expected = writer.path.read_bytes(), golden(
        depth, history, frames, inode=inode, pid=os.getpid()
    )  # fmt: skip
    assert len(written) == TOTALS[depth, history]
    assert written == expected
    writer.close()


@pytest.mark.parametrize(("depth", "history"), list(TOTALS))
def test_files_of_the_format_are_read_and_carried_on(tmp_path, depth, history):
    path = tmp_path / "golden.im.shm"
    path.write_bytes(golden(depth, history, 5, inode=1, pid=0))
    info = describe(path)
    assert (info.shape, info.dtype, info.depth) == ((ROWS, COLUMNS), "uint16", depth or 1)
    assert (info.counter, info.owner_pid, info.keywords) == (5, 0, KEYWORD_VALUES)
    with StreamReader(path, start="oldest", use_semaphore=False) as reader:
        for frame in range(3 if depth else 5, 6):
            found = reader.next_frame()
            assert (found.counter, found.data.tobytes()) == (frame, pixels(frame))
            atime, writetime = ((s * 10**9 + ns) for s, ns in stamps(frame))
            assert (found.atime_ns, found.writetime_ns) == (atime, writetime)
        assert reader.next_frame() is None
        assert reader.keywords() == KEYWORD_VALUES
        if history:
            assert [int(kept[0, 0, 0]) for kept in reader.history()] == [1000, 1000, 4000, 4000]
        else:
            assert reader.history() is None
    with StreamWriter.attach(path, clock=ManualClock(NOW_NS)) as writer:
        atime, writetime = ((s * 10**9 + ns) for s, ns in stamps(6))
        array = np.frombuffer(pixels(6), "<u2").reshape(ROWS, COLUMNS)
        assert writer.write(array, atime, writetime) == 6
    assert path.read_bytes() == golden(depth, history, 6, inode=1, pid=0)


@pytest.mark.parametrize("history", [1, 3])
def test_history_of_a_plain_stream_before_and_after_its_first_turn(history):
    with StreamWriter.create("h", (2, 2), "f4", history=history) as writer:
        with StreamReader("h") as reader:
            seen = []
            for number in range(1, 6):
                writer.write(np.full((2, 2), number, "f4"), number)
                seen.append([int(each[0, 0]) for each in reader.history()])
    expected = [list(range(max(1, n - history + 1), n + 1)) for n in range(1, 6)]
    assert seen == expected


@pytest.mark.parametrize("code", list(DTYPE_CODES))
@pytest.mark.parametrize("depth", [None, 2])
def test_pixels_of_every_type_arrive(code, depth):
    kind = DTYPE_CODES[code]
    array = np.arange(20).astype(kind).reshape(ROWS, COLUMNS)
    with StreamWriter.create("typed", array.shape, kind, depth=depth) as writer:
        with StreamReader("typed") as reader:
            writer.write(array, 1)
            frame = reader.next_frame()
            assert frame.data.dtype == kind
            assert np.array_equal(frame.data, array)
            assert writer.path.read_bytes()[384 : 384 + array.nbytes] == array.tobytes()


def test_cube_whose_third_axis_is_no_time_is_one_frame(tmp_path):
    """Wavelengths (imagetype 0x30002): three axes, no slices, one frame."""
    path = tmp_path / "spectrum.im.shm"
    plain = bytearray(golden(None, 0, 3, inode=1, pid=0))
    struct.pack_into("<B", plain, 112, 3)
    struct.pack_into("<3I", plain, 116, COLUMNS, 2, 2)
    struct.pack_into("<Q", plain, 144, 0x30002)
    path.write_bytes(plain)
    with StreamReader(path, start="oldest") as reader:
        assert not reader.geometry.is_rolling
        frame = reader.latest()
        assert frame.data.shape == (2, 2, COLUMNS)
        assert frame.data.tobytes() == pixels(3)
