# SPDX-License-Identifier: BSD-3-Clause
"""Homing: seek the tab from either side, meet its edge slowly several times from the same side.

Work as in :mod:`nightjard.rotd.work`.
"""

from __future__ import annotations

from collections.abc import Generator

from nightjar.api.rot import RotatorState as State
from nightjar.errors import DeviceError
from nightjard.rotd.work import MOVED_DEG, START_S, Hands, Part, Work, until_rest, until_still

_EDGE_BACK_DEG = 0.8
_EDGE_SLOW_DEG = 0.2
_SPARE_EDGES = 5
_SEEN_WITHIN_DEG = 0.3  # of its edge, when it was approached quickly
_SEARCHES = 3
_MARGIN_DEG = 5.0



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
        met = yield from _edge(hands, sense, about)
        if met is None:
            if spare >= _SPARE_EDGES:
                raise DeviceError("the homing sensor is occluded beside the tab: look at both")
            about -= sense * _SEEN_WITHIN_DEG * 2**spare  # it was seen late: the edge is further
            spare += 1
            continue
        position, motor, unsure = met
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
    ways = [sense * h.clockwise_deg, -sense * h.counterclockwise_deg]
    if hands.hit * sense > 0:  # it hangs on that side: the tab is on the other
        ways.reverse()
    for way in ways:
        began = hands.reading.motor_deg
        hands.tell(f"seeking the tab over {way:+.0f} deg")
        if (yield from _seek(hands, way, h.speed_deg_s, True)):
            return
        # It was not where it has just looked.
        yield from _hurry(hands, 0.9 * (began - hands.reading.motor_deg))
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
        hands.reading.motor_deg == before and hands.now_s() - began < START_S
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
    before = hands.reading
    hands.drive_by(sense * h.clear_deg, h.speed_deg_s)
    yield from until_rest(hands, State.HOMING)
    after = hands.reading
    turned, told = after.motor_deg - before.motor_deg, after.position_deg - before.position_deg
    if abs(turned - told) > hands.config.motion.slip_deg / 2:
        raise DeviceError(
            f"the motor turned by {turned:+.2f} deg and the encoder by {told:+.2f}: look at belt "
            "and encoder"
        )
    if hands.reading.motor.is_home:
        raise DeviceError(
            "the homing sensor is occluded where the tab cannot be: its cable, or something in it"
        )


def _edge(
    hands: Hands, sense: float, about: float
) -> Generator[State, None, tuple[float, float, float] | None]:
    """Go off the tab and meet its edge slowly.

    Parameters
    ----------
    about
        Where the encoder is known to read about there.

    Returns
    -------
    tuple of float, or None
        What the encoder read there, what the motor, and how far apart the two readings of the
        encoder were between which it was met, degrees; None where the tab is still in the sensor
        on its side of approach.
    """
    h = hands.config.homing
    # Further off the tab than belt and gear have play, then near it on the side of homing.
    for back, speed in ((_EDGE_BACK_DEG, h.speed_deg_s), (_EDGE_SLOW_DEG, h.approach_speed_deg_s)):
        hands.drive_by(about - sense * back - hands.reading.position_deg, speed)
        yield from until_rest(hands, State.HOMING)
        if hands.reading.motor.is_home:
            return None
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
        has_begun = abs(hands.reading.motor_deg - before) > 0 or hands.now_s() - began > START_S
        if not state.is_moving and has_begun:
            if abs(hands.reading.motor_deg - before) < MOVED_DEG:
                raise DeviceError("the motor does not turn: look at its power and its faults")
            return False
        yield State.HOMING
