# SPDX-License-Identifier: BSD-3-Clause
"""``archive``: frames that cameras handed over, and the nights that become of cubes.

Here are the commands of the intake; those of nights are in :mod:`.archive_nights` (looking),
:mod:`.archive_steps` (working) and :mod:`.archive_products` (IDs, headers, manifest).

There is one archive at most sites, the only configuration of ``archived``; ``--id`` or the
environment variable ``ARCHIVE_ID`` names one of several.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from nightjar.api.archive import FRAME_STATES, FRAME_TYPES, MAX_LISTED, FrameState
from nightjar.errors import InvalidArgument, Refused
from nightjarctl import app, archive_nights, archive_products, archive_steps, render
from nightjarctl.archive_lines import frame_lines, setting_lines, show_lines, status_lines
from nightjarctl.archive_session import KIND, Function, complete_night, family_option
from nightjarctl.archive_session import id_option as _id_option

if TYPE_CHECKING:
    from nightjarctl.connection import Connection

_BATCH = 500  # frames named in one discard command
_ON = {"on": True, "off": False, "true": True, "false": False, "enable": True, "disable": False}


@app.group("archive", "The archive: frames that were handed over, and nights.")
def archive() -> None:
    """Hold the commands."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``archive``."""
    return app.run(archive, arguments)


# --- helpers ------------------------------------------------------------------------------------


def _daemon(session: app.Session, identity: str | None) -> Connection:
    return session.only(KIND, identity)


def _filters(function: Function) -> Function:
    function = click.option("--camera", metavar="CAMERA", help="Only frames of this camera.")(
        function
    )
    return click.option("--night", metavar="YYYYMMDD", help="Only frames of this night.")(function)


def _frames(
    daemon: Connection, wanted: Mapping[str, Any], limit: int | None
) -> list[dict[str, Any]]:
    """Return frames, newest first, page by page."""
    found: list[dict[str, Any]] = []
    before: int | None = None
    while limit is None or len(found) < limit:
        count = MAX_LISTED if limit is None else min(MAX_LISTED, limit - len(found))
        page = daemon.call(
            "list_frames", {**wanted, "limit": count, "before": before}, is_safe=True
        )
        found += page
        if len(page) < count:
            break
        before = page[-1]["id"]
    return found


def _wanted(night: str | None, camera: str | None, state: str | None) -> dict[str, Any]:
    return {"night": night, "camera": camera, "state": state}


# --- looking ------------------------------------------------------------------------------------


@archive.command()
@click.argument("night", metavar="NIGHT", required=False, shell_complete=complete_night)
@family_option
@_id_option
@app.pass_session
def status(
    session: app.Session, night: str | None, family: str | None, identity: str | None
) -> None:
    """Show frames by camera, settings, space, and what is wrong; of NIGHT, all that is known.

    Example: archive status 20260611
    """
    if night is not None:
        archive_nights.show_night(session, night, family, identity)
        return
    if family is not None:
        raise click.UsageError("name the NIGHT; archive table lists all of a family")
    snapshot = _daemon(session, identity).status()
    session.result(snapshot, status_lines(snapshot, session.paint))


@archive.command("list")
@_filters
@click.option("--state", type=click.Choice(FRAME_STATES), help="Only frames in this state.")
@click.option(
    "-n", "--limit", type=click.IntRange(min=1), default=50, show_default=True, metavar="N",
    help="How many, the newest first.",
)  # fmt: skip
@_id_option
@app.pass_session
def list_(
    session: app.Session,
    night: str | None,
    camera: str | None,
    state: str | None,
    limit: int,
    identity: str | None,
) -> None:
    """List frames, newest first."""
    found = _frames(_daemon(session, identity), _wanted(night, camera, state), limit)
    session.result(found, frame_lines(found, session.paint))
    if len(found) == limit:
        session.note(f"the newest {limit}; --limit shows more")


@archive.command()
@click.argument("frame")
@_id_option
@app.pass_session
def show(session: app.Session, frame: str, identity: str | None) -> None:
    """Show all that is known of FRAME: an id, a file name, or CAMERA/RUN/NUMBER."""
    found = _daemon(session, identity).call("show_frame", {"frame": frame}, is_safe=True)
    session.result(found, show_lines(found, session.paint))


@archive.command()
@_filters
@_id_option
@app.pass_session
def unarchived(
    session: app.Session, night: str | None, camera: str | None, identity: str | None
) -> None:
    """List frames that were taken while archiving was off."""
    wanted = _wanted(night, camera, FrameState.UNARCHIVED.value)
    found = _frames(_daemon(session, identity), wanted, None)
    session.result(found, frame_lines(found, session.paint))


@archive.command()
@_id_option
@app.pass_session
def strays(session: app.Session, identity: str | None) -> None:
    """List FITS files in the incoming folder that no camera announced."""
    found = _daemon(session, identity).call("list_strays", is_safe=True)
    rows = [
        (row["name"], render.size_text(row["size"]), render.clock_text(row["modified"]),
         ", ".join(row["frames"]) or None)
        for row in found
    ]  # fmt: skip
    headings = ("file", "size", "modified", "known as")
    session.result(found, render.table(headings, rows, right=[1]) if rows else ["no strays"])


# --- commanding ---------------------------------------------------------------------------------


