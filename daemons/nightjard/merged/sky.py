# SPDX-License-Identifier: BSD-3-Clause
"""Where the beam looked: requested places, their errors and offsets to RA and Dec.

Two ways lead there. While the telescope follows the sky (flag ``cele_tel``) the log's requested
apparent place is the start: true equator and equinox of date. Errors and moving offsets along
azimuth and elevation are put on it through the alt-az frame of the same sidereal time, so that
large offsets are exact; what that frame leaves out (refraction, polar motion, diurnal aberration)
cancels to second order. Else azimuth and elevation are the start, and ERFA's observed-place
functions do the rest, without refraction.

ICRS comes from the apparent place by the formulas of ERFA (IAU 2006/2000A) for whole arrays:
equation of the origins, precession-nutation, annual and diurnal aberration taken off by the
opposite velocity (exact), light deflection by the Sun taken off once. The astrometry context is
made by ERFA once per thirty seconds, at their middle; the Earth's rotation inside them is linear
and exact.
Against a full evaluation at every sample the error stays below 5e-4 arcsec (the diurnal aberration
of 15 s). The apparent place is topocentric in direction (diurnal aberration included) for a source
at infinity.

Angles are turned as unit vectors: of 180 000 samples an hour the sines were the cost.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import erfa
import numpy as np
from numpy.typing import NDArray

from nightjar.clock import NS_PER_S
from nightjard.merged.config import SiteConfig
from nightjard.merged.interpolation import wrapped

GROUP_S = 30
"""Seconds that share an astrometry context."""
ERA_RATE = 2 * np.pi * 1.00273781191135448 / 86400
"""Earth rotation angle, radians per second of UT1 (IAU 2000)."""
_JD_1970 = 2440587.5
_ARCSEC = np.pi / 648000
_SUN_RADIUS_AU = 1.97412574336e-8
"""Schwarzschild radius of the Sun, AU (ERFA's constant SRS)."""
_NEAR_SUN = 1e-6
"""Deflection grows no more nearer to the Sun than this (ERFA's limiter at 1 AU)."""

Floats = NDArray[np.float64]
Vector = tuple[Floats, Floats, Floats]


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
    lst_rad
        Local apparent sidereal time by UT1, radians, not brought into a range.
    is_horizontal
        Whether azimuth and elevation told it.
    """

    ra_deg: Floats
    dec_deg: Floats
    ra_icrs_deg: Floats
    dec_icrs_deg: Floats
    pa_deg: Floats
    lst_rad: Floats
    is_horizontal: NDArray[np.bool_]

    @property
    def lst_h(self) -> Floats:
        """Local apparent sidereal time, hours."""
        return self.lst_rad * (12 / np.pi) % 24


def sin_cos(angle: Floats) -> tuple[Floats, Floats]:
    """Return sine and cosine by the tangent of the half: numpy has fast tangents, no fast sines."""
    half = np.tan(0.5 * angle)
    square = half * half
    scale = 1.0 / (1.0 + square)
    return 2.0 * half * scale, (1.0 - square) * scale


def turned_over(vector: Vector, latitude: float) -> Vector:
    """Return directions of hour angle and declination as azimuth and elevation, or back.

    Axes: hour angle 0 on the equator, west, north pole; and north, east, up.
    """
    x, y, z = vector
    sin_lat, cos_lat = np.sin(latitude), np.cos(latitude)
    return z * cos_lat - x * sin_lat, -y, z * sin_lat + x * cos_lat


def vector_of(lon: Floats, lat: Floats) -> Vector:
    """Return unit vectors of angles; radians."""
    (sin_lon, cos_lon), (sin_lat, cos_lat) = sin_cos(lon), sin_cos(lat)
    return cos_lat * cos_lon, cos_lat * sin_lon, sin_lat


def angles_of(vector: Vector) -> tuple[Floats, Floats]:
    """Return longitude, -pi to pi, and latitude of vectors; radians."""
    x, y, z = vector
    return np.arctan2(y, x), np.arctan2(z, np.sqrt(x * x + y * y))


def altaz_of(ha: Floats, dec: Floats, latitude: float) -> tuple[Floats, Floats]:
    """Return azimuth (north through east) and elevation of hour angle and declination; radians."""
    return angles_of(turned_over(vector_of(ha, dec), latitude))


def hadec_of(az: Floats, el: Floats, latitude: float) -> tuple[Floats, Floats]:
    """Return hour angle and declination of azimuth and elevation; radians."""
    return angles_of(turned_over(vector_of(az, el), latitude))


def parallactic_of(vector: Vector, latitude: float) -> Floats:
    """Return the parallactic angle of directions of hour angle and declination; radians.

    North through east, positive west of the meridian.
    """
    x, y, z = vector
    return np.asarray(np.arctan2(y, np.tan(latitude) * (x * x + y * y) - z * x))


def moved_along(vector: Vector, d_az: Floats, d_x: Floats, d_el: Floats) -> Vector:
    """Return directions of azimuth and elevation moved along them; radians.

    `d_x` is divided by cos(el) of the place that it starts from.
    """
    x, y, z = vector
    cos_el = np.sqrt(x * x + y * y)
    sin_turn, cos_turn = sin_cos(d_az + d_x / cos_el)
    sin_up, cos_up = sin_cos(d_el)
    scale = cos_up - sin_up * (z / cos_el)
    return (
        scale * (x * cos_turn - y * sin_turn),
        scale * (y * cos_turn + x * sin_turn),
        z * cos_up + cos_el * sin_up,
    )


def is_apart(one: Vector, other: Vector, limit: float) -> NDArray[np.bool_]:
    """Tell which directions are further apart than a limit, radians; NaN is not."""
    dx, dy, dz = one[0] - other[0], one[1] - other[1], one[2] - other[2]
    chord = 2 * np.sin(limit / 2)
    return np.asarray(dx * dx + dy * dy + dz * dz > chord * chord)


@dataclass(frozen=True, slots=True, eq=False)
class Contexts:
    """ERFA's astrometry contexts of samples.

    Attributes
    ----------
    bounds
        Where the samples of each begin, and the end of all, (m + 1,).
    astrom
        The contexts, (m,).
    origins
        Equation of the origins, radians, (m,): RA of date is RA by the CIO minus it.
    rotation
        Rotation of the Earth from the context's time to each sample's, radians, (n,).
    """

    bounds: NDArray[np.int64]
    astrom: NDArray[np.void]
    origins: Floats
    rotation: Floats

    def spread(self, values: Floats) -> Floats:
        """Return values of contexts, (m,), as values of samples, (n,)."""
        return np.repeat(values, np.diff(self.bounds))

    def icrs_of(self, vector: Vector) -> Vector:
        """Return ICRS directions of directions by the CIO: formulas of ERFA's apco and atciqq."""
        matrix, v = self.astrom["bpn"], self.astrom["v"]
        x, y, z = vector
        apparent = [
            self.spread(matrix[:, 0, axis]) * x + self.spread(matrix[:, 1, axis]) * y
            + self.spread(matrix[:, 2, axis]) * z
            for axis in range(3)
        ]  # fmt: skip
        # Aberration by the opposite velocity: Lorentz's formulas hold both ways.
        velocity = [self.spread(v[:, axis]) for axis in range(3)]
        bm1 = self.spread(self.astrom["bm1"])
        along = sum(p * w for p, w in zip(apparent, velocity, strict=True))
        factor = 1 - along / (1 + bm1)
        natural = [p * bm1 - factor * w for p, w in zip(apparent, velocity, strict=True)]
        norm = 1 / np.sqrt(sum(p * p for p in natural))
        natural = [p * norm for p in natural]
        # Deflection by the Sun, to first order: away from it by at most 4 mas at 90 degrees.
        sun = [self.spread(self.astrom["eh"][:, axis]) for axis in range(3)]
        cosine = sum(p * e for p, e in zip(natural, sun, strict=True))
        bend = self.spread(_SUN_RADIUS_AU / self.astrom["em"]) / np.maximum(1 + cosine, _NEAR_SUN)
        first, second, third = (
            p - bend * (e - cosine * p) for p, e in zip(natural, sun, strict=True)
        )
        return first, second, third


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

    def contexts(self, utc_ns: NDArray[np.int64]) -> Contexts:
        """Return the astrometry contexts of samples, (n,), in order; n is not 0."""
        groups = utc_ns // (GROUP_S * NS_PER_S)
        begins = np.concatenate(([0], np.flatnonzero(np.diff(groups)) + 1))
        bounds = np.append(begins, utc_ns.size)
        middles = groups[begins] * GROUP_S + GROUP_S // 2
        ut1 = np.array([self._ut1_utc_s(one * NS_PER_S) for one in middles.tolist()])
        site = self._site
        with warnings.catch_warnings():
            # Of years whose leap seconds are not known yet: LST hangs on UTC + (UT1 - UTC) only.
            warnings.simplefilter("ignore", erfa.ErfaWarning)
            astrom, origins = erfa.apco13(
                _JD_1970, middles / 86400, ut1, np.radians(site.longitude_deg),
                np.radians(site.latitude_deg), site.height_m, site.polar_x_arcsec * _ARCSEC,
                site.polar_y_arcsec * _ARCSEC, 0.0, 0.0, 0.0, 1.0,
            )  # fmt: skip
        since = utc_ns - np.repeat(middles * NS_PER_S, np.diff(bounds))
        return Contexts(bounds, astrom, origins, np.asarray(since * (ERA_RATE / 1e9), np.float64))

    def places(
        self, utc_ns: NDArray[np.int64], is_celestial: NDArray[np.bool_],
        ra_deg: Floats, dec_deg: Floats, az_deg: Floats, el_deg: Floats,
        moved: tuple[Floats, Floats, Floats] | None = None,
    ) -> Places:  # fmt: skip
        """Return where the beam looked.

        Parameters
        ----------
        utc_ns
            True times, (n,), n > 0.
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
        contexts = self.contexts(utc_ns)
        latitude = float(np.radians(self._site.latitude_deg))
        rotation = contexts.spread(contexts.astrom["eral"]) + contexts.rotation
        lst = rotation - contexts.spread(contexts.origins)
        ra = np.where(is_celestial, np.radians(ra_deg), np.nan)
        dec = np.where(is_celestial, np.radians(dec_deg), np.nan)
        vector = vector_of(lst - ra, dec)
        is_horizontal = ~is_celestial & np.isfinite(az_deg)
        if moved is not None and is_celestial.any():
            start = turned_over(vector, latitude)
            place = moved_along(start, *(np.radians(one) for one in moved))
            # A telescope that slews is not where it was asked to go: its axes tell where it is.
            axes = vector_of(np.radians(az_deg), np.radians(el_deg))
            is_horizontal |= is_apart(place, axes, float(np.radians(self._slew_limit_deg)))
            vector = turned_over(place, latitude)
            ha, dec = angles_of(vector)
            ra = lst - ha
        if is_horizontal.any():
            chosen = np.flatnonzero(is_horizontal)
            ra[chosen], dec[chosen] = self._of_axes(contexts, chosen, az_deg, el_deg)
            for axis, other in zip(vector, vector_of(lst[chosen] - ra[chosen], dec[chosen]),
                                   strict=True):  # fmt: skip
                axis[chosen] = other
        # By the CIO: the longitude is rotation minus hour angle.
        x, y, z = vector
        sin, cos = sin_cos(rotation)
        ra_icrs, dec_icrs = angles_of(
            contexts.icrs_of((cos * x + sin * y, sin * x - cos * y, z))
        )  # fmt: skip
        return Places(
            ra_deg=wrapped(np.degrees(ra), 360.0), dec_deg=np.degrees(dec),
            ra_icrs_deg=wrapped(np.degrees(ra_icrs), 360.0), dec_icrs_deg=np.degrees(dec_icrs),
            pa_deg=np.degrees(parallactic_of(vector, latitude)), lst_rad=lst,
            is_horizontal=is_horizontal,
        )  # fmt: skip

    def _of_axes(
        self, contexts: Contexts, chosen: NDArray[np.int64], az_deg: Floats, el_deg: Floats
    ) -> tuple[Floats, Floats]:
        """Return RA and Dec of date of the samples chosen, by their axes; radians."""
        ra, dec = np.empty(chosen.size), np.empty(chosen.size)
        azimuth, zenith = np.radians(az_deg[chosen]), np.radians(90.0 - el_deg[chosen])
        ends = np.searchsorted(chosen, contexts.bounds).tolist()
        for number, (begin, end) in enumerate(itertools.pairwise(ends)):
            if begin == end:
                continue
            here = slice(begin, end)
            with np.errstate(invalid="ignore"):  # NaN where nothing is known
                cirs, dec[here] = erfa.atoiq(
                    "A", azimuth[here], zenith[here], contexts.astrom[number]
                )
            ra[here] = cirs - contexts.origins[number]
        return ra + contexts.rotation[chosen], dec
