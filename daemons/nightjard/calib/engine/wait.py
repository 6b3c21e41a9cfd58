# SPDX-License-Identifier: BSD-3-Clause
"""Wait mode: tests are processed as their data become complete, each once.

What is known of each test is on the disk (:mod:`.state`), so that a restart goes on where it was.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from nightjar.cli.session import is_terminal
from nightjar.clock import NS_PER_S, Clock
from nightjar.errors import ConfigError
from nightjar.times import duration_text
from nightjard.calib.campaign import WaitConfig
from nightjard.calib.engine.claims import BY_PLACE, claims_of
from nightjard.calib.engine.context import Context
from nightjard.calib.engine.looks import Follower, Seen, Watcher, some_of
from nightjard.calib.engine.plan import TestPlan
from nightjard.calib.engine.state import RunState, TestState
from nightjard.calib.structure import obsid_text

Process = Callable[[TestPlan], None]
Ask = Callable[[str, float], bool]


def ask_person(question: str, answer_s: float) -> bool:
    """Ask on the terminal whether to go on; False where nobody answers in time, or can be asked."""
    if not (is_terminal(sys.stdin) and is_terminal(sys.stderr)):
        return False
    sys.stderr.write(f"{question} y/n, {answer_s:.0f} s to answer: ")
    sys.stderr.flush()
    ready, _, _ = select.select([sys.stdin], [], [], answer_s)
    if not ready:
        sys.stderr.write("\n")
        return False
    return sys.stdin.readline().strip().lower().startswith("n")


@dataclass
class Waiting:
    """The wait for the tests of a session.

    Parameters
    ----------
    process
        Runs a test, and records in `state` what became of it.
    ask
        ``ask("Give up?", seconds)`` tells whether to go on waiting.

    Attributes
    ----------
    _coming
        Tests that were processed and of which a later run is being acquired.
    _anew
        Tests that have ended and are awaited all the same: they failed before or as their folder
        went away, or other sub-tasks or days are wanted. What is known of them stays until
        something of them is seen.
    """

    context: Context
    plans: list[TestPlan]
    state: RunState
    config: WaitConfig
    process: Process
    ask: Ask = ask_person
    _coming: set[str] = field(default_factory=set)
    _anew: set[str] = field(default_factory=set)

    @property
    def _clock(self) -> Clock:
        return self.context.clock

    def open_plans(self) -> list[TestPlan]:
        """Return the tests that are still awaited."""
        return [plan for plan in self.plans if self._is_awaited(plan)]

    def _is_awaited(self, plan: TestPlan) -> bool:
        return plan.test in self._anew or not self.state.tests[plan.test].has_ended

    def until_done(self) -> bool:
        """Process all tests; False where the wait was given up."""
        self._begin()
        folders = tuple(dict.fromkeys(path for plan in self.plans for path in plan.days))
        follower = Follower(folders, self.context.setup.elvis)
        watcher = Watcher(
            self.context.setup, self.context.first_obsid, self.config, self._clock
        )
        progress_ns = self._clock.monotonic_ns()
        if not self.open_plans():
            return True
        while True:
            if self._look(follower, watcher):
                progress_ns = self._clock.monotonic_ns()
                continue  # a last look after the last test: more of one may have come meanwhile
            waited_s = (self._clock.monotonic_ns() - progress_ns) / NS_PER_S
            is_too_long = waited_s >= self.config.give_up_s
            if not self.open_plans():
                if is_too_long or not self._coming:
                    return True
            elif is_too_long:
                if not self._goes_on(waited_s):
                    return False
                progress_ns = self._clock.monotonic_ns()
            self.context.log.write(f"Pipeline sleeping for {self.config.sleep_s:.0f} seconds...")
            self.context.progress.clear()
            self._clock.sleep(self.config.sleep_s)

    def _begin(self) -> None:
        for plan in self.plans:
            known = self.state.tests[plan.test]
            is_other = known.subtasks != wanted_of(plan) or known.days != days_of(plan)
            results = self.context.folder / plan.test / known.attempt / "results.json"
            is_gone = not results.is_file()  # somebody has removed them
            if known.stage == "failed" or (known.has_ended and (is_other or is_gone)):
                self._anew.add(plan.test)
        names = [f"{plan.test} ({plan.script.frames} frames)" for plan in self.open_plans()]
        done = [plan.test for plan in self.plans if not self._is_awaited(plan)]
        self.context.tell(f"Awaited: {', '.join(names) or 'nothing'}")
        if done:
            self.context.tell(f"Processed before: {', '.join(done)}")

    def _goes_on(self, waited_s: float) -> bool:
        reasons = [self.state.tests[plan.test].reason for plan in self.open_plans()]
        common = reasons[0] if len(reasons) > 1 and len(set(reasons)) == 1 else ""
        text = (
            f"no test has become complete for {duration_text(waited_s)}; awaited are "
            f"{'; '.join(self._waits(plan, common) for plan in self.open_plans())}"
            f"{': ' if common else ''}{common}"
        )
        self.context.tell(text)
        if self.ask("Give up waiting?", self.config.answer_s):
            return True
        self.context.tell("the wait is given up")
        return False

    def _waits(self, plan: TestPlan, common: str) -> str:
        known = self.state.tests[plan.test]
        if plan.test in self._anew:
            return f"{plan.test} ({known.stage} before; nothing of it is seen now)"
        reason = f", {known.reason}" if known.reason and not common else ""
        return f"{plan.test} ({known.stage}, {known.frames} of {known.wanted} frames{reason})"

    # --- one look ---

    def _look(self, follower: Follower, watcher: Watcher) -> bool:
        """Look once and process what is complete; True where something was."""
        day, rows = follower.look()
        for problem in follower.take_problems():
            self.context.log.write(f"line of a log left out: {problem}")
        watcher.claims = claims_of(self.context.setup, self.context.run, self.context.folder)
        ready: list[tuple[TestPlan, Seen]] = []
        self._coming.clear()
        for plan in self.plans:
            known = self.state.tests[plan.test]
            try:
                seen = watcher.see(plan, day, rows)
            except ConfigError as error:  # a version of the profile is being written: next time
                self._tell_unseen(plan, known, error.message)
                continue
            if seen.others and seen.others not in self.context.told:
                self.context.told[seen.others] = plan.test
                self.context.log.write(f"{plan.test}: {seen.others}")
            if plan.test in self._anew:
                if not seen.frames:
                    continue
                self._anew.discard(plan.test)
                known.stage = "expected"
            if known.has_ended and not seen.frames and BY_PLACE in seen.others:
                known.stage, known.obsids = "expected", (-1, -1)
                self.context.tell(f"{plan.test} is given back: {seen.others}")
            if known.has_ended:
                is_ready = self._again(plan, known, seen)
            else:
                self._note(plan, known, seen, follower.problem)
                is_ready = seen.stage == "files complete"
            if is_ready:
                ready.append((plan, seen))
        self.state.save(self._clock.now_ns())
        for plan, seen in ready:
            self._take(plan, seen)
        return bool(ready)

    def _tell_unseen(self, plan: TestPlan, known: TestState, problem: str) -> None:
        if not self._is_awaited(plan):
            return
        if plan.test not in self._anew:
            known.reason = problem
        if problem not in self.context.told:
            self.context.told[problem] = plan.test
            self.context.tell(f"{plan.test}: {problem}; it is looked at again")

    def _take(self, plan: TestPlan, seen: Seen) -> None:
        without = f"done without {some_of(seen.lacking)}" if seen.lacking else ""
        if without:
            self.context.tell(f"{plan.test}: {without}: did not come in time")
        note = "; ".join(filter(None, (seen.run.note, seen.others, without)))
        self.state.tests[plan.test].lacking = list(seen.lacking)
        self.process(replace(seen.plan, obsids=seen.run.obsids, note=note, run=seen.run))
        folders = {row.datapath for one in seen.run.exposures for row in one.rows}
        away = sorted(str(path) for path in folders if not os.path.isdir(path))
        if away and self.state.tests[plan.test].stage == "failed":
            self._anew.add(plan.test)
            self.context.tell(f"{plan.test}: {', '.join(away)} has gone; it is done again when "
                              "that is back")  # fmt: skip

    def _note(self, plan: TestPlan, known: TestState, seen: Seen, problem: str) -> None:
        reason = seen.reason or (problem if seen.stage == "expected" else "")
        if (known.stage, known.reason) != (seen.stage, reason) and (
            seen.stage not in ("expected", "acquiring")
        ):
            self.context.log.write(f"{plan.test}: {seen.stage}{': ' if reason else ''}{reason}")
        known.stage, known.reason, known.frames = seen.stage, reason, seen.frames
        known.wanted = seen.plan.script.frames
        known.obsids = seen.run.obsids if seen.run.is_complete else (-1, -1)

    def _again(self, plan: TestPlan, known: TestState, seen: Seen) -> bool:
        """Note that more of a processed test came; True where it is a new complete run."""
        last = known.obsids[1]
        if not seen.run.exposures or seen.run.obsids[1] < last:
            return False
        if seen.last_obsid > last and known.stage not in ("failed", "over-acquired"):
            known.stage = "over-acquired"
            known.reason = f"more of it came after OBSID {last}"
            self.context.tell(f"{plan.test}: {known.reason}")
        if seen.run.obsids[1] == last:
            has_come = seen.stage == "files complete" and len(seen.lacking) < len(known.lacking)
            if has_come:
                self.context.tell(f"{plan.test}: what was missing has come; it is done again")
            return has_come
        known.frames = seen.frames
        if seen.stage != "files complete":
            self._coming.add(plan.test)
            return False
        self.context.tell(
            f"{plan.test} was acquired again: {obsid_text(range_of(seen))} takes the place of "
            f"OBSIDs {known.obsids[0]}-{last}"
        )
        return True


def range_of(seen: Seen) -> list[int]:
    """Return the OBSIDs of the exposures that are taken."""
    return [one.obsid for one in seen.run.exposures]


def wanted_of(plan: TestPlan) -> list[str] | None:
    """Return the sub-tasks that a plan wants, as the state keeps them."""
    return None if plan.subtasks is None else list(plan.subtasks)


def days_of(plan: TestPlan) -> list[str]:
    """Return the day folders of a plan, as the state keeps them."""
    return [str(path) for path in plan.days]
