# SPDX-License-Identifier: BSD-3-Clause
"""Configuration of the morning after; the key ``nights`` of an archive daemon's file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from nightjar.config.load import StrictModel
from nightjar.executor.choosing import ExecutorConfig
from nightjar.files import is_safe_name
from nightjard.archived.nights.transfer.patterns import is_excluded

# Folders of a night that hold something else than products.
_TAKEN = ("record", "logging", "superseded", "quarantine")

BREAK_KEYS = (
    "EXPTIME", "NAXIS1", "NAXIS2", "BITPIX", "OBJECT", "DATA-TYP", "RET-ANG1", "FILTER01",
    "FILTER02", "U_DETMOD", "U_FLCEN", "U_FLCST", "U_TRIGJT", "U_BS", "U_FLDSTP", "U_MBI",
    "PRD-MIN1", "PRD-MIN2", "PRD-RNG1", "PRD-RNG2", "PROP-ID", "GAIN", "EXTTRIG",
)  # fmt: skip


class Family(StrictModel):
    """A kind of nights: where they lie and what is done with them."""

    root: Path = Field(strict=False, description="Folder of the nights, YYYYMMDD each.")
    ids: bool = Field(False, description="Give frame IDs.")
    manifest: bool = Field(False, description="Make a manifest for the observatory's archive.")
    transfer: bool = Field(True, description="Copy to the destinations.")


class Stream(StrictModel):
    """A camera stream as its folder in a night."""

    folder: str = Field("vgen2", description="Folder of the products.")
    code: str = Field(
        "VMPA", pattern=r"^[A-Z]{4}$", description="Letters of the frame IDs: VMPA."
    )


class SyncGroup(StrictModel):
    """Cameras on one trigger."""

    streams: Annotated[tuple[str, ...], Field(min_length=2, strict=False)] = Field(
        description="The first one is the reference; camera 1, 2, ... in this order."
    )


class Chunks(StrictModel):
    """How products are cut."""

    seconds: float = Field(10.0, gt=0, le=86400, description="Longest chunk of paired frames.")
    frames: int = Field(100_000, ge=2, description="Most frames of a product.")
    bytes: int = Field(8_000_000_000, ge=1_000_000, description="Most bytes before compression.")
    gap_seconds: float = Field(3.0, gt=0, description="A longer pause begins a new chunk.")
    break_keys: tuple[str, ...] = Field(
        BREAK_KEYS, strict=False, description="A change of one of these cards begins a new chunk."
    )


class Thresholds(StrictModel):
    """Above these `archive summary` ends with exit code 1."""

    lost_fraction: float = Field(0.001, ge=0, le=1, description="Frames lost.")
    dubious_fraction: float = Field(0.005, ge=0, le=1, description="Modulator state not known.")
    off_seconds: float = Field(
        5.0, gt=0, description="A camera that records nothing for so long was off: what went by "
        "is not lost. It is told all the same.",
    )  # fmt: skip


class LocalIds(StrictModel):
    """Numbers from the archive's own database."""

    kind: Literal["local"] = "local"
    first: int = Field(1, ge=0, le=99_999_999, description="Number of the first ID of each code.")


class Gen2Ids(StrictModel):
    """Numbers from the observatory's control system."""

    kind: Literal["gen2"] = "gen2"
    url: str = Field(description="http://HOST:PORT/ of the service that gives frame IDs.")
    timeout: float = Field(30.0, gt=0, le=600, description="Seconds to wait for an answer.")


class Destination(StrictModel):
    """A host that keeps copies."""

    host: str = Field(description="Address for ssh; localhost is another folder on this machine.")
    path: Path = Field(strict=False, description="Folder there; the nights lie below it.")
    families: tuple[str, ...] = Field(
        (), strict=False, description="Families that are copied there; all if empty."
    )
    mode: Literal["push", "pull"] = Field(
        "push", description="pull: the far side fetches; here its receipt is only waited for."
    )
    user: str | None = Field(None, description="Name to log in with.")
    port: int | None = Field(None, ge=1, le=65535, description="Port of sshd.")
    identity: Path | None = Field(None, strict=False, description="File of the ssh key.")
    ssh_options: tuple[str, ...] = Field(
        ("-T", "-c", "aes128-gcm@openssh.com", "-o", "Compression=no",
         "-o", "ConnectTimeout=10", "-x"),
        strict=False, description="Further arguments of ssh.",
    )  # fmt: skip
    exclude: tuple[str, ...] = Field(
        ("lost+found", "vcam*/"), strict=False,
        description="rsync patterns that are not copied. Raw folders are left out whatever stands "
        "here, unless `raw` is set.",
    )  # fmt: skip
    raw: bool = Field(
        False, description="Keep the raw cubes of the plan, too, and their texts; `exclude` does "
        "not apply to them. A cube of which frames are in no product is released only so.",
    )  # fmt: skip
    bandwidth: float | None = Field(None, gt=0, description="Most MB/s.")
    program: str = Field(
        "nightjar-receipt", description="Command on the far side that reads and signs."
    )
    public_key: str | None = Field(
        None,
        description="ssh public key of the far side (ssh-ed25519 AAAA...), which signs receipts.",
    )
    counts_as_copy: bool = Field(
        True, description="Whether its verified copies count towards releasing raw."
    )


class Retention(StrictModel):
    """When raw may go. Nothing goes by default."""

    release_raw: bool = Field(False, description="Whether raw is ever moved to quarantine.")
    copies: int = Field(2, ge=2, le=9, description="Verified copies on different hosts needed.")
    quarantine_days: float = Field(30.0, ge=1, description="Days in quarantine before deletion.")
    wait_days: float = Field(30.0, ge=0, description="Days after `safe` before quarantine.")
    scrub_days: float = Field(30.0, gt=0, description="Copies are read again this often.")


