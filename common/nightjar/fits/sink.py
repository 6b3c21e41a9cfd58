# SPDX-License-Identifier: BSD-3-Clause
"""Where the bytes of a file that grows for seconds go: two ways to the file system.

On a RAM disk each cache-sized piece is written at once, while it is in the processor's cache. On
a disk whole chunks go past the page cache (O_DIRECT) from a thread of their own: twice to three
times the rate for a tenth of the processor time, and no flush that stops everybody seconds later.
Where the file system has no O_DIRECT the same chunks are written through the cache.

Both take bytes in the same way: :meth:`reserve` gives memory, :meth:`commit` says how much of it
was filled. :meth:`rewind` takes back what was committed last.
"""

from __future__ import annotations

import errno
import mmap
import os
import queue
import threading
from pathlib import Path
from typing import Protocol

from nightjar.files import is_ram_disk, write_at

PIECE_BYTES = 1 << 17
RUN_BYTES = 1 << 18  # of several small frames: what is made of them stays in the cache, too
CHUNK_BYTES = 4 << 20
CHUNKS = 6
_PAGE = mmap.PAGESIZE


class Sink(Protocol):
    """A file that takes bytes at its end."""

    descriptor: int
    position: int

    def reserve(self, most: int) -> memoryview:
        """Return memory for at most `most` of the next bytes; waits for the disk where it must."""
        ...

    def commit(self, count: int) -> None:
        """Take the first `count` bytes of what was reserved."""
        ...

    def rewind(self, position: int) -> None:
        """Forget everything from `position` on."""
        ...

    def send(self) -> None:
        """Send every byte on its way, before those of other files; nothing more is reserved."""
        ...

    def flush(self) -> None:
        """Have every byte in the file, if not yet on the disk's platter."""
        ...

    def close(self) -> None:
        """Close the file as it is."""
        ...


