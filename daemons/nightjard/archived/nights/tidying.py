# SPDX-License-Identifier: BSD-3-Clause
"""What processes that were killed have left half-written in a night is removed."""

from __future__ import annotations

import fcntl
import logging
import re
from pathlib import Path

from nightjard.archived.nights.plan import FOLDER
from nightjard.archived.nights.steps.context import Context
from nightjard.archived.nights.steps.making import HASHES, SUPERSEDED

log = logging.getLogger(__name__)

# NAME.PID.tmp, or NAME.PID-NUMBER.tmp; hidden
_LEFT = re.compile(r"\..+\.(\d+)(?:-\d+)?\.tmp", re.ASCII | re.DOTALL)


def tidy(context: Context) -> None:
    """Remove what processes that were killed have left half-written; the night is ours alone."""
    folders = {stream.folder for stream in context.config.streams.values()}
    names = {"", FOLDER, HASHES, SUPERSEDED, *folders} - set(context.config.streams)
    for name in sorted(names):
        folder = context.folder / name
        if not folder.is_dir():
            continue
        for path in list(folder.iterdir()):
            match = _LEFT.fullmatch(path.name)
            # One whose process lives is being written by a command that needs no lock of a night.
            if match is not None and not Path(f"/proc/{match[1]}").exists():
                _remove_unheld(path)


def _remove_unheld(path: Path) -> None:
    """Remove a file unless somebody, on whatever host, holds a lock on it."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
    except BlockingIOError:
        pass
    except OSError as error:
        log.warning("%s was left by a killed process and stays: %s", path, error)
