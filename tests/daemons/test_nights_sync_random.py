# SPDX-License-Identifier: BSD-3-Clause
"""Random runs, and those of them that once went wrong: right, or said to be in doubt."""

from __future__ import annotations

import pytest

from kit.sync_cases import Case, fresh, score

# Random cases that once had wrong pairs or labels.
LONG = [
    # Two stalls, one after the other, with frames lost unseen among those that queued.
    Case(rows=268, half_width_us=None, exposure_s=1e-4, offset_us=650, latency_us=20, loss=0.02,
         spikes=3e-3, stalls=1e-3, bursts=1e-4, pause_fraction=1e-3, evidence="pauses",
         seed=1200550),
    # A late frame nearer to the next trigger's partner, beside a missing one.
    Case(rows=268, exposure_s=1e-4, offset_us=550, latency_us=150, spikes=3e-3, bursts=1e-4,
         evidence="pauses", restarts=1, seed=1200260),
    # The same before a burst of losses, which the counter proves.
    Case(rows=360, exposure_s=1e-4, offset_us=400, latency_us=100, loss=1e-4, spikes=3e-3,
         stalls=1e-3, drift_ppm=-3, bursts=1e-3, evidence="none", restarts=3, seed=1200345),
    # Steps of the offset among losses, at long intervals.
    Case(rows=184, exposure_s=0.1, half_width_us=250, offset_us=600, loss=0.01, spikes=1e-3,
         step_us=300, bursts=1e-3, triggers=2000, seed=1200228),
    # Losses that both counters prove are there once.
    Case(rows=184, mode="slow", exposure_s=3e-4, half_width_us=250, offset_us=500, loss=0.02,
         stalls=1e-3, bursts=1e-3, restarts=3, extra_us=40, seed=1201275),
    # Frames alone in a gap of the other camera keep their own times.
    Case(rows=268, mode="slow", exposure_s=1e-3, half_width_us=100, loss=1e-2, bursts=1e-3,
         seed=26083),
]  # fmt: skip


@pytest.mark.parametrize("case", LONG, ids=lambda case: str(case.seed))
def test_frames_beside_missing_ones_are_right_or_in_doubt(case: Case) -> None:
    got = score(case)
    assert (got.verdict, got.wrong_pairs, got.wrong_labels) == ("ok", 0, 0)
    assert got.recall > 0.98
    assert got.dubious_fraction < 0.02


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("count", [5, 16, 28])
def test_pauses_after_many_of_few_exposures_turn_no_state(count: int, seed: int) -> None:
    """A period that pauses pretend would take the states for one another."""
    labelled = 0
    for half_us, exposure_s, extra_us in (
        (500.0, 1e-4, 0.0), (500.0, 0.1, 0.0), (250.0, 3e-3, 300.0), (100.0, 0.3, 0.0),
    ):  # fmt: skip
        got = score(
            Case(exposure_s=exposure_s, half_width_us=half_us, offset_us=400, triggers=count,
                 evidence="pauses", restarts=seed, extra_us=extra_us, seed=seed)
        )  # fmt: skip
        assert (got.wrong_labels, got.wrong_pairs) == (0, 0), got
        labelled += got.labelled
    assert labelled > 0 or count < 28


def test_random_cases_short_and_long() -> None:
    short = [score(case) for case in fresh(150, 21, short=True)]
    frames = sum(got.frames for got in short)
    pairs = sum(got.pairs for got in short)
    assert sum(got.wrong_labels for got in short) <= 1e-3 * frames
    assert sum(got.wrong_pairs for got in short) <= 2e-3 * pairs
    assert not any(got.is_inverted for got in short)
    assert pairs > 0.8 * sum(got.true_pairs for got in short)
    assert sum(got.labelled for got in short) > 0.55 * frames
    for got in map(score, fresh(6, 22)):
        assert got.wrong_pairs <= 1, got
        assert got.wrong_labels <= 2, got
