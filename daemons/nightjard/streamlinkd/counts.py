# SPDX-License-Identifier: BSD-3-Clause
"""What a link counts, and rates of it."""

from __future__ import annotations

import collections
import statistics
from dataclasses import dataclass

from nightjar.clock import NS_PER_S

_SPAN_NS = 2 * NS_PER_S


@dataclass(slots=True)
class Counts:
    """Frames of one stream since the link's process started.

    Attributes
    ----------
    frames, bytes
        Sent whole, or received and published; pixels.
    lost
        Overwritten at the sender before they could be sent.
    lost_on_wire
        Sent, never arrived.
    duplicated
        Came again; thrown away.
    torn
        Overwritten while they were being sent; sent as such, thrown away by the receiver.
    dropped
        Came whole and could not be put into shared memory.
    """

    frames: int = 0
    bytes: int = 0
    lost: int = 0
    lost_on_wire: int = 0
    duplicated: int = 0
    torn: int = 0
    dropped: int = 0

    def add(self, other: Counts) -> None:
        """Add those of another stream."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Meter:
    """Mean rates over the last two seconds, from totals noted now and then."""

    def __init__(self) -> None:
        self._notes: collections.deque[tuple[int, int, int]] = collections.deque()

    def note(self, now_ns: int, frames: int, octets: int) -> tuple[float, float]:
        """Note the totals; return frames and bytes per second."""
        notes = self._notes
        notes.append((now_ns, frames, octets))
        while len(notes) > 2 and now_ns - notes[1][0] >= _SPAN_NS:
            notes.popleft()
        since_ns, first_frames, first_octets = notes[0]
        if now_ns <= since_ns:
            return 0.0, 0.0
        scale = NS_PER_S / (now_ns - since_ns)
        return (frames - first_frames) * scale, (octets - first_octets) * scale


class Latency:
    """Median of what was added since it was last asked."""

    def __init__(self, most: int = 1000) -> None:
        self._values: collections.deque[int] = collections.deque(maxlen=most)
        self._median_ms: float | None = None

    def add(self, nanoseconds: int) -> None:
        """Add one."""
        self._values.append(nanoseconds)

    def median_ms(self) -> float | None:
        """Return the median, ms; the last one where nothing was added since."""
        if self._values:
            values, self._values = self._values, collections.deque(maxlen=self._values.maxlen)
            self._median_ms = round(statistics.median(values) / 1e6, 3)
        return self._median_ms
