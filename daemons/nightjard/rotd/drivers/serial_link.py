# SPDX-License-Identifier: BSD-3-Clause
"""A serial port as it must be handled: exclusive, every wait with an end, nothing repeated blindly.

A line of a port is what one device says. Bytes that arrive when nothing was asked are what a
device says by itself, or what is left of an answer that came too late: they are thrown away before
each question, and told at level DEBUG, as is every byte that passes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from nightjar.clock import NS_PER_S, Clock, SystemClock
from nightjar.errors import DeviceError, DeviceLost, DeviceNotFound
from nightjard.rotd.config import SerialPort

log = logging.getLogger(__name__)
_LONGEST = 4096
_LOOK_S = 0.05  # a wait is made of such parts


class NoAnswer(DeviceLost):
    """Nothing, or not all of an answer, came in time."""


class BadAnswer(DeviceError):
    """What came is not an answer to what was asked."""


class SerialLink:
    """One port, one device, one thread.

    Parameters
    ----------
    options
        Port, speed, time-outs.
    what
        What messages call the device: "motor", "encoder".
    clock
        Ends the waits; None: the machine's.
    """

    def __init__(self, options: SerialPort, what: str, clock: Clock | None = None) -> None:
        self._options = options
        self._clock = clock or SystemClock()
        self._what = what
        self._port: Any = None
        self.lost_answers = 0

    @property
    def name(self) -> str:
        """Device and port, for messages."""
        return f"{self._what} on {self._options.port}"

    # --- opening ---

    def open(self) -> None:
        """Open the port for us alone.

        Raises
        ------
        DeviceNotFound
            No such port, no permission, or another program has it.
        """
        import serial

        self.close()
        options = self._options
        try:
            port = serial.serial_for_url(options.port, do_not_open=True)
            port.baudrate, port.write_timeout = options.baud, options.timeout_s
            # Set once: pyserial configures the whole port anew with each change.
            port.timeout = min(_LOOK_S, options.timeout_s)
            if "://" not in options.port:
                port.exclusive = True  # TIOCEXCL: a second program is refused
            port.open()
            port.reset_input_buffer()
        except (OSError, ValueError) as error:  # serial's own errors are OSErrors
            raise DeviceNotFound(
                f"{self.name} cannot be opened: {_cause(error)}", port=options.port
            ) from error
        self._port = port

    def close(self) -> None:
        """Close the port; harmless when not open."""
        if self._port is not None:
            try:
                self._port.close()
            except OSError as error:
                log.debug("%s: closing: %s", self.name, error)
            self._port = None

    # --- bytes ---

    def _now_s(self) -> float:
        return self._clock.monotonic_ns() / NS_PER_S

    def pause(self, seconds: float) -> None:
        """Give the device a moment."""
        self._clock.sleep(seconds)

    def send(self, data: bytes) -> None:
        """Send bytes, after throwing away what came unasked.

        Raises
        ------
        DeviceLost
            The port is gone.
        """
        port = self._opened()
        try:
            if port.in_waiting:
                log.debug("%s said unasked %r", self.name, port.read(port.in_waiting))
            log.debug("%s <- %r", self.name, data)
            port.write(data)
        except OSError as error:
            raise self._gone(error) from error

    def receive(self, is_whole: Callable[[bytes], bool]) -> bytes:
        """Return bytes as soon as they are a whole answer.

        Raises
        ------
        NoAnswer
            They were not, within the time-out; what had come is thrown away.
        DeviceLost
            The port is gone.
        """
        port = self._opened()
        end = self._now_s() + self._options.timeout_s
        got = b""
        while not is_whole(got):
            is_over = self._now_s() >= end  # first: what came while we were held up is there then
            try:
                waiting = port.in_waiting
                part = port.read(max(1, waiting)) if waiting or not is_over else b""
            except OSError as error:
                raise self._gone(error) from error
            got += part
            if (is_over and not part) or len(got) > _LONGEST:
                self.lost_answers += 1
                told = f"only {got!r}" if got else "nothing"
                raise NoAnswer(
                    f"{self.name} has answered {told} within {self._options.timeout_s:g} s: is it "
                    "connected and has it power?"
                )
        log.debug("%s -> %r", self.name, got)
        return got

    def ask(
        self,
        data: bytes,
        is_whole: Callable[[bytes], bool],
        resync: Callable[[], None] | None = None,
        check: Callable[[bytes], Any] = bytes,
    ) -> Any:
        """Ask what may be asked again, as often as configured; return what `check` makes of it.

        Never for motions: those are looked after, not repeated.

        Parameters
        ----------
        data
            The question.
        is_whole
            Tells whether bytes are a whole answer.
        resync
            Called before it is asked again: brings a confused device back to the begin of a line.
        check
            Returns the answer's value; raises BadAnswer.

        Raises
        ------
        NoAnswer, BadAnswer
            The last of the tries failed so.
        DeviceLost
            The port is gone.
        """
        tries = self._options.tries
        for number in range(1, tries + 1):
            try:
                self.send(data)
                return check(self.receive(is_whole))
            except (NoAnswer, BadAnswer) as error:
                log.debug("%s: try %d of %d: %s", self.name, number, tries, error)
                if number == tries:
                    raise
                if resync is not None:
                    resync()
        raise AssertionError("unreachable")

    def flush(self) -> None:
        """Throw away what has come."""
        try:
            self._opened().reset_input_buffer()
        except OSError as error:
            raise self._gone(error) from error

    def _opened(self) -> Any:
        if self._port is None:
            raise DeviceLost(f"{self.name} is not open")
        return self._port

    def _gone(self, error: OSError) -> DeviceLost:
        self.close()
        return DeviceLost(f"{self.name} is gone: {_cause(error)}", port=self._options.port)


def _cause(error: BaseException) -> str:
    """Return what went wrong without the library's own frame around it."""
    text = str(error)
    if "exclusively lock" in text or "Resource temporarily unavailable" in text:
        return "another program has it open"
    strerror = getattr(error, "strerror", None)
    return str(strerror) if strerror else text
