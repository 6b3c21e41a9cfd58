# SPDX-License-Identifier: BSD-3-Clause
"""The mechanics of a belt-driven rotator: motor, belt, load, geared encoder, tab, switches.

The motor's shaft follows trapezoids of speed exactly. The load follows the shaft through the dead
band of the belt and lags while it accelerates; the encoder follows the load through the play of its
gear. A limit switch cuts the motor's power: the load then swings towards where it hangs. Everything
is a function of the times at which it is asked; between two questions the motion is followed in
parts in which nothing turns round, so that the dead bands come out exactly at any pace.

Angles are degrees of the load, counter-clockwise from above, 0 where the edge of the tab is met
clockwise. Only validators may look at :attr:`Mechanics.load_deg`: devices have counts.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass

from nightjar.clock import NS_PER_S, Clock

_STEP_S = 0.02  # longest part that is followed at once while something moves
_NO_LAG_DEG = 1e-4
_HANG_DEG = -66.0
_HANG_TIME_S = 1.0
_HANG_SPEED_DEG_S = 3.0


@dataclass
class Parameters:
    """What a rotator is like.

    Attributes
    ----------
    motor_counts_per_deg
        Motor encoder counts per degree of the load.
    encoder_counts_per_turn, gear
        Of the rotator's encoder; its turns per turn of the load (512 : 64 teeth).
    belt_play_deg, stiction_deg, stretch_s2, stretch_time_s
        Dead band between shaft and load, half the further difference before it moves, lag per
        acceleration and how long the belt takes to get there.
    encoder_play_deg
        Dead band of the encoder's gear.
    tab_width_deg, tab_hysteresis_deg
        Of the homing tab and the sensor; a wide one is a vane.
    limit_low_deg, limit_high_deg
        Where the switches are.
    boot_s
        How long the motor is deaf after its power came.
    start_deg
        Where the load is at first.
    encoder_zero_counts
        What the encoder tells at load angle 0.
    """

    motor_counts_per_deg: float = 1000.0
    encoder_counts_per_turn: int = 4096
    gear: float = 8.0
    belt_play_deg: float = 0.15
    stiction_deg: float = 0.02
    stretch_s2: float = 0.05 / 5.0
    stretch_time_s: float = 0.1
    encoder_play_deg: float = 0.1
    tab_width_deg: float = 0.3
    tab_hysteresis_deg: float = 0.05
    limit_low_deg: float = -75.0
    limit_high_deg: float = 26.0
    boot_s: float = 0.5
    start_deg: float = 7.0
    encoder_zero_counts: int = 1234


class _Profile:
    """A trapezoid of speed from a state of motion to rest; a function of the time since it began.

    A motor that moves the other way, or too fast to stop in time, first comes to rest.
    """

    def __init__(
        self, position: float, velocity: float, target: float, speed: float, acceleration: float
    ) -> None:
        self._parts: list[tuple[float, float, float, float]] = []  # duration, position, v, a
        at, v = position, velocity
        brake = v * v / (2 * acceleration)
        way = target - at
        if v and (way * v < 0 or abs(way) < brake - 1e-12):
            at, v = self._add(at, v, -math.copysign(acceleration, v), abs(v) / acceleration), 0.0
            way = target - at
        if not way:
            return
        sense = math.copysign(1.0, way)
        v0 = abs(v)
        speed = max(speed, 1e-9)
        if v0 > speed:  # slower from now on
            lost = (v0 - speed) / acceleration
            at = self._add(at, v, -sense * acceleration, lost)
            v0 = speed
        peak = min(speed, math.sqrt(acceleration * abs(target - at) + v0 * v0 / 2))
        up = (peak - v0) / acceleration
        at = self._add(at, sense * v0, sense * acceleration, up)
        flat = max(0.0, abs(target - at) - peak * peak / (2 * acceleration)) / peak
        at = self._add(at, sense * peak, 0.0, flat)
        self._add(at, sense * peak, -sense * acceleration, peak / acceleration)

    @classmethod
    def braking(cls, position: float, velocity: float, deceleration: float) -> _Profile:
        """Return the way to rest."""
        distance = velocity * abs(velocity) / (2 * deceleration)
        return cls(position, velocity, position + distance, abs(velocity) + 1e-9, deceleration)

    def _add(self, position: float, velocity: float, acceleration: float, duration: float) -> float:
        if duration > 0:
            self._parts.append((duration, position, velocity, acceleration))
        return position + velocity * duration + acceleration * duration**2 / 2

    @property
    def duration(self) -> float:
        """Seconds until rest."""
        return sum(part[0] for part in self._parts)

    def boundary_after(self, time: float) -> float:
        """Return when the acceleration changes next; infinity for never."""
        end = 0.0
        for duration, *_ in self._parts:
            end += duration
            if end > time + 1e-9:
                return end
        return math.inf

    def at(self, time: float) -> tuple[float, float, float] | None:
        """Return position, velocity, acceleration; None where there is no way to go."""
        if not self._parts:
            return None
        for duration, position, velocity, acceleration in self._parts:
            if time <= duration:
                return (
                    position + velocity * time + acceleration * time**2 / 2,
                    velocity + acceleration * time, acceleration,
                )  # fmt: skip
            time -= duration
        duration, position, velocity, acceleration = self._parts[-1]
        return (
            position + velocity * duration + acceleration * duration**2 / 2, 0.0, 0.0,
        )  # fmt: skip


class Mechanics:
    """One rotator; every method may be called from any thread.

    Parameters
    ----------
    clock
        Its time; true time.
    parameters
        What it is like.
    seed
        Of what comes by chance.
    on_angle
        Called with (ns UTC, load angle in degrees) at first and while the load may move, for each
        20 ms of it or less, late where nobody asked for anything meanwhile.

    Attributes
    ----------
    is_tab_hidden
        Fault: the sensor never sees the tab.
    is_encoder_stuck
        Fault: the encoder tells what it told when this was set.
    encoder_jump_counts
        Fault: what the encoder tells too much.
    limit_hits
        How often a switch was hit: truth for validators.
    boots
        How often the motor's power came: what its electronics had in memory is then gone.
    """

    def __init__(
        self,
        clock: Clock,
        parameters: Parameters | None = None,
        *,
        seed: int = 1,
        on_angle: Callable[[int, float], None] | None = None,
    ) -> None:
        self.parameters = parameters or Parameters()
        self._clock = clock
        self._random = random.Random(seed)
        self._on_angle = on_angle
        self._lock = threading.RLock()
        self._t = self._now()
        start = self.parameters.start_deg
        self._shaft = start  # degrees of the load, by the motor
        self._shaft_v = 0.0
        self._shaft_zero = start  # where the motor's counter is 0
        self._load = self._geared = start
        self._lag = 0.0  # what the stretched belt holds back
        self._slip = 0.0  # shaft minus belt: what a slip has lost
        self._profile = _Profile(start, 0, start, 1, 1)
        self._began = self._t
        self._is_powered = True
        self._deaf_until = self._t
        self._was_reset = True
        self._limit_low = self._limit_high = False
        self._hang_to: float | None = None
        self._tab = self._tab_now(False)
        self._stuck_at: int | None = None
        self.is_tab_hidden = False
        self.encoder_jump_counts = 0
        self.limit_hits = 0
        self.boots = 0
        if on_angle is not None:
            on_angle(clock.now_ns(), start)

    def _now(self) -> float:
        return self._clock.monotonic_ns() / NS_PER_S

    # --- truth ---

    @property
    def load_deg(self) -> float:
        """The true angle."""
        with self._lock:
            self._advance()
            return self._load

    @property
    def shaft_velocity_deg_s(self) -> float:
        """The true speed of the motor, degrees of the load per second."""
        with self._lock:
            self._advance()
            return self._shaft_v

    # --- the motor ---

    @property
    def is_answering(self) -> bool:
        """Whether the motor's electronics have power and are up."""
        with self._lock:
            self._advance()
            return self._is_powered and self._t >= self._deaf_until

    @property
    def motor_counts(self) -> int:
        """What the motor's encoder tells."""
        with self._lock:
            self._advance()
            return round((self._shaft - self._shaft_zero) * self.parameters.motor_counts_per_deg)

    @property
    def is_moving(self) -> bool:
        """Whether the motor is on its way."""
        with self._lock:
            self._advance()
            return self._is_powered and self._t - self._began < self._profile.duration

    @property
    def is_powered(self) -> bool:
        """Whether the motor has power."""
        with self._lock:
            self._advance()
            return self._is_powered

    @property
    def was_reset(self) -> bool:
        """Whether its power came since :meth:`clear`."""
        return self._was_reset

    @property
    def is_home(self) -> bool:
        """Whether the tab occludes the sensor."""
        with self._lock:
            self._advance()
            return self._tab and not self.is_tab_hidden

    @property
    def limits(self) -> tuple[bool, bool]:
        """Low and high limit, hit since :meth:`clear` or now."""
        with self._lock:
            self._advance()
            low, high = self._switches()
            return self._limit_low or low, self._limit_high or high

    @property
    def switches(self) -> tuple[bool, bool]:
        """Low and high limit as the switches are now."""
        with self._lock:
            self._advance()
            return self._switches()

    def _switches(self) -> tuple[bool, bool]:
        return (
            self._load <= self.parameters.limit_low_deg,
            self._load >= self.parameters.limit_high_deg,
        )

    def move_to(self, counts: float, speed: float, acceleration: float) -> None:
        """Start a move; counts, counts/s, counts/s2. Without power nothing happens."""
        with self._lock:
            self._advance()
            if not self._is_powered:
                return
            per_deg = self.parameters.motor_counts_per_deg
            self._profile = _Profile(
                self._shaft, self._shaft_v, self._shaft_zero + counts / per_deg,
                speed / per_deg, acceleration / per_deg,
            )  # fmt: skip
            self._began = self._t

    def stop(self, deceleration: float) -> None:
        """Decelerate, counts/s2."""
        with self._lock:
            self._advance()
            if self._is_powered and self._shaft_v:
                rate = deceleration / self.parameters.motor_counts_per_deg
                self._profile = _Profile.braking(self._shaft, self._shaft_v, rate)
                self._began = self._t
            elif self._is_powered:
                self._profile = _Profile(self._shaft, 0, self._shaft, 1, 1)
                self._began = self._t

    def set_motor_counts(self, counts: int) -> None:
        """Call the shaft's present position so."""
        with self._lock:
            self._advance()
            self._shaft_zero = self._shaft - counts / self.parameters.motor_counts_per_deg

    def set_power(self, on: bool) -> None:
        """Switch the motor's supply; its counter begins at 0 when it comes again."""
        with self._lock:
            self._advance()
            if on == self._is_powered:
                return
            if not on:
                self._cut()
                return
            self._is_powered = True
            self.boots += 1
            self._hang_to = None
            self._deaf_until = self._t + self.parameters.boot_s
            self._shaft = self._load
            self._shaft_zero = self._shaft
            self._slip = 0.0
            self._was_reset = True
            self._profile = _Profile(self._shaft, 0, self._shaft, 1, 1)
            self._began = self._t

    def clear(self) -> None:
        """Forget latched limits and the reset."""
        with self._lock:
            self._limit_low = self._limit_high = self._was_reset = False

    # --- the encoder ---

    @property
    def encoder_counts(self) -> int:
        """What the rotator's encoder tells, within one of its turns."""
        with self._lock:
            self._advance()
            if self._stuck_at is not None:
                return self._stuck_at
            p = self.parameters
            counts = math.floor(
                self._geared / 360 * p.gear * p.encoder_counts_per_turn + p.encoder_zero_counts
            )
            return (counts + self.encoder_jump_counts) % p.encoder_counts_per_turn

    # --- what befalls it ---

    def cut_power(self) -> None:
        """The motor loses its power in whatever it is doing; the dewar swings."""
        with self._lock:
            self._advance()
            self._cut()

    def slip(self, degrees: float) -> None:
        """The belt slips: the load jumps against the shaft."""
        with self._lock:
            self._advance()
            self._slip -= degrees
            self._load += degrees
            self._follow_gear()

    def stick_encoder(self, stuck: bool = True) -> None:
        """The encoder stops telling of motion."""
        with self._lock:
            self._stuck_at = self.encoder_counts if stuck else None

    # --- time ---

    def _cut(self) -> None:
        self._is_powered = False
        self._shaft_v = self._lag = 0.0
        self._profile = _Profile(self._shaft, 0, self._shaft, 1, 1)
        short = self._random.uniform(0.0, 20.0)
        way = _HANG_DEG - self._load
        self._hang_to = self._load + math.copysign(max(0.0, abs(way) - short), way)

    def _advance(self) -> None:
        """Follow everything up to now."""
        now = self._now()
        is_quiet = self._hang_to is None and (
            not self._is_powered
            or (self._t - self._began >= self._profile.duration and abs(self._lag) < _NO_LAG_DEG)
        )
        if is_quiet:
            self._t = max(self._t, now)
            return
        while self._t < now:
            turn = self._profile.boundary_after(self._t - self._began) + self._began - self._t
            step = min(_STEP_S, now - self._t, turn)
            before, self._t = self._t, self._t + step
            if not self._is_powered:
                self._swing(step)
            else:
                self._drive((before + self._t) / 2, step)
            self._follow_gear()
            self._tab = self._tab_now(self._tab)
            if self._on_angle is not None:
                behind_ns = round((now - self._t) * NS_PER_S)
                self._on_angle(self._clock.now_ns() - behind_ns, self._load)

    def _drive(self, middle: float, step: float) -> None:
        p = self.parameters
        found = self._profile.at(self._t - self._began)
        acceleration = 0.0
        if found is not None:
            self._shaft, self._shaft_v, _ = found
            inside = self._profile.at(middle - self._began)  # not at a boundary
            if inside is not None and middle - self._began < self._profile.duration:
                acceleration = inside[2]
        # The belt takes a while to stretch: a stop of milliseconds does not throw the load.
        goal = p.stretch_s2 * acceleration
        self._lag = goal + (self._lag - goal) * math.exp(-step / p.stretch_time_s)
        pulled = self._shaft - self._slip - self._lag
        half = p.belt_play_deg / 2 + p.stiction_deg / 2
        if pulled - self._load > half:
            self._load = pulled - half
        elif self._load - pulled > half:
            self._load = pulled + half
        low, high = self._switches()
        if (low and not self._limit_low) or (high and not self._limit_high):
            self._limit_low |= low
            self._limit_high |= high
            self.limit_hits += 1
            self._cut()

    def _swing(self, step: float) -> None:
        """Let the dewar turn towards where it hangs, the belt and the dead motor with it."""
        if self._hang_to is None:
            return
        left = self._hang_to - self._load
        move = left * (1 - math.exp(-step / _HANG_TIME_S))
        most = _HANG_SPEED_DEG_S * step
        move = max(-most, min(most, move))
        self._load += move
        self._shaft += move
        if abs(left) < 0.01:
            self._hang_to = None

    def _follow_gear(self) -> None:
        half = self.parameters.encoder_play_deg / 2
        self._geared = max(self._load - half, min(self._load + half, self._geared))

    def _tab_now(self, before: bool) -> bool:
        """Return whether the tab is in the sensor, whose edges have a hysteresis."""
        p = self.parameters
        slack = p.tab_hysteresis_deg if before else 0.0
        return -p.tab_width_deg - slack <= self._load <= 0.0 + slack
