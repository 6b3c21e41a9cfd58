# SPDX-License-Identifier: BSD-3-Clause
"""Pyro5's wire protocol by hand: from any source address, with any bytes one likes.

Layout of a message (Pyro5 protocol 502): 40 bytes of header ``!4sHBBHHII16sHH`` - PYRO, version,
type, serializer, flags, sequence number, payload size, annotations size, correlation id, reserved,
magic number - then annotations, then the payload.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import Any

import serpent

HEADER = "!4sHBBHHII16sHH"
SIZE = struct.calcsize(HEADER)
CONNECT, CONNECT_OK, CONNECT_FAIL, INVOKE, RESULT, PING = 1, 2, 3, 4, 5, 6
EXCEPTION, COMPRESSED, ONEWAY, BATCH, KEEP = 1, 2, 4, 8, 32
SERPENT, MARSHAL, JSON, MSGPACK = 1, 2, 3, 4


def message(
    kind: int,
    payload: bytes,
    serializer: int = SERPENT,
    flags: int = 0,
    *,
    size: int | None = None,
    annotations: bytes = b"",
    annotations_size: int | None = None,
) -> bytes:
    """Return a message; the sizes in its header may be lies."""
    header = struct.pack(
        HEADER, b"PYRO", 502, kind, serializer, flags, 1,
        len(payload) if size is None else size,
        len(annotations) if annotations_size is None else annotations_size,
        b"\0" * 16, 0, 0x4DC5,
    )  # fmt: skip
    return header + annotations + payload


def connect_message(name: str, serializer: int = SERPENT, payload: bytes | None = None) -> bytes:
    given = serpent.dumps({"handshake": "hello", "object": name}) if payload is None else payload
    return message(CONNECT, given, serializer)


def call_payload(name: str, method: Any, arguments: Any, keywords: Any = None) -> bytes:
    call: bytes = serpent.dumps((name, method, arguments, keywords or {}))
    return call


class RawClient:
    """One connection, from a source address of one's own."""

    def __init__(self, port: int, source: str = "127.0.0.1", timeout_s: float = 8.0) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(timeout_s)
        self.socket.bind((source, 0))
        self.socket.connect(("127.0.0.1", port))

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_error: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send; an end that has hung up meanwhile shows when one reads."""
        with contextlib.suppress(ConnectionError):
            self.socket.sendall(data)

    def end(self) -> None:
        """Say that no more will come."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def read(self) -> tuple[int, int, bytes]:
        """Return type, flags and payload of the next message; EOFError where it hung up."""
        header = self._exactly(SIZE)
        fields = struct.unpack(HEADER, header)
        self._exactly(fields[7])
        return fields[2], fields[4], self._exactly(fields[6])

    def is_closed(self) -> bool:
        """Tell whether the other end hangs up (what it says before that is skipped)."""
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        return True

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                part = self.socket.recv(size - len(data))
            except ConnectionError as error:
                raise EOFError(str(error)) from error
            if not part:
                raise EOFError("closed")
            data += part
        return data

    def shake_hands(self, name: str) -> None:
        self.send(connect_message(name))
        kind, _, payload = self.read()
        assert kind == CONNECT_OK, payload

    def invoke(self, payload: bytes, serializer: int = SERPENT, flags: int = 0) -> tuple[int, Any]:
        """Return the flags and the value of the reply to an invocation."""
        self.send(message(INVOKE, payload, serializer, flags))
        _, answered, data = self.read()
        return answered, serpent.loads(data)

    def call(self, name: str, command: Any, arguments: Any = None) -> Any:
        """Return the reply (code, name, ...) of a command."""
        flags, reply = self.invoke(call_payload(name, "call", (command, arguments)))
        assert not flags & EXCEPTION, reply
        return reply
