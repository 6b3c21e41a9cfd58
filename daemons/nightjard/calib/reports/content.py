# SPDX-License-Identifier: BSD-3-Clause
"""What a report says, before it is PDF or HTML: sections of texts, tables and pictures.

Everything is read from an attempt's folder: ``results.json`` and ``subtasks/*.json``, the tables
and figures that they name. A figure that is not there is told, not skipped.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nightjar.errors import StorageError

_TABLE_ROWS = 40
_FAILURES = 30


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    tone: str = "plain"  # plain, good, warning, error


@dataclass(frozen=True)
class TableBlock:
    """A table of texts; `bad` are (row, column) of cells that are out of limits."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    bad: frozenset[tuple[int, int]] = frozenset()


@dataclass(frozen=True)
class Picture:
    """A picture file."""

    path: Path
    caption: str = ""


Block = Text | TableBlock | Picture


@dataclass(frozen=True)
class Section:
    """A title and what stands under it."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Report:
    """A whole report.

    Attributes
    ----------
    facts
        Label and value, shown under the title.
    verdict, tone
        One line: what comes out of it; and how it is coloured.
    """

    title: str
    subtitle: str
    facts: tuple[tuple[str, str], ...]
    verdict: str
    tone: str
    sections: tuple[Section, ...] = field(default_factory=tuple)


# --- numbers as people read them ----------------------------------------------------------------


def number(value: Any, error: Any = None) -> str:
    """Return a value with its error, rounded to what the error allows."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) or not isinstance(value, float):
        return str(value)
    if isinstance(error, (int, float)) and error > 0:
        digits = 0
        size = float(error)
        while size < 2 and digits < 12:
            size *= 10
            digits += 1
        if digits <= 6 and abs(value) < 1e7:
            return f"{value:.{digits}f} ± {error:.{digits}f}"
        return f"{value:.4g} ± {error:.1g}"
    return f"{value:.5g}"


def where_text(where: dict[str, Any]) -> str:
    """Return where a value holds: ``CCD1 E col001``."""
    parts = []
    for key, value in where.items():
        if key == "ccd":
            parts.append(f"CCD{value}")
        elif key in ("quadrant", "column", "spot"):
            parts.append(str(value))
        else:
            parts.append(f"{key} {value}")
    return " ".join(parts)


# --- blocks of one sub-task ---------------------------------------------------------------------


def value_blocks(values: list[dict[str, Any]]) -> list[Block]:
    """Return values: a matrix of CCDs and quadrants where there is one, else a list."""
    blocks: list[Block] = []
    matrices: dict[tuple[str, str, str], dict[tuple[int, str], dict[str, Any]]] = {}
    singles: list[dict[str, Any]] = []
    for one in values:
        where = one.get("where", {})
        if "ccd" in where and "quadrant" in where:
            others = {k: value for k, value in where.items() if k not in ("ccd", "quadrant")}
            title = (one["name"], one["unit"], where_text(others))
            matrices.setdefault(title, {})[(where["ccd"], where["quadrant"])] = one
        else:
            singles.append(one)
    if singles:
        rows = tuple(
            (one["name"], number(one["value"], one.get("error")), one["unit"],
             where_text(one.get("where", {})) or one.get("note", ""))
            for one in singles
        )  # fmt: skip
        blocks.append(TableBlock(("value", "", "unit", "where"), rows))
    for (name, unit, rest), cells in matrices.items():
        blocks.append(_matrix(f"{name} {rest}".strip(), unit, cells))
    return blocks


def _matrix(name: str, unit: str, cells: dict[tuple[int, str], dict[str, Any]]) -> TableBlock:
    ccds = sorted({ccd for ccd, _ in cells})
    quadrants = list(dict.fromkeys(quadrant for _, quadrant in cells))
    rows = tuple(
        (f"CCD{ccd}", *(
            number(cells[ccd, q]["value"], cells[ccd, q].get("error")) if (ccd, q) in cells else "-"
            for q in quadrants
        ))
        for ccd in ccds
    )  # fmt: skip
    return TableBlock(("", *quadrants), rows, f"{name} [{unit}]" if unit else name)


def compliance_blocks(compliances: list[dict[str, Any]]) -> list[Block]:
    """Return a line a metric and, of what is out of limits, a line each."""
    if not compliances:
        return []
    groups: dict[str, list[dict[str, Any]]] = {}
    for one in compliances:
        groups.setdefault(one["metric"], []).append(one)
    rows, bad = [], set()
    for metric, members in groups.items():
        failed = [one for one in members if not one["is_good"]]
        known = [one["value"] for one in members if one["value"] is not None]
        span = f"{min(known):.5g} … {max(known):.5g}" if known else "no value"
        first = members[0]
        alike = all((m["low"], m["high"]) == (first["low"], first["high"]) for m in members)
        limits = f"{number(first['low'])} … {number(first['high'])}" if alike else "per column"
        rows.append(
            (metric, first["unit"], span, limits, str(len(members)), str(len(failed)))
        )
        if failed:
            bad.add((len(rows) - 1, 5))
    blocks: list[Block] = [
        TableBlock(
            ("metric", "unit", "seen", "limits", "judged", "out"), tuple(rows),
            "Compliance with limits", frozenset(bad),
        )
    ]  # fmt: skip
    failures = [one for one in compliances if not one["is_good"]]
    if failures:
        blocks.append(_failures(failures))
    return blocks


