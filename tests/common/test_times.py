# SPDX-License-Identifier: BSD-3-Clause
"""Times as integers and as texts, against values from elsewhere."""

from __future__ import annotations

import pytest

from nightjar.times import (
    NS_PER_DAY,
    NS_PER_S,
    duration_text,
    file_stamp,
    iso,
    mjd,
    mjd_text,
    observing_night,
    parse_iso,
)  # fmt: skip

# UTC seconds of well-known instants (date -u +%s).
BILLENNIUM = 1_000_000_000 * NS_PER_S  # 2001-09-09T01:46:40
J2000_NOON = 946_728_000 * NS_PER_S  # 2000-01-01T12:00:00, MJD 51544.5


@pytest.mark.parametrize(
    ("utc_ns", "digits", "text"),
    [
        (0, 6, "1970-01-01T00:00:00.000000"),
        (BILLENNIUM, 0, "2001-09-09T01:46:40"),
        (BILLENNIUM + 999_999_999, 0, "2001-09-09T01:46:40"),
        (BILLENNIUM + 999_999_999, 3, "2001-09-09T01:46:40.999"),  # cut, never rounded up
        (BILLENNIUM + 1, 9, "2001-09-09T01:46:40.000000001"),
        (-1, 9, "1969-12-31T23:59:59.999999999"),
        (1_709_164_800 * NS_PER_S, 1, "2024-02-29T00:00:00.0"),
        (-30_641_760_000 * NS_PER_S, 0, "0999-01-01T00:00:00"),
    ],
)
def test_iso(utc_ns: int, digits: int, text: str) -> None:
    assert iso(utc_ns, digits) == text
    assert parse_iso(text) <= utc_ns < parse_iso(text) + 10 ** (9 - digits)


@pytest.mark.parametrize(
    ("text", "utc_ns"),
    [
        ("2001-09-09", BILLENNIUM - 6_400 * NS_PER_S),
        ("2001-09-09T01:46:40", BILLENNIUM),
        (" 2001-09-09 01:46:40Z\n", BILLENNIUM),
        ("2001-09-09T01:46:40.5", BILLENNIUM + 500_000_000),
        ("2001-09-09T01:46:40.000000001", BILLENNIUM + 1),
        ("2016-12-31T23:59:60", 1_483_228_800 * NS_PER_S),  # leap second = the next midnight
        ("2016-12-31T23:59:60.25", 1_483_228_800 * NS_PER_S + 250_000_000),
    ],
)
def test_parse_iso(text: str, utc_ns: int) -> None:
    assert parse_iso(text) == utc_ns


@pytest.mark.parametrize(
    "text",
    ["", "now", "2001-9-9", "2001-02-29", "2001-13-01", "2001-00-10", "2001-09-09T24:00:00",
     "2001-09-09T01:60:00", "2001-09-09T01:46", "2001-09-09T01:46:61", "2001-09-09T12:30:60",
     "2001-09-09T01:46:40.", "2001-09-09T01:46:40.1234567890", "2001-09-09T01:46:40+00:00",
     "01-09-09T01:46:40", "-2001-09-09", "2001-09-09T01:46:40 x", "٢٠٠١-09-09", "0000-01-01",
     "2001-09-09\n2001-09-09"],
)  # fmt: skip
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError):
        parse_iso(text)


def test_modified_julian_dates() -> None:
    assert mjd(J2000_NOON) == 51544.5
    assert mjd(0) == 40587.0
    assert mjd_text(J2000_NOON) == "51544.50000000000"
    assert mjd_text(J2000_NOON + 1_000) == "51544.50000000001"  # 1 us is 1.16e-11 d
    assert mjd_text(NS_PER_DAY - 1) == "40587.99999999999"
    assert mjd_text(-1) == "40586.99999999999"
    assert mjd_text(-40_588 * NS_PER_DAY - NS_PER_DAY // 4) == "-1.25000000000"


@pytest.mark.parametrize(
    ("text", "noon", "night"),
    [
        ("2025-06-15T12:00:00", 12.0, "20250615"),
        ("2025-06-15T11:59:59.999999999", 12.0, "20250614"),
        ("2025-06-16T03:00:00", 12.0, "20250615"),
        ("2025-03-01T05:00:00", 12.0, "20250228"),
        # Hawaii: noon is 22:00 UTC, a whole night lies in one UTC day.
        ("2025-06-15T05:00:00", 22.0, "20250614"),
        ("2025-06-15T16:00:00", 22.0, "20250614"),
        ("2025-06-15T22:00:00", 22.0, "20250615"),
        # Half-hour zones.
        ("2025-06-15T06:29:59", 6.5, "20250614"),
        ("2025-06-15T06:30:00", 6.5, "20250615"),
    ],
)
def test_observing_night(text: str, noon: float, night: str) -> None:
    assert observing_night(parse_iso(text), noon) == night


def test_file_stamps_sort_by_time() -> None:
    assert file_stamp(BILLENNIUM + 987_654_321) == "20010909T014640.987"
    stamps = [file_stamp(BILLENNIUM + n * 997_000_000) for n in range(200)]
    assert stamps == sorted(stamps)
    assert len(set(stamps)) == 200


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (3.21, "3.2 s"), (59.94, "59.9 s"), (59.96, "1 min 00 s"), (60, "1 min 00 s"),
     (245, "4 min 05 s"), (3599.4, "59 min 59 s"), (3599.6, "1 h 00 min"), (7980, "2 h 13 min"),
     (100_000, "27 h 46 min")],
)  # fmt: skip
def test_duration_text(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
