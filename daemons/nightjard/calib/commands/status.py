# SPDX-License-Identifier: BSD-3-Clause
"""``calib status``: how far the tests of a campaign are."""

from __future__ import annotations

import json
import os
import shlex
import stat
from pathlib import Path
from typing import Any

import click

from nightjar.cli.frame import FrameCommand
from nightjar.cli.session import Session
from nightjar.cli.text import table
from nightjar.units import bytes_text
from nightjard.calib import completing

_HEADINGS = ("SESSION", "TEST", "STATE", "FRAMES", "OBSIDS", "STEPS", "SIZE", "ERR", "WARN", "INFO",
             "WAIVED", "FLAGS")  # fmt: skip
_COLORS = {"processed": "green", "failed": "red", "interrupted": "red",
           "over-acquired": "yellow"}  # fmt: skip


@click.command(
    "status", cls=FrameCommand,
    help="Tell how far the tests of a campaign are, and which flags they raised.\n\n"
    "STEPS: how many of the sub-tasks are done, reading in among them. SIZE: what all attempts "
    "take on the disk; calib clear -n tells what of it can be made again.",
)  # fmt: skip
@click.argument("campaign", type=click.Path(path_type=Path))
@click.option("-R", "--run", "session", metavar="RUN", help="Only this session.",
              shell_complete=completing.sessions)
@click.pass_obj
def command(shell: Session, campaign: Path, session: str | None) -> None:
    """Print the states that are kept beside the results."""
    from nightjard.calib.campaign import load_campaign
    from nightjard.calib.engine.layout import is_held
    from nightjard.calib.engine.state import read_state, state_of

    loaded = load_campaign(campaign)
    names = [loaded.require_session(session)] if session else loaded.file.sessions
    sessions: list[dict[str, Any]] = []
    rows: list[list[Any]] = []
    reasons: dict[str, list[str]] = {}
    stopped: list[str] = []
    for name in names:
        kept = read_state(loaded.results_root / name)
        tests = [state_of(one) for one in kept.get("tests", ())]
        told = []
        is_running = is_held(loaded.results_root / name) if tests else False
        killed = [one.test for one in tests if one.stage == "processing" and is_running is False]
        if is_running is False and not all(one.has_ended for one in tests):
            stopped.append(_resume(campaign, name, kept, killed))
        if not tests:
            rows.append([name, "-", "not begun", *[None] * 8, ""])
        for one, values in zip(tests, kept.get("tests", ()), strict=True):
            folder = loaded.results_root / name / one.test
            steps, size = _steps(folder), _size(folder)
            told.append({**values, "steps": steps, "bytes": size})
            counts = [one.severities.get(key, 0) for key in ("error", "warning", "info", "waived")]
            obsids = None if one.obsids == (-1, -1) else f"{one.obsids[0]}-{one.obsids[1]}"
            stage = "interrupted" if one.test in killed else one.stage
            rows.append([name, one.test, stage, f"{one.frames}/{one.wanted}", obsids,
                         f"{list(steps.values()).count('done')}/{len(steps)}" if steps else None,
                         bytes_text(size), *counts, " ".join(one.flags)])  # fmt: skip
            if one.reason:
                reasons.setdefault(one.reason, []).append(one.test)
        sessions.append({
            "run": name, "updated": kept.get("updated"), "is_running": is_running,
            "interrupted": killed, "tests": told,
        })  # fmt: skip
    lines = table(_HEADINGS, rows, right=(3, 5, 6, 7, 8, 9, 10))
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
    why = [f"{', '.join(tests)}: {reason}" for reason, tests in reasons.items()]
    shell.result({"campaign": str(campaign), "sessions": sessions}, [*painted, *why, *stopped])


def _resume(campaign: Path, name: str, kept: dict[str, Any], killed: list[str]) -> str:
    """Return what to do about a session whose run is gone and whose tests have not all ended."""
    words = ["calib", "run", str(campaign), "-R", name]
    words += [
        option for option, key in (("-W", "is_wait"), ("-k", "is_check_only")) if kept.get(key)
    ]
    if kept.get("first_obsid") is not None:  # without it others could be taken
        words += ["-O", str(kept["first_obsid"])]
    what = f"; {', '.join(killed)} was interrupted" if killed else ""
    return f"{name}: no process is at work on it{what}; to go on: {shlex.join(words)}"


def _steps(folder: Path) -> dict[str, str]:
    """Return what became of each sub-task of a test; empty where nothing can be read."""
    try:
        found = json.loads((folder / "current" / "results.json").read_text(encoding="utf-8"))
        return {str(one["name"]): str(one["status"]) for one in found["steps"]}
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def _size(folder: Path) -> int:
    """Return the bytes of a folder; a file that attempts share counts once, links do not."""
    sizes: dict[tuple[int, int], int] = {}
    for where, _folders, names in os.walk(folder, followlinks=False):
        for name in names:
            try:
                about = os.lstat(os.path.join(where, name))
            except FileNotFoundError:
                continue  # cleared meanwhile
            if stat.S_ISREG(about.st_mode):
                sizes[about.st_dev, about.st_ino] = about.st_size
    return sum(sizes.values())
