# SPDX-License-Identifier: BSD-3-Clause
"""The receiver of pointing records: bursts over TCP become minute files, each tick once.

Records are taken by their own time, not by when they come: what is sent twice after a reconnect is
seen, what is missing is a hole in the file and in the ledger, and is filled when it comes later.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nightjar.clock import NS_PER_S, Clock
from nightjar.das.naming import MINUTE_NS, pointing_path, pointing_start_ns
from nightjar.das.pointing import MJD_EPOCH, RATE_HZ, RECORD, RECORDS, TICK_NS
from nightjar.errors import NightjarError, StorageError
from nightjard.telogd.growing import Growing, final_name, leftovers
from nightjard.telogd.minutes import (
    DAY_TICKS,
    MinuteFile,
    join_pointing,
    ordered,
    pointing_facts,
    slots_of,
)

log = logging.getLogger(__name__)

CLOSE_AFTER_NS = 4 * NS_PER_S
"""A minute with holes is closed so long after its end: bursts come once a second."""
OLDEST_NS = 3600 * NS_PER_S
NEWEST_NS = 60 * NS_PER_S
"""Records further from our clock are not believed."""
MOST_OPEN = 30
"""Minutes kept in memory while the disk takes none."""


class _Minute:
    """A minute under way."""

    def __init__(self, root: Path, start_ns: int) -> None:
        self.start_ns = start_ns
        path = pointing_path(root, start_ns)
        self.file = Growing(root, path, partial(join_pointing, start_ns))
        self.has = np.zeros(RECORDS, bool)
        self.rows = np.zeros(RECORDS, RECORD)
        self.told = ""

    def load(self, data: bytes) -> None:
        """Take what is known of it already."""
        self.file.content += data
        self.add(np.frombuffer(data, RECORD))

    def add(self, raw: NDArray[np.void]) -> tuple[NDArray[np.void], int, int]:
        """Take records; return the new ones, how many came again, and how many of these differ."""
        slots = slots_of(raw, self.start_ns)
        again = self.has[slots]
        again[np.setdiff1d(np.arange(slots.size), np.unique(slots, return_index=True)[1])] = True
        fresh = raw[~again]
        self.rows[slots[~again]] = fresh
        self.has[slots[~again]] = True
        conflicts = int((self.rows[slots[again]] != raw[again]).sum())
        return fresh, int(again.sum()), conflicts

    @property
    def is_full(self) -> bool:
        return bool(self.has.all())


class PointingLog:
    """Writes minute files of pointing records. One thread uses it.

    Parameters
    ----------
    root
        Folder of the days.
    clock
        Ours; it says which times are believed and when a minute is over.
    on_file
        Is told of each published file.
    source
        What the ledger calls the source.

    Attributes
    ----------
    newest, newest_mono_ns
        The newest record, and when it came (monotonic); None before the first.
    trouble
        Why something is not on the disk; "" when all is.
    """

    def __init__(
        self, root: Path, clock: Clock, on_file: Callable[[MinuteFile], None], source: str
    ) -> None:
        self.root, self._clock, self._on_file, self._source = root, clock, on_file, source
        self._open: dict[int, _Minute] = {}
        self._rest = b""
        self.newest: NDArray[np.void] | None = None
        self.newest_ns: int | None = None
        self.newest_mono_ns = 0
        self.trouble = ""
        self.last_file: str | None = None
        self.counts = dict.fromkeys(
            ("files", "whole", "partial", "records", "duplicates", "conflicts", "gaps",
             "wrong_time", "dropped"), 0,
        )  # fmt: skip

    def resume(self) -> None:
        """Take over what a killed daemon left: past minutes are published, the present goes on.

        Raises
        ------
        StorageError
            The root cannot be read; try again.
        """
        for live in leftovers(self.root):
            path = final_name(live)
            start = pointing_start_ns(path)
            if start is None or start in self._open:
                continue
            data = live.read_bytes()
            minute = _Minute(self.root, start)
            minute.load(data[: len(data) // RECORD.itemsize * RECORD.itemsize])
            minute.file.flush()
            self._open[start] = minute
        self.tick()

    def begin_stream(self) -> None:
        """Forget the part of a record that a lost connection left."""
        self._rest = b""

    def take(self, data: bytes) -> None:
        """Take what came over the connection.

        Raises
        ------
        PointingGarbage
            These are no records: connect anew.
        """
        data = self._rest + data
        count = len(data) // RECORD.itemsize
        self._rest = data[count * RECORD.itemsize :]
        if not count:
            return
        raw = np.frombuffer(data, RECORD, count)
        days = self._clock.now_ns() // (86400 * NS_PER_S) + MJD_EPOCH
        strange = (np.abs(raw["mjd"].astype(np.int64) - days) > 400) | (raw["ticks"] >= DAY_TICKS)
        if strange.any():
            self._rest = b""
            sound = raw[: int(np.argmax(strange))]
            self._sort_in(sound)
            raise PointingGarbage(
                f"the pointing service sent what is no record: MJD {raw['mjd'][strange][0]}, tick "
                f"{raw['ticks'][strange][0]}"
            )
        self._sort_in(raw)

    def _sort_in(self, raw: NDArray[np.void]) -> None:
        if not raw.size:
            return
        times = (raw["mjd"].astype(np.int64) - MJD_EPOCH) * (86400 * NS_PER_S) + raw[
            "ticks"
        ].astype(np.int64) * TICK_NS
        now = self._clock.now_ns()
        believed = (times > now - OLDEST_NS) & (times < now + NEWEST_NS)
        self.counts["wrong_time"] += int((~believed).sum())
        raw, times = raw[believed], times[believed]
        if not raw.size:
            return
        newest = int(np.argmax(times))
        if self.newest_ns is None or times[newest] > self.newest_ns:
            if self.newest_ns is not None and times.min() > self.newest_ns + TICK_NS:
                self.counts["gaps"] += 1
            self.newest = raw[newest : newest + 1].copy()
            self.newest_ns = int(times[newest])
            self.newest_mono_ns = self._clock.monotonic_ns()
        starts = times // MINUTE_NS * MINUTE_NS
        for start in np.unique(starts).tolist():
            self._add(start, raw[starts == start])

    def _add(self, start: int, raw: NDArray[np.void]) -> None:
        minute = self._open.get(start) or self._begin(start)
        fresh, again, conflicts = minute.add(raw)
        self.counts["records"] += int(fresh.size)
        self.counts["duplicates"] += again
        self.counts["conflicts"] += conflicts
        if not fresh.size:
            return
        try:
            minute.file.append(fresh.tobytes())
            self.trouble = ""
        except StorageError as error:
            self._tell(error)
        if minute.is_full:
            self._publish(minute)

    def _begin(self, start: int) -> _Minute:
        """Begin a minute, or go on with one that was published in part."""
        if len(self._open) >= MOST_OPEN:
            oldest = min(self._open)
            lost = self._open.pop(oldest)
            self.counts["dropped"] += int(lost.has.sum())
            lost.file.abandon()
            log.error("pointing of %s is lost: the disk took nothing for long", lost.file.path)
        minute = _Minute(self.root, start)
        path = pointing_path(self.root, start)
        try:
            minute.load(ordered(path.read_bytes(), start))
        except FileNotFoundError:
            pass
        except OSError as error:
            self._tell(StorageError(f"{path} cannot be read: {error.strerror}"))
        self._open[start] = minute
        return minute

    def tick(self) -> None:
        """Close minutes that are over, and try again what the disk did not take."""
        now = self._clock.now_ns()
        for start, minute in sorted(self._open.items()):
            end = start + MINUTE_NS
            if minute.is_full or now > end + CLOSE_AFTER_NS:
                self._publish(minute)
                continue
            try:
                minute.file.flush()
                self.trouble = ""
            except StorageError as error:
                self._tell(error)

    def sync(self) -> None:
        """Make durable what came; OSError as the system says."""
        for minute in list(self._open.values()):
            minute.file.sync()

    def _publish(self, minute: _Minute) -> None:
        if not minute.has.any():
            minute.file.abandon()
            self._open.pop(minute.start_ns, None)
            return
        try:
            content = minute.file.publish(minute.rows[minute.has].tobytes())
        except StorageError as error:
            self._tell(error)
            return
        self.trouble = ""
        self._open.pop(minute.start_ns, None)
        facts = pointing_facts(content, minute.start_ns, self._source)
        self.counts["files"] += 1
        self.counts["whole" if facts.state.value == "whole" else "partial"] += 1
        self.last_file = str(minute.file.path)
        if facts.reason:
            log.warning("%s: %s", minute.file.path, facts.reason)
        self._on_file(facts)

    def _tell(self, error: NightjarError) -> None:
        if error.message != self.trouble:
            log.error("%s", error.message)
        self.trouble = error.message

    def close(self) -> None:
        """Publish all minutes as what they are; what cannot be stays under its hidden name."""
        for _, minute in sorted(self._open.items()):
            self._publish(minute)
        for minute in self._open.values():
            minute.file.abandon()
        self._open.clear()

    @property
    def first_open_ns(self) -> int | None:
        """Start of the oldest minute under way; None for none."""
        return min(self._open, default=None)


class PointingGarbage(NightjarError):
    """What a service sends is no pointing record."""


assert RATE_HZ * 60 == RECORDS
