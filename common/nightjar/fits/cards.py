# SPDX-License-Identifier: BSD-3-Clause
"""Header cards of 80 bytes, written and parsed as FITS 4.0 section 4 says.

A missing value is written as the card with an undefined value (section 4.1.2.3), never left out
and never as a number that stands for nothing. Units stand in brackets at the start of the comment
(section 4.3.2). Strings of more than 68 characters use CONTINUE (section 4.2.1.2).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache

CARD_BYTES = 80
BLOCK_BYTES = 2880
CARDS_PER_BLOCK = BLOCK_BYTES // CARD_BYTES

Value = bool | int | float | str | Decimal | None

COMMENTARY = frozenset(("COMMENT", "HISTORY", ""))
_RESERVED = frozenset(("END", "CONTINUE", "HIERARCH"))
_KEYWORD = re.compile(r"[A-Z0-9_-]{1,8}\Z")
_FIXED_WIDTH = 20  # values of the fixed format end in column 30
_STRING_ROOM = 68  # characters between the quotes of one card
_NUMBER_ROOM = 70
_TEXT_ROOM = 72  # characters of a COMMENT or HISTORY card
_UNIT = re.compile(r"\[([^\[\]]+)\] ?(.*)\Z", re.DOTALL)
_FIELD = re.compile(
    r" *(?:'(?P<string>(?:[^']|'')*)'"
    r"|(?P<logical>[TF])"
    r"|(?P<integer>[+-]?\d+)"
    r"|(?P<float>[+-]?(?:\d+\.?\d*|\.\d+)(?:[EeDd][+-]?\d+)?))?"
    r" *(?:/ ?(?P<comment>.*))?\Z",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Card:
    """One keyword of a header.

    Parameters
    ----------
    keyword
        At most 8 of ``A-Z 0-9 _ -``. With ``COMMENT``, ``HISTORY`` or the empty keyword `value` is
        free text, split over as many cards as it needs.
    value
        None where the value is not known; NaN and infinities, which FITS cannot write, count as
        None. Trailing spaces of a string have no meaning in FITS and are lost. A Decimal is written
        with exactly its digits (a time with more of them than a float holds). numpy scalars are
        taken as the Python values that they hold.
    comment
        Cut where it does not fit. Characters outside printable ASCII become ``?``.
    unit
        Written in brackets before the comment, in the spelling of FITS 4.0 table 3 (``s``,
        ``deg``, ``electron/adu``).

    Raises
    ------
    ValueError
        Not a keyword, not a value, or a unit with brackets.
    """

    keyword: str
    value: Value
    comment: str = ""
    unit: str = ""

    def __post_init__(self) -> None:
        value = _plain(self.keyword, self.value)
        object.__setattr__(self, "value", value)
        if self.keyword in COMMENTARY:
            if not isinstance(value, str) or self.comment or self.unit:
                raise ValueError(f"a {self.keyword or 'blank'} card holds text and nothing else")
        elif not _KEYWORD.match(self.keyword) or self.keyword in _RESERVED:
            raise ValueError(
                f"{self.keyword!r} is not a FITS keyword: at most 8 of A-Z, 0-9, '_' and '-'"
            )
        if "[" in self.unit or "]" in self.unit:
            raise ValueError(f"unit {self.unit!r} of {self.keyword} must not contain brackets")

    def to_bytes(self) -> bytes:
        """Return the card: 80 bytes, or a multiple for long strings and long texts."""
        if self.keyword in COMMENTARY:
            return b"".join(_commentary(self.keyword, str(self.value)))
        comment = f"[{self.unit}] {self.comment}" if self.unit else self.comment
        if isinstance(self.value, str):
            escaped = printable(self.value).rstrip(" ").replace("'", "''")
            if len(escaped) > _STRING_ROOM:
                return b"".join(_continued(self.keyword, escaped, comment))
            text = f"'{escaped:8}'"
        else:
            text = number_text(self.value).rjust(_FIXED_WIDTH)
            if len(text) > _NUMBER_ROOM:
                raise ValueError(f"{self.keyword}: the number {text} does not fit into a card")
        return _line(f"{self.keyword:8}= {text:{_FIXED_WIDTH}}", comment)


def is_long(card: Card) -> bool:
    """Tell whether a card holds a string that needs CONTINUE."""
    return (
        isinstance(card.value, str)
        and card.keyword not in COMMENTARY
        and len(card.value.rstrip(" ").replace("'", "''")) > _STRING_ROOM
    )


def printable(text: str) -> str:
    """Return the text with ``?`` for every character that FITS does not allow (4.1.1)."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if " " <= c <= "~" else "?" for c in text)


