# SPDX-License-Identifier: BSD-3-Clause
"""What a rotator is made of: a motor, an encoder on the rotator, status lines to the telescope.

Three Protocols of short calls; one thread of the model makes all of them. No call waits for a
motion: the model starts one and polls. A call takes at most its serial time-outs (below 1.5 s) and
raises DeviceLost where nobody answers: the model goes on, tells, and tries again.

Angles are the model's: a driver knows counts. Counts rise counter-clockwise as seen from above,
where its ``sign`` is 1; the configuration turns a motor or encoder that is mounted the other way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class MotorCapabilities:
    """What a motor is and can do; known once it is open.

    Attributes
    ----------
    model, firmware
        What it reports; "" where it reports nothing.
    has_home_input
        Whether it sees the homing sensor (the IR sensor that a tab occludes).
    has_limit_inputs
        Whether it tells limit hits.
    can_switch_power
        Whether the motor's supply can be switched from here.
    keeps_position
        Whether its counter survives a power cut: False makes the rotator UNHOMED after one.
    """

    model: str
    firmware: str
    has_home_input: bool
    has_limit_inputs: bool
    can_switch_power: bool
    keeps_position: bool = False


@dataclass(frozen=True, slots=True)
class MotorState:
    """A motor as it is now.

    Attributes
    ----------
    counts
        Its own encoder.
    is_moving
        A motion goes on.
    is_powered
        It has power and holds; False after a limit hit, a power cut, or ``set_power(False)``.
    is_home
        The tab occludes the homing sensor now; None where it cannot tell.
    is_limit_low, is_limit_high
        A limit switch is hit now or was since :meth:`Motor.clear` (latched); low is clockwise.
    fault
        What it complains of; "" for nothing.
    was_reset
        It was powered up since it was opened or cleared: its counter means nothing any more.
    is_answering
        False where the motor is silent and the rest is what it said last: the model sets it.
    """

    counts: int
    is_moving: bool
    is_powered: bool
    is_home: bool | None
    is_limit_low: bool
    is_limit_high: bool
    fault: str = ""
    was_reset: bool = False
    is_answering: bool = True


class Motor(Protocol):
    """The motor with its shaft encoder.

    Every call but :meth:`open` and :meth:`close` raises DeviceLost where the motor does not answer
    (code DEVICE_LOST), DeviceError where it refuses or answers what it must not; nothing is done
    again blindly: a motion whose acknowledgement was lost is looked after, not repeated.
    """

    def open(self) -> MotorCapabilities:
        """Open the port and find the motor.

        Raises
        ------
        DeviceNotFound
            Nothing there, or another program has the port; the message says which.
        """
        ...

    def close(self) -> None:
        """Stop nothing, close the port; harmless when not open."""
        ...

    def state(self) -> MotorState:
        """Read everything."""
        ...

    def move_to(self, counts: int, speed_counts_s: float, acceleration_counts_s2: float) -> None:
        """Start an absolute move; one that goes on is replaced."""
        ...

    def stop(self, deceleration_counts_s2: float) -> None:
        """Decelerate at that rate and stop; harmless when at rest."""
        ...

    def set_counts(self, counts: int) -> None:
        """Call the present position so; only at rest."""
        ...

    def set_power(self, on: bool) -> None:
        """Switch the motor's supply, or its holding current where the supply cannot be."""
        ...

    def clear(self) -> None:
        """Forget latched limits, faults and the reset; the switch that is still hit stays told."""
        ...


@dataclass(frozen=True, slots=True)
class EncoderReading:
    """One reading of the rotator's encoder.

    Attributes
    ----------
    counts
        Position; with ``is_absolute`` within one turn of the encoder, else since it was zeroed.
    utc_ns
        When it was read: half-way between question and answer.
    is_absolute
        Whether counts wrap at the encoder's turn (the model counts the turns).
    """

    counts: int
    utc_ns: int
    is_absolute: bool


class Encoder(Protocol):
    """The encoder that the rotator itself turns, through its gear."""

    def open(self) -> str:
        """Open the port and find the encoder; return what it calls itself.

        Raises
        ------
        DeviceNotFound
            Nothing there, or another program has the port.
        """
        ...

    def close(self) -> None:
        """Close the port; harmless when not open."""
        ...

    @property
    def counts_per_turn(self) -> int:
        """Counts of one turn of the encoder's shaft; known once it is open."""
        ...

    def read(self) -> EncoderReading:
        """Read the position.

        Raises
        ------
        DeviceLost
            It does not answer, or with checksums, lengths or values that cannot be.
        """
        ...


class PowerSwitch(Protocol):
    """What switches the motor's supply, where the motor itself cannot."""

    def set_power(self, on: bool) -> None:
        """Switch it.

        Raises
        ------
        DeviceError
            It does not obey.
        """
        ...


class Lines(Protocol):
    """The status lines between telescope and rotator (:class:`nightjar.das.lines.Line`)."""

    def open(self) -> None:
        """Find them.

        Raises
        ------
        DeviceNotFound
            They are not there.
        """
        ...

    def close(self) -> None:
        """Let go; harmless when not open."""
        ...

    def is_rotate(self) -> bool:
        """Tell whether the telescope asks for a rotation (line ROTATE)."""
        ...

    def is_acquired(self) -> bool | None:
        """Tell the line ACQUIRED; None where it is not connected."""
        ...

    def is_tracking(self) -> bool | None:
        """Tell the line TRACKING: low while the telescope scans; None where not connected."""
        ...

    def set_rotating(self, busy: bool) -> None:
        """Drive the line ROTATING."""
        ...
