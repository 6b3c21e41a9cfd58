# SPDX-License-Identifier: BSD-3-Clause
"""Raw cubes of a night on their way out: decided, put into quarantine, brought back, deleted."""

from __future__ import annotations

import logging
from pathlib import Path

from nightjar.clock import Clock
from nightjar.errors import Refused
from nightjar.times import NS_PER_DAY
from nightjard.archived.database import Database
from nightjard.archived.nights.config import Retention
from nightjard.archived.nights.transfer.evidence import Evidence, gather
from nightjard.archived.nights.transfer.policy import Decision, decide
from nightjard.archived.nights.transfer.quarantine import (
    MOVING,
    PURGING,
    Held,
    Note,
    Quarantine,
)
from nightjard.archived.nights.transfer.sending import Night, label
from nightjard.archived.nights.transfer.store import CopyStore

log = logging.getLogger(__name__)

# Receipts older than two rounds of scrubbing are not believed any more; before a deletion none
# that is older than a day.
BELIEVED_ROUNDS = 2
FRESH_DAYS = 1.0


class Release:
    """Lets raw cubes go, by the policy and not otherwise.

    Parameters
    ----------
    database, store, clock
        Its tools.
    retention
        The policy.
    counting, own_machine_id
        Whose receipts count: names of destinations; not this machine's.
    """

    def __init__(
        self, database: Database, store: CopyStore, clock: Clock, retention: Retention,
        counting: frozenset[str], own_machine_id: str,
    ) -> None:  # fmt: skip
        self._database = database
        self._store = store
        self._clock = clock
        self._retention = retention
        self._counting = counting
        self._own = own_machine_id

    def decide(self, night: Night, evidence: Evidence) -> Decision:
        """Decide about quarantine; where the cubes are in it already, about deletion."""
        note = Quarantine(evidence.folder).note()
        if note is None:
            days = BELIEVED_ROUNDS * self._retention.scrub_days
            return self._decide(night, evidence, days, None)
        return self._decide(night, evidence, FRESH_DAYS, note)

    def _decide(
        self, night: Night, evidence: Evidence, believed_days: float, note: Note | None
    ) -> Decision:
        now_ns = self._clock.now_ns()
        place = Quarantine(evidence.folder).place if note is not None else evidence.folder
        facts = gather(
            self._database, self._store, night, evidence, counting=self._counting,
            own_machine_id=self._own, since_ns=now_ns - round(believed_days * NS_PER_DAY),
            place=place, held_ns=note.held_ns if note is not None else None,
            gone=_gone(place, note),
        )  # fmt: skip
        return decide(facts, self._retention, now_ns)

    def quarantine(self, night: Night, evidence: Evidence, by: str) -> tuple[str, ...]:
        """See :meth:`Transfers.quarantine`."""
        quarantine = Quarantine(evidence.folder)
        with quarantine.lock():
            note = quarantine.note()
            if note is None:
                decision = self.decide(night, evidence)
                if not decision.may_release:
                    raise Refused(
                        f"raw of {label(night)} stays: {'; '.join(decision.reasons)}",
                        reasons=list(decision.reasons), due_ns=decision.due_ns,
                    )  # fmt: skip
                files = tuple(Held(each.path, each.size, each.mtime_ns) for each in evidence.cubes)
                note = Note(
                    label(night), str(evidence.folder), MOVING, self._clock.now_ns(), by, files,
                    decision.proof,
                )  # fmt: skip
                quarantine.begin(note)
            elif note.state != MOVING:
                raise Refused(f"raw of {label(night)} is in quarantine already")
            # First the database: who finds a cube missing must find the reason, and nobody may
            # plan half a night.
            self._store.set_released(night.id, (each.path for each in note.files), note.held_ns)
            self._store.set_night(night.id, {"released_ns": note.held_ns})
            moved = quarantine.move_in()
        self._say(night, f"{len(moved)} raw cubes moved to {quarantine.place}", by)
        return moved

    def unquarantine(self, night: Night, folder: Path, by: str) -> tuple[str, ...]:
        """See :meth:`Transfers.unquarantine`."""
        quarantine = Quarantine(folder)
        with quarantine.lock():
            note = quarantine.require()
            back = quarantine.move_back()
            self._store.set_released(night.id, back, None)
            if len(back) == len(note.files):  # else some were deleted: it cannot be planned again
                self._store.set_night(night.id, {"released_ns": None})
            quarantine.close_returned(self._clock.now_ns())
        self._say(night, f"{len(back)} raw cubes brought back from {quarantine.place}", by)
        return back

    def held(self, folder: Path) -> Note | None:
        """Return what of a night is in quarantine, or on its way; None: nothing.

        Raises
        ------
        StorageError
            The note is damaged.
        """
        return Quarantine(folder).note()

    def is_purge_due(self, night: Night, evidence: Evidence) -> bool:
        """Tell whether only proofs are left to be asked for; asks nobody."""
        note = Quarantine(evidence.folder).note()
        if note is None or note.state == MOVING or not self._retention.release_raw:
            return False
        days = (self._clock.now_ns() - note.held_ns) / NS_PER_DAY
        return days >= self._retention.quarantine_days and not self._store.veto(night.id)

    def is_stale(self, night: Night, destination: str) -> bool:
        """Tell whether a destination must be asked again before anything is deleted."""
        limit_ns = self._clock.now_ns() - round(FRESH_DAYS * NS_PER_DAY)
        times = [
            each.verified_ns for each in self._store.copies(night.id)
            if each.destination == destination
        ]  # fmt: skip
        return not times or min(times) < limit_ns

    def purge(self, night: Night, evidence: Evidence) -> tuple[str, ...]:
        """Delete the cubes if the proofs hold now; return their paths, none if they do not."""
        quarantine = Quarantine(evidence.folder)
        with quarantine.lock():
            note = quarantine.note()
            if note is None:
                return ()
            decision = self._decide(night, evidence, FRESH_DAYS, note)
            if not decision.may_release:
                self._say(night, f"not deleted: {'; '.join(decision.reasons)}", None)
                return ()
            self._say(night, "deleting for ever: " + "; ".join(decision.proof), None)
            deleted = quarantine.delete(decision.proof, self._clock.now_ns())
        self._say(night, f"{len(deleted)} raw cubes deleted", None)
        return deleted

    def _say(self, night: Night, text: str, by: str | None) -> None:
        log.info("%s: %s", label(night), text)
        self._store.say(night.id, "release", text, self._clock.now_ns(), by)


def _gone(place: Path, note: Note | None) -> frozenset[str]:
    """Return the cubes that were deleted before a crash: their proof held then."""
    if note is None or note.state != PURGING:
        return frozenset()
    return frozenset(each.path for each in note.files if not (place / each.path).exists())
