# SPDX-License-Identifier: BSD-3-Clause
"""The simulated detector's filter wheel."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nightjar.clock import Clock
    from nightjard.camd.drivers.options import SimulatedOptions


class FilterWheel:
    """Filters on a ring; moving takes time in proportion to the way."""

    def __init__(self, options: SimulatedOptions, clock: Clock) -> None:
        self._names = options.filters
        self._step_ns = round(options.filter_time / options.speed * 1e9)
        self._clock = clock
        self._place = 0
        self._arrives_ns = clock.monotonic_ns()

    def name(self) -> str | None:
        """Return the filter in the beam; None without a wheel or while it moves."""
        if not self._names or self._clock.monotonic_ns() < self._arrives_ns:
            return None
        return self._names[self._place]

    def move(self, name: str) -> None:
        """Start moving, the shorter way round."""
        target = self._names.index(name)
        way = abs(target - self._place)
        steps = min(way, len(self._names) - way)
        self._place = target
        self._arrives_ns = self._clock.monotonic_ns() + steps * self._step_ns
