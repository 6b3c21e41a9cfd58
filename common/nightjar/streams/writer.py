# SPDX-License-Identifier: BSD-3-Clause
"""The writing end of a stream: makes the file, publishes frames, wakes those who wait.

A rolling stream is filled in three steps, so that another process (a detector driver) may map the
same file and put the pixels into the slot::

    slot = writer.next_slot
    writer.begin(slot)                      # readers of the old frame in it learn that it goes
    ... pixels into writer.slot(slot), here or elsewhere ...
    writer.publish(slot, atime_ns)          # or writer.abandon(slot)

Order of the stores of a frame: write flag, slice count "none", pixels, times, slice count, cnt1,
cnt0, write flag, semaphores. It is MagAO-X's order, except that the record of the slice is complete
before cnt0 tells of it. Readers rely on stores becoming visible in that order, as x86-64 does.
"""

from __future__ import annotations

import logging
import mmap
import os
import struct
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from nightjar.clock import Clock, SystemClock
from nightjar.errors import InvalidArgument, Refused, StorageError
from nightjar.streams.allocate import make_file, make_present, stream_path, take_file
from nightjar.streams.history import History
from nightjar.streams.keywords import Keyword, KeywordBlock, KeywordValue, plain
from nightjar.streams.layout import (
    KEYWORD_SEQUENCE_OFFSET,
    METADATA_BYTES,
    NO_FRAME,
    OWNER_PID_OFFSET,
    PENDING_LIMIT,
    SEMAPHORE_BYTES,
    SUFFIX,
    WRITE_FLAG_OFFSET,
    StreamGeometry,
    Word,
)
from nightjar.streams.semaphores import SemaphoreRow

logger = logging.getLogger(__name__)

_NS = 10**9
_CNT0, _CNT1 = Word.CNT0, Word.CNT1
_TIME = struct.Struct("2q")  # native: words are stored whole, not byte by byte
_TIMES = struct.Struct("6q")
_STAMPS = struct.Struct("6Q")
_TIMES_OFFSET = 8 * Word.ACCESS_S

Keywords = Mapping[str, KeywordValue | Keyword | tuple[KeywordValue, str]]


