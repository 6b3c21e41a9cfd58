# SPDX-License-Identifier: BSD-3-Clause
"""The sending end of a link of policy ``latest``: the newest frame, evenly, within a budget.

One thread does it all. A frame is copied out of the ring before it is sent, so that it is whole;
nothing is sent that nobody receives; after a stall of whatever kind the beat begins anew.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from binascii import crc32
from typing import Any

import zmq

from nightjar.clock import NS_PER_S, Clock
from nightjar.errors import NightjarError
from nightjar.streams.layout import KEYWORD_BYTES
from nightjard.streamlinkd import pace, zsockets
from nightjard.streamlinkd.config import DEFAULT_BUDGET, DEFAULT_RATE, LinkConfig
from nightjard.streamlinkd.counts import Meter
from nightjard.streamlinkd.secret import NONCE_BYTES, Seal, new_nonce
from nightjard.streamlinkd.source import Source
from nightjard.streamlinkd.state import HEARTBEAT_NS, TICK_S, Lane, Trouble, link_snapshot
from nightjard.streamlinkd.wire import (
    HAS_CRC,
    HEADER_BYTES,
    SEALED,
    SOURCE_MISSING,
    Header,
    Kind,
    WireError,
    pack_json,
    parse_header,
    parse_json,
)

log = logging.getLogger(__name__)

_PLAN_NS = NS_PER_S // 4
_MARGIN_NS = 1_000_000
_MOST_READY_NS = 50_000_000
_LOOK_NS = 2_000_000  # between looks for the next frame of a source that gives some
_IDLE_NS = 20_000_000  # of one that gives none
_PEER_NS = 3 * NS_PER_S  # for how long a receiver's report is news
_MOST_HEARD = 1000
_EMPTY = Header(Kind.HEARTBEAT, SOURCE_MISSING, 0, 1, 1, size0=1)


class OutView(Lane):
    """One stream of which the newest frames go out."""

    def __init__(self, link: LinkConfig, local: str, wire: str, clock: Clock) -> None:
        super().__init__(local, wire)
        now = clock.monotonic_ns()
        self.topic = zsockets.topic_of(wire)
        self.source = Source(local, link.folder, clock, waits=False)
        self.beat = pace.Beat(now)
        self.receivers = 0
        self.sequence = 0
        self.offered: float | None = None
        self.why_slow = ""
        self.is_wanted_anew = False
        self._offers = Meter()
        self._opened_ns = now

    def opened(self, now_ns: int) -> None:
        """A stream, or another life of it, is there."""
        self.session, self.counter, self.offered = self.source.session, 0, None
        self._offers, self._opened_ns = Meter(), now_ns

    def look(self, now_ns: int) -> None:
        """Measure what the source gives."""
        reader = self.source.reader
        if reader is None:
            self.offered = 0.0
            return
        rate, _ = self._offers.note(now_ns, reader.counter, 0)
        self.offered = max(0.0, rate) if now_ns - self._opened_ns > NS_PER_S else None

    def octets(self) -> int:
        """Return what a message with a frame takes on the wire for one receiver."""
        reader = self.source.reader
        if reader is None:
            return 1
        geometry = reader.geometry
        return (
            geometry.frame_bytes + KEYWORD_BYTES * geometry.keyword_count + HEADER_BYTES
            + len(self.topic) + 32 + 5 * 9
        )  # fmt: skip


class Publisher:
    """The engine; :meth:`run` lasts until its event is set.

    Parameters
    ----------
    link, secret
        The configuration and the content of its `secret_file`.
    clock
        System clock, or a test's.
    """

    def __init__(self, link: LinkConfig, secret: bytes | None, clock: Clock) -> None:
        self._link, self._secret, self._clock = link, secret, clock
        self._lanes = [OutView(link, local, wire, clock) for local, wire in link.streams.items()]
        self._rate = link.rate or DEFAULT_RATE
        self._budget = link.budget or DEFAULT_BUDGET
        self._instance = new_nonce()
        self._seal = Seal(secret, b"latest", self._instance)
        self._bucket = pace.Bucket(self._budget * 125e3, clock.monotonic_ns())
        self._socket: Any = None
        self._queue = max(2, len(self._lanes))
        self._trouble = Trouble(clock)
        self._failure = ""
        self._planned_ns = self._beaten_ns = 0
        self._ready_ns = 0
        self._peers: dict[str, tuple[int, str]] = {}
        self._arrivals = 0
        where = link.address or "*"
        self._address = f"[{where}]:{link.port}" if ":" in where else f"{where}:{link.port}"

    def run(self, stop: threading.Event) -> None:
        """Publish until `stop` is set."""
        link = self._link
        context = zmq.Context()
        try:
            while not stop.is_set():
                for lane in self._lanes:
                    lane.receivers = 0
                    self._look_for(lane, self._clock.monotonic_ns())
                self._queue = self._wanted_queue()
                try:
                    sock = zsockets.publisher(
                        context, link.address, link.port, link.interface, self._queue
                    )
                except NightjarError as error:
                    self._failure = self._trouble.note(error)
                    self._clock.wait(stop, 1.0)
                    continue
                self._failure = ""
                self._socket = sock
                try:
                    self._publish(stop)
                finally:
                    # The last words are still in the socket: they get a moment.
                    sock.close(100)
                    self._socket = None
        finally:
            for lane in self._lanes:
                lane.source.close()
            context.destroy(0)

    def set(self, rate: float | None, budget: float | None) -> dict[str, Any]:
        """Change rate and budget; return both."""
        self._rate = rate or self._rate
        self._budget = budget or self._budget
        self._planned_ns = 0
        return {"rate": self._rate, "budget": self._budget}

    def _wanted_queue(self) -> int:
        known = [lane.octets() for lane in self._lanes if lane.source.reader is not None]
        if not known:
            return self._queue
        return zsockets.queue_length(max(known), len(self._lanes))

    def _look_for(self, lane: OutView, now_ns: int) -> None:
        source = lane.source
        if source.reader is None:
            if source.open() is not None:
                lane.opened(now_ns)
        elif source.relink_now_and_then(now_ns):
            lane.opened(now_ns)

    # --- the loop -------------------------------------------------------------------------------

    def _publish(self, stop: threading.Event) -> None:
        """Publish until `stop` is set, or frames of another size want another socket."""
        while not stop.is_set():
            self._hear()
            now = self._clock.monotonic_ns()
            if now - self._planned_ns >= _PLAN_NS:
                self._planned_ns = now
                self._plan(now)
                # It cannot be changed in a socket that receivers come to and leave: ZMQ crashes.
                if not self._queue <= self._wanted_queue() <= 2 * self._queue:
                    return
            if now - self._beaten_ns >= HEARTBEAT_NS:
                self._beaten_ns = now
                self._heartbeat(now)
            until = self._send_due(now)
            if until is not None:
                self._sleep(until)
        for lane in self._lanes:
            self._send(lane, [pack_json(Kind.END, {"reason": "the link was stopped"},
                                        flags=self._sealed())])  # fmt: skip

    def _sleep(self, until_ns: int) -> None:
        left_ns = until_ns - self._clock.monotonic_ns()
        # poll() knows whole milliseconds only, which would make the beat uneven.
        whole_ms = min(round(TICK_S * 1000), max(0, left_ns) // 1_000_000)
        if self._socket.poll(whole_ms) == 0 and whole_ms < round(TICK_S * 1000):
            self._clock.sleep(max(0, until_ns - self._clock.monotonic_ns()) / NS_PER_S)

    def _send_due(self, now_ns: int) -> int | None:
        """Send the frame that is due first; return when to look again, None for at once."""
        again = now_ns + _PLAN_NS
        ready: list[OutView] = []
        for lane in self._lanes:
            reader = lane.source.reader
            if lane.receivers == 0 or reader is None:
                continue
            if lane.beat.due_ns > now_ns + self._ready_ns:
                again = min(again, lane.beat.due_ns - self._ready_ns)
            elif reader.counter == 0 or (
                reader.counter == lane.counter and not lane.is_wanted_anew
            ):
                again = min(again, now_ns + (_LOOK_NS if lane.offered != 0 else _IDLE_NS))
            else:
                ready.append(lane)
        if not ready:
            return again
        start_ns = self._bucket.free_ns() - self._ready_ns
        if start_ns > now_ns:
            return min(again, start_ns)
        lane = min(ready, key=lambda one: one.beat.due_ns)
        self._send_frame(lane)
        return None

    def _plan(self, now_ns: int) -> None:
        """Look after the sources and share out the budget."""
        for lane in self._lanes:
            self._look_for(lane, now_ns)
            lane.look(now_ns)
        self._bucket.set_rate(self._budget * 125e3, now_ns)
        busy = [lane for lane in self._lanes if lane.receivers and lane.source.reader is not None]
        demands = [
            pace.Demand(lane.octets() * lane.receivers, self._rate, lane.offered) for lane in busy
        ]
        rates = pace.shares(demands, self._budget * 125e3 * pace.HEADROOM)
        for index, (lane, rate) in enumerate(zip(busy, rates, strict=True)):
            lane.beat.set_rate(rate)
            # Those that give no frames are no reason for anything.
            giving = [one for one in demands if one.offered != 0]
            lane.why_slow = ""
            if demands[index] in giving:
                lane.why_slow = pace.explanation(
                    lane.wire, giving, giving.index(demands[index]), rate, self._budget,
                    lane.receivers,
                )  # fmt: skip

    # --- sending --------------------------------------------------------------------------------

    def _sealed(self) -> int:
        return SEALED if self._seal.is_active else 0

    def _send(self, lane: OutView, parts: list[bytes | memoryview]) -> int:
        """Send a message about a stream; return when that began."""
        message = [lane.topic, *parts]
        if self._seal.is_active:
            message.append(self._seal.tag(*message))
        now = self._clock.monotonic_ns()
        self._socket.send_multipart(message)
        octets = zsockets.octets_of(message) * max(1, lane.receivers)
        self._bucket.take(octets, now)
        return now

    def _send_frame(self, lane: OutView) -> None:
        source = lane.source
        reader = source.reader
        assert reader is not None
        began = self._clock.monotonic_ns()
        frame = reader.latest()
        now = self._clock.monotonic_ns()
        if frame is None:  # overwritten each time that it was copied: at the next beat
            lane.counts.torn += 1
            lane.beat.sent(now)
            return
        if frame.counter < lane.counter:
            source.went_back()
            lane.opened(now)
        keywords = reader.keyword_block()
        pixels = frame.data.data.cast("B")
        lane.sequence += 1
        head = source.header(
            Kind.FRAME, int.from_bytes(self._instance[:2], "big"), HAS_CRC | self._sealed()
        )._replace(
            body_bytes=len(keywords), body_crc=crc32(keywords), payload_bytes=len(pixels),
            sequence=lane.sequence, cnt0=frame.counter, cnt1=frame.slot, atime_ns=frame.atime_ns,
            writetime_ns=frame.writetime_ns, sent_ns=now, period_ns=lane.beat.period_ns,
            payload_crc=crc32(pixels),
        )  # fmt: skip
        # Copying and checksum take milliseconds: they are done before the frame is due.
        took_ns = self._clock.monotonic_ns() - began
        self._ready_ns += (min(took_ns + _MARGIN_NS, _MOST_READY_NS) - self._ready_ns) // 4
        due_ns = max(lane.beat.due_ns, self._bucket.free_ns())
        self._clock.sleep(max(0, due_ns - self._clock.monotonic_ns()) / NS_PER_S)
        now = self._send(lane, [head.pack(), keywords, pixels])
        lane.beat.sent(now)
        lane.is_wanted_anew = False
        lane.counter = frame.counter
        lane.frame_ns = now
        lane.counts.frames += 1
        lane.counts.bytes += len(pixels)

    def _heartbeat(self, now_ns: int) -> None:
        """Tell of each stream that this end lives, what the stream is like, and its keywords."""
        life = int.from_bytes(self._instance[:2], "big")
        for lane in self._lanes:
            source = lane.source
            head, keywords = _EMPTY._replace(stream=life, flags=SOURCE_MISSING), b""
            if source.reader is not None:
                flags = SOURCE_MISSING if source.reader.is_removed() else 0
                keywords = source.reader.keyword_block()
                head = source.header(Kind.HEARTBEAT, life, flags)
            head = head._replace(
                flags=head.flags | self._sealed(), body_bytes=len(keywords),
                body_crc=crc32(keywords), sequence=lane.sequence, cnt0=lane.counter,
                sent_ns=now_ns, period_ns=lane.beat.period_ns,
            )  # fmt: skip
            self._send(lane, [head.pack(), keywords, b""])

    # --- what receivers say ---------------------------------------------------------------------

    def _hear(self) -> None:
        for _ in range(_MOST_HEARD):
            try:
                parts = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            data = parts[0]
            if data[:1] in (b"\0", b"\1"):
                self._subscribed(data[1:], 1 if data[:1] == b"\1" else -1)
                continue
            try:
                self._reported(data)
            except WireError as error:
                self._trouble.bad(error)

    def _subscribed(self, topic: bytes, change: int) -> None:
        for lane in self._lanes:
            if lane.topic == topic:
                lane.receivers = max(0, lane.receivers + change)
                if change > 0:  # whoever comes gets a picture, even if the source is silent
                    lane.is_wanted_anew = True
                    self._arrivals += 1
                self._planned_ns = 0

    def _reported(self, data: bytes) -> None:
        if len(data) < HEADER_BYTES:
            raise WireError(f"a receiver sent {len(data)} bytes that are no message")
        header = parse_header(data)
        body = data[HEADER_BYTES : HEADER_BYTES + header.body_bytes]
        if header.kind != Kind.REPORT:
            raise WireError("a receiver sent something that is no report")
        value = parse_json(header, body)
        if self._seal.is_active:
            if not header.is_sealed:
                raise WireError("a receiver without the shared secret: give it its secret_file")
            end = HEADER_BYTES + header.body_bytes
            Seal(self._secret, b"report").check(data[end:], data[:end])
            self._prove(value)
        now = self._clock.monotonic_ns()
        kept = {name: one for name, one in self._peers.items() if now - one[0] < _PEER_NS}
        kept[str(value.get("instance"))[:40]] = (now, str(value.get("host"))[:80])
        self._peers = kept  # replaced as a whole: another thread reads it
        counted = value.get("streams")
        for lane in self._lanes:
            told = counted.get(lane.wire) if isinstance(counted, dict) else None
            if isinstance(told, dict):
                lane.peer = told

    def _prove(self, value: dict[str, Any]) -> None:
        """Answer a receiver that asks whether we are alive now and not a recording."""
        with contextlib.suppress(KeyError, TypeError, ValueError):
            nonce = bytes.fromhex(value["nonce"])
            if len(nonce) == NONCE_BYTES:
                answer = pack_json(
                    Kind.HELLO, {"instance": self._instance.hex()}, flags=SEALED
                )
                tag = Seal(self._secret, b"welcome", nonce).tag(answer)
                self._socket.send_multipart([zsockets.NONCE_TOPIC + nonce, answer, b"", b"", tag])

    # --- telling --------------------------------------------------------------------------------

    def _state_of(self, lane: OutView, now_ns: int) -> tuple[str, str]:
        if lane.source.reader is None or lane.source.is_missing:
            return "WAITING", lane.source.reason or f"stream {lane.local} was removed"
        if lane.receivers == 0:
            return "WAITING", "nobody receives it"
        state, reason = lane.state(now_ns, True, False)
        if state == "QUIET" and lane.frame_ns and now_ns - lane.frame_ns < 2 * lane.beat.period_ns:
            return "LIVE", lane.why_slow  # slow because it is asked to be
        return state, reason or lane.why_slow

    def snapshot(self) -> dict[str, Any]:
        """Return what the link is doing; see :data:`nightjar.api.streamlink.LINK_KEYS`."""
        now = self._clock.monotonic_ns()
        octets = sum(lane.measure(now) for lane in self._lanes)
        rows = []
        for lane in self._lanes:
            state, reason = self._state_of(lane, now)
            more: dict[str, Any] = {}
            reader = lane.source.reader
            if reader is not None:
                made = reader.geometry
                more = {"shape": list(made.frame_shape), "dtype": str(made.dtype),
                        "depth": made.depth}  # fmt: skip
            if lane.beat.period_ns:
                more["period_ms"] = round(lane.beat.period_ns / 1e6, 3)
            rows.append(lane.snapshot(state, reason, **more))
        receivers = max((lane.receivers for lane in self._lanes), default=0)
        peers = self._peers
        hosts = sorted({host for heard, host in peers.values() if now - heard < _PEER_NS})
        if self._failure:
            state, reason = "ERROR", self._failure
        elif receivers == 0:
            state, reason = "CONNECTING", f"nobody receives on {self._address}"
        else:
            state = "LIVE"
            reason = "; ".join(lane.why_slow for lane in self._lanes if lane.why_slow)
        peer = f"{receivers} receiver{'s' if receivers > 1 else ''}"
        peer += f" ({', '.join(hosts)})" if hosts else ""
        heard = max((heard for heard, _ in peers.values()), default=0)
        return link_snapshot(
            rows, [lane.local for lane in self._lanes], octets, self._trouble, state, reason,
            address=self._address, peer=peer if receivers else None,
            is_sealed=self._seal.is_active, budget=self._budget, wanted_rate=self._rate,
            reconnects=max(0, self._arrivals // max(1, len(self._lanes)) - 1),
            heard_s=(now - heard) / NS_PER_S if heard else None,
        )  # fmt: skip
