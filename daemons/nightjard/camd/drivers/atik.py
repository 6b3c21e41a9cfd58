# SPDX-License-Identifier: BSD-3-Clause
"""An Atik camera through the vendor's libatikcameras.

Written after the SDK's public header and tested against a stand-in library only; it has never run
with a camera. docs/how-to/use-an-atik-camera.md lists what the header leaves open.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nightjar.clock import NS_PER_S, Clock
from nightjar.errors import (
    Cancelled,
    Code,
    DeviceError,
    DeviceLost,
    FrameInvalid,
    InvalidArgument,
    Refused,
)
from nightjard.camd.drivers.atik_camera import describe, find_camera, prepare
from nightjard.camd.drivers.atik_library import AtikLibrary, CameraState, OptionId
from nightjard.camd.drivers.base import (
    Capabilities,
    CardValue,
    FrameBuffer,
    FrameRecord,
    Phase,
    Progress,
    Range,
    Readout,
    Settings,
    Telemetry,
)
from nightjard.camd.drivers.limits import check_range
from nightjard.camd.drivers.options import AtikOptions
from nightjard.camd.geometry import Region, check_window

# An image cannot be ready before; one that is belongs to the exposure before.
_EARLY_NS = 50_000_000
# An exposure that has begun shows within this as a state other than IDLE.
_BEGIN_NS = NS_PER_S
_PART_BYTES = 8_000_000
_READING = (CameraState.READING, CameraState.DOWNLOADING)
_AT_WORK = (CameraState.WAITING, CameraState.EXPOSING, *_READING)


@dataclass(slots=True)
class _Exposure:
    length_ns: int
    asked_ns: int  # monotonic
    sent_ns: int | None = None  # monotonic; None while the camera still ends the one before
    start_ns: int = 0
    call_ns: int = 0  # how long the command took: the start is that uncertain


class AtikDetector:
    """An Atik camera; see :class:`nightjard.camd.drivers.base.Detector`.

    Parameters
    ----------
    options
        Where the library is, and what the camera does not tell of itself.
    serial
        Serial number of the camera wanted, as the library reports it.
    """

    def __init__(self, options: AtikOptions, serial: int | str, clock: Clock) -> None:
        self._options = options
        self._serial = str(serial).strip()
        self._clock = clock
        self._library: AtikLibrary | None = None
        self._handle: int | None = None
        self._capabilities: Capabilities | None = None
        self._settings: Settings | None = None
        self._readout: Readout | None = None
        self._exposure: _Exposure | None = None
        self._filter_target: int | None = None

    # --- connection -------------------------------------------------------------------------

    def open(self) -> Capabilities:
        """Load the library, find the camera by its serial, connect and describe it.

        Raises
        ------
        DeviceNotFound
            No library, or no such camera; the message lists the serials that are there.
        """
        self.close()
        if self._library is None:
            self._library = AtikLibrary(self._options.library)
        library = self._library
        index, serial, name = find_camera(library, self._options, self._serial)
        if library.has("ArtemisDeviceInUse") and library.value("ArtemisDeviceInUse", index):
            raise DeviceError(f"Atik camera {serial} is in use by another program")
        self._handle = library.value("ArtemisConnect", index)
        if not self._handle:
            self._handle = None
            raise DeviceError(f"Atik camera {serial} is there but refuses the connection")
        try:
            prepare(library, self._handle, self._options)
            self._capabilities = describe(library, self._handle, self._options, serial, name)
        except BaseException:
            self.close()
            raise
        return self._capabilities

    def close(self) -> None:
        """Abort what is in course and disconnect; harmless when not open."""
        library, handle, self._handle = self._library, self._handle, None
        was_exposing = self._exposure is not None
        self._exposure = self._readout = self._settings = None
        self._filter_target = None
        if library is not None and handle is not None:
            # The results do not matter: the camera may be gone, and the connection ends anyhow.
            if was_exposing:
                library.value("ArtemisAbortExposure", handle)
            library.value("ArtemisDisconnect", handle)

    # --- exposures --------------------------------------------------------------------------

    def configure(self, settings: Settings) -> Readout:
        """Set gain, offset, binning and window."""
        library, capabilities = self._check_open()
        if self._exposure is not None:
            raise DeviceError("cannot be configured during an exposure", code=Code.NOT_IDLE)
        if settings.stream:
            raise Refused("Atik cameras have no stream mode here", code=Code.UNSUPPORTED)
        check_range("exposure", settings.exposure_ns / NS_PER_S, capabilities.exposure_s)
        for name, value, limits, option in (
            ("gain", settings.gain, capabilities.gain, OptionId.CUSTOM_GAIN),
            ("offset", settings.offset, capabilities.offset, OptionId.CUSTOM_OFFSET),
        ):
            if value is not None:
                check_range(name, value, limits)
                library.write_option(self._handle, option, value)
        window = settings.window or capabilities.readout
        check_window(window, capabilities.readout, 1)
        is_summed = settings.binning_method == "sum" and settings.binning in capabilities.binnings
        binning = settings.binning if is_summed else 1
        # Unbinned first: whatever the present window, no binning is refused for it.
        library.do("ArtemisBin", self._handle, 1, 1)
        library.do(
            "ArtemisSubframe", self._handle,
            window.x1 - 1, window.y1 - 1, window.width, window.height,
        )  # fmt: skip
        library.do("ArtemisBin", self._handle, binning, binning)
        x, y, width, height = library.integers("ArtemisGetSubframe", self._handle, 4)
        region = Region(x + 1, x + width, y + 1, y + height)
        if not region.contains(window):
            raise DeviceError(f"the Atik camera takes window {region} where {window} was asked for")
        self._settings = settings
        self._readout = Readout(region, binning)
        return self._readout

    def start(self) -> None:
        """Start one exposure; after an abort it may begin later, when the camera is idle."""
        self._check_open()
        if self._settings is None:
            raise DeviceError("exposure started before configure()", code=Code.NOT_PERMITTED)
        if self._exposure is not None:
            raise DeviceError("an exposure is already in course", code=Code.NOT_IDLE)
        exposure = _Exposure(self._settings.exposure_ns, self._clock.monotonic_ns())
        self._begin(exposure)
        self._exposure = exposure

    def _begin(self, exposure: _Exposure) -> None:
        library, _ = self._check_open()
        if library.value("ArtemisCameraState", self._handle) != CameraState.IDLE:
            margin_s = self._options.exposure_margin
            if self._clock.monotonic_ns() - exposure.asked_ns > margin_s * NS_PER_S:
                self._exposure = None
                raise DeviceError(f"the Atik camera was not idle within {margin_s:g} s")
            return
        # In this order: held up in between, the error told of the start has that time in it.
        sent_ns, start_ns = self._clock.monotonic_ns(), self._clock.now_ns()
        library.do("ArtemisStartExposure", self._handle, exposure.length_ns / NS_PER_S)
        exposure.start_ns, exposure.sent_ns = start_ns, sent_ns
        exposure.call_ns = self._clock.monotonic_ns() - sent_ns

    def poll(self) -> Progress:
        """Look at the exposure.

        Raises
        ------
        DeviceError
            The camera reports an error, or the image did not come in time.
        """
        library, _ = self._check_open()
        exposure = self._exposure
        if exposure is None:
            return Progress(Phase.IDLE)
        if exposure.sent_ns is None:
            self._begin(exposure)
            return Progress(Phase.EXPOSING)
        elapsed_ns = self._clock.monotonic_ns() - exposure.sent_ns
        state = library.value("ArtemisCameraState", self._handle)
        # State before readiness: what is ready while the camera is at work is the last image.
        is_due = elapsed_ns >= exposure.length_ns - _EARLY_NS and state not in _AT_WORK
        if is_due and library.value("ArtemisImageReady", self._handle):
            return Progress(Phase.READY, exposure.length_ns)
        problem = None
        if state == CameraState.ERROR:
            problem = "reports an error"
        elif state == CameraState.IDLE and elapsed_ns - exposure.call_ns > _BEGIN_NS:
            problem = "became idle without an image"
        elif elapsed_ns - exposure.length_ns > self._options.exposure_margin * NS_PER_S:
            problem = f"had no image {self._options.exposure_margin:g} s after the exposure's end"
        if problem is not None:
            self._exposure = None
            self._check_connected(library)
            raise DeviceError(f"the Atik camera {problem}")
        if state in _READING or elapsed_ns >= exposure.length_ns:
            return Progress(Phase.READING, exposure.length_ns)
        return Progress(Phase.EXPOSING, elapsed_ns)

    def fetch(self, buffer: FrameBuffer, is_cancelled: Callable[[], bool]) -> FrameRecord:
        """Copy the image into the buffer.

        Raises
        ------
        FrameInvalid
            Of another size than asked for, absent, or all zero.
        """
        library, _ = self._check_open()
        exposure, readout = self._exposure, self._readout
        if (
            exposure is None or exposure.sent_ns is None or readout is None
            or not library.value("ArtemisImageReady", self._handle)
        ):  # fmt: skip
            raise DeviceError("no frame is ready", code=Code.NOT_PERMITTED)
        if buffer.array.shape != readout.shape:
            raise InvalidArgument(
                f"buffer of shape {buffer.array.shape} for a frame of {readout.shape}"
            )
        read_end_ns = self._clock.now_ns()
        self._exposure = None
        _, _, width, height, *bins = library.integers("ArtemisGetImageData", self._handle, 6)
        if (height, width) != readout.shape or bins != [readout.binning] * 2:
            raise FrameInvalid(
                f"the Atik image has {width} x {height} pixels binned {bins[0]} x {bins[1]}; "
                f"{readout.shape[1]} x {readout.shape[0]} binned {readout.binning} were asked for"
            )
        address = library.value("ArtemisImageBuffer", self._handle)
        if not address:
            raise FrameInvalid("the Atik library gives no image buffer")
        self._copy(address, buffer, is_cancelled)
        if not buffer.array.any():
            raise FrameInvalid("the Atik image is zero everywhere")
        cards: dict[str, tuple[CardValue, str]] = {}
        if library.has("ArtemisLastExposureDuration"):
            told_s = float(library.value("ArtemisLastExposureDuration", self._handle))
            cards["ATIKEXP"] = (round(told_s, 6), "[s] exposure as the camera's library tells it")
        return FrameRecord(
            start_ns=exposure.start_ns,
            end_ns=exposure.start_ns + exposure.length_ns,
            read_end_ns=read_end_ns,
            time_source="PC",
            time_error_ns=exposure.call_ns,
            cards=cards,
        )

    def _copy(self, address: int, buffer: FrameBuffer, is_cancelled: Callable[[], bool]) -> None:
        rows, columns = buffer.array.shape
        source = np.ctypeslib.as_array((ctypes.c_uint16 * (rows * columns)).from_address(address))
        pixels = source.reshape(rows, columns)
        step = max(1, _PART_BYTES // (2 * columns))
        for first in range(0, rows, step):
            if is_cancelled():
                raise Cancelled("copy of the image cancelled")
            buffer.array[first : first + step] = pixels[first : first + step]

    def abort(self) -> None:
        """End the exposure; its image will not be delivered."""
        library, _ = self._check_open()
        exposure, self._exposure = self._exposure, None
        if exposure is not None and exposure.sent_ns is not None:
            library.do("ArtemisAbortExposure", self._handle)

    # --- cooler, filters --------------------------------------------------------------------

    def telemetry(self) -> Telemetry:
        """Measure temperature, cooler and filter."""
        library, capabilities = self._check_open()
        self._check_connected(library)
        temperature = None
        sensors = ctypes.c_int()
        library.do("ArtemisTemperatureSensorInfo", self._handle, 0, ctypes.byref(sensors))
        if sensors.value > 0:
            hundredths = ctypes.c_int()
            library.do("ArtemisTemperatureSensorInfo", self._handle, 1, ctypes.byref(hundredths))
            temperature = hundredths.value / 100
        power = None
        if capabilities.cooler != "none":
            _, level, least, most, _ = library.integers("ArtemisCoolingInfo", self._handle, 5)
            power = min(1.0, max(0.0, (level - least) / (most - least))) if most > least else None
        state = library.value("ArtemisCameraState", self._handle)
        return Telemetry(
            temperature_c=temperature,
            cooler_power=power,
            filter=self._filter(library, capabilities),
            fault="camera reports an error" if state == CameraState.ERROR else None,
        )

    def set_cooler_power(self, pwm: int) -> None:
        """Set the power of a cooler that is controlled by power."""
        library, capabilities = self._check_open()
        if capabilities.cooler != "pwm":
            raise Refused("this Atik camera regulates its cooler itself", code=Code.UNSUPPORTED)
        check_range("cooler power", pwm, Range(0, capabilities.pwm_max))
        library.do("ArtemisSetCoolingPower", self._handle, pwm)

    def set_cooler_target(self, celsius: float | None) -> None:
        """Set the temperature; None starts the camera's own warm-up, which ends with cooler off."""
        library, capabilities = self._check_open()
        if capabilities.cooler != "setpoint":
            raise Refused("this Atik camera takes no cooler temperature", code=Code.UNSUPPORTED)
        if celsius is None:
            library.do("ArtemisCoolerWarmUp", self._handle)
            return
        check_range("cooler temperature", celsius, capabilities.setpoint_c)
        library.do("ArtemisSetCooling", self._handle, round(celsius * 100))

    def move_filter(self, name: str) -> None:
        """Send the wheel to the filter of that name; does not wait for it."""
        library, capabilities = self._check_open()
        if not capabilities.filters:
            raise Refused("this Atik camera has no filter wheel", code=Code.UNSUPPORTED)
        if name not in capabilities.filters:
            names = ", ".join(capabilities.filters)
            raise Refused(f"no filter {name!r}; there are {names}", code=Code.UNKNOWN_FILTER)
        target = capabilities.filters.index(name)
        library.do("ArtemisFilterWheelMove", self._handle, target)
        self._filter_target = target

    def _filter(self, library: AtikLibrary, capabilities: Capabilities) -> str | None:
        if not capabilities.filters:
            return None
        _, moving, position, _ = library.integers("ArtemisFilterWheelInfo", self._handle, 4)
        if moving or (self._filter_target is not None and position != self._filter_target):
            return None
        names = capabilities.filters
        return names[position] if 0 <= position < len(names) else None

    # --- inside -----------------------------------------------------------------------------

    def _check_open(self) -> tuple[AtikLibrary, Capabilities]:
        if self._library is None or self._handle is None or self._capabilities is None:
            raise DeviceError("the Atik camera is not open", code=Code.NOT_INITIALIZED)
        return self._library, self._capabilities

    def _check_connected(self, library: AtikLibrary) -> None:
        if not library.value("ArtemisIsConnected", self._handle):
            lost = "; the exposure in course is lost" if self._exposure is not None else ""
            self._exposure = None
            raise DeviceLost(f"Atik camera {self._serial} is not connected any more{lost}")
