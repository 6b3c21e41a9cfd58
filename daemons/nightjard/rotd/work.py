# SPDX-License-Identifier: BSD-3-Clause
"""What the rotator does that takes longer than a tick: moves, reset, the sweep; homing is another.

Each is a generator that the model advances once a tick, after a new reading: it looks, gives orders
and yields the state that it is in; what it returns is the result of the operation. It ends by an
exception where it fails; the model has then already been told what to do about the motor: stop it.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Protocol

from nightjar.api.rot import RotatorState as State
from nightjar.errors import DeviceError, TimedOut
from nightjard.rotd.axis import Reading
from nightjard.rotd.config import RotdConfig

Work = Generator[State, None, dict[str, Any]]
Part = Generator[State, None, None]
START_S = 2.0  # a motion must have begun by then
MOVED_DEG = 0.05
_STILL_READINGS = 3
_COARSE_TRIES = 2
_REENTRIES = 2
_TAUT = 2


class Hands(Protocol):
    """What work may do with the rotator."""

    config: RotdConfig

    @property
    def reading(self) -> Reading:
        """The newest reading."""
        ...

    @property
    def angle(self) -> float:
        """The newest angle; work that needs one begins only where it is known."""
        ...

    @property
    def estimate(self) -> float | None:
        """The angle as far as it is known without a valid zero point; None for not at all."""
        ...

    @property
    def hit(self) -> float:
        """Which switch was hit since it was homed: negative for the lower, 0 for none."""
        ...

    @property
    def can_switch_power(self) -> bool:
        """Whether the motor's power can be switched from here."""
        ...

    def now_s(self) -> float:
        """Return the monotonic time."""
        ...

    def drive_by(self, degrees: float, speed_deg_s: float) -> None:
        """Start a motion by an angle."""
        ...

    def halt(self) -> None:
        """Stop the motor."""
        ...

    def tell(self, message: str, fraction: float | None = None) -> None:
        """Report progress."""
        ...

    def set_home(self, position_deg: float, motor_deg: float, spread_deg: float) -> None:
        """Say where home is: the zero points hold from now on."""
        ...

    def switch_power(self, on: bool) -> None:
        """Switch the motor's power."""
        ...

    def clear(self) -> None:
        """Forget faults and limits, ours and the motor's."""
        ...


# --- parts ---------------------------------------------------------------------------------------


def until_rest(hands: Hands, state: State) -> Part:
    """Wait until the motor has done its way and the encoder tells the same a few times.

    Raises
    ------
    DeviceError
        The motor was told to go and does not.
    """
    began, before = hands.now_s(), hands.reading.motor_deg
    yield state
    while not hands.reading.motor.is_moving:
        # Small moves are over before the next look; large ones must be seen.
        if abs(hands.reading.motor_deg - before) > 0 or hands.now_s() - began > START_S:
            break
        yield state
    while hands.reading.motor.is_moving:
        yield state
    yield from until_still(hands)


def until_still(hands: Hands) -> Part:
    """Wait until readings that follow each other are the same."""
    still = hands.config.motion.still_deg
    last: list[float] = []
    while True:
        yield State.SETTLE
        last = [*last, hands.reading.position_deg][-_STILL_READINGS:]
        if len(last) == _STILL_READINGS and max(last) - min(last) <= still:
            return


def coarse(hands: Hands, angle: float) -> Part:
    """Go near an angle.

    Raises
    ------
    DeviceError
        It did not get there: the motor does not turn, or does not turn the rotator.
    """
    for _ in range(_COARSE_TRIES):  # the angle that it began with may have been a wrong answer
        way = angle - hands.angle
        began = hands.reading
        hands.drive_by(way, hands.config.motion.speed_deg_s)
        yield from until_rest(hands, State.COARSE)
        missed = angle - hands.angle
        if abs(missed) <= max(1.0, hands.config.motion.slip_deg):
            return
        turned = hands.reading.motor_deg - began.motor_deg
        told = (
            f"a move by {way:+.2f} deg ended {missed:+.2f} deg before its end (the motor turned by "
            f"{turned:+.2f}): look at motor and belt"
        )
        if abs(turned - way) > MOVED_DEG:
            break
    raise DeviceError(told)


# --- moves ---------------------------------------------------------------------------------------


def move(hands: Hands, target: float) -> Work:
    """Go to an angle; the final approach is always in the direction of homing.

    Raises
    ------
    DeviceError
        It does not arrive within the tolerance.
    """
    m = hands.config.motion
    sense = -1.0 if hands.config.geometry.approach == "cw" else 1.0
    began, start = hands.now_s(), hands.angle
    corrections = entries = 0
    hands.tell(f"{start:.2f} -> {target:.2f} deg", 0.0)
    while True:
        if (target - hands.angle) * sense < m.short_deg:
            yield from coarse(hands, target - sense * m.pass_by_deg)
        if (target - hands.angle) * sense > 2 * m.short_deg:
            yield from coarse(hands, target - sense * m.short_deg)
        has_followed = True
        for _ in range(m.corrections):
            error = target - hands.angle
            if abs(error) <= m.tolerance_deg / 2 or error * sense <= 0:
                break
            corrections += 1
            hands.tell(f"{error:+.3f} deg to go", 0.9)
            # The last part at once: nine tenths of very little are lost in the belt.
            part = error if abs(error) < 2 * m.tolerance_deg else 0.9 * error
            before = hands.reading
            hands.drive_by(part, m.fine_speed_deg_s)
            yield from until_rest(hands, State.FINE)
            turned = hands.reading.motor_deg - before.motor_deg
            told = hands.reading.position_deg - before.position_deg
            # Belt and gear are taut by now: an encoder that lags behind is about to get stuck.
            has_followed = abs(turned - told) <= _TAUT * m.tolerance_deg
            if not has_followed:
                break
        error = target - hands.angle
        if has_followed and abs(error) <= m.tolerance_deg:
            return {
                "from_deg": start, "to_deg": target, "error_deg": error,
                "seconds": hands.now_s() - began, "corrections": corrections,
            }  # fmt: skip
        entries += 1
        if entries > _REENTRIES:
            raise DeviceError(
                f"at {hands.angle:.3f} deg after {corrections} corrections, {error:+.3f} deg from "
                f"the target; {m.tolerance_deg:g} are allowed: look at belt and encoder"
            )


