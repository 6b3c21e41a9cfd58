# SPDX-License-Identifier: BSD-3-Clause
"""Runs the steps of a night: in order, each once, from where it stands."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nightjar.api.nights import NightState, StepState
from nightjar.errors import Busy, Cancelled, NightjarError, Refused
from nightjar.files import locked
from nightjard.archived.nights.finding import Listing
from nightjard.archived.nights.ids_following import complete_exchange
from nightjard.archived.nights.plan import FOLDER
from nightjard.archived.nights.steps.checking import Check
from nightjard.archived.nights.steps.compressing import Compress
from nightjard.archived.nights.steps.context import (
    Context,
    Progress,
    Step,
    Tools,
    storage_error,
)
from nightjard.archived.nights.steps.copying import Transfer
from nightjard.archived.nights.steps.listing import Manifest
from nightjard.archived.nights.steps.making import Consolidate
from nightjard.archived.nights.steps.numbering import Number
from nightjard.archived.nights.steps.others import enter, leave, note
from nightjard.archived.nights.steps.planning import Sync, summary_of
from nightjard.archived.nights.steps.proving import Verify
from nightjard.archived.nights.steps.telling import told
from nightjard.archived.nights.store import Row
from nightjard.archived.nights.tidying import tidy

log = logging.getLogger(__name__)

STEPS: tuple[Step, ...] = (
    Sync(), Check(), Number(), Consolidate(), Compress(), Verify(), Manifest(), Transfer(),
)  # fmt: skip
_BY_NAME = {step.name: step for step in STEPS}
_STOPPED = "stopped"
_GLANCE_S = 0.005  # far longer than a look at a lock takes
_PROCESSED_BY = "verify"  # from then on the night counts as processed, as observers know it


@dataclass(frozen=True)
class Standing:
    """How a step of a night stands.

    Attributes
    ----------
    state
        WAITING: not done, or not with the present inputs; INTERRUPTED: nobody is at work on it,
        and it was not ended.
    """

    name: str
    state: StepState
    error: str | None = None
    result: Any = None
    started_ns: int | None = None
    ended_ns: int | None = None

    @property
    def is_settled(self) -> bool:
        """Whether there is nothing to do."""
        return self.state in (StepState.DONE, StepState.NOT_WANTED)


class Engine:
    """Steps of nights; one night is in the hands of one process at a time.

    Parameters
    ----------
    tools
        What does the work.
    """

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    def context(self, night: Row, **more: Any) -> Context:
        """Return what the steps of a night are given."""
        family = self._tools.config.families.get(night["family"])
        if family is None:
            raise Refused(f"family {night['family']} is not configured any more")
        return Context(self._tools, night, Path(night["folder"]), family, **more)

    def standing(self, night: Row, listing: Listing | None = None) -> list[Standing]:
        """Return how all steps stand; looks at names and sizes of files, at nothing in them.

        Parameters
        ----------
        listing
            What was just seen of the raw files, where somebody looked already.
        """
        context = self.context(night, listing=listing)
        known = self._tools.store.steps(context.identity)
        found: list[Standing] = []
        is_stale = False
        for step in STEPS:
            if not step.is_wanted(context):
                found.append(Standing(step.name, StepState.NOT_WANTED))
                continue
            row = known.get(step.name)
            if row is None:
                found.append(Standing(step.name, StepState.WAITING))
                is_stale = True
                continue
            state = StepState(row.state)
            if state is StepState.RUNNING and not self.is_held(night):
                state = StepState.INTERRUPTED
            if state is StepState.DONE and (is_stale or not self._is_done(step, context, known)):
                state = StepState.WAITING
            is_stale = is_stale or state is not StepState.DONE
            found.append(
                Standing(step.name, state, row.error, row.result, row.started_ns, row.ended_ns)
            )
        return found

    def is_held(self, night: Row) -> bool:
        """Tell whether somebody is at work on a night: a lock ends with whoever holds it."""
        try:
            descriptor = os.open(_lock_of(Path(night["folder"])), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False  # nobody ever was, or the folder is gone
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(descriptor)
        return False

    def note_interrupted(self) -> list[tuple[Row, list[str]]]:
        """Write down which steps were at work when their process was killed; return them."""
        found = []
        for night in self._tools.store.with_running_steps():
            if self.is_held(night):
                continue
            now_ns = self._tools.clock.now_ns()
            names = self._tools.store.interrupt_steps(night["id"], now_ns)
            self._tools.store.say(
                night["id"], now_ns, "interrupted",
                f"{', '.join(names)}: the process that did it was killed; what it finished is kept",
            )
            found.append((night, names))
        return found

    def is_planned(self, night: Row) -> bool:
        """Tell whether the plan in force is one of the raw files as they are now."""
        context = self.context(night)
        return self._is_done(STEPS[0], context, self._tools.store.steps(context.identity))

    def _is_done(self, step: Step, context: Context, known: Any) -> bool:
        row = known.get(step.name)
        return (
            row is not None and row.state == "done" and row.key == step.key(context)
            and step.still_holds(context, row.result)
        )  # fmt: skip

    def run(
        self, night: Row, names: Sequence[str], *,
        progress: Callable[[Progress], None] = lambda _: None,
        cancelled: Callable[[], bool] = lambda: False, is_forced: bool = False,
        verify: str | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Do steps that are not done; return name -> result or ``"done before"``.

        Parameters
        ----------
        names
            Of steps, in any order; those that the family does not want are passed over.
        is_forced
            Do them although they are done.
        verify
            ``inline`` or ``deferred``, in place of what is configured.

        Raises
        ------
        Refused
            A step before the first one has not been done: it is named.
        Busy
            Another process has this night.
        NightjarError
            A step failed; those after it were not begun.
        """
        context = self.context(
            night, progress=progress, cancelled=cancelled, is_forced=is_forced, verify=verify
        )
        results: dict[str, Any] = {}
        with self.held(context):
            context.refresh()
            complete_exchange(context)
            for step in STEPS:
                if not step.is_wanted(context):
                    continue
                if step.name in names:
                    results[step.name] = self._do(step, context)
                elif any(name in names for name in _after(step)):
                    self._require_done(step, context)
            self.settle(context)
        return results

    @contextlib.contextmanager
    def held(self, context: Context) -> Iterator[None]:
        """Have a night for oneself; Busy where another process has it."""
        record = context.folder / FOLDER
        with contextlib.ExitStack() as stack:
            try:
                record.mkdir(exist_ok=True)
                _enter(stack, context)
            except OSError as error:
                raise storage_error(f"night {context.night['date']} cannot be begun", error) from (
                    error
                )
            except Refused as error:
                raise Busy(
                    f"night {context.night['date']} is being worked on by another process (pid "
                    f"{error.detail.get('pid')}): wait until it has ended"
                ) from error
            tidy(context)
            enter(context)
            try:
                yield
            except Exception:
                with contextlib.suppress(NightjarError, OSError):
                    leave(context)  # else the next one cannot tell what is of our making
                raise
            leave(context)

    def _require_done(self, step: Step, context: Context) -> None:
        known = self._tools.store.steps(context.identity)
        if not self._is_done(step, context, known):
            row = known.get(step.name)
            was = "has not been done" if row is None else "must be done again: its inputs changed"
            if row is not None and row.state != "done":
                was = {"failed": "has failed", "interrupted": "was interrupted"}.get(
                    row.state, "was not finished"
                )
            date = context.night["date"]
            raise Refused(
                f"night {date}: step {step.name} {was}; first: archive run {date} "
                f"--step {step.name}"
            )

    def _do(self, step: Step, context: Context) -> Any:
        context.require_going()
        store, clock = self._tools.store, self._tools.clock
        if not context.is_forced and self._is_done(step, context, store.steps(context.identity)):
            return "done before"
        number = store.begin_step(context.identity, step.name, step.key(context), clock.now_ns())
        context.progress(Progress(step.name))
        try:
            result = _carried_out(step, context)
        except NightjarError as error:
            text = _STOPPED if isinstance(error, Cancelled) else error.message
            store.end_step(context.identity, step.name, number, clock.now_ns(), error=text)
            if not isinstance(error, Cancelled):
                self._fail(context, f"{step.name}: {text}")
            raise
        except Exception as error:
            log.exception("step %s of night %s", step.name, context.night["date"])
            text = f"internal error: {type(error).__name__}: {error}"
            store.end_step(context.identity, step.name, number, clock.now_ns(), error=text)
            self._fail(context, f"{step.name}: {text}")
            raise NightjarError(f"step {step.name}: {text}") from error
        context.refresh()
        # What a step makes may be part of its own key (sync: the plan it made stays the input).
        self._finish(step, context, number, result)
        return result

    def _fail(self, context: Context, text: str) -> None:
        self._tools.store.set_night(
            context.identity, state=NightState.FAILED.value, error=text
        )
        context.say("failed", text)

    def _finish(self, step: Step, context: Context, number: int, result: Any) -> None:
        store, now_ns = self._tools.store, self._tools.clock.now_ns()
        store.end_step(context.identity, step.name, number, now_ns, result=result)
        if step.name == _PROCESSED_BY and context.night["processed_ns"] is None:
            store.set_night(context.identity, processed_ns=now_ns)
        context.say("done", f"{step.name}: {told(step.name, result)}")

    def settle(self, context: Context) -> None:
        """Write down how far the night is."""
        store, now_ns = self._tools.store, self._tools.clock.now_ns()
        context.refresh()
        standing = self.standing(context.night)
        values: dict[str, Any] = {"error": None}
        open_steps = [each.name for each in standing if not each.is_settled]
        processed_at = [step.name for step in STEPS].index(_PROCESSED_BY)
        is_processed = not any(
            step.name in open_steps for step in STEPS[: processed_at + 1]
        )
        night = context.night
        values["processed_ns"] = (night["processed_ns"] or now_ns) if is_processed else None
        if not is_processed:
            values["safe_ns"] = values["transferred_ns"] = None
        values["state"] = _state({**night, **values}, standing).value
        failed = next((each for each in standing if each.state is StepState.FAILED), None)
        if failed is not None and failed.error != _STOPPED:
            values.update(state=NightState.FAILED.value, error=f"{failed.name}: {failed.error}")
        store.set_night(context.identity, **values)

    def preview(self, night: Row, names: Sequence[str]) -> dict[str, Any]:
        """Return what :meth:`run` would do, changing nothing."""
        context = self.context(night)
        found: dict[str, Any] = {}
        known = self._tools.store.steps(context.identity)
        is_stale = False
        for step in STEPS:
            if not step.is_wanted(context):
                continue
            if step.name not in names:
                if any(name in names for name in _after(step)):
                    self._require_done(step, context)
                continue
            is_due = is_stale or not self._is_done(step, context, known)
            is_stale = is_stale or is_due
            found[step.name] = "would be done" if is_due else "done before"
        if found.get("sync") == "would be done":
            plan, _, _ = Sync().make(context)
            found["plan"] = summary_of(plan, context.config)
        return found


