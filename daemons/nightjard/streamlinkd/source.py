# SPDX-License-Identifier: BSD-3-Clause
"""The stream that a sender follows: waited for where it is not there, followed when made anew."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

from nightjar.clock import NS_PER_S, Clock
from nightjar.errors import Code, NightjarError
from nightjar.streams.reader import StreamReader
from nightjard.streamlinkd.hello import Place
from nightjard.streamlinkd.wire import Header, Kind

_MAX_SESSION = 2**63 - 1  # fits a signed word everywhere


def session_of(identity: tuple[int, int], epoch: int) -> int:
    """Return the number of a life of a stream: of its file, and how often its counter went back."""
    digest = hashlib.blake2b(struct.pack("<QQQ", *identity, epoch), digest_size=8).digest()
    return (int.from_bytes(digest, "little") & _MAX_SESSION) or 1


class Source:
    """A stream that is read here.

    Parameters
    ----------
    name, folder
        Of the stream.
    clock
        For the pauses between looks.
    waits
        Whether the reader is waited in: else the ten semaphores of the stream are left to others.

    Attributes
    ----------
    reader
        Attached to it; None while it does not exist.
    session
        Which life of the stream; 0 while there is none.
    reason
        Why there is no reader; "" otherwise.
    keywords
        Bytes of the keyword slots that were last looked at.
    """

    def __init__(
        self, name: str, folder: str | None, clock: Clock, *, waits: bool = True
    ) -> None:
        self.name = name
        self.reader: StreamReader | None = None
        self.session = 0
        self.reason = f"stream {name} was not yet looked for"
        self.is_missing = False
        self.keywords = b""
        self._folder = Path(folder) if folder is not None else None
        self._clock = clock
        self._waits = waits
        self._epoch = 0
        self._checked_ns = 0

    def open(self, place: Place | None = None, *, is_known: bool = False) -> int | None:
        """Attach, so that the next frame is the first that the other end does not have.

        Parameters
        ----------
        place
            How far the other end has the stream; None: it has nothing.
        is_known
            The other end has followed an earlier life of the stream: this one counts whole.

        Returns
        -------
        int or None
            The number of the last frame that is not to be sent; None where there is no stream
            (see :attr:`reason`).
        """
        self.close()
        try:
            while True:
                with StreamReader(self.name, folder=self._folder, use_semaphore=False) as probe:
                    identity, newest = probe.identity, probe.counter
                session = session_of(identity, self._epoch)
                if place is not None and place.session == session:
                    if place.counter > newest:  # it went back while nobody looked
                        self._epoch += 1
                        is_known = True
                        continue
                    base = place.counter
                elif is_known:
                    base = 0
                else:
                    base = max(0, newest - 1)
                reader = StreamReader(
                    self.name, folder=self._folder, start=base + 1, clock=self._clock,
                    use_semaphore=self._waits,
                )  # fmt: skip
                if reader.identity == identity:
                    break
                reader.close()
        except NightjarError as error:
            self.is_missing = error.code is Code.UNKNOWN_ITEM
            self.reason = error.message
            self.session = 0
            return None
        self.reader, self.session, self.reason, self.is_missing = reader, session, "", False
        self._begin()
        return base

    def _begin(self) -> None:
        assert self.reader is not None
        self.keywords = self.reader.keyword_block()
        self._checked_ns = self._clock.monotonic_ns()

    def went_back(self) -> None:
        """The counter went back although the file is the same: another life of the stream."""
        assert self.reader is not None
        self._epoch += 1
        self.session = session_of(self.reader.identity, self._epoch)

    def relink(self) -> bool:
        """Follow the stream to a new file; False where there is none."""
        reader = self.reader
        if reader is None or not reader.relink():
            return False
        self.session = session_of(reader.identity, self._epoch)
        self._begin()
        return True

    def relink_now_and_then(self, now_ns: int) -> bool:
        """As :meth:`relink`, looking once a second: a writer may go on filling a lost file."""
        if now_ns - self._checked_ns < NS_PER_S:
            return False
        self._checked_ns = now_ns
        reader = self.reader
        self.is_missing = reader is not None and reader.is_removed()
        return self.relink()

    def changed_keywords(self) -> bytes:
        """Return the keyword slots where they have changed.

        To be asked before each frame: what a writer said before it published a frame must be there
        before the frame is, too. It takes some microseconds.
        """
        if self.reader is None:
            return b""
        block = self.reader.keyword_block()
        if block == self.keywords:
            return b""
        self.keywords = block
        return block

    def header(self, kind: Kind, stream: int, flags: int = 0) -> Header:
        """Return a header that describes the stream."""
        reader = self.reader
        assert reader is not None
        geometry = reader.geometry
        size0, size1, size2 = (*geometry.frame_shape, 0, 0)[:3]
        return Header(
            kind, flags, stream, geometry.datatype_code, len(geometry.frame_shape),
            geometry.keyword_count, geometry.depth if geometry.is_rolling else 0,
            size0, size1, size2, session=self.session,
        )  # fmt: skip

    def close(self) -> None:
        """Detach."""
        if self.reader is not None:
            self.reader.close()
            self.reader = None
