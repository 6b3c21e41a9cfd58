# SPDX-License-Identifier: BSD-3-Clause
"""A merge onto a real small disk that fills; run in a mount namespace: ``... DISK SOURCE ROOT``."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from kit.dasmerge import Bench, assert_same
from nightjar.das.naming import minute_start_ns
from nightjar.errors import Code
from nightjard.merged.follow import RETRY_S

START = minute_start_ns("20261231", 1437)


def check(condition: Any, what: str) -> None:
    if not condition:
        raise SystemExit(f"failed: {what}")


def main() -> int:
    """Fill the disk while minutes are merged; print "done" when nothing was lost."""
    disk, source, root = map(Path, sys.argv[1:])
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(disk)], check=True)
    settings = {"alignment": {"align": "off"}, "follower": {"is_patient": True}}
    bench = Bench(root / "small", source, START, 5, merged_root=str(disk), **settings)
    good = Bench(root / "good", source, START, 5, **settings)
    for one in (bench, good):
        one.put([0, 1, 2])
    good.settle()
    bench.take("raw", 1)
    bench.take("raw", 2)
    check(bench.settle() == [0], "the first minute is merged")
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    check(os.statvfs(disk).f_bavail == 0, "the disk is full")
    bench.put([1, 2])
    step = bench.step()
    check(not step.merged and step.failed, f"minutes fail: {step.merged}")
    error = step.failed[0][1]
    check("no space left" in error.message, error.message)
    check(error.code in (Code.NO_SPACE, Code.STORAGE_FAILED), f"{error.code}")
    check(not bench.step().failed, "not tried again at once")
    ballast.unlink()
    bench.clock.advance(RETRY_S + 1)
    bench.settle()
    (root / "small/merged").rmdir()
    (root / "small/merged").symlink_to(disk)
    assert_same(bench.hours(), good.hours())
    left = [path.name for path in disk.iterdir() if ".damaged" in path.name]
    check(len(left) <= 1, f"at most one is set aside: {left}")
    print("done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
