# SPDX-License-Identifier: BSD-3-Clause
"""One test from its data to its report."""

from __future__ import annotations

import datetime as dt
import importlib
import os
import socket
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nightjar.errors import ConfigError, NightjarError, Refused
from nightjar.times import NS_PER_S, iso
from nightjard.calib.engine import attempt as attempts
from nightjard.calib.engine import layout, record
from nightjard.calib.engine.attempt import Attempt
from nightjard.calib.engine.context import Context, is_storage_full
from nightjard.calib.engine.drill import drilled
from nightjard.calib.engine.identity import Inputs, data_files, option_files
from nightjard.calib.engine.plan import CHECKS, TestPlan
from nightjard.calib.engine.products import BY_VALUE, inputs_of
from nightjard.calib.engine.state import Stage
from nightjard.calib.engine.steps import DebugStop, Steps, do_all, do_init, keys_of, open_for
from nightjard.calib.ingest import Ingested, ingest
from nightjard.calib.task import Task


@dataclass
class Outcome:
    """What became of a test."""

    test: str
    obsids: tuple[int, int] = (-1, -1)
    minutes: float = 0.0
    has_errors: bool = False
    flags: list[str] = field(default_factory=list)
    severities: dict[str, int] = field(default_factory=dict)
    attempt: str = ""
    reason: str = ""
    script: str = ""
    frames: int = 0
    wanted: int | None = None
    stage: Stage = "failed"


def run_test(context: Context, plan: TestPlan) -> Outcome:
    """Ingest, check and analyse a test; write its results and report.

    A failure is told in the outcome.

    Raises
    ------
    ConfigError
        Log or products are not what the campaign says: another version of ELVIS, say.
    StorageError
        Nothing more can be written: no test can go on.
    DebugStop
        A sub-task failed in a run for debugging.
    """
    start_ns = context.clock.monotonic_ns()
    context.progress.begin(plan.test)
    context.progress.clear()
    context.say(f"Running: {plan.test}")
    context.log.write([f"  Running Task: {plan.test}", "Inputs:", *_input_lines(context, plan)])
    outcome = Outcome(plan.test)
    try:
        _run(context, plan, outcome)
    except (DebugStop, ConfigError):
        raise  # what is configured wrongly is so for all tests
    except Exception as error:  # one test's failure is its own; the others go on
        if is_storage_full(error):
            folder = context.folder / plan.test
            if isinstance(error, OSError):
                raise layout.storage_error(folder, error) from error
            raise
        _fail(context, plan, outcome, error)
    outcome.minutes = context.minutes_since(start_ns)
    context.progress.clear()
    context.log.write(f"Finished {plan.handle}")
    context.tell(f"{outcome.minutes:.1f} minutes in running Task: {plan.test}")
    context.tell(f"Task {plan.test} exited with Errors: {outcome.has_errors}")
    return outcome


def _fail(context: Context, plan: TestPlan, outcome: Outcome, error: Exception) -> None:
    outcome.has_errors = True
    outcome.flags = ["UNKNOWN"]
    outcome.severities = {"error": 1, "warning": 0, "info": 0, "waived": 0}
    if isinstance(error, NightjarError):
        outcome.reason = error.message
        first = context.told.setdefault(error.message, plan.test)
        text = error.message if first == plan.test else f"as {first}"
        context.log.write(f"{plan.test} failed: {text}")
    else:
        outcome.reason = text = f"{type(error).__name__}: {error}"
        context.log.write([f"{plan.test} failed:", *traceback.format_exc().splitlines()])
    context.progress.clear()
    context.say(f"{plan.test} failed: {text}")


def _input_lines(context: Context, plan: TestPlan) -> list[str]:
    file = context.setup.campaign.file
    todo = "all" if plan.subtasks is None else list(plan.subtasks)
    values: dict[str, Any] = {
        "perflimits": context.setup.campaign.limits_of(plan.test, plan.handle),
        "elvis": context.setup.elvis, "BLOCKID": file.BLOCKID,
        "OBSID_lims": list(plan.obsids or (None, None)), "CHAMBER": file.CHAMBER,
        "detector": context.setup.detector.name, "test": plan.test,
        "frames": [column.frames for column in plan.script.columns], "todo_flags": todo,
        "options": dict(plan.options), "diffvalues": file.diffvalues.model_dump(),
        "inCDPs": file.inCDPs.model_dump(exclude_defaults=True),
        "datapath": [str(path) for path in plan.days],
    }  # fmt: skip
    return [f"{key} = {value}" for key, value in values.items()]


def _task_of(context: Context, handle: str) -> Task:
    try:
        return context.load(handle)
    except KeyError:
        raise Refused(f"there is no analysis of {handle}") from None
    except (ImportError, AttributeError) as error:
        raise Refused(f"the analysis of {handle} cannot be loaded: {error}") from error


def _run(context: Context, plan: TestPlan, outcome: Outcome) -> None:
    task = _task_of(context, plan.handle)
    setup = context.setup
    if context.is_drill:
        ingested = drilled(plan, setup, context.first_obsid)
    else:
        ingested = ingest(plan, setup, context.first_obsid)
    plan = ingested.plan
    outcome.obsids = ingested.dataset.obsid_range
    outcome.wanted = plan.script.frames
    outcome.frames = len(ingested.dataset.obsids)
    outcome.script = _script_name(ingested)
    _log_ingestion(context, plan, ingested)
    products, paths, missing = inputs_of(setup.campaign, plan)
    for text in missing:
        context.log.write(text)
    paths |= data_files(ingested.dataset) | option_files(plan.options)
    test_folder = layout.make_marked(context.folder / plan.test, "test", test=plan.test)
    before = attempts.latest(test_folder)
    inputs = Inputs(paths, before.inputs if before is not None else None, BY_VALUE)
    steps = keys_of(plan, task, ingested, inputs, products, before, is_drill=context.is_drill)
    attempt = open_for(test_folder, before, steps, inputs, plan)
    outcome.attempt = attempt.folder.name
    do_init(context, plan, attempt, steps, ingested, missing)
    do_all(context, plan, task, attempt, steps, ingested, inputs, products)
    if steps.wanted:
        inputs.complete()
    _finish(context, plan, outcome, attempt, steps, inputs)
    layout.switch_current(test_folder, attempt.folder)


