# SPDX-License-Identifier: BSD-3-Clause
"""Files that are either whole and named, or not there: temporary names, fsync, rename, locks.

The rule of the house: write to a hidden temporary name in the same folder, fsync the file, rename
without overwriting, fsync the folder.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nightjar.errors import Code, Refused, StorageError, storage_code

TEMPORARY_SUFFIX = ".tmp"
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_TMPFS_MAGIC = 0x01021994
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}\Z")


def temporary_name(path: Path, pid: int | None = None) -> Path:
    """Return the hidden name in the same folder under which a process writes `path` first.

    `pid` is the process's, this one's by default.
    """
    return path.with_name(f".{path.name}.{pid or os.getpid()}{TEMPORARY_SUFFIX}")


def is_temporary(path: Path) -> bool:
    """Tell whether a file is somebody's unfinished or leftover write."""
    return path.name.startswith(".") and path.name.endswith(TEMPORARY_SUFFIX)


def is_safe_name(name: str) -> bool:
    """Tell whether a text from outside may become one component of a path."""
    return _SAFE_NAME.match(name) is not None


def fsync_folder(folder: Path) -> None:
    """Make renames and links in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename_new(source: Path, target: Path) -> None:
    """Rename a file or folder within one file system, never replacing an existing `target`.

    Raises
    ------
    FileExistsError
        `target` exists; both stay as they were.
    OSError
        Whatever else the system says, EXDEV across file systems among it.
    """
    import ctypes  # 3 ms that the clients, which import this module for its names, need not pay

    libc = ctypes.CDLL(None, use_errno=True)
    renameat2 = getattr(libc, "renameat2", None)
    if renameat2 is not None:
        code = renameat2(
            _AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE
        )
        if code == 0:
            return
        number = ctypes.get_errno()
        if number not in (errno.EINVAL, errno.ENOSYS):
            raise OSError(number, os.strerror(number), str(source), None, str(target))
    # File systems without RENAME_NOREPLACE (some network ones): what fails where target exists.
    if source.is_dir() and not source.is_symlink():  # has no hard links
        os.mkdir(target)
        try:
            os.rename(source, target)  # replaces an empty folder only: that of the line before
        except OSError:
            os.rmdir(target)
            raise
        return
    os.link(source, target)
    os.unlink(source)


def write_durably(path: Path, data: bytes, *, replace: bool = False) -> None:
    """Write a whole small file so that a crash leaves the old one or the new one.

    Parameters
    ----------
    path, data
        Final name and content.
    replace
        Replace an existing file (settings, counters) instead of refusing.

    Raises
    ------
    FileExistsError
        `path` exists and `replace` is False.
    """
    temporary = temporary_name(path)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if replace:
            os.replace(temporary, path)
        else:
            rename_new(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def write_changed(path: Path, data: bytes) -> bool:
    """Write a whole small file durably; False where it says exactly that already.

    Raises
    ------
    StorageError
        It cannot be read or written.
    """
    try:
        if path.exists() and path.read_bytes() == data:
            return False
        write_durably(path, data, replace=True)
    except OSError as error:
        code = storage_code(error)
        hint = "; make room, then try again" if code is Code.NO_SPACE else ""
        raise StorageError(
            f"cannot write {path}: {error.strerror}{hint}", code=code, path=str(path)
        ) from error
    return True


def write_at(descriptor: int, data: Any, offset: int) -> None:
    """Write the whole of a contiguous buffer at an offset of a file.

    Raises
    ------
    OSError
        What the system says; a part may have been written.
    """
    view = memoryview(data).cast("B")
    while view:
        count = os.pwrite(descriptor, view, offset)
        view, offset = view[count:], offset + count


def is_ram_disk(folder: Path) -> bool:
    """Tell whether a folder is on tmpfs; OSError where it cannot be asked."""
    import ctypes  # as in rename_new

    # struct statfs begins with the type, a word, on every 64-bit Linux.
    buffer = (ctypes.c_long * 32)()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.statfs(os.fsencode(folder), ctypes.byref(buffer)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(folder))
    return int(buffer[0]) == _TMPFS_MAGIC


def write_json_durably(path: Path, value: Any) -> None:
    """Replace a JSON file so that a crash leaves the old one or the new one."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    write_durably(path, text.encode(), replace=True)


