# SPDX-License-Identifier: BSD-3-Clause
"""How long from the start of a frame's writing to a reader in another process that has its data.

536 x 536 frames of 16 bits at 200 Hz (``--shape``, ``--rate``) through a plain stream (``--depth``
for a rolling one): the clock starts before the writer copies the frame into the stream and stops
when the reader has looked at its pixels in place and checked them, or holds a copy. Beside it, in
the same run and by turns, a bare POSIX semaphore between two processes, without any data.

All of it again while another thread of the reading process computes: with Python's own switch
interval of 5 ms, with :func:`nightjar.streams.latency.prefer_latency`, and with real-time priority
for the reading thread where the system permits it.
"""

from __future__ import annotations

import argparse
import ctypes
import mmap
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from nightjar.streams.latency import prefer_latency
from nightjar.streams.reader import StreamReader, Wake
from nightjar.streams.semaphores import Semaphore
from nightjar.streams.writer import StreamWriter

# pyMilk between two processes, the same frame and rate, its wait holding the GIL.
PEER = "pyMilk 182 / 265 / 297"
LIMITS_US = (182, 297)
STAMPS = 256


def pace(rate_hz: float, count: int):
    """Yield `count` times at that rate."""
    start = time.monotonic_ns()
    for number in range(count):
        due = start + int(number * 1e9 / rate_hz)
        while (left := due - time.monotonic_ns()) > 0:
            time.sleep(left / 1e9)
        yield number


def write_stream(
    folder: Path, shape: tuple[int, int], depth: int | None, rate_hz: float, count: int
) -> None:
    frame = np.arange(shape[0] * shape[1], dtype="u2").reshape(shape)
    with StreamWriter.create("latency", shape, "u2", depth=depth, folder=folder) as writer:
        print("ready", flush=True)
        sys.stdin.readline()
        for number in pace(rate_hz, count):
            frame[0, 0] = number % 65536
            writer.write(frame, time.monotonic_ns())
        sys.stdin.readline()


def write_semaphore(file: Path, rate_hz: float, count: int) -> None:
    with file.open("r+b") as opened:
        mapping = mmap.mmap(opened.fileno(), 4096)
    stamps = memoryview(mapping)[64 : 64 + 8 * STAMPS].cast("q")
    post = ctypes.PyDLL(None).sem_post
    post.argtypes = (ctypes.c_void_p,)
    address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
    print("ready", flush=True)
    sys.stdin.readline()
    for number in pace(rate_hz, count):
        stamps[number % STAMPS] = time.monotonic_ns()
        post(address)
    sys.stdin.readline()


class Burner:
    """A thread of this process that computes in Python without pause."""

    def __init__(self, is_wanted: bool) -> None:
        self._is_wanted = is_wanted
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._burn, daemon=True)

    def _burn(self) -> None:
        stop, total = self._stop, 0
        while not stop.is_set():
            for number in range(1000):
                total += number * number

    def __enter__(self) -> Burner:
        if self._is_wanted:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._is_wanted:
            self._thread.join()


def child(*arguments: object) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, __file__, *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    return process


def stream_latencies(
    folder: Path, options: argparse.Namespace, *, is_busy: bool, copy: bool
) -> tuple[list[float], str]:
    rows, columns = options.shape
    writer = child(
        "--write-stream", folder, rows, columns, options.depth, options.rate, options.count
    )
    taken = []
    with StreamReader("latency", folder=folder) as reader, Burner(is_busy):
        writer.stdin.write("go\n")
        writer.stdin.flush()
        while len(taken) + reader.lost < options.count and reader.wait(5.0) is Wake.FRAME:
            frame = reader.next_frame(copy=copy)
            if frame is None:
                continue
            first = frame.data[0, 0]
            if copy or reader.is_intact(frame):
                taken.append((time.monotonic_ns() - frame.atime_ns) / 1e3)
                assert first == (frame.counter - 1) % 65536
        note = f"{reader.lost} lost, {reader.torn} torn"
    writer.communicate("end\n", timeout=30)
    return taken, note


