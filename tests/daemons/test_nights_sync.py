# SPDX-License-Identifier: BSD-3-Clause
"""Frames of two cameras find each other, and the modulator's states are right: against truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kit.sync_cases import (
    START_NS,
    Case,
    frames_of,
    matched,
    matrix,
    physics_of,
    score,
)
from nightjard.archived.nights.records import Reason
from nightjard.archived.nights.sync import CameraFrames, Physics, RunSolution, solve_run
from nightjard.simulators.night.triggers import (
    CameraTiming,
    SegmentTruth,
    TriggerSegment,
    simulate_segment,
)

SHORT = Case(rows=268, exposure_s=1e-4)  # 1.1 ms: hardly longer than the offsets
# Cases that the tool which is replaced was measured with, and 30 out of the matrix.
CASES = [
    Case(), Case(loss=1e-2), Case(spikes=1e-3), Case(offset_us=800),
    replace(SHORT, spikes=1e-3), replace(SHORT, offset_us=400), replace(SHORT, offset_us=1200),
    Case(rows=1096, exposure_s=1e-3, offset_us=1200),
    Case(mode="slow", exposure_s=4e-3, offset_us=1200, triggers=4000),
    Case(exposure_s=1.0, triggers=10),
    # Bursts turn the modulator's alternation round in both cameras: not the trigger's randomness.
    Case(rows=1096, exposure_s=1e-4, offset_us=300, loss=0, bursts=1e-3, evidence="none",
         seed=6230),
    Case(rows=1096, exposure_s=1e-3, offset_us=800, latency_us=20, loss=1e-4, spikes=1e-3,
         bursts=1e-3, evidence="none", seed=10241),
    *matrix()[3::11],
]  # fmt: skip


def solve(truth: SegmentTruth) -> RunSolution:
    return solve_run(frames_of(truth), physics_of(truth.segment))


def segment(*cameras: CameraTiming, **changes: object) -> TriggerSegment:
    values = {
        "start_ns": START_NS, "exposure_s": 1.5e-4, "rows": 536, "triggers": 2000, "has_flc": True
    }  # fmt: skip
    return TriggerSegment(cameras=cameras, **{**values, **changes})  # type: ignore[arg-type]


def simulate(*cameras: CameraTiming, seed: int = 1, **changes: object) -> SegmentTruth:
    made = segment(*cameras, **changes)
    return simulate_segment(made, np.random.default_rng(seed))


def wrong_labels(solution: RunSolution, truth: SegmentTruth) -> int:
    return sum(
        int(((state != 0) & (state != camera.state)).sum())
        for state, camera in zip(solution.state, truth.cameras, strict=True)
    )


def wrong_pairs(solution: RunSolution, truth: SegmentTruth) -> int:
    first, second = matched(solution)
    return int((truth.cameras[0].trigger[first] != truth.cameras[1].trigger[second]).sum())


def name_of(case: Case) -> str:
    return (
        f"{case.rows}-{case.mode}-{case.exposure_s:g}s-h{case.half_width_us}-{case.offset_us:g}us-"
        f"loss{case.loss:g}-spikes{case.spikes:g}-{case.evidence}-{case.seed}"
    )


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_targets_are_met(case: Case) -> None:
    got = score(case)
    assert got.wrong_pairs <= 1e-5 * got.pairs, got.text
    assert got.off_by_one == 0
    assert got.wrong_labels <= 1e-5 * got.frames, got.text
    assert not got.is_inverted
    if case.evidence != "none":
        assert got.verdict == "ok", got.text
    if got.verdict != "ok":
        assert got.pairs == 0
        return
    assert got.recall >= 0.9995, got.text
    if case.half_width_us is not None and case.loss <= 1e-3 and case.triggers >= 50:
        assert got.dubious_fraction <= 0.002, got.text
    # 3 sigma of a block's median, and what a drift of 5 ppm does within one.
    assert got.offset_error_us < 3.0 + 0.3 * case.latency_us


def test_what_cannot_be_told_apart_is_ambiguous_and_nothing_is_paired() -> None:
    """Constant period, no modulator, no common beginning: a whole interval more fits as well."""
    for offset_us in (400.0, 800.0, -500.0, 1200.0):
        case = replace(SHORT, half_width_us=None, offset_us=offset_us, evidence="none", loss=0.0)
        truth = case.simulate()
        solution = solve(truth)
        assert solution.report["verdict"] == "ambiguous"
        assert "cannot be told" in solution.report["text"]
        assert len(matched(solution)[0]) == 0
        second = solution.reason[1]
        assert set(second.tolist()) <= {Reason.AMBIGUOUS, Reason.ALONE}
        assert (second == Reason.AMBIGUOUS).mean() > 0.9
        assert (solution.trigger[1] == -1).all()


def test_the_same_run_is_clear_with_pauses_or_a_common_beginning() -> None:
    for evidence in ("pauses", "start"):
        case = replace(SHORT, half_width_us=None, offset_us=400, loss=1e-4)
        got = score(replace(case, evidence=evidence))  # type: ignore[arg-type]
        assert got.verdict == "ok"
        assert got.wrong_pairs == 0
        assert got.recall == 1.0


def test_the_randomness_of_the_trigger_tells_an_offset_longer_than_the_period() -> None:
    """Slow read-out: starts vary by 173 us, the same in both cameras."""
    case = Case(rows=4, mode="slow", exposure_s=3e-4, half_width_us=None, offset_us=1200,
                evidence="none", loss=1e-3, triggers=4000)  # fmt: skip
    assert case.period_us < 1200
    got = score(case)
    assert (got.verdict, got.wrong_pairs, got.recall) == ("ok", 0, 1.0)


@pytest.mark.parametrize(
    ("latency_us", "spikes", "loss"), [(30, 1e-3, 1e-2), (100, 1e-3, 1e-2), (100, 0, 1e-3)]
)
def test_a_half_width_below_the_noise_gives_doubt_rather_than_wrong_labels(
    latency_us: float, spikes: float, loss: float
) -> None:
    """A frame late by just one interval whose successor is lost unseen looks like a lost frame.

    With losses of 1e-2 and late frames of 1e-3 that happens about once in 10^6 frames, and no
    time or counter tells: hence one such frame, both its label and its pair, is let pass.
    """
    case = replace(SHORT, half_width_us=30.0, latency_us=latency_us, spikes=spikes, loss=loss,
                   offset_us=400)  # fmt: skip
    got = score(case)
    assert got.wrong_labels <= 2
    assert got.wrong_pairs <= 1
    assert got.dubious_fraction <= 0.01


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8, 25, 26])
@pytest.mark.parametrize("begins_high", [False, True])
def test_states_are_right_from_two_frames_on(count: int, begins_high: bool) -> None:
    """The letters of the replaced tool turned round at 25 frames and fewer."""
    for exposure_s in (1e-3, 0.5):
        timing = CameraTiming(lost=[(0, "before")] if begins_high else [])
        triggers = count + begins_high
        truth = simulate(timing, triggers=triggers, exposure_s=exposure_s, seed=count)
        solution = solve(truth)
        assert solution.state[0].tolist() == truth.cameras[0].state.tolist()
        assert solution.report["verdict"] == "alone"
        assert (solution.reason[0] == Reason.ALONE).all()


def test_one_frame_has_no_state() -> None:
    solution = solve(simulate(CameraTiming(), triggers=1))
    assert solution.state[0].tolist() == [0]
    assert solution.report["dubious"] == 1


def test_labels_of_parts_agree_with_those_of_the_whole() -> None:
    truth = simulate(
        CameraTiming(loss_before=5e-3, spike_fraction=1e-3),
        CameraTiming(offset_us=300, loss_after=5e-3), triggers=6000, restarts=[(2500, 0.4)],
    )  # fmt: skip
    whole = solve(truth)
    cameras = frames_of(truth)
    for count in (2, 7, 25, 26, 100, 1333):
        for start in range(0, 3000, max(count, 250)):
            first_ns, last_ns = truth.trigger_ns[[start, start + count]]
            places = [
                np.flatnonzero((c.exposed_ns >= first_ns) & (c.exposed_ns < last_ns))
                for c in truth.cameras
            ]
            part = solve_run(
                [CameraFrames(camera.stream, camera.acquired_ns[at], camera.counter[at])
                 for camera, at in zip(cameras, places, strict=True)],
                physics_of(truth.segment),
            )  # fmt: skip
            for number, at in enumerate(places):
                state, expected = part.state[number], whole.state[number][at]
                assert (state * expected >= 0).all(), (count, start)


def test_a_controller_that_begins_anew_begins_low() -> None:
    restarts = [(501, 0.3), (900, 1.2), (905, 0.25), (1400, 4.0), (1403, 0.2)]
    truth = simulate(
        CameraTiming(loss_before=1e-3), CameraTiming(offset_us=-500), restarts=restarts
    )
    solution = solve(truth)
    assert wrong_labels(solution, truth) == 0
    assert wrong_pairs(solution, truth) == 0
    assert solution.report["dubious"] < 10
    assert solution.report["triggers"] == 2000


@pytest.mark.parametrize("where", ["before", "after"])
def test_losses_at_any_place_cost_no_sibling_and_are_counted_by_their_evidence(where: str) -> None:
    lost_1 = [*range(1, 4), 500, 501, 700, 1994, 1995, 1998]
    lost_2 = [500, 501, 502, 701, 1000, 1996, 1997]  # 500, 501 in both; 700/701 in turn
    truth = simulate(
        CameraTiming(lost=[(k, where) for k in lost_1]),
        CameraTiming(offset_us=250, lost=[(k, where) for k in lost_2]),
    )
    solution = solve(truth)
    first, _ = matched(solution)
    assert wrong_pairs(solution, truth) == 0
    assert len(first) == 2000 - len({*lost_1, *lost_2})
    assert wrong_labels(solution, truth) == 0
    assert solution.report["dubious"] == 0
    assert solution.report["triggers"] == 2000
    by = "counter" if where == "after" else "time"
    other = "time" if where == "after" else "counter"
    for stream, lost in (("vcam1", lost_1), ("vcam2", lost_2)):
        assert solution.report["lost"][stream] == {by: len(lost), other: 0}
    alone = solution.reason[0] == Reason.UNMATCHED
    assert set(truth.cameras[0].trigger[alone]) == set(lost_2) - set(lost_1)


def test_a_frame_recorded_twice_has_one_partner() -> None:
    truth = simulate(CameraTiming(duplicates=[0, 700, 1999]), CameraTiming(offset_us=250))
    solution = solve(truth)
    first, _ = matched(solution)
    assert len(first) == 2000
    assert wrong_pairs(solution, truth) == 0
    again = truth.cameras[0].is_duplicate
    assert again.sum() == 3
    assert (solution.reason[0][again] == Reason.UNMATCHED).all()
    assert (solution.trigger[0][again] == -1).all()
    assert wrong_labels(solution, truth) == 0
    assert "3 frames recorded twice" in solution.report["text"]


def test_frames_that_come_back_to_back_after_a_stall_find_their_partners() -> None:
    truth = simulate(
        CameraTiming(stall_fraction=3e-3), CameraTiming(offset_us=250, stall_fraction=3e-3),
        triggers=5000,
    )  # fmt: skip
    assert (np.diff(truth.cameras[0].acquired_ns) < 20_000).sum() > 50
    solution = solve(truth)
    assert wrong_pairs(solution, truth) == 0
    assert wrong_labels(solution, truth) == 0
    assert len(matched(solution)[0]) > 0.99 * 5000


def test_which_frame_of_a_stall_was_lost_unseen_is_not_guessed() -> None:
    truth = simulate(CameraTiming(), CameraTiming(offset_us=250, lost=[(1010, "before")]))
    cameras = frames_of(truth)
    acquired = cameras[1].acquired_ns.copy()
    stalled = (truth.cameras[1].trigger >= 1000) & (truth.cameras[1].trigger < 1020)
    acquired[stalled] = acquired[stalled].max() + 8000 * np.arange(stalled.sum())
    cameras[1] = replace(cameras[1], acquired_ns=acquired)
    solution = solve_run(cameras, physics_of(truth.segment))
    assert wrong_pairs(solution, truth) == 0
    doubtful = truth.cameras[1].trigger[solution.reason[1] == Reason.AMBIGUOUS]
    assert len(doubtful) >= 10
    assert set(doubtful) <= set(range(1000, 1021))
    assert "in doubt" in solution.report["text"]


def test_the_counter_tells_which_frame_of_a_stall_was_lost() -> None:
    truth = simulate(CameraTiming(), CameraTiming(offset_us=250, lost=[(1010, "after")]))
    cameras = frames_of(truth)
    acquired = cameras[1].acquired_ns.copy()
    stalled = (truth.cameras[1].trigger >= 1000) & (truth.cameras[1].trigger < 1020)
    acquired[stalled] = acquired[stalled].max() + 8000 * np.arange(stalled.sum())
    cameras[1] = replace(cameras[1], acquired_ns=acquired)
    solution = solve_run(cameras, physics_of(truth.segment))
    assert wrong_pairs(solution, truth) == 0
    assert len(matched(solution)[0]) == 1999


def test_a_step_and_a_drift_of_the_offset_are_followed_and_told() -> None:
    step = score(replace(SHORT, offset_us=150, step_us=300))
    assert (step.wrong_pairs, step.recall) == (0, 1.0)
    assert "+300 us" in step.text or "+299 us" in step.text or "+301 us" in step.text
    case = Case(offset_us=-500, drift_ppm=5.0, triggers=30_000)
    truth = case.simulate()
    report = solve(truth).report
    assert report["drift_ppm"][1] == pytest.approx(5.0, abs=0.3)
    assert report["offsets_us"][0] == 0


def test_report_gives_the_figures_of_the_run() -> None:
    case = Case(offset_us=800, loss=1e-3)
    report = solve(case.simulate()).report
    assert report["offsets_us"][1] == pytest.approx(800, abs=3)
    assert report["period_us"] == pytest.approx(case.period_us + 3.6, abs=2)
    assert report["half_width_us"] == pytest.approx(500, abs=2)
    # The difference of two gamma latencies of shape 2 and mean 30 us has a sigma of 30 us.
    assert report["sigma_us"][1] == pytest.approx(30, rel=0.25)


def test_a_half_width_other_than_the_header_s_is_found_and_told() -> None:
    for true_us, header_us in ((100.0, 500.0), (500.0, 100.0), (300.0, 30.0)):
        truth = simulate(CameraTiming(), CameraTiming(offset_us=300), half_width_us=true_us)
        physics = Physics.of(1.5e-4, 536, False, header_us)
        solution = solve_run(frames_of(truth), physics)
        assert wrong_labels(solution, truth) == 0
        assert solution.report["half_width_us"] == pytest.approx(true_us, abs=3)
        assert f"the header says {header_us:g} us" in solution.report["text"]


def test_a_modulator_that_did_not_run_leaves_every_state_open() -> None:
    truth = simulate(CameraTiming(), CameraTiming(offset_us=150), has_flc=False)
    solution = solve_run(frames_of(truth), Physics.of(1.5e-4, 536, False, 500.0))
    assert not any(state.any() for state in solution.state)
    assert "no modulation" in solution.report["text"]


def test_a_period_other_than_the_header_s_is_found() -> None:
    for extra_us in (40.0, 300.0, 2000.0):
        truth = simulate(
            CameraTiming(loss_before=1e-3), CameraTiming(offset_us=250), extra_period_us=extra_us,
            half_width_us=100.0,
        )  # fmt: skip
        solution = solve(truth)
        assert wrong_labels(solution, truth) == 0
        assert wrong_pairs(solution, truth) == 0
        assert solution.report["dubious"] == 0


def test_three_cameras() -> None:
    truth = simulate(
        CameraTiming(loss_before=1e-2), CameraTiming(offset_us=700, loss_before=1e-2),
        CameraTiming(offset_us=-400, loss_after=1e-2, spike_fraction=1e-3),
    )  # fmt: skip
    solution = solve(truth)
    assert solution.report["offsets_us"] == pytest.approx((0, 700, -400), abs=5)
    seen = [dict(zip(t.tolist(), c.trigger.tolist(), strict=True))
            for t, c in zip(solution.trigger, truth.cameras, strict=True)]  # fmt: skip
    for one in range(3):
        for two in range(one):
            common = seen[one].keys() & seen[two].keys()
            assert all(seen[one][key] == seen[two][key] for key in common)
            true = np.intersect1d(truth.cameras[one].trigger, truth.cameras[two].trigger)
            assert len(common) == len(true)
    in_all = set.intersection(*(set(c.trigger.tolist()) for c in truth.cameras))
    for reason, camera in zip(solution.reason, truth.cameras, strict=True):
        assert set(camera.trigger[reason == Reason.PAIRED].tolist()) == in_all
    assert wrong_labels(solution, truth) == 0


def test_a_camera_that_is_off_leaves_the_other_alone() -> None:
    truth = simulate(CameraTiming(), CameraTiming(offset_us=300), triggers=8000)
    cameras = frames_of(truth)
    on = (truth.cameras[1].trigger < 2000) | (truth.cameras[1].trigger >= 6000)
    cameras[1] = CameraFrames("vcam2", cameras[1].acquired_ns[on], np.arange(4000, dtype=np.uint64))
    solution = solve_run(cameras, physics_of(truth.segment))
    expected = np.full(8000, Reason.PAIRED)
    expected[2000:6000] = Reason.ALONE
    assert (solution.reason[0] == expected).all()
    assert (solution.state[0] == truth.cameras[0].state).all()


def test_cameras_without_a_common_time_are_alone() -> None:
    truth = simulate(CameraTiming(stop_early_s=4), CameraTiming(start_delay_s=4), triggers=2500)
    solution = solve(truth)
    assert solution.report["verdict"] == "alone"
    assert all((reason == Reason.ALONE).all() for reason in solution.reason)
    assert wrong_labels(solution, truth) == 0


def test_a_clock_that_is_set_back_does_not_hide_the_frames_after_it() -> None:
    truth = simulate(CameraTiming(), CameraTiming(offset_us=300), triggers=4000)
    cameras = []
    for camera, true in zip(frames_of(truth), truth.cameras, strict=True):
        acquired = camera.acquired_ns.copy()
        acquired[true.trigger >= 2000] -= 2_000_000_000
        cameras.append(replace(camera, acquired_ns=acquired))
    solution = solve_run(cameras, physics_of(truth.segment))
    assert wrong_pairs(solution, truth) == 0
    assert len(matched(solution)[0]) >= 3990


def test_no_frames_and_empty_cameras() -> None:
    nothing = CameraFrames("vcam2", np.zeros(0, np.int64), np.zeros(0, np.uint64))
    physics = Physics.of(1e-3, 536, False, 500.0)
    assert solve_run([nothing], physics).report["verdict"] == "alone"
    truth = simulate(CameraTiming(), triggers=50)
    solution = solve_run([*frames_of(truth), nothing], physics_of(truth.segment))
    assert (solution.reason[0] == Reason.ALONE).all()
    assert [len(part) for part in solution.trigger] == [50, 0]
