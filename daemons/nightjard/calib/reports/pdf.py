# SPDX-License-Identifier: BSD-3-Clause
"""A report as PDF, by reportlab; the same content gives the same bytes."""

from __future__ import annotations

import io
from typing import Any

from nightjard.calib.reports.blocks import Block, Picture, Report, Section, TableBlock, Text
from nightjard.calib.reports.pdf_table import TONES, TableMaker, marked_up

_MARGIN_MM = 15
_PICTURE_MM = 240  # the tallest that fits with its caption
_POINTS_PER_PIXEL = 0.75


def pdf_bytes(report: Report) -> bytes:
    """Return the report as a PDF document.

    Reportlab is told to leave out dates and random identifiers (``invariant``).
    """
    from reportlab import rl_config
    from reportlab.lib.pagesizes import A4
    from reportlab.lib.units import mm
    from reportlab.platypus import SimpleDocTemplate

    # Pictures as bytes, not as text: a fifth smaller, and no Python loop over them.
    rl_config.useA85 = 0

    class Document(SimpleDocTemplate):  # type: ignore[misc]  # reportlab has no types
        """Puts headings into the outline."""

        def afterFlowable(self, flowable: Any) -> None:  # noqa: N802 - reportlab's name
            key = getattr(flowable, "outline_key", None)
            if key is not None:
                self.canv.bookmarkPage(key)
                self.canv.addOutlineEntry(flowable.getPlainText(), key, 0, closed=True)

    def number_page(canvas: Any, _document: Any) -> None:
        canvas.saveState()
        canvas.setFont("Helvetica", 7.5)
        canvas.setFillGray(0.4)
        side, foot = _MARGIN_MM * mm, 9 * mm
        canvas.drawString(side, foot, f"{report.title}   {report.subtitle}"[:110])
        canvas.drawRightString(A4[0] - side, foot, str(canvas.getPageNumber()))
        canvas.restoreState()

    data = io.BytesIO()
    document = Document(
        data, pagesize=A4, leftMargin=_MARGIN_MM * mm, rightMargin=_MARGIN_MM * mm,
        topMargin=14 * mm, bottomMargin=16 * mm, title=report.title, author="nightjar",
        subject=report.subtitle, invariant=1,
    )  # fmt: skip
    # 12 points less: the frame of a page has that padding.
    story = _Maker(document.width - 12).story(report)
    document.build(story, onFirstPage=number_page, onLaterPages=number_page)
    return data.getvalue()


class _Maker:
    """Makes the flowables of a report of one width (points)."""

    def __init__(self, width: float) -> None:
        from reportlab.lib.colors import HexColor
        from reportlab.lib.styles import ParagraphStyle

        self.width = width
        base = ParagraphStyle("base", fontName="Helvetica", fontSize=9, leading=12)
        bold = ParagraphStyle("bold", parent=base, fontName="Helvetica-Bold")
        self._styles = {
            "title": ParagraphStyle("title", parent=bold, fontSize=18, leading=22),
            "subtitle": ParagraphStyle("subtitle", parent=base, textColor="#555555", spaceAfter=6),
            "heading": ParagraphStyle(
                "heading", parent=bold, fontSize=12.5, leading=16, spaceBefore=14, spaceAfter=4,
                keepWithNext=1,
            ),
            "caption": ParagraphStyle(
                "caption", parent=base, fontSize=8, leading=10, textColor="#444444", spaceAfter=8
            ),
            **{
                tone: ParagraphStyle(tone, parent=base, textColor=ink, spaceAfter=4)
                for tone, (ink, _) in TONES.items()
            },
            **{
                f"verdict {tone}": ParagraphStyle(
                    f"verdict {tone}", parent=bold, fontSize=10, leading=13, textColor=ink,
                    backColor=HexColor(paper or "#ffffff"), borderPadding=(4, 6, 5, 6),
                    leftIndent=6, rightIndent=6, spaceBefore=4, spaceAfter=10,
                )
                for tone, (ink, paper) in TONES.items()
            },
        }  # fmt: skip
        self._tables = TableMaker(width)

    def story(self, report: Report) -> list[Any]:
        """Return the flowables of the whole report."""
        from reportlab.platypus import Spacer

        facts = TableBlock(("", ""), report.facts, has_header=False)
        story = [
            self._text(report.title, "title"), self._text(report.subtitle, "subtitle"),
            Spacer(1, 2), self._text(report.verdict, f"verdict {report.tone}"),
            *self._tables.flowables(facts),
        ]  # fmt: skip
        for number, section in enumerate(report.sections, start=1):
            story += self._section(number, section)
        return story

    def _section(self, number: int, section: Section) -> list[Any]:
        heading = self._text(section.title, "heading")
        heading.outline_key = f"s{number}"
        return [heading, *(part for block in section.blocks for part in self._block(block))]

    def _text(self, text: str, style: str) -> Any:
        from reportlab.platypus import Paragraph

        return Paragraph(marked_up(text), self._styles[style])

    def _block(self, block: Block) -> list[Any]:
        if isinstance(block, Text):
            return [self._text(block.text, block.tone)]
        if isinstance(block, Picture):
            return self._picture(block)
        return self._tables.flowables(block)

    def _picture(self, picture: Picture) -> list[Any]:
        from PIL import Image as Pillow
        from reportlab.lib.units import mm
        from reportlab.platypus import Image, KeepTogether

        try:
            with Pillow.open(picture.path) as opened:
                opened.load()  # a file that is cut short shows here, not while pages are made
                width, height = opened.size
        except (OSError, SyntaxError, ValueError) as error:
            return [self._text(f"{picture.path.name} cannot be read: {error}", "error")]
        scale = min(self.width / width, _PICTURE_MM * mm / height, _POINTS_PER_PIXEL)
        image = Image(str(picture.path), width * scale, height * scale)
        image.hAlign = "LEFT"
        return [KeepTogether([image, self._text(picture.caption, "caption")])]
