# SPDX-License-Identifier: BSD-3-Clause
"""Ports ``simulated://NAME`` for pyserial: a device in this process, in its own clock's time.

``connect(name, wire, clock)`` makes one; ``serial.serial_for_url`` finds it after
``install()``. What a line of 9600 baud, a late answer or a time-out takes passes on the given
clock, and not at all in real time: ten thousand moves take minutes. pyserial prescribes the
name of the module and of the class.
"""

from __future__ import annotations

import serial

from nightjar.clock import Clock, ManualClock
from nightjard.simulators.rotator.wire import Wire


class SteppingClock(ManualClock):
    """A clock that goes on by itself as far as somebody sleeps: for one thread alone."""

    def sleep(self, seconds: float) -> None:
        """Go on."""
        self.advance(max(0.0, seconds))


_ports: dict[str, tuple[Wire, Clock]] = {}


def connect(name: str, wire: Wire, clock: Clock) -> str:
    """Put a device on a port; return what programs open."""
    _ports[name] = (wire, clock)
    return f"simulated://{name}"


def disconnect(name: str) -> None:
    """Pull the cable."""
    _ports.pop(name, None)


def install() -> None:
    """Have pyserial find these ports."""
    package = __name__.rpartition(".")[0]
    if package not in serial.protocol_handler_packages:
        serial.protocol_handler_packages.append(package)


class Serial:
    """What the program has of a port, as far as it uses it."""

    def __init__(self, url: str | None = None, *_args: object, **_options: object) -> None:
        self.port = url or ""
        self.baudrate = 9600
        self.timeout: float | None = None
        self.write_timeout: float | None = None
        self._got = bytearray()
        self._wire: Wire | None = None

    def _connected(self) -> tuple[Wire, Clock]:
        found = _ports.get(self.port.removeprefix("simulated://"))
        if found is None or (self._wire is not None and self._wire is not found[0]):
            raise OSError(5, "Input/output error")
        return found

    def open(self) -> None:
        """Open it."""
        try:
            self._wire = self._connected()[0]
        except OSError as error:
            raise OSError(2, "No such file or directory") from error

    def close(self) -> None:
        """Close it."""
        self._wire = None

    @property
    def in_waiting(self) -> int:
        """Bytes that can be read at once."""
        self._connected()
        return len(self._got)

    def write(self, data: bytes) -> int:
        """Send; the answer is there when its time has passed."""
        wire, clock = self._connected()
        answer, pause_s = wire.exchange(bytes(data))
        if pause_s:
            clock.sleep(pause_s)
        self._got += answer
        return len(data)

    def read(self, size: int = 1) -> bytes:
        """Return what is there; where nothing is, after the time-out."""
        _, clock = self._connected()
        if not self._got and self.timeout:
            clock.sleep(self.timeout)
        part = bytes(self._got[:size])
        del self._got[:size]
        return part

    def reset_input_buffer(self) -> None:
        """Forget what has come."""
        self._connected()
        self._got.clear()
