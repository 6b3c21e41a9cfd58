# SPDX-License-Identifier: BSD-3-Clause
"""One run of the pipeline on a session: aim mode and wait mode, log, progress block, state."""

from __future__ import annotations

import contextlib
import importlib
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

from nightjar import files
from nightjar.clock import Clock
from nightjar.errors import NightjarError, TimedOut
from nightjar.executor.choosing import ExecutorConfig, executor_of
from nightjar.executor.tasks import Executor
from nightjar.times import iso
from nightjard.calib.campaign import WaitConfig
from nightjard.calib.drawing import Drawer
from nightjard.calib.engine import layout, record
from nightjard.calib.engine.claims import claims_of
from nightjard.calib.engine.context import Context, is_storage_full
from nightjard.calib.engine.execute import Outcome, run_test
from nightjard.calib.engine.identity import code_digest
from nightjard.calib.engine.plan import Setup, TestPlan
from nightjard.calib.engine.progress import ProgressLine
from nightjard.calib.engine.runlog import Done, Header, RunLog, pipeline_id, summary_lines
from nightjard.calib.engine.state import DONE, RunState
from nightjard.calib.engine.wait import Ask, Waiting, ask_person, days_of, wanted_of
from nightjard.calib.task import Task, load_task
from nightjard.calib.work import HereMapper, WorkersMapper

_BASE_BYTES = 20_000_000
_BYTES_PER_PIXEL = 8  # a master frame and its error, as float32
DRILL = "_drill"
_DRAWERS = 2


@dataclass(frozen=True)
class Options:
    """How a run goes: what the command was asked for.

    Attributes
    ----------
    workers
        Processes; the campaign's number if not given.
    log_folder
        Where the log goes; None: none is kept.
    """

    run: str
    is_wait: bool = False
    is_check_only: bool = False
    is_drill: bool = False
    is_debug: bool = False
    clears_intermediate: bool = False
    workers: int | None = None
    tag: str = ""
    log_folder: Path | None = None
    first_obsid: int | None = None
    wait: WaitConfig = field(default_factory=WaitConfig)


class Workers:
    """Worker processes that are started when they are first needed."""

    def __init__(self, config: ExecutorConfig, allowed: Callable[[], frozenset[str]]) -> None:
        self._config = config
        self._allowed = allowed
        self._executor: Executor | None = None

    def map(
        self, function: str, items: Sequence[Mapping[str, Any]], memory_bytes: int,
        on_done: Callable[[int], None],
    ) -> list[Any]:
        """Return the results in order."""
        if self._config.workers == 1 and self._config.scheduler is None:
            return HereMapper().map(function, items, memory_bytes, on_done)
        if self._executor is None:
            self._executor = executor_of(self._config, self._allowed())
        return WorkersMapper(self._executor, lambda: False).map(
            function, items, memory_bytes, on_done
        )

    def close(self) -> None:
        """End them."""
        if self._executor is not None:
            self._executor.close()


