# SPDX-License-Identifier: BSD-3-Clause
"""Logging of fast streams: frames lost, rate and processor time, beside the floor of one copy.

    python benchmarks/stream_logging.py [--seconds 60] [--disk FOLDER] [--case NAME ...] [--list]
    python benchmarks/stream_logging.py --companion --seconds 600 --case 536x536@500

A producer publishes numbered frames on a schedule; the real logger process saves them; with
--companion each finished cube is read back (header, table, the numbers in every row of every
frame) and deleted, otherwise header and table are looked at before it goes. The floor is "copy,
byte swap, write()" of the same frames in the same run: once in one go, and once at the stream's
pace, a twentieth of a second at a time, which costs more where the machine does something else
meanwhile (caches, and on a virtual one memory that its host took back). Lost, torn and duplicated
stand with every figure.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from nightjar.child import Child

HERE = Path(__file__).parent
CASES: dict[str, list[tuple[int, int, float]]] = {
    "536x536@500": [(536, 536, 500.0)],
    "536x536@1000": [(536, 536, 1000.0)],
    "mbi2@57": [(1096, 2236, 57.0), (1096, 2236, 57.0)],
    "standard2@509": [(536, 536, 509.0), (536, 536, 509.0)],
    "onearc@1430": [(184, 184, 1430.0)],
}
RING_S = 4.0
RING_BYTES = 1.9e9
CUBE_BYTES = 600e6
PACE_S = 0.05


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def floor(
    folder: Path, rows: int, columns: int, rate: float | None = None
) -> tuple[float, float]:
    """Return (MB/s, processor seconds per GB) of copy, byte swap, write(); at a rate, if given."""
    rng = np.random.default_rng(1)
    # From memory, not from the processor's cache: as many frames as a ring has.
    count = int(6e8 // (2 * rows * columns))
    frames = np.empty((count, rows, columns), "u2")
    frames[:] = rng.integers(0, 60000, (rows, columns)).astype("u2")
    buffer = np.ones_like(frames[0])
    path = folder / f"floor-{os.getpid()}.bin"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    began, used = time.monotonic(), time.process_time()
    for index in range(count):
        if rate is not None and index % max(1, int(rate * PACE_S)) == 0:
            time.sleep(max(0.0, began + index / rate - time.monotonic()))
        np.copyto(buffer, frames[index])
        buffer.byteswap(True)
        os.write(descriptor, buffer)
    os.fsync(descriptor)
    span, used = time.monotonic() - began, time.process_time() - used
    os.close(descriptor)
    path.unlink()
    gigabytes = count * frames[0].nbytes / 1e9
    return gigabytes * 1e3 / span, used / gigabytes


class Logged:
    """One stream: its producer, its logger, its companion."""

    def __init__(
        self, name: str, shape: tuple[int, int], rate: float, folder: Path, state: Path,
        *, companion: bool, render: str,
    ) -> None:  # fmt: skip
        self.name, self.shape, self.rate = name, shape, rate
        self.frame_bytes = shape[0] * shape[1] * 2
        depth = max(16, int(min(RING_S * rate, RING_BYTES / self.frame_bytes)))
        self.producer = subprocess.Popen(
            [sys.executable, str(HERE / "peers/stream_producer.py"), name, str(shape[0]),
             str(shape[1]), str(rate), str(depth), render],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.producer.stdout is not None
        assert self.producer.stdout.readline().strip() == "ready"
        self.checker = subprocess.Popen(
            [sys.executable, str(HERE / "peers/cube_checker.py"),
             *([] if companion else ["--table-only"])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.cubes: list[dict[str, Any]] = []
        self.snapshot: dict[str, Any] = {}
        self.highest = 0
        self.finished: queue.SimpleQueue[str] = queue.SimpleQueue()
        ready = threading.Event()

        def hear(message: dict[str, Any]) -> None:
            if message["event"] == "ready":
                ready.set()
            elif message["event"] == "cube":
                assert self.checker.stdin is not None
                self.checker.stdin.write(message["path"] + "\n")
                self.checker.stdin.flush()
            elif message["event"] == "status":
                self.snapshot = message
            elif message["event"] == "note":
                print(f"   {name}: {message['text']}", flush=True)

        threading.Thread(target=self._collect, daemon=True).start()
        options = {"stream": name, "state": str(state), "roots": []}
        self.logger = Child(name, "nightjard.fitslogd.logger", [json.dumps(options)],
                            on_message=hear)  # fmt: skip
        self.logger.start()
        assert ready.wait(20)
        self.logger.ask("prepare", {
            "root": str(folder), "cube_frames": max(16, int(CUBE_BYTES / self.frame_bytes)),
            "minimum_free_bytes": 0, "session_seconds": 1.0,
        }, 20)  # fmt: skip

    def _collect(self) -> None:
        assert self.checker.stdout is not None
        for line in self.checker.stdout:
            self.cubes.append(json.loads(line))

    def start(self, not_before_ns: int) -> None:
        assert self.logger.pid is not None
        self.used = (cpu_seconds(self.logger.pid), cpu_seconds(self.producer.pid))
        self.logger.ask("start", {"session": "bench", "not_before_ns": not_before_ns})

    def hold(self, seconds: float) -> None:
        """Stop the logger for a while, as a disk that does not answer does."""
        assert self.logger.pid is not None
        os.kill(self.logger.pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(self.logger.pid, signal.SIGCONT)

    def pause(self) -> None:
        self.logger.ask("pause", {"not_after_ns": time.time_ns()})

    def finish(self) -> dict[str, Any]:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            status = self.logger.ask("status")
            if status["state"] == "armed" and status["closing"] == 0:
                break
            time.sleep(0.05)
        assert self.logger.pid is not None
        logger_s = cpu_seconds(self.logger.pid) - self.used[0]
        producer_s = cpu_seconds(self.producer.pid) - self.used[1]
        self.logger.stop(20)
        assert self.producer.stdin is not None
        assert self.producer.stdout is not None
        self.producer.stdin.close()
        produced = json.loads(self.producer.stdout.read())
        self.producer.wait(20)
        assert self.checker.stdin is not None
        self.checker.stdin.close()
        self.checker.wait(60)
        checked = [cube for cube in self.cubes if "path" in cube]
        checker_s = next((cube["cpu_s"] for cube in self.cubes if "cpu_s" in cube), 0.0)
        gaps = sum(cube["gaps"] for cube in checked)
        gaps += sum(b["first"] - a["last"] - 1 for a, b in itertools.pairwise(checked))
        frames = sum(cube["frames"] for cube in checked)
        bad = [cube for cube in checked if cube.get("is_perfect") is False]
        return {
            "status": status, "frames": frames, "gaps": gaps, "cubes": len(checked),
            "bad": bad, "logger_s": logger_s, "producer_s": producer_s, "checker_s": checker_s,
            "produced": produced, "bytes": frames * self.frame_bytes,
            "ndup": sum(cube["ndup"] for cube in checked),
        }  # fmt: skip


def run(case: str, streams: list[tuple[int, int, float]], folder: Path, seconds: float, *,
        companion: bool, render: str, stall_s: float = 0.0) -> bool:  # fmt: skip
    before = floor(folder, *streams[0][:2]), floor(folder, *streams[0])
    with tempfile.TemporaryDirectory(dir=folder, prefix="stream-logging-") as root:
        logged = [
            Logged(f"bench{number}", (rows, columns), rate, Path(root), Path(root),
                   companion=companion, render=render)
            for number, (rows, columns, rate) in enumerate(streams)
        ]  # fmt: skip
        time.sleep(1.0)
        start_ns = time.time_ns() + 100_000_000
        for each in logged:
            each.start(start_ns)
        began = time.monotonic()
        time.sleep(seconds / 2)
        if stall_s:
            for each in logged:
                each.hold(stall_s)
        time.sleep(seconds / 2)
        for each in logged:
            each.pause()
        span = time.monotonic() - began
        results = [each.finish() for each in logged]
    after = floor(folder, *streams[0][:2]), floor(folder, *streams[0])
    copy_mb, copy_s = (np.array(before[0]) + after[0]) / 2
    paced_s = (before[1][1] + after[1][1]) / 2
    kind = "companion reads every row" if companion else "tables checked"
    where = "RAM disk" if str(folder).startswith("/dev/shm") else "disk"
    print(f"{case} -> {where}, {span:.0f} s, {kind}, producer {render}")
    is_good = True
    for each, result in zip(logged, results, strict=True):
        status, gigabytes = result["status"], result["bytes"] / 1e9
        lost = result["gaps"]
        if stall_s:
            told = status["missed"] + status["torn"]
            exact = "exactly" if told == lost else "NOT AS"
            print(f"  held for {stall_s:g} s with a ring of {status['ring_seconds']} s: "
                  f"{lost} lost, {exact} counted ({told})")  # fmt: skip
            is_good &= told == lost and (lost == 0 or stall_s > status["ring_seconds"])
        else:
            is_good &= lost == 0 and status["torn"] == 0
        is_good &= not result["bad"]
        used_s = result["logger_s"] / gigabytes
        print(
            f"  {each.shape[1]}x{each.shape[0]} @ {each.rate:g} Hz: "
            f"{result['bytes'] / span / 1e6:6.0f} MB/s, {result['frames']} frames in "
            f"{result['cubes']} cubes, {lost} lost, {status['torn']} torn, "
            f"{result['ndup']} duplicated, {len(result['bad'])} bad cubes; "
            f"most unread {status['ring_highest']} of {status['ring_depth']} in the ring"
        )
        print(
            f"    processor: logger {used_s:.2f} s/GB "
            f"({100 * result['logger_s'] / span:.0f} %), floor copy+swap+write "
            f"{copy_s:.2f} s/GB at {copy_mb:.0f} MB/s: {used_s / copy_s:.2f}x, "
            f"at the stream's pace {paced_s:.2f} s/GB: {used_s / paced_s:.2f}x; "
            f"producer {100 * result['producer_s'] / span:.0f} %, "
            f"companion {100 * result['checker_s'] / span:.0f} %; producer's worst frame "
            f"{result['produced']['worst_late_ms']:.1f} ms late"
        )
        for bad in result["bad"][:3]:
            print(f"    BAD {bad}")
    sys.stdout.flush()
    return is_good


def ceiling(folder: Path, seconds: float) -> None:
    """Look for the highest rate of one stream with nothing lost, in steps."""
    best = 0.0
    for rate in (150, 175, 200, 225, 250, 275, 300, 325, 350, 400):
        if not run(f"mbi@{rate}", [(1096, 2236, rate)], folder, seconds,
                   companion=False, render="dma"):  # fmt: skip
            print(f"  first loss at {rate} Hz; the best without was {best:g} Hz = "
                  f"{best * 1096 * 2236 * 2 / 1e6:.0f} MB/s")  # fmt: skip
            return
        best = rate
    print(f"  no loss up to {best:g} Hz")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--memory", default="/dev/shm", help="folder on a RAM disk")
    parser.add_argument("--disk", help="folder on a disk; without it only the RAM disk")
    parser.add_argument("--case", action="append", choices=sorted(CASES))
    parser.add_argument("--companion", action="store_true")
    parser.add_argument("--render", choices=["copy", "dma"], default="copy")
    parser.add_argument("--ceiling", action="store_true", help="the highest rate without a loss")
    parser.add_argument("--only-disk", action="store_true")
    parser.add_argument("--stall", type=float, default=0.0, metavar="S",
                        help="stop the loggers for S seconds in the middle")  # fmt: skip
    options = parser.parse_args()
    folders = [] if options.only_disk else [Path(options.memory)]
    folders += [Path(options.disk)] if options.disk else []
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="streams-") as shared:
        os.environ["MILK_SHM_DIR"] = shared
        is_good = True
        with contextlib.suppress(KeyboardInterrupt):
            for folder in folders:
                if options.ceiling:
                    ceiling(folder, options.seconds)
                    continue
                for case in options.case or CASES:
                    is_good &= run(case, CASES[case], folder, options.seconds,
                                   companion=options.companion, render=options.render,
                                   stall_s=options.stall)  # fmt: skip
    print("as it should be" if is_good else "FRAMES WERE LOST, OR NOT COUNTED")


if __name__ == "__main__":
    main()
