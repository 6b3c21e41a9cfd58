# SPDX-License-Identifier: BSD-3-Clause
"""The helpers: threads that each do one thing again and again, whatever goes wrong."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from nightjar.child import Backoff
from nightjar.clock import NS_PER_S, Clock
from nightjar.das.housekeeping import ROT_KEYS
from nightjar.errors import NightjarError
from nightjard.telogd.drivers.base import PointingSource, TelescopeSource
from nightjard.telogd.housekeeping import HousekeepingLog
from nightjard.telogd.pointing import PointingGarbage, PointingLog

log = logging.getLogger(__name__)

_JOIN_S = 15.0
_LONGEST_S = 120.0
_RECEIVE_S = 0.25
_FAULT_PAUSE_S = 1.0
_TEL_NS, _ROT_NS = NS_PER_S, NS_PER_S // 10
_SYNC_NS = NS_PER_S
Work = Callable[[], float]


class Helper:
    """One thread that does a piece of work again and again.

    Parameters
    ----------
    name
        For people.
    work
        Does one round; returns the pause until the next, s. What it raises is told and tried again.
    clock
        Paces it.
    begin, end
        Done first, tried until it works; done last.
    fault_pause
        Returns the pause after a failure, s.
    longest_s
        A round that takes longer is stuck.

    Attributes
    ----------
    trouble
        Why the last round failed; "" when it did not.
    beat_ns
        When the last round began, monotonic.
    wake
        Set to have the next round now.
    """

    def __init__(
        self, name: str, work: Work, clock: Clock, begin: Callable[[], None] = lambda: None,
        end: Callable[[], None] = lambda: None, fault_pause: Work = lambda: _FAULT_PAUSE_S,
        longest_s: float = _LONGEST_S,
    ) -> None:  # fmt: skip
        self.name, self._work, self._clock, self._begin, self._end = name, work, clock, begin, end
        self._fault_pause, self._longest_s = fault_pause, longest_s
        self.trouble = ""
        self.beat_ns = clock.monotonic_ns()
        self.wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def is_running(self) -> bool:
        """Whether its thread lives."""
        return self._thread.is_alive()

    @property
    def is_stuck(self) -> bool:
        """Whether its thread has died, or its round takes too long."""
        age_s = (self._clock.monotonic_ns() - self.beat_ns) / NS_PER_S
        return not self.is_running or age_s > self._longest_s

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def ask_to_stop(self) -> None:
        """Have it end after its round."""
        self._stopping.set()
        self.wake.set()

    def join(self) -> None:
        """Wait for its end."""
        if self._thread.is_alive():
            self._thread.join(_JOIN_S)

    def _run(self) -> None:
        has_begun = False
        while not self._stopping.is_set():
            self.beat_ns = self._clock.monotonic_ns()
            self.wake.clear()
            pause = None
            try:
                if not has_begun:
                    self._begin()
                    has_begun = True
                pause = self._work()
                if self.trouble:
                    log.info("%s is well again", self.name)
                self.trouble = ""
            except (NightjarError, OSError) as error:
                self._tell(str(error))
            except Exception as error:  # a fault of ours must not end the log of a night
                log.exception("%s", self.name)
                self._tell(f"internal error: {error!r}")
            if pause is None:
                pause = self._fault_pause()
            if pause > 0 and not self._stopping.is_set():
                self._clock.wait(self.wake, pause)
        try:
            self._end()
        except (NightjarError, OSError) as error:
            log.error("%s: %s", self.name, error)

    def _tell(self, message: str) -> None:
        if message != self.trouble:
            log.warning("%s: %s", self.name, message)
        self.trouble = message


class Receiver:
    """The round of the pointing stream: connect, receive, close minutes.

    Parameters
    ----------
    source, pointing, clock
        Whom it hears, where it writes, what paces it.
    """

    def __init__(self, source: PointingSource, pointing: PointingLog, clock: Clock) -> None:
        self._source, self._pointing, self._clock = source, pointing, clock
        self._backoff = Backoff(0.5, 5.0, healthy_s=10.0)
        self._is_open = False
        self._opened_ns = self._next_ns = self._synced_ns = 0
        self.connects = 0
        self._trouble: NightjarError | None = None

    def round(self) -> float:
        """Do one round.

        Raises
        ------
        NightjarError
            There is no connection, or it carries nonsense; it is tried again.
        """
        pause = 0.0
        now = self._clock.monotonic_ns()
        try:
            if not self._is_open:
                pause = 0.1
                if now >= self._next_ns:
                    self._connect(now)
                    pause = 0.0
            else:
                data = self._source.receive(_RECEIVE_S)
                if data:
                    self._pointing.take(data)
                    self._trouble = None
        except NightjarError as error:
            self._lose(now, error)
        self._pointing.tick()
        if now - self._synced_ns > _SYNC_NS:
            self._synced_ns = now
            self._pointing.sync()
        if self._trouble is not None and not self._is_open:
            self._clock.sleep(pause)
            raise self._trouble
        return pause

    def _connect(self, now: int) -> None:
        self._source.open()
        self._pointing.begin_stream()
        self._is_open, self._opened_ns = True, now
        self.connects += 1

    def _lose(self, now: int, error: NightjarError) -> None:
        lived_s = (now - self._opened_ns) / NS_PER_S if self._is_open else 0.0
        if isinstance(error, PointingGarbage):
            lived_s = 0.0
        self._source.close()
        self._is_open = False
        self._next_ns = now + round(self._backoff.next_pause_s(lived_s) * NS_PER_S)
        self._trouble = error

    def end(self) -> None:
        """Publish what runs and hang up."""
        self._source.close()
        self._pointing.close()


class Beat:
    """A grid of times on which something is asked: by the wall, so that it never drifts."""

    def __init__(self, clock: Clock, step_ns: int) -> None:
        self._clock, self._step_ns = clock, step_ns

    def pause_s(self) -> float:
        """Return the time to the next grid point, s."""
        return (self._step_ns - self._clock.now_ns() % self._step_ns) / NS_PER_S


class TelescopePoll:
    """The round of the telescope's record.

    Attributes
    ----------
    record, mono_ns
        The newest, and when it came (monotonic); None before the first.
    """

    def __init__(self, source: TelescopeSource, lines: HousekeepingLog, clock: Clock) -> None:
        self._source, self._lines, self._clock = source, lines, clock
        self.beat = Beat(clock, _TEL_NS)
        self.record: dict[str, Any] | None = None
        self.mono_ns = 0
        self.is_ok = False
        self.latency_ms: float | None = None
        self.last_error = ""
        self.answers = self.failures = 0

    def round(self) -> float:
        """Ask once and write the line, also of a silence."""
        began = self._clock.monotonic_ns()
        try:
            record = self._source.read()
        except (NightjarError, OSError) as error:
            self.is_ok, self.last_error = False, str(error)
            self.failures += 1
            self._lines.add("tel", {"is_ok": False, "latency_ms": None, "record": None})
            raise
        now = self._clock.monotonic_ns()
        latency = round((now - began) / 1e6, 3)
        self._lines.add("tel", {"is_ok": True, "latency_ms": latency, "record": record})
        self.record, self.mono_ns, self.latency_ms = record, now, latency
        self.is_ok, self.last_error = True, ""
        self.answers += 1
        return self.beat.pause_s()

    def age_s(self) -> float | None:
        """Return the age of the record: by its own time, and by when it came."""
        record = self.record
        if record is None:
            return None
        since = (self._clock.monotonic_ns() - self.mono_ns) / NS_PER_S
        return max(since, (self._clock.now_ns() - int(record["utc_ns"])) / NS_PER_S)


class RotatorPoll:
    """The round of the rotator's reading.

    Parameters
    ----------
    ask
        Returns the answer of the rotator's daemon; raises NightjarError where it is away.
    """

    def __init__(
        self, ask: Callable[[], Mapping[str, Any]], lines: HousekeepingLog, clock: Clock
    ) -> None:
        self._ask, self._lines, self._clock = ask, lines, clock
        self._beat = Beat(clock, _ROT_NS)
        self.is_ok = False
        self.mono_ns: int | None = None
        self.last_error = ""
        self.answers = self.failures = 0

    def round(self) -> float:
        """Ask once and write the line; a silence becomes a gap."""
        began = self._clock.monotonic_ns()
        try:
            told = self._ask()
            values = {key: told.get(key) for key in ROT_KEYS}
        except (NightjarError, OSError, AttributeError) as error:
            self.is_ok, self.last_error = False, str(error)
            self.failures += 1
            self._lines.silent("rot", self.last_error)
            raise NightjarError(self.last_error) from error
        now = self._clock.monotonic_ns()
        if values["age_s"] is not None:  # it was that old when it was sent
            values["age_s"] = round(float(values["age_s"]) + (now - began) / 2e9, 4)
        self._lines.add("rot", values)
        self.is_ok, self.mono_ns, self.last_error = True, now, ""
        self.answers += 1
        return self._beat.pause_s()


class LinesCare:
    """The round that closes housekeeping minutes and makes lines durable."""

    def __init__(self, lines: HousekeepingLog, clock: Clock) -> None:
        self._lines, self._clock = lines, clock
        self._synced_ns = 0

    def round(self) -> float:
        """Do one round."""
        self._lines.tick()
        now = self._clock.monotonic_ns()
        if now - self._synced_ns > _SYNC_NS:
            self._synced_ns = now
            self._lines.sync()
        return 0.2
