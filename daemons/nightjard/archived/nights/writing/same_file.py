# SPDX-License-Identifier: BSD-3-Clause
"""A file that is there already: compared with what would be written, and nothing changed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from blake3 import blake3

from nightjar import files
from nightjar.errors import Code, StorageError, storage_code

_PIECE_BYTES = 4 << 20


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
        self.read_back = 0
        self._end = 0
        self._hasher = blake3()
        self._left_out: dict[int, bytes] = {}
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def append(self, data: Any) -> None:
        """Compare the bytes that would come next."""
        wanted = memoryview(data).cast("B")
        while wanted:
            found = self._read(min(len(wanted), _PIECE_BYTES))
            if not found or found != wanted[: len(found)]:
                raise different(self.path, f", at or after byte {self._end - len(found)}")
            wanted = wanted[len(found) :]

    def reserve(self, count: int) -> int:
        """Leave bytes out, which will be compared later; return where they begin."""
        begin = self._end
        parts = []
        while self._end - begin < count and (part := self._read(count - (self._end - begin))):
            parts.append(part)
        self._left_out[begin] = b"".join(parts)
        self._end = begin + count
        return begin

    def put(self, data: bytes, offset: int) -> None:
        """Compare bytes that were left out."""
        if data != self._left_out.pop(offset):
            raise different(self.path, f", at or after byte {offset}")

    def finish(self) -> int:
        """Compare the size, and return it."""
        size = os.fstat(self._descriptor).st_size
        if size != self._end:
            raise different(self.path, f": it has {size} bytes, not {self._end}")
        return size

    def _read(self, count: int) -> bytes:
        """Return the next bytes of the file, each of which is read once."""
        try:
            data = os.pread(self._descriptor, count, self._end)
        except OSError as error:
            raise storage_error(self.path, error) from error
        self._hasher.update(data)
        self._end += len(data)
        self.read_back += len(data)
        return data

    def content_hash(self) -> str:
        """Return the blake3 (hexadecimal) of what was compared, which is the whole file."""
        return self._hasher.hexdigest()

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
    buffer = memoryview(bytearray(_PIECE_BYTES))
    try:
        with open(path, "rb", buffering=0) as file:
            while count := file.readinto(buffer):
                hasher.update(buffer[:count])
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}", path=str(path)) from error
    return hasher.hexdigest()


def different(path: Path, what: str) -> StorageError:
    """Return the error that tells of a file that holds something else; `what`: where."""
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
