# SPDX-License-Identifier: BSD-3-Clause
"""A reader's claim on one of the ten semaphores of a stream.

The format has a process id per semaphore, which fails for two readers of one process and for ids
that were given to another process. So each of our readers also holds a lock of the kernel on the
bytes of its entry; a foreign reader's entry counts while its process lives and maps the file.
"""

from __future__ import annotations

import mmap
import os
import weakref
from pathlib import Path

from nightjar.streams.allocate import NO_PID
from nightjar.streams.layout import SEMAPHORE_BYTES, Offsets, StreamGeometry
from nightjar.streams.process import is_alive, try_lock, unlock
from nightjar.streams.semaphores import Semaphore


class SemaphoreLease:
    """One claimed semaphore; :meth:`claim` makes it, :meth:`release` or its end frees it."""

    def __init__(
        self, mapping: mmap.mmap, base: int, descriptor: int, index: int, offsets: Offsets
    ) -> None:
        self.index = index
        self._semaphore = Semaphore(mapping, offsets.semaphores + index * SEMAPHORE_BYTES - base)
        entry = offsets.reader_pids + 4 * index
        mapping[entry - base : entry - base + 4] = os.getpid().to_bytes(4, "little")
        self._finalizer = weakref.finalize(
            self, _release, mapping, base, descriptor, entry, os.getpid()
        )
        self.drain()

    @classmethod
    def claim(cls, path: Path, geometry: StreamGeometry, inode: int) -> SemaphoreLease | None:
        """Return a claim, None where the file is not writable for us or all entries are taken."""
        if geometry.semaphore_count == 0:
            return None
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # not ours to write, read-only file system, removed: the reader then polls
            return None
        try:
            if os.fstat(descriptor).st_ino == inode:
                lease = cls._claim(descriptor, geometry, inode)
                if lease is not None:
                    return lease
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    @classmethod
    def _claim(cls, descriptor: int, geometry: StreamGeometry, inode: int) -> SemaphoreLease | None:
        offsets = geometry.offsets()
        # Only the semaphores and the table of their users are mapped for writing, not the pixels.
        base = offsets.semaphores // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        mapping = mmap.mmap(descriptor, offsets.writer_pids - base, offset=base)
        at = offsets.reader_pids - base
        for allow_dead in (False, True):
            for index in range(geometry.semaphore_count):
                entry = mapping[at + 4 * index : at + 4 * index + 4]
                pid = int.from_bytes(entry, "little", signed=True)
                if pid > 0 and (not allow_dead or is_alive(pid, inode)):
                    continue
                if not try_lock(descriptor, offsets.reader_pids + 4 * index):
                    continue
                if mapping[at + 4 * index : at + 4 * index + 4] != entry:
                    unlock(descriptor, offsets.reader_pids + 4 * index)
                    continue
                return cls(mapping, base, descriptor, index, offsets)
        return None

    def wait(self, timeout_s: float) -> bool:
        """Wait for a tick and take it; False when none came in time."""
        return self._semaphore.wait(timeout_s)

    def drain(self) -> None:
        """Take all pending ticks."""
        while self._semaphore.try_wait():
            pass

    def release(self) -> None:
        """Free the entry; harmless twice. The memory stays mapped while a thread waits in it."""
        self._finalizer()


def _release(mapping: mmap.mmap, base: int, descriptor: int, entry: int, pid: int) -> None:
    if os.getpid() == pid:  # a forked child must not free its parent's claim
        mapping[entry - base : entry - base + 4] = NO_PID
        unlock(descriptor, entry)
    os.close(descriptor)
