# SPDX-License-Identifier: BSD-3-Clause
"""``telog``: the telescope's logs and the copies of raw files.

A site has one as a rule; ``--id`` (or the environment variable ``TELOG_ID``) chooses where there
are several.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from nightjar.api.telog import LOOK_BACK_H, STREAMS, FileState
from nightjar.cli.numbers import FiniteRange
from nightjarctl import app, one_daemon
from nightjarctl.telog_lines import (
    file_lines,
    minute_lines,
    one_line,
    quarantine_lines,
    recovered_text,
    started_lines,
    status_lines,
    telescope_lines,
)

if TYPE_CHECKING:
    pass

KIND = "telogd"
Function = Callable[..., Any]


@app.group("telog", "The telescope's logs: start them before the DAS, see what is missing.")
def telog() -> None:
    """Hold the commands."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``telog``."""
    return app.run(telog, arguments)


# --- helpers ------------------------------------------------------------------------------------


_id_option = one_daemon.id_option(
    "Which logs: the id of their configuration, or the registered name.", "TELOG_ID"
)
_DAY = click.argument(
    "day", required=False, shell_complete=one_daemon.complete_from(KIND, "TELOG_ID", "days")
)


def _begin(
    session: app.Session, identity: str | None, command: str, what: str, wait: bool,
    **arguments: Any,
) -> dict[str, Any] | None:  # fmt: skip
    daemon = session.only(KIND, identity)
    return one_daemon.begin(
        session, daemon, command, what, wait, "telog watch", "telog stop", **arguments
    )


# --- commanding ---------------------------------------------------------------------------------


@telog.command()
@one_daemon.wait_option
@_id_option
@app.pass_session
def start(session: app.Session, wait: bool, identity: str | None) -> None:
    """Start all helpers that are configured; wait until pointing and housekeeping are fresh.

    Do this before `das start`. Where something is not fresh in time it says what and why (exit
    code 6); the helpers go on trying.
    """
    state = _begin(session, identity, "start", "starting the telescope's logs", wait)
    if state is not None:
        session.result(state, started_lines(state["result"]))


@telog.command()
@_id_option
@app.pass_session
def stop(session: app.Session, identity: str | None) -> None:
    """Stop the helpers: minutes that run are published as far as they are."""
    daemon = session.only(KIND, identity)
    value = daemon.call("stop", timeout_s=session.timeout_s or 30.0, is_safe=True)
    names = ", ".join(value["stopped"]) or "nothing was running"
    session.done(value, f"stopped: {names}")


@telog.command()
@click.option(
    "--hours", type=FiniteRange(0.02, LOOK_BACK_H), default=LOOK_BACK_H, metavar="HOURS",
    help="How far back.  [default: 23 h 50 min]",
)  # fmt: skip
@one_daemon.wait_option
@_id_option
@app.pass_session
def recover(session: app.Session, hours: float, wait: bool, identity: str | None) -> None:
    """Look back in the telescope's ring and at the DAS host; copy what is missing here.

    The ring is overwritten each day: later than 23 h 50 min a minute is lost.
    """
    state = _begin(session, identity, "recover", "looking back", wait, hours=hours)
    if state is not None:
        session.done(state, recovered_text(state["result"]))


# --- looking ------------------------------------------------------------------------------------


@telog.command()
@_id_option
@app.pass_session
def status(session: app.Session, identity: str | None) -> None:
    """Show which helpers run, how fresh pointing and housekeeping are, and what is behind."""
    value = session.only(KIND, identity).status()
    session.result(value, status_lines(value, session.paint))


@telog.command()
@_id_option
@app.pass_session
def telescope(session: app.Session, identity: str | None) -> None:
    """Show the newest knowledge of the telescope: target, place, offsets, its age."""
    value = session.only(KIND, identity).call("telescope", is_safe=True)
    session.result(value, telescope_lines(value))


@telog.command()
@_DAY
@click.option("--all", "everything", is_flag=True, help="Name every minute, not spans.")
@_id_option
@app.pass_session
def minutes(
    session: app.Session, day: str | None, everything: bool, identity: str | None
) -> None:
    """Show for each hour of DAY which minutes are whole, partial or missing.

    DAY is a UT day, YYYYMMDD; today if not given.
    """
    value = session.only(KIND, identity).call("minutes", {"day": day}, is_safe=True)
    session.result(value, minute_lines(value, session.paint, everything=everything))


@telog.command()
@_DAY
@click.option("--stream", type=click.Choice(STREAMS), help="Only of this stream.")
@click.option(
    "--state", type=click.Choice([one.value for one in FileState]), help="Only in this state."
)
@click.option(
    "-n", "--count", type=click.IntRange(1, 3000), default=60, show_default=True, help="How many."
)
@_id_option
@app.pass_session
def files(
    session: app.Session, day: str | None, stream: str | None, state: str | None, count: int,
    identity: str | None,
) -> None:  # fmt: skip
    """Show the ledger: files of DAY or of all days, newest first, where they came from."""
    wanted = {"day": day, "stream": stream, "state": state, "count": count}
    value = session.only(KIND, identity).call("files", wanted, is_safe=True)
    session.result(value, file_lines(value["files"], session.paint))


@telog.command()
@click.option(
    "-n", "--count", type=click.IntRange(1, 3000), default=60, show_default=True, help="How many."
)
@_id_option
@app.pass_session
def quarantine(session: app.Session, count: int, identity: str | None) -> None:
    """Show what was put aside and why, newest first."""
    value = session.only(KIND, identity).call("quarantine", {"count": count}, is_safe=True)
    session.result(value, quarantine_lines(value))


@telog.command()
@click.option(
    "--interval", type=app.Seconds(), default=1.0, show_default=True, metavar="SECONDS",
    help="Time between two looks.",
)  # fmt: skip
@_id_option
@app.pass_session
def watch(session: app.Session, interval: float, identity: str | None) -> None:
    """Show the status again and again until Ctrl-C; in a pipe, one line a look.

    With --timeout it ends by itself.
    """
    daemon = session.only(KIND, identity)
    daemon.timeout_s = app.DEFAULT_TIMEOUT_S
    daemon.status()  # an error now is the command's, later ones are shown

    def screen() -> list[str]:
        found, why = one_daemon.look(daemon)
        lines = [f"OFFLINE: {why}"] if found is None else status_lines(found, session.paint)
        return [one_daemon.heading("telescope's logs"), *lines]

    def tell() -> None:
        found, why = one_daemon.look(daemon)
        text = f"OFFLINE: {why}" if found is None else one_line(found)
        value = found or {"summary": "OFFLINE", "reason": f"OFFLINE: {why}"}
        session.event(value, f"{one_daemon.stamp()}  {text}")

    one_daemon.watch(session, interval, screen, tell)


if __name__ == "__main__":
    sys.exit(main())
