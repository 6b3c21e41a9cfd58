# SPDX-License-Identifier: BSD-3-Clause
"""What a look of fitswatcher at a folder of many files costs, beside a bare listing of it.

Usage: ``python benchmarks/fitswatcher.py [--files 10000] [--folder DIR]``. All files are small
FITS files; the figures are of a folder whose entries the kernel knows, the best of some runs.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from nightjar.clock import SystemClock
from nightjar.fits.cards import Card
from nightjar.fits.writer import write_image
from nightjard.fitswatcher.folder import Folder


def fill(folder: Path, count: int) -> bytes:
    """Write `count` copies of a small cube, a second apart; return one."""
    first = folder / "first.fits"
    cards = [Card("OBJECT", "HD 1"), Card("DATA-TYP", "DARK"), Card("NMISSED", 0)]
    write_image(first, np.zeros((2, 4, 4), np.uint16), cards, fsync=False)
    content = first.read_bytes()
    first.unlink()
    begin = time.time() - count - 60
    for number in range(count):
        path = folder / f"vcam1_{number:06d}.fits"
        path.write_bytes(content)
        os.utime(path, (begin + number, begin + number))
    return content


def best_ms(function: Callable[[], object], repeats: int = 5) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def stat_all(folder: Path) -> int:
    with os.scandir(folder) as items:
        return sum(item.stat().st_size for item in items)


def command_ms(*arguments: str) -> float:
    return best_ms(lambda: subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL))


def new_file(folder: Path, content: bytes, watched: Folder) -> float:
    """Return the milliseconds of the look that finds one more file."""
    times = []
    for number in range(5):
        (folder / f"vcam1_new{number}.fits").write_bytes(content)
        start = time.perf_counter()
        watched.look()
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, help="where to make the files (default: TMPDIR)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        content = fill(folder, given.files)
        clock = SystemClock()
        watched = Folder(folder, 3, clock)
        watched.look()
        time.sleep(2.1)  # else the folder has just changed and is listed each time
        watched.look()
        watcher = [sys.executable, "-m", "nightjard.fitswatcher", "--once", "-n", "3", name]
        figures = [
            ("bare: scandir and stat of each", best_ms(lambda: stat_all(folder))),
            ("first look", best_ms(lambda: Folder(folder, 3, clock).look())),
            ("look, nothing new", best_ms(watched.look)),
            ("look, one file more", new_file(folder, content, watched)),
            ("whole process, fitswatcher --once", command_ms(*watcher)),
            ("whole process, ls -lt", command_ms("ls", "-lt", name)),
        ]
        print(f"{given.files} files in {folder.parent}")
        for what, milliseconds in figures:
            print(f"  {what:34}{milliseconds:9.2f} ms")


if __name__ == "__main__":
    main()
