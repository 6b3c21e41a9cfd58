# SPDX-License-Identifier: BSD-3-Clause
"""The rotator as commands and the telescope see it: what it may do now, what it tells."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from nightjar.api.rot import RotatorState as State
from nightjar.api.states import Level
from nightjar.clock import NS_PER_S
from nightjar.errors import Busy, Code, InvalidArgument, NightjarError, Refused
from nightjar.times import iso
from nightjard.rotd import choosing, homing, work
from nightjard.rotd.drivers.base import MotorCapabilities
from nightjard.rotd.machine import Machine
from nightjard.rotd.parts import Job

_STALE_S = 0.5
_RESET_S = 20.0
_RESET_BY_HAND_S = 180.0
_SWEEP_S = 1800.0
_WHAT_TO_DO = {
    State.OFFLINE: "see `rot status` for which device does not answer; has it power?",
    State.UNPOWERED: "switch it on: `rot power on`",
    State.UNHOMED: "home it first: `rot home`",
    State.FAULT: "see `rot status` for the reason, then `rot reset`",
    State.LIMIT: "`rot reset`, then `rot home`, when nobody is near",
    State.STOPPING: "wait until it is at rest",
}


class Rotator(Machine):
    """One rotator. :meth:`tick` belongs to one thread; every public command to any."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._publish()

    # --- commands ---

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
                "home", "homing", homing.home(self), self.config.homing.timeout_s
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
            if self._capabilities is None and self._power is None:
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

    # --- checks of commands ---

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
        if self._power_asked is not None or self._is_stopping:
            raise Busy("the rotator is stopping, or its power is being switched: try again")

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
        self._asked = Job(name, text, limited, operation)
        self._stop_asked = ""
        self.wake.set()
        return {"operation": operation.id if operation else None}

    def _cancel(self) -> None:
        with self._lock:
            self._stop_asked = "cancelled"
        self.wake.set()

    # --- the angle for a scan ---

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

    # --- the snapshot ---

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
