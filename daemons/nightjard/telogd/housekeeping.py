# SPDX-License-Identifier: BSD-3-Clause
"""The housekeeping log: lines of the telescope at 1 Hz, of the rotator at 10 Hz, minute by minute.

Each line goes to the disk as it comes. Numbers go on over files and restarts: they are remembered
in the files themselves and, for the case that these are moved away, in the state folder.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nightjar.clock import NS_PER_S, Clock
from nightjar.das.housekeeping import line
from nightjar.das.naming import MINUTE_NS, housekeeping_path, housekeeping_start_ns
from nightjar.errors import StorageError
from nightjar.files import write_durably
from nightjar.times import iso
from nightjard.telogd.growing import Growing, final_name, leftovers
from nightjard.telogd.minutes import MinuteFile, housekeeping_facts, join_lines, parse_lines

log = logging.getLogger(__name__)

CLOSE_AFTER_NS = NS_PER_S // 2
SILENCE_NS = {"rot": NS_PER_S, "tel": 3 * NS_PER_S}
"""A kind that is silent for so long has a gap."""
MOST_OPEN = 30
_MEMORY = "housekeeping.json"
_DAYS = 3
_AHEAD = 10_000  # beyond what is remembered: more than a minute has


class HousekeepingLog:
    """Writes lines; every method may be called from any thread.

    Parameters
    ----------
    root
        Folder of the days.
    state
        Folder of the daemon's memory.
    kinds
        That are expected: "tel", "rot".
    clock
        Dates the lines.
    on_file
        Is told of each published file.
    """

    def __init__(
        self, root: Path, state: Path, kinds: tuple[str, ...], clock: Clock,
        on_file: Callable[[MinuteFile], None],
    ) -> None:  # fmt: skip
        self.root, self.kinds, self._clock, self._on_file = root, kinds, clock, on_file
        self._memory = state / _MEMORY
        self._lock = threading.RLock()
        self._open: dict[int, Growing] = {}
        self.seq = 0
        self._last: dict[str, int] = {}
        self._gap_told: dict[str, int] = {}
        self._reasons: dict[str, str] = {}
        self._is_ready = False
        self.trouble = ""
        self.last_file: str | None = None
        self.counts = dict.fromkeys(("files", "lines", "gaps", "dropped"), 0)

    # --- life --------------------------------------------------------------------------------

    def resume(self) -> None:
        """Go on where the last life ended: its minutes, its numbers, and the gap since.

        Raises
        ------
        StorageError
            The root cannot be read; try again.
        """
        with self._lock:
            known = self._remembered()
            for live in leftovers(self.root, _DAYS):
                path = final_name(live)
                start = housekeeping_start_ns(path)
                if start is None:
                    continue
                data = live.read_bytes()
                data = data[: data.rfind(b"\n") + 1]  # what the kill has cut is lost
                self._open[start] = Growing(self.root, path, join_lines, data)
                known += [(seq, utc, kind) for seq, utc, kind, _ in parse_lines(data)]
            known += self._newest_published()
            self.seq = max((seq for seq, *_ in known), default=0)
            for seq, utc, kind in known:
                if seq and kind in self.kinds:
                    self._last[kind] = max(utc, self._last.get(kind, 0))
            self._is_ready = True
            for kind in self.kinds:
                self._reasons[kind] = "the telescope logs did not run"
            self._begin_gaps()
            self.tick()

    def _begin_gaps(self) -> None:
        now = self._clock.now_ns()
        for kind in self.kinds:
            since = self._last.get(kind)
            if since is not None and now - since > SILENCE_NS[kind]:
                self._gap(kind, since, now)
            self._last[kind] = now
            self._reasons[kind] = "no answer yet"

    def _remembered(self) -> list[tuple[int, int, str]]:
        try:
            memory = json.loads(self._memory.read_bytes())
            return [(int(memory["seq"]), 0, "")]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s cannot be read: %s", self._memory, error)
            return []

    def _newest_published(self) -> list[tuple[int, int, str]]:
        try:
            folders = sorted(
                (p for p in self.root.iterdir() if p.is_dir() and p.name.isdigit()), reverse=True
            )[:_DAYS]
            for folder in folders:
                files = [p for p in folder.iterdir() if housekeeping_start_ns(p) is not None]
                if files:
                    newest = max(files, key=lambda p: p.name)
                    return [(seq, utc, kind) for seq, utc, kind, _ in
                            parse_lines(newest.read_bytes())]  # fmt: skip
        except OSError as error:
            raise StorageError(f"{self.root} cannot be read: {error.strerror}") from error
        return []

    # --- lines -------------------------------------------------------------------------------

    def add(self, kind: str, values: Mapping[str, Any]) -> None:
        """Write a line of now."""
        with self._lock:
            now = self._clock.now_ns()
            since = self._last.get(kind)
            if since is not None and now - since > SILENCE_NS.get(kind, 1 << 62):
                self._gap(kind, since, now)
            self._last[kind] = now
            self._gap_told.pop(kind, None)
            self._reasons[kind] = "no answer"
            self._write(now, kind, values)

    def silent(self, kind: str, reason: str) -> None:
        """Note why there is no line of a kind."""
        with self._lock:
            self._reasons[kind] = reason

    def _gap(self, kind: str, since: int, now: int) -> None:
        """Write that a kind is silent: once when it is seen, once a minute while it lasts."""
        minute = now // MINUTE_NS
        if self._gap_told.get(kind) == minute:
            return
        if kind not in self._gap_told:
            self.counts["gaps"] += 1
        self._gap_told[kind] = minute
        self._write(now, "gap", {
            "what": kind, "since": iso(since, 3), "reason": self._reasons.get(kind, "no answer"),
        })  # fmt: skip

    def _write(self, now: int, kind: str, values: Mapping[str, Any]) -> None:
        start = now // MINUTE_NS * MINUTE_NS
        file = self._open.get(start)
        if file is None:
            if len(self._open) >= MOST_OPEN:
                lost = self._open.pop(min(self._open))
                lost.abandon()
                self.counts["dropped"] += bytes(lost.content).count(b"\n")
                log.error("%s is lost: the disk took nothing for long", lost.path)
            path = housekeeping_path(self.root, start)
            file = self._open[start] = Growing(self.root, path, join_lines)
        self.seq += 1
        self.counts["lines"] += 1
        try:
            file.append(line(self.seq, now, kind, values).encode())
            self.trouble = ""
        except StorageError as error:
            self._tell(error)

    # --- care --------------------------------------------------------------------------------

    def tick(self) -> None:
        """Publish minutes that are over, tell gaps that last, try again what the disk refused."""
        with self._lock:
            if not self._is_ready:
                return
            now = self._clock.now_ns()
            for kind in self.kinds:
                since = self._last.get(kind)
                if since is not None and now - since > SILENCE_NS[kind]:
                    self._gap(kind, since, now)
            for start, file in sorted(self._open.items()):
                is_over = not start <= now < start + MINUTE_NS + CLOSE_AFTER_NS
                # A clock that was stepped back leaves a minute ahead of now: it stays open.
                if is_over and start < now:
                    self._publish(start, file)
                    continue
                try:
                    file.flush()
                    self.trouble = ""
                except StorageError as error:
                    self._tell(error)

    def _publish(self, start: int, file: Growing) -> None:
        try:
            content = file.publish()
        except StorageError as error:
            self._tell(error)
            return
        self.trouble = ""
        del self._open[start]
        self.counts["files"] += 1
        self.last_file = str(file.path)
        self._remember()
        facts = housekeeping_facts(content, start, self.kinds, "telogd")
        self._on_file(facts)

    def _remember(self) -> None:
        try:
            write_durably(self._memory, json.dumps({"seq": self.seq}).encode(), replace=True)
        except OSError as error:
            log.error("%s cannot be written: %s", self._memory, error.strerror)

    def sync(self) -> None:
        """Make durable what was written; OSError as the system says."""
        with self._lock:
            descriptors = [file.unsynced() for file in self._open.values()]
        for descriptor in descriptors:  # outside: a busy disk must not hold up lines
            if descriptor is not None:
                try:
                    os.fdatasync(descriptor)
                finally:
                    os.close(descriptor)

    def _tell(self, error: StorageError) -> None:
        if error.message != self.trouble:
            log.error("%s", error.message)
        self.trouble = error.message

    def close(self) -> None:
        """Publish what runs as what it is."""
        with self._lock:
            if not self._is_ready:
                return
            for start, file in sorted(self._open.items()):
                self._publish(start, file)
            for file in self._open.values():
                file.abandon()
            self._open.clear()
            self._is_ready = False
            self._last.clear()
            self._gap_told.clear()

    @property
    def first_open_ns(self) -> int | None:
        """Start of the oldest minute under way; None for none."""
        with self._lock:
            return min(self._open, default=None)
