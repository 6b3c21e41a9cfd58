# SPDX-License-Identifier: BSD-3-Clause
"""From day folders to the data of one test: its exposures, their files, their housekeeping.

Nothing of a pixel is read here: whether a file is whole is told by its size and its headers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nightjar.calibration.dayfolder import Day, list_days
from nightjar.calibration.detector import Detector
from nightjar.calibration.explog import LogRow, read_explogs
from nightjar.calibration.housekeeping import hk_statistics, read_hk
from nightjar.calibration.script import Script
from nightjar.errors import ConfigError, NightjarError, Refused, StorageError
from nightjard.calib.dataset import CcdFrame, Dataset
from nightjard.calib.engine.claims import share_out
from nightjard.calib.engine.plan import Setup, TestPlan
from nightjard.calib.engine.runs import Exposure, Run, exposures_of, latest_run, rows_of_test
from nightjard.calib.engine.taken import profile_note, with_its_script
from nightjard.calib.frames import open_frame
from nightjard.calib.structure import Structure, compare, frame_numbers, obsid_text

HkMeans = dict[int, dict[str, tuple[float, float, float, float]]]


@dataclass
class Ingested:
    """The data of a test, and what is to be said about them.

    Attributes
    ----------
    plan
        What was asked for, with the script as it was when the test was taken.
    structure
        The acquisition beside the script; missing files are among its messages.
    unusable
        Why files that are there cannot be used.
    shared
        Those of the notes that are about folders and logs: true of all their tests.
    """

    plan: TestPlan
    dataset: Dataset
    structure: Structure
    notes: list[str] = field(default_factory=list)
    unusable: list[str] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Logged:
    """The exposure logs of day folders, and what is to be said of them."""

    day: Day
    rows: list[LogRow]
    notes: list[str]


def read_days(folders: Sequence[Path], elvis: str) -> Logged:
    """Read the logs of day folders, in order of their dates and numbers.

    Raises
    ------
    ConfigError
        No folder is configured, or a log is of another version of ELVIS.
    StorageError
        A folder or a log cannot be read, or there is no log.
    """
    if not folders:
        raise ConfigError(
            "no day folder: give datapath in the session's test_specifics, or --day FOLDER"
        )
    there, absent = readable_folders(folders)
    day = list_days(there)
    if not day.logs:
        raise StorageError(
            f"no exposure log (EXP_LOG_ddmmyy.txt) in {', '.join(map(str, folders))}",
            path=str(folders[0]),
        )
    problems: list[str] = []
    rows = read_explogs(day.logs, elvis, problems=problems)
    notes = [f"line of a log left out: {problem}" for problem in problems]
    # Listed again: the files of a line that has just come were not there before.
    return Logged(list_days(there), rows, [*absent, *notes])


def readable_folders(folders: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Return the day folders that are there, and what is to be said of the others.

    That of tomorrow may be named before midnight. Where none is there, all are returned: whoever
    lists them tells why that fails.
    """
    there = [folder for folder in folders if os.path.isdir(folder)]  # whatever the error
    if not there:
        return list(folders), []
    return there, [f"no day folder {folder} yet" for folder in folders if folder not in there]


def find_run(
    logged: Logged, plan: TestPlan, setup: Setup, first: int | None = None
) -> tuple[TestPlan, Run]:
    """Return the exposures of a test: those of its OBSIDs, else its latest complete run.

    Those of another session of the day do not count. The plan comes back with the script as it was
    when they were taken.

    Raises
    ------
    Refused
        There is none; or there are several, and nothing tells which is which session's.
    """
    if plan.run is not None:
        return plan, plan.run
    return with_its_script(
        setup, plan, logged.rows, lambda one: _run_of(logged, one, setup, first)
    )


def _run_of(logged: Logged, plan: TestPlan, setup: Setup, first: int | None) -> Run:
    start, last = plan.obsids or (first, None)
    rows, strange = rows_of_test(
        logged.rows, plan.log_name, waves=plan.waves, first=start, last=last
    )
    note = ""
    if start is None and plan.claims is not None:
        rows, note = share_out(rows, logged.rows, plan, setup, plan.claims, is_wait=False)
    exposures = exposures_of(rows)
    if not exposures:
        told = note and f"{plan.test}: {note}"
        raise Refused(told or _nothing(logged, plan, strange, start))
    if plan.obsids is not None:
        return Run(tuple(exposures), len(exposures) == plan.script.frames, True)
    run = latest_run(plan.script, exposures, setup.detector)
    return replace(run, note="; ".join(filter(None, (run.note, note))))


def _nothing(logged: Logged, plan: TestPlan, strange: int, start: int | None) -> str:
    where = ", ".join(str(path) for path in logged.day.folders)
    limits = "" if start is None else f" from OBSID {start} on"
    if plan.obsids is not None:
        limits = f" with OBSIDs {plan.obsids[0]} to {plan.obsids[1]}"
    if strange:
        return (
            f"{plan.test}: the {strange} rows of {plan.log_name}{limits} in {where} were taken "
            f"with another filter than the commanded slot {sorted(plan.waves or ())}"
        )
    own = [row.obsid for row in logged.rows if row.test == plan.log_name]
    if own:
        return (
            f"{plan.test}: no row of {plan.log_name}{limits} in the log of {where}, which has it "
            f"with OBSIDs {min(own)} to {max(own)}"
        )
    tests = sorted({row.test for row in logged.rows})
    seen = f"its tests are {', '.join(tests[:20])}" if tests else "it has no rows"
    return f"{plan.test}: no row of {plan.log_name}{limits} in the log of {where}; {seen}"


