# SPDX-License-Identifier: BSD-3-Clause
"""What a detector driver is: a Protocol of short calls, and the records that cross it.

One thread of the camera model owns the driver and makes every call. No call may wait for an
exposure: the model starts one, polls it, fetches the frame. So abort, telemetry and cooling go on
during an exposure, and a call that does not return within seconds is a fault of the driver, which
:mod:`nightjard.camd.drivers.isolated` answers by ending its process.

How to write a driver: docs/how-to/write-a-detector-driver.md. Every driver must pass
``tests/contract/detector.py``.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from nightjard.camd.geometry import Region

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CardValue = str | int | float | bool | None
BinningMethod = Literal["sum", "mean"]


class Range(NamedTuple):
    """Smallest and largest value that a device accepts, inclusive."""

    low: float
    high: float


ControlValue = str | int | float


@dataclass(frozen=True, slots=True)
class Control:
    """A setting of the electronics, or of a device beside the detector: a lamp, a mirror.

    Attributes
    ----------
    default
        After opening; its type is that of all values.
    low, high
        Limits, inclusive; None for text.
    choices
        All values that there are; empty where any within the limits will do.
    """

    name: str
    default: ControlValue
    unit: str = ""
    meaning: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[ControlValue, ...] = ()


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a detector is and can do; known once it is open.

    Attributes
    ----------
    model, serial, sdk_version, firmware_version
        What the device and its library report; "" where they report nothing.
    readout
        The whole read-out, overscan included: always starts at (1, 1).
    image_region, bias_region, dark_region
        Light-sensitive, overscan and covered pixels; None where the device has none.
    exposure_s, gain, offset, setpoint_c
        Limits; None where the setting does not exist. exposure_s always exists.
    initial_gain, initial_offset
        What the device is set to after opening; None where it does not tell.
    cooler
        "none"; "pwm": takes a power, the daemon regulates; "setpoint": regulates by itself.
    pwm_max
        Full power in PWM units (255 for most), 0 without a PWM cooler.
    filters
        Names in the wheel, in order; empty without a wheel.
    has_stream_mode
        Can expose and read out at the same time.
    has_window, binnings
        Crops while reading out; sums b x b pixels while reading out for these b (1 always in it).
        What the device cannot do, the daemon does in software.
    row_period_ns
        Time between the starts of two rows (rolling shutter), 0 for a global one.
    has_frame_id
        Each frame carries a number counted by the hardware.
    controls
        Further settings, by name.
    """

    model: str
    serial: str
    readout: Region
    image_region: Region
    exposure_s: Range
    bias_region: Region | None = None
    dark_region: Region | None = None
    sdk_version: str = ""
    firmware_version: str = ""
    gain: Range | None = None
    offset: Range | None = None
    initial_gain: int | None = None
    initial_offset: int | None = None
    setpoint_c: Range | None = None
    cooler: Literal["none", "pwm", "setpoint"] = "none"
    pwm_max: int = 0
    filters: tuple[str, ...] = ()
    has_stream_mode: bool = False
    has_window: bool = False
    binnings: tuple[int, ...] = (1,)
    row_period_ns: int = 0
    has_frame_id: bool = False
    controls: tuple[Control, ...] = ()


@dataclass(frozen=True, slots=True)
class Settings:
    """What the next exposures shall be.

    Attributes
    ----------
    window
        The part wanted; None for the whole read-out.
    binning, binning_method
        A device that only sums ignores both for "mean" and says so in the :class:`Readout`.
    controls
        Name and value of controls that are not at their defaults.
    """

    exposure_ns: int
    gain: int | None = None
    offset: int | None = None
    window: Region | None = None
    binning: int = 1
    binning_method: BinningMethod = "sum"
    stream: bool = False
    controls: tuple[tuple[str, ControlValue], ...] = ()


