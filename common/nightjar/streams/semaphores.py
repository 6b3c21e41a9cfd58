# SPDX-License-Identifier: BSD-3-Clause
"""Unnamed POSIX semaphores inside a mapped file, by the C library of the process (glibc).

ctypes releases the GIL during each call, so that other threads go on while one waits. The bytes of
a ``sem_t`` are glibc's own and the same for every program of the machine that uses glibc.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import time

from nightjar.errors import StorageError

_libc = ctypes.CDLL(None, use_errno=True)
_CLOCK_REALTIME = 0
_CLOCK_MONOTONIC = 1


class _Timespec(ctypes.Structure):
    _fields_ = (("s", ctypes.c_long), ("ns", ctypes.c_long))


for _name in ("sem_init", "sem_post", "sem_trywait", "sem_timedwait", "sem_getvalue"):
    getattr(_libc, _name).restype = ctypes.c_int
_libc.sem_init.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint)
_libc.sem_post.argtypes = (ctypes.c_void_p,)
_libc.sem_trywait.argtypes = (ctypes.c_void_p,)
_libc.sem_timedwait.argtypes = (ctypes.c_void_p, ctypes.POINTER(_Timespec))
_libc.sem_getvalue.argtypes = (ctypes.c_void_p, ctypes.POINTER(ctypes.c_int))

# sem_timedwait knows only CLOCK_REALTIME: where UTC is stepped back during a wait, it lasts longer
# by the step. glibc 2.30 added sem_clockwait, which does not have that fault.
_clockwait = getattr(_libc, "sem_clockwait", None)
if _clockwait is not None:
    _clockwait.restype = ctypes.c_int
    _clockwait.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Timespec))


class Semaphore:
    """One semaphore at an offset of a writable mapping; keeps the mapping alive.

    The mapping must never be closed by hand while a semaphore of it exists: it is unmapped when the
    last user has gone, so that no thread can wait in memory that is not there any more.
    """

    def __init__(self, mapping: mmap.mmap, offset: int) -> None:
        self._mapping = mapping
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(mapping, offset))

    def initialise(self) -> None:
        """Make it: shared between processes, value 0."""
        if _libc.sem_init(self._address, 1, 0) != 0:
            self._fail("sem_init")

    def value(self) -> int:
        """Return the pending ticks."""
        value = ctypes.c_int()
        if _libc.sem_getvalue(self._address, ctypes.byref(value)) != 0:
            self._fail("sem_getvalue")
        return value.value

    def post(self, limit: int) -> None:
        """Add a tick unless `limit` are pending."""
        if self.value() < limit and _libc.sem_post(self._address) != 0:
            self._fail("sem_post")

    def try_wait(self) -> bool:
        """Take a tick if one is pending."""
        while _libc.sem_trywait(self._address) != 0:
            if ctypes.get_errno() == errno.EAGAIN:
                return False
            if ctypes.get_errno() != errno.EINTR:
                self._fail("sem_trywait")
        return True

    def wait(self, timeout_s: float) -> bool:
        """Take a tick, waiting `timeout_s` for it at most; a signal may end the wait sooner."""
        if _clockwait is not None:
            deadline = _deadline(time.monotonic_ns(), timeout_s)
            code = _clockwait(self._address, _CLOCK_MONOTONIC, ctypes.byref(deadline))
        else:
            deadline = _deadline(time.clock_gettime_ns(_CLOCK_REALTIME), timeout_s)
            code = _libc.sem_timedwait(self._address, ctypes.byref(deadline))
        if code == 0:
            return True
        if ctypes.get_errno() not in (errno.ETIMEDOUT, errno.EINTR):
            self._fail("sem_timedwait")
        return False

    @staticmethod
    def _fail(call: str) -> None:
        number = ctypes.get_errno()
        raise StorageError(f"{call} on a stream's semaphore: {os.strerror(number)}")


def _deadline(now_ns: int, timeout_s: float) -> _Timespec:
    return _Timespec(*divmod(now_ns + max(0, round(timeout_s * 1e9)), 10**9))
