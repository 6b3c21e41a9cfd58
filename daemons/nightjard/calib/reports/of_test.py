# SPDX-License-Identifier: BSD-3-Clause
"""The report of a test: what comes out of it first, then sub-task by sub-task, then its origin."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nightjar.errors import StorageError
from nightjard.calib.flags import FLAGS
from nightjard.calib.reports.blocks import Block, Report, Section, TableBlock, Text, Tone
from nightjard.calib.reports.content import (
    compliance_blocks,
    flag_block,
    product_blocks,
    read_json,
    subtask_documents,
    subtask_section,
    value_blocks,
)
from nightjard.calib.reports.words import counted

_INPUTS_SHOWN = 12
_HASH = 23  # blake3: and 16 digits
_NORMAL = ("done", "skipped", "off")


def test_report(attempt: Path) -> Report:
    """Return the report of an attempt.

    Raises
    ------
    StorageError
        Its results cannot be read.
    """
    results = read_json(attempt / "results.json")
    if not isinstance(results.get("test"), str):
        raise StorageError(
            f"{attempt / 'results.json'}: no results of a test: it does not name one; a new "
            "calib run writes them again",
            path=str(attempt),
        )
    steps = {step["name"]: step for step in results.get("steps", [])}
    documents = {
        one["subtask"]: one for one in subtask_documents(attempt, steps)
        if steps.get(one["subtask"], {}).get("status", "done") == "done"
    }  # fmt: skip
    flags = results.get("flags", [])
    verdict, tone = verdict_of(results.get("status", ""), results.get("reason", ""), flags)
    sections = [Section("Flags", (flag_block(flags),))]
    if "init" in documents:
        sections.append(_acquisition(attempt, results, documents["init"]))
    if stopped := _not_done(steps):
        sections.append(stopped)
    compliances = [
        {**one, "subtask": name}
        for name, document in documents.items() for one in document.get("compliances", [])
    ]  # fmt: skip
    if blocks := compliance_blocks(compliances):
        sections.append(Section("Compliance", tuple(blocks)))
    for name, document in documents.items():
        if name != "init":
            title = steps.get(name, {}).get("title") or document.get("title")
            sections.append(subtask_section(attempt, {**document, "title": title}))
    sections.append(_provenance(results))
    return Report(
        results["test"], f"Block {results.get('block', '?')}, session {results.get('run', '?')}",
        _facts(results, documents.get("init", {})), verdict, tone, tuple(sections),
    )  # fmt: skip


# Not a test, whatever pytest thinks of its name.
test_report.__test__ = False  # type: ignore[attr-defined]


def verdict_of(status: str, reason: str, flags: list[dict[str, Any]]) -> tuple[str, Tone]:
    """Return a line that says how good a test is, and its tone."""
    standing = [flag for flag in flags if not flag.get("waiver")]
    parts: list[str] = []
    tone: Tone = "good"
    severities: tuple[Tone, ...] = ("error", "warning", "info")
    for severity in severities:
        names = list(dict.fromkeys(f["name"] for f in standing if f["severity"] == severity))
        if names:
            tone = severity if tone == "good" else tone
            word = "info" if severity == "info" else counted(len(names), severity)
            parts.append(f"{word}: {', '.join(names)}")
    waived = list(dict.fromkeys(flag["name"] for flag in flags if flag.get("waiver")))
    if waived:
        parts.append(f"waived: {', '.join(waived)}")
    if status == "failed":
        return "; ".join([f"Failed: {reason}", *parts]), "error"
    if not standing:
        return "; ".join(["Nothing to object to", *parts]), "good"
    return "; ".join(parts), tone


def _facts(results: Mapping[str, Any], init: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    first, last = results.get("obsids", (-1, -1))
    provenance = results.get("provenance", {})
    values = {one["name"]: one["value"] for one in init.get("values", [])}
    frames = ""
    if "frames" in values:
        frames = f", {values['frames']} of {values.get('frames_of_script', '?')} frames"
    days = ", ".join(Path(day).name for day in provenance.get("days", []))
    facts = [
        ("Test", f"{results['test']} ({results.get('handle', '')})"),
        ("OBSIDs", "none" if first < 0 else f"{first} to {last}{frames}"),
        ("Day folder", days or "-"),
        ("Script", provenance.get("script", "") or "-"),
        ("Chamber profile", f"{results.get('chamber', '?')}, version "
                            f"{results.get('profile_version', '?')}"),
        ("Detector", provenance.get("detector", "?")),
        ("ELVIS", provenance.get("elvis", "?")),
        ("Processed", f"{provenance.get('written', '?')} UTC by {results.get('program', '?')}, "
                      f"{results.get('attempt', '?')}, {results.get('minutes', 0):.1f} minutes"),
    ]  # fmt: skip
    if results.get("is_drill"):
        facts.append(("Drill", "no pixels were measured: what is shown is made up"))
    if results.get("is_check_only"):
        facts.append(("Extent", "checks only"))
    return tuple(facts)


# --- sections ---


def _acquisition(
    attempt: Path, results: Mapping[str, Any], init: Mapping[str, Any]
) -> Section:
    """Return what was acquired beside the script, and what else the ingestion tells."""
    messages = _structure(attempt, init)
    blocks: list[Block] = []
    if messages is None:
        blocks.append(Text("What was found beside the script is not on record.", "warning"))
    elif messages:
        blocks.append(Text("The acquisition is not what the script commands:", "error"))
        blocks.append(
            TableBlock(("what", "difference"), tuple(map(_parted, messages)), keys=1,
                       has_header=False)
        )  # fmt: skip
    else:
        blocks.append(Text("The acquisition is what the script commands.", "good"))
    blocks += [Text(note) for note in init.get("notes", []) if note not in (messages or ())]
    blocks += value_blocks(init.get("values", []))
    products = {**init, "documents": [
        one for one in init.get("documents", []) if one["name"] != "STRUCTURE"
    ]}  # fmt: skip
    blocks += product_blocks(attempt, products)
    return Section("Acquisition", tuple(blocks))


def _parted(message: str) -> tuple[str, str]:
    """Return a cause as its subject and what is to be said of it."""
    subject, colon, rest = message.partition(": ")
    return (subject, rest) if colon and len(subject) < 40 else ("", message)


def _structure(attempt: Path, init: Mapping[str, Any]) -> list[str] | None:
    for entry in init.get("documents", []):
        if entry["name"] == "STRUCTURE":
            try:
                content = json.loads((attempt / entry["path"]).read_text(encoding="utf-8"))
                return [str(one) for one in content["content"]["messages"]]
            except (OSError, ValueError, KeyError, TypeError):
                return None
    return None


def _not_done(steps: Mapping[str, Mapping[str, Any]]) -> Section | None:
    failed = [step for step in steps.values() if step["status"] not in _NORMAL]
    if not failed:
        return None
    rows = tuple(
        (step["title"] or step["name"], step["status"], step.get("note", "")) for step in failed
    )
    tones: dict[tuple[int, int], Tone] = {
        (row, 1): "error" for row, step in enumerate(failed) if step["status"] == "crashed"
    }
    return Section("Not done", (TableBlock(("sub-task", "status", "why"), rows, "", tones),))


def _provenance(results: Mapping[str, Any]) -> Section:
    provenance = results.get("provenance", {})
    inputs = provenance.get("inputs", {})
    # Products first: frames are many and follow from the OBSIDs.
    roles = sorted(inputs, key=lambda role: (role.endswith((".fits", ".txt")), role))
    rows = tuple((role, str(inputs[role])[:_HASH]) for role in roles[:_INPUTS_SHOWN])
    blocks: list[Block] = [
        TableBlock(
            ("sub-task", "", "status", "minutes", "key", ""),
            tuple(
                (step["name"], step["title"], step["status"], f"{step.get('minutes', 0):.2f}",
                 step.get("key", "")[:16], step.get("note", ""))
                for step in results.get("steps", [])
            ),
            "Steps",
        ),
    ]  # fmt: skip
    if rows:
        rest = len(inputs) - len(rows)
        caption = f"What went in{f' ({rest} more in results.json)' if rest else ''}"
        blocks.append(TableBlock(("input", "hash"), rows, caption))
    options = provenance.get("options") or {}
    if options:
        blocks.append(
            TableBlock(
                ("option", "value"), tuple((k, str(v)) for k, v in options.items()), "Options"
            )
        )
    meanings = tuple(
        (name, FLAGS[name].meaning) for name in results.get("flag_names", []) if name in FLAGS
    )
    if meanings:
        blocks.append(TableBlock(("flag", "means"), meanings, "Meaning of the flags"))
    campaign = provenance.get("campaign", "")
    if campaign:
        blocks.append(Text(f"Campaign file: {campaign}", "muted"))
    return Section("Provenance", tuple(blocks), is_aside=True)
