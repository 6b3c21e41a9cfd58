# SPDX-License-Identifier: BSD-3-Clause
"""Frames that were lost, told from the time in which a camera recorded nothing at all.

Whoever stops a camera, or its logger, for a minute loses no frames: nobody wanted them. The stream
counter may run on meanwhile, so that its jump looks like a loss of thousands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from nightjar.times import NS_PER_S
from nightjard.archived.nights.config import NightsConfig
from nightjard.archived.nights.plan import Plan
from nightjard.archived.nights.records import Ints


@dataclass(frozen=True)
class Silence:
    """A stretch of a run in which a camera recorded nothing.

    Attributes
    ----------
    first_ns, last_ns
        From the last frame before, or the run's beginning, to the next one, or the run's end.
    frames
        That went by, as its stream counter tells; 0 where it does not.
    """

    stream: str
    run: int
    first_ns: int
    last_ns: int
    frames: int


@dataclass(frozen=True)
class Losses:
    """What is missing in a night.

    Attributes
    ----------
    by_run
        Of each run {stream: {evidence: count}}, without the silences.
    silences
        In order of time.
    """

    by_run: tuple[Mapping[str, Mapping[str, int]], ...]
    silences: tuple[Silence, ...]

    @property
    def by_stream(self) -> dict[str, int]:
        """Frames lost of each camera."""
        found: Counter[str] = Counter()
        for run in self.by_run:
            for stream, evidence in run.items():
                found[stream] += sum(evidence.values())
        return dict(found)

    @property
    def total(self) -> int:
        """Frames lost of all cameras."""
        return sum(self.by_stream.values())


@dataclass(frozen=True)
class _Track:
    """What a camera recorded, in order of time: arrays of one length."""

    times: Ints
    runs: Ints
    counters: Ints


def losses(plan: Plan, config: NightsConfig) -> Losses:
    """Return what is missing in a night; silences longer than `thresholds.off_seconds` are none."""
    least_ns = round(config.thresholds.off_seconds * NS_PER_S)
    tracks = dict(_tracks(plan))
    silences = sorted(
        (each for stream, track in tracks.items()
         for each in (*_pauses(stream, track, least_ns), *_ends(plan, stream, track, least_ns),
                      *_absences(plan, config, stream, track, least_ns))),
        key=lambda each: (each.first_ns, each.stream),
    )  # fmt: skip
    passed: Counter[tuple[int, str]] = Counter()
    for each in silences:
        passed[each.run, each.stream] += each.frames
    by_run = tuple(
        {stream: _without(evidence, passed[run.number, stream])
         for stream, evidence in run.lost.items()}
        for run in plan.runs
    )  # fmt: skip
    return Losses(by_run, tuple(silences))


def _without(evidence: Mapping[str, int], passed: int) -> dict[str, int]:
    left = dict(evidence)
    for kind in ("counter", "time"):
        taken = min(passed, left.get(kind, 0))
        if taken:
            left[kind] -= taken
            passed -= taken
    return left


def _tracks(plan: Plan) -> Iterator[tuple[str, _Track]]:
    rows = plan.rows
    streams = np.array([cube.stream for cube in plan.cubes])
    is_in_run = (rows["RUN"] >= 0) & (rows["ATIME"] > 0)
    for stream in np.unique(streams).tolist():
        is_mine = np.append(streams == stream, False)  # -1: no cube
        where = np.flatnonzero(is_in_run & is_mine[rows["cube"]])
        # Products hold frames in order of time: a stable sort finds them so.
        where = where[np.argsort(rows["ATIME"][where], kind="stable")]
        if len(where):
            yield stream, _Track(
                rows["ATIME"][where], rows["RUN"][where].astype(np.int64),
                rows["CNT0"][where].astype(np.int64),
            )  # fmt: skip


def _pauses(stream: str, track: _Track, least_ns: int) -> Iterator[Silence]:
    is_pause = (np.diff(track.times) > least_ns) & (track.runs[1:] == track.runs[:-1])
    for at in np.flatnonzero(is_pause).tolist():
        frames = max(0, int(track.counters[at + 1] - track.counters[at]) - 1)
        yield Silence(
            stream, int(track.runs[at]), int(track.times[at]), int(track.times[at + 1]), frames
        )


def _ends(plan: Plan, stream: str, track: _Track, least_ns: int) -> Iterator[Silence]:
    """Yield where a camera came later than the others of a run, or went earlier."""
    for number in np.unique(track.runs).tolist():
        run, mine = plan.runs[number], track.times[track.runs == number]
        for first_ns, last_ns in ((run.first_ns, int(mine[0])), (int(mine[-1]), run.last_ns)):
            if last_ns - first_ns > least_ns:
                yield Silence(stream, number, first_ns, last_ns, 0)


def _absences(
    plan: Plan, config: NightsConfig, stream: str, track: _Track, least_ns: int
) -> Iterator[Silence]:
    """Yield the runs of its group of which a camera has no frame, and no other set-up meanwhile."""
    group = next(
        (set(each.streams) for each in config.groups.values() if stream in each.streams), set()
    )
    for run in plan.runs:
        if stream in run.streams or not group & set(run.streams):
            continue
        begin, end = np.searchsorted(track.times, (run.first_ns, run.last_ns))
        if begin == end and run.last_ns - run.first_ns > least_ns:
            yield Silence(stream, run.number, run.first_ns, run.last_ns, 0)
