# SPDX-License-Identifier: BSD-3-Clause
"""The thread of a rotator: looks at everything once a tick, guards it, lets its work go on."""

from __future__ import annotations

from typing import Any

from nightjar.api.rot import RotatorState as State
from nightjar.api.states import Level
from nightjar.errors import Cancelled, DeviceError, DeviceLost, NightjarError, Refused
from nightjar.times import iso
from nightjard.rotd.parts import Job, Parts

_SILENT_S = 0.8  # a lost answer or two is no lost motor
_STOP_AGAIN_S = 0.4
_NEAR_SWITCH_DEG = 0.8


class Machine(Parts):
    """A rotator that acts; :meth:`tick` belongs to one thread."""

    def _answer(self, now_s: float) -> None:
        """Answer the telescope's line ROTATE."""
        raise NotImplementedError

    def _publish(self) -> None:
        """Put the snapshot together."""
        raise NotImplementedError

    def _not_ready(self) -> Refused:
        """Return why it is not ready."""
        raise NotImplementedError

    def tick(self) -> None:
        """Look at everything once and act; every failure of a device ends up in the status."""
        now_s = self.now_s()
        if self._stop_asked:
            self._take_orders()  # before anybody is asked anything
        self._open(now_s)
        self._is_called |= self._look_at_lines(now_s)
        if self._is_open and self._read():
            self._guard(now_s)
        self._take_orders()
        if not self._handshake.rotate:
            self._is_called = False
        elif self._is_called and self._job is None and not self._is_stopping:
            # While something goes on, its end would be taken for the answer: this comes after it.
            self._is_called = False
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

    # --- readings ---

    def _read(self) -> bool:
        try:
            self._reading = self._axis.read()
        except NightjarError as error:
            self._note("encoder", error)
            if not self._watch.forgive(self.now_s()):
                self._lose_devices(error)
            return False
        self._watch.heard()
        if self.estimate is not None:
            self._recent.append((self.now_s(), self.estimate))
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
        self._is_open = self._is_stopping = False
        self._memory = self._memory_now()
        self._axis.close()
        self._capabilities = None
        self._next_open_s = self.now_s() + self._backoff.next_pause_s(0.0)

    def _lose_motor(self) -> None:
        """Tell what it means that the motor is silent in mid-move: a switch, a cable, its power."""
        geometry = self.config.geometry
        self._doubt_place(self._driven)
        for _, angle in self._recent:  # it swings away from the switch at once
            if (
                geometry.low_switch_deg + _NEAR_SWITCH_DEG
                < angle
                < geometry.high_switch_deg - _NEAR_SWITCH_DEG
            ):
                continue
            self._is_limit = True
            self._lose_home("a limit switch was hit")
            self._alarm(
                f"the motor is silent since {angle:.1f} deg: a limit switch has cut its power"
            )
            return
        self._fail(
            DeviceLost(
                f"{self._axis.motor_trouble}; it lost its power or its cable in mid-move and cannot"
                " be told to stop: use its power switch if it turns"
            ), stop=False,
        )  # fmt: skip

    def _doubt_place(self, sense: float) -> None:
        """Take note of a switch that was hit, or may have been; while homing none should be."""
        self._hit = sense
        if self._job is not None and self._job.name == "home":
            self._axis.zero = None  # it was sought where it is not
            self._recent.clear()

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
        is_reset = self._job is not None and self._job.name == "reset"  # it looks for itself
        if (motor.is_limit_low or motor.is_limit_high) and not (self._is_limit or is_reset):
            end = "clockwise" if motor.is_limit_low else "counter-clockwise"
            self._is_limit = True
            self._doubt_place(-1.0 if motor.is_limit_low else 1.0)
            self._lose_home("a limit switch was hit")
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
        if motor.is_moving and self._job is None and not self._is_stopping:
            self._log.error("the motor turns and nobody has told it to: it is stopped")
            self._entry("uncommanded", {"message": "the motor turned without a command"})
            self._give_up(DeviceError("the motor turned without a command"), stop=True)
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

    # --- orders ---

    def _take_orders(self) -> None:
        with self._lock:
            stop, self._stop_asked = self._stop_asked, ""
            power, self._power_asked = self._power_asked, None
            asked, self._asked = self._asked, None
            why = self._hindrance(asked)
            if asked is not None and not stop and why is None:
                self._job = asked
        if stop:
            if asked is not None and asked.operation is not None:
                asked.operation.fail(Cancelled(stop))
            self._give_up(Cancelled(stop), stop=True)
        elif power is not None and (self._is_open or self._power is not None):
            try:
                self.switch_power(power)
                self._log.info(f"motor power {'on' if power else 'off'}")
            except NightjarError as error:
                self._note("motor", error)
        if asked is not None and not stop:
            if why is None:
                self._recent.clear()
                self._log.info(asked.text)
            elif asked.operation is not None:
                asked.operation.fail(why)

    def _hindrance(self, asked: Job | None) -> NightjarError | None:
        """Return what has happened since work was asked for that forbids to begin it."""
        is_well = self._is_open and not (self._fault or self._is_limit)
        if asked is None or is_well or (self._is_open and asked.name == "reset"):
            return None
        return self._not_ready()

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
        except Exception:
            self._give_up(DeviceError("an error of this program"), stop=True)
            raise

    def _finish(self, job: Job, result: dict[str, Any]) -> None:
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

    # --- lines ---

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

    # --- state ---

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
