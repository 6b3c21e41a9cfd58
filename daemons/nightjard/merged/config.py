# SPDX-License-Identifier: BSD-3-Clause
"""Configuration of the merge: one file says what every column is and what becomes of it."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from nightjar.config.load import DaemonConfig, StrictModel, parse
from nightjar.das.channels import BOLOCAM, ChannelMap
from nightjar.das.lines import HIGH_V, LOW_V, Line
from nightjar.executor.choosing import ExecutorConfig
from nightjar.times import parse_iso
from nightjard.merged.bolometers import Bolometer, hexagonal_array
from nightjard.merged.follow_config import FollowConfig

LINE_NAMES = tuple(line.variable for line in Line)


class Validity(StrictModel):
    """From when to when an entry holds."""

    valid_from: str | None = Field(None, description="UT date or time; always if not given.")
    valid_to: str | None = Field(None, description="UT date or time, exclusive; for ever if not.")

    @field_validator("valid_from", "valid_to")
    @classmethod
    def _is_time(cls, value: str | None) -> str | None:
        if value is not None:
            parse_iso(value)
        return value

    def holds_at(self, utc_ns: int) -> bool:
        """Tell whether the entry holds at a time."""
        begun = self.valid_from is None or utc_ns >= parse_iso(self.valid_from)
        return begun and (self.valid_to is None or utc_ns < parse_iso(self.valid_to))


class GrtConversion(Validity):
    """Volts of the resistance bridge -> ohms: ``(V * range_gain - offset_v) * ohm_per_volt``."""

    range_gain: float = Field(1.0, gt=0, description="Gain of the bridge's range.")
    offset_v: float = Field(0.0, description="Zero point, V.")
    ohm_per_volt: float = Field(1.0e5, gt=0, description="Scale, ohm/V.")


class ChopperConversion(Validity):
    """Volts of the chopper's encoder -> arcsec: ``a0 + a1 V + a2 V^2``."""

    a0: float = Field(0.0, description="arcsec")
    a1: float = Field(10.0, description="arcsec/V")
    a2: float = Field(0.0, description="arcsec/V^2")
    sign: Literal[1, -1] = Field(1, description="Sign of the whole.")


class FiducialAngle(Validity):
    """How the array is mounted: it changes with every mounting of the dewar."""

    fiducial_angle_deg: float = Field(80.0, ge=-360, le=360, description="degrees")


class Conversions(StrictModel):
    """What turns volts into quantities, by date."""

    grt: tuple[GrtConversion, ...] = Field(
        (GrtConversion(),), strict=False, min_length=1, description="Of the GRT thermometer."
    )  # fmt: skip
    chopper: tuple[ChopperConversion, ...] = Field(
        (ChopperConversion(),), strict=False, min_length=1, description="Of the chopper encoder."
    )  # fmt: skip
    array: tuple[FiducialAngle, ...] = Field(
        (FiducialAngle(),), strict=False, min_length=1, description="Of the array's mounting."
    )  # fmt: skip


class LevelsConfig(StrictModel):
    """Logic levels of the status lines."""

    low_v: float = Field(LOW_V, ge=-10, le=10, description="Below it a line is low, V.")
    high_v: float = Field(HIGH_V, ge=-10, le=10, description="Above it a line is high, V.")
    glitch_s: float = Field(
        0.1, ge=0, le=10, description="Edges of a shorter pulse do not count for the alignment."
    )

    @model_validator(mode="after")
    def _in_order(self) -> LevelsConfig:
        if self.low_v >= self.high_v:
            raise ValueError(f"low_v {self.low_v} must be below high_v {self.high_v}")
        return self


class SiteConfig(StrictModel):
    """Where the telescope stands."""

    observatory: str = Field("CSO", min_length=1, max_length=80, description="Its name.")
    latitude_deg: float = Field(19.8224389, ge=-90, le=90, description="Geodetic, north positive.")
    longitude_deg: float = Field(-155.4754972, ge=-180, le=360, description="East positive.")
    height_m: float = Field(4080.0, ge=-500, le=9000, description="Above the ellipsoid, m.")
    polar_x_arcsec: float = Field(0.0, ge=-2, le=2, description="Polar motion x, arcsec.")
    polar_y_arcsec: float = Field(0.0, ge=-2, le=2, description="Polar motion y, arcsec.")
    ut1_utc_s: float = Field(
        0.0, ge=-0.9, le=0.9, description="Where the telescope's record does not tell it, s."
    )


class PointingConfig(StrictModel):
    """How the telescope's numbers are meant."""

    is_xy_in_radec: bool = Field(
        False, description="Requested RA and Dec hold the X and Y offsets already."
    )
    is_xy_in_azel: bool = Field(
        True, description="Requested azimuth and elevation hold the X and Y offsets already."
    )
    is_refraction_in_el: bool = Field(
        False, description="Requested elevation is refracted: the record's refraction is taken off."
    )
    slew_limit_deg: float = Field(
        0.25, gt=0, le=180, description="Where requested RA and Dec are further than this from "
        "requested azimuth and elevation the telescope slews: azimuth and elevation hold. More "
        "than refraction, pointing model and static offsets together.",
    )  # fmt: skip
    use_errors: bool = Field(
        True, description="Add the azimuth and elevation errors: where the beam really was."
    )


