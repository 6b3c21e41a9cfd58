# SPDX-License-Identifier: BSD-3-Clause
"""The ``driver`` part of a camera's configuration: one strict model per driver."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nightjar.errors import ConfigError, InvalidArgument, NightjarError
from nightjard.camd.geometry import Region


class DriverOptions(BaseModel):
    """What all drivers' options share."""

    # defer_build: a detector child validates one driver's options, and starts faster for it.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)

    isolated: bool = Field(
        True,
        description="Run the driver in a child process that can be killed when its SDK hangs.",
    )
    call_timeout: float = Field(
        3.0, gt=0, le=60,
        description="Seconds after which a driver call counts as hung.",
    )  # fmt: skip
    open_timeout: float = Field(
        15.0, gt=0, le=120,
        description="Seconds after which opening, and the first call's start of a child process, "
        "counts as hung.",
    )  # fmt: skip
    fetch_rate: float = Field(
        100.0, gt=0, le=100_000,
        description="Slowest rate at which a frame arrives, MB/s; fetching may take call_timeout "
        "and the frame's size divided by this.",
    )  # fmt: skip


FaultKind = Literal[
    "wedge", "crash", "zero_frame", "stale_frame", "lost_camera", "slow_readout", "not_found",
    "stuck_sensor", "cooler_fault",
]  # fmt: skip
DriverCall = Literal[
    "open", "close", "configure", "start", "poll", "fetch", "abort", "telemetry",
    "set_cooler_power", "set_cooler_target", "move_filter",
]  # fmt: skip
RegionText = Annotated[str, Field(pattern=r"^\[\d+:\d+,\d+:\d+\]$")]


class FaultOptions(BaseModel):
    """A fault that a simulated detector shows. Without at_frame or after_s: from the start."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)

    kind: FaultKind = Field(
        description="wedge: a call never returns. crash: the process ends within a call (in the "
        "daemon's own process: the call fails). zero_frame: all pixels are zero. stale_frame: the "
        "last frame again, same number and pixels. lost_camera: every call fails. slow_readout: "
        "reading lasts `seconds` longer. not_found: opening finds nothing. stuck_sensor: the "
        "temperature does not change any more. cooler_fault: the cooler reports UVLO and is off.",
    )
    at_call: DriverCall | None = Field(
        None, description="The call that wedges (default fetch) or crashes (default open)."
    )
    at_frame: int | None = Field(None, ge=1, description="From this hardware frame number on.")
    after_s: float | None = Field(
        None, ge=0, description="From so long after opening, or after the fault file was read."
    )
    duration_s: float | None = Field(None, gt=0, description="How long it stays in effect.")
    frames: int | None = Field(
        None, ge=1,
        description="How many frames it strikes; default 1 for zero_frame, stale_frame and "
        "slow_readout that have at_frame or after_s, else all.",
    )  # fmt: skip
    seconds: float | None = Field(
        None, gt=0, description="wedge: how long (default for ever); slow_readout: default 30."
    )
    signal: int | None = Field(
        None, ge=1, le=64, description="crash: end by this signal instead of an exit status."
    )
    status: int = Field(70, ge=0, le=255, description="crash: the exit status.")


class BenchOptions(BaseModel):
    """A calibration bench around a described detector: lamp, shutter, filter wheel, mirror."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)

    detector: str = Field(
        "ccd273", min_length=1, description="Name or path of the detector's description."
    )
    chamber: str = Field("B_NOSTROMO", min_length=1, description="Profile of the test chamber.")
    block: str = Field("NOSTROMO", min_length=1, description="Name of the block under test.")
    seed: int = Field(1, ge=0, description="Seed of everything random.")
    effects: str | dict[str, bool] = Field(
        "standard",
        description="Effects that its detectors have: standard, plain, none, or each switched.",
    )
    overrides: dict[str, object] = Field(
        default_factory=dict, description="Truths that replace those that the seed draws."
    )
    truth: str | None = Field(None, description="File of truths to use instead of drawn ones.")
    truth_copy: str | None = Field(None, description="File to which the truths are written.")


