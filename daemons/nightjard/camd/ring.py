# SPDX-License-Identifier: BSD-3-Clause
"""The frame buffer: a rolling stream whose slots have one owner each, and a journal beside it.

A slot is FREE, FILLING (the detector writes it) or FULL (a frame waits to be saved). Frames are
published in the stream, so anybody may look at them, but a slot is used again only when its frame
is safe in a file. The journal lies in shared memory like the pixels and survives the daemon: after
a kill -9 the next daemon finds every frame that had been read out and saves it.
"""

from __future__ import annotations

import enum
import json
import logging
import mmap
import os
import struct
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nightjar.clock import Clock
from nightjar.errors import Code, ConfigError, StorageError
from nightjar.files import shared_memory_folder
from nightjar.streams.keywords import KeywordValue
from nightjar.streams.writer import StreamWriter
from nightjard.camd.config import LEAST_SLOTS
from nightjard.camd.drivers.base import FrameBuffer

log = logging.getLogger(__name__)

RECORD_BYTES = 32 * 1024
_HEAD = struct.Struct("<8sI4xQ")  # magic, bytes of JSON, stream counter of the slot's frame
_MAGIC = b"NJSLOT01"
_EMPTY = bytes(8)


class Slot(enum.Enum):
    """Who owns a slot."""

    FREE = "free"
    FILLING = "filling"
    FULL = "full"


def stream_path(camera_id: str) -> Path:
    """Return the stream file of a camera."""
    return shared_memory_folder() / f"{camera_id}.im.shm"


def journal_path(camera_id: str) -> Path:
    """Return the journal file of a camera's frame buffer."""
    return shared_memory_folder() / f"{camera_id}.slots"


def lock_path(camera_id: str) -> Path:
    """Return the file whose lock the one daemon of a camera holds."""
    return shared_memory_folder() / f"{camera_id}.lock"


class Journal:
    """What is in the slots, as the next daemon will need it: one record of JSON per slot."""

    def __init__(self, path: Path, slots: int, *, is_new: bool) -> None:
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_TRUNC if is_new else 0)
        descriptor = os.open(path, flags, 0o660)
        try:
            if is_new:
                os.posix_fallocate(descriptor, 0, slots * RECORD_BYTES)
            self.slots = os.fstat(descriptor).st_size // RECORD_BYTES
            self._map = mmap.mmap(descriptor, self.slots * RECORD_BYTES)
        finally:
            os.close(descriptor)

    def write(self, slot: int, counter: int, job: dict[str, Any]) -> None:
        """Record a slot's frame; the magic is written last, so half a record does not count."""
        text = json.dumps(job).encode()
        if len(text) > RECORD_BYTES - _HEAD.size:
            raise StorageError(f"record of {len(text)} bytes does not fit into the journal")
        start = slot * RECORD_BYTES
        self.clear(slot)
        self._map[start + _HEAD.size : start + _HEAD.size + len(text)] = text
        self._map[start + 8 : start + _HEAD.size] = _HEAD.pack(_MAGIC, len(text), counter)[8:]
        self._map[start : start + 8] = _MAGIC

    def clear(self, slot: int) -> None:
        """Forget a slot's frame."""
        start = slot * RECORD_BYTES
        self._map[start : start + 8] = _EMPTY

    def read(self, slot: int) -> tuple[int, dict[str, Any]] | None:
        """Return (stream counter, job) of a slot; None where there is no whole record."""
        start = slot * RECORD_BYTES
        magic, length, counter = _HEAD.unpack_from(self._map, start)
        if magic != _MAGIC or length > RECORD_BYTES - _HEAD.size:
            return None
        text = self._map[start + _HEAD.size : start + _HEAD.size + length]
        try:
            job = json.loads(text)
        except ValueError:
            return None
        return (counter, job) if isinstance(job, dict) and "number" in job else None

    def close(self) -> None:
        """Unmap the file."""
        self._map.close()


