# SPDX-License-Identifier: BSD-3-Clause
"""Products on a real small disk; run in a mount namespace of its own: ``... DISK``."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kit.product_night import Night
from nightjar.errors import Code, StorageError
from nightjard.archived.nights.writing import compress_file, verify_product, write_product


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def refused(call: Callable[[], Any]) -> StorageError:
    """Return the error of a call; end where there is none."""
    try:
        call()
    except StorageError as error:
        return error
    raise SystemExit("failed: it was done, though the disk is full or read-only")


def check(condition: Any, what: str) -> None:
    if not condition:
        raise SystemExit(f"failed: {what}")


def main() -> int:
    """Fill the disk at several places, make room, make it read-only, and back."""
    disk = Path(sys.argv[1])
    mount("-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk))
    night = Night(disk / "night")
    noise = np.random.default_rng(1).integers(0, 65536, (16, 256, 512)).astype(np.uint16)
    raw = night.add(noise)  # 4.2 MB that do not compress
    before = raw.read_bytes()
    picks = [(0, index) for index in range(16)]
    tasks = [night.task(picks, compression=how) for how in ("rice", "none")]
    ballast = disk / "ballast"
    for task in tasks:
        for free in (1_000_000, 3_000_000, 4_100_000):
            ballast.write_bytes(bytes(shutil.disk_usage(disk).free - free))
            error = refused(lambda task=task: write_product(task))  # type: ignore[misc]
            check(error.code is Code.NO_SPACE, f"NO_SPACE, not {error.code}: {error}")
            left = [path for path in night.folder.rglob("*") if path.suffix == ".tmp"]
            check(not left, f"nothing is left: {left}")
            check(not (night.folder / task["target"]).exists(), "no product")
            error = refused(lambda: compress_file(raw, keep=False))
            check(error.code is Code.NO_SPACE, f"NO_SPACE, not {error.code}: {error}")
            ballast.unlink()
        result = write_product(task)
        check(verify_product(task, result) == [], "with room it is written")
        (night.folder / task["target"]).unlink()
    mount("-o", "remount,ro", str(disk))
    for task in tasks:
        check("Read-only" in refused(lambda task=task: write_product(task)).message, "says why")  # type: ignore[misc]
    check("Read-only" in refused(lambda: compress_file(raw, keep=False)).message, "says why")
    mount("-o", "remount,rw", str(disk))
    check(raw.read_bytes() == before, "raw is as it was")
    result = write_product(tasks[0])
    check(verify_product(tasks[0], result) == [], "afterwards it goes on")
    print("done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
