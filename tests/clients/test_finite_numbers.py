# SPDX-License-Identifier: BSD-3-Clause
"""What is typed as a number is one."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import click
import pytest

MODULES = (
    "nightjarctl.cam:cam", "nightjarctl.archive:archive", "nightjarctl.obslog:obslog",
    "nightjarctl.fitslog:fitslog", "nightjarctl.streamlink:streamlink", "nightjarctl.rot:rot",
    "nightjarctl.telog:telog", "nightjarctl.das:das", "nightjard.merged.command:dasmerge",
    "nightjard.streamtools.__main__:stream", "nightjard.calib.command:calib",
    "nightjard.site.commands:nightjar", "nightjard.fitswatcher.command:fitswatcher",
)  # fmt: skip


def numbers(command: click.Command, name: str) -> Iterator[tuple[str, click.Parameter]]:
    """Yield the parameters of a command and all below it that take a number with a fraction."""
    context = click.Context(command)
    for parameter in command.params:
        if isinstance(parameter.type, click.types.FloatParamType):
            yield f"{name} {parameter.name}", parameter
    if isinstance(command, click.Group):
        for word in command.list_commands(context):
            below = command.get_command(context, word)
            if below is not None:
                yield from numbers(below, f"{name} {word}")


@pytest.mark.parametrize("where", MODULES)
def test_no_command_takes_nan_for_a_number(where: str) -> None:
    module, _, name = where.partition(":")
    taken = []
    for text, parameter in numbers(getattr(importlib.import_module(module), name), name):
        for word in ("nan", "inf"):
            try:
                parameter.type.convert(word, parameter, None)
            except click.UsageError:
                continue
            taken.append(f"{text} {word}")
    assert taken == []
