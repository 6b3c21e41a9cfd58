# SPDX-License-Identifier: BSD-3-Clause
"""``nightjar simulate night``: a raw night with known truth below one folder."""

from __future__ import annotations

import dataclasses
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightjar.cli.session import is_terminal
from nightjar.config.paths import read_json
from nightjar.errors import InvalidArgument
from nightjard.simulators.night.parameters import NightParameters, parse_parameters
from nightjard.simulators.night.presets import PRESETS
from nightjard.simulators.night.program import make_night

if TYPE_CHECKING:
    from nightjar.cli.session import Session
    from nightjard.simulators.night.truth import NightTruth

_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})\Z", re.ASCII)
_DATE = re.compile(r"\d{8}\Z", re.ASCII)


def night_parameters(
    *,
    preset: str = "small",
    file: Path | None = None,
    seed: int | None = None,
    date: str | None = None,
    frames: int | None = None,
    size: str | None = None,
    form: str | None = None,
    damages: tuple[str, ...] = (),
) -> NightParameters:
    """Return the parameters that the options ask for.

    Raises
    ------
    ConfigError
        The file cannot be read or is wrong.
    InvalidArgument
        An option is.
    """
    parameters = parse_parameters(read_json(file)) if file is not None else PRESETS[preset]()
    if frames is not None:
        parameters = parameters.scaled(frames)
    changes: dict[str, Any] = {"seed": seed, "form": form, "damages": damages or None}
    if date is not None:
        if not _DATE.match(date):
            raise InvalidArgument(f"--date {date}: must be YYYYMMDD")
        changes["date"] = date
    if size is not None:
        match = _SIZE.match(size)
        if match is None:
            raise InvalidArgument(f"--size {size}: must be ROWSxCOLS, such as 536x536")
        changes["frame_shape"] = (int(match[1]), int(match[2]))
        # Of all frames: also of segments that have a size of their own.
        parameters = dataclasses.replace(
            parameters,
            segments=tuple(
                dataclasses.replace(segment, frame_shape=None) for segment in parameters.segments
            ),
        )
    given = {name: value for name, value in changes.items() if value is not None}
    return dataclasses.replace(parameters, **given)


def make(
    session: Session, folder: Path, parameters: NightParameters
) -> tuple[NightTruth, float]:
    """Make the night, showing how far it is on a terminal; return its truth and the seconds."""
    started = time.monotonic()
    is_shown = is_terminal(sys.stderr) and not session.is_quiet and not session.is_json

    def show(done: int, total: int) -> None:
        rate = done / max(1e-3, time.monotonic() - started)
        sys.stderr.write(f"\r{done / total:4.0%} of {total / 1e6:.0f} MB, {rate / 1e6:.0f} MB/s ")
        sys.stderr.flush()

    truth = make_night(folder, parameters, progress=show if is_shown else None)
    if is_shown:
        sys.stderr.write("\r\033[K")
    return truth, time.monotonic() - started


def describe(truth: NightTruth, seconds: float) -> tuple[dict[str, Any], list[str]]:
    """Return what was made, as a value and as lines."""
    size = sum(cube.size for cube in truth.cubes)
    first, _ = truth.pairs()
    damages = list(truth.parameters["damages"])
    value = {
        "folder": str(truth.folder), "truth": str(truth.truth_folder), "cubes": len(truth.cubes),
        "frames": len(truth.logged), "pairs": len(first), "not_in_cubes": len(truth.losses),
        "bytes": size, "seconds": round(seconds, 3), "damages": damages,
    }  # fmt: skip
    lines = [
        f"the night is in {truth.folder}: {len(truth.cubes)} cubes, {len(truth.logged)} frames, "
        f"{size / 1e6:.1f} MB in {seconds:.1f} s ({size / 1e6 / max(seconds, 1e-3):.0f} MB/s)",
        f"  pairs of frames: {len(first)}; frames lost or not logged: {len(truth.losses)}",
        f"  the truth:       {truth.truth_folder}",
    ]
    if damages:
        lines.append(f"  damage done:     {', '.join(damages)}")
    return value, lines
