# SPDX-License-Identifier: BSD-3-Clause
"""The rotator: its state, what it may do, one thread that looks and acts once a tick."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from nightjar.api.rot import RotatorState as State
from nightjar.api.states import Level
from nightjar.child import Backoff
from nightjar.clock import NS_PER_S, Clock
from nightjar.errors import (
    Busy,
    Cancelled,
    Code,
    DeviceError,
    DeviceLost,
    InvalidArgument,
    NightjarError,
    Refused,
)
from nightjar.health import Health
from nightjar.operations import Operation, Operations
from nightjar.times import iso
from nightjard.rotd import choosing, work
from nightjard.rotd.axis import Axis, Reading
from nightjard.rotd.config import RotdConfig
from nightjard.rotd.drivers.base import (
    Encoder,
    Lines,
    Motor,
    MotorCapabilities,
    PowerSwitch,
)
from nightjard.rotd.handshake import Handshake
from nightjard.rotd.journal import Journal
from nightjard.rotd.watching import Watch

log = logging.getLogger(__name__)

_REMEMBER_S = 1.0
_STALE_S = 0.5
_RESET_S = 20.0
_RESET_BY_HAND_S = 180.0
_SILENT_S = 0.8  # a lost answer or two is no lost motor
_STOP_AGAIN_S = 0.4
_NEAR_SWITCH_DEG = 0.3
_SWEEP_S = 1800.0
_OPEN_PAUSES = (1.0, 10.0)  # first and longest, doubled each time
_WHAT_TO_DO = {
    State.OFFLINE: "see `rot status` for which device does not answer",
    State.UNPOWERED: "switch it on: `rot power on`",
    State.UNHOMED: "home it first: `rot home`",
    State.FAULT: "see `rot status` for the reason, then `rot reset`",
    State.LIMIT: "`rot reset`, then `rot home`, when nobody is near",
    State.STOPPING: "wait until it is at rest",
}


class Log(Protocol):
    """Where an observer reads what happened."""

    def info(self, message: str) -> None:
        """Tell."""
        ...

    def warning(self, message: str) -> None:
        """Warn."""
        ...

    def error(self, message: str) -> None:
        """Tell a failure."""
        ...


class _Job:
    """Work under way."""

    def __init__(self, name: str, text: str, steps: work.Work, operation: Operation | None) -> None:
        self.name, self.text, self.steps, self.operation = name, text, steps, operation
        self.state = State.SETTLE


class Rotator:
    """One rotator. :meth:`tick` belongs to one thread; every other method to any.

    Parameters
    ----------
    config, motor, encoder, lines
        What it is made of.
    clock, health, operations, log
        Sinks and sources of the runtime.
    folder
        Where it remembers.
    telescope
        Returns what is known of the telescope now (the answer of the telescope log's command
        ``telescope``), None for nothing; must not wait.

    Attributes
    ----------
    wake
        Set when the next tick should not wait.
    """

    def __init__(
        self,
        config: RotdConfig,
        motor: Motor,
        encoder: Encoder,
        lines: Lines,
        *,
        clock: Clock,
        health: Health,
        operations: Operations,
        log: Log,
        folder: Path,
        power: PowerSwitch | None = None,
        telescope: Callable[[], Mapping[str, Any] | None] = lambda: None,
    ) -> None:
        self.config = config
        self._clock, self._health, self._operations, self._log = clock, health, operations, log
        self._axis = Axis(motor, encoder, config.geometry, clock)
        self._lines = lines
        self._power = power
        self._handshake = Handshake(lines)
        self._journal = Journal(folder)
        self._telescope = telescope
        self._watch = Watch(config)
        self.wake = threading.Event()
        self._lock = threading.Lock()
        self._job: _Job | None = None
        self._asked: _Job | None = None
        self._stop_asked = ""
        self._power_asked: bool | None = None
        self._reading: Reading | None = None
        self._capabilities: MotorCapabilities | None = None
        self._encoder_model = ""
        self._is_open = self._lines_open = False
        self._next_open_s = 0.0
        self._backoff = Backoff(*_OPEN_PAUSES)
        self._trouble: dict[str, str] = {"motor": "", "encoder": "", "lines": ""}
        self._is_homed = False
        self._unhomed_why = "it was never homed here"
        self._homed_ns: int | None = None
        self._spread: float | None = None
        self._fault = ""
        self._is_limit = False
        self._is_stopping = False
        self._stopped_s = 0.0
        self._auto = config.auto
        self._target: float | None = None
        self._moves = 0
        self._last_move: dict[str, Any] | None = None
        self._remembered_s = 0.0
        self._memory: dict[str, Any] = self._journal.recall()
        self._status: dict[str, Any] = {}
        self._publish()

    # ================================================================ hands of the work

    @property
    def reading(self) -> Reading:
        """The newest reading.

        Raises
        ------
        DeviceLost
            There is none.
        """
        if self._reading is None:
            raise DeviceLost("motor or encoder has not answered yet")
        return self._reading

    @property
    def angle(self) -> float:
        """The newest angle."""
        angle = self._axis.angle_deg(self.reading)
        if angle is None:
            raise Refused("the angle is not known: home it first", code=Code.NOT_PERMITTED)
        return angle

    @property
    def estimate(self) -> float | None:
        """The angle by the last zero point, whether or not it holds."""
        return None if self._reading is None else self._axis.angle_deg(self._reading)

    @property
    def can_switch_power(self) -> bool:
        """Whether the motor's power can be switched from here."""
        return self._power is not None or bool(
            self._capabilities and self._capabilities.can_switch_power
        )

    def now_s(self) -> float:
        """Return the monotonic time."""
        return self._clock.monotonic_ns() / NS_PER_S

    def drive_by(self, degrees: float, speed_deg_s: float) -> None:
        """Start a motion by an angle."""
        self._watch.expect_motion(self.now_s())
        self._axis.drive_by(
            self.reading, degrees, speed_deg_s, self.config.motion.acceleration_deg_s2
        )

    def halt(self) -> None:
        """Stop the motor."""
        self._axis.stop(self.config.motion.stop_deceleration_deg_s2)

    def tell(self, message: str, fraction: float | None = None) -> None:
        """Report progress of the job."""
        if self._job is not None and self._job.operation is not None:
            self._job.operation.update(fraction, self._job.name, message)

    def set_home(self, position_deg: float, motor_deg: float, spread_deg: float) -> None:
        """Take a zero point."""
        self._axis.motor.clear()  # its power-up is not held against the new zero point
        before = self._axis.zero
        self._axis.set_zero(position_deg, motor_deg)
        if before is not None and self._homed_ns is not None:
            moved = position_deg - before.position_deg
            if abs(moved) > self.config.homing.moved_tab_deg:
                self._log.warning(
                    f"the homing tab is {moved:+.2f} deg from where it was at the last homing: "
                    "was it touched, or the encoder's gear?"
                )
        self._is_homed, self._unhomed_why = True, ""
        self._homed_ns, self._spread = self._clock.now_ns(), spread_deg
        self._watch.rest(self.reading, self._axis)

    def switch_power(self, on: bool) -> None:
        """Switch the motor's power."""
        (self._power or self._axis.motor).set_power(on)
        if not on:
            self._lose_home("the motor's power was switched off")

    def clear(self) -> None:
        """Forget faults and limits."""
        self._axis.motor.clear()
        self._fault, self._is_limit = "", False
        self._health.ok("rotator")
        self._watch.rest(self.reading, self._axis)

    # ================================================================ commands

    def goto(self, angle: float) -> dict[str, Any]:
        """Go to an angle; see the command table."""
        self._require_within(angle)
        return self._begin_move("goto", angle, f"going to {angle:.2f} deg")

    def offset(self, angle: float) -> dict[str, Any]:
        """Go by an angle."""
        status = self._status
        if not status["is_homed"] or status["angle_deg"] is None:
            raise self._not_ready()
        base = status["angle_deg"] if status["target_deg"] is None else status["target_deg"]
        self._require_within(base + angle)
        return self._begin_move("offset", base + angle, f"going by {angle:+.2f} deg")

    def home(self, force: bool) -> dict[str, Any]:
        """Home it."""
        with self._lock:
            self._require_free()
            capabilities = self._capabilities
            if capabilities is None or self._fault or self._is_limit:
                raise self._not_ready()
            if not capabilities.has_home_input:
                raise Refused(
                    f"the {self.config.motor.kind} rotator has no homing sensor: its encoder is "
                    "absolute", code=Code.UNSUPPORTED,
                )  # fmt: skip
            if not (self._reading and self._reading.motor.is_powered):
                raise self._not_ready()
            if self._is_homed and not force:
                raise Refused("it is homed and its zero points hold; --force homes it again")
            return self._ask(
                "home", "homing", work.home(self), self.config.homing.timeout_s
            )

    def choose(
        self, axis: str, angle: float, duration: float, ra: float | None, dec: float | None
    ) -> dict[str, Any]:
        """Return the angle for a scan, and why."""
        return self._choice(axis, angle, duration, ra, dec).as_json()

    def scan(
        self, axis: str, angle: float, duration: float, ra: float | None, dec: float | None
    ) -> dict[str, Any]:
        """Go to the best angle for a scan."""
        choice = self._choice(axis, angle, duration, ra, dec)
        return self._begin_move(
            "scan", choice.angle_deg, f"going to {choice.angle_deg:.2f} deg for the scan",
            stays=choice.stays,
        )  # fmt: skip

    def auto(self, on: bool, axis: str, angle: float, duration: float) -> dict[str, Any]:
        """Set the answer to the telescope."""
        self._auto = self.config.auto.model_copy(
            update={"is_on": on, "axis": axis, "angle_deg": angle, "duration_s": duration}
        )
        text = f"on: scans along {axis}" if on else "off"
        self._log.info(f"auto mode {text}")
        self.wake.set()
        return {"is_auto": on, "auto": {"axis": axis, "angle": angle, "duration": duration}}

    def stop(self) -> dict[str, Any]:
        """Stop now."""
        with self._lock:
            self._stop_asked = "stopped by a command"
        self.wake.set()
        return {"state": self._status["state"]}

    def power(self, on: bool) -> dict[str, Any]:
        """Switch the motor's power."""
        with self._lock:
            self._require_free()
            if self._capabilities is None:
                raise self._not_ready()
            if not self.can_switch_power:
                raise Refused(
                    "this motor's power cannot be switched from here", code=Code.UNSUPPORTED
                )
            self._power_asked = on
        self.wake.set()
        return {"is_powered": on}

    def reset(self) -> dict[str, Any]:
        """Power off and on, clear."""
        with self._lock:
            self._require_free()
            if self._capabilities is None:
                raise self._not_ready()
            limit_s = _RESET_S if self.can_switch_power else _RESET_BY_HAND_S
            return self._ask("reset", "resetting", work.reset(self), limit_s)

    def calibrate(self, low: float | None, high: float | None, step: float) -> dict[str, Any]:
        """Sweep up and down."""
        geometry = self.config.geometry
        low = geometry.low_deg if low is None else low
        high = geometry.high_deg if high is None else high
        for end in (low, high):
            self._require_within(end)
        if high - low < step:
            raise InvalidArgument(f"a sweep from {low:g} to {high:g} deg has no step of {step:g}")
        with self._lock:
            self._require_ready()
            return self._ask(
                "calibrate", "sweeping", work.sweep(self, low, high, step), _SWEEP_S
            )

    def log(self, count: int) -> dict[str, Any]:
        """Return the last entries of the journal."""
        return {"entries": self._journal.last(count)}

    def rotator(self) -> dict[str, Any]:
        """Return the newest reading for logs."""
        status, reading = self._status, self._reading
        return {
            "time_ns": None if reading is None else reading.utc_ns,
            "angle_deg": status["angle_deg"], "raw_counts": status["raw_counts"],
            "motor_counts": status["motor_counts"], "motor_angle_deg": status["motor_angle_deg"],
            "state": status["state"], "is_homed": status["is_homed"],
            "is_limit": status["is_limit"], "is_busy": status["rotating_line"],
            "target_deg": status["target_deg"], "error_deg": status["error_deg"],
            "age_s": None if reading is None else self._axis.age_s(reading),
        }  # fmt: skip

    def status(self) -> dict[str, Any]:
        """Return the snapshot; never waits."""
        return self._status

    # ================================================================ checks of commands

    def _require_within(self, angle: float) -> None:
        low, high = self.config.geometry.low_deg, self.config.geometry.high_deg
        if not low <= angle <= high:
            raise Refused(
                f"{angle:.2f} deg is outside {low:g} to {high:g} deg",
                code=Code.OUT_OF_RANGE, low=low, high=high,
            )  # fmt: skip

    def _require_free(self) -> None:
        job = self._job or self._asked
        if job is not None:
            raise Busy(f"the rotator is busy: {job.text}; wait, or `rot stop`")

    def _require_ready(self) -> None:
        self._require_free()
        if self._state() not in (State.READY, State.HANDSHAKE_WAIT):
            raise self._not_ready()
        if self._reading is not None and self._axis.age_s(self._reading) > max(
            _STALE_S, 5 * self.config.poll_s
        ):
            raise Refused("the last reading of the encoder is too old: is it still connected?")
        if self._handshake.is_scanning:
            raise Refused(
                "the telescope is scanning: rotating now would spoil the observation; "
                "wait for its end"
            )

    def _not_ready(self) -> Refused:
        state = self._state()
        why = self._reason(state)
        text = f"the rotator is {state.name}{f' ({why})' if why else ''}"
        code = Code.NOT_INITIALIZED if state is State.UNHOMED else Code.NOT_PERMITTED
        return Refused(f"{text}: {_WHAT_TO_DO.get(state, 'see `rot status`')}", code=code)

    def _begin_move(
        self, name: str, angle: float, text: str, *, stays: bool = False
    ) -> dict[str, Any]:
        with self._lock:
            self._require_ready()
            return self._ask_move(name, angle, text, stays=stays)

    def _ask_move(
        self, name: str, angle: float, text: str, *, stays: bool = False, quiet: bool = False
    ) -> dict[str, Any]:
        steps = self._stay(angle) if stays else work.move(self, angle)
        self._target = angle
        return self._ask(name, text, steps, self.config.motion.move_timeout_s, quiet=quiet)

    def _stay(self, angle: float) -> work.Work:
        """Answer without moving: near enough."""
        yield State.SETTLE
        return {
            "from_deg": self.angle, "to_deg": angle, "error_deg": angle - self.angle,
            "seconds": 0.0, "corrections": 0,
        }  # fmt: skip

    def _ask(
        self, name: str, text: str, steps: work.Work, limit_s: float, *, quiet: bool = False
    ) -> dict[str, Any]:
        """Have the thread begin work; the lock is held."""
        operation = None if quiet else self._operations.begin(name, self._cancel)
        limited = work.limited(steps, self, limit_s, name)
        self._asked = _Job(name, text, limited, operation)
        self._stop_asked = ""
        self.wake.set()
        return {"operation": operation.id if operation else None}

    def _cancel(self) -> None:
        with self._lock:
            self._stop_asked = "cancelled"
        self.wake.set()

    def _choice(
        self, axis: str, angle: float, duration: float, ra: float | None, dec: float | None
    ) -> choosing.Choice:
        if (ra is None) != (dec is None):
            raise InvalidArgument("give both, ra and dec, or neither")
        q = rate = None
        if axis in ("ra", "dec", "pa"):
            if ra is None or dec is None:
                ra, dec = self._target_place()
            lst = choosing.sidereal_h(self._clock.now_ns(), self.config.longitude_deg)
            q, rate = choosing.parallactic_at(
                lst, ra, dec, self.config.latitude_deg, duration / 2
            )
        today = datetime.fromtimestamp(self._clock.now_ns() / NS_PER_S, UTC).date()
        array, geometry = self.config.array, self.config.geometry
        return choosing.choose(
            choosing.Scan(axis, angle, q, rate),  # type: ignore[arg-type]
            choosing.Array(
                self.config.fiducial_deg(today), array.row_angle_deg, array.symmetry_deg,
                array.sky_sign,
            ),
            choosing.Range(geometry.low_deg, geometry.high_deg),
            self._status["angle_deg"] if self._is_homed else None,
        )  # fmt: skip

    def _target_place(self) -> tuple[float, float]:
        known = self._telescope()
        if known is None or known.get("apparent_ra_deg") is None:
            raise Refused(
                "the telescope's target is not known: give --ra and --dec, or see `telog status`"
            )
        age = known.get("age_s")
        if age is None or age > self.config.telescope_fresh_s:
            told = "never" if age is None else f"{age:.1f} s ago"
            raise Refused(
                f"the telescope was last heard {told}, {self.config.telescope_fresh_s:g} s are "
                "allowed: see `telog status`"
            )
        return float(known["apparent_ra_deg"]), float(known["apparent_dec_deg"])

    # ================================================================ the thread

    def tick(self) -> None:
        """Look at everything once and act; every failure of a device ends up in the status."""
        now_s = self.now_s()
        self._open(now_s)
        rises = self._look_at_lines(now_s)
        if self._is_open and self._read():
            self._guard(now_s)
        self._take_orders()
        if rises:
            self._answer(now_s)
        self._go_on()
        self._tick_lines(now_s)
        self._remember(now_s)
        self._publish()

    def close(self) -> None:
        """Stop what moves, let the line fall, write down where everything is."""
        if self._job is not None or (self._reading and self._reading.motor.is_moving):
            self._give_up(Cancelled("the daemon is stopping"), stop=True)
        if self._handshake.is_busy:
            self._handshake.end(0.0)
            self._tick_lines(self.now_s() + 10)
        self._remember(self.now_s(), now=True)
        self._axis.close()
        self._lines.close()

    def _open(self, now_s: float) -> None:
        if not self._lines_open:
            try:
                self._lines.open()
                self._lines_open = True
            except NightjarError as error:
                self._note("lines", error)
        if self._is_open or now_s < self._next_open_s:
            return
        try:
            self._capabilities, self._encoder_model = self._axis.open()
            self._axis.miss_turns()
            reading = self._axis.read()
        except NightjarError as error:
            self._axis.close()
            self._capabilities = None
            self._note("motor" if self._capabilities is None else "encoder", error)
            self._next_open_s = now_s + self._backoff.next_pause_s(0.0)
            return
        self._is_open = True
        self._backoff = Backoff(*_OPEN_PAUSES)
        self._health.ok("devices")
        self._trouble["motor"] = self._trouble["encoder"] = ""
        self._recall(reading)
        self._reading = reading
        self._watch.rest(reading, self._axis)
        if reading.motor.is_moving:
            self._axis.stop(self.config.motion.stop_deceleration_deg_s2)
            self._log.warning("the motor was moving when it was found, and was stopped")

    def _recall(self, reading: Reading) -> None:
        """Take the zero points of an earlier life or connection, if they are borne out."""
        if self._capabilities is not None and not self._capabilities.has_home_input:
            self._axis.set_zero(0.0, 0.0)
            self._is_homed, self._unhomed_why = True, ""
            return
        why = self._axis.recall(self._memory, reading)
        is_homed = bool(self._memory.get("is_homed"))
        if not why and is_homed:
            self._is_homed, self._unhomed_why = True, ""
            self._homed_ns = self._memory.get("homed_ns")
            self._spread = self._memory.get("spread_deg")
        else:
            self._lose_home(why or self._memory.get("unhomed_why") or "it was not homed before")

    def _note(self, part: str, error: NightjarError) -> None:
        if self._trouble[part] != error.message:
            log.warning("%s: %s", part, error.message)
        self._trouble[part] = error.message
        self._health.set(
            "lines" if part == "lines" else "devices", Level.DEGRADED,
            f"{part}: {error.message}; it is tried again",
        )  # fmt: skip

    def _read(self) -> bool:
        try:
            self._reading = self._axis.read()
        except NightjarError as error:
            self._note("encoder", error)
            if not self._watch.forgive(self.now_s()):
                self._lose_devices(error)
            return False
        self._watch.heard()
        self._trouble["encoder"], self._trouble["motor"] = "", self._axis.motor_trouble
        if self._axis.motor_silent_s > _SILENT_S:
            self._health.set("devices", Level.DEGRADED, f"motor: {self._axis.motor_trouble}")
        elif not self._axis.motor_trouble:
            self._health.ok("devices")
        return True

    def _lose_devices(self, error: NightjarError) -> None:
        """Stop the motor, which nobody sees turn any more, and begin anew."""
        if self._job is not None or (self._reading and self._reading.motor.is_moving):
            self._give_up(
                DeviceLost(f"{error.message}; without the encoder nothing is moved"), stop=True
            )
        self._is_open = False
        self._memory = self._memory_now()
        self._axis.close()
        self._capabilities = None
        self._next_open_s = self.now_s() + self._backoff.next_pause_s(0.0)

    def _lose_motor(self) -> None:
        """Tell what it means that the motor is silent in mid-move: a switch, a cable, its power."""
        angle, geometry = self.estimate, self.config.geometry
        if angle is not None and not (
            geometry.low_deg - _NEAR_SWITCH_DEG <= angle <= geometry.high_deg + 1.5
        ):
            self._is_limit = True
            self._lose_home("a limit switch was hit")
            self._alarm(f"the motor is silent at {angle:.1f} deg: a limit switch has cut its power")
            return
        self._fail(
            DeviceLost(
                f"{self._axis.motor_trouble}; it lost its power or its cable in mid-move and cannot"
                " be told to stop: use its power switch if it turns"
            ), stop=False,
        )  # fmt: skip

    # --- safety ---

    def _guard(self, now_s: float) -> None:
        """Look for what must not be: limits, lost power, slips, motion that nobody asked for."""
        reading = self.reading
        motor = reading.motor
        if not motor.is_answering:
            is_mid_move = self._job is not None and self._job.name != "reset"
            if is_mid_move and self._axis.motor_silent_s > _SILENT_S:
                self._lose_motor()
            return
        if (motor.is_limit_low or motor.is_limit_high) and not self._is_limit:
            end = "clockwise" if motor.is_limit_low else "counter-clockwise"
            self._is_limit = True
            self._lose_home("a limit switch was hit")
            if self._axis.zero is None:  # now it is known, if roughly, where it is
                geometry = self.config.geometry
                at = geometry.low_switch_deg if motor.is_limit_low else geometry.high_switch_deg
                off = geometry.home_angle_deg - at
                self._axis.set_zero(reading.position_deg + off, reading.motor_deg + off)
            self._alarm(f"the {end} limit switch was hit and has cut the motor's power")
            return
        if motor.was_reset and self._is_homed:
            self._lose_home("the motor was without power")
            self._fail(DeviceError("the motor lost its power and came up again: home it"))
            return
        if self._job is not None and self._job.name != "reset" and not motor.is_powered:
            self._lose_home("the motor lost its power in mid-move")
            self._fail(
                DeviceError("the motor lost its power in mid-move: switch it on, then home it")
            )
            return
        if motor.fault and not self._fault:
            self._alarm(f"the motor tells a fault: {motor.fault}")
            return
        found = self._watch.look(reading, self._axis, now_s, is_at_work=self._job is not None)
        if found.fault and self._is_homed and not self._fault:
            if found.is_position_lost:
                self._lose_home(found.fault)
            self._alarm(found.fault)
        if found.warning:
            scanning = "; the telescope was scanning" if self._handshake.is_scanning else ""
            self._log.warning(f"{found.warning}{scanning}")
            self._entry("uncommanded", {"message": found.warning})

    def _alarm(self, message: str) -> None:
        """Latch a fault, stop the motor, fail the job."""
        if not self._is_limit:
            self._fault = message
        self._health.set("rotator", Level.FAILED, message)
        self._log.error(message)
        self._entry("fault", {"message": message})
        self._fail(DeviceError(message), stop=True)

    def _fail(self, error: NightjarError, *, stop: bool = True) -> None:
        if self._job is not None or stop:
            self._give_up(error, stop=stop)

    def _lose_home(self, why: str) -> None:
        if self._is_homed:
            self._log.warning(f"the zero points do not hold any more: {why}")
        self._is_homed, self._unhomed_why = False, why

    # --- orders ---

    def _take_orders(self) -> None:
        with self._lock:
            stop, self._stop_asked = self._stop_asked, ""
            power, self._power_asked = self._power_asked, None
            asked, self._asked = self._asked, None
            if asked is not None and not stop:
                self._job = asked
        if stop:
            if asked is not None and asked.operation is not None:
                asked.operation.fail(Cancelled(stop))
            self._give_up(Cancelled(stop), stop=True)
        elif power is not None and self._is_open:
            try:
                self.switch_power(power)
                self._log.info(f"motor power {'on' if power else 'off'}")
            except NightjarError as error:
                self._note("motor", error)
        elif asked is not None:
            self._log.info(asked.text)

    def _give_up(self, error: NightjarError, *, stop: bool) -> None:
        """End the job by a failure; stop the motor."""
        job, self._job = self._job, None
        if stop and self._is_open:
            try:
                self.halt()
                self._is_stopping, self._stopped_s = True, self.now_s()
            except NightjarError as trouble:
                self._note("motor", trouble)
        self._handshake.end(self.now_s(), failed=not isinstance(error, Cancelled))
        if job is None:
            return
        job.steps.close()
        if job.operation is not None:
            job.operation.fail(error)
        self._entry(job.name, {"result": error.code.name, "message": error.message})
        if not isinstance(error, Cancelled):
            self._log.error(f"{job.text}: {error.message}")

    def _go_on(self) -> None:
        """Let the job do its next step."""
        job = self._job
        if self._is_stopping and self._reading and not self._reading.motor.is_moving:
            self._is_stopping = False
            self._watch.rest(self._reading, self._axis)
        elif self._is_stopping and self.now_s() - self._stopped_s > _STOP_AGAIN_S:
            self._stopped_s = self.now_s()
            try:
                self.halt()  # the order may have been lost on its way
            except NightjarError as error:
                self._note("motor", error)
        if job is None or not self._is_open:
            return
        try:
            if not self._handshake.is_busy and job.name != "reset":
                self._raise_line()
            job.state = next(job.steps)
        except StopIteration as stop:
            self._finish(job, stop.value)
        except NightjarError as error:
            self._give_up(error, stop=True)

    def _finish(self, job: _Job, result: dict[str, Any]) -> None:
        self._job = None
        self._handshake.end(self.now_s())
        self._watch.rest(self.reading, self._axis)
        if "to_deg" in result:
            self._moves += 1
            self._last_move = {**result, "result": "OK"}
            text = f"at {self.angle:.2f} deg, error {result['error_deg']:+.3f}"
        elif job.name == "calibrate":
            path = self._journal.keep(
                f"sweep-{iso(self._clock.now_ns(), 0).replace(':', '')}.json", result
            )
            text = f"play {result['play_deg']:.3f} deg, rms {result['rms_deg']:.3f}; {path}"
            result = {**result, "file": str(path)}
        else:
            text = f"{job.name} done"
        self._log.info(text)
        kept = {key: value for key, value in result.items() if key != "rows"}
        self._entry(job.name, {"result": "OK", **kept})
        self._remember(self.now_s(), now=True)
        if job.operation is not None:
            job.operation.finish(result, text)

    def _entry(self, name: str, values: dict[str, Any]) -> None:
        self._journal.note({"time": iso(self._clock.now_ns(), 3), "what": name, **values})

    # --- the telescope ---

    def _look_at_lines(self, now_s: float) -> bool:
        if not self._lines_open:
            return False
        try:
            rises = self._handshake.look(now_s)
        except NightjarError as error:
            self._note("lines", error)
            return False
        self._trouble["lines"] = ""
        if self._handshake.is_ignored(now_s):
            self._health.set(
                "lines", Level.DEGRADED,
                "the telescope's line ROTATE is up long after its answer: does it see ROTATING?",
            )  # fmt: skip
        else:
            self._health.ok("lines")
        return rises

    def _raise_line(self) -> None:
        try:
            self._handshake.raise_line(self.now_s())
        except NightjarError as error:
            self._note("lines", error)

    def _tick_lines(self, now_s: float) -> None:
        try:
            self._handshake.tick(now_s)
        except NightjarError as error:
            self._note("lines", error)

    def _answer(self, now_s: float) -> None:
        """Answer the telescope's line ROTATE: rotate, or pulse where that is not possible."""
        auto = self._auto
        try:
            if not auto.is_on:
                self._log.info("the telescope asks for a rotation; auto mode is off: not moved")
                self._handshake.pulse(now_s)
                return
            with self._lock:
                self._require_free()
                if self._state() not in (State.READY, State.HANDSHAKE_WAIT):
                    raise self._not_ready()
                choice = self._choice(auto.axis, auto.angle_deg, auto.duration_s, None, None)
                self._ask_move(
                    "auto", choice.angle_deg, f"rotating for the telescope to "
                    f"{choice.angle_deg:.2f} deg", stays=choice.stays, quiet=True,
                )  # fmt: skip
                self._job, self._asked = self._asked, None
            self._health.ok("handshake")
        except NightjarError as error:
            self._log.error(f"the telescope asks for a rotation: {error.message}; not moved")
            self._health.set("handshake", Level.DEGRADED, f"not rotated: {error.message}")
            self._entry("auto", {"result": error.code.name, "message": error.message})
            if self._job is None:
                try:
                    self._handshake.pulse(now_s)
                except NightjarError as trouble:
                    self._note("lines", trouble)

    # --- memory, status ---

    def _memory_now(self) -> dict[str, Any]:
        if self._reading is None:
            return self._memory
        return {
            **self._axis.memory(self._reading), "is_homed": self._is_homed,
            "homed_ns": self._homed_ns, "spread_deg": self._spread,
            "unhomed_why": self._unhomed_why,
        }  # fmt: skip

    def _remember(self, now_s: float, *, now: bool = False) -> None:
        if not self._is_open or (not now and now_s - self._remembered_s < _REMEMBER_S):
            return
        memory = self._memory_now()
        same = {k: v for k, v in memory.items() if k != "utc_ns"} == {
            k: v for k, v in self._memory.items() if k != "utc_ns"
        }
        self._remembered_s = now_s
        if not same:
            self._memory = memory
            self._journal.remember(memory)

    def _state(self) -> State:
        if not self._is_open or self._reading is None:
            return State.OFFLINE
        if self._axis.motor_silent_s > _SILENT_S and not self._is_limit:
            return State.OFFLINE if self._job is None else self._job.state
        if self._is_limit and (self._job is None or self._job.name != "reset"):
            return State.LIMIT
        if self._fault and (self._job is None or self._job.name != "reset"):
            return State.FAULT
        if self._job is not None:
            return self._job.state
        if self._is_stopping:
            return State.STOPPING
        if not self._reading.motor.is_powered:
            return State.UNPOWERED
        if not self._is_homed:
            return State.UNHOMED
        return State.HANDSHAKE_WAIT if self._handshake.is_waiting() else State.READY

    def _reason(self, state: State) -> str:
        if state is State.OFFLINE:
            return self._trouble["motor"] or self._trouble["encoder"] or "not opened yet"
        if state is State.LIMIT:
            return "a limit switch was hit"
        if state is State.FAULT:
            return self._fault
        return self._unhomed_why if state is State.UNHOMED else ""

    def _publish(self) -> None:
        """Put the snapshot together; readers take it whole."""
        state, reading = self._state(), self._reading
        angle = None if reading is None else self._axis.angle_deg(reading)
        motor_angle = None if reading is None else self._axis.motor_angle_deg(reading)
        geometry, job, known = self.config.geometry, self._job, self._telescope()
        target = self._target if self._is_homed else None
        self._status = {
            "summary": state.summary, "state": state.name, "reason": self._reason(state),
            "angle_deg": angle, "target_deg": target,
            "error_deg": None if target is None or angle is None else target - angle,
            "motor_angle_deg": motor_angle,
            "difference_deg": None if angle is None or motor_angle is None
            else motor_angle - angle,
            "raw_counts": None if reading is None else reading.counts,
            "motor_counts": None if reading is None else reading.motor.counts,
            "reading_age_s": None if reading is None else self._axis.age_s(reading),
            "is_homed": self._is_homed,
            "homed_at": None if self._homed_ns is None else iso(self._homed_ns, 0),
            "home_spread_deg": self._spread,
            "is_powered": None if reading is None else reading.motor.is_powered,
            "is_limit": self._is_limit, "limits_deg": [geometry.low_deg, geometry.high_deg],
            "is_auto": self._auto.is_on,
            "auto": {"axis": self._auto.axis, "angle": self._auto.angle_deg,
                     "duration": self._auto.duration_s},
            "rotate_line": self._handshake.rotate, "rotating_line": self._handshake.is_busy,
            "telescope_age_s": None if known is None else known.get("age_s"),
            "operation": job.operation.id if job is not None and job.operation else None,
            "job": None if job is None else job.text,
            "moves": self._moves, "last_move": self._last_move,
            "motor": self._device("motor", self.config.motor, self._capabilities),
            "encoder": self._device("encoder", self.config.encoder, self._encoder_model),
        }  # fmt: skip

    def _device(
        self, part: str, config: Any, found: MotorCapabilities | str | None
    ) -> dict[str, Any]:
        model = found.model if isinstance(found, MotorCapabilities) else found or ""
        return {
            "driver": config.kind, "model": model, "port": getattr(config, "port", None),
            "is_open": self._is_open, "last_error": self._trouble[part] or None,
        }  # fmt: skip
