# SPDX-License-Identifier: BSD-3-Clause
"""``nightjar simulate observatory``: the minute files of a DAS, a telescope and their truth."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightjar.cli.session import is_terminal
from nightjar.das.naming import MINUTE_NS
from nightjar.errors import InvalidArgument, NightjarError
from nightjar.times import parse_iso
from nightjard.simulators.observatory.faults import FAULTS, parse_faults
from nightjard.simulators.observatory.offline import OfflineParameters, make_observatory

if TYPE_CHECKING:
    from nightjar.cli.session import Session


def observatory_parameters(
    *,
    start: str,
    minutes: int,
    seed: int,
    pattern: str,
    scan_s: float,
    speed: float,
    axes: str | None,
    faults: str,
) -> OfflineParameters:
    """Return the parameters that the options ask for.

    Raises
    ------
    InvalidArgument
        An option is wrong.
    """
    try:
        start_ns = parse_iso(start + ":00" if start.count(":") == 1 else start)
    except (NightjarError, ValueError) as error:
        raise InvalidArgument(f"--start {start}: must be UTC as 2026-11-21T10:00") from error
    if start_ns % MINUTE_NS:
        raise InvalidArgument(f"--start {start}: must be a whole minute")
    return OfflineParameters(
        start_ns, minutes, seed=seed, pattern=pattern, scan_s=scan_s, speed_arcsec_s=speed,
        axes="radec" if axes == "radec" else "azel" if axes == "azel" else None,
        faults=parse_faults(faults, minutes),
    )  # fmt: skip


def make(
    session: Session, folder: Path, parameters: OfflineParameters
) -> tuple[dict[str, Any], list[str]]:
    """Write it, showing how far it is on a terminal; return a value and lines that tell of it."""
    started = time.monotonic()
    is_shown = is_terminal(sys.stderr) and not session.is_quiet and not session.is_json

    def show(done: int, total: int) -> None:
        left = (time.monotonic() - started) / done * (total - done)
        sys.stderr.write(f"\r{done} of {total} minutes, {left:.0f} s left ")
        sys.stderr.flush()

    value = make_observatory(folder, parameters, show if is_shown else None)
    if is_shown:
        sys.stderr.write("\r\033[K")
    seconds = time.monotonic() - started
    lines = [
        f"{value['minutes']} simulated minutes are in {folder}: {value['samples']} samples, "
        f"in {seconds:.1f} s",
        "  files:     " + ", ".join(f"{n} {name}" for name, n in value["files"].items()),
        f"  sources:   {', '.join(value['sources'])}",
        f"  the truth: {value['truth']}",
    ]
    if value["faults"]:
        lines.append(f"  faults:    {', '.join(value['faults'])}")
    return {**value, "seconds": round(seconds, 3)}, lines


def faults_known() -> tuple[dict[str, str], list[str]]:
    """Return the faults that can be asked for, as a value and as lines."""
    width = max(map(len, FAULTS))
    return dict(FAULTS), [f"{name:{width}}  {meaning}" for name, meaning in FAULTS.items()]
