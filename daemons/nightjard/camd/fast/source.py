# SPDX-License-Identifier: BSD-3-Clause
"""What a source of frames is: a Protocol, and the records that cross it.

The grabber process owns the source and makes every call from one thread. ``wait`` is the only call
that may block (with the interpreter lock released); every other one returns within 0.5 s, but for
``open``. Per frame: ``wait``, then ``fetch`` into the slot of the stream that the grabber has begun
meanwhile. The grabber can be killed at any time: a source leaves nothing behind that would hinder
the next one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from nightjar.errors import DeviceError
from nightjard.camd.drivers.base import Range
from nightjard.camd.geometry import Region

if TYPE_CHECKING:
    from numpy.typing import NDArray

PixelType = Literal["uint16", "uint8"]


@dataclass(frozen=True, slots=True)
class SourceCapabilities:
    """What a camera is and can do; known once it is open.

    Attributes
    ----------
    model, serial, firmware_version
        What the device reports; "" where it reports nothing.
    sensor
        (columns, rows) of the whole sensor.
    crops
        Named regions of this camera; those of the configuration are added by the daemon.
    readout_modes
        Names; the first is the default. Never empty.
    exposure_s
        Limits of the exposure time, in any read-out mode.
    rate_hz
        Limits of the frame rate that can be asked for; None where it follows from the exposure.
    has_external_trigger
        Takes one frame per pulse of an external trigger.
    has_hardware_id, has_hardware_time
        Each frame carries a number, or a time, of the camera itself.
    pixel_type
        Type of the pixels in the present settings at opening.
    """

    model: str
    serial: str
    sensor: tuple[int, int]
    exposure_s: Range
    firmware_version: str = ""
    crops: Mapping[str, Region] = field(default_factory=dict)
    readout_modes: tuple[str, ...] = ("DEFAULT",)
    rate_hz: Range | None = None
    has_external_trigger: bool = False
    has_hardware_id: bool = False
    has_hardware_time: bool = False
    pixel_type: PixelType = "uint16"


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """What the next frames shall be.

    Attributes
    ----------
    region
        Part of the sensor, 1-indexed and inclusive.
    crop
        Its name; "" for a free region. Only for the record.
    rate_hz
        Frames per second, of the trigger too where the source makes it itself; None for as fast
        as exposure and read-out allow.
    """

    region: Region
    readout_mode: str
    exposure_s: float
    rate_hz: float | None = None
    external_trigger: bool = False
    crop: str = ""


@dataclass(frozen=True, slots=True)
class SourceGeometry:
    """What will arrive for the settings.

    Attributes
    ----------
    shape
        (rows, columns).
    region
        The part of the sensor that arrives; may be rounded by the camera.
    exposure_s
        As the camera took it.
    max_rate_hz
        What exposure and read-out allow.
    rate_hz
        What is expected: the smaller of the asked and the largest rate.
    """

    shape: tuple[int, int]
    region: Region
    exposure_s: float
    max_rate_hz: float
    rate_hz: float
    pixel_type: PixelType = "uint16"
    readout_s: float = 0.0


@dataclass(slots=True)
class SourceFrame:
    """What is known of a frame that arrived.

    Attributes
    ----------
    start_ns
        UTC of the start of its exposure (first row).
    atime_ns
        UTC of its acquisition stamp: the end of its read-out, as the camera stamps it; where the
        camera has no clock, the time at which the frame was noticed. It becomes the stream's atime.
    hardware_id
        The camera's own number of the frame, counting up by one; lost frames leave gaps.
    lost_before
        Frames that camera or transport lost since the one before.
    missed_before
        Trigger pulses since the one before that came too early and made no frame: not lost.
    is_late
        It waited in the camera's memory because nobody fetched it in time.
    is_incomplete
        Parts of it did not arrive (transport); the grabber does not publish it, counts it lost.
    """

    start_ns: int
    atime_ns: int
    hardware_id: int
    lost_before: int = 0
    missed_before: int = 0
    is_late: bool = False
    is_incomplete: bool = False


class GeometryChanged(DeviceError):
    """The camera delivers another geometry than it was configured for.

    The grabber stops the source, configures it again as it was and goes on.
    """


class FrameSource(Protocol):
    """A camera that makes frames by itself.

    Every call may raise DeviceLost (it is gone) or DeviceError (it failed but is there); what it
    cannot do or take is Refused with code UNSUPPORTED, OUT_OF_RANGE or WINDOW_OUT_OF_BOUNDS, and
    then nothing changed.
    """

    def open(self) -> SourceCapabilities:
        """Find and connect the camera.

        Raises
        ------
        DeviceNotFound
            Nothing there; the message says where it was sought.
        """
        ...

    def close(self) -> None:
        """Disconnect; harmless when not open."""
        ...

    def configure(self, settings: SourceSettings) -> SourceGeometry:
        """Take settings. While it streams only exposure, rate and trigger may differ.

        Raises
        ------
        Busy
            Streaming, and the change needs a stop (code NOT_IDLE); nothing changed. The grabber
            then stops, configures and starts.
        """
        ...

    def prepare(self, slots: Sequence[NDArray[Any]]) -> None:
        """Take note of the arrays that frames will be put into, each of the geometry's shape.

        Called after a configure that made a new stream, while not streaming. Most need nothing.
        """
        ...

    def start(self) -> None:
        """Start streaming: frames before this call are never returned. Harmless when started."""
        ...

    def stop(self) -> None:
        """Stop streaming; harmless when stopped."""
        ...

    def wait(self, timeout_s: float) -> bool:
        """Wait until a frame can be fetched; False when none came in time, at most 0.5 s.

        Raises
        ------
        GeometryChanged
            What arrives has another shape or type than configured.
        """
        ...

    def fetch(self, slot: NDArray[Any]) -> SourceFrame:
        """Put the frame that :meth:`wait` found into `slot` and tell what is known of it.

        Frames come in order, each once. `slot` has the geometry's shape and type and is
        C-contiguous. After an exception its content is undefined and the frame is gone.
        """
        ...

    def telemetry(self) -> Mapping[str, float | int | str | bool | None]:
        """Return slow values, "temperature_c" among them where it is measured; called at 1 Hz."""
        ...
