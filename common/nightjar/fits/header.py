# SPDX-License-Identifier: BSD-3-Clause
"""Ordered headers, the templates of products, and a reader that touches header blocks only."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from nightjar.errors import StorageError
from nightjar.fits.cards import BLOCK_BYTES, CARD_BYTES, COMMENTARY, Card, Value, parse_cards

_END = b"END".ljust(CARD_BYTES)
_BLANK = b" " * CARD_BYTES
_MAX_HEADER_BLOCKS = 2000  # 72 000 cards; a "header" beyond is something else
_COMMENT_ROOM = 47  # characters of unit and comment beside a value of the fixed format


class NotFits(StorageError):
    """A file is there and readable, but it is not the FITS file it should be."""


class Header(Mapping[str, Value]):
    """Cards in order; a mapping from keyword to value, in which None means undefined.

    COMMENT, HISTORY and blank cards are in :attr:`cards` but not in the mapping.

    Parameters
    ----------
    cards
        Refused where a keyword comes twice.

    Attributes
    ----------
    data_offset : int
        Where the data unit begins in the file that the header was read from; 0 if none.
    """

    def __init__(self, cards: Iterable[Card] = ()) -> None:
        self._cards: list[Card] = []
        self._index: dict[str, Card] = {}
        self.data_offset = 0
        self.extend(cards)

    def __getitem__(self, keyword: str) -> Value:
        return self._index[keyword].value

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, keyword: object) -> bool:
        return keyword in self._index

    @property
    def cards(self) -> tuple[Card, ...]:
        """Every card in order."""
        return tuple(self._cards)

    def card(self, keyword: str) -> Card:
        """Return the card of a keyword; KeyError where there is none."""
        return self._index[keyword]

    def append(self, card: Card, *, may_repeat: bool = False) -> None:
        """Add a card at the end.

        Raises
        ------
        ValueError
            Its keyword is there already. With `may_repeat` (files of other programs) it is taken,
            and the mapping keeps the first value.
        """
        if card.keyword not in COMMENTARY:
            if card.keyword in self._index and not may_repeat:
                raise ValueError(f"keyword {card.keyword} comes twice in one header")
            self._index.setdefault(card.keyword, card)
        self._cards.append(card)

    def extend(self, cards: Iterable[Card]) -> None:
        """Add cards at the end."""
        for card in cards:
            self.append(card)

    def add(self, keyword: str, value: Value, comment: str = "", unit: str = "") -> None:
        """Make a card and add it at the end."""
        self.append(Card(keyword, value, comment, unit))

    def section(self, title: str) -> None:
        """Begin a section: a blank card and ``COMMENT --- TITLE ---``."""
        self.extend(section_cards(title))

    def comment(self, text: str) -> None:
        """Add COMMENT cards."""
        self.append(Card("COMMENT", text))

    def history(self, text: str) -> None:
        """Add HISTORY cards."""
        self.append(Card("HISTORY", text))

    def to_bytes(self, capacity: int = 0) -> bytes:
        """Return the header blocks with END.

        Parameters
        ----------
        capacity
            Card positions before END, filled with blank cards where there are fewer cards: a
            pipeline can add that many without moving the pixels.
        """
        return header_bytes(b"".join(card.to_bytes() for card in self._cards), capacity)


def section_cards(title: str) -> list[Card]:
    """Return the cards that begin a section."""
    return [Card("", ""), Card("COMMENT", f"--- {title} ---")]


def header_bytes(images: bytes, capacity: int = 0) -> bytes:
    """Return whole header blocks from card images: blank cards up to `capacity`, END, blanks."""
    blanks = max(0, capacity - len(images) // CARD_BYTES)
    text = images + _BLANK * blanks + _END
    return text + b" " * (-len(text) % BLOCK_BYTES)


@dataclass(frozen=True, slots=True)
class Field:
    """One keyword of a product.

    Parameters
    ----------
    keyword, comment, unit
        As in :class:`~nightjar.fits.cards.Card`; the comment must fit whole.
    kind
        ``bool``, ``int``, ``float`` or ``str``; an int may stand for a float.
    is_optional
        Left out where no value is given (cards of hardware that not every instrument has),
        instead of written as undefined.
    """

    keyword: str
    kind: type[bool] | type[int] | type[float] | type[str]
    comment: str
    unit: str = ""
    is_optional: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """A heading between the fields of a template."""

    title: str


class HeaderTemplate:
    """The keywords of a product: which, in which order, of which type, in which unit.

    A header made from it tells of every required keyword: in the place of one without a value
    stands ``COMMENT KEY not available: ...`` (an undefined value would be standard, but fitsverify
    and much software stumble over it). A keyword that the template does not know is refused.

    Raises
    ------
    ValueError
        A keyword comes twice or is not one, or a comment does not fit on its card.
    """

    def __init__(self, *entries: Field | Section) -> None:
        self.entries = entries
        self.fields: dict[str, Field] = {}
        for field in entries:
            if isinstance(field, Section):
                continue
            if field.keyword in self.fields:
                raise ValueError(f"keyword {field.keyword} comes twice in the template")
            Card(field.keyword, None, field.comment, field.unit)
            room = _COMMENT_ROOM - (len(field.unit) + 3 if field.unit else 0)
            if len(field.comment) > room:
                raise ValueError(f"comment of {field.keyword} is longer than {room} characters")
            self.fields[field.keyword] = field

    def fill(self, values: Mapping[str, Any], extra: Iterable[Card] = ()) -> Header:
        """Return a header.

        Parameters
        ----------
        values
            Keyword to value; None, or nothing, where it is not known.
        extra
            Cards put behind those of the template.

        Raises
        ------
        ValueError
            A keyword that the template does not have, or a value of the wrong type.
        """
        unknown = [keyword for keyword in values if keyword not in self.fields]
        if unknown:
            raise ValueError(f"not in this product's header: {', '.join(sorted(unknown))}")
        header = Header()
        for entry in self.entries:
            if isinstance(entry, Section):
                header.section(entry.title)
            else:
                card = _fill(entry, values.get(entry.keyword))
                if card.value is not None:
                    header.append(card)
                elif not entry.is_optional:
                    unit = f"[{entry.unit}] " if entry.unit else ""
                    header.comment(f"{entry.keyword} not available: {unit}{entry.comment}")
        header.extend(extra)
        return header


def _fill(field: Field, given: Any) -> Card:
    card = Card(field.keyword, given, field.comment, field.unit)
    value = card.value
    if value is None:
        return card
    if field.kind is float:
        # bool is an int in Python, but T is no number in FITS.
        is_right = isinstance(value, (int, float, Decimal)) and not isinstance(value, bool)
        if is_right and isinstance(value, int):
            return Card(field.keyword, float(value), field.comment, field.unit)
    else:
        is_right = type(value) is field.kind or (field.kind is str and isinstance(value, str))
    if not is_right:
        raise ValueError(
            f"{field.keyword}: expected {field.kind.__name__}, not {type(value).__name__} {given!r}"
        )
    return card


def read_header(path: Path | str) -> Header:
    """Return the primary header of a file, reading its header blocks and nothing else.

    A keyword that comes twice keeps its first value (both cards are in ``cards``).

    Raises
    ------
    NotFits
        Not a FITS file, or a card is wrong; the message names the file and the card.
    StorageError
        The file cannot be read.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            return read_header_from(file.fileno(), str(path))
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}", path=str(path)) from error


