# SPDX-License-Identifier: BSD-3-Clause
"""Status lines: none, those of the simulated observatory, the control lines of a serial port."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nightjar.das.lines import Line
from nightjar.errors import DeviceLost, DeviceNotFound, StorageError
from nightjard.simulators.wires import Wires


class NoLines:
    """Nothing is connected; see :class:`nightjard.rotd.drivers.base.Lines`."""

    def open(self) -> None:
        """Nothing is to be found."""

    def close(self) -> None:
        """Nothing is to be let go."""

    def is_rotate(self) -> bool:
        """Tell False: nobody asks."""
        return False

    def is_acquired(self) -> bool | None:
        """Tell None."""
        return None

    def is_tracking(self) -> bool | None:
        """Tell None."""
        return None

    def set_rotating(self, busy: bool) -> None:
        """Drive nothing."""


class WiredLines:
    """The wires of the simulated observatory.

    Parameters
    ----------
    path
        Their file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._wires: Wires | None = None

    def open(self) -> None:
        """Map the file."""
        try:
            self._wires = Wires.open(self._path)
        except StorageError as error:
            raise DeviceNotFound(
                f"{error.message}; is the simulated telescope running?"
            ) from error

    def close(self) -> None:
        """Let the file go."""
        if self._wires is not None:
            self._wires.close()
            self._wires = None

    def _open_wires(self) -> Wires:
        if self._wires is None:
            raise DeviceLost(f"wires {self._path} are not open")
        return self._wires

    def is_rotate(self) -> bool:
        """Tell the line ROTATE."""
        return self._open_wires().level(Line.ROTATE)

    def is_acquired(self) -> bool | None:
        """Tell the line ACQUIRED."""
        return self._open_wires().level(Line.ACQUIRED)

    def is_tracking(self) -> bool | None:
        """Tell the line TRACKING."""
        return self._open_wires().level(Line.TRACKING)

    def set_rotating(self, busy: bool) -> None:
        """Drive the line ROTATING."""
        self._open_wires().set_line(Line.ROTATING, busy)


class ModemLines:
    """The control lines of a serial port: CTS is ROTATE, DSR ACQUIRED, DCD TRACKING, RTS ROTATING.

    Levels of RS-232: a TTL line needs a receiver in between. Tried against a stand-in of the port
    only: pseudo-terminals have no control lines.

    Parameters
    ----------
    port
        Device.
    """

    def __init__(self, port: str) -> None:
        self._name = port
        self._port: Any = None

    def open(self) -> None:
        """Open the port; ROTATING is down."""
        import serial

        try:
            port = serial.Serial()
            port.port, port.exclusive = self._name, True
            port.rts = port.dtr = False
            port.open()
        except (OSError, ValueError) as error:
            raise DeviceNotFound(f"status lines: {self._name} cannot be opened: {error}") from error
        self._port = port

    def close(self) -> None:
        """Let the line fall, close the port."""
        if self._port is not None:
            self._port.close()
            self._port = None

    def _line(self, name: str) -> bool:
        try:
            return bool(getattr(self._port, name))
        except (OSError, AttributeError) as error:
            raise DeviceLost(f"status lines: {self._name} does not tell {name}: {error}") from error

    def is_rotate(self) -> bool:
        """Tell CTS."""
        return self._line("cts")

    def is_acquired(self) -> bool | None:
        """Tell DSR."""
        return self._line("dsr")

    def is_tracking(self) -> bool | None:
        """Tell DCD."""
        return self._line("cd")

    def set_rotating(self, busy: bool) -> None:
        """Drive RTS."""
        try:
            self._port.rts = busy
        except (OSError, AttributeError) as error:
            raise DeviceLost(f"status lines: {self._name}: RTS: {error}") from error
