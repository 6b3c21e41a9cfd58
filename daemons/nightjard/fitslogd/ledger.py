# SPDX-License-Identifier: BSD-3-Clause
"""The books of the daemon: what each logger is to do, what happened, what was written."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from nightjar.clock import NS_PER_S, Clock
from nightjar.errors import StorageError
from nightjar.times import iso
from nightjard.fitslogd.sessions import Memory, Run, Settings, Store

MAX_EVENTS = 100
MAX_CUBES = 1000
_TOLD_EVENTS = 20
_SEEN_EVERY_S = 30.0
_RETRY_S = 5.0

Say = Callable[[str, str], None]
"""Tells the observatory log: (level, text)."""


class Ledger:
    """Runs, settings, events and files; every method is thread-safe, reading never waits.

    Parameters
    ----------
    store
        Keeps what must survive a restart.
    clock
        Stamps.
    say
        Told what belongs into the observatory log.
    on_trouble
        Told why the file could not be written; the empty text where it could.
    """

    def __init__(
        self, store: Store, clock: Clock, say: Say, on_trouble: Callable[[str], None]
    ) -> None:
        self._store = store
        self._clock = clock
        self._say = say
        self._on_trouble = on_trouble
        memory = store.load()
        # Replaced as a whole, never changed in place: whoever reads needs no lock.
        self._runs: Mapping[str, Run] = memory.runs
        self._remembered: Mapping[str, Mapping[str, Settings]] = memory.remembered
        self._last_sessions = memory.last_sessions
        self.seen_ns = memory.seen_ns
        """When an earlier life of the daemon was last known to live."""
        self._lock = threading.Lock()
        self._is_dirty = self._has_failed = False
        self._saved_at_ns = clock.monotonic_ns()
        self._events: deque[dict[str, Any]] = deque(maxlen=MAX_EVENTS)
        self._cubes: deque[dict[str, Any]] = deque(maxlen=MAX_CUBES)

    # --- runs -----------------------------------------------------------------------------------

    def run_of(self, stream: str) -> Run | None:
        """Return what a stream's logger is to do; None where it is idle."""
        return self._runs.get(stream)

    def runs(self) -> Mapping[str, Run]:
        """Return what all are to do."""
        return self._runs

    def put(self, runs: Mapping[str, Run]) -> None:
        """Record what loggers are to do, and their settings for the next time."""
        with self._lock:
            self._runs = {**self._runs, **runs}
            remembered = {group: dict(streams) for group, streams in self._remembered.items()}
            for stream, run in runs.items():
                remembered.setdefault(run.group, {})[stream] = run.settings
            self._remembered = remembered
            self._is_dirty = True

    def change(self, stream: str, **changes: Any) -> bool:
        """Change a run where there is one; tell whether it is another now."""
        with self._lock:
            run = self._runs.get(stream)
            changed = None if run is None else replace(run, **changes)
            if changed is None or changed == run:
                return False
            self._runs = {**self._runs, stream: changed}
            self._is_dirty = True
            return True

    def drop(self, streams: Iterable[str]) -> None:
        """Let loggers be idle; their settings are kept."""
        gone = set(streams)
        with self._lock:
            self._runs = {name: run for name, run in self._runs.items() if name not in gone}
            self._is_dirty = True

    # --- settings -------------------------------------------------------------------------------

    def remembered(self, group: str, stream: str) -> Settings | None:
        """Return what a stream was prepared with the last time in a group."""
        return self._remembered.get(group, {}).get(stream)

    def remember(self, group: str, settings: Mapping[str, Settings]) -> None:
        """Keep settings for the next time."""
        with self._lock:
            streams = {**self._remembered.get(group, {}), **settings}
            self._remembered = {**self._remembered, group: streams}
            self._is_dirty = True

    def forget(self, group: str, streams: Iterable[str]) -> None:
        """Drop the settings of streams in a group."""
        gone = set(streams)
        with self._lock:
            left = {k: v for k, v in self._remembered.get(group, {}).items() if k not in gone}
            self._remembered = {**self._remembered, group: left}
            self._is_dirty = True

    def new_session(self, group: str) -> str:
        """Return an id that no session had: ``vcam-20260611T031500``."""
        stamp = iso(self._clock.now_ns(), 0).replace("-", "").replace(":", "")
        identity = base = f"{group}-{stamp}"
        with self._lock:
            last, _, number = self._last_sessions.get(group, "").partition(f"{base}-")
            if last == base:  # several in one second
                identity = f"{base}-2"
            elif number.isdigit():
                identity = f"{base}-{int(number) + 1}"
            self._last_sessions = {**self._last_sessions, group: identity}
        return identity

    # --- the file -------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the file now; what fails is told and tried again later."""
        with self._lock:
            memory = Memory(
                dict(self._runs), {g: dict(s) for g, s in self._remembered.items()},
                dict(self._last_sessions), self._clock.now_ns(),
            )  # fmt: skip
            self._is_dirty = False
            self._saved_at_ns = self._clock.monotonic_ns()
        try:
            self._store.save(memory)
        except StorageError as error:
            self._is_dirty = self._has_failed = True
            self._on_trouble(error.message)
        else:
            self._has_failed = False
            self._on_trouble("")

    @property
    def is_due(self) -> bool:
        """Whether the file should be written: something changed, or it tells that we live."""
        age_s = (self._clock.monotonic_ns() - self._saved_at_ns) / NS_PER_S
        if self._is_dirty:
            return not self._has_failed or age_s > _RETRY_S
        is_saving = any(run.goal != "armed" for run in self._runs.values())
        return is_saving and age_s > _SEEN_EVERY_S

    # --- what happened --------------------------------------------------------------------------

    def event(self, stream: str, level: str, text: str, *, is_told: bool = False) -> None:
        """Record an event; with `is_told` the observatory log hears of it too."""
        self._events.append({
            "time": iso(self._clock.now_ns(), 3), "stream": stream, "level": level, "text": text,
        })  # fmt: skip
        if is_told:
            self._say(level, f"{stream}: {text}")

    def events(self) -> list[dict[str, Any]]:
        """Return the last events, newest last."""
        return list(self._events)[-_TOLD_EVENTS:]

    def cube(self, stream: str, message: Mapping[str, Any]) -> None:
        """Record a file that was renamed into place."""
        cube = {key: value for key, value in message.items() if key != "event"}
        self._cubes.append({"stream": stream, "time": iso(self._clock.now_ns(), 3), **cube})
        lost = [f"{message[key]} {key}" for key in ("missed", "torn") if message.get(key)]
        name = str(message.get("path", "")).rpartition("/")[2]
        text = f"{name}, {message.get('frames')} frames"
        if message.get("truncated"):
            text += f", closed early ({message.get('reason')})"
        if lost:
            text += f", LOST: {', '.join(lost)}"
        is_odd = bool(lost) or message.get("reason") == "killed"
        self.event(stream, "warning" if is_odd else "info", text, is_told=is_odd)

    def cubes(self, streams: Sequence[str], count: int) -> list[dict[str, Any]]:
        """Return the last files of some streams, newest first."""
        found = [cube for cube in list(self._cubes) if cube["stream"] in streams]
        return found[::-1][:count]
