# SPDX-License-Identifier: BSD-3-Clause
"""Groups of loggers: commands, common start and end, what is done when a logger dies.

Every command is carried out beside the caller, which waits for a moment only: what is not done by
then goes on as an operation. Streams obey one command at a time; ``stop --kill`` waits for nobody.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from nightjar.api.states import Level
from nightjar.clock import NS_PER_S, Clock
from nightjar.errors import Code, InvalidArgument, NightjarError, Refused, TimedOut
from nightjar.health import Health
from nightjar.operations import Operation, Operations
from nightjard.fitslogd.config import FitslogConfig
from nightjard.fitslogd.crew import Crew
from nightjard.fitslogd.ledger import Ledger
from nightjard.fitslogd.sessions import Run, Store, logger_settings
from nightjard.fitslogd.views import busiest, session_of, stream_view
from nightjard.fitslogd.waits import Wait
from nightjard.fitslogd.worker import Message
from nightjard.fitslogd.world import Chosen, Facts, Work, World

log = logging.getLogger(__name__)

REPLY_S = 0.07  # what a caller waits for a command: he has his answer in a tenth of a second
FACTS_S = 1.0
_FIRST_RETRY_S, _LONGEST_RETRY_S = 0.5, 10.0
_STRAY_S = 3.0
_RING_NS = 20 * NS_PER_S  # what ended longer ago is in no ring any more
_STORE_PART = "sessions"

class LoggerGroups:
    """The groups of one machine; commands may come from any thread.

    Parameters
    ----------
    config
        Streams, groups and what is the same for all sessions.
    world
        Processes, streams, cameras.
    clock
        Common times and pauses.
    health, operations
        Of the daemon.
    store
        Keeps what must survive a restart.
    """

    def __init__(
        self,
        config: FitslogConfig,
        world: World,
        clock: Clock,
        health: Health,
        operations: Operations,
        store: Store,
    ) -> None:
        self.config = config
        self.world = world
        self.clock = clock
        self.groups = config.all_groups()
        self.ledger = Ledger(store, clock, world.say, self._store_trouble)
        self.crew = Crew(
            config.streams, world.make, clock, self._heard, self._ended, world.spawn
        )
        self._health = health
        self._operations = operations
        self._facts: dict[str, Facts] = {stream: {} for stream in config.streams}
        self._facts_at_ns = -(10**18)
        self._waits: list[Wait] = []
        self._lock = threading.Lock()
        self._troubles: dict[str, str] = {}
        self._retries: dict[str, tuple[int, float]] = {}
        self._strays: dict[str, int] = {}
        self._is_saving_books = False
        self.is_stopping = False

    # --- life -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the loggers and take up what an earlier life left."""
        away_s = (self.clock.now_ns() - self.ledger.seen_ns) / NS_PER_S
        for stream, run in self.ledger.runs().items():
            if stream not in self.groups or stream not in self.groups.get(run.group, ()):
                log.warning("%s is no longer in group %s: it is not taken up", stream, run.group)
                self.ledger.drop([stream])
            elif run.goal != "armed" and away_s > self.config.resume_within:
                self.ledger.change(stream, goal="armed")
                self.ledger.event(
                    stream, "warning", f"session {run.session} is not resumed: the daemon was "
                    f"away for {away_s:.0f} s; it is only prepared", is_told=True,
                )  # fmt: skip
        self.crew.start()
        for stream in self.ledger.runs():
            self._troubles[stream] = "it is being taken up again"
            self._retries[stream] = (self.clock.monotonic_ns(), _FIRST_RETRY_S)
        self.tick()

    def stop(self, report: Callable[[str], None], hurry: threading.Event) -> None:
        """End all loggers, closing their files; what they did is taken up at the next start."""
        self.is_stopping = True
        self.crew.stop(self.config.stop_timeout, report, hurry)
        self.ledger.save()

    def tick(self) -> None:
        """Look after loggers, waits, books; called every tenth of a second, never waits."""
        now = self.clock.monotonic_ns()
        for stream in self.crew.revive():
            if self.ledger.run_of(stream) is None:
                self._troubles.pop(stream, None)
            else:
                self._retries[stream] = (now, _FIRST_RETRY_S)
        for stream, (due, pause_s) in list(self._retries.items()):
            if now >= due:
                del self._retries[stream]
                self.world.spawn(
                    lambda s=stream, p=pause_s: self._restore(s, p), f"restore-{stream}"  # type: ignore[misc]
                )
        if now - self._facts_at_ns >= FACTS_S * NS_PER_S:
            self._facts_at_ns = now
            self._facts = {stream: self.world.look(stream) for stream in self._facts}
        self._notice_ends()
        self._notice_strays(now)
        with self._lock:
            waits = list(self._waits)
        over = [wait for wait in waits if wait.look()]
        with self._lock:
            self._waits = [wait for wait in self._waits if wait not in over]
        self._judge_health()
        if self.ledger.is_due and not self._is_saving_books:
            self._is_saving_books = True
            self.world.spawn(self._save_books, "sessions")

    def _save_books(self) -> None:
        try:
            self.ledger.save()
        finally:
            self._is_saving_books = False

    def _store_trouble(self, reason: str) -> None:
        level = Level.DEGRADED if reason else Level.OK
        self._health.set(_STORE_PART, level, reason)

    # --- what loggers say -----------------------------------------------------------------------

    def _heard(self, stream: str, message: Message) -> None:
        kind = message.get("event")
        if kind == "cube":
            self.ledger.cube(stream, message)
            self.world.count_cube(stream, message)
        elif kind == "note":
            level = str(message.get("level", "info"))
            # Not told to the observatory log: what stays wrong is told as health.
            self.ledger.event(stream, level, str(message.get("text", "")))

    def _ended(self, stream: str, how: str) -> None:
        if self.is_stopping:
            return
        self._troubles[stream] = f"its logger {how}"
        self.ledger.event(stream, "error", f"its logger {how}; it is restarted")

    def _notice_ends(self) -> None:
        """Record that sessions ended by themselves: enough frames, enough cubes, late enough."""
        for stream, run in self.ledger.runs().items():
            snapshot = self.crew.workers[stream].snapshot
            if (
                run.goal != "armed"
                and stream not in self._troubles
                and snapshot.get("state") in ("armed", "idle")
                and snapshot.get("over") == run.session
                and self.ledger.change(stream, goal="armed")
            ):
                self.ledger.event(
                    stream, "info", f"session {run.session} has ended: "
                    f"{snapshot.get('frames_saved')} frames, {snapshot.get('missed')} missed",
                    is_told=True,
                )  # fmt: skip

    def _notice_strays(self, now: int) -> None:
        """Have those try again that do not do what they should, though they said they would."""
        strays = {
            stream for stream, run in self.ledger.runs().items()
            if run.goal != "armed" and stream not in self._troubles
            and self.crew.workers[stream].snapshot.get("state") in ("armed", "idle")
        }  # fmt: skip
        self._strays = {stream: self._strays.get(stream, now) for stream in strays}
        for stream, since in self._strays.items():
            if now - since > _STRAY_S * NS_PER_S:
                self._troubles[stream] = "its logger does not save"
                self._retries[stream] = (now, _FIRST_RETRY_S)

    def _judge_health(self) -> None:
        for stream, view in self.views().items():
            level, reason = Level.OK, ""
            if self.crew.workers[stream].trouble or self._troubles.get(stream):
                level, reason = Level.DEGRADED, view["error"]
            elif view["state"] == "error":
                level, reason = Level.FAILED, view["error"] or "its logger failed"
            elif view["warning"]:
                level, reason = Level.DEGRADED, view["warning"]
            self._health.set(f"logger {stream}", level, f"{stream}: {reason}" if reason else "")

    def _restore(self, stream: str, pause_s: float) -> None:
        """Have a new logger do what the old one did."""
        with self.crew.turn([stream]):
            run = self.ledger.run_of(stream)
            worker = self.crew.workers[stream]
            if not worker.is_running or self.is_stopping:
                return  # it died again: that is heard by itself
            if run is not None:
                try:
                    self._take_up(stream, run)
                except NightjarError as error:
                    self._troubles[stream] = f"cannot be taken up again: {error.message}"
                    again = self.clock.monotonic_ns() + round(pause_s * NS_PER_S)
                    self._retries[stream] = (again, min(2 * pause_s, _LONGEST_RETRY_S))
                    return
                self.ledger.event(stream, "info", f"is {run.goal} again", is_told=True)
            self._troubles.pop(stream, None)

    def _take_up(self, stream: str, run: Run) -> None:
        worker, timeout_s = self.crew.workers[stream], self.config.command_timeout
        if run.session is not None and worker.snapshot.get("session") == run.session:
            return  # it was slow to obey the last time
        settings = logger_settings(self.config, stream, run.settings)
        worker.ask("prepare", settings, self.config.prepare_timeout)
        if self.crew.settle([stream], lambda seen: seen.get("state") == "armed", timeout_s):
            raise TimedOut(f"{stream} was not prepared within {timeout_s:g} s")
        until_ns, now_ns = run.until_ns, self.clock.now_ns()
        if until_ns is not None and until_ns <= now_ns:
            run = replace(run, goal="armed")
            self.ledger.change(stream, goal="armed")
        # One that died at the end of its session: what belongs to it may still be in the ring.
        is_behind = until_ns is not None and now_ns < until_ns + _RING_NS
        if run.session is not None and (run.goal != "armed" or is_behind):
            worker.ask("start", run.start_arguments(resume=True), timeout_s)
        if run.goal == "finishing":
            worker.ask("pause", {"finish": True, "not_after_ns": None}, timeout_s)

    # --- what is known --------------------------------------------------------------------------

    def views(self, streams: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
        """Return what is told of streams (all where none are named); never waits."""
        found = {}
        for stream in self.crew.workers if streams is None else streams:
            run = self.ledger.run_of(stream)
            remembered = self.ledger.remembered(stream, stream)
            for group, members in self.config.groups.items():
                if stream in members:
                    remembered = self.ledger.remembered(group, stream) or remembered
            found[stream] = stream_view(
                self.crew.workers[stream], run, remembered, self._facts[stream],
                self._troubles.get(stream, ""),
            )  # fmt: skip
        return found

    def group_view(self, group: str, views: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Return what is told of a group."""
        streams = self.groups[group]
        own = [views[stream] for stream in streams if views[stream]["group"] in (group, None)]
        others = sorted({
            str(views[s]["group"]) for s in streams if views[s]["group"] not in (group, None)
        })  # fmt: skip
        return {
            "state": busiest(view["state"] for view in own), "session": session_of(own),
            "streams": list(streams), "in_use_by": others,
        }  # fmt: skip

    def status(self) -> dict[str, Any]:
        """Return the model's part of the snapshot; never waits."""
        views = self.views()
        state = busiest(view["state"] for view in views.values())
        return {
            "state": "STOPPING" if self.is_stopping else state,
            "groups": {group: self.group_view(group, views) for group in self.groups},
            "streams": views, "events": self.ledger.events(),
            "save_root": str(self.config.save_root),
            "archive_root": str(self.config.archive_root),
        }  # fmt: skip

    def members(self, group: str, streams: Sequence[str] = ()) -> tuple[str, ...]:
        """Return the streams of a group, or those named of them.

        Raises
        ------
        Refused
            UNKNOWN_ITEM: no such group.
        InvalidArgument
            A stream that is not in the group.
        """
        if group not in self.groups:
            raise Refused(
                f"no group {group!r}; there are: {', '.join(self.groups)}", code=Code.UNKNOWN_ITEM
            )
        members = self.groups[group]
        for stream in streams:
            if stream not in members:
                raise InvalidArgument(
                    f"{stream!r} is not in group {group}; it has: {', '.join(members)}"
                )
        return tuple(s for s in members if s in streams) if streams else members

    def require_own(self, chosen: Chosen) -> None:
        """Raise Refused where a stream is prepared in another group."""
        for stream in chosen.streams:
            run = self.ledger.run_of(stream)
            if run is not None and run.group != chosen.group:
                state = self.crew.workers[stream].snapshot.get("state", "prepared")
                raise Refused(
                    f"{stream} is {state} in group {run.group}: command that group, or "
                    f"'fitslog {run.group} stop' first",
                    group=run.group, stream=stream,
                )  # fmt: skip

    def reply(self, chosen: Chosen, *, pending: bool = False) -> dict[str, Any]:
        """Return the answer to a command."""
        views = self.views(chosen.streams)
        state = busiest(view["state"] for view in views.values())
        name = ", ".join(chosen.streams) if chosen.is_named else chosen.group
        verb = "are" if chosen.is_named and len(chosen.streams) > 1 else "is"
        message = chosen.message or f"{name} {verb} {state}"
        return {
            "group": chosen.group, "state": state, "target": chosen.target,
            "session": session_of(views.values()), "streams": views,
            "results": chosen.results, "message": message, "operation": None, "pending": pending,
        }  # fmt: skip

    # --- carrying commands out ------------------------------------------------------------------

    def carry_out(self, name: str, chosen: Chosen, work: Work, *, in_turn: bool = True) -> Any:
        """Do a command's work beside the caller; return the reply, pending where it takes longer.

        Raises
        ------
        NightjarError
            What the work raised, where that came soon enough.
        """
        if self.is_stopping:
            raise Refused("the daemon is stopping", code=Code.STOPPING)
        operation = self._operations.begin(name)
        streams = chosen.streams if in_turn else ()

        def body() -> None:
            try:
                with self.crew.turn(streams):
                    self._notice_ends()
                    in_place = work(chosen)
                    self.ledger.save()
            except NightjarError as error:
                self.ledger.save()
                operation.fail(error)
            except Exception as error:
                log.exception("%s of %s", name, chosen.group)
                operation.fail(NightjarError(f"internal error: {error}", code=Code.INTERNAL))
            else:
                self._end(operation, chosen, in_place)

        self.world.spawn(body, f"{name}-{chosen.group}")
        if operation.wait(REPLY_S):
            value = operation.outcome()
        else:
            value = self.reply(chosen, pending=True)
            value["message"] = f"{chosen.group}: {name} goes on"
        return value | {"operation": operation.id}

    def _end(self, operation: Operation, chosen: Chosen, in_place: bool | None) -> None:
        if in_place is None:
            operation.finish(self.reply(chosen))
            return
        wait = Wait(
            operation, chosen.group, lambda: self.views(chosen.streams),
            lambda: self.reply(chosen), in_place, self.clock,
        )  # fmt: skip
        if not wait.look():
            with self._lock:
                self._waits.append(wait)

    def common_time_ns(self) -> int:
        """Return a moment far enough ahead for all loggers of a group to hear of it."""
        return self.clock.now_ns() + self.config.start_lead_ms * 1_000_000

    def forget_trouble(self, stream: str) -> None:
        """A person has taken a stream in hand: it is not taken up again."""
        self._troubles.pop(stream, None)
        self._retries.pop(stream, None)

    def is_saving(self, stream: str) -> bool:
        """Tell whether a logger is to save, or does."""
        run = self.ledger.run_of(stream)
        state = self.crew.workers[stream].snapshot.get("state")
        return run is not None and (run.goal != "armed" or state in ("saving", "finishing"))
