# SPDX-License-Identifier: BSD-3-Clause
"""``fitswatcher`` as a person types it."""

from __future__ import annotations

from typing import Any

import click
from click.shell_completion import CompletionItem

from nightjar.cli.frame import Seconds, command
from nightjar.cli.session import Session, is_terminal
from nightjar.errors import Code, NightjarError

_ONCE_TIMEOUT_S = 10.0
_MOST_FILES = 1000


class FolderPattern(click.ParamType):  # type: ignore[type-arg]  # generic for checkers only
    """A folder, or a pattern of folders; need not exist."""

    name = "glob"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Let the shell complete names of folders."""
        return [CompletionItem(incomplete, type="dir")]


@command("fitswatcher", "Watch FITS files appear: the newest of each folder, and whether they are "
         "whole.\n\nGLOB is a folder or a pattern of folders; quote it ('/data/2026*/vcam*') and "
         "folders that appear later are watched, too. Only header blocks are read.")  # fmt: skip
@click.argument("patterns", metavar="GLOB...", nargs=-1, required=True, type=FolderPattern())
@click.option(
    "-n", "count", type=click.IntRange(0, _MOST_FILES), default=2, show_default=True,
    metavar="N", help="Files shown of each folder.",
)  # fmt: skip
@click.option("-r", "--recursive", is_flag=True, help="Watch the folders below, too.")
@click.option("--once", is_flag=True, help="Print one list and exit.")
@click.option(
    "--interval", type=Seconds(), default=1.0, show_default=True, metavar="SECONDS",
    help="Time between looks.",
)  # fmt: skip
@click.make_pass_decorator(Session)
def fitswatcher(
    session: Session,
    patterns: tuple[str, ...],
    count: int,
    recursive: bool,
    once: bool,
    interval: float,
) -> None:
    """Watch FITS files appear."""
    from nightjar.clock import SystemClock
    from nightjard.fitswatcher.watcher import Watcher

    if any(not pattern.strip() for pattern in patterns):
        raise click.UsageError("a GLOB is empty: give a folder", click.get_current_context())
    watcher = Watcher(patterns, count, SystemClock(), is_recursive=recursive)
    try:
        if once:
            click.get_current_context().exit(_show_once(session, watcher))
        from nightjard.fitswatcher.screen import watch

        watch(session, watcher, interval)
    finally:
        watcher.close(patience_s=0.2)


def _show_once(session: Session, watcher: Any) -> int:
    """Print the list; returns 0 where every folder could be read, else 1, or 6 for silence."""
    import shutil
    import sys

    from nightjard.fitswatcher.table import pattern_lines, snapshot_lines

    snapshot = watcher.snapshot(session.timeout_s or _ONCE_TIMEOUT_S)
    if not snapshot["folders"] and not any(each["folders"] for each in snapshot["patterns"]):
        texts = pattern_lines(snapshot)
        is_silent = any("no answer" in text for text in texts)
        code = Code.TIMED_OUT if is_silent else Code.FAILED
        raise NightjarError("\n".join(texts), code=code)
    width = shutil.get_terminal_size().columns if is_terminal(sys.stdout) else None
    session.result(snapshot, snapshot_lines(snapshot, session.paint, width=width))
    states = {folder["state"] for folder in snapshot["folders"]}
    if "no answer" in states:
        return Code.TIMED_OUT.exit_code
    is_all = states <= {"ok"} and all(each["folders"] for each in snapshot["patterns"])
    return Code.OK.exit_code if is_all else Code.FAILED.exit_code
