# SPDX-License-Identifier: BSD-3-Clause
"""Writers of products that end by SIGKILL at a chosen system call, in the middle of it.

Run as a program (it forks, which a test process with threads must not): ``product_crash FOLDER``.
One line of JSON a scenario.
"""

from __future__ import annotations

import gc
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kit import lives
from kit.product_night import Night, frames_of
from nightjar.fits.verify import verify_image
from nightjard.archived.nights.writing import compress_file, output, verify_product, write_product

_CALLS = ("write", "pwrite", "fsync", "unlink", "mkdir", "replace", "rename", "preadv")
_CAMERA = [(0, 1), (0, 3), (0, 4), (0, 5), (1, 0), (1, 2)]


class Instants(lives.Instants):
    """Instants in the life of a writer of products."""

    def __init__(self, fatal: int | None) -> None:
        super().__init__(fatal, _CALLS, is_told_late=True)


def life(work: Callable[[], Any], fatal: int | None) -> int | None:
    """Do the work in a child; return how many calls it made, None if it was killed."""
    return lives.life(work, lambda: Instants(fatal))


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*")) if path.is_file()}  # fmt: skip


def scenario(name: str, folder: Path, work: Callable[[], Any], step: int) -> dict[str, Any]:
    """Kill the work at every step-th call; afterwards it is done again and must give the same."""
    begin = folder.with_name("begin")
    shutil.copytree(folder, begin)  # keeps the times, which plans go by

    def anew() -> None:
        shutil.rmtree(folder)
        shutil.copytree(begin, folder)

    total = life(work, None)
    assert total is not None
    wanted = contents(folder)
    problems, kills = [], 0
    for fatal in range(1, total + 1, step):
        anew()
        kills += life(work, fatal) is None
        if fatal // step % 3 == 0:
            kills += life(work, fatal // 2 + 1) is None
        here = contents(folder)
        raw = [path for path in here if path.startswith("vcam1/")]
        named = [path for path in here if path.startswith("vgen2/V")]
        for path in (*raw, *named):
            if path not in wanted or here[path] != wanted[path]:
                problems.append(f"killed at call {fatal}: {path} is not right")
        life(work, None)
        found = contents(folder)
        if found != wanted:
            odd = {path for path in {*found, *wanted} if found.get(path) != wanted.get(path)}
            problems.append(f"killed at call {fatal}, done again: {sorted(odd)}")
    shutil.rmtree(begin)
    return {"name": name, "calls": total, "kills": kills, "problems": problems}


def single_life(folder: Path, step: int) -> dict[str, Any]:
    """Kill a compression at some calls: the original is there, or all of what it became."""
    folder = folder / "single"
    path = folder / "a.fits"
    Night(folder / "night").add(frames_of(1, 5, (60, 90))).rename(path)
    original = path.read_bytes()

    def work() -> None:
        compress_file(path, keep=False)

    total = life(work, None)
    assert total is not None
    packed = path.with_name("a.fits.fz")
    wanted = packed.read_bytes()
    problems, kills = [], 0
    for fatal in range(1, total + 1, step):
        packed.unlink(missing_ok=True)
        path.write_bytes(original)
        kills += life(work, fatal) is None
        is_original_right = path.exists() and path.read_bytes() == original
        if not is_original_right and packed.read_bytes() != wanted:
            problems.append(f"killed at call {fatal}: neither file is right")
        life(work, None)
        names = sorted(entry.name for entry in folder.iterdir())
        if names != ["a.fits.fz", "night"] or packed.read_bytes() != wanted:
            problems.append(f"killed at call {fatal}, done again: {names}")
    return {"name": "compress a file", "calls": total, "kills": kills, "problems": problems}


def main() -> int:
    """Run all scenarios below a folder, killed at every STEP-th call."""
    step = int(sys.argv[2])
    gc.disable()
    output.WRITE_BYTES = 8192  # many writes
    with tempfile.TemporaryDirectory(dir=sys.argv[1]) as base:
        for compression in ("rice", "none"):
            night = Night(Path(base) / compression / "night")
            for seed, kind in enumerate(("milk", "logger")):
                night.add(frames_of(seed, 6, (60, 90)), kind)
            task = night.task(_CAMERA, compression=compression)

            def work(task: dict[str, Any] = task) -> None:
                result = write_product(task)
                assert verify_product(task, result) == []

            report = scenario(f"write with {compression}", night.folder, work, step)
            if not verify_image(night.folder / task["target"]).is_good:
                report["problems"].append("fitsverify would complain")
            print(json.dumps(report), flush=True)
        print(json.dumps(single_life(Path(base), step)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
