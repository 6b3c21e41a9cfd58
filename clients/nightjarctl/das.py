# SPDX-License-Identifier: BSD-3-Clause
"""``das``: the data acquisition.

A site has one as a rule; ``--id`` (or the environment variable ``DAS_ID``) chooses where there are
several. CHANNELS are numbers (``12``), ranges (``64-87``) or names (``trck_das``, ``bolometers``).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from nightjar.api.das import FAULT_KINDS, PLOTS
from nightjar.cli.numbers import FINITE, FiniteRange
from nightjar.errors import Code, NightjarError, StorageError, TimedOut, Unreachable
from nightjarctl import app, one_daemon
from nightjarctl.das_lines import (
    channel_lines,
    check_lines,
    map_lines,
    status_lines,
    trace_lines,
    watch_lines,
    watch_summary,
)

if TYPE_CHECKING:
    from nightjarctl.connection import Connection

KIND = "dasd"
PLOT_S = 60.0
Function = Callable[..., Any]


@app.group("das", "The data acquisition: record, look at channels, check before the night.")
def das() -> None:
    """Hold the commands."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``das``."""
    return app.run(das, arguments)


# --- helpers ------------------------------------------------------------------------------------


_id_option = one_daemon.id_option(
    "Which DAS: the id of its configuration, or its registered name.", "DAS_ID"
)
_CHANNELS = click.argument(
    "channels", nargs=-1,
    shell_complete=one_daemon.complete_from(KIND, "DAS_ID", "channel_names"),
)  # fmt: skip
_SECONDS = click.option(
    "--seconds", type=FiniteRange(0.1, 60), default=10.0, show_default=True,
    help="How far to look back.",
)  # fmt: skip


# --- looking ------------------------------------------------------------------------------------


@das.command()
@_id_option
@app.pass_session
def status(session: app.Session, identity: str | None) -> None:
    """Show what is recorded where, what was lost, and how ADC, clock, disk and telescope are."""
    value = session.only(KIND, identity).status()
    session.result(value, status_lines(value, session.paint))


@das.command()
@_CHANNELS
@_id_option
@app.pass_session
def channels(session: app.Session, channels: tuple[str, ...], identity: str | None) -> None:
    """List CHANNELS with module, input and name; without any, those in use."""
    daemon = session.only(KIND, identity)
    rows = daemon.call("channels", is_safe=True)
    if channels:
        told = daemon.call("trace", {"channels": list(channels), "points": 1}, is_safe=True)
        chosen = {row["channel"] for row in told["channels"]}
        rows = [row for row in rows if row["channel"] in chosen]
    else:
        rows = [row for row in rows if row["kind"] is not None]
    session.result(rows, channel_lines(rows))


@das.command("map")
@_id_option
@app.pass_session
def show_map(session: app.Session, identity: str | None) -> None:
    """Show the channel map: groups of channels, and the digest that files carry."""
    value = session.only(KIND, identity).call("map", is_safe=True)
    session.result(value, map_lines(value))


@das.command()
@_CHANNELS
@click.option(
    "--interval", type=app.Seconds(), default=1.0, show_default=True, metavar="SECONDS",
    help="Time between two looks.",
)  # fmt: skip
@_id_option
@app.pass_session
def watch(
    session: app.Session, channels: tuple[str, ...], interval: float, identity: str | None
) -> None:
    """Show levels, noise, dead and saturated channels and lines until Ctrl-C.

    With CHANNELS also these, one by one. In a pipe one line a look; --timeout ends it.
    """
    daemon = session.only(KIND, identity)
    daemon.timeout_s = app.DEFAULT_TIMEOUT_S  # --timeout is that of the watching
    words = list(channels)
    if words:  # a wrong name is told before anything is shown
        daemon.call("trace", {"channels": words, "points": 1}, is_safe=True)
    one_daemon.watch(
        session, interval, lambda: _screen(session, daemon, words),
        lambda: _look(session, daemon, words),
    )  # fmt: skip


def _asked(daemon: Connection, words: list[str]) -> dict[str, Any]:
    levels: dict[str, Any] = daemon.call("levels", timeout_s=app.DEFAULT_TIMEOUT_S, is_safe=True)
    if words:
        told = daemon.call("trace", {"channels": words, "points": 1}, is_safe=True)
        chosen = {row["channel"] for row in told["channels"]}
        levels["chosen"] = [row for row in levels["channels"] if row["channel"] in chosen]
    return levels


def _look(session: app.Session, daemon: Connection, words: list[str]) -> None:
    try:
        levels = _asked(daemon, words)
    except (Unreachable, TimedOut) as error:
        session.event(
            {"summary": "OFFLINE", "reason": error.message},
            f"{one_daemon.stamp()}  OFFLINE: {error.message}",
        )
        return
    session.event(levels, watch_summary(levels))


def _screen(session: app.Session, daemon: Connection, words: list[str]) -> list[str]:
    try:
        state = daemon.call("status", timeout_s=app.DEFAULT_TIMEOUT_S, is_safe=True)
        return watch_lines(state, _asked(daemon, words), session.paint)
    except (Unreachable, TimedOut) as error:
        return [f"{session.paint('OFFLINE', 'red', bold=True)}: {error.message}"]


