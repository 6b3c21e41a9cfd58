# SPDX-License-Identifier: BSD-3-Clause
"""Frames read from any FITS file as astropy reads them, metrics as numpy computes them."""

from __future__ import annotations

import gzip
import io
import json
import math
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from blake3 import blake3
from hypothesis import strategies as st

from kit.depth import examples
from nightjar.calibration.detector import Detector, load_detector
from nightjar.errors import StorageError
from nightjar.fits.cards import Card
from nightjard.calib.frames import _whole, open_frame
from nightjard.calib.metrics import (
    clipped_std_of,
    count_values,
    measure_frame,
    measure_quadrant,
    median_of,
    moments_of,
    moving_bits,
    stuck_bits,
)
from nightjard.calib.results import fits_bytes

NAME = "EUC_17210_210280D012345T_ROE1_CCD2.fits"
EIGHTH = load_detector("ccd273-8th")
Pixels = np.ndarray[Any, Any]


def small(**changes: Any) -> Detector:
    """A detector of two quadrants, read from different corners."""
    description = {
        "name": "two", "ccds": 2, "prescan": 5, "image_columns": 30, "overscan": 4,
        "image_rows": 20, "parallel_overscan": 3, "pixel_um": 10, "gain_e_adu": 2,
        "read_noise_e": 3, "full_well_e": 1e5, "prescan_trim": [2, 1],
        "quadrants": {"A": {"column": 0, "row": 0},
                      "B": {"column": 1, "row": 0, "reads_from_right": True,
                            "reads_from_top": True}},
    }  # fmt: skip
    return Detector.model_validate_json(json.dumps({**description, **changes}))


def write(path: Path, pixels: Pixels, **cards: Any) -> Path:
    unit = fits.ImageHDU(pixels, name="ROE1_CCD2")
    unit.header.update(cards)
    fits.HDUList([fits.PrimaryHDU(), unit]).writeto(path)
    return path


def noise(detector: Detector, seed: int = 1) -> Pixels:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 65536, detector.frame_shape).astype(np.uint16)


# --- pixels ---


def as_written(folder: Path, pixels: Pixels) -> Path:
    return write(folder / NAME, pixels)


def as_primary(folder: Path, pixels: Pixels) -> Path:
    fits.PrimaryHDU(pixels).writeto(folder / NAME)
    return folder / NAME


def as_signed(folder: Path, pixels: Pixels) -> Path:
    return write(folder / NAME, (pixels // 2).astype(np.int16))


def as_long(folder: Path, pixels: Pixels) -> Path:
    return write(folder / NAME, pixels.astype(np.int32))


def as_floats(folder: Path, pixels: Pixels) -> Path:
    return write(folder / NAME, pixels.astype(np.float32) + np.float32(0.25))


def as_tiles(folder: Path, pixels: Pixels) -> Path:
    unit = fits.CompImageHDU(pixels, name="ROE1_CCD2", compression_type="RICE_1")
    fits.HDUList([fits.PrimaryHDU(), unit]).writeto(folder / NAME)
    return folder / NAME


def as_gzip(folder: Path, pixels: Pixels) -> Path:
    plain = write(folder / "plain.fits", pixels)
    (folder / f"{NAME}.gz").write_bytes(gzip.compress(plain.read_bytes()))
    return folder / f"{NAME}.gz"


@pytest.mark.parametrize(
    "form", [as_written, as_primary, as_signed, as_long, as_floats, as_tiles, as_gzip]
)
def test_quadrants_are_those_of_the_file_in_the_order_of_reading(
    form: Callable[[Path, Pixels], Path], tmp_path: Path
) -> None:
    pixels = noise(EIGHTH)
    path = form(tmp_path, pixels)
    truth = pixels // 2 if form is as_signed else pixels
    frame = open_frame(path, EIGHTH)
    assert (frame.obsid, frame.ccd) == (17210, 2)
    for quadrant in EIGHTH.names:
        raw = frame.raw(quadrant)
        assert raw.dtype == np.uint16
        assert raw.dtype.isnative
        assert raw.flags.c_contiguous
        np.testing.assert_array_equal(raw, EIGHTH.canonical(truth, quadrant))
        np.testing.assert_array_equal(frame.band(quadrant, 7, 19), raw[7:19])
    # The node of E is the upper left corner of the frame, of G the lower right one.
    assert frame.raw("E")[0, 0] == truth[-1, 0]
    assert frame.raw("G")[0, 1] == truth[0, -2]


def test_the_digest_is_that_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / NAME, noise(EIGHTH))
    assert open_frame(path, EIGHTH).blake3() == blake3(path.read_bytes()).hexdigest()
    found = measure_frame(str(path), "ccd273-8th", 5, 2, is_hashed=True)
    assert found["blake3"] == blake3(path.read_bytes()).hexdigest()


def test_the_header_says_what_it_is_before_the_name_does(tmp_path: Path) -> None:
    path = write(tmp_path / "EUC_5_x_ROE1_CCD3.fits", noise(EIGHTH), OBSID=77, VSTART=3, VEND=9000)
    frame = open_frame(path, EIGHTH)
    assert (frame.obsid, frame.ccd) == (77, 2)
    assert (frame.vstart, frame.vend) == (3, EIGHTH.quadrant_shape[0])
    assert open_frame(write(tmp_path / "a.fits", noise(EIGHTH), VEND=0), EIGHTH).vend == 278


@pytest.mark.parametrize("value", ["--3", "\u00b2", math.inf, "north"])
def test_a_row_number_that_is_none_is_left_out(value: object) -> None:
    assert _whole(value, 7) == 7  # type: ignore[arg-type]


def spoil_inside(path: Path) -> None:
    data = bytearray(gzip.compress(path.read_bytes()))
    data[10:14] = bytes([255] * 4)  # no block is of that kind
    path.write_bytes(data)


def cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 20000)


