# SPDX-License-Identifier: BSD-3-Clause
"""A fast camera: what it shall do, what its grabber does, and what happens when that fails.

One thread owns the grabber: it starts it, asks it, and ends it when it gives no sign of life. What
the camera shall do (be connected, stream) is kept apart from what it does, so that after a failure
it is brought back to it. Knows neither RPC nor the processes behind :class:`Link`.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from nightjar.api.states import CameraState, Level, Summary
from nightjar.child import Backoff
from nightjar.clock import NS_PER_S, Clock
from nightjar.errors import (
    Busy,
    Cancelled,
    Code,
    DeviceLost,
    DeviceWedged,
    NightjarError,
    Refused,
    TimedOut,
    Unreachable,
    error_for,
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
from nightjard.camd.fast.options import VcamOptions
from nightjard.camd.fast.settings import Camera, Geometry, News, Wanted, summed
from nightjard.camd.fast.situation import Situation
from nightjard.camd.geometry import Region

log = logging.getLogger(__name__)

PART = "camera"
TURN_S = 0.1
CALL_TIMEOUT_S = 3.0  # of a short question to the grabber
MAKE_TIMEOUT_S = 20.0  # of one for which it may make a stream
ABORT_TIMEOUT_S = 2.0
SET_TIMEOUT_S = 4.0  # how long a setting may wait for the owner thread


class Link(Protocol):
    """The grabber process; :class:`nightjar.child.Child` is one."""

    @property
    def pid(self) -> int | None:
        """Process id."""
        ...

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        ...

    @property
    def lived_s(self) -> float:
        """Seconds since its start."""
        ...

    def start(self) -> None:
        """Start it."""
        ...

    def ask(
        self, command: str, arguments: Mapping[str, Any] | None = None, timeout_s: float = 5.0
    ) -> Any:
        """Return its answer."""
        ...

    def stop(self, timeout_s: float) -> None:
        """End it in order."""
        ...

    def kill(self) -> None:
        """End it at once."""
        ...


MakeLink = Callable[[Callable[[dict[str, Any]], None], Callable[[str], None]], Link]


class Outlets(Protocol):
    """Where the model tells what people should know."""

    def info(self, text: str) -> None:
        """Tell the observatory log."""
        ...

    def warning(self, text: str) -> None:
        """Tell what a person should look at."""
        ...

    def error(self, text: str) -> None:
        """Tell of a failure."""
        ...


class _Task:
    """Something for the owner thread to do."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call = call
        self.done = threading.Event()
        self.result: Any = None
        self.error: NightjarError | None = None


