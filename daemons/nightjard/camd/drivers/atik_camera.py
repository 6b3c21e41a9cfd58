# SPDX-License-Identifier: BSD-3-Clause
"""Finding an Atik camera, putting it into a known state, and what it is."""

from __future__ import annotations

import ctypes
from typing import Any, Literal

from nightjar.errors import DeviceError, DeviceNotFound
from nightjard.camd.drivers.atik_library import (
    AtikLibrary,
    CameraState,
    CoolingFlag,
    OptionId,
    Properties,
)
from nightjard.camd.drivers.base import Capabilities, Range
from nightjard.camd.drivers.options import AtikOptions
from nightjard.camd.geometry import Region


def find_camera(library: AtikLibrary, options: AtikOptions, serial: str) -> tuple[int, str, str]:
    """Return index, serial and name of the camera wanted.

    Raises
    ------
    DeviceNotFound
        It is not there; the message lists the serials that are.
    """
    if library.has("ArtemisRefreshDevicesCount"):
        library.value("ArtemisRefreshDevicesCount")
    found: list[tuple[int, str, str]] = []
    for index in range(library.value("ArtemisDeviceCount")):
        if library.value("ArtemisDeviceIsCamera", index):
            own = library.text("ArtemisDeviceSerial", index)
            found.append((index, own, library.text("ArtemisDeviceName", index)))
    matching = found if options.ignore_serial else [one for one in found if one[1] == serial]
    if len(matching) == 1:
        return matching[0]
    there = ", ".join(f"{own} ({name})" for _, own, name in found) or "none"
    if len(matching) > 1:
        why = "ignore_serial needs" if options.ignore_serial else f"serial {serial} must mean"
        raise DeviceNotFound(f"{why} exactly one Atik camera; there are: {there}")
    wanted = "at all" if options.ignore_serial else f"with serial {serial}"
    raise DeviceNotFound(f"no Atik camera {wanted}; there are: {there}")


def prepare(library: AtikLibrary, handle: Any, options: AtikOptions) -> None:
    """End what is in course and switch off what would change pixels behind our back."""
    if library.value("ArtemisCameraState", handle) != CameraState.IDLE:
        library.do("ArtemisAbortExposure", handle)
    for name in ("ArtemisEightBitMode", "ArtemisSetPreview", "ArtemisSetSubSample"):
        library.try_to(name, handle, False)
    if library.has_option(handle, OptionId.CUSTOM_GAIN):
        library.write_option(handle, OptionId.GAIN_OFFSET_PRESET, 0)
    for number, value in options.camera_options.items():
        if not library.has_option(handle, int(number)):
            raise DeviceError(f"this Atik camera has no option {number} (camera_options)")
        library.write_option(handle, int(number), value)


def describe(
    library: AtikLibrary, handle: Any, options: AtikOptions, serial: str, name: str
) -> Capabilities:
    """Return what the connected camera is and can do."""
    properties = Properties()
    library.do("ArtemisProperties", handle, ctypes.byref(properties))
    if properties.nPixelsX < 1 or properties.nPixelsY < 1:
        raise DeviceError(
            f"Atik camera {serial} reports {properties.nPixelsX} x {properties.nPixelsY} pixels"
        )
    readout = Region.full(properties.nPixelsX, properties.nPixelsY)
    highest = min(library.integers("ArtemisGetMaxBin", handle, 2))
    flags, _, _, most, _ = library.integers("ArtemisCoolingInfo", handle, 5)
    cooler = _cooler(library, options, CoolingFlag(flags))
    setpoint = Range(options.setpoint_min, options.setpoint_max)
    return Capabilities(
        model=name or properties.Description.decode("ascii", "replace") or "Atik",
        serial=serial,
        readout=readout,
        image_region=readout,
        exposure_s=Range(options.exposure_min, options.exposure_max),
        sdk_version=str(library.value("ArtemisAPIVersion")),
        firmware_version=str(properties.Protocol),
        gain=_option_range(library, handle, OptionId.CUSTOM_GAIN),
        offset=_option_range(library, handle, OptionId.CUSTOM_OFFSET),
        setpoint_c=setpoint if cooler == "setpoint" else None,
        cooler=cooler,
        pwm_max=most if cooler == "pwm" else 0,
        filters=_filters(library, handle, options),
        has_window=True,
        binnings=tuple(range(1, max(1, highest) + 1)) if options.device_binning else (1,),
    )


def _cooler(
    library: AtikLibrary, options: AtikOptions, flags: CoolingFlag
) -> Literal["none", "pwm", "setpoint"]:
    if CoolingFlag.HAS_COOLING not in flags or CoolingFlag.CONTROLLABLE not in flags:
        return "none"
    has_power = CoolingFlag.POWER_CONTROL in flags and library.has("ArtemisSetCoolingPower")
    wants_power = has_power and options.cooler_control == "power"
    if CoolingFlag.SETPOINT_CONTROL in flags and not wants_power:
        return "setpoint"
    return "pwm" if has_power else "none"


def _option_range(library: AtikLibrary, handle: Any, option: OptionId) -> Range | None:
    if not library.has_option(handle, option):
        return None
    low, high, _ = library.read_option(handle, option, 3)
    return Range(low, high)


def _filters(library: AtikLibrary, handle: Any, options: AtikOptions) -> tuple[str, ...]:
    names = options.filters
    if not names:
        return ()
    if not library.has("ArtemisFilterWheelInfo"):
        raise DeviceError("this Atik library knows no filter wheels; filters are configured")
    count = library.integers("ArtemisFilterWheelInfo", handle, 4)[0]
    if count < len(names):
        raise DeviceError(
            f"the Atik filter wheel has {count} places; {len(names)} filters are configured"
        )
    return tuple(names)
