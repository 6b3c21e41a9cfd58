# SPDX-License-Identifier: BSD-3-Clause
"""An archive on a real small disk; run in a mount namespace of its own: ``... DISK BASE``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from kit.archive_frames import Bench
from nightjar.clock import ManualClock
from nightjar.errors import NightjarError
from nightjar.fits.verify import verify_image

SHAPE = (800, 1000)  # 1.6 MB a frame


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def check(condition: Any, what: str) -> None:
    if not condition:
        raise SystemExit(f"failed: {what}")


def main() -> int:
    """Fill the disk, make room, make it read-only, and back; print "done" when all was right."""
    disk, base = Path(sys.argv[1]), Path(sys.argv[2])
    mount("-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk))
    clock = ManualClock()
    bench = Bench(base, clock=clock, root=str(disk / "archive"))
    frames = [bench.frame(number, shape=SHAPE) for number in (1, 2, 3, 4)]
    bench.archive.set_settings({"archive": {"TEST": False}}, "test")
    for frame in frames[:3]:
        bench.archive.notify(frame)
    (disk / "ballast").write_bytes(bytes(2_000_000))  # space runs out after they were accepted
    bench.work()
    states = [bench.archive.catalog.show(frame.key)["state"] for frame in frames[:3]]
    check(states == ["unarchived", "unarchived", "accepted"], f"two of three fit: {states}")
    check(not [name for name in bench.files() if name.endswith(".tmp")], "no half-made file")
    check((bench.incoming / frames[2].filename).stat().st_size == frames[2].size, "spool intact")
    status = bench.archive.status()
    check((status["summary"], status["state"]) == ("FAULT", "BLOCKED"), "says that it is blocked")
    check("No space" in status["health"]["reason"], f"with the reason: {status['health']}")
    bench.archive.probe()
    try:
        bench.archive.notify(frames[3])
        check(False, "a new frame is refused")
    except NightjarError as error:
        check(error.code.name == "NO_SPACE", f"with NO_SPACE, not {error.code.name}")
    # An observer discards a frame: the archive goes on by itself.
    begun = bench.archive.discard([frames[0].key], "test")
    check(bench.operations.get(begun["operation"]).wait(10), "discard ends")
    clock.advance(2)
    bench.archive.probe()
    bench.work()
    shown = bench.archive.catalog.show(frames[2].key)
    check(shown["state"] == "unarchived", "the frame that waited is in its place")
    check(verify_image(Path(shown["path"])).is_good, "and whole")
    check(bench.health.snapshot()["level"] == "OK", f"health: {bench.health.snapshot()}")
    read_only(bench, clock, disk, frames[0].key)
    bench.close()
    bound_twice(disk)
    print("done")
    return 0


def read_only(bench: Bench, clock: ManualClock, disk: Path, discarded: str) -> None:
    """Make the disk read-only for a while."""
    check(bench.archive.catalog.show(discarded)["state"] == "discarded", "discarded")
    mount("-o", "remount,ro", str(disk))
    bench.archive.probe()
    small = bench.frame(9)
    bench.archive.notify(small)
    bench.work()
    check(bench.archive.catalog.show(small.key)["state"] == "accepted", "waits")
    check("Read-only" in bench.health.snapshot()["reason"], f"{bench.health.snapshot()}")
    check(os.listdir(bench.incoming).count(small.filename) == 1, "file still in the spool")
    mount("-o", "remount,rw", str(disk))
    bench.archive.probe()
    bench.work()
    check(bench.archive.catalog.show(small.key)["state"] == "unarchived", "goes on by itself")
    check(bench.health.snapshot()["level"] == "OK", f"{bench.health.snapshot()}")


def bound_twice(disk: Path) -> None:
    """One file system in two places, as systemd's ReadWritePaths= makes it: no rename between."""
    for name in ("spool", "data", "spool-bound", "data-bound"):
        (disk / name).mkdir()
    for name in ("spool", "data"):
        mount("--bind", str(disk / name), str(disk / f"{name}-bound"))
    spool, data = disk / "spool-bound", disk / "data-bound"
    check(spool.stat().st_dev == data.stat().st_dev, "one file system")
    bench = Bench(
        data, incoming_data_path=str(spool), root=str(data / "archive"), recycle_bytes=0
    )
    bench.archive.set_settings({"object": "M 31"}, "test")
    frame = bench.take(1)
    check(frame["state"] == "archived", f"copied: {frame}")
    check(verify_image(Path(frame["path"])).is_good, "whole")
    check(os.listdir(spool) == [], "gone from the spool")
    bench.close()


if __name__ == "__main__":
    sys.exit(main())
