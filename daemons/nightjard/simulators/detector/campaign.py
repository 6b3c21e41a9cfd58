# SPDX-License-Identifier: BSD-3-Clause
"""Simulated acquisition: scripts in, a day folder out, exposure by exposure as ELVIS writes it.

For every exposure come the rows of housekeeping, its images, and last the lines of the log. What
was injected, and what went wrong on purpose, is written beside the day folder, never into it.
"""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nightjar import files
from nightjar.calibration.dayfolder import PREFIX, UNIT, list_day
from nightjar.calibration.detector import Detector
from nightjar.calibration.elvis import LATEST
from nightjar.calibration.script import Script
from nightjar.clock import Clock
from nightjar.errors import Cancelled, ConfigError, Refused, StorageError, storage_code
from nightjar.times import NS_PER_S, iso
from nightjard.simulators.detector.faults import (
    executed_values,
    spoil_frame,
    spoil_housekeeping,
)
from nightjard.simulators.detector.housekeeping import HkSimulator
from nightjard.simulators.detector.recording import DayRecorder, Exposure
from nightjard.simulators.detector.session_plan import SessionPlan, Step

WARM_C = 20.0
"""Temperature of the CCDs in a test that is made warm."""

Progress = Callable[[int, int, Exposure], None]
"""Called after each exposure with the number done, the number of all, and the exposure."""


class Bench(Protocol):
    """A detector, its light and its electronics."""

    @property
    def detector(self) -> Detector:
        """What is read."""
        ...

    def expose(
        self, obsid: int, values: Mapping[str, Any], time_ns: int
    ) -> Mapping[int, NDArray[np.uint16]]:
        """Return the frame [row, column] of every CCD."""
        ...


@dataclass(frozen=True)
class Run:
    """A test as it was acquired: first and last OBSID, and whether that was all of it."""

    test: str
    first: int
    last: int
    is_complete: bool


@dataclass
class Acquired:
    """What a session made.

    Attributes
    ----------
    folders
        Day folders: two where midnight split it.
    truth_folder
        What was injected: ``*_bench.json`` and ``*_session.json``.
    runs
        Tests in the order of acquisition; one that was taken again is there twice.
    next_obsid, end_ns
        Where the next session would begin.
    """

    folders: list[Path]
    truth_folder: Path
    runs: list[Run] = field(default_factory=list)
    next_obsid: int = 0
    end_ns: int = 0

    def obsids(self, test: str) -> tuple[int, int]:
        """Return first and last OBSID of the last complete run of a test."""
        for run in reversed(self.runs):
            if run.test == test and run.is_complete:
                return run.first, run.last
        raise KeyError(test)


