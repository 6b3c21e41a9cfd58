# SPDX-License-Identifier: BSD-3-Clause
"""The pipeline as the daemon offers it: one method for each command of the nights.

Methods that begin something long return ``{"operation": id}``; their results, and those of the
others, have the keys of :mod:`nightjar.api.night_results`.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nightjar.api.nights import NIGHT_COMMANDS, STEPS, NightState
from nightjar.api.states import Level
from nightjar.errors import Busy, Code, InvalidArgument, NightjarError, Refused
from nightjar.files import is_safe_name
from nightjar.times import iso
from nightjard.archived.database import Database
from nightjard.archived.nights import answers
from nightjard.archived.nights.care import Care
from nightjard.archived.nights.config import Gen2Ids, NightsConfig
from nightjard.archived.nights.dictionary import Dictionary
from nightjard.archived.nights.doctor import Doctor
from nightjard.archived.nights.engine import Engine
from nightjard.archived.nights.executor.choosing import executor_of
from nightjard.archived.nights.finding import Finder
from nightjard.archived.nights.ids import FrameIds, Gen2Allocator, LocalAllocator
from nightjard.archived.nights.jobs import Job, Jobs
from nightjard.archived.nights.papers import Papers
from nightjard.archived.nights.plan import Plan, plan_path
from nightjard.archived.nights.steps.context import Tools as WorkTools
from nightjard.archived.nights.steps.planning import Sync
from nightjard.archived.nights.store import NightStore, Row
from nightjard.archived.nights.summary import summary
from nightjard.archived.nights.tracing import why
from nightjard.archived.nights.transfer.transfers import Transfers
from nightjard.archived.tools import Tools

_EVENTS = 20
_PLANS = 4  # kept for the questions that people ask one after the other


class Nights:
    """The pipeline of one archive.

    Parameters
    ----------
    config
        See :class:`~nightjard.archived.nights.config.NightsConfig`.
    database
        Of the archive; closed by whoever opened it.
    tools
        Clock and sinks of the daemon.

    Raises
    ------
    ConfigError
        The dictionary cannot be read, or this machine has no id.
    """

    def __init__(self, config: NightsConfig, database: Database, tools: Tools) -> None:
        self._config = config
        self._tools = tools
        self._clock = tools.clock
        self._store = NightStore(database)
        ids = config.ids
        allocator = (
            Gen2Allocator(ids.url, ids.timeout, tools.clock)
            if isinstance(ids, Gen2Ids) else LocalAllocator(database, ids.first)
        )  # fmt: skip
        work = WorkTools(
            config, self._store, tools.clock, Dictionary.load(config.dictionary),
            FrameIds(database, allocator, tools.clock),
            Transfers(database, tools.clock, config.destinations, config.retention,
                      machine_id=config.machine_id),
            lambda: executor_of(config.executor),
        )  # fmt: skip
        self._engine = Engine(work)
        self._finder = Finder(config, self._store, tools.clock)
        self._jobs = Jobs(tools.operations, tools.clock, config.executor.workers)
        self._failed: list[str] = []
        self._plans: OrderedDict[tuple[str, str], Plan] = OrderedDict()
        self._care = Care(work, self._engine)
        self._papers = Papers(work, self._engine)
        self._doctor = Doctor(work, self._finder)

    def handlers(self, who: Callable[[], str]) -> Mapping[str, Callable[..., Any]]:
        """Return a handler per command.

        Parameters
        ----------
        who
            Names the caller.
        """
        own = {"release": lambda **given: self.release(**given, who=who()),
               "restore_night": lambda **given: self.restore_night(**given, who=who()),
               "veto": lambda **given: self.veto(**given, who=who()),
               "seal": lambda **given: self.seal(**given, who=who())}  # fmt: skip
        return {
            command.name: own.get(command.name) or getattr(self, command.name)
            for command in NIGHT_COMMANDS
        }

    def stop(self, report: Callable[[str], None]) -> None:
        """Stop what is at work; it goes on in the next life."""
        self._jobs.stop(report)

    def start(self) -> None:
        """Take note of what an earlier life left."""
        self._note_failures()

    def _note_failures(self) -> None:
        """Tell of nights that need a person, as health."""
        failed = [row for row in self._store.nights() if row["error"]]
        self._failed = [row["date"] for row in failed]
        if failed:
            first = failed[0]
            self._tools.health.set(
                "nights", Level.DEGRADED,
                f"{len(failed)} nights have failed, first {first['date']}: {first['error']} "
                f"(archive status {first['date']})",
            )  # fmt: skip
        else:
            self._tools.health.ok("nights")

    def brief(self) -> dict[str, Any]:
        """Return what the daemon's status says of nights; from memory only."""
        running = [
            {key: each[key] for key in ("command", "family", "night", "step", "fraction")}
            for each in self._jobs.snapshot()
        ]
        return {"running": running, "failed": list(self._failed)}

    # --- looking ---

    def nights_table(self, family: str | None) -> list[dict[str, Any]]:
        """Return TABLE_KEYS of all nights, oldest first."""
        if family is not None and family not in self._config.families:
            known = ", ".join(self._config.families)
            raise Refused(f"no family {family!r}; there are: {known}", code=Code.UNKNOWN_ITEM)
        return [self._row(night) for night in self._finder.discover(family)]

    def _row(self, night: Row) -> dict[str, Any]:
        job = self._jobs.of_night(night["id"])
        row = answers.table_row(night, job.step if job is not None else None)
        is_proven = night["processed_ns"] is not None and night["released_ns"] is None
        # Frames that came after the proof are safe nowhere; nobody need have announced them.
        if is_proven and night["family"] in self._config.families and (
            self._finder.has_news(night) and not self._engine.is_planned(night)
        ):  # fmt: skip
            row.update(
                state=NightState.WAITING.value, processed=False, processed_timestamp=None,
                transferred_to_scexao6=False, transferred_timestamp=None,
                safe_on_scexao6=False, safe_timestamp=None,
            )  # fmt: skip
        return row

    def night_status(self, night: str, family: str) -> dict[str, Any]:
        """Return NIGHT_KEYS."""
        row = self._finder.resolve(night, family)
        standing = self._engine.standing(row)
        activity = self._finder.activity(row)
        job = self._jobs.of_night(row["id"])
        operation = job.operation.id if job is not None else None
        table = self._row(row)
        if activity.is_recording and row["plan_hash"] is None:
            table["state"] = NightState.RECORDING.value
        plan = self._plan(row)
        due = [each.name for each in standing if not each.is_settled]
        return {
            **table, "plan_hash": row["plan_hash"],
            "steps": [answers.step_row(each) for each in standing],
            "cubes": self._store.cube_totals(row["id"]),
            "products": self._store.product_states(row["id"]),
            "runs": [answers.run_report(run) for run in plan.runs] if plan is not None else [],
            "copies": self._care.copies(row),
            "events": [
                {"time": iso(each["time_ns"], 0), "kind": each["kind"], "text": each["text"],
                 "by": each["by"]}
                for each in self._store.events(row["id"], _EVENTS)
            ],
            "operation": operation,
            "next": _next(row, due, activity.text, operation),
        }  # fmt: skip

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
        return {"family": row["family"], "state": self._row(row)["state"],
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

    def doctor(self) -> dict[str, Any]:
        """Begin to try everything."""
        return self._jobs.start("doctor", lambda job: self._doctor.run(job.operation.update))

    # --- working ---

    def plan_night(self, night: str, family: str, dry_run: bool) -> dict[str, Any]:
        """Begin to plan a night."""
        row = self._finder.resolve(night, family)

        def work(job: Job) -> dict[str, Any]:
            began = time.monotonic()
            job.begin(row)
            context = self._engine.context(
                row, progress=job.tell, cancelled=job.cancelled.is_set
            )
            if dry_run:
                plan, _, _ = Sync().make(context)
                return answers.plan_result(
                    plan, row, path=None, seconds=time.monotonic() - began
                )
            self._require_settled(row)
            self._engine.run(row, ["sync"], progress=job.tell, cancelled=job.cancelled.is_set)
            fresh = self._store.get(row["id"])
            made = Plan.load(Path(fresh["folder"]), fresh["plan_hash"])
            return answers.plan_result(
                made, row, path=str(plan_path(Path(row["folder"]), fresh["plan_hash"])),
                seconds=time.monotonic() - began,
            )

        return self._jobs.start("plan_night", work, alone="" if dry_run else _alone(row))

    def _require_settled(self, night: Row) -> None:
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

        return self._jobs.start("run_night", work, alone="" if dry_run else _alone(row))

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
                self._note_failures()
            self._say_done(row, results)
        fresh = self._store.get(row["id"])
        return {
            "night": row["date"], "family": row["family"], "state": self._row(fresh)["state"],
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
                context = self._engine.context(
                    row, progress=job.tell, cancelled=job.cancelled.is_set
                )
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
            return "its raw cubes were released"
        if not Path(row["folder"]).is_dir():
            return "its folder is gone"
        activity = self._finder.activity(row)
        if activity.text:
            return activity.text
        if not activity.is_whole:
            return (
                f"it may go on: the last file is of {iso(activity.newest_ns, 0)}; "
                f"{self._config.seal_hours:g} h must pass, or: archive seal {row['date']}"
            )
        if not activity.files:
            return "it has no raw cubes"
        if all(each.is_settled for each in self._engine.standing(row)):
            return "nothing to do"
        return ""

    def verify_night(self, night: str, family: str) -> dict[str, Any]:
        """Begin to read all products of a night again."""
        return self._on_night("verify_night", night, family, self._care.verify)

    def resend(
        self, night: str, family: str, destination: str | None, dry_run: bool
    ) -> dict[str, Any]:
        """Begin to copy what destinations lack."""
        return self._on_night(
            "resend", night, family,
            lambda context: self._care.resend(context, destination, dry_run=dry_run),
        )  # fmt: skip

    def scrub(
        self, night: str | None, family: str | None, destination: str | None
    ) -> dict[str, Any]:
        """Begin to have copies read again: of one night, or of all that are due."""
        if night is not None:
            return self._on_night(
                "scrub", night, family or "archival",
                lambda context: self._care.scrub(context, destination),
            )  # fmt: skip

        def work(job: Job) -> dict[str, Any]:
            found: dict[str, Any] = {}
            for row, name in self._care.due(family, destination):
                job.begin(row)
                context = self._engine.context(
                    row, progress=job.tell, cancelled=job.cancelled.is_set
                )
                for key, value in self._care.scrub(context, name).items():
                    found[f"{row['family']}/{row['date']} {key}"] = value
            return found

        return self._jobs.start("scrub", work, alone="scrub")

    def restore_night(
        self, night: str, family: str, dry_run: bool, confirm: str | None, who: str
    ) -> dict[str, Any]:
        """Begin to bring a night back to its original state."""
        return self._on_night(
            "restore_night", night, family,
            lambda context: self._care.restore(context, confirm, who, dry_run=dry_run),
        )  # fmt: skip

    def release(
        self, night: str | None, family: str | None, dry_run: bool, who: str
    ) -> dict[str, Any]:
        """Begin to move raw to quarantine, as far as the policy allows."""
        rows = (
            self._finder.discover(family) if night is None
            else [self._finder.resolve(night, family or "archival")]
        )  # fmt: skip
        return self._jobs.start(
            "release",
            lambda job: self._care.release(
                [self._engine.context(row, progress=job.tell, cancelled=job.cancelled.is_set)
                 for row in rows], who, dry_run=dry_run,
            ),
            alone="" if dry_run else "release",
        )  # fmt: skip

    def _on_night(
        self, command: str, night: str, family: str, work: Callable[[Any], Any]
    ) -> dict[str, Any]:
        row = self._finder.resolve(night, family)

        def run(job: Job) -> Any:
            job.begin(row)
            return work(
                self._engine.context(row, progress=job.tell, cancelled=job.cancelled.is_set)
            )

        return self._jobs.start(command, run, alone=_alone(row))

    # --- papers ---

    def make_manifest(
        self, nights: Sequence[str], family: str, combine: bool, text: bool
    ) -> dict[str, Any]:
        """Begin to write manifests."""
        rows = [self._finder.resolve(night, family) for night in nights]
        return self._jobs.start(
            "make_manifest", lambda _: self._papers.manifest(rows, combine=combine, text=text)
        )

    def send_mail(self, nights: Sequence[str], family: str, dry_run: bool) -> dict[str, Any]:
        """Begin to write the letter, and to send it."""
        rows = [self._finder.resolve(night, family) for night in nights]
        return self._jobs.start("send_mail", lambda _: self._papers.mail(rows, dry_run=dry_run))

    def check_ids(self, night: str, family: str) -> dict[str, Any]:
        """Begin to compare IDs."""
        return self._on_night("check_ids", night, family, self._papers.check_ids)

    def fix_ids(self, night: str, family: str, dry_run: bool) -> dict[str, Any]:
        """Begin to put IDs right."""
        return self._on_night(
            "fix_ids", night, family,
            lambda context: self._papers.fix_ids(context, dry_run=dry_run),
        )  # fmt: skip

    def check_headers(
        self, night: str | None, family: str, paths: Sequence[str]
    ) -> dict[str, Any]:
        """Begin to compare headers with the dictionary."""
        if (night is None) == (not paths):
            raise InvalidArgument("give a night or paths, one of them")
        if night is not None:
            return self._on_night("check_headers", night, family, self._papers.check_headers)
        files = self._papers.below_roots(paths)
        return self._jobs.start("check_headers", lambda _: self._papers.check_files(files))

    def fix_headers(self, night: str, family: str, dry_run: bool) -> dict[str, Any]:
        """Begin to write values as the dictionary wants them."""
        return self._on_night(
            "fix_headers", night, family,
            lambda context: self._papers.fix_headers(context, dry_run=dry_run),
        )  # fmt: skip

    def repair_headers(
        self, night: str, family: str, keys: Sequence[str], dry_run: bool
    ) -> dict[str, Any]:
        """Begin to take values from the telemetry log."""
        return self._on_night(
            "repair_headers", night, family,
            lambda context: self._papers.repair_headers(context, keys, dry_run=dry_run),
        )  # fmt: skip

    # --- small ones ---

    def veto(self, night: str, family: str, reason: str | None, who: str) -> dict[str, Any]:
        """Forbid, or allow again, that anything of a night is released."""
        row = self._finder.resolve(night, family)
        text = (reason or "").strip() or None
        self._store.set_night(row["id"], veto=text)
        said = f"veto: {text}" if text else "the veto was taken back"
        self._store.say(row["id"], self._clock.now_ns(), "veto", said, who)
        return self._row(self._store.get(row["id"]))

    def seal(self, night: str, family: str, who: str) -> dict[str, Any]:
        """Take a night for whole."""
        row = self._finder.resolve(night, family)
        now_ns = self._clock.now_ns()
        # Where the clock was set back its files seem to come from the future.
        sealed_ns = max(now_ns, self._finder.activity(row).newest_ns)
        self._store.set_night(row["id"], sealed_ns=sealed_ns)
        self._store.say(row["id"], now_ns, "seal", "no more cubes come", who)
        return self._row(self._store.get(row["id"]))

    def notify_cube(
        self, family: str, night: str, stream: str, filename: str, size: int
    ) -> dict[str, Any]:
        """Take note of a cube."""
        each = self._config.families.get(family)
        if each is None:
            known = ", ".join(self._config.families)
            raise Refused(f"no family {family!r}; there are: {known}", code=Code.FRAME_REFUSED)
        if stream not in self._config.streams:
            known = ", ".join(self._config.streams)
            raise Refused(f"no stream {stream!r}; there are: {known}", code=Code.FRAME_REFUSED)
        if not (len(night) == 8 and night.isdigit() and night.isascii()):
            raise InvalidArgument(f"{night!r} is no night YYYYMMDD")
        if not is_safe_name(filename.replace(":", "_")) or not filename.endswith(
            (".fits", ".fits.fz")
        ):
            raise InvalidArgument(f"{filename!r} is no name of a cube")
        path = each.root / night / stream / filename
        try:
            status = os.stat(path)
        except OSError as error:
            raise Refused(
                f"{path} is not there: {error.strerror}", code=Code.FRAME_REFUSED
            ) from error
        if status.st_size != size:
            raise Refused(
                f"{path} has {status.st_size} bytes, {size} were announced",
                code=Code.FRAME_REFUSED,
            )
        row = self._store.see(family, night, str(each.root / night), self._clock.now_ns())
        is_new = self._store.announce(
            row["id"], f"{stream}/{filename}", stream, size, status.st_mtime_ns,
            self._clock.now_ns(),
        )  # fmt: skip
        return {"state": "noted" if is_new else "known", "family": family, "night": night}


def _alone(night: Row) -> str:
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


def _next(night: Row, due: Sequence[str], activity: str, operation: str | None) -> str:
    date = night["date"]
    if operation is not None:
        return f"it is being worked on: operation {operation}"
    if night["released_ns"] is not None:
        return "raw was released; nothing follows"
    if activity:
        return activity
    if night["error"]:
        return f"put right what failed, then: archive run {date}"
    if due:
        return f"archive run {date} (from step {due[0]}), or the next process-all"
    if night["safe_ns"] is None:
        return "all steps are done; no destination has proven a copy"
    return "nothing: it is safe"


