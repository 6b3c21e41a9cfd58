# SPDX-License-Identifier: BSD-3-Clause
"""One stream file mapped for reading, and the rules by which a frame in it is whole.

Frame n of a rolling stream lies in the slot whose slice count is n. A copy of it is whole when,
after copying, the slice count is still n and the writer has not begun that slot again: the ring
has moved on by less than its depth, and by depth - 1 only while the write flag is down. The same
rule with depth 1 serves plain streams. Writers that keep no slice counts are read by cnt1.
"""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.errors import Code, Refused, StorageError
from nightjar.streams.allocate import owner_pid
from nightjar.streams.keywords import Keyword, decode_keywords
from nightjar.streams.layout import (
    METADATA_BYTES,
    SUFFIX,
    WRITE_FLAG_OFFSET,
    StreamGeometry,
    Word,
    parse_geometry,
)
from nightjar.streams.lease import SemaphoreLease

# How long a store may lag behind another of the same frame: pyMilk posts before it counts,
# MagAO-X counts before it fills the slice record, the C library before it lowers the write flag.
_SETTLE_S = 0.002
_NS = 10**9


class Attachment:
    """A mapped stream file (one inode); replaced as a whole when the stream is made anew.

    Attributes
    ----------
    geometry, inode
        What the file holds, and which file it is.
    lease
        The claimed semaphore; None where we may not write or none is free, and polling is left.

    Raises
    ------
    Refused
        No such stream (code UNKNOWN_ITEM).
    StorageError
        Not readable, or not a stream of a known layout.
    """

    def __init__(self, path: Path, *, use_semaphore: bool = True) -> None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise Refused(_no_such_stream(path), code=Code.UNKNOWN_ITEM, path=str(path)) from None
        except OSError as error:
            raise StorageError(f"cannot open stream {path}: {error.strerror}") from error
        try:
            stat = os.fstat(descriptor)
            header = os.pread(descriptor, METADATA_BYTES, 0)
            self.geometry: StreamGeometry = parse_geometry(header, stat.st_size, str(path))
            mapping = mmap.mmap(descriptor, stat.st_size, mmap.MAP_SHARED, mmap.PROT_READ)
        finally:
            os.close(descriptor)
        self.path = path
        self.inode = stat.st_ino
        geometry, offsets = self.geometry, self.geometry.offsets()
        # Never closed by hand: views may live on elsewhere; unmapped with the last of them.
        view = memoryview(mapping)
        self._header = view[:METADATA_BYTES]
        self._words = self._header.cast("Q")
        self._keywords = view[offsets.keywords : offsets.semaphores]
        self.frames: NDArray[Any] = np.frombuffer(
            mapping, geometry.dtype, geometry.element_count, METADATA_BYTES
        ).reshape(geometry.depth, *geometry.frame_shape)
        slices = geometry.depth if geometry.is_rolling else 0
        self._slice_times = np.frombuffer(
            mapping, "<i8", 4 * slices, offsets.slice_atimes if slices else 0
        ).reshape(2, slices, 2)
        self._slice_counts = np.frombuffer(
            mapping, "<u8", slices, offsets.slice_counts if slices else 0
        )
        self.lease = SemaphoreLease.claim(path, geometry, self.inode) if use_semaphore else None

    @property
    def counter(self) -> int:
        """Frames published so far (cnt0)."""
        return self._words[Word.CNT0]

    @property
    def newest_slot(self) -> int:
        """The slot last published (cnt1); 0 in a plain stream."""
        return self._words[Word.CNT1] % self.geometry.depth

    @property
    def is_writing(self) -> bool:
        """The write flag."""
        return self._header[WRITE_FLAG_OFFSET] != 0

    @property
    def owner_pid(self) -> int:
        """Process id of the owner; 0 for none."""
        return owner_pid(self._header)

    @property
    def access(self) -> tuple[int, int]:
        """The time of last access: pyMilk changes it before it lowers the write flag."""
        return self._words[Word.ACCESS_S], self._words[Word.ACCESS_NS]

    def times(self, counter: int, slot: int) -> tuple[int, int]:
        """Return acquisition and write time of a frame, ns UTC (0 where the writer gave none)."""
        if self.geometry.is_rolling and self._slice_counts[slot] == counter:
            (seconds, nanoseconds), (write_s, write_ns) = self._slice_times[:, slot].tolist()
        elif counter == self.counter:
            words = self._words
            seconds, nanoseconds = words[Word.ATIME_S], words[Word.ATIME_NS]
            write_s, write_ns = words[Word.WRITE_S], words[Word.WRITE_NS]
        else:
            return 0, 0
        return seconds * _NS + nanoseconds, write_s * _NS + write_ns

    def keywords(self) -> dict[str, Keyword]:
        """Return the used keywords."""
        return decode_keywords(self._keywords)

    def slot_of(self, counter: int) -> int | None:
        """Return where frame number `counter` lies, None where it is not there any more."""
        newest, last = self.counter, self.newest_slot
        slot = (last - (newest - counter)) % self.geometry.depth
        if not self.geometry.is_rolling or self._slice_counts[slot] == counter:
            return slot
        found = np.flatnonzero(self._slice_counts == counter)
        if len(found):
            return int(found[0])
        return None if self._slice_counts.any() else slot  # all 0: the writer keeps no counts

    def is_intact(self, counter: int, slot: int) -> bool:
        """Tell whether a slot still holds that frame, untouched up to this moment."""
        if self.geometry.is_rolling:
            count = int(self._slice_counts[slot])
            if count != counter and (count != 0 or self._slice_counts.any()):
                return False
        # The flag before the counter: what was not begun when the flag was seen down, and is not
        # counted now, cannot have been written before the flag was seen.
        is_writing = self.is_writing
        behind = self.counter - counter
        last = self.geometry.depth - 1
        return 0 <= behind < last or (behind == last and not is_writing)

    def settle(self, counter: int) -> int | None:
        """Return the slot of an untouched frame; the newest one gets 2 ms to become complete."""
        deadline = time.monotonic() + _SETTLE_S
        while True:
            slot = self.slot_of(counter)
            if slot is not None and self.is_intact(counter, slot):
                return slot
            if counter != self.counter or time.monotonic() >= deadline:
                return None
            time.sleep(0.00005)

    def await_count(self, seen: int) -> bool:
        """After a tick, give the writer 2 ms to count the frame it announced."""
        deadline = time.monotonic() + _SETTLE_S
        while self.counter == seen:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.00005)
        return True

    def release(self) -> None:
        """Free the semaphore; mapped pixels stay valid."""
        if self.lease is not None:
            self.lease.release()


def _no_such_stream(path: Path) -> str:
    try:
        present = sorted(item.name.removesuffix(SUFFIX) for item in path.parent.glob(f"*{SUFFIX}"))
    except OSError:
        present = []
    there = ", ".join(present[:8]) + (", ..." if len(present) > 8 else "")
    name = path.name.removesuffix(SUFFIX)
    return f"no stream {name!r} in {path.parent}; streams there: {there or 'none'}"