def acquire_session(
    bench: Bench,
    scripts: Sequence[Script],
    folder: Path,
    *,
    start_obsid: int,
    start_time_ns: int,
    elvis: str = LATEST,
    faults: Sequence[str] = (),
    clock: Clock | None = None,
    seed: int = 1,
    unit: str = UNIT,
    prefix: str = PREFIX,
    split_days: bool = False,
    script_names: Mapping[str, str] | None = None,
    hk_period_s: float = 1.0,
    temperature_c: float = -120.0,
    truth_folder: Path | None = None,
    on_exposure: Progress | None = None,
    stop: threading.Event | None = None,
) -> Acquired:
    """Acquire tests one after the other.

    Parameters
    ----------
    bench
        Makes the frames.
    scripts
        Tests in their order.
    folder
        Day folder; made where it is missing, added to where it is not.
    start_obsid, start_time_ns
        Of the first exposure.
    elvis
        Version whose log and housekeeping are written.
    faults
        See `faults`.
    clock
        Exposures take as long as they take on this clock; None: as fast as they can be made.
    seed
        Of the housekeeping.
    unit, prefix
        Of the names of files.
    split_days
        Go on in a new day folder after midnight, in place of the same.
    script_names
        Test -> file name of its script, for the log; without one, what it would be but the date.
    hk_period_s
        Between rows of housekeeping.
    temperature_c
        Of the CCDs, where the bench does not tell.
    truth_folder
        Default: beside the day folder, ``_truth`` added to its name.
    on_exposure
        See `Progress`.
    stop
        Ends the session after the exposure at work.

    Raises
    ------
    ConfigError
        No script, an unknown version or fault.
    Refused
        A file of that name is there already.
    Cancelled
        `stop` was set; what was acquired until then is whole.
    StorageError
        Something cannot be written.
    """
    if not scripts:
        raise ConfigError("no test to acquire: give at least one script")
    plan = SessionPlan(bench.detector, scripts, faults, elvis)
    start_ns = plan.start_ns(start_time_ns)
    _require_free(folder, range(start_obsid, start_obsid + plan.obsids))
    truth = truth_folder or folder.with_name(folder.name + "_truth")
    files_of_day = DayRecorder(
        folder, elvis=plan.version or elvis, unit=unit, prefix=prefix, split_days=split_days,
        script_names=script_names,
    )  # fmt: skip
    acquired = Acquired([], truth, next_obsid=start_obsid, end_ns=start_ns)
    session = _Session(bench, plan, files_of_day, HkSimulator(elvis, seed, hk_period_s), clock)
    session.temperature_c = temperature_c
    try:
        truth.mkdir(parents=True, exist_ok=True)
        _write_bench(bench, truth, start_obsid)  # there, whatever happens to this process
        for done, exposure in enumerate(session.exposures(start_obsid, start_ns), 1):
            _count(acquired, exposure)
            if on_exposure is not None:
                on_exposure(done, len(plan.steps), exposure)
            if stop is not None and stop.is_set() and done < len(plan.steps):
                raise Cancelled(
                    f"stopped after OBSID {exposure.obsid}, {done} of {len(plan.steps)} exposures"
                )
    except OSError as error:
        raise StorageError(
            f"cannot write the day folder {folder}: {error.strerror}",
            code=storage_code(error), path=str(folder),
        ) from error  # fmt: skip
    finally:
        files_of_day.close()
        acquired.folders = list(files_of_day.folders)
        if truth.is_dir():
            _write_session(plan, session, acquired, start_obsid)
    return acquired


def _require_free(folder: Path, obsids: range) -> None:
    taken = (
        [obsid for obsid in list_day(folder).obsids if obsid in obsids] if folder.exists() else []
    )
    if taken:
        raise Refused(
            f"{folder} has images of OBSID {taken[0]} already; give a start OBSID that no exposure "
            f"has, {max(list_day(folder).obsids) + 1} for one"
        )


def _count(acquired: Acquired, exposure: Exposure) -> None:
    runs = acquired.runs
    if exposure.frame == 1:
        runs.append(Run(exposure.test, exposure.obsid, exposure.obsid, exposure.is_complete))
    else:
        last = runs.pop()
        runs.append(Run(last.test, last.first, exposure.obsid, exposure.is_complete))
    acquired.next_obsid = exposure.obsid + 1
    acquired.end_ns = exposure.end_ns


def _write_bench(bench: Bench, folder: Path, start_obsid: int) -> None:
    truth = getattr(bench, "truth", None)
    if truth is not None:
        truth.save(folder / f"{start_obsid}_bench.json")


def _write_session(
    plan: SessionPlan, session: _Session, acquired: Acquired, start_obsid: int
) -> None:
    told = {
        "folders": [folder.name for folder in acquired.folders],
        "runs": [dataclasses.asdict(run) for run in acquired.runs],
        "faults": [fault.to_json() for fault in plan.faults],
        "exposures": session.told,
    }
    path = acquired.truth_folder / f"{start_obsid}_session.json"
    files.write_durably(path, json.dumps(told, separators=(",", ":")).encode(), replace=True)


