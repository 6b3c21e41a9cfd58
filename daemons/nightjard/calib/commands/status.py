# SPDX-License-Identifier: BSD-3-Clause
"""``calib status``: how far the tests of a campaign are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from nightjar.cli.frame import FrameCommand
from nightjar.cli.session import Session
from nightjar.cli.text import table

_HEADINGS = ("SESSION", "TEST", "STATE", "FRAMES", "OBSIDS", "ERR", "WARN", "INFO", "WAIVED",
             "FLAGS")  # fmt: skip
_COLORS = {"processed": "green", "failed": "red", "over-acquired": "yellow"}


@click.command(
    "status", cls=FrameCommand,
    help="Tell how far the tests of a campaign are, and which flags they raised.",
)  # fmt: skip
@click.argument("campaign", type=click.Path(path_type=Path))
@click.option("-R", "--run", "session", metavar="RUN", help="Only this session.")
@click.pass_obj
def command(shell: Session, campaign: Path, session: str | None) -> None:
    """Print the states that are kept beside the results."""
    from nightjard.calib.campaign import load_campaign
    from nightjard.calib.engine.state import read_state, state_of

    loaded = load_campaign(campaign)
    names = [loaded.require_session(session)] if session else loaded.file.sessions
    sessions: list[dict[str, Any]] = []
    rows: list[list[Any]] = []
    reasons: list[str] = []
    for name in names:
        kept = read_state(loaded.results_root / name)
        tests = [state_of(one) for one in kept.get("tests", ())]
        sessions.append({"run": name, "updated": kept.get("updated"), "tests": kept.get("tests")})
        if not tests:
            rows.append([name, "-", "not begun", None, None, None, None, None, None, ""])
        for one in tests:
            counts = [one.severities.get(key, 0) for key in ("error", "warning", "info", "waived")]
            obsids = None if one.obsids == (-1, -1) else f"{one.obsids[0]}-{one.obsids[1]}"
            rows.append([name, one.test, one.stage, f"{one.frames}/{one.wanted}", obsids,
                         *counts, " ".join(one.flags)])  # fmt: skip
            if one.reason:
                reasons.append(f"{one.test}: {one.reason}")
    lines = table(_HEADINGS, rows, right=(3, 5, 6, 7, 8))
    painted = [
        next(
            (
                shell.paint(line, color)
                for stage, color in _COLORS.items() if f" {stage} " in line
            ),
            line,
        )
        for line in lines
    ]  # fmt: skip
    shell.result({"campaign": str(campaign), "sessions": sessions}, [*painted, *reasons])
