# SPDX-License-Identifier: BSD-3-Clause
"""A Galil DMC controller as it answers on its line; see Galil's command reference."""

from __future__ import annotations

import re

from nightjard.simulators.rotator.mechanics import Mechanics

_TOKEN = re.compile(r"@IN\[(\d+)\]|_([A-Z]{2})([A-H])|([A-Za-z]\w*)")
_VALUE = re.compile(r"([A-Z]{2})([A-H])=(-?\d+)\Z")
_VARIABLE = re.compile(r"([A-Za-z]\w{0,7})=(-?\d+)\Z")
_REVISION = b"\x12\x16"
_ERRORS = {
    1: "Unrecognized command", 6: "Number out of range", 7: "Command not valid while running",
    20: "Begin not valid with motor off", 57: "Function not found",
}  # fmt: skip
STOPPED_AT_TARGET, STOPPED_FORWARD, STOPPED_REVERSE, STOPPED = 1, 2, 3, 4


class _Refused(Exception):
    """A command is answered by a question mark; the argument is the code of TC."""


class GalilDevice:
    """One axis of a controller on top of the mechanics.

    Parameters
    ----------
    mechanics
        What it turns.
    axis
        Its letter.
    home_input
        Where the homing sensor is connected; it reads 0 where the tab is in it.
    """

    def __init__(self, mechanics: Mechanics, *, axis: str = "A", home_input: int = 1) -> None:
        self._mechanics = mechanics
        self._axis = axis
        self._home_input = home_input
        self._line = b""
        self._boots = mechanics.boots
        self._forget()

    def _forget(self) -> None:
        """Be as after power-up: echo on, motor off."""
        self._values = {"PA": 0, "SP": 25000, "AC": 256000, "DC": 256000}
        self._variables: dict[str, int] = {}
        self._echoes = True
        self._is_off = False  # jumper MO is not set: it servos when its power comes
        self._error = 0
        self._stop_code = STOPPED_AT_TARGET
        self._line = b""

    def feed(self, data: bytes) -> bytes:
        """Take bytes; without power nothing is heard."""
        if not self._mechanics.is_answering:
            return b""
        if self._boots != self._mechanics.boots:
            self._boots = self._mechanics.boots
            self._forget()
        answer = b""
        for byte in data:
            one = bytes([byte])
            if self._echoes:
                answer += one
            if one == b"\r":
                line, self._line = self._line, b""
                answer += self._do_line(line)
            elif one != b"\n":
                self._line += one
        return answer

    def _do_line(self, line: bytes) -> bytes:
        if line == _REVISION:
            return b"DMC2112 Rev 1.0o\r\n:"
        if not line:
            return b":"
        answer = b""
        for part in line.decode("ascii", "replace").split(";"):
            try:
                answer += self._do(part.strip()) + b":"
            except _Refused as refused:
                self._error = refused.args[0]
                return answer + b"?"
        return answer

    def _do(self, text: str) -> bytes:
        if text == "TC1":
            code, self._error = self._error, 0
            return f" {code} {_ERRORS.get(code, '')}\r\n".encode()
        if text.startswith("MG "):
            values = [self._operand(word.strip()) for word in text[3:].split(",")]
            return ("".join(f" {value:.4f}" for value in values) + "\r\n").encode()
        if match := _VALUE.match(text):
            if match[2] == self._axis:
                self._assign(match[1], int(match[3]))
                return b""
        elif match := _VARIABLE.match(text):
            self._variables[match[1]] = int(match[2])
            return b""
        elif text.replace(" ", "") == "EO0":
            self._echoes = False
            return b""
        elif text.endswith(self._axis):
            self._act(text[: -len(self._axis)])
            return b""
        raise _Refused(1)

    def _assign(self, name: str, value: int) -> None:
        if name == "DP":
            if self._mechanics.is_moving:
                raise _Refused(7)
            self._mechanics.set_motor_counts(value)
        elif name == "PA":
            self._values["PA"] = value
        elif name == "SP":
            self._values["SP"] = value // 2 * 2
        elif name in ("AC", "DC"):
            if value < 1024:
                raise _Refused(6)
            self._values[name] = value // 1024 * 1024
        else:
            raise _Refused(1)

    def _act(self, name: str) -> None:
        it, values = self._mechanics, self._values
        if name == "BG":
            if self._is_off:
                raise _Refused(20)
            if it.is_moving:
                raise _Refused(7)
            self._stop_code = STOPPED_AT_TARGET
            it.move_to(values["PA"], values["SP"], values["AC"])
        elif name == "ST":
            it.stop(values["DC"])
            self._stop_code = STOPPED
        elif name == "MO":
            it.stop(1e9)
            self._is_off = True
        elif name == "SH":
            self._is_off = False
        else:
            raise _Refused(1)

    def _operand(self, word: str) -> float:
        match = _TOKEN.fullmatch(word)
        if match is None:
            raise _Refused(1)
        it = self._mechanics
        if match[1]:
            return float(int(match[1]) != self._home_input or not it.is_home)
        if match[4]:
            if match[4] not in self._variables:
                raise _Refused(57)
            return self._variables[match[4]]
        if match[3] != self._axis:
            raise _Refused(1)
        low, high = it.switches
        known = {
            "TP": it.motor_counts, "BG": int(it.is_moving), "MO": int(self._is_off),
            "LF": int(not high), "LR": int(not low),
            "SC": 0 if it.is_moving else self._stop_code, **self._values,
        }  # fmt: skip
        if match[2] not in known:
            raise _Refused(1)
        return known[match[2]]
