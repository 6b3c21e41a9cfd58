# SPDX-License-Identifier: BSD-3-Clause
"""Configuration of the data acquisition."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from nightjar.config.load import DaemonConfig, StrictModel
from nightjar.das.channels import BOLOCAM, MODULE_INPUTS, ChannelMap

FAULTS = ("overrun", "stall", "unplug", "garbage", "stuck", "late", "clock_step")
"""What a simulated ADC can be told to do; see nightjard.dasd.drivers.simulated."""


class SimulatedFault(StrictModel):
    """A fault that comes by itself."""

    kind: Literal["overrun", "stall", "unplug", "garbage", "stuck", "late", "clock_step"] = Field(
        description="overrun: samples are lost; stall: nothing comes for a while, then all at "
        "once; unplug: the ADC is away; garbage: any values; stuck: a channel keeps its value; "
        "late: stamps come late; clock_step: the host's clock is set."
    )
    after_s: float = Field(ge=0, description="When, s after the ADC was opened first.")
    seconds: float = Field(1.0, ge=0, le=86_400, description="How long.")
    channel: int | None = Field(None, ge=0, description="Of stuck.")
    amount: float = Field(0.0, description="Of late and clock_step, s.")


class SimulatedConfig(StrictModel):
    """The simulated ADC, in a machine whose clock is wrong."""

    name: Literal["simulated"] = Field(description="Which driver.")
    seed: int = Field(1, ge=0, description="Of all that is random.")
    wires: str | None = Field(
        None,
        description="File of a simulated observatory's wires (nightjar simulate das): its lines, "
        "rotator and sky are what is sampled. Without it: noise, lines that change by themselves.",
    )
    offset_s: Annotated[float, Field(ge=-3600, le=3600)] = Field(
        0.0, description="How far the machine's clock is ahead at the start, s."
    )
    drift_ppm: Annotated[float, Field(ge=-500, le=500)] = Field(
        0.0, description="How much too fast the machine's clock runs."
    )
    crystal_ppm: Annotated[float, Field(ge=-400, le=400)] = Field(
        0.0, description="How much too fast the ADC samples, beside the machine's clock."
    )
    jitter_s: float = Field(
        0.0002, ge=0, le=0.1, description="Of the time at which blocks arrive, s."
    )
    latency_s: float = Field(0.0, ge=0, le=0.1, description="That all blocks are late by, s.")
    buffer_s: float = Field(
        10.0, gt=0, le=600, description="What the ADC keeps for a reader that is late, s."
    )
    faults: tuple[SimulatedFault, ...] = Field((), strict=False, description="Faults to come.")


class NidaqmxConfig(StrictModel):
    """A National Instruments multiplexer and ADC, by the package nidaqmx."""

    name: Literal["nidaqmx"] = Field(description="Which driver.")
    physical_channels: tuple[str, ...] = Field(
        strict=False, min_length=1,
        description="Names of the inputs in the order of the channels, ranges allowed: "
        "SC1Mod1/ai0:31.",
    )  # fmt: skip
    terminals: Literal["DEFAULT", "DIFF", "RSE", "NRSE", "PSEUDO_DIFF"] = Field(
        "DIFF", description="How the inputs are wired."
    )
    buffer_s: float = Field(
        10.0, gt=0, le=600, description="What the driver library keeps for a late reader, s."
    )


class AdcConfig(StrictModel):
    """What is sampled, and how."""

    sample_rate_hz: float = Field(
        50.0, gt=0, le=1_000_000,
        description="Samples per second of every channel; a minute must have a whole number.",
    )  # fmt: skip
    convert_interval_s: float = Field(
        50e-6, gt=0, le=1,
        description="Time between the conversions of one channel and the next: the multiplexer's "
        "skew. Set explicitly, because libraries choose it themselves otherwise.",
    )  # fmt: skip
    min_v: float = Field(-10.0, description="Lower end of the range, V.")
    max_v: float = Field(10.0, description="Upper end of the range, V.")
    gain: tuple[float, ...] = Field(
        (), strict=False,
        description="Gain of each multiplexer module; all 1 if not given. Only recorded.",
    )  # fmt: skip
    driver: Annotated[SimulatedConfig | NidaqmxConfig, Field(discriminator="name")] = Field(
        description="Which hardware."
    )

    @property
    def volts_per_lsb(self) -> float:
        """Volts of one count."""
        return (self.max_v - self.min_v) / 65536

    @property
    def n_slots(self) -> int:
        """Samples of a minute."""
        return round(self.sample_rate_hz * 60)

    @model_validator(mode="after")
    def _fits(self) -> AdcConfig:
        if abs(self.sample_rate_hz * 60 - self.n_slots) > 1e-6 or self.n_slots < 60:
            raise ValueError(
                f"sample_rate_hz: {self.sample_rate_hz:g}: a minute must have a whole number of "
                "samples, 60 or more"
            )
        if self.max_v <= self.min_v:
            raise ValueError("max_v: must be more than min_v")
        return self


class ClockConfig(StrictModel):
    """How good the host's clock must be."""

    warn_s: float = Field(0.005, gt=0, le=60, description="A larger error is a warning, s.")
    limit_s: float = Field(0.05, gt=0, le=60, description="A larger error is a failure, s.")
    refuse: bool = Field(
        False,
        description="Whether start is refused where the clock fails; else samples are only marked "
        "in the files as of an unlocked clock.",
    )
    interval_s: float = Field(60.0, ge=1, le=3600, description="Time between two looks.")


