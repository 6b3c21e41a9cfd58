# SPDX-License-Identifier: BSD-3-Clause
"""A saving process: turns slots of the frame buffer into FITS files, one job at a time.

It reads one JSON job per line from stdin and answers one JSON line per job on stdout. When the
daemon dies, stdin ends: the job in hand is finished, then the process leaves. For as long as it
lives it holds a shared lock on the file named as its argument, so that the next daemon knows when
the processes of the last one have finished.
"""

from __future__ import annotations

import fcntl
import json
import logging
import mmap
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar import logs
from nightjar.errors import NightjarError
from nightjar.fits.header import read_header
from nightjar.fits.writer import write_image
from nightjard.camd.header import build_header

log = logging.getLogger(__name__)


class _Mapping:
    """The stream file mapped last; mapping 600 MB anew for each frame would cost more than it."""

    def __init__(self) -> None:
        self._key: tuple[str, int] | None = None
        self._bytes: mmap.mmap | None = None

    def pixels(self, job: dict[str, Any]) -> NDArray[np.uint16]:
        """Return the pixels of a job's slot."""
        descriptor = os.open(job["stream"], os.O_RDONLY | os.O_CLOEXEC)
        try:
            stat = os.fstat(descriptor)
            key = (job["stream"], stat.st_ino)
            if key != self._key or self._bytes is None:
                self._bytes = mmap.mmap(descriptor, stat.st_size, prot=mmap.PROT_READ)
                self._key = key
        finally:
            os.close(descriptor)
        rows, columns = job["shape"]
        frame = np.frombuffer(self._bytes, np.uint16, rows * columns, job["offset"])
        top, bottom, left, right = job["crop"]
        return frame.reshape(rows, columns)[top:bottom, left:right]


def save(job: dict[str, Any], mapping: _Mapping) -> dict[str, Any]:
    """Save one frame; returns the answer to the daemon.

    A file that is already there is this very frame if it has its run and number: the daemon was
    killed after the file was renamed into place. Anything else there is an error.
    """
    path = Path(job["path"])
    started = time.monotonic()
    try:
        written = write_image(
            path, mapping.pixels(job),
            build_header(job["header"], job["extra"], time.time_ns()),
            capacity=job["capacity"], binning=job["binning"], method=job["method"], recycle=True,
        )  # fmt: skip
    except FileExistsError:
        header = read_header(path)
        if (header.get("RUN-ID"), header.get("EXPCNT")) != (
            job["header"]["RUN-ID"], job["header"]["EXPCNT"],
        ):  # fmt: skip
            raise
        return {"event": "saved", "size": path.stat().st_size, "datasum": header.get("DATASUM"),
                "was_there": True, "seconds": time.monotonic() - started}  # fmt: skip
    return {
        "event": "saved", "size": written.size, "datasum": str(written.datasum),
        "was_there": False, "seconds": time.monotonic() - started,
        "bytes_read": written.bytes_read, "bytes_written": written.bytes_written,
    }  # fmt: skip


def main() -> int:
    """Answer jobs until stdin ends."""
    # Ctrl-C in the terminal reaches the whole group; the daemon decides when workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    logs.set_up("INFO")
    if len(sys.argv) > 1:
        # Never closed: the kernel lets go of it when this process ends, however it ends.
        fcntl.flock(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660),
                    fcntl.LOCK_SH)  # fmt: skip
    mapping = _Mapping()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    print(json.dumps({"event": "ready"}), file=answers)
    for line in sys.stdin:
        job = json.loads(line)
        try:
            answer = save(job, mapping)
        except NightjarError as error:
            answer = {"event": "failed", "code": error.code.name, "message": error.message}
        except FileExistsError:
            answer = {
                "event": "failed", "code": "STORAGE_FAILED",
                "message": f"{job['path']} exists and is another frame; move it away",
            }  # fmt: skip
        except Exception as error:
            log.exception("frame %s", job.get("number"))
            answer = {"event": "failed", "code": "INTERNAL", "message": f"{error}"}
        answer["number"] = job["number"]
        try:
            print(json.dumps(answer), file=answers)
        except BrokenPipeError:
            return 0  # the daemon is gone; the file is in place, the next daemon finds it
    return 0


if __name__ == "__main__":
    sys.exit(main())
