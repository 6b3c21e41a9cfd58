# SPDX-License-Identifier: BSD-3-Clause
"""The commands of a group: prepare, start, pause, stop, cube length, data type.

Where one stream of several fails, nothing is changed: those that obeyed are put back. With
`partial` the others go on. Each command may be repeated: it leads to a state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from nightjar.api.fitslog import advised_frames, cube_bytes
from nightjar.errors import Busy, Code, InvalidArgument, NightjarError, Refused, TimedOut
from nightjar.times import iso, parse_iso
from nightjar.units import bytes_text
from nightjard.fitslogd.model import Chosen, LoggerGroups, Work
from nightjard.fitslogd.sessions import (
    Run,
    Settings,
    chosen_root,
    logger_settings,
    make_folders,
)
from nightjard.fitslogd.views import failure

_FIRST_FRAME_S = 2.0

Failures = dict[str, NightjarError]
Answers = dict[str, NightjarError | None]


class GroupCommands:
    """What may be asked of the groups.

    Parameters
    ----------
    model
        The groups.
    """

    def __init__(self, model: LoggerGroups) -> None:
        self._model = model
        self._config = model.config

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
        chosen = self._chosen(group, streams, "armed")
        settings = Settings(
            root=chosen_root(self._config, archive, directory),
            cube_frames=cube_frames or self._advised(chosen.streams),
            cubes=cubes,
            data_type=data_type,
            compress=self._config.compress if compress is None else compress,
        )

        def work(chosen: Chosen) -> None:
            self._model.require_own(chosen)
            self._refuse_while_saving(chosen, settings)
            make_folders(self._config, settings.root)
            fresh = [s for s in chosen.streams if not self._model.is_saving(s)]
            self._prepare(chosen, dict.fromkeys(fresh, settings), partial)
            self._tell_cameras(chosen, data_type)
            length = f"{settings.cube_frames} frames per cube"
            chosen.message = f"{group} is prepared: {length}, {data_type}, {settings.root}"

        return self._model.carry_out("prep", chosen, work)

    def _refuse_while_saving(self, chosen: Chosen, settings: Settings) -> None:
        for stream in chosen.streams:
            run = self._model.ledger.run_of(stream)
            if self._model.is_saving(stream) and run is not None and run.settings != settings:
                raise Busy(
                    f"{chosen.group}: {stream} is {run.goal}: pause it first "
                    "(cube length and data type may be changed: set, type)"
                )

    def _prepare(
        self, chosen: Chosen, settings: Mapping[str, Settings], is_partial: bool
    ) -> list[str]:
        """Prepare streams, or put back those that obeyed; return those that are prepared."""
        arguments = {
            stream: logger_settings(self._config, stream, own)
            | {"session_seconds": self._length_s(stream, own)}
            for stream, own in settings.items()
        }
        crew = self._model.crew
        answers = crew.ask("prepare", arguments, self._config.prepare_timeout)
        self._settle(answers, lambda seen: seen.get("state") == "armed")
        good = self._sort(chosen, answers, "prepared")
        bad = {stream: error for stream, error in answers.items() if error is not None}
        if bad and not (is_partial and good):
            self._put_back(good)
            raise self._failed(chosen, "is not prepared", bad, good, "as it was before")
        self._model.ledger.put(
            {stream: Run(chosen.group, settings[stream], session=self._last(stream))
             for stream in good}
        )  # fmt: skip
        for stream in good:
            self._model.forget_trouble(stream)
        return good

    def _last(self, stream: str) -> str | None:
        run = self._model.ledger.run_of(stream)
        return run.session if run is not None else None

    def _length_s(self, stream: str, settings: Settings) -> float | None:
        """Return how long a session may last, for the check of free space."""
        rate_hz = self._model.views([stream])[stream]["rate_hz"]
        if settings.cubes is None:
            return self._config.space_seconds
        return settings.cubes * settings.cube_frames / rate_hz if rate_hz else None

    def _put_back(self, streams: Iterable[str]) -> None:
        runs = {stream: self._model.ledger.run_of(stream) for stream in streams}
        crew, timeout_s = self._model.crew, self._config.command_timeout
        crew.ask("release", {s: {} for s, run in runs.items() if run is None}, timeout_s)
        again = {
            stream: logger_settings(self._config, stream, run.settings)
            for stream, run in runs.items()
            if run is not None
        }
        crew.ask("prepare", again, self._config.prepare_timeout)

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
        chosen = self._chosen(group, streams, "saving")

        def work(chosen: Chosen) -> None:
            self._model.require_own(chosen)
            wanted = self._startable(chosen)
            fresh = {s: own for s, own in wanted.items() if not self._model.is_saving(s)}
            if not fresh:
                chosen.message = f"{group} is saving already"
                return
            idle = {s: own for s, own in fresh.items() if not self._is_armed(s)}
            ready = set(fresh) - set(idle)
            if idle:
                ready |= set(self._prepare(chosen, idle, partial))
            limits = {"frames": frames, "until_ns": until_ns}
            self._start(chosen, {s: fresh[s] for s in fresh if s in ready}, cubes, limits, partial)

        return self._model.carry_out("start", chosen, work)

    def _moment(self, until: str | None) -> int | None:
        if until is None:
            return None
        try:
            moment = parse_iso(until)
        except ValueError as error:
            raise InvalidArgument(f"until: {error}") from None
        if moment <= self._model.clock.now_ns():
            now = iso(self._model.clock.now_ns(), 0)
            raise InvalidArgument(f"until: {until} has passed; it is {now} UTC")
        return moment

    def _is_armed(self, stream: str) -> bool:
        worker = self._model.crew.workers[stream]
        has_run = self._model.ledger.run_of(stream) is not None
        return has_run and worker.is_running and worker.snapshot.get("state") == "armed"

    def _startable(self, chosen: Chosen) -> dict[str, Settings]:
        """Return what to start, with its settings: what is prepared, else as the last time."""
        ledger = self._model.ledger
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
        model = self._model
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
        answers = model.crew.ask("start", arguments, self._config.command_timeout)
        self._settle(
            answers, lambda seen: session in (seen.get("session"), seen.get("last_session"))
        )
        good = self._sort(chosen, answers, "saving")
        bad = {stream: error for stream, error in answers.items() if error is not None}
        if bad and not (is_partial and good):
            # Nothing at or after the common time is kept: no file of a session that was none.
            unsure = [s for s, error in bad.items() if isinstance(error, TimedOut)]
            undo = {"finish": False, "not_after_ns": begin_ns}
            model.crew.ask("pause", dict.fromkeys([*good, *unsure], undo), 1.0)
            raise self._failed(chosen, "does not start", bad, good, "prepared, not saving")
        model.ledger.put({stream: runs[stream] for stream in good})
        chosen.message = (
            f"{_listed(good, 'saves', 'save')} frames from {iso(begin_ns, 3)} UTC on, "
            f"session {session}"
        )
        model.ledger.event(
            chosen.group, "info", f"session {session} begins: {', '.join(good)}", is_told=True
        )

    def _present_session(self, chosen: Chosen) -> str | None:
        """Return the session that other streams of the group are in the middle of."""
        for stream in self._model.groups[chosen.group]:
            run = self._model.ledger.run_of(stream)
            if run is not None and run.group == chosen.group and self._model.is_saving(stream):
                return run.session
        return None

    # --- pause ----------------------------------------------------------------------------------

    def pause(self, group: str, streams: Sequence[str], finish: bool, wait: bool) -> Any:
        """End saving, with a full last cube or at once; wait for the files where asked."""
        chosen = self._chosen(group, streams, "finishing" if finish and not wait else "armed")

        def work(chosen: Chosen) -> bool | None:
            self._model.require_own(chosen)
            active = [
                stream for stream in chosen.streams
                if self._model.is_saving(stream) and not (finish and self._is_finishing(stream))
            ]  # fmt: skip
            stop_ns = None if finish else self._model.common_time_ns()
            self._pause(chosen, active, finish, stop_ns)
            if finish:
                return True if wait else None
            return wait

        return self._model.carry_out("pause", chosen, work)

    def _is_finishing(self, stream: str) -> bool:
        run = self._model.ledger.run_of(stream)
        return run is not None and run.goal == "finishing"

    def _await_first_frames(self, streams: Sequence[str]) -> None:
        """Let a session begin before it is told to end with a full cube: it has none to fill."""
        limit_s = self._config.start_lead_ms / 1000 + _FIRST_FRAME_S
        self._model.crew.settle(
            streams, lambda seen: seen.get("state") != "saving" or bool(seen.get("frames_saved")),
            limit_s,
        )  # fmt: skip

    def _pause(
        self, chosen: Chosen, active: Sequence[str], finish: bool, stop_ns: int | None
    ) -> None:
        model = self._model
        if finish:
            self._await_first_frames(active)
        for stream in active:  # first: a logger that dies now is not to save again
            model.ledger.change(stream, goal="finishing" if finish else "armed")
        arguments = {key: {"finish": finish, "not_after_ns": stop_ns} for key in active}
        answers = model.crew.ask("pause", arguments, self._config.command_timeout)
        self._sort(chosen, answers, "finishing" if finish else "paused")
        bad = {stream: error for stream, error in answers.items() if error is not None}
        dead = {s for s, error in bad.items() if error.code is Code.UNREACHABLE}
        bad = {stream: error for stream, error in bad.items() if stream not in dead}
        if bad:
            raise self._failed(
                chosen, "does not pause", bad, [s for s in active if s not in bad],
                "paused; what hangs is ended by stop --kill",
            )  # fmt: skip
        if active:
            how = "ending with a full cube" if finish else "paused"
            text = f"{_listed(active, 'is', 'are')} {how}"
            model.ledger.event(chosen.group, "info", text, is_told=True)

    # --- stop -----------------------------------------------------------------------------------

    def stop(self, group: str, streams: Sequence[str], kill: bool) -> Any:
        """Release the loggers; with `kill` restart them, whatever they are doing."""
        chosen = self._chosen(group, streams, "idle")
        work: Work = self._kill if kill else self._release
        return self._model.carry_out("stop", chosen, work, in_turn=not kill)

    def _release(self, chosen: Chosen) -> bool:
        model = self._model
        model.require_own(chosen)
        prepared = [s for s in chosen.streams if model.ledger.run_of(s) is not None]
        model.ledger.drop(prepared)
        for stream in prepared:
            model.forget_trouble(stream)
        timeout_s = self._config.command_timeout
        answers = model.crew.ask("release", {key: {} for key in prepared}, timeout_s)
        good = self._sort(chosen, answers, "released")
        bad = {
            stream: error for stream, error in answers.items()
            if error is not None and error.code is not Code.UNREACHABLE
        }  # fmt: skip
        if bad:
            raise self._failed(
                chosen, "is not released", bad, good, "idle; what hangs is ended by stop --kill"
            )
        if prepared:
            text = f"{', '.join(prepared)} released"
            model.ledger.event(chosen.group, "info", text, is_told=True)
        return True

    def _kill(self, chosen: Chosen) -> bool:
        model = self._model
        model.require_own(chosen)
        model.ledger.drop(chosen.streams)
        model.ledger.forget(chosen.group, chosen.streams)
        for stream in chosen.streams:
            model.forget_trouble(stream)
        model.crew.recycle(chosen.streams, self._config.stop_timeout)
        for stream in chosen.streams:
            chosen.results[stream] = {"ok": True, "message": "restarted"}
        text = f"{', '.join(chosen.streams)}: loggers restarted, settings forgotten"
        model.ledger.event(chosen.group, "warning", text, is_told=True)
        chosen.message = text
        return True

    # --- set, type ------------------------------------------------------------------------------

    def set(
        self, group: str, streams: Sequence[str], cube_frames: int | None, next_cube: bool
    ) -> Any:
        """Change the cube length; begin the next cube."""
        if cube_frames is None and not next_cube:
            raise InvalidArgument("set: give cube_frames or next_cube")
        chosen = self._chosen(group, streams, "")
        asked: dict[str, Any] = {}
        if cube_frames is not None:
            asked["cube_frames"] = cube_frames
        if next_cube:
            asked["next_cube"] = True

        def work(chosen: Chosen) -> None:
            change = {} if cube_frames is None else {"cube_frames": cube_frames}
            self._change(chosen, change, asked)
            chosen.message = f"{group}: the next cube begins" if next_cube else ""
            if cube_frames is not None:
                chosen.message = f"{group}: {cube_frames} frames per cube{self._size_note(chosen)}"

        return self._model.carry_out("set", chosen, work)

    def _size_note(self, chosen: Chosen) -> str:
        for stream, view in self._model.views(chosen.streams).items():
            size = self._frame_bytes(stream)
            if size is None:
                continue
            whole = cube_bytes(size, view["settings"]["cube_frames"])
            if whole > (limit := self._config.cube_bytes_limit):
                return f" (files of {bytes_text(whole)}: advised are {advised_frames(size, limit)})"
        return ""

    def type(self, group: str, data_type: str, streams: Sequence[str]) -> Any:
        """Set the card DATA-TYP, at loggers and cameras."""
        chosen = self._chosen(group, streams, "")

        def work(chosen: Chosen) -> None:
            self._change(chosen, {"data_type": data_type}, {"data_type": data_type}, is_lax=True)
            untold = self._tell_cameras(chosen, data_type)
            chosen.message = f"{group}: data type is {data_type}" + (
                f"; not told: {', '.join(untold)}" if untold else ""
            )

        return self._model.carry_out("type", chosen, work)

    def _change(
        self,
        chosen: Chosen,
        change: Mapping[str, Any],
        asked: Mapping[str, Any],
        *,
        is_lax: bool = False,
    ) -> None:
        """Change the settings of streams: of those prepared, else those kept for the next time."""
        model = self._model
        model.require_own(chosen)
        runs = {s: run for s in chosen.streams if (run := model.ledger.run_of(s)) is not None}
        if not runs:
            kept = {
                s: own for s in chosen.streams
                if (own := model.ledger.remembered(chosen.group, s)) is not None
            }  # fmt: skip
            if not is_lax and (not kept or not change):
                raise Refused(
                    f"{chosen.group} is not prepared: fitslog {chosen.group} prep"
                )
            new = {stream: replace(own, **change) for stream, own in kept.items()}
            model.ledger.remember(chosen.group, new)
            return
        answers = model.crew.ask("set", dict.fromkeys(runs, asked), self._config.command_timeout)
        good = self._sort(chosen, answers, "changed")
        model.ledger.put(
            {s: replace(runs[s], settings=replace(runs[s].settings, **change)) for s in good}
        )
        bad = {stream: error for stream, error in answers.items() if error is not None}
        if bad:
            raise self._failed(chosen, "is not changed", bad, good, "changed")

    def _tell_cameras(self, chosen: Chosen, data_type: str) -> list[str]:
        """Tell cameras the data type; return those that did not hear it: no reason to fail."""

        def telling(camera: str) -> Callable[[], None]:
            return lambda: self._model.world.tell_camera(camera, data_type)

        cameras = {
            camera: stream for stream in chosen.streams
            if (camera := self._config.streams[stream].camera) is not None
        }  # fmt: skip
        answers = self._model.crew.side_by_side({camera: telling(camera) for camera in cameras})
        untold = []
        for camera, answer in answers.items():
            if isinstance(answer, NightjarError):
                untold.append(camera)
                text = f"camera {camera} was not told of {data_type}: {answer.message}"
                self._model.ledger.event(cameras[camera], "warning", text)
        return untold

    # --- looking --------------------------------------------------------------------------------

    def advice(self, group: str, streams: Sequence[str]) -> dict[str, Any]:
        """Return the number of frames that a cube should hold, for the group and each stream."""
        members = self._model.members(group, streams)
        found: dict[str, Any] = {}
        for stream in members:
            view, size = self._model.views([stream])[stream], self._frame_bytes(stream)
            frames = None if size is None else advised_frames(size, self._config.cube_bytes_limit)
            found[stream] = {
                "shape": view["shape"], "dtype": view["dtype"], "frame_bytes": size,
                "cube_frames": frames,
                "cube_bytes": None if size is None or frames is None else cube_bytes(size, frames),
            }  # fmt: skip
        known = [one["cube_frames"] for one in found.values() if one["cube_frames"] is not None]
        return {
            "group": group, "cube_frames": min(known, default=None), "streams": found,
            "cube_bytes_limit": self._config.cube_bytes_limit,
        }  # fmt: skip

    def _advised(self, streams: Sequence[str]) -> int:
        sizes = {stream: self._frame_bytes(stream) for stream in streams}
        missing = [stream for stream, size in sizes.items() if size is None]
        if missing:
            raise Refused(
                f"{', '.join(missing)}: there is no such stream, so no number of frames can be "
                "advised: start its camera, or give the number (-n)",
                code=Code.UNKNOWN_ITEM,
            )
        limit = self._config.cube_bytes_limit
        return min(advised_frames(size, limit) for size in sizes.values() if size is not None)

    def _frame_bytes(self, stream: str) -> int | None:
        size = self._model.world.look(stream).get("frame_bytes")
        return int(size) if size else None

    def groups(self) -> dict[str, list[str]]:
        """Return the streams of every group."""
        return {group: list(streams) for group, streams in self._model.groups.items()}

    def cubes(self, group: str, count: int) -> list[dict[str, Any]]:
        """Return the last files of a group, newest first."""
        return self._model.ledger.cubes(self._model.members(group), count)

    # --- helpers --------------------------------------------------------------------------------

    def _chosen(self, group: str, streams: Sequence[str], target: str) -> Chosen:
        return Chosen(group, self._model.members(group, streams), bool(streams), target)

    def _settle(self, answers: Answers, is_there: Callable[[Mapping[str, Any]], bool]) -> None:
        """Wait for loggers that obey as soon as their disk lets them; note those that do not."""
        timeout_s = self._config.command_timeout
        obeying = [stream for stream, error in answers.items() if error is None]
        for stream in self._model.crew.settle(obeying, is_there, timeout_s):
            answers[stream] = TimedOut(
                f"{stream} has not obeyed within {timeout_s:g} s: does its disk hang?"
            )

    @staticmethod
    def _sort(
        chosen: Chosen, answers: Mapping[str, NightjarError | None], word: str
    ) -> list[str]:
        """Note the answer of each stream; return those that obeyed."""
        for stream, error in answers.items():
            said = word if error is None else error.message
            chosen.results[stream] = {"ok": error is None, "message": said}
        return [stream for stream, error in answers.items() if error is None]

    def _failed(
        self, chosen: Chosen, what: str, bad: Failures, good: Sequence[str], became: str
    ) -> NightjarError:
        outcome = f"{_listed(good, 'is', 'are')} {became}" if good else ""
        for stream in good:
            chosen.results[stream]["message"] = became
        return failure(f"{chosen.group} {what}", bad, outcome, self._model.reply(chosen))



def _listed(streams: Sequence[str], one: str, several: str) -> str:
    """Return names and the verb that fits them."""
    return f"{', '.join(streams)} {one if len(streams) == 1 else several}"
