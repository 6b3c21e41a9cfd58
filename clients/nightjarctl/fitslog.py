# SPDX-License-Identifier: BSD-3-Clause
"""The ``fitslog`` command: ``fitslog GROUP COMMAND``, saving streams of frames as FITS cubes.

A group is one stream or several that start and stop together. Which daemon serves it is read from
the configurations of ``fitslogd``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from nightjar.api.fitslog import DATA_TYPES
from nightjar.cli.frame import suggestion
from nightjar.config.paths import config_names
from nightjar.errors import InvalidArgument
from nightjarctl import app
from nightjarctl.fitslog_groups import (
    KIND,
    DataType,
    Groups,
    complete_cameras,
    configured,
    moment,
)
from nightjarctl.fitslog_lines import (
    advice_lines,
    cube_rows,
    failed_lines,
    group_lines,
    status_lines,
)

if TYPE_CHECKING:
    from nightjarctl.connection import Connection

QUICK_S = 2.0  # a command that ends so soon needs no progress bar


@app.group("fitslog", "Save streams of frames as FITS cubes.", cls=Groups)
def fitslog() -> None:
    """Hold the commands."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``fitslog``."""
    return app.run(fitslog, arguments)


# --- helpers ------------------------------------------------------------------------------------


def group_name() -> str:
    """Return the group of this command line."""
    context = click.get_current_context()
    return (context.parent.info_name if context.parent else None) or ""


def daemon_of(session: app.Session, group: str) -> Connection:
    """Return the connection to the daemon that has a group.

    Raises
    ------
    InvalidArgument
        None has it; the message lists the groups that there are.
    ConfigError
        No such daemon is configured.
    """
    known = configured()
    for identity, groups in known.items():
        if group in groups:
            connection = session.configured(KIND, identity)
            connection.timeout_s = app.DEFAULT_TIMEOUT_S  # --timeout is that of the wait
            return connection
    if known:
        names = [name for groups in known.values() for name in groups]
        raise InvalidArgument(f"no group {group!r}{suggestion(group, names)}")
    return session.only(KIND, None)


def command(session: app.Session, name: str, line: str = "", **arguments: Any) -> dict[str, Any]:
    """Send a command of a group, wait for its end, say how it ended."""
    from nightjarctl.connection import outcome

    group = group_name()
    connection = daemon_of(session, group)
    reply: dict[str, Any] = connection.call(name, {"group": group, **arguments})
    if reply["pending"]:
        operation = connection.operation(str(reply["operation"]))
        quick_s = QUICK_S if session.timeout_s is None else min(QUICK_S, session.timeout_s)
        state = {"state": "running"} if arguments.get("wait") else operation.poll(quick_s)
        if state["state"] == "running":
            from nightjarctl.follow import Subject, follow

            subject = Subject(
                f"{name} of {group}", f"fitslog {group} status", f"fitslog {group} stop --kill",
                is_ours=False,
            )  # fmt: skip
            state = follow(session, operation, subject)
        reply = dict(outcome(state))
    for each in failed_lines(reply["results"]):
        session.note(each)
    session.done(reply, line or str(reply["message"]))
    return reply


def tell_warnings(session: app.Session, cameras: Sequence[str]) -> None:
    """Say what is not as it should be with a group's streams: one that stands still, say."""
    group = group_name()
    snapshot = daemon_of(session, group).status()
    names = streams_of(session, group, cameras) or snapshot["groups"][group]["streams"]
    for name in names:
        warning = snapshot["streams"][name].get("warning")
        if warning:
            session.note(f"warning: {warning}")


def streams_of(session: app.Session, group: str, cameras: Sequence[str]) -> list[str]:
    """Return the streams that ``-c`` names: by number, from 1, or by name; none for all.

    Raises
    ------
    InvalidArgument
        No such camera in the group.
    """
    if not cameras or "-1" in cameras:
        return []
    members = [
        streams for groups in configured().values() for name, streams in groups.items()
        if name == group
    ]  # fmt: skip
    streams = members[0] if members else daemon_of(session, group).call("groups")[group]
    chosen = []
    for text in cameras:
        if text in streams:
            chosen.append(text)
        elif text.isdigit() and 1 <= int(text) <= len(streams):
            chosen.append(streams[int(text) - 1])
        else:
            numbered = ", ".join(f"{n} ({name})" for n, name in enumerate(streams, 1))
            raise InvalidArgument(f"-c {text}: no such camera in {group}; there are: {numbered}")
    return chosen