def free_bytes(folder: Path) -> int:
    """Return the bytes that an unprivileged program may still write below `folder`."""
    stat = os.statvfs(folder)
    return stat.f_bavail * stat.f_frsize


def require_folder(folder: Path, purpose: str) -> None:
    """Raise StorageError unless files can be made in `folder`."""
    if not folder.is_dir():
        seen = "is no folder; move it aside" if folder.exists() else "does not exist; create it"
        raise StorageError(
            f"{purpose}: folder {folder} {seen} or correct the configuration",
            path=str(folder),
        )
    probe = folder / f".probe.{os.getpid()}{TEMPORARY_SUFFIX}"
    try:
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        probe.unlink()
    except OSError as error:
        raise StorageError(
            f"{purpose}: cannot write in {folder}: {error.strerror}", path=str(folder)
        ) from error


def require_space(folder: Path, needed: int, purpose: str) -> None:
    """Raise StorageError (NO_SPACE) where `folder` has less than `needed` bytes free."""
    free = free_bytes(folder)
    if free < needed:
        raise StorageError(
            f"{purpose}: {free / 1e6:.0f} MB free in {folder}, {needed / 1e6:.0f} MB needed",
            code=Code.NO_SPACE, path=str(folder), free_bytes=free, needed_bytes=needed,
        )  # fmt: skip


@contextmanager
def locked(path: Path, who: str) -> Iterator[int]:
    """Hold an exclusive lock on a file for as long as the block (and any child) lives.

    The lock is a ``flock``: the kernel drops it when the last holder of the descriptor ends,
    however it ends. The file keeps the holder's pid for the error message.

    Yields
    ------
    int
        The descriptor; pass it to child processes that must hold the lock too.

    Raises
    ------
    Refused
        Somebody else holds it; the message names the pid.
    StorageError
        The file cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StorageError(
            f"{who}: cannot open the lock file {path}: {error.strerror}", path=str(path)
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            raise Refused(
                f"{who} is already running (pid {holder} holds {path}); stop it first",
                pid=holder, path=str(path),
            ) from error  # fmt: skip
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def shared_memory_folder() -> Path:
    """Return the folder of stream files: ``MILK_SHM_DIR``, else ``/milk/shm``, else /dev/shm."""
    configured = os.environ.get("MILK_SHM_DIR")
    if configured and Path(configured).is_dir():
        return Path(configured)
    milk = Path("/milk/shm")
    return milk if milk.is_dir() and os.access(milk, os.W_OK) else Path("/dev/shm")


def state_folder() -> Path:
    """Return the folder for what must survive a restart, making it where it is missing.

    ``NIGHTJAR_STATE_ROOT``, else systemd's ``STATE_DIRECTORY``, else the user's state folder.

    Raises
    ------
    StorageError
        It cannot be made.
    """
    configured = os.environ.get("NIGHTJAR_STATE_ROOT") or os.environ.get("STATE_DIRECTORY")
    if configured:
        folder = Path(configured.split(":")[0])
    else:
        base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        folder = Path(base) / "nightjar"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"the state folder {folder} cannot be made: {error.strerror}; set NIGHTJAR_STATE_ROOT",
            path=str(folder),
        ) from error
    return folder


def shipped_folder(kind: str) -> Path:
    """Return the folder of shipped files, ``etc`` or ``systemd``: of the clone, or of the wheel."""
    package = Path(__file__).resolve().parent
    installed = package / f"_{kind}"
    if installed.is_dir():
        return installed
    clone = package.parents[1] / kind
    if clone.is_dir():
        return clone
    raise StorageError(
        f"the shipped folder {kind!r} is missing; reinstall nightjar", path=sys.prefix
    )