def semaphore_latencies(
    folder: Path, options: argparse.Namespace, *, is_busy: bool
) -> tuple[list[float], str]:
    file = folder / "bare"
    file.write_bytes(bytes(4096))
    with file.open("r+b") as opened:
        mapping = mmap.mmap(opened.fileno(), 4096)
    semaphore = Semaphore(mapping, 0)
    semaphore.initialise()
    stamps = memoryview(mapping)[64 : 64 + 8 * STAMPS].cast("q")
    writer = child("--write-semaphore", file, options.rate, options.count)
    taken = []
    with Burner(is_busy):
        writer.stdin.write("go\n")
        writer.stdin.flush()
        while len(taken) < options.count and semaphore.wait(5.0):
            taken.append((time.monotonic_ns() - stamps[len(taken) % STAMPS]) / 1e3)
    writer.communicate("end\n", timeout=30)
    return taken, "no data"


def show(name: str, taken: list[float], note: str) -> None:
    p50, p95, p99 = np.percentile(taken, [50, 95, 99])
    is_within = p50 <= LIMITS_US[0] and p99 <= LIMITS_US[1]
    print(f"  {name:22s} {p50:7.0f} {p95:7.0f} {p99:7.0f} {max(taken):8.0f}   "
          f"{'within' if is_within else 'above '}  {len(taken)} wakes, {note}",
          flush=True)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=lambda text: tuple(map(int, text.split("x"))),
                        default=(536, 536))  # fmt: skip
    parser.add_argument("--rate", type=float, default=200.0, help="frames per second")
    parser.add_argument("--count", type=int, default=1000, help="frames per figure")
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--depth", type=int, default=0, help="slots; 0: a plain stream")
    parser.add_argument("--write-stream", nargs=6, help=argparse.SUPPRESS)
    parser.add_argument("--write-semaphore", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write_stream:
        folder, rows, columns, depth, rate, count = options.write_stream
        shape = (int(rows), int(columns))
        write_stream(Path(folder), shape, int(depth) or None, float(rate), int(count))
        return 0
    if options.write_semaphore:
        file, rate, count = options.write_semaphore
        write_semaphore(Path(file), float(rate), int(count))
        return 0
    run(options)
    return 0


def settings(default_s: float) -> Iterator[tuple[str, bool]]:
    """Yield name and "is another thread computing", the process set up for it meanwhile."""
    yield "quiet", False
    yield "another thread computes", True
    try:
        prefer_latency()
        yield "another thread computes, prefer_latency()", True
        if prefer_latency(realtime_priority=1):
            yield "another thread computes, prefer_latency(realtime_priority=1)", True
        else:
            print(" real-time priority is not permitted here: not measured")
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        sys.setswitchinterval(default_s)


def run(options: argparse.Namespace) -> None:
    rows, columns = options.shape
    print(f"{rows} x {columns} uint16 at {options.rate:g} Hz, "
          f"{f'{options.depth} slots' if options.depth else 'plain stream'}, {os.cpu_count()} "
          f"cores, load {os.getloadavg()[0]:.1f}; us from before the write to awake with the data; "
          f"limits: median {LIMITS_US[0]}, p99 {LIMITS_US[1]} ({PEER})")  # fmt: skip
    print(f"  {'':22s} {'p50':>7} {'p95':>7} {'p99':>7} {'max':>8}")
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="nightjar-latency-") as made:
        folder = Path(made)
        for turn in range(options.repeat):
            for setting, is_busy in settings(sys.getswitchinterval()):
                print(f" run {turn + 1}, {setting}:")
                show("bare semaphore", *semaphore_latencies(folder, options, is_busy=is_busy))
                for name, copy in (("stream, in place", False), ("stream, copy", True)):
                    taken, note = stream_latencies(folder, options, is_busy=is_busy, copy=copy)
                    show(name, taken, note)


if __name__ == "__main__":
    sys.exit(main())
