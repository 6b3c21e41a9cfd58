# SPDX-License-Identifier: BSD-3-Clause
"""Raw cubes that come through fpack: the same frames and times as without."""

from __future__ import annotations

import subprocess
import tracemalloc
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from kit.depth import soaked
from kit.nights import NightBench, files_of, product_tags, products_of
from kit.product_night import Night, big_endian, frames_of
from kit.tiny_nights import bench_of, make_tiny, settle
from nightjar.errors import StorageError
from nightjar.fits.header import NotFits
from nightjard.archived.nights.plan import Plan
from nightjard.archived.nights.scan import RawFile, Unreadable, look
from nightjard.archived.nights.writing import (
    cube_head,
    foreign,
    hash_cube,
    rice_stream,
    verify_product,
    write_product,
)
from nightjard.archived.nights.writing.raw import RawCube

pytestmark = [pytest.mark.needs("fpack"), pytest.mark.usefixtures("kept_workers")]

ROWS: tuple[str, ...] = ()
WHOLE = ("-w",)
FORMS = {
    "rows": ROWS, "whole cube": WHOLE, "frames": ("-t", "47,31,1"), "blocks": ("-t", "10,7,1"),
    "several frames": ("-t", "47,31,5"), "deep blocks": ("-t", "20,31,3"),
    "gzip": ("-g1",), "gzip, shuffled": ("-g2", "-t", "47,31,1"),
}  # fmt: skip
TYPES = [np.uint8, np.int16, np.uint16, np.int32, np.uint32]


def fpacked(path: Path, options: tuple[str, ...] = ROWS) -> Path:
    """Compress a file as people do, and remove the plain one."""
    subprocess.run(["fpack", *(options or ("-r",)), "-D", "-Y", path], check=True,
                   capture_output=True)  # fmt: skip
    return path.with_name(f"{path.name}.fz")


def frames_in(path: Path, indices: Any) -> list[bytes]:
    """Return frames as the pipeline reads them."""
    with RawCube(path, cube_head(path).ref(0, path.name)) as cube:
        return [bytes(frame.data) for batch in cube.batches(indices) for frame in batch]


@pytest.fixture(params=["expanded at once", "piece by piece"])
def pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have tiles of several frames expanded in either way."""
    if request.param == "piece by piece":
        in_pieces(monkeypatch)


def in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have tiles of several frames expanded piece by piece, and small pieces."""
    monkeypatch.setattr(foreign, "MOST_BYTES", 1)
    monkeypatch.setattr(rice_stream, "_PIECE_PIXELS", 32 * 17)


@pytest.mark.parametrize(
    ("form", "dtype"), [*((form, np.uint16) for form in FORMS),
                        *(("blocks", dtype) for dtype in TYPES), ("gzip", np.int32)],
)  # fmt: skip
def test_frames_are_those_of_the_plain_cube(tmp_path: Path, form: str, dtype: Any) -> None:
    frames = frames_of(3, 12, (31, 47), dtype)
    path = fpacked(plain(tmp_path, frames), FORMS[form])
    wanted = big_endian(frames)
    assert frames_in(path, range(12)) == wanted
    assert frames_in(path, [11, 0, 5, 4, 5]) == [wanted[n] for n in (11, 0, 5, 4, 5)]


def plain(folder: Path, frames: Any) -> Path:
    """Write a cube with astropy."""
    path = folder / "cube.fits"
    fits.PrimaryHDU(frames).writeto(path)
    return path


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("options", [WHOLE, ("-t", "45,33,4")], ids=["whole", "four"])
def test_pixels_of_every_kind_come_out_of_large_tiles(
    tmp_path: Path, dtype: Any, options: tuple[str, ...]
) -> None:
    """Flat blocks, faint noise, noise that cannot be compressed, jumps over the whole range."""
    limits = np.iinfo(dtype)
    rng = np.random.default_rng(7)
    shape = (33, 45)
    frames = np.stack([
        np.full(shape, limits.max), np.full(shape, limits.min),
        rng.integers(0, 2, shape), rng.normal(100, 3, shape).astype(int),
        rng.integers(limits.min, limits.max, shape, endpoint=True),
        np.where(rng.random(shape) < 0.01, limits.max, 7),
        np.where(np.indices(shape).sum(0) % 2, limits.min, limits.max),
        rng.normal(120, 30, shape).astype(int), rng.integers(0, 127, shape),
        *(np.minimum(limits.max, (rng.standard_exponential(shape) * 2.0**n)).astype(np.int64)
          for n in range(0, 8 * dtype().itemsize, 3)),
    ]).astype(dtype)  # fmt: skip
    path = fpacked(plain(tmp_path, frames), options)
    wanted = big_endian(frames)
    assert frames_in(path, range(len(frames))) == wanted
    backwards = range(len(frames))[::-1]
    assert frames_in(path, backwards) == [wanted[n] for n in backwards]


