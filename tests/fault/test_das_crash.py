# SPDX-License-Identifier: BSD-3-Clause
"""SIGKILL at any instant of a recording: what was written is in a file with a name afterwards."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from kit.depth import soaked

TESTS = Path(__file__).resolve().parents[1]


# 1 tries every call; that takes half a minute of a core.
@pytest.mark.parametrize("step", [29, soaked(5)])
def test_no_sample_that_was_written_is_lost_by_a_kill(step: int) -> None:
    # A kill leaves on a RAM disk what it leaves on any; only the waits for the disk are shorter.
    with tempfile.TemporaryDirectory(prefix="nightjar-test-", dir="/dev/shm") as folder:
        done = subprocess.run(
            [sys.executable, "-m", "kit.das_crash", f"{folder}/lives", str(step)],
            cwd=TESTS, capture_output=True, text=True, timeout=110, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["lives"] > 660 // step