class MemorySink:
    """A file on a RAM disk: every piece is written as soon as it is filled.

    Raises
    ------
    OSError
        Here and in every method: what the system says.
    """

    def __init__(self, path: Path, position: int) -> None:
        self.descriptor = _create(path, os.O_RDWR)
        self.position = position
        self._piece = memoryview(bytearray(RUN_BYTES))

    def reserve(self, most: int) -> memoryview:
        """See :class:`Sink`."""
        return self._piece[:most]

    def commit(self, count: int) -> None:
        """See :class:`Sink`."""
        write_at(self.descriptor, self._piece[:count], self.position)
        self.position += count

    def rewind(self, position: int) -> None:
        """See :class:`Sink`."""
        self.position = position

    def send(self) -> None:
        """See :class:`Sink`."""

    def flush(self) -> None:
        """See :class:`Sink`."""

    def close(self) -> None:
        """See :class:`Sink`."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class _Pending:
    """The chunks of one file that are on their way."""

    def __init__(self) -> None:
        self.count = 0
        self.error: OSError | None = None
        self.changed = threading.Condition()

    def add(self) -> None:
        with self.changed:
            self.count += 1

    def done(self, error: OSError | None) -> None:
        with self.changed:
            self.count -= 1
            self.error = self.error or error
            self.changed.notify_all()

    def check(self) -> None:
        if self.error is not None:
            raise OSError(self.error.errno, self.error.strerror)

    def wait(self) -> None:
        with self.changed:
            while self.count:
                self.changed.wait()
        self.check()


class DiskQueue:
    """The chunks of memory and the thread that writes them, shared by the files of a process."""

    def __init__(self, chunks: int = CHUNKS, chunk_bytes: int = CHUNK_BYTES) -> None:
        self.chunk_bytes = chunk_bytes
        self._free: queue.SimpleQueue[mmap.mmap] = queue.SimpleQueue()
        for _ in range(chunks):
            chunk = mmap.mmap(-1, chunk_bytes)  # page-aligned, as O_DIRECT wants it
            chunk.write(bytes(chunk_bytes))
            self._free.put(chunk)
        self._work: queue.SimpleQueue[tuple[int, mmap.mmap, int, int, _Pending] | None] = (
            queue.SimpleQueue()
        )
        self._thread = threading.Thread(target=self._run, name="disk", daemon=True)
        self._thread.start()

    @property
    def free(self) -> int:
        """Idle chunks: 0 while the disk does not keep up."""
        return self._free.qsize()

    def take(self) -> mmap.mmap:
        """Return an idle chunk, waiting for one."""
        return self._free.get()

    def give_back(self, chunk: mmap.mmap) -> None:
        """Return a chunk that is not to be written."""
        self._free.put(chunk)

    def write(
        self, descriptor: int, chunk: mmap.mmap, count: int, offset: int, pending: _Pending
    ) -> None:
        """Write `count` bytes of a chunk at an offset of a file, some time soon, and keep it."""
        pending.add()
        self._work.put((descriptor, chunk, count, offset, pending))

    def stop(self) -> None:
        """End the thread after what is in line."""
        self._work.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            descriptor, chunk, count, offset, pending = work
            failure: OSError | None = None
            if pending.error is None:  # the first failure ends the file
                try:
                    view = memoryview(chunk)
                    write_at(descriptor, view[:count], offset)
                    del view
                except OSError as error:
                    failure = error
            self._free.put(chunk)
            pending.done(failure)


class DiskSink:
    """A file on a disk: whole chunks, written behind the back of whoever fills them."""

    def __init__(self, path: Path, position: int, disk: DiskQueue) -> None:
        self._disk = disk
        self._pending = _Pending()
        self._chunk: mmap.mmap | None = None
        self._base = position // disk.chunk_bytes * disk.chunk_bytes
        self.position = position
        self.descriptor = _create(path, os.O_RDWR)
        self._direct = -1
        try:
            self._direct = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_DIRECT)
        except OSError as error:
            if error.errno != errno.EINVAL:
                os.close(self.descriptor)
                path.unlink(missing_ok=True)
                raise

    def reserve(self, most: int) -> memoryview:
        """See :class:`Sink`."""
        self._pending.check()
        start = self.position - self._base
        if self._chunk is None:
            self._chunk = self._disk.take()
            self._chunk[:start] = bytes(start)  # what another file left in it
        return memoryview(self._chunk)[start : min(start + most, self._disk.chunk_bytes)]

    def commit(self, count: int) -> None:
        """See :class:`Sink`."""
        self.position += count
        if self.position - self._base == self._disk.chunk_bytes:
            self._submit()

    def _submit(self) -> None:
        chunk, self._chunk = self._chunk, None
        assert chunk is not None
        descriptor = self._direct if self._direct >= 0 else self.descriptor
        self._disk.write(descriptor, chunk, self._disk.chunk_bytes, self._base, self._pending)
        self._base += self._disk.chunk_bytes

    def rewind(self, position: int) -> None:
        """See :class:`Sink`."""
        if position < self._base:
            self._pending.wait()
            chunk = self._chunk or self._disk.take()
            self._chunk = chunk
            self._base = position // self._disk.chunk_bytes * self._disk.chunk_bytes
            count = position - self._base
            data = os.pread(self.descriptor, count, self._base)
            if len(data) != count:
                raise OSError(errno.EIO, "what was written cannot be read back")
            chunk[:count] = data
        self.position = position

    def send(self) -> None:
        """See :class:`Sink`."""
        chunk, count = self._chunk, self.position - self._base
        if chunk is not None and count > 0:
            self._chunk = None
            # Through the page cache: a last piece has any length.
            self._disk.write(self.descriptor, chunk, count, self._base, self._pending)

    def flush(self) -> None:
        """See :class:`Sink`."""
        self.send()
        self._pending.wait()

    def close(self) -> None:
        """See :class:`Sink`."""
        if self.descriptor < 0:
            return
        with self._pending.changed:
            while self._pending.count:
                self._pending.changed.wait()
        if self._chunk is not None:
            self._disk.give_back(self._chunk)
            self._chunk = None
        if self._direct >= 0:
            os.close(self._direct)
        os.close(self.descriptor)
        self.descriptor = -1


def open_sink(path: Path, position: int, disk: DiskQueue) -> MemorySink | DiskSink:
    """Return the sink that suits a new file's file system; its first byte goes to `position`.

    Raises
    ------
    OSError
        The file cannot be made.
    """
    if is_ram_disk(path.parent):
        return MemorySink(path, position)
    return DiskSink(path, position, disk)


def _create(path: Path, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
