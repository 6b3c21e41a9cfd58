# SPDX-License-Identifier: BSD-3-Clause
"""The handshake with the telescope: it raises ROTATE, we raise ROTATING, rotate, and let it fall.

The telescope waits until ROTATING has been up and is down again. Both loggers must see the pulse:
it lasts more than 0.2 s, ten samples of the DAS, also where nothing is to be moved.
"""

from __future__ import annotations

from nightjard.rotd.drivers.base import Lines

SHORTEST_S = 0.25
FAULT_S = 2.0
PATIENCE_S = 30.0


class Handshake:
    """Our line and the telescope's; times are monotonic seconds.

    Parameters
    ----------
    lines
        The driver.

    Attributes
    ----------
    is_busy
        Whether ROTATING is up.
    rotate
        The telescope's line when last looked at; None before.
    """

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self.is_busy = False
        self.rotate: bool | None = None
        self.acquired: bool | None = None
        self.tracking: bool | None = None
        self._raised_s = 0.0
        self._fall_s = 0.0
        self._answered_s: float | None = None

    def look(self, now_s: float) -> bool:
        """Read the lines; return whether ROTATE has risen since the last look.

        A line that is up at the first look counts as risen: the telescope is waiting.

        Raises
        ------
        DeviceError
            They cannot be read.
        """
        before, self.rotate = self.rotate, self._lines.is_rotate()
        self.acquired, self.tracking = self._lines.is_acquired(), self._lines.is_tracking()
        if not self.rotate:
            self._answered_s = None
        return bool(self.rotate) and not before

    @property
    def is_scanning(self) -> bool:
        """Whether the telescope is on its target and scans: not the time to rotate."""
        return self.acquired is True and self.tracking is False

    def is_waiting(self) -> bool:
        """Tell whether the telescope was answered and its line is still up."""
        return self._answered_s is not None and bool(self.rotate)

    def is_ignored(self, now_s: float) -> bool:
        """Tell whether its line is up long after the answer."""
        return self.is_waiting() and now_s - (self._answered_s or now_s) > PATIENCE_S

    def raise_line(self, now_s: float) -> None:
        """Raise ROTATING: a motion begins."""
        if not self.is_busy:
            self._lines.set_rotating(True)
            self.is_busy, self._raised_s = True, now_s
        self._fall_s = 0.0

    def pulse(self, now_s: float) -> None:
        """Raise it for the shortest time: answered, nothing moved."""
        self.raise_line(now_s)
        self.end(now_s)

    def end(self, now_s: float, *, failed: bool = False) -> None:
        """Have it fall: as soon as it may, or two seconds after a failure."""
        if self.is_busy:
            self._fall_s = max(now_s + (FAULT_S if failed else 0.0), self._raised_s + SHORTEST_S)

    def tick(self, now_s: float) -> None:
        """Let the line fall when its time has come."""
        if self.is_busy and self._fall_s and now_s >= self._fall_s:
            self._lines.set_rotating(False)
            self.is_busy, self._fall_s = False, 0.0
            self._answered_s = now_s if self.rotate else None
