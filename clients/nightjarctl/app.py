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
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

import click

from nightjar import __version__
from nightjar.errors import Code, ConfigError, NightjarError

if TYPE_CHECKING:
    from nightjar.registry import Registry
    from nightjarctl.connection import Connection

DEFAULT_TIMEOUT_S = 5.0
_NUMBER = re.compile(r"-\.?\d")
_FLOAT = re.compile(r"a valid float( range)?")
_INTEGER = re.compile(r"a valid integer( range)?")
_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_OPTIONS_HELP = "Options that every command knows; they may stand anywhere"


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
        self._registry: Registry | None = None

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

    # --- daemons ---

    @property
    def registry(self) -> Registry:
        """The registry in force."""
        if self._registry is None:
            from nightjar.registry import Registry

            self._registry = Registry.find()
        return self._registry

    def daemon(self, name: str) -> Connection:
        """Return the connection to a daemon by its registered name (nothing is sent yet)."""
        from nightjarctl.connection import Connection

        return Connection(self.registry.daemon(name), self.call_timeout_s)

    def configured(self, kind: str, identity: str) -> Connection:
        """Return the connection to a daemon by the id of its configuration.

        Parameters
        ----------
        kind, identity
            ``camd``, ``test`` stand for ``test.json`` in the folder of camd's configurations.
            Where no such file is, a registered daemon of that name will do.

        Raises
        ------
        ConfigError
            Neither; the message lists what is configured.
        """
        from nightjarctl.connection import Connection, configured_entry

        return Connection(configured_entry(kind, identity), self.call_timeout_s)

    def only(self, kind: str, given: str | None) -> Connection:
        """Return the connection to the one daemon of a kind that sites have once.

        `given` (an option or ``KIND_ID``) chooses where there are several.
        """
        from nightjar.config.paths import config_names, config_root

        identity = given or os.environ.get(f"{kind.upper().removesuffix('D')}_ID")
        if identity is None:
            names = config_names(kind)
            if len(names) != 1:
                seen = f"has {', '.join(names)}" if names else "has none"
                raise ConfigError(
                    f"which {kind}? {config_root(kind)} {seen}; "
                    f"name one, or set {kind.upper()}_CONFIG_ROOT"
                )
            identity = names[0]
        return self.configured(kind, identity)

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


pass_session = click.make_pass_decorator(Session)


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
    if value and not context.resilient_parsing:
        write(f"{context.find_root().info_name} {__version__}")
        context.exit()


def _shared_options() -> list[click.Option]:
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
            callback=_show_version, help="Print the version and exit.",
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

    def group(self, *arguments: Any, **settings: Any) -> Any:
        """Return the decorator of a nested group: of this kind, whatever the outer one is."""
        settings.setdefault("cls", FrameGroup)
        return super().group(*arguments, **settings)

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


def _completion_option() -> click.Option:
    def callback(context: click.Context, _parameter: click.Parameter, shell: str | None) -> None:
        if shell and not context.resilient_parsing:
            from nightjarctl.completion import script

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

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        settings.setdefault("subcommand_metavar", "ID COMMAND [ARGS]...")
        super().__init__(*arguments, **settings)

    @property
    def variable(self) -> str:
        """The environment variable that holds a default id."""
        return f"{(self.name or '').upper()}_ID"

    def inner(self, identity: str) -> FrameGroup:
        """Return the group of commands of one id."""
        return FrameGroup(
            name=identity, commands=self.commands, help=f"Commands of {self.noun} {identity}."
        )  # fmt: skip

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the ids that are configured, and the commands where the id has a default."""
        from nightjar.config.paths import config_names

        names = config_names(self.kind)
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
        from nightjar.config.paths import config_names, config_root

        default = os.environ.get(self.variable)
        if args[0] in self.commands:
            if default:
                return default, self.inner(default), list(args)
            names = config_names(self.kind)
            if args[0] not in names and not ctx.resilient_parsing:
                listed = f"configured in {config_root(self.kind)}: {', '.join(names) or 'none'}"
                ctx.fail(
                    f"which {self.noun}? write {self.name} ID {args[0]} ({listed}), "
                    f"or set {self.variable}"
                )
        elif args[0].startswith("-"):
            raise click.NoSuchOption(args[0], ctx=ctx)
        return args[0], self.inner(args[0]), list(args[1:])

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the ids that are configured and the commands that each has."""
        from nightjar.config.paths import config_names, config_root

        names = config_names(self.kind)
        with formatter.section(f"{self.noun} ids in {config_root(self.kind)}"):
            formatter.write_text(", ".join(names) or f"none; set {self.kind.upper()}_CONFIG_ROOT")
        self.inner("ID").format_commands(ctx, formatter)


# --- running ------------------------------------------------------------------------------------


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