@pytest.mark.parametrize("options", [WHOLE, soaked(ROWS), soaked(("-t", "500,200,30"))])
def test_memory_does_not_grow_with_the_tile(tmp_path: Path, options: tuple[str, ...]) -> None:
    frames = frames_of(1, 240, (200, 500))  # 48 MB
    path = fpacked(plain(tmp_path, frames), options)
    wanted = big_endian(frames[::60])
    del frames
    head = cube_head(path)
    tracemalloc.start()
    with RawCube(path, head.ref(0, path.name)) as cube:
        found = [bytes(frame.data) for batch in cube.batches(range(0, 240, 60)) for frame in batch]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == wanted
    assert peak < 36e6


@pytest.mark.parametrize("form", ["rows", "whole cube", "gzip", "whole cube, piece by piece"])
def test_damage_is_found_where_it_changes_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """A bit is flipped in the tiles; some bits (fill behind the last pixel) mean nothing."""
    if form.endswith("piece by piece"):
        in_pieces(monkeypatch)
        form = "whole cube"
    frames = frames_of(3, 12, (31, 47))
    path = fpacked(plain(tmp_path, frames), FORMS[form])
    good, (head, _, content), wanted = path.read_bytes(), hash_cube(path), big_endian(frames)
    rng = np.random.default_rng(5)
    told = same = 0
    for _ in range(60):
        data = bytearray(good)
        data[int(rng.integers(head.data_offset, head.tail_offset))] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        try:
            is_same = hash_cube(path)[2] == content
        except StorageError as error:
            told += "cannot be expanded" in error.message
            continue
        assert is_same == (frames_in(path, range(12)) == wanted)
        same += is_same
    assert told > 0
    assert same < 20


def test_a_cube_that_is_cut_has_no_frames(tmp_path: Path) -> None:
    path = fpacked(plain(tmp_path, frames_of(3, 12, (31, 47))))
    data = path.read_bytes()
    path.write_bytes(data[: cube_head(path).tail_offset - 10_000])
    head = cube_head(path)
    assert (head.frames, head.present) == (12, 0)


@pytest.mark.parametrize(
    ("dtype", "options", "told"),
    [(np.float32, (), "was compressed with loss"), (np.int16, ("-h",), "compression HCOMPRESS_1"),
     (np.uint16, ("-t", "10,7,12"), "too large to be read here")],
)  # fmt: skip
def test_what_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: Any, options: tuple[str, ...], told: str
) -> None:
    monkeypatch.setattr(foreign, "MOST_BYTES", 1)
    frames = frames_of(3, 12, (31, 47)).astype(dtype)
    path = fpacked(plain(tmp_path, frames), options)
    with pytest.raises(NotFits, match=told):
        cube_head(path)
    found = look(tmp_path, "vcam1", path)
    assert isinstance(found, Unreadable)
    assert "funpack" in found.problem


def test_products_are_those_of_the_plain_cube(tmp_path: Path) -> None:
    made = []
    for number, options in enumerate((None, ROWS, WHOLE)):
        night = Night(tmp_path / str(number) / "night")
        path = night.add(frames_of(1, 12, (31, 47)), "logger")
        if options is not None:
            packed = fpacked(path, options)
            ref = cube_head(packed).ref(0, str(packed.relative_to(night.folder)), "vcam1")
            night.cubes[0] = vars(ref)
        task = night.task([(0, n) for n in range(0, 12, 2)])
        result = write_product(task)
        assert verify_product(task, result) == []
        made.append((night.folder / task["target"]).read_bytes())
        hashes = hash_cube(night.folder / night.cubes[0]["path"])[1]
        assert np.array_equal(np.load(night.folder / task["hashes_file"]), hashes[::2])
    assert made[0] == made[1] == made[2]


