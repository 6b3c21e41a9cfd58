# SPDX-License-Identifier: BSD-3-Clause
"""``calib report``: writes the reports of results again."""

from __future__ import annotations

from pathlib import Path

import click

from nightjar.cli.frame import FrameCommand
from nightjar.cli.session import Session
from nightjar.errors import Code, StorageError
from nightjard.calib.reports import report_folders, write_session_page, write_test_report

_HELP = """Write the PDF and HTML reports of results again.

RESULTS is the folder of a test, of a session, or of all sessions. Nothing is measured anew."""


@click.command("report", cls=FrameCommand, help=_HELP)
@click.argument("results", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.pass_obj
def command(session: Session, results: Path) -> int:
    """Run it."""
    tests, sessions = report_folders(results)
    written: list[Path] = []
    failed: list[str] = []
    for write, folders in ((write_test_report, tests), (write_session_page, sessions)):
        for folder in folders:
            try:
                written += write(folder)
            except StorageError as error:  # the others can have theirs
                failed.append(error.message)
    session.result(
        {"written": [str(path) for path in written], "failed": failed},
        [str(path) for path in written],
    )
    if failed and not session.is_json:
        raise StorageError("\n".join(failed))
    return Code.FAILED.exit_code if failed else 0