class StreamWriter:
    """The owner of a stream file. Made by :meth:`create`, :meth:`attach` or :meth:`open`.

    One thread writes frames; keywords may be set from another. Times are CLOCK_REALTIME (UTC).

    Attributes
    ----------
    path, name, geometry
        The file and what it holds.
    """

    def __init__(
        self, path: Path, geometry: StreamGeometry, mapping: mmap.mmap, inode: int, clock: Clock
    ) -> None:
        self.path = path
        self.name = path.name.removesuffix(SUFFIX)
        self.geometry = geometry
        self._inode = inode
        self._clock = clock
        self._lock = threading.Lock()
        self._begun: int | None = None
        self._begun_count = 1
        self._is_closed = False
        offsets = geometry.offsets()
        view = memoryview(mapping)
        # The mapping is never closed by hand: views may live on elsewhere. It goes with the last.
        self._mapping = mapping
        self._bytes = view[:METADATA_BYTES]
        self._words = view[:METADATA_BYTES].cast("Q")
        self._keyword_sequence = self._bytes[
            KEYWORD_SEQUENCE_OFFSET : KEYWORD_SEQUENCE_OFFSET + 4
        ].cast("I")
        self._history = History(mapping, geometry) if geometry.history_depth else None
        self._keywords = KeywordBlock(view[offsets.keywords : offsets.semaphores])
        self._semaphores = SemaphoreRow(
            mapping, offsets.semaphores, geometry.semaphore_count, SEMAPHORE_BYTES
        )
        self._depth, self._is_rolling = geometry.depth, geometry.is_rolling
        self._frame_shape = geometry.frame_shape
        self._frames: NDArray[Any] = np.frombuffer(
            mapping, geometry.dtype, geometry.element_count, METADATA_BYTES
        ).reshape(geometry.depth, *geometry.frame_shape)
        # Plain views of words: a store through numpy costs ten times as much. Empty without slices.
        self._slice_atimes = view[offsets.slice_atimes : offsets.slice_writetimes].cast("q")
        self._slice_writetimes = view[offsets.slice_writetimes : offsets.slice_counts].cast("q")
        self._slice_counts = view[offsets.slice_counts : offsets.history_records].cast("Q")
        # The same for several at a time: atimes, times of writing (seconds, nanoseconds), counts.
        self._slice_stamps = [
            np.frombuffer(block, np.uint64).reshape(-1, 2)
            for block in (self._slice_atimes, self._slice_writetimes)
        ]
        self._all_counts = np.frombuffer(self._slice_counts, np.uint64)

    # ---------------------------------------------------------------- making and taking over

    @classmethod
    def create(
        cls,
        name: str,
        shape: tuple[int, ...],
        dtype: DTypeLike,
        *,
        depth: int | None = None,
        folder: Path | None = None,
        keywords: Keywords | None = None,
        nkw: int = 50,
        history: int = 0,
        mode: int = 0o660,
        group: str | None = None,
        clock: Clock | None = None,
        populate: bool = True,
    ) -> StreamWriter:
        """Make a stream, under a new inode even where one of that name exists.

        Parameters
        ----------
        name
            Bare name of the stream.
        shape
            Of one frame: (rows, columns), or up to 3 axes without `depth`.
        depth
            Slots of a rolling stream; None for a plain one that holds one frame.
        folder
            Defaults to :func:`nightjar.files.shared_memory_folder`.
        keywords, nkw
            First keywords, and the number of slots for them.
        history
            Copies of all pixels to keep beside them (CBsize of the format); mostly 0.
        mode, group
            Permissions of the file; writers, and readers that want to be woken, need ``rw``.
        populate
            False only reserves the room, in half of the time: then :meth:`make_present` from a
            thread, or the first turn of the ring is slower.

        Raises
        ------
        Refused
            Another living process owns a stream of that name.
        StorageError
            No room for it (code NO_SPACE), or the folder cannot be used.
        InvalidArgument, ConfigError
            The name, the geometry or a keyword is impossible; the group does not exist.
        """
        clock = clock or SystemClock()
        geometry = StreamGeometry.make(
            shape, dtype, depth=depth, keyword_count=nkw, history_depth=history
        )
        path = stream_path(name, folder)
        first = plain(keywords or {})
        mapping, inode = make_file(
            path, geometry, first, clock.now_ns(), mode, group, populate=populate
        )
        return cls(path, geometry, mapping, inode, clock)

    @classmethod
    def attach(
        cls, name_or_path: str | Path, *, folder: Path | None = None, clock: Clock | None = None
    ) -> StreamWriter:
        """Take over an existing stream whose owner has gone; counters and keywords go on.

        A frame that the old owner had begun but not published is dropped; one that it had half
        published is completed.

        Raises
        ------
        Refused
            Its owner is alive.
        StorageError
            Not there, not writable, or not a stream of a known layout.
        """
        path = stream_path(name_or_path, folder)
        mapping, geometry, inode = take_file(path)
        writer = cls(path, geometry, mapping, inode, clock or SystemClock())
        writer._recover()
        return writer

    @classmethod
    def open(
        cls,
        name: str,
        shape: tuple[int, ...],
        dtype: DTypeLike,
        *,
        depth: int | None = None,
        least_depth: int | None = None,
        folder: Path | None = None,
        nkw: int = 50,
        **options: Any,
    ) -> StreamWriter:
        """Take over a stream left by a dead owner where it has this geometry, else make a new one.

        Parameters and errors are those of :meth:`create`; keywords of a stream taken over are
        updated. With `least_depth` one of another depth, but not of fewer slots, is taken over.
        """
        path = stream_path(name, folder)
        wanted = StreamGeometry.make(
            shape, dtype, depth=depth, keyword_count=nkw, history_depth=options.get("history", 0)
        )
        if path.exists():
            try:
                writer = cls.attach(path, clock=options.get("clock"))
            except StorageError as error:
                logger.warning("stream %s is made anew: %s", path, error)
            else:
                found = writer.geometry
                if found == wanted or (
                    least_depth is not None
                    and found.depth >= least_depth
                    and found.frame_shape == wanted.frame_shape
                    and replace(found, shape=wanted.shape) == wanted
                ):
                    writer.set_keywords(options.get("keywords") or {})
                    return writer
                writer.close()
        return cls.create(name, shape, dtype, depth=depth, folder=folder, nkw=nkw, **options)

    def _recover(self) -> None:
        self._set_owner(os.getpid())
        if len(self._slice_counts):
            # The slice count is what commits a frame, cnt1 and cnt0 follow it.
            counts = [0 if count == NO_FRAME else count for count in self._slice_counts]
            top = max(counts)
            newest = counts.index(top)
            if top > self.counter:
                self._words[Word.CNT1] = newest
                self._words[Word.CNT0] = top
            elif top == self.counter and top > 0:
                self._words[Word.CNT1] = newest
            elif top == 0 and self.counter == 0:
                self._words[Word.CNT1] = self.geometry.depth - 1
        self._bytes[WRITE_FLAG_OFFSET] = 0
        if self._keyword_sequence[0] & 1:  # the old owner died while it changed keywords
            self._keyword_sequence[0] = (self._keyword_sequence[0] + 1) & 0xFFFF_FFFF

    # ---------------------------------------------------------------- what it is

    @property
    def counter(self) -> int:
        """Frames published since the stream was made (cnt0)."""
        return self._words[Word.CNT0]

    @property
    def next_slot(self) -> int:
        """The slot that the next frame goes into (0 in a plain stream)."""
        return (self._words[Word.CNT1] + 1) % self._depth

    @property
    def begun_slot(self) -> int | None:
        """The slot between :meth:`begin` and :meth:`publish`; None otherwise."""
        return self._begun

    def slot(self, index: int) -> NDArray[Any]:
        """Return the pixels of a slot: a writable view, shape of one frame."""
        self.geometry.slot_offset(index)
        view: NDArray[Any] = self._frames[index]
        return view

    def make_present(self, index: int) -> None:
        """Have the memory of a slot present, without the GIL; see `populate` of :meth:`create`."""
        make_present(self._frames[index].ctypes.data, self.geometry.frame_bytes)

    def slot_offset(self, index: int) -> int:
        """Return the byte offset of a slot in the file, for another process that maps it."""
        return self.geometry.slot_offset(index)

    def slot_counter(self, index: int) -> int:
        """Return the counter of the frame in a slot; 0 where it holds none."""
        self.geometry.slot_offset(index)
        count = self._slice_counts[index] if self._is_rolling else self.counter
        return 0 if count == NO_FRAME else count

    def is_current(self) -> bool:
        """Tell whether the name still leads to this file (nobody removed or re-made it)."""
        try:
            return os.stat(self.path).st_ino == self._inode
        except FileNotFoundError:
            return False

    # ---------------------------------------------------------------- frames

    def begin(self, index: int) -> None:
        """Say that a slot is being overwritten: its old frame counts as gone from now on.

        Raises
        ------
        Refused
            Not the next slot, another frame is begun, or the stream is closed.
        """
        if self._is_closed:
            self._require_open()
        if self._begun is not None:
            raise Refused(f"stream {self.name}: slot {self._begun} is begun and not yet published")
        if index != (self._words[_CNT1] + 1) % self._depth:
            raise Refused(f"stream {self.name}: slot {index} is not the next, {self.next_slot} is")
        self._begun, self._begun_count = index, 1
        self._bytes[WRITE_FLAG_OFFSET] = 1
        if self._is_rolling:
            self._slice_counts[index] = NO_FRAME

    def begin_run(self, index: int, count: int) -> list[memoryview]:
        """Begin several frames at once; return where their pixels go, in one or two pieces.

        The frames go into the slots from `index` on, round the end of the ring. To be followed by
        :meth:`publish_run`, or :meth:`abandon`.

        Raises
        ------
        Refused
            As :meth:`begin`, or the stream takes frames only one by one: it is a plain one, or
            keeps a history.
        InvalidArgument
            More than the ring holds.
        """
        if not self._is_rolling or self._history is not None:
            raise Refused(f"stream {self.name} takes frames only one by one")
        if not 0 < count <= self._depth:
            raise InvalidArgument(f"stream {self.name}: {count} frames at once in {self._depth}")
        self.begin(index)
        self._begun_count = count
        pieces = []
        for slots, _ in self._pieces(index, count):
            self._all_counts[slots] = NO_FRAME
            pieces.append(self._frames[slots].data.cast("B"))
        return pieces

    def _pieces(self, index: int, count: int) -> list[tuple[slice, slice]]:
        """Return the slots of a run, and which of its frames lie there, in one or two pieces."""
        until_end = min(count, self._depth - index)
        pieces = [(slice(index, index + until_end), slice(0, until_end))]
        if until_end < count:
            pieces.append((slice(0, count - until_end), slice(until_end, count)))
        return pieces

    def publish(
        self,
        index: int,
        atime_ns: int,
        writetime_ns: int | None = None,
        *,
        counter: int | None = None,
    ) -> int:
        """Make a begun frame the newest and wake the readers.

        Parameters
        ----------
        index
            The begun slot.
        atime_ns, writetime_ns
            UTC of the acquisition, and of the end of writing (default: now).
        counter
            The frame's number where it has one already, as at the far end of a link: greater than
            that of the frame before. Readers count those between both as lost.

        Returns
        -------
        int
            The frame's counter (cnt0).

        Raises
        ------
        Refused
            That slot is not begun.
        InvalidArgument
            `counter` is not greater than that of the frame before; the slot stays begun.
        """
        if self._begun != index:
            self._require_begun(index)
        atime_s, atime_fraction = divmod(atime_ns, _NS)
        if writetime_ns is None:
            writetime_ns = self._clock.now_ns()
        write_s, write_fraction = divmod(writetime_ns, _NS)
        words = self._words
        if counter is None:
            counter = words[_CNT0] + 1
        elif not words[_CNT0] < counter < NO_FRAME:
            raise InvalidArgument(
                f"stream {self.name}: frame {counter} cannot follow frame {words[_CNT0]}"
            )
        # Time of last access, acquisition and writing stand side by side.
        _TIMES.pack_into(
            self._bytes, _TIMES_OFFSET,
            write_s, write_fraction, atime_s, atime_fraction, write_s, write_fraction,
        )  # fmt: skip
        if self._is_rolling:
            _TIME.pack_into(self._slice_atimes, 16 * index, atime_s, atime_fraction)
            _TIME.pack_into(self._slice_writetimes, 16 * index, write_s, write_fraction)
            self._slice_counts[index] = counter
        if self._history is not None:
            self._history.keep(counter, index, atime_ns, writetime_ns)
        words[_CNT1] = index
        words[_CNT0] = counter
        self._bytes[WRITE_FLAG_OFFSET] = 0
        self._begun = None
        self._semaphores.post(PENDING_LIMIT)
        return counter

    def publish_run(self, index: int, stamps: NDArray[np.uint64], counter: int) -> int:
        """Publish the first frames of a run that was begun; the rest of it is abandoned.

        Parameters
        ----------
        index
            The slot that the run was begun at.
        stamps
            Seconds and nanoseconds UTC, (2, n, 2): acquisition and writing of n frames.
        counter
            Of the first of them, greater than that of the frame before.

        Returns
        -------
        int
            Counter of the last one.

        Raises
        ------
        Refused
            No such run is begun.
        InvalidArgument
            More frames than were begun, or the counter is not greater; the run stays begun.
        """
        if self._begun != index:
            self._require_begun(index)
        count, words = stamps.shape[1], self._words
        if not 0 < count <= self._begun_count:
            raise InvalidArgument(
                f"stream {self.name}: {self._begun_count} frames were begun, not {count}"
            )
        if not words[_CNT0] < counter < NO_FRAME - count:
            raise InvalidArgument(
                f"stream {self.name}: frame {counter} cannot follow frame {words[_CNT0]}"
            )
        (atime_s, atime_fraction), (write_s, write_fraction) = stamps[:, -1].tolist()
        _STAMPS.pack_into(
            self._bytes, _TIMES_OFFSET,
            write_s, write_fraction, atime_s, atime_fraction, write_s, write_fraction,
        )  # fmt: skip
        for slots, frames in self._pieces(index, count):
            for block, values in zip(self._slice_stamps, stamps, strict=True):
                block[slots] = values[frames]
            self._all_counts[slots] = np.arange(
                counter + frames.start, counter + frames.stop, dtype=np.uint64
            )
        words[_CNT1] = (index + count - 1) % self._depth
        words[_CNT0] = counter + count - 1
        self._bytes[WRITE_FLAG_OFFSET] = 0
        self._begun = None
        for _ in range(min(count, PENDING_LIMIT)):  # a tick a frame, as from others
            self._semaphores.post(PENDING_LIMIT)
        last: int = counter + count - 1
        return last

    def abandon(self, index: int) -> None:
        """End a begun frame without publishing it; the slot stays the next one.

        Raises
        ------
        Refused
            That slot is not begun, or the stream is a plain one, whose only frame is overwritten.
        """
        self._require_begun(index)
        if not self._is_rolling:
            raise Refused(f"stream {self.name} has one frame, which is overwritten: publish it")
        self._bytes[WRITE_FLAG_OFFSET] = 0
        self._begun = None

    def write(self, array: ArrayLike, atime_ns: int, writetime_ns: int | None = None) -> int:
        """Copy a whole frame into the next slot and publish it.

        Returns
        -------
        int
            The frame's counter.

        Raises
        ------
        InvalidArgument
            Shape or type differ from the stream's; nothing was touched.
        """
        frame = np.asarray(array)
        if frame.shape != self._frame_shape or frame.dtype != self._frames.dtype:
            raise InvalidArgument(
                f"stream {self.name} takes {self.geometry.frame_shape} {self.geometry.dtype}, "
                f"not {frame.shape} {frame.dtype}"
            )
        index = self.next_slot
        self.begin(index)
        np.copyto(self._frames[index], frame)
        return self.publish(index, atime_ns, writetime_ns)

    def blank(self) -> None:
        """Set all pixels to 0 and forget the frames in the slots; the counters stay.

        Raises
        ------
        Refused
            A frame is begun.
        """
        self._require_open()
        if self._begun is not None:
            raise Refused(f"stream {self.name}: slot {self._begun} is begun")
        self._bytes[WRITE_FLAG_OFFSET] = 1
        for index in range(len(self._slice_counts)):
            self._slice_counts[index] = NO_FRAME
        self._frames[:] = 0
        self._bytes[WRITE_FLAG_OFFSET] = 0

    def wake(self) -> None:
        """Post all semaphores, each up to 10 pending ticks, as the C library does."""
        self._semaphores.post(PENDING_LIMIT)

    # ---------------------------------------------------------------- keywords

    def set_keyword(self, name: str, value: KeywordValue, comment: str | None = None) -> None:
        """Set one keyword: int, float, or text of 16 bytes; without a comment the old one stays.

        Raises
        ------
        InvalidArgument
            Something does not fit.
        Refused
            No slot is free.
        """
        self._require_open()
        with self._lock:
            self._keywords.set(name, value, comment, self.counter)

    def set_keywords(self, keywords: Keywords) -> None:
        """Set several keywords that belong together: name -> value or (value, comment).

        Readers of ours see all of them or none.

        Raises
        ------
        InvalidArgument
            Something does not fit; nothing was changed.
        Refused
            Not enough slots are free; nothing was changed.
        """
        items = {name: (value, note or None) for name, (value, note) in plain(keywords).items()}
        self._require_open()
        with self._keywords_changing():
            self._keywords.set_all(items, self.counter)

    def load_keywords(self, block: bytes | memoryview, keep: Collection[str] = ()) -> None:
        """Take over the keyword slots of another stream, byte by byte; all but `keep` go.

        Raises
        ------
        Refused
            They are more than the slots here; nothing was changed.
        """
        self._require_open()
        with self._keywords_changing():
            self._keywords.load(block, keep)

    @contextmanager
    def _keywords_changing(self) -> Iterator[None]:
        with self._lock:
            sequence = (self._keyword_sequence[0] | 1) & 0xFFFF_FFFF
            self._keyword_sequence[0] = sequence
            try:
                yield
            finally:
                self._keyword_sequence[0] = (sequence + 1) & 0xFFFF_FFFF

    def keywords(self) -> dict[str, Keyword]:
        """Return all keywords."""
        with self._lock:
            return self._keywords.read()

    # ---------------------------------------------------------------- end

    def close(self, *, unlink: bool = False) -> None:
        """Give the stream up: no owner in the file, and with `unlink` no file. Harmless twice.

        A begun frame is abandoned. Mapped views that were handed out stay valid.
        """
        if self._is_closed:
            return
        if self._begun is not None:
            if self.geometry.is_rolling:
                self.abandon(self._begun)
            self._begun = None
        if unlink and self.is_current():
            self.path.unlink(missing_ok=True)
        self._set_owner(0)
        self._is_closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _set_owner(self, pid: int) -> None:
        field = pid.to_bytes(4, "little", signed=True)
        self._bytes[OWNER_PID_OFFSET : OWNER_PID_OFFSET + 4] = field

    def _require_open(self) -> None:
        if self._is_closed:
            raise Refused(f"stream {self.name} is closed")

    def _require_begun(self, index: int) -> None:
        self._require_open()
        if self._begun != index:
            raise Refused(f"stream {self.name}: slot {index} is not begun (begun: {self._begun})")