class SpaceConfig(StrictModel):
    """How much room there must be on the disk."""

    warn_hours: float = Field(24.0, ge=0, le=1000, description="Warn below so many hours of data.")
    low_bytes: int = Field(1_000_000_000, ge=0, description="Warn below so many bytes.")
    stop_bytes: int = Field(
        64 * 1024 * 1024, ge=0, description="Stop, the minute published, below so many bytes."
    )

    @model_validator(mode="after")
    def _fits(self) -> SpaceConfig:
        if self.low_bytes < self.stop_bytes:
            raise ValueError("low_bytes: must not be less than stop_bytes")
        return self


class LevelsConfig(StrictModel):
    """What the live view says of channels."""

    seconds: float = Field(10.0, ge=1, le=600, description="Of samples that are looked at.")
    noise_band_hz: tuple[float, float] = Field(
        (1.0, 20.0), strict=False, description="Band of which the noise is the median."
    )
    dead_counts: int = Field(
        2, ge=0, description="A channel whose samples are all within so many counts is dead."
    )

    @model_validator(mode="after")
    def _fits(self) -> LevelsConfig:
        low, high = self.noise_band_hz
        if not 0 <= low < high:
            raise ValueError("noise_band_hz: must be two frequencies, the lower one first")
        return self


class DasConfig(DaemonConfig):
    """One data acquisition."""

    instrument: str = Field("", max_length=80, description="For the headers.")
    site: str = Field("", max_length=80, description="For the headers.")
    raw_root: str = Field(
        description="Folder of the folders of days; raw files are RAW_ROOT/YYYYMMDD/raw_*.bin."
    )
    auto_mkdir: bool = Field(
        True,
        description="Whether the folder of a day is made, five minutes before midnight; else a "
        "missing one stops the recording. raw_root itself is never made.",
    )
    telescope_daemon: str | None = Field(
        None,
        description="Registered name of the daemon of the telescope's logs; start is refused "
        "unless its pointing and housekeeping are fresh. None if not given: not asked.",
    )
    fresh_limit_s: float = Field(
        5.0, gt=0, le=600, description="Pointing and housekeeping older than this are stale, s."
    )
    test_roots: tuple[str, ...] | None = Field(
        None, strict=False,
        description="Folders below which tests may be recorded; anywhere if not given.",
    )  # fmt: skip
    resume_limit_s: float = Field(
        600.0, ge=0, le=86_400,
        description="A daemon that is started within this time goes on with the recording that it "
        "had when it was killed or stopped, s.",
    )  # fmt: skip
    adc: AdcConfig = Field(description="The ADC.")
    channels: ChannelMap = Field(BOLOCAM, description="Which quantity is on which channel.")
    clock: ClockConfig = Field(ClockConfig(), description="The host's clock.")
    space: SpaceConfig = Field(SpaceConfig(), description="The disk.")
    levels: LevelsConfig = Field(LevelsConfig(), description="The live view.")

    @property
    def bytes_per_hour(self) -> float:
        """Bytes that an hour of data has."""
        return self.adc.sample_rate_hz * self.channels.count * 2 * 3600

    @model_validator(mode="after")
    def _fits_together(self) -> DasConfig:
        for key in ("raw_root", "test_roots"):
            value = getattr(self, key)
            for path in (value,) if isinstance(value, str) else value or ():
                if not Path(path).is_absolute():
                    raise ValueError(f"{key}: {path!r}: must be an absolute path")
        adc, count = self.adc, self.channels.count
        if adc.convert_interval_s * count * adc.sample_rate_hz > 1:
            raise ValueError(
                f"adc.convert_interval_s: {count} channels of {adc.convert_interval_s:g} s are "
                f"{adc.convert_interval_s * count:g} s, more than the {1 / adc.sample_rate_hz:g} s "
                "of a sample"
            )
        modules = -(-count // MODULE_INPUTS)
        if adc.gain and len(adc.gain) != modules:
            raise ValueError(f"adc.gain: has {len(adc.gain)} values; there are {modules} modules")
        if isinstance(adc.driver, SimulatedConfig):
            for fault in adc.driver.faults:
                if fault.channel is not None and fault.channel >= count:
                    raise ValueError(f"adc.driver.faults: channel {fault.channel} does not exist")
        return self