camera_option = click.option(
    "-c", "--cam", "cameras", multiple=True, metavar="CAMERA", shell_complete=complete_cameras,
    help="Only this camera of the group: its number from 1, or its name; -1 for all. "
    "May be repeated.",
)  # fmt: skip
partial_option = click.option(
    "--partial", is_flag=True, help="Go on with the cameras that can where another cannot."
)


# --- commands -----------------------------------------------------------------------------------


@fitslog.command()
@click.option("-n", "--num-frames", type=click.IntRange(min=1), metavar="N",
              help="Frames per cube; not given: asked for, else the advised number.")
@click.option("-z", "--num-cubes", type=click.IntRange(min=-1), metavar="N",
              help="Cubes after which a session ends; -1 for no limit (default).")
@camera_option
@click.option("-a/-na", "--archive/--no-archive", "archive", default=None,
              help="Save into the archive's folder (default: no).")
@click.option("-t", "--type", "data_type", metavar="TYPE",
              type=DataType(DATA_TYPES),
              help=f"Card DATA-TYP: {', '.join(DATA_TYPES)} (default OBJECT).")
@click.option("-d", "--directory", metavar="FOLDER",
              help="Folder to save into, where not into the archive.")
@click.option("--compress/--no-compress", default=None, help="Compress the cubes without loss.")
@partial_option
@app.pass_session
def prep(session: app.Session, /, cameras: tuple[str, ...], partial: bool, **given: Any) -> None:
    """Prepare the loggers: cube length, number of cubes, kind of data, folder.

    On a terminal, what is not given is asked for.
    """
    from nightjarctl.fitslog_prep import complete

    if given["num_cubes"] == 0:
        raise InvalidArgument("-z must be at least 1, or -1 for no limit")
    group = group_name()
    arguments = complete(session, daemon_of(session, group), group, list(cameras), given)
    command(session, "prep", partial=partial, **arguments)
    tell_warnings(session, cameras)


@fitslog.command()
@camera_option
@click.option("-n", "--num-frames", "frames", type=click.IntRange(min=1), metavar="N",
              help="End after exactly so many frames of each camera.")
@click.option("-z", "--num-cubes", "cubes", type=click.IntRange(min=-1), metavar="N",
              help="End after exactly so many cubes; -1 for no limit (default: as prepared).")
@click.option("--until", metavar="TIME", help="End at this UTC: HH:MM[:SS], or ISO date and time.")
@partial_option
@app.pass_session
def start(
    session: app.Session,
    cameras: tuple[str, ...],
    frames: int | None,
    cubes: int | None,
    until: str | None,
    partial: bool,
) -> None:
    """Save: all cameras begin with their first frame at or after one common time."""
    if cubes == 0:
        raise InvalidArgument("-z must be at least 1, or -1 for no limit")
    command(
        session, "start", streams=streams_of(session, group_name(), cameras), frames=frames,
        cubes=0 if cubes == -1 else cubes, until=None if until is None else moment(until),
        partial=partial,
    )  # fmt: skip
    tell_warnings(session, cameras)


@fitslog.command()
@camera_option
@click.option("-w", "--wait", is_flag=True,
              help="Fill the last cube, then wait until the files are in place.")
@click.option("--finish", is_flag=True, help="Fill the last cube; do not wait for it.")
@click.option("--now", is_flag=True, help="Close the last cube now, also with --wait.")
@app.pass_session
def pause(
    session: app.Session, cameras: tuple[str, ...], wait: bool, finish: bool, now: bool
) -> None:
    """End saving: close the last cube now, or with --finish or --wait when it is full.

    With --wait, --timeout is the deadline; when it passes, the exit code is 6 and the loggers
    go on.
    """
    if finish and now:
        raise click.UsageError("give --finish or --now")
    streams = streams_of(session, group_name(), cameras)
    command(session, "pause", streams=streams, finish=finish or (wait and not now), wait=wait)


@fitslog.command()
@camera_option
@click.option("-k", "--kill", is_flag=True,
              help="Forget the settings too, and restart the logger processes.")
@app.pass_session
def stop(session: app.Session, cameras: tuple[str, ...], kill: bool) -> None:
    """End saving and release the loggers; their settings are kept for the next start."""
    command(session, "stop", streams=streams_of(session, group_name(), cameras), kill=kill)


