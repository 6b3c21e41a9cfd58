# SPDX-License-Identifier: BSD-3-Clause
"""Times against astropy, and against themselves."""

from __future__ import annotations

import datetime as dt
import warnings
from fractions import Fraction

import erfa
from astropy.time import Time
from astropy.utils import iers
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nightjar.times import (
    NS_PER_DAY,
    NS_PER_S,
    file_stamp,
    iso,
    mjd,
    mjd_text,
    observing_night,
    parse_iso,
)  # fmt: skip

iers.conf.auto_download = False
LEAP_DAYS = {
    (dt.date(entry["year"], entry["month"], 1) - dt.timedelta(days=1)).isoformat()
    for entry in erfa.leap_seconds.get()
}
# 1972 (UTC as we know it) to 2099.
MODERN = st.integers(63_072_000 * NS_PER_S, 4_102_444_800 * NS_PER_S - 1)
ANY = st.integers(-62_135_596_800 * NS_PER_S, 253_402_300_800 * NS_PER_S - 1)  # years 1 to 9999


def astropy_time(utc_ns: int) -> Time:
    """Return the same instant made from day and fraction, without a text of ours."""
    days, rest = divmod(utc_ns, NS_PER_DAY)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "dubious year" for the future
        return Time(40_587.0 + days, rest / NS_PER_DAY, format="mjd", scale="utc", precision=9)


@given(MODERN)
@settings(max_examples=150)
def test_iso_is_what_astropy_writes(utc_ns: int) -> None:
    # On the day of a leap second astropy's fraction of the day is stretched: another question.
    assume(iso(utc_ns)[:10] not in LEAP_DAYS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = astropy_time(utc_ns)
        text = theirs.isot
    assert abs(parse_iso(text) - utc_ns) <= 20_000  # float64 of the day's fraction: < 20 us
    assert abs(theirs.mjd - mjd(utc_ns)) < 1e-9


@given(MODERN)
@settings(max_examples=150)
def test_astropy_reads_our_texts(utc_ns: int) -> None:
    text = iso(utc_ns, 9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert Time(text, format="isot", scale="utc", precision=9).isot == text


@given(ANY, st.integers(0, 9))
def test_text_and_back(utc_ns: int, digits: int) -> None:
    text = iso(utc_ns, digits)
    assert len(text) == (20 + digits if digits else 19)
    back = parse_iso(text)
    assert 0 <= utc_ns - back < 10 ** (9 - digits)
    assert parse_iso(iso(utc_ns, 9)) == utc_ns
    assert parse_iso(text + "Z") == back
    assert parse_iso(text.replace("T", " ")) == back


@given(ANY, ANY)
def test_texts_sort_as_times(one: int, other: int) -> None:
    assert (iso(one, 9) < iso(other, 9)) == (one < other)
    if one // 10**6 != other // 10**6:
        assert (file_stamp(one) < file_stamp(other)) == (one < other)


@given(ANY)
def test_the_text_of_the_mjd_is_within_a_microsecond(utc_ns: int) -> None:
    text = mjd_text(utc_ns)
    since = (Fraction(text) - 40_587) * NS_PER_DAY
    assert 0 <= utc_ns - since <= 1_000
    assert len(text.partition(".")[2]) == 11
    assert abs(float(text) - mjd(utc_ns)) < 1e-9


@given(st.integers(-62_000_000_000, 253_000_000_000), st.floats(0, 24, exclude_max=True))
def test_a_night_lasts_from_noon_to_noon(second: int, noon_hours: float) -> None:
    utc_ns = second * NS_PER_S
    noon_ns = round(noon_hours * 3600 * NS_PER_S)
    night = observing_night(utc_ns, noon_hours)
    began = parse_iso(f"{night[:4]}-{night[4:6]}-{night[6:]}") + noon_ns
    assert began <= utc_ns < began + NS_PER_DAY
    assert observing_night(began, noon_hours) == night
    assert observing_night(began + NS_PER_DAY - 1, noon_hours) == night
