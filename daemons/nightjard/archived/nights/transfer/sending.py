# SPDX-License-Identifier: BSD-3-Clause
"""A night is copied, the far side reads it, what is bad is sent again: until all is proven.

rsync saying that all went well proves nothing here. It compares sizes and times, and a file that
is wrong on the far disk with the right size and time would stay wrong for ever.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa

from nightjar.clock import Clock
from nightjar.errors import Cancelled, StorageError
from nightjar.files import locked
from nightjard.archived.nights.transfer import reading, rsync
from nightjard.archived.nights.transfer.accepting import (
    Comparison,
    Expected,
    Question,
    accept_receipt,
)
from nightjard.archived.nights.transfer.link import Link
from nightjard.archived.nights.transfer.process import Cancelled_, Progress
from nightjard.archived.nights.transfer.store import CopyStore

log = logging.getLogger(__name__)

ROUNDS = 3  # of receipt and repair
OFFICE = ".transfer"  # beside the nights: locks, and what is asked of those who pull
SKEW_S = 300.0
_TOLD = 20


class NightRow(Protocol):
    """What is used of a row of table ``night``."""

    @property
    def id(self) -> int:
        """Its number."""
        ...

    @property
    def family(self) -> str:
        """``archival``."""
        ...

    @property
    def date(self) -> str:
        """``20251106``."""
        ...


Night = NightRow | sa.Row[Any]


@dataclass(frozen=True)
class Outcome:
    """What a transfer or a scrub came to.

    Attributes
    ----------
    destination, host, machine_id
        Where the copy is; how the machine there calls itself, "" where it has not answered yet.
    verified
        Number of files that are proven there.
    bad
        Path -> why, of expected files that are not.
    spoiled
        Path -> why, of files here that are not what was recorded; they are never sent.
    repaired
        Files that were sent again.
    restored
        Files here that were brought back from a good copy.
    extra
        Files there that nobody expected.
    counts
        Whether this is a copy: signed, on another machine.
    is_waiting
        The far side fetches by itself and has not answered yet.
    """

    destination: str
    host: str = ""
    machine_id: str = ""
    verified: int = 0
    bad: Mapping[str, str] = field(default_factory=dict)
    spoiled: Mapping[str, str] = field(default_factory=dict)
    repaired: tuple[str, ...] = ()
    restored: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    counts: bool = False
    is_waiting: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether every file that belongs there is proven there."""
        return not self.bad and not self.is_waiting

    @property
    def text(self) -> str:
        """Say it to a person."""
        if self.is_waiting:
            return f"{self.destination}: asked; it fetches by itself and has not answered yet"
        parts = [f"{self.destination}: {self.verified} files proven by {self.host}"]
        if self.repaired:
            parts.append(f"{len(self.repaired)} sent again ({told(self.repaired)})")
        if self.restored:
            parts.append(f"{len(self.restored)} brought back here ({told(self.restored)})")
        if self.bad:
            parts.append(f"{len(self.bad)} NOT: {told(self.bad)}")
        if self.spoiled:
            parts.append(f"{len(self.spoiled)} here are not as recorded: {told(self.spoiled)}")
        if not self.counts:
            parts.append("does not count as a copy (not signed, or this very machine)")
        return "; ".join(parts)


def told(paths: Iterable[str] | Mapping[str, str]) -> str:
    """Return the first few paths, with their reasons, as text."""
    reasons = paths if isinstance(paths, Mapping) else {}
    names = sorted(paths)
    shown = [f"{name}: {reasons[name]}" if name in reasons else name for name in names[:_TOLD]]
    return ", ".join(shown) + (f" and {len(names) - _TOLD} more" if len(names) > _TOLD else "")


def label(night: Night) -> str:
    """Return what a night is called in receipts."""
    return f"{night.family}/{night.date}"


