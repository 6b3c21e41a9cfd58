# SPDX-License-Identifier: BSD-3-Clause
"""Merges what there is and what comes: in order, each minute as soon as its files are there.

A minute is merged anew, to the same values where nothing has changed, when a file that it is made
from comes late or changes, and when edges of the status lines that came after it tell its clock
offset better. So a hole heals by itself, and nothing has to be deleted before.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from nightjar.clock import NS_PER_S, Clock
from nightjar.das.naming import MINUTE_NS, day_of, minute_of, raw_path
from nightjar.das.raw import read_raw
from nightjar.errors import NightjarError, StorageError
from nightjar.executor.tasks import Executor, Task
from nightjard.merged.alignment import Alignment, as_json, fit
from nightjard.merged.config import MergedConfig
from nightjard.merged.edges import FIND_EDGES
from nightjard.merged.folders import Inputs
from nightjard.merged.hour import HOUR_MEMORY, MERGE_HOUR
from nightjard.merged.memory import Memory, Merged
from nightjard.merged.netcdf import hour_of

log = logging.getLogger(__name__)
_EDGE_MEMORY = 50_000_000
_MOST_HOURS = 4  # of a backlog in one step, so that a stop is heard soon
_LATE_NS = 10 * MINUTE_NS  # later than this a file is late, not merely slow


@dataclass(frozen=True, slots=True)
class Waiting:
    """A raw minute that has not all its companions.

    Attributes
    ----------
    start_ns
        Start of the minute.
    missing
        Streams.
    waited_s
        Since when, by this program's look.
    """

    start_ns: int
    missing: tuple[str, ...]
    waited_s: float

    @property
    def text(self) -> str:
        """What is missing, in words."""
        return f"minute {minute_text(self.start_ns)} has no {' and no '.join(self.missing)} file"


@dataclass(slots=True)
class Step:
    """What one look has done.

    Attributes
    ----------
    merged
        (start, what is known of it now), in order.
    failed
        (start, why).
    waiting
        Minutes that wait for companions.
    given_up
        Those of them that have waited for long enough; merged with fill unless it was forbidden.
    newest_ns
        Start of the newest raw minute; None for none.
    """

    merged: list[tuple[int, Merged]] = field(default_factory=list)
    failed: list[tuple[int, str]] = field(default_factory=list)
    waiting: list[Waiting] = field(default_factory=list)
    given_up: list[Waiting] = field(default_factory=list)
    newest_ns: int | None = None


def minute_text(start_ns: int) -> str:
    """Return a minute as people name it: ``20260131 0754``."""
    return f"{day_of(start_ns)} {minute_of(start_ns):04d}"


class Follower:
    """Keeps the products in step with their input; one thread calls :meth:`step`.

    Parameters
    ----------
    config
        Folders and how to wait.
    executor
        Runs the tasks.
    clock
        Ages of files.
    first_ns, last_ns
        Starts of the first and the last minute that concern it; None: `heal_hours` back, no end.
    is_patient
        False: minutes whose companions do not come are told in ``given_up`` and not merged.
    cancelled
        Asked now and then while tasks run.
    """

    def __init__(
        self,
        config: MergedConfig,
        executor: Executor,
        clock: Clock,
        *,
        first_ns: int | None = None,
        last_ns: int | None = None,
        is_patient: bool = True,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self._config, self._executor, self._clock = config, executor, clock
        self._first_ns, self._last_ns = first_ns, last_ns
        self._is_patient = is_patient
        self._cancelled = cancelled
        self._inputs = Inputs(config)
        self.memory = Memory(config.merged_root)
        self._edges: dict[int, tuple[str, dict[str, Any]]] = {}
        self._seen_s: dict[int, float] = {}
        self._unsound_s: dict[int, float] = {}
        self._failed: dict[int, str] = {}
        self._again: set[int] = set()

    # --- one look ---

    def step(self) -> Step:
        """Look at the folders once, merge what can be merged; return what was done.

        Raises
        ------
        Cancelled
            It was asked to end.
        NightjarError
            No worker can be had.
        """
        now_ns = self._clock.now_ns()
        step = Step()
        first, last = self._span(now_ns)
        minutes = self._inputs.raw_minutes(first, last, now_ns)
        step.newest_ns = minutes[-1] if minutes else None
        signatures: dict[int, str] = {}
        for start in minutes:
            signature = self._inputs.signature(start, now_ns)
            if self._is_done(start, signature):
                continue
            waiting = self._waiting(start, now_ns)
            if waiting is not None:
                if waiting.waited_s < self._config.follow.companion_wait_s:
                    step.waiting.append(waiting)
                    continue
                step.given_up.append(waiting)
                if not self._is_patient:
                    continue
            if not self._is_settled(start, now_ns):
                continue
            signatures[start] = signature
        chosen = self._chosen(signatures)
        self._find_edges(chosen, minutes, now_ns)
        alignment = self._align(chosen, minutes)
        again = self._shifted(minutes, alignment, chosen)
        self._merge({**again, **{one: signatures[one] for one in chosen}}, alignment, step)
        self._save()
        return step

    def _span(self, now_ns: int) -> tuple[int, int]:
        back = round(self._config.follow.heal_hours * 3600) * NS_PER_S
        first = self._first_ns if self._first_ns is not None else now_ns - back
        last = self._last_ns if self._last_ns is not None else now_ns + MINUTE_NS
        return first, last

    def _is_done(self, start: int, signature: str) -> bool:
        known = self.memory.get(start)
        if start in self._again:
            return False
        if self._failed.get(start) == signature:
            return True  # it would fail again: until a file changes
        return known is not None and known.signature == signature

    def _waiting(self, start: int, now_ns: int) -> Waiting | None:
        missing = self._inputs.missing(start, now_ns)
        if not missing:
            self._seen_s.pop(start, None)
            return None
        now_s = self._clock.monotonic_ns() / NS_PER_S
        since = self._seen_s.setdefault(start, now_s)
        waited_s = now_s - since
        if self._is_patient:  # of an old minute the waiting is long over
            waited_s = max(waited_s, (now_ns - start - _LATE_NS) / NS_PER_S)
        return Waiting(start, tuple(missing), waited_s)

    def _is_settled(self, start: int, now_ns: int) -> bool:
        follow = self._config.follow
        settle_ns = follow.settle_s * NS_PER_S
        if settle_ns and now_ns - self._inputs.settled_ns(start, now_ns) < settle_ns:
            return False
        if not follow.recheck_s:
            return True
        try:
            read_raw(raw_path(self._config.raw_root, start))
        except StorageError as error:
            now_s = self._clock.monotonic_ns() / NS_PER_S
            since = self._unsound_s.setdefault(start, now_s)
            log.info("minute %s: %s; opened anew", minute_text(start), error)
            return now_s - since >= follow.recheck_s
        self._unsound_s.pop(start, None)
        return True

    def _chosen(self, signatures: dict[int, str]) -> list[int]:
        """Return the minutes of this step: those of the first few hours that have any."""
        hours = sorted({hour_of(start) for start in signatures})[:_MOST_HOURS]
        return [start for start in sorted(signatures) if hour_of(start) in hours]

    # --- clocks ---

    def _window_ns(self) -> int:
        return round(self._config.alignment.window_s / 2) * NS_PER_S

    def _find_edges(self, chosen: list[int], minutes: list[int], now_ns: int) -> None:
        """Have the edges of the chosen minutes and of those around them."""
        if self._config.alignment.align == "off" or not chosen:
            return
        window = self._window_ns()
        near = [m for m in minutes if chosen[0] - window <= m <= chosen[-1] + window]
        tasks = []
        marks: dict[int, str] = {}
        for start in near:
            mark = self._inputs.signature(start, now_ns)
            if start not in self._edges or self._edges[start][0] != mark:
                marks[start] = mark
                arguments = {"config": self._config.text, "start_ns": start}
                tasks.append(Task(f"edges {start}", FIND_EDGES, arguments, _EDGE_MEMORY))

        def take(task: Task, result: Any) -> None:
            start = task.arguments["start_ns"]
            self._edges[start] = (marks[start], result)

        self._executor.run(tasks, take, lambda *_: None, self._cancelled)
        oldest = min(near, default=0) - 4 * window
        for start in [one for one in self._edges if one < oldest]:
            del self._edges[start]

    def _align(self, chosen: list[int], minutes: list[int]) -> Alignment:
        """Return the alignment of the chosen minutes, and of those before that it may change."""
        if self._config.alignment.align == "off" or not chosen:
            return {}
        window = self._window_ns()
        wanted = [m for m in minutes if chosen[0] - window <= m <= chosen[-1]]
        edges = [edges for _, edges in self._edges.values()]
        return fit(edges, wanted, self._config.alignment, self._config.levels)

    def _shifted(
        self, minutes: list[int], alignment: Alignment, chosen: Iterable[int]
    ) -> dict[int, str]:
        """Return merged minutes whose offset is known better now, with their signatures."""
        found = {}
        for start in alignment:
            known = self.memory.get(start)
            if start in chosen or known is None or known.is_settled:
                continue
            offset = offset_of(alignment, start)
            settled = minutes[-1] - start >= self._window_ns()
            if offset is None:
                continue
            changed = known.offset_s is None or abs(offset - known.offset_s) > (
                self._config.follow.refit_s
            )
            if changed and (settled or known.offset_s is None):
                found[start] = known.signature
            elif settled:
                known.is_settled = True
                self.memory.put(start, known)
        return found

    # --- merging ---

    def _merge(self, signatures: dict[int, str], alignment: Alignment, step: Step) -> None:
        newest = step.newest_ns or 0
        tasks = []
        for run in runs_of(sorted(signatures)):
            late = any(
                self.memory.get(start) is not None
                and newest - start > _LATE_NS
                and self.memory.get(start).signature != signatures[start]  # type: ignore[union-attr]
                for start in run
            )
            arguments = {
                "config": self._config.text, "hour_ns": hour_of(run[0]), "minutes": run,
                "alignment": as_json({one: alignment[one] for one in run if one in alignment}),
                "is_late": late,
            }  # fmt: skip
            tasks.append(Task(f"merge {run[0]}", MERGE_HOUR, arguments, HOUR_MEMORY))

        def take(task: Task, result: Any) -> None:
            for one in result["minutes"]:
                self._take(one, signatures, alignment, step)
            self._again.difference_update(task.arguments["minutes"])
            self._again.update(result["again"])
            for start in result["again"]:
                self.memory.forget(start)

        def fail(task: Task, error: NightjarError) -> None:
            for start in task.arguments["minutes"]:
                self._failed[start] = signatures[start]
                step.failed.append((start, error.message))

        self._executor.run(tasks, take, fail, self._cancelled)
        step.merged.sort(key=lambda pair: pair[0])

    def _take(
        self, one: dict[str, Any], signatures: dict[int, str], alignment: Alignment, step: Step
    ) -> None:
        start = int(one["minute_ns"])
        before = self.memory.get(start)
        merged = Merged(
            signature=signatures[start], status=int(one["status"]), reason=one["reason"],
            samples=int(one["samples"]), offset_s=offset_of(alignment, start),
            is_settled=(step.newest_ns or 0) - start >= self._window_ns(),
            merged_ns=self._clock.now_ns(), times=1 if before is None else before.times + 1,
        )  # fmt: skip
        self.memory.put(start, merged)
        self._failed.pop(start, None)
        step.merged.append((start, merged))

    def _save(self) -> None:
        try:
            self.memory.save()
        except OSError as error:
            log.warning("%s: %s", self._config.merged_root, error)

    def again(self, starts: Iterable[int]) -> None:
        """Have minutes merged again, whatever is known of them."""
        for start in starts:
            self._failed.pop(start, None)
            self._again.add(start)


def offset_of(alignment: Alignment, start_ns: int) -> float | None:
    """Return the clock offset in the middle of a minute, DAS minus telescope, s; None for none."""
    pieces = alignment.get(start_ns)
    if not pieces:
        return None
    value = pieces[0].offset_at(start_ns + MINUTE_NS // 2)
    return value if math.isfinite(value) else None


def runs_of(starts: list[int]) -> list[list[int]]:
    """Return minutes as runs without holes, each within one hour."""
    runs: list[list[int]] = []
    for start in starts:
        if runs and start == runs[-1][-1] + MINUTE_NS and hour_of(start) == hour_of(runs[-1][0]):
            runs[-1].append(start)
        else:
            runs.append([start])
    return runs
