# SPDX-License-Identifier: BSD-3-Clause
"""Where the beam looked: requested places, their errors and offsets to RA and Dec.

Two ways lead there. While the telescope follows the sky (flag ``cele_tel``) the log's requested
apparent place is the start: true equator and equinox of date. Errors and moving offsets along
azimuth and elevation are put on it through the alt-az frame of the same sidereal time, so that
large offsets are exact; what that frame leaves out (refraction, polar motion, diurnal aberration)
cancels to second order. Else azimuth and elevation are the start, and ERFA's observed-place
functions do the rest, without refraction.

ICRS comes from the apparent place by ERFA (IAU 2006/2000A): equation of the origins, then light
deflection, annual and diurnal aberration, precession-nutation. The astrometry context is made once
per ten seconds, at their middle; the Earth's rotation inside them is linear and exact. Against a
full evaluation at every sample the error stays below 2e-4 arcsec. The apparent place is
topocentric in direction (diurnal aberration included) for a source at infinity.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import erfa
import numpy as np
from numpy.typing import NDArray

from nightjar.clock import NS_PER_S
from nightjard.merged.config import SiteConfig

GROUP_S = 10
"""Seconds that share an astrometry context."""
ERA_RATE = 2 * np.pi * 1.00273781191135448 / 86400
"""Earth rotation angle, radians per second of UT1 (IAU 2000)."""
_JD_1970 = 2440587.5
_ARCSEC = np.pi / 648000

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Directions of the beam, all (n,) and degrees unless told otherwise; NaN where unknown.

    Attributes
    ----------
    ra_deg, dec_deg
        Apparent place of date (TETE).
    ra_icrs_deg, dec_icrs_deg
        ICRS.
    pa_deg
        Parallactic angle, -180 to 180.
    lst_h
        Local apparent sidereal time by UT1, hours.
    is_horizontal
        Whether azimuth and elevation told it.
    """

    ra_deg: Floats
    dec_deg: Floats
    ra_icrs_deg: Floats
    dec_icrs_deg: Floats
    pa_deg: Floats
    lst_h: Floats
    is_horizontal: NDArray[np.bool_]


def altaz_of(ha: Floats, dec: Floats, latitude: float) -> tuple[Floats, Floats]:
    """Return azimuth (north through east) and elevation of hour angle and declination; radians."""
    sin_lat, cos_lat = np.sin(latitude), np.cos(latitude)
    sin_dec, cos_dec, cos_ha = np.sin(dec), np.cos(dec), np.cos(ha)
    x = sin_dec * cos_lat - cos_dec * cos_ha * sin_lat
    y = -cos_dec * np.sin(ha)
    z = sin_dec * sin_lat + cos_dec * cos_ha * cos_lat
    return np.arctan2(y, x), np.arctan2(z, np.hypot(x, y))


def hadec_of(az: Floats, el: Floats, latitude: float) -> tuple[Floats, Floats]:
    """Return hour angle and declination of azimuth and elevation; radians."""
    sin_lat, cos_lat = np.sin(latitude), np.cos(latitude)
    sin_el, cos_el, cos_az = np.sin(el), np.cos(el), np.cos(az)
    x = sin_el * cos_lat - cos_el * cos_az * sin_lat
    y = -cos_el * np.sin(az)
    z = sin_el * sin_lat + cos_el * cos_az * cos_lat
    return np.arctan2(y, x), np.arctan2(z, np.hypot(x, y))


def parallactic_of(ha: Floats, dec: Floats, latitude: float) -> Floats:
    """Return the parallactic angle, north through east, positive west of the meridian; radians."""
    down = np.tan(latitude) * np.cos(dec) - np.sin(dec) * np.cos(ha)
    return np.asarray(np.arctan2(np.sin(ha), down))


def _moved(
    ra: Floats, dec: Floats, lst: Floats, latitude: float, d_az_deg: Floats, x_deg: Floats,
    d_el_deg: Floats,
) -> tuple[Floats, Floats, Floats, Floats]:  # fmt: skip
    """Return an apparent place moved along azimuth and elevation: RA, Dec, azimuth, elevation.

    Radians; offsets in degrees. `x_deg` is divided by cos(el) of the place that it starts from.
    """
    az, el = altaz_of(lst - ra, dec, latitude)
    az += np.radians(d_az_deg) + np.radians(x_deg) / np.cos(el)
    el += np.radians(d_el_deg)
    ha, moved_dec = hadec_of(az, el, latitude)
    return lst - ha, moved_dec, az, el


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """ERFA's astrometry context of some samples.

    Attributes
    ----------
    where
        Which samples.
    astrom
        The context.
    origins
        Equation of the origins, radians: RA of date is RA by the CIO minus it.
    rotation
        Rotation of the Earth from the context's time to each sample's, radians.
    """

    where: slice
    astrom: np.ndarray
    origins: float
    rotation: Floats


def _runs(groups: NDArray[np.int64]) -> Iterator[tuple[slice, int]]:
    """Yield runs of equal values: (where, value)."""
    ends = np.flatnonzero(np.diff(groups)) + 1
    bounds = np.concatenate(([0], ends, [groups.size]))
    for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        if end > begin:
            yield slice(begin, end), int(groups[begin])


