# SPDX-License-Identifier: BSD-3-Clause
"""A report as one HTML page; pictures are linked beside it, nothing is fetched from elsewhere."""

from __future__ import annotations

import os
from html import escape
from pathlib import Path

from nightjard.calib.reports.content import Block, Picture, Report, Section, TableBlock, Text

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:0 auto;max-width:72rem;padding:1.5rem;color:#1b1b1b;
background:#fff}
h1{margin:0;font-size:1.9rem} h2{margin-top:2.2rem;border-bottom:1px solid #c5cbd3}
.sub{color:#555;margin:.1rem 0 1rem} .good{color:#1d6b2f} .warning{color:#8a5a00}
.error{color:#a11616} .verdict{font-weight:600}
table{border-collapse:collapse;font-size:.86rem;margin:.4rem 0 .1rem;display:block;overflow-x:auto}
td,th{border:1px solid #c5cbd3;padding:.15rem .5rem;text-align:left;vertical-align:top;
font-variant-numeric:tabular-nums}
th{background:#e9edf2} td.bad{background:#f9d9d6} .cap{color:#555;font-size:.85rem;margin:0 0 1rem}
img{max-width:100%;height:auto} nav a{margin-right:1rem}
@media (prefers-color-scheme:dark){body{background:#16181c;color:#e4e6ea} th{background:#2a2e35}
td,th{border-color:#454b55} .sub,.cap{color:#a9afb9} td.bad{background:#6b2420}
.good{color:#7fd08f} .warning{color:#e5b865} .error{color:#f19a92} a{color:#8ab8ff}
img{background:#fff}}
"""


def page_text(report: Report, folder: Path) -> str:
    """Return the page; paths of pictures are relative to the folder it will lie in."""
    links = "".join(
        f'<a href="#s{number}">{escape(section.title)}</a>'
        for number, section in enumerate(report.sections, start=1)
    )
    facts = TableBlock(("", ""), report.facts)
    body = "".join(
        _section(number, section, folder)
        for number, section in enumerate(report.sections, start=1)
    )
    return (
        "<!DOCTYPE html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(report.title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><h1>{escape(report.title)}</h1>"
        f'<p class="sub">{escape(report.subtitle)}</p>'
        f'<p class="verdict {report.tone}">{escape(report.verdict)}</p>'
        f"{_table(facts, folder, has_header=False)}<nav>{links}</nav>{body}</body></html>\n"
    )


def _section(number: int, section: Section, folder: Path) -> str:
    blocks = "".join(_block(block, folder) for block in section.blocks)
    return f'<h2 id="s{number}">{escape(section.title)}</h2>{blocks}'


def _block(block: Block, folder: Path) -> str:
    if isinstance(block, Text):
        text = escape(block.text).replace("\n", "<br>")
        return f'<p class="{block.tone}">{text}</p>'
    if isinstance(block, Picture):
        source = escape(os.path.relpath(block.path, folder), quote=True)
        caption = escape(block.caption)
        return (
            f'<figure><img loading="lazy" src="{source}" alt="{escape(block.caption, quote=True)}">'
            f'<figcaption class="cap">{caption}</figcaption></figure>'
        )
    return _table(block, folder)


def _table(block: TableBlock, folder: Path, *, has_header: bool = True) -> str:
    if not block.rows:
        return ""
    head = ""
    if has_header:
        head = "<tr>" + "".join(f"<th>{escape(text)}</th>" for text in block.header) + "</tr>"
    rows = []
    for r, row in enumerate(block.rows):
        cells = "".join(
            f'<td class="bad">{_linked(text, folder)}</td>' if (r, c) in block.bad
            else f"<td>{_linked(text, folder)}</td>"
            for c, text in enumerate(row)
        )  # fmt: skip
        rows.append(f"<tr>{cells}</tr>")
    caption = f'<p class="cap">{escape(block.caption)}</p>' if block.caption else ""
    return f"<table>{head}{''.join(rows)}</table>{caption}"


def _linked(text: str, folder: Path) -> str:
    """Return a cell; the name of a report that lies below the folder becomes a link to it."""
    if text.endswith((".html", ".pdf")) and (folder / text).exists():
        target = escape(text, quote=True)
        return f'<a href="{target}">{escape(text.rsplit("/", 1)[-1])}</a>'
    return escape(text)
