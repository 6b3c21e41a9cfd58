# SPDX-License-Identifier: BSD-3-Clause
"""Running a program: every error is printed here, every exit code decided here."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

import click

from nightjar.cli.session import Session, write
from nightjar.errors import Code, NightjarError

_FLOAT = re.compile(r"a valid float( range)?")
_INTEGER = re.compile(r"a valid integer( range)?")


def run(
    program: click.Command,
    arguments: Sequence[str] | None = None,
    kind: type[Session] = Session,
) -> int:
    """Run a program; returns the exit code. Nothing else prints an error or exits."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    session = kind(program.name or "")
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
