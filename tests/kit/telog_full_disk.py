# SPDX-License-Identifier: BSD-3-Clause
"""Telescope logs on a real small disk; run in a mount namespace of its own: ``... DISK BASE``."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from kit.telog import MINUTE0_NS, Told, manual, records
from nightjar.api.telog import FileState
from nightjar.das.housekeeping import read_housekeeping
from nightjar.das.naming import MINUTE_NS, housekeeping_path, pointing_path
from nightjard.telogd.growing import live_name
from nightjard.telogd.housekeeping import HousekeepingLog
from nightjard.telogd.ledger import Ledger
from nightjard.telogd.minutes import MinuteFile
from nightjard.telogd.pointing import PointingLog


def check(condition: Any, what: str) -> None:
    if not condition:
        raise SystemExit(f"failed: {what}")


def main() -> int:
    """Fill the disk under running logs, make room again; print "done" when nothing was lost."""
    disk, base = Path(sys.argv[1]), Path(sys.argv[2])
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], check=True)
    for name in ("pointing", "housekeeping"):
        (disk / name).mkdir()
    clock, told = manual(), Told()
    pointing = PointingLog(disk / "pointing", clock, told.append, "test")
    lines = HousekeepingLog(disk / "housekeeping", base, ("rot",), clock, told.append)
    lines.resume()
    ledger = Ledger(f"sqlite:///{disk}/ledger.db", clock)
    ledger.flush()
    check(ledger.trouble == "", ledger.trouble)

    def second(k: int) -> None:
        for _ in range(10):
            lines.add("rot", {"angle_deg": 1.0, "state": "x" * 200})
            clock.advance(0.1)
        pointing.take(records(MINUTE0_NS + k // 60 * MINUTE_NS, 100, k % 60 * 100))
        pointing.tick()
        lines.tick()

    for k in range(10):
        second(k)
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    check(os.statvfs(disk).f_bavail == 0, "the disk is full")
    for k in range(10, 70):  # over the end of the minute
        second(k)
    check("No space left" in pointing.trouble, f"pointing says so: {pointing.trouble}")
    check("No space left" in lines.trouble, f"housekeeping says so: {lines.trouble}")
    live = live_name(housekeeping_path(disk / "housekeeping", MINUTE0_NS))
    check(not live.exists() or live.read_bytes().endswith(b"\n"), "no line is cut")
    for k in range(300):
        ledger.note(MinuteFile("raw", "20250615", f"f{k}{'x' * 200}", None, FileState.OTHER))
    ledger.flush()
    check(ledger.trouble and ledger.waiting >= 300, f"the ledger waits: {ledger.trouble!r}")
    ballast.unlink()
    for k in range(70, 125):
        second(k)
    ledger.flush()
    check(ledger.trouble == "" and ledger.waiting == 0, f"the ledger went on: {ledger.trouble}")
    check(len(ledger.files(None, "raw", None, 1000)) == 300, "all entries are there")
    check(pointing.trouble == "" and lines.trouble == "", "both went on")
    for k in range(2):
        start = MINUTE0_NS + k * MINUTE_NS
        path = pointing_path(disk / "pointing", start)
        check(path.read_bytes() == records(start), f"pointing of minute {k} is whole")
        found, bad = read_housekeeping(housekeeping_path(disk / "housekeeping", start))
        check((len(found), bad) == (600, 0), f"minute {k}: {len(found)} lines, {bad} bad")
    check(pointing.counts["dropped"] == lines.counts["dropped"] == 0, "nothing was dropped")
    pointing.close()
    lines.close()
    ledger.close()
    print("done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
