# SPDX-License-Identifier: BSD-3-Clause
"""The page of a session: its tests, their flags, what they found, links to their reports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nightjar import __version__
from nightjard.calib.flags import FLAGS, place_text
from nightjard.calib.reports.blocks import Report, Section, TableBlock, Tone
from nightjard.calib.reports.content import TOLD, read_json, tight
from nightjard.calib.reports.words import number

_STATES: dict[str, Tone] = {
    "processed": "good", "failed": "error", "over-acquired": "warning", "processing": "info",
    "expected": "muted",
}  # fmt: skip
_COUNTS = ("error", "warning", "info", "waived")


def session_report(run_folder: Path) -> Report:
    """Return the page of a session.

    Raises
    ------
    StorageError
        The summary cannot be read.
    """
    summary = read_json(run_folder / "summary.json")
    tests = summary.get("tests", [])
    facts = tuple(
        (label, str(summary[key]))
        for label, key in (
            ("Block", "block"), ("Chamber", "chamber"), ("Pipeline", "pipeline_id"),
            ("Campaign file", "campaign"), ("Program", "program"),
        ) if summary.get(key)
    )  # fmt: skip
    verdict, tone = _verdict(tests)
    sections = [Section("Tests", (_overview(run_folder, tests),))]
    if flags := _flags(tests):
        sections.append(Section("Flags", (flags,)))
    if values := _key_values(run_folder, tests):
        sections.append(Section("Values", (values,)))
    return Report(
        f"Session {summary.get('run', run_folder.name)}",
        str(summary.get("program") or f"nightjar {__version__}"), facts, verdict, tone,
        tuple(sections),
    )  # fmt: skip


def _verdict(tests: list[dict[str, Any]]) -> tuple[str, Tone]:
    if not tests:
        return "no test", "muted"
    states: dict[str, int] = {}
    for test in tests:
        states[test["state"]] = states.get(test["state"], 0) + 1
    parts = [", ".join(f"{count} {state}" for state, count in states.items())]
    bad = _named(tests, "error")
    doubtful = [name for name in _named(tests, "warning") if name not in bad]
    failed = [test["test"] for test in tests if test["state"] == "failed"]
    for names, text in ((failed, "failed"), (bad, "errors in"), (doubtful, "warnings in")):
        if names:
            parts.append(f"{text} {', '.join(names)}")
    if failed or bad:
        return "; ".join(parts), "error"
    if doubtful:
        return "; ".join(parts), "warning"
    return "; ".join(parts), "good" if set(states) == {"processed"} else "info"


def _named(tests: Iterable[Mapping[str, Any]], severity: str) -> list[str]:
    return [test["test"] for test in tests if test.get("severities", {}).get(severity)]


def _overview(run_folder: Path, tests: list[dict[str, Any]]) -> TableBlock:
    rows = []
    tones: dict[tuple[int, int], Tone] = {}
    for line, test in enumerate(tests):
        first, last = test.get("obsids", (-1, -1))
        counts = test.get("severities", {})
        tones[line, 1] = _STATES.get(test["state"], "info")
        shades: tuple[Tone, ...] = ("error", "warning", "info", "muted")
        for column, (severity, shade) in enumerate(zip(_COUNTS, shades, strict=True), start=4):
            if counts.get(severity):
                tones[line, column] = shade
        links = [f"{test['test']}/{test['test']}_report.{kind}" for kind in ("html", "pdf")]
        rows.append(
            (test["test"], test["state"], "-" if first < 0 else f"{first}-{last}",
             f"{test.get('minutes', 0):.1f}", *(str(counts.get(one, 0)) for one in _COUNTS),
             test.get("reason", "") or "",
             *(link if (run_folder / link).exists() else "-" for link in links))
        )  # fmt: skip
    header = (
        "test", "state", "OBSIDs", "minutes", "errors", "warn.", "info", "waived", "reason",
        "report", "",
    )  # fmt: skip
    return tight(TableBlock(header, tuple(rows), "", tones))


def _flags(tests: list[dict[str, Any]]) -> TableBlock | None:
    """Return flags against tests: what a session has in common is seen at once."""
    names = sorted({name for test in tests for name in test.get("flags", [])},
                   key=lambda name: FLAGS[name].bit if name in FLAGS else 99)  # fmt: skip
    if not names:
        return None
    rows = []
    for name in names:
        raised = [test["test"] for test in tests if name in test.get("flags", [])]
        meaning = FLAGS[name].meaning if name in FLAGS else ""
        rows.append((name, meaning, str(len(raised)), ", ".join(raised)))
    return TableBlock(("flag", "means", "tests", ""), tuple(rows))


def _key_values(run_folder: Path, tests: list[dict[str, Any]]) -> TableBlock | None:
    """Return what tests found that holds for a whole test: focus, saturation times, go or not."""
    rows: list[tuple[str, ...]] = []
    for test in tests:
        path = run_folder / test["test"] / "current" / "results.json"
        if not path.is_file():
            continue
        name = test["test"]
        for one in read_json(path).get("values", []):
            where = one.get("where", {})
            if {"ccd", "quadrant", "obsid"} & set(where) or one["name"] in TOLD:
                continue
            if one["value"] is None or isinstance(one["value"], (dict, list)):
                continue
            if one.get("subtask") in ("init", "check") and not one.get("unit"):
                continue  # counts that say nothing of the detector
            rows.append(
                (name, one["name"], number(one["value"], one.get("error")), one.get("unit", ""),
                 place_text(where))
            )  # fmt: skip
            name = ""
    if not rows:
        return None
    return tight(TableBlock(("test", "value", "", "unit", "where"), tuple(rows), keys=2))
