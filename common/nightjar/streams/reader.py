# SPDX-License-Identifier: BSD-3-Clause
"""The reading end of a stream: every frame once, in order, or counted as lost or torn.

::

    with StreamReader("camera") as reader:
        for frame in reader.frames(timeout_s=5.0, stop_event=stop):
            ...  # frame.counter, frame.atime_ns, frame.data

A wait sleeps in the stream's semaphore, without the GIL and in slices of 0.1 s, so that it can be
stopped and sees when the stream is made anew. Where the file is not writable for us, or all its
semaphores are taken, the counter is polled instead.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from nightjar.clock import NS_PER_S, TAI_UTC_S, Clock, SystemClock, tai_offset_s
from nightjar.errors import NightjarError
from nightjar.streams.allocate import stream_path
from nightjar.streams.attachment import Attachment, copy_pixels
from nightjar.streams.frame import Frame, Wake
from nightjar.streams.keywords import Keyword
from nightjar.streams.layout import StreamGeometry
from nightjar.streams.process import is_alive

__all__ = ["Frame", "Frames", "StreamReader", "Wake"]

logger = logging.getLogger(__name__)

_SLICE_S = 0.1
_POLL_S = (0.0002, 0.005)  # first and longest pause of a polling wait
_RETRIES = 3
_NS = np.uint64(NS_PER_S)
_LATEST_S = 4_102_444_800  # 2100: a stamp beyond is none


@dataclass(slots=True, eq=False)
class Frames:
    """Frames that follow each other, side by side in the ring: views, which will be overwritten.

    Attributes
    ----------
    first
        The first of them. The others have the counters, and lie in the slots, behind it.
    count
        How many.
    data
        Pixels, (count, *shape of one frame).
    stamps
        Seconds and nanoseconds as they stand in the file, (2, count, 2): of the acquisitions, then
        of the writing. Not looked at for a single frame: empty then.
    ahead_ns
        What the stamps are ahead of UTC.
    """

    first: Frame
    count: int
    data: NDArray[Any]
    stamps: NDArray[np.uint64]
    ahead_ns: int = 0

    @property
    def last_counter(self) -> int:
        """Number of the last of them."""
        return self.first.counter + self.count - 1

    def times_ns(self) -> NDArray[np.int64]:
        """Return the times of acquisition and of writing, ns UTC, (2, count); 0 for none given."""
        if self.count == 1:
            return np.array([[self.first.atime_ns], [self.first.writetime_ns]], np.int64)
        seconds, rest = self.stamps[..., 0], self.stamps[..., 1]
        times = (seconds * _NS + rest).astype(np.int64)
        times[(seconds >= _LATEST_S) | (rest >= _NS)] = 0  # words that nobody has set
        if self.ahead_ns:
            times[times != 0] -= self.ahead_ns
        return times

    def each(self) -> Iterator[Frame]:
        """Yield them one by one."""
        if self.count == 1:
            yield self.first
            return
        first = self.first
        atimes_ns, writetimes_ns = self.times_ns().tolist()
        for index in range(self.count):
            yield Frame(
                first.counter + index, first.slot + index, first.generation, atimes_ns[index],
                writetimes_ns[index], self.data[index], 0 if index else first.missed,
            )  # fmt: skip


_NO_STAMPS: NDArray[np.uint64] = np.empty((2, 0, 2), np.uint64)


class _Ring(Attachment):
    """An attachment that knows how many frames lie whole behind each other."""

    def __init__(self, path: Path, *, use_semaphore: bool = True) -> None:
        super().__init__(path, use_semaphore=use_semaphore)
        self._stamps = [
            np.frombuffer(block, "<u8").reshape(-1, 2)
            for block in (self._atimes, self._writetimes)
        ]

    def run(self, counter: int, slot: int, most: int) -> int:
        """Return how many frames from a whole one on lie side by side; at most an eighth of a ring.

        Fewer where the writer comes near: what is used together is known to be whole only when all
        of it was used.
        """
        depth, behind = self.depth, self.counter - counter
        count = min(most, behind + 1, depth - slot, depth // 8, (depth - 1 - behind) // 2)
        if count < 2:
            return 1
        wanted = np.arange(counter, counter + count, dtype=np.uint64)
        differs = self._all_counts[slot : slot + count] != wanted
        return max(1, int(differs.argmax())) if differs.any() else count

    def stamps(self, slot: int, count: int) -> NDArray[np.uint64]:
        """Return copies of the times of frames; see :class:`Frames`."""
        return np.stack([block[slot : slot + count] for block in self._stamps])


class StreamReader:
    """Follows a stream. One thread reads; others may look at the numbers or close it.

    Parameters
    ----------
    name_or_path
        Bare name in `folder` (default :func:`nightjar.files.shared_memory_folder`), or a path.
    start
        "next": frames published from now on; "oldest": also those still in the ring; a number:
        from the frame of that counter on, those that are gone count as lost, those before it are
        passed over. It holds for the file attached to first: of a new file all frames are read.
    use_semaphore
        False polls, and leaves the ten semaphores to others.
    stamps
        "tai": the writer's times are TAI, as those of milk are where the kernel knows the offset;
        they are given as UTC. Nothing in a file tells which they are; ``stream stat`` does.

    Attributes
    ----------
    delivered, lost, torn
        Frames handed out in order; overwritten before they were read; changed while being copied
        and thrown away. Their sum is what the counters went on by.
    generation
        How often :meth:`relink` attached to a new file.

    Raises
    ------
    Refused
        No such stream (code UNKNOWN_ITEM).
    StorageError
        Not readable, or not a stream of a known layout.
    """

    def __init__(
        self,
        name_or_path: str | Path,
        *,
        folder: Path | None = None,
        start: Literal["next", "oldest"] | int = "next",
        use_semaphore: bool = True,
        stamps: Literal["utc", "tai"] = "utc",
        clock: Clock | None = None,
    ) -> None:
        self.path = stream_path(name_or_path, folder)
        self._clock = clock or SystemClock()
        self._use_semaphore = use_semaphore
        self._ahead_ns = (tai_offset_s() or TAI_UTC_S) * NS_PER_S if stamps == "tai" else 0
        self._at = _Ring(self.path, use_semaphore=use_semaphore)
        self._closed = threading.Event()
        self._poll_s = _POLL_S[0]
        self.generation = 0
        self.delivered = self.lost = self.torn = 0
        self._missed = self._torn_run = 0
        self._access: tuple[int, int] | None = None
        newest = self._at.counter
        self._seen = newest
        if start == "oldest":
            self._seen = max(0, newest - self.geometry.depth)
        elif not isinstance(start, str):
            self._seen = max(0, start - 1)
        # The newest frame noticed while the first wanted one is still to come; None afterwards.
        self._ahead = newest if newest < self._seen else None

    # ---------------------------------------------------------------- what it is

    @property
    def geometry(self) -> StreamGeometry:
        """What the attached file holds; changes only in :meth:`relink`."""
        return self._at.geometry

    @property
    def counter(self) -> int:
        """Number of the newest frame (cnt0)."""
        return self._at.counter

    @property
    def unread(self) -> int:
        """Frames published and not yet read or counted as lost."""
        return max(0, self._at.counter - self._seen)

    @property
    def semaphore_index(self) -> int | None:
        """The claimed semaphore; None while polling."""
        return self._at.lease.index if self._at.lease is not None else None

    @property
    def is_writer_alive(self) -> bool | None:
        """Whether the owner lives; None where nobody claims the stream (closed, or foreign)."""
        pid = self._at.owner_pid
        return is_alive(pid, self._at.inode) if pid > 0 else None

    @property
    def age_s(self) -> float | None:
        """Seconds since the newest frame was written; None before the first, or without times."""
        if self.counter == 0:
            return None
        written = self._at.written_ns
        return (self._clock.now_ns() + self._ahead_ns - written) / NS_PER_S if written else None

    def keywords(self) -> dict[str, Keyword]:
        """Return the keywords as they are now."""
        return self._at.keywords()

    def keyword_block(self) -> bytes:
        """Return the bytes of all keyword slots as they are now."""
        return self._at.keyword_block()

    @property
    def identity(self) -> tuple[int, int]:
        """Inode and creation time (ns UTC) of the attached file: another pair, other counters."""
        return self._at.inode, self._at.created_ns

    # ---------------------------------------------------------------- frames

    def next_frame(self, *, copy: bool = True) -> Frame | None:
        """Return the next frame in order, None where all are read; never waits for one.

        Starts with the oldest unread frame that is still there. When copies of the oldest were
        torn twice in a row, newer ones are tried: half a ring ahead, then three quarters, ...

        Parameters
        ----------
        copy
            False gives a view: after using it, ask :meth:`is_intact`.
        """
        while True:
            newest = self._at.counter
            if newest <= self._seen:
                if not self._went_back(newest):
                    return None
                logger.warning("stream %s: its counter went back to %d", self.path, newest)
                self._seen = max(0, newest - 1)
                if newest == 0:
                    return None
            self._ahead = None
            first = self._at.first_held(self._seen + 1)
            if first is None:  # not filled yet, or a writer that keeps no counts of its slices
                first = max(self._seen, newest - self._at.depth) + 1
            if first > self._seen + 1:
                self._count_lost(first - self._seen - 1)
            frame = self._take(self._seen + 1, copy=copy)
            self._seen += 1
            if frame is not None:
                self.delivered += 1
                self._missed = self._torn_run = 0
                return frame
            if self._torn_run >= 2:
                # Slower than the writer: always copying the oldest would never succeed.
                keep = max(1, self._at.depth >> (self._torn_run - 1))
                self._count_lost(max(0, self._at.counter - keep - self._seen))

    def next_frames(self, most: int) -> Frames | None:
        """Return the next frames in order as views, None where all are read; never waits for one.

        As :meth:`next_frame`, for those whom each call costs more than a small frame does. After
        using them, ask :meth:`torn_of`.

        Parameters
        ----------
        most
            How many at most. Fewer come where the ring ends, where a frame between was lost, and
            where the writer is near.
        """
        first = self.next_frame(copy=False)
        if first is None:
            return None
        at = self._at
        count = at.run(first.counter, first.slot, most) if most > 1 and at.is_rolling else 1
        if count == 1:
            return Frames(first, 1, first.data[np.newaxis], _NO_STAMPS)
        self._seen += count - 1
        self.delivered += count - 1
        return Frames(
            first, count, at.frames[first.slot : first.slot + count],
            at.stamps(first.slot, count), self._ahead_ns,
        )  # fmt: skip

    def torn_of(self, frames: Frames) -> int:
        """Return how many of these frames, from the first on, were overwritten up to now."""
        if self.is_intact(frames.first):
            return 0  # a writer goes through the ring in order: nor has it begun those behind
        first = frames.first
        if first.generation != self.generation:
            return frames.count
        for index in range(frames.count - 1, 0, -1):
            if not self._at.is_intact(first.counter + index, first.slot + index):
                return index + 1
        return 1

    def give_back(self, frames: Frames, count: int) -> None:
        """Have the last `count` of the frames that were given last come again."""
        if self._seen == frames.last_counter and frames.first.generation == self.generation:
            self._seen -= count
            self.delivered -= count

    def keep_newest(self, count: int) -> int:
        """Count unread frames as lost until at most `count` are left; return how many.

        For a reader that has fallen so far behind that the oldest frames go while it reads them.
        """
        before = self.lost
        self._count_lost(max(0, self._at.counter - count - self._seen))
        return self.lost - before

    def latest(self, *, copy: bool = True) -> Frame | None:
        """Return the newest frame, None before the first. Counts nothing, moves no position."""
        for _ in range(_RETRIES):
            counter = self._at.counter
            slot = self._at.settle(counter) if counter else None
            if slot is not None:
                frame = self._read(counter, slot, copy=copy)
                if frame is not None:
                    return frame
        return None

    def frame_in(self, slot: int) -> Frame | None:
        """Return a copy of the frame in a slot, None where none, or no whole one, is in it.

        Counts nothing, moves no position.

        Raises
        ------
        InvalidArgument
            No such slot.
        """
        self.geometry.slot_offset(slot)
        counter = self._at.counter_of(slot)
        return self._read(counter, slot, copy=True) if counter else None

    def frames(
        self,
        timeout_s: float,
        stop_event: threading.Event | None = None,
        *,
        copy: bool = True,
    ) -> Iterator[Frame]:
        """Yield every frame in order, following the stream when it is made anew.

        Ends when none came for `timeout_s`, when `stop_event` is set or the reader closed.
        """
        deadline = time.monotonic() + timeout_s
        checked = time.monotonic()
        while not self._is_stopped(stop_event):
            frame = self.next_frame(copy=copy)
            if frame is not None:
                yield frame
                deadline = time.monotonic() + timeout_s
                # A writer may go on filling a file whose name was taken from it.
                if time.monotonic() - checked > 1.0 and self.unread < 2:
                    checked = time.monotonic()
                    self.relink()
                continue
            wake = self.wait(deadline - time.monotonic(), stop_event)
            if wake is Wake.REPLACED:
                self.relink()
            elif wake is not Wake.FRAME:
                return

    def wait(self, timeout_s: float, stop_event: threading.Event | None = None) -> Wake:
        """Wait until a frame is unread; see :class:`Wake` for what else ends it."""
        at, deadline = self._at, time.monotonic() + timeout_s
        while True:
            if self._has_news():
                self._poll_s = _POLL_S[0]
                return Wake.FRAME
            if self._is_stopped(stop_event):
                return Wake.STOPPED
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return Wake.REPLACED if self.is_replaced() else Wake.TIMEOUT
            if at.lease is None:
                self._poll(min(_SLICE_S, remaining))
            elif at.lease.wait(min(_SLICE_S, remaining)):
                at.lease.drain()
                if not self._has_news():
                    at.await_count(self._seen)
                continue
            if not self._has_news() and self.is_replaced():
                return Wake.REPLACED

    def view(self, slot: int) -> NDArray[Any]:
        """Return a slot's pixels without copying: read-only, overwritten when its turn comes."""
        self.geometry.slot_offset(slot)
        view: NDArray[Any] = self._at.frames[slot]
        return view

    def history(self) -> NDArray[Any] | None:
        """Return copies of the last frames from a stream's history, oldest first, not checked.

        None where the stream keeps no history (CBsize 0), as nearly all do.
        """
        return self._at.history.oldest_first() if self._at.history is not None else None

    def is_intact(self, frame: Frame) -> bool:
        """Tell whether what was read from a view of this frame up to now was the frame itself.

        Of a plain stream: of the frame that was delivered last.
        """
        at = self._at
        if frame.generation != self.generation or not at.is_intact(frame.counter, frame.slot):
            return False
        return at.is_rolling or at.access == self._access  # see _read

    # ---------------------------------------------------------------- re-creation, end

    def is_replaced(self) -> bool:
        """Tell whether the name leads to another file now."""
        try:
            return os.stat(self.path).st_ino != self._at.inode
        except FileNotFoundError:
            return False

    def is_removed(self) -> bool:
        """Tell whether the stream's file has lost its name and no other has taken it."""
        return not self.path.exists()

    def relink(self) -> bool:
        """Attach to the file that the name leads to now; False where it is the same or unfinished.

        All frames of the new file count as unread. Frames of a file that was made and replaced
        without our seeing it are not counted.
        """
        if not self.is_replaced():
            return False
        try:
            new = _Ring(self.path, use_semaphore=self._use_semaphore)
        except NightjarError as error:
            logger.debug("stream %s was made anew but cannot be opened yet: %s", self.path, error)
            return False
        old, self._at = self._at, new
        old.release()
        if self._closed.is_set():
            new.release()
        self.generation += 1
        self._seen = 0
        self._ahead = None
        logger.info(
            "stream %s was made anew: %s %s", self.path, new.geometry.shape, new.geometry.dtype
        )
        return True

    def close(self) -> None:
        """Stop waits and free the semaphore. Harmless twice; views stay valid."""
        self._closed.set()
        self._at.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---------------------------------------------------------------- inside

    def _went_back(self, newest: int) -> bool:
        if self._ahead is None:
            return newest < self._seen
        if newest < self._ahead:
            self._ahead = None
            return True
        self._ahead = newest
        return False

    def _has_news(self) -> bool:
        newest = self._at.counter
        return newest > self._seen or newest < (self._seen if self._ahead is None else self._ahead)

    def _is_stopped(self, stop_event: threading.Event | None) -> bool:
        return self._closed.is_set() or (stop_event is not None and stop_event.is_set())

    def _count_lost(self, count: int) -> None:
        self.lost += count
        self._missed += count
        self._seen += count

    def _take(self, counter: int, *, copy: bool) -> Frame | None:
        slot = self._at.settle(counter)
        if slot is None:
            self.lost += 1
        else:
            frame = self._read(counter, slot, copy=copy)
            if frame is not None:
                return frame
            self.torn += 1
            self._torn_run += 1
        self._missed += 1
        return None

    def _read(self, counter: int, slot: int, *, copy: bool) -> Frame | None:
        at = self._at
        for _ in range(_RETRIES):
            access = None if at.is_rolling else at.access
            data = self._copy(at.frames[slot]) if copy else at.frames[slot]
            atime_ns, writetime_ns = at.times(counter, slot)
            if not at.is_intact(counter, slot):
                return None
            # pyMilk lowers the flag before it counts; between both only this time has changed. It
            # changes when a C program opens the stream, too: therefore once more, not "torn".
            if access is None or at.access == access:
                self._access = access
                if self._ahead_ns:
                    atime_ns -= self._ahead_ns if atime_ns else 0
                    writetime_ns -= self._ahead_ns if writetime_ns else 0
                return Frame(
                    counter, slot, self.generation, atime_ns, writetime_ns, data, self._missed
                )
        return None

    @staticmethod
    def _copy(pixels: NDArray[Any]) -> NDArray[Any]:
        return copy_pixels(pixels)

    def _poll(self, duration_s: float) -> None:
        end = time.monotonic() + duration_s
        while not self._has_news() and (left := end - time.monotonic()) > 0:
            time.sleep(min(self._poll_s, left))
            self._poll_s = min(self._poll_s * 1.5, _POLL_S[1])
