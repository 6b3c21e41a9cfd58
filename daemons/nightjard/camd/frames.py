# SPDX-License-Identifier: BSD-3-Clause
"""What becomes of a fetched frame: its checks, its name, its header, its saving job."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.clock import NS_PER_S, ClockHealth
from nightjar.errors import Code, DeviceError, FrameInvalid, Refused
from nightjar.streams.keywords import KeywordValue
from nightjar.times import file_stamp, iso
from nightjard.camd.config import CameraConfig
from nightjard.camd.cooler import CoolerReading
from nightjard.camd.drivers.base import Capabilities, FrameRecord, Readout
from nightjard.camd.header import Stamps
from nightjard.camd.settings import Observation

_SAMPLED_ROWS = 16


@dataclass(frozen=True, slots=True)
class Crop:
    """What software still has to do: rows and columns of the array to keep, then the binning."""

    top: int
    bottom: int
    left: int
    right: int
    binning: int


def crop_for(observation: Observation, capabilities: Capabilities, readout: Readout) -> Crop:
    """Return what is left to do after what the device does.

    Raises
    ------
    Refused
        The device's own binning does not go into the one wanted, or into the window.
    DeviceError
        The device delivers something else than the window.
    """
    window = observation.window_of(capabilities)
    done = readout.binning
    if not readout.region.contains(window):
        raise DeviceError(f"the camera reads out {readout.region}, which lacks {window}")
    left, top = window.x1 - readout.region.x1, window.y1 - readout.region.y1
    if observation.binning % done or left % done or top % done:
        raise Refused(
            f"the camera bins by {done}, which does not fit binning {observation.binning} "
            f"of window {window}",
            code=Code.BINNING_MISMATCH,
        )  # fmt: skip
    return Crop(
        top // done, (top + window.height) // done, left // done, (left + window.width) // done,
        observation.binning // done,
    )  # fmt: skip


def sample(pixels: NDArray[np.uint16]) -> bytes:
    """Return the bytes of a few rows, the first among them: enough to tell two frames apart."""
    step = max(1, pixels.shape[0] // _SAMPLED_ROWS)
    return pixels[::step, : 4096].tobytes()


def check_frame(
    pixels: NDArray[np.uint16],
    sampled: bytes,
    record: FrameRecord,
    last_id: int | None,
    last_sample: bytes | None,
) -> None:
    """Raise FrameInvalid for an all-zero frame, or one that was delivered before.

    Cameras of this family hand out zeros after a time-out inside, and old frames from their
    memory; both have been saved as data elsewhere.
    """
    if not any(sampled) and not pixels.any():
        raise FrameInvalid("the camera delivered an all-zero frame")
    if record.hardware_id is not None and last_id is not None and record.hardware_id <= last_id:
        raise FrameInvalid(
            f"the camera delivered frame {record.hardware_id} again (last was {last_id})"
        )
    # A saturated frame is like the next one, and no fault.
    if sampled == last_sample and sampled != sampled[:2] * (len(sampled) // 2):
        raise FrameInvalid("the camera delivered the same pixels again")


@dataclass(frozen=True, slots=True)
class FrameContext:
    """What a frame's header tells beside the device's own record.

    Spans of time (`cadence_s`, `temperature_age_s`) are of the monotonic clock: a step of the
    host's clock does not get into them.
    """

    number: int
    reference: str
    run: str
    index: int
    limit: int
    cadence_s: float | None
    temperature_age_s: float | None
    lost_before: int
    lost_in_sequence: int
    invalid_before: int
    buffer_waits: int
    clock_step_s: float
    clock: ClockHealth
    cooler: CoolerReading
    filter: str | None


def file_path(config: CameraConfig, number: int, start_ns: int) -> Path:
    """Return the name under which a frame is spooled.

    Number and time both stand in it, so that not even a lost counter file makes two names equal.
    """
    stamp = file_stamp(start_ns).replace(".", "")
    return config.output_path / f"{config.output_prefix}-{number:08d}-{stamp}.fits"


def header_values(
    config: CameraConfig,
    capabilities: Capabilities,
    observation: Observation,
    readout: Readout,
    record: FrameRecord,
    context: FrameContext,
) -> dict[str, Any]:
    """Return the values of the header template, as plain JSON values."""
    window = observation.window_of(capabilities)
    cooler, telemetry = context.cooler, context.cooler.telemetry
    regions = {
        keyword: str(part) if region and (part := region.within(window, observation.binning))
        else None
        for keyword, region in (
            ("IMAG-RGN", capabilities.image_region), ("BIAS-RGN", capabilities.bias_region),
            ("DARK-RGN", capabilities.dark_region),
        )
    }  # fmt: skip
    # The device stamps the first row that it reads; the window may begin later.
    first_row_ns = (window.y1 - readout.region.y1) * capabilities.row_period_ns
    stamps = Stamps(
        record.start_ns + first_row_ns, record.end_ns + first_row_ns, record.read_end_ns
    )
    age_s, cadence_s = context.temperature_age_s, context.cadence_s
    return {
        **stamps.values(),
        "EXPCADNC": None if cadence_s is None else round(cadence_s, 6),
        "TIME-SRC": record.time_source,
        "TIME-ERR": None if record.time_error_ns is None else record.time_error_ns / NS_PER_S,
        "CLK-SYNC": context.clock.is_synchronised,
        "CLK-ERR": context.clock.estimated_error_s,
        "CLK-STEP": round(context.clock_step_s, 6),
        "EXPRQSTD": observation.exposure_s,
        "ROWDELTA": capabilities.row_period_ns / 1e3 if capabilities.row_period_ns else 0.0,
        "RUN-ID": context.run,
        "EXPCNT": context.number,
        "EXPCREF": context.reference,
        "SEQ-NUM": context.index,
        "SEQ-LIM": context.limit,
        "HW-FRAME": record.hardware_id,
        "LOST-PRE": context.lost_before,
        "LOST-SEQ": context.lost_in_sequence,
        "INVALPRE": context.invalid_before,
        "NTORN": 0,
        "NDUP": 0,
        "BUF-FULL": context.buffer_waits,
        "CAMERA": config.camera_id,
        "CAMSER": capabilities.serial or str(config.camera_serial),
        "CAMMODEL": capabilities.model or None,
        "SDKVER": capabilities.sdk_version or None,
        "FWVER": capabilities.firmware_version or None,
        "FILTER": context.filter,
        "CAM-TFER": "STREAM" if observation.stream else "SINGLE",
        "CAM-GAIN": observation.gain,
        "CAM-OFST": observation.offset,
        "CAM-TEMP": None if telemetry.temperature_c is None else round(telemetry.temperature_c, 3),
        "TEMP-AGE": None if age_s is None else round(age_s, 3),
        "TEMP-MOD": cooler.mode.name,
        "TEMP-PWR": None if telemetry.cooler_power is None
        else round(100 * telemetry.cooler_power, 1),
        "TEMP-SET": cooler.setpoint_c,
        "TEMP-LCK": cooler.is_locked,
        "CAM-HUMD": telemetry.humidity_percent,
        "CAM-PRES": telemetry.pressure_hpa,
        "CAM-BIN": observation.binning,
        "CAM-BMET": observation.binning_method.upper(),
        "CAM-WIND": str(window),
        **regions,
    }  # fmt: skip


def stream_keywords(record: FrameRecord, number: int) -> dict[str, tuple[KeywordValue, str]]:
    """Return what the shared-memory stream tells of its newest frame; times are UTC in ns."""
    middle_ns = (record.start_ns + record.end_ns) // 2
    return {
        "EXPCNT": (number, "continuous frame number"),
        "HW-FRAME": (
            -1 if record.hardware_id is None else record.hardware_id,
            "frame number counted by the camera, -1 where it counts none",
        ),
        "START-NS": (record.start_ns, "start of exposure, ns since 1970, UTC"),
        "MID-NS": (middle_ns, "middle of exposure, ns since 1970, UTC"),
        "END-NS": (record.end_ns, "end of exposure, ns since 1970, UTC"),
        "TIME-SRC": (record.time_source[:16], "what stamped start and end"),
    }


def saving_job(
    config: CameraConfig,
    crop: Crop,
    observation: Observation,
    readout: Readout,
    record: FrameRecord,
    values: dict[str, Any],
    where: tuple[str, int, int],
) -> dict[str, Any]:
    """Return the job of a saving process (see :mod:`nightjard.camd.worker`).

    Parameters
    ----------
    where
        (stream file, byte offset of the slot, slot).
    """
    stream, offset, slot = where
    return {
        "number": values["EXPCNT"],
        "run": values["RUN-ID"],
        "slot": slot,
        "stream": stream,
        "offset": offset,
        "shape": list(readout.shape),
        "crop": [crop.top, crop.bottom, crop.left, crop.right],
        "binning": crop.binning,
        "method": observation.binning_method,
        "path": str(file_path(config, values["EXPCNT"], record.start_ns)),
        "capacity": config.header_card_capacity,
        "header": values,
        "extra": {key: list(card) for key, card in record.cards.items()},
        "start": iso(record.start_ns),
        "exposure": observation.exposure_s,
    }
