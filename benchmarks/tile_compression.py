# SPDX-License-Identifier: BSD-3-Clause
"""Lossless tile compression while logging, beside fpack on the same frames; one run.

    python benchmarks/tile_compression.py [--frames 500] [--folder /dev/shm] [--repeats 3]

Frames of 536 x 536 uint16, bias 200 + sky 30 + Gaussian noise of sigma 12. MB/s are of the raw
pixels. `tiles` compresses in memory; `cube` writes the whole file, table of frames and checksums
included, frames coming as fast as they are taken; `fpack` goes from file to file, in its usual
tiles (a row each) and in tiles of a frame. Nothing is fsynced. Every cube is compared with the
frames, and is funpacked, before its figures are printed.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from nightjar.fits.cards import Card
from nightjar.fits.compressed_cube import CompressedCube, TilePool
from nightjar.fits.frame_table import empty_rows
from nightjar.fits.header import read_header
from nightjar.fits.tile_file import TileLayout
from nightjar.fits.tile_reader import read_frames
from nightjar.fits.tiles import TileCompressor
from nightjar.fits.writer import write_image

SIZE = 536
SIGMA = 12
CARDS = [Card("EXTEND", True), Card("OBJECT", "noise")]
Frames = np.ndarray[Any, Any]


def in_memory(frames: Frames) -> int:
    compressor = TileCompressor(frames.dtype, frames.shape[1:])
    return sum(len(compressor.compress(frame)) for frame in frames)


def write_cube(path: Path, frames: Frames, pool: TilePool) -> int:
    rows = empty_rows(len(frames))
    layout = TileLayout.make(frames.shape[1:], frames.dtype, len(frames), 100)
    cube = CompressedCube(path, layout, pool)
    for index, frame in enumerate(frames):
        rows["DATASUM"][index] = cube.append(frame)
    return cube.complete(CARDS, rows, fsync=False)


def fpack(raw: Path, *options: str) -> int:
    packed = raw.with_name(f"{raw.name}.fz")
    packed.unlink(missing_ok=True)
    subprocess.run(["fpack", "-r", *options, raw], check=True)
    return packed.stat().st_size


def time_of(call: Callable[[], int], repeats: int) -> tuple[float, float, int]:
    """Return seconds and processor seconds of this process (medians), and the bytes."""
    seconds, processor = [], []
    for _ in range(repeats):
        start, start_processor = time.perf_counter(), time.process_time()
        size = call()
        seconds.append(time.perf_counter() - start)
        processor.append(time.process_time() - start_processor)
    return median(seconds), median(processor), size


def race(folder: Path, frames: Frames, repeats: int) -> None:
    raw = folder / "raw.fits"
    write_image(raw, frames, CARDS, fsync=False)
    cube = folder / "cube.fits.fz"
    print(f"{'':>26} {'MB/s':>7} {'frames/s':>9} {'ratio':>6} {'CPU s/GB':>9}")

    def report(name: str, call: Callable[[], int], *, is_ours: bool = True) -> None:
        seconds, processor, size = time_of(call, repeats)
        per_gb = f"{processor / frames.nbytes * 1e9:9.2f}" if is_ours else ""
        print(
            f"{name:>26} {frames.nbytes / seconds / 1e6:7.0f} {len(frames) / seconds:9.0f}"
            f" {frames.nbytes / size:6.2f} {per_gb}"
        )

    report("tiles, 1 thread", lambda: in_memory(frames))
    for threads in (1, 2):
        pool = TilePool(frames.shape[1:], frames.dtype, threads)

        def call(pool: TilePool = pool) -> int:
            cube.unlink(missing_ok=True)
            return write_cube(cube, frames, pool)

        report(f"cube, {threads} thread{'s' * (threads > 1)}", call)
        pool.stop()
        verify(cube, frames)
    if shutil.which("fpack") is None:
        print("fpack is not installed (apt install libcfitsio-bin)")
        return
    report("fpack, tiles of a row", lambda: fpack(raw), is_ours=False)
    report("fpack, tiles of a frame", lambda: fpack(raw, "-t", f"{SIZE},{SIZE},1"), is_ours=False)


def verify(cube: Path, frames: Frames) -> None:
    for got, wanted in zip(read_frames(cube), frames, strict=True):
        assert (got == wanted).all()
    if shutil.which("funpack") is not None:
        unpacked = cube.with_name("unpacked.fits")
        unpacked.unlink(missing_ok=True)
        subprocess.run(["funpack", "-O", unpacked, cube], check=True)
        offset = read_header(unpacked).data_offset
        stored = np.fromfile(unpacked, ">i2", frames.size, offset=offset).reshape(frames.shape)
        assert (stored.astype(np.int32) + 32768 == frames).all()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=500)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rng = np.random.default_rng(1)
    frames = rng.normal(230, SIGMA, (options.frames, SIZE, SIZE)).astype(np.uint16)
    print(
        f"{options.frames} frames of {SIZE} x {SIZE} uint16 ({frames.nbytes / 1e6:.0f} MB),"
        f" noise of sigma {SIGMA}, in {options.folder}, median of {options.repeats}"
    )
    folder = Path(tempfile.mkdtemp(prefix="nightjar-tiles-", dir=options.folder))
    try:
        race(folder, frames, options.repeats)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
