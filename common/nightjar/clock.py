# SPDX-License-Identifier: BSD-3-Clause
"""The clock that every part takes as an argument, and what the system says of its health.

Wall time is integer nanoseconds UTC since 1970; waits use the monotonic clock. Tests inject
:class:`ManualClock`; simulators that run faster than life use :class:`ScaledClock`.
"""

from __future__ import annotations

import ctypes
import threading
import time
from dataclasses import dataclass
from typing import Protocol

NS_PER_S = 1_000_000_000
TAI_UTC_S = 37  # TAI - UTC since 2017-01-01 (IERS Bulletin C 52)
_TOGETHER_NS, _TRIES = 1_000_000, 5


class Clock(Protocol):
    """Time as a part of the program sees it."""

    def now_ns(self) -> int:
        """Return UTC, nanoseconds since 1970-01-01."""
        ...

    def monotonic_ns(self) -> int:
        """Return a time that never steps, nanoseconds from an arbitrary zero."""
        ...

    def sleep(self, seconds: float) -> None:
        """Return after `seconds` of this clock."""
        ...

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        """Return True as soon as `event` is set, False after `timeout_s` of this clock."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now_ns(self) -> int:
        """Return UTC, nanoseconds since 1970-01-01."""
        return time.time_ns()

    def monotonic_ns(self) -> int:
        """Return CLOCK_MONOTONIC in nanoseconds."""
        return time.monotonic_ns()

    def sleep(self, seconds: float) -> None:
        """Sleep."""
        time.sleep(max(0.0, seconds))

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        """Wait for an event with a deadline."""
        return event.wait(max(0.0, timeout_s))


class ScaledClock:
    """A clock that runs `rate` times as fast as life from the moment it is made."""

    def __init__(self, rate: float) -> None:
        if rate <= 0:
            raise ValueError(f"clock rate must be positive, not {rate}")
        self.rate = rate
        self._wall0 = time.time_ns()
        self._mono0 = time.monotonic_ns()

    def monotonic_ns(self) -> int:
        """Return scaled monotonic nanoseconds."""
        return int((time.monotonic_ns() - self._mono0) * self.rate)

    def now_ns(self) -> int:
        """Return scaled UTC nanoseconds."""
        return self._wall0 + self.monotonic_ns()

    def sleep(self, seconds: float) -> None:
        """Sleep `seconds` of this clock."""
        time.sleep(max(0.0, seconds / self.rate))

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        """Wait `timeout_s` of this clock for an event."""
        return event.wait(max(0.0, timeout_s / self.rate))


class ManualClock:
    """A clock that moves only when a test says so; safe to share between threads."""

    def __init__(self, now_ns: int = 1_750_000_000 * NS_PER_S) -> None:
        self._now_ns = now_ns
        self._mono_ns = 0
        self._moved = threading.Condition()

    def now_ns(self) -> int:
        """Return the present UTC of this clock."""
        return self._now_ns

    def monotonic_ns(self) -> int:
        """Return the present monotonic time of this clock."""
        return self._mono_ns

    def advance(self, seconds: float) -> None:
        """Move both clocks forward and wake those whose wait has ended."""
        with self._moved:
            step = round(seconds * NS_PER_S)
            self._now_ns += step
            self._mono_ns += step
            self._moved.notify_all()

    def step_wall(self, seconds: float) -> None:
        """Step UTC only, as a bad time server does."""
        with self._moved:
            self._now_ns += round(seconds * NS_PER_S)

    def sleep(self, seconds: float) -> None:
        """Block until another thread has advanced this clock far enough."""
        self.wait(threading.Event(), seconds)

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        """Block until the event is set or this clock has been advanced past the deadline."""
        deadline = self._mono_ns + round(timeout_s * NS_PER_S)
        with self._moved:
            while not event.is_set() and self._mono_ns < deadline:
                # An event may be set without moving the clock, hence the short real wait.
                self._moved.wait(0.002)
        return event.is_set()


def together_ns(clock: Clock) -> tuple[int, int]:
    """Return UTC and monotonic time of one moment, ns.

    A process can be held up between two readings, which would look like a step of UTC: where they
    lie apart they are made again.
    """
    best: tuple[int, int, int] | None = None
    for _ in range(_TRIES):
        before_ns, utc_ns, after_ns = clock.monotonic_ns(), clock.now_ns(), clock.monotonic_ns()
        if best is None or after_ns - before_ns < best[0]:
            best = after_ns - before_ns, utc_ns, after_ns
        if best[0] < _TOGETHER_NS:
            break
    assert best is not None
    return best[1:]


def tai_offset_s() -> int:
    """Return how far the kernel's CLOCK_TAI is ahead of UTC, seconds; 0 where nobody has set it.

    Programs that stamp with CLOCK_TAI are ahead of UTC by as much: chrony and ntpd set it where
    they know the leap seconds, otherwise CLOCK_TAI equals UTC.
    """
    kind = getattr(time, "CLOCK_TAI", None)
    if kind is None:
        return 0
    utc_ns = time.clock_gettime_ns(time.CLOCK_REALTIME)
    return round((time.clock_gettime_ns(kind) - utc_ns) / NS_PER_S)


@dataclass(frozen=True, slots=True)
class ClockHealth:
    """What the kernel's clock discipline says (adjtimex; chrony and ntpd both feed it).

    Attributes
    ----------
    is_synchronised
        False when no daemon disciplines the clock.
    estimated_error_s, maximum_error_s
        The kernel's estimate and bound of the offset from UTC; None where it gives none.
    """

    is_synchronised: bool
    estimated_error_s: float | None
    maximum_error_s: float | None

    @property
    def label(self) -> str:
        """Return SYNC or UNSYNC."""
        return "SYNC" if self.is_synchronised else "UNSYNC"


class _Timex(ctypes.Structure):
    # struct timex of <sys/timex.h>, 64-bit Linux; the trailing padding is 11 ints.
    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("constant", ctypes.c_long),
        ("precision", ctypes.c_long),
        ("tolerance", ctypes.c_long),
        ("time", ctypes.c_long * 2),
        ("tick", ctypes.c_long),
        ("ppsfreq", ctypes.c_long),
        ("jitter", ctypes.c_long),
        ("shift", ctypes.c_int),
        ("stabil", ctypes.c_long),
        ("jitcnt", ctypes.c_long),
        ("calcnt", ctypes.c_long),
        ("errcnt", ctypes.c_long),
        ("stbcnt", ctypes.c_long),
        ("tai", ctypes.c_int),
        ("padding", ctypes.c_int * 11),
    )


_STA_UNSYNC = 0x0040
_TIME_ERROR = 5


def clock_health() -> ClockHealth:
    """Return the state of the kernel's clock discipline; unsynchronised where it cannot be read."""
    timex = _Timex()
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex))
    except (OSError, AttributeError):
        return ClockHealth(False, None, None)
    if state < 0 or state == _TIME_ERROR or timex.status & _STA_UNSYNC:
        return ClockHealth(False, None, None)
    return ClockHealth(True, timex.esterror / 1e6, timex.maxerror / 1e6)
