# SPDX-License-Identifier: BSD-3-Clause
"""How good the host's clock is: chrony where it runs, else what the kernel knows."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from nightjar.api.states import Level
from nightjar.clock import ClockHealth, clock_health
from nightjard.dasd.config import ClockConfig

CHRONY_S = 0.4
_FIELDS = 14


@dataclass(frozen=True, slots=True)
class ClockState:
    """The state of a clock, as headers and sidecars tell it.

    Attributes
    ----------
    source
        "chrony", "kernel" or "simulated".
    is_locked
        Whether something disciplines it.
    offset_s, rms_s
        Its offset from UTC as estimated now, and the rms of recent ones.
    root_dispersion_s, root_delay_s
        What the way to the reference may hide: the error is at most |offset| + dispersion
        + delay / 2 (chrony's manual, ``tracking``).
    frequency_ppm
        By how much it would be wrong if it were not disciplined.
    stratum
        Distance from a reference clock.
    """

    source: str
    is_locked: bool
    offset_s: float | None = None
    rms_s: float | None = None
    root_dispersion_s: float | None = None
    root_delay_s: float | None = None
    frequency_ppm: float | None = None
    stratum: int | None = None

    @property
    def error_s(self) -> float | None:
        """Bound of its error; None where nothing is known."""
        if not self.is_locked or self.offset_s is None:
            return None
        return abs(self.offset_s) + (self.root_dispersion_s or 0.0) + (self.root_delay_s or 0.0) / 2

    def told(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return asdict(self)


def parse_chrony(line: str) -> ClockState | None:
    """Return what ``chronyc -c tracking`` says; None where it says nothing of use.

    Fields: reference, name, stratum, reference time, system offset, last offset, rms offset,
    frequency (ppm), residual, skew, root delay, root dispersion, interval, leap status.
    """
    fields = line.strip().split(",")
    if len(fields) != _FIELDS:
        return None
    try:
        numbers = [float(field) for field in fields[2:13]]
    except ValueError:
        return None
    stratum, _, system, _, rms, frequency, _, _, delay, dispersion, _ = numbers
    is_locked = fields[13] != "Not synchronised" and 0 < stratum < 16
    return ClockState("chrony", is_locked, system, rms, dispersion, delay, frequency, int(stratum))


def _run_chronyc() -> str:
    done = subprocess.run(
        ["chronyc", "-c", "tracking"], stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=CHRONY_S, check=False,
    )  # fmt: skip
    return done.stdout if done.returncode == 0 else ""


def look(
    run: Callable[[], str] = _run_chronyc, kernel: Callable[[], ClockHealth] = clock_health
) -> ClockState:
    """Return the state of this machine's clock; never fails.

    Parameters
    ----------
    run
        Returns the output of ``chronyc -c tracking``, "" where it failed.
    kernel
        Returns what adjtimex says.
    """
    try:
        state = parse_chrony(run())
    except (OSError, subprocess.TimeoutExpired):
        state = None
    if state is not None:
        return state
    known = kernel()
    return ClockState(
        "kernel", known.is_synchronised, known.estimated_error_s,
        root_dispersion_s=known.maximum_error_s,
    )  # fmt: skip


def judge(state: ClockState, config: ClockConfig) -> tuple[Level, str]:
    """Return how well a clock is, and in words why and what to do."""
    todo = "look at chrony (chronyc tracking), then das check --clock"
    if state.source == "simulated" and not state.is_locked:
        # It is so on purpose: worth a word, and nothing that a person could mend.
        return Level.DEGRADED, "simulated, and not disciplined, as configured; files say so"
    if not state.is_locked:
        return Level.FAILED, f"the clock is not synchronised (by {state.source}); {todo}"
    error_s = state.error_s
    if error_s is None:
        return Level.OK, f"the clock is synchronised (by {state.source})"
    text = f"the clock is within {error_s * 1e3:.3g} ms (by {state.source})"
    if error_s > config.limit_s:
        return Level.FAILED, f"{text}; the limit is {config.limit_s * 1e3:g} ms: {todo}"
    if error_s > config.warn_s:
        return Level.DEGRADED, f"{text}; good ones are within {config.warn_s * 1e3:g} ms: {todo}"
    return Level.OK, text
