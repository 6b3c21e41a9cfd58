# SPDX-License-Identifier: BSD-3-Clause
"""Binning of a full frame against the plain numpy formula; medians and ratios of one run.

    python benchmarks/binning.py [--rows 6422] [--columns 9600] [--repeats 7]

The plain formula is ``image.reshape(h//b, b, w//b, b).sum(axis=(1, 3), dtype="u4")``; for 2 x 2
also four strided slices added. Wanted for 2 x 2 sums: at least 5 times as fast, aim 8.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from nightjar.fits.binning import bin_image

WANTED_RATIO = 5.0


def medians(work: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Return the median time of each, seconds; taken in turn, so that noise hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repeats):
        for name, call in work.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: median(values) for name, values in times.items()}


def plain(image: np.ndarray[Any, Any], b: int) -> np.ndarray[Any, Any]:
    height, width = (n // b for n in image.shape)
    total: np.ndarray[Any, Any] = image.reshape(height, b, width, b).sum(axis=(1, 3), dtype="u4")
    return total


def slices(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    total = image[0::2, 0::2].astype(np.uint32)
    for row, column in ((0, 1), (1, 0), (1, 1)):
        total += image[row::2, column::2]
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=6422)
    parser.add_argument("--columns", type=int, default=9600)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    rng = np.random.default_rng(1)
    frame = rng.integers(0, 65536, (options.rows, options.columns), np.uint16)
    print(f"{options.columns} x {options.rows} uint16, median of {options.repeats}")
    print(f"{'binning':>22} {'here ms':>9} {'plain ms':>9} {'ratio':>7}")
    main_ratio = 0.0
    for b in (2, 3, 4, 8, 16):
        image = frame[: options.rows // b * b, : options.columns // b * b]
        assert np.array_equal(bin_image(image, b), plain(image, b))
        work: dict[str, Callable[[], Any]] = {
            "sum": lambda i=image, b=b: bin_image(i, b),
            "mean": lambda i=image, b=b: bin_image(i, b, "mean"),
            "plain": lambda i=image, b=b: plain(i, b),
        }
        if b == 2:
            window = frame[1 : options.rows // 2 * 2 - 1, 1 : options.columns // 2 * 2 - 1]
            work["sum, odd window"] = lambda w=window: bin_image(w, 2)
            work["sum, four slices"] = lambda i=image: slices(i)
        figures = medians(work, options.repeats)
        reference = figures.pop("plain")
        for name, value in figures.items():
            print(
                f"{f'{b} x {b} {name}':>22} {value * 1e3:9.1f} {reference * 1e3:9.1f}"
                f" {reference / value:7.1f}"
            )
        if b == 2:
            main_ratio = reference / figures["sum"]
    verdict = "met" if main_ratio >= WANTED_RATIO else "MISSED"
    print(f"2 x 2 sum: {main_ratio:.1f} times as fast, wanted {WANTED_RATIO:g}: {verdict}")


if __name__ == "__main__":
    main()
