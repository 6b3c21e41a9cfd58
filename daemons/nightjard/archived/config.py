# SPDX-License-Identifier: BSD-3-Clause
"""Configuration of the archive daemon."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator, model_validator
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from nightjar.api.archive import FRAME_TYPES
from nightjar.config.load import DaemonConfig, StrictModel
from nightjar.errors import StorageError
from nightjar.files import is_safe_name, require_folder
from nightjar.registry import Registry
from nightjard.archived.nights.config import NightsConfig

_RESERVED_CAMERAS = ("unarchived", "quarantine")


class IdentityCards(StrictModel):
    """Header keywords that say which frame a file is."""

    camera: str = Field("CAMERA", description="Keyword of the camera id.")
    run: str = Field("RUN-ID", description="Keyword of the run id.")
    frame_number: str = Field("EXPCNT", description="Keyword of the frame number.")


class ArchiveConfig(DaemonConfig):
    """One file of ``/etc/archived``."""

    cameras: Annotated[tuple[str, ...], Field(min_length=1, strict=False)] = Field(
        description="Ids of the cameras whose frames are taken."
    )
    notify_machines: tuple[str, ...] | None = Field(
        None, strict=False,
        description="Machine names that may announce frames; control_machines if not given.",
    )  # fmt: skip
    incoming_data_path: Path = Field(
        strict=False, description="Folder in which cameras leave finished frames."
    )
    root: Path = Field(
        strict=False,
        description="Folder of the archive; it is made if its parent exists. Best a file system "
        "of its own.",
    )
    database_url: str | None = Field(
        None,
        description="SQLAlchemy address of the database, postgresql+psycopg://... for several "
        "hosts; a SQLite file in the daemon's state folder if not given.",
    )
    noon_utc_hours: float = Field(
        12.0, ge=0, lt=24,
        description="UTC hour of local noon, at which one observing night ends and the next "
        "begins.",
    )  # fmt: skip
    frame_types: tuple[str, ...] = Field(
        FRAME_TYPES, strict=False, min_length=1,
        description="Frame types (card IMAGETYP) that may be set.",
    )  # fmt: skip
    minimum_free_bytes: int = Field(
        2_000_000_000, ge=0, description="New frames are refused while less than this is free."
    )
    recycle_bytes: int = Field(
        1_000_000_000, ge=0,
        description="Bytes of copied frames kept for the camera to write over, where the incoming "
        "folder is on a RAM disk; 0 deletes them.",
    )  # fmt: skip
    workers: int = Field(2, ge=1, le=32, description="Frames verified and moved at a time.")
    rescan_interval: float = Field(
        30.0, ge=1, le=86400,
        description="Seconds between looks for files in the incoming folder that nobody "
        "announced.",
    )  # fmt: skip
    identity_cards: IdentityCards = Field(
        IdentityCards(), description="Header keywords that say which frame a file is."
    )

    nights: NightsConfig | None = Field(
        None,
        description="What happens to the cubes of fast cameras the morning after; nothing if not "
        "given.",
    )

    @field_validator("cameras")
    @classmethod
    def _check_cameras(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not is_safe_name(name) or name in _RESERVED_CAMERAS:
                raise ValueError(
                    f"{name!r}: a camera id becomes a folder: letters, digits and . _ + - only, "
                    f"and not {' or '.join(_RESERVED_CAMERAS)}"
                )
        if len({name.lower() for name in names}) < len(names):
            raise ValueError("must not name a camera twice")
        return names

    @field_validator("database_url")
    @classmethod
    def _check_database(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            address = make_url(value)
        except ArgumentError:
            address = None
        if address is not None:
            if address.drivername == "postgresql+psycopg":
                return value
            if address.drivername == "sqlite" and Path(address.database or "").is_absolute():
                return value
        raise ValueError(
            "must be sqlite:////absolute/path.db or postgresql+psycopg://user@host:port/database"
        )

    @model_validator(mode="after")
    def _check_folders(self) -> ArchiveConfig:
        for path in (self.incoming_data_path, self.root):
            if not path.is_absolute():
                raise ValueError(f"{path}: must be an absolute path")
        if self.incoming_data_path.resolve().is_relative_to(self.root.resolve()):
            raise ValueError("incoming_data_path must not lie in root")
        return self


def check(config: ArchiveConfig, registry: Registry) -> Sequence[str]:
    """Return warnings about a configuration that is valid but doubtful.

    Raises
    ------
    ConfigError
        One of notify_machines is not in the registry.
    """
    warnings = []
    readers = registry.machines if config.query_machines is None else config.query_machines
    for machine in config.notify_machines or ():
        registry.addresses(machine)
        if machine not in readers and machine not in config.control_machines:
            warnings.append(
                f"{machine} may announce frames but is not in query_machines: it will be refused"
            )
    families = config.nights.families if config.nights is not None else {}
    for folder, purpose in (
        *((each.root, f"root of family {name}") for name, each in families.items()),
        (config.incoming_data_path, "incoming_data_path"),
        (config.root if config.root.exists() else config.root.parent, "root"),
    ):
        try:
            require_folder(folder, purpose)
        except StorageError as error:
            warnings.append(error.message)
    return warnings
