# SPDX-License-Identifier: BSD-3-Clause
"""The sub-tasks of a test, one after the other: those that are done are not done again."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nightjar import __version__
from nightjar.errors import NightjarError
from nightjard.calib.drawing import draw_here
from nightjard.calib.engine import attempt as attempts
from nightjard.calib.engine.attempt import Attempt
from nightjard.calib.engine.context import Context, LearningMapper, is_storage_full
from nightjard.calib.engine.identity import Inputs, code_digest, dataset_digest
from nightjard.calib.engine.plan import TestPlan
from nightjard.calib.engine.record import Step
from nightjard.calib.ingest import Ingested
from nightjard.calib.results import Results, digest, read_subtask
from nightjard.calib.task import Subtask, Task
from nightjard.calib.work import Inputs as Products
from nightjard.calib.work import Work

_SHOWN = 4


class DebugStop(NightjarError):
    """A sub-task failed in a run for debugging: nothing more is done."""


@dataclass
class Steps:
    """What is to be done for a test and what became of it.

    Attributes
    ----------
    keys
        Sub-task -> key of those that are wanted or still hold from before, in order.
    crash
        A flag that tells of the sub-task that failed.
    stale
        Sub-tasks that were done with something else and are not wanted: what they found does not
        belong to what is done now.
    """

    keys: dict[str, str]
    wanted: tuple[str, ...]
    stale: tuple[str, ...] = ()
    steps: list[Step] = field(default_factory=list)
    crash: dict[str, Any] | None = None
    is_changed: bool = False


def is_wanted(plan: TestPlan, subtask: Subtask) -> bool:
    """Tell whether a sub-task is to be done."""
    return plan.subtasks is None or subtask.name in plan.subtasks


def keys_of(
    plan: TestPlan, task: Task, ingested: Ingested, inputs: Inputs, products: Products,
    before: Attempt | None, *, is_drill: bool,
) -> Steps:  # fmt: skip
    """Return the keys of the sub-tasks: what went in, the code, and all that was done before."""
    basis = digest(
        inputs.id, dataset_digest(ingested.dataset), ingested.structure.messages,
        dict(plan.options), dict(plan.limits), is_drill,
        sorted([*map(list, products.gains.items())], key=str),
        sorted([*map(list, products.offsets.items())], key=str),
        *([sorted(products.voltages.items())] if products.voltages else ()),
    )  # fmt: skip
    keys = {"init": digest("init", basis)}
    stale: list[str] = []
    for subtask in task.subtasks:
        key = digest(subtask.name, basis, code_digest(subtask), list(keys.values()))
        if is_wanted(plan, subtask) or (before is not None and before.is_done(subtask.name, key)):
            keys[subtask.name] = key
        elif before is not None and before.key_of(subtask.name) is not None:
            stale.append(subtask.name)
    wanted = tuple(subtask.name for subtask in task.subtasks if is_wanted(plan, subtask))
    return Steps(keys, wanted, tuple(stale))


def provenance_of(context: Context, plan: TestPlan, ingested: Ingested) -> dict[str, Any]:
    """Return what every product says of its origin; no time and no place: bytes are the same."""
    first, last = ingested.dataset.obsid_range
    return {
        "program": f"nightjar {__version__}", "block": context.setup.block,
        "chamber": plan.profile.name, "profile_version": plan.profile.version,
        "elvis": context.setup.elvis, "detector": context.setup.detector.name,
        "obsid_first": first, "obsid_last": last,
        "config": digest(dict(plan.options), dict(plan.limits))[:16],
    }  # fmt: skip


def do_init(
    context: Context, plan: TestPlan, attempt: Attempt, steps: Steps, ingested: Ingested,
    missing: Sequence[str],
) -> None:  # fmt: skip
    """Leave what the ingestion found."""
    key = steps.keys["init"]
    steps.steps.append(Step("init", "Inputs and data ingestion", "done", 0.0, key))
    if attempt.is_done("init", key):
        return
    results = Results(
        attempt.folder, plan.test, "init", provenance_of(context, plan, ingested)
    )
    dataset = ingested.dataset
    first, last = dataset.obsid_range
    results.value("obsid_first", first)
    results.value("obsid_last", last)
    results.value("frames", len(dataset.obsids))
    results.value("frames_of_script", plan.script.frames)
    ingested.structure.record(results)
    for text in (*ingested.notes, *missing):
        results.note(text)
    if ingested.unusable:
        results.flag("BADDATA", cause="; ".join(ingested.unusable))
    results.close(key=key)
    steps.is_changed = True


def do_all(
    context: Context, plan: TestPlan, task: Task, attempt: Attempt, steps: Steps,
    ingested: Ingested, inputs: Inputs, products: Products,
) -> None:  # fmt: skip
    """Do the sub-tasks that are wanted; the first that fails ends them.

    Raises
    ------
    DebugStop
        One failed, and the run is for debugging.
    OSError, StorageError
        Nothing more can be written.
    """
    roles = {str(path): role for role, path in inputs.paths.items()}
    mapper = LearningMapper(
        context.mapper, lambda path, value: inputs.learn(roles.get(path, ""), value)
    )
    total = max(len(steps.wanted), 1)
    for subtask in task.subtasks:
        name = subtask.name
        key = steps.keys.get(name, "")
        if steps.crash is not None:
            steps.steps.append(Step(name, subtask.title, "not reached"))
        elif key and attempt.is_done(name, key):
            found = read_subtask(attempt.folder, name) or {}
            where = attempt.taken.get(name, "")
            note = f"taken over from {where}" if where else ""
            minutes = float(found.get("minutes", 0.0))
            steps.steps.append(Step(name, subtask.title, "done", minutes, key, note))
            if name in steps.wanted:
                context.log.write(f"{name} was done before with the same input{note and ': '}"
                                  f"{note}")  # fmt: skip
        elif name not in steps.wanted:
            steps.steps.append(Step(name, subtask.title, "off"))
        else:
            index = steps.wanted.index(name)

            def on_progress(fraction: float, text: str, index: int = index) -> None:
                context.progress.update((index + fraction) / total, text)

            work = Work(
                dataset=ingested.dataset, folder=attempt.folder,
                results=Results(
                    attempt.folder, plan.test, name, provenance_of(context, plan, ingested),
                    draw=draw_here if context.drawer is None else context.drawer.draw,
                ),
                inputs=products, options=plan.options, limits=plan.limits, mapper=mapper,
                on_progress=on_progress, is_check_only=context.is_check_only,
                is_drill=context.is_drill,
            )  # fmt: skip
            _do_one(context, subtask, work, key, steps)
    _end_figures(context, steps)


def _end_figures(context: Context, steps: Steps) -> None:
    """Wait for the figures; a sub-task that lacks one is not done, whatever it says."""
    if context.drawer is None:
        return
    try:
        context.drawer.wait()
    except Exception as error:  # a figure that cannot be drawn is that test's failure
        if is_storage_full(error):
            raise
        _crash(context, Subtask("figures", _none, "Figures"), error, steps, 0.0)


def _none(_work: Work) -> None:
    return


def _do_one(context: Context, subtask: Subtask, work: Work, key: str, steps: Steps) -> None:
    name = subtask.name
    function = subtask.function
    if context.is_drill and subtask.drill is not None:
        function = subtask.drill
    elif context.is_drill and name != "check":
        context.log.write(f"{name} is left out: it cannot be drilled")
        steps.steps.append(Step(name, subtask.title, "left out", note="it cannot be drilled"))
        return
    context.log.write(f"Executing {name}: {subtask.function.__module__}")
    context.progress.update(0.0, name)
    steps.is_changed = True
    start_ns = context.clock.monotonic_ns()
    try:
        function(work)
        minutes = context.minutes_since(start_ns)
        work.results.close(key=key, version=subtask.version, minutes=minutes)
    except Exception as error:  # whatever an analysis does wrong ends that test, not the others
        if is_storage_full(error):
            raise
        _crash(context, subtask, error, steps, context.minutes_since(start_ns))
        return
    for note in work.results.notes:
        context.log.write(f"{name}: {note}")
    lines = compliance_lines(work.results.compliances)
    if lines:
        context.log.write([f"{name}: within limits:", *lines])
    for flag in work.results.flags:
        context.log.write(f"{name}: {flag.name} ({flag.severity}): {flag.cause}")
    context.log.write(f"{minutes:.1f} minutes in running Sub-task: {name}")
    if work.results.headline:
        context.tell(f"{work.dataset.test}: {work.results.headline}")
    steps.steps.append(Step(name, subtask.title, "done", minutes, key))
    if context.on_figure is not None:
        for figure in work.results.figures:
            context.on_figure(work.folder / figure["path"])


def compliance_lines(compliances: Sequence[dict[str, Any]]) -> list[str]:
    """Return, metric by metric, how many lie within their limits, and the first that do not."""
    metrics: dict[str, list[dict[str, Any]]] = {}
    for one in compliances:
        metrics.setdefault(str(one["metric"]), []).append(one)
    lines = []
    for metric, judged in metrics.items():
        bad = [one for one in judged if not one["is_good"]]
        line = f"  {metric}: {len(judged) - len(bad)} of {len(judged)}"
        texts = [
            " ".join(
                [*(f"{key} {value}" for key, value in one["where"].items()),
                 f"{one['value']} {one['unit']}".strip(), f"[{one['low']}, {one['high']}]"]
            )
            for one in bad[:_SHOWN]
        ]  # fmt: skip
        more = f"; and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        lines.append(line + (f"; outside: {'; '.join(texts)}{more}" if bad else ""))
    return lines


def _crash(
    context: Context, subtask: Subtask, error: Exception, steps: Steps, minutes: float
) -> None:
    text = error.message if isinstance(error, NightjarError) else f"{type(error).__name__}: {error}"
    trace = traceback.format_exc()
    context.log.write([f"Sub-task {subtask.name} failed: {text}", *trace.splitlines()])
    context.progress.clear()
    context.say(f"Sub-task {subtask.name} failed: {text}")
    if context.is_debug:
        sys.stderr.write(trace)
        raise DebugStop(f"sub-task {subtask.name} failed: {text}")
    steps.steps.append(Step(subtask.name, subtask.title, "crashed", minutes, note=text))
    steps.crash = {
        "name": "SUBTASKCRASH", "severity": "error", "cause": f"{subtask.name}: {text}",
        "subtask": subtask.name, "metric": "", "value": None, "low": None, "high": None,
        "where": {}, "count": 1, "waiver": "",
    }  # fmt: skip


def open_for(
    test_folder: Path, before: Attempt | None, steps: Steps, inputs: Inputs, plan: TestPlan
) -> Attempt:
    """Return the attempt to go on with."""
    return attempts.open_attempt(
        test_folder, before, steps.keys, steps.stale,
        {"test": plan.test, "handle": plan.handle, "inputs": inputs.as_json(), "status": "begun"},
    )  # fmt: skip
