# SPDX-License-Identifier: BSD-3-Clause
"""What a simulated session exposes, in order, and which faults are in force when."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nightjar.calibration.detector import Detector
from nightjar.calibration.script import Script, frame_seconds
from nightjar.times import NS_PER_DAY, NS_PER_S
from nightjard.simulators.detector.faults import Fault, parse_faults, require_effect


@dataclass(frozen=True)
class Step:
    """One exposure that is to be made."""

    test: str
    run: int
    frame: int
    column: str
    values: Mapping[str, Any]
    seconds: float
    is_last: bool
    is_complete: bool


class SessionPlan:
    """What is to be exposed, in order; the faults of the whole session applied."""

    def __init__(
        self, detector: Detector, scripts: Sequence[Script], faults: Sequence[str], elvis: str
    ) -> None:
        self.faults = parse_faults(faults, [script.test for script in scripts])
        frames = {script.test: script.frames for script in scripts}
        require_effect(self.faults, frames, detector, elvis)
        versions = [fault["version"] for fault in self.faults if fault.name == "wrong-elvis"]
        self.version = versions[0] if versions else None
        self.steps: list[Step] = []
        for script in scripts:
            aborted = [f for f in self.faults if f.name == "aborted" and f.test == script.test]
            whole = script.frames
            lengths = [min(fault["frames"], whole - 1) for fault in aborted] + [whole]
            for run, length in enumerate(lengths, 1):
                self.steps += steps_of(script, detector, run, length)

    @property
    def obsids(self) -> int:
        """Return how many OBSIDs it takes, those that are left out among them."""
        jumps = [fault["count"] for fault in self.faults if fault.name == "obsid-jump"]
        return len(self.steps) + int(sum(jumps))

    def at(self, step: Step, name: str = "") -> list[Fault]:
        """Return the faults in force at an exposure, all or those of a name."""
        return [
            fault
            for fault in self.faults
            if fault.is_at(step.test, step.frame) and name in ("", fault.name)
        ]

    def start_ns(self, wanted_ns: int) -> int:
        """Return when to start: so that midnight comes where a fault wants it."""
        seconds = 0.0
        for step in self.steps:
            if self.at(step, "overnight"):
                midnight = (wanted_ns // NS_PER_DAY + 1) * NS_PER_DAY
                return midnight - round(seconds) * NS_PER_S
            seconds += step.seconds
        return wanted_ns


def steps_of(script: Script, detector: Detector, run: int, length: int) -> Iterator[Step]:
    """Yield the first exposures of a script."""
    frame = 0
    for column in script.columns:
        seconds = frame_seconds(column.values, detector)
        for _ in range(column.frames):
            frame += 1
            if frame > length:
                return
            yield Step(
                script.test, run, frame, column.name, {"test": script.test, **column.values},
                seconds, frame == length, length == script.frames,
            )  # fmt: skip
