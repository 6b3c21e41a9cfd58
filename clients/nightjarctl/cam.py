# SPDX-License-Identifier: BSD-3-Clause
"""The ``cam`` command: ``cam ID COMMAND``, the camera's commands as a person types them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from nightjar.errors import Code, InvalidArgument, Refused
from nightjarctl import app, cam_fast
from nightjarctl.cam_session import (
    KIND,
    begin,
    camera,
    finish,
    following,
    identity,
    is_fast,
    names_in,
    number,
    require,
    send,
    state_words,
    whole,
    words,
)


class Cameras(app.IdentityGroup):
    """``cam ID COMMAND``."""

    kind = KIND
    noun = "camera"


@app.group("cam", "Command and watch cameras.", cls=Cameras)
def cam() -> None:
    """Command and watch cameras."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(cam, arguments)


# --- looking ------------------------------------------------------------------------------------


@cam.command()
@app.pass_session
def status(session: app.Session) -> None:
    """Show what the camera does, its settings and its frames."""
    from nightjarctl import render

    snapshot = camera(session).status()
    session.result(snapshot, render.status_lines(snapshot, session.paint))


@cam.command()
@click.option("--interval", type=app.Seconds(), default=1.0, metavar="SECONDS",
              help="Time between two looks (default 1 s).")  # fmt: skip
@app.pass_session
def watch(session: app.Session, interval: float) -> None:
    """Show the status again and again, until Ctrl-C; piped: a line for each change."""
    from nightjarctl.watching import watch_camera

    watch_camera(session, camera(session), identity(), interval)


@cam.command()
@click.option("--state", "states", multiple=True, metavar="STATE",
              shell_complete=state_words("Summary", "CameraState"),
              help="State to wait for: READY, BUSY ... or IDLE, EXPOSING ...; may be repeated.")
@click.option("--cooler", "coolers", multiple=True, metavar="MODE",
              shell_complete=state_words("CoolerMode"),
              help="Cooler mode to wait for: LOCKED, WARM ...; may be repeated.")
@click.option("--operation", metavar="ID", help="Operation to wait for.")  # fmt: skip
@app.pass_session
def wait(
    session: app.Session, states: tuple[str, ...], coolers: tuple[str, ...], operation: str | None
) -> None:
    """Wait for a state, a cooler mode, or the end of what is under way.

    Without options: for the end of what the camera is doing now. The deadline is --timeout
    (default one hour); exit code 6 when it passes.
    """
    from nightjarctl.watching import wait_for_camera

    connection = camera(session, waits=True)
    if states or coolers:
        if operation:
            raise click.UsageError("give --operation, or --state and --cooler")
        if coolers and is_fast(session):
            raise Refused(f"camera {identity()} streams: it has no cooler", code=Code.UNSUPPORTED)
        wait_for_camera(session, connection, identity(), states, coolers)
        return
    under_way = operation or connection.status().get("operation")
    if under_way is None:
        session.done({"operation": None}, f"camera {identity()} has nothing under way")
        return
    what = str(under_way).split("-")[0]
    finish(session, connection.operation(str(under_way)), what, is_ours=False)


@cam.command()
@click.option("-n", "count", type=click.IntRange(1, 1000), default=1, metavar="COUNT",
              help="How many frames (default 1).")  # fmt: skip
@app.pass_session
def last(session: app.Session, count: int) -> None:
    """List the last frames, newest first."""
    from nightjarctl import render

    require(session, "last")
    frames = camera(session).call("last", {"count": count}, is_safe=True)
    session.result(frames, render.frame_rows(frames))


@cam.command()
@click.option("-n", "count", type=click.IntRange(1, 1000), default=20, metavar="COUNT",
              help="How many messages (default 20).")  # fmt: skip
@app.pass_session
def log(session: app.Session, count: int) -> None:
    """Show what the camera daemon wrote into the observatory log."""
    from nightjarctl.watching import camera_log

    camera_log(session, identity(), count)


# --- the camera as a whole ----------------------------------------------------------------------


@cam.command()
@following(True)
@app.pass_session
def init(session: app.Session, wait: bool) -> None:
    """Connect to the camera and start cooling; a fast camera makes its stream."""
    begin(session, "init", "init", wait)


