# SPDX-License-Identifier: BSD-3-Clause
"""What the commands of ``archive`` that concern nights share: options, nights, operations."""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import click

from nightjar.api.nights import DEFAULT_FAMILY, ENGINEERING_FAMILY
from nightjar.errors import Code, Refused
from nightjarctl import app, one_daemon

if TYPE_CHECKING:
    from nightjarctl.connection import Connection

KIND = "archived"
LOOK_S = 30.0  # a night of a million frames is looked through in seconds
Function = Callable[..., Any]
_DATE = re.compile(r"\d{8}\Z|\d{4}-\d\d-\d\d\Z", re.ASCII)


# --- options ------------------------------------------------------------------------------------


id_option = one_daemon.id_option(
    "Which archive: the id of its configuration, or its registered name.", "ARCHIVE_ID"
)


def family_option(function: Function) -> Function:
    """Add ``--engineering`` and ``--family``; the function gets `family`."""

    @functools.wraps(function)
    def wrapped(*arguments: Any, engineering: bool, family: str | None, **named: Any) -> Any:
        if engineering and family not in (None, ENGINEERING_FAMILY):
            raise click.UsageError(f"--engineering and --family {family} contradict each other")
        chosen = ENGINEERING_FAMILY if engineering else family
        return function(*arguments, family=chosen, **named)

    option = click.option("--family", metavar="FAMILY", help="Another family of nights.")
    flag = click.option("--engineering", is_flag=True, help="Engineering nights, not archival.")
    return flag(option(wrapped))


def dry_run_option(function: Function) -> Function:
    """Add ``--dry-run``."""
    return click.option("--dry-run", is_flag=True, help="Say what would be done, change nothing.")(
        function
    )


def night_argument(function: Function) -> Function:
    """Add the argument NIGHT."""
    return click.argument("night", metavar="NIGHT", shell_complete=complete_night)(function)


def destination_option(function: Function) -> Function:
    """Add ``--destination``."""
    return click.option(
        "--destination", metavar="NAME", shell_complete=complete_destination,
        help="Only this one of the configured destinations.",
    )(function)  # fmt: skip


# --- completion ---------------------------------------------------------------------------------


def _asked(context: click.Context, command: str, arguments: dict[str, Any]) -> Any:
    """Return a daemon's answer for completion; None where there is none at once."""
    from nightjar.errors import NightjarError
    from nightjarctl.completion import LIMIT_S

    try:
        session = app.Session("archive")
        session.timeout_s = LIMIT_S
        daemon = session.only(KIND, context.params.get("identity"))
        return daemon.call(command, arguments)
    except (NightjarError, OSError, ValueError):
        return None


def complete_night(context: click.Context, _parameter: Any, incomplete: str) -> list[str]:
    """Return nights, the newest first."""
    rows = _asked(context, "nights_table", {"family": None}) or []
    nights = {str(row["night"]) for row in rows}
    return sorted((night for night in nights if night.startswith(incomplete)), reverse=True)


def complete_destination(context: click.Context, _parameter: Any, incomplete: str) -> list[str]:
    """Return the names of destinations."""
    settings = _asked(context, "nights_settings", {}) or {}
    return sorted(name for name in settings.get("destinations", ()) if name.startswith(incomplete))


# --- asking -------------------------------------------------------------------------------------


def night_text(text: str) -> str:
    """Return a night as the daemon takes it: a date as typed, a folder as absolute path."""
    if _DATE.match(text) or not (os.sep in text or text in (".", "..") or os.path.isdir(text)):
        return text
    return os.path.abspath(text)


def of_night(night: str, family: str | None) -> dict[str, Any]:
    """Return the arguments that name a night."""
    return {"night": night_text(night), "family": family or DEFAULT_FAMILY}


def words_of(night: str, family: str | None) -> str:
    """Return the arguments that name a night as a person types them."""
    return f"{night} --family {family}" if family not in (None, DEFAULT_FAMILY) else night


def look(
    session: app.Session, identity: str | None, command: str, arguments: Mapping[str, Any]
) -> Any:
    """Return the answer to a question; such as read a plan take longer than a status."""
    timeout_s = LOOK_S if session.timeout_s is None else session.timeout_s
    daemon = session.only(KIND, identity)
    return daemon.call(command, dict(arguments), timeout_s=timeout_s, is_safe=True)


def work(
    session: app.Session,
    identity: str | None,
    command: str,
    arguments: Mapping[str, Any],
    what: str,
    *,
    wait: bool = True,
) -> Any:
    """Begin an operation and show its progress; return its result, None where not waited for.

    Parameters
    ----------
    command, arguments
        As in the table of the daemon.
    what
        In words: ``run of 20260611``.
    """
    from nightjarctl.follow import Subject, follow

    daemon = session.only(KIND, identity)
    operation = daemon.start_operation(command, dict(arguments))
    if not wait:
        session.done({"operation": operation.id}, f"{what} has begun; see archive watch")
        return None
    chosen = f" --id {identity}" if identity else ""
    subject = Subject(what, f"archive watch{chosen}", f"archive cancel {operation.id}{chosen}")
    return follow(session, operation, subject)["result"]


def fail(session: app.Session, reason: str = "") -> NoReturn:
    """End with exit code 1 after a result that is not good; it has been printed already."""
    if reason:
        session.note(reason)
    sys.stdout.flush()
    raise click.exceptions.Exit(Code.FAILED.exit_code)


def confirm(question: str, yes: bool, refusal: str) -> None:
    """Ask a person; return only after a yes.

    Raises
    ------
    Refused
        It was a no, or there is nobody to ask.
    """
    if yes:
        return
    if not app.is_terminal(sys.stdin):
        raise Refused(f"{refusal}: there is nobody to ask; add --yes")
    if not click.confirm(question, err=True):
        raise Refused(refusal)


def connection(session: app.Session, identity: str | None) -> Connection:
    """Return the connection to the archive daemon."""
    return session.only(KIND, identity)
