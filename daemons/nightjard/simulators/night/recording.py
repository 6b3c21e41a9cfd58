# SPDX-License-Identifier: BSD-3-Clause
"""From segments to the frames of each camera and the cubes that they go into; no files yet."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from nightjar.times import NS_PER_S
from nightjard.simulators.night.parameters import CHUNK_S, NightParameters, Segment
from nightjard.simulators.night.triggers import (
    AFTER,
    BEFORE,
    CameraTiming,
    CameraTruth,
    SegmentTruth,
    TriggerSegment,
    simulate_segment,
)
from nightjard.simulators.night.truth import FRAME, Fate, Rows

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Run:
    """Segments on one trigger train, simulated.

    Attributes
    ----------
    segments
        (number in the night, segment), at least one.
    frames
        Rows of the truth of each camera; cubes not yet given.
    period_ns
        Mean interval of the triggers.
    end_ns
        Of the last exposure.
    """

    segments: tuple[tuple[int, Segment], ...]
    frames: tuple[Rows, ...]
    start_ns: int
    end_ns: int
    period_ns: float

    @property
    def first(self) -> Segment:
        """Its first segment, which holds for cubes and cameras."""
        return self.segments[0][1]


@dataclass(frozen=True)
class Cube:
    """A cube to be written: rows of one camera, in order.

    Attributes
    ----------
    rows : (n,)
        Indices into the rows of the camera.
    run
        Of its last frame.
    expected
        Its length if it had been filled.
    is_lost
        It vanishes.
    """

    camera: int
    rows: npt.NDArray[np.int64]
    run: int
    expected: int
    is_lost: bool


def simulate_runs(parameters: NightParameters) -> list[Run]:
    """Return the runs of a night, in order of time."""
    groups = list(_groups(parameters.segments))
    runs: list[Run] = []
    counters = [1 + 1000 * camera for camera in range(parameters.cameras)]
    at_ns = _start(parameters, groups)
    for group in groups:
        first = group[0][1]
        if runs:
            at_ns = runs[-1].end_ns + round(first.pause_s * NS_PER_S)
        at_ns -= at_ns % 1000  # stamps of the grabber are whole microseconds
        timed = _trigger_segment(group, at_ns)
        seed = [parameters.seed, len(runs)]
        truth = _simulate(timed, seed, counters, parameters.buffer_frames)
        if first.loss_places:
            timed = _with_losses(timed, truth, first)
            truth = _simulate(timed, seed, counters, parameters.buffer_frames)
        counters = [
            _next_counter(camera, counter)
            for camera, counter in zip(truth.cameras, counters, strict=True)
        ]
        runs.append(_run(group, truth))
    return runs


def _groups(segments: Sequence[Segment]) -> Iterator[tuple[tuple[int, Segment], ...]]:
    """Yield the segments of each run, with their numbers."""
    group: list[tuple[int, Segment]] = []
    for number, segment in enumerate(segments):
        if group and not segment.continues:
            yield tuple(group)
            group = []
        group.append((number, segment))
    yield tuple(group)


def _trigger_segment(group: Sequence[tuple[int, Segment]], start_ns: int) -> TriggerSegment:
    first = group[0][1]
    setup = first.setup
    mode: Literal["fast", "slow"] = "slow" if setup.mode == "Slow" else "fast"
    return TriggerSegment(
        start_ns=start_ns, exposure_s=setup.exposure_s, rows=setup.rows, cameras=first.timings,
        triggers=sum(segment.frames for _, segment in group), mode=mode,
        is_triggered=setup.is_triggered, has_flc=setup.flc, half_width_us=setup.half_width_us,
        pause_fraction=first.pause_fraction, restarts=first.restarts,
    )  # fmt: skip


def _start(
    parameters: NightParameters, groups: Sequence[Sequence[tuple[int, Segment]]]
) -> int:
    """Return the first trigger: such that the middle of a segment is at midnight, if one is."""
    wanted = [n for n, segment in enumerate(parameters.segments) if segment.at_midnight]
    if not wanted:
        return parameters.start_ns
    since = 0.0  # nominal seconds from the first trigger
    for group in groups:
        timed = _trigger_segment(group, 0)
        period_s = timed.period_us * 1e-6
        if timed.has_flc and timed.is_triggered:
            period_s += timed.half_width_us * 1e-6
        if group[0][0] > 0:
            since += group[0][1].pause_s
        for number, segment in group:
            if number == wanted[0]:
                middle_s = since + segment.frames * period_s / 2
                return parameters.midnight_ns - round(middle_s * NS_PER_S)
            since += segment.frames * period_s
    raise AssertionError("a segment is in no run")


def _simulate(
    timed: TriggerSegment, seed: list[int], counters: Sequence[int], buffer_frames: int
) -> SegmentTruth:
    rng = np.random.default_rng(seed)
    return simulate_segment(timed, rng, counters, buffer_frames=buffer_frames)


def _next_counter(camera: CameraTruth, counter: int) -> int:
    """Return the number that the camera's next frame will have."""
    if not len(camera.counter):
        return counter
    last = int(camera.trigger[-1])
    behind = sum(1 for trigger, where in camera.lost if where == AFTER and trigger > last)
    return int(camera.counter[-1]) + 1 + behind


