# SPDX-License-Identifier: BSD-3-Clause
"""The bytes of a stream file: ImageStreamIO layout "2.00", little endian, 64-bit.

One file per stream, ``<folder>/<name>.im.shm``. Its blocks follow each other, each rounded up to 8
bytes: metadata, pixels, keywords, semaphores, process ids of their users, process traces, and for
a rolling buffer the times and counter of each slice. Nothing here touches a file; the tables were
taken from the compiled C library by ``offsetof``.

Pixel axes: the file counts from the fastest axis (x, y, z), numpy from the slowest. A frame of
shape (rows, columns) has size[0] = columns, size[1] = rows; size[2] is the depth of a rolling
buffer or the third axis of a true cube.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from nightjar.errors import InvalidArgument, StorageError

VERSION = b"2.00"
SUFFIX = ".im.shm"
NAME_LIMIT = 79  # char[80] with its NUL
PATH_LIMIT = 199  # the C library's path buffer, with its NUL
C_SIZE_LIMIT = 2**31 - 1  # the C library compares file sizes as signed 32-bit numbers
ELEMENT_LIMIT = 10**10

SEMAPHORE_COUNT = 10
SEMAPHORE_BYTES = 32  # glibc sem_t on 64-bit
PENDING_LIMIT = 10  # the C library's SEMAPHORE_MAXVAL: a slow reader gets no more ticks
TRACE_COUNT = 10

CIRCULAR_BUFFER = 0x1
MATH_DATA = 0x2
AXIS_TIME = 0x20000
ROLLING = AXIS_TIME | CIRCULAR_BUFFER
ROLLING_MASK = 0xF000F

METADATA_BYTES = 384
KEYWORD_BYTES = 128
TRACE_BYTES = 64
HISTORY_RECORD_BYTES = 48

_TIMESPEC = np.dtype([("s", "<i8"), ("ns", "<i8")])

_METADATA_FIELDS: tuple[tuple[str, Any, int], ...] = (
    ("version", "S32", 0),
    ("name", "S80", 32),
    ("naxis", "u1", 112),
    ("size", ("<u4", (3,)), 116),
    ("nelement", "<u8", 128),
    ("datatype", "u1", 136),
    ("imagetype", "<u8", 144),
    ("creationtime", _TIMESPEC, 152),
    ("lastaccesstime", _TIMESPEC, 168),
    ("atime", _TIMESPEC, 184),
    ("writetime", _TIMESPEC, 200),
    ("creatorPID", "<i4", 216),
    ("ownerPID", "<i4", 220),
    ("shared", "u1", 224),
    ("inode", "<u8", 232),
    ("location", "i1", 240),
    ("status", "u1", 241),
    ("flag", "<u8", 248),
    ("logflag", "u1", 256),
    ("sem", "<u2", 258),
    ("NBproctrace", "<u2", 260),
    ("cnt0", "<u8", 264),
    ("cnt1", "<u8", 272),
    ("cnt2", "<u8", 280),
    ("write", "u1", 288),
    ("NBkw", "<u2", 290),
    ("CBsize", "<u4", 292),
    ("CBindex", "<u4", 296),
    ("CBcycle", "<u8", 304),
    ("imdatamemsize", "<u8", 312),
    ("cudaMemHandle", "V64", 320),
)
METADATA = np.dtype(
    {
        "names": [name for name, _, _ in _METADATA_FIELDS],
        "formats": [kind for _, kind, _ in _METADATA_FIELDS],
        "offsets": [offset for _, _, offset in _METADATA_FIELDS],
        "itemsize": METADATA_BYTES,
    }
)
KEYWORD = np.dtype(
    {
        "names": ["name", "type", "value", "cnt", "comment"],
        "formats": ["S16", "S1", "V16", "<u8", "S80"],
        "offsets": [0, 16, 24, 40, 48],
        "itemsize": KEYWORD_BYTES,
    }
)
TRACE = np.dtype(
    {
        "names": [
            "triggermode", "procwrite_PID", "trigger_inode", "ts_procstart", "ts_streamupdate",
            "trigsemindex", "triggerstatus", "cnt0",
        ],
        "formats": ["<i4", "<i4", "<u8", _TIMESPEC, _TIMESPEC, "<i4", "<i4", "<u8"],
        "offsets": [0, 4, 8, 16, 32, 48, 52, 56],
        "itemsize": TRACE_BYTES,
    }
)  # fmt: skip
HISTORY_RECORD = np.dtype(
    [("cnt0", "<u8"), ("cnt1", "<u8"), ("atime", _TIMESPEC), ("writetime", _TIMESPEC)]
)
TIMESPEC = _TIMESPEC

DTYPE_CODES: dict[int, np.dtype[Any]] = {
    1: np.dtype("u1"), 2: np.dtype("i1"), 3: np.dtype("u2"), 4: np.dtype("i2"),
    5: np.dtype("u4"), 6: np.dtype("i4"), 7: np.dtype("u8"), 8: np.dtype("i8"),
    9: np.dtype("f4"), 10: np.dtype("f8"), 11: np.dtype("c8"), 12: np.dtype("c16"),
    13: np.dtype("f2"),
}  # fmt: skip
_CODE_OF = {dtype: code for code, dtype in DTYPE_CODES.items()}


class Word:
    """Indices of the counters and times that change, in 8-byte words of the metadata."""

    CREATED_S, CREATED_NS = 19, 20
    ACCESS_S, ACCESS_NS = 21, 22
    ATIME_S, ATIME_NS = 23, 24
    WRITE_S, WRITE_NS = 25, 26
    CNT0, CNT1 = 33, 34


WRITE_FLAG_OFFSET = 288
# Ours, in bytes that the format leaves unused and others leave 0: odd while keywords that belong
# together are being changed, so that a reader does not see a part of them.
KEYWORD_SEQUENCE_OFFSET = 300
HISTORY_INDEX_OFFSET = 296
HISTORY_CYCLE_OFFSET = 304
NO_FRAME = 2**64 - 1  # our slice count of a slot that is being overwritten or was blanked
OWNER_PID_OFFSET = 220


class Offsets(NamedTuple):
    """Byte offsets of the blocks of a file; `total` is its exact size."""

    pixels: int
    keywords: int
    semaphores: int
    semlog: int
    reader_pids: int
    writer_pids: int
    sem_control: int
    sem_status: int
    traces: int
    slice_atimes: int
    slice_writetimes: int
    slice_counts: int
    history_records: int
    history_pixels: int
    total: int


def _round8(count: int) -> int:
    return -(-count // 8) * 8


@dataclass(frozen=True, slots=True)
class StreamGeometry:
    """What decides the layout of a stream file.

    Attributes
    ----------
    shape
        All axes in numpy's order, slowest first; a rolling buffer is (depth, rows, columns).
    dtype
        Of the pixels, native byte order.
    imagetype
        The bit mask of the format; :data:`ROLLING` marks a rolling buffer.
    keyword_count, semaphore_count, trace_count, history_depth
        Slots of each kind; `history_depth` is the CBsize of the format: copies that the writer
        keeps of all pixels at each update, apart from a rolling buffer.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    imagetype: int = MATH_DATA
    keyword_count: int = 50
    semaphore_count: int = SEMAPHORE_COUNT
    trace_count: int = TRACE_COUNT
    history_depth: int = 0

    def __post_init__(self) -> None:
        if not 1 <= len(self.shape) <= 3 or any(not 0 < n < 2**32 for n in self.shape):
            raise InvalidArgument(f"a stream has 1 to 3 axes of at least 1 pixel: {self.shape}")
        if self.element_count > ELEMENT_LIMIT:
            raise InvalidArgument(f"{self.shape}: more than 1e10 pixels do not fit a stream")
        if self.dtype not in _CODE_OF:
            known = ", ".join(str(dtype) for dtype in _CODE_OF)
            raise InvalidArgument(f"pixels of type {self.dtype} do not fit a stream; {known} do")
        if not 0 <= self.history_depth < 2**32:
            raise InvalidArgument(f"{self.history_depth} copies of history are not possible")
        if not 0 <= self.keyword_count < 2**16:
            raise InvalidArgument(f"{self.keyword_count} keyword slots; 0 to 65535 are possible")

    @classmethod
    def make(
        cls,
        shape: tuple[int, ...],
        dtype: DTypeLike,
        *,
        depth: int | None = None,
        keyword_count: int = 50,
        history_depth: int = 0,
    ) -> StreamGeometry:
        """Return the geometry of frames of `shape`, in a rolling buffer of `depth` slots if given.

        Raises
        ------
        InvalidArgument
            The format cannot hold it.
        """
        sizes = tuple(int(n) for n in shape)
        kind = np.dtype(dtype).newbyteorder("=")
        if depth is None:
            return cls(
                sizes, kind, MATH_DATA, keyword_count, history_depth=history_depth
            )
        if len(sizes) != 2:
            raise InvalidArgument(f"a rolling stream holds frames of (rows, columns), not {sizes}")
        if depth < 2:
            raise InvalidArgument(f"a rolling stream needs at least 2 slots, not {depth}")
        return cls(
            (int(depth), *sizes), kind, ROLLING, keyword_count, history_depth=history_depth
        )

    @property
    def is_rolling(self) -> bool:
        """Tell whether the third axis is a ring of frames, cnt1 the slot last written."""
        return len(self.shape) == 3 and self.imagetype & ROLLING_MASK == ROLLING

    @property
    def depth(self) -> int:
        """Frames that the file holds: slots of a rolling buffer, otherwise 1."""
        return self.shape[0] if self.is_rolling else 1

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Shape of one frame."""
        return self.shape[1:] if self.is_rolling else self.shape

    @property
    def element_count(self) -> int:
        """All pixels of the file."""
        return math.prod(self.shape)

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame."""
        return math.prod(self.frame_shape) * self.dtype.itemsize

    @property
    def pixel_bytes(self) -> int:
        """Bytes of all pixels, the imdatamemsize of the format."""
        return self.element_count * self.dtype.itemsize

    @property
    def datatype_code(self) -> int:
        """The format's number for `dtype`."""
        return _CODE_OF[self.dtype]

    @property
    def axes(self) -> tuple[int, int, int]:
        """The size field of the format: fastest axis first, unused axes 0."""
        x, y, z = (*reversed(self.shape), 0, 0)[:3]
        return x, y, z

    def offsets(self) -> Offsets:
        """Return where each block begins."""
        ids = _round8(4 * self.semaphore_count)
        slices = self.shape[0] if self.is_rolling else 0
        sizes = (
            _round8(self.pixel_bytes),
            KEYWORD_BYTES * self.keyword_count,
            SEMAPHORE_BYTES * self.semaphore_count,
            SEMAPHORE_BYTES,
            ids, ids, ids, ids,
            TRACE_BYTES * self.trace_count,
            16 * slices, 16 * slices, 8 * slices,
            HISTORY_RECORD_BYTES * self.history_depth,
            _round8(self.pixel_bytes * self.history_depth),
        )  # fmt: skip
        positions = [METADATA_BYTES]
        for size in sizes:
            positions.append(positions[-1] + size)
        return Offsets(*positions)

    def slot_offset(self, slot: int) -> int:
        """Return the byte offset of a frame in the file.

        Raises
        ------
        InvalidArgument
            No such slot.
        """
        if not 0 <= slot < self.depth:
            raise InvalidArgument(f"slot {slot}: this stream has slots 0 to {self.depth - 1}")
        return METADATA_BYTES + slot * self.frame_bytes

    def interop_notes(self) -> tuple[str, ...]:
        """Return what other programs of this format cannot do with such a file; mostly nothing."""
        total = self.offsets().total
        if total > C_SIZE_LIMIT:
            return (
                f"{total / 1e9:.2f} GB: ImageStreamIO's C library cannot open files over 2 GiB "
                f"(milk, pyMilk and MagAO-X programs will fail; nightjar's do not)",
            )
        return ()


