# SPDX-License-Identifier: BSD-3-Clause
"""What a night holds, minute by minute, and whether it is as good as it should be."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from nightjar.api.night_results import MAX_LISTED
from nightjar.times import NS_PER_S, iso
from nightjard.archived.nights.config import NightsConfig
from nightjard.archived.nights.losses import losses
from nightjard.archived.nights.plan import Plan
from nightjard.archived.nights.records import Ints, Kind, Product, Reason

_MINUTE_NS = 60 * NS_PER_S
_SUFFIX_OF_BAD = ".bad"


def summary(plan: Plan, config: NightsConfig) -> dict[str, Any]:
    """Return the minutes, totals and verdict of a plan as plain JSON.

    The keys are those of :data:`nightjar.api.night_results.SUMMARY_KEYS`, but for family and state.
    """
    minutes: dict[int, _Minute] = defaultdict(_Minute)
    totals: Counter[str] = Counter()
    for product in plan.products:
        label = label_of(product)
        totals[label] += product.frames
        rows = plan.rows_of(product)
        for number, times, cubes in _by_minute(rows, product.first_ns):
            minutes[number].add(plan, label, times, cubes)
    limits = config.thresholds
    seen = {cube.stream for cube in plan.cubes}
    groups = [seen & set(group.streams) for group in config.groups.values()]
    modulated = sum(product.frames for product in plan.products if product.state)
    missing = losses(plan, config)
    lost_fraction = missing.total / max(1, len(plan.rows) + missing.total)
    dubious_fraction = plan.dubious / max(1, modulated)
    reasons = []
    if lost_fraction > limits.lost_fraction:
        reasons.append(
            f"{missing.total} frames ({100 * lost_fraction:.2f} %) were lost; "
            f"{100 * limits.lost_fraction:g} % are allowed"
        )
    if dubious_fraction > limits.dubious_fraction:
        reasons.append(
            f"the modulator's state of {plan.dubious} frames ({100 * dubious_fraction:.2f} %) is "
            f"not known; {100 * limits.dubious_fraction:g} % are allowed"
        )
    reasons += [f"run {run.number}: {run.text}" for run in plan.runs if run.verdict == "ambiguous"]
    # Nobody knows how many frames they hold, so they are in none of the figures.
    unread = [line for line in plan.ledger if line.reason == Reason.UNREADABLE.name]
    if unread:
        first = f"{unread[0].path}: {unread[0].text}"
        reasons.append(f"{len(unread)} raw files are in no product, first {first}")
    ledger: Counter[str] = Counter()
    for line in plan.ledger:
        ledger[line.reason.lower()] += line.count
    return {
        "night": plan.night,
        "local_offset_hours": config.local_offset_hours,
        "minutes": [
            minute.as_json(config.local_offset_hours, groups)
            for _, minute in sorted(minutes.items())
        ],
        "totals": dict(sorted(totals.items())),
        "raw_frames": len(plan.rows),
        "product_frames": sum(product.frames for product in plan.products),
        "ledger": dict(ledger),
        "lost": missing.by_stream,
        "off": [
            {"stream": each.stream, "run": each.run, "begin": iso(each.first_ns, 0),
             "end": iso(each.last_ns, 0), "seconds": (each.last_ns - each.first_ns) / NS_PER_S,
             "frames": each.frames}
            for each in missing.silences[:MAX_LISTED]
        ],
        "lost_fraction": lost_fraction,
        "dubious_frames": plan.dubious, "dubious_fraction": dubious_fraction,
        "ambiguous_frames": int((plan.rows["reason"] == Reason.AMBIGUOUS).sum()),
        "thresholds": {"lost_fraction": limits.lost_fraction,
                       "dubious_fraction": limits.dubious_fraction},
        "is_good": not reasons, "reasons": reasons,
    }  # fmt: skip


class _Minute:
    """One minute of UTC."""

    def __init__(self) -> None:
        self._times: list[int] = []
        self._targets: set[str] = set()
        self._exptimes: set[float] = set()
        self._counts: Counter[str] = Counter()
        self._streams: set[str] = set()

    def add(self, plan: Plan, label: str, times: Ints, cubes: Ints) -> None:
        self._times += [int(times.min()), int(times.max())]
        self._counts[label] += len(times)
        self._streams.add(plan.cubes[int(cubes[0])].stream)
        for number in np.unique(cubes).tolist():
            facts = plan.facts[number]
            if facts.get("OBJECT"):
                self._targets.add(str(facts["OBJECT"]))
            if isinstance(facts.get("EXPTIME"), (int, float)):
                self._exptimes.add(round(float(facts["EXPTIME"]), 8))

    def as_json(self, offset_hours: float, groups: Sequence[set[str]]) -> dict[str, Any]:
        shift_ns = round(offset_hours * 3600) * NS_PER_S
        begin, end = min(self._times), max(self._times)
        return {
            "begin": iso(begin, 0), "end": iso(end, 0),
            "local_begin": iso(begin + shift_ns, 0)[11:],
            "local_end": iso(end + shift_ns, 0)[11:],
            "targets": sorted(self._targets), "exptimes_s": sorted(self._exptimes),
            "counts": dict(sorted(self._counts.items())),
            "off": sorted(stream for group in groups if group & self._streams
                          for stream in group - self._streams),
        }  # fmt: skip


def label_of(product: Product) -> str:
    """Return stream and suffix as observers know them: ``vsync .cam1.A``, ``vcam1``."""
    if product.kind is Kind.SYNC:
        stream, suffix = product.group.partition("_")[0], f".cam{product.camera}"
        return f"{stream} {suffix}{'.' + product.state if product.state else ''}"
    if product.kind is Kind.BAD:
        return f"{product.stream} {_SUFFIX_OF_BAD}"
    return f"{product.stream} .{product.state}" if product.state else product.stream


def _by_minute(rows: Any, first_ns: int) -> Iterator[tuple[int, Ints, Ints]]:
    times = np.where(rows["MTIME"] > 0, rows["MTIME"], first_ns)
    minutes = times // _MINUTE_NS
    for minute in np.unique(minutes).tolist():
        where = minutes == minute
        yield minute, times[where], rows["cube"][where]
