# SPDX-License-Identifier: BSD-3-Clause
"""Names, folders, times of day and settings of a logging session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightjar.errors import InvalidArgument
from nightjar.times import NS_PER_DAY, parse_iso
from nightjard.fitslogd.naming import (
    LogSettings,
    clock_text,
    cube_folder,
    cube_name,
    other_name,
)

MIDNIGHT = parse_iso("2026-06-11T00:00:00")


def settings(**changes: Any) -> LogSettings:
    return LogSettings.parse({"root": "/data", "cube_frames": 10, **changes})


def test_dated_names_sort_by_time_and_have_no_colon() -> None:
    times = [MIDNIGHT - 1, MIDNIGHT, MIDNIGHT + 9_999_999_999, MIDNIGHT + NS_PER_DAY]
    names = [cube_name(settings(), "vcam1", each) for each in times]
    assert names[0] == "vcam1_20260610T235959.999999999.fits"
    assert names[1] == "vcam1_20260611T000000.000000000.fits"
    assert names == sorted(names)
    assert not any(":" in name for name in names)


def test_clock_names_are_those_of_old() -> None:
    at = MIDNIGHT + 3 * 3600 * 10**9 + 15 * 60 * 10**9 + 123_456_789
    assert cube_name(settings(names="clock"), "vcam1", at) == "vcam1_03:15:00.123456789.fits"
    compressed = cube_name(settings(names="clock", compress=True), "vcam1", at)
    assert compressed == "vcam1_03:15:00.123456789.fits.fz"


def test_folders_roll_at_midnight() -> None:
    before, after = (cube_folder(settings(), "vcam1", MIDNIGHT + step) for step in (-1, 0))
    assert (before, after) == (Path("/data/20260610/vcam1"), Path("/data/20260611/vcam1"))


def test_folders_of_a_night_roll_at_its_noon() -> None:
    night = settings(folders="night", noon_utc_hours=22.0)  # local noon of Hawaii
    noon = MIDNIGHT + 22 * 3600 * 10**9
    before, after = (cube_folder(night, "vcam1", noon + step) for step in (-1, 0))
    assert (before, after) == (Path("/data/20260610/vcam1"), Path("/data/20260611/vcam1"))
    assert cube_folder(night, "vcam1", MIDNIGHT) == before  # midnight UTC is in the midst of it


def test_flat_folders_are_the_root() -> None:
    assert cube_folder(settings(folders="flat"), "vcam1", MIDNIGHT) == Path("/data")


def test_another_name_keeps_the_kind_of_file() -> None:
    assert other_name(Path("/d/a_1.5.fits"), 2) == Path("/d/a_1.5-2.fits")
    assert other_name(Path("/d/a_1.5.fits.fz"), 3) == Path("/d/a_1.5-3.fits.fz")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-06-11T03:14:59.994", "03:14:59.99"),
        ("2026-06-11T03:14:59.995", "03:15:00.00"),
        ("2026-06-11T03:59:59.999999999", "04:00:00.00"),
        ("2026-06-11T23:59:59.995", "00:00:00.00"),
        ("2026-06-11T00:00:00", "00:00:00.00"),
    ],
)
def test_seconds_of_the_day_are_never_60(text: str, expected: str) -> None:
    assert clock_text(parse_iso(text)) == expected


def test_local_time_of_day() -> None:
    assert clock_text(MIDNIGHT + 5 * 10**9, -10.0) == "14:00:05.00"
    assert clock_text(MIDNIGHT, 5.75) == "05:45:00.00"


@given(st.integers(0, 4 * 10**18))
def test_time_of_day_is_within_half_a_hundredth(utc_ns: int) -> None:
    hours, minutes, seconds = clock_text(utc_ns).split(":")
    assert int(hours) < 24
    assert int(minutes) < 60
    assert float(seconds) < 60
    told = (int(hours) * 3600 + int(minutes) * 60) * 10**9 + round(float(seconds) * 100) * 10**7
    off = (told - utc_ns) % NS_PER_DAY
    assert min(off, NS_PER_DAY - off) <= 5_000_000


@pytest.mark.parametrize(
    "wrong",
    [
        {"cube_frames": 0}, {"cube_frames": "10"}, {"cube_frames": True}, {"cube_frames": 2.5},
        {"root": "data"}, {"root": 5}, {"root": "/da\0ta"}, {"names": "long"},
        {"folders": "week"}, {"noon_utc_hours": None}, {"noon_utc_hours": float("nan")},
        {"max_cube_seconds": 0}, {"minimum_free_bytes": "1 GB"}, {"local_name": "HAWAII"},
        {"local_name": "h"}, {"data_type": 5}, {"colour": "red"},
        {"cards": {"toolongname": [1, ""]}},
        {"cards": {"END": [1, ""]}}, {"cards": {"NAXIS3": [1, ""]}}, {"cards": {"BZERO": [1, ""]}},
        {"cards": {"COMMENT": ["x", ""]}}, {"cards": {"GAIN": 5}}, {"cards": {"GAIN": [[], ""]}},
    ],
)  # fmt: skip
def test_what_would_fail_when_the_first_cube_ends_is_refused_at_once(
    wrong: dict[str, Any],
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        settings(**wrong)
    key = next(iter(wrong))
    assert key in str(caught.value)


def test_missing_settings_are_named() -> None:
    with pytest.raises(InvalidArgument, match="cube_frames"):
        LogSettings.parse({"root": "/data"})
