# SPDX-License-Identifier: BSD-3-Clause
"""Which minutes are here: a table per day, and a marker for each hour of which nothing is missing.

The marker ``HOUSEKEEPING/YYYYMMDD/complete_HH.json`` is written once 60 minutes of all three
streams are here and proven; it lists them with size and CRC-32. Who takes data further may wait for
it.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nightjar.api.telog import STREAMS, FileState
from nightjar.clock import NS_PER_S, Clock
from nightjar.das.naming import (
    MINUTE_NS,
    day_of,
    housekeeping_start_ns,
    minute_start_ns,
    minutes_in,
    pointing_start_ns,
    raw_start_ns,
)
from nightjar.errors import NightjarError, StorageError, storage_code
from nightjar.files import write_durably
from nightjar.times import iso
from nightjard.telogd.ledger import Ledger
from nightjard.telogd.minutes import MinuteFile, housekeeping_facts, pointing_facts
from nightjard.telogd.raw_files import judge

log = logging.getLogger(__name__)

HOUR_NS = 60 * MINUTE_NS
_START_NS = {
    "raw": raw_start_ns, "pointing": pointing_start_ns, "housekeeping": housekeeping_start_ns,
}  # fmt: skip
_MOST = 60  # files judged in one go
_LATE_NS = 30 * NS_PER_S
_Day = dict[str, tuple[dict[int, Path], dict[int, tuple[str, int | None]]]]


def marker_path(root: Path, hour_ns: int) -> Path:
    """Return the marker of the hour that begins at a time."""
    return root / day_of(hour_ns) / f"complete_{hour_ns // HOUR_NS % 24:02d}.json"


class Completeness:
    """Looks at the folders and the ledger together.

    Parameters
    ----------
    roots
        Stream -> folder of its days.
    kinds
        Kinds of lines that housekeeping is expected to have.
    ledger
        What was proven.
    clock
        Tells which minutes are over.
    """

    def __init__(
        self, roots: dict[str, Path], kinds: tuple[str, ...], ledger: Ledger, clock: Clock
    ) -> None:
        self.roots, self._kinds, self._ledger, self._clock = roots, kinds, ledger, clock
        self._done: set[int] = set()

    def _here(self, stream: str, day: str) -> dict[int, Path]:
        try:
            return minutes_in(self.roots[stream] / day, _START_NS[stream])
        except OSError as error:
            raise StorageError(
                f"{self.roots[stream] / day} cannot be listed: {error.strerror}"
            ) from error

    def day(self, day: str) -> dict[str, Any]:
        """Return, for each hour that has begun, what each stream has.

        Raises
        ------
        InvalidArgument
            No such day.
        StorageError
            Folder or ledger cannot be read.
        """
        first = minute_start_ns(day, 0)
        now = self._clock.now_ns()
        streams = {}
        for stream in STREAMS:
            states = self._ledger.states(stream, day)
            streams[stream] = {
                start: states.get(start, ("unproven", None))[0] for start in self._here(stream, day)
            }
        hours = []
        for hour_ns in range(first, min(first + 24 * HOUR_NS, now), HOUR_NS):
            over = [s for s in range(hour_ns, hour_ns + HOUR_NS, MINUTE_NS) if s + MINUTE_NS <= now]
            row = {stream: _hour(streams[stream], over) for stream in STREAMS}
            hours.append({
                "hour": hour_ns // HOUR_NS % 24, "minutes": len(over),
                "is_complete": marker_path(self.roots["housekeeping"], hour_ns).exists(), **row,
            })  # fmt: skip
        return {"day": day, "hours": hours}

    # --- markers -----------------------------------------------------------------------------

    def tick(self, hours_back: int) -> None:
        """Judge what the ledger does not know, mark hours that are complete; some at a time.

        Raises
        ------
        StorageError
            Folder or ledger cannot be read or written.
        """
        now = self._clock.now_ns() - _LATE_NS
        last = now // HOUR_NS * HOUR_NS
        known: dict[str, _Day] = {}
        for k in range(1, hours_back + 1):
            hour_ns = last - k * HOUR_NS
            if hour_ns in self._done:
                continue
            marker = marker_path(self.roots["housekeeping"], hour_ns)
            day = day_of(hour_ns)
            if not marker.exists():
                if day not in known:
                    known[day] = {
                        one: (self._here(one, day), self._ledger.states(one, day))
                        for one in STREAMS
                    }
                if not self._mark(hour_ns, marker, known[day]):
                    continue
            self._done.add(hour_ns)
        self._done = {hour for hour in self._done if hour >= last - (hours_back + 1) * HOUR_NS}

    def _mark(self, hour_ns: int, marker: Path, known: _Day) -> bool:
        day = day_of(hour_ns)
        span = range(hour_ns, hour_ns + HOUR_NS, MINUTE_NS)
        is_whole = True
        for stream in STREAMS:
            here, states = known[stream]
            unknown = [s for s in span if s in here and s not in states]
            for start in unknown[:_MOST]:
                self._judge(stream, day, start, here[start])
            if any(states.get(s, ("", 0))[0] != FileState.WHOLE.value or s not in here
                   for s in span):  # fmt: skip
                is_whole = False
        if not is_whole:
            return False
        streams = {stream: self._rows(stream, day, set(span)) for stream in STREAMS}
        value = {"hour": iso(hour_ns, 0), "time": iso(self._clock.now_ns(), 3), "streams": streams}
        try:
            write_durably(marker, (json.dumps(value, indent=1) + "\n").encode())
        except FileExistsError:
            return True
        except OSError as error:
            raise StorageError(
                f"{marker} cannot be written: {error.strerror}", code=storage_code(error)
            ) from error
        log.info("all of %s is here: %s", iso(hour_ns, 0), marker)
        return True

    def _rows(self, stream: str, day: str, span: set[int]) -> list[dict[str, Any]]:
        files = self._ledger.files(day, stream, FileState.WHOLE.value, 5000)
        return sorted(
            (
                {"name": one["name"], "size": one["size"], "crc32": f"{one['crc32']:08x}"}
                for one in files if one["start_ns"] in span
            ),
            key=lambda row: str(row["name"]),
        )  # fmt: skip

    def _judge(self, stream: str, day: str, start: int, path: Path) -> None:
        """Tell the ledger of a file that it does not know: it was lost, or somebody put it here."""
        judges: dict[str, Callable[[bytes], MinuteFile]] = {
            "pointing": lambda data: pointing_facts(data, start, "found here"),
            "housekeeping": lambda data: housekeeping_facts(data, start, self._kinds, "found here"),
        }
        try:
            if stream == "raw":
                file = judge(path, day, "found here")
            else:
                file = judges[stream](path.read_bytes())
        except NightjarError as error:
            data = path.read_bytes()
            file = MinuteFile(
                stream, day, path.name, start, FileState.DAMAGED, len(data), zlib.crc32(data),
                source="found here", reason=error.message,
            )  # fmt: skip
        except OSError as error:
            log.error("%s cannot be read: %s", path, error.strerror)
            return
        self._ledger.note(file)


def _hour(states: dict[int, str], over: list[int]) -> dict[str, Any]:
    whole = [s for s in over if states.get(s) == FileState.WHOLE.value]
    partial = [s for s in over if s in states and s not in set(whole)]
    missing = [s for s in over if s not in states]
    return {
        "whole": len(whole), "partial": [s // MINUTE_NS % 1440 for s in partial],
        "missing": [s // MINUTE_NS % 1440 for s in missing],
    }  # fmt: skip
