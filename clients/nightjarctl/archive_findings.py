# SPDX-License-Identifier: BSD-3-Clause
"""What was found out about nights, as lines of text: checks, stories, forecasts."""

from __future__ import annotations

from typing import Any

from nightjarctl import render
from nightjarctl.archive_tables import (
    Row,
    omitted_lines,
    rate_text,
    size_text,
    state_word,
    story_lines,
)


def verify_lines(done: Row, *, is_dry: bool = False) -> list[str]:
    """Return what reading the products again showed, or a look at their names and sizes."""
    lines = [f"{row['path']}: {row['problem']}" for row in done["bad"]] + omitted_lines(done)
    if is_dry:
        bad = len(done["bad"]) + done["omitted"]
        word = "all there, of the right size" if done["is_good"] else f"{bad} are not as written"
        return [*lines, f"would read {done['files']} files, {size_text(done['bytes'])}: {word}"]
    rate = rate_text(None, done["bytes"] / done["seconds"]) if done["seconds"] else ""
    bad = len(done["bad"]) + done["omitted"]
    word = "all as they were written" if done["is_good"] else f"{bad} not as written"
    end = f" ({rate})" if rate else ""
    return [*lines, f"{done['files']} files, {size_text(done['bytes'])}: {word}{end}"]


def id_lines(found: Row, *, is_change: bool) -> list[str]:
    """Return how the frame IDs of a night are, and what was changed."""
    rows = [(row["path"], row["frame_id"], row["problem"]) for row in found["problems"]]
    lines = render.table(("file", "frame ID", "problem"), rows) if rows else []
    if is_change:
        lines += [f"{row['old']} -> {row['new']}  {row['path']}" for row in found["changes"]]
    lines += omitted_lines(found)
    word = "all right" if found["is_good"] else f"{len(rows)} problems"
    return [*lines, f"{found['ids']} of {found['files']} files have an ID: {word}"]


def header_lines(found: Row, *, is_change: bool) -> list[str]:
    """Return what is wrong with headers, and what was changed."""
    rows = [
        (row["path"], row["keyword"], row["problem"], row["value"], row["text"])
        for row in found["findings"]
    ]
    headings = ("file", "keyword", "problem", "value", "")
    lines = render.table(headings, rows) if rows else []
    if is_change:
        lines += [f"{row['path']}: {row['keyword']} {row['old']} -> {row['new']}"
                  for row in found["changes"]]  # fmt: skip
    lines += omitted_lines(found)
    word = "all as the dictionary wants them" if found["is_good"] else f"{len(rows)} findings"
    return [*lines, f"{found['files']} files: {word}"]


def ingest_lines(found: Row, *, is_dry: bool) -> list[str]:
    """Return what the observatory's archive took, and what it did not."""
    lines: list[str] = []
    for row in found["nights"]:
        lines.append(
            f"Night {row['night']} ({row['family']}): {row['confirmed']} of {row['files']} files "
            f"confirmed, {row['new']} of them {'would be new' if is_dry else 'new'}"
        )
        lines += [f"{name} is missing" for name in row["missing"]]
    lines += [f"{name} is not ours" for name in found["unknown"]]
    return lines + omitted_lines(found)


def why_lines(found: Row) -> list[str]:
    """Return the story of a frame or product."""
    width = max((len(name) for name in found["facts"]), default=0)
    lines = [f"{found['frame']} ({found['kind']}, night {found['night']}, {found['family']})",
             str(found["verdict"])]  # fmt: skip
    for name, value in found["facts"].items():
        lines.append(f"{render.INDENT}{name.ljust(width)}  {_fact_text(value)}")
    lines += [
        f"{render.INDENT}copy at {copy['destination']} ({copy['host']}): {copy['path']} "
        f"{copy['state']}, {render.clock_text(copy['verified'])}" for copy in found["copies"]
    ]  # fmt: skip
    return lines + story_lines(found["story"])


def _fact_text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "-" if value is None else str(value)


def doctor_lines(found: Row, paint: render.Paint) -> list[str]:
    """Return what works and what does not, with advice."""
    rows = [(check["level"], check["name"], check["text"]) for check in found["checks"]]
    width = max((len(row[1]) for row in rows), default=0)
    lines = []
    for row, check in zip(rows, found["checks"], strict=True):
        word = state_word(row[0], paint) + " " * (9 - len(row[0]))
        lines.append(f"{word}{row[1].ljust(width)}  {row[2]}")
        if check["advice"]:
            lines.append(f"{' ' * (11 + width)}{check['advice']}")
    return lines


def forecast_lines(found: Row) -> list[str]:
    """Return when disks will be full."""
    rows = [
        (disk["path"], ", ".join(disk["families"]), size_text(disk["free_bytes"]),
         size_text(disk["bytes_per_night"]),
         None if disk["nights_left"] is None else f"{disk['nights_left']:.0f}", disk["full"])
        for disk in found["disks"]
    ]  # fmt: skip
    headings = ("disk", "families", "free", "per night", "nights left", "full")
    lines = render.table(headings, rows, right=(2, 3, 4))
    return lines + [
        f"{row['night']} ({row['family']}): {size_text(row['bytes'])} may go from "
        f"{render.clock_text(row['when'])}" for row in found["releasable"]
    ]  # fmt: skip
