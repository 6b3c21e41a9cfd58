# SPDX-License-Identifier: BSD-3-Clause
"""The camera: its states and commands. One thread owns the detector and does all the work.

One state machine in one file, longer than our files usually are: connecting, sequences, shutting
down and every failure between them share its states.

Commands are put to that thread and answered by it; ``status`` only reads what the thread last
wrote, so it waits for nothing. Driver, clock and sinks are given; this module knows neither RPC
nor configuration files.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from nightjar.api.states import CameraState, Level, Summary
from nightjar.clock import NS_PER_S, Clock
from nightjar.errors import (
    Busy,
    Cancelled,
    Code,
    DeviceError,
    DeviceLost,
    DeviceWedged,
    NightjarError,
    Refused,
    StorageError,
)  # fmt: skip
from nightjar.files import require_folder, require_space
from nightjar.health import Health
from nightjar.operations import Operation, Operations
from nightjar.times import iso
from nightjard.camd.config import CameraConfig
from nightjard.camd.cooler import NO_READING, Cooler
from nightjard.camd.counter import FrameCounter
from nightjard.camd.detector_setup import DetectorSetup
from nightjard.camd.drivers.base import Capabilities, Detector, FrameRecord
from nightjard.camd.owner import Owner
from nightjard.camd.ring import FrameRing
from nightjard.camd.sequencer import Counts, Sequencer, Sinks
from nightjard.camd.settings import (
    Observation,
    check_observation,
    check_setpoint,
    configured,
    resolve_window,
)  # fmt: skip
from nightjard.camd.wheel import FilterWheel

log = logging.getLogger(__name__)

FIRST_RECONNECT_S = 2.0
LONGEST_RECONNECT_S = 120.0
_IDLE_STEP_S = 0.5
_ERROR_PAUSE_S = 0.1
_EXIT_PATIENCE_S = 60.0
_CLOSING_STATES = (CameraState.INITIALIZING, CameraState.CLOSING)

T = TypeVar("T")


class Outlets(Protocol):
    """Where the model's frames and news go."""

    def submit(self, job: dict[str, Any]) -> None:
        """Save a frame."""
        ...

    def expect(self, path: Path) -> None:
        """Hand that file over, in this order, once it is saved."""
        ...

    def is_drained(self) -> bool:
        """Tell whether every frame is saved and offered to the pipeline."""
        ...

    def on_frame(self, job: dict[str, Any], record: FrameRecord) -> None:
        """Note a frame that was read out."""
        ...

    def info(self, text: str) -> None:
        """Tell the observatory log."""
        ...

    def warning(self, text: str) -> None:
        """Tell the observatory log what a person should look at."""
        ...

    def error(self, text: str) -> None:
        """Tell the observatory log of a failure."""
        ...


@dataclass(frozen=True, slots=True)
class _Open:
    """What exists only while the detector is connected."""

    capabilities: Capabilities
    cooler: Cooler
    wheel: FilterWheel
    sequencer: Sequencer


