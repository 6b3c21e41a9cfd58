# SPDX-License-Identifier: BSD-3-Clause
"""What the telescope is asked to do, one segment after the other, and the status lines by it.

The rules of the lines are the CSO antenna computer's: TRACKING is high while the telescope tracks
and does not scan; ROTATE rises before each raster or drift scan and falls when the instrument's
ROTATING has fallen; OBSERVATION is high through an observation and low for at least a second
between two.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from nightjar.clock import NS_PER_S
from nightjar.das.lines import Line
from nightjar.errors import InvalidArgument
from nightjard.simulators.observatory.patterns import Lissajous, Pattern, Raster
from nightjard.simulators.observatory.sky import Floats, unit

Kind = Literal["idle", "slew", "settle", "track", "rotate", "scan", "drift"]
Axes = Literal["azel", "radec"]
PATTERNS = ("raster", "lissajous", "drift", "pointed")
OPEN_NS = 2**62
"""End of a segment whose end is not known yet."""
SLEW_LEAST_S = 5.0
SLEW_DEG_S = 3.0
SETTLE_S = 0.7
"""From the end of a slew until the error is below the tolerance of 5 arcsec."""
BEFORE_S, AFTER_S, LOW_S = 3.0, 2.0, 1.5
"""Tracking in an observation before and after its scan; with OBSERVATION low behind it."""
ROTATE_FALL_S = 0.03
"""From the fall of ROTATING to the fall of ROTATE."""


@dataclass(frozen=True, slots=True)
class Source:
    """Something in the sky: ICRS, degrees; its peak in the beam, counts of the ADC."""

    name: str
    ra_deg: float
    dec_deg: float
    counts: float = 20.0

    @property
    def direction(self) -> Floats:
        """Unit vector, ICRS, (3,)."""
        return np.asarray(unit(self.ra_deg, self.dec_deg))


@dataclass(frozen=True, slots=True)
class Observation:
    """What is asked for.

    Attributes
    ----------
    source
        Its centre.
    pattern
        One of PATTERNS.
    duration_s
        Of the scan (of the tracking, for pointed), slew and rotation not counted.
    number
        Observation number.
    axes
        Whether a scan's x and y go along azimuth and elevation or along RA and Dec.
    speed_arcsec_s
        Of the scan.
    """

    source: Source
    pattern: str
    duration_s: float
    number: int
    axes: Axes = "azel"
    speed_arcsec_s: float = 120.0

    def motion(self) -> Pattern | None:
        """Return its way to scan; None for pointed and drift.

        Raises
        ------
        InvalidArgument
            No such pattern, or too short for it.
        """
        if self.pattern not in PATTERNS:
            raise InvalidArgument(f"pattern {self.pattern!r}: must be of {', '.join(PATTERNS)}")
        if not 1 <= self.duration_s <= 86400 or not 1 <= self.speed_arcsec_s <= 2000:
            raise InvalidArgument(
                f"an observation of {self.duration_s:g} s at {self.speed_arcsec_s:g} arcsec/s: "
                "must be 1 to 86400 s, 1 to 2000 arcsec/s"
            )
        if self.pattern == "raster":
            return Raster(self.duration_s, speed_arcsec_s=self.speed_arcsec_s)
        if self.pattern == "lissajous":
            return Lissajous(self.duration_s, speed_arcsec_s=self.speed_arcsec_s)
        return None

    @property
    def has_handshake(self) -> bool:
        """Whether ROTATE is raised before its scan."""
        return self.pattern != "pointed"


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of time in which the telescope does one thing.

    Attributes
    ----------
    kind
        What.
    start_ns, end_ns
        When, ns UTC; OPEN_NS where the end is not known yet.
    source
        What is followed; None for a fixed azimuth and elevation.
    fixed
        (az, el), degrees; None where a source is followed.
    origin, slew_ns
        (az, el) where a slew begins, and how long it takes.
    pattern
        Of a scan.
    axes
        Of its pattern.
    is_observing
        Level of OBSERVATION.
    number
        Observation number; 0 for none.
    """

    kind: Kind
    start_ns: int
    end_ns: int = OPEN_NS
    source: Source | None = None
    fixed: tuple[float, float] | None = None
    origin: tuple[float, float] | None = None
    slew_ns: int = 0
    pattern: Pattern | None = None
    axes: Axes = "azel"
    is_observing: bool = False
    number: int = 0

    def steps(self) -> Iterator[tuple[int, bool]]:
        """Yield when scanning begins and ends within, ns UTC; the first is at its start."""
        yield self.start_ns, self.kind == "drift"
        if self.kind == "scan" and self.pattern is not None:
            for tau, is_scanning in self.pattern.edges():
                when = self.start_ns + round(tau * NS_PER_S)
                if when < self.end_ns:
                    yield when, is_scanning

    def level(self, line: Line, is_scanning: bool) -> bool:
        """Return the level of a line that the telescope drives."""
        if line is Line.CELESTIAL:
            return self.source is not None
        if line is Line.ACQUIRED:
            return self.kind in ("track", "rotate", "scan", "drift")
        if line is Line.TRACKING:
            return self.is_tracking and not is_scanning
        return self.kind == "rotate" if line is Line.ROTATE else self.is_observing

    @property
    def is_tracking(self) -> bool:
        """The log's flag TRACKING."""
        return self.kind in ("settle", "track", "rotate", "scan")