def number_text(value: bool | int | float | Decimal | None) -> str:
    """Return the value field of a card that holds no string; empty for an undefined value.

    Floats are the shortest text that reads back as the same number, always with a decimal point
    and with a capital E where there is an exponent.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "T" if value else "F"
    if isinstance(value, int):
        return str(value)
    mantissa, exponent, power = str(value).upper().partition("E")
    if "." not in mantissa:
        mantissa += ".0"
    return mantissa + exponent + power


def parse_card(image: bytes) -> Card:
    """Return the card of 80 bytes, or of several where the first is followed by its CONTINUE cards.

    Raises
    ------
    ValueError
        Not a card of the standard; the message shows it.
    """
    cards = list(parse_cards(image))
    if len(cards) != 1:
        raise ValueError(f"{len(cards)} cards where one was expected: {image[:CARD_BYTES]!r}")
    return cards[0]


def parse_cards(images: bytes) -> Iterator[Card]:
    """Yield the cards of a header without its END; long strings come joined.

    Blank cards come as ``Card("", "")``.

    Raises
    ------
    ValueError
        The length is no multiple of 80, or a card does not follow the standard; the message gives
        the position (from 1) and the text of the card.
    """
    if len(images) % CARD_BYTES:
        raise ValueError(f"{len(images)} bytes are not a whole number of 80-byte cards")
    try:
        text = images.decode("ascii")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"card {error.start // CARD_BYTES + 1}: byte {images[error.start]:#04x} is not ASCII"
        ) from None
    lines = [text[i : i + CARD_BYTES] for i in range(0, len(text), CARD_BYTES)]
    index = 0
    while index < len(lines):
        first = index
        index += 1
        try:
            if lines[first][8:10] != "= " or lines[first][:8].rstrip(" ") in COMMENTARY:
                yield _parse_commentary(lines[first])
                continue
            while index < len(lines) and lines[index].startswith("CONTINUE  "):
                index += 1
            yield _parse_value(*lines[first:index])
        except ValueError as error:
            raise ValueError(f"card {first + 1}: {error}: {lines[first].rstrip()!r}") from None


def _plain(keyword: str, value: object) -> Value:
    """Return the Python value to write; None for what FITS cannot express as a number."""
    if not isinstance(value, (bool, int, float, str, Decimal, type(None))):
        if getattr(value, "shape", None) == ():  # a numpy scalar
            value = value.item()  # type: ignore[attr-defined]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return value if value.is_finite() else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    raise ValueError(f"{keyword}: a card cannot hold {type(value).__name__} {value!r}")


def _line(front: str, comment: str) -> bytes:
    """Return one card: what is given and, where there is room, a comment."""
    comment = printable(comment).rstrip(" ")
    if comment and len(front) <= CARD_BYTES - 4:
        front = f"{front} / {comment}"
    return front[:CARD_BYTES].rstrip(" ").ljust(CARD_BYTES).encode("ascii")


def _commentary(keyword: str, text: str) -> Iterator[bytes]:
    text = printable(text)
    for start in range(0, max(len(text), 1), _TEXT_ROOM):
        part = text[start : start + _TEXT_ROOM]
        yield f"{keyword:8}{part}".ljust(CARD_BYTES).encode("ascii")


def _continued(keyword: str, escaped: str, comment: str) -> Iterator[bytes]:
    """Yield the cards of a long string; every one but the last ends its part with ``&``."""
    parts = [""]
    for mark in re.findall("''|.", escaped):  # a doubled quote must not be torn apart
        if len(parts[-1]) + len(mark) >= _STRING_ROOM:
            parts.append("")
        parts[-1] += mark
    if parts[-1].endswith("&"):
        parts.append("")  # else a reader would take the last & for a sign of continuation
    for index, part in enumerate(parts):
        front = f"{keyword:8}= " if index == 0 else "CONTINUE  "
        if index < len(parts) - 1:
            yield _line(f"{front}'{part}&'", "")
        else:
            yield _line(f"{front}'{part}'", comment)


def _parse_commentary(line: str) -> Card:
    keyword = line[:8].rstrip(" ")
    if keyword in COMMENTARY:
        return Card(keyword, line[8:].rstrip(" "))
    if not _KEYWORD.match(keyword):
        raise ValueError("no keyword in columns 1-8")
    # No value indicator (HIERARCH, a stray CONTINUE): commentary by the standard, 4.1.2.1.
    return Card("", line.rstrip(" "))


@lru_cache(16_384)  # files of a night have most of their cards in common
def _parse_value(*lines: str) -> Card:
    """Return the card of one line, or of a first line and the CONTINUE lines after it."""
    keyword = lines[0][:8].rstrip(" ")
    value, comment = _parse_field(lines[0][10:])
    for line in lines[1:]:
        if not isinstance(value, str) or not value.endswith("&"):
            raise ValueError("a CONTINUE card follows a value that is not continued")
        more, more_comment = _parse_field(line[10:])
        if not isinstance(more, str):
            raise ValueError("a CONTINUE card holds no string")
        value = value[:-1] + more
        comment = f"{comment} {more_comment}".strip(" ")
    if isinstance(value, str):
        value = value.rstrip(" ")
    match = _UNIT.match(comment)
    unit, comment = match.groups() if match else ("", comment)
    return Card(keyword, value, comment, unit)


def _parse_field(field: str) -> tuple[Value, str]:
    match = _FIELD.match(field)
    if match is None:
        raise ValueError("the value field follows no form of the standard")
    comment = (match["comment"] or "").rstrip(" ")
    if match["string"] is not None:
        return match["string"].replace("''", "'"), comment
    if match["logical"]:
        return match["logical"] == "T", comment
    if match["integer"]:
        return int(match["integer"]), comment
    if match["float"]:
        return float(match["float"].upper().replace("D", "E")), comment
    return None, comment
