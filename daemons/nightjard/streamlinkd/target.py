# SPDX-License-Identifier: BSD-3-Clause
"""The stream that a receiver makes here: same geometry, counters, times and keywords as the source.

It has keywords of its own besides, so that a picture that has stopped does not look alive:
LINKSTAT (LIVE, QUIET, STALE, ENDED), LINKLAST (UTC in ns when the other end was last heard),
LINKLOST (frames lost so far) and LINKSESS (which life of the source the counters belong to).
"""

from __future__ import annotations

import contextlib
import logging
import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nightjar.clock import NS_PER_S, Clock
from nightjar.errors import Code, NightjarError, StorageError
from nightjar.streams.allocate import stream_path
from nightjar.streams.inspect import describe
from nightjar.streams.layout import KEYWORD_BYTES, StreamGeometry
from nightjar.streams.writer import StreamWriter
from nightjar.units import bytes_text
from nightjard.streamlinkd.config import LATEST_DEPTH, LinkConfig
from nightjard.streamlinkd.wire import Header, WireError

log = logging.getLogger(__name__)

STATE, LAST, LOST, SESSION = "LINKSTAT", "LINKLAST", "LINKLOST", "LINKSESS"
_STATE_COMMENT = "state of the link that makes this stream"
OWN_KEYWORDS = (STATE, LAST, LOST, SESSION)
EXTRA_SLOTS = 8
LARGEST_STREAM = 8_000_000_000
_RETRY_NS = NS_PER_S


