# SPDX-License-Identifier: BSD-3-Clause
"""Damage is found: every flipped bit, every missing and every added byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st

from nightjar.errors import StorageError
from nightjar.fits.cards import Card
from nightjar.fits.checksum import datasum
from nightjar.fits.verify import verify_image
from nightjar.fits.writer import write_image


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "good.fits"
    image = np.random.default_rng(5).integers(0, 65536, (50, 61), np.uint16)
    cards = [Card("EXPTIME", 1.5, "exposure time", "s"), Card("LONG", "x" * 200)]
    write_image(path, image, cards, capacity=40)
    return path.read_bytes()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged") / "a.fits"


def test_a_good_file_has_no_problem(scratch: Path, content: bytes) -> None:
    scratch.write_bytes(content)
    verified = verify_image(scratch)
    assert verified.is_good
    assert (verified.datasum_ok, verified.checksum_ok) == (True, True)
    assert verified.size == len(content)
    assert verified.header is not None
    assert verified.header["LONG"] == "x" * 200


@given(st.data())
def test_every_flipped_bit_is_found(scratch: Path, content: bytes, data: st.DataObject) -> None:
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    scratch.write_bytes(damaged)
    assert verify_image(scratch).problems != ()


def test_every_flipped_bit_of_the_header_and_of_the_first_pixels_is_found(
    scratch: Path, content: bytes
) -> None:
    damaged = bytearray(content)
    header_bytes = 2 * 2880
    missed = []
    for position in [*range(0, header_bytes, 4), *range(header_bytes, header_bytes + 40)]:
        damaged[position] ^= 1 << position // 4 % 8
        scratch.write_bytes(damaged)
        if verify_image(scratch).is_good:
            missed.append(position)
        damaged[position] = content[position]
    assert missed == []


def test_changed_pixels_are_told_from_a_changed_header(scratch: Path, content: bytes) -> None:
    damaged = bytearray(content)
    damaged[3 * 2880] ^= 0x10
    scratch.write_bytes(damaged)
    verified = verify_image(scratch)
    assert (verified.datasum_ok, verified.checksum_ok) == (False, False)
    damaged = bytearray(content)
    at = damaged.index(b"exposure time")
    damaged[at : at + 8] = b"EXPOSURE"
    scratch.write_bytes(damaged)
    verified = verify_image(scratch)
    assert (verified.datasum_ok, verified.checksum_ok) == (True, False)
    assert verified.problems == ("CHECKSUM does not agree: the header or the pixels were changed",)


@given(st.data())
def test_every_length_but_the_right_one_is_found(
    scratch: Path, content: bytes, data: st.DataObject
) -> None:
    length = data.draw(st.integers(0, len(content) + 6000).filter(lambda n: n != len(content)))
    scratch.write_bytes(content[:length].ljust(length, b"\0"))
    (problem,) = verify_image(scratch).problems
    if length > len(content):
        assert problem == f"{length - len(content)} bytes follow the image"
    else:
        assert any(text in problem for text in ("cut short", "no END card", "not a FITS file"))


def replaced(content: bytes, old: str, new: str) -> bytes:
    assert content.count(old.encode()) == 1
    return content.replace(old.encode(), new.encode())


def card(keyword: str, value: str) -> str:
    return f"{keyword:8}= {value:>20}"


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (card("NAXIS", "2"), card("NAXIS", "-1"), "impossible NAXIS -1"),
        (card("NAXIS", "2"), card("NAXIS", "1000"), "impossible NAXIS 1000"),
        (card("NAXIS", "2"), card("NAXIS", "2.0"), "impossible NAXIS 2.0"),
        (card("NAXIS", "2"), card("NAXIS", "T"), "impossible NAXIS True"),
        (card("NAXIS", "2"), card("NAXIS", "3"), "impossible NAXIS3 None"),
        (card("NAXIS1", "61"), card("NAXIS1", "-61"), "impossible NAXIS1 -61"),
        (card("NAXIS1", "61"), card("NAXIS1", "9223372036854775807"), "impossible NAXIS1"),
        (card("NAXIS1", "61"), card("NAXIS1", "4611686018427387903"), "impossible image size"),
        (card("NAXIS1", "61"), card("NAXIS1", "610000"), "cut short"),
        (card("BITPIX", "16"), card("BITPIX", "17"), "impossible BITPIX 17"),
        (card("BITPIX", "16"), card("BITPIX", "16.0"), "impossible BITPIX 16.0"),
        (card("BITPIX", "16"), card("BITPOX", "16"), "begins with SIMPLE, BITPOX, NAXIS"),
        (card("SIMPLE", "T"), card("SIMPLE", "F"), "SIMPLE is not T"),
    ],
)
def test_an_impossible_header_is_found(
    scratch: Path, content: bytes, old: str, new: str, problem: str
) -> None:
    scratch.write_bytes(replaced(content, old, new))
    verified = verify_image(scratch)
    assert len(verified.problems) == 1
    assert problem in verified.problems[0]
    assert verified.datasum_ok is None


def test_missing_checksums_are_a_problem_only_where_required(tmp_path: Path) -> None:
    path = tmp_path / "a.fits"
    fits.PrimaryHDU(np.zeros((5, 5), np.int16)).writeto(path)
    assert verify_image(path).problems == ("no DATASUM card", "no CHECKSUM card")
    assert verify_image(path, checksums_required=False).is_good


def test_checksums_of_astropy_are_accepted(tmp_path: Path) -> None:
    for number, dtype in enumerate(("u1", "i2", "u2", "f4")):
        path = tmp_path / f"{number}.fits"
        image = np.random.default_rng(1).integers(0, 99, (33, 7)).astype(dtype)
        fits.PrimaryHDU(image).writeto(path, checksum=True)
        assert verify_image(path).problems == ()
    fits.PrimaryHDU().writeto(tmp_path / "empty.fits", checksum=True)
    assert verify_image(tmp_path / "empty.fits").problems == ()


def test_a_file_that_cannot_be_read_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        verify_image(tmp_path / "none.fits")
    with pytest.raises(StorageError, match="Is a directory"):
        verify_image(tmp_path)


@given(st.binary(max_size=9000))
def test_any_bytes_have_problems_but_raise_nothing(scratch: Path, tail: bytes) -> None:
    scratch.write_bytes(b"SIMPLE  =                    T".ljust(80) + tail)
    assert verify_image(scratch).problems != ()


# --- files with extensions ---


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Five units, written by another library: image, image, table with a heap, empty, tiles."""
    path = tmp_path_factory.mktemp("many") / "many.fits"
    random = np.random.default_rng(3)
    ragged = np.array([np.arange(n, dtype=np.int16) for n in (3, 0, 500)], dtype=object)
    columns = [
        fits.Column("A", "J", array=np.arange(3, dtype=np.int32)),
        fits.Column("B", "PI()", array=ragged),
    ]
    fits.HDUList(
        [
            fits.PrimaryHDU(random.integers(0, 9, (7, 11)).astype(np.int16)),
            fits.ImageHDU(random.normal(size=(5, 3, 2)).astype(np.float32), name="MASK"),
            fits.BinTableHDU.from_columns(columns, name="FRAMES"),
            fits.ImageHDU(name="NOTHING"),
            fits.CompImageHDU(random.integers(0, 99, (64, 65)).astype(np.int16), name="TILES"),
        ]
    ).writeto(path, checksum=True)
    return path.read_bytes()