def parse_metadata(header: bytes | memoryview, where: str) -> NDArray[Any]:
    """Return the metadata record (0-d view, dtype :data:`METADATA`) of a file's first bytes.

    Raises
    ------
    StorageError
        Too short, unfinished, or of another version; the message says which.
    """
    if len(header) < METADATA_BYTES:
        raise StorageError(
            f"{where} is not a stream: {len(header)} bytes, the header alone has {METADATA_BYTES}"
        )
    record = np.frombuffer(header, METADATA, count=1)[0:1].reshape(())
    version = bytes(record["version"].tobytes()).rstrip(b"\0")
    if version == b"":
        raise StorageError(f"{where} is unfinished: its maker has not yet written the version")
    if version != VERSION:
        raise StorageError(
            f"{where} has stream layout {version[:32]!r}; this program knows {VERSION.decode()}"
        )
    return record


def parse_geometry(header: bytes | memoryview, file_bytes: int, where: str) -> StreamGeometry:
    """Return the geometry that a file's header states, checked against the file's size.

    Raises
    ------
    StorageError
        The header contradicts itself or the size; the message says how.
    """
    record = parse_metadata(header, where)
    naxis, code = int(record["naxis"]), int(record["datatype"])
    if not 1 <= naxis <= 3:
        raise StorageError(f"{where}: {naxis} axes in its header; 1 to 3 are possible")
    if code not in DTYPE_CODES:
        raise StorageError(f"{where}: unknown pixel type code {code}")
    if int(record["location"]) >= 0:
        raise StorageError(f"{where}: its pixels are in GPU {int(record['location'])}, not here")
    try:
        geometry = StreamGeometry(
            tuple(int(n) for n in record["size"][:naxis][::-1]), DTYPE_CODES[code],
            int(record["imagetype"]), int(record["NBkw"]), int(record["sem"]),
            int(record["NBproctrace"]), int(record["CBsize"]),
        )  # fmt: skip
    except InvalidArgument as error:
        raise StorageError(f"{where}: {error.message}") from error
    if int(record["imdatamemsize"]) != geometry.pixel_bytes:
        raise StorageError(
            f"{where}: header states {int(record['imdatamemsize'])} bytes of pixels, "
            f"{geometry.shape} {geometry.dtype} needs {geometry.pixel_bytes}"
        )
    expected = geometry.offsets().total
    if expected != file_bytes:
        # Compile options of the C library change the layout without changing its version.
        raise StorageError(
            f"{where}: {file_bytes} bytes where its header needs {expected}: damaged, "
            f"or made by a library compiled with other options"
        )
    return geometry


