# SPDX-License-Identifier: BSD-3-Clause
"""Products and compressed files between this suite, fpack, funpack, fitsverify and astropy."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.io.fits.card import UNDEFINED

from kit.product_night import Night, cards_text, frames_of
from nightjar.errors import Refused, StorageError
from nightjar.fits.cards import Card
from nightjar.fits.verify import verify_image
from nightjard.archived.nights.writing import compress_file, decompress_file, write_product

pytestmark = pytest.mark.needs("fpack", "funpack", "fitsverify")


def run(*arguments: str | Path) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
    return done.stdout


def has_no_errors(path: Path, *, may_warn: bool = False) -> bool:
    command = ["fitsverify", *(["-e"] if may_warn else []), path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return "0 error(s)" in done.stdout and (may_warn or "0 warning(s)" in done.stdout)


def values(header: fits.Header) -> list[tuple[str, str]]:
    """Return keywords and values of all cards but checksums and blank ones."""
    return [
        (card.keyword, repr(card.value) if card.value is not UNDEFINED else "")
        for card in header.cards
        if card.keyword not in ("CHECKSUM", "DATASUM", "")
    ]


def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def make(path: Path, kind: str) -> Path:
    """Write a file as some other program would."""
    noise = rng().normal(1000, 20, (4, 30, 41))
    extension = fits.ImageHDU(noise[0].astype(np.int32), name="SCI")
    table = fits.BinTableHDU.from_columns([fits.Column("T", "D", array=np.arange(5.0))])
    units: dict[str, list[Any]] = {
        "cube": [fits.PrimaryHDU(noise.astype(np.uint16))],
        "frame": [fits.PrimaryHDU(noise[0].astype(np.int16))],
        "bytes": [fits.PrimaryHDU((noise / 8).astype(np.uint8))],
        "words": [fits.PrimaryHDU((noise * 1e5).astype(np.uint32))],
        "extension": [fits.PrimaryHDU(), extension, table],
        "mixed": [fits.PrimaryHDU(noise.astype(np.uint16)), table, extension],
        "wide": [fits.PrimaryHDU(rng().integers(0, 99, (3, 5, 1_000_000)).astype(np.int16))],
        "ramp": [fits.PrimaryHDU(np.zeros((3, 4), np.int16)), extension],
    }
    hdus = fits.HDUList(units[kind])
    header = hdus[-1 if kind == "extension" else 0].header
    header["OBJECT"] = ("NGC 7027", "a planetary nebula")
    header["LONGTEXT"] = "many words " * 20
    header["HIERARCH ESO THING"] = 3
    header["UNKNOWN"] = None
    header.add_comment("it is raining")
    header.add_history("made by astropy")
    hdus.writeto(path, checksum=kind != "ramp")
    return path


KINDS = ["cube", "frame", "bytes", "words", "extension", "mixed", "wide", "ramp"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_we_compress_funpack_expands(tmp_path: Path, kind: str) -> None:
    path = make(tmp_path / "a.fits", kind)
    original = path.read_bytes()
    packed = compress_file(path, keep=False)
    assert packed.path == tmp_path / "a.fits.fz"
    assert packed.is_removed
    assert not path.exists()
    assert packed.size == packed.path.stat().st_size
    has_sums = kind != "ramp"
    if has_sums:  # the file of "ramp" has none, and what has no checksum gets none
        assert verify_image(packed.path).is_good
    assert has_no_errors(packed.path, may_warn=True)  # of cards that astropy wrote
    theirs = tmp_path / "theirs.fits"
    run("funpack", "-O", theirs, packed.path)
    with fits.open(theirs, checksum=has_sums) as got, fits.open(make(path, kind)) as wanted:
        assert len(got) == len(wanted)
        for one, other in zip(got, wanted, strict=True):
            if other.data is not None:
                assert one.data.dtype.newbyteorder("=") == other.data.dtype.newbyteorder("=")
                assert np.array_equal(one.data, other.data)
            assert values(one.header) == values(other.header)
    path.unlink()
    ours = decompress_file(packed.path)
    assert ours.path.read_bytes() == original
    assert (ours.original_hash, ours.file_hash) == (packed.file_hash, packed.original_hash)


@pytest.mark.parametrize(
    ("kind", "tile"),
    [
        (kind, tile)
        for kind in KINDS
        for tile in (None, "w", "rows")
        if tile != "rows" or kind not in ("wide", "ramp")
    ],
)
def test_what_fpack_compresses_we_expand(tmp_path: Path, kind: str, tile: str | None) -> None:
    path = make(tmp_path / "a.fits", kind)
    options = {None: [], "w": ["-w"], "rows": ["-t", "41,7"]}[tile]
    run("fpack", "-r", *options, path)
    packed = path.with_name("a.fits.fz")
    run("funpack", "-O", tmp_path / "theirs.fits", packed)
    path.unlink()
    ours = decompress_file(packed, keep=False)
    assert not packed.exists()
    with fits.open(ours.path, checksum=True) as got, fits.open(tmp_path / "theirs.fits") as wanted:
        assert len(got) == len(wanted)
        for one, other in zip(got, wanted, strict=True):
            if kind != "ramp":  # what has no checksum gets one from funpack
                assert one.header.tostring(padding=False) == other.header.tostring(padding=False)
            assert values(one.header) == values(other.header)
            assert other.data is None or np.array_equal(one.data, other.data)


def test_what_astropy_compresses_we_expand(tmp_path: Path) -> None:
    pixels = rng().normal(1000, 20, (3, 20, 31)).astype(np.uint16)
    for number, options in enumerate(
        ({"compression_type": "RICE_1"}, {"compression_type": "GZIP_1"},
         {"compression_type": "GZIP_2", "tile_shape": (1, 20, 31)})
    ):  # fmt: skip
        path = tmp_path / f"a{number}.fits.fz"
        fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(pixels, **options)]).writeto(path)
        plain = decompress_file(path).path
        with fits.open(plain) as hdus:
            assert np.array_equal(next(h.data for h in hdus if h.data is not None), pixels)


def test_what_was_compressed_with_loss_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.fits"
    fits.PrimaryHDU(rng().normal(size=(30, 40)).astype(np.float32)).writeto(path)
    with pytest.raises(Refused, match="stays as it is"):
        compress_file(path, keep=False)
    run("fpack", "-r", path)
    path.unlink()
    with pytest.raises(Refused, match="use funpack"):
        decompress_file(tmp_path / "a.fits.fz")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.fits.fz"]


def test_an_output_of_fpack_is_accepted_a_part_of_one_made_anew(tmp_path: Path) -> None:
    path = make(tmp_path / "a.fits", "mixed")
    run("fpack", "-r", path)
    packed = path.with_name("a.fits.fz")
    whole = packed.read_bytes()
    done = compress_file(path, keep=True)
    assert done.was_there
    assert packed.read_bytes() == whole
    for size in (0, 100, 2880, 9000, len(whole) - 2880, len(whole) - 1):
        packed.write_bytes(whole[:size])  # fpack was killed
        done = compress_file(path, keep=True)
        assert not done.was_there
        assert decompress_file(packed).was_there  # the original, byte for byte
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.fits", "a.fits.fz"]
    assert compress_file(path, keep=False).was_there
    assert not path.exists()
    again = compress_file(path, keep=False)  # killed before it could answer
    assert again.was_there
    assert again.original_hash == done.original_hash


def test_an_output_with_something_else_stops_it(tmp_path: Path) -> None:
    path = make(tmp_path / "a.fits", "cube")
    original = path.read_bytes()
    other = make(tmp_path / "b.fits", "frame")
    run("fpack", "-r", "-O", tmp_path / "a.fits.fz", other)
    there = (tmp_path / "a.fits.fz").read_bytes()
    with pytest.raises(StorageError, match="holds something else"):
        compress_file(path, keep=False)
    assert path.read_bytes() == original
    assert (tmp_path / "a.fits.fz").read_bytes() == there


@pytest.mark.parametrize("damage", ["cut", "longer", "text"])
def test_files_that_are_not_whole_stay(tmp_path: Path, damage: str) -> None:
    path = make(tmp_path / "a.fits", "cube")
    data = path.read_bytes()
    data = {"cut": data[:-2880], "longer": data + b"?", "text": b"no FITS"}[damage]
    path.write_bytes(data)
    with pytest.raises(StorageError, match="not"):
        compress_file(path, keep=False)
    assert path.read_bytes() == data
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.fits"]


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "u4", "f4", "f8"])
def test_products_of_every_type_of_pixel(tmp_path: Path, dtype: str) -> None:
    night = Night(tmp_path / "night")
    frames = frames_of(1, 7, (13, 17), dtype)
    night.add(frames)
    picks = [(0, index) for index in (0, 1, 2, 5)]
    tasks = [night.task(picks, compression=how) for how in ("rice", "none")]
    packed, plain = (Path(task["night"]) / task["target"] for task in tasks)
    for task in tasks:
        write_product(task)
    assert has_no_errors(packed)
    assert has_no_errors(plain)
    run("funpack", "-O", tmp_path / "expanded.fits", packed)
    assert (tmp_path / "expanded.fits").read_bytes() == plain.read_bytes()
    for path, unit in ((packed, 1), (plain, 0)):
        assert verify_image(path).is_good
        with fits.open(path, checksum=True) as hdus:
            pixels = hdus[unit].data
            assert pixels.dtype.newbyteorder("=") == np.dtype(dtype)
            assert np.array_equal(pixels, night.wanted(picks))
    packed.with_suffix("").unlink()  # the plain one
    assert decompress_file(packed).path.read_bytes() == (tmp_path / "expanded.fits").read_bytes()


@pytest.mark.parametrize("count", [0, 1, 17, 18, 19, 40, 53, 54, 55, 200])
def test_checksums_hold_for_every_length_of_the_header(tmp_path: Path, count: int) -> None:
    night = Night(tmp_path / "night")
    night.add(frames_of(1, 3, (5, 8)))
    cards = cards_text([Card(f"KEY{number:03d}", number * 1.5) for number in range(count)])
    task = night.task([(0, 0), (0, 2)], cards=cards)
    write_product(task)
    packed = Path(task["night"]) / task["target"]
    assert has_no_errors(packed)
    run("funpack", "-O", tmp_path / "expanded.fits", packed)
    assert has_no_errors(tmp_path / "expanded.fits")
    assert verify_image(tmp_path / "expanded.fits").is_good
