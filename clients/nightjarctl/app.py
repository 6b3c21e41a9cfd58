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
through the session; nothing else decides about exit codes, JSON or colour. Every ``import`` here
is paid by every command: rich and Pyro5 are imported where they are used.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

import click

from nightjar.errors import Code, NightjarError
from nightjarctl.frame import FrameCommand, FrameGroup, IdentityGroup, Seconds, group
from nightjarctl.session import DEFAULT_TIMEOUT_S, Session, is_terminal, pass_session, write

__all__ = [
    "DEFAULT_TIMEOUT_S", "FrameCommand", "FrameGroup", "IdentityGroup", "Seconds", "Session",
    "error_object", "group", "is_terminal", "pass_session", "run", "usage_error", "write",
]  # fmt: skip

_FLOAT = re.compile(r"a valid float( range)?")
_INTEGER = re.compile(r"a valid integer( range)?")


def run(program: click.Group, arguments: Sequence[str] | None = None) -> int:
    """Run a program's group; returns the exit code. Nothing else prints an error or exits."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    session = Session(program.name or "")
    # An error before the option was reached must come out as JSON as well.
    session.is_json = "--json" in given
    try:
        code = program.main(given, prog_name=program.name, standalone_mode=False, obj=session)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.UsageError as error:
        return _report(session, usage_error(error))
    except click.ClickException as error:
        return _report(session, NightjarError(error.format_message(), code=Code.BAD_CONFIG))
    except NightjarError as error:
        return _report(session, error)
    except (click.Abort, KeyboardInterrupt):
        return Code.INTERRUPTED.exit_code
    except BrokenPipeError:
        # The reader went away (| head): nothing to say, and no noise when Python flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Code.FAILED.exit_code


def usage_error(error: click.UsageError) -> NightjarError:
    """Return a usage error as one of ours: what was wrong and where help is."""
    message = " ".join(error.format_message().split()).rstrip(".")
    message = message[:1].lower() + message[1:] if message.startswith("Invalid") else message
    message = _INTEGER.sub("a whole number", _FLOAT.sub("a number", message))
    context = error.ctx
    if context is not None:
        message += f"\nusage: {' '.join(context.command.get_usage(context).split()[1:])}"
    return NightjarError(message, code=Code.INVALID_ARGUMENT)


def _report(session: Session, error: NightjarError) -> int:
    sys.stdout.flush()
    if session.is_json:
        write(json.dumps({"error": error_object(error)}, indent=2, ensure_ascii=False))
    label = "error:"
    if session.has_color(sys.stderr):
        label = click.style(label, fg="red", bold=True)
    first, *rest = error.message.splitlines() or [""]
    write(f"{label} {first}", sys.stderr)
    for line in rest:
        write(line, sys.stderr)
    return error.code.exit_code


def error_object(error: NightjarError) -> dict[str, Any]:
    """Return an error as ``--json`` prints it."""
    return {
        "code": error.code.number,
        "name": error.code.name,
        "message": error.message,
        "detail": error.detail,
        "exit_code": error.code.exit_code,
    }
