# SPDX-License-Identifier: BSD-3-Clause
"""Compressed cubes: other programs get every pixel back, and a crash loses only what it must."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from nightjar.fits.cards import Card
from nightjar.fits.compressed_cube import CompressedCube, TilePool
from nightjar.fits.frame_table import Rows, empty_rows, read_table, table_hdu
from nightjar.fits.header import Header, NotFits
from nightjar.fits.tile_file import TileLayout
from nightjar.fits.tile_reader import read_frames, salvage_tiles
from nightjar.fits.verify import verify_image
from nightjar.fits.writer import write_image

pytestmark = pytest.mark.needs("funpack", "fpack", "fitsverify")

SHAPE = (37, 41)
COUNT = 9
Cube = np.ndarray[Any, Any]

HEADER = Header([Card("EXTEND", True), Card("OBJECT", "HD 189733")])
HEADER.section("Camera")
HEADER.add("EXPTIME", 0.002, "exposure time", "s")
HEADER.add("LONG", "a string with 'quotes' that is longer than what one card can hold, " + "x" * 60)
HEADER.comment("a comment")
HEADER.history("a step")
CARDS = HEADER.cards


def cube_of(dtype: str = "u2", count: int = COUNT, seed: int = 1) -> Cube:
    noise = np.random.default_rng(seed).normal(100, 12, (count, *SHAPE))
    return noise.astype(dtype)


@pytest.fixture
def pool() -> Iterator[TilePool]:
    pool = TilePool(SHAPE, "u2", threads=2)
    yield pool
    pool.stop()


def layout_of(dtype: str = "u2", capacity: int = COUNT, cards: int = 20) -> TileLayout:
    return TileLayout.make(SHAPE, dtype, capacity, cards)


def append_all(cube: CompressedCube, frames: Cube) -> Rows:
    rows = empty_rows(len(frames))
    for index, frame in enumerate(frames):
        rows["CNT0"][index] = 1000 + index
        rows["DATASUM"][index] = cube.append(frame)
    return rows


def write_cube(path: Path, frames: Cube, **more: int) -> Rows:
    layout = layout_of(frames.dtype.str[1:], **more)
    pool = TilePool(SHAPE, frames.dtype, 2)
    try:
        cube = CompressedCube(path, layout, pool)
        rows = append_all(cube, frames)
        size = cube.complete(CARDS, rows)
    finally:
        pool.stop()
    assert size == path.stat().st_size
    return rows


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def assert_whole(path: Path, frames: Cube, rows: Rows) -> None:
    assert "found 0 warning(s) and 0 error(s)" in run("fitsverify", path)
    assert verify_image(path).problems == ()
    assert read_table(path).tolist() == rows.tolist()
    got = list(read_frames(path))
    assert len(got) == len(frames)
    assert all((a == b).all() for a, b in zip(got, frames, strict=True))


# --- other programs ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "u4", "f4", "f8"])
@pytest.mark.parametrize("capacity", [COUNT, 400])
def test_astropy_and_fitsverify_read_it(tmp_path: Path, dtype: str, capacity: int) -> None:
    path, frames = tmp_path / "a.fits.fz", cube_of(dtype)
    rows = write_cube(path, frames, capacity=capacity)
    assert_whole(path, frames, rows)
    with fits.open(path, checksum=True) as hdus:
        image: Any = hdus[1]
        assert image.data.dtype.newbyteorder("=") == frames.dtype
        assert (image.data == frames).all()
        assert (image.section[3, 5:9, 2:40] == frames[3, 5:9, 2:40]).all()
        assert image.header["OBJECT"] == "HD 189733"
        assert image.header["LONG"] == HEADER["LONG"]
        table: Any = hdus["FRAMES"]
        assert table.data["CNT0"].tolist() == list(range(1000, 1000 + COUNT))


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "u4"])
def test_funpack_makes_the_uncompressed_file_of_it(tmp_path: Path, dtype: str) -> None:
    """Byte for byte what the writer of uncompressed images makes of the same frames and cards."""
    path, raw, frames = tmp_path / "a.fits.fz", tmp_path / "raw.fits", cube_of(dtype)
    rows = write_cube(path, frames, capacity=50)
    write_image(raw, frames, CARDS)
    with open(raw, "ab") as file:
        file.write(table_hdu(rows))
    run("funpack", "-C", path)  # -C: keep the sums that are there
    assert (tmp_path / "a.fits").read_bytes() == raw.read_bytes()


@pytest.mark.parametrize("dtype", ["u2", "f4"])
@pytest.mark.parametrize("cards", [10, 40, 90, 200])
def test_what_funpack_makes_is_whole_whatever_room_the_header_has(
    tmp_path: Path, dtype: str, cards: int
) -> None:
    path, frames = tmp_path / "a.fits.fz", cube_of(dtype)
    write_cube(path, frames, cards=cards)
    unpacked = tmp_path / "a.fits"
    for options in (["-C"], []):
        run("funpack", *options, "-O", unpacked, path)
        assert verify_image(unpacked).problems == ()
        assert "found 0 warning(s) and 0 error(s)" in run("fitsverify", unpacked)
        with fits.open(unpacked) as hdus:
            assert (hdus[0].data == frames).all()
        unpacked.unlink()


def test_funpack_finds_the_same_in_ours_and_in_that_of_fpack(tmp_path: Path) -> None:
    ours, raw, frames = tmp_path / "ours.fits.fz", tmp_path / "raw.fits", cube_of()
    rows = write_cube(ours, frames)
    write_image(raw, frames, CARDS)
    with open(raw, "ab") as file:
        file.write(table_hdu(rows))
    run("fpack", "-r", raw)
    raw.unlink()
    for name in ("raw", "ours"):
        run("funpack", "-C", tmp_path / f"{name}.fits.fz")
    assert (tmp_path / "raw.fits").read_bytes() == (tmp_path / "ours.fits").read_bytes()


def test_fpack_in_tiles_of_a_frame_makes_the_same_tiles(tmp_path: Path) -> None:
    ours, raw, frames = tmp_path / "ours.fits.fz", tmp_path / "raw.fits", cube_of()
    write_cube(ours, frames)
    write_image(raw, frames, CARDS)
    run("fpack", "-r", "-t", f"{SHAPE[1]},{SHAPE[0]},1", raw)
    tiles = []
    for path in (ours, tmp_path / "raw.fits.fz"):
        with fits.open(path, disable_image_compression=True) as hdus:
            table: Any = hdus[1]
            tiles.append([tile.tobytes() for tile in table.data["COMPRESSED_DATA"]])
    assert tiles[0] == tiles[1]


# --- the writer --------------------------------------------------------------------------------


def test_frames_are_taken_back(tmp_path: Path, pool: TilePool) -> None:
    path, frames = tmp_path / "a.fits.fz", cube_of()
    cube = CompressedCube(path, layout_of(), pool)
    rows = empty_rows(COUNT - 2)
    cube.append(frames[-1])
    cube.drop_last()
    for index, frame in enumerate(frames[: COUNT - 2]):
        rows["DATASUM"][index] = cube.append(frame)
        cube.append(frames[-1])
        cube.drop_last()
        assert cube.frames == index + 1
    cube.complete(CARDS, rows)
    assert_whole(path, frames[: COUNT - 2], rows)


def test_tiles_already_in_the_file_are_taken_back(tmp_path: Path) -> None:
    path, frames = tmp_path / "a.fits.fz", cube_of(count=4)
    pool = TilePool(SHAPE, "u2", threads=1)
    cube = CompressedCube(path, layout_of(), pool)
    rows = append_all(cube, frames)
    while cube.frames > 1:
        cube.drop_last()
    for index in (1, 2):
        rows["DATASUM"][index] = cube.append(frames[3])
    cube.complete(CARDS, rows[:3])
    pool.stop()
    assert_whole(path, frames[[0, 3, 3]], rows[:3])


def test_a_frame_may_change_once_it_was_appended(tmp_path: Path, pool: TilePool) -> None:
    path, frames = tmp_path / "a.fits.fz", cube_of()
    cube = CompressedCube(path, layout_of(), pool)
    rows, slot = empty_rows(COUNT), np.empty(SHAPE, "u2")
    for index, frame in enumerate(frames):
        slot[:] = frame
        rows["DATASUM"][index] = cube.append(slot)
        slot[:] = 0
    cube.complete(CARDS, rows)
    assert_whole(path, frames, rows)


def test_a_full_cube_refuses_more_and_can_be_completed(tmp_path: Path, pool: TilePool) -> None:
    path, frames = tmp_path / "a.fits.fz", cube_of()
    cube = CompressedCube(path, layout_of(), pool)
    assert not cube.is_full
    rows = append_all(cube, frames)
    assert cube.is_full
    with pytest.raises(ValueError, match="room for 9 frames and no more"):
        cube.append(frames[0])
    cube.complete(CARDS, rows)
    assert_whole(path, frames, rows)


def test_an_empty_cube_is_still_a_valid_file(tmp_path: Path, pool: TilePool) -> None:
    path = tmp_path / "a.fits.fz"
    CompressedCube(path, layout_of(), pool).complete(CARDS, empty_rows(0))
    assert_whole(path, cube_of(count=0), empty_rows(0))


def test_two_cubes_share_a_pool(tmp_path: Path) -> None:
    """The next cube begins before the last one is complete."""
    pool = TilePool(SHAPE, "u2", threads=1)
    frames = cube_of(count=40)
    first = CompressedCube(tmp_path / "1.fits.fz", layout_of(capacity=40), pool)
    first_rows = append_all(first, frames[:2])
    second = CompressedCube(tmp_path / "2.fits.fz", layout_of(capacity=40), pool)
    # All buffers but one are in the first cube's line; the second must not wait for ever.
    rows = empty_rows(1)
    rows["DATASUM"][0] = second.append(frames[5])
    first.complete(CARDS, first_rows)
    second.complete(CARDS, rows)
    pool.stop()
    assert_whole(tmp_path / "1.fits.fz", frames[:2], first_rows)
    assert_whole(tmp_path / "2.fits.fz", frames[5:6], rows)


def test_what_cannot_be_completed_is_told_and_closed(tmp_path: Path, pool: TilePool) -> None:
    frames = cube_of(count=2)
    for number, (cards, rows, words) in enumerate(
        [
            ([Card("ZIMAGE", True)], empty_rows(2), "cannot stand"),
            ([Card(f"KEY{n}", n) for n in range(80)], empty_rows(2), "do not fit the header"),
            ([], empty_rows(3), "3 rows for 2 frames"),
        ]
    ):
        cube = CompressedCube(tmp_path / f"{number}.fits.fz", layout_of(), pool)
        append_all(cube, frames)
        with pytest.raises(ValueError, match=words):
            cube.complete(cards, rows)
        cube.close()
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert not [link for link in links if str(tmp_path) in os.readlink(link)]


def test_an_existing_file_is_not_touched(tmp_path: Path, pool: TilePool) -> None:
    path = tmp_path / "a.fits.fz"
    path.write_text("precious")
    with pytest.raises(FileExistsError):
        CompressedCube(path, layout_of(), pool)
    assert path.read_text() == "precious"


def test_a_pool_for_other_frames_is_refused(tmp_path: Path, pool: TilePool) -> None:
    with pytest.raises(ValueError, match="another kind"):
        CompressedCube(tmp_path / "a", TileLayout.make((41, 37), "u2", 9, 20), pool)
    cube = CompressedCube(tmp_path / "b", layout_of(), pool)
    for _ in range(10):  # more often than the pool has buffers: none may be lost by it
        with pytest.raises(ValueError, match="was expected"):
            cube.append(np.zeros((41, 37), "u2"))
    assert cube.frames == 0
    cube.close()
    assert [pool.take(wait=False) is None for _ in range(5)] == [False] * 4 + [True]


def test_a_full_disk_keeps_what_is_there(
    tmp_path: Path, pool: TilePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, frames = tmp_path / "a.fits.fz", cube_of(count=40)
    cube = CompressedCube(path, layout_of(capacity=40), pool)
    real, limit = os.pwrite, cube.layout.heap_offset + 5000

    def full(descriptor: int, data: Any, offset: int) -> int:
        if offset < limit < offset + len(data):
            return real(descriptor, data[: limit - offset], offset)
        if offset >= limit:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    rows = empty_rows(40)

    def fill() -> None:
        for index in range(cube.frames, len(frames)):
            rows["DATASUM"][index] = cube.append(frames[index])

    with pytest.raises(OSError, match="No space left"):
        fill()
    taken = cube.frames
    with pytest.raises(OSError, match="No space left"):
        cube.append(frames[taken])
    assert cube.frames == taken  # nothing is lost silently
    cube.drop_line()
    written = cube.frames
    assert 0 < written < taken
    monkeypatch.undo()  # somebody made room
    fill()
    cube.complete(CARDS, rows)
    assert_whole(path, frames, rows)


# --- what a killed writer leaves ---------------------------------------------------------------

WRITER = """
import sys
import numpy as np
from pathlib import Path
from nightjar.fits.compressed_cube import CompressedCube, TilePool
from nightjar.fits.tile_file import TileLayout

