# SPDX-License-Identifier: BSD-3-Clause
"""``streamlink``: the links that carry streams between hosts.

A site has a stream link daemon per host, and a link has an end in two of them. Commands reach all
daemons that are configured; ``--id`` (or the environment variable ``STREAMLINK_ID``) chooses one.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from nightjar.api.streamlink import BUDGET_LIMITS, RATE_LIMITS
from nightjar.cli.numbers import FiniteRange
from nightjar.errors import Code, ConfigError, NightjarError, Refused, TimedOut, Unreachable
from nightjarctl import app, one_daemon, render

if TYPE_CHECKING:
    from nightjarctl.connection import Connection

KIND = "streamlinkd"
_POLL_S = 0.05
_COLORS = {
    "LIVE": "green", "QUIET": "yellow", "CONNECTING": "yellow", "STARTING": "yellow",
    "STALE": "red", "ERROR": "red", "WAITING": "yellow",
}  # fmt: skip
_COUNTS = (
    ("lost", "lost", "red"), ("lost_on_wire", "lost on the wire", "red"), ("torn", "torn", "red"),
    ("dropped", "dropped", "red"), ("duplicated", "came twice", "yellow"),
)  # fmt: skip
Function = Callable[..., Any]
Status = dict[str, Any]


@app.group("streamlink", "Links that carry shared-memory streams between hosts.")
def streamlink() -> None:
    """Hold the commands."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``streamlink``."""
    return app.run(streamlink, arguments)


# --- helpers ------------------------------------------------------------------------------------


def _id_option(function: Function) -> Function:
    return click.option(
        "--id", "identity", metavar="ID",
        help="Only this daemon: the id of its configuration, or its registered name.  "
        "[default: $STREAMLINK_ID, else all that are configured]",
    )(function)  # fmt: skip


def _daemons(session: app.Session, identity: str | None) -> dict[str, Connection]:
    """Return the daemons that are meant, by id."""
    from nightjar.config.paths import config_names, config_root

    chosen = identity or os.environ.get("STREAMLINK_ID")
    names = [chosen] if chosen else config_names(KIND)
    if not names:
        raise ConfigError(
            f"no {KIND} is configured in {config_root(KIND)}; "
            f"set {KIND.upper()}_CONFIG_ROOT, or name one with --id"
        )
    return {name: session.configured(KIND, name) for name in names}


def _ask_all(
    daemons: Mapping[str, Connection],
) -> tuple[dict[str, Status], dict[str, NightjarError]]:
    """Return the status of those that answer, and why the others do not."""
    found: dict[str, Status] = {}
    failed: dict[str, NightjarError] = {}
    for name, daemon in daemons.items():
        try:
            found[name] = daemon.status()
        except (Unreachable, TimedOut) as error:
            failed[name] = error
    return found, failed


def _link_names(context: click.Context, _parameter: Any, incomplete: str) -> list[str]:
    from nightjar.config.paths import config_names
    from nightjarctl.completion import status_words

    chosen = context.params.get("identity") or os.environ.get("STREAMLINK_ID")
    names = {
        word
        for daemon in ([chosen] if chosen else config_names(KIND))
        for word in status_words(KIND, daemon, "links")
    }
    return sorted(name for name in names if name.startswith(incomplete))


_LINK = click.argument("link", shell_complete=_link_names)
_LINKS = click.argument("links", nargs=-1, shell_complete=_link_names)


# --- looking ------------------------------------------------------------------------------------


@streamlink.command()
@_LINKS
@_id_option
@app.pass_session
def status(session: app.Session, links: tuple[str, ...], identity: str | None) -> None:
    """Show all links, or those that are named: state, peers, rates, and what was lost."""
    found, failed = _ask_all(_daemons(session, identity))
    if not found:
        raise next(iter(failed.values()))
    _require_known(found, links)
    lines = _status_lines(found, failed, links, session.paint)
    session.result(_chosen(found, failed, links), lines)
    for error in failed.values():
        raise error


def _require_known(found: Mapping[str, Status], links: Sequence[str]) -> None:
    known = {link for one in found.values() for link in one["links"]}
    for link in links:
        if link not in known:
            raise Refused(
                f"no link {link!r}; there are: {', '.join(sorted(known)) or 'none'}",
                code=Code.UNKNOWN_ITEM,
            )


def _chosen(
    found: Mapping[str, Status], failed: Mapping[str, NightjarError], links: Sequence[str]
) -> dict[str, Any]:
    """Return the statuses by daemon, for ``--json``."""
    value: dict[str, Any] = {
        name: {
            **one,
            "links": {k: v for k, v in one["links"].items() if not links or k in links},
        }
        for name, one in found.items()
    }
    for name, error in failed.items():
        value[name] = {"summary": "OFFLINE", "reason": error.message}
    return value


