# SPDX-License-Identifier: BSD-3-Clause
"""A US Digital absolute encoder as it answers on the SEI bus."""

from __future__ import annotations

from nightjard.simulators.rotator.mechanics import Mechanics


class SeiDevice:
    """The encoder on top of the mechanics.

    Parameters
    ----------
    mechanics
        What turns it.
    address
        On the bus; 15 reaches all.
    """

    def __init__(self, mechanics: Mechanics, address: int = 0) -> None:
        self._mechanics = mechanics
        self._address = address
        self._resolution = mechanics.parameters.encoder_counts_per_turn
        self._prefix: list[int] | None = None
        self._is_asleep = False

    def feed(self, data: bytes) -> bytes:
        """Take bytes."""
        answer = b""
        for byte in data:
            answer += self._more(byte) if self._prefix is not None else self._begin(byte)
        return answer

    def _begin(self, byte: int) -> bytes:
        code, address = byte >> 4, byte & 15
        if address not in (self._address, 15):
            return b""
        if code == 0xF:
            self._prefix = []
        elif code == 0x5:
            self._is_asleep = True
        elif code == 0x6:
            self._is_asleep = False
        elif code == 0x1 and not self._is_asleep:
            return self._position()
        return b""

    def _more(self, byte: int) -> bytes:
        words = [*(self._prefix or []), byte]
        if words[0] == 0x0A:
            if len(words) < 3:
                self._prefix = words
                return b""
            self._resolution = (words[1] << 8 | words[2]) or 65536
        self._prefix = None
        return b""

    def _position(self) -> bytes:
        per_turn = self._mechanics.parameters.encoder_counts_per_turn
        counts = self._mechanics.encoder_counts * self._resolution // per_turn
        return b"\x00" + counts.to_bytes(2, "big")
