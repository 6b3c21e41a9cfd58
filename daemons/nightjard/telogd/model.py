# SPDX-License-Identifier: BSD-3-Clause
"""The telescope logs: which helpers run, how fresh all is, what is behind, what is told of it."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nightjar.api.states import Level
from nightjar.api.telog import TELESCOPE_KEYS
from nightjar.api.telog import TelogState as State
from nightjar.clock import NS_PER_S, Clock
from nightjar.das.naming import MINUTE_NS, day_of, minute_start_ns
from nightjar.das.pointing import Pointing, decode
from nightjar.errors import Code, NightjarError, Refused, StorageError, TimedOut
from nightjar.files import free_bytes
from nightjar.health import Health
from nightjar.operations import Operation, Operations
from nightjar.times import iso
from nightjard.telogd.completeness import Completeness
from nightjard.telogd.config import TelogdConfig
from nightjard.telogd.copying import RawCopier, RawWatcher
from nightjard.telogd.drivers.base import DasSource, PointingSource, RingSource, TelescopeSource
from nightjard.telogd.helpers import Helper, LinesCare, Receiver, RotatorPoll, TelescopePoll
from nightjard.telogd.housekeeping import HousekeepingLog
from nightjard.telogd.ledger import Ledger
from nightjard.telogd.pointing import PointingLog
from nightjard.telogd.quarantine import Quarantine
from nightjard.telogd.ring import RingCopier

log = logging.getLogger(__name__)

_STUCK_S = 120.0
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
        self.config, self._sources, self._clock = config, sources, clock
        self._health, self._operations, self._state = health, operations, state
        self.ledger = Ledger(config.database or f"sqlite:///{state}/ledger.db", clock)
        self.quarantine = Quarantine(config.quarantine_root or state / "quarantine", clock)
        kinds = (("tel",) if sources.telescope else ()) + (("rot",) if sources.rotator else ())
        self._kinds: tuple[str, ...] = kinds
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
        self._receiver: Receiver | None = None
        self.ring: RingCopier | None = None
        self.lines: HousekeepingLog | None = None
        self.poll: TelescopePoll | None = None
        self.rotator: RotatorPoll | None = None
        self.raw: RawCopier | None = None
        self.lag: dict[str, float] = {}
        self._free: dict[str, int | None] = {}
        self._days: list[str] = []
        self._disk_ns = self._marked_ns = -(1 << 62)

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
            self._starts.append((operation, self._clock.monotonic_ns() + limit))
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
            except OSError as error:
                raise StorageError(f"{root} cannot be made: {error.strerror}") from error

    def _build(self) -> list[Helper]:
        config, sources, clock = self.config, self._sources, self._clock
        note = self.ledger.note
        helpers = []
        if sources.telescope or sources.rotator:
            lines = self.lines = HousekeepingLog(
                config.housekeeping_root, self._state, self._kinds, clock, note
            )
            helpers.append(Helper(
                "housekeeping", LinesCare(lines, clock).round, clock, lines.resume, lines.close
            ))  # fmt: skip
            if sources.telescope:
                source = sources.telescope()
                self.poll = TelescopePoll(source, lines, clock)
                helpers.append(Helper("telescope", self.poll.round, clock, end=source.close))
            if sources.rotator:
                self.rotator = RotatorPoll(sources.rotator, lines, clock)
                helpers.append(Helper("rotator", self.rotator.round, clock))
        if sources.pointing:
            stream = sources.pointing()
            pointing = self.pointing = PointingLog(
                config.pointing_root, clock, note, f"tcp {stream.capabilities.where}"
            )
            receiver = self._receiver = Receiver(stream, pointing, clock)
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
        config, clock = self.config, self._clock

        def known(day: str) -> dict[str, tuple[str, int | None, int | None]]:
            return self.ledger.known("raw", day)

        if self._sources.das:
            raw = self.raw = RawCopier(
                self._sources.das(), config.raw_root, config.days_back, config.space.stop_bytes,
                clock, self.quarantine, self.ledger.note, known,
            )  # fmt: skip
            return Helper("raw", raw.tick, clock, end=raw.close)
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
        known: dict[str, Any] = dict.fromkeys(TELESCOPE_KEYS)
        record = None if self.poll is None else self.poll.record
        if record is not None:
            known |= _of_record(record)
            known["age_s"] = self.housekeeping_age_s
        newest = self._newest_pointing()
        age = self.pointing_age_s
        known["pointing_age_s"] = age
        is_newer = known["age_s"] is None or (age is not None and age <= known["age_s"] + 1)
        if newest is not None and is_newer:
            known |= _of_pointing(newest)
        return known

    def minutes(self, day: str | None) -> dict[str, Any]:
        """Return which minutes of a day are here."""
        return self.completeness.day(day or day_of(self._clock.now_ns()))

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

    def _newest(self) -> list[tuple[int, int, Any, str]]:
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

    def _newest_pointing(self) -> Pointing | None:
        found = self._newest()
        return decode(max(found, key=lambda one: one[0])[2].tobytes()) if found else None

    @property
    def pointing_age_s(self) -> float | None:
        """Age of the newest pointing record, by its time and by when it came; None for none."""
        now, mono = self._clock.now_ns(), self._clock.monotonic_ns()
        ages = [max((now - utc) / NS_PER_S, (mono - came) / NS_PER_S)
                for utc, came, _, _ in self._newest()]  # fmt: skip
        return min(ages, default=None)

    @property
    def housekeeping_age_s(self) -> float | None:
        """Age of the telescope's record; None for none."""
        return None if self.poll is None else self.poll.age_s()

    def not_fresh(self) -> list[str]:
        """Return what is not fresh, and why; empty when all is."""
        limit = self.config.fresh_limit_s
        wrong = []
        ages = []
        if self._sources.pointing or self._sources.ring:
            ages.append(("pointing", self.pointing_age_s, ("pointing", "ring")))
        if self._sources.telescope:
            ages.append(("housekeeping", self.housekeeping_age_s, ("telescope", "housekeeping")))
        for what, age, names in ages:
            if age is not None and age < limit:
                continue
            how = "never came" if age is None else f"is {age:.1f} s old (limit {limit:g} s)"
            why = "; ".join(h.trouble for h in self._helpers if h.name in names and h.trouble)
            wrong.append(f"{what} {how}" + (f": {why}" if why else ""))
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

    def care(self) -> None:
        """Do what is due: ledger, markers, health, starts that wait. Called by one thread."""
        now = self._clock.monotonic_ns()
        self.ledger.flush()
        self._look_at_starts(now)
        if now - self._disk_ns > _DISK_S * NS_PER_S:
            self._disk_ns = now
            self._look_at_disks()
        if now - self._marked_ns > _MARK_S * NS_PER_S and self._helpers:
            self._marked_ns = now
            try:
                self.completeness.tick(24 * max(1, self.config.days_back))
                self._days = self.ledger.days()
                self._health.ok("markers")
            except NightjarError as error:
                self._health.set("markers", Level.DEGRADED, error.message)
        self._measure_lag()
        self._tell_health()

    def _look_at_starts(self, now: int) -> None:
        with self._lock:
            starts = list(self._starts)
        if not starts:
            return
        wrong = self.not_fresh()
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

    def _look_at_disks(self) -> None:
        low = []
        for stream, root in self.roots.items():
            try:
                self._free[stream] = free = free_bytes(root)
                if free < self.config.space.low_bytes:
                    low.append(f"{free / 1e6:.0f} MB free in {root}")
            except OSError as error:
                self._free[stream] = None
                low.append(f"{root} is not there ({error.strerror})")
        if low:
            self._health.set("disk", Level.DEGRADED, "; ".join(low))
        else:
            self._health.ok("disk")

    def _measure_lag(self) -> None:
        """Find the oldest closed minute of each stream that is not here yet."""
        if not self._helpers:
            self.lag = {}
            return
        oldest: dict[str, int | None] = {
            "pointing": min(
                [
                    *([] if self.ring is None else self.ring.missing),
                    *([] if self.pointing is None or self.pointing.first_open_ns is None
                      else [self.pointing.first_open_ns]),
                ], default=None,
            ),
            "housekeeping": None if self.lines is None else self.lines.first_open_ns,
            "raw": None if self.raw is None else min(tuple(self.raw.waiting), default=None),
        }  # fmt: skip
        now = self._clock.now_ns()
        self.lag = {
            stream: 0.0 if start is None else max(0.0, (now - start - MINUTE_NS) / NS_PER_S)
            for stream, start in oldest.items()
        }
        for stream, lag_s in self.lag.items():
            start = oldest[stream]
            if lag_s > self.config.lag_limit_s and start is not None:
                self._health.set(
                    f"{stream} lag", Level.DEGRADED,
                    f"{stream} of {iso(start, 0)} is not here {lag_s:.0f} s after its minute",
                )  # fmt: skip
            else:
                self._health.ok(f"{stream} lag")

    def _tell_health(self) -> None:
        running = self._helpers
        for helper in running:
            if helper.trouble:
                self._health.set(helper.name, Level.DEGRADED, helper.trouble)
            else:
                self._health.ok(helper.name)
        for name in ("housekeeping", "telescope", "rotator", "pointing", "ring", "raw"):
            if name not in {helper.name for helper in running}:
                self._health.ok(name)
        wrong = self.not_fresh() if running else []
        troubles = {
            "fresh": "; ".join(wrong),
            "ledger": self.ledger.trouble,
            "writing": "; ".join(
                one.trouble for one in (self.pointing, self.lines) if one and one.trouble
            ),
            "old files": "" if self.ring is None or not self.ring.stale else
            "the telescope's ring has old minutes under the names "
            + ", ".join(f"{name} (of {day})" for name, day in sorted(self.ring.stale.items())[:5]),
            "telescope clock": self._clock_trouble(),
        }  # fmt: skip
        for part, text in troubles.items():
            if text:
                self._health.set(part, Level.DEGRADED, text)
            else:
                self._health.ok(part)

    def _clock_trouble(self) -> str:
        """Return what is wrong with the telescope's time against ours."""
        now = self._clock.now_ns()
        ahead = [(utc - now) / NS_PER_S for utc, *_ in self._newest()]
        if self.poll is not None and self.poll.record is not None:
            ahead.append((int(self.poll.record["utc_ns"]) - now) / NS_PER_S)
        most = max(ahead, default=0.0)
        if most > _AHEAD_S:
            return f"the telescope's clock is {most:.1f} s ahead of ours: look at both clocks"
        if self.pointing is not None and self.pointing.counts["wrong_time"]:
            return (
                f"{self.pointing.counts['wrong_time']} pointing records had times far from ours "
                "and were not taken"
            )
        return ""

    def stuck(self) -> list[str]:
        """Return helpers that have not gone round for long, or have died."""
        now = self._clock.monotonic_ns()
        return [
            one.name for one in self._helpers
            if not one.is_running or now - one.beat_ns > _STUCK_S * NS_PER_S
        ]  # fmt: skip

    def close(self) -> None:
        """Stop everything."""
        self._is_closing = True
        self.stop()
        self.ledger.close()

    # ================================================================ status

    def status(self) -> dict[str, Any]:
        """Return the snapshot; it waits for nothing."""
        state = self.state
        return {
            "summary": state.summary, "state": state.name,
            "reason": "; ".join(self.not_fresh()) if state is State.WAITING else "",
            "pointing": self._pointing_status(), "ring": self._ring_status(),
            "housekeeping": self._housekeeping_status(), "raw": self._raw_status(),
            "helpers": self.helpers(), "lag": dict(self.lag),
            "quarantined": self.quarantine.count, "free_bytes": dict(self._free),
            "days": list(self._days),
        }  # fmt: skip

    def _pointing_status(self) -> dict[str, Any] | None:
        if not (self._sources.pointing or self._sources.ring):
            return None
        found = max(self._newest(), key=lambda one: one[0], default=None)
        counts = {} if self.pointing is None else dict(self.pointing.counts)
        return {
            "age_s": self.pointing_age_s, "source": None if found is None else found[3],
            "newest": None if found is None else iso(found[0], 2), **counts,
            "connects": 0 if self._receiver is None else self._receiver.connects,
            "last_file": None if self.pointing is None else self.pointing.last_file,
        }  # fmt: skip

    def _ring_status(self) -> dict[str, Any] | None:
        if self.config.pointing_ring is None or not self._sources.ring:
            return None
        value: dict[str, Any] = {"folder": str(self.config.pointing_ring.folder)}
        if self.ring is not None:
            value |= self.ring.counts
            value |= {
                "stale": len(self.ring.stale), "locked": list(self.ring.locked),
                "missing": [iso(start, 0) for start in self.ring.missing],
            }  # fmt: skip
        return value

    def _housekeeping_status(self) -> dict[str, Any] | None:
        if not self._kinds:
            return None
        poll, rotator, lines = self.poll, self.rotator, self.lines
        now = self._clock.monotonic_ns()
        return {
            "age_s": self.housekeeping_age_s,
            "telescope": None if self.config.telescope is None else {
                "driver": self.config.telescope.kind,
                "is_ok": poll is not None and poll.is_ok,
                "latency_ms": None if poll is None else poll.latency_ms,
                "answers": 0 if poll is None else poll.answers,
                "failures": 0 if poll is None else poll.failures,
                "last_error": None if poll is None else poll.last_error or None,
            },
            "rotator": None if self._sources.rotator is None else {
                "daemon": self.config.rotator_daemon,
                "is_ok": rotator is not None and rotator.is_ok,
                "age_s": None if rotator is None or rotator.mono_ns is None
                else (now - rotator.mono_ns) / NS_PER_S,
                "answers": 0 if rotator is None else rotator.answers,
                "failures": 0 if rotator is None else rotator.failures,
                "last_error": None if rotator is None else rotator.last_error or None,
            },
            "seq": 0 if lines is None else lines.seq,
            **({} if lines is None else lines.counts),
            "last_file": None if lines is None else lines.last_file,
        }  # fmt: skip

    def _raw_status(self) -> dict[str, Any] | None:
        if self.config.das is None and not self._sources.das:
            return None
        raw = self.raw
        das = self.config.das
        value: dict[str, Any] = {"source": None if das is None else f"{das.kind} {das.folder}"}
        if raw is not None:
            value |= raw.counts
            value |= {"waiting": len(raw.waiting), "lag_s": raw.last_lag_s,
                      "last_file": raw.last_file}  # fmt: skip
        return value


