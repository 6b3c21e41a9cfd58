# SPDX-License-Identifier: BSD-3-Clause
"""Spool files whose pages are used again.

On a RAM disk most of the time of a write goes into fresh pages: the kernel must find and clear
them, and writing over existing ones is five times as fast. A reader that has copied a spool file
to its place may therefore give the file back to the folder's pool, ``.recycle``, instead of
deleting it, and the writer takes it from there, writes over it and renames it as it would a new
file.

Nobody who still has the file open may see its pixels change. The kernel proves that nobody has:
it grants a write lease (``fcntl(2)``, F_SETLEASE) only where the asking descriptor is the only one
and nothing is mapped. The writer holds that lease until the new content is complete, so that even
an ``open`` under way waits for the whole new file. What lies in the pool is garbage by definition:
after a crash it may be used or deleted as well.

Where a site can mount a RAM disk for the spool by itself, ``mount -t tmpfs -o huge=within_size``
takes the cost from new files too (the kernel then finds 2 MiB pages); the pool does no harm there.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
from pathlib import Path

from nightjar import files
from nightjar.errors import StorageError

POOL_NAME = ".recycle"


def recycle(path: Path, limit_bytes: int) -> bool:
    """Give a spool file that is no longer needed to its folder's pool, or delete it.

    Parameters
    ----------
    path
        Gone afterwards, in either case. Its content must be safe elsewhere.
    limit_bytes
        What the pool may hold, this file included.

    Returns
    -------
    bool
        True where it went to the pool. A file that somebody has open, that has another name, or
        that is not on a RAM disk is deleted: whoever has it open keeps it as it is.

    Raises
    ------
    StorageError
        The file is not there or cannot be removed.
    """
    try:
        if _is_fit(path, limit_bytes) and _move_to_pool(path):
            return True
        path.unlink()
    except OSError as error:
        raise StorageError(
            f"cannot remove spool file {path}: {error.strerror}", path=str(path)
        ) from error
    return False


def take(folder: Path, name: Path, size: int) -> int | None:
    """Take a file from a folder's pool for writing.

    Parameters
    ----------
    folder
        Of the pool.
    name
        What the file is called from now on, in the same file system.
    size
        It is given this many bytes; their content is garbage.

    Returns
    -------
    int or None
        A descriptor open for writing at 0, under a lease: :func:`release` it when the content is
        complete. None where the pool has no file of use.
    """
    for candidate in _candidates(folder / POOL_NAME, size):
        try:
            # The rename decides between two workers: one of them finds nothing.
            os.rename(candidate, name)
        except OSError:
            continue
        descriptor = _lease_and_size(name, folder, size)
        if descriptor is not None:
            return descriptor
        name.unlink(missing_ok=True)
    return None


def release(descriptor: int) -> None:
    """Give up the lease: others may open the file. The descriptor stays open."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        # The kernel ends a lease itself that stood in somebody's way for lease-break-time (45 s).
        if error.errno != errno.EAGAIN:
            raise


def clear(folder: Path) -> int:
    """Delete what the pool of a folder holds; return the bytes."""
    freed = 0
    for path, size in _entries(folder / POOL_NAME):
        path.unlink(missing_ok=True)
        freed += size
    return freed


def pooled_bytes(folder: Path) -> int:
    """Return the bytes that wait in the pool of a folder."""
    return sum(size for _, size in _entries(folder / POOL_NAME))


def _is_fit(path: Path, limit_bytes: int) -> bool:
    """Tell whether a file may go to the pool as far as can be told without opening it."""
    status = path.lstat()
    return (
        stat.S_ISREG(status.st_mode)
        and status.st_nlink == 1
        and status.st_size > 0
        and files.is_ram_disk(path.parent)
        and pooled_bytes(path.parent) + status.st_size <= limit_bytes
    )


def _move_to_pool(path: Path) -> bool:
    pool = path.parent / POOL_NAME
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        try:
            if not _lease(descriptor):
                return False
        except PermissionError:
            pass  # another user's file: only that user can prove it, and does before writing
        else:
            # The proof spares the pool a useless file; the one that counts is the writer's.
            release(descriptor)
        if not pool.is_dir():
            pool.mkdir(exist_ok=True)
            # Another user's writer must be able to take from it, as it may from the spool.
            pool.chmod(stat.S_IMODE(path.parent.stat().st_mode))
        # The inode's number is nobody else's while the file exists.
        files.rename_new(path, pool / str(os.fstat(descriptor).st_ino))
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _lease(descriptor: int) -> bool:
    """Ask the kernel for proof that this descriptor is the only one of its file.

    Raises
    ------
    PermissionError
        The file is another user's.
    """
    try:
        # A lease is called in by a signal. SIGIO would end the process; SIGURG does nothing.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError as error:
        # EAGAIN: open elsewhere. EINVAL, ENOLCK: no leases on this file system.
        if error.errno in (errno.EAGAIN, errno.EINVAL, errno.ENOLCK):
            return False
        raise
    return True


def _lease_and_size(name: Path, folder: Path, size: int) -> int | None:
    """Return a leased descriptor of a file of the right size; None where that cannot be had."""
    try:
        descriptor = os.open(name, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    is_ours = False
    try:
        status = os.fstat(descriptor)
        is_ours = (
            status.st_nlink == 1
            and files.free_bytes(folder) >= size - status.st_size
            and _lease(descriptor)
        )
        if is_ours:
            os.ftruncate(descriptor, size)
    except OSError:
        is_ours = False
    finally:
        if not is_ours:
            os.close(descriptor)
    return descriptor if is_ours else None


def _candidates(pool: Path, size: int) -> list[Path]:
    """Return the pool's files, those of about the wanted size first."""
    return [path for path, _ in sorted(_entries(pool), key=lambda item: abs(item[1] - size))]


def _entries(pool: Path) -> list[tuple[Path, int]]:
    found: list[tuple[Path, int]] = []
    try:
        with os.scandir(pool) as listing:
            for entry in listing:
                try:
                    if entry.is_file(follow_symlinks=False):
                        found.append((Path(entry.path), entry.stat().st_size))
                except FileNotFoundError:
                    continue  # taken by another worker meanwhile
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []  # a pool that cannot be used is an empty one
    return found
