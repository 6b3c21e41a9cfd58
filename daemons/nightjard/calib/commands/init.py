# SPDX-License-Identifier: BSD-3-Clause
"""``calib init``: makes the work tree of a block."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path

import click

from nightjar import __version__
from nightjar.cli.frame import FrameCommand
from nightjar.cli.session import Session
from nightjard.calib import completing

_HELP = """Make the work tree of a block: BLOCK/ANALYSIS, BLOCK/SCRIPTS, links to its data.

The templates in it carry the block's name and month: inputs of calib scripts and calib sessions,
and the campaign file of calib run. What is there already stays as it is."""


@click.command("init", cls=FrameCommand, help=_HELP)
@click.argument("block")
@click.option(
    "-p", "--path", type=click.Path(path_type=Path, file_okay=False), default=Path("."),
    metavar="PATH", help="Folder in which the tree is made.  [default: the current one]",
)
@click.option(
    "--data", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
    help="Where data, calibration products and results are kept.  [default: BLOCK/CALDATA]",
)
@click.option("--results", default="results", show_default=True, metavar="NAME",
              help="Folder of the results in it: your own, where several work on one block.")
@click.option("--chamber", default="B_NOSTROMO", show_default=True, help="Chamber profile.",
              shell_complete=completing.chambers)
@click.option("--detector", default="ccd273", show_default=True, help="Detector description.",
              shell_complete=completing.detectors)
@click.option("--camptype", default="Full", show_default=True, metavar="NAME",
              shell_complete=completing.camptypes,
              help="Kind of campaign: its catalogue.")  # fmt: skip
@click.option("--date", metavar="DAY",
              help="For the names: 01Apr19 or 2019-04-01.  [default: today]")  # fmt: skip
@click.option("--roe", help="Serial of the read-out electronics.")
@click.option("--rpsu", help="Serial of the power supply.")
@click.option("--ccd", "ccds", multiple=True, help="Serial of a CCD: once for each, in order.")
@click.pass_obj
def command(
    session: Session, block: str, path: Path, data: Path | None, results: str, chamber: str,
    detector: str, camptype: str, date: str | None, roe: str | None, rpsu: str | None,
    ccds: tuple[str, ...],
) -> None:
    """Run it."""
    from nightjard.calib.init import make_tree
    from nightjard.calib.scripts import parse_date

    serials = {f"sn_ccd{number}": one for number, one in enumerate(ccds, 1)}
    serials |= {key: one for key, one in (("sn_roe", roe), ("sn_rpsu", rpsu)) if one is not None}
    day = datetime.datetime.fromtimestamp(parse_date(date)[0] // 10**9, tz=datetime.UTC).date()
    tree = make_tree(
        path, block, day, data=data, serials=serials, chamber=chamber, detector=detector,
        camptype=camptype, results_name=results,
    )  # fmt: skip
    lines = [f"{block}: made by calib {__version__} ({sys.argv[0]})"]
    lines += [f"  new   {_text(one)}" for one in tree.made]
    lines += [f"  kept  {_text(one)}" for one in tree.kept]
    for warning in tree.warnings:
        session.note(f"warning: {warning}")
    session.done(
        {"root": str(tree.root), "made": [str(one) for one in tree.made],
         "kept": [str(one) for one in tree.kept], "warnings": tree.warnings,
         "version": __version__},
        "\n".join(lines),
    )  # fmt: skip


def _text(path: Path) -> str:
    return f"{path} -> {path.readlink()}" if path.is_symlink() else str(path)
