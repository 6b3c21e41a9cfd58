# SPDX-License-Identifier: BSD-3-Clause
"""Commands whose end is that of the files: looked at again and again until they are in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nightjar.clock import NS_PER_S, Clock
from nightjar.errors import TimedOut
from nightjar.operations import Operation

STALL_S = 60.0
"""Without any progress for so long, and for several frames, there is nothing to wait for."""

_FRAMES = 5

Views = Callable[[], Mapping[str, Mapping[str, Any]]]


class Wait:
    """Ends an operation when loggers are where a command leads them.

    Parameters
    ----------
    operation
        What is ended.
    group
        For messages.
    views
        Gives the streams to look at.
    reply
        Makes the operation's result.
    until_in_place
        True: until the last files are renamed. False: until nothing more is saved.
    clock
        Paces.
    """

    def __init__(
        self,
        operation: Operation,
        group: str,
        views: Views,
        reply: Callable[[], dict[str, Any]],
        until_in_place: bool,
        clock: Clock,
    ) -> None:
        self._operation = operation
        self._group = group
        self._views = views
        self._reply = reply
        self._until_in_place = until_in_place
        self._clock = clock
        self._seen: Any = None
        self._moved_ns = clock.monotonic_ns()

    def look(self) -> bool:
        """End the operation if it is time; tell whether it has ended."""
        views = self._views()
        open_ = {name: view for name, view in views.items() if self._is_open(view)}
        if not open_:
            self._operation.finish(self._reply())
            return True
        seen = [(v["frames_saved"], v["closing"], v["state"], v["pid"]) for v in open_.values()]
        now = self._clock.monotonic_ns()
        if seen != self._seen:
            self._seen, self._moved_ns = seen, now
        elif now - self._moved_ns > self._patience_s(open_) * NS_PER_S:
            self._give_up(open_)
            return True
        self._tell(open_)
        return False

    def _is_open(self, view: Mapping[str, Any]) -> bool:
        if view["state"] in ("saving", "finishing"):
            return True
        if view["is_coming_back"]:
            return True  # its logger died, and what it was to do is still to be taken up
        return self._until_in_place and bool(view["closing"])

    @staticmethod
    def _patience_s(views: Mapping[str, Mapping[str, Any]]) -> float:
        periods = [1 / float(view["rate_hz"]) for view in views.values() if view["rate_hz"]]
        return max([STALL_S, *(_FRAMES * period for period in periods)])

    def _tell(self, views: Mapping[str, Mapping[str, Any]]) -> None:
        fractions = [
            (view["cube_index"] or 0) / view["cube_frames"]
            for view in views.values()
            if view["state"] in ("saving", "finishing") and view["cube_frames"]
        ]
        if fractions:
            said = [f"{n} {v['cube_index'] or 0} / {v['cube_frames']}" for n, v in views.items()]
            self._operation.update(min(fractions), "last cube", ", ".join(said))
        else:
            self._operation.update(None, "closing files", ", ".join(views))

    def _give_up(self, views: Mapping[str, Mapping[str, Any]]) -> None:
        said = ", ".join(f"{name} is {view['state']}" for name, view in views.items())
        filling = any(view["state"] in ("saving", "finishing") for view in views.values())
        advice = (
            "do frames arrive? 'pause' without --finish closes a cube that is not full"
            if filling
            else "does the disk answer? 'stop --kill' ends the logger"
        )
        self._operation.fail(
            TimedOut(f"{self._group} made no progress for {STALL_S:g} s: {said}; {advice}")
        )
