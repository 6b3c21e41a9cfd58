# SPDX-License-Identifier: BSD-3-Clause
"""The ``vcam`` source: a simulated fast camera that keeps time and proves its frames.

Frames become ready at the times of a :mod:`schedule <nightjard.camd.fast.schedule>`, on the real
clock. The camera has a memory of a few frames: who fetches late gets them late, who fetches later
still loses the oldest, and the hardware's frame number tells it. Stamps are the times at which the
frame was read out: start + exposure + read-out, as the archive's tools expect.
"""

from __future__ import annotations

import collections
import logging
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nightjar.clock import NS_PER_S, together_ns
from nightjar.errors import Busy, Code, DeviceLost, Refused
from nightjard.camd.drivers.base import Range
from nightjard.camd.drivers.limits import check_range
from nightjard.camd.fast.faults import FastFaults
from nightjard.camd.fast.pattern import FLC_CODES, TRUTH_WORDS, Pattern, Truth
from nightjard.camd.fast.schedule import FreeRunning, Planned, Schedule, Triggered
from nightjard.camd.fast.sensor import LINE_TIMES_S, SENSOR, Timing, crop_number, crops_of
from nightjard.camd.fast.source import (
    GeometryChanged,
    SourceCapabilities,
    SourceFrame,
    SourceGeometry,
    SourceSettings,
)
from nightjard.camd.fast.trigger import TriggerBox
from nightjard.camd.geometry import Region

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nightjar.clock import Clock
    from nightjard.camd.fast.options import FastFaultOptions, VcamOptions

log = logging.getLogger(__name__)

EXPOSURE_S = Range(7.2e-6, 1800.0)
RATE_HZ = Range(0.001, 20_000.0)
_LOOK_NS = NS_PER_S // 10  # how often the offset of UTC from the monotonic clock is looked at
_STEP_NS = NS_PER_S // 10  # a larger change of it is a step of the clock
_TABLE = 8192
_SKIP_BEYOND = 1000  # frames: a longer sleep is not gone through frame by frame


