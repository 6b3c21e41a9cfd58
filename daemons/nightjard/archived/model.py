# SPDX-License-Identifier: BSD-3-Clause
"""The archive's intake: accepts announced frames, brings them to their place, says how it stands.

Accepting is quick: a look at the file, a durable row, the reply. Worker threads do the rest. What
fails because of the storage is tried again for ever, with growing pauses; nothing is given up.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from nightjar.api.archive import FrameState
from nightjar.api.states import Level, Summary
from nightjar.clock import NS_PER_S
from nightjar.errors import Code, NightjarError, Refused, StorageError
from nightjar.times import iso, observing_night
from nightjard.archived.admission import Admission
from nightjard.archived.backlog import Backlog
from nightjard.archived.catalog import Catalog
from nightjard.archived.config import ArchiveConfig
from nightjard.archived.discarding import Discarding, require_unarchived
from nightjard.archived.intake import Announcement, IdentityKeywords, Intake
from nightjard.archived.layout import Root
from nightjard.archived.ledger import Ledger
from nightjard.archived.placing import Placer
from nightjard.archived.settings import SettingsKeeper
from nightjard.archived.steps import Steps
from nightjard.archived.storage import Storage
from nightjard.archived.store import Store
from nightjard.archived.tables import Frame
from nightjard.archived.tools import Tools

log = logging.getLogger(__name__)

_BEAT_S = 0.5
_PROBE_S = 1.0
_IDLE_S = 5.0
_JOIN_S = 5.0
_STOP_LIMIT_S = 60.0
_PROBE_LIMIT_S = 10.0


class Archive:
    """The intake of one archive.

    Parameters
    ----------
    config
        See :class:`~nightjard.archived.config.ArchiveConfig`.
    store
        The open database; closed by whoever opened it.
    tools
        Clock and sinks.

    Attributes
    ----------
    catalog, settings
        What finds and describes frames; what keeps the settings in force.
    """

    def __init__(self, config: ArchiveConfig, store: Store, tools: Tools) -> None:
        self._config = config
        self._store = store
        self._tools = tools
        self._clock = tools.clock
        keywords = IdentityKeywords(**config.identity_cards.model_dump())
        self._root = Root(config.root)
        intake = Intake(
            config.incoming_data_path, config.cameras, keywords, config.noon_utc_hours
        )
        self._steps = Steps(
            store, Placer(self._root, config.recycle_bytes), self._root,
            config.incoming_data_path, keywords, self._clock,
        )  # fmt: skip
        self._storage = Storage(config, self._root, store, tools.health, tools.metrics)
        self._backlog = Backlog(self._clock)
        self._ledger = Ledger(config.cameras)
        self.catalog = Catalog(store, self._steps.location)
        self._discarding = Discarding(store, self._storage, self._ledger, config.root, self._clock)
        self.settings = SettingsKeeper(store, config.cameras, config.frame_types, self._clock)
        self._admission = Admission(
            intake, self._storage, store, self.settings, self._backlog, self._ledger, self._clock
        )
        self._last_error: dict[str, str] | None = None
        self._beat_ns = self._clock.monotonic_ns()
        self._probe_began_ns = 0
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    # --- life ---

    def open(self) -> None:
        """Take over what an earlier life left; the database must answer, the root need not."""
        self.settings.load()
        self._ledger.load(self._store.counts(), self._store.last_finished())
        for frame in self._store.accepted():
            self._backlog.add(frame)
        self.probe()
        self._root.clear_probes()
        self._report_bad_frames()
        self._discarding.resume()
        waiting = len(self._backlog)
        if waiting:
            self._tools.obslog.info(f"{waiting} frames of the last run are gone through again")

    def start(self) -> None:
        """Start the threads; :meth:`open` comes first."""
        jobs: list[tuple[str, Callable[[], None]]] = [
            ("archive-beat", self._beat_loop), ("archive-probe", self._probe_loop),
        ]  # fmt: skip
        jobs += [(f"archive-{n}", self._work_loop) for n in range(1, self._config.workers + 1)]
        for name, job in jobs:
            thread = threading.Thread(target=job, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self, report: Callable[[str], None]) -> None:
        """End the threads after the frames they have in hand; the rest waits for the next life."""
        self._stopping.set()
        self._backlog.wake()
        deadline_ns = self._clock.monotonic_ns() + int(_STOP_LIMIT_S * NS_PER_S)
        for thread in self._threads:
            while thread.is_alive() and self._clock.monotonic_ns() < deadline_ns:
                thread.join(_JOIN_S)
                if thread.is_alive():
                    report(f"waiting for {thread.name} to finish a frame")
        stuck = [thread.name for thread in self._threads if thread.is_alive()]
        if stuck:  # a dead network disk; ending here is no worse than a crash, which is planned for
            log.error("%s did not end: the storage does not answer", ", ".join(stuck))
        self._threads.clear()

    def heartbeat_age_s(self) -> float:
        """Return the seconds since the beating thread went round."""
        return (self._clock.monotonic_ns() - self._beat_ns) / NS_PER_S

    # --- frames come in ---

    def notify(self, announced: Announcement) -> dict[str, Any]:
        """Accept a frame, or say what became of it if it was accepted before.

        Raises
        ------
        Refused
            FRAME_REFUSED with the reason; STOPPING.
        StorageError
            NO_SPACE, or the database does not take it.
        """
        if self._stopping.is_set():
            raise Refused("the archive is stopping", code=Code.STOPPING)
        try:
            return self._admission.decide(announced)
        except NightjarError as error:
            self._tools.metrics.count("archive_frames_refused_total", "announcements refused")
            self._note_error(f"frame {announced.key} refused: {error.message}")
            raise

    # --- frames move on ---

    def step(self) -> bool:
        """Bring one frame that is due to its end; False where none is due."""
        frame = self._backlog.take()
        if frame is None:
            return False
        began_ns = self._clock.monotonic_ns()
        try:
            self._storage.require_root()
            # As it stands now: an attempt that failed may have come as far as a plan.
            ended = self._steps.carry_out(self._store.require(frame.id))
        except NightjarError as error:
            self._failed(frame, error)
        except Exception as error:
            log.exception("frame %s", frame.key)
            self._failed(frame, NightjarError(f"internal error: {error}", code=Code.INTERNAL))
        else:
            self._ended(frame, ended)
            spent_s = (self._clock.monotonic_ns() - began_ns) / NS_PER_S
            self._tools.metrics.observe(
                "archive_frame_seconds", "from a worker's first look to the frame's end", spent_s
            )
        return True

    def _ended(self, frame: Frame, ended: Frame) -> None:
        self._backlog.done(frame.id)
        self._ledger.moved(frame, ended)
        self._tools.metrics.count(
            f"archive_frames_{ended.state}_total", f"frames that became {ended.state}"
        )
        if ended.state in (FrameState.QUARANTINED.value, FrameState.MISSING.value):
            text = f"frame {ended.key} ({ended.name}) is {ended.state}: {ended.last_error}"
            self._note_error(text)
            self._tools.obslog.error(text)
            self._report_bad_frames()
        self._report_backlog()

    def _failed(self, frame: Frame, error: NightjarError) -> None:
        """Put a frame back: everything pauses if the storage is at fault, else this frame."""
        self._note_error(f"frame {frame.key}: {error.message}")
        fault = self._storage.fault_behind(error)
        if fault is not None:
            pause_s = self._backlog.block(frame.id)
            log.warning("no frame can be moved, next try in %.0f s: %s", pause_s, fault)
            return
        fresh = frame
        try:
            now_ns = self._clock.now_ns()
            fresh = self._store.update(
                frame.id, "failed", error.message, now_ns,
                attempts=frame.attempts + 1, last_error=error.message, durable=False,
            )  # fmt: skip
        except StorageError as second:
            log.warning("frame %s: %s", frame.key, second.message)
        pause_s = self._backlog.put_back(fresh)
        log.warning("frame %s waits %.0f s: %s", frame.key, pause_s, error.message)
        self._report_backlog()

    def _report_backlog(self) -> None:
        failing = self._backlog.failing()
        if failing:
            self._tools.health.set(
                "frames", Level.DEGRADED,
                f"{len(failing)} frames cannot be moved, first {failing[0].key}: "
                f"{failing[0].last_error}",
            )  # fmt: skip
        else:
            self._tools.health.ok("frames")
        self._tools.metrics.gauge(
            "archive_frames_waiting", "frames accepted, not in their place", len(self._backlog)
        )

    def _report_bad_frames(self) -> None:
        counts = self._store.unacknowledged()
        if not counts:
            self._tools.health.ok("quarantine")
            return
        what = " and ".join(f"{count} {state}" for state, count in sorted(counts.items()))
        level = Level.FAILED if FrameState.MISSING.value in counts else Level.DEGRADED
        self._tools.health.set(
            "quarantine", level,
            f"{what} frames that nobody has looked at: 'archive list', then 'archive acknowledge'",
        )

    # --- threads ---

    def _work_loop(self) -> None:
        while not self._stopping.is_set():
            if not self.step():
                self._backlog.wait(_IDLE_S)

    def _beat_loop(self) -> None:
        while not self._clock.wait(self._stopping, _BEAT_S):
            self._beat_ns = self._clock.monotonic_ns()
            self._store.database.end_stuck_calls()
            self.check_probe()

    def check_probe(self) -> None:
        """Say so if the look at the storage itself hangs, as on a network disk that is away."""
        began_ns = self._probe_began_ns
        age_s = (self._clock.monotonic_ns() - began_ns) / NS_PER_S if began_ns else 0.0
        if age_s > _PROBE_LIMIT_S:
            reason = f"{self._config.root} has not answered for {age_s:.0f} s"
            self._tools.health.set("storage", Level.DEGRADED, reason)
        elif not began_ns:
            self._tools.health.ok("storage")

    def _probe_loop(self) -> None:
        while not self._clock.wait(self._stopping, _PROBE_S):
            self._probe_began_ns = self._clock.monotonic_ns()
            try:
                self.probe()
            except NightjarError as error:
                self._note_error(error.message)
            except Exception:
                log.exception("looking at the storage")
            finally:
                self._probe_began_ns = 0

    def probe(self) -> None:
        """Look at root, free space and incoming folder; let frames go when all is well again."""
        is_back, returned = self._storage.probe(self._clock.monotonic_ns(), self._backlog)
        if is_back:
            self._backlog.unblock()
        for frame in returned:
            self._admission.accept_again(frame, "the file is back")
        if returned:
            self._tools.obslog.info(f"{len(returned)} missing frames are back")
            self._report_bad_frames()
        self._store.database.tidy()

    # --- what people ask and command ---

    def set_settings(self, changes: Mapping[str, Any], who: str) -> dict[str, Any]:
        """Change settings, all or nothing, durably; return those in force."""
        text = self.settings.change(changes, who)
        if text:
            self._tools.obslog.info(f"archive settings: {text} (by {who})")
        return self.settings.snapshot()

    def strays(self) -> list[dict[str, Any]]:
        """Return the files in the incoming folder that nobody announced, as last seen."""
        return self._storage.strays()

    def retry(self, references: list[str]) -> dict[str, Any]:
        """Try waiting frames at once, and named ones that are quarantined or missing again."""
        again = (FrameState.QUARANTINED.value, FrameState.MISSING.value)
        frames = [self.catalog.resolve(reference) for reference in references]
        for frame in frames:
            if frame.state not in (*again, FrameState.ACCEPTED.value):
                raise Refused(f"frame {frame.key} is {frame.state}: there is nothing to try again")
        for frame in frames:
            if frame.state in again:
                self._admission.accept_again(frame, "tried again by command")
        self._backlog.unblock()
        self._report_bad_frames()
        return {"waiting": len(self._backlog)}

    def acknowledge(self, who: str) -> dict[str, Any]:
        """Take quarantined and missing frames off the health report."""
        count = self._store.acknowledge()
        if count:
            self._tools.obslog.info(f"{count} quarantined or missing frames acknowledged by {who}")
        self._report_bad_frames()
        return {"acknowledged": count}

    def adopt_root(self, who: str) -> dict[str, Any]:
        """Take the root folder as it is now for the archive."""
        identity = self._storage.adopt()
        self._tools.obslog.warning(f"archive root {self._config.root} adopted by {who}")
        self.probe()
        self._backlog.unblock()
        return {"root": str(self._config.root), "identity": identity}

    def discard(self, references: list[str], who: str) -> dict[str, Any]:
        """Begin to remove unarchived frames; all of them are checked first."""
        frames = {frame.id: frame for frame in map(self.catalog.resolve, references)}
        require_unarchived(list(frames.values()))
        self._storage.require_root()
        cancelled = threading.Event()
        operation = self._tools.operations.begin("discard", cancelled.set)
        thread = threading.Thread(
            target=self._discarding.run, name="archive-discard", daemon=True,
            args=(
                list(frames.values()), who, operation,
                lambda: cancelled.is_set() or self._stopping.is_set(), self._tools.obslog.info,
            ),
        )  # fmt: skip
        self._threads = [t for t in self._threads if t.is_alive()] + [thread]
        thread.start()
        return {"operation": operation.id, "frames": len(frames)}

    # --- status ---

    def status(self) -> dict[str, Any]:
        """Return the snapshot; from memory only."""
        now_ns = self._clock.now_ns()
        night = observing_night(now_ns, self._config.noon_utc_hours)
        waiting = len(self._backlog)
        summary, state = Summary.READY, "IDLE"
        if self._stopping.is_set():
            summary, state = Summary.STOPPING, "STOPPING"
        elif self._backlog.is_blocked or not self._storage.is_well:
            summary, state = Summary.FAULT, "BLOCKED"
        elif self._backlog.is_working:
            summary, state = Summary.BUSY, "WORKING"
        settings = self.settings.snapshot()
        return {
            "time": iso(now_ns),
            "daemon": self._config.daemon,
            "summary": summary.value,
            "state": state,
            "health": self._tools.health.snapshot(),
            "night": night,
            "cameras": {
                camera: {"archive": settings["archive"][camera], **counted}
                for camera, counted in self._ledger.snapshot(night).items()
            },
            "waiting": waiting,
            "settings": settings,
            "root": str(self._config.root),
            "incoming": str(self._config.incoming_data_path),
            "free_bytes": self._storage.free_bytes,
            "minimum_free_bytes": self._config.minimum_free_bytes,
            "strays": len(self._storage.strays()),
            "last_error": self._last_error,
            "nights": None,
        }

    def _note_error(self, message: str) -> None:
        self._last_error = {"time": iso(self._clock.now_ns()), "message": message}
