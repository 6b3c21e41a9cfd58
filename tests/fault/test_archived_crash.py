# SPDX-License-Identifier: BSD-3-Clause
"""The archive killed with SIGKILL between and in the middle of its system calls.

``python -m kit.archive_crash FAST DISK SEED 1000`` (in ``tests``) tries every instant.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kit.depth import counts

SEED = 20260131
TESTS = Path(__file__).resolve().parents[1]


# Instants of some 40 to 50 in each scenario.
@pytest.mark.parametrize("instants", counts(4, 16))
def test_nothing_is_lost_whenever_it_is_killed(tmp_path: Path, instants: int) -> None:
    fast = Path(os.environ["MILK_SHM_DIR"])  # another file system than tmp_path
    done = subprocess.run(
        [sys.executable, "-m", "kit.archive_crash", fast, tmp_path, str(SEED), str(instants)],
        cwd=TESTS, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == 6
    for result in results:
        assert result["problems"] == [], result["name"]
        assert result["kills"] >= instants
        assert result["calls"] > 30
