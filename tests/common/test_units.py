# SPDX-License-Identifier: BSD-3-Clause
"""Angles, byte sizes, limits."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightjar.units import bytes_text, clamp, wrap_180, wrap_360

ANGLES = st.floats(min_value=-1e9, max_value=1e9)


def on_circle(a_deg: float, b_deg: float) -> float:
    """Return the distance of two angles, degrees."""
    return abs(math.degrees(math.atan2(
        math.sin(math.radians(a_deg - b_deg)), math.cos(math.radians(a_deg - b_deg))
    )))  # fmt: skip


@given(ANGLES)
def test_wrapping_stays_in_range_and_on_the_same_direction(angle: float) -> None:
    assert 0 <= wrap_360(angle) < 360
    assert -180 <= wrap_180(angle) < 180
    tolerance = 1e-9 + 4 * math.ulp(angle)
    assert on_circle(wrap_360(angle), angle) < tolerance + 1e-6
    assert on_circle(wrap_180(angle), angle) < tolerance + 1e-6


@pytest.mark.parametrize(
    ("angle", "to_360", "to_180"),
    [(0, 0, 0), (360, 0, 0), (-360, 0, 0), (180, 180, -180), (-180, 180, -180), (359, 359, -1),
     (-90, 270, -90), (540, 180, -180), (-1e-20, 0, 0), (-0.0, 0, 0)],
)  # fmt: skip
def test_wrapping_at_the_ends(angle: float, to_360: float, to_180: float) -> None:
    assert wrap_360(angle) == to_360
    assert wrap_180(angle) == to_180


@given(ANGLES, ANGLES, ANGLES)
def test_clamp(value: float, one: float, other: float) -> None:
    low, high = min(one, other), max(one, other)
    result = clamp(value, low, high)
    assert low <= result <= high
    assert result == value or not low <= value <= high


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (123_312_000, "123.3 MB"), (999_949, "999.9 kB"),
     (999_950, "1.0 MB"), (84.7e9, "84.7 GB"), (5e15, "5000.0 TB"), (-2_500_000, "-2.5 MB"),
     (999.7, "1.0 kB")],
)  # fmt: skip
def test_bytes_text(count: float, text: str) -> None:
    assert bytes_text(count) == text
