# SPDX-License-Identifier: BSD-3-Clause
"""US Digital absolute encoders (A2, AD2-4) on the SEI bus: one byte asks, three bytes answer.

A command is ``code << 4 | address``. The position (code 1) is answered by a status byte and the
position, big endian: three bytes; in the mode for several turns by five, of which the middle two
are turns. What is wrong is answered by silence. The resolution is set with the prefix 0xF.
"""

from __future__ import annotations

from nightjar.clock import Clock
from nightjar.errors import DeviceNotFound, NightjarError
from nightjard.rotd.config import SeiEncoder as Options
from nightjard.rotd.drivers.base import EncoderReading
from nightjard.rotd.drivers.serial_link import BadAnswer, SerialLink

_POSITION = 0x1
_WAKE = 0x6
_PREFIX = 0xF
_SET_RESOLUTION = 0x0A
_ANSWER = 3


class SeiEncoder:
    """An SEI encoder; see :class:`nightjard.rotd.drivers.base.Encoder`.

    Parameters
    ----------
    options
        Port, address, resolution.
    clock
        Stamps the readings.
    """

    def __init__(self, options: Options, clock: Clock) -> None:
        self._options = options
        self._clock = clock
        self._link = SerialLink(options, "encoder", clock)

    @property
    def counts_per_turn(self) -> int:
        """Counts of one turn of its shaft."""
        return self._options.counts_per_turn

    def open(self) -> str:
        """Open the port, wake it, set its resolution."""
        self._link.open()
        resolution = self._options.counts_per_turn % 65536
        try:
            self._link.send(self._byte(_WAKE))
            self._link.send(
                self._byte(_PREFIX) + bytes([_SET_RESOLUTION, resolution >> 8, resolution & 255])
            )
            self.read()
        except NightjarError as error:
            self._link.close()
            raise DeviceNotFound(f"no SEI encoder: {error.message}") from error
        return f"SEI encoder {self._options.address}, {self._options.counts_per_turn} counts"

    def close(self) -> None:
        """Close the port."""
        self._link.close()

    def _byte(self, code: int) -> bytes:
        return bytes([code << 4 | self._options.address])

    def read(self) -> EncoderReading:
        """Read the position."""
        counts, utc_ns = self._link.ask(
            self._byte(_POSITION), lambda got: len(got) >= _ANSWER, self._link.flush, self._parse
        )
        return EncoderReading(counts, utc_ns, True)

    def _parse(self, answer: bytes) -> tuple[int, int]:
        status, counts = answer[0], int.from_bytes(answer[1:3], "big")
        if len(answer) != _ANSWER:
            raise BadAnswer(f"{self._link.name}: {len(answer)} bytes {answer!r} in place of 3")
        if counts >= self._options.counts_per_turn:
            raise BadAnswer(
                f"{self._link.name}: {counts} of {self._options.counts_per_turn} counts"
            )
        if status & 0x80:
            raise BadAnswer(f"{self._link.name}: tells a fault, status {status:#04x}")
        return counts, self._clock.now_ns()
