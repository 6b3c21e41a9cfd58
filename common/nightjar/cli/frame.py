# SPDX-License-Identifier: BSD-3-Clause
"""Groups and commands with the shared options, and programs whose first argument is an id.

Negative numbers are arguments, an unknown command is answered with what may have been meant, and
help lists the shared options in a block of their own.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

import nightjar
from nightjar import __version__
from nightjar.cli.session import Session, write
from nightjar.errors import Code

_NUMBER = re.compile(r"-\.?\d")
_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_OPTIONS_HELP = "Options that every command knows; they may stand anywhere"

# --- options that every command knows ----------------------------------------------------------


def _session(context: click.Context) -> Session:
    session = context.find_object(Session)
    if session is None:  # completion, or a test without run()
        session = context.obj = Session(context.find_root().info_name or "")
    return session


def _set_flag(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(context: click.Context, _parameter: click.Parameter, value: Any) -> None:
        if value not in (None, False):
            setattr(_session(context), name, value)

    return callback


def _set_no_color(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        _session(context).forbid_color()


def _show_version(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    """Say which version this is and where it lies: several may be installed on one machine."""
    if value and not context.resilient_parsing:
        name = context.find_root().info_name or ""
        about = {
            "program": name, "version": __version__,
            "installed": os.path.dirname(os.path.dirname(os.path.abspath(nightjar.__file__))),
            "python": sys.executable,
        }  # fmt: skip
        _session(context).result(
            about, f"{name} {__version__}, of {about['installed']}, by {about['python']}"
        )
        context.exit()


@functools.cache
def _shared_options() -> list[click.Option]:
    # Made once: click's options keep no state, and a program has some twenty commands.
    return [
        click.Option(
            ["--json"], is_flag=True, expose_value=False, is_eager=True,
            callback=_set_flag("is_json"), help="Print JSON.",
        ),
        click.Option(
            ["--timeout"], type=Seconds(), metavar="SECONDS", expose_value=False,
            callback=_set_flag("timeout_s"),
            help="Deadline: of the reply (default 5 s); where the command waits, of the wait.",
        ),
        click.Option(
            ["-q", "--quiet"], is_flag=True, expose_value=False,
            callback=_set_flag("is_quiet"), help="Print only what was asked for, and errors.",
        ),
        click.Option(
            ["--no-color"], is_flag=True, expose_value=False, callback=_set_no_color,
            help="No colours; NO_COLOR does the same.",
        ),
        click.Option(
            ["--version"], is_flag=True, expose_value=False, is_eager=True,
            callback=_show_version, help="Print the version, where it is installed, and exit.",
        ),
    ]  # fmt: skip


class Seconds(click.ParamType):  # type: ignore[type-arg]  # generic for checkers only
    """A positive number of seconds."""

    name = "seconds"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number or fail with a line that says what is allowed."""
        try:
            number = float(value)
        except ValueError:
            self.fail(f"{value!r} is not a number of seconds", param, ctx)
        if not 0 < number <= 1e7:
            self.fail(f"must be more than 0 and at most 1e7 seconds, not {value}", param, ctx)
        return number


class FrameCommand(click.Command):
    """A command with the shared options; negative numbers are arguments, not options."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        settings["context_settings"] = _CONTEXT | (settings.get("context_settings") or {})
        super().__init__(*arguments, **settings)
        self.params = [*self.params, *_shared_options()]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse; ``-5`` would else be taken for an option and refused."""
        if any(_NUMBER.match(argument) for argument in args):
            ctx.ignore_unknown_options = True
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List own options first, the shared ones in a block of their own."""
        _format_options(self, ctx, formatter)


class FrameGroup(click.Group):
    """A group of such commands, with the shared options."""

    command_class = FrameCommand

    def group(  # type: ignore[override]  # click's overloads, of which we use one
        self, *arguments: Any, **settings: Any
    ) -> Callable[[Callable[..., Any]], FrameGroup]:
        """Return the decorator of a nested group: of this kind, whatever the outer one is."""
        settings.setdefault("cls", FrameGroup)
        decorate: Callable[[Callable[..., Any]], FrameGroup]
        decorate = super().group(*arguments, **settings)
        return decorate

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        settings["context_settings"] = _CONTEXT | (settings.get("context_settings") or {})
        super().__init__(*arguments, **settings)
        self.params = [*self.params, *_shared_options()]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse; without a command the help goes to stderr, as a usage error."""
        if not args and not ctx.resilient_parsing:
            write(ctx.get_help(), sys.stderr)
            ctx.exit(Code.INVALID_ARGUMENT.exit_code)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List commands, own options, then the shared ones."""
        self.format_commands(ctx, formatter)
        _format_options(self, ctx, formatter)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which one may have been meant."""
        name = args[0]
        if self.get_command(ctx, name) is None and not ctx.resilient_parsing:
            known = [n for n in self.list_commands(ctx) if not is_hidden(self, ctx, n)]
            if name.startswith("-"):
                raise click.NoSuchOption(name, ctx=ctx)
            ctx.fail(f"no command {name!r}{suggestion(name, known)}")
        return super().resolve_command(ctx, args)


