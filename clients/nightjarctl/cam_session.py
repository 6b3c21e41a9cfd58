# SPDX-License-Identifier: BSD-3-Clause
"""What the verbs of ``cam`` share: which camera, which kind it is, sending and following."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from nightjar.config.paths import config_path, read_json
from nightjar.errors import Code, ConfigError, InvalidArgument, Refused
from nightjarctl import app

if TYPE_CHECKING:
    from nightjarctl.connection import Connection, Operation

KIND = "camd"
Function = TypeVar("Function", bound=Callable[..., Any])

INSTEAD = {
    "set_window": "crop", "set_crop": "window", "start": "start", "last": "status",
}  # fmt: skip
"""Commands that one kind of camera lacks -> the verb that comes nearest at the other."""


def identity() -> str:
    """Return the camera id of this command line."""
    context = click.get_current_context()
    return (context.parent.info_name if context.parent else None) or ""


def camera(session: app.Session, *, waits: bool = False) -> Connection:
    """Return the connection; where the command waits, ``--timeout`` is not that of the calls."""
    connection = session.configured(KIND, identity())
    if waits:
        connection.timeout_s = app.DEFAULT_TIMEOUT_S
    return connection


def is_fast(session: app.Session) -> bool:
    """Tell whether this camera streams: its configuration says it, else the daemon does."""
    try:
        return read_json(config_path(KIND, identity())).get("mode") == "stream"
    except ConfigError:
        commands = camera(session).describe()["commands"]
        return any(each["name"] == "set_crop" for each in commands)


def require(session: app.Session, command: str) -> bool:
    """Return whether this camera streams; refuse a command that its kind does not have.

    Raises
    ------
    Refused
        The other kind of camera has it.
    """
    from nightjar.api import camera as frames
    from nightjar.api import fast_camera

    fast = is_fast(session)
    table = fast_camera.COMMANDS if fast else frames.COMMANDS
    if all(each.name != command for each in table):
        verb = click.get_current_context().info_name
        what = "streams" if fast else "takes one exposure after the other"
        instead = f"; see: cam {identity()} {INSTEAD[command]}" if command in INSTEAD else ""
        raise Refused(
            f"camera {identity()} {what}: it has no {verb}{instead}", code=Code.UNSUPPORTED
        )
    return fast


def send(session: app.Session, command: str, line: str, **arguments: Any) -> None:
    """Send a command that is done when it replies, and confirm it."""
    require(session, command)
    value = camera(session).call(command, arguments)
    session.done({"command": command, "value": value}, line)


def begin(
    session: app.Session, command: str, what: str, follow: bool, **arguments: Any
) -> None:
    """Send a command that begins an operation; follow it to its end or say how to."""
    require(session, command)
    operation = camera(session, waits=follow).start_operation(command, arguments)
    if not follow:
        session.done(
            {"operation": operation.id},
            f"{what} began ({operation.id}); follow it: cam {identity()} wait",
        )
        return
    finish(session, operation, what)


def finish(
    session: app.Session, operation: Operation, what: str, *, is_ours: bool = True
) -> None:
    """Follow an operation and say how it ended."""
    from nightjarctl.follow import Subject, follow

    name = identity()
    stop = f"cam {name} {'abort' if operation.id.startswith('init') else 'stop or abort'}"
    subject = Subject(
        f"{what} of camera {name}", f"cam {name} wait, or cam {name} status", stop, is_ours
    )
    state = follow(session, operation, subject)
    ending = f": {state['message']}" if state["message"] else ""
    session.done(state, f"{what} of camera {name} is done{ending}")


def following(default: bool | None) -> Callable[[Function], Function]:
    """Return the option pair ``--wait/--no-wait``."""
    return click.option(
        "--wait/--no-wait", "wait", default=default,
        help="Wait for the end and show progress "
        f"(default: {'yes' if default else 'no' if default is False else 'as it suits'}).",
    )  # fmt: skip


def number(text: str, what: str) -> float:
    """Return a number that a person typed.

    Raises
    ------
    InvalidArgument
        It is none.
    """
    try:
        value = float(text)
    except ValueError:
        raise InvalidArgument(f"{what} must be a number, not {text!r}") from None
    if value - value != 0:
        raise InvalidArgument(f"{what} must be a finite number, not {text!r}")
    return value


def whole(text: str, what: str) -> int:
    """Return a whole number that a person typed.

    Raises
    ------
    InvalidArgument
        It is none.
    """
    try:
        return int(text)
    except ValueError:
        raise InvalidArgument(f"{what} must be a whole number, not {text!r}") from None


def names_in(key: str, *more: str) -> Any:
    """Return a completion of the names that the camera's status lists under `key`."""

    def complete(context: click.Context, _parameter: Any, incomplete: str) -> list[str]:
        from nightjarctl.completion import identity_of, status_words

        names = [*status_words(KIND, identity_of(context), key), *more]
        return [name for name in names if name.startswith(incomplete)]

    return complete


def words(*choices: str) -> Any:
    """Return a completion of fixed words for an argument that takes numbers as well."""

    def complete(_context: Any, _parameter: Any, incomplete: str) -> list[str]:
        return [choice for choice in choices if choice.startswith(incomplete)]

    return complete


def state_words(*kinds: str) -> Any:
    """Return a completion of the states that these enumerations of `nightjar.api.states` have."""

    def complete(_context: Any, _parameter: Any, incomplete: str) -> list[str]:
        from nightjar.api import states

        names = {each.name for kind in kinds for each in getattr(states, kind)}
        return sorted(name for name in names if name.startswith(incomplete.upper()))

    return complete