class FrameRing:
    """The slots of one camera at one read-out geometry.

    Parameters
    ----------
    camera_id
        Names the stream.
    shape
        (rows, columns) of what the detector delivers.
    budget_bytes
        The configuration's ``framebuffer_bytes``.
    clock
        Stamps the stream.
    on_free
        Called when a slot becomes free (from the thread that freed it).

    Raises
    ------
    ConfigError
        The budget holds no two frames.
    StorageError
        Shared memory is full.
    """

    def __init__(
        self,
        camera_id: str,
        shape: tuple[int, int],
        budget_bytes: int,
        clock: Clock,
        on_free: Callable[[], None] | None = None,
    ) -> None:
        frame_bytes = shape[0] * shape[1] * 2
        self.slots = budget_bytes // frame_bytes
        if self.slots < LEAST_SLOTS:
            raise ConfigError(
                f"framebuffer_bytes: {budget_bytes}: must be at least {LEAST_SLOTS} frames of "
                f"{frame_bytes} bytes ({shape[1]} x {shape[0]} pixels)"
            )
        self.shape = shape
        self._camera_id = camera_id
        self._on_free = on_free
        self._lock = threading.Lock()
        self._states = [Slot.FREE] * self.slots
        self._stream = StreamWriter.create(
            camera_id, shape, "uint16", depth=self.slots, clock=clock
        )
        try:
            self._journal = Journal(journal_path(camera_id), self.slots, is_new=True)
        except OSError as error:
            self._stream.close(unlink=True)
            raise StorageError(
                f"frame buffer journal: {error.strerror}", code=Code.NO_SPACE
            ) from error

    @property
    def path(self) -> Path:
        """The stream file."""
        return self._stream.path

    @property
    def is_in_place(self) -> bool:
        """Whether the stream's file is still there: somebody may have removed it."""
        return self._stream.is_current()

    @property
    def used(self) -> int:
        """Slots that are not free."""
        return sum(state is not Slot.FREE for state in self._states)

    @property
    def has_room(self) -> bool:
        """Whether the next frame finds its slot free (slots are used in turn)."""
        return self._states[self._stream.next_slot] is Slot.FREE

    def acquire(self) -> tuple[int, FrameBuffer] | None:
        """Return the next slot for the detector to fill; None while it is in use."""
        slot = self._stream.next_slot
        with self._lock:
            if self._states[slot] is not Slot.FREE:
                return None
            self._states[slot] = Slot.FILLING
        self._stream.begin(slot)
        return slot, FrameBuffer(
            str(self._stream.path), self._stream.slot_offset(slot), self._stream.slot(slot)
        )

    def abandon(self, slot: int) -> None:
        """Give back a slot whose frame did not come."""
        self._stream.abandon(slot)
        self._journal.clear(slot)  # it may be there already where publishing failed
        self._set_free(slot)

    def publish(
        self,
        slot: int,
        job: dict[str, Any],
        start_ns: int,
        keywords: Mapping[str, tuple[KeywordValue, str]] | None = None,
    ) -> None:
        """Make the frame visible and record in the journal how it is to be saved.

        Keywords are (value, comment) of the stream, as it shows them with its newest frame.
        """
        self._stream.set_keywords(keywords or {})
        # Journal first: a frame that is in the stream but not in the journal would be lost by a
        # kill, one that is in the journal only is saved by the next daemon.
        self._journal.write(slot, self._stream.counter + 1, job)
        self._stream.publish(slot, start_ns)
        with self._lock:
            self._states[slot] = Slot.FULL

    def release(self, slot: int) -> None:
        """Free a slot whose frame is safe."""
        self._journal.clear(slot)
        self._set_free(slot)

    def _set_free(self, slot: int) -> None:
        with self._lock:
            self._states[slot] = Slot.FREE
        if self._on_free is not None:
            self._on_free()

    def close(self, *, unlink: bool) -> None:
        """Close; `unlink` removes stream and journal, which only an empty ring allows."""
        empty = self.used == 0
        self._stream.close(unlink=unlink and empty)
        self._journal.close()
        if unlink and empty:
            journal_path(self._camera_id).unlink(missing_ok=True)


def leftover_jobs(camera_id: str) -> list[tuple[int, dict[str, Any]]]:
    """Return (slot, job) of the frames that an earlier daemon had read out but not saved.

    In the order in which they were taken. The stream file is kept until :func:`remove_leftovers`.
    """
    journal_file, stream_file = journal_path(camera_id), stream_path(camera_id)
    if not journal_file.exists():
        return []
    if not stream_file.exists():
        log.warning("%s has no stream beside it: nothing can be recovered", journal_file)
        return []
    try:
        journal = Journal(journal_file, 0, is_new=False)
    except (OSError, ValueError) as error:
        log.warning("frame buffer journal %s cannot be read: %s", journal_file, error)
        return []
    found = [(slot, journal.read(slot)) for slot in range(journal.slots)]
    journal.close()
    ordered = sorted((entry[0], slot, entry[1]) for slot, entry in found if entry is not None)
    return [(slot, job) for _, slot, job in ordered]


def forget_leftover(camera_id: str, slot: int) -> None:
    """Mark a leftover frame as saved."""
    journal = Journal(journal_path(camera_id), 0, is_new=False)
    journal.clear(slot)
    journal.close()


def remove_leftovers(camera_id: str) -> None:
    """Remove stream and journal of an earlier daemon, once nothing in them is needed."""
    if not leftover_jobs(camera_id):
        stream_path(camera_id).unlink(missing_ok=True)
        journal_path(camera_id).unlink(missing_ok=True)
