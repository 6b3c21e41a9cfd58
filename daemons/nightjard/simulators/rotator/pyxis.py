# SPDX-License-Identifier: BSD-3-Clause
"""An Optec Pyxis camera rotator as it answers on its line: six letters a command, whole degrees.

``CCLINK`` answers ``!``; ``CGETPA`` the angle, three digits; ``CPAnnn`` and ``CHOMES`` move and
send a ``!`` a degree while they do and ``F`` at the end; ``CVxxxx`` tells its version, ``CMREAD``
the sense of rotation, ``CDnxxx`` sets it; ``CTxxnn`` sets the pace; ``CSLEEP`` and ``CWAKUP``.
Answers end by LF CR, where they end at all. While it moves it hears nothing.
"""

from __future__ import annotations

from nightjard.simulators.rotator.mechanics import Mechanics

_LENGTH = 6
_RATE_DEG_S2 = 1e4  # it starts and stops at once, as a stepper does
_END = b"\n\r"
_VERSION = b"1.0"


class PyxisDevice:
    """The rotator on top of the mechanics, whose angle 0 is its home.

    Moves go the way that the mechanics can: angles above 180 are negative ones.

    Parameters
    ----------
    mechanics
        What it turns; without play, as its own gear has.
    speed_deg_s
        Degrees per second.
    """

    def __init__(self, mechanics: Mechanics, *, speed_deg_s: float = 8.0) -> None:
        self._mechanics = mechanics
        self._speed_deg_s = speed_deg_s
        self._line = b""
        self._is_reversed = False
        self._is_asleep = False
        self._target: float | None = None
        self._told_deg = 0.0
        self.received: list[str] = []

    @property
    def angle_deg(self) -> int:
        """What it believes to be its position angle, whole degrees."""
        counts = self._mechanics.motor_counts
        start = self._mechanics.parameters.start_deg
        angle = round(start + counts / self._mechanics.parameters.motor_counts_per_deg)
        return (-angle if self._is_reversed else angle) % 360

    def feed(self, data: bytes) -> bytes:
        """Take bytes; return the answers."""
        if self._target is not None:
            return b""
        self._line += data
        answer = b""
        while len(self._line) >= _LENGTH and self._target is None:
            word, self._line = self._line[:_LENGTH], self._line[_LENGTH:]
            self.received.append(word.decode("ascii", "replace"))
            answer += self._do(self.received[-1])
        return answer

    def _do(self, word: str) -> bytes:
        if self._is_asleep:
            if word == "CWAKUP":
                self._is_asleep = False
                return b"!" + _END
            return b""
        if word == "CCLINK":
            return b"!" + _END
        if word == "CGETPA":
            return b"%03d" % self.angle_deg + _END
        if word.startswith("CV"):
            return _VERSION + _END
        if word == "CMREAD":
            return b"%d" % self._is_reversed + _END
        if word == "CHOMES":
            return self._go(0.0)
        if word.startswith("CPA") and word[3:].isdigit() and int(word[3:]) < 360:
            angle = float(int(word[3:]))
            signed = angle - 360 if angle > 180 else angle
            return self._go(-signed if self._is_reversed else signed)
        if word.startswith("CD") and word[2] in "01":
            self._is_reversed = word[2] == "1"
        elif word.startswith("CTxx") and word[4:].isdigit():
            self._speed_deg_s = 64.0 / max(1, int(word[4:]))
        elif word == "CSLEEP":
            self._is_asleep = True
        return b""

    def _go(self, angle_deg: float) -> bytes:
        it = self._mechanics
        per_deg = it.parameters.motor_counts_per_deg
        it.move_to(
            (angle_deg - it.parameters.start_deg) * per_deg, self._speed_deg_s * per_deg,
            _RATE_DEG_S2 * per_deg,
        )  # fmt: skip
        self._target, self._told_deg = angle_deg, it.load_deg
        return b""

    def unasked(self) -> bytes:
        """Return what it says by itself: a mark a degree while it moves, and the end."""
        if self._target is None:
            return b""
        now, is_moving = self._mechanics.load_deg, self._mechanics.is_moving
        marks = int(abs(now - self._told_deg))
        self._told_deg += marks if now > self._told_deg else -marks
        if is_moving:
            return b"!" * marks
        self._target = None
        return b"!" * marks + b"F"
