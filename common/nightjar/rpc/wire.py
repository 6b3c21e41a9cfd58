# SPDX-License-Identifier: BSD-3-Clause
"""What a daemon accepts as bytes: plain serializers, whole messages, no bombs.

Not the place of any policy: who may talk is decided in :mod:`nightjar.rpc.server`.
"""

from __future__ import annotations

import marshal
import socket
import time
from typing import Any

import Pyro5.errors
from Pyro5 import protocol, serializers, socketutil

HANDSHAKE_TIMEOUT_S = 5.0
MESSAGE_TIMEOUT_S = 5.0


class _RefusingSerializer(serializers.SerializerBase):  # type: ignore[misc]
    """Stands where marshal and msgpack were: never parses what a client sent."""

    def __init__(self, serializer_id: int) -> None:
        super().__init__()
        self.serializer_id = serializer_id

    def dumps(self, data: Any) -> bytes:
        """Write a refusal text: Pyro answers failed handshakes in marshal."""
        return marshal.dumps(str(data))

    def dumpsCall(self, obj: Any, method: Any, vargs: Any, kwargs: Any) -> bytes:  # noqa: N802
        """Refuse."""
        raise Pyro5.errors.SerializeError("only serpent and json are accepted")

    def loads(self, data: bytes) -> Any:
        """Refuse."""
        raise Pyro5.errors.SerializeError("only serpent and json are accepted")

    def loadsCall(self, data: bytes) -> Any:  # noqa: N802
        """Refuse."""
        raise Pyro5.errors.SerializeError("only serpent and json are accepted")


def accept_plain_serializers_only() -> None:
    """Put a refusal in the place of every serializer but serpent and JSON."""
    plain_ones = (serializers.SerpentSerializer, serializers.JsonSerializer)
    allowed = {kind.serializer_id for kind in plain_ones}
    for identity in list(serializers.serializers_by_id):
        if identity not in allowed:
            serializers.serializers_by_id[identity] = _RefusingSerializer(identity)


class Wire(socketutil.SocketConnection):  # type: ignore[misc]
    """A connection that refuses what we never send, and whoever sends a message drop by drop.

    Pyro reads a message in three steps: 6 bytes, the rest of the 40 bytes of its header, the
    annotations and payload (``Pyro5.protocol.recv_stub``).
    """

    _FLAGS = slice(2, 4)  # where the flags are in the second part
    _REFUSED = (
        protocol.FLAGS_COMPRESSED  # one megabyte may unpack to a thousand
        | protocol.FLAGS_ONEWAY  # each starts a thread, and nobody hears of its failure
        | protocol.FLAGS_BATCH
        | protocol.FLAGS_KEEPSERIALIZED
    )

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.patience_s = HANDSHAKE_TIMEOUT_S
        self._step = 0
        self._deadline: float | None = None

    def recv(self, size: int) -> bytes:
        """Return exactly `size` bytes: once a message has begun, its end is awaited only so long.

        Raises
        ------
        TimeoutError, ConnectionClosedError
            Of Pyro5.
        """
        data = bytearray()
        while len(data) < size:
            if self._deadline is None:
                left_s = self.patience_s
            else:
                left_s = self._deadline - time.monotonic()
            if left_s <= 0:
                raise Pyro5.errors.TimeoutError("the end of a message did not come")
            try:
                self.sock.settimeout(left_s)
                part = self.sock.recv(min(65536, size - len(data)))
            except TimeoutError:
                raise Pyro5.errors.TimeoutError("receiving: timeout") from None
            except OSError as error:
                raise Pyro5.errors.ConnectionClosedError(str(error)) from None
            if not part:
                raise Pyro5.errors.ConnectionClosedError("receiving: not enough data")
            data += part
            if self._deadline is None:
                self._deadline = time.monotonic() + MESSAGE_TIMEOUT_S
        if self._step == 1 and int.from_bytes(data[self._FLAGS], "big") & self._REFUSED:
            raise Pyro5.errors.ProtocolError("compressed, one-way and batched calls are refused")
        self._step = (self._step + 1) % 3
        if self._step == 0:
            self._deadline = None
        return bytes(data)

    def send(self, data: bytes) -> None:
        """Send a whole message to a client that takes it."""
        self.sock.settimeout(MESSAGE_TIMEOUT_S)
        super().send(data)
