# SPDX-License-Identifier: BSD-3-Clause
"""Copies the telescope's ring of pointing logs before it is overwritten (once `header_copy`).

A file is taken by its content: its name is a minute of the day, its records say of which day. It
must be unlocked and the same in two looks. What is whole is published, what is of another day is
left, what is damaged goes to quarantine and its sound records become a partial minute.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nightjar.api.telog import FileState
from nightjar.clock import NS_PER_S, Clock
from nightjar.das.naming import MINUTE_NS, day_of, minute_of, pointing_path
from nightjar.das.pointing import (
    LOCK_SUFFIX,
    MJD_EPOCH,
    RECORD,
    TICK_NS,
    PointingDamaged,
    check_minute,
)
from nightjar.errors import Cancelled, NightjarError, StorageError, storage_code
from nightjar.operations import Operation
from nightjard.telogd.config import PointingRing
from nightjard.telogd.drivers.base import Facts, RingSource
from nightjard.telogd.growing import Growing
from nightjard.telogd.minutes import (
    DAY_TICKS,
    MinuteFile,
    join_pointing,
    ordered,
    pointing_facts,
    whole_minute_in,
)
from nightjard.telogd.quarantine import Quarantine

log = logging.getLogger(__name__)
_INCOMING = ".ring.tmp"
_SLICE = 20  # files of a recovery between two looks
_OLDEST_NS = 48 * 3600 * NS_PER_S  # a file that was not overwritten is still itself
_WHOLE_BYTES = 6000 * RECORD.itemsize


class RingCopier:
    """Looks, takes, publishes. One thread uses it.

    Parameters
    ----------
    config
        How often and how far back.
    source
        The folder.
    root
        Where minutes are published.
    clock
        Tells which minutes are over.
    quarantine
        Where damaged ones go.
    on_file
        Is told of each published file.

    Attributes
    ----------
    newest, newest_mono_ns, newest_name
        The newest record of the file that grows, when it was first seen (monotonic), its name.
    missing
        Closed minutes of the look-back that are not here, ns UTC.
    behind
        Those of them that should be: the ring has them, or they closed since we look.
    """

    def __init__(
        self, config: PointingRing, source: RingSource, root: Path, clock: Clock,
        quarantine: Quarantine, on_file: Callable[[MinuteFile], None],
    ) -> None:  # fmt: skip
        self.config, self._source, self.root, self._clock = config, source, root, clock
        self._quarantine, self._on_file = quarantine, on_file
        self._whole: set[int] = set()
        self._before: dict[str, Facts] = {}
        self._judged: dict[str, Facts] = {}
        self._recovery: _Recovery | None = None
        self.newest: Any = None
        self.newest_ns: int | None = None
        self.newest_mono_ns = 0
        self.newest_name = ""
        self.missing: list[int] = []
        self.behind: list[int] = []
        self._since_ns = clock.now_ns()
        self.locked: list[str] = []
        self.stale: dict[str, str] = {}
        self.trouble = ""
        self.counts = dict.fromkeys(("looks", "copied", "completed", "present", "damaged"), 0)

    # --- looking -----------------------------------------------------------------------------

    def tick(self) -> None:
        """Look once: take what is new, read the newest record, go on with a recovery.

        Raises
        ------
        NightjarError
            The folder is away, or the disk takes nothing; nothing is lost: look again.
        """
        now = self._clock.now_ns()
        last = now // MINUTE_NS * MINUTE_NS
        starts = [last - k * MINUTE_NS for k in range(1, self.config.look_back_min + 1)]
        wanted = [start for start in starts if not self._is_whole(start)]
        found = self._look(wanted, last)
        self.counts["looks"] += 1
        missing, self.locked = [], []
        for start in sorted(wanted):
            if not self._consider(start, found, by_content=False):
                missing.append(start)
        self.missing = missing
        names = {start: f"{minute_of(start):04d}" for start in missing}
        self.behind = [
            start for start, name in names.items() if start + MINUTE_NS > self._since_ns
            or (name in found and name not in self.stale)
        ]  # fmt: skip
        self._go_on()
        self._follow(found, last)

    def _look(self, wanted: list[int], last: int) -> dict[str, Facts]:
        names = [f"{minute_of(start):04d}" for start in (*wanted, last, last + MINUTE_NS)]
        return self._source.look([*names, *(name + LOCK_SUFFIX for name in names)])

    def _is_whole(self, start: int) -> bool:
        """Tell whether we have a minute whole; a file of its size was looked at when published."""
        if start in self._whole:
            return True
        path = pointing_path(self.root, start)
        try:
            if path.stat().st_size == _WHOLE_BYTES:
                check_minute(path.read_bytes(), start, str(path))
                self._whole.add(start)
        except (OSError, PointingDamaged):
            return False
        return start in self._whole

    def _consider(self, start: int, found: dict[str, Facts], *, by_content: bool) -> bool:
        """Take a minute's file where it can be; False where there is none to take."""
        name = f"{minute_of(start):04d}"
        facts = found.get(name)
        before = self._before.get(name)
        if name + LOCK_SUFFIX in found:
            self.locked.append(name)
            return False
        if facts is None:
            return False
        self._before[name] = facts
        if before != facts:
            return False  # still growing, or seen for the first time
        if self._judged.get(name) == facts and not by_content:
            return False
        return self._take(name, start, facts, by_content=by_content)

    # --- taking ------------------------------------------------------------------------------

    def _take(self, name: str, start: int, facts: Facts, *, by_content: bool) -> bool:
        data = self._fetched(name, start)
        self._judged[name] = facts
        self.stale.pop(name, None)
        if data is None:
            return False
        own = whole_minute_in(data, int(name))
        if own is not None and (own == start or (by_content and self._is_recent(own))):
            self._accept(data, own)
            return True
        if own is not None:
            self.stale[name] = day_of(own)
            return False
        self._put_aside(name, start, data)
        return False

    def _is_recent(self, start: int) -> bool:
        return -MINUTE_NS >= start - self._clock.now_ns() > -_OLDEST_NS

    def _fetched(self, name: str, start: int) -> bytes | None:
        """Return a file's bytes by way of a durable copy on our side; None where it changed."""
        target = pointing_path(self.root, start)
        incoming = target.with_name(f".{target.name}{_INCOMING}")
        try:
            if not self.root.is_dir():
                raise FileNotFoundError(2, "the folder is not there", str(self.root))
            incoming.parent.mkdir(exist_ok=True)
            try:
                self._source.fetch(name, incoming)
                return incoming.read_bytes()
            except StorageError as error:
                if "changed while" in error.message:
                    return None
                raise
            finally:
                incoming.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(
                f"{target} cannot be written: {error.strerror}; it is tried again",
                code=storage_code(error), path=str(target),
            ) from error  # fmt: skip

    def _accept(self, data: bytes, start: int) -> None:
        path = pointing_path(self.root, start)
        had = path.exists()
        before = path.read_bytes() if had else b""
        joined = join_pointing(start, before, data) if had else data
        if had and joined != data:
            # What we had differs in records that the ring has too: both are kept.
            self._quarantine.put(
                "pointing", day_of(start), path.name, before,
                "differs from the telescope's file of this minute, which took its place",
            )
        content = _publish(self.root, path, start, data, is_truth=True)
        self._whole.add(start)
        if self._recovery is not None:
            self._recovery.taken.add(start)
        if had and len(before) == len(data) and joined == data:
            self.counts["present"] += 1
            return
        self.counts["completed" if had else "copied"] += 1
        self._on_file(pointing_facts(content, start, f"ring {self._source.capabilities.where}"))

    def _put_aside(self, name: str, start: int, data: bytes) -> None:
        reason = _why(data, start, name)
        day = day_of(start)
        self._quarantine.put("pointing", day, name, data, reason)
        self.counts["damaged"] += 1
        self._on_file(
            MinuteFile("pointing", day, f"{name}.damaged", start, FileState.DAMAGED, len(data),
                       source=f"ring {self._source.capabilities.where}", reason=reason)
        )  # fmt: skip
        sound = ordered(data[: len(data) // RECORD.itemsize * RECORD.itemsize], start)
        if sound and self.config.publishes_sound_part:
            path = pointing_path(self.root, start)
            content = _publish(self.root, path, start, sound, is_truth=False)
            self._on_file(pointing_facts(content, start, "the sound part of a damaged file"))

    # --- freshness ---------------------------------------------------------------------------

    def _follow(self, found: dict[str, Facts], last: int) -> None:
        """Read the newest record of the file that is locked: for freshness only."""
        for start in (last + MINUTE_NS, last):
            name = f"{minute_of(start):04d}"
            if name not in found or name + LOCK_SUFFIX not in found:
                continue
            data = self._source.last_record(name, RECORD.itemsize)
            if not data:
                continue
            raw = np.frombuffer(data, RECORD)
            tick = (int(raw["mjd"][0]) - MJD_EPOCH) * DAY_TICKS + int(raw["ticks"][0])
            utc_ns = tick * TICK_NS
            if abs(utc_ns - self._clock.now_ns()) > 120 * NS_PER_S:
                continue  # of yesterday: it has only just been begun
            if self.newest_ns is None or utc_ns > self.newest_ns:
                self.newest, self.newest_ns, self.newest_name = raw, utc_ns, name
                self.newest_mono_ns = self._clock.monotonic_ns()
            return

    # --- recovery ----------------------------------------------------------------------------

    def recover(
        self, hours: float, operation: Operation,
        others: Callable[[], dict[str, Any] | None] = dict,
    ) -> None:  # fmt: skip
        """Begin to look back in the whole ring; goes on in :meth:`tick`.

        `others` returns what else the operation's result has; None while that is not done.
        """
        work = _Recovery(hours, operation, self._clock.now_ns(), dict(self.counts))
        work.others = others
        self._recovery = work

    @property
    def is_recovering(self) -> bool:
        """Whether a recovery goes on: ticks need not wait."""
        return self._recovery is not None

    def _go_on(self) -> None:
        work = self._recovery
        if work is None:
            return
        try:
            self._recover_slice(work)
        except NightjarError as error:
            self._recovery = None
            work.operation.fail(error)
            raise
        others = None if work.left else work.others()
        if others is not None:
            self._recovery = None
            told = self._told(work) | others
            work.operation.finish(told, f"{told['copied']} copied")

    def _recover_slice(self, work: _Recovery) -> None:
        if work.operation.is_cancel_asked:
            work.operation.fail(Cancelled("cancelled; what was copied is kept"))
            work.left, work.others = [], dict
            return
        if not work.left:
            return
        if work.looked_ns is None:
            self._before |= self._source.look([f"{minute_of(start):04d}" for start in work.left])
            work.looked_ns = self._clock.monotonic_ns()
        if self._clock.monotonic_ns() - work.looked_ns < self.config.look_s * NS_PER_S:
            return  # what grows must have had the time to
        part, work.left = work.left[:_SLICE], work.left[_SLICE:]
        names = [f"{minute_of(start):04d}" for start in part]
        found = self._source.look([*names, *(name + LOCK_SUFFIX for name in names)])
        for start, name in zip(part, names, strict=True):
            self._recover_one(work, start, name, found)
        done = work.total - len(work.left)
        work.operation.update(done / work.total, "ring", f"{done} of {work.total} minutes")

    def _recover_one(
        self, work: _Recovery, start: int, name: str, found: dict[str, Facts]
    ) -> None:
        if start in work.taken:
            return
        if self._is_whole(start):
            work.present += 1
        elif name not in found:
            work.absent += 1
        elif name + LOCK_SUFFIX in found or self._before.get(name) != found[name]:
            work.locked += 1
        else:
            damaged = self.counts["damaged"]
            is_taken = self._consider(start, found, by_content=True)
            if self.counts["damaged"] > damaged:
                work.damaged += 1
            elif not is_taken or not self._is_whole(start):
                work.stale += 1

    def _told(self, work: _Recovery) -> dict[str, Any]:
        before = work.counts
        return {
            "hours": work.hours,
            "copied": self.counts["copied"] - before["copied"],
            "completed": self.counts["completed"] - before["completed"],
            "present": work.present, "absent": work.absent, "stale": work.stale,
            "damaged": work.damaged, "locked": work.locked,
        }  # fmt: skip

    def close(self) -> None:
        """Let go of the folder; a recovery fails."""
        work, self._recovery = self._recovery, None
        if work is not None:
            work.operation.fail(NightjarError("the helpers were stopped"))
        self._source.close()


def _publish(root: Path, path: Path, start: int, data: bytes, *, is_truth: bool) -> bytes:
    """Publish a minute's records, beside those that are there; a whole file takes their place."""
    join = partial(join_pointing, start)
    return Growing(root, path, (lambda _before, after: after) if is_truth else join, data).publish()


def _why(data: bytes, start: int, name: str) -> str:
    try:
        check_minute(data, start, name)
    except PointingDamaged as error:
        return error.message
    return ""


class _Recovery:
    """A look back that is under way."""

    def __init__(
        self, hours: float, operation: Operation, now_ns: int, counts: dict[str, int]
    ) -> None:
        self.hours, self.operation, self.counts = hours, operation, counts
        last = now_ns // MINUTE_NS * MINUTE_NS
        count = max(1, round(hours * 60))
        self.left = [last - k * MINUTE_NS for k in range(count, 0, -1)]
        self.total = count
        self.looked_ns: int | None = None
        self.taken: set[int] = set()  # also by looks meanwhile
        self.others: Callable[[], dict[str, Any] | None] = dict
        self.present = self.absent = self.stale = self.damaged = self.locked = 0