class SimulatedOptions(DriverOptions):
    """A simulated detector; the default is like an APX60 (9600 x 6422 read-out)."""

    name: Literal["simulated"] = "simulated"
    bench: BenchOptions | None = Field(
        None,
        description="Take frames on a calibration bench; its CCDs stand side by side in the frame, "
        "and sizes, filters and time limits follow from it. What it sees is set by controls.",
    )

    model: str = Field("Simulated APX60", description="Model name that it reports.")
    serial: str | None = Field(
        None, description="Serial that it reports; default the configured camera_serial."
    )
    seed: int = Field(1, ge=0, description="Seed of everything random.")
    speed: float = Field(
        1.0, gt=0, le=100_000,
        description="Simulated seconds per second for read-out, filter wheel and temperature; "
        "exposures keep their length.",
    )  # fmt: skip

    # Geometry. Regions are [x1:x2,y1:y2], 1-indexed, inclusive.
    width: int = Field(9600, ge=8, le=32768, description="Columns of the read-out.")
    height: int = Field(6422, ge=2, le=32768, description="Rows of the read-out.")
    image_region: RegionText | None = Field(
        None,
        description="Light-sensitive pixels; default [25:9600,1:6388] for 9600 x 6422, else what "
        "bias_region and dark_region leave.",
    )
    bias_region: RegionText | None = Field(
        None, description="Overscan; default [1:9600,6391:6422] for 9600 x 6422, else none."
    )
    dark_region: RegionText | None = Field(
        None, description="Covered columns; default [1:22,1:6388] for 9600 x 6422, else none."
    )
    hardware_window: bool = Field(False, description="Can read out a window.")
    hardware_binnings: list[Annotated[int, Field(ge=1, le=64)]] = Field(
        default_factory=lambda: [1], description="Binnings (sums) that the device does itself."
    )

    # Timing.
    exposure_min: float = Field(1e-5, ge=0, description="Shortest exposure, s.")
    exposure_max: float = Field(14_400.0, gt=0, description="Longest exposure, s.")
    row_period_ns: int = Field(
        38_900, ge=0, description="Rolling shutter: time between the starts of two rows."
    )
    readout_time: float | None = Field(
        None, ge=0, description="Read-out of all rows, s; default the row period times the rows."
    )
    stream_mode: bool = Field(True, description="Can expose and read out at the same time.")
    memory_frames: int = Field(
        2, ge=1, description="Stream mode: frames the camera holds before it overwrites them."
    )
    hardware_id: bool = Field(True, description="Numbers its frames.")

    # Signal chain.
    bits: int = Field(16, ge=8, le=16, description="Bits of the converter.")
    gain_range: list[int] = Field(
        default_factory=lambda: [0, 100], min_length=2, max_length=2,
        description="Gain settings, lowest and highest.",
    )  # fmt: skip
    gain_default: int = Field(26, description="Gain setting after opening.")
    e_per_adu: float = Field(0.78, gt=0, description="Electrons per ADU at gain setting 0.")
    gain_decade: float = Field(
        100.0, gt=0, description="Steps of the gain setting that divide e_per_adu by ten."
    )
    offset_range: list[int] = Field(
        default_factory=lambda: [0, 255], min_length=2, max_length=2,
        description="Offset settings, lowest and highest.",
    )  # fmt: skip
    offset_default: int = Field(30, description="Offset setting after opening.")
    bias_level: float = Field(200.0, ge=0, description="Bias at offset setting 0, ADU.")
    bias_per_offset: float = Field(10.0, ge=0, description="ADU of bias per offset step.")
    read_noise: float = Field(3.0, ge=0, description="Electrons.")
    full_well: float = Field(51_000.0, gt=0, description="Electrons.")
    dark_current: float = Field(0.003, ge=0, description="e-/s/pixel at dark_reference.")
    dark_reference: float = Field(-10.0, description="Temperature of dark_current, C.")
    dark_doubling: float = Field(6.0, gt=0, description="Degrees that double the dark current.")
    hot_pixels: int | None = Field(
        None, ge=0, description="Number in the read-out; default 30 per million pixels."
    )
    hot_current: float = Field(20.0, ge=0, description="Their mean rate at dark_reference, e-/s.")
    cosmic_rate: float = Field(
        1.0, ge=0, description="Cosmic ray hits per second and 10 million pixels."
    )

    # What it sees.
    scene: Literal["stars", "flat", "bias", "dark"] = Field("stars", description="What it sees.")
    sky_level: float = Field(20.0, ge=0, description="stars: sky, e-/s/pixel.")
    flat_level: float = Field(5000.0, ge=0, description="flat: light, e-/s/pixel.")
    stars: int | None = Field(
        None, ge=0, le=200_000,
        description="stars: number in the image region; default 25 per million pixels.",
    )  # fmt: skip
    brightest_star: float = Field(2e6, gt=0, description="stars: flux of the brightest, e-/s.")
    fwhm: float = Field(3.0, gt=0.1, le=50, description="stars: width of the PSF, pixels.")
    noise: Literal["pool", "fresh"] = Field(
        "pool",
        description="pool: each run of rows takes its noise from a prepared bank (fast). fresh: "
        "each pixel draws its own.",
    )
    render: Literal["full", "fast"] = Field(
        "full",
        description="fast: frames are copies of a few prepared ones, each with its own number.",
    )
    fast_frames: int = Field(2, ge=1, le=16, description="fast: number of prepared frames.")
    embed: bool = Field(
        True,
        description="Write frame number and times into the first 16 pixels of the first row.",
    )

    # Cooler, wheel.
    cooler: Literal["none", "pwm", "setpoint"] = Field("pwm", description="Kind of cooler.")
    pwm_max: int = Field(255, ge=1, le=65535, description="Full power of a pwm cooler.")
    setpoint_range: list[float] = Field(
        default_factory=lambda: [-40.0, 30.0], min_length=2, max_length=2,
        description="Temperatures that a setpoint cooler accepts, C.",
    )  # fmt: skip
    ambient: float = Field(15.0, description="Temperature of the air, C.")
    cooling_depth: float = Field(40.0, gt=0, description="Degrees below ambient at full power.")
    cooling_time: float = Field(120.0, gt=0, description="Time constant of the sensor, s.")
    temperature_noise: float = Field(0.02, ge=0, description="Noise of the sensor's reading, C.")
    state_path: str | None = Field(
        None,
        description="File that keeps temperature and cooler while no process has the device "
        "open, as a real one would.",
    )
    filters: list[str] = Field(default_factory=list, description="Names in the filter wheel.")
    filter_time: float = Field(1.0, ge=0, description="Move to the next filter, s.")

    # Truth and faults.
    truth_path: str | None = Field(
        None, description="File that gets one JSON line per delivered frame: all that is true."
    )
    truth_digest: bool = Field(False, description="Add BLAKE2b of the pixels to the truth.")
    faults: list[FaultOptions] = Field(default_factory=list, description="Faults to show.")
    fault_path: str | None = Field(
        None, description='File {"faults": [...]} that is read again whenever it changes.'
    )

    @model_validator(mode="before")
    @classmethod
    def _of_bench(cls, value: Any) -> Any:
        """Fill in what follows from a bench."""
        bench = value.get("bench") if isinstance(value, dict) else None
        if not isinstance(bench, dict):
            return value
        from nightjar.calibration.chamber import load_profile
        from nightjar.calibration.detector import load_detector
        from nightjard.camd.drivers.bench import frame_size

        try:
            detector = load_detector(bench.get("detector", "ccd273"))
            profile = load_profile(bench.get("chamber", "B_NOSTROMO"))
        except (NightjarError, TypeError) as error:
            raise ValueError(f"bench: {error}") from None
        width, height = frame_size(detector)
        follows = {
            "model": f"Simulated bench of {detector.ccds} {detector.name}",
            "width": width, "height": height, "exposure_min": 0.0, "stream_mode": False,
            "row_period_ns": 0, "readout_time": 0.0, "cooler": "none",
            "filters": [str(profile.wave_of(slot)) for slot in range(1, 7)],
            # Frames are computed while they are fetched, and what computes is compiled at first.
            "fetch_rate": 2.0, "open_timeout": 120.0, "call_timeout": 10.0,
        }  # fmt: skip
        for key in ("width", "height"):
            if value.get(key, follows[key]) != follows[key]:
                raise ValueError(f"{key}: the bench's frames have {follows[key]}")
        return {**follows, **value}

    @model_validator(mode="after")
    def _check(self) -> SimulatedOptions:
        full = Region.full(self.width, self.height)
        for name in ("image_region", "bias_region", "dark_region"):
            text = getattr(self, name)
            try:
                inside = text is None or full.contains(Region.parse(text))
            except InvalidArgument as error:
                raise ValueError(f"{name}: {error}") from None
            if not inside:
                raise ValueError(f"{name} {text} extends outside the read-out {full}")
        for name in ("gain", "offset"):
            low, high = getattr(self, f"{name}_range")
            if not low <= getattr(self, f"{name}_default") <= high:
                raise ValueError(f"{name}_default is not within {name}_range {low}..{high}")
        if self.exposure_min > self.exposure_max:
            raise ValueError("exposure_min is longer than exposure_max")
        if self.setpoint_range[0] > self.setpoint_range[1]:
            raise ValueError("setpoint_range: the lowest comes first")
        if 1 not in self.hardware_binnings:
            raise ValueError("hardware_binnings must contain 1")
        if len(set(self.filters)) != len(self.filters):
            raise ValueError("filters: a name stands twice")
        return self


