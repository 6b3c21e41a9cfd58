# SPDX-License-Identifier: BSD-3-Clause
"""The receiving end of a link of policy ``latest``: the newest frame, never a burst of old ones.

What comes is taken out of the socket at once, and of each stream the newest is kept. It is
published when at least half of the sender's period has passed since the last one, so that what
piled up somewhere during a stall does not rush through the display afterwards.
"""

from __future__ import annotations

import logging
import socket as sockets
import threading
from binascii import crc32
from typing import Any

import zmq

from nightjar.clock import NS_PER_S, Clock
from nightjar.errors import NightjarError
from nightjard.streamlinkd import net, zsockets
from nightjard.streamlinkd.config import LinkConfig
from nightjard.streamlinkd.counts import Latency
from nightjard.streamlinkd.secret import NONCE_BYTES, Seal, new_nonce
from nightjard.streamlinkd.state import (
    HEARTBEAT_NS,
    SILENCE_NS,
    TICK_S,
    Lane,
    Trouble,
    link_snapshot,
)
from nightjard.streamlinkd.target import LARGEST_STREAM, Target
from nightjard.streamlinkd.wire import (
    HAS_CRC,
    HEADER_BYTES,
    SEALED,
    SOURCE_MISSING,
    Header,
    Kind,
    WireError,
    check_body,
    pack_json,
    parse_header,
    parse_json,
)

log = logging.getLogger(__name__)

_KEEP_NS = 30 * NS_PER_S
_SOON_NS = HEARTBEAT_NS * 8 // 10
_TRY_NS = 3 * NS_PER_S  # without a sign of the sender, before another of its addresses is tried
Parts = list[Any]


class InView(Lane):
    """One stream of which the newest frames come in."""

    def __init__(self, link: LinkConfig, local: str, wire: str, clock: Clock) -> None:
        super().__init__(local, wire)
        self.topic = zsockets.topic_of(wire)
        self.target = Target(link, local, clock)
        self.life = -1
        self.sequence = 0
        self.period_ns = 0
        self.skipped = 0
        self.is_source_missing = False
        self.pending: tuple[Header, Parts] | None = None

    @property
    def due_ns(self) -> int:
        """When the next frame may be published."""
        return self.frame_ns + self.period_ns // 2 if self.frame_ns else 0


