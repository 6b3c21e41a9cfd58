# SPDX-License-Identifier: BSD-3-Clause
"""Reference pages of the commands that a person types, from their own help."""

from __future__ import annotations

import importlib

import click
from reference_markdown import code, table

from nightjar.cli.frame import FrameCommand, FrameGroup, IdentityGroup

CLIENTS = {
    "cam": ("nightjarctl.cam", "cam"),
    "archive": ("nightjarctl.archive", "archive"),
    "obslog": ("nightjarctl.obslog", "obslog"),
    "fitslog": ("nightjarctl.fitslog", "fitslog"),
    "fitswatcher": ("nightjard.fitswatcher.command", "fitswatcher"),
    "stream": ("nightjard.streamtools.__main__", "stream"),
    "streamlink": ("nightjarctl.streamlink", "streamlink"),
    "rot": ("nightjarctl.rot", "rot"),
    "telog": ("nightjarctl.telog", "telog"),
    "das": ("nightjarctl.das", "das"),
    "dasmerge": ("nightjard.merged.command", "dasmerge"),
    "calib": ("nightjard.calib.command", "calib"),
    "nightjar": ("nightjard.site.commands", "nightjar"),
}
SHARED = {parameter.name for parameter in FrameCommand("x").params} | {"help"}


def option_text(parameter: click.Parameter) -> str:
    """Return an argument or option as it is typed."""
    choices = parameter.type.choices if isinstance(parameter.type, click.Choice) else ()
    if isinstance(parameter, click.Argument):
        name = parameter.metavar or ("|".join(choices) or (parameter.name or "").upper())
        name += "..." if parameter.nargs == -1 and not name.endswith("...") else ""
        return name if parameter.required else f"[{name}]"
    names = ", ".join(parameter.opts)
    if parameter.secondary_opts:
        names += " / " + ", ".join(parameter.secondary_opts)
    if getattr(parameter, "is_flag", False):
        return names
    kind = "|".join(choices) if choices else parameter.type.name.upper()
    return f"{names} {parameter.metavar or kind}"


def option_help(option: click.Option) -> str:
    """Return an option's help, with its default where it shows one."""
    text = option.help or ""
    if option.show_default and option.default is not None:
        text += f" (default {option.default})"
    return text + (" May be repeated." if option.multiple and "repeated" not in text else "")


def own_options(command: click.Command) -> list[click.Option]:
    """Return the options that only this command has."""
    return [
        parameter for parameter in command.params
        if isinstance(parameter, click.Option) and parameter.name not in SHARED
        and not parameter.hidden
    ]  # fmt: skip


def help_text(command: click.Command) -> list[str]:
    """Return a command's own help as paragraphs."""
    lines: list[str] = []
    for paragraph in (command.help or "").replace("\b\n", "").strip().split("\n\n"):
        lines += [" ".join(paragraph.split()), ""]
    return lines


def client_sections(command: click.Command, path: str) -> list[str]:
    """Return the sections of a command and of those below it."""
    arguments = [option_text(p) for p in command.params if isinstance(p, click.Argument)]
    options = own_options(command)
    usage = " ".join([path, *(["[OPTIONS]"] if options else []), *arguments])
    lines = [f"## {path}", "", "```text", usage, "```", "", *help_text(command)]
    return lines + options_table(command) if options else lines


def client_page(name: str) -> list[str]:
    """Return the page of a command."""
    module, attribute = CLIENTS[name]
    program: click.Command = getattr(importlib.import_module(module), attribute)
    if not isinstance(program, FrameGroup):
        return single_page(name, program)
    prefix = name
    lines = [f"# {name}", "", *help_text(program)]
    if isinstance(program, IdentityGroup):
        word = program.placeholder
        prefix = f"{name} {word}"
        what = "the id of a configuration" if word == "ID" else f"the {program.noun}"
        lines += [
            f"The first argument is always {what}; only where the variable "
            f"`{program.variable}` is set may it be left out.", "",
        ]  # fmt: skip
    lines += [
        *shared_options(),
        "And of the program itself:", "",
        *options_table(program),
        "Exit codes: [codes](codes.md).", "",
    ]  # fmt: skip
    return lines + group_sections(program, prefix) + site_sections(program, name)


def single_page(name: str, program: click.Command) -> list[str]:
    """Return the page of a program that is one command."""
    usage = " ".join([name, "[OPTIONS]", *(option_text(p) for p in program.params
                                           if isinstance(p, click.Argument))])  # fmt: skip
    return [
        f"# {name}", "", "```text", usage, "```", "", *help_text(program),
        *options_table(program), *shared_options(), "Exit codes: [codes](codes.md).", "",
    ]  # fmt: skip


def shared_options() -> list[str]:
    """Return the options that every command of every program knows."""
    return [
        "Options that every command knows; they may stand anywhere:", "",
        *table(("option", "meaning"), ((code(option_text(o)), o.help)
                                       for o in FrameCommand("x").params
                                       if isinstance(o, click.Option))),
    ]  # fmt: skip


def options_table(command: click.Command) -> list[str]:
    """Return the options that only this command has."""
    return table(
        ("option", "meaning"),
        ((code(option_text(o)), option_help(o)) for o in own_options(command)),
    )


def site_sections(program: click.Group, name: str) -> list[str]:
    """Return the sections of commands that stand without the first argument."""
    site: dict[str, click.Command] = getattr(program, "site", {})
    return [line for word, command in site.items()
            for line in client_sections(command, f"{name} {word}")]  # fmt: skip


def commands_of(group: click.Group) -> dict[str, click.Command]:
    """Return the commands of a group; those that are imported when they are called, too."""
    if group.commands:
        return dict(group.commands)
    context = click.Context(group)
    found = {name: group.get_command(context, name) for name in group.list_commands(context)}
    return {name: command for name, command in found.items() if command is not None}


def group_sections(group: click.Group, path: str) -> list[str]:
    """Return the sections of a group's commands; aliases are named, not repeated."""
    lines: list[str] = []
    seen: dict[int, str] = {}
    commands = commands_of(group)
    if not group.commands:  # in the order of the work
        pairs = list(commands.items())
    else:
        pairs = sorted(commands.items(), key=lambda pair: pair[0] != pair[1].name)
    for name, command in pairs:
        if command.hidden:
            continue
        if id(command) in seen:
            lines += [f"## {path} {name}", "", f"The same as `{path} {seen[id(command)]}`.", ""]
            continue
        seen[id(command)] = name
        if isinstance(command, click.Group):
            if command.invoke_without_command:
                lines += client_sections(command, f"{path} {name}")
            lines += group_sections(command, f"{path} {name}")
        else:
            lines += client_sections(command, f"{path} {name}")
    return lines
