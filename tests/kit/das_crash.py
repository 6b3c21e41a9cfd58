# SPDX-License-Identifier: BSD-3-Clause
"""A recording that is killed at every instant, and gone on with: ``... FOLDER STEP``.

Each life writes samples that tell their counter; what was written before the fatal call must be in
a file with a name after the next life has begun, in the slot of its time.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from kit.das import START_NS, Bench, counters_in, das_config, truth
from kit.lives import Instants, life
from nightjar.das.raw import read_raw
from nightjard.dasd import leftovers

S = 1_000_000_000
CALLS = ("open", "pwrite", "ftruncate", "fsync", "fdatasync", "replace", "unlink")
CHANGES: dict[str, Any] = {"adc": {"sample_rate_hz": 1.0}, "channels": {"count": 4, "groups": []}}
SECONDS = range(20, 150)  # three minutes, the first and the last not whole


class Crash:
    """One folder and its log of what was written."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.root, self.log = folder / "raw", folder / "written"
        self.root.mkdir()
        self.log.touch()
        self.bench = Bench(self.root, das_config(self.root, **CHANGES), folder / "rescued")

    def record(self) -> None:
        """Record from where the log ends; every sample that was written is noted."""
        written = [int(line) for line in self.log.read_text().split()]
        first = max(written, default=SECONDS.start - 1) + 1
        self.bench.now_ns = START_NS + first * S
        recorder = self.bench.begin()
        with self.log.open("a", buffering=1) as log:
            for number in range(first, SECONDS.stop):
                self.bench.now_ns = START_NS + (number + 1) * S
                samples = truth(np.array([number]), 4)
                recorder.write(samples, number, START_NS + number * S, 1e9)
                log.write(f"{number}\n")
                recorder.tick(self.bench.now_ns)
        recorder.close("test")

    def check(self, fatal: int) -> None:
        """Every sample is where it must be, and nothing else is."""
        written = {int(line) for line in self.log.read_text().split()}
        found = set()
        for path in sorted(self.root.glob("*/raw_*.bin")):
            minute = read_raw(path)
            valid = np.flatnonzero(minute.is_valid())
            numbers = counters_in(minute.samples)[valid]
            times = (minute.start_ns - START_NS) // S + valid
            assert np.array_equal(numbers, times), f"{fatal}: {path}: samples were shifted"
            assert minute.index is not None, f"{fatal}: {path} has no sidecar"
            assert minute.index["valid"] == valid.size, f"{fatal}: {path}: {minute.index}"
            found |= set(numbers.tolist())
        assert written <= found, f"{fatal}: lost {sorted(written - found)}"
        assert found == set(SECONDS), f"{fatal}: {sorted(set(SECONDS) ^ found)}"
        hidden = [path.name for path in self.root.glob("*/.*.tmp")]
        assert not hidden, f"{fatal}: {hidden}"
        aside = self.root / leftovers.QUARANTINE
        assert not aside.exists(), f"{fatal}: {sorted(aside.iterdir())}"


def main() -> int:
    """Kill at every STEP-th call; print "done LIVES" when nothing was ever lost."""
    folder, step = Path(sys.argv[1]), int(sys.argv[2])
    whole = Crash(folder / "whole")
    total = life(whole.record, lambda: Instants(None, CALLS))
    assert total is not None
    whole.check(0)
    lives = 0
    for fatal in range(1, total + 1, step):
        for is_late in (False, True):
            crash = Crash(folder / f"{fatal}-{is_late}")
            ended = life(
                crash.record,
                lambda fatal=fatal, late=is_late: Instants(fatal, CALLS, is_told_late=late),  # type: ignore[misc]
            )
            # A call that fails by itself is not lived through late.
            assert ended is None or is_late, f"{fatal}: was not killed"
            assert life(crash.record, lambda: Instants(None, CALLS)) is not None
            crash.check(fatal)
            lives += 1
    print(json.dumps({"calls": total, "lives": lives, "pid": os.getpid()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