class AlignmentConfig(StrictModel):
    """How the DAS's clock is put on the telescope's."""

    align: Literal["apply", "record", "off"] = Field(
        "apply", description="apply; record only, times stay by the DAS's clock; off."
    )
    window_s: float = Field(
        10800.0, ge=60, le=86400,
        description="Observations of this time about a minute are used, s.",
    )  # fmt: skip
    limit_s: float = Field(5.0, gt=0, le=60, description="Largest difference of the clocks.")
    drift_limit_ppm: float = Field(200.0, gt=0, le=2000, description="Largest drift.")
    least_edges: int = Field(4, ge=2, le=1000, description="Fewer than these say nothing.")
    warn_s: float = Field(0.02, gt=0, description="Residual above which a warning is given.")
    alarm_s: float = Field(0.2, gt=0, description="Residual above which the fit is not used.")
    lines: tuple[Literal[LINE_NAMES], ...] = Field(  # type: ignore[valid-type]
        ("acq_das", "trck_das", "rot_enab", "obs_number_das", "rotating"), strict=False,
        description="Status lines whose edges are used.",
    )  # fmt: skip
    delays_s: dict[str, Annotated[float, Field(ge=-1, le=1)]] = Field(
        {}, description="Line -> how much later its edges come to the DAS than to the log, s."
    )


class StorageConfig(StrictModel):
    """How the merged file is stored."""

    compression: Literal["none", "zlib", "zstd"] = Field("zlib", description="zlib opens anywhere.")
    level: int = Field(1, ge=1, le=9, description="Of the compression.")
    shuffle: bool = Field(True, description="Sort bytes first; only with compression.")
    lock_wait_s: float = Field(
        30.0, ge=0, le=3600, description="How long another writer of the same hour is waited for."
    )


class OutputConfig(StrictModel):
    """What stands in the global attributes, and extras."""

    title: str = Field("Merged time streams of a bolometer camera", min_length=1, max_length=200)
    institution: str = Field("unknown", min_length=1, max_length=200)
    telescope: str = Field("CSO 10.4 m", min_length=1, max_length=80)
    instrument: str = Field("Bolocam", min_length=1, max_length=80)
    has_ra_hours: bool = Field(
        False, description="Add ra_hours, the right ascension in hours as old files had it."
    )


class MergedConfig(DaemonConfig):
    """The whole of it: a daemon's part, folders, and what makes the product."""

    raw_root: Path = Field(strict=False, description="Folder of YYYYMMDD/raw_YYMMDD_MMMM.bin.")
    pointing_root: Path | None = Field(
        None, strict=False, description="Folder of YYYYMMDD/MMMM; none: no pointing is merged."
    )
    housekeeping_root: Path | None = Field(
        None, strict=False, description="Folder of YYYYMMDD/enc_YYMMDD_MMMM.jsonl, or of the old "
        "YYYYMMDD_MMMM_rpc.bin; none: no housekeeping is merged.",
    )  # fmt: skip
    merged_root: Path = Field(strict=False, description="Folder of the products YYYYMMDD_HH.nc.")
    file_format: int = Field(
        4, ge=0, le=4, description="Of the telescope's files: 0 December 2001 without LST in the "
        "housekeeping, 1 with it, 2 May 2002: records of 44 bytes; 3 January 2003, 4 May 2004 and "
        "later: 52 bytes.",
    )  # fmt: skip
    rate_hz: int = Field(50, ge=1, le=10000, description="Samples per second.")
    volts_per_lsb: float = Field(3.0517578125e-4, gt=0, description="Of the ADC, V.")
    convert_interval_s: float = Field(
        5e-5, ge=0, le=1, description="Time between the conversions of neighbouring channels, s."
    )
    channels: ChannelMap = Field(BOLOCAM, description="Which quantity is on which channel.")
    bolometers: tuple[Bolometer, ...] | None = Field(
        None, strict=False, description="In the order of the bolometer channels: by hextant, then "
        "input; a hexagonal array of 144 if not given.",
    )  # fmt: skip
    conversions: Conversions = Conversions()
    levels: LevelsConfig = LevelsConfig()
    site: SiteConfig = SiteConfig()
    pointing: PointingConfig = PointingConfig()
    alignment: AlignmentConfig = AlignmentConfig()
    storage: StorageConfig = StorageConfig()
    output: OutputConfig = OutputConfig()
    executor: ExecutorConfig = ExecutorConfig()
    follow: FollowConfig = FollowConfig()

    @model_validator(mode="after")
    def _fits(self) -> MergedConfig:
        ac, dc = (len(self.channels.bolometers(one)) for one in ("AC", "DC"))
        count = len(self.array)
        if {ac, dc} - {0, count}:
            raise ValueError(f"bolometers: {count} of them, but {ac} AC and {dc} DC channels")
        if self.channels.count * self.convert_interval_s > 1 / self.rate_hz:
            raise ValueError(
                f"convert_interval_s: {self.channels.count} channels of {self.convert_interval_s} s"
                f" take longer than a sample of 1/{self.rate_hz} s"
            )
        return self

    @cached_property
    def array(self) -> tuple[Bolometer, ...]:
        """The bolometers."""
        return hexagonal_array() if self.bolometers is None else self.bolometers

    @cached_property
    def text(self) -> str:
        """The whole as canonical JSON, as :func:`config_of` takes it: the argument of tasks."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what makes the product, hexadecimal: not of folders, access and executor."""
        kept = (
            "file_format", "rate_hz", "volts_per_lsb", "convert_interval_s", "channels",
            "bolometers", "conversions", "levels", "site", "pointing", "alignment", "output",
        )  # fmt: skip
        values = {key: value for key, value in json.loads(self.text).items() if key in kept}
        text = json.dumps(values, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def minute_samples(self) -> int:
        """Samples of a minute."""
        return 60 * self.rate_hz

    @property
    def layout(self) -> Literal["current", "old"]:
        """Layout of the pointing records."""
        return "old" if self.file_format <= 2 else "current"


@lru_cache(maxsize=8)
def config_of(text: str) -> MergedConfig:
    """Return the configuration that a task was given as text.

    Raises
    ------
    ConfigError
        It is none.
    """
    return parse(json.loads(text), MergedConfig, "the task's configuration")
