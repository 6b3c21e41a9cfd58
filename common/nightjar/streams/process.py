# SPDX-License-Identifier: BSD-3-Clause
"""Who uses a stream file: process ids in it checked against ``/proc``, and locks of the kernel.

A process id alone proves nothing: it may have been given to another process since. A process that
uses a stream has mapped it, and ``/proc/PID/maps`` shows that to root and to its own user.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

# struct flock of 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid (0 for OFD locks).
_FLOCK = struct.Struct("hhqqi4x")


def is_alive(pid: int, inode: int | None = None) -> bool:
    """Tell whether process `pid` lives (a zombie does not) and, where visible, maps `inode`."""
    if pid <= 0:
        return False
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return False
    if state in (b"Z", b"X"):
        return False
    if inode is None:
        return True
    try:
        maps = Path(f"/proc/{pid}/maps").read_bytes()
    except PermissionError:
        return True  # another user's process: not ours to see, so it counts as the one meant
    except (FileNotFoundError, ProcessLookupError):
        return False
    wanted = str(inode).encode()
    return any(len(line) > 5 and line[4] == wanted for line in map(bytes.split, maps.splitlines()))


def command_of(pid: int) -> str:
    """Return the short name of a process, "" where there is none."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ""


def try_lock(descriptor: int, byte: int) -> bool:
    """Take an exclusive lock on one byte of a file open for writing; False where it is held.

    An open-file-description lock: two descriptors of one process exclude each other as those of
    two processes do, and the kernel drops it when the descriptor is closed, however that happens.
    """
    request = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, request)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def unlock(descriptor: int, byte: int) -> None:
    """Give up a lock at once, although copies of the descriptor (a mapping's) live on."""
    request = _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, byte, 1, 0)
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, request)


def is_locked(descriptor: int, byte: int) -> bool:
    """Tell whether another open file holds a lock on that byte."""
    request = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
    answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, request)
    kind: int = _FLOCK.unpack(answer)[0]
    return kind != fcntl.F_UNLCK
