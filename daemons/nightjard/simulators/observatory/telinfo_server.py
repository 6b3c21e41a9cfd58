# SPDX-License-Identifier: BSD-3-Clause
"""The telescope's record of housekeeping by ONC RPC version 2 over TCP (RFC 5531, RFC 4506).

One procedure without arguments; its result is the record as fixed opaque bytes. Procedure 0 does
nothing, as everywhere.
"""

from __future__ import annotations

import socket
import socketserver
import struct
import threading
from collections.abc import Callable

PROGRAM = 0x20000B0C
VERSION = 1
PROCEDURE = 1
_LAST = 0x8000_0000
_LARGEST_CALL = 8192
_CALL, _REPLY = 0, 1
_SUCCESS, _PROG_UNAVAIL, _PROG_MISMATCH, _PROC_UNAVAIL, _GARBAGE_ARGS = range(5)


class TelinfoServer(socketserver.ThreadingTCPServer):
    """Answers calls, each connection in a thread of its own.

    Parameters
    ----------
    record
        Gives the bytes of the newest record.
    address
        Host and port; port 0 for any.
    program, version, procedure
        Numbers that it answers to.

    Attributes
    ----------
    is_dead
        True: connections stay open and calls are read, but nothing is answered.
    calls
        Calls answered.
    connections
        Open ones.
    """

    allow_reuse_address = True
    daemon_threads = True

    def __init__(
        self,
        record: Callable[[], bytes],
        address: tuple[str, int] = ("127.0.0.1", 0),
        *,
        program: int = PROGRAM,
        version: int = VERSION,
        procedure: int = PROCEDURE,
    ) -> None:
        self.record = record
        self.numbers = (program, version, procedure)
        self.is_dead = False
        self.calls = 0
        self.connections: set[socket.socket] = set()
        self._thread: threading.Thread | None = None
        super().__init__(address, _Connection)

    @property
    def port(self) -> int:
        """Its TCP port."""
        return int(self.server_address[1])

    def start(self) -> None:
        """Serve in a thread."""
        self._thread = threading.Thread(
            target=self.serve_forever, args=(0.05,), name="telinfo", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """End it and all connections."""
        self.shutdown()
        self.server_close()
        for one in list(self.connections):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # it ended by itself
        if self._thread is not None:
            self._thread.join(5.0)

    def reply(self, call: bytes) -> bytes | None:
        """Return the reply to a call message; None where there is none to give."""
        if len(call) < 8:
            return None
        xid, kind = struct.unpack_from(">II", call)
        if kind != _CALL or len(call) < 24:
            return None
        rpc, program, version, procedure = struct.unpack_from(">IIII", call, 8)
        if rpc != 2:
            return struct.pack(">6I", xid, _REPLY, 1, 0, 2, 2)
        head = struct.pack(">5I", xid, _REPLY, 0, 0, 0)
        if program != self.numbers[0]:
            return head + struct.pack(">I", _PROG_UNAVAIL)
        if version != self.numbers[1]:
            return head + struct.pack(">III", _PROG_MISMATCH, self.numbers[1], self.numbers[1])
        if procedure not in (0, self.numbers[2]):
            return head + struct.pack(">I", _PROC_UNAVAIL)
        if not _has_no_arguments(call[24:]):
            return head + struct.pack(">I", _GARBAGE_ARGS)
        self.calls += 1
        body = self.record() if procedure else b""
        return head + struct.pack(">I", _SUCCESS) + body + b"\0" * (-len(body) % 4)


def _has_no_arguments(rest: bytes) -> bool:
    """Tell whether credential and verifier are all that follows: (flavour, length, body) twice."""
    for _ in range(2):
        if len(rest) < 8:
            return False
        length = struct.unpack_from(">I", rest, 4)[0]
        padded = length + -length % 4
        if length > 400 or len(rest) < 8 + padded:
            return False
        rest = rest[8 + padded :]
    return not rest


class _Connection(socketserver.BaseRequestHandler):
    """One client: record-marked messages one after the other."""

    server: TelinfoServer
    request: socket.socket

    def setup(self) -> None:
        self.server.connections.add(self.request)

    def finish(self) -> None:
        self.server.connections.discard(self.request)

    def handle(self) -> None:
        try:
            while (call := self._message()) is not None:
                if self.server.is_dead:
                    continue
                reply = self.server.reply(call)
                if reply is None:
                    return
                self.request.sendall(struct.pack(">I", _LAST | len(reply)) + reply)
        except OSError:
            return  # the client went away

    def _message(self) -> bytes | None:
        """Return the next message of one or several fragments; None at the end or for nonsense."""
        message = b""
        while True:
            head = self._exactly(4)
            if head is None:
                return None
            mark = struct.unpack(">I", head)[0]
            length = mark & ~_LAST
            if len(message) + length > _LARGEST_CALL:
                return None
            part = self._exactly(length)
            if part is None:
                return None
            message += part
            if mark & _LAST:
                return message

    def _exactly(self, count: int) -> bytes | None:
        data = b""
        while len(data) < count:
            more = self.request.recv(count - len(data))
            if not more:
                return None
            data += more
        return data
