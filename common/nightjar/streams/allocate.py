# SPDX-License-Identifier: BSD-3-Clause
"""Stream files as files: their names, their owners, their room and their first bytes."""

from __future__ import annotations

import ctypes
import errno
import grp
import logging
import mmap
import os
from collections.abc import Mapping
from pathlib import Path

from nightjar.errors import Code, ConfigError, InvalidArgument, Refused, StorageError
from nightjar.files import (
    free_bytes,
    is_ram_disk,
    is_safe_name,
    shared_memory_folder,
    temporary_name,
)
from nightjar.streams.keywords import Keyword, KeywordBlock, blank_block
from nightjar.streams.layout import (
    METADATA_BYTES,
    NAME_LIMIT,
    OWNER_PID_OFFSET,
    PATH_LIMIT,
    SEMAPHORE_BYTES,
    SUFFIX,
    VERSION,
    StreamGeometry,
    metadata_bytes,
    parse_geometry,
)
from nightjar.streams.process import is_alive
from nightjar.streams.semaphores import Semaphore
from nightjar.units import bytes_text

logger = logging.getLogger(__name__)

_MADV_POPULATE_WRITE = 23
NO_PID = (-1).to_bytes(4, "little", signed=True)


def stream_path(name_or_path: str | Path, folder: Path | None = None) -> Path:
    """Return the file of a stream: of a bare name in `folder`, or the path itself.

    Raises
    ------
    InvalidArgument
        The name cannot be a stream's.
    """
    text = str(name_or_path)
    if "/" in text or text.endswith(SUFFIX):
        path = Path(text)
        path = path if "/" in text else (folder or shared_memory_folder()) / path
        name = path.name.removesuffix(SUFFIX)
        if not path.name.endswith(SUFFIX):
            raise InvalidArgument(f"{path}: stream files end in {SUFFIX}")
    else:
        name = text
        path = (folder or shared_memory_folder()) / f"{name}{SUFFIX}"
    if not is_safe_name(name) or len(name.encode()) > NAME_LIMIT:
        raise InvalidArgument(
            f"stream name {name!r}: letters, digits and ._+- only, at most {NAME_LIMIT}"
        )
    return path


def no_such_stream(path: Path) -> str:
    """Return the message for a stream that is not there: which ones are."""
    try:
        present = sorted(item.name.removesuffix(SUFFIX) for item in path.parent.glob(f"*{SUFFIX}"))
    except OSError:
        present = []
    there = ", ".join(present[:8]) + (", ..." if len(present) > 8 else "")
    name = path.name.removesuffix(SUFFIX)
    return f"no stream {name!r} in {path.parent}; streams there: {there or 'none'}"


def owner_pid(header: bytes | memoryview) -> int:
    """Return the process id of the owner in a header; 0 for none."""
    field = header[OWNER_PID_OFFSET : OWNER_PID_OFFSET + 4]
    return int.from_bytes(field, "little", signed=True)


