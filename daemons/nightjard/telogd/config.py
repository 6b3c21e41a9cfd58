# SPDX-License-Identifier: BSD-3-Clause
"""Configuration of the telescope logs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from nightjar.api.telog import LOOK_BACK_H
from nightjar.config.load import DaemonConfig, StrictModel


class PointingStream(StrictModel):
    """The telescope's service of pointing records, 100 Hz."""

    host: str = Field(min_length=1, max_length=255, description="Of the service.")
    port: int = Field(ge=1, le=65535, description="TCP port of the service at 100 Hz.")
    timeout_s: float = Field(
        5.0, ge=1.5, le=60, description="Silence after which it is connected to anew; a burst "
        "comes each second.",
    )  # fmt: skip


class PointingRing(StrictModel):
    """The telescope's folder of pointing logs, overwritten each day."""

    folder: Path = Field(strict=False, description="Folder of the files MMMM, as mounted here.")
    look_s: float = Field(1.0, ge=0.2, le=60, description="Between looks.")
    look_back_min: int = Field(
        10, ge=2, le=round(LOOK_BACK_H * 60), description="How far back each look goes, minutes."
    )
    limit_s: float = Field(
        5.0, ge=0.2, le=60, description="Longest wait for the mount; then its reader is ended."
    )
    publishes_sound_part: bool = Field(
        True, description="Whether the sound records of a damaged minute are published as a "
        "partial minute, beside the original in quarantine.",
    )  # fmt: skip


class Telinfo(StrictModel):
    """The telescope computer's ONC RPC service."""

    kind: Literal["telinfo"] = Field("telinfo", description="ONC RPC of the telescope computer.")
    host: str = Field(min_length=1, max_length=255, description="Of the telescope computer.")
    port: int | None = Field(
        None, ge=1, le=65535, description="TCP port; null: its port mapper is asked (port 111)."
    )
    program: int = Field(0x20000B0C, ge=0, le=0xFFFFFFFF, description="Number of the program.")
    version: int = Field(1, ge=0, le=0xFFFFFFFF, description="Of the program.")
    procedure: int = Field(1, ge=1, le=0xFFFFFFFF, description="That returns the record.")
    timeout_s: float = Field(0.8, ge=0.05, le=5, description="Longest wait for an answer, s.")


class IndiTelescope(StrictModel):
    """A telescope behind an INDI server."""

    kind: Literal["indi"] = Field("indi", description="A telescope behind an INDI server.")
    host: str = Field("127.0.0.1", min_length=1, max_length=255, description="Of the server.")
    port: int = Field(7624, ge=1, le=65535, description="TCP port of the server.")
    device: str = Field("Telescope Simulator", min_length=1, max_length=80, description="Its name.")
    timeout_s: float = Field(0.8, ge=0.05, le=5, description="Longest wait for an answer, s.")


class MountedDas(StrictModel):
    """The DAS host's folder, mounted here."""

    kind: Literal["folder"] = Field("folder", description="A mounted folder.")
    folder: Path = Field(strict=False, description="Folder of the folders YYYYMMDD, as mounted.")
    limit_s: float = Field(
        5.0, ge=0.2, le=60, description="Longest wait for the mount; then its reader is ended."
    )


class SshDas(StrictModel):
    """The DAS host's folder, by rsync over ssh."""

    kind: Literal["rsync"] = Field("rsync", description="rsync over ssh.")
    host: str = Field(
        min_length=1, max_length=255, pattern=r"^[A-Za-z0-9\[][A-Za-z0-9.:_\]-]*$",
        description="Address for ssh.",
    )  # fmt: skip
    folder: Path = Field(strict=False, description="Folder of the folders YYYYMMDD, there.")
    user: str | None = Field(
        None, pattern=r"^[A-Za-z_][\w.-]*$", description="Name to log in with."
    )
    port: int | None = Field(None, ge=1, le=65535, description="Port of sshd.")
    identity: Path | None = Field(None, strict=False, description="File of the ssh key.")
    ssh_options: tuple[str, ...] = Field(
        ("-T", "-x", "-o", "ConnectTimeout=5", "-o", "Compression=no"), strict=False,
        description="Further arguments of ssh.",
    )  # fmt: skip
    limit_s: float = Field(
        20.0, ge=1, le=600, description="rsync is ended when nothing is heard for so long."
    )
    bandwidth: float | None = Field(None, gt=0, description="Most MB/s.")


