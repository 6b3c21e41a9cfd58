# SPDX-License-Identifier: BSD-3-Clause
"""``stream record`` and ``stream replay``: a stream into a FITS cube, and a cube into a stream.

For a night's data there is ``fitslog``; these are for a test, a sample, a demonstration.
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar import __version__, files
from nightjar.clock import NS_PER_S, Clock
from nightjar.errors import Code, InvalidArgument, NightjarError, Refused, StorageError
from nightjar.fits.cards import Card
from nightjar.fits.cube import CubeLayout, CubeWriter
from nightjar.fits.frame_table import Rows, empty_rows, read_table
from nightjar.fits.hdus import read_headers
from nightjar.fits.header import Header, NotFits
from nightjar.fits.sink import DiskQueue
from nightjar.fits.writer import STRUCTURAL
from nightjar.streams.keywords import Keyword, KeywordValue
from nightjar.streams.reader import Frame, StreamReader
from nightjar.streams.writer import StreamWriter
from nightjar.times import iso, mjd_text

_ROWS = 1024
# Names of a stream's keywords that mean something else in a header.
_TAKEN = STRUCTURAL | {"END", "CONTINUE", "HIERARCH", "COMMENT", "HISTORY", "BLANK", "EXTEND"}
_CARDS = 40  # beside those of the stream's keywords
_DEPTH_S = 0.5  # of frames in the ring that is replayed into
_DEPTHS = (4, 1024)
_MOST_BYTES = 1 << 30
_NATIVE = {8: "u1", 16: "i2", 32: "i4", 64: "i8", -32: "f4", -64: "f8"}


@dataclass(slots=True)
class Recorded:
    """What a recording came to; `ended` is count, seconds, silence, geometry or interrupted."""

    path: str
    frames: int = 0
    lost: int = 0
    torn: int = 0
    size_bytes: int = 0
    seconds: float = 0.0
    ended: str = "silence"


@dataclass(frozen=True, slots=True)
class RecordLimits:
    """When a recording ends: after frames, seconds, or a silence."""

    count: int | None
    seconds: float | None
    silence_s: float


def record(
    name: str,
    folder: Path,
    path: Path,
    limits: RecordLimits,
    clock: Clock,
    on_frame: Callable[[int], None] = lambda _: None,
) -> Recorded:
    """Record frames from now on into a new FITS cube with a table of frames.

    Raises
    ------
    Refused
        No such stream; the file is there (it stays as it was).
    StorageError
        The file cannot be written, or there is no room for `limits.count` frames.
    InvalidArgument
        FITS has no such pixels.
    """
    with StreamReader(name, folder=folder) as reader:
        keywords = reader.keywords()
        try:
            layout = CubeLayout.make(
                reader.geometry.frame_shape, reader.geometry.dtype, _CARDS + len(keywords)
            )
        except ValueError as error:
            raise InvalidArgument(f"stream {name} cannot be recorded: {error}") from None
        if path.exists():
            raise Refused(f"{path} is there; choose another name")
        needed = layout.header_bytes + (limits.count or 1) * layout.frame_bytes
        try:
            files.require_space(path.parent, needed, f"cannot record {path}")
            return _record(reader, layout, path, limits, clock, on_frame)
        except OSError as error:
            code = Code.NO_SPACE if error.errno in (errno.ENOSPC, errno.EDQUOT) else None
            raise StorageError(f"cannot record {path}: {error.strerror}", code=code) from error


def _record(
    reader: StreamReader,
    layout: CubeLayout,
    path: Path,
    limits: RecordLimits,
    clock: Clock,
    on_frame: Callable[[int], None],
) -> Recorded:
    done, temporary = Recorded(str(path)), files.temporary_name(path)
    temporary.unlink(missing_ok=True)  # left by a process of our pid
    disk = DiskQueue()
    cube = CubeWriter(temporary, layout, disk)
    rows, begin = empty_rows(_ROWS), time.monotonic()
    first_keywords = reader.keywords()
    try:
        try:
            for frame in reader.frames(limits.silence_s, copy=False):
                if frame.generation:
                    done.ended = "geometry"
                    break
                if done.frames == len(rows):
                    rows = np.concatenate([rows, empty_rows(len(rows))])
                if not _append(cube, reader, frame, rows, clock):
                    done.torn += 1
                    continue
                done.frames += 1
                on_frame(done.frames)
                done.ended = _reason(limits, done.frames, time.monotonic() - begin)
                if done.ended != "silence":
                    break
        except KeyboardInterrupt:
            done.ended = "interrupted"
        done.seconds = time.monotonic() - begin
        done.lost, done.torn = reader.lost, done.torn + reader.torn
        if done.frames == 0:
            raise Refused(f"stream {reader.path}: no frame came; {path} was not made")
        cards = _cards(reader, done, rows[: done.frames], first_keywords)
        done.size_bytes = cube.complete(cards, rows[: done.frames])
        _name(temporary, path)
    finally:
        cube.close()
        disk.stop()
        temporary.unlink(missing_ok=True)
    return done


def _append(
    cube: CubeWriter, reader: StreamReader, frame: Frame, rows: Rows, clock: Clock
) -> bool:
    datasum = cube.append(frame.data)
    if not reader.is_intact(frame):
        cube.drop_last()
        return False
    row = rows[cube.frames - 1]
    row["CNT0"], row["CNT1"], row["MISSED"] = frame.counter, frame.slot, frame.missed
    row["ATIME"], row["WTIME"], row["LTIME"] = frame.atime_ns, frame.writetime_ns, clock.now_ns()
    row["DATASUM"] = datasum
    return True


def _reason(limits: RecordLimits, frames: int, seconds: float) -> str:
    if limits.count is not None and frames >= limits.count:
        return "count"
    return "seconds" if limits.seconds is not None and seconds >= limits.seconds else "silence"


def _name(temporary: Path, path: Path) -> None:
    try:
        files.rename_new(temporary, path)
    except FileExistsError:
        raise Refused(f"{path} was made by somebody else meanwhile; nothing was recorded") from None
    files.fsync_folder(path.parent)


def _cards(
    reader: StreamReader, done: Recorded, rows: Rows, keywords: dict[str, Keyword]
) -> list[Card]:
    header = Header()
    header.add("STREAM", reader.path.name.partition(".im.shm")[0], "stream that was recorded")
    header.add("TIMESYS", "UTC", "time scale of all times")
    stamps = [int(stamp) for stamp in rows["ATIME"] if stamp] or [int(rows["LTIME"][0])]
    header.add("DATE-BEG", iso(stamps[0], 9), "acquisition of the first frame")
    header.add("DATE-END", iso(stamps[-1], 9), "acquisition of the last frame")
    header.add("MJD-BEG", Decimal(mjd_text(stamps[0])), "acquisition of the first frame", "d")
    header.add("NFRAMES", done.frames, "frames in this file")
    header.add("NMISSED", done.lost, "frames lost before they were read")
    header.add("NTORN", done.torn, "frames left out: overwritten while read")
    header.add("CNTFIRST", int(rows["CNT0"][0]), "stream counter of the first frame")
    header.add("CNTLAST", int(rows["CNT0"][-1]), "stream counter of the last frame")
    header.add("ENDREASN", done.ended, "why the recording ended")
    header.add("ORIGSW", f"nightjar {__version__}", "software")
    header.section("Keywords of the stream")
    for name, (value, comment) in keywords.items():
        card = _keyword_card(name, value, comment)
        if card.keyword == "COMMENT" or card.keyword not in header:
            header.append(card)
    return list(header.cards)


def _keyword_card(name: str, value: KeywordValue, comment: str) -> Card:
    key = name.upper()
    if key not in _TAKEN and not key.startswith("NAXIS"):
        with contextlib.suppress(ValueError):
            return Card(key, value, comment)
    # No FITS keyword (longer than 8, other characters), or a taken one: told, not lost.
    return Card("COMMENT", f"{name} = {value!r} / {comment}")


# ------------------------------------------------------------------------------- replay


class Cube:
    """The frames of a FITS file, one at a time, as they were in memory.

    Attributes
    ----------
    shape, dtype
        Of one frame, native.
    count
        Frames.
    times_ns
        Acquisition times (of writing, of logging) of the frames; None without a table.

    Raises
    ------
    StorageError
        Not readable, no FITS file, no image of frames, or cut short.
    """

    def __init__(self, path: Path) -> None:
        headers = read_headers(path)
        header = headers[0]
        axes = [int(str(header[f"NAXIS{n}"])) for n in range(int(str(header["NAXIS"])), 0, -1)]
        if len(axes) not in (2, 3) or 0 in axes:
            compressed = any(each.get("ZIMAGE") is True for each in headers)
            raise NotFits(
                f"{path}: tile-compressed; unpack it first (funpack)" if compressed
                else f"{path}: an image or a cube of images is needed, its axes are {axes}"
            )  # fmt: skip
        self.path, self.header = path, header
        self.count = axes[0] if len(axes) == 3 else 1
        self.shape = tuple(axes[-2:])
        bitpix = int(str(header["BITPIX"]))
        bzero = int(float(str(header.get("BZERO") or 0)))
        if float(str(header.get("BSCALE") or 1)) != 1 or (
            bzero and bzero != 1 << (bitpix - 1) if bitpix > 8 else bzero
        ):
            raise NotFits(f"{path}: scaled pixels (BSCALE, BZERO) cannot be replayed")
        stored = np.dtype(_NATIVE[bitpix])
        self.dtype = np.dtype(f"u{stored.itemsize}") if bzero else stored
        self._flip = self.dtype.type(bzero) if bzero else None
        needed = header.data_offset + self.count * self.frame_bytes
        if path.stat().st_size < needed:
            raise NotFits(f"{path}: cut short: {path.stat().st_size} bytes of {needed}")
        self._pixels = np.memmap(
            path, self.dtype.newbyteorder(">"), "r", header.data_offset, (self.count, *self.shape)
        )
        self.times_ns = self._times(path)

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def _times(self, path: Path) -> NDArray[np.int64] | None:
        try:
            rows = read_table(path)
        except NightjarError:
            return None
        if len(rows) != self.count:
            return None
        for column in ("ATIME", "WTIME", "LTIME"):
            if rows[column].all():
                times: NDArray[np.int64] = rows[column].astype(np.int64)
                return times
        return None

    def load(self, index: int, into: NDArray[Any]) -> None:
        """Put a frame into an array of its shape and type."""
        np.copyto(into, self._pixels[index])
        if self._flip is not None:
            np.bitwise_xor(into, self._flip, out=into)

    def keywords(self) -> dict[str, Keyword]:
        """Return those cards of the header that fit a stream's keywords."""
        found = {}
        for card in self.header.cards:
            value = card.value
            if card.keyword.startswith(("NAXIS", "BZERO", "BSCALE")) or isinstance(value, bool):
                continue
            if not isinstance(value, int | float | str) or not card.keyword:
                continue
            is_text = isinstance(value, str)
            if card.keyword in ("COMMENT", "HISTORY") or (is_text and len(str(value)) > 16):
                continue
            if card.keyword not in ("SIMPLE", "BITPIX", "EXTEND", "CHECKSUM", "DATASUM"):
                found[card.keyword] = Keyword(value, card.comment[:80])
        return found