class IndiProperty(BaseModel):
    """Members of an INDI property that are set whenever the camera is opened."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)

    device: str | None = Field(
        None, min_length=1,
        description="INDI device that has the property; the camera when absent.",
    )  # fmt: skip
    vector: str = Field(min_length=1, description="Name of the property.")
    members: dict[str, str | bool | float] = Field(
        min_length=1,
        description="Member name to value: text, number, or true/false for a switch.",
    )


class IndiOptions(DriverOptions):
    """Any CCD behind an INDI server."""

    name: Literal["indi"]
    host: str = Field("localhost", min_length=1, description="Machine that runs indiserver.")
    port: int = Field(7624, ge=1, le=65535, description="TCP port of indiserver.")
    device: str = Field(
        min_length=1, description='Name of the camera as INDI clients see it: "CCD Simulator".'
    )
    blob: str = Field(
        "CCD1", min_length=1, description="INDI property that carries the image; CCD2 is a guider."
    )
    filter_wheel: str | None = Field(
        None, min_length=1,
        description="Name of the INDI device that has the filter wheel; null without a wheel.",
    )  # fmt: skip
    upload_mode: Literal["client", "both"] = Field(
        "client", description='"both" lets the server keep a copy of each image on its own disk.'
    )
    device_binning: bool = Field(
        True,
        description="Let the camera sum pixels; false: the daemon does it, without saturation.",
    )
    properties_at_open: list[IndiProperty] = Field(
        default_factory=list,
        description="Properties that are set when the camera is opened, in this order.",
    )
    connect_timeout: float = Field(
        12.0, gt=0, le=120,
        description="Seconds that server, camera and wheel have to appear and connect; below "
        "open_timeout.",
    )  # fmt: skip
    reply_timeout: float = Field(
        2.5, gt=0, le=60,
        description="Seconds in which the device confirms settings; below call_timeout.",
    )  # fmt: skip
    answer_timeout: float = Field(
        20.0, gt=0, le=600,
        description="Seconds of silence after a question until the server counts as lost. Some "
        "camera drivers are silent during a read-out: longer than that.",
    )  # fmt: skip
    exposure_margin: float = Field(
        30.0, gt=0, le=600,
        description="Seconds after the end of an exposure in which the image must have arrived.",
    )  # fmt: skip

    @model_validator(mode="after")
    def _check_timeouts(self) -> IndiOptions:
        for inner, outer in (("reply", "call"), ("connect", "open")):
            inner_s = getattr(self, f"{inner}_timeout")
            outer_s = getattr(self, f"{outer}_timeout")
            if inner_s >= outer_s:
                raise ValueError(
                    f"{inner}_timeout ({inner_s:g} s) must be shorter than {outer}_timeout "
                    f"({outer_s:g} s)"
                )
        return self


CameraOptionValue = Annotated[int, Field(ge=0, le=65535)]


class AtikOptions(DriverOptions):
    """An Atik camera through libatikcameras."""

    name: Literal["atik"]
    library: str = Field(
        "libatikcameras.so", min_length=1,
        description="File of the vendor's library, or a name that the dynamic linker finds.",
    )  # fmt: skip
    ignore_serial: bool = Field(
        False,
        description="Take the only camera there is whatever its serial: some report a random one.",
    )
    exposure_min: float = Field(0.001, gt=0, description="Shortest exposure of the model, s.")
    exposure_max: float = Field(14_400.0, gt=0, description="Longest exposure of the model, s.")
    exposure_margin: float = Field(
        30.0, gt=0, le=600,
        description="Seconds after the end of an exposure in which the image must have arrived.",
    )  # fmt: skip
    device_binning: bool = Field(
        True,
        description="Let the camera sum pixels; false: the daemon does it, without saturation.",
    )
    cooler_control: Literal["setpoint", "power"] = Field(
        "setpoint",
        description='Of a cooler that takes both: "power" lets the daemon regulate and ramp it.',
    )
    setpoint_min: float = Field(
        -40.0, ge=-150, le=50, description="Lowest cooler temperature of the model, degrees C."
    )
    setpoint_max: float = Field(
        20.0, ge=-150, le=50, description="Highest cooler temperature of the model, degrees C."
    )
    filters: list[Annotated[str, Field(min_length=1)]] = Field(
        default_factory=list,
        description="Names of the filters in the camera's own wheel, in order; empty: no wheel.",
    )
    camera_options: dict[Annotated[str, Field(pattern=r"^\d{1,5}$")], CameraOptionValue] = Field(
        default_factory=dict,
        description='Camera-specific options set at opening: number -> value, such as {"14": 1}.',
    )

    @model_validator(mode="after")
    def _check_limits(self) -> AtikOptions:
        for name in ("exposure", "setpoint"):
            low, high = getattr(self, f"{name}_min"), getattr(self, f"{name}_max")
            if low > high:
                raise ValueError(f"{name}_min ({low:g}) is above {name}_max ({high:g})")
        if len(set(self.filters)) != len(self.filters):
            raise ValueError("two filters have the same name")
        return self


AnyDriverOptions = Annotated[
    SimulatedOptions | IndiOptions | AtikOptions, Field(discriminator="name")
]


def options_from_json(text: str) -> DriverOptions:
    """Return the validated options of one driver (built alone: it makes a child start faster)."""
    kinds: tuple[type[DriverOptions], ...] = (SimulatedOptions, IndiOptions, AtikOptions)
    name = json.loads(text).get("name", "simulated")
    for kind in kinds:
        if name in get_args(kind.model_fields["name"].annotation):
            return kind.model_validate_json(text)
    raise ConfigError(f"there is no detector driver {name!r}", value=name)
