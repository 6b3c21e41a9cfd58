# SPDX-License-Identifier: BSD-3-Clause
"""Where a product goes: into a new file, or beside one that is there, byte for byte.

A new file grows under a hidden name that its writer holds a lock on. A name without a lock was
left by a writer that was killed, and is removed by whoever makes the same file next. Where the
file itself is there already, nothing is written: every byte is compared with what it holds.

The hash of a file begins with its header, which is known last. Up to a bound, what was written is
therefore kept in memory until then; what is beyond is read back.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from pathlib import Path
from typing import Any, Protocol

from blake3 import blake3

from nightjar import files
from nightjard.archived.nights.writing.same_file import (
    SameFile,
    different,
    hash_of,
    storage_error,
)

WRITE_BYTES = 4 << 20
#: Most bytes of a file that are kept until its hash can be made. Of a pool of two processes this
#: and what they need besides stays below 1 GB.
KEPT_BYTES = 256 << 20
_WRITEBACK_BYTES = 16 << 20
_SYNC_FILE_RANGE_WRITE = 2
_TRIES = 100
_libc = ctypes.CDLL(None, use_errno=True)


class Output(Protocol):
    """A file that grows at its end; what depends on later bytes is put in its place afterwards.

    Attributes
    ----------
    file
        Where its bytes can be read.
    written, read_back
        Bytes given to the disk, and read from it for the hash.
    was_there
        It existed before.
    """

    file: Path
    written: int
    read_back: int
    was_there: bool

    def append(self, data: Any) -> None:
        """Put bytes at the end."""
        ...

    def reserve(self, count: int) -> int:
        """Leave bytes out at the end; return where they begin."""
        ...

    def put(self, data: bytes, offset: int) -> None:
        """Put bytes where they were left out."""
        ...

    def finish(self) -> int:
        """Have everything in the file; return its size."""
        ...

    def content_hash(self) -> str:
        """Return the blake3 (hexadecimal) of the whole file; after :meth:`finish`."""
        ...

    def sync(self) -> None:
        """Make the content durable."""
        ...

    def publish(self) -> None:
        """Give the file its name, durably."""
        ...

    def close(self) -> None:
        """Be done; what did not get its name goes away."""
        ...


def open_output(path: Path, *, kept_bytes: int = 0) -> Output:
    """Return the output for a file.

    Parameters
    ----------
    path
        Its name, when it is done.
    kept_bytes
        See :class:`NewFile`.

    Raises
    ------
    StorageError
        The folder cannot be written or read.
    """
    try:
        make_folder(path.parent)
        remove_leftovers(path)
        return SameFile(path) if os.path.lexists(path) else NewFile(path, kept_bytes=kept_bytes)
    except OSError as error:
        raise storage_error(path, error) from error


def make_folder(folder: Path) -> None:
    """Make a folder where there is none, durably; OSError as the system says."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        files.fsync_folder(folder.parent)


