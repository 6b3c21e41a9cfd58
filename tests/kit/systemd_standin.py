# SPDX-License-Identifier: BSD-3-Clause
"""A daemon that does nothing but what systemd sees of one: ready, watchdog, slow orderly stop.

    systemd_standin.py CONFIG

CONFIG is JSON: ``name``, ``gate`` (file that must appear before it is ready, or null), ``stop_s``.
Events go to ``/dev/shm/events`` as one line each. Exits with 2 when CONFIG is missing, as the
real daemons do.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from nightjar import systemd

EVENTS = Path("/dev/shm/events")


def record(name: str, what: str) -> None:
    descriptor = os.open(EVENTS, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(descriptor, f"{name} {what}\n".encode())
    finally:
        os.close(descriptor)


def main() -> int:
    path = Path(sys.argv[1])
    if not path.is_file():
        return 2
    config = json.loads(path.read_text())
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    record(config["name"], "started")
    while config["gate"] and not Path(config["gate"]).exists():
        time.sleep(0.02)
    record(config["name"], "ready")
    systemd.notify("READY=1", "STATUS=READY IDLE")
    interval_s = systemd.watchdog_interval_s() or 1.0
    while not stop.wait(interval_s / 8):
        systemd.notify("WATCHDOG=1")
    systemd.notify("STOPPING=1")
    end = time.monotonic() + config["stop_s"]
    while time.monotonic() < end:
        systemd.notify("WATCHDOG=1", "EXTEND_TIMEOUT_USEC=4000000", "STATUS=stopping: warming")
        time.sleep(0.1)
    record(config["name"], "stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
