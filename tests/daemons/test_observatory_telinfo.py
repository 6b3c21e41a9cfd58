# SPDX-License-Identifier: BSD-3-Clause
"""The RPC service of the telescope's record, by bytes written out by hand (RFC 5531)."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from nightjard.simulators.observatory.telinfo_server import TelinfoServer

RECORD = bytes(range(256)) * 3


@pytest.fixture
def server() -> Iterator[TelinfoServer]:
    made = TelinfoServer(lambda: RECORD, program=0x20001234, version=3, procedure=5)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def link(server: TelinfoServer) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), 5.0) as made:
        yield made


def _call(xid: int = 7, rpc: int = 2, program: int = 0x20001234, version: int = 3,
          procedure: int = 5, rest: bytes = b"\0" * 16) -> bytes:  # fmt: skip
    return struct.pack(">6I", xid, 0, rpc, program, version, procedure) + rest


def _marked(message: bytes) -> bytes:
    return struct.pack(">I", 0x80000000 | len(message)) + message


def _answer(link: socket.socket) -> bytes:
    file = link.makefile("rb")
    mark = struct.unpack(">I", file.read(4))[0]
    assert mark & 0x80000000
    return bytes(file.read(mark & 0x7FFFFFFF))


def test_a_call_gives_the_record(link: socket.socket, server: TelinfoServer) -> None:
    link.sendall(_marked(_call()))
    assert _answer(link) == struct.pack(">6I", 7, 1, 0, 0, 0, 0) + RECORD
    link.sendall(_marked(_call(xid=8, procedure=0)))
    assert _answer(link) == struct.pack(">6I", 8, 1, 0, 0, 0, 0)
    assert server.calls == 2


def test_a_call_with_a_credential_in_three_fragments(link: socket.socket) -> None:
    # AUTH_SYS with 5 bytes and 3 of padding, then AUTH_NONE.
    message = _call(rest=struct.pack(">II", 1, 5) + b"abcde\0\0\0" + b"\0" * 8)
    link.sendall(struct.pack(">I", 10) + message[:10])
    link.sendall(struct.pack(">I", 0) + struct.pack(">I", 0x80000000 | (len(message) - 10)))
    link.sendall(message[10:])
    assert _answer(link)[24:] == RECORD


def test_wrong_numbers_are_told_as_the_standard_says(link: socket.socket) -> None:
    accepted = struct.pack(">5I", 7, 1, 0, 0, 0)
    for call, wanted in (
        (_call(program=1), accepted + struct.pack(">I", 1)),
        (_call(version=2), accepted + struct.pack(">III", 2, 3, 3)),
        (_call(procedure=6), accepted + struct.pack(">I", 3)),
        (_call(rest=b"\0" * 20), accepted + struct.pack(">I", 4)),
        (_call(rpc=3), struct.pack(">6I", 7, 1, 1, 0, 2, 2)),
    ):
        link.sendall(_marked(call))
        assert _answer(link) == wanted


def test_nonsense_ends_the_connection_and_nothing_else(
    link: socket.socket, server: TelinfoServer
) -> None:
    link.sendall(struct.pack(">I", 0x7FFFFFFF) + b"x")
    assert link.recv(1) == b""
    with socket.create_connection(("127.0.0.1", server.port), 5.0) as other:
        other.sendall(_marked(_call()))
        assert len(_answer(other)) == 24 + 768


def test_a_dead_service_takes_calls_and_says_nothing(
    link: socket.socket, server: TelinfoServer
) -> None:
    asked = threading.Event()

    class Dead:
        """True; tells that it was asked for, so that a call was read."""

        def __bool__(self) -> bool:
            asked.set()
            return True

    server.is_dead = Dead()  # type: ignore[assignment]
    link.sendall(_marked(_call()))
    assert asked.wait(15)
    link.settimeout(0.3)
    with pytest.raises(TimeoutError):
        link.recv(1)
    server.is_dead = False
    link.settimeout(5.0)
    link.sendall(_marked(_call(xid=9)))
    assert _answer(link)[:4] == struct.pack(">I", 9)
