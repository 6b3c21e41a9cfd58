# SPDX-License-Identifier: BSD-3-Clause
"""The telescope's TCP service of pointing records."""

from __future__ import annotations

import socket

from nightjar.clock import NS_PER_S, Clock
from nightjar.errors import DeviceLost, DeviceNotFound
from nightjard.telogd.config import PointingStream
from nightjard.telogd.drivers.base import Capabilities

_READ_BYTES = 1 << 18


class PlogTcp:
    """A connection to the service at 100 Hz.

    Parameters
    ----------
    config
        Where.
    clock
        Measures silence.
    """

    def __init__(self, config: PointingStream, clock: Clock) -> None:
        self._config, self._clock = config, clock
        self._socket: socket.socket | None = None
        self._heard_ns = 0
        self.capabilities = Capabilities("tcp", f"{config.host}:{config.port}")

    def open(self) -> None:
        """Connect.

        Raises
        ------
        DeviceNotFound
            Nobody listens there.
        """
        self.close()
        where = self.capabilities.where
        try:
            address = (self._config.host, self._config.port)
            self._socket = socket.create_connection(address, min(self._config.timeout_s, 4.0))
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        except OSError as error:
            raise DeviceNotFound(
                f"no pointing service at {where} ({error.strerror or error}); does the telescope "
                "computer run it?"
            ) from error
        self._heard_ns = self._clock.monotonic_ns()

    def receive(self, timeout_s: float) -> bytes:
        """Return what has come, b"" for nothing in time.

        Raises
        ------
        DeviceLost
            The connection is gone, or silent for too long.
        """
        where = self.capabilities.where
        if self._socket is None:
            raise DeviceLost(f"the pointing service at {where} is not connected")
        try:
            self._socket.settimeout(timeout_s)
            data = self._socket.recv(_READ_BYTES)
        except TimeoutError:
            silent_s = (self._clock.monotonic_ns() - self._heard_ns) / NS_PER_S
            if silent_s > self._config.timeout_s:
                raise DeviceLost(
                    f"the pointing service at {where} has sent nothing for {silent_s:.0f} s; "
                    "it is connected to anew"
                ) from None
            return b""
        except OSError as error:
            raise DeviceLost(f"the pointing service at {where}: {error.strerror}") from error
        if not data:
            raise DeviceLost(f"the pointing service at {where} closed the connection")
        self._heard_ns = self._clock.monotonic_ns()
        return data

    def close(self) -> None:
        """Hang up."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
