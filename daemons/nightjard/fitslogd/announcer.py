# SPDX-License-Identifier: BSD-3-Clause
"""Tells the archive daemon of every cube that got its name.

What cannot be told now is told later; what is never told the archive finds in the folder itself.
So nothing here may hold up a logger, and nothing is lost when this process ends.
"""

from __future__ import annotations

import logging
import re
import threading
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from nightjar.clock import Clock
from nightjar.errors import NightjarError, Refused

log = logging.getLogger(__name__)

_NIGHT = re.compile(r"\d{8}\Z", re.ASCII)
_MOST = 10_000
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 10.0

Notify = Callable[[dict[str, str | int]], None]


class Announcer:
    """A queue and the thread that empties it.

    Parameters
    ----------
    notify
        Sends one announcement; raises NightjarError.
    roots
        Family -> folder below which its nights lie.
    clock
        For the pauses.
    """

    def __init__(self, notify: Notify, roots: Mapping[str, Path], clock: Clock) -> None:
        self._notify = notify
        self._roots = dict(roots)
        self._clock = clock
        self._waiting: deque[dict[str, str | int]] = deque(maxlen=_MOST)
        self._stopping = threading.Event()
        self._news = threading.Event()
        self._thread = threading.Thread(target=self._run, name="announcer", daemon=True)
        self._refusals: deque[str] = deque(maxlen=100)
        self.error = ""

    @property
    def waiting(self) -> int:
        """Cubes that the archive was not told of yet."""
        return len(self._waiting)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what waits the archive finds by itself."""
        self._stopping.set()
        self._news.set()
        if self._thread.is_alive():
            self._thread.join(5)

    def add(self, path: Path, stream: str, size: int) -> None:
        """Announce a cube some time soon; one that lies in no night of a family is passed over."""
        for family, root in self._roots.items():
            try:
                parts = path.relative_to(root).parts
            except ValueError:
                continue
            if len(parts) == 3 and _NIGHT.match(parts[0]) and parts[1] == stream:
                self._waiting.append({
                    "family": family, "night": parts[0], "stream": stream, "filename": parts[2],
                    "size": size,
                })  # fmt: skip
                self._news.set()
                return

    def _run(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while not self._stopping.is_set():
            if not self._waiting:
                self._news.clear()
                if not self._waiting and not self._stopping.is_set():
                    self._news.wait(1.0)
                continue
            cube = self._waiting[0]
            try:
                self._notify(cube)
            except Refused as error:
                # Asking again would not help: it is told once, and the folder is there to be read.
                # A camera that is not archived has each of its cubes declined, in the same words.
                if error.message not in self._refusals:
                    log.warning("cube %s: the archive says: %s", cube["filename"], error.message)
                    self._refusals.append(error.message)
                self.error = error.message
            except NightjarError as error:
                if error.message != self.error:
                    log.warning("the archive cannot be told of cubes: %s", error.message)
                self.error = error.message
                self._clock.wait(self._stopping, pause_s)
                pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s)
                continue
            else:
                self.error = ""
            pause_s = _FIRST_PAUSE_S
            self._waiting.popleft()
