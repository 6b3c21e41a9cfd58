# SPDX-License-Identifier: BSD-3-Clause
"""What a task tells while it works, and how it learns that it shall stop.

A function that is a task calls :func:`report` now and then; outside of an executor that does
nothing. It travels on the way that the executor has anyway: no RPC, no connection of its own.
"""

from __future__ import annotations

import contextvars
import time
from collections.abc import Callable

from nightjar.errors import Cancelled

INTERVAL_S = 0.1


class Progress:
    """Sums up what one task reports and passes it on, not more than ten times a second.

    Parameters
    ----------
    send
        Gets frames and bytes done so far, and the stage.
    is_cancelled
        Whether the task shall stop.
    """

    def __init__(
        self, send: Callable[[int, int, str], None], is_cancelled: Callable[[], bool]
    ) -> None:
        self._send = send
        self._is_cancelled = is_cancelled
        self._frames = 0
        self._bytes = 0
        self._stage = ""
        self._sent_s = -INTERVAL_S

    def add(self, frames: int, size: int, stage: str) -> None:
        """Add what was done since the last call."""
        if self._is_cancelled():
            raise Cancelled("the step was cancelled")
        self._frames += frames
        self._bytes += size
        is_new = bool(stage) and stage != self._stage
        self._stage = stage or self._stage
        now_s = time.monotonic()
        if is_new or now_s - self._sent_s >= INTERVAL_S:
            self._sent_s = now_s
            self._send(self._frames, self._bytes, self._stage)

    @property
    def sums(self) -> tuple[int, int, str]:
        """Frames, bytes and stage so far."""
        return self._frames, self._bytes, self._stage

    def flush(self) -> None:
        """Send the last sums."""
        if self._frames or self._bytes:
            self._send(self._frames, self._bytes, self._stage)


# A Dask worker may have a task in each of several threads; a worker of the pool has one task,
# whose own threads shall find it as well.
_of_thread: contextvars.ContextVar[Progress | None] = contextvars.ContextVar(
    "progress", default=None
)
_of_process: list[Progress] = []


def report(frames: int = 0, bytes: int = 0, stage: str = "") -> None:
    """Tell what was done since the last call.

    Parameters
    ----------
    frames, bytes
        Frames and bytes of pixels that were worked on.
    stage
        What is being done, in a word or two; "" where that has not changed.

    Raises
    ------
    Cancelled
        The step was cancelled: leave things as for an error and let it pass.
    """
    progress = _of_thread.get() or (_of_process[0] if _of_process else None)
    if progress is not None:
        progress.add(frames, bytes, stage)


def use_for_process(progress: Progress | None) -> None:
    """Have all threads of this process report to `progress`; None for nobody."""
    _of_process[:] = [] if progress is None else [progress]


def use_for_thread(progress: Progress | None) -> None:
    """Have this thread report to `progress`; None for nobody."""
    _of_thread.set(progress)