class Pipeline:
    """One run of the pipeline.

    Parameters
    ----------
    say
        Prints a line for the person.
    stream
        Where progress is drawn.
    ask
        Asks whether to go on waiting.
    """

    def __init__(
        self, setup: Setup, plans: list[TestPlan], options: Options, *, clock: Clock,
        say: Callable[[str], None], stream: TextIO, ask: Ask = ask_person,
        load: Callable[[str], Task] = load_task,
        on_figure: Callable[[Path], None] | None = None,
    ) -> None:  # fmt: skip
        self.setup = setup
        self.plans = plans
        self.options = options
        self.done: list[Done] = []
        self._clock = clock
        self._say = say
        self._ask = ask
        self._load = load
        self._on_figure = on_figure
        self._progress = ProgressLine(stream, clock)
        self._id = pipeline_id(clock.now_ns(), options.tag, is_debug=options.is_debug)
        name = options.run + (DRILL if options.is_drill else "")
        self.folder = layout.plain(setup.campaign.results_root / name)
        self.log_path = (
            None if options.log_folder is None else options.log_folder / f"Calib_{self._id}.log"
        )

    @property
    def needed_bytes(self) -> int:
        """What the products of a test may take."""
        rows, columns = self.setup.detector.frame_shape
        return _BASE_BYTES + self.setup.detector.ccds * rows * columns * _BYTES_PER_PIXEL

    def run(self) -> dict[str, Any]:
        """Do all tests; return what became of them.

        Raises
        ------
        Refused
            Another run is at work in the same folder.
        StorageError
            Results cannot be written.
        TimedOut
            The wait was given up.
        """
        layout.require_room(self.setup.campaign, self.needed_bytes)
        layout.make_marked(self.setup.campaign.results_root, "results", block=self.setup.block)
        layout.make_marked(self.folder, "run", run=self.options.run)
        with files.locked(self.folder / layout.LOCK, f"calib run of {self.folder}"):
            log = RunLog(self.log_path, self._clock, complain=self._say)
            config = self._executor_config()
            workers = Workers(config, self._allowed)
            is_beside = config.workers > 1 and self._on_figure is None
            drawer = Drawer(min(config.workers, _DRAWERS)) if is_beside else None
            try:
                return self._run(self._context(log, workers, drawer))
            except OSError as error:
                if is_storage_full(error):
                    raise layout.storage_error(self.folder, error) from error
                raise
            finally:
                if drawer is not None:
                    drawer.close()
                workers.close()
                log.close()

    def _executor_config(self) -> ExecutorConfig:
        config = self.setup.campaign.file.executor
        if self.options.workers is None:
            return config
        return config.model_copy(update={"workers": self.options.workers})

    def _allowed(self) -> frozenset[str]:
        functions = list(importlib.import_module("nightjard.calib.checks").WORKERS)
        for handle in dict.fromkeys(plan.handle for plan in self.plans):
            try:
                functions += self._load(handle).workers
            except (ImportError, AttributeError, KeyError):
                continue  # told when the test comes
        return frozenset(f"{one.__module__}:{one.__qualname__}" for one in functions)

    def _context(self, log: RunLog, workers: Workers, drawer: Drawer | None) -> Context:
        options = self.options
        return Context(
            setup=self.setup, run=options.run, folder=self.folder, log=log, clock=self._clock,
            say=self._say, progress=self._progress, mapper=workers, load=self._load,
            first_obsid=options.first_obsid, is_check_only=options.is_check_only,
            is_drill=options.is_drill, is_debug=options.is_debug,
            clears_intermediate=options.clears_intermediate, on_figure=self._on_figure,
            drawer=drawer,
        )  # fmt: skip

    # --- the run ---

    def _header(self) -> Header:
        return Header(
            self._id, self.setup.block, self.setup.campaign.file.CHAMBER,
            tuple(plan.test for plan in self.plans),
        )  # fmt: skip

    def _run(self, context: Context) -> dict[str, Any]:
        context.log.write(["_", "Starting FM Calib. Pipeline", *self._header().lines()])
        context.log.write(f"  Results will be saved in: {self.folder}/")
        asked = {"is_wait": self.options.is_wait, "is_check_only": self.options.is_check_only,
                 "first_obsid": self.options.first_obsid}  # fmt: skip
        state = RunState(self.folder, {**self._about(), **asked})
        for plan in self.plans:
            state.expect(plan.test, plan.handle, plan.script.frames)
        state.save(self._clock.now_ns())
        self._learn_code()
        missing: list[str] = []
        try:
            if self.options.is_wait:
                self._tell_earlier(state)
                waiting = Waiting(
                    context, self.plans, state, self.options.wait,
                    lambda plan: self._process(context, state, plan), self._ask,
                )  # fmt: skip
                if not waiting.until_done():
                    missing = [plan.test for plan in waiting.open_plans()]
            else:
                claims = claims_of(self.setup, self.options.run, self.folder)
                for plan in self.plans:
                    self._process(context, state, replace(plan, claims=claims))
        except KeyboardInterrupt:
            self._progress.clear()
            context.log.write("terminated by user")
            raise
        except NightjarError as error:
            context.log.write(f"the run ends: {error.message}")
            raise
        finally:
            block = summary_lines(self._header(), self.done)
            if context.log.last != block:  # the last test's may stand there
                context.log.write(block)
        record.write_session(self.folder, state, self._about())
        self._session_page(context)
        if missing:
            raise TimedOut(
                f"gave up waiting for {', '.join(missing)}; what was processed is in "
                f"{self.folder}; the same command goes on from there",
                waiting=missing,
            )
        return self._result(state)

    def _learn_code(self) -> None:
        """Take the digests of the code that is loaded: files may be exchanged during a wait."""
        for handle in dict.fromkeys(plan.handle for plan in self.plans):
            with contextlib.suppress(ImportError, AttributeError, KeyError):  # told by its test
                for subtask in self._load(handle).subtasks:
                    code_digest(subtask)

    def _about(self) -> dict[str, Any]:
        return {
            "format": record.FORMAT, "run": self.options.run, "block": self.setup.block,
            "chamber": self.setup.campaign.file.CHAMBER, "pipeline_id": self._id,
            "campaign": str(self.setup.campaign.path.resolve()),
            "is_drill": self.options.is_drill,
        }  # fmt: skip

    def _tell_earlier(self, state: RunState) -> None:
        """Put tests that an earlier run has processed into the progress block."""
        for plan in self.plans:
            known = state.tests[plan.test]
            if known.stage in DONE and known.subtasks == wanted_of(plan):
                self.done.append(
                    Done(known.test, known.minutes, known.obsids, tuple(known.flags))
                )

    def _process(self, context: Context, state: RunState, plan: TestPlan) -> None:
        known = state.tests[plan.test]
        known.stage, known.reason = "processing", ""
        state.save(self._clock.now_ns())
        try:
            outcome = run_test(context, plan)
        except KeyboardInterrupt:
            known.stage, known.reason = "files complete", "interrupted; to be gone on with"
            state.save(self._clock.now_ns())
            raise
        self._keep(known, plan, outcome)
        known.ended = iso(self._clock.now_ns(), 0)
        state.save(self._clock.now_ns())
        self.done = [one for one in self.done if one.test != plan.test]
        self.done.append(
            Done(plan.test, outcome.minutes, outcome.obsids, tuple(outcome.flags),
                 outcome.has_errors)
        )  # fmt: skip
        record.write_session(self.folder, state, self._about())
        context.log.write(summary_lines(self._header(), self.done))

    def _keep(self, known: Any, plan: TestPlan, outcome: Outcome) -> None:
        known.stage = outcome.stage
        known.reason = outcome.reason
        # As it was seen: else a test whose data could not be read would look new for ever.
        known.obsids = outcome.obsids if plan.run is None else plan.run.obsids
        known.flags, known.severities = outcome.flags, outcome.severities
        known.minutes, known.attempt = outcome.minutes, outcome.attempt or known.attempt
        known.script, known.days = outcome.script, days_of(plan)
        known.subtasks = wanted_of(plan)
        known.frames = max(known.frames, outcome.frames)
        known.wanted = known.wanted if outcome.wanted is None else outcome.wanted

    def _session_page(self, context: Context) -> None:
        if not self.setup.campaign.file.doReport:
            return
        try:
            write: Any = importlib.import_module("nightjard.calib.reports").write_session_page
        except (ImportError, AttributeError):
            context.log.write("no session page: reports are not installed")
            return
        try:
            write(self.folder)
        except Exception as error:  # the tests are done all the same
            if is_storage_full(error):
                raise
            context.log.write(["the session page failed:", *traceback.format_exc().splitlines()])
            self._say(f"the session page failed: {error}")

    def _result(self, state: RunState) -> dict[str, Any]:
        return {
            "run": self.options.run, "pipeline_id": self._id, "results": str(self.folder),
            "log": None if self.log_path is None else str(self.log_path),
            "tests": [
                asdict(state.tests[plan.test]) for plan in self.plans
            ],
            "failed": [
                plan.test for plan in self.plans if state.tests[plan.test].stage == "failed"
            ],
        }  # fmt: skip