# --- reset, sweep --------------------------------------------------------------------------------


def reset(hands: Hands) -> Work:
    """Take the motor's power away and give it back; forget what was latched.

    Raises
    ------
    DeviceError
        The motor does not come up, or a limit switch is still hit.
    """
    began = hands.now_s()
    if hands.can_switch_power:
        hands.tell("motor power off", 0.0)
        hands.switch_power(False)
        yield from _pause(hands, 2.2)
        hands.tell("motor power on", 0.5)
        hands.switch_power(True)
        yield from _pause(hands, 1.2)
    else:
        hands.tell("switch the motor's power off and on by hand now", 0.0)
        while hands.reading.motor.is_answering and not hands.reading.motor.was_reset:
            yield State.UNPOWERED
    waiting = hands.now_s()
    while not (hands.reading.motor.is_powered and hands.reading.motor.is_answering):
        if hands.can_switch_power and hands.now_s() - waiting > 10:
            raise DeviceError("the motor does not come up after its power was switched on")
        yield State.UNPOWERED
    hands.clear()
    yield State.UNHOMED
    yield State.UNHOMED
    motor = hands.reading.motor
    if motor.is_limit_low or motor.is_limit_high:
        end = "clockwise" if motor.is_limit_low else "counter-clockwise"
        raise DeviceError(
            f"the {end} limit switch is still hit: turn the dewar off it by hand, then reset again"
        )
    return {"seconds": hands.now_s() - began}


def _pause(hands: Hands, seconds: float) -> Part:
    end = hands.now_s() + seconds
    while hands.now_s() < end:
        yield State.UNPOWERED


def sweep(hands: Hands, low: float, high: float, step: float) -> Work:
    """Go up and down in steps; compare motor and encoder at each.

    The result has, per stop, both angles on the way up and on the way down; their difference
    between the two ways is the play of belt and gear together.
    """
    count = max(2, int((high - low) / step) + 1)
    stops = [low + (high - low) * index / (count - 1) for index in range(count)]
    yield from coarse(hands, low)
    zero = hands.reading.motor_deg - hands.angle
    found: dict[str, list[tuple[float, float]]] = {"up": [], "down": []}
    for number, (way, angle) in enumerate(
        [("up", angle) for angle in stops] + [("down", angle) for angle in reversed(stops)]
    ):
        hands.tell(f"{way}: {angle:.1f} deg", number / (2 * count))
        # By the motor: what the encoder says of it is what is measured.
        hands.drive_by(angle + zero - hands.reading.motor_deg, hands.config.motion.speed_deg_s)
        yield from until_rest(hands, State.COARSE)
        found[way].append((hands.reading.motor_deg - zero, hands.angle))
    return _swept(found["up"], found["down"][::-1])


def _swept(up: list[tuple[float, float]], down: list[tuple[float, float]]) -> dict[str, Any]:
    rows = [
        {
            "motor_deg": motor, "up_deg": there, "down_deg": back,
            "play_deg": (back - back_motor) - (there - motor),
        }
        for (motor, there), (back_motor, back) in zip(up, down, strict=True)
    ]  # fmt: skip
    plays = [row["play_deg"] for row in rows[1:-1]] or [row["play_deg"] for row in rows]
    up = up[1:] if len(up) > 3 else up  # the first was reached downwards: it has the play in it
    motors = [motor for motor, _ in up]
    mean_m, mean_a = sum(motors) / len(up), sum(angle for _, angle in up) / len(up)
    spread = sum((motor - mean_m) ** 2 for motor in motors)
    scale = sum((motor - mean_m) * (angle - mean_a) for motor, angle in up) / spread
    residuals = [angle - mean_a - scale * (motor - mean_m) for motor, angle in up]
    return {
        "rows": rows, "play_deg": sum(plays) / len(plays), "scale": scale,
        "rms_deg": (sum(value**2 for value in residuals) / len(residuals)) ** 0.5,
    }  # fmt: skip


def limited(work: Work, hands: Hands, seconds: float, what: str) -> Work:
    """Give work a deadline.

    Raises
    ------
    TimedOut
        It has not ended by then.
    """
    end = hands.now_s() + seconds
    while True:
        try:
            state = next(work)
        except StopIteration as stop:
            result: dict[str, Any] = stop.value
            return result
        if hands.now_s() > end:
            work.close()
            raise TimedOut(f"{what} has not ended after {seconds:g} s; the motor was stopped")
        yield state