@cam.command()
@following(True)
@click.option("--warm/--no-warm", default=True, help="Ramp the cooler to warm first (default).")
@app.pass_session
def shutdown(session: app.Session, wait: bool, warm: bool) -> None:
    """Warm up, then disconnect from the camera (also: kill).

    A fast camera removes its stream.
    """
    if not is_fast(session):
        begin(session, "shutdown", "shutdown", wait, warm=warm)
        return
    if not warm:
        raise Refused(
            f"camera {identity()} streams: it has no ramp to warm to leave out",
            code=Code.UNSUPPORTED,
        )
    begin(session, "shutdown", "shutdown", wait)


cam.add_command(shutdown, "kill")


@cam.command()
@click.argument("count", required=False, metavar="COUNT|continuous",
                shell_complete=words("continuous"))
@click.option("--delay", default="0", metavar="SECONDS", help="Pause between exposures.")
@following(None)
@app.pass_session
def start(session: app.Session, count: str | None, delay: str, wait: bool | None) -> None:
    """Take COUNT frames, or frames until stopped.

    A fast camera streams until stopped where no COUNT is given, and publishes exactly COUNT
    frames else. Ctrl-C while waiting leaves the sequence running; pressed twice within 3 s it
    aborts it.
    """
    fast = is_fast(session)
    if count is None and not fast:
        raise click.UsageError("Missing argument 'COUNT|continuous'.")
    frames = 0
    if count not in (None, "continuous"):
        frames = whole(str(count), "COUNT")
        if frames < 1:
            raise InvalidArgument(
                f"COUNT must be at least 1, not {count}; for frames until stopped: "
                f"cam {identity()} start continuous"
            )
    pause = number(delay, "--delay")
    if not fast:
        begin(session, "start", "sequence", bool(wait), count=frames, delay=pause)
        return
    if pause:
        raise Refused(
            f"camera {identity()} streams: set its rate, not a delay", code=Code.UNSUPPORTED
        )
    # Streaming begins at once: that much is waited for, and failures are told.
    follow = not frames if wait is None else wait
    begin(session, "start", "streaming" if not frames else "sequence", follow, count=frames)


@cam.command()
@app.pass_session
def stop(session: app.Session) -> None:
    """End the sequence, or streaming, after the present frame."""
    what = "streaming" if is_fast(session) else "the sequence"
    send(session, "stop", f"{what} ends after the present frame")


@cam.command()
@following(True)
@app.pass_session
def abort(session: app.Session, wait: bool) -> None:
    """End the exposure now and discard its frame; finished frames are kept."""
    begin(session, "abort", "abort", wait)


# --- settings -----------------------------------------------------------------------------------


@cam.command()
@click.argument("seconds")
@app.pass_session
def exposure(session: app.Session, seconds: str) -> None:
    """Set the exposure time, seconds."""
    value = number(seconds, "SECONDS")
    send(session, "set_exposure", f"exposure time is {value:g} s", seconds=value)


@cam.command()
@click.argument("edges", nargs=-1, required=True, metavar="X1 X2 Y1 Y2|NAME|default",
                shell_complete=names_in("windows", "default"))  # fmt: skip
@app.pass_session
def window(session: app.Session, edges: tuple[str, ...]) -> None:
    """Set the part of the read-out that is saved.

    First and last column, first and last row, 1-indexed, inclusive, unbinned; or the name of a
    configured window.
    """
    if edges == ("default",):
        send(session, "set_window", "window is the default", window=None)
        return
    if len(edges) == 1 and not edges[0].lstrip("-").isdigit():
        send(session, "set_window", f"window is {edges[0]}", window=None, name=edges[0])
        return
    if len(edges) != 4:
        raise click.UsageError("give X1 X2 Y1 Y2, the name of a window, or default")
    values = [whole(text, name) for text, name in zip(edges, ("X1", "X2", "Y1", "Y2"), strict=True)]
    x1, x2, y1, y2 = values
    send(session, "set_window", f"window is [{x1}:{x2},{y1}:{y2}]", window=values)


