# SPDX-License-Identifier: BSD-3-Clause
"""The frame that every command shares: options, errors, exit codes, colour, finding the daemon.

A command file declares one group and a ``main``::

    @app.group("obslog", "The observatory log: read, search, write.")
    def obslog() -> None: ...

    @obslog.command()
    @click.argument("text")
    @app.pass_session
    def search(session: app.Session, text: str) -> None:
        '''Find messages that hold TEXT.'''
        daemon = session.daemon(session.registry.log_daemon or "observatory_log")
        found = daemon.call("search", {"text": text}, is_safe=True)
        session.result(found, [f"{row['time']}  {row['text']}" for row in found])

    def main(arguments: Sequence[str] | None = None) -> int:
        return app.run(obslog, arguments)

Commands raise :class:`nightjar.errors.NightjarError` (or :class:`click.UsageError`) and print
through the session; nothing else decides about exit codes, JSON or colour. The frame itself is
:mod:`nightjar.cli`, which the programs that work (``nightjar``) share. Every ``import`` here is
paid by every command: rich and Pyro5 are imported where they are used.
"""

from __future__ import annotations

from collections.abc import Sequence

import click

from nightjar.cli.frame import FrameCommand, FrameGroup, IdentityGroup, Seconds, group
from nightjar.cli.run import error_object, usage_error
from nightjar.cli.run import run as run_program
from nightjarctl.session import DEFAULT_TIMEOUT_S, Session, is_terminal, pass_session, write

__all__ = [
    "DEFAULT_TIMEOUT_S", "FrameCommand", "FrameGroup", "IdentityGroup", "Seconds", "Session",
    "error_object", "group", "is_terminal", "pass_session", "run", "usage_error", "write",
]  # fmt: skip


def run(program: click.Group, arguments: Sequence[str] | None = None) -> int:
    """Run a client's group; returns the exit code."""
    return run_program(program, arguments, Session)
