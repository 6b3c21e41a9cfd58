# SPDX-License-Identifier: BSD-3-Clause
"""The commands that do the steps of nights: plan, run, process-all."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nightjar.api.nights import STEPS
from nightjar.api.states import Level
from nightjar.errors import Busy, InvalidArgument, NightjarError, Refused
from nightjar.times import iso
from nightjard.archived.nights import answers
from nightjard.archived.nights.care import Care
from nightjard.archived.nights.engine import Engine
from nightjard.archived.nights.finding import Finder
from nightjard.archived.nights.jobs import Job, Jobs
from nightjard.archived.nights.looking import Looking
from nightjard.archived.nights.plan import Plan, plan_path
from nightjard.archived.nights.steps.context import Context
from nightjard.archived.nights.steps.context import Tools as WorkTools
from nightjard.archived.nights.steps.planning import Sync
from nightjard.archived.nights.store import Row
from nightjard.archived.tools import Tools


class Processing:
    """Steps of nights, in jobs; the names of the public methods are those of the commands.

    Parameters
    ----------
    tools
        Clock and sinks of the daemon.
    work, engine, finder, jobs, care, looking
        Of the pipeline.
    """

    def __init__(
        self, tools: Tools, work: WorkTools, engine: Engine, finder: Finder, jobs: Jobs,
        care: Care, looking: Looking,
    ) -> None:  # fmt: skip
        self._tools = tools
        self._config = work.config
        self._store = work.store
        self._engine = engine
        self._finder = finder
        self._jobs = jobs
        self._care = care
        self._looking = looking
        self.failed: list[str] = []

    def context(self, night: Row, job: Job) -> Context:
        """Return what steps are given that a job does."""
        return self._engine.context(
            night, progress=job.tell, cancelled=job.cancelled.is_set
        )

    def note_failures(self) -> None:
        """Tell of nights that need a person, as health."""
        failed = [row for row in self._store.nights() if row["error"]]
        self.failed = [row["date"] for row in failed]
        if failed:
            first = failed[0]
            self._tools.health.set(
                "nights", Level.DEGRADED,
                f"{len(failed)} nights have failed, first {first['date']}: {first['error']} "
                f"(archive status {first['date']})",
            )  # fmt: skip
        else:
            self._tools.health.ok("nights")

    def plan_night(self, night: str, family: str, dry_run: bool) -> dict[str, Any]:
        """Begin to plan a night."""
        row = self._finder.resolve(night, family)

        def work(job: Job) -> dict[str, Any]:
            began = time.monotonic()
            job.begin(row)
            context = self.context(row, job)
            if dry_run:
                plan, _, _ = Sync().make(context)
                return answers.plan_result(
                    plan, row, self._config, path=None, seconds=time.monotonic() - began
                )
            self._require_settled(row)
            self._engine.run(row, ["sync"], progress=job.tell, cancelled=job.cancelled.is_set)
            fresh = self._store.get(row["id"])
            made = Plan.load(Path(fresh["folder"]), fresh["plan_hash"])
            path = plan_path(Path(row["folder"]), fresh["plan_hash"])
            return answers.plan_result(
                made, row, self._config, path=str(path), seconds=time.monotonic() - began,
            )

        return self._jobs.start("plan_night", work, alone="" if dry_run else alone(row))

    def _require_settled(self, night: Row) -> None:
        self._finder.require_raw(night)
        text = self._finder.activity(night).text
        if text:
            raise Refused(
                f"night {night['date']}: {text}; `archive seal {night['date']}` if nothing follows"
            )

    def run_night(
        self, night: str, family: str, step: str | None, from_step: str | None,
        until_step: str | None, dry_run: bool, force: bool, verify: str | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Begin to do steps of a night."""
        names = steps_between(step, from_step, until_step)
        row = self._finder.resolve(night, family)
        if not dry_run:
            self._require_settled(row)

        def work(job: Job) -> dict[str, Any]:
            return self._run(row, names, job, dry_run=dry_run, force=force, verify=verify)

        return self._jobs.start("run_night", work, alone="" if dry_run else alone(row))

    def _run(
        self, row: Row, names: Sequence[str], job: Job, *, dry_run: bool = False,
        force: bool = False, verify: str | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        job.begin(row)
        job.step_seconds.clear()
        began = time.monotonic()
        if dry_run:
            results = self._engine.preview(row, names)
            results.pop("plan", None)
        else:
            try:
                results = self._engine.run(
                    row, names, progress=job.tell, cancelled=job.cancelled.is_set,
                    is_forced=force, verify=verify,
                )  # fmt: skip
            finally:
                job.end_step()
                self.note_failures()
            self._say_done(row, results)
        fresh = self._store.get(row["id"])
        return {
            "night": row["date"], "family": row["family"],
            "state": self._looking.row(fresh)["state"],
            "steps": answers.step_outcomes(results, job.step_seconds),
            "frames": fresh["raw_frames"] or 0, "bytes": fresh["raw_bytes"] or 0,
            "seconds": round(time.monotonic() - began, 3),
        }  # fmt: skip

    def _say_done(self, row: Row, results: Mapping[str, Any]) -> None:
        done = [name for name, result in results.items() if result != "done before"]
        if done:
            self._tools.obslog.info(f"night {row['date']} ({row['family']}): {', '.join(done)}")

    def process_all(self, family: str | None, dry_run: bool) -> dict[str, Any]:
        """Begin to do all steps of every night that needs work, oldest first."""

        def work(job: Job) -> dict[str, Any]:
            result: dict[str, Any] = {"nights": [], "skipped": [], "failed": [], "scrubbed": []}
            for row in self._finder.discover(family):
                if job.cancelled.is_set():
                    break
                name = {"night": row["date"], "family": row["family"]}
                try:
                    reason = self._reason_to_skip(row)
                    if reason:
                        result["skipped"].append({**name, "reason": reason})
                        continue
                    result["nights"].append(self._run(row, STEPS, job, dry_run=dry_run))
                except Busy as error:
                    result["skipped"].append({**name, "reason": error.message})
                except NightjarError as error:
                    if job.cancelled.is_set():
                        raise
                    self._tools.obslog.error(f"night {row['date']}: {error.message}")
                    result["failed"].append({**name, "error": error.message})
            if not dry_run:
                result["scrubbed"] = self._scrub_due(family, job)
            return result

        return self._jobs.start("process_all", work, alone="" if dry_run else "process-all")

    def _scrub_due(self, family: str | None, job: Job) -> list[dict[str, Any]]:
        """Have copies read again that were not for long; what fails does not end the rest."""
        found = []
        for row, destination in self._care.due(family, None):
            if job.cancelled.is_set():
                break
            job.begin(row)
            entry = {"night": row["date"], "family": row["family"], "destination": destination}
            try:
                context = self.context(row, job)
                answer = self._care.scrub(context, destination)[destination]
                found.append({**entry, "is_good": answer["is_good"], "error": None})
            except NightjarError as error:
                self._tools.obslog.error(f"copy of {row['date']} at {destination}: {error.message}")
                found.append({**entry, "is_good": False, "error": error.message})
        return found

    def _reason_to_skip(self, row: Row) -> str:
        if row["family"] not in self._config.families:
            return f"family {row['family']} is not configured any more"
        if row["released_ns"] is not None:
            if self._finder.late(row):
                self._finder.require_raw(row)
            return "its raw cubes were released"
        if not Path(row["folder"]).is_dir():
            return "its folder is gone"
        listing = self._finder.listing(row)
        activity = self._finder.activity(row, listing)
        if activity.text:
            return activity.text
        if not activity.is_whole:
            return (
                f"it may go on: the last file is of {iso(activity.newest_ns, 0)}; "
                f"{self._config.seal_hours:g} h must pass, or: archive seal {row['date']}"
            )
        if not activity.files:
            return "it has no raw cubes"
        if all(each.is_settled for each in self._engine.standing(row, listing)):
            return "nothing to do"
        return ""


def alone(night: Row) -> str:
    """Return the name under which a night is worked on by one job at a time."""
    return f"{night['family']}/{night['date']}"


def steps_between(
    step: str | None, from_step: str | None, until_step: str | None
) -> tuple[str, ...]:
    """Return the names of steps that are meant.

    Raises
    ------
    InvalidArgument
        One step and a stretch, or a stretch that ends before it begins.
    """
    if step is not None:
        if from_step is not None or until_step is not None:
            raise InvalidArgument("give one step, or a stretch by from and until, not both")
        return (step,)
    first = STEPS.index(from_step) if from_step is not None else 0
    last = STEPS.index(until_step) if until_step is not None else len(STEPS) - 1
    if last < first:
        raise InvalidArgument(f"step {until_step} comes before {from_step}: {', '.join(STEPS)}")
    return STEPS[first : last + 1]