shape = (37, 41)
pool = TilePool(shape, "u2", 2)
cube = CompressedCube(Path(sys.argv[1]), TileLayout.make(shape, "u2", 5000, 20), pool)
rng = np.random.default_rng(5)
for _ in range(5000):
    frame = rng.integers(90, 120, shape, np.uint16)
    print(cube.append(frame), flush=True)
"""


def test_a_killed_writer_leaves_its_frames(tmp_path: Path) -> None:
    path = tmp_path / "a.fits.fz"
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    sums = [int(writer.stdout.readline()) for _ in range(150)]
    writer.send_signal(signal.SIGKILL)
    rest = writer.stdout.read().splitlines()
    writer.stdout.close()
    writer.wait(30)
    sums += [int(line) for line in rest[:-1]]
    rows = empty_rows(len(sums))
    rows["DATASUM"] = sums
    rows["CNT0"] = np.arange(len(sums))
    file, kept = salvage_tiles(path, rows)
    # At most what was in the line of the pool (two threads, two buffers more) is gone.
    assert len(sums) - 4 <= len(kept) <= len(sums)
    assert kept["CNT0"].tolist() == list(range(len(kept)))
    file.complete(CARDS, kept)
    rng = np.random.default_rng(5)
    frames = np.array([rng.integers(90, 120, SHAPE, np.uint16) for _ in kept])
    assert_whole(path, frames, kept)
    run("funpack", path)


def unfinished(path: Path, frames: Cube, **more: int) -> tuple[Rows, TileLayout]:
    layout = layout_of(frames.dtype.str[1:], **more)
    pool = TilePool(SHAPE, frames.dtype, 2)
    cube = CompressedCube(path, layout, pool)
    rows = append_all(cube, frames)
    cube.hand_over()  # all tiles are in the file, nothing is finished
    cube.close()
    pool.stop()
    return rows, layout


@pytest.mark.parametrize("dtype", ["u1", "i4", "u2", "f4"])
def test_tiles_that_did_not_reach_the_disk_are_left_out(tmp_path: Path, dtype: str) -> None:
    path, frames = tmp_path / "a.fits.fz", cube_of(dtype)
    rows, layout = unfinished(path, frames, capacity=20)
    content = bytearray(path.read_bytes())
    at = [layout.rows_offset + 16 * index for index in range(COUNT)]
    places = [int.from_bytes(content[a + 8 : a + 16], "big") + layout.heap_offset for a in at]
    content[places[2] + 20 : places[2] + 60] = bytes(40)  # zeros in a tile
    content[at[4] : at[4] + 16] = bytes(16)  # a row that was not written
    content[at[6] : at[6] + 16] = b"\xff" * 16  # garbage
    content[at[7] + 15] ^= 1  # a place that is not the right one
    path.write_bytes(content)
    file, kept = salvage_tiles(path, rows)
    left = [index for index in range(COUNT) if index not in (2, 4, 6, 7)]
    assert kept.tolist() == rows[left].tolist()
    file.complete(CARDS, kept)
    assert_whole(path, frames[left], kept)


def test_a_file_cut_short_keeps_its_whole_tiles(tmp_path: Path) -> None:
    path, frames = tmp_path / "a.fits.fz", cube_of()
    rows, _ = unfinished(path, frames)
    os.truncate(path, path.stat().st_size - 100)
    file, kept = salvage_tiles(path, rows)
    assert len(kept) == COUNT - 1
    file.complete(CARDS, kept)
    assert_whole(path, frames[:-1], kept)


def test_more_tiles_than_rows_keeps_those_of_the_rows(tmp_path: Path) -> None:
    path, frames = tmp_path / "a.fits.fz", cube_of()
    rows, _ = unfinished(path, frames, capacity=30)
    file, kept = salvage_tiles(path, rows[:5])
    file.complete(CARDS, kept)
    assert_whole(path, frames[:5], rows[:5])


@pytest.mark.parametrize("steps", range(4))
def test_a_writer_killed_while_it_finishes_leaves_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    path, frames = tmp_path / "a.fits.fz", cube_of()
    pool = TilePool(SHAPE, "u2", 2)
    cube = CompressedCube(path, layout_of(capacity=50), pool)
    rows = append_all(cube, frames)
    cube.hand_over()
    real, done = os.pwrite, 0

    def killed(descriptor: int, data: Any, offset: int) -> int:
        nonlocal done
        if done == steps:
            raise OSError(errno.EIO, "killed")
        done += 1
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", killed)
    if steps < 3:
        with pytest.raises(OSError, match="killed"):
            cube.complete(CARDS, rows)
    else:
        cube.complete(CARDS, rows)
    monkeypatch.undo()
    pool.stop()
    file, kept = salvage_tiles(path, rows)
    assert kept.tolist() == rows.tolist()
    file.complete(CARDS, kept)
    assert_whole(path, frames, rows)


def test_other_files_are_not_taken_for_leftovers(tmp_path: Path) -> None:
    raw, frames = tmp_path / "raw.fits", cube_of()
    write_image(raw, frames, CARDS)
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    run("fpack", "-r", raw)
    before = (tmp_path / "raw.fits.fz").read_bytes()
    for path, words in (
        (raw, "not a compressed cube"),
        (empty, "not a FITS file"),
        (tmp_path / "raw.fits.fz", "compressed by another program; use funpack"),
    ):
        with pytest.raises(NotFits, match=words):
            salvage_tiles(path, empty_rows(COUNT))
        with pytest.raises(NotFits, match=words):
            list(read_frames(path))
    assert (tmp_path / "raw.fits.fz").read_bytes() == before


def test_a_damaged_frame_is_told_by_its_number(tmp_path: Path) -> None:
    path, frames = tmp_path / "a.fits.fz", cube_of()
    write_cube(path, frames)
    layout = layout_of()
    content = bytearray(path.read_bytes())
    content[layout.rows_offset + 16 * 5 + 7] = 3  # frame 5 has three bytes
    path.write_bytes(content)
    assert len(list(read_frames(path, 0, 5))) == 5
    with pytest.raises(NotFits, match="frame 5: "):
        list(read_frames(path))
