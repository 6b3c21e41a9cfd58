# SPDX-License-Identifier: BSD-3-Clause
"""``calib simulate``: day folders of a simulated block, with whatever goes wrong on purpose."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click

from nightjar.cli.frame import FrameCommand
from nightjar.cli.numbers import FiniteRange
from nightjar.cli.session import Session, is_terminal, write
from nightjar.errors import Cancelled, InvalidArgument
from nightjar.times import duration_text, parse_iso
from nightjard.calib import completing

pass_session = click.make_pass_decorator(Session)
_folder = click.Path(path_type=Path, file_okay=False)

_HELP = """Make day folders as the acquisition of TESTs, or of sessions, would leave them.

Images, exposure log and housekeeping are those of a simulated block; what was put into them is
written beside each day folder. The same options make the same pixels. --fault NAME or
NAME:KEY=VALUE,... spoils something, test= and frame= say where; --faults lists them."""


def _list_faults(context: click.Context, _parameter: click.Parameter, is_wanted: bool) -> None:
    if not is_wanted or context.resilient_parsing:
        return
    from nightjard.simulators.detector.faults import FAULTS

    for name, (meaning, arguments) in FAULTS.items():
        keys = ",".join(f"{key}={value}" for key, value in arguments.items())
        write(f"{name:16} {meaning}" + (f"  [{keys}]" if keys else ""))
    context.exit()


@click.command("simulate", cls=FrameCommand, help=_HELP)
@click.argument("tests", nargs=-1, metavar="[TEST]...", shell_complete=completing.tests)
@click.option(
    "-s", "--session", "sessions", multiple=True, type=click.Path(path_type=Path, exists=True),
    metavar="DIR", help="Folder of a session, as calib sessions makes it; may be repeated.",
)
@click.option("-o", "--out", type=_folder, required=True, metavar="DIR",
              help="Where the day folders are made.")  # fmt: skip
@click.option("--scale", type=click.Choice(["8th", "full"]), default="8th", show_default=True,
              help="Size of the image area.")  # fmt: skip
@click.option("--detector", metavar="NAME", help="Another description; a name or a file.",
              shell_complete=completing.detectors)
@click.option("--block", default="NOSTROMO", show_default=True, metavar="NAME")
@click.option("--chamber", default="B_NOSTROMO", show_default=True, metavar="PROFILE",
              shell_complete=completing.chambers)
@click.option("--camptype", default="Full", show_default=True, metavar="NAME",
              shell_complete=completing.camptypes,
              help="Catalogue that knows the TESTs.")  # fmt: skip
@click.option("--elvis", default="7.5.X", show_default=True, metavar="VERSION",
              shell_complete=completing.versions)
@click.option("--date", metavar="TIME", help="UTC of the first exposure, ISO 8601.  [default: now]")
@click.option("--start-obsid", type=click.IntRange(0, 10**8), default=1000, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True, help="Of block, photons, noise.")
@click.option("--effects", default="standard", show_default=True, metavar="SET",
              help="standard, plain, none, or changes such as no-crosstalk,pickup.")  # fmt: skip
@click.option("--max-frames", type=click.IntRange(1), metavar="N",
              help="At most so many frames of each column of a script.")  # fmt: skip
@click.option("--speed", type=FiniteRange(1e-3, 1e6), metavar="X",
              help="Times as fast as life; 1: as long as it takes.  "
              "[default: as fast as it goes]")  # fmt: skip
@click.option("--fault", "faults", multiple=True, metavar="NAME[:KEY=VALUE,...]",
              shell_complete=completing.faults)
@click.option("--split-days", is_flag=True, help="A new day folder after midnight.")
@click.option("--faults", "is_listing", is_flag=True, is_eager=True, expose_value=False,
              callback=_list_faults, help="List the faults, with their keys.")  # fmt: skip
@pass_session
def command(session: Session, /, **options: Any) -> None:
    """Run it."""
    from nightjard.calib.simulating import simulate
    from nightjard.calib.stopping import stopped_by_hand

    simulation = _simulation(**options)
    session.note(
        f"{simulation.frames} exposure{'' if simulation.frames == 1 else 's'}, "
        f"{simulation.image_bytes / 1e6:.0f} MB, "
        f"{duration_text(simulation.seconds)} in life"
    )
    started = time.monotonic()
    is_shown = is_terminal(sys.stderr) and not session.is_quiet and not session.is_json

    def show(done: int, total: int, obsid: int, test: str) -> None:
        if is_shown:
            left = (time.monotonic() - started) / done * (total - done)
            sys.stderr.write(
                f"\r\033[K{done}/{total}  {test}  OBSID {obsid}  {duration_text(left)} left"
            )
            sys.stderr.flush()

    with stopped_by_hand() as stop:
        try:
            made = simulate(simulation, show, stop)
        except Cancelled as error:
            if is_shown:
                sys.stderr.write("\r\033[K")
            session.note(error.message)
            raise KeyboardInterrupt from None
    if is_shown:
        sys.stderr.write("\r\033[K")
    lines = []
    for one in made:
        lines.append(f"{one['session']}: {', '.join(one['folders'])}")
        for run in one["runs"]:
            aborted = "" if run["is_complete"] else "  (ended too early)"
            lines.append(f"  {run['test']:16} OBSID {run['first']} to {run['last']}{aborted}")
        lines.append(f"  truth: {one['truth']}")
    session.result({"sessions": made, "seconds": round(time.monotonic() - started, 3)}, lines)


def _simulation(
    tests: tuple[str, ...], sessions: tuple[Path, ...], scale: str, detector: str | None,
    chamber: str, camptype: str, elvis: str, date: str | None, max_frames: int | None, **more: Any,
) -> Any:  # fmt: skip
    """Return what the options ask for."""
    from nightjar.calibration.detector import load_detector
    from nightjard.calib import simulating
    from nightjard.calib.profiles import profile_at
    from nightjard.calib.session_folder import session_books

    if bool(tests) == bool(sessions):
        raise click.UsageError("name tests, or sessions with -s DIR; not both, not neither")
    try:
        start_ns = time.time_ns() if date is None else parse_iso(date)
    except ValueError as error:
        raise InvalidArgument(f"--date: {error}") from None
    described = load_detector(detector or simulating.SCALES[scale])
    profile = profile_at(chamber, start_ns)
    names: dict[str, dict[str, str]] = {}
    if sessions:
        scripts = {}
        for path in sessions:
            books = session_books(path)
            scripts[path.name] = tuple(script for _, script in books)
            names[path.name] = {script.test: name for name, script in books}
        if len(scripts) < len(sessions):
            raise InvalidArgument("two sessions have the same name")
    else:
        scripts = {
            "tests": simulating.catalogue_scripts(
                tests, detector=described, profile=profile, camptype=camptype, elvis=elvis
            )
        }
    if max_frames is not None:
        scripts = {name: simulating.shortened(s, max_frames) for name, s in scripts.items()}
    # Names of files have whole seconds.
    start_ns -= start_ns % 10**9
    return simulating.Simulation(
        sessions=scripts, detector=described, profile=profile, elvis=elvis, start_ns=start_ns,
        script_names=names, **more,
    )  # fmt: skip
