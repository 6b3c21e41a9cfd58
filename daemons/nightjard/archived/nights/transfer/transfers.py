# SPDX-License-Identifier: BSD-3-Clause
"""Copies, their proof, and the release of raw: what the rest of the archive calls."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from nightjar.clock import Clock
from nightjar.errors import Cancelled, Code, NightjarError, Refused
from nightjard.archived.database import Database
from nightjard.archived.nights.config import Destination, Retention
from nightjard.archived.nights.transfer import patterns, receipts
from nightjard.archived.nights.transfer.accepting import Comparison, Expected
from nightjard.archived.nights.transfer.evidence import Evidence
from nightjard.archived.nights.transfer.link import Link
from nightjard.archived.nights.transfer.policy import Decision
from nightjard.archived.nights.transfer.process import Cancelled_, Progress, say_nothing
from nightjard.archived.nights.transfer.pulling import Puller
from nightjard.archived.nights.transfer.quarantine import Note
from nightjard.archived.nights.transfer.releasing import Release
from nightjard.archived.nights.transfer.scrubbing import Due, Scrubber
from nightjard.archived.nights.transfer.sending import Night, Outcome, Sender, label
from nightjard.archived.nights.transfer.store import Copy, CopyStore, Totals

_NOWHERE = Destination(host="localhost", path=Path("/"))


def _never() -> bool:
    return False


class Transfers:
    """Copies of nights; thread-safe, one transfer of a night to a destination at a time.

    Parameters
    ----------
    database, clock
        Of the archive.
    destinations, retention
        From the configuration.
    machine_id
        Of this machine; read from ``/etc/machine-id`` if not given.
    raw_folders
        Names of the folders of a night that hold raw.

    Raises
    ------
    ConfigError
        This machine has no id, so it cannot be told from others.
    """

    def __init__(
        self, database: Database, clock: Clock, destinations: Mapping[str, Destination],
        retention: Retention, *, machine_id: str | None = None,
        raw_folders: Collection[str] = (),
    ) -> None:  # fmt: skip
        self.destinations = dict(destinations)
        self.retention = retention
        self.machine_id = machine_id or receipts.machine_id()
        self._raw_folders = frozenset(raw_folders)
        self._clock = clock
        self._store = CopyStore(database)
        self._sender = Sender(self._store, clock, self.machine_id)
        self._scrubber = Scrubber(self._store, self._sender, clock)
        self._puller = Puller(self._store, self._sender, clock)
        self._release = Release(
            database, self._store, clock, retention, self.counting, self.machine_id
        )

    def names(self, family: str) -> list[str]:
        """Return the destinations of a family."""
        return [
            name for name, each in self.destinations.items()
            if not each.families or family in each.families
        ]  # fmt: skip

    @property
    def counting(self) -> frozenset[str]:
        """Destinations whose copies count: by configuration, and signed for."""
        return frozenset(
            name for name, each in self.destinations.items()
            if each.counts_as_copy and each.public_key is not None
        )  # fmt: skip

    def takes_raw(self, family: str, *, is_counted: bool = False) -> bool:
        """Tell whether raw of a family is copied anywhere; or to where its copy counts."""
        return any(
            self.destinations[name].raw and (name in self.counting or not is_counted)
            for name in self.names(family)
        )

    def left_out(self, family: str, paths: Iterable[str]) -> list[str]:
        """Return the paths that every destination of a family whose copies count excludes."""
        names = [name for name in self.names(family) if name in self.counting]
        rest = dict.fromkeys(paths)
        for name in names:
            each = self.destinations[name]
            there = patterns.belonging(rest, each.exclude, self._raw_folders, each.raw)
            rest = {path: None for path in rest if path not in there}
        return sorted(rest) if names else []

    def transfer(
        self, night: Night, folder: Path, expected: Expected, destination: str,
        progress: Progress = say_nothing, cancelled: Cancelled_ = _never,
    ) -> Outcome:  # fmt: skip
        """Copy a night to a destination and let the far side prove what it has.

        Parameters
        ----------
        night
            Row of table ``night``.
        folder
            Of the night, here.
        expected
            Path -> (size, blake3) of **all** files as they were recorded when they were made:
            FITS, timing texts, manifest, plan, logs. Those that the destination excludes are
            left out.
        destination
            Its name.
        progress, cancelled
            As :meth:`nightjar.operations.Operation.update`; asked ten times a second.

        Returns
        -------
        Outcome
            What is proven and what is not. Calling it again goes on where it ended.

        Raises
        ------
        NightjarError
            The far side could not be reached or asked; what arrived is kept.
        """
        link = self._link(destination, progress, cancelled)
        if link.destination.mode == "pull":
            return self._puller.transfer(night, folder, expected, link)
        return self._sender.transfer(night, folder, expected, link)

    def look(
        self, night: Night, expected: Expected, destination: str,
        progress: Progress = say_nothing, cancelled: Cancelled_ = _never,
    ) -> Comparison | None:  # fmt: skip
        """Let a destination read what it has of a night, and compare; nothing is changed.

        Returns
        -------
        Comparison or None
            None: it fetches by itself and cannot be asked.
        """
        link = self._link(destination, progress, cancelled)
        if link.destination.mode == "pull":
            return None
        return self._sender.look(night, expected, link)

    def copies(self, night_id: int) -> list[Copy]:
        """Return what is known of the copies of a night."""
        return self._store.copies(night_id)

    def totals(self, night_id: int) -> list[Totals]:
        """Return how many files of a night are in which state at each destination."""
        return self._store.totals(night_id)

    def is_safe(self, night_id: int, expected: Expected) -> bool:
        """Tell whether every expected file is proven at a destination that counts.

        Only receipts are asked; no files is not safe.
        """
        hosts = self._store.hosts(night_id, expected, self.counting, self.machine_id)
        return bool(expected) and all(hosts.values())

    def _link(self, name: str, progress: Progress, cancelled: Cancelled_) -> Link:
        destination = self.destinations.get(name)
        if destination is None:
            known = ", ".join(sorted(self.destinations)) or "none"
            raise Refused(
                f"no destination {name!r} is configured; there are: {known}",
                code=Code.UNKNOWN_ITEM,
            )
        return Link(
            name, destination, self._clock, progress, cancelled, self._raw_folders
        )

    # --- reading again ---

    def scrub_due(self, now_ns: int) -> list[Due]:
        """Return the copies that `retention.scrub_days` want read again, the oldest first."""
        every_days = self.retention.scrub_days
        known = self._scrubber.due(now_ns, every_days)
        return [each for each in known if each.destination in self.destinations]

    def scrub(
        self, night: Night, folder: Path, expected: Expected, destination: str | None,
        progress: Progress = say_nothing, cancelled: Cancelled_ = _never,
    ) -> Outcome:  # fmt: skip
        """Read a night again, here and at a destination, and mend what is damaged on either side.

        Parameters
        ----------
        destination
            None: only here.

        Returns
        -------
        Outcome
            `bad`: damaged there still; `spoiled`: damaged here still; `repaired`, `restored`:
            mended there, here.
        """
        links = [
            self._link(name, progress, cancelled)
            for name in sorted(self.names(night.family), key=lambda name: name != destination)
            if self.destinations[name].mode == "push"
        ]
        if destination is None:
            first = Link("here", _NOWHERE, self._clock, progress, cancelled)
            left, restored = self._scrubber.check_here(night, folder, expected, links, first)
            verified = len(expected) - len(left)
            return Outcome("here", verified=verified, spoiled=left, restored=restored)
        link = self._link(destination, progress, cancelled)
        if link.destination.mode == "pull":
            first = link
            left, restored = self._scrubber.check_here(night, folder, expected, links, first)
            outcome = self._puller.transfer(night, folder, expected, link, "scrub")
            return replace(outcome, spoiled={**left, **outcome.spoiled}, restored=restored)
        return self._scrubber.scrub(night, folder, expected, link, links)

    # --- release of raw ---

    def decide_release(self, night: Night, evidence: Evidence) -> Decision:
        """Say whether the raw cubes of a night may go into quarantine now, and if not why."""
        return self._release.decide(night, evidence)

    def quarantine(self, night: Night, evidence: Evidence, by: str) -> tuple[str, ...]:
        """Move the raw cubes of a night into quarantine; return their paths.

        Raises
        ------
        Refused
            They may not go; the message says why.
        StorageError
            One could not be moved. Calling it again goes on; :meth:`unquarantine` undoes.
        """
        return self._release.quarantine(night, evidence, by)

    def unquarantine(self, night: Night, folder: Path, by: str) -> tuple[str, ...]:
        """Move the raw cubes back to where they were; return their paths."""
        return self._release.unquarantine(night, folder, by)

    def held(self, folder: Path) -> Note | None:
        """Return what of a night is in quarantine; StorageError where its note is damaged."""
        return self._release.held(folder)

    def is_purge_due(self, night: Night, evidence: Evidence) -> bool:
        """Tell whether only fresh proofs are left to be asked for."""
        return self._release.is_purge_due(night, evidence)

    def purge_due(
        self, nights: Iterable[tuple[Night, Evidence, Expected]],
        progress: Progress = say_nothing, cancelled: Cancelled_ = _never,
    ) -> dict[str, tuple[str, ...]]:  # fmt: skip
        """Delete what was in quarantine long enough and is still proven, by fresh receipts.

        Parameters
        ----------
        nights
            Those that may have something in quarantine, with their plans and their files.

        Returns
        -------
        dict
            ``archival/20251106`` -> paths that were deleted.
        """
        deleted = {}
        for night, evidence, expected in nights:
            paths = self._purge(night, evidence, expected, progress, cancelled)
            if paths:
                deleted[label(night)] = paths
        return deleted

    def _purge(
        self, night: Night, evidence: Evidence, expected: Expected, progress: Progress,
        cancelled: Cancelled_,
    ) -> tuple[str, ...]:  # fmt: skip
        if not self._release.is_purge_due(night, evidence):
            return ()
        for name in self.names(night.family):
            if name in self.counting and self._release.is_stale(night, name):
                link = self._link(name, progress, cancelled)
                try:
                    if link.destination.mode == "pull":
                        self._puller.transfer(night, evidence.folder, expected, link, "scrub")
                    else:
                        ours = link.wanted(expected)
                        self._sender.inquire(night, ours, link, "scrub")
                except Cancelled:
                    raise
                except NightjarError as error:  # without its receipt it proves nothing
                    self._sender.say(night, "release", f"not deleted: {error.message}")
        return self._release.purge(night, evidence)