def _lock_of(folder: Path) -> Path:
    return folder / FOLDER / ".lock"


def _enter(stack: contextlib.ExitStack, context: Context) -> None:
    """Lock a night; who only looks whether it is locked holds it for an instant."""
    for is_last in (False, False, True):
        try:
            stack.enter_context(
                locked(_lock_of(context.folder), f"night {context.night['date']}")
            )
        except Refused:
            if is_last:
                raise
            time.sleep(_GLANCE_S)
        else:
            return


def _carried_out(step: Step, context: Context) -> dict[str, Any]:
    try:
        result = step.run(context)
        note(context)
        return result
    except OSError as error:
        raise storage_error(f"night {context.night['date']}, step {step.name}", error) from error


def _state(night: Mapping[str, Any], standing: Sequence[Standing]) -> NightState:
    """Return how far a night is."""
    done = {each.name for each in standing if each.state is StepState.DONE}
    for column, state in (
        ("released_ns", NightState.RELEASED), ("safe_ns", NightState.SAFE),
        ("transferred_ns", NightState.TRANSFERRED), ("processed_ns", NightState.VERIFIED),
    ):  # fmt: skip
        if night[column] is not None:
            return state
    if "consolidate" in done:
        return NightState.WRITTEN
    return NightState.PLANNED if "sync" in done else NightState.WAITING


def _after(step: Step) -> list[str]:
    return [each.name for each in STEPS[STEPS.index(step) + 1 :]]

