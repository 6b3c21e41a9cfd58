# SPDX-License-Identifier: BSD-3-Clause
"""Handing saved frames to the pipeline: in frame order, idempotent, bounded, never forgotten.

The spool folder itself is the durable index: a frame's file is there until the pipeline has moved
it away. At start the folder is read, so whatever an earlier life left is handed over too.
Frames are told apart by their files, whose names cannot be equal, not by their numbers, which
begin anew where a counter file was lost.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from nightjar.clock import NS_PER_S, Clock
from nightjar.errors import NightjarError, TimedOut, Unreachable
from nightjar.files import is_temporary
from nightjar.fits.header import read_header

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0


@dataclass(frozen=True, slots=True)
class SpooledFrame:
    """A frame whose file waits in the spool."""

    camera: str
    run: str
    number: int
    path: Path
    size: int
    datasum: str


class Pipeline(Protocol):
    """What takes frames over."""

    def notify(self, frame: SpooledFrame, timeout_s: float) -> None:
        """Return when the pipeline has accepted the frame.

        Raises
        ------
        Unreachable, TimedOut
            It did not answer.
        NightjarError
            It refused; the message is its reason.
        """
        ...


class HandOver:
    """One thread that hands frames over.

    Parameters
    ----------
    pipeline
        None where no pipeline is configured: frames stay in the spool.
    timeout_s
        Longest wait for an answer.
    on_accepted, on_failure
        Called from the thread with the frame, or with (frame, error). A failure of a frame that is
        offered again later is not reported twice.
    on_gone
        Called with a waiting frame whose file was taken away: by a pipeline whose answer never
        came, or by a person.
    clock
        Paces retries.
    """

    def __init__(
        self,
        pipeline: Pipeline | None,
        timeout_s: float,
        on_accepted: Callable[[SpooledFrame], None],
        on_failure: Callable[[SpooledFrame, NightjarError], None],
        on_gone: Callable[[SpooledFrame], None],
        clock: Clock,
    ) -> None:
        self._pipeline = pipeline
        self._timeout_s = timeout_s
        self._on_accepted = on_accepted
        self._on_failure = on_failure
        self._on_gone = on_gone
        self._clock = clock
        self._expected: deque[Path] = deque()
        self._saved: dict[Path, SpooledFrame] = {}
        self._waiting: dict[Path, SpooledFrame] = {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = False
        self._retry_at_ns = 0
        self._pause_s = FIRST_PAUSE_S
        self.is_reachable: bool | None = None
        self.message = ""
        self._thread = threading.Thread(target=self._run, name="handover", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Files in the spool that the pipeline has not taken."""
        with self._lock:  # one that goes from there to here is counted once
            return len(self._waiting) + len(self._saved)

    @property
    def is_idle(self) -> bool:
        """Whether nothing expected or saved awaits its first offer."""
        return not self._expected and not self._saved

    def expect(self, path: Path) -> None:
        """Announce a file that will be saved; later ones are offered after it."""
        with self._lock:
            self._expected.append(path)

    def saved(self, frame: SpooledFrame) -> None:
        """Say that an expected frame is in the spool."""
        with self._lock:
            self._saved[frame.path] = frame
        self._wake.set()

    def adopt(self, frames: list[SpooledFrame]) -> None:
        """Take over frames that an earlier life left in the spool."""
        with self._lock:
            self._waiting.update({frame.path: frame for frame in frames})
        self.retry_now()

    def retry_now(self) -> None:
        """Offer the waiting frames without delay."""
        self._retry_at_ns = 0
        self._wake.set()

    def stop(self, timeout_s: float) -> None:
        """End the thread after the call in hand."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopping:
            try:
                worked = self._offer_new() or self._offer_waiting()
            except Exception:
                # A bug here must not end hand-over for the night; the frames stay in the spool.
                log.exception("hand-over failed unexpectedly")
                worked = False
            if not worked:
                self._clock.wait(self._wake, 0.5)
                self._wake.clear()

    def _next_new(self) -> SpooledFrame | None:
        """Return the next frame in order if it is saved."""
        with self._lock:
            return self._saved.get(self._expected[0]) if self._expected else None

    def _offer_new(self) -> bool:
        """Offer the next frame in order if it is saved; True when something was done."""
        frame = self._next_new()
        if frame is None:
            return False
        accepted = False
        try:
            accepted = self._offer_first(frame)
        finally:
            with self._lock:
                if accepted:
                    self._waiting.pop(frame.path, None)
                else:
                    self._waiting[frame.path] = frame
                del self._saved[frame.path]
                self._expected.popleft()
        return True

    def _offer_first(self, frame: SpooledFrame) -> bool:
        known_away = self.is_reachable is False and self._clock.monotonic_ns() < self._retry_at_ns
        if not known_away or self._pipeline is None:
            return self._offer(frame)
        # While the pipeline is away, frames do not each wait for their own timeout.
        self._on_failure(frame, Unreachable(self.message))
        return False

    def _offer_waiting(self) -> bool:
        """Offer the frames that were refused or never answered, oldest first.

        A new frame that is ready goes before the rest of them: a sequence may wait for it.
        """
        if not self._waiting or self._clock.monotonic_ns() < self._retry_at_ns:
            return False
        for frame in sorted(self._waiting.values(), key=lambda frame: (frame.run, frame.number)):
            if self._stopping or self._next_new() is not None:
                return True
            # One whose file is gone is offered too: the pipeline may have taken it in a call that
            # it answered too late, and then says so.
            if self._offer(frame, is_retry=True):
                self._forget(frame)
            elif self.is_reachable is False:
                break
            elif not frame.path.exists():
                log.info("frame %d: %s was taken away", frame.number, frame.path)
                self._forget(frame)
                self._on_gone(frame)
        if self._waiting:
            self._retry_at_ns = self._clock.monotonic_ns() + round(self._pause_s * NS_PER_S)
            self._pause_s = min(LONGEST_PAUSE_S, self._pause_s * 2)
        return True

    def _forget(self, frame: SpooledFrame) -> None:
        with self._lock:
            del self._waiting[frame.path]

    def _offer(self, frame: SpooledFrame, *, is_retry: bool = False) -> bool:
        """Return whether the pipeline has taken a frame."""
        if self._pipeline is None:
            return False
        was_reachable = self.is_reachable
        try:
            self._pipeline.notify(frame, self._timeout_s)
        except NightjarError as error:
            self.is_reachable = not isinstance(error, Unreachable | TimedOut)
            self.message = error.message
            self._retry_at_ns = self._clock.monotonic_ns() + round(self._pause_s * NS_PER_S)
            if not is_retry or was_reachable is not self.is_reachable:
                log.warning("frame %d was not handed over: %s", frame.number, error.message)
            if not is_retry:
                self._on_failure(frame, error)
            return False
        self.is_reachable = True
        self.message = ""
        self._pause_s = FIRST_PAUSE_S
        try:
            self._on_accepted(frame)
        except Exception:
            log.exception("frame %d: handed over, but what follows failed", frame.number)
        return True


def spooled_frames(folder: Path, prefix: str, camera: str) -> list[SpooledFrame]:
    """Return the frames of a camera that lie in the spool, by frame number.

    Files that cannot be read as FITS are left alone and logged.
    """
    frames = []
    if not folder.is_dir():
        return []
    for path in sorted(folder.glob(f"{prefix}-*.fits")):
        if is_temporary(path):
            continue
        try:
            header = read_header(path)
            size = path.stat().st_size
        except (NightjarError, OSError, ValueError) as error:
            log.warning("spool file %s is left alone: %s", path, error)
            continue
        values: tuple[Any, ...] = tuple(
            header.get(key) for key in ("CAMERA", "RUN-ID", "EXPCNT", "DATASUM")
        )
        if values[0] != camera or not isinstance(values[2], int):
            continue
        frames.append(
            SpooledFrame(camera, str(values[1]), values[2], path, size, str(values[3]))
        )
    return sorted(frames, key=lambda frame: frame.number)
