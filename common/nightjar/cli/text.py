# SPDX-License-Identifier: BSD-3-Clause
"""Tables, sizes, colours and other texts for people: pure functions, nothing is printed here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

INDENT = "   "
STATE_COLORS = {
    "OFFLINE": "red", "INITIALIZING": "red", "ABORTING": "red", "CLOSING": "red", "FAULT": "red",
    "FAILED": "red", "WAITING": "yellow", "READING": "yellow", "DRAINING": "yellow",
    "STOPPING": "yellow", "DEGRADED": "yellow", "STANDBY": "yellow", "EXPOSING": "green",
    "BUSY": "green", "READY": "green", "OK": "green", "STREAMING": "green",
    "CONFIGURING": "yellow",
}  # fmt: skip
SEVERITY_COLORS = {"warning": "yellow", "error": "red"}


class Paint(Protocol):
    """Puts colour on a text, or returns it as it is."""

    def __call__(self, text: str, color: str | None = None, *, bold: bool = False) -> str:
        """Return the text."""
        ...


def no_paint(text: str, color: str | None = None, *, bold: bool = False) -> str:
    """Return the text as it is."""
    return text


def table(
    headings: Sequence[str], rows: Iterable[Sequence[Any]], right: Iterable[int] = ()
) -> list[str]:
    """Return rows in columns wide enough for their longest cell; never cut, never wrapped.

    Parameters
    ----------
    headings, rows
        Texts; None is shown as ``-``.
    right
        Columns that are set flush right.
    """
    cells = [list(headings)]
    cells += [["-" if cell is None else str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    flush_right = set(right)
    lines = []
    for row in cells:
        parts = [
            cell.rjust(width) if column in flush_right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(parts).rstrip())
    return lines


def size_text(size: float) -> str:
    """Return bytes as people say them: ``123.3 MB``."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def clock_text(iso_time: str | None) -> str:
    """Return an ISO time with whole seconds and a space: ``2026-01-31 23:59:59``."""
    return (iso_time or "never")[:19].replace("T", " ")


def health_lines(status: Mapping[str, Any], paint: Paint = no_paint) -> list[str]:
    """Return a line on health where it is not OK, not indented."""
    health = status.get("health") or {}
    level = str(health.get("level", "OK"))
    if level == "OK":
        return []
    return [f"Health is {paint(level, STATE_COLORS.get(level), bold=True)}: {health['reason']}"]


def plain_lines(status: Mapping[str, Any]) -> list[str]:
    """Return any snapshot as ``key: value`` lines: for a daemon whose face is not known here."""
    width = max((len(key) for key in status), default=0)
    return [f"{INDENT}{key.ljust(width)}  {value}" for key, value in status.items()]
