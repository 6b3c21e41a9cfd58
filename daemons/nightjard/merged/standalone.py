# SPDX-License-Identifier: BSD-3-Clause
"""The merge by hand: one configuration with what options change, a loop that tells and ends."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from nightjar.cli.session import Session
from nightjar.clock import NS_PER_S, Clock, SystemClock
from nightjar.config.load import parse
from nightjar.config.paths import config_names, config_path, config_root, read_json
from nightjar.das.naming import MINUTE_NS, minute_of, minute_start_ns
from nightjar.errors import ConfigError, InvalidArgument, NightjarError, Refused, TimedOut
from nightjar.executor.choosing import executor_of
from nightjar.times import iso
from nightjard.merged import netcdf
from nightjard.merged.config import MergedConfig
from nightjard.merged.follow import Follower, Step, minute_text, runs_of
from nightjard.merged.hour import TASKS
from nightjard.merged.memory import Memory, Merged
from nightjard.merged.model import status_name
from nightjard.merged.products import hour_held, reading, start_ns, writing

PROGRAM = "merged"
_OVER_NS = 10 * MINUTE_NS  # so long behind a minute's end no raw file of it is waited for


# --- configuration ------------------------------------------------------------------------------


def load_config(
    named: str | None, changes: dict[str, Any], nested: dict[str, dict[str, Any]]
) -> MergedConfig:
    """Return a configuration with some of its keys replaced.

    Parameters
    ----------
    named
        A file, or the id of one; None: the only one there is.
    changes
        Keys -> values.
    nested
        Keys -> keys in them -> values; None leaves a value as it is.

    Raises
    ------
    ConfigError
        It is not there or not valid; which it is, is not clear.
    """
    path = _path_of(named)
    value = read_json(path)
    for key, new in changes.items():
        value[key] = None if new is None else str(new) if isinstance(new, Path) else new
    for key, values in nested.items():
        kept = {name: one for name, one in values.items() if one is not None}
        if kept:
            value[key] = {**value.get(key, {}), **kept}
    return parse(value, MergedConfig, str(path))


def _path_of(named: str | None) -> Path:
    if named is not None:
        if named.endswith(".json") or os.sep in named:
            return Path(named)
        return config_path(PROGRAM, named)
    names = config_names(PROGRAM)
    if len(names) != 1:
        known = ", ".join(names) or "none"
        raise ConfigError(
            f"which configuration? {config_root(PROGRAM)} has: {known}; name one with -cs"
        )
    return config_path(PROGRAM, names[0])


# --- the loop -----------------------------------------------------------------------------------


class Standalone:
    """Merges by hand until there is nothing to wait for.

    Parameters
    ----------
    session
        Where it tells.
    config
        What is merged, and where to.
    span
        ``night``, ``first``, ``last`` (minutes of it), ``follow`` (go on without companions, and
        past what failed), ``once`` (wait for nothing).
    clock
        For all waits.
    """

    def __init__(
        self, session: Session, config: MergedConfig, span: dict[str, Any],
        clock: Clock | None = None,
    ) -> None:  # fmt: skip
        self._session, self._span = session, span
        if span["once"]:  # what is missing is fill, at once
            follow = config.follow.model_copy(update={"companion_wait_s": 0.0, "settle_s": 0.0})
            config = config.model_copy(update={"follow": follow})
        self._config = config
        self._clock = clock or SystemClock()
        self._told: str | None = None
        self._merged: set[int] = set()
        self._failed: dict[int, NightjarError] = {}
        self._ended_ns: int | None = None
        self._kept = 0

    def run(self) -> None:
        """Merge.

        Raises
        ------
        TimedOut
            Companions of a raw file did not come.
        Refused
            There is nothing to merge.
        NightjarError
            A minute could not be written.
        """
        config, clock = self._config, self._clock
        follow, once = self._span["follow"], self._span["once"]
        if not config.raw_root.is_dir():
            raise InvalidArgument(f"raw files: {config.raw_root} is not a folder")
        first, last = self._bounds()
        executor = executor_of(config.executor, TASKS)
        follower = Follower(
            config, executor, clock, first_ns=first, last_ns=last, is_patient=follow or once,
        )  # fmt: skip
        never = threading.Event()
        with contextlib.closing(executor):
            while True:
                step = follower.step()
                self._tell(step)
                self._kept = len(step.kept)
                if step.merged:
                    continue  # what was merged meanwhile may have changed what is to be done
                if self._is_over(step, follower, last):
                    break
                clock.wait(never, config.follow.poll_s)
        self._end()

    def _bounds(self) -> tuple[int, int | None]:
        night, first, last = (self._span[key] for key in ("night", "first", "last"))
        if night is not None:
            return minute_start_ns(night, first or 0), minute_start_ns(
                night, 1439 if last is None else last
            )
        days = sorted(
            path.name for path in self._config.raw_root.iterdir()
            if path.is_dir() and len(path.name) == 8 and path.name.isdigit()
        )  # fmt: skip
        if not days:
            raise Refused(f"{self._config.raw_root} has no folder YYYYMMDD: nothing to merge")
        return minute_start_ns(days[0], 0), None

    # --- the end ---

    def _is_over(self, step: Step, follower: Follower, last: int | None) -> bool:
        """Tell whether nothing is left to wait for; say what is waited for."""
        if self._span["once"]:
            return True
        wait_s = self._config.follow.companion_wait_s
        if step.given_up and not self._span["follow"]:
            one = step.given_up[0]
            raise TimedOut(
                f"{one.text} after {one.waited_s:.0f} s: start the telescope logs (telog start), "
                "merge what there is with --once, or leave a stream out",
                minute=minute_text(one.start_ns),
            )  # fmt: skip
        if step.waiting:
            until = f" (at most {wait_s:g} s)" if step.waiting[0].missing else ""
            self._note(f"{step.waiting[0].text}: waiting{until}")
            return False
        if self._failed and not self._span["follow"]:
            return True
        if last is not None and self._is_past(step, follower, last):
            return True
        self._note("all there is is merged; waiting for the next raw file (Ctrl-C ends)")
        return False

    def _is_past(self, step: Step, follower: Follower, last: int) -> bool:
        """Tell whether no raw file up to the last minute can still come."""
        now_ns = self._clock.now_ns()
        newest = step.newest_ns or 0
        if self._span["follow"]:
            # The last minute ends in the first files of the next: those are waited for.
            if newest <= last and now_ns < last + MINUTE_NS + _OVER_NS:
                return False
            if self._ended_ns is None:
                self._ended_ns = now_ns
            wait_ns = round(self._config.follow.companion_wait_s * NS_PER_S)
            return follower.is_whole(last) or now_ns - self._ended_ns >= wait_ns
        return newest >= last or now_ns >= last + MINUTE_NS + _OVER_NS

    def _end(self) -> None:
        done = len(self._merged)
        if self._failed:
            first = next(iter(self._failed.values()))
            raise NightjarError(
                f"{len(self._failed)} minutes could not be written, {done} are merged; the first: "
                f"{first.message}", code=first.code,
            )  # fmt: skip
        minutes = "1 minute" if done == 1 else f"{done} minutes"
        self._session.note(f"{minutes} merged into {self._config.merged_root}")
        if self._kept:
            self._session.note(
                f"{self._kept} left as they are: they were merged from files that are not there "
                "now, or in folders that are not named"
            )

    # --- what it tells ---

    def _note(self, text: str) -> None:
        if text != self._told:
            self._session.note(text)
        self._told = text

    def _tell(self, step: Step) -> None:
        for start, merged in step.merged:
            del merged
            self._merged.add(start)
            self._failed.pop(start, None)
        fresh = [
            (start, error.message) for start, error in step.failed
            if start not in self._failed or self._failed[start].message != error.message
        ]  # fmt: skip
        self._failed.update(step.failed)
        for run in runs_of([start for start, _ in fresh]):
            self._note(f"{_span_text(run)}  failed: {dict(fresh)[run[0]]}")
        known = dict(step.merged)
        for run in runs_of([start for start, _ in step.merged]):
            self._tell_run(run, [known[start] for start in run])

    def _tell_run(self, run: list[int], merged: list[Merged]) -> None:
        self._told = None
        states = Counter(status_name(one.status) for one in merged)
        name = netcdf.hour_path(self._config.merged_root, run[0]).name
        text = ", ".join(f"{count} {state}" for state, count in states.items())
        if len(run) == 1:
            text = next(iter(states))
        offset = merged[-1].offset_s
        clock = "" if offset is None else f", clock {offset:+.4f} s"
        again = ", again" if all(one.times > 1 for one in merged) else ""
        reasons = list(dict.fromkeys(one.reason for one in merged if one.reason))
        why = f": {reasons[0]}" if reasons else ""
        more = f" (and {len(reasons) - 1} more: dasmerge show {name})" if len(reasons) > 1 else ""
        self._session.event(
            {"first": minute_text(run[0]), "minutes": len(run), "states": dict(states),
             "file": name, "offset_s": offset, "again": bool(again), "reasons": reasons},
            f"{_span_text(run)}  {name}  {text}{again}{clock}{why}{more}",
        )  # fmt: skip


def _span_text(run: list[int]) -> str:
    text = minute_text(run[0])
    return text if len(run) == 1 else f"{text}-{minute_of(run[-1]):04d}"


# --- other work by hand -------------------------------------------------------------------------


def clear_minutes(file: Path, minutes: list[int]) -> None:
    """Set minutes of an hour's file back to fill.

    Raises
    ------
    InvalidArgument
        It is not the file of an hour.
    Busy
        Another program writes it.
    StorageError
        It cannot be written.
    """
    with reading(file) as dataset:
        hour_ns = start_ns(dataset)
        if "minute_status" not in dataset.variables:
            raise InvalidArgument(f"{file}: it is an observation, and not the file of an hour")
        rate_hz = round(1 / float(dataset["sample_interval"][...]))
    if netcdf.hour_path(file.parent, hour_ns).name != file.name:
        raise InvalidArgument(f"{file}: its name is not that of the hour it holds, {iso(hour_ns)}")
    with hour_held(file), writing(file) as dataset:
        opened = netcdf.HourFile(file, dataset)
        for minute in minutes:
            opened.clear(minute, rate_hz)
        told = ", ".join(map(str, minutes))
        opened.note(f"minutes {told} cleared by hand", SystemClock().now_ns())
    memory = Memory(file.parent)
    for minute in minutes:
        memory.forget(hour_ns + minute * MINUTE_NS)
    memory.save()


def cut_observations(
    places: list[Path], night: str | None, numbers: set[int], shortest_s: float, output: Path,
    *, dry_run: bool, force: bool,
) -> list[dict[str, Any]]:  # fmt: skip
    """Cut merged files by observation; return what there is as rows.

    Raises
    ------
    InvalidArgument
        No merged files, or none of the observations that are wanted.
    StorageError
        A file cannot be read or written.
    """
    from nightjard.merged.slicing import Hours, find_hours, slice_name

    hours = Hours(find_hours(places, night))
    rows: list[dict[str, Any]] = []
    if not dry_run:
        output.mkdir(parents=True, exist_ok=True)
    seen: Counter[str] = Counter()
    for index, one in enumerate(hours.observations(), 1):
        if numbers and one.number not in numbers:
            continue
        name = slice_name(one, index)
        seen[name] += 1
        if seen[name] > 1:  # a number that was given twice
            name = name.replace("_raw.nc", f"_{seen[name]}_raw.nc")
        is_short = one.seconds < shortest_s
        target = output / name
        is_kept = target.exists() and not (force or dry_run or is_short)
        if not (dry_run or is_short or is_kept):
            hours.cut(one, target, SystemClock().now_ns(), is_forced=force)
        cut = " and ".join(["begin"] * one.is_begin_cut + ["end"] * one.is_end_cut)
        rows.append({
            "number": one.number, "source": one.source, "begin": iso(one.begin_ns),
            "end": iso(one.end_ns), "seconds": one.seconds, "cut": cut,
            "file": None if is_short else str(name if dry_run else target), "kept": is_kept,
        })  # fmt: skip
    if numbers and not rows:
        raise InvalidArgument(f"no observation {', '.join(map(str, sorted(numbers)))} in there")
    return rows
