# SPDX-License-Identifier: BSD-3-Clause
"""Runs of two cameras with known truth, and scores of how they were solved."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np

from nightjard.archived.nights.records import Reason
from nightjard.archived.nights.sync import CameraFrames, Physics, RunSolution, solve_run
from nightjard.simulators.night.triggers import (
    CameraTiming,
    CameraTruth,
    SegmentTruth,
    TriggerSegment,
    simulate_segment,
)

START_NS = 1_760_000_000_000_000_000
Evidence = Literal["start", "pauses", "none"]
MODES: tuple[Literal["fast", "slow"], ...] = ("fast", "slow")
EVIDENCE: tuple[Evidence, ...] = ("start", "pauses", "none")
PAUSES = (0.13, 0.21, 0.34, 0.4, 0.55, 0.62, 0.7, 0.82)  # where, as a fraction of the run
Value = TypeVar("Value")


@dataclass(frozen=True)
class Case:
    """A run of two cameras.

    ``evidence`` is what tells whole triggers apart besides the modulator: cameras that begin and
    end with the trigger, pauses of the trigger, or nothing. Restarts of the controller and frames
    recorded twice are at random places; ``extra_us`` is overhead that the header does not tell.
    """

    rows: int = 536
    mode: Literal["fast", "slow"] = "fast"
    exposure_s: float = 1.5e-4
    half_width_us: float | None = 500.0
    offset_us: float = 150.0
    latency_us: float = 30.0
    loss: float = 1e-3
    spikes: float = 0.0
    stalls: float = 0.0
    step_us: float = 0.0
    drift_ppm: float = 0.0
    bursts: float = 0.0
    evidence: Evidence = "start"
    triggers: int = 20_000
    seed: int = 1
    restarts: int = 0
    pause_fraction: float = 0.0
    duplicates: int = 0
    extra_us: float = 0.0

    @property
    def segment(self) -> TriggerSegment:
        """What is simulated."""
        period_s = (self.exposure_s * 1e6 + self.rows * (3.6, 86.4)[self.mode == "slow"]) / 1e6
        apart_s = 0.0 if self.evidence == "start" else min(1.0, self.triggers * period_s / 8)
        first, second = (
            CameraTiming(
                offset_us=offset, mean_latency_us=self.latency_us, loss_before=self.loss / 2,
                loss_after=self.loss / 2, spike_fraction=self.spikes, stall_fraction=self.stalls,
                step_us=step, drift_ppm=drift, burst_fraction=self.bursts,
                start_delay_s=delay * apart_s, stop_early_s=early * apart_s,
            )
            for offset, step, drift, delay, early in (
                (0.0, 0.0, 0.0, 1.0, 0.0),
                (self.offset_us, self.step_us, self.drift_ppm, 0.0, 0.7),
            )
        )  # fmt: skip
        pauses = (
            [(int(place * self.triggers), 3e-3 * (0.2 + place)) for place in PAUSES]
            if self.evidence == "pauses" else []
        )  # fmt: skip
        rng = np.random.default_rng(self.seed + 7)  # restarts and duplicates
        number = self.restarts if self.triggers > 2 else 0
        places = np.unique(rng.integers(1, max(self.triggers, 2), number)).tolist()
        first, second = (
            replace(each, duplicates=rng.integers(0, self.triggers, self.duplicates).tolist())
            for each in (first, second)
        )
        restarts = [(place, float(rng.uniform(0.2, 5.0))) for place in places]
        return TriggerSegment(
            start_ns=START_NS, exposure_s=self.exposure_s, rows=self.rows, restarts=restarts,
            pause_fraction=self.pause_fraction, extra_period_us=self.extra_us,
            cameras=(first, second), triggers=self.triggers, mode=self.mode,
            has_flc=self.half_width_us is not None, half_width_us=self.half_width_us or 0.0,
            pauses=pauses,
        )  # fmt: skip

    @property
    def period_us(self) -> float:
        """Shortest interval."""
        return self.segment.period_us

    def simulate(self) -> SegmentTruth:
        """Return the truth."""
        return simulate_segment(self.segment, np.random.default_rng(self.seed), (1, 1000))


@dataclass
class Score:
    """How a run was solved."""

    case: Case
    frames: int = 0
    pairs: int = 0
    wrong_pairs: int = 0
    off_by_one: int = 0
    true_pairs: int = 0
    labelled: int = 0
    wrong_labels: int = 0
    dubious: int = 0
    ambiguous: int = 0
    verdict: str = ""
    offset_error_us: float = 0.0
    us_per_frame: float = 0.0
    text: str = ""

    @property
    def precision(self) -> float:
        """Right pairs among those that were made."""
        return 1.0 - self.wrong_pairs / self.pairs if self.pairs else 1.0

    @property
    def recall(self) -> float:
        """Right pairs among those that exist."""
        return (self.pairs - self.wrong_pairs) / self.true_pairs if self.true_pairs else 1.0

    @property
    def wrong_fraction(self) -> float:
        """Labels that are wrong, of all frames."""
        return self.wrong_labels / max(self.frames, 1)

    @property
    def dubious_fraction(self) -> float:
        """Frames without a label."""
        return self.dubious / max(self.frames, 1)

    @property
    def is_inverted(self) -> bool:
        """Most labels are wrong."""
        return self.wrong_labels > self.labelled / 2


def physics_of(segment: TriggerSegment) -> Physics:
    """Return what the header would say."""
    return Physics.of(
        segment.exposure_s, segment.rows, segment.mode == "slow",
        segment.half_width_us if segment.has_flc else None,
    )  # fmt: skip


def frames_of(truth: SegmentTruth) -> list[CameraFrames]:
    """Return what the cameras recorded."""
    return [
        CameraFrames(f"vcam{number}", camera.acquired_ns, camera.counter)
        for number, camera in enumerate(truth.cameras, 1)
    ]


def matched(solution: RunSolution) -> tuple[Any, Any]:
    """Return the indices of paired frames, of the first and of the second camera."""
    first, second = (np.flatnonzero(reason == Reason.PAIRED) for reason in solution.reason[:2])
    _, one, two = np.intersect1d(
        solution.trigger[0][first], solution.trigger[1][second], assume_unique=True,
        return_indices=True,
    )  # fmt: skip
    assert len(one) == len(first) == len(second), "a paired frame has no partner"
    return first[one], second[two]


def score(case: Case) -> Score:
    """Simulate a case, solve it, and compare with the truth."""
    truth = case.simulate()
    cameras = frames_of(truth)
    started = time.process_time()
    solution = solve_run(cameras, physics_of(truth.segment))
    elapsed = time.process_time() - started
    first, second = matched(solution)
    one, two = truth.cameras
    off = two.trigger[second] - one.trigger[first]
    found = Score(
        case, frames=sum(len(camera.trigger) for camera in truth.cameras), pairs=len(first),
        wrong_pairs=int((off != 0).sum()), off_by_one=int((np.abs(off) == 1).sum()),
        true_pairs=len(np.intersect1d(one.trigger, two.trigger)),
        ambiguous=sum(int((reason == Reason.AMBIGUOUS).sum()) for reason in solution.reason),
        verdict=solution.report["verdict"], text=solution.report["text"],
    )  # fmt: skip
    found.us_per_frame = elapsed / found.frames * 1e6
    late = two.exposed_ns + case.offset_us * 1e3
    late += case.drift_ppm * 1e-6 * (two.exposed_ns - START_NS)
    late += np.where(two.exposed_ns - START_NS >= truth.trigger_ns[-1] / 2 - START_NS / 2,
                     case.step_us * 1e3, 0.0)  # fmt: skip
    true_offset = late - two.exposed_ns
    if len(true_offset):
        error_ns = np.median(np.abs(solution.offset_ns[1] - true_offset))
        found.offset_error_us = float(error_ns) / 1e3
    for state, camera in zip(solution.state, truth.cameras, strict=True):
        if case.half_width_us is None:
            assert not state.any()
            continue
        found.labelled += int((state != 0).sum())
        found.dubious += int((state == 0).sum())
        found.wrong_labels += int(((state != 0) & (state != camera.state)).sum())
    return found


@dataclass(frozen=True)
class Jumps:
    """A run of recordings with pauses of the cameras between them, an offset for each.

    ``skew_s`` is by how much each camera begins later than the trigger, in every recording.
    """

    offsets_us: tuple[float, ...] = (150.0, 1200.0, -500.0)
    pause_s: float = 4.0
    triggers: int = 1500
    rows: int = 268
    mode: Literal["fast", "slow"] = "fast"
    exposure_s: float = 1e-3
    half_width_us: float | None = 500.0
    loss: float = 1e-3
    spikes: float = 1e-3
    skew_s: tuple[float, float] = (0.05, 0.3)
    seed: int = 1

    @property
    def segment(self) -> TriggerSegment:
        """The first recording."""
        return self._segment(self.offsets_us[0], START_NS)

    def _segment(self, offset_us: float, start_ns: int) -> TriggerSegment:
        first, second = (
            CameraTiming(
                offset_us=offset, mean_latency_us=latency_us, loss_before=self.loss / 2,
                loss_after=self.loss / 2, spike_fraction=self.spikes, start_delay_s=delay_s,
            )
            for offset, latency_us, delay_s in zip(
                (0.0, offset_us), (30.0, 60.0), self.skew_s, strict=True
            )
        )  # fmt: skip
        return TriggerSegment(
            start_ns=start_ns, exposure_s=self.exposure_s, rows=self.rows, mode=self.mode,
            cameras=(first, second), triggers=self.triggers,
            has_flc=self.half_width_us is not None, half_width_us=self.half_width_us or 0.0,
        )  # fmt: skip

    def simulate(self) -> SegmentTruth:
        """Return the truth of the whole run."""
        rng = np.random.default_rng(self.seed)
        start_ns, counters = START_NS, [1, 1000]
        parts: list[SegmentTruth] = []
        for offset_us in self.offsets_us:
            part = simulate_segment(self._segment(offset_us, start_ns), rng, counters)
            counters = [int(camera.counter[-1]) + 1 for camera in part.cameras]
            start_ns = int(part.trigger_ns[-1]) + round(self.pause_s * 1e9)
            parts.append(part)
        cameras = []
        for number in range(2):
            mine = [part.cameras[number] for part in parts]
            values: dict[str, Any] = {
                name: np.concatenate([getattr(each, name) for each in mine])
                for name in ("state", "acquired_ns", "logged_ns", "counter", "slot", "exposed_ns",
                             "is_duplicate")
            }  # fmt: skip
            trigger = np.concatenate(
                [each.trigger + turn * self.triggers for turn, each in enumerate(mine)]
            )
            cameras.append(CameraTruth(trigger=trigger, lost=(), **values))
        trigger_ns = np.concatenate([part.trigger_ns for part in parts])
        state = np.concatenate([part.state for part in parts])
        return SegmentTruth(self.segment, trigger_ns, state, tuple(cameras))


@dataclass(frozen=True)
class PartScore:
    """How one recording of a run was solved."""

    true_pairs: int
    pairs: int
    wrong_pairs: int
    wrong_labels: int
    ambiguous: int
    labelled: int


def score_parts(case: Jumps) -> tuple[list[PartScore], RunSolution]:
    """Simulate, solve, and compare each recording with the truth."""
    truth = case.simulate()
    solution = solve_run(frames_of(truth), physics_of(truth.segment))
    first, second = matched(solution)
    one, two = truth.cameras
    is_wrong = one.trigger[first] != two.trigger[second]
    common = np.intersect1d(one.trigger, two.trigger)
    found = []
    for turn in range(len(case.offsets_us)):
        mine = one.trigger[first] // case.triggers == turn
        wrong = doubt = labelled = 0
        for camera, state, reason in zip(
            truth.cameras, solution.state, solution.reason, strict=True
        ):
            inside = camera.trigger // case.triggers == turn
            known = inside & (state != 0)
            labelled += int(known.sum())
            wrong += int((known & (state != camera.state)).sum())
            doubt += int((inside & (reason == Reason.AMBIGUOUS)).sum())
        true_pairs = int((common // case.triggers == turn).sum())
        pairs, wrong_pairs = int(mine.sum()), int((mine & is_wrong).sum())
        found.append(PartScore(true_pairs, pairs, wrong_pairs, wrong, doubt, labelled))
    return found, solution


def matrix() -> list[Case]:
    """Return about 300 cases: every read-out with every half width, the rest taken in turn."""
    offsets = itertools.cycle((0.0, 150.0, 400.0, 800.0, 1200.0, -500.0, 300.0))
    losses = itertools.cycle((0.0, 1e-4, 1e-3, 1e-2, 1e-3))
    spikes = itertools.cycle((0.0, 1e-3, 0.0))
    latencies = itertools.cycle((30.0, 20.0, 60.0, 30.0, 100.0, 45.0, 30.0, 80.0))
    moves = itertools.cycle(((0.0, 0.0),) * 5 + ((300.0, 0.0),) + ((0.0, 0.0),) * 3 + ((0.0, 5.0),))
    bursts = itertools.cycle((0.0,) * 10 + (1e-3,))
    cases: list[Case] = []
    product = itertools.product(
        (268, 536, 1096), MODES, (1e-4, 1e-3, 1e-2, 0.1, 1.0), (None, 30.0, 100.0, 500.0)
    )
    for number, (rows, mode, exposure_s, half_us) in enumerate(product):
        for evidence in EVIDENCE if half_us is None or number % 2 else EVIDENCE[::2]:
            step_us, drift_ppm = next(moves)
            slow = exposure_s >= 0.1
            cases.append(
                Case(
                    rows=rows, mode=mode, exposure_s=exposure_s, half_width_us=half_us,
                    offset_us=next(offsets), latency_us=next(latencies), loss=next(losses),
                    spikes=next(spikes), step_us=step_us, drift_ppm=drift_ppm,
                    bursts=next(bursts), evidence=evidence, seed=1000 + len(cases),
                    triggers=400 if exposure_s == 1.0 else 2_000 if slow else 20_000,
                )
            )  # fmt: skip
    return cases


def _column(rng: np.random.Generator, values: Sequence[Value], count: int) -> list[Value]:
    """Return `count` values, each as often as the others, in random order."""
    rounds = -(-count // len(values))
    order = np.concatenate([rng.permutation(len(values)) for _ in range(rounds)])[:count]
    return [values[int(index)] for index in order]


def fresh(count: int, seed: int, *, short: bool = False) -> list[Case]:
    """Return random cases, spread evenly over each parameter, in and a bit beyond the matrix.

    Parameters
    ----------
    count, seed
        How many, and of which random numbers.
    short
        Runs of 2 to 200 triggers; some of these have pauses after every other one.
    """
    rng = np.random.default_rng(seed)

    def column(*values: Value) -> list[Value]:
        return _column(rng, values, count)

    exposures = column(1e-4, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
    sizes = [400 if each >= 0.3 else 2_000 if each >= 0.03 else 20_000 for each in exposures]
    if short:
        sizes = column(*range(2, 31), 40, 60, 100, 200)
    offsets = (*range(0, 1201, 50), -100, -300, -500, -800, -1200, 1500, 2500)
    columns: dict[str, list[Any]] = {
        "rows": column(184, 268, 268, 360, 536, 536, 1096),
        "mode": column("fast", "fast", "slow"),
        "half_width_us": column(None, 30.0, 100.0, 250.0, 500.0, 500.0),
        "offset_us": column(*map(float, offsets)),
        "latency_us": column(10.0, 20.0, 30.0, 45.0, 60.0, 80.0, 100.0, 150.0),
        "loss": column(0.0, 1e-4, 1e-3, 3e-3, 1e-2, 2e-2),
        "spikes": column(0.0, 0.0, 1e-3, 3e-3),
        "stalls": column(0.0, 0.0, 0.0, 1e-4, 1e-3),
        "step_us": column(*(0.0,) * 6, 300.0, -200.0),
        "drift_ppm": column(*(0.0,) * 6, 5.0, -3.0, 20.0),
        "bursts": column(0.0, 0.0, 0.0, 1e-4, 1e-3),
        "evidence": column("start", "pauses", "none", "start"),
        "restarts": column(0, 0, 0, 1, 3),
        "pause_fraction": column(0.0, 0.0, 0.0, 1e-3),
        "duplicates": column(0, 0, 0, 2),
        "extra_us": column(*(0.0,) * 5, 40.0, 300.0),
    }
    made: list[Case] = []
    for index, (exposure_s, size) in enumerate(zip(exposures, sizes, strict=True)):
        values = {name: each[index] for name, each in columns.items()}
        number = seed * 100_003 + index
        made.append(Case(exposure_s=exposure_s, triggers=size, seed=number, **values))
    return made
