# SPDX-License-Identifier: BSD-3-Clause
"""What a DAS believes of the time: the clock of its computer and the crystal of its ADC.

Two clocks, both wrong: the computer's has an offset, a drift and steps, and stamps samples with
jitter; the ADC takes samples by a crystal of its own. Both are functions of true UTC.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nightjar.clock import NS_PER_S
from nightjard.simulators.observatory.noise import normal

_KEY = 21


@dataclass(frozen=True, slots=True)
class DasClock:
    """The clock of a DAS's computer and the sampling clock of its ADC.

    Attributes
    ----------
    epoch_ns
        True UTC where the offset is ``offset_s`` and the ADC took sample 0.
    offset_s
        DAS minus true UTC at the epoch.
    drift_ppm
        Rate of the computer's clock: -27 loses 27 us a second.
    jitter_s
        Rms of the stamps of samples.
    steps
        (true ns UTC, s): from then on the clock is ahead by so much more.
    rate_hz
        Nominal samples a second.
    adc_ppm
        Rate of the ADC's crystal against true time.
    seed
        Of the jitter.
    """

    epoch_ns: int
    offset_s: float = 0.8
    drift_ppm: float = -27.0
    jitter_s: float = 2e-4
    steps: tuple[tuple[int, float], ...] = ()
    rate_hz: float = 50.0
    adc_ppm: float = 3.0
    seed: int = 1

    def read(self, t_ns: ArrayLike) -> NDArray[np.int64]:
        """Return what the clock shows at true times, ns UTC; without jitter."""
        when = np.atleast_1d(np.asarray(t_ns, np.int64))
        since = (when - self.epoch_ns).astype(np.float64)
        ahead = self.offset_s * NS_PER_S + since * (self.drift_ppm * 1e-6)
        for start, step_s in self.steps:
            ahead += np.where(when >= start, step_s * NS_PER_S, 0.0)
        return when + np.rint(ahead).astype(np.int64)

    def true_of(self, das_ns: int) -> int:
        """Return a true time at which the clock shows a time; the first where a step repeats it."""
        guess = das_ns - round(self.offset_s * NS_PER_S)
        for _ in range(6):
            guess += das_ns - int(self.read(guess)[0])
        return guess

    def sample_times(self, first: int, count: int) -> NDArray[np.int64]:
        """Return true times of the first conversion of samples, ns UTC, (count,)."""
        period = NS_PER_S / self.rate_hz / (1 + self.adc_ppm * 1e-6)
        return np.asarray(
            self.epoch_ns + np.rint((first + np.arange(count)) * period).astype(np.int64)
        )

    def counter_at(self, t_ns: int) -> int:
        """Return the number of the first sample at or after a true time."""
        rate = self.rate_hz * (1 + self.adc_ppm * 1e-6) / NS_PER_S
        counter = int(np.floor((t_ns - self.epoch_ns) * rate)) - 1
        while int(self.sample_times(counter, 1)[0]) < t_ns:
            counter += 1
        return counter

    def stamps(self, first: int, count: int) -> NDArray[np.int64]:
        """Return the times that the DAS gives to samples, ns UTC by its clock, jitter included."""
        jitter = normal(first + np.arange(count), self.seed * 1000 + _KEY) * self.jitter_s
        read = self.read(self.sample_times(first, count))
        return np.asarray(read + np.rint(jitter * NS_PER_S).astype(np.int64))
