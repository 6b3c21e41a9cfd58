# SPDX-License-Identifier: BSD-3-Clause
"""Taking frames in: the quick look, the durable row, the reply; the same for a repetition."""

from __future__ import annotations

from typing import Any

from nightjar.api.archive import FrameState
from nightjar.clock import Clock
from nightjar.errors import Refused
from nightjard.archived.backlog import Backlog
from nightjard.archived.database import Duplicate
from nightjard.archived.intake import Announcement, Intake, refused
from nightjard.archived.ledger import Ledger
from nightjard.archived.settings import SettingsKeeper
from nightjard.archived.storage import Storage
from nightjard.archived.store import Store
from nightjard.archived.tables import Frame


class Admission:
    """Decides on announced frames; thread-safe.

    Parameters
    ----------
    intake, storage, store, settings, backlog, ledger, clock
        Its tools.
    """

    def __init__(
        self,
        intake: Intake,
        storage: Storage,
        store: Store,
        settings: SettingsKeeper,
        backlog: Backlog,
        ledger: Ledger,
        clock: Clock,
    ) -> None:
        self._intake = intake
        self._storage = storage
        self._store = store
        self._settings = settings
        self._backlog = backlog
        self._ledger = ledger
        self._clock = clock

    def decide(self, announced: Announcement) -> dict[str, Any]:
        """Return the state of the frame, accepting it if it is new.

        Raises
        ------
        Refused
            FRAME_REFUSED with the reason.
        StorageError
            NO_SPACE, or the database does not take it.
        """
        self._intake.check_names(announced)
        known = self._store.by_key(announced.camera, announced.run, announced.frame_number)
        if known is None:
            return self._accept(announced)
        _require_same(known, announced)
        if known.state == FrameState.MISSING.value:
            self._intake.look(announced)
            known = self.accept_again(known, "announced again, the file is back")
        return _reply(known)

    def accept_again(self, frame: Frame, why: str) -> Frame:
        """Go through a frame again that had come to a bad end."""
        fresh = self._store.update(
            frame.id, FrameState.ACCEPTED.value, why, self._clock.now_ns(),
            state=FrameState.ACCEPTED.value, verdict=None, target=None, new_header=None,
            finished_ns=None,
        )  # fmt: skip
        self._ledger.moved(frame, fresh)
        self._backlog.add(fresh)
        return fresh

    def _accept(self, announced: Announcement) -> dict[str, Any]:
        self._storage.require_space(announced.size, self._backlog.bytes())
        holder = self._backlog.holder_of(announced.filename)
        if holder not in (None, announced.key):
            raise refused(
                f"the file name {announced.filename} still belongs to frame {holder}, which waits"
            )
        settings = self._settings.present
        try:
            seen = self._intake.look(announced)
            frame = self._store.add(
                {
                    "camera": announced.camera,
                    "run": announced.run,
                    "number": announced.frame_number,
                    "name": announced.filename,
                    "size": announced.size,
                    "datasum": seen.datasum,
                    "data_offset": seen.data_offset,
                    "night": seen.night,
                    "begin_ns": seen.begin_ns,
                    "is_archived": settings.is_archiving(announced.camera),
                    "object": settings.object,
                    "frame_type": settings.frame_type,
                    "prefix": settings.prefix,
                    "accepted_ns": self._clock.now_ns(),
                },
                announced.filename,
            )
        except (Duplicate, Refused):
            # The same announcement at the same time on another connection: the row is there, and
            # the file may have been moved already.
            known = self._store.by_key(announced.camera, announced.run, announced.frame_number)
            if known is None:
                raise
            _require_same(known, announced)
            return _reply(known)
        self._ledger.moved(None, frame)
        self._backlog.add(frame)
        return _reply(frame)


def _require_same(known: Frame, announced: Announcement) -> None:
    """Raise Refused where a key comes again with another content."""
    for what, old, new in (
        ("size", known.size, announced.size),
        ("DATASUM", str(known.datasum), announced.datasum or str(known.datasum)),
        ("file name", known.name, announced.filename),
    ):
        if old != new:
            raise refused(
                f"frame {known.key} is {known.state} already with {what} {old}, not {new}: "
                "one key stands for one frame; nothing was changed",
                state=known.state,
            )


def _reply(frame: Frame) -> dict[str, Any]:
    return {"id": frame.id, "state": frame.state, "night": frame.night, "path": frame.path}