@cam.command("bin")
@click.argument("binning", metavar="N|default", shell_complete=words("1", "2", "4", "default"))
@click.argument("method", required=False, type=click.Choice(["sum", "mean"]))
@app.pass_session
def bin_(session: app.Session, binning: str, method: str | None) -> None:
    """Set the binning; sum gives 32-bit pixels, mean 16-bit ones."""
    value = None if binning == "default" else whole(binning, "N")
    text = "the default" if value is None else f"{value}x{value}"
    how = f" ({method})" if method else ""
    send(session, "set_binning", f"binning is {text}{how}", binning=value, method=method)


@cam.command()
@click.argument("value")
@app.pass_session
def gain(session: app.Session, value: str) -> None:
    """Set the gain, in the camera's units."""
    setting = whole(value, "VALUE")
    send(session, "set_gain", f"gain is {setting}", gain=setting)


@cam.command()
@click.argument("value")
@app.pass_session
def offset(session: app.Session, value: str) -> None:
    """Set the offset (bias level), in the camera's units."""
    setting = whole(value, "VALUE")
    send(session, "set_offset", f"offset is {setting}", offset=setting)


@cam.command("filter")
@click.argument("name", shell_complete=names_in("filters"))
@following(True)
@app.pass_session
def filter_(session: app.Session, name: str, wait: bool) -> None:
    """Move the filter wheel to NAME."""
    begin(session, "set_filter", f"move to filter {name}", wait, filter=name)


@cam.command()
@click.argument("mode", type=click.Choice(["enable", "disable"]))
@app.pass_session
def stream(session: app.Session, mode: str) -> None:
    """Expose and read out at the same time, or one after the other."""
    send(session, "set_stream", f"frame streaming is {mode}d", enabled=mode == "enable")


@cam.command()
@click.argument("celsius", metavar="CELSIUS|warm", shell_complete=words("warm"))
@app.pass_session
def temperature(session: app.Session, celsius: str) -> None:
    """Set the temperature to hold, deg C, or let the detector warm up."""
    if celsius == "warm":
        send(session, "set_temperature", "the detector warms up", celsius=None)
        return
    value = number(celsius, "CELSIUS")
    send(session, "set_temperature", f"temperature set point is {value:g} C", celsius=value)


@cam.command()
@click.argument("settings", nargs=-1, metavar="[NAME=VALUE]...")
@app.pass_session
def controls(session: app.Session, settings: tuple[str, ...]) -> None:
    """Set controls of the electronics and of devices beside the detector; alone: list them."""
    if not settings:
        values = camera(session).status().get("controls") or {}
        lines = [f"{name:12} {value}" for name, value in values.items()]
        session.result(values, lines or ["this camera has no controls, or is not initialized"])
        return
    wanted: dict[str, Any] = {}
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InvalidArgument(f"{text!r}: write NAME=VALUE, as in exptime=2.5")
        wanted[name] = _number_or_text(value)
    listed = ", ".join(f"{name} is {value}" for name, value in wanted.items())
    send(session, "set_controls", listed, values=wanted)


def _number_or_text(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


@cam.command()
@click.argument("settings", nargs=-1, required=True, metavar="FILE|KEY=VALUE...")
@app.pass_session
def configure(session: app.Session, settings: tuple[str, ...]) -> None:
    """Set several things at once, all or nothing; what is not named returns to its default.

    FILE is a JSON object, - for standard input. Keys: exposure, window (x1,x2,y1,y2), bin,
    bin_method, gain, offset, stream, filter, temperature (or warm); VALUE default stands for the
    configured one. Of a fast camera: exposure, rate (or default, the fastest), trigger, crop,
    window, readout_mode, data_type; what is not named stays as it is.
    """
    from nightjarctl.settings import read_settings

    fast = is_fast(session)
    wanted = read_settings(settings, fast=fast)
    listed = ", ".join(f"{key} {_shown(item)}" for key, item in wanted.items()) or "all defaults"
    if fast:
        begin(session, "configure", "configure", True, settings=wanted)
        return
    value = camera(session).call("configure", {"settings": wanted})
    session.done({"command": "configure", "value": value}, f"configured: {listed}")


@cam.command("hand-over")
@app.pass_session
def hand_over(session: app.Session) -> None:
    """Offer the frames that wait in the spool to the pipeline now."""
    send(session, "hand_over", "the waiting frames are offered to the pipeline")


def _shown(value: Any) -> str:
    return "default" if value is None else str(value)


for _command in cam_fast.COMMANDS:
    cam.add_command(_command)
