# SPDX-License-Identifier: BSD-3-Clause
"""How long a cube should be: for the documented crops, and for any geometry."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightjar.api.fitslog import (
    CUBE_BYTES_LIMIT,
    HEADER_BYTES,
    MAX_CUBE_FRAMES,
    ROW_BYTES,
    advised_frames,
    cube_bytes,
)
from nightjar.fits.frame_table import ROW


@pytest.mark.parametrize(
    ("width", "height", "frames"), [(536, 536, 2000), (2236, 1096, 250), (2232, 540, 500)]
)
def test_documented_crops(width: int, height: int, frames: int) -> None:
    assert advised_frames(width * height * 2) == frames


def round_numbers() -> list[int]:
    found = {1, 2, 5}
    for power in range(1, 8):
        found |= {10**power, 2 * 10**power, 25 * 10 ** (power - 1), 5 * 10**power}
    return sorted(number for number in found if number <= MAX_CUBE_FRAMES)


@given(size=st.integers(1, 10**10), limit=st.integers(10**6, 10**12))
def test_the_largest_round_number_that_fits(size: int, limit: int) -> None:
    advised = advised_frames(size, limit)
    fitting = [n for n in round_numbers() if HEADER_BYTES + n * (size + ROW_BYTES) <= limit]
    assert advised == max(fitting, default=1)


@given(size=st.integers(1, 10**9))
def test_larger_frames_never_mean_more_of_them(size: int) -> None:
    assert advised_frames(size + 1) <= advised_frames(size)
    assert advised_frames(size) == 1 or cube_bytes(size, advised_frames(size)) <= CUBE_BYTES_LIMIT


def test_a_row_of_the_table_is_what_is_reckoned_with() -> None:
    assert ROW.itemsize <= ROW_BYTES