@dataclass(slots=True)
class Replayed:
    """What a replay came to: frames published, and the most that one came too late."""

    stream: str
    frames: int = 0
    seconds: float = 0.0
    latest_s: float = 0.0
    ended: str = "end"


def replay(
    cube: Cube,
    writer: StreamWriter,
    offsets_ns: Iterator[int],
    clock: Clock,
    on_frame: Callable[[int], None] = lambda _: None,
) -> Replayed:
    """Publish the frames of a cube at given times after the start, round and round.

    Frames are stamped with the time at which they were due.
    """
    done = Replayed(writer.name)
    begin_ns, begin_wall_ns = time.monotonic_ns(), clock.now_ns()
    try:
        for number, offset in enumerate(offsets_ns):
            slot = writer.next_slot
            writer.begin(slot)
            cube.load(number % cube.count, writer.slot(slot))
            _wait_until(begin_ns + offset)
            done.latest_s = max(done.latest_s, (time.monotonic_ns() - begin_ns - offset) / NS_PER_S)
            writer.publish(slot, begin_wall_ns + offset)
            done.frames += 1
            on_frame(done.frames)
    except KeyboardInterrupt:
        done.ended = "interrupted"
    done.seconds = (time.monotonic_ns() - begin_ns) / NS_PER_S
    return done


