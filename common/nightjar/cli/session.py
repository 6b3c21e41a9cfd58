# SPDX-License-Identifier: BSD-3-Clause
"""One run of a command: what the person asked for, and where the answers go."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from typing import Any, TextIO

import click

DEFAULT_TIMEOUT_S = 5.0


class Session:
    """One run of a command: what the person asked for, and where the answers go.

    Attributes
    ----------
    program
        Name of the command, for messages.
    is_json, is_quiet
        Whether ``--json``, ``--quiet`` were given.
    timeout_s
        What ``--timeout`` gave, seconds; None where it was not given.
    """

    def __init__(self, program: str) -> None:
        self.program = program
        self.is_json = False
        self.is_quiet = False
        self.timeout_s: float | None = None
        self._no_color = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"

    # --- what was asked ---

    @property
    def call_timeout_s(self) -> float:
        """Deadline of one call, seconds."""
        return DEFAULT_TIMEOUT_S if self.timeout_s is None else self.timeout_s

    def forbid_color(self) -> None:
        """Print without colours from now on."""
        self._no_color = True

    def has_color(self, stream: TextIO | None = None) -> bool:
        """Tell whether a stream (default stdout) is a terminal that may be coloured."""
        return not self._no_color and is_terminal(stream or sys.stdout)

    def paint(self, text: str, color: str | None = None, *, bold: bool = False) -> str:
        """Return the text with ANSI colour where stdout may be coloured."""
        if not self.has_color() or (color is None and not bold):
            return text
        return click.style(text, fg=color, bold=bold or None)

    # --- answers ---

    def result(self, value: Any, lines: Iterable[str] | str = ()) -> None:
        """Print what was asked for: `value` with ``--json``, else the lines."""
        if self.is_json:
            write(json.dumps(value, indent=2, ensure_ascii=False))
        else:
            for line in [lines] if isinstance(lines, str) else lines:
                write(line)

    def event(self, value: Any, line: str) -> None:
        """Print one of many results: with ``--json`` as one line of JSON; flushed."""
        write(json.dumps(value, ensure_ascii=False) if self.is_json else line)
        sys.stdout.flush()

    def done(self, value: Any, line: str) -> None:
        """Confirm a command: like :meth:`result`, but ``--quiet`` silences the text."""
        if self.is_json or not self.is_quiet:
            self.result(value, line)

    def note(self, line: str) -> None:
        """Print a remark on stderr, unless ``--quiet`` or ``--json``."""
        if not self.is_quiet and not self.is_json:
            write(line, sys.stderr)


def is_terminal(stream: TextIO) -> bool:
    """Tell whether a stream is a terminal; a closed one is not."""
    try:
        return stream.isatty()
    except ValueError:
        return False


def write(line: str, stream: TextIO | None = None) -> None:
    """Print one line as it is: no wrapping; what the terminal cannot show becomes ``?``."""
    stream = stream or sys.stdout
    try:
        stream.write(line + "\n")
    except UnicodeEncodeError:
        encoding = stream.encoding or "ascii"
        stream.write(line.encode(encoding, "replace").decode(encoding) + "\n")