def remove_leftovers(path: Path) -> list[Path]:
    """Remove what killed writers of this file left in its folder; return what was removed."""
    removed = []
    for name in os.listdir(path.parent):
        if not (name.startswith(f".{path.name}.") and name.endswith(files.TEMPORARY_SUFFIX)):
            continue
        leftover = path.parent / name
        try:
            descriptor = os.open(leftover, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            if _lock(descriptor):
                leftover.unlink(missing_ok=True)
                removed.append(leftover)
        finally:
            os.close(descriptor)
    return removed


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _create(path: Path) -> tuple[int, Path]:
    """Return a new file under a temporary name, locked."""
    for number in range(_TRIES):
        temporary = path.with_name(f".{path.name}.{os.getpid()}-{number}{files.TEMPORARY_SUFFIX}")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            descriptor = os.open(temporary, flags, 0o644)
        except FileExistsError:
            continue  # another thread's, or that of a process of this number on another host
        # Between the two lines somebody may have taken it for a leftover.
        if _lock(descriptor) and os.fstat(descriptor).st_nlink:
            return descriptor, temporary
        os.close(descriptor)
    raise OSError(errno.EEXIST, f"no temporary name is free after {_TRIES} tries")


class NewFile:
    """A file that does not exist yet.

    Parameters
    ----------
    path
        Its name, when it is done.
    kept_bytes
        As many bytes behind what was left out first stay in memory for :meth:`content_hash`.

    Raises
    ------
    StorageError
        From every method, when the disk does not do it.
    """

    was_there = False

    def __init__(self, path: Path, *, kept_bytes: int = 0) -> None:
        self.path = path
        self.written = self.read_back = 0
        self._kept: list[memoryview] = []
        self._kept_from, self._kept_room = 0, kept_bytes
        self._end = self._writeback_from = 0
        self._buffer = bytearray(WRITE_BYTES)
        self._room, self._used = WRITE_BYTES, 0
        self._descriptor, self.file = _create(path)

    def append(self, data: Any) -> None:
        """Put bytes at the end."""
        view = memoryview(data).cast("B")
        while view:
            count = min(len(view), self._room - self._used)
            self._buffer[self._used : self._used + count] = view[:count]
            self._used += count
            view = view[count:]
            if self._used == self._room:
                self._flush()

    def reserve(self, count: int) -> int:
        """Leave bytes out at the end; return where they begin."""
        self._flush()
        begin = self._end
        self._end += count
        if self._kept:
            self._kept_room = 0  # what is kept has no gaps
        else:
            self._kept_from = self._end
        # The next write is shorter, so that all others begin at a multiple of their size.
        self._room = WRITE_BYTES - self._end % WRITE_BYTES
        return begin

    def _flush(self) -> None:
        try:
            files.write_at(self._descriptor, memoryview(self._buffer)[: self._used], self._end)
        except OSError as error:
            raise storage_error(self.path, error) from error
        self.written += self._used
        self._end += self._used
        if 0 < self._used <= self._kept_room:
            self._kept.append(memoryview(self._buffer)[: self._used])
            self._kept_room -= self._used
            self._buffer = bytearray(WRITE_BYTES)
        elif self._used:
            self._kept_room = 0
        self._used, self._room = 0, WRITE_BYTES
        if self._end - self._writeback_from >= _WRITEBACK_BYTES:
            # Lets the disk work now instead of all at the fsync; a failure is told there.
            count = self._end - self._writeback_from
            _libc.sync_file_range(
                self._descriptor, ctypes.c_int64(self._writeback_from), ctypes.c_int64(count),
                _SYNC_FILE_RANGE_WRITE,
            )  # fmt: skip
            self._writeback_from = self._end

    def put(self, data: bytes, offset: int) -> None:
        """Put bytes where they were left out."""
        try:
            files.write_at(self._descriptor, data, offset)
        except OSError as error:
            raise storage_error(self.path, error) from error
        self.written += len(data)

    def finish(self) -> int:
        """Have everything in the file; return its size."""
        self._flush()
        return self._end

    def content_hash(self) -> str:
        """Return the blake3 (hexadecimal) of the file; what is not kept is read back."""
        hasher = blake3()
        self._hash_part(hasher, 0, self._kept_from)
        for part in self._kept:
            hasher.update(part)
        self._hash_part(hasher, self._kept_from + sum(map(len, self._kept)), self._end)
        self._kept.clear()
        self._kept_from, self._kept_room = 0, 0
        return hasher.hexdigest()

    def _hash_part(self, hasher: blake3, start: int, end: int) -> None:
        while start < end:
            try:
                data = os.pread(self._descriptor, min(WRITE_BYTES, end - start), start)
            except OSError as error:
                raise storage_error(self.path, error) from error
            if not data:
                raise storage_error(self.path, OSError(errno.EIO, f"it ends at byte {start}"))
            hasher.update(data)
            start += len(data)
            self.read_back += len(data)

    def sync(self) -> None:
        """Make the content durable."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise storage_error(self.path, error) from error

    def publish(self, *, replace: bool = False) -> None:
        """Give the file its name, durably.

        Where another process was faster, and its file is the same, this one goes away. With
        `replace` it takes the place of any other.
        """
        try:
            if replace:
                os.replace(self.file, self.path)
            else:
                files.rename_new(self.file, self.path)
        except FileExistsError:
            if hash_of(self.path) != hash_of(self.file):
                raise different(self.path, "") from None
            self.was_there = True
            self.close()
            return
        except OSError as error:
            raise storage_error(self.path, error) from error
        self.file = self.path
        try:
            files.fsync_folder(self.path.parent)
        except OSError as error:
            raise storage_error(self.path, error) from error
        self.close()

    def close(self) -> None:
        """Close the file; remove it where it has no name. Harmless twice."""
        if self._descriptor < 0:
            return
        try:
            if self.file != self.path:
                self.file.unlink(missing_ok=True)
        finally:
            os.close(self._descriptor)
            self._descriptor = -1
            self.file = self.path
