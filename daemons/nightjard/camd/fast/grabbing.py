# SPDX-License-Identifier: BSD-3-Clause
"""Parts of the grabber: what it measures, how deep its ring is, how its process is set up."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
from collections.abc import Sequence
from typing import Any

from nightjar.clock import NS_PER_S
from nightjard.camd.fast.publisher import StreamPlan
from nightjard.camd.fast.source import SourceGeometry

log = logging.getLogger(__name__)

_RATE_NS = NS_PER_S  # the rate is measured over at least so long
_PR_SET_PDEATHSIG = 1
_PR_SET_TIMERSLACK = 29


class RateMeter:
    """The frame rate by the acquisition stamps of frames at least a second apart."""

    def __init__(self) -> None:
        self.hz = 0.0
        self._first: tuple[int, int] | None = None
        self._newest: tuple[int, int] = (0, 0)

    def reset(self) -> None:
        """Forget; frames from now on count."""
        self.hz, self._first = 0.0, None

    def note(self, count: int, atime_ns: int, now_ns: int) -> None:
        """Take note of the newest frame's number and stamp, at a monotonic time."""
        if self._first is None:
            self._first, self._newest = (count, atime_ns), (count, now_ns)
            return
        if count != self._newest[0]:
            self._newest = (count, now_ns)
        elif self.hz and now_ns - self._newest[1] > max(3 * NS_PER_S, 5 * NS_PER_S / self.hz):
            self.hz, self._first = 0.0, None
            return
        span_ns = atime_ns - self._first[1]
        if span_ns >= _RATE_NS:
            self.hz = (count - self._first[0]) * NS_PER_S / span_ns
            self._first = (count, atime_ns)
        elif span_ns < 0:
            self._first = (count, atime_ns)


def stream_plan(geometry: SourceGeometry, plan: dict[str, Any]) -> StreamPlan:
    """Return the stream for a geometry: so many seconds of frames, within so many bytes.

    An existing stream of the same geometry will do with half of that.
    """
    rows, columns = geometry.shape
    frame_bytes = rows * columns * (2 if geometry.pixel_type == "uint16" else 1)
    most = max(2, int(plan["ring_bytes"]) // frame_bytes)

    def slots(seconds: float) -> int:
        wanted = -(-round(seconds * geometry.rate_hz * 1000) // 1000)
        return min(most, max(int(plan["least_frames"]), wanted))

    return StreamPlan(
        plan["name"], geometry.shape, geometry.pixel_type, slots(plan["ring_seconds"]),
        slots(plan["ring_seconds"] / 2), plan["mode"], plan["group"], plan["keyword_slots"],
    )  # fmt: skip


def prepare_process(priority: int | None, cpus: Sequence[int] | None) -> None:
    """Ask the system for what keeps time well; what it does not permit is a warning."""
    libc = ctypes.CDLL(None)
    # A grabber that hangs does not see its daemon die, and would keep the stream from the next.
    libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    # Sleeps end when they should, not up to 50 us later.
    libc.prctl(_PR_SET_TIMERSLACK, 1000, 0, 0, 0)
    if cpus:
        try:
            os.sched_setaffinity(0, cpus)
        except OSError as error:
            log.warning("cpus %s are not permitted: %s", list(cpus), error.strerror)
    if priority is not None:
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
        except OSError as error:
            log.warning("real-time priority %d is not permitted: %s", priority, error.strerror)
