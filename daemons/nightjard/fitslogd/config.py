# SPDX-License-Identifier: BSD-3-Clause
"""Configuration of the FITS loggers of one machine."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from nightjar.api.fitslog import CUBE_BYTES_LIMIT
from nightjar.config.load import DaemonConfig, StrictModel
from nightjar.files import is_safe_name
from nightjar.registry import Registry

RESERVED = ("status", "top")
"""Words that ``fitslog`` understands in the place of a group."""

_KEYWORD = re.compile(r"[A-Z0-9_-]{1,8}\Z")
Card = tuple[str | int | float | bool, str]
Cards = dict[str, Card]


def _checked_cards(cards: Cards) -> Cards:
    for key in cards:
        if not _KEYWORD.match(key):
            raise ValueError(f"{key!r} is no FITS keyword: 1 to 8 of A-Z, 0-9, - and _")
    return cards


class StreamConfig(StrictModel):
    """One stream of frames."""

    camera: str | None = Field(
        None,
        description="Registered name of the camera daemon that is told of the data type; none if "
        "not given.",
    )
    cards: Cards = Field(
        {}, description="Header cards of this stream's files: {keyword: [value, comment]}."
    )

    stamps: Literal["utc", "tai"] = Field(
        "utc",
        description="Time scale of the stream's stamps: milk writes TAI, 37 s ahead, on machines "
        "whose kernel knows the offset; files are in UTC in any case.",
    )

    _check_cards = field_validator("cards")(_checked_cards)


class FitslogConfig(DaemonConfig):
    """One file of ``/etc/fitslogd``."""

    streams: dict[str, StreamConfig] = Field(
        min_length=1, description="The streams that may be logged: {name: what belongs to it}."
    )
    groups: dict[str, tuple[str, ...]] = Field(
        {},
        description="Streams that start and stop together: {group: [stream, ...]}. Each stream is "
        "a group of its own as well.",
    )
    save_root: Path = Field(
        strict=False, description="Folder into which cubes go where nobody names another."
    )
    archive_root: Path = Field(
        strict=False, description="Folder of the cubes that are meant for the archive."
    )
    further_roots: tuple[Path, ...] = Field(
        (), strict=False,
        description="Folders beside these two in which, or below which, a person may save.",
    )  # fmt: skip
    archive_daemon: str | None = Field(
        None,
        description="Registered name of the archive daemon that is told of every cube; none if "
        "not given.",
    )
    archive_family: str = Field(
        "archival", description="What the archive calls the nights below archive_root."
    )
    save_family: str = Field(
        "engineering", description="What the archive calls the nights below save_root."
    )
    names: Literal["dated", "clock"] = Field(
        "dated",
        description="File names: dated (vcam1_20260611T031500.123456789.fits, sorts by time) or "
        "clock (vcam1_03:15:00.123456789.fits, as older readers expect).",
    )
    folders: Literal["ut", "night", "flat"] = Field(
        "ut",
        description="Folders below the root: by UT day, by observing night, or none by date.",
    )
    noon_utc_hours: float = Field(
        12.0, ge=0, lt=24,
        description="UTC hour of local noon, at which one observing night ends and the next "
        "begins.",
    )  # fmt: skip
    local_name: str = Field(
        "HST", min_length=1, max_length=4,
        description="Name of the local time that headers give beside UTC.",
    )  # fmt: skip
    local_offset_hours: float = Field(
        -10.0, ge=-14, le=14, description="Hours to be added to UTC for the local time."
    )
    compress: bool = Field(
        False, description="Compress the cubes while they are written, without loss (Rice)."
    )
    text: bool = Field(
        True, description="Write the seven-column .txt of frame times beside each cube."
    )
    fsync: bool = Field(
        True, description="Have each file on the disk before it gets its name."
    )
    cube_bytes_limit: int = Field(
        CUBE_BYTES_LIMIT, ge=1_000_000,
        description="File size that the advised number of frames per cube keeps to.",
    )  # fmt: skip
    max_cube_seconds: float | None = Field(
        None, gt=0, le=86400,
        description="Close a cube after so many seconds even if it is not full; never if not "
        "given.",
    )  # fmt: skip
    start_lead_ms: int = Field(
        100, ge=50, le=5000,
        description="How far ahead the common time lies at which a group starts or stops, "
        "milliseconds.",
    )  # fmt: skip
    space_seconds: float = Field(
        60.0, ge=0, le=86400,
        description="Where a session's length is not known, preparing asks for space for so many "
        "seconds at the present rate.",
    )  # fmt: skip
    minimum_free_bytes: int = Field(
        2_000_000_000, ge=0, description="Saving ends while less than this is free."
    )
    prepare_timeout: float = Field(
        20.0, ge=1, le=120, description="Longest wait for a logger to prepare, seconds."
    )
    command_timeout: float = Field(
        10.0, ge=0.5, le=120, description="Longest wait for a logger to obey, seconds."
    )
    stop_timeout: float = Field(
        60.0, ge=1, le=600,
        description="Longest wait for a logger to close its files when it is ended, seconds.",
    )  # fmt: skip
    resume_within: float = Field(
        3600.0, ge=0, le=7 * 86400,
        description="A group that was saving when the daemon ended goes on saving if the daemon "
        "is back within so many seconds; later it is only prepared.",
    )  # fmt: skip
    cards: Cards = Field(
        {}, description="Header cards of every file: {keyword: [value, comment]}."
    )

    _check_cards = field_validator("cards")(_checked_cards)

    @field_validator("save_root", "archive_root")
    @classmethod
    def _is_absolute(cls, value: Path) -> Path:
        if not value.is_absolute():
            raise ValueError("must be an absolute path")
        return Path(os.path.normpath(value))

    @field_validator("further_roots")
    @classmethod
    def _are_absolute(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        if not all(path.is_absolute() for path in value):
            raise ValueError("must hold absolute paths")
        return tuple(Path(os.path.normpath(path)) for path in value)

    @field_validator("streams")
    @classmethod
    def _have_names(cls, value: dict[str, StreamConfig]) -> dict[str, StreamConfig]:
        for name in value:
            _check_name(name, "stream")
        return value

    @model_validator(mode="after")
    def _groups_fit(self) -> FitslogConfig:
        for group, streams in self.groups.items():
            _check_name(group, "group")
            if group in self.streams:
                raise ValueError(f"groups: {group} is the name of a stream")
            if not streams or len(set(streams)) != len(streams):
                raise ValueError(f"groups: {group} must name one stream or several, each once")
            for stream in streams:
                if stream not in self.streams:
                    known = ", ".join(self.streams)
                    raise ValueError(f"groups: {group}: {stream} is not in streams ({known})")
        return self

    def all_groups(self) -> dict[str, tuple[str, ...]]:
        """Return the streams of every group: those configured, then each stream by itself."""
        return {**self.groups, **{stream: (stream,) for stream in self.streams}}

    def roots(self) -> tuple[Path, ...]:
        """Return the folders in which, or below which, cubes may be saved."""
        return tuple(dict.fromkeys((self.save_root, self.archive_root, *self.further_roots)))


def _check_name(name: str, what: str) -> None:
    if not is_safe_name(name) or name in RESERVED:
        raise ValueError(
            f"{name!r} cannot be the name of a {what}: letters, digits, . _ + and -; not "
            f"{' or '.join(RESERVED)}"
        )


def check(config: FitslogConfig, registry: Registry) -> Sequence[str]:
    """Return what is doubtful about a valid configuration."""
    for stream in config.streams.values():
        if stream.camera is not None:
            registry.daemon(stream.camera)
    if config.archive_daemon is not None:
        registry.daemon(config.archive_daemon)
    roots = config.roots()
    return [
        f"the folder {root} does not exist, nor does what it would be made in"
        for root in roots
        if not root.is_dir() and not root.parent.is_dir() and root.parent not in roots
    ]
