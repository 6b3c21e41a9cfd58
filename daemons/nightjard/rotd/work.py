# SPDX-License-Identifier: BSD-3-Clause
"""What the rotator does that takes longer than a tick: moves, homing, reset, the sweep.

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
_START_S = 2.0  # a motion must have begun by then
_MOVED_DEG = 0.05
_STILL_READINGS = 3
_EDGE_BACK_DEG = 0.8
_EDGE_SLOW_DEG = 0.2
_SPARE_EDGES = 5
_SEEN_WITHIN_DEG = 0.3  # of its edge, when it was approached quickly
_SEARCHES = 3
_COARSE_TRIES = 2
_REENTRIES = 2
_MARGIN_DEG = 5.0


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
        if abs(hands.reading.motor_deg - before) > 0 or hands.now_s() - began > _START_S:
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
        if abs(turned - way) > _MOVED_DEG:
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
        for _ in range(m.corrections):
            error = target - hands.angle
            if abs(error) <= m.tolerance_deg / 2 or error * sense <= 0:
                break
            corrections += 1
            hands.tell(f"{error:+.3f} deg to go", 0.9)
            # The last part at once: nine tenths of very little are lost in the belt.
            part = error if abs(error) < 2 * m.tolerance_deg else 0.9 * error
            hands.drive_by(part, m.fine_speed_deg_s)
            yield from until_rest(hands, State.FINE)
        error = target - hands.angle
        if abs(error) <= m.tolerance_deg:
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


# --- homing --------------------------------------------------------------------------------------


def home(hands: Hands) -> Work:
    """Seek the tab, take its edge for the zero point, prove it by further approaches.

    Raises
    ------
    DeviceError
        The tab was not found, or the approaches do not agree.
    """
    h = hands.config.homing
    sense = -1.0 if hands.config.geometry.approach == "cw" else 1.0
    began = hands.now_s()
    hands.tell("seeking the tab", 0.0)
    for _ in range(_SEARCHES):  # what looked like the tab may have been a wrong answer
        yield from _find_tab(hands, sense)
        yield from _leave_tab(hands, -sense)
        way = sense * (h.clear_deg + _MARGIN_DEG)
        if (yield from _seek(hands, way, h.approach_speed_deg_s, True)):
            break
    else:
        raise DeviceError("the homing tab was there and is not found again: look at tab and sensor")
    edges: list[tuple[float, float]] = []
    number = spare = 0
    about = hands.reading.position_deg - sense * _SEEN_WITHIN_DEG
    while len(edges) <= h.proofs:
        hands.tell(f"approach {number + 1} of {h.proofs + 1}", 0.3 + 0.7 * number / (h.proofs + 1))
        position, motor, unsure = yield from _edge(hands, sense, about)
        is_sure = unsure <= h.spread_deg and hands.reading.motor.is_home
        if not is_sure and spare < _SPARE_EDGES:
            spare += 1  # an answer was late just then, or wrong
            continue
        number, about = number + 1, position
        edges.append((position, motor))
    positions = [position for position, _ in edges]
    spread = max(positions) - min(positions)
    if spread > h.spread_deg:
        told = ", ".join(f"{p - positions[0]:+.3f}" for p in positions)
        raise DeviceError(
            f"{len(edges)} approaches to the homing tab differ by {spread:.3f} deg ({told}); "
            f"{h.spread_deg:g} are allowed: look at tab, sensor and belt"
        )
    hands.set_home(
        sum(positions) / len(positions), sum(motor for _, motor in edges) / len(edges), spread
    )
    yield State.HOMING
    return {
        "spread_deg": spread, "approaches": len(edges), "seconds": hands.now_s() - began,
        "angle_deg": hands.angle,
    }  # fmt: skip


def _find_tab(hands: Hands, sense: float) -> Part:
    """Get onto the tab from wherever the rotator is."""
    h = hands.config.homing
    if hands.reading.motor.is_home:
        return
    guess = hands.estimate
    if guess is not None:
        # Where it is is known well enough not to run into the switch of the wrong end.
        way = hands.config.geometry.home_angle_deg - guess
        far = abs(way) - _MARGIN_DEG
        if far > _MARGIN_DEG:
            hands.tell(f"going near the tab, {way:+.0f} deg from here")
            yield from _hurry(hands, far if way > 0 else -far)
        hands.tell("seeking the tab where it was before")
        rest = min(abs(way), _MARGIN_DEG) + _MARGIN_DEG
        if (yield from _seek(hands, rest if way > 0 else -rest, h.speed_deg_s, True)):
            return
    began = hands.reading.motor_deg
    hands.tell(f"seeking the tab over {sense * h.clockwise_deg:+.0f} deg")
    if (yield from _seek(hands, sense * h.clockwise_deg, h.speed_deg_s, True)):
        return
    # It was not where it has just looked.
    yield from _hurry(hands, 0.9 * (began - hands.reading.motor_deg))
    hands.tell(f"seeking the tab over {-sense * h.counterclockwise_deg:+.0f} deg")
    if (yield from _seek(hands, -sense * h.counterclockwise_deg, h.speed_deg_s, True)):
        return
    raise DeviceError(
        f"the homing tab was not found within {sense * h.clockwise_deg:+.0f} and "
        f"{-sense * h.counterclockwise_deg:+.0f} deg: look at tab and sensor"
    )


def _hurry(hands: Hands, way: float) -> Part:
    """Go fast where the tab is not; stop on it where it is."""
    hands.drive_by(way, hands.config.motion.speed_deg_s)
    began, before = hands.now_s(), hands.reading.motor_deg
    yield State.HOMING
    while hands.reading.motor.is_moving or (
        hands.reading.motor_deg == before and hands.now_s() - began < _START_S
    ):
        if hands.reading.motor.is_home:
            hands.halt()
        yield State.HOMING
    yield from until_still(hands)


def _leave_tab(hands: Hands, sense: float) -> Part:
    """Go off the tab to the side from which it is approached, and a little further."""
    h = hands.config.homing
    if hands.reading.motor.is_home:
        left = yield from _seek(hands, sense * h.counterclockwise_deg, h.speed_deg_s, False)
        if not left:
            raise DeviceError(
                f"the homing sensor is still occluded after {h.counterclockwise_deg:g} deg: look "
                "at it"
            )
    hands.drive_by(sense * h.clear_deg, h.speed_deg_s)
    yield from until_rest(hands, State.HOMING)
    if hands.reading.motor.is_home:
        raise DeviceError(
            "the homing sensor is occluded where the tab cannot be: its cable, or something in it"
        )


def _edge(
    hands: Hands, sense: float, about: float
) -> Generator[State, None, tuple[float, float, float]]:
    """Go off the tab and meet its edge slowly.

    Parameters
    ----------
    about
        Where the encoder is known to read about there.

    Returns
    -------
    tuple of float
        What the encoder read there, what the motor, and how far apart the two readings of the
        encoder were between which it was met, degrees.
    """
    h = hands.config.homing
    # Further off the tab than belt and gear have play, then near it on the side of homing.
    yield from _until_off(hands, about - sense * _EDGE_BACK_DEG, h.speed_deg_s)
    yield from _until_off(hands, about - sense * _EDGE_SLOW_DEG, h.approach_speed_deg_s)
    hands.drive_by(sense * 3 * h.clear_deg, h.edge_speed_deg_s)
    before = hands.reading
    yield State.HOMING
    while not hands.reading.motor.is_home:
        if not hands.reading.motor.is_moving and hands.reading.motor_deg == before.motor_deg:
            raise DeviceError("the homing tab is not found again: look at tab and sensor")
        before = hands.reading
        yield State.HOMING
    after = hands.reading
    hands.halt()
    yield from until_rest(hands, State.HOMING)
    return (
        (before.position_deg + after.position_deg) / 2, (before.motor_deg + after.motor_deg) / 2,
        abs(after.position_deg - before.position_deg),
    )  # fmt: skip


def _until_off(hands: Hands, position: float, speed: float) -> Part:
    """Go to a reading of the encoder where the sensor must be free."""
    hands.drive_by(position - hands.reading.position_deg, speed)
    yield from until_rest(hands, State.HOMING)
    if hands.reading.motor.is_home:
        raise DeviceError("the homing sensor is occluded beside the tab: look at tab and sensor")


def _seek(
    hands: Hands, way: float, speed: float, occluded: bool
) -> Generator[State, None, bool]:
    """Move until the sensor tells what is wanted; return whether it did."""
    hands.drive_by(way, speed)
    began, before = hands.now_s(), hands.reading.motor_deg
    yield State.HOMING
    while True:
        state = hands.reading.motor
        if state.is_home is occluded:
            hands.halt()
            yield from until_rest(hands, State.HOMING)
            return True
        has_begun = abs(hands.reading.motor_deg - before) > 0 or hands.now_s() - began > _START_S
        if not state.is_moving and has_begun:
            if abs(hands.reading.motor_deg - before) < _MOVED_DEG:
                raise DeviceError("the motor does not turn: look at its power and its faults")
            return False
        yield State.HOMING


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