def _wait_until(due_ns: int) -> None:
    while (left := due_ns - time.monotonic_ns()) > 0:
        time.sleep(left / NS_PER_S)


def timing(cube: Cube, rate_hz: float | None, *, is_looped: bool) -> Iterator[int]:
    """Return when each frame is due, ns after the start: at a rate, or as it was recorded.

    Raises
    ------
    InvalidArgument
        No rate is given and the file has no times.
    """
    if rate_hz is None:
        times = cube.times_ns
        if times is None:
            raise InvalidArgument(f"{cube.path} has no times of its frames; give --rate HZ")
        steps = np.diff(times)
        if (steps < 0).any():
            raise InvalidArgument(f"{cube.path}: its times go back; give --rate HZ")
        # Between the last frame and the first one of the next turn: as between most of them.
        turn = int(times[-1] - times[0]) + (int(np.median(steps)) if len(steps) else NS_PER_S)
        offsets = (times - times[0]).tolist()
    else:
        turn = round(cube.count * NS_PER_S / rate_hz)
        offsets = [round(n * NS_PER_S / rate_hz) for n in range(cube.count)]
    return _offsets(offsets, turn, is_looped=is_looped)


def _offsets(offsets: list[int], turn: int, *, is_looped: bool) -> Iterator[int]:
    start = 0
    while True:
        for offset in offsets:
            yield start + offset
        if not is_looped:
            return
        start += turn


def replay_depth(cube: Cube, rate_hz: float | None) -> int:
    """Return slots for half a second of frames, at least 4, at most 1 GB."""
    if rate_hz is None:
        span = 0 if cube.times_ns is None else int(cube.times_ns[-1] - cube.times_ns[0])
        rate_hz = (cube.count - 1) * NS_PER_S / span if span > 0 else 1.0
    least, most = _DEPTHS
    wanted = max(least, min(most, round(_DEPTH_S * rate_hz)))
    return max(2, min(wanted, _MOST_BYTES // cube.frame_bytes))
