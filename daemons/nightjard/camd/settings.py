# SPDX-License-Identifier: BSD-3-Clause
"""What an observer has set, and whether a given detector can do it: pure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from nightjar.api.camera import CONFIGURE_KEYS
from nightjar.clock import NS_PER_S
from nightjar.errors import Code, InvalidArgument, Refused
from nightjard.camd.config import CameraConfig
from nightjard.camd.drivers.base import (
    BinningMethod,
    Capabilities,
    Control,
    ControlValue,
    Range,
    Settings,
)
from nightjard.camd.geometry import Region, check_window


@dataclass(frozen=True, slots=True)
class Observation:
    """The observer's settings; immutable, so that every frame keeps those it was taken with."""

    exposure_s: float
    window: Region | None
    binning: int
    binning_method: BinningMethod
    gain: int | None
    offset: int | None
    stream: bool
    controls: tuple[tuple[str, ControlValue], ...] = ()

    @classmethod
    def default(cls, config: CameraConfig) -> Observation:
        """Return the configured defaults."""
        return cls(
            exposure_s=config.exposure, window=config.default_window(), binning=config.binning,
            binning_method=config.binning_method, gain=config.gain, offset=config.offset,
            stream=config.stream,
        )  # fmt: skip

    @classmethod
    def fitting(cls, config: CameraConfig, capabilities: Capabilities) -> Observation:
        """Return the configured defaults without settings that a device does not have."""
        wanted = cls.default(config)
        if capabilities.gain is None or wanted.gain is None:
            wanted = wanted.with_(gain=capabilities.initial_gain)
        if capabilities.offset is None or wanted.offset is None:
            wanted = wanted.with_(offset=capabilities.initial_offset)
        low, high = capabilities.exposure_s
        return wanted.with_(exposure_s=min(max(wanted.exposure_s, low), high))

    def with_(self, **changes: Any) -> Observation:
        """Return a copy with changes."""
        return replace(self, **changes)

    @property
    def exposure_ns(self) -> int:
        """Exposure time in nanoseconds."""
        return round(self.exposure_s * NS_PER_S)

    def window_of(self, capabilities: Capabilities) -> Region:
        """Return the window in force."""
        return self.window or capabilities.readout

    def for_driver(self) -> Settings:
        """Return what the driver is asked."""
        return Settings(
            exposure_ns=self.exposure_ns, gain=self.gain, offset=self.offset, window=self.window,
            binning=self.binning, binning_method=self.binning_method, stream=self.stream,
            controls=self.controls,
        )  # fmt: skip

    def controlled(
        self, changes: Mapping[str, Any], capabilities: Capabilities
    ) -> Observation:
        """Return a copy with other values of some controls.

        Raises
        ------
        Refused
            The device has no such control, or not this value; the message says what it takes.
        """
        values = dict(self.controls)
        known = {control.name: control for control in capabilities.controls}
        for name, value in changes.items():
            if name not in known:
                raise Refused(_no_control(name, known), code=Code.UNKNOWN_ITEM)
            checked = check_control(known[name], value)
            values.pop(name, None)
            if checked != known[name].default:
                values[name] = checked
        return self.with_(controls=tuple(sorted(values.items())))


def _no_control(name: str, known: Mapping[str, Control]) -> str:
    if not known:
        return f"no control {name!r}: this camera has none"
    close = difflib.get_close_matches(name, known, 2)
    if close:
        return f"no control {name!r}; did you mean {' or '.join(close)}?"
    return f"no control {name!r}; there are: {', '.join(known)}"


def check_control(control: Control, value: Any) -> ControlValue:
    """Return a value in the control's type, or raise Refused (OUT_OF_RANGE)."""
    text = f"control {control.name}: {value!r}"
    if isinstance(control.default, str):
        if not isinstance(value, str) or len(value) > 68 or not value.isprintable():
            raise Refused(f"{text} must be a text of one line, at most 68 characters")
    else:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise Refused(f"{text} must be a number")
        if isinstance(control.default, int) and value != int(value):
            raise Refused(f"{text} must be a whole number")
        value = type(control.default)(value)
        low, high = control.low, control.high
        if (low is not None and not value >= low) or (high is not None and not value <= high):
            raise Refused(
                f"{text} must be {low:g} to {high:g} {control.unit}".rstrip(),
                code=Code.OUT_OF_RANGE,
            )
    if control.choices and value not in control.choices:
        choices = ", ".join(str(choice) for choice in control.choices)
        raise Refused(f"{text} must be one of {choices}", code=Code.OUT_OF_RANGE)
    checked: ControlValue = value
    return checked


