# SPDX-License-Identifier: BSD-3-Clause
"""Any CCD behind an INDI server.

Which image belongs to which exposure: :mod:`nightjard.camd.drivers.indi_exposure`. Besides, its
size and EXPTIME must be those asked for.

Times are those of this machine's clock at the command, uncertain by the time in which the device
confirmed it; DATE-OBS of the image goes into card INDIDATE for comparison.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

from nightjar.clock import NS_PER_S, Clock
from nightjar.errors import (
    Code,
    DeviceError,
    DeviceLost,
    DeviceNotFound,
    InvalidArgument,
    Refused,
)
from nightjar.indi import protocol
from nightjar.indi.client import IndiClient, Vector
from nightjard.camd.drivers.base import (
    Capabilities,
    CardValue,
    FrameBuffer,
    FrameRecord,
    Phase,
    Progress,
    Readout,
    Settings,
    Telemetry,
)  # fmt: skip
from nightjard.camd.drivers.indi_device import IndiDevice
from nightjard.camd.drivers.indi_exposure import Exposure, ExposureTracker
from nightjard.camd.drivers.indi_image import check_image, copy_pixels
from nightjard.camd.drivers.limits import check_range
from nightjard.camd.drivers.options import IndiOptions
from nightjard.camd.geometry import check_window

_LOG = logging.getLogger(__name__)
# After so long without a byte the server is asked something.
_QUIET_NS = 2 * NS_PER_S
# Such an image, 16 bits in base64, is more than the 128 MB by which a client may be behind before
# indiserver ends it, unless its option -m says otherwise.
_LARGE_PIXELS = 128_000_000 // 8 * 3


class IndiDetector:
    """A CCD behind an INDI server; see :class:`nightjard.camd.drivers.base.Detector`.

    Parameters
    ----------
    options
        Where the server is, and the device's name.
    serial
        Checked only where the INDI driver reports a serial number.
    """

    def __init__(self, options: IndiOptions, serial: int | str, clock: Clock) -> None:
        self._options = options
        self._serial = str(serial)
        self._clock = clock
        self._client: IndiClient | None = None
        self._device: IndiDevice | None = None
        self._capabilities: Capabilities | None = None
        self._settings: Settings | None = None
        self._readout: Readout | None = None
        self._tracker = ExposureTracker(clock, options.device, options.blob)
        self._question_ns: int | None = None
        self._wheel_revision = -1

    def open(self) -> Capabilities:
        """Connect to server and device; see :meth:`IndiDevice.open`."""
        self.close()
        options = self._options
        tracker = self._tracker
        client = IndiClient(
            options.host, options.port, self._clock, tracker.take_blob, tracker.take_vector
        )
        device = IndiDevice(client, options)
        try:
            client.connect(options.connect_timeout)
            may_image_come = device.open()
            tracker.reset(may_image_come or tracker.may_image_come())
            capabilities = device.capabilities()
            if capabilities.serial and self._serial not in ("", "0", capabilities.serial):
                raise DeviceNotFound(
                    f"INDI device {options.device} has serial {capabilities.serial}, not "
                    f"{self._serial}"
                )
            client.send(protocol.enable_blob(options.device, options.blob))
        except BaseException:
            client.close()
            raise
        self._client, self._device, self._capabilities = client, device, capabilities
        return capabilities

    def close(self) -> None:
        """Abort what is in course and close the connection; the device stays connected."""
        client, self._client, self._device = self._client, None, None
        may_image_come = self._tracker.may_image_come() or self._tracker.is_near_end()
        if client is not None:
            try:
                if client.failure is None and self._tracker.abort():
                    self._send_abort(client)
            except DeviceError as error:
                _LOG.warning("the exposure could not be aborted: %s", error.message)
            finally:
                client.close()
        self._tracker.reset(may_image_come)
        self._question_ns = None
        self._readout = self._settings = None

    def configure(self, settings: Settings) -> Readout:
        """Set gain, offset, binning and window, and wait for the device to confirm them."""
        device, capabilities = self._check_open()
        if self._tracker.current is not None:
            raise DeviceError("cannot be configured during an exposure", code=Code.NOT_IDLE)
        if settings.stream:
            raise Refused("INDI cameras have no stream mode here", code=Code.UNSUPPORTED)
        check_range("exposure", settings.exposure_ns / NS_PER_S, capabilities.exposure_s)
        for name, value, limits in (
            ("gain", settings.gain, capabilities.gain),
            ("offset", settings.offset, capabilities.offset),
        ):
            if value is not None:
                check_range(name, value, limits)
        is_summed = settings.binning_method == "sum" and settings.binning in capabilities.binnings
        binning = settings.binning if is_summed else 1
        if settings.window is not None:
            check_window(settings.window, capabilities.readout, 1)
        region = device.configure(settings, binning, capabilities.readout)
        self._settings = settings
        self._readout = Readout(region, binning)
        return self._readout

    def start(self) -> None:
        """Start one exposure; after an abort it may begin later, when no old image can come."""
        self._check_open()
        if self._settings is None:
            raise DeviceError("exposure started before configure()", code=Code.NOT_PERMITTED)
        if self._tracker.current is not None:
            raise DeviceError("an exposure is already in course", code=Code.NOT_IDLE)
        self._begin(self._tracker.new(self._settings.exposure_ns))

    def poll(self) -> Progress:
        """Look at the exposure.

        Raises
        ------
        DeviceError
            The device has ended it with an error, or its image did not come in time.
        """
        exposure = self._tracker.current
        if exposure is not None and exposure.blob is not None:
            # Whole, and thus good, even when the server is gone meanwhile.
            return Progress(Phase.READY, exposure.length_ns)
        self._check_open()
        if exposure is None:
            return Progress(Phase.IDLE)
        if exposure.sent_ns is None:
            self._begin(exposure)
            return Progress(Phase.EXPOSING)
        elapsed_ns = self._clock.monotonic_ns() - exposure.sent_ns
        self._check_exposure(exposure, elapsed_ns)
        if elapsed_ns < exposure.length_ns:
            return Progress(Phase.EXPOSING, elapsed_ns)
        return Progress(Phase.READING, exposure.length_ns)

    def fetch(self, buffer: FrameBuffer, is_cancelled: Callable[[], bool]) -> FrameRecord:
        """Copy the image into the buffer.

        Raises
        ------
        FrameInvalid
            Damaged, of another size or exposure time than asked for, or not plain FITS.
        """
        exposure, readout = self._tracker.current, self._readout
        if exposure is None or exposure.blob is None or readout is None:
            raise DeviceError("no frame is ready", code=Code.NOT_PERMITTED)
        if buffer.array.shape != readout.shape:
            raise InvalidArgument(
                f"buffer of shape {buffer.array.shape} for a frame of {readout.shape}"
            )
        blob = exposure.blob
        self._tracker.end()
        image = check_image(blob, exposure.length_ns / NS_PER_S, readout)
        copy_pixels(blob.data, image, buffer.array, is_cancelled)
        if self._client is not None:
            self._client.give_back(blob.data)
        assert exposure.sent_ns is not None
        cards: dict[str, tuple[CardValue, str]] = {
            "INDIDATE": (_text(image.header.get("DATE-OBS")), "[UTC] DATE-OBS by the INDI driver"),
            "INDISRV": (f"{self._options.host}:{self._options.port}", "INDI server"),
        }
        confirmed_ns = exposure.confirmed_ns
        return FrameRecord(
            start_ns=exposure.start_ns,
            end_ns=exposure.start_ns + exposure.length_ns,
            read_end_ns=exposure.read_end_ns,
            time_source="PC",
            time_error_ns=None if confirmed_ns is None else confirmed_ns - exposure.sent_ns,
            cards=cards,
        )

    def abort(self) -> None:
        """End the exposure; returns at once, and its image will be dropped if it comes."""
        client = self._client
        if client is None:
            raise DeviceError("the INDI camera is not open", code=Code.NOT_INITIALIZED)
        # Where the connection is gone, so is the exposure, which the next call reports.
        if self._tracker.abort() and client.failure is None:
            self._send_abort(client)

    def telemetry(self) -> Telemetry:
        """Return temperature, cooler and filter as the device last reported them."""
        device, _ = self._check_open()
        temperature = device.find("CCD_TEMPERATURE")
        power = device.find("CCD_COOLER_POWER")
        humidity = device.find("CCD_HUMIDITY")
        name, fault = self._filter(device)
        if temperature is not None and temperature.state == "Alert":
            fault = f"cooler: {device.said()}"
        percent = _number(power, "CCD_COOLER_VALUE")
        return Telemetry(
            temperature_c=_number(temperature, "CCD_TEMPERATURE_VALUE"),
            cooler_power=None if percent is None else percent / 100,
            humidity_percent=_number(humidity, "HUMIDITY"),
            filter=name,
            fault=fault,
        )

    def set_cooler_power(self, pwm: int) -> None:
        """Refused: INDI coolers regulate by themselves."""
        raise Refused("INDI cameras regulate their cooler themselves", code=Code.UNSUPPORTED)

    def set_cooler_target(self, celsius: float | None) -> None:
        """Set the temperature; None switches the cooler off where that is possible.

        A cooler without a switch is set to its warmest temperature, 20 degrees at most.
        """
        device, capabilities = self._check_open()
        limits = capabilities.setpoint_c
        if capabilities.cooler == "none":
            raise Refused(f"INDI device {device.name} has no cooler", code=Code.UNSUPPORTED)
        deadline = self._deadline()
        switch = device.find("CCD_COOLER")
        target = device.require("CCD_TEMPERATURE")
        if celsius is None and switch is not None:
            device.command(switch, {"COOLER_OFF": True}, deadline)
            return
        if celsius is None:
            celsius = min(20.0, limits.high if limits else 20.0)
        elif limits is not None:
            check_range("cooler temperature", celsius, limits)
        if switch is not None and not switch.is_on("COOLER_ON"):
            device.command(switch, {"COOLER_ON": True}, deadline)
        device.command(target, {"CCD_TEMPERATURE_VALUE": float(celsius)}, deadline)

    def move_filter(self, name: str) -> None:
        """Send the wheel to the filter of that name; does not wait for it."""
        device, capabilities = self._check_open()
        if not capabilities.filters:
            raise Refused("this INDI camera has no filter wheel", code=Code.UNSUPPORTED)
        if name not in capabilities.filters:
            names = ", ".join(capabilities.filters)
            raise Refused(f"no filter {name!r}; there are {names}", code=Code.UNKNOWN_FILTER)
        slot = device.require("FILTER_SLOT", self._options.filter_wheel)
        value = float(capabilities.filters.index(name) + 1)
        self._wheel_revision = device.client.set(slot, {"FILTER_SLOT_VALUE": value})

    # --- inside -----------------------------------------------------------------------------

    def _deadline(self) -> float:
        return time.monotonic() + self._options.reply_timeout

    def _check_open(self) -> tuple[IndiDevice, Capabilities]:
        """Return the open device, or raise: never opened, or lost with the exposure in course."""
        client, device, capabilities = self._client, self._device, self._capabilities
        if client is None or device is None or capabilities is None:
            raise DeviceError("the INDI camera is not open", code=Code.NOT_INITIALIZED)
        reason = self._reason_of_loss(client, device)
        if reason is None:
            return device, capabilities
        lost = "; the exposure in course is lost" if self._tracker.end() is not None else ""
        rows, columns = self._readout.shape if lost and self._readout else (0, 0)
        if rows * columns > _LARGE_PIXELS:
            lost += "; frames of this size need indiserver -m 1000"
        raise DeviceLost(f"INDI server at {client.address}: {reason}{lost}")

    def _reason_of_loss(self, client: IndiClient, device: IndiDevice) -> str | None:
        if client.failure is not None:
            return client.failure
        if client.was_removed(device.name):
            return f"withdrew device {device.name}; its driver has ended"
        connection = device.find("CONNECTION")
        if connection is not None and not connection.is_on("CONNECT"):
            return f"device {device.name} was disconnected by another client"
        # Now and then a question, since a stopped server keeps its connections.
        now_ns = self._clock.monotonic_ns()
        if self._question_ns is None:
            if now_ns - client.received_ns > _QUIET_NS:
                self._question_ns = now_ns
                client.send(protocol.get_properties(device.name, "CONNECTION"))
        elif client.received_ns >= self._question_ns:
            self._question_ns = None
        elif now_ns - self._question_ns > self._options.answer_timeout * NS_PER_S:
            return f"no answer for {self._options.answer_timeout:g} s"
        return client.failure

    def _begin(self, exposure: Exposure) -> None:
        """Send the command, unless an image of an aborted exposure may still come."""
        device, _ = self._check_open()
        open_ns = self._tracker.unconfirmed_abort_ns()
        if open_ns is not None and open_ns > self._options.answer_timeout * NS_PER_S:
            self._tracker.reset(may_image_come=True)
            raise DeviceError(
                f"INDI device {device.name} did not confirm the abort of the last exposure "
                f"within {self._options.answer_timeout:g} s"
            )
        if self._tracker.may_image_come() or device.client.is_receiving:
            return
        vector = device.require("CCD_EXPOSURE")
        self._tracker.begin(exposure, vector.revision)
        device.client.set(vector, {"CCD_EXPOSURE_VALUE": exposure.length_ns / NS_PER_S})

    def _send_abort(self, client: IndiClient) -> None:
        switch = client.find(self._options.device, "CCD_ABORT_EXPOSURE")
        if switch is None:
            raise DeviceError(f"INDI device {self._options.device} has no CCD_ABORT_EXPOSURE")
        client.set(switch, {"ABORT": True})

    def _check_exposure(self, exposure: Exposure, elapsed_ns: int) -> None:
        """Raise DeviceError, and forget the exposure, when it cannot succeed any more."""
        device, _ = self._check_open()
        vector = device.require("CCD_EXPOSURE")
        margin_s = self._options.exposure_margin
        if vector.revision > exposure.revision and vector.state == "Alert":
            problem = f"failed the exposure; {device.said()}"
        elif exposure.confirmed_ns is not None and vector.state == "Idle":
            problem = "says that the exposure was aborted, by another client or by itself"
        elif elapsed_ns > exposure.length_ns + margin_s * NS_PER_S and not (
            device.client.is_receiving
        ):
            problem = f"sent no image within {margin_s:g} s of the exposure's end"
            dropped = self._tracker.dropped - exposure.dropped_before
            if dropped:
                problem += f" ({dropped} that did not belong to it were dropped)"
        else:
            return
        # The image may have come while this was being found out.
        if self._tracker.end_without_image():
            raise DeviceError(f"INDI device {device.name} {problem}")

    def _filter(self, device: IndiDevice) -> tuple[str | None, str | None]:
        """Return the filter in the beam, and a fault of the wheel."""
        wheel = self._options.filter_wheel
        if wheel is None or self._capabilities is None:
            return None, None
        slot = device.find("FILTER_SLOT", wheel)
        if slot is None:
            return None, f"filter wheel {wheel} is gone"
        if slot.revision <= self._wheel_revision or slot.state == "Busy":
            return None, None
        if slot.state == "Alert":
            return None, f"filter wheel: {device.said(wheel)}"
        number = _number(slot, "FILTER_SLOT_VALUE")
        names = self._capabilities.filters
        if number is None or not 1 <= number <= len(names):
            return None, None
        return names[int(number) - 1], None


def _number(vector: Vector | None, member: str) -> float | None:
    value = math.nan if vector is None else vector.number(member)
    return None if math.isnan(value) else value


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
