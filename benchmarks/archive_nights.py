# SPDX-License-Identifier: BSD-3-Clause
"""Five whole nights, from raw cubes to `safe`, each frame proven by its pixels on the far host.

    python benchmarks/archive_nights.py [--frames 20000] [--only NIGHT...] [--folder /var/tmp]

Each night is simulated with its truth, processed by a real archive daemon through all its steps,
and copied by rsync over ssh to an sshd on the loopback, which reads all files and signs. Then the
frames of the far products are read back: none may be missing, doubled, altered or unknown, raw must
be as it was, and the night must be safe; else the exit code is 1. Beside that stand the scores of
pairing and modulator, the losses found, and how long each step took. One night is on the disk at a
time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from dataclasses import replace as with_
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from nightjar.fits.hdus import read_headers
from nightjar.fits.header import read_header
from nightjar.fits.tile_reader import read_frames
from nightjard.simulators.night.headers import Setup
from nightjard.simulators.night.parameters import NightParameters, Segment
from nightjard.simulators.night.pixels import Tags, read_tags
from nightjard.simulators.night.presets import HWP_ANGLES, realistic
from nightjard.simulators.night.program import make_night
from nightjard.simulators.night.triggers import CameraTiming
from nightjard.simulators.night.truth import NightTruth, frame_keys

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
from demo_far_host import far_host
from demo_night import make_site

BIN = Path(sys.executable).parent
LETTERS = {"A": 1, "B": -1}
LIMIT_S = 3600.0
#: Damages that leave every frame readable, so that the night can become safe.
DAMAGES = ("txt-missing", "txt-short", "txt-long", "txt-six-columns", "txt-no-acquisition",
           "tmp-left", "exptime-missing", "blank-name", "read-only", "short-cubes")  # fmt: skip


# --- the nights ---------------------------------------------------------------------------------


def _timings(
    offset_us: float, loss: float, spikes: float = 0.0, stalls: float = 0.0
) -> tuple[CameraTiming, CameraTiming]:
    first = CameraTiming(
        loss_before=loss / 2, loss_after=loss / 2, spike_fraction=spikes, stall_fraction=stalls
    )
    return first, with_(first, offset_us=offset_us, mean_latency_us=60.0)


def fast() -> NightParameters:
    """Return short exposures of a small crop, at every half width, offset and rate of losses.

    Between them the cameras rest for so long that each is a run of its own.
    """
    base = Setup(exposure_s=0.001, rows=268, columns=268, filter1="750-50")
    cases = [
        (half, offset, loss) for half in (0.0, 30.0, 100.0, 500.0)
        for offset, loss in ((150.0, 1e-3), (400.0, 1e-2), (1200.0, 1e-3), (-500.0, 1e-4))
    ]  # fmt: skip
    segments = [
        Segment(
            with_(base, flc=half > 0, half_width_us=half or 500.0, angle_deg=HWP_ANGLES[n % 4]),
            3000, _timings(offset, loss, spikes=1e-3), pause_s=40.0, skew_s=(0.05, 0.3),
        )
        for n, (half, offset, loss) in enumerate(cases)
    ]  # fmt: skip
    return NightParameters(tuple(segments), seed=4)


def slow() -> NightParameters:
    """Return the slow read-out and long exposures, over midnight, with a clock that is in TAI."""
    base = Setup(exposure_s=0.05, mode="Slow", filter1="Open")
    segments = [
        Segment(
            with_(base, exposure_s=exposure_s, rows=rows, columns=rows,
                  angle_deg=HWP_ANGLES[n % 4]),
            2500, _timings(offset, 1e-3, stalls=1e-4), pause_s=40.0, at_midnight=n == 5,
        )
        for n, (exposure_s, rows, offset) in enumerate(
            (exposure_s, rows, offset) for exposure_s in (0.02, 0.1, 0.4)
            for rows in (268, 536) for offset in (0.0, 800.0, 1200.0)
        )
    ]  # fmt: skip
    return NightParameters(tuple(segments), seed=5, tai_s=37)


NIGHTS: dict[str, Callable[[], NightParameters]] = {
    "realistic": realistic,
    "own logger": lambda: with_(realistic(), seed=2, form="fitslogd"),
    "damaged": lambda: with_(realistic(), seed=3, damages=DAMAGES),
    "fast": fast,
    "slow": slow,
}


# --- the site -----------------------------------------------------------------------------------


def archive(environment: dict[str, str], *words: str, allowed: tuple[int, ...] = (0,)) -> Any:
    """Return what `archive` answers with ``--json``."""
    done = subprocess.run(
        [str(BIN / "archive"), *words, "--json"], env=environment, capture_output=True, text=True,
        timeout=LIMIT_S, check=False,
    )  # fmt: skip
    if done.returncode not in allowed:
        raise SystemExit(f"archive {' '.join(words)}: {done.stdout[-2000:]}{done.stderr}")
    return json.loads(done.stdout)


@contextlib.contextmanager
def site(folder: Path) -> Iterator[tuple[dict[str, str], Path]]:
    """Have a daemon and a far host; give the environment and the folder of the copies."""
    from nightjard.site.simulate import free_ports

    ports = free_ports(2)
    with far_host(folder / "far", ports[1]) as host:
        if host is None:
            raise SystemExit("without sshd and rsync there is no far host, and nothing is safe")
        environment = make_site(folder, ports, host)
        command = [str(BIN / "nightjar")]
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run([*command, "up", "--detach"], env=environment, check=True, **quiet)
        try:
            yield environment, host.copies / "archival"
        finally:
            subprocess.run([*command, "down"], env=environment, check=True, **quiet)


# --- the proof ----------------------------------------------------------------------------------


def frame_hash(frame: np.ndarray[Any, Any]) -> bytes:
    """Return the hash of a frame's numbers."""
    return blake3(np.ascontiguousarray(frame, dtype="<u2").tobytes()).digest(16)


