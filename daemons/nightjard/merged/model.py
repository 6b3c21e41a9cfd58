# SPDX-License-Identifier: BSD-3-Clause
"""The merge as a daemon has it: one thread that looks, merges and tells."""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Any

from nightjar.api.states import Level
from nightjar.clock import NS_PER_S, Clock
from nightjar.das.naming import MINUTE_NS, minute_of, minute_start_ns
from nightjar.errors import Cancelled, InvalidArgument, NightjarError
from nightjar.executor.tasks import Executor
from nightjar.health import Health
from nightjar.times import iso
from nightjard.merged import quality
from nightjard.merged.config import MergedConfig
from nightjard.merged.folders import DAY_NS, Inputs
from nightjard.merged.follow import Follower, Step, Waiting, minute_text
from nightjard.merged.memory import Merged

log = logging.getLogger(__name__)
_STATUS_NAMES = {value: name for name, (value, _) in quality.STATUS.items()}
_KEPT_FAILURES = 100


def status_name(status: int) -> str:
    """Return the name of a minute's status."""
    return _STATUS_NAMES.get(status, "new")


class Merging:
    """Follows the input; :meth:`tick` belongs to one thread, the rest to any.

    Parameters
    ----------
    config, executor, clock, health
        What it works with.

    Attributes
    ----------
    wake
        Set when the next look should not wait.
    stopping
        Set to have it end what it does.
    """

    def __init__(
        self, config: MergedConfig, executor: Executor, clock: Clock, health: Health
    ) -> None:
        self._config, self._executor, self._clock, self._health = config, executor, clock, health
        self.wake, self.stopping = threading.Event(), threading.Event()
        self._follower = Follower(config, executor, clock, cancelled=self.stopping.is_set)
        self._inputs = Inputs(config)
        self._lock = threading.Lock()
        self._asked: list[int] = []
        self._is_paused = self._is_busy = False
        self._waiting: list[Waiting] = []
        self._failed: deque[tuple[int, str]] = deque(maxlen=_KEPT_FAILURES)
        self._newest_raw: int | None = None
        self._newest: int | None = None
        self._last: tuple[int, Merged] | None = None
        self._lag_s: float | None = None
        self._merged = self._again = 0

    # --- commands ---

    def minutes(self, night: str) -> dict[str, Any]:
        """Return what became of the minutes of a day."""
        first = minute_start_ns(night, 0)
        raw = self._raw_minutes(first, first + DAY_NS - 1)
        known = self._follower.memory.of_day(night)
        waiting = {one.start_ns: one for one in list(self._waiting)}
        failed = dict(list(self._failed))
        entries = []
        for start in sorted({*raw, *known}):
            entry: dict[str, Any] = {
                "minute": minute_of(start), "status": "new", "reason": "", "samples": 0,
                "offset_s": None, "times": 0,
            }  # fmt: skip
            one = known.get(start)
            if one is not None:
                entry |= {
                    "status": status_name(one.status), "reason": one.reason,
                    "samples": one.samples, "offset_s": one.offset_s, "times": one.times,
                }  # fmt: skip
            elif start in failed:
                entry |= {"status": "failed", "reason": failed[start]}
            elif start in waiting:
                entry |= {"status": "waiting", "reason": waiting[start].text}
            entries.append(entry)
        return {"night": night, "minutes": entries}

    def again(self, night: str, first: int, last: int) -> dict[str, Any]:
        """Merge minutes once more."""
        if first > last:
            raise InvalidArgument(f"first {first} is behind last {last}")
        begin, end = minute_start_ns(night, first), minute_start_ns(night, last)
        starts = self._raw_minutes(begin, end)
        back_ns = round(self._config.follow.heal_hours * 3600) * NS_PER_S
        if begin < self._clock.now_ns() - back_ns:
            raise InvalidArgument(
                f"{night} is further back than follow.heal_hours "
                f"({self._config.follow.heal_hours:g} h): by hand it goes, "
                f"dasmerge merge --night {night}"
            )
        with self._lock:
            self._asked += starts
        self.wake.set()
        return {"minutes": len(starts)}

    def _raw_minutes(self, first_ns: int, last_ns: int) -> list[int]:
        with self._lock:  # two clients may ask at once
            self._inputs.look()
            return self._inputs.raw_minutes(first_ns, last_ns)

    def pause(self) -> dict[str, Any]:
        """Merge nothing for now."""
        self._is_paused = True
        return {"state": "PAUSED"}

    def resume(self) -> dict[str, Any]:
        """Go on."""
        self._is_paused = False
        self.wake.set()
        return {"state": "WAITING"}

    def status(self) -> dict[str, Any]:
        """Return the snapshot."""
        last = self._last
        state = "MERGING" if self._is_busy else "PAUSED" if self._is_paused else "WAITING"
        summary = {"PAUSED": "STANDBY", "MERGING": "BUSY", "WAITING": "READY"}[state]
        return {
            "summary": summary, "state": state,
            "newest_raw": None if self._newest_raw is None else iso(self._newest_raw, 0),
            "newest_merged": None if self._newest is None else iso(self._newest, 0),
            "lag_s": self._lag_s,
            "waiting": [
                {"minute": minute_text(one.start_ns), "missing": list(one.missing),
                 "waited_s": one.waited_s} for one in list(self._waiting)
            ],
            "failed": [
                {"minute": minute_text(start), "reason": reason}
                for start, reason in list(self._failed)
            ],
            "merged": self._merged, "again": self._again,
            "last": None if last is None else {
                "minute": minute_text(last[0]), "status": status_name(last[1].status),
                "reason": last[1].reason, "samples": last[1].samples,
                "offset_s": last[1].offset_s,
            },
            "offset_s": None if last is None else last[1].offset_s,
            "workers": self._config.executor.workers, "config_sha256": self._config.digest,
            "merged_root": str(self._config.merged_root),
        }  # fmt: skip

    # --- the thread ---

    def tick(self) -> None:
        """Look once; what fails is told in status and health, and tried again."""
        if self._is_paused:
            return
        with self._lock:
            asked, self._asked = self._asked, []
        self._follower.again(asked)
        self._is_busy = True
        try:
            self._take(self._follower.step())
        except Cancelled:
            return
        except NightjarError as error:
            self._health.set("merge", Level.FAILED, error.message)
        finally:
            self._is_busy = False

    def _take(self, step: Step) -> None:
        self._newest_raw = step.newest_ns
        self._waiting = step.waiting
        self._note_failures(step)
        for one in step.given_up:
            if one.waited_s < 2 * self._config.follow.companion_wait_s:
                log.warning("%s; merged with fill", one.text)
        for start, merged in step.merged:
            self._merged += 1
            self._again += merged.times > 1
            if self._newest is None or start > self._newest:
                self._newest = start
                self._lag_s = (merged.merged_ns - start - MINUTE_NS) / NS_PER_S
            self._last = (start, merged)
        self._judge()

    def _note_failures(self, step: Step) -> None:
        gone = {start for start, _ in [*step.merged, *step.failed]}
        kept = [pair for pair in self._failed if pair[0] not in gone]
        told = {reason for _, reason in kept}
        for start, error in step.failed:
            if error.message not in told:
                log.error("minute %s: %s", minute_text(start), error.message)
                told.add(error.message)
            kept.append((start, error.message))
        self._failed = deque(kept, maxlen=_KEPT_FAILURES)

    def _judge(self) -> None:
        config = self._config
        roots = (config.raw_root, config.pointing_root, config.housekeeping_root)
        gone = [str(root) for root in roots if root is not None and not root.is_dir()]
        if gone:
            self._health.set("inputs", Level.DEGRADED, f"{', '.join(gone)}: not there")
        else:
            self._health.ok("inputs")
        if self._failed:
            start, reason = self._failed[-1]
            self._health.set(
                "merge", Level.DEGRADED,
                f"{len(self._failed)} minutes cannot be merged; {minute_text(start)}: {reason}",
            )  # fmt: skip
        else:
            self._health.ok("merge")
