# SPDX-License-Identifier: BSD-3-Clause
"""The commands that lead a group through a session: prepare, start, pause, stop.

Where one stream of several fails, nothing is changed: those that obeyed are put back. With
`partial` the others go on. Each command may be repeated: it leads to a state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nightjar.errors import Busy, Code, InvalidArgument, Refused, TimedOut
from nightjar.times import iso, parse_iso
from nightjard.fitslogd.deed import Deed, listed
from nightjard.fitslogd.sessions import (
    Run,
    Settings,
    chosen_root,
    logger_settings,
    make_folders,
)
from nightjard.fitslogd.world import Chosen, Work

_FIRST_FRAME_S = 2.0


class SessionCommands(Deed):
    """What leads a group from idle to saved files and back."""

    # --- prep -----------------------------------------------------------------------------------

    def prep(
        self,
        group: str,
        cube_frames: int | None,
        cubes: int | None,
        streams: Sequence[str],
        archive: bool,
        data_type: str,
        directory: str | None,
        compress: bool | None,
        partial: bool,
    ) -> Any:
        """Prepare the loggers of a group."""
        chosen = self.chosen(group, streams, "armed")
        settings = Settings(
            root=chosen_root(self.config, archive, directory),
            cube_frames=cube_frames or self.advised(chosen.streams),
            cubes=cubes,
            data_type=data_type,
            compress=self.config.compress if compress is None else compress,
        )

        def work(chosen: Chosen) -> None:
            self.model.require_own(chosen)
            self._refuse_while_saving(chosen, settings)
            make_folders(self.config, settings.root)
            fresh = [s for s in chosen.streams if not self.model.is_saving(s)]
            self._prepare(chosen, dict.fromkeys(fresh, settings), partial)
            self.tell_cameras(chosen, data_type)
            length = f"{settings.cube_frames} frames per cube"
            chosen.message = f"{group} is prepared: {length}, {data_type}, {settings.root}"

        return self.model.carry_out("prep", chosen, work)

    def _refuse_while_saving(self, chosen: Chosen, settings: Settings) -> None:
        for stream in chosen.streams:
            run = self.model.ledger.run_of(stream)
            if self.model.is_saving(stream) and run is not None and run.settings != settings:
                raise Busy(
                    f"{chosen.group}: {stream} is {run.goal}: pause it first "
                    "(cube length and data type may be changed: set, type)"
                )

    def _prepare(
        self, chosen: Chosen, settings: Mapping[str, Settings], is_partial: bool
    ) -> list[str]:
        """Prepare streams, or put back those that obeyed; return those that are prepared."""
        arguments = {
            stream: logger_settings(self.config, stream, own)
            | {"session_seconds": self._length_s(stream, own)}
            for stream, own in settings.items()
        }
        crew = self.model.crew
        answers = crew.ask("prepare", arguments, self.config.prepare_timeout)
        self.settle(answers, lambda seen: seen.get("state") == "armed")
        good = self.sorted_out(chosen, answers, "prepared")
        bad = {stream: error for stream, error in answers.items() if error is not None}
        if bad and not (is_partial and good):
            self._put_back(good)
            raise self.failed(chosen, "is not prepared", bad, good, "as it was before")
        self.model.ledger.put(
            {stream: Run(chosen.group, settings[stream], session=self._last(stream))
             for stream in good}
        )  # fmt: skip
        for stream in good:
            self.model.forget_trouble(stream)
        return good

    def _last(self, stream: str) -> str | None:
        run = self.model.ledger.run_of(stream)
        return run.session if run is not None else None

    def _length_s(self, stream: str, settings: Settings) -> float | None:
        """Return how long a session may last, for the check of free space."""
        rate_hz = self.model.views([stream])[stream]["rate_hz"]
        if settings.cubes is None:
            return self.config.space_seconds
        return settings.cubes * settings.cube_frames / rate_hz if rate_hz else None

    def _put_back(self, streams: Iterable[str]) -> None:
        runs = {stream: self.model.ledger.run_of(stream) for stream in streams}
        crew, timeout_s = self.model.crew, self.config.command_timeout
        crew.ask("release", {s: {} for s, run in runs.items() if run is None}, timeout_s)
        again = {
            stream: logger_settings(self.config, stream, run.settings)
            for stream, run in runs.items()
            if run is not None
        }
        crew.ask("prepare", again, self.config.prepare_timeout)

    # --- start ----------------------------------------------------------------------------------

    def start(
        self,
        group: str,
        streams: Sequence[str],
        frames: int | None,
        cubes: int | None,
        until: str | None,
        partial: bool,
    ) -> Any:
        """Start saving at a common time; where it is saved already, nothing changes."""
        until_ns = self._moment(until)
        chosen = self.chosen(group, streams, "saving")

        def work(chosen: Chosen) -> None:
            self.model.require_own(chosen)
            wanted = self._startable(chosen)
            fresh = {s: own for s, own in wanted.items() if not self.model.is_saving(s)}
            if not fresh:
                chosen.message = f"{group} is saving already"
                return
            idle = {s: own for s, own in fresh.items() if not self._is_armed(s)}
            ready = set(fresh) - set(idle)
            if idle:
                ready |= set(self._prepare(chosen, idle, partial))
            limits = {"frames": frames, "until_ns": until_ns}
            self._start(chosen, {s: fresh[s] for s in fresh if s in ready}, cubes, limits, partial)

        return self.model.carry_out("start", chosen, work)

    def _moment(self, until: str | None) -> int | None:
        if until is None:
            return None
        try:
            moment = parse_iso(until)
        except ValueError as error:
            raise InvalidArgument(f"until: {error}") from None
        if moment <= self.model.clock.now_ns():
            now = iso(self.model.clock.now_ns(), 0)
            raise InvalidArgument(f"until: {until} has passed; it is {now} UTC")
        return moment

    def _is_armed(self, stream: str) -> bool:
        worker = self.model.crew.workers[stream]
        has_run = self.model.ledger.run_of(stream) is not None
        return has_run and worker.is_running and worker.snapshot.get("state") == "armed"

    def _startable(self, chosen: Chosen) -> dict[str, Settings]:
        """Return what to start, with its settings: what is prepared, else as the last time."""
        ledger = self.model.ledger
        runs = {s: run for s in chosen.streams if (run := ledger.run_of(s)) is not None}
        finishing = [s for s, run in runs.items() if run.goal == "finishing"]
        if finishing:
            raise Busy(
                f"{', '.join(finishing)} fills its last cube: wait for its end "
                f"(fitslog {chosen.group} pause --wait), or close it now (pause)",
                code=Code.NOT_IDLE,
            )
        wanted = {stream: run.settings for stream, run in runs.items()}
        if not wanted or chosen.is_named:
            for stream in chosen.streams:
                last = ledger.remembered(chosen.group, stream)
                if stream not in wanted and last is not None:
                    wanted[stream] = last
        missing = [stream for stream in chosen.streams if stream not in wanted]
        if not wanted or (chosen.is_named and missing):
            raise Refused(
                f"{chosen.group} is not prepared ({', '.join(missing)}): "
                f"fitslog {chosen.group} prep"
            )
        return wanted

    def _start(
        self,
        chosen: Chosen,
        wanted: Mapping[str, Settings],
        cubes: int | None,
        limits: Mapping[str, int | None],
        is_partial: bool,
    ) -> None:
        model = self.model
        session = self._present_session(chosen)
        if session is None or any(self._last(stream) == session for stream in wanted):
            # Nobody is in a session twice: its cubes are numbered, its first frame is one.
            session = model.ledger.new_session(chosen.group)
        begin_ns = model.common_time_ns()
        runs = {}
        for stream, own in wanted.items():
            own_cubes = own.cubes if cubes is None else (cubes or None)
            runs[stream] = Run(
                chosen.group, own, "saving", session, begin_ns, limits["frames"], own_cubes,
                limits["until_ns"],
            )  # fmt: skip
        arguments = {stream: run.start_arguments() for stream, run in runs.items()}
        answers = model.crew.ask("start", arguments, self.config.command_timeout)
        self.settle(
            answers, lambda seen: session in (seen.get("session"), seen.get("last_session"))
        )
        good = self.sorted_out(chosen, answers, "saving")
        bad = {stream: error for stream, error in answers.items() if error is not None}
        if bad and not (is_partial and good):
            # Nothing at or after the common time is kept: no file of a session that was none.
            unsure = [s for s, error in bad.items() if isinstance(error, TimedOut)]
            undo = {"finish": False, "not_after_ns": begin_ns}
            model.crew.ask("pause", dict.fromkeys([*good, *unsure], undo), 1.0)
            raise self.failed(chosen, "does not start", bad, good, "prepared, not saving")
        model.ledger.put({stream: runs[stream] for stream in good})
        chosen.message = (
            f"{listed(good, 'saves', 'save')} frames from {iso(begin_ns, 3)} UTC on, "
            f"session {session}"
        )
        model.ledger.event(
            chosen.group, "info", f"session {session} begins: {', '.join(good)}", is_told=True
        )

    def _present_session(self, chosen: Chosen) -> str | None:
        """Return the session that other streams of the group are in the middle of."""
        for stream in self.model.groups[chosen.group]:
            run = self.model.ledger.run_of(stream)
            if run is not None and run.group == chosen.group and self.model.is_saving(stream):
                return run.session
        return None

    # --- pause ----------------------------------------------------------------------------------

    def pause(self, group: str, streams: Sequence[str], finish: bool, wait: bool) -> Any:
        """End saving, with a full last cube or at once; wait for the files where asked."""
        chosen = self.chosen(group, streams, "finishing" if finish and not wait else "armed")

        def work(chosen: Chosen) -> bool | None:
            self.model.require_own(chosen)
            active = [
                stream for stream in chosen.streams
                if self.model.is_saving(stream) and not (finish and self._is_finishing(stream))
            ]  # fmt: skip
            stop_ns = None if finish else self.model.common_time_ns()
            self._pause(chosen, active, finish, stop_ns)
            if finish:
                return True if wait else None
            return wait

        return self.model.carry_out("pause", chosen, work)

    def _is_finishing(self, stream: str) -> bool:
        run = self.model.ledger.run_of(stream)
        return run is not None and run.goal == "finishing"

    def _await_first_frames(self, streams: Sequence[str]) -> None:
        """Let a session begin before it is told to end with a full cube: it has none to fill."""
        rates = [view["rate_hz"] for view in self.model.views(streams).values()]
        period_s = max((1 / rate for rate in rates if rate), default=0.0)
        limit_s = self.config.start_lead_ms / 1000 + max(_FIRST_FRAME_S, 2 * period_s)
        self.model.crew.settle(
            streams, lambda seen: seen.get("state") != "saving" or bool(seen.get("frames_saved")),
            limit_s,
        )  # fmt: skip

    def _pause(
        self, chosen: Chosen, active: Sequence[str], finish: bool, stop_ns: int | None
    ) -> None:
        model = self.model
        if finish:
            self._await_first_frames(active)
        for stream in active:  # first: a logger that dies now is not to save what comes after
            if finish:
                model.ledger.change(stream, goal="finishing")
            else:
                model.ledger.change(stream, goal="armed", until_ns=self._end_ns(stream, stop_ns))
        arguments = {key: {"finish": finish, "not_after_ns": stop_ns} for key in active}
        answers = model.crew.ask("pause", arguments, self.config.command_timeout)
        self.sorted_out(chosen, answers, "finishing" if finish else "paused")
        bad = {stream: error for stream, error in answers.items() if error is not None}
        dead = {s for s, error in bad.items() if error.code is Code.UNREACHABLE}
        bad = {stream: error for stream, error in bad.items() if stream not in dead}
        if bad:
            raise self.failed(
                chosen, "does not pause", bad, [s for s in active if s not in bad],
                "paused; what hangs is ended by stop --kill",
            )  # fmt: skip
        if active:
            how = "ending with a full cube" if finish else "paused"
            text = f"{listed(active, 'is', 'are')} {how}"
            model.ledger.event(chosen.group, "info", text, is_told=True)

    def _end_ns(self, stream: str, stop_ns: int | None) -> int | None:
        run = self.model.ledger.run_of(stream)
        ends = (stop_ns, run.until_ns if run is not None else None)
        return min((end for end in ends if end is not None), default=None)

    # --- stop -----------------------------------------------------------------------------------

    def stop(self, group: str, streams: Sequence[str], kill: bool) -> Any:
        """Release the loggers; with `kill` restart them, whatever they are doing."""
        chosen = self.chosen(group, streams, "idle")
        work: Work = self._kill if kill else self._release
        return self.model.carry_out("stop", chosen, work, in_turn=not kill)

    def _release(self, chosen: Chosen) -> bool:
        model = self.model
        model.require_own(chosen)
        prepared = [s for s in chosen.streams if model.ledger.run_of(s) is not None]
        model.ledger.drop(prepared)
        for stream in prepared:
            model.forget_trouble(stream)
        timeout_s = self.config.command_timeout
        answers = model.crew.ask("release", {key: {} for key in prepared}, timeout_s)
        good = self.sorted_out(chosen, answers, "released")
        bad = {
            stream: error for stream, error in answers.items()
            if error is not None and error.code is not Code.UNREACHABLE
        }  # fmt: skip
        if bad:
            raise self.failed(
                chosen, "is not released", bad, good, "idle; what hangs is ended by stop --kill"
            )
        if prepared:
            text = f"{', '.join(prepared)} released"
            model.ledger.event(chosen.group, "info", text, is_told=True)
        return True

    def _kill(self, chosen: Chosen) -> bool:
        model = self.model
        model.require_own(chosen)
        model.ledger.drop(chosen.streams)
        model.ledger.forget(chosen.group, chosen.streams)
        for stream in chosen.streams:
            model.forget_trouble(stream)
        model.crew.recycle(chosen.streams, self.config.stop_timeout)
        for stream in chosen.streams:
            chosen.results[stream] = {"ok": True, "message": "restarted"}
        text = f"{', '.join(chosen.streams)}: loggers restarted, settings forgotten"
        model.ledger.event(chosen.group, "warning", text, is_told=True)
        chosen.message = text
        return True
