# SPDX-License-Identifier: BSD-3-Clause
"""A simulated ADC in a simulated machine: a crystal and a clock of its own, and faults on command.

Its samples come from a :class:`Signals`: the simulated observatory's, or plain ones.
"""

from __future__ import annotations

import threading
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nightjar.clock import NS_PER_S, Clock, together_ns
from nightjar.errors import DeviceLost, DeviceNotFound, InvalidArgument, Refused
from nightjard.dasd.config import AdcConfig, SimulatedConfig
from nightjard.dasd.drivers.base import Block, Capabilities

BLOCKS_PER_S = 10


class Signals(Protocol):
    """What is on the inputs."""

    def samples(self, t_ns: NDArray[np.int64], first: int) -> NDArray[np.int16]:
        """Return what the ADC measures at true times, (n, channels) int16.

        Parameters
        ----------
        t_ns
            True time of each sample's first conversion, ns UTC, (n,).
        first
            Number of the first of them since the ADC was made.
        """
        ...


class SimulatedHost:
    """The clock of the simulated machine: ahead, too fast, and set by somebody at times.

    Parameters
    ----------
    true
        Real time.
    offset_s, drift_ppm
        How far it is ahead at the start, and how much too fast it runs.
    """

    def __init__(self, true: Clock, offset_s: float, drift_ppm: float) -> None:
        self._true = true
        self._wall0, self._mono0 = true.now_ns(), true.monotonic_ns()
        self._rate = 1 + drift_ppm * 1e-6
        self._offset_ns = round(offset_s * NS_PER_S)

    def step(self, seconds: float) -> None:
        """Set it ahead, or back."""
        self._offset_ns += round(seconds * NS_PER_S)

    def monotonic_at(self, true_monotonic_ns: float) -> int:
        """Return its monotonic time at a true monotonic time."""
        return round((true_monotonic_ns - self._mono0) * self._rate)

    def now_at(self, true_monotonic_ns: float) -> int:
        """Return its UTC at a true monotonic time."""
        return self._wall0 + self.monotonic_at(true_monotonic_ns) + self._offset_ns

    def now_ns(self) -> int:
        """Return its UTC."""
        return self.now_at(self._true.monotonic_ns())

    def monotonic_ns(self) -> int:
        """Return its monotonic time."""
        return self.monotonic_at(self._true.monotonic_ns())


