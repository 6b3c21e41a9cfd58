# SPDX-License-Identifier: BSD-3-Clause
"""Stream files as files: their names, their owners, their room and their first bytes."""

from __future__ import annotations

import errno
import grp
import mmap
import os
from pathlib import Path

from nightjar.errors import Code, ConfigError, InvalidArgument, StorageError
from nightjar.files import is_safe_name, shared_memory_folder
from nightjar.streams.keywords import blank_block
from nightjar.streams.layout import (
    METADATA_BYTES,
    NAME_LIMIT,
    OWNER_PID_OFFSET,
    SEMAPHORE_BYTES,
    SUFFIX,
    VERSION,
    StreamGeometry,
    metadata_bytes,
)
from nightjar.streams.process import is_alive
from nightjar.streams.semaphores import Semaphore
from nightjar.units import bytes_text

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
    try:
        os.posix_fallocate(descriptor, 0, total)
    except OSError as error:
        stat = os.statvfs(path.parent)
        free = stat.f_bavail * stat.f_frsize
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM):
            raise StorageError(
                f"no room for stream {path}: {bytes_text(total)} needed, {bytes_text(free)} free "
                f"in {path.parent} ({error.strerror})",
                code=Code.NO_SPACE, path=str(path), needed_bytes=total, free_bytes=free,
            ) from error  # fmt: skip
        raise StorageError(f"cannot reserve stream {path}: {error.strerror}") from error


def allocate(
    descriptor: int, geometry: StreamGeometry, path: Path, mode: int, group: str | None
) -> tuple[mmap.mmap, int]:
    """Reserve and map a new file, set its permissions; return the mapping and its inode."""
    total = geometry.offsets().total
    reserve(descriptor, total, path)
    try:
        if group is not None:
            os.fchown(descriptor, -1, grp.getgrnam(group).gr_gid)
        os.fchmod(descriptor, mode)
    except KeyError as error:
        raise ConfigError(f"stream {path}: no group {group!r} on this machine") from error
    except PermissionError as error:
        raise StorageError(f"stream {path}: may not give it to group {group!r}") from error
    mapping = mmap.mmap(descriptor, total, mmap.MAP_SHARED | mmap.MAP_POPULATE)
    return mapping, os.fstat(descriptor).st_ino


def fill(
    mapping: mmap.mmap, geometry: StreamGeometry, path: Path, created_ns: int, inode: int
) -> None:
    """Write everything of a new stream but its version."""
    offsets = geometry.offsets()
    mapping[:METADATA_BYTES] = metadata_bytes(
        geometry, path.name.removesuffix(SUFFIX), created_ns=created_ns, pid=os.getpid(),
        inode=inode,
    )  # fmt: skip
    mapping[offsets.keywords : offsets.semaphores] = blank_block(geometry.keyword_count)
    for index in range(geometry.semaphore_count + 1):  # the last is the semlog
        Semaphore(mapping, offsets.semaphores + index * SEMAPHORE_BYTES).initialise()
    nobody = NO_PID * geometry.semaphore_count
    for start in (offsets.reader_pids, offsets.writer_pids):
        mapping[start : start + len(nobody)] = nobody