DRIVEN = (Line.CELESTIAL, Line.ACQUIRED, Line.TRACKING, Line.ROTATE, Line.OBSERVATION)
"""Lines that the telescope drives."""


@dataclass(slots=True)
class Timeline:
    """Segments in order without gaps; the first begins before all questions.

    ``rotating`` holds the edges of the instrument's ROTATING that the telescope has seen.
    """

    segments: list[Segment] = field(default_factory=list)
    rotating: list[tuple[int, bool]] = field(default_factory=list)

    @property
    def last(self) -> Segment:
        """The newest segment."""
        return self.segments[-1]

    def add(self, segment: Segment) -> None:
        """Add a segment; the one before ends where it begins.

        Raises
        ------
        ValueError
            It begins before that one.
        """
        if self.segments:
            if segment.start_ns < self.last.start_ns:
                raise ValueError("segments of a timeline are added in order of time")
            self.segments[-1] = replace(self.last, end_ns=segment.start_ns)
        self.segments.append(segment)

    def cut(self, t_ns: int) -> None:
        """Forget what begins after a time; what runs then is open."""
        while len(self.segments) > 1 and self.last.start_ns > t_ns:
            self.segments.pop()
        self.segments[-1] = replace(self.last, end_ns=OPEN_NS)

    def prune(self, before_ns: int) -> None:
        """Forget segments that ended before a time."""
        while len(self.segments) > 1 and self.segments[0].end_ns < before_ns:
            self.segments.pop(0)
        self.rotating = self.rotating[-64:]

    def at(self, t_ns: int) -> Segment:
        """Return the segment of a time; the first for earlier ones."""
        for segment in reversed(self.segments):
            if segment.start_ns <= t_ns:
                return segment
        return self.segments[0]

    def edges(self, line: Line) -> list[tuple[int, bool]]:
        """Return the edges of a line, (ns UTC, level after it), the first level included."""
        if line is Line.ROTATING:
            return list(self.rotating)
        found: list[tuple[int, bool]] = []
        for segment in self.segments:
            for when, is_scanning in segment.steps():
                level = segment.level(line, is_scanning)
                if not found or found[-1][1] != level:
                    found.append((when, level))
        return found


def slew_s(origin: tuple[float, float], goal: tuple[float, float]) -> float:
    """Return how long a slew lasts: half-cosine speed, at most SLEW_DEG_S."""
    az = abs((goal[0] - origin[0] + 180) % 360 - 180)
    most = max(az, abs(goal[1] - origin[1]))
    return max(SLEW_LEAST_S, most * math.pi / 2 / SLEW_DEG_S)


def begin(
    timeline: Timeline,
    wanted: Observation,
    start_ns: int,
    origin: tuple[float, float],
    goal: tuple[float, float],
) -> int:
    """Add slew, settling and tracking before a scan; return when that is over.

    Parameters
    ----------
    origin
        Where the telescope is at the start, az and el.
    goal
        Where it will go, about; exactly there for a drift scan.
    """
    is_drift = wanted.pattern == "drift"
    length_ns = round(slew_s(origin, goal) * NS_PER_S)
    aim = Segment(
        "slew", start_ns, source=None if is_drift else wanted.source,
        fixed=goal if is_drift else None, origin=origin, slew_ns=length_ns, axes=wanted.axes,
        number=wanted.number,
    )  # fmt: skip
    timeline.add(aim)
    when = start_ns + length_ns
    timeline.add(replace(aim, kind="settle", start_ns=when, origin=None))
    when += round(SETTLE_S * NS_PER_S)
    timeline.add(replace(aim, kind="track", start_ns=when, origin=None, is_observing=True))
    return when + round(BEFORE_S * NS_PER_S)


def rotate(timeline: Timeline, start_ns: int) -> None:
    """Raise ROTATE; it stays until the next segment."""
    timeline.add(replace(timeline.last, kind="rotate", start_ns=start_ns))


def scan(timeline: Timeline, wanted: Observation, start_ns: int) -> int:
    """Add the scan, tracking behind it and the pause with OBSERVATION low; return its end."""
    before = replace(timeline.last, kind="track", start_ns=start_ns)
    motion = wanted.motion()
    if wanted.pattern == "drift":
        timeline.add(replace(before, kind="drift"))
    elif motion is not None:
        timeline.add(replace(before, kind="scan", pattern=motion))
    else:
        timeline.add(before)
    end = start_ns + round(wanted.duration_s * NS_PER_S)
    timeline.add(replace(before, start_ns=end))
    end += round(AFTER_S * NS_PER_S)
    timeline.add(replace(before, start_ns=end, is_observing=False, number=0))
    return end + round(LOW_S * NS_PER_S)
