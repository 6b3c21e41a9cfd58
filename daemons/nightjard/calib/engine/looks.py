# SPDX-License-Identifier: BSD-3-Clause
"""One look at the day folders: how far the acquisition of a test is.

A test is complete where its rows are in the log and all its files are there, can be read and have
not changed for as long as the pause between two looks.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from nightjar.calibration.dayfolder import Day, list_days
from nightjar.calibration.detector import Detector
from nightjar.calibration.explog import ExpLogReader, LogRow
from nightjar.clock import NS_PER_S
from nightjar.errors import StorageError
from nightjard.calib.engine.plan import TestPlan
from nightjard.calib.engine.runs import Run, exposures_of, latest_run, quiet_s, rows_of_test
from nightjard.calib.engine.state import Stage
from nightjard.calib.ingest import file_problem, image_of

_SHOWN = 3
Signature = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Seen:
    """How far a test is.

    Attributes
    ----------
    run
        The exposures that would be taken for it.
    frames
        Exposures in the log, those of aborted runs included.
    """

    stage: Stage
    run: Run
    frames: int
    reason: str = ""


class Follower:
    """Reads the logs of day folders as they grow."""

    def __init__(self, folders: tuple[object, ...], elvis: str) -> None:
        self._folders = folders
        self._elvis = elvis
        self._readers: dict[object, ExpLogReader] = {}
        self._rows: dict[object, list[LogRow]] = {}
        self.problem = ""

    def look(self) -> tuple[Day, list[LogRow]]:
        """Return what the folders hold and the rows of all their logs, each once.

        A folder that is not there yet is told in `problem`.

        Raises
        ------
        ConfigError
            A log is of another version of ELVIS.
        """
        self.problem = ""
        try:
            day = list_days(self._folders)  # type: ignore[arg-type]  # paths
        except StorageError as error:
            self.problem = error.message
            return Day(()), []
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


@dataclass
class Watcher:
    """Remembers of each test what the last look saw.

    Parameters
    ----------
    first_obsid
        Earlier exposures do not count.
    settled_s
        Files that nobody has touched for so long need no second look; others must be seen
        unchanged for so long.
    """

    detector: Detector
    first_obsid: int | None
    settled_s: float
    _signatures: dict[str, tuple[Signature, int]] = field(default_factory=dict)
    _grown: dict[str, tuple[int, int]] = field(default_factory=dict)
    _good: set[tuple[str, int, int]] = field(default_factory=set)

    def see(self, plan: TestPlan, day: Day, rows: list[LogRow], now_ns: int) -> Seen:
        """Return how far a test is.

        Parameters
        ----------
        now_ns
            UTC.
        """
        first, last = plan.obsids or (self.first_obsid, None)
        folders = set(plan.days)
        found, strange = rows_of_test(
            (row for row in rows if row.datapath in folders), plan.log_name, waves=plan.waves,
            first=first, last=last,
        )  # fmt: skip
        exposures = exposures_of(found)
        run = latest_run(plan.script, exposures, self.detector)
        count = len(exposures)
        if self._grown.get(plan.test, (-1, 0))[0] != count:
            self._grown[plan.test] = (count, now_ns)
        if not run.is_complete:
            reason = f"{strange} rows were taken with another filter" if strange else ""
            return Seen("acquiring" if count else "expected", run, count, reason)
        partial = [
            one.obsid for one in run.exposures if len(one.rows) < len(self.detector.ccd_numbers)
        ]
        if partial:
            return Seen("acquiring", run, count, f"rows of a CCD are missing for OBSID {partial}")
        return self._files(plan, run, day, count, now_ns)

    def _files(self, plan: TestPlan, run: Run, day: Day, count: int, now_ns: int) -> Seen:
        missing, signature = [], []
        for exposure in run.exposures:
            paths = [(image_of(row, day), row.file_name) for row in exposure.rows]
            hk = day.hk.get(exposure.obsid)
            for path, name in (*paths, (hk, f"housekeeping of {exposure.obsid}")):
                state = None
                if path is not None:
                    try:
                        state = path.stat()
                    except OSError:
                        state = None
                if path is None or state is None:
                    missing.append(name)
                    continue
                entry = (str(path), state.st_size, state.st_mtime_ns)
                signature.append(entry)
                if path is not hk and entry not in self._good:
                    problem = file_problem(path, self.detector)
                    if problem:
                        missing.append(problem)
                    else:
                        self._good.add(entry)
        since_ns = self._unchanged_since(plan.test, tuple(signature), now_ns)
        if missing:
            more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            reason = f"waits for {'; '.join(missing[:_SHOWN])}{more}"
            return Seen("log complete", run, count, reason)
        settled_ns = now_ns - round(self.settled_s * NS_PER_S)
        if since_ns > settled_ns and any(entry[2] > settled_ns for entry in signature):
            return Seen("log complete", run, count, "waits whether its files still change")
        quiet_ns = now_ns - self._grown[plan.test][1]
        if not run.is_sure and quiet_ns < quiet_s(plan.script, self.detector) * NS_PER_S:
            return Seen("log complete", run, count, "waits whether more of it comes: its "
                        "exposures are not those of one unbroken run of the script")  # fmt: skip
        return Seen("files complete", run, count)

    def _unchanged_since(self, test: str, signature: Signature, now_ns: int) -> int:
        """Return when the files of a test were first seen as they are now."""
        known = self._signatures.get(test)
        if known is None or known[0] != signature:
            known = self._signatures[test] = (signature, now_ns)
        return known[1]
