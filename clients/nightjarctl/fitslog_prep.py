# SPDX-License-Identifier: BSD-3-Clause
"""What ``fitslog GROUP prep`` asks a person who has not given it as an option."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from nightjar.api.fitslog import DATA_TYPES, DEFAULT_DATA_TYPE
from nightjarctl import app
from nightjarctl.fitslog_lines import advice_text

if TYPE_CHECKING:
    from nightjarctl.connection import Connection

NO_LIMIT = -1
ALL_CAMERAS = "-1"
Value = TypeVar("Value")


def complete(
    session: app.Session,
    connection: Connection,
    group: str,
    cameras: Sequence[str],
    given: dict[str, Any],
) -> dict[str, Any]:
    """Return the arguments of the command prep.

    Questions come in the order, and with the defaults, that observers know: frames per cube,
    number of cubes, camera, archive, data type, folder. Nothing is asked that is given, nor where
    no person sits at the terminal: then the defaults hold, and the advised number of frames.

    Parameters
    ----------
    session, connection, group
        Who asks, of whom, for what.
    cameras
        What ``-c`` gave.
    given
        What the other options gave: num_frames, num_cubes, archive, data_type, directory,
        compress; None where they were not.
    """
    from nightjarctl.fitslog import streams_of

    is_asking = app.is_terminal(sys.stdin) and not session.is_json
    streams = streams_of(session, group, cameras)
    known = connection.call("groups", is_safe=True)
    frames = given["num_frames"]
    if frames is None:
        advice = connection.call("advice", {"group": group, "streams": streams}, is_safe=True)
        frames = _frames(session, advice, is_asking)
    cubes = given["num_cubes"]
    if cubes is None:
        cubes = _ask("Number of cubes (-1: no limit)", NO_LIMIT, int) if is_asking else NO_LIMIT
    if is_asking and not cameras and len(known.get(group, ())) > 1:
        numbers = ", ".join(f"{n}: {name}" for n, name in enumerate(known[group], 1))
        camera = _ask(f"Camera ({numbers}, -1: all)", ALL_CAMERAS, str)
        streams = streams_of(session, group, [camera])
    archive, directory = given["archive"], given["directory"]
    if archive is None:
        archive = directory is None and is_asking and _confirm("Archive")
    data_type = given["data_type"]
    if data_type is None:
        data_type = _data_type() if is_asking else DEFAULT_DATA_TYPE
    if directory is None and not archive and is_asking:
        directory = _ask("Save directory", str(connection.status()["save_root"]), str)
    return {
        "cube_frames": frames, "cubes": None if cubes in (NO_LIMIT, 0) else cubes,
        "streams": streams, "archive": bool(archive), "data_type": data_type,
        "directory": directory, "compress": given["compress"],
    }  # fmt: skip


def _frames(session: app.Session, advice: dict[str, Any], is_asking: bool) -> int | None:
    text = advice_text(advice)
    if is_asking:
        hint = f" (advised: {text})" if text else ""
        frames: int = click.prompt(
            f"Number of frames per cube{hint}", type=click.IntRange(min=1), err=True
        )
        return frames
    if text:
        session.note(f"frames per cube: {text} (advised, none was given)")
    return None


def _ask(question: str, default: Value, kind: type[Value]) -> Value:
    answer: Value = click.prompt(question, default=default, type=kind, err=True)
    return answer


def _confirm(question: str) -> bool:
    return click.confirm(question, default=False, err=True)


def _data_type() -> str:
    from nightjarctl.fitslog_groups import DataType

    kind = DataType(DATA_TYPES)
    answer: str = click.prompt("Data type", default=DEFAULT_DATA_TYPE, type=kind, err=True)
    return answer
