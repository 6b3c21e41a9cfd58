# SPDX-License-Identifier: BSD-3-Clause
"""What a run would do: nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nightjar.errors import NightjarError
from nightjard.calib.engine import attempt as attempts
from nightjard.calib.engine.identity import Inputs, data_files, option_files
from nightjard.calib.engine.plan import Setup, TestPlan
from nightjard.calib.engine.products import BY_VALUE, inputs_of
from nightjard.calib.engine.steps import keys_of
from nightjard.calib.ingest import ingest
from nightjard.calib.task import Task


def foreseen(
    setup: Setup, plan: TestPlan, folder: Path, load: Callable[[str], Task],
    first: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Return what would be done for a test, and what is done already."""
    found: dict[str, Any] = {
        "test": plan.test, "handle": plan.handle, "frames": plan.script.frames,
        "obsids": list(plan.obsids or (None, None)), "days": [str(path) for path in plan.days],
        "todo": [], "done": [], "problems": [],
    }  # fmt: skip
    try:
        task = load(plan.handle)
    except (ImportError, AttributeError, KeyError) as error:
        found["problems"].append(f"the analysis cannot be loaded: {error}")
        return found
    wanted = [name for name in task.names if plan.subtasks is None or name in plan.subtasks]
    found["todo"] = wanted
    try:
        ingested = ingest(plan, setup, first)
        products, paths, missing = inputs_of(setup.campaign, plan)
    except NightjarError as error:
        found["problems"].append(error.message)
        return found
    plan = ingested.plan
    found["frames"] = plan.script.frames
    found["obsids"] = list(ingested.dataset.obsid_range)
    found["problems"] += [*ingested.structure.messages, *missing]
    paths |= data_files(ingested.dataset) | option_files(plan.options)
    before = attempts.latest(folder / plan.test)
    inputs = Inputs(paths, before.inputs if before is not None else None, BY_VALUE)
    steps = keys_of(plan, task, ingested, inputs, products, before, is_drill=False)
    if before is not None:
        found["done"] = [name for name in wanted if before.is_done(name, steps.keys[name])]
        found["todo"] = [name for name in wanted if name not in found["done"]]
    return found


def dry_lines(tests: list[dict[str, Any]]) -> list[str]:
    """Return it for people."""
    lines = []
    for one in tests:
        first, last = one["obsids"]
        where = "OBSIDs not known yet" if first is None else f"OBSIDs {first}-{last}"
        lines.append(f"{one['test']}: {one['frames']} frames, {where}")
        lines.append(f"   to do: {', '.join(one['todo']) or 'nothing'}")
        if one["done"]:
            lines.append(f"   done before: {', '.join(one['done'])}")
        lines += [f"   {problem}" for problem in one["problems"]]
    return lines
