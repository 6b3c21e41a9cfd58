# SPDX-License-Identifier: BSD-3-Clause
"""Parts of the reference pages: Markdown, and how a daemon is called in them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

TITLES = {
    "camd": "camera daemon",
    "archived": "archive daemon",
    "obslogd": "observatory log daemon",
    "fitslogd": "FITS logger daemon",
    "streamlinkd": "stream link daemon",
    "rotd": "rotator daemon",
    "telogd": "telescope log daemon",
    "merged": "merge daemon",
    "dasd": "data acquisition daemon",
}


def cell(text: object) -> str:
    """Return text that may stand in a table: on one line, no bar of its own."""
    return " ".join(str(text).split()).replace("|", "\\|")


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Return a table."""
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    lines += ["| " + " | ".join(cell(value) for value in row) + " |" for row in rows]
    return [*lines, ""]


def code(value: object) -> str:
    """Return text set as code."""
    return f"`{value}`"


def anchor(title: str) -> str:
    """Return the fragment by which Markdown viewers reach a heading."""
    kept = re.sub(r"[^\w\- ]", "", title.lower())
    return kept.replace(" ", "-")