def living_owner(path: Path) -> int | None:
    """Return the process that owns an existing stream of that name, None where none lives."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"cannot look at stream {path}: {error.strerror}") from error
    try:
        header = os.pread(descriptor, METADATA_BYTES, 0)
        inode = os.fstat(descriptor).st_ino
    finally:
        os.close(descriptor)
    if header[: len(VERSION)] != VERSION:
        return None
    owner = owner_pid(header)
    return owner if is_alive(owner, inode) else None


def reserve(descriptor: int, total: int, path: Path) -> None:
    """Give a file all its blocks: otherwise a full file system ends a later writer by SIGBUS.

    Raises
    ------
    StorageError
        No room (code NO_SPACE), or the file system refuses.
    """
    needed, free = total - 512 * os.fstat(descriptor).st_blocks, _free_bytes(path.parent)
    try:
        if needed > free:  # at once, instead of after filling what is left of the memory
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.posix_fallocate(descriptor, 0, total)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM):
            raise StorageError(
                f"no room for stream {path}: {bytes_text(total)} needed, {bytes_text(free)} free "
                f"in {path.parent} ({error.strerror})",
                code=Code.NO_SPACE, path=str(path), needed_bytes=total, free_bytes=free,
            ) from error  # fmt: skip
        raise StorageError(f"cannot reserve stream {path}: {error.strerror}") from error


def _free_bytes(folder: Path) -> int:
    """Return the room in a folder; in a RAM disk not more than the machine has memory left."""
    free = free_bytes(folder)
    try:
        if not is_ram_disk(folder):
            return free
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return min(free, 1024 * int(line.split()[1]))
    except (OSError, ValueError):
        pass  # no /proc: the file system's own figure must do
    return free


def make_file(
    path: Path,
    geometry: StreamGeometry,
    keywords: Mapping[str, Keyword],
    created_ns: int,
    mode: int,
    group: str | None,
    *,
    populate: bool = True,
) -> tuple[mmap.mmap, int]:
    """Make a stream file that takes over its name when it is whole.

    Returns
    -------
    mmap.mmap, int
        The mapped file and its inode; with `populate` its pages are present, else only reserved.

    Raises
    ------
    Refused
        Another living process owns a stream of that name, or `keywords` are more than the slots.
    StorageError
        No room for it (code NO_SPACE), or the folder cannot be used.
    InvalidArgument, ConfigError
        A keyword is impossible; the group does not exist.
    """
    owner = living_owner(path)
    if owner is not None and owner != os.getpid():
        raise Refused(f"stream {path} belongs to living process {owner}", pid=owner)
    notes = list(geometry.interop_notes())
    if len(os.fsencode(path)) > PATH_LIMIT:
        notes.append(f"ImageStreamIO's C library takes paths of {PATH_LIMIT} bytes at most")
    for note in notes:
        logger.warning("stream %s: %s", path, note)
    temporary = temporary_name(path)
    try:
        temporary.unlink(missing_ok=True)  # left by a dead process of our pid
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError(
            f"cannot make stream {path}: {error.strerror}", path=str(path)
        ) from error
    try:
        try:
            reserve(descriptor, geometry.offsets().total, path)
            _give(descriptor, path, mode, group)
            present = mmap.MAP_POPULATE if populate else 0
            mapping = mmap.mmap(descriptor, geometry.offsets().total, mmap.MAP_SHARED | present)
            inode = os.fstat(descriptor).st_ino
        finally:
            os.close(descriptor)
        _fill(mapping, geometry, path, keywords, created_ns, inode)
        mapping[: len(VERSION)] = VERSION
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return mapping, inode


def make_present(start: int, length: int) -> None:
    """Have the pages of a part of a mapping present, so that writing does not fault at each.

    Call it from a thread of its own: it waits without the GIL. Where the kernel does not know it
    (before Linux 5.14) nothing happens.
    """
    address = start // mmap.PAGESIZE * mmap.PAGESIZE
    libc = ctypes.CDLL(None)
    libc.madvise(
        ctypes.c_void_p(address), ctypes.c_size_t(start + length - address),
        _MADV_POPULATE_WRITE,
    )  # fmt: skip


def take_file(path: Path) -> tuple[mmap.mmap, StreamGeometry, int]:
    """Map an existing stream file for writing.

    Raises
    ------
    Refused
        Its owner is alive.
    StorageError
        Not there, not writable, or not a stream of a known layout.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise StorageError(f"cannot open stream {path}: {error.strerror}") from error
    try:
        stat = os.fstat(descriptor)
        header = os.pread(descriptor, METADATA_BYTES, 0)
        geometry = parse_geometry(header, stat.st_size, str(path))
        owner = owner_pid(header)
        if owner != os.getpid() and is_alive(owner, stat.st_ino):
            raise Refused(f"stream {path} belongs to living process {owner}", pid=owner)
        reserve(descriptor, stat.st_size, path)  # a foreign maker may have left it sparse
        mapping = mmap.mmap(descriptor, stat.st_size, mmap.MAP_SHARED | mmap.MAP_POPULATE)
    finally:
        os.close(descriptor)
    return mapping, geometry, stat.st_ino


def _give(descriptor: int, path: Path, mode: int, group: str | None) -> None:
    try:
        if group is not None:
            os.fchown(descriptor, -1, grp.getgrnam(group).gr_gid)
        os.fchmod(descriptor, mode)
    except KeyError as error:
        raise ConfigError(f"stream {path}: no group {group!r} on this machine") from error
    except PermissionError as error:
        raise StorageError(f"stream {path}: may not give it to group {group!r}") from error


def _fill(
    mapping: mmap.mmap,
    geometry: StreamGeometry,
    path: Path,
    keywords: Mapping[str, Keyword],
    created_ns: int,
    inode: int,
) -> None:
    # Everything but the version, which makes it a stream.
    offsets = geometry.offsets()
    mapping[:METADATA_BYTES] = metadata_bytes(
        geometry, path.name.removesuffix(SUFFIX), created_ns=created_ns, pid=os.getpid(),
        inode=inode,
    )  # fmt: skip
    mapping[offsets.keywords : offsets.semaphores] = blank_block(geometry.keyword_count)
    block = KeywordBlock(memoryview(mapping)[offsets.keywords : offsets.semaphores])
    for name, (value, comment) in keywords.items():
        block.set(name, value, comment, 0)
    for index in range(geometry.semaphore_count + 1):  # the last is the semlog
        Semaphore(mapping, offsets.semaphores + index * SEMAPHORE_BYTES).initialise()
    nobody = NO_PID * geometry.semaphore_count
    for start in (offsets.reader_pids, offsets.writer_pids):
        mapping[start : start + len(nobody)] = nobody