@contextlib.contextmanager
def night_lock(folder: Path, destination: str) -> Iterator[Path]:
    """Hold a night for one destination; give the folder of the office.

    Raises
    ------
    Refused
        Somebody else copies it there right now.
    """
    office = folder.parent / OFFICE
    try:
        office.mkdir(exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {office}: {error.strerror}") from error
    who = f"the transfer of {folder.name} to {destination}"
    with locked(office / f"{folder.name}.{destination}.lock", who):
        yield office


def local_faults(
    folder: Path, expected: Expected, paths: Iterable[str], progress: Progress,
    is_cancelled: Cancelled_,
) -> dict[str, str]:  # fmt: skip
    """Read files here from the disk; return path -> why of those that are not as recorded.

    Raises
    ------
    Cancelled
        Asked for in between.
    StorageError
        The folder is not there, or its disk fails.
    """
    names = sorted(paths)
    flushed_ns = reading.flush(folder)
    total = sum(expected[path][0] for path in names)
    done = 0
    faults = {}

    def on_bytes(count: int) -> None:
        nonlocal done
        done += count
        if is_cancelled():
            raise Cancelled(f"reading {folder}: cancelled; nothing was changed")

    for path in names:
        progress(fraction=done / total if total else None, stage="read", message=path)
        size, name = expected[path]
        try:
            found = reading.digest(folder / path, on_bytes, flushed_ns=flushed_ns)
        except reading.Unreadable as error:
            faults[path] = str(error)
        else:
            if found != (size, name):
                faults[path] = f"changed since it was recorded (blake3 {found.hash[:12]})"
    return faults


class Sender:
    """Copies nights to destinations that are pushed to.

    Parameters
    ----------
    store, clock
        Where receipts go; time.
    own_machine_id
        Of this machine.
    """

    def __init__(self, store: CopyStore, clock: Clock, own_machine_id: str) -> None:
        self._store = store
        self._clock = clock
        self._own = own_machine_id

    def transfer(self, night: Night, folder: Path, expected: Expected, link: Link) -> Outcome:
        """Copy a night and prove it; see :meth:`Transfers.transfer`."""
        with night_lock(folder, link.name):
            self._send(night, folder, expected, link)
            return self.prove(night, folder, expected, link, "transfer")

    def _send(self, night: Night, folder: Path, expected: Expected, link: Link) -> None:
        """Send what is not proven there; a proven copy is never written over without need.

        What is here may have been spoiled since, and then looks newer than the good copy.
        """
        hosts = self._store.hosts(night.id, expected, {link.name}, "")
        proven = {path for path in expected if hosts[path]}
        rest = [
            path for path in link.wanted(expected)
            if path not in proven and os.path.lexists(folder / path)
        ]  # fmt: skip
        if rest:
            link.send(folder, self.far(night, link), only=rest)

    def far(self, night: Night, link: Link) -> Path:
        """Return the folder of a night on the far side."""
        return rsync.far_folder(link.destination, night.family, night.date)

    def inquire(
        self, night: Night, expected: Expected, link: Link, kind: str,
        only: frozenset[str] | None = None,
    ) -> Comparison:  # fmt: skip
        """Let the far side read, judge its receipt, keep it."""
        question = Question(label(night), secrets.token_hex(16), only)
        text, signature = link.ask(self.far(night, link), question)
        return self.take(night, expected, link, kind, question, text, signature)

    def look(self, night: Night, expected: Expected, link: Link) -> Comparison:
        """Let the far side read and judge its receipt; nothing is kept, there or here."""
        question = Question(label(night), secrets.token_hex(16))
        text, signature = link.ask(self.far(night, link), question, is_kept=False)
        return accept_receipt(
            text, signature, link.destination,
            link.wanted(expected), question=question, own_machine_id=self._own,
        )  # fmt: skip

    def take(
        self, night: Night, expected: Expected, link: Link, kind: str, question: Question,
        text: str, signature: str,
    ) -> Comparison:  # fmt: skip
        """Judge a receipt and keep it."""
        comparison = accept_receipt(
            text, signature, link.destination, expected, question=question,
            own_machine_id=self._own,
        )  # fmt: skip
        now_ns = self._clock.now_ns()
        self._store.record(night.id, link.name, kind, comparison, text, signature, now_ns)
        skew_s = (comparison.receipt.time_ns - now_ns) / 1e9
        # It began to read some time ago, so only a clock that is ahead shows at once.
        if skew_s > SKEW_S or (kind == "transfer" and skew_s < -86400):
            self.say(night, "clock", f"the clock of {link.name} is {skew_s:+.0f} s from ours")
        return comparison

    def prove(
        self, night: Night, folder: Path, expected: Expected, link: Link, kind: str
    ) -> Outcome:
        """Receipt, repair of what is bad, receipt of that, a bounded number of times."""
        ours = link.wanted(expected)
        whole = comparison = self.inquire(night, ours, link, kind)
        verified = len(comparison.verified)
        spoiled: dict[str, str] = {}
        repaired: list[str] = []
        bad = dict(comparison.reasons)
        for _ in range(ROUNDS - 1):
            again = [path for path in bad if path not in spoiled]
            if not again:
                break
            self.say(night, "bad copy", f"{link.name}: {told(bad)}")
            spoiled |= local_faults(
                folder, ours, again, link.report, link.is_cancelled
            )  # a file that is wrong here must not replace what is there
            again = [path for path in again if path not in spoiled]
            if not again:
                break
            link.send(folder, self.far(night, link), only=again, repair=True)
            comparison = self.inquire(night, ours, link, kind, frozenset(again))
            mended = [path for path in again if path not in comparison.reasons]
            verified += len(mended)
            repaired += mended
            bad = {path: why for path, why in bad.items() if path in spoiled} | dict(
                comparison.reasons
            )
        outcome = Outcome(
            destination=link.name, host=whole.receipt.host, machine_id=whole.receipt.machine_id,
            verified=verified, bad=bad, spoiled=spoiled, repaired=tuple(sorted(repaired)),
            extra=whole.extra, counts=whole.counts and comparison.counts,
        )  # fmt: skip
        self.say(night, kind, outcome.text)
        return outcome

    def say(self, night: Night, kind: str, text: str) -> None:
        """Add to the events of a night, and to the log."""
        log.info("%s: %s", label(night), text)
        self._store.say(night.id, kind, text, self._clock.now_ns())
