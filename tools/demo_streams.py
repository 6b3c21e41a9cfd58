# SPDX-License-Identifier: BSD-3-Clause
"""The demonstration behind ``make demo-streams``: fast cameras, a link, loggers, a watcher.

    .venv/bin/python tools/demo_streams.py [--folder DIR] [--seconds S]

Two simulated cameras share a trigger. Their streams are carried over a TCP link to what would be
another machine, and there one session logs both, through a change of the crop. Each frame of the
cubes is then proven by the numbers in its pixels.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from demo import BIN, DemoError, ask, heading, run

CAMERAS = ("vcam1", "vcam2")
FAR = {"vcam1": "vcam1_far", "vcam2": "vcam2_far"}
LOGGED = ("--num-frames", "250", "--num-cubes=-1", "--cam=-1", "--type", "OBJECT")


def make_site(folder: Path) -> dict[str, str]:
    """Write the site's configuration; return the environment to use it by."""
    import os

    words = ["simulate", "streams", str(folder)]
    if (folder / "env").is_file():
        words.append("--force")  # ours, from an earlier time: new ports, the cubes stay
    heading("A site in one folder: two fast cameras, a pupil camera, links, loggers, a log")
    print(f"$ nightjar simulate streams {folder.name}", flush=True)
    answer = ask(dict(os.environ), "nightjar", *words)
    if not isinstance(answer, dict):
        raise DemoError("nightjar simulate gave no object")
    for name, value in answer["environment"].items():
        print(f"  {name}={value}")
    return {**os.environ, **answer["environment"]}


def wait_for(environment: dict[str, str], what: str, limit_s: float, check: Any) -> None:
    """Wait until a check holds, with a deadline."""
    deadline = time.monotonic() + limit_s
    while not check():
        if time.monotonic() > deadline:
            raise DemoError(f"not within {limit_s:g} s: {what}")
        time.sleep(0.1)


def shape_of(environment: dict[str, str], stream: str) -> Any:
    """Return the frame shape of a stream; None where it is not there yet."""
    try:
        answer = ask(environment, "stream", "stat", stream, "--interval", "0")
    except DemoError:
        return None
    return answer.get("shape") if isinstance(answer, dict) and answer.get("counter") else None


def observe(environment: dict[str, str], folder: Path, seconds: float) -> None:
    """Start the cameras, log them at the far end of the link, change the crop meanwhile."""
    heading("Start the cameras: frames go into shared memory, and over the link at once")
    for camera in CAMERAS:
        run(environment, "cam", camera, "init")
        run(environment, "cam", camera, "start")
    for far in FAR.values():
        wait_for(environment, f"stream {far}", 15, lambda far=far: shape_of(environment, far))
    run(environment, "stream", "list")
    run(environment, "streamlink", "status")
    heading("Log both cameras behind the link: prepare, start on a common rule")
    run(environment, "fitslog", "far", "prep", *LOGGED, "--directory", str(folder / "fits"))
    run(environment, "fitslog", "far", "start")
    time.sleep(seconds)
    run(environment, "fitslog", "far", "status")
    run(environment, "fitswatcher", "-n", "3", "--once", str(folder / "fits" / "*" / "*"))
    heading("Another crop while it saves: the cubes end, new ones begin, nobody restarts anything")
    for camera in CAMERAS:
        run(environment, "cam", camera, "crop", "ONEARC")
    time.sleep(seconds)
    heading("Pause: the last cubes are filled, and this returns when they have their names")
    run(environment, "fitslog", "far", "pause", "--wait")
    run(environment, "fitslog", "far", "status")
    run(environment, "fitswatcher", "-n", "3", "--once", str(folder / "fits" / "*" / "*"))
    run(environment, "stream", "show", "vcam1_far", "--force", "--png", str(folder / "vcam1.png"))


def verify(folder: Path, since: float) -> None:
    """Prove every frame of the new cubes by the numbers in its pixels and by its table."""
    from nightjar.fits.frame_table import read_table
    from nightjar.fits.header import read_header
    from nightjar.fits.verify import verify_image
    from nightjard.camd.fast.pattern import check_cube, read_truths

    heading("Every frame, proven by the numbers in its pixels")
    triggers: dict[str, set[int]] = {}
    frames = lost = 0
    for stream in FAR.values():
        before = None
        for path in sorted((folder / "fits").glob(f"*/{stream}/*.fits")):
            if path.stat().st_mtime < since:
                continue
            verify_image(path)
            header, rows = read_header(path), read_table(path)
            shape = tuple(int(str(header[f"NAXIS{axis}"])) for axis in (3, 2, 1))
            stored = np.memmap(path, ">i2", "r", header.data_offset, shape)
            part = (stored[:, :, :16].astype(np.int32) + 32768).astype(np.uint16)
            report, truths = check_cube(part), read_truths(part)
            triggers.setdefault(stream, set()).update(truths["trigger"].tolist())
            counters = rows["CNT0"].astype(np.int64)
            gaps = int((np.diff(counters) - 1).sum())
            if before is not None and counters[0] > before:
                gaps += int(counters[0]) - before - 1
            before = int(counters[-1])
            frames += report.whole
            lost += gaps + int(str(header["NMISSED"])) + report.missing
            good = "proven" if report.is_perfect else report.text()
            print(f"  {path.name}  {shape[2]}x{shape[1]}  {report.frames} frames {good}, "
                  f"{gaps} missing, closed: {header['CUBEEND']}")  # fmt: skip
            if not report.is_perfect:
                raise DemoError(f"{path}: {report.text()}")
    if not frames:
        raise DemoError("no cubes were written")
    if lost:
        raise DemoError(f"{lost} frames are missing")
    both = set.intersection(*triggers.values())
    most = max(len(each) for each in triggers.values())
    print(f"  {frames} frames proven, none lost; {len(both)} of {most} triggers in both cameras")


def demonstrate(folder: Path, seconds: float) -> None:
    """Do all of it; the site is stopped in order whatever happens."""
    began, since = time.monotonic(), time.time()
    environment = make_site(folder)
    heading("Start every daemon: the log, the cameras, the loggers, both ends of the links")
    run(environment, "nightjar", "up", "--detach")
    try:
        run(environment, "nightjar", "status")
        observe(environment, folder, seconds)
    finally:
        heading("Stop in order: links and loggers first, then cameras, the log last")
        run(environment, "nightjar", "down")
    verify(folder, since)
    print(f"\nDone in {time.monotonic() - began:.0f} s. Everything is in {folder}; look around:")
    environment_file, programs = shlex.quote(str(folder / "env")), shlex.quote(str(BIN))
    print(f"  . {environment_file}; PATH={programs}:$PATH; nightjar up", flush=True)


def main() -> int:
    """Run the demonstration; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("demo-streams"))
    parser.add_argument("--seconds", type=float, default=5.0, help="of logging with each crop")
    options = parser.parse_args()
    folder = options.folder.resolve()
    if folder.exists() and any(folder.iterdir()) and not (folder / "env").is_file():
        print(f"demo: {folder} holds something else; give another --folder", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        demonstrate(folder, options.seconds)
    except (DemoError, json.JSONDecodeError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted; the site was stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
