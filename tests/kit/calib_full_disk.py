# SPDX-License-Identifier: BSD-3-Clause
"""Results on a real small disk; run in a mount namespace of its own: ``... DISK BASE``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from kit.calib_engine import Site, with_subtask
from nightjar.errors import NightjarError
from nightjard.calib.work import Work


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def check(condition: Any, what: str) -> None:
    if not condition:
        raise SystemExit(f"failed: {what}")


def refusal(site: Site, **options: Any) -> NightjarError:
    """Return the error that ends a run."""
    try:
        site.run(**options)
    except NightjarError as error:
        return error
    raise SystemExit("failed: the run did not end")


def main() -> int:
    """Refuse to begin, run full in the middle, make room, go read-only; print "done" if right."""
    disk, base = Path(sys.argv[1]), Path(sys.argv[2])
    mount("-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk))
    site = Site(base)
    site.acquire("BIAS01", "BIAS02")
    site.results = disk / "results"
    site.write_campaign(tests=[["BIAS01"], ["BIAS02"]], resroot=str(site.results))
    ballast = disk / "ballast"

    ballast.write_bytes(bytes(12_000_000))
    error = refusal(site)
    check(error.code.name == "NO_SPACE", f"refused before it begins: {error.code}")
    check(str(site.results) in error.message and "MB needed" in error.message, error.message)
    check(site.said == [], "nothing had been begun")
    ballast.unlink()

    def fill_disk() -> None:
        with open(ballast, "wb") as file:  # somebody else's
            try:
                while True:
                    file.write(bytes(100_000))
                    file.flush()
            except OSError:
                pass

    def fill(work: Work) -> None:
        fill_disk()
        work.results.document("LARGE", {"values": list(range(10_000))})

    error = refusal(site, task=with_subtask("basic", fill))
    check(error.code.name == "NO_SPACE", f"ended: {error.code}")
    check(f"{site.results}/D11/BIAS01" in error.message, error.message)
    check("make room" in error.message, error.message)
    left = [path for path in site.results.rglob("*") if path.name.endswith(".tmp")]
    check(not left, f"no half-made file: {left}")
    check(site.state("BIAS01")["stage"] == "processing", "it is to be gone on with")

    ballast.unlink()
    result = site.run()
    check(result["failed"] == [], "with room it goes on")
    steps = {one["name"]: one["status"] for one in site.read("D11/BIAS01/results.json")["steps"]}
    check(set(steps.values()) == {"done"}, f"all is done: {steps}")
    names = [path.name for path in (site.results / "D11" / "BIAS01").glob("attempt-*")]
    check(names == ["attempt-01"], f"in the same attempt: {names}")

    def draw(work: Work) -> None:
        figure = Figure((12, 12))
        noise = np.random.default_rng(1).random((1200, 1200))
        figure.add_axes((0, 0, 1, 1)).imshow(noise, interpolation="nearest")
        fill_disk()
        os.truncate(ballast, ballast.stat().st_size - 300_000)  # room for what is small
        work.results.figure("noise", figure)

    error = refusal(site, task=with_subtask("meta", draw), workers=2)  # drawn beside
    check(error.code.name == "NO_SPACE", f"a figure ends it, too: {error.code}")
    check("noise.png" in error.message, error.message)
    check(site.said[-1] == "Running: BIAS01", f"no other test is tried: {site.said[-3:]}")

    ballast.unlink()
    mount("-o", "remount,ro", str(disk))
    error = refusal(site)
    check("cannot write in" in error.message and str(site.results) in error.message, error.message)
    print("done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
