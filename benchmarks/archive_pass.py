# SPDX-License-Identifier: BSD-3-Clause
"""A night in one pass, beside fpack, funpack and astropy on the same bytes; one run.

    python benchmarks/archive_pass.py [--gigabytes 2] [--folders /dev/shm .] [--processes 2]
                                      [--rows 536] [--columns 536] [--sigma 12] [--repeats 1]
                                      [--threads 1] [--product-frames 400]

Makes a night (two cameras, cubes of 250 frames uint16, bias 200 + sky 30 + Gaussian noise) and its
products (two states a camera, alternating frames, across the borders of cubes), then runs, each
with the same number of processes:

- `fpack`: `fpack -r` of every raw cube; `fpack + funpack`: and back again.
- `astropy + fpack`: per product read, select, write with astropy, `fpack -r`, nothing compared;
  `... + compare`: and `funpack`, read with astropy, compare.
- `ours, deferred` and `ours, inline`: as `archived` writes products, hashes, checksums, tables of
  frames and fsync included; inline reads every file back from the disk and compares it. `verify` is
  what deferred verification costs later.

MB/s are of raw pixels; CPU seconds are those of all processes (last repeat), and say more than
MB/s on a machine that does other things. On a disk the cached pages of raw are dropped before
every run; only ours makes its files durable. Read and written bytes are what the kernel counts
for the processes (/proc/PID/io), beside raw and products: what is above the raw bytes is products
read back, for their hash or their verification. Results of ours are compared with raw by their
pixels.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from astropy.io import fits

from nightjar.files import is_ram_disk
from nightjar.fits.cards import Card
from nightjar.fits.writer import write_image
from nightjard.archived.nights.records import ROW
from nightjard.archived.nights.writing import (
    ProductTask,
    cube_head,
    verify_product,
    write_product,
)

CUBE_FRAMES = 250
CARDS = [Card(f"KEY{number:03d}", number * 1.1, "a value with a unit", "s") for number in range(60)]
TEXT = b"".join(card.to_bytes() for card in CARDS).decode("ascii")
Json = dict[str, Any]


@dataclass
class Night:
    """What there is to do."""

    folder: Path
    raw: list[Path] = field(default_factory=list)
    tasks: list[Json] = field(default_factory=list)
    raw_bytes: int = 0


@dataclass
class Cost:
    """What a run took."""

    seconds: float
    read: int
    written: int
    peak: int
    processor: float
    results: list[Json]
    device: int


def make_night(folder: Path, options: argparse.Namespace) -> Night:
    """Write cubes until there are enough bytes, and plan the products."""
    night = Night(folder / "20260101")
    frame_bytes = 2 * options.rows * options.columns
    per_camera = max(1, round(options.gigabytes * 1e9 / 2 / frame_bytes / CUBE_FRAMES))
    rng = np.random.default_rng(1)
    noise = rng.normal(230, options.sigma, (16, options.rows, options.columns)).astype(np.uint16)
    refs: list[Json] = []
    for camera in (1, 2):
        (night.folder / f"vcam{camera}").mkdir(parents=True)
        for number in range(per_camera):
            path = night.folder / f"vcam{camera}" / f"vcam{camera}_{number:04d}.fits"
            shifts = rng.integers(0, noise[0].size, CUBE_FRAMES)
            frames = np.stack(
                [np.roll(noise[n % 16].reshape(-1), s) for n, s in enumerate(shifts)]
            ).reshape(CUBE_FRAMES, options.rows, options.columns)
            write_image(path, frames, [Card("EXTEND", True), *CARDS])
            ref = cube_head(path).ref(len(refs), str(path.relative_to(night.folder)))
            refs.append(vars(ref))
            night.raw.append(path)
            night.raw_bytes += path.stat().st_size
    plan(night, refs, per_camera, options.product_frames)
    return night


def plan(night: Night, refs: list[Json], per_camera: int, most: int) -> None:
    """Put every frame into a product: states alternate, products cross borders of cubes."""
    pieces: list[tuple[int, np.ndarray[Any, Any]]] = []
    for camera in range(2):
        frames = np.arange(per_camera * CUBE_FRAMES)
        for chunk in np.array_split(frames, max(1, len(frames) // (2 * most))):
            pieces += [(camera, chunk[chunk % 2 == state]) for state in (0, 1)]
    rows = np.zeros(sum(len(frames) for _, frames in pieces), ROW)
    rows_file = night.folder / "frames.npy"
    start = 0
    for number, (camera, frames) in enumerate(pieces):
        stop = start + len(frames)
        rows["product"][start:stop] = number
        rows["position"][start:stop] = np.arange(len(frames))
        rows["cube"][start:stop] = camera * per_camera + frames // CUBE_FRAMES
        rows["index"][start:stop] = frames % CUBE_FRAMES
        cubes = tuple(refs[cube] for cube in np.unique(rows["cube"][start:stop]))
        night.tasks.append(
            ProductTask(
                str(night.folder), str(rows_file), start, stop, f"vgen2/P{number:05d}.fits.fz",
                TEXT, cubes, "rice", "inline", f"record/P{number:05d}.npy",
            ).to_json()
        )  # fmt: skip
        start = stop
    np.save(rows_file, rows)


def run_program(*arguments: str | Path) -> None:
    subprocess.run([str(argument) for argument in arguments], check=True)


def fpack(path: str, folder: str) -> Json:
    packed = Path(folder) / f"{Path(path).name}.fz"
    run_program("fpack", "-r", "-O", packed, path)
    return {"size": packed.stat().st_size}


def fpack_funpack(path: str, folder: str) -> Json:
    packed, unpacked = Path(folder) / f"{Path(path).name}.fz", Path(folder) / Path(path).name
    result = fpack(path, folder)
    run_program("funpack", "-O", unpacked, packed)
    unpacked.unlink()
    return result


def astropy_fpack(task: Json, folder: str, *, compare: bool = False) -> Json:
    """Make a product with astropy and fpack."""
    rows = np.load(task["rows_file"], mmap_mode="r")[task["start"] : task["stop"]]
    parts, header = [], None
    for cube in task["cubes"]:
        picked = rows["index"][rows["cube"] == cube["number"]]
        with fits.open(Path(task["night"]) / cube["path"], do_not_scale_image_data=True) as hdus:
            parts.append(hdus[0].data[picked])
            header = header or hdus[0].header.copy()
    pixels = np.concatenate(parts)
    plain = Path(folder) / f"{Path(task['target']).stem}"
    fits.PrimaryHDU(pixels, header).writeto(plain, output_verify="ignore")
    packed = plain.with_name(f"{plain.name}.fz")
    run_program("fpack", "-r", "-O", packed, plain)
    plain.unlink()
    if compare:
        run_program("funpack", "-O", plain, packed)
        with fits.open(plain, do_not_scale_image_data=True) as hdus:
            if not np.array_equal(hdus[0].data, pixels):
                raise SystemExit(f"{packed} differs")
        plain.unlink()
    return {"size": packed.stat().st_size}


def astropy_fpack_compare(task: Json, folder: str) -> Json:
    return astropy_fpack(task, folder, compare=True)


def ours(task: Json, verify: str, threads: int) -> Json:
    return write_product({**task, "verify": verify}, threads=threads)


def prove(task: Json, result: Json) -> Json:
    problems = verify_product(task, result)
    if problems:
        raise SystemExit(f"verification failed: {problems}")
    return {"size": result["size"]}


def counted(call: Callable[..., Json], arguments: tuple[Any, ...]) -> Json:
    """Call, in a worker; add what it read, wrote and held at most (not what its children did)."""
    Path("/proc/self/clear_refs").write_text("5")  # begin a new peak
    before, begun = io_counts(), os.times()[:4]
    result = call(*arguments)
    processor = sum(os.times()[:4]) - sum(begun)  # of this process and of programs that it ran
    moved = [now - then for now, then in zip(io_counts(), before, strict=True)]
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
    return {**result, "io": moved, "peak": peak, "processor": processor, "pid": os.getpid()}


def io_counts() -> tuple[int, int, int]:
    """Return the bytes that went through read and write calls, and that a device gave."""
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["rchar"]), int(lines["wchar"]), int(lines["read_bytes"])


def warm() -> None:
    time.sleep(0.2)


def measure(
    night: Night, call: Callable[..., Json], jobs: Sequence[tuple[Any, ...]], processes: int
) -> Cost:
    """Run the jobs in fresh worker processes, their start and imports not counted."""
    drop_pages([*night.raw, *(night.folder / "vgen2").glob("*.fz")])
    # Each run has processes of its own, so that each has a peak of its own.
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        for done in [pool.submit(warm) for _ in range(2 * processes)]:
            done.result()
        start = time.perf_counter()
        futures = [pool.submit(counted, call, job) for job in jobs]
        results = [future.result() for future in futures]
        seconds = time.perf_counter() - start
    peaks: dict[int, int] = {}
    for result in results:
        peaks[result["pid"]] = max(peaks.get(result["pid"], 0), result["peak"])
    read, written, device = (sum(r["io"][place] for r in results) for place in range(3))
    return Cost(
        seconds, read, written, sum(peaks.values()), sum(r["processor"] for r in results), results,
        device,
    )  # fmt: skip


def drop_pages(paths: Sequence[Path]) -> None:
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def race(night: Night, options: argparse.Namespace) -> None:
    """Run everything and print it."""
    speeds: dict[str, list[float]] = {}
    last: dict[str, Cost] = {}
    scratch = night.folder / "scratch"

    def run(name: str, call: Callable[..., Json], jobs: Sequence[tuple[Any, ...]]) -> Cost:
        scratch.mkdir()
        cost = measure(night, call, jobs, options.processes)
        shutil.rmtree(scratch)
        speeds.setdefault(name, []).append(night.raw_bytes / cost.seconds / 1e6)
        last[name] = cost
        return cost

    def clear() -> None:
        for name in ("vgen2", "record"):
            shutil.rmtree(night.folder / name, ignore_errors=True)

    on_raw = [(str(path), str(scratch)) for path in night.raw]
    on_tasks = [(task, str(scratch)) for task in night.tasks]
    for _ in range(options.repeats):
        run("fpack", fpack, on_raw)
        run("fpack + funpack", fpack_funpack, on_raw)
        run("astropy + fpack", astropy_fpack, on_tasks)
        run("astropy + fpack + compare", astropy_fpack_compare, on_tasks)
        for verify in ("inline", "deferred"):
            clear()
            jobs = [(task, verify, options.threads) for task in night.tasks]
            cost = run(f"ours, {verify}", ours, jobs)
        pairs = list(zip(night.tasks, cost.results, strict=True))
        run("verify", prove, [({**task, "verify": "deferred"}, result) for task, result in pairs])
    compare_pixels(night)
    report(night, {name: median(values) for name, values in speeds.items()}, last)
    clear()


def compare_pixels(night: Night) -> None:
    """Compare the first and the last product with raw by another program's eyes."""
    for task in (night.tasks[0], night.tasks[-1]):
        rows = np.load(task["rows_file"])[task["start"] : task["stop"]]
        cubes = {cube["number"]: Path(task["night"]) / cube["path"] for cube in task["cubes"]}
        with fits.open(Path(task["night"]) / task["target"], checksum=True) as hdus:
            pixels = hdus[1].data
        for place in range(0, len(rows), 50):
            row = rows[place]
            with fits.open(cubes[int(row["cube"])]) as hdus:
                assert np.array_equal(hdus[0].data[row["index"]], pixels[place])