@pytest.mark.parametrize(
    ("spoil", "seen"),
    [
        (cut, "cut short"),
        (lambda path: path.write_bytes(path.read_bytes()[:1000]), "cut short"),
        (lambda path: path.write_bytes(b""), "not a FITS file"),
        (lambda path: path.write_text("ObsID\tFile_name\n" * 300), "not a FITS file"),
        (lambda path: path.unlink(), "No such file"),
        (lambda path: (path.unlink(), path.mkdir()), "directory"),
        (lambda path: path.write_bytes(gzip.compress(path.read_bytes())[:9000]), "cannot read"),
        (spoil_inside, "cannot read"),
        (lambda path: (path.unlink(), fits.PrimaryHDU().writeto(path)), "no image"),
        (lambda path: (path.unlink(), write(path, np.zeros((9, 7), np.uint16))), "7 x 9 pixels"),
    ],
)
def test_a_file_that_is_no_frame_is_named_with_what_was_seen(
    spoil: Callable[[Path], object], seen: str, tmp_path: Path
) -> None:
    path = write(tmp_path / NAME, noise(EIGHTH))
    spoil(path)
    with pytest.raises(StorageError, match=seen) as caught:
        open_frame(path, EIGHTH).raw("E")
    assert str(path) in caught.value.message
    # A worker tells it instead of failing: the other frames of the test go on.
    assert seen in measure_frame(str(path), "ccd273-8th", 1, 2)["problem"]


# --- metrics ---


def test_metrics_are_those_of_the_sectors(tmp_path: Path) -> None:
    detector = small()
    pixels = noise(detector, 3)
    view = detector.canonical(pixels, "B")
    view[4, 7], view[6:8, 20] = 0, 65535
    view[0, 0] = view[-1, 3] = 0  # not read: they do not count
    frame = open_frame(write(tmp_path / NAME, pixels, VSTART=2, VEND=22), detector)
    found = measure_quadrant(frame, "B")
    pre, ove = view[2:20, 2:4].astype(float), view[2:20, 35:39].astype(float)
    img = view[2:20, 5:35].astype(float)
    for name, sector in (("pre", pre), ("ove", ove), ("img", img)):
        assert found[f"mean_{name}"] == pytest.approx(sector.mean(), rel=1e-12)
        assert abs(found[f"offset_{name}"] - np.median(sector)) < 2000  # a flat distribution
    for name, sector in (("pre", pre), ("ove", ove)):
        assert found[f"std_{name}"] == pytest.approx(
            np.diff(sector, axis=0).std(ddof=1) / np.sqrt(2), rel=1e-12
        )
    assert (found["npix"], found["npix_zero"]) == (20 * 39, 1)
    assert found["npix_sat"] == int((view[2:22] == 65535).sum())
    assert count_values(frame, "B").sum() == 20 * 39


