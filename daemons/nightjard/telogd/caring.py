# SPDX-License-Identifier: BSD-3-Clause
"""Care: what is behind, what is full, what is wrong, told as health; markers of whole hours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightjar.api.states import Level
from nightjar.clock import NS_PER_S
from nightjar.das.naming import MINUTE_NS, pointing_path
from nightjar.errors import NightjarError
from nightjar.files import free_bytes
from nightjar.health import Health
from nightjar.times import iso

if TYPE_CHECKING:
    from nightjard.telogd.model import TelescopeLogs

_DISK_S, _MARK_S = 5.0, 20.0
_AHEAD_S = 2.0


class Care:
    """Looks at the logs again and again. One thread uses it.

    Parameters
    ----------
    logs
        Whom it looks after.
    health
        Where it tells.

    Attributes
    ----------
    lag
        Stream -> age of the oldest closed minute that is not here, s; 0 for none.
    free
        Stream -> free bytes of its disk; None where the folder is not there.
    days
        Days that the ledger knows, newest first.
    """

    def __init__(self, logs: TelescopeLogs, health: Health) -> None:
        self._logs, self._health = logs, health
        self.lag: dict[str, float] = {}
        self.free: dict[str, int | None] = {}
        self.days: list[str] = []
        self._version = -1
        self._was_running = False
        self._disk_ns = self._marked_ns = -(1 << 62)

    def round(self) -> None:
        """Do what is due."""
        logs = self._logs
        now = logs.clock.monotonic_ns()
        if now - self._disk_ns > _DISK_S * NS_PER_S:
            self._disk_ns = now
            self._look_at_disks()
        if now - self._marked_ns > _MARK_S * NS_PER_S and logs.running:
            self._marked_ns = now
            self._mark()
        if logs.ledger.version != self._version:
            self._version = logs.ledger.version
            self._look_at_days()
        if logs.running:
            self._measure_lag()
            self._tell_health()
            self._was_running = True
        elif self._was_running:
            self._was_running = False
            self._forget()

    def _look_at_days(self) -> None:
        try:
            self.days = self._logs.ledger.days()
        except NightjarError as error:
            self._health.set("markers", Level.DEGRADED, error.message)

    def _mark(self) -> None:
        logs = self._logs
        try:
            logs.completeness.tick(24 * max(1, logs.config.days_back))
            self._health.ok("markers")
        except NightjarError as error:
            self._health.set("markers", Level.DEGRADED, error.message)

    def _forget(self) -> None:
        """Take back what was told of helpers that were stopped."""
        self.lag = {}
        for part in self._health.snapshot()["parts"]:
            if part not in ("disk", "ledger", "markers"):
                self._health.ok(part)

    def _look_at_disks(self) -> None:
        logs = self._logs
        low = []
        for stream, root in logs.roots.items():
            try:
                self.free[stream] = free = free_bytes(root)
                if free < logs.config.space.low_bytes:
                    low.append(f"{free / 1e6:.0f} MB free in {root}")
            except OSError as error:
                self.free[stream] = None
                low.append(f"{root} is not there ({error.strerror})")
        if low:
            self._health.set("disk", Level.DEGRADED, "; ".join(low))
        else:
            self._health.ok("disk")

    def _measure_lag(self) -> None:
        """Find the oldest closed minute of each stream that is not here yet."""
        logs = self._logs
        oldest: dict[str, int | None] = {
            "pointing": min(
                [
                    *([] if logs.ring is None else logs.ring.behind),
                    *([] if logs.pointing is None or logs.pointing.first_open_ns is None
                      else [logs.pointing.first_open_ns]),
                ], default=None,
            ),
            "housekeeping": None if logs.lines is None else logs.lines.first_open_ns,
            "raw": None if logs.raw is None else min(tuple(logs.raw.waiting), default=None),
        }  # fmt: skip
        now = logs.clock.now_ns()
        self.lag = {
            stream: 0.0 if start is None else max(0.0, (now - start - MINUTE_NS) / NS_PER_S)
            for stream, start in oldest.items()
        }
        for stream, lag_s in self.lag.items():
            start = oldest[stream]
            if lag_s > logs.config.lag_limit_s and start is not None:
                is_part = stream == "pointing" and pointing_path(logs.roots[stream], start).exists()
                how = "only in part here" if is_part else "not here"
                self._health.set(
                    f"{stream} lag", Level.DEGRADED,
                    f"{stream} of {iso(start, 0)} is {how} {lag_s:.0f} s after its minute",
                )  # fmt: skip
            else:
                self._health.ok(f"{stream} lag")

    def _tell_health(self) -> None:
        logs = self._logs
        running = logs.running
        for helper in running:
            if helper.trouble:
                self._health.set(helper.name, Level.DEGRADED, helper.trouble)
            else:
                self._health.ok(helper.name)
        for name in ("housekeeping", "telescope", "rotator", "pointing", "ring", "raw"):
            if name not in {helper.name for helper in running}:
                self._health.ok(name)
        wrong = logs.not_fresh(with_why=False)  # the helpers have told why, above
        troubles = {
            "fresh": "; ".join(wrong),
            "ledger": logs.ledger.trouble,
            "writing": "; ".join(
                one.trouble for one in (logs.pointing, logs.lines) if one and one.trouble
            ),
            "old files": "" if logs.ring is None or not logs.ring.stale else
            "the telescope's ring has old minutes under the names "
            + ", ".join(f"{name} (of {day})" for name, day in sorted(logs.ring.stale.items())[:5]),
            "telescope clock": self._clock_trouble(),
        }  # fmt: skip
        for part, text in troubles.items():
            if text:
                self._health.set(part, Level.DEGRADED, text)
            else:
                self._health.ok(part)

    def _clock_trouble(self) -> str:
        """Return what is wrong with the telescope's time against ours."""
        logs = self._logs
        now = logs.clock.now_ns()
        ahead = [(utc - now) / NS_PER_S for utc, *_ in logs.newest()]
        if logs.poll is not None and logs.poll.record is not None:
            ahead.append((int(logs.poll.record["utc_ns"]) - now) / NS_PER_S)
        most = max(ahead, default=0.0)
        if most > _AHEAD_S:
            return f"the telescope's clock is {most:.1f} s ahead of ours: look at both clocks"
        if logs.pointing is not None and logs.pointing.counts["wrong_time"]:
            return (
                f"{logs.pointing.counts['wrong_time']} pointing records had times far from ours "
                "and were not taken"
            )
        return ""
