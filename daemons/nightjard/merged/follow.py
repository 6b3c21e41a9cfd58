# SPDX-License-Identifier: BSD-3-Clause
"""Merges what there is and what comes: in order, each minute as soon as its files are there.

A minute is merged anew, to the same values where nothing has changed, when a file that it is made
from comes late or changes, when edges of the status lines that came after it tell its clock offset
better, and when the hour's file has gone. So a hole heals by itself, and nothing has to be deleted
before. A minute one of whose files has gone since is left as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from nightjar.clock import NS_PER_S, Clock
from nightjar.das.naming import MINUTE_NS, day_of, minute_of, raw_path
from nightjar.das.raw import read_raw
from nightjar.errors import NightjarError, StorageError
from nightjar.executor.tasks import Executor, Task
from nightjard.merged.alignment import Alignment, as_json
from nightjard.merged.clocks import Clocks, near, offset_of
from nightjard.merged.config import MergedConfig
from nightjard.merged.folders import UNDER_WAY, Inputs, is_gone
from nightjard.merged.hour import HOUR_MEMORY, MERGE_HOUR
from nightjard.merged.memory import Memory, Merged
from nightjard.merged.netcdf import HOUR_NS, hour_of, hour_path

log = logging.getLogger(__name__)
_MOST_HOURS = 4  # of a backlog in one step, so that a stop is heard soon
_LATE_NS = 10 * MINUTE_NS  # later than this a file is late, not merely slow
RETRY_S = 60.0
"""After which a minute that could not be written is tried again."""


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
        if not self.missing:
            return f"the files of minute {minute_text(self.start_ns)} do not keep still"
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
        Minutes that wait for companions, or for a file to keep still.
    given_up
        Those that have waited for long enough; merged with fill unless it was forbidden.
    kept
        Minutes that were merged from files of which one is not there now: left as they are.
    newest_ns
        Start of the newest raw minute there is, behind the last that is wanted, too; None for none.
    """

    merged: list[tuple[int, Merged]] = field(default_factory=list)
    failed: list[tuple[int, NightjarError]] = field(default_factory=list)
    waiting: list[Waiting] = field(default_factory=list)
    given_up: list[Waiting] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
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
        Ages of minutes, and how long something was waited for.
    first_ns, last_ns
        Starts of the first and the last minute that concern it; None: `heal_hours` back, no end.
    is_patient
        False: minutes whose companions do not come are told in ``given_up`` and not merged.
    cancelled
        Asked now and then while tasks run.
    """

    def __init__(
        self, config: MergedConfig, executor: Executor, clock: Clock, *,
        first_ns: int | None = None, last_ns: int | None = None, is_patient: bool = True,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:  # fmt: skip
        self._config, self._executor, self._clock = config, executor, clock
        self._first_ns, self._last_ns = first_ns, last_ns
        self._is_patient = is_patient
        self._cancelled = cancelled
        self._inputs = Inputs(config)
        self._clocks = Clocks(config, executor)
        self.memory = Memory(config.merged_root)
        self._seen: set[int] = set()
        self._missing_s: dict[int, float] = {}
        self._still: dict[int, tuple[str, float]] = {}
        self._unsound_s: dict[int, float] = {}
        self._failed: dict[int, tuple[str, float]] = {}
        self._products: dict[int, int] = {}
        self._again: set[int] = set()

    # --- one look ---

    def step(self) -> Step:
        """Look at the folders once, merge what can be merged; return what was done.

        Raises
        ------
        Cancelled
            It was asked to end.
        StorageError
            The folder of the products is not there.
        NightjarError
            No worker can be had.
        """
        root = self._config.merged_root
        if not root.is_dir():
            raise StorageError(
                f"cannot merge into {root}: it is not there; mount its disk, or make it",
                path=str(root),
            )
        self._inputs.look()
        now_ns = self._clock.now_ns()
        step = Step()
        first, last = self._span(now_ns)
        reach = self._clocks.half_ns
        around = self._inputs.raw_minutes(first - reach, last + reach)
        minutes = [start for start in around if first <= start <= last]
        step.newest_ns = around[-1] if around else None
        self._look_at_products(minutes)
        wanted = [start for start in minutes if self._is_wanted(start, now_ns, step)]
        hours = sorted({hour_of(start) for start in wanted})[:_MOST_HOURS]
        chosen = [start for start in wanted if hour_of(start) in hours]
        if chosen:
            self._do(chosen, around, minutes, step)
        self._seen = set(minutes)
        return step

    def _do(self, chosen: list[int], around: list[int], minutes: list[int], step: Step) -> None:
        signatures = {start: self._inputs.signature(start) for start in chosen}
        alignment: Alignment = {}
        if not self._clocks.is_off:
            reach = self._clocks.half_ns
            these = near(around, chosen, reach, reach)
            self._clocks.learn(these, self._inputs.signature, self._cancelled)
            alignment = self._clocks.align(near(minutes, chosen, reach, 0))
        for start in self._shifted(alignment, set(chosen), step):
            signatures[start] = self._inputs.signature(start)
        late = {start for start, one in signatures.items() if self._is_late(start, one, step)}
        try:
            self._mark(signatures)
            self._merge(signatures, late, alignment, step)
        finally:
            self._save()

    def _span(self, now_ns: int) -> tuple[int, int]:
        back = round(self._config.follow.heal_hours * 3600) * NS_PER_S
        first = self._first_ns if self._first_ns is not None else now_ns - back
        last = self._last_ns if self._last_ns is not None else now_ns + MINUTE_NS
        return first, last

    # --- which minutes ---

    def _look_at_products(self, minutes: list[int]) -> None:
        """Forget what was merged into files that are not there any more."""
        for hour in {hour_of(start) for start in minutes}:
            inode = self._inode(hour)
            # What the memory file of an earlier run says is compared once, with the inode; a file
            # system that gives other numbers at each look shall not have all merged for ever.
            if hour in self._products and inode:
                continue
            self._products[hour] = inode
            for start in range(hour, hour + HOUR_NS, MINUTE_NS):
                known = self.memory.get(start)
                if known is not None and known.product != inode:
                    self.memory.forget(start)

    def _inode(self, hour: int) -> int:
        try:
            return hour_path(self._config.merged_root, hour).stat().st_ino
        except OSError:
            return 0

    def _is_wanted(self, start: int, now_ns: int, step: Step) -> bool:
        """Tell whether a minute is to be merged now; note in the step what it waits for."""
        signature = self._inputs.signature(start)
        if self._is_done(start, signature, step):
            return False
        waiting = self._waiting(start, now_ns)
        if waiting is not None:
            if waiting.waited_s < self._config.follow.companion_wait_s:
                step.waiting.append(waiting)
                return False
            step.given_up.append(waiting)
            if not self._is_patient:
                return False
        if not self._is_still(start, signature):
            step.waiting.append(Waiting(start, (), 0.0))
            return False
        return True

    def _is_done(self, start: int, signature: str, step: Step) -> bool:
        known = self.memory.get(start)
        if known is not None:
            if known.signature == signature and start not in self._again:
                return True
            if is_gone(known.signature, signature):
                self._again.discard(start)
                step.kept.append(start)
                return True
        failed, until_s = self._failed.get(start, ("", 0.0))
        return failed == signature and self._now_s() < until_s

    def _now_s(self) -> float:
        return self._clock.monotonic_ns() / NS_PER_S

    def _waiting(self, start: int, now_ns: int) -> Waiting | None:
        missing = self._inputs.missing(start)
        if not missing:
            self._missing_s.pop(start, None)
            return None
        waited_s = self._now_s() - self._missing_s.setdefault(start, self._now_s())
        if self._is_patient:  # of an old minute the waiting is long over
            waited_s = max(waited_s, (now_ns - start - _LATE_NS) / NS_PER_S)
        return Waiting(start, tuple(missing), waited_s)

    def _is_still(self, start: int, signature: str) -> bool:
        """Tell whether a minute's files have kept still, and the raw file is sound."""
        follow, now_s = self._config.follow, self._now_s()
        if follow.settle_s:
            seen, since = self._still.get(start, ("", 0.0))
            if seen != signature:
                self._still[start] = (signature, now_s)
                return False
            if now_s - since < follow.settle_s:
                return False
        if follow.recheck_s:
            try:
                read_raw(raw_path(self._config.raw_root, start))
            except StorageError as error:
                since = self._unsound_s.setdefault(start, now_s)
                if now_s - since < follow.recheck_s:
                    log.info("minute %s: %s; it will be opened anew", minute_text(start), error)
                    return False
            self._unsound_s.pop(start, None)
        self._still.pop(start, None)
        return True

    def _is_late(self, start: int, signature: str, step: Step) -> bool:
        """Tell whether a minute is merged because a file of it came late."""
        known = self.memory.get(start)
        if known is not None:
            is_old = (step.newest_ns or 0) - start > _LATE_NS
            return known.is_late or (is_old and known.signature.lstrip(UNDER_WAY) != signature)
        # A raw file that was not there at the look before, when much later ones were.
        return bool(self._seen) and start not in self._seen and max(self._seen) - start > _LATE_NS

    def _shifted(self, alignment: Alignment, chosen: set[int], step: Step) -> list[int]:
        """Return merged minutes whose offset is known better now."""
        found = []
        for start in alignment:
            known = self.memory.get(start)
            offset = offset_of(alignment, start)
            if start in chosen or known is None or known.is_settled or offset is None:
                continue
            if is_gone(known.signature, self._inputs.signature(start)):
                continue
            is_settled = (step.newest_ns or 0) - start >= self._clocks.half_ns
            if known.offset_s is None:
                found.append(start)
            elif is_settled and abs(offset - known.offset_s) > self._config.follow.refit_s:
                found.append(start)
            elif is_settled:
                self.memory.put(start, replace(known, is_settled=True))
        return found

    # --- merging ---

    def _mark(self, signatures: dict[int, str]) -> None:
        """Write down which minutes are merged again: killed meanwhile, they are not done."""
        for start in signatures:
            known = self.memory.get(start)
            if known is not None and known.signature == signatures[start]:
                self.memory.put(start, replace(known, signature=UNDER_WAY + known.signature))
        self._save()

    def _merge(
        self, signatures: dict[int, str], late: set[int], alignment: Alignment, step: Step
    ) -> None:
        starts = sorted(signatures)
        runs = runs_of([one for one in starts if one not in late])
        tasks = []
        for run in sorted(runs + runs_of([one for one in starts if one in late])):
            arguments = {
                "config": self._config.text, "hour_ns": hour_of(run[0]), "minutes": run,
                "alignment": as_json({one: alignment[one] for one in run if one in alignment}),
                "is_late": run[0] in late,
            }  # fmt: skip
            tasks.append(Task(f"merge {run[0]}", MERGE_HOUR, arguments, HOUR_MEMORY))

        def take(task: Task, result: Any) -> None:
            hour = task.arguments["hour_ns"]
            inode = self._products[hour] = self._inode(hour)
            for one in result["minutes"]:
                merged = self._merged(one, signatures, alignment, step)
                merged = replace(merged, product=inode, is_late=task.arguments["is_late"])
                self.memory.put(int(one["minute_ns"]), merged)
                step.merged.append((int(one["minute_ns"]), merged))
            self._again.difference_update(task.arguments["minutes"])
            for start in result["again"]:
                self.memory.forget(start)
                self._again.add(start)

        def fail(task: Task, error: NightjarError) -> None:
            for start in task.arguments["minutes"]:
                self._failed[start] = (signatures[start], self._now_s() + RETRY_S)
                step.failed.append((start, error))

        self._executor.run(tasks, take, fail, self._cancelled)
        step.merged.sort(key=lambda pair: pair[0])
        step.failed.sort(key=lambda pair: pair[0])

    def _merged(
        self, one: dict[str, Any], signatures: dict[int, str], alignment: Alignment, step: Step
    ) -> Merged:
        start = int(one["minute_ns"])
        self._failed.pop(start, None)
        before = self.memory.get(start)
        return Merged(
            signature=signatures[start], status=int(one["status"]), reason=one["reason"],
            samples=int(one["samples"]), offset_s=offset_of(alignment, start),
            is_settled=(step.newest_ns or 0) - start >= self._clocks.half_ns,
            merged_ns=self._clock.now_ns(), times=1 if before is None else before.times + 1,
        )  # fmt: skip

    def _save(self) -> None:
        try:
            self.memory.save()
        except OSError as error:
            log.warning("%s: %s", self._config.merged_root, error)

    # --- what is asked of it ---

    def again(self, starts: Iterable[int]) -> None:
        """Have minutes merged again, whatever is known of them."""
        for start in starts:
            self._failed.pop(start, None)
            self._again.add(start)

    def is_whole(self, start_ns: int) -> bool:
        """Tell whether no file that a minute is merged from can still be to come."""
        return self._inputs.is_whole(start_ns)


def runs_of(starts: list[int]) -> list[list[int]]:
    """Return minutes as runs without holes, each within one hour."""
    runs: list[list[int]] = []
    for start in starts:
        if runs and start == runs[-1][-1] + MINUTE_NS and hour_of(start) == hour_of(runs[-1][0]):
            runs[-1].append(start)
        else:
            runs.append([start])
    return runs
