# SPDX-License-Identifier: BSD-3-Clause
"""What a logger knows of its stream without reading frames: geometry, rate, age."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any

import numpy as np

from nightjar.clock import Clock
from nightjar.errors import NightjarError
from nightjar.streams.inspect import describe
from nightjar.streams.layout import StreamGeometry
from nightjar.streams.reader import StreamReader

_SPAN_S = 2.0
_LONGEST_SPAN_S = 120.0
_FEWEST_FRAMES = 4  # that a rate is taken from: long exposures need a longer span
_AHEAD_S = 1.0


class StreamWatch:
    """Looks at a stream now and then; whoever asks gets what was seen last.

    Parameters
    ----------
    stream
        Its name.
    clock
        Wall time, for the age of its newest frame.
    """

    def __init__(self, stream: str, clock: Clock) -> None:
        self._stream = stream
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: deque[tuple[float, int, object]] = deque()
        self._bytes: deque[tuple[float, int]] = deque()
        self._bytes_lock = threading.Lock()
        self._geometry: StreamGeometry | None = None
        self._problem: NightjarError | None = None
        self.rate_hz: float | None = None
        self.age_s: float | None = None

    def look(self, reader: StreamReader | None = None) -> None:
        """Look at the stream: at its file, or where a reader is attached at what that maps."""
        with self._lock:
            try:
                if reader is not None:
                    # What describe() tells of a file, too: the rate goes on when one attaches.
                    self._note(reader.counter, reader.geometry, reader.identity[1])
                    self.age_s = reader.age_s
                else:
                    info = describe(self._stream, clock=self._clock)
                    shape = (info.depth, *info.shape) if info.is_rolling else info.shape
                    geometry = StreamGeometry(
                        tuple(shape), _dtype(info.dtype), info.imagetype
                    )
                    self._note(info.counter, geometry, info.created_ns)
                    self.age_s = info.age_s
                    if self.rate_hz is None:
                        self.rate_hz = info.rate_hz
                self._problem = None
            except NightjarError as error:
                self._problem, self._geometry = error, None
                self.rate_hz = self.age_s = None
                self._counts.clear()

    def _note(self, counter: int, geometry: StreamGeometry, identity: object) -> None:
        now_s = time.monotonic()
        counts = self._counts
        if counts and (counts[-1][2] != identity or counter < counts[-1][1]):
            counts.clear()
            self.rate_hz = None
        has_moved = not counts or counter != counts[-1][1]
        counts.append((now_s, counter, identity))
        while len(counts) > 2 and now_s - counts[1][0] > _SPAN_S:
            is_enough = counter - counts[1][1] >= _FEWEST_FRAMES
            if not is_enough and now_s - counts[1][0] < _LONGEST_SPAN_S:
                break
            counts.popleft()
        span_s = now_s - counts[0][0]
        # Not while it stands still: a rate that fades would make its next frame seem not yet due.
        if span_s > 0.5 and has_moved:
            self.rate_hz = (counter - counts[0][1]) / span_s
        self._geometry = geometry

    def require(self) -> StreamGeometry:
        """Return the geometry seen last.

        Raises
        ------
        NightjarError
            The stream was not there, or is none.
        """
        if self._geometry is None:
            raise self._problem or NightjarError(f"stream {self._stream} was not looked at")
        return self._geometry

    @property
    def is_there(self) -> bool:
        """Whether the stream was there."""
        return self._geometry is not None

    @property
    def problem(self) -> str | None:
        """Why there is no stream, in words; None where there is one."""
        problem = self._problem
        return problem.message if problem is not None else None

    @property
    def ahead_s(self) -> float | None:
        """How far its time stamps are ahead of this machine's clock, where they are."""
        age_s = self.age_s
        # Days ahead: no clock, but words that nobody has set.
        return -age_s if age_s is not None and -86_400 < age_s < -_AHEAD_S else None

    @property
    def is_alive(self) -> bool:
        """Whether it moves."""
        return self.age_s is not None and self.age_s <= self.patience_s

    @property
    def patience_s(self) -> float:
        """How long its next frame may take before it counts as standing still."""
        return max(2.0, 3 / self.rate_hz + 1) if self.rate_hz else 2.0

    @property
    def shape(self) -> list[int] | None:
        """Of a frame."""
        return list(self._geometry.frame_shape) if self._geometry is not None else None

    @property
    def dtype(self) -> str | None:
        """Of a pixel."""
        return str(self._geometry.dtype) if self._geometry is not None else None

    @property
    def depth(self) -> int | None:
        """Frames in the ring."""
        return self._geometry.depth if self._geometry is not None else None

    @property
    def frame_bytes(self) -> int | None:
        """Bytes of a frame."""
        return self._geometry.frame_bytes if self._geometry is not None else None

    def note_bytes(self, total: int) -> float | None:
        """Note the bytes written so far; return MB/s of the last seconds."""
        with self._bytes_lock:  # commands and news ask from threads of their own
            now_s, values = time.monotonic(), self._bytes
            if values and total < values[-1][1]:
                values.clear()
            values.append((now_s, total))
            while len(values) > 2 and now_s - values[1][0] > _SPAN_S:
                values.popleft()
            span_s, written = now_s - values[0][0], total - values[0][1]
        return round(written / span_s / 1e6, 1) if span_s > 0.2 else None


def _dtype(name: str) -> np.dtype[Any]:
    return np.dtype(name)