@archive.command()
@click.option("--object", "target", metavar="NAME", help='Card OBJECT; "" for none.')
@click.option(
    "--type", "frame_type", metavar="TYPE",
    help=f'Card IMAGETYP: {", ".join(FRAME_TYPES)} or another configured one; "" for none.',
    shell_complete=lambda *_: list(FRAME_TYPES),
)  # fmt: skip
@click.option("--prefix", metavar="TEXT", help='Put before file names; "" for none.')
@click.option(
    "--archive", "archiving", multiple=True, metavar="CAMERA=on|off",
    help="Whether a camera's frames are archived; may be given for several cameras.",
)  # fmt: skip
@click.option("--nights", is_flag=True, help="Show those of the pipeline of nights only.")
@_id_option
@app.pass_session
def settings(
    session: app.Session,
    nights: bool,
    target: str | None,
    frame_type: str | None,
    prefix: str | None,
    archiving: tuple[str, ...],
    identity: str | None,
) -> None:
    """Show the settings, or change those that are named; they are kept over restarts.

    Those of the pipeline of nights are shown, too; they stand in the configuration.
    """
    if nights:
        archive_nights.show_settings(session, identity)
        return
    changes: dict[str, Any] = {
        key: value or None
        for key, value in (("object", target), ("frame_type", frame_type), ("prefix", prefix))
        if value is not None
    }
    if archiving:
        changes["archive"] = dict(_camera_switch(text) for text in archiving)
    daemon = _daemon(session, identity)
    if changes:
        present = daemon.call("set_settings", {"changes": changes}, is_safe=True)
        if session.is_quiet and not session.is_json:
            return
    else:
        status = daemon.status()
        present = status["settings"]
        if status.get("nights") is not None:
            archive_nights.show_all_settings(session, identity, present)
            return
    session.result(present, setting_lines(present, session.paint))


def _camera_switch(text: str) -> tuple[str, bool]:
    camera, mark, switch = text.partition("=")
    if not mark or switch.lower() not in _ON:
        raise InvalidArgument(f"--archive {text!r}: write CAMERA=on or CAMERA=off")
    return camera, _ON[switch.lower()]


@archive.command()
@click.argument("frames", nargs=-1)
@_filters
@click.option("--yes", is_flag=True, help="Do not ask.")
@_id_option
@app.pass_session
def discard(
    session: app.Session,
    frames: tuple[str, ...],
    night: str | None,
    camera: str | None,
    yes: bool,
    identity: str | None,
) -> None:
    """Remove unarchived FRAMES for ever (or those of a night, a camera)."""
    if bool(frames) == bool(night or camera):
        raise click.UsageError("name frames, or a --night, a --camera or both")
    daemon = _daemon(session, identity)
    if frames:
        chosen = [daemon.call("show_frame", {"frame": each}, is_safe=True) for each in frames]
    else:
        chosen = _frames(daemon, _wanted(night, camera, FrameState.UNARCHIVED.value), None)
    if not chosen:
        raise Refused("no unarchived frames match; nothing was removed")
    _confirm(session, chosen, yes)
    done = 0
    for start in range(0, len(chosen), _BATCH):
        done += _discard(session, daemon, [str(f["id"]) for f in chosen[start : start + _BATCH]])
    session.done({"discarded": done}, f"{done} frames were removed")


def _confirm(session: app.Session, chosen: Sequence[Mapping[str, Any]], yes: bool) -> None:
    if yes:
        return
    if not app.is_terminal(sys.stdin):
        raise Refused("nothing was removed: there is nobody to ask; add --yes to remove them")
    size = render.size_text(sum(frame["size"] for frame in chosen))
    for line in frame_lines(chosen[:20], session.paint):
        app.write(line, sys.stderr)
    if len(chosen) > 20:
        app.write(f"and {len(chosen) - 20} more", sys.stderr)
    if not click.confirm(f"Remove {len(chosen)} frames ({size}) for ever?", err=True):
        raise Refused("nothing was removed")


def _discard(session: app.Session, daemon: Connection, ids: list[str]) -> int:
    from nightjarctl.follow import Subject, follow

    operation = daemon.start_operation("discard", {"frames": ids})
    subject = Subject("discard", "archive unarchived", "Ctrl-C again")
    return int(follow(session, operation, subject)["result"]["discarded"])


@archive.command()
@click.argument("frames", nargs=-1)
@_id_option
@app.pass_session
def retry(session: app.Session, frames: tuple[str, ...], identity: str | None) -> None:
    """Try frames that wait now; named FRAMES also if quarantined or missing."""
    done = _daemon(session, identity).call("retry", {"frames": list(frames)}, is_safe=True)
    session.done(done, f"{done['waiting']} frames are tried now")


@archive.command()
@_id_option
@app.pass_session
def acknowledge(session: app.Session, identity: str | None) -> None:
    """Take the quarantined and missing frames so far off the health report."""
    done = _daemon(session, identity).call("acknowledge", is_safe=True)
    session.done(done, f"{done['acknowledged']} frames are acknowledged")


@archive.command("adopt-root")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_id_option
@app.pass_session
def adopt_root(session: app.Session, yes: bool, identity: str | None) -> None:
    """Use the root folder as it is now, though it is not the one the database knows.

    For a root that was emptied, restored or replaced on purpose; not for one that is not mounted.
    """
    daemon = _daemon(session, identity)
    root = daemon.status()["root"]
    if not yes:
        if not app.is_terminal(sys.stdin):
            raise Refused("there is nobody to ask; add --yes to adopt the root")
        if not click.confirm(f"Is {root} mounted, and shall it be the archive?", err=True):
            raise Refused("the root was not adopted")
    done = daemon.call("adopt_root")
    session.done(done, f"{done['root']} is the archive")


for _command in (
    *archive_nights.COMMANDS, *archive_steps.COMMANDS, *archive_products.COMMANDS
):  # fmt: skip
    archive.add_command(_command)


if __name__ == "__main__":
    sys.exit(main())
