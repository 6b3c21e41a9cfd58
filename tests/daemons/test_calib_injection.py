# SPDX-License-Identifier: BSD-3-Clause
"""Charge injection: levels expected, rows folded, curves fitted, against simulated truth."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from kit.calib_bench import EQUIPMENT, flags_of, run_all, take, values_of
from kit.depth import counts
from nightjar.calibration.catalogue import load_catalogue
from nightjar.calibration.chamber import load_profile
from nightjar.calibration.detector import load_detector
from nightjard.calib.dataset import CcdFrame, Dataset
from nightjard.calib.frames import open_frame
from nightjard.calib.results import Results
from nightjard.calib.science import injection
from nightjard.calib.task import load_task
from nightjard.calib.tasks import injection as task
from nightjard.calib.work import Work
from nightjard.simulators.detector.injection import prepare
from nightjard.simulators.detector.truth import Truth

DETECTOR = load_detector("ccd273-8th")
TRUTH = Truth.default(DETECTOR, seed=4, effects={"crosstalk": False})
COMMANDED: dict[str, Any] = {
    "chinj": 1, "id_wid": 60, "toi_ch": 500, "id_dly": 1250, "IDL": 11.0, "IG1_1_T": 4.0,
    "IG1_1_B": 4.5, "IG2_T": 6.0, "IG2_B": 6.5,
}  # fmt: skip


@pytest.fixture(scope="module")
def gate_sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Work, dict[str, Any]]:
    work = take(tmp_path_factory.mktemp("chinj01"), "CHINJ01", TRUTH)
    return work, run_all(work, "prep", "basic", "meta")


# --- what is expected ---


@pytest.mark.parametrize(
    ("changes", "half", "expected"),
    [
        ({}, "T", 1300 + 1.5 * 3300), ({}, "B", math.nan),
        ({"id_dly": 750}, "B", 1300 + 1.5 * 3300), ({"id_dly": 750}, "T", math.nan),
        ({"id_wid": 5}, "T", 0.0), ({"IDL": 11.25}, "T", math.nan), ({"IDL": 11.24}, "T", 6250.0),
        ({"IG1_1_T": 7.0}, "T", 1300.0), ({"chinj": 0}, "T", math.nan),
        ({"chinj_on": 0}, "T", math.nan),
    ],
)  # fmt: skip
def test_the_expected_level_is_the_rule_of_acquisition(
    changes: dict[str, Any], half: str, expected: float
) -> None:
    found = injection.expected_adu({**COMMANDED, **changes}, 1, half)
    assert found == pytest.approx(expected, nan_ok=True)


def judged(work: Work, folder: Path, found: dict[Any, Any]) -> dict[str, Any]:
    """Return the flags that measures of a check raise."""
    work.results = Results(folder, "CHINJ01", "check")
    task.judge(work, found)
    return {flag.name: flag for flag in work.results.flags if flag.name != "POORQUALDATA"}


def test_levels_outside_the_expected_raise_flags_and_the_other_half_does_not(
    gate_sweep: tuple[Work, dict[str, Any]], tmp_path: Path
) -> None:
    work, _ = gate_sweep
    frame = next(
        one for one in work.dataset.frames if one.commanded["IG1_1_T"] == 4.0
    )  # 6250 ADU +- 50 % by the rule, deviation up to 2812
    assert injection.injected_half(frame.commanded) == "T"

    def flags(level: float, std: float, other: float) -> set[str]:
        return set(judged(work, tmp_path, {(frame.obsid, frame.ccd): {
            name: {"level": level, "std": std} if DETECTOR.half_of(name) == "T"
            else {"level": other, "std": 1.0} for name in DETECTOR.names
        }}))  # fmt: skip

    assert flags(6250.0, 130.0, 0.0) == set()
    assert flags(3100.0, 130.0, 0.0) == {"FLUENCE_OOL"}
    assert flags(9400.0, 130.0, 0.0) == {"FLUENCE_OOL"}
    assert flags(6250.0, 3000.0, 0.0) == {"FLUENCEGRAD_OOL"}
    assert flags(6250.0, 1.0, 0.0) == set()  # even is good
    assert flags(6250.0, 130.0, -50.0) == {"FLUENCE_OOL"}


@pytest.mark.parametrize("test", ["CHINJ01", "CHINJ02", "TP01", "TP02"])
def test_a_healthy_block_raises_no_flag_and_one_that_injects_half_does(
    test: str, tmp_path: Path
) -> None:
    """Levels as they are simulated for a full CCD: without pixels, of all channels."""
    script = load_catalogue().plan(
        test, equipment=EQUIPMENT, profile=load_profile("B_NOSTROMO"), detector=DETECTOR
    )[0]
    limits = {"columns": {
        name: {"limits": {metric: list(limit) for metric, limit in one.limits.items()}}
        for name, one in script.expectations.items()
    }}  # fmt: skip
    columns = script.script.columns
    frames = tuple(
        CcdFrame(number, ccd, number, tmp_path / "none", 0, dict(column.values), {})
        for number, column in enumerate(columns) for ccd in DETECTOR.ccd_numbers
    )  # fmt: skip
    dataset = Dataset(test, test, "NOSTROMO", DETECTOR, "ccd273-8th",
                      load_profile("B_NOSTROMO"), script.script, frames)  # fmt: skip
    work = Work(dataset, tmp_path, Results(tmp_path, test, "check"), limits=limits)
    for seed, part, expected in (
        (1, 1.0, set()), (2, 1.0, set()), (3, 1.0, set()), (1, 0.4, {"FLUENCE_OOL"}),
    ):
        truth = Truth.default(DETECTOR, seed=seed)
        found = {(one.obsid, one.ccd): levels(truth, one, part) for one in frames}
        assert set(judged(work, tmp_path, found)) == expected


def levels(truth: Truth, frame: CcdFrame, part: float) -> dict[str, dict[str, float]]:
    """Return what the check would measure of each quadrant, were its level this part of it."""
    channels = prepare(truth.injection or {}, DETECTOR)
    found = {}
    for quadrant in DETECTOR.names:
        half, name = DETECTOR.half_of(quadrant), f"{frame.ccd}{quadrant}"
        level = 0.0
        if injection.injected_half(frame.commanded) == half:
            ig1 = injection.gate_v(frame.commanded, frame.ccd, half)
            level = part * channels[name].level_adu(ig1, float(frame.commanded["IDL"]))
            level *= DETECTOR.gain_e_adu / truth.electronics.gain_e_adu[name]
        found[quadrant] = {"level": level, "std": 0.02 * level + 1.5}
    return found


def test_a_half_with_voltages_of_its_own_is_judged_by_them(
    gate_sweep: tuple[Work, dict[str, Any]], tmp_path: Path
) -> None:
    work, _ = gate_sweep
    frame = next(one for one in work.dataset.frames
                 if one.commanded["IG1_1_B"] == 4.0
                 and injection.injected_half(one.commanded) == "B")  # fmt: skip
    own = dataclasses.replace(frame, commanded={**frame.commanded, "IG1_1_B": 5.0})
    others = tuple(one for one in work.dataset.frames if one.obsid != frame.obsid)
    moved = dataclasses.replace(
        work, dataset=dataclasses.replace(work.dataset, frames=(*others, own))
    )
    found = {(frame.obsid, frame.ccd): {
        name: {"level": 2950.0 if DETECTOR.half_of(name) == "B" else 0.0, "std": 60.0}
        for name in DETECTOR.names
    }}  # fmt: skip
    assert set(judged(work, tmp_path, found)) == {"FLUENCE_OOL"}  # 6250 ADU at 4 V
    assert not judged(moved, tmp_path, found)  # 2950 ADU at 5 V
    moved.limits = {**work.limits, "overrides": {"injection": [0, 100, "ADU"]}}
    assert set(judged(moved, tmp_path, found)) == {"FLUENCE_OOL"}


# --- rows ---


def test_rows_are_folded_wherever_the_cycle_starts() -> None:
    rng = np.random.default_rng(1)
    for start in (0, 17, 45, 77):
        rows = np.arange(330)
        on = (rows - start) % 80 < 30
        pixels = (on[:, None] * 1000.0 + rng.normal(0, 3, (330, 60))).astype(np.float32)
        pixels[(rows - start) % 80 == 30] += 20.0
        bad = np.zeros(pixels.shape, bool)
        bad[rng.integers(0, 330, 200), rng.integers(0, 60, 200)] = True
        pixels[bad] = 60000
        folded = injection.fold(pixels, bad, 30, 50)
        assert folded.start == start
        found = injection.measure(pixels, bad, folded, 30, 50)
        assert found["level"] == pytest.approx(1000, abs=0.3)
        assert found["background"] == pytest.approx(0, abs=0.3)
        assert found["spill"] == pytest.approx(0.02, abs=5 * found["spill_error"] + 1e-4)
        assert found["noise"] == pytest.approx(3, rel=0.05)
        assert found["column_non_uniformity"] < 0.005
    flat = injection.fold(rng.normal(0, 3, (330, 60)), None, 30, 50)
    assert flat.start == 0  # nothing is injected: noise is not taken for a cycle


def test_a_test_without_off_rows_has_no_spill_and_no_background() -> None:
    pixels = np.full((100, 40), 500.0, np.float32)
    folded = injection.fold(pixels, None, 2066, 0)
    found = injection.measure(pixels, None, folded, 2066, 0)
    assert found["level"] == 500.0
    assert math.isnan(found["background"])
    assert math.isnan(found["spill"])


def test_the_check_measures_every_quadrant_of_a_frame(
    gate_sweep: tuple[Work, dict[str, Any]],
) -> None:
    work, _ = gate_sweep
    frame = next(one for one in work.dataset.frames if one.commanded["IG1_1_T"] == 4.0)
    arguments = {**task.check_arguments(work, 1), "label": frame.label}
    found = task.check_frame(open_frame(str(frame.path), DETECTOR), arguments)
    truth = prepare(TRUTH.injection or {}, DETECTOR)
    for quadrant in ("E", "F"):
        ratio = DETECTOR.gain_e_adu / TRUTH.electronics.gain_e_adu[f"1{quadrant}"]
        level = truth[f"1{quadrant}"].level_adu(4.0, 11.0) * ratio
        assert found[quadrant]["level"] == pytest.approx(level, rel=0.01)
        assert found[quadrant]["std"] == pytest.approx(0.02 * level, rel=0.2)
    assert abs(found["G"]["level"]) < 2
    assert found["H"]["std"] < 3


# --- fits ---


def test_a_sweep_of_the_gate_gives_threshold_notch_and_slope(
    gate_sweep: tuple[Work, dict[str, Any]],
) -> None:
    work, found = gate_sweep
    assert not found["meta"]["flags"]
    truth = prepare(TRUTH.injection or {}, DETECTOR)
    for quadrant in DETECTOR.names:
        ratio = DETECTOR.gain_e_adu / TRUTH.electronics.gain_e_adu[f"1{quadrant}"]
        seen = truth[f"1{quadrant}"].as_seen(11.0, ratio)
        for name, tolerance in (("ig1_threshold", 0.03), ("ig1_notch", 0.05)):
            value, error = values_of(found["meta"], name)[1, quadrant]
            assert value == pytest.approx(seen[name], abs=tolerance)
            assert 0 < error < tolerance
        for name in ("slope", "n_adu"):
            value, error = values_of(found["meta"], name)[1, quadrant]
            assert value == pytest.approx(seen[name], rel=0.03)
            assert 0 < error < 0.03 * value
    table = (work.folder / "products" / "CHINJ01_METAFIT.ecsv").read_text()
    assert "unit: V" in table


def test_only_the_injected_half_of_each_frame_goes_in(
    gate_sweep: tuple[Work, dict[str, Any]],
) -> None:
    work, found = gate_sweep
    extracted = work.table("basic", "EXTRACTION_TABLE")
    assert len(extracted) == 36 * 2
    for quadrant in DETECTOR.names:
        mine = extracted[extracted["quadrant"] == quadrant]
        assert sorted(mine["ig1"]) == pytest.approx(list(np.arange(2.5, 6.76, 0.25)))
    spill = values_of(found["basic"], "spill")
    # Charge deferred by transfer adds a little to what spills.
    assert all(0.0045 < value < 0.0065 for value, _ in spill.values())
    image = work.folder / found["basic"]["images"][0]["path"]
    with fits.open(image) as units:
        pattern = units["G"].data
        assert pattern.shape == (130, DETECTOR.image_columns)
        assert np.median(pattern[:30]) == pytest.approx(1.0, abs=0.002)
        assert np.median(pattern[40:]) == pytest.approx(0.0, abs=0.002)


def test_a_sweep_of_the_drain_gives_its_threshold_and_a_dead_quadrant_is_told(
    tmp_path: Path,
) -> None:
    dead = {"injection.slope": {"1F": 0.0}, "injection.notch": {"1F": 0.0}}
    blind = Truth.default(DETECTOR, seed=4, effects={"crosstalk": False}, overrides=dead)
    work = take(tmp_path, "CHINJ02", blind)
    found = run_all(work, "prep", "basic", "meta")
    truth = prepare(blind.injection or {}, DETECTOR)
    flag = flags_of(found["meta"])["BADFIT"]
    assert (flag["where"]["quadrant"], flag["count"]) == ("F", 1)
    for quadrant in ("E", "G", "H"):
        one = truth[f"1{quadrant}"]
        value, error = values_of(found["meta"], "idl_threshold")[1, quadrant]
        assert value == pytest.approx(one.drain_v, abs=0.03)
        assert 0 < error < 0.03
        ratio = DETECTOR.gain_e_adu / TRUTH.electronics.gain_e_adu[f"1{quadrant}"]
        height = one.level_adu(4.0, 9.0) * ratio
        assert values_of(found["meta"], "a_adu")[1, quadrant][0] == pytest.approx(height, rel=0.03)
        assert values_of(found["meta"], "k")[1, quadrant][0] == pytest.approx(6.0, rel=0.03)


@pytest.mark.parametrize("times", counts(12, 200))
def test_errors_of_a_fit_are_those_of_its_scatter(times: int) -> None:
    rng = np.random.default_rng(8)
    volts = np.arange(2.5, 6.76, 0.25)
    model = injection.ig1_curve((0.0, 15.0, 3.0, 5.5, 0.05, 0.02), volts)
    pulls = []
    for _ in range(times):
        noise = 8.0
        fit = injection.fit_ig1(volts, model + rng.normal(0, noise, len(volts)),
                                np.full(len(volts), noise))  # fmt: skip
        assert not fit.problem
        pulls.append([
            (fit.values["ig1_notch"] - 5.5) / fit.errors["ig1_notch"],
            (fit.values["slope"] - 0.05 * 65536) / fit.errors["slope"],
        ])  # fmt: skip
    assert np.abs(np.median(pulls, axis=0)).max() < 0.5
    assert 0.6 < np.std(pulls) < 1.3


def test_few_points_hold_steepness_and_background() -> None:
    volts = np.array([2.5, 3.25, 4.0, 4.75, 5.5, 6.25])
    model = injection.ig1_curve((0.0, 15.0, 3.0, 5.3, 0.05, 0.02), volts)
    fit = injection.fit_ig1(volts, model, np.full(6, 3.0))
    assert "steepness" not in fit.values
    assert fit.values["ig1_notch"] == pytest.approx(5.3, abs=0.1)
    assert fit.degrees == 2
    assert injection.fit_ig1(volts[:3], model[:3], np.full(3, 3.0)).problem


@pytest.mark.parametrize("fit", [injection.fit_ig1, injection.fit_idl])
def test_a_quadrant_that_injects_nothing_is_told(fit: Any) -> None:
    rng = np.random.default_rng(2)
    volts = np.arange(2.5, 6.76, 0.25)
    found = fit(volts, rng.normal(0, 1, 18), np.ones(18))
    assert "nothing was injected" in found.problem
    # A threshold of nothing, with an error of 1e-10 V, would be taken for one.
    assert np.isnan([*found.values.values(), *found.errors.values()]).all()


def test_results_do_not_depend_on_the_order_of_points() -> None:
    volts = np.arange(9.5, 12.6, 0.25)
    model = injection.idl_curve((0.001, 0.09, 6.0, 11.3), volts)
    forward = injection.fit_idl(volts, model, np.full(13, 2.0))
    backward = injection.fit_idl(volts[::-1], model[::-1], np.full(13, 2.0))
    assert forward.values == backward.values
    assert forward.values["idl_threshold"] == pytest.approx(11.3, abs=1e-4)


def test_the_analyses_name_all_functions_that_run_in_workers() -> None:
    for handle in ("CHINJ01", "CHINJ02"):
        assert set(task.WORKERS) <= set(load_task(handle).workers)
        json.dumps(load_task(handle).options().model_dump())
