# SPDX-License-Identifier: BSD-3-Clause
"""What the four engines tell of themselves, one way: times, states, snapshots."""

from __future__ import annotations

from typing import Any

from nightjar.clock import NS_PER_S, Clock
from nightjar.errors import NightjarError
from nightjar.times import iso
from nightjard.streamlinkd.counts import Counts, Meter

HEARTBEAT_NS = NS_PER_S
SILENCE_NS = 2_500_000_000  # with beats of 1 s: what is dead is known as such within 3 s
QUIET_NS = 3 * NS_PER_S
TICK_S = 0.25
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 1.0


class Trouble:
    """The last thing that went wrong, and how often messages were refused."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.last: dict[str, str] | None = None
        self.bad_messages = 0

    def note(self, error: NightjarError | str) -> str:
        """Note a failure; return its text."""
        text = error if isinstance(error, str) else error.message
        self.last = {"time": iso(self._clock.now_ns()), "message": text}
        return text

    def bad(self, error: NightjarError) -> str:
        """Note a message that was refused."""
        self.bad_messages += 1
        return self.note(error)


class Lane:
    """One stream of a link: its names, its counts, and what is known of it.

    Attributes
    ----------
    local, wire
        Name of the stream here, and on the wire.
    session, counter
        Which life of the source, and the number of the last frame of it that was dealt with.
    frame_ns
        Monotonic time of the last frame; 0 before the first.
    reason
        What is wrong with it; "" where nothing is.
    """

    def __init__(self, local: str, wire: str) -> None:
        self.local, self.wire = local, wire
        self.counts = Counts()
        self.session = 0
        self.counter = 0
        self.frame_ns = 0
        self.reason = ""
        self.rate = 0.0
        self.peer: dict[str, Any] = {}
        self._meter = Meter()

    def measure(self, now_ns: int) -> float:
        """Bring the rate up to date; return bytes per second."""
        self.rate, octets = self._meter.note(now_ns, self.counts.frames, self.counts.bytes)
        return octets

    def state(self, now_ns: int, is_connected: bool, is_stale: bool) -> tuple[str, str]:
        """Return the state of the stream and why."""
        if self.reason:
            return "ERROR", self.reason
        if is_stale:
            return "STALE", "nothing is heard of the other end"
        if not is_connected:
            return "WAITING", "no other end"
        if not self.frame_ns or now_ns - self.frame_ns > QUIET_NS:
            if not self.frame_ns:
                return "QUIET", "no frame yet"
            return "QUIET", f"no frame for {(now_ns - self.frame_ns) / NS_PER_S:.0f} s"
        return "LIVE", ""

    def snapshot(self, state: str, reason: str, **more: Any) -> dict[str, Any]:
        """Return it as :data:`nightjar.api.streamlink.STREAM_KEYS` tell."""
        counts = self.counts
        return {
            "wire_name": self.wire,
            "state": state,
            "reason": reason,
            "shape": None,
            "dtype": None,
            "depth": None,
            "counter": self.counter or None,
            "frames": counts.frames,
            "lost": counts.lost,
            "lost_on_wire": counts.lost_on_wire,
            "duplicated": counts.duplicated,
            "torn": counts.torn,
            "dropped": counts.dropped,
            "peer_frames": self.peer.get("frames"),
            "peer_lost": self.peer.get("lost"),
            "backlog": None,
            "rate": round(self.rate, 3),
            "period_ms": None,
            **more,
        }




def link_snapshot(
    lanes: list[dict[str, Any]],
    names: list[str],
    octets_per_s: float,
    trouble: Trouble,
    state: str,
    reason: str,
    **more: Any,
) -> dict[str, Any]:
    """Return a link as :data:`nightjar.api.streamlink.LINK_KEYS` tell (what its process knows).

    `state` is that of the connection; streams can make it worse, or quiet.
    """
    if state == "LIVE":
        states = [lane["state"] for lane in lanes]
        for lane in lanes:
            if lane["state"] == "ERROR":
                state, reason = "ERROR", lane["reason"]
                break
        else:
            if "LIVE" not in states:
                state = "QUIET"
                reason = "; ".join(
                    f"{name}: {lane['reason']}" for name, lane in zip(names, lanes, strict=True)
                )
    total = {
        key: sum(lane[key] for lane in lanes)
        for key in ("frames", "lost", "lost_on_wire", "duplicated", "torn", "dropped")
    }
    return {
        "state": state,
        "reason": reason,
        **total,
        "bad_messages": trouble.bad_messages,
        "rate": round(sum(lane["rate"] for lane in lanes), 3),
        "mbit_per_s": round(octets_per_s * 8e-6, 3),
        "budget": None,
        "wanted_rate": None,
        "latency_ms": None,
        "last_error": trouble.last,
        **more,
        "streams": dict(zip(names, lanes, strict=True)),
    }
