# SPDX-License-Identifier: BSD-3-Clause
"""What a rotator is made of and knows: devices, zero points, memory; the hands of its work."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from nightjar.api.rot import RotatorState as State
from nightjar.api.states import Level
from nightjar.child import Backoff
from nightjar.clock import NS_PER_S, Clock
from nightjar.errors import Code, DeviceError, DeviceLost, NightjarError, Refused
from nightjar.health import Health
from nightjar.operations import Operation, Operations
from nightjar.times import iso
from nightjard.rotd import work
from nightjard.rotd.axis import Axis, Reading
from nightjard.rotd.config import RotdConfig
from nightjard.rotd.drivers.base import Encoder, Lines, Motor, MotorCapabilities, PowerSwitch
from nightjard.rotd.handshake import Handshake
from nightjard.rotd.journal import Journal
from nightjard.rotd.watching import Watch

log = logging.getLogger(__name__)

_REMEMBER_S = 1.0
_RECENT = 30  # readings
_BEYOND_DEG = 0.5
_SETTLED_S = 1.5
_OPEN_PAUSES = (1.0, 10.0)  # first and longest, doubled each time


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


class Job:
    """Work under way."""

    def __init__(self, name: str, text: str, steps: work.Work, operation: Operation | None) -> None:
        self.name, self.text, self.steps, self.operation = name, text, steps, operation
        self.state = State.SETTLE


class Parts:
    """Devices and knowledge of one rotator; its methods belong to the thread that owns it.

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
        self._job: Job | None = None
        self._asked: Job | None = None
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
        self._is_called = False
        self._driven = self._hit = 0.0
        self._target: float | None = None
        self._moves = 0
        self._last_move: dict[str, Any] | None = None
        self._remembered_s = 0.0
        self._memory: dict[str, Any] = self._journal.recall()
        self._status: dict[str, Any] = {}
        self._recent: deque[tuple[float, float]] = deque(maxlen=_RECENT)

    # --- hands of the work ---

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
    def hit(self) -> float:
        """Which switch was hit since it was homed: negative for the lower, 0 for none."""
        return self._hit

    @property
    def can_switch_power(self) -> bool:
        """Whether the motor's power can be switched from here.

        A motor that is silent cannot be asked to.
        """
        if self._power is not None:
            return True
        is_heard = self._reading is None or self._reading.motor.is_answering
        return is_heard and bool(self._capabilities and self._capabilities.can_switch_power)

    def now_s(self) -> float:
        """Return the monotonic time."""
        return self._clock.monotonic_ns() / NS_PER_S

    def drive_by(self, degrees: float, speed_deg_s: float) -> None:
        """Start a motion by an angle."""
        self._require_room(degrees)
        self._driven = degrees
        self._watch.expect_motion(self.now_s())
        self._axis.drive_by(
            self.reading, degrees, speed_deg_s, self.config.motion.acceleration_deg_s2
        )

    def _require_room(self, degrees: float) -> None:
        """See that a motion ends between the switches, as far as that is known.

        Raises
        ------
        DeviceError
            It would not: what it was reckoned from is wrong.
        """
        if not self._is_homed or self._job is None or self._job.name == "home":
            return
        geometry, over = self.config.geometry, self.config.motion.pass_by_deg + _BEYOND_DEG
        end = self.angle + degrees
        if not geometry.low_deg - over <= end <= geometry.high_deg + over:
            raise DeviceError(f"a move to {end:.2f} deg is not made: it leaves the range")

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
        self._is_homed, self._unhomed_why, self._hit = True, "", 0.0
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

    # --- devices ---

    def _open(self, now_s: float) -> None:
        if not self._lines_open:
            try:
                self._lines.open()
                self._lines_open = True
            except NightjarError as error:
                self._note("lines", error)
        if self._is_open or now_s < self._next_open_s:
            return
        part = "motor"
        try:
            capabilities = self._axis.open_motor()
            self._trouble["motor"], part = "", "encoder"
            if self._axis.motor.state().is_moving:
                # Nobody may see where it goes; and in motion the two encoders tell two moments.
                self._axis.stop(self.config.motion.stop_deceleration_deg_s2)
                self._axis.close()
                self._next_open_s = now_s + _SETTLED_S
                self._log.warning("the motor was moving when it was found, and was stopped")
                return
            self._encoder_model = self._axis.encoder.open()
            self._axis.miss_turns()
            reading = self._axis.read()
        except NightjarError as error:
            self._axis.close()
            self._note(part, error)
            self._next_open_s = now_s + self._backoff.next_pause_s(0.0)
            return
        self._is_open, self._capabilities = True, capabilities
        self._backoff = Backoff(*_OPEN_PAUSES)
        self._health.ok("devices")
        self._trouble["motor"] = self._trouble["encoder"] = ""
        self._recall(reading)
        self._reading = reading
        self._watch.rest(reading, self._axis)

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

    def _lose_home(self, why: str) -> None:
        if self._is_homed:
            self._log.warning(f"the zero points do not hold any more: {why}")
        self._is_homed, self._unhomed_why = False, why

    # --- memory ---

    def _memory_now(self) -> dict[str, Any]:
        if self._reading is None:
            return self._memory
        return {
            **self._axis.memory(self._reading, self._watch.difference_deg),
            "is_homed": self._is_homed, "homed_ns": self._homed_ns, "spread_deg": self._spread,
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

    def _entry(self, name: str, values: dict[str, Any]) -> None:
        self._journal.note({"time": iso(self._clock.now_ns(), 3), "what": name, **values})