class Sky:
    """Astrometry of a site.

    Parameters
    ----------
    site
        Where the telescope stands.
    ut1_utc_s
        UT1 - UTC at a time, ns UTC -> s.
    slew_limit_deg
        Requested RA and Dec further than this from requested azimuth and elevation do not hold.
    """

    def __init__(
        self, site: SiteConfig, ut1_utc_s: Callable[[int], float], slew_limit_deg: float = 0.25
    ) -> None:
        self._site = site
        self._slew_limit_deg = slew_limit_deg
        self._ut1_utc_s = ut1_utc_s

    def contexts(self, utc_ns: NDArray[np.int64]) -> list[Context]:
        """Return the astrometry contexts of samples, (n,), in order."""
        runs = list(_runs(utc_ns // (GROUP_S * NS_PER_S)))
        if not runs:
            return []
        middles = np.array([group for _, group in runs], np.int64) * GROUP_S + GROUP_S // 2
        ut1 = np.array([self._ut1_utc_s(int(one) * NS_PER_S) for one in middles])
        site = self._site
        with warnings.catch_warnings():
            # Of years whose leap seconds are not known yet: LST hangs on UTC + (UT1 - UTC) only.
            warnings.simplefilter("ignore", erfa.ErfaWarning)
            contexts, origins = erfa.apco13(
                _JD_1970, middles / 86400, ut1, np.radians(site.longitude_deg),
                np.radians(site.latitude_deg), site.height_m, site.polar_x_arcsec * _ARCSEC,
                site.polar_y_arcsec * _ARCSEC, 0.0, 0.0, 0.0, 1.0,
            )  # fmt: skip
        return [
            Context(where, astrom, float(eo), ERA_RATE * (utc_ns[where] - middle * NS_PER_S) / 1e9)
            for (where, _), middle, astrom, eo in zip(
                runs, middles.tolist(), contexts, origins, strict=True
            )
        ]

    def places(
        self, utc_ns: NDArray[np.int64], is_celestial: NDArray[np.bool_],
        ra_deg: Floats, dec_deg: Floats, az_deg: Floats, el_deg: Floats,
        moved: tuple[Floats, Floats, Floats] | None = None,
    ) -> Places:  # fmt: skip
        """Return where the beam looked.

        Parameters
        ----------
        utc_ns
            True times, (n,).
        is_celestial
            Which way, (n,): True takes `ra_deg` and `dec_deg`, False `az_deg` and `el_deg`.
        ra_deg, dec_deg
            Apparent place, degrees, (n,).
        az_deg, el_deg
            Azimuth and elevation free of refraction, degrees, (n,).
        moved
            How far from the apparent place the beam was: degrees of the azimuth, degrees along
            azimuth on the sky, degrees of elevation, each (n,); None for not at all.
        """
        count = utc_ns.size
        contexts = self.contexts(utc_ns)
        lst = np.empty(count)
        for one in contexts:
            lst[one.where] = float(one.astrom["eral"]) - one.origins + one.rotation
        latitude = np.radians(self._site.latitude_deg)
        ra = np.where(is_celestial, np.radians(ra_deg), np.nan)
        dec = np.where(is_celestial, np.radians(dec_deg), np.nan)
        is_horizontal = ~is_celestial & np.isfinite(az_deg)
        if moved is not None and is_celestial.any():
            ra, dec, az, el = _moved(ra, dec, lst, latitude, *moved)
            apart = np.hypot(
                np.remainder(az - np.radians(az_deg) + np.pi, 2 * np.pi) - np.pi,
                (el - np.radians(el_deg)) / np.cos(el),
            ) * np.cos(el)  # fmt: skip
            # A telescope that slews is not where it was asked to go: its axes tell where it is.
            is_horizontal |= apart > np.radians(self._slew_limit_deg)
        has_horizontal = bool(is_horizontal.any())
        azimuth, zenith = np.radians(az_deg), np.radians(90.0 - el_deg)
        ra_icrs, dec_icrs = np.empty(count), np.empty(count)
        for one in contexts:
            where, chosen = one.where, is_horizontal[one.where]
            with np.errstate(invalid="ignore"):  # NaN where nothing is known
                if has_horizontal and chosen.any():
                    cirs, of_date = erfa.atoiq("A", azimuth[where], zenith[where], one.astrom)
                    ra[where][chosen] = (cirs + one.rotation - one.origins)[chosen]
                    dec[where][chosen] = of_date[chosen]
                ra_icrs[where], dec_icrs[where] = erfa.aticq(
                    ra[where] + one.origins, dec[where], one.astrom
                )
        return Places(
            ra_deg=np.degrees(ra) % 360, dec_deg=np.degrees(dec),
            ra_icrs_deg=np.degrees(ra_icrs), dec_icrs_deg=np.degrees(dec_icrs),
            pa_deg=np.degrees(parallactic_of(lst - ra, dec, latitude)),
            lst_h=lst * (12 / np.pi) % 24, is_horizontal=is_horizontal,
        )  # fmt: skip
