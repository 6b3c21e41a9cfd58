# SPDX-License-Identifier: BSD-3-Clause
"""Finding frames for people, and describing them in plain values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nightjar.api.archive import FrameState
from nightjar.errors import Code, Refused
from nightjar.times import iso
from nightjard.archived.store import Store
from nightjard.archived.tables import Frame


class Catalog:
    """Reads the database; changes nothing.

    Parameters
    ----------
    store
        The database.
    location
        Tells where a frame's file is.
    """

    def __init__(self, store: Store, location: Callable[[Frame], Path]) -> None:
        self._store = store
        self._location = location

    def frames(self, **filters: Any) -> list[dict[str, Any]]:
        """Return frames as plain values, newest first; see :meth:`Store.find`."""
        return [self.describe(frame) for frame in self._store.find(**filters)]

    def describe(self, frame: Frame) -> dict[str, Any]:
        """Return a frame as plain values."""
        is_gone = frame.state in (FrameState.DISCARDED.value, FrameState.MISSING.value)
        return {
            "id": frame.id,
            "camera": frame.camera,
            "run": frame.run,
            "frame_number": frame.number,
            "state": frame.state,
            "night": frame.night,
            "name": frame.name,
            "path": None if is_gone else str(self._location(frame)),
            "size": frame.size,
            "datasum": str(frame.datasum),
            "begin": iso(frame.begin_ns),
            "accepted": iso(frame.accepted_ns),
            "finished": iso(frame.finished_ns) if frame.finished_ns is not None else None,
            "object": frame.object,
            "frame_type": frame.frame_type,
            "attempts": frame.attempts,
            "last_error": frame.last_error,
            "is_acknowledged": frame.is_acknowledged,
        }

    def show(self, reference: str) -> dict[str, Any]:
        """Return a frame with its history."""
        frame = self.resolve(reference)
        history = [
            {"time": iso(time_ns), "kind": kind, "text": text}
            for time_ns, kind, text in self._store.events(frame.id)
        ]
        return {**self.describe(frame), "history": history}

    def resolve(self, reference: str) -> Frame:
        """Return the frame that a person means by id, file name or CAMERA/RUN/NUMBER.

        Raises
        ------
        Refused
            UNKNOWN_ITEM: none, or more than one.
        """
        frames = self._find(reference)
        if not frames:
            raise Refused(f"no frame {reference!r:.80}", code=Code.UNKNOWN_ITEM)
        if len(frames) > 1:
            some = ", ".join(str(frame.id) for frame in frames[:10])
            raise Refused(
                f"{len(frames)} frames are called {reference!r:.80}: say which by id: {some}",
                code=Code.UNKNOWN_ITEM,
            )
        return frames[0]

    def _find(self, reference: str) -> list[Frame]:
        parts = reference.split("/")
        found: Frame | None = None
        if _is_number(reference):
            found = self._store.by_id(int(reference))
        elif len(parts) == 3 and _is_number(parts[2]):
            found = self._store.by_key(parts[0], parts[1], int(parts[2]))
        else:
            return self._store.named(parts[-1])
        return [] if found is None else [found]


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 19
