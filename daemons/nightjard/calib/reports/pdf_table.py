# SPDX-License-Identifier: BSD-3-Clause
"""Tables of a PDF report: columns as wide as they need, wide tables parted, every cell in colour.

Type is made smaller before a table is parted. Texts are set in Helvetica, which every reader has;
what it cannot show (Greek, arrows) is set in the DejaVu Sans that matplotlib brings along.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from nightjard.calib.reports.blocks import TableBlock
from nightjard.calib.reports.words import cleaned, shortened

#: Ink and paper of each tone.
TONES: dict[str, tuple[str, str | None]] = {
    "plain": ("#1b1b1b", None), "good": ("#1d6b2f", "#dff2e1"), "info": ("#1f4f86", "#dde8f6"),
    "warning": ("#8a5a00", "#fdeac8"), "error": ("#a11616", "#f9d9d6"), "muted": ("#666666", None),
}  # fmt: skip
_GRID, _HEAD = "#c5cbd3", "#e9edf2"
_SIZES = (8.0, 7.0, 6.2)
_PADDING = 7.0  # left and right of a cell, and something to spare
_LONGEST_PART = 0.5  # of the width: a column of texts is not wider where others need room
_FALLBACK = "NightjarDejaVu"


def marked_up(text: str) -> str:
    """Return a text as reportlab's markup, in fonts that have its characters."""
    runs = []
    for is_plain, group in itertools.groupby(cleaned(text), _is_in_helvetica):
        part = escape("".join(group))
        font = None if is_plain else fallback_font()
        runs.append(part if font is None else f'<font name="{font}">{part}</font>')
    return "".join(runs).replace("\n", "<br/>")


@functools.cache
def _is_in_helvetica(character: str) -> bool:
    if character == "\n":
        return True
    try:
        character.encode("cp1252")
    except UnicodeEncodeError:
        return False
    return True


@functools.cache
def fallback_font() -> str | None:
    """Return the name of a font with more characters; None where there is none."""
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.ttfonts import TTFError, TTFont

    found = importlib.util.find_spec("matplotlib")
    for folder in (found.submodule_search_locations or ()) if found is not None else ():
        path = Path(folder) / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if path.is_file():
            try:
                pdfmetrics.registerFont(TTFont(_FALLBACK, str(path)))
            except (TTFError, OSError):
                return None
            return _FALLBACK
    return None


class TableMaker:
    """Makes tables of one width (points)."""

    def __init__(self, width: float) -> None:
        from reportlab.lib.styles import ParagraphStyle

        self.width = width
        self._caption = ParagraphStyle(
            "table caption", fontName="Helvetica-Bold", fontSize=8, leading=10,
            textColor="#444444", spaceBefore=5, spaceAfter=2, keepWithNext=1,
        )  # fmt: skip

    def flowables(self, block: TableBlock) -> list[Any]:
        """Return a table under its caption; several where it is too wide for one."""
        from reportlab.platypus import Paragraph, Spacer

        if not block.rows:
            return []
        lines = [tuple(map(shortened, line)) for line in (block.header, *block.rows)]
        for size in _SIZES:
            least, wanted = _needs(lines, size, self.width)
            if sum(least) <= self.width:
                parts = [list(range(len(block.header)))]
                break
        else:
            parts = _parted(least, block.keys, self.width)
        story: list[Any] = []
        if block.caption:
            story.append(Paragraph(marked_up(block.caption), self._caption))
        for columns in parts:
            widths = _shared([least[c] for c in columns], [wanted[c] for c in columns], self.width)
            story += [self._table(block, lines, columns, widths, size), Spacer(1, 6)]
        return story

    def _table(
        self, block: TableBlock, lines: list[tuple[str, ...]], columns: list[int],
        widths: list[float], size: float,
    ) -> Any:  # fmt: skip
        from reportlab.lib import colors
        from reportlab.platypus import Table, TableStyle

        first = 1 if block.has_header else 0
        style: list[Any] = [
            ("GRID", (0, 0), (-1, -1), 0.4, colors.HexColor(_GRID)),
            ("VALIGN", (0, 0), (-1, -1), "TOP"),
            ("FONT", (0, 0), (-1, -1), "Helvetica", size, size * 1.2),
            ("TOPPADDING", (0, 0), (-1, -1), 1.5), ("BOTTOMPADDING", (0, 0), (-1, -1), 2),
            ("LEFTPADDING", (0, 0), (-1, -1), 3), ("RIGHTPADDING", (0, 0), (-1, -1), 3),
        ]  # fmt: skip
        if block.has_header:
            style += [("BACKGROUND", (0, 0), (-1, 0), colors.HexColor(_HEAD)),
                      ("FONT", (0, 0), (-1, 0), "Helvetica-Bold", size, size * 1.2)]  # fmt: skip
        body = []
        for row, line in enumerate(lines[1 - first :], start=-first):
            cells = []
            for place, column in enumerate(columns):
                text = line[column] if column < len(line) else ""
                tone = block.tones.get((row, column), "plain") if row >= 0 else "plain"
                ink, paper = TONES[tone]
                at = (place, row + first)
                if paper is not None:
                    style.append(("BACKGROUND", at, at, colors.HexColor(paper)))
                if tone != "plain":
                    style.append(("TEXTCOLOR", at, at, colors.HexColor(ink)))
                cells.append(_cell(text, widths[place], size, ink, is_head=row < 0))
            body.append(cells)
        table = Table(body, colWidths=widths, repeatRows=first, style=TableStyle(style))
        table.hAlign = "LEFT"
        return table


