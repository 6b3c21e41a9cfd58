# SPDX-License-Identifier: BSD-3-Clause
"""Links with milk's own programs: the wire of ``imnetwtransmit`` and ``imnetwreceive``.

Once the 384 bytes of metadata, then per frame the pixels of one slice, two signed words of 8 bytes
(cnt0, cnt1) and the keyword slots; since 2026 a magic word stands before cnt0, which is not
negotiated and must be configured (``milk24`` instead of ``milk16``). The receiver listens. There is
no checksum, no heartbeat, no secret and no time: a frame has that of its arrival, a silent peer
cannot be told from a dead one, and a change of geometry is a new connection. Frames are copied
before they are sent, because a torn one could not be marked.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import threading
from typing import Any

from nightjar.clock import NS_PER_S, Clock
from nightjar.errors import NightjarError, StorageError
from nightjar.streams.layout import (
    DTYPE_CODES,
    KEYWORD_BYTES,
    METADATA_BYTES,
    VERSION,
    metadata_bytes,
    parse_metadata,
)
from nightjar.streams.reader import StreamReader, Wake
from nightjar.units import bytes_text
from nightjard.streamlinkd import net
from nightjard.streamlinkd.config import LinkConfig
from nightjard.streamlinkd.counts import Latency
from nightjard.streamlinkd.hello import Place
from nightjard.streamlinkd.source import Source, session_of
from nightjard.streamlinkd.state import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    TICK_S,
    Lane,
    Trouble,
    link_snapshot,
)
from nightjard.streamlinkd.target import LARGEST_STREAM, Target
from nightjard.streamlinkd.wire import Header, Kind, WireError

log = logging.getLogger(__name__)

MAGIC = 0x12341234FF
_WORDS = {"milk16": struct.Struct("<qq"), "milk24": struct.Struct("<qqq")}
_WAIT_S = 0.2
_DEAD_MS = 3000


class _MilkEnd:
    """What both ends share: one stream, one connection."""

    def __init__(self, link: LinkConfig, clock: Clock) -> None:
        self._link, self._clock = link, clock
        self._words = _WORDS[link.wire]
        self._stop = threading.Event()
        self._trouble = Trouble(clock)
        self._latency = Latency()
        self._peer: str | None = None
        self._reason = "not yet connected"
        self._is_failed = False
        self._connections = 0
        self._heard_ns = 0
        where = link.address or "*"
        self._address = f"[{where}]:{link.port}" if ":" in where else f"{where}:{link.port}"

    def _look(self, _moved: bool) -> None:
        if self._stop.is_set():
            raise net.Closed("this end is stopping")

    def _prepare(self, connection: socket.socket) -> None:
        net.prepare(connection)
        # The only sign of a dead peer that this protocol leaves.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD_MS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2)
        self._peer = net.text_of(connection.getpeername())
        self._connections += 1
        log.info("connected: %s", self._peer)

    def _ended(self, why: str) -> None:
        log.info("connection with %s has ended: %s", self._peer, why)
        self._reason = self._trouble.note(f"{self._peer}: {why}")
        self._peer = None

    def _snapshot(self, lane: Lane, **more: Any) -> dict[str, Any]:
        now = self._clock.monotonic_ns()
        octets = lane.measure(now)
        is_connected = self._peer is not None
        state, reason = lane.state(now, is_connected, not is_connected and lane.frame_ns > 0)
        row = lane.snapshot(state, reason, **more)
        if self._is_failed:
            state, reason = "ERROR", self._reason
        elif not is_connected:
            state = "STALE" if lane.frame_ns and self._link.role == "receive" else "CONNECTING"
            reason = self._reason
        else:
            state, reason = "LIVE", ""
        return link_snapshot(
            [row], [lane.local], octets, self._trouble, state, reason, address=self._address,
            peer=self._peer, is_sealed=False, reconnects=max(0, self._connections - 1),
            heard_s=(now - self._heard_ns) / NS_PER_S if self._heard_ns else None,
            latency_ms=self._latency.median_ms(),
        )  # fmt: skip

    def set(self, rate: float | None, budget: float | None) -> dict[str, Any]:
        """Refuse: only senders of policy latest have a rate."""
        raise NightjarError(f"link {self._link.name} has no rate and no budget")


class MilkSender(_MilkEnd):
    """Sends to ``milk-netreceive``, or to :class:`MilkReceiver`."""

    def __init__(self, link: LinkConfig, clock: Clock) -> None:
        super().__init__(link, clock)
        assert link.address is not None
        self._host = link.address
        ((local, wire),) = link.streams.items()
        self._lane = Lane(local, wire)
        self._source = Source(local, link.folder, clock)

    def run(self, stop: threading.Event) -> None:
        """Send until `stop` is set."""
        self._stop = stop
        lane, source, pause_s = self._lane, self._source, FIRST_PAUSE_S
        while not stop.is_set():
            place = Place(lane.session, lane.counter) if lane.session else None
            base = source.open(place, is_known=place is not None)
            if base is None:
                self._reason = source.reason
                self._clock.wait(stop, _WAIT_S)
                continue
            began_ns = self._clock.monotonic_ns()
            try:
                # Milk's receiver does not say what it has: we go on behind what was sent.
                if source.session != lane.session:
                    lane.session, lane.counter = source.session, base
                connection = net.connect(self._host, self._link.port, self._link.interface, 2.0)
                with connection:
                    self._prepare(connection)
                    self._send(connection)
                    self._ended("the stream was made anew")
            except net.Closed as error:
                self._ended(str(error))
            except NightjarError as error:
                self._reason = self._trouble.note(error)
            except OSError as error:
                self._ended(error.strerror or str(error))
            finally:
                source.close()
            if self._clock.monotonic_ns() - began_ns > 2 * NS_PER_S:
                pause_s = FIRST_PAUSE_S
            self._clock.wait(stop, pause_s)
            pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)

    def _send(self, connection: socket.socket) -> None:
        """Send frames until the stream is made anew."""
        reader, lane = self._source.reader, self._lane
        assert reader is not None
        inode, created_ns = reader.identity
        head = VERSION + metadata_bytes(
            reader.geometry, lane.wire, created_ns=created_ns, pid=os.getpid(), inode=inode
        )[len(VERSION) :]
        net.send_all(connection, [head], self._look)
        while not self._stop.is_set():
            frame = reader.next_frame()
            if frame is None:
                wake = reader.wait(_WAIT_S, self._stop)
                if wake is Wake.REPLACED:
                    return
                if wake is Wake.TIMEOUT and _is_closed(connection):
                    raise net.Closed("the receiver has closed the connection")
                continue
            words = [frame.counter, frame.slot]
            if self._link.wire == "milk24":
                words.insert(0, MAGIC)
            pixels = frame.data.data.cast("B")
            tail = self._words.pack(*words) + reader.keyword_block()
            net.send_all(connection, [pixels, tail], self._look)
            lane.counts.lost += max(0, frame.counter - lane.counter - 1)
            lane.counter = frame.counter
            lane.counts.frames += 1
            lane.counts.bytes += len(pixels)
            lane.frame_ns = self._clock.monotonic_ns()
            if self._source.relink_now_and_then(lane.frame_ns):
                return

    def snapshot(self) -> dict[str, Any]:
        """Return what the link is doing; see :data:`nightjar.api.streamlink.LINK_KEYS`."""
        more: dict[str, Any] = {}
        reader: StreamReader | None = self._source.reader
        if reader is not None:
            made = reader.geometry
            more = {"shape": list(made.frame_shape), "dtype": str(made.dtype),
                    "depth": made.depth, "backlog": reader.unread}  # fmt: skip
        return self._snapshot(self._lane, **more)


def _is_closed(connection: socket.socket) -> bool:
    # Nothing ever comes from a receiver, except the end.
    try:
        return connection.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


class MilkReceiver(_MilkEnd):
    """Receives from ``milk-nettransmit``, or from :class:`MilkSender`."""

    def __init__(self, link: LinkConfig, clock: Clock) -> None:
        super().__init__(link, clock)
        ((local, wire),) = link.streams.items()
        self._lane = Lane(local, wire)
        self._target = Target(link, local, clock)
        self._heard_utc_ns = 0

    def run(self, stop: threading.Event) -> None:
        """Receive until `stop` is set."""
        self._stop = stop
        self._target.adopt()
        self._lane.session, self._lane.counter = self._target.session, self._target.counter
        ticker = threading.Thread(target=self._tick, name="ticker")
        ticker.start()
        try:
            while not stop.is_set():
                self._listen()
        finally:
            stop.set()
            ticker.join()
            self._target.close()

    def _tick(self) -> None:
        while not self._clock.wait(self._stop, TICK_S):
            lane, now = self._lane, self._clock.monotonic_ns()
            state, _ = lane.state(now, self._peer is not None, self._peer is None)
            mark = {"ERROR": "LIVE", "WAITING": "STALE"}.get(state, state)
            self._target.mark(mark, self._heard_utc_ns, lane.counts.lost)

    def _listen(self) -> None:
        link = self._link
        try:
            listener = net.listen(link.address, link.port, link.interface)
        except NightjarError as error:
            self._is_failed, self._reason = True, self._trouble.note(error)
            self._clock.wait(self._stop, 1.0)
            return
        self._is_failed = False
        self._reason = f"waiting for a sender on {self._address}"
        with listener:
            while not self._stop.is_set():
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                except OSError as error:
                    self._trouble.note(f"cannot take a connection: {error.strerror}")
                    self._clock.wait(self._stop, 0.5)
                    continue
                with connection:
                    self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        try:
            self._prepare(connection)
            self._receive(connection)
        except net.Closed as error:
            self._ended(str(error))
        except NightjarError as error:
            self._trouble.bad_messages += 1
            self._ended(error.message)
        except OSError as error:
            self._ended(error.strerror or str(error))
        finally:
            self._target.abandon()

    def _receive(self, connection: socket.socket) -> None:
        lane, target = self._lane, self._target
        data = bytearray(METADATA_BYTES)
        net.receive_into(connection, memoryview(data), self._look)
        header = header_of(bytes(data))
        if header.session != lane.session:
            lane.session, lane.counter = header.session, 0
        target.announce(header, b"")
        octets = header.payload_bytes
        limit = self._link.largest_stream or LARGEST_STREAM
        if octets > limit:
            raise WireError(
                f"frames of {bytes_text(octets)} are announced, more than largest_stream of the "
                f"link, {bytes_text(limit)}"
            )
        spare = memoryview(bytearray(octets))
        tail = bytearray(self._words.size + KEYWORD_BYTES * header.keyword_count)
        while True:
            is_kept = target.ready()
            lane.reason = target.error
            net.receive_into(connection, target.begin() if is_kept else spare, self._look)
            net.receive_into(connection, memoryview(tail), self._look)
            counter = self._counter(tail, header)
            self._heard_ns, self._heard_utc_ns = self._clock.monotonic_ns(), self._clock.now_ns()
            if counter == lane.counter:
                lane.counts.duplicated += 1
                target.abandon()
                continue
            if counter < lane.counter:  # it counts anew: another life of the stream
                session = session_of((header.session, lane.counter), 1)
                header = header._replace(session=session)
                lane.session, lane.counter = session, counter
                lane.counts.dropped += 1
                target.abandon()
                target.announce(header, b"")
                continue
            lane.counts.lost += counter - lane.counter - 1 if lane.counter else 0
            lane.counter = counter
            if not is_kept:
                lane.counts.dropped += 1
                continue
            arrived = header._replace(
                cnt0=counter, atime_ns=self._heard_utc_ns, writetime_ns=self._heard_utc_ns
            )
            target.publish(arrived, bytes(tail[self._words.size :]))
            lane.counts.frames += 1
            lane.counts.bytes += octets
            lane.frame_ns = self._heard_ns

    def _counter(self, tail: bytearray, header: Header) -> int:
        *magic, counter, slot = self._words.unpack_from(tail)
        if (magic and magic[0] != MAGIC) or counter < 1 or not 0 <= slot <= 2**40:
            raise WireError(
                f"what follows the pixels is no {self._link.wire} trailer; "
                f"try {'milk16' if magic else 'milk24'}"
            )
        if not magic and counter == MAGIC:
            raise WireError("the sender is of 2026 or later: wire must be milk24")
        return int(counter)

    def snapshot(self) -> dict[str, Any]:
        """Return what the link is doing; see :data:`nightjar.api.streamlink.LINK_KEYS`."""
        shape, dtype, depth = self._target.geometry
        return self._snapshot(self._lane, shape=shape, dtype=dtype, depth=depth)


def header_of(metadata: bytes) -> Header:
    """Return what a metadata block says of the frames that follow.

    Raises
    ------
    WireError
        It is none, or describes frames that no stream here can hold.
    """
    try:
        record = parse_metadata(metadata, "what the sender sent first")
    except StorageError as error:
        raise WireError(error.message) from error
    axes, code = int(record["naxis"]), int(record["datatype"])
    sizes = [int(size) for size in record["size"][: min(axes, 2)]][::-1]
    depth = int(record["size"][2]) if axes == 3 else 0
    if not 1 <= axes <= 3 or code not in DTYPE_CODES or 0 in sizes:
        raise WireError(f"{axes} axes, pixel type {code}: no such frames")
    octets = DTYPE_CODES[code].itemsize
    for size in sizes:
        octets *= size
    created_s, created_ns = (int(part) for part in record["creationtime"].tolist())
    made_ns = (created_s * NS_PER_S + created_ns) % 2**64
    return Header(
        Kind.GEOMETRY, 0, 0, code, len(sizes), int(record["NBkw"]), depth, sizes[0],
        sizes[1] if len(sizes) > 1 else 0, payload_bytes=octets,
        session=session_of((int(record["inode"]), made_ns), 0),
    )  # fmt: skip
