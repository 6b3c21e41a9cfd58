# SPDX-License-Identifier: BSD-3-Clause
"""The demonstration behind ``make demo``: a simulated site from start to stop, in about a minute.

    .venv/bin/python tools/demo.py [--folder DIR] [--small] [--frames N]

Everything that it does it does with the commands that a person would type, and shows them. What
they write lies in the folder (default ./demo-site) and stays there.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

BIN = Path(sys.executable).parent
BLOCK = 2880
CARDS = (
    "CAMERA", "EXPCNT", "DATE-OBS", "EXPTIME", "FILTER", "CAM-TEMP", "NAXIS1", "NAXIS2", "CHECKSUM",
)  # fmt: skip
SPARE_BYTES = 1_500_000_000  # left of the disk after the demonstration
COMMAND_LIMIT_S = 170.0


class DemoError(Exception):
    """A command failed; the text says which."""


def heading(text: str) -> None:
    """Say what comes next."""
    mark = "\033[1m" if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else ""
    print(f"\n{mark}# {text}{chr(27) + '[0m' if mark else ''}", flush=True)


def run(environment: dict[str, str], *command: str, allowed: tuple[int, ...] = (0,)) -> None:
    """Show a command and run it; its output goes where ours goes."""
    print(f"$ {' '.join(command)}", flush=True)
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:]], env=environment, timeout=COMMAND_LIMIT_S, check=False
    )
    if done.returncode not in allowed:
        raise DemoError(f"{' '.join(command)} ended with exit code {done.returncode}")


def ask(environment: dict[str, str], *command: str) -> object:
    """Return what a command answers with ``--json``."""
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:], "--json"], env=environment, capture_output=True,
        text=True, timeout=COMMAND_LIMIT_S, check=False,
    )  # fmt: skip
    if done.returncode:
        raise DemoError(f"{' '.join(command)}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def header(path: Path) -> dict[str, str]:
    """Return the cards of a FITS file's primary header as text, by keyword."""
    cards = {}
    with path.open("rb") as file:
        while block := file.read(BLOCK).decode("ascii"):
            for start in range(0, len(block), 80):
                card = block[start : start + 80]
                if card.rstrip() == "END":
                    return cards
                if card[8:10] == "= ":
                    value = card[10:].strip()
                    text = value[1:].partition("'")[0] if value.startswith("'") else ""
                    cards[card[:8].strip()] = text.strip() or value.partition("/")[0].strip()
    return cards


def show_files(folder: Path, before: set[Path]) -> int:
    """List the FITS files that are new, with their key cards; return how many."""
    files = sorted(path for path in folder.rglob("*.fits") if path not in before)
    for path in files:
        cards = header(path)
        size_mb = path.stat().st_size / 1e6
        print(f"  {path.relative_to(folder)}  {size_mb:.1f} MB")
        print("     " + "  ".join(f"{key}={cards[key]}" for key in CARDS if key in cards))
    return len(files)


def make_site(folder: Path, small: bool) -> dict[str, str]:
    """Write the site's configuration; return the environment to use it by."""
    words = ["simulate", "site", str(folder), *(["--small"] if small else [])]
    if (folder / "env").is_file():
        words.append("--force")  # ours, from an earlier time: new ports, the frames stay
    heading("A site in one folder: a 61 Mpx camera, a guider, the pipeline's receiving end, a log")
    shown = [word if word != str(folder) else folder.name for word in words]
    print(f"$ nightjar {' '.join(shown)}", flush=True)
    answer = ask(dict(os.environ), "nightjar", *words)
    if not isinstance(answer, dict):
        raise DemoError("nightjar simulate gave no object")
    for name, value in answer["environment"].items():
        print(f"  {name}={value}")
    return {**os.environ, **answer["environment"]}


def observe(environment: dict[str, str], frames: int) -> None:
    """Initialize, cool, take a sequence with each camera, look at the result."""
    heading("Connect to the cameras; they cool at once")
    run(environment, "cam", "test", "init")
    run(environment, "cam", "guide", "init")
    run(environment, "cam", "test", "wait", "--cooler", "locked", "--timeout", "90")
    heading("A sequence with each camera: the guider in the background, the big one with progress")
    run(environment, "cam", "guide", "exposure", "0.2")
    run(environment, "cam", "guide", "start", "5")
    run(environment, "cam", "test", "exposure", "1")
    run(environment, "cam", "test", "filter", "V")
    run(environment, "cam", "test", "start", str(frames), "--wait")
    run(environment, "cam", "test", "wait", "--state", "idle", "--timeout", "60")
    run(environment, "cam", "guide", "wait", "--state", "idle", "--timeout", "60")
    heading("What the camera says now")
    run(environment, "cam", "test", "status")


def wait_for_archive(environment: dict[str, str], limit_s: float = 60.0) -> None:
    """Wait until the archive has moved every frame that it was given."""
    deadline = time.monotonic() + limit_s
    while True:
        answer = ask(environment, "archive", "status")
        if not isinstance(answer, dict) or not answer.get("waiting"):
            return
        if time.monotonic() > deadline:
            raise DemoError("frames still wait for the archive")
        time.sleep(0.2)


def demonstrate(folder: Path, small: bool, frames: int) -> None:
    """Do all of it; the site is stopped in order whatever happens."""
    began = time.monotonic()
    archive = folder / "archive"
    before = set(archive.rglob("*.fits"))
    environment = make_site(folder, small)
    heading("Start every daemon: the log first, then the pipeline, then the cameras")
    run(environment, "nightjar", "up", "--detach")
    try:
        run(environment, "nightjar", "status")
        observe(environment, frames)
        wait_for_archive(environment)
        heading("What became of the frames")
        run(environment, "archive", "status")
        heading(f"The FITS files in {archive}")
        count = show_files(archive, before)
        if count != frames + 5:
            raise DemoError(f"{count} files, not {frames + 5}")
        heading("What the observatory log says")
        run(environment, "cam", "test", "log", "-n", "6")
    finally:
        heading("Stop in order: cameras warm up first, the log goes last")
        run(environment, "nightjar", "down")
    print(f"\nDone in {time.monotonic() - began:.0f} s. Everything is in {folder}; look around:")
    environment_file, programs = shlex.quote(str(folder / "env")), shlex.quote(str(BIN))
    print(f"  . {environment_file}; PATH={programs}:$PATH; nightjar up", flush=True)


def main() -> int:
    """Run the demonstration; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("demo-site"))
    parser.add_argument("--small", action="store_true", help="two small cameras: 20 MB, not 700")
    parser.add_argument("--frames", type=int, default=4, help="frames of 61 Mpx to take")
    options = parser.parse_args()
    folder = options.folder.resolve()
    if folder.exists() and any(folder.iterdir()) and not (folder / "env").is_file():
        print(f"demo: {folder} holds something else; give another --folder", file=sys.stderr)
        return 2
    # In the incoming folder and the archive at the same time, at worst; and the frame buffer.
    needed = SPARE_BYTES + (2 * options.frames + 6) * (5_000_000 if options.small else 125_000_000)
    free = shutil.disk_usage(folder if folder.exists() else folder.parent).free
    if free < needed:
        print(f"demo: {needed / 1e9:.1f} GB of disk needed, {free / 1e9:.1f} GB free; "
              f"try --small or another --folder", file=sys.stderr)  # fmt: skip
        return 1
    # Ctrl-C reaches the running command as well; here it only has to lead to the orderly stop.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        demonstrate(folder, options.small, options.frames)
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted; the site was stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