def _degrees(hours: float | None) -> float | None:
    return None if hours is None else hours * 15


def _of_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the telescope's record knows of the answer."""
    return {
        "time_ns": record["utc_ns"], "source_name": record["source_name"],
        "source_ra_deg": _degrees(record["source_ra_h"]),
        "source_dec_deg": record["source_dec_deg"], "source_epoch": record["source_epoch"],
        "coordinate_type": record["coordinate_type"], "az_deg": record["az_deg"],
        "el_deg": record["el_deg"], "apparent_ra_deg": _degrees(record["apparent_ra_h"]),
        "apparent_dec_deg": record["apparent_dec_deg"], "lst_h": record["lst_h"],
        "observation_number": record["observation_number"], "ut1_utc_s": record["ut1_utc_s"],
    }  # fmt: skip


def _of_pointing(pointing: Pointing) -> dict[str, Any]:
    """Return what the newest pointing record knows; RA, Dec and PA only where celestial."""
    values = {
        "az_deg": pointing.az_deg[0], "el_deg": pointing.el_deg[0],
        "apparent_ra_deg": pointing.ra_deg[0], "apparent_dec_deg": pointing.dec_deg[0],
        "lst_h": pointing.lst_h[0], "pa_deg": pointing.pa_deg[0],
    }  # fmt: skip
    known = {key: float(value) for key, value in values.items() if math.isfinite(value)}
    return {**known, "time_ns": int(pointing.utc_ns[0]), "flags": int(pointing.flags[0])}
