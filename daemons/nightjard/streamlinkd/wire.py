# SPDX-License-Identifier: BSD-3-Clause
"""The bytes between the two ends of a link: one header of fixed layout, version 2, no pickle.

Every message is a header of 128 bytes, little endian, then its body (keyword slots, or JSON of at
most 64 KiB in a hello, a report and an end), then for frames their pixels. Where several frames of
a ring wait, one message carries those that follow each other without a gap: the header tells of the
first, and before any keyword slots the body holds the times of all as ImageStreamIO has them,
seconds and nanoseconds of 8 bytes each, first those of acquisition, then those of writing::

    offset  size  field
         0     4  magic "NJSL"
         4     2  version (2); these two never move, so that any two versions can name each other
         6     1  kind: 1 hello, 2 geometry, 3 frame, 4 keywords, 5 heartbeat, 6 end, 7 report
         7     1  flags: 1 sealed (a tag of 32 bytes follows), 2 payload CRC, 4 source is missing,
                 8 behind this message the header of the next one follows at once
         8     2  stream: index in the hello's list
        10     1  pixel type, code of ImageStreamIO
        11     1  axes of one frame
        12     2  keyword slots of the source
        14     2  frames behind the first in this message (0: one frame, or none)
        16     4  depth of the source's ring; 0 for a plain stream
        20    12  size of one frame, slowest axis first, unused axes 0
        32     4  bytes of the body
        36     4  CRC-32 of the body
        40     8  bytes of the pixels
        48     8  session: which life of the source stream the counters belong to
        56     8  sequence: number of the message in its connection (`latest`: of its frame)
        64     8  cnt0 of the frame (heartbeat: of the newest frame sent)
        72     8  cnt1: the slot it lay in at the source
        80     8  acquisition time, ns UTC
        88     8  time of writing at the source, ns UTC
        96     8  time of sending, ns of the sender's monotonic clock
       104     8  lost: frames of this session that were overwritten before they could be sent
       112     8  period: ns between frames as the sender paces them now; 0 for every frame
       120     4  CRC-32 of the pixels (`latest`)
       124     4  CRC-32 of the 124 bytes before

Over TCP the pixels are sent straight from shared memory, so what became of them meanwhile is said
behind them: a trailer of 16 bytes, magic "NJST", how many of the frames, from the first on, are
torn, CRC-32 of the pixels of the others or 0, CRC-32 of the 12 bytes before. A tag (HMAC-SHA256) is
the last of a sealed message and covers all of it but torn pixels.
"""

from __future__ import annotations

import enum
import json
import math
import struct
from binascii import crc32
from typing import Any, NamedTuple

import numpy as np

from nightjar.errors import Code, NightjarError
from nightjar.streams.layout import DTYPE_CODES, KEYWORD_BYTES, StreamGeometry

MAGIC = b"NJSL"
TRAILER_MAGIC = b"NJST"
VERSION = 2
JSON_LIMIT = 65536
TAG_BYTES = 32
STAMP_BYTES = 32  # of one frame among several
MOST_FRAMES = 256  # in one message

_HEADER = struct.Struct("<4sHBBHBBHHI3IIIQQQQQqqqQQI")
_CRC = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CRC.size
_TRAILER = struct.Struct("<4sII")
TRAILER_BYTES = _TRAILER.size + _CRC.size
_START = struct.Struct("<4sH")
assert HEADER_BYTES == 128
assert TRAILER_BYTES == 16


class Kind(enum.IntEnum):
    """What a message is."""

    HELLO = 1
    GEOMETRY = 2
    FRAME = 3
    KEYWORDS = 4
    HEARTBEAT = 5
    END = 6
    REPORT = 7


_KINDS = frozenset(Kind)
_JSON_KINDS = frozenset((Kind.HELLO, Kind.END, Kind.REPORT))

SEALED = 1
HAS_CRC = 2
SOURCE_MISSING = 4
FOLLOWED = 8


class WireError(NightjarError):
    """What came is no message of this protocol, or was changed on its way."""

    code = Code.PROTOCOL


class VersionMismatch(WireError):
    """The other end speaks another version."""