def _run(group: tuple[tuple[int, Segment], ...], truth: SegmentTruth) -> Run:
    first = group[0][1]
    bounds = np.cumsum([segment.frames for _, segment in group])[:-1]
    start, end = int(truth.trigger_ns[0]), int(truth.trigger_ns[-1])
    frames = []
    for number, camera in enumerate(truth.cameras, start=1):
        rows = _rows(number, camera, truth)
        rows["segment"] = group[0][0] + np.searchsorted(bounds, rows["trigger"], side="right")
        skew_ns = round(first.skew_s[number - 1] * NS_PER_S)
        is_off = rows["true_ns"] < start + skew_ns
        if first.off is not None and first.off[0] == number:
            off_at, on_at = (start + round((end - start) * part) for part in first.off[1:])
            is_off |= (rows["true_ns"] >= off_at) & (rows["true_ns"] < on_at)
        rows["fate"][is_off] = Fate.NOT_LOGGED
        frames.append(rows)
    last = max([end, *(int(rows["logged_ns"].max()) for rows in frames if len(rows))])
    period = (end - start) / max(1, len(truth.trigger_ns) - 1)
    if not first.setup.is_triggered and len(frames[0]) > 1:
        period = float(np.median(np.diff(frames[0]["true_ns"])))
    return Run(group, tuple(frames), start, last, max(period, 1.0))


def _rows(number: int, camera: CameraTruth, truth: SegmentTruth) -> Rows:
    """Return recorded and lost frames of one camera by trigger."""
    count, lost = len(camera.trigger), camera.lost
    rows = np.zeros(count + len(lost), FRAME)
    rows["camera"], rows["cube"], rows["index"] = number, -1, -1
    for name in ("trigger", "state", "acquired_ns", "logged_ns", "counter", "slot"):
        rows[name][:count] = getattr(camera, name)
    rows["true_ns"][:count] = camera.exposed_ns
    rows["repeats"][:count] = camera.is_duplicate
    if lost:
        triggers = np.array([trigger for trigger, _ in lost], np.int64)
        rows["trigger"][count:] = triggers
        rows["fate"][count:] = [
            Fate.LOST_BEFORE_MEMORY if where == BEFORE else Fate.LOST_AFTER_MEMORY
            for _, where in lost
        ]
        if truth.segment.is_triggered:
            rows["state"][count:] = truth.state[triggers]
            rows["true_ns"][count:] = truth.trigger_ns[triggers]
        elif count:
            origin = int(camera.exposed_ns[0])
            times = np.interp(triggers, camera.trigger, camera.exposed_ns - origin)
            rows["true_ns"][count:] = origin + np.round(times).astype(np.int64)
    ordered: Rows = rows[np.argsort(rows["trigger"], kind="stable")]
    return ordered


# --- losses at chosen places -------------------------------------------------------------------


