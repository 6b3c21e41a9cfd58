# SPDX-License-Identifier: BSD-3-Clause
"""What a simulated night is made from; the same parameters give the same bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from nightjar.errors import ConfigError, InvalidArgument
from nightjar.times import NS_PER_DAY, parse_iso
from nightjard.simulators.night.damage import DAMAGES, MILK_ONLY
from nightjard.simulators.night.headers import Setup
from nightjard.simulators.night.triggers import CameraTiming

PLACES = ("cube-border", "chunk-border", "first-frames", "last-frames", "both-cameras",
          "alternating")  # fmt: skip
CHUNK_S = 10.0  # of the products, where losses at their borders are wanted


@dataclass(frozen=True)
class Segment:
    """A stretch of one set-up.

    Attributes
    ----------
    setup
        How the instrument stands, and what the header says of it.
    frames
        Triggers in it; untriggered cameras expose for as long, with more frames.
    timings
        Of each camera; not used where it continues.
    continues
        The trigger goes on from the segment before without a pause, and so do the cubes: only the
        header changes.
    pause_s
        Since the segment before. The logger closes a cube when nothing comes for two seconds.
    cube_frames
        Lengths of the cubes of each camera in turn; the last one goes on.
    skew_s
        The logger of each camera begins so long after the first trigger.
    off
        (camera, from, to): its logger is off between these fractions of the segment's run.
    header_angle_deg
        What the FITS headers say instead of the true angle of the half-wave plate; the telemetry
        tells the truth.
    loss_places
        Frames lost where it hurts: of :data:`PLACES`.
    lost_cube
        A whole cube of this camera vanishes; 0 for none.
    pause_fraction, restarts
        As in :class:`~nightjard.simulators.night.triggers.TriggerSegment`.
    frame_shape
        (rows, columns) of the pixels, where other than the night's.
    at_midnight
        Its middle is at 00:00 UTC. The night's start follows.
    """

    setup: Setup = field(default_factory=Setup)
    frames: int = 100
    timings: tuple[CameraTiming, ...] = (CameraTiming(), CameraTiming(offset_us=150.0))
    continues: bool = False
    pause_s: float = 3.0
    cube_frames: tuple[tuple[int, ...], ...] = ((200,), (250,))
    skew_s: tuple[float, ...] = (0.0, 0.0)
    off: tuple[int, float, float] | None = None
    header_angle_deg: float | None = None
    loss_places: tuple[str, ...] = ()
    lost_cube: int = 0
    pause_fraction: float = 0.0
    restarts: tuple[tuple[int, float], ...] = ()
    frame_shape: tuple[int, int] | None = None
    at_midnight: bool = False

    __pydantic_config__ = ConfigDict(extra="forbid")

    @property
    def header_setup(self) -> Setup:
        """The set-up as the FITS headers tell it."""
        if self.header_angle_deg is None:
            return self.setup
        return dataclasses.replace(self.setup, angle_deg=self.header_angle_deg)


@dataclass(frozen=True)
class NightParameters:
    """A whole night.

    Attributes
    ----------
    segments
        In order of time.
    seed
        Of everything that is random.
    date
        YYYYMMDD, the folder's name: the UTC day on which the logger was started.
    start
        HH:MM:SS UTC of the first trigger, unless a segment is `at_midnight`.
    frame_shape
        (rows, columns) of the pixels; headers tell of the real crop.
    form
        Files of milk-streamFITSlog or of our own logger.
    tai_s
        What the logging clock is ahead of UTC (37 where the kernel knows the TAI offset).
    buffer_frames
        Slices of the streams.
    timeout_s
        The logger closes a cube when no frame came for so long.
    telemetry_s
        A row of the telemetry log so often; 0: no log.
    damages
        Done at the end, in this order: see :mod:`~nightjard.simulators.night.damage`.
    """

    segments: tuple[Segment, ...]
    seed: int = 1
    date: str = "20260611"
    start: str = "05:00:00"
    frame_shape: tuple[int, int] = (64, 64)
    form: Literal["milk", "fitslogd"] = "milk"
    tai_s: int = 0
    buffer_frames: int = 100
    timeout_s: float = 2.0
    telemetry_s: float = 10.0
    damages: tuple[str, ...] = ()

    __pydantic_config__ = ConfigDict(extra="forbid")

    @property
    def cameras(self) -> int:
        """Number of cameras."""
        return len(self.segments[0].timings)

    @property
    def start_ns(self) -> int:
        """The first trigger, ns UTC, where no segment is at midnight."""
        date = f"{self.date[:4]}-{self.date[4:6]}-{self.date[6:]}"
        return parse_iso(f"{date}T{self.start}")

    @property
    def midnight_ns(self) -> int:
        """The end of the UTC day of the date."""
        return (self.start_ns // NS_PER_DAY + 1) * NS_PER_DAY

    def to_plain(self) -> dict[str, Any]:
        """Return plain values, to be parsed again."""
        return dataclasses.asdict(self)

    def scaled(self, frames: int) -> NightParameters:
        """Return the night with about so many frames of all cameras, each segment in proportion."""
        total = sum(segment.frames for segment in self.segments) * self.cameras
        factor = frames / total
        return dataclasses.replace(
            self, segments=tuple(_scaled(segment, factor) for segment in self.segments)
        )


def _scaled(segment: Segment, factor: float) -> Segment:
    frames = max(12, round(segment.frames * factor))
    actual = frames / segment.frames

    def at(trigger: int) -> int:
        return max(1, min(frames - 1, int(trigger * actual)))

    timings = tuple(
        dataclasses.replace(
            timing,
            lost=tuple((at(trigger), where) for trigger, where in timing.lost),
            bursts=tuple((at(trigger), count) for trigger, count in timing.bursts),
            duplicates=tuple(at(trigger) for trigger in timing.duplicates),
        )
        for timing in segment.timings
    )
    restarts = tuple((at(trigger), gap_s) for trigger, gap_s in segment.restarts)
    skew_s = tuple(delay_s * min(1.0, actual) for delay_s in segment.skew_s)
    return dataclasses.replace(
        segment, frames=frames, timings=timings, restarts=restarts, skew_s=skew_s
    )


def parse_parameters(value: Mapping[str, Any]) -> NightParameters:
    """Return the parameters of plain values (a JSON object).

    Raises
    ------
    ConfigError
        A key that is not known or a value that cannot be.
    """
    try:
        parameters = TypeAdapter(NightParameters).validate_python(dict(value))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(f"parameters of the night: {where}: {first['msg']}") from None
    parameters = dataclasses.replace(
        parameters, segments=tuple(_with_tuples(segment) for segment in parameters.segments)
    )
    check(parameters)
    return parameters


def _with_tuples(segment: Segment) -> Segment:
    """Return the segment with tuples where JSON has lists: it compares equal."""
    timings = tuple(
        dataclasses.replace(
            timing, bursts=tuple(timing.bursts), lost=tuple(timing.lost),
            duplicates=tuple(timing.duplicates),
        )
        for timing in segment.timings
    )  # fmt: skip
    return dataclasses.replace(segment, timings=timings)


def check(parameters: NightParameters) -> None:
    """Raise InvalidArgument for a night that cannot be made."""
    if not parameters.segments:
        raise InvalidArgument("parameters of the night: it has no segments")
    if len(parameters.segments) > 1000:
        raise InvalidArgument("parameters of the night: at most 1000 segments have a tag")
    try:
        _ = parameters.start_ns
    except ValueError as error:
        raise InvalidArgument(f"parameters of the night: date, start: {error}") from None
    damages = set(parameters.damages)
    if unknown := damages - set(DAMAGES):
        raise InvalidArgument(f"no damage {sorted(unknown)}; there are: {', '.join(DAMAGES)}")
    if parameters.form != "milk" and (wrong := damages & MILK_ONLY):
        raise InvalidArgument(f"damage {sorted(wrong)} can be done to files of milk's form only")
    cameras = parameters.cameras
    for number, segment in enumerate(parameters.segments):
        where = f"segment {number} of the night"
        if segment.frames < 1 or segment.pause_s < 0:
            raise InvalidArgument(f"{where}: frames and pause_s must not be below 1 and 0")
        if segment.continues and (number == 0 or not segment.setup.is_triggered):
            raise InvalidArgument(f"{where}: only triggered segments can continue one before")
        lengths = (len(segment.timings), len(segment.cube_frames), len(segment.skew_s))
        if not segment.continues and lengths != (cameras,) * 3:
            raise InvalidArgument(
                f"{where}: timings, cube_frames and skew_s have {lengths} entries, not {cameras}"
            )
        if any(not each or min(each) < 1 or max(each) > 65535 for each in segment.cube_frames):
            raise InvalidArgument(f"{where}: a cube has 1 to 65535 frames")
        triggers = [*(trigger for trigger, _ in segment.restarts)]
        triggers += [trigger for timing in segment.timings for trigger, _ in timing.lost]
        if any(not 0 < trigger < segment.frames for trigger in triggers):
            last = segment.frames - 1
            raise InvalidArgument(f"{where}: restarts and lost must be at 1 to {last}")
        if unknown := set(segment.loss_places) - set(PLACES):
            raise InvalidArgument(f"{where}: no loss places {sorted(unknown)}: {PLACES}")
        if segment.setup.mode not in ("Fast", "Slow"):
            raise InvalidArgument(f"{where}: mode {segment.setup.mode!r} is not Fast or Slow")
