# SPDX-License-Identifier: BSD-3-Clause
"""The telescope logs: which helpers run, how fresh all is, what is behind, what is told of it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nightjar.api.telog import TelogState as State
from nightjar.clock import NS_PER_S, Clock
from nightjar.das.naming import day_of, minute_start_ns
from nightjar.errors import Code, NightjarError, Refused, TimedOut
from nightjar.health import Health
from nightjar.operations import Operation, Operations
from nightjar.times import iso
from nightjard.telogd import telling
from nightjard.telogd.caring import Care
from nightjard.telogd.completeness import Completeness
from nightjard.telogd.config import TelogdConfig
from nightjard.telogd.copying import RawCopier
from nightjard.telogd.drivers.base import DasSource, PointingSource, RingSource, TelescopeSource
from nightjard.telogd.helpers import Helper, LinesCare, Receiver, RotatorPoll, TelescopePoll
from nightjard.telogd.housekeeping import HousekeepingLog
from nightjard.telogd.ledger import Ledger
from nightjard.telogd.pointing import PointingLog
from nightjard.telogd.quarantine import Quarantine
from nightjard.telogd.raw_files import RawWatcher
from nightjard.telogd.ring import RingCopier

log = logging.getLogger(__name__)

_COPY_S = 3600.0  # rsync itself gives up when nothing moves
_DISK_S, _MARK_S = 5.0, 20.0
_AHEAD_S = 2.0


@dataclass(frozen=True)
class Sources:
    """What makes the drivers: each called anew for every start; None where not configured."""

    pointing: Callable[[], PointingSource] | None = None
    ring: Callable[[], RingSource] | None = None
    telescope: Callable[[], TelescopeSource] | None = None
    rotator: Callable[[], Mapping[str, Any]] | None = None
    das: Callable[[], DasSource] | None = None


class TelescopeLogs:
    """The helpers and what is known of the telescope.

    Parameters
    ----------
    config, sources
        What is logged, and from whom.
    clock, health, operations
        Of the runtime.
    state
        Folder of the daemon's memory.
    """

    def __init__(
        self, config: TelogdConfig, sources: Sources, clock: Clock, health: Health,
        operations: Operations, state: Path,
    ) -> None:  # fmt: skip
        self.config, self.sources, self.clock = config, sources, clock
        self._operations, self._state = operations, state
        self.ledger = Ledger(config.database or f"sqlite:///{state}/ledger.db", clock)
        self.quarantine = Quarantine(config.quarantine_root or state / "quarantine", clock)
        kinds = (("tel",) if sources.telescope else ()) + (("rot",) if sources.rotator else ())
        self.kinds: tuple[str, ...] = kinds
        self.roots = {
            "raw": config.raw_root, "pointing": config.pointing_root,
            "housekeeping": config.housekeeping_root,
        }  # fmt: skip
        self.completeness = Completeness(self.roots, kinds, self.ledger, clock)
        self._lock = threading.Lock()
        self._helpers: list[Helper] = []
        self._starts: list[tuple[Operation, int]] = []
        self._is_closing = False
        self.pointing: PointingLog | None = None
        self.receiver: Receiver | None = None
        self.ring: RingCopier | None = None
        self.lines: HousekeepingLog | None = None
        self.poll: TelescopePoll | None = None
        self.rotator: RotatorPoll | None = None
        self.raw: RawCopier | None = None
        self.care = Care(self, health)

    # ================================================================ commands

    def start(self) -> dict[str, Any]:
        """Start all helpers; an operation that ends when all is fresh."""
        with self._lock:
            if self._is_closing:
                raise Refused("the daemon is stopping", code=Code.STOPPING)
            if not self._helpers:
                self._start()
            operation = self._operations.begin("start", lambda: None)
            limit = round(self.config.start_timeout_s * NS_PER_S)
            self._starts.append((operation, self.clock.monotonic_ns() + limit))
        return {"operation": operation.id}

    def _start(self) -> None:
        self._make_roots()
        self._helpers = self._build()
        for helper in self._helpers:
            helper.start()
        log.info("helpers started: %s", ", ".join(helper.name for helper in self._helpers))

    def _make_roots(self) -> None:
        if not self.config.auto_mkdir:
            return
        for root in self.roots.values():
            try:
                root.mkdir(parents=True, exist_ok=True)
            except OSError as error:  # its helper tells it, too, and tries again and again
                log.error("%s cannot be made: %s", root, error.strerror)

    def _build(self) -> list[Helper]:
        config, sources, clock = self.config, self.sources, self.clock
        note = self.ledger.note
        helpers = []
        if sources.telescope or sources.rotator:
            lines = self.lines = HousekeepingLog(
                config.housekeeping_root, self._state, self.kinds, clock, note
            )
            helpers.append(Helper(
                "housekeeping", LinesCare(lines, clock).round, clock, lines.resume, lines.close
            ))  # fmt: skip
            if sources.telescope:
                source = sources.telescope()
                self.poll = TelescopePoll(source, lines, clock)
                helpers.append(Helper(
                    "telescope", self.poll.round, clock, end=source.close,
                    fault_pause=self.poll.beat.pause_s,  # a line a second, also of a silence
                ))  # fmt: skip
            if sources.rotator:
                self.rotator = RotatorPoll(sources.rotator, lines, clock)
                helpers.append(Helper("rotator", self.rotator.round, clock))
        if sources.pointing:
            stream = sources.pointing()
            pointing = self.pointing = PointingLog(
                config.pointing_root, clock, note, f"tcp {stream.capabilities.where}"
            )
            receiver = self.receiver = Receiver(stream, pointing, clock)
            helpers.append(
                Helper("pointing", receiver.round, clock, pointing.resume, receiver.end)
            )
        if sources.ring and config.pointing_ring is not None:
            ring = self.ring = RingCopier(
                config.pointing_ring, sources.ring(), config.pointing_root, clock,
                self.quarantine, note,
            )  # fmt: skip
            helpers.append(Helper("ring", lambda: self._look_at_ring(ring), clock, end=ring.close))
        helpers.append(self._raw_helper())
        return helpers

    def _look_at_ring(self, ring: RingCopier) -> float:
        ring.tick()
        return 0.02 if ring.is_recovering else ring.config.look_s

    def _raw_helper(self) -> Helper:
        config, clock = self.config, self.clock

        def known(day: str) -> dict[str, tuple[str, int | None, int | None]]:
            return self.ledger.known("raw", day)

        if self.sources.das:
            raw = self.raw = RawCopier(
                self.sources.das(), config.raw_root, config.days_back, config.space.stop_bytes,
                clock, self.quarantine, self.ledger.note, known,
            )  # fmt: skip
            return Helper("raw", raw.tick, clock, end=raw.close, longest_s=_COPY_S)
        watcher = RawWatcher(config.raw_root, clock, self.ledger.note, known)
        return Helper("raw", watcher.tick, clock)

    def stop(self) -> dict[str, Any]:
        """Stop the helpers, in the order in which they depend on each other."""
        with self._lock:
            helpers, self._helpers = self._helpers, []
            starts, self._starts = self._starts, []
        for operation, _ in starts:
            operation.fail(NightjarError("the helpers were stopped"))
        if self.raw is not None and helpers:
            self.raw.close()  # ends a copy under way
        for one in reversed(helpers):
            one.ask_to_stop()
        for one in reversed(helpers):
            one.join()
        self.ledger.flush()
        files = [log.last_file for log in (self.pointing, self.lines) if log is not None]
        return {"stopped": [one.name for one in helpers], "files": [f for f in files if f]}

    def recover(self, hours: float) -> dict[str, Any]:
        """Look back in the ring and at the DAS host; an operation."""
        with self._lock:
            if not self._helpers:
                raise Refused("the helpers do not run; start them first: telog start")
            ring, raw = self.ring, self.raw
            if ring is None and raw is None:
                raise Refused(
                    "neither pointing_ring nor das is configured: nothing can be looked back at"
                )
            if ring is not None and ring.is_recovering:
                raise Refused("a recovery is under way already", code=Code.BUSY)
            operation = self._operations.begin("recover", lambda: None)
            if ring is not None:
                ring.recover(hours, operation, self._ask_raw(raw))
            elif raw is not None:
                raw.look_back(lambda count, trouble: operation.finish(
                    {"hours": hours, "raw": count, "raw_trouble": trouble}, f"{count} raw files"
                ))  # fmt: skip
            for helper in self._helpers:
                helper.wake.set()
        return {"operation": operation.id}

    @staticmethod
    def _ask_raw(raw: RawCopier | None) -> Callable[[], dict[str, Any] | None]:
        """Have raw files looked at; the answer is None until that is done."""
        if raw is None:
            return lambda: {"raw": None}
        told: list[dict[str, Any]] = []
        raw.look_back(lambda count, why: told.append({"raw": count, "raw_trouble": why}))
        return lambda: told[0] if told else None

    def telescope(self) -> dict[str, Any]:
        """Return the newest knowledge; see :data:`nightjar.api.telog.TELESCOPE_KEYS`."""
        return telling.telescope(self)

    def minutes(self, day: str | None) -> dict[str, Any]:
        """Return which minutes of a day are here."""
        return self.completeness.day(day or day_of(self.clock.now_ns()))

    def files(
        self, day: str | None, stream: str | None, state: str | None, count: int
    ) -> dict[str, Any]:
        """Return entries of the ledger."""
        if day is not None:
            minute_start_ns(day, 0)
        rows = self.ledger.files(day, stream, state, count)
        for row in rows:
            row["crc32"] = None if row["crc32"] is None else f"{row['crc32']:08x}"
            for key in ("seen", "copied", "verified"):
                when = row.pop(f"{key}_ns")
                row[key] = None if when is None else iso(when, 3)
        return {"files": rows}

    # ================================================================ freshness

    def newest(self) -> list[tuple[int, int, Any, str]]:
        """Return (utc_ns, monotonic ns, record, where) of each source that told one."""
        found = []
        if self.pointing is not None and self.pointing.newest_ns is not None:
            where = self.config.pointing_stream
            found.append((
                self.pointing.newest_ns, self.pointing.newest_mono_ns, self.pointing.newest,
                f"tcp {where.host}:{where.port}" if where else "tcp",
            ))  # fmt: skip
        if self.ring is not None and self.ring.newest_ns is not None:
            found.append((
                self.ring.newest_ns, self.ring.newest_mono_ns, self.ring.newest,
                f"file {self.ring.newest_name} of the ring, locked and growing",
            ))  # fmt: skip
        return found

    @property
    def pointing_age_s(self) -> float | None:
        """Age of the newest pointing record, by its time and by when it came; None for none."""
        now, mono = self.clock.now_ns(), self.clock.monotonic_ns()
        ages = [max((now - utc) / NS_PER_S, (mono - came) / NS_PER_S)
                for utc, came, _, _ in self.newest()]  # fmt: skip
        return min(ages, default=None)

    @property
    def housekeeping_age_s(self) -> float | None:
        """Age of the telescope's record; None for none."""
        return None if self.poll is None else self.poll.age_s()

    def not_fresh(self, *, with_why: bool = True) -> list[str]:
        """Return what is not fresh, and why; empty when all is."""
        limit = self.config.fresh_limit_s
        wrong = []
        ages = []
        if self.sources.pointing or self.sources.ring:
            ages.append(("pointing", self.pointing_age_s, ("pointing", "ring")))
        if self.sources.telescope:
            ages.append(("housekeeping", self.housekeeping_age_s, ("telescope", "housekeeping")))
        for what, age, names in ages:
            if age is not None and age < limit:
                continue
            how = "never came" if age is None else f"is {age:.1f} s old (limit {limit:g} s)"
            why = "; ".join(h.trouble for h in self._helpers if h.name in names and h.trouble)
            wrong.append(f"{what} {how}" + (f": {why}" if why and with_why else ""))
        return wrong

    @property
    def state(self) -> State:
        """What it is doing."""
        if self._is_closing:
            return State.CLOSING
        if not self._helpers:
            return State.STOPPED
        return State.WAITING if self.not_fresh() else State.RUNNING

    # ================================================================ care

    def look_after(self) -> None:
        """Do what is due: starts that wait, ledger, markers, health. Called by one thread."""
        self.ledger.flush()
        self._look_at_starts()
        self.care.round()

    def _look_at_starts(self) -> None:
        with self._lock:
            starts = list(self._starts)
        if not starts:
            return
        wrong, now = self.not_fresh(), self.clock.monotonic_ns()
        for operation, deadline in starts:
            if not wrong:
                operation.finish(self.started(), "pointing and housekeeping are fresh")
            elif operation.is_cancel_asked:
                operation.fail(NightjarError("not waited for; the helpers go on"))
            elif now > deadline:
                operation.fail(TimedOut(
                    f"the helpers run, but {'; '.join(wrong)}", helpers=self.helpers()
                ))  # fmt: skip
            else:
                operation.update(stage="waiting", message="; ".join(wrong)[:300])
        with self._lock:
            self._starts = [one for one in self._starts if not one[0].is_done]

    def started(self) -> dict[str, Any]:
        """Return what runs, for who has started it."""
        return {
            "pointing_age_s": self.pointing_age_s, "housekeeping_age_s": self.housekeeping_age_s,
            "helpers": self.helpers(),
        }  # fmt: skip

    def helpers(self) -> list[dict[str, Any]]:
        """Return the helpers."""
        return [
            {"name": one.name, "is_running": one.is_running, "last_error": one.trouble or None}
            for one in self._helpers
        ]

    @property
    def running(self) -> list[Helper]:
        """The helpers that were started."""
        return self._helpers

    def stuck(self) -> list[str]:
        """Return helpers that have not gone round for long, or have died."""
        return [one.name for one in self._helpers if one.is_stuck]

    def close(self) -> None:
        """Stop everything."""
        self._is_closing = True
        self.stop()
        self.ledger.close()

    def status(self) -> dict[str, Any]:
        """Return the snapshot; it waits for nothing."""
        return telling.snapshot(self)
