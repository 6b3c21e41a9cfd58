# SPDX-License-Identifier: BSD-3-Clause
"""The receiving end of a link of policy ``all``: listens, and puts what comes into shared memory.

The pixels go from the socket straight into the slot of the stream that is made here. Three threads:
one takes connections, one reads the present connection, one marks and reports every quarter second,
so that a connection that has died is known as such although the reader sleeps in it. Who connects
is greeted in a thread of its own: a stranger who says nothing keeps nobody waiting.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from binascii import crc32
from typing import Any

import numpy as np

from nightjar.clock import NS_PER_S, Clock
from nightjar.errors import NightjarError
from nightjard.streamlinkd import hello as greeting
from nightjard.streamlinkd import net
from nightjard.streamlinkd.config import LinkConfig
from nightjard.streamlinkd.counts import Latency
from nightjard.streamlinkd.secret import Seal, new_nonce
from nightjard.streamlinkd.state import (
    HEARTBEAT_NS,
    SILENCE_NS,
    TICK_S,
    Lane,
    Trouble,
    link_snapshot,
)
from nightjard.streamlinkd.target import Target
from nightjard.streamlinkd.wire import (
    FOLLOWED,
    HAS_CRC,
    HEADER_BYTES,
    MOST_FRAMES,
    SEALED,
    SOURCE_MISSING,
    TRAILER_BYTES,
    Header,
    Kind,
    WireError,
    check_body,
    pack_json,
    parse_header,
    parse_json,
    parse_trailer,
)

log = logging.getLogger(__name__)

_REFUSAL_NS = 5 * NS_PER_S
_SCRATCH_BYTES = 1 << 20
_WAKE_BYTES = 256 << 10
_MOST_GREETED = 8  # at a time; others wait


def _behind(parts: list[memoryview], octets: int) -> list[memoryview]:
    """Return what stands behind the first bytes of several pieces."""
    left = []
    for part in parts:
        left.append(part[octets:])
        octets = max(0, octets - len(part))
    return left


def _crc_of(parts: list[memoryview]) -> int:
    crc = 0
    for part in parts:
        crc = crc32(part, crc)
    return crc


class InLane(Lane):
    """One stream that comes in."""

    def __init__(self, link: LinkConfig, local: str, wire: str, clock: Clock) -> None:
        super().__init__(local, wire)
        self.target = Target(link, local, clock)
        self.is_source_missing = False
        self.told_lost = 0

    def announce(self, header: Header, keywords: bytes) -> None:
        """Take what the sender says of the stream before its frames."""
        if header.session != self.session:
            self.session, self.counter = header.session, header.cnt0
        elif header.cnt0 > self.counter:
            # Not taken up where we were: the sender could not.
            self.counts.lost += header.cnt0 - self.counter
            self.counter = header.cnt0
        self.told_lost = 0
        self.target.announce(header, keywords)
        self.reason = self.target.error

    def account(self, header: Header) -> None:
        """Count the frames between the last one and those of a message, which are dealt with."""
        missing = max(0, header.cnt0 - self.counter - 1)
        told = min(missing, max(0, header.lost - self.told_lost))
        self.told_lost = header.lost
        self.counts.lost += told
        self.counts.lost_on_wire += missing - told
        self.counter = header.cnt0 + header.more


class Inbound:
    """One connection from a sender."""

    def __init__(
        self, connection: socket.socket, peer: str, instance: str, lanes: list[InLane | None],
        clock: Clock,
    ) -> None:  # fmt: skip
        self.socket = connection
        self.peer = peer
        self.instance = instance
        self.lanes = lanes
        self.seal = self.back = Seal(None)
        self.over = threading.Event()
        self.thread: threading.Thread | None = None
        self.heard_ns = clock.monotonic_ns()
        self.heard_utc_ns = clock.now_ns()
        self.reported_ns = 0
        self.sent = 0
        self._lowest = 1
        self._clock = clock

    def expect(self, octets: int) -> None:
        """Have the kernel wake us by the handful of packets while so much more is on its way."""
        lowest = min(octets, _WAKE_BYTES) or 1
        if lowest != self._lowest:
            self._lowest = lowest
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, lowest)

    def hear(self) -> None:
        """Note a sign of life."""
        self.heard_ns = self._clock.monotonic_ns()

    def look(self, moved: bool) -> None:
        """Give up a connection that is to end or has died."""
        if self.over.is_set():
            raise net.Closed("the connection was ended here")
        if moved:
            self.hear()
        elif self._clock.monotonic_ns() - self.heard_ns > SILENCE_NS:
            raise net.Closed(f"nothing was heard of {self.peer} for {SILENCE_NS / NS_PER_S:g} s")

    def end(self) -> None:
        """Have the reader end."""
        self.over.set()
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)


class Receiver:
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
        self._lanes = {
            wire: InLane(link, local, wire, clock) for local, wire in link.streams.items()
        }
        self._instance = new_nonce().hex()
        self._stop = threading.Event()
        self._inbound: Inbound | None = None
        self._room_to_greet = threading.Semaphore(_MOST_GREETED)
        self._greeters: set[threading.Thread] = set()
        self._admission = threading.Lock()  # one at a time is looked at, and begun
        self._trouble = Trouble(clock)
        self._latency = Latency()
        self._reason = "not yet listening"
        self._is_failed = False
        self._connections = 0
        self._refusal = ""
        self._refused_ns = 0
        self._heard_ns = 0
        self._heard_utc_ns = 0
        self._scratch = memoryview(bytearray(_SCRATCH_BYTES))
        where = link.address or "*"
        self._address = f"[{where}]:{link.port}" if ":" in where else f"{where}:{link.port}"

    def run(self, stop: threading.Event) -> None:
        """Receive until `stop` is set."""
        self._stop = stop
        for lane in self._lanes.values():
            lane.target.adopt()
            lane.session, lane.counter = lane.target.session, lane.target.counter
        ticker = threading.Thread(target=self._tick, name="ticker")
        ticker.start()
        try:
            while not stop.is_set():
                self._listen()
        finally:
            stop.set()
            for greeter in list(self._greeters):
                greeter.join()
            self._end_inbound()
            ticker.join()
            for lane in self._lanes.values():
                lane.target.close()

    # --- connections ----------------------------------------------------------------------------

    def _listen(self) -> None:
        link = self._link
        try:
            listener = net.listen(link.address, link.port, link.interface)
        except NightjarError as error:
            self._is_failed = True
            self._reason = self._trouble.note(error)
            self._clock.wait(self._stop, 1.0)
            return
        self._is_failed = False
        self._reason = f"waiting for a sender on {self._address}"
        with listener:
            while not self._stop.is_set():
                try:
                    connection, sockaddr = listener.accept()
                except TimeoutError:
                    continue
                except OSError as error:
                    self._trouble.note(f"cannot take a connection: {error.strerror}")
                    self._clock.wait(self._stop, 0.5)
                    continue
                while not self._room_to_greet.acquire(timeout=net.SLICE_S):
                    if self._stop.is_set():
                        break
                else:
                    self._start_greeting(connection, net.text_of(sockaddr))
                    continue
                connection.close()

    def _start_greeting(self, connection: socket.socket, peer: str) -> None:
        greeter = threading.Thread(target=self._greet_and_go, args=(connection, peer), name="greet")
        self._greeters.add(greeter)
        greeter.start()

    def _greet_and_go(self, connection: socket.socket, peer: str) -> None:
        try:
            self._greet(connection, peer)
        finally:
            self._greeters.discard(threading.current_thread())
            self._room_to_greet.release()

    def _greet(self, connection: socket.socket, peer: str) -> None:
        look = greeting.Deadline(
            self._clock, greeting.TIMEOUT_S, self._stop.is_set, f"{peer} did not say hello"
        )
        try:
            net.prepare(connection)
            try:
                hello = greeting.hear_hello(connection, self._secret, look)
            except NightjarError as error:
                self._refuse(connection, peer, error, look)
                return
            with self._admission:
                self._admit(connection, peer, hello, look)
        except net.Closed as error:
            connection.close()
            self._trouble.note(f"{peer}: {error}")
        except OSError as error:
            connection.close()
            self._trouble.note(f"{peer}: {error.strerror}")
        except Exception:  # whatever a stranger sends: it must not end the link of others
            connection.close()
            log.exception("greeting of %s", peer)

    def _admit(
        self, connection: socket.socket, peer: str, hello: greeting.Hello, look: greeting.Deadline
    ) -> None:
        """Answer a hello, and begin to read where it is wanted."""
        try:
            lanes = self._choose(hello)
        except NightjarError as error:
            self._refuse(connection, peer, error, look)
            return
        inbound = Inbound(connection, peer, hello.instance, lanes, self._clock)
        # An eighth of a ring at a time: its readers must not lose more at once.
        most = MOST_FRAMES if self._link.depth is None else max(1, self._link.depth // 8)
        welcome = greeting.fresh_welcome(most)
        for name, lane in zip(hello.streams, lanes, strict=True):
            place = None
            if lane is not None and lane.session:
                place = greeting.Place(lane.session, lane.counter)
            welcome.places.append(place)
            known = ", ".join(self._lanes)
            welcome.reasons.append(
                "" if lane is not None else f"no stream {name} is received; there are: {known}"
            )
        inbound.seal, inbound.back = greeting.welcome_sender(
            connection, self._secret, hello, welcome, look
        )
        self._begin(inbound)

    def _choose(self, hello: greeting.Hello) -> list[InLane | None]:
        present = self._inbound
        if present is not None:
            is_dead = self._clock.monotonic_ns() - present.heard_ns > SILENCE_NS
            if present.instance != hello.instance and not is_dead and not present.over.is_set():
                raise WireError(
                    f"the link is in use by {present.peer}; only one sender at a time is possible"
                )
            self._end_inbound()
        lanes = [self._lanes.get(name) for name in hello.streams]
        if not any(lanes):
            raise WireError(
                f"none of the streams {', '.join(hello.streams)[:200]} is received here; "
                f"there are: {', '.join(self._lanes)}"
            )
        return lanes

    def _refuse(
        self, connection: socket.socket, peer: str, error: NightjarError, look: greeting.Deadline
    ) -> None:
        # What a stranger sends may stand in the message: no line of its own in our log.
        said = error.message.encode("unicode_escape").decode("ascii")
        text = f"{peer} was refused: {said}"
        if error.message != self._refusal:
            log.warning("%s", text)
        self._refusal, self._refused_ns = error.message, self._clock.monotonic_ns()
        self._trouble.bad(NightjarError(text))
        with contextlib.suppress(net.Closed, OSError):
            greeting.refuse(connection, error.message, look)
        connection.close()

    def _begin(self, inbound: Inbound) -> None:
        self._connections += 1
        inbound.thread = threading.Thread(target=self._serve, args=(inbound,), name="frames")
        self._inbound = inbound
        inbound.thread.start()
        log.info("connected: %s", inbound.peer)

    def _end_inbound(self) -> None:
        inbound = self._inbound
        if inbound is not None:
            inbound.end()
            if inbound.thread is not None:
                inbound.thread.join()
            self._inbound = None

    # --- reading --------------------------------------------------------------------------------

    def _serve(self, inbound: Inbound) -> None:
        why = ""
        try:
            self._read(inbound)
        except net.Closed as error:
            why = str(error)
        except NightjarError as error:
            why = self._trouble.bad(error)
            log.warning("%s: %s; the connection is made anew", inbound.peer, why)
        except Exception as error:
            why = f"internal error: {error}"
            log.exception("reading from %s", inbound.peer)
        finally:
            for lane in inbound.lanes:
                if lane is not None:
                    lane.target.abandon()
            inbound.over.set()
            inbound.socket.close()
            if self._inbound is inbound:
                self._inbound = None
            self._reason = f"waiting for a sender on {self._address}: {why}"
            self._trouble.note(f"{inbound.peer}: {why}")
            log.info("connection of %s has ended: %s", inbound.peer, why)

    def _read(self, inbound: Inbound) -> None:
        connection, look = inbound.socket, inbound.look
        head = bytearray(HEADER_BYTES)
        view = memoryview(head)
        expected = 0
        is_here = False  # the header came with the message before
        while True:
            if not is_here:
                net.receive_into(connection, view, look)
            is_here = False
            inbound.hear()
            header = parse_header(head)
            expected += 1
            if header.sequence != expected:
                raise WireError(f"message {header.sequence} came where {expected} was due")
            if header.is_sealed != inbound.seal.is_active:
                raise WireError("a message without the seal that was agreed")
            body = bytearray(header.body_bytes)
            if body:
                net.receive_into(connection, memoryview(body), look)
                check_body(header, body)
            if header.kind == Kind.FRAME:
                is_here = self._frame(inbound, header, head, bytes(body))
                continue
            if header.is_sealed:
                tag = bytearray(inbound.seal.tag_bytes)
                net.receive_into(connection, memoryview(tag), look)
                inbound.seal.check(tag, head, body)
            if header.kind == Kind.END:
                raise net.Closed(f"the sender ended it: {parse_json(header, body).get('reason')}")
            if header.kind in (Kind.GEOMETRY, Kind.KEYWORDS, Kind.HEARTBEAT):
                self._note(inbound, header, bytes(body))

    def _lane(self, inbound: Inbound, header: Header) -> InLane:
        lane = inbound.lanes[header.stream] if header.stream < len(inbound.lanes) else None
        if lane is None:
            raise WireError(f"stream number {header.stream} was not agreed upon")
        return lane

    def _note(self, inbound: Inbound, header: Header, body: bytes) -> None:
        lane = self._lane(inbound, header)
        if header.kind == Kind.GEOMETRY:
            lane.announce(header, body)
            lane.is_source_missing = False
        elif header.kind == Kind.KEYWORDS:
            if lane.target.fits(header):
                lane.target.set_keywords(body)
        else:
            lane.is_source_missing = bool(header.flags & SOURCE_MISSING)
            lane.target.check()
            lane.target.ready()
            lane.reason = lane.target.error

    def _frame(self, inbound: Inbound, header: Header, head: bytearray, body: bytes) -> bool:
        """Take the frames of a message; return whether `head` is that of the next one now."""
        lane = self._lane(inbound, header)
        target = lane.target
        if not target.fits(header):
            raise WireError("a frame of another stream than was announced")
        count, octets = header.frames, header.payload_bytes // header.frames
        old = min(count, max(0, lane.counter + 1 - header.cnt0))  # came before
        is_kept = old < count and target.ready()
        connection, look, seal = inbound.socket, inbound.look, inbound.seal
        end = bytearray(TRAILER_BYTES + seal.tag_bytes)
        followed = bool(header.flags & FOLLOWED)
        own = bytes(head) if seal.is_active else b""  # `head` is read into
        following = [memoryview(head)] if followed else []
        inbound.expect(header.payload_bytes if followed else 0)
        if is_kept:
            parts = target.begin_run(count) if header.more else [target.begin()]
            net.receive_all(connection, [*parts, memoryview(end), *following], look)
        else:
            parts = [self._drain(inbound, header.payload_bytes, keep=seal.is_active)]
            net.receive_all(connection, [memoryview(end), *following], look)
        trailer, tag = end[:TRAILER_BYTES], end[TRAILER_BYTES:]
        torn, crc = parse_trailer(trailer, count)
        whole = _behind(parts, torn * octets) if torn else parts
        if seal.is_active:
            seal.check(tag, own, body, *whole, trailer)
        if is_kept and torn < count and header.flags & HAS_CRC and _crc_of(whole) != crc:
            raise WireError(f"{lane.wire}: the pixels of frame {header.cnt0} were changed "
                            f"on their way: their checksum is wrong")  # fmt: skip
        lane.counts.duplicated += old
        if old == count:
            return followed
        lane.account(header)
        gone = max(torn, old)
        lane.counts.torn += gone - old
        if gone == count:
            target.abandon()
        elif is_kept:
            written_ns = self._publish(target, header, body, gone)
            lane.counts.frames += count - gone
            lane.counts.bytes += (count - gone) * octets
            lane.frame_ns = inbound.heard_ns
            if written_ns:
                self._latency.add(self._clock.now_ns() - written_ns)
        else:
            lane.counts.dropped += count - gone
            lane.reason = target.error
        return followed

    @staticmethod
    def _publish(target: Target, header: Header, body: bytes, gone: int) -> int:
        """Publish the frames of a message but for the first; return when the last was written."""
        if not header.more:
            target.publish(header, body)
            return header.writetime_ns
        times, keywords = body[: header.stamp_bytes], body[header.stamp_bytes :]
        stamps = np.frombuffer(times, "<u8").reshape(2, header.frames, 2)
        target.publish_run(header, stamps, keywords, gone)
        seconds, rest = stamps[1, -1].tolist()
        return int(seconds) * NS_PER_S + int(rest)

    def _drain(self, inbound: Inbound, count: int, *, keep: bool) -> memoryview:
        # A seal covers the pixels, so those of a frame that nobody wants are needed for it, too.
        if keep:
            kept = memoryview(bytearray(count))
            net.receive_into(inbound.socket, kept, inbound.look)
            return kept
        while count:
            part = self._scratch[: min(count, len(self._scratch))]
            net.receive_into(inbound.socket, part, inbound.look)
            count -= len(part)
        return memoryview(b"")

    # --- marking and reporting ------------------------------------------------------------------

    def _tick(self) -> None:
        while not self._clock.wait(self._stop, TICK_S):
            now = self._clock.monotonic_ns()
            inbound = self._inbound
            if inbound is not None:
                if inbound.heard_ns > self._heard_ns:
                    self._heard_utc_ns = self._clock.now_ns() - (now - inbound.heard_ns)
                    self._heard_ns = inbound.heard_ns
                if now - inbound.reported_ns >= HEARTBEAT_NS:
                    inbound.reported_ns = now
                    self._report(inbound)
            for lane in self._lanes.values():
                state, _ = self._state_of(lane, now)
                mark = {"ERROR": "LIVE", "WAITING": "STALE"}.get(state, state)
                lane.target.mark(mark, self._heard_utc_ns, lane.counts.lost + lane.counts.torn)

    def _report(self, inbound: Inbound) -> None:
        """Tell the sender that we live and what we count; never waits for it."""
        streams = []
        for lane in inbound.lanes:
            streams.append(
                None if lane is None else {
                    "frames": lane.counts.frames, "lost": lane.counts.lost,
                    "counter": lane.counter, "reason": lane.reason,
                }
            )  # fmt: skip
        inbound.sent += 1
        flags = SEALED if inbound.back.is_active else 0
        message = pack_json(
            Kind.REPORT, {"streams": streams}, flags=flags, sequence=inbound.sent
        )
        data = message + inbound.back.tag(message)
        try:
            sent = inbound.socket.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            inbound.sent -= 1
            return
        except OSError:
            return  # the reader sees it, too
        if sent != len(data):
            inbound.end()

    # --- telling --------------------------------------------------------------------------------

    def _is_stale(self, now_ns: int) -> bool:
        return self._heard_ns > 0 and now_ns - self._heard_ns > SILENCE_NS

    def _state_of(self, lane: InLane, now_ns: int) -> tuple[str, str]:
        inbound = self._inbound
        is_connected = inbound is not None and lane in inbound.lanes
        state, reason = lane.state(now_ns, is_connected, self._is_stale(now_ns))
        if state == "QUIET" and lane.is_source_missing:
            reason = f"the sender has no stream for {lane.wire}"
        return state, reason

    def snapshot(self) -> dict[str, Any]:
        """Return what the link is doing; see :data:`nightjar.api.streamlink.LINK_KEYS`."""
        now = self._clock.monotonic_ns()
        octets = sum(lane.measure(now) for lane in self._lanes.values())
        inbound, is_stale = self._inbound, self._is_stale(now)
        rows = []
        for lane in self._lanes.values():
            state, reason = self._state_of(lane, now)
            shape, dtype, depth = lane.target.geometry
            rows.append(lane.snapshot(state, reason, shape=shape, dtype=dtype, depth=depth))
        if self._is_failed:
            state, reason = "ERROR", self._reason
        elif inbound is None and self._refusal and now - self._refused_ns < _REFUSAL_NS:
            state, reason = "ERROR", f"a sender is refused: {self._refusal}"
        elif is_stale:
            state, reason = "STALE", f"nothing heard for {(now - self._heard_ns) / NS_PER_S:.0f} s"
            reason += "" if inbound is not None else f"; {self._reason}"
        elif inbound is None:
            state, reason = "CONNECTING", self._reason
        else:
            state, reason = "LIVE", ""
        return link_snapshot(
            rows, [lane.local for lane in self._lanes.values()], octets, self._trouble,
            state, reason,
            address=self._address, peer=inbound.peer if inbound is not None else None,
            is_sealed=self._secret is not None, reconnects=max(0, self._connections - 1),
            heard_s=(now - self._heard_ns) / NS_PER_S if self._heard_ns else None,
            latency_ms=self._latency.median_ms(),
        )  # fmt: skip

    def set(self, rate: float | None, budget: float | None) -> dict[str, Any]:
        """Refuse: only senders of policy latest have a rate."""
        raise NightjarError(f"link {self._link.name} has no rate and no budget")
