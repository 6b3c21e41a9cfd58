# SPDX-License-Identifier: BSD-3-Clause
"""Regions, windows and binning against a count of every pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nightjar.errors import InvalidArgument, Refused
from nightjard.camd.drivers.base import Capabilities, Range, Readout
from nightjard.camd.frames import crop_for
from nightjard.camd.geometry import Region, check_window
from nightjard.camd.settings import Observation

SIDE = 24
SENSOR = Region.full(SIDE, SIDE)
AXIS = st.tuples(st.integers(1, SIDE), st.integers(1, SIDE)).map(sorted)


@st.composite
def regions(draw: st.DrawFn) -> Region:
    (x1, x2), (y1, y2) = draw(AXIS), draw(AXIS)
    return Region(x1, x2, y1, y2)


def mask(region: Region | None) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """Return the pixels of a region, [row, column], by looking at each."""
    pixels = np.zeros((SIDE, SIDE), bool)
    for y in range(1, SIDE + 1):
        for x in range(1, SIDE + 1):
            pixels[y - 1, x - 1] = region is not None and (
                region.x1 <= x <= region.x2 and region.y1 <= y <= region.y2
            )
    return pixels


@given(regions(), regions())
def test_intersection_and_containment(one: Region, other: Region) -> None:
    both = mask(one) & mask(other)
    assert np.array_equal(mask(one.intersection(other)), both)
    assert one.contains(other) == bool((mask(one) | ~mask(other)).all())
    assert mask(one).sum() == one.width * one.height


@given(regions())
def test_text_and_back(region: Region) -> None:
    assert Region.parse(str(region)) == region
    assert Region.parse(f" {region} ".replace(",", " , ")) == region


@given(st.text(max_size=20))
def test_other_text_is_refused(text: str) -> None:
    try:
        region = Region.parse(text)
    except (InvalidArgument, Refused):
        return
    assert str(region).replace(" ", "")[0] == "["


@given(regions(), regions(), st.integers(1, 5))
def test_a_region_in_a_binned_window(region: Region, window: Region, binning: int) -> None:
    """A binned pixel belongs to the region when all of its pixels do."""
    assume(window.width % binning == 0 and window.height % binning == 0)
    seen = mask(region)[window.y1 - 1 : window.y2, window.x1 - 1 : window.x2]
    rows, columns = window.height // binning, window.width // binning
    whole = seen.reshape(rows, binning, columns, binning).all(axis=(1, 3))
    found = region.within(window, binning)
    expected = np.zeros((rows, columns), bool)
    if found is not None:
        expected[found.y1 - 1 : found.y2, found.x1 - 1 : found.x2] = True
        assert found.x2 <= columns
        assert found.y2 <= rows
    assert np.array_equal(expected, whole)


@given(regions(), st.integers(1, 7))
def test_a_window_is_accepted_when_it_holds_whole_binned_pixels(
    window: Region, binning: int
) -> None:
    small = Region(3, 20, 2, 21)
    fits = bool((mask(small) | ~mask(window)).all())
    whole = window.width % binning == 0 and window.height % binning == 0
    try:
        check_window(window, small, binning)
    except Refused:
        assert not (fits and whole)
    else:
        assert fits
        assert whole


@given(regions(), st.integers(1, 4), st.booleans(), st.sampled_from([1, 2, 3, 4]))
def test_device_and_software_together_give_the_wanted_pixels(
    window: Region, binning: int, has_window: bool, device: int
) -> None:
    """Whatever the device crops and bins, the rest in software makes the same image."""
    assume(window.width % binning == 0 and window.height % binning == 0)
    sensor = np.arange(SIDE * SIDE).reshape(SIDE, SIDE)
    region = window if has_window else SENSOR
    assume(region.width % device == 0 and region.height % device == 0)
    capabilities = Capabilities("m", "s", SENSOR, SENSOR, Range(0, 1))
    observation = Observation(1.0, window, binning, "sum", None, None, False)
    readout = Readout(region, device)
    part = sensor[region.y1 - 1 : region.y2, region.x1 - 1 : region.x2]
    delivered = _binned(part, device)
    assert delivered.shape == readout.shape
    try:
        crop = crop_for(observation, capabilities, readout)
    except Refused:
        assert device > 1, "without binning in the device there is always a way"
        return
    image = _binned(delivered[crop.top : crop.bottom, crop.left : crop.right], crop.binning)
    wanted = sensor[window.y1 - 1 : window.y2, window.x1 - 1 : window.x2]
    assert np.array_equal(image, _binned(wanted, binning))


def _binned(
    pixels: np.ndarray[tuple[int, ...], np.dtype[np.int64]], binning: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    rows, columns = pixels.shape[0] // binning, pixels.shape[1] // binning
    summed: np.ndarray[tuple[int, ...], np.dtype[np.int64]] = pixels.reshape(
        rows, binning, columns, binning
    ).sum(axis=(1, 3))
    return summed


@pytest.mark.parametrize("numbers", [(0, 1, 1, 1), (2, 1, 1, 1), (1, 1, 5, 4), (1, 1, 0, 1)])
def test_what_is_no_region(numbers: tuple[int, int, int, int]) -> None:
    with pytest.raises(InvalidArgument):
        Region(*numbers)
