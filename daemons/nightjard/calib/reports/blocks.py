# SPDX-License-Identifier: BSD-3-Clause
"""What reports are made of, before they are PDF or HTML: sections of texts, tables, pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Tone = Literal["plain", "good", "info", "warning", "error", "muted"]


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    tone: Tone = "plain"


@dataclass(frozen=True)
class TableBlock:
    """A table of texts.

    Attributes
    ----------
    caption
        Stands above it.
    tones
        (row, column) -> how that cell is coloured.
    keys
        So many columns say what a row is; where a table is too wide for a page and is parted,
        each part begins with them.
    has_header
        `header` is shown; else it only counts the columns.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    tones: Mapping[tuple[int, int], Tone] = field(default_factory=dict, hash=False)
    keys: int = 1
    has_header: bool = True


@dataclass(frozen=True)
class Picture:
    """A picture file."""

    path: Path
    caption: str = ""


Block = Text | TableBlock | Picture


@dataclass(frozen=True)
class Section:
    """A title and what stands under it.

    Attributes
    ----------
    is_aside
        For those who look closer: folded on the page.
    """

    title: str
    blocks: tuple[Block, ...]
    is_aside: bool = False


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
    tone: Tone
    sections: tuple[Section, ...] = ()
