# SPDX-License-Identifier: BSD-3-Clause
"""What a fast camera shall do, and what it answered that it will: immutable records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from nightjar.errors import Code, InvalidArgument, Refused
from nightjard.camd.drivers.base import Range
from nightjard.camd.fast.config import FastCameraConfig
from nightjard.camd.geometry import Region


@dataclass(frozen=True, slots=True)
class Wanted:
    """Settings as they are asked for.

    Attributes
    ----------
    crop
        Name of a crop; "" for a free window.
    window
        The free window; None with a name.
    readout_mode
        None for the camera's first.
    """

    crop: str
    window: Region | None
    readout_mode: str | None
    exposure: float
    rate: float | None
    trigger: bool
    data_type: str

    @classmethod
    def of(cls, config: FastCameraConfig) -> Wanted:
        """Return the settings at start."""
        return cls(
            config.crop, None, config.readout_mode, config.exposure, config.rate,
            config.external_trigger, config.data_type,
        )  # fmt: skip

    def with_changes(self, changes: Mapping[str, Any]) -> Wanted:
        """Return other settings; keys as those of ``configure``."""
        values = dict(changes)
        if values.get("window") is not None:
            if values.get("crop") is not None:
                raise InvalidArgument("give a crop by name or a window, not both")
            values["window"] = as_region(values["window"])
            values["crop"] = ""
        elif values.get("crop") is not None:
            values["window"] = None
        else:
            if "crop" in values or "window" in values:
                raise InvalidArgument("give the name of a crop, or a window of four numbers")
        return replace(self, **values)


def as_region(window: list[int]) -> Region:
    """Return the region of [x1, x2, y1, y2]."""
    if len(window) != 4:
        raise InvalidArgument(f"window must be x1, x2, y1, y2, not {len(window)} numbers")
    return Region(*window)


@dataclass(frozen=True, slots=True)
class Camera:
    """What the camera said of itself when it was opened."""

    model: str
    serial: str
    sensor: Region
    crops: Mapping[str, Region]
    readout_modes: tuple[str, ...]
    exposure_s: Range
    rate_hz: Range | None
    has_external_trigger: bool

    @classmethod
    def of(cls, reply: Mapping[str, Any], own_crops: Mapping[str, Region]) -> Camera:
        """Return it from the grabber's reply and the configured crops."""
        columns, rows = reply["sensor"]
        named = {name: Region(*window) for name, window in reply["crops"].items()}
        return cls(
            model=reply["model"], serial=str(reply["serial"]),
            sensor=Region.full(columns, rows),
            crops={"FULL": Region.full(columns, rows), **named, **own_crops},
            readout_modes=tuple(reply["readout_modes"]),
            exposure_s=Range(*reply["exposure_s"]),
            rate_hz=Range(*reply["rate_hz"]) if reply["rate_hz"] else None,
            has_external_trigger=reply["has_external_trigger"],
        )  # fmt: skip

    def named(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Return changes with the names of crop and read-out mode as the camera writes them."""
        return dict(changes) | {
            key: _written(changes[key], names)
            for key, names in (("crop", self.crops), ("readout_mode", self.readout_modes))
            if changes.get(key)
        }

    def resolve(self, wanted: Wanted) -> dict[str, Any]:
        """Return settings for the grabber, as :class:`SourceSettings` in plain values.

        Raises
        ------
        Refused
            An unknown crop or mode, or a limit of the camera; the message names what there is.
        """
        if wanted.window is not None:
            region = wanted.window
        elif wanted.crop in self.crops:
            region = self.crops[wanted.crop]
        else:
            raise Refused(
                f"no crop {wanted.crop!r}; there are: {', '.join(self.crops)}",
                code=Code.UNKNOWN_ITEM, crop=wanted.crop,
            )  # fmt: skip
        if not self.sensor.contains(region):
            raise Refused(
                f"crop {region} extends outside the sensor {self.sensor}",
                code=Code.WINDOW_OUT_OF_BOUNDS, window=str(region), allowed=str(self.sensor),
            )  # fmt: skip
        mode = wanted.readout_mode or self.readout_modes[0]
        if mode not in self.readout_modes:
            raise Refused(
                f"no read-out mode {mode!r}; there are: {', '.join(self.readout_modes)}",
                code=Code.UNKNOWN_ITEM, mode=mode,
            )  # fmt: skip
        if wanted.trigger and not self.has_external_trigger:
            raise Refused("this camera takes no external trigger", code=Code.UNSUPPORTED)
        _within("exposure", wanted.exposure, self.exposure_s, "s")
        if wanted.rate is not None and self.rate_hz is not None:
            _within("rate", wanted.rate, self.rate_hz, "Hz")
        return {
            "region": [region.x1, region.x2, region.y1, region.y2], "readout_mode": mode,
            "exposure_s": wanted.exposure, "rate_hz": wanted.rate,
            "external_trigger": wanted.trigger, "crop": wanted.crop,
        }  # fmt: skip


def _written(name: str, names: Iterable[str]) -> str:
    return next((each for each in names if each.lower() == name.lower()), name)


def _within(name: str, value: float, limits: Range, unit: str) -> None:
    if not limits.low <= value <= limits.high:
        raise Refused(
            f"{name} {value:g} {unit} is outside of {limits.low:g} .. {limits.high:g} {unit}",
            code=Code.OUT_OF_RANGE, low=limits.low, high=limits.high,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Geometry:
    """What the grabber answered to a configure; keys of its reply that are not here are left."""

    shape: tuple[int, int]
    window: tuple[int, int, int, int]
    exposure_s: float
    max_rate_hz: float
    rate_hz: float
    readout_s: float
    pixel_type: str
    depth: int
    frame_bytes: int
    path: str

    @classmethod
    def of(cls, reply: Mapping[str, Any]) -> Geometry:
        """Return it from the reply."""
        values = {each.name: reply[each.name] for each in fields(cls)}
        return cls(**{**values, "shape": tuple(values["shape"]),
                      "window": tuple(values["window"])})  # fmt: skip

    @property
    def ring_seconds(self) -> float:
        """Seconds of frames that the stream holds at the expected rate."""
        return self.depth / self.rate_hz


@dataclass(frozen=True, slots=True)
class News:
    """What the grabber told last; all zero before."""

    streaming: bool = False
    counter: int | None = None
    published: int = 0
    lost: int = 0
    missed: int = 0
    late: int = 0
    incomplete: int = 0
    sequence: int = 0
    atime_ns: int | None = None
    hardware_id: int | None = None
    rate: float = 0.0
    telemetry: Mapping[str, Any] = field(default_factory=dict)
    cost_us: float | None = None

    def ended(self) -> News:
        """Return what stays of it when the grabber has ended."""
        return replace(self, streaming=False, rate=0.0, cost_us=None, counter=None)


COUNTS = ("published", "lost", "missed", "late", "incomplete")
"""The counts among them."""
