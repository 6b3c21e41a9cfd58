# SPDX-License-Identifier: BSD-3-Clause
"""``obslog``: read, search and write the observatory log.

There is one log at a site, the registry's ``log_daemon``, so no id is given; ``--daemon`` names
another one, by its registered name or by the id of its configuration.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from nightjar.api.obslog import MAX_PAGE, SEVERITIES
from nightjar.errors import Busy, ConfigError, StorageError, TimedOut, Unreachable
from nightjar.times import iso, parse_iso
from nightjarctl import app
from nightjarctl.render import INDENT, SEVERITY_COLORS, STATE_COLORS, Paint, health_lines, size_text

if TYPE_CHECKING:
    from nightjarctl.connection import Connection

_POLL_S = 1.0
_LATE_S = 60  # a message that took longer to arrive says so
_AGE = re.compile(r"(\d+(?:\.\d+)?)(s|m|min|h|d|w)\Z")
_AGE_S = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_AWAY = (Unreachable, TimedOut, StorageError, Busy)
_Function = Callable[..., Any]


class Moment(click.ParamType):  # type: ignore[type-arg]  # generic for checkers only
    """A time in UTC, ISO text, or an age such as ``90s``, ``30m``, ``2h``, ``3d``."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return ISO text or fail with a line that says what is allowed."""
        text = str(value).strip()
        age = _AGE.match(text)
        try:
            if age is not None:
                ago_s = float(age[1]) * _AGE_S[age[2]]
                return iso(max(0, time.time_ns() - round(ago_s * 1e9)))
            return iso(parse_iso(text))
        except (ValueError, OverflowError):
            self.fail(
                f"{text!r} is no time: write UTC as 2026-01-31, 2026-01-31T23:59:59, "
                "or an age as 30m, 2h, 3d", param, ctx,
            )  # fmt: skip


def _daemon_option(function: _Function) -> _Function:
    return click.option(
        "--daemon", "name", metavar="NAME",
        help="Another log than the registry's log_daemon: a registered name, or the id of a "
        "configuration in OBSLOGD_CONFIG_ROOT.",
    )(function)  # fmt: skip


def _filter_options(function: _Function) -> _Function:
    function = click.option(
        "--severity", type=click.Choice(SEVERITIES),
        help="Only messages of this severity or a graver one.",
    )(function)  # fmt: skip
    function = click.option(
        "--source", metavar="NAME",
        help="Only messages of this source; * stands for any letters: 'camd@*'.",
    )(function)  # fmt: skip
    return _daemon_option(function)


def _log(session: app.Session, name: str | None) -> Connection:
    if name is not None:
        return session.configured("obslogd", name)
    registered = session.registry.log_daemon
    if registered is None:
        raise ConfigError(
            f"the registry {session.registry.path} names no log_daemon; add it, or give --daemon"
        )
    return session.daemon(registered)


@app.group("obslog", "The observatory log: what daemons and people said.")
def obslog() -> None:
    """Hold the commands."""


@obslog.command()
@click.option(
    "-n", "--lines", "count", type=click.IntRange(1, MAX_PAGE), default=20, show_default=True,
    metavar="N", help="How many messages.",
)  # fmt: skip
@click.option(
    "-f", "--follow", is_flag=True,
    help="Go on with new messages as they arrive, until Ctrl-C or --timeout.",
)
@_filter_options
@app.pass_session
def tail(
    session: app.Session,
    count: int,
    follow: bool,
    name: str | None,
    source: str | None,
    severity: str | None,
) -> None:
    """Show the last messages, in the order in which they arrived."""
    daemon = _log(session, name)
    wanted = {"source": source, "severity": severity}
    # While following, --timeout is the time to follow, not that of one reply.
    timeout_s = app.DEFAULT_TIMEOUT_S if follow else session.call_timeout_s
    reply = daemon.call("tail", {"count": count, **wanted}, timeout_s=timeout_s, is_safe=True)
    if not follow:
        lines = [message_line(message, session.paint) for message in reply["messages"]]
        session.result(reply["messages"], lines)
        return
    _print(session, reply)
    _follow(session, daemon, wanted, reply["last_id"])


def _print(session: app.Session, reply: Mapping[str, Any]) -> None:
    for message in reply["messages"]:
        session.event(message, message_line(message, session.paint))


def _follow(
    session: app.Session, daemon: Connection, wanted: Mapping[str, Any], after: int
) -> None:
    """Print what arrives; a log that goes away is waited for."""
    started = time.monotonic()
    is_away = False
    while session.timeout_s is None or time.monotonic() - started < session.timeout_s:
        time.sleep(_POLL_S)
        try:
            reply = daemon.call(
                "tail", {"count": MAX_PAGE, "after": after, **wanted},
                timeout_s=app.DEFAULT_TIMEOUT_S, is_safe=True,
            )  # fmt: skip
        except _AWAY as error:
            if not is_away:
                session.note(f"{error.message}; waiting for it")
            is_away = True
            continue
        if is_away:
            session.note(f"{daemon.name} is back")
        is_away = False
        if reply["last_id"] < after:
            session.note(f"{daemon.name} has begun a new log")
            after = 0
            continue
        _print(session, reply)
        # A page may end before last_id: what one reply can hold is limited.
        after = reply["messages"][-1]["id"] if reply["messages"] else reply["last_id"]


