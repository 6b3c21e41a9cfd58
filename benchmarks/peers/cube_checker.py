# SPDX-License-Identifier: BSD-3-Clause
"""The companion of a long logging run: looks at each finished cube, then deletes it.

Reads paths from standard input, one a line, and prints one JSON object for each: header against
table, counters without a gap, the numbers embedded in every row of every frame.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path

import numpy as np

from nightjar.fits.frame_table import read_table
from nightjar.fits.header import read_header
from nightjar.fits.timing_text import text_path
from nightjard.camd.fast.pattern import check_cube


def check(path: Path, *, pixels: bool) -> dict[str, object]:
    header = read_header(path)
    rows = read_table(path)
    counters = rows["CNT0"].astype(np.int64)
    result: dict[str, object] = {
        "path": str(path), "frames": len(rows), "first": int(counters[0]),
        "last": int(counters[-1]), "gaps": int((np.diff(counters) - 1).sum()),
        "nsaved": header["NSAVED"], "nmissed": header["NMISSED"], "ntorn": header["NTORN"],
        "ndup": header["NDUP"],
    }  # fmt: skip
    if pixels:
        shape = tuple(header[f"NAXIS{axis}"] for axis in (3, 2, 1))
        stored = np.memmap(path, ">i2", "r", header.data_offset, shape)
        # Only the pixels that hold truth are read: the first 16 columns.
        part = (stored[:, :, :16].astype(np.int32) + 32768).astype(np.uint16)
        report = check_cube(part)
        result["is_perfect"] = report.is_perfect
        result["report"] = report.text()
        result["first_id"], result["last_id"] = report.first_id, report.last_id
    return result


def main() -> None:
    pixels = "--table-only" not in sys.argv
    for line in sys.stdin:
        path = Path(line.strip())
        print(json.dumps(check(path, pixels=pixels)), flush=True)
        path.unlink()
        text_path(path).unlink(missing_ok=True)
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"cpu_s": used.ru_utime + used.ru_stime, "pid": os.getpid()}), flush=True)


if __name__ == "__main__":
    main()