@das.command()
@_CHANNELS
@_SECONDS
@click.option(
    "--kind", type=click.Choice(PLOTS), default="time", show_default=True,
    help="Course, noise spectrum, or least, mean and greatest of each channel.",
)  # fmt: skip
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, writable=True), metavar="FILE",
    help="Write a PNG there; an existing file is kept unless --overwrite is given.",
)  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace FILE.")
@_id_option
@app.pass_session
def plot(
    session: app.Session, channels: tuple[str, ...], seconds: float, kind: str,
    output: str | None, overwrite: bool, identity: str | None,
) -> None:  # fmt: skip
    """Plot CHANNELS: in the terminal, or with -o as a PNG file."""
    if not channels and kind != "levels":
        raise click.UsageError("name channels, e.g. das plot 0-3 trck_das")
    daemon = session.only(KIND, identity)
    asked = {"channels": list(channels), "seconds": seconds}
    if output is None:
        width = 60
        told = daemon.call("trace", {**asked, "points": width}, is_safe=True)
        session.result(told, trace_lines(told, session.paint))
        return
    if os.path.exists(output) and not overwrite:
        raise StorageError(f"{output} is there already; choose another name, or --overwrite")
    png, drawn = _fetched(session, daemon, {**asked, "kind": kind})
    try:
        with open(output, "wb" if overwrite else "xb") as file:
            file.write(png)
    except OSError as error:
        raise StorageError(f"{output} cannot be written: {error.strerror}") from error
    session.done(
        {"file": output, "bytes": len(png), "samples": drawn["samples"]},
        f"{output}: {len(png)} bytes, {drawn['samples']} samples a channel",
    )


def _fetched(
    session: app.Session, daemon: Connection, asked: dict[str, Any]
) -> tuple[bytes, dict[str, Any]]:
    """Have a picture drawn and return it."""
    import base64

    operation = daemon.start_operation("plot", asked)
    drawn: dict[str, Any] = operation.wait(session.timeout_s or PLOT_S)
    parts, offset = [], 0
    while offset is not None:
        part = daemon.call("plot_data", {"plot": drawn["plot"], "offset": offset}, is_safe=True)
        parts.append(base64.b64decode(part["data"]))
        offset = part["next"]
    return b"".join(parts), drawn


@das.command()
@click.option("--clock", is_flag=True, help="Only the clock, asked anew: before observing.")
@_id_option
@app.pass_session
def check(session: app.Session, clock: bool, identity: str | None) -> None:
    """Look whether a night can be recorded: clock, ADC, folders, disk, telescope's logs.

    Exit code 1 where something is not as it must be.
    """
    found = session.only(KIND, identity).call("check", {"clock": clock}, is_safe=True)
    session.result(found, check_lines(found, session.paint))
    failed = [row["what"] for row in found if row["level"] == "FAILED"]
    if failed and session.is_json:
        raise click.exceptions.Exit(Code.FAILED.exit_code)  # one document, not two
    if failed:
        raise NightjarError(f"not as it must be: {', '.join(failed)}", code=Code.FAILED)


# --- commanding ---------------------------------------------------------------------------------


@das.command()
@click.option("--test", is_flag=True, help="A test: asks for no telescope, needs --output.")
@click.option("--output", metavar="DIR", help="Folder of a test on the DAS's machine.")
@_id_option
@app.pass_session
def start(session: app.Session, test: bool, output: str | None, identity: str | None) -> None:
    """Begin to record.

    Refused unless the telescope's pointing and housekeeping are being logged.
    """
    if test != (output is not None):
        raise click.UsageError("a test needs --output DIR, and only a test has one")
    daemon = session.only(KIND, identity)
    value = daemon.call("start", {"test": test, "output": output})
    kind = "a test in" if value["is_test"] else "in"
    session.done(value, f"recording {kind} {value['root']}")


@das.command()
@_id_option
@app.pass_session
def stop(session: app.Session, identity: str | None) -> None:
    """End the recording: the minute that runs is published as far as it is."""
    value = session.only(KIND, identity).call("stop", is_safe=True)
    files = f"{value['files']} file{'' if value['files'] == 1 else 's'}"
    last = f", the last is {value['file']}" if value["file"] else ""
    session.done(value, f"not recording; {files}, {value['samples']} samples{last}")


@das.command()
@click.argument("kind", type=click.Choice(FAULT_KINDS))
@click.option("--seconds", type=FiniteRange(0, 86_400), default=1.0, show_default=True,
              help="How long; 0: until cleared.")  # fmt: skip
@click.option("--channel", type=click.IntRange(0), help="Of stuck.")
@click.option("--amount", type=FINITE, default=0.0, help="Of late and clock_step, seconds.")
@_id_option
@app.pass_session
def fault(
    session: app.Session, kind: str, seconds: float, channel: int | None, amount: float,
    identity: str | None,
) -> None:  # fmt: skip
    """Have a simulated ADC fail."""
    asked = {"kind": kind, "seconds": seconds, "channel": channel, "amount": amount}
    value = session.only(KIND, identity).call("fault", asked)
    session.done(value, f"the simulated ADC was told: {kind}")


if __name__ == "__main__":
    sys.exit(main())
