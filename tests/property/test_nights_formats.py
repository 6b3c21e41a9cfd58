# SPDX-License-Identifier: BSD-3-Clause
"""Formatting never makes another value; a fix never makes another header."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nightjar.fits.cards import Card, parse_card, parse_cards
from nightjar.fits.hdus import read_headers
from nightjar.fits.header import Header
from nightjar.fits.writer import write_image
from nightjard.archived.nights.dictionary import Dictionary, fixes_of
from nightjard.archived.nights.dictionary.formats import Format, Unformattable, exact

DICTIONARY = Dictionary.load()
NUMBERS = st.one_of(
    st.integers(-(10**25), 10**25),
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(-1e6, 1e6),
    st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**9), max_value=10**9),
)
TEXTS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=80)
VALUES = st.one_of(st.booleans(), NUMBERS, TEXTS)
FORMATS = st.sampled_from(
    (*sorted({entry.format.text for entry in DICTIONARY.entries.values()}),
     "%-16.16s", "%12.4e", "%10.6g", "%5d", "%.0f", "%f")
).map(Format.parse)


@given(FORMATS, VALUES)
def test_a_written_value_reads_back_within_the_last_digit(form: Format, value: Any) -> None:
    try:
        written = form.write(value)
    except Unformattable:
        return
    back = parse_card(Card("KEY", written).to_bytes()).value
    if isinstance(value, (bool, str)):
        assert type(written) is type(value)
        assert written == value
        return
    assert not isinstance(back, (bool, str))
    if form.code == "d":
        assert type(back) is int
        assert back == exact(value)
        return
    text = str(written)
    number = exact(value)
    mantissa, _, power = text.partition("E")
    digits = len(mantissa.partition(".")[2])
    half = Decimal(5).scaleb(int(power or 0) - digits - 1)
    assert abs(Decimal(text) - number) <= half
    assert (Decimal(text) == 0) == (number == 0)
    assert form.code != "f" or digits == (6 if form.precision is None else form.precision)


@given(FORMATS, VALUES)
def test_writing_what_was_written_changes_nothing(form: Format, value: Any) -> None:
    try:
        written = form.write(value)
    except Unformattable:
        return
    assert str(form.write(written)) == str(written)


KEYS = st.sampled_from(sorted(DICTIONARY.entries))


@given(KEYS, VALUES)
def test_a_card_is_formatted_or_stays_and_then_it_is_told(key: str, value: Any) -> None:
    card = Card(key, value, "comment")
    new, finding = DICTIONARY.explained(card)
    assert (new.keyword, new.comment, new.unit) == (card.keyword, card.comment, card.unit)
    if finding is not None:
        assert (new, str(new.value)) == (card, str(card.value))  # or the same one of earlier
        assert finding.key == key
    again, _ = DICTIONARY.explained(new)
    assert again.to_bytes() == new.to_bytes()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(KEYS, st.tuples(VALUES, TEXTS), max_size=12))
def test_a_fixed_header_says_the_same(tmp_path: Path, values: dict[str, tuple[Any, str]]) -> None:
    path = tmp_path / "a.fits"
    path.unlink(missing_ok=True)
    header = Header()
    for key, (value, comment) in values.items():
        if key in ("BSCALE", "BZERO"):
            continue
        try:
            Card(key, value, comment).to_bytes()
        except ValueError:  # a number of more digits than a card has room for
            continue
        header.add(key, value, comment)
    write_image(path, np.arange(12, dtype=np.uint16).reshape(3, 4), header)
    before, data = read_headers(path)[0], path.read_bytes()
    after = Header()
    for card in parse_cards(b"".join(fixes_of(path, DICTIONARY).cards)):
        after.append(card, may_repeat=True)
    assert path.read_bytes() == data
    assert [(c.keyword, c.comment, c.unit) for c in after.cards] == [
        (c.keyword, c.comment, c.unit) for c in before.cards
    ]
    for key in before:
        old, new = before[key], after[key]
        if isinstance(old, (bool, str)) or old is None:
            assert (type(old), old) == (type(new), new)
            continue
        assert not isinstance(new, (bool, str))
        assert new is not None
        entry = DICTIONARY.entries.get(key)
        places = entry.format.precision if entry is not None else None
        room = 0.5 * 10 ** -(places or 0) if places is not None else 0
        assert abs(float(new) - float(old)) <= room * 1.001 + abs(float(old)) * 1e-15
