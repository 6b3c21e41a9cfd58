# SPDX-License-Identifier: BSD-3-Clause
"""Copies, their proof, and the release of raw: what the rest of the archive calls."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from nightjar.clock import Clock
from nightjar.errors import Code, Refused
from nightjard.archived.database import Database
from nightjard.archived.nights.config import Destination, Retention
from nightjard.archived.nights.transfer import receipts
from nightjard.archived.nights.transfer.accepting import Expected
from nightjard.archived.nights.transfer.link import Link
from nightjard.archived.nights.transfer.process import Cancelled_, Progress, say_nothing
from nightjard.archived.nights.transfer.sending import Night, Outcome, Sender
from nightjard.archived.nights.transfer.store import Copy, CopyStore


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

    Raises
    ------
    ConfigError
        This machine has no id, so it cannot be told from others.
    """

    def __init__(
        self, database: Database, clock: Clock, destinations: Mapping[str, Destination],
        retention: Retention, *, machine_id: str | None = None,
    ) -> None:  # fmt: skip
        self.destinations = dict(destinations)
        self.retention = retention
        self.machine_id = machine_id or receipts.machine_id()
        self._clock = clock
        self._store = CopyStore(database)
        self._sender = Sender(self._store, clock, self.machine_id)

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
        return self._sender.transfer(night, folder, expected, link)

    def copies(self, night_id: int) -> list[Copy]:
        """Return what is known of the copies of a night."""
        return self._store.copies(night_id)

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
        return Link(name, destination, self._clock, progress, cancelled)
