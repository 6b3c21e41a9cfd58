# SPDX-License-Identifier: BSD-3-Clause
"""Look at streams without attaching to them: list, describe, remove what dead owners left.

Everything is read with ordinary reads of the file, never through a mapping: a file that another
program cuts short while we look gives an error, not a signal.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nightjar.clock import TAI_UTC_S, Clock, SystemClock, tai_offset_s
from nightjar.errors import Code, NightjarError, Refused, StorageError
from nightjar.files import TEMPORARY_SUFFIX, rename_new, shared_memory_folder, temporary_name
from nightjar.streams.allocate import no_such_stream, owner_pid, stream_path
from nightjar.streams.keywords import Keyword, decode_keywords
from nightjar.streams.layout import (
    METADATA_BYTES,
    NO_FRAME,
    SEMAPHORE_BYTES,
    SUFFIX,
    StreamGeometry,
    parse_geometry,
    parse_metadata,
)
from nightjar.streams.process import command_of, is_alive

_NS = 10**9
_TAI_TOLERANCE_S = 3.0
_FLAG_S = 5


@dataclass(frozen=True, slots=True)
class ReaderEntry:
    """A process that waits on one of the semaphores.

    Attributes
    ----------
    index, pid, command
        Which semaphore, whose, its short name ("" where not visible).
    is_alive
        False for an entry that a dead process left.
    pending
        Ticks not yet taken; 10 is the most and means that it does not keep up.
    """

    index: int
    pid: int
    command: str
    is_alive: bool
    pending: int


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What a stream file says of itself at one moment.

    Attributes
    ----------
    shape, dtype, depth, frame_bytes
        Of one frame; `depth` frames fit (1 in a plain stream).
    size_bytes, mode
        Of the file; its permission bits.
    counter, newest_slot
        cnt0 and cnt1.
    created_ns, atime_ns, writetime_ns
        UTC; 0 where not given. atime: acquisition of the newest frame.
    age_s
        Since the newest frame was written; None before the first.
    rate_hz
        Mean rate of the frames in the ring by their acquisition times; None where unknown.
    owner_pid, is_owner_alive
        0 and False where nobody claims it.
    notes
        What other programs of the format cannot do with it.
    """

    name: str
    path: str
    shape: tuple[int, ...]
    dtype: str
    depth: int
    is_rolling: bool
    imagetype: int
    frame_bytes: int
    size_bytes: int
    mode: int
    counter: int
    newest_slot: int
    is_writing: bool
    created_ns: int
    atime_ns: int
    writetime_ns: int
    age_s: float | None
    rate_hz: float | None
    creator_pid: int
    owner_pid: int
    is_owner_alive: bool
    readers: tuple[ReaderEntry, ...] = ()
    keywords: dict[str, Keyword] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def is_orphan(self) -> bool:
        """Tell whether its owner died without closing it."""
        return self.owner_pid > 0 and not self.is_owner_alive


@dataclass(frozen=True, slots=True)
class BrokenStream:
    """A file with a stream's name that is none, and why."""

    name: str
    path: str
    problem: str


def list_streams(
    folder: Path | None = None, *, clock: Clock | None = None
) -> list[StreamInfo | BrokenStream]:
    """Describe all streams of a folder (default: the shared-memory folder), by name.

    Raises
    ------
    StorageError
        The folder cannot be read.
    """
    folder = folder or shared_memory_folder()
    try:
        paths = sorted(item for item in folder.iterdir() if item.name.endswith(SUFFIX))
    except OSError as error:
        raise StorageError(f"cannot list streams in {folder}: {error.strerror}") from error
    found: list[StreamInfo | BrokenStream] = []
    for path in paths:
        if path.name.startswith("."):
            continue
        try:
            found.append(_describe(path, clock or SystemClock()))
        except NightjarError as error:
            if error.code is not Code.UNKNOWN_ITEM:  # it went away while we looked
                name = path.name.removesuffix(SUFFIX)
                found.append(BrokenStream(name, str(path), error.message))
    return found