class SimulatedAdc:
    """The simulated ADC.

    Parameters
    ----------
    options, adc
        As configured.
    n_channels
        Channels of a sample.
    clock
        True time; the machine has its own.
    signals
        What is on the inputs.
    delay_s
        How long after its last sample a block is made up: an observatory writes its truth in
        bursts. Stamps do not show it.
    """

    def __init__(
        self, options: SimulatedConfig, adc: AdcConfig, n_channels: int, clock: Clock,
        signals: Signals, delay_s: float = 0.0,
    ) -> None:  # fmt: skip
        self._delay_ns = round(delay_s * NS_PER_S)
        self.capabilities = Capabilities("simulated ADC", is_simulated=True, has_faults=True)
        self.host = SimulatedHost(clock, options.offset_s, options.drift_ppm)
        self._options, self._clock, self._signals = options, clock, signals
        self._n_channels = n_channels
        self._block = max(1, round(adc.sample_rate_hz / BLOCKS_PER_S))
        self._period_ns = NS_PER_S / adc.sample_rate_hz / (1 + options.crystal_ppm * 1e-6)
        self._buffer = max(self._block, round(options.buffer_s * adc.sample_rate_hz))
        self._random = np.random.default_rng(options.seed)
        self._lock = threading.Lock()
        self._faults: dict[str, tuple[int, int | None, float]] = {}  # kind: until, channel, amount
        self._to_come = sorted(options.faults, key=lambda fault: fault.after_s)
        self._opened_ns: int | None = None
        self._is_open = self._is_sampling = False
        self._epoch = 0
        self._start_ns = self._wall_ns = 0
        self._next = self._before = 0
        self._lost = 0
        self._stuck: dict[int, int] = {}
        self._never = threading.Event()

    def open(self) -> dict[str, Any]:
        """Connect; DeviceNotFound while it is unplugged."""
        if self._opened_ns is None:
            self._opened_ns = self._clock.monotonic_ns()
        self._arm()
        if self._active("unplug"):
            raise DeviceNotFound("the simulated ADC is unplugged; plug it in (fault: clear)")
        self._is_open = True
        return {"adc": "simulated", "seed": self._options.seed}

    def start(self) -> None:
        """Begin to sample."""
        if not self._is_open:
            raise DeviceLost("the simulated ADC is not open")
        self._epoch += 1
        self._wall_ns, self._start_ns = together_ns(self._clock)
        self._before += self._next
        self._next = self._lost = 0
        self._is_sampling = True

    def stop(self) -> None:
        """Stop sampling."""
        self._is_sampling = False

    def close(self) -> None:
        """Disconnect."""
        self._is_sampling = self._is_open = False

    def _sampled_ns(self, number: int) -> float:
        """Return the true monotonic time of a sample."""
        return self._start_ns + (number + 1) * self._period_ns

    def read(self, timeout_s: float) -> Block | None:
        """Return the next block when it is due."""
        deadline = self._clock.monotonic_ns() + round(timeout_s * NS_PER_S)
        while True:
            self._arm()
            if self._active("unplug"):
                self.close()
                raise DeviceLost("the simulated ADC was unplugged")
            if not self._is_sampling:
                raise DeviceLost("the simulated ADC does not sample")
            now = self._clock.monotonic_ns()
            due = self._sampled_ns(self._next + self._block - 1)
            due += self._options.latency_s * NS_PER_S + self._delay_ns
            if now >= due and not self._active("stall"):
                return self._take(now)
            if now >= deadline:
                return None
            wait_ns = max(due - now, 5_000_000 if now >= due else 1)
            self._clock.wait(self._never, min(wait_ns, deadline - now) / NS_PER_S)

    def _take(self, now_ns: int) -> Block:
        loss = ""
        if self._lost:
            loss = f"ADC overrun: {self._lost} samples lost"
            self._next, self._lost = self._next + self._lost, 0
        behind = int((now_ns - self._start_ns) / self._period_ns) - self._next
        if behind > self._buffer:
            lost = behind - self._buffer
            loss = f"ADC overrun: {lost} samples lost"
            self._next += lost
        count = self._block
        first, self._next = self._next, self._next + count
        after_ns = self._sampled_ns(first) - self._start_ns + self._period_ns * np.arange(count)
        samples = self._signals.samples(
            self._wall_ns + np.rint(after_ns).astype(np.int64), self._before + first
        )
        samples = self._spoilt(samples)
        stamp = self._sampled_ns(first + count - 1) + self._options.latency_s * NS_PER_S
        stamp += abs(self._random.normal(0, self._options.jitter_s)) * NS_PER_S
        late = self._fault("late")
        stamp += late[2] * NS_PER_S if late else 0
        return Block(
            samples, first, self.host.now_at(stamp), self.host.monotonic_at(stamp), self._epoch,
            loss,
        )  # fmt: skip

    def _spoilt(self, samples: NDArray[np.int16]) -> NDArray[np.int16]:
        if self._active("garbage"):
            wild = self._random.integers(-40000, 40000, samples.shape)
            return np.clip(wild, -32768, 32767).astype(np.int16)
        stuck = self._fault("stuck")
        if stuck is None:
            self._stuck.clear()
        elif stuck[1] is not None:
            samples[:, stuck[1]] = self._stuck.setdefault(stuck[1], int(samples[0, stuck[1]]))
        return samples

    # --- faults ---------------------------------------------------------------------------------

    def fault(self, kind: str, seconds: float, channel: int | None, amount: float) -> None:
        """Make it fail: a kind of nightjard.dasd.config.FAULTS, or "clear".

        Parameters
        ----------
        kind
            overrun: samples of `seconds` are lost; stall: nothing comes for that long, then all;
            unplug: it is away; garbage: values are any; stuck: `channel` keeps its value; late:
            stamps are late by `amount` seconds; clock_step: the host's clock is set ahead by
            `amount` seconds.
        seconds
            How long; 0: until cleared.
        """
        now = self._clock.monotonic_ns()
        if kind == "clear":
            with self._lock:
                self._faults.clear()
        elif kind == "clock_step":
            self.host.step(amount)
        elif kind == "overrun":
            self._lost += max(1, round(seconds * NS_PER_S / self._period_ns))
        else:
            if kind == "stuck" and (channel is None or not 0 <= channel < self._n_channels):
                raise InvalidArgument(f"stuck: channel must be 0 to {self._n_channels - 1}")
            until = now + round((seconds or 1e9) * NS_PER_S)
            with self._lock:
                self._faults[kind] = (until, channel, amount)

    def _arm(self) -> None:
        """Bring the configured faults that are due."""
        if self._opened_ns is None:
            return
        lived_s = (self._clock.monotonic_ns() - self._opened_ns) / NS_PER_S
        while self._to_come and self._to_come[0].after_s <= lived_s:
            one = self._to_come.pop(0)
            self.fault(one.kind, one.seconds, one.channel, one.amount)

    def _fault(self, kind: str) -> tuple[int, int | None, float] | None:
        with self._lock:
            found = self._faults.get(kind)
            if found is not None and self._clock.monotonic_ns() >= found[0]:
                del self._faults[kind]
                return None
        return found

    def _active(self, kind: str) -> bool:
        return self._fault(kind) is not None


def no_faults(model: str) -> Refused:
    """Return the refusal of a driver that cannot be told to fail."""
    from nightjar.errors import Code

    return Refused(f"{model} cannot be told to fail: it is no simulation", code=Code.UNSUPPORTED)
