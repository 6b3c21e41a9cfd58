# SPDX-License-Identifier: BSD-3-Clause
"""The telescope computer's record by ONC RPC version 2 over TCP.

Calls, replies and record marking are those of RFC 5531 (sections 9 and 11), the encoding RFC 4506.
The call has no arguments, its result is the record of 768 bytes as it is stored. Where no port is
configured, the port mapper (RFC 1833, program 100000 version 2, procedure GETPORT) is asked.
"""

from __future__ import annotations

import socket
import struct
import time
from typing import Any

from nightjar.das.telinfo import RECORD_BYTES, unpack
from nightjar.errors import (
    Code,
    DeviceError,
    DeviceLost,
    DeviceNotFound,
    InvalidArgument,
    TimedOut,
)
from nightjard.telogd.config import Telinfo
from nightjard.telogd.drivers.base import Capabilities

PORT_MAPPER = (111, 100000, 2)
_GETPORT, _TCP = 3, 6
_CALL, _REPLY = 0, 1
_ACCEPTED = 0
_LAST = 0x8000_0000
_LARGEST = 65536
_STATUS = {
    1: "it has no program of that number", 2: "it has another version of the program",
    3: "the program has no procedure of that number", 4: "it did not understand the call",
    5: "it failed",
}  # fmt: skip
_CONNECT_S = 2.0


