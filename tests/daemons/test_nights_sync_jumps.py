# SPDX-License-Identifier: BSD-3-Clause
"""An offset that changes between, or during, the recordings of a run: right or said aloud."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kit.sync_cases import Case, Jumps, frames_of, physics_of, score, score_parts
from nightjard.archived.nights.records import Reason
from nightjard.archived.nights.sync import CameraFrames, solve_run

PERIOD_US = 2488.0  # mean interval of `Jumps()`
SHARED = Jumps(triggers=800)
LONE = replace(SHARED, half_width_us=None)


@pytest.mark.parametrize("pause_s", [0.5, 4.0, 20.0])
@pytest.mark.parametrize("jump", [-0.8, -0.65, -0.5, -0.35, 0.2, 0.35, 0.5, 0.65, 0.8, 1.0])
def test_an_offset_that_jumps_at_a_pause_is_right_or_ambiguous(jump: float, pause_s: float) -> None:
    offsets = (150.0, 150.0 + jump * PERIOD_US, 150.0)
    seed = round(100 * jump + 10 * pause_s + 1000)
    parts, solution = score_parts(
        replace(SHARED, offsets_us=offsets, pause_s=pause_s, seed=seed, triggers=1000)
    )
    for part in parts:
        assert part.wrong_pairs == 0, solution.report["text"]
        assert part.wrong_labels <= 1  # a last frame late by a whole interval is taken for the next
        assert part.pairs > 0.98 * part.true_pairs or part.ambiguous > 1.9 * part.true_pairs
    # The recordings whose offset is small are not drawn into the doubt of the other.
    for part in (parts[0], parts[2]):
        assert part.pairs > 0.98 * part.true_pairs, solution.report["text"]
        assert part.labelled > 1.95 * part.true_pairs
    is_doubtful = any(part.ambiguous > part.true_pairs for part in parts)
    assert (solution.report["verdict"] == "ambiguous") == is_doubtful


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("jump", [-0.5, 0.35, 0.65, 0.8])
def test_without_modulator_a_jump_is_never_guessed(jump: float, seed: int) -> None:
    offsets = (150.0, 150.0 + jump * 1988.0)
    parts, solution = score_parts(replace(LONE, offsets_us=offsets, seed=seed))
    assert sum(part.wrong_pairs for part in parts) == 0, solution.report["text"]
    assert parts[0].pairs > 0.98 * parts[0].true_pairs
    assert parts[1].pairs > 0.98 * parts[1].true_pairs or "cannot be told" in str(
        solution.report["text"]
    )


def test_recordings_of_one_offset_are_one_part() -> None:
    case = replace(LONE, offsets_us=(150.0,) * 6, triggers=300, skew_s=(0.0, 0.0))
    parts, solution = score_parts(case)
    assert "parts" not in solution.report["text"]
    assert solution.report["verdict"] == "ok"
    assert all(part.pairs > 0.98 * part.true_pairs and not part.wrong_pairs for part in parts)


def test_parts_have_one_count_of_triggers_and_all_their_losses() -> None:
    case = replace(SHARED, offsets_us=(150.0, 1400.0, 150.0), loss=0.01)
    truth = case.simulate()
    cameras = frames_of(truth)
    # Frames that only the counter tells of, lost while the cameras rest.
    cut = int(np.searchsorted(truth.cameras[0].trigger, case.triggers))
    counter = cameras[0].counter.copy()
    counter[cut:] += np.uint64(7)
    cameras[0] = CameraFrames("vcam1", cameras[0].acquired_ns, counter)
    solution = solve_run(cameras, physics_of(truth.segment))
    assert "3 parts" in solution.report["text"]
    for trigger, reason, camera in zip(
        solution.trigger, solution.reason, truth.cameras, strict=True
    ):
        assert len(trigger) == len(camera.trigger)
        known = trigger[trigger >= 0]
        assert np.all(np.diff(known) > 0)
        assert known[-1] < solution.report["triggers"]
        assert np.all(trigger[reason == Reason.PAIRED] >= 0)
    steps = np.diff(counter.astype(np.int64))
    assert solution.report["lost"]["vcam1"]["counter"] == int((steps - 1).sum())


@pytest.mark.parametrize("half_us", [100.0, 500.0, None])
@pytest.mark.parametrize("jump", [-0.8, -0.5, 0.35, 0.5, 0.65])
def test_a_step_while_the_cameras_go_on_is_right_or_ambiguous(
    jump: float, half_us: float | None
) -> None:
    case = Case(rows=268, exposure_s=1e-3, half_width_us=half_us, triggers=3000, seed=5)
    got = score(replace(case, step_us=jump * (case.period_us + (half_us or 0.0))))
    assert (got.wrong_pairs, got.wrong_labels) == (0, 0), got.text
    assert got.recall > 0.4 or got.verdict == "ambiguous"


@pytest.mark.parametrize("exposure_s", [1e-4, 1e-3])
def test_few_intervals_do_not_outweigh_a_latency_of_a_whole_period(exposure_s: float) -> None:
    """One odd interval among 25 is no randomness of the trigger."""
    got = score(
        Case(rows=184, mode="slow", exposure_s=exposure_s, half_width_us=None, offset_us=50,
             latency_us=45, loss=3e-3, step_us=300, drift_ppm=5, bursts=1e-3, evidence="none",
             triggers=26, seed=3102241)
    )  # fmt: skip
    assert got.wrong_pairs == 0, got.text
