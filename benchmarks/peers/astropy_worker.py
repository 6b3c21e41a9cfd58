# SPDX-License-Identifier: BSD-3-Clause
"""The contender of camera_throughput.py: a saving process that writes with astropy.

Speaks the protocol of nightjard.camd.worker: PrimaryHDU.writeto(checksum=True) under a temporary
name, then rename, as the daemon that we replace does (which wrote no checksums).
"""

from __future__ import annotations

import json
import mmap
import os
import sys

import numpy as np
from astropy.io import fits


def main() -> None:
    print(json.dumps({"event": "ready"}), flush=True)
    mapped: dict[str, mmap.mmap] = {}
    for line in sys.stdin:
        job = json.loads(line)
        if job["stream"] not in mapped:
            with open(job["stream"], "rb") as stream:
                mapped[job["stream"]] = mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ)
        rows, columns = job["shape"]
        pixels = np.frombuffer(mapped[job["stream"]], np.uint16, rows * columns, job["offset"])
        hdu = fits.PrimaryHDU(pixels.reshape(rows, columns))
        for keyword, value in job["header"].items():
            if keyword.startswith("MJD-"):
                value = float(value)
            if value is not None:
                hdu.header[keyword] = (value, "comment")
        temporary = job["path"] + ".tmp"
        hdu.writeto(temporary, checksum=True, overwrite=True)
        if "--fsync" in sys.argv:
            descriptor = os.open(temporary, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
        os.rename(temporary, job["path"])
        answer = {
            "event": "saved", "number": job["number"], "size": os.path.getsize(job["path"]),
            "datasum": hdu.header["DATASUM"], "seconds": 0.0,
        }  # fmt: skip
        print(json.dumps(answer), flush=True)


main()
