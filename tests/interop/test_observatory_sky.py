# SPDX-License-Identifier: BSD-3-Clause
"""The sky of the simulated observatory against astropy: the same places from another code."""

from __future__ import annotations

import warnings

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import TETE, AltAz, EarthLocation, SkyCoord
from astropy.time import Time
from astropy.utils import iers

from nightjar.times import parse_iso
from nightjard.simulators.observatory.sky import Sky, angles, unit

STATED_ARCSEC = 1e-4
NO_POLAR_MOTION_ARCSEC = 0.6  # astropy's table has polar motion: up to 0.3 arcsec each way
DATES = ["2026-11-21T10:00:00", "2026-03-01T00:00:10", "2019-12-31T23:59:30"]
STARS = [(83.6, 22.01), (359.99, -15.0), (200.0, 60.0)]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the tables that are here; the pole stands still, as in the simulator."""
    iers.conf.auto_download = False
    from astropy.coordinates import erfa_astrom
    from astropy.coordinates.builtin_frames import intermediate_rotation_transforms

    for module in (erfa_astrom, intermediate_rotation_transforms):
        monkeypatch.setattr(
            module, "get_polar_motion", lambda t: (np.zeros(t.shape), np.zeros(t.shape))
        )


def _times(date: str, sky: Sky) -> tuple[np.ndarray, Time]:
    t_ns = parse_iso(date) + np.arange(0, 3600, 411) * 10**9 + 123_456_789
    t = Time(t_ns // 10**9, (t_ns % 10**9) / 1e9, format="unix")
    t.delta_ut1_utc = sky.ut1_utc_s
    return t_ns, t


@pytest.mark.parametrize("date", DATES)
def test_apparent_places_and_azimuths_are_astropys(date: str) -> None:
    sky = Sky()
    location = EarthLocation.from_geodetic(
        sky.site.longitude_deg, sky.site.latitude_deg, sky.site.height_m
    )
    t_ns, t = _times(date, sky)
    lst = sky.lst_rad(t_ns)
    theirs = t.sidereal_time("apparent", longitude=sky.site.longitude_deg * u.deg).rad
    assert np.abs((lst - theirs + np.pi) % (2 * np.pi) - np.pi).max() * 206265 < STATED_ARCSEC
    for star in STARS:
        place = SkyCoord(*star, unit="deg")
        apparent = sky.apparent(unit(*star), t_ns)
        ra, dec = angles(apparent)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tete = place.transform_to(TETE(obstime=t, location=location))
            seen = place.transform_to(AltAz(obstime=t, location=location))
        mine = SkyCoord(ra, dec, unit="deg")
        assert SkyCoord(tete.ra, tete.dec).separation(mine).arcsec.max() < STATED_ARCSEC
        az, el = sky.horizontal(ra, dec, lst)
        there = SkyCoord(az, el, unit="deg")
        assert SkyCoord(seen.az, seen.alt).separation(there).arcsec.max() < STATED_ARCSEC
        # And back: to the star, and from azimuth and elevation.
        back = sky.icrs(apparent, t_ns)
        assert np.abs(back - unit(*star)).max() * 206265 < STATED_ARCSEC
        np.testing.assert_allclose(sky.equatorial(az, el, lst), (ra, dec), atol=1e-9)


def test_the_parallactic_angle_points_to_the_zenith() -> None:
    sky = Sky()
    t_ns, _ = _times(DATES[0], sky)
    lst = sky.lst_rad(t_ns)
    for hour_angle, dec in ((-40.0, 5.0), (30.0, 50.0), (55.0, -10.0), (-5.0, 30.0)):
        ra = np.degrees(lst) - hour_angle
        zenith = SkyCoord(np.degrees(lst), np.full(lst.size, sky.site.latitude_deg), unit="deg")
        star = SkyCoord(ra, np.full(lst.size, dec), unit="deg")
        wanted = star.position_angle(zenith).deg
        got = sky.parallactic_deg(ra, np.full(lst.size, dec), lst)
        assert np.abs((got - wanted + 180) % 360 - 180).max() < 1e-9
