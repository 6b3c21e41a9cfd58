# SPDX-License-Identifier: BSD-3-Clause
"""Frames that prove themselves: truth comes back, and nothing wrong with a frame is missed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightjar.errors import InvalidArgument
from nightjard.camd.fast.pattern import Pattern, Truth, check_cube, read_truth, read_truths

SHAPE = (24, 40)
PATTERN = Pattern(SHAPE)


def frame(number: int, pattern: Pattern = PATTERN, **truth: int) -> np.ndarray[Any, Any]:
    array = np.zeros(pattern.shape, np.uint16)
    pattern.fill(array, number)
    pattern.stamp(array, Truth(number, **truth))
    return array


def cube(numbers: list[int]) -> np.ndarray[Any, Any]:
    return np.stack([frame(number) for number in numbers])


@given(
    st.builds(
        Truth, st.integers(0, 2**32 - 1), st.integers(0, 2**62), st.integers(0, 2**32 - 1),
        st.integers(1, 3), st.integers(0, 2), st.integers(0, 2**32 - 1),
        st.integers(0, 2**16 - 1), st.integers(0, 20),
    )
)  # fmt: skip
def test_truth_comes_back(truth: Truth) -> None:
    array = np.zeros(SHAPE, np.uint16)
    PATTERN.stamp(array, truth)
    assert read_truth(array) == truth


def test_big_endian_and_signed_wide_pixels_are_read_by_value() -> None:
    array = frame(70_000, start_ns=1_750_000_000_123_456_789, trigger=99)
    expected = read_truth(array)
    for kind in (">u2", "<i4", ">i8"):
        assert read_truth(array.astype(kind)) == expected
        assert check_cube(array[None].astype(kind), PATTERN).is_perfect


def test_whole_cube_is_perfect_and_its_truth_is_an_array() -> None:
    numbers = list(range(65_530, 65_545))  # the low 16 bits wrap
    report = check_cube(cube(numbers), PATTERN)
    assert report.is_perfect
    assert (report.first_id, report.last_id) == (65_530, 65_544)
    assert read_truths(cube(numbers))["frame_id"].tolist() == numbers


def test_image_is_a_function_of_the_number_only() -> None:
    again = Pattern(SHAPE)
    assert all((again.image(k) == PATTERN.image(k)).all() for k in range(8))
    assert (PATTERN.image(0) != PATTERN.image(1)).any()
    assert (Pattern(SHAPE, seed=2).image(0) != PATTERN.image(0)).any()


@pytest.mark.parametrize("row", range(SHAPE[0]))
def test_frame_torn_at_any_row_is_found(row: int) -> None:
    numbers = [100, 101, 102]
    data = cube(numbers)
    data[1, row:] = frame(104)[row:]  # overwritten from there on
    report = check_cube(data)
    assert not report.is_perfect
    if row:
        assert report.torn == [1]
        assert report.torn_rows == SHAPE[0] - row


def test_gaps_duplicates_and_steps_back_are_counted() -> None:
    report = check_cube(cube([5, 6, 9, 9, 12, 3]))
    assert (report.missing, report.duplicates, report.backwards) == (4, 1, 1)
    assert not report.is_perfect


@pytest.mark.parametrize("word", range(16))
def test_damaged_truth_is_unreadable(word: int) -> None:
    data = cube([1, 2])
    data[0, 0, word] ^= 0x0100
    report = check_cube(data)
    assert report.unreadable == [0]
    assert report.whole == 1
    with pytest.raises(ValueError, match="no undamaged truth"):
        read_truth(data[0])


@pytest.mark.parametrize(("row", "column"), [(0, 16), (0, 39), (1, 1), (23, 39), (12, 20)])
def test_one_wrong_pixel_is_found_where_pixels_are_compared(row: int, column: int) -> None:
    data = cube([7, 8])
    data[1, row, column] ^= 1
    assert check_cube(data).is_perfect
    assert check_cube(data, PATTERN).altered == [1]


def test_frames_too_narrow_for_the_truth_are_refused() -> None:
    with pytest.raises(InvalidArgument):
        Pattern((10, 15))
    with pytest.raises(InvalidArgument):
        read_truths(np.zeros((2, 10, 15), np.uint16))


def test_zeros_are_no_frames() -> None:
    report = check_cube(np.zeros((3, *SHAPE), np.uint16))
    assert (report.whole, len(report.unreadable), report.first_id) == (0, 3, None)
