# SPDX-License-Identifier: BSD-3-Clause
"""Rows and plans as the plain values that commands return (:mod:`nightjar.api.night_results`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from nightjar.api.night_results import MAX_LISTED
from nightjar.api.nights import STEPS, StepState
from nightjar.times import NS_PER_S, duration_text, iso
from nightjard.archived.nights.config import NightsConfig
from nightjard.archived.nights.engine import Standing
from nightjard.archived.nights.losses import Silence, losses
from nightjard.archived.nights.plan import Plan
from nightjard.archived.nights.records import RunReport
from nightjard.archived.nights.steps.telling import told
from nightjard.archived.nights.store import Row
from nightjard.archived.nights.summary import label_of


def stamp(time_ns: int | None) -> str | None:
    """Return ``YYYY-MM-DDThh:mm:ss``, as the table has it."""
    return None if time_ns is None else iso(time_ns, 0)


def table_row(night: Row, step: str | None = None) -> dict[str, Any]:
    """Return TABLE_KEYS of a night."""
    date = night["date"]
    return {
        "scexao5_path": night["folder"],
        "utc_date": f"{date[:4]}-{date[4:6]}-{date[6:]}",
        "processed": night["processed_ns"] is not None,
        "processed_timestamp": stamp(night["processed_ns"]),
        "transferred_to_scexao6": night["transferred_ns"] is not None,
        "transferred_timestamp": stamp(night["transferred_ns"]),
        "safe_on_scexao6": night["safe_ns"] is not None,
        "safe_timestamp": stamp(night["safe_ns"]),
        "family": night["family"], "night": date,
        "state": "waiting" if night["state"] == "new" else night["state"],
        "step": step, "sealed": night["sealed_ns"] is not None,
        "released_timestamp": stamp(night["released_ns"]),
        "raw_frames": night["raw_frames"], "ledger_frames": night["ledger_frames"],
        "lost_frames": night["lost_frames"], "dubious_frames": night["dubious_frames"],
        "raw_bytes": night["raw_bytes"], "product_bytes": night["product_bytes"],
        "veto": night["veto"], "error": night["error"],
    }  # fmt: skip


def step_row(each: Standing) -> dict[str, Any]:
    """Return STEP_KEYS."""
    text = each.error or ""
    if each.state is StepState.DONE:
        text = told(each.name, each.result)
    elif each.state is StepState.INTERRUPTED:
        text = "what did it was killed; what it finished is kept, the next run goes on from there"
    elif each.state is StepState.WAITING and each.ended_ns is not None:
        text = "its inputs have changed since"
    return {
        "name": each.name, "state": each.state.value,
        "started": stamp(each.started_ns), "ended": stamp(each.ended_ns), "text": text,
    }  # fmt: skip


def run_reports(plan: Plan, config: NightsConfig) -> list[dict[str, Any]]:
    """Return RUN_REPORT_KEYS of each run."""
    missing = losses(plan, config)
    silent: dict[int, list[Silence]] = defaultdict(list)
    for each in missing.silences:
        silent[each.run].append(each)
    return [
        _run_report(run, lost, silent[run.number])
        for run, lost in zip(plan.runs, missing.by_run, strict=True)
    ]


def _run_report(
    run: RunReport, lost: Mapping[str, Mapping[str, int]], silent: Sequence[Silence]
) -> dict[str, Any]:
    seconds: dict[str, float] = defaultdict(float)
    for each in silent:
        seconds[each.stream] += (each.last_ns - each.first_ns) / NS_PER_S
    off = [f"{stream} was off for {duration_text(span)}" for stream, span in seconds.items()]
    return {
        "number": run.number, "streams": list(run.streams), "frames": list(run.frames),
        "first": iso(run.first_ns, 3), "last": iso(run.last_ns, 3), "triggers": run.triggers,
        "lost": {stream: dict(each) for stream, each in lost.items()},
        "dubious": run.dubious, "verdict": run.verdict, "text": "; ".join([run.text, *off]),
        "offsets_us": list(run.offsets_us), "period_us": run.period_us,
    }  # fmt: skip


def plan_result(
    plan: Plan, night: Row, config: NightsConfig, *, path: str | None, seconds: float
) -> dict[str, Any]:
    """Return PLAN_KEYS."""
    groups: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0])
    for product in plan.products:
        stream, _, suffix = label_of(product).partition(" ")
        entry = groups[(product.folder, product.kind.value, f"{stream} {suffix}")]
        entry[0] += 1
        entry[1] += product.frames
    ledger = [
        {"cube": line.path, "reason": line.reason.lower(), "frames": line.count,
         "text": line.text}
        for line in plan.ledger
    ]  # fmt: skip
    runs = run_reports(plan, config)
    return {
        "night": night["date"], "family": night["family"], "plan_hash": plan.hash, "path": path,
        "is_new": plan.hash != night["plan_hash"], "raw_frames": len(plan.rows),
        "product_frames": sum(product.frames for product in plan.products),
        "ledger_frames": sum(line.count for line in plan.ledger), "is_conserved": True,
        "products": [
            {"folder": folder, "kind": kind, "stream": label.split(" ")[0],
             "suffix": label.partition(" ")[2], "files": files, "frames": frames}
            for (folder, kind, label), (files, frames) in sorted(groups.items())
        ],
        "ledger": ledger[:MAX_LISTED], "runs": runs[:MAX_LISTED], "seconds": round(seconds, 3),
        "omitted": omitted(ledger, runs),
    }  # fmt: skip


def omitted(*lists: Sequence[Any]) -> int:
    """Return how many entries do not go into a reply."""
    return sum(max(0, len(each) - MAX_LISTED) for each in lists)


def step_outcomes(results: Mapping[str, Any], seconds: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return the `steps` of RUN_KEYS, of all steps that were asked for."""
    found = []
    for name in STEPS:
        if name not in results:
            continue
        value = results[name]
        outcome = {"done before": "unchanged", "would be done": "would run"}.get(
            value if isinstance(value, str) else "", "done"
        )
        text = "" if isinstance(value, str) else told(name, value)
        found.append({
            "name": name, "outcome": outcome, "text": text,
            "seconds": round(seconds.get(name, 0.0), 3),
        })  # fmt: skip
    return found