def raw_frames(night: Path) -> dict[int, bytes]:
    """Return the hash of every frame that lies in a raw cube, by the key that its pixels hold."""
    found = {}
    for path in sorted(night.glob("vcam*/*.fits")):
        header = read_header(path)
        shape = tuple(int(str(header[f"NAXIS{axis}"])) for axis in (3, 2, 1))
        if not shape[0]:
            continue
        stored = np.memmap(path, ">u2", "r", header.data_offset, shape)
        # BZERO 32768: the stored numbers are signed, so the first bit is the other way round.
        for frame in stored:
            pixels = (frame ^ 0x8000).astype("<u2")
            key = int(frame_keys(read_tags(pixels[np.newaxis]))[0])
            found[key] = frame_hash(pixels)
    return found


def raw_files(night: Path) -> dict[str, str]:
    """Return the hash of every raw file."""
    return {str(path.relative_to(night)): blake3(path.read_bytes()).hexdigest()
            for path in sorted(night.glob("vcam*/*")) if path.is_file()}  # fmt: skip


@dataclass
class Proof:
    """What the pixels of all products say."""

    products: int = 0
    frames: int = 0
    altered: int = 0
    states: dict[str, int] = field(
        default_factory=lambda: {"right": 0, "wrong": 0, "untold": 0}
    )
    tags: list[Tags] = field(default_factory=list)
    groups: dict[tuple[str, str], dict[int, Tags]] = field(default_factory=dict)

    def add(self, path: Path, raw: dict[int, bytes]) -> None:
        """Read a product."""
        frames = np.stack(list(read_frames(path)))
        tags = read_tags(frames)
        header = read_headers(path)[1]
        self.products += 1
        self.frames += len(tags)
        self.tags.append(tags)
        for frame, key in zip(frames, frame_keys(tags).tolist(), strict=True):
            self.altered += raw.get(int(key)) != frame_hash(frame)
        letter = str(header.get("U_FLC", "")).strip()
        if letter in LETTERS:
            right = int((tags["state"] == LETTERS[letter]).sum())
            self.states["right"] += right
            self.states["wrong"] += len(tags) - right
        elif letter == "D":
            self.states["untold"] += len(tags)
        if header.get("U_SYNC") is True:
            group = self.groups.setdefault((repr(header["MJD"]), letter), {})
            group[int(str(header["U_CAMERA"]))] = tags

    def pairs(self, truth: NightTruth) -> tuple[float, float]:
        """Return precision and recall."""
        made = right = 0
        for group in self.groups.values():
            one, other = group.get(1), group.get(2)
            if one is None or other is None or len(one) != len(other):
                made += max(map(len, group.values()))
                continue
            made += len(one)
            right += int(((one["segment"] == other["segment"])
                          & (one["trigger"] == other["trigger"])).sum())  # fmt: skip
        wanted = len(truth.pairs()[0])
        return right / max(1, made), right / max(1, wanted)


