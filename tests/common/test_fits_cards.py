# SPDX-License-Identifier: BSD-3-Clause
"""Cards: their exact bytes, what is refused, how they are read."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from nightjar.fits.cards import Card, parse_card, parse_cards


@pytest.mark.parametrize(
    ("card", "image"),
    [
        (Card("SIMPLE", True, "ok"), "SIMPLE  =                    T / ok"),
        (Card("A", False), "A       =                    F"),
        (Card("NAXIS", 2, "axes"), "NAXIS   =                    2 / axes"),
        (Card("BZERO", 1 << 63), "BZERO   =  9223372036854775808"),
        (Card("EXPTIME", 0.1, "time", "s"), "EXPTIME =                  0.1 / [s] time"),
        (Card("EXPTIME", 3.0), "EXPTIME =                  3.0"),
        (Card("TINY", 1e-05), "TINY    =              1.0E-05"),
        (Card("HUGE", 1e22), "HUGE    =              1.0E+22"),
        (Card("LONG", -1.23456789012345e-300), "LONG    = -1.23456789012345E-300"),
        (Card("MJD", Decimal("60000.12345678901")), "MJD     =    60000.12345678901"),
        (Card("DEC", Decimal("60000")), "DEC     =              60000.0"),
        (Card("OBJECT", "M 31", "target"), "OBJECT  = 'M 31    '           / target"),
        (Card("OBSERVER", "O'Hara"), "OBSERVER= 'O''Hara '"),
        (Card("EMPTY", ""), "EMPTY   = '        '"),
        (Card("CCD-TEMP", None, "why", "deg C"), "CCD-TEMP=" + 22 * " " + "/ [deg C] why"),
        (Card("NAN", float("nan"), "c"), "NAN     =" + 22 * " " + "/ c"),
        (Card("INF", float("-inf")), "INF     ="),
        (Card("DECNAN", Decimal("NaN")), "DECNAN  ="),
        (Card("NAME", "Ångström\n"), "NAME    = '?ngstr?m?'"),
        (Card("NP", np.float32(0.5)), "NP      =                  0.5"),
        (Card("NP", np.uint16(7)), "NP      =                    7"),
        (Card("NP", np.bool_(True)), "NP      =                    T"),
        (Card("NP", np.float64("nan")), "NP      ="),
        (Card("COMMENT", "--- TIME ---"), "COMMENT --- TIME ---"),
        (Card("", ""), ""),
        (Card("C", 1, "x" * 100), "C       =                    1 / " + "x" * 47),
    ],
)
def test_a_card_is_these_80_bytes(card: Card, image: str) -> None:
    assert card.to_bytes() == image.ljust(80).encode()


def test_a_long_string_goes_on_and_its_comment_is_cut() -> None:
    image = Card("PATH", "p" * 67 + "'" + "q" * 70, "where " * 20).to_bytes().decode()
    lines = [image[i : i + 80] for i in range(0, len(image), 80)]
    assert lines[0] == "PATH    = '" + "p" * 67 + "&'"
    assert lines[1] == "CONTINUE  '''" + "q" * 65 + "&'"
    assert lines[2].startswith("CONTINUE  'qqqqq' / where where")
    assert len(lines) == 3
    assert parse_card(image.encode()).value == "p" * 67 + "'" + "q" * 70


def test_a_string_that_just_fits_stays_on_one_card() -> None:
    image = Card("PATH", "p" * 68, "no room for this").to_bytes()
    assert image == b"PATH    = '" + b"p" * 68 + b"'"


def test_long_texts_take_several_comment_cards() -> None:
    image = Card("HISTORY", "h" * 100).to_bytes()
    assert image == b"HISTORY " + b"h" * 72 + b"HISTORY " + b"h" * 28 + b" " * 44


@pytest.mark.parametrize(
    ("keyword", "value", "unit", "what"),
    [
        ("exptime", 1, "", "not a FITS keyword"),
        ("TOOLONGKEY", 1, "", "not a FITS keyword"),
        ("A B", 1, "", "not a FITS keyword"),
        ("É", 1, "", "not a FITS keyword"),
        ("A\n", 1, "", "not a FITS keyword"),
        ("END", 1, "", "not a FITS keyword"),
        ("CONTINUE", "x", "", "not a FITS keyword"),
        ("A", b"bytes", "", "cannot hold bytes"),
        ("A", [1, 2], "", "cannot hold list"),
        ("A", 1j, "", "cannot hold complex"),
        ("A", np.zeros(1), "", "cannot hold ndarray"),
        ("A", 1, "m]", "brackets"),
        ("COMMENT", 5, "", "holds text"),
        ("HISTORY", "text", "s", "holds text"),
    ],
)
def test_what_is_no_card_is_refused(keyword: str, value: Any, unit: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        Card(keyword, value, unit=unit)


def test_a_number_too_long_for_a_card_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        Card("A", 10**80).to_bytes()


@pytest.mark.parametrize(
    ("image", "value", "unit", "comment"),
    [
        ("A       = T", True, "", ""),
        ("A       =   -12 /[s]x", -12, "s", "x"),
        ("A       = 1.5D3 / double", 1500.0, "", "double"),
        ("A       = .5", 0.5, "", ""),
        ("A       = 5.", 5.0, "", ""),
        ("A       = 'a / b  ' / c / d", "a / b", "", "c / d"),
        ("A       = ''", "", "", ""),
        ("A       =", None, "", ""),
        ("A       =   / only a comment", None, "", "only a comment"),
        ("A       = 1 / [] nothing", 1, "", "[] nothing"),
    ],
)
def test_free_format_is_read(image: str, value: object, unit: str, comment: str) -> None:
    card = parse_card(image.ljust(80).encode())
    assert (card.value, card.unit, card.comment) == (value, unit, comment)
    assert type(card.value) is type(value)


@pytest.mark.parametrize(
    ("image", "what"),
    [
        ("A       = 'open", "no form"),
        ("A       = 1 2", "no form"),
        ("A       = TRUE", "no form"),
        ("a       = 1", "not a FITS keyword"),
        ("A B     = 1", "not a FITS keyword"),
        ("a lower-case line", "no keyword"),
        ("A       = é", "not ASCII"),
        ("A       = 1".ljust(80) + "CONTINUE  'x'", "not continued"),
        ("A       = 'a&'".ljust(80) + "CONTINUE  1", "no string"),
    ],
)
def test_a_bad_card_is_named_by_position(image: str, what: str) -> None:
    data = b"B       = 1".ljust(80) + image.encode("latin-1").ljust(80 if len(image) < 80 else 160)
    with pytest.raises(ValueError, match=f"card 2: .*{what}"):
        list(parse_cards(data))


def test_part_of_a_card_is_refused() -> None:
    with pytest.raises(ValueError, match="whole number"):
        parse_card(b"A       = 1")


def test_lines_without_a_value_are_commentary() -> None:
    images = [b"HIERARCH ESO DET NAME = 'x'", b"CONTINUE  'stray'", b"COMMENT = 5", b""]
    cards = list(parse_cards(b"".join(image.ljust(80) for image in images)))
    assert [card.keyword for card in cards] == ["", "", "COMMENT", ""]
    assert [card.value for card in cards] == [
        "HIERARCH ESO DET NAME = 'x'", "CONTINUE  'stray'", "= 5", "",
    ]  # fmt: skip
