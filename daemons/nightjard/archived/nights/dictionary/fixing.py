# SPDX-License-Identifier: BSD-3-Clause
"""The header of a file made anew in the dictionary's formats, without a change of what it says.

Cards stand at the same places with the same comments; only the characters of numbers change. The
new file grows beside the old one under a hidden name, is compared with it byte for byte, and takes
its name in one step: at any moment there is one whole file of that name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from nightjar.fits.cards import CARD_BYTES, COMMENTARY, Card, Value, number_text, parse_card
from nightjard.archived.nights.dictionary.checks import digits_of
from nightjard.archived.nights.dictionary.findings import Finding, FindingKind
from nightjard.archived.nights.dictionary.formats import exact
from nightjard.archived.nights.dictionary.images import grouped
from nightjard.archived.nights.dictionary.rewriting import rewrite
from nightjard.archived.nights.dictionary.table import Dictionary, is_structural

_FIXED_END = 30  # a value of the fixed format ends in column 30
_VALUE = re.compile(rb"( *)(\S+)( *)(/.*)?\Z", re.DOTALL)


@dataclass(frozen=True)
class Result:
    """What became of a file.

    Attributes
    ----------
    path
        Of the file.
    changed
        Keywords whose cards are written otherwise now (or would be).
    findings
        What stays as it is, and why; required keywords that are missing.
    is_written
        False for a dry run, and where nothing changed.
    """

    path: Path
    changed: tuple[str, ...]
    findings: tuple[Finding, ...]
    is_written: bool

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "path": str(self.path), "changed": list(self.changed), "written": self.is_written,
            "findings": [finding.as_json() for finding in self.findings],
        }  # fmt: skip


def fix_file(
    path: Path, dictionary: Dictionary, *, dry_run: bool = False,
    instrument: str = "vampires", on_stage: Callable[[str], None] | None = None,
) -> Result:  # fmt: skip
    """Write the numbers of a header as the dictionary says; nothing else changes.

    Works for images and for compressed images, with any extensions behind them. Checksums that the
    file has are renewed; one that has none gets none.

    Parameters
    ----------
    path
        A file that is not released; read-only files (raw cubes) are refused.
    dry_run
        Only tell what would change.
    on_stage
        Called with a word at each step of the writing; for tests.

    Raises
    ------
    NotFits
        Not a FITS file.
    Refused
        It is read-only, a link, or somebody else changes it.
    StorageError
        It is damaged (its checksums do not agree), cannot be read, or there is no space.
    """
    changed: list[str] = []
    findings: list[Finding] = []

    def transform(cards: tuple[bytes, ...]) -> tuple[bytes, ...]:
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
        return tuple(new)

    is_written = rewrite(path, transform, dry_run=dry_run, on_stage=on_stage)
    return Result(path, tuple(changed), tuple(findings), is_written)


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
