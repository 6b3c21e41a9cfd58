# SPDX-License-Identifier: BSD-3-Clause
"""Where the simulated telescope really looks, and what it was asked for: functions of true UTC.

What is asked (``requested``) follows the timeline exactly. The drives follow its scan offsets late
by ``lag_s``, run over in turnarounds, and wander by a smooth noise. So the error true minus
requested is known at every time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from nightjar.clock import NS_PER_S
from nightjar.das.lines import Line
from nightjar.das.pointing import FLAG_BITS
from nightjard.simulators.observatory.noise import smooth
from nightjard.simulators.observatory.sky import Floats, Site, Sky, angles
from nightjard.simulators.observatory.timeline import Segment, Timeline

Times = NDArray[np.int64]
_KEY_AZ, _KEY_EL = 11, 12
_AZIMUTH, _ELEVATION = 0, 1


@dataclass(frozen=True, slots=True)
class TelescopeParameters:
    """How the simulated telescope behaves.

    Attributes
    ----------
    seed
        Of all that is random.
    site
        Where it stands.
    ut1_utc_s
        UT1 - UTC, s.
    lag_s
        How late the drives follow a scan.
    noise_arcsec, noise_s
        Rms of their wandering on the sky, per axis, and over what time it is correlated.
    overshoot_arcsec
        How far they run over in the middle of a turnaround.
    """

    seed: int = 1
    site: Site = field(default_factory=Site)
    ut1_utc_s: float = 0.05
    lag_s: float = 0.08
    noise_arcsec: float = 0.5
    noise_s: float = 0.3
    overshoot_arcsec: float = 3.0


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """The telescope at times; all arrays (n,), angles in degrees.

    Attributes
    ----------
    utc_ns
        True UTC, ns.
    az, el, ra, dec, pa
        Where the beam really looks: RA and Dec apparent (topocentric TETE), pa there.
    lst_h
        Apparent sidereal time, hours.
    requested_az, requested_el
        What the drives are told: field centre and scan offsets.
    centre_ra, centre_dec, centre_pa
        The requested apparent place: the field's centre, scan offsets not included; NaN where
        the telescope does not follow the sky.
    x_offset, y_offset
        The scan's offsets, degrees on the sky: along RA and Dec (``ra = centre + x / cos centre
        dec``) where flag equat_offset_tel is set, else along azimuth and elevation (``az = centre
        + x / cos centre el``).
    flags
        uint32, the log's flag word.
    number
        int32, observation number; 0 for none.
    theta
        The rotator's angle; NaN for unknown.
    """

    utc_ns: Times
    az: Floats
    el: Floats
    ra: Floats
    dec: Floats
    pa: Floats
    lst_h: Floats
    requested_az: Floats
    requested_el: Floats
    centre_ra: Floats
    centre_dec: Floats
    centre_pa: Floats
    x_offset: Floats
    y_offset: Floats
    flags: NDArray[np.uint32]
    number: NDArray[np.int32]
    theta: Floats

    def __len__(self) -> int:
        return int(self.utc_ns.size)

    def part(self, chosen: slice | NDArray[np.bool_]) -> Truth:
        """Return some of the times."""
        return Truth(*(getattr(self, one.name)[chosen] for one in fields(self)))


def levels_from(edges: list[tuple[int, bool]], t_ns: Times) -> NDArray[np.bool_]:
    """Return the level of a line at times, by its edges; before the first: the other level."""
    if not edges:
        return np.zeros(t_ns.shape, bool)
    times = np.array([when for when, _ in edges], np.int64)
    known = np.array([not edges[0][1], *(level for _, level in edges)])
    return np.asarray(known[np.searchsorted(times, t_ns, "right")])


class Observatory:
    """The telescope on a timeline.

    Parameters
    ----------
    parameters
        How it behaves.
    timeline
        What it is asked for; may grow.
    theta
        The rotator's angle at times, degrees.
    """

    def __init__(
        self,
        parameters: TelescopeParameters,
        timeline: Timeline,
        theta: Callable[[Times], Floats] | None = None,
    ) -> None:
        self.parameters = parameters
        self.timeline = timeline
        self.sky = Sky(parameters.site, parameters.ut1_utc_s)
        self._theta = theta

    def at(self, t_ns: NDArray[np.int64]) -> Truth:
        """Return the telescope at true times, (n,)."""
        t_ns = np.asarray(t_ns, np.int64)
        lst = self.sky.lst_rad(t_ns)
        asked = self._places(t_ns, lst, 0.0)
        az, el = self._real(t_ns, lst)
        ra, dec = self.sky.equatorial(az, el, lst)
        return Truth(
            utc_ns=t_ns, az=az, el=el, ra=ra, dec=dec,
            pa=self.sky.parallactic_deg(ra, dec, lst),
            lst_h=lst * (12 / np.pi),
            requested_az=asked["az"], requested_el=asked["el"],
            centre_ra=asked["ra"], centre_dec=asked["dec"],
            centre_pa=self.sky.parallactic_deg(asked["ra"], asked["dec"], lst),
            x_offset=asked["x"] / 3600, y_offset=asked["y"] / 3600,
            flags=self._flags(t_ns, lst, ra),
            number=self._numbers(t_ns),
            theta=np.full(t_ns.size, np.nan) if self._theta is None else self._theta(t_ns),
        )  # fmt: skip

    def boresight(self, t_ns: NDArray[np.int64]) -> tuple[Floats, Floats, Floats]:
        """Return apparent RA and Dec where the beam really looks and pa there, degrees."""
        _, _, ra, dec, pa = self.pointing(t_ns)
        return ra, dec, pa

    def pointing(self, t_ns: NDArray[np.int64]) -> tuple[Floats, Floats, Floats, Floats, Floats]:
        """Return true az, el, apparent RA, Dec and pa, degrees: the columns of the wires."""
        lst = self.sky.lst_rad(t_ns)
        az, el = self._real(t_ns, lst)
        ra, dec = self.sky.equatorial(az, el, lst)
        return az, el, ra, dec, self.sky.parallactic_deg(ra, dec, lst)

    def place(self, t_ns: int) -> tuple[float, float]:
        """Return requested azimuth and elevation at a time, degrees."""
        when = np.array([t_ns], np.int64)
        places = self._places(when, self.sky.lst_rad(when), 0.0)
        return float(places["az"][0]), float(places["el"][0])

    def source_place(self, direction: Floats, t_ns: int) -> tuple[float, float]:
        """Return azimuth and elevation of an ICRS direction at a time, degrees."""
        when = np.array([t_ns], np.int64)
        ra, dec = angles(self.sky.apparent(direction, when))
        az, el = self.sky.horizontal(ra, dec, self.sky.lst_rad(when))
        return float(az[0]), float(el[0])

    def _real(self, t_ns: Times, lst: Floats) -> tuple[Floats, Floats]:
        real = self._places(t_ns, lst, self.parameters.lag_s)
        el = real["el"] + self._noise(t_ns, _ELEVATION)
        az = real["az"] + self._noise(t_ns, _AZIMUTH) / np.cos(np.radians(el))
        return az % 360.0, el

    def _noise(self, t_ns: Times, axis: int) -> Floats:
        p = self.parameters
        period = round(p.noise_s / 1.5 * NS_PER_S)
        key = p.seed * 1000 + (_KEY_AZ if axis == _AZIMUTH else _KEY_EL)
        return smooth(t_ns, period, key) * (p.noise_arcsec / 3600)

    def _places(self, t_ns: Times, lst: Floats, lag_s: float) -> dict[str, Floats]:
        """Return az, el, centre's ra and dec, offsets (arcsec); the drives' where they lag."""
        found = {name: np.full(t_ns.size, np.nan) for name in ("az", "el", "ra", "dec", "x", "y")}
        segments = self.timeline.segments
        starts = np.array([segment.start_ns for segment in segments], np.int64)
        which = np.maximum(0, np.searchsorted(starts, t_ns, "right") - 1)
        for index in np.unique(which):
            chosen = which == index
            values = self._segment(segments[index], t_ns[chosen], lst[chosen], lag_s)
            for name, value in values.items():
                found[name][chosen] = value
        return found

    def _segment(
        self, segment: Segment, t_ns: Times, lst: Floats, lag_s: float
    ) -> dict[str, Floats]:
        tau = (t_ns - segment.start_ns) / NS_PER_S
        x, y = np.zeros(t_ns.size), np.zeros(t_ns.size)
        if segment.pattern is not None:
            x, y = segment.pattern.offsets(np.maximum(tau - lag_s, 0.0))
            if lag_s:
                x = x + self.parameters.overshoot_arcsec * segment.pattern.overshoot(tau)
        values = {"x": x, "y": y}
        if segment.source is not None:
            ra, dec = angles(self.sky.apparent(segment.source.direction, t_ns))
            values |= {"ra": ra, "dec": dec}
            if segment.axes == "radec":
                moved = ra + x / 3600 / np.cos(np.radians(dec))
                az, el = self.sky.horizontal(moved, dec + y / 3600, lst)
            else:
                az, el = self.sky.horizontal(ra, dec, lst)
                az, el = az + x / 3600 / np.cos(np.radians(el)), el + y / 3600
        else:
            assert segment.fixed is not None
            az, el = (np.full(t_ns.size, one) for one in segment.fixed)
        if segment.origin is not None:
            length = segment.slew_ns / NS_PER_S
            share = (1 - np.cos(np.pi * np.clip(tau / length, 0.0, 1.0))) / 2
            az0, el0 = segment.origin
            az = az0 + ((az - az0 + 180) % 360 - 180) * share
            el = el0 + (el - el0) * share
        return {**values, "az": az % 360.0, "el": el}

    def _flags(self, t_ns: Times, lst: Floats, ra: Floats) -> NDArray[np.uint32]:
        scanning: list[tuple[int, bool]] = [(0, False)]
        tracking: list[tuple[int, bool]] = [(0, False)]
        equatorial: list[tuple[int, bool]] = [(0, False)]
        for segment in self.timeline.segments:
            scanning += segment.steps()
            tracking.append((segment.start_ns, segment.is_tracking))
            is_equatorial = segment.source is not None and segment.axes == "radec"
            equatorial.append((segment.start_ns, is_equatorial))
        levels = {line: levels_from(self.timeline.edges(line), t_ns) for line in Line}
        hour = (lst - np.radians(ra)) % (2 * np.pi)
        bits = {
            FLAG_BITS["equat_offset_tel"]: levels_from(equatorial, t_ns),
            FLAG_BITS["on_beam_tel"]: np.ones(t_ns.size, bool),
            FLAG_BITS["trck_tel"]: levels_from(tracking, t_ns),
            FLAG_BITS["acq_tel"]: levels[Line.ACQUIRED],
            FLAG_BITS["scan_tel"]: levels_from(scanning, t_ns),
            FLAG_BITS["tran_tel"]: hour < np.pi,
            FLAG_BITS["cele_tel"]: levels[Line.CELESTIAL],
            **{line.bit: level for line, level in levels.items()},
        }
        flags = np.zeros(t_ns.size, np.uint32)
        for bit, is_set in bits.items():
            flags |= is_set.astype(np.uint32) << np.uint32(bit)
        return flags

    def _numbers(self, t_ns: Times) -> NDArray[np.int32]:
        starts = np.array([one.start_ns for one in self.timeline.segments], np.int64)
        numbers = np.array([one.number for one in self.timeline.segments], np.int32)
        return np.asarray(numbers[np.maximum(0, np.searchsorted(starts, t_ns, "right") - 1)])
