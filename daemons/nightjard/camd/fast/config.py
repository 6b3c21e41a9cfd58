# SPDX-License-Identifier: BSD-3-Clause
"""Configuration of a fast camera: the keys of a file in /etc/camd with ``"mode": "stream"``."""

from __future__ import annotations

import grp
import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from nightjar.api.fast_camera import DATA_TYPES
from nightjar.config.load import DaemonConfig
from nightjar.errors import NightjarError
from nightjar.files import is_safe_name, shared_memory_folder
from nightjar.registry import Registry
from nightjar.streams.layout import C_SIZE_LIMIT, NAME_LIMIT
from nightjar.units import bytes_text
from nightjard.camd.fast.keywords import default_keywords, given_keyword
from nightjard.camd.fast.options import AnySourceOptions, VcamOptions
from nightjard.camd.fast.sensor import LINE_TIMES_S, crops_of
from nightjard.camd.geometry import Region

WindowList = Annotated[tuple[int, int, int, int], Field(strict=False)]
KeywordGiven = bool | int | float | str
_KEYWORDS_LEFT = 40  # slots that stay free for commands


class FastCameraConfig(DaemonConfig):
    """A camera that streams: thousands of frames a second into shared memory, no files."""

    mode: Literal["stream"] = Field(description='"stream" makes this camera a fast one.')
    camera_id: str = Field(
        max_length=40, description="Name of the camera; default of the keyword DETECTOR."
    )
    source: AnySourceOptions = Field(
        default_factory=VcamOptions, description="Which frame source, and its options."
    )
    stream: str = Field(
        max_length=NAME_LIMIT, description="Name of the shared-memory stream that it fills."
    )
    stream_mode: str = Field(
        "0660", pattern="^0?[0-7]{3}$",
        description="Permissions of the stream's file, octal. Readers that want to be woken need "
        "to write, too.",
    )  # fmt: skip
    stream_group: str | None = Field(
        None, description="Group that the stream's file is given to; null leaves it as it is."
    )
    stream_keywords: int = Field(
        200, ge=100, le=4000, description="Slots for keywords in the stream."
    )
    ring_seconds: float = Field(
        5.0, gt=0, le=600,
        description="How many seconds of frames the stream holds, at the rate of the settings.",
    )  # fmt: skip
    ring_bytes: int = Field(
        1_900_000_000, ge=1_000_000, le=64_000_000_000,
        description="The most that the stream's pixels may take; programs that use the C library "
        "of the layout cannot open a file of 2 GiB or more.",
    )  # fmt: skip
    ring_frames: int = Field(
        16, ge=2, le=100_000, description="The least number of frames that the stream holds."
    )
    crop: str = Field("FULL", description="Crop at start, by name.")
    crops: dict[str, WindowList] = Field(
        default_factory=dict,
        description="More crops by name: [x1, x2, y1, y2], 1-indexed, inclusive.",
    )
    readout_mode: str | None = Field(
        None, description="Read-out mode at start; null for the camera's first."
    )
    exposure: float = Field(0.001, gt=0, le=86400, description="Exposure time at start, seconds.")
    rate: float | None = Field(
        None, gt=0, le=1e6,
        description="Frames per second at start, of the trigger too where the source makes it; "
        "null for as fast as exposure and read-out allow.",
    )  # fmt: skip
    external_trigger: bool = Field(
        False, description="Whether each frame waits for the external trigger at start."
    )
    data_type: Literal[
        "ACQUISITION", "BIAS", "COMPARISON", "DARK", "DOMEFLAT", "FLAT", "FOCUSING", "OBJECT",
        "SKYFLAT", "STANDARD", "TEST",
    ] = Field("TEST", description="Keyword DATA-TYP at start.")  # fmt: skip
    keywords: dict[str, KeywordGiven | list[KeywordGiven]] = Field(
        default_factory=dict,
        description="Keywords of the stream: name to value, or to [value, comment].",
    )
    autostart: bool = Field(
        False, description="Init and start streaming when the daemon starts."
    )
    reconnect: bool = Field(
        True,
        description="After the camera or the grabber was lost, or an init failed: init again by "
        "itself with growing pauses, and stream again if it did.",
    )
    open_timeout: float = Field(
        15.0, gt=0, le=120, description="Seconds that connecting to the camera may take."
    )
    grabber_timeout: float = Field(
        4.0, ge=1, le=60,
        description="Seconds without a sign of life after which the grabber counts as hung.",
    )  # fmt: skip
    realtime_priority: int | None = Field(
        None, ge=1, le=99,
        description="Real-time priority (SCHED_FIFO) of the grabber, where the system permits it.",
    )
    cpus: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        None, strict=False, description="Processors that the grabber may run on; null for all."
    )

    @field_validator("camera_id", "stream")
    @classmethod
    def _safe(cls, value: str) -> str:
        if not is_safe_name(value):
            raise ValueError(
                "must have letters, digits and . _ + - only, as it becomes part of file names"
            )
        return value

    @model_validator(mode="after")
    def _check(self) -> FastCameraConfig:
        for name, (x1, x2, y1, y2) in self.crops.items():
            if not (1 <= x1 <= x2 and 1 <= y1 <= y2):
                raise ValueError(
                    f"crops.{name}: {[x1, x2, y1, y2]}: must be [x1, x2, y1, y2] with "
                    f"1 <= x1 <= x2 and 1 <= y1 <= y2"
                )
        for name, given in self.keywords.items():
            try:
                given_keyword(name, *_value_and_comment(given))
            except (NightjarError, ValueError) as error:
                raise ValueError(f"keywords.{name}: {error}") from None
        known = self.known_crops()
        if known is not None and self.crop not in known:
            raise ValueError(f"crop: {self.crop!r}: must be one of {', '.join(known)}")
        if isinstance(self.source, VcamOptions) and self.readout_mode not in (None, *LINE_TIMES_S):
            raise ValueError(
                f"readout_mode: {self.readout_mode!r}: must be one of {', '.join(LINE_TIMES_S)}"
            )
        used = len({*default_keywords(1, ""), *self.keywords})
        if self.stream_keywords < used + _KEYWORDS_LEFT:
            raise ValueError(
                f"stream_keywords: {self.stream_keywords}: must be at least "
                f"{used + _KEYWORDS_LEFT}: {used} keywords have values from the start"
            )
        return self

    def known_crops(self) -> Mapping[str, Region] | None:
        """Return the crops where the configuration alone tells them (simulated camera)."""
        if not isinstance(self.source, VcamOptions):
            return None
        return {**crops_of(self.source.camera), **self.own_crops()}

    def own_crops(self) -> dict[str, Region]:
        """Return the crops that are configured."""
        return {name: Region(*window) for name, window in self.crops.items()}

    def own_keywords(self) -> dict[str, tuple[int | float | str, str]]:
        """Return the keywords that are configured, in their stream form."""
        return {
            name: given_keyword(name, *_value_and_comment(given))
            for name, given in self.keywords.items()
        }

    @property
    def permissions(self) -> int:
        """Permission bits of the stream's file."""
        return int(self.stream_mode, 8)


