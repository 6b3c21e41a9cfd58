# SPDX-License-Identifier: BSD-3-Clause
"""The sending end of a link of policy ``all``: connects, and sends every frame or counts it.

The pixels go from the ring in shared memory straight into the socket. Whether the writer came round
to the slot meanwhile is looked at afterwards and said in the trailer. A slow network holds up the
sending, then the ring runs over, and what was overwritten is counted and told. After a connection
was lost, the receiver says up to which frame it has each stream, and it goes on from there as far
as the ring reaches back. One thread per stream, one that listens to reports, one that connects.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import Any

from nightjar.clock import NS_PER_S, Clock
from nightjar.errors import NightjarError
from nightjar.streams.reader import Wake
from nightjard.streamlinkd import hello as greeting
from nightjard.streamlinkd import net
from nightjard.streamlinkd.config import LinkConfig
from nightjard.streamlinkd.outbound import Outbound
from nightjard.streamlinkd.secret import new_nonce
from nightjard.streamlinkd.source import Source
from nightjard.streamlinkd.state import (
    FIRST_PAUSE_S,
    HEARTBEAT_NS,
    LONGEST_PAUSE_S,
    TICK_S,
    Lane,
    Trouble,
    link_snapshot,
)
from nightjard.streamlinkd.wire import (
    HAS_CRC,
    HEADER_BYTES,
    SEALED,
    SOURCE_MISSING,
    Header,
    Kind,
    WireError,
    parse_header,
    parse_json,
)

log = logging.getLogger(__name__)

_WAIT_S = 0.2
# Several small frames that wait go in one message, as many as make up for what a message costs. No
# more: bare sendmsg and recvmsg_into move half a megabyte at a time at 6 GB/s, five at a time at
# 4.5: both ends then work out of the processor's caches no more.
_MESSAGE_BYTES = 1 << 20
_SHORT_NS, _LONG_NS = 4_000_000, 12_000_000


class OutLane(Lane):
    """One stream that goes out."""

    def __init__(self, link: LinkConfig, local: str, wire: str, clock: Clock) -> None:
        super().__init__(local, wire)
        self.source = Source(local, link.folder, clock)
        self.place: greeting.Place | None = None
        self.refusal = ""
        self.told_lost = 0


class Sender:
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
        self._lanes = [OutLane(link, local, wire, clock) for local, wire in link.streams.items()]
        self._flags = HAS_CRC if link.checksum == "full" and secret is None else 0
        self._instance = new_nonce().hex()
        self._stop = threading.Event()
        self._outbound: Outbound | None = None
        self._trouble = Trouble(clock)
        self._reason = "not yet connected"
        self._is_refused = False
        self._connections = 0
        self._heard_ns = 0
        host = f"[{self._host}]" if ":" in self._host else self._host
        self._address = f"{host}:{link.port}"

    def run(self, stop: threading.Event) -> None:
        """Send until `stop` is set."""
        self._stop = stop
        pause_s = FIRST_PAUSE_S
        while not stop.is_set():
            started_ns = self._clock.monotonic_ns()
            outbound = self._connect()
            if outbound is not None:
                self._serve(outbound)
                if self._clock.monotonic_ns() - started_ns > 2 * NS_PER_S:
                    pause_s = FIRST_PAUSE_S
            self._clock.wait(stop, pause_s)
            pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)

    # --- connecting -----------------------------------------------------------------------------

    def _connect(self) -> Outbound | None:
        link, look = self._link, greeting.Deadline(
            self._clock, greeting.TIMEOUT_S, self._stop.is_set,
            f"{self._address} takes the connection but does not answer",
        )  # fmt: skip
        try:
            connection = net.connect(
                self._host, link.port, link.interface, greeting.TIMEOUT_S
            )
        except (NightjarError, OSError) as error:
            self._fail(getattr(error, "message", str(error)), is_refused=False)
            return None
        try:
            net.prepare(connection)
            peer = net.text_of(connection.getpeername())
            outbound = Outbound(connection, peer, self._clock)
            said = greeting.Hello(
                link.name, self._instance, new_nonce(), [lane.wire for lane in self._lanes]
            )
            welcome, outbound.seal, outbound.back = greeting.say_hello(
                connection, self._secret, said, look
            )
        except greeting.NotWanted as error:
            self._fail(f"{self._address} refuses: \"{error.message}\"", is_refused=True)
        except WireError as error:
            self._trouble.bad(error)
            self._fail(f"{self._address}: {error.message}", is_refused=True)
        except (net.Closed, OSError) as error:
            self._fail(f"{self._address}: {error}", is_refused=False)
        else:
            outbound.heard_ns = self._clock.monotonic_ns()
            outbound.most_frames = welcome.most
            for lane, place, reason in zip(
                self._lanes, welcome.places, welcome.reasons, strict=True
            ):
                lane.place, lane.refusal, lane.reason = place, reason, reason
            return outbound
        connection.close()
        return None

    def _fail(self, reason: str, *, is_refused: bool) -> None:
        if reason != self._reason:
            log.warning("not connected: %s", reason)
        self._reason, self._is_refused = reason, is_refused
        self._trouble.note(reason)

    def _serve(self, outbound: Outbound) -> None:
        """Keep one connection until it ends."""
        self._connections += 1
        self._is_refused = False
        self._outbound = outbound
        log.info("connected: %s", outbound.peer)
        threads = [
            threading.Thread(target=self._guarded, args=(self._feed, outbound, index), name=name)
            for index, name in enumerate(lane.local for lane in self._lanes)
            if not self._lanes[index].refusal
        ]
        threads.append(
            threading.Thread(target=self._guarded, args=(self._listen, outbound), name="reports")
        )
        for thread in threads:
            thread.start()
        with contextlib.suppress(net.Closed):
            self._beat(outbound)
        outbound.end("this end is stopping")
        for thread in threads:
            thread.join()
        outbound.socket.close()
        self._outbound = None
        self._reason = f"connecting to {self._address}: {outbound.why}"
        self._trouble.note(f"{outbound.peer}: {outbound.why}")
        log.info("connection to %s has ended: %s", outbound.peer, outbound.why)

    def _guarded(self, work: Any, outbound: Outbound, *arguments: Any) -> None:
        try:
            work(outbound, *arguments)
        except net.Closed as error:
            outbound.end(str(error))
        except NightjarError as error:
            outbound.end(self._trouble.bad(error))
        except Exception as error:
            log.exception("link to %s", outbound.peer)
            outbound.end(f"internal error: {error}")

    def _beat(self, outbound: Outbound) -> None:
        """Send a sign of life each second, until the connection or this end ends."""
        next_ns = 0
        while not outbound.over.is_set() and not self._clock.wait(self._stop, TICK_S):
            outbound.look(False)
            now = self._clock.monotonic_ns()
            if now < next_ns:
                continue
            next_ns = now + HEARTBEAT_NS
            for index, lane in enumerate(self._lanes):
                if not lane.refusal:
                    self._sign(outbound, index)
        if self._stop.is_set() and not outbound.over.is_set():
            outbound.send_json(Kind.END, {"reason": "the link was stopped"})

    def _sign(self, outbound: Outbound, index: int) -> None:
        """Send a sign of life of one stream."""
        lane = self._lanes[index]
        flags = SOURCE_MISSING if lane.source.reader is None or lane.source.is_missing else 0
        outbound.send(
            Header(
                Kind.HEARTBEAT, flags, index, 1, 1, size0=1, session=lane.session,
                cnt0=lane.counter, lost=lane.told_lost,
            )
        )  # fmt: skip

    def _listen(self, outbound: Outbound) -> None:
        """Take the receiver's reports."""
        head = bytearray(HEADER_BYTES)
        expected = 0
        while True:
            net.receive_into(outbound.socket, memoryview(head), outbound.look)
            header = parse_header(head)
            expected += 1
            if header.kind != Kind.REPORT or header.sequence != expected:
                raise WireError(f"message {header.sequence} came where report {expected} was due")
            body = bytearray(header.body_bytes)
            net.receive_into(outbound.socket, memoryview(body), outbound.look)
            tag = bytearray(outbound.back.tag_bytes)
            net.receive_into(outbound.socket, memoryview(tag), outbound.look)
            outbound.back.check(tag, head, body)
            outbound.heard_ns = self._heard_ns = self._clock.monotonic_ns()
            reports = parse_json(header, body).get("streams")
            if isinstance(reports, list):
                for lane, report in zip(self._lanes, reports, strict=False):
                    if isinstance(report, dict):
                        lane.peer = report
                        reason = str(report.get("reason") or "")[:300]
                        lane.reason = f"the receiver says: {reason}" if reason else lane.refusal

    # --- sending --------------------------------------------------------------------------------

    def _feed(self, outbound: Outbound, index: int) -> None:
        """Send the frames of one stream."""
        lane = self._lanes[index]
        source = lane.source
        try:
            base = source.open(lane.place, is_known=lane.session != 0)
            while base is None:
                self._clock.wait(outbound.over, _WAIT_S)
                outbound.look(False)
                base = source.open(lane.place, is_known=lane.session != 0)
            self._announce(outbound, index, base)
            while True:
                self._follow(outbound, index)
        finally:
            source.close()

    def _announce(self, outbound: Outbound, index: int, base: int) -> None:
        lane, source = self._lanes[index], self._lanes[index].source
        lane.session, lane.counter, lane.told_lost = source.session, base, 0
        header = source.header(Kind.GEOMETRY, index)
        outbound.send(header._replace(cnt0=base), source.keywords)

    def _follow(self, outbound: Outbound, index: int) -> None:
        """Send frames until the stream is made anew or there is none to send for a while."""
        lane, source = self._lanes[index], self._lanes[index].source
        reader = source.reader
        assert reader is not None
        known = source.header(Kind.FRAME, index, self._flags | self._sealed(outbound))
        has_crc, counts, clock = bool(self._flags), lane.counts, self._clock
        octets = reader.geometry.frame_bytes
        limit = max(1, min(outbound.most_frames, _MESSAGE_BYTES // octets))
        most = 1
        while not outbound.over.is_set():
            frames = reader.next_frames(most)
            now = clock.monotonic_ns()
            if frames is None:
                if outbound.owes:
                    self._sign(outbound, index)
                keywords = source.changed_keywords()
                if keywords:
                    outbound.send(source.header(Kind.KEYWORDS, index), keywords)
                wake = reader.wait(_WAIT_S, outbound.over)
                if wake is Wake.FRAME:
                    continue
                source.is_missing = reader.is_removed()
                if wake is Wake.REPLACED and source.relink():
                    self._announce(outbound, index, 0)
                    return
                continue
            first, count = frames.first, frames.count
            if first.counter <= lane.counter:
                source.went_back()
                self._announce(outbound, index, first.counter - 1)
                known = known._replace(session=source.session)
            missing = first.counter - lane.counter - 1
            counts.lost += missing
            lane.told_lost += missing
            torn = outbound.send_frames(
                known, frames, lane.told_lost, source.changed_keywords(),
                frames.data.data.cast("B"), reader, has_crc, reader.unread > 0,
            )  # fmt: skip
            lane.counter = frames.last_counter
            lane.frame_ns = now
            counts.frames += count - torn
            counts.bytes += (count - torn) * octets
            counts.torn += torn
            if count == most:
                lasted = clock.monotonic_ns() - now
                if lasted < _SHORT_NS:
                    most = min(limit, 2 * most)
                elif lasted > _LONG_NS:
                    most = max(1, most // 2)
            # A file that was replaced is read to its end: nobody would count what it still holds.
            if reader.unread < 2 and source.relink_now_and_then(now):
                self._announce(outbound, index, 0)
                return
        outbound.look(False)

    def _sealed(self, outbound: Outbound) -> int:
        return SEALED if outbound.seal.is_active else 0

    # --- telling --------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """Return what the link is doing; see :data:`nightjar.api.streamlink.LINK_KEYS`."""
        now = self._clock.monotonic_ns()
        octets = sum(lane.measure(now) for lane in self._lanes)
        outbound = self._outbound
        rows = []
        for lane in self._lanes:
            state, reason = lane.state(now, outbound is not None, False)
            source = lane.source
            reader = source.reader
            more: dict[str, Any] = {}
            if reader is not None:
                made = reader.geometry
                more = {
                    "shape": list(made.frame_shape), "dtype": str(made.dtype),
                    "depth": made.depth, "backlog": reader.unread,
                }  # fmt: skip
            if state in ("QUIET", "LIVE") and (reader is None or source.is_missing):
                state, reason = "WAITING", source.reason or f"stream {lane.local} was removed"
            rows.append(lane.snapshot(state, reason, **more))
        if outbound is not None:
            state, reason = "LIVE", ""
        else:
            state, reason = "ERROR" if self._is_refused else "CONNECTING", self._reason
        return link_snapshot(
            rows, [lane.local for lane in self._lanes], octets, self._trouble, state, reason,
            address=self._address, peer=outbound.peer if outbound is not None else None,
            is_sealed=self._secret is not None, reconnects=max(0, self._connections - 1),
            heard_s=(now - self._heard_ns) / NS_PER_S if self._heard_ns else None,
        )  # fmt: skip

    def set(self, rate: float | None, budget: float | None) -> dict[str, Any]:
        """Refuse: only senders of policy latest have a rate."""
        raise NightjarError(f"link {self._link.name} has no rate and no budget")
