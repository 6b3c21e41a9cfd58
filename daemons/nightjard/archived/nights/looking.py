# SPDX-License-Identifier: BSD-3-Clause
"""What is known of nights: the commands that look and change nothing."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nightjar.api.nights import NightState, StepState
from nightjar.errors import Code, NightjarError, Refused
from nightjar.times import iso
from nightjard.archived.nights import answers
from nightjard.archived.nights.care import Care
from nightjard.archived.nights.engine import Engine, Standing
from nightjard.archived.nights.finding import Finder, Listing, released_text
from nightjard.archived.nights.jobs import Jobs
from nightjard.archived.nights.manifest.taken import taken
from nightjard.archived.nights.plan import Plan
from nightjard.archived.nights.steps.context import Context, Tools
from nightjard.archived.nights.steps.copying import (
    is_still_safe,
    still_text,
    unheld,
    unheld_text,
    unproven,
)
from nightjard.archived.nights.steps.planning import Sync
from nightjard.archived.nights.store import Row
from nightjard.archived.nights.summary import summary
from nightjard.archived.nights.tracing import why

_EVENTS = 20
_PLANS = 4  # kept for the questions that people ask one after the other


class Looking:
    """Answers to questions; the names of the methods are those of the commands.

    Parameters
    ----------
    work, engine, finder, jobs, care
        Of the pipeline.
    """

    def __init__(
        self, work: Tools, engine: Engine, finder: Finder, jobs: Jobs, care: Care
    ) -> None:
        self._config = work.config
        self._store = work.store
        self._transfers = work.transfers
        self._engine = engine
        self._finder = finder
        self._jobs = jobs
        self._care = care
        self._plans: OrderedDict[tuple[str, str], Plan] = OrderedDict()

    def nights_table(self, family: str | None) -> list[dict[str, Any]]:
        """Return TABLE_KEYS of all nights, oldest first."""
        if family is not None and family not in self._config.families:
            known = ", ".join(self._config.families)
            raise Refused(f"no family {family!r}; there are: {known}", code=Code.UNKNOWN_ITEM)
        return [self.row(night) for night in self._finder.discover(family)]

    def row(self, night: Row, *, is_proven: bool | None = None) -> dict[str, Any]:
        """Return TABLE_KEYS of a night; `is_proven` where it was looked at already."""
        job = self._jobs.of_night(night["id"])
        row = answers.table_row(night, job.step if job is not None else None)
        if not (self._is_proven(night) if is_proven is None else is_proven):
            row.update(
                transferred_to_scexao6=False, transferred_timestamp=None,
                safe_on_scexao6=False, safe_timestamp=None,
            )  # fmt: skip
            if row["state"] in (NightState.SAFE.value, NightState.TRANSFERRED.value):
                row["state"] = NightState.VERIFIED.value
        # Frames that came after the proof are safe nowhere; nobody need have announced them.
        if night["family"] in self._config.families and (
            self._finder.late(night) if night["released_ns"] is not None
            else night["processed_ns"] is not None and self._finder.has_news(night)
            and not self._engine.is_planned(night)
        ):  # fmt: skip
            row.update(
                state=NightState.WAITING.value, processed=False, processed_timestamp=None,
                transferred_to_scexao6=False, transferred_timestamp=None,
                safe_on_scexao6=False, safe_timestamp=None,
            )  # fmt: skip
        return row

    def _is_proven(self, night: Row) -> bool:
        """Tell whether a night is as safe as was written down; others may have written to it."""
        if night["safe_ns"] is None or night["family"] not in self._config.families:
            return True
        try:
            return is_still_safe(self._context(night))
        except NightjarError:
            return False

    def _context(self, night: Row) -> Context:
        context = self._engine.context(night)
        plan = self._plan(night) if self._transfers.takes_raw(night["family"]) else None
        if plan is not None:
            context.keep(plan, night["plan_hash"])
        return context

    def night_status(self, night: str, family: str) -> dict[str, Any]:
        """Return NIGHT_KEYS."""
        row = self._finder.resolve(night, family)
        listing = self._finder.listing(row)
        standing = self._engine.standing(row, listing)
        activity = self._finder.activity(row, listing)
        job = self._jobs.of_night(row["id"])
        operation = job.operation.id if job is not None else None
        is_proven = self._is_proven(row)
        table = self.row(row, is_proven=is_proven)
        if activity.is_recording and row["plan_hash"] is None:
            table["state"] = NightState.RECORDING.value
        plan = self._plan(row)
        return {
            **table, "plan_hash": row["plan_hash"],
            "steps": [answers.step_row(each) for each in standing],
            "cubes": self._store.cube_totals(row["id"]),
            "products": self._store.product_states(row["id"]),
            "runs": answers.run_reports(plan, self._config) if plan is not None else [],
            "copies": self._care.copies(row), "ingested": self._ingested(row),
            "events": [
                {"time": iso(each["time_ns"], 0), "kind": each["kind"], "text": each["text"],
                 "by": each["by"]}
                for each in self._store.events(row["id"], _EVENTS)
            ],
            "operation": operation,
            "next": _next(row, standing, activity.text, operation, self._finder.late(row),
                          self._unheld(row, listing), "" if is_proven else self._unproven(row)),
        }  # fmt: skip

    def _unheld(self, night: Row, listing: Listing) -> list[str]:
        if night["family"] not in self._config.families or self._plan(night) is None:
            return []
        context = self._engine.context(night, listing=listing)
        context.keep(self._plans[night["folder"], night["plan_hash"]], night["plan_hash"])
        return unheld(context)

    def _unproven(self, night: Row) -> str:
        try:
            return still_text(unproven(self._context(night)), night["date"])
        except NightjarError as error:
            return error.message

    def _ingested(self, night: Row) -> dict[str, Any] | None:
        family = self._config.families.get(night["family"])
        if family is None or not family.manifest:
            return None
        found = taken(self._store.database, night["id"])
        if found.time_ns is None:
            return None
        return {"files": found.files, "confirmed": len(found.confirmed),
                "time": iso(found.time_ns, 0)}  # fmt: skip

    def _plan(self, night: Row) -> Plan | None:
        if night["plan_hash"] is None:
            return None
        key = (night["folder"], night["plan_hash"])
        plan = self._plans.get(key)
        if plan is None:
            try:
                plan = Plan.load(Path(night["folder"]), night["plan_hash"])
            except NightjarError:
                return None
            while len(self._plans) >= _PLANS:
                self._plans.popitem(last=False)
            self._plans[key] = plan
        return plan

    def nights_settings(self) -> dict[str, Any]:
        """Return the configuration."""
        return dict(self._config.model_dump(mode="json"))

    def nights_progress(self) -> list[dict[str, Any]]:
        """Return PROGRESS_KEYS of what runs."""
        return self._jobs.snapshot()

    def summary(self, night: str, family: str) -> dict[str, Any]:
        """Return SUMMARY_KEYS; of a night without a plan that of a plan made for the question."""
        row = self._finder.resolve(night, family)
        plan = self._plan(row)
        if plan is None:
            plan, _, _ = Sync().make(self._engine.context(row))
        return {"family": row["family"], "state": self.row(row)["state"],
                **summary(plan, self._config)}  # fmt: skip

    def why(self, frame: str, night: str | None, family: str | None) -> dict[str, Any]:
        """Return WHY_KEYS."""
        row = None if night is None else self._finder.resolve(night, family or "archival")
        found = why(self._store, frame, row, family)
        known = self._store.find(found["family"], found["night"])
        if known is not None and found["facts"].get("path"):
            found["copies"] = self._care.copies_of(known, found["facts"]["path"])
        return found

    def forecast(self) -> dict[str, Any]:
        """Return FORECAST_KEYS."""
        return self._care.forecast(self._finder.discover())


def _next(
    night: Row, standing: Sequence[Standing], activity: str, operation: str | None,
    late: Sequence[str], left: Sequence[str], unproven: str,
) -> str:  # fmt: skip
    date = night["date"]
    due = [each.name for each in standing if not each.is_settled]
    cut = [each.name for each in standing if each.state is StepState.INTERRUPTED]
    if cut and operation is None and not activity:
        return (
            f"{cut[0]} was interrupted: archive run {date} goes on from there, or the next "
            "process-all"
        )
    if operation is not None:
        return f"it is being worked on: operation {operation}"
    if night["released_ns"] is not None:
        return released_text(night, late) if late else "raw was released; nothing follows"
    if activity:
        return activity
    if night["error"]:
        return f"put right what failed, then: archive run {date}"
    if unproven and not left and due in ([], ["transfer"]):
        return unproven
    if due:
        return f"archive run {date} (from step {due[0]}), or the next process-all"
    if night["safe_ns"] is None and left:
        return f"all steps are done, but {unheld_text(left)}"
    if night["safe_ns"] is None:
        return "all steps are done; no destination has proven a copy"
    return "nothing: it is safe"


