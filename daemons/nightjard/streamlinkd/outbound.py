# SPDX-License-Identifier: BSD-3-Clause
"""One connection to a receiver of policy ``all``, as its sender sees it."""

from __future__ import annotations

import contextlib
import socket
import threading
from binascii import crc32
from typing import Any

from nightjar.clock import NS_PER_S, Clock
from nightjar.streams.reader import Frames, StreamReader
from nightjard.streamlinkd import net
from nightjard.streamlinkd.secret import Seal
from nightjard.streamlinkd.state import SILENCE_NS
from nightjard.streamlinkd.wire import (
    FOLLOWED,
    SEALED,
    Header,
    Kind,
    pack_header,
    pack_json,
    pack_trailer,
)


class Outbound:
    """One connection to a receiver; several threads send."""

    def __init__(self, connection: socket.socket, peer: str, clock: Clock) -> None:
        self.socket = connection
        self.peer = peer
        self.seal = self.back = Seal(None)
        self.over = threading.Event()
        self.why = ""
        self.most_frames = 1  # in one message, as the receiver says
        self.heard_ns = clock.monotonic_ns()
        self._clock = clock
        self._lock = threading.Lock()
        self._sequence = 0
        self._owed = b""

    @property
    def owes(self) -> bool:
        """Whether the end of a message waits for the next one, promised to come at once."""
        return bool(self._owed)

    def look(self, _moved: bool) -> None:
        """Give up a connection that is to end or has died."""
        if self.over.is_set():
            raise net.Closed(self.why)
        if self._clock.monotonic_ns() - self.heard_ns > SILENCE_NS:
            raise net.Closed(f"nothing was heard of {self.peer} for {SILENCE_NS / NS_PER_S:g} s")

    def end(self, why: str) -> None:
        """End it; who sends or listens returns."""
        if not self.over.is_set():
            self.why = why
            self.over.set()
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def send(self, header: Header, body: bytes = b"") -> None:
        """Send a message without pixels."""
        flags = header.flags | (SEALED if self.seal.is_active else 0)
        with self._lock:
            self._sequence += 1
            head = header._replace(
                flags=flags, body_bytes=len(body), body_crc=crc32(body), sequence=self._sequence,
                sent_ns=self._clock.monotonic_ns(),
            ).pack()  # fmt: skip
            self._emit([head + body + self.seal.tag(head, body)])

    def _emit(self, parts: list[bytes | memoryview], flags: int = 0) -> None:
        """Send, behind what is owed; in the lock."""
        if self._owed:
            owed, self._owed = self._owed, b""
            parts = [owed + parts[0], *parts[1:]]
        net.send_all(self.socket, parts, self.look, flags)

    def send_json(self, kind: Kind, value: dict[str, Any]) -> None:
        """Send a message whose body is JSON."""
        flags = SEALED if self.seal.is_active else 0
        with self._lock:
            self._sequence += 1
            message = pack_json(kind, value, flags=flags, sequence=self._sequence)
            self._emit([message + self.seal.tag(message)])

    def send_frames(
        self,
        known: Header,
        frames: Frames,
        lost: int,
        keywords: bytes,
        pixels: memoryview,
        reader: StreamReader,
        has_crc: bool,
        is_followed: bool,
    ) -> int:
        """Send frames in one message; return how many of them, from the first on, were torn.

        Where another message follows at once (`is_followed`) the end of this one goes with its
        header: one call of the kernel a frame at either end, and the receiver sleeps once.
        """
        first = frames.first
        body = keywords if frames.count == 1 else frames.stamps.tobytes() + keywords
        with self._lock:
            self._sequence += 1
            flags = known.flags | (FOLLOWED if is_followed else 0)
            head = pack_header(
                Kind.FRAME, flags, *known[2:10], len(body), crc32(body), len(pixels),
                known.session, self._sequence, first.counter, first.slot, first.atime_ns,
                first.writetime_ns, self._clock.monotonic_ns(), lost, 0, 0, frames.count - 1,
            )  # fmt: skip
            parts: list[bytes | memoryview] = [head + body if body else head, pixels]
            # MSG_MORE puts the trailer behind the pixels in the same packet. Where it goes with the
            # next header the kernel must not keep the last pixels back for it: that cost a third.
            self._emit(parts, 0 if is_followed else socket.MSG_MORE)
            torn, end = self._ending(head, body, frames, pixels, reader, has_crc)
            if is_followed:
                self._owed = end
            else:
                net.send_all(self.socket, [end], self.look)
        return torn

    def _ending(
        self, head: bytes, body: bytes, frames: Frames, pixels: memoryview, reader: StreamReader,
        has_crc: bool,
    ) -> tuple[int, bytes]:  # fmt: skip
        """Return how many frames are torn now that all were sent, and trailer and tag."""
        seal = self.seal
        torn = reader.torn_of(frames)
        if not has_crc and not seal.is_active:
            return torn, pack_trailer(torn, 0)
        octets = len(pixels) // frames.count
        while True:
            # Both cover the pixels that are whole: what was sent of others nobody knows.
            whole = pixels[torn * octets :]
            crc = crc32(whole) if has_crc else 0
            running = seal.begin(head, body, whole) if seal.is_active else None
            again = reader.torn_of(frames)
            if again <= torn:
                break
            torn = again  # while they were summed
        end = pack_trailer(torn, crc)
        if running is not None:
            running.update(end)
            end += running.digest()
        return torn, end
