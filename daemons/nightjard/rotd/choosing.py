# SPDX-License-Identifier: BSD-3-Clause
r"""Which rotator angle samples the sky best, and why.

The rows of a hexagonal array shall make :attr:`Array.row_angle_deg` with the direction of the scan.
On the sky (position angles north through east) the rows lie at

.. math:: \rho(\theta) = f + q + 90 - s\,\theta \pmod{60}

with f the array's fiducial angle, q the parallactic angle and s the sense in which the sky follows
the rotator, from the convention of the array's maps: a detector at angle b of the array lies at
position angle ``b + f + q - theta + 90``. A scan along azimuth has the position angle q - 90, one
tilted by a towards elevation q - 90 + a; along RA 90, along Dec 0. Wanted is
``scan - rho = +-row_angle (mod 60)``: two mirrored families, equally good for a regular array.

For scans in azimuth and elevation q cancels: one rotator angle serves all night. For scans in RA
and Dec q of the middle of the observation is used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from nightjar.errors import InvalidArgument

Axis = Literal["az", "el", "ra", "dec", "pa"]
_GUARD_DEG = 0.5
_HYSTERESIS_DEG = 0.5
_FAST_DEG_PER_MIN = 2.0


@dataclass(frozen=True, slots=True)
class Array:
    """The array as it is mounted now.

    Attributes
    ----------
    fiducial_deg
        Its angle at rotator angle 0: measured by a beam map after each mounting.
    row_angle_deg
        Wanted between rows and scan direction.
    symmetry_deg
        Turned by this it looks the same: 60 for a hexagonal array.
    sky_sign
        1 where a counter-clockwise rotator lowers the position angle of the array on the sky.
    """

    fiducial_deg: float
    row_angle_deg: float = 10.7
    symmetry_deg: float = 60.0
    sky_sign: int = 1


@dataclass(frozen=True, slots=True)
class Range:
    """Angles that may be commanded, degrees."""

    low_deg: float
    high_deg: float


@dataclass(frozen=True, slots=True)
class Scan:
    """A scan to come.

    Attributes
    ----------
    axis, angle_deg
        As the command ``choose`` takes them.
    parallactic_deg
        q in the middle of the observation; None where axis az or el makes it needless.
    rate_deg_per_min
        How fast q goes then; None where it is not known.
    """

    axis: Axis
    angle_deg: float = 0.0
    parallactic_deg: float | None = None
    rate_deg_per_min: float | None = None


@dataclass(frozen=True, slots=True)
class Solution:
    """A rotator angle that samples well.

    Attributes
    ----------
    angle_deg
        Of the rotator.
    side
        +1 or -1: which of the two mirrored families.
    move_deg
        From where the rotator is; None where that is not known.
    """

    angle_deg: float
    side: int
    move_deg: float | None


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen, and why.

    Attributes
    ----------
    angle_deg
        To go to; where the rotator is already good enough, where it is.
    stays
        Whether it need not move.
    solutions
        All within the range, by angle.
    reasons
        Sentences for ``--explain``, in the order of the argument.
    warnings
        What the observer should know.
    """

    angle_deg: float
    stays: bool
    solutions: tuple[Solution, ...]
    reasons: tuple[str, ...]
    warnings: tuple[str, ...] = field(default=())

    def as_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {
            "angle_deg": self.angle_deg,
            "stays": self.stays,
            "solutions": [
                {"angle_deg": one.angle_deg, "side": one.side, "move_deg": one.move_deg}
                for one in self.solutions
            ],
            "reasons": list(self.reasons),
            "warnings": list(self.warnings),
        }


def scan_position_angle(scan: Scan) -> tuple[float, str]:
    """Return the position angle of a scan, degrees north through east, and how it comes.

    Raises
    ------
    InvalidArgument
        The parallactic angle is needed and not known.
    """
    if scan.axis == "pa":
        return scan.angle_deg % 360, f"the scan's position angle is given: {scan.angle_deg:g} deg"
    if scan.axis in ("ra", "dec"):
        angle = 90.0 if scan.axis == "ra" else 0.0
        return angle, f"a scan along {scan.axis.upper()} has the position angle {angle:g} deg"
    tilt = scan.angle_deg + (90.0 if scan.axis == "el" else 0.0)
    q = scan.parallactic_deg or 0.0  # it cancels
    along = "azimuth" if not tilt else f"{tilt:g} deg from azimuth towards elevation"
    return (q - 90 + tilt) % 360, (
        f"a scan along {along} keeps its angle to the array all night: the parallactic angle does "
        "not matter"
    )


