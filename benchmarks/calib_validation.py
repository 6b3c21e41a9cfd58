# SPDX-License-Identifier: BSD-3-Clause
"""The validation matrix: what was injected beside what the analyses recover, row by row.

    python benchmarks/calib_validation.py [--scale 8th|full] [--only ROW ...] [--json]

Every row: tests of a simulated block whose truth is known, acquired into a day folder, analysed as
`calib run` does, compared within the row's tolerance. Cases run in worker processes; data and
results lie below --folder and are removed afterwards. Ends with 1 where a row fails.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import calib_rows_charge as charge
import calib_rows_dark as dark
import calib_rows_flat as flat
import calib_rows_point as point
import calib_rows_run as run
from calib_compare import Judge, Line, table_of

WANTED_S = 3600.0
Run = Callable[[Judge, Path], None]


@dataclass(frozen=True)
class Case:
    """Rows that are validated with the same data.

    Attributes
    ----------
    weight
        Seconds at full scale, about: the longest begin first.
    scale
        Where the number of pixels plays no part: always this one.
    """

    rows: tuple[str, ...]
    run: Run
    weight: float
    scale: str = ""


CASES: dict[str, Case] = {
    "structure": Case(("structure check",), run.structure, 20, "8th"),
    "bias": Case(("offset, RON", "master bias"), dark.bias, 90),
    "pickup": Case(("offset, RON",), dark.pickup, 30),
    "dark": Case(("dark",), dark.dark, 60),
    "cosmetics": Case(("cosmetics",), dark.cosmetics, 40),
    "transfer": Case(("gain (PTC)", "BF alpha", "full well", "EPER/HER"), flat.transfer, 700),
    "pulls": Case(("gain (PTC)",), flat.pulls, 60, "8th"),
    "below": Case(("full well",), flat.below_full_well, 10, "8th"),
    "chain": Case(("NL", "gain (PTC)", "BF kernel"), flat.chain, 800),
    "shutter": Case(("NL",), flat.shutter, 120),
    "response": Case(("PRNU",), flat.response, 150),
    "focus": Case(("focus", "star lock"), point.focus, 90),
    "saturation": Case(("FLUX",), point.saturation, 60),
    "shapes": Case(("PSF", "cross-talk"), point.shapes, 500),
    "injection": Case(("CHINJ",), charge.injection, 100),
    "pumping": Case(("trap pumping",), charge.pumping, 120),
    "persistence": Case(("persistence",), charge.persistence, 60),
    "waiting": Case(("wait mode",), run.waiting, 30, "8th"),
    "clearing": Case(("clear space",), run.clearing, 10, "8th"),
}
ROWS = list(dict.fromkeys(row for case in CASES.values() for row in case.rows))


def run_case(name: str, scale: str, folder: str) -> dict[str, Any]:
    """Run a case; return its lines, seconds, peak memory. What is made is removed."""
    case, start = CASES[name], time.monotonic()
    judge = Judge(case.scale or scale, case.rows[0])
    place = Path(folder) / name
    try:
        case.run(judge, place)
    except Exception as error:  # noqa: BLE001 - a row that cannot be judged has failed; the others go on
        traceback.print_exc()
        judge.fact(f"{name} runs", "yes", f"{type(error).__name__}: {error}", is_good=False)
    size = sum(one.stat().st_blocks * 512 for one in place.rglob("*") if one.is_file())
    shutil.rmtree(place, ignore_errors=True)
    return {
        "case": name, "lines": [line.as_json() for line in judge.lines],
        "seconds": time.monotonic() - start, "gigabytes": size / 1e9,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }  # fmt: skip


def chosen(only: list[str]) -> list[str]:
    """Return the cases of rows, or all; longest first."""
    names = [
        name for name, case in CASES.items()
        if not only or name in only or any(wanted in row for row in case.rows for wanted in only)
    ]  # fmt: skip
    return sorted(names, key=lambda name: -CASES[name].weight)


def run_all(
    names: list[str], scale: str, folder: Path, workers: int, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Run cases in worker processes; return what each gave, in the order of the matrix."""
    done: dict[str, dict[str, Any]] = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, max_tasks_per_child=1) as pool:
        jobs = [pool.submit(run_case, name, scale, str(folder)) for name in names]
        for job in as_completed(jobs):
            found = job.result()
            done[found["case"]] = found
            bad = sum(not line["is_good"] for line in found["lines"])
            say(f"{found['case']:16} {found['seconds']:7.1f} s  {found['gigabytes']:5.2f} GB on "
                f"disk  {found['peak_gb']:.2f} GB of memory" + (f"  {bad} FAILED" if bad else ""))
    return [done[name] for name in CASES if name in done]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", choices=("8th", "full"), default="8th")
    parser.add_argument("--only", nargs="+", default=[], metavar="ROW",
                        help=f"cases {', '.join(CASES)}, or parts of names of rows")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    names = chosen(options.only)
    if not names:
        parser.error(f"no row {options.only}; there are: {'; '.join(ROWS)}")
    start = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="calib-validation-", dir=options.folder))
    try:
        found = run_all(names, options.scale, folder, options.workers,
                        lambda text: print(text, file=sys.stderr, flush=True))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    spent = time.monotonic() - start
    lines = [Line(**line) for one in found for line in one["lines"]]
    order = {row: number for number, row in enumerate(ROWS)}
    lines.sort(key=lambda line: order.get(line.row, 99))
    bad = sum(not line.is_good for line in lines)
    if options.json:
        print(json.dumps({"scale": options.scale, "seconds": spent, "cases": found}, indent=1))
    else:
        print("\n".join(table_of(lines)))
        verdict = "" if options.scale != "full" else (
            f" (wanted < {WANTED_S / 60:.0f} min: {'met' if spent < WANTED_S else 'MISSED'})"
        )
        peak = max(one["peak_gb"] for one in found)
        print(f"{len(lines) - bad} of {len(lines)} within their tolerance; {options.scale} scale, "
              f"{spent / 60:.1f} min{verdict}, peak memory of a process {peak:.2f} GB")
    return 1 if bad or (options.scale == "full" and spent > WANTED_S) else 0


if __name__ == "__main__":
    sys.exit(main())
