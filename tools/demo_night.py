# SPDX-License-Identifier: BSD-3-Clause
"""The demonstration behind ``make demo-night``: from raw cubes of two cameras to a safe night.

    .venv/bin/python tools/demo_night.py [--folder DIR] [--frames N]

A night of two cameras on one trigger is simulated, with losses, a midnight, and stretches that
cannot be told. The archive daemon plans and processes it and copies it to another "host": sshd on
this machine, with a folder and keys of its own. Then every frame of every file over there is proven
by its pixels. Once more in the same folder makes another night.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from demo import BIN, DemoError, ask, heading, run
from demo_far_host import FarHost, far_host
from numpy.typing import NDArray

DATES = [f"202606{day}" for day in range(11, 31)]
STATES = {"A": 1, "B": -1}


# --- the site -----------------------------------------------------------------------------------


def make_site(folder: Path, ports: list[int], host: FarHost | None) -> dict[str, str]:
    """Write the site's configuration; return the environment to use it by."""
    from nightjard.site.simulate import environment, registered, write_config, write_environment

    for name in ("nights", "engineering", "incoming", "state", "etc/nightjar", "etc/archived"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    write_config(
        folder / "etc/nightjar/registry.json",
        {
            "machines": {"LocalHost": ["127.0.0.1", "::1"]},
            "daemons": {"localhost_archive": registered(ports[0], "archive pipeline")},
        },
    )
    nights: dict[str, Any] = {
        "families": {
            "archival": {"root": str(folder / "nights"), "ids": True, "manifest": True},
            "engineering": {"root": str(folder / "engineering")},
        },
        "streams": {"vcam1": {}, "vcam2": {}},
        "groups": {"vsync": {"streams": ["vcam1", "vcam2"]}},
        "telemetry": "logging/keywords_log*.tsv",
    }
    if host is not None:
        nights["destinations"] = {"far": host.destination()}
        # Only here: a copy on the machine itself proves nothing, so the machine gets another name.
        nights["machine_id"] = secrets.token_hex(16)
    write_config(
        folder / "etc/archived/pipeline.json",
        {
            "daemon": "localhost_archive", "log_name": "archived@pipeline",
            "control_machines": ["LocalHost"], "cameras": ["TEST"],
            "incoming_data_path": str(folder / "incoming"), "root": str(folder / "archive"),
            "minimum_free_bytes": 500_000_000, "nights": nights,
        },
    )  # fmt: skip
    write_environment(folder)
    return {**os.environ, **environment(folder)}


@contextlib.contextmanager
def started(environment: dict[str, str]) -> Iterator[None]:
    """Have the daemon run."""
    heading("Start the archive daemon")
    run(environment, "nightjar", "up", "--detach")
    try:
        yield
    finally:
        heading("Stop it")
        run(environment, "nightjar", "down")


# --- the proof ----------------------------------------------------------------------------------


class Raw:
    """Pixels of the raw cubes of a night, by number of the truth."""

    def __init__(self, truth: Any) -> None:
        self._truth = truth
        self._cubes: dict[int, NDArray[np.uint16]] = {}

    def frame(self, cube: int, index: int) -> NDArray[np.uint16]:
        """Return a frame, shape (rows, columns)."""
        if cube not in self._cubes:
            from nightjar.fits.header import read_header

            path = self._truth.folder / self._truth.cubes[cube].path
            header = read_header(path)
            shape = tuple(int(str(header[f"NAXIS{axis}"])) for axis in (3, 2, 1))
            stored = np.fromfile(path, ">u2", int(np.prod(shape)), offset=header.data_offset)
            # BZERO 32768: the stored numbers are signed, so the first bit is the other way round.
            self._cubes[cube] = (stored ^ 0x8000).astype(np.uint16).reshape(shape)
        frame: NDArray[np.uint16] = self._cubes[cube][index]
        return frame


def prove(night: Path, products: list[Path], where: str) -> None:
    """Compare every frame of the products with the raw frame that its own pixels name.

    Raises
    ------
    DemoError
        A frame is missing, doubled, altered, foreign; a state is wrong; raw has changed.
    """
    from blake3 import blake3

    from nightjar.fits.hdus import read_headers
    from nightjar.fits.tile_reader import read_frames
    from nightjard.simulators.night.pixels import read_tags
    from nightjard.simulators.night.truth import read_truth

    truth = read_truth(night)
    raw = Raw(truth)
    found = []
    altered = right = wrong = untold = 0
    for path in products:
        frames = np.stack(list(read_frames(path)))
        tags = read_tags(frames)
        found.append(tags)
        if not tags["is_valid"].all():
            continue
        for frame, row in zip(frames, truth.find(tags), strict=True):
            altered += not np.array_equal(frame, raw.frame(int(row["cube"]), int(row["index"])))
        state = str(read_headers(path)[1].get("U_FLC", "")).strip()
        if state in STATES:
            is_right = tags["state"] == STATES[state]
            right, wrong = right + int(is_right.sum()), wrong + int((~is_right).sum())
        elif state == "D":
            untold += len(tags)
    kept = truth.conservation(found)
    print(f"  {sum(map(len, found))} frames in {len(products)} files {where}; "
          f"{len(truth.logged)} were recorded:\n"
          f"  {len(kept.missing)} missing, {len(kept.doubled)} doubled, {altered} altered, "
          f"{len(kept.foreign)} that nobody recorded")  # fmt: skip
    print(f"  state of the modulator: {right} right, {wrong} wrong, {untold} not told")
    changed = [cube.path for cube in truth.cubes
               if blake3((night / cube.path).read_bytes()).hexdigest() != cube.blake3]  # fmt: skip
    print(f"  {len(truth.cubes)} raw cubes, {len(changed)} of them changed", flush=True)
    if not kept.is_exact or altered or wrong or changed:
        raise DemoError(f"the frames {where} are not those that were recorded")


def one_alone(environment: dict[str, str], night: Path) -> str:
    """Return a recorded frame whose partner in the other camera was lost: STREAM/CUBE/INDEX."""
    from nightjard.simulators.night.truth import Fate, read_truth

    truth = read_truth(night)
    rows = truth.logged
    name = ""
    for gone in truth.losses[truth.losses["fate"] == Fate.LOST_AFTER_MEMORY]:
        same = (rows["segment"] == gone["segment"]) & (rows["trigger"] == gone["trigger"])
        for row in rows[same & (rows["camera"] != gone["camera"])]:
            name = f"{truth.cubes[int(row['cube'])].path}/{int(row['index'])}"
            found = ask(environment, "archive", "why", name, "--night", night.name)
            if isinstance(found, dict) and found["facts"].get("reason") == "unmatched":
                return name
    return name or f"{truth.cubes[0].path}/0"


# --- all of it ----------------------------------------------------------------------------------


def process(environment: dict[str, str], date: str, night: Path) -> None:
    """Do with the night what a person does on the first morning."""
    heading("The recorder wrote a minute ago: say that nothing follows")
    run(environment, "archive", "seal", date)
    heading("Plan: each raw frame gets its place in one product; no pixel is read")
    run(environment, "archive", "plan", date)
    heading("Process every night that needs it (what a timer does each morning)")
    run(environment, "archive", "process-all")
    heading("What the night is like, by minute; exit code 1, for this one lost frames on purpose")
    run(environment, "archive", "summary", date, allowed=(0, 1))
    heading("The story of one frame, whose partner was lost")
    run(environment, "archive", "why", one_alone(environment, night), "--night", date)
    heading("The table of nights")
    run(environment, "archive", "table")


def is_safe(environment: dict[str, str], date: str) -> bool:
    """Return whether the table says so."""
    rows = ask(environment, "archive", "table")
    if not isinstance(rows, list):
        raise DemoError("archive table --json gave no list")
    (row,) = (row for row in rows if row["night"] == date)
    if not row["processed"]:
        raise DemoError(f"night {date} was not processed")
    return bool(row["safe_on_scexao6"])


def demonstrate(folder: Path, date: str, frames: int | None) -> None:
    """Do all of it; daemon and sshd are ended whatever happens."""
    from nightjard.site.simulate import free_ports

    began = time.monotonic()
    night = folder / "nights" / date
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "env").touch()  # from now on the folder is ours
    heading("A raw night: two cameras on one trigger, a modulator, losses, a midnight")
    words = ["simulate", "night", str(folder / "nights"), "--date", date]
    run(dict(os.environ), "nightjar", *words, *(["--frames", str(frames)] if frames else []))
    ports = free_ports(2)
    heading("A host that keeps copies: sshd with a folder and a key to sign with")
    with far_host(folder / "far", ports[1]) as host:
        if host is not None:
            print(f"  127.0.0.1 port {ports[1]}, copies go to {host.copies}")
        environment = make_site(folder, ports, host)
        with started(environment):
            process(environment, date, night)
            safe = is_safe(environment, date)
        if host is not None and not safe:
            raise DemoError(f"night {date} is not safe: archive status {date} says why")
        heading("Every frame, proven by its pixels")
        if host is not None:
            products = sorted((host.copies / "archival" / date / "vgen2").glob("*.fits.fz"))
            prove(night, products, "on the far host")
        else:
            prove(night, sorted((night / "vgen2").glob("*.fits.fz")), "here")
    word = "safe" if safe else "processed, and not safe without a copy elsewhere"
    print(f"\nNight {date} is {word}. Done in {time.monotonic() - began:.0f} s. "
          f"Everything is in {folder}; look around:")  # fmt: skip
    environment_file, programs = shlex.quote(str(folder / "env")), shlex.quote(str(BIN))
    print(f"  . {environment_file}; PATH={programs}:$PATH; nightjar up", flush=True)


def next_date(folder: Path) -> str:
    """Return the first date of which the folder has no night.

    Raises
    ------
    DemoError
        There are twenty.
    """
    for date in DATES:
        if not (folder / "nights" / date).exists():
            return date
    raise DemoError(f"{folder} has {len(DATES)} nights: remove it, or give another --folder")


def main() -> int:
    """Run the demonstration; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("demo-night"))
    parser.add_argument("--frames", type=int, help="about so many, in place of 2800")
    options = parser.parse_args()
    folder = options.folder.resolve()
    if folder.exists() and any(folder.iterdir()) and not (folder / "env").is_file():
        print(f"demo: {folder} holds something else; give another --folder", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        demonstrate(folder, next_date(folder), options.frames)
    except (DemoError, json.JSONDecodeError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted; daemon and sshd were stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