def ingest(plan: TestPlan, setup: Setup, first: int | None = None) -> Ingested:
    """Return the data of a test.

    Raises
    ------
    Refused
        The log has no row of it.
    ConfigError
        Log or housekeeping are of another version of ELVIS.
    StorageError
        Folder or log cannot be read.
    """
    if plan.run is not None:  # seen complete; a log that is just being copied again is not read
        there, absent = readable_folders(plan.days)
        logged = Logged(list_days(there), [], absent)
    else:
        logged = read_days(plan.days, setup.elvis)
    plan, run = find_run(logged, plan, setup, first)
    ccds = list(setup.detector.ccd_numbers)
    structure = compare(
        plan.script, [one.rows for one in run.exposures], ccds, plan.waived
    )
    notes = list(logged.notes)
    notes += [text for text in dict.fromkeys(
        (plan.note, run.note, profile_note(setup, plan))
    ) if text]
    frames = frames_of(run.exposures, plan.script, logged.day, setup.detector)
    unusable = [f"OBSID {f.obsid} CCD{f.ccd}: {f.problem}" for f in frames if f.path and f.problem]
    _tell_missing(structure, frames, ccds)
    _tell_unlogged(structure, logged.day, ccds)
    structure.messages += unusable
    hk, missing, hk_notes = _housekeeping(run.exposures, logged.day, setup.elvis)
    notes += hk_notes
    dataset = Dataset(
        test=plan.test, handle=plan.handle, block=setup.block, detector=setup.detector,
        detector_name=setup.campaign.detector_source, profile=plan.profile, script=plan.script,
        frames=tuple(frames), serials=setup.serials, hk=hk, hk_missing=tuple(missing),
        hk_paths={
            one.obsid: logged.day.hk[one.obsid]
            for one in run.exposures if one.obsid in logged.day.hk and one.obsid in hk
        },
    )  # fmt: skip
    return Ingested(plan, dataset, structure, notes, unusable, logged.notes)


def frames_of(
    exposures: Sequence[Exposure], script: Script, day: Day, detector: Detector,
    problem_of: Callable[[Path, Detector], str] | None = None,
) -> list[CcdFrame]:  # fmt: skip
    """Return the frames of exposures, each with its file and what was commanded."""
    judge = problem_of or file_problem
    frames = []
    numbers = frame_numbers(script, [one.rows for one in exposures])
    for index, exposure in zip(numbers, exposures, strict=True):
        column = script.column_of_frame(index) if index < script.frames else None
        commanded: Mapping[str, Any] = (
            {} if column is None else dict(script.columns[column].values)
        )
        for row in exposure.rows:
            if row.ccd not in detector.ccd_numbers:
                continue
            path = image_of(row, day)
            problem = "its file is missing" if path is None else judge(path, detector)
            frames.append(
                CcdFrame(row.obsid, row.ccd, column, path, row.utc_ns, commanded, dict(row),
                         problem)
            )  # fmt: skip
    return frames


def image_of(row: LogRow, day: Day) -> Path | None:
    """Return the file of a row: by the name in the log, else by OBSID and CCD."""
    return day.by_name.get(row.file_name) or day.images.get((row.obsid, row.ccd))


def file_problem(path: Path, detector: Detector) -> str:
    """Return why a frame cannot be used, from its headers and its size; empty where it can."""
    try:
        open_frame(path, detector)
    except NightjarError as error:
        return error.message
    return ""


def _tell_missing(structure: Structure, frames: Sequence[CcdFrame], ccds: Sequence[int]) -> None:
    for ccd in ccds:
        gone = [frame.obsid for frame in frames if frame.ccd == ccd and frame.path is None]
        if gone:
            structure.messages.append(f"CCD{ccd}: no file for {obsid_text(gone)}")


def _tell_unlogged(structure: Structure, day: Day, ccds: Sequence[int]) -> None:
    there = [
        obsid for obsid in structure.missing if any((obsid, ccd) in day.images for ccd in ccds)
    ]
    if there:
        structure.messages.append(
            f"{obsid_text(there)}: images are there, but no row in the log tells what they are"
        )


def _housekeeping(
    exposures: Sequence[Exposure], day: Day, elvis: str
) -> tuple[HkMeans, list[int], list[str]]:
    """Return statistics by OBSID, the OBSIDs without, and what is to be said about it."""
    found: HkMeans = {}
    missing: list[int] = []
    notes: list[str] = []
    for exposure in exposures:
        path = day.hk.get(exposure.obsid)
        if path is None:
            missing.append(exposure.obsid)
            continue
        try:
            statistics = hk_statistics(read_hk(path, elvis))
        except ConfigError:
            raise
        except NightjarError as error:
            missing.append(exposure.obsid)
            notes.append(f"housekeeping left out: {error.message}")
            continue
        found[exposure.obsid] = {
            name: (stat.mean, stat.std, stat.min, stat.max) for name, stat in statistics.items()
        }
    if missing:
        notes.append(f"no housekeeping for {obsid_text(missing)}")
    return found, missing, notes