class Target:
    """One stream made here. One thread gives frames; another may call :meth:`mark`.

    Attributes
    ----------
    name
        Of the stream.
    session
        Which life of the source it shows; 0 before the first.
    error
        Why it cannot be made; "" where it can.
    """

    def __init__(self, link: LinkConfig, name: str, clock: Clock) -> None:
        self.name = name
        self.session = 0
        self.error = ""
        self._link = link
        self._clock = clock
        self._folder = Path(link.folder) if link.folder is not None else None
        self._writer: StreamWriter | None = None
        self._announced: Header | None = None
        self._is_made = False
        self._keywords = b""
        self._views: list[memoryview | None] = []
        self._scratch: bytearray | None = None
        self._slot: int | None = None
        self._next_try_ns = 0
        self._lock = threading.Lock()
        self._marked: tuple[str, int, int] = ("", 0, 0)

    # --- making it ------------------------------------------------------------------------------

    def adopt(self) -> None:
        """Take over what an earlier life of this link left, so that its frames go on."""
        try:
            path = stream_path(self.name, self._folder)
            found = describe(path)
            session = found.keywords.get(SESSION)
            if session is None or found.is_owner_alive:
                return
            self.session = int(str(session.value), 16)
            self._use(StreamWriter.attach(path, clock=self._clock))
        except (NightjarError, ValueError) as error:
            if getattr(error, "code", None) is not Code.UNKNOWN_ITEM:
                log.warning("stream %s of an earlier life is not taken over: %s", self.name, error)
            self.session = 0

    @property
    def counter(self) -> int:
        """Number of the newest frame here; 0 before the first."""
        writer = self._writer
        return writer.counter if writer is not None else 0

    @property
    def geometry(self) -> tuple[list[int] | None, str | None, int | None]:
        """Shape and type of the frames, and depth; None before they are known."""
        writer = self._writer
        if writer is None:
            return None, None, None
        made = writer.geometry
        return list(made.frame_shape), str(made.dtype), made.depth

    def announce(self, header: Header, keywords: bytes) -> None:
        """Have the stream that a header describes, made anew where it is another one.

        What goes wrong is told in :attr:`error`, and tried again later.
        """
        self._announced = header
        self._keywords = keywords
        self._is_made = False
        self._next_try_ns = 0
        self.ready()

    def fits(self, header: Header) -> bool:
        """Tell whether a frame is of the stream that was announced."""
        known = self._announced
        return (
            known is not None
            and known.session == header.session
            and known.dtype_code == header.dtype_code
            and known.shape == header.shape
        )

    def ready(self) -> bool:
        """Have the announced stream; False where it cannot be made (see :attr:`error`)."""
        if self._is_made:
            return True
        header = self._announced
        if header is None:
            return False
        now = self._clock.monotonic_ns()
        if now < self._next_try_ns:
            return False
        self._next_try_ns = now + _RETRY_NS
        try:
            self._make(header)
        except NightjarError as error:
            if error.message != self.error:
                log.error("stream %s: %s", self.name, error.message)
            self.error = error.message
            return False
        if self.error:
            log.info("stream %s can be made now", self.name)
        self.error = ""
        self._is_made = True
        return True

    def _make(self, header: Header) -> None:
        depth = self._link.depth or max(2, header.depth)
        if self._link.depth is None and self._link.policy == "latest":
            depth = min(LATEST_DEPTH, depth)
        wanted = header.geometry(depth, EXTRA_SLOTS)
        present = self._writer
        if present is not None and (self.session, present.geometry) == (header.session, wanted):
            self._load(present)
            return
        limit = self._link.largest_stream or LARGEST_STREAM
        if wanted.offsets().total > limit:
            raise StorageError(
                f"stream {self.name} would take {bytes_text(wanted.offsets().total)}, more than "
                f"largest_stream of the link, {bytes_text(limit)}: raise it or give a depth",
                code=Code.NO_SPACE,
            )
        with self._lock:
            try:
                made = self._create(wanted)
            except StorageError as error:
                if present is None or error.code is not Code.NO_SPACE:
                    raise
                # There is no room for both, so the name is free for a moment.
                present.close(unlink=True)
                present = self._writer = None
                self._views, self._scratch = [], None
                made = self._create(wanted)
            if present is not None:
                present.close()
            self._use(made)
            self.session = header.session
            self._marked = ("", 0, 0)
            self._load(made)
        log.info(
            "stream %s: %s %s, depth %d", self.name, wanted.frame_shape, wanted.dtype, wanted.depth
        )

    def _create(self, wanted: StreamGeometry) -> StreamWriter:
        return StreamWriter.create(
            self.name, wanted.frame_shape, wanted.dtype,
            depth=wanted.depth if wanted.is_rolling else None, folder=self._folder,
            nkw=wanted.keyword_count, mode=int(self._link.mode or "0660", 8),
            group=self._link.group, clock=self._clock,
        )  # fmt: skip

    def _use(self, writer: StreamWriter) -> None:
        self._writer = writer
        self._slot = None
        self._views = [None] * writer.geometry.depth
        rolling = writer.geometry.is_rolling
        self._scratch = None if rolling else bytearray(writer.geometry.frame_bytes)

    def _load(self, writer: StreamWriter) -> None:
        writer.set_keyword(SESSION, f"{self.session:016x}", "life of the link's source")
        writer.set_keyword(STATE, "LIVE", _STATE_COMMENT)
        writer.load_keywords(self._keywords, OWN_KEYWORDS)

    # --- frames ---------------------------------------------------------------------------------

    def begin(self) -> memoryview:
        """Return where the pixels of the next frame go; :meth:`ready` must have said so."""
        writer = self._writer
        assert writer is not None
        if self._scratch is not None:
            return memoryview(self._scratch)
        slot = writer.next_slot
        writer.begin(slot)
        self._slot = slot
        view = self._views[slot]
        if view is None:
            view = self._views[slot] = writer.slot(slot).data.cast("B")
        return view

    def begin_run(self, count: int) -> list[memoryview]:
        """Return where the pixels of the next `count` frames go, in one or two pieces.

        Raises
        ------
        WireError
            They are more than the half of the ring, which would be gone for readers at once.
        """
        writer = self._writer
        assert writer is not None
        if count > writer.geometry.depth // 2:
            raise WireError(
                f"{count} frames in one message for stream {self.name}, which holds "
                f"{writer.geometry.depth}"
            )
        slot = writer.next_slot
        pieces = writer.begin_run(slot, count)
        self._slot = slot
        return pieces

    def publish_run(
        self, header: Header, stamps: NDArray[np.uint64], keywords: bytes, gone: int
    ) -> None:
        """Publish what was put there, but for the first `gone` frames; :meth:`publish` is alike.

        Parameters
        ----------
        stamps
            Seconds and nanoseconds, (2, count, 2): acquisition and writing of each frame.
        """
        writer, slot = self._writer, self._slot
        assert writer is not None
        assert slot is not None
        if keywords and keywords != self._keywords:
            self.set_keywords(keywords)
        depth = writer.geometry.depth
        if gone:  # rare; the others close ranks, for a ring has no holes
            for index in range(slot, slot + header.frames - gone):
                np.copyto(writer.slot(index % depth), writer.slot((index + gone) % depth))
        self._slot = None
        writer.publish_run(slot, stamps[:, gone:], header.cnt0 + gone)

    def publish(self, header: Header, keywords: bytes) -> None:
        """Make what was put there the newest frame, with the keywords that came with it."""
        writer = self._writer
        assert writer is not None
        if keywords and keywords != self._keywords:
            self.set_keywords(keywords)
        slot = self._slot
        if slot is None:
            assert self._scratch is not None
            slot = writer.next_slot
            writer.begin(slot)
            writer.slot(slot).data.cast("B")[:] = self._scratch
        self._slot = None
        writer.publish(slot, header.atime_ns, header.writetime_ns, counter=header.cnt0)

    def abandon(self) -> None:
        """Forget what was put there; harmless where nothing was begun."""
        slot, self._slot = self._slot, None
        if slot is not None and self._writer is not None:
            self._writer.abandon(slot)

    # --- keywords -------------------------------------------------------------------------------

    def set_keywords(self, block: bytes) -> None:
        """Take over the source's keyword slots."""
        self._keywords = block
        writer = self._writer
        if writer is None or len(block) > KEYWORD_BYTES * writer.geometry.keyword_count:
            return
        writer.load_keywords(block, OWN_KEYWORDS)

    def mark(self, state: str, heard_utc_ns: int, lost: int) -> None:
        """Say in the stream's keywords how the link is."""
        # The stream may just be made anew, which can last; the next mark is a quarter second away.
        if not self._lock.acquire(blocking=False):
            return
        try:
            writer = self._writer
            news = (state, heard_utc_ns, lost)
            if writer is None or news == self._marked:
                return
            writer.set_keyword(STATE, state, _STATE_COMMENT)
            writer.set_keyword(LAST, heard_utc_ns, "UTC (ns) of the last sign of the source")
            writer.set_keyword(LOST, lost, "frames lost on the way here")
            self._marked = news
        except NightjarError as error:
            log.warning("stream %s: %s", self.name, error.message)
        finally:
            self._lock.release()

    def check(self) -> None:
        """See whether somebody took the stream's name: then it is made anew with the next frame."""
        writer = self._writer
        if writer is not None and self._slot is None and not writer.is_current():
            log.warning("stream %s was removed or replaced by somebody: made anew", self.name)
            with self._lock:
                self._writer = None
            self._is_made = False
            with contextlib.suppress(NightjarError):
                writer.close()

    def close(self) -> None:
        """Leave the stream as it is, marked as ended, without an owner."""
        with self._lock:
            writer, self._writer = self._writer, None
        if writer is not None:
            self.abandon()
            with contextlib.suppress(NightjarError):
                writer.set_keyword(STATE, "ENDED", _STATE_COMMENT)
            writer.close()
