# SPDX-License-Identifier: BSD-3-Clause
"""How many frames a second a writer publishes, beside a plain copy of the same array.

By turns in one run, for frames of several sizes: ``numpy.copyto`` into one buffer, and into as many
buffers as the ring has slots (a ring does not stay in the processor's cache);
``StreamWriter.write`` into a plain stream and into a rolling one, alone and with a reader process
that looks at each frame in place; and ``pyshmem``, where it is installed, into its shared memory.
Medians of the turns.

Limits: 0.9 of the copy for frames of 2 MB and more, 0.7 at 536 x 536.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from nightjar.streams.reader import StreamReader
from nightjar.streams.writer import StreamWriter

SHAPES = [(184, 184), (536, 536), (540, 2232), (1096, 2236), (2048, 2048)]
RING_BYTES = 256 << 20
# pyMilk's set_data against memcpy in one process, the same shapes.
PEER = {(536, 536): 0.76, (540, 2232): 0.96, (1096, 2236): 0.98, (2048, 2048): 0.86}


def per_second(action: Callable[[], object], seconds: float) -> float:
    """Return calls a second."""
    count, step, begin = 0, 1, time.perf_counter()
    while (taken := time.perf_counter() - begin) < seconds:
        for _ in range(step):
            action()
        count += step
        step = max(1, min(256, int(count / max(taken, 1e-6) * 0.01)))
    return count / (time.perf_counter() - begin)


def follow(name: str, folder: Path) -> None:
    """Read a stream in place until the input ends; print what was lost."""
    with StreamReader(name, folder=folder) as reader:
        first = reader.counter
        print("ready", flush=True)
        for frame in reader.frames(1.0, copy=False):
            if frame.data[-1, -1] != 1 and reader.is_intact(frame):
                raise SystemExit("a frame was not what was written")
        print(reader.counter - first, reader.lost + reader.torn, flush=True)


@contextlib.contextmanager
def reader_of(name: str, folder: Path) -> Iterator[list[int]]:
    """Run a reader process; the list holds frames and lost ones afterwards."""
    found: list[int] = []
    process = subprocess.Popen(
        [sys.executable, __file__, "--follow", name, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    yield found
    found += map(int, process.communicate(timeout=60)[0].split())


@contextlib.contextmanager
def pyshmem_write(frame: np.ndarray) -> Iterator[Callable[[], object] | None]:
    """Give pyshmem's way of writing; None where it is not installed."""
    try:
        import pyshmem
    except ImportError:
        yield None
        return
    stream = pyshmem.create(f"nightjar_{os.getpid()}", shape=frame.shape, dtype=frame.dtype)
    try:
        yield lambda: stream.write(frame)
    finally:
        stream.close()
        with contextlib.suppress(AttributeError):
            stream.unlink()


def measure(shape: tuple[int, int], folder: Path, seconds: float, turns: int) -> None:
    frame = np.ones(shape, "u2")
    depth = max(4, min(1024, RING_BYTES // frame.nbytes))
    buffers, place = np.ones((depth, *shape), "u2"), [0]
    single = np.zeros(shape, "u2")
    plain = StreamWriter.create("plain", shape, "u2", folder=folder)
    ring = StreamWriter.create("ring", shape, "u2", depth=depth, folder=folder)

    def copy_around() -> None:
        place[0] = (place[0] + 1) % depth
        np.copyto(buffers[place[0]], frame)

    rates: dict[str, list[float]] = {}
    lost = frames = 0
    with plain, ring, pyshmem_write(frame) as peer:
        for _ in range(turns):
            for name, action in [
                ("copy", lambda: np.copyto(single, frame)),
                ("plain", lambda: plain.write(frame, 1)),
                ("copy around", copy_around),
                ("ring", lambda: ring.write(frame, 1)),
                ("pyshmem", peer),
            ]:
                if action is not None:
                    action()
                    rates.setdefault(name, []).append(per_second(action, seconds))
            with reader_of("ring", folder) as found:
                rates.setdefault("read", []).append(
                    per_second(lambda: ring.write(frame, 1), seconds)
                )
            frames, lost = frames + found[0], lost + found[1]
    plain.path.unlink()
    ring.path.unlink()
    show(shape, frame.nbytes, depth, {n: statistics.median(r) for n, r in rates.items()})
    print(f"    with a reader in another process: {statistics.median(rates['read']):.0f} frames/s, "
          f"{lost} of {frames} lost to that reader")  # fmt: skip


def show(shape: tuple[int, int], size: int, depth: int, rate: dict[str, float]) -> None:
    share = rate["plain"] / rate["copy"]
    limit = 0.9 if size >= 2e6 else 0.7 if shape == (536, 536) else None
    verdict = "" if limit is None else f" ({'meets' if share >= limit else 'BELOW'} {limit})"
    known = f", pyMilk {PEER[shape]:.2f}" if shape in PEER else ""
    print(f"{shape[0]} x {shape[1]} uint16, {size / 1e6:.2f} MB", flush=True)
    print(f"    plain stream   {rate['plain']:9.0f} frames/s {rate['plain'] * size / 1e6:7.0f} MB/s"
          f"   copy {rate['copy']:9.0f}/s   share {share:.2f}{verdict}{known}")  # fmt: skip
    around = rate["ring"] / rate["copy around"]
    print(f"    ring of {depth:4d}   {rate['ring']:9.0f} frames/s {rate['ring'] * size / 1e6:7.0f} "
          f"MB/s   copy {rate['copy around']:9.0f}/s   share {around:.2f}")  # fmt: skip
    if "pyshmem" in rate:
        print(f"    pyshmem        {rate['pyshmem']:9.0f} frames/s "
              f"{rate['pyshmem'] * size / 1e6:7.0f} MB/s   share "
              f"{rate['pyshmem'] / rate['copy']:.2f}")  # fmt: skip
    else:
        print("    pyshmem is not installed: not measured")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=0.4, help="of each measurement")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--follow", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.follow:
        follow(options.follow[0], Path(options.follow[1]))
        return 0
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, load {load:.1f}; medians of {options.turns} turns")
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="nightjar-publish-") as made:
        for shape in SHAPES:
            measure(shape, Path(made), options.seconds, options.turns)
    return 0


if __name__ == "__main__":
    sys.exit(main())
