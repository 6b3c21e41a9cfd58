# SPDX-License-Identifier: BSD-3-Clause
"""Tiles: every pixel comes back, garbage does no harm, what cannot be done is refused."""

from __future__ import annotations

import ctypes
import gzip
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightjar.errors import Refused
from nightjar.fits import rice
from nightjar.fits.cards import Card
from nightjar.fits.checksum import datasum
from nightjar.fits.pixels import image_format
from nightjar.fits.tiles import TableShape, TileCompressor, algorithm_for, compressed_header

pytestmark = pytest.mark.needs("funpack")

INTEGERS = ["u1", "i2", "u2", "i4", "u4"]
FLOATS = ["f4", "f8"]
Frame = np.ndarray[Any, Any]


def frames_of(dtype: str, shape: tuple[int, ...], seed: int) -> list[Frame]:
    """Frames of every entropy, from constant to all bits random, and the steepest edges."""
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        noise = rng.normal(0, 1, shape).astype(kind)
        special = rng.choice([np.nan, np.inf, -np.inf, -0.0, np.finfo(kind).tiny], shape)
        return [noise, special.astype(kind), np.zeros(shape, kind)]
    limits = np.iinfo(kind)
    found = [
        rng.integers(0, 1 << bits, shape, np.int64, endpoint=True).astype(kind)
        for bits in range(0, 8 * kind.itemsize, 3)
    ]
    random = rng.integers(limits.min, limits.max, shape, kind, endpoint=True)
    edges = np.where(random & 1, limits.min, limits.max).astype(kind)
    flat = [np.full(shape, limit, kind) for limit in (limits.min, limits.max)]
    return [*found, random, edges, *flat]


@pytest.mark.parametrize("dtype", INTEGERS + FLOATS)
@pytest.mark.parametrize(
    "shape", [(1, 1), (5, 31), (32, 32), (7, 33), (300, 500), (90,), (3, 4, 5)]
)
def test_every_pixel_comes_back(dtype: str, shape: tuple[int, ...]) -> None:
    compressor = TileCompressor(dtype, shape)
    for frame in frames_of(dtype, shape, 1):
        tile = bytes(compressor.compress(frame))
        back = compressor.expand(tile)
        assert back.dtype == frame.dtype
        assert back.tobytes() == frame.tobytes()  # NaN and -0.0, too


@given(st.sampled_from(INTEGERS), st.integers(1, 200), st.data())
def test_any_integers_come_back(dtype: str, count: int, data: st.DataObject) -> None:
    size = np.dtype(dtype).itemsize
    content = data.draw(st.binary(min_size=count * size, max_size=count * size))
    frame = np.frombuffer(content, dtype).reshape(1, count)
    compressor = TileCompressor(dtype, (1, count))
    assert compressor.expand(bytes(compressor.compress(frame))).tobytes() == content


@pytest.mark.parametrize("dtype", INTEGERS + FLOATS)
@pytest.mark.parametrize("shape", [(1, 1), (5, 31), (7, 33), (400, 701)])
def test_the_sum_is_that_of_the_uncompressed_bytes(dtype: str, shape: tuple[int, int]) -> None:
    compressor = TileCompressor(dtype, shape)
    image = image_format(dtype)
    for frame in frames_of(dtype, shape, 2):
        stored = frame.astype(image.stored)
        if image.bzero:
            stored = (frame.astype("i8") - image.bzero).astype(image.stored)
        assert compressor.load(frame) == datasum(stored)


def test_a_view_of_any_strides_is_read() -> None:
    whole = frames_of("u2", (80, 90), 3)[-3]
    for view in (whole[10:30, 5:65], whole[::-2, ::3], whole.T):
        compressor = TileCompressor("u2", view.shape)
        assert (compressor.expand(bytes(compressor.compress(view))) == view).all()


def test_the_source_may_change_after_it_was_loaded() -> None:
    frame = frames_of("u2", (20, 30), 4)[4]
    kept = frame.copy()
    compressor = TileCompressor("u2", frame.shape)
    compressor.load(frame)
    frame[:] = 7
    assert (compressor.expand(bytes(compressor.compress_loaded())) == kept).all()


def test_a_smaller_frame_after_a_larger_one_leaves_nothing_behind() -> None:
    """The buffers are used again; a short last word must hold nothing of the frame before."""
    compressor = TileCompressor("u2", (3, 5))
    first, second = np.full((3, 5), 65535, "u2"), np.full((3, 5), 32768, "u2")
    compressor.load(first)
    assert compressor.load(second) == 0
    assert (compressor.expand(bytes(compressor.compress_loaded())) == second).all()


def test_floats_are_plain_gzip_with_their_bytes_sorted() -> None:
    frame = frames_of("f4", (6, 7), 5)[0]
    tile = bytes(TileCompressor("f4", frame.shape).compress(frame))
    assert gzip.decompress(tile) == frame.astype(">f4").view("u1").reshape(-1, 4).T.tobytes()


@pytest.mark.parametrize("dtype", [*INTEGERS, "f4"])
@settings(max_examples=60)
@given(content=st.binary(max_size=300), zeros=st.integers(0, 4000))
def test_garbage_is_told_or_gives_pixels_but_does_no_harm(
    dtype: str, content: bytes, zeros: int
) -> None:
    compressor = TileCompressor(dtype, (30, 40))
    try:
        frame = compressor.expand(content + bytes(zeros))
    except ValueError:
        return
    assert frame.shape == (30, 40)


@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "f4"])
def test_a_cut_tile_is_told(dtype: str) -> None:
    frame = frames_of(dtype, (30, 40), 6)[0 if dtype == "f4" else 2]
    compressor = TileCompressor(dtype, frame.shape)
    tile = bytes(compressor.compress(frame))
    for end in (0, 1, 10, len(tile) // 2):
        with pytest.raises(ValueError):
            compressor.expand(tile[:end])


@pytest.mark.parametrize("dtype", ["i8", "u8", "f2", "c8", "?"])
def test_pixels_that_nobody_could_read_are_refused(dtype: str) -> None:
    with pytest.raises(Refused, match="cannot be tile compressed without loss; switch"):
        algorithm_for(dtype)


def test_a_frame_beyond_the_library_is_refused() -> None:
    with pytest.raises(Refused, match="50000 x 50000 pixels of 2 bytes cannot be one tile"):
        TileCompressor("u2", (50000, 50000))
    with pytest.raises(Refused, match="cannot be one tile"):
        TileCompressor("u2", (0, 5))


def test_another_frame_than_agreed_is_refused() -> None:
    compressor = TileCompressor("u2", (4, 5))
    for frame in (np.zeros((5, 4), "u2"), np.zeros((4, 5), "i2"), np.zeros((4, 5), ">u2")):
        with pytest.raises(ValueError, match="was expected"):
            compressor.load(frame)


@pytest.fixture
def forget_the_library() -> Any:
    def clear() -> None:
        rice._library.cache_clear()
        rice._coder.cache_clear()

    clear()
    yield
    clear()


def test_a_missing_library_is_refused_with_its_name(
    monkeypatch: pytest.MonkeyPatch, forget_the_library: None
) -> None:
    def missing(name: str) -> ctypes.CDLL:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    with pytest.raises(Refused, match="apt install libcfitsio10"):
        TileCompressor("u2", (4, 5))
    TileCompressor("f4", (4, 5))  # needs no library


def test_a_library_without_the_coder_is_refused(
    monkeypatch: pytest.MonkeyPatch, forget_the_library: None
) -> None:
    other = ctypes.CDLL(None)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: other)
    with pytest.raises(Refused, match="has no fits_rcomp_byte"):
        TileCompressor("u2", (4, 5))


def test_wrong_buffers_never_reach_the_library() -> None:
    out = np.empty(10_000, "u1")
    for pixels in (np.zeros(9, ">i2"), np.zeros(9, "i8"), np.zeros(18, "i2")[::2]):
        with pytest.raises(ValueError, match="cannot be given"):
            rice.encode(pixels, out)
        with pytest.raises(ValueError, match="cannot be had"):
            rice.decode(b"123456789", pixels)
    with pytest.raises(ValueError, match="too few"):
        rice.encode(np.zeros(10_000, "i2"), out)


def test_threads_compress_the_same_at_the_same_time() -> None:
    frames = [frame for seed in range(4) for frame in frames_of("u2", (120, 130), seed)]
    wanted = [bytes(TileCompressor("u2", (120, 130)).compress(frame)) for frame in frames]
    got: dict[int, list[bytes]] = {}

    def work(number: int) -> None:
        compressor = TileCompressor("u2", (120, 130))
        got[number] = [bytes(compressor.compress(frame)) for frame in frames]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(got[number] == wanted for number in range(4))



@pytest.mark.parametrize(
    "keyword", ["ZIMAGE", "TFORM1", "TTYPE12", "ZTILE3", "THEAP", "ZNAXIS", "ZHECKSUM", "TFIELDS"]
)
def test_cards_that_would_mean_something_else_are_refused(keyword: str) -> None:
    table = TableShape(1, 1, 5760)
    with pytest.raises(ValueError, match=f"{keyword} cannot stand in"):
        compressed_header("u2", (4, 5), table, [Card(keyword, 1)], 0)
    with pytest.raises(ValueError, match="BITPIX is set by the writer"):
        compressed_header("u2", (4, 5), table, [Card("BITPIX", 8)], 0)
    compressed_header("u2", (4, 5), table, [Card("ZENITH", 8), Card("TFOCUS", 1)], 0)