class _Session:
    """Runs a plan."""

    def __init__(
        self,
        bench: Bench,
        plan: SessionPlan,
        recorder: DayRecorder,
        housekeeping: HkSimulator,
        clock: Clock | None,
    ) -> None:
        self._bench = bench
        self._plan = plan
        self._recorder = recorder
        self._housekeeping = housekeeping
        self._clock = clock
        self._began: dict[int, int] = {}
        self.temperature_c = -120.0
        self.told: list[dict[str, Any]] = []

    def exposures(self, obsid: int, start_ns: int) -> Iterator[Exposure]:
        """Yield the exposures as they are made."""
        elapsed = 0.0
        zero_ns = self._clock.monotonic_ns() if self._clock is not None else 0
        for step in self._plan.steps:
            # Times in names and log are whole seconds: no exposure begins before the last ended.
            begin_ns = start_ns + round(elapsed) * NS_PER_S
            elapsed += step.seconds
            end_ns = start_ns + round(elapsed) * NS_PER_S
            for fault in self._plan.at(step, "obsid-jump"):
                obsid += fault["count"]
            exposure = self._expose(step, obsid, begin_ns, end_ns)
            self._wait(exposure, zero_ns - start_ns)
            self._record(step, exposure)
            yield exposure
            obsid += 1

    def _expose(self, step: Step, obsid: int, begin_ns: int, end_ns: int) -> Exposure:
        faults = self._plan.at(step)
        values = executed_values(faults, step.values)
        frames = {
            ccd: np.array(frame, np.uint16)
            for ccd, frame in self._bench.expose(obsid, values, begin_ns).items()
        }
        for fault in faults:
            for ccd, frame in frames.items():
                spoil_frame(fault, self._bench.detector, ccd, frame)
        commanded = {key: float(v) for key, v in values.items() if isinstance(v, int | float)}
        table = self._housekeeping.rows(obsid, begin_ns, end_ns, commanded, self._celsius())
        for index, fault in enumerate(self._plan.faults):
            if fault in faults:
                began_ns = self._began.setdefault(index, begin_ns)
                table = spoil_housekeeping(fault, table, began_ns)
        return Exposure(
            step.test, step.run, step.frame, step.column, obsid, begin_ns, end_ns, values,
            frames, table, tuple(faults), step.is_last, step.is_last and step.is_complete,
        )  # fmt: skip

    def _celsius(self) -> float:
        """Return the temperature of the CCDs: what the bench tells, else that of the session."""
        last = getattr(self._bench, "last", None)
        if last is None:
            return self.temperature_c
        return WARM_C if last.temperature_k is None else float(last.temperature_k) - 273.15

    def _wait(self, exposure: Exposure, shift_ns: int) -> None:
        """Let the exposure take its time; the master grows meanwhile."""
        table = exposure.housekeeping
        self._recorder.begin(exposure)
        for utc_ns, row in zip(table.times_ns.tolist(), table.values, strict=True):
            if self._clock is not None:
                self._sleep_until(utc_ns + shift_ns)
            self._recorder.housekeeping_row(utc_ns, row, is_live=self._clock is not None)
        if self._clock is not None:
            self._sleep_until(exposure.end_ns + shift_ns)

    def _sleep_until(self, mono_ns: int) -> None:
        assert self._clock is not None
        left = (mono_ns - self._clock.monotonic_ns()) / NS_PER_S
        if left > 0:
            self._clock.sleep(left)

    def _record(self, step: Step, exposure: Exposure) -> None:
        written = self._recorder.record(exposure)
        last = getattr(self._bench, "last", None)
        self.told.append(
            {
                "obsid": exposure.obsid, "test": step.test, "run": step.run, "frame": step.frame,
                "column": step.column, "begin": iso(exposure.begin_ns, 0),
                "seconds": step.seconds, "commanded_s": step.values.get("exptime"),
                "executed_s": exposure.values.get("exptime"),
                "faults": [fault.name for fault in exposure.faults], "files": written,
                "truth": last.to_json() if last is not None else None,
            }
        )  # fmt: skip
