# SPDX-License-Identifier: BSD-3-Clause
"""What must not be: slips, jumps of the encoder, motion that nobody asked for.

Motor and encoder are two witnesses of one motion. At rest their difference is taken; where it
changes by more than the belt and the play can explain, the belt has slipped, or one of them lies.
"""

from __future__ import annotations

from dataclasses import dataclass

from nightjard.rotd.axis import Axis, Reading
from nightjard.rotd.config import RotdConfig

_SLIP_READINGS = 3
_MOVE_READINGS = 2
_JUMP_DEG = 2.0
_FORGIVEN_S = 1.5  # a lost answer or two in a row is no lost device
_COASTING_S = 2.0


@dataclass(frozen=True, slots=True)
class Found:
    """What a look has found; "" for nothing.

    Attributes
    ----------
    fault
        Why the rotator must stop.
    is_position_lost
        Whether the zero points cannot be trusted any more.
    warning
        What must be told, but stops nothing.
    """

    fault: str = ""
    is_position_lost: bool = False
    warning: str = ""


class Watch:
    """Compares the witnesses from reading to reading.

    Parameters
    ----------
    config
        Limits of what is normal.
    """

    def __init__(self, config: RotdConfig) -> None:
        self._motion = config.motion
        self._difference: float | None = None
        self._rest: float | None = None
        self._last: Reading | None = None
        self._slips = self._moves = 0
        self._lost_since: float | None = None
        self._expected_until = 0.0

    def rest(self, reading: Reading, _axis: Axis) -> None:
        """Take the present reading for normal: at rest, nothing known to be wrong."""
        self._difference = reading.motor_deg - reading.position_deg
        self._rest = reading.position_deg
        self._last = reading
        self._slips = self._moves = 0

    @property
    def difference_deg(self) -> float | None:
        """Motor minus encoder when it was last at rest, both from their arbitrary zeros."""
        return self._difference

    def expect_motion(self, now_s: float) -> None:
        """Note that a motion was asked for."""
        self._expected_until = now_s + _COASTING_S

    def forgive(self, now_s: float) -> bool:
        """Tell whether a missed answer is not yet a lost device."""
        if self._lost_since is None:
            self._lost_since = now_s
        return now_s - self._lost_since < _FORGIVEN_S

    def heard(self) -> None:
        """Note that the devices answered."""
        self._lost_since = None

    def look(self, reading: Reading, axis: Axis, now_s: float, *, is_at_work: bool) -> Found:
        """Compare a reading with the one before and with the state of rest."""
        last, self._last = self._last, reading
        if last is None or self._difference is None or self._rest is None:
            self.rest(reading, axis)
            return Found()
        jump = self._jumped(last, reading)
        if jump:
            return jump
        difference = reading.motor_deg - reading.position_deg
        change = difference - self._difference
        self._slips = self._slips + 1 if abs(change) > self._motion.slip_deg else 0
        if self._slips >= _SLIP_READINGS:
            self._difference = difference
            self._slips = 0
            return Found(
                f"motor and encoder went apart by {change:+.2f} deg: the belt has slipped, the "
                "encoder is stuck, or the dewar fell", is_position_lost=True,
            )  # fmt: skip
        return Found(warning=self._moved_alone(last, reading, now_s, is_at_work))

    def _jumped(self, last: Reading, reading: Reading) -> Found | None:
        """Return a fault where the encoder tells more motion than there can have been."""
        seconds = max(1e-3, (reading.mono_ns - last.mono_ns) / 1e9)
        step = reading.position_deg - last.position_deg
        other = reading.motor_deg - last.motor_deg
        most = 2 * self._motion.speed_deg_s * seconds + _JUMP_DEG
        if abs(step) <= most or abs(step - other) <= self._motion.slip_deg:
            return None
        return Found(
            f"the encoder jumped by {step:+.2f} deg in {seconds:.2f} s: the belt has slipped, or "
            "look at its cable and gear",
            is_position_lost=True,
        )  # fmt: skip

    def _moved_alone(
        self, last: Reading, reading: Reading, now_s: float, is_at_work: bool
    ) -> str:
        """Return what to say of motion without a command."""
        if is_at_work or reading.motor.is_moving or now_s < self._expected_until:
            self._rest, self._moves = reading.position_deg, 0
            return ""
        swings = abs(reading.position_deg - last.position_deg) > self._motion.still_deg
        if swings and not reading.motor.is_powered:  # told once it hangs still
            return ""
        moved = reading.position_deg - (self._rest or 0.0)
        self._moves = self._moves + 1 if abs(moved) > self._motion.uncommanded_deg else 0
        if self._moves < _MOVE_READINGS:  # one may be a wrong answer
            return ""
        self._rest = reading.position_deg
        return f"the rotator moved by {moved:+.2f} deg without a command"