def read_header_from(descriptor: int, name: str) -> Header:
    """Return the primary header of an open file; see :func:`read_header`.

    Raises
    ------
    NotFits
        As :func:`read_header`; `name` stands for the file in the message.
    OSError
        The file cannot be read.
    """
    images = _read_images(descriptor, name)
    header = Header()
    try:
        for card in parse_cards(images):
            header.append(card, may_repeat=True)
    except ValueError as error:
        raise NotFits(f"{name}: {error}", path=name) from None
    header.data_offset = -(-(len(images) + CARD_BYTES) // BLOCK_BYTES) * BLOCK_BYTES
    return header


def _read_images(descriptor: int, name: str) -> bytes:
    """Return the card images before END."""
    data = b""
    searched = 0
    for blocks in (8, 32, _MAX_HEADER_BLOCKS - 40):
        data += os.pread(descriptor, blocks * BLOCK_BYTES, len(data))
        if not data.startswith(b"SIMPLE  ="):
            raise NotFits(f"{name}: not a FITS file, it begins with {data[:9]!r}", path=name)
        while (found := data.find(_END, searched)) >= 0 and found % CARD_BYTES:
            searched = found + 1
        if found >= 0:
            return data[:found]
        searched = max(0, len(data) - CARD_BYTES)
    raise NotFits(
        f"{name}: no END card in the first {len(data)} bytes; the file is cut short or damaged",
        path=name,
    )
