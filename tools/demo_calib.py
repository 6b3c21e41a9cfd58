# SPDX-License-Identifier: BSD-3-Clause
"""The demonstration behind ``make demo-calib``: a detector is tested and the truth is found again.

    .venv/bin/python tools/demo_calib.py [--folder DIR] [--speed X]

Scripts of four tests are written and made a session; a simulated bench takes the exposures at an
eighth of the size of the real detectors, while ``calib run --wait`` analyses each test as soon as
its files are complete. What the analyses found is then laid beside what the simulator put in.
Once more in the same folder, it takes another session on another day.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from demo import BIN, DemoError, heading
from demo_calib_truth import compare, draw

BLOCK = "NOSTROMO"
SCRIPTS_DATE = "2019-04-01"
FIRST_DAY = dt.date(2019, 3, 12)
FIRST_OBSID, OBSIDS_A_SESSION = 17210, 100
TESTS = ("FOCUS00_800", "BIAS01", "PTC02_730", "CHINJ02")
HANDLES = ("FOCUS00", "BIAS01", "PTC02WAVE", "CHINJ02")
SERIALS = ("14888-88-81", "14888-88-82", "14888-88-83")
NEEDED_BYTES = 1_000_000_000
COMMAND_LIMIT_S = 600.0  # for machines that do much else


def edit(path: Path, **changes: Any) -> None:
    """Change top-level keys of a JSON file and say so."""
    value = json.loads(path.read_text())
    value.update(changes)
    path.write_text(json.dumps(value, indent=2) + "\n")
    print(f"edit {path.name}: {', '.join(changes)}", flush=True)


class Shell:
    """Runs commands in a folder, and shows them as they would be typed there."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self.folder = Path()

    def enter(self, folder: Path, name: str) -> None:
        """Go into a folder."""
        self.folder = folder
        print(f"$ cd {name}", flush=True)

    def run(self, *command: str) -> None:
        """Run a command; its output goes where ours goes."""
        print(f"$ {shlex.join(command)}", flush=True)
        done = subprocess.run(
            [str(BIN / command[0]), *command[1:]], env=self.environment, cwd=self.folder,
            timeout=COMMAND_LIMIT_S, check=False,
        )  # fmt: skip
        if done.returncode:
            raise DemoError(f"{shlex.join(command)} ended with exit code {done.returncode}")


class Bench:
    """A block's tree, and the session of this time in it."""

    def __init__(self, folder: Path) -> None:
        self.tree = folder / BLOCK
        self.data = self.tree / "CALDATA" / "data"
        number = len(list(self.data.glob("*_truth")))
        self.session = f"D{11 + number}"
        self.day = FIRST_DAY + dt.timedelta(days=number)
        self.first_obsid = FIRST_OBSID + OBSIDS_A_SESSION * number
        self.day_folder = self.data / self.day.strftime("%d_%b_%y")
        self.truth = self.day_folder.with_name(f"{self.day_folder.name}_truth")
        self.results = self.tree / "CALDATA" / "results" / self.session

    def one(self, pattern: str) -> Path:
        """Return the only file of a pattern."""
        (found,) = self.tree.glob(pattern)
        return found


def prepare(folder: Path, shell: Shell) -> Bench:
    """Make the tree, the scripts and the session."""
    heading("A work tree for a block of read-out electronics and three CCDs")
    shell.enter(folder, folder.name)
    serials = [word for serial in SERIALS for word in ("--ccd", serial)]
    shell.run("calib", "init", BLOCK, "--detector", "ccd273-8th", "--date", SCRIPTS_DATE,
              "--roe", "FM15", "--rpsu", "FM15", *serials)  # fmt: skip
    bench = Bench(folder)
    heading("Acquisition scripts: a workbook a test; then a session of four tests")
    shell.enter(bench.tree / "SCRIPTS", f"{BLOCK}/SCRIPTS")
    inputs = bench.one("SCRIPTS/scripts_inputs_*.json")
    wanted = {name: int(name in HANDLES) for name in json.loads(inputs.read_text())["toWrite"]}
    edit(inputs, outpath="Scripts", toWrite=wanted)
    shell.run("calib", "scripts", "-j", inputs.name, "--date", SCRIPTS_DATE)
    builder = bench.one("SCRIPTS/sessions_builder_*.json")
    edit(builder, inpath="Scripts", outpath="SEQUENCES", sessions={bench.session: TESTS})
    shell.run("calib", "sessions", "-j", builder.name, "--replace")
    campaign = bench.one("ANALYSIS/campaign_*.json")
    known = json.loads(campaign.read_text())["test_specifics"] if bench.session != "D11" else {}
    schedule = [[test, [None, None]] for test in TESTS]
    known[bench.session] = {"datapath": bench.day_folder.name, "schedule": schedule}
    edit(campaign, test_specifics=known)
    return bench