def metadata_bytes(
    geometry: StreamGeometry, name: str, *, created_ns: int, pid: int, inode: int
) -> bytes:
    """Return the header of a new stream, complete but for the version, which is written last.

    Raises
    ------
    InvalidArgument
        The name is too long.
    """
    encoded = name.encode()
    if len(encoded) > NAME_LIMIT:
        raise InvalidArgument(f"stream name {name!r}: {len(encoded)} bytes, {NAME_LIMIT} fit")
    record = np.zeros((), METADATA)
    record["name"] = encoded
    record["naxis"] = len(geometry.shape)
    record["size"] = geometry.axes
    record["nelement"] = geometry.element_count
    record["datatype"] = geometry.datatype_code
    record["imagetype"] = geometry.imagetype
    for field in ("creationtime", "lastaccesstime"):
        record[field] = divmod(created_ns, 10**9)
    record["creatorPID"] = record["ownerPID"] = pid
    record["shared"] = 1
    record["inode"] = inode
    record["location"] = -1
    record["sem"] = geometry.semaphore_count
    record["NBproctrace"] = geometry.trace_count
    record["cnt1"] = geometry.depth - 1  # so that the first frame goes into slot 0
    record["NBkw"] = geometry.keyword_count
    record["CBsize"] = geometry.history_depth
    record["imdatamemsize"] = geometry.pixel_bytes
    return record.tobytes()
