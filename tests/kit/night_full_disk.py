# SPDX-License-Identifier: BSD-3-Clause
"""A night on a real small disk; run in a mount namespace of its own: ``... DISK BASE``."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kit.archive_frames import empty_database
from kit.night_crash import Inline
from kit.nights import NightBench, files_of
from kit.tiny_nights import DATE, RAW, bench_of, make_tiny
from nightjar.errors import Code, NightjarError
from nightjard.archived.nights import engine
from nightjard.archived.nights.steps import making, room
from nightjard.archived.nights.writing import products

_STEPS = ("sync", "headers", "ids", "consolidate", "compress", "verify", "manifest")


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def check(condition: Any, what: str) -> None:
    if not condition:
        raise SystemExit(f"failed: {what}")


class SmallDisk:
    """A disk with one night on it, and what fills it up."""

    def __init__(self, disk: Path, state: Path) -> None:
        mount("-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk))
        self.disk = disk
        self.ballast = disk / "ballast"
        self.night = disk / "raw" / DATE
        make_tiny(disk / "raw")
        (state / "archive.db").write_bytes(empty_database())
        self.bench = self.opened(state)
        self.raw = {name: files_of(self.night / name) for name in RAW}

    def opened(self, state: Path) -> NightBench:
        bench = bench_of(self.disk / "raw", f"sqlite:///{state / 'archive.db'}")
        bench.tools = engine.Tools(**{**vars(bench.tools), "executor": Inline})
        bench.engine = engine.Engine(bench.tools)
        return bench

    def fill(self, free: int = 0) -> None:
        """Leave so many bytes."""
        size = shutil.disk_usage(self.disk).free - free
        with open(self.ballast, "ab") as file:
            file.write(bytes(max(0, size)))

    def refused(self, step: str, *, code: Code | None = Code.NO_SPACE) -> str:
        """Run a step that cannot be done; return the error's text."""
        try:
            self.bench.run(self.night, step)
        except NightjarError as error:
            check(code is None or error.code is code, f"{step}: {error.code}: {error.message}")
            self.check_nothing_left(step)
            return error.message
        raise SystemExit(f"failed: {step} was done, though the disk is full")

    def check_nothing_left(self, step: str) -> None:
        left = [path.name for path in self.night.rglob("*") if path.name.endswith(".tmp")]
        check(not left, f"{step}: nothing is left: {left}")
        now = {name: files_of(self.night / name) for name in RAW}
        check(now == self.raw, f"{step}: raw is as it was")

    def empty(self) -> None:
        self.ballast.unlink()


def filled(disk: SmallDisk, module: Any, name: str) -> Callable[[], None]:
    """Have the disk full just before a function works; return what ends that."""
    inner = getattr(module, name)

    def full(*arguments: Any, **named: Any) -> Any:
        disk.fill()
        return inner(*arguments, **named)

    setattr(module, name, full)
    return lambda: setattr(module, name, inner)


def full_at_every_step(disk: SmallDisk) -> None:
    """Fill the disk before each writing, make room, go on."""
    for step in _STEPS:
        if step in ("sync", "headers", "manifest"):
            disk.fill()
            check("No space" in disk.refused(step), "not even its lock can be written")
            disk.empty()
            disk.fill(8192)
            check("No space" in disk.refused(step), f"{step} says why")
            row = disk.bench.night(disk.night)
            check(row["state"] == "failed" and "No space" in row["error"], f"{step}: {dict(row)}")
            disk.empty()
        if step == "consolidate":
            disk.fill(10_000)
            check("to spare: make room" in disk.refused(step), "asked before hours of work")
            disk.empty()
            disk.fill(110_000)
            check("products could not be written" in disk.refused(step), "some do not fit")
            disk.empty()
            for module, name in ((products, "write_hashes"), (making, "write_name_changes")):
                end = filled(disk, module, name)
                disk.refused(step, code=None if name == "write_name_changes" else Code.NO_SPACE)
                end()
                disk.empty()
        disk.bench.run(disk.night, step)
    check(disk.bench.night(disk.night)["state"] == "verified", "at the end it is done")


def folder_of_products_is_read_only(disk: SmallDisk) -> None:
    """Mount the folder of products read-only."""
    folder = disk.night / "vgen2"
    shutil.rmtree(folder)
    folder.mkdir()
    mount("--bind", str(folder), str(folder))
    mount("-o", "remount,ro,bind", str(folder))
    text = disk.refused("consolidate", code=None)
    check("Read-only" in text, text)
    subprocess.run(["umount", str(folder)], check=True)
    for step in _STEPS[3:]:
        disk.bench.run(disk.night, step)


def database_on_the_full_disk(disk: SmallDisk) -> None:
    """The database has no room: it says so, and goes on when there is some."""
    disk.bench.close()
    state = disk.disk / "state"
    state.mkdir()
    (state / "archive.db").write_bytes(empty_database())
    disk.bench = disk.opened(state)
    disk.bench.night(disk.night)
    disk.fill()
    check("database" in disk.refused("sync"), "says which")
    disk.empty()
    disk.bench.run(disk.night)
    check(disk.bench.night(disk.night)["state"] == "verified", "with room it is done")
    rows = disk.bench.store.products(disk.bench.night(disk.night)["id"])
    ids = {row["name"]: row["frame_id"] for row in rows}
    changes = (disk.night / "vgen2" / "name_changes.txt").read_text().split()
    on_disk = dict(zip(changes[::2], changes[1::2], strict=True))
    check({f"{name}.fits": f"{one}.fits" for name, one in ids.items()} == on_disk, "the same IDs")


def main() -> int:
    """Do all of it; print "done" when all was right."""
    disk_folder, base = Path(sys.argv[1]), Path(sys.argv[2])
    room._SPARE_BYTES = 20_000
    disk = SmallDisk(disk_folder, base)
    full_at_every_step(disk)
    first = files_of(disk.night)
    folder_of_products_is_read_only(disk)
    again = {name: data for name, data in files_of(disk.night).items()
             if not name.startswith("superseded/")}  # fmt: skip
    check(again == first, f"the same files: {sorted(set(again) ^ set(first))}")
    database_on_the_full_disk(disk)
    disk.bench.close()
    print("done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
