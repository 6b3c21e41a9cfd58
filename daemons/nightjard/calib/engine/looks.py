# SPDX-License-Identifier: BSD-3-Clause
"""One look at the day folders: how far the acquisition of a test is.

A test is complete where its rows are in the log and all its files are there, can be read and have
not changed for as long as the pause between two looks. What does not come is waited for only so
long: the test is then done without, and told to be.

Pauses are counted by the monotonic clock: UTC may be stepped. UTC is compared with nothing but the
times of files, and of these with when they came here (ctime): copies bring their old mtime along.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from nightjar.calibration.dayfolder import Day, list_days
from nightjar.calibration.explog import ExpLogReader, LogRow
from nightjar.clock import NS_PER_S, Clock
from nightjar.errors import StorageError
from nightjard.calib.campaign import WaitConfig
from nightjard.calib.engine.claims import Claims, share_out
from nightjard.calib.engine.plan import Setup, TestPlan
from nightjard.calib.engine.runs import (
    Exposure,
    Run,
    exposures_of,
    latest_run,
    quiet_s,
    rows_of_test,
)
from nightjard.calib.engine.state import Stage
from nightjard.calib.engine.taken import with_its_script
from nightjard.calib.ingest import file_problem, image_of, readable_folders

_SHOWN = 3
Signature = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Seen:
    """How far a test is.

    Attributes
    ----------
    plan
        The test's, with the script as it was when these exposures were taken.
    run
        The exposures that would be taken for it.
    frames
        Exposures in the log, those of aborted runs included.
    last_obsid
        Of the exposures in the log; -1 without any.
    lacking
        What it is done without, having been waited for long enough; files complete only.
    others
        Which of its exposures are another session's, or may be.
    """

    stage: Stage
    plan: TestPlan
    run: Run
    frames: int
    last_obsid: int
    reason: str = ""
    lacking: tuple[str, ...] = ()
    others: str = ""


class Follower:
    """Reads the logs of day folders as they grow."""

    def __init__(self, folders: tuple[Path, ...], elvis: str) -> None:
        self._folders = folders
        self._elvis = elvis
        self._readers: dict[Path, ExpLogReader] = {}
        self._rows: dict[Path, list[LogRow]] = {}
        self._told: dict[Path, int] = {}
        self.problem = ""

    def look(self) -> tuple[Day, list[LogRow]]:
        """Return what the folders hold and the rows of all their logs, each once.

        A folder that is not there yet is told in `problem`; the others are read.

        Raises
        ------
        ConfigError
            A log is of another version of ELVIS.
        """
        self.problem = ""
        try:
            folders, problems = readable_folders(self._folders)
            day = list_days(folders)
        except StorageError as error:
            self.problem = error.message
            return Day(()), []
        self.problem = "; ".join(problems)
        rows: dict[tuple[int, int, str], LogRow] = {}
        for number, path in enumerate(day.logs):
            reader = self._readers.setdefault(path, ExpLogReader(path, self._elvis, number))
            restarts = reader.restarts
            try:
                fresh = reader.poll()
            except StorageError as error:  # being copied: next time
                self.problem = error.message
                fresh = []
            known = [] if reader.restarts != restarts else self._rows.get(path, [])
            self._rows[path] = [*known, *fresh]
            for row in self._rows[path]:
                rows.setdefault((row.obsid, row.ccd, row.file_name), row)
        return day, list(rows.values())

    def take_problems(self) -> list[str]:
        """Return lines of the logs that are no rows; each once."""
        fresh: list[str] = []
        for path, reader in self._readers.items():
            fresh += reader.problems[self._told.get(path, 0) :]
            self._told[path] = len(reader.problems)
        return fresh


@dataclass
class _Files:
    """The files of a run as one look found them.

    Attributes
    ----------
    images, housekeeping
        Which are missing or cannot be used, in words.
    came_ns
        UTC at which the last of those that are there came; 0 where none is there.
    written_ns
        When the first image of each exposure was written; only where all are there.
    """

    images: list[str] = field(default_factory=list)
    housekeeping: list[str] = field(default_factory=list)
    signature: list[tuple[str, int, int]] = field(default_factory=list)
    came_ns: int = 0
    written_ns: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class _Chosen:
    """The run that is taken for a test, and what it was chosen from.

    Attributes
    ----------
    rows, all_exposures
        Of the test, those of aborted runs included.
    strange
        Rows that were left out for their filter.
    """

    run: Run
    rows: list[LogRow]
    all_exposures: list[Exposure]
    strange: int
    note: str

    @property
    def exposures(self) -> Sequence[Exposure]:
        """Those that are taken."""
        return self.run.exposures


@dataclass
class Watcher:
    """Remembers of each test what the last look saw.

    Parameters
    ----------
    first_obsid
        Earlier exposures do not count.
    config
        How long is waited. Files that came here longer ago than the pause between two looks need
        no second one; others must be seen unchanged for so long.
    """

    setup: Setup
    first_obsid: int | None
    config: WaitConfig
    clock: Clock
    claims: Claims | None = None
    _utc_ns: int = field(init=False, default=0)
    _since: dict[tuple[str, str], tuple[object, int]] = field(default_factory=dict)
    _good: set[tuple[str, int, int]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._utc_ns = self.clock.now_ns() - self.clock.monotonic_ns()

    def _age_s(self, utc_ns: int) -> float:
        """Return how long ago a UTC was; that the clock has been put forward makes nothing old."""
        put_on_ns = self.clock.now_ns() - self.clock.monotonic_ns() - self._utc_ns
        return max(self.clock.now_ns() - max(put_on_ns, 0) - utc_ns, 0) / NS_PER_S

    def see(self, plan: TestPlan, day: Day, rows: list[LogRow]) -> Seen:
        """Return how far a test is."""
        folders = set(plan.days)
        here = [row for row in rows if row.datapath in folders]
        plan, chosen = with_its_script(
            self.setup, plan, here, lambda one: self._choose(one, here)
        )
        return replace(self._seen(plan, chosen, day, here), others=chosen.note)

    def _seen(self, plan: TestPlan, chosen: _Chosen, day: Day, here: list[LogRow]) -> Seen:
        run, count = chosen.run, len(chosen.all_exposures)
        newest = chosen.all_exposures[-1].obsid if count else -1
        self._unchanged_s(plan.test, "log", len(chosen.rows))
        if not run.is_complete:
            strange = chosen.strange
            reason = f"{strange} rows were taken with another filter" if strange else chosen.note
            return Seen("acquiring" if count else "expected", plan, run, count, newest, reason)
        lacking: list[str] = []
        ccds = len(self.setup.detector.ccd_numbers)
        partial = [one.obsid for one in run.exposures if len(one.rows) < ccds]
        if partial:
            text = f"rows of a CCD are missing for OBSID {', '.join(map(str, partial))}"
            if self._unchanged_s(plan.test, "log", len(chosen.rows)) < self.config.files_s:
                return Seen("acquiring", plan, run, count, newest, text)
            lacking.append(text)
        is_followed = any(
            row.obsid > run.obsids[1] and row.test != plan.log_name for row in here
        )
        return self._complete(plan, run, day, Seen("files complete", plan, run, count, newest),
                              lacking, is_followed=is_followed)  # fmt: skip

    def _choose(self, plan: TestPlan, rows: list[LogRow]) -> _Chosen:
        first, last = plan.obsids or (self.first_obsid, None)
        found, strange = rows_of_test(
            rows, plan.log_name, waves=plan.waves, first=first, last=last
        )
        note = ""
        if first is None and self.claims is not None:
            found, note = share_out(found, rows, plan, self.setup, self.claims, is_wait=True)
        exposures = exposures_of(found)
        run = latest_run(plan.script, exposures, self.setup.detector)
        return _Chosen(run, found, exposures, strange, note)

    def _complete(
        self, plan: TestPlan, run: Run, day: Day, seen: Seen, lacking: list[str], *,
        is_followed: bool,
    ) -> Seen:  # fmt: skip
        """Return how far a test is whose log is complete."""
        files = self._files(run, day)
        # Of another run, too, none may be there yet.
        unchanged_s = self._unchanged_s(plan.test, "files", (run.obsids, *files.signature))
        age_s = self._age_s(files.came_ns)
        quiet = max(unchanged_s, age_s)
        # What is missing was not due before the log told of it, however old the other files are.
        missing_s = max(unchanged_s, self._age_s(max(files.came_ns, _log_came_ns(plan, day))))
        for missing, patience_s in (
            (files.images, self.config.files_s), (files.housekeeping, self.config.housekeeping_s)
        ):  # fmt: skip
            if missing and missing_s < patience_s:
                return self._waits(seen, f"waits for {some_of(missing)}")
            lacking += missing
        if quiet < self.config.sleep_s:
            return self._waits(seen, "waits whether its files still change")
        if not (run.is_sure or is_followed):
            still_s = quiet_s(plan.script, self.setup.detector, run.exposures, files.written_ns)
            log_s = self._unchanged_s(plan.test, "log", None)
            if max(log_s, age_s) < max(still_s, self.config.sleep_s):
                return self._waits(seen, "waits whether more of it comes: its exposures may be "
                                   "those of two submissions")  # fmt: skip
        return replace(seen, lacking=tuple(lacking))

    @staticmethod
    def _waits(seen: Seen, reason: str) -> Seen:
        return replace(seen, stage="log complete", reason=reason)

    def _files(self, run: Run, day: Day) -> _Files:
        files = _Files()
        for exposure in run.exposures:
            states = [
                self._image(image_of(row, day), row.file_name, files) for row in exposure.rows
            ]
            if states and states[0] is not None:
                files.written_ns.append(states[0].st_mtime_ns)
            path = day.hk.get(exposure.obsid)
            if path is None or _state(path, files) is None:
                files.housekeeping.append(f"housekeeping of {exposure.obsid}")
        return files

    def _image(self, path: Path | None, name: str, files: _Files) -> os.stat_result | None:
        state = None if path is None else _state(path, files)
        if path is None or state is None:
            files.images.append(name)
            return None
        entry = files.signature[-1]
        if entry not in self._good:
            problem = file_problem(path, self.setup.detector)
            if problem:
                files.images.append(problem)
            else:
                self._good.add(entry)
        return state

    def _unchanged_s(self, test: str, what: str, value: object) -> float:
        """Return for how long something of a test has been seen as it is; None: as it was."""
        now_ns = self.clock.monotonic_ns()
        known = self._since.get((test, what))
        if known is None or (value is not None and known[0] != value):
            known = self._since[test, what] = (value, now_ns)
        return (now_ns - known[1]) / NS_PER_S


def _log_came_ns(plan: TestPlan, day: Day) -> int:
    """Return the UTC at which a log of a test's folders changed last; 0 where none is there."""
    came_ns = 0
    for path in day.logs:
        if path.parent in plan.days:
            with contextlib.suppress(OSError):
                came_ns = max(came_ns, path.stat().st_ctime_ns)
    return came_ns


def _state(path: Path, files: _Files) -> os.stat_result | None:
    try:
        state = path.stat()
    except OSError:
        return None
    files.signature.append((str(path), state.st_size, state.st_mtime_ns))
    files.came_ns = max(files.came_ns, state.st_ctime_ns)
    return state


def some_of(missing: Sequence[str]) -> str:
    """Return the first of what is missing, and how much more there is."""
    more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
    return f"{'; '.join(missing[:_SHOWN])}{more}"


