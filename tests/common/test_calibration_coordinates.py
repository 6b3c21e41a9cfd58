# SPDX-License-Identifier: BSD-3-Clause
"""Coordinates: the published offsets of the CCD273, and that frames are cut as they say."""

from __future__ import annotations

import numpy as np
import pytest

from nightjar.calibration.coordinates import convert, is_silicon, quadrant_at
from nightjar.calibration.detector import load_detector
from nightjar.errors import InvalidArgument

CCD273 = load_detector("ccd273")


@pytest.mark.parametrize(
    ("quadrant", "x", "y", "shift_x", "shift_y"),
    [
        ("E", 60, 2110, 51, 36), ("E", 2098, 4171, 51, 36), ("H", 51, 0, 51, 0),
        ("H", 2098, 2065, 51, 0), ("F", 2139, 2106, 91, 36), ("G", 4186, 2065, 91, 0),
    ],
)  # fmt: skip
def test_silicon_is_the_frame_without_its_scans(quadrant, x, y, shift_x, shift_y):
    found = convert(CCD273, x, y, "ccd", "phys")
    assert (found[0], found[1]) == (x - shift_x, y - shift_y)
    assert quadrant_at(CCD273, x, y) == quadrant
    assert quadrant_at(CCD273, *found, "phys") == quadrant


def test_the_silicon_of_the_block_is_4096_wide_and_4136_high():
    columns = convert(CCD273, np.arange(4238), 100, "ccd", "phys")[0]
    rows = convert(CCD273, 100, np.arange(4172), "ccd", "phys")[1]
    assert np.isfinite(columns).sum() == 2 * 2048
    assert np.isfinite(rows).sum() == 2 * 2066
    assert (np.isfinite(columns) == is_silicon(CCD273, np.arange(4238), 100)).all()
    assert np.array_equal(columns[np.isfinite(columns)], np.arange(4096))
    # the four rows of charge injection are nobody's
    assert np.array_equal(
        rows[np.isfinite(rows)], [row for row in range(4136) if row not in range(2066, 2070)]
    )
    assert np.isnan(convert(CCD273, 100, 2067, "phys", "ccd")).all()


@pytest.mark.parametrize("name", ["ccd273-8th", "camd-61mpx"])
def test_canonical_places_are_those_of_the_cut_quadrants(name):
    detector = load_detector(name)
    rng = np.random.default_rng(5)
    frame_y, frame_x = (rng.integers(0, size, 4000) for size in detector.frame_shape)
    # every pixel holds its own place: what canonical() cuts tells where it came from
    numbers = np.arange(np.prod(detector.frame_shape)).reshape(detector.frame_shape)
    names = quadrant_at(detector, frame_x, frame_y)
    can_x, can_y = convert(detector, frame_x, frame_y, "ccd", "qcan")
    for quadrant in detector.names:
        mine = names == quadrant
        pixels = detector.canonical(numbers, quadrant)
        found = pixels[can_y[mine].astype(int), can_x[mine].astype(int)]
        assert (found == numbers[frame_y[mine], frame_x[mine]]).all()


def test_first_pixel_read_is_in_the_corner_of_the_node():
    corners = {name: tuple(np.ravel(convert(CCD273, 0, 0, "qcan", "ccd", name))) for name in "EFGH"}
    assert corners == {"E": (0, 4171), "F": (4237, 4171), "G": (4237, 0), "H": (0, 0)}


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ((1, 1, "qcan", "ccd"), "name the quadrant"),
        ((1, 1, "qcan", "ccd", "K"), "no quadrant K; it has E, F, G, H"),
        ((1, 1, "sky", "ccd"), "must be one of ccd, qrel"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments, what):
    with pytest.raises(InvalidArgument, match=what):
        convert(CCD273, *arguments)


def test_the_big_camera_has_its_covered_columns_and_overscan_rows_outside_the_silicon():
    camera = load_detector("camd-61mpx")
    assert camera.frame_shape == (6422, 9600)
    lit = is_silicon(camera, [23, 24, 9599, 24, 24], [0, 0, 0, 6387, 6388])
    assert lit.tolist() == [False, True, True, True, False]
