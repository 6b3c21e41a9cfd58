# SPDX-License-Identifier: BSD-3-Clause
"""What one sub-task found, as blocks: values, compliances, tables, figures, products.

Everything is read from an attempt's folder: ``results.json`` and ``subtasks/*.json``, the tables
and figures that they name. A figure that is not there is told, not skipped.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nightjar.errors import StorageError
from nightjard.calib.flags import FLAGS, place_text
from nightjard.calib.reports.blocks import Block, Picture, Section, TableBlock, Text, Tone
from nightjard.calib.reports.words import cell, counted, number

_TABLE_ROWS = 48  # a table with more shows its first half as many
_FAILURES = 6
_OTHERS = 4
#: Columns that say what a row of a table is about.
_KEYS = ("test", "obsid", "ccd", "quadrant", "column", "id", "spot", "parameter", "wave")
#: Values of the ingestion that the report tells in its own words.
TOLD = ("obsid_first", "obsid_last", "frames", "frames_of_script", "is_consistent")


# --- values ---


def value_blocks(values: Iterable[Mapping[str, Any]]) -> list[Block]:
    """Return values: those of quadrants as a matrix, those of CCDs beside each other, a list."""
    singles: list[Mapping[str, Any]] = []
    by_ccd: list[Mapping[str, Any]] = []
    by_quadrant: list[Mapping[str, Any]] = []
    for one in values:
        where = one.get("where", {})
        if one["name"] in TOLD:
            continue
        is_ccd, is_quadrant = "ccd" in where, "ccd" in where and "quadrant" in where
        (by_quadrant if is_quadrant else by_ccd if is_ccd else singles).append(one)
    blocks: list[Block] = []
    if singles:
        rows = tuple(
            (one["name"], number(one["value"], one.get("error")), one.get("unit", ""),
             ", ".join(filter(None, (place_text(one.get("where", {})), one.get("note", "")))))
            for one in singles
        )  # fmt: skip
        blocks.append(tight(TableBlock(("value", "", "unit", ""), rows, "Values")))
    for found, across, caption in (
        (by_ccd, "ccd", "Values by CCD"), (by_quadrant, "quadrant", "Values by quadrant")
    ):  # fmt: skip
        if found:
            blocks.append(_matrix(found, across, caption))
    return blocks


def _matrix(values: list[Mapping[str, Any]], across: str, caption: str) -> TableBlock:
    """Return values with a column for each CCD or quadrant; a row for what else differs."""
    heads = sorted({one["where"][across] for one in values}, key=lambda head: (str(head)))
    cells: dict[tuple[str, str, str], dict[Any, str]] = {}
    for one in values:
        rest = {key: value for key, value in one["where"].items() if key not in (across, "obsid")}
        unit = one.get("unit", "")
        name = f"{one['name']} [{unit}]" if unit else one["name"]
        ccd = f"CCD{rest.pop('ccd')}" if "ccd" in rest else ""
        row = (name, ccd, place_text(rest))
        # Two values of one place (another OBSID): both are shown.
        head, line = one["where"][across], cells.setdefault(row, {})
        text = number(one["value"], one.get("error"))
        line[head] = f"{line[head]}; {text}" if head in line else text
    if across == "quadrant":
        cells = dict(sorted(cells.items(), key=lambda item: _order(cells, item[0])))
    shown: list[tuple[str, ...]] = []
    before = ""
    for (name, ccd, rest_text), line in cells.items():
        first = name if name != before else ""
        before = name
        shown.append((first, ccd, rest_text, *(line.get(head, "-") for head in heads)))
    header = ("value", "", "", *(f"CCD{h}" if across == "ccd" else str(h) for h in heads))
    return tight(TableBlock(header, tuple(shown), caption, keys=3))


def tight(block: TableBlock) -> TableBlock:
    """Return a table without the columns that are empty."""
    kept = [i for i in range(len(block.header)) if any(row[i] for row in block.rows)]
    return replace(
        block, header=tuple(block.header[i] for i in kept),
        rows=tuple(tuple(row[i] for i in kept) for row in block.rows),
        tones={(r, kept.index(c)): tone for (r, c), tone in block.tones.items() if c in kept},
        keys=sum(1 for i in kept if i < block.keys),
    )  # fmt: skip


def _order(cells: Mapping[tuple[str, str, str], Any], row: tuple[str, str, str]) -> Any:
    """Return the key that sorts rows by the first of their name, then place, then CCD."""
    names = list(dict.fromkeys(name for name, _, _ in cells))
    rests = list(dict.fromkeys(rest for _, _, rest in cells))
    return names.index(row[0]), rests.index(row[2]), row[1]


# --- compliances and flags ---


def compliance_blocks(compliances: Iterable[Mapping[str, Any]]) -> list[Block]:
    """Return a line a metric and, of what is out of limits, the first few of each."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for one in compliances:
        groups.setdefault(one["metric"], []).append(one)
    if not groups:
        return []
    rows: list[tuple[str, ...]] = []
    tones: dict[tuple[int, int], Tone] = {}
    for metric, members in groups.items():
        failed = [one for one in members if not one["is_good"]]
        known = [one["value"] for one in members if one["value"] is not None]
        span = " … ".join(dict.fromkeys((number(min(known)), number(max(known))))) if known else "-"
        limits = sorted({_limits(one) for one in members})
        where = limits[0] if len(limits) == 1 else f"{len(limits)} different"
        tones[len(rows), 5] = "error" if failed else "good"
        rows.append(
            (metric, members[0].get("unit", ""), span, where, str(len(members)), str(len(failed)))
        )
    caption = "Within limits"
    header = ("metric", "unit", "seen", "limits", "judged", "out")
    blocks: list[Block] = [TableBlock(header, tuple(rows), caption, tones)]
    failures = [one for members in groups.values() for one in _worst(members)]
    if failures:
        blocks.append(_failures(failures, sum(int(row[5]) for row in rows)))
    return blocks


