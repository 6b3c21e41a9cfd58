# SPDX-License-Identifier: BSD-3-Clause
"""A report as PDF, by reportlab; the same content gives the same bytes."""

from __future__ import annotations

import io
from typing import Any
from xml.sax.saxutils import escape

from nightjard.calib.reports.content import Block, Picture, Report, TableBlock, Text

_TONES = {"plain": "#1b1b1b", "good": "#1d6b2f", "warning": "#8a5a00", "error": "#a11616"}
_GRID, _HEAD, _BAD = "#c5cbd3", "#e9edf2", "#f9d9d6"
_CELLS_WIDE = 9  # wider tables go in smaller type


def pdf_bytes(report: Report) -> bytes:
    """Return the report as a PDF document.

    Reportlab is told to leave out dates and random identifiers (``invariant``).
    """
    from reportlab.lib.pagesizes import A4
    from reportlab.lib.units import mm
    from reportlab.platypus import SimpleDocTemplate

    data = io.BytesIO()
    document = SimpleDocTemplate(
        data, pagesize=A4, leftMargin=16 * mm, rightMargin=16 * mm, topMargin=16 * mm,
        bottomMargin=18 * mm, title=report.title, author="nightjar", subject=report.subtitle,
        invariant=1,
    )  # fmt: skip
    maker = _Maker(document.width)

    def number_page(canvas: Any, _document: Any) -> None:
        canvas.saveState()
        canvas.setFont("Helvetica", 7.5)
        canvas.setFillGray(0.4)
        canvas.drawString(16 * mm, 10 * mm, f"{report.title}   {report.subtitle}")
        canvas.drawRightString(A4[0] - 16 * mm, 10 * mm, str(canvas.getPageNumber()))
        canvas.restoreState()

    document.build(maker.story(report), onFirstPage=number_page, onLaterPages=number_page)
    return data.getvalue()


class _Maker:
    """Makes the flowables of a report of one width (points)."""

    def __init__(self, width: float) -> None:
        from reportlab.lib.styles import ParagraphStyle

        self.width = width
        base = ParagraphStyle("base", fontName="Helvetica", fontSize=9, leading=12)
        self._styles = {
            "title": ParagraphStyle(
                "title", parent=base, fontName="Helvetica-Bold", fontSize=18, leading=22
            ),
            "subtitle": ParagraphStyle("subtitle", parent=base, textColor="#555555", spaceAfter=6),
            "heading": ParagraphStyle(
                "heading", parent=base, fontName="Helvetica-Bold", fontSize=12.5, leading=16,
                spaceBefore=12, spaceAfter=4,
            ),
            "caption": ParagraphStyle(
                "caption", parent=base, fontSize=8, leading=10, textColor="#444444", spaceAfter=8
            ),
            **{
                tone: ParagraphStyle(tone, parent=base, textColor=color, spaceAfter=4)
                for tone, color in _TONES.items()
            },
        }  # fmt: skip

    def story(self, report: Report) -> list[Any]:
        """Return the flowables of the whole report."""
        from reportlab.platypus import Spacer

        story = [
            self._text(report.title, "title"), self._text(report.subtitle, "subtitle"),
            self._text(report.verdict, report.tone), Spacer(1, 4),
            *self._table(TableBlock(("", ""), report.facts), has_header=False),
        ]  # fmt: skip
        for section in report.sections:
            story.append(self._text(section.title, "heading"))
            for block in section.blocks:
                story += self._block(block)
        return story

    def _text(self, text: str, style: str) -> Any:
        from reportlab.platypus import Paragraph

        return Paragraph(escape(text).replace("\n", "<br/>"), self._styles[style])

    def _block(self, block: Block) -> list[Any]:
        if isinstance(block, Text):
            return [self._text(block.text, block.tone)]
        if isinstance(block, Picture):
            return self._picture(block)
        return self._table(block)

    def _picture(self, picture: Picture) -> list[Any]:
        from reportlab.lib.units import mm
        from reportlab.lib.utils import ImageReader
        from reportlab.platypus import Image, KeepTogether

        try:
            width, height = ImageReader(str(picture.path)).getSize()
        except OSError as error:
            return [self._text(f"{picture.path.name} cannot be read: {error}", "error")]
        scale = min(self.width / width, 225 * mm / height, 0.75)
        image = Image(str(picture.path), width * scale, height * scale)
        return [KeepTogether([image, self._text(picture.caption, "caption")])]

    def _table(self, block: TableBlock, *, has_header: bool = True) -> list[Any]:
        from reportlab.lib import colors
        from reportlab.lib.styles import ParagraphStyle
        from reportlab.platypus import Paragraph, Table, TableStyle

        if not block.rows:
            return []
        columns = len(block.header)
        size = 8 if columns <= _CELLS_WIDE else max(3.6, 8 * _CELLS_WIDE / columns)
        cell = ParagraphStyle(
            "cell", fontName="Helvetica", fontSize=size, leading=size * 1.2, splitLongWords=1
        )
        lines = [block.header, *block.rows] if has_header else list(block.rows)
        body = [[Paragraph(escape(text), cell) for text in row] for row in lines]
        widths = _widths([*lines], self.width)
        first = 1 if has_header else 0
        style = [
            ("GRID", (0, 0), (-1, -1), 0.4, colors.HexColor(_GRID)),
            ("VALIGN", (0, 0), (-1, -1), "TOP"),
            ("TOPPADDING", (0, 0), (-1, -1), 1.5), ("BOTTOMPADDING", (0, 0), (-1, -1), 2),
            ("LEFTPADDING", (0, 0), (-1, -1), 3), ("RIGHTPADDING", (0, 0), (-1, -1), 3),
        ]  # fmt: skip
        if has_header:
            style.append(("BACKGROUND", (0, 0), (-1, 0), colors.HexColor(_HEAD)))
        style += [
            ("BACKGROUND", (column, row + first), (column, row + first), colors.HexColor(_BAD))
            for row, column in sorted(block.bad)
        ]
        table = Table(body, colWidths=widths, repeatRows=first, style=TableStyle(style))
        table.hAlign = "LEFT"
        return [table, self._text(block.caption, "caption")]


def _widths(lines: list[tuple[str, ...]], whole: float) -> list[float]:
    """Return column widths, points: by the longest text, no column more than it needs."""
    count = len(lines[0])
    needs = [
        min(max(len(row[column]) for row in lines if column < len(row)) + 2, 60)
        for column in range(count)
    ]
    total = sum(needs)
    natural = total * 4.6
    return [need / total * min(whole, max(natural, whole * 0.35)) for need in needs]