class Camera:
    """One camera.

    Parameters
    ----------
    config
        Its configuration.
    detector
        The driver, not open.
    make_ring
        Makes the frame buffer for a read-out shape.
    make_counter
        Opens the frame counter.
    outlets
        Where frames and news go.
    clock, health, operations
        Parts of the runtime.
    """

    def __init__(
        self,
        config: CameraConfig,
        detector: Detector,
        make_ring: Callable[[tuple[int, int]], FrameRing],
        make_counter: Callable[[], FrameCounter],
        outlets: Outlets,
        clock: Clock,
        health: Health,
        operations: Operations,
    ) -> None:
        self._config = config
        self._detector = detector
        self._make_counter = make_counter
        self._outlets = outlets
        self._clock = clock
        self._health = health
        self._operations = operations
        self._owner = Owner("camera", self.step, clock)
        self._setup = DetectorSetup(config, detector, make_ring)
        self._state = CameraState.OFFLINE
        self._state_since_ns = clock.now_ns()
        self._is_stopping = False
        self._open: _Open | None = None
        self._counter: FrameCounter | None = None
        self._operation: Operation | None = None
        self._closing: tuple[Operation, int, float] | None = None
        self._reconnect_at_ns: int | None = None
        self._reconnect_pause_s = FIRST_RECONNECT_S
        self.counts = Counts()
        self.last_error: dict[str, Any] | None = None
        self.last_stop: str | None = None

    # ------------------------------------------------------------ the owner thread

    def start_thread(self) -> None:
        """Start the thread that owns the detector."""
        self._owner.start()

    def end_thread(self, timeout_s: float = 10.0) -> None:
        """End the thread; the detector must have been closed."""
        self._owner.end(timeout_s)

    @property
    def beat_ns(self) -> int:
        """Monotonic time of the owner thread's last turn."""
        return self._owner.beat_ns

    @property
    def ring(self) -> FrameRing | None:
        """The frame buffer; None before the first init."""
        return self._setup.ring

    def step(self) -> float:
        """Carry out waiting commands and one look at everything; returns seconds until the next."""
        self._owner.beat()
        try:
            return self._advance()
        except Exception as error:  # noqa: BLE001 - this thread must go on, whatever a driver does
            self._handle(error)
        return _ERROR_PAUSE_S

    def _advance(self) -> float:
        opened = self._open
        if opened is None:
            self._reconnect_if_due()
            return _IDLE_STEP_S
        pause_s = _IDLE_STEP_S
        if opened.cooler.due_in_s() <= 0:
            opened.cooler.tick()
        pause_s = min(pause_s, opened.cooler.due_in_s())
        if opened.wheel.is_moving:
            pause_s = min(pause_s, opened.wheel.watch())
        if opened.sequencer.is_running:
            pause_s = min(pause_s, opened.sequencer.step())
            self._set_state(opened.sequencer.state)
        if self._closing is not None:
            pause_s = min(pause_s, self._advance_closing(opened))
        return max(0.0, pause_s)

    def _set_state(self, state: CameraState) -> None:
        if state is not self._state:
            self._state = state
            self._state_since_ns = self._clock.now_ns()

    def _ask(self, work: Callable[[], T], *, interrupts: bool = False) -> T:
        """Have the owner thread do something and return its result.

        One that `interrupts` does not wait for the end of a long read-out.
        """
        flag = self._read_out_flag() if interrupts else None
        return self._owner.ask(lambda: self._carry_out(work), self._state.name, flag)

    def _read_out_flag(self) -> threading.Event | None:
        opened = self._open
        return opened.sequencer.cancel_fetch if opened is not None else None

    def _carry_out(self, work: Callable[[], T]) -> T:
        """Do what somebody waits for; a device that is lost by it is disconnected."""
        try:
            return work()
        except (DeviceLost, DeviceWedged) as error:
            self._handle(error)
            raise

    def wake(self) -> None:
        """Have the owner thread look again now."""
        self._owner.wake()

    def post(self, work: Callable[[], None], *, interrupts: bool = False) -> None:
        """Have the owner thread do something later; for news from other threads."""

        def guarded() -> None:
            try:
                work()
            except Exception as error:  # noqa: BLE001 - nobody waits for it
                self._handle(error)

        self._owner.post(guarded, self._read_out_flag() if interrupts else None)

    # ------------------------------------------------------------ failures

    def _handle(self, error: Exception) -> None:
        """Answer a failure in the owner thread; never raises."""
        try:
            if isinstance(error, DeviceError):
                self._device_failed(error)
            elif isinstance(error, NightjarError):
                self._fail_sequence(error)
            else:
                log.error("internal error in the camera's thread", exc_info=error)
                self._fail_sequence(NightjarError(f"internal error: {error}", code=Code.INTERNAL))
        except (DeviceLost, DeviceWedged) as worse:
            self._device_failed(worse)  # asks nothing more of the device
        except Exception as worse:  # the sequence has ended, with the first error
            log.error("after %s, ending the exposure failed too", error, exc_info=worse)

    def _device_failed(self, error: DeviceError) -> None:
        """Handle a fault of the device: a lost or hung one is closed, others only end the work."""
        self._note_error(error)
        opened = self._open
        if isinstance(error, DeviceLost | DeviceWedged) or opened is None:
            ended = self._disconnect()
            self._health.set(
                "camera", Level.FAILED, f"{error.message}; init the camera when it is back"
            )
            self._plan_reconnect(error)
            # Operations end last: who waits for one finds the state that goes with its end.
            if opened is not None:
                opened.sequencer.forget(error)
            for operation in ended:
                operation.fail(error)
            return
        self._health.set("camera", Level.DEGRADED, error.message)
        if opened.sequencer.is_running:
            opened.sequencer.abort(error.message, error)

    def _fail_sequence(self, error: NightjarError) -> None:
        """End the sequence for a reason outside the device."""
        self._note_error(error)
        opened = self._open
        if opened is not None and opened.sequencer.is_running:
            opened.sequencer.abort(error.message, error)

    def _note_error(self, error: NightjarError) -> None:
        self.last_error = {
            "time": iso(self._clock.now_ns(), 3), "name": error.code.name,
            "message": error.message,
        }  # fmt: skip
        self._outlets.error(error.message)

    def frame_not_accepted(self, number: int, error: NightjarError) -> None:
        """Abort the sequence because the pipeline did not take a frame (from another thread)."""
        message = f"the pipeline did not take frame {number}: {error.message}"
        failure = type(error)(message, code=error.code)
        self.post(lambda: self._fail_running(failure))

    def frame_not_saved(self, number: int, error: NightjarError) -> None:
        """Stop taking frames because they cannot be written (from another thread)."""
        message = f"frame {number} cannot be saved and stays in the frame buffer: {error.message}"
        failure = StorageError(message, code=error.code)
        # Here and not there: who saves it in the meantime says that all is well again.
        self._health.set("storage", Level.FAILED, message)
        self.post(lambda: self._fail_running(failure))

    def _fail_running(self, error: NightjarError) -> None:
        """End the sequence, where there is one; the health tells the trouble in any case."""
        opened = self._open
        if opened is not None and opened.sequencer.is_running:
            self._fail_sequence(error)

    def note_space(self, free_bytes: int) -> None:
        """Take note of the space left in output_path (from another thread).

        Below ``minimum_free_bytes`` a running sequence is stopped after the present frame.
        """
        needed = self._config.minimum_free_bytes
        if free_bytes >= needed:
            self._health.ok("space")
            return
        error = StorageError(
            f"{free_bytes / 1e6:.0f} MB free in {self._config.output_path}, {needed / 1e6:.0f} MB "
            f"needed; make room there",
            code=Code.NO_SPACE, free_bytes=free_bytes, needed_bytes=needed,
        )  # fmt: skip
        self._health.set("space", Level.DEGRADED, error.message)
        self.post(lambda: self._stop_taking(error))

    def _stop_taking(self, error: NightjarError) -> None:
        opened = self._open
        if opened is not None and opened.sequencer.is_taking:
            self._note_error(error)
            opened.sequencer.stop(error.message, error)

    # ------------------------------------------------------------ connecting

    def init(self) -> Operation:
        """Connect and start cooling."""
        return self._ask(self._begin_init)

    def _plan_reconnect(self, error: NightjarError) -> None:
        """Try again later, where that is configured and the device is at fault."""
        if self._config.reconnect and isinstance(error, DeviceError) and not self._is_stopping:
            pause_ns = round(self._reconnect_pause_s * NS_PER_S)
            self._reconnect_at_ns = self._clock.monotonic_ns() + pause_ns
            self._reconnect_pause_s = min(LONGEST_RECONNECT_S, 2 * self._reconnect_pause_s)

    def _reconnect_if_due(self) -> None:
        due_ns = self._reconnect_at_ns
        if due_ns is not None and self._clock.monotonic_ns() >= due_ns:
            self._reconnect_at_ns = None
            if self._state is CameraState.OFFLINE and not self._is_stopping:
                log.info("the camera is tried again")
                self._begin_init()

    def _begin_init(self) -> Operation:
        self._refuse_when_stopping()
        if self._open is not None:
            raise Refused(
                "the camera has already been initialized", code=Code.ALREADY_INITIALIZED
            )
        if self._state is CameraState.INITIALIZING:
            raise Busy("the camera is already being initialized")
        self._reconnect_at_ns = None
        operation = self._operations.begin("init")
        self._operation = operation
        self._set_state(CameraState.INITIALIZING)
        operation.update(stage="INITIALIZING", message="connecting")
        self.post(lambda: self._initialize(operation))
        return operation

    def _initialize(self, operation: Operation) -> None:
        try:
            self._refuse_when_stopping()
            capabilities = self._detector.open()
            if self._counter is None:
                self._counter = self._make_counter()
            if self._counter.warning:
                self._outlets.error(self._counter.warning)
            wanted = Observation.fitting(self._config, capabilities)
            check_observation(wanted, capabilities)
            self._open = self._assemble(capabilities, self._counter)
            self._setup.apply(wanted, capabilities)
            self._open.cooler.set_setpoint(self._startable_setpoint(capabilities))
            self._open.cooler.tick()
        except Exception as error:
            failure = error if isinstance(error, NightjarError) else NightjarError(
                f"internal error: {error}", code=Code.INTERNAL
            )  # fmt: skip
            if failure is not error:
                log.exception("init failed")
            self._disconnect()
            self._note_error(failure)
            self._health.set("camera", Level.DEGRADED, failure.message)
            self._plan_reconnect(failure)
            operation.fail(failure)
            return
        self._reconnect_pause_s = FIRST_RECONNECT_S
        self._set_state(CameraState.IDLE)
        self._health.ok("camera")
        self._outlets.info(
            f"camera initialized: {capabilities.model} {capabilities.serial}".rstrip()
        )
        operation.finish(
            {"model": capabilities.model, "serial": capabilities.serial},
            f"{capabilities.model} {capabilities.serial} is connected",
        )

    def _startable_setpoint(self, capabilities: Capabilities) -> float | None:
        if capabilities.cooler == "none":
            return None
        check_setpoint(self._config.cooler_setpoint, capabilities, self._config.cooler_limits)
        return self._config.cooler_setpoint

    def _assemble(self, capabilities: Capabilities, counter: FrameCounter) -> _Open:
        cooler = Cooler(self._config, self._detector, capabilities, self._clock, self._health)
        sinks = Sinks(
            submit=self._outlets.submit, expect=self._outlets.expect,
            is_drained=self._outlets.is_drained, on_frame=self._outlets.on_frame,
            on_end=self._on_sequence_end, say=self._outlets.info, warn=self._outlets.warning,
        )  # fmt: skip
        wheel = FilterWheel(
            self._config, self._detector, capabilities, cooler, self._operations, self._clock
        )
        sequencer = Sequencer(
            self._config, self._detector, capabilities, cooler, wheel, counter, self._clock, sinks,
            self.counts,
        )  # fmt: skip
        return _Open(capabilities, cooler, wheel, sequencer)

    def _on_sequence_end(self, reason: str, error: NightjarError | None) -> None:
        self.last_stop = reason
        if self._open is not None and self._closing is None:
            self._set_state(CameraState.IDLE)
        if error is None:
            self._health.ok("camera")

    def _disconnect(self) -> list[Operation]:
        """Let go of the device, however it feels about it.

        Returns
        -------
        list of Operation
            Those that nobody works on any more: the caller ends them.
        """
        try:
            self._detector.close()
        except Exception as error:  # noqa: BLE001 - it is gone all the same
            log.warning("closing the camera: %s", error)
        moving = self._open.wheel.forget() if self._open is not None else None
        closing = self._closing[0] if self._closing is not None else None
        unended = [operation for operation in (moving, closing) if operation is not None]
        self._open = None
        self._closing = None
        self._setup.forget_device()
        if self._counter is not None:
            with contextlib.suppress(NightjarError):
                self._counter.close()
            self._counter = None
        self._set_state(CameraState.OFFLINE)
        return unended

    # ------------------------------------------------------------ disconnecting

    def shutdown(self, warm: bool = True) -> Operation:
        """End any sequence, ramp the cooler to warm, disconnect.

        While that is going on already, its operation is returned; without `warm` its ramp ends.
        """
        return self._ask(lambda: self._begin_shutdown(warm), interrupts=True)

    def _begin_shutdown(self, warm: bool) -> Operation:
        self._reconnect_at_ns = None
        opened = self._require_open()
        if self._closing is not None:
            if not warm:
                self._end_ramp()
            return self._closing[0]
        try:
            opened.sequencer.abort("the camera is being shut down")
        except (DeviceLost, DeviceWedged):
            raise
        except DeviceError as error:
            self._note_error(error)
        operation = self._operations.begin("shutdown", lambda: self.post(self._cancel_closing))
        timeout_s = self._config.warm_timeout if warm else 0.0
        deadline_ns = self._clock.monotonic_ns() + round(timeout_s * NS_PER_S)
        self._closing = (operation, deadline_ns, opened.cooler.power or 0.0)
        self._operation = operation
        if warm:
            opened.cooler.set_setpoint(None)
        self._set_state(CameraState.CLOSING)
        return operation

    def _advance_closing(self, opened: _Open) -> float:
        assert self._closing is not None
        operation, deadline_ns, first_power = self._closing
        is_late = self._clock.monotonic_ns() >= deadline_ns
        if opened.cooler.is_warm or is_late:
            warm = opened.cooler.is_warm
            self._closing = None
            for unended in self._disconnect():
                unended.fail(Cancelled("the camera was shut down"))
            self._outlets.info(f"camera disconnected {'warm' if warm else 'before it was warm'}")
            operation.finish(
                {"warm": warm}, "warm and disconnected" if warm else "disconnected"
            )
            return 0.0
        power = opened.cooler.power or 0.0
        fraction = 1 - power / first_power if first_power > 0 else None
        temperature = opened.cooler.reading.telemetry.temperature_c
        shown = "" if temperature is None else f" at {temperature:.1f} deg C"
        operation.update(fraction, "WARMING", f"cooler power {100 * power:.0f} %{shown}")
        return _IDLE_STEP_S

    def _cancel_closing(self) -> None:
        if self._closing is not None and self._open is not None:
            self._refuse_when_stopping()
            operation = self._closing[0]
            self._closing = None
            self._set_state(CameraState.IDLE)
            operation.fail(Cancelled("shutdown cancelled; the cooler stays off until it is set"))

    def close_for_exit(self, report: Callable[[str], None], hurry: threading.Event) -> None:
        """Shut down for the end of the daemon; `hurry` cuts the ramp short.

        Returns when the detector is disconnected, at the latest a minute after ``warm_timeout``.
        """
        self._is_stopping = True
        patience_ns = round((self._config.warm_timeout + _EXIT_PATIENCE_S) * NS_PER_S)
        deadline_ns = self._clock.monotonic_ns() + patience_ns
        operation: Operation | None = None
        while self._state is not CameraState.OFFLINE:
            if self._clock.monotonic_ns() > deadline_ns:
                report("the camera does not let itself be disconnected")
                return
            try:
                # Asked again each time: the answer is the same operation, and a hurry is heard.
                operation = self.shutdown(warm=not hurry.is_set())
            except NightjarError as error:
                report(f"camera: {error.message}")
                self._clock.sleep(0.1)
                continue
            if not operation.wait(1.0):
                report(str(operation.snapshot()["message"]) or "disconnecting")

    def _end_ramp(self) -> None:
        if self._closing is not None:
            self._closing = (self._closing[0], 0, self._closing[2])

    # ------------------------------------------------------------ sequences

    def start(self, count: int, delay_s: float = 0.0) -> Operation:
        """Begin a sequence of `count` frames (0: until stopped)."""
        return self._ask(lambda: self._begin_sequence(count, delay_s))

    def _begin_sequence(self, count: int, delay_s: float) -> Operation:
        opened = self._require_idle()
        if delay_s > 0 and self._setup.observation.stream:
            raise Refused(
                "a delay between exposures needs stream mode to be disabled",
                code=Code.NOT_PERMITTED,
            )
        require_folder(self._config.output_path, "output_path")
        require_space(self._config.output_path, self._config.minimum_free_bytes, "output_path")
        self._setup.apply(self._setup.observation, opened.capabilities)
        operation = self._operations.begin(
            "sequence",
            lambda: self.post(lambda: self._abort_by_cancel(operation), interrupts=True),
        )
        self._operation = operation
        self._health.ok("storage")
        opened.sequencer.begin(*self._setup.parts(), count, delay_s, operation)
        self._set_state(CameraState.WAITING)
        self._owner.wake()
        return operation

    def stop(self) -> None:
        """End the sequence after the present frame."""
        self._ask(lambda: self._require_open().sequencer.stop())

    def abort(self) -> Operation:
        """End the exposure now; or the connecting, where the driver runs in its own process."""
        operation = self._operations.begin("abort")
        interrupt = getattr(self._detector, "interrupt", None) if self.is_connecting else None
        had_device = self._open is not None
        self.post(
            lambda: self._abort_now(operation, interrupt is not None, had_device), interrupts=True
        )
        if interrupt is not None:
            interrupt("init was aborted")
        return operation

    def _abort_now(self, operation: Operation, was_connecting: bool, had_device: bool) -> None:
        self._reconnect_at_ns = None
        opened = self._open
        if opened is None:
            if was_connecting:
                operation.finish({"was_acquiring": False}, "connecting was aborted")
            elif had_device:
                reason = (self.last_error or {}).get("message", "it was disconnected")
                operation.fail(DeviceError(f"the camera was lost meanwhile: {reason}"))
            else:
                operation.fail(_not_initialized())
            return
        if not opened.sequencer.is_running:
            operation.finish({"was_acquiring": False}, "nothing was being exposed")
            return
        self._set_state(CameraState.ABORTING)
        try:
            opened.sequencer.abort("aborted by command")
        except Exception as error:  # noqa: BLE001 - a driver may raise anything
            self._handle(error)
            operation.fail(
                error if isinstance(error, NightjarError)
                else NightjarError(f"internal error: {error}", code=Code.INTERNAL)
            )  # fmt: skip
            return
        self._set_state(CameraState.IDLE)
        operation.finish({"was_acquiring": True}, "exposure aborted")

    def _abort_by_cancel(self, operation: Operation) -> None:
        opened = self._open
        # The sequence may have ended, and another begun, since it was asked.
        if opened is not None and opened.sequencer.operation is operation:
            opened.sequencer.abort("cancelled by command")
            self._set_state(CameraState.IDLE)

    # ------------------------------------------------------------ settings

    def set_exposure(self, seconds: float) -> None:
        """Set the exposure time."""
        self._ask(lambda: self._change(exposure_s=float(seconds)))

    def set_window(self, window: list[int] | None, name: str | None = None) -> None:
        """Set the window: four numbers, a configured name, or the default."""
        self._ask(lambda: self._change(window=resolve_window(self._config, window, name)))

    def set_binning(self, binning: int | None, method: str | None) -> None:
        """Set the binning; None is the configured default."""
        self._ask(
            lambda: self._change(
                binning=self._config.binning if binning is None else binning,
                binning_method=self._config.binning_method if method is None else method,
            )
        )

    def set_gain(self, gain: int) -> None:
        """Set the gain."""
        self._ask(lambda: self._change(gain=gain))

    def set_offset(self, offset: int) -> None:
        """Set the offset."""
        self._ask(lambda: self._change(offset=offset))

    def set_stream(self, enabled: bool) -> None:
        """Set whether exposures overlap."""
        self._ask(lambda: self._change(stream=enabled))

    def set_controls(self, values: Mapping[str, Any]) -> None:
        """Set controls of the electronics and of devices beside the detector; others stay."""
        self._ask(lambda: self._set_controls(values))

    def _set_controls(self, values: Mapping[str, Any]) -> None:
        opened = self._require_idle()
        wanted = self._setup.observation.controlled(values, opened.capabilities)
        self._setup.apply(wanted, opened.capabilities)

    def set_temperature(self, celsius: float | None) -> None:
        """Set the temperature to hold; None lets the detector warm up."""
        self._ask(lambda: self._set_temperature(celsius))

    def _set_temperature(self, celsius: float | None) -> None:
        opened = self._require_open()
        if self._closing is not None:
            raise Busy("the camera is being shut down")
        check_setpoint(celsius, opened.capabilities, self._config.cooler_limits)
        opened.cooler.set_setpoint(celsius)

    def set_filter(self, name: str) -> Operation:
        """Move the filter wheel."""
        return self._ask(lambda: self._require_idle().wheel.move(name))

    def configure(self, settings: Mapping[str, Any]) -> None:
        """Set several things at once, all or nothing; the values were checked for their types.

        What is not named returns to its configured default; temperature and filter stay.
        """
        self._ask(lambda: self._configure(settings))

    def _configure(self, settings: Mapping[str, Any]) -> None:
        opened = self._require_idle()
        # Everything is checked before anything is changed.
        wanted = configured(self._config, opened.capabilities, settings)
        if "temperature" in settings:
            check_setpoint(
                settings["temperature"], opened.capabilities, self._config.cooler_limits
            )
        if "filter" in settings:
            opened.wheel.check(settings["filter"])
        before = self._setup.observation
        self._setup.apply(wanted, opened.capabilities)
        if "filter" in settings:
            try:
                opened.wheel.move(settings["filter"])
            except NightjarError:
                # Given to the detector again before the next exposure.
                self._setup.observation = before
                raise
        if "temperature" in settings:
            opened.cooler.set_setpoint(settings["temperature"])

    def _change(self, **changes: Any) -> None:
        opened = self._require_idle()
        wanted = self._setup.observation.with_(**changes)
        check_observation(wanted, opened.capabilities)
        self._setup.apply(wanted, opened.capabilities)

    # ------------------------------------------------------------ guards

    def _refuse_when_stopping(self) -> None:
        if self._is_stopping:
            raise Refused("the daemon is stopping", code=Code.STOPPING)

    def _require_open(self) -> _Open:
        if self._open is None:
            if self._state is CameraState.INITIALIZING:
                raise Busy("the camera is being initialized; wait for it")
            raise _not_initialized()
        return self._open

    def _require_idle(self) -> _Open:
        self._refuse_when_stopping()
        opened = self._require_open()
        if self._closing is not None:
            raise Busy("the camera is being shut down", code=Code.NOT_IDLE)
        if opened.sequencer.is_running:
            raise Busy(
                f"the camera is {self._state.name}; stop or abort the sequence first",
                code=Code.NOT_IDLE,
            )
        opened.sequencer.settle()
        return opened

    # ------------------------------------------------------------ status

    @property
    def is_connecting(self) -> bool:
        """Whether a device is being opened, which may take as long as its driver's option says."""
        return self._state is CameraState.INITIALIZING

    @property
    def summary(self) -> Summary:
        """The summary state."""
        if self._is_stopping:
            return Summary.STOPPING
        if self._open is None:
            return Summary.BUSY if self._state is CameraState.INITIALIZING else Summary.STANDBY
        return Summary.READY if self._state is CameraState.IDLE else Summary.BUSY

    def status(self) -> dict[str, Any]:
        """Return the keys of :data:`nightjar.api.camera.STATUS_KEYS` that the model knows.

        Reads single attributes that the owner thread replaces; waits for nothing.
        """
        opened, wanted = self._open, self._setup.observation
        reading = opened.cooler.reading if opened else NO_READING
        capabilities = opened.capabilities if opened else None
        taken, limit, delay_s = opened.sequencer.progress() if opened else (0, 0, 0.0)
        window = wanted.window_of(capabilities) if capabilities else wanted.window
        started = opened.sequencer.exposure_started_ns if opened else None
        progress_s = None
        if started is not None:
            elapsed = (self._clock.monotonic_ns() - started) / NS_PER_S
            progress_s = round(min(elapsed, wanted.exposure_s), 3)
        operation, ring, counter = self._operation, self.ring, self._counter
        power = opened.cooler.power if opened else None
        return {
            "camera_id": self._config.camera_id,
            "summary": self.summary.name,
            "state": self._state.name,
            "state_since": iso(self._state_since_ns, 3),
            "health": self._health.snapshot(),
            "model": capabilities.model if capabilities else None,
            "serial": capabilities.serial if capabilities else None,
            "temperature": reading.telemetry.temperature_c,
            "cooler_mode": reading.mode.name,
            "cooler_power": None if power is None else round(power, 4),
            "cooler_setpoint": opened.cooler.setpoint_c if opened else None,
            "temperature_locked": reading.is_locked,
            "humidity": reading.telemetry.humidity_percent,
            "pressure": reading.telemetry.pressure_hpa,
            "housekeeping": dict(reading.telemetry.housekeeping),
            "exposure_time": wanted.exposure_s,
            "exposure_progress": progress_s,
            "delay": delay_s,
            "window": [window.x1, window.x2, window.y1, window.y2] if window else None,
            "binning": wanted.binning,
            "binning_method": wanted.binning_method,
            "gain": wanted.gain,
            "offset": wanted.offset,
            "filter": opened.wheel.name if opened else None,
            "filters": list(opened.wheel.names if opened else self._config.filters),
            "windows": sorted(self._config.windows),
            "stream": wanted.stream,
            "controls": _controls(wanted, capabilities),
            "sequence_frame_limit": limit,
            "sequence_frame_count": taken,
            "operation": operation.id if operation and not operation.is_done else None,
            "frame_number": counter.last if counter else None,
            "frames_taken": self.counts.taken,
            "frames_lost": self.counts.lost,
            "frames_invalid": self.counts.invalid,
            "buffer_used": ring.used if ring else 0,
            "buffer_slots": ring.slots if ring else 0,
            "buffer_waits": self.counts.buffer_waits,
            "last_error": self.last_error,
            "last_stop": self.last_stop,
        }  # fmt: skip


def _controls(wanted: Observation, capabilities: Capabilities | None) -> dict[str, Any]:
    """Return the value of every control; empty where the detector has none or is not open."""
    described = capabilities.controls if capabilities else ()
    return {control.name: control.default for control in described} | (
        dict(wanted.controls) if described else {}
    )


def _not_initialized() -> Refused:
    return Refused(
        "the camera has not been initialized; init it first", code=Code.NOT_INITIALIZED
    )
