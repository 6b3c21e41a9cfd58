# SPDX-License-Identifier: BSD-3-Clause
"""The stream link daemon's command table and the keys of its status."""

from __future__ import annotations

import enum

from nightjar.api.commands import Command, Parameter

RATE_LIMITS: tuple[float, float] = (0.01, 1000.0)
"""Frames per second that a link of policy ``latest`` can be asked for."""

BUDGET_LIMITS: tuple[float, float] = (0.1, 100_000.0)
"""Mbit/s that a link of policy ``latest`` can be given."""


class LinkState(enum.Enum):
    """What a link is doing, as its end here sees it."""

    STOPPED = "STOPPED"  # nobody wants it to run
    STARTING = "STARTING"  # its process is being started
    CONNECTING = "CONNECTING"  # it has no other end
    LIVE = "LIVE"  # frames pass
    QUIET = "QUIET"  # both ends are well, but the source gives no frames
    STALE = "STALE"  # nothing was heard of the other end for 3 s
    ERROR = "ERROR"  # something that a person must see to, or its process ended


_LINKS = Parameter("links", "strs", "Names of links; empty for all of this daemon.", default=())

COMMANDS: tuple[Command, ...] = (
    Command(
        "start", "Start links; return {name: state}. A link that runs goes on.", (_LINKS,),
        is_safe=True,
    ),
    Command(
        "stop", "Stop links until they are started or the daemon is; return {name: state}.",
        (_LINKS,), is_safe=True,
    ),
    Command("restart", "Stop and start links; return {name: state}.", (_LINKS,)),
    Command(
        "set",
        "Change rate or budget of a sending link of policy latest, until the daemon is restarted; "
        "return {rate, budget} as they are now.",
        (
            Parameter("link", "str", "Name of the link."),
            Parameter(
                "rate", "float", "Frames per second of each stream; null to keep it.", "1/s",
                default=None, is_nullable=True, low=RATE_LIMITS[0], high=RATE_LIMITS[1],
            ),
            Parameter(
                "budget", "float", "For all streams together; null to keep it.", "Mbit/s",
                default=None, is_nullable=True, low=BUDGET_LIMITS[0], high=BUDGET_LIMITS[1],
            ),
        ),
        is_safe=True,
    ),
)  # fmt: skip

STATUS_KEYS: dict[str, str] = {
    "time": "UTC at which the snapshot was made, ISO text",
    "daemon": "registered name of the daemon",
    "summary": "READY (every link stopped), BUSY (a link runs) or STOPPING",
    "state": "the worst state of a link that shall run: LIVE, QUIET, CONNECTING, STARTING, STALE "
    "or ERROR; STOPPED where none shall",
    "health": "{level, reason, parts}",
    "links": "{name: link}, see below",
}
"""Key of the status snapshot -> meaning."""

LINK_KEYS: dict[str, str] = {
    "role": "send or receive",
    "policy": "all or latest",
    "state": "STOPPED, STARTING, CONNECTING, LIVE, QUIET, STALE or ERROR",
    "reason": "why, where it is not LIVE",
    "since": "UTC at which the state began, ISO text",
    "address": "where this end listens or connects to",
    "peer": "the other end; null where there is none (latest, sender: how many receive)",
    "is_sealed": "whether a shared secret is in use",
    "frames": "frames sent or received since the link's process started",
    "lost": "frames that were overwritten at the sender before they could be sent",
    "lost_on_wire": "frames sent that never arrived",
    "duplicated": "frames that came again and were thrown away",
    "torn": "frames overwritten while they were being sent, and thrown away",
    "dropped": "frames that came and could not be put into shared memory",
    "bad_messages": "messages refused: changed on their way, wrong seal, other version",
    "rate": "frames/s, mean of the last seconds",
    "mbit_per_s": "Mbit/s, mean of the last seconds",
    "budget": "Mbit/s that a sender of policy latest may use; null for others",
    "wanted_rate": "frames/s asked for of a sender of policy latest; null for others",
    "reconnects": "connections made after the first",
    "heard_s": "seconds since the last message of the other end; null before the first",
    "latency_ms": "receiver: median time from writing at the source to publishing here, where the "
    "clocks of both machines agree; null for senders and without frames",
    "last_error": "{time, message} of the last failure; null before the first",
    "pid": "process of the link; null where it does not run",
    "restarts": "times that the process ended by itself and was started again",
    "streams": "{local name: stream}, see below",
}
"""Key of a link in the status -> meaning."""

STREAM_KEYS: dict[str, str] = {
    "wire_name": "name on the wire",
    "state": "LIVE, QUIET, STALE, WAITING (no source stream, or nothing heard of it) or ERROR",
    "reason": "why, where it is not LIVE",
    "shape": "of one frame, slowest axis first; null before it is known",
    "dtype": "type of the pixels; null before it is known",
    "depth": "slots of the stream here",
    "counter": "number (cnt0) of the last frame sent or received",
    "frames": "frames sent or received",
    "lost": "as for the link",
    "lost_on_wire": "as for the link",
    "duplicated": "as for the link",
    "torn": "as for the link",
    "dropped": "as for the link",
    "peer_frames": "frames that the other end counts; null where it does not tell",
    "peer_lost": "frames lost that the other end counts; null where it does not tell",
    "backlog": "sender, all: frames in the ring that wait to be sent",
    "rate": "frames/s, mean of the last seconds",
    "period_ms": "latest: ms between frames as the sender paces them now; null for all",
}
"""Key of a stream of a link -> meaning."""
