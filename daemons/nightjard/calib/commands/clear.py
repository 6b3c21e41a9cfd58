# SPDX-License-Identifier: BSD-3-Clause
"""``calib clear``: empties folders of intermediate files, after asking twice."""

from __future__ import annotations

from pathlib import Path

import click

from nightjar.cli.frame import FrameCommand
from nightjar.cli.session import Session, write
from nightjar.errors import Refused
from nightjar.units import bytes_text
from nightjard.calib.clear import Clearing, clear, find_folders, measure, undisturbed

_HELP = """Clear folders of intermediate files.

Every folder NAME below PATH is listed, then its size, and each time you are asked. Only what lies
in results of calib run is touched, and no results themselves; links are not followed; the folders
stay, empty. A second run finds nothing to do.

Intermediate files are in folders named intermediate; those of older pipelines in ccdpickles and
ccdflats."""


@click.command("clear", cls=FrameCommand, help=_HELP)
@click.option(
    "-p", "--path", type=click.Path(path_type=Path, file_okay=False), required=True,
    metavar="PATH", help="Results, or a part of them.",
)
@click.option("-k", "--name", required=True, metavar="NAME", help="Name of the folders to empty.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("-n", "--dry-run", is_flag=True, help="Tell what would be cleared, and end.")
@click.option(
    "--trash", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
    help="Move what is cleared into this folder instead of removing it.",
)
@click.pass_obj
def command(
    session: Session, path: Path, name: str, yes: bool, dry_run: bool, trash: Path | None
) -> None:
    """Run it."""
    folders = find_folders(path, name)
    if not folders:
        session.result(_summary([], False), f"There is no folder {name} below {path}.")
        return
    if not session.is_json and not session.is_quiet:
        write("Folders that would be emptied:\n")
        for folder in folders:
            write(f"  {folder}")
    if not (yes or dry_run) and not _agrees("\nAre you happy with the selection?"):
        raise Refused("nothing was cleared")
    found = [measure(folder) for folder in folders]
    lines = [f"  {one.folder}, {one.files} files, {bytes_text(one.bytes)}" for one in found]
    total = f"TOTAL: {sum(one.files for one in found)} files, " + bytes_text(
        sum(one.bytes for one in found)
    )
    if not session.is_json:
        write("\n".join(["", *lines, "", total]))
    if dry_run:
        session.result(_summary(found, False))
        return
    if any(one.files for one in found):
        what = "To be moved to " + str(trash) if trash else "To be removed for good"
        if not yes and not _agrees(f"\n{what}. Still want to proceed?"):
            raise Refused("nothing was cleared")
        with undisturbed(folders):
            for one in found:
                clear(one.folder, trash)
    done = "cleared" if any(one.files for one in found) else "nothing to clear"
    session.result(_summary(found, True), done)


def _summary(found: list[Clearing], is_cleared: bool) -> dict[str, object]:
    return {
        "folders": [
            {"folder": str(one.folder), "files": one.files, "bytes": one.bytes} for one in found
        ],
        "files": sum(one.files for one in found), "bytes": sum(one.bytes for one in found),
        "is_cleared": is_cleared,
    }  # fmt: skip


def _agrees(question: str) -> bool:
    """Ask; only y or Y agrees, and where nobody can answer, nobody does."""
    try:
        answer = click.prompt(f"{question} yes=y/Y", default="n", show_default=False)
    except click.Abort:
        raise Refused("nobody answered, nothing was cleared; --yes does not ask") from None
    return str(answer).strip() in ("y", "Y")