def test_a_frame_that_is_not_what_was_logged_is_found(tmp_path: Path) -> None:
    night = Night(tmp_path / "night")
    path = night.add(frames_of(1, 12, (31, 47)), "logger")
    with fits.open(path, mode="update") as hdus:
        hdus[0].data[4, 3, 3] += 1
    packed = fpacked(path)
    night.cubes[0] = vars(cube_head(packed).ref(0, f"vcam1/{packed.name}", "vcam1"))
    with pytest.raises(StorageError, match=r"frame 4 of raw cube .* is not what was logged"):
        write_product(night.task([(0, n) for n in range(12)]))


# --- whole nights ------------------------------------------------------------------------------


def opened(root: Path) -> closing[NightBench]:
    """Give the pipeline on the nights below a root."""
    return closing(bench_of(root, f"sqlite:///{root.parent / (root.name + '.db')}"))


def content_of(night: Path) -> dict[str, tuple[Any, ...]]:
    """Return product -> its pixels and times, whatever its cubes are called."""
    found = {}
    for path in products_of(night):
        with fits.open(path, checksum=True) as hdus:
            header, table = hdus[1].header, hdus["FRAMES"].data
            cards = {key: str(header[key]) for key in header
                     if not key.startswith(("SRC", "PLANHASH", "CHECKSUM", "DATASUM", "ZDATASUM",
                                            "ZHECKSUM", "HISTORY"))}  # fmt: skip
            found[path.name] = (hdus[1].data.tobytes(), table.tobytes(), str(cards))
    return found


@pytest.mark.parametrize("form", ["milk", "fitslogd"])
def test_a_night_comes_out_as_without_fpack(tmp_path: Path, form: str) -> None:
    wanted = None
    for name in ("plain", "packed"):
        truth = make_tiny(tmp_path / name, form=form)
        if name == "packed":
            for number, cube in enumerate(sorted(truth.folder.glob("vcam*/*.fits"))):
                fpacked(cube, (ROWS, WHOLE, ("-t", "16,16,1"))[number % 3])
            settle(truth.folder)
        raw = files_of(truth.folder / "vcam1")
        with opened(tmp_path / name) as bench:
            bench.run(truth.folder)
            night = bench.night(truth.folder)
            plan = Plan.load(truth.folder, night["plan_hash"])
            assert plan.ledger == ()
            assert {cube.compressed for cube in plan.cubes} == {name == "packed"}
            assert all(row["content_hash"] for row in bench.store.cubes(night["id"]))
            assert night["state"] == "verified"
            assert set(bench.run(truth.folder).values()) == {"done before"}
        assert files_of(truth.folder / "vcam1") == raw
        tags = [product_tags(path) for path in products_of(truth.folder)]
        assert truth.conservation(tags).is_exact
        found = content_of(truth.folder)
        assert wanted in (None, found)
        wanted = found


def test_single_frames_that_came_through_fpack(tmp_path: Path) -> None:
    path = tmp_path / "test" / "test_000001.fits"
    path.parent.mkdir()
    header = fits.Header({"DATE-END": "2026-06-12T05:00:00.5", "EXPTIME": 1.0, "EXPCNT": 7})
    pixels = frames_of(3, 1, (31, 47))[0]
    fits.PrimaryHDU(pixels, header).writeto(path)
    packed = fpacked(path)
    found = look(tmp_path, "test", packed)
    assert isinstance(found, RawFile)
    assert found.is_single
    assert found.ref.present == 1
    assert found.timing.counter.tolist() == [7]
    assert frames_in(packed, [0]) == big_endian(pixels[None])


def test_a_cube_that_is_there_twice_is_named(tmp_path: Path) -> None:
    path = plain(tmp_path, frames_of(3, 12, (31, 47)))
    subprocess.run(["fpack", "-r", path], check=True, capture_output=True)
    found = look(tmp_path, "vcam1", path.with_name("cube.fits.fz"))
    assert isinstance(found, Unreadable)
    assert "cube.fits is there as well" in found.problem
    assert isinstance(look(tmp_path, "vcam1", path), RawFile)
