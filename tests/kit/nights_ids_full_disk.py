# SPDX-License-Identifier: BSD-3-Clause
"""A fix of frame IDs on a real small disk; run in a mount namespace of its own: ``... DISK``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from nightjar.errors import StorageError
from nightjar.files import free_bytes
from nightjar.fits.header import Header
from nightjar.fits.verify import verify_image
from nightjar.fits.writer import write_image
from nightjard.archived.nights.ids import check, exp_id, fix, frame_id
from nightjard.archived.nights.ids.renaming import JOURNAL, _begin

COUNT = 4
SIDE = 700  # 1 MB a file


def whole(folder: Path) -> set[int]:
    """Return which products are there with all their pixels, whatever their names."""
    found = set()
    for path in folder.iterdir():
        if "fits" in path.name or "parked" in path.name:
            data = path.read_bytes()
            for n in range(COUNT):
                if pixels(n).astype(">i2").tobytes() in data:
                    found.add(n)
    return found


def check_that(condition: bool, what: str) -> None:
    if not condition:
        raise SystemExit(f"failed: {what}")


def pixels(n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 1000, (SIDE, SIDE)).astype(np.int16)


def main() -> None:
    disk = Path(sys.argv[1])
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12M", "none", str(disk)], check=True)
    folder = disk / "night"
    folder.mkdir()
    for n in range(COUNT):
        one = frame_id("VMPA", (n + 1) % COUNT)
        header = Header()
        header.add("MJD-STR", 60000.0 + n)
        header.add("FRAMEID", one)
        header.add("EXP-ID", exp_id(one))
        write_image(folder / f"{one}.fits", pixels(n), header)
    ballast = disk / "ballast"

    def fill(left: int) -> None:
        ballast.write_bytes(bytes(max(0, free_bytes(disk) - left)))

    fill(1_900_000)
    try:
        fix([folder])
        raise SystemExit("failed: begun without room")
    except StorageError as error:
        check_that("needed" in str(error), str(error))
    assert not (folder / JOURNAL).exists()
    ballast.unlink()
    # As a program leaves it that was killed right after it wrote the journal; then others write.
    _begin(folder, fix([folder], dry_run=True), 0)
    for left in (0, 8192, 500_000, 900_000):
        fill(left)
        try:
            fix([folder])
            raise SystemExit(f"failed: no error with {left} bytes")
        except StorageError as error:
            check_that("No space left" in str(error), str(error))
        assert whole(folder) == set(range(COUNT)), left
        ballast.unlink()
    fix([folder])
    rows = check([folder])
    assert [row.problem for row in rows] == [""] * COUNT, rows
    for n, row in enumerate(rows):
        assert row.frame_id == frame_id("VMPA", n)
        assert pixels(n).astype(">i2").tobytes() in row.file.read_bytes()
        assert verify_image(row.file).is_good
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    print("done")


if __name__ == "__main__":
    main()
