# SPDX-License-Identifier: BSD-3-Clause
"""``calib acquire``: runs the scripts of a session on a camera."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nightjar.cli.frame import FrameCommand
from nightjar.cli.session import Session, is_terminal, write
from nightjar.errors import Cancelled
from nightjar.times import duration_text
from nightjard.calib import completing

if TYPE_CHECKING:
    from nightjard.calib.acquire import Step

_HELP = """Run the scripts of a session on a camera, and write its day folder.

SESSION is a folder of calib sessions. The camera is one of camd, by its id; its frames are cut
into CCDs and written with the log and the housekeeping that calib run reads. Ctrl-C aborts the
exposure; what was taken until then stays, and is whole.

The camera needs a control for every key that a script commands. What a camera cannot do by itself
(a lamp that is switched by hand) is let pass by --allow-missing."""


@click.command("acquire", cls=FrameCommand, help=_HELP)
@click.argument(
    "session_folder", metavar="SESSION", type=click.Path(path_type=Path, exists=True)
)
@click.option("-c", "--camera", required=True, metavar="ID", help="Camera: cam ID status knows it.")
@click.option(
    "-o", "--data", required=True, type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
    help="Parent of the day folders of the block.",
)
@click.option("--day", metavar="NAME", help="Name of the day folder.  [default: that of today]")
@click.option("--detector", default="ccd273", show_default=True, help="What the camera has.",
              shell_complete=completing.detectors)
@click.option("--chamber", default="B_NOSTROMO", show_default=True, metavar="PROFILE",
              shell_complete=completing.chambers)
@click.option("--elvis", default="7.5.X", show_default=True, metavar="VERSION",
              help="Version whose log and housekeeping are written.")  # fmt: skip
@click.option("-O", "--start-obsid", type=click.IntRange(0, 10**8),
              help="Of the first frame.  [default: after the highest in DIR]")  # fmt: skip
@click.option("--only", "tests", multiple=True, metavar="TEST", help="Only these; may be repeated.")
@click.option("--allow-missing", is_flag=True,
              help="Go on though the camera lacks a control that a script needs.")  # fmt: skip
@click.option("--keep-spool", is_flag=True, help="Keep the camera's own files as well.")
@click.option("-n", "--dry-run", is_flag=True, help="Tell what would be taken, and end.")
@click.pass_obj
def command(
    session: Session, session_folder: Path, camera: str, data: Path, day: str | None,
    detector: str, chamber: str, elvis: str, start_obsid: int | None, tests: tuple[str, ...],
    allow_missing: bool, keep_spool: bool, dry_run: bool,
) -> None:
    """Run it."""
    from nightjar.calibration.chamber import load_profile
    from nightjar.calibration.detector import load_detector
    from nightjar.clock import SystemClock
    from nightjard.calib.acquire import acquire, next_obsid, taken_obsids
    from nightjard.calib.camd_camera import CamdCamera
    from nightjard.calib.session_folder import camera_client, chosen, session_books
    from nightjard.calib.stopping import stopped_by_hand

    described, profile = load_detector(detector), load_profile(chamber)
    books = chosen(session_books(session_folder), tests)
    minutes = sum(script.minutes(described) for _, script in books)
    frames = sum(script.frames for _, script in books)
    first = next_obsid(taken_obsids(data)) if start_obsid is None else start_obsid
    session.note(
        f"{len(books)} test{'' if len(books) == 1 else 's'}, {frames} frames from OBSID {first}, "
        f"about {duration_text(minutes * 60)} as planned"
    )
    if dry_run:
        lines = [f"{name}: {script.frames} frames" for name, script in books]
        session.result({"tests": [s.test for _, s in books], "frames": frames}, lines)
        return
    screen = _Screen(session)
    with stopped_by_hand() as stop:
        try:
            acquired = acquire(
                CamdCamera(camera_client(camera), SystemClock()), books, data, described, profile,
                SystemClock(), elvis=elvis, start_obsid=start_obsid, day_folder=day,
                allows_missing=allow_missing, keeps_spool=keep_spool, stop=stop,
                on_frame=screen.show,
            )  # fmt: skip
        except Cancelled as error:
            screen.clear()
            write(error.message, sys.stderr)
            raise KeyboardInterrupt from None
    screen.clear()
    session.result(
        {"folder": str(acquired.folder), "obsids": acquired.obsids, "frames": acquired.done},
        [f"{test:16} OBSID {low} to {high}" for test, (low, high) in acquired.obsids.items()]
        + [f"in {acquired.folder}"],
    )


class _Screen:
    """Shows what is taken: in one line of a terminal, else a line a test."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._is_live = is_terminal(sys.stderr) and not (session.is_quiet or session.is_json)

    def show(self, done: int, total: int, step: Step, obsid: int) -> None:
        """Show the exposure that begins."""
        text = (
            f"{done + 1}/{total}  {step.test} {step.column.name}, frame {step.frame} of "
            f"{step.of_test}, OBSID {obsid}"
        )
        if self._is_live:
            sys.stderr.write(f"\r\033[K{text}")
            sys.stderr.flush()
        elif step.frame == 1:
            self._session.note(text)

    def clear(self) -> None:
        """Leave the line empty."""
        if self._is_live:
            sys.stderr.write("\r\033[K")
