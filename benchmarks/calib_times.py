# SPDX-License-Identifier: BSD-3-Clause
"""How long detector tests take: checks only and the whole analysis, beside the seed's table.

    python benchmarks/calib_times.py [--scale full|8th] [--tests BIAS01 ...|all] [--profile]

Each test of a block of three CCDs is simulated, then analysed by `calib run` in a process of its
own with two workers: once with -k, once whole, report included, nothing taken over; "cpu" is what
all processors worked. Memory is the proportional share (PSS) of what the program and its workers
hold, followed all the time. The seed's minutes are those
of six cores. Data lie in the cache of the system as far as memory holds them.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import json
import os
import pstats
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calib_block import RUN, Block

#: Test -> minutes of the seed: checks only, whole; None where its table has none.
SEED: dict[str, tuple[float | None, float | None]] = {
    "MOT_WARM": (3, 4), "COSMETICS00": (3, 6), "FOCUS00_800": (7, 10), "PSFLUX00_800": (7, None),
    "FLATFLUX00_800": (3, None), "BIAS01": (3, 11), "DARK01": (3, 6), "CHINJ01": (13, 50),
    "CHINJ02": (11, 37), "TP01": (23, 92), "TP02": (6, 11), "NL02": (10, 32), "PTC01": (9, 26),
    "BF01": (9, 86), "PTC02_730": (4, 10), "BF01_730": (3, 28), "FLAT01": (14, 97),
    "FLAT02_730": (10, 63), "PSF01_730": (35, 57), "PERSIST01": (3, 7),
}  # fmt: skip
USUAL = ("BIAS01", "DARK01", "COSMETICS00", "FOCUS00_800", "PTC01")
#: Seconds at full scale on this machine: checks, whole.
WANTED: dict[str, tuple[float, float]] = {"BIAS01": (20.0, 90.0), "PTC01": (1e9, 600.0)}
WANTED_GB = 4.0
_SAMPLE_S = 0.1


# --- one run, watched ---


@dataclass
class Watch:
    """Follows the memory of a process and all that it starts."""

    pid: int
    peak_bytes: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        while not self._stop.wait(_SAMPLE_S):
            total = sum(_pss_bytes(pid) for pid in _family(self.pid))
            self.peak_bytes = max(self.peak_bytes, total)

    def end(self) -> int:
        """Stop; return the most that was seen, bytes."""
        self._stop.set()
        self._thread.join()
        return self.peak_bytes


def _pss_bytes(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    # Pages of files are the cache's, not the program's: frames are mapped, and given back at need.
    kinds = {"Pss_Anon:", "Pss_Shmem:"}
    return sum(
        int(line.split()[1]) * 1024 for line in text.splitlines() if line.split()[0] in kinds
    )


def _family(pid: int) -> list[int]:
    family = [pid]
    for one in family:
        try:
            for task in Path(f"/proc/{one}/task").iterdir():
                family += [int(child) for child in (task / "children").read_text().split()]
        except OSError:
            continue
    return family


def watched(arguments: list[str], folder: Path) -> tuple[float, float, float, int]:
    """Run a program; return seconds, those of processors, peak memory in GB, exit code."""
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    program = subprocess.Popen(arguments, cwd=folder, stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL)  # fmt: skip
    watch = Watch(program.pid)
    code = program.wait()
    spent, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    work = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent, work, watch.end() / 1e9, code


# --- one test ---


def measure(block: Block, test: str, workers: int) -> dict[str, Any]:
    """Run a test with checks only, then whole; return the figures of both."""
    results = block.folder / "results"
    figures: dict[str, Any] = {"test": test}
    campaign = block.write_campaign([test])
    run = [sys.executable, "-m", "nightjard.calib", "run", str(campaign), "-R", RUN,
           "-m", str(workers), "--json"]  # fmt: skip
    for kind, options in (("check", ["-k"]), ("whole", [])):
        shutil.rmtree(results, ignore_errors=True)
        seconds, work, memory, code = watched([*run, *options], block.folder)
        names = (f"{kind}_s", f"{kind}_cpu_s", f"{kind}_gb", f"{kind}_code")
        figures |= dict(zip(names, (seconds, work, memory, code), strict=True))
    found = results / RUN / test / "current" / "results.json"
    if found.exists():
        document = json.loads(found.read_bytes())
        figures["steps"] = {
            one["name"]: round(60.0 * one["minutes"], 1) for one in document["steps"]
        }
        figures["reason"] = document["reason"]
    shutil.rmtree(results, ignore_errors=True)
    return figures


def data_of(block: Block, test: str) -> tuple[int, float]:
    """Return exposures and GB of the images of a test."""
    first, last = block.obsids[block.catalogue.surrogate_of(test) or test]
    size = sum(
        path.stat().st_size for path in block.day.glob("EUC_*.fits")
        if first <= int(path.name.split("_")[1]) <= last
    )  # fmt: skip
    return last - first + 1, size / 1e9


def profile(block: Block, test: str, lines: int = 14) -> list[str]:
    """Return where the time of an analysis in one process goes: the most expensive functions."""
    own, block.workers = block.workers, 1
    watch = cProfile.Profile()
    watch.enable()
    try:
        block.analyse(test, is_failing_allowed=True)
    finally:
        watch.disable()
        block.workers = own
    text = io.StringIO()
    pstats.Stats(watch, stream=text).strip_dirs().sort_stats("tottime").print_stats(lines)
    shutil.rmtree(block.folder / "results", ignore_errors=True)
    return [line for line in text.getvalue().splitlines() if line.strip()][4:]


# --- the table ---


def minutes(seconds: float) -> str:
    """Return seconds as minutes."""
    return f"{seconds / 60:.2f}"


def row_of(figures: dict[str, Any]) -> tuple[str, ...]:
    """Return the cells of a test."""
    check, whole = SEED.get(figures["test"], (None, None))
    failed = "" if not figures["whole_code"] else f"  ended with {figures['whole_code']}"
    return (
        figures["test"], str(figures["exposures"]), f"{figures['gigabytes']:.2f}",
        minutes(figures["check_s"]), "" if check is None else f"{check:g}",
        minutes(figures["whole_s"]), "" if whole is None else f"{whole:g}",
        minutes(figures["check_cpu_s"]), minutes(figures["whole_cpu_s"]),
        f"{max(figures['check_gb'], figures['whole_gb']):.2f}",
        " ".join(f"{name} {s:g}" for name, s in figures.get("steps", {}).items() if s >= 0.5)
        + failed,
    )  # fmt: skip


HEAD = ("test", "exposures", "GB", "check", "seed", "whole", "seed", "check, cpu", "whole, cpu",
        "peak GB", "sub-tasks, s")


def table(rows: list[tuple[str, ...]]) -> list[str]:
    """Return the lines of the table; minutes."""
    everything = [HEAD, *rows]
    widths = [max(len(row[i]) for row in everything) for i in range(len(HEAD) - 1)]
    lines = []
    for row in everything:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:], strict=True)]
        lines.append("  ".join([*cells, row[-1]]))
    return lines


def misses(figures: list[dict[str, Any]], scale: str) -> list[str]:
    """Return what is not as it is wanted at full scale."""
    found = [f"{one['test']} failed" for one in figures if one["whole_code"] or one["check_code"]]
    if scale != "full":
        return found
    for one in figures:
        check, whole = WANTED.get(one["test"], (1e9, 1e9))
        if one["check_s"] > check:
            found.append(f"{one['test']}: checks {one['check_s']:.1f} s, wanted < {check:g}")
        if one["whole_s"] > whole:
            found.append(f"{one['test']}: whole {one['whole_s']:.1f} s, wanted < {whole:g}")
        peak = max(one["check_gb"], one["whole_gb"])
        if peak > WANTED_GB:
            found.append(f"{one['test']}: peak {peak:.2f} GB, wanted < {WANTED_GB:g}")
    return found


def run_tests(tests: list[str], options: Any, folder: Path) -> list[dict[str, Any]]:
    """Simulate and measure tests one after the other."""
    figures = []
    block: Block | None = None
    for number, test in enumerate(tests):
        if block is None:
            block = Block(folder / str(number), options.scale, workers=options.workers,
                          has_report=True, is_alike=not options.unlike)  # fmt: skip
        owner = block.catalogue.surrogate_of(test) or test
        start = time.monotonic()
        if owner not in block.obsids:
            block.acquire(owner)
        made = time.monotonic() - start
        exposures, size = data_of(block, test)
        one = {"exposures": exposures, "gigabytes": size, "simulated_s": made,
               **measure(block, test, options.workers)}  # fmt: skip
        figures.append(one)
        print("  ".join(row_of(one)), file=sys.stderr, flush=True)
        if options.profile:
            print("\n".join(profile(block, test)), file=sys.stderr, flush=True)
        following = tests[number + 1] if number + 1 < len(tests) else ""
        if not following or block.catalogue.surrogate_of(following) != owner:
            shutil.rmtree(block.folder)
            block = None
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", choices=("full", "8th"), default="full")
    parser.add_argument("--tests", nargs="+", default=list(USUAL), metavar="TEST",
                        help=f"all, or of: {', '.join(SEED)}")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--profile", action="store_true", help="tell where the time goes")
    parser.add_argument("--unlike", action="store_true",
                        help="simulate each CCD, not one for all; takes three times as long")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    tests = list(SEED) if options.tests == ["all"] else options.tests
    folder = Path(tempfile.mkdtemp(prefix="calib-times-", dir=options.folder))
    try:
        figures = run_tests(tests, options, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    missed = misses(figures, options.scale)
    if options.json:
        print(json.dumps({"scale": options.scale, "tests": figures, "missed": missed}, indent=1))
    else:
        print(f"minutes; {options.workers} workers on {os.cpu_count()} cores, the seed's on 6")
        print("\n".join(table([row_of(one) for one in figures])))
        print("; ".join(missed) if missed else "all as wanted")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