def describe(
    name_or_path: str | Path, *, folder: Path | None = None, clock: Clock | None = None
) -> StreamInfo:
    """Describe one stream.

    Raises
    ------
    Refused
        No such stream (code UNKNOWN_ITEM).
    StorageError
        Not readable, or not a stream of a known layout.
    """
    return _describe(stream_path(name_or_path, folder), clock or SystemClock())


def _describe(path: Path, clock: Clock) -> StreamInfo:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Refused(no_such_stream(path), code=Code.UNKNOWN_ITEM, path=str(path)) from None
    except OSError as error:
        raise StorageError(f"cannot open stream {path}: {error.strerror}") from error
    try:
        stat = os.fstat(descriptor)
        header = os.pread(descriptor, METADATA_BYTES, 0)
        geometry = parse_geometry(header, stat.st_size, str(path))
        offsets = geometry.offsets()
        tail = os.pread(descriptor, offsets.history_records - offsets.keywords, offsets.keywords)
    except OSError as error:
        raise StorageError(f"cannot read stream {path}: {error.strerror}") from error
    finally:
        os.close(descriptor)
    if len(tail) != offsets.history_records - offsets.keywords:
        raise StorageError(f"{path} was cut short while it was read")
    record = parse_metadata(header, str(path))
    counter, owner = int(record["cnt0"]), owner_pid(header)
    written = _ns(record["writetime"])
    return StreamInfo(
        name=path.name.removesuffix(SUFFIX),
        path=str(path),
        shape=geometry.frame_shape,
        dtype=str(geometry.dtype),
        depth=geometry.depth,
        is_rolling=geometry.is_rolling,
        imagetype=geometry.imagetype,
        frame_bytes=geometry.frame_bytes,
        size_bytes=stat.st_size,
        mode=stat.st_mode & 0o7777,
        counter=counter,
        newest_slot=int(record["cnt1"]),
        is_writing=bool(record["write"]),
        created_ns=_ns(record["creationtime"]),
        atime_ns=_ns(record["atime"]),
        writetime_ns=written,
        age_s=(clock.now_ns() - written) / _NS if counter and written else None,
        rate_hz=_rate(geometry, tail) if geometry.is_rolling else None,
        creator_pid=int(record["creatorPID"]),
        owner_pid=owner,
        is_owner_alive=is_alive(owner, stat.st_ino),
        readers=_readers(geometry, tail, stat.st_ino),
        keywords=decode_keywords(tail[: offsets.semaphores - offsets.keywords]),
        notes=(*geometry.interop_notes(), *_odd(record, clock.now_ns())),
    )


def _odd(record: Any, now_ns: int) -> Iterator[str]:
    """Yield what is strange about a header at this moment."""
    ahead_s = (max(_ns(record["atime"]), _ns(record["writetime"])) - now_ns) / _NS
    offset = tai_offset_s() or TAI_UTC_S
    if abs(ahead_s - offset) < _TAI_TOLERANCE_S:
        yield (
            f"its newest frame is {ahead_s:.1f} s ahead of UTC: its writer stamps TAI "
            f"({offset} s ahead), as milk does; readers: stamps='tai'"
        )
    elif ahead_s > 1:
        yield f"its newest frame is {ahead_s:.1f} s in the future: a clock is wrong"
    still_ns = now_ns - _ns(record["writetime"])
    if record["write"] and record["cnt0"] and still_ns > _FLAG_S * _NS:
        yield (
            "its write flag is up although nothing was written for a while: a writer that died "
            "in mid-frame, or that never lowers it, so that frames cannot be proven whole"
        )
    if int(record["CBsize"]):
        yield f"its writer keeps a history of {int(record['CBsize'])} copies (CBsize)"


def _ns(timespec: Any) -> int:
    return int(timespec["s"]) * _NS + int(timespec["ns"])


def _rate(geometry: StreamGeometry, tail: bytes) -> float | None:
    offsets, slices = geometry.offsets(), geometry.depth
    counts = np.frombuffer(tail, "<u8", slices, offsets.slice_counts - offsets.keywords)
    times = np.frombuffer(tail, "<i8", 2 * slices, offsets.slice_atimes - offsets.keywords).reshape(
        slices, 2
    )
    is_held = (counts != 0) & (counts != NO_FRAME)
    if is_held.sum() < 2:
        return None
    held, stamps = counts[is_held].astype("i8"), times[is_held, 0] * _NS + times[is_held, 1]
    first, last = int(held.argmin()), int(held.argmax())
    span_ns = int(stamps[last] - stamps[first])
    return float(held[last] - held[first]) * _NS / span_ns if span_ns > 0 else None


