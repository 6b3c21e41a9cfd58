# SPDX-License-Identifier: BSD-3-Clause
"""A night's list of observations, laid out on a timeline with the rotator's answers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from nightjar.clock import NS_PER_S
from nightjar.das.lines import Line
from nightjar.errors import InvalidArgument
from nightjard.simulators.observatory import timeline as steps
from nightjard.simulators.observatory.rotation import Rotation, best_angle
from nightjard.simulators.observatory.timeline import (
    ROTATE_FALL_S,
    Axes,
    Observation,
    Segment,
    Source,
    Timeline,
)  # fmt: skip
from nightjard.simulators.observatory.truth import Observatory, TelescopeParameters

FIDUCIAL_DEG = 80.0
"""Angle of the array in its dewar."""
LEAST_ELEVATION_DEG = 15.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """Observations one after the other.

    Attributes
    ----------
    start_ns
        When the first slew begins.
    observations
        In order.
    """

    start_ns: int
    observations: tuple[Observation, ...]


@dataclass(slots=True)
class Night:
    """A scenario laid out: the telescope, the rotator, and the scenario."""

    observatory: Observatory
    rotation: Rotation
    scenario: Scenario
    sources: list[Source] = field(default_factory=list)


def sources_up(parameters: TelescopeParameters, t_ns: int) -> list[Source]:
    """Return sources that are well up at a time: a bright planet, two weak, one near the zenith.

    The last, ``north``, transits north of the zenith half an hour later: through azimuth 0.
    """
    observatory = Observatory(parameters, Timeline())
    lst = math.degrees(float(observatory.sky.lst_rad(np.array([t_ns]))[0]))

    def source(name: str, hour_angle_h: float, dec_deg: float, counts: float) -> Source:
        ra = round((lst - 15 * hour_angle_h) % 360.0, 4)
        return Source(name, ra, dec_deg, counts)

    return [
        source("planet", -1.5, 12.4, 500.0),
        source("weak1", -2.5, -4.7, 20.0),
        source("weak2", 1.0, 33.1, 20.0),
        source("north", -0.5, 47.3, 200.0),
    ]


def plan(
    parameters: TelescopeParameters,
    start_ns: int,
    duration_s: float,
    *,
    pattern: str = "raster",
    scan_s: float = 150.0,
    speed_arcsec_s: float = 120.0,
    axes: Axes | None = None,
    sources: list[Source] | None = None,
) -> Scenario:
    """Return observations that fill a time.

    Parameters
    ----------
    parameters
        Of the telescope.
    start_ns, duration_s
        The time.
    pattern
        One of timeline.PATTERNS, or "mixed" for all of them in turn.
    scan_s
        Of each scan.
    speed_arcsec_s
        Of each scan.
    axes
        Of all; None: by turns az/el and RA/Dec.
    sources
        In turn; None: the planet twice, then a weak one.
    """
    if pattern != "mixed" and pattern not in steps.PATTERNS:
        raise InvalidArgument(f"pattern {pattern!r}: must be of {', '.join(steps.PATTERNS)}, mixed")
    known = sources_up(parameters, start_ns)
    order = sources or [known[0], known[0], known[1]]
    each = scan_s + 25.0
    observations = []
    for index in range(max(1, math.ceil(duration_s / each) + 1)):
        kind = steps.PATTERNS[index % len(steps.PATTERNS)] if pattern == "mixed" else pattern
        chosen: Axes = axes or ("azel" if index % 2 == 0 else "radec")
        observations.append(
            Observation(order[index % len(order)], kind, scan_s, index + 1, chosen, speed_arcsec_s)
        )
    return Scenario(start_ns, tuple(observations))


def scan_angle(wanted: Observation, pa_deg: float) -> float:
    """Return the position angle of a scan on the sky, degrees north through east."""
    is_equatorial = wanted.axes == "radec" or wanted.pattern == "drift"
    return 90.0 if is_equatorial else pa_deg - 90.0


def lay_out(parameters: TelescopeParameters, scenario: Scenario, end_ns: int) -> Night:
    """Lay a scenario out on a timeline, until its end or a time.

    Raises
    ------
    InvalidArgument
        A source is below the telescope's limit.
    """
    rotation = Rotation(first_deg=-5.0)
    timeline = Timeline(rotating=rotation.edges)
    night = Night(Observatory(parameters, timeline, rotation.angles_at), rotation, scenario)
    first = night.observatory.source_place(
        scenario.observations[0].source.direction, scenario.start_ns
    )
    parked = ((first[0] + 12.0) % 360.0, min(88.0, first[1] + 4.0))
    timeline.add(Segment("idle", scenario.start_ns - 3600 * NS_PER_S, fixed=parked))
    when = scenario.start_ns
    for wanted in scenario.observations:
        if when >= end_ns:
            break
        when = _observe(night, wanted, when)
        if wanted.source not in night.sources:
            night.sources.append(wanted.source)
    return night


def goal_of(observatory: Observatory, wanted: Observation, start_ns: int) -> tuple[float, float]:
    """Return where to slew, az and el: where the source is, or will be in mid-drift.

    Raises
    ------
    InvalidArgument
        That is too low, or so near the zenith that no telescope follows.
    """
    late_s = 15.0 + wanted.duration_s / 2 if wanted.pattern == "drift" else 0.0
    place = observatory.source_place(wanted.source.direction, start_ns + round(late_s * NS_PER_S))
    if not LEAST_ELEVATION_DEG <= place[1] <= 88.0:
        raise InvalidArgument(
            f"{wanted.source.name} is at elevation {place[1]:.1f} deg; "
            f"the telescope goes from {LEAST_ELEVATION_DEG:g} to 88"
        )
    return place


def _observe(night: Night, wanted: Observation, start_ns: int) -> int:
    observatory = night.observatory
    timeline = observatory.timeline
    goal = goal_of(observatory, wanted, start_ns)
    ready = steps.begin(timeline, wanted, start_ns, observatory.place(start_ns), goal)
    if wanted.has_handshake:
        steps.rotate(timeline, ready)
        middle = ready + round(wanted.duration_s / 2 * NS_PER_S)
        pa = float(observatory.at(np.array([middle])).pa[0])
        goal_deg = best_angle(night.rotation.angle_deg, FIDUCIAL_DEG, pa, scan_angle(wanted, pa))
        fall = night.rotation.answer(ready, goal_deg)
        down = fall + round(ROTATE_FALL_S * NS_PER_S)
        timeline.add(Segment(
            "track", down, source=timeline.last.source, fixed=timeline.last.fixed,
            axes=wanted.axes, is_observing=True, number=wanted.number,
        ))  # fmt: skip
        ready = down + round(0.5 * NS_PER_S)
    return steps.scan(timeline, wanted, ready)


def line_edges(night: Night) -> dict[Line, list[tuple[int, bool]]]:
    """Return the edges of all lines, (ns UTC, level after it)."""
    return {line: night.observatory.timeline.edges(line) for line in Line}
