# SPDX-License-Identifier: BSD-3-Clause
"""What is written when a test has ended: its results, its flags, the session's summary and record.

All of it is put together from what sub-tasks left on the disk.
"""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nightjar import __version__, files
from nightjard.calib.campaign import Waiver
from nightjard.calib.engine.state import RunState, TestState
from nightjard.calib.flags import FLAGS, flag_word
from nightjard.calib.results import digest, plain, read_subtask

FORMAT = 1
RECORD_COLUMNS = (
    "test", "handle", "session", "obsid_first", "obsid_last", "script", "day_folder", "state",
    "attempt", "flags",
)  # fmt: skip
_MERGED = ("values", "tables", "images", "figures", "documents")


@dataclass(frozen=True)
class Step:
    """A sub-task in the results: what became of it."""

    name: str
    title: str
    status: str
    minutes: float = 0.0
    key: str = ""
    note: str = ""


def merge(folder: Path, steps: Sequence[Step]) -> dict[str, list[dict[str, Any]]]:
    """Return the findings of all sub-tasks that are done, each with the sub-task's name."""
    merged: dict[str, list[dict[str, Any]]] = {
        kind: [] for kind in (*_MERGED, "flags", "compliances")
    }
    for step in steps:
        found = read_subtask(folder, step.name) if step.status == "done" else None
        for kind, entries in merged.items():
            for entry in (found or {}).get(kind, ()):
                entries.append({**entry, "subtask": step.name})
    return merged


def waive(
    flags: Iterable[Mapping[str, Any]], waivers: Iterable[Waiver], test: str, handle: str,
    day: dt.date,
) -> list[dict[str, Any]]:  # fmt: skip
    """Return flags with the reasons of the waivers that hold today."""
    rules = list(waivers)
    waived = []
    for flag in flags:
        reasons = [
            f"{rule.reason} (until {rule.expires})"
            for rule in rules if rule.holds(str(flag["name"]), test, handle, day)
        ]  # fmt: skip
        waived.append({**flag, "waiver": "; ".join(reasons)})
    return sorted(waived, key=lambda flag: FLAGS[flag["name"]].bit)


def names_of(flags: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the names of flags, each once, in the order of their bits."""
    return list(dict.fromkeys(str(flag["name"]) for flag in flags))


def severities_of(flags: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Return how many kinds of flag are error, warning, info; waived ones apart."""
    order = ("info", "warning", "error")
    worst: dict[str, str] = {}
    waived: set[str] = set()
    for flag in flags:
        name = str(flag["name"])
        if flag.get("waiver"):
            waived.add(name)
        elif order.index(str(flag["severity"])) >= order.index(worst.get(name, "info")):
            worst[name] = str(flag["severity"])
    counts = {level: sum(one == level for one in worst.values()) for level in reversed(order)}
    return {**counts, "waived": len(waived - set(worst))}


def write_results(
    folder: Path, about: Mapping[str, Any], steps: Sequence[Step],
    flags: Sequence[Mapping[str, Any]], merged: Mapping[str, Any],
) -> str:  # fmt: skip
    """Write ``results.json`` and ``flags.json`` of an attempt, where they say something new.

    Returns
    -------
    str
        Digest of what was found; how and when it came about does not count.
    """
    names = names_of(flags)
    compliances = merged["compliances"]
    document = {
        "format": FORMAT, "program": f"nightjar {__version__}", **about,
        "steps": [step.__dict__ for step in steps],
        "flags": list(flags), "flag_names": names, "flag_word": flag_word(names),
        "severities": severities_of(flags),
        "compliances": {
            "checked": len(compliances),
            "failed": [one for one in compliances if not one["is_good"]],
        },
        **{kind: merged[kind] for kind in _MERGED},
    }  # fmt: skip
    _write_news(folder / "results.json", plain(document))
    word = {
        "format": FORMAT, "test": about["test"], "flags": list(flags), "names": names,
        "word": flag_word(names), "severities": severities_of(flags),
    }  # fmt: skip
    _write_news(folder / "flags.json", plain(word))
    return digest({key: value for key, value in document.items() if key != "provenance"})


def _write_news(path: Path, document: dict[str, Any]) -> None:
    """Write a document unless it is there and differs in nothing but when it was written."""

    def undated(one: Any) -> Any:
        provenance = one.get("provenance") or {}
        kept = {key: value for key, value in provenance.items() if key not in ("written", "host")}
        return {**one, "provenance": kept}

    try:
        old = json.loads(path.read_text(encoding="utf-8"))
        if undated(old) == undated(json.loads(json.dumps(document))):
            return
    except (FileNotFoundError, ValueError, AttributeError):
        pass
    files.write_json_durably(path, document)


def write_session(run_folder: Path, state: RunState, about: Mapping[str, Any]) -> None:
    """Write ``summary.json`` and the test record of a session."""
    tests = [
        {
            "test": one.test, "handle": one.handle, "state": one.stage, "obsids": list(one.obsids),
            "minutes": round(one.minutes, 2), "attempt": one.attempt, "flags": one.flags,
            "severities": one.severities, "reason": one.reason,
        }
        for one in state.tests.values()
    ]  # fmt: skip
    files.write_json_durably(
        run_folder / "summary.json",
        {"format": FORMAT, "program": f"nightjar {__version__}", **about, "tests": tests},
    )
    rows = record_rows(state.tests.values(), str(about.get("run", run_folder.name)))
    files.write_json_durably(run_folder / "TESTS_RECORD.json", {"format": FORMAT, "tests": rows})
    text = io.StringIO()
    writer = csv.DictWriter(text, RECORD_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.write_durably(run_folder / "TESTS_RECORD.csv", text.getvalue().encode(), replace=True)


def record_rows(tests: Iterable[TestState], session: str) -> list[dict[str, Any]]:
    """Return the rows of the test record: what used to be filled in by hand."""
    return [
        {
            "test": one.test, "handle": one.handle, "session": session,
            "obsid_first": one.obsids[0], "obsid_last": one.obsids[1], "script": one.script,
            "day_folder": " ".join(Path(day).name for day in one.days), "state": one.stage,
            "attempt": one.attempt, "flags": " ".join(one.flags),
        }
        for one in tests
    ]  # fmt: skip
