# SPDX-License-Identifier: BSD-3-Clause
"""A header in the dictionary's formats, without a change of what it says.

Cards stand at the same places with the same comments; only the characters of numbers change.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from nightjar.fits.cards import CARD_BYTES, COMMENTARY, Card, Value, number_text, parse_card
from nightjard.archived.nights.dictionary.checks import digits_of
from nightjard.archived.nights.dictionary.findings import Finding, FindingKind
from nightjard.archived.nights.dictionary.formats import exact
from nightjard.archived.nights.dictionary.images import grouped, read_image
from nightjard.archived.nights.dictionary.table import Dictionary, is_structural

_FIXED_END = 30  # a value of the fixed format ends in column 30
_VALUE = re.compile(rb"( *)(\S+)( *)(/.*)?\Z", re.DOTALL)


@dataclass(frozen=True)
class Fixes:
    """What the dictionary makes of a header.

    Attributes
    ----------
    cards
        80-byte images before END, the changed ones among them.
    changed
        Keywords whose cards are written otherwise.
    findings
        What stays as it is, and why; required keywords that are missing.
    """

    cards: tuple[bytes, ...]
    changed: tuple[str, ...]
    findings: tuple[Finding, ...]


def fixes(
    cards: tuple[bytes, ...], dictionary: Dictionary, *, instrument: str = "vampires"
) -> Fixes:
    """Write the numbers of a header as the dictionary says; nothing else changes.

    Parameters
    ----------
    cards
        80-byte images before END, of :func:`.images.read_image`.
    """
    changed: list[str] = []
    findings: list[Finding] = []
    present: dict[str, Value] = {}
    new: list[bytes] = []
    for image in grouped(cards):
        written, key, value, finding = _fixed(image, dictionary)
        new += [written[at : at + CARD_BYTES] for at in range(0, len(written), CARD_BYTES)]
        present.setdefault(key, value)
        if written != image:
            changed.append(key)
        if finding is not None:
            findings.append(finding)
    findings.extend(
        dictionary.missing(key)
        for key in dictionary.required(instrument)
        if present.get(key) in (None, "")
    )
    return Fixes(tuple(new), tuple(changed), tuple(findings))


def fixes_of(path: Path, dictionary: Dictionary, *, instrument: str = "vampires") -> Fixes:
    """Return what the dictionary makes of the header of a file, which stays as it is.

    Works for images and for compressed images. Products get such a header by being made anew.

    Raises
    ------
    NotFits
        Not a FITS file.
    StorageError
        It cannot be read.
    """
    return fixes(read_image(path).cards, dictionary, instrument=instrument)


def _fixed(image: bytes, dictionary: Dictionary) -> tuple[bytes, str, Value, Finding | None]:
    """Return the image to be written, keyword, value, and what is to be said."""
    try:
        card = parse_card(image)
    except ValueError as error:
        return image, "", None, Finding(FindingKind.UNREADABLE, "", None, str(error))
    if card.keyword in COMMENTARY or is_structural(card.keyword):
        return image, card.keyword, card.value, None
    digits = digits_of(image) if not isinstance(card.value, (str, bool)) else None
    if isinstance(card.value, float) and digits is not None:
        card = Card(card.keyword, digits, card.comment, card.unit)
    new, finding = dictionary.explained(card)
    is_text = isinstance(card.value, (str, bool))
    is_same = new is card or (new.value == card.value and (is_text or _is_same(image, new)))
    if finding is not None or is_same:
        return image, card.keyword, card.value, finding
    written = _with_value(image, number_text(_number(new.value)))
    if written is None:
        text = f"{card.keyword}: {new.value} leaves no room for its comment"
        return image, card.keyword, card.value, Finding(
            FindingKind.TOO_LONG, card.keyword, card.value, text
        )
    _require_equal(image, written, card, dictionary)
    return written, card.keyword, card.value, None


def _number(value: Value) -> bool | int | float | Decimal | None:
    assert not isinstance(value, str)
    return value


def _is_same(image: bytes, card: Card) -> bool:
    """Tell whether a card stands already as it would be written."""
    match = _VALUE.match(image[10:])
    return match is not None and match[2].decode("ascii") == number_text(_number(card.value))


def _with_value(image: bytes, text: str) -> bytes | None:
    """Return an image with another number in it, the comment untouched; None without room."""
    match = _VALUE.match(image[10:])
    if match is None:
        return None
    comment = (match[4] or b"").rstrip(b" ")
    front = image[:10] + text.rjust(_FIXED_END - 10).encode("ascii")
    if not comment:
        written = front
    else:
        at = image.index(b"/", 10)
        # The slash stays where it is as long as a blank is left before it.
        written = front.ljust(at) + comment if len(front) < at else front + b" " + comment
        if len(written) > CARD_BYTES:
            written = front.ljust(CARD_BYTES - len(comment)) + comment
    return written.ljust(CARD_BYTES) if len(written) <= CARD_BYTES else None


def _require_equal(image: bytes, written: bytes, card: Card, dictionary: Dictionary) -> None:
    """Prove that an image reads back as it should: same comment, value within the last digit."""
    back = parse_card(written)
    old = parse_card(image)
    entry = dictionary.entries[card.keyword]
    digits = digits_of(written)
    assert digits is not None
    entry.format.require_fit(back.value)
    again = entry.format.write(digits, dictionary.decimals(card.keyword))
    is_right = (
        len(written) == CARD_BYTES
        and (back.keyword, back.comment, back.unit) == (old.keyword, old.comment, old.unit)
        and exact(again) == digits
    )
    if not is_right:  # pragma: no cover - it would be an error of this module
        raise AssertionError(f"{image!r} would have become {written!r}")
