# SPDX-License-Identifier: BSD-3-Clause
"""How long `archive table` and `archive status` take, whole process, with 10 000 files.

    python benchmarks/archive_tables.py [--files 10000] [--until consolidate] [--repeats 7]

A night of single-frame cubes goes through a real archive daemon up to a step, so that as many raw
files and as many products are there; then the commands are timed from outside. Wanted: 0.3 s. The
time of a bare `archive --version` stands beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from nightjard.simulators.night.headers import Setup
from nightjard.simulators.night.parameters import NightParameters, Segment
from nightjard.simulators.night.program import make_night
from nightjard.simulators.night.triggers import CameraTiming


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        return int(holder.getsockname()[1])


def make_site(folder: Path) -> dict[str, str]:
    for name in ("etc/nightjar", "etc/archived", "incoming", "frames", "state"):
        (folder / name).mkdir(parents=True)
    registry = {
        "machines": {"LocalHost": ["127.0.0.1"]},
        "daemons": {"arch": {"machine": "LocalHost", "port": free_port()}},
    }
    config: dict[str, Any] = {
        "daemon": "arch", "log_name": "archived", "control_machines": ["LocalHost"],
        "cameras": ["TEST"], "incoming_data_path": str(folder / "incoming"),
        "root": str(folder / "frames"),
        "nights": {
            "families": {"archival": {"root": str(folder / "nights"), "ids": True}},
            "streams": {"vcam1": {}, "vcam2": {}},
            "groups": {"vsync": {"streams": ["vcam1", "vcam2"]}}, "settle_seconds": 0,
        },
    }  # fmt: skip
    (folder / "etc/nightjar/registry.json").write_text(json.dumps(registry))
    (folder / "etc/archived/arch.json").write_text(json.dumps(config))
    return {
        **os.environ, "NIGHTJAR_CONFIG_ROOT": str(folder / "etc"),
        "NIGHTJAR_STATE_ROOT": str(folder / "state"),
    }  # fmt: skip


def archive(environment: dict[str, str], *words: str) -> tuple[float, str]:
    began = time.monotonic()
    ended = subprocess.run(
        [str(Path(sys.executable).with_name("archive")), *words], env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    spent_s = time.monotonic() - began
    if ended.returncode:
        raise SystemExit(f"archive {' '.join(words)}: {ended.stderr}")
    return spent_s, ended.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--until", default="consolidate")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    setup = Setup(exposure_s=0.1, is_triggered=False, flc=False)
    segment = Segment(
        setup, options.files // 2, (CameraTiming(), CameraTiming()), cube_frames=((1,), (1,))
    )
    with tempfile.TemporaryDirectory(prefix="nightjar-bench-", dir="/dev/shm") as name:
        folder = Path(name)
        environment = make_site(folder)
        truth = make_night(
            folder / "nights", NightParameters((segment,), frame_shape=(8, 8), telemetry_s=0)
        )
        night = truth.folder.name
        daemon = subprocess.Popen(
            [str(Path(sys.executable).with_name("archived")),
             str(folder / "etc/archived/arch.json")],
            env=environment, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            end = time.monotonic() + 20
            while time.monotonic() < end:
                try:
                    archive(environment, "table")
                    break
                except SystemExit:
                    time.sleep(0.1)
            spent_s, _ = archive(environment, "run", night, "--until", options.until)
            print(f"{len(truth.cubes)} raw files up to {options.until}: {spent_s:.1f} s")
            for words in (["--version"], ["table"], ["table", "--json"], ["status"],
                          ["status", night]):
                times = [archive(environment, *words)[0] for _ in range(options.repeats)]
                print(
                    f"archive {' '.join(words):20} first {1e3 * times[0]:6.0f} ms, median "
                    f"{1e3 * statistics.median(times):6.0f} ms"
                )
        finally:
            daemon.terminate()
            daemon.wait(60)


if __name__ == "__main__":
    main()
