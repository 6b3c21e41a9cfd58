# SPDX-License-Identifier: BSD-3-Clause
"""Programs of this kit that mount small file systems, in a mount namespace of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
_UNSHARE = ("unshare", "--mount", "--map-root-user")


def prove(program: str, *folders: Path) -> None:
    """Run ``kit.PROGRAM FOLDER...``, which must print ``done`` and nothing else.

    The test is skipped where the machine allows no mount namespace; it needs ``unshare``.
    """
    trial = subprocess.run(
        [*_UNSHARE, "mount", "-t", "tmpfs", "tmpfs", folders[0]], capture_output=True, check=False
    )
    if trial.returncode:
        pytest.skip("this machine allows no mount namespace")
    done = subprocess.run(
        [*_UNSHARE, sys.executable, "-m", f"kit.{program}", *folders],
        cwd=TESTS, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr
