# SPDX-License-Identifier: BSD-3-Clause
"""Cubes that grow: whatever is appended and taken back, astropy reads what is left."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.logging_bench import fitsverify
from nightjar.files import is_ram_disk
from nightjar.fits.checksum import datasum
from nightjar.fits.cube import CubeLayout, CubeWriter, salvage_frames
from nightjar.fits.frame_table import empty_rows, read_table
from nightjar.fits.sink import DiskQueue, DiskSink, MemorySink
from nightjar.fits.verify import verify_image

TYPES = ["u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]
CHUNK = 1 << 12  # a page: frames begin and end anywhere in it

shapes = st.one_of(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(30, 60), st.integers(40, 90)),  # several chunks
    st.tuples(st.integers(1, 700)),
    st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)),
)
steps = st.lists(
    st.sampled_from(["append", "append", "append", "run", "drop"]), min_size=1, max_size=25
)


class Cubes:
    """A folder, the chunks, and the two ways to write."""

    def __init__(self, folder: Path, disk: DiskQueue) -> None:
        self.folder, self.disk = folder, disk
        self.number = 0

    def writer(self, layout: CubeLayout, kind: str) -> CubeWriter:
        self.number += 1
        path = self.folder / f"{self.number}.fits"
        writer = CubeWriter(path, layout, self.disk)
        writer._sink.close()
        path.unlink()
        writer._sink = (
            MemorySink(path, layout.header_bytes) if kind == "memory"
            else DiskSink(path, layout.header_bytes, self.disk)
        )  # fmt: skip
        return writer


@pytest.fixture(scope="module")
def cubes(tmp_path_factory: pytest.TempPathFactory) -> Any:
    disk = DiskQueue(chunks=3, chunk_bytes=CHUNK)
    yield Cubes(tmp_path_factory.mktemp("cubes"), disk)
    disk.stop()


def make(shape: tuple[int, ...], dtype: str, number: int) -> np.ndarray:
    rng = np.random.default_rng(number)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return rng.normal(0, 1e3, shape).astype(kind)
    bounds = np.iinfo(kind)
    return rng.integers(bounds.min, bounds.max, shape, kind, endpoint=True)


def in_file_order(frame: np.ndarray) -> bytes:
    swapped = frame.dtype.newbyteorder(">")
    if frame.dtype.kind == "u" and frame.itemsize > 1:
        frame = frame ^ frame.dtype.type(1 << 8 * frame.itemsize - 1)
    return frame.astype(swapped).tobytes()


@settings(max_examples=120)
@given(shape=shapes, dtype=st.sampled_from(TYPES), todo=steps,
       kind=st.sampled_from(["memory", "disk"]), cards=st.integers(0, 120))  # fmt: skip
def test_what_is_appended_and_not_taken_back_is_what_is_read(
    shape: tuple[int, ...], dtype: str, todo: list[str], kind: str, cards: int, cubes: Cubes
) -> None:
    layout = CubeLayout.make(shape, dtype, cards)
    writer = cubes.writer(layout, kind)
    kept: list[np.ndarray] = []
    sums: list[int] = []
    for number, step in enumerate(todo):
        if step == "append":
            frame = make(shape, dtype, number)
            frame.flags.writeable = False
            kept.append(frame)
            sums.append(writer.append(frame))
            assert sums[-1] == datasum(in_file_order(frame))
        elif step == "run":
            frames = make((1 + number % 7, *shape), dtype, number)
            frames.flags.writeable = False
            kept.extend(frames)
            writer.append_run(frames, sums)
            assert len(sums) == writer.frames == len(kept)
            assert sums[-len(frames) :] == [datasum(in_file_order(frame)) for frame in frames]
        elif kept:
            writer.drop_last()
            kept.pop()
            sums.pop()
    if not kept:
        writer.close()
        return
    rows = empty_rows(len(kept))
    rows["DATASUM"] = sums
    rows["CNT0"] = np.arange(len(kept)) + 5
    size = writer.complete([], rows, fsync=False)
    assert writer.path.stat().st_size == size
    assert size % 2880 == 0
    verified = verify_image(writer.path)
    assert verified.is_good, verified.problems
    with fits.open(writer.path) as units:
        data = units[0].data
        assert data.shape == (len(kept), *shape)
        assert data.dtype.newbyteorder("=") == np.dtype(dtype)
        assert np.array_equal(data, np.stack(kept))
        assert np.array_equal(units["FRAMES"].data["DATASUM"], sums)
    assert np.array_equal(read_table(writer.path), rows)
    writer.path.unlink()


@pytest.mark.needs("fitsverify")
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_fitsverify_finds_nothing_in_any_type_of_pixels(
    dtype: str, kind: str, cubes: Cubes
) -> None:
    writer = cubes.writer(CubeLayout.make((7, 11), dtype, 5), kind)
    rows = empty_rows(5)
    rows["DATASUM"] = [writer.append(make((7, 11), dtype, n)) for n in range(5)]
    rows["ATIME"] = rows["LTIME"] = 1_750_000_000_000_000_000 + np.arange(5)
    writer.complete([], rows, fsync=False)
    assert fitsverify(writer.path) == ""


@settings(max_examples=60)
@given(frames=st.integers(1, 12), bad=st.sets(st.integers(0, 11)), cut=st.integers(0, 3000),
       shape=st.sampled_from([(3, 7), (20, 41)]))  # fmt: skip
def test_salvage_keeps_the_frames_that_are_whole(
    frames: int, bad: set[int], cut: int, shape: tuple[int, int], cubes: Cubes
) -> None:
    """Frames go whose bytes are not those of their row, or for which the file is too short."""
    layout = CubeLayout.make(shape, "u2", 0)
    writer = cubes.writer(layout, "memory")
    rows = empty_rows(frames)
    rows["DATASUM"] = [writer.append(make(shape, "u2", n)) for n in range(frames)]
    rows["CNT0"] = np.arange(frames) + 1
    writer.close()
    descriptor = os.open(writer.path, os.O_RDWR)
    try:
        for index in bad:
            if index < frames:
                os.pwrite(descriptor, b"\x12\x34\x56\x79", layout.frame_offset(index) + 3)
        end = layout.frame_offset(frames) - cut
        os.ftruncate(descriptor, max(0, end))
        kept = salvage_frames(descriptor, layout, rows)
        expected = [
            n for n in range(frames)
            if n not in bad and layout.frame_offset(n) + layout.frame_bytes <= end
        ]  # fmt: skip
        assert (kept["CNT0"] - 1).tolist() == expected
        for place, number in enumerate(expected):
            data = os.pread(descriptor, layout.frame_bytes, layout.frame_offset(place))
            pixels = np.frombuffer(data, ">u2") ^ 0x8000
            assert np.array_equal(pixels.reshape(shape), make(shape, "u2", number))
    finally:
        os.close(descriptor)
    writer.path.unlink()


def test_more_cards_than_room_is_refused_and_leaves_no_fits_file(cubes: Cubes) -> None:
    from nightjar.fits.cards import Card

    layout = CubeLayout.make((3, 4), "u2", 0)
    writer = cubes.writer(layout, "memory")
    rows = empty_rows(1)
    rows["DATASUM"] = writer.append(make((3, 4), "u2", 1))
    fitting = [Card(f"K{n}", n) for n in range(layout.card_room)]
    with pytest.raises(ValueError, match="fit"):
        writer.complete([*fitting, *(Card(f"L{n}", n) for n in range(40))], rows)
    assert not writer.path.read_bytes().startswith(b"SIMPLE")


@pytest.mark.parametrize("dtype", ["?", "c8", "f2", "c16"])
def test_pixels_that_fits_has_no_place_for(dtype: str) -> None:
    with pytest.raises(ValueError, match="no place in a FITS image"):
        CubeLayout.make((3, 4), dtype, 0)


def test_a_disk_that_fails_is_told_with_the_next_frames_and_at_the_end(
    cubes: Cubes, tmp_path: Path
) -> None:
    layout = CubeLayout.make((40, 60), "u2", 0)
    writer = cubes.writer(layout, "disk")
    sink = writer._sink
    assert isinstance(sink, DiskSink)
    sums = [writer.append(make((40, 60), "u2", n)) for n in range(3)]
    sink._pending.wait()
    if sink._direct >= 0:
        os.close(sink._direct)
    sink._direct = os.open("/dev/full", os.O_WRONLY)


    def append_many() -> None:
        for number in range(3, 40):
            sums.append(writer.append(make((40, 60), "u2", number)))

    with pytest.raises(OSError, match="No space"):
        append_many()
    rows = empty_rows(len(sums))
    rows["DATASUM"] = sums
    rows["CNT0"] = np.arange(len(sums))
    with pytest.raises(OSError, match="No space"):
        writer.complete([], rows)
    descriptor = os.open(writer.path, os.O_RDWR)
    try:
        kept = salvage_frames(descriptor, layout, rows)
    finally:
        os.close(descriptor)
    assert 1 <= len(kept) < len(sums)
    assert kept["CNT0"].tolist() == list(range(len(kept)))
    assert cubes.disk.free == 3  # every chunk came back


def test_the_folder_decides_the_way(tmp_path: Path) -> None:
    assert is_ram_disk(Path("/dev/shm"))
    assert not is_ram_disk(Path("/proc"))


def test_a_cube_of_more_than_4_gib(cubes: Cubes) -> None:
    """All but its last frame is a hole: nothing is written there, and the sum of zeros is 0."""
    layout = CubeLayout.make((4096, 8192), "u2", 0)
    count = 70
    writer = cubes.writer(layout, "disk")
    writer._sink.close()
    writer.path.unlink()
    writer._sink = MemorySink(writer.path, layout.frame_offset(count - 1))
    writer.frames = count - 1
    last = np.zeros(layout.frame_shape, "u2")
    last[-1, -5:] = range(1, 6)
    rows = empty_rows(count)
    rows["DATASUM"][-1] = writer.append(last)
    size = writer.complete([], rows, fsync=False)
    assert size > 1 << 32
    with fits.open(writer.path, memmap=True, do_not_scale_image_data=True) as units:
        assert units[0].shape == (count, *layout.frame_shape)
        raw = units[0].data
        assert (raw[-1, -1, -5:].view(">u2") ^ 0x8000).tolist() == [1, 2, 3, 4, 5]
        # The sum of the frames with something in them is that of the whole.
        only = np.ascontiguousarray(raw[-1])
        assert int(units[0].header["DATASUM"]) == datasum(only.tobytes())
        assert len(units["FRAMES"].data) == count
    writer.path.unlink()
