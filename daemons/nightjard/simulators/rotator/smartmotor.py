# SPDX-License-Identifier: BSD-3-Clause
"""A SmartMotor as it answers on its line; see Moog's Developer's Guide for the commands."""

from __future__ import annotations

import re
from collections.abc import Callable

from nightjard.simulators.rotator.mechanics import Mechanics

_ASSIGNMENT = re.compile(r"([A-Za-z]{1,3})=(-?\w+)\Z")
VELOCITY_SCALE = 16.1089
ACCELERATION_SCALE = 0.00396


class SmartMotorDevice:
    """The motor's electronics on top of the mechanics.

    Parameters
    ----------
    mechanics
        What it turns.
    address
        In a chain; None: alone.
    echoes
        Whether what is received is sent on, as in a chain.
    """

    def __init__(
        self, mechanics: Mechanics, *, address: int | None = None, echoes: bool = False
    ) -> None:
        self._mechanics = mechanics
        self._address = address
        self._echoes = echoes
        self._line = b""
        self._is_ours = address is None
        self._variables: dict[str, int] = {}
        self._target = self._velocity = self._acceleration = 0
        self._boots = mechanics.boots
        self._is_held = True

    def feed(self, data: bytes) -> bytes:
        """Take bytes; a motor without power, or one that boots, hears nothing."""
        if not self._mechanics.is_answering:
            self._line = b""
            return b""
        if self._boots != self._mechanics.boots:
            self._boots = self._mechanics.boots
            self._variables, self._is_held = {}, True
            self._target = self._velocity = self._acceleration = 0
        answer = data if self._echoes else b""
        for byte in data:
            if byte >= 0x80:
                self._is_ours = self._address is None or byte in (0x80, 0x80 + self._address)
                self._line = b""
            elif byte in b"\r ":
                word, self._line = self._line, b""
                if self._is_ours and word:
                    answer += self._do(word.decode("ascii", "replace"))
            else:
                self._line += bytes([byte])
        return answer

    def _do(self, word: str) -> bytes:
        if match := _ASSIGNMENT.match(word):
            self._assign(match[1], match[2])
            return b""
        actions: dict[str, Callable[[], None]] = {
            "G": self._go, "X": self._stop, "S": self._stop, "OFF": self._let_go,
            "MP": self._hold, "ZS": self._mechanics.clear, "Zr": self._mechanics.clear,
            "Zl": self._mechanics.clear,
        }  # fmt: skip
        if word in actions:
            actions[word]()
            return b""
        if word.startswith("R"):
            return self._report(word[1:])
        return b""  # what it does not know it does not answer

    def _value(self, text: str) -> int:
        if re.fullmatch(r"-?\d+", text):
            return int(text)
        return self._variables.get(text, 0)

    def _assign(self, name: str, text: str) -> None:
        value = self._value(text)
        if name == "P":
            self._target = value
        elif name == "V":
            self._velocity = value
        elif name == "A":
            self._acceleration = value
        elif name == "O":
            self._mechanics.set_motor_counts(value)
        elif len(name) == 1 and name.islower():
            self._variables[name] = value

    def _go(self) -> None:
        self._is_held = True
        if self._velocity > 0 and self._acceleration > 0:
            self._mechanics.move_to(
                self._target, self._velocity / VELOCITY_SCALE,
                self._acceleration / ACCELERATION_SCALE,
            )  # fmt: skip

    def _stop(self) -> None:
        self._mechanics.stop(max(1, self._acceleration) / ACCELERATION_SCALE)

    def _let_go(self) -> None:
        self._is_held = False
        self._mechanics.stop(1e9)

    def _hold(self) -> None:
        self._is_held = True

    def _report(self, what: str) -> bytes:
        it = self._mechanics
        low, high = it.limits
        known = {
            "P": it.motor_counts, "PA": it.motor_counts, "V": self._velocity,
            "Bt": int(it.is_moving), "Bo": int(not self._is_held), "Br": int(high),
            "Bl": int(low), "Bp": int(high), "Bm": int(low), "UAI": int(not it.is_home),
        }  # fmt: skip
        if what == "SP":
            return b"31040/412a1\r"
        if what in known:
            return b"%d\r" % known[what]
        if len(what) == 1 and what.islower():
            return b"%d\r" % self._variables.get(what, 0)
        return b""
