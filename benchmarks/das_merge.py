# SPDX-License-Identifier: BSD-3-Clause
"""How long the merge of an hour and of a day takes, beside the least that the same bytes cost.

    python benchmarks/das_merge.py [--folder DIR] [--repeats 3] [--hours 24] [--minutes-live 3]

An hour of 384 channels at 50 Hz, pointing at 100 Hz and housekeeping at 10 Hz is made once. Then,
in one run and one process, uncompressed and with zlib 1:

- *bytes only*: the files of all inputs are read, and an hour's file of the same variables, chunks
  and compression is written from arrays that are in memory already: no conversion at all;
- *merge*: files to files, the alignment of the clocks included;
- *a minute*: merging single minutes into that hour's file, as live.

Both ends end with fsync. Wall time and time of the processor stand side by side: on a machine that
others use the second is what the program costs. ``--hours`` merges hours of a day in two processes:
the same hour's files under other names, each with its own times.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
import netCDF4
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from kit.merge import START_NS, World, copy_hour, make_config, minute_ns
from nightjar.executor.choosing import ExecutorConfig, executor_of
from nightjard.merged import netcdf
from nightjard.merged.alignment import align_minutes, as_json
from nightjard.merged.config import MergedConfig
from nightjard.merged.hour import TASKS, merge_hour, merge_hours
from nightjard.merged.minute import merge_minute
from nightjard.merged.netcdf import HOUR_NS

LIMITS = {"none": 3.0, "zlib": 5.0}


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    wall, busy = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - busy


def best(work: Callable[[], Any], repeats: int, before: Callable[[], Any]) -> tuple[float, float]:
    found = []
    for _ in range(repeats):
        before()
        found.append(timed(work))
    return min(wall for wall, _ in found), min(busy for _, busy in found)


def bytes_only(config: MergedConfig, inputs: list[Path], arrays: dict[str, Any]) -> None:
    for path in inputs:
        path.read_bytes()
    netcdf.create(config, START_NS, 0)
    with netcdf.opened(config, START_NS) as file:
        for name, values in arrays.items():
            step = 3000 if values.ndim == 2 and len(values) == 180000 else len(values)
            for first in range(0, len(values), step):
                file.write(name, first, values[first : first + step])


def inputs_of(root: Path) -> list[Path]:
    return sorted(
        path for name in ("raw", "pointing", "housekeeping") for path in (root / name).rglob("*")
        if path.is_file()
    )  # fmt: skip


def hour(root: Path, repeats: int, live: int) -> None:
    inputs = inputs_of(root)
    size = sum(path.stat().st_size for path in inputs)
    print(f"inputs: {len(inputs)} files, {size / 1e6:.0f} MB")
    for compression in ("none", "zlib"):
        config = make_config(root, storage={"compression": compression})
        path = netcdf.hour_path(config.merged_root, START_NS)

        def away(path: Path = path) -> None:
            path.unlink(missing_ok=True)

        def merge(config: MergedConfig = config) -> None:
            merge_hour(config.text, START_NS)

        wall, busy = best(merge, repeats, away)
        with netCDF4.Dataset(path) as dataset:
            dataset.set_auto_maskandscale(False)
            dataset.set_auto_chartostring(False)
            arrays = {
                name: np.asarray(one[...]) for name, one in dataset.variables.items() if one.ndim
            }
        output = path.stat().st_size
        least, least_busy = best(
            lambda config=config, arrays=arrays: bytes_only(config, inputs, arrays),  # type: ignore[misc]
            repeats, away,
        )  # fmt: skip
        away()
        merge()
        alignment = as_json(align_minutes(config, [minute_ns(30)]))
        minute, minute_busy = best(
            lambda config=config, a=alignment: merge_minute(config.text, minute_ns(30), a),  # type: ignore[misc]
            live, lambda: None,
        )  # fmt: skip
        print(
            f"{compression:5s} {output / 1e6:6.1f} MB  bytes only {least:5.2f} s ({least_busy:.2f} "
            f"busy)  merge {wall:5.2f} s ({busy:.2f} busy)  ratio {wall / least:.2f} "
            f"({busy / least_busy:.2f} busy)  limit {LIMITS[compression]:.0f} s  "
            f"a minute {minute * 1000:.0f} ms ({minute_busy * 1000:.0f} busy)",
            flush=True,
        )


def day(root: Path, count: int) -> None:
    """Merge hours of a day: each is the first hour's data at another time."""
    target = root / "day"
    config = make_config(target, storage={"compression": "zlib"})
    first = START_NS // (24 * HOUR_NS) * 24 * HOUR_NS
    hours = [first + number * HOUR_NS for number in range(count)]
    for start in hours:
        copy_hour(root, target, START_NS, start)
    executor = executor_of(ExecutorConfig(workers=2), TASKS)
    failed: dict[int, Any] = {}
    try:
        wall, _ = timed(lambda: failed.update(merge_hours(config, hours, executor)))
    finally:
        executor.close()
    size = sum(path.stat().st_size for path in config.merged_root.glob("*.nc"))
    print(
        f"{count} hours, 2 processes, {size / 1e6:.0f} MB, {len(failed)} failed: {wall:.1f} s; "
        f"24 hours: {wall * 24 / count:.0f} s (limit 120 s)"
    )
    shutil.rmtree(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="kept; a temporary one if not given")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--minutes-live", type=int, default=3)
    parser.add_argument("--hours", type=int, default=0, help="of a day on two cores; 170 MB each")
    options = parser.parse_args()
    root = options.folder or Path(tempfile.mkdtemp(prefix="das_merge"))
    root.mkdir(parents=True, exist_ok=True)
    try:
        if not (root / "raw").exists():
            wall, _ = timed(lambda: World(root).write(range(60)))
            print(f"made in {wall:.0f} s")
        print(json.dumps({"load": os.getloadavg()}))
        hour(root, options.repeats, options.minutes_live)
        if options.hours:
            day(root, options.hours)
    finally:
        if options.folder is None:
            shutil.rmtree(root)


if __name__ == "__main__":
    main()
