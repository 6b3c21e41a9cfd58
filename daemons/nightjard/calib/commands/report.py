# SPDX-License-Identifier: BSD-3-Clause
"""``calib report``: writes the reports of results again."""

from __future__ import annotations

from pathlib import Path

import click

from nightjar.cli.frame import FrameCommand
from nightjar.cli.session import Session
from nightjard.calib.reports import report_folders, write_session_page, write_test_report

_HELP = """Write the PDF and HTML reports of results again.

RESULTS is the folder of a test, of a session, or of all sessions. Nothing is measured anew."""


@click.command("report", cls=FrameCommand, help=_HELP)
@click.argument("results", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.pass_obj
def command(session: Session, results: Path) -> None:
    """Run it."""
    tests, sessions = report_folders(results)
    written = [path for attempt in tests for path in write_test_report(attempt)]
    written += [path for folder in sessions for path in write_session_page(folder)]
    session.result({"written": [str(path) for path in written]}, [str(path) for path in written])
