# SPDX-License-Identifier: BSD-3-Clause
"""SIGKILL at any instant of a recording: what was written is in a file with a name afterwards."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
STEP = 11
"""1 tries every call; that takes half a minute of a quiet core."""


def test_no_sample_that_was_written_is_lost_by_a_kill(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kit.das_crash", str(tmp_path / "lives"), str(STEP)],
        cwd=TESTS, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    if not done.returncode:
        assert json.loads(done.stdout)["lives"] > 60
    assert done.returncode == 0, done.stderr