def _readers(geometry: StreamGeometry, tail: bytes, inode: int) -> tuple[ReaderEntry, ...]:
    offsets = geometry.offsets()
    pids = np.frombuffer(
        tail, "<i4", geometry.semaphore_count, offsets.reader_pids - offsets.keywords
    )
    entries = []
    for index, pid in enumerate(pids.tolist()):
        if pid > 0:
            at = offsets.semaphores - offsets.keywords + index * SEMAPHORE_BYTES
            pending = int.from_bytes(tail[at : at + 4], "little")  # glibc: the value's 32 bits
            entries.append(ReaderEntry(index, pid, command_of(pid), is_alive(pid, inode), pending))
    return tuple(entries)


def remove_orphans(folder: Path | None = None) -> list[str]:
    """Remove the streams whose owner died without closing them; return their names.

    A stream that somebody took over or made anew meanwhile stays. Readers keep their mapping.
    Unfinished files of makers that were killed go, too, under their hidden names.

    Raises
    ------
    StorageError
        The folder cannot be read, or a file in it not be removed.
    """
    folder = folder or shared_memory_folder()
    removed = []
    for item in folder.glob(f".*{SUFFIX}.*{TEMPORARY_SUFFIX}"):
        pid = item.name.removesuffix(TEMPORARY_SUFFIX).rpartition(".")[2]
        if pid.isdecimal() and not is_alive(int(pid)):
            item.unlink(missing_ok=True)
            removed.append(item.name)
    for info in list_streams(folder):
        if isinstance(info, StreamInfo) and info.is_orphan and _remove(Path(info.path), _is_left):
            removed.append(info.name)
    return removed


def remove_stream(
    name_or_path: str | Path, *, folder: Path | None = None, force: bool = False
) -> None:
    """Remove a stream's file; who has it mapped keeps that mapping.

    Parameters
    ----------
    force
        Also where the owner lives (it goes on filling a file that nobody finds any more), or where
        the file is no stream.

    Raises
    ------
    Refused
        No such stream (code UNKNOWN_ITEM), or its owner lives.
    StorageError
        No stream of a known layout, or the file cannot be removed.
    """
    path = stream_path(name_or_path, folder)
    if force:
        try:
            path.unlink()
        except FileNotFoundError:
            raise Refused(no_such_stream(path), code=Code.UNKNOWN_ITEM, path=str(path)) from None
        except OSError as error:
            raise StorageError(f"cannot remove stream {path}: {error.strerror}") from error
        return
    info = describe(path)
    if info.is_owner_alive or not _remove(path, lambda owner, inode: not is_alive(owner, inode)):
        command = command_of(info.owner_pid) or "?"
        raise Refused(
            f"stream {path} belongs to living process {info.owner_pid} ({command}); end it first, "
            f"or force it",
            pid=info.owner_pid,
        )


def _is_left(owner: int, inode: int) -> bool:
    return owner != 0 and not is_alive(owner, inode)


def _remove(path: Path, may_go: Callable[[int, int], bool]) -> bool:
    # By way of a hidden name, so that what is unlinked is what was looked at.
    hidden = temporary_name(path)
    try:
        os.rename(path, hidden)
        descriptor = os.open(hidden, os.O_RDONLY | os.O_CLOEXEC)
        try:
            owner = owner_pid(os.pread(descriptor, METADATA_BYTES, 0))
            inode = os.fstat(descriptor).st_ino
        finally:
            os.close(descriptor)
        if not may_go(owner, inode):
            try:
                rename_new(hidden, path)
            except FileExistsError:
                hidden.unlink()  # made anew this very moment: the newer file has the name
            return False
        hidden.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StorageError(f"cannot remove stream {path}: {error.strerror}") from error
    return True
