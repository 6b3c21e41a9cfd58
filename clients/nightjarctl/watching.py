# SPDX-License-Identifier: BSD-3-Clause
"""Commands that look at a camera for a while: ``watch``, ``wait``, ``log``."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from nightjar.api.states import CameraState, CoolerMode, Summary
from nightjar.config.paths import config_path, read_json
from nightjar.errors import ConfigError, InvalidArgument, NightjarError, TimedOut, Unreachable
from nightjarctl import app, render
from nightjarctl.connection import Connection

WAIT_S = 3600.0
_POLL_S = 0.2
_ABSENCE_S = 30.0


def _look(connection: Connection) -> tuple[dict[str, Any] | None, str]:
    """Return the snapshot, or None and why there is none."""
    try:
        return connection.status(), ""
    except (Unreachable, TimedOut) as error:
        return None, error.message


# --- watch --------------------------------------------------------------------------------------


def watch_camera(
    session: app.Session, connection: Connection, identity: str, interval_s: float
) -> None:
    """Show the status until Ctrl-C; a daemon that goes away is shown as such and waited for."""
    if session.is_json or not app.is_terminal(sys.stdout):
        _watch_lines(session, connection, interval_s)
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(no_color=not session.has_color(), highlight=False)
    with Live(console=console, auto_refresh=False) as live:
        while True:
            snapshot, reason = _look(connection)
            if snapshot is None:
                offline = session.paint("OFFLINE", "red", bold=True)
                lines = [f"{render.INDENT}Camera daemon is {offline}", f"{render.INDENT}{reason}"]
            else:
                lines = render.status_lines(snapshot, session.paint)
            stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
            head = f"camera {identity}  {stamp} UTC  (Ctrl-C ends)"
            live.update(Text.from_ansi("\n".join([head, *lines])), refresh=True)
            time.sleep(interval_s)


def _watch_lines(session: app.Session, connection: Connection, interval_s: float) -> None:
    told: Any = None
    while True:
        snapshot, reason = _look(connection)
        seen = snapshot or {"summary": "OFFLINE", "reason": reason}
        news = {key: value for key, value in seen.items() if key not in ("time", "free_bytes")}
        if not session.is_json:
            keys = ("summary", "state", "frame_number", "frames_published", "reason")
            news = {key: seen.get(key) for key in keys}
        if news != told:
            told = news
            session.event(seen, one_line(seen))
        time.sleep(interval_s)


def one_line(snapshot: Mapping[str, Any]) -> str:
    """Return a snapshot in one line, for a pipe."""
    stamp = str(snapshot.get("time") or time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()))[:19]
    words = [stamp, str(snapshot.get("summary"))]
    if "state" not in snapshot:
        return "  ".join([*words, str(snapshot.get("reason", ""))])
    words.append(str(snapshot["state"]))
    if snapshot.get("mode") == "stream":
        from nightjarctl.fast_render import one_line_words

        return "  ".join([*words, *one_line_words(snapshot)])
    if snapshot.get("operation"):
        limit = snapshot.get("sequence_frame_limit") or "continuous"
        words.append(f"frames {snapshot.get('sequence_frame_count')} / {limit}")
    if snapshot.get("temperature") is not None:
        words.append(f"{snapshot['temperature']:.1f} C {snapshot.get('cooler_mode')}")
    if snapshot.get("last_file"):
        words.append(str(snapshot["last_file"]))
    return "  ".join(words)


# --- wait ---------------------------------------------------------------------------------------


def _known(names: Sequence[str], allowed: set[str], what: str) -> set[str]:
    wanted = {name.upper() for name in names}
    unknown = wanted - allowed
    if unknown:
        raise InvalidArgument(
            f"no {what} {', '.join(sorted(unknown))}; there are: {', '.join(sorted(allowed))}"
        )
    return wanted


def wait_for_camera(
    session: app.Session,
    connection: Connection,
    identity: str,
    states: Sequence[str],
    coolers: Sequence[str],
) -> None:
    """Return when the camera is in one of the states and its cooler in one of the modes.

    Raises
    ------
    TimedOut
        The deadline passed; the message tells the last state.
    NightjarError
        The camera is in FAULT, and that was not waited for.
    Unreachable
        The daemon was not there, or is away for longer than 30 s.
    """
    every_state = {each.name for kind in (Summary, CameraState) for each in kind}
    wanted = _known(states, every_state, "state")
    modes = _known(coolers, {mode.name for mode in CoolerMode}, "cooler mode")
    limit_s = WAIT_S if session.timeout_s is None else session.timeout_s
    deadline = time.monotonic() + limit_s
    goal = " and ".join(
        text for text in (" or ".join(sorted(wanted)), " or ".join(sorted(modes))) if text
    )
    snapshot = connection.status()
    seen = time.monotonic()
    while not _is_reached(snapshot, wanted, modes):
        if snapshot["summary"] == "FAULT":
            reason = (snapshot.get("health") or {}).get("reason") or "no reason reported"
            raise NightjarError(f"camera {identity} is in FAULT, not {goal}: {reason}")
        if time.monotonic() >= deadline:
            cooler = f", cooler {snapshot['cooler_mode']}" if "cooler_mode" in snapshot else ""
            raise TimedOut(
                f"camera {identity} was not {goal} within {limit_s:g} s; it is "
                f"{snapshot['summary']}, {snapshot.get('state')}{cooler}",
                summary=snapshot["summary"], state=snapshot.get("state"),
            )  # fmt: skip
        time.sleep(max(0.0, min(_POLL_S, deadline - time.monotonic())))
        try:
            snapshot = connection.status()
            seen = time.monotonic()
        except (Unreachable, TimedOut):
            if time.monotonic() - seen > _ABSENCE_S or time.monotonic() >= deadline:
                raise
    session.done(snapshot, f"camera {identity} is {_present(snapshot, modes)}")


def _is_reached(snapshot: Mapping[str, Any], states: set[str], modes: set[str]) -> bool:
    here = {snapshot.get("summary"), snapshot.get("state")}
    return (not states or bool(states & here)) and (
        not modes or snapshot.get("cooler_mode") in modes
    )


def _present(snapshot: Mapping[str, Any], modes: set[str]) -> str:
    words = [str(snapshot.get("state") or snapshot.get("summary"))]
    if modes:
        words.append(f"cooler {snapshot.get('cooler_mode')}")
        if snapshot.get("temperature") is not None:
            words.append(f"{snapshot['temperature']:.1f} C")
    return ", ".join(words)


# --- log ----------------------------------------------------------------------------------------


def camera_log(session: app.Session, identity: str, count: int) -> None:
    """Print what a camera daemon wrote into the observatory log, oldest first."""
    source = read_json(config_path("camd", identity)).get("log_name")
    name = session.registry.log_daemon
    if name is None:
        raise ConfigError(f"{session.registry.path} names no log_daemon")
    found = session.daemon(name).call(
        "tail", {"count": count, "source": source}, is_safe=True
    )
    rows = found["messages"] if isinstance(found, dict) else found
    lines = []
    for row in rows:
        severity = str(row["severity"])
        word = session.paint(severity.ljust(7), render.SEVERITY_COLORS.get(severity))
        lines.append(f"{render.clock_text(row['time'])}  {word}  {row['text']}")
    session.result(rows, lines or [f"nothing from {source} in the log"])
