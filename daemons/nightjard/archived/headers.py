# SPDX-License-Identifier: BSD-3-Clause
"""Changing a few cards of a frame's header, and saying which frame a header belongs to.

Only header bytes are made here; :mod:`nightjard.archived.placing` brings them into a file in a way
that survives a crash. DATASUM never changes, CHECKSUM is computed anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from nightjar.errors import FrameInvalid
from nightjar.fits import checksum
from nightjar.fits.cards import CARD_BYTES, Card
from nightjar.fits.header import Header, header_bytes
from nightjar.times import parse_iso

BEGIN_CARDS = ("DATE-BEG", "DATE-OBS")
TEXT_ROOM = 68  # characters of a string that needs no CONTINUE card; a quote counts twice
_OBJECT_TEXT = re.compile(r"[ -~]+\Z")


def fits_on_card(text: str) -> bool:
    """Tell whether a text can be the value of one card: printable ASCII, not too long."""
    return _OBJECT_TEXT.match(text) is not None and len(text.replace("'", "''")) <= TEXT_ROOM


def begin_ns(header: Mapping[str, object]) -> int:
    """Return the start of the exposure, UTC nanoseconds.

    Raises
    ------
    FrameInvalid
        No date, one that is not a UTC time, or a TIMESYS other than UTC.
    """
    timesys = str(header.get("TIMESYS") or "UTC").strip()
    if timesys != "UTC":
        raise FrameInvalid(f"its TIMESYS is {timesys}, not UTC")
    for keyword in BEGIN_CARDS:
        value = header.get(keyword)
        if isinstance(value, str):
            try:
                return parse_iso(value)
            except ValueError as error:
                raise FrameInvalid(f"{keyword}: {error}") from None
    raise FrameInvalid(f"its header has no {' or '.join(BEGIN_CARDS)}")


def datasum_of(header: Mapping[str, object]) -> int:
    """Return the value of DATASUM.

    Raises
    ------
    FrameInvalid
        There is none, or it is not a 32-bit number.
    """
    text = str(header.get("DATASUM") or "").strip()
    if not text.isascii() or not text.isdecimal() or int(text) > checksum.MODULUS:
        raise FrameInvalid("its header has no valid DATASUM: what was written cannot be proven")
    return int(text)


def edited(original: bytes, header: Header, changes: Iterable[Card]) -> bytes:
    """Return header blocks with cards replaced or added and CHECKSUM made right.

    Parameters
    ----------
    original
        The header blocks as they are in the file, END and padding included.
    header
        The same, parsed; its DATASUM must be right.
    changes
        Cards with values that need no CONTINUE. A card that is there keeps its place and, where
        the change has no comment, its comment; others use the blank cards before END.

    Returns
    -------
    bytes
        As long as `original` where the reserved blank cards were enough, else whole blocks longer;
        `original` itself where nothing changes.
    """
    before = _card_images(original)
    images = list(before)
    for change in changes:
        _put(images, header, change)
    if images == before:
        return original
    _put(images, header, Card("CHECKSUM", checksum.CHECKSUM_PLACEHOLDER))
    blocks = bytearray(header_bytes(b"".join(images), len(before)))
    text = checksum.checksum_text(checksum.datasum(blocks) + datasum_of(header)).encode("ascii")
    at = images.index(next(image for image in images if image.startswith(b"CHECKSUM=")))
    blocks[at * CARD_BYTES + 11 : at * CARD_BYTES + 27] = text
    return bytes(blocks)


def _card_images(blocks: bytes) -> list[bytes]:
    """Return the 80-byte cards before END."""
    cards = [blocks[i : i + CARD_BYTES] for i in range(0, len(blocks), CARD_BYTES)]
    return cards[: cards.index(b"END".ljust(CARD_BYTES))]


def _index(images: list[bytes], keyword: str) -> int | None:
    start = f"{keyword:8}=".encode("ascii")
    return next((i for i, image in enumerate(images) if image.startswith(start)), None)


def _put(images: list[bytes], header: Header, change: Card) -> None:
    """Replace or add one card."""
    at = _index(images, change.keyword)
    if at is None:
        while images and images[-1] == b" " * CARD_BYTES:
            images.pop()
        images.append(_one(change))
        return
    present = header.card(change.keyword) if change.keyword in header else change
    if change.keyword != "CHECKSUM" and present.value == change.value:
        return
    comment = change.comment or present.comment
    images[at] = _one(Card(change.keyword, change.value, comment, present.unit))
    while at + 1 < len(images) and images[at + 1].startswith(b"CONTINUE"):
        del images[at + 1]  # the rest of a long string that is replaced


def _one(card: Card) -> bytes:
    image = card.to_bytes()
    if len(image) != CARD_BYTES:
        raise ValueError(f"{card.keyword}: {card.value!r} does not fit on one card")
    return image
