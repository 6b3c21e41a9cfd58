# SPDX-License-Identifier: BSD-3-Clause
"""The verbs of ``cam`` that only a fast camera has."""

from __future__ import annotations

import click

from nightjar.cli.frame import FrameCommand
from nightjar.errors import InvalidArgument
from nightjarctl import app
from nightjarctl.cam_session import (
    begin,
    following,
    names_in,
    number,
    send,
    whole,
    words,
)


def _data_types() -> tuple[str, ...]:
    from nightjar.api.fast_camera import DATA_TYPES

    return DATA_TYPES


@click.command(cls=FrameCommand)
@click.argument("edges", nargs=-1, required=True, metavar="NAME|X1 X2 Y1 Y2",
                shell_complete=names_in("crops"))  # fmt: skip
@following(True)
@app.pass_session
def crop(session: app.Session, edges: tuple[str, ...], wait: bool) -> None:
    """Set the part of the sensor that is read; streaming goes on by itself.

    The name of a crop, or first and last column, first and last row, 1-indexed, inclusive.
    Readers of the stream follow by themselves.
    """
    if len(edges) == 1 and not edges[0].lstrip("-").isdigit():
        begin(session, "set_crop", f"crop {edges[0]}", wait, crop=edges[0])
        return
    if len(edges) != 4:
        raise click.UsageError("give the name of a crop, or X1 X2 Y1 Y2")
    window = [whole(text, name) for text, name in zip(edges, ("X1", "X2", "Y1", "Y2"), strict=True)]
    x1, x2, y1, y2 = window
    begin(session, "set_crop", f"crop [{x1}:{x2},{y1}:{y2}]", wait, window=window)


@click.command(cls=FrameCommand)
@click.argument("hertz", metavar="HERTZ|fastest", shell_complete=words("fastest"))
@app.pass_session
def rate(session: app.Session, hertz: str) -> None:
    """Set the frame rate, and that of the trigger where the camera makes it."""
    if hertz == "fastest":
        send(session, "set_rate", "rate is the fastest possible", hertz=None)
        return
    value = number(hertz, "HERTZ")
    send(session, "set_rate", f"rate is {value:g} Hz", hertz=value)


@click.command(cls=FrameCommand)
@click.argument("source", type=click.Choice(["external", "internal"]))
@app.pass_session
def trigger(session: app.Session, source: str) -> None:
    """Take a frame at each pulse of the external trigger, or run free."""
    external = source == "external"
    text = "frames wait for the external trigger" if external else "the camera runs free"
    send(session, "set_trigger", text, external=external)


@click.command("readout-mode", cls=FrameCommand)
@click.argument("mode", shell_complete=names_in("readout_modes"))
@following(True)
@app.pass_session
def readout_mode(session: app.Session, mode: str, wait: bool) -> None:
    """Set the read-out mode; streaming goes on by itself."""
    begin(session, "set_readout_mode", f"read-out mode {mode}", wait, mode=mode)


@click.command("data-type", cls=FrameCommand)
@click.argument("data_type", metavar="TYPE", shell_complete=words(*_data_types()))
@app.pass_session
def data_type(session: app.Session, data_type: str) -> None:
    """Set the keyword DATA-TYP: OBJECT, DARK, FLAT ..."""
    kind = data_type.upper()
    if kind not in _data_types():
        raise InvalidArgument(f"no data type {data_type!r}; there are: {', '.join(_data_types())}")
    send(session, "set_data_type", f"DATA-TYP is {kind}", data_type=kind)


def _value(text: str) -> int | float | bool | str:
    """Return what a person typed: a number, true or false, else the text."""
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            value: int | float = kind(text)
        except ValueError:
            continue
        if value - value == 0:
            return value
    return text


@click.command(cls=FrameCommand)
@click.argument("name")
@click.argument("value")
@click.argument("comment", required=False)
@click.option("--text", is_flag=True, help="VALUE is a text even where it looks like a number.")
@app.pass_session
def keyword(
    session: app.Session, name: str, value: str, comment: str | None, text: bool
) -> None:
    """Set a keyword of the stream, which loggers copy into their headers.

    VALUE is a number, true, false, or a text of at most 16 bytes.
    """
    given = value if text else _value(value)
    send(
        session, "set_keyword", f"keyword {name} is {given!r}",
        name=name, value=[given], comment=comment,
    )  # fmt: skip


COMMANDS = (crop, rate, trigger, readout_mode, data_type, keyword)
