# SPDX-License-Identifier: BSD-3-Clause
"""Reports of results as PDF and HTML, from what lies on disk.

The same results give the same bytes: nothing in a report depends on when or where it is written.

=============  ========================================================================
``blocks``     what a report is made of
``words``      numbers and texts as people read them
``content``    what a sub-task found, as blocks
``of_test``    the report of a test
``of_session`` the page of a session
``page``       a report as HTML
``pdf``        a report as PDF; ``pdf_table`` its tables
=============  ========================================================================
"""

from __future__ import annotations

from pathlib import Path

from nightjar import files
from nightjar.errors import InvalidArgument, StorageError, storage_code
from nightjard.calib.reports.blocks import Report
from nightjard.calib.reports.content import read_json
from nightjard.calib.reports.of_session import session_report
from nightjard.calib.reports.of_test import test_report
from nightjard.calib.reports.page import page_text
from nightjard.calib.reports.pdf import pdf_bytes

__all__ = ["report_folders", "session_report", "test_report", "write_session_page",
           "write_test_report"]  # fmt: skip


def write_test_report(attempt: Path) -> list[Path]:
    """Write ``<TEST>_report.pdf`` and ``.html`` into the folder of an attempt.

    Raises
    ------
    StorageError
        The results cannot be read, or there is no room for the report.
    """
    report = test_report(attempt)
    test = read_json(attempt / "results.json")["test"]
    return _write(report, attempt / f"{test}_report.pdf", attempt / f"{test}_report.html")


def write_session_page(run_folder: Path) -> list[Path]:
    """Write the page of a session, ``index.html`` and ``<RUN>_summary.pdf``.

    Raises
    ------
    StorageError
        The summary cannot be read, or there is no room.
    """
    report = session_report(run_folder)
    return _write(report, run_folder / f"{run_folder.name}_summary.pdf", run_folder / "index.html")


def _write(report: Report, pdf: Path, page: Path) -> list[Path]:
    texts = {pdf: pdf_bytes(report), page: page_text(report, page.parent).encode()}
    for path, data in texts.items():
        try:
            files.write_durably(path, data, replace=True)
        except OSError as error:
            raise StorageError(
                f"cannot write the report {path}: {error.strerror or error}",
                code=storage_code(error), path=str(path),
            ) from error  # fmt: skip
    return [pdf, page]


def report_folders(path: Path) -> tuple[list[Path], list[Path]]:
    """Return the attempts in force and the sessions at or below a folder of results.

    Raises
    ------
    InvalidArgument
        There are none.
    """
    if (path / "results.json").is_file() and (path / "subtasks").is_dir():
        return [path], []
    sessions = [path] if (path / "summary.json").is_file() else []
    if not sessions and path.is_dir():
        sessions = sorted(one.parent for one in path.glob("*/summary.json"))
    tests = sorted(
        link.resolve()
        for pattern in ("current", "*/current", "*/*/current") for link in path.glob(pattern)
        if (link / "results.json").is_file()
    )  # fmt: skip
    if not tests and not sessions:
        raise InvalidArgument(f"{path} has no results of calib run (no results.json in it)")
    return tests, sessions