def _value_and_comment(
    given: KeywordGiven | list[KeywordGiven],
) -> tuple[KeywordGiven, str | None]:
    if not isinstance(given, list):
        return given, None
    if len(given) != 2 or not isinstance(given[1], str):
        raise ValueError("must be a value, or [value, comment]")
    return given[0], given[1]


def check(config: FastCameraConfig, registry: Registry) -> Sequence[str]:
    """Return warnings about a valid configuration that will probably not do what is wanted."""
    assert set(DATA_TYPES) >= {config.data_type}
    warnings = []
    if config.stream_group is not None:
        try:
            grp.getgrnam(config.stream_group)
        except KeyError:
            warnings.append(f"stream_group: no group {config.stream_group!r} on this machine")
    if config.ring_bytes > C_SIZE_LIMIT - 10_000_000:
        warnings.append(
            f"ring_bytes: {config.ring_bytes}: programs that use the C library of the layout "
            f"cannot open a stream of 2 GiB or more"
        )
    shared = shared_memory_folder()
    wanted = os.environ.get("MILK_SHM_DIR")
    if wanted and str(shared) != wanted:
        warnings.append(f"MILK_SHM_DIR names {wanted}, which is no folder; {shared} is used")
    if not shared.is_dir():
        warnings.append(f"shared memory folder {shared} does not exist")
    else:
        stat = os.statvfs(shared)
        if stat.f_blocks * stat.f_frsize < config.ring_bytes:
            warnings.append(
                f"ring_bytes: {config.ring_bytes}: {shared} has only "
                f"{bytes_text(stat.f_blocks * stat.f_frsize)} in all"
            )
    return warnings
