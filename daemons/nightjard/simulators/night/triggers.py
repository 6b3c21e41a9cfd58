# SPDX-License-Identifier: BSD-3-Clause
"""When cameras on one trigger expose, and when their frames arrive: times only, with the truth.

A controller pulses all cameras at once, waits until all are ready, and pulses again. With the
modulator on, the interval after an exposure with the modulator low is longer by twice the half
width; the state begins low whenever the controller starts. Each camera delivers its frame after
exposure and read-out, with a latency of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

ROW_US = {"fast": 3.6, "slow": 86.4}
LINE_US = {"fast": 7.2, "slow": 172.8}
PULSE_US = 20.0
BEFORE, AFTER = "before", "after"  # where a frame was lost: before or after it had a number


@dataclass(frozen=True)
class CameraTiming:
    """How one camera delivers its frames.

    Attributes
    ----------
    offset_us
        Constant latency. `step_us` is added from the middle of the segment on, `drift_ppm` grows
        from its start.
    mean_latency_us
        Mean of a gamma distribution of shape 2.
    spike_fraction, stall_fraction
        Frames that are late by exp(800 us); frames after which nothing arrives for 5 to 50 ms.
    loss_before, loss_after
        Fraction of frames lost before (the counter does not jump) and after they were numbered.
    bursts
        Runs of lost frames: (first trigger, count).
    burst_fraction
        Random bursts of 2 to 20 frames, as a fraction of triggers at which one begins.
    lost
        (trigger, "before" or "after"): losses at places of one's choice.
    duplicates
        Triggers whose frame is recorded twice, with the same time and counter.
    start_delay_s, stop_early_s
        The camera sees nothing so long after the start and before the end.
    """

    offset_us: float = 0.0
    step_us: float = 0.0
    drift_ppm: float = 0.0
    mean_latency_us: float = 30.0
    spike_fraction: float = 0.0
    stall_fraction: float = 0.0
    loss_before: float = 0.0
    loss_after: float = 0.0
    bursts: Sequence[tuple[int, int]] = ()
    burst_fraction: float = 0.0
    lost: Sequence[tuple[int, str]] = ()
    duplicates: Sequence[int] = ()
    start_delay_s: float = 0.0
    stop_early_s: float = 0.0


@dataclass(frozen=True)
class TriggerSegment:
    """A stretch of exposures with one set-up.

    Attributes
    ----------
    start_ns
        First trigger, ns UTC.
    duration_s, triggers
        How long; one of them is given.
    exposure_s, rows, mode
        Of the detector.
    is_triggered
        False: every camera runs by itself.
    has_flc, half_width_us
        The modulator, and half of what low exposures wait longer.
    pauses
        (trigger, seconds): the interval after it is longer.
    pause_fraction
        Random pauses of 0 to 3 ms (serial commands), as a fraction of triggers.
    restarts
        (trigger, seconds): the controller is started again before it: state low, a gap.
    extra_period_us
        Overhead of the controller that the header knows nothing of.
    """

    start_ns: int
    exposure_s: float
    rows: int
    cameras: tuple[CameraTiming, ...]
    duration_s: float | None = None
    triggers: int | None = None
    mode: Literal["fast", "slow"] = "fast"
    is_triggered: bool = True
    has_flc: bool = False
    half_width_us: float = 500.0
    pauses: Sequence[tuple[int, float]] = ()
    pause_fraction: float = 0.0
    restarts: Sequence[tuple[int, float]] = ()
    extra_period_us: float = 0.0

    @property
    def exposure_ns(self) -> int:
        """Exposure time."""
        return round(self.exposure_s * 1e9)

    @property
    def readout_ns(self) -> int:
        """Read-out time."""
        return round(self.rows * ROW_US[self.mode] * 1e3)

    @property
    def period_us(self) -> float:
        """Shortest interval between triggers."""
        return (self.exposure_ns + self.readout_ns) / 1e3 + PULSE_US + self.extra_period_us


@dataclass(frozen=True)
class CameraTruth:
    """What a camera recorded, arrays of one length, and what it lost.

    Attributes
    ----------
    trigger
        Index in the segment of the trigger that each frame belongs to; of an untriggered camera
        the index of its own exposure.
    state
        1 driven high, -1 low, 0 no modulator.
    acquired_ns, logged_ns
        Times of the frame grabber (to 1 us) and of the logger.
    counter, slot
        cnt0, and cnt1: cnt0 modulo the buffer.
    exposed_ns
        True start of the exposure.
    is_duplicate
        The second record of a frame.
    lost
        (trigger, where), in order; only between the camera's first and last exposure.
    """

    trigger: Ints
    state: npt.NDArray[np.int8]
    acquired_ns: Ints
    logged_ns: Ints
    counter: npt.NDArray[np.uint64]
    slot: npt.NDArray[np.uint64]
    exposed_ns: Ints
    is_duplicate: Bools
    lost: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class SegmentTruth:
    """A simulated segment."""

    segment: TriggerSegment
    trigger_ns: Ints
    state: npt.NDArray[np.int8]
    cameras: tuple[CameraTruth, ...] = field(default=())


def simulate_segment(
    segment: TriggerSegment,
    rng: np.random.Generator,
    first_counters: Sequence[int] | None = None,
    *,
    buffer_frames: int = 100,
    logged_offset_ns: int = 0,
) -> SegmentTruth:
    """Simulate a segment.

    Parameters
    ----------
    segment
        What happens.
    rng
        Source of all randomness; the same seed gives the same segment.
    first_counters
        cnt0 of the first frame of each camera; 1 by default.
    buffer_frames
        Slices of the rolling buffer: cnt1 is cnt0 modulo this.
    logged_offset_ns
        What the logger's clock is ahead (37 s when it counts TAI).
    """
    start_us, state = _triggers(segment, rng)
    counters = first_counters or [1] * len(segment.cameras)
    cameras = []
    for timing, counter in zip(segment.cameras, counters, strict=True):
        exposed_us, states = start_us, state
        if not segment.is_triggered:
            exposed_us, states = _free_run(segment, rng, float(start_us[-1]))
        cameras.append(
            _record(
                segment, timing, rng, exposed_us, states, counter, buffer_frames, logged_offset_ns
            )
        )
    return SegmentTruth(segment, _to_ns(segment, start_us), state, tuple(cameras))


def _to_ns(segment: TriggerSegment, time_us: Floats) -> Ints:
    return segment.start_ns + np.round(time_us * 1e3).astype(np.int64)


def _count(segment: TriggerSegment) -> int:
    if segment.triggers is not None:
        return segment.triggers
    if segment.duration_s is None:
        raise ValueError("simulate_segment: neither duration_s nor triggers is given")
    mean_us = segment.period_us + LINE_US[segment.mode] / 2
    if segment.has_flc and segment.is_triggered:
        mean_us += segment.half_width_us
    return max(1, round(segment.duration_s * 1e6 / mean_us))


def _triggers(
    segment: TriggerSegment, rng: np.random.Generator
) -> tuple[Floats, npt.NDArray[np.int8]]:
    """Start of every exposure (us after the segment's start) and the modulator's state."""
    count = _count(segment)
    interval = segment.period_us + rng.uniform(0.0, LINE_US[segment.mode], count)
    since_start = np.arange(count)
    for trigger, _ in sorted(segment.restarts):
        since_start[trigger:] = np.arange(count - trigger)
    state = np.zeros(count, np.int8)
    if segment.has_flc and segment.is_triggered:
        state = np.where(since_start % 2 == 0, -1, 1).astype(np.int8)
        interval[state < 0] += 2.0 * segment.half_width_us
    is_paused = rng.random(count) < segment.pause_fraction
    interval[is_paused] += rng.uniform(0.0, 3000.0, int(is_paused.sum()))
    for trigger, pause_s in segment.pauses:
        interval[trigger] += pause_s * 1e6
    for trigger, gap_s in segment.restarts:
        interval[trigger - 1] += gap_s * 1e6
    return np.concatenate([[0.0], np.cumsum(interval[:-1])]), state


def _free_run(
    segment: TriggerSegment, rng: np.random.Generator, length_us: float
) -> tuple[Floats, npt.NDArray[np.int8]]:
    """Exposures of a camera that triggers itself: its own phase and, by ppm, its own period."""
    period_us = max(segment.exposure_ns, segment.readout_ns) / 1e3 + LINE_US[segment.mode]
    period_us *= 1.0 + float(rng.normal(0.0, 5e-6))
    count = int(length_us / period_us) + 1
    times: Floats = float(rng.uniform(0.0, period_us)) + period_us * np.arange(float(count))
    return times, np.zeros(len(times), np.int8)


def _record(
    segment: TriggerSegment,
    timing: CameraTiming,
    rng: np.random.Generator,
    exposed_us: Floats,
    states: npt.NDArray[np.int8],
    first_counter: int,
    buffer_frames: int,
    logged_offset_ns: int,
) -> CameraTruth:
    trigger = np.arange(len(exposed_us))
    arrived_us = _arrivals(segment, timing, rng, exposed_us)
    is_seen = exposed_us >= timing.start_delay_s * 1e6
    is_seen &= exposed_us <= exposed_us[-1] - timing.stop_early_s * 1e6
    before, after = _losses(timing, rng, len(trigger))
    numbered = is_seen & ~before
    number = np.cumsum(numbered) - 1 + first_counter
    kept = np.flatnonzero(numbered & ~after)
    times = np.maximum.accumulate(arrived_us[kept])
    kept, times, is_duplicate = _duplicate(timing, kept, times)
    acquired_ns = segment.start_ns + np.round(times).astype(np.int64) * 1000
    # The logger copies in order, a little after the grabber.
    delay_ns = np.round(rng.gamma(2.0, 30e3, len(kept))).astype(np.int64)
    logged_ns = np.maximum.accumulate(acquired_ns + delay_ns) + logged_offset_ns
    is_lost = is_seen & (before | after)
    counter = number[kept].astype(np.uint64)
    return CameraTruth(
        trigger=trigger[kept],
        state=states[kept],
        acquired_ns=acquired_ns,
        logged_ns=logged_ns,
        counter=counter,
        slot=counter % np.uint64(buffer_frames),
        exposed_ns=_to_ns(segment, exposed_us[kept]),
        is_duplicate=is_duplicate,
        lost=tuple((int(k), BEFORE if before[k] else AFTER) for k in np.flatnonzero(is_lost)),
    )


def _arrivals(
    segment: TriggerSegment, timing: CameraTiming, rng: np.random.Generator, exposed_us: Floats
) -> Floats:
    count = len(exposed_us)
    late_us = rng.gamma(2.0, timing.mean_latency_us / 2, count) + timing.offset_us
    late_us += np.where(exposed_us >= exposed_us[-1] / 2, timing.step_us, 0.0)
    late_us += exposed_us * timing.drift_ppm * 1e-6
    spikes = np.flatnonzero(rng.random(count) < timing.spike_fraction)
    late_us[spikes] += rng.exponential(800.0, len(spikes))
    arrived = exposed_us + (segment.exposure_ns + segment.readout_ns) / 1e3 + late_us
    for index in np.flatnonzero(rng.random(count) < timing.stall_fraction).tolist():
        end_us = arrived[index] + rng.uniform(5e3, 50e3)
        last = int(np.searchsorted(arrived, end_us))  # nearly sorted: good enough for a stall
        arrived[index:last] = np.maximum(arrived[index:last], end_us)
    # A frame never overtakes: it comes a few us after the one before it.
    step_us = 8.0 * np.arange(count)
    return np.asarray(np.maximum.accumulate(arrived - step_us) + step_us)


def _losses(timing: CameraTiming, rng: np.random.Generator, count: int) -> tuple[Bools, Bools]:
    before = rng.random(count) < timing.loss_before
    after = rng.random(count) < timing.loss_after
    for first in np.flatnonzero(rng.random(count) < timing.burst_fraction).tolist():
        after[first : first + int(rng.integers(2, 21))] = True
    for first, length in timing.bursts:
        after[first : first + length] = True
    for trigger, where in timing.lost:
        (before if where == BEFORE else after)[trigger] = True
    return before, after & ~before


def _duplicate(timing: CameraTiming, kept: Ints, times: Floats) -> tuple[Ints, Floats, Bools]:
    repeats = np.ones(len(kept), np.int64)
    repeats[np.isin(kept, np.asarray(timing.duplicates, np.int64))] = 2
    order = np.repeat(np.arange(len(kept)), repeats)
    is_duplicate = np.concatenate([[False], order[1:] == order[:-1]])[: len(order)]
    return kept[order], times[order], is_duplicate