class Subscriber:
    """The engine; :meth:`run` lasts until its event is set.

    Parameters
    ----------
    link, secret
        The configuration and the content of its `secret_file`.
    clock
        System clock, or a test's.
    """

    def __init__(self, link: LinkConfig, secret: bytes | None, clock: Clock) -> None:
        assert link.address is not None
        self._link, self._secret, self._clock = link, secret, clock
        self._host = link.address
        self._lanes = {
            zsockets.topic_of(wire): InView(link, local, wire, clock)
            for local, wire in link.streams.items()
        }
        self._instance = new_nonce().hex()
        self._nonce = new_nonce()
        self._seal: Seal | None = Seal(None) if secret is None else None
        self._sender = ""
        self._trouble = Trouble(clock)
        self._latency = Latency()
        self._socket: Any = None
        self._addresses: list[net.Address] = []
        self._present = self._good = ""
        self._tried_ns = self._heard_ns = self._said_ns = self._ticked_ns = 0
        self._heard_utc_ns = 0
        self._was_away = False
        self._returns = 0
        self._failure = ""
        self._reason = "not yet connected"
        host = f"[{self._host}]" if ":" in self._host else self._host
        self._address = f"{host}:{link.port}"

    def run(self, stop: threading.Event) -> None:
        """Receive until `stop` is set."""
        for lane in self._lanes.values():
            lane.target.adopt()
            lane.session, lane.counter = lane.target.session, lane.target.counter
        context = zmq.Context()
        largest = self._link.largest_stream or LARGEST_STREAM
        self._socket = zsockets.subscriber(
            context, self._link.interface, len(self._lanes), largest
        )
        try:
            for topic in self._lanes:
                self._socket.send(b"\1" + topic)
            while not stop.is_set():
                self._step()
        finally:
            self._socket.close(0)
            context.destroy(0)
            for lane in self._lanes.values():
                lane.target.close()

    def set(self, rate: float | None, budget: float | None) -> dict[str, Any]:
        """Refuse: only senders have a rate."""
        raise NightjarError(f"link {self._link.name} receives: rate and budget are its sender's")

    # --- the loop -------------------------------------------------------------------------------

    def _step(self) -> None:
        now = self._clock.monotonic_ns()
        self._keep_connected(now)
        if now - self._said_ns >= HEARTBEAT_NS:
            self._said_ns = now
            self._report()
        if now - self._ticked_ns >= TICK_S * NS_PER_S:
            self._ticked_ns = now
            self._mark(now)
        due = [lane.due_ns for lane in self._lanes.values() if lane.pending is not None]
        until_ns = min([now + round(TICK_S * NS_PER_S), *due])
        self._socket.poll(-(-max(0, until_ns - now) // 1_000_000))
        self._drain()
        now = self._clock.monotonic_ns()
        for lane in self._lanes.values():
            if lane.pending is not None and now >= lane.due_ns:
                header, parts = lane.pending
                lane.pending = None
                try:
                    self._publish(lane, header, parts)
                except NightjarError as error:
                    lane.target.abandon()
                    self._bad(error)

    def _keep_connected(self, now_ns: int) -> None:
        """Connect, and go to the next address of the name where nothing is heard."""
        # An address that was good once is kept for long: ZMQ connects to it again by itself.
        patience_ns = _KEEP_NS if self._present and self._present == self._good else _TRY_NS
        if now_ns - max(self._heard_ns, self._tried_ns) < patience_ns and self._tried_ns:
            return
        self._tried_ns = now_ns
        try:
            found = net.resolve(self._host, self._link.port)
        except NightjarError as error:
            self._reason = self._trouble.note(error)
            return
        if not self._addresses:
            self._addresses = found
        self._addresses = self._addresses[1:]
        if not self._addresses:
            self._addresses = found
        chosen = zsockets.endpoint(self._addresses[0])
        if chosen != self._present:
            if self._present:
                self._socket.disconnect(self._present)
            self._socket.connect(chosen)
            self._present = chosen
        self._reason = f"no sender is heard at {chosen.removeprefix('tcp://')}"

    def _drain(self) -> None:
        while True:
            try:
                parts = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            try:
                self._take([part.buffer for part in parts])
            except NightjarError as error:
                self._bad(error)

    def _bad(self, error: NightjarError) -> None:
        self._failure = self._trouble.bad(error)
        if self._secret is not None:
            # Perhaps the sender was started anew: ask it again.
            self._seal = None
            self._nonce = new_nonce()
            self._said_ns = min(self._said_ns, self._clock.monotonic_ns() - _SOON_NS)

    # --- messages -------------------------------------------------------------------------------

    def _take(self, parts: Parts) -> None:
        topic = bytes(parts[0])
        if len(parts) not in (2, 3, 4, 5) or len(parts[1]) < HEADER_BYTES:
            raise WireError(f"a message of {len(parts)} parts")
        header = parse_header(parts[1])
        if topic.startswith(zsockets.NONCE_TOPIC):
            self._proved(topic, header, parts)
            return
        lane = self._lanes.get(topic)
        if lane is None:
            return  # subscriptions match by prefix
        if header.is_sealed != (self._secret is not None):
            raise WireError(
                "the sender seals its messages: give this end its secret_file"
                if header.is_sealed
                else "this link has a secret_file, but the sender does not seal its messages"
            )
        if self._seal is None:
            return  # not yet known whether it is the sender or a recording
        if header.kind == Kind.FRAME:
            self._keep(lane, header, parts)
            return
        self._check_seal(parts)
        self._hear()
        if header.kind == Kind.HEARTBEAT:
            if len(parts) < 3:
                raise WireError(f"{lane.wire}: a sign of life without keywords")
            body = bytes(parts[2])
            check_body(header, body)
            lane.is_source_missing = bool(header.flags & SOURCE_MISSING)
            self._reckon(lane, header)
            lane.target.check()
            if header.session:
                self._have(lane, header, body)
                lane.target.set_keywords(body)
        elif header.kind == Kind.END:
            said = parse_json(header, bytes(parts[1])[HEADER_BYTES:])
            self._reason = f"the sender ended it: {said.get('reason')}"
            self._heard_ns -= 2 * SILENCE_NS

    def _check_seal(self, parts: Parts) -> None:
        if self._secret is not None and self._seal is not None:
            self._seal.check(parts[-1], *parts[:-1])

    def _hear(self) -> None:
        self._heard_ns = self._clock.monotonic_ns()
        self._heard_utc_ns = self._clock.now_ns()
        self._failure = ""
        self._good = self._present
        if self._was_away:
            self._was_away = False
            self._returns += 1

    def _reckon(self, lane: InView, header: Header) -> None:
        """Count the messages that are missing before this one, which is not counted."""
        if header.stream != lane.life:
            lane.life = header.stream  # the sender was started anew
            lane.sequence = header.sequence
        missing = header.sequence - lane.sequence
        if missing > 0:
            lane.counts.lost_on_wire += missing
        lane.sequence = max(lane.sequence, header.sequence)
        lane.period_ns = header.period_ns

    def _keep(self, lane: InView, header: Header, parts: Parts) -> None:
        """Keep a frame as the newest of its stream."""
        if len(parts) < 4 or header.more or len(parts[3]) != header.payload_bytes:
            raise WireError(f"{lane.wire}: a frame of {len(parts)} parts")
        is_old = header.stream == lane.life and header.sequence <= lane.sequence
        if is_old:
            if self._secret is not None:
                raise WireError(f"{lane.wire}: message {header.sequence} came again")
            lane.counts.duplicated += 1
            return
        self._reckon(lane, header._replace(sequence=header.sequence - 1))
        lane.sequence = header.sequence
        if self._secret is None:
            self._hear()
        if lane.pending is not None:
            lane.skipped += 1
        lane.pending = header, parts

    def _have(self, lane: InView, header: Header, keywords: bytes) -> bool:
        if header.session != lane.session or not lane.target.fits(header):
            if header.session != lane.session:
                lane.session, lane.counter = header.session, 0
            lane.target.announce(header, keywords)
        is_ready = lane.target.ready()
        lane.reason = lane.target.error
        return is_ready

    def _publish(self, lane: InView, header: Header, parts: Parts) -> None:
        self._check_seal(parts)
        body, pixels = bytes(parts[2]), parts[3]
        check_body(header, body)
        if header.flags & HAS_CRC and crc32(pixels) != header.payload_crc:
            raise WireError(
                f"{lane.wire}: the pixels of frame {header.cnt0} were changed on their way"
            )
        self._hear()
        lane.is_source_missing = False
        if not self._have(lane, header, body):
            lane.counts.dropped += 1
            return
        if header.cnt0 <= lane.counter:
            return  # sent again for somebody who came later
        lane.target.begin()[:] = pixels
        lane.target.publish(header, body)
        lane.counter = header.cnt0
        lane.frame_ns = self._clock.monotonic_ns()
        lane.counts.frames += 1
        lane.counts.bytes += len(pixels)
        if header.writetime_ns:
            self._latency.add(self._clock.now_ns() - header.writetime_ns)

    # --- what is said back ----------------------------------------------------------------------

    def _report(self) -> None:
        value: dict[str, Any] = {
            "instance": self._instance, "host": sockets.gethostname(),
            "streams": {
                lane.wire: {"frames": lane.counts.frames, "lost": lane.counts.lost_on_wire}
                for lane in self._lanes.values()
            },
        }  # fmt: skip
        if self._secret is not None and self._seal is None:
            value["nonce"] = self._nonce.hex()
            self._socket.send(b"\1" + zsockets.NONCE_TOPIC + self._nonce)
        flags = SEALED if self._secret is not None else 0
        message = pack_json(Kind.REPORT, value, flags=flags)
        self._socket.send(message + Seal(self._secret, b"report").tag(message))

    def _proved(self, topic: bytes, header: Header, parts: Parts) -> None:
        """Take the sender's proof that it is alive now: from here on its messages count."""
        if self._seal is not None or topic[1:] != self._nonce or self._secret is None:
            return
        answer = bytes(parts[1])
        Seal(self._secret, b"welcome", self._nonce).check(parts[-1], answer)
        value = parse_json(header, answer[HEADER_BYTES:])
        try:
            instance = bytes.fromhex(value["instance"])
        except (KeyError, TypeError, ValueError):
            instance = b""
        if len(instance) != NONCE_BYTES:
            raise WireError("the sender's proof is damaged")
        self._seal = Seal(self._secret, b"latest", instance)
        self._socket.send(b"\0" + zsockets.NONCE_TOPIC + self._nonce)

    # --- telling --------------------------------------------------------------------------------

    def _is_stale(self, now_ns: int) -> bool:
        return self._heard_ns > 0 and now_ns - self._heard_ns > SILENCE_NS

    def _state_of(self, lane: InView, now_ns: int) -> tuple[str, str]:
        state, reason = lane.state(now_ns, self._heard_ns > 0, self._is_stale(now_ns))
        if state == "QUIET" and lane.is_source_missing:
            reason = f"the sender has no stream for {lane.wire}"
        elif state == "QUIET" and lane.frame_ns and now_ns - lane.frame_ns < 2 * lane.period_ns:
            return "LIVE", ""  # slow because it is asked to be
        return state, reason

    def _mark(self, now_ns: int) -> None:
        self._was_away = self._was_away or self._is_stale(now_ns)
        for lane in self._lanes.values():
            state, _ = self._state_of(lane, now_ns)
            mark = {"ERROR": "LIVE", "WAITING": "STALE"}.get(state, state)
            lane.target.mark(mark, self._heard_utc_ns, lane.counts.lost_on_wire)

    def snapshot(self) -> dict[str, Any]:
        """Return what the link is doing; see :data:`nightjar.api.streamlink.LINK_KEYS`."""
        now = self._clock.monotonic_ns()
        octets = sum(lane.measure(now) for lane in self._lanes.values())
        rows = []
        for lane in self._lanes.values():
            state, reason = self._state_of(lane, now)
            shape, dtype, depth = lane.target.geometry
            period_ms = round(lane.period_ns / 1e6, 3) if lane.period_ns else None
            rows.append(
                lane.snapshot(
                    state, reason, shape=shape, dtype=dtype, depth=depth, period_ms=period_ms
                )
            )
        heard_s = (now - self._heard_ns) / NS_PER_S if self._heard_ns else None
        if self._failure:
            state, reason = "ERROR", self._failure
        elif heard_s is None:
            state, reason = "CONNECTING", self._reason
        elif self._is_stale(now):
            state, reason = "STALE", f"nothing heard for {heard_s:.0f} s; {self._reason}"
        else:
            state, reason = "LIVE", ""
        return link_snapshot(
            rows, [lane.local for lane in self._lanes.values()], octets, self._trouble,
            state, reason,
            address=self._address,
            peer=self._present.removeprefix("tcp://") if heard_s is not None else None,
            is_sealed=self._secret is not None, reconnects=self._returns, heard_s=heard_s,
            latency_ms=self._latency.median_ms(),
        )  # fmt: skip
