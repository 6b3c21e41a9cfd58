# SPDX-License-Identifier: BSD-3-Clause
"""A fast camera: what it shall do, what its grabber does, and what happens when that fails.

One thread owns the grabber: it starts it, asks it, and ends it when it gives no sign of life. What
the camera shall do (be connected, stream) is kept apart from what it does, so that after a failure
it is brought back to it. Knows neither RPC nor how processes are made.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from nightjar.api.states import CameraState, Level, Summary
from nightjar.child import Backoff
from nightjar.clock import NS_PER_S, Clock
from nightjar.errors import (
    Busy,
    Cancelled,
    Code,
    DeviceWedged,
    NightjarError,
    Refused,
)
from nightjar.health import Health
from nightjar.operations import Operation, Operations
from nightjar.times import iso
from nightjard.camd.fast.config import FastCameraConfig
from nightjard.camd.fast.keywords import (
    Entries,
    computed_keywords,
    default_keywords,
    given_keyword,
)
from nightjard.camd.fast.link import CALL_TIMEOUT_S, GrabberLink, MakeProcess
from nightjard.camd.fast.options import VcamOptions
from nightjard.camd.fast.settings import Camera, Geometry, News, Wanted
from nightjard.camd.fast.situation import Situation
from nightjard.camd.fast.snapshot import counts_part, news_part, settings_part
from nightjard.camd.owner import Owner

log = logging.getLogger(__name__)

PART = "camera"
TURN_S = 0.1
MAKE_TIMEOUT_S = 20.0  # of a question for which the grabber may make a stream
ABORT_TIMEOUT_S = 2.0


class FastCamera:
    """The truth about one fast camera.

    Parameters
    ----------
    config
        Of the camera.
    make_process
        Makes a grabber.
    tell
        Takes a line for the observatory log.
    clock, health, operations
        As everywhere.
    """

    def __init__(
        self, config: FastCameraConfig, make_process: MakeProcess, tell: Callable[[str], None],
        clock: Clock, health: Health, operations: Operations,
    ) -> None:  # fmt: skip
        self._config = config
        self._tell = tell
        self._clock = clock
        self._health = health
        self._operations = operations
        self._owner = Owner("owner", self._step, clock)
        self._link = GrabberLink(make_process, self, clock)
        self._ending = threading.Event()
        self._state = CameraState.OFFLINE
        self._state_ns = clock.now_ns()
        self._camera: Camera | None = None
        self._geometry: Geometry | None = None
        self._wanted = Wanted.of(config)
        self._own_keywords: Entries = config.own_keywords()
        self._given_keywords: Entries = {}
        self._restarts = 0
        # What it shall do, beside the settings.
        self._shall_be_open = self._shall_stream = False
        self._limit = 0
        self._retry_ns: int | None = None
        self._backoff = Backoff()
        self._operation: Operation | None = None  # the command under way
        self._sequence: Operation | None = None  # the start with a count under way
        self._last_error: dict[str, str] | None = None
        self._last_stop: str | None = None

    # ---------------------------------------------------------------- life

    def start_thread(self) -> None:
        """Start the owner thread; with ``autostart`` the camera as well."""
        if self._config.autostart:
            self._shall_be_open = self._shall_stream = True
            self._retry_ns = self._clock.monotonic_ns()
        self._owner.start()

    def close_for_exit(self, report: Callable[[str], None]) -> None:
        """Stop streaming, remove the stream, end the grabber and the owner thread."""
        report("ending the grabber")
        self._ending.set()
        self._shall_be_open = self._shall_stream = False
        try:
            self._link.ask("close")
        except NightjarError as error:
            log.debug("the grabber did not close in order: %s", error.message)
        self._link.drop()
        self._owner.end()

    @property
    def beat_ns(self) -> int:
        """Monotonic time of the owner thread's last turn."""
        return self._owner.beat_ns

    @property
    def is_asking(self) -> bool:
        """Whether the owner thread waits for the grabber's answer."""
        return self._link.is_asking

    def watch(self) -> None:
        """End a grabber that hangs while the owner thread waits for it; for another thread."""
        self._link.watch(self._config.grabber_timeout)

    def _step(self) -> float:
        self.turn()
        return TURN_S

    def turn(self) -> None:
        """Carry out what was asked for and look after the grabber: a turn of the owner thread."""
        self._owner.beat()
        silent_s = self._link.silent_s
        if silent_s > self._config.grabber_timeout:
            self._lose(
                DeviceWedged(f"the grabber has given no sign of life for {silent_s:.1f} s")
            )
        if self._retry_ns is not None and self._clock.monotonic_ns() >= self._retry_ns:
            self._retry_ns = None
            self._recover()

    def _later(self, work: Callable[[], None]) -> None:
        """Have the owner thread do something in its next turn."""

        def guarded() -> None:
            try:
                work()
            except NightjarError as error:
                log.warning("%s", error.message)
            except Exception:
                log.exception("internal error")

        self._owner.post(guarded)

    def _enter(self, state: CameraState) -> None:
        if state is not self._state:
            self._state, self._state_ns = state, self._clock.now_ns()

    # ---------------------------------------------------------------- the grabber's news

    def on_progress(self, published: int) -> None:
        """Take note of the sequence's frames; called by the grabber's reader thread."""
        sequence, limit = self._sequence, self._limit
        if sequence is not None and limit:
            sequence.update(published / limit, "streaming")

    def on_sequence_end(self, count: int, reason: str) -> None:
        """The grabber stopped by itself; called by its reader thread."""
        self._later(lambda: self._sequence_ended(count, reason))

    def on_failure(self, error: NightjarError) -> None:
        """The source failed or the grabber ended; called by its reader thread."""
        self._later(lambda: self._lose(error))

    # ---------------------------------------------------------------- losing and bringing back

    def _ask(
        self, command: str, arguments: Mapping[str, Any] | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> Any:  # fmt: skip
        """Ask the grabber; one that does not answer is ended."""
        try:
            return self._link.ask(command, arguments, timeout_s)
        except DeviceWedged as error:
            self._lose(error)
            raise

    def _lose(self, error: NightjarError) -> None:
        """The camera or its grabber failed: tell, and plan to bring it back."""
        if not self._link.is_there or self._ending.is_set():
            return
        lived_s = self._link.lived_s
        self._restarts += 1
        self._link.drop(kill=isinstance(error, DeviceWedged))
        self._fail(error, lived_s, "")

    def _fail(self, error: NightjarError, lived_s: float, what: str) -> None:
        self._geometry = None
        self._note_error(error)
        self._end_sequence(error)
        self._enter(CameraState.OFFLINE)
        if self._config.reconnect and self._shall_be_open:
            pause_s = self._backoff.next_pause_s(lived_s)
            self._retry_ns = self._clock.monotonic_ns() + round(pause_s * NS_PER_S)
            plan = f"trying again in {pause_s:.1f} s"
        else:
            self._shall_be_open = self._shall_stream = False
            plan = "init it again"
        text = f"{what}{error.message}; {plan}"
        self._health.set(PART, Level.DEGRADED, text)
        log.error("%s", text)

    def _recover(self) -> None:
        """Bring the camera to what it shall be."""
        if not self._shall_be_open or self._link.is_there or self._ending.is_set():
            return
        if self._connect() is None:
            if self._shall_stream:
                self._stream(0)
            self._tell("the camera is back" if self._restarts else "the camera is ready")

    def _connect(self) -> NightjarError | None:
        """Start a grabber, connect and make the stream; return why it failed."""
        self._enter(CameraState.INITIALIZING)
        try:
            reply = self._link.open(self._config.open_timeout)
            self._camera = Camera.of(reply, self._config.own_crops())
            self._apply(self._wanted)
        except NightjarError as error:
            lived_s = self._link.lived_s
            self._link.drop(kill=isinstance(error, DeviceWedged))
            self._fail(error, lived_s, "init failed: ")
            return error
        self._health.ok(PART)
        self._enter(CameraState.IDLE)
        return None

    def _note_error(self, error: NightjarError) -> None:
        self._last_error = {
            "time": iso(self._clock.now_ns(), 3), "name": error.code.name,
            "message": error.message,
        }  # fmt: skip

    # ---------------------------------------------------------------- commands: the whole

    def init(self) -> Operation:
        """Connect and make the stream."""
        if self._link.is_there:
            raise Refused("the camera is initialised", code=Code.ALREADY_INITIALIZED)
        self._refuse_while_busy()

        def work(operation: Operation) -> str:
            self._shall_be_open, self._retry_ns = True, None
            operation.update(stage="connecting")
            error = None if self._link.is_there else self._connect()
            if error is not None:
                raise error
            assert self._camera is not None
            return f"{self._camera.model} {self._camera.serial}"

        return self._operate("init", work)

    def shutdown(self) -> Operation:
        """Disconnect and remove the stream."""

        def work(operation: Operation) -> str:
            self._shall_be_open = self._shall_stream = False
            self._retry_ns = None
            self._end_sequence(Cancelled("the camera was shut down"))
            if self._link.is_there:
                self._enter(CameraState.CLOSING)
                operation.update(stage="disconnecting")
                try:
                    self._link.ask("close")
                except NightjarError as error:
                    log.warning("the grabber did not close in order: %s", error.message)
                self._link.drop()
            self._camera = self._geometry = None
            self._health.ok(PART)
            self._enter(CameraState.OFFLINE)
            return ""

        return self._operate("shutdown", work)

    def start(self, count: int) -> Operation:
        """Start streaming; for `count` frames where it is not 0."""
        self._require_open()
        if self._state is CameraState.STREAMING:
            raise Busy("the camera is streaming; stop it first", code=Code.NOT_IDLE)
        self._refuse_while_busy()

        def work(operation: Operation) -> str | None:
            self._require_open()
            self._sequence = operation if count else None
            try:
                self._stream(count)
            except NightjarError:
                self._sequence = None
                self._shall_stream = False
                raise
            return None if count else f"streaming into {self._config.stream}"

        return self._operate("start", work, lambda: self._later(lambda: self._stop("cancelled")))

    def _stream(self, count: int) -> None:
        self._shall_stream, self._limit = count == 0, count
        self._last_stop = None
        self._ask("start", {"count": count})
        self._enter(CameraState.STREAMING)

    def stop(self) -> None:
        """Stop after the present frame."""
        self._require_open()
        if self._state is not CameraState.STREAMING and not self._shall_stream:
            raise Refused("the camera is not streaming", code=Code.NOT_ACQUIRING)
        self._shall_stream = False
        self._later(lambda: self._stop("stopped"))

    def abort(self) -> Operation:
        """Stop now; a grabber that does not answer is ended."""
        self._require_open()

        def work(_: Operation) -> str:
            try:
                self._stop("aborted", ABORT_TIMEOUT_S)
            except DeviceWedged as error:
                return f"{error.message} and was ended"
            return ""

        return self._operate("abort", work)

    def _stop(self, reason: str, timeout_s: float = CALL_TIMEOUT_S) -> None:
        self._shall_stream = False
        if self._state is CameraState.STREAMING:
            ended = self._ask("stop", {"reason": reason}, timeout_s)
            self._sequence_ended(ended["count"], reason)

    def _sequence_ended(self, count: int, reason: str) -> None:
        if self._state is not CameraState.STREAMING:
            return
        self._enter(CameraState.IDLE)
        self._last_stop = f"{reason} after {count} frames"
        sequence, limit = self._sequence, self._limit
        self._sequence, self._limit = None, 0
        if sequence is not None:
            self._forget(sequence)
            if count >= limit:
                sequence.finish({"count": count}, f"{count} frames are published")
            else:
                sequence.fail(Cancelled(f"{reason} after {count} of {limit} frames"))

    def _end_sequence(self, error: NightjarError) -> None:
        sequence, self._sequence = self._sequence, None
        self._limit = 0
        if sequence is not None:
            self._forget(sequence)
            sequence.fail(error)

    def _operate(
        self, name: str, work: Callable[[Operation], str | None],
        on_cancel: Callable[[], None] | None = None,
    ) -> Operation:  # fmt: skip
        """Begin an operation that the owner thread carries out.

        `work` returns the message of its end; None leaves it running.
        """
        operation = self._operations.begin(name, on_cancel)
        if self._operation is None:
            self._operation = operation

        def run() -> None:
            try:
                message = work(operation)
            except Exception as error:
                if not isinstance(error, NightjarError):
                    log.exception("internal error in %s", name)
                    error = NightjarError(f"internal error: {error}", code=Code.INTERNAL)
                self._note_error(error)
                self._forget(operation)
                operation.fail(error)
            else:
                if message is not None:
                    self._forget(operation)
                    operation.finish(None, message)

        self._owner.post(run)
        return operation

    def _forget(self, operation: Operation) -> None:
        if self._operation is operation:
            self._operation = None

    def _require_open(self) -> None:
        if not self._link.is_there or self._camera is None:
            raise Refused("the camera is not initialised", code=Code.NOT_INITIALIZED)

    def _refuse_while_busy(self) -> None:
        operation = self._operation
        if operation is not None and not operation.is_done:
            raise Busy(f"{operation.name} is under way", operation=operation.id)

    # ---------------------------------------------------------------- commands: settings

    def set(self, changes: Mapping[str, Any]) -> None:
        """Change settings that mostly need no new stream; done on return.

        Raises
        ------
        Refused, InvalidArgument
            Something is not possible; nothing changed.
        """
        self._check(changes)
        self._owner.ask(lambda: self._change(changes), self._state.name)

    def reshape(self, changes: Mapping[str, Any], name: str) -> Operation:
        """Change settings of which some may need a new stream."""
        self._check(changes)
        if self._operation is not self._sequence:
            self._refuse_while_busy()

        def work(running: Operation) -> str:
            state = self._state
            if self._link.is_there:
                self._enter(CameraState.CONFIGURING)
                running.update(stage="configuring")
            began_ns = self._clock.monotonic_ns()
            try:
                self._change(changes)
            finally:
                if self._state is CameraState.CONFIGURING:
                    self._enter(state)
            seconds = (self._clock.monotonic_ns() - began_ns) / NS_PER_S
            if self._geometry is None:
                return "it holds from the next init on"
            rows, columns = self._geometry.shape
            return f"{columns} x {rows} pixels, ready after {seconds:.2f} s"

        return self._operate(name, work)

    def _changed(self, changes: Mapping[str, Any]) -> Wanted:
        camera = self._camera
        return self._wanted.with_changes(camera.named(changes) if camera else changes)

    def _check(self, changes: Mapping[str, Any]) -> None:
        wanted, camera = self._changed(changes), self._camera
        if camera is not None:
            camera.resolve(wanted)
        elif wanted.crop:
            known = self._config.known_crops()
            if known is not None and wanted.crop not in known:
                raise Refused(
                    f"no crop {wanted.crop!r}; there are: {', '.join(known)}",
                    code=Code.UNKNOWN_ITEM, crop=wanted.crop,
                )  # fmt: skip

    def _change(self, changes: Mapping[str, Any]) -> None:
        wanted = self._changed(changes)
        if self._link.is_there:
            self._apply(wanted)
        else:
            self._wanted = wanted

    def _apply(self, wanted: Wanted) -> None:
        """Have the grabber take settings, all or nothing."""
        assert self._camera is not None
        settings = self._camera.resolve(wanted)
        config = self._config
        plan = {
            "name": config.stream, "ring_seconds": config.ring_seconds,
            "ring_bytes": config.ring_bytes, "least_frames": config.ring_frames,
            "mode": config.permissions, "group": config.stream_group,
            "keyword_slots": config.stream_keywords,
        }  # fmt: skip
        situation = Situation.expected(settings, wanted, self._camera, self._link.news.telemetry)
        reply = self._ask(
            "configure",
            {"settings": settings, "plan": plan, "keywords": self._keywords(situation)},
            MAKE_TIMEOUT_S,
        )
        self._wanted, self._geometry = wanted, Geometry.of(reply)
        # What the camera made of the settings: rounded windows, exposures, rates.
        found = situation.found(self._geometry)
        if found != situation:
            self._ask("set_keywords", {"keywords": listed(computed_keywords(found))})

    def _default_keywords(self) -> Entries:
        source = self._config.source
        number = source.camera if isinstance(source, VcamOptions) else 1
        return default_keywords(number, self._config.camera_id)

    def _keywords(self, situation: Situation) -> dict[str, list[Any]]:
        return listed(
            {
                **self._default_keywords(), **self._own_keywords, **self._given_keywords,
                **computed_keywords(situation),
            }
        )  # fmt: skip

    def set_keyword(self, name: str, value: Any, comment: str | None) -> None:
        """Set a keyword of the stream, now and for every stream to come."""
        entry = given_keyword(name, value, comment)
        if comment is None:
            known = {**self._default_keywords(), **self._own_keywords, **self._given_keywords}
            entry = (entry[0], known[name][1] if name in known else "")

        def change() -> None:
            if self._link.is_there:
                self._ask("set_keywords", {"keywords": listed({name: entry})})
            self._given_keywords = {**self._given_keywords, name: entry}

        self._owner.ask(change, self._state.name)

    # ---------------------------------------------------------------- status

    @property
    def stream_path(self) -> str | None:
        """File of the stream; None while there is none."""
        geometry = self._geometry
        return geometry.path if geometry is not None else None

    @property
    def news(self) -> News:
        """What the grabber told last."""
        return self._link.news

    @property
    def summary(self) -> Summary:
        """What it can do for you now."""
        if self._ending.is_set():
            return Summary.STOPPING
        if self._state in (CameraState.OFFLINE, CameraState.INITIALIZING):
            return Summary.STANDBY
        return Summary.READY if self._state is CameraState.IDLE else Summary.BUSY

    def status(self) -> dict[str, Any]:
        """Return the model's part of the snapshot; waits for nothing."""
        camera, geometry, operation = self._camera, self._geometry, self._operation
        return {
            "mode": "stream",
            "camera_id": self._config.camera_id,
            "summary": self.summary.name,
            "state": self._state.name,
            "state_since": iso(self._state_ns, 3),
            "health": self._health.snapshot(),
            "source": self._config.source.name,
            "stream": self._config.stream,
            **settings_part(self._wanted, camera, geometry),
            **news_part(self._link.news, geometry),
            **counts_part(self._link.counts()),
            "crops": sorted(camera.crops if camera else self._config.known_crops() or ()),
            "keywords": {name: entry[0] for name, entry in self._given_keywords.items()},
            "sequence_frame_limit": self._limit,
            "operation": operation.id if operation is not None and not operation.is_done else None,
            "grabber_pid": self._link.pid,
            "grabber_restarts": self._restarts,
            "last_error": self._last_error,
            "last_stop": self._last_stop,
        }


def listed(entries: Entries) -> dict[str, list[Any]]:
    """Return keywords as plain JSON values."""
    return {name: [value, comment] for name, (value, comment) in entries.items()}
