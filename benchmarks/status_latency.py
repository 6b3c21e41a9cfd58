# SPDX-License-Identifier: BSD-3-Clause
"""How fast ``cam test status`` answers: the whole process, and the call alone under load.

Beside it, in the same run and by turns, what no client in Python can do without:
``python -c "import click, Pyro5.api"`` plus one call. Medians, and the ratio that must stay below
1.4. The call alone is timed while a camera idles, takes frames, and while its driver hangs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from kit.site import Site, eventually, free_ports

BARE = """
import click, Pyro5.api
proxy = Pyro5.api.Proxy("PYRO:camera@127.0.0.1:{port}")
proxy._pyroTimeout = 5
proxy.call("status", {{}})
"""


def timed(command: list[str], environment: dict[str, str]) -> float:
    before = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return time.perf_counter() - before


def calls(camera: Any, count: int = 200) -> tuple[float, float]:
    taken = []
    for _ in range(count):
        before = time.perf_counter()
        camera.status()
        taken.append(time.perf_counter() - before)
    return 1e3 * statistics.median(taken), 1e3 * sorted(taken)[int(0.99 * count)]


def whole_process(site: Site, repeats: int) -> None:
    environment = {**os.environ, "NIGHTJAR_CONFIG_ROOT": str(site.etc)}
    port = site.registry.daemon("camera").port
    cam = [str(Path(sys.executable).with_name("cam")), "test", "status"]
    bare = [sys.executable, "-c", BARE.format(port=port)]
    ours, floor = [], []
    for _ in range(repeats):
        ours.append(timed(cam, environment))
        floor.append(timed(bare, environment))
    mine, least = statistics.median(ours), statistics.median(floor)
    print(
        f"cam test status, whole process: median {1e3 * mine:.0f} ms (limit 250); "
        f"import click, Pyro5.api + one call: {1e3 * least:.0f} ms; ratio {mine / least:.2f} "
        f"(limit 1.4)"
    )


def show(camera: Any, when: str) -> None:
    median_ms, p99_ms = calls(camera)
    print(f"status call {when}: median {median_ms:.2f} ms, p99 {p99_ms:.2f} ms (limit 20)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=21)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nightjar-bench-") as folder:
        os.environ["NIGHTJAR_STATE_ROOT"] = str(Path(folder) / "state")
        shared = tempfile.TemporaryDirectory(prefix="nightjar-bench-", dir="/dev/shm")
        os.environ["MILK_SHM_DIR"] = shared.name
        site = Site(Path(folder), free_ports(4))
        faults = Path(folder) / "faults.json"
        try:
            size = {"width": 4800, "height": 3200, "fault_path": str(faults)}
            camera = site.camera(size, framebuffer_bytes=6 * 2 * 4800 * 3200)
            whole_process(site, options.repeats)
            show(camera, "while idle")
            camera.call("start", count=0)
            eventually(lambda: camera.status()["sequence_frame_count"] > 1)
            show(camera, "while 15 Mpx frames are taken and saved")
            faults.write_text(json.dumps({"faults": [{"kind": "wedge", "at_call": "poll"}]}))
            show(camera, "while the driver hangs")
        finally:
            for path in site.spool.glob("*.fits"):
                path.unlink()
            site.close()
            shared.cleanup()


if __name__ == "__main__":
    main()
