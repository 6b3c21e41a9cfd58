# SPDX-License-Identifier: BSD-3-Clause
"""What the commands of a daemon share of which a site has one as a rule.

The option ``--id``, completion from its status, operations that are followed, and watching.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from nightjar.errors import TimedOut, Unreachable
from nightjarctl import app

if TYPE_CHECKING:
    from nightjarctl.connection import Connection

Function = Callable[..., Any]


# --- options ------------------------------------------------------------------------------------


def id_option(which: str, variable: str) -> Callable[[Function], Function]:
    """Return the decorator that adds ``--id``; the function gets `identity`.

    Parameters
    ----------
    which
        What is chosen, for the help: "Which rotator: the id of its configuration, or ...".
    variable
        Environment variable that chooses, too.
    """
    return click.option(
        "--id", "identity", metavar="ID",
        help=f"{which}  [default: ${variable}, else the only one configured]",
    )  # fmt: skip


def wait_option(function: Function) -> Function:
    """Add ``--no-wait``; the function gets `wait`."""
    return click.option(
        "--wait/--no-wait", default=True,
        help="Wait for the end, showing progress; or return at once.",
    )(function)  # fmt: skip


Completion = Callable[[click.Context, Any, str], list[str]]


def complete_from(kind: str, variable: str, key: str) -> Completion:
    """Return the completion by the words under a key of the daemon's status."""

    def complete(context: click.Context, _parameter: Any, incomplete: str) -> list[str]:
        from nightjar.config.paths import config_names
        from nightjarctl.completion import status_words

        chosen = context.params.get("identity") or os.environ.get(variable)
        names = config_names(kind)
        if chosen is None and len(names) != 1:
            return []
        words = status_words(kind, chosen or names[0], key)
        return [word for word in words if word.startswith(incomplete)]

    return complete


# --- operations ---------------------------------------------------------------------------------


def begin(
    session: app.Session, daemon: Connection, command: str, what: str, wait: bool,
    look: str, stop: str, **arguments: Any,
) -> dict[str, Any] | None:  # fmt: skip
    """Begin an operation; return its last state, or None where it is not waited for.

    Parameters
    ----------
    what
        The operation in words.
    look, stop
        Commands to type: to look again, to end it.
    """
    from nightjarctl.follow import Subject, follow

    if wait:
        daemon.timeout_s = app.DEFAULT_TIMEOUT_S
    operation = daemon.start_operation(command, arguments)
    if not wait:
        session.done({"operation": operation.id}, f"{what} began; look: {look}")
        return None
    return follow(session, operation, Subject(what, look, stop))


# --- watching -----------------------------------------------------------------------------------


def look(daemon: Connection) -> tuple[dict[str, Any] | None, str]:
    """Return the daemon's status, or None and why there is none."""
    try:
        return daemon.status(), ""
    except (Unreachable, TimedOut) as error:
        return None, error.message


def watch(
    session: app.Session,
    interval_s: float,
    screen: Callable[[], Sequence[str]],
    tell: Callable[[], None],
) -> None:
    """Look once, then again and again until Ctrl-C or the end of ``--timeout``.

    Parameters
    ----------
    screen
        Looks, and returns the lines of a terminal.
    tell
        Looks, and prints where there is no terminal, or with ``--json``.
    """
    end = None if session.timeout_s is None else time.monotonic() + session.timeout_s

    def goes_on() -> bool:
        time.sleep(interval_s)
        return end is None or time.monotonic() < end

    if session.is_json or not app.is_terminal(sys.stdout):
        tell()
        while goes_on():
            tell()
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(no_color=not session.has_color(), highlight=False)
    with Live(console=console, auto_refresh=False) as live:
        live.update(Text.from_ansi("\n".join(screen())), refresh=True)
        while goes_on():
            live.update(Text.from_ansi("\n".join(screen())), refresh=True)


def heading(what: str) -> str:
    """Return the first line of a watching screen."""
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    return f"{what}  {stamp} UTC  (Ctrl-C ends)"


def stamp() -> str:
    """Return the time that begins a line in a pipe."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
