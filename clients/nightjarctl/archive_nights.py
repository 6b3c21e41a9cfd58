# SPDX-License-Identifier: BSD-3-Clause
"""The commands of ``archive`` that look at nights and change none."""

from __future__ import annotations

from typing import Any

import click

from nightjar.api.nights import DEFAULT_FAMILY
from nightjar.cli.frame import FrameCommand
from nightjarctl import app, render
from nightjarctl import archive_findings as findings
from nightjarctl import archive_tables as tables
from nightjarctl.archive_lines import setting_lines
from nightjarctl.archive_session import (
    Function,
    connection,
    fail,
    family_option,
    id_option,
    look,
    night_argument,
    night_text,
    of_night,
    work,
)


def command(function: Function) -> click.Command:
    """Make a function a command of ``archive``."""
    return click.command(cls=FrameCommand)(function)


@command
@family_option
@click.option("--all", "all_families", is_flag=True, help="Nights of all families.")
@id_option
@app.pass_session
def table(
    session: app.Session, family: str | None, all_families: bool, identity: str | None
) -> None:
    """List all nights: processed, transferred, safe, and when (UTC); oldest first.

    Archival nights unless --engineering is given. --json has more columns.

    Example: archive table --engineering | tail -20
    """
    wanted = None if all_families else family or DEFAULT_FAMILY
    rows = look(session, identity, "nights_table", {"family": wanted})
    session.result(rows, tables.table_lines(rows))


def show_night(
    session: app.Session, night: str, family: str | None, identity: str | None
) -> None:
    """Print all that is known of a night: ``archive status NIGHT``."""
    found = look(session, identity, "night_status", of_night(night, family))
    session.result(found, tables.night_lines(found, session.paint))


def show_settings(session: app.Session, identity: str | None) -> None:
    """Print the configuration of the pipeline: ``archive settings --nights``."""
    found = look(session, identity, "nights_settings", {})
    session.result(found, render.plain_lines(dict(_flat(found))))


def show_all_settings(
    session: app.Session, identity: str | None, intake: dict[str, Any]
) -> None:
    """Print the settings of intake and pipeline: ``archive settings``."""
    nights = look(session, identity, "nights_settings", {})
    lines = [*setting_lines(intake, session.paint), "", "Nights (from the configuration):"]
    session.result({**intake, "nights": nights}, [*lines, *render.plain_lines(dict(_flat(nights)))])


def _flat(value: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return nested settings as ``families.archival.root``: value."""
    flat: list[tuple[str, Any]] = []
    for key, inner in value.items():
        if isinstance(inner, dict) and inner:
            flat += _flat(inner, f"{prefix}{key}.")
        else:
            text = ", ".join(map(str, inner)) if isinstance(inner, list) else inner
            flat.append((f"{prefix}{key}", "-" if text in (None, "", {}) else text))
    return flat


@command
@night_argument
@family_option
@id_option
@app.pass_session
def summary(
    session: app.Session, night: str, family: str | None, identity: str | None
) -> None:
    """Show the frames of NIGHT by minute, targets, exposure times, and what was lost.

    Exit code 1 where more is lost or dubious than the configured limits.

    Example: archive summary 20260611
    """
    found = look(session, identity, "summary", of_night(night, family))
    session.result(found, tables.summary_lines(found, session.paint))
    if not found["is_good"]:
        fail(session)


@command
@click.argument("frame")
@click.option("--night", metavar="NIGHT", help="Where the name alone does not tell.")
@family_option
@id_option
@app.pass_session
def why(
    session: app.Session, frame: str, night: str | None, family: str | None, identity: str | None
) -> None:
    """Tell the whole story of FRAME: a product's name, a frame ID, or STREAM/CUBE/INDEX.

    Example: archive why vcam1/vcam1_10:00:03.123456789.fits/17
    """
    asked = {
        "frame": frame, "night": None if night is None else night_text(night), "family": family,
    }  # fmt: skip
    found = look(session, identity, "why", asked)
    session.result(found, findings.why_lines(found))


@command
@click.option(
    "--interval", type=app.Seconds(), default=1.0, show_default=True, metavar="SECONDS",
    help="Time between two looks.",
)  # fmt: skip
@click.option("--until-idle", is_flag=True, help="End when nothing runs.")
@id_option
@app.pass_session
def watch(
    session: app.Session, interval: float, until_idle: bool, identity: str | None
) -> None:
    """Show what runs until Ctrl-C: step, frames/s, MB/s, time left.

    In a pipe: a line whenever there is news.

    Example: archive watch
    """
    from nightjarctl.archive_watch import watch_nights

    watch_nights(session, connection(session, identity), interval, until_idle=until_idle)


@command
@id_option
@app.pass_session
def doctor(session: app.Session, identity: str | None) -> None:
    """Try everything that the pipeline needs: folders, database, programs, destinations, workers.

    Exit code 1 where something is bad.

    Example: archive doctor
    """
    found = work(session, identity, "doctor", {}, "doctor")
    session.result(found, findings.doctor_lines(found, session.paint))
    if not found["is_good"]:
        fail(session)


@command
@id_option
@app.pass_session
def forecast(session: app.Session, identity: str | None) -> None:
    """Show when the disks will be full, and which raw may go when.

    Example: archive forecast
    """
    found = look(session, identity, "forecast", {})
    session.result(found, findings.forecast_lines(found))


COMMANDS: tuple[click.Command, ...] = (table, summary, why, watch, doctor, forecast)