class Mail(StrictModel):
    """The letter that goes with a manifest; written to a file, sent only with `smtp_host`."""

    to: tuple[str, ...] = Field((), strict=False, description="Addresses.")
    sender: str = Field("nightjar@localhost", description="From.")
    address: str | None = Field(
        None, description="IP address of the host that holds the data; found if not given."
    )
    signature: str = Field("", description="Last line.")
    smtp_host: str | None = Field(None, description="Server; without it nothing is sent.")
    smtp_port: int = Field(25, ge=1, le=65535, description="Its port.")


class NightsConfig(StrictModel):
    """What happens to the cubes of a night."""

    families: dict[str, Family] = Field(
        description="Name to family; 'archival' and 'engineering' are those of the tables."
    )
    streams: dict[str, Stream] = Field(description="Streams, as their folders in a night.")
    groups: dict[str, SyncGroup] = Field(
        default_factory=dict, description="Cameras on one trigger; the name begins products."
    )
    chunks: Chunks = Field(Chunks(), description="How products are cut.")
    compression: Literal["rice", "none"] = Field("rice", description="Of the products.")
    verify: Literal["inline", "deferred"] = Field(
        "inline", description="Products are read back at once, or later; always before release."
    )
    dictionary: Path | None = Field(
        None, strict=False, description="Header dictionary (30 columns); the shipped one if null."
    )
    archive_digits: bool = Field(
        False, description="Write times with no more digits than the dictionary has (MJD: 8, which "
        "is 0.9 ms), for an archive that insists on it.",
    )  # fmt: skip
    telemetry: str | None = Field(
        None, description="Telemetry logs below a night's folder: logging/keywords_log*.tsv."
    )
    high_is: Literal["A", "B"] = Field(
        "A", description="U_FLC of frames exposed while the modulator is driven high."
    )
    ids: LocalIds | Gen2Ids = Field(
        LocalIds(), discriminator="kind", description="Who gives frame IDs."
    )
    destinations: dict[str, Destination] = Field(
        default_factory=dict, description="Hosts that keep copies."
    )
    retention: Retention = Field(Retention(), description="When raw may go.")
    manifest_paths: dict[str, str] = Field(
        default_factory=dict, description="Folder here to its name on the host from which the "
        "observatory's archive fetches: {\"/data/nights\": \"/mnt/tier1/nights\"}. Paths of "
        "manifests are those of this host if empty.",
    )  # fmt: skip
    mail: Mail = Field(Mail(), description="The letter that goes with a manifest.")
    executor: ExecutorConfig = Field(ExecutorConfig(), description="Where tasks run.")
    thresholds: Thresholds = Field(Thresholds(), description="Of `archive summary`.")
    machine_id: str | None = Field(
        None, pattern=r"^[0-9a-f]{32}$",
        description="What this machine calls itself in place of /etc/machine-id. With another one "
        "a copy on this very machine counts as one elsewhere: for demonstrations.",
    )  # fmt: skip
    settle_seconds: float = Field(
        60.0, ge=0, description="A night is left alone until nothing came for so long."
    )
    seal_hours: float = Field(
        6.0, ge=0, description="A night is taken for whole so long after its last cube."
    )
    local_offset_hours: float = Field(
        -10.0, ge=-14, le=14, description="Local time is UTC plus this: cards HST*, summary."
    )

    @field_validator("families", "streams", "groups", "destinations")
    @classmethod
    def _check_names(cls, value: dict[str, object]) -> dict[str, object]:
        for name in value:
            if not is_safe_name(name):
                raise ValueError(f"{name!r}: letters, digits and . _ + - only")
        return value

    @field_validator("manifest_paths")
    @classmethod
    def _check_paths(cls, value: dict[str, str]) -> dict[str, str]:
        for folder in (*value, *value.values()):
            if not folder.startswith("/"):
                raise ValueError(f"{folder!r}: must be an absolute path")
        return value

    @model_validator(mode="after")
    def _check(self) -> NightsConfig:
        grouped: set[str] = set()
        for name, group in self.groups.items():
            for stream in group.streams:
                if stream not in self.streams:
                    raise ValueError(f"groups.{name}: no stream {stream}")
                if stream in grouped:
                    raise ValueError(f"groups.{name}: {stream} is in two groups")
                grouped.add(stream)
        roots = [family.root for family in self.families.values()]
        if len(set(roots)) < len(roots):
            raise ValueError("families: two of them have one root")
        for family in self.families.values():
            if not family.root.is_absolute():
                raise ValueError(f"{family.root}: must be an absolute path")
        for name, each in self.streams.items():
            folder = each.folder
            if not is_safe_name(folder) or folder in self.streams or folder in _TAKEN:
                raise ValueError(
                    f"streams.{name}.folder: {folder!r} must be one name, and none of a stream's "
                    f"raw folder or of {', '.join(_TAKEN)}"
                )
        for name, destination in self.destinations.items():
            if not destination.path.is_absolute():
                raise ValueError(f"destinations.{name}.path: must be an absolute path")
            if destination.counts_as_copy:
                self._check_exclude(name, destination)
            for wanted in destination.families:
                if wanted not in self.families:
                    raise ValueError(f"destinations.{name}: no family {wanted}")
        return self

    def _check_exclude(self, name: str, destination: Destination) -> None:
        """Refuse patterns by which no product could ever be proven there."""
        for folder in {each.folder for each in self.streams.values()}:
            for pattern in destination.exclude:
                if is_excluded(f"{folder}/VMPA00000001.fits", (pattern,)):
                    raise ValueError(
                        f"destinations.{name}.exclude: {pattern!r} leaves out products "
                        f"({folder}/): no night would ever be safe there; remove it, or set "
                        "counts_as_copy to false"
                    )
