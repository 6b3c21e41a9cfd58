# SPDX-License-Identifier: BSD-3-Clause
"""The angle for a scan: against brute force over the array's tracks, and against astropy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from nightjar.errors import InvalidArgument
from nightjard.rotd import choosing
from nightjard.rotd.choosing import Array, Range, Scan

PITCH_ARCSEC = 38.5
LIMITS = Range(-36.0, 24.0)
MAUNA_KEA = (19.8224389, -155.4754972)


def hexagon(pixels_in_side: int = 7) -> NDArray[np.float64]:
    """Return the places of a hexagonal array of 127 pixels plus 17 more, (144, 2), arcsec."""
    n = pixels_in_side + 1
    places = [
        (PITCH_ARCSEC * (i + j / 2), PITCH_ARCSEC * j * math.sqrt(3) / 2)
        for i in range(-n, n + 1)
        for j in range(-n, n + 1)
        if abs(i + j) <= n
    ]
    places.sort(key=lambda place: place[0] ** 2 + place[1] ** 2)
    return np.array(places[:144])


def largest_gap(places: NDArray[np.float64], angle_deg: float) -> float:
    """Return the largest gap of the tracks of a scan, where all rows take part, arcsec."""
    angle = math.radians(angle_deg)
    across = np.sort(places[:, 0] * -math.sin(angle) + places[:, 1] * math.cos(angle))
    inner = across[np.abs(across) <= 4.5 * PITCH_ARCSEC]
    return float(np.diff(inner).max())


def rows_to_scan(angle_deg: float, array: Array, scan: Scan) -> float:
    """Return the angle from the rows to the scan on the sky, degrees modulo 60, by geometry.

    Independent of the code under test: the rows' direction as a vector on the sky, north through
    east, from the definition of the array's angle.
    """
    q = scan.parallactic_deg or 0.0
    rows = array.fiducial_deg + q + 90.0 - array.sky_sign * angle_deg
    sigma = {"az": q - 90 + scan.angle_deg, "el": q + scan.angle_deg, "ra": 90.0, "dec": 0.0,
             "pa": scan.angle_deg}[scan.axis]  # fmt: skip
    return (sigma - rows) % 60.0


def test_the_wanted_angle_is_where_brute_force_finds_equal_tracks() -> None:
    """Near 10.893 deg, atan(sqrt(3) / 9), the tracks are equally far apart, 7.28 arcsec."""
    places = hexagon()
    gap = {angle: largest_gap(places, angle) for angle in np.arange(0.0, 30.01, 0.01).round(2)}
    assert gap[0.0] == pytest.approx(PITCH_ARCSEC * math.sqrt(3) / 2, abs=0.1)
    assert gap[10.7] < 8.0
    resonance = math.degrees(math.atan(math.sqrt(3) / 9))
    across = np.sort(places @ np.array([-math.sin(math.radians(resonance)),
                                        math.cos(math.radians(resonance))]))  # fmt: skip
    steps = np.diff(across[np.abs(across) < 100])
    apart = steps[steps > 0.1]
    assert apart.min() == pytest.approx(7.28, abs=0.02)
    assert apart.max() == pytest.approx(7.28, abs=0.02)
    # Within half a degree, what a hysteresis may leave, no track is far from where it should be.
    assert max(gap[angle] for angle in gap if abs(angle - 10.7) <= 0.5) < 12.0


@given(
    st.sampled_from(["az", "el", "ra", "dec", "pa"]), st.floats(-180, 180), st.floats(-180, 180),
    st.floats(0, 120), st.sampled_from([1, -1]), st.one_of(st.none(), st.floats(-36, 24)),
)  # fmt: skip
def test_the_choice_is_the_best_of_all_angles(
    axis: str, tilt: float, q: float, fiducial: float, sign: int, present: float | None
) -> None:
    """Brute force over all angles in steps of 0.01 deg: no good one is nearer."""
    scan = Scan(axis, tilt, q, 0.0)  # type: ignore[arg-type]
    array = Array(fiducial, sky_sign=sign)
    found = choosing.choose(scan, array, LIMITS, present)
    angle = rows_to_scan(found.angle_deg, array, scan)
    off = min(abs(angle - 10.7), abs(angle - 49.3))
    assert off <= (0.5 + 1e-6 if found.stays else 1e-6)
    assert LIMITS.low_deg <= found.angle_deg <= LIMITS.high_deg
    grid = np.arange(-35.5, 23.505, 0.01)
    rows = np.array([rows_to_scan(one, array, scan) for one in grid])
    good = grid[np.minimum(abs(rows - 10.7), abs(rows - 49.3)) <= 0.0051]
    assume(good.size)
    nearest = np.abs(good - (present or 0.0)).min()
    assert abs(found.angle_deg - (present or 0.0)) <= nearest + 0.011
    assert 1 <= len(found.solutions) <= 3
    for one in found.solutions:
        assert np.abs(good - one.angle_deg).min() <= 0.011


def test_it_stays_where_it_is_good_enough() -> None:
    array = Array(84.0)
    for present, stays in ((-25.3, True), (-24.85, True), (-25.75, True), (-24.7, False)):
        found = choosing.choose(Scan("az"), array, LIMITS, present)
        assert found.stays is stays
        assert found.angle_deg == pytest.approx(present if stays else -25.3)


def test_of_two_equally_near_the_lower_is_taken() -> None:
    array = Array(84.0)  # -25.3 and 13.3: in the middle is -6
    assert choosing.choose(Scan("az"), array, LIMITS, -6.0).angle_deg == pytest.approx(-25.3)


def test_without_a_parallactic_angle_celestial_scans_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="parallactic"):
        choosing.choose(Scan("ra"), Array(84.0), LIMITS, 0.0)


def test_a_fast_field_is_warned_of() -> None:
    fast = choosing.choose(Scan("ra", 0.0, 10.0, 5.0), Array(84.0), LIMITS, 0.0)
    assert "5.0 deg/min" in fast.warnings[0]
    assert not choosing.choose(Scan("az", 0.0, 10.0, 5.0), Array(84.0), LIMITS, 0.0).warnings


@given(st.floats(-5.9, 5.9), st.floats(-35, 75))
def test_the_parallactic_angle_is_that_of_the_pole_seen_from_the_target(
    hour: float, dec: float
) -> None:
    """Truth: position angle of the zenith at the target, by astropy's spherical geometry."""
    from astropy import units as u
    from astropy.coordinates import SkyCoord

    latitude = MAUNA_KEA[0]
    lst = 120.0
    target = SkyCoord((lst - hour * 15) % 360 * u.deg, dec * u.deg)
    zenith = SkyCoord(lst * u.deg, latitude * u.deg)
    assume(target.separation(zenith).deg > 0.5)
    want = target.position_angle(zenith).wrap_at(180 * u.deg).deg
    got = choosing.parallactic_deg(hour, dec, latitude)
    assert (got - want + 180) % 360 - 180 == pytest.approx(0, abs=1e-6)


def test_sidereal_time_is_astropys() -> None:
    from astropy.time import Time
    from astropy.utils import iers

    with iers.conf.set_temp("auto_download", False):
        for text in ("2025-06-15T03:00:00", "2020-01-01T12:34:56", "2026-10-31T23:59:59"):
            time = Time(text, scale="utc")
            time.delta_ut1_utc = 0.0
            want = time.sidereal_time("mean", MAUNA_KEA[1]).hour
            got = choosing.sidereal_h(round(time.unix * 1e9), MAUNA_KEA[1])
            assert abs((got - want + 12) % 24 - 12) * 3600 < 2.0


def test_the_rate_is_that_of_the_parallactic_angle() -> None:
    """0.56 deg/min at the meridian for a target at -5 deg, 16.4 at +19 deg."""
    for dec, rate in ((-5.0, 0.56), (19.0, 16.4), (60.0, -0.37)):
        _, found = choosing.parallactic_at(6.0, 90.0, dec, MAUNA_KEA[0], 0.0)
        assert abs(found) == pytest.approx(abs(rate), rel=0.05)
