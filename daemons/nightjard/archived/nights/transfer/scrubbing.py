# SPDX-License-Identifier: BSD-3-Clause
"""Everything is read again, on both sides, and what is damaged is mended from a good copy.

A copy is good when its bytes have just been found to be what was recorded when the file was made.
Nothing is mended from anything else.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nightjar.clock import Clock
from nightjar.errors import Cancelled, NightjarError, StorageError
from nightjar.files import fsync_folder, rename_new
from nightjar.times import NS_PER_DAY
from nightjard.archived.nights.transfer import reading
from nightjard.archived.nights.transfer.accepting import Comparison, Expected
from nightjard.archived.nights.transfer.link import Link
from nightjard.archived.nights.transfer.quarantine import Quarantine
from nightjard.archived.nights.transfer.sending import (
    Night,
    Outcome,
    Sender,
    local_faults,
    night_lock,
    told,
)
from nightjard.archived.nights.transfer.store import CopyStore


@dataclass(frozen=True)
class Due:
    """A copy that is to be read again; `last_ns` is when it last was."""

    night_id: int
    destination: str
    last_ns: int


class Scrubber:
    """Reads copies again.

    Parameters
    ----------
    store, sender, clock
        Its tools.
    """

    def __init__(self, store: CopyStore, sender: Sender, clock: Clock) -> None:
        self._store = store
        self._sender = sender
        self._clock = clock

    def due(self, now_ns: int, every_days: float) -> list[Due]:
        """Return the copies that were last read too long ago, the oldest first.

        A time in the future (the clock was wrong then) is due as well.
        """
        limit_ns = now_ns - round(every_days * NS_PER_DAY)
        found = [
            Due(*row) for row in self._store.oldest() if row[2] <= limit_ns or row[2] > now_ns
        ]
        return sorted(found, key=lambda each: each.last_ns)

    def scrub(
        self, night: Night, folder: Path, expected: Expected, link: Link, sources: Sequence[Link]
    ) -> Outcome:
        """Read a night here and at one destination; mend both.

        Parameters
        ----------
        link
            The destination.
        sources
            Where a file that is damaged here may be brought back from.
        """
        with night_lock(folder, link.name) as office:
            ours = link.wanted(expected)
            whole = self._sender.inquire(night, ours, link, "scrub")
            here = self._here(night, expected)
            faults = local_faults(folder, expected, here, link.report, link.is_cancelled)
            restored = self._restore(night, folder, expected, faults, sources, office)
            faults = {path: why for path, why in faults.items() if path not in restored}
            bad, repaired, last = self._mend_far(night, folder, ours, link, whole, faults)
            outcome = Outcome(
                destination=link.name, host=whole.receipt.host,
                machine_id=whole.receipt.machine_id, verified=len(ours) - len(bad), bad=bad,
                spoiled=faults, repaired=repaired, restored=restored, extra=whole.extra,
                counts=whole.counts and last.counts,
            )  # fmt: skip
            self._sender.say(night, "scrub", outcome.text)
            return outcome

    def check_here(
        self, night: Night, folder: Path, expected: Expected, sources: Sequence[Link], first: Link
    ) -> tuple[dict[str, str], tuple[str, ...]]:
        """Read a night here only, and mend it; return what stays damaged, what was mended."""
        with night_lock(folder, "here") as office:
            here = self._here(night, expected)
            faults = local_faults(folder, expected, here, first.report, first.is_cancelled)
            restored = self._restore(night, folder, expected, faults, sources, office)
            left = {path: why for path, why in faults.items() if path not in restored}
            text = f"{len(here)} files read here, {len(left)} damaged"
            self._sender.say(night, "scrub", f"{text}: {told(left)}" if left else text)
            return left, restored

    def _here(self, night: Night, expected: Expected) -> list[str]:
        released = self._store.released(night.id)
        return [path for path in expected if reading.storable(path) not in released]

    def _mend_far(
        self, night: Night, folder: Path, ours: Expected, link: Link, whole: Comparison,
        faults: dict[str, str],
    ) -> tuple[dict[str, str], tuple[str, ...], Comparison]:  # fmt: skip
        """Send again what is bad there and was just found good here."""
        bad = dict(whole.reasons)
        here = set(self._here(night, ours))
        again = [path for path in bad if path in here and path not in faults]
        if not bad:
            return bad, (), whole
        self._sender.say(night, "bad copy", f"{link.name}: {told(bad)}")
        if not again:
            return bad, (), whole
        link.send(folder, self._sender.far(night, link), only=again, repair=True)
        last = self._sender.inquire(night, ours, link, "scrub", frozenset(again))
        repaired = tuple(sorted(path for path in again if path not in last.reasons))
        left = {path: last.reasons.get(path, why) for path, why in bad.items()
                if path not in repaired}  # fmt: skip
        return left, repaired, last

    def _restore(
        self, night: Night, folder: Path, expected: Expected, faults: dict[str, str],
        sources: Sequence[Link], office: Path,
    ) -> tuple[str, ...]:  # fmt: skip
        """Bring back what is damaged here; return the paths that are good again."""
        restored: list[str] = []
        if faults:
            self._sender.say(night, "damaged", f"here: {told(faults)}")
        for link in sources:
            wanted = [
                path for path in link.wanted(faults) if path not in restored
            ]  # fmt: skip
            if not wanted:
                continue
            into = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=office))
            try:
                link.fetch(self._sender.far(night, link), into, wanted)
            except Cancelled:
                raise
            except NightjarError as error:  # some of it may have come; the hashes tell
                self._sender.say(night, "damaged", error.message)
            try:
                for path in wanted:
                    if self._put_back(folder, into, path, expected[path], faults[path]):
                        restored.append(path)
                        self._sender.say(
                            night, "restored",
                            f"{path} was damaged here ({faults[path]}); brought back from "
                            f"{link.name}, where it is as recorded",
                        )  # fmt: skip
            finally:
                shutil.rmtree(into, ignore_errors=True)  # copies that were just fetched
        return tuple(sorted(restored))

    def _put_back(
        self, folder: Path, into: Path, path: str, recorded: tuple[int, str], why: str
    ) -> bool:
        reading.flush(into)
        try:
            if reading.digest(into / path) != recorded:
                return False
        except reading.Unreadable:
            return False
        quarantine = Quarantine(folder)
        target = folder / path
        with quarantine.lock():
            quarantine.put_aside(path, why, self._clock.now_ns())
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                rename_new(into / path, target)
                fsync_folder(target.parent)
            except OSError as error:
                raise StorageError(f"cannot put {target} back: {error.strerror}") from error
        return True
