# SPDX-License-Identifier: BSD-3-Clause
"""A logger on real small disks; run in a mount namespace of its own: ``... DISK BASE``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from kit.logging_bench import (
    PERIOD_NS,
    T0,
    Bench,
    Source,
    cube_paths,
    fitsverify,
    has_fitsverify,
    hidden,
    numbers,
    read_cubes,
    refused,
)
from kit.site import eventually
from nightjar.errors import StorageError

SHAPE = (60, 100)  # 12 kB a frame


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def check(condition: Any, what: str) -> None:
    if not condition:
        raise SystemExit(f"failed: {what}")


def filled(disk: Path, base: Path, source: Source) -> None:
    """The disk runs full in the midst of a cube; room is made; the session goes on."""
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(1_500_000))
    with Bench(base) as bench:
        bench.prepare(100, root=str(disk))
        first = source.writer.counter + 1
        bench.start("full", T0 + first * PERIOD_NS)
        for _ in range(40):
            source.publish(10)
            if bench.status()["state"] == "error":
                break
            bench.until("read", lambda s: s["ring_unread"] == 0 or s["state"] == "error")
        status = bench.until("error", lambda s: s["state"] == "error" and s["closing"] == 0)
        check("No space left" in status["error"], f"clear words: {status['error']}")
        check("make room" in status["error"], f"with advice: {status['error']}")
        ballast.unlink()
        bench.until("saving again", lambda s: s["state"] == "saving")
        last = source.publish(20)
        recorder = bench.logger._recorder
        bench.until("all read", lambda s: recorder.last_counter == last)
        bench.ask("release")
        status = bench.over()
        cubes = read_cubes(disk, source.pattern)
        saved = numbers(cubes)
        ends = [(c.header["CUBEEND"], c.header["TRUNCATE"]) for c in cubes]
        check(ends[-1] == ("released", True), f"ends {ends}")
        check(set(ends[:-1]) <= {("full", False), ("no space", True)}, f"ends {ends}")
        check(saved == sorted(set(saved)), "every frame once, in order")
        told = f"{saved[0]} to {saved[-1]}, not {first} to {last}"
        check((saved[0], saved[-1]) == (first, last), told)
        check(status["frames_saved"] == len(saved), f"saved {status['frames_saved']} {len(saved)}")
        lost = last - first + 1 - len(saved)
        check(status["missed"] + status["torn"] == lost, f"missed {status['missed']} of {lost}")
        in_headers = sum(c.header["NMISSED"] + c.header["NTORN"] for c in cubes)
        check(in_headers <= lost, "in the headers, but for a cube that was lost as a whole")
        check(hidden(disk) == [], f"nothing left: {hidden(disk)}")
        if has_fitsverify():
            check(fitsverify(*cube_paths(disk)) == "", "fitsverify")


def read_only(disk: Path, base: Path, source: Source) -> None:
    """The disk becomes read-only between two cubes and in the midst of one."""
    with Bench(base) as bench:
        bench.prepare(10, root=str(disk))
        bench.start("ro")
        source.publish(10)
        bench.until("full", lambda s: s["last_file"] and not s["closing"])
        remount = ["mount", "-o", "remount,ro", str(disk)]
        # Busy for a moment, as long as the kernel has not done with a file that was unlinked.
        eventually(lambda: subprocess.run(remount, capture_output=True).returncode == 0)
        source.publish(3)
        status = bench.until("error", lambda s: s["state"] == "error")
        check("Read-only" in status["error"], f"clear words: {status['error']}")
        check(isinstance(refused(lambda: bench.ask("release") and bench.prepare(root=str(disk))),
                         StorageError), "prepare is refused")  # fmt: skip
        mount("-o", "remount,rw", str(disk))
        bench.prepare(10, root=str(disk))
        bench.start("rw", frames=4)
        source.publish(4)
        bench.over()


def main() -> int:
    """Print "done" when all was right."""
    disk, base = Path(sys.argv[1]), Path(sys.argv[2])
    source = Source(shape=SHAPE, depth=400)
    mount("-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk))
    filled(disk, base / "1", source)
    subprocess.run(["umount", str(disk)], check=True)
    mount("-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk))
    read_only(disk, base / "2", source)
    subprocess.run(["umount", str(disk)], check=True)
    if shutil.which("mkfs.ext4") and os.geteuid() == 0:
        image = base / "image"
        image.write_bytes(b"")
        os.truncate(image, 6 << 20)
        made = subprocess.run(
            ["mkfs.ext4", "-q", "-b", "4096", "-O", "^has_journal", str(image)],
            capture_output=True, check=False,
        )  # fmt: skip
        mounted = subprocess.run(
            ["mount", "-o", "loop", str(image), str(disk)], capture_output=True, check=False
        )
        if made.returncode == mounted.returncode == 0:
            shutil.rmtree(disk / "lost+found")
            filled(disk, base / "3", source)
            subprocess.run(["umount", str(disk)], check=True)
    source.close()
    print("done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
