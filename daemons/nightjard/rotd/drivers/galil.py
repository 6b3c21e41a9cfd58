# SPDX-License-Identifier: BSD-3-Clause
"""Galil DMC controllers: text commands ended by a carriage return, over RS-232 or TCP.

A command is answered by ``:`` where it was taken and by ``?`` where not; ``TC1`` then tells why. A
report comes before the colon, as numbers with four decimals. Variable ``NJMARK`` holds a mark while
the counter is to be believed: a controller that was without power does not know it.

Numbers of a motion are read back before it begins: a byte that is lost on the line costs a try and
never a wrong target.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from nightjar.clock import Clock
from nightjar.errors import DeviceError, DeviceNotFound, NightjarError
from nightjard.rotd.config import GalilMotor as Options
from nightjard.rotd.drivers.base import MotorCapabilities, MotorState
from nightjard.rotd.drivers.serial_link import BadAnswer, NoAnswer, SerialLink

T = TypeVar("T")
_MARK = 4711
_LARGEST = 2**31 - 1
_NUMBER = re.compile(r"-?(0|[1-9]\d{0,9})\.0000\Z")
_REVISION = b"\x12\x16"  # control-R control-V
_RATE_STEP = 1024  # accelerations are rounded to multiples of it
_UNRECOGNIZED = "rejected: 1 "
_FORWARD_LIMIT, _REVERSE_LIMIT, _OFF_ON_ERROR = 2, 3, 8  # stop codes
_ALLOWED = {
    "_BG": (0, 1), "_MO": (0, 1), "_LF": (0, 1), "_LR": (0, 1), "@IN": (0, 1),
    "NJM": (0, _MARK),
}  # fmt: skip
_FAULTS = {
    _OFF_ON_ERROR: "the position error grew too large (stop code 8)",
    6: "its abort input (stop code 6)",
}


class Rejected(BadAnswer):
    """The controller answered by a question mark."""


class GalilMotor:
    """One axis of a Galil controller; see :class:`nightjard.rotd.drivers.base.Motor`.

    Parameters
    ----------
    options
        Port, axis, input of the homing sensor.
    clock
        Times the answers.
    """

    def __init__(self, options: Options, clock: Clock | None = None) -> None:
        self._options = options
        self._axis = options.axis
        self._link = SerialLink(options, "motor", clock)

    # --- opening ---

    def open(self) -> MotorCapabilities:
        """Open the port and find the controller; a motion that goes on does."""
        self._link.open()
        try:
            self._resync()
            self._silence_echo()
            firmware = self._ask(_REVISION, str)
            self.state()
        except NightjarError as error:
            self._link.close()
            raise DeviceNotFound(f"no Galil controller: {error.message}") from error
        return MotorCapabilities("Galil DMC", firmware, True, True, True)

    def close(self) -> None:
        """Close the port."""
        self._link.close()

    # --- the wire ---

    def _silence_echo(self) -> None:
        try:
            self._command("EO 0")
        except BadAnswer:
            self._resync()  # a controller on TCP has no echo to be silenced

    def _resync(self) -> None:
        """End whatever line the controller believes to be in."""
        try:
            self._link.send(b"\r")
            self._link.receive(_is_whole)
        except NoAnswer:
            pass
        self._link.flush()

    def _ask(self, command: bytes, parse: Callable[[str], T]) -> T:
        """Return what `parse` makes of the report to a question that may be repeated."""

        def check(got: bytes) -> T:
            if got.endswith(b"?"):
                raise Rejected(f"{self._link.name}: {command!r} was rejected")
            told = got[:-1].removeprefix(command + b"\r")  # an echo, after it was without power
            return parse(told.decode("ascii", "replace").strip())

        answer: T = self._link.ask(command + b"\r", _is_whole, self._resync, check)
        return answer

    def _command(self, text: str) -> None:
        """Send what reports nothing, once; see that it was taken."""
        self._link.send(text.encode() + b"\r")
        count = text.count(";") + 1

        def is_done(got: bytes) -> bool:
            return got.count(b":") + got.count(b"?") >= count

        answer = self._link.receive(is_done)
        if b"?" in answer:
            raise Rejected(f"{self._link.name}: {text} was rejected: {self._why()}")

    def _why(self) -> str:
        try:
            return self._ask(b"TC1", str) or "no reason given"
        except NightjarError as error:
            return error.message

    def _report(self, *operands: str) -> list[int]:
        """Return the numbers that operands have, in one question.

        What can be 0 or 1 only must be so, the mark too: else the answer was damaged.
        """
        command = "MG " + ",".join(operands)

        def parse(text: str) -> list[int]:
            words = text.split()
            if len(words) != len(operands) or not all(_NUMBER.match(word) for word in words):
                raise BadAnswer(f"{self._link.name}: {command} was answered by {text!r}")
            values = [int(float(word)) for word in words]
            for operand, value in zip(operands, values, strict=True):
                allowed = _ALLOWED.get(operand[:3])
                if allowed is not None and value not in allowed:
                    raise BadAnswer(f"{self._link.name}: {operand} was answered by {value}")
            return values

        return self._ask(command.encode(), parse)

    def _set(self, wanted: dict[str, int], slack: dict[str, int]) -> None:
        """Give values, and see that they are held."""
        line = ";".join(f"{name}{self._axis}={value}" for name, value in wanted.items())
        seen: list[int] = []
        for _ in range(self._options.tries):
            try:
                self._command(line)
            except (NoAnswer, Rejected):
                self._resync()
            seen = self._report(*(f"_{name}{self._axis}" for name in wanted))
            if all(
                abs(value - want) <= slack.get(name, 0)
                for value, (name, want) in zip(seen, wanted.items(), strict=True)
            ):
                return
        raise DeviceError(f"{self._link.name}: {line} was taken for {seen}")

    # --- the motor ---

    def state(self) -> MotorState:
        """Read everything, in one question."""
        a, options = self._axis, self._options
        asked = [f"_TP{a}", f"_BG{a}", f"_MO{a}", f"_LF{a}", f"_LR{a}", f"_SC{a}",
                 f"@IN[{options.home_input}]", "NJMARK"]  # fmt: skip
        try:
            found = self._report(*asked)
        except Rejected:  # it was without power: it has no mark, and echoes again
            self._silence_echo()
            found = [*self._report(*asked[:-1]), self._mark()]
        counts, moving, off, forward, reverse, stop_code, home, mark = found
        return MotorState(
            counts=counts, is_moving=bool(moving), is_powered=not off,
            is_home=home == options.home_level,
            is_limit_low=not reverse or stop_code == _REVERSE_LIMIT,
            is_limit_high=not forward or stop_code == _FORWARD_LIMIT,
            fault=_FAULTS.get(stop_code, ""), was_reset=mark != _MARK,
        )  # fmt: skip

    def _mark(self) -> int:
        """Return the mark; 0 where the controller, asked as often as questions are, has none."""
        try:
            return self._report("NJMARK")[0]
        except Rejected:
            return 0

    def move_to(self, counts: int, speed_counts_s: float, acceleration_counts_s2: float) -> None:
        """Start an absolute move; one that goes on is stopped before."""
        if abs(counts) > _LARGEST:
            raise DeviceError(f"{self._link.name}: {counts} counts are beyond its counter")
        a = self._axis
        self._end_motion()
        rate = max(_RATE_STEP, round(acceleration_counts_s2))
        speed = max(2, round(speed_counts_s / 2) * 2)
        self._set(
            {"PA": counts, "SP": speed, "AC": rate, "DC": rate},
            {"SP": 2, "AC": _RATE_STEP, "DC": _RATE_STEP},
        )
        for _ in range(self._options.tries):
            try:
                self._command(f"BG{a}")
                return
            except Rejected as error:
                if _UNRECOGNIZED not in error.message:  # else a byte was lost
                    raise
            except NoAnswer:
                self._resync()
            if self._report(f"_BG{a}")[0] or self._report(f"_TP{a}")[0] == counts:
                return
        # Without a motion to be seen its state says why.

    def _end_motion(self) -> None:
        """See that nothing moves: a controller begins no motion before the last has ended."""
        a = self._axis
        for _ in range(50):
            if not self._report(f"_BG{a}")[0]:
                return
            self._command(f"ST{a}")
            self._link.pause(0.02)
        raise DeviceError(f"{self._link.name}: a motion goes on and a new one cannot begin yet")

    def stop(self, deceleration_counts_s2: float) -> None:
        """Decelerate and stop; told twice where the first was not acknowledged."""
        line = f"DC{self._axis}={max(_RATE_STEP, round(deceleration_counts_s2))};ST{self._axis}"
        try:
            self._command(line)
        except (NoAnswer, BadAnswer):
            self._resync()
            self._command(f"ST{self._axis}")

    def set_counts(self, counts: int) -> None:
        """Call the present position so."""
        self._set_verified(f"DP{self._axis}={counts}", f"_TP{self._axis}", counts)

    def _set_verified(self, line: str, operand: str, wanted: int) -> None:
        seen = None
        for _ in range(self._options.tries):
            try:
                self._command(line)
            except (NoAnswer, Rejected):
                self._resync()
            seen = self._report(operand)[0]
            if seen == wanted:
                return
        raise DeviceError(f"{self._link.name}: {line} was taken for {seen}")

    def set_power(self, on: bool) -> None:
        """Servo where it is, or let go of the shaft."""
        a = self._axis
        if not on:
            self._command(f"ST{a}")
        self._set_verified(f"SH{a}" if on else f"MO{a}", f"_MO{a}", 0 if on else 1)

    def clear(self) -> None:
        """Forget faults; the counter is to be believed from now on."""
        a = self._axis
        if self._report(f"_SC{a}")[0] in (_FORWARD_LIMIT, _REVERSE_LIMIT, *_FAULTS):
            self._command(f"ST{a}")  # its stop code is told by the next stop
        for _ in range(self._options.tries):
            try:
                self._command(f"NJMARK={_MARK}")
            except (NoAnswer, Rejected):
                self._resync()
            if self._mark() == _MARK:
                return
        raise DeviceError(f"{self._link.name}: it does not keep a variable")


def _is_whole(got: bytes) -> bool:
    return got.endswith((b":", b"?"))
