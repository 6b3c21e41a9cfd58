# SPDX-License-Identifier: BSD-3-Clause
"""Changing cards in a header: only what was asked changes, and the checksums stay right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.archive_frames import make_frame
from nightjar.fits.cards import BLOCK_BYTES, CARD_BYTES, Card
from nightjar.fits.header import Header, read_header
from nightjar.fits.verify import verify_image
from nightjar.fits.writer import write_image
from nightjard.archived.headers import edited, fits_on_card

TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=68)


def parts(path: Path) -> tuple[bytes, Header, bytes]:
    header = read_header(path)
    whole = path.read_bytes()
    return whole[: header.data_offset], header, whole[header.data_offset :]


def change(path: Path, *cards: Card) -> tuple[bytes, Header]:
    original, header, data = parts(path)
    new = edited(original, header, cards)
    result = path.with_name("changed.fits")
    result.write_bytes(new + data)
    assert verify_image(result).problems == ()
    return new, read_header(result)


def test_reserved_room_is_used_and_nothing_else_moves(tmp_path: Path) -> None:
    frame = make_frame(tmp_path, 1, cards={"OBJECT": "as taken"})
    path = tmp_path / frame.filename
    original, before, _ = parts(path)
    new, after = change(
        path, Card("OBJECT", "NGC 7027", "object"), Card("IMAGETYP", "FLAT", "type"),
        Card("FILENAME", "x.fits", "name"),
    )  # fmt: skip
    assert len(new) == len(original)
    assert [c.keyword for c in after.cards if c.keyword] == [
        *[c.keyword for c in before.cards if c.keyword], "IMAGETYP", "FILENAME",
    ]  # fmt: skip
    for keyword in before:
        if keyword not in ("OBJECT", "CHECKSUM"):
            assert after.card(keyword) == before.card(keyword)
    assert (after["OBJECT"], after["IMAGETYP"], after["FILENAME"]) == ("NGC 7027", "FLAT", "x.fits")
    assert after["DATASUM"] == before["DATASUM"]
    assert after["CHECKSUM"] != before["CHECKSUM"]


def test_a_full_header_grows_by_whole_blocks(tmp_path: Path) -> None:
    path = tmp_path / "full.fits"
    fixed = 8  # SIMPLE BITPIX NAXIS NAXIS1 NAXIS2 BZERO BSCALE, CHECKSUM and DATASUM, less one
    cards = [Card(f"K{n}", n) for n in range(BLOCK_BYTES // CARD_BYTES - fixed - 2)]
    write_image(path, np.zeros((3, 3), np.uint16), cards, fsync=False)
    original, _, _ = parts(path)
    assert original.rstrip().endswith(b"END")
    assert len(original) - len(original.rstrip()) == 77  # END is the block's last card
    new, header = change(path, Card("OBJECT", "x"))
    assert len(new) == len(original) + BLOCK_BYTES
    assert header["OBJECT"] == "x"


def test_nothing_to_change_changes_no_byte(tmp_path: Path) -> None:
    frame = make_frame(tmp_path, 1, cards={"OBJECT": "same"})
    original, header, _ = parts(tmp_path / frame.filename)
    assert edited(original, header, [Card("OBJECT", "same", "another comment")]) is original
    assert edited(original, header, []) is original


def test_a_long_string_is_replaced_with_its_continuation(tmp_path: Path) -> None:
    long = "a long name " * 12
    frame = make_frame(tmp_path, 1, cards={"OBJECT": long.strip(), "AFTER": 5})
    _, header = change(tmp_path / frame.filename, Card("OBJECT", "short"))
    assert header["OBJECT"] == "short"
    assert header["AFTER"] == 5
    assert not any("CONTINUE" in card.keyword for card in header.cards)


@given(text=TEXT, frame_type=TEXT, capacity=st.integers(0, 120))
def test_any_text_that_fits_is_written_as_it_is(
    tmp_path_factory: pytest.TempPathFactory, text: str, frame_type: str, capacity: int
) -> None:
    folder = tmp_path_factory.mktemp("any")
    frame = make_frame(folder, 1, capacity=capacity)
    cards = [
        Card(keyword, value)
        for keyword, value in (("OBJECT", text), ("IMAGETYP", frame_type))
        if fits_on_card(value)
    ]
    _, header = change(folder / frame.filename, *cards)
    for card in cards:
        assert header[card.keyword] == str(card.value).rstrip(" ")  # which FITS does not keep


def test_what_does_not_fit_is_known_before() -> None:
    assert fits_on_card("x" * 68)
    assert not fits_on_card("x" * 69)
    assert not fits_on_card("'" * 35)
    assert not fits_on_card("caf\u00e9")
    assert not fits_on_card("a\nb")
    assert not fits_on_card("")
