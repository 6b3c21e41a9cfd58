# SPDX-License-Identifier: BSD-3-Clause
"""``calib``: its commands, each loaded when it is called, so that help answers at once."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import click

from nightjar.cli import run as cli_run
from nightjar.cli.frame import FrameGroup, group

#: Command -> what it does, as the list of commands says it. The module has the same name.
COMMANDS = {
    "init": "Make the work tree of a block: folders, links, templates.",
    "scripts": "Write the acquisition scripts of a campaign.",
    "sessions": "Put scripts into sessions; deliver them.",
    "acquire": "Run the scripts of a session on a camera and write its day folder.",
    "simulate": "Make day folders of a simulated detector, with faults.",
    "run": "Check and analyse the tests of a session, as they are acquired or afterwards.",
    "status": "Tell how far the tests of a campaign are, and which flags they raised.",
    "report": "Write the reports of results again.",
    "profile": "Show chamber profiles, propose and accept changes.",
    "masks": "Take cosmetics masks over for later tests.",
    "show": "Show consecutive frames of one CCD in DS9, or as a mosaic.",
    "clear": "Clear intermediate files out of result folders.",
}


class LazyGroup(FrameGroup):
    """Commands that are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of the work."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command; its module is imported now."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(
            f"nightjard.calib.commands.{cmd_name}"
        ).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


_ABOUT = """Calibrate a detector: scripts, sessions, acquisition, checks, analyses, reports.

A campaign in its order: calib init, calib scripts -j FILE, calib sessions -j FILE,
calib acquire or calib simulate, calib run FILE -R SESSION --wait."""


@group("calib", _ABOUT, cls=LazyGroup)
def calib() -> None:
    """Hold the commands."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``calib``."""
    return cli_run.run(calib, list(sys.argv[1:] if arguments is None else arguments))
