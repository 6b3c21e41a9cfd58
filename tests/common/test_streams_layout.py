# SPDX-License-Identifier: BSD-3-Clause
"""The bytes of a stream file against images built by hand from the format's offset table."""

import dataclasses
import os
import struct

import numpy as np
import pytest

from nightjar.clock import ManualClock
from nightjar.errors import InvalidArgument, StorageError
from nightjar.streams import layout
from nightjar.streams.keywords import decode_keyword, encode_keyword
from nightjar.streams.layout import StreamGeometry, parse_geometry
from nightjar.streams.writer import StreamWriter

NOW_NS = 1_750_000_000_123_456_789


@pytest.mark.parametrize(
    ("depth", "history", "total"),
    # Sizes that the C library gives for 5 x 4 unsigned 16-bit pixels with 7 keywords.
    [(None, 0, 2472), (3, 0, 2672), (3, 4, 3344)],
)
def test_total_size_is_that_of_the_c_library(depth, history, total):
    geometry = StreamGeometry.make((4, 5), "u2", depth=depth, keyword_count=7)
    assert dataclasses.replace(geometry, history_depth=history).offsets().total == total


def test_size_of_a_plain_stream_follows_the_formula():
    for rows, columns, dtype, keywords in [(7, 3, "u1", 0), (120, 120, "f4", 50), (1, 9, "c16", 3)]:
        pixels = rows * columns * np.dtype(dtype).itemsize
        geometry = StreamGeometry.make((rows, columns), dtype, keyword_count=keywords)
        assert geometry.offsets().total == 1536 + (pixels + 7) // 8 * 8 + 128 * keywords


def test_record_sizes():
    assert layout.METADATA.itemsize == 384
    assert layout.KEYWORD.itemsize == 128
    assert layout.TRACE.itemsize == 64
    assert layout.HISTORY_RECORD.itemsize == 48
    assert max(field[1] for field in layout.METADATA.fields.values()) == 320


def golden_header(writer, *, inode, cnt0, cnt1, atime, writetime):
    """The 384 bytes of a 5 x 4 x 3 rolling stream, every field placed by its offset."""
    header = bytearray(384)
    created = divmod(NOW_NS, 10**9)
    for offset, form, *values in [
        (0, "<32s", b"2.00"),
        (32, "<80s", b"golden"),
        (112, "<B", 3),
        (116, "<3I", 5, 4, 3),
        (128, "<Q", 60),
        (136, "<B", 3),
        (144, "<Q", 131073),
        (152, "<qq", *created),
        (168, "<qq", *writetime),
        (184, "<qq", *atime),
        (200, "<qq", *writetime),
        (216, "<i", os.getpid()),
        (220, "<i", os.getpid()),
        (224, "<B", 1),
        (232, "<Q", inode),
        (240, "<b", -1),
        (258, "<H", 10),
        (260, "<H", 10),
        (264, "<Q", cnt0),
        (272, "<Q", cnt1),
        (290, "<H", 7),
        (312, "<Q", 120),
    ]:
        struct.pack_into(form, header, offset, *values)
    return bytes(header)


def test_file_of_a_rolling_stream_byte_by_byte():
    writer = StreamWriter.create(
        "golden", (4, 5), "u2", depth=3, nkw=7, clock=ManualClock(NOW_NS),
        keywords={
            "FRAMEID": (-2, "hardware number"), "EXPOSURE": 0.5, "FILTER": "abcdefghijklmno!",
        },
    )  # fmt: skip
    pixels = np.arange(20, dtype="u2").reshape(4, 5) + 1000
    counter = writer.write(pixels, 1_700_000_001_000_000_002, 1_700_000_003_000_000_004)
    data = writer.path.read_bytes()
    inode = writer.path.stat().st_ino
    times = {"atime": (1_700_000_001, 2), "writetime": (1_700_000_003, 4)}
    assert counter == 1
    assert data[:384] == golden_header(writer, inode=inode, cnt0=1, cnt1=0, **times)
    assert data[384:424] == struct.pack("<20H", *range(1000, 1020))  # x fastest
    assert data[424:504] == bytes(80)
    keywords = b"".join(
        [
            struct.pack("<16sc7xq8xQ80s", b"FRAMEID", b"L", -2, 0, b"hardware number"),
            struct.pack("<16sc7xd8xQ80s", b"EXPOSURE", b"D", 0.5, 0, b""),
            struct.pack("<16sc7x16sQ80s", b"FILTER", b"S", b"abcdefghijklmno!", 0, b""),
            struct.pack("<16sc111x", b"", b"N") * 4,
        ]
    )
    assert data[504:1400] == keywords
    # glibc: value in the low 32 bits, no waiters, then 0x80 for "shared between processes".
    assert data[1400:1720] == struct.pack("<IIi20x", 1, 0, 0x80) * 10
    assert data[1720:1752] == struct.pack("<IIi20x", 0, 0, 0x80)
    assert data[1752:1832] == struct.pack("<20i", *[-1] * 20)
    assert data[1832:2552] == bytes(80 + 640)
    assert data[2552:2600] == struct.pack("<6q", *times["atime"], 0, 0, 0, 0)
    assert data[2600:2648] == struct.pack("<6q", *times["writetime"], 0, 0, 0, 0)
    assert data[2648:] == struct.pack("<3Q", 1, 0, 0)
    assert len(data) == 2672
    writer.close()


