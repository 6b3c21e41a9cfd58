# SPDX-License-Identifier: BSD-3-Clause
"""Which image belongs to which exposure, although INDI does not number them.

A driver may still send the image of an exposure that was aborted while it was read out. That
image must never be taken for the next one, so:

- an image counts only while an exposure is in course, and only if its first byte came after the
  exposure can have ended;
- an abort that the device confirmed before the exposure's end cannot leave an image behind; after
  any other, the next exposure begins when the old image has come (and was dropped) or when the
  longest read-out seen so far has passed twice.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from nightjar.clock import NS_PER_S, Clock
from nightjar.indi.client import Vector
from nightjar.indi.protocol import Blob

# Drivers count exposures in steps of some ms and may be this much early.
_EARLY_NS = 20_000_000
# An abort whose confirmation is not waited for is obeyed within this; if not, the exposure is
# seen to be in course when the device is opened again.
_ABORT_NS = 3 * NS_PER_S
# How long the image of an aborted exposure is waited for: at least, and before any was seen.
STRAY_LEAST_NS = NS_PER_S
STRAY_FIRST_NS = 5 * NS_PER_S


@dataclass(slots=True)
class Exposure:
    """An exposure in course; times are monotonic but for start_ns and read_end_ns.

    Attributes
    ----------
    revision
        What the server says later than this is about this exposure.
    sent_ns
        When the command was sent; None while it must not be.
    confirmed_ns
        When the device first said that it exposes.
    dropped_before
        Images that had been dropped before it.
    """

    length_ns: int
    revision: int = -1
    sent_ns: int | None = None
    start_ns: int = 0
    confirmed_ns: int | None = None
    blob: Blob | None = None
    read_end_ns: int = 0
    dropped_before: int = 0

    @property
    def due_ns(self) -> int:
        """The earliest end."""
        assert self.sent_ns is not None
        return self.sent_ns + self.length_ns


@dataclass(slots=True)
class _Aborted:
    """An exposure that was aborted and whose image may still come."""

    due_ns: int
    sent_ns: int
    confirmed_ns: int | None = None
    has_come: bool = False


class ExposureTracker:
    """The exposure in course, shared by the thread that commands and the one that reads.

    Parameters
    ----------
    device, blob
        Names of the camera and of the property that carries its images.

    Attributes
    ----------
    dropped
        Images that came and belonged to no exposure in course.
    """

    def __init__(self, clock: Clock, device: str, blob: str) -> None:
        self.dropped = 0
        self._clock = clock
        self._device = device
        self._blob = blob
        self._lock = threading.Lock()
        self._exposure: Exposure | None = None
        self._aborted: _Aborted | None = None
        self._slowest_ns: int | None = None

    @property
    def current(self) -> Exposure | None:
        """The exposure in course, its image perhaps there already."""
        return self._exposure

    def is_near_end(self) -> bool:
        """Tell whether the current exposure may end before an abort sent now is obeyed."""
        exposure = self._exposure
        if exposure is None or exposure.sent_ns is None:
            return False
        return exposure.due_ns - self._clock.monotonic_ns() < _ABORT_NS

    def reset(self, may_image_come: bool) -> None:
        """Forget the exposure in course; an old image may come although its abort is past."""
        now_ns = self._clock.monotonic_ns()
        with self._lock:
            self._exposure = None
            self._aborted = _Aborted(now_ns, now_ns, now_ns) if may_image_come else None

    def new(self, length_ns: int) -> Exposure:
        """Return a new current exposure, its command not yet sent."""
        with self._lock:
            self._exposure = Exposure(length_ns)
            return self._exposure

    def begin(self, exposure: Exposure, revision: int) -> None:
        """Note that the command goes out now: before it does, as the answer may be fast."""
        with self._lock:
            exposure.revision = revision
            # In this order: held up in between, the error told of the start has that time in it.
            exposure.sent_ns = self._clock.monotonic_ns()
            exposure.start_ns = self._clock.now_ns()
            exposure.dropped_before = self.dropped
            self._aborted = None

    def end(self) -> Exposure | None:
        """Take the current exposure away and return it."""
        with self._lock:
            exposure, self._exposure = self._exposure, None
            return exposure

    def end_without_image(self) -> bool:
        """Take the current exposure away unless its image has come; tell whether it went."""
        with self._lock:
            if self._exposure is None or self._exposure.blob is not None:
                return False
            self._exposure = None
            return True

    def abort(self) -> bool:
        """Take the current exposure away; tell whether the device must be told."""
        with self._lock:
            exposure, self._exposure = self._exposure, None
            if exposure is None or exposure.sent_ns is None or exposure.blob is not None:
                return False
            self._aborted = _Aborted(exposure.due_ns, self._clock.monotonic_ns())
            return True

    def unconfirmed_abort_ns(self) -> int | None:
        """Return for how long an abort has not been confirmed; None when none is open."""
        aborted = self._aborted
        if aborted is None or aborted.confirmed_ns is not None:
            return None
        return self._clock.monotonic_ns() - aborted.sent_ns

    def may_image_come(self) -> bool:
        """Tell whether the image of an aborted exposure may still come."""
        aborted = self._aborted
        if aborted is None:
            return False
        if aborted.confirmed_ns is None:
            return True
        if aborted.confirmed_ns < aborted.due_ns or aborted.has_come:
            return False
        patience_ns = STRAY_FIRST_NS
        if self._slowest_ns is not None:
            patience_ns = max(STRAY_LEAST_NS, 2 * self._slowest_ns)
        return self._clock.monotonic_ns() - aborted.confirmed_ns < patience_ns

    def take_vector(self, vector: Vector) -> None:
        """Look at what the server tells (reading thread)."""
        if vector.device != self._device:
            return
        now_ns = self._clock.monotonic_ns()
        with self._lock:
            exposure, aborted = self._exposure, self._aborted
            if vector.name == "CCD_EXPOSURE" and exposure is not None:
                is_answer = exposure.sent_ns is not None and vector.revision > exposure.revision
                if is_answer and vector.state == "Busy" and exposure.confirmed_ns is None:
                    exposure.confirmed_ns = now_ns
            elif vector.name == "CCD_ABORT_EXPOSURE" and aborted is not None:
                if vector.state != "Busy" and aborted.confirmed_ns is None:
                    aborted.confirmed_ns = now_ns

    def take_blob(self, blob: Blob) -> None:
        """Give the image to the exposure, or drop it (reading thread)."""
        if (blob.device, blob.vector) != (self._device, self._blob):
            return
        with self._lock:
            exposure = self._exposure
            if self._aborted is not None:
                self._aborted.has_come = True
            if (
                exposure is None
                or exposure.sent_ns is None
                or exposure.blob is not None
                or blob.first_ns < exposure.due_ns - _EARLY_NS
            ):
                self.dropped += 1
                return
            exposure.read_end_ns = self._clock.now_ns()
            exposure.blob = blob
            self._slowest_ns = max(self._slowest_ns or 0, blob.last_ns - exposure.due_ns)
