# SPDX-License-Identifier: BSD-3-Clause
"""``calib masks``: takes cosmetics masks over for later tests."""

from __future__ import annotations

from pathlib import Path

import click

from nightjar.cli.frame import FrameGroup
from nightjar.cli.session import Session
from nightjar.errors import InvalidArgument
from nightjard.calib.masks import find_masks, promote

_HELP = """Cosmetics masks of the CCDs.

COSMETICS00 makes them; promoted into calproducts/masks they are used by every preparation."""


@click.group("masks", cls=FrameGroup, help=_HELP)
def command() -> None:
    """Hold the commands."""


def _serials(
    _context: click.Context, _parameter: click.Parameter, given: tuple[str, ...]
) -> dict[int, str]:
    serials = {}
    for text in given:
        ccd, equals, serial = text.partition("=")
        if not equals or not ccd.isdigit() or not serial:
            raise click.BadParameter(f"{text!r}: write CCD=SERIAL, as in 1=14888-88-81")
        serials[int(ccd)] = serial
    return serials


@command.command("promote")
@click.argument("results", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("calproducts", type=click.Path(path_type=Path, file_okay=False))
@click.option("--block", metavar="NAME", help="Name of the block.  [default: as in the product]")
@click.option(
    "--serial", "serials", multiple=True, callback=_serials, metavar="CCD=SERIAL",
    help="Serial of a CCD, where the product has another.",
)
@click.option("--replace", is_flag=True, help="Replace other masks; the old ones are kept aside.")
@click.option("-n", "--dry-run", is_flag=True, help="Tell what would be copied.")
@click.pass_obj
def promote_command(
    session: Session, results: Path, calproducts: Path, block: str | None,
    serials: dict[int, str], replace: bool, dry_run: bool,
) -> None:
    """Copy the masks in RESULTS of COSMETICS00 into CALPRODUCTS/masks."""
    if not calproducts.parent.is_dir():
        raise InvalidArgument(f"there is no folder {calproducts.parent}")
    done = promote(
        find_masks(results), calproducts, block=block, serials=serials, is_replacing=replace,
        is_dry=dry_run,
    )  # fmt: skip
    words = {"new": "copied", "same": "is there already", "replaced": "replaced"}
    session.result(
        {"masks": [{"source": str(one.source), "target": str(one.target), "action": one.action}
                   for one in done], "is_dry": dry_run},
        [f"{one.target}: {'would be ' if dry_run and one.action != 'same' else ''}"
         f"{words[one.action]}" for one in done],
    )  # fmt: skip
