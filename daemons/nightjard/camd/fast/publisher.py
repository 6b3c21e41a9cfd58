# SPDX-License-Identifier: BSD-3-Clause
"""The grabber's stream: made anew where the geometry asks for it, filled frame by frame.

The number that the camera itself gives a frame is not written for each: the keywords HW-OFF
(hardware number - cnt0), HW-FROM (first cnt0 for which that holds) and HW-OFFP (the offset before)
change only where the camera lost frames, and before the frame that comes after is published.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.clock import NS_PER_S, Clock
from nightjar.streams.keywords import KeywordValue
from nightjar.streams.writer import StreamWriter
from nightjard.camd.fast.source import SourceFrame

log = logging.getLogger(__name__)

_PREPARE_S = 0.4
_MEMORY_S = 60.0

Keywords = Mapping[str, tuple[KeywordValue, str]]

OFFSET, OFFSET_FROM, OFFSET_BEFORE, LOST = "HW-OFF", "HW-FROM", "HW-OFFP", "LOST-CAM"
_OWN: dict[str, tuple[KeywordValue, str]] = {
    OFFSET: (0, "camera's frame number minus cnt0"),
    OFFSET_FROM: (1, "first cnt0 for which HW-OFF holds"),
    OFFSET_BEFORE: (0, "HW-OFF of the frames before HW-FROM"),
    LOST: (0, "frames lost by camera or transport"),
}


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """The stream that is wanted.

    Attributes
    ----------
    depth, least_depth
        Slots of a new stream; an existing one of the same geometry will do from `least_depth` on.
    mode, group, keyword_slots
        As :meth:`nightjar.streams.writer.StreamWriter.create`.
    """

    name: str
    shape: tuple[int, int]
    pixel_type: str
    depth: int
    least_depth: int
    mode: int = 0o660
    group: str | None = None
    keyword_slots: int = 200


class Publisher:
    """Owns the stream's writing end.

    Attributes
    ----------
    published, lost, missed, late, incomplete
        Counts since it was made.
    newest
        What is known of the frame published last.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.writer: StreamWriter | None = None
        self._offset: int | None = None
        self.published = self.lost = self.missed = self.late = self.incomplete = 0
        self.newest: SourceFrame | None = None

    # ---------------------------------------------------------------- the stream

    def fits(self, plan: StreamPlan) -> bool:
        """Tell whether the present stream will do."""
        writer = self.writer
        return (
            writer is not None
            and writer.name == plan.name
            and writer.geometry.frame_shape == plan.shape
            and writer.geometry.dtype == np.dtype(plan.pixel_type)
            and writer.geometry.depth >= plan.least_depth
            and writer.is_current()
        )

    def adopt(self, plan: StreamPlan, keywords: Keywords) -> bool:
        """Have the stream that is wanted; True where it is a new file or another grabber's.

        Raises
        ------
        Refused
            Another living process owns a stream of that name, or the keywords are too many.
        StorageError
            No room for it (code NO_SPACE). The present stream stays.
        """
        if self.fits(plan):
            self.set_keywords(keywords)
            return False
        # In a list of its own: who takes it out of there gives its memory back.
        old = [self.writer] if self.writer is not None else []
        options: dict[str, Any] = {
            "depth": plan.depth, "keywords": {LOST: (self.lost, _OWN[LOST][1]), **keywords},
            "nkw": plan.keyword_slots, "mode": plan.mode, "group": plan.group,
            "clock": self._clock, "populate": False,
        }  # fmt: skip
        # A stream that a killed grabber left goes on where it fits, its counter too.
        wanted = (plan.name, plan.shape, plan.pixel_type)
        if old:
            self.writer = StreamWriter.create(*wanted, **options)
        else:
            self.writer = StreamWriter.open(*wanted, least_depth=plan.least_depth, **options)
        held = self.writer.keywords()
        if OFFSET in held and self.writer.counter:
            self._offset = int(held[OFFSET].value)
        else:
            self._offset = None
            self.writer.set_keywords(_OWN)
        if old:
            old[0].close()
        # Taking and giving back gigabytes lasts seconds: the first frames need not wait for all.
        ready = self._make_present(self.writer, 0, _PREPARE_S)
        threading.Thread(
            target=self._change_memory, args=(old, self.writer, ready), name="memory", daemon=True
        ).start()
        return True

    def _make_present(self, writer: StreamWriter, slot: int, limit_s: float) -> int:
        """Have memory for the slots from one on; return the first without, after `limit_s`."""
        end_ns = self._clock.monotonic_ns() + round(limit_s * NS_PER_S)
        while slot < writer.geometry.depth and self._clock.monotonic_ns() < end_ns:
            if self.writer is not writer:
                break
            writer.make_present(slot)
            slot += 1
        return slot

    def _change_memory(self, old: list[StreamWriter], new: StreamWriter, slot: int) -> None:
        self._make_present(new, slot, _MEMORY_S)
        old.clear()

    def slots(self) -> list[NDArray[Any]]:
        """Return the pixels of all slots."""
        assert self.writer is not None
        return [self.writer.slot(index) for index in range(self.writer.geometry.depth)]

    def set_keywords(self, keywords: Keywords) -> None:
        """Set keywords, where there is a stream."""
        if self.writer is not None:
            self.writer.set_keywords(keywords)

    def close(self, *, unlink: bool) -> None:
        """Give the stream up."""
        if self.writer is not None:
            self.writer.close(unlink=unlink)
            self.writer = None

    # ---------------------------------------------------------------- frames

    def take(self, fetch: Callable[[NDArray[Any]], SourceFrame]) -> bool:
        """Have a frame fetched into the next slot and publish it; False where it is incomplete."""
        writer = self.writer
        assert writer is not None
        slot = writer.next_slot
        writer.begin(slot)
        try:
            frame = fetch(writer.slot(slot))
        except BaseException:
            writer.abandon(slot)
            raise
        if frame.lost_before:
            self.lost += frame.lost_before
        self.missed += frame.missed_before
        if frame.is_incomplete:
            self.incomplete += 1
            self.lost += 1
            writer.abandon(slot)
            return False
        offset = frame.hardware_id - writer.counter - 1
        if offset != self._offset:
            self._note_offset(writer, offset)
        writer.publish(slot, frame.atime_ns)
        self.published += 1
        self.late += frame.is_late
        self.newest = frame
        return True

    def _note_offset(self, writer: StreamWriter, offset: int) -> None:
        before = offset if self._offset is None else self._offset
        writer.set_keywords(
            {
                OFFSET: offset, OFFSET_FROM: writer.counter + 1, OFFSET_BEFORE: before,
                LOST: self.lost,
            }
        )  # fmt: skip
        self._offset = offset
