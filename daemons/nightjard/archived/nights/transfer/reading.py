# SPDX-License-Identifier: BSD-3-Clause
"""Files read from the disk, not from memory, and what they are: size and blake3 of all bytes.

Used on both sides of a transfer. A file that was just written is still in the page cache: reading
it there proves nothing about the disk. So what is dirty is written out first and the pages are
given up before the file is read.
"""

from __future__ import annotations

import ctypes
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nightjar.errors import ConfigError, StorageError
from nightjar.files import is_temporary

if TYPE_CHECKING:
    from blake3 import blake3

PARTIAL_FOLDER = ".nightjar-partial"  # where rsync keeps what it has of a file
_PIECE = 8 << 20
_STAMP_NS = 2_000_000_000

OnBytes = Callable[[int], None]


class Digest(NamedTuple):
    """What a file is."""

    size: int
    hash: str  # blake3, hexadecimal


class Unreadable(Exception):
    """A file cannot be vouched for; the text says why."""


def flush(folder: Path) -> int:
    """Bring everything that was written to the file system of `folder` to its disk.

    Returns
    -------
    int
        When that began, ns UTC: what was written before is on the disk.

    Raises
    ------
    StorageError
        The system says that writing failed: nothing on this file system can be vouched for.
    """
    # File systems stamp with a clock of 4 ms steps or, on a network, with another host's.
    begun_ns = time.time_ns() - _STAMP_NS
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StorageError(f"cannot open the folder {folder}: {error.strerror}") from error
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            text = os.strerror(ctypes.get_errno())
            raise StorageError(
                f"what was written to the disk of {folder} did not reach it: {text}; "
                "look at the disk (dmesg, smartctl)"
            )
    finally:
        os.close(descriptor)
    return begun_ns


def digest(path: Path, on_bytes: OnBytes | None = None, *, flushed_ns: int = 0) -> Digest:
    """Read a whole regular file from its disk.

    Parameters
    ----------
    path
        Not followed if it is a symbolic link.
    on_bytes
        Told the number of bytes of each piece; may raise to end.
    flushed_ns
        From :func:`flush`: a file that was not changed since need not be written out again, which
        costs milliseconds for each even where there is nothing to write.

    Raises
    ------
    Unreadable
        Gone, no regular file, changed while it was read, or the disk failed.
    """
    try:
        # O_NONBLOCK: a named pipe must not hang us.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(path, flags)
        try:
            return _digest(descriptor, on_bytes, flushed_ns)
        finally:
            os.close(descriptor)
    except FileNotFoundError as error:
        raise Unreadable("it is not there") from error
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror}") from error


def _digest(descriptor: int, on_bytes: OnBytes | None, flushed_ns: int) -> Digest:
    before = os.fstat(descriptor)
    if not stat.S_ISREG(before.st_mode):
        raise Unreadable("it is no regular file")
    if before.st_ctime_ns >= flushed_ns:
        os.fdatasync(descriptor)  # dirty pages cannot be dropped
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
    hasher = _hasher()
    piece = bytearray(min(_PIECE, before.st_size + 1))
    view = memoryview(piece)
    done = 0
    # A file that grows as fast as it is read must not keep us for ever.
    while done <= before.st_size and (count := os.readv(descriptor, [piece])):
        hasher.update(view[:count])
        # Nor may the archive push what observers look at out of the memory.
        os.posix_fadvise(descriptor, done, count, os.POSIX_FADV_DONTNEED)
        done += count
        if on_bytes is not None:
            on_bytes(count)
    after = os.fstat(descriptor)
    if done != before.st_size or _identity(after) != _identity(before):
        raise Unreadable("it changed while it was read")
    return Digest(done, hasher.hexdigest())


def _hasher() -> blake3:
    try:
        from blake3 import blake3
    except ModuleNotFoundError as error:  # the far side may have the bare distribution
        raise ConfigError(
            "package blake3 is missing here; pip install blake3, or 'nightjar[daemons]'"
        ) from error
    return blake3()


def _identity(state: os.stat_result) -> tuple[int, int, int]:
    return state.st_size, state.st_mtime_ns, state.st_ino


def list_files(folder: Path) -> Iterator[str]:
    """Give the paths of all files below `folder`, relative to it; not those on other disks.

    Unfinished files of rsync and of our own programs are left out. Folders that cannot be read
    are given with a slash at the end, so that they can be told of.

    Raises
    ------
    StorageError
        `folder` itself cannot be read.
    """
    try:
        device = folder.stat().st_dev
        os.listdir(folder)
    except OSError as error:
        raise StorageError(f"cannot read the folder {folder}: {error.strerror}") from error
    waiting = [""]
    while waiting:
        below = waiting.pop()
        try:
            with os.scandir(folder / below) as entries:
                for entry in entries:
                    path = f"{below}{entry.name}"
                    if not entry.is_dir(follow_symlinks=False):
                        if not is_temporary(Path(entry.name)):
                            yield path
                    elif (
                        entry.name != PARTIAL_FOLDER
                        and entry.stat(follow_symlinks=False).st_dev == device
                    ):
                        waiting.append(f"{path}/")
        except OSError:
            yield below


def is_inside(path: str) -> bool:
    """Tell whether a relative path stays below the folder that it is put behind."""
    parts = path.split("/")
    return bool(path) and "\0" not in path and not any(part in ("", ".", "..") for part in parts)


def storable(path: str) -> str:
    r"""Return a path as text that a database takes: bytes that are no UTF-8 become ``\udcxx``."""
    return path.encode("utf-8", "backslashreplace").decode()
