# SPDX-License-Identifier: BSD-3-Clause
"""The logger process of one stream: ``python -m nightjard.fitslogd.logger OPTIONS``.

Its main thread moves frames from the ring into cubes and does nothing else; commands are taken by
a thread of their own and carried out between two frames, news and the look at the disk's free
space have threads, too. So it answers while a disk stalls. It ends, its cube closed, when its
daemon goes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import itertools
import json
import logging
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nightjar.child import Parent
from nightjar.clock import Clock, SystemClock
from nightjar.errors import Busy, Code, InvalidArgument, NightjarError, Refused, StorageError
from nightjar.files import free_bytes, locked
from nightjar.streams.layout import StreamGeometry
from nightjar.streams.reader import Frame, Frames, StreamReader, Wake
from nightjard.fitslogd import preflight
from nightjard.fitslogd.formats import check_compression
from nightjard.fitslogd.naming import LogSettings, cube_folder
from nightjard.fitslogd.progress import Position, Progress
from nightjard.fitslogd.recorder import Recorder, Totals
from nightjard.fitslogd.watch import StreamWatch

log = logging.getLogger(__name__)

_WAIT_S = 0.05
# Small frames come so fast that to be woken for each costs more than the frame, and half of what
# a wake-up costs is to get the program back into the processor's caches: the ring holds seconds of
# them, so they are fetched by the handful. Commands end the nap.
_NAP_RATE_HZ = 200.0
_NAP_S = 0.05
_NAP_BYTES = 12e6  # half of what waits for a disk: what came in a nap is written at one go
_NAP_OF_RING = 1 / 16
_HANDFUL_BYTES = 8_000_000  # some milliseconds: commands wait for it
_ANSWER_S = 0.06  # how long a command waits for the main thread before it answers "pending"
_PREPARE_S = 15.0
_LOOK_S = 0.5  # how often the stream's file is looked at, and the disk after a failure
_RETRY_S = 2.0
_LATE_NS = 10 * 10**9  # how late frames may come over a link that lags, and still be waited for
_REOPEN_S = 0.25  # between two attempts to attach to a stream
_LATEST_NS = 4_102_444_800_000_000_000  # 2100: a stamp beyond is none
_NEWS_S = 0.02  # at most so often
_SAVING = ("saving", "finishing")


@dataclass(frozen=True)
class Orders:
    """What a session shall be.

    Attributes
    ----------
    not_before_ns, not_after_ns
        Only frames acquired in [not_before, not_after) are kept.
    frames, cubes, until_ns
        Where it ends by itself.
    finish
        Ends with the present cube full.
    """

    session: str
    not_before_ns: int
    frames: int | None = None
    cubes: int | None = None
    until_ns: int | None = None
    not_after_ns: int | None = None
    finish: bool = False


class Logger:
    """One stream's logger.

    Parameters
    ----------
    options
        ``stream``; ``state``: folder of its small files; ``roots``: where cubes of dead loggers
        may lie.
    parent
        The daemon.
    clock
        Wall time.
    """

    def __init__(self, options: Mapping[str, Any], parent: Parent, clock: Clock) -> None:
        self.stream = str(options["stream"])
        self._parent = parent
        self._clock = clock
        self._roots = [Path(root) for root in options.get("roots", ())]
        self._progress = Progress(Path(options["state"]), self.stream, clock)
        self._recorder = Recorder(self.stream, clock, self._tell_cube, self._closing_failed)
        self._watch = StreamWatch(self.stream, clock)
        self._lock_path = Path(options["state"]) / f"{self.stream}.lock"
        self._requests: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._reader: StreamReader | None = None
        self._settings: LogSettings | None = None
        self._orders: Orders | None = None
        self._folder: Path | None = None
        self._looked_s = 0.0
        self._retry_s = 0.0
        self._changed = threading.Event()
        self._numbers = itertools.count(1)  # of snapshots: news and answers overtake each other
        self._ending = threading.Event()
        self._free: int | None = None
        self._highest_unread = 0
        self._resume: Position | None = None
        self._state = "idle"
        self._warning: str | None = None
        self._warned_of: str | None = None
        self._error: str | None = None
        self._identity: list[int] = []  # of the stream's file
        self._ended = ""  # the session that was over last
        self._known = 0  # counter of the stream's newest frame when it was attached to
        self._reopen_s = 0.0
        self._came_ns = 0  # when the last frame was read

    # ------------------------------------------------------------ life

    def run(self) -> None:
        """Log until the daemon goes."""
        self._parent.serve(
            {
                "prepare": self._prepare, "start": self._start, "pause": self._pause,
                "set": self._set, "release": self._release, "status": self.snapshot,
            }
        )  # fmt: skip
        for work, name in ((self._push, "status"), (self._watch_space, "space")):
            threading.Thread(target=work, name=name, daemon=True).start()
        try:
            with self._alone():
                self._progress.load()
                for root in self._roots:
                    self._recover(root)
                # Frames make no garbage in cycles; a collection in their midst only costs time.
                gc.collect()
                gc.freeze()
                self._parent.tell({"event": "ready"})
                self._log_frames()
        finally:
            self._ending.set()
            self._changed.set()

    def _log_frames(self) -> None:
        reason = "logger failed"
        try:
            while not self._parent.gone.is_set():
                self._turn()
            reason = "daemon stopped"
        finally:
            self._end_session(reason, is_over=False)
            self._recorder.stop(60.0)
            self._parent.tell({"event": "status", **self.snapshot()})

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until no other logger of this stream lives: one whose daemon died may be closing.

        Both would save the same frames otherwise.
        """
        path = self._lock_path
        with contextlib.ExitStack() as stack:
            while not self._parent.gone.is_set():
                try:
                    stack.enter_context(locked(path, f"the logger of {self.stream}"))
                except Refused as error:
                    self._warn("other", f"waits for the end of another: {error.message}")
                    self._parent.gone.wait(0.05)
                    continue
                except StorageError as error:
                    self._note("warning", f"{error.message}; another logger would not be noticed")
                break
            self._warn("other", None)
            yield

    def _turn(self) -> None:
        """Carry out commands, then as many frames as 50 ms hold."""
        self._recorder.settle()
        while not self._requests.empty():
            self._requests.get()()
        try:
            if self._state in _SAVING:
                self._save(time.monotonic() + _WAIT_S)
            elif self._state == "error" and self._orders is not None:
                self._try_again()
            else:
                self._wait_for_request(_WAIT_S)
        except StorageError as error:
            self._storage_failed(error)
        except OSError as error:
            self._storage_failed(StorageError(f"stream {self.stream}: {error}"))
        except NightjarError as error:
            self._end_cube("stream refused")
            self._close_reader()
            self._reopen_s = time.monotonic() + _REOPEN_S
            self._warn("frames", error.message)
            self._wait_for_request(_WAIT_S)

    def _wait_for_request(self, timeout_s: float) -> None:
        try:
            self._requests.get(timeout=timeout_s)()
        except queue.Empty:
            return

    def _recover(self, root: Path) -> None:
        """Make whole cubes of what dead loggers left below a folder."""
        for cube in self._progress.recover(root):
            self._tell_cube(cube)
            self._note("warning", f"{cube['path']}: {cube['frames']} frames of a logger that was "
                       f"killed were recovered")  # fmt: skip

    # ------------------------------------------------------------ commands (their own thread)

    def _do(self, work: Callable[[], None], timeout_s: float = _ANSWER_S) -> dict[str, Any]:
        """Have the main thread do something; the answer is the state, pending where it waits."""
        done: Future[None] = Future()
        is_late = threading.Event()

        def carry_out() -> None:
            try:
                work()
            except Exception as error:  # noqa: BLE001 - raised where the command was given
                done.set_exception(error)
                if is_late.is_set():  # nobody waits there any more
                    self._error = f"a command failed: {error}"
                    self._note("error", self._error)
            else:
                done.set_result(None)

        self._requests.put(carry_out)
        try:
            done.result(timeout_s)
        except FutureTimeout:
            is_late.set()
            if not done.done():
                return {**self.snapshot(), "pending": True}
            done.result()  # in that very moment
        self._changed.set()
        return {**self.snapshot(), "pending": False}

    def _prepare(self, **settings: Any) -> dict[str, Any]:
        wanted = LogSettings.parse(settings)
        return self._do(lambda: self._prepare_now(wanted), _PREPARE_S)

    def _start(
        self, session: str, not_before_ns: int, frames: int | None = None,
        cubes: int | None = None, until_ns: int | None = None, resume: bool = False,
    ) -> dict[str, Any]:  # fmt: skip
        orders = Orders(session, not_before_ns, frames, cubes, until_ns)
        return self._do(lambda: self._start_now(orders, resume=resume))

    def _pause(self, finish: bool = False, not_after_ns: int | None = None) -> dict[str, Any]:
        return self._do(lambda: self._pause_now(finish, not_after_ns))

    def _set(
        self, cube_frames: int | None = None, data_type: str | None = None,
        next_cube: bool = False,
    ) -> dict[str, Any]:  # fmt: skip
        if cube_frames is not None and (type(cube_frames) is not int or cube_frames < 1):
            raise InvalidArgument(f"cube_frames must be a whole number from 1, not {cube_frames!r}")
        return self._do(lambda: self._set_now(cube_frames, data_type, next_cube))

    def _release(self) -> dict[str, Any]:
        return self._do(self._release_now)

    # ------------------------------------------------------------ commands (main thread)

    def _prepare_now(self, settings: LogSettings) -> None:
        if self._state in _SAVING or self._orders is not None:
            raise Busy(
                f"stream {self.stream} is being logged; pause it first", code=Code.NOT_IDLE
            )
        self._watch.look()
        geometry = self._watch.require()
        folder = cube_folder(settings, self.stream, self._clock.now_ns())
        preflight.check_pixels(geometry, self.stream)
        preflight.check_path(settings, folder, self.stream)
        preflight.check_folder(settings, folder)
        if settings.compress:
            check_compression(geometry.dtype)
        needed = preflight.session_bytes(settings, geometry.frame_bytes, self._watch.rate_hz, None)
        preflight.check_space(settings, folder, needed)
        root = Path(settings.root)
        if root not in self._roots:
            self._roots.append(root)
            self._recover(root)
        self._recorder.try_again()
        self._judge_stream()
        self._settings, self._folder, self._error = settings, folder, None
        self._free = free_bytes(folder)
        self._set_state("armed")

    def _start_now(self, orders: Orders, *, resume: bool) -> None:
        settings = self._settings
        if settings is None:
            raise Refused(f"the logger of {self.stream} is not prepared", code=Code.NOT_PERMITTED)
        if self._orders is not None:
            if self._orders.session == orders.session:
                return  # the same command again
            raise Busy(
                f"stream {self.stream} is being logged in session {self._orders.session}",
                code=Code.NOT_IDLE,
            )
        if orders.session == self._ended:
            return  # the same command again, late: the session has ended meanwhile
        position = self._progress.position(orders.session) if resume else None
        totals = position.totals if position is not None else Totals()
        if orders.frames is not None and self._watch.frame_bytes is not None:
            left = max(0, orders.frames - totals.saved)
            needed = preflight.session_bytes(settings, self._watch.frame_bytes, None, left)
            preflight.check_space(settings, Path(settings.root), needed)
        number = position.number if position is not None else 0
        self._recorder.begin(orders.session, number=number, totals=totals)
        self._error, self._resume, self._identity = None, position, []
        self._save_position(is_over=position is not None and position.is_over)
        if position is not None and (position.is_over or self._is_enough(orders)):
            self._ended = orders.session  # killed between its end and the news of it
            return
        self._highest_unread = 0
        self._orders = orders
        self._reopen_s = 0.0
        try:
            self._open_reader()
        except StorageError:
            self._orders = None
            raise
        self._set_state("saving")

    def _is_enough(self, orders: Orders) -> bool:
        """Tell whether a session has all the frames or cubes that were asked for."""
        recorder = self._recorder
        return (orders.frames is not None and recorder.totals.saved >= orders.frames) or (
            orders.cubes is not None and recorder.cube_index >= orders.cubes
        )

    def _pause_now(self, finish: bool, not_after_ns: int | None) -> None:
        if self._orders is None:
            return
        if finish and self._state == "saving" and self._recorder.frames == 0:
            finish = False  # no cube is open: there is none to fill
        if finish:
            self._orders = dataclasses.replace(self._orders, finish=True)
        else:
            ends_ns = not_after_ns or self._clock.now_ns()
            if self._orders.not_after_ns is not None:  # said twice: the earlier one holds
                ends_ns = min(ends_ns, self._orders.not_after_ns)
            self._orders = dataclasses.replace(self._orders, not_after_ns=ends_ns, finish=False)
        if self._state == "error":
            self._end_session("paused")
        else:
            self._set_state("finishing")

    def _set_now(self, cube_frames: int | None, data_type: str | None, next_cube: bool) -> None:
        settings = self._settings
        if settings is None:
            raise Refused(f"the logger of {self.stream} is not prepared", code=Code.NOT_PERMITTED)
        if cube_frames is not None:
            settings = dataclasses.replace(settings, cube_frames=cube_frames)
        if data_type is not None:
            settings = dataclasses.replace(settings, data_type=data_type)
        self._settings = settings
        if next_cube:
            self._cube_over("next cube")
        elif self._recorder.frames >= settings.cube_frames:
            self._cube_over("full")

    def _release_now(self) -> None:
        self._end_session("released")
        self._settings = None
        self._set_state("idle")

    # ------------------------------------------------------------ frames

    def _save(self, until_s: float) -> None:
        reader = self._reader
        if reader is None:
            if time.monotonic() >= self._reopen_s:
                self._open_reader()
            if self._reader is None:
                self._check_end(0)
                self._wait_for_request(_WAIT_S)
            return
        while time.monotonic() < until_s and self._orders is not None:
            frames = reader.next_frames(self._handful(reader))
            if frames is None:
                self._check_end(reader.unread)
                if self._orders is None or self._reader is not reader:
                    return
                gather_s = gathering_s(self._watch.rate_hz or 0.0, reader.geometry)
                if gather_s and self._state == "saving":  # finishing: the next may end it
                    self._wait_for_request(gather_s)
                    if reader.unread or self._reader is not reader:
                        return
                if reader.wait(_WAIT_S) is Wake.REPLACED:
                    self._follow(reader)
                return
            if frames.count == 1:
                self._on_frame(frames.first, reader)
            else:
                self._on_frames(frames, reader)
            if not self._requests.empty():
                return
        unread = reader.unread
        self._highest_unread = max(self._highest_unread, unread)
        now_s = time.monotonic()
        if now_s - self._looked_s > _LOOK_S:
            self._looked_s = now_s
            # A writer may go on filling a file whose name was taken from it.
            if reader.is_replaced() and unread < 2:
                self._follow(reader)
            self._check_end(unread)

    def _handful(self, reader: StreamReader) -> int:
        """Return how many frames may be taken at once: no cube or session ends among them."""
        orders, settings, recorder = self._orders, self._settings, self._recorder
        assert orders is not None
        assert settings is not None
        count = min(
            recorder.room, settings.cube_frames - recorder.frames,
            _HANDFUL_BYTES // reader.geometry.frame_bytes,
        )  # fmt: skip
        if orders.frames is not None:
            count = min(count, orders.frames - recorder.totals.saved)
        return max(1, count)

    def _on_frames(self, frames: Frames, reader: StreamReader) -> None:
        """Save several frames at once where nothing but saving is to be done."""
        orders, settings = self._orders, self._settings
        assert orders is not None
        assert settings is not None
        times_ns = frames.times_ns()
        atimes_ns = times_ns[0].tolist()
        ends = [t for t in (orders.not_after_ns, orders.until_ns) if t is not None]
        is_plain = self._warned_of != "behind" and min(atimes_ns) > 0
        if is_plain and (not ends or max(atimes_ns) < min(ends)):
            self._came_ns = now_ns = self._clock.now_ns()
            if self._recorder.take_run(frames, times_ns, reader, now_ns):
                self._judge_length(orders, settings)
                return
        left = frames.count
        for frame in frames.each():
            if self._orders is None or self._reader is not reader:
                return
            left -= 1
            try:
                self._on_frame(frame, reader)
            except NightjarError:
                reader.give_back(frames, left)
                raise

    def _judge_length(self, orders: Orders, settings: LogSettings) -> None:
        """End the session or the cube that has all its frames."""
        if orders.frames is not None and self._recorder.totals.saved >= orders.frames:
            self._end_session("frames taken", complete=True)
        elif self._recorder.frames >= settings.cube_frames or self._recorder.is_filled:
            self._cube_over("full")
        elif settings.max_cube_seconds is not None:
            self._check_age(settings.max_cube_seconds)

    def _on_frame(self, frame: Frame, reader: StreamReader) -> None:
        orders, settings = self._orders, self._settings
        assert orders is not None
        assert settings is not None
        self._came_ns = now_ns = self._clock.now_ns()
        if frame.atime_ns >= _LATEST_NS:  # words that nobody has set
            frame.atime_ns = 0
        if frame.writetime_ns >= _LATEST_NS:
            frame.writetime_ns = 0
        stamp = frame.atime_ns or frame.writetime_ns
        if not stamp:
            if frame.counter <= self._known:  # nobody knows when it came, but before us
                self._recorder.skip(frame.counter)
                return
            stamp = now_ns
        if stamp < orders.not_before_ns and self._recorder.totals.saved == 0:
            self._recorder.skip(frame.counter)
            if not reader.unread:
                self._judge_stamp(stamp, orders, now_ns)
            return
        if self._warned_of == "behind":
            self._warn("behind", None)
        if orders.not_after_ns is not None and stamp >= orders.not_after_ns:
            self._recorder.count_gap(frame, orders.not_after_ns)
            self._end_session("paused")
            return
        if orders.until_ns is not None and stamp >= orders.until_ns:
            self._recorder.count_gap(frame, orders.until_ns)
            self._end_session("end time")
            return
        if not self._recorder.take(frame, reader, settings, now_ns):
            # The writer is upon us: more frames would be read in vain.
            depth = reader.geometry.depth
            reader.keep_newest(depth - depth // 8)
            return
        self._judge_length(orders, settings)

    def _judge_stamp(self, stamp: int, orders: Orders, now_ns: int) -> None:
        """Warn where the newest frame is stamped before the start although that is long past."""
        late_ns = now_ns - orders.not_before_ns
        if late_ns > self._watch.patience_s * 1e9 and self._warned_of in (None, "behind"):
            self._warn("behind", (
                f"the time stamps of stream {self.stream} are {(now_ns - stamp) / 1e9:.1f} s "
                f"behind this machine's clock: no frame is saved until they reach the start; "
                f"see the camera's clock, and stamps in the stream's configuration"
            ))  # fmt: skip

    def _check_age(self, longest_s: float) -> None:
        if self._recorder.frames and self._recorder.age_s >= longest_s:
            self._cube_over("max time")

    def _cube_over(self, reason: str) -> None:
        """End the cube, and the session where that was its last."""
        if not self._recorder.frames:
            return
        self._end_cube(reason)
        orders = self._orders
        if orders is not None and (orders.finish or self._is_enough(orders)):
            self._end_session(reason)

    def _check_end(self, unread: int) -> None:
        """End a session, or a cube, whose frames do not come any more."""
        settings = self._settings
        if settings is not None and settings.max_cube_seconds is not None:
            self._check_age(settings.max_cube_seconds)
        orders = self._orders
        if orders is None or unread:
            return
        ends = [t for t in (orders.not_after_ns, orders.until_ns) if t is not None]
        # Over a link that lags, frames of the session come when its time is over.
        quiet_ns = min(max(min(ends), self._came_ns), min(ends) + _LATE_NS) if ends else 0
        patience_ns = round(self._watch.patience_s * 1e9)
        if ends and self._clock.now_ns() > quiet_ns + patience_ns:
            self._end_session("paused" if orders.not_after_ns is not None else "end time")
        elif orders.finish and self._recorder.frames == 0:
            self._end_session("full")

    def _open_reader(self) -> None:
        """Attach to the stream, at the position of a dead logger where there is one.

        Else the frames in the ring are looked at, too: some that came while this process attached
        may belong to the session.
        """
        position = self._resume
        began_ns = self._clock.now_ns()
        self._reopen_s = time.monotonic() + _REOPEN_S
        try:
            reader = None
            if position is not None and position.counter is not None:
                reader = self._attach(position.counter + 1)
                if list(reader.identity) != position.identity:
                    reader.close()
                    reader = None
                else:
                    self._recorder.skip(position.counter)
                    self._known = 0
            if reader is None:
                reader = self._attach("oldest")
                self._known = reader.counter if reader.identity[1] <= began_ns else 0
        except Refused:
            self._watch.look()
            self._judge_stream()
            return
        try:
            self._check_pixels(reader)
        except Refused:
            reader.close()
            raise
        self._reader, self._resume = reader, None
        self._warn("frames", None)

    def _attach(self, start: Literal["oldest"] | int) -> StreamReader:
        return StreamReader(
            self.stream, start=start, clock=self._clock, stamps=self._stamps
        )

    @property
    def _stamps(self) -> Literal["utc", "tai"]:
        return self._settings.stamps if self._settings is not None else "utc"

    def _check_pixels(self, reader: StreamReader) -> None:
        """Raise Refused where frames cannot be logged."""
        preflight.check_pixels(reader.geometry, self.stream)
        if self._settings is not None and self._settings.compress:
            check_compression(reader.geometry.dtype)

    def _follow(self, reader: StreamReader) -> None:
        """Go on with the file that the stream's name leads to now."""
        before, at_end = reader.geometry, reader.keywords()
        if not reader.relink():
            self._wait_for_request(0.005)
            return
        after = reader.geometry
        is_same = before.frame_shape == after.frame_shape and before.dtype == after.dtype
        self._recorder.forget_position()
        self._known = 0
        self._save_position()
        self._recorder.end_cube(
            "stream made anew" if is_same else "geometry", at_end, self._cube_frames()
        )
        if not is_same:
            shape = "x".join(str(n) for n in after.frame_shape)
            self._note("info", f"stream {self.stream} has frames of {shape} {after.dtype} now")
        self._check_pixels(reader)
        if self._orders is not None and (self._orders.finish or self._is_enough(self._orders)):
            self._end_session("geometry")

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    # ------------------------------------------------------------ ends

    def _cube_frames(self) -> int:
        return self._settings.cube_frames if self._settings is not None else 0

    def _end_cube(
        self, reason: str, expected: int | None = None, *, is_over: bool = False
    ) -> None:
        reader = self._reader
        at_end = reader.keywords() if reader is not None else {}
        # First: once the cube has its name nothing else tells a successor of its frames.
        self._save_position(is_over=is_over)
        self._recorder.end_cube(reason, at_end, expected or self._cube_frames())

    def _save_position(self, *, is_over: bool = False) -> None:
        recorder, reader = self._recorder, self._reader
        counter = recorder.last_counter
        if reader is not None:
            self._identity = list(reader.identity)
        elif self._resume is not None:  # attached to nothing since it was taken up
            self._identity, counter = self._resume.identity, self._resume.counter
        identity = self._identity
        self._progress.save(
            recorder.session,
            Position(recorder.cube_index, recorder.totals, counter, identity, is_over),
        )

    def _end_session(self, reason: str, *, complete: bool = False, is_over: bool = True) -> None:
        """Close the cube and be armed again.

        Parameters
        ----------
        complete
            It has all the frames that were asked for.
        is_over
            False where another logger is to go on with it.
        """
        if self._orders is None:
            return
        self._end_cube(reason, self._recorder.frames if complete else None, is_over=is_over)
        if is_over:
            self._ended = self._orders.session
        self._orders = None
        self._warn("behind", None)
        self._close_reader()
        self._set_state("armed")

    def _storage_failed(self, error: StorageError) -> None:
        """Close the cube with what it has; frames are counted until there is room again."""
        self._error = error.message
        self._note("error", error.message)
        if self._orders is None:
            return
        self._end_cube("no space" if error.code is Code.NO_SPACE else "storage failed")
        self._retry_s = time.monotonic() + _RETRY_S
        if self._orders.finish or self._orders.not_after_ns is not None:
            self._end_session("storage failed")
        else:
            self._set_state("error")

    def _closing_failed(self, error: StorageError) -> None:
        """Take note of a cube that could not be closed (from the closing thread)."""
        self._error = error.message
        self._requests.put(lambda: self._storage_failed(error))

    def _try_again(self) -> None:
        """After a failure: go on as soon as files can be made again."""
        settings, watch = self._settings, self._watch
        assert settings is not None
        self._check_end(0)
        if self._orders is None:
            return
        if time.monotonic() < self._retry_s:
            self._wait_for_request(_WAIT_S)
            return
        self._retry_s = time.monotonic() + _RETRY_S
        folder = cube_folder(settings, self.stream, self._clock.now_ns())
        try:
            preflight.check_folder(settings, folder)
            # For some seconds: a cube for each file that somebody deletes helps nobody.
            frames = min(settings.cube_frames, round(2 * _RETRY_S * (watch.rate_hz or 1.0)))
            preflight.check_space(settings, folder, frames * (watch.frame_bytes or 0))
        except StorageError as error:
            self._error = error.message
            return
        self._error = None
        self._recorder.try_again()
        self._note("info", f"stream {self.stream} is being logged again")
        self._set_state("saving")

    # ------------------------------------------------------------ news

    def _set_state(self, state: str) -> None:
        self._state = state
        self._changed.set()

    def _warn(self, kind: str, text: str | None) -> None:
        """Set the warning of a kind, or take it back; told once, though its words may change."""
        if text is None:
            if self._warned_of == kind:
                self._warning = self._warned_of = None
            return
        is_new = kind != self._warned_of
        self._warning, self._warned_of = text, kind
        if is_new:
            self._note("warning", text)

    def _judge_stream(self) -> None:
        """Warn of a stream that is missing or stands still, or whose clock is another."""
        watch, reader = self._watch, self._reader
        kind, text = "", None
        if watch.problem is not None:
            kind, text = "stream", watch.problem
        elif reader is not None and reader.is_removed():
            kind, text = "stream", f"stream {self.stream} was removed; it is waited for"
        elif still := preflight.check_alive(self.stream, watch.age_s, watch.patience_s):
            kind, text = "still", still
        elif watch.ahead_s is not None and (reader is not None or self._stamps == "utc"):
            kind, text = "ahead", (
                f"the time stamps of stream {self.stream} are {watch.ahead_s:.1f} s ahead of this "
                f"machine's clock; where they are TAI (37 s), set stamps to tai in its "
                f"configuration"
            )
        if self._warned_of in ("frames", "other"):
            return  # weightier, and not for this to take back
        for each in ("stream", "still", "ahead"):
            if each != kind:
                self._warn(each, None)
        if text is not None:
            self._warn(kind, text)

    def _note(self, level: str, text: str) -> None:
        log.log(getattr(logging, level.upper()), "%s", text)
        self._parent.tell({"event": "note", "level": level, "text": text})

    def _tell_cube(self, cube: dict[str, Any]) -> None:
        self._parent.tell({"event": "cube", "stream": self.stream, **cube})
        self._changed.set()

    def _push(self) -> None:
        """Tell the daemon the state: five times a second while saving, else once."""
        while not self._ending.is_set():
            self._changed.wait(0.2 if self._state in _SAVING else 1.0)
            self._changed.clear()
            try:
                self._watch.look(self._reader)
                if self._state != "idle":
                    self._judge_stream()
                self._parent.tell({"event": "status", **self.snapshot()})
            except Exception:  # without news the daemon would be blind
                log.exception("news of %s", self.stream)
            self._ending.wait(_NEWS_S)

    def _watch_space(self) -> None:
        """Look at the disk, which may hang on a dead mount, from a thread of its own."""
        while not self._ending.wait(1.0):
            settings = self._settings
            if settings is None:
                continue
            folder = Path(settings.root)
            try:
                self._free = free_bytes(folder)
            except OSError:
                self._free = None
                continue
            if self._free < settings.minimum_free_bytes and self._state in _SAVING:
                error = StorageError(
                    f"{self._free / 1e6:.0f} MB free in {folder}, "
                    f"{settings.minimum_free_bytes / 1e6:.0f} MB are kept free; make room there",
                    code=Code.NO_SPACE,
                )
                self._requests.put(lambda error=error: self._low_space(error))  # type: ignore[misc]

    def _low_space(self, error: StorageError) -> None:
        if self._state in _SAVING:
            self._storage_failed(error)

    def snapshot(self) -> dict[str, Any]:
        """Return the state: plain values, read without waiting for anything."""
        number = next(self._numbers)  # before the state is looked at: a higher one is newer
        watch, recorder, orders, settings = (
            self._watch, self._recorder, self._orders, self._settings,
        )  # fmt: skip
        totals, reader = recorder.totals, self._reader
        # A stream that stands still has no rate, whatever it was before.
        rate, frame_bytes = watch.rate_hz if watch.is_alive else None, watch.frame_bytes
        flow = rate * frame_bytes if rate and frame_bytes else None
        file = recorder.file
        return {
            "number": number,
            "state": self._state,
            "stream": self.stream,
            "session": orders.session if orders is not None else None,
            "last_session": recorder.session or None,
            "over": self._ended or None,  # of one that begins nothing is over though it is armed
            "shape": watch.shape,
            "dtype": watch.dtype,
            "rate_hz": rate,
            "is_alive": watch.is_alive,
            "age_s": watch.age_s,
            "ring_depth": watch.depth,
            "ring_seconds": round(watch.depth / rate, 3) if rate and watch.depth else None,
            "ring_unread": reader.unread if reader is not None else 0,
            "ring_highest": self._highest_unread,
            "cube_frames": settings.cube_frames if settings is not None else None,
            "cube_index": recorder.frames,
            "cube_count": recorder.cube_index,
            "frames_saved": totals.saved,
            "missed": totals.missed,
            "torn": totals.torn,
            "duplicated": totals.duplicated,
            "frames_limit": orders.frames if orders is not None else None,
            "cubes_limit": orders.cubes if orders is not None else None,
            "until_ns": orders.until_ns if orders is not None else None,
            "not_before_ns": orders.not_before_ns if orders is not None else None,
            "folder": str(file.parent if file is not None else self._folder)
            if file is not None or self._folder is not None else None,
            "file": str(file) if file is not None else None,
            "last_file": recorder.last_file,
            "bytes_written": totals.bytes,
            "write_mb_s": watch.note_bytes(totals.bytes),
            "free_bytes": self._free,
            "seconds_left": round(self._free / flow, 1) if flow and self._free else None,
            "closing": recorder.closing,
            "warning": self._warning,
            "error": self._error,
        }  # fmt: skip


def gathering_s(rate_hz: float, geometry: StreamGeometry) -> float:
    """Return how long frames may gather in the ring before they are fetched; 0: not at all."""
    if rate_hz <= _NAP_RATE_HZ:
        return 0.0
    frames = min(_NAP_OF_RING * geometry.depth, _NAP_BYTES / geometry.frame_bytes)
    return min(_NAP_S, frames / rate_hz)


def main(arguments: list[str]) -> int:
    """Run the logger that the daemon asked for."""
    parent = Parent.connect()
    # The frames' thread shall get the interpreter back soon after each of its system calls.
    sys.setswitchinterval(0.001)
    Logger(json.loads(arguments[0]), parent, SystemClock()).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
