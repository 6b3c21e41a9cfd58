# SPDX-License-Identifier: BSD-3-Clause
"""An Aravis camera as its settings: what it can do, what it is told, the stream it makes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.errors import Code, DeviceError, NightjarError, Refused
from nightjard.camd.drivers.base import Range
from nightjard.camd.drivers.limits import check_range
from nightjard.camd.fast import aravis_library as library
from nightjard.camd.fast.aravis_options import AravisOptions
from nightjard.camd.fast.source import (
    PixelType,
    SourceCapabilities,
    SourceGeometry,
    SourceSettings,
)
from nightjard.camd.geometry import Region, check_window

log = logging.getLogger(__name__)

SIGNIFICANT_BITS = {"Mono8": 8, "Mono10": 10, "Mono12": 12, "Mono14": 14, "Mono16": 16}
_RMEM_MAX = Path("/proc/sys/net/core/rmem_max")
_PAGE = 4096
_BUFFER_BYTES = 256_000_000
CLOSE_S = 0.4


class AravisCamera:
    """A camera under our control.

    Parameters
    ----------
    options
        Which camera and how.

    Raises
    ------
    DeviceNotFound, DeviceError, DeviceLost, Refused
        It cannot be had, or cannot do what is configured.
    """

    def __init__(self, options: AravisOptions) -> None:
        self._options = options
        self._aravis: Any = library.load()[0]
        self._camera: Any = library.open_camera(options)
        self.name = str(self._camera.get_device_id() or options.address or options.device)
        self.is_gv = bool(self._camera.is_gv_device())
        self.prober = library.Prober(self._camera)
        self.packet_size: int | None = None
        try:
            with library.device_call(f"opening camera {self.name}"):
                self._prepare()
                self.capabilities = self._ask_capabilities()
        except NightjarError:
            self.close()
            raise

    def close(self) -> None:
        """Let go of it."""
        parts, self._camera = [self._camera], None
        library.release(parts, CLOSE_S, first=[self.prober.end])

    # ---------------------------------------------------------------- opening

    def _prepare(self) -> None:
        camera, options = self._camera, self._options
        camera.stop_acquisition()  # of a program that died
        camera.set_acquisition_mode(self._aravis.AcquisitionMode.CONTINUOUS)
        for feature, value in options.features_at_open.items():
            with library.device_call(f"setting {feature} of camera {self.name} to {value!r}"):
                self._set_feature(feature, value)
        if camera.is_exposure_auto_available():
            camera.set_exposure_time_auto(self._aravis.Auto.OFF)
        if self.is_gv:
            self._prepare_network()
        source = options.trigger_source
        sources = list(camera.dup_available_trigger_sources())
        if source is not None and source not in sources:
            raise Refused(
                f"camera {self.name} has no trigger source {source}; it has "
                f"{', '.join(sources) or 'none'}", code=Code.UNSUPPORTED,
            )  # fmt: skip

    def _set_feature(self, feature: str, value: bool | int | float | str) -> None:
        aravis, camera = self._aravis, self._camera
        node = camera.get_device().get_feature(feature)
        if node is None:
            raise Refused(
                f"camera {self.name} has no feature {feature}; arv-tool-0.8 lists those it has",
                code=Code.UNSUPPORTED,
            )
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if isinstance(node, aravis.GcBoolean) and isinstance(value, bool):
            camera.set_boolean(feature, value)
        elif isinstance(node, aravis.GcEnumeration) and isinstance(value, str):
            camera.set_string(feature, value)
        elif isinstance(node, aravis.GcEnumeration | aravis.GcBoolean):
            raise Refused(f"{feature} takes no {value!r}: true, false or a name in quotes")
        elif isinstance(node, aravis.GcFloat) and is_number:
            camera.set_float(feature, float(value))
        elif isinstance(node, aravis.GcInteger) and isinstance(value, int) and is_number:
            camera.set_integer(feature, value)
        elif isinstance(node, aravis.GcString) and isinstance(value, str):
            camera.set_string(feature, value)
        else:
            raise Refused(f"{feature} takes no {value!r}: it is of another type")

    def _prepare_network(self) -> None:
        camera, options = self._camera, self._options
        is_loopback = camera.get_device().get_device_address().get_address().get_is_loopback()
        # On the loopback no packet comes through a packet socket.
        through_socket = options.packet_socket
        if through_socket is None:
            through_socket = not is_loopback
        kinds = self._aravis.GvStreamOption
        camera.gv_set_stream_options(
            kinds.NONE if through_socket else kinds.PACKET_SOCKET_DISABLED
        )
        if options.packet_size is None:
            camera.gv_auto_packet_size()
        else:
            camera.gv_set_packet_size(options.packet_size)
        self.packet_size = int(camera.gv_get_packet_size())
        if options.packet_delay_ns is not None:
            camera.gv_set_packet_delay(options.packet_delay_ns)
        try:
            allowed = int(_RMEM_MAX.read_text())
        except (OSError, ValueError):
            return
        if allowed < options.socket_buffer:
            log.warning(
                "the kernel allows socket buffers of %d bytes and %d are configured: frames may "
                "be incomplete at high rates; sysctl -w net.core.rmem_max=%d",
                allowed, options.socket_buffer, options.socket_buffer,
            )  # fmt: skip

    def _ask_capabilities(self) -> SourceCapabilities:
        camera = self._camera
        has_offset = camera.is_region_offset_available()
        self._least = camera.get_width_bounds()[0], camera.get_height_bounds()[0]
        self._steps = (
            camera.get_width_increment(), camera.get_height_increment(),
            camera.get_x_offset_increment() if has_offset else 0,
            camera.get_y_offset_increment() if has_offset else 0,
        )  # fmt: skip
        width, height = camera.get_sensor_size()
        width_max, height_max = self.number("WidthMax"), self.number("HeightMax")
        if width_max and height_max:  # less than the sensor where it is binned
            width, height = int(width_max), int(height_max)
        has_rate = camera.is_frame_rate_available()
        if has_rate:
            # Cameras tell the limits of the present settings. The slowest rate allows the longest
            # exposure; how fast the smallest region could be is told by no camera.
            slowest, fastest = camera.get_frame_rate_bounds()
            camera.set_frame_rate(slowest)
        low, high = camera.get_exposure_time_bounds()
        rates = Range(slowest, max(fastest, 1e6 / low)) if has_rate else None
        formats = self._formats()
        return SourceCapabilities(
            model=f"{camera.get_vendor_name()} {camera.get_model_name()}".strip(),
            serial=str(camera.get_device_serial_number() or ""),
            firmware_version=self._text("DeviceFirmwareVersion") or self._text("DeviceVersion"),
            sensor=(width, height),
            exposure_s=Range(low / 1e6, high / 1e6),
            readout_modes=formats,
            rate_hz=rates,
            has_external_trigger=self._options.trigger_source is not None,
            has_hardware_id=True,
            has_hardware_time=True,
            pixel_type=_pixel_type(formats[0]),
        )

    def _formats(self) -> tuple[str, ...]:
        """Return the pixel formats that can be used; the configured one, or the deepest, first."""
        there = list(self._camera.dup_available_pixel_formats_as_strings())
        usable = [one for one in reversed(SIGNIFICANT_BITS) if one in there]
        first = self._options.pixel_format or (usable[0] if usable else None)
        if first not in usable:
            raise Refused(
                f"camera {self.name} has no pixel format {first or 'of Mono8 to Mono16'}; of its "
                f"{', '.join(there)} these can be used: {', '.join(usable) or 'none'}",
                code=Code.UNSUPPORTED,
            )
        return (first, *(one for one in usable if one != first))

    def _text(self, feature: str) -> str:
        if not self._camera.is_feature_available(feature):
            return ""
        return str(self._camera.get_string(feature) or "")

    def number(self, feature: str) -> float | None:
        """Return a number that the camera measures; None where it does not."""
        if not self._camera.is_feature_available(feature):
            return None
        node = self._camera.get_device().get_feature(feature)
        if isinstance(node, self._aravis.GcFloat):
            return float(self._camera.get_float(feature))
        return float(self._camera.get_integer(feature))

    # ---------------------------------------------------------------- settings

    def check(self, settings: SourceSettings) -> None:
        """Refuse what the camera does not take: not every camera says so by itself."""
        able, region = self.capabilities, settings.region
        check_window(region, Region.full(*able.sensor), 1)
        sizes = (region.width, region.height)
        names = ("width", "height", "x offset", "y offset")
        places = (*sizes, region.x1 - 1, region.y1 - 1)
        for name, value, step in zip(names, places, self._steps, strict=True):
            if value % step if step else value:
                takes = f"multiples of {step}" if step else "only 0"
                raise Refused(
                    f"{name} {value} of region {region}: camera {self.name} takes {takes}",
                    code=Code.OUT_OF_RANGE, step=step,
                )  # fmt: skip
        for name, value, least in zip(names, sizes, self._least, strict=False):
            check_range(f"{name} of region {region}", value, Range(least, max(able.sensor)))
        if settings.readout_mode not in able.readout_modes:
            raise Refused(
                f"no read-out mode {settings.readout_mode!r}; there are: "
                f"{', '.join(able.readout_modes)}", code=Code.UNSUPPORTED,
            )  # fmt: skip
        check_range("exposure", settings.exposure_s, able.exposure_s)
        if settings.external_trigger and not able.has_external_trigger:
            raise Refused(
                "the configuration names no trigger_source for this camera", code=Code.UNSUPPORTED
            )
        if settings.rate_hz is not None and not settings.external_trigger:
            check_range("rate", settings.rate_hz, able.rate_hz)

    def apply(self, settings: SourceSettings, *, is_streaming: bool) -> SourceGeometry:
        """Set what was checked (while streaming exposure and rate only); return what it took."""
        camera, asked = self._camera, settings.region
        if not is_streaming:
            camera.set_pixel_format_from_string(settings.readout_mode)
            camera.set_region(asked.x1 - 1, asked.y1 - 1, asked.width, asked.height)
        x, y, width, height = camera.get_region()
        highest = self._set_times(settings, is_streaming=is_streaming)
        if settings.external_trigger and not is_streaming:
            camera.set_trigger(self._options.trigger_source)
            if camera.is_feature_available("TriggerActivation"):
                camera.set_string("TriggerActivation", self._options.trigger_activation)
        return SourceGeometry(
            shape=(height, width),
            region=Region(x + 1, x + width, y + 1, y + height),
            exposure_s=camera.get_exposure_time() / 1e6,
            max_rate_hz=highest,
            rate_hz=min(highest, settings.rate_hz or highest),
            pixel_type=_pixel_type(settings.readout_mode),
            readout_s=(self.number("SensorReadoutTime") or 0.0) / 1e6,
        )

    def _set_times(self, settings: SourceSettings, *, is_streaming: bool) -> float:
        """Set exposure and rate; return the highest rate that the exposure allows."""
        camera, rates = self._camera, self.capabilities.rate_hz
        highest = 1 / settings.exposure_s
        if rates is not None:
            highest = min(highest, rates.high)
        # The library switches triggers off when it sets a rate, and the rate off when it sets a
        # trigger; so a trigger is set last, and while it is waited for no rate is.
        is_free = not settings.external_trigger
        if rates is None or (is_streaming and not is_free):
            camera.set_exposure_time(settings.exposure_s * 1e6)
            return highest
        if settings.exposure_s * camera.get_frame_rate() > 1:
            camera.set_frame_rate(rates.low)  # some refuse an exposure above the period
        camera.set_exposure_time(settings.exposure_s * 1e6)
        highest = max(rates.low, min(highest, camera.get_frame_rate_bounds()[1]))
        camera.set_frame_rate(min(highest, settings.rate_hz or highest) if is_free else highest)
        return float(highest)

    # ---------------------------------------------------------------- streaming

    def make_memory(self, present: dict[Any, NDArray[np.uint8]]) -> dict[Any, NDArray[np.uint8]]:
        """Return buffers of the library and the memory of each; the present ones where they fit."""
        size = self._camera.get_payload()
        count = self._options.buffers or min(64, max(8, _BUFFER_BYTES // size))
        if [len(memory) for memory in present.values()] == [size] * count:
            return present
        made = {}
        for _ in range(count):
            memory = np.zeros(size, np.uint8)
            memory[::_PAGE] = 1  # all pages exist now: no frame must wait for one
            made[self._aravis.Buffer.new_full(size, memory.ctypes.data, None, None)] = memory
        return made

    def make_stream(self) -> Any:
        """Return a new stream of the library."""
        stream = self._camera.create_stream(None, None)
        if stream is None:
            raise DeviceError(f"camera {self.name} makes no stream")
        if self.is_gv:
            aravis, resend = self._aravis, self._aravis.GvStreamPacketResend
            # Without a buffer of fixed size most frames are incomplete. The library sets it when
            # the first frame has begun to arrive, which is too late for that one.
            stream.set_property("socket-buffer", aravis.GvStreamSocketBuffer.FIXED)
            stream.set_property("socket-buffer-size", self._options.socket_buffer)
            library.set_receive_buffer(stream.get_port(), self._options.socket_buffer)
            kind = resend.ALWAYS if self._options.packet_resend else resend.NEVER
            stream.set_property("packet-resend", kind)
        return stream

    def start(self) -> None:
        """Begin to send frames."""
        with library.device_call(f"starting camera {self.name}"):
            self._camera.start_acquisition()

    def stopper(self) -> Callable[[], None]:
        """Return what makes it send no frames any more; it may be called after :meth:`close`."""
        camera, name = self._camera, self.name

        def stop() -> None:
            with library.device_call(f"stopping camera {name}"):
                camera.stop_acquisition()

        return stop

    def send_trigger(self) -> None:
        """Trigger one frame by command, where ``trigger_source`` is Software."""
        with library.device_call(f"triggering camera {self.name}"):
            self._camera.software_trigger()


def _pixel_type(pixel_format: str) -> PixelType:
    return "uint8" if SIGNIFICANT_BITS[pixel_format] == 8 else "uint16"
