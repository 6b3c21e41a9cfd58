# SPDX-License-Identifier: BSD-3-Clause
"""Pixels in file order and their sums against astropy; binning against the plain formula."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import example, given
from hypothesis import strategies as st

from nightjar.errors import Code, Refused
from nightjar.fits import binning as binning_module
from nightjar.fits import pixels as pixels_module
from nightjar.fits.binning import bin_image, binned_dtype
from nightjar.fits.checksum import DataSum, checksum_text, datasum, fold, rotate_right
from nightjar.fits.pixels import encode, image_format

DTYPES = ["u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]
BINNABLE = ["u1", "i2", "u2", "i4", "u4", "f4", "f8"]


@pytest.fixture(autouse=True, scope="module")
def _small_blocks() -> Any:
    """Make blocks so small that images of a test go through in many, of awkward lengths."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pixels_module, "BLOCK_PIXELS", 61)
        patch.setattr(binning_module, "BLOCK_PIXELS", 97)
        yield


@st.composite
def images(draw: st.DrawFn, dtypes: list[str], most_axes: int = 3) -> np.ndarray[Any, Any]:
    """Draw an image of any type, byte order and strides: crops, steps, transposed axes."""
    dtype = np.dtype(draw(st.sampled_from(dtypes))).newbyteorder(draw(st.sampled_from("=>")))
    shape = draw(st.lists(st.integers(1, 17), min_size=1, max_size=most_axes))
    margins = [(draw(st.integers(0, 3)), draw(st.integers(0, 3))) for _ in shape]
    whole = [n + a + b for n, (a, b) in zip(shape, margins, strict=True)]
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    raw = rng.integers(0, 256, (*whole, dtype.itemsize), dtype=np.uint8)
    if dtype.kind == "f":
        values = rng.normal(0, 1000, whole).astype(dtype)
    else:
        extreme = draw(st.sampled_from([None, 0, 255]))
        if extreme is not None:
            raw[...] = extreme
        values = raw.view(dtype).reshape(whole)
    crop = values[tuple(slice(a, a + n) for n, (a, _) in zip(shape, margins, strict=True))]
    return crop.T if draw(st.booleans()) else crop


def encoded(image: np.ndarray[Any, Any], **options: Any) -> tuple[bytes, int]:
    total = DataSum()
    data = b"".join(piece.tobytes() for piece in encode(image, total, **options))
    assert total.count == len(data)
    return data, total.value


@given(images(DTYPES))
@example(np.zeros((3, 5), np.uint16))
@example(np.full((3, 5), 32768, np.uint16))
@example(np.full((1, 4), 0x7FFF, np.uint16))
@example(np.full((40, 41), 65535, np.uint16))
def test_pixels_and_datasum_are_those_of_astropy(image: np.ndarray[Any, Any]) -> None:
    data, total = encoded(image)
    hdu = fits.PrimaryHDU(image.astype(image.dtype.newbyteorder("="), order="C"))
    hdu.add_checksum()
    assert total == int(hdu.header["DATASUM"])
    stored = np.frombuffer(data, image_format(image.dtype).stored).reshape(image.shape)
    native = stored.astype(stored.dtype.newbyteorder("="))
    if image_format(image.dtype).bzero:
        assert np.array_equal(
            native.astype(object) + image_format(image.dtype).bzero, image.astype(object)
        )
        assert hdu.header["BZERO"] == image_format(image.dtype).bzero
    else:
        assert np.array_equal(native, image)
    assert hdu.header["BITPIX"] == image_format(image.dtype).bitpix


@given(st.lists(st.binary(max_size=700), max_size=6))
@example([b"\xff" * 4] * 3)
@example([b"\xff\xff\xff", b"\x00\x01"])
def test_a_sum_of_pieces_is_the_sum_of_the_whole(pieces: list[bytes]) -> None:
    running = DataSum()
    for piece in pieces:
        running.add(piece)
    whole = b"".join(pieces)
    whole += bytes(-len(whole) % 4)
    plain = sum(int.from_bytes(whole[i : i + 4], "big") for i in range(0, len(whole), 4))
    while plain >> 32:  # the end-around carry of the standard
        plain = (plain & 0xFFFFFFFF) + (plain >> 32)
    assert running.value == plain


@given(st.integers(0, (1 << 32) - 1))
@example(0)
@example(0xFFFFFFFF)
def test_checksum_text_brings_the_sum_to_all_ones(total: int) -> None:
    text = checksum_text(total)
    assert text.isalnum()
    assert text.isascii()
    assert text == fits.PrimaryHDU()._char_encode(~total & 0xFFFFFFFF)
    card = f"CHECKSUM= '{text}'".ljust(80).encode()
    without = f"CHECKSUM= '{'0' * 16}'".ljust(80).encode()
    # J.2: the placeholder's own sum is part of the total, the text adds the complement to it.
    assert fold(datasum(card) - datasum(without) + 0xFFFFFFFF * 2 + total) == 0xFFFFFFFF


@given(st.integers(0, (1 << 32) - 1), st.integers(0, 40))
def test_rotation_keeps_every_bit(value: int, bits: int) -> None:
    turned = rotate_right(value, bits)
    assert turned.bit_count() == value.bit_count()
    assert rotate_right(turned, -bits % 32) == value


