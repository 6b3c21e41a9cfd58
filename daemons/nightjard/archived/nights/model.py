# SPDX-License-Identifier: BSD-3-Clause
"""The pipeline as the daemon offers it: one method for each command of the nights, here or in
:mod:`~nightjard.archived.nights.looking` and :mod:`~nightjard.archived.nights.processing`.

Methods that begin something long return ``{"operation": id}``; their results, and those of the
others, have the keys of :mod:`nightjar.api.night_results`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nightjar.api.nights import DEFAULT_FAMILY, NIGHT_COMMANDS
from nightjar.errors import Code, InvalidArgument, Refused
from nightjar.executor.choosing import executor_of
from nightjar.files import is_safe_name
from nightjard.archived.database import Database
from nightjard.archived.nights.care import Care
from nightjard.archived.nights.config import Gen2Ids, NightsConfig
from nightjard.archived.nights.dictionary import Dictionary
from nightjard.archived.nights.doctor import Doctor
from nightjard.archived.nights.engine import Engine
from nightjard.archived.nights.finding import Finder
from nightjard.archived.nights.functions import ALLOWED
from nightjard.archived.nights.header_care import HeaderCare
from nightjard.archived.nights.ids import FrameIds, Gen2Allocator, LocalAllocator
from nightjard.archived.nights.jobs import Job, Jobs
from nightjard.archived.nights.looking import Looking
from nightjard.archived.nights.papers import Papers
from nightjard.archived.nights.processing import Processing, alone
from nightjard.archived.nights.raw_release import RawRelease
from nightjard.archived.nights.restoring import Restoring
from nightjard.archived.nights.steps.context import Context
from nightjard.archived.nights.steps.context import Tools as WorkTools
from nightjard.archived.nights.store import NightStore
from nightjard.archived.nights.transfer.transfers import Transfers
from nightjard.archived.tools import Tools


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
            config, self._store, tools.clock,
            Dictionary.load(config.dictionary, archive_digits=config.archive_digits),
            FrameIds(database, allocator, tools.clock),
            Transfers(database, tools.clock, config.destinations, config.retention,
                      machine_id=config.machine_id, raw_folders=config.streams),
            lambda: executor_of(config.executor, ALLOWED),
        )  # fmt: skip
        self._engine = Engine(work)
        self._finder = Finder(config, self._store, tools.clock)
        self._jobs = Jobs(tools.operations, tools.clock, config.executor.workers)
        self._care = Care(work, self._engine)
        self._release = RawRelease(work, self._engine)
        self._restoring = Restoring(work, self._engine)
        self._papers = Papers(work, self._engine)
        self._headers = HeaderCare(work, self._engine)
        self._doctor = Doctor(work, self._finder)
        self._looking = Looking(work, self._engine, self._finder, self._jobs, self._care)
        self._processing = Processing(
            tools, work, self._engine, self._finder, self._jobs, self._care, self._looking
        )

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
        parts = (self, self._looking, self._processing)
        return {
            command.name: own.get(command.name)
            or next(getattr(part, command.name) for part in parts if hasattr(part, command.name))
            for command in NIGHT_COMMANDS
        }

    def stop(self, report: Callable[[str], None]) -> None:
        """Stop what is at work; it goes on in the next life."""
        self._jobs.stop(report)

    def start(self) -> None:
        """Take note of what an earlier life left."""
        for night, names in self._engine.note_interrupted():
            self._tools.obslog.warning(
                f"night {night['date']} ({night['family']}): {', '.join(names)} was interrupted; "
                f"archive run {night['date']} goes on from there, or the next process-all"
            )
        self._processing.note_failures()

    def brief(self) -> dict[str, Any]:
        """Return what the daemon's status says of nights; from memory only."""
        running = [
            {key: each[key] for key in ("command", "family", "night", "step", "fraction")}
            for each in self._jobs.snapshot()
        ]
        return {"running": running, "failed": list(self._processing.failed)}

    def doctor(self) -> dict[str, Any]:
        """Begin to try everything."""
        return self._jobs.start("doctor", lambda job: self._doctor.run(job.operation.update))

    # --- copies ---

    def verify_night(self, night: str, family: str, dry_run: bool) -> dict[str, Any]:
        """Begin to read all products of a night again."""
        return self._on_night(
            "verify_night", night, family,
            lambda context: self._care.verify(context, dry_run=dry_run), dry_run=dry_run,
        )  # fmt: skip

    def resend(
        self, night: str, family: str, destination: str | None, dry_run: bool
    ) -> dict[str, Any]:
        """Begin to copy what destinations lack."""
        return self._on_night(
            "resend", night, family,
            lambda context: self._care.resend(context, destination, dry_run=dry_run),
            dry_run=dry_run,
        )  # fmt: skip

    def scrub(
        self, night: str | None, family: str | None, destination: str | None, dry_run: bool
    ) -> dict[str, Any]:
        """Begin to have copies read again: of one night, or of all that are due."""
        if night is not None:
            return self._on_night(
                "scrub", night, family or DEFAULT_FAMILY,
                lambda context: self._care.scrub(context, destination, dry_run=dry_run),
                dry_run=dry_run,
            )  # fmt: skip

        def work(job: Job) -> dict[str, Any]:
            found: dict[str, Any] = {}
            for row, name in self._care.due(family, destination):
                job.begin(row)
                context = self._processing.context(row, job)
                for key, value in self._care.scrub(context, name, dry_run=dry_run).items():
                    found[f"{row['family']}/{row['date']} {key}"] = value
            return found

        return self._jobs.start("scrub", work, alone="" if dry_run else "scrub")

    def restore_night(
        self, night: str, family: str, dry_run: bool, confirm: str | None, who: str
    ) -> dict[str, Any]:
        """Begin to bring a night back to its original state."""
        return self._on_night(
            "restore_night", night, family,
            lambda context: self._restoring.restore(context, confirm, who, dry_run=dry_run),
        )  # fmt: skip

    def release(
        self, night: str | None, family: str | None, back: bool, dry_run: bool, who: str
    ) -> dict[str, Any]:
        """Begin to move raw to quarantine, as far as the policy allows; or to bring it back."""
        if back:
            if night is None:
                raise InvalidArgument("raw is brought back night by night: name the night")
            return self._on_night(
                "release", night, family or DEFAULT_FAMILY,
                lambda context: self._release.bring_back(context, who, dry_run=dry_run),
                dry_run=dry_run,
            )  # fmt: skip
        rows = (
            self._finder.discover(family) if night is None
            else [self._finder.resolve(night, family or DEFAULT_FAMILY)]
        )  # fmt: skip
        return self._jobs.start(
            "release",
            lambda job: self._release.release(
                [self._processing.context(row, job) for row in rows], who, dry_run=dry_run
            ),
            alone="" if dry_run else "release",
        )  # fmt: skip

    def _on_night(
        self, command: str, night: str, family: str, work: Callable[[Context], Any], *,
        dry_run: bool = False,
    ) -> dict[str, Any]:  # fmt: skip
        row = self._finder.resolve(night, family)

        def run(job: Job) -> Any:
            job.begin(row)
            return work(self._processing.context(row, job))

        return self._jobs.start(command, run, alone="" if dry_run else alone(row))

    # --- papers ---

    def make_manifest(
        self, nights: Sequence[str], family: str, combine: bool, text: bool, dry_run: bool
    ) -> dict[str, Any]:
        """Begin to write manifests."""
        rows = [self._finder.resolve(night, family) for night in nights]
        return self._jobs.start(
            "make_manifest",
            lambda job: self._papers.manifest(
                rows, combine=combine, text=text, dry_run=dry_run, tell=job.tell
            ),
        )

    def send_mail(self, nights: Sequence[str], family: str, dry_run: bool) -> dict[str, Any]:
        """Begin to write the letter, and to send it."""
        rows = [self._finder.resolve(night, family) for night in nights]
        return self._jobs.start("send_mail", lambda _: self._papers.mail(rows, dry_run=dry_run))

    def note_ingested(self, lines: Sequence[str], dry_run: bool) -> dict[str, Any]:
        """Keep what the observatory's archive says that it took."""
        return self._papers.ingested(lines, dry_run=dry_run)

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
            return self._on_night("check_headers", night, family, self._headers.check_headers)
        files = self._headers.below_roots(paths)
        return self._jobs.start(
            "check_headers", lambda job: self._headers.check_files(files, job.tell)
        )

    def fix_headers(self, night: str, family: str, dry_run: bool) -> dict[str, Any]:
        """Begin to write values as the dictionary wants them."""
        return self._on_night(
            "fix_headers", night, family,
            lambda context: self._headers.fix_headers(context, dry_run=dry_run),
        )  # fmt: skip

    def repair_headers(
        self, night: str, family: str, keys: Sequence[str], dry_run: bool
    ) -> dict[str, Any]:
        """Begin to take values from the telemetry log."""
        return self._on_night(
            "repair_headers", night, family,
            lambda context: self._headers.repair_headers(context, keys, dry_run=dry_run),
        )  # fmt: skip

    # --- small ones ---

    def veto(
        self, night: str, family: str, reason: str | None, dry_run: bool, who: str
    ) -> dict[str, Any]:
        """Forbid, or allow again, that anything of a night is released."""
        row = self._finder.resolve(night, family)
        text = (reason or "").strip() or None
        if dry_run:
            return {**self._looking.row(row), "veto": text}
        self._store.set_night(row["id"], veto=text)
        said = f"veto: {text}" if text else "the veto was taken back"
        self._store.say(row["id"], self._clock.now_ns(), "veto", said, who)
        return self._looking.row(self._store.get(row["id"]))

    def seal(self, night: str, family: str, dry_run: bool, who: str) -> dict[str, Any]:
        """Take a night for whole."""
        row = self._finder.resolve(night, family)
        if dry_run:
            return {**self._looking.row(row), "sealed": True}
        now_ns = self._clock.now_ns()
        # Where the clock was set back its files seem to come from the future.
        sealed_ns = max(now_ns, self._finder.activity(row).newest_ns)
        self._store.set_night(row["id"], sealed_ns=sealed_ns)
        self._store.say(row["id"], now_ns, "seal", "no more cubes come", who)
        return self._looking.row(self._store.get(row["id"]))

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