def choose(
    scan: Scan, array: Array, limits: Range, present_deg: float | None = None
) -> Choice:
    """Return the rotator angle for a scan.

    The nearest solution within the limits, half a degree inside them; of two equally near the
    lower, away from the counter-clockwise switch; none where the present angle is within half a
    degree of one.

    Raises
    ------
    InvalidArgument
        The parallactic angle is needed and not known; no solution lies within the limits.
    """
    if scan.axis in ("ra", "dec", "pa") and scan.parallactic_deg is None:
        raise InvalidArgument(
            f"a scan along {scan.axis} needs the parallactic angle: the telescope's target is not "
            "known; give ra and dec"
        )
    sigma, reason = scan_position_angle(scan)
    q = scan.parallactic_deg or 0.0
    reasons = [reason]
    if scan.axis in ("ra", "dec", "pa"):
        reasons.append(f"the parallactic angle in the middle of the observation is {q:.2f} deg")
    solutions = []
    for side in (1, -1):
        # sigma - rho(theta) = side * row_angle (mod symmetry), solved for theta.
        first = (array.fiducial_deg + q + 90 - sigma + side * array.row_angle_deg) * array.sky_sign
        solutions += [
            Solution(angle, side, None if present_deg is None else angle - present_deg)
            for angle in _within(first, array.symmetry_deg, limits)
        ]
    solutions.sort(key=lambda one: one.angle_deg)
    reasons.append(
        f"rows {array.row_angle_deg:g} deg from the scan, on either side, {array.symmetry_deg:g} "
        f"deg apart each: {', '.join(f'{one.angle_deg:.2f}' for one in solutions) or 'none'} deg "
        f"within {limits.low_deg:g} to {limits.high_deg:g}"
    )
    if not solutions:
        raise InvalidArgument(
            f"no angle between {limits.low_deg + _GUARD_DEG:g} and "
            f"{limits.high_deg - _GUARD_DEG:g} deg samples this scan well"
        )
    warnings = _warnings(scan)
    if present_deg is None:
        best = min(solutions, key=lambda one: (abs(one.angle_deg), one.angle_deg))
        reasons.append("where the rotator is is not known: the solution nearest home")
        return Choice(best.angle_deg, False, tuple(solutions), tuple(reasons), warnings)
    best = min(solutions, key=lambda one: (round(abs(one.move_deg or 0.0), 6), one.angle_deg))
    if abs(best.angle_deg - present_deg) <= _HYSTERESIS_DEG and _is_inside(present_deg, limits):
        reasons.append(
            f"the rotator is at {present_deg:.2f}, {abs(best.angle_deg - present_deg):.2f} deg from"
            f" {best.angle_deg:.2f}: near enough, it stays"
        )
        return Choice(present_deg, True, tuple(solutions), tuple(reasons), warnings)
    reasons.append(
        f"the nearest to the present {present_deg:.2f} is {best.angle_deg:.2f}: a move by "
        f"{best.angle_deg - present_deg:+.2f} deg"
    )
    return Choice(best.angle_deg, False, tuple(solutions), tuple(reasons), warnings)


def _within(angle: float, step: float, limits: Range) -> list[float]:
    """Return the angles ``angle + n * step`` that lie inside the limits and their guard."""
    low, high = limits.low_deg + _GUARD_DEG, limits.high_deg - _GUARD_DEG
    first = math.ceil((low - angle) / step - 1e-9)
    last = math.floor((high - angle) / step + 1e-9)
    return [angle + step * number for number in range(first, last + 1)]


def _is_inside(angle: float, limits: Range) -> bool:
    return limits.low_deg <= angle <= limits.high_deg


def _warnings(scan: Scan) -> tuple[str, ...]:
    rate = scan.rate_deg_per_min
    if scan.axis in ("az", "el") or rate is None or abs(rate) < _FAST_DEG_PER_MIN:
        return ()
    return (
        f"the parallactic angle goes by {rate:.1f} deg/min: the angle to the rows changes during "
        "the observation",
    )


# --- where the target is ------------------------------------------------------------------------


def parallactic_deg(hour_angle_h: float, dec_deg: float, latitude_deg: float) -> float:
    """Return the parallactic angle, degrees north through east, positive west of the meridian.

    ``atan2(sin H, tan(lat) cos(dec) - sin(dec) cos H)``.
    """
    hour = math.radians(hour_angle_h * 15)
    dec, latitude = math.radians(dec_deg), math.radians(latitude_deg)
    return math.degrees(
        math.atan2(
            math.sin(hour),
            math.tan(latitude) * math.cos(dec) - math.sin(dec) * math.cos(hour),
        )
    )


SIDEREAL = 1.00273790935
"""Sidereal seconds per second of UT."""


def parallactic_at(
    lst_h: float, ra_deg: float, dec_deg: float, latitude_deg: float, later_s: float
) -> tuple[float, float]:
    """Return the parallactic angle some seconds later, degrees, and its rate then, deg/min.

    Parameters
    ----------
    lst_h
        Apparent sidereal time now, hours.
    ra_deg, dec_deg
        Apparent place of the target.
    latitude_deg
        Of the telescope.
    later_s
        Seconds from now.
    """
    hour = lst_h + later_s * SIDEREAL / 3600 - ra_deg / 15
    step_h = 5.0 * SIDEREAL / 3600
    before = parallactic_deg(hour - step_h, dec_deg, latitude_deg)
    after = parallactic_deg(hour + step_h, dec_deg, latitude_deg)
    rate = ((after - before + 180) % 360 - 180) * 6.0
    return parallactic_deg(hour, dec_deg, latitude_deg), rate


def sidereal_h(utc_ns: int, longitude_deg: float) -> float:
    """Return the mean sidereal time, hours, good to 2 s: UT1 is taken for UTC.

    The Astronomical Almanac's linear formula for Greenwich (epoch J2000).
    """
    days = (utc_ns / 1e9 - 946728000.0) / 86400
    return (18.697374558 + 24.06570982441908 * days + longitude_deg / 15) % 24
