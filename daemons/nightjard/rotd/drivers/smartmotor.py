# SPDX-License-Identifier: BSD-3-Clause
"""Animatics (Moog) SmartMotor: text commands ended by a carriage return.

Reports: ``RP`` position, ``RBt`` trajectory under way, ``RBo`` drive off, ``RBr`` and ``RBl``
latched right (plus) and left (minus) limit, ``RUxI`` an input, ``Rv`` a user variable. Where it is
one of a chain, bytes 0x80 + address precede, and what is sent comes back as an echo. After
power-up it hears nothing for half a second, and its variables are 0.

Numbers of a motion are put into user variables and read back before ``G``: a byte that is lost on
the line then costs a try and never a wrong target. Variable ``m`` holds a mark while its counter is
to be believed; 0 in it means that the motor was without power.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from nightjar.clock import Clock
from nightjar.errors import DeviceError, DeviceNotFound, NightjarError
from nightjard.rotd.config import SmartMotor as Options
from nightjard.rotd.drivers.base import MotorCapabilities, MotorState
from nightjard.rotd.drivers.serial_link import BadAnswer, NoAnswer, SerialLink

T = TypeVar("T")
_MARK = 4711
_LARGEST = 2**31 - 1
_ALLOWED = {b"RB": (0, 1), b"RU": (0, 1), b"Rm": (0, _MARK)}  # else an answer was damaged
_NUMBER = re.compile(r"(-?[1-9]\d{0,9}|0)\Z")


class SmartMotor:
    """A SmartMotor on a serial port; see :class:`nightjard.rotd.drivers.base.Motor`.

    Parameters
    ----------
    options
        Port, address, scales.
    clock
        Times the answers.
    """

    def __init__(self, options: Options, clock: Clock | None = None) -> None:
        self._options = options
        self._link = SerialLink(options, "motor", clock)
        self._prefix = b"" if options.address is None else bytes([0x80 + options.address])
        self._acceleration = 0

    # --- opening ---

    def open(self) -> MotorCapabilities:
        """Open the port and find the motor; its motion, if any, goes on."""
        self._link.open()
        try:
            self._tell(b"ECHO_OFF" if not self._options.echoes else b"ECHO")
            self._resync()
            self._report(b"RP")
            firmware = self._ask(b"RSP", list)[0]
            self._tell(b"MP")
        except NightjarError as error:
            self._link.close()
            raise DeviceNotFound(f"no SmartMotor: {error.message}") from error
        self._acceleration = 0
        return MotorCapabilities("SmartMotor", firmware, True, True, True, keeps_position=False)

    def close(self) -> None:
        """Close the port."""
        self._link.close()

    # --- the wire ---

    def _sent(self, command: bytes) -> bytes:
        return self._prefix + command + b"\r"

    def _tell(self, command: bytes) -> None:
        """Send what has no answer but its echo."""
        data = self._sent(command)
        self._link.send(data)
        if self._options.echoes:
            echo = self._link.receive(lambda got: len(got) >= len(data))
            if echo[: len(data)] != data:
                self._resync()
                raise BadAnswer(f"{self._link.name}: {data!r} came back as {echo!r}")

    def _resync(self) -> None:
        """End whatever line the motor believes to be in."""
        self._link.send(b"\r")
        if self._options.echoes:
            with suppress(NoAnswer):
                self._link.receive(lambda got: got.endswith(b"\r"))
        self._link.flush()

    def _ask(self, command: bytes, check: Callable[[list[str]], list[T]]) -> list[T]:
        """Return what `check` makes of the answers to the reports of one line."""
        data = self._sent(command)
        skip = len(data) if self._options.echoes else 0
        count = command.count(b" ") + 1  # each report is answered by a line

        def whole(got: bytes) -> bool:
            return len(got) > skip and got[skip:].count(b"\r") >= count

        def checked(got: bytes) -> list[T]:
            words = got[skip:].decode("ascii", "replace").split("\r")
            if (skip and got[:skip] != data) or len(words) != count + 1 or words[-1]:
                raise BadAnswer(f"{self._link.name}: {data!r} was answered by {got!r}")
            return check([word.strip() for word in words[:-1]])

        answers: list[T] = self._link.ask(data, whole, self._resync, checked)
        return answers

    def _reports(self, *commands: bytes) -> list[int]:
        """Return the numbers that reports give, asked in one line: a line each takes too long."""
        line = b" ".join(commands)

        def check(words: list[str]) -> list[int]:
            if not all(_NUMBER.match(word) and abs(int(word)) <= _LARGEST for word in words):
                raise BadAnswer(f"{self._link.name}: {line.decode()} was answered by {words}")
            values = [int(word) for word in words]
            for command, value in zip(commands, values, strict=True):
                if value not in _ALLOWED.get(command[:2], (value,)):
                    name = command.decode()
                    raise BadAnswer(f"{self._link.name}: {name} was answered by {value}")
            return values

        return self._ask(line, check)

    def _report(self, command: bytes) -> int:
        return self._reports(command)[0]

    def _put(self, variable: str, value: int) -> None:
        """Set a user variable, and see that it holds the value."""
        seen = None
        for _ in range(self._options.tries):
            self._tell(f"{variable}={value}".encode())
            seen = self._report(f"R{variable}".encode())
            if seen == value:
                return
        raise DeviceError(f"{self._link.name}: {variable}={value} was taken for {seen}")

    # --- the motor ---

    def state(self) -> MotorState:
        """Read everything, in one question."""
        options = self._options
        counts, moving, off, low, high, home, mark = self._reports(
            b"RP", b"RBt", b"RBo", b"RBl", b"RBr", f"R{options.home_input}".encode(), b"Rm"
        )
        return MotorState(
            counts=counts, is_moving=bool(moving), is_powered=not off,
            is_home=home == options.home_level, is_limit_low=bool(low), is_limit_high=bool(high),
            was_reset=mark != _MARK,
        )  # fmt: skip

    def move_to(self, counts: int, speed_counts_s: float, acceleration_counts_s2: float) -> None:
        """Start an absolute move."""
        if abs(counts) > _LARGEST:
            raise DeviceError(f"{self._link.name}: {counts} counts are beyond its counter")
        self._put("p", counts)
        self._put("v", max(1, round(speed_counts_s * self._options.velocity_scale)))
        self._set_acceleration(acceleration_counts_s2)
        for _ in range(self._options.tries):
            self._tell(b"P=p V=v MP G")
            if self._report(b"RBt") or self._report(b"RP") == counts:
                return
        # Without a motion to be seen it says so itself: the drive is off, or a limit holds it.

    def _set_acceleration(self, counts_s2: float) -> None:
        value = max(1, round(counts_s2 * self._options.acceleration_scale))
        if value != self._acceleration:
            self._put("a", value)
            self._tell(b"A=a")
            self._acceleration = value

    def stop(self, deceleration_counts_s2: float) -> None:
        """Decelerate and stop; told twice, for a byte may be lost and nothing can be waited for."""
        self._acceleration = 0
        value = max(1, round(deceleration_counts_s2 * self._options.acceleration_scale))
        error: NightjarError | None = None
        for _ in range(2):
            try:
                self._tell(f"A={value} X".encode())
            except (NoAnswer, BadAnswer) as trouble:
                error = trouble
        if error is not None:
            self._report(b"RBt")

    def set_counts(self, counts: int) -> None:
        """Call the present position so."""
        self._put("p", counts)
        self._tell(b"O=p")

    def set_power(self, on: bool) -> None:
        """Let go of the shaft, or hold it where it is."""
        self._tell(b"MP ZS" if on else b"OFF")
        if on:
            self._put("p", self._report(b"RP"))
            self._tell(b"P=p G")

    def clear(self) -> None:
        """Forget latched limits and faults; the counter is to be believed from now on."""
        self._tell(b"ZS")
        self._put("m", _MARK)