def _worst(members: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [one for one in members if not one["is_good"]][:_FAILURES]


def _limits(one: Mapping[str, Any]) -> str:
    return f"{number(one['low'])} … {number(one['high'])}"


def _failures(failures: list[Mapping[str, Any]], total: int) -> TableBlock:
    rows = tuple(
        (one["metric"], place_text(one["where"]), number(one["value"]), one.get("unit", ""),
         _limits(one), one["flag"])
        for one in failures
    )  # fmt: skip
    rest = total - len(rows)
    more = f", {rest} more in results.json" if rest else ""
    tones: dict[tuple[int, int], Tone] = {(row, 2): "error" for row in range(len(rows))}
    return TableBlock(
        ("metric", "where", "value", "unit", "limits", "flag"), rows,
        f"Out of limits: the first {_FAILURES} of each metric{more}", tones, keys=2,
    )  # fmt: skip


def flag_tone(flag: Mapping[str, Any]) -> Tone:
    """Return how a flag is coloured."""
    if flag.get("waiver"):
        return "muted"
    severity = str(flag["severity"])
    return "error" if severity == "error" else "warning" if severity == "warning" else "info"


def flag_block(flags: list[dict[str, Any]]) -> Block:
    """Return the flags, worst first: severity, causes, how often."""
    if not flags:
        return Text("No flag was raised.", "good")
    order = ("error", "warning", "info", "muted")
    rows: list[tuple[str, ...]] = []
    tones: dict[tuple[int, int], Tone] = {}
    for flag in sorted(flags, key=lambda one: order.index(flag_tone(one))):
        waiver = flag.get("waiver", "")
        tones[len(rows), 0] = tones[len(rows), 1] = flag_tone(flag)
        rows.append(
            (flag["name"], "waived" if waiver else flag["severity"], flag["subtask"],
             _causes(flag) + (f"\nWaived: {waiver}" if waiver else ""), str(flag["count"]))
        )  # fmt: skip
    return TableBlock(("flag", "severity", "sub-task", "cause", "times"), tuple(rows), "", tones)


def _causes(flag: Mapping[str, Any]) -> str:
    causes = [flag["cause"], *flag.get("others", ())]
    if flag["name"] == "POORQUALDATA":
        # Raised with others, which stand in the table, too: their names will do.
        names = list(dict.fromkeys(cause.partition(":")[0] for cause in causes))
        if all(name in FLAGS for name in names):
            return f"see {', '.join(names)}"
    shown = causes[: _OTHERS + 1]
    more = len(causes) - len(shown)
    return "\n".join([*shown, *([f"and {counted(more, 'other')}"] if more else [])])


# --- tables, figures, products ---


def table_block(folder: Path, entry: Mapping[str, Any]) -> Block:
    """Return the first rows of a table that was written as ECSV."""
    path = folder / entry["path"]
    try:
        table = _first_rows(path)
    except (OSError, ValueError, IndexError) as error:  # the last where it is empty
        return Text(f"Table {entry['name']} cannot be read: {error}", "error")
    header = tuple(
        f"{name} [{column.unit}]" if column.unit else name for name, column in table.columns.items()
    )
    caption = entry.get("caption") or entry["name"]
    count = max(int(entry.get("rows", 0)), len(table))
    if count > _TABLE_ROWS:
        table = table[: _TABLE_ROWS // 2]
        caption += f" ({len(table)} of {count} rows; all in {entry['path']})"
    rows = tuple(tuple(cell(value) for value in row) for row in table)
    keys = len(list(itertools.takewhile(lambda name: name in _KEYS, table.colnames)))
    return TableBlock(header, rows, caption, keys=keys)


def _first_rows(path: Path) -> Any:
    """Return the table; of a long one its first rows only, read without the others."""
    from astropy.table import Table

    lines: list[str] = []
    body = 0
    with open(path, encoding="utf-8") as file:
        for line in file:
            lines.append(line)
            body += not line.startswith("#")
            if body > _TABLE_ROWS + 1:
                break
    try:
        return Table.read(lines, format="ascii.ecsv")
    except ValueError:  # a text of several lines was cut
        return Table.read(path, format="ascii.ecsv")


def picture_blocks(folder: Path, figures: Iterable[Mapping[str, Any]]) -> list[Block]:
    """Return the figures; those that are not there are told."""
    blocks: list[Block] = []
    for entry in figures:
        path = folder / entry["path"]
        if path.is_file():
            blocks.append(Picture(path, entry.get("caption") or entry["name"]))
        else:
            blocks.append(Text(f"Figure {entry['name']} is missing: {entry['path']}", "error"))
    return blocks


def product_blocks(folder: Path, document: Mapping[str, Any]) -> list[Block]:
    """Return the images and documents that a sub-task left."""
    rows: list[tuple[str, ...]] = []
    tones: dict[tuple[int, int], Tone] = {}
    for entry in [*document.get("images", []), *document.get("documents", [])]:
        planes = ", ".join(
            f"{name} {'x'.join(map(str, shape))}"
            for name, shape in entry.get("planes", {}).items()
        )
        if not (folder / entry["path"]).exists():
            tones[len(rows), 2] = "error"
            planes = "missing"
        rows.append((entry["path"], entry.get("caption") or entry["name"], planes))
    return [TableBlock(("file", "", ""), tuple(rows), "Products", tones)] if rows else []


def subtask_section(attempt: Path, document: Mapping[str, Any]) -> Section:
    """Return the section of a sub-task."""
    blocks: list[Block] = [Text(note) for note in document.get("notes", [])]
    blocks += value_blocks(document.get("values", []))
    blocks += [
        table_block(attempt, entry)
        for entry in document.get("tables", []) if entry.get("show", True) and entry.get("rows", 1)
    ]  # fmt: skip
    blocks += picture_blocks(attempt, document.get("figures", []))
    blocks += product_blocks(attempt, document)
    return Section(
        document.get("title") or document["subtask"], tuple(blocks or [Text("Nothing to report.")])
    )


# --- files ---


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
    if not isinstance(document, dict):
        raise StorageError(f"cannot read {path}: it holds no object", path=str(path))
    return document


def subtask_documents(attempt: Path, order: Iterable[str] = ()) -> list[dict[str, Any]]:
    """Return what the sub-tasks of an attempt found: in the given order, others behind."""
    found = {path.stem: path for path in sorted((attempt / "subtasks").glob("*.json"))}
    names = [name for name in order if name in found]
    names += [name for name in found if name not in names]
    return [read_json(found[name]) for name in names]
