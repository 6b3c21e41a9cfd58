# SPDX-License-Identifier: BSD-3-Clause
"""What a night holds, minute by minute, and whether it is as good as it should be."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from nightjar.times import NS_PER_S, iso
from nightjard.archived.nights.config import NightsConfig
from nightjard.archived.nights.plan import Plan
from nightjard.archived.nights.records import Kind, Reason

_MINUTE_NS = 60 * NS_PER_S
_SUFFIX_OF_BAD = ".bad"


def summary(plan: Plan, config: NightsConfig) -> dict[str, Any]:
    """Return the minutes, totals and verdict of a plan as plain JSON.

    The keys are those of :data:`nightjar.api.nights.SUMMARY_KEYS`.
    """
    minutes: dict[int, dict[str, Any]] = defaultdict(
        lambda: {"targets": set(), "exptimes": set(), "counts": defaultdict(int)}
    )
    totals: dict[tuple[str, str], int] = defaultdict(int)
    for product in plan.products:
        kind = _kind(product.kind, product.stream, product.name)
        totals[kind] += product.frames
        rows = plan.rows_of(product)
        for minute, where in _by_minute(rows, product.first_ns):
            entry = minutes[minute]
            entry["counts"][kind] += len(where)
            for number in np.unique(rows["cube"][where]).tolist():
                facts = plan.facts[number]
                entry["targets"].add(str(facts.get("OBJECT", "")))
                if "EXPTIME" in facts:
                    entry["exptimes"].add(float(facts["EXPTIME"]))
    offset_ns = round(config.local_offset_hours * 3600) * NS_PER_S
    raw = len(plan.rows)
    seen = max(1, raw + plan.lost)
    modulated = sum(product.frames for product in plan.products if product.state)
    lost_fraction = plan.lost / seen
    dubious_fraction = plan.dubious / max(1, modulated)
    limits = config.thresholds
    reasons = []
    if lost_fraction > limits.lost_fraction:
        reasons.append(f"{100 * lost_fraction:.2f} % of the frames were lost")
    if dubious_fraction > limits.dubious_fraction:
        reasons.append(f"the modulator's state of {100 * dubious_fraction:.2f} % is not known")
    ambiguous = [run.text for run in plan.runs if run.verdict == "ambiguous"]
    return {
        "night": plan.night,
        "minutes": [
            {
                "start": iso(minute * _MINUTE_NS, 0), "end": iso((minute + 1) * _MINUTE_NS, 0),
                "local": iso(minute * _MINUTE_NS + offset_ns, 0),
                "targets": sorted(entry["targets"] - {""}),
                "exptimes": sorted(entry["exptimes"]),
                "counts": _listed(entry["counts"]),
            }
            for minute, entry in sorted(minutes.items())
        ],
        "totals": _listed(totals),
        "raw_frames": raw,
        "products": len(plan.products),
        "frames": sum(product.frames for product in plan.products),
        "ledger": [
            {"path": line.path, "first": line.first, "count": line.count, "text": line.text}
            for line in plan.ledger
        ],
        "lost": plan.lost, "lost_fraction": lost_fraction,
        "dubious": plan.dubious, "dubious_fraction": dubious_fraction,
        "unmatched": _of_reason(plan, Reason.UNMATCHED),
        "ambiguous": ambiguous,
        "runs": [
            {
                "number": run.number, "start": iso(run.first_ns, 3), "end": iso(run.last_ns, 3),
                "streams": list(run.streams), "frames": list(run.frames), "verdict": run.verdict,
                "text": run.text, "offsets_us": list(run.offsets_us),
                "period_us": run.period_us, "half_width_us": run.half_width_us,
                "lost": {name: dict(each) for name, each in run.lost.items()},
                "dubious": run.dubious,
            }
            for run in plan.runs
        ],
        "notes": {path: list(texts) for path, texts in plan.notes.items()},
        "is_good": not reasons and not ambiguous,
        "reasons": reasons + ambiguous,
    }  # fmt: skip


def _kind(kind: Kind, stream: str, name: str) -> tuple[str, str]:
    """Return (stream, suffix) as observers know them: ('vsync', '.cam1.A'), ('vcam1', '')."""
    if kind is Kind.SYNC:
        head, _, tail = name.partition("_")
        suffix = ".".join(part for part in tail.split(".")[1:] if not part[:1].isdigit())
        return head, f".{suffix}"
    if kind is Kind.BAD:
        return stream, _SUFFIX_OF_BAD
    last = name.rpartition(".")[2]
    return stream, f".{last}" if last in ("A", "B", "D") else ""


def _by_minute(rows: Any, first_ns: int) -> list[tuple[int, Any]]:
    times = np.where(rows["MTIME"] > 0, rows["MTIME"], first_ns)
    minutes = times // _MINUTE_NS
    return [(int(each), np.flatnonzero(minutes == each)) for each in np.unique(minutes)]


def _listed(counts: dict[tuple[str, str], int]) -> list[list[Any]]:
    return [[stream, suffix, count] for (stream, suffix), count in sorted(counts.items())]


def _of_reason(plan: Plan, reason: Reason) -> int:
    return int((plan.rows["reason"] == reason).sum())
