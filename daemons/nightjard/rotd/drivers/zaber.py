# SPDX-License-Identifier: BSD-3-Clause
"""Zaber stages, ASCII protocol: ``/address axis id command:checksum`` and a reply to each.

A reply is ``@address axis id OK IDLE -- data``, with a checksum too once ``comm.checksum`` is set:
what was changed on its way is then noticed at both ends. The device says ``BUSY`` while it moves;
``WR`` among its warnings means that its position is not to be believed: it was without power.
Lines that begin with ``!`` or ``#`` come unasked and are passed over. Speeds are microsteps per
second times 1.6384, accelerations per second squared times 1.6384e-4.
"""

from __future__ import annotations

import itertools
import re

from nightjar.clock import Clock
from nightjar.errors import DeviceError, DeviceNotFound, NightjarError
from nightjard.rotd.config import ZaberMotor as Options
from nightjard.rotd.drivers.base import MotorCapabilities, MotorState
from nightjard.rotd.drivers.serial_link import BadAnswer, NoAnswer, SerialLink

_SPEED = 1.6384
_ACCELERATION = 1.6384e-4
_LARGEST = 2**31 - 1
_REPLY = re.compile(r"@(\d\d) (\d) (\d\d) (OK|RJ) (BUSY|IDLE) (\S\S) ?(.*)\Z")
_OFF = {"FD", "FO"}  # the driver is off, by itself or by a command
_GARBLED = ("BADCOMMAND", "BADDATA")  # or what was sent was damaged
_NUMBER = re.compile(r"-?\d{1,10}(\.\d+)?\Z")


class Rejected(BadAnswer):
    """The device refused a command; the text is its reason."""


def checksum(text: bytes) -> bytes:
    """Return the two digits that follow the colon: the negated sum of all between start and it."""
    return b"%02X" % (-sum(text) & 0xFF)


class ZaberMotor:
    """One axis of a Zaber device; see :class:`nightjard.rotd.drivers.base.Motor`.

    Parameters
    ----------
    options
        Port, address, axis, input of the homing sensor.
    clock
        Times the answers.
    """

    def __init__(self, options: Options, clock: Clock | None = None) -> None:
        self._options = options
        self._link = SerialLink(options, "motor", clock)
        self._numbers = itertools.cycle(range(1, 99))
        self._known: dict[str, int] = {}
        self._has_checksums = False

    # --- opening ---

    def open(self) -> MotorCapabilities:
        """Open the port and find the device; a motion that goes on does."""
        self._link.open()
        self._known, self._has_checksums = {}, False
        try:
            self._resync()
            try:
                self._ask("set comm.checksum 1", axis=0)
                self._has_checksums = True
            except Rejected:
                pass  # an old one: its replies are believed without
            firmware = self._ask("get version", axis=0)[1]
            self.state()
        except NightjarError as error:
            self._link.close()
            raise DeviceNotFound(f"no Zaber device: {error.message}") from error
        return MotorCapabilities("Zaber", firmware, True, True, True)

    def close(self) -> None:
        """Close the port."""
        self._link.close()

    # --- the wire ---

    def _resync(self) -> None:
        self._link.send(b"\n")
        self._link.flush()

    def _ask(self, command: str, *, axis: int | None = None) -> tuple[bool, str]:
        """Send what may be sent again: all commands are absolute; return (is busy, data)."""
        at = self._options.axis if axis is None else axis
        error: NightjarError | None = None
        for _ in range(self._options.tries):
            number = next(self._numbers)
            # The space: were the colon lost, the checksum would be further digits of a number.
            body = f"{self._options.address} {at} {number:02d} {command} ".encode()
            self._link.send(b"/" + body + b":" + checksum(body) + b"\n")
            try:
                return self._check(self._link.receive(self._has_reply), number, command)
            except (NoAnswer, BadAnswer) as trouble:
                if isinstance(trouble, Rejected) and not trouble.message.endswith(_GARBLED):
                    raise
                error = trouble
                self._resync()
        assert error is not None
        raise error

    @staticmethod
    def _has_reply(got: bytes) -> bool:
        return b"@" in got and got.rfind(b"\n") > got.rfind(b"@")

    def _check(self, got: bytes, number: int, command: str) -> tuple[bool, str]:
        lines = [line for line in got.splitlines() if b"@" in line]
        line = lines[-1][lines[-1].index(b"@") :]
        body, colon, told = line.rpartition(b":")
        if colon or self._has_checksums:
            if checksum(body[1:]) != told.upper():
                raise BadAnswer(f"{self._link.name}: {line!r} has a wrong checksum")
        else:
            body = line
        match = _REPLY.match(body.decode("ascii", "replace"))
        if match is None or int(match[1]) != self._options.address or int(match[3]) != number:
            raise BadAnswer(f"{self._link.name}: {command} was answered by {line!r}")
        if match[4] == "RJ":
            raise Rejected(f"{self._link.name}: {command} was rejected: {match[7]}")
        return match[5] == "BUSY", match[7]

    def _number(self, command: str, *, axis: int | None = None) -> tuple[bool, int]:
        busy, text = self._ask(command, axis=axis)
        if not _NUMBER.match(text):
            raise BadAnswer(f"{self._link.name}: {command} was answered by {text!r}")
        return busy, int(float(text))

    def _set(self, name: str, value: int) -> None:
        """Set what is not so yet: settings are kept in a memory that wears."""
        if self._known.get(name) != value:
            self._known.pop(name, None)
            self._ask(f"set {name} {value}")
            self._known[name] = value

    # --- the motor ---

    def state(self) -> MotorState:
        """Read everything."""
        options = self._options
        busy, counts = self._number("get pos")
        flags = self._ask("warnings")[1].split()[1:]
        faults = [flag for flag in flags if flag.startswith("F") and flag not in _OFF]
        home = self._number(f"io get di {options.home_input}", axis=0)[1]
        return MotorState(
            counts=counts, is_moving=busy, is_powered=not _OFF & set(flags),
            is_home=home == options.home_level,
            is_limit_low=self._number("get limit.home.state")[1] == 1,
            is_limit_high=self._number("get limit.away.state")[1] == 1,
            fault=f"warning {' '.join(faults)}" if faults else "", was_reset="WR" in flags,
        )  # fmt: skip

    def move_to(self, counts: int, speed_counts_s: float, acceleration_counts_s2: float) -> None:
        """Start an absolute move."""
        if abs(counts) > _LARGEST:
            raise DeviceError(f"{self._link.name}: {counts} counts are beyond its counter")
        self._set("maxspeed", max(1, round(speed_counts_s * _SPEED)))
        self._set("accel", max(1, round(acceleration_counts_s2 * _ACCELERATION)))
        self._ask(f"move abs {counts}")

    def stop(self, deceleration_counts_s2: float) -> None:
        """Decelerate and stop."""
        try:
            self._known.pop("accel", None)  # it holds for both ways again at the next move
            value = max(1, round(deceleration_counts_s2 * _ACCELERATION))
            self._ask(f"set motion.decelonly {value}")
        except Rejected:
            pass  # an old one: it decelerates as it accelerates
        self._ask("stop")

    def set_counts(self, counts: int) -> None:
        """Call the present position so."""
        self._ask(f"set pos {counts}")

    def set_power(self, on: bool) -> None:
        """Switch the current of the motor."""
        self._ask("driver enable" if on else "driver disable")

    def clear(self) -> None:
        """Believe its counter from now on: a position that was set is one that holds."""
        busy, counts = self._number("get pos")
        if "WR" in self._ask("warnings")[1].split()[1:] and not busy:
            self._ask(f"set pos {counts}")
        self._ask("warnings clear")
