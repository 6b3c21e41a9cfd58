# SPDX-License-Identifier: BSD-3-Clause
"""``calib scripts``: write the acquisition scripts of a campaign."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nightjar.cli.frame import FrameCommand
from nightjar.cli.session import Session
from nightjar.errors import Refused

if TYPE_CHECKING:
    from nightjard.calib.staging import Published

pass_session = click.make_pass_decorator(Session)


@click.command("scripts", cls=FrameCommand)
@click.option(
    "-j", "--inputs", required=True, metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="JSON: equipment, elvis, CHAMBER, camptype, outpath, toWrite.",
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
    help="Folder that is made.  [default: outpath of FILE]",
)
@click.option(
    "--date", metavar="DAY",
    help="Date that the scripts bear, and whose chamber profile is taken: 01Apr19, or ISO 8601 "
    "UTC. The same date gives the same bytes.  [default: now]",
)
@click.option("--dry-run", is_flag=True, help="Check all, tell what would be written.")
@click.option(
    "--replace", is_flag=True, help="Take the place of another folder, which is kept beside it."
)
@pass_session
def command(
    session: Session, inputs: Path, out: Path | None, date: str | None, dry_run: bool,
    replace: bool,
) -> None:  # fmt: skip
    """Write the acquisition scripts that FILE asks for: a workbook a test, or none at all.

    With them go their check sums, the inventory and the table for the scheduler.
    """
    from nightjard.calib.scripts import make_scripts

    made = make_scripts(inputs, date=date, out=out)
    published = write_or_foresee(session, made.write, replace=replace, is_dry=dry_run)
    profile = made.profile
    session.note(f"chamber {profile.name}, version {profile.version} of {profile.recorded[:10]}")
    if dry_run:
        lines = [test.line() for test in made.tests]
        lines += ["", f" {made.frames} Frames Total", "", f" {made.minutes:.2f} Minutes Total"]
    else:
        lines = ["WRITING SCRIPTS...", *(f"{test.script.test}..." for test in made.tests)]
    tell_published(session, made.as_json(), lines, published)


def write_or_foresee(
    session: Session, write: Callable[..., Published], *, replace: bool, is_dry: bool
) -> Published | None:
    """Write, and return what became of it; of a dry run warn of what would be refused, None."""
    try:
        published = write(replace=replace, is_dry=is_dry)
    except Refused as error:
        if not is_dry:
            raise
        session.note(f"warning: would be refused: {error.message}")
        return None
    return None if is_dry else published


def tell_published(
    session: Session, value: dict[str, Any], lines: list[str], published: Published | None
) -> None:
    """Tell what was written, and where that lies whose place it took; None: a dry run."""
    kept = published and published.kept
    value |= {
        "written": bool(published and published.is_written), "replaced": kept and str(kept)
    }  # fmt: skip
    if published is None:
        session.result(value, lines)
        return
    if not published.is_written:
        lines = [*lines, f"{value['folder']} holds just this already; nothing was written"]
    session.done(value, "\n".join(lines))
    if kept is not None:
        session.note(f"what was there before is kept as {kept}")