@streamlink.command()
@_LINKS
@click.option(
    "--interval", type=app.Seconds(), default=1.0, show_default=True, metavar="SECONDS",
    help="Time between two looks.",
)  # fmt: skip
@_id_option
@app.pass_session
def watch(
    session: app.Session, links: tuple[str, ...], interval: float, identity: str | None
) -> None:
    """Show the status again and again until Ctrl-C; in a pipe, one line whenever a state changes.

    With --timeout it ends by itself.
    """
    daemons = _daemons(session, identity)
    found, failed = _ask_all(daemons)
    if not failed:
        _require_known(found, links)
    told: dict[str, Any] = {}

    def screen() -> list[str]:
        found, failed = _ask_all(daemons)
        lines = _status_lines(found, failed, links, session.paint)
        return [one_daemon.heading("stream links"), *lines]

    def tell() -> None:
        found, failed = _ask_all(daemons)
        for name, value in _chosen(found, failed, links).items():
            states = {link: one["state"] for link, one in value.get("links", {}).items()}
            news = states or value["summary"]
            if told.get(name) != news:
                told[name] = news
                text = "  ".join(f"{link} {state}" for link, state in states.items())
                session.event(
                    {"id": name, **value}, f"{one_daemon.stamp()}  {name}  {text or news}"
                )

    one_daemon.watch(session, interval, screen, tell)


# --- commanding ---------------------------------------------------------------------------------


def _command(
    session: app.Session, identity: str | None, command: str, links: tuple[str, ...], every: bool
) -> None:
    """Give a command to every daemon that has one of the links."""
    if bool(links) == every:
        raise click.UsageError("name links, or give --all" if not every else "links, or --all")
    daemons = _daemons(session, identity)
    found, failed = _ask_all(daemons)
    if not found:
        raise next(iter(failed.values()))
    _require_known(found, links)
    done: dict[str, Any] = {}
    for name, one in found.items():
        mine = [link for link in one["links"] if every or link in links]
        if mine:
            done[name] = daemons[name].call(command, {"links": mine}, is_safe=command != "restart")
    if command == "stop":
        done = _until_stopped(daemons, done, session.call_timeout_s)
    lines = [
        f"{link} of {name} is {state}" for name, states in done.items()
        for link, state in states.items()
    ]  # fmt: skip
    session.done(done, "; ".join(lines) or "nothing to do")
    for error in failed.values():
        raise error


def _until_stopped(
    daemons: Mapping[str, Connection], told: dict[str, Any], timeout_s: float
) -> dict[str, Any]:
    """Return the states of links once their processes have ended, which is soon."""
    deadline = time.monotonic() + timeout_s
    while True:
        running = {
            name: [link for link, state in states.items() if state != "STOPPED"]
            for name, states in told.items()
        }
        if not any(running.values()):
            return told
        if time.monotonic() > deadline:
            which = "; ".join(f"{', '.join(links)} of {n}" for n, links in running.items() if links)
            raise TimedOut(
                f"told to stop, and not stopped within {timeout_s:g} s: {which}; its process is "
                "still ending: `streamlink status` tells when it has, the daemon's journal why not"
            )
        time.sleep(_POLL_S)
        for name, links in running.items():
            if links:
                now = daemons[name].status()["links"]
                told[name] = {**told[name], **{link: now[link]["state"] for link in links}}


_ALL = click.option("--all", "every", is_flag=True, help="All links.")


@streamlink.command()
@_LINKS
@_ALL
@_id_option
@app.pass_session
def start(
    session: app.Session, links: tuple[str, ...], every: bool, identity: str | None
) -> None:
    """Start LINKS at both ends, as far as their daemons are configured here."""
    _command(session, identity, "start", links, every)


@streamlink.command()
@_LINKS
@_ALL
@_id_option
@app.pass_session
def stop(session: app.Session, links: tuple[str, ...], every: bool, identity: str | None) -> None:
    """Stop LINKS until they are started again or their daemons are; wait until they have."""
    _command(session, identity, "stop", links, every)


@streamlink.command()
@_LINKS
@_ALL
@_id_option
@app.pass_session
def restart(
    session: app.Session, links: tuple[str, ...], every: bool, identity: str | None
) -> None:
    """Stop and start LINKS."""
    _command(session, identity, "restart", links, every)


@streamlink.command()
@_LINK
@click.argument("frames_per_s", type=FiniteRange(*RATE_LIMITS))
@_id_option
@app.pass_session
def rate(session: app.Session, link: str, frames_per_s: float, identity: str | None) -> None:
    """Set how many frames per second a LINK of policy latest sends of each stream."""
    _set(session, identity, link, {"rate": frames_per_s})


