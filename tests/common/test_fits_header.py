# SPDX-License-Identifier: BSD-3-Clause
"""Headers: order, capacity, templates, reading."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nightjar.errors import StorageError
from nightjar.fits.cards import Card
from nightjar.fits.header import Field, Header, HeaderTemplate, NotFits, Section, read_header
from nightjar.fits.writer import write_image

END = b"END".ljust(80)

TEMPLATE = HeaderTemplate(
    Section("DATE/TIME"),
    Field("DATE-OBS", str, "start of exposure (UTC)"),
    Field("EXPTIME", float, "exposure time", "s"),
    Section("CAMERA"),
    Field("CAM-GAIN", int, "gain setting"),
    Field("TEMP-LCK", bool, "temperature is locked"),
    Field("GPS-LAT", float, "latitude", "deg", is_optional=True),
)


def test_a_keyword_comes_once() -> None:
    header = Header([Card("A", 1)])
    header.comment("a comment")
    header.comment("and another")
    with pytest.raises(ValueError, match="A comes twice"):
        header.add("A", 2)
    assert dict(header) == {"A": 1}


@pytest.mark.parametrize(("cards", "capacity"), [(0, 0), (35, 0), (36, 0), (3, 144), (200, 144)])
def test_capacity_keeps_card_positions_before_end(cards: int, capacity: int) -> None:
    data = Header(Card(f"KEY{i}", i) for i in range(cards)).to_bytes(capacity)
    positions = data.index(END) // 80
    assert positions == max(cards, capacity)
    assert data[80 * cards : 80 * positions].strip() == b""
    assert data[80 * positions + 3 :].strip() == b""
    assert len(data) == -(-(positions + 1) // 36) * 2880


def test_a_template_writes_every_keyword_in_order() -> None:
    header = TEMPLATE.fill({"CAM-GAIN": 5, "EXPTIME": 2}, extra=[Card("EXTRA", 1)])
    assert [card.keyword for card in header.cards] == [
        "", "COMMENT", "COMMENT", "EXPTIME",
        "", "COMMENT", "CAM-GAIN", "COMMENT", "EXTRA",
    ]  # fmt: skip
    missing = [str(card.value) for card in header.cards if "not available" in str(card.value)]
    assert [text.split(" not available")[0] for text in missing] == ["DATE-OBS", "TEMP-LCK"]
    assert isinstance(header["EXPTIME"], float)
    assert "GPS-LAT" not in header
    assert header.card("EXPTIME") == Card("EXPTIME", 2.0, "exposure time", "s")
    assert "GPS-LAT" in TEMPLATE.fill({"GPS-LAT": 28.7})


def test_a_template_takes_numpy_values_and_takes_nan_for_missing() -> None:
    header = TEMPLATE.fill(
        {"CAM-GAIN": np.int16(3), "EXPTIME": np.float64("nan"), "TEMP-LCK": np.bool_(False)}
    )
    assert (header["CAM-GAIN"], header["TEMP-LCK"]) == (3, False)
    assert "EXPTIME" not in header


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"EXPTIM": 1.0}, "not in this product's header: EXPTIM"),
        ({"CAM-GAIN": 1.5}, "CAM-GAIN: expected int, not float 1.5"),
        ({"CAM-GAIN": True}, "CAM-GAIN: expected int, not bool"),
        ({"EXPTIME": True}, "EXPTIME: expected float, not bool"),
        ({"EXPTIME": "2"}, "EXPTIME: expected float, not str '2'"),
        ({"TEMP-LCK": 1}, "TEMP-LCK: expected bool, not int"),
        ({"DATE-OBS": 5}, "DATE-OBS: expected str, not int"),
    ],
)
def test_a_template_refuses_what_does_not_belong(values: dict[str, object], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        TEMPLATE.fill(values)


def test_a_template_is_checked_when_it_is_made() -> None:
    with pytest.raises(ValueError, match="twice"):
        HeaderTemplate(Field("A", int, "x"), Field("A", int, "y"))
    with pytest.raises(ValueError, match="not a FITS keyword"):
        HeaderTemplate(Field("bad", int, "x"))
    with pytest.raises(ValueError, match="longer than 43"):
        HeaderTemplate(Field("A", int, "x" * 44, "s"))
    HeaderTemplate(Field("A", int, "x" * 43, "s"))


def test_a_header_is_read_back_from_the_file(tmp_path: Path) -> None:
    header = TEMPLATE.fill({"DATE-OBS": "2025-01-02T03:04:05.678", "EXPTIME": 0.1})
    header.add("LONG", "a long 'text' " * 20, "with a comment")
    path = tmp_path / "a.fits"
    written = write_image(path, np.zeros((4, 6), np.uint16), header, capacity=150)
    read = read_header(path)
    assert read.data_offset == written.size - 2880 == 5 * 2880
    assert {keyword: read[keyword] for keyword in header} == {
        keyword: value.rstrip() if isinstance(value, str) else value
        for keyword, value in header.items()
    }
    assert read.card("EXPTIME").unit == "s"
    assert read["NAXIS1"] == 6
    with pytest.raises(KeyError):
        read["NOT-THERE"]


def test_a_header_of_thousands_of_cards_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.fits"
    write_image(path, np.zeros((1, 1), np.uint8), [Card(f"KEY{i}", i) for i in range(5000)])
    assert read_header(path)["KEY4999"] == 4999


def test_a_repeated_keyword_of_a_foreign_file_keeps_its_first_value(tmp_path: Path) -> None:
    path = tmp_path / "a.fits"
    images = [b"SIMPLE  =                    T", b"A       = 1", b"A       = 2", b"END"]
    path.write_bytes(b"".join(image.ljust(80) for image in images).ljust(2880))
    header = read_header(path)
    assert header["A"] == 1
    assert len(header.cards) == 3


def test_end_inside_a_text_is_not_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.fits"
    cards = [Card("COMMENT", "END"), Card("A", "END" + " " * 60 + "x"), Card("B", 7)]
    write_image(path, np.zeros((1, 1), np.uint8), cards)
    assert read_header(path)["B"] == 7


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "not a FITS file"),
        (b"\x89PNG\r\n" * 1000, "not a FITS file"),
        (b"SIMPLE  =                    T".ljust(2880), "no END card in the first 2880 bytes"),
        (
            b"SIMPLE  =                    T".ljust(80) + b"A       = 'x".ljust(80) + END,
            "card 2: .*A       = 'x",
        ),
    ],
)
def test_a_bad_file_is_named_with_its_card(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "bad.fits"
    path.write_bytes(content)
    with pytest.raises(NotFits, match=f"bad.fits: .*{what}"):
        read_header(path)


def test_a_file_that_is_not_there_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot read .*none\.fits: No such file"):
        read_header(tmp_path / "none.fits")