@st.composite
def binnable(draw: st.DrawFn) -> tuple[np.ndarray[Any, Any], int]:
    """Draw a strided window whose sides are multiples of a binning."""
    dtype = np.dtype(draw(st.sampled_from(BINNABLE))).newbyteorder(draw(st.sampled_from("=>")))
    b = draw(st.integers(2, 16))
    height, width = b * draw(st.integers(1, 7)), b * draw(st.integers(1, 7))
    top, left, right = (draw(st.integers(0, 3)) for _ in range(3))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    shape = (top + height, left + width + right)
    if dtype.kind == "f":
        whole = rng.normal(0, 1e4, shape).astype(dtype)
    else:
        limits = np.iinfo(dtype)
        ends = st.sampled_from([limits.min, limits.max])
        low, high = sorted((draw(ends), draw(ends)))
        whole = rng.integers(low, high, shape, dtype.newbyteorder("="), endpoint=True)
    whole = whole.astype(dtype)
    return whole[top:, left : left + width], b


@given(binnable())
def test_sums_are_those_of_the_plain_formula(drawn: tuple[np.ndarray[Any, Any], int]) -> None:
    image, b = drawn
    height, width = (n // b for n in image.shape)
    wide = "f8" if image.dtype.kind == "f" else f"{image.dtype.kind}8"
    plain = image.reshape(height, b, width, b).sum(axis=(1, 3), dtype=wide)
    result = bin_image(image, b)
    assert result.dtype == binned_dtype(image.dtype, b, "sum")
    if image.dtype.kind == "f":
        assert np.allclose(result, plain, rtol=1e-6, atol=1e-2 * b)
    else:
        assert np.array_equal(result, plain)


@given(binnable())
def test_integer_means_are_rounded_half_up_exactly(
    drawn: tuple[np.ndarray[Any, Any], int],
) -> None:
    image, b = drawn
    height, width = (n // b for n in image.shape)
    result = bin_image(image, b, "mean")
    assert result.dtype == image.dtype.newbyteorder("=")
    if image.dtype.kind == "f":
        plain = image.reshape(height, b, width, b).mean(axis=(1, 3), dtype="f8")
        assert np.allclose(result, plain, rtol=1e-5, atol=1e-2)
        return
    n = b * b
    sums = image.reshape(height, b, width, b).sum(axis=(1, 3), dtype=f"{image.dtype.kind}8")
    # |2 (mean n - sum)| <= n, and a tie goes up.
    error = [
        2 * (int(mean) * n - int(total))
        for mean, total in zip(result.flat, sums.flat, strict=True)
    ]
    assert all(-n < e <= n for e in error)


@given(binnable(), st.sampled_from(["sum", "mean"]))
def test_binning_while_encoding_is_binning_before(
    drawn: tuple[np.ndarray[Any, Any], int], method: Any
) -> None:
    image, b = drawn
    assert encoded(image, binning=b, method=method) == encoded(bin_image(image, b, method))


@given(images(DTYPES), st.integers(1, 3))
def test_the_source_is_free_before_the_last_piece_and_not_earlier(
    image: np.ndarray[Any, Any], garbage: int
) -> None:
    expected = encoded(image)[0]
    calls: list[int] = []
    image = image.copy()

    def consumed() -> None:
        calls.append(1)
        image[...] = garbage

    pieces = []
    for piece in encode(image, DataSum(), on_consumed=consumed):
        pieces.append(piece.tobytes())
    assert b"".join(pieces) == expected
    assert calls == [1]


def test_large_blocks_sum_without_losing_a_carry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels_module, "BLOCK_PIXELS", 1 << 17)
    for value in (65535, 32767, 0):
        image = np.full((600, 1001), value, np.uint16)
        data, total = encoded(image)
        words = np.frombuffer(data + bytes(-len(data) % 4), ">u4")
        plain = sum(int(word) for word in words)
        assert total == fold(plain)


@pytest.mark.parametrize(
    ("shape", "b", "code"),
    [
        ((4, 6), 4, Code.BINNING_MISMATCH),
        ((6, 4), 4, Code.BINNING_MISMATCH),
        ((2, 4, 4), 2, Code.BINNING_MISMATCH),
        ((512, 512), 0, Code.OUT_OF_RANGE),
        ((512, 512), -2, Code.OUT_OF_RANGE),
        ((514, 514), 257, Code.OUT_OF_RANGE),
    ],
)
def test_a_binning_that_does_not_fit_is_refused(
    shape: tuple[int, ...], b: int, code: Code
) -> None:
    with pytest.raises(Refused) as caught:
        bin_image(np.zeros(shape, np.uint16), b)
    assert caught.value.code is code


def test_what_cannot_be_written_or_binned_is_refused() -> None:
    for dtype in ("?", "c8", "f2", "i1"):
        with pytest.raises(ValueError, match="no place"):
            image_format(dtype)
    with pytest.raises(ValueError, match="cannot be binned"):
        bin_image(np.zeros((4, 4), np.int64), 2)
    with pytest.raises(ValueError, match="neither"):
        bin_image(np.zeros((4, 4), np.uint16), 2, "median")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no pixels"):
        encoded(np.zeros((0, 4), np.uint16))
