# SPDX-License-Identifier: BSD-3-Clause
"""The card images of the header that matters in a file, byte for byte.

That is the primary header, or where the primary unit has no data and a compressed image follows
(``.fits.fz``), the header of that image.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from nightjar.errors import StorageError
from nightjar.fits.cards import BLOCK_BYTES, CARD_BYTES
from nightjar.fits.header import NotFits

_END = b"END".ljust(CARD_BYTES)
_FIRST_READ = 16 * BLOCK_BYTES
_MAX_BYTES = 2000 * BLOCK_BYTES


@dataclass(frozen=True, slots=True)
class HeaderImage:
    """A header as it stands in a file.

    Attributes
    ----------
    number, start
        Of its unit; where it begins.
    cards
        80 bytes each, END and what follows it left out.
    size
        Of the header blocks.
    """

    number: int
    start: int
    cards: tuple[bytes, ...]
    size: int


def read_image(path: Path) -> HeaderImage:
    """Return the header that matters, reading header blocks and nothing else.

    Raises
    ------
    NotFits
        Not a FITS file, or its header is cut short.
    StorageError
        The file cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return _Reader(descriptor, path).result()
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}", path=str(path)) from error


class _Reader:
    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor = descriptor
        self._path = path
        self._data = b""

    def result(self) -> HeaderImage:
        primary = self._header(0, 0, b"SIMPLE  =")
        if _card(primary, b"NAXIS   ") == b"0":
            start = primary.size
            if self._upto(start + BLOCK_BYTES) and self._data[start:].startswith(b"XTENSION="):
                image = self._header(1, start, b"XTENSION=")
                if _card(image, b"ZIMAGE  ") == b"T":
                    return image
        return primary

    def _upto(self, size: int) -> bool:
        """Read until `size` bytes are there; return whether they are."""
        while len(self._data) < size:
            wanted = max(_FIRST_READ, size - len(self._data), len(self._data))
            more = os.pread(self._descriptor, wanted, len(self._data))
            if not more:
                return False
            self._data += more
        return True

    def _header(self, number: int, start: int, begin: bytes) -> HeaderImage:
        is_there = self._upto(start + BLOCK_BYTES)
        if not self._data.startswith(begin, start):
            raise NotFits(
                f"{self._path}: not a FITS file, it begins with {self._data[:9]!r}",
                path=str(self._path),
            )
        at = start
        while is_there and at < start + _MAX_BYTES:
            found = self._data.find(_END, at)
            while found >= 0 and (found - start) % CARD_BYTES:
                found = self._data.find(_END, found + 1)
            if found >= 0:
                size = -(-(found + CARD_BYTES - start) // BLOCK_BYTES) * BLOCK_BYTES
                cards = tuple(
                    self._data[i : i + CARD_BYTES] for i in range(start, found, CARD_BYTES)
                )
                if not self._upto(start + size):
                    break
                return HeaderImage(number, start, cards, size)
            at = max(start, len(self._data) - CARD_BYTES)
            is_there = self._upto(len(self._data) + 1)
        raise NotFits(
            f"{self._path}: no END card after byte {start}; the file is cut short or damaged",
            path=str(self._path),
        )


def _card(image: HeaderImage, keyword: bytes) -> bytes:
    """Return the text of a value without a comment; empty where there is none."""
    for card in image.cards:
        if card.startswith(keyword):
            return card[10:].partition(b"/")[0].strip()
    return b""


def grouped(cards: tuple[bytes, ...]) -> list[bytes]:
    """Return the images with the CONTINUE cards of long strings joined to their first one."""
    groups: list[bytes] = []
    for card in cards:
        if card.startswith(b"CONTINUE  ") and groups and groups[-1][8:10] == b"= ":
            groups[-1] += card
        else:
            groups.append(card)
    return groups
