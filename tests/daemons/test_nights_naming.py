# SPDX-License-Identifier: BSD-3-Clause
"""Times of cubes without a timing file, by their names and headers."""

from __future__ import annotations

import pytest

from nightjar.times import iso, mjd, parse_iso
from nightjard.archived.nights.naming import told_times

NIGHT = "20260620"


def header(begin: str, end: str) -> dict[str, object]:
    return {"MJD-STR": mjd(parse_iso(begin)), "MJD-END": mjd(parse_iso(end))}


@pytest.mark.parametrize(
    ("name", "begin"),
    [
        ("vcam1/vcam1_00:00:10.135815844.fits", "2026-06-21T00:00:10.135816"),  # after midnight
        ("vcam1/vcam1_23:59:59.900000000.fits", "2026-06-20T23:59:59.900000"),  # before it
        ("vcam1/vcam1_14:00:10.135815844.fits", "2026-06-21T00:00:10.140000"),  # in local time
        ("vcam1/odd.fits", "2026-06-21T00:00:10.140000"),
    ],
)
def test_the_header_says_which_day(name: str, begin: str) -> None:
    told = header("2026-06-21T00:00:10.14", "2026-06-21T00:00:11")
    if "23:59" in name:
        told = header("2026-06-21T00:00:00.1", "2026-06-21T00:00:11")
    first_ns, last_ns = told_times(NIGHT, name, told)
    assert abs(first_ns - parse_iso(begin)) < 2_000
    assert iso(last_ns + 1_000, 3) == "2026-06-21T00:00:11.000"


def test_without_a_header_the_name_is_of_the_night() -> None:
    told = told_times(NIGHT, "vcam1/vcam1_10:00:03.5.fits", {"MJD-STR": "soon", "MJD-END": True})
    assert told == (parse_iso("2026-06-20T10:00:03.5"),) * 2
    assert told_times(NIGHT, "vcam1/odd.fits", {}) == (0, 0)
