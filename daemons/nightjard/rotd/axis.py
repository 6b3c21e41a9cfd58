# SPDX-License-Identifier: BSD-3-Clause
"""Motor and encoder as one axis: from counts to degrees, turns, zero points, plausibility.

The encoder turns 512 / 64 = 8 times for a turn of the rotator: 45 degrees of it look alike. Turns
are counted from reading to reading; where readings were missed, the motor's encoder, which needs to
be right within half a turn only, tells which turn it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from nightjar.clock import NS_PER_S, Clock
from nightjar.errors import DeviceError, NightjarError
from nightjard.rotd.config import Geometry
from nightjard.rotd.drivers.base import (
    Encoder,
    EncoderReading,
    Motor,
    MotorCapabilities,
    MotorState,
)

_RESTORE_DEG = 0.5  # the plays of belt and gear together, and a little
_REOPEN_NS = 2 * NS_PER_S
_DOUBTS = 4
_SAME_DEG = 0.01
_ODD_DEG = 3.0  # more than the motor turns between two readings: a garbled answer?
_LAG_DEG = 0.7  # belt, plays, and the time between the readings of motor and encoder


@dataclass(frozen=True, slots=True)
class Reading:
    """Both encoders at a time.

    Attributes
    ----------
    utc_ns, mono_ns
        Of the encoder's reading.
    position_deg
        By the encoder from an arbitrary zero; counter-clockwise is positive.
    motor_deg
        By the motor from an arbitrary zero.
    counts
        The encoder's reading.
    motor
        The motor's state.
    """

    utc_ns: int
    mono_ns: int
    position_deg: float
    motor_deg: float
    counts: int
    motor: MotorState


@dataclass(slots=True)
class Zero:
    """Where home is.

    Attributes
    ----------
    position_deg, motor_deg
        What both read there (:class:`Reading`).
    """

    position_deg: float
    motor_deg: float


def _flags(state: MotorState) -> MotorState:
    """Return what a doubt is about."""
    return replace(state, counts=0, is_home=None, is_answering=True)


class Axis:
    """The axis; one thread uses it.

    Parameters
    ----------
    motor, encoder
        Drivers.
    geometry
        Gears and signs.
    clock
        Source of time stamps.

    Attributes
    ----------
    zero
        None where it is not known.
    """

    def __init__(self, motor: Motor, encoder: Encoder, geometry: Geometry, clock: Clock) -> None:
        self.motor, self.encoder = motor, encoder
        self._geometry = geometry
        self._clock = clock
        self._turns = 0
        self._last_counts: int | None = None
        self._last_motor_deg = 0.0
        self._last_motor: MotorState | None = None
        self._silent_since_ns: int | None = None
        self._next_open_ns = 0
        self._is_motor_shut = False
        self.motor_trouble = ""
        self.zero: Zero | None = None

    # --- opening ---

    def open_motor(self) -> MotorCapabilities:
        """Open the motor; return what it is.

        Raises
        ------
        DeviceNotFound, DeviceError
            It is not there.
        """
        self._last_motor, self._silent_since_ns, self.motor_trouble = None, None, ""
        self._is_motor_shut = False
        return self.motor.open()

    def close(self) -> None:
        """Close both."""
        self.motor.close()
        self.encoder.close()

    # --- reading ---

    @property
    def turn_deg(self) -> float:
        """Degrees of the rotator in which the encoder turns once."""
        return 360.0 * self._geometry.small_teeth / self._geometry.large_teeth

    @property
    def count_deg(self) -> float:
        """Degrees of a count of the encoder."""
        return self.turn_deg / self.encoder.counts_per_turn

    def read(self) -> Reading:
        """Read both. A motor that is silent is told by its state: the encoder is read all the same.

        Raises
        ------
        DeviceError
            The encoder does not answer as it must; or the motor, which never has since the opening.
        """
        state = self._motor_state()
        motor_deg = self._motor_deg(state.counts)
        found = self._encoder_reading(motor_deg)
        if found.is_absolute and self._last_counts is not None:
            step = self._step(found.counts, self._last_counts)
            self._turns += (
                self._last_counts + step - found.counts
            ) // self.encoder.counts_per_turn
        self._last_counts, self._last_motor_deg = found.counts, motor_deg
        return Reading(
            found.utc_ns, self._clock.monotonic_ns(), self._position(found.counts, self._turns),
            motor_deg, found.counts, state,
        )  # fmt: skip

    def _motor_state(self) -> MotorState:
        now_ns = self._clock.monotonic_ns()
        is_time = self._silent_since_ns is not None and now_ns >= self._next_open_ns
        try:
            if is_time:
                self._next_open_ns = now_ns + _REOPEN_NS
                self._is_motor_shut = True
                self.motor.open()
                self._is_motor_shut = False
            if not self._is_motor_shut:
                state = self._sure_state()
                self._silent_since_ns, self.motor_trouble = None, ""
                self._last_motor = state
                return state
        except NightjarError as error:
            if self._last_motor is None:
                raise
            if self._silent_since_ns is None:
                self._silent_since_ns, self._next_open_ns = now_ns, now_ns + _REOPEN_NS
            self.motor_trouble = error.message
        assert self._last_motor is not None
        return replace(
            self._last_motor, is_moving=False, is_powered=False, is_answering=False
        )

    def _sure_state(self) -> MotorState:
        """Read the motor; news that means something is believed when it is told twice.

        A digit may be changed on its way without anybody noticing: it must not look like a power
        cut or the end of a motion. The homing sensor is believed at once: a tab is passed quickly,
        and homing makes sure of it by itself.
        """
        seen: list[MotorState] = [] if self._last_motor is None else [self._last_motor]
        for _ in range(_DOUBTS):
            state = self.motor.state()
            if not seen or any(self._is_like(state, one) for one in seen):
                return state
            seen.append(state)
        raise DeviceError("the motor tells something else each time that it is asked")

    def _is_like(self, one: MotorState, other: MotorState) -> bool:
        """Tell whether two states differ by no more than a motion that goes on."""
        apart = abs(one.counts - other.counts) / self._geometry.motor_counts_per_deg
        return apart <= _ODD_DEG and _flags(one) == _flags(other)

    @property
    def motor_silent_s(self) -> float:
        """For how long the motor has not answered."""
        if self._silent_since_ns is None:
            return 0.0
        return (self._clock.monotonic_ns() - self._silent_since_ns) / NS_PER_S

    def _encoder_reading(self, motor_deg: float) -> EncoderReading:
        """Read the encoder; what the motor does not bear out is believed when it is told twice.

        Parameters
        ----------
        motor_deg
            By the motor, just now.

        Raises
        ------
        DeviceError
            It tells something else each time.
        """
        seen: list[int] = []
        for _ in range(_DOUBTS):
            found = self.encoder.read()
            if self._last_counts is None or not found.is_absolute:
                return found
            turned = self._geometry.encoder_sign * self._step(found.counts, self._last_counts)
            if abs(turned * self.count_deg - (motor_deg - self._last_motor_deg)) <= _LAG_DEG:
                return found
            if any(abs(self._step(found.counts, one)) * self.count_deg <= _LAG_DEG for one in seen):
                return found
            seen.append(found.counts)
        raise DeviceError("the encoder tells something else each time that it is asked")

    def _step(self, counts: int, before: int) -> int:
        """Return the way from one reading to another, the shorter one."""
        per_turn = self.encoder.counts_per_turn
        return (counts - before + per_turn // 2) % per_turn - per_turn // 2

    def _position(self, counts: int, turns: int) -> float:
        per_turn = self.encoder.counts_per_turn
        return self._geometry.encoder_sign * (turns + counts / per_turn) * self.turn_deg

    def _motor_deg(self, counts: int) -> float:
        return self._geometry.motor_sign * counts / self._geometry.motor_counts_per_deg

    def miss_turns(self) -> None:
        """Forget which turn it is: readings were missed."""
        self._last_counts = None

    # --- angles ---

    def angle_deg(self, reading: Reading) -> float | None:
        """Return the angle by the encoder; None without a zero point."""
        if self.zero is None:
            return None
        return reading.position_deg - self.zero.position_deg + self._geometry.home_angle_deg

    def motor_angle_deg(self, reading: Reading) -> float | None:
        """Return the angle by the motor; None without a zero point."""
        if self.zero is None:
            return None
        return reading.motor_deg - self.zero.motor_deg + self._geometry.home_angle_deg

    def set_zero(self, position_deg: float, motor_deg: float) -> None:
        """Say where home is."""
        self.zero = Zero(position_deg, motor_deg)

    # --- memory ---

    def memory(self, reading: Reading, difference_deg: float | None) -> dict[str, Any]:
        """Return what :meth:`recall` needs after a restart, as plain JSON values.

        Parameters
        ----------
        reading
            The newest.
        difference_deg
            Motor minus encoder at rest: in motion it is also how fast and how far apart in time
            they were read. None where it is not known.
        """
        zero = self.zero
        ahead = None
        if zero is not None and difference_deg is not None:
            ahead = difference_deg - (zero.motor_deg - zero.position_deg)
        return {
            "utc_ns": reading.utc_ns, "counts": reading.counts,
            "motor_counts": reading.motor.counts, "angle_deg": self.angle_deg(reading),
            "ahead_deg": ahead,
            "zero_counts": None if zero is None else self._counts_of(zero.position_deg),
            "zero_motor_deg": None if zero is None else zero.motor_deg,
        }  # fmt: skip

    def _counts_of(self, position_deg: float) -> float:
        per_turn = self.encoder.counts_per_turn
        return self._geometry.encoder_sign * position_deg / self.turn_deg * per_turn

    def recall(self, memory: dict[str, Any], reading: Reading) -> str:
        """Take the zero points of an earlier life, if both encoders bear them out.

        Returns
        -------
        str
            Why not; "" where the zero points hold again. The zero point is set in any case, as the
            best guess there is, where the memory has one.
        """
        if memory.get("zero_counts") is None or memory.get("zero_motor_deg") is None:
            return "it was not homed before"
        if reading.motor.was_reset:
            guess = memory.get("angle_deg")
            self._resolve_turn(memory, reading, guess)
            return "the motor was without power since it was homed"
        motor_angle = (
            reading.motor_deg - memory["zero_motor_deg"] + self._geometry.home_angle_deg
        )
        self._resolve_turn(memory, reading, motor_angle)
        angle = self.angle_deg(reading)
        offset = memory.get("ahead_deg") or 0.0
        if angle is None or abs(motor_angle - angle - offset) > _RESTORE_DEG:
            return (
                f"motor and encoder disagree by {motor_angle - (angle or 0.0) - offset:+.2f} deg "
                "since the daemon's last life"
            )
        return ""

    def _resolve_turn(self, memory: dict[str, Any], reading: Reading, about: float | None) -> None:
        """Set the zero point such that the angle is the one nearest to a rough angle."""
        zero = self._position(0, 0) + self._position_of_counts(memory["zero_counts"])
        angle = reading.position_deg - zero + self._geometry.home_angle_deg
        turns = round(((about or 0.0) - angle) / self.turn_deg)
        self.set_zero(zero - turns * self.turn_deg, memory["zero_motor_deg"])

    def _position_of_counts(self, counts: float) -> float:
        per_turn = self.encoder.counts_per_turn
        return self._geometry.encoder_sign * counts / per_turn * self.turn_deg

    # --- moving ---

    def drive_by(
        self, reading: Reading, degrees: float, speed_deg_s: float, acceleration_deg_s2: float
    ) -> None:
        """Start a move by an angle from where the motor is."""
        per_deg = self._geometry.motor_counts_per_deg
        counts = reading.motor.counts
        for _ in range(_DOUBTS):  # one wrong digit would be a wrong target
            state = self.motor.state()
            if state.is_moving or abs(state.counts - counts) <= _SAME_DEG * per_deg:
                break
            counts = state.counts
        target = counts + round(self._geometry.motor_sign * degrees * per_deg)
        self.motor.move_to(target, speed_deg_s * per_deg, acceleration_deg_s2 * per_deg)

    def stop(self, deceleration_deg_s2: float) -> None:
        """Decelerate and stop the motor."""
        self.motor.stop(deceleration_deg_s2 * self._geometry.motor_counts_per_deg)

    def age_s(self, reading: Reading) -> float:
        """Return how old a reading is."""
        return (self._clock.monotonic_ns() - reading.mono_ns) / NS_PER_S
