# SPDX-License-Identifier: BSD-3-Clause
"""Where a product goes: into a new file, or beside one that is there, byte for byte.

A new file grows under a hidden name that its writer holds a lock on. A name without a lock was
left by a writer that was killed, and is removed by whoever makes the same file next. Where the
file itself is there already, nothing is written: every byte is compared with what it holds.
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
from nightjar.errors import Code, StorageError, storage_code

WRITE_BYTES = 4 << 20
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
    written
        Bytes given to the disk.
    was_there
        It existed before.
    """

    file: Path
    written: int
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

    def sync(self) -> None:
        """Make the content durable."""
        ...

    def publish(self) -> None:
        """Give the file its name, durably."""
        ...

    def close(self) -> None:
        """Be done; what did not get its name goes away."""
        ...


def open_output(path: Path) -> Output:
    """Return the output for a file.

    Raises
    ------
    StorageError
        The folder cannot be written or read.
    """
    try:
        make_folder(path.parent)
        remove_leftovers(path)
        return SameFile(path) if os.path.lexists(path) else NewFile(path)
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

    Raises
    ------
    StorageError
        From every method, when the disk does not do it.
    """

    was_there = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.written = 0
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
                raise _different(self.path, "") from None
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


class SameFile:
    """A file that exists and must hold just what would be written.

    Parameters
    ----------
    path
        As of :class:`NewFile`.

    Raises
    ------
    StorageError
        It holds something else, or cannot be read; it stays as it is.
    """

    was_there = True
    written = 0

    def __init__(self, path: Path) -> None:
        self.path = self.file = path
        self._end = 0
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def append(self, data: Any) -> None:
        """Compare the bytes that would come next."""
        view = memoryview(data).cast("B")
        self._compare(view, self._end)
        self._end += len(view)

    def reserve(self, count: int) -> int:
        """Leave bytes out, which will be compared later; return where they begin."""
        begin = self._end
        self._end += count
        return begin

    def put(self, data: bytes, offset: int) -> None:
        """Compare bytes that were left out."""
        self._compare(memoryview(data), offset)

    def finish(self) -> int:
        """Compare the size, and return it."""
        size = os.fstat(self._descriptor).st_size
        if size != self._end:
            raise _different(self.path, f": it has {size} bytes, not {self._end}")
        return size

    def _compare(self, wanted: memoryview, offset: int) -> None:
        while wanted:
            try:
                found = os.pread(self._descriptor, min(len(wanted), WRITE_BYTES), offset)
            except OSError as error:
                raise storage_error(self.path, error) from error
            if not found or found != wanted[: len(found)]:
                raise _different(self.path, f", at or after byte {offset}")
            wanted, offset = wanted[len(found) :], offset + len(found)

    def sync(self) -> None:
        """Make the content durable: whoever wrote it may have been killed before."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise storage_error(self.path, error) from error

    def publish(self) -> None:
        """Make its name durable."""
        try:
            files.fsync_folder(self.path.parent)
        except OSError as error:
            raise storage_error(self.path, error) from error

    def close(self) -> None:
        """Close the file; harmless twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def hash_of(path: Path) -> str:
    """Return the blake3 (hexadecimal) of a file's bytes.

    Raises
    ------
    StorageError
        It cannot be read.
    """
    hasher = blake3()
    buffer = memoryview(bytearray(WRITE_BYTES))
    try:
        with open(path, "rb", buffering=0) as file:
            while count := file.readinto(buffer):
                hasher.update(buffer[:count])
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}", path=str(path)) from error
    return hasher.hexdigest()


def _different(path: Path, what: str) -> StorageError:
    return StorageError(
        f"cannot write {path}: a file of that name exists and holds something else{what}; both "
        "stay as they are; find out which is right, then remove the other",
        path=str(path),
    )


def storage_error(path: Path, error: OSError) -> StorageError:
    """Return the error that tells why a product was not written."""
    code = storage_code(error)
    hint = "make room" if code is Code.NO_SPACE else "correct the folder or the disk"
    return StorageError(
        f"cannot write {path}: {error.strerror or error}; {hint} and run the step again",
        code=code, path=str(path),
    )  # fmt: skip
