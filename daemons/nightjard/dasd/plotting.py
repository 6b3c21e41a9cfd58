# SPDX-License-Identifier: BSD-3-Clause
"""Pictures of channels as PNG, drawn in a process of its own.

Matplotlib takes 40 MB and a second to load; the process that records has no room for either. Run
as ``python -m nightjard.dasd.plotting``: samples and titles on standard input, PNG on its output.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.errors import NightjarError, TimedOut

DRAWING_S = 60.0
MOST_CURVES = 64


def draw(samples: NDArray[np.int16], facts: dict[str, Any], timeout_s: float = DRAWING_S) -> bytes:
    """Return a PNG, drawn by another process.

    Parameters
    ----------
    samples
        (n, channels) int16.
    facts
        kind ("time", "spectrum", "levels"), rate_hz, volts_per_lsb, names, channels, title.

    Raises
    ------
    NightjarError
        It cannot be drawn: matplotlib is missing, or what it says.
    TimedOut
        It took too long.
    """
    packed = io.BytesIO()
    np.savez(packed, samples=samples, facts=np.array(json.dumps(facts)))
    # A crowded machine shall record first and draw afterwards.
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    try:
        done = subprocess.run(
            ["nice", "-n", "10", sys.executable, "-m", __name__], input=packed.getvalue(),
            capture_output=True, timeout=timeout_s, check=False, env=environment,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise TimedOut(f"the plot was not drawn within {timeout_s:g} s") from None
    except OSError as error:
        raise NightjarError(f"the plot cannot be drawn: {error}") from error
    if done.returncode or not done.stdout.startswith(b"\x89PNG"):
        words = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise NightjarError(f"the plot was not drawn: {words[-1]}")
    return done.stdout


def _main() -> int:
    """Draw what stands on standard input."""
    with np.load(io.BytesIO(sys.stdin.buffer.read())) as packed:
        samples, facts = packed["samples"], json.loads(str(packed["facts"]))
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        sys.stderr.write(f"package {error.name} is missing; pip install 'nightjar[das]'\n")
        return 1
    figure = Figure(figsize=(11, 6), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    volts = samples.astype(np.float32) * np.float32(facts["volts_per_lsb"])
    {"time": _time, "spectrum": _spectrum, "levels": _levels}[facts["kind"]](axes, volts, facts)
    axes.set_title(facts["title"], fontsize=10, loc="left")
    axes.grid(visible=True, alpha=0.3)
    handles, _ = axes.get_legend_handles_labels()
    if handles and len(handles) <= 16:
        axes.legend(fontsize=8, loc="upper right")
    figure.savefig(sys.stdout.buffer, format="png")
    return 0


def _time(axes: Any, volts: NDArray[np.float32], facts: dict[str, Any]) -> None:
    seconds = (np.arange(len(volts)) - len(volts) + 1) / facts["rate_hz"]
    for place, name in enumerate(facts["names"]):
        axes.plot(seconds, volts[:, place], linewidth=0.8, label=name)
    axes.set_xlabel("time before the last sample (s)")
    axes.set_ylabel("V")


def _spectrum(axes: Any, volts: NDArray[np.float32], facts: dict[str, Any]) -> None:
    from nightjard.dasd.levels import spectrum

    frequency, density = spectrum(volts, facts["rate_hz"])
    for place, name in enumerate(facts["names"]):
        axes.loglog(frequency[1:], density[1:, place], linewidth=0.8, label=name)
    axes.set_xlabel("frequency (Hz)")
    axes.set_ylabel("V / root Hz")


def _levels(axes: Any, volts: NDArray[np.float32], facts: dict[str, Any]) -> None:
    numbers = facts["channels"]
    mean = volts.mean(axis=0)
    axes.vlines(numbers, volts.min(axis=0), volts.max(axis=0), linewidth=1.5, alpha=0.5)
    axes.plot(numbers, mean, ".", markersize=3)
    axes.set_xlabel("channel")
    axes.set_ylabel("V: least, mean, greatest")


if __name__ == "__main__":
    sys.exit(_main())
