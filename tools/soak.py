# SPDX-License-Identifier: BSD-3-Clause
"""A rough night in minutes: real camera, archive and log daemons, killed again and again at random.

    python tools/soak.py [--minutes 10] [--seed N]

Saving processes, the detector's process and the daemons themselves are killed with -9, the archive
is stopped for seconds, exposures are aborted. In the end every frame that the camera said it had
read out must be in the archive exactly once, whole; no frame number and no exposure twice; the
spool empty. Exit code 1 where one of these does not hold.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from kit.site import Daemon, Site, command_line, descendants, eventually, free_ports
from nightjar.errors import NightjarError
from nightjar.fits.verify import verify_image

SIZE = {"width": 1600, "height": 1200}
FRAME_BYTES = 2 * 1600 * 1200
MISFORTUNES = (
    "saving process", "saving process", "detector process", "camera daemon", "archive daemon",
    "log daemon", "archive stopped", "abort",
)  # fmt: skip


class Night:
    """The site, and what happens to it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.site = Site(folder, free_ports(4))
        self.site.registry_value["log_daemon"] = "log"
        self.site.write_registry()
        self.archive = folder / "archive"
        self.archive.mkdir()
        self.seen: set[tuple[str, int]] = set()
        self.happened: dict[str, int] = {}
        self.log = self._start_log()
        self.pipeline = self._start_pipeline()
        self.camera = self._start_camera()

    def _start_camera(self) -> Daemon:
        return self.site.start("camd", "test", self.site.camera_config(
            SIZE, pipeline_daemon="pipeline", pipeline_handover_timeout=3.0,
            framebuffer_bytes=6 * FRAME_BYTES,
        ))  # fmt: skip

    def _start_pipeline(self) -> Daemon:
        return self.site.start("archived", "pipeline", {
            "daemon": "pipeline", "log_name": "archived@soak", "control_machines": ["LocalHost"],
            "cameras": ["TEST"], "incoming_data_path": str(self.site.spool),
            "root": str(self.archive), "minimum_free_bytes": 10_000_000,
        })  # fmt: skip

    def _start_log(self) -> Daemon:
        return self.site.start("obslogd", "log", {
            "daemon": "log", "log_name": "obslogd", "control_machines": ["LocalHost"],
        })  # fmt: skip

    def note_frames(self) -> None:
        """Remember the frames that the camera says it has read out."""
        for entry in self.camera.call("last", count=1000):
            self.seen.add((entry["run"], entry["number"]))

    def keep_busy(self) -> None:
        """See to it that a sequence runs."""
        try:
            status = self.camera.status()
            if status["summary"] == "STANDBY":
                self.camera.finish(self.camera.call("init"))
                self.camera.call("set_stream", enabled=self.random.random() < 0.5)
            elif status["summary"] == "READY":
                self.camera.call("start", count=self.random.choice([0, 3, 20]))
        except NightjarError as error:
            print(f"      {error.message[:120]}")

    def _kill_child(self, module: str) -> None:
        running = descendants(self.camera.process.pid)
        matching = [pid for pid in running if module in command_line(pid)]
        if matching:
            os.kill(self.random.choice(matching), signal.SIGKILL)

    def misfortune(self) -> str:
        """Let something bad happen; returns what."""
        kind = self.random.choice(MISFORTUNES)
        self.note_frames()
        if kind == "saving process":
            self._kill_child("camd.worker")
        elif kind == "detector process":
            self._kill_child("drivers.child")
        elif kind == "camera daemon":
            self.camera.kill()
            self.camera = self._start_camera()
        elif kind == "archive daemon":
            self.pipeline.kill()
            self.pipeline = self._start_pipeline()
        elif kind == "log daemon":
            self.log.kill()
            self.log = self._start_log()
        elif kind == "archive stopped":
            os.kill(self.pipeline.process.pid, signal.SIGSTOP)
            time.sleep(self.random.uniform(0.5, 4.0))
            os.kill(self.pipeline.process.pid, signal.SIGCONT)
        else:
            self.camera.call("abort")
        self.happened[kind] = self.happened.get(kind, 0) + 1
        return kind

    def come_to_rest(self) -> None:
        """End exposures, let everything be saved and handed over."""
        self.camera.call("abort")
        eventually(lambda: self.camera.status()["frames_unsaved"] == 0, 60, "all saved")
        self.note_frames()
        self.camera.call("hand_over")
        eventually(lambda: self.camera.status()["frames_waiting"] == 0, 90, "all handed over")
        eventually(lambda: not list(self.site.spool.glob("test-*.fits")), 60, "spool is empty")

    def judge(self) -> list[str]:
        """Return what is wrong with the archive."""
        faults = []
        found: dict[tuple[str, int], Path] = {}
        exposures: dict[tuple[Any, Any], Path] = {}
        for path in sorted(self.archive.rglob("*.fits")):
            verified = verify_image(path)
            header = verified.header
            if verified.problems:
                faults.append(f"{path}: {'; '.join(verified.problems)}")
                continue
            key = (str(header["RUN-ID"]), int(str(header["EXPCNT"])))
            exposure = (header["HW-FRAME"], header["DATE-BEG"])
            for known, mark, what in (
                (found, key, "frame"), (exposures, exposure, "exposure"),
            ):  # fmt: skip
                if mark in known:
                    faults.append(f"{path} and {known[mark]} are the same {what}")
                known[mark] = path
        missing = sorted(self.seen - set(found))
        faults += [f"frame {number} of run {run} is not in the archive" for run, number in missing]
        numbers = [number for _, number in found]
        if len(numbers) != len(set(numbers)):
            faults.append("a frame number was used twice")
        print(
            f"{len(self.seen)} frames were seen, {len(found)} are in the archive, {len(missing)} "
            f"are missing; misfortunes: "
            + ", ".join(f"{count} x {kind}" for kind, count in sorted(self.happened.items()))
        )
        return faults


def spend(night: Night, minutes: float) -> None:
    """Let the night pass."""
    deadline = time.monotonic() + 60 * minutes
    while (left := deadline - time.monotonic()) > 0:
        pause = time.monotonic() + night.random.uniform(0.05, 2.0)
        while time.monotonic() < pause:
            night.keep_busy()
            time.sleep(0.05)
        print(f"{left:5.0f} s left: {night.misfortune()}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.minutes:g} minutes")
    with (
        tempfile.TemporaryDirectory(prefix="nightjar-soak-") as folder,
        tempfile.TemporaryDirectory(prefix="nightjar-soak-", dir="/dev/shm") as shared,
    ):
        os.environ["NIGHTJAR_STATE_ROOT"] = str(Path(folder) / "state")
        os.environ["MILK_SHM_DIR"] = shared
        night = Night(Path(folder), options.seed)
        try:
            spend(night, options.minutes)
            night.come_to_rest()
            faults = night.judge()
        finally:
            night.site.close()
    for fault in faults:
        print(f"FAULT: {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
