# SPDX-License-Identifier: BSD-3-Clause
"""Messages between the pool and its workers: a length, then JSON, on a socket pair.

The channel of :mod:`nightjar.child` never waits and drops what a stopped process does not take:
right for news, wrong for a task and its result.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Mapping
from typing import Any

Message = dict[str, Any]
_LENGTH = 4
LONGEST = 1 << 28


class Channel:
    """A socket as messages; several threads may send, one receives."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._lock = threading.Lock()
        self._rest = bytearray()

    def fileno(self) -> int:
        """Return the descriptor, for selectors."""
        return self._end.fileno()

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message, waiting for the other end to take it.

        Raises
        ------
        OSError
            The other end has closed.
        """
        self.send_bytes(json.dumps(message, separators=(",", ":")).encode())

    def send_bytes(self, data: bytes) -> None:
        """Send a message that is JSON already."""
        if len(data) > LONGEST:
            raise ValueError(f"a message of {len(data)} bytes; at most {LONGEST} may be sent")
        with self._lock:
            self._end.sendall(len(data).to_bytes(_LENGTH, "big") + data)

    def receive(self) -> list[Message] | None:
        """Wait for bytes and return the messages that are whole; None when the other end closed."""
        try:
            part = self._end.recv(1 << 18)
        except OSError:
            return None
        if not part:
            return None
        self._rest += part
        found = []
        while len(self._rest) >= _LENGTH:
            size = int.from_bytes(self._rest[:_LENGTH], "big")
            if len(self._rest) < _LENGTH + size:
                break
            found.append(json.loads(self._rest[_LENGTH : _LENGTH + size]))
            del self._rest[: _LENGTH + size]
        return found

    def close(self) -> None:
        """Close it; the other end sees that."""
        self._end.close()
