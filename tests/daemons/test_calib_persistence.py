# SPDX-License-Identifier: BSD-3-Clause
"""Persistence: saturated pixels, latent charge, its decay, against the simulated truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from kit.calib_bench import flags_of, run, run_all, take, values_of
from nightjar.calibration.detector import load_detector
from nightjard.calib.results import Results
from nightjard.calib.science import decay
from nightjard.calib.task import load_task
from nightjard.calib.tasks import persistence as task
from nightjard.calib.work import Work
from nightjard.simulators.detector.truth import Truth

DETECTOR = load_detector("ccd273-8th")
EFFECTS = {"crosstalk": False, "brighter_fatter": False}
TRUTH = Truth.default(DETECTOR, seed=5, effects=EFFECTS)
STEPS = ("prep", "satur_masks", "basic", "meta")
Found = tuple[Work, dict[str, Any]]


@pytest.fixture(scope="module")
def analysed(tmp_path_factory: pytest.TempPathFactory) -> Found:
    work = take(tmp_path_factory.mktemp("persist"), "PERSIST01", TRUTH)
    return work, run_all(work, *STEPS)


def test_charge_and_decay_time_are_the_true_ones(analysed: Found) -> None:
    _, found = analysed
    truth = TRUTH.persistence
    for quadrant in DETECTOR.names:
        q0, error = values_of(found["meta"], "q0")[1, quadrant]
        assert q0 == pytest.approx(truth.electrons[f"1{quadrant}"], abs=2.0)
        assert 0 < error < 2.0
        tau, error = values_of(found["meta"], "tau")[1, quadrant]
        # Flushes empty traps, too: they shorten the decay by some per cent.
        assert tau == pytest.approx(truth.tau_s, rel=0.2)
        assert 0 < error < 0.2 * tau
        first, error = values_of(found["meta"], "persistence")[1, quadrant]
        assert 0.5 * q0 < first < q0
        assert error < 0.5


def test_masks_hold_what_was_saturated_and_no_blemish(analysed: Found) -> None:
    work, found = analysed
    path = work.folder / found["satur_masks"]["images"][0]["path"]
    assert path.name == "PERSIST01_SATMASK_CCD1.fits"
    with fits.open(path) as units:
        mask = units["MASK"].data.astype(bool)
    assert mask.shape == DETECTOR.frame_shape
    for quadrant, (count, _) in values_of(found["satur_masks"], "saturated_pixels").items():
        canonical = DETECTOR.canonical(mask, quadrant[1])
        assert canonical.sum() == count > 500
        assert not canonical[:, : DETECTOR.prescan].any()
        assert not canonical[DETECTOR.image_rows :].any()


def test_frames_have_their_time_since_the_exposure(analysed: Found) -> None:
    work, _ = analysed
    table = work.table("basic", "LATENTS")
    before = table[table["kind"] == "REFER"]
    after = table[table["kind"] == "LATENT"]
    assert len(before) == len(after) == 3 * len(DETECTOR.names)
    assert (before["seconds"] < 0).all()
    # 93 s from frame to frame here; exposures of 600 and 565 s.
    assert sorted(set(after["seconds"])) == pytest.approx([58.0, 151.0, 244.0])


def test_masks_are_made_again_where_intermediates_were_cleared(analysed: Found) -> None:
    work, found = analysed
    for path in work.intermediate.iterdir():
        path.unlink()
    assert run(work, "basic", task.basic)["tables"] == found["basic"]["tables"]


def test_without_persistence_there_is_none_within_its_error(tmp_path: Path) -> None:
    truth = Truth.default(DETECTOR, seed=5, effects={**EFFECTS, "persistence": False})
    found = run_all(take(tmp_path, "PERSIST01", truth), *STEPS)
    for quadrant in DETECTOR.names:
        q0, error = values_of(found["meta"], "q0")[1, quadrant]
        assert 0 < error < 2
        assert abs(q0) < 2 * error
        assert values_of(found["meta"], "tau")[1, quadrant] == (None, None)


def test_an_exposure_that_does_not_saturate_is_flagged(analysed: Found, tmp_path: Path) -> None:
    work, _ = analysed
    exposed = next(one for one in work.dataset.frames if task.kind_of(one) == "EXPOSE")
    dark = next(one for one in work.dataset.frames if task.kind_of(one) == "REFER")

    def judged(part: float, background: float, **others: float) -> set[str]:
        work.results = Results(tmp_path, "PERSIST01", "check")
        task.judge(work, {
            (exposed.obsid, 1): {
                name: {"exposed": others.get(name, part)} for name in DETECTOR.names
            },
            (dark.obsid, 1): {name: {"background": background} for name in DETECTOR.names},
        })  # fmt: skip
        return {flag.name for flag in work.results.flags}

    assert judged(0.05, -0.2) == set()
    assert judged(0.001, 5.0) == {"NONSATURATION", "POORQUALDATA"}
    # One quadrant that saw nothing is not made up for by the others.
    assert judged(0.05, 5.0, F=0.0) == {"NONSATURATION", "POORQUALDATA"}
    assert judged(0.3, 5.0) == {"NONSATURATION", "POORQUALDATA"}
    assert judged(0.05, 300.0) == {"BGD_OOL", "POORQUALDATA"}


def test_the_check_tells_the_saturated_part(analysed: Found) -> None:
    from nightjard.calib.frames import open_frame

    work, found = analysed
    counts = values_of(found["satur_masks"], "saturated_pixels")
    for frame in work.dataset.frames:
        arguments = {**task.check_arguments(work, 1), "label": frame.label}
        one = task.check_frame(open_frame(str(frame.path), DETECTOR), arguments)
        kind = task.kind_of(frame)
        if kind == "EXPOSE":
            pixels = DETECTOR.image_rows * DETECTOR.image_columns
            assert all(0.002 < one[name]["exposed"] < 0.2 for name in DETECTOR.names)
            assert one["E"]["exposed"] == pytest.approx(counts[1, "E"][0] / pixels / 2, rel=0.02)
        elif kind in ("REFER", "LATENT"):
            assert abs(one["E"]["background"]) < 20
        else:
            assert one == {}


def test_no_exposure_is_bad_data_and_no_crash(analysed: Found, tmp_path: Path) -> None:
    import dataclasses

    work, _ = analysed
    kept = tuple(one for one in work.dataset.frames if task.kind_of(one) != "EXPOSE")
    bare = dataclasses.replace(
        work, dataset=dataclasses.replace(work.dataset, frames=kept), folder=tmp_path
    )
    found = run_all(bare, "prep", "satur_masks", "basic")
    assert "BADDATA" in flags_of(found["satur_masks"])
    assert "BADDATA" in flags_of(found["basic"])


# --- the decay ---


def test_errors_of_a_decay_are_those_of_its_scatter() -> None:
    rng = np.random.default_rng(4)
    times = np.array([660.0, 1320.0, 1980.0])
    error = np.full(3, 0.4)
    pulls = []
    for _ in range(200):
        charge = 60 * np.exp(-times / 900) + rng.normal(0, error)
        found = decay.fit_decay(times, charge, error)
        assert found.is_detected
        pulls.append([(found.charge - 60) / found.charge_error,
                      np.log(found.tau_s / 900) / (found.tau_error_s / found.tau_s)])  # fmt: skip
    assert np.abs(np.median(pulls, axis=0)).max() < 0.3
    assert np.std(pulls, axis=0) == pytest.approx([1, 1], abs=0.25)


@pytest.mark.parametrize("true", [0.0, 60.0])
def test_what_was_subtracted_is_wrong_for_all_frames_alike(true: float) -> None:
    rng = np.random.default_rng(7)
    times, error, common = np.array([660.0, 1320.0, 1980.0]), np.full(3, 0.4), 0.4 / 3**0.5
    pulls = []
    for _ in range(600):
        charge = true * np.exp(-times / 900) + rng.normal(0, error) + rng.normal(0, common)
        found = decay.fit_decay(times, charge, error, common_error=common)
        if found.is_detected is bool(true):
            pulls.append((found.charge - true) / found.charge_error)
    assert len(pulls) > 580
    # With errors as if each frame had its own, the scatter is 1.15 where there is no charge.
    assert np.std(pulls) == pytest.approx(1.0, abs=0.1)


def test_nothing_is_told_to_be_nothing() -> None:
    rng = np.random.default_rng(5)
    times, error = np.array([660.0, 1320.0, 1980.0]), np.full(3, 0.4)
    found = [decay.fit_decay(times, rng.normal(0, error), error) for _ in range(300)]
    detected = np.array([one.is_detected for one in found])
    assert detected.mean() < 0.02
    pulls = np.array([one.charge / one.charge_error for one in found])[~detected]
    assert np.std(pulls) == pytest.approx(1.0, abs=0.15)
    assert all(np.isnan(one.tau_s) for one in np.array(found)[~detected])
    none = decay.fit_decay(times, np.full(3, np.nan), error)
    assert np.isnan(none.charge)
    assert not none.is_detected


def test_outliers_do_not_reach_the_mean() -> None:
    rng = np.random.default_rng(6)
    values = rng.normal(5, 1, 5000)
    values[:20] = 1000
    found = decay.statistics(values)
    assert found["mean"] == pytest.approx(5, abs=0.06)
    assert found["std"] == pytest.approx(1, rel=0.05)
    assert found["count"] == 4980
    assert decay.statistics(np.zeros(0))["count"] == 0


def test_pixels_beside_are_a_ring_without_lit_ones() -> None:
    mask = np.zeros((60, 60), bool)
    mask[25:30, 25:30] = True
    lit = mask.copy()
    lit[20:35, 20:35] = True
    ring = decay.beside(mask, lit, np.zeros_like(mask))
    assert not (ring & lit).any()
    assert ring.sum() > 300
    assert not ring[0].any()


def test_the_analysis_names_all_functions_that_run_in_workers() -> None:
    assert set(task.WORKERS) <= set(load_task("PERSIST01").workers)