# --- one night ----------------------------------------------------------------------------------


def one_night(name: str, frames: int, base: Path) -> bool:
    """Take a night from generation to `safe`; print its lines, and return whether all is well."""
    parameters = NIGHTS[name]().scaled(frames)
    with tempfile.TemporaryDirectory(prefix="nightjar-night-", dir=base) as text:
        folder = Path(text)
        (folder / "nights").mkdir()
        began = time.monotonic()
        truth = make_night(folder / "nights", parameters)
        night = truth.folder
        before, raw = raw_files(night), raw_frames(night)
        made_s = time.monotonic() - began
        with site(folder) as (environment, copies):
            archive(environment, "seal", night.name)
            began = time.monotonic()
            done = archive(environment, "process-all", allowed=(0, 1))
            spent_s = time.monotonic() - began
            summary = archive(environment, "summary", night.name, allowed=(0, 1))
            (row,) = (each for each in archive(environment, "table") if each["night"] == night.name)
            proof = Proof()
            for path in sorted((copies / night.name).glob("v*/*.fits.fz")):
                proof.add(path, raw)
        kept = truth.conservation(proof.tags)
        changed = sum(before[path] != each for path, each in raw_files(night).items())
        steps = {each["name"]: each["seconds"] for run in done["nights"] for each in run["steps"]}
        size = sum((night / path).stat().st_size for path in before)
    precision, recall = proof.pairs(truth)
    absent = len(truth.losses)
    told_absent = sum(summary["lost"].values()) + sum(each["frames"] for each in summary["off"])
    told = proof.states
    is_good = (
        kept.is_exact and not proof.altered and not changed and row["safe_on_scexao6"]
        and not done["failed"]
    )  # fmt: skip
    print(
        f"{name:11} {len(truth.logged):7} {size / 1e6:7.0f} {len(truth.cubes):6} "
        f"{proof.products:6} {len(kept.missing):5} {len(kept.doubled):5} {proof.altered:5} "
        f"{len(kept.foreign):5} {changed:5} {precision:9.6f} {recall:9.6f} {told['wrong']:5} "
        f"{100 * told['untold'] / max(1, sum(told.values())):6.2f} {summary['ambiguous_frames']:6} "
        f"{told_absent:6} {absent:6} {spent_s:6.0f} "
        f"{len(truth.logged) / spent_s:8.0f}  {row['state']}{'' if is_good else '  NOT GOOD'}"
    )
    print(f"{'':11} generated in {made_s:.0f} s; "
          + ", ".join(f"{step} {seconds:.1f}" for step, seconds in steps.items()) + " s",
          flush=True)  # fmt: skip
    for each in done["failed"]:
        print(f"{'':11} {each['error']}")
    return bool(is_good)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--frames", type=int, default=20_000, help="of each night, about")
    parser.add_argument("--only", nargs="+", choices=NIGHTS, default=list(NIGHTS))
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"))
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; whole nights to `safe`")
    print(
        f"{'night':11} {'frames':>7} {'raw MB':>7} {'cubes':>6} {'files':>6} {'miss':>5} "
        f"{'twice':>5} {'alter':>5} {'alien':>5} {'raw*':>5} {'precision':>9} {'recall':>9} "
        f"{'wrong':>5} {'dub %':>6} {'ambig':>6} {'lost':>6} {'truth':>6} {'s':>6} {'frames/s':>8}"
        "  state"
    )
    good = [one_night(name, options.frames, options.folder) for name in options.only]
    print(
        "raw*: raw files that were changed; wrong: states of the modulator; ambig: frames of runs\n"
        "that are told as ambiguous: recall misses their partners; lost: frames of which the\n"
        "archive says that they are in no cube, beside the truth"
    )
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