def test_header_round_trip_for_every_type_and_number_of_axes():
    for code, dtype in layout.DTYPE_CODES.items():
        for shape in [(7,), (4, 5), (3, 4, 5)]:
            geometry = StreamGeometry.make(shape, dtype)
            header = layout.metadata_bytes(geometry, "x", created_ns=1, pid=2, inode=3)
            data = layout.VERSION + header[len(layout.VERSION) :]
            assert data[136] == code
            assert struct.unpack_from("<3I", data, 116) == (*shape[::-1], 0, 0)[:3]
            assert parse_geometry(data, geometry.offsets().total, "x") == geometry


def test_true_cube_is_not_taken_for_a_ring():
    cube = StreamGeometry.make((3, 4, 5), "u2")
    assert not cube.is_rolling
    assert cube.frame_shape == (3, 4, 5)
    ring = StreamGeometry.make((4, 5), "u2", depth=3)
    assert ring.is_rolling
    assert ring.frame_shape == (4, 5)
    assert [ring.slot_offset(i) for i in range(3)] == [384, 424, 464]


def test_616_megabyte_ring_has_the_expected_offsets():
    ring = StreamGeometry.make((6422, 9600), "u2", depth=5)
    assert ring.pixel_bytes == 616_512_000
    assert ring.slot_offset(4) == 384 + 4 * 123_302_400
    assert ring.interop_notes() == ()


def test_over_2_gib_is_noted_for_other_programs():
    ring = StreamGeometry.make((6422, 9600), "u2", depth=18)
    assert "2 GiB" in ring.interop_notes()[0]


def broken(data, offset, form, value):
    changed = bytearray(data)
    struct.pack_into(form, changed, offset, value)
    return bytes(changed)


@pytest.mark.parametrize(
    ("offset", "form", "value", "message"),
    [
        (0, "<32s", b"", "unfinished"),
        (0, "<32s", b"1.00", "1.00"),
        (0, "<32s", b"2.00beta", "2.00beta"),
        (112, "<B", 4, "axes"),
        (112, "<B", 0, "axes"),
        (136, "<B", 20, "pixel type"),
        (240, "<b", 0, "GPU"),
        (116, "<I", 0, "axes of at least 1"),
        (116, "<I", 6, "bytes of pixels"),
        (290, "<H", 51, "damaged"),
        (292, "<I", 1, "damaged"),
        (144, "<Q", 2, "damaged"),
    ],
)
def test_a_wrong_header_is_refused_and_the_message_says_why(offset, form, value, message):
    geometry = StreamGeometry.make((4, 5), "u2", depth=3)
    header = layout.metadata_bytes(geometry, "x", created_ns=1, pid=2, inode=3)
    good = broken(header, 0, "<32s", b"2.00")
    total = geometry.offsets().total
    assert parse_geometry(good, total, "x") == geometry
    with pytest.raises(StorageError, match=message):
        parse_geometry(broken(good, offset, form, value), total, "/somewhere/x")


def test_size_and_length_mismatches_are_refused():
    geometry = StreamGeometry.make((4, 5), "u2")
    header = layout.metadata_bytes(geometry, "x", created_ns=1, pid=2, inode=3)
    good = broken(header, 0, "<32s", b"2.00")
    # The same version made with other compile options: a header of 4496 bytes.
    with pytest.raises(StorageError, match="other options"):
        parse_geometry(good, geometry.offsets().total + 4112, "x")
    with pytest.raises(StorageError, match="not a stream"):
        parse_geometry(good[:383], 383, "x")


@pytest.mark.parametrize(
    ("shape", "dtype", "depth"),
    [
        ((), "u2", None), ((1, 2, 3, 4), "u2", None), ((0, 4), "u2", None), ((4, 5), "U4", None),
        ((4, 5), "u2", 1), ((4,), "u2", 4), ((2, 4, 5), "u2", 4), ((200_000, 100_000), "u1", None),
    ],
)  # fmt: skip
def test_impossible_geometry_is_refused(shape, dtype, depth):
    with pytest.raises(InvalidArgument):
        StreamGeometry.make(shape, dtype, depth=depth)


def test_keyword_of_16_bytes_without_nul_round_trips():
    slot = encode_keyword("N" * 16, "v" * 16, "c" * 80, 9)
    assert len(slot) == 128
    assert decode_keyword(slot) == ("N" * 16, ("v" * 16, "c" * 80))


@pytest.mark.parametrize(
    ("name", "value", "comment"),
    [
        ("", 1, ""), ("N" * 17, 1, ""), ("A", "v" * 17, ""), ("A", 2**63, ""),
        ("A", -(2**63) - 1, ""), ("A", 1, "c" * 81), ("A", "é" * 9, ""),
    ],
)  # fmt: skip
def test_keyword_that_does_not_fit_is_refused_not_cut(name, value, comment):
    with pytest.raises(InvalidArgument):
        encode_keyword(name, value, comment, 0)