def report(night: Night, speeds: dict[str, float], last: dict[str, Cost]) -> None:
    print(
        f"{'':>26} {'MB/s':>6} {'CPU s/GB':>9} {'read/raw':>9} {'written/products':>17} "
        f"{'peak MB':>8}"
    )
    for name, speed in speeds.items():
        cost = last[name]
        products = sum(result["size"] for result in cost.results)
        own = is_ours(name)  # children of the others are not counted
        shares = f"{cost.read / night.raw_bytes:9.2f} {cost.written / products:17.2f}"
        peak = f"{cost.peak / 1e6:8.0f}"  # of all workers; programs that it runs are not in it
        per_gb = f"{cost.processor / night.raw_bytes * 1e9:9.2f}"
        print(
            f"{name:>26} {speed:6.0f} {per_gb} {shares if own else '':>27} {peak if own else '':>8}"
        )
    for mine, other, wanted in (
        ("ours, inline", "fpack + funpack", 0.80),
        ("ours, deferred", "fpack", 0.80),
        ("ours, deferred", "astropy + fpack", 1.15),
        ("ours, inline", "astropy + fpack + compare", 0.90),
    ):
        ratio = speeds[mine] / speeds[other]
        verdict = verdict_of(ratio >= wanted)
        by_cpu = last[other].processor / last[mine].processor
        print(
            f"{mine:>26} : {other:<26} {ratio:5.2f}  (at least {wanted:.2f}: {verdict}), "
            f"by CPU time {by_cpu:.2f}"
        )
    for name in ("ours, inline", "ours, deferred", "verify"):
        tell_bytes(name, night, last[name])
    for name in ("ours, inline", "ours, deferred"):
        results = last[name].results
        total = sum(result["seconds"]["total"] for result in results)
        print(f"{name}: share of the time of its processes:")
        stages = {stage for result in results for stage in result["seconds"]} - {"total"}
        for stage in sorted(stages):
            share = sum(result["seconds"].get(stage, 0) for result in results) / total
            print(f"{stage:>26} {100 * share:5.1f} %")
    peak = max(cost.peak for name, cost in last.items() if is_ours(name))
    print(f"peak of all workers {peak / 1e6:.0f} MB: below 1 GB: {verdict_of(peak < 1e9)}")


