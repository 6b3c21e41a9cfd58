# SPDX-License-Identifier: BSD-3-Clause
"""Moving a file to its place so that a crash at any instant leaves it whole, and findable.

A :class:`Plan` stands in the database before anything is touched. Carrying it out is idempotent:
whatever an earlier attempt left, doing it again ends with the one file in its place.

Within one file system the file is renamed. Header cards are changed in it just before: the new
header blocks stand in the plan, so that a header torn by a crash is written again, and the pixels
are never written at all. Across file systems the file is copied under a hidden name, synced, read
back and compared byte for byte, renamed, and only then the original goes.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nightjar import files
from nightjar.errors import Code, StorageError
from nightjar.fits import spool
from nightjar.fits.checksum import DataSum
from nightjard.archived.layout import Root, make_folder

CHUNK_BYTES = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Gone(StorageError):
    """The file is neither where it came from nor in its place."""


class Changed(StorageError):
    """The file is not the one that was verified."""


class Taken(StorageError):
    """Another file has the name."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What shall become of one file.

    Attributes
    ----------
    target
        Path below the root.
    size, datasum
        Of the file as it arrived: its bytes, and the sum of those from `data_offset` on.
    data_offset
        Bytes of the header as it arrived.
    header
        The header blocks that the file shall have; None to leave every byte as it is.
    """

    target: str
    size: int
    datasum: int
    data_offset: int
    header: bytes | None

    @property
    def final_size(self) -> int:
        """Bytes of the file in its place."""
        if self.header is None:
            return self.size
        return self.size - self.data_offset + len(self.header)


class Placer:
    """Carries plans out.

    Parameters
    ----------
    root
        Of the archive.
    recycle_bytes
        What a RAM disk's pool of used files may hold; see :mod:`nightjar.fits.spool`.
    """

    def __init__(self, root: Root, recycle_bytes: int = 0) -> None:
        self._root = root
        self._recycle_bytes = recycle_bytes

    def place(self, source: Path, plan: Plan, *, is_verified: bool) -> Path:
        """Bring a file to its place; return the path.

        Parameters
        ----------
        source
            Where the file was. It may be gone if an earlier attempt came that far.
        is_verified
            The source was compared with the plan's sums in this very attempt.

        Raises
        ------
        Gone, Changed, Taken
            See there; nothing was changed.
        StorageError
            The disk is full, gone or broken; trying again later is safe.
        """
        target = self._root.path / plan.target
        try:
            return self._place(source, target, plan, is_verified)
        except StorageError:
            raise
        except OSError as error:
            code = Code.NO_SPACE if error.errno in _FULL else Code.STORAGE_FAILED
            raise StorageError(
                f"cannot move {source} to {target}: {error.strerror or error}",
                code=code, path=str(target),
            ) from error  # fmt: skip

    def _place(self, source: Path, target: Path, plan: Plan, is_verified: bool) -> Path:
        self._root.clear_temporaries(plan.target)
        has_source = os.path.lexists(source)
        if os.path.lexists(target):
            if not self.is_in_place(target, plan):
                raise Taken(f"{target} is another file", path=str(target))
            files.fsync_folder(target.parent)
            if has_source and _is_unchanged(source, plan):
                self._dispose(source)
            return target
        if not has_source:
            raise Gone(f"{source} is gone, and {target} is not there", path=str(source))
        if not is_verified and not _is_unchanged(source, plan):
            raise Changed(f"{source} is not what it was when it was accepted", path=str(source))
        make_folder(target.parent, self._root.path)
        is_same_length = plan.header is None or len(plan.header) == plan.data_offset
        is_moved = (
            is_same_length
            and source.lstat().st_dev == target.parent.stat().st_dev
            and self._move(source, target, plan)
        )
        if not is_moved:
            self._copy(source, target, plan)
        return target

    def is_in_place(self, path: Path, plan: Plan) -> bool:
        """Tell whether a file is what the plan makes, reading all of it."""
        if plan.header is None:
            return _is_unchanged(path, plan)
        return _has(path, plan.final_size, plan.header, len(plan.header), plan.datasum)

    def _move(self, source: Path, target: Path, plan: Plan) -> bool:
        """Rename; False where the file system cannot, and the file must be copied."""
        descriptor = os.open(source, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            if plan.header is not None:
                _write_all(descriptor, plan.header, 0)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        try:
            _rename(source, target)
        except OSError as error:
            # One file system bound into a service's sandbox in two places does not rename.
            if error.errno != errno.EXDEV:
                raise
            return False
        files.fsync_folder(target.parent)
        files.fsync_folder(source.parent)
        return True

    def _copy(self, source: Path, target: Path, plan: Plan) -> None:
        temporary = files.temporary_name(target)
        header = plan.header
        skipped = 0 if header is None else plan.data_offset
        try:
            with _opened(source, os.O_RDONLY) as original:
                with _opened(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL) as copy:
                    # All of the space now: a full disk is found before hours of copying.
                    os.posix_fallocate(copy, 0, plan.final_size)
                    at = _write_all(copy, header or b"", 0)
                    for piece in _pieces(original, skipped):
                        at += _write_all(copy, piece, at)
                    os.fsync(copy)
                    # What is read back shall come from the disk, not from the page cache.
                    os.posix_fadvise(copy, 0, 0, os.POSIX_FADV_DONTNEED)
                    _require_same(copy, header or b"", original, skipped, temporary)
            _rename(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        files.fsync_folder(target.parent)
        self._dispose(source)

    def _dispose(self, source: Path) -> None:
        """Let a file go whose verified copy is durable."""
        spool.recycle(source, self._recycle_bytes)
        files.fsync_folder(source.parent)


class _opened:  # noqa: N801 - reads as a verb
    """A descriptor for as long as a block lasts; never through a symbolic link."""

    def __init__(self, path: Path, flags: int) -> None:
        self.descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)

    def __enter__(self) -> int:
        return self.descriptor

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)


def _rename(source: Path, target: Path) -> None:
    try:
        files.rename_new(source, target)
    except FileExistsError:
        raise Taken(f"{target} is another file", path=str(target)) from None


def _write_all(descriptor: int, data: bytes | memoryview, offset: int) -> int:
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, offset)
        view = view[count:]
        offset += count
    return len(data)


def _pieces(descriptor: int, start: int) -> Iterator[memoryview]:
    """Yield a file from an offset to its end; each piece is overwritten by the next."""
    buffer = memoryview(bytearray(CHUNK_BYTES))
    while count := os.preadv(descriptor, [buffer], start):
        yield buffer[:count]
        start += count


def _require_same(copy: int, header: bytes, original: int, skipped: int, name: Path) -> None:
    """Raise StorageError unless a copy reads back as the header and the original's data."""
    is_same = os.pread(copy, len(header), 0) == header
    end = len(header)
    mirror = memoryview(bytearray(CHUNK_BYTES))
    for piece in _pieces(original, skipped) if is_same else ():
        count = os.preadv(copy, [mirror[: len(piece)]], end)
        end += count
        # numpy compares without the interpreter's lock, memoryviews do not
        is_same = np.array_equal(
            np.frombuffer(mirror[:count], np.uint8), np.frombuffer(piece, np.uint8)
        )
        if not is_same:
            break
    if not is_same or os.fstat(copy).st_size != end:
        raise StorageError(
            f"{name.parent}: what was written reads back differently; check this disk",
            path=str(name.parent),
        )


def _is_unchanged(path: Path, plan: Plan) -> bool:
    """Tell whether a file's data are those of the plan, whatever its header blocks are now."""
    return _has(path, plan.size, None, plan.data_offset, plan.datasum)


def _has(path: Path, size: int, header: bytes | None, data_offset: int, datasum: int) -> bool:
    total = DataSum()
    with _opened(path, os.O_RDONLY) as descriptor:
        if os.fstat(descriptor).st_size != size:
            return False
        if header is not None and os.pread(descriptor, len(header), 0) != header:
            return False
        for piece in _pieces(descriptor, data_offset):
            total.add(piece)
    return total.value == datasum


def sum_from(path: Path, offset: int) -> tuple[int, int]:
    """Return size of a file and the sum of its bytes from an offset on."""
    total = DataSum()
    with _opened(path, os.O_RDONLY) as descriptor:
        for piece in _pieces(descriptor, offset):
            total.add(piece)
        return os.fstat(descriptor).st_size, total.value