@fitslog.command("set")
@camera_option
@click.option("-n", "--cube-frames", type=click.IntRange(min=1), metavar="N",
              help="Frames per cube, also of the present one where it is not longer yet.")
@click.option("--next-cube", is_flag=True, help="Close the cube now and go on in the next.")
@app.pass_session
def set_(
    session: app.Session, cameras: tuple[str, ...], cube_frames: int | None, next_cube: bool
) -> None:
    """Change the cube length at any time, or begin the next cube."""
    if cube_frames is None and not next_cube:
        raise click.UsageError("give --cube-frames or --next-cube")
    streams = streams_of(session, group_name(), cameras)
    command(session, "set", streams=streams, cube_frames=cube_frames, next_cube=next_cube)


@fitslog.command("type")
@click.argument("data_type", metavar="TYPE", type=DataType(DATA_TYPES))
@camera_option
@app.pass_session
def type_(session: app.Session, data_type: str, cameras: tuple[str, ...]) -> None:
    """Set the card DATA-TYP, at loggers and cameras: OBJECT, DARK, FLAT ..."""
    streams = streams_of(session, group_name(), cameras)
    command(session, "type", data_type=data_type, streams=streams)


@fitslog.command()
@app.pass_session
def status(session: app.Session) -> None:
    """Show what the group's loggers do."""
    group = group_name()
    snapshot = daemon_of(session, group).status()
    known = snapshot["groups"].get(group)
    if known is None:
        raise InvalidArgument(f"{snapshot['daemon']} has no group {group!r}: was it restarted "
                              "after its configuration changed?")  # fmt: skip
    value = {
        "group": group, "time": snapshot["time"], **known, "health": snapshot["health"],
        "streams": {name: snapshot["streams"][name] for name in known["streams"]},
    }  # fmt: skip
    session.result(value, group_lines(group, snapshot, session.paint))


@fitslog.command()
@click.option("-n", "count", type=click.IntRange(1, 1000), default=20, metavar="COUNT",
              help="How many files (default 20).")  # fmt: skip
@app.pass_session
def cubes(session: app.Session, count: int) -> None:
    """List the last files, newest first."""
    group = group_name()
    arguments = {"group": group, "count": count}
    found = daemon_of(session, group).call("cubes", arguments, is_safe=True)
    session.result(found, cube_rows(found, session.paint))


@fitslog.command()
@app.pass_session
def advice(session: app.Session) -> None:
    """Show how many frames a cube should hold, for the present geometry."""
    group = group_name()
    found = daemon_of(session, group).call("advice", {"group": group}, is_safe=True)
    session.result(found, advice_lines(found))


# --- of all groups ------------------------------------------------------------------------------

_id_option = click.option(
    "--id", "identity", metavar="ID",
    help="Which loggers: the id of a configuration of fitslogd.  [default: all]",
)  # fmt: skip


def daemons(session: app.Session, identity: str | None) -> list[Connection]:
    """Return the connections to one daemon, or to all that are configured."""
    names = [identity] if identity else config_names(KIND)
    if not names:
        return [session.only(KIND, None)]
    return [session.configured(KIND, name) for name in names]


@click.command("status", cls=app.FrameCommand)
@_id_option
@app.pass_session
def all_status(session: app.Session, identity: str | None) -> None:
    """Show what all loggers do."""
    snapshots = [daemon.status() for daemon in daemons(session, identity)]
    lines = [line for each in snapshots for line in status_lines(each, session.paint)]
    session.result(snapshots[0] if len(snapshots) == 1 else snapshots, lines)


@click.command("top", cls=app.FrameCommand)
@click.option("--filter", "text", default="", metavar="TEXT",
              help="Only streams with this text in their name.")
@_id_option
@app.pass_session
def top(session: app.Session, text: str, identity: str | None) -> None:
    """Watch and control all loggers on the whole screen; ? shows the keys."""
    if not (app.is_terminal(sys.stdin) and app.is_terminal(sys.stdout)) or session.is_json:
        raise click.UsageError("top needs a terminal; for a script: fitslog status --json")
    from nightjarctl.fitslog_top import run

    run(daemons(session, identity), text, has_color=session.has_color())


assert isinstance(fitslog, Groups)
fitslog.site.update({"status": all_status, "top": top})


if __name__ == "__main__":
    sys.exit(main())