class OncClient:
    """Calls of one program over one connection; any failure ends the connection.

    Parameters
    ----------
    host, port
        Where.
    program, version
        What.
    timeout_s
        Longest wait for connecting, and for an answer.
    """

    def __init__(
        self, host: str, port: int, program: int, version: int, timeout_s: float
    ) -> None:
        self.where = f"{host}:{port}"
        self._address = (host, port)
        self._program, self._version, self._timeout_s = program, version, timeout_s
        self._socket: socket.socket | None = None
        self._xid = int(time.monotonic() * 1000) & 0xFFFF_FFFF

    def call(self, procedure: int, arguments: bytes = b"") -> bytes:
        """Return the result's bytes.

        Raises
        ------
        DeviceNotFound, DeviceLost, TimedOut, DeviceError
            Nobody listens; it hung up; it did not answer; it answers nonsense or refuses.
        """
        deadline = time.monotonic() + self._timeout_s
        self._xid = (self._xid + 1) & 0xFFFF_FFFF
        message = struct.pack(
            ">10I", self._xid, _CALL, 2, self._program, self._version, procedure, 0, 0, 0, 0
        ) + arguments
        try:
            connection = self._connected()
            connection.settimeout(max(0.01, deadline - time.monotonic()))
            connection.sendall(struct.pack(">I", _LAST | len(message)) + message)
            return self._result(self._reply(connection, deadline))
        except TimeoutError:
            self.close()
            raise TimedOut(
                f"the service at {self.where} did not answer within {self._timeout_s:g} s"
            ) from None
        except OSError as error:
            self.close()
            raise DeviceLost(
                f"the service at {self.where}: {error.strerror or error}"
            ) from error
        except DeviceError:
            self.close()
            raise

    def _connected(self) -> socket.socket:
        if self._socket is None:
            try:
                self._socket = socket.create_connection(self._address, self._timeout_s)
            except OSError as error:
                raise DeviceNotFound(
                    f"nobody answers at {self.where} ({error.strerror or error}); does the "
                    "telescope computer run the service?"
                ) from error
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._socket

    def _reply(self, connection: socket.socket, deadline: float) -> bytes:
        """Return the reply to the last call; older ones that come late are passed over."""
        while True:
            message = self._message(connection, deadline)
            if len(message) < 12:
                raise self._nonsense(f"{len(message)} bytes as a reply")
            xid, kind = struct.unpack_from(">II", message)
            if kind != _REPLY:
                raise self._nonsense(f"message type {kind} as a reply")
            if xid == self._xid:
                return message

    def _message(self, connection: socket.socket, deadline: float) -> bytes:
        message = b""
        while True:
            (mark,) = struct.unpack(">I", self._exactly(connection, 4, deadline))
            length = mark & ~_LAST
            if len(message) + length > _LARGEST:
                raise self._nonsense(f"a record mark of {length} bytes")
            message += self._exactly(connection, length, deadline)
            if mark & _LAST:
                return message

    def _exactly(self, connection: socket.socket, count: int, deadline: float) -> bytes:
        data = b""
        while len(data) < count:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            connection.settimeout(left)
            part = connection.recv(count - len(data))
            if not part:
                raise DeviceLost(f"the service at {self.where} closed the connection")
            data += part
        return data

    def _result(self, message: bytes) -> bytes:
        (status,) = struct.unpack_from(">I", message, 8)
        if status != _ACCEPTED:
            raise DeviceError(f"the service at {self.where} denied the call")
        if len(message) < 24:
            raise self._nonsense(f"a reply of {len(message)} bytes")
        _, length = struct.unpack_from(">II", message, 12)
        body = 20 + length + -length % 4
        if len(message) < body + 4:
            raise self._nonsense(f"a verifier of {length} bytes")
        (accepted,) = struct.unpack_from(">I", message, body)
        if accepted != 0:
            why = _STATUS.get(accepted, f"status {accepted}")
            raise DeviceError(
                f"the service at {self.where} refused program {self._program:#x} version "
                f"{self._version}: {why}; look at the numbers in the configuration"
            )
        return message[body + 4 :]

    def _nonsense(self, what: str) -> DeviceError:
        return DeviceError(
            f"the service at {self.where} sent {what}: this is no ONC RPC", code=Code.PROTOCOL
        )

    def close(self) -> None:
        """Hang up."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def find_port(host: str, program: int, version: int, timeout_s: float) -> int:
    """Ask the port mapper of a host for a program's TCP port.

    Raises
    ------
    DeviceNotFound
        It is not registered there; as :meth:`OncClient.call` otherwise.
    """
    port, mapper, mapper_version = PORT_MAPPER
    client = OncClient(host, port, mapper, mapper_version, timeout_s)
    try:
        result = client.call(_GETPORT, struct.pack(">4I", program, version, _TCP, 0))
    finally:
        client.close()
    found = struct.unpack_from(">I", result)[0] if len(result) >= 4 else 0
    if not 0 < found < 65536:
        raise DeviceNotFound(
            f"the port mapper of {host} knows no program {program:#x} version {version} on TCP"
        )
    return int(found)


class TelinfoSource:
    """The telescope's record from its service.

    Parameters
    ----------
    config
        Where and which numbers.
    """

    def __init__(self, config: Telinfo) -> None:
        self._config = config
        self._client: OncClient | None = None
        where = config.host if config.port is None else f"{config.host}:{config.port}"
        self.capabilities = Capabilities("telinfo", where)

    def read(self) -> dict[str, Any]:
        """Return the record; see :class:`nightjard.telogd.drivers.base.TelescopeSource`.

        Raises
        ------
        DeviceError, TimedOut
            No answer, or none that is a record.
        """
        config = self._config
        try:
            if self._client is None:
                port = config.port or find_port(
                    config.host, config.program, config.version, config.timeout_s
                )
                self._client = OncClient(
                    config.host, port, config.program, config.version, config.timeout_s
                )
            data = self._client.call(config.procedure)
        except (DeviceError, TimedOut):
            self.close()
            raise
        if len(data) != RECORD_BYTES:
            self.close()
            raise DeviceError(
                f"the service at {self.capabilities.where} sent {len(data)} bytes; a record has "
                f"{RECORD_BYTES}", code=Code.PROTOCOL,
            )  # fmt: skip
        try:
            return unpack(data)
        except InvalidArgument as error:
            self.close()
            raise DeviceError(
                f"the service at {self.capabilities.where}: {error.message}", code=Code.PROTOCOL
            ) from error

    def close(self) -> None:
        """Hang up."""
        if self._client is not None:
            self._client.close()
            self._client = None
