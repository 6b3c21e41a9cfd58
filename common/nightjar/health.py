# SPDX-License-Identifier: BSD-3-Clause
"""Health of a daemon's parts: the worst part is the daemon's, with its reason."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from nightjar.api.states import Level


class Health:
    """Thread-safe record of which part is how well and since when.

    Parameters
    ----------
    now_ns
        Source of time stamps (UTC nanoseconds).
    on_change
        Called outside the lock as ``on_change(part, level, reason)`` when a part changes level.
    """

    def __init__(
        self,
        now_ns: Callable[[], int],
        on_change: Callable[[str, Level, str], None] | None = None,
    ) -> None:
        self._now_ns = now_ns
        self._on_change = on_change
        self._parts: dict[str, tuple[Level, str, int]] = {}
        self._lock = threading.Lock()

    def set(self, part: str, level: Level, reason: str = "") -> None:
        """Record a part's level; the reason says what is wrong and what to do."""
        with self._lock:
            old = self._parts.get(part)
            changed = (old[0] if old else Level.OK) is not level
            since = self._now_ns() if changed or old is None else old[2]
            self._parts[part] = (level, reason, since)
        if changed and self._on_change is not None:
            self._on_change(part, level, reason)

    def ok(self, part: str) -> None:
        """Record that a part is well."""
        self.set(part, Level.OK)

    def level_of(self, part: str) -> Level:
        """Return a part's level; OK for one that never reported."""
        return self._parts.get(part, (Level.OK, "", 0))[0]

    def snapshot(self) -> dict[str, Any]:
        """Return ``{"level", "reason", "parts"}``, plain values; parts that are OK are left out."""
        with self._lock:
            parts = dict(self._parts)
        worst = max((entry[0] for entry in parts.values()), default=Level.OK)
        reasons = [reason for level, reason, _ in parts.values() if level is worst and reason]
        return {
            "level": worst.name,
            "reason": "; ".join(reasons) if worst is not Level.OK else "",
            "parts": {
                name: {"level": level.name, "reason": reason, "since_ns": since}
                for name, (level, reason, since) in parts.items()
                if level is not Level.OK
            },
        }