def tell_bytes(name: str, night: Night, cost: Cost) -> None:
    """Print the bytes that were read and written, by cause, in units of raw and of products."""
    raw, products = night.raw_bytes, sum(result["size"] for result in cost.results)
    causes = {"frames of raw": "bytes_read", "products, for their hash": "bytes_read_back",
              "products, compared": "bytes_verified"}  # fmt: skip
    sums = {text: sum(result.get(key, 0) for result in cost.results)
            for text, key in causes.items()}  # fmt: skip
    if name == "verify":
        sums["products, compared"] = products
    rest = cost.read - sum(sums.values())
    parts = [f"{text} {count / raw:.3f}" for text, count in {**sums, "rest": rest}.items()]
    print(f"{name}: read / raw {cost.read / raw:.3f} = {' + '.join(parts)}; from a device "
          f"{cost.device / raw:.3f}")  # fmt: skip
    if name == "ours, deferred":
        print(f"{'':>26} at most 1.1: {verdict_of(cost.read <= 1.1 * raw)}")
    if name != "verify":
        written = sum(result["bytes_written"] for result in cost.results)
        print(f"{'':>26} written / products {cost.written / products:.3f}, of it products "
              f"{written / products:.3f} (at most 1.1: "
              f"{verdict_of(cost.written <= 1.1 * products)})")  # fmt: skip


def is_ours(name: str) -> bool:
    """Tell whether the figures of a run are those of its own processes."""
    return name.startswith(("ours", "verify"))


def verdict_of(is_met: bool) -> str:
    return "met" if is_met else "NOT MET"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--folders", type=Path, nargs="+", default=[Path("/dev/shm"), Path()])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="that compress, in each process")
    parser.add_argument("--product-frames", type=int, default=400)
    parser.add_argument("--rows", type=int, default=536)
    parser.add_argument("--columns", type=int, default=536)
    parser.add_argument("--sigma", type=float, default=12.0)
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    for where in options.folders:
        folder = Path(tempfile.mkdtemp(prefix="nightjar-pass-", dir=where))
        try:
            night = make_night(folder, options)
            kind = "memory" if is_ram_disk(folder) else "disk"
            print(
                f"\n{night.raw_bytes / 1e9:.2f} GB raw, {len(night.raw)} cubes of {CUBE_FRAMES} "
                f"frames {options.columns} x {options.rows}, {len(night.tasks)} products, in "
                f"{where} ({kind}), {options.processes} processes"
            )
            race(night, options)
        finally:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
