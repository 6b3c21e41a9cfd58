# SPDX-License-Identifier: BSD-3-Clause
"""The wire of stream links: what is sent is what is read, and nothing else is ever read."""

from __future__ import annotations

import math
from binascii import crc32

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nightjar.errors import NightjarError
from nightjar.streams.layout import DTYPE_CODES, KEYWORD_BYTES
from nightjard.streamlinkd import wire
from nightjard.streamlinkd.secret import Seal
from nightjard.streamlinkd.wire import Header, Kind, VersionMismatch, WireError

U16, U32, U64 = (st.integers(0, 2**bits - 1) for bits in (16, 32, 64))
I64 = st.integers(-(2**63), 2**63 - 1)


@st.composite
def headers(draw):
    kind = draw(st.sampled_from(list(Kind)))
    code, axes = draw(st.sampled_from(sorted(DTYPE_CODES))), draw(st.integers(1, 3))
    sizes = [draw(st.integers(1, 3000)) for _ in range(axes)] + [0] * (3 - axes)
    keywords = draw(st.integers(0, 1000))
    body = draw(st.sampled_from([0, keywords * KEYWORD_BYTES]))
    payload = more = 0
    depth = draw(U32)
    if kind in (Kind.HELLO, Kind.END, Kind.REPORT):
        body = draw(st.integers(0, wire.JSON_LIMIT))
    elif kind is Kind.FRAME:
        if depth:
            more = draw(st.integers(0, wire.MOST_FRAMES - 1))
        body += wire.STAMP_BYTES * (more + 1) if more else 0
        payload = (more + 1) * math.prod(sizes[:axes]) * DTYPE_CODES[code].itemsize
    return Header(
        kind, draw(st.integers(0, 255)), draw(U16), code, axes, keywords, depth, *sizes, body,
        draw(U32), payload, *(draw(U64) for _ in range(4)), draw(I64), draw(I64), draw(I64),
        draw(U64), draw(U64), draw(U32), more,
    )  # fmt: skip


@given(headers())
def test_header_round_trip(header):
    data = header.pack()
    assert len(data) == wire.HEADER_BYTES
    assert wire.parse_header(data) == header
    assert wire.parse_header(bytearray(data)) == header


@given(headers(), st.integers(0, wire.HEADER_BYTES * 8 - 1))
def test_one_changed_bit_is_always_noticed(header, bit):
    data = bytearray(header.pack())
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(WireError):
        wire.parse_header(data)


@given(st.binary(min_size=128, max_size=128))
@example(b"NJSL\x02\x00" + b"\0" * 122)
def test_noise_is_no_header(data):
    with pytest.raises(WireError):
        wire.parse_header(data)


@given(headers(), st.integers(0, 2**16 - 1).filter(lambda n: n != wire.VERSION))
def test_another_version_is_named_beside_ours(header, version):
    data = bytearray(header.pack())
    data[4:6] = version.to_bytes(2, "little")
    with pytest.raises(VersionMismatch, match=rf"version {version} .* version {wire.VERSION}:"):
        wire.parse_header(data)


@given(headers().filter(lambda h: h.kind == Kind.FRAME), st.integers(1, 10**12))
def test_frame_of_a_wrong_length_is_refused_although_its_checksum_is_right(header, more):
    with pytest.raises(WireError):
        wire.parse_header(header._replace(payload_bytes=header.payload_bytes + more).pack())


@pytest.mark.parametrize(
    "change",
    [
        {"kind": 0}, {"kind": 99}, {"dtype_code": 20}, {"axes": 0}, {"axes": 4}, {"size1": 0},
        {"body_bytes": 5}, {"keyword_count": 3}, {"more": 1}, {"depth": 0},
        {"payload_bytes": 128}, {"kind": Kind.HEARTBEAT, "payload_bytes": 0},
        {"more": 999, "body_bytes": 32_256, "payload_bytes": 128_000},
    ],
)  # fmt: skip
def test_header_that_contradicts_itself_is_refused(change):
    good = Header(Kind.FRAME, 0, 0, 3, 2, 2, 4, 8, 8, 0, 256 + 96, 0, 384, more=2)
    assert wire.parse_header(good.pack()) == good
    with pytest.raises(WireError):
        wire.parse_header(good._replace(**change).pack())


@given(st.integers(0, 300), U32, st.integers(0, 16 * 8 - 1))
def test_trailer(torn, crc, bit):
    data = wire.pack_trailer(torn, crc)
    assert wire.parse_trailer(data, torn) == wire.parse_trailer(data, 300) == (torn, crc)
    with pytest.raises(WireError):  # more frames than there are
        wire.parse_trailer(data, torn - 1)
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(WireError):
        wire.parse_trailer(changed, 300)


JSON = st.dictionaries(st.text(max_size=20), st.none() | st.integers() | st.text(max_size=50))


@given(JSON, st.sampled_from([Kind.HELLO, Kind.REPORT, Kind.END]))
def test_json_round_trip(value, kind):
    message = wire.pack_json(kind, value, sequence=7)
    header = wire.parse_header(message[: wire.HEADER_BYTES])
    assert header.sequence == 7
    assert wire.parse_json(header, message[wire.HEADER_BYTES :]) == value


@given(JSON, st.binary(max_size=200))
def test_other_body_than_was_sent_is_refused(value, body):
    message = wire.pack_json(Kind.REPORT, value)
    header = wire.parse_header(message[: wire.HEADER_BYTES])
    if body != message[wire.HEADER_BYTES :]:
        with pytest.raises(WireError):
            wire.parse_json(header, body)


@pytest.mark.parametrize("text", [b"[" * 60_000, b'{"a":' * 10_000, b"[]", b"\xff", b""])
def test_json_that_is_no_object_is_refused(text):
    header = wire.Header(Kind.HELLO, body_bytes=len(text), body_crc=crc32(text))
    with pytest.raises(WireError, match="without a JSON object"):
        wire.parse_json(header, text)


def test_json_that_is_too_long_is_not_sent():
    with pytest.raises(WireError, match="65536 fit"):
        wire.pack_json(Kind.REPORT, {"x": "y" * 70_000})


@given(st.binary(min_size=1), st.lists(st.binary(max_size=64), min_size=1, max_size=4), st.data())
def test_seal_fits_one_key_one_connection_and_one_message(secret, parts, data):
    seal = Seal(secret, b"out", b"n" * 16)
    tag = seal.tag(*parts)
    seal.check(tag, *parts)
    for other in (Seal(secret + b"x", b"out", b"n" * 16), Seal(secret, b"out", b"m" * 16),
                  Seal(secret, b"back", b"n" * 16)):  # fmt: skip
        with pytest.raises(WireError):
            other.check(tag, *parts)
    whole = b"".join(parts)
    if whole:
        at = data.draw(st.integers(0, len(whole) - 1))
        with pytest.raises(WireError):
            seal.check(tag, whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])


def test_errors_carry_the_code_of_a_protocol():
    assert issubclass(WireError, NightjarError)
    assert WireError("x").code.name == "PROTOCOL"
