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
from nightjar.clock import SystemClock
from nightjar.config.load import parse
from nightjar.config.paths import config_names, config_path, config_root, read_json
from nightjar.das.naming import MINUTE_NS, minute_start_ns
from nightjar.errors import ConfigError, InvalidArgument, Refused, TimedOut
from nightjar.executor.choosing import executor_of
from nightjar.times import iso
from nightjard.merged import netcdf
from nightjard.merged.config import MergedConfig
from nightjard.merged.folders import DAY_NS
from nightjard.merged.follow import Follower, Step, minute_text, runs_of
from nightjard.merged.hour import TASKS
from nightjard.merged.memory import Merged
from nightjard.merged.model import status_name
from nightjard.merged.products import reading, start_ns

PROGRAM = "merged"


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
        ``night``, ``first``, ``last`` (minutes of it), ``is_patient`` (go on without companions),
        ``once`` (wait for nothing).
    """

    def __init__(self, session: Session, config: MergedConfig, span: dict[str, Any]) -> None:
        self._session, self._config, self._span = session, config, span
        self._clock = SystemClock()
        self._told: str | None = None
        self._counts: Counter[str] = Counter()

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
        if not config.raw_root.is_dir():
            raise InvalidArgument(f"raw files: {config.raw_root} is not a folder")
        config.merged_root.mkdir(parents=True, exist_ok=True)
        first, last = self._bounds()
        executor = executor_of(config.executor, TASKS)
        follower = Follower(
            config, executor, clock, first_ns=first, last_ns=last,
            is_patient=self._span["is_patient"],
        )  # fmt: skip
        never = threading.Event()
        with contextlib.closing(executor):
            while True:
                step = follower.step()
                self._tell(step)
                if not step.merged and self._is_over(step, last):
                    break
                if not step.merged:
                    clock.wait(never, config.follow.poll_s)
        self._end()

    def _bounds(self) -> tuple[int, int | None]:
        night, first, last = (self._span[key] for key in ("night", "first", "last"))
        if night is not None:
            begin = minute_start_ns(night, first or 0)
            end = minute_start_ns(night, 1439 if last is None else last)
            return begin, end if last is not None or not self._span["is_patient"] else None
        days = sorted(
            path.name for path in self._config.raw_root.iterdir()
            if path.is_dir() and len(path.name) == 8 and path.name.isdigit()
        )  # fmt: skip
        if not days:
            raise Refused(f"{self._config.raw_root} has no folder YYYYMMDD: nothing to merge")
        return minute_start_ns(days[0], 0), None

    def _is_over(self, step: Step, last: int | None) -> bool:
        """Tell whether nothing is left to wait for; say what is waited for."""
        if step.given_up and not self._span["is_patient"]:
            one = step.given_up[0]
            raise TimedOut(
                f"{one.text} after {one.waited_s:.0f} s: start the telescope logs (telog start), "
                "or leave the folder out", minute=minute_text(one.start_ns),
            )  # fmt: skip
        if step.waiting:
            if self._span["once"]:
                self._note(f"{step.waiting[0].text}: left out")
                return True
            self._note(f"{step.waiting[0].text}: waiting for it")
            return False
        if self._span["once"]:
            return True
        is_named_end = self._span["last"] is not None
        if is_named_end and step.newest_ns is not None and last is not None:
            if step.newest_ns >= last or self._clock.now_ns() > last + 2 * MINUTE_NS + DAY_NS:
                return True
        self._note("all there is is merged; waiting for the next raw file (Ctrl-C ends)")
        return False

    def _note(self, text: str) -> None:
        if text != self._told:
            self._session.note(text)
        self._told = text

    def _tell(self, step: Step) -> None:
        for start, reason in step.failed:
            self._counts["failed"] += 1
            self._session.note(f"minute {minute_text(start)}: {reason}")
        known = dict(step.merged)
        for run in runs_of([start for start, _ in step.merged]):
            self._tell_run(run, [known[start] for start in run])

    def _tell_run(self, run: list[int], merged: list[Merged]) -> None:
        self._told = None
        states = Counter(status_name(one.status) for one in merged)
        self._counts.update(states)
        name = netcdf.hour_path(self._config.merged_root, run[0]).name
        span = minute_text(run[0]) if len(run) == 1 else f"{minute_text(run[0])}-{run[-1] // MINUTE_NS % 1440:04d}"  # noqa: E501
        text = ", ".join(f"{count} {state}" for state, count in states.items())
        if len(run) == 1:
            text = next(iter(states))
        offset = merged[-1].offset_s
        clock = "" if offset is None else f", clock {offset:+.4f} s"
        again = ", again" if all(one.times > 1 for one in merged) else ""
        reasons = sorted({one.reason for one in merged if one.reason})
        why = f": {reasons[0]}" if reasons else ""
        more = f" (and {len(reasons) - 1} other reasons)" if len(reasons) > 1 else ""
        self._session.event(
            {"first": minute_text(run[0]), "minutes": len(run), "states": dict(states),
             "file": name, "offset_s": offset, "again": bool(again), "reasons": reasons},
            f"{span}  {name}  {text}{again}{clock}{why}{more}",
        )  # fmt: skip

    def _end(self) -> None:
        total = sum(count for state, count in self._counts.items() if state != "failed")
        if self._counts["failed"]:
            raise Refused(
                f"{self._counts['failed']} minutes could not be written, {total} are merged; see "
                "above"
            )
        self._session.note(f"{total} minutes merged into {self._config.merged_root}")


# --- other work by hand -------------------------------------------------------------------------


def clear_minutes(config: MergedConfig, file: Path, minutes: list[int]) -> None:
    """Set minutes of an hour's file back to fill.

    Raises
    ------
    Refused
        It was made with another configuration.
    StorageError
        It cannot be written.
    """
    with reading(file) as dataset:
        hour_ns = start_ns(dataset)
    if netcdf.hour_path(config.merged_root, hour_ns).name != file.name:
        raise InvalidArgument(f"{file}: its name is not that of the hour it holds, {iso(hour_ns)}")
    with netcdf.hour_lock(config, hour_ns), netcdf.opened(config, hour_ns) as opened:
        for minute in minutes:
            opened.clear(minute, config.rate_hz)
        told = ", ".join(map(str, minutes))
        opened.note(f"minutes {told} cleared by hand", SystemClock().now_ns())
    memory = Follower(config, _NoExecutor(), SystemClock()).memory
    for minute in minutes:
        memory.forget(hour_ns + minute * MINUTE_NS)
    memory.save()


class _NoExecutor:
    """Runs nothing."""

    def run(self, *_arguments: Any, **_named: Any) -> None:
        """Never called."""

    def survey(self, _folders: Any) -> dict[str, dict[str, Any]]:
        """Never called."""
        return {}

    def close(self) -> None:
        """Nothing is to be ended."""


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
        if not (dry_run or is_short):
            if force:
                target.unlink(missing_ok=True)
            hours.cut(one, target, SystemClock().now_ns())
        cut = " and ".join(["begin"] * one.is_begin_cut + ["end"] * one.is_end_cut)
        rows.append({
            "number": one.number, "source": one.source, "begin": iso(one.begin_ns),
            "end": iso(one.end_ns), "seconds": one.seconds, "cut": cut,
            "file": None if is_short else str(name if dry_run else target),
        })  # fmt: skip
    if numbers and not rows:
        raise InvalidArgument(f"no observation {', '.join(map(str, sorted(numbers)))} in there")
    return rows