def is_hidden(group: click.Group, context: click.Context, name: str) -> bool:
    """Tell whether a command is left out of help and completion."""
    command = group.get_command(context, name)
    return command is None or command.hidden


def suggestion(name: str, known: Sequence[str]) -> str:
    """Return ``; did you mean x?`` or ``; there are: ...``."""
    import difflib

    close = difflib.get_close_matches(name, known, n=2)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    return f"; there are: {', '.join(known)}" if known else ""


def _format_options(
    command: click.Command, context: click.Context, formatter: click.HelpFormatter
) -> None:
    shared = {option.name for option in _shared_options()} | {"help"}
    positional: list[tuple[str, str]] = []
    own: list[tuple[str, str]] = []
    common: list[tuple[str, str]] = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if isinstance(parameter, click.Argument):
            if record is not None and record[1]:
                positional.append(record)
        elif record is not None:
            (common if parameter.name in shared else own).append(record)
    for title, records in (("Arguments", positional), ("Options", own), (_OPTIONS_HELP, common)):
        if records:
            with formatter.section(title):
                formatter.write_dl(records)


def group(
    name: str, summary: str, cls: type[FrameGroup] = FrameGroup, **settings: Any
) -> Callable[[Callable[..., Any]], FrameGroup]:
    """Return the decorator that makes a function the group of a program's commands."""

    def decorate(function: Callable[..., Any]) -> FrameGroup:
        made = cls(name=name, callback=function, help=summary, **settings)
        made.params.append(_completion_option())
        return made

    return decorate


def command(
    name: str, summary: str, **settings: Any
) -> Callable[[Callable[..., Any]], click.Command]:
    """Return the decorator that makes a function a program without commands."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        made = click.command(name, cls=FrameCommand, help=summary, **settings)(function)
        made.params.append(_completion_option())
        return made

    return decorate


def _completion_option() -> click.Option:
    def callback(context: click.Context, _parameter: click.Parameter, shell: str | None) -> None:
        if shell and not context.resilient_parsing:
            from nightjar.cli.completion import script

            write(script(context.find_root().info_name or "", shell))
            context.exit()

    return click.Option(
        ["--completion"], type=click.Choice(["bash", "zsh", "fish"]), expose_value=False,
        is_eager=True, callback=callback,
        help="Print the completion script of a shell; for bash: eval \"$(... --completion bash)\".",
    )  # fmt: skip


# --- a program whose first argument is the id of a configuration --------------------------------


class IdentityGroup(FrameGroup):
    """``PROGRAM ID COMMAND``: every id opens the same commands.

    The first argument is always the id, however many are configured; only where the variable
    ``<PROGRAM>_ID`` is set may it be left out.
    """

    kind = ""
    """Folder of the daemon's configurations, e.g. ``camd``."""
    noun = "daemon"
    placeholder = "ID"

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        settings.setdefault("subcommand_metavar", "ID COMMAND [ARGS]...")
        super().__init__(*arguments, **settings)

    @property
    def variable(self) -> str:
        """The environment variable that holds a default id."""
        return f"{(self.name or '').upper()}_ID"

    def identities(self) -> list[str]:
        """Return the ids that are configured."""
        from nightjar.config.paths import config_names

        return config_names(self.kind)

    def inner(self, identity: str) -> FrameGroup:
        """Return the group of commands of one id."""
        return FrameGroup(
            name=identity, commands=self.commands, help=f"Commands of {self.noun} {identity}."
        )  # fmt: skip

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the ids that are configured, and the commands where the id has a default."""
        names = self.identities()
        return names + (sorted(self.commands) if os.environ.get(self.variable) else [])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the commands of an id; whether it exists shows when the daemon is called."""
        if os.environ.get(self.variable) and cmd_name in self.commands:
            return self.commands[cmd_name]
        return self.inner(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Take the id off the arguments, or from the environment."""
        from nightjar.config.paths import config_root

        default = os.environ.get(self.variable)
        if args[0] in self.commands:
            if default:
                return default, self.inner(default), list(args)
            names = self.identities()
            if args[0] not in names and not ctx.resilient_parsing:
                listed = f"configured in {config_root(self.kind)}: {', '.join(names) or 'none'}"
                ctx.fail(
                    f"which {self.noun}? write {self.name} {self.placeholder} {args[0]} "
                    f"({listed}), or set {self.variable}"
                )
        elif args[0].startswith("-"):
            raise click.NoSuchOption(args[0], ctx=ctx)
        return args[0], self.inner(args[0]), list(args[1:])

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the ids that are configured and the commands that each has."""
        from nightjar.config.paths import config_root

        names = self.identities()
        with formatter.section(f"{self.noun} ids in {config_root(self.kind)}"):
            formatter.write_text(", ".join(names) or f"none; set {self.kind.upper()}_CONFIG_ROOT")
        self.inner("ID").format_commands(ctx, formatter)