def resolve_window(
    config: CameraConfig, window: list[int] | None, name: str | None
) -> Region | None:
    """Return a window given as four numbers, as a configured name, or not at all (the default)."""
    if window is not None:
        if len(window) != 4:
            raise InvalidArgument(f"window must have 4 numbers x1 x2 y1 y2, not {len(window)}")
        return Region(*window)
    if name is None or name == "default":
        return config.default_window()
    if name not in config.windows:
        known = ", ".join(config.windows) or "none"
        raise Refused(
            f"no window named {name!r} is configured; known: {known}", code=Code.UNKNOWN_ITEM
        )
    return Region(*config.windows[name])


def configured(
    config: CameraConfig, capabilities: Capabilities, settings: Mapping[str, Any]
) -> Observation:
    """Return the observation of a ``configure``: what is not named has its configured default.

    Raises
    ------
    InvalidArgument, Refused
        An unknown key, or what the detector cannot do.
    """
    unknown = sorted(set(settings) - set(CONFIGURE_KEYS))
    if unknown:
        raise InvalidArgument(
            f"configure: unknown key {', '.join(unknown)}; known: {', '.join(CONFIGURE_KEYS)}"
        )
    changes: dict[str, Any] = {}
    for key, attribute in (
        ("bin", "binning"), ("bin_method", "binning_method"), ("gain", "gain"),
        ("offset", "offset"), ("stream", "stream"),
    ):
        if settings.get(key) is not None:
            changes[attribute] = settings[key]
    if "exposure" in settings:
        changes["exposure_s"] = float(settings["exposure"])
    window = settings.get("window")
    if isinstance(window, str):
        changes["window"] = resolve_window(config, None, window)
    elif window is not None:
        changes["window"] = resolve_window(config, list(window), None)
    wanted = Observation.fitting(config, capabilities).with_(**changes)
    wanted = wanted.controlled(settings.get("controls") or {}, capabilities)
    check_observation(wanted, capabilities)
    return wanted


def check_observation(wanted: Observation, capabilities: Capabilities) -> None:
    """Raise Refused unless the detector can do what is wanted; the message says what it can."""
    exposure = capabilities.exposure_s
    if not exposure.low <= wanted.exposure_s <= exposure.high:  # not a number is refused too
        raise _out_of_range("exposure", wanted.exposure_s, exposure, "s")
    for name, value, limits in (
        ("gain", wanted.gain, capabilities.gain),
        ("offset", wanted.offset, capabilities.offset),
    ):
        if value is None:
            continue
        if limits is None:
            raise Refused(f"this camera has no {name} setting", code=Code.UNSUPPORTED)
        if value < limits.low or value > limits.high:
            raise _out_of_range(name, value, limits, "")
    if wanted.stream and not capabilities.has_stream_mode:
        raise Refused(
            "this camera cannot expose and read out at the same time", code=Code.UNSUPPORTED
        )
    check_window(wanted.window_of(capabilities), capabilities.readout, wanted.binning)


def check_setpoint(
    celsius: float | None, capabilities: Capabilities, configured: tuple[float, float]
) -> None:
    """Raise Refused unless the cooler can, and by the configuration may, be set so."""
    if celsius is None:
        return
    if capabilities.cooler == "none":
        raise Refused("this camera has no cooler", code=Code.UNSUPPORTED)
    device = capabilities.setpoint_c or Range(*configured)
    limits = Range(max(device.low, configured[0]), min(device.high, configured[1]))
    if not limits.low <= celsius <= limits.high:
        raise _out_of_range("temperature", celsius, limits, "deg C")


def _out_of_range(name: str, value: float, limits: Range, unit: str) -> Refused:
    text = f" {unit}" if unit else ""
    return Refused(
        f"{name} must be {limits.low:g} to {limits.high:g}{text}, not {value:g}",
        code=Code.OUT_OF_RANGE, name=name, low=limits.low, high=limits.high,
    )  # fmt: skip
