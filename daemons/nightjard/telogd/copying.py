# SPDX-License-Identifier: BSD-3-Clause
"""Makes the folders of raw files equal to the DAS host's (once `dirsync`).

Files come into a hidden folder of the same disk, are proven there by their sidecars, and only then
get their names: the sidecar first, as a raw file that can be seen is whole. Nothing is deleted
here; what takes the place of something else has kept it in quarantine.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

from nightjar.api.telog import FileState
from nightjar.clock import NS_PER_S, Clock
from nightjar.das.naming import MINUTE_NS, day_of
from nightjar.das.raw import RawDamaged
from nightjar.errors import NightjarError, StorageError, storage_code
from nightjar.files import fsync_folder, rename_new, require_space
from nightjard.telogd.drivers.base import DasSource, Facts
from nightjard.telogd.minutes import MinuteFile
from nightjard.telogd.quarantine import Quarantine
from nightjard.telogd.raw_files import BATCH, Day, Group, groups_of, judge, key_of, load

log = logging.getLogger(__name__)

INCOMING = ".incoming"
_BUSY_S, _QUICK_S, _CALM_S = 0.02, 1.0, 5.0
_BACK_S = 60.0
_EXPECT_NS = 12 * NS_PER_S
_UNPAIRED_NS = 30 * NS_PER_S
_RESTING_NS = 5 * NS_PER_S


class RawCopier:
    """Looks at the DAS host, copies, proves, publishes. One thread uses it.

    Parameters
    ----------
    source
        The DAS host's folders.
    root
        Ours.
    days_back
        So many days before today.
    stop_bytes
        Free room that copies leave.
    clock
        Tells which day it is.
    quarantine
        Where goes what is damaged or was replaced.
    on_file
        Is told of each file.
    known
        Returns name -> (state, size, mtime) of the ledger for a day.

    Attributes
    ----------
    waiting
        Minutes at the source that are not here, by their start.
    trouble
        Why nothing is copied; "" when all is well.
    """

    def __init__(
        self, source: DasSource, root: Path, days_back: int, stop_bytes: int, clock: Clock,
        quarantine: Quarantine, on_file: Callable[[MinuteFile], None],
        known: Callable[[str], dict[str, tuple[str, int | None, int | None]]],
    ) -> None:  # fmt: skip
        self._source, self.root, self._days_back = source, root, days_back
        self._stop_bytes, self._clock = stop_bytes, clock
        self._quarantine, self._on_file, self._load = quarantine, on_file, known
        self._days: dict[str, Day] = {}
        self._back_ns: int | None = None
        self._asked: list[tuple[Callable[[int, str], None], int]] = []
        self._newest = 0
        self.waiting: set[int] = set()
        self.last_lag_s: float | None = None
        self.last_file: str | None = None
        self.counts = dict.fromkeys(("looks", "copied", "bytes", "damaged", "replaced"), 0)

    def tick(self) -> float:
        """Look once and copy what is new; return the pause until the next look, s.

        Raises
        ------
        NightjarError
            The host is away, or there is no room here; look again.
        """
        if not self.counts["looks"]:  # what a killed daemon left is unproven, and still there
            shutil.rmtree(self.root / INCOMING, ignore_errors=True)
        now, mono = self._clock.now_ns(), self._clock.monotonic_ns()
        asked, self._asked = self._asked, []
        days = [day_of(now)]
        is_back = bool(asked) or self._back_ns is None or (
            mono - self._back_ns > _BACK_S * NS_PER_S
        )  # fmt: skip
        if is_back:
            days += [day_of(now - k * 86400 * NS_PER_S) for k in range(1, self._days_back + 1)]
        try:
            has_more = any(self._sync(day) for day in days)
        except NightjarError as error:
            for then, before in asked:
                then(self.counts["copied"] - before, error.message)
            raise
        self.counts["looks"] += 1
        if has_more:
            self._asked += asked
            return _BUSY_S
        if is_back:
            self._back_ns = mono
        for then, before in asked:
            then(self.counts["copied"] - before, "")
        return self._pause()

    def _pause(self) -> float:
        now = self._clock.now_ns()
        minute = now // MINUTE_NS * MINUTE_NS
        is_expected = self._newest < minute - MINUTE_NS and now - minute < _EXPECT_NS
        if self.waiting or is_expected:
            return _QUICK_S
        left = (minute + MINUTE_NS - now) / NS_PER_S + 0.3
        return min(_CALM_S, max(0.3, left))

    def look_back(self, then: Callable[[int, str], None]) -> None:
        """Look at all days in the next tick; `then` is told how many were copied, and trouble."""
        self._asked.append((then, self.counts["copied"]))

    # --- one day -----------------------------------------------------------------------------

    def _sync(self, day: str) -> bool:
        """Make a day equal, some files at a time; tell whether there are more."""
        facts = {one.name: one for one in self._source.scan(day)}
        here = self._day(day)
        local = self._local(day)
        wanted = []
        waiting = set()
        for group in groups_of(day, facts):
            if all(here.has(facts[name], local) for name in group.names):
                self._newest = max(self._newest, group.start_ns or 0)
                continue
            if group.start_ns is not None:
                waiting.add(group.start_ns)
                self._tell_seen(here, facts[group.names[-1]], group.start_ns)
            if self._is_resting(group, facts):
                wanted.append(group)
        self.waiting = waiting | {start for start in self.waiting if day_of(start) != day}
        self._copy(here, wanted[:BATCH], facts, local)
        return len(wanted) > BATCH

    def _day(self, day: str) -> Day:
        if day not in self._days:
            self._days[day] = Day(day, load(self._load, day))
            for old in sorted(self._days)[: -self._days_back - 2]:
                del self._days[old]
        return self._days[day]

    def _local(self, day: str) -> set[str]:
        try:
            if not self.root.is_dir():
                raise FileNotFoundError(2, "the folder is not there", str(self.root))
            folder = self.root / day
            return set(os.listdir(folder)) if folder.is_dir() else set()
        except OSError as error:
            raise self._failed(self.root / day, error) from error

    def _failed(self, path: Path, error: OSError) -> StorageError:
        return StorageError(
            f"{path} cannot be used: {error.strerror}; raw files stay on the DAS host until it can",
            code=storage_code(error), path=str(path),
        )  # fmt: skip

    def _tell_seen(self, here: Day, raw: Facts, start: int) -> None:
        if raw.name in here.known or raw.name in here.seen:
            return
        here.seen.add(raw.name)
        self._on_file(MinuteFile(
            "raw", here.day, raw.name, start, FileState.SEEN, raw.size,
            source=self._source.capabilities.where, mtime_ns=raw.mtime_ns,
        ))  # fmt: skip

    def _is_resting(self, group: Group, facts: dict[str, Facts]) -> bool:
        """Tell whether files can be taken: a raw file has its sidecar, others are not written."""
        if group.start_ns is not None and len(group.names) == 2:
            return True
        age = self._clock.now_ns() - max(facts[name].mtime_ns for name in group.names)
        return age > (_RESTING_NS if group.start_ns is None else _UNPAIRED_NS)

    # --- copying -----------------------------------------------------------------------------

    def _copy(
        self, here: Day, groups: list[Group], facts: dict[str, Facts], local: set[str]
    ) -> None:
        groups = [group for group in groups if not self._is_same(here, group, facts, local)]
        if not groups:
            return
        names = [name for group in groups for name in group.names]
        total = sum(facts[name].size for name in names)
        staging = self.root / INCOMING / here.day
        try:
            require_space(self.root, total + self._stop_bytes, "copying raw files")
            shutil.rmtree(staging, ignore_errors=True)  # ours, and unproven
            staging.mkdir(parents=True)
            (self.root / here.day).mkdir(exist_ok=True)
            self._source.fetch(here.day, names, staging)
            for group in groups:
                if all((staging / name).exists() for name in group.names):
                    self._accept(here, group, facts, staging)
        except OSError as error:
            raise self._failed(self.root / here.day, error) from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _is_same(
        self, here: Day, group: Group, facts: dict[str, Facts], local: set[str]
    ) -> bool:
        """Tell whether files that the ledger does not know are here all the same, and proven."""
        folder = self.root / here.day
        if any(name in here.known or name not in local for name in group.names):
            return False
        try:
            if any((folder / n).stat().st_size != facts[n].size for n in group.names):
                return False
            if group.start_ns is not None and len(group.names) == 2:
                file = judge(folder / group.names[1], here.day, "found here")
            elif all(
                (folder / n).stat().st_mtime_ns // NS_PER_S == facts[n].mtime_ns // NS_PER_S
                for n in group.names
            ):
                file = None
            else:
                return False
        except (OSError, NightjarError):
            return False
        self._enter(here, group, facts, folder, file)
        return True

    def _accept(
        self, here: Day, group: Group, facts: dict[str, Facts], staging: Path
    ) -> None:
        """Prove a copy and give it its name."""
        where = self._source.capabilities.where
        file = None
        if any((staging / n).stat().st_size != facts[n].size for n in group.names):
            return  # it has changed since it was listed: the next look takes it
        if group.start_ns is not None and group.names[-1].endswith(".bin"):
            try:
                file = judge(staging / group.names[-1], here.day, where)
            except RawDamaged as error:
                self._doubt(here, group, facts, staging, error)
                return
        folder = self.root / here.day
        old = [name for name in group.names if (folder / name).exists()]
        if old and not self._may_replace(here, group, folder, staging, file):
            self._keep_aside(here, group, facts, staging, (
                "the DAS host's file holds less than ours, which was kept"
            ))  # fmt: skip
            return
        for name in group.names:
            self._place(staging / name, folder / name, is_replaced=name in old)
        fsync_folder(folder)
        self.counts["copied"] += len(group.names)
        self.counts["bytes"] += sum(facts[name].size for name in group.names)
        self._enter(here, group, facts, folder, file)
        if group.start_ns is not None:
            lag = self._clock.now_ns() - group.start_ns - MINUTE_NS
            self.last_lag_s = max(0.0, lag / NS_PER_S)  # a minute may end early: das stop
            self.last_file = str(folder / group.names[-1])
            self._newest = max(self._newest, group.start_ns)
            self.waiting.discard(group.start_ns)

    def _place(self, source: Path, target: Path, *, is_replaced: bool) -> None:
        descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if is_replaced:
            os.replace(source, target)  # what was there is in quarantine
        else:
            rename_new(source, target)

    def _may_replace(
        self, here: Day, group: Group, folder: Path, staging: Path, new: MinuteFile | None
    ) -> bool:
        """Tell whether what is here may give way; then it is kept in quarantine."""
        if group.start_ns is not None and new is not None:
            try:
                before = judge(folder / group.names[-1], here.day, "")
                if (before.records or 0) > (new.records or 0):
                    return False
            except NightjarError:
                pass  # ours is damaged or not whole: the proven one takes its place
        self.counts["replaced"] += 1
        for name in group.names:
            path = folder / name
            if path.exists() and path.read_bytes() != (staging / name).read_bytes():
                self._quarantine.put(
                    "raw", here.day, name, path.read_bytes(),
                    f"replaced by a newer one of {self._source.capabilities.where}",
                )  # fmt: skip
        return True

    def _doubt(
        self, here: Day, group: Group, facts: dict[str, Facts], staging: Path, error: RawDamaged
    ) -> None:
        """Try a damaged file once more; then it is damaged where it comes from."""
        raw = facts[group.names[-1]]
        if here.tries.get(raw.name) != raw:
            here.tries[raw.name] = raw
            return
        self.counts["damaged"] += 1
        self._keep_aside(here, group, facts, staging, error.message)

    def _keep_aside(
        self, here: Day, group: Group, facts: dict[str, Facts], staging: Path, reason: str
    ) -> None:
        for name in group.names:
            self._quarantine.put("raw", here.day, name, (staging / name).read_bytes(), reason)
            here.aside.add(name)
            here.known[name] = key_of(facts[name])
            is_here = (self.root / here.day / name).exists()
            self._on_file(MinuteFile(
                "raw", here.day, f"{name}.damaged" if is_here else name, group.start_ns,
                FileState.DAMAGED, facts[name].size, source=self._source.capabilities.where,
                reason=reason, mtime_ns=facts[name].mtime_ns,
            ))  # fmt: skip
        if group.start_ns is not None:
            self.waiting.discard(group.start_ns)

    def _enter(
        self, here: Day, group: Group, facts: dict[str, Facts], folder: Path,
        file: MinuteFile | None,
    ) -> None:  # fmt: skip
        for name in group.names:
            here.known[name] = key_of(facts[name])
            here.aside.discard(name)
            if file is not None and name == file.name:
                told = dataclasses.replace(file, mtime_ns=facts[name].mtime_ns)
            else:
                told = MinuteFile(
                    "raw", here.day, name, None, FileState.OTHER, facts[name].size,
                    zlib.crc32((folder / name).read_bytes()),
                    source=self._source.capabilities.where, mtime_ns=facts[name].mtime_ns,
                )  # fmt: skip
            self._on_file(told)

    def close(self) -> None:
        """Let go of the host; a copy under way is ended."""
        self._source.close()
