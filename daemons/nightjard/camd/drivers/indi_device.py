# SPDX-License-Identifier: BSD-3-Clause
"""Opening an INDI camera and setting its properties: what is asked, confirmed and refused.

Property names: "INDI Standard Properties", section CCD. Where drivers differ in a name (gain,
compression), the known ones are tried in turn.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Literal

from nightjar.errors import DeviceError, DeviceNotFound, TimedOut
from nightjar.indi.client import IndiClient, Vector
from nightjard.camd.drivers.base import Capabilities, Range, Settings
from nightjard.camd.drivers.options import IndiOptions, IndiProperty
from nightjard.camd.geometry import Region

# (vector, member) by which drivers name the settings, most common first.
GAIN_NAMES = (("CCD_GAIN", "GAIN"), ("CCD_CONTROLS", "Gain"))
OFFSET_NAMES = (("CCD_OFFSET", "OFFSET"), ("CCD_CONTROLS", "Offset"))
# Switches that are set so that images come as plain FITS to this client. libindi 1 names the
# first CCD_COMPRESSION; older drivers and newer ones name its members differently.
_IMAGE_SWITCHES = (
    ("CCD_COMPRESSION", ("INDI_DISABLED", "CCD_RAW")),
    ("CCD_TRANSFER_FORMAT", ("FORMAT_FITS",)),
    ("CCD_VIDEO_STREAM", ("STREAM_OFF",)),
    ("CCD_FAST_TOGGLE", ("INDI_DISABLED",)),
)
# Numbers cross as decimal text and are kept as float32 by some drivers.
_RELATIVE_TOLERANCE = 1e-6


class IndiDevice:
    """The camera, and the wheel where there is one, on an open connection."""

    def __init__(self, client: IndiClient, options: IndiOptions) -> None:
        self.client = client
        self.options = options
        self.name = options.device

    # --- asking and setting -----------------------------------------------------------------

    def find(self, vector: str, device: str | None = None) -> Vector | None:
        """Return a property of the camera, None where it has none of that name."""
        return self.client.find(device or self.name, vector)

    def require(self, vector: str, device: str | None = None) -> Vector:
        """Return a property that must be there."""
        found = self.find(vector, device)
        if found is None:
            raise DeviceError(f"INDI device {device or self.name} has no property {vector}")
        return found

    def named(self, names: tuple[tuple[str, str], ...]) -> tuple[Vector, str] | None:
        """Return the first of several (vector, member) that the camera has."""
        for vector, member in names:
            found = self.find(vector)
            if found is not None and member in found.members:
                return found, member
        return None

    def command(
        self, vector: Vector, members: Mapping[str, str | float | bool], deadline: float
    ) -> Vector:
        """Send values and wait until the device has answered, whatever it made of them.

        Parameters
        ----------
        deadline
            Of ``time.monotonic()``: one for all commands of a call.

        Raises
        ------
        DeviceError
            Refused, or no answer in time.
        """
        revision = self.client.set(vector, members)

        def answer() -> Vector | None:
            found = self.client.find(vector.device, vector.name)
            return found if found is not None and found.revision > revision else None

        return self._confirmed(answer, vector, deadline)

    def apply(
        self, vector: Vector, members: Mapping[str, str | float | bool], deadline: float
    ) -> Vector:
        """Send values and wait until the device reports them; nothing to do where it has them.

        Returns
        -------
        The property as reported: a device may choose other values than asked for.
        """
        if _has(vector, members) and vector.state != "Alert":
            return vector
        revision = self.client.set(vector, members)

        def answer() -> Vector | None:
            found = self.client.find(vector.device, vector.name)
            if found is None or found.revision <= revision:
                return None
            # Some report the old values first ("Idle"), then the new ones ("Ok").
            is_settled = _has(found, members) and found.state != "Busy"
            return found if is_settled or found.state in ("Ok", "Alert") else None

        return self._confirmed(answer, vector, deadline)

    def _confirmed(
        self, answer: Callable[[], Vector | None], vector: Vector, deadline: float
    ) -> Vector:
        left = max(0.0, deadline - time.monotonic())
        try:
            found = self.client.wait(answer, left, f"answer about {vector.name}")
        except TimedOut as error:
            raise DeviceError(
                f"INDI device {vector.device} did not confirm {vector.name} in time; "
                f"{self.said(vector.device)}"
            ) from error
        if found.state == "Alert":
            raise DeviceError(
                f"INDI device {vector.device} refused {vector.name}; {self.said(vector.device)}"
            )
        return found

    def said(self, device: str | None = None) -> str:
        """Return the device's last message as part of a sentence."""
        message = self.client.last_message(device or self.name)
        return f"it said {message!r}" if message else "it said nothing about it"

    # --- opening ----------------------------------------------------------------------------

    def open(self) -> bool:
        """Connect camera and wheel, apply the configured properties, put all in a known state.

        Returns
        -------
        True when an exposure had been left behind whose image may still come.

        Raises
        ------
        DeviceNotFound
            No such device on that server; the message names those that are there.
        DeviceError
            It does not connect, refuses a property, or is not a camera.
        """
        deadline = time.monotonic() + self.options.connect_timeout
        self._appear(self.name, deadline)
        waiting = self._set_configured(self.options.properties_at_open, deadline)
        self._connect(self.name, deadline)
        self._wait_for("CCD_INFO", self.name, deadline)
        self._wait_for("CCD_EXPOSURE", self.name, deadline)
        self._wait_for(self.options.blob, self.name, deadline)
        if self.options.filter_wheel is not None:
            self._appear(self.options.filter_wheel, deadline)
            self._connect(self.options.filter_wheel, deadline)
            self._wait_for("FILTER_SLOT", self.options.filter_wheel, deadline)
        for item in self._set_configured(waiting, deadline):
            raise DeviceError(
                f"INDI device {item.device or self.name} has no property {item.vector}, which "
                "properties_at_open names"
            )
        may_image_come = self._end_exposure(deadline)
        self._reset(deadline)
        return may_image_come

    def _appear(self, device: str, deadline: float) -> None:
        left = max(0.0, deadline - time.monotonic())
        try:
            self.client.wait(
                lambda: self.client.find(device, "CONNECTION"), left, f"device {device}"
            )
        except TimedOut as error:
            others = ", ".join(repr(name) for name in self.client.devices()) or "none at all"
            raise DeviceNotFound(
                f"INDI server at {self.client.address} has no device {device!r}; it has {others}"
            ) from error

    def _wait_for(self, vector: str, device: str, deadline: float) -> None:
        left = max(0.0, deadline - time.monotonic())
        try:
            self.client.wait(lambda: self.client.find(device, vector), left, vector)
        except TimedOut as error:
            raise DeviceError(
                f"INDI device {device} has no property {vector} after connecting; is it the "
                f"right device? {self.said(device)}"
            ) from error

    def _connect(self, device: str, deadline: float) -> None:
        connection = self.require("CONNECTION", device)
        if connection.is_on("CONNECT") and connection.state != "Busy":
            return
        reported = self.apply(connection, {"CONNECT": True}, deadline)
        if not reported.is_on("CONNECT"):
            raise DeviceError(f"INDI device {device} does not connect; {self.said(device)}")

    def _set_configured(self, items: list[IndiProperty], deadline: float) -> list[IndiProperty]:
        """Set what is defined; return what is not, for after the connection."""
        waiting = []
        for item in items:
            vector = self.find(item.vector, item.device)
            if vector is None:
                waiting.append(item)
                continue
            unknown = sorted(set(item.members) - set(vector.members))
            if unknown:
                raise DeviceError(
                    f"property {item.vector} of INDI device {vector.device} has no member "
                    f"{unknown[0]!r}; it has {', '.join(vector.members)}"
                )
            self.apply(vector, item.members, deadline)
        return waiting

    def _end_exposure(self, deadline: float) -> bool:
        """End what a client that died has left; tell whether its image may still come."""
        exposure = self.require("CCD_EXPOSURE")
        if exposure.state != "Busy":
            return False
        self.command(self.require("CCD_ABORT_EXPOSURE"), {"ABORT": True}, deadline)
        # Drivers tell the time left about once a second.
        return not exposure.number("CCD_EXPOSURE_VALUE") > 3.0

    def _reset(self, deadline: float) -> None:
        for name, members in _IMAGE_SWITCHES:
            vector = self.find(name)
            for member in members:
                if vector is not None and member in vector.members:
                    self.apply(vector, {member: True}, deadline)
        upload = self.find("UPLOAD_MODE")
        if upload is not None:
            self.apply(upload, {f"UPLOAD_{self.options.upload_mode.upper()}": True}, deadline)
        # The drivers answer in order: with this, all that the above set off has been told.
        self.client.refresh(self.name, "CCD_INFO", max(0.1, deadline - time.monotonic()))

    # --- what it is -------------------------------------------------------------------------

    def capabilities(self) -> Capabilities:
        """Return what the open camera says of itself."""
        info = self.require("CCD_INFO")
        width, height = info.number("CCD_MAX_X"), info.number("CCD_MAX_Y")
        if not (width >= 1 and height >= 1):  # also when nan
            raise DeviceError(
                f"INDI device {self.name} reports a sensor of {width:g} x {height:g} pixels"
            )
        readout = Region.full(int(width), int(height))
        frame = self.find("CCD_FRAME")
        driver = self.find("DRIVER_INFO")
        texts = {} if driver is None else {name: str(m.value) for name, m in driver.members.items()}
        target = self.find("CCD_TEMPERATURE")
        cooler: Literal["none", "setpoint"] = "none"
        setpoint = None
        if target is not None and target.is_writable:
            cooler, setpoint = "setpoint", _limits(target, "CCD_TEMPERATURE_VALUE")
        exposure = _limits(self.require("CCD_EXPOSURE"), "CCD_EXPOSURE_VALUE")
        return Capabilities(
            model=self.name,
            serial=self.serial(),
            readout=readout,
            image_region=readout,
            exposure_s=exposure or Range(0.0, 86_400.0),
            sdk_version=f"{texts.get('DRIVER_EXEC', 'INDI')} {texts.get('DRIVER_VERSION', '')}",
            gain=self._named_limits(GAIN_NAMES),
            offset=self._named_limits(OFFSET_NAMES),
            setpoint_c=setpoint,
            cooler=cooler,
            filters=tuple(self.filters()),
            has_window=frame is not None and frame.is_writable,
            binnings=self._binnings(),
        )

    def serial(self) -> str:
        """Return the serial number that the driver reports, "" for most."""
        for vector in self.client.vectors(self.name):
            for name, member in vector.members.items():
                if vector.kind == "Text" and "SERIAL" in f"{vector.name} {name}".upper():
                    return str(member.value)
        return ""

    def filters(self) -> list[str]:
        """Return the names in the wheel by slot; empty without a wheel."""
        wheel = self.options.filter_wheel
        if wheel is None:
            return []
        slots = _limits(self.require("FILTER_SLOT", wheel), "FILTER_SLOT_VALUE")
        names = self.find("FILTER_NAME", wheel)
        result: list[str] = []
        for slot in range(1, int(slots.high if slots else 0) + 1):
            member = names.members.get(f"FILTER_SLOT_NAME_{slot}") if names else None
            name = str(member.value) if member is not None and member.value else f"slot {slot}"
            # Two slots of one name could not be told apart by it.
            result.append(name if name not in result else f"{name} ({slot})")
        return result

    def _named_limits(self, names: tuple[tuple[str, str], ...]) -> Range | None:
        found = self.named(names)
        return None if found is None else _limits(*found)

    def _binnings(self) -> tuple[int, ...]:
        vector = self.find("CCD_BINNING")
        if vector is None or not vector.is_writable or not self.options.device_binning:
            return (1,)
        limits = [_limits(vector, name) for name in ("HOR_BIN", "VER_BIN")]
        highest = min((int(limit.high) for limit in limits if limit is not None), default=1)
        return tuple(range(1, max(1, highest) + 1))

    # --- settings of an exposure ------------------------------------------------------------

    def configure(self, settings: Settings, binning: int, readout: Region) -> Region:
        """Set gain, offset, binning and window; return the region that will arrive."""
        deadline = time.monotonic() + self.options.reply_timeout
        for value, names in ((settings.gain, GAIN_NAMES), (settings.offset, OFFSET_NAMES)):
            found = self.named(names)
            if value is not None and found is not None:
                self.apply(found[0], {found[1]: float(value)}, deadline)
        frame = self.find("CCD_FRAME")
        if frame is None or not frame.is_writable:
            self._set_binning(binning, deadline)
            return readout
        # Drivers check a binning against the present window, and the reverse: unbinned all fit.
        bins = self.find("CCD_BINNING")
        if bins is not None and round(bins.number("HOR_BIN")) != binning:
            self._set_binning(1, deadline)
        wanted = settings.window or readout
        members = {
            "X": float(wanted.x1 - 1), "Y": float(wanted.y1 - 1),
            "WIDTH": float(wanted.width), "HEIGHT": float(wanted.height),
        }  # fmt: skip
        self.apply(frame, members, deadline)
        self._set_binning(binning, deadline)
        # Some reset the window when the binning changes; no traffic where it is as wanted.
        return self._region(self.apply(self.require("CCD_FRAME"), members, deadline), wanted)

    def _set_binning(self, binning: int, deadline: float) -> None:
        bins = self.find("CCD_BINNING")
        if bins is None or not bins.is_writable:
            return
        value = float(binning)
        reported = self.apply(bins, {"HOR_BIN": value, "VER_BIN": value}, deadline)
        if not _has(reported, {"HOR_BIN": value, "VER_BIN": value}):
            raise DeviceError(f"INDI device {self.name} does not take binning {binning}")

    def _region(self, frame: Vector, wanted: Region) -> Region:
        numbers = [frame.number(name) for name in ("X", "Y", "WIDTH", "HEIGHT")]
        if any(math.isnan(number) for number in numbers):
            raise DeviceError(f"INDI device {self.name} reports a window of {numbers}")
        x, y, width, height = (round(number) for number in numbers)
        region = Region(x + 1, x + width, y + 1, y + height)
        if not region.contains(wanted):
            raise DeviceError(
                f"INDI device {self.name} takes window {region} where {wanted} was asked for"
            )
        return region


def _has(vector: Vector, members: Mapping[str, str | float | bool]) -> bool:
    for name, wanted in members.items():
        found = vector.members.get(name)
        if found is None:
            return False
        value = found.value
        if isinstance(wanted, bool) or isinstance(wanted, str) or not isinstance(value, float):
            if value != wanted:
                return False
        elif not math.isclose(value, wanted, rel_tol=_RELATIVE_TOLERANCE, abs_tol=1e-9):
            return False
    return True


def _limits(vector: Vector, member: str) -> Range | None:
    """Return the limits of a number; None where the driver gives none (both alike)."""
    found = vector.members.get(member)
    return None if found is None or found.high <= found.low else Range(found.low, found.high)
