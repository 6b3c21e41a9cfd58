# SPDX-License-Identifier: BSD-3-Clause
"""An attempt's folder as analyses and engine leave it, and readers of the reports on it."""

from __future__ import annotations

import io
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from pypdf import PdfReader

from nightjard.calib.reports import write_test_report
from nightjard.calib.results import Results

TEST = "PTC01"
STEPS = {"init": "Inputs and data ingestion", "check": "Data validation", "meta": "Gains"}


class Page(HTMLParser):
    """Reads a page: its text by element, its links; every element must be closed in order."""

    VOID = ("meta", "img", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[tuple[str, str, str]] = []
        self.links: list[str] = []
        self._tones: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.links += [str(given[key]) for key in ("src", "href") if given.get(key)]
        if tag not in self.VOID:
            self.open.append(tag)
            self._tones.append(given.get("class") or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self._tones.pop()

    def handle_data(self, data: str) -> None:
        tag, tone = (self.open[-1], self._tones[-1]) if self.open else ("", "")
        self.texts.append((tag, tone, data))

    @property
    def text(self) -> str:
        """All text that is shown."""
        return " ".join(data for tag, _, data in self.texts if tag != "style")

    def tone_of(self, text: str) -> str:
        """Return the class of the element that holds a text."""
        return next(tone for _, tone, data in self.texts if data == text)


def pdf_text(source: Path | bytes) -> tuple[str, int]:
    """Return the text of a PDF, blanks joined, and how many pages it has."""
    reader = PdfReader(io.BytesIO(source) if isinstance(source, bytes) else source)
    return " ".join(" ".join(p.extract_text() for p in reader.pages).split()), len(reader.pages)


class Attempt:
    """An attempt's folder, filled as analyses do, and its results as the engine writes them."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "D11" / TEST / "attempt-01"
        self.folder.mkdir(parents=True)
        (self.folder.parent / "current").symlink_to("attempt-01")
        self.flags: list[dict[str, Any]] = []
        self.steps: list[dict[str, Any]] = []

    def subtask(self, name: str) -> Results:
        """Return the findings of a sub-task, to be filled and given to :meth:`done`."""
        return Results(self.folder, TEST, name, {"program": "x"})

    def done(self, results: Results, waiver: str = "") -> None:
        """Close a sub-task."""
        path = results.close(key="0123456789abcdef0123")
        for flag in json.loads(path.read_text())["flags"]:
            self.flags.append({**flag, "waiver": waiver})
        name = results.subtask
        self.steps.append({"name": name, "title": STEPS.get(name, name), "status": "done",
                           "minutes": 0.5, "key": "0123456789abcdef0123", "note": ""})  # fmt: skip

    def write(self, **changes: Any) -> list[Path]:
        """Write results.json and the report."""
        document = {
            "test": TEST, "handle": TEST, "block": "NOSTROMO", "run": "D11",
            "obsids": [1000, 1003], "chamber": "B_NOSTROMO", "profile_version": 1,
            "attempt": "attempt-01", "program": "nightjar 1.2.3", "minutes": 1.5,
            "status": "ended", "reason": "", "flags": self.flags,
            "flag_names": [flag["name"] for flag in self.flags], "steps": self.steps,
            "values": [], "provenance": {
                "detector": "ccd273-8th", "elvis": "7.5.X", "script": "vis_CalCamp_PTC01.xlsx",
                "days": ["/data/12_Mar_19"], "written": "2019-03-13T10:00:00",
                "options": {"degree": 2}, "campaign": "campaign.json",
                "inputs": {f"EUC_{n}.fits": f"blake3:{n:064d}" for n in range(30)}
                | {"Mask.CCD1": "blake3:" + "a" * 64},
            }, **changes,
        }  # fmt: skip
        (self.folder / "results.json").write_text(json.dumps(document))
        return write_test_report(self.folder)
