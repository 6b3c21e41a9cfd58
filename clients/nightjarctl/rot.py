# SPDX-License-Identifier: BSD-3-Clause
"""``rot``: the rotator. Angles are degrees from home, counter-clockwise as seen from above.

A site has one rotator as a rule; ``--id`` (or the environment variable ``ROT_ID``) chooses where
there are several.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from nightjar.cli.numbers import FINITE
from nightjarctl import app, one_daemon
from nightjarctl.rot_lines import choice_lines, entry_line, one_line, status_lines, sweep_lines

if TYPE_CHECKING:
    pass

KIND = "rotd"
Function = Callable[..., Any]


@app.group("rot", "The rotator: home it, turn it, let it answer the telescope.")
def rot() -> None:
    """Hold the commands."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``rot``."""
    return app.run(rot, arguments)


# --- helpers ------------------------------------------------------------------------------------


_id_option = one_daemon.id_option(
    "Which rotator: the id of its configuration, or its registered name.", "ROT_ID"
)


def _scan_options(function: Function) -> Function:
    options = (
        click.option("--az", "axis", flag_value="az", help="A scan along azimuth.  [default]"),
        click.option("--el", "axis", flag_value="el", help="A scan along elevation."),
        click.option("--ra", "axis", flag_value="ra", help="A scan along right ascension."),
        click.option("--dec", "axis", flag_value="dec", help="A scan along declination."),
        click.option(
            "--pa", "position_angle", type=FINITE, metavar="DEG",
            help="A scan at this position angle on the sky, north through east.",
        ),
        click.option(
            "--tilt", type=FINITE, default=0.0, metavar="DEG",
            help="With --az: tilt of the scan from azimuth towards elevation.",
        ),
        click.option(
            "--duration", type=FINITE, default=600.0, show_default=True, metavar="SECONDS",
            help="Of the observation: the parallactic angle of its middle counts.",
        ),
    )  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


def _target_options(function: Function) -> Function:
    function = click.option(
        "--target", nargs=2, type=FINITE, metavar="RA DEC",
        help="Apparent place of the target, degrees.  [default: the telescope's]",
    )(function)
    return function


def _scan(axis: str | None, position_angle: float | None, tilt: float) -> dict[str, Any]:
    if position_angle is not None:
        if axis is not None or tilt:
            raise click.UsageError("--pa goes with no other direction")
        return {"axis": "pa", "angle": position_angle}
    if tilt and axis not in (None, "az"):
        raise click.UsageError("--tilt goes with --az only")
    return {"axis": axis or "az", "angle": tilt}


def _place(target: tuple[float, float] | None) -> dict[str, Any]:
    return {"ra": None, "dec": None} if target is None else {"ra": target[0], "dec": target[1]}


def _begin(
    session: app.Session, identity: str | None, command: str, what: str, wait: bool,
    **arguments: Any,
) -> dict[str, Any] | None:  # fmt: skip
    daemon = session.only(KIND, identity)
    return one_daemon.begin(
        session, daemon, command, what, wait, "rot watch", "rot stop", **arguments
    )


def _moved(session: app.Session, state: dict[str, Any] | None) -> None:
    if state is None:
        return
    result = state["result"]
    session.done(
        state,
        f"at {result['to_deg'] - result['error_deg']:.2f} deg, {result['error_deg']:+.3f} from the "
        f"target, after {result['seconds']:.1f} s",
    )  # fmt: skip


# --- looking ------------------------------------------------------------------------------------


@rot.command()
@_id_option
@app.pass_session
def status(session: app.Session, identity: str | None) -> None:
    """Show state, angle, target, zero points, limits and what is wrong."""
    found = session.only(KIND, identity).status()
    session.result(found, status_lines(found, session.paint))


@rot.command()
@click.option(
    "--interval", type=app.Seconds(), default=0.5, show_default=True, metavar="SECONDS",
    help="Time between two looks.",
)  # fmt: skip
@_id_option
@app.pass_session
def watch(session: app.Session, interval: float, identity: str | None) -> None:
    """Show the angle again and again until Ctrl-C; in a pipe, one line whenever it changes.

    With --timeout it ends by itself.
    """
    daemon = session.only(KIND, identity)
    daemon.timeout_s = app.DEFAULT_TIMEOUT_S
    daemon.status()  # an error now is the command's, later ones are shown
    told = ""

    def screen() -> list[str]:
        found, why = one_daemon.look(daemon)
        lines = [why] if found is None else status_lines(found, session.paint)
        return [one_daemon.heading("rotator"), *lines]

    def tell() -> None:
        nonlocal told
        found, why = one_daemon.look(daemon)
        news = why if found is None else one_line(found)
        if news != told:
            told = news
            value = found or {"summary": "OFFLINE", "reason": why}
            session.event(value, f"{one_daemon.stamp()}  {news}")

    one_daemon.watch(session, interval, screen, tell)


@rot.command()
@click.option(
    "-n", "--count", type=click.IntRange(1, 1000), default=20, show_default=True,
    help="How many.",
)  # fmt: skip
@_id_option
@app.pass_session
def log(session: app.Session, count: int, identity: str | None) -> None:
    """Show the last moves, homings, answers to the telescope and faults, newest last."""
    found = session.only(KIND, identity).call("log", {"count": count}, is_safe=True)
    lines = [entry_line(entry) for entry in found["entries"]]
    session.result(found, lines or ["nothing yet"])


# --- moving -------------------------------------------------------------------------------------


