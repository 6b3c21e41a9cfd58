# SPDX-License-Identifier: BSD-3-Clause
"""The data acquisition: what it is doing, what it may do, what is wrong."""

from __future__ import annotations

import logging
import queue
import threading
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from typing import Any

from nightjar import __version__
from nightjar.api.das import DasState
from nightjar.api.states import Level, Summary
from nightjar.clock import NS_PER_S, Clock
from nightjar.das.naming import minute_of
from nightjar.errors import Code, InvalidArgument, NightjarError, Refused, TimedOut
from nightjar.files import free_bytes, locked
from nightjar.health import Health
from nightjar.times import iso
from nightjard.dasd.clockcheck import ClockState
from nightjard.dasd.config import DasConfig
from nightjard.dasd.drivers.base import Adc
from nightjard.dasd.feed import Feed
from nightjard.dasd.leftovers import folders_near, take_over
from nightjard.dasd.levels import Levels
from nightjard.dasd.memory import Memory
from nightjard.dasd.outlook import Outlook
from nightjard.dasd.pipeline import Pipeline
from nightjard.dasd.places import require_output
from nightjard.dasd.recorder import LOCK_NAME, Plan, Recorder

log = logging.getLogger(__name__)

IDLE_S = 0.25
TICK_NS = NS_PER_S
REMEMBER_NS = 20 * NS_PER_S
COMMAND_S = 4.0