class Header(NamedTuple):
    """A message's header; see the table above. `shape` etc. are in :meth:`geometry`."""

    kind: int
    flags: int = 0
    stream: int = 0
    dtype_code: int = 0
    axes: int = 0
    keyword_count: int = 0
    depth: int = 0
    size0: int = 0
    size1: int = 0
    size2: int = 0
    body_bytes: int = 0
    body_crc: int = 0
    payload_bytes: int = 0
    session: int = 0
    sequence: int = 0
    cnt0: int = 0
    cnt1: int = 0
    atime_ns: int = 0
    writetime_ns: int = 0
    sent_ns: int = 0
    lost: int = 0
    period_ns: int = 0
    payload_crc: int = 0
    more: int = 0

    @property
    def frames(self) -> int:
        """How many are in the message, where it is one of frames."""
        return self.more + 1

    @property
    def stamp_bytes(self) -> int:
        """Bytes of the body that are times of frames."""
        return STAMP_BYTES * self.frames if self.more else 0

    def pack(self) -> bytes:
        """Return the 128 bytes."""
        return pack_header(*self)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one frame."""
        return (self.size0, self.size1, self.size2)[: self.axes]

    @property
    def is_sealed(self) -> bool:
        """Whether a tag follows."""
        return bool(self.flags & SEALED)

    def geometry(self, depth: int | None = None, extra_keywords: int = 0) -> StreamGeometry:
        """Return the geometry of the source stream.

        Parameters
        ----------
        depth
            Another depth than the source's for a rolling stream.
        extra_keywords
            Slots beyond the source's.

        Raises
        ------
        InvalidArgument
            No stream can be like that.
        """
        return StreamGeometry.make(
            self.shape,
            DTYPE_CODES[self.dtype_code],
            depth=(depth or self.depth) if self.depth else None,
            keyword_count=min(65535, self.keyword_count + extra_keywords),
        )


def pack_header(
    kind: int, flags: int, stream: int, dtype_code: int, axes: int, keyword_count: int,
    depth: int, *rest: int,
) -> bytes:  # fmt: skip
    """Return the bytes of a header; arguments in the order of :class:`Header`."""
    head = _HEADER.pack(
        MAGIC, VERSION, kind, flags, stream, dtype_code, axes, keyword_count, rest[-1], depth,
        *rest[:-1],
    )
    return head + _CRC.pack(crc32(head))


def parse_header(data: bytes | bytearray | memoryview) -> Header:
    """Return the header in 128 bytes.

    Raises
    ------
    VersionMismatch
        It is one of another version; the message names both.
    WireError
        It is none, it was changed on its way, or it contradicts itself.
    """
    magic, version = _START.unpack_from(data)
    if magic != MAGIC:
        raise WireError(f"the other end does not speak the stream-link protocol: {magic!r}")
    if version != VERSION:
        raise VersionMismatch(
            f"the other end speaks version {version} of the stream-link protocol, "
            f"this one version {VERSION}: update the older one"
        )
    fields = _HEADER.unpack_from(data)
    (crc,) = _CRC.unpack_from(data, _HEADER.size)
    if crc != crc32(data[: _HEADER.size]):
        raise WireError("a header was changed on its way: its checksum is wrong")
    header = Header._make(fields[2:8] + fields[9:] + fields[8:9])
    _check(header)
    return header


def _check(header: Header) -> None:
    # A checksum proves that nothing was changed, not that the sender is sane.
    kind = header.kind
    if kind not in _KINDS:
        raise WireError(f"unknown kind of message: {kind}")
    if header.more and (
        kind != Kind.FRAME or not header.depth or header.more >= MOST_FRAMES
    ):
        raise WireError(f"{header.frames} frames in one message of kind {kind}")
    if kind in _JSON_KINDS:
        if header.body_bytes > JSON_LIMIT or header.payload_bytes:
            raise WireError(f"a {Kind(kind).name.lower()} of {header.body_bytes} bytes")
        return
    if header.dtype_code not in DTYPE_CODES or not 1 <= header.axes <= 3:
        raise WireError(f"pixel type {header.dtype_code}, {header.axes} axes: no such frames")
    if header.body_bytes - header.stamp_bytes not in (0, KEYWORD_BYTES * header.keyword_count):
        raise WireError(
            f"{header.body_bytes} bytes are not {header.keyword_count} keyword slots"
        )
    expected = 0
    if kind == Kind.FRAME:
        octets = math.prod(header.shape) * DTYPE_CODES[header.dtype_code].itemsize
        expected = header.frames * octets
    if header.payload_bytes != expected or min(header.shape) == 0:
        raise WireError(
            f"{header.payload_bytes} bytes are no {header.frames} frames of {header.shape} "
            f"{np.dtype(DTYPE_CODES[header.dtype_code])}"
        )


def check_body(header: Header, body: bytes | bytearray | memoryview) -> None:
    """Raise WireError where the body is not the one that was sent."""
    if len(body) != header.body_bytes or crc32(body) != header.body_crc:
        raise WireError("the body of a message was changed on its way: its checksum is wrong")


def pack_trailer(torn: int, payload_crc: int) -> bytes:
    """Return the 16 bytes behind the pixels of frames, the first `torn` of which are not whole."""
    head = _TRAILER.pack(TRAILER_MAGIC, torn, payload_crc)
    return head + _CRC.pack(crc32(head))


def parse_trailer(data: bytes | bytearray | memoryview, count: int) -> tuple[int, int]:
    """Return how many of `count` frames are torn, and the CRC-32 of the others (0: none made).

    Raises
    ------
    WireError
        It is no trailer, or was changed on its way.
    """
    magic, torn, payload_crc = _TRAILER.unpack_from(data)
    (crc,) = _CRC.unpack_from(data, _TRAILER.size)
    if magic != TRAILER_MAGIC or crc != crc32(data[: _TRAILER.size]) or torn > count:
        raise WireError("the end of a frame was changed on its way")
    return torn, payload_crc


def pack_json(kind: Kind, value: dict[str, Any], *, flags: int = 0, sequence: int = 0) -> bytes:
    """Return a whole message (but for its tag) whose body is JSON.

    Raises
    ------
    WireError
        It is longer than 64 KiB.
    """
    body = json.dumps(value, separators=(",", ":")).encode()
    if len(body) > JSON_LIMIT:
        raise WireError(f"a {kind.name.lower()} of {len(body)} bytes; {JSON_LIMIT} fit")
    header = Header(
        kind, flags, body_bytes=len(body), body_crc=crc32(body), sequence=sequence
    )
    return header.pack() + body


def parse_json(header: Header, body: bytes | bytearray | memoryview) -> dict[str, Any]:
    """Return the object in a body.

    Raises
    ------
    WireError
        Changed on its way, or no JSON object.
    """
    check_body(header, body)
    try:
        value = json.loads(bytes(body))
    except (ValueError, RecursionError):  # the second: brackets without end
        value = None
    if not isinstance(value, dict):
        raise WireError(f"a {Kind(header.kind).name.lower()} without a JSON object")
    return value
