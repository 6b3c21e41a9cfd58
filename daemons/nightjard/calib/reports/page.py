# SPDX-License-Identifier: BSD-3-Clause
"""A report as one HTML page; pictures are linked beside it, nothing is fetched from elsewhere."""

from __future__ import annotations

import html
import os
import urllib.parse
from pathlib import Path

from nightjard.calib.reports.blocks import Block, Picture, Report, Section, TableBlock, Text
from nightjard.calib.reports.words import cleaned

_STYLE = """
:root{--ink:#1b1b1b;--dim:#555;--line:#c5cbd3;--head:#e9edf2;--good:#1d6b2f;--good-bg:#dff2e1;
--info:#1f4f86;--info-bg:#dde8f6;--warning:#8a5a00;--warning-bg:#fdeac8;--error:#a11616;
--error-bg:#f9d9d6;--paper:#fff;--link:#1f5fa8}
@media (prefers-color-scheme:dark){:root{--ink:#e4e6ea;--dim:#a9afb9;--line:#454b55;--head:#2a2e35;
--good:#7fd08f;--good-bg:#1d3a25;--info:#9cc3f2;--info-bg:#1e3350;--warning:#e5b865;
--warning-bg:#46350f;--error:#f19a92;--error-bg:#5a221d;--paper:#16181c;--link:#8ab8ff}
img{background:#fff}}
body{font:15px/1.5 system-ui,sans-serif;margin:0 auto;max-width:76rem;padding:1.5rem;
color:var(--ink);background:var(--paper)} a{color:var(--link)}
h1{margin:0;font-size:1.9rem} h2{margin-top:2.2rem;border-bottom:1px solid var(--line)}
.sub{color:var(--dim);margin:.1rem 0 1rem}
p.good{color:var(--good)} p.info{color:var(--info)} p.warning{color:var(--warning)}
p.error{color:var(--error)} .muted{color:var(--dim)}
p.verdict{font-weight:600;font-size:1.05rem;padding:.5rem .8rem;border-left:6px solid;
border-radius:3px}
.verdict.good,td.good{background:var(--good-bg);color:var(--good)}
.verdict.info,td.info{background:var(--info-bg);color:var(--info)}
.verdict.warning,td.warning{background:var(--warning-bg);color:var(--warning)}
.verdict.error,td.error{background:var(--error-bg);color:var(--error)}
.table{overflow-x:auto;margin:.2rem 0 1.1rem}
table{border-collapse:collapse;font-size:.86rem}
td,th{border:1px solid var(--line);padding:.15rem .5rem;text-align:left;vertical-align:top;
font-variant-numeric:tabular-nums;overflow-wrap:anywhere;min-width:2rem}
th{background:var(--head)} .facts td:first-child{color:var(--dim)}
.cap{color:var(--dim);font-size:.88rem;margin:.9rem 0 .2rem;font-weight:600}
figure{margin:1rem 0} figure img{max-width:100%;height:auto}
nav{position:sticky;top:0;background:var(--paper);padding:.4rem 0;z-index:1;
border-bottom:1px solid var(--line)} nav a{margin-right:1rem;white-space:nowrap}
h2,summary{scroll-margin-top:3rem} summary{cursor:pointer;font-size:1.5rem;font-weight:700;
margin-top:2.2rem}
@media print{nav{position:static} details>*{display:block}}
"""


def page_text(report: Report, folder: Path) -> str:
    """Return the page; paths of pictures are relative to the folder it will lie in."""
    links = "".join(
        f'<a href="#s{number}">{escape(section.title)}</a>'
        for number, section in enumerate(report.sections, start=1)
    )
    facts = TableBlock(("", ""), report.facts, has_header=False)
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
        f'<p class="verdict {report.tone}">{_lines(report.verdict)}</p>'
        f'<div class="facts">{_table(facts, folder)}</div><nav>{links}</nav>{body}</body></html>\n'
    )


def escape(text: str) -> str:
    """Return a text that is safe within an element or an attribute, and in UTF-8."""
    return html.escape(cleaned(text), quote=True)


def _lines(text: str) -> str:
    return escape(text).replace("\n", "<br>")


def _section(number: int, section: Section, folder: Path) -> str:
    blocks = "".join(_block(block, folder) for block in section.blocks)
    title = escape(section.title)
    if section.is_aside:
        return f'<details><summary id="s{number}">{title}</summary>{blocks}</details>'
    return f'<h2 id="s{number}">{title}</h2>{blocks}'


def _block(block: Block, folder: Path) -> str:
    if isinstance(block, Text):
        return f'<p class="{block.tone}">{_lines(block.text)}</p>'
    if isinstance(block, Picture):
        source = _url(os.path.relpath(block.path, folder))
        caption = escape(block.caption)
        return (
            f'<figure><a href="{source}"><img loading="lazy" src="{source}" alt="{caption}"></a>'
            f'<figcaption class="cap">{caption}</figcaption></figure>'
        )
    return _table(block, folder)


def _url(path: str) -> str:
    """Return a relative address: what is special in one is quoted."""
    return html.escape(urllib.parse.quote(path.encode("utf-8", "surrogateescape")), quote=True)


def _table(block: TableBlock, folder: Path) -> str:
    if not block.rows:
        return ""
    head = ""
    if block.has_header:
        head = "<tr>" + "".join(f"<th>{escape(text)}</th>" for text in block.header) + "</tr>"
    rows = []
    for r, row in enumerate(block.rows):
        cells = []
        for c, text in enumerate(row):
            tone = block.tones.get((r, c))
            kind = f' class="{tone}"' if tone else ""
            cells.append(f"<td{kind}>{_linked(text, folder)}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    caption = f'<p class="cap">{escape(block.caption)}</p>' if block.caption else ""
    return f'{caption}<div class="table"><table>{head}{"".join(rows)}</table></div>'


def _linked(text: str, folder: Path) -> str:
    """Return a cell; the name of a file that lies below the folder becomes a link to it."""
    path = text.replace("\\", "/")
    if (
        "/" in path and not path.startswith("/") and ".." not in path.split("/")
        and "\x00" not in path and len(path) < 200 and (folder / path).is_file()
    ):  # fmt: skip
        shown = path.rsplit("/", 1)[-1]
        if shown.endswith(("_report.html", "_report.pdf")):
            shown = shown.rpartition(".")[2]
        return f'<a href="{_url(path)}">{escape(shown)}</a>'
    return _lines(text)
