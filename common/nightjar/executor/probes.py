# SPDX-License-Identifier: BSD-3-Clause
"""What a worker sees: asked before work is given to hosts that nobody has tried."""

from __future__ import annotations

import os
import platform
import socket
from typing import Any

from nightjar import __version__

LOOK = "nightjar.executor.probes:look"
"""The function below as a task names it: every executor allows it."""


def look(folders: list[str]) -> dict[str, Any]:
    """Return how this worker sees the folders that tasks will use.

    Parameters
    ----------
    folders
        Absolute paths.

    Returns
    -------
    dict
        host, pid, nightjar, python, and folders: path -> ``ok``, ``read only`` or ``missing``.
    """
    seen = {}
    for folder in folders:
        is_there = os.path.isdir(folder)
        may_write = is_there and os.access(folder, os.W_OK)
        seen[folder] = "ok" if may_write else "read only" if is_there else "missing"
    return {
        "host": socket.gethostname(), "pid": os.getpid(), "nightjar": __version__,
        "python": platform.python_version(), "folders": seen,
    }  # fmt: skip