@obslog.command()
@click.argument("text", nargs=-1)
@click.option(
    "--since", type=Moment(), help="Not before: UTC as 2026-01-31T23:59:59, or an age as 2h, 3d."
)
@click.option("--until", type=Moment(), help="Before that time; as --since.")
@click.option(
    "-n", "--limit", type=click.IntRange(min=1), default=100, show_default=True, metavar="N",
    help="How many messages, the newest that match.",
)  # fmt: skip
@_filter_options
@app.pass_session
def search(
    session: app.Session,
    text: tuple[str, ...],
    since: str | None,
    until: str | None,
    limit: int,
    name: str | None,
    source: str | None,
    severity: str | None,
) -> None:
    """Show messages that hold TEXT (in capitals or not), by time."""
    daemon = _log(session, name)
    wanted = {
        "text": " ".join(text), "since": since, "until": until, "source": source,
        "severity": severity,
    }  # fmt: skip
    found: list[dict[str, Any]] = []
    page = None
    while True:
        count = min(MAX_PAGE, limit - len(found))
        reply = daemon.call("search", {**wanted, "limit": count, "page": page}, is_safe=True)
        found += reply["messages"]
        page = reply["next"]
        if page is None or len(found) >= limit:
            break
    found.reverse()
    session.result(found, [message_line(message, session.paint) for message in found])
    if page is not None:
        session.note(f"older messages match too: --limit shows more, or --until {found[0]['time']}")
    elif not found:
        session.note("nothing found")


@obslog.command()
@click.argument("text", nargs=-1, required=True)
@click.option(
    "--severity", type=click.Choice(SEVERITIES), default="info", show_default=True,
    help="How grave it is.",
)  # fmt: skip
@click.option("--source", metavar="NAME", help="Who says it.  [default: user@host]")
@_daemon_option
@app.pass_session
def write(
    session: app.Session, text: tuple[str, ...], severity: str, source: str | None, name: str | None
) -> None:
    """Write TEXT into the log."""
    said_by = default_source() if source is None else source
    message = {
        "source": said_by, "severity": severity, "text": " ".join(text),
        "key": uuid.uuid4().hex,  # sent twice because a reply was lost, it is stored once
    }  # fmt: skip
    daemon = _log(session, name)
    stored = daemon.call("write", message, is_safe=True)
    session.done(stored, f"written at {_clock(stored['time'])} as {said_by}")


def default_source() -> str:
    """Return ``user@host`` of this process."""
    user = os.environ.get("USER") or os.environ.get("LOGNAME") or f"uid{os.getuid()}"
    return f"{user}@{socket.gethostname().partition('.')[0]}"


@obslog.command()
@_daemon_option
@app.pass_session
def status(session: app.Session, name: str | None) -> None:
    """Show whether the log can be written, and what it holds."""
    snapshot = _log(session, name).status()
    session.result(snapshot, status_lines(snapshot, session.paint))


# --- as lines of text ---------------------------------------------------------------------------


def _clock(time_text: str) -> str:
    """Return an ISO time with milliseconds and a blank."""
    return time_text[:23].replace("T", " ")


def message_line(message: Mapping[str, Any], paint: Paint) -> str:
    """Return a message as one line."""
    severity = str(message["severity"])
    color = SEVERITY_COLORS.get(severity)
    text = paint(str(message["text"]), color) if color else str(message["text"])
    late = ""
    if parse_iso(message["received"]) - parse_iso(message["time"]) > _LATE_S * 1_000_000_000:
        late = f" (arrived {_clock(message['received'])[:19]})"
    label = paint(f"{severity.upper():<7}", color, bold=color is not None)
    return f"{_clock(message['time'])}  {label}  {message['source']}: {text}{late}"


def status_lines(snapshot: Mapping[str, Any], paint: Paint) -> list[str]:
    """Return the status as lines."""
    summary, since = str(snapshot["summary"]), _clock(snapshot["state_since"])[:19]
    word = paint(summary, STATE_COLORS.get(summary), bold=True)
    lines = [
        f"Observatory log is {word} (database {snapshot['state']} since {since})",
        f"Database is {snapshot['database']}",
    ]
    if snapshot["messages"] is not None:
        lines.append(f"Messages: {snapshot['messages']}, {snapshot['stored']} since the start")
    if snapshot["last_time"] is not None:
        lines.append(
            f"Last message is of {_clock(snapshot['last_time'])[:19]} by {snapshot['last_source']}"
        )
    if snapshot["free_bytes"] is not None:
        lines.append(f"Space left is {size_text(snapshot['free_bytes'])}")
    lines += health_lines(snapshot, paint)
    error = snapshot["last_error"]
    if error:
        lines.append(f"Last error at {_clock(error['time'])[:19]}: {error['message']}")
    return [INDENT + line for line in lines]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``obslog``."""
    return app.run(obslog, arguments)


if __name__ == "__main__":
    sys.exit(main())
