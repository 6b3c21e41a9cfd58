# SPDX-License-Identifier: BSD-3-Clause
"""One connection to a receiver of policy ``all``, as its sender sees it."""

from __future__ import annotations

import contextlib
import socket
import threading
from binascii import crc32
from typing import Any

from nightjar.clock import NS_PER_S, Clock
from nightjar.streams.reader import Frame, StreamReader
from nightjard.streamlinkd import net
from nightjard.streamlinkd.secret import Seal
from nightjard.streamlinkd.state import SILENCE_NS
from nightjard.streamlinkd.wire import (
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
        self.heard_ns = clock.monotonic_ns()
        self._clock = clock
        self._lock = threading.Lock()
        self._sequence = 0

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
            net.send_all(self.socket, [head + body + self.seal.tag(head, body)], self.look)

    def send_json(self, kind: Kind, value: dict[str, Any]) -> None:
        """Send a message whose body is JSON."""
        flags = SEALED if self.seal.is_active else 0
        with self._lock:
            self._sequence += 1
            message = pack_json(kind, value, flags=flags, sequence=self._sequence)
            net.send_all(self.socket, [message + self.seal.tag(message)], self.look)

    def send_frame(
        self,
        known: Header,
        frame: Frame,
        lost: int,
        keywords: bytes,
        pixels: memoryview,
        reader: StreamReader,
        has_crc: bool,
    ) -> bool:
        """Send a frame; return whether it was whole up to the end."""
        seal = self.seal
        with self._lock:
            self._sequence += 1
            head = pack_header(
                Kind.FRAME, known.flags, *known[2:10], len(keywords), crc32(keywords),
                len(pixels), known.session, self._sequence, frame.counter, frame.slot,
                frame.atime_ns, frame.writetime_ns, self._clock.monotonic_ns(), lost, 0, 0,
            )  # fmt: skip
            parts: list[bytes | memoryview] = [head + keywords if keywords else head, pixels]
            # The trailer follows at once: MSG_MORE puts it behind the pixels in the same packet.
            net.send_all(self.socket, parts, self.look, socket.MSG_MORE)
            crc = crc32(pixels) if has_crc else 0
            # A tag covers the pixels where they are whole: what was sent of others nobody knows.
            if not seal.is_active:
                is_whole = reader.is_intact(frame)
                end = pack_trailer(is_whole, crc)
            else:
                running = seal.begin(head, keywords, pixels)
                is_whole = reader.is_intact(frame)
                end = pack_trailer(is_whole, crc)
                if not is_whole:
                    running = seal.begin(head, keywords)
                running.update(end)
                end += running.digest()
            net.send_all(self.socket, [end], self.look)
        return is_whole