def test_charge_left_behind_is_not_noise_of_the_overscan(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    pixels = rng.normal(2650, 1.2, EIGHTH.frame_shape)
    view = EIGHTH.canonical(pixels, "F")
    scan = view[:, EIGHTH.columns_of("overscan")]
    scan += 40 * np.exp(-np.arange(20) / 2)
    frame = open_frame(write(tmp_path / NAME, pixels.round().astype(np.uint16)), EIGHTH)
    assert measure_quadrant(frame, "F")["std_ove"] == pytest.approx(np.hypot(1.2, 0.289), rel=0.05)


def test_the_course_of_the_offset_is_not_noise_but_a_rise_of_noise_is(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    rows = np.linspace(-1, 1, EIGHTH.quadrant_shape[0])[:, None]
    columns = np.linspace(-1, 1, EIGHTH.quadrant_shape[1])[None, :]
    pixels = np.zeros(EIGHTH.frame_shape)
    for quadrant, noise in (("E", 1.2), ("G", 1.5)):
        view = EIGHTH.canonical(pixels, quadrant)
        view += 2600 + 1.1 * rows + 0.8 * rows**2 + columns + rng.normal(0, noise, view.shape)
        view[:, 100] += 300  # a column of its own, and pixels
        view[::50, 150] += 20000
    frame = open_frame(write(tmp_path / NAME, pixels.round().astype(np.uint16)), EIGHTH)
    for quadrant, noise in (("E", 1.2), ("G", 1.5)):
        found = measure_quadrant(frame, quadrant)
        for sector in ("pre", "ove", "img"):
            assert found[f"std_{sector}"] == pytest.approx(np.hypot(noise, 0.289), rel=0.04)


def test_sectors_that_a_detector_does_not_have_have_no_values(tmp_path: Path) -> None:
    detector = small(prescan=0, overscan=0, prescan_trim=[0, 0], offset_sector="none")
    frame = open_frame(write(tmp_path / NAME, noise(detector)), detector)
    found = measure_quadrant(frame, "A")
    assert found["offset_pre"] is None
    assert found["std_ove"] is None
    assert found["std_img"] > 1000


@examples(30, 500, st.integers(0, 2**32), st.floats(0.8, 300), st.floats(500, 60000))
def test_medians_of_whole_numbers_find_the_level_between_them(
    seed: int, sigma: float, level: float
) -> None:
    rng = np.random.default_rng(seed)
    values = np.rint(rng.normal(level, sigma, 40000)).clip(1, 65534).astype(np.int64)
    counts = np.bincount(values, minlength=65536)
    assert median_of(counts) == pytest.approx(level, abs=0.03 + 6 * sigma / 200)
    mean, std = moments_of(counts)
    assert mean == pytest.approx(values.mean(), rel=1e-12)
    assert std == pytest.approx(values.std(ddof=1), rel=1e-9)


def test_hot_pixels_do_not_reach_the_noise_of_the_image() -> None:
    rng = np.random.default_rng(8)
    values = np.rint(rng.normal(2700, 1.2, 100000)).astype(np.int64)
    values[:300] = 30000
    counts = np.bincount(values, minlength=65536)
    assert clipped_std_of(counts) == pytest.approx(np.hypot(1.2, 0.2887), rel=0.01)
    assert moments_of(counts)[1] > 1000


@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.parametrize(("bit", "sigma"), [(0, 1.1), (1, 1.1), (1, 40), (5, 60), (9, 900)])
def test_a_bit_that_does_not_change_is_found(bit: int, sigma: float, value: int) -> None:
    rng = np.random.default_rng(bit)
    level = 3 << (bit + 2)  # a carry over the bit is within reach
    codes = np.rint(rng.normal((20000 >> bit) // 2 * (2 << bit) + level, sigma, 400000))
    codes = codes.astype(np.int64)
    codes = codes | (1 << bit) if value else codes & ~(1 << bit)
    assert bit in stuck_bits(np.bincount(codes, minlength=65536))


def test_bits_that_move_are_told_from_those_that_do_not() -> None:
    codes = np.arange(1984, 2048).repeat(100)
    assert moving_bits(np.bincount(codes, minlength=65536)) == [0, 1, 2, 3, 4, 5]
    assert moving_bits(np.bincount(codes | 8, minlength=65536)) == [0, 1, 2, 4, 5]


@examples(40, 1000, st.integers(0, 2**32))
def test_no_bit_is_called_stuck_that_is_not(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # One to three levels, as biases, flats and lines of injected charge have.
    levels = rng.uniform(500, 60000, rng.integers(1, 4))
    sigmas = 10 ** rng.uniform(-0.05, 2.7, len(levels))
    numbers = rng.integers(2000, 60000, len(levels))
    values = [
        rng.normal(level, sigma, int(count))
        for level, sigma, count in zip(levels, sigmas, numbers, strict=True)
    ]
    codes = np.rint(np.concatenate(values)).clip(1, 65534).astype(np.int64)
    assert stuck_bits(np.bincount(codes, minlength=65536)) == []


# --- products ---


def test_a_product_is_written_in_little_memory_and_leaves_its_planes_alone() -> None:
    planes = {"FLAT": np.arange(3e6, dtype=np.float32).reshape(1500, 2000)}
    planes["EFLAT"] = planes["FLAT"][::-1] / 7
    for one in planes.values():
        one.flags.writeable = False  # as those read from a file
    kept = {name: one.copy() for name, one in planes.items()}
    tracemalloc.start()
    data = fits_bytes({**planes, "MASK": kept["FLAT"] > 5}, [Card("NCOMB", 3, "frames")], {"a": 1})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # What is returned, and the unit that is being made, twice.
    assert peak < 2.2 * len(data)
    with fits.open(io.BytesIO(data), checksum=True) as units:
        assert [unit.name for unit in units] == ["PRIMARY", "FLAT", "EFLAT", "MASK"]
        assert (units[0].header["NCOMB"], units[0].header["PROV A"]) == (3, 1)
        for name, one in kept.items():
            np.testing.assert_array_equal(units[name].data, one)
            np.testing.assert_array_equal(planes[name], one)
        assert all({"DATASUM", "CHECKSUM"} <= set(unit.header) for unit in units)