class Acquisition:
    """One DAS. Three threads: the feed's, :meth:`run`, and one that calls :meth:`look_around`.

    Parameters
    ----------
    config
        As configured.
    adc
        Not open.
    clock, health
        For deadlines; told what is wrong.
    state
        Folder of what must survive a restart.
    look_at_clock
        Returns the state of the host's clock, within half a second.
    ask_telescope
        Returns what the telescope's daemon tells of it; raises NightjarError where it is away.
        None where there is no telescope.
    """

    def __init__(
        self,
        config: DasConfig,
        adc: Adc,
        clock: Clock,
        health: Health,
        state: Path,
        look_at_clock: Callable[[], ClockState],
        ask_telescope: Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:
        rate_hz, count = config.adc.sample_rate_hz, config.channels.count
        self.config = config
        self.feed = Feed(adc, rate_hz, count, clock, health)
        self.pipeline = Pipeline(rate_hz, count)
        self.levels = Levels(
            self.pipeline.ring, config.channels, config.levels, config.adc.volts_per_lsb
        )
        self.beat_ns = clock.monotonic_ns()
        self._adc, self._clock, self._health = adc, clock, health
        self.outlook = Outlook(config, clock, health, look_at_clock, ask_telescope)
        self._memory = Memory(state)
        self._rescue_root = state / "rescued"
        self._boot_id = uuid.uuid4().hex
        self._commands: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = (
            queue.SimpleQueue()
        )
        self._stopping = threading.Event()
        self.recorder: Recorder | None = None
        """The recording, or the last one."""
        self.is_running = False
        self.ended: str | None = None
        self.failure = ""
        """Why a recording stopped by itself; "" where none did."""
        self._ticked_ns = self._remembered_ns = 0
        self.free: int | None = None

    # --- the thread that writes ---------------------------------------------------------------

    def run(self) -> None:
        """Write until :meth:`close`: the body of a thread."""
        self._guarded(self._take_over)
        while not self._stopping.is_set():
            self._clock.wait(self.feed.wake, IDLE_S)
            self.feed.wake.clear()
            self.beat_ns = self._clock.monotonic_ns()
            self._carry_out()
            self._guarded(self._drain)
            if self.beat_ns - self._ticked_ns >= TICK_NS:
                self._ticked_ns = self.beat_ns
                self._guarded(self._tick)
        self._guarded(self._drain)
        try:
            self._end("the DAS was stopped", forget=False)
        except Exception as error:
            # What could not be published stays hidden: the next life publishes it and goes on.
            log.exception("the last minute was not published: %s", error)
        self._carry_out()

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do what may fail; a failure ends the recording, never the thread."""
        try:
            work()
        except NightjarError as error:
            self._fail(error.message)
        except Exception as error:
            log.exception("recording")
            self._fail(f"internal error: {error}; see the daemon's journal")

    def _carry_out(self) -> None:
        while True:
            try:
                command, future = self._commands.get_nowait()
            except queue.Empty:
                return
            try:
                future.set_result(command())
            except Exception as error:  # noqa: BLE001 - it is raised where the command was given
                future.set_exception(error)

    def _drain(self) -> None:
        while (found := self.feed.take()) is not None:
            self.pipeline.take(*found)

    def _tick(self) -> None:
        recorder = self.recorder
        if recorder is None or not self.is_running:
            return
        recorder.tick(self.now_ns())
        if self.pipeline.held:
            recorder.warnings["clock"] = self.pipeline.held
        if recorder.warnings:
            self._health.set("recording", Level.DEGRADED, "; ".join(recorder.warnings.values()))
        else:
            self._health.ok("recording")
        if self.beat_ns - self._remembered_ns > REMEMBER_NS:
            self._remembered_ns = self.beat_ns
            self._memory.remember(recorder.plan.root, recorder.plan.is_test, self.now_ns())

    def now_ns(self) -> int:
        """Return UTC by the clock of the ADC's host, as it is recorded by."""
        return self._adc.host.now_ns() + self.pipeline.wall.held_ns

    # --- begin and end of a recording, in the thread that writes ---------------------------------

    def _take_over(self) -> None:
        """Go on with the recording that a killed or stopped daemon had, or publish what it left."""
        now = self.now_ns()
        left = self._memory.recall(now, self.config.resume_limit_s)
        if left is not None:
            log.warning("going on with the recording in %s", left[0])
            self._begin(*left)
            return
        root = Path(self.config.raw_root)
        if root.is_dir():
            try:
                with locked(root / LOCK_NAME, f"a DAS that writes {root}"):
                    for folder in folders_near(root, now):
                        take_over(folder, now, self.outlook.told, goes_on=False)
            except Refused as error:
                log.warning("%s; what it left is not looked at", error.message)

    def _begin(self, root: Path, is_test: bool) -> dict[str, Any]:
        plan = Plan(
            root, is_test, self._rescue_root, lambda start_ns: self._header(start_ns, is_test),
            lambda: self.outlook.told, self.now_ns,
        )  # fmt: skip
        self._drain()  # what came before is not recorded
        self.recorder = Recorder(self.config, plan, self.now_ns())
        self.pipeline.recorder = self.recorder
        self.is_running, self.ended, self.failure = True, None, ""
        self._ticked_ns = self._remembered_ns = self.beat_ns
        self._memory.remember(root, is_test, self.now_ns())
        self._health.ok("recording")
        log.info("recording in %s%s", root, " (test)" if is_test else "")
        return {"root": str(root), "is_test": is_test}

    def _end(self, why: str, *, forget: bool) -> None:
        recorder = self.recorder
        self.pipeline.end_recording()
        if forget:
            self._memory.forget()
        if recorder is None or not self.is_running:
            return
        self.is_running, self.ended = False, why
        if not forget:
            self._memory.remember(recorder.plan.root, recorder.plan.is_test, self.now_ns())
        try:
            recorder.close(why)
        except NightjarError as error:
            self.ended = f"{why}; {error.message}"
            raise
        finally:
            log.info("the recording ended: %s", self.ended)

    def _fail(self, message: str) -> None:
        """End the recording because of a failure: a person must see to it."""
        recorder = self.recorder
        try:
            self._end(message, forget=True)
        except NightjarError as error:
            message = f"{message}; moreover {error.message}"
        if recorder is not None and recorder.counts.last_file:
            at = Path(recorder.counts.last_file)
            if self._rescue_root in at.parents:
                message += f"; its last minute is in {at}"
        self.failure = message
        self._health.set("recording", Level.FAILED, f"the recording stopped: {message}")
        log.error("the recording stopped: %s", message)

    def _header(self, start_ns: int, is_test: bool) -> dict[str, Any]:
        """Return the header of a minute; see nightjar.das.raw."""
        config, adc = self.config, self.config.adc
        about = self._adc.capabilities
        return {
            "format": "DASRAW1", "instrument": config.instrument, "site": config.site,
            "serial": self._memory.next_serial(), "boot_id": self._boot_id,
            "utc_start": iso(start_ns, 9), "utc_start_ns": start_ns,
            "minute_of_day": minute_of(start_ns), "sample_rate_hz": adc.sample_rate_hz,
            "n_channels": config.channels.count, "n_slots": adc.n_slots, "dtype": "<i2",
            "adc_min_v": adc.min_v, "adc_max_v": adc.max_v, "volts_per_lsb": adc.volts_per_lsb,
            "gain": list(adc.gain), "convert_interval_s": adc.convert_interval_s,
            "scan_order": "by channel number", "sample_ref": about.sample_ref,
            "channel_map_sha256": config.channels.digest, "clock": self.outlook.told,
            "software": f"nightjar {__version__}", "simulated": about.is_simulated,
            "test": is_test, "adc": self.feed.about,
        }  # fmt: skip

    # --- commands, from any thread ----------------------------------------------------------------

    def _ask(self, command: Callable[[], Any]) -> Any:
        future: Future[Any] = Future()
        self._commands.put((command, future))
        self.feed.wake.set()
        try:
            return future.result(COMMAND_S)
        except FutureTimeout:
            raise TimedOut(
                f"the thread that writes has not answered for {COMMAND_S:g} s: the disk hangs; it "
                "may still carry the command out: look at status"
            ) from None

    def start(self, test: bool, output: str | None) -> dict[str, Any]:
        """Begin to record.

        Raises
        ------
        Refused
            A recording runs; the telescope's logs are stale; the clock is bad; the ADC is away.
        StorageError
            The folder is missing or full.
        """
        if self._stopping.is_set():
            raise Refused("the daemon is stopping", code=Code.STOPPING)
        if test != (output is not None):
            raise InvalidArgument("a test needs an output folder, and only a test has one")
        if self.is_running and self.recorder is not None:
            raise Refused(
                f"a recording runs already, in {self.recorder.plan.root}: das stop ends it"
            )
        if not self.feed.is_connected:
            raise Refused(f"the ADC is away: {self.feed.reason}", code=Code.NOT_INITIALIZED)
        root = Path(self.config.raw_root)
        if output is not None:
            root = require_output(self.config, output)
        else:
            self.outlook.require_fresh()
        self.outlook.require_clock()

        def begin() -> Any:
            if self.is_running:
                raise Refused("a recording runs already: das stop ends it")
            return self._begin(root, test)

        value: dict[str, Any] = self._ask(begin)
        return value

    def stop(self) -> dict[str, Any]:
        """End the recording; where none runs, acknowledge how the last one ended."""

        def end() -> dict[str, Any]:
            self._drain()
            try:
                self._end("the recording was stopped", forget=True)
            finally:
                self.failure = ""
                self._health.ok("recording")
            counts = self.recorder.counts if self.recorder else None
            return {
                "file": counts.last_file if counts else None,
                "files": counts.files if counts else 0,
                "samples": counts.samples if counts else 0,
            }

        value: dict[str, Any] = self._ask(end)
        return value

    def close(self) -> None:
        """Have the threads end; the recording is gone on with by the next life."""
        self._stopping.set()
        self.feed.stop()
        self.feed.wake.set()

    # --- looking around, from a thread of its own -------------------------------------------------

    def look_around(self) -> None:
        """Look at the host's clock, the telescope's logs and the disk."""
        recorder = self.recorder
        is_needed = self.is_running and recorder is not None and not recorder.plan.is_test
        self.outlook.look_around(needs_telescope=is_needed)
        try:
            self.free = free_bytes(self.root)
        except OSError:
            self.free = None

    @property
    def root(self) -> Path:
        """Where it records, or would."""
        recorder = self.recorder if self.is_running else None
        return recorder.plan.root if recorder else Path(self.config.raw_root)

    # --- telling ----------------------------------------------------------------------------------

    @property
    def state(self) -> DasState:
        """What it is doing."""
        if self._stopping.is_set():
            return DasState.CLOSING
        if self.failure:
            return DasState.STOPPED
        if self.is_running:
            return DasState.WAITING if self.feed.reason else DasState.RECORDING
        return DasState.IDLE if self.feed.is_connected else DasState.CONNECTING

    @property
    def summary(self) -> Summary:
        """What it can do for you."""
        if self._stopping.is_set():
            return Summary.STOPPING
        if self.failure:
            return Summary.FAULT
        if not self.feed.is_connected:
            return Summary.STANDBY
        return Summary.BUSY if self.is_running else Summary.READY
