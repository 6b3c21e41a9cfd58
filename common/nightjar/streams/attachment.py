# SPDX-License-Identifier: BSD-3-Clause
"""One stream file mapped for reading, and the rules by which a frame in it is whole.

Frame n of a rolling stream lies in the slot whose slice count is n. A copy of it is whole when,
after copying, the slice count is still n and the writer has not begun that slot again: it is not
the next one while the write flag is up, and the newest one only where n is the newest frame. In a
plain stream n must be the newest and the flag down. Writers that keep no slice counts are read by
cnt1; their counters have no gaps, so that the distance from the newest tells the slot.
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
from nightjar.streams.allocate import no_such_stream, owner_pid
from nightjar.streams.history import History
from nightjar.streams.keywords import Keyword, decode_keywords
from nightjar.streams.layout import (
    KEYWORD_SEQUENCE_OFFSET,
    METADATA_BYTES,
    NO_FRAME,
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
_CNT0, _CNT1 = Word.CNT0, Word.CNT1
_KEEP_GIL_BYTES = 2 << 20


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
            raise Refused(no_such_stream(path), code=Code.UNKNOWN_ITEM, path=str(path)) from None
        except OSError as error:
            raise StorageError(f"cannot open stream {path}: {error.strerror}") from error
        try:
            stat = os.fstat(descriptor)
            header = os.pread(descriptor, METADATA_BYTES, 0)
            self.geometry: StreamGeometry = parse_geometry(header, stat.st_size, str(path))
            # Not populated: the kernel maps 16 pages a fault, some 10 us a frame in the first turn,
            # while to map gigabytes at once, parts of which have yet to be made, takes seconds.
            mapping = mmap.mmap(descriptor, stat.st_size, mmap.MAP_SHARED, mmap.PROT_READ)
        finally:
            os.close(descriptor)
        self.path = path
        self.inode = stat.st_ino
        geometry, offsets = self.geometry, self.geometry.offsets()
        self.depth, self.is_rolling = geometry.depth, geometry.is_rolling
        # Never closed by hand: views may live on elsewhere; unmapped with the last of them.
        view = memoryview(mapping)
        self._header = view[:METADATA_BYTES]
        self._words = self._header.cast("Q")
        self._keywords = view[offsets.keywords : offsets.semaphores]
        self._keyword_sequence = self._header[
            KEYWORD_SEQUENCE_OFFSET : KEYWORD_SEQUENCE_OFFSET + 4
        ].cast("I")
        self.history = History(mapping, geometry) if geometry.history_depth else None
        self.frames: NDArray[Any] = np.frombuffer(
            mapping, geometry.dtype, geometry.element_count, METADATA_BYTES
        ).reshape(geometry.depth, *geometry.frame_shape)
        # Plain views of words: a look through numpy costs ten times as much. Empty without slices.
        self._atimes = view[offsets.slice_atimes : offsets.slice_writetimes].cast("Q")
        self._writetimes = view[offsets.slice_writetimes : offsets.slice_counts].cast("Q")
        self._counts = view[offsets.slice_counts : offsets.history_records].cast("Q")
        self._all_counts = np.frombuffer(self._counts, "<u8")
        self.lease = SemaphoreLease.claim(path, geometry, self.inode) if use_semaphore else None

    @property
    def counter(self) -> int:
        """Frames published so far (cnt0)."""
        return self._words[_CNT0]

    @property
    def newest_slot(self) -> int:
        """The slot last published (cnt1); 0 in a plain stream."""
        return self._words[_CNT1] % self.depth

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
        if self.is_rolling and self._counts[slot] == counter:
            at, words, writes = 2 * slot, self._atimes, self._writetimes
            return words[at] * _NS + words[at + 1], writes[at] * _NS + writes[at + 1]
        if counter == self.counter:
            words = self._words
            return (
                words[Word.ATIME_S] * _NS + words[Word.ATIME_NS],
                words[Word.WRITE_S] * _NS + words[Word.WRITE_NS],
            )
        return 0, 0

    @property
    def written_ns(self) -> int:
        """When the newest frame was written, ns as stamped; 0 where the writer gives no times.

        From the header, which has it however many frames come while one looks.
        """
        words = self._words
        return words[Word.WRITE_S] * _NS + words[Word.WRITE_NS]

    def keywords(self) -> dict[str, Keyword]:
        """Return the used keywords."""
        return decode_keywords(self.keyword_block())

    def keyword_block(self) -> bytes:
        """Return the bytes of all keyword slots."""
        # Unchanged between two looks and, from our writers, not amid a change of several.
        deadline, previous = 0.0, b""
        while True:
            sequence = self._keyword_sequence[0]
            block = bytes(self._keywords)
            if not sequence & 1 and sequence == self._keyword_sequence[0] and block == previous:
                return block
            now = time.monotonic()
            deadline = deadline or now + _SETTLE_S
            if now >= deadline and block == previous:
                return block  # a writer died amid a change
            if now >= deadline + _SETTLE_S:
                return block  # somebody changes them without end
            previous = block

    @property
    def created_ns(self) -> int:
        """UTC at which the file was made."""
        return self._words[Word.CREATED_S] * _NS + self._words[Word.CREATED_NS]

    def slot_of(self, counter: int) -> int | None:
        """Return where frame number `counter` lies, None where it is not there any more."""
        words, depth = self._words, self.depth
        slot: int = (words[_CNT1] - words[_CNT0] + counter) % depth
        if not self.is_rolling or self._counts[slot] == counter:
            return slot
        found = np.flatnonzero(self._all_counts == counter)
        if len(found):
            return int(found[0])
        return None if self._all_counts.any() else slot  # all 0: the writer keeps no counts

    def counter_of(self, slot: int) -> int:
        """Return the number of the frame in a slot, 0 where it holds none."""
        newest = self.counter
        count = self._counts[slot] if self.is_rolling else newest
        if count == 0 and newest and not self._all_counts.any():
            return max(0, newest - (self.newest_slot - slot) % self.depth)
        return 0 if count == NO_FRAME else count

    def first_held(self, counter: int) -> int | None:
        """Return the first number from `counter` on of a frame in the ring, None if not known."""
        slot = (self._words[_CNT1] - self._words[_CNT0] + counter) % self.depth
        if not self.is_rolling or self._counts[slot] == counter:
            return counter
        counts = self._all_counts.copy()  # the writer goes on meanwhile
        held = counts[(counts >= counter) & (counts <= self.counter)]
        return int(held.min()) if len(held) else None

    def is_intact(self, counter: int, slot: int) -> bool:
        """Tell whether a slot still holds that frame, untouched up to this moment."""
        # The flag first: what was not begun when it was seen down, and is neither newest nor
        # re-counted now, cannot have been written before.
        is_writing = self._header[WRITE_FLAG_OFFSET]
        if not self.is_rolling:
            return self._words[_CNT0] == counter and not is_writing
        last, newest = self._words[_CNT1] % self.depth, self._words[_CNT0]
        count = self._counts[slot]
        if count == counter:
            if slot == last:
                # cnt0 is seen after cnt1: frames may have come between the two looks.
                return counter == newest or counter < newest < counter + self.depth - 1
            return not is_writing or slot != (last + 1) % self.depth
        if count != 0 or self._all_counts.any():
            return False
        behind = newest - counter
        return 0 <= behind < self.depth - 1 or (behind == self.depth - 1 and not is_writing)

    def settle(self, counter: int) -> int | None:
        """Return the slot of an untouched frame; the newest one gets 2 ms to become complete."""
        deadline = 0.0
        while True:
            slot = self.slot_of(counter)
            if slot is not None and self.is_intact(counter, slot):
                return slot
            now = time.monotonic()
            deadline = deadline or now + _SETTLE_S
            if counter != self.counter or now >= deadline:
                return None
            time.sleep(0.00005)

    def await_count(self, seen: int) -> None:
        """After a tick without a frame, give a writer that posts before it counts 2 ms to do so.

        Such writers (pyMilk, plain streams) still have their flag up. Other ticks without a frame
        are those of frames that were seen by their count before they were posted.
        """
        if self.is_rolling or not self.is_writing:
            return
        deadline = time.monotonic() + _SETTLE_S
        while self.counter == seen and time.monotonic() < deadline:
            time.sleep(0.00005)

    def release(self) -> None:
        """Free the semaphore; mapped pixels stay valid."""
        if self.lease is not None:
            self.lease.release()


def copy_pixels(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return a copy of a contiguous array, up to 2 MB without giving up the GIL.

    Where another thread computes, getting it back would last longer than the copy.
    """
    if pixels.nbytes > _KEEP_GIL_BYTES:
        return pixels.copy()
    copied = np.empty_like(pixels)
    copied.reshape(-1).view(np.uint8).data[:] = pixels.reshape(-1).view(np.uint8).data
    return copied
