# SPDX-License-Identifier: BSD-3-Clause
"""A DAS on a real small disk; run in a mount namespace of its own: ``... DISK BASE``."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from kit.das import START_NS, Bench, counters_in, das_config
from nightjar.das.naming import raw_path
from nightjar.das.raw import read_raw
from nightjar.errors import Code, StorageError

TICK = 20_000_000
MINUTE = 60_000_000_000
CHANNELS = {"count": 200, "groups": []}  # 1.2 MB a minute


def check(condition: Any, what: str) -> None:
    if not condition:
        raise SystemExit(f"failed: {what}")


def main() -> int:
    """Fill the disk while a DAS records; print "done" when nothing was lost."""
    disk, base = Path(sys.argv[1]), Path(sys.argv[2])
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], check=True)
    config = das_config(disk, channels=CHANNELS)
    das = Bench(disk, config, base / "rescued")
    recorder = das.begin()
    das.feed(0, 1000, START_NS)
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:  # another program takes all the room there is
            file.write(bytes(4096))
    check(os.statvfs(disk).f_bavail == 0, "the disk is full")
    das.feed(1000, 1900, START_NS + 1000 * TICK)
    recorder.tick(START_NS + 55_000_000_000)
    check("cannot be begun" in recorder.warnings["next"], f"ahead: {recorder.warnings}")
    das.feed(2900, 100, START_NS + 2900 * TICK)
    try:
        das.feed(3000, 5, START_NS + MINUTE)
        check(False, "the next minute has no room")
    except StorageError as error:
        check(error.code is Code.NO_SPACE, f"NO_SPACE, not {error.code}")
        check("make room" in error.message, error.message)
    recorder.close("the disk is full")
    found = read_raw(raw_path(disk, START_NS))
    check(found.index and found.index["valid"] == 3000, "the minute before is whole")
    check((counters_in(found.samples) == range(3000)).all(), "and right")
    folder = raw_path(disk, START_NS).parent
    left = sorted(path.name for path in folder.iterdir() if path.name.startswith("."))
    check(not left, f"nothing half-made is left: {left}")
    try:
        das.begin()
        check(False, "a recording without room is refused")
    except StorageError as error:
        check(error.code is Code.NO_SPACE, f"refused with NO_SPACE: {error.message}")
    ballast.unlink()
    das.now_ns = START_NS + 2 * MINUTE
    recorder = das.begin()
    das.feed(9000, 100, START_NS + 2 * MINUTE)
    recorder.close("test")
    check(read_raw(raw_path(disk, START_NS + 2 * MINUTE)).is_valid().sum() == 100, "goes on")
    # The threshold of the configuration stops it before the disk is full.
    del found  # a mapped file has its room until it is let go
    for path in disk.glob("*/raw_*"):
        path.unlink()
    space = {"warn_hours": 0, "low_bytes": 3_000_000, "stop_bytes": 1_000_000}
    das = Bench(disk, das_config(disk, channels=CHANNELS, space=space), base / "rescued")
    das.now_ns = START_NS + 4 * MINUTE
    recorder = das.begin()
    das.feed(0, 100, das.now_ns)
    recorder.tick(das.now_ns)
    check("GB are free" in recorder.warnings["room"], f"warned: {recorder.warnings}")
    ballast.write_bytes(bytes(2_000_000))
    try:
        recorder.tick(das.now_ns)
        check(False, "stops at the threshold")
    except StorageError as error:
        check(error.code is Code.NO_SPACE, error.message)
    recorder.close("too little room")
    check(read_raw(raw_path(disk, START_NS + 4 * MINUTE)).is_valid().sum() == 100, "published")
    print("done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
