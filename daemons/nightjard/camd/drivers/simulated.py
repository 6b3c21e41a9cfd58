# SPDX-License-Identifier: BSD-3-Clause
"""A detector that exists only here: its phases, times, cooler, filter wheel and faults.

The pixels come from :mod:`nightjard.camd.drivers.scene`, the temperature from
:mod:`nightjard.camd.drivers.thermal`, both pure. This module gives them time: everything follows
the injected clock, nothing sleeps, no thread runs. An exposure's phase is computed when asked.

Frame numbers count delivered and overwritten frames from 1 at each opening, as a camera does that
counts what it reads out; an aborted exposure has no number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nightjar.errors import Busy, Code, DeviceError, DeviceLost, DeviceNotFound, Refused
from nightjard.camd.drivers.base import (
    Capabilities,
    CardValue,
    FrameBuffer,
    FrameRecord,
    Phase,
    Progress,
    Range,
    Readout,
    Settings,
    Telemetry,
)
from nightjard.camd.drivers.cooler import SimulatedCooler
from nightjard.camd.drivers.embedded import Embedded, read_embedded
from nightjard.camd.drivers.faults import FaultPlan, end_process, hang
from nightjard.camd.drivers.scene import Renderer
from nightjard.camd.drivers.sensor import Exposure
from nightjard.camd.drivers.timeline import Run
from nightjard.camd.drivers.truth import TruthFile
from nightjard.camd.drivers.wheel import FilterWheel
from nightjard.camd.geometry import check_window

if TYPE_CHECKING:
    from nightjar.clock import Clock
    from nightjard.camd.drivers.bench import BenchRenderer
    from nightjard.camd.drivers.options import FaultOptions, SimulatedOptions

__all__ = ["Embedded", "SimulatedDetector", "read_embedded"]

_TIME_ERROR_NS = 20_000  # wall and monotonic clock are read one after the other
_SLOW_READOUT_S = 30.0
_EXPOSURE_S = 1.0  # after opening
_FIRMWARE = "1.0"


class SimulatedDetector:
    """The simulated detector; see :class:`~nightjard.camd.drivers.base.Detector`.

    Parameters
    ----------
    options
        What it is, sees, and does wrong.
    serial
        The configured serial: what it reports, unless its options name another, which then must
        be this one.
    clock
        Moves it.

    Attributes
    ----------
    in_own_process
        Set by whoever runs it in a process of its own: a "crash" fault then ends that process.
    """

    def __init__(self, options: SimulatedOptions, serial: int | str, clock: Clock) -> None:
        self.options = options
        self.in_own_process = False
        self._wanted_serial = str(serial)
        self._clock = clock
        self._renderer: Renderer | BenchRenderer = Renderer(options)
        if options.bench is not None:
            from nightjard.camd.drivers.bench import BenchRenderer

            self._renderer = BenchRenderer(options.bench)
        self._faults = FaultPlan(options.faults, options.fault_path)
        self._cooler = SimulatedCooler(options, clock)
        self._capabilities: Capabilities | None = None
        self._is_lost = False
        self._settings = Settings(exposure_ns=round(_EXPOSURE_S * 1e9))
        self._readout = Readout(self._renderer.geometry.readout)
        self._run: Run | None = None
        self._last_id = 0
        self._lost = 0
        self._last: tuple[Exposure, Readout] | None = None
        self._truth = TruthFile(options)
        self._wheel = FilterWheel(options, clock)

    # -- connection -----------------------------------------------------------------------------

    def open(self) -> Capabilities:
        """Connect and reset: frame numbers start anew, the cooler stays as it is."""
        self._faults.arm(self._clock.monotonic_ns())
        self._is_lost = False
        self._last_id = self._lost = 0
        self._run = self._last = None
        self._strike("open")
        serial = self.options.serial or self._wanted_serial
        missing = self._fault("not_found", "open") or self._fault("lost_camera", "open")
        if missing or serial != self._wanted_serial:
            seen = "no camera" if missing else f"a camera with serial {serial}"
            raise DeviceNotFound(
                f"no simulated camera with serial {self._wanted_serial}: found {seen}",
                serial=self._wanted_serial,
            )
        self._release()
        if not isinstance(self._renderer, Renderer):
            self._renderer.prepare()
        self._truth.open()
        self._cooler.connect()
        self._capabilities = capabilities = self._describe(serial)
        limits = capabilities.exposure_s
        exposure_s = min(max(_EXPOSURE_S, limits.low), limits.high)
        self._settings = Settings(exposure_ns=round(exposure_s * 1e9))
        self._readout = Readout(capabilities.readout)
        return capabilities

    def close(self) -> None:
        """Disconnect."""
        if self._capabilities is not None:
            self._strike("close")
            self._cooler.save()
        self._release()

    def _release(self) -> None:
        self._run = None
        self._capabilities = None
        self._truth.close()

    def _describe(self, serial: str) -> Capabilities:
        options, geometry = self.options, self._renderer.geometry
        cooled = options.cooler == "setpoint"
        return Capabilities(
            model=options.model,
            serial=serial,
            readout=geometry.readout,
            image_region=geometry.image,
            bias_region=geometry.bias,
            dark_region=geometry.dark,
            exposure_s=Range(options.exposure_min, options.exposure_max),
            sdk_version=f"simulated, seed {options.seed}",
            firmware_version=_FIRMWARE,
            gain=Range(*options.gain_range),
            offset=Range(*options.offset_range),
            initial_gain=options.gain_default,
            initial_offset=options.offset_default,
            setpoint_c=Range(*options.setpoint_range) if cooled else None,
            cooler=options.cooler,
            pwm_max=options.pwm_max if options.cooler == "pwm" else 0,
            filters=tuple(options.filters),
            has_stream_mode=options.stream_mode,
            has_window=options.hardware_window,
            binnings=tuple(sorted(set(options.hardware_binnings))),
            row_period_ns=options.row_period_ns,
            has_frame_id=options.hardware_id,
            controls=() if isinstance(self._renderer, Renderer) else self._renderer.controls,
        )

    # -- exposures ------------------------------------------------------------------------------

    def configure(self, settings: Settings) -> Readout:
        """Take settings; refuses what the capabilities exclude."""
        capabilities = self._enter("configure")
        if self._run is not None:
            raise Busy("the camera is exposing; configure it when idle", code=Code.NOT_IDLE)
        _require("exposure", settings.exposure_ns / 1e9, capabilities.exposure_s, "s")
        gain = self.options.gain_default if settings.gain is None else settings.gain
        offset = self.options.offset_default if settings.offset is None else settings.offset
        _require("gain", gain, capabilities.gain)
        _require("offset", offset, capabilities.offset)
        if settings.stream and not capabilities.has_stream_mode:
            raise Refused("this camera has no stream mode", code=Code.UNSUPPORTED)
        region, binning = capabilities.readout, 1
        if settings.window is not None:
            check_window(settings.window, capabilities.readout, 1)
            if capabilities.has_window:
                region = settings.window
        if settings.binning in capabilities.binnings and settings.binning_method == "sum":
            binning = settings.binning
            if settings.window is not None and capabilities.has_window:
                check_window(region, capabilities.readout, binning)
        self._settings = replace(settings, gain=gain, offset=offset)
        self._readout = Readout(region, binning)
        return self._readout

    def start(self) -> None:
        """Start one exposure, or a stream."""
        self._enter("start")
        if self._run is not None:
            raise Busy("the camera is exposing already", code=Code.NOT_IDLE)
        readout_ns = self._readout_ns()
        now = self._clock.monotonic_ns()
        self._run = Run(
            settings=self._settings,
            readout_ns=readout_ns,
            # At least 1 us, so that numbers stay finite where everything is configured as 0.
            period_ns=max(self._settings.exposure_ns, readout_ns, 1000),
            mono0_ns=now,
            wall_ns=self._clock.now_ns() - now,
            temperature_c=self._cooler.temperature_c(),
        )
        self._plan_frame(self._run)

    def poll(self) -> Progress:
        """Look at the exposure, or at the stream's next frame."""
        self._enter("poll")
        run = self._run
        if run is None:
            return Progress(Phase.IDLE)
        now = self._clock.monotonic_ns()
        if run.is_ready(now):
            return Progress(Phase.READY, run.settings.exposure_ns)
        elapsed = run.elapsed_ns(now)
        if elapsed < run.settings.exposure_ns:
            return Progress(Phase.EXPOSING, elapsed)
        return Progress(Phase.READING, run.settings.exposure_ns)

    def fetch(self, buffer: FrameBuffer, is_cancelled: Callable[[], bool]) -> FrameRecord:
        """Render the READY frame into the buffer."""
        self._enter("fetch")
        run, now = self._run, self._clock.monotonic_ns()
        if run is None or not run.is_ready(now):
            raise DeviceError("no frame is ready to be fetched", code=Code.NOT_ACQUIRING)
        if buffer.array.shape != self._readout.shape:
            raise DeviceError(
                f"the buffer has shape {buffer.array.shape}, the frame {self._readout.shape}"
            )
        index = run.oldest(now, self.options.memory_frames)
        lost = index - run.next_index
        exposure = self._exposure(run, index, lost)
        truth, faults = self._fill(exposure, buffer, is_cancelled)
        self._last_id = exposure.frame_id
        self._lost = exposure.lost
        record = self._record(run, index, exposure, lost, truth)
        if run.slow_ns:
            faults.append("slow_readout")
        self._truth.write(
            exposure, record, {**truth, "filter": self._wheel.name(), "faults": faults}, buffer
        )
        if run.settings.stream:
            run.next_index = index + 1
            self._plan_frame(run)
        else:
            self._run = None
        return record

    def abort(self) -> None:
        """End the exposure or stream."""
        self._enter("abort")
        self._run = None

    def _readout_ns(self) -> int:
        options, readout = self.options, self._readout
        full = options.readout_time
        if full is None:
            full = options.row_period_ns * 1e-9 * options.height
        part = readout.region.height / options.height
        return round(full * part / options.speed * 1e9)

    def _plan_frame(self, run: Run) -> None:
        """Decide once for the frame that comes next whether its read-out is slow."""
        fault = self._fault("slow_readout", "poll", self._last_id + 1)
        run.slow_ns = round((fault.seconds or _SLOW_READOUT_S) * 1e9) if fault else 0

    def _exposure(self, run: Run, index: int, lost: int) -> Exposure:
        now = self._clock.monotonic_ns()
        wall = self._clock.now_ns() - now
        if run.settings.stream and abs(wall - run.wall_ns) > _TIME_ERROR_NS:
            run.wall_ns = wall  # the clock was stepped: stamps follow it, as a host's stamps do
        settings = run.settings
        return Exposure(
            frame_id=self._last_id + lost + 1,
            start_ns=run.wall_ns + run.mono0_ns + index * run.period_ns,
            exposure_ns=settings.exposure_ns,
            temperature_c=self._cooler.temperature_c() if settings.stream else run.temperature_c,
            gain=self.options.gain_default if settings.gain is None else settings.gain,
            offset=self.options.offset_default if settings.offset is None else settings.offset,
            window=self._readout.region,
            binning=self._readout.binning,
            lost=self._lost + lost,
            controls=settings.controls,
            slot=self._slot(),
        )

    def _slot(self) -> int | None:
        name = self._wheel.name()
        return self.options.filters.index(name) + 1 if name in self.options.filters else None

    def _fill(
        self, exposure: Exposure, buffer: FrameBuffer, is_cancelled: Callable[[], bool]
    ) -> tuple[dict[str, Any], list[str]]:
        """Put pixels into the buffer; return their truth and the faults they show."""
        if self._fault("zero_frame", "fetch", exposure.frame_id):
            buffer.array.fill(0)
            return {}, ["zero_frame"]
        stale = self._last is not None and self._last[1] == self._readout
        if stale and self._fault("stale_frame", "fetch", exposure.frame_id):
            assert self._last is not None
            truth = self._renderer.render(self._last[0], buffer.array, is_cancelled)
            return {**truth, "stale_of": self._last[0].frame_id}, ["stale_frame"]
        truth = self._renderer.render(exposure, buffer.array, is_cancelled)
        self._last = (exposure, self._readout)
        return dict(truth), []

    def _record(
        self, run: Run, index: int, exposure: Exposure, lost: int, truth: dict[str, Any]
    ) -> FrameRecord:
        number = int(truth.get("stale_of", exposure.frame_id))
        return FrameRecord(
            start_ns=exposure.start_ns,
            end_ns=exposure.start_ns + exposure.exposure_ns,
            read_end_ns=run.wall_ns + run.ready_at(index) + run.slow_ns,
            time_source="SIM",
            time_error_ns=_TIME_ERROR_NS,
            hardware_id=number if self.options.hardware_id else None,
            lost_before=lost if self.options.hardware_id else 0,
            cards=self._cards(exposure),
        )

    def _housekeeping(self) -> dict[str, float]:
        if isinstance(self._renderer, Renderer):
            return {}
        return self._renderer.housekeeping(self._settings.controls, self._clock.now_ns())

    def _cards(self, exposure: Exposure) -> dict[str, tuple[CardValue, str]]:
        cards: dict[str, tuple[CardValue, str]] = {
            "SIMSCENE": ("bench" if self.options.bench else self.options.scene, "simulated scene"),
            "SIMSEED": (self.options.seed, "seed of the simulation"),
            "SIMFRAME": (exposure.frame_id, "true frame number of the simulation"),
        }
        if not isinstance(self._renderer, Renderer):
            from nightjard.camd.drivers.bench import control_cards

            cards |= control_cards(self._renderer.controls, exposure.controls)
        return cards

    # -- cooler, wheel, measurements ------------------------------------------------------------

    def telemetry(self) -> Telemetry:
        """Measure."""
        self._enter("telemetry")
        stuck = self._fault("stuck_sensor", "telemetry") is not None
        fault = self._cooler.set_dead(self._fault("cooler_fault", "telemetry") is not None)
        return Telemetry(
            temperature_c=self._cooler.reading_c(stuck),
            cooler_power=self._cooler.power() if self.options.cooler != "none" else None,
            heatsink_c=round(self._cooler.heatsink_c(), 2),
            humidity_percent=8.0,
            pressure_hpa=1013.0,
            filter=self._wheel.name(),
            fault=fault,
            housekeeping=self._housekeeping(),
        )

    def set_cooler_power(self, pwm: int) -> None:
        """Set the power of a PWM cooler."""
        capabilities = self._enter("set_cooler_power")
        if capabilities.cooler != "pwm":
            raise Refused("this camera's cooler takes no power", code=Code.UNSUPPORTED)
        _require("cooler power", pwm, Range(0, capabilities.pwm_max))
        self._cooler.set_power(pwm / capabilities.pwm_max)

    def set_cooler_target(self, celsius: float | None) -> None:
        """Set the set point of a regulating cooler."""
        capabilities = self._enter("set_cooler_target")
        if capabilities.cooler != "setpoint":
            raise Refused("this camera's cooler takes no temperature", code=Code.UNSUPPORTED)
        if celsius is not None:
            _require("set point", celsius, capabilities.setpoint_c, "C")
        self._cooler.set_target(celsius)

    def move_filter(self, name: str) -> None:
        """Start moving the wheel, the shorter way round."""
        filters = self._enter("move_filter").filters
        if not filters:
            raise Refused("this camera has no filter wheel", code=Code.UNSUPPORTED)
        if name not in filters:
            raise Refused(
                f"filter {name!r} is not installed; there are {', '.join(filters)}",
                code=Code.UNKNOWN_FILTER, allowed=list(filters),
            )  # fmt: skip
        self._wheel.move(name)

    # -- faults ---------------------------------------------------------------------------------

    def _fault(self, kind: str, call: str, frame_id: int | None = None) -> FaultOptions | None:
        frame = self._last_id + 1 if frame_id is None else frame_id
        return self._faults.active(kind, call, frame, self._clock.monotonic_ns())

    def _enter(self, call: str) -> Capabilities:
        """Begin a call: show the faults that strike any call, and require an open device."""
        if self._capabilities is None:
            raise Refused("the camera is not open", code=Code.NOT_INITIALIZED)
        self._strike(call)
        if self._is_lost or self._fault("lost_camera", call):
            self._is_lost = True
            raise DeviceLost(f"the simulated camera {self._wanted_serial} has disappeared")
        return self._capabilities

    def _strike(self, call: str) -> None:
        self._faults.refresh(self._clock.monotonic_ns())
        wedge = self._fault("wedge", call)
        if wedge is not None:
            hang(self._clock, call, wedge)
        crash = self._fault("crash", call)
        if crash is not None:
            end_process(call, crash, self.in_own_process)


def _require(what: str, value: float, allowed: Range | None, unit: str = "") -> None:
    """Raise unless a value is within the limits (not a number never is)."""
    if allowed is None:
        raise Refused(f"this camera has no {what}", code=Code.UNSUPPORTED)
    if not allowed.low <= value <= allowed.high:
        raise Refused(
            f"{what} {value:g} {unit}".rstrip()
            + f" is outside {allowed.low:g}..{allowed.high:g} {unit}".rstrip(),
            code=Code.OUT_OF_RANGE, value=value, allowed=list(allowed),
        )  # fmt: skip