def _failures(failures: list[dict[str, Any]]) -> TableBlock:
    rows = tuple(
        (one["metric"], where_text(one["where"]), number(one["value"]),
         f"{number(one['low'])} … {number(one['high'])}", one["flag"])
        for one in failures[:_FAILURES]
    )  # fmt: skip
    rest = len(failures) - len(rows)
    caption = "Out of limits" + (f" (and {rest} more, in results.json)" if rest else "")
    bad = frozenset((row, 2) for row in range(len(rows)))
    return TableBlock(("metric", "where", "value", "limits", "flag"), rows, caption, bad)


def flag_block(flags: list[dict[str, Any]]) -> Block:
    """Return the flags with severity, cause and count."""
    if not flags:
        return Text("No flag was raised.", "good")
    rows = []
    for flag in flags:
        waiver = f" (waived: {flag['waiver']})" if flag.get("waiver") else ""
        rows.append(
            (flag["name"], flag["severity"] + waiver, flag["subtask"], flag["cause"],
             str(flag["count"]))
        )  # fmt: skip
    bad = frozenset(
        (row, 1) for row, flag in enumerate(flags)
        if flag["severity"] != "info" and not flag.get("waiver")
    )  # fmt: skip
    return TableBlock(
        ("flag", "severity", "sub-task", "first cause", "times"), tuple(rows), "Flags", bad
    )


def table_block(folder: Path, entry: dict[str, Any]) -> Block:
    """Return the first rows of a table that was written as ECSV."""
    from astropy.table import Table

    path = folder / entry["path"]
    try:
        table = Table.read(path, format="ascii.ecsv")
    except (OSError, ValueError) as error:
        return Text(f"Table {entry['name']} cannot be read: {error}", "error")
    header = tuple(
        f"{name} [{column.unit}]" if column.unit else name for name, column in table.columns.items()
    )
    shown = table[:_TABLE_ROWS]
    rows = tuple(tuple(_cell(value) for value in row) for row in shown)
    caption = entry["caption"] or entry["name"]
    if len(table) > _TABLE_ROWS:
        caption += f" ({_TABLE_ROWS} of {len(table)} rows; all in {entry['path']})"
    return TableBlock(header, rows, caption)


def _cell(value: Any) -> str:
    import numpy as np

    if np.ma.is_masked(value):
        return "-"
    if isinstance(value, (float, np.floating)):
        return f"{float(value):.5g}"
    return str(value)


# --- reports ------------------------------------------------------------------------------------


def read_json(path: Path) -> dict[str, Any]:
    """Return a document of results.

    Raises
    ------
    StorageError
        It cannot be read or is no JSON.
    """
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StorageError(f"cannot read {path}: {error}", path=str(path)) from error
    return document


def subtask_documents(attempt: Path, order: Iterable[str] = ()) -> list[dict[str, Any]]:
    """Return what the sub-tasks of an attempt found: in the given order, others behind."""
    found = {path.stem: path for path in sorted((attempt / "subtasks").glob("*.json"))}
    names = [name for name in order if name in found]
    names += [name for name in found if name not in names]
    return [read_json(found[name]) for name in names]


def subtask_section(attempt: Path, document: dict[str, Any]) -> Section:
    """Return the section of a sub-task."""
    blocks: list[Block] = [Text(note) for note in document.get("notes", [])]
    blocks += value_blocks(document.get("values", []))
    blocks += compliance_blocks(document.get("compliances", []))
    blocks += [
        table_block(attempt, entry) for entry in document.get("tables", []) if entry["show"]
    ]
    for entry in document.get("figures", []):
        path = attempt / entry["path"]
        if path.is_file():
            blocks.append(Picture(path, entry["caption"] or entry["name"]))
        else:
            blocks.append(Text(f"Figure {entry['name']} is missing: {entry['path']}", "error"))
    products = [
        f"{entry['path']}: {entry['caption'] or entry['name']}"
        for entry in [*document.get("images", []), *document.get("documents", [])]
    ]
    if products:
        blocks.append(Text("Products: " + "; ".join(products)))
    return Section(
        document.get("title") or document["subtask"], tuple(blocks or [Text("Nothing to report.")])
    )
