# SPDX-License-Identifier: BSD-3-Clause
"""The demonstration behind ``make demo-das``: rotate, record, log, merge, slice, look at a planet.

    .venv/bin/python tools/demo_das.py [--folder DIR] [--seconds S]

A simulated telescope scans a planet. When it asks for it the rotator turns the array; the DAS
records; pointing, housekeeping and raw minutes are gathered and merged as they come; the
observation is cut out and drawn. The place of the planet in the map says whether all clocks,
angles and signs came together.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from demo import BIN, DemoError, ask, heading, run

LARGEST_OFFSET_ARCSEC = 2.0
BEAM_ARCSEC = 31.2


def make_site(folder: Path) -> dict[str, str]:
    """Write the site's configuration; return the environment to use it by."""
    words = ["simulate", "das", str(folder)]
    if (folder / "env").is_file():
        words.append("--force")  # ours, from an earlier time: new ports, the files stay
    heading("A site in one folder: rotator, acquisition, telescope logs, merge, a log")
    print(f"$ nightjar simulate das {folder.name}", flush=True)
    answer = ask(dict(os.environ), "nightjar", *words)
    if not isinstance(answer, dict):
        raise DemoError("nightjar simulate gave no object")
    for name, value in answer["environment"].items():
        print(f"  {name}={value}")
    return {**os.environ, **answer["environment"]}


class Telescope:
    """The simulated telescope: a process, and lines of text to it."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        known = json.loads((folder / "telescope.json").read_text())
        self._port = int(known["ports"][0])
        words = known["command"]
        print(f"$ {shlex.join(words)} &", flush=True)
        self._log = (folder / "telescope.log").open("ab")
        self._process = subprocess.Popen(
            [str(BIN / words[0]), *words[1:]], env=environment, stdin=subprocess.DEVNULL,
            stdout=self._log, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def say(self, line: str) -> str:
        """Send a line, return the reply."""
        with socket.create_connection(("127.0.0.1", self._port), 5) as link:
            link.sendall(line.encode() + b"\n")
            return link.makefile().readline().strip()

    def is_up(self) -> bool:
        """Tell whether it answers."""
        if self._process.poll() is not None:
            raise DemoError("the simulated telescope has ended; see telescope.log")
        try:
            return self.say("status").startswith("0")
        except OSError:
            return False

    def end(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(10)
        self._log.close()


def wait_for(what: str, limit_s: float, check: Callable[[], Any]) -> Any:
    """Wait until a check holds, with a deadline; return what it gave."""
    deadline = time.monotonic() + limit_s
    while not (found := check()):
        if time.monotonic() > deadline:
            raise DemoError(f"not within {limit_s:g} s: {what}")
        time.sleep(0.2)
    return found


def observe(environment: dict[str, str], telescope: Telescope, seconds: float) -> None:
    """Home, start everything in its order, scan the planet."""
    heading("Home the rotator, have it answer the telescope; its logs first, then the acquisition")
    run(environment, "rot", "home", "--yes")
    run(environment, "rot", "auto", "on", "--az")
    run(environment, "telog", "start")
    run(environment, "das", "start")
    heading(f"The telescope scans a planet for {seconds:g} s; first it asks for the rotation")
    print(f"telescope: observe planet raster {seconds:g} azel 120", flush=True)
    reply = telescope.say(f"observe planet raster {seconds:g} azel 120")
    if not reply.startswith("0"):
        raise DemoError(f"the telescope refused: {reply}")
    wait_for("the rotator has moved", 60, lambda: ask(environment, "rot", "status")["moves"])
    run(environment, "rot", "status")
    run(environment, "das", "watch", "--timeout", "3")
    wait_for(
        "the end of the observation", seconds + 90,
        lambda: {"left_s=", "busy=0"} <= set(telescope.say("status").split()),
    )
    run(environment, "telog", "status")
    heading("Stop the acquisition: the last minute is published, copied and merged")
    run(environment, "das", "stop")


def merge(environment: dict[str, str], folder: Path) -> Path:
    """Wait for the merge, cut the observation out, draw it; return the picture."""
    def is_merged() -> bool:
        status = ask(environment, "dasmerge", "status")
        raws = sorted((folder / "das" / "raw").glob("*/raw_*.bin"))
        newest = (status["newest_merged"] or "")[11:16].replace(":", "")
        minute = raws[-1].stem[-4:] if raws else ""
        return bool(minute) and newest == f"{int(minute) // 60:02d}{int(minute) % 60:02d}"

    wait_for("all minutes are merged", 90, is_merged)
    run(environment, "dasmerge", "status")
    files = sorted(str(path) for path in (folder / "merged").glob("*.nc"))
    run(environment, "dasmerge", "show", *files)
    heading("Cut the observation out, draw the planet")
    slices = folder / "slices"
    run(environment, "dasmerge", "slice", *files, "--output", str(slices), "--force")
    newest = max(slices.glob("*_raw.nc"), key=lambda path: path.stat().st_mtime)
    picture = folder / "planet.png"
    answer = ask(environment, "dasmerge", "map", str(newest), "--png", str(picture))
    if not isinstance(answer, list):
        raise DemoError("dasmerge map gave no list")
    found = answer[0]
    print(f"$ dasmerge map {newest.name} --png {picture.name}")
    print(
        f"  {found['source']}: {found['peak_v'] * 1e3:.1f} mV at {found['peak_x_arcsec']:+.2f}, "
        f"{found['peak_y_arcsec']:+.2f} arcsec, FWHM {found['fwhm_arcsec']:.1f} arcsec "
        f"(the beam has {BEAM_ARCSEC})"
    )
    offset = (found["peak_x_arcsec"] ** 2 + found["peak_y_arcsec"] ** 2) ** 0.5
    if offset > LARGEST_OFFSET_ARCSEC or abs(found["fwhm_arcsec"] / BEAM_ARCSEC - 1) > 0.1:
        raise DemoError(f"the planet is {offset:.1f} arcsec off, or not as wide as the beam")
    return picture


def demonstrate(folder: Path, seconds: float) -> None:
    """Do all of it; the site is stopped in order whatever happens."""
    began = time.monotonic()
    environment = make_site(folder)
    heading("A telescope; then every daemon: the log, the rotator, its logs, the merge, the DAS")
    telescope = Telescope(environment, folder)
    try:
        wait_for("the simulated telescope answers", 30, telescope.is_up)
        run(environment, "nightjar", "up", "--detach")
        try:
            run(environment, "nightjar", "status")
            observe(environment, telescope, seconds)
            picture = merge(environment, folder)
        finally:
            heading("Stop in order: the acquisition first, then the merge, the logs, the rotator")
            run(environment, "nightjar", "down")
    finally:
        telescope.end()
    print(f"\nDone in {time.monotonic() - began:.0f} s. The planet is in {picture}.")
    print(f"Everything is in {folder}; look around:")
    environment_file, programs = shlex.quote(str(folder / "env")), shlex.quote(str(BIN))
    print(f"  . {environment_file}; PATH={programs}:$PATH; dasmerge show merged/*.nc", flush=True)


def main() -> int:
    """Run the demonstration; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("demo-das"))
    parser.add_argument("--seconds", type=float, default=45.0, help="of scanning")
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
