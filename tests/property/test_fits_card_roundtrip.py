# SPDX-License-Identifier: BSD-3-Clause
"""Cards against astropy's, written by either side and read by the other."""

from __future__ import annotations

import math
import re
import string
from typing import Any

from astropy.io import fits
from hypothesis import example, given
from hypothesis import strategies as st

from nightjar.fits.cards import CARD_BYTES, Card, number_text, parse_card, parse_cards
from nightjar.fits.header import Header

KEYWORDS = st.text(string.ascii_uppercase + string.digits + "-_", min_size=1, max_size=8).filter(
    lambda text: text not in ("END", "CONTINUE", "HIERARCH", "COMMENT", "HISTORY", "SIMPLE")
)
PRINTABLE = st.characters(min_codepoint=32, max_codepoint=126)
TEXT = st.text(PRINTABLE, max_size=60).map(str.strip)
# astropy takes a quote before a slash for the end of the string, even where it is doubled.
ASTROPY_MISREADS = re.compile(r"' */")
LONG_TEXT = (
    st.text(PRINTABLE, max_size=400)
    .map(str.rstrip)
    .filter(lambda text: not ASTROPY_MISREADS.search(text))
)
QUOTES = st.text("'& a", min_size=60, max_size=220).map(str.rstrip)
NUMBERS = st.one_of(
    st.booleans(),
    st.integers(-(10**25), 10**25),
    st.floats(allow_nan=False, allow_infinity=False),
)
COMMENTS = TEXT.filter(lambda text: not text.startswith("["))
UNITS = st.text(string.ascii_letters + "*/^0123456789", max_size=12)


def astropy_card(image: bytes) -> fits.Card:
    """Return what astropy reads, having checked the card by its own rules."""
    card = fits.Card.fromstring(image)
    card.verify("exception")
    return card


@given(KEYWORDS, NUMBERS, COMMENTS, UNITS)
@example("MJD-OBS", 60000.123456789, "start", "d")
@example("TINY", 5e-324, "", "")
@example("ZERO", -0.0, "", "adu")
def test_numbers_written_here_are_read_alike_by_astropy_and_here(
    keyword: str, value: bool | int | float, comment: str, unit: str
) -> None:
    card = Card(keyword, value, comment, unit)
    image = card.to_bytes()
    assert len(image) == CARD_BYTES
    theirs, ours = astropy_card(image), parse_card(image)
    for read in (theirs.value, ours.value):
        assert type(read) is type(value)
        assert read == value
        assert math.copysign(1, read) == math.copysign(1, value)
    whole = f"[{unit}] {comment}".strip() if unit else comment
    room = CARD_BYTES - 10 - max(20, len(number_text(value))) - len(" / ")
    assert theirs.comment == whole[:room].rstrip()
    if len(whole) <= room:
        assert (ours.unit, ours.comment) == (unit, comment)


@given(KEYWORDS, LONG_TEXT | QUOTES, COMMENTS)
@example("A", "&" * 69, "")
@example("A", "'" * 68 + "&", "no comment")
@example("A", "x" * 67 + " y", "")
@example("A", "x" * 66 + "  " + "y" * 66 + "  " + "z", "")
def test_strings_written_here_are_read_alike_by_astropy_and_here(
    keyword: str, value: str, comment: str
) -> None:
    image = Card(keyword, value, comment).to_bytes()
    assert len(image) % CARD_BYTES == 0
    assert parse_card(image).value == value
    assert astropy_card(image).value == value


@given(KEYWORDS, st.text(PRINTABLE, max_size=400).map(str.rstrip), COMMENTS)
@example("A", "'/", "astropy misreads it")
@example("A", "x" * 66 + "'/" * 40, "")
def test_any_string_is_read_back_here(keyword: str, value: str, comment: str) -> None:
    assert parse_card(Card(keyword, value, comment).to_bytes()).value == value


@given(KEYWORDS, TEXT, UNITS)
def test_a_missing_value_is_undefined_to_both(keyword: str, comment: str, unit: str) -> None:
    image = Card(keyword, None, comment, unit).to_bytes()
    assert isinstance(astropy_card(image).value, fits.card.Undefined)
    assert parse_card(image).value is None


@given(KEYWORDS, NUMBERS | LONG_TEXT, TEXT)
def test_cards_of_astropy_are_read_as_astropy_reads_them(
    keyword: str, value: Any, comment: str
) -> None:
    if isinstance(value, str):
        comment = comment[:10]
    elif len(comment) > 40:
        comment = comment[:40].strip()
    image = str(fits.Card(keyword, value, comment)).encode()
    theirs, ours = fits.Card.fromstring(image), parse_card(image)
    assert ours.value == theirs.value
    assert type(ours.value) is type(theirs.value)
    rejoined = f"[{ours.unit}] {ours.comment}".strip() if ours.unit else ours.comment
    assert rejoined.replace(" ", "") == theirs.comment.replace(" ", "")


@given(
    st.dictionaries(KEYWORDS, NUMBERS | LONG_TEXT | st.none(), max_size=50),
    st.integers(0, 120),
)
def test_whole_headers_are_read_alike(values: dict[str, Any], capacity: int) -> None:
    header = Header(Card(keyword, value, "what it is", "s") for keyword, value in values.items())
    header.section("SECTION")
    header.history("it was written " * 10)
    data = header.to_bytes(capacity)
    assert len(data) % 2880 == 0
    assert data.find(b"END" + b" " * 77) >= capacity * CARD_BYTES
    theirs = fits.Header.fromstring(data)
    for keyword, value in values.items():
        read = theirs[keyword]
        assert (None if isinstance(read, fits.card.Undefined) else read) == value
    images = data[: data.find(b"END" + b" " * 77)]
    assert {c.keyword: c.value for c in parse_cards(images) if c.keyword in values} == values


@given(st.binary(min_size=80, max_size=80) | st.text(PRINTABLE, min_size=80, max_size=80))
def test_any_bytes_are_a_card_or_a_value_error(image: bytes | str) -> None:
    data = image.encode() if isinstance(image, str) else image
    try:
        card = parse_card(data)
    except ValueError:
        return
    assert isinstance(card, Card)
