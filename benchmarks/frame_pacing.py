# SPDX-License-Identifier: BSD-3-Clause
"""Publish only: does the grabber of a fast camera keep each rate of the sensor's table?

    python benchmarks/frame_pacing.py [--seconds 10] [--camera 1] [--render copy|dma] [--crop NAME]

The real grabber process, free running at the highest rate of each crop, its stream in a folder of
its own. Memory is made present first: one turn of the ring is not counted. Printed: rate asked and
measured by the frames' stamps, data rate, frames published, lost in the camera (fetched too late),
late, processor time for a frame, share of a processor. At the end of each the whole ring is read
and every frame's truth and rows are looked at.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from nightjar.child import Child
from nightjar.streams.reader import StreamReader
from nightjard.camd.fast.pattern import check_cube
from nightjard.camd.fast.sensor import crops_of

GRABBER = "nightjard.camd.fast.grabber"
HEADINGS = ("crop", "pixels", "asked Hz", "measured", "MB/s", "frames", "lost", "late",
            "us/frame", "cpu", "ring: whole, torn, missing")  # fmt: skip
FORM = "{:<17} {:>11} {:>9} {:>9} {:>7} {:>7} {:>5} {:>5} {:>9} {:>5}  {}"


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Grabbed:
    """A grabber process and what it told last."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.news: dict[str, Any] = {}
        source = {
            "name": "vcam", "camera": options.camera, "render": options.render,
            "memory_frames": options.memory,
        }  # fmt: skip
        text = json.dumps({"source": source, "priority": options.priority})
        self.child = Child("grabber", GRABBER, [text], on_message=self._take)
        self.child.start()
        self.child.ask("open", timeout_s=15)

    def _take(self, message: dict[str, Any]) -> None:
        self.news = message.get("news", self.news)

    def configure(self, crop: str, mode: str, camera: int, bytes_: int) -> dict[str, Any]:
        region = crops_of(camera)[crop]
        reply: dict[str, Any] = self.child.ask(
            "configure",
            {
                "settings": {
                    "region": [region.x1, region.x2, region.y1, region.y2], "crop": crop,
                    "readout_mode": mode, "exposure_s": 1e-5, "rate_hz": None,
                    "external_trigger": False,
                },
                "plan": {
                    "name": "pacing", "ring_seconds": 2.0, "ring_bytes": bytes_,
                    "least_frames": 16, "mode": 0o600, "group": None, "keyword_slots": 100,
                },
                "keywords": {},
            },
            60,
        )  # fmt: skip
        return reply


def measure(grabbed: Grabbed, crop: str, mode: str, options: argparse.Namespace) -> None:
    geometry = grabbed.configure(crop, mode, options.camera, round(options.ring * 1e6))
    pid = grabbed.child.pid
    assert pid is not None
    grabbed.child.ask("start", {})
    turn_s = geometry["depth"] / geometry["rate_hz"]
    time.sleep(min(15.0, max(1.0, 1.2 * turn_s)))
    before, used, began = dict(grabbed.news), cpu_seconds(pid), time.monotonic()
    time.sleep(options.seconds)
    after, used, span = dict(grabbed.news), cpu_seconds(pid) - used, time.monotonic() - began
    grabbed.child.ask("stop", {})
    frames = after["published"] - before["published"]
    stamps_s = (after["atime_ns"] - before["atime_ns"]) / 1e9
    rate = frames / stamps_s if stamps_s else 0.0
    rows, columns = geometry["shape"]
    print(FORM.format(
        f"{crop} {mode}", f"{columns}x{rows}", f"{geometry['rate_hz']:.2f}", f"{rate:.2f}",
        f"{rate * geometry['frame_bytes'] / 1e6:.0f}", frames, after["lost"] - before["lost"],
        after["late"] - before["late"], f"{used / max(1, frames) * 1e6:.0f}",
        f"{100 * used / span:.0f}%", ring_report(),
    ), flush=True)  # fmt: skip


def ring_report() -> str:
    """Look at every frame that is in the ring."""
    whole = torn = missing = total = 0
    last: int | None = None
    with StreamReader("pacing", start="oldest", use_semaphore=False) as reader:
        while (frame := reader.next_frame(copy=False)) is not None:
            report = check_cube(np.asarray(frame.data)[None])
            total += 1
            whole += report.whole
            torn += len(report.torn)
            if last is not None and report.first_id is not None:
                missing += report.first_id - last - 1
            last = report.first_id if report.first_id is not None else last
    return f"{whole} of {total}, {torn}, {missing}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--camera", type=int, choices=(1, 2), default=1)
    parser.add_argument("--render", choices=("copy", "dma"), default="copy")
    parser.add_argument("--memory", type=int, default=16, help="frames that the camera keeps")
    parser.add_argument("--ring", type=float, default=1900, help="MB of the ring at most")
    parser.add_argument("--priority", type=int, help="real-time priority, where permitted")
    parser.add_argument("--crop", action="append", help="only this crop; may be repeated")
    options = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="nightjar-pacing-", dir="/dev/shm")
    os.environ["MILK_SHM_DIR"] = folder
    print(FORM.format(*HEADINGS))
    grabbed = Grabbed(options)
    try:
        for crop in options.crop or crops_of(options.camera):
            measure(grabbed, crop, "FAST", options)
        if not options.crop:
            for crop in ("STANDARD", "MBI"):
                measure(grabbed, crop, "SLOW", options)
        grabbed.child.ask("close", timeout_s=10)
    finally:
        grabbed.child.stop(5.0)
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