class VcamSource:
    """The simulated camera; see :class:`nightjard.camd.fast.source.FrameSource`."""

    def __init__(self, options: VcamOptions, clock: Clock) -> None:
        self._options = options
        self._clock = clock
        self._faults = FastFaults(options.faults, options.fault_path)
        self._is_open = self._is_streaming = False
        self._settings: SourceSettings | None = None
        self._geometry: SourceGeometry | None = None
        self._timing = Timing(0.0, 0.0)
        self._pattern: Pattern | None = None
        self._schedule: Schedule | None = None
        self._next: Planned | None = None
        self._next_id = 1
        self._last_id = 0
        self._pending: collections.deque[tuple[int, Planned]] = collections.deque()
        self._missed = self._lost = 0
        self._utc_offset_ns = self._look_ns = 0
        self._stall_until_ns = 0
        self._drops = 0
        self._wrong_stamps, self._wrong_by_ns = 0, 0
        self._is_reshaped = self._is_gone = False
        self._crop = 0
        draws = np.random.default_rng([options.seed, options.camera])
        latency = draws.gamma(2.0, options.stamp_latency_us * 500.0, _TABLE)
        self._stamp_late: list[int] = (
            np.rint(latency + options.stamp_offset_us * 1000).astype(int).tolist()
        )

    # ---------------------------------------------------------------- connection

    def open(self) -> SourceCapabilities:
        """Connect."""
        if not self._is_open:
            self._faults.arm(self._clock.monotonic_ns())
        self._is_open, self._is_gone = True, False
        self._look_at_faults()
        self._utc_offset_ns = self._offset_ns()
        return SourceCapabilities(
            model=self._options.model, serial=self._options.serial, firmware_version="sim 1",
            sensor=SENSOR, crops=crops_of(self._options.camera),
            readout_modes=tuple(LINE_TIMES_S), exposure_s=EXPOSURE_S, rate_hz=RATE_HZ,
            has_external_trigger=True, has_hardware_id=True, has_hardware_time=True,
        )  # fmt: skip

    def close(self) -> None:
        """Disconnect."""
        self.stop()
        self._is_open = False

    def telemetry(self) -> Mapping[str, float | int | str | bool | None]:
        """Return temperature and trigger box."""
        self._require_open()
        trigger = self._options.trigger
        wave = (self._clock.monotonic_ns() // NS_PER_S % 60) / 600
        return {
            "temperature_c": round(self._options.temperature + wave, 2),
            "flc": trigger.flc,
            "flc_half_width_us": trigger.half_width_us,
            "camera": self._options.camera,
        }

    # ---------------------------------------------------------------- settings

    def configure(self, settings: SourceSettings) -> SourceGeometry:
        """Take settings."""
        self._require_open()
        timing, geometry = self._check(settings)
        old = self._settings
        if self._is_streaming and old is not None and (
            (old.region, old.readout_mode) != (settings.region, settings.readout_mode)
        ):
            raise Busy("the crop or read-out mode cannot change while streaming",
                       code=Code.NOT_IDLE)  # fmt: skip
        if self._pattern is None or self._pattern.shape != geometry.shape:
            bank = 1 if self._options.render == "dma" else self._options.bank
            self._pattern = Pattern(geometry.shape, self._options.seed, bank)
        self._settings, self._geometry, self._timing = settings, geometry, timing
        self._crop = crop_number(settings.crop)
        self._is_reshaped = False
        if self._is_streaming:
            self._plan()
        return geometry

    def _check(self, settings: SourceSettings) -> tuple[Timing, SourceGeometry]:
        region = settings.region
        if not Region.full(*SENSOR).contains(region):
            raise Refused(
                f"crop {region} extends outside the sensor of {SENSOR[0]} x {SENSOR[1]} pixels",
                code=Code.WINDOW_OUT_OF_BOUNDS, window=str(region),
            )  # fmt: skip
        if region.width < TRUTH_WORDS:
            raise Refused(
                f"crop {region} has {region.width} columns, this camera reads at least "
                f"{TRUTH_WORDS}", code=Code.OUT_OF_RANGE, low=TRUTH_WORDS,
            )  # fmt: skip
        if settings.readout_mode not in LINE_TIMES_S:
            raise Refused(
                f"no read-out mode {settings.readout_mode!r}; there are: "
                f"{', '.join(LINE_TIMES_S)}", code=Code.UNSUPPORTED,
            )  # fmt: skip
        check_range("exposure", settings.exposure_s, EXPOSURE_S)
        timing = Timing.of(region.height, settings.readout_mode)
        highest = timing.max_rate_hz(settings.exposure_s, is_triggered=settings.external_trigger)
        trigger = self._options.trigger
        if settings.external_trigger:
            # Every pulse must find the camera ready, the early ones of the FLC's jitter too.
            slack_us = trigger.jitter_us + (trigger.half_width_us if trigger.flc else 0)
            highest = 1 / (1 / highest + timing.line_s + slack_us / 1e6)
        rate = highest
        if settings.rate_hz is not None:
            check_range("rate", settings.rate_hz, RATE_HZ)
            if settings.external_trigger and settings.rate_hz * slack_us >= 1e6:
                raise Refused(
                    f"the trigger cannot give {settings.rate_hz:g} Hz with a jitter of "
                    f"{slack_us} us", code=Code.OUT_OF_RANGE, high=1e6 / slack_us,
                )  # fmt: skip
            rate = min(rate, settings.rate_hz)
        return timing, SourceGeometry(
            shape=(region.height, region.width), region=region, exposure_s=settings.exposure_s,
            max_rate_hz=highest, rate_hz=rate, readout_s=timing.readout_s,
        )  # fmt: skip

    def prepare(self, slots: Sequence[NDArray[Any]]) -> None:
        """Put the image into every slot where frames are not copied (``render: dma``)."""
        if self._options.render == "dma" and self._pattern is not None:
            for slot in slots:
                self._pattern.fill(slot, 0)

    # ---------------------------------------------------------------- streaming

    def start(self) -> None:
        """Start; the first exposure begins now, or at the next pulse."""
        self._require_open()
        if self._settings is None:
            raise Refused("configure the camera before it starts", code=Code.NOT_INITIALIZED)
        if self._is_streaming:
            return
        self._is_streaming = True
        self._utc_offset_ns = self._offset_ns()
        self._pending.clear()
        self._last_id = self._next_id - 1
        self._plan()

    def stop(self) -> None:
        """Stop; frames not fetched are discarded and their numbers given again."""
        if self._is_streaming:
            self._next_id = self._last_id + 1
        self._is_streaming = False
        self._pending.clear()
        self._next = None

    def _plan(self) -> None:
        """Lay out the frames from now on."""
        assert self._settings is not None
        assert self._geometry is not None
        settings, timing = self._settings, self._timing
        now_ns = self._clock.monotonic_ns()
        trigger = self._options.trigger
        if settings.external_trigger:
            rate_hz = settings.rate_hz or self._geometry.max_rate_hz
            box = TriggerBox(
                rate_hz, trigger.seed, trigger.jitter_us * 1000,
                trigger.half_width_us * 1000 if trigger.flc else None,
            )  # fmt: skip
            self._schedule = Triggered(
                box, now_ns + self._utc_offset_ns, settings.exposure_s, timing.readout_s,
                timing.line_s, f"sensor {self._options.seed} {self._options.camera}",
            )  # fmt: skip
        else:
            self._schedule = FreeRunning(
                now_ns, 1 / self._geometry.rate_hz, settings.exposure_s, timing.readout_s
            )
        self._next = self._schedule.next()

    def wait(self, timeout_s: float) -> bool:
        """Wait for the next frame."""
        if not self._is_streaming:
            raise Refused("the camera is not streaming", code=Code.NOT_ACQUIRING)
        clock = self._clock
        now_ns = clock.monotonic_ns()
        if now_ns >= self._look_ns:
            self._look_ns = now_ns + _LOOK_NS
            self._look_at_clock()
        self._look_at_faults()
        if now_ns < self._stall_until_ns:
            clock.sleep(min(timeout_s, (self._stall_until_ns - now_ns) / 1e9))
            return False
        self._take_in(now_ns)
        if not self._pending:
            assert self._next is not None
            left_ns = self._next.ready_ns - self._schedule_ns(now_ns)
            if left_ns > timeout_s * 1e9:
                clock.sleep(timeout_s)
                return False
            clock.sleep(left_ns / 1e9)
            self._take_in(clock.monotonic_ns())
        return bool(self._pending)

    def _schedule_ns(self, monotonic_ns: int) -> int:
        assert self._schedule is not None
        return monotonic_ns + self._utc_offset_ns if self._schedule.is_utc else monotonic_ns

    def _take_in(self, monotonic_ns: int) -> None:
        """Put the frames that have become ready into the camera's memory."""
        now_ns = self._schedule_ns(monotonic_ns)
        planned, schedule = self._next, self._schedule
        assert planned is not None
        assert schedule is not None
        if now_ns - planned.ready_ns > _SKIP_BEYOND * schedule.period_ns:
            keep_ns = 2 * self._options.memory_frames * schedule.period_ns
            skipped = schedule.skip_to(now_ns - keep_ns)
            if skipped:
                self._next_id += skipped + 1
                planned = schedule.next()
        while planned.ready_ns <= now_ns:
            if self._drops:
                self._drops -= 1
            else:
                self._pending.append((self._next_id, planned))
                if len(self._pending) > self._options.memory_frames:
                    self._pending.popleft()
            self._next_id += 1
            self._missed += planned.missed
            planned = schedule.next()
        self._next = planned

    def fetch(self, slot: NDArray[Any]) -> SourceFrame:
        """Put the oldest frame of the camera's memory into `slot`."""
        hardware_id, planned = self._pending.popleft()
        assert self._settings is not None
        assert self._schedule is not None
        assert self._pattern is not None
        lost = hardware_id - self._last_id - 1
        self._last_id = hardware_id
        self._lost += lost
        offset_ns = 0 if self._schedule.is_utc else self._utc_offset_ns
        start_ns = planned.start_ns + offset_ns
        atime_ns = planned.ready_ns + offset_ns + self._stamp_late[hardware_id % _TABLE]
        if self._wrong_stamps:
            self._wrong_stamps -= 1
            atime_ns += self._wrong_by_ns
        if self._options.render == "copy":
            self._pattern.fill(slot, hardware_id)
        self._pattern.stamp(
            slot,
            Truth(
                hardware_id, start_ns, planned.pulse & 0xFFFFFFFF, self._options.camera,
                FLC_CODES[planned.flc], round(self._settings.exposure_s * 1e5), self._lost,
                self._crop,
            ),
        )  # fmt: skip
        missed, self._missed = self._missed, 0
        is_late = (
            self._schedule_ns(self._clock.monotonic_ns()) - planned.ready_ns
            > self._schedule.period_ns
        )
        return SourceFrame(start_ns, atime_ns, hardware_id, lost, missed, is_late)

    # ---------------------------------------------------------------- clock and faults

    def _offset_ns(self) -> int:
        utc_ns, now_ns = together_ns(self._clock)
        return utc_ns - now_ns

    def _look_at_clock(self) -> None:
        offset_ns = self._offset_ns()
        moved_ns = offset_ns - self._utc_offset_ns
        self._utc_offset_ns = offset_ns
        if abs(moved_ns) > _STEP_NS:
            log.warning("the clock was stepped by %.3f s", moved_ns / 1e9)
            if self._schedule is not None and self._schedule.is_utc:
                self._pending.clear()
                self._next_id = self._last_id + 1
                self._plan()

    def _look_at_faults(self) -> None:
        for fault in self._faults.due(self._next_id, self._clock.monotonic_ns()):
            self._show(fault)
        if self._is_gone:
            raise DeviceLost("simulated: the camera does not answer")
        if self._is_reshaped:
            raise GeometryChanged("simulated: the camera delivers another shape than configured")

    def _show(self, fault: FastFaultOptions) -> None:
        log.warning("fault: %s", fault.kind)
        if fault.kind == "stall":
            self._stall_until_ns = self._clock.monotonic_ns() + round(fault.seconds * NS_PER_S)
        elif fault.kind == "wedge":
            self._clock.sleep(fault.seconds)
        elif fault.kind == "drop":
            self._drops += fault.frames
        elif fault.kind == "crash":
            os._exit(70)
        elif fault.kind == "wrong_stamp":
            self._wrong_stamps, self._wrong_by_ns = fault.frames, round(fault.seconds * NS_PER_S)
        elif fault.kind == "geometry":
            self._is_reshaped = self._is_streaming
        else:
            self._is_gone = True

    def _require_open(self) -> None:
        if not self._is_open:
            raise Refused("the camera is not open", code=Code.NOT_INITIALIZED)
        if self._is_gone:
            raise DeviceLost("simulated: the camera does not answer")
