# SPDX-License-Identifier: BSD-3-Clause
"""The greeting of a TCP link: who is there, who may, which streams, and from which frame on.

The sender says hello with its nonce and the names of its streams; the receiver answers with its own
nonce and, for each stream, whether it wants it and up to which frame it has it. A refusal is such
an answer, too, so that both ends can tell a person why.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from nightjar.clock import NS_PER_S, Clock
from nightjar.errors import NightjarError
from nightjard.streamlinkd import net
from nightjard.streamlinkd.secret import NONCE_BYTES, Seal, new_nonce
from nightjard.streamlinkd.wire import (
    HEADER_BYTES,
    MOST_FRAMES,
    SEALED,
    TAG_BYTES,
    Kind,
    WireError,
    pack_json,
    parse_header,
    parse_json,
)

TIMEOUT_S = 2.0
_MOST_STREAMS = 200
_REASON_CHARACTERS = 6000  # of all streams together: the answer must stay below the limit


class NotWanted(NightjarError):
    """The other end refuses; the text says why, in its words."""


@dataclass(frozen=True)
class Place:
    """How far a receiver has a stream: the last frame of a life of the source."""

    session: int
    counter: int


@dataclass
class Hello:
    """What a sender says first."""

    link: str
    instance: str
    nonce: bytes
    streams: list[str]


@dataclass
class Welcome:
    """What a receiver answers: per stream a place (None: from now on), or a reason against it.

    `most` frames may come in one message.
    """

    nonce: bytes
    places: list[Place | None]
    reasons: list[str] = field(default_factory=list)
    most: int = 1


class Deadline:
    """A `look` for :mod:`nightjard.streamlinkd.net` that ends what lasts too long."""

    def __init__(
        self, clock: Clock, seconds: float, is_over: Callable[[], bool], what: str
    ) -> None:
        self._clock = clock
        self._end_ns = clock.monotonic_ns() + round(seconds * NS_PER_S)
        self._is_over, self._what = is_over, what

    def __call__(self, _moved: bool) -> None:
        """Raise :class:`nightjard.streamlinkd.net.Closed` where it is time."""
        if self._is_over():
            raise net.Closed("this end is stopping")
        if self._clock.monotonic_ns() > self._end_ns:
            raise net.Closed(self._what)


def _read(connection: socket.socket, count: int, look: Callable[[bool], None]) -> bytes:
    data = bytearray(count)
    net.receive_into(connection, memoryview(data), look)
    return bytes(data)


def read_greeting(
    connection: socket.socket, seal: Seal, look: Callable[[bool], None], ends: tuple[str, str]
) -> dict[str, Any]:
    """Return the object of a hello (or of the answer to one), its seal checked.

    `ends` is what messages call this end and the other: they are read at both.
    """
    here, there = ends
    head = _read(connection, HEADER_BYTES, look)
    header = parse_header(head)
    if header.kind != Kind.HELLO:
        raise WireError(f"{Kind(header.kind).name.lower()} came where a hello was due")
    body = _read(connection, header.body_bytes, look)
    value = parse_json(header, body)
    if not header.is_sealed:
        if value.get("refused"):
            raise NotWanted(str(value["refused"])[:500])
        if seal.is_active:
            raise WireError(f"the {here} has a secret_file, the {there} shows no secret")
        return value
    tag = _read(connection, TAG_BYTES, look)
    if not seal.is_active:
        raise WireError(f"the {there} has a secret_file, the {here} has none")
    seal.check(tag, head, body)
    if value.get("refused"):
        raise NotWanted(str(value["refused"])[:500])
    return value


def _send(
    connection: socket.socket, seal: Seal, value: dict[str, Any], look: Callable[[bool], None]
) -> None:
    message = pack_json(Kind.HELLO, value, flags=SEALED if seal.is_active else 0)
    net.send_all(connection, [message + seal.tag(message)], look)


def refuse(connection: socket.socket, reason: str, look: Callable[[bool], None]) -> None:
    """Tell a sender why it is not wanted."""
    _send(connection, Seal(None), {"refused": reason}, look)


def say_hello(
    connection: socket.socket,
    secret: bytes | None,
    hello: Hello,
    look: Callable[[bool], None],
) -> tuple[Welcome, Seal, Seal]:
    """Greet a receiver; return its answer, and the seals of what is sent and what comes back.

    Raises
    ------
    NotWanted, WireError, net.Closed
        It refuses; it is no receiver, or has another secret or version; it is gone.
    """
    said = {
        "link": hello.link, "instance": hello.instance, "nonce": hello.nonce.hex(),
        "streams": hello.streams,
    }  # fmt: skip
    _send(connection, Seal(secret, b"hello"), said, look)
    answer = read_greeting(
        connection, Seal(secret, b"welcome", hello.nonce), look, ("sender", "receiver")
    )
    nonce = _nonce(answer)
    listed = answer.get("streams")
    if not isinstance(listed, list) or len(listed) != len(hello.streams):
        raise WireError("the receiver's answer does not fit the streams that it was told")
    most = answer.get("most")
    if not isinstance(most, int) or not 0 < most <= MOST_FRAMES:
        raise WireError("the receiver's answer does not say how many frames a message may hold")
    welcome = Welcome(nonce, [], [], most)
    for item in listed:
        if not isinstance(item, dict):
            raise WireError("the receiver's answer is damaged")
        session, counter = item.get("session"), item.get("counter")
        is_placed = isinstance(session, int) and isinstance(counter, int) and session > 0
        place = Place(int(session or 0), max(0, int(counter or 0))) if is_placed else None
        welcome.places.append(place)
        welcome.reasons.append(str(item.get("reason") or "")[:300])
    return welcome, Seal(secret, b"out", hello.nonce, nonce), Seal(
        secret, b"back", hello.nonce, nonce
    )


def hear_hello(
    connection: socket.socket, secret: bytes | None, look: Callable[[bool], None]
) -> Hello:
    """Return what a sender says first.

    Raises
    ------
    WireError, net.Closed
        It is no sender, or has another secret or version; it is gone.
    """
    value = read_greeting(connection, Seal(secret, b"hello"), look, ("receiver", "sender"))
    names = value.get("streams")
    if (
        not isinstance(names, list)
        or not 0 < len(names) <= _MOST_STREAMS
        or not all(isinstance(name, str) for name in names)
    ):
        raise WireError("a hello without the names of streams")
    return Hello(
        str(value.get("link"))[:80], str(value.get("instance"))[:80], _nonce(value), list(names)
    )


def welcome_sender(
    connection: socket.socket,
    secret: bytes | None,
    hello: Hello,
    welcome: Welcome,
    look: Callable[[bool], None],
) -> tuple[Seal, Seal]:
    """Answer a hello; return the seals of what comes and of what is sent back."""
    streams = []
    for place, reason in zip(welcome.places, welcome.reasons, strict=True):
        item: dict[str, Any] = {"reason": reason[: _REASON_CHARACTERS // len(hello.streams)]}
        if place is not None:
            item |= {"session": place.session, "counter": place.counter}
        streams.append(item)
    _send(
        connection, Seal(secret, b"welcome", hello.nonce),
        {"nonce": welcome.nonce.hex(), "streams": streams, "most": welcome.most}, look,
    )  # fmt: skip
    return (
        Seal(secret, b"out", hello.nonce, welcome.nonce),
        Seal(secret, b"back", hello.nonce, welcome.nonce),
    )


def fresh_welcome(most: int) -> Welcome:
    """Return an answer with a new nonce and no streams yet."""
    return Welcome(new_nonce(), [], [], most)


def _nonce(value: dict[str, Any]) -> bytes:
    try:
        nonce = bytes.fromhex(value["nonce"])
    except (KeyError, TypeError, ValueError):
        nonce = b""
    if len(nonce) != NONCE_BYTES:
        raise WireError("a hello without a nonce")
    return nonce
