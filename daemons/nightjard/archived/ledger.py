# SPDX-License-Identifier: BSD-3-Clause
"""How many frames are where, kept in memory so that status waits for no database."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nightjar.api.archive import FRAME_STATES, FrameState
from nightjar.times import iso
from nightjard.archived.tables import Frame


class Ledger:
    """Counts by night, camera and state; thread-safe.

    Parameters
    ----------
    cameras
        Those that are always listed.
    """

    def __init__(self, cameras: tuple[str, ...]) -> None:
        self._cameras = cameras
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._last: dict[str, Frame] = {}
        self._lock = threading.Lock()

    def load(self, counts: Mapping[tuple[str, str, str], int], last: Mapping[str, Frame]) -> None:
        """Begin with what the database holds."""
        with self._lock:
            self._counts = Counter(counts)
            self._last = dict(last)

    def moved(self, old: Frame | None, new: Frame) -> None:
        """Count a frame in its new state and no more in its old one."""
        with self._lock:
            if old is not None:
                self._counts[old.night, old.camera, old.state] -= 1
            self._counts[new.night, new.camera, new.state] += 1
            last = self._last.get(new.camera)
            is_discarded = new.state == FrameState.DISCARDED.value
            if is_discarded and (last is None or last.id != new.id):
                return
            if new.finished_ns is not None:
                self._last[new.camera] = replace(new, path=None) if is_discarded else new

    def snapshot(self, night: str) -> dict[str, dict[str, Any]]:
        """Return, by camera, what waits, the counts of a night, all counts and the last frame."""
        with self._lock:
            counts = dict(self._counts)
            last = dict(self._last)
        result: dict[str, dict[str, Any]] = {
            camera: {
                "waiting": 0,
                "tonight": dict.fromkeys(FRAME_STATES, 0),
                "total": dict.fromkeys(FRAME_STATES, 0),
                "last_frame": _brief(last.get(camera)),
            }
            for camera in self._cameras
        }
        for (when, camera, state), count in counts.items():
            if camera not in result:  # no longer configured
                continue
            result[camera]["total"][state] += count
            if when == night:
                result[camera]["tonight"][state] += count
        for counted in result.values():
            counted["waiting"] = counted["total"][FrameState.ACCEPTED.value]
        return result


def _brief(frame: Frame | None) -> dict[str, Any] | None:
    if frame is None:
        return None
    return {
        "id": frame.id,
        "run": frame.run,
        "frame_number": frame.number,
        "state": frame.state,
        "path": frame.path,
        "time": iso(frame.begin_ns),
    }
