# SPDX-License-Identifier: BSD-3-Clause
"""Frames of the simulated detectors: seconds of one core each, beside what is wanted.

    python benchmarks/bench_simulator.py [--detector ccd273 ccd273-8th] [--repeats 3]

All standard effects; flats also without brighter-fatter, for which the limits hold.
"""

from __future__ import annotations

import argparse
import resource
import time
from statistics import median

from nightjar.calibration.chamber import load_profile
from nightjar.calibration.detector import load_detector
from nightjard.simulators.detector.bench import Bench
from nightjard.simulators.detector.truth import Truth

WANTED_S = {"ccd273": 6.0, "ccd273-8th": 0.15}
CASES = {
    "bias": {"exptime": 0, "shuttr": 0},
    "dark": {"exptime": 565, "shuttr": 0},
    "stars": {"exptime": 1.1, "source": "point", "wave": 4},
    "flat": {"exptime": 1.75, "source": "flat", "wave": 4},
}
START_NS = 1_700_000_000_000_000_000


def seconds(bench: Bench, case: str, repeats: int) -> float:
    """Return the median processor time of a frame of all CCDs."""
    times = []
    for obsid in range(repeats):
        start = time.process_time()
        bench.expose(obsid, CASES[case], START_NS)
        times.append(time.process_time() - start)
    return median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--detector", nargs="+", default=["ccd273-8th", "ccd273"])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    profile = load_profile("B_NOSTROMO")
    print(f"{'detector':>12} {'case':>28} {'s':>7} {'wanted':>7}")
    for name in options.detector:
        detector = load_detector(name)
        for has_repulsion in (False, True):
            truth = Truth.default(detector, effects={"brighter_fatter": has_repulsion})
            bench = Bench(detector, truth, profile)
            for case in CASES if not has_repulsion else ("stars", "flat"):
                bench.expose(0, CASES[case], START_NS)  # compiles
                spent = seconds(bench, case, options.repeats)
                label = f"{case}, brighter-fatter" if has_repulsion else case
                limit = "" if has_repulsion else f"{WANTED_S.get(name, 0):7.2f}"
                print(f"{name:>12} {label:>28} {spent:7.3f} {limit}")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
