# SPDX-License-Identifier: BSD-3-Clause
"""The thread that owns the ADC: it reads blocks and hands them on, and nothing else."""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Any

from nightjar.api.states import Level
from nightjar.child import Backoff
from nightjar.clock import NS_PER_S, Clock
from nightjar.errors import DeviceLost, NightjarError
from nightjar.health import Health
from nightjard.dasd.drivers.base import Adc, Block

log = logging.getLogger(__name__)

READ_S = 0.5
QUIET_S = 2.0
LOST_S = 10.0
QUEUE_S = 60.0
QUEUE_BYTES = 64 * 1024 * 1024


class Feed:
    """The ADC's blocks in a queue; a lost ADC is tried again with growing pauses.

    Parameters
    ----------
    adc
        Not open.
    rate_hz, n_channels
        Of its samples: the queue holds a minute, or 64 MB.
    clock, health
        For deadlines; told how the ADC is.
    """

    def __init__(
        self, adc: Adc, rate_hz: float, n_channels: int, clock: Clock, health: Health
    ) -> None:
        self.adc = adc
        self.wake = threading.Event()
        """Set when there is something in the queue."""
        self.is_connected = False
        self.reason = "the ADC has not been opened yet"
        self.about: dict[str, Any] = {}
        self.blocks = self.samples = self.overruns = self.restarts = 0
        self.last_ns: int | None = None
        """When the last block came, monotonic."""
        self.beat_ns = clock.monotonic_ns()
        self._rate_hz = rate_hz
        self._most = max(1, min(round(QUEUE_S * rate_hz), QUEUE_BYTES // (2 * n_channels)))
        self._clock, self._health = clock, health
        self._queue: deque[tuple[Block, str]] = deque()
        self._waiting = 0
        self._lock = threading.Lock()
        self._note = ""
        self._stopping = threading.Event()
        self._pauses = Backoff(first_s=0.5, longest_s=10.0, healthy_s=30.0)
        self._since_ns = 0

    @property
    def waiting_s(self) -> float:
        """Seconds of samples in the queue."""
        return self._waiting / self._rate_hz

    def take(self) -> tuple[Block, str] | None:
        """Return the next block and why samples are missing before it; None where there is none."""
        with self._lock:
            if not self._queue:
                return None
            found = self._queue.popleft()
            self._waiting -= len(found[0].samples)
            return found

    def run(self) -> None:
        """Read until :meth:`stop`: the body of the thread."""
        while not self._stopping.is_set():
            self.beat_ns = self._clock.monotonic_ns()
            try:
                if not self.is_connected:
                    self._connect()
                block = self.adc.read(READ_S)
                if block is not None:
                    self._put(block)
                else:
                    self._nothing_came()
            except NightjarError as error:
                self._lose(error)
            except Exception as error:
                log.exception("the ADC's driver failed")
                self._lose(DeviceLost(f"the ADC's driver failed: {error}"))
        self.adc.close()

    def stop(self) -> None:
        """Have :meth:`run` return."""
        self._stopping.set()

    def _connect(self) -> None:
        self.about = self.adc.open()
        self.adc.start()
        self._since_ns = self.last_ns = self._clock.monotonic_ns()
        self.is_connected, self.reason = True, ""
        self._health.ok("adc")
        log.info("%s samples", self.adc.capabilities.model)

    def _put(self, block: Block) -> None:
        if self.reason:
            self.reason = ""
            self._health.ok("adc")
        self.last_ns = self._clock.monotonic_ns()
        self.blocks += 1
        self.samples += len(block.samples)
        if block.loss:
            self.overruns += 1
            log.warning("%s", block.loss)
        with self._lock:
            if self._waiting + len(block.samples) > self._most:
                if not self._note:
                    log.error("the disk is too slow: samples are thrown away")
                self._note = "the disk was too slow"
                return
            note, self._note = self._note, ""
            self._queue.append((block, note or block.loss))
            self._waiting += len(block.samples)
        self.wake.set()

    def _nothing_came(self) -> None:
        quiet_s = (self._clock.monotonic_ns() - (self.last_ns or 0)) / NS_PER_S
        if quiet_s > LOST_S:
            raise DeviceLost(f"the ADC has given no samples for {quiet_s:.0f} s; it is tried anew")
        if quiet_s > QUIET_S:
            self.reason = f"the ADC has given no samples for {quiet_s:.0f} s"
            self._health.set("adc", Level.DEGRADED, self.reason)

    def _lose(self, error: NightjarError) -> None:
        # The reason first: who finds the ADC away is told why.
        self.reason = error.message
        was_connected, self.is_connected = self.is_connected, False
        self.adc.close()
        lived_s = 0.0
        if was_connected:
            self.restarts += 1
            lived_s = (self._clock.monotonic_ns() - self._since_ns) / NS_PER_S
            log.error("%s", error.message)
        self._note = f"the ADC was away: {error.message}"
        self._health.set("adc", Level.DEGRADED, f"{error.message}; it is tried again")
        self.wake.set()
        self._clock.wait(self._stopping, self._pauses.next_pause_s(lived_s))
