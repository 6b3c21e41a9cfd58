# SPDX-License-Identifier: BSD-3-Clause
"""Check metrics of a frame against only reading it as floats; medians and ratio of one run.

    python benchmarks/calib_frames.py [--detector ccd273] [--repeats 9] [--path FILE]

Plain reading is ``fits.getdata(path).astype(float32)`` with the file in the cache. The check counts
every pixel of every sector: medians, means, deviations, lost and saturated pixels, bits. Wanted: at
most 2 times.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from astropy.io import fits

from nightjar.calibration.detector import Detector, load_detector
from nightjard.calib.frames import open_frame
from nightjard.calib.metrics import measure_frame
from nightjard.calib.prepare import Recipe, prepared

WANTED_RATIO = 2.0


def write_frame(path: Path, detector: Detector, *, is_flat: bool) -> None:
    """Write a bias (or a flat of half well) of white noise."""
    rng = np.random.default_rng(1)
    pixels = rng.normal(2700, 1.2, detector.frame_shape).astype(np.float32)
    if is_flat:
        for quadrant in detector.names:
            view = detector.sector(detector.canonical(pixels, quadrant), "image")
            level = 30000 * (1 + 0.03 * np.linspace(-1, 1, view.shape[1])[None, :] ** 2)
            view += (level + np.sqrt(level / 3.5) * rng.standard_normal(view.shape)).astype("f4")
    unit = fits.ImageHDU(np.rint(pixels).clip(0, 65535).astype(np.uint16), name="ROE1_CCD1")
    unit.header["OBSID"] = 1000
    fits.HDUList([fits.PrimaryHDU(), unit]).writeto(path)


def milliseconds(work: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Return the median time of each; taken in turn, so that noise hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for call in work.values():
        call()
    for _ in range(repeats):
        for name, call in work.items():
            start = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--detector", default="ccd273")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--path", type=Path, help="a frame of your own instead of white noise")
    options = parser.parse_args()
    detector = load_detector(options.detector)
    name = options.detector
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        paths = {"own": options.path} if options.path else {}
        for kind in () if options.path else ("bias", "flat"):
            paths[kind] = Path(folder) / f"EUC_1000_010180D000000T_ROE1_CCD1_{kind}.fits"
            write_frame(paths[kind], detector, is_flat=kind == "flat")
        for kind, path in paths.items():
            text = str(path)

            def prepare(path: Path = path) -> None:
                frame = open_frame(path, detector)
                for quadrant in detector.names:
                    prepared(frame, quadrant, Recipe())

            times = milliseconds(
                {
                    "fits.getdata to float32": lambda p=text: fits.getdata(p).astype(np.float32),
                    "check metrics": lambda p=text: measure_frame(p, name, 1000, 1),
                    "check metrics and BLAKE3": lambda p=text: measure_frame(
                        p, name, 1000, 1, is_hashed=True
                    ),
                    "prepared, 4 quadrants": prepare,
                },
                options.repeats,
            )
            print(f"{kind}, {path.stat().st_size / 1e6:.1f} MB, median of {options.repeats}")
            plain = times["fits.getdata to float32"]
            for what, value in times.items():
                print(f"  {what:>26} {value:8.1f} ms   {value / plain:5.2f}")
            worst = max(worst, times["check metrics"] / plain)
    verdict = "met" if worst <= WANTED_RATIO else "MISSED"
    print(f"check metrics / plain reading: {worst:.2f} (wanted <= {WANTED_RATIO:g}: {verdict})")


if __name__ == "__main__":
    main()
