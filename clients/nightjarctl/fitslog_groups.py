# SPDX-License-Identifier: BSD-3-Clause
"""What ``fitslog`` reads of a command line: groups, cameras, times, data types."""

from __future__ import annotations

import datetime as dt
import re
from typing import Any

import click

from nightjar.config.paths import config_names, config_path, read_json
from nightjar.errors import ConfigError, InvalidArgument
from nightjarctl import app

KIND = "fitslogd"
_CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?\Z")


def configured() -> dict[str, dict[str, list[str]]]:
    """Return the groups of every configuration: {id: {group: streams}}."""
    found: dict[str, dict[str, list[str]]] = {}
    for identity in config_names(KIND):
        try:
            value = read_json(config_path(KIND, identity))
        except ConfigError:
            continue  # said when the daemon that it is for is asked
        groups, streams = value.get("groups") or {}, value.get("streams") or {}
        if isinstance(groups, dict) and isinstance(streams, dict):
            found[identity] = {
                **{str(name): [str(each) for each in members] for name, members in groups.items()},
                **{str(name): [str(name)] for name in streams},
            }
    return found


class Groups(app.IdentityGroup):
    """``fitslog GROUP COMMAND``; ``fitslog status`` and ``fitslog top`` are for all groups."""

    kind = KIND
    noun = "group"
    placeholder = "GROUP"

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.subcommand_metavar = "GROUP COMMAND [ARGS]..."
        self.site: dict[str, click.Command] = {}
        """Commands that stand without a group."""

    @property
    def variable(self) -> str:
        """The environment variable that holds a default group."""
        return "FITSLOG_GROUP"

    def identities(self) -> list[str]:
        """Return the groups of all configurations."""
        return list(dict.fromkeys(group for groups in configured().values() for group in groups))

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the groups, and the commands that need none."""
        return [*super().list_commands(ctx), *self.site]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command that needs no group, or the commands of a group."""
        return self.site.get(cmd_name) or super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Take the group off the arguments where one is needed."""
        if args[0] in self.site:
            return args[0], self.site[args[0]], list(args[1:])
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List groups, their commands, and those that need no group."""
        super().format_commands(ctx, formatter)
        with formatter.section("Of all groups"):
            formatter.write_dl(
                [(name, one.get_short_help_str(80)) for name, one in self.site.items()]
            )


class DataType(click.Choice):  # type: ignore[type-arg]  # generic for checkers only
    """One of some words in capitals; typed in small letters they will do."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        """Return the word in capitals."""
        return super().convert(str(value).upper(), param, ctx)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[Any]:
        """Return the words that begin so."""
        return super().shell_complete(ctx, param, incomplete.upper())


def moment(text: str) -> str:
    """Return a time that a person typed as ISO text: ISO, or HH:MM[:SS] for the next such UTC.

    Raises
    ------
    InvalidArgument
        It is no time.
    """
    from nightjar.times import iso, parse_iso

    match = _CLOCK.match(text)
    if match is not None:
        hour, minute, second = (int(part or 0) for part in match.groups())
        now = dt.datetime.now(dt.UTC)
        then = now.replace(hour=hour, minute=minute, second=second, microsecond=0)
        if then <= now:
            then += dt.timedelta(days=1)
        return then.replace(tzinfo=None).isoformat()
    try:
        return iso(parse_iso(text))
    except ValueError:
        raise InvalidArgument(
            f"--until {text!r}: write HH:MM[:SS] or YYYY-MM-DDTHH:MM:SS, UTC"
        ) from None


def complete_cameras(context: click.Context, _parameter: Any, incomplete: str) -> list[str]:
    """Return the numbers and names of the group's streams."""
    group = (context.parent.info_name if context.parent else None) or ""
    found = [s for groups in configured().values() for s in groups.get(group, [])]
    words = ["-1", *(str(n + 1) for n in range(len(found))), *found]
    return [word for word in words if word.startswith(incomplete)]