class FastCamera:
    """The truth about one fast camera.

    Parameters
    ----------
    config
        Of the camera.
    make_link
        Makes a grabber, not yet started, from a taker of messages and one of its end.
    outlets, clock, health, operations
        As everywhere.
    """

    def __init__(
        self, config: FastCameraConfig, make_link: MakeLink, outlets: Outlets, clock: Clock,
        health: Health, operations: Operations,
    ) -> None:  # fmt: skip
        self._config = config
        self._make_link = make_link
        self._out = outlets
        self._clock = clock
        self._health = health
        self._operations = operations
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="owner", daemon=True)
        self._ending = threading.Event()
        self._state = CameraState.OFFLINE
        self._state_ns = clock.now_ns()
        self._link: Link | None = None
        self._camera: Camera | None = None
        self._geometry: Geometry | None = None
        self._wanted = Wanted.of(config)
        self._own_keywords: Entries = config.own_keywords()
        self._set_keywords: Entries = {}
        self._news = News()
        self._news_ns = 0
        self._totals: dict[str, int] = {}
        self._restarts = 0
        # What it shall do, beside the settings.
        self._shall_be_open = self._shall_stream = False
        self._limit = 0
        self._retry_ns: int | None = None
        self._backoff = Backoff()
        self._operation: Operation | None = None
        self._sequence: Operation | None = None
        self._last_error: dict[str, str] | None = None
        self._last_stop: str | None = None
        self.beat_ns = clock.monotonic_ns()
        self.is_asking = False

    # ---------------------------------------------------------------- life

    def start_thread(self) -> None:
        """Start the owner thread; with ``autostart`` the camera as well."""
        self._thread.start()
        if self._config.autostart:
            self._shall_be_open = self._shall_stream = True
            self._submit(self._recover)

    def close_for_exit(self, report: Callable[[str], None]) -> None:
        """Stop streaming, remove the stream, end the grabber and the owner thread."""
        report("ending the grabber")
        self._ending.set()
        self._shall_be_open = self._shall_stream = False
        link = self._link
        if link is not None and link.is_alive:
            try:
                link.ask("close", timeout_s=CALL_TIMEOUT_S)
            except NightjarError as error:
                log.warning("the grabber did not close in order: %s", error.message)
            link.stop(2.0)
        self._tasks.put(None)
        if self._thread.is_alive():
            self._thread.join(10.0)

    def _submit(self, call: Callable[[], Any]) -> _Task:
        task = _Task(call)
        self._tasks.put(task)
        return task

    def _settle(self, call: Callable[[], Any]) -> Any:
        """Have the owner thread do something short and return its result."""
        task = self._submit(call)
        if not task.done.wait(SET_TIMEOUT_S):
            raise TimedOut("the camera is at another command; the setting follows it")
        if task.error is not None:
            raise task.error
        return task.result

    def _run(self) -> None:
        while True:
            try:
                task = self._tasks.get(timeout=TURN_S)
            except queue.Empty:
                self._turn()
                continue
            if task is None:
                return
            try:
                task.result = task.call()
            except NightjarError as error:
                task.error = error
            except Exception as error:
                log.exception("internal error")
                task.error = NightjarError(f"internal error: {error}", code=Code.INTERNAL)
            task.done.set()
            self._turn()

    def _turn(self) -> None:
        """Look after the grabber; once a turn of the owner thread."""
        now_ns = self._clock.monotonic_ns()
        self.beat_ns = now_ns
        link = self._link
        if link is not None and link.is_alive:
            silent_s = (now_ns - self._news_ns) / NS_PER_S
            if silent_s > self._config.grabber_timeout:
                self._lose(
                    DeviceWedged(f"the grabber has given no sign of life for {silent_s:.1f} s"),
                    kill=True,
                )  # fmt: skip
        if self._retry_ns is not None and now_ns >= self._retry_ns and not self._ending.is_set():
            self._retry_ns = None
            self._recover()

    def turn(self) -> None:
        """Do what the owner thread does each turn; for tests without the thread."""
        while True:
            try:
                task = self._tasks.get_nowait()
            except queue.Empty:
                break
            if task is not None:
                try:
                    task.result = task.call()
                except NightjarError as error:
                    task.error = error
                task.done.set()
        self._turn()

    def _enter(self, state: CameraState) -> None:
        if state is not self._state:
            self._state, self._state_ns = state, self._clock.now_ns()

    # ---------------------------------------------------------------- the grabber

    def _ask(
        self, command: str, arguments: Mapping[str, Any] | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> Any:  # fmt: skip
        """Ask the grabber; one that does not answer is ended."""
        link = self._link
        if link is None:
            raise Refused("the camera is not initialised", code=Code.NOT_INITIALIZED)
        self.is_asking = True
        try:
            return link.ask(command, arguments, timeout_s)
        except TimedOut as error:
            wedged = DeviceWedged(f"{error.message}; it is ended")
            self._lose(wedged, kill=True)
            raise wedged from None
        except Unreachable as error:
            raise DeviceLost(error.message) from None
        finally:
            self._news_ns = self._clock.monotonic_ns()
            self.is_asking = False

    def _on_message(self, message: dict[str, Any], link: Link) -> None:
        """Take news of a grabber; called by its reader thread."""
        if link is not self._link:
            return
        if "news" in message:
            news = News(**message["news"])
            self._news_ns = self._clock.monotonic_ns()
            self._news = news
            sequence = self._sequence
            if sequence is not None and self._limit:
                sequence.update(news.sequence / self._limit, "streaming")
        elif "ended" in message:
            ended = message["ended"]
            self._submit(lambda: self._sequence_ended(ended["count"], ended["reason"]))
        elif "failed" in message:
            failed = message["failed"]
            error = error_for(Code.from_name(failed["code"]), failed["message"])
            self._submit(lambda: self._lose(error, kill=False))

    def _on_end(self, how: str, link: Link) -> None:
        self._submit(lambda: self._ended(how, link))

    def _ended(self, how: str, link: Link) -> None:
        if link is self._link and not self._ending.is_set():
            self._lose(DeviceLost(f"the grabber ended ({how})"), kill=False)

    def _start_link(self) -> None:
        """Start a grabber and connect to the camera."""
        holder: list[Link] = []
        link = self._make_link(
            lambda message: self._on_message(message, holder[0]),
            lambda how: self._on_end(how, holder[0]),
        )
        holder.append(link)
        self._link = link
        self._news, self._news_ns = News(), self._clock.monotonic_ns()
        link.start()
        reply = self._ask("open", timeout_s=self._config.open_timeout)
        self._camera = Camera.of(reply, self._config.own_crops())
        self._news = News(telemetry=reply["telemetry"])

    def _drop_link(self, *, kill: bool) -> None:
        link, self._link = self._link, None
        if link is not None:
            self._totals = summed(self._totals, self._news)
            self._news = self._news.ended()
            if kill:
                link.kill()
            link.stop(2.0)
        self._geometry = None

    def _lose(self, error: NightjarError, *, kill: bool) -> None:
        """The camera or its grabber failed: tell, and plan to bring it back."""
        if self._link is None:
            return
        lived_s = self._link.lived_s
        self._restarts += 1
        self._drop_link(kill=kill)
        self._note_error(error)
        self._end_sequence(error)
        self._enter(CameraState.OFFLINE)
        pause = self._plan_retry(lived_s)
        self._health.set(PART, Level.DEGRADED, f"{error.message}{pause}")
        self._out.error(f"{error.message}{pause}")

    def _plan_retry(self, lived_s: float) -> str:
        if not self._config.reconnect or not self._shall_be_open:
            self._shall_be_open = self._shall_stream = False
            return "; init it again"
        pause_s = self._backoff.next_pause_s(lived_s)
        self._retry_ns = self._clock.monotonic_ns() + round(pause_s * NS_PER_S)
        return f"; trying again in {pause_s:.1f} s"

    def _recover(self) -> None:
        """Bring the camera to what it shall be."""
        if not self._shall_be_open or self._link is not None:
            return
        try:
            self._connect()
            if self._shall_stream:
                self._begin_streaming(self._limit)
        except NightjarError as error:
            self._connecting_failed(error)
        else:
            self._out.info("the camera is back" if self._restarts else "the camera is ready")

    def _connect(self) -> None:
        self._enter(CameraState.INITIALIZING)
        self._start_link()
        self._apply(self._wanted)
        self._health.ok(PART)
        self._enter(CameraState.IDLE)

    def _connecting_failed(self, error: NightjarError) -> None:
        lived_s = self._link.lived_s if self._link is not None else 0.0
        self._drop_link(kill=False)
        self._note_error(error)
        self._enter(CameraState.OFFLINE)
        pause = self._plan_retry(lived_s)
        self._health.set(PART, Level.DEGRADED, f"init failed: {error.message}{pause}")
        log.warning("init failed: %s%s", error.message, pause)

    def _note_error(self, error: NightjarError) -> None:
        self._last_error = {
            "time": iso(self._clock.now_ns(), 3), "name": error.code.name,
            "message": error.message,
        }  # fmt: skip

    # ---------------------------------------------------------------- commands: the whole

    def init(self) -> Operation:
        """Connect and make the stream."""
        if self._link is not None:
            raise Refused("the camera is initialised", code=Code.ALREADY_INITIALIZED)
        self._refuse_while_busy()

        def work(operation: Operation) -> str:
            self._shall_be_open, self._retry_ns = True, None
            if self._link is None:
                operation.update(stage="connecting")
                try:
                    self._connect()
                except NightjarError as error:
                    self._connecting_failed(error)
                    raise
            assert self._camera is not None
            return f"{self._camera.model} {self._camera.serial}"

        return self._operate("init", work)

    def shutdown(self) -> Operation:
        """Disconnect and remove the stream."""

        def work(operation: Operation) -> str:
            self._shall_be_open = self._shall_stream = False
            self._retry_ns = None
            self._end_sequence(Cancelled("the camera was shut down"))
            link = self._link
            if link is not None:
                self._enter(CameraState.CLOSING)
                operation.update(stage="disconnecting")
                try:
                    self._ask("close")
                except NightjarError as error:
                    log.warning("the grabber did not close in order: %s", error.message)
                self._drop_link(kill=False)
            self._camera = None
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
        operation = self._operations.begin("start", self._cancel)
        self._operation = operation

        def work() -> None:
            try:
                self._require_open()
                self._shall_stream = count == 0
                self._limit = count
                self._sequence = operation if count else None
                self._begin_streaming(count)
            except NightjarError as error:
                self._shall_stream = False
                self._sequence = None
                self._operation = None
                self._note_error(error)
                operation.fail(error)
            else:
                if not count:
                    self._operation = None
                    operation.finish(None, f"streaming into {self._config.stream}")

        self._submit(work)
        return operation

    def _begin_streaming(self, count: int) -> None:
        self._last_stop = None
        self._ask("start", {"count": count})
        self._enter(CameraState.STREAMING)

    def _cancel(self) -> None:
        self._submit(lambda: self._stop("cancelled"))

    def stop(self) -> None:
        """Stop after the present frame."""
        self._require_open()
        if self._state is not CameraState.STREAMING and not self._shall_stream:
            raise Refused("the camera is not streaming", code=Code.NOT_ACQUIRING)
        self._shall_stream = False
        self._submit(lambda: self._stop("stopped"))

    def abort(self) -> Operation:
        """Stop now; a grabber that does not answer is ended."""
        self._require_open()

        def work(operation: Operation) -> str:
            self._shall_stream = False
            if self._state is CameraState.STREAMING:
                self._stop("aborted", ABORT_TIMEOUT_S)
            return ""

        return self._operate("abort", work)

    def _stop(self, reason: str, timeout_s: float = CALL_TIMEOUT_S) -> None:
        self._shall_stream = False
        if self._state is not CameraState.STREAMING:
            return
        try:
            ended = self._ask("stop", {"reason": reason}, timeout_s)
        except NightjarError as error:
            self._note_error(error)
            raise
        self._sequence_ended(ended["count"], reason)

    def _sequence_ended(self, count: int, reason: str) -> None:
        self._last_stop = f"{reason} after {count} frames"
        if self._state is CameraState.STREAMING:
            self._enter(CameraState.IDLE)
        sequence, limit = self._sequence, self._limit
        self._sequence = None
        self._limit = 0
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

    def _operate(self, name: str, work: Callable[[Operation], str]) -> Operation:
        """Begin an operation that the owner thread carries out."""
        operation = self._operations.begin(name)
        if self._operation is None:
            self._operation = operation

        def run() -> None:
            try:
                message = work(operation)
            except NightjarError as error:
                self._note_error(error)
                self._forget(operation)
                operation.fail(error)
            else:
                self._forget(operation)
                operation.finish(None, message)

        self._submit(run)
        return operation

    def _forget(self, operation: Operation) -> None:
        if self._operation is operation:
            self._operation = None

    def _require_open(self) -> None:
        if self._link is None or self._camera is None:
            raise Refused("the camera is not initialised", code=Code.NOT_INITIALIZED)

    def _refuse_while_busy(self) -> None:
        operation = self._operation
        if operation is not None and not operation.is_done:
            raise Busy(f"{operation.name} is under way", operation=operation.id)

    # ---------------------------------------------------------------- commands: settings

    def set(self, changes: Mapping[str, Any]) -> None:
        """Change settings that need no new stream; done on return.

        Raises
        ------
        Refused, InvalidArgument
            Something is not possible; nothing changed.
        """
        wanted = self._checked(changes)
        if self._link is None:
            self._wanted = wanted
            return
        self._settle(lambda: self._apply(self._wanted.with_changes(changes)))

    def reshape(self, changes: Mapping[str, Any], name: str) -> Operation:
        """Change settings of which some may need a new stream."""
        self._checked(changes)
        operation = self._operation
        if operation is not None and not operation.is_done and operation is not self._sequence:
            raise Busy(f"{operation.name} is under way", operation=operation.id)

        def work(running: Operation) -> str:
            if self._link is None:
                self._wanted = self._wanted.with_changes(changes)
                return "it holds from the next init on"
            state = self._state
            self._enter(CameraState.CONFIGURING)
            running.update(stage="configuring")
            began_ns = self._clock.monotonic_ns()
            try:
                self._apply(self._wanted.with_changes(changes))
            finally:
                if self._state is CameraState.CONFIGURING:
                    self._enter(state)
            seconds = (self._clock.monotonic_ns() - began_ns) / NS_PER_S
            geometry = self._geometry
            assert geometry is not None
            rows, columns = geometry.shape
            return f"{columns} x {rows} pixels, ready after {seconds:.2f} s"

        return self._operate(name, work)

    def _checked(self, changes: Mapping[str, Any]) -> Wanted:
        wanted = self._wanted.with_changes(changes)
        camera = self._camera
        if camera is not None:
            camera.resolve(wanted)
        elif wanted.window is None and "crop" in changes:
            known = self._config.known_crops()
            if known is not None and wanted.crop not in known:
                raise Refused(
                    f"no crop {wanted.crop!r}; there are: {', '.join(known)}",
                    code=Code.UNKNOWN_ITEM, crop=wanted.crop,
                )  # fmt: skip
        return wanted

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
        situation = Situation.expected(settings, wanted, self._camera, self._news.telemetry)
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

    def _keywords(self, situation: Situation) -> dict[str, list[Any]]:
        source = self._config.source
        camera = source.camera if isinstance(source, VcamOptions) else 1
        return listed(
            {
                **default_keywords(camera, self._config.camera_id), **self._own_keywords,
                **self._set_keywords, **computed_keywords(situation),
            }
        )  # fmt: skip

    def set_keyword(self, name: str, value: Any, comment: str | None) -> None:
        """Set a keyword of the stream, now and for every stream to come."""
        entry = given_keyword(name, value, comment)
        if comment is None:
            known = {**default_keywords(1, ""), **self._own_keywords, **self._set_keywords}
            entry = (entry[0], known[name][1] if name in known else "")
        if self._link is not None:
            self._settle(lambda: self._ask("set_keywords", {"keywords": listed({name: entry})}))
        self._set_keywords = {**self._set_keywords, name: entry}

    # ---------------------------------------------------------------- status

    @property
    def stream_path(self) -> str | None:
        """File of the stream; None while there is none."""
        geometry = self._geometry
        return geometry.path if geometry is not None else None

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
        camera, geometry, wanted, news = self._camera, self._geometry, self._wanted, self._news
        operation, link = self._operation, self._link
        counts = summed(self._totals, news) if link is not None else dict(self._totals)
        window = geometry.window if geometry else _window(wanted, camera)
        counter, hardware = news.counter, news.hardware_id
        return {
            "mode": "stream",
            "camera_id": self._config.camera_id,
            "summary": self.summary.name,
            "state": self._state.name,
            "state_since": iso(self._state_ns, 3),
            "health": self._health.snapshot(),
            "source": self._config.source.name,
            "model": camera.model if camera else None,
            "serial": camera.serial if camera else None,
            "temperature": news.telemetry.get("temperature_c"),
            "crop": wanted.crop,
            "window": list(window) if window else None,
            "shape": list(geometry.shape) if geometry else None,
            "pixel_type": geometry.pixel_type if geometry else None,
            "readout_mode": wanted.readout_mode or (camera.readout_modes[0] if camera else None),
            "exposure_time": geometry.exposure_s if geometry else wanted.exposure,
            "rate_asked": wanted.rate,
            "rate_expected": geometry.rate_hz if geometry else None,
            "rate_limit": geometry.max_rate_hz if geometry else None,
            "rate": news.rate,
            "data_rate": news.rate * geometry.frame_bytes if geometry else 0.0,
            "external_trigger": wanted.trigger,
            "flc": news.telemetry.get("flc"),
            "data_type": wanted.data_type,
            "keywords": {name: entry[0] for name, entry in self._set_keywords.items()},
            "stream": self._config.stream,
            "stream_path": geometry.path if geometry else None,
            "ring_frames": geometry.depth if geometry else None,
            "ring_seconds": geometry.ring_seconds if geometry else None,
            "ring_bytes": geometry.depth * geometry.frame_bytes if geometry else None,
            "counter": counter,
            "newest": iso(news.atime_ns, 6) if news.atime_ns else None,
            "hardware_id": hardware,
            "hardware_offset": (
                hardware - counter if hardware is not None and counter is not None else None
            ),
            "frames_published": counts.get("published", 0),
            "frames_lost": counts.get("lost", 0),
            "frames_late": counts.get("late", 0),
            "frames_incomplete": counts.get("incomplete", 0),
            "pulses_missed": counts.get("missed", 0),
            "sequence_frame_limit": self._limit,
            "sequence_frame_count": news.sequence,
            "operation": operation.id if operation is not None and not operation.is_done else None,
            "crops": sorted(camera.crops if camera else self._config.known_crops() or ()),
            "readout_modes": list(camera.readout_modes) if camera else [],
            "grabber_pid": link.pid if link is not None else None,
            "grabber_restarts": self._restarts,
            "frame_cost_us": news.cost_us,
            "last_error": self._last_error,
            "last_stop": self._last_stop,
        }


def _window(wanted: Wanted, camera: Camera | None) -> tuple[int, int, int, int] | None:
    region: Region | None = wanted.window
    if region is None and camera is not None:
        region = camera.crops.get(wanted.crop)
    return (region.x1, region.x2, region.y1, region.y2) if region else None


def listed(entries: Entries) -> dict[str, list[Any]]:
    """Return keywords as plain JSON values."""
    return {name: [value, comment] for name, (value, comment) in entries.items()}
