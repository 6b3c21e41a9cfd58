# SPDX-License-Identifier: BSD-3-Clause
"""Simulated tests with faults, given to the real pipeline: what does a person see of them?

Scripts are shortened on both sides, so that a test is a few frames of few CCDs.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kit.calibration import (
    BLOCK,
    CHAMBER,
    EQUIPMENT,
    START_NS,
    SimulatedSession,
    shortened,
    simulated_session,
)
from nightjar.clock import Clock, ManualClock
from nightjard.calib.campaign import load_campaign
from nightjard.calib.engine.pipeline import Options, Pipeline
from nightjard.calib.engine.plan import Asked, plans_of, set_up

RUN = "D11"


@dataclass
class Seen:
    """What a run left and told.

    Attributes
    ----------
    said
        Lines that the person saw.
    """

    session: SimulatedSession
    folder: Path
    result: Mapping[str, Any]
    said: list[str]
    log: str
    flags: dict[str, dict[str, Any]] = field(default_factory=dict)

    def results(self, test: str = "") -> dict[str, Any]:
        """Return results.json of a test (default: the first)."""
        name = test or self.session.scripts[0].test
        found: dict[str, Any] = json.loads((self.folder / name / "results.json").read_text())
        return found

    def cause(self, flag: str) -> str:
        """Return the cause of a flag of the first test; KeyError where it was not raised."""
        return str(self.flags[flag]["cause"])

    def causes(self, flag: str) -> list[str]:
        """Return all causes of a flag, of whatever sub-task."""
        return [str(one["cause"]) for one in self.results()["flags"] if one["name"] == flag]

    def value(self, name: str) -> Any:
        """Return a value of the first test that is there once."""
        (found,) = [one for one in self.results()["values"] if one["name"] == name]
        return found["value"]


def campaign_file(session: SimulatedSession, root: Path, **changes: Any) -> Path:
    """Write the campaign file of a session; return its path."""
    body: dict[str, Any] = {
        "BLOCKID": BLOCK, "CHAMBER": CHAMBER, "detector": session.detector_name,
        "resroot": "results", "diffvalues": EQUIPMENT, "executor": {"workers": 1},
        "doReport": False,
        "test_specifics": {
            RUN: {
                "datapath": [str(folder) for folder in session.folders],
                "schedule": [[script.test] for script in session.scripts],
            }
        },
    }  # fmt: skip
    path = root / "campaign.json"
    path.write_text(json.dumps({**body, **changes}, indent=1))
    return path


def pipeline_of(
    session: SimulatedSession, root: Path, *, max_frames: int | None = None,
    columns: Sequence[int] | None = None, campaign: Mapping[str, Any] | None = None,
    elvis: str | None = None, said: list[str] | None = None, clock: Clock | None = None,
    is_ingested_only: bool = False, **options: Any,
) -> Pipeline:  # fmt: skip
    """Return a run of the pipeline over a session, with the real analyses.

    Parameters
    ----------
    is_ingested_only
        No sub-task is done: for what logs and names of files tell.
    """
    loaded = load_campaign(campaign_file(session, root, **(campaign or {})))
    setup = set_up(loaded, elvis)
    asked = Asked(RUN, bool(options.get("is_check_only")), is_ingested_only)
    plans = [
        dataclasses.replace(plan, planned=shortened(plan.planned, max_frames, columns))
        for plan in plans_of(setup, asked)
    ]
    options.setdefault("wait", loaded.file.wait)
    return Pipeline(
        setup, plans, Options(run=RUN, log_folder=root, **options),
        clock=clock or ManualClock(START_NS + 86_400 * 10**9),
        say=(said if said is not None else []).append,
        stream=io.StringIO(), ask=lambda _question, _seconds: False,
    )  # fmt: skip


def look_at(
    session: SimulatedSession, root: Path, *, is_check_only: bool = True, **more: Any
) -> Seen:
    """Run the pipeline over a session; return what a person sees."""
    said: list[str] = []
    result = pipeline_of(session, root, is_check_only=is_check_only, said=said, **more).run()
    log = "".join(path.read_text() for path in root.glob("Calib_*.log"))
    seen = Seen(session, root / "results" / RUN, result, said, log)
    for flag in seen.results()["flags"]:
        seen.flags.setdefault(flag["name"], flag)
    return seen


def run_faulty(
    root: Path, *faults: str, test: str = "BIAS01", ccds: int = 1, max_frames: int = 3,
    columns: Sequence[int] | None = None, simulated: Mapping[str, Any] | None = None, **more: Any,
) -> Seen:
    """Simulate a short test with faults and run the pipeline over it.

    Parameters
    ----------
    root
        Campaign, results and log go there.
    faults
        See ``nightjard.simulators.detector.faults``.
    simulated
        More options of the simulation.
    more
        Options of :func:`look_at`.
    """
    session = simulated_session(
        [test], ccds=ccds, max_frames=max_frames, columns=columns, faults=faults,
        **(simulated or {}),
    )
    return look_at(session, root, max_frames=max_frames, columns=columns, **more)
