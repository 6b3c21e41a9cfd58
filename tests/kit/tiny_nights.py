# SPDX-License-Identifier: BSD-3-Clause
"""Nights of a few hundred frames, and the pipeline as the daemon has it, without the daemon."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kit.archive_frames import Said, empty_database
from kit.nights import NightBench, nights_config
from nightjar.api.nights import NIGHT_COMMANDS
from nightjar.clock import Clock, ManualClock, SystemClock
from nightjar.health import Health
from nightjar.metrics import Metrics
from nightjar.operations import Operations
from nightjar.times import parse_iso
from nightjard.archived.database import Database
from nightjard.archived.nights.model import Nights
from nightjard.archived.nights.store import NightStore, Row
from nightjard.archived.tools import Tools
from nightjard.simulators.night.headers import Setup
from nightjard.simulators.night.parameters import NightParameters, Segment
from nightjard.simulators.night.program import make_night
from nightjard.simulators.night.triggers import CameraTiming
from nightjard.simulators.night.truth import NightTruth

DATE = "20260611"
EVENING_NS = parse_iso("2026-06-12T06:00:00")
MORNING_NS = parse_iso("2026-06-12T18:00:00")
RAW = ("vcam1", "vcam2")
SCIENCE = Setup(exposure_s=0.001, filter1="625-50", angle_deg=22.5)
DARK = Setup(
    data_type="DARK", target="DARK", exposure_s=0.002, is_triggered=False, flc=False
)


def tiny(**changes: Any) -> NightParameters:
    """Return a night of some 130 frames in 8 cubes: a dark, and a modulated segment with losses."""
    lossy = CameraTiming(offset_us=150.0, lost=((19, "after"),))
    segments = (
        Segment(DARK, frames=10, cube_frames=((6,), (8,))),
        Segment(SCIENCE, frames=50, cube_frames=((20,), (35,)), timings=(CameraTiming(), lossy)),
    )
    night = NightParameters(segments, date=DATE, frame_shape=(16, 16), telemetry_s=0)
    return dataclasses.replace(night, **changes)


def make_tiny(root: Path, **changes: Any) -> NightTruth:
    """Write a tiny night below a root; its files are of the evening, whenever the test runs."""
    truth = make_night(root, tiny(**changes))
    settle(truth.folder)
    return truth


def settle(folder: Path, time_ns: int = EVENING_NS) -> None:
    """Give all files and folders of a night one time."""
    for path in folder.rglob("*"):
        os.utime(path, ns=(time_ns, time_ns))


class Site:
    """The pipeline's commands on a folder of nights, with a SQLite database.

    Parameters
    ----------
    root, state
        Folders of the nights and of the database.
    clock
        By default it stands still on the morning after.
    changes
        Of the configuration.
    """

    def __init__(
        self, root: Path, state: Path, clock: Clock | None = None, **changes: Any
    ) -> None:
        state.mkdir(exist_ok=True)
        if not (state / "archive.db").exists():
            (state / "archive.db").write_bytes(empty_database())
        self.root = root
        self.config = nights_config(root, **{"executor": {"workers": 1}, **changes})
        self.clock: Any = clock or ManualClock(MORNING_NS)
        self.database = Database(f"sqlite:///{state / 'archive.db'}")
        self.store = NightStore(self.database)
        # What waits for a command must not wait for a clock that stands still.
        self.operations = Operations(SystemClock())
        self.said = Said()
        self.model = Nights(self.config, self.database, Tools(
            self.clock, Health(self.clock.now_ns), self.operations, Metrics("test"), self.said
        ))  # fmt: skip
        self.commands = self.model.handlers(lambda: "tester")

    def call(self, name: str, **given: Any) -> Any:
        """Do a command as it is typed; return its result, that of its operation if it is long."""
        (command,) = (each for each in NIGHT_COMMANDS if each.name == name)
        defaults = {each.name: each.default for each in command.parameters if not each.is_required}
        answer = self.commands[name](**{**defaults, **given})
        if not isinstance(answer, dict) or "operation" not in answer or "steps" in answer:
            return answer
        operation = self.operations.get(answer["operation"])
        assert operation.wait(60), name
        return operation.outcome()

    def run(self, night: str = DATE, **given: Any) -> Any:
        """Run steps of a night, all by default."""
        return self.call("run_night", night=night, family="archival", **given)

    def row(self, night: str = DATE, family: str = "archival") -> Row:
        """Return the row of a night."""
        row = self.store.find(family, night)
        assert row is not None
        return row

    def products(self, night: str = DATE) -> list[Row]:
        """Return the rows of a night's products."""
        return self.store.products(self.row(night)["id"])

    def close(self) -> None:
        """Stop what runs and close the database."""
        self.model.stop(lambda _: None)
        self.database.close()


@contextmanager
def site(root: Path, state: Path, clock: Clock | None = None, **changes: Any) -> Iterator[Site]:
    """Give a site, closed at the end."""
    made = Site(root, state, clock, **changes)
    try:
        yield made
    finally:
        made.close()


def bench_of(root: Path, url: str, **changes: Any) -> NightBench:
    """Return engine and database with one worker and a clock that stands still."""
    config = nights_config(root, **{"executor": {"workers": 1}, **changes})
    return NightBench(config, url, ManualClock(MORNING_NS))