def _script_name(ingested: Ingested) -> str:
    logged = next((frame.logged for frame in ingested.dataset.frames), {})
    return str(logged.get("calscrpt") or "")


def _log_ingestion(context: Context, plan: TestPlan, ingested: Ingested) -> None:
    if ingested.structure.is_consistent:
        context.log.write(f"{plan.test} acquisition consistent with expectations")
    else:
        context.log.write(
            [f"{plan.test} acquisition NOT consistent with expectations:",
             *ingested.structure.messages]
        )  # fmt: skip
    for note in ingested.notes:
        if note not in ingested.shared or context.told.setdefault(note, plan.test) == plan.test:
            context.log.write(note)


def _finish(
    context: Context, plan: TestPlan, outcome: Outcome, attempt: Attempt, steps: Steps,
    inputs: Inputs,
) -> None:  # fmt: skip
    """Write results, flags, report."""
    now_ns = context.clock.now_ns()
    merged = record.merge(attempt.folder, steps.steps)
    raised = [*merged["flags"], *([steps.crash] if steps.crash else [])]
    day = dt.datetime.fromtimestamp(now_ns // NS_PER_S, dt.UTC).date()
    flags = record.waive(
        raised, context.setup.campaign.file.waivers, plan.test, plan.handle, day
    )
    outcome.flags = record.names_of(flags)
    outcome.severities = record.severities_of(flags)
    outcome.has_errors = steps.crash is not None
    outcome.reason = str(steps.crash["cause"]) if steps.crash else ""
    found = record.write_results(
        attempt.folder, _about(context, plan, outcome, steps, inputs, now_ns), steps.steps, flags,
        merged,
    )  # fmt: skip
    is_there = any("_report." in path.name for path in attempt.folder.iterdir())
    if steps.is_changed or attempt.about.get("reported") != found or not is_there:
        attempt.save(reported="")
        if _report(context, plan, outcome, attempt.folder):
            attempt.about["reported"] = found
    if context.clears_intermediate and not outcome.has_errors:
        _clear(attempt.folder / "intermediate")
    if not outcome.has_errors:
        outcome.stage = _stage_of(steps)
    attempt.save(
        status="failed" if outcome.has_errors else "ended", ended=iso(now_ns, 0),
        inputs=inputs.as_json(),
    )  # fmt: skip


def _stage_of(steps: Steps) -> Stage:
    """Return how far a test is that ended well, whatever a run was asked for."""
    done = {step.name for step in steps.steps if step.status == "done"} - {"init"}
    if done - {*CHECKS, "relock"} or all(step.status != "off" for step in steps.steps):
        return "processed"
    return "checked" if done else "ingested"


def _about(
    context: Context, plan: TestPlan, outcome: Outcome, steps: Steps, inputs: Inputs, now_ns: int
) -> dict[str, Any]:
    campaign = context.setup.campaign
    return {
        "test": plan.test, "handle": plan.handle, "run": context.run,
        "block": context.setup.block, "chamber": plan.profile.name,
        "profile_version": plan.profile.version, "attempt": outcome.attempt,
        "status": "failed" if outcome.has_errors else "ended", "reason": outcome.reason,
        "obsids": list(outcome.obsids), "is_check_only": context.is_check_only,
        "is_drill": context.is_drill,
        "minutes": round(sum(step.minutes for step in steps.steps), 3),
        "provenance": {
            "campaign": str(campaign.path), "campaign_file": campaign.file.model_dump(mode="json"),
            "options": dict(plan.options), "limits": dict(plan.limits),
            "days": [str(path) for path in plan.days], "inputs": _hashes(inputs),
            "elvis": context.setup.elvis, "detector": context.setup.detector.name,
            "script": outcome.script, "host": socket.gethostname(), "written": iso(now_ns, 0),
        },
    }  # fmt: skip


def _hashes(inputs: Inputs) -> Mapping[str, str]:
    return {role: f"blake3:{one.blake3}" for role, one in sorted(inputs.files.items())}


def _report(context: Context, plan: TestPlan, outcome: Outcome, folder: Path) -> bool:
    """Have the report written; that it fails is told, its test has its results all the same."""
    if not (context.setup.campaign.file.doReport and plan.has_report):
        return False
    try:
        write: Any = importlib.import_module("nightjard.calib.reports").write_test_report
    except (ImportError, AttributeError):
        context.log.write("no report: reports are not installed")
        return False
    try:
        write(folder)
    except Exception as error:  # told, logged with where it failed
        if is_storage_full(error):
            raise
        outcome.has_errors = True
        outcome.reason = outcome.reason or f"report: {error}"
        context.log.write(["the report failed:", *traceback.format_exc().splitlines()])
        context.say(f"{plan.test}: the report failed: {error}")
        return False
    return True


def _clear(folder: Path) -> None:
    """Remove the files that can be made again; never what a link points to."""
    for where, _, names in os.walk(folder, topdown=False):
        for name in names:
            (Path(where) / name).unlink(missing_ok=True)
