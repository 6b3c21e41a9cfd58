# SPDX-License-Identifier: BSD-3-Clause
"""The FITS writer against astropy and against a bare write(); medians and ratios of one run.

    python benchmarks/fits_writer.py [--rows 6422] [--columns 9600] [--repeats 7]
                                     [--memory /dev/shm] [--disk .]

One process, one frame, the same cards. In memory: new files and recycled ones. On disk: fsync of
the file on every side. The time of deleting or recycling the file is not counted (it falls to the
reader), and printed by itself. `bare` writes the frame's bytes as they are in 1 MiB calls, with no
header, no byte order and no sum: the limit of any writer.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from astropy.io import fits

from nightjar.files import is_ram_disk
from nightjar.fits import spool
from nightjar.fits.cards import Card
from nightjar.fits.header import read_header
from nightjar.fits.verify import verify_image
from nightjar.fits.writer import WrittenImage, write_image

CARDS = [Card(f"KEY{number:03d}", number * 1.1, "a value with a unit", "s") for number in range(60)]
CAPACITY = 144
MIB = 1 << 20
PLENTY = 1 << 40


class Race:
    """Contenders that write the same frame, in turn."""

    def __init__(self, folder: Path, frame: np.ndarray[Any, Any], repeats: int) -> None:
        self.folder, self.frame, self.repeats = folder, frame, repeats
        self.last: WrittenImage | None = None

    def bare(self, path: Path, flags: int, fsync: bool) -> None:
        descriptor = os.open(path, os.O_WRONLY | flags)
        data = memoryview(self.frame).cast("B")
        for start in range(0, len(data), MIB):
            os.write(descriptor, data[start : start + MIB])
        if fsync:
            os.fsync(descriptor)
        os.close(descriptor)

    def astropy(self, path: Path, fsync: bool) -> None:
        header = fits.Header([(c.keyword, c.value, f"[{c.unit}] {c.comment}") for c in CARDS])
        fits.PrimaryHDU(self.frame, header).writeto(path, checksum=True)
        if fsync:
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)

    def ours(self, path: Path, **more: Any) -> None:
        self.last = write_image(path, self.frame, CARDS, capacity=CAPACITY, **more)

    def run(self, contenders: dict[str, tuple[Callable[[Path], None], bool]]) -> None:
        """Time contenders: name to (call, whether its file is recycled); print a table."""
        times: dict[str, list[float]] = {name: [] for name in contenders}
        removal: dict[str, list[float]] = {name: [] for name in contenders}
        path = self.folder / "race.fits"
        for turn in range(self.repeats + 1):
            for name, (call, is_recycled) in contenders.items():
                if is_recycled:  # the pool holds exactly one file when this contender starts
                    call(path)
                    spool.recycle(path, PLENTY)
                start = time.perf_counter()
                call(path)
                middle = time.perf_counter()
                if is_recycled:
                    spool.recycle(path, PLENTY)
                    end = time.perf_counter()
                    spool.clear(self.folder)
                else:
                    path.unlink()
                    end = time.perf_counter()
                if turn:  # the first turn warms up
                    times[name].append(middle - start)
                    removal[name].append(end - middle)
        reference = median(times["astropy, checksum"])
        print(f"{'':>26} {'ms':>8} {'MB/s':>8} {'x astropy':>10} {'removal ms':>11}")
        for name, values in times.items():
            value = median(values)
            print(
                f"{name:>26} {value * 1e3:8.1f} {self.frame.nbytes / value / 1e6:8.0f}"
                f" {reference / value:10.2f} {median(removal[name]) * 1e3:11.1f}"
            )


def race_memory(folder: Path, frame: np.ndarray[Any, Any], repeats: int) -> WrittenImage:
    race = Race(folder, frame, repeats)
    kept = folder / "kept.bin"
    race.bare(kept, os.O_CREAT, False)
    new, recycled = {"recycle": False}, {"recycle": True}
    contenders: dict[str, tuple[Callable[[Path], None], bool]] = {
        "astropy, checksum": (lambda path: race.astropy(path, False), False),
        "here, new file": (lambda path: race.ours(path, **new), False),
        "here, 2 x 2 sum": (lambda path: race.ours(path, binning=2, **new), False),
        "bare, new file": (lambda path: race.bare(path, os.O_CREAT | os.O_EXCL, False), False),
    }
    if is_ram_disk(folder):
        contenders["here, recycled"] = (lambda path: race.ours(path, **recycled), True)

        def over(path: Path) -> None:
            os.rename(kept, path)
            race.bare(path, 0, False)
            os.link(path, kept)

        contenders["bare, over existing pages"] = (over, False)
    else:
        print(f"{folder} is no RAM disk: nothing is recycled")
    race.run(contenders)
    kept.unlink()
    race.ours(folder / "measured.fits")
    assert race.last is not None
    return race.last


def race_disk(folder: Path, frame: np.ndarray[Any, Any], repeats: int) -> None:
    race = Race(folder, frame, repeats)
    race.run(
        {
            "astropy, checksum": (lambda path: race.astropy(path, True), False),
            "here": (lambda path: race.ours(path), False),
            "bare": (lambda path: race.bare(path, os.O_CREAT | os.O_EXCL, True), False),
        }
    )


def time_reading(written: WrittenImage, repeats: int) -> None:
    def timed(call: Callable[[], Any]) -> float:
        values = []
        for _ in range(repeats):
            start = time.perf_counter()
            call()
            values.append(time.perf_counter() - start)
        return median(values)

    def astropy_verify() -> None:
        with fits.open(written.path, checksum=True) as hdus:
            assert hdus[0].header["NAXIS"] == 2

    ours, theirs = timed(lambda: verify_image(written.path)), timed(astropy_verify)
    print(
        f"verify: {ours * 1e3:.1f} ms, {written.size / ours / 1e9:.1f} GB/s,"
        f" {theirs / ours:.1f} times as fast as astropy ({theirs * 1e3:.0f} ms)"
    )
    ours, theirs = (
        timed(lambda: dict(read_header(written.path))),
        timed(lambda: dict(fits.getheader(written.path))),
    )
    print(f"read header: {ours * 1e3:.2f} ms, {theirs / ours:.1f} times as fast as astropy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=6422)
    parser.add_argument("--columns", type=int, default=9600)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--memory", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--disk", type=Path, default=Path())
    options = parser.parse_args()
    shape = (options.rows, options.columns)
    frame = np.random.default_rng(1).integers(0, 65536, shape, np.uint16)
    print(
        f"{options.columns} x {options.rows} uint16 ({frame.nbytes / 1e6:.1f} MB),"
        f" median of {options.repeats}"
    )
    memory = Path(tempfile.mkdtemp(prefix="nightjar-race-", dir=options.memory))
    disk = Path(tempfile.mkdtemp(prefix="nightjar-race-", dir=options.disk))
    try:
        print(f"in {options.memory}:")
        written = race_memory(memory, frame, options.repeats)
        print(f"in {options.disk.resolve()}, fsync on every side:")
        race_disk(disk, frame, options.repeats)
        passes = (written.bytes_read + written.bytes_written) / frame.nbytes
        print(
            f"bytes of a frame after its slot: {written.bytes_read / 1e6:.1f} MB read,"
            f" {written.bytes_written / 1e6:.1f} MB written: {passes:.2f} passes, wanted at most 2"
        )
        time_reading(written, options.repeats)
    finally:
        shutil.rmtree(memory)
        shutil.rmtree(disk)


if __name__ == "__main__":
    main()
