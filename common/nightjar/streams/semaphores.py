# SPDX-License-Identifier: BSD-3-Clause
"""Unnamed POSIX semaphores inside a mapped file, by the C library of the process (glibc).

A wait releases the GIL, so that other threads go on meanwhile. The calls that never wait keep it:
a thread that gives it up for a microsecond gets it back only after a whole switch interval where
another one computes. The bytes of a ``sem_t`` are glibc's own and the same for every program of the
machine that uses glibc: the value in the low half of the first 8 bytes.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import time
from collections.abc import Sequence

from nightjar.errors import StorageError

_libc = ctypes.CDLL(None, use_errno=True)  # releases the GIL during a call
_quick = ctypes.PyDLL(None, use_errno=True)  # keeps it
_post = _quick.sem_post
_CLOCK_REALTIME = 0
_CLOCK_MONOTONIC = 1


class _Timespec(ctypes.Structure):
    _fields_ = (("s", ctypes.c_long), ("ns", ctypes.c_long))


_quick.sem_init.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint)
_quick.sem_post.argtypes = (ctypes.c_void_p,)
_quick.sem_trywait.argtypes = (ctypes.c_void_p,)
_libc.sem_timedwait.argtypes = (ctypes.c_void_p, ctypes.POINTER(_Timespec))

# sem_timedwait knows only CLOCK_REALTIME: where UTC is stepped back during a wait, it lasts longer
# by the step. glibc 2.30 added sem_clockwait, which does not have that fault.
_clockwait = getattr(_libc, "sem_clockwait", None)
if _clockwait is not None:
    _clockwait.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Timespec))


class Semaphore:
    """One semaphore at an offset of a writable mapping; keeps the mapping alive.

    The mapping must never be closed by hand while a semaphore of it exists: it is unmapped when the
    last user has gone, so that no thread can wait in memory that is not there any more.
    """

    def __init__(self, mapping: mmap.mmap, offset: int) -> None:
        self._mapping = mapping
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(mapping, offset))
        self._value = memoryview(mapping)[offset : offset + 4].cast("I")

    def initialise(self) -> None:
        """Make it: shared between processes, value 0."""
        if _quick.sem_init(self._address, 1, 0) != 0:
            _fail("sem_init")

    def value(self) -> int:
        """Return the pending ticks."""
        return self._value[0]

    def post(self, limit: int) -> None:
        """Add a tick unless `limit` are pending."""
        if self._value[0] < limit and _post(self._address) != 0:
            _fail("sem_post")

    def try_wait(self) -> bool:
        """Take a tick if one is pending."""
        if self._value[0] == 0:
            return False
        while _quick.sem_trywait(self._address) != 0:
            if ctypes.get_errno() == errno.EAGAIN:
                return False
            if ctypes.get_errno() != errno.EINTR:
                _fail("sem_trywait")
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
            _fail("sem_timedwait")
        return False


class SemaphoreRow:
    """All semaphores of a writable mapping, for the one who posts them at every frame."""

    def __init__(self, mapping: mmap.mmap, offset: int, count: int, stride: int) -> None:
        self._mapping = mapping
        self._values = memoryview(mapping)[offset : offset + count * stride].cast("I")[
            :: stride // 4
        ]
        first = ctypes.addressof(ctypes.c_char.from_buffer(mapping, offset))
        self._addresses: Sequence[int] = [first + index * stride for index in range(count)]

    def post(self, limit: int) -> None:
        """Add a tick to each that has less than `limit`."""
        # Nearly all have: nobody takes the ticks of those without a reader.
        for address, value in zip(self._addresses, self._values.tolist(), strict=True):
            if value < limit and _post(address) != 0:
                _fail("sem_post")


def _fail(call: str) -> None:
    number = ctypes.get_errno()
    raise StorageError(f"{call} on a stream's semaphore: {os.strerror(number)}")


def _deadline(now_ns: int, timeout_s: float) -> _Timespec:
    return _Timespec(*divmod(now_ns + max(0, round(timeout_s * 1e9)), 10**9))
