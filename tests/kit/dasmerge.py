# SPDX-License-Identifier: BSD-3-Clause
"""A merge that is fed file by file: made nights, folders that fill up, a follower on a clock."""

from __future__ import annotations

import importlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nightjar.clock import ManualClock
from nightjar.das.naming import (
    MINUTE_NS,
    housekeeping_path,
    index_path,
    pointing_path,
    raw_path,
)
from nightjar.errors import Cancelled, NightjarError
from nightjar.executor.tasks import Task
from nightjard.merged.config import MergedConfig
from nightjard.merged.follow import Follower, Step

STREAMS = ("raw", "pointing", "housekeeping")


class InProcess:
    """Runs tasks here, one after the other: the same functions, no start of an interpreter."""

    def __init__(self) -> None:
        self.ran: list[Task] = []

    def run(
        self, tasks: Iterable[Task], on_result: Callable[[Task, Any], None],
        on_failure: Callable[[Task, NightjarError], None], cancelled: Callable[[], bool],
        on_event: Any = None,
    ) -> None:  # fmt: skip
        for task in tasks:
            if cancelled():
                raise Cancelled("asked to end")
            module, name = task.function.split(":")
            self.ran.append(task)
            arguments = json.loads(json.dumps(task.arguments))  # as a process gets them
            try:
                result = getattr(importlib.import_module(module), name)(**arguments)
            except NightjarError as error:
                on_failure(task, error)
            else:
                on_result(task, json.loads(json.dumps(result)))

    def survey(self, _folders: Sequence[str]) -> dict[str, dict[str, Any]]:
        return {}

    def close(self) -> None:
        pass


class NightClock(ManualClock):
    """A clock on which waiting costs nothing: it moves on, and tells the night what time it is.

    Parameters
    ----------
    now_ns
        When it begins.
    night
        Called with the time after each wait.
    """

    def __init__(self, now_ns: int, night: Callable[[int], None] = lambda _: None) -> None:
        super().__init__(now_ns)
        self._night = night

    def wait(self, event: Any, timeout_s: float) -> bool:
        self.advance(timeout_s)
        self._night(self.now_ns())
        return bool(event.is_set())


def config_value(root: Path, **changes: Any) -> dict[str, Any]:
    """Return a configuration whose folders are below `root`, and make them."""
    for name in (*STREAMS, "merged"):
        (root / name).mkdir(parents=True, exist_ok=True)
    return {
        "daemon": "test_merged", "log_name": "merge", "control_machines": ["LocalHost"],
        "raw_root": str(root / "raw"), "pointing_root": str(root / "pointing"),
        "housekeeping_root": str(root / "housekeeping"), "merged_root": str(root / "merged"),
        "executor": {"workers": 1}, "output": {"institution": "a test"},
        "storage": {"compression": "none"},  # twice as fast
    } | changes  # fmt: skip


def file_of(root: Path, stream: str, start_ns: int) -> Path:
    """Return a stream's file of a minute below `root`."""
    named = {"raw": raw_path, "pointing": pointing_path, "housekeeping": housekeeping_path}
    return named[stream](root / stream, start_ns)


class Bench:
    """Folders below `root` that are filled from `source`, and a follower.

    Parameters
    ----------
    root
        Of the folders.
    source
        Holds raw/, pointing/ and housekeeping/ of a made night.
    start_ns
        What minute 0 is.
    now_minute
        What time it is: the begin of this minute.
    """

    def __init__(
        self, root: Path, source: Path, start_ns: int, now_minute: float = 0.0, *,
        follower: dict[str, Any] | None = None, **changes: Any,
    ) -> None:  # fmt: skip
        self.root, self.source, self.start_ns = root, source, start_ns
        self.config = MergedConfig.model_validate_json(json.dumps(config_value(root, **changes)))
        self.clock = ManualClock(start_ns + round(now_minute * MINUTE_NS))
        self._settings = follower or {}
        self.begin()

    def begin(self) -> None:
        """Begin with a new follower, as after a restart."""
        self.executor = InProcess()
        self.follower = Follower(self.config, self.executor, self.clock, **self._settings)

    def at(self, minute: int) -> int:
        return self.start_ns + minute * MINUTE_NS

    def file(self, stream: str, minute: int) -> Path:
        return file_of(self.root, stream, self.at(minute))

    def put(self, minutes: int | Iterable[int], streams: Sequence[str] = STREAMS) -> None:
        """Let files of minutes appear; they are never written in place."""
        for minute in (minutes,) if isinstance(minutes, int) else minutes:
            for stream in streams:
                source = file_of(self.source, stream, self.at(minute))
                target = self.file(stream, minute)
                target.parent.mkdir(parents=True, exist_ok=True)
                pairs = [(source, target)]
                if stream == "raw":
                    pairs.insert(0, (index_path(source), index_path(target)))
                for one, other in pairs:
                    if one.exists():
                        link(one, other)

    def take(self, stream: str, minute: int) -> None:
        """Let a file vanish."""
        self.file(stream, minute).unlink()

    def step(self) -> Step:
        return self.follower.step()

    def settle(self) -> list[int]:
        """Step until nothing is done any more; return the minutes that were merged."""
        merged: list[int] = []
        for _ in range(20):
            step = self.step()
            assert not step.failed, step.failed
            if not step.merged:
                return merged
            merged += [(start - self.start_ns) // MINUTE_NS for start, _ in step.merged]
        raise AssertionError("it merges for ever")

    def known(self, minute: int) -> Any:
        return self.follower.memory.get(self.at(minute))

    def hours(self) -> dict[str, dict[str, np.ndarray]]:
        """Return all variables of all products, in the quarter of an hour from minute 0 on."""
        found = {}
        for path in sorted((self.root / "merged").glob("*.nc")):
            hour = int(path.stem[-2:])
            begin_hour, begin_minute = divmod(self.start_ns // MINUTE_NS % 1440, 60)
            first = begin_minute if begin_hour == hour else 0
            found[path.name] = stored(path, slice(first, first + 15))
        return found


def link(source: Path, target: Path) -> None:
    """Put a file there as a new one: a link, under its name at once."""
    hidden = target.with_name(f".{target.name}.new")
    try:
        os.link(source, hidden)
    except OSError:  # another disk
        shutil.copyfile(source, hidden)
    hidden.replace(target)


def stored(path: str | Path, minutes: slice | None = None) -> dict[str, np.ndarray]:
    """Return all variables as stored; of samples only those of some minutes, if they are given."""
    import netCDF4

    with netCDF4.Dataset(path) as dataset:
        dataset.set_auto_maskandscale(False)
        dataset.set_auto_chartostring(False)
        here = slice(None) if minutes is None else slice(3000 * minutes.start, 3000 * minutes.stop)
        return {
            name: np.asarray(one[here] if one.dimensions[:1] == ("time",) else one[...])
            for name, one in dataset.variables.items()
        }


def assert_same(
    one: dict[str, dict[str, np.ndarray]], other: dict[str, dict[str, np.ndarray]],
    but: Sequence[str] = (),
) -> None:  # fmt: skip
    """Compare products byte by byte."""
    assert one.keys() == other.keys()
    for name, variables in one.items():
        assert variables.keys() == other[name].keys()
        for variable, values in variables.items():
            if variable not in but:
                assert values.tobytes() == other[name][variable].tobytes(), (name, variable)
