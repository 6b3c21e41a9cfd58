# SPDX-License-Identifier: BSD-3-Clause
"""``calib show``: consecutive OBSIDs of one CCD in DS9, or drawn as a mosaic."""

from __future__ import annotations

from pathlib import Path

import click

from nightjar.cli.frame import FrameCommand
from nightjar.cli.session import Session, write
from nightjar.errors import NightjarError
from nightjard.calib.show import TEMPLATE, choose_ds9, draw_mosaic, find_frames, show_in_ds9

_HELP = """Show the frames of one CCD, OBSID FIRST to LAST, each in a frame of DS9.

Without a running DS9 one is started. Of several that run, -d names one: the method that File > XPA
> Information shows, or the title. Without DS9, --png FILE draws them beside each other."""


@click.command("show", cls=FrameCommand, help=_HELP)
@click.option(
    "-p", "--path", type=click.Path(path_type=Path), default=Path("."), metavar="PATH",
    help="Folder of the frames, not searched below.  [default: the current one]",
)
@click.option("-r", "--roe", type=int, default=1, show_default=True, help="Read-out electronics.")
@click.option("-c", "--ccd", type=int, required=True, help="CCD.")
@click.option(
    "-t", "--template", default=TEMPLATE, metavar="NAME", show_default=True,
    help="Names of the files; three %i are OBSID, ROE, CCD.",
)
@click.option("-d", "--ds9", metavar="METHOD", help="Which DS9.  [default: the one that runs]")
@click.option(
    "--png", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Draw a mosaic into this file instead.",
)
@click.argument("first", type=click.IntRange(0))
@click.argument("last", type=click.IntRange(0), required=False)
@click.pass_obj
def command(
    session: Session, path: Path, roe: int, ccd: int, template: str, ds9: str | None,
    png: Path | None, first: int, last: int | None,
) -> None:
    """Run it."""
    from nightjard.calib.structure import stretches

    found = find_frames(path, first, first if last is None else last, roe, ccd, template)
    if not (session.is_json or session.is_quiet):
        for first_missing, last_missing in stretches(found.missing):
            more = f" to {last_missing}" if last_missing > first_missing else ""
            write(f"OBSID {first_missing}{more}: not found")
    if not found.paths:
        raise NightjarError(
            f"no frame of CCD {ccd} with OBSID {first}"
            f"{'' if last is None else f' to {last}'} in {path}"
        )
    damaged: tuple[Path, ...] = ()
    if png is not None:
        damaged = draw_mosaic(found.paths, png)
        for one in damaged:
            session.note(f"warning: {one} cannot be read as an image")
        where = str(png)
    else:
        shown = choose_ds9(ds9)
        show_in_ds9(shown, found.paths)
        where = f"DS9 {shown.target}"
    drawn = len(found.paths) - len(damaged)
    session.result(
        {"shown": [str(one) for one in found.paths], "missing": list(found.missing),
         "damaged": [str(one) for one in damaged], "where": where},
        f"{drawn} frame{'' if drawn == 1 else 's'} in {where}",
    )  # fmt: skip
