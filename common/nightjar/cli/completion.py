# SPDX-License-Identifier: BSD-3-Clause
"""The completion scripts of a program; the words come from the program itself, asked by them."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from nightjar.errors import NightjarError


def script(program: str, shell: str) -> str:
    """Return the completion script of a program for bash, zsh or fish."""
    kind = get_completion_class(shell)
    if kind is None:
        raise NightjarError(f"no completion for {shell}")
    variable = f"_{program.replace('-', '_').upper()}_COMPLETE"
    made = kind(click.Command(program), {}, program, variable)
    # Not made.source(): for bash that starts a bash to look at its version.
    return made.source_template % made.source_vars()