def _cell(text: str, width: float, size: float, ink: str, *, is_head: bool) -> Any:
    """Return a cell: plain where it is one line, a paragraph where it is more."""
    from reportlab.lib.styles import ParagraphStyle
    from reportlab.platypus import Paragraph

    is_plain = "\n" not in text and text == cleaned(text) and all(map(_is_in_helvetica, text))
    if is_plain and _text_width(text, size, is_head) <= width - _PADDING + 0.5:
        return text
    font = "Helvetica-Bold" if is_head else "Helvetica"
    style = ParagraphStyle(
        "cell", fontName=font, fontSize=size, leading=size * 1.2, textColor=ink, splitLongWords=1
    )
    return Paragraph(marked_up(text), style)


@functools.lru_cache(maxsize=20_000)
def _text_width(text: str, size: float, is_bold: bool = False) -> float:
    from reportlab.pdfbase.pdfmetrics import stringWidth

    plain = text.encode("cp1252", "replace").decode("cp1252")
    return float(stringWidth(plain, "Helvetica-Bold" if is_bold else "Helvetica", size))


def _needs(
    lines: list[tuple[str, ...]], size: float, whole: float
) -> tuple[list[float], list[float]]:
    """Return of each column the least width, no word of it broken, and the width of one line."""
    least, wanted = [], []
    for column in range(len(lines[0])):
        texts = {(line[column], number == 0) for number, line in enumerate(lines)
                 if column < len(line)}  # fmt: skip
        words = {(word, bold) for text, bold in texts for word in text.split()}
        parts = {(part, bold) for text, bold in texts for part in text.split("\n")}
        word = max((_text_width(text, size, bold) for text, bold in words), default=0.0)
        line = max((_text_width(text, size, bold) for text, bold in parts), default=0.0)
        # A path or a sum is a long word: it may be broken.
        least.append(min(word + _PADDING, whole * 0.3))
        wanted.append(max(line + _PADDING, least[-1]))
    return least, wanted


def _shared(least: list[float], wanted: list[float], whole: float) -> list[float]:
    """Return column widths: what they want where there is room, else room shared among them."""
    if sum(wanted) <= whole:
        return wanted
    room = whole - sum(least)
    more = [want - need for want, need in zip(wanted, least, strict=True)]
    # Short columns get their line first; what is left goes to those of long texts.
    widths = list(least)
    for index in sorted(range(len(more)), key=lambda i: more[i]):
        others = sum(1 for i in range(len(more)) if more[i] >= more[index])
        share = min(more[index], room / max(others, 1))
        if share < more[index]:
            share = min(more[index], max(share, room * _LONGEST_PART if others > 1 else room))
        widths[index] += share
        room -= share
    return widths


def _parted(least: list[float], keys: int, whole: float) -> list[list[int]]:
    """Return the columns of each part of a table that is too wide; the first ones are in all."""
    head = list(range(min(keys, len(least))))
    while head and sum(least[c] for c in head) > whole / 2:
        head.pop()
    room = whole - sum(least[c] for c in head)
    parts: list[list[int]] = []
    used = room + 1
    for column in range(len(head), len(least)):
        if used + least[column] > room:
            parts.append(list(head))
            used = 0.0
        parts[-1].append(column)
        used += least[column]
    return parts