class Space(StrictModel):
    """Room on the disks."""

    low_bytes: int = Field(1_000_000_000, ge=0, description="Less is warned of.")
    stop_bytes: int = Field(
        67_108_864, ge=0, description="With less, raw files are not copied: the logs go on."
    )


Telescope = Annotated[Telinfo | IndiTelescope, Field(discriminator="kind")]
Das = Annotated[MountedDas | SshDas, Field(discriminator="kind")]


class TelogdConfig(DaemonConfig):
    """The telescope's logs."""

    pointing_root: Path = Field(strict=False, description="Folder of pointing logs, by day.")
    housekeeping_root: Path = Field(strict=False, description="Folder of housekeeping, by day.")
    raw_root: Path = Field(
        strict=False, description="Folder of raw files, by day: filled from `das`, or by a DAS on "
        "this machine.",
    )  # fmt: skip
    quarantine_root: Path | None = Field(
        None, strict=False,
        description="Folder of what was put aside; null: `quarantine` in the state folder.",
    )  # fmt: skip
    pointing_stream: PointingStream | None = Field(
        None, description="The telescope's pointing records by TCP; null for none."
    )
    pointing_ring: PointingRing | None = Field(
        None, description="The telescope's folder of pointing logs; null for none. With both, the "
        "folder fills what the stream has missed.",
    )  # fmt: skip
    telescope: Telescope | None = Field(
        None, description="Who tells housekeeping, once a second; null for nobody."
    )
    rotator_daemon: str | None = Field(
        None, description="Registered name of the rotator's daemon, asked ten times a second; "
        "null for none.",
    )  # fmt: skip
    das: Das | None = Field(
        None, description="Where raw files are copied from; null: they are written here."
    )
    days_back: int = Field(
        1, ge=0, le=30, description="So many days before today are kept equal to the DAS host's."
    )
    auto_start: bool = Field(True, description="Whether the helpers start with the daemon.")
    auto_mkdir: bool = Field(
        False, description="Whether the roots are made where they are missing, at the start."
    )
    fresh_limit_s: float = Field(
        5.0, ge=1, le=600, description="Older pointing or housekeeping is not fresh."
    )
    lag_limit_s: float = Field(
        5.0, ge=1, le=3600, description="A minute that is not here so long after it closed is told."
    )
    start_timeout_s: float = Field(
        30.0, ge=1, le=600, description="How long `telog start` waits until all is fresh."
    )
    database: str | None = Field(
        None, description="SQLAlchemy URL of the ledger; null: SQLite in the state folder."
    )
    space: Space = Field(Space(), description="Room on the disks.")

    @model_validator(mode="after")
    def _fits_together(self) -> TelogdConfig:
        roots = [self.pointing_root, self.housekeeping_root, self.raw_root]
        if len(set(roots)) != len(roots):
            raise ValueError("pointing_root, housekeeping_root and raw_root must differ")
        if self.pointing_ring is not None and self.pointing_ring.folder in roots:
            raise ValueError("pointing_ring.folder must not be one of the roots")
        if isinstance(self.das, MountedDas) and self.das.folder in roots:
            raise ValueError("das.folder must not be one of the roots: then give no das")
        if not any((self.pointing_stream, self.pointing_ring, self.telescope, self.das,
                    self.rotator_daemon)):  # fmt: skip
            raise ValueError(
                "nothing to log: give pointing_stream, pointing_ring, telescope, rotator_daemon or "
                "das"
            )
        return self