@contextmanager
def simulation(bench: Bench, shell: Shell, speed: float) -> Iterator[None]:
    """Have the session taken in the background."""
    words = [
        "simulate", "--session", f"../SCRIPTS/SEQUENCES/{bench.session}", "--out",
        "../CALDATA/data", "--date", f"{bench.day}T09:00:00Z", "--start-obsid",
        str(bench.first_obsid), "--speed", f"{speed:g}",
    ]  # fmt: skip
    print(f"$ calib {shlex.join(words)} &", flush=True)
    log = bench.tree / "simulate.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(BIN / "calib"), *words], env=shell.environment, cwd=shell.folder,
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        yield
        if process.wait(30):
            raise DemoError(f"the simulation failed; see {log}")
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(10)


def acquire_and_analyse(bench: Bench, shell: Shell, speed: float) -> None:
    """Follow the acquisition with the analysis."""
    heading(f"The bench takes session {bench.session}, {speed:g} times as fast as life; "
            "the analysis follows it")  # fmt: skip
    shell.enter(bench.tree / "ANALYSIS", "../ANALYSIS")
    campaign = bench.one("ANALYSIS/campaign_*.json").name
    with simulation(bench, shell, speed):
        shell.run("calib", "run", campaign, "-R", bench.session, "--wait", "--sleep", "1",
                  "--give-up", "120", "--log", "--tag", f"_{bench.session}")  # fmt: skip
    shell.run("calib", "status", campaign, "-R", bench.session)


def demonstrate(folder: Path, speed: float) -> None:
    """Do all of it."""
    began = time.monotonic()
    # Profiles and detectors are those of this clone, whatever the machine has.
    shell = Shell({**os.environ, "CALIB_CONFIG_ROOT": str(folder / "CONFIG")})
    bench = prepare(folder, shell)
    acquire_and_analyse(bench, shell, speed)
    heading("What was found, beside what the simulator put in")
    lines, are_good = compare(bench.results, bench.truth, bench.first_obsid)
    print("\n".join(lines), flush=True)
    picture = draw(bench.results, bench.truth, bench.first_obsid, folder / "calibration.png")
    heading("A change of the chamber's profile, as the results suggest it")
    shell.run("calib", "profile", "propose", "--from", f"results_atCALDATA/{bench.session}",
              "--chamber", "B_NOSTROMO", "--dry-run")  # fmt: skip
    if not are_good:
        raise DemoError("a value that was found is not what was put in")
    print(f"\nDone in {time.monotonic() - began:.0f} s. The picture is {picture}.")
    print(f"Reports of the session: {bench.results / 'index.html'}; of each test, PDF and HTML:")
    for test in TESTS:
        print(f"  {bench.results / test / f'{test}_report.pdf'}")


def main() -> int:
    """Run the demonstration; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("demo-calib"))
    parser.add_argument("--speed", type=float, default=100.0, help="times as fast as life")
    options = parser.parse_args()
    folder = options.folder.resolve()
    if folder.exists() and any(folder.iterdir()) and not (folder / BLOCK / "CALDATA").is_dir():
        print(f"demo: {folder} holds something else; give another --folder", file=sys.stderr)
        return 2
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < NEEDED_BYTES:
        print(f"demo: {NEEDED_BYTES / 1e9:.1f} GB of disk needed, {free / 1e9:.1f} GB free; "
              f"try another --folder", file=sys.stderr)  # fmt: skip
        return 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        demonstrate(folder, options.speed)
    except (DemoError, OSError, ValueError, subprocess.TimeoutExpired) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted; what was done stays done", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
