# SPDX-License-Identifier: BSD-3-Clause
"""Planning a night: processor time of scan, synchronisation, labels, chunks, by frames.

    python benchmarks/archive_plan.py [--frames 10000 100000 1000000 ...] [--cube 2000] [--files]

Two cameras of 536x536 with the modulator, losses 1e-3 each. Without --files the times are handed
over in memory ("timing only"); with --files the text files of milk's logger are written and read.
Wanted: below 5 s of one core for a million frames, and no more than in proportion.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from nightjar.fits.frame_table import empty_rows
from nightjar.fits.header import Header
from nightjar.fits.timing_text import read_timing_text, timing_text
from nightjard.archived.nights.building import make_plan
from nightjard.archived.nights.config import NightsConfig
from nightjard.archived.nights.records import CubeRef, Timing
from nightjard.archived.nights.scan import RawFile
from nightjard.simulators.night.triggers import CameraTiming, TriggerSegment, simulate_segment

START_NS = 1_781_150_400_000_000_000
CONFIG = NightsConfig.model_validate(
    {
        "families": {"archival": {"root": "/nights"}},
        "streams": {"vcam1": {}, "vcam2": {}},
        "groups": {"vsync": {"streams": ["vcam1", "vcam2"]}},
    }
)


def raw_files(frames: int, cube: int, folder: Path | None) -> list[RawFile]:
    """Return the cubes of two cameras with `frames` frames in all."""
    losses = {"mean_latency_us": 30.0, "loss_before": 5e-4, "loss_after": 5e-4}
    segment = TriggerSegment(
        START_NS, 0.001, 536,
        (CameraTiming(**losses), CameraTiming(offset_us=800.0, **losses)),
        triggers=frames // 2, has_flc=True,
    )  # fmt: skip
    truth = simulate_segment(segment, np.random.default_rng(1), (1, 1))
    found = []
    for number, camera in enumerate(truth.cameras, start=1):
        header = Header()
        for key, value in (
            ("EXPTIME", 0.001), ("EXTTRIG", True), ("U_FLCEN", True), ("U_FLCST", "IN"),
            ("U_TRIGJT", 500), ("PRD-RNG2", 536), ("OBJECT", "star"), ("U_DETMOD", "fast"),
        ):  # fmt: skip
            header.add(key, value)
        for start in range(0, len(camera.acquired_ns), cube):
            part = slice(start, start + cube)
            timing = Timing(
                camera.acquired_ns[part], camera.logged_ns[part],
                camera.counter[part], camera.slot[part],
            )  # fmt: skip
            count = len(timing.acquired_ns)
            name = f"vcam{number}/vcam{number}_{start:09d}.fits"
            if folder is not None:
                rows = empty_rows(count)
                rows["ATIME"], rows["LTIME"] = timing.acquired_ns, timing.logged_ns
                rows["CNT0"], rows["CNT1"] = timing.counter, timing.slot
                path = folder / name.replace("/", "-")
                path.write_bytes(timing_text(rows, program="bench"))
            ref = CubeRef(0, name, f"vcam{number}", 0, 0, "", 2880, (536, 536), 16, 32768,
                          count, count)  # fmt: skip
            found.append(RawFile(ref, header, timing))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--cube", type=int, default=2000)
    parser.add_argument("--files", action="store_true", help="write and read the text files, too")
    options = parser.parse_args()
    print("frames     files  read texts  plan    us/frame  paired    dubious  products")
    for frames in options.frames:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            files = raw_files(frames, options.cube, Path(folder) if options.files else None)
            began = time.process_time()
            for path in sorted(Path(folder).iterdir()):
                read_timing_text(path)
            read_s = time.process_time() - began
        began = time.process_time()
        plan = make_plan("20260611", files, CONFIG)
        plan_s = time.process_time() - began
        count = len(plan.rows)
        paired = sum(product.frames for product in plan.products if product.kind.value == "sync")
        print(
            f"{count:9d} {len(files):6d} {read_s:9.2f} s {plan_s:6.2f} s "
            f"{1e6 * (read_s + plan_s) / count:7.2f} {100 * paired / count:8.3f} % "
            f"{plan.dubious:7d} {len(plan.products):8d}",
            flush=True,
        )


if __name__ == "__main__":
    main()