@dataclass(frozen=True, slots=True)
class Readout:
    """What the device will deliver for the present settings.

    Attributes
    ----------
    region
        The part of the sensor that arrives, unbinned pixels.
    binning
        Binning that the device has already done; the array is region / binning, uint16.
    """

    region: Region
    binning: int = 1

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of the array."""
        return (self.region.height // self.binning, self.region.width // self.binning)


class Phase(enum.Enum):
    """Where an exposure is."""

    IDLE = "idle"
    EXPOSING = "exposing"
    READING = "reading"
    READY = "ready"  # a frame waits to be fetched


class Progress(NamedTuple):
    """A look at the exposure: its phase, and the exposed time so far."""

    phase: Phase
    elapsed_ns: int = 0


@dataclass(frozen=True, slots=True)
class FrameBuffer:
    """Where a frame goes: pixels of one slot of the camera's stream file.

    Attributes
    ----------
    path, offset
        The stream file and the byte offset of the slot, for a driver in another process.
    array
        The same pixels mapped here, shape :attr:`Readout.shape`, dtype uint16, native order.
    """

    path: str
    offset: int
    array: NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class FrameRecord:
    """What is known of a fetched frame.

    Attributes
    ----------
    start_ns, end_ns
        UTC of the first row's exposure.
    read_end_ns
        UTC at which the last pixel had arrived.
    time_source, time_error_ns
        Who stamped it ("PC", "GPS", "SIM") and how well; None where unknown.
    hardware_id
        The device's own frame number; None where it has none.
    lost_before
        Frames that the device itself reports as lost since the last one delivered.
    cards
        Driver-specific header cards: keyword -> (value, comment).
    """

    start_ns: int
    end_ns: int
    read_end_ns: int
    time_source: str
    time_error_ns: int | None = None
    hardware_id: int | None = None
    lost_before: int = 0
    cards: Mapping[str, tuple[CardValue, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Slow measurements; None for what the device does not measure.

    Attributes
    ----------
    filter
        Name of the filter in the beam; None without a wheel or while it moves.
    fault
        A fault the device reports (for instance "UVLO"); None when healthy.
    housekeeping
        Further measurements of the electronics: name -> value.
    """

    temperature_c: float | None = None
    cooler_power: float | None = None  # fraction of full power, 0..1
    heatsink_c: float | None = None
    humidity_percent: float | None = None
    pressure_hpa: float | None = None
    filter: str | None = None
    fault: str | None = None
    housekeeping: Mapping[str, float] = field(default_factory=dict)


class Detector(Protocol):
    """A detector. Calls return soon; see the module's first lines.

    Every call may raise DeviceLost (it is gone) or DeviceError (it failed but is there). What the
    device cannot do or take is Refused with the code UNSUPPORTED, OUT_OF_RANGE, UNKNOWN_FILTER or
    WINDOW_OUT_OF_BOUNDS, a call before :meth:`open` with NOT_INITIALIZED; then nothing changed.
    """

    def open(self) -> Capabilities:
        """Find, connect and reset the device.

        Raises
        ------
        DeviceNotFound
            Nothing there; the message says where it was sought.
        """
        ...

    def close(self) -> None:
        """Disconnect; harmless when not open. The cooler stays as it is."""
        ...

    def configure(self, settings: Settings) -> Readout:
        """Take settings for the next exposures and say what will arrive.

        Raises
        ------
        Busy
            Not IDLE (code NOT_IDLE); the exposure goes on.
        """
        ...

    def start(self) -> None:
        """Start one exposure, or with ``stream`` set, exposures without end.

        Raises
        ------
        Busy
            Not IDLE (code NOT_IDLE).
        """
        ...

    def poll(self) -> Progress:
        """Look at the exposure."""
        ...

    def fetch(self, buffer: FrameBuffer, is_cancelled: Callable[[], bool]) -> FrameRecord:
        """Copy the READY frame into the buffer.

        Afterwards the phase is IDLE (single exposure) or goes on (stream). Copies that take long
        look at `is_cancelled` between parts and raise Cancelled; the phase is then READY or IDLE,
        and :meth:`abort` makes it IDLE.

        Raises
        ------
        FrameInvalid
            The device knows that the frame is bad.
        """
        ...

    def abort(self) -> None:
        """End the exposure or stream now, discard its frame; harmless when IDLE."""
        ...

    def telemetry(self) -> Telemetry:
        """Measure temperatures, cooler, filter."""
        ...

    def set_cooler_power(self, pwm: int) -> None:
        """Set the PWM of a "pwm" cooler, 0..pwm_max."""
        ...

    def set_cooler_target(self, celsius: float | None) -> None:
        """Set the temperature of a "setpoint" cooler; None lets it warm up and switches off."""
        ...

    def move_filter(self, name: str) -> None:
        """Start moving the wheel; :meth:`telemetry` names the filter once it is there."""
        ...
