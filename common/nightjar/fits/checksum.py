# SPDX-License-Identifier: BSD-3-Clause
"""The 32-bit ones' complement sums of FITS 4.0 section 4.4.2.7 and appendix J.

The sum of big-endian 32-bit words modulo 2**32 - 1. Two facts make it fast. Moving data by one
byte rotates its sum by eight bits, so that pieces of any length can be summed apart; and swapping
the 16-bit halves of every word rotates it by sixteen, so that pixels can be summed in the byte
order of the machine before they are swapped.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]

MODULUS = 0xFFFF_FFFF
CHECKSUM_PLACEHOLDER = "0" * 16
_SHIFT = np.uint64(32)
_CHUNK_BYTES = 1 << 18

if sys.byteorder != "little":  # pragma: no cover - no such machine is supported
    raise ImportError("nightjar.fits is written for little-endian machines")


def fold(total: int) -> int:
    """Return the 32-bit ones' complement value of a sum; zero only for zero."""
    if total == 0:
        return 0
    return (total - 1) % MODULUS + 1


def rotate_right(value: int, bits: int) -> int:
    """Return a 32-bit value rotated."""
    bits %= 32
    return ((value >> bits) | (value << (32 - bits))) & MODULUS


def native_word_sum(words: U64, scratch: U64) -> int:
    """Return the exact sum of both 32-bit halves of each 64-bit word.

    With a carry lost at 2**64 the plain sum still tells the low halves once the sum of the high
    halves is known: low = all - 2**32 high (mod 2**64), exact for fewer than 2**32 words. One
    shift and two plain sums in cache run twice as fast as any sum that widens its terms.

    Parameters
    ----------
    words
        Contiguous.
    scratch
        At least as long; overwritten.
    """
    high_halves = scratch[: len(words)]
    np.right_shift(words, _SHIFT, out=high_halves)
    high = int(np.add.reduce(high_halves))
    low = (int(np.add.reduce(words)) - (high << 32)) & 0xFFFF_FFFF_FFFF_FFFF
    return high + low


class DataSum:
    """The running sum of a data unit.

    Attributes
    ----------
    count : int
        Bytes summed so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._total = 0
        self._swapped = np.empty(0, np.uint64)
        self._scratch = self._swapped

    def reset(self) -> None:
        """Begin a new sum."""
        self.count = self._total = 0

    @property
    def value(self) -> int:
        """The DATASUM so far."""
        return fold(self._total)

    def add_sum(self, total: int, count: int) -> None:
        """Add a piece whose own sum (as if it began at a multiple of four) is known.

        Parameters
        ----------
        total
            Sum of its big-endian words, a last incomplete one filled with zeros; not yet folded.
        count
            Its bytes.
        """
        self._total += rotate_right(fold(total), 8 * (self.count % 4))
        self.count += count

    def add(self, data: Any) -> None:
        """Add a piece in file order: anything with a contiguous buffer."""
        raw = np.frombuffer(data, dtype=np.uint8)
        for start in range(0, len(raw), _CHUNK_BYTES):
            piece = raw[start : start + _CHUNK_BYTES]
            whole = len(piece) // 8
            if whole > len(self._swapped):
                self._swapped = np.empty(whole, np.uint64)
                self._scratch = np.empty(whole, np.uint64)
            swapped = self._swapped[:whole]
            np.copyto(swapped, piece[: 8 * whole].view(">u8"))
            total = native_word_sum(swapped, self._scratch)
            rest = int.from_bytes(piece[8 * whole :].tobytes().ljust(8, b"\0"), "big")
            self.add_sum(total + (rest >> 32) + (rest & MODULUS), len(piece))


def datasum(data: Any) -> int:
    """Return the DATASUM of bytes in file order."""
    running = DataSum()
    running.add(data)
    return running.value


def checksum_text(total: int) -> str:
    """Return the 16 characters of CHECKSUM (appendix J.2) that bring an HDU's sum to all ones.

    Parameters
    ----------
    total
        Sum of the whole HDU with :data:`CHECKSUM_PLACEHOLDER` as the card's value.
    """
    complement = MODULUS - fold(total)
    text = [0] * 16
    for index, byte in enumerate(complement.to_bytes(4, "big")):
        quotient, remainder = divmod(byte, 4)
        four = [quotient + 0x30 + (remainder if i == 0 else 0) for i in range(4)]
        # Only digits and letters may appear: move pairs apart, which keeps their sum.
        while any(_is_punctuation(character) for character in four):
            for i in (0, 2):
                if _is_punctuation(four[i]) or _is_punctuation(four[i + 1]):
                    four[i] += 1
                    four[i + 1] -= 1
        for i in range(4):
            text[4 * i + index] = four[i]
    # The value begins at byte 12 of its card, one byte before a multiple of four.
    return bytes(text[-1:] + text[:-1]).decode("ascii")


def _is_punctuation(character: int) -> bool:
    return 0x3A <= character <= 0x40 or 0x5B <= character <= 0x60