def test_every_unit_is_verified(scratch: Path, many: bytes) -> None:
    scratch.write_bytes(many)
    verified = verify_image(scratch)
    assert verified.problems == ()
    names = [unit.header.get("EXTNAME") for unit in verified.units]
    assert names == [None, "MASK", "FRAMES", "NOTHING", "TILES"]
    assert verified.units[-1].end == verified.size == len(many)
    assert (verified.datasum_ok, verified.checksum_ok) == (True, True)
    assert verified.header is verified.units[0].header
    assert verified.units[2].header["PCOUNT"] == 1006
    assert verified.rest_sum == datasum(many[verified.units[0].header.data_offset :])


@given(st.data())
def test_every_flipped_bit_of_an_extension_is_found(
    scratch: Path, many: bytes, data: st.DataObject
) -> None:
    bit = data.draw(st.integers(2 * 2880 * 8, 8 * len(many) - 1))
    damaged = bytearray(many)
    damaged[bit // 8] ^= 1 << bit % 8
    scratch.write_bytes(damaged)
    assert verify_image(scratch).problems != ()


@given(st.data())
def test_every_length_but_those_between_units_is_found(
    scratch: Path, many: bytes, data: st.DataObject
) -> None:
    scratch.write_bytes(many)
    ends = {unit.end for unit in verify_image(scratch).units}
    length = data.draw(st.integers(0, len(many) + 6000).filter(lambda n: n not in ends))
    scratch.write_bytes(many[:length].ljust(length, b"\0"))
    verified = verify_image(scratch)
    assert len(verified.problems) == 1
    if length > len(many):
        assert verified.problems[0] == f"{length - len(many)} bytes follow the last extension"


def test_a_problem_of_an_extension_names_it(scratch: Path, many: bytes) -> None:
    damaged = bytearray(many)
    scratch.write_bytes(many)
    damaged[verify_image(scratch).units[1].header.data_offset] ^= 1
    scratch.write_bytes(damaged)
    verified = verify_image(scratch)
    assert verified.problems == (
        "extension 1 (MASK): DATASUM does not agree: the data were changed",
        "extension 1 (MASK): CHECKSUM does not agree: the header or the data were changed",
    )
    assert (verified.datasum_ok, verified.checksum_ok) == (False, False)
    assert [unit.datasum_ok for unit in verified.units] == [True, False, True, True, True]


def test_an_extension_without_sums_or_with_an_impossible_header_is_found(
    scratch: Path, content: bytes
) -> None:
    names = ["XTENSION= 'IMAGE   '", "BITPIX  = 8", "NAXIS   = 1", "NAXIS1  = 5", "PCOUNT  = 0"]
    header = "".join(f"{name:80}" for name in [*names, "GCOUNT  = 1", "END"]).ljust(2880)
    scratch.write_bytes(content + header.encode() + bytes(2880))
    assert verify_image(scratch, checksums_required=False).is_good
    assert verify_image(scratch).problems == (
        "extension 1: no DATASUM card", "extension 1: no CHECKSUM card",
    )  # fmt: skip
    wrong = header.replace("PCOUNT  = 0 ", "PCOUNT  = -1")
    scratch.write_bytes(content + wrong.encode() + bytes(2880))
    verified = verify_image(scratch)
    assert verified.problems == ("extension 1: impossible PCOUNT -1",)
    assert verified.rest_sum is None
    wrong = header.replace("BITPIX  = 8", "BITPAX  = 8")
    scratch.write_bytes(content + wrong.encode() + bytes(2880))
    assert "begins with XTENSION, BITPAX, NAXIS" in verify_image(scratch).problems[0]


def test_random_groups_have_their_size(scratch: Path) -> None:
    groups = fits.GroupData(
        np.zeros((4, 1, 2, 3), np.float32), parnames=["a"], pardata=[np.arange(4)], bitpix=-32
    )
    fits.GroupsHDU(groups).writeto(scratch, overwrite=True, checksum=True)
    verified = verify_image(scratch)
    assert verified.header is not None
    assert (verified.header["NAXIS1"], verified.header["GCOUNT"]) == (0, 4)
    assert verified.problems == ()