@rot.command()
@click.option("--force", is_flag=True, help="Also where the zero points hold.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@one_daemon.wait_option
@_id_option
@app.pass_session
def home(
    session: app.Session, force: bool, yes: bool, wait: bool, identity: str | None
) -> None:
    """Seek the homing tab and zero both encoders there: once after mounting, or after a limit.

    It turns over a large angle: it asks before, on a terminal.
    """
    if not yes and app.is_terminal(sys.stdin) and not session.is_json:
        click.confirm("The dewar will turn until the tab is found. Is nobody near?", abort=True)
    state = _begin(session, identity, "home", "homing", wait, force=force)
    if state is not None:
        result = state["result"]
        session.done(
            state,
            f"homed: {result['approaches']} approaches agree within {result['spread_deg']:.3f} deg",
        )  # fmt: skip


@rot.command()
@click.argument("angle", type=FINITE)
@one_daemon.wait_option
@_id_option
@app.pass_session
def goto(session: app.Session, angle: float, wait: bool, identity: str | None) -> None:
    """Go to ANGLE, degrees from home."""
    what = f"going to {angle:g} deg"
    _moved(session, _begin(session, identity, "goto", what, wait, angle=angle))


@rot.command()
@click.argument("angle", type=FINITE)
@one_daemon.wait_option
@_id_option
@app.pass_session
def offset(session: app.Session, angle: float, wait: bool, identity: str | None) -> None:
    """Go by ANGLE, degrees, from the last target."""
    what = f"going by {angle:+g} deg"
    _moved(session, _begin(session, identity, "offset", what, wait, angle=angle))


@rot.command()
@_scan_options
@_target_options
@click.option("--explain", is_flag=True, help="Say why; all solutions are listed.")
@click.option("--dry-run", is_flag=True, help="Choose, explain, and do not move.")
@one_daemon.wait_option
@_id_option
@app.pass_session
def scan(
    session: app.Session, axis: str | None, position_angle: float | None, tilt: float,
    duration: float, target: tuple[float, float] | None, explain: bool, dry_run: bool, wait: bool,
    identity: str | None,
) -> None:  # fmt: skip
    """Go to the angle at which the array samples a scan best."""
    wanted = {**_scan(axis, position_angle, tilt), "duration": duration, **_place(target)}
    if explain or dry_run:
        choice = session.only(KIND, identity).call("choose", wanted, is_safe=True)
        if dry_run or not session.is_json:
            session.result(choice, choice_lines(choice, session.paint))
        if dry_run:
            return
    _moved(session, _begin(session, identity, "scan", "rotating for the scan", wait, **wanted))


class _Test(app.FrameGroup):
    """The group of commands that only try."""


@rot.group(cls=_Test)
def test() -> None:
    """Try without moving."""


@test.command("scan")
@_scan_options
@_target_options
@click.option("--explain", is_flag=True, help="Say why.")
@_id_option
@app.pass_session
def test_scan(
    session: app.Session, axis: str | None, position_angle: float | None, tilt: float,
    duration: float, target: tuple[float, float] | None, explain: bool, identity: str | None,
) -> None:  # fmt: skip
    """Show the angle that `rot scan` would go to, moving nothing."""
    wanted = {**_scan(axis, position_angle, tilt), "duration": duration, **_place(target)}
    choice = session.only(KIND, identity).call("choose", wanted, is_safe=True)
    lines = choice_lines(choice, session.paint)
    session.result(choice, lines if explain else lines[:1])


@rot.command()
@click.argument("setting", type=click.Choice(["on", "off"]))
@_scan_options
@_id_option
@app.pass_session
def auto(
    session: app.Session, setting: str, axis: str | None, position_angle: float | None,
    tilt: float, duration: float, identity: str | None,
) -> None:  # fmt: skip
    """Answer the telescope's line ROTATE by rotating for its scans, or only by a pulse."""
    wanted = {"on": setting == "on", **_scan(axis, position_angle, tilt), "duration": duration}
    now = session.only(KIND, identity).call("auto", wanted, is_safe=True)
    told = f", scans along {now['auto']['axis']}" if now["is_auto"] else ""
    session.done(now, f"auto mode is {setting}{told}")


@rot.command()
@_id_option
@app.pass_session
def stop(session: app.Session, identity: str | None) -> None:
    """Stop the motor now."""
    now = session.only(KIND, identity).call("stop", {}, is_safe=True)
    session.done(now, "the motor is told to stop")


@rot.command()
@click.argument("setting", type=click.Choice(["on", "off"]))
@_id_option
@app.pass_session
def power(session: app.Session, setting: str, identity: str | None) -> None:
    """Switch the motor's power. Off makes the zero points void: home it afterwards."""
    now = session.only(KIND, identity).call("power", {"on": setting == "on"})
    session.done(now, f"motor power {setting}")


@rot.command()
@one_daemon.wait_option
@_id_option
@app.pass_session
def reset(session: app.Session, wait: bool, identity: str | None) -> None:
    """After a fault or a limit: motor power off and on, everything latched is cleared."""
    state = _begin(session, identity, "reset", "resetting", wait)
    if state is not None:
        session.done(state, "reset; home it when nobody is near: rot home")


@rot.command()
@click.option("--low", type=FINITE, metavar="DEG", help="Begin here.  [default: the low limit]")
@click.option("--high", type=FINITE, metavar="DEG", help="Turn here.  [default: the high limit]")
@click.option(
    "--step", type=FINITE, default=5.0, show_default=True, metavar="DEG", help="Between stops."
)
@one_daemon.wait_option
@_id_option
@app.pass_session
def calibrate(
    session: app.Session, low: float | None, high: float | None, step: float, wait: bool,
    identity: str | None,
) -> None:  # fmt: skip
    """Sweep up and down; show play and errors of motor against encoder."""
    state = _begin(
        session, identity, "calibrate", "sweeping", wait, low=low, high=high, step=step
    )
    if state is not None:
        session.result(state, sweep_lines(state["result"]))


if __name__ == "__main__":
    sys.exit(main())
