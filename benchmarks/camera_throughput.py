# SPDX-License-Identifier: BSD-3-Clause
"""61 Mpx frames from a simulated camera at full speed to finished FITS files with checksums.

The same producer (simulated detector in its own process), the same frame buffer of 5 slots and the
same number of saving processes run with our workers and with workers that write with astropy
(``PrimaryHDU.writeto(checksum=True)``), by turns. Printed: frames/s, their ratio, bytes per frame.
A consumer takes every finished file away, as the pipeline does: unlinks it, or (recycle) gives it
back to the spool, as archived does once it has copied a frame from a RAM disk to disk.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from nightjar.clock import ClockHealth, SystemClock
from nightjar.errors import NightjarError
from nightjar.files import is_ram_disk
from nightjar.fits import spool
from nightjard.camd.config import CameraConfig
from nightjard.camd.cooler import NO_READING
from nightjard.camd.drivers import make_detector
from nightjard.camd.drivers.base import Phase
from nightjard.camd.drivers.embedded import read_embedded
from nightjard.camd.frames import FrameContext, crop_for, header_values, saving_job
from nightjard.camd.ring import FrameRing
from nightjard.camd.saver import WORKER_COMMAND, Job, Saved, Saver
from nightjard.camd.settings import Observation

PEERS = Path(__file__).with_name("peers")
ASTROPY_COMMAND = (sys.executable, str(PEERS / "astropy_worker.py"))
BUDGET = 616_512_000
KINDS = ("astropy", "ours", "ours, recycled")


class Run:
    """One contender: counts what is taken, saved and lost."""

    def __init__(self, folder: Path, command: tuple[str, ...], recycle: bool, workers: int) -> None:
        self.config = CameraConfig.model_validate({
            "daemon": "x", "pipeline_daemon": None, "pipeline_handover_timeout": 10,
            "log_name": "x", "control_machines": [], "camera_serial": 1, "cooler_setpoint": None,
            "cooler_update_delay": 1, "cooler_pwm_step": 3, "worker_processes": workers,
            "framebuffer_bytes": BUDGET, "gain": 26, "header_card_capacity": 144,
            "camera_id": "BENCH", "output_path": str(folder), "output_prefix": "bench",
            "expcount_path": str(folder / "counter.json"), "exposure": 0.0001, "stream": True,
            "driver": {"name": "simulated", "render": "fast", "row_period_ns": 0,
                       "readout_time": 0.0, "memory_frames": 8},
        })  # fmt: skip
        self.folder = folder
        self.recycle = recycle
        self.clock = SystemClock()
        self.saved: list[Saved] = []
        self.freed = threading.Event()
        self.saver = Saver(workers, self._on_saved, self._on_trouble, self.clock, command)
        self.ring: FrameRing | None = None
        self.produced: set[int] = set()
        self.read_back: set[int] = set()
        self.fetch_s = 0.0

    def _on_saved(self, saved: Saved) -> None:
        assert self.ring is not None
        self.ring.release(int(saved.job["slot"]))
        self.freed.set()
        path = Path(saved.job["path"])
        with path.open("rb") as file:
            self.read_back.add(_frame_id(file.read(2880 * 5 + 32)))
        if not (self.recycle and spool.recycle(path, 4 * BUDGET // 5)):
            path.unlink()
        self.saved.append(saved)

    def _on_trouble(self, job: Job, error: NightjarError) -> None:
        raise SystemExit(f"frame {job['number']}: {error}")

    def go(self, frames: int) -> float:
        """Return the frames/s of this run."""
        detector = make_detector(self.config.driver, 1, self.clock)
        capabilities = detector.open()
        observation = Observation.default(self.config).with_(stream=False, exposure_s=0.0001)
        readout = detector.configure(observation.for_driver())
        self.ring = FrameRing("BENCH", readout.shape, BUDGET, self.clock, self.freed.set)
        crop = crop_for(observation, capabilities, readout)
        self.saver.start()
        while self.saver.alive < len(self.saver.pids()) or not self.saver.alive:
            time.sleep(0.05)
        time.sleep(1.0)
        number, started = 0, 0.0
        warm_up = 5
        while number < frames + warm_up:
            if number == warm_up:
                while self.saver.pending:
                    time.sleep(0.001)
                started = time.monotonic()
            acquired = self.ring.acquire()
            if acquired is None:
                self.freed.wait(1.0)
                self.freed.clear()
                continue
            slot, buffer = acquired
            before = time.monotonic()
            detector.start()
            while detector.poll().phase is not Phase.READY:
                pass
            record = detector.fetch(buffer, lambda: False)
            self.fetch_s += time.monotonic() - before
            number += 1
            self.produced.add(read_embedded(buffer.array).frame_id)
            context = FrameContext(
                number, "2026-01-01", "run", number, 0, None, None, 0, 0, 0, 0, 0.0,
                ClockHealth(False, None, None), NO_READING, None,
            )  # fmt: skip
            values = header_values(
                self.config, capabilities, observation, readout, record, context
            )
            job = saving_job(
                self.config, crop, observation, readout, record, values,
                (buffer.path, buffer.offset, slot),
            )  # fmt: skip
            self.ring.publish(slot, job, record.start_ns)
            self.saver.submit(job)
        while self.saver.pending:
            time.sleep(0.001)
        rate = frames / (time.monotonic() - started)
        self.saver.stop(10)
        detector.close()
        self.ring.close(unlink=True)
        spool.clear(self.folder)
        return rate


def _frame_id(head: bytes) -> int:
    """Return the frame number embedded in the first pixels behind the header of 4 or 5 blocks."""
    import numpy as np

    end = head.index(b"END" + b" " * 77)
    start = -(-(end + 80) // 2880) * 2880
    words = np.frombuffer(head, ">i2", 16, start).astype(np.int32) + 32768
    return int(words[2]) << 16 | int(words[3])


def measure(folder: Path, kind: str, frames: int, workers: int) -> tuple[float, dict[str, Any]]:
    command = WORKER_COMMAND
    if kind == "astropy":
        command = ASTROPY_COMMAND if is_ram_disk(folder) else (*ASTROPY_COMMAND, "--fsync")
    run = Run(folder, command, kind == "ours, recycled", workers)
    rate = run.go(frames)
    lost = len(run.produced) - len(run.produced & run.read_back)
    facts = {
        "lost": lost,
        "producer_ms": 1e3 * run.fetch_s / (frames + 5),
        "read": statistics.fmean(s.bytes_read for s in run.saved),
        "written": statistics.fmean(s.bytes_written for s in run.saved),
    }
    return rate, facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--disk", help="also measure in this folder, with fsync on both sides")
    options = parser.parse_args()
    for where in filter(None, ("/dev/shm", options.disk)):
        folder = Path(tempfile.mkdtemp(prefix="nightjar-bench-", dir=where))
        kinds = KINDS if is_ram_disk(folder) else KINDS[:2]
        os.environ["MILK_SHM_DIR"] = str(folder if where == "/dev/shm" else "/dev/shm")
        rates: dict[str, list[float]] = {kind: [] for kind in kinds}
        try:
            for index in range(options.rounds):
                for kind in kinds:
                    frames = options.frames if index == 0 and kind != "astropy" else 60
                    rate, facts = measure(folder, kind, frames, options.workers)
                    rates[kind].append(rate)
                    print(
                        f"{where}: {kind:15} {rate:5.2f} frames/s over {frames} frames, "
                        f"{facts['lost']} lost; producer {facts['producer_ms']:.0f} ms/frame; "
                        f"per frame after the slot {facts['read'] / 1e6:.1f} MB read, "
                        f"{facts['written'] / 1e6:.1f} MB written",
                        flush=True,
                    )
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        base = statistics.median(rates["astropy"])
        for kind in kinds[1:]:
            print(f"{where}: {kind} / astropy = {statistics.median(rates[kind]) / base:.2f}")


if __name__ == "__main__":
    main()