@streamlink.command()
@_LINK
@click.argument("mbit_per_s", type=FiniteRange(*BUDGET_LIMITS))
@_id_option
@app.pass_session
def budget(session: app.Session, link: str, mbit_per_s: float, identity: str | None) -> None:
    """Set how many Mbit/s a LINK of policy latest may use for all its streams together."""
    _set(session, identity, link, {"budget": mbit_per_s})


def _set(session: app.Session, identity: str | None, link: str, change: dict[str, Any]) -> None:
    daemons = _daemons(session, identity)
    found, failed = _ask_all(daemons)
    if not found:
        raise next(iter(failed.values()))
    _require_known(found, [link])
    having = [name for name, one in found.items() if link in one["links"]]
    # Both ends may have the same name; only the sender of a link of policy latest has a rate.
    senders = [
        name for name in having
        if (found[name]["links"][link]["role"], found[name]["links"][link]["policy"])
        == ("send", "latest")
    ]  # fmt: skip
    now = daemons[(senders or having)[0]].call("set", {"link": link, **change}, is_safe=True)
    session.done(now, f"{link}: {now['rate']:g} frames/s, within {now['budget']:g} Mbit/s")


# --- as lines of text ---------------------------------------------------------------------------


def _status_lines(
    found: Mapping[str, Status],
    failed: Mapping[str, NightjarError],
    links: Sequence[str],
    paint: render.Paint,
) -> list[str]:
    lines = []
    for name, one in found.items():
        shown = {k: v for k, v in one["links"].items() if not links or k in links}
        if links and not shown:
            continue
        lines.append(f"{name} ({one['daemon']}):" + ("" if shown else " no links"))
        for link, value in shown.items():
            lines += link_lines(link, value, paint)
    for name, error in failed.items():
        lines.append(f"{name}: {paint('OFFLINE', 'red', bold=True)}: {error.message}")
    return lines


def link_lines(name: str, link: Mapping[str, Any], paint: render.Paint) -> list[str]:
    """Return a link as lines."""
    state = str(link["state"])
    word = paint(state, _COLORS.get(state), bold=True)
    way = "to" if link["role"] == "send" else "from"
    other = link["peer"] or (link["address"] if link["role"] == "send" else None)
    reason = f": {link['reason']}" if link["reason"] else ""
    sealed = ", sealed" if link["is_sealed"] else ""
    head = f"Link {paint(name, bold=True)} ({link['policy']}{sealed})"
    head += f" {way} {other}" if other and state != "STOPPED" else ""
    lines = [f"{head} is {word}{reason}"]
    if state == "STOPPED":
        return [render.INDENT + line for line in lines]
    within = ""
    if link["budget"] is not None:
        within = f" of {link['budget']:g} (at most {link['wanted_rate']:g} frames/s each)"
    latency = "" if link["latency_ms"] is None else f", {link['latency_ms']:.2f} ms old on arrival"
    lines.append(f"{link['rate']:.1f} frames/s, {link['mbit_per_s']:.1f} Mbit/s{within}{latency}")
    for stream, value in link["streams"].items():
        lines.append("   " + _stream_line(stream, value, paint))
    notes = [
        f"{link[key]} {words}"
        for key, words in (
            ("reconnects", "reconnections"), ("bad_messages", "messages refused"),
            ("restarts", "restarts of its process"),
        )
        if link[key]
    ]  # fmt: skip
    if notes:
        lines.append(", ".join(notes))
    error = link["last_error"]
    if error and state != "LIVE":
        lines.append(f"Last error at {render.clock_text(error['time'])}: {error['message']}")
    return [render.INDENT + line for line in lines]


def _stream_line(name: str, stream: Mapping[str, Any], paint: render.Paint) -> str:
    state = str(stream["state"])
    words = [paint(state, _COLORS.get(state))]
    if stream["shape"]:
        words.append(f"{'x'.join(map(str, stream['shape']))} {stream['dtype']}")
    words.append(f"{stream['frames']} frames")
    if stream["counter"]:
        words.append(f"last is number {stream['counter']}")
    words += [
        paint(f"{stream[key]} {text}", color) for key, text, color in _COUNTS if stream[key]
    ]
    if stream["rate"]:
        words.append(f"{stream['rate']:.1f}/s")
    label = name if name == stream["wire_name"] else f"{name} ({stream['wire_name']})"
    # Why a live one is slow stands with the link.
    reason = f": {stream['reason']}" if stream["reason"] and state != "LIVE" else ""
    return f"{label} {', '.join(words)}{reason}"


if __name__ == "__main__":
    sys.exit(main())
