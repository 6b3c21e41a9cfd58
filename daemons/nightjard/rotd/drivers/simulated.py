# SPDX-License-Identifier: BSD-3-Clause
"""A rotator in this process: motor and encoder of :mod:`nightjard.simulators.rotator.mechanics`."""

from __future__ import annotations

from nightjar.clock import Clock
from nightjar.errors import DeviceLost
from nightjard.rotd.drivers.base import EncoderReading, MotorCapabilities, MotorState
from nightjard.simulators.rotator.mechanics import Mechanics


class SimulatedMotor:
    """The motor of a simulated rotator."""

    def __init__(self, mechanics: Mechanics) -> None:
        self.mechanics = mechanics
        self.is_unplugged = False

    def open(self) -> MotorCapabilities:
        """Find it; see :class:`nightjard.rotd.drivers.base.Motor`."""
        self._check()
        return MotorCapabilities("simulated", "1", True, True, True)

    def close(self) -> None:
        """Nothing is to be closed."""

    def _check(self) -> None:
        if self.is_unplugged:
            raise DeviceLost("the simulated motor is unplugged")

    def state(self) -> MotorState:
        """Read everything."""
        self._check()
        it = self.mechanics
        low, high = it.limits
        return MotorState(
            counts=it.motor_counts, is_moving=it.is_moving, is_powered=it.is_answering,
            is_home=it.is_home, is_limit_low=low, is_limit_high=high, was_reset=it.was_reset,
        )  # fmt: skip

    def move_to(self, counts: int, speed_counts_s: float, acceleration_counts_s2: float) -> None:
        """Start a move."""
        self._check()
        self.mechanics.move_to(counts, speed_counts_s, acceleration_counts_s2)

    def stop(self, deceleration_counts_s2: float) -> None:
        """Stop."""
        self._check()
        self.mechanics.stop(deceleration_counts_s2)

    def set_counts(self, counts: int) -> None:
        """Call the present position so."""
        self._check()
        self.mechanics.set_motor_counts(counts)

    def set_power(self, on: bool) -> None:
        """Switch the supply."""
        self._check()
        self.mechanics.set_power(on)

    def clear(self) -> None:
        """Forget what was latched."""
        self._check()
        self.mechanics.clear()


class SimulatedEncoder:
    """The encoder of a simulated rotator."""

    def __init__(self, mechanics: Mechanics, clock: Clock) -> None:
        self._mechanics = mechanics
        self._clock = clock
        self.is_unplugged = False

    @property
    def counts_per_turn(self) -> int:
        """Counts of a turn of its shaft."""
        return self._mechanics.parameters.encoder_counts_per_turn

    def open(self) -> str:
        """Find it."""
        self.read()
        return "simulated"

    def close(self) -> None:
        """Nothing is to be closed."""

    def read(self) -> EncoderReading:
        """Read it."""
        if self.is_unplugged:
            raise DeviceLost("the simulated encoder is unplugged")
        return EncoderReading(self._mechanics.encoder_counts, self._clock.now_ns(), True)
