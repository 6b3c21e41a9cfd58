# SPDX-License-Identifier: BSD-3-Clause
"""Reports of results as PDF and HTML, from what lies on disk.

The same results give the same bytes: nothing in a report depends on when or where it is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nightjar import __version__, files
from nightjar.errors import InvalidArgument
from nightjard.calib.reports.content import (
    Block,
    Report,
    Section,
    TableBlock,
    Text,
    flag_block,
    read_json,
    subtask_documents,
    subtask_section,
)
from nightjard.calib.reports.page import page_text
from nightjard.calib.reports.pdf import pdf_bytes

__all__ = ["report_folders", "session_report", "test_report", "write_session_page",
           "write_test_report"]  # fmt: skip

_INPUTS_SHOWN = 24


def write_test_report(attempt: Path) -> list[Path]:
    """Write ``<TEST>_report.pdf`` and ``.html`` into the folder of an attempt.

    Raises
    ------
    StorageError
        The results cannot be read, or there is no room for the report.
    """
    report = test_report(attempt)
    test = read_json(attempt / "results.json")["test"]
    return _write(attempt, f"{test}_report", report)


def write_session_page(run_folder: Path) -> list[Path]:
    """Write the page of a session, ``index.html`` and ``<RUN>_summary.pdf``.

    Raises
    ------
    StorageError
        The summary cannot be read, or there is no room.
    """
    report = session_report(run_folder)
    page = run_folder / "index.html"
    files.write_durably(page, page_text(report, run_folder).encode(), replace=True)
    pdf = run_folder / f"{run_folder.name}_summary.pdf"
    files.write_durably(pdf, pdf_bytes(report), replace=True)
    return [page, pdf]


def _write(folder: Path, stem: str, report: Report) -> list[Path]:
    pdf, page = folder / f"{stem}.pdf", folder / f"{stem}.html"
    files.write_durably(pdf, pdf_bytes(report), replace=True)
    files.write_durably(page, page_text(report, folder).encode(), replace=True)
    return [pdf, page]


def report_folders(path: Path) -> tuple[list[Path], list[Path]]:
    """Return the attempts in force and the sessions at or below a folder of results.

    Raises
    ------
    InvalidArgument
        There are none.
    """
    if (path / "results.json").is_file() and (path / "subtasks").is_dir():
        return [path], []
    sessions = [path] if (path / "summary.json").is_file() else []
    if not sessions and path.is_dir():
        sessions = sorted(one.parent for one in path.glob("*/summary.json"))
    tests = sorted(
        link.resolve()
        for pattern in ("current", "*/current", "*/*/current") for link in path.glob(pattern)
        if (link / "results.json").is_file()
    )  # fmt: skip
    if not tests and not sessions:
        raise InvalidArgument(f"{path} has no results of calib run (no results.json in it)")
    return tests, sessions


# --- of a test ----------------------------------------------------------------------------------


def test_report(attempt: Path) -> Report:
    """Return the report of an attempt."""
    results = read_json(attempt / "results.json")
    steps = {step["name"]: step for step in results.get("steps", [])}
    sections = []
    for document in subtask_documents(attempt, steps):
        step = steps.get(document["subtask"], {})
        if step and step.get("status") != "done":
            continue
        document["title"] = step.get("title") or document.get("title")
        sections.append(subtask_section(attempt, document))
    failed = [step for step in steps.values() if step["status"] not in ("done", "skipped", "off")]
    if failed:
        rows = tuple((step["name"], step["status"], step.get("note", "")) for step in failed)
        sections.append(
            Section("Not done", (TableBlock(("sub-task", "status", "why"), rows),))
        )
    flags = results.get("flags", [])
    sections.append(Section("Flags", (flag_block(flags),)))
    sections.append(_provenance(results))
    verdict, tone = _verdict(results.get("status", ""), results.get("reason", ""), flags)
    return Report(
        results["test"], f"Block {results.get('block', '?')}, session {results.get('run', '?')}",
        _facts(results), verdict, tone, tuple(sections),
    )  # fmt: skip


# Not a test, whatever pytest thinks of its name.
test_report.__test__ = False  # type: ignore[attr-defined]


def _facts(results: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    first, last = results.get("obsids", (-1, -1))
    provenance = results.get("provenance", {})
    facts = [
        ("Test", f"{results['test']} ({results.get('handle', '')})"),
        ("OBSIDs", "none" if first < 0 else f"{first} to {last}"),
        ("Script", provenance.get("script", "") or "-"),
        ("Chamber profile", f"{results.get('chamber', '?')}, version "
                            f"{results.get('profile_version', '?')}"),
        ("Detector", provenance.get("detector", "?")),
        ("ELVIS", provenance.get("elvis", "?")),
        ("Program", f"nightjar {__version__}"),
    ]  # fmt: skip
    if results.get("is_drill"):
        facts.append(("Drill", "no pixels were measured: what is shown is made up"))
    if results.get("is_check_only"):
        facts.append(("Extent", "checks only"))
    return tuple(facts)


def _verdict(status: str, reason: str, flags: list[dict[str, Any]]) -> tuple[str, str]:
    """Return a line that says how good the test is, and its tone."""
    if status == "failed":
        return f"Failed: {reason}", "error"
    standing = [flag for flag in flags if not flag.get("waiver")]
    for severity in ("error", "warning"):
        names = list(dict.fromkeys(f["name"] for f in standing if f["severity"] == severity))
        if names:
            return f"{severity.capitalize()}s: {', '.join(names)}", severity
    waived = " (some waived)" if len(standing) < len(flags) else ""
    return f"Nothing to object to{waived}.", "good"


def _provenance(results: Mapping[str, Any]) -> Section:
    provenance = results.get("provenance", {})
    inputs = provenance.get("inputs", {})
    rows = tuple((role, digest[:40]) for role, digest in list(inputs.items())[:_INPUTS_SHOWN])
    blocks: list[Block] = []
    if rows:
        rest = len(inputs) - len(rows)
        caption = f"What went in{f' (and {rest} more, in results.json)' if rest else ''}"
        blocks.append(TableBlock(("input", "hash"), rows, caption))
    options = provenance.get("options") or {}
    if options:
        blocks.append(
            TableBlock(("option", "value"), tuple((k, str(v)) for k, v in options.items()))
        )
    steps = tuple(
        (step["name"], step["title"], step["status"], step.get("key", "")[:16])
        for step in results.get("steps", [])
    )
    if steps:
        blocks.append(TableBlock(("sub-task", "", "status", "key"), steps, "Steps"))
    return Section("Provenance", tuple(blocks or [Text("None was recorded.")]))


# --- of a session -------------------------------------------------------------------------------


def session_report(run_folder: Path) -> Report:
    """Return the page of a session: its tests, their flags, links to their reports."""
    summary = read_json(run_folder / "summary.json")
    tests = summary.get("tests", [])
    rows, bad = [], set()
    for number, test in enumerate(tests):
        first, last = test.get("obsids", (-1, -1))
        link = f"{test['test']}/{test['test']}_report.html"
        counts = test.get("severities", {})
        rows.append(
            (test["test"], test["state"], "-" if first < 0 else f"{first}-{last}",
             str(counts.get("error", 0)), str(counts.get("warning", 0)),
             ", ".join(test.get("flags", [])) or "-", test.get("reason", "") or "-",
             link if (run_folder / link).exists() else "-")
        )  # fmt: skip
        if counts.get("error"):
            bad.add((number, 3))
        if test["state"] == "failed":
            bad.add((number, 1))
    table = TableBlock(
        ("test", "state", "OBSIDs", "errors", "warnings", "flags", "reason", "report"),
        tuple(rows), "Tests", frozenset(bad),
    )  # fmt: skip
    by_state: dict[str, int] = {}
    for test in tests:
        by_state[test["state"]] = by_state.get(test["state"], 0) + 1
    verdict = ", ".join(f"{count} {state}" for state, count in by_state.items()) or "no test"
    tone = "error" if bad else "good"
    facts = tuple(
        (label, str(summary[key]))
        for label, key in (("Block", "block"), ("Chamber", "chamber"), ("Pipeline", "id"))
        if summary.get(key)
    )
    return Report(
        f"Session {summary.get('run', run_folder.name)}", f"nightjar {__version__}", facts,
        verdict, tone,
        (Section("Tests", (table,)), *_key_values(run_folder, tests)),
    )  # fmt: skip


def _key_values(run_folder: Path, tests: list[dict[str, Any]]) -> tuple[Section, ...]:
    """Return what tests found that holds for a whole test: focus, saturation times, go or not."""
    rows = []
    for test in tests:
        path = run_folder / test["test"] / "current" / "results.json"
        if not path.is_file():
            continue
        for one in read_json(path).get("values", []):
            where = one.get("where", {})
            if "ccd" in where or "quadrant" in where or "obsid" in where:
                continue
            from nightjard.calib.reports.content import number, where_text

            rows.append(
                (test["test"], one["name"], number(one["value"], one.get("error")), one["unit"],
                 where_text(where))
            )  # fmt: skip
    if not rows:
        return ()
    return (Section("Values", (TableBlock(("test", "value", "", "unit", "where"), tuple(rows)),)),)