def _with_losses(timed: TriggerSegment, truth: SegmentTruth, first: Segment) -> TriggerSegment:
    """Return the segment with further losses at the places that it asks for."""
    lost: list[list[tuple[int, str]]] = [list(timing.lost) for timing in timed.cameras]
    last = len(truth.trigger_ns) - 1
    cameras = range(len(lost))
    if "chunk-border" in first.loss_places:
        times = truth.trigger_ns - truth.trigger_ns[0]
        for border in np.arange(CHUNK_S, times[-1] / NS_PER_S, CHUNK_S):
            trigger = int(np.searchsorted(times, border * NS_PER_S))
            lost[trigger % len(lost)].append((trigger, BEFORE))
    if "first-frames" in first.loss_places:
        lost[0] += [(3, BEFORE)]
    if "last-frames" in first.loss_places:
        lost[-1] += [(last - 3, AFTER)]
    if "both-cameras" in first.loss_places:
        for camera_lost in lost:
            camera_lost.append((last // 2, BEFORE))
    if "alternating" in first.loss_places:
        for step, number in zip(range(6), itertools.cycle(cameras), strict=False):
            lost[number].append((last // 3 + 2 * step, BEFORE if step % 4 < 2 else AFTER))
    for number, camera in enumerate(truth.cameras):  # last: the others move the borders
        skew_ns = round(first.skew_s[number] * NS_PER_S)
        seen = camera.trigger[camera.exposed_ns >= timed.start_ns + skew_ns]
        seen = seen[~np.isin(seen, [trigger for trigger, _ in lost[number]])]
        if "cube-border" in first.loss_places and len(seen):
            lost[number] += [(t, AFTER) for t in _borders(seen, first.cube_frames[number])]
    timings: tuple[CameraTiming, ...] = tuple(
        dataclasses.replace(
            timing, lost=tuple((t, where) for t, where in sorted(set(places)) if 0 <= t <= last)
        )
        for timing, places in zip(timed.cameras, lost, strict=True)
    )
    return dataclasses.replace(timed, cameras=timings)


def _borders(seen: npt.NDArray[np.int64], lengths: Sequence[int]) -> Iterator[int]:
    """Yield the triggers of frames that would begin the second, third ... cube."""
    at = 0
    for length in itertools.chain(lengths, itertools.repeat(lengths[-1])):
        at += length
        if at >= len(seen) - 1:
            return
        yield int(seen[at])
        at += 1  # the cube begins with the frame after the lost one


# --- cubes -------------------------------------------------------------------------------------


def cut_cubes(parameters: NightParameters, runs: Sequence[Run]) -> tuple[list[Rows], list[Cube]]:
    """Return the rows of each camera and the cubes, by camera and time.

    A cube ends when it is full, when nothing came for the logger's timeout, when the logger was
    switched off, or when the frames change their size. Rows get fate, cube and index.
    """
    per_camera, cubes = [], []
    for number in range(1, parameters.cameras + 1):
        parts = [run.frames[number - 1] for run in runs]
        rows = np.concatenate(parts)
        run_of = np.repeat(np.arange(len(runs)), [len(part) for part in parts])
        logged = np.flatnonzero(rows["fate"] == Fate.LOGGED)
        for stretch in _stretches(parameters, runs, rows, run_of, logged):
            lengths = runs[int(run_of[stretch[0]])].first.cube_frames[number - 1]
            at = 0
            for length in itertools.chain(lengths, itertools.repeat(lengths[-1])):
                if at >= len(stretch):
                    break
                taken = stretch[at : at + length]
                cubes.append(Cube(number, taken, int(run_of[taken[-1]]), length, False))
                at += length
        per_camera.append(rows)
    cubes = _lose_cubes(runs, cubes)
    numbers = itertools.count()
    for cube in cubes:
        rows = per_camera[cube.camera - 1]
        if cube.is_lost:
            rows["fate"][cube.rows] = Fate.CUBE_LOST
        else:
            rows["cube"][cube.rows] = next(numbers)
            rows["index"][cube.rows] = np.arange(len(cube.rows))
    return per_camera, [cube for cube in cubes if not cube.is_lost]


def _stretches(
    parameters: NightParameters,
    runs: Sequence[Run],
    rows: Rows,
    run_of: npt.NDArray[np.int64],
    logged: npt.NDArray[np.int64],
) -> list[npt.NDArray[np.int64]]:
    """Return the logged rows between which no cube was closed but full ones."""
    if not len(logged):
        return []
    gap_ns = np.diff(rows["logged_ns"][logged])
    is_new: Bools = gap_ns > parameters.timeout_s * NS_PER_S
    is_off = np.concatenate([[0], np.cumsum(rows["fate"] == Fate.NOT_LOGGED)])
    is_new |= is_off[logged[1:]] > is_off[logged[:-1]]
    shapes = [run.first.frame_shape or parameters.frame_shape for run in runs]
    crops = [(run.first.setup.rows, run.first.setup.columns) for run in runs]
    kinds = np.array([[*shape, *crop] for shape, crop in zip(shapes, crops, strict=True)])
    is_new |= (kinds[run_of[logged[1:]]] != kinds[run_of[logged[:-1]]]).any(axis=1)
    return np.split(logged, np.flatnonzero(is_new) + 1)


def _lose_cubes(runs: Sequence[Run], cubes: list[Cube]) -> list[Cube]:
    """Mark the middle cube of each run and camera that loses one."""
    for number, run in enumerate(runs):
        if not run.first.lost_cube:
            continue
        chosen = [
            index for index, cube in enumerate(cubes)
            if cube.run == number and cube.camera == run.first.lost_cube
        ]  # fmt: skip
        if len(chosen) > 1:
            index = chosen[len(chosen) // 2]
            cubes[index] = dataclasses.replace(cubes[index], is_lost=True)
    return cubes
