# SPDX-License-Identifier: BSD-3-Clause
"""How long the merge of an hour and of a day takes, beside the least that the same bytes cost.

    python benchmarks/das_merge.py [--folder DIR] [--repeats 3] [--hours 24] [--minutes-live 3]

An hour of 384 channels at 50 Hz, pointing at 100 Hz and housekeeping at 10 Hz is made once. Then,
in one run and one process, uncompressed and with zlib 1, by turns:

- *bytes only*, the least: all bytes of the three streams are read from their files (raw files and
  their sidecars, pointing logs, housekeeping), and an hour's file is made and written in the same
  calls as the merge makes it: the same definitions, chunks and compression, bolometers minute by
  minute as each raw file is read, all other variables in one piece, minutes marked as pending
  before and with their status after a sync, fsync of the file before its rename and at the end.
  The values are in memory already, as they are stored: no conversion, no check, no arithmetic.
- *merge*: files to files, the alignment of the clocks included;
- *a minute*: merging single minutes into that hour's file, as live.

First with the inputs in the page cache, then with the inputs put out of it before each turn (a
night merged in the morning): then both wait for the disk. Wall time and time of the processor stand
side by side: on a machine that others use the second is what the program costs. ``--hours`` merges
hours of a day in two processes: the same hour's files under other names, each with its own times.
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

STATIC = frozenset({"time", "time_onehertz", "time_minute"}) | {
    f"bolo_{name}" for name in ("name", "hextant", "good", "x", "y")
} | {"skew", "skew_dc", "das_channel_ac", "das_channel_dc"}  # fmt: skip
"""Variables that are written when the file is made."""
LIMITS = {"none": 3.0, "zlib": 5.0}


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    wall, busy = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - busy


def forget(paths: list[Path]) -> None:
    """Put files out of the page cache."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def by_turns(
    works: list[Callable[[], Any]], repeats: int, before: Callable[[], Any]
) -> list[tuple[float, float]]:
    """Return the least wall time and the least processor time of each work."""
    found: list[list[tuple[float, float]]] = [[] for _ in works]
    for _ in range(repeats):
        for work, times in zip(works, found, strict=True):
            before()
            times.append(timed(work))
    return [(min(w for w, _ in times), min(b for _, b in times)) for times in found]


def bytes_only(config: MergedConfig, root: Path, arrays: dict[str, Any]) -> None:
    """Read all inputs and write all variables; the calls of the merge without its work."""
    for name in ("pointing", "housekeeping"):
        for path in inputs_of(root, (name,)):
            path.read_bytes()
    netcdf.create(config, START_NS, 0)
    with netcdf.opened(config, START_NS) as file:
        file.begin(list(range(60)))
        rows = config.minute_samples
        for minute, path in enumerate(sorted((root / "raw").rglob("*.bin"))):
            path.read_bytes()
            path.with_suffix(".idx").read_bytes()
            for name in ("ac_bolos", "dc_bolos"):
                file.write(name, minute * rows, arrays[name][minute * rows : (minute + 1) * rows])
        for name, values in arrays.items():
            if name not in ("ac_bolos", "dc_bolos", "minute_status") and name not in STATIC:
                file.write(name, 0, values)
        file.dataset.sync()
        file.write("minute_status", 0, arrays["minute_status"])


def inputs_of(
    root: Path, names: tuple[str, ...] = ("raw", "pointing", "housekeeping")
) -> list[Path]:
    return sorted(path for name in names for path in (root / name).rglob("*") if path.is_file())


def hour(root: Path, repeats: int, live: int) -> None:
    inputs = inputs_of(root)
    size = sum(path.stat().st_size for path in inputs)
    print(f"inputs: {len(inputs)} files, {size / 1e6:.0f} MB")
    for compression in ("none", "zlib"):
        config = make_config(root, storage={"compression": compression})
        path = netcdf.hour_path(config.merged_root, START_NS)

        def away(path: Path = path) -> None:
            path.unlink(missing_ok=True)

        def cold(path: Path = path) -> None:
            path.unlink(missing_ok=True)
            forget(inputs)

        def merge(config: MergedConfig = config) -> None:
            merge_hour(config.text, START_NS)

        away()
        merge()
        with netCDF4.Dataset(path) as dataset:
            dataset.set_auto_maskandscale(False)
            dataset.set_auto_chartostring(False)
            arrays = {
                name: np.asarray(one[...]) for name, one in dataset.variables.items() if one.ndim
            }
        output = path.stat().st_size

        def least(config: MergedConfig = config, arrays: dict[str, Any] = arrays) -> None:
            bytes_only(config, root, arrays)

        print(f"{compression}: {output / 1e6:.1f} MB, limit {LIMITS[compression]:.0f} s")
        for where, before in (("in cache", away), ("from disk", cold)):
            (least_wall, least_busy), (wall, busy) = by_turns([least, merge], repeats, before)
            print(
                f"  inputs {where:9s}  bytes only {least_wall:5.2f} s ({least_busy:.2f} busy)  "
                f"merge {wall:5.2f} s ({busy:.2f} busy)  ratio {wall / least_wall:.2f} "
                f"({busy / least_busy:.2f} busy)",
                flush=True,
            )
        alignment = as_json(align_minutes(config, [minute_ns(30)]))
        minute, minute_busy = by_turns(
            [lambda config=config, a=alignment: merge_minute(config.text, minute_ns(30), a)],  # type: ignore[misc]
            live, lambda: None,
        )[0]  # fmt: skip
        print(f"  a minute {minute * 1000:.0f} ms ({minute_busy * 1000:.0f} busy)", flush=True)


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
