# SPDX-License-Identifier: BSD-3-Clause
"""A Zaber device as it answers in its ASCII protocol; see Zaber's protocol manual."""

from __future__ import annotations

import re

from nightjard.simulators.rotator.mechanics import Mechanics

_SPEED, _ACCELERATION = 1.6384, 1.6384e-4
_COMMAND = re.compile(r"(\d{1,2})? ?(\d)? ?(\d{2})? ?([a-z].*)?\Z")
_SETTINGS = {"maxspeed": 153600, "motion.accelonly": 205, "motion.decelonly": 205}


class _Refused(Exception):
    """A command is rejected; the argument is the reason."""


class ZaberDevice:
    """A device with one axis on top of the mechanics.

    Parameters
    ----------
    mechanics
        What it turns.
    address
        Its address in the chain.
    home_input
        Digital input of the homing sensor: 1 where the tab is in it.
    """

    def __init__(self, mechanics: Mechanics, *, address: int = 1, home_input: int = 1) -> None:
        self._mechanics = mechanics
        self._address = address
        self._home_input = home_input
        self._line = b""
        self._boots = mechanics.boots
        self._settings = dict(_SETTINGS)  # they survive a power cut
        self._has_checksums = False
        self._has_reference = False
        self._is_off = False

    def feed(self, data: bytes) -> bytes:
        """Take bytes; without power nothing is heard."""
        if not self._mechanics.is_answering:
            self._line = b""
            return b""
        if self._boots != self._mechanics.boots:
            self._boots = self._mechanics.boots
            self._has_reference = self._is_off = False
        answer = b""
        for byte in data:
            one = bytes([byte])
            if one in (b"\r", b"\n"):
                line, self._line = self._line, b""
                answer += self._take(line)
            elif one == b"/":
                self._line = one  # a new message begins, whatever came before
            else:
                self._line += one
        return answer

    def _take(self, line: bytes) -> bytes:
        if not line.startswith(b"/"):
            return b""
        body, colon, told = line[1:].rpartition(b":")
        if colon:
            if told != b"%02X" % (-sum(body) & 0xFF):
                return b""  # damaged on its way: not for anybody
        else:
            body = line[1:]
        match = _COMMAND.match(body.decode("ascii", "replace"))
        if match is None or int(match[1] or 0) not in (0, self._address):
            return b""
        axis, number = int(match[2] or 0), match[3]
        try:
            result, data = "OK", self._do((match[4] or "").split(), axis)
        except _Refused as refused:
            result, data = "RJ", refused.args[0]
        status = "BUSY" if self._mechanics.is_moving else "IDLE"
        text = f"{self._address:02d} {axis} " + (f"{number} " if number else "")
        text += f"{result} {status} {(self._flags() or ['--'])[0]} {data}"
        made = text.encode()
        if self._has_checksums:
            made += b":%02X" % (-sum(made) & 0xFF)
        return b"@" + made + b"\r\n"

    def _flags(self) -> list[str]:
        flags = ["FO"] if self._is_off else []
        return flags if self._has_reference else [*flags, "WR"]

    def _do(self, words: list[str], axis: int) -> str:
        if axis > 1:
            raise _Refused("BADAXIS")
        if not words:
            return "0"
        if words[0] in ("get", "set", "io"):
            return {"get": self._get, "set": self._set, "io": self._io}[words[0]](words[1:])
        if words == ["warnings"] or words == ["warnings", "clear"]:
            flags = self._flags()
            return f"{len(flags):02d} {' '.join(flags)}".strip()
        if words == ["stop"]:
            self._mechanics.stop(self._settings["motion.decelonly"] / _ACCELERATION)
            return "0"
        if words[0] == "driver" and words[1:] in (["enable"], ["disable"]):
            self._is_off = words[1] == "disable"
            if self._is_off:
                self._mechanics.stop(1e9)
            return "0"
        if words[:2] == ["move", "abs"] and len(words) == 3:
            return self._move(words[2])
        raise _Refused("BADCOMMAND")

    def _move(self, target: str) -> str:
        if not re.fullmatch(r"-?\d+", target):
            raise _Refused("BADDATA")
        if self._is_off:
            raise _Refused("DRIVERDISABLED")
        self._mechanics.move_to(
            int(target), self._settings["maxspeed"] / _SPEED,
            self._settings["motion.accelonly"] / _ACCELERATION,
        )  # fmt: skip
        return "0"

    def _get(self, words: list[str]) -> str:
        it = self._mechanics
        low, high = it.switches
        known = {
            "pos": it.motor_counts, "version": "6.22", "comm.checksum": int(self._has_checksums),
            "limit.home.state": int(low), "limit.away.state": int(high),
            "accel": self._settings["motion.accelonly"], **self._settings,
        }  # fmt: skip
        if len(words) != 1 or words[0] not in known:
            raise _Refused("BADCOMMAND")
        return str(known[words[0]])

    def _set(self, words: list[str]) -> str:
        if len(words) != 2 or not re.fullmatch(r"-?\d+", words[1]):
            raise _Refused("BADDATA")
        name, value = words[0], int(words[1])
        if name == "pos":
            if self._mechanics.is_moving:
                raise _Refused("STATUSBUSY")
            self._mechanics.set_motor_counts(value)
            self._mechanics.clear()
            self._has_reference = True
        elif name == "comm.checksum":
            self._has_checksums = bool(value)
        elif name == "accel":
            self._settings["motion.accelonly"] = self._settings["motion.decelonly"] = value
        elif name in self._settings:
            self._settings[name] = value
        else:
            raise _Refused("BADCOMMAND")
        return "0"

    def _io(self, words: list[str]) -> str:
        if len(words) != 3 or words[:2] != ["get", "di"]:
            raise _Refused("BADCOMMAND")
        return str(int(words[2] == str(self._home_input) and self._mechanics.is_home))
