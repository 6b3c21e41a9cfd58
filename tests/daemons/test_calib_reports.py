# SPDX-License-Identifier: BSD-3-Clause
"""Reports as PDF and HTML: what a data analyst opens first, whatever was found or is missing."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.table import Table
from hypothesis import strategies as st
from pypdf import PdfReader

from kit.calib_report import TEST, Attempt, Page, pdf_text
from kit.depth import examples
from nightjar.errors import InvalidArgument, StorageError
from nightjard.calib.command import main
from nightjard.calib.plotting import new_figure
from nightjard.calib.reports import report_folders, write_session_page, write_test_report
from nightjard.calib.reports.blocks import Picture, Report, Section, TableBlock, Text
from nightjard.calib.reports.content import value_blocks
from nightjard.calib.reports.page import page_text
from nightjard.calib.reports.pdf import pdf_bytes
from nightjard.calib.reports.words import number


def ingested(attempt: Attempt, messages: list[str]) -> None:
    """Leave what the ingestion leaves."""
    init = attempt.subtask("init")
    for name, value in (("obsid_first", 1000), ("frames", 4), ("frames_of_script", 4)):
        init.value(name, value)
    init.document("STRUCTURE", {"messages": messages, "is_consistent": not messages})
    for message in messages:
        init.note(message)
    if messages:
        init.flag("MISSDATA", cause="; ".join(messages))
    init.note("inCDPs: Mask.CCD1: no file x: the analysis goes on without it")
    attempt.done(init)


def filled(root: Path) -> Attempt:
    """Return an attempt with everything in it."""
    attempt = Attempt(root)
    ingested(attempt, ["sn_roe: expected 'FM15', found ['FM99'] (CCD1; all columns)",
                       "missing frames, 3 of 4: OBSID 1002 not in the log"])  # fmt: skip
    check = attempt.subtask("check")
    for obsid in range(1000, 1020):
        check.compliance("fluence", 100.0 + obsid, 0.0, 1105.0, unit="ADU", flag="FLUENCE_OOL",
                         ccd=1, quadrant="E", obsid=obsid)  # fmt: skip
    check.compliance("std_pre", 1.1, 0.86, 1.44, unit="ADU", flag="RON_OOL", ccd=1, quadrant="F")
    check.flag("DEADQUAD", cause="OBSID 1001, CCD1 G: its values do not vary", ccd=1, quadrant="G")
    check.flag("DEADQUAD", cause="OBSID 1002, CCD2 H: its values do not vary", ccd=2, quadrant="H")
    attempt.done(check)
    meta = attempt.subtask("meta")
    for ccd in (1, 2, 3):
        for quadrant in "EFGH":
            meta.value("gain", 3.5 + ccd / 100, error=0.014, unit="e-/ADU", ccd=ccd,
                       quadrant=quadrant)  # fmt: skip
        meta.value("temperature", -120.0 - ccd, unit="C", ccd=ccd)
    meta.value("alpha", 1.24e-6, error=6e-8, unit="1/e-")
    table = Table({"ccd": [1, 2], "quadrant": ["E", "F"], "gain": [3.51, np.nan]})
    table["gain"].unit = "electron / adu"
    meta.table("GAIN", table, caption="Gains of all quadrants")
    figure = new_figure(4, 3)
    figure.subplots().plot([0, 1], [0, 1])
    meta.figure("curves", figure, caption="Photon transfer")
    meta.image("EUC_BloomMap", {"MAP": np.zeros((3, 4))}, caption="Full well of the tiles")
    attempt.done(meta)
    attempt.flags.append({
        "name": "HK_OOL", "severity": "warning", "cause": "OD was low", "subtask": "check",
        "count": 1, "waiver": "the supply is known to be (until 2030-01-01)", "where": {},
    })  # fmt: skip
    return attempt


# --- everything ---


def test_a_report_says_first_what_matters(tmp_path: Path) -> None:
    attempt = filled(tmp_path)
    pdf, page = attempt.write()
    assert (pdf.name, page.name) == (f"{TEST}_report.pdf", f"{TEST}_report.html")
    text, pages = pdf_text(pdf)
    assert pages <= 4
    order = [
        "PTC01 Block NOSTROMO, session D11",
        "2 errors: MISSDATA, DEADQUAD; 2 warnings: POORQUALDATA, FLUENCE_OOL; waived: HK_OOL",
        "1000 to 1003, 4 of 4 frames", "OBSID 1001, CCD1 G: its values do not vary",
        "OBSID 1002, CCD2 H: its values do not vary", "see FLUENCE_OOL",
        "Waived: the supply is known", "The acquisition is not what the script commands",
        "expected 'FM15', found ['FM99']", "no file x: the analysis goes on",
        "Compliance", "fluence ADU 1100 … 1119 0 … 1105 20 14", "std_pre ADU 1.1 0.86 … 1.44 1 0",
        "the first 6 of each metric, 8 more in results.json", "CCD1 E, OBSID 1006 1106 ADU",
        "Gains", "alpha (1.24 ± 0.06)e-6", "-121", "gain [e-/ADU] CCD1 3.510 ± 0.014",
        "Gains of all quadrants", "ccd quadrant gain [electron / adu] 1 E 3.51 2 F -",
        "Photon transfer", "products/EUC_BloomMap.fits", "Provenance",
        "19 more in results.json", "Mask.CCD1", "a quadrant gives no signal",
    ]  # fmt: skip
    at = 0
    for part in order:
        found = text.find(part, 0 if part.startswith(("2 errors", "see")) else at)
        assert found >= 0, (part, text[at : at + 600])
        at = max(at, found)
    outline = [one["/Title"] for one in PdfReader(pdf).outline]  # type: ignore[call-overload]
    assert outline == ["Flags", "Acquisition", "Compliance", "Data validation", "Gains",
                       "Provenance"]  # fmt: skip


def test_the_page_has_the_same_with_its_pictures_beside_it(tmp_path: Path) -> None:
    attempt = filled(tmp_path)
    page = Page(attempt.write()[1].read_text())
    for part in ("3.510 ± 0.014", "OBSID 1002, CCD2 H", "Photon transfer", "HK_OOL", "blake3:"):
        assert part in page.text
    assert page.tone_of("DEADQUAD") == "error"
    assert page.tone_of("FLUENCE_OOL") == "warning"
    assert page.tone_of("waived") == "muted"
    files = [link for link in page.links if not link.startswith("#")]
    assert {f"figs/{TEST}_curves.png", "products/EUC_BloomMap.fits"} <= set(files)
    assert all((attempt.folder / link).is_file() for link in files)
    assert [link for link in page.links if link.startswith("#")] == [f"#s{n}" for n in range(1, 7)]


def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    attempt = filled(tmp_path)
    written = attempt.write()
    before = [path.read_bytes() for path in written]
    code = (
        "import sys; from pathlib import Path; from nightjard.calib.reports import *; "
        "write_test_report(Path(sys.argv[1]))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "77", "TZ": "Asia/Tokyo"}
    subprocess.run([sys.executable, "-c", code, str(attempt.folder)], check=True, env=environment)
    assert [path.read_bytes() for path in written] == before
    assert not [path for path in attempt.folder.iterdir() if path.name.startswith(".")]


# --- what is missing or broken ---


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    attempt = filled(tmp_path)
    (attempt.folder / "figs" / f"{TEST}_curves.png").unlink()
    (attempt.folder / "products" / f"{TEST}_GAIN.ecsv").unlink()
    (attempt.folder / "products" / "EUC_BloomMap.fits").unlink()
    (attempt.folder / "products" / f"{TEST}_STRUCTURE.json").unlink()
    pdf, html = attempt.write()
    for text in (pdf_text(pdf)[0], Page(html.read_text()).text):
        assert f"Figure curves is missing: figs/{TEST}_curves.png" in text
        assert "Table GAIN cannot be read" in text
        assert "What was found beside the script is not on record" in text
    assert Page(html.read_text()).tone_of("missing") == "error"


def test_a_picture_that_is_cut_short_is_told(tmp_path: Path) -> None:
    attempt = filled(tmp_path)
    figure = attempt.folder / "figs" / f"{TEST}_curves.png"
    for data in (figure.read_bytes()[:600], b"", b"no picture"):
        figure.write_bytes(data)
        text, _ = pdf_text(attempt.write()[0])
        assert f"{TEST}_curves.png cannot be read" in text


def test_a_subtask_that_crashed_stands_at_the_top(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path)
    ingested(attempt, [])
    attempt.steps += [
        {"name": "check", "title": "Data validation", "status": "crashed", "note": "it broke"},
        {"name": "meta", "title": "Gains", "status": "not reached", "note": ""},
        {"name": "extra", "title": "Extras", "status": "off", "note": ""},
    ]
    # Left by an earlier try: not what was found.
    stale = attempt.subtask("check")
    stale.note("this does not hold any more")
    stale.close(key="old")
    pdf, html = attempt.write(status="failed", reason="check: it broke")
    for text in (pdf_text(pdf)[0], Page(html.read_text()).text):
        assert text.index("Failed: check: it broke") < text.index("Not done")
        assert "crashed it broke" in " ".join(text.split())
        assert "this does not hold" not in text
        assert "The acquisition is what the script commands." in text


def test_nothing_to_object_to(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path)
    ingested(attempt, [])
    pdf, html = attempt.write(is_check_only=True, obsids=[-1, -1], is_drill=True)
    for text in (pdf_text(pdf)[0], Page(html.read_text()).text):
        for part in ("Nothing to object to", "No flag was raised.", "checks only", "none",
                     "no pixels were measured"):  # fmt: skip
            assert part in text


def test_results_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot read .*results\.json"):
        write_test_report(tmp_path)
    (tmp_path / "results.json").write_text("{half")
    with pytest.raises(StorageError, match=r"cannot read .*results\.json"):
        write_test_report(tmp_path)
    with pytest.raises(InvalidArgument, match="has no results of calib run"):
        report_folders(tmp_path)
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(StorageError, match="no results of a test: it does not name one"):
        write_test_report(tmp_path)


def test_an_empty_table_is_told(tmp_path: Path) -> None:
    attempt = filled(tmp_path)
    (attempt.folder / "products" / f"{TEST}_GAIN.ecsv").write_text("")
    assert "Table GAIN cannot be read" in pdf_text(attempt.write()[0])[0]


def test_a_damaged_test_does_not_keep_the_others_from_their_reports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("A", "B", "C"):
        folder = tmp_path / "D11" / name / "attempt-01"
        folder.mkdir(parents=True)
        attempt = filled(folder)
        for path in attempt.write():
            path.unlink()
        (folder.parent / "current").symlink_to(attempt.folder.relative_to(folder.parent))
    (tmp_path / "D11" / "B" / "current" / "results.json").write_text("{}")
    # A folder in its place: as one that cannot be written, for root as well.
    blocked = (tmp_path / "D11" / "C" / "current").resolve() / f"{TEST}_report.pdf"
    blocked.mkdir()
    assert main(["report", str(tmp_path / "D11")]) == 1
    out, error = capsys.readouterr()
    assert [Path(line).name for line in out.splitlines()] == [
        f"{TEST}_report.pdf", f"{TEST}_report.html",
    ]  # fmt: skip
    assert all("/A/" in line for line in out.splitlines())
    assert "results.json: no results of a test" in error
    assert f"cannot write the report {blocked}: Is a directory" in error
    assert main(["report", str(tmp_path / "D11"), "--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)["failed"]) == 2


# --- sizes and characters ---


def test_huge_tables_do_not_fill_the_report(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path)
    ingested(attempt, [])
    meta = attempt.subtask("meta")
    count = 60_000
    meta.table("dipoles", Table({"obsid": np.arange(count), "ratio": np.linspace(0, 1, count)}))
    names = ["ccd", "quadrant", *(f"quantity_{n:02d}" for n in range(40))]
    meta.table("wide", Table({name: np.full(20, 1.23456789e-7) for name in names}))
    meta.table("long", Table({"text": ["word " * 4000, "x" * 9000]}))
    attempt.done(meta)
    begin = time.process_time()
    pdf, html = attempt.write()
    assert time.process_time() - begin < 5
    text, pages = pdf_text(pdf)
    assert pages < 9
    assert "(24 of 60000 rows; all in products/PTC01_dipoles.ecsv)" in text
    assert "quantity_39" in text
    # Every part of the wide table begins with what its rows are.
    assert text.count("ccd quadrant quantity_") >= 2
    assert html.stat().st_size < 400_000


def test_any_character_can_be_shown(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path)
    ingested(attempt, [])
    odd = "σ ≤ 3 μm → <b>&amp;</b> \x00\x1b[31m \udce9 日本 \"'\n2nd line"
    meta = attempt.subtask("meta")
    meta.note(odd)
    meta.flag("BADFIT", cause=odd)
    meta.value("α", 1.0, unit="Å", note=odd)
    meta.documents = []
    path = attempt.folder / "subtasks" / "meta.json"
    path.write_text(json.dumps({"subtask": "meta", "notes": [odd], "values": meta.values}))
    attempt.flags = [{"name": "BADFIT", "severity": "warning", "cause": odd, "subtask": "meta",
                      "count": 1}]  # fmt: skip
    attempt.steps.append({"name": "meta", "title": "Ω <i>", "status": "done"})
    pdf, html = attempt.write(reason=odd)
    text, _ = pdf_text(pdf)
    page = Page(html.read_bytes().decode("utf-8"))
    for shown in (text, page.text):
        assert "σ ≤ 3 μm → <b>&amp;</b> \\x00\\x1b[31m \\udce9" in shown
        assert "2nd line" in shown
        assert "Ω <i>" in shown
    assert "日本" in page.text


@examples(15, 1000, st.lists(st.text(max_size=60), min_size=6, max_size=6))
def test_every_text_comes_through(texts: list[str]) -> None:
    table = TableBlock(("a", texts[0]), ((texts[1], texts[2]),), texts[3], {(0, 1): "error"})
    section = Section(texts[4], (Text(texts[5]), table, Picture(Path("none.png"), texts[1])))
    report = Report(texts[0], texts[1], ((texts[2], texts[3]),), texts[4], "info", (section,))
    assert PdfReader(io.BytesIO(pdf_bytes(report))).pages
    page = Page(page_text(report, Path("nowhere")))
    for text in texts:
        shown = text.split("\n")[0].split("\r")[0]
        if shown.isprintable() and shown.strip():
            assert shown in page.text


# --- numbers ---


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (3.5123, 0.0142, "3.512 ± 0.014"), (3.5123, 0.04, "3.51 ± 0.04"),
        (1.24e-6, 6e-8, "(1.24 ± 0.06)e-6"), (-82630.4, 47707.2, "-82630 ± 47707"),
        (2.0e12, 3e9, "(2.000 ± 0.003)e12"), (0.0, 2e-9, "(0 ± 2)e-9"), (1.5, 0.0, "1.5"),
        (1.5, float("inf"), "1.5"), (62837.4, None, "62837"), (123456.7, None, "123457"),
        (1.5, None, "1.5"), (None, None, "-"), (True, None, "yes"), (7, None, "7"),
        ("go", None, "go"), ([1, 2.5], None, "1, 2.5"),
        ({"CCD1": 1.0, "CCD2": None}, None, "CCD1: 1"),
    ],
)  # fmt: skip
def test_numbers_are_rounded_to_what_their_errors_allow(value: Any, error: Any, text: str) -> None:
    assert number(value, error) == text


def test_two_values_of_one_place_are_both_shown() -> None:
    values = [
        {"name": "shift", "value": 1.0 + n, "where": {"ccd": 1, "obsid": 1000 + n}} for n in (0, 1)
    ]
    (block,) = value_blocks(values)
    assert isinstance(block, TableBlock)
    assert block.rows == (("shift", "1; 2"),)


# --- a session ---


def test_the_page_of_a_session(tmp_path: Path) -> None:
    attempt = filled(tmp_path)
    attempt.write(values=[
        {"name": "best_focus", "value": 47.2099, "error": 0.0014, "unit": "mm",
         "where": {"wave": 800}, "subtask": "meta"},
        {"name": "gain", "value": 3.5, "unit": "", "where": {"ccd": 1}, "subtask": "meta"},
    ])  # fmt: skip
    for kind in ("pdf", "html"):
        link = attempt.folder.parent / f"{TEST}_report.{kind}"
        link.symlink_to(f"current/{link.name}")
    run = tmp_path / "D11"
    tests = [
        {"test": TEST, "state": "processed", "obsids": [1000, 1003], "minutes": 8.9,
         "flags": ["MISSDATA", "DEADQUAD"], "reason": "",
         "severities": {"error": 2, "warning": 0, "info": 0, "waived": 1}},
        {"test": "BIAS01", "state": "failed", "obsids": [-1, -1], "minutes": 0.0,
         "flags": ["UNKNOWN"], "reason": "no row of BIAS01 in the log",
         "severities": {"error": 1}},
        {"test": "BIAS02", "state": "expected", "obsids": [-1, -1], "flags": []},
    ]  # fmt: skip
    summary = {"run": "D11", "block": "NOSTROMO", "chamber": "B_NOSTROMO", "tests": tests,
               "pipeline_id": "FM20190401_141840_D00", "program": "nightjar 1.2.3"}  # fmt: skip
    (run / "summary.json").write_text(json.dumps(summary))
    assert report_folders(tmp_path) == ([attempt.folder.resolve()], [run])
    index, pdf = sorted(write_session_page(run), key=lambda path: path.suffix)
    text, _ = pdf_text(pdf)
    page = Page(index.read_text())
    for shown in (text, page.text):
        assert "1 processed, 1 failed, 1 expected; failed BIAS01; errors in PTC01, BIAS01" in shown
        for part in ("FM20190401_141840_D00", "no row of BIAS01 in the log", "1000-1003",
                     "47.2099 ± 0.0014", "a quadrant gives no signal"):  # fmt: skip
            assert part in shown
        assert "3.5 " not in shown
    assert page.tone_of("failed") == "error"
    files = [link for link in page.links if not link.startswith("#")]
    assert files == [f"{TEST}/{TEST}_report.html", f"{TEST}/{TEST}_report.pdf"]
    assert all((run / link).is_file() for link in files)
    before = index.read_bytes(), pdf.read_bytes()
    write_session_page(run)
    assert (index.read_bytes(), pdf.read_bytes()) == before


def test_a_session_without_tests(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text('{"run": "D00", "tests": []}')
    index, pdf = sorted(write_session_page(tmp_path), key=lambda path: path.suffix)
    assert "no test" in Page(index.read_text()).text
    assert "Session D00" in pdf_text(pdf)[0]
