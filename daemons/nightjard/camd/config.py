# SPDX-License-Identifier: BSD-3-Clause
"""Configuration of a camera daemon: the keys of the file in /etc/camd, each with its meaning."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from nightjar.config.load import DaemonConfig
from nightjar.errors import ConfigError, Refused
from nightjar.files import is_safe_name, shared_memory_folder
from nightjar.registry import Registry
from nightjard.camd.drivers.options import AnyDriverOptions, SimulatedOptions
from nightjard.camd.geometry import Region, check_window

LEAST_SLOTS = 2  # of the frame buffer: one is filled while the other is saved
WindowList = Annotated[tuple[int, int, int, int], Field(strict=False)]


class CameraConfig(DaemonConfig):
    """One camera. Defaults of optional keys are those of the simulated camera."""

    mode: Literal["frames"] = Field(
        "frames",
        description='A camera that takes one exposure after the other; for a fast one "stream", '
        "which has other keys.",
    )
    pipeline_daemon: str | None = Field(
        description="The daemon that should be notified to hand over newly saved frames for "
        "processing; null to leave them in output_path."
    )
    pipeline_handover_timeout: float = Field(
        gt=0, le=600,
        description="The maximum amount of time, in seconds, to wait for the pipeline daemon to "
        "accept a newly saved frame. The exposure sequence is aborted if this is exceeded.",
    )  # fmt: skip
    camera_serial: int | str = Field(
        description="Identifier reported by the SDK for the desired camera."
    )
    cooler_setpoint: float | None = Field(
        ge=-150, le=60,
        description="Default temperature of the detector, deg C; null to leave it warm.",
    )  # fmt: skip
    cooler_update_delay: float = Field(
        gt=0, le=60,
        description="Amount of time in seconds to wait between querying the camera temperature "
        "and cooling status.",
    )  # fmt: skip
    cooler_pwm_step: float = Field(
        gt=0, le=255,
        description="PWM units to change per update delay when cooling or warming (3 = about 1 % "
        "of 255).",
    )  # fmt: skip
    worker_processes: int = Field(
        ge=1, le=64,
        description="Number of processes to use for generating FITS images and saving temporary "
        "images to disk.",
    )  # fmt: skip
    framebuffer_bytes: int = Field(
        ge=1,
        description="Amount of shared memory to reserve for transferring frames between the "
        "camera and output processes (should be an integer multiple of the frame size).",
    )  # fmt: skip
    gain: int | None = Field(
        None, ge=0, le=65535, description="Gain setting; null to leave the camera's own."
    )
    offset: int | None = Field(
        None, ge=0, le=65535, description="Offset (bias) setting; null to leave the camera's own."
    )
    header_card_capacity: int = Field(
        ge=36, le=3600,
        description="Pad the FITS header with blank space to fit at least this many cards "
        "without reallocation.",
    )  # fmt: skip
    camera_id: str = Field(
        max_length=40, description="Value to use for the CAMERA FITS header keyword."
    )
    output_path: Path = Field(
        strict=False,
        description="Path to save temporary output frames before they are handed to the pipeline "
        "daemon. This should match the pipeline's incoming_data_path setting.",
    )  # fmt: skip
    output_prefix: str = Field(
        max_length=40, description="Filename prefix to use for temporary output frames."
    )
    expcount_path: Path = Field(
        strict=False,
        description="Path to the JSON file that is used to track the continuous frame number.",
    )  # fmt: skip
    driver: AnyDriverOptions = Field(
        default_factory=SimulatedOptions, description="Which detector driver, and its options."
    )
    exposure: float = Field(1.0, ge=0, le=86400, description="Default exposure time, seconds.")
    binning: int = Field(1, ge=1, le=64, description="Default binning.")
    binning_method: Literal["sum", "mean"] = Field(
        "sum", description="Default binning method: sum (32-bit pixels) or mean (16-bit)."
    )
    windows: dict[str, WindowList] = Field(
        default_factory=dict,
        description="Windows by name: [x1, x2, y1, y2], 1-indexed, inclusive, unbinned. The one "
        "named default is used unless another is asked for; without it the whole read-out.",
    )  # fmt: skip
    filters: tuple[str, ...] = Field(
        (), strict=False,
        description="Names of the filters by wheel position; empty for the wheel's own names.",
    )  # fmt: skip
    stream: bool = Field(
        False, description="Expose and read out at the same time where the camera can."
    )
    full_buffer: Literal["wait", "drop", "stop"] = Field(
        "wait",
        description="What to do when every slot of the frame buffer is in use: wait for one, drop "
        "the frame (counted, and written in the next header), or stop the sequence.",
    )  # fmt: skip
    reconnect: bool = Field(
        False,
        description="Init the camera again by itself, with growing pauses, after an init that the "
        "device failed and after the device was lost; until it is shut down or an abort is given.",
    )
    frame_retries: int = Field(
        3, ge=0, le=100,
        description="How often an exposure is repeated when the camera delivers an all-zero or "
        "stale frame.",
    )  # fmt: skip
    readout_timeout: float = Field(
        60, gt=0, le=3600,
        description="Seconds after the end of an exposure at which a frame that has not arrived "
        "counts as a fault of the camera.",
    )  # fmt: skip
    cooler_limits: Annotated[tuple[float, float], Field(strict=False)] = Field(
        (-40.0, 30.0),
        description="Lowest and highest set point that is accepted, deg C, within the camera's "
        "own limits.",
    )
    cooler_rate: float = Field(
        10, gt=0, le=60,
        description="Fastest change of the set point, deg C per minute, for cameras that regulate "
        "their temperature by themselves.",
    )  # fmt: skip
    cooler_response: float = Field(
        40, gt=0, le=3600,
        description="Seconds in which the daemon's regulator removes an offset from the set "
        "point; about a third of the detector's thermal time constant.",
    )  # fmt: skip
    lock_tolerance: float = Field(
        0.5, gt=0, le=10,
        description="Distance from the set point, deg C, within which it counts as held.",
    )  # fmt: skip
    lock_alarm_delay: float = Field(
        30, ge=0, le=3600,
        description="Seconds for which the set point must be missed, once held, before an alarm.",
    )  # fmt: skip
    warm_timeout: float = Field(
        600, ge=0, le=7200,
        description="Longest ramp to warm at shutdown or stop of the daemon, seconds; 0 for none.",
    )  # fmt: skip
    minimum_free_bytes: int = Field(
        1_000_000_000, ge=0,
        description="Free space in output_path below which no sequence is started and a running "
        "one is stopped.",
    )  # fmt: skip

    @model_validator(mode="after")
    def _check_names(self) -> CameraConfig:
        for key in ("camera_id", "output_prefix"):
            value = getattr(self, key)
            if not is_safe_name(value):
                raise ValueError(
                    f"{key}: {value!r}: must have letters, digits and . _ + - only, "
                    f"as it becomes part of file names"
                )
        for name, window in self.windows.items():
            x1, x2, y1, y2 = window
            if not (1 <= x1 <= x2 and 1 <= y1 <= y2):
                raise ValueError(
                    f"windows.{name}: {list(window)}: must be [x1, x2, y1, y2] with "
                    f"1 <= x1 <= x2 and 1 <= y1 <= y2"
                )
        coldest, warmest = self.cooler_limits
        if coldest >= warmest:
            raise ValueError(f"cooler_limits: {list(self.cooler_limits)}: must be [low, high]")
        if self.cooler_setpoint is not None and not coldest <= self.cooler_setpoint <= warmest:
            raise ValueError(
                f"cooler_setpoint: {self.cooler_setpoint:g}: must be within cooler_limits "
                f"{list(self.cooler_limits)}"
            )
        if len(set(self.filters)) != len(self.filters):
            raise ValueError(f"filters: {list(self.filters)}: must be different names")
        if self.output_path == Path(""):
            raise ValueError("output_path: must not be empty")
        readout = self.known_readout()
        if readout is not None and self.framebuffer_bytes < LEAST_SLOTS * _frame_bytes(readout):
            raise ValueError(
                f"framebuffer_bytes: {self.framebuffer_bytes}: must be at least {LEAST_SLOTS} "
                f"frames of {_frame_bytes(readout)} bytes "
                f"({readout.width} x {readout.height} pixels)"
            )
        return self

    def known_readout(self) -> Region | None:
        """Return the whole read-out where the configuration alone tells it (simulated camera)."""
        if isinstance(self.driver, SimulatedOptions):
            return Region.full(self.driver.width, self.driver.height)
        return None

    def default_window(self) -> Region | None:
        """Return the configured default window; None for the whole read-out."""
        window = self.windows.get("default")
        return Region(*window) if window else None


def _frame_bytes(readout: Region) -> int:
    return readout.width * readout.height * 2


def _check_windows(config: CameraConfig, readout: Region | None) -> list[str]:
    """Return warnings about windows and a binning that the known read-out cannot give."""
    if readout is None:
        return []
    wanted = [(f"windows.{name}", Region(*window), 1) for name, window in config.windows.items()]
    wanted.append(("binning", config.default_window() or readout, config.binning))
    warnings = []
    for key, window, binning in wanted:
        try:
            check_window(window, readout, binning)
        except Refused as error:
            warnings.append(f"{key}: {error.message}")
    return warnings


def check(config: CameraConfig, registry: Registry) -> Sequence[str]:
    """Return warnings about a valid configuration that will probably not do what is wanted.

    Raises
    ------
    ConfigError
        A daemon or machine that the registry does not have.
    """
    warnings = []
    if config.pipeline_daemon is not None:
        try:
            registry.daemon(config.pipeline_daemon)
        except ConfigError as error:
            raise ConfigError(f"pipeline_daemon: {error.message}") from error
        if config.pipeline_daemon == config.daemon:
            warnings.append(f"pipeline_daemon: {config.daemon!r}: is this daemon itself")
    readout = config.known_readout()
    if readout is not None and config.framebuffer_bytes % _frame_bytes(readout):
        slots, rest = divmod(config.framebuffer_bytes, _frame_bytes(readout))
        warnings.append(
            f"framebuffer_bytes: {config.framebuffer_bytes}: is not a whole number of frames of "
            f"{_frame_bytes(readout)} bytes: {slots} slots, {rest} bytes unused"
        )
    for key, folder in (
        ("output_path", config.output_path),
        ("expcount_path", config.expcount_path.parent),
    ):
        if not folder.is_dir():
            warnings.append(f"{key}: folder {folder} does not exist")
    warnings += _check_windows(config, readout)
    wanted = os.environ.get("MILK_SHM_DIR")
    shared = shared_memory_folder()
    if wanted and str(shared) != wanted:
        warnings.append(f"MILK_SHM_DIR names {wanted}, which is no folder; {shared} is used")
    if not shared.is_dir():
        warnings.append(f"shared memory folder {shared} does not exist")
    return warnings
