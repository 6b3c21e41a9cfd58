# SPDX-License-Identifier: BSD-3-Clause
"""Sky mathematics of the simulated observatory: closed forms, no refraction.

"Apparent" is the place the telescope's log tells: true equator and equinox of date, with annual
and diurnal aberration and the Sun's deflection (topocentric TETE). Between it and azimuth and
elevation there is then only a rotation by the apparent sidereal time and the latitude. ERFA gives
what is a table: precession-nutation, the Earth's velocity, the equation of the origins, at nodes
a minute apart with straight lines between. Polar motion is zero here: in life it is 0.3 arcsec.

Against astropy's TETE and AltAz of the same place and UT1: below 0.0001 arcsec (measured 2e-5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime

import erfa
import numpy as np
from numpy.typing import NDArray

from nightjar.clock import NS_PER_S, TAI_UTC_S

Floats = NDArray[np.float64]
NODE_NS = 60 * NS_PER_S
DAY_NS = 86400 * NS_PER_S
ARCSEC = math.pi / 180 / 3600
_TT_TAI_S = 32.184
_LIGHT_AU_DAY = 173.1446326846693  # speed of light
_LIGHT_M_S = 299_792_458.0
_ROTATION = 7.292115e-5  # rad/s of the Earth
_SINCE_2017_NS = 17_167 * DAY_NS
_UNIX_JD = 2440587.5
_WGS84 = (6_378_137.0, 1 / 298.257223563)


@dataclass(frozen=True, slots=True)
class Site:
    """Where the telescope stands: WGS84, degrees, longitude positive east."""

    longitude_deg: float = -155.4754972
    latitude_deg: float = 19.8224389
    height_m: float = 4080.0

    @property
    def speed(self) -> float:
        """Its speed by the Earth's rotation, in units of light's."""
        radius, flattening = _WGS84
        latitude = math.radians(self.latitude_deg)
        e2 = flattening * (2 - flattening)
        normal = radius / math.sqrt(1 - e2 * math.sin(latitude) ** 2)
        return _ROTATION * (normal + self.height_m) * math.cos(latitude) / _LIGHT_M_S


def tai_utc_s(t_ns: int) -> float:
    """Return TAI - UTC, s; what holds since 2017 for all later times."""
    if t_ns >= _SINCE_2017_NS:
        return float(TAI_UTC_S)
    date = datetime.fromtimestamp(t_ns // NS_PER_S, UTC)
    return float(erfa.dat(date.year, date.month, date.day, 0.0))


def unit(ra_deg: Floats | float, dec_deg: Floats | float) -> Floats:
    """Return unit vectors, (..., 3)."""
    ra, dec = np.radians(ra_deg), np.radians(dec_deg)
    return np.asarray(
        np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], -1)
    )


def angles(vector: Floats) -> tuple[Floats, Floats]:
    """Return longitude 0 to 360 and latitude of vectors, degrees."""
    longitude = np.degrees(np.arctan2(vector[..., 1], vector[..., 0])) % 360.0
    latitude = np.degrees(np.arctan2(vector[..., 2], np.hypot(vector[..., 0], vector[..., 1])))
    return longitude, latitude


@dataclass(frozen=True, slots=True, eq=False)
class _Node:
    matrix: Floats  # GCRS to true equator and equinox of date
    velocity: Floats  # of the observer, barycentric, units of c
    from_sun: Floats  # unit vector Sun to observer
    distance_au: float
    origins: float  # equation of the origins, rad


@dataclass(slots=True)
class Sky:
    """The sky over a site.

    Attributes
    ----------
    site
        Where.
    ut1_utc_s
        UT1 - UTC, s: what the telescope's record tells too.
    """

    site: Site = field(default_factory=Site)
    ut1_utc_s: float = 0.05
    _nodes: dict[int, _Node] = field(default_factory=dict, repr=False)

    def lst_rad(self, t_ns: NDArray[np.int64]) -> Floats:
        """Return apparent sidereal time, radians 0 to 2 pi."""
        _, (origins,) = self._between(t_ns, "origins")
        longitude = math.radians(self.site.longitude_deg)
        return np.asarray((self._earth_rotation(t_ns) - origins + longitude) % (2 * np.pi))

    def _earth_rotation(self, t_ns: NDArray[np.int64]) -> Floats:
        # IAU 2000: fraction of the day and its excess apart, so that no digit is lost.
        day, rest = np.divmod(t_ns, DAY_NS)
        fraction = (rest / NS_PER_S + self.ut1_utc_s) / 86400
        elapsed = (day + (_UNIX_JD - 2451545.0)) + fraction
        # JD days begin at noon: half a turn between the fraction of this day and that of JD.
        turns = fraction + 0.5 + 0.7790572732640 + 0.00273781191135448 * elapsed
        return np.asarray(2 * np.pi * (turns % 1.0))

    def apparent(self, direction: Floats, t_ns: NDArray[np.int64]) -> Floats:
        """Return where a star of an ICRS direction appears, unit vectors (n, 3).

        Parameters
        ----------
        direction
            (3,) or (n, 3); no parallax, no proper motion.
        t_ns
            Times, (n,).
        """
        natural = np.broadcast_to(direction, (t_ns.size, 3))
        _, (matrix, proper) = self._between(t_ns, "matrix", proper=natural)
        return np.asarray(np.einsum("nij,nj->ni", matrix, proper))

    def icrs(self, apparent: Floats, t_ns: NDArray[np.int64]) -> Floats:
        """Return the ICRS directions that appear at unit vectors, (n, 3)."""
        _, (matrix,) = self._between(t_ns, "matrix")
        wanted = np.einsum("nji,nj->ni", matrix, apparent)
        natural = np.asarray(wanted)
        for _ in range(3):  # aberration is 1e-4: each step gains four digits
            _, (seen,) = self._between(t_ns, proper=natural)
            natural = natural - (seen - wanted)
            natural /= np.linalg.norm(natural, axis=1, keepdims=True)
        return np.asarray(natural)

    def _between(
        self, t_ns: NDArray[np.int64], *names: str, proper: Floats | None = None
    ) -> tuple[int, list[Floats]]:
        """Return quantities of nodes at times, then the proper directions of natural ones."""
        if not t_ns.size:
            return 0, [np.zeros((0, 3, 3)) if name == "matrix" else np.zeros(0) for name in names]
        node, rest = np.divmod(t_ns, NODE_NS)
        first, last = int(node.min()), int(node.max()) + 1
        nodes = [self._node(k) for k in range(first, last + 1)]
        place, part = node - first, rest / NODE_NS

        def at(name: str) -> Floats:
            values = np.array([getattr(one, name) for one in nodes])
            share = part.reshape(-1, *[1] * (values.ndim - 1))
            return np.asarray(values[place] * (1 - share) + values[place + 1] * share)

        found = [at(name) for name in names]
        if proper is not None:
            found.append(_proper(proper, at("velocity"), at("from_sun"), at("distance_au")))
        return len(nodes), found

    def _node(self, index: int) -> _Node:
        node = self._nodes.get(index)
        if node is None:
            if len(self._nodes) > 10_000:
                self._nodes.clear()
            node = self._nodes[index] = self._make_node(index * NODE_NS)
        return node

    def _make_node(self, t_ns: int) -> _Node:
        day, rest = divmod(t_ns, DAY_NS)
        tt = (_UNIX_JD + day, (rest / NS_PER_S + tai_utc_s(t_ns) + _TT_TAI_S) / 86400)
        matrix = erfa.pnm06a(*tt)
        origins = float(erfa.eo06a(*tt))
        heliocentric, barycentric = erfa.epv00(*tt)
        longitude = math.radians(self.site.longitude_deg)
        lst = float(self._earth_rotation(np.array([t_ns]))[0]) - origins + longitude
        east = np.array([-math.sin(lst), math.cos(lst), 0.0])
        velocity = barycentric["v"] / _LIGHT_AU_DAY + matrix.T @ east * self.site.speed
        distance = float(np.linalg.norm(heliocentric["p"]))
        return _Node(matrix, velocity, heliocentric["p"] / distance, distance, origins)

    def horizontal(self, ra_deg: Floats, dec_deg: Floats, lst_rad: Floats) -> tuple[Floats, Floats]:
        """Return azimuth (north through east) and elevation, degrees."""
        phi = math.radians(self.site.latitude_deg)
        hour, dec = lst_rad - np.radians(ra_deg), np.radians(dec_deg)
        x = np.sin(dec) * math.cos(phi) - np.cos(dec) * np.cos(hour) * math.sin(phi)
        y = -np.cos(dec) * np.sin(hour)
        z = np.sin(dec) * math.sin(phi) + np.cos(dec) * np.cos(hour) * math.cos(phi)
        return angles(np.stack([x, y, z], -1))

    def equatorial(self, az_deg: Floats, el_deg: Floats, lst_rad: Floats) -> tuple[Floats, Floats]:
        """Return apparent RA and Dec, degrees."""
        phi = math.radians(self.site.latitude_deg)
        az, el = np.radians(az_deg), np.radians(el_deg)
        x = np.sin(el) * math.cos(phi) - np.cos(el) * math.sin(phi) * np.cos(az)
        y = -np.sin(az) * np.cos(el)
        z = np.sin(el) * math.sin(phi) + np.cos(el) * math.cos(phi) * np.cos(az)
        hour, dec = np.arctan2(y, x), np.arctan2(z, np.hypot(x, y))
        return np.degrees(lst_rad - hour) % 360.0, np.degrees(dec)

    def parallactic_deg(self, ra_deg: Floats, dec_deg: Floats, lst_rad: Floats) -> Floats:
        """Return the parallactic angle: of the zenith, north through east, -180 to 180 degrees."""
        phi = math.radians(self.site.latitude_deg)
        hour, dec = lst_rad - np.radians(ra_deg), np.radians(dec_deg)
        return np.asarray(
            np.degrees(
                np.arctan2(np.sin(hour), math.tan(phi) * np.cos(dec) - np.sin(dec) * np.cos(hour))
            )
        )


def _proper(natural: Floats, velocity: Floats, from_sun: Floats, distance: Floats) -> Floats:
    """Return directions with the Sun's deflection and relativistic aberration, (n, 3)."""
    p = erfa.ldsun(natural, from_sun, distance)
    along = np.einsum("ni,ni->n", p, velocity)[:, None]
    beta = np.sqrt(1 - np.einsum("ni,ni->n", velocity, velocity))[:, None]
    seen = (beta * p + (1 + along / (1 + beta)) * velocity) / (1 + along)
    return np.asarray(seen / np.linalg.norm(seen, axis=1, keepdims=True))
